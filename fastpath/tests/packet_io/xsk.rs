//! Packet I/O over our own AF_XDP sockets.

use fastpath::io::PacketIo as _;
use fastpath::io::xsk::test_support::{XdpLink, XdpProgram, can_run};
use fastpath::io::xsk::{Command, RingLen, SocketOptions, UmemArea, XskIo, XskSocket};
use fastpath::port::PortId;
use flowtable::Tick;

use crate::contract::{Rig, TxRoom, filled, frames, packet_io_contract};
use crate::veth::{NEAR, Wire};

const RING: u32 = 512;

struct Xsk {
    io: XskIo,
    _links: Vec<(XdpProgram, XdpLink)>,
    wire: Wire,
}

impl Rig for Xsk {
    type Io = XskIo;

    fn can_run(test: &str) -> bool {
        can_run(test)
    }

    fn new() -> Self {
        let wire = Wire::new();
        let (area, mut parts) = UmemArea::new(&[4 * RING], 2048, false).expect("packet memory");
        let (mut io, control) =
            XskIo::new(parts.pop().expect("one part"), 2).expect("an epoll set");
        let mut links = Vec::new();
        wire.near.within(|| {
            for (index, name) in NEAR.into_iter().enumerate() {
                let program = XdpProgram::redirect(1);
                let link = program.attach(name);
                let options = SocketOptions::both_ways(RingLen::new(RING).expect("a power of two"));
                let socket = XskSocket::open(&area, name, 0, &options).expect("a socket");
                program.set_socket(0, &socket);
                let attach = Command::Attach {
                    port: PortId(index as u16),
                    socket: Box::new(socket),
                };
                control.send(attach).expect("room for two commands");
                links.push((program, link));
            }
        });
        io.maintain(Tick(0));
        Self {
            io,
            _links: links,
            wire,
        }
    }

    fn io(&mut self) -> &mut XskIo {
        &mut self.io
    }

    fn arrive(&mut self, port: PortId, frames: &[Vec<u8>]) {
        self.wire.send(port, frames);
    }

    fn left(&mut self, port: PortId) -> Vec<Vec<u8>> {
        self.io.flush();
        self.wire.received(port)
    }

    /// Of a ring that the kernel does not drain a batch leaves four times what it takes.
    fn tx_room(&self) -> TxRoom {
        TxRoom::Frames((RING as usize).div_ceil(5))
    }

    /// The kernel drains the ring of a veth as soon as it is asked to, unless the interface is down.
    fn block(&mut self, port: PortId) {
        let name = NEAR[usize::from(port.0)];
        self.wire.near.ip(&format!("link set {name} down"));
    }

    fn unblock(&mut self, port: PortId) {
        let name = NEAR[usize::from(port.0)];
        self.wire.near.ip(&format!("link set {name} up"));
        // A second later it looks again.
        self.io.maintain(Tick(1_000_000_000));
    }

    fn free_chunks(&mut self) -> usize {
        self.io.flush();
        let places = self.io.part().accounting();
        (places.free + places.receiving) as usize
    }
}

packet_io_contract!(Xsk);

#[test]
fn more_than_the_ring_holds_leaves_in_one_round() {
    if !can_run("xsk::more_than_the_ring_holds_leaves_in_one_round") {
        return;
    }
    let mut rig = Xsk::new();
    let packets = frames(RING as usize * 3 / 2, 11);
    for packet in &packets {
        let frame = filled(rig.io(), packet);
        rig.io().send(PortId(0), frame).expect("drained on demand");
    }
    assert!(rig.left(PortId(0)) == packets, "all, in order");
}
