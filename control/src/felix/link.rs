//! The daemon's end of the way to Felix: a socket that one Felix at a time connects to, through its driver
//! [`proxy`](super::proxy). A part of the daemon's poll loop, which never waits here.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;

use super::frame::{self, Frames};
use super::proto::{FromDataplane, FromPayload};
use super::state::{State, Taken};
use crate::api::{Bound, Purpose};

/// Bytes that are read in one turn of the loop at most: it has other things to do.
const SLICE: usize = 4 << 20;
/// Bytes that are read at once.
const PIECE: usize = 64 << 10;
/// What comes without a pause is taken as it is this often.
const LONGEST_BATCH: Duration = Duration::from_secs(1);
/// How long nothing is accepted when the process is out of descriptors.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_secs(1);

/// The socket that Felix's driver connects to: root only.
pub const PURPOSE: Purpose = Purpose {
    setting: "felixSocket",
    mode: 0o600,
};

/// What happened on the way to Felix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Felix connected. It takes the place of the one before, if there was one.
    Connected {
        /// There was one.
        replaced: bool,
    },
    /// Felix says that its snapshot is complete, after so many messages.
    InSync(u64),
    /// The connection is over, and why, if it was not ended in order.
    Ended(Option<String>),
}

/// The socket and its connection.
#[derive(Debug)]
pub struct Link {
    bound: Bound,
    node: String,
    connection: Option<Connection>,
    /// Nothing is accepted before.
    paused_until: Option<Instant>,
}

/// One Felix.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    frames: Frames,
    state: State,
    /// Since when.
    pub since: Instant,
    /// Felix's number of the message that came last.
    pub sequence: u64,
    /// Messages that nothing acts on.
    pub ignored: u64,
    /// Since when something was taken that has not been acted on.
    pending: Option<Instant>,
    /// Nothing more was there to be read.
    drained: bool,
    output: Vec<u8>,
    written: usize,
    /// Number of the next message to Felix.
    next: u64,
    /// It has ended, which is told when what was taken has been acted on.
    over: Option<Event>,
}

impl Link {
    /// Listens for the Felix of the node of this name.
    pub fn new(bound: Bound, node: &str) -> Self {
        Self {
            bound,
            node: node.to_owned(),
            connection: None,
            paused_until: None,
        }
    }

    /// Felix, while it is connected.
    pub const fn connection(&self) -> Option<&Connection> {
        self.connection.as_ref()
    }

    /// The same, to be told something.
    pub const fn connection_mut(&mut self) -> Option<&mut Connection> {
        self.connection.as_mut()
    }

    /// What to wait for.
    pub fn poll_fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        let listener = self.paused_until.is_none().then(|| self.bound.listener());
        let listener = listener.map(|it| PollFd::new(it.as_fd(), PollFlags::POLLIN));
        let connection = self.connection.iter().map(|connection| {
            let mut events = PollFlags::POLLIN;
            if connection.is_writing() {
                events |= PollFlags::POLLOUT;
            }
            PollFd::new(connection.stream.as_fd(), events)
        });
        listener.into_iter().chain(connection)
    }

    /// How long it may be until [`turn`](Self::turn) is called again.
    pub fn timeout(&self, now: Instant) -> Option<Duration> {
        if self.connection.as_ref().is_some_and(|it| it.over.is_some()) {
            return Some(Duration::ZERO);
        }
        let until = self.paused_until;
        until.map(|until| until.saturating_duration_since(now))
    }

    /// Takes in what came, and sends what there is to send.
    pub fn turn(&mut self, now: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        let over = self.connection.as_mut().and_then(|it| it.over.take());
        if let Some(end) = over {
            self.connection = None;
            events.push(end);
        }
        // Of one that ends and one that comes at the same time the end is told first.
        if let Some(connection) = &mut self.connection {
            match connection.turn(now) {
                Ok(in_sync) => events.extend(in_sync.map(Event::InSync)),
                // What it said last counts; the end is told when that has been acted on.
                Err(end) if connection.pending.is_some() && connection.state.is_in_sync() => {
                    connection.drained = true;
                    connection.over = Some(Event::Ended(end));
                    // Who comes now waits for that.
                    return events;
                }
                Err(end) => {
                    self.connection = None;
                    events.push(Event::Ended(end));
                }
            }
        }
        if let Some(stream) = self.accept(now) {
            let replaced = self.connection.is_some();
            self.connection = Some(Connection::new(stream, &self.node, now));
            events.push(Event::Connected { replaced });
        }
        events
    }

    /// What Felix has said, when there is something new of it to act on and no more to be read at the moment. Once; never
    /// before its snapshot is complete.
    pub fn batch(&mut self, now: Instant) -> Option<&State> {
        let connection = self.connection.as_mut()?;
        let since = connection.pending?;
        let is_due = connection.drained || now.duration_since(since) >= LONGEST_BATCH;
        if !is_due || !connection.state.is_in_sync() {
            return None;
        }
        connection.pending = None;
        Some(&connection.state)
    }

    /// The newest of those who wait; the others are gone again.
    fn accept(&mut self, now: Instant) -> Option<UnixStream> {
        if self.paused_until.is_some_and(|until| until > now) {
            return None;
        }
        self.paused_until = None;
        let mut newest = None;
        loop {
            match self.bound.listener().accept() {
                Ok((stream, _)) => newest = admitted(stream).or(newest),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return newest,
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::ECONNABORTED | libc::EINTR)) => {}
                Err(error) => {
                    tracing::warn!(%error, "no connections to Felix's socket are taken for a second");
                    self.paused_until = Some(now + OUT_OF_DESCRIPTORS);
                    return newest;
                }
            }
        }
    }
}

/// The connection, if it is root's or our own user's.
fn admitted(stream: UnixStream) -> Option<UnixStream> {
    stream.set_nonblocking(true).ok()?;
    let peer = getsockopt(&stream, PeerCredentials).map(|peer| peer.uid());
    let own = geteuid().as_raw();
    if !peer.is_ok_and(|uid| uid == 0 || uid == own) {
        tracing::warn!(?peer, "refused at Felix's socket: only root may connect");
        return None;
    }
    Some(stream)
}

impl Connection {
    fn new(stream: UnixStream, node: &str, now: Instant) -> Self {
        Self {
            stream,
            frames: Frames::default(),
            state: State::new(node),
            since: now,
            sequence: 0,
            ignored: 0,
            pending: None,
            drained: false,
            output: Vec::new(),
            written: 0,
            next: 0,
            over: None,
        }
    }

    /// What Felix has said so far.
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Messages that came.
    pub const fn messages(&self) -> u64 {
        self.frames.count()
    }

    /// Whether something is still to be sent. Then nothing more should be said: who does not read is not to cost memory.
    pub const fn is_writing(&self) -> bool {
        self.written < self.output.len()
    }

    /// Says something to Felix.
    pub fn say(&mut self, payload: FromPayload) {
        let message = FromDataplane {
            sequence_number: self.next,
            payload: Some(payload),
        };
        self.next += 1;
        self.output.extend(frame::encode(&message));
    }

    /// Reads and writes. An error ends the connection, with its reason unless it was ended in order. Says after how many
    /// messages the snapshot was complete, if that was now.
    fn turn(&mut self, now: Instant) -> Result<Option<u64>, Option<String>> {
        self.flush().map_err(|error| Some(error.to_string()))?;
        let mut piece = vec![0; PIECE];
        let (mut in_sync, mut left) = (None, SLICE);
        self.drained = false;
        while left > 0 {
            match self.stream.read(&mut piece) {
                Ok(0) => {
                    self.frames.end().map_err(|error| Some(error.to_string()))?;
                    return Err(None);
                }
                Ok(count) => {
                    left = left.saturating_sub(count);
                    self.frames.push(piece.get(..count).unwrap_or_default());
                    in_sync = self.take(now).map_err(Some)?.or(in_sync);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.drained = true;
                    break;
                }
                Err(error) => return Err(Some(error.to_string())),
            }
        }
        Ok(in_sync)
    }

    /// Takes the messages that are whole.
    fn take(&mut self, now: Instant) -> Result<Option<u64>, String> {
        let mut in_sync = None;
        while let Some(message) = self.frames.take().map_err(|error| error.to_string())? {
            self.sequence = message.sequence_number;
            match self.state.take(message) {
                Taken::Update => drop(self.pending.get_or_insert(now)),
                Taken::InSync => {
                    in_sync = Some(self.frames.count());
                    // Also a snapshot of nothing is to be acted on.
                    self.pending.get_or_insert(now);
                }
                Taken::Ignored => self.ignored += 1,
            }
        }
        Ok(in_sync)
    }

    fn flush(&mut self) -> io::Result<()> {
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
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::felix::frame::encode;
    use crate::felix::proto::{
        ConfigUpdate, InSync, IpSetUpdate, Payload, ProcessStatusUpdate, ToDataplane,
    };

    /// A socket, turned by hand. It goes with the test.
    struct Bench {
        link: Link,
        path: PathBuf,
        now: Instant,
    }

    impl Bench {
        fn new(name: &str) -> Self {
            let name = format!("car-link-{}-{name}", std::process::id());
            let dir = std::env::temp_dir().join(name);
            std::fs::create_dir(&dir).unwrap();
            let path = dir.join("felix.sock");
            let bound = Bound::bind_for(&path, PURPOSE).unwrap();
            Self {
                link: Link::new(bound, "node1"),
                path,
                now: Instant::now(),
            }
        }

        fn connect(&mut self) -> UnixStream {
            let felix = UnixStream::connect(&self.path).unwrap();
            let events = self.turn();
            assert!(matches!(events.last(), Some(Event::Connected { .. })));
            felix
        }

        fn turn(&mut self) -> Vec<Event> {
            self.link.turn(self.now)
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(self.path.parent().unwrap());
        }
    }

    fn say(mut felix: &UnixStream, payload: Payload) {
        let message = ToDataplane {
            sequence_number: 5,
            payload: Some(payload),
        };
        felix.write_all(&encode(&message)).unwrap();
    }

    #[test]
    fn a_batch_is_what_came_after_the_snapshot_was_complete() {
        let mut bench = Bench::new("batch");
        let felix = bench.connect();
        say(&felix, Payload::ConfigUpdate(ConfigUpdate::default()));
        assert_eq!(bench.turn(), []);
        assert!(bench.link.batch(bench.now).is_none());
        // However long that takes.
        bench.now += 2 * LONGEST_BATCH;
        assert!(bench.link.batch(bench.now).is_none());
        say(&felix, Payload::InSync(InSync {}));
        assert_eq!(bench.turn(), [Event::InSync(2)]);
        assert!(bench.link.batch(bench.now).is_some());
        assert!(bench.link.batch(bench.now).is_none(), "once");
        assert_eq!(bench.turn(), []);
        assert!(bench.link.batch(bench.now).is_none(), "nothing is new");
        say(&felix, Payload::ConfigUpdate(ConfigUpdate::default()));
        assert_eq!(bench.turn(), []);
        assert!(bench.link.batch(bench.now).is_some());
        let connection = bench.link.connection().unwrap();
        assert_eq!((connection.messages(), connection.sequence), (3, 5));
    }

    #[test]
    fn what_comes_without_a_pause_is_taken_now_and_then() {
        let mut bench = Bench::new("flood");
        let felix = bench.connect();
        say(&felix, Payload::InSync(InSync {}));
        assert_eq!(bench.turn(), [Event::InSync(1)]);
        assert!(bench.link.batch(bench.now).is_some());
        let set = IpSetUpdate {
            id: "s".to_owned(),
            members: vec!["10.0.0.0/8".to_owned(); SLICE / 4],
            kind: 2,
        };
        let sender = std::thread::spawn(move || {
            for _ in 0..2 {
                say(&felix, Payload::IpSetUpdate(set.clone()));
            }
            felix
        });
        // A message is several slices long. Of the first one something is taken when it is whole.
        while bench.link.connection().unwrap().messages() < 2 {
            assert_eq!(bench.turn(), []);
        }
        bench.link.connection_mut().unwrap().drained = false;
        assert!(bench.link.batch(bench.now).is_none(), "more is there");
        bench.now += LONGEST_BATCH;
        assert!(bench.link.batch(bench.now).is_some());
        while bench.link.connection().unwrap().messages() < 3 {
            assert_eq!(bench.turn(), []);
        }
        drop(sender.join().unwrap());
    }

    #[test]
    fn the_newest_felix_counts_and_an_end_has_its_reason() {
        let mut bench = Bench::new("ends");
        let first = bench.connect();
        let mut second = UnixStream::connect(&bench.path).unwrap();
        assert_eq!(bench.turn(), [Event::Connected { replaced: true }]);
        let mut rest = Vec::new();
        (&first).read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty(), "it is let go");
        second.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        let events = bench.turn();
        let [Event::Ended(Some(why))] = &*events else {
            panic!("{events:?}");
        };
        assert!(why.contains("is that Felix?"), "{why}");
        assert!(bench.link.connection().is_none());
        // In order, and within a message.
        drop(bench.connect());
        assert_eq!(bench.turn(), [Event::Ended(None)]);
        let mut third = bench.connect();
        third.write_all(&[1, 0, 0]).unwrap();
        drop(third);
        let events = bench.turn();
        assert!(matches!(&*events, [Event::Ended(Some(_))]), "{events:?}");
    }

    #[test]
    fn what_was_said_before_the_end_counts() {
        let mut bench = Bench::new("last");
        let update = || Payload::ConfigUpdate(ConfigUpdate::default());
        let mut felix = bench.connect();
        say(&felix, update());
        say(&felix, Payload::InSync(InSync {}));
        drop(felix);
        // The next one is there already.
        let next = UnixStream::connect(&bench.path).unwrap();
        assert_eq!(bench.turn(), []);
        assert!(bench.link.batch(bench.now).is_some());
        assert_eq!(bench.link.timeout(bench.now), Some(Duration::ZERO));
        let connected = Event::Connected { replaced: false };
        assert_eq!(bench.turn(), [Event::Ended(None), connected]);
        assert!(bench.link.batch(bench.now).is_none());
        drop(next);
        assert_eq!(bench.turn(), [Event::Ended(None)]);
        // Also before what is none of Felix's; and nobody's snapshot that is not complete.
        for (is_all, turns) in [(true, 2), (false, 1)] {
            felix = bench.connect();
            say(&felix, update());
            if is_all {
                say(&felix, Payload::InSync(InSync {}));
            }
            felix.write_all(&[0xff; 8]).unwrap();
            let mut events = bench.turn();
            assert_eq!(bench.link.batch(bench.now).is_some(), is_all);
            if turns == 2 {
                assert_eq!(events, []);
                events = bench.turn();
            }
            assert!(matches!(&*events, [Event::Ended(Some(_))]), "{events:?}");
        }
    }

    #[test]
    fn who_does_not_read_is_known() {
        let mut bench = Bench::new("slow");
        let felix = bench.connect();
        let said = || FromPayload::Process(ProcessStatusUpdate::default());
        let mut messages: u64 = 0;
        while !bench.link.connection().unwrap().is_writing() {
            let connection = bench.link.connection_mut().unwrap();
            (0..10_000).for_each(|_| connection.say(said()));
            messages += 10_000;
            assert_eq!(bench.turn(), []);
        }
        felix.set_nonblocking(true).unwrap();
        let (mut bytes, mut piece) = (Vec::new(), vec![0; PIECE]);
        while bench.link.connection().unwrap().is_writing() {
            while let Ok(count) = (&felix).read(&mut piece) {
                bytes.extend_from_slice(&piece[..count]);
            }
            assert_eq!(bench.turn(), []);
        }
        while let Ok(count) = (&felix).read(&mut piece) {
            bytes.extend_from_slice(&piece[..count]);
        }
        let (mut rest, mut count) = (&bytes[..], 0);
        while let Some((length, more)) = rest.split_first_chunk::<8>() {
            rest = &more[u64::from_le_bytes(*length) as usize..];
            count += 1;
        }
        assert_eq!((count, rest.len()), (messages, 0), "nothing is lost");
    }
}
