//! One pod opens flows as fast as it can: what is established goes on, and others' new connections come about.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::super::ask;
use super::super::checks::{Bench, tcp_figures};
use super::super::error::Result;
use super::super::peer::tcp::{self, Amount, Connection, Listener, Transfer};
use super::super::peer::{Failure, Route, flood};
use super::super::plan::Node;
use super::super::report::{Figures, Outcome, What};
use super::super::scenario::Family;
use super::{OTHER, OUT};

/// Flows that the pod opens: more than its share of the tables.
const FLOWS: u16 = 20_000;
/// How long an established connection sends each way meanwhile.
const EACH_WAY: Duration = Duration::from_millis(1500);
/// For a connection beside a flood and a transfer of its own pod: what is lost there is sent again after 1 s and after 3 s (RFC 6298
/// section 2.1).
const PATIENCE: Duration = Duration::from_secs(8);

/// What one family showed.
struct Seen {
    flows: Result<u32, Failure>,
    own: Result<Transfer, Failure>,
    others: Result<Transfer, Failure>,
    opened: Result<u32, Failure>,
}

/// Floods of all families at once.
///
/// # Errors
/// When the user wants to stop.
pub(super) fn check(bench: &Bench<'_>, families: &[Family]) -> Result<Vec<Vec<Outcome>>> {
    let evicted = || ask::evicted(bench.lab, Node::One);
    let before = evicted();
    let seen: Vec<Seen> = thread::scope(|scope| {
        let workers: Vec<_> = families
            .iter()
            .map(|family| scope.spawn(|| one(bench, *family)))
            .collect();
        workers.into_iter().map(joined).collect()
    });
    bench.cancel.check()?;
    let quota = before.and_then(|before| match evicted()? - before {
        0 => Err("the pod never reached its share of the table of connections".to_owned()),
        evicted => Ok(evicted),
    });
    let mut outcomes = Vec::new();
    for (family, seen) in families.iter().zip(seen) {
        let flood = seen.flows.and_then(|flows| {
            Ok(Figures {
                flows: Some(flows),
                evicted: Some(u32::try_from(quota.clone()?).unwrap_or(u32::MAX)),
                ..Figures::default()
            })
        });
        let opened = seen.opened.map(|opened| Figures {
            connections: Some(opened),
            ..Figures::default()
        });
        let of = |pair, what, result| bench.pair_outcome(pair, *family, what, result);
        outcomes.push(vec![
            of(&OUT, What::Flood, flood),
            of(&OUT, What::Tcp, seen.own.map(tcp_figures)),
        ]);
        outcomes.push(vec![
            of(&OTHER, What::Tcp, seen.others.map(tcp_figures)),
            of(&OTHER, What::Connections, opened),
        ]);
    }
    Ok(outcomes)
}

fn joined<T>(worker: thread::ScopedJoinHandle<'_, T>) -> T {
    worker
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn one(bench: &Bench<'_>, family: Family) -> Seen {
    let (own, other) = (bench.route(&OUT, family), bench.route(&OTHER, family));
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let transfer = |route: &Route| tcp::run(route, Amount::For(EACH_WAY), bench.cancel);
        let transfers = [&own, &other].map(|route| scope.spawn(move || transfer(route)));
        let opening = scope.spawn(|| open_others(&other, &over));
        // Established first.
        thread::sleep(Duration::from_millis(300));
        let flows = flood::run(&own, FLOWS, bench.cancel);
        over.store(true, Ordering::Relaxed);
        let [own, others] = transfers.map(joined);
        Seen {
            flows,
            own,
            others,
            opened: joined(opening),
        }
    })
}

/// Opens connections of another pod, one after the other, while the flood goes on: each must come about.
fn open_others(route: &Route, over: &AtomicBool) -> Result<u32, Failure> {
    let listener = Listener::new(&route.to, route.address)?;
    let mut opened = 0;
    while !over.load(Ordering::Relaxed) {
        Connection::open(&route.from, &listener, PATIENCE)
            .and_then(|connection| connection.exchange())
            .map_err(|why| format!("a new connection after {opened}: {why}"))?;
        opened += 1;
        thread::sleep(Duration::from_millis(20));
    }
    Ok(opened)
}
