//! What the tests build on: two namespaces joined by a veth pair, AF_XDP at either end.

use std::time::{Duration, Instant};

use fastpath::io::xsk::test_support::{Netns, XdpLink, XdpProgram};
use fastpath::io::xsk::{
    ArenaPart, FrameSpan, QueuePort, RingLen, SocketOptions, UmemArea, XskSocket,
};

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// `l0` in `left` is the other end of `r0` in `right`.
pub(crate) struct Lab {
    pub(crate) left: Netns,
    pub(crate) right: Netns,
}

impl Lab {
    pub(crate) fn new(queues: u32) -> Self {
        let lab = Self {
            left: Netns::new("left"),
            right: Netns::new("right"),
        };
        lab.left.veth("l0", &lab.right, "r0", queues);
        lab
    }
}

pub(crate) fn ring(len: u32) -> RingLen {
    RingLen::new(len).expect("a power of two")
}

pub(crate) fn both_ways(len: u32) -> SocketOptions {
    SocketOptions::both_ways(ring(len))
}

/// A socket with a packet memory of its own, and the program that feeds it.
pub(crate) struct End {
    pub(crate) port: QueuePort,
    pub(crate) part: ArenaPart,
    /// Attached as long as the end lives.
    _link: XdpLink,
}

impl End {
    /// Takes all of queue 0 of `interface`.
    pub(crate) fn open(
        netns: &Netns,
        interface: &str,
        chunks: u32,
        options: &SocketOptions,
    ) -> Self {
        let (area, mut part) = arena(chunks);
        let port = open_port(netns, &area, &mut part, interface, 0, options);
        let program = XdpProgram::redirect(1);
        program.set_socket(0, port.socket());
        let link = netns.within(|| program.attach(interface));
        Self {
            port,
            part,
            _link: link,
        }
    }

    /// Sends `bytes` as one frame that starts at `start` in its chunk.
    pub(crate) fn send(&mut self, bytes: &[u8], start: u16) {
        send(&mut self.port, &mut self.part, bytes, start);
    }

    /// The next `count` frames' bytes.
    pub(crate) fn receive(&mut self, count: usize) -> Vec<Vec<u8>> {
        receive(&mut self.port, &mut self.part, count)
    }
}

/// A packet memory of one part.
pub(crate) fn arena(chunks: u32) -> (UmemArea, ArenaPart) {
    let (area, mut parts) = UmemArea::new(&[chunks], 2048, false).expect("an arena");
    (area, parts.remove(0))
}

pub(crate) fn open_port(
    netns: &Netns,
    area: &UmemArea,
    part: &mut ArenaPart,
    interface: &str,
    queue: u32,
    options: &SocketOptions,
) -> QueuePort {
    let socket = netns
        .within(|| XskSocket::open(area, interface, queue, options))
        .expect("a socket");
    QueuePort::new(socket, part).expect("a port")
}

/// Sends `bytes` as one frame that starts at `start` in its chunk; waits for room.
pub(crate) fn send(port: &mut QueuePort, part: &mut ArenaPart, bytes: &[u8], start: u16) {
    let chunk = until("a free chunk", || {
        port.flush().expect("the port is up");
        port.reap(part);
        part.alloc()
    });
    let frame = FrameSpan {
        chunk,
        start,
        len: bytes.len() as u16,
    };
    part.frame(frame).copy_from_slice(bytes);
    until("room in the TX ring", || {
        port.reap(part);
        if port.send(part, frame).is_ok() {
            return Some(());
        }
        port.flush().expect("the port is up");
        None
    });
    port.flush().expect("the port is up");
}

/// The next `count` frames' bytes; their chunks are free again.
pub(crate) fn receive(port: &mut QueuePort, part: &mut ArenaPart, count: usize) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    until("frames", || {
        let mut batch = [FrameSpan::default(); 64];
        let received = port.recv(part, &mut batch);
        for &frame in &batch[..received] {
            all.push(part.frame(frame).to_vec());
            part.release(frame.chunk);
        }
        port.refill(part);
        (all.len() >= count).then_some(())
    });
    all
}

/// Everything the port has sent is back.
pub(crate) fn drain(port: &mut QueuePort, part: &mut ArenaPart) {
    until("completions", || {
        let _ = port.flush();
        port.reap(part);
        (port.outstanding() == 0).then_some(())
    });
}

/// Tries until it works.
pub(crate) fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(done) = attempt() {
            return done;
        }
        assert!(
            started.elapsed() < PATIENCE,
            "no {what} within {PATIENCE:?}"
        );
        std::thread::yield_now();
    }
}

/// An Ethernet frame of a type that the kernel has no use for, `len` bytes, recognisable by `seed`.
pub(crate) fn frame(seed: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 0x88, 0xb5];
    bytes.extend(seed.to_be_bytes());
    let mut state = seed;
    while bytes.len() < len {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes.push((state >> 24) as u8);
    }
    bytes.truncate(len.max(18));
    bytes
}
