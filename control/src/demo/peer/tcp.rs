//! TCP transfers whose every byte is hashed by the sender and by the receiver.
//!
//! The client sends its bytes and their SHA-256; the server answers with the SHA-256 of what it received, the address
//! that it saw and its own, and then sends as much back, with its hash. So each end judges the other's bytes.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{ReuseAddr, SendTimeout};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect as connect_socket,
    setsockopt, socket,
};
use nix::sys::time::TimeVal;

pub use super::pipe::Amount;
use super::pipe::{Hash, Pipe};
use super::{Failure, Route, Servers, check, is_timeout};
use crate::demo::cancel::Cancel;
use crate::demo::netns;

const CONNECT: Duration = Duration::from_secs(3);

/// What went one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Payload bytes.
    pub bytes: u64,
    /// Time that they took, connection set-up left out.
    pub time: Duration,
}

impl Way {
    /// Payload bits per second, in millions.
    pub fn mbit_per_s(self) -> f64 {
        self.bytes as f64 * 8.0 / 1e6 / self.time.as_secs_f64().max(1e-9)
    }
}

/// What a transfer showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// From client to server.
    pub up: Way,
    /// From server to client.
    pub down: Way,
    /// SHA-256 of the client's bytes, equal at both ends.
    pub sha256: String,
    /// The client's address as the server saw it.
    pub source: IpAddr,
    /// The server's own address: behind a service the client does not see it.
    pub server: IpAddr,
}

/// A client of [`run_all`].
#[derive(Clone, Debug)]
pub struct Client {
    /// Its namespace.
    pub netns: String,
    /// The source port that it asks for; 0: any.
    pub port: u16,
}

/// Transfers `amount` each way.
///
/// # Errors
/// What failed: the connection, a stall, or a hash that differs.
pub fn run(route: &Route, amount: Amount, cancel: &Cancel) -> Result<Transfer, Failure> {
    let client = Client {
        netns: route.from.clone(),
        port: 0,
    };
    let listener = Listener::new(&route.to, route.address)?;
    let mut transfers = run_all(&listener, &[client], amount, cancel)?;
    transfers.pop().ok_or_else(|| "no transfer".to_owned())
}

/// Transfers `amount` each way between each client and one server, all at once.
///
/// # Errors
/// What failed first, by client and server.
pub fn run_all(
    listener: &Listener,
    clients: &[Client],
    amount: Amount,
    cancel: &Cancel,
) -> Result<Vec<Transfer>, Failure> {
    let ended = AtomicUsize::new(0);
    let complaints = Mutex::new(Vec::new());
    let complain = |why: Failure| {
        let list = complaints.lock();
        list.unwrap_or_else(std::sync::PoisonError::into_inner)
            .push(why);
    };
    let transfers: Vec<Result<Transfer, Failure>> = thread::scope(|scope| {
        scope.spawn(|| {
            // A client that gave up says why itself.
            while ended.load(Ordering::Relaxed) < clients.len() && !cancel.is_raised() {
                match listener.accept() {
                    Ok(Some((stream, from))) => drop(scope.spawn(move || {
                        if let Err(why) = serve(stream, from, amount, cancel) {
                            complain(format!("server: {why}"));
                        }
                    })),
                    Ok(None) => thread::sleep(Duration::from_millis(1)),
                    Err(why) => return complain(why),
                }
            }
        });
        let workers: Vec<_> = clients
            .iter()
            .map(|client| {
                scope.spawn(|| {
                    let transfer = connect_from(client, listener.address, CONNECT)
                        .and_then(|stream| Pipe::new(stream, cancel))
                        .and_then(|mut pipe| talk(&mut pipe, amount));
                    ended.fetch_add(1, Ordering::Relaxed);
                    transfer
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| {
                let joined = worker.join();
                joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    });
    check(cancel)?;
    let mut complaints = complaints
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let (mut done, many) = (Vec::new(), clients.len() > 1);
    for (client, transfer) in clients.iter().zip(transfers) {
        match transfer {
            Ok(transfer) => done.push(transfer),
            Err(why) if many => complaints.insert(0, format!("{}: {why}", client.netns)),
            Err(why) => complaints.insert(0, why),
        }
    }
    if complaints.is_empty() {
        return Ok(done);
    }
    Err(complaints.join("; "))
}

/// Tries to connect, nothing more: for traffic that must not flow.
///
/// # Errors
/// Why no connection came about within `limit`.
pub fn connects(route: &Route, limit: Duration) -> Result<(), Failure> {
    let listener = Listener::new(&route.to, route.address)?;
    connect(&route.from, listener.address, limit).map(drop)
}

/// Makes a connection to this port, and closes it.
///
/// # Errors
/// Why there is none.
pub fn connects_to(route: &Route, port: u16) -> Result<(), Failure> {
    let at = SocketAddr::new(route.address, port);
    let listener = Listener::at(&route.to, at)?;
    connect(&route.from, listener.address, CONNECT).map(drop)
}

/// Tries to connect where nobody serves; returns how long it took until the client was refused.
///
/// # Errors
/// When it was not refused before it gave up by itself.
pub fn refused(netns: &str, to: SocketAddr) -> Result<Duration, Failure> {
    let started = Instant::now();
    let connected = netns::within(netns, || TcpStream::connect_timeout(&to, CONNECT));
    match connected.map_err(|error| error.to_string())? {
        Ok(_) => Err(format!("connected to {to}, where nobody serves")),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(started.elapsed()),
        Err(error) => Err(format!("connecting to {to}: not refused, but {error}")),
    }
}

/// A server that waits for connections, or several behind one address.
#[derive(Debug)]
pub struct Listener {
    sockets: Vec<TcpListener>,
    /// Where clients connect to.
    pub address: SocketAddr,
}

impl Listener {
    /// Listens on any port of `address` in `netns`.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new(netns: &str, address: IpAddr) -> Result<Self, Failure> {
        Self::at(netns, SocketAddr::new(address, 0))
    }

    /// Listens where each of the servers is.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn behind(servers: &Servers) -> Result<Self, Failure> {
        let listen = |(netns, at): &(String, SocketAddr)| Self::at(netns, *at);
        let each: Vec<Self> = servers.each.iter().map(listen).collect::<Result<_, _>>()?;
        Ok(Self {
            sockets: each.into_iter().flat_map(|it| it.sockets).collect(),
            address: servers.address,
        })
    }

    fn at(netns: &str, at: SocketAddr) -> Result<Self, Failure> {
        let made = netns::within(netns, || TcpListener::bind(at))
            .map_err(|error| error.to_string())?
            .and_then(|socket| {
                socket.set_nonblocking(true)?;
                let address = socket.local_addr()?;
                let sockets = vec![socket];
                Ok(Self { sockets, address })
            });
        made.map_err(|error| format!("listening on {at} in {netns}: {error}"))
    }

    /// The next connection, if there is one already.
    fn accept(&self) -> Result<Option<(TcpStream, SocketAddr)>, Failure> {
        for socket in &self.sockets {
            match socket.accept() {
                Ok(accepted) => return Ok(Some(accepted)),
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(format!("accept: {error}")),
            }
        }
        Ok(None)
    }
}

/// An open connection, both ends in hand.
#[derive(Debug)]
pub struct Connection {
    client: TcpStream,
    server: TcpStream,
    /// The client as the server saw it.
    pub source: SocketAddr,
    /// The server's own end.
    pub endpoint: SocketAddr,
}

impl Connection {
    /// Connects from `netns`, within `limit`. One at a time for each listener.
    ///
    /// # Errors
    /// Why no connection came about.
    pub fn open(netns: &str, listener: &Listener, limit: Duration) -> Result<Self, Failure> {
        let client = connect(netns, listener.address, limit)?;
        let deadline = Instant::now() + limit;
        let (server, source) = loop {
            if let Some(accepted) = listener.accept()? {
                break accepted;
            }
            if Instant::now() > deadline {
                return Err("connected, and the server saw nothing".to_owned());
            }
            thread::sleep(Duration::from_millis(1));
        };
        for stream in [&client, &server] {
            stream
                .set_nonblocking(false)
                .and_then(|()| stream.set_read_timeout(Some(Duration::from_secs(3))))
                .and_then(|()| stream.set_nodelay(true))
                .map_err(|error| format!("socket options: {error}"))?;
        }
        let endpoint = local(&server)?;
        Ok(Self {
            client,
            server,
            source,
            endpoint,
        })
    }

    /// Sends a little each way; it must arrive.
    ///
    /// # Errors
    /// What went wrong.
    pub fn exchange(&self) -> Result<(), Failure> {
        let bytes: [u8; 1000] = std::array::from_fn(|at| at as u8);
        for (mut from, mut to) in [(&self.client, &self.server), (&self.server, &self.client)] {
            let mut received = [0; 1000];
            from.write_all(&bytes)
                .and_then(|()| to.read_exact(&mut received))
                .map_err(|error| error.to_string())?;
            if received != bytes {
                return Err("other bytes arrived".to_owned());
            }
        }
        Ok(())
    }
}

fn local(stream: &TcpStream) -> Result<SocketAddr, Failure> {
    stream
        .local_addr()
        .map_err(|error| format!("the server's own address: {error}"))
}

fn connect(netns: &str, to: SocketAddr, limit: Duration) -> Result<TcpStream, Failure> {
    netns::within(netns, || TcpStream::connect_timeout(&to, limit))
        .map_err(|error| error.to_string())?
        .map_err(|error| format!("connecting to {to}: {error}"))
}

/// Connects with the source port that the client asks for.
fn connect_from(client: &Client, to: SocketAddr, limit: Duration) -> Result<TcpStream, Failure> {
    if client.port == 0 {
        return connect(&client.netns, to, limit);
    }
    let (family, any) = match to {
        SocketAddr::V4(_) => (AddressFamily::Inet, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        SocketAddr::V6(_) => (AddressFamily::Inet6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    };
    let from = SockaddrStorage::from(SocketAddr::new(any, client.port));
    // connect() waits no longer than a write would.
    let limit = TimeVal::new(i64::try_from(limit.as_secs()).unwrap_or(i64::MAX), 0);
    let connected = netns::within(&client.netns, || {
        let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&socket, ReuseAddr, &true)?;
        setsockopt(&socket, SendTimeout, &limit)?;
        bind(socket.as_raw_fd(), &from)?;
        connect_socket(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
        Ok::<_, Errno>(TcpStream::from(socket))
    });
    connected
        .map_err(|error| error.to_string())?
        .map_err(|errno| {
            let port = client.port;
            format!("connecting from port {port} to {to}: {}", errno.desc())
        })
}

/// The client's part.
fn talk(pipe: &mut Pipe<'_>, amount: Amount) -> Result<Transfer, Failure> {
    let started = Instant::now();
    let sent = pipe.send_stream(amount, 0x00c0_ffee)?;
    let received_there = receive_hash(pipe)?;
    let up = started.elapsed();
    let [source, server] = [receive_address(pipe)?, receive_address(pipe)?];
    if received_there != sent.hash {
        return Err(format!(
            "client to server: sent sha256 {}, the server received {}",
            hex(&sent.hash),
            hex(&received_there)
        ));
    }
    let started = Instant::now();
    let received = pipe.receive_stream()?;
    let sent_there = receive_hash(pipe)?;
    if received.hash != sent_there {
        return Err(format!(
            "server to client: sent sha256 {}, received {}",
            hex(&sent_there),
            hex(&received.hash)
        ));
    }
    Ok(Transfer {
        up: Way {
            bytes: sent.bytes,
            time: up,
        },
        down: Way {
            bytes: received.bytes,
            time: started.elapsed(),
        },
        sha256: hex(&sent.hash),
        source,
        server,
    })
}

/// The server's part.
fn serve(
    stream: TcpStream,
    from: SocketAddr,
    amount: Amount,
    cancel: &Cancel,
) -> Result<(), Failure> {
    let own = local(&stream)?;
    let mut pipe = Pipe::new(stream, cancel)?;
    let received = pipe.receive_stream()?;
    pipe.send_all(&received.hash)?;
    for address in [from.ip(), own.ip()] {
        let address = match address {
            IpAddr::V4(addr) => addr.to_ipv6_mapped(),
            IpAddr::V6(addr) => addr,
        };
        pipe.send_all(&address.octets())?;
    }
    let sent = pipe.send_stream(amount, 0xbeef)?;
    pipe.send_all(&sent.hash)
}

fn receive_hash(pipe: &mut Pipe<'_>) -> Result<Hash, Failure> {
    let mut hash = Hash::default();
    pipe.receive_all(&mut hash)?;
    Ok(hash)
}

fn receive_address(pipe: &mut Pipe<'_>) -> Result<IpAddr, Failure> {
    let mut octets = [0; 16];
    pipe.receive_all(&mut octets)?;
    Ok(Ipv6Addr::from(octets).to_canonical())
}

fn hex(hash: &Hash) -> String {
    hash.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
