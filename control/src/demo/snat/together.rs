//! A pod and the node it is on talk to the same server, with the same address and from the same ports.

use std::thread;
use std::time::Duration;

use super::super::checks::{Bench, ping_figures};
use super::super::error::Result;
use super::super::pairs::Pair;
use super::super::peer::ping::{self, Patience};
use super::super::peer::tcp::{self, Amount, Client, Listener, Transfer};
use super::super::peer::{Failure, Route};
use super::super::plan::{CLIENT, End, Node};
use super::super::report::{Figures, Outcome, What};
use super::super::scenario::Family;

/// Connections of each of the two.
const EACH: u16 = 4;
/// The first source port that both ask for.
const PORT: u16 = 40_000;

static PAIR: Pair = Pair {
    name: "pod and host at once",
    from: End::Pod(CLIENT),
    to: End::Outside,
};
static HOST: Pair = Pair {
    name: "host beside the pod",
    from: End::Host(Node::One),
    to: End::Outside,
};

/// Several connections of each to one port of the server, and pings of both meanwhile.
///
/// # Errors
/// When the user wants to stop.
pub(super) fn check(bench: &Bench<'_>, family: Family) -> Result<Vec<Outcome>> {
    let (pod, host) = (bench.route(&PAIR, family), bench.route(&HOST, family));
    let address = HOST.from.address(family, bench.scenario);
    let (transfers, by_pod, by_host) = thread::scope(|scope| {
        let pinging = [&pod, &host].map(|route| scope.spawn(|| ping(bench, route)));
        let transfers = transfer(bench, &pod, &host);
        let [by_pod, by_host] = pinging.map(|worker| {
            let joined = worker.join();
            joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        (transfers, by_pod, by_host)
    });
    bench.cancel.check()?;
    let judged = transfers.and_then(|transfers| {
        let other = transfers.iter().find(|transfer| transfer.source != address);
        if let Some(other) = other {
            return Err(format!("the server saw {}, not {address}", other.source));
        }
        Ok(Figures {
            connections: Some(transfers.len() as u32),
            bytes: Some(transfers.iter().map(|transfer| transfer.up.bytes).sum()),
            source: Some(address),
            ..Figures::default()
        })
    });
    let both = by_pod.and(by_host);
    Ok(vec![
        bench.pair_outcome(&PAIR, family, What::Connections, judged),
        bench.pair_outcome(&PAIR, family, What::Ping, both),
    ])
}

fn transfer(bench: &Bench<'_>, pod: &Route, host: &Route) -> Result<Vec<Transfer>, Failure> {
    let listener = Listener::new(&pod.to, pod.address)?;
    let clients: Vec<Client> = [pod, host]
        .into_iter()
        .flat_map(|route| {
            (0..EACH).map(|index| Client {
                netns: route.from.clone(),
                port: PORT + index,
            })
        })
        .collect();
    let each = (bench.bytes / clients.len() as u64).max(1);
    tcp::run_all(&listener, &clients, Amount::Bytes(each), bench.cancel)
}

fn ping(bench: &Bench<'_>, route: &Route) -> Result<Figures, Failure> {
    let patience = Patience {
        each: Duration::from_millis(300),
        count: 30,
        // Eight transfers fill every ring on the way; some requests may be lost.
        tries: 5,
        ..Patience::NORMAL
    };
    ping::run(route, patience, bench.cancel)
        .map(ping_figures)
        .map_err(|why| format!("{}: {why}", route.from))
}
