//! Whether what the configuration asks for fits what is free.

use super::finding::Finding;
use super::machine::Machine;
use crate::config::{DaemonConfig, Diagnostics};
use crate::node::{Budget, RunError, connections};

/// Looks at memory. `budget` is the plan for packets; `may_lock`: locked memory is not counted.
pub(super) fn look(
    machine: &Machine,
    config: &DaemonConfig,
    budget: &Budget,
    may_lock: bool,
) -> Vec<Finding> {
    let mut findings = vec![free(machine, config, budget)];
    findings.extend(group(machine, config, budget));
    findings.push(locked(machine, budget, may_lock));
    let huge = machine.number("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    let huge = huge.unwrap_or_default();
    findings.push(Finding::ok(
        "hugepages",
        format!("{huge} free, and none needed"),
    ));
    findings
}

/// Bytes at start, the kernel's maps of flows among them, and of the kernel's when all pods are there.
fn wanted(config: &DaemonConfig, budget: &Budget) -> (u64, u64) {
    let (v4, v6) = connections::bytes(&config.connections);
    let at_start = budget.bytes() + v4 + v6 + budget.flow_bytes();
    (at_start, budget.kernel_bytes())
}

const FEWER: &str = "lower `maxPods`, `frames.podRing` or `connections.entries` in caracal.yaml";
const FEWER_OFFLOADED: &str = "lower `maxPods`, `frames.podRing` or `connections.entries` in caracal.yaml, or set `offload: off`";

/// What makes it less.
const fn fewer(budget: &Budget) -> &'static str {
    if budget.offloaded {
        FEWER_OFFLOADED
    } else {
        FEWER
    }
}

fn free(machine: &Machine, config: &DaemonConfig, budget: &Budget) -> Finding {
    let check = "memory";
    let (at_start, with_pods) = wanted(config, budget);
    let said = format!(
        "{} MiB at start ({} for packets, {}the rest for connections), and {} MiB of the kernel's with {} pods",
        at_start >> 20,
        budget.bytes() >> 20,
        match budget.flow_bytes() {
            0 => String::new(),
            bytes => format!("{} for the kernel's flows, ", bytes >> 20),
        },
        with_pods >> 20,
        budget.max_pods,
    );
    let meminfo = machine.read("proc/meminfo").unwrap_or_default();
    let Some(available) = connections::kilobytes(&meminfo, "MemAvailable:") else {
        return Finding::ok(check, said);
    };
    let found = format!("{said}; {} MiB are available", available >> 20);
    if at_start + with_pods > available {
        return Finding::warn(check, found, fewer(budget));
    }
    Finding::ok(check, found)
}

/// Refuses tables of connections that are larger than the machine, as the daemon does.
pub(super) fn connections_fit(
    path: &std::path::Path,
    config: &DaemonConfig,
) -> Result<(), Diagnostics> {
    match connections::check_memory(path, &config.connections) {
        Err(RunError::Config(diagnostics)) => Err(diagnostics),
        _ => Ok(()),
    }
}

/// The limit of this process's control group, if it is too low for the daemon. It may run in another.
fn group(machine: &Machine, config: &DaemonConfig, budget: &Budget) -> Option<Finding> {
    let own = machine.read("proc/self/cgroup")?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let own = own.trim_matches('/');
    let at = |group: &str| machine.number(&format!("sys/fs/cgroup/{group}/memory.max"));
    let above = own.match_indices('/').map(|(at, _)| &own[..at]);
    let limit = above.chain([own]).filter_map(at).min()?;
    let (at_start, with_pods) = wanted(config, budget);
    if limit >= at_start + with_pods {
        return None;
    }
    let found = format!(
        "{} MiB are allowed where this process runs (memory.max), and {} may be needed",
        limit >> 20,
        (at_start + with_pods) >> 20
    );
    let todo = format!(
        "if the daemon is to run here: raise the limit, or {}",
        fewer(budget)
    );
    Some(Finding::warn("memory-limit", found, todo))
}

fn locked(machine: &Machine, budget: &Budget, may_lock: bool) -> Finding {
    let check = "locked-memory";
    if may_lock {
        return Finding::ok(check, "not counted, with CAP_IPC_LOCK");
    }
    let limits = machine.read("proc/self/limits").unwrap_or_default();
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"));
    let limit = line.and_then(|line| line.split_whitespace().next());
    let Some(limit) = limit.and_then(|limit| limit.parse::<u64>().ok()) else {
        return Finding::ok(check, "unlimited");
    };
    let found = format!(
        "{} KiB without CAP_IPC_LOCK, and {} are needed",
        limit >> 10,
        budget.bytes() >> 10
    );
    if limit >= budget.bytes() {
        return Finding::ok(check, found);
    }
    Finding::missing(
        check,
        found,
        "give CAP_IPC_LOCK, or raise RLIMIT_MEMLOCK (LimitMEMLOCK=infinity), as deploy/caracal.service does",
    )
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::super::machine::played::Played;
    use super::*;

    fn finding(files: &[(&str, &str)], may_lock: bool, check: &str) -> Option<Finding> {
        let name = format!("memory-{check}-{}-{may_lock}", files.len());
        let machine = Played::new(&name, files);
        let config = DaemonConfig::default();
        let budget = Budget::of(&config, 1, 1500);
        let all = look(&machine.0, &config, &budget, may_lock);
        all.into_iter().find(|finding| finding.check == check)
    }

    #[test]
    fn what_does_not_fit_what_is_free_is_a_warning() {
        for (available, state) in [
            ("8000000", State::Ok),
            ("700000", State::Warn),
            ("100000", State::Warn),
        ] {
            let meminfo = format!("MemTotal: 9000000 kB\nMemAvailable:  {available} kB\n");
            let found = finding(&[("proc/meminfo", &meminfo)], true, "memory").unwrap();
            assert_eq!(found.state, state, "{found:?}");
        }
    }

    #[test]
    fn a_group_above_may_have_the_limit() {
        let files = [
            ("proc/self/cgroup", "0::/system.slice/x.service\n"),
            ("sys/fs/cgroup/system.slice/memory.max", "104857600\n"),
            ("sys/fs/cgroup/system.slice/x.service/memory.max", "max\n"),
        ];
        let found = finding(&files, true, "memory-limit").unwrap();
        assert!(found.found.starts_with("100 MiB are allowed"), "{found:?}");
        assert_eq!(finding(&files[..1], true, "memory-limit"), None);
    }

    #[test]
    fn locked_memory_counts_without_the_capability() {
        let limits =
            "Limit   Soft Limit  Hard Limit  Units\nMax locked memory  65536  65536  bytes\n";
        let files = [("proc/self/limits", limits)];
        let state = |may_lock| finding(&files, may_lock, "locked-memory").unwrap().state;
        assert_eq!(state(false), State::Missing);
        assert_eq!(state(true), State::Ok);
        let limits = limits.replace("65536", "unlimited");
        let files = [("proc/self/limits", limits.as_str())];
        let found = finding(&files, false, "locked-memory").unwrap();
        assert_eq!(found.state, State::Ok);
    }
}
