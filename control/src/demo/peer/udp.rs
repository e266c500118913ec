//! UDP echo with datagrams of several sizes, one of which does not fit into a packet.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::{Failure, Route, Servers, check, is_timeout};
use crate::demo::cancel::Cancel;
use crate::demo::netns;
use crate::words::counted;

/// What an echo series showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Echoes {
    /// Sizes of payload in bytes, each echoed whole.
    pub sizes: Vec<usize>,
    /// Datagrams that had to be sent again.
    pub lost: u32,
    /// The client's address as the server saw it, the last time.
    pub source: IpAddr,
    /// The address of the server that answered: behind a service the client does not see it.
    pub server: IpAddr,
}

/// The sizes to try: small ones, one that fills a packet of `mtu` bytes, and one that is sent in fragments.
pub fn sizes(mtu: u16, address: IpAddr) -> Vec<usize> {
    let headers = if address.is_ipv4() { 28 } else { 48 };
    vec![1, 64, 512, usize::from(mtu) - headers, 4000]
}

/// How often a datagram is sent before it counts as unanswered, and how long each time is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Times a datagram is sent at most.
    pub tries: u32,
    /// Limit for each answer.
    pub each: Duration,
}

impl Patience {
    /// For traffic that must flow.
    pub const NORMAL: Self = Self {
        tries: 3,
        each: Duration::from_millis(700),
    };
}

/// Sends a datagram of each size and waits for the same bytes back.
///
/// # Errors
/// The size that was not answered in any try.
pub fn run(
    route: &Route,
    sizes: &[usize],
    patience: Patience,
    cancel: &Cancel,
) -> Result<Echoes, Failure> {
    let server = bind(&route.to, SocketAddr::new(route.address, 0))?;
    let to = server.local_addr().map_err(|error| error.to_string())?;
    echo(&route.from, to, &[server], sizes, patience, cancel)
}

/// The same from `netns` to one of several servers behind an address, the only one that may see of it.
///
/// # Errors
/// The size that was not answered in any try, or that two servers were asked.
pub fn run_behind(
    netns: &str,
    servers: &Servers,
    sizes: &[usize],
    patience: Patience,
    cancel: &Cancel,
) -> Result<Echoes, Failure> {
    let each = servers.each.iter().map(|(netns, at)| bind(netns, *at));
    let sockets: Vec<UdpSocket> = each.collect::<Result<_, _>>()?;
    echo(netns, servers.address, &sockets, sizes, patience, cancel)
}

fn bind(netns: &str, at: SocketAddr) -> Result<UdpSocket, Failure> {
    netns::within(netns, || UdpSocket::bind(at))
        .map_err(|error| error.to_string())?
        .map_err(|error| format!("binding {at} in {netns}: {error}"))
}

fn echo(
    netns: &str,
    to: SocketAddr,
    servers: &[UdpSocket],
    sizes: &[usize],
    patience: Patience,
    cancel: &Cancel,
) -> Result<Echoes, Failure> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let client = bind(netns, any.parse().map_err(|_| "address")?)?;
    client
        .connect(to)
        .map_err(|error| format!("connecting to {to}: {error}"))?;

    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let workers: Vec<_> = servers
            .iter()
            .map(|server| scope.spawn(|| serve(server, &done)))
            .collect();
        let lost = ask(&client, sizes, patience, cancel);
        done.store(true, Ordering::Relaxed);
        let mut saw = Vec::new();
        for (server, worker) in servers.iter().zip(workers) {
            let joined = worker.join();
            let source = joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let own = server.local_addr().map_err(|error| error.to_string())?;
            saw.extend(source.map(|source| (source, own.ip())));
        }
        let lost = lost?;
        match saw[..] {
            [] => Err("the server saw nothing".to_owned()),
            [(source, server)] => Ok(Echoes {
                sizes: sizes.to_vec(),
                lost,
                source,
                server,
            }),
            [(_, one), (_, other), ..] => Err(format!("both {one} and {other} were asked")),
        }
    })
}

/// Echoes until it is done; says whom it saw last.
fn serve(server: &UdpSocket, done: &AtomicBool) -> Option<IpAddr> {
    let mut source = None;
    let mut datagram = vec![0; 65536];
    // An error ends the service; the client then says that no answer came.
    let _ = server.set_read_timeout(Some(Duration::from_millis(20)));
    while !done.load(Ordering::Relaxed) {
        // An error is the timeout, or an ICMP error about an earlier answer.
        if let Ok((len, client)) = server.recv_from(&mut datagram) {
            source = Some(client.ip());
            let _ = server.send_to(&datagram[..len], client);
        }
    }
    source
}

/// Returns how many datagrams had to be sent again.
fn ask(
    client: &UdpSocket,
    sizes: &[usize],
    patience: Patience,
    cancel: &Cancel,
) -> Result<u32, Failure> {
    client
        .set_read_timeout(Some(patience.each))
        .map_err(|error| format!("SO_RCVTIMEO: {error}"))?;
    let mut lost = 0;
    for (series, size) in sizes.iter().enumerate() {
        let request: Vec<u8> = (0..*size).map(|at| (at + series * 31) as u8).collect();
        let mut tries = 0;
        loop {
            check(cancel)?;
            tries += 1;
            match exchange(client, &request) {
                Ok(()) => break,
                Err(why) if tries >= patience.tries => {
                    return Err(format!(
                        "{}, {}: {why}",
                        counted(*size as u64, "byte"),
                        counted(tries.into(), "time")
                    ));
                }
                Err(_) => lost += 1,
            }
        }
    }
    Ok(lost)
}

fn exchange(client: &UdpSocket, request: &[u8]) -> Result<(), Failure> {
    client
        .send(request)
        .map_err(|error| format!("sending: {error}"))?;
    let mut reply = vec![0; 65536];
    loop {
        match client.recv(&mut reply) {
            Ok(len) if &reply[..len] == request => return Ok(()),
            // The answer to an earlier try of another size.
            Ok(len) if len != request.len() => {}
            Ok(_) => return Err("the answer has other bytes".to_owned()),
            Err(error) if is_timeout(&error) => return Err("no answer".to_owned()),
            Err(error) => return Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_size_fills_a_packet_and_one_exceeds_it() {
        let v4 = sizes(1430, "10.0.0.1".parse().unwrap());
        assert_eq!(v4, [1, 64, 512, 1402, 4000]);
        let v6 = sizes(1430, "fd00::1".parse().unwrap());
        assert_eq!(v6[3], 1382);
    }
}
