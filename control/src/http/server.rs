//! The listening socket and its connections: a part of somebody's poll loop, which never waits here.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};

use super::{Request, Response};

/// How long nothing is accepted when the process is out of descriptors.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_secs(1);
/// What a client may send after its request before the connection is cut, in bytes.
const AFTER: usize = 64 << 10;

/// What clients may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Connections; a new one takes the place of the oldest.
    pub(crate) connections: usize,
    /// The longest request, in bytes.
    pub(crate) request: usize,
    /// The longest that a request, and the longest that the reading of its answer may take.
    pub(crate) patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16,
            request: 8 << 10,
            patience: Duration::from_secs(10),
        }
    }
}

/// Which connection an answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

/// An HTTP server. [`requests`](Self::requests) and [`respond`](Self::respond) in turn, whenever one of
/// [`poll_fds`](Self::poll_fds) is ready or [`timeout`](Self::timeout) has passed.
#[derive(Debug)]
pub(crate) struct Server {
    listener: TcpListener,
    limits: Limits,
    /// By number, and so the oldest first.
    connections: BTreeMap<u64, Connection>,
    /// Number of the next connection.
    next: u64,
    /// Nothing is accepted before.
    paused_until: Option<Instant>,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    state: State,
    deadline: Instant,
}

#[derive(Debug)]
enum State {
    /// A request comes in.
    Reading(Vec<u8>),
    /// It waits for [`Server::respond`].
    Asked { head_only: bool },
    /// The answer goes out.
    Writing { answer: Vec<u8>, written: usize },
    /// The answer is out. What the client still sends is read, so that the kernel does not take the answer back by a reset.
    Closing { read: usize },
}

/// What a connection came to.
enum Turn {
    Waits,
    Asks(Request),
    Over,
}

impl Server {
    /// Listens at an address of the calling thread's network namespace.
    ///
    /// # Errors
    /// It is taken, or not this host's.
    pub(crate) fn bind(address: SocketAddr, limits: Limits) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            limits,
            connections: BTreeMap::new(),
            next: 0,
            paused_until: None,
        })
    }

    /// What to wait for.
    pub(crate) fn poll_fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        let listener = (self.paused_until.is_none())
            .then(|| PollFd::new(self.listener.as_fd(), PollFlags::POLLIN));
        let connections = self.connections.values().map(|connection| {
            let events = match connection.state {
                State::Writing { .. } => PollFlags::POLLOUT,
                _ => PollFlags::POLLIN,
            };
            PollFd::new(connection.stream.as_fd(), events)
        });
        listener.into_iter().chain(connections)
    }

    /// How long it may be until [`requests`](Self::requests) is called again.
    pub(crate) fn timeout(&self, now: Instant) -> Option<Duration> {
        let deadlines = self
            .connections
            .values()
            .map(|connection| connection.deadline);
        let first = deadlines.chain(self.paused_until).min();
        first.map(|at| at.saturating_duration_since(now))
    }

    /// Takes in what came. Each request must be answered by [`respond`](Self::respond) before the next call. What is no
    /// request, or does not read, is answered here.
    pub(crate) fn requests(&mut self, now: Instant) -> Vec<(Ticket, Request)> {
        self.accept(now);
        let mut requests = Vec::new();
        let mut over = Vec::new();
        for (&number, connection) in &mut self.connections {
            match connection.turn(self.limits, now) {
                Turn::Waits if connection.deadline > now => {}
                Turn::Waits | Turn::Over => over.push(number),
                Turn::Asks(request) => requests.push((Ticket(number), request)),
            }
        }
        for number in over {
            self.connections.remove(&number);
        }
        requests
    }

    /// Answers a request. The connection may be gone by now.
    pub(crate) fn respond(&mut self, ticket: Ticket, response: &Response, now: Instant) {
        if let Some(connection) = self.connections.get_mut(&ticket.0) {
            connection.answer(response, self.limits, now);
        }
    }

    /// Accepts no more at once than there may be, so that none of these takes another's place unheard.
    fn accept(&mut self, now: Instant) {
        if self.paused_until.is_some_and(|until| until > now) {
            return;
        }
        self.paused_until = None;
        for _ in 0..self.limits.connections {
            match self.listener.accept() {
                Ok((stream, _)) => self.admit(stream, now),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "no HTTP connections are taken for a second");
                    self.paused_until = Some(now + OUT_OF_DESCRIPTORS);
                    return;
                }
            }
        }
    }

    fn admit(&mut self, stream: TcpStream, now: Instant) {
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        if self.connections.len() >= self.limits.connections {
            self.connections.pop_first();
        }
        let connection = Connection {
            stream,
            state: State::Reading(Vec::new()),
            deadline: now + self.limits.patience,
        };
        self.connections.insert(self.next, connection);
        self.next += 1;
    }
}

/// Errors of accept(2) that concern one connection that is gone already.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ECONNABORTED | libc::EINTR | libc::EPERM | libc::EPROTO)
    )
}

impl Connection {
    fn turn(&mut self, limits: Limits, now: Instant) -> Turn {
        let outcome = match &mut self.state {
            State::Reading(_) => return self.read_request(limits, now),
            State::Asked { .. } => return Turn::Waits,
            State::Writing { .. } => self.write(),
            State::Closing { .. } => self.drain(),
        };
        outcome.unwrap_or(Turn::Over)
    }

    fn read_request(&mut self, limits: Limits, now: Instant) -> Turn {
        let State::Reading(bytes) = &mut self.state else {
            return Turn::Waits;
        };
        let Ok(ended) = read_up_to(&mut self.stream, bytes, limits.request) else {
            return Turn::Over;
        };
        match Request::parse(bytes) {
            Ok(Some(request)) if request.reads() => {
                let head_only = request.is_head();
                self.state = State::Asked { head_only };
                return Turn::Asks(request);
            }
            Ok(Some(_)) => self.answer(&Response::only_reads(), limits, now),
            Ok(None) if bytes.len() >= limits.request => {
                self.answer(&Response::too_large(), limits, now);
            }
            Ok(None) if ended => return Turn::Over,
            Ok(None) => {}
            Err(_) => self.answer(&Response::bad_request(), limits, now),
        }
        Turn::Waits
    }

    fn answer(&mut self, response: &Response, limits: Limits, now: Instant) {
        let head_only = matches!(self.state, State::Asked { head_only: true });
        self.state = State::Writing {
            answer: response.to_bytes(head_only),
            written: 0,
        };
        self.deadline = now + limits.patience;
        if !matches!(self.write(), Ok(Turn::Waits)) {
            self.deadline = now;
        }
    }

    fn write(&mut self) -> io::Result<Turn> {
        let State::Writing { answer, written } = &mut self.state else {
            return Ok(Turn::Waits);
        };
        while let Some(rest) = answer.get(*written..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(0) => return Ok(Turn::Over),
                Ok(count) => *written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Turn::Waits),
                Err(error) => return Err(error),
            }
        }
        self.stream.shutdown(Shutdown::Write)?;
        self.state = State::Closing { read: 0 };
        Ok(Turn::Waits)
    }

    fn drain(&mut self) -> io::Result<Turn> {
        let State::Closing { read } = &mut self.state else {
            return Ok(Turn::Waits);
        };
        let mut rest = Vec::new();
        let room = AFTER.saturating_sub(*read);
        let ended = read_up_to(&mut self.stream, &mut rest, room)?;
        *read += rest.len();
        Ok(if ended || rest.len() >= room {
            Turn::Over
        } else {
            Turn::Waits
        })
    }
}

/// Reads what is there, until there are `max` bytes. Says whether the peer sends no more.
fn read_up_to(stream: &mut TcpStream, bytes: &mut Vec<u8>, max: usize) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    loop {
        let room = max.saturating_sub(bytes.len()).min(buffer.len());
        let Some(room) = buffer.get_mut(..room).filter(|room| !room.is_empty()) else {
            return Ok(false);
        };
        match stream.read(room) {
            Ok(0) => return Ok(true),
            Ok(count) => bytes.extend_from_slice(room.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server and its clock, turned by hand.
    struct Bench {
        server: Server,
        now: Instant,
        body: String,
    }

    impl Bench {
        fn new() -> Self {
            let limits = Limits {
                connections: 4,
                request: 1024,
                patience: Duration::from_secs(10),
            };
            Self {
                server: Server::bind(([127, 0, 0, 1], 0).into(), limits).unwrap(),
                now: Instant::now(),
                body: "well\n".to_owned(),
            }
        }

        fn connect(&self) -> TcpStream {
            let stream = TcpStream::connect(self.server.listener.local_addr().unwrap()).unwrap();
            // Only so that a failure is an error and not a hang.
            let patience = Some(Duration::from_secs(20));
            stream.set_read_timeout(patience).unwrap();
            stream
        }

        fn send(&self, bytes: &[u8]) -> TcpStream {
            let mut client = self.connect();
            client.write_all(bytes).unwrap();
            client
        }

        /// One turn of the loop; what is asked for is answered with the body.
        fn turn(&mut self) -> usize {
            let requests = self.server.requests(self.now);
            let count = requests.len();
            for (ticket, _) in requests {
                let response = Response::well(self.body.clone());
                self.server.respond(ticket, &response, self.now);
            }
            count
        }

        /// What a client hears, while the loop turns.
        fn hear(&mut self, mut client: TcpStream) -> String {
            let reader = std::thread::spawn(move || {
                let mut bytes = Vec::new();
                // A reset is heard as an end, too.
                let _ = client.read_to_end(&mut bytes);
                String::from_utf8(bytes).unwrap()
            });
            while !reader.is_finished() {
                self.turn();
                std::thread::yield_now();
            }
            reader.join().unwrap()
        }

        fn later(&mut self, seconds: u64) {
            self.now += Duration::from_secs(seconds);
        }

        fn count(&self) -> usize {
            self.server.connections.len()
        }
    }

    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

    #[test]
    fn a_request_is_answered_and_the_connection_ends() {
        let mut bench = Bench::new();
        let client = bench.send(GET);
        let heard = bench.hear(client);
        let (head, body) = heard.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("Content-Length: 5\r\n"), "{head}");
        assert!(head.contains("Connection: close"), "{head}");
        assert_eq!(body, "well\n");
        while bench.count() > 0 {
            bench.turn();
        }
    }

    #[test]
    fn a_head_has_no_body() {
        let mut bench = Bench::new();
        let client = bench.send(b"HEAD / HTTP/1.0\r\n\r\n");
        let heard = bench.hear(client);
        assert!(heard.contains("Content-Length: 5\r\n"), "{heard}");
        assert!(heard.ends_with("\r\n\r\n"), "{heard}");
    }

    #[test]
    fn what_is_no_reading_request_is_told_so() {
        let mut bench = Bench::new();
        let large = [
            b"GET /".to_vec(),
            vec![b'x'; 3000],
            b" HTTP/1.1\r\n\r\n".to_vec(),
        ]
        .concat();
        let body = [
            b"POST / HTTP/1.1\r\nContent-Length: 30000\r\n\r\n".to_vec(),
            vec![b'x'; 30_000],
        ]
        .concat();
        for (bytes, status) in [
            (large, "431 Request Header Fields Too Large"),
            (body, "405 Method Not Allowed"),
            (b"\x16\x03\x01\x02\x00\r\n\r\n".to_vec(), "400 Bad Request"),
        ] {
            let client = bench.send(&bytes);
            let heard = bench.hear(client);
            assert!(
                heard.starts_with(&format!("HTTP/1.1 {status}\r\n")),
                "{heard}"
            );
        }
        assert_eq!(bench.turn(), 0, "none of them was asked about");
    }

    #[test]
    fn who_sends_without_end_is_cut_off() {
        let mut bench = Bench::new();
        let mut client = bench.send(GET);
        let flood = std::thread::spawn(move || while client.write_all(&[0; 4096]).is_ok() {});
        while !flood.is_finished() {
            bench.turn();
        }
        flood.join().unwrap();
        assert_eq!(bench.count(), 0);
    }

    #[test]
    fn a_request_may_come_in_pieces() {
        let mut bench = Bench::new();
        let mut client = bench.connect();
        let (last, first) = GET.split_last().unwrap();
        for byte in first {
            client.write_all(&[*byte]).unwrap();
            assert_eq!(bench.turn(), 0);
        }
        client.write_all(&[*last]).unwrap();
        assert!(bench.hear(client).ends_with("well\n"));
    }

    #[test]
    fn a_request_that_trickles_in_does_not_hold_its_place() {
        let mut bench = Bench::new();
        let mut client = bench.connect();
        for byte in GET.iter().take(4) {
            client.write_all(&[*byte]).unwrap();
            bench.turn();
            bench.later(3);
        }
        bench.turn();
        assert_eq!(bench.count(), 0);
    }

    #[test]
    fn idle_connections_keep_nobody_out() {
        let mut bench = Bench::new();
        let idle: Vec<_> = (0..200)
            .map(|_| {
                let client = bench.connect();
                bench.turn();
                client
            })
            .collect();
        assert_eq!(bench.count(), 4);
        let client = bench.send(GET);
        assert!(bench.hear(client).ends_with("well\n"));
        bench.later(11);
        bench.turn();
        assert_eq!(bench.count(), 0, "none stays for ever");
        drop(idle);
    }

    #[test]
    fn a_reader_that_does_not_read_is_left_and_stops_nobody() {
        let mut bench = Bench::new();
        bench.body = "x".repeat(16 << 20);
        let slow = bench.send(GET);
        while bench.turn() == 0 {}
        bench.body = "well\n".to_owned();
        let client = bench.send(GET);
        assert!(bench.hear(client).ends_with("well\n"));
        bench.later(9);
        bench.turn();
        assert_eq!(bench.count(), 1, "it has time");
        bench.later(2);
        bench.turn();
        assert_eq!(bench.count(), 0);
        drop(slow);
    }

    #[test]
    fn a_client_that_is_gone_is_forgotten() {
        let mut bench = Bench::new();
        drop(bench.send(GET.split_at(9).0));
        drop(bench.send(GET));
        while bench.count() > 0 || bench.server.next < 2 {
            bench.turn();
        }
    }

    #[test]
    fn an_address_that_is_taken_is_an_error() {
        let bench = Bench::new();
        let taken = bench.server.listener.local_addr().unwrap();
        let error = Server::bind(taken, Limits::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
    }
}
