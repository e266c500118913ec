//! The cores that pollers are to run on.

use std::thread;

use super::finding::Finding;
use super::machine::{Machine, numbers};
use crate::config::DaemonConfig;
use crate::node::{RunError, pollers};

/// Looks at cores.
pub(super) fn look(machine: &Machine, config: &DaemonConfig) -> Vec<Finding> {
    let cores: Vec<u16> = config.cores.iter().map(|core| core.value).collect();
    let refused: Vec<_> = cores.iter().filter_map(|&core| pinned(core)).collect();
    if refused.is_empty() {
        judge(machine, &cores)
    } else {
        refused
    }
}

/// Has a thread run there, as the daemon will. `None`: it does.
fn pinned(core: u16) -> Option<Finding> {
    let outcome = thread::spawn(move || pollers::pin(core)).join();
    let error: RunError = outcome.ok()?.err()?;
    Some(Finding::refused("cores", &error))
}

fn judge(machine: &Machine, cores: &[u16]) -> Vec<Finding> {
    let check = "cores";
    let balancer = machine.process(&["irqbalance"]);
    if cores.is_empty() {
        let mut findings = vec![Finding::ok(
            check,
            "one poller, on any (`pollers.cores` in caracal.yaml)",
        )];
        findings.extend(
            balancer.map(|_| Finding::ok("irqbalance", "runs; no core is a poller's alone")),
        );
        return findings;
    }
    let list = |cores: &[u16]| {
        let words: Vec<_> = cores.iter().map(u16::to_string).collect();
        words.join(",")
    };
    let isolated = machine.read("sys/devices/system/cpu/isolated");
    let isolated = numbers(&isolated.unwrap_or_default());
    let shared: Vec<_> = cores
        .iter()
        .copied()
        .filter(|core| !isolated.contains(core))
        .collect();
    let all = list(cores);
    let mut findings = Vec::new();
    if shared.is_empty() {
        findings.push(Finding::ok(check, format!("{all}, and isolated")));
    } else {
        let (what, shared) = if shared.len() == cores.len() {
            (format!("{all}, not isolated"), &all)
        } else {
            (
                format!("{all}, of which not isolated: {}", list(&shared)),
                &all,
            )
        };
        findings.push(Finding::warn(
            check,
            format!("{what}: the kernel runs other things there, too, and packets wait meanwhile"),
            format!(
                "boot with `isolcpus={shared} nohz_full={shared}`, or go without `pollers.cores`"
            ),
        ));
    }
    if let Some((_, process)) = balancer {
        // It leaves isolated cores alone.
        findings.push(if shared.is_empty() {
            Finding::ok("irqbalance", format!("runs (pid {process}), and leaves isolated cores alone"))
        } else {
            Finding::warn(
                "irqbalance",
                format!("runs (pid {process}), and moves interrupts to the pollers' cores"),
                format!("isolate them, or set IRQBALANCE_BANNED_CPULIST={all} in /etc/default/irqbalance"),
            )
        });
    } else if machine.is_container() && !shared.is_empty() {
        findings.push(Finding::unseen(
            "irqbalance",
            "it moves interrupts to the pollers' cores",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::super::machine::played::Played;
    use super::*;

    fn states(isolated: &str, balancer: bool, cores: &[u16]) -> Vec<(&'static str, State)> {
        let name = if balancer { "irqbalance\n" } else { "x\n" };
        let files = [
            ("sys/devices/system/cpu/isolated", isolated),
            ("proc/77/comm", name),
        ];
        let machine = Played::new(
            &format!("cores-{isolated}-{balancer}-{}", cores.len()),
            &files,
        );
        let all = judge(&machine.0, cores);
        all.iter().map(|it| (it.check, it.state)).collect()
    }

    #[test]
    fn pollers_want_cores_of_their_own() {
        assert_eq!(states("2-3\n", false, &[2, 3]), [("cores", State::Ok)]);
        assert_eq!(states("\n", false, &[2, 3]), [("cores", State::Warn)]);
        assert_eq!(states("2\n", false, &[2, 3]), [("cores", State::Warn)]);
        assert_eq!(states("\n", false, &[]), [("cores", State::Ok)]);
    }

    #[test]
    fn interrupts_are_kept_off_isolated_cores_only() {
        let ok = [("cores", State::Ok), ("irqbalance", State::Ok)];
        assert_eq!(states("2-3\n", true, &[2, 3]), ok);
        assert_eq!(states("\n", true, &[]), ok);
        let warn = [("cores", State::Warn), ("irqbalance", State::Warn)];
        assert_eq!(states("\n", true, &[2, 3]), warn);
    }

    #[test]
    fn from_a_container_the_balancer_is_not_seen() {
        let isolated = [("sys/devices/system/cpu/isolated", "2")];
        let machine = Played::container("cores-container", &isolated);
        let said = |cores: &[u16]| judge(&machine.0, cores).pop().unwrap();
        assert_eq!(
            (said(&[3]).check, said(&[3]).state),
            ("irqbalance", State::Warn)
        );
        assert!(said(&[3]).found.starts_with("not seen from a container"));
        assert_eq!(said(&[2]).check, "cores", "it leaves isolated cores alone");
        assert_eq!(said(&[]).check, "cores");
    }

    #[test]
    fn a_core_that_is_not_there_is_refused_as_by_the_daemon() {
        let finding = pinned(1000).expect("no machine has so many");
        assert_eq!(finding.state, State::Missing);
        assert!(finding.found.contains("core 1000"), "{finding:?}");
        assert!(finding.todo.unwrap().contains("pollers.cores"));
    }
}
