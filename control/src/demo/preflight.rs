//! What the demonstration needs of the machine, looked at before anything is built.

use std::fs;
use std::process::Command;

use super::error::{DemoError, Result};
use super::ip::Shell;
use super::kernel_node;
use super::plan::LabId;

/// What this machine can do beyond the necessary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The kernel has an IPIP device.
    pub kernel_ipip: bool,
    /// The kernel masquerades, and `nft` is there to tell it so.
    pub kernel_nat: bool,
}

/// Looks for the tools and the kernel's parts, without changing anything.
///
/// # Errors
/// The first that is missing, and how to get it.
pub fn tools(needs_xdp: bool) -> Result<()> {
    for program in ["ip", "bridge"] {
        if Command::new(program).arg("-V").output().is_err() {
            return Err(DemoError::Refused(format!(
                "`{program}` is not installed or not in PATH: install iproute2 (Debian: apt install iproute2)"
            )));
        }
    }
    if !fs::exists("/proc/sys/net/ipv6").unwrap_or(false) {
        return Err(DemoError::Refused(
            "this kernel runs without IPv6, which the lab's links and addresses need: boot it without ipv6.disable=1"
                .to_owned(),
        ));
    }
    let protocols = fs::read_to_string("/proc/net/protocols").unwrap_or_default();
    if needs_xdp && !protocols.lines().any(|line| line.starts_with("XDP ")) {
        return Err(DemoError::Refused(
            "this kernel has no AF_XDP sockets (CONFIG_XDP_SOCKETS): use a distribution's kernel of 5.11 or newer \
             (Debian 12: apt install linux-image-amd64)"
                .to_owned(),
        ));
    }
    Ok(())
}

/// Tries the kinds of devices in a namespace of its own.
///
/// # Errors
/// The device that the kernel lacks, and how to get it.
pub fn devices(shell: Shell, lab: &LabId) -> Result<Machine> {
    let netns = lab.netns("preflight");
    shell.ip(None, &[format!("netns add {netns}")])?;
    let add = |line: &str| shell.ip(Some(&netns), &[line.to_owned()]);
    let needed = [
        ("veth", "link add try-veth type veth peer name try-peer"),
        ("bridge", "link add try-bridge type bridge"),
        ("vxlan", "link add try-vxlan type vxlan id 1 dstport 4789"),
    ];
    let missing = needed
        .iter()
        .find_map(|(kind, line)| add(line).err().map(|error| (*kind, error)));
    let kernel_ipip = add("link add try-ipip type ipip local 192.0.2.1").is_ok();
    let kernel_nat = kernel_node::can_masquerade(shell, &netns);
    shell.ip(None, &[format!("netns delete {netns}")])?;
    if let Some((kind, error)) = missing {
        return Err(DemoError::Refused(format!(
            "this kernel cannot make a {kind} device ({error}): try `modprobe {kind}`, or use a distribution's \
             kernel (Debian 12: apt install linux-image-amd64)"
        )));
    }
    Ok(Machine {
        kernel_ipip,
        kernel_nat,
    })
}
