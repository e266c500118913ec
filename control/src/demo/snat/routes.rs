//! Connections live on while the node's routes change beneath them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::super::ask;
use super::super::checks::{Bench, tcp_figures};
use super::super::error::Result;
use super::super::pairs::Pair;
use super::super::peer::Failure;
use super::super::peer::tcp::{self, Amount};
use super::super::plan::{CLIENT, DB, End, Node};
use super::super::report::{Figures, Outcome, What};
use super::super::scenario::Family;
use super::super::topology::route_changes;
use crate::words::counted;

/// Between two changes.
const EVERY: Duration = Duration::from_millis(100);
/// How long each connection sends each way.
const EACH_WAY: Duration = Duration::from_millis(2500);

static PAIRS: [Pair; 2] = [
    Pair {
        name: "outside, new routes",
        from: End::Pod(CLIENT),
        to: End::Outside,
    },
    Pair {
        name: "nodes, new routes",
        from: End::Pod(CLIENT),
        to: End::Pod(DB),
    },
];

/// Transfers to outside and to another node's pod, of all families at once.
///
/// # Errors
/// When the user wants to stop.
pub(super) fn check(
    bench: &Bench<'_>,
    families: &[Family],
    ours: bool,
) -> Result<Vec<Vec<Outcome>>> {
    let done = AtomicBool::new(false);
    let (transfers, changed) = thread::scope(|scope| {
        let changing = scope.spawn(|| change(bench, families, ours, &done));
        let workers: Vec<_> = families
            .iter()
            .flat_map(|family| PAIRS.iter().map(|pair| (*family, pair)))
            .map(|(family, pair)| {
                let transfer = scope.spawn(move || {
                    let route = bench.route(pair, family);
                    tcp::run(&route, Amount::For(EACH_WAY), bench.cancel)
                });
                (family, pair, transfer)
            })
            .collect();
        let transfers: Vec<_> = workers
            .into_iter()
            .map(|(family, pair, worker)| (family, pair, joined(worker)))
            .collect();
        done.store(true, Ordering::Relaxed);
        (transfers, joined(changing))
    });
    bench.cancel.check()?;
    let outcome = |(family, pair, transfer): (Family, &Pair, Result<_, Failure>)| {
        let result = transfer.and_then(|transfer| {
            Ok(Figures {
                changes: Some(changed.clone()?),
                ..tcp_figures(transfer)
            })
        });
        vec![bench.pair_outcome(pair, family, What::Tcp, result)]
    };
    Ok(transfers.into_iter().map(outcome).collect())
}

fn joined<T>(worker: thread::ScopedJoinHandle<'_, T>) -> T {
    worker
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Adds, replaces and deletes routes of node 1 until it is done; says how often, once the daemon has seen it too.
fn change(
    bench: &Bench<'_>,
    families: &[Family],
    ours: bool,
    done: &AtomicBool,
) -> Result<u32, Failure> {
    let netns = bench.lab.netns(End::Host(Node::One));
    let generation = || {
        ours.then(|| ask::generation(bench.lab, Node::One))
            .transpose()
    };
    let before = generation()?;
    let rounds: Vec<Vec<String>> = route_changes(families, bench.scenario);
    let mut changes = 0;
    // Ends with a whole round, after which all is as before.
    while !done.load(Ordering::Relaxed) {
        for commands in &rounds {
            let changed = bench.lab.shell().ip(Some(&netns), commands);
            changed.map_err(|error| error.to_string())?;
            changes += 1;
            thread::sleep(EVERY);
        }
    }
    if let (Some(before), Some(after)) = (before, generation()?)
        && after - before < u64::from(changes) / 2
    {
        let published = after - before;
        return Err(format!(
            "{} of routes, and only {published} of the dataplane's tables",
            counted(changes.into(), "change")
        ));
    }
    Ok(changes)
}
