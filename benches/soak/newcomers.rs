//! Pod B's new connections: each is opened, says a byte, hears it back and is closed.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use benches::rounds::Result;
use fastpath::io::xsk::test_support::Netns;

use crate::lab::OUTSIDE;

const PORT: u16 = 5002;
/// Clients side by side, so that one that waits for a lost packet does not keep the others from trying.
const CLIENTS: usize = 4;
/// Between a client's connections.
const PAUSE: Duration = Duration::from_millis(10);
/// How long a connection may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// A connection that takes longer has lost a packet: TCP sends a SYN again after a second.
const PROMPT: Duration = Duration::from_millis(900);

/// How connections went.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// How long each took that came about.
    pub(crate) took: Vec<Duration>,
    /// Those that did not.
    pub(crate) failed: u64,
}

impl Tally {
    /// All that were tried.
    pub(crate) fn tried(&self) -> u64 {
        self.took.len() as u64 + self.failed
    }

    /// Those that lost no packet.
    pub(crate) fn prompt(&self) -> u64 {
        self.took.iter().filter(|&&took| took < PROMPT).count() as u64
    }

    /// Adds what another counted.
    pub(crate) fn add(&mut self, other: &Self) {
        self.took.extend(&other.took);
        self.failed += other.failed;
    }
}

/// The clients and their server; end when dropped.
pub(crate) struct Newcomers {
    tally: Arc<Mutex<Tally>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Newcomers {
    /// Begins.
    pub(crate) fn start(pod: &Netns, outside: &Netns) -> Result<Self> {
        let at = SocketAddr::from((OUTSIDE, PORT));
        let listener = outside.within(|| TcpListener::bind(at))?;
        listener.set_nonblocking(true)?;
        let tally = Arc::<Mutex<Tally>>::default();
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let mut threads = vec![thread::spawn(move || serve(&listener, &stopped))];
        for _ in 0..CLIENTS {
            let (tally, stopped) = (Arc::clone(&tally), Arc::clone(&stop));
            // A new thread begins in the namespace of the one that starts it.
            let _inside = pod.enter();
            threads.push(thread::spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    let started = Instant::now();
                    let came = once(at).is_ok();
                    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                    if came {
                        tally.took.push(started.elapsed());
                    } else {
                        tally.failed += 1;
                    }
                    drop(tally);
                    thread::sleep(PAUSE);
                }
            }));
        }
        Ok(Self {
            tally,
            stop,
            threads,
        })
    }

    /// What was counted since this was asked the last time.
    pub(crate) fn take(&self) -> Tally {
        std::mem::take(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Newcomers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn once(at: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0])
}

/// Answers one after the other: each is there for as long as a byte takes.
fn serve(listener: &TcpListener, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let Ok((mut stream, _)) = listener.accept() else {
            thread::sleep(Duration::from_micros(200));
            continue;
        };
        // A client that is gone ends its own connection only.
        let _ = stream
            .set_nonblocking(false)
            .and_then(|()| stream.set_read_timeout(Some(PATIENCE)))
            .and_then(|()| stream.read_exact(&mut [0]))
            .and_then(|()| stream.write_all(b"!"));
    }
}
