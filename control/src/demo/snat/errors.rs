//! ICMP errors from outside about packets that left with the node's address: the pod must hear of them.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use nix::errno::Errno;

use super::super::checks::{Bench, tcp_figures};
use super::super::error::Result;
use super::super::netns;
use super::super::peer::icmp::{self, IcmpError};
use super::super::peer::tcp::{self, Amount};
use super::super::peer::{Failure, Route};
use super::super::plan::{Node, ROUTER_HOST, underlay};
use super::super::report::{Figures, Outcome, What};
use super::super::scenario::Family;
use super::super::topology::narrow_route;
use super::OUT;

/// MTU of the router's link to the server, while the path is narrow.
const NARROW: u16 = 1300;

/// A closed port, a TTL that ends at the router, and a narrow link behind it.
///
/// # Errors
/// When the lab itself fails, or the user wants to stop.
pub(super) fn check(bench: &Bench<'_>, family: Family) -> Result<Vec<Outcome>> {
    let route = bench.route(&OUT, family);
    let refused = closed_port(&route)
        .and_then(|to| icmp::provoke(&route.from, to, None, bench.cancel))
        .and_then(|error| judge(error, refused(family), route.address));
    let subnet = Node::One.subnet(bench.scenario.same_subnet);
    let expired = icmp::provoke(
        &route.from,
        SocketAddr::new(route.address, 33_434),
        Some(2),
        bench.cancel,
    )
    .and_then(|error| {
        judge(
            error,
            expired(family),
            underlay(family, subnet, ROUTER_HOST),
        )
    });
    let narrow = through_a_narrow_link(bench, &route, family)?;
    bench.cancel.check()?;
    let outcome = |what, result| bench.pair_outcome(&OUT, family, what, result);
    Ok(vec![
        outcome(What::Refused, refused),
        outcome(What::Expired, expired),
        outcome(What::Mtu, narrow),
    ])
}

fn refused(family: Family) -> (u8, u8, Errno) {
    match family {
        Family::Ipv4 => (3, 3, Errno::ECONNREFUSED),
        Family::Ipv6 => (1, 4, Errno::ECONNREFUSED),
    }
}

fn expired(family: Family) -> (u8, u8, Errno) {
    match family {
        Family::Ipv4 => (11, 0, Errno::EHOSTUNREACH),
        Family::Ipv6 => (3, 0, Errno::EHOSTUNREACH),
    }
}

/// A port of the server that nobody listens on.
fn closed_port(route: &Route) -> Result<SocketAddr, Failure> {
    let at = SocketAddr::new(route.address, 0);
    netns::within(&route.to, || UdpSocket::bind(at)?.local_addr())
        .map_err(|error| error.to_string())?
        .map_err(|error| format!("binding {at} in {}: {error}", route.to))
}

fn judge(
    error: IcmpError,
    (kind, code, errno): (u8, u8, Errno),
    from: IpAddr,
) -> Result<Figures, Failure> {
    let wanted = IcmpError {
        kind,
        code,
        from,
        errno,
    };
    if error != wanted {
        return Err(format!("the pod heard {error:?}, not {wanted:?}"));
    }
    Ok(Figures {
        source: Some(from),
        ..Figures::default()
    })
}

/// The server takes longer packets than the link to it: only an ICMP error makes the pod send shorter ones.
fn through_a_narrow_link(
    bench: &Bench<'_>,
    route: &Route,
    family: Family,
) -> Result<Result<Figures, Failure>> {
    let shell = bench.lab.shell();
    let router = bench.lab.id().netns("router");
    shell.ip(Some(&router), &[narrow_route(family, Some(NARROW))])?;
    let amount = Amount::Bytes(bench.bytes.min(super::BESIDE));
    let transferred = tcp::run(route, amount, bench.cancel);
    let learnt = learnt(bench, route, family);
    shell.ip(Some(&router), &[narrow_route(family, None)])?;
    // The pod would remember for ten minutes.
    shell.ip_output(&route.from, &[option(family), "route", "flush", "cache"])?;
    Ok(transferred.and_then(|transfer| {
        learnt?;
        Ok(Figures {
            mtu: Some(NARROW),
            ..tcp_figures(transfer)
        })
    }))
}

fn option(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "-4",
        Family::Ipv6 => "-6",
    }
}

/// The pod's kernel must have learnt the path's MTU.
fn learnt(bench: &Bench<'_>, route: &Route, family: Family) -> Result<(), Failure> {
    let to = route.address.to_string();
    let shell = bench.lab.shell();
    let text = shell
        .ip_output(&route.from, &[option(family), "route", "get", &to])
        .map_err(|error| error.to_string())?;
    let mut words = text.split_whitespace();
    let mtu = words.find(|word| *word == "mtu").and(words.next());
    if mtu == Some(&NARROW.to_string()) {
        return Ok(());
    }
    Err(format!(
        "the pod has not learnt the path's MTU of {NARROW}: {}",
        text.trim()
    ))
}
