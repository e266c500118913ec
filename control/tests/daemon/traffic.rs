//! Ordinary sockets in namespaces: what users' programs see.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use control::netlink::NetNs;

use crate::lab::run;
use crate::process::PATIENCE;

/// The port of echo servers.
const ECHO: u16 = 7;
const TICK: Duration = Duration::from_millis(50);

/// A UDP server that sends back what comes. Ends when dropped.
pub(crate) struct Echo {
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Serves one address of a namespace.
    pub(crate) fn at(netns: &NetNs, addr: IpAddr) -> Self {
        let socket = run(netns, || UdpSocket::bind((addr, ECHO))).expect("bind");
        socket.set_read_timeout(Some(TICK)).expect("timeout");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((len, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..len], from);
                }
            }
        });
        Self {
            addr: (addr, ECHO).into(),
            stop,
            thread: Some(thread),
        }
    }

    /// Its address.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Numbered datagrams to an echo server at a steady pace, and which came back. Ends when dropped.
pub(crate) struct Stream {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    sent: AtomicU64,
    back: Mutex<Vec<bool>>,
}

impl Stream {
    /// From `from` in a namespace, one every `pace`.
    pub(crate) fn start(netns: &NetNs, from: IpAddr, to: SocketAddr, pace: Duration) -> Self {
        let socket = run(netns, || UdpSocket::bind((from, 0))).expect("bind");
        Self::over(socket, to, pace)
    }

    /// Over a socket.
    pub(crate) fn over(socket: UdpSocket, to: SocketAddr, pace: Duration) -> Self {
        socket.set_read_timeout(Some(TICK)).expect("timeout");
        let shared = Arc::new(Shared::default());
        let receiver = socket.try_clone().expect("clone");
        let (send, hear) = (Arc::clone(&shared), Arc::clone(&shared));
        let sender = thread::spawn(move || {
            while !send.stop.load(Ordering::Relaxed) {
                let number = send.sent.load(Ordering::Relaxed);
                let _ = socket.send_to(&number.to_be_bytes(), to);
                send.sent.store(number + 1, Ordering::Relaxed);
                thread::sleep(pace);
            }
        });
        let receiver = thread::spawn(move || {
            let mut buffer = [0; 2048];
            // Those under way at the end are waited for.
            let mut quiet = 0;
            while quiet < 10 {
                let Ok(len) = receiver.recv(&mut buffer) else {
                    quiet += i32::from(hear.stop.load(Ordering::Relaxed));
                    continue;
                };
                let Ok(number) = <[u8; 8]>::try_from(&buffer[..len]) else {
                    continue;
                };
                let index = u64::from_be_bytes(number) as usize;
                let mut back = hear.back.lock().expect("stream");
                if back.len() <= index {
                    back.resize(index + 1, false);
                }
                back[index] = true;
            }
        });
        Self {
            shared,
            threads: vec![sender, receiver],
        }
    }

    /// Waits until something that is sent from now on has come back, and says how long that took.
    pub(crate) fn wait_for_reply(&self) -> Duration {
        let start = Instant::now();
        let first = self.shared.sent.load(Ordering::Relaxed) as usize;
        loop {
            let come = |back: &Vec<bool>| back.iter().skip(first).any(|&come| come);
            if come(&self.shared.back.lock().expect("stream")) {
                return start.elapsed();
            }
            assert!(start.elapsed() < PATIENCE, "nothing comes back");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether anything comes back that is sent within `time` from now on.
    pub(crate) fn flows_within(&self, time: Duration) -> bool {
        let first = self.shared.sent.load(Ordering::Relaxed) as usize;
        thread::sleep(time);
        let back = self.shared.back.lock().expect("stream");
        back.iter().skip(first).any(|&come| come)
    }

    /// Ends it: how many were sent, and how many of them did not come back.
    pub(crate) fn finish(mut self) -> (u64, u64) {
        self.end();
        let sent = self.shared.sent.load(Ordering::Relaxed);
        let back = self.shared.back.lock().expect("stream");
        let come = back.iter().filter(|&&come| come).count() as u64;
        (sent, sent - come)
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.end();
    }
}

/// Waits until a datagram from `from` to an echo server comes back.
pub(crate) fn reaches(netns: &NetNs, from: IpAddr, to: SocketAddr) -> Duration {
    answered(netns, from, to, PATIENCE).unwrap_or_else(|| panic!("{from} does not reach {to}"))
}

/// As [`reaches`], for so long at most; none if nothing came back.
pub(crate) fn answered(
    netns: &NetNs,
    from: IpAddr,
    to: SocketAddr,
    patience: Duration,
) -> Option<Duration> {
    let start = Instant::now();
    let socket = run(netns, || UdpSocket::bind((from, 0))).expect("bind");
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .expect("timeout");
    while start.elapsed() < patience {
        let _ = socket.send_to(b"are you there?", to);
        if matches!(socket.recv_from(&mut [0; 64]), Ok((14, _))) {
            return Some(start.elapsed());
        }
    }
    None
}

/// Sends `len` bytes each way over one TCP connection and compares them.
pub(crate) fn tcp(from: (&NetNs, IpAddr), to: (&NetNs, IpAddr), len: usize) {
    let listener = run(to.0, || TcpListener::bind((to.1, 0))).expect("listen");
    let at = listener.local_addr().expect("bound");
    let pattern: Vec<u8> = (0..len).map(|i| (i * 31 + i / 251) as u8).collect();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        let mut got = Vec::new();
        stream.read_to_end(&mut got).expect("read");
        stream.write_all(&got).expect("write back");
    });
    let mut stream = connect(from.0, from.1, at);
    stream.write_all(&pattern).expect("write");
    stream.shutdown(Shutdown::Write).expect("shutdown");
    let mut back = Vec::new();
    stream.read_to_end(&mut back).expect("read back");
    assert!(back == pattern, "{} -> {at}: other bytes came back", from.1);
    server.join().expect("server");
}

/// Opens a TCP connection from a namespace; the address it comes from must be `from`.
pub(crate) fn connect(netns: &NetNs, from: IpAddr, to: SocketAddr) -> TcpStream {
    let stream = run(netns, || TcpStream::connect_timeout(&to, PATIENCE))
        .unwrap_or_else(|error| panic!("{from} -> {to}: {error}"));
    assert_eq!(stream.local_addr().expect("bound").ip(), from);
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    stream
}
