//! Forwarding as a person would do it by hand: one packet at a time, a scan of all routes, checksums from scratch. The
//! judge of the pipeline. It reads a [`World`], never the tables that the pipeline reads.

mod tunnel;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{Ethernet2HeaderSlice, Ipv4HeaderSlice, Ipv6HeaderSlice};
use fastpath::batch::PeerId;
use fastpath::port::{Port, PortId, PortKind};
use fastpath::reason::DropReason;
use fastpath::tables::Way;

use crate::build::{self, ICMP, ICMPV6, IPIP, Mac, TCP, UDP};
use crate::judge::{Check, View};
use crate::world::{Hop, To, VXLAN_PORT, World};

/// What should become of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It leaves by a port as this frame. Fields that are ours to choose are zero: see [`masked`].
    Forward(PortId, Vec<u8>),
    /// It leaves by a port in several pieces.
    Fragments(PortId),
    /// It is answered where it came in.
    Answer(Vec<u8>),
    /// It tells control something.
    Punt,
    /// It waits for a neighbour.
    Held,
    /// It is dropped, with or without an ICMP error: type and code.
    Drop(DropReason, Option<(u8, u8)>),
    /// This oracle does not know: IPv6 extension headers, neighbour discovery, SCTP.
    Unsure,
}

type Judged<T> = Result<T, Verdict>;

fn drop<T>(reason: DropReason) -> Judged<T> {
    Err(Verdict::Drop(reason, None))
}

/// A packet on its way through the rules.
struct Packet {
    l3: Vec<u8>,
    src: IpAddr,
    dst: IpAddr,
    ttl: u8,
    protocol: u8,
    dont_fragment: bool,
    later_fragment: bool,
    fragment: bool,
    header_len: usize,
    dst_port: u16,
    /// The node whose tunnel it came by.
    by: Option<PeerId>,
}

/// What should become of a frame that comes in by a port.
pub fn judge(world: &World, port: PortId, frame: &[u8]) -> Verdict {
    match decide(world, port, frame) {
        Ok(verdict) | Err(verdict) => verdict,
    }
}

fn decide(world: &World, id: PortId, frame: &[u8]) -> Judged<Verdict> {
    let port = world.port(id);
    let Ok(ethernet) = Ethernet2HeaderSlice::from_slice(frame) else {
        return drop(DropReason::EthTruncated);
    };
    let (dst, src) = (ethernet.destination(), ethernet.source());
    let to_group = dst[0] & 1 != 0;
    if dst != port.mac.0 && !to_group {
        return drop(DropReason::EthNotForUs);
    }
    if let PortKind::Pod(pod) = &port.kind {
        let fits = match pod.mac {
            Some(mac) => src == mac.0,
            None => src[0] & 1 == 0 && src != [0; 6],
        };
        if !fits {
            return drop(DropReason::EthSourceMac);
        }
    }
    let l3 = &frame[14..];
    let mut packet = match ethernet.ether_type().0 {
        0x0800 => ip4(world, port, l3)?,
        0x86dd => ip6(world, port, l3)?,
        0x0806 => return arp(port, src, l3),
        0x8100 | 0x88a8 => return drop(DropReason::EthVlan),
        _ => return drop(DropReason::EthUnknownType),
    };
    if to_group {
        return drop(DropReason::EthBroadcast);
    }
    if port.kind == PortKind::Uplink {
        packet = tunnel::decapsulate(world, packet)?;
    }
    route(world, id, &packet)
}

/// A valid IPv4 packet that may come from this port.
fn ip4(world: &World, port: &Port, l3: &[u8]) -> Judged<Packet> {
    let packet = parse4(l3)?;
    if let PortKind::Pod(pod) = &port.kind {
        let IpAddr::V4(src) = packet.src else {
            return Err(Verdict::Unsure);
        };
        let src = u32::from(src);
        let allowed = pod.allowed4.iter().any(|(net, mask)| src & mask == *net);
        if !pod.addrs4.contains(&src) && !allowed {
            return drop(DropReason::SourceSpoofed);
        }
    }
    addresses(&packet)?;
    let packet = transport(packet)?;
    from_pod(world, port, &packet)?;
    Ok(packet)
}

fn parse4(l3: &[u8]) -> Judged<Packet> {
    let Ok(header) = Ipv4HeaderSlice::from_slice(l3) else {
        return drop(DropReason::Ip4Malformed);
    };
    let header_len = header.slice().len();
    if build::sum(&l3[..header_len]) != 0xffff {
        return drop(DropReason::Ip4Checksum);
    }
    options(header.options())?;
    let total = usize::from(header.total_len());
    if total > l3.len() || total < header_len {
        return drop(DropReason::Ip4Malformed);
    }
    let offset = usize::from(header.fragments_offset().value()) * 8;
    let fragment = header.more_fragments() || offset != 0;
    let payload = total - header_len;
    let odd = header.more_fragments() && payload % 8 != 0;
    if fragment && (offset + payload > 65535 || payload == 0 || odd) {
        return drop(DropReason::Ip4Fragment);
    }
    Ok(Packet {
        l3: l3[..total].to_vec(),
        src: Ipv4Addr::from(header.source()).into(),
        dst: Ipv4Addr::from(header.destination()).into(),
        ttl: header.ttl(),
        protocol: header.protocol().0,
        dont_fragment: header.dont_fragment(),
        later_fragment: offset != 0,
        fragment,
        header_len,
        dst_port: 0,
        by: None,
    })
}

fn options(mut options: &[u8]) -> Judged<()> {
    while let Some(kind) = options.first() {
        let len = match kind {
            0 => return Ok(()),
            1 => 1,
            _ => match options.get(1) {
                Some(len) if *len >= 2 && usize::from(*len) <= options.len() => usize::from(*len),
                _ => return drop(DropReason::Ip4Options),
            },
        };
        if *kind == 131 || *kind == 137 {
            return drop(DropReason::Ip4Options);
        }
        options = &options[len..];
    }
    Ok(())
}

/// A valid IPv6 packet that may come from this port.
fn ip6(world: &World, port: &Port, l3: &[u8]) -> Judged<Packet> {
    let packet = transport(parse6(l3)?)?;
    if packet.protocol == ICMPV6 && matches!(packet.l3.get(40), Some(130..=137 | 143)) {
        return Err(Verdict::Unsure);
    }
    if let PortKind::Pod(pod) = &port.kind {
        let IpAddr::V6(src) = packet.src else {
            return Err(Verdict::Unsure);
        };
        let bits = u128::from(src);
        let allowed = pod.allowed6.iter().any(|(net, mask)| bits & mask == *net);
        if !pod.addrs6.contains(&bits) && !allowed {
            return drop(if src.is_unicast_link_local() {
                DropReason::LinkLocal
            } else {
                DropReason::SourceSpoofed
            });
        }
    }
    addresses(&packet)?;
    from_pod(world, port, &packet)?;
    Ok(packet)
}

fn parse6(l3: &[u8]) -> Judged<Packet> {
    let Ok(header) = Ipv6HeaderSlice::from_slice(l3) else {
        return drop(DropReason::Ip6Malformed);
    };
    let total = 40 + usize::from(header.payload_length());
    if total > l3.len() {
        return drop(DropReason::Ip6Malformed);
    }
    if matches!(header.next_header().0, 0 | 43 | 44 | 60) {
        return Err(Verdict::Unsure);
    }
    Ok(Packet {
        l3: l3[..total].to_vec(),
        src: Ipv6Addr::from(header.source()).into(),
        dst: Ipv6Addr::from(header.destination()).into(),
        ttl: header.hop_limit(),
        protocol: header.next_header().0,
        dont_fragment: true,
        later_fragment: false,
        fragment: false,
        header_len: 40,
        dst_port: 0,
        by: None,
    })
}

/// Martians (RFC 1812 section 5.3.7, RFC 4291 section 2.5).
fn addresses(packet: &Packet) -> Judged<()> {
    match (packet.src, packet.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let odd = |addr: Ipv4Addr| matches!(addr.octets()[0], 0 | 127 | 224..);
            if odd(src) {
                return drop(DropReason::MartianSource);
            }
            if dst.is_multicast() || dst.is_broadcast() {
                return drop(DropReason::Multicast);
            }
            if odd(dst) {
                return drop(DropReason::MartianDestination);
            }
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            if src.is_unicast_link_local() || dst.is_unicast_link_local() {
                return drop(DropReason::LinkLocal);
            }
            let odd = |addr: Ipv6Addr| {
                addr.is_unspecified() || addr.is_loopback() || addr.to_ipv4_mapped().is_some()
            };
            if odd(src) || src.is_multicast() {
                return drop(DropReason::MartianSource);
            }
            if dst.is_multicast() {
                return drop(DropReason::Multicast);
            }
            if odd(dst) {
                return drop(DropReason::MartianDestination);
            }
        }
        _ => return Err(Verdict::Unsure),
    }
    Ok(())
}

/// Fragments that hide a transport header (RFC 1858, 3128), and the destination port.
fn transport(mut packet: Packet) -> Judged<Packet> {
    let payload = &packet.l3[packet.header_len..];
    if packet.later_fragment {
        let offset = u16::from_be_bytes([packet.l3[6], packet.l3[7]]) & 0x1fff;
        if packet.protocol == TCP && offset == 1 {
            return drop(DropReason::Ip4Fragment);
        }
        return Ok(packet);
    }
    let (ports, shortest) = match packet.protocol {
        TCP => (true, 20),
        UDP | 136 => (true, 8),
        132 | 33 => (true, 12),
        ICMP | ICMPV6 => (false, 8),
        _ => (false, 0),
    };
    let needed = match packet.protocol {
        TCP => 16,
        132 | 33 => 8,
        _ => shortest,
    };
    if packet.fragment && payload.len() < needed {
        return drop(DropReason::Ip4Fragment);
    }
    if ports && (payload.len() >= shortest || packet.fragment) {
        packet.dst_port = u16::from_be_bytes([payload[2], payload[3]]);
    }
    Ok(packet)
}

/// Pods make no tunnels of Calico's kinds.
fn from_pod(world: &World, port: &Port, packet: &Packet) -> Judged<()> {
    if !matches!(port.kind, PortKind::Pod(_)) {
        return Ok(());
    }
    let (vxlan, ipip) = world.pods_may;
    let refused = match packet.protocol {
        UDP => packet.dst_port == VXLAN_PORT && !vxlan,
        IPIP => !ipip,
        _ => false,
    };
    if refused {
        return drop(DropReason::TunnelFromPod);
    }
    Ok(())
}

fn arp(port: &Port, eth_src: Mac, l3: &[u8]) -> Judged<Verdict> {
    let Some(message) = l3.first_chunk::<28>() else {
        return drop(DropReason::ArpMalformed);
    };
    let operation = u16::from_be_bytes([message[6], message[7]]);
    if message[..6] != [0, 1, 8, 0, 6, 4] || !matches!(operation, 1 | 2) {
        return drop(DropReason::ArpMalformed);
    }
    let (sender_mac, sender, target) = (&message[8..14], &message[14..18], &message[24..28]);
    if sender_mac[0] & 1 != 0 || sender_mac == [0; 6] {
        return drop(DropReason::ArpMalformed);
    }
    if sender_mac != eth_src {
        return drop(DropReason::ArpSpoofed);
    }
    let probe = sender == [0; 4] && operation == 1;
    match &port.kind {
        PortKind::Uplink => return drop(DropReason::ArpIgnored),
        PortKind::Host => {}
        PortKind::Pod(pod) => {
            let own = |ip: &[u8]| pod.addrs4.iter().any(|addr| addr.to_be_bytes() == ip);
            if !probe && !own(sender) {
                return drop(DropReason::ArpSpoofed);
            }
            if own(target) || operation == 2 {
                return if pod.mac.is_some() || probe {
                    drop(DropReason::ArpIgnored)
                } else {
                    Ok(Verdict::Punt)
                };
            }
        }
    }
    if operation == 2 || sender == target {
        return drop(DropReason::ArpIgnored);
    }
    let ours = (port.mac.0, [target[0], target[1], target[2], target[3]]);
    let theirs = (eth_src, [sender[0], sender[1], sender[2], sender[3]]);
    let reply = build::arp(2, ours, theirs);
    Ok(Verdict::Answer(build::frame(
        eth_src, port.mac.0, 0x0806, &reply,
    )))
}

fn ecn(l3: &[u8]) -> u8 {
    if l3[0] >> 4 == 4 {
        l3[1] & 3
    } else {
        l3[1] >> 4 & 3
    }
}

fn fix_header(l3: &mut [u8]) {
    let header_len = usize::from(l3[0] & 15) * 4;
    l3[10..12].fill(0);
    let check = build::checksum(&l3[..header_len]).to_be_bytes();
    l3[10..12].copy_from_slice(&check);
}

/// The longest prefix that holds an address, by a look at all of them.
fn scan(world: &World, addr: IpAddr) -> Option<&Hop> {
    let mut best: Option<(u8, &Hop)> = None;
    for (net, hop) in &world.routes {
        if net.contains(&addr) && best.is_none_or(|(len, _)| net.prefix_len() > len) {
            best = Some((net.prefix_len(), hop));
        }
    }
    best.map(|(_, hop)| hop)
}

fn origin(hop: Option<&Hop>) -> Option<(Way, PeerId)> {
    match hop? {
        Hop::Send { way, peer, .. } => Some((*way, *peer)),
        Hop::Unresolved { way, .. } => Some((*way, PeerId::NONE)),
        Hop::Drop(_) => None,
    }
}

fn route(world: &World, id: PortId, packet: &Packet) -> Judged<Verdict> {
    let port = world.port(id);
    let hop = scan(world, packet.dst);
    source(world, port, packet, hop)?;
    let Some(hop) = hop else {
        return Err(refused(port, packet, DropReason::NoRoute));
    };
    let (way, out) = match hop {
        Hop::Send { way, port, .. } | Hop::Unresolved { way, port } => (*way, *port),
        Hop::Drop(reason) => return Err(refused(port, packet, *reason)),
    };
    if way == Way::Tunnel {
        let local: IpAddr = if packet.src.is_ipv4() {
            world.local4.into()
        } else {
            world.local6.into()
        };
        if packet.by.is_some() {
            return drop(DropReason::TunnelLoop);
        }
        if packet.src == local && port.kind != PortKind::Host {
            return drop(DropReason::SourceIsTunnel);
        }
    }
    if way == Way::Pod && out == id {
        return drop(DropReason::SameInterface);
    }
    let keeps_ttl = way == Way::Host || port.kind == PortKind::Host;
    let least = if way == Way::Host {
        0
    } else {
        2 - u8::from(keeps_ttl)
    };
    if packet.ttl < least {
        return Err(refused(port, packet, DropReason::TtlExpired));
    }
    let Hop::Send { mac, tunnel, .. } = hop else {
        return Ok(Verdict::Held);
    };
    let spec = world.port(out);
    let mtu = spec.mtu - tunnel.map_or(0, To::overhead);
    let mut l3 = packet.l3.clone();
    if l3.len() > usize::from(mtu) {
        if packet.dont_fragment {
            return Err(refused(port, packet, DropReason::MtuExceeded));
        }
        return Ok(Verdict::Fragments(out));
    }
    if port.partial_checksums {
        complete(&mut l3)?;
    }
    if !keeps_ttl {
        if packet.src.is_ipv4() {
            l3[8] -= 1;
            fix_header(&mut l3);
        } else {
            l3[7] -= 1;
        }
    }
    let frame = encapsulate(world, spec, mac.0, *tunnel, &l3);
    Ok(Verdict::Forward(out, masked(&frame, tunnel.is_some())))
}

/// A source must lie where the packet came from.
fn source(world: &World, port: &Port, packet: &Packet, to: Option<&Hop>) -> Judged<()> {
    let from = origin(scan(world, packet.src));
    if let Some(peer) = packet.by {
        return match from {
            Some((Way::Tunnel | Way::Uplink, node)) if node == peer => Ok(()),
            // The node itself.
            _ if world.peers.contains(&(packet.src, peer)) => Ok(()),
            _ => drop(DropReason::TunnelSource),
        };
    }
    let to_host = matches!(origin(to), Some((Way::Host, _)));
    let fits = match port.kind {
        PortKind::Pod(_) => true,
        PortKind::Uplink => match from {
            Some((Way::Uplink, _)) => true,
            Some((Way::Tunnel, _)) => to_host,
            _ => false,
        },
        PortKind::Host => matches!(from, None | Some((Way::Host | Way::Uplink, _))),
    };
    if fits {
        Ok(())
    } else {
        drop(DropReason::SourceMisplaced)
    }
}

/// Dropped, and the source is told if it may be.
fn refused(port: &Port, packet: &Packet, reason: DropReason) -> Verdict {
    let v4 = packet.src.is_ipv4();
    let told = match reason {
        DropReason::TtlExpired => Some(if v4 { (11, 0) } else { (3, 0) }),
        DropReason::NoRoute => Some(if v4 { (3, 0) } else { (1, 0) }),
        DropReason::Unreachable => Some(if v4 { (3, 1) } else { (1, 3) }),
        DropReason::Prohibited => Some(if v4 { (3, 13) } else { (1, 1) }),
        DropReason::MtuExceeded => Some(if v4 { (3, 4) } else { (2, 0) }),
        _ => None,
    };
    let first = packet.l3.get(packet.header_len).copied();
    let about_error = match (packet.protocol, v4) {
        (ICMP, true) => first.is_none_or(|kind| !matches!(kind, 0 | 8 | 13..=18)),
        (ICMPV6, false) => first.is_none_or(|kind| kind < 128 || kind == 137),
        _ => false,
    };
    let has_source = if v4 {
        port.icmp_source4.is_some()
    } else {
        port.icmp_source6.is_some()
    };
    let told = told.filter(|_| !about_error && !packet.later_fragment && has_source);
    Verdict::Drop(reason, told)
}

/// Completes a partial transport checksum.
fn complete(l3: &mut [u8]) -> Judged<()> {
    let view = View::of(l3).ok_or(Verdict::Unsure)?;
    if view.protocol == 132 {
        return Err(Verdict::Unsure);
    }
    let at = view.header_len
        + match view.protocol {
            TCP => 16,
            UDP => 6,
            ICMPV6 => 2,
            _ => return Ok(()),
        };
    if view.check() == Check::Unknown {
        // Too short for a header, or an odd pair of protocol and family.
        return if view.fragment {
            Ok(())
        } else {
            Err(Verdict::Unsure)
        };
    }
    if view.check() != Check::Partial {
        return Ok(());
    }
    let check = match build::checksum(view.payload()) {
        0 if view.protocol == UDP => 0xffff,
        check => check,
    };
    l3[at..at + 2].copy_from_slice(&check.to_be_bytes());
    Ok(())
}

fn encapsulate(world: &World, port: &Port, mac: Mac, tunnel: Option<To>, l3: &[u8]) -> Vec<u8> {
    let ecn = ecn(l3);
    let v4 = l3[0] >> 4 == 4;
    let dont_fragment = !v4 || l3[6] & 0x40 != 0;
    let carried = |vtep: Mac| build::vxlan(world.vxlan.0, &build::ethernet(vtep, world.vtep.0, l3));
    let outer4 = |dst: Ipv4Addr, df: bool| {
        let fragment = if df { build::DF } else { 0 };
        build::ip4(&world.local4.to_string(), &dst.to_string())
            .tos(ecn)
            .fragment(fragment)
    };
    let packet = match tunnel {
        None => l3.to_vec(),
        Some(To::Ipip(dst)) => outer4(dst, dont_fragment).packet(IPIP, l3),
        Some(To::Vxlan4(dst, vtep)) => {
            outer4(dst, true).udp_unchecked(0, VXLAN_PORT, &carried(vtep.0))
        }
        Some(To::Vxlan6(dst, vtep)) => {
            let outer = build::ip6(&world.local6.to_string(), &dst.to_string()).class(ecn);
            outer.udp_unchecked(0, VXLAN_PORT, &carried(vtep.0))
        }
    };
    build::ethernet(mac, port.mac.0, &packet)
}

/// A frame with zeros in the outer fields that are ours to choose, where it is a tunnel packet of ours: identification
/// and with it the header checksum, UDP source port and with it the UDP checksum.
pub fn masked(frame: &[u8], tunnel: bool) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if !tunnel {
        return frame;
    }
    if frame[12..14] == [8, 0] {
        frame[18..20].fill(0);
        frame[24..26].fill(0);
        if frame[23] == UDP {
            frame[34..36].fill(0);
        }
    } else {
        frame[54..56].fill(0);
        frame[60..62].fill(0);
    }
    frame
}
