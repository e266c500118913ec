//! The bare AF_XDP forwarder: what comes in at one port leaves at the other, untouched. No dataplane over
//! AF_XDP can take less of a processor, so this is what Caracal is measured against.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use fastpath::io::xsk::test_support::{Netns, XdpLink, XdpProgram};
use fastpath::io::xsk::wait::{WaitSet, Waker};
use fastpath::io::xsk::{
    ArenaPart, FrameSpan, QueuePort, RingLen, SocketOptions, UmemArea, XskSocket,
};

use crate::rounds::Result;

/// Slots of each ring. Longer ones cost: the chunks go around all of a fill ring, and with 2048 of them (4 MB)
/// they fall out of the L2 cache, which makes a packet of 64 B 10 % dearer and one of 1400 B 30 %.
const RING: u32 = 512;
/// Chunks for both ports.
const CHUNKS: u32 = 4 * RING;

/// A running forwarder; stops when dropped.
#[derive(Debug)]
pub struct Forwarder {
    shared: Arc<Shared>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
    _links: [XdpLink; 2],
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// The forwarding thread's number, once it runs.
    thread: AtomicI32,
    /// Empty rounds before it goes to sleep.
    spins: AtomicU64,
}

impl Forwarder {
    /// Starts forwarding between queue 0 of two interfaces of `netns`, both ways.
    ///
    /// # Errors
    /// What the sockets say.
    pub fn start(netns: &Netns, interfaces: [&str; 2]) -> Result<Self> {
        let (area, mut parts) = UmemArea::new(&[CHUNKS], 2048, false)?;
        let mut part = parts.pop().ok_or("an arena without a part")?;
        let options = SocketOptions::both_ways(RingLen::new(RING)?);
        let waits = WaitSet::new()?;
        let mut open = |interface: &str| -> Result<(QueuePort, XdpLink)> {
            let socket = netns.within(|| XskSocket::open(&area, interface, 0, &options))?;
            let program = XdpProgram::redirect(1);
            program.set_socket(0, &socket);
            let port = QueuePort::new(socket, &mut part)?;
            waits.add_port(&port, 0)?;
            Ok((port, netns.within(|| program.attach(interface))))
        };
        let (first, first_link) = open(interfaces[0])?;
        let (second, second_link) = open(interfaces[1])?;
        let shared = Arc::new(Shared::default());
        let waker = waits.waker();
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("bare-forwarder".to_owned())
            .spawn(move || forward(&of_thread, [first, second], part, waits))?;
        while shared.thread.load(Ordering::Acquire) == 0 {
            std::thread::yield_now();
        }
        Ok(Self {
            shared,
            waker,
            thread: Some(thread),
            _links: [first_link, second_link],
        })
    }

    /// The number of the forwarding thread.
    #[must_use]
    pub fn thread(&self) -> i32 {
        self.shared.thread.load(Ordering::Acquire)
    }

    /// Goes to sleep after this many rounds without a packet.
    pub fn set_spins(&self, spins: u64) {
        self.shared.spins.store(spins, Ordering::Relaxed);
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            // It panicked, if it did, on its own standard error.
            let _ = thread.join();
        }
    }
}

fn forward(shared: &Shared, mut ports: [QueuePort; 2], mut part: ArenaPart, mut waits: WaitSet) {
    shared
        .thread
        .store(nix::unistd::gettid().as_raw(), Ordering::Release);
    let mut batch = [FrameSpan::default(); 64];
    let mut idle = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        let mut received = 0;
        for from in 0..2 {
            let [first, second] = &mut ports;
            let (from, to) = if from == 0 {
                (first, second)
            } else {
                (second, first)
            };
            let count = from.recv(&mut part, &mut batch);
            if count == 0 {
                continue;
            }
            for &frame in batch.iter().take(count) {
                if to.send(&mut part, frame).is_err() {
                    part.release(frame.chunk);
                }
            }
            // A port that is down is the end of the bench, which sees that nothing arrives.
            let _ = to.flush();
            to.reap(&mut part);
            from.refill(&mut part);
            received += count;
        }
        idle = if received == 0 { idle + 1 } else { 0 };
        if idle > shared.spins.load(Ordering::Relaxed) {
            let _ = waits.wait(Some(Duration::from_millis(100)));
        }
    }
}
