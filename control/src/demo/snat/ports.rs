//! A natPortRange of few ports, set while the daemons run: more connections than ports.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::thread;
use std::time::{Duration, Instant};

use super::super::ask;
use super::super::checks::Bench;
use super::super::error::Result;
use super::super::peer::tcp::{Connection, Listener};
use super::super::peer::{Failure, Route};
use super::super::plan::Node;
use super::super::report::{Figures, Outcome, What};
use super::super::resources::{self, Options};
use super::super::scenario::Family;
use super::{OPTIONS, OUT};
use crate::words::counted;

/// The narrow range: 16 ports, none of which anybody has by default.
const FEW: RangeInclusive<u16> = 20_000..=20_015;
/// Connections that are tried beyond the last port.
const SURPLUS: usize = 4;
/// How long a connection may take to come about.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long one is tried that can not come about: a SYN, and no second one.
const SHORT: Duration = Duration::from_millis(700);
/// How long a changed configuration may take to be in force.
const RELOAD: Duration = Duration::from_secs(5);

/// The connections of one family.
struct Attempt {
    route: Route,
    listener: Listener,
    /// From before the range was narrow.
    before: Connection,
    within: Vec<Connection>,
    refused: usize,
    /// Connections that the daemon says it refused for want of a port.
    counted: u64,
}

/// The ports run out, and the range is widened again.
///
/// # Errors
/// When the lab itself fails, or the user wants to stop.
pub(super) fn check(bench: &Bench<'_>, families: &[Family]) -> Result<Vec<Vec<Outcome>>> {
    let routes = families.iter().map(|family| bench.route(&OUT, *family));
    let early: Vec<_> = routes.map(first).collect();
    set_range(bench, Some((*FEW.start(), *FEW.end())))?;
    let attempts: Vec<_> = early
        .into_iter()
        .map(|early| {
            early.and_then(|(route, listener, before)| fill(bench, route, listener, before))
        })
        .collect();
    set_range(bench, None)?;
    bench.cancel.check()?;
    let outcomes = families.iter().zip(attempts).map(|(family, attempt)| {
        let result = attempt.and_then(|attempt| go_on(bench, &attempt));
        vec![bench.pair_outcome(&OUT, *family, What::Exhausted, result)]
    });
    Ok(outcomes.collect())
}

fn set_range(bench: &Bench<'_>, nat_ports: Option<(u16, u16)>) -> Result<()> {
    let options = Options {
        nat_ports,
        ..OPTIONS
    };
    resources::write(bench.lab, Node::One, bench.scenario, &options).map(drop)
}

fn first(route: Route) -> Result<(Route, Listener, Connection), Failure> {
    let listener = Listener::new(&route.to, route.address)?;
    let before = Connection::open(&route.from, &listener, PATIENCE)?;
    before.exchange()?;
    Ok((route, listener, before))
}

/// Opens connections until there are as many as ports, and then some that must fail.
fn fill(
    bench: &Bench<'_>,
    route: Route,
    listener: Listener,
    before: Connection,
) -> Result<Attempt, Failure> {
    // Of another port of the server, so that the ports to the first one stay free.
    await_range(bench, &route, |port| FEW.contains(&port))?;
    let mut within = Vec::new();
    for number in 1..=FEW.len() {
        let connection = Connection::open(&route.from, &listener, PATIENCE)
            .map_err(|why| format!("connection {number} of {}: {why}", FEW.len()))?;
        within.push(connection);
    }
    let ports: BTreeSet<u16> = within.iter().map(|one| one.source.port()).collect();
    if ports.len() != FEW.len() || !ports.iter().all(|port| FEW.contains(port)) {
        return Err(format!("not the ports of the range, each once: {ports:?}"));
    }
    let counted = ask::drops(bench.lab, Node::One, "nat-ports-exhausted")?;
    let refused = thread::scope(|scope| {
        let workers: Vec<_> = (0..SURPLUS)
            .map(|_| scope.spawn(|| Connection::open(&route.from, &listener, SHORT).is_err()))
            .collect();
        let joined = workers.into_iter().map(thread::ScopedJoinHandle::join);
        joined.filter(|refused| matches!(refused, Ok(true))).count()
    });
    let counted = ask::drops(bench.lab, Node::One, "nat-ports-exhausted")? - counted;
    let attempt = Attempt {
        route,
        listener,
        before,
        within,
        refused,
        counted,
    };
    attempt.exchange("with no port left")?;
    Ok(attempt)
}

impl Attempt {
    fn exchange(&self, when: &str) -> Result<(), Failure> {
        self.before
            .exchange()
            .map_err(|why| format!("the connection from before the change, {when}: {why}"))?;
        for (index, connection) in self.within.iter().enumerate() {
            let number = index + 1;
            connection
                .exchange()
                .map_err(|why| format!("connection {number}, {when}: {why}"))?;
        }
        Ok(())
    }
}

/// After the range is as it was.
fn go_on(bench: &Bench<'_>, attempt: &Attempt) -> Result<Figures, Failure> {
    if attempt.refused != SURPLUS {
        let passed = counted((SURPLUS - attempt.refused) as u64, "connection");
        return Err(format!("{passed} too many came about"));
    }
    if attempt.counted < SURPLUS as u64 {
        return Err(format!(
            "{SURPLUS} connections were refused, and nat-ports-exhausted counted {}",
            attempt.counted
        ));
    }
    await_range(bench, &attempt.route, |port| !FEW.contains(&port))?;
    for _ in 0..SURPLUS {
        let (from, listener) = (&attempt.route.from, &attempt.listener);
        Connection::open(from, listener, PATIENCE)?.exchange()?;
    }
    attempt.exchange("after the range was widened")?;
    Ok(Figures {
        connections: Some(attempt.within.len() as u32),
        refused: Some(attempt.refused as u32),
        ..Figures::default()
    })
}

/// Waits until new connections leave by ports such as these.
fn await_range(bench: &Bench<'_>, route: &Route, has: impl Fn(u16) -> bool) -> Result<(), Failure> {
    let started = Instant::now();
    loop {
        super::super::peer::check(bench.cancel)?;
        let listener = Listener::new(&route.to, route.address)?;
        let port = Connection::open(&route.from, &listener, PATIENCE)?
            .source
            .port();
        if has(port) {
            return Ok(());
        }
        if started.elapsed() > RELOAD {
            let limit = RELOAD.as_secs();
            return Err(format!(
                "natPortRange is not in force after {limit} s: port {port}"
            ));
        }
        thread::sleep(Duration::from_millis(50));
    }
}
