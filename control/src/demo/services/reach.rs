//! Endpoints of each kind: pods of both nodes, a server outside, the client itself, none.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::super::ask;
use super::super::checks::{Bench, judge_source, millis, udp_figures};
use super::super::error::Result;
use super::super::peer::tcp::{Amount, Client, Listener};
use super::super::peer::{Failure, Servers, tcp, udp};
use super::super::plan::{End, Node};
use super::super::report::{Figures, Outcome, What};
use super::super::scenario::Family;
use super::files::{BOTH, DNS, EMPTY, HTTP, OUTSIDE, OWN};
use super::{Case, FROM};

/// Connections at once.
const AT_ONCE: usize = 8;
/// The drop reason's name.
const NO_ENDPOINTS: &str = "service-no-endpoints";

/// All kinds, in one family.
///
/// # Errors
/// When the user wants to stop.
pub(super) fn check(bench: &Bench<'_>, family: Family) -> Result<Vec<Vec<Outcome>>> {
    let pod = FROM.address(family, bench.scenario);
    let node = End::Host(Node::One).address(family, bench.scenario);
    let case = |name, service| Case {
        name,
        service,
        family,
    };
    let outcomes = vec![
        reach(bench, case("pod to pods", &BOTH), pod),
        // As natOutgoing has it.
        reach(bench, case("pod to outside", &OUTSIDE), node),
        // From its own address a pod's answers would never leave it.
        reach(bench, case("pod to itself", &OWN), node),
        vec![refused(bench, case("pod to nobody", &EMPTY))],
    ];
    bench.cancel.check()?;
    Ok(outcomes)
}

/// What was measured, and all the clients' addresses that servers saw.
type Seen = (Figures, BTreeSet<IpAddr>);

/// Both ports of a service, until all that is behind it has answered; it must have seen `source`.
fn reach(bench: &Bench<'_>, case: Case, source: IpAddr) -> Vec<Outcome> {
    let servers = |port| case.service.servers(bench, case.family, port);
    let results = [
        (What::Connections, by_tcp(bench, &servers(HTTP))),
        (What::Udp, by_udp(bench, &servers(DNS))),
    ];
    let seen = results.iter().flat_map(|(_, it)| it.iter());
    let seen: Vec<_> = seen.flat_map(|(_, seen)| seen).copied().map(Some).collect();
    let mut outcomes: Vec<_> = results
        .into_iter()
        .map(|(what, it)| case.outcome(bench, what, it.map(|(figures, _)| figures)))
        .collect();
    outcomes.push(case.outcome(bench, What::Source, judge_source(source, &seen)));
    outcomes
}

/// Transfers, several at once, until all servers have had one.
fn by_tcp(bench: &Bench<'_>, servers: &Servers) -> Result<Seen, Failure> {
    let listener = Listener::behind(servers)?;
    let client = Client {
        netns: bench.lab.netns(FROM),
        port: 0,
    };
    let clients = vec![client; AT_ONCE];
    let each = Amount::Bytes((bench.bytes / AT_ONCE as u64).max(1));
    let mut done = Vec::new();
    let endpoints = servers.until_all(|| {
        let transfers = tcp::run_all(&listener, &clients, each, bench.cancel)?;
        let answered = transfers.iter().map(|it| it.server).collect();
        done.extend(transfers);
        Ok(answered)
    })?;
    let figures = Figures {
        connections: Some(done.len() as u32),
        bytes: Some(done.iter().map(|it| it.up.bytes).sum()),
        endpoints: Some(endpoints),
        ..Figures::default()
    };
    Ok((figures, done.iter().map(|it| it.source).collect()))
}

/// Datagrams of one socket after the other, until all servers have had some.
fn by_udp(bench: &Bench<'_>, servers: &Servers) -> Result<Seen, Failure> {
    let from = bench.lab.netns(FROM);
    let sizes = udp::sizes(bench.scenario.pod_mtu(), servers.address.ip());
    let patience = udp::Patience::NORMAL;
    let (mut figures, mut seen) = (Figures::default(), BTreeSet::new());
    let endpoints = servers.until_all(|| {
        let echoes = udp::run_behind(&from, servers, &sizes, patience, bench.cancel)?;
        seen.insert(echoes.source);
        let server = echoes.server;
        figures = udp_figures(echoes);
        Ok(vec![server])
    })?;
    figures.endpoints = Some(endpoints);
    Ok((figures, seen))
}

/// Without an endpoint the client is refused, before it gives up by itself, and the daemon counts it.
fn refused(bench: &Bench<'_>, case: Case) -> Outcome {
    let refuse = || {
        let before = ask::drops(bench.lab, Node::One, NO_ENDPOINTS)?;
        let at = case.service.servers(bench, case.family, HTTP).address;
        let time = tcp::refused(&bench.lab.netns(FROM), at)?;
        if ask::drops(bench.lab, Node::One, NO_ENDPOINTS)? == before {
            return Err(format!("refused, and not counted as {NO_ENDPOINTS}"));
        }
        Ok(Figures {
            refused: Some(1),
            took_ms: Some(millis(time)),
            ..Figures::default()
        })
    };
    case.outcome(bench, What::Refused, refuse())
}
