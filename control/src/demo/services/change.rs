//! Endpoints that go while they are used, and policies of those that stay.

use std::time::{Duration, Instant};

use super::super::checks::{Bench, took};
use super::super::error::Result;
use super::super::peer::Failure;
use super::super::peer::tcp::{Connection, Listener};
use super::super::plan::{End, Node, WEB};
use super::super::policy::{self, Policy};
use super::super::report::{Figures, Outcome, What};
use super::super::scenario::Family;
use super::files::{self, BOTH, HTTP};
use super::{Case, FROM};

/// What stays behind the service when the other endpoint goes.
static STAYS: End = End::Pod(WEB);
/// How long a connection may take to come about.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long one is tried that can not come about: a SYN, and no second one.
const SHORT: Duration = Duration::from_millis(700);
/// New connections, of which the endpoint that is gone must have none.
const NEW: u32 = 16;

fn open(bench: &Bench<'_>, listener: &Listener, limit: Duration) -> Result<Connection, Failure> {
    Connection::open(&bench.lab.netns(FROM), listener, limit)
}

fn connections(count: u32) -> Figures {
    Figures {
        connections: Some(count),
        ..Figures::default()
    }
}

/// One of two endpoints goes, live: new connections go to the other, and those to the one that went go on.
///
/// # Errors
/// When a daemon does not take the change, or the user wants to stop.
pub(super) fn endpoints(bench: &Bench<'_>, families: &[Family]) -> Result<Vec<Vec<Outcome>>> {
    let held: Vec<_> = families.iter().map(|it| hold(bench, *it)).collect();
    files::apply(bench, &[STAYS])?;
    let outcomes = families.iter().zip(held).map(|(family, held)| {
        let case = Case {
            name: "endpoint removed",
            service: &BOTH,
            family: *family,
        };
        let (new, kept) = match held {
            Ok((listener, held)) => (all_stay(bench, *family, &listener), exchange(&held)),
            Err(why) => (Err(why.clone()), Err(why)),
        };
        vec![
            case.outcome(bench, What::Connections, new),
            case.outcome(bench, What::Kept, kept),
        ]
    });
    let outcomes = outcomes.collect();
    bench.cancel.check()?;
    Ok(outcomes)
}

/// Opens connections until both endpoints have one.
fn hold(bench: &Bench<'_>, family: Family) -> Result<(Listener, Vec<Connection>), Failure> {
    let servers = BOTH.servers(bench, family, HTTP);
    let listener = Listener::behind(&servers)?;
    let mut held = Vec::new();
    servers.until_all(|| {
        let new = open(bench, &listener, PATIENCE)?;
        let endpoint = new.endpoint.ip();
        held.push(new);
        Ok(vec![endpoint])
    })?;
    exchange(&held)?;
    Ok((listener, held))
}

fn exchange(held: &[Connection]) -> Result<Figures, Failure> {
    for it in held {
        let to = it.endpoint;
        it.exchange()
            .map_err(|why| format!("the connection to {to}: {why}"))?;
    }
    Ok(connections(held.len() as u32))
}

/// New connections, which must all go to what stays.
fn all_stay(bench: &Bench<'_>, family: Family, listener: &Listener) -> Result<Figures, Failure> {
    let stays = STAYS.address(family, bench.scenario);
    for _ in 0..NEW {
        let new = open(bench, listener, PATIENCE)?;
        new.exchange()?;
        if new.endpoint.ip() != stays {
            return Err(format!("a new connection went to {}", new.endpoint));
        }
    }
    Ok(Figures {
        endpoints: Some(1),
        ..connections(NEW)
    })
}

/// A policy of the pod behind the service, which is alone there by now, is about the pod's port: with that one open it is reached,
/// with the service's it is not.
///
/// # Errors
/// When a daemon does not take a policy, or the user wants to stop.
pub(super) fn policies(bench: &Bench<'_>, families: &[Family]) -> Result<Vec<Vec<Outcome>>> {
    let mut outcomes = Vec::new();
    let mut under =
        |port, name, what, check: fn(&Bench<'_>, Family) -> Result<Figures, Failure>| {
            let policy = Policy::OnlyPort(port);
            policy.apply(bench.lab, bench.cancel)?;
            for family in families {
                let case = Case {
                    name,
                    service: &BOTH,
                    family: *family,
                };
                outcomes.push(vec![case.outcome(bench, what, check(bench, *family))]);
            }
            policy.withdraw(bench.lab, bench.cancel)
        };
    under(HTTP.1, "its pod's port only", What::Connections, passes)?;
    under(HTTP.0, "its own port only", What::Blocked, blocked)?;
    Ok(outcomes)
}

fn passes(bench: &Bench<'_>, family: Family) -> Result<Figures, Failure> {
    let listener = Listener::behind(&BOTH.servers(bench, family, HTTP))?;
    exchange(&[open(bench, &listener, PATIENCE)?])
}

fn blocked(bench: &Bench<'_>, family: Family) -> Result<Figures, Failure> {
    let listener = Listener::behind(&BOTH.servers(bench, family, HTTP))?;
    let started = Instant::now();
    if let Ok(passed) = open(bench, &listener, SHORT) {
        return Err(format!("a connection to {} came about", passed.endpoint));
    }
    let blocked = took(started);
    let said = policy::drops(bench.lab, Node::One).map_err(|error| error.to_string())?;
    let policy = Policy::OnlyPort(HTTP.0).name();
    if !said.rules.iter().any(|it| it.rule.contains(policy)) {
        return Err(format!("blocked, and {policy} is not named"));
    }
    Ok(blocked)
}
