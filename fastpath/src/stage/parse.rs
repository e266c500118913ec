//! From bytes to a parsed packet, and the checks that need only the packet and its port.

pub(super) mod ordinary;
#[cfg(test)]
mod tests;

use encap::eth::{self, EtherType, MacAddr};
use encap::ipv4::{self, Ipv4Error, Ipv4Info};
use encap::ipv6::{self, Ipv6Error, Ipv6Info};
use encap::l4;

use crate::batch::{Batch, Family, Packet, flag};
use crate::event::{Event, Events};
use crate::io::PacketIo;
use crate::port::{Port, PortId, PortKind};
use crate::reason::DropReason;
use crate::stage::neighbour;
use crate::stage::parse::ordinary::Ordinary;
use crate::tables::{Tables, Tunnels};

/// Parses every packet of a batch that came in by `port`; ARP and neighbour discovery are answered here.
#[inline(never)]
pub fn run<I: PacketIo>(
    batch: &mut Batch,
    io: &mut I,
    tables: &Tables,
    id: PortId,
    port: &Port,
    events: &mut Events,
) {
    let tunnels = &tables.tunnels;
    let ordinary = Ordinary::at(port, tunnels);
    for packet in batch.packets() {
        let bytes = packet.frame.of(io.chunk(&packet.frame));
        if !ordinary.take(packet, bytes) {
            let room = packet.frame.room(io.chunk(&packet.frame));
            if let Err(reason) = ethernet(packet, room, tunnels, id, port, events) {
                packet.drop(reason);
            }
        }
    }
}

/// Parses any packet. It is at the beginning of `room`, which ends with its chunk.
#[inline(never)]
fn ethernet(
    packet: &mut Packet,
    room: &mut [u8],
    tunnels: &Tunnels,
    id: PortId,
    port: &Port,
    events: &mut Events,
) -> Result<(), DropReason> {
    let bytes = room
        .get(..usize::from(packet.frame.len))
        .unwrap_or_default();
    let Some((header, rest)) = bytes.split_first_chunk::<{ eth::HEADER_LEN }>() else {
        return Err(DropReason::EthTruncated);
    };
    let (dst, src, ethertype) = eth::fields(header);
    let is_for_port = *dst == port.mac.0;
    if !is_for_port && !MacAddr(*dst).is_multicast() {
        return Err(DropReason::EthNotForUs);
    }
    if let PortKind::Pod(pod) = &port.kind {
        match pod.mac {
            Some(mac) if mac.0 != *src => return Err(DropReason::EthSourceMac),
            None if !MacAddr(*src).is_unicast() => return Err(DropReason::EthSourceMac),
            Some(_) | None => {}
        }
    }
    packet.l3 = eth::HEADER_LEN as u16;
    if port.partial_checksums {
        packet.flags |= flag::MAYBE_PARTIAL;
    }
    match ethertype {
        EtherType::IPV4 => {
            ip4(packet, rest, port, tunnels)?;
            // Multicast was dropped for its own reason by now.
            if !is_for_port {
                return Err(DropReason::EthBroadcast);
            }
        }
        EtherType::IPV6 => {
            let is_discovery = ip6(packet, rest, port, tunnels)?;
            if is_discovery {
                let src = MacAddr(*src);
                return neighbour::discovery(packet, room, id, port, src, events);
            }
            if packet.ip6.dst >> 120 == 0xff {
                return Err(DropReason::Multicast);
            }
            if !is_for_port {
                return Err(DropReason::EthBroadcast);
            }
        }
        EtherType::ARP => {
            let src = MacAddr(*src);
            return neighbour::arp(packet, room, id, port, src, events);
        }
        tag if tag.is_tag() => return Err(DropReason::EthVlan),
        _ => return Err(DropReason::EthUnknownType),
    }
    // The source address is checked by now, so the MAC address is the pod's.
    if let PortKind::Pod(pod) = &port.kind
        && pod.mac.is_none()
    {
        let mac = MacAddr(*src);
        events.push(Event::PodMac { port: id, mac });
    }
    Ok(())
}

/// Parses an IP packet without its frame, for [`probe`](crate::stage::probe).
pub(super) fn lone(
    packet: &mut Packet,
    l3: &[u8],
    port: &Port,
    tunnels: &Tunnels,
) -> Result<(), DropReason> {
    if l3.first().is_some_and(|byte| byte >> 4 == 6) {
        ip6(packet, l3, port, tunnels).map(|_| ())
    } else {
        ip4(packet, l3, port, tunnels)
    }
}

/// Parses an IPv4 packet and checks its addresses and its source.
#[inline(always)]
fn ip4(packet: &mut Packet, l3: &[u8], port: &Port, tunnels: &Tunnels) -> Result<(), DropReason> {
    packet.ip4.read(l3).map_err(ip4_reason)?;
    let ip = packet.ip4;
    packet.family = Family::V4;
    match &port.kind {
        // Before anything else: who spoofs learns nothing and costs nothing.
        PortKind::Pod(pod) => {
            if !pod.may_send_from4(ip.src) {
                return Err(DropReason::SourceSpoofed);
            }
        }
        PortKind::Host => packet.flags |= flag::KEEP_TTL,
        PortKind::Uplink => {}
    }
    addresses4(ip.src, ip.dst)?;
    transport4(packet, l3)?;
    if matches!(port.kind, PortKind::Pod(_)) && tunnels.refuse_of_pod(ip.protocol, packet.ports.1) {
        return Err(DropReason::TunnelFromPod);
    }
    Ok(())
}

/// The checks of RFC 1812 section 5.3.7.
#[inline(always)]
pub(super) fn addresses4(src: u32, dst: u32) -> Result<(), DropReason> {
    if ipv4::is_unicast(src) && ipv4::is_unicast(dst) {
        return Ok(());
    }
    unusual_addresses4(src, dst)
}

#[cold]
fn unusual_addresses4(src: u32, dst: u32) -> Result<(), DropReason> {
    let (from, to) = (ipv4::class(src), ipv4::class(dst));
    if !from.is_valid_source() {
        return Err(DropReason::MartianSource);
    }
    if !to.is_valid_destination() {
        return Err(match to {
            ipv4::AddrClass::Multicast | ipv4::AddrClass::Broadcast => DropReason::Multicast,
            _ => DropReason::MartianDestination,
        });
    }
    Ok(())
}

/// Finds the ports of an IPv4 packet, and refuses fragments that hide them.
#[inline(always)]
pub(super) fn transport4(packet: &mut Packet, l3: &[u8]) -> Result<(), DropReason> {
    let ip = &packet.ip4;
    let payload = l3
        .get(usize::from(ip.header_len())..usize::from(ip.total_len))
        .unwrap_or_default();
    if !ip.is_fragment()
        && let Some(ports) = l4::ordinary_ports(ip.protocol, payload)
    {
        if !ip.has_options() {
            packet.flags |= flag::ORDINARY;
        }
        packet.ports = ports;
        return Ok(());
    }
    packet.ports = unusual_ports4(ip, payload)?;
    Ok(())
}

#[cold]
fn unusual_ports4(ip: &Ipv4Info, payload: &[u8]) -> Result<(u16, u16), DropReason> {
    if ip.is_later_fragment() {
        if l4::overwrites_tcp_flags(ip.protocol, ip.fragment_offset()) {
            return Err(DropReason::Ip4Fragment);
        }
        return Ok((0, 0));
    }
    let parsed = if ip.is_fragment() {
        l4::parse_first_fragment(ip.protocol, payload).map_err(|_| DropReason::Ip4Fragment)
    } else {
        // A truncated transport header is the receiver's business: it has no ports, and no port rule matches it.
        Ok(l4::parse(ip.protocol, payload).unwrap_or(l4::Transport::Other))
    };
    Ok(parsed?.ports())
}

/// Parses an IPv6 packet and checks its addresses and its source. Whether it is neighbour discovery, at a port that answers.
#[inline(always)]
fn ip6(packet: &mut Packet, l3: &[u8], port: &Port, tunnels: &Tunnels) -> Result<bool, DropReason> {
    packet.ip6.read(l3).map_err(ip6_reason)?;
    let ip = packet.ip6;
    packet.family = Family::V6;
    transport6(packet, l3)?;
    if !matches!(port.kind, PortKind::Uplink) && neighbour::is_discovery(packet, l3) {
        // Has rules of its own for sources: link-local and unspecified ones belong there.
        return Ok(true);
    }
    match &port.kind {
        PortKind::Pod(pod) => {
            if !pod.may_send_from6(ip.src) {
                let link_local = ipv6::class(ip.src) == ipv6::AddrClass::LinkLocal;
                return Err(if link_local {
                    DropReason::LinkLocal
                } else {
                    DropReason::SourceSpoofed
                });
            }
        }
        PortKind::Host => packet.flags |= flag::KEEP_TTL,
        PortKind::Uplink => {}
    }
    addresses6(ip.src, ip.dst)?;
    if matches!(port.kind, PortKind::Pod(_)) {
        // Behind so many headers a tunnel could hide that a receiver less strict than we would find.
        if ip.upper.is_unknown() {
            return Err(DropReason::Ip6Extension);
        }
        if tunnels.refuse_of_pod(ip.upper.protocol, packet.ports.1) {
            return Err(DropReason::TunnelFromPod);
        }
    }
    Ok(false)
}

/// The checks of RFC 4291 sections 2.5.2, 2.5.3, 2.5.6 and 2.7.
#[inline(always)]
pub(super) fn addresses6(src: u128, dst: u128) -> Result<(), DropReason> {
    if ipv6::is_surely_unicast(src) && ipv6::is_surely_unicast(dst) {
        return Ok(());
    }
    unusual_addresses6(src, dst)
}

#[cold]
fn unusual_addresses6(src: u128, dst: u128) -> Result<(), DropReason> {
    let (from, to) = (ipv6::class(src), ipv6::class(dst));
    if from == ipv6::AddrClass::LinkLocal || to == ipv6::AddrClass::LinkLocal {
        return Err(DropReason::LinkLocal);
    }
    if !from.is_valid_source() {
        return Err(DropReason::MartianSource);
    }
    if !to.is_valid_destination() {
        return Err(match to {
            ipv6::AddrClass::Multicast => DropReason::Multicast,
            _ => DropReason::MartianDestination,
        });
    }
    Ok(())
}

/// Finds the ports of an IPv6 packet, and refuses fragments that hide them.
#[inline(always)]
pub(super) fn transport6(packet: &mut Packet, l3: &[u8]) -> Result<(), DropReason> {
    let ip = &packet.ip6;
    let payload = l3
        .get(usize::from(ip.upper.offset)..ip.total_len())
        .unwrap_or_default();
    if ip.upper.fragment.is_none()
        && let Some(ports) = l4::ordinary_ports(ip.upper.protocol, payload)
    {
        if usize::from(ip.upper.offset) == ipv6::HEADER_LEN {
            packet.flags |= flag::ORDINARY;
        }
        packet.ports = ports;
        return Ok(());
    }
    packet.ports = unusual_ports6(ip, payload)?;
    Ok(())
}

#[cold]
fn unusual_ports6(ip: &Ipv6Info, payload: &[u8]) -> Result<(u16, u16), DropReason> {
    if ip.is_later_fragment() || ip.upper.is_unknown() {
        return Ok((0, 0));
    }
    let parsed = if ip.is_fragment() {
        l4::parse_first_fragment(ip.upper.protocol, payload).map_err(|_| DropReason::Ip6Fragment)
    } else {
        Ok(l4::parse(ip.upper.protocol, payload).unwrap_or(l4::Transport::Other))
    };
    Ok(parsed?.ports())
}

/// The reason that stands for a parser's verdict.
pub(super) const fn ip4_reason(error: Ipv4Error) -> DropReason {
    match error {
        Ipv4Error::Checksum => DropReason::Ip4Checksum,
        Ipv4Error::BadOption | Ipv4Error::SourceRoute => DropReason::Ip4Options,
        Ipv4Error::FragmentOverflow | Ipv4Error::FragmentLength => DropReason::Ip4Fragment,
        Ipv4Error::Truncated
        | Ipv4Error::Version
        | Ipv4Error::HeaderLength
        | Ipv4Error::TotalLength
        | Ipv4Error::BeyondFrame => DropReason::Ip4Malformed,
    }
}

/// The reason that stands for a parser's verdict.
pub(super) const fn ip6_reason(error: Ipv6Error) -> DropReason {
    match error {
        Ipv6Error::Truncated
        | Ipv6Error::Version
        | Ipv6Error::BeyondFrame
        | Ipv6Error::Jumbogram => DropReason::Ip6Malformed,
        Ipv6Error::FragmentOverflow | Ipv6Error::FragmentLength | Ipv6Error::IncompleteChain => {
            DropReason::Ip6Fragment
        }
        _ => DropReason::Ip6Extension,
    }
}
