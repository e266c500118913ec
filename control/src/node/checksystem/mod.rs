//! What a node is like before the daemon starts there: `caracal node checksystem`.
//!
//! Nothing is changed. What the daemon itself would refuse at its start is asked of the code that would refuse it, where that code
//! only looks; sockets and programs are tried, since that leaves nothing behind; nothing is tried on an interface.

mod cores;
mod files;
mod finding;
mod kernel;
mod machine;
mod managers;
mod memory;
mod others;
mod pods;
mod uplinks;

pub use finding::{Finding, State};

use std::path::Path;

use super::{Budget, leftovers, start};
use crate::config::daemon::{Uplink, UplinkMode};
use crate::config::{DaemonConfig, Located, Source, Span};
use crate::netlink::Mirror;
use crate::netlink::nftables::Nftables;
use machine::Machine;

/// Where uplinks are from that the command line names.
const INTERFACE: &str = "--interface";

/// What is to be looked at.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The daemon's own file.
    pub config: &'a Path,
    /// Somebody named it: that there is none is an error.
    pub by_name: bool,
    /// Uplinks in place of those of the file; none: those of the file.
    pub interfaces: &'a [String],
}

/// Looks at the machine and the network namespace of the calling thread. The lines are in the order in which they are shown.
pub fn checksystem(asked: &Asked<'_>) -> Vec<Finding> {
    let machine = Machine::real();
    let files::Read {
        mut config,
        is_known,
        finding,
    } = files::config(asked.config, asked.by_name);
    if !asked.interfaces.is_empty() {
        let known = std::mem::take(&mut config.uplinks);
        let interfaces = asked.interfaces.iter();
        config.uplinks = interfaces.map(|name| named(name, &known)).collect();
    }
    let mut findings = kernel::look(&machine, &config);
    findings.push(finding);
    findings.extend(daemon(&machine, asked, &config, is_known));
    findings
}

/// What depends on what the daemon is to do: by its file, if that is known, or else by the defaults, without resources.
fn daemon(
    machine: &Machine,
    asked: &Asked<'_>,
    config: &DaemonConfig,
    is_known: bool,
) -> Vec<Finding> {
    let runs = leftovers::is_held();
    let mut findings = Vec::new();
    let mut desired = None;
    if is_known {
        findings.push(files::modes(asked.config, config));
        match config.node_name_or_host() {
            Ok(node) => {
                let (known, finding) = files::resources(config, &node);
                desired = known;
                findings.push(finding);
            }
            Err(error) => {
                let error = format!("the host's name: {error}");
                findings.push(Finding::refused("resources", &error));
            }
        }
    }
    findings.extend(files::places(config, runs));
    findings.extend(files::addresses(config, runs));
    let mirror = match Mirror::new() {
        Ok(mirror) => mirror,
        Err(error) => {
            findings.push(Finding::refused("netlink", &error));
            return findings;
        }
    };
    let named_in = if asked.interfaces.is_empty() {
        asked.config
    } else {
        Path::new(INTERFACE)
    };
    let seen = uplinks::look(named_in, config, &mirror);
    findings.extend(seen.findings);
    findings.extend(cores::look(machine, config));
    // What a daemon that runs has taken is not free for it.
    if !runs {
        let mtu = if seen.mtu == 0 {
            start::DEFAULT_MTU
        } else {
            seen.mtu
        };
        let budget = Budget::of(config, seen.queues, mtu);
        let may_lock = kernel::may_lock_memory(machine);
        findings.extend(memory::look(machine, config, &budget, may_lock));
    }
    findings.extend(pods::look(machine, config, desired.as_ref(), &mirror));
    findings.extend(managers::look(machine));
    let others = others::Seen {
        machine,
        config,
        desired: desired.as_ref(),
        mirror: &mirror,
        chains: Nftables::open().and_then(|nftables| nftables.chains()),
    };
    findings.extend(others.look());
    findings
}

/// An uplink that the command line names: as the file has it, if it does.
fn named(name: &str, known: &[Uplink]) -> Uplink {
    if let Some(uplink) = known.iter().find(|it| it.interface.value == name) {
        return uplink.clone();
    }
    let at = Span {
        source: Source::new(INTERFACE, name),
        start: 0,
        len: name.len(),
    };
    Uplink {
        interface: Located {
            value: name.to_owned(),
            at,
        },
        queues: None,
        mode: UplinkMode::Auto,
    }
}
