//! Two veths whose far ends are AF_XDP sockets too: what implementations over real interfaces are judged with.

use fastpath::io::xsk::test_support::{Netns, XdpLink, XdpProgram};
use fastpath::io::xsk::{
    ArenaPart, FrameSpan, QueuePort, RingLen, SocketOptions, UmemArea, XskSocket,
};
use fastpath::port::PortId;

/// Names of the near ends, port 0's and port 1's.
pub(crate) const NEAR: [&str; 2] = ["near0", "near1"];
const FAR: [&str; 2] = ["far0", "far1"];
/// Slots of the far ends' rings.
const RING: u32 = 1024;

/// The far ends.
pub(crate) struct Wire {
    ends: [QueuePort; 2],
    part: ArenaPart,
    _links: [XdpLink; 2],
    _programs: [XdpProgram; 2],
    /// Where the near ends are. Last, so that the namespaces go after all that lives in them.
    pub(crate) near: Netns,
    _far: Netns,
}

impl Wire {
    pub(crate) fn new() -> Self {
        let (near, far) = (Netns::new("near"), Netns::new("far"));
        for (ours, theirs) in NEAR.into_iter().zip(FAR) {
            near.veth(ours, &far, theirs, 1);
        }
        let (area, mut parts) = UmemArea::new(&[8 * RING], 2048, false).expect("packet memory");
        let mut part = parts.pop().expect("one part");
        let open = |name: &str| {
            let program = XdpProgram::redirect(1);
            let link = program.attach(name);
            let options = SocketOptions::both_ways(RingLen::new(RING).expect("a power of two"));
            let socket = XskSocket::open(&area, name, 0, &options).expect("a socket");
            program.set_socket(0, &socket);
            (program, link, socket)
        };
        let [first, second] = far.within(|| FAR.map(open));
        let mut join = |socket| QueuePort::new(socket, &mut part).expect("a port");
        let ends = [join(first.2), join(second.2)];
        Self {
            ends,
            part,
            _links: [first.1, second.1],
            _programs: [first.0, second.0],
            near,
            _far: far,
        }
    }

    /// Sends frames from the far end of a port.
    pub(crate) fn send(&mut self, port: PortId, frames: &[Vec<u8>]) {
        let end = &mut self.ends[usize::from(port.0)];
        for frame in frames {
            let chunk = self.part.alloc().expect("a free chunk");
            self.part.chunk(chunk)[..frame.len()].copy_from_slice(frame);
            let span = FrameSpan {
                chunk,
                start: 0,
                len: frame.len() as u16,
            };
            end.send(&mut self.part, span)
                .expect("room in the far end's ring");
            end.flush().expect("the far end is up");
            end.reap(&mut self.part);
        }
    }

    /// What came to the far end of a port.
    pub(crate) fn received(&mut self, port: PortId) -> Vec<Vec<u8>> {
        let end = &mut self.ends[usize::from(port.0)];
        let mut spans = [FrameSpan::default(); 64];
        let mut all = Vec::new();
        loop {
            let count = end.recv(&mut self.part, &mut spans);
            if count == 0 {
                return all;
            }
            for span in &spans[..count] {
                all.push(self.part.frame(*span).to_vec());
                self.part.release(span.chunk);
            }
            end.refill(&mut self.part);
        }
    }
}
