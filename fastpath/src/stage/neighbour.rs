//! ARP and neighbour discovery, as Calico's host side answers them.
use crate::batch::Packet;
use crate::event::Events;
use crate::port::{Port, PortId};
use crate::reason::DropReason;
use encap::eth::MacAddr;

pub(super) fn is_discovery(packet: &Packet) -> bool {
    packet.ip6.upper.protocol == 58 && false
}
pub(super) fn arp(
    _packet: &mut Packet,
    _bytes: &mut [u8],
    _id: PortId,
    _port: &Port,
    _src: MacAddr,
    _events: &mut Events,
) -> Result<(), DropReason> {
    Err(DropReason::ArpIgnored)
}
pub(super) fn discovery(
    _packet: &mut Packet,
    _bytes: &mut [u8],
    _id: PortId,
    _port: &Port,
    _src: MacAddr,
    _events: &mut Events,
) -> Result<(), DropReason> {
    Err(DropReason::ArpIgnored)
}
