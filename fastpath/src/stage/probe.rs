//! What the stages before policy say of a packet that nobody sent: for `caracal trace`, with the stages' own checks.

use std::net::IpAddr;

use flowtable::lpm::NextHopId;

use crate::batch::{Batch, Fate, Packet, PeerId, flag};
use crate::frame::Frame;
use crate::port::PortId;
use crate::reason::DropReason;
use crate::stage::{flow, parse, resolve};
use crate::tables::Tables;

/// A lone packet on its way. There is no frame: nothing can be sent.
#[derive(Debug)]
pub struct Probe {
    batch: Batch,
    in_port: PortId,
}

impl Probe {
    /// The checks that need only the packet and its port. `peer` is the node whose tunnel it came out of, or [`PeerId::NONE`].
    ///
    /// # Errors
    /// Why it is dropped.
    pub fn parse(
        tables: &Tables,
        l3: &[u8],
        in_port: PortId,
        peer: PeerId,
    ) -> Result<Self, DropReason> {
        let port = tables.port(in_port).ok_or(DropReason::PortDown)?;
        let mut batch = Batch::default();
        let Ok(packet) = batch.push(Frame::NONE, in_port) else {
            return Err(DropReason::PortDown);
        };
        packet.peer = peer;
        parse::lone(packet, l3, port, &tables.tunnels)?;
        Ok(Self { batch, in_port })
    }

    /// The backend that it gets, if it is a pod's and goes to a service: address and port. `hash` is that of its connection, by which the
    /// backend is chosen ([`FlowTable::flow_hash`](flowtable::flow::FlowTable::flow_hash)).
    ///
    /// # Errors
    /// Why it is dropped.
    pub fn give_backend(
        &mut self,
        tables: &Tables,
        hash: u32,
    ) -> Result<Option<(IpAddr, u16)>, DropReason> {
        let [packet] = self.batch.packets() else {
            return Err(DropReason::PortDown);
        };
        packet.flow_hash = hash;
        flow::to_backend(packet, tables)?;
        let backend = packet.destination().map(|addr| (addr, packet.ports.1));
        Ok(backend.filter(|_| packet.has(flag::TRANSLATE)))
    }

    /// Where it goes, and whether it may come from where it does.
    ///
    /// # Errors
    /// Why it is dropped.
    pub fn resolve(&mut self, tables: &Tables) -> Result<NextHopId, DropReason> {
        resolve::run(&mut self.batch, tables, tables.port(self.in_port));
        match self.batch.packets() {
            [
                Packet {
                    fate: Fate::Drop(reason),
                    ..
                },
            ] => Err(*reason),
            [packet] => Ok(packet.next_hop),
            _ => Err(DropReason::PortDown),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_not_there_lets_nothing_in() {
        let probe = Probe::parse(&Tables::default(), &[0x45; 20], PortId(3), PeerId::NONE);
        assert_eq!(probe.err(), Some(DropReason::PortDown));
    }
}
