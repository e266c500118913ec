//! A node whose dataplane is the kernel's: its routing, its VXLAN and IPIP devices. The independent judge of our
//! wire format, and the stand-in that proves the lab and the checks themselves.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::error::{DemoError, Result};
use super::ip::Shell;
use super::netns;
use super::plan::{LabId, Node, POOL_V4, POOL_V6};
use super::progress::tell;
use super::scenario::{Carriage, Family, Scenario};
use super::topology::{ETH, forwarding};

const VXLAN_V4: &str = "vxlan.calico";
const VXLAN_V6: &str = "vxlan-v6.calico";
const IPIP: &str = "ipip.calico";
/// Name of the table of nftables that masquerades.
const NAT: &str = "caracal-demo";

/// Gives `node` to the kernel, as Felix would set it up for the scenario.
///
/// # Errors
/// When a command fails; for IPIP also when the kernel has no such device.
pub fn install(
    shell: Shell,
    lab: &LabId,
    node: Node,
    scenario: Scenario,
    nat_outgoing: bool,
) -> Result<()> {
    let netns = lab.netns(node.name());
    shell.sysctl(&netns, &forwarding(true))?;
    if nat_outgoing {
        nft(shell, &netns, &masquerade())?;
    }
    for family in Family::ALL {
        match scenario.carriage(family) {
            Carriage::Plain => shell.ip(Some(&netns), &plain(node, family, scenario))?,
            Carriage::Ipip => shell.ip(Some(&netns), &ipip(node, scenario))?,
            Carriage::Vxlan => {
                shell.ip(Some(&netns), &vxlan(node, family, scenario))?;
                shell.bridge(&netns, &[vxlan_fdb(node, family, scenario)])?;
            }
        }
    }
    Ok(())
}

/// Takes `node` from the kernel again: no devices, no routes to the other node's pods, no forwarding.
///
/// # Errors
/// When a command fails.
pub fn remove(shell: Shell, lab: &LabId, node: Node, nat_outgoing: bool) -> Result<()> {
    let netns = lab.netns(node.name());
    shell.sysctl(&netns, &forwarding(false))?;
    if nat_outgoing {
        // Adding it first makes deleting it no error.
        nft(
            shell,
            &netns,
            &format!("add table inet {NAT}\ndelete table inet {NAT}\n"),
        )?;
    }
    let links = shell.ip_output(&netns, &["-o", "link", "show"])?;
    let mut commands = Vec::new();
    for device in [VXLAN_V4, VXLAN_V6, IPIP] {
        if links.contains(&format!(" {device}:")) || links.contains(&format!(" {device}@")) {
            commands.push(format!("link del {device}"));
        }
    }
    shell.ip(Some(&netns), &commands)?;
    for (family, option) in [(Family::Ipv4, "-4"), (Family::Ipv6, "-6")] {
        // A flush of nothing is no error.
        let block = node.other().block(family);
        shell.ip_output(&netns, &[option, "route", "flush", "root", &block])?;
    }
    Ok(())
}

/// natOutgoing, as Felix's rules have it.
fn masquerade() -> String {
    format!(
        "table inet {NAT} {{\n\
           chain out {{\n\
             type nat hook postrouting priority srcnat;\n\
             oifname {ETH} ip saddr {POOL_V4} ip daddr != {POOL_V4} masquerade fully-random\n\
             oifname {ETH} ip6 saddr {POOL_V6} ip6 daddr != {POOL_V6} masquerade fully-random\n\
           }}\n\
         }}\n"
    )
}

/// Whether the kernel can masquerade, tried in a namespace that is not used otherwise.
pub fn can_masquerade(shell: Shell, netns: &str) -> bool {
    nft(shell, netns, &masquerade()).is_ok()
}

/// Gives rules to `nft` in `netns`.
fn nft(shell: Shell, netns: &str, rules: &str) -> Result<()> {
    let command = format!("ip netns exec {netns} nft -f -");
    if shell.verbose {
        tell(&format!("  {command} <<END\n{rules}END"));
    }
    let run = || -> std::io::Result<std::process::Output> {
        let mut child = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that ended early says why on stderr.
            let _ = stdin.write_all(rules.as_bytes());
        }
        child.wait_with_output()
    };
    let output = match netns::within(netns, run)? {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    Err(DemoError::Command { command, output })
}

fn plain(node: Node, family: Family, scenario: Scenario) -> Vec<String> {
    let remote = node.other();
    if !scenario.same_subnet {
        return Vec::new(); // by the default route: the router knows the pods
    }
    let via = remote.address(family, true);
    vec![format!(
        "route replace {} via {via} dev {ETH}",
        remote.block(family)
    )]
}

fn vxlan(node: Node, family: Family, scenario: Scenario) -> Vec<String> {
    let remote = node.other();
    let (device, host_len) = match family {
        Family::Ipv4 => (VXLAN_V4, 32),
        Family::Ipv6 => (VXLAN_V6, 128),
    };
    let (mac, local) = (
        node.vtep_mac(family),
        node.address(family, scenario.same_subnet),
    );
    let (tunnel, far) = (node.tunnel_address(family), remote.tunnel_address(family));
    let (far_mac, mtu) = (remote.vtep_mac(family), scenario.pod_mtu());
    vec![
        format!(
            "link add {device} address {mac} type vxlan id 4096 dstport 4789 local {local} dev {ETH} nolearning"
        ),
        format!("link set {device} mtu {mtu} up"),
        format!("addr add {tunnel}/{host_len} dev {device}"),
        format!(
            "route replace {} via {far} dev {device} onlink",
            remote.block(family)
        ),
        format!("neigh replace {far} lladdr {far_mac} dev {device} nud permanent"),
    ]
}

fn vxlan_fdb(node: Node, family: Family, scenario: Scenario) -> String {
    let remote = node.other();
    let device = match family {
        Family::Ipv4 => VXLAN_V4,
        Family::Ipv6 => VXLAN_V6,
    };
    let (mac, dst) = (
        remote.vtep_mac(family),
        remote.address(family, scenario.same_subnet),
    );
    format!("fdb replace {mac} dev {device} dst {dst}")
}

fn ipip(node: Node, scenario: Scenario) -> Vec<String> {
    let remote = node.other();
    let local = node.address(Family::Ipv4, scenario.same_subnet);
    let far = remote.address(Family::Ipv4, scenario.same_subnet);
    let (tunnel, mtu) = (node.tunnel_address(Family::Ipv4), scenario.pod_mtu());
    vec![
        format!("link add {IPIP} type ipip local {local} dev {ETH}"),
        format!("link set {IPIP} mtu {mtu} up"),
        format!("addr add {tunnel}/32 dev {IPIP}"),
        format!(
            "route replace {} via {far} dev {IPIP} onlink",
            remote.block(Family::Ipv4)
        ),
    ]
}
