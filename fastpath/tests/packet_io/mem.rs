//! Packet I/O in memory.

use fastpath::io::mem::MemIo;
use fastpath::port::PortId;

use crate::contract::{Rig, TxRoom, packet_io_contract};

const ROOM: usize = 128;

struct Mem(MemIo);

impl Rig for Mem {
    type Io = MemIo;

    fn new() -> Self {
        Self(MemIo::new(512, 2048, 2, ROOM))
    }

    fn io(&mut self) -> &mut MemIo {
        &mut self.0
    }

    fn arrive(&mut self, port: PortId, frames: &[Vec<u8>]) {
        for frame in frames {
            assert!(self.0.inject(port, frame));
        }
    }

    fn left(&mut self, port: PortId) -> Vec<Vec<u8>> {
        self.0.take_sent(port, <[u8]>::to_vec)
    }

    fn tx_room(&self) -> TxRoom {
        TxRoom::Frames(ROOM)
    }
}

packet_io_contract!(Mem);

#[test]
fn a_packet_that_no_chunk_holds_is_refused() {
    let mut io = MemIo::new(2, 2048, 1, 1);
    assert!(!io.inject(PortId(0), &[0; 2048 - 128 + 1]));
    assert!(!io.inject(PortId(1), &[0; 60]));
    assert_eq!(io.free_chunks(), 2);
    assert!(io.inject(PortId(0), &[0; 2048 - 128]));
}
