//! The daemon's end: a part of its poll loop, which never waits here.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;

use super::lines::{Lines, TooLong};
use super::{ApiError, Bound, ErrorCode, MAX_REQUEST, Request, Response};

/// How long nothing is accepted when the process is out of descriptors.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_secs(1);
/// The most connections that are accepted in one turn of the loop.
const ACCEPT_AT_ONCE: usize = 64;

/// What clients may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections; a new one takes the place of the one that has been idle longest.
    pub connections: usize,
    /// The longest request, in bytes.
    pub request: usize,
    /// The longest that a connection may take to finish a request, or to read an answer.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 32,
            request: MAX_REQUEST,
            patience: Duration::from_secs(10),
        }
    }
}

/// Which connection an answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

/// The listening socket and its connections.
#[derive(Debug)]
pub struct Server {
    bound: Bound,
    limits: Limits,
    connections: BTreeMap<u64, Connection>,
    /// Number of the next connection.
    next: u64,
    /// Nothing is accepted before.
    paused_until: Option<Instant>,
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    input: Lines,
    output: Vec<u8>,
    written: usize,
    deadline: Instant,
    /// The peer sends no more.
    ended: bool,
    /// It ends when the output is written.
    last: bool,
}

impl Server {
    /// Serves a socket.
    pub const fn new(bound: Bound, limits: Limits) -> Self {
        Self {
            bound,
            limits,
            connections: BTreeMap::new(),
            next: 0,
            paused_until: None,
        }
    }

    /// What to wait for.
    pub fn poll_fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        let listener = (self.paused_until.is_none())
            .then(|| PollFd::new(self.bound.listener.as_fd(), PollFlags::POLLIN));
        let connections = self.connections.values().map(|connection| {
            let events = if connection.is_writing() {
                PollFlags::POLLOUT
            } else {
                PollFlags::POLLIN
            };
            PollFd::new(connection.stream.as_fd(), events)
        });
        listener.into_iter().chain(connections)
    }

    /// How long it may be until [`requests`](Self::requests) is called again.
    pub fn timeout(&self, now: Instant) -> Option<Duration> {
        let due = |connection: &Connection| {
            if connection.has_work() {
                now
            } else {
                connection.deadline
            }
        };
        let dues = self.connections.values().map(due).chain(self.paused_until);
        dues.min().map(|at| at.saturating_duration_since(now))
    }

    /// Takes in what came: at most one request of each connection. Each must be answered by [`respond`](Self::respond)
    /// before the next call. What is no request is answered here.
    pub fn requests(&mut self, now: Instant) -> Vec<(Ticket, Request)> {
        self.accept(now);
        let mut requests = Vec::new();
        let mut over = Vec::new();
        let patience = self.limits.patience;
        for (&number, connection) in &mut self.connections {
            match connection.turn(now, patience) {
                Turn::Waits if connection.deadline > now => {}
                Turn::Waits | Turn::Over => over.push(number),
                Turn::Asks(line) => match Request::parse(&line) {
                    Ok(request) => requests.push((Ticket(number), request)),
                    Err((id, error)) => {
                        let outcome = Err(error);
                        connection.answer(&Response { id, outcome }, now, patience);
                    }
                },
                Turn::TooLong => {
                    let message = "a request may have 64 KiB at most";
                    let outcome = Err(ApiError::new(ErrorCode::TooLarge, message));
                    connection.last = true;
                    connection.answer(&Response { id: None, outcome }, now, patience);
                }
            }
        }
        for number in over {
            self.connections.remove(&number);
        }
        requests
    }

    /// Answers a request. The connection may be gone by now.
    pub fn respond(&mut self, ticket: Ticket, response: &Response, now: Instant) {
        if let Some(connection) = self.connections.get_mut(&ticket.0) {
            connection.answer(response, now, self.limits.patience);
        }
    }

    fn accept(&mut self, now: Instant) {
        if self.paused_until.is_some_and(|until| until > now) {
            return;
        }
        self.paused_until = None;
        for _ in 0..ACCEPT_AT_ONCE {
            match self.bound.listener.accept() {
                Ok((stream, _)) => self.admit(stream, now),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::ECONNABORTED | libc::EINTR)) => {}
                Err(error) => {
                    tracing::warn!(%error, "no connections to the control socket are taken for a second");
                    self.paused_until = Some(now + OUT_OF_DESCRIPTORS);
                    return;
                }
            }
        }
    }

    fn admit(&mut self, stream: UnixStream, now: Instant) {
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        let own = geteuid().as_raw();
        let peer = getsockopt(&stream, PeerCredentials).map(|peer| peer.uid());
        if !peer.is_ok_and(|uid| may_ask(uid, own)) {
            let message = format!("only root and the daemon's own user (uid {own}) may ask");
            let outcome = Err(ApiError::new(ErrorCode::Forbidden, message));
            // Into an empty buffer, and of no consequence if it fails.
            let _ = (&stream).write(Response { id: None, outcome }.to_line().as_bytes());
            tracing::debug!(?peer, "refused at the control socket");
            return;
        }
        if self.connections.len() >= self.limits.connections {
            // The one that has been idle longest; one that is being answered only when all are.
            let worst = self
                .connections
                .iter()
                .min_by_key(|(_, other)| (other.is_writing(), other.deadline))
                .map(|(&number, _)| number);
            if let Some(worst) = worst {
                self.connections.remove(&worst);
            }
        }
        let connection = Connection {
            stream,
            input: Lines::new(self.limits.request),
            output: Vec::new(),
            written: 0,
            deadline: now + self.limits.patience,
            ended: false,
            last: false,
        };
        self.connections.insert(self.next, connection);
        self.next += 1;
    }
}

/// Root, and the user that the daemon runs as.
const fn may_ask(uid: u32, own: u32) -> bool {
    uid == 0 || uid == own
}

/// What a connection came to.
enum Turn {
    Waits,
    Asks(Vec<u8>),
    TooLong,
    Over,
}

impl Connection {
    const fn is_writing(&self) -> bool {
        self.written < self.output.len()
    }

    /// Whether there is something to do without anything new to read.
    fn has_work(&self) -> bool {
        !self.is_writing() && (self.last || self.input.is_ready())
    }

    fn turn(&mut self, now: Instant, patience: Duration) -> Turn {
        if self.is_writing() {
            if self.flush(now, patience).is_err() {
                return Turn::Over;
            }
            // Nothing more is read before the answer is.
            if self.is_writing() {
                return Turn::Waits;
            }
        }
        if self.last || self.read().is_err() {
            return Turn::Over;
        }
        match self.input.take() {
            Ok(Some(line)) => Turn::Asks(line),
            Err(TooLong) => Turn::TooLong,
            Ok(None) if self.ended => self.input.take_rest().map_or(Turn::Over, Turn::Asks),
            Ok(None) => Turn::Waits,
        }
    }

    fn read(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        while !self.ended && !self.input.is_ready() {
            let room = self.input.room().min(buffer.len());
            let Some(room) = buffer.get_mut(..room) else {
                break;
            };
            match self.stream.read(room) {
                Ok(0) => self.ended = true,
                Ok(count) => self.input.push(room.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn answer(&mut self, response: &Response, now: Instant, patience: Duration) {
        self.output = response.to_line().into_bytes();
        self.written = 0;
        self.deadline = now + patience;
        if self.flush(now, patience).is_err() {
            self.output = Vec::new();
            self.last = true;
        }
    }

    fn flush(&mut self, now: Instant, patience: Duration) -> io::Result<()> {
        while self.is_writing() {
            let rest = self.output.get(self.written..).unwrap_or_default();
            match self.stream.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.output = Vec::new();
        self.written = 0;
        self.deadline = now + patience;
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::api::{Client, Method};
    use serde_json::{Value, json};

    /// A directory that goes with the test.
    pub(crate) struct Scratch(pub(crate) PathBuf);

    impl Scratch {
        pub(crate) fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("car-api-{}-{number}", std::process::id());
            let dir = std::env::temp_dir().join(name);
            std::fs::create_dir(&dir).unwrap();
            Self(dir)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// A server and its clock, turned by hand.
    struct Bench {
        server: Server,
        now: Instant,
        _scratch: Scratch,
    }

    impl Bench {
        fn new() -> Self {
            Self::with(Limits {
                connections: 4,
                request: 1024,
                patience: Duration::from_secs(10),
            })
        }

        fn with(limits: Limits) -> Self {
            let scratch = Scratch::new();
            let bound = Bound::bind(&scratch.0.join("s")).unwrap();
            Self {
                server: Server::new(bound, limits),
                now: Instant::now(),
                _scratch: scratch,
            }
        }

        fn connect(&self) -> BufReader<UnixStream> {
            let stream = UnixStream::connect(self.server.bound.path()).unwrap();
            // Only so that a failure is an error and not a hang.
            stream
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            BufReader::new(stream)
        }

        /// One turn of the loop; each request is answered with its id.
        fn turn(&mut self) {
            self.turn_with(&json!(null));
        }

        fn turn_with(&mut self, result: &Value) {
            for (ticket, request) in self.server.requests(self.now) {
                let response = Response {
                    id: Some(request.id),
                    outcome: Ok(result.clone()),
                };
                self.server.respond(ticket, &response, self.now);
            }
        }

        fn later(&mut self, seconds: u64) {
            self.now += Duration::from_secs(seconds);
        }
    }

    fn send(client: &mut BufReader<UnixStream>, bytes: &[u8]) {
        client.get_mut().write_all(bytes).unwrap();
    }

    fn hear(client: &mut BufReader<UnixStream>) -> Option<Response> {
        let mut line = Vec::new();
        // A connection that was closed with unread bytes in it is reset.
        let count = client.read_until(b'\n', &mut line).unwrap_or(0);
        (count > 0).then(|| Response::parse(&line).unwrap())
    }

    fn error(response: Option<Response>) -> ErrorCode {
        response.unwrap().outcome.unwrap_err().code
    }

    const STATUS: &[u8] = b"{\"v\":1,\"id\":5,\"method\":\"status\"}\n";

    #[test]
    fn requests_are_answered_in_order_however_they_arrive() {
        let mut bench = Bench::new();
        let mut client = bench.connect();
        let (first, second) = STATUS.split_at(9);
        send(&mut client, first);
        bench.turn();
        let rest = [
            second,
            b"{\"v\":1,\"id\":6,\"method\":\"ports\"}\nnonsense\n",
        ]
        .concat();
        send(&mut client, &rest);
        for _ in 0..3 {
            bench.turn();
        }
        assert_eq!(hear(&mut client).unwrap().id, Some(5));
        assert_eq!(hear(&mut client).unwrap().id, Some(6));
        assert_eq!(error(hear(&mut client)), ErrorCode::BadRequest);
        send(&mut client, STATUS);
        bench.turn();
        assert_eq!(
            hear(&mut client).unwrap().id,
            Some(5),
            "nonsense does no harm"
        );
    }

    #[test]
    fn requests_that_came_together_do_not_wait_for_the_peer() {
        let mut bench = Bench::new();
        let mut client = bench.connect();
        send(&mut client, &[STATUS, STATUS].concat());
        bench.turn();
        assert_eq!(bench.server.timeout(bench.now), Some(Duration::ZERO));
        bench.turn();
        assert!(bench.server.timeout(bench.now) > Some(Duration::ZERO));
    }

    #[test]
    fn a_request_that_is_too_long_ends_the_connection() {
        let mut bench = Bench::new();
        let mut client = bench.connect();
        send(&mut client, &[b'x'; 3000]);
        bench.turn();
        assert_eq!(error(hear(&mut client)), ErrorCode::TooLarge);
        assert_eq!(bench.server.timeout(bench.now), Some(Duration::ZERO));
        bench.turn();
        assert_eq!(hear(&mut client), None);
        assert!(bench.server.connections.is_empty());
    }

    #[test]
    fn the_last_line_needs_no_newline() {
        let mut bench = Bench::new();
        let mut client = bench.connect();
        send(&mut client, STATUS.trim_ascii_end());
        client
            .get_mut()
            .shutdown(std::net::Shutdown::Write)
            .unwrap();
        bench.turn();
        assert_eq!(hear(&mut client).unwrap().id, Some(5));
        bench.turn();
        assert!(bench.server.connections.is_empty());
    }

    #[test]
    fn idle_connections_keep_nobody_out() {
        let mut bench = Bench::new();
        let idle: Vec<_> = (0..500)
            .map(|_| {
                let client = bench.connect();
                bench.turn();
                client
            })
            .collect();
        assert_eq!(bench.server.connections.len(), 4);
        let mut client = bench.connect();
        send(&mut client, STATUS);
        bench.turn();
        assert_eq!(hear(&mut client).unwrap().id, Some(5));
        bench.later(11);
        bench.turn();
        assert!(bench.server.connections.is_empty(), "none stays for ever");
        drop(idle);
    }

    #[test]
    fn a_request_that_trickles_in_does_not_hold_its_place() {
        let mut bench = Bench::new();
        let mut client = bench.connect();
        for _ in 0..4 {
            send(&mut client, b"{");
            bench.turn();
            bench.later(3);
        }
        bench.turn();
        assert!(bench.server.connections.is_empty());
    }

    #[test]
    fn a_slow_reader_has_one_answer_waiting_and_no_more() {
        let mut bench = Bench::new();
        let mut slow = bench.connect();
        let large = json!("x".repeat(4 << 20));
        send(&mut slow, &[STATUS, STATUS].concat());
        bench.turn_with(&large);
        for _ in 0..10 {
            bench.turn_with(&large);
        }
        let connection = bench.server.connections.values().next().unwrap();
        assert!(connection.is_writing());
        assert!(
            connection.input.is_ready(),
            "the second request has to wait"
        );
        // Others are served meanwhile.
        let mut other = bench.connect();
        send(&mut other, STATUS);
        bench.turn();
        assert_eq!(hear(&mut other).unwrap().id, Some(5));
        // Once it reads, it gets all of it.
        let reader = std::thread::spawn(move || {
            [
                hear(&mut slow).unwrap().outcome,
                hear(&mut slow).unwrap().outcome,
            ]
        });
        while !reader.is_finished() {
            bench.turn_with(&large);
            std::thread::yield_now();
        }
        assert_eq!(reader.join().unwrap(), [Ok(large.clone()), Ok(large)]);
    }

    #[test]
    fn a_reader_that_does_not_read_is_left() {
        let mut bench = Bench::new();
        let mut slow = bench.connect();
        send(&mut slow, STATUS);
        bench.turn_with(&json!("x".repeat(4 << 20)));
        bench.later(9);
        bench.turn();
        assert_eq!(bench.server.connections.len(), 1);
        bench.later(2);
        bench.turn();
        assert!(bench.server.connections.is_empty());
    }

    #[test]
    fn a_peer_that_is_gone_is_forgotten() {
        let mut bench = Bench::new();
        let mut client = bench.connect();
        send(&mut client, STATUS);
        drop(client);
        bench.turn();
        bench.turn();
        assert!(bench.server.connections.is_empty());
    }

    #[test]
    fn root_and_the_own_user_may_ask() {
        assert!(may_ask(0, 1000) && may_ask(1000, 1000) && may_ask(0, 0));
        assert!(!may_ask(1000, 0) && !may_ask(1001, 1000));
    }

    #[test]
    fn the_client_gets_results_and_reasons() {
        let mut bench = Bench::new();
        let path = bench.server.bound.path().to_owned();
        let asking = std::thread::spawn(move || {
            let mut client = Client::connect(&path, Duration::from_secs(20)).unwrap();
            let first: Vec<u32> = client.call(Method::Status).unwrap();
            let second = client.call::<String>(Method::Status).unwrap_err();
            (first, second.to_string())
        });
        while !asking.is_finished() {
            bench.turn_with(&json!([1, 2]));
            std::thread::yield_now();
        }
        let (first, second) = asking.join().unwrap();
        assert_eq!(first, [1, 2]);
        assert!(second.contains("invalid type"), "{second}");
    }
}
