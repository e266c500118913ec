//! Packet I/O over the `afxdp` crate.

use fastpath::io::PacketIo as _;
use fastpath::io::afxdp::AfxdpIo;
use fastpath::io::xsk::test_support::can_run;
use fastpath::port::PortId;

use crate::contract::{Rig, TxRoom, packet_io_contract};
use crate::veth::{NEAR, Wire};

struct Afxdp {
    io: AfxdpIo,
    wire: Wire,
}

impl Rig for Afxdp {
    type Io = AfxdpIo;

    fn can_run(test: &str) -> bool {
        can_run(test)
    }

    fn new() -> Self {
        let wire = Wire::new();
        let io = wire
            .near
            .within(|| AfxdpIo::open(&NEAR).expect("two ports"));
        Self { io, wire }
    }

    fn io(&mut self) -> &mut AfxdpIo {
        &mut self.io
    }

    fn arrive(&mut self, port: PortId, frames: &[Vec<u8>]) {
        self.wire.send(port, frames);
    }

    fn left(&mut self, port: PortId) -> Vec<Vec<u8>> {
        self.io.flush();
        self.wire.received(port)
    }

    fn tx_room(&self) -> TxRoom {
        TxRoom::Frames(512)
    }
}

packet_io_contract!(Afxdp);
