//! Pod B's established connection: bytes to the server outside, at a steady rate or as fast as TCP goes.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use benches::rounds::Result;
use fastpath::io::xsk::test_support::Netns;

use crate::lab::OUTSIDE;

const PORT: u16 = 5001;
/// Bytes written at once.
const CHUNK: usize = 16 << 10;
/// What a writer that was kept from its rate may make up for: no more than this, or a stall would be hidden.
const DEBT: Duration = Duration::from_millis(20);

/// The transfer; ends when dropped.
pub(crate) struct Transfer {
    received: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    stream: TcpStream,
    threads: Vec<JoinHandle<()>>,
}

impl Transfer {
    /// Begins it with `megabits` a second, 0 for no limit.
    pub(crate) fn start(pod: &Netns, outside: &Netns, megabits: u64) -> Result<Self> {
        let at = SocketAddr::from((OUTSIDE, PORT));
        let listener = outside.within(|| TcpListener::bind(at))?;
        let stream = pod.within(|| TcpStream::connect_timeout(&at, Duration::from_secs(10)))?;
        let (mut server, _) = listener.accept()?;
        let received = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::clone(&received);
        let reader = thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(len @ 1..) = server.read(&mut buffer) {
                count.fetch_add(len as u64, Ordering::Relaxed);
            }
        });
        let mut writer = stream.try_clone()?;
        let stopped = Arc::clone(&stop);
        let writer = thread::spawn(move || {
            let chunk = vec![0x42; CHUNK];
            let pace = (CHUNK as u64 * 8000)
                .checked_div(megabits)
                .map_or(Duration::ZERO, Duration::from_nanos);
            let mut due = Instant::now();
            while !stopped.load(Ordering::Relaxed) && writer.write_all(&chunk).is_ok() {
                let now = Instant::now();
                due = (due + pace).max(now.checked_sub(DEBT).unwrap_or(now));
                thread::sleep(due.saturating_duration_since(now));
            }
        });
        Ok(Self {
            received,
            stop,
            stream,
            threads: vec![reader, writer],
        })
    }

    /// Bytes that the server has read so far.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
