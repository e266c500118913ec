//! IPv4 fragmentation.
use crate::batch::{Batch, Packet};
use crate::io::PacketIo;
use crate::reason::DropReason;
use crate::tables::Adjacency;
use encap::flow_hash::HashKey;
pub fn run<I: PacketIo>(
    _packet: &mut Packet,
    _io: &mut I,
    _adjacency: &Adjacency,
    _key: &HashKey,
    _own: &mut Batch,
) -> Result<(), DropReason> {
    Err(DropReason::MtuExceeded)
}
