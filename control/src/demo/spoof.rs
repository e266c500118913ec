//! A pod that sends from another pod's address.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::checks::Bench;
use super::error::Result;
use super::netns;
use super::pairs::Pair;
use super::peer::Failure;
use super::plan::{CLIENT, DB, End, Node, WEB};
use super::policy;
use super::report::{Figures, Outcome, What};
use super::scenario::Family;

const DATAGRAMS: u64 = 20;
/// How long the victim listens after the last.
const PATIENCE: Duration = Duration::from_millis(300);
/// The drop reason's name.
const REASON: &str = "source-spoofed";

/// `client` takes the address of `db`, on its loopback, and sends to `web` from it: none arrives, and each is counted.
///
/// # Errors
/// When the user wants to stop, or `ip` fails.
pub(super) fn check(bench: &Bench<'_>, family: Family) -> Result<Outcome> {
    let pair = Pair {
        name: "spoofing pod to pod",
        from: End::Pod(CLIENT),
        to: End::Pod(WEB),
    };
    let stolen = DB.address(family);
    let address = |act: &str| {
        let (len, flag) = match stolen {
            IpAddr::V4(_) => (32, ""),
            IpAddr::V6(_) => (128, " nodad"),
        };
        let line = format!("addr {act} {stolen}/{len} dev lo{flag}");
        let netns = bench.lab.netns(pair.from);
        bench.lab.shell().ip(Some(&netns), &[line])
    };
    address("add")?;
    let result = send(bench, &pair, family, stolen);
    address("del")?;
    bench.cancel.check()?;
    Ok(bench.pair_outcome(&pair, family, What::Spoofed, result))
}

fn send(
    bench: &Bench<'_>,
    pair: &Pair,
    family: Family,
    stolen: IpAddr,
) -> Result<Figures, Failure> {
    let route = bench.route(pair, family);
    let bind = |netns: &str, address| -> Result<UdpSocket, Failure> {
        netns::within(netns, || UdpSocket::bind(SocketAddr::new(address, 0)))
            .map_err(|error| error.to_string())?
            .map_err(|error| format!("binding {address} in {netns}: {error}"))
    };
    let before = counted(bench)?;
    let victim = bind(&route.to, route.address)?;
    let thief = bind(&route.from, stolen)?;
    let to = victim.local_addr().map_err(|error| error.to_string())?;
    for _ in 0..DATAGRAMS {
        thief
            .send_to(b"trust me", to)
            .map_err(|error| format!("sending from {stolen}: {error}"))?;
    }
    victim
        .set_read_timeout(Some(PATIENCE))
        .map_err(|error| error.to_string())?;
    if let Ok((_, from)) = victim.recv_from(&mut [0; 64]) {
        return Err(format!("a datagram from {from} came through"));
    }
    let dropped = counted(bench)? - before;
    // One more or less may be another's: of neighbour discovery, or duplicate address detection.
    if dropped < DATAGRAMS {
        return Err(format!("{dropped} of {DATAGRAMS} counted as {REASON}"));
    }
    Ok(Figures {
        refused: u32::try_from(dropped).ok(),
        ..Figures::default()
    })
}

/// What was dropped for that reason at the pod's port so far.
fn counted(bench: &Bench<'_>) -> Result<u64, Failure> {
    let drops = policy::drops(bench.lab, Node::One).map_err(|error| error.to_string())?;
    let port = CLIENT.host_interface();
    let of_it = drops
        .drops
        .iter()
        .filter(|it| it.reason == REASON && it.port.as_ref() == Some(&port));
    Ok(of_it.map(|it| it.count).sum())
}
