//! What the kernel can do, and what this process may do: tried wherever trying leaves nothing behind.

use fastpath::io::xsk::{probe, wait::WaitSet};
use nix::unistd::{AccessFlags, access};

use super::finding::Finding;
use super::machine::Machine;
use crate::config::DaemonConfig;
use crate::config::daemon::Offload;
use crate::node::start;
use crate::xdp::{
    BPFFS, Bpffs, EndpointProgram, NicConfig, NicProgram, Tcx, TcxConfig, bpffs,
    effective_capabilities,
};

/// What the daemon is given: by deploy/caracal.service, too. With their bits (linux/capability.h).
const CAPABILITIES: [(&str, u32); 5] = [
    ("CAP_NET_ADMIN", 12),
    ("CAP_NET_RAW", 13),
    ("CAP_BPF", 39),
    ("CAP_PERFMON", 38),
    ("CAP_IPC_LOCK", 14),
];
/// From here on the kernel keeps next hops resolved (`NTF_EXT_MANAGED`).
const MANAGED_NEIGHBOURS: (u32, u32) = (5, 16);
/// From here on io_uring can do what pollers sleep by.
const ONCE_A_SLEEP: (u32, u32) = (6, 15);

/// Looks at the kernel.
pub(super) fn look(machine: &Machine, config: &DaemonConfig) -> Vec<Finding> {
    let all = [
        Some(version(machine)),
        Some(capabilities(machine)),
        Some(af_xdp()),
        Some(programs(config)),
        flows(config),
        Some(jit(machine)),
        Some(sleeping(machine)),
        Some(pins()),
        Some(settings_are_writable()),
    ];
    all.into_iter().flatten().collect()
}

/// The kernel's release, and its first two numbers.
fn release(machine: &Machine) -> (String, Option<(u32, u32)>) {
    let release = machine.read("proc/sys/kernel/osrelease");
    let release = release.unwrap_or_default();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse().ok());
    let version = numbers.next().flatten().zip(numbers.next().flatten());
    (release, version)
}

fn version(machine: &Machine) -> Finding {
    let check = "kernel";
    let (release, version) = release(machine);
    let found = format!("Linux {release}");
    match version {
        None => Finding::warn(check, found, "5.11 or newer is needed"),
        Some(version) if version < (5, 11) => {
            Finding::missing(check, found, "run Linux 5.11 or newer: Debian 12 has 6.1")
        }
        Some(version) if version < MANAGED_NEIGHBOURS => Finding::warn(
            check,
            format!(
                "{found}: before 5.16 next hops are forgotten when idle, and their first packets wait"
            ),
            "run Linux 5.16 or newer: Debian 12 has 6.1",
        ),
        Some(_) => Finding::ok(check, found),
    }
}

fn capabilities(machine: &Machine) -> Finding {
    let check = "capabilities";
    let held = capability_bits(machine);
    let missing: Vec<_> = CAPABILITIES
        .iter()
        .filter(|(_, bit)| held & 1 << bit == 0)
        .map(|(name, _)| *name)
        .collect();
    // Without it the limit counts, which is looked at with memory.
    if missing.is_empty() || missing == ["CAP_IPC_LOCK"] {
        let names = CAPABILITIES.map(|(name, _)| name);
        let names: Vec<_> = names
            .into_iter()
            .filter(|it| !missing.contains(it))
            .collect();
        return Finding::ok(check, format!("this process has {}", names.join(", ")));
    }
    Finding::missing(
        check,
        format!("this process lacks {}", missing.join(", ")),
        "run this as root, or as the daemon will run: some of what follows can not be seen without",
    )
}

/// The capabilities of this process.
fn capability_bits(machine: &Machine) -> u64 {
    let status = machine.read("proc/thread-self/status");
    effective_capabilities(&status.unwrap_or_default())
}

/// Whether locked memory is counted against a limit of the process.
pub(super) fn may_lock_memory(machine: &Machine) -> bool {
    let (_, bit) = CAPABILITIES[4];
    capability_bits(machine) & 1 << bit != 0
}

fn af_xdp() -> Finding {
    match probe::probe() {
        Ok(_) => Finding::ok("af-xdp", "a socket was opened, and closed again"),
        Err(error) => Finding::refused("af-xdp", &error),
    }
}

/// Has the kernel load the daemon's own programs, which go again at once.
fn programs(config: &DaemonConfig) -> Finding {
    let endpoints = start::endpoint_config(config);
    let loaded = NicProgram::load(&NicConfig::default())
        .map(drop)
        .and_then(|()| EndpointProgram::load(&endpoints).map(drop));
    match loaded {
        Ok(()) => Finding::ok(
            "xdp-programs",
            "the kernel loaded both, and let them go again",
        ),
        Err(error) => Finding::refused("xdp-programs", &error),
    }
}

/// Has the kernel load the flows' programs, if they are wanted.
fn flows(config: &DaemonConfig) -> Option<Finding> {
    if config.offload == Offload::Off {
        return None;
    }
    Some(match Tcx::load(&TcxConfig::default()) {
        Ok(_) => Finding::ok(
            "tcx-programs",
            "the kernel loaded them, and let them go again",
        ),
        Err(error) => Finding::refused("tcx-programs", &error),
    })
}

fn jit(machine: &Machine) -> Finding {
    match machine.number("proc/sys/net/core/bpf_jit_enable") {
        Some(0) => Finding::warn(
            "bpf-jit",
            "XDP programs are interpreted, several times slower",
            "`sysctl -w net.core.bpf_jit_enable=1`, and a file in /etc/sysctl.d",
        ),
        Some(_) => Finding::ok("bpf-jit", "XDP programs are compiled"),
        // Root only, and always so where the kernel has no interpreter.
        None => Finding::ok("bpf-jit", "the kernel does not say"),
    }
}

/// Tries what pollers sleep by.
fn sleeping(machine: &Machine) -> Finding {
    let is_called_once = WaitSet::new().is_ok_and(|set| set.is_called_once());
    judge_sleep(machine, is_called_once)
}

fn judge_sleep(machine: &Machine, is_called_once: bool) -> Finding {
    let check = "io-uring";
    let cost = "pollers sleep by epoll, and each packet on a veth costs 40 to 50 ns more";
    let (_, version) = release(machine);
    if is_called_once {
        Finding::ok(check, "pollers sleep by it")
    } else if version.is_some_and(|version| version < ONCE_A_SLEEP) {
        Finding::ok(check, format!("before Linux 6.15 {cost}"))
    } else {
        Finding::warn(
            check,
            format!("switched off or forbidden: {cost}"),
            "`sysctl -w kernel.io_uring_disabled=0`, and no seccomp filter that forbids it",
        )
    }
}

fn pins() -> Finding {
    let check = "bpffs";
    match bpffs() {
        Bpffs::Mounted => Finding::ok(check, format!("at {BPFFS}")),
        Bpffs::Absent => Finding::ok(check, format!("not at {BPFFS}: the daemon mounts it there")),
        Bpffs::AbsentHere => Finding::warn(
            check,
            format!(
                "not at {BPFFS} in this mount namespace: what the daemon mounts here may end with it, and pods are OPEN, \
                 without policy, after a stop or a crash"
            ),
            format!(
                "mount it on the host (`mount -t bpf bpf {BPFFS}`), and start the daemon where that mount is seen"
            ),
        ),
    }
}

/// The daemon sets the host's port up by sysctls.
fn settings_are_writable() -> Finding {
    let check = "sysctls";
    let path = "/proc/sys/net/ipv4/conf/default/rp_filter";
    if access(path, AccessFlags::W_OK).is_ok() {
        return Finding::ok(check, "those of the host's port can be set");
    }
    Finding::missing(
        check,
        "/proc/sys/net can not be written to",
        "run as root; in a container, privileged or with /proc/sys writable",
    )
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::super::machine::played::Played;
    use super::*;

    #[test]
    fn old_kernels_are_told_apart() {
        for (release, state) in [
            ("6.18.44-x", State::Ok),
            ("5.16.0", State::Ok),
            ("5.15.0-91-generic", State::Warn),
            ("5.11.0", State::Warn),
            ("5.10.0-28-amd64", State::Missing),
            ("strange", State::Warn),
        ] {
            let machine = Played::new(release, &[("proc/sys/kernel/osrelease", release)]);
            assert_eq!(version(&machine.0).state, state, "{release}");
        }
    }

    #[test]
    fn a_capability_that_is_not_there_is_named() {
        let status = |bits: &str| format!("Name:\tx\nCapEff:\t{bits}\n");
        let at = "proc/thread-self/status";
        let machine = Played::new("all", &[(at, &status("000001ffffffffff"))]);
        assert_eq!(capabilities(&machine.0).state, State::Ok);
        // CAP_BPF is bit 39.
        let machine = Played::new("no-bpf", &[(at, &status("0000017fffffffff"))]);
        let finding = capabilities(&machine.0);
        assert_eq!(finding.state, State::Missing);
        assert_eq!(finding.found, "this process lacks CAP_BPF");
        // CAP_IPC_LOCK is bit 14.
        let machine = Played::new("no-lock", &[(at, &status("000001ffffffbfff"))]);
        let finding = capabilities(&machine.0);
        assert_eq!(finding.state, State::Ok, "{finding:?}");
        assert!(!finding.found.contains("CAP_IPC_LOCK"), "{finding:?}");
    }

    #[test]
    fn the_unit_gives_what_is_looked_for() {
        let unit = include_str!("../../../../deploy/caracal.service");
        let line = unit
            .lines()
            .find_map(|line| line.strip_prefix("CapabilityBoundingSet="))
            .expect("the unit's capabilities");
        let mut given: Vec<_> = line.split(' ').collect();
        let mut wanted = CAPABILITIES.map(|(name, _)| name);
        given.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(given, wanted);
    }

    #[test]
    fn what_can_be_switched_on_is_a_warning() {
        let state = |release: &str, is_called_once| {
            let files = [("proc/sys/kernel/osrelease", release)];
            let machine = Played::new(&format!("sleep-{release}-{is_called_once}"), &files);
            judge_sleep(&machine.0, is_called_once).state
        };
        assert_eq!(state("6.18.44", true), State::Ok);
        assert_eq!(state("6.18.44", false), State::Warn);
        assert_eq!(state("6.1.0-28-amd64", false), State::Ok);
    }

    #[test]
    fn an_interpreter_is_slow() {
        let machine = Played::new("jit", &[("proc/sys/net/core/bpf_jit_enable", "0\n")]);
        assert_eq!(jit(&machine.0).state, State::Warn);
    }
}
