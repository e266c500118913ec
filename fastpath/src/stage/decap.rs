//! Taking packets out of tunnels: only from known nodes, only to our own address, only our network, only once.
//! RFC 7348 (VXLAN), RFC 2003 (IPIP), RFC 6040 (ECN).

mod ordinary;

use encap::checksum::{Completed, Sum};
use encap::ecn::{self, Ecn};
use encap::eth::{EtherType, HEADER_LEN as ETH_LEN};
use encap::{checksum, eth, ipip, ipv4, ipv6, l4, vxlan};

use crate::batch::{Batch, Family, Packet, PeerId, flag};
use crate::io::PacketIo;
use crate::port::{Port, PortKind};
use crate::reason::DropReason;
use crate::stage::decap::ordinary::Ordinary;
use crate::stage::{parse, tunnel_error};
use crate::tables::{Tables, Tunnels, VxlanEnd};

/// Takes every tunnel packet that is addressed to us out of its tunnel. Only an uplink has any. Returns whether there is an
/// ICMP message for our end of the tunnels.
#[inline(never)]
pub fn run<I: PacketIo>(batch: &mut Batch, io: &mut I, tables: &Tables, port: &Port) -> bool {
    if !matches!(port.kind, PortKind::Uplink) {
        return false;
    }
    let tunnels = &tables.tunnels;
    let ordinary = Ordinary::at(tunnels);
    let mut is_told = false;
    for packet in batch.packets() {
        if !packet.is_undecided() {
            continue;
        }
        if ordinary.is_for_us(packet) {
            let bytes = packet.frame.of(io.chunk(&packet.frame));
            if ordinary.open(packet, bytes, tunnels) {
                continue;
            }
        }
        let Some(tunnel) = tunnel_of(packet, tunnels) else {
            is_told |= tunnel_error::is_for_us(packet, tunnels);
            continue;
        };
        let bytes = packet.frame.of(io.chunk(&packet.frame));
        if let Err(reason) = open(packet, bytes, tunnels, tunnel) {
            packet.drop(reason);
        }
    }
    is_told
}

/// A tunnel that a packet belongs to.
#[derive(Clone, Copy)]
enum Tunnel {
    Ipip,
    Vxlan(VxlanEnd),
}

/// The tunnel whose end at this node the packet is addressed to.
#[inline]
fn tunnel_of(packet: &Packet, tunnels: &Tunnels) -> Option<Tunnel> {
    match packet.family {
        Family::V4 => {
            let ip = &packet.ip4;
            if tunnels.local4.map(u32::from) != Some(ip.dst) {
                return None;
            }
            match ip.protocol {
                l4::UDP if packet.ports.1 == tunnels.vxlan_port => {
                    tunnels.vxlan4.map(Tunnel::Vxlan)
                }
                ipv4::PROTOCOL_IPIP if tunnels.ipip => Some(Tunnel::Ipip),
                _ => None,
            }
        }
        Family::V6 => {
            let ip = &packet.ip6;
            if tunnels.local6.map(u128::from) != Some(ip.dst) {
                return None;
            }
            let is_vxlan = ip.upper.protocol == l4::UDP && packet.ports.1 == tunnels.vxlan_port;
            if is_vxlan {
                tunnels.vxlan6.map(Tunnel::Vxlan)
            } else {
                None
            }
        }
        Family::Unknown => None,
    }
}

/// Checks the outer headers first, then the inner packet, and makes the packet the inner one.
#[inline(never)]
fn open(
    packet: &mut Packet,
    bytes: &mut [u8],
    tunnels: &Tunnels,
    tunnel: Tunnel,
) -> Result<(), DropReason> {
    let (peer, outer_ecn, is_fragment, outer_len, end) = match packet.family {
        Family::V4 => {
            let ip = &packet.ip4;
            (
                tunnels.peer4(ip.src),
                Ecn::of(ip.tos),
                ip.is_fragment(),
                usize::from(ip.header_len()),
                usize::from(ip.total_len),
            )
        }
        Family::V6 => {
            let ip = &packet.ip6;
            (
                tunnels.peer6(ip.src),
                Ecn::of(ip.traffic_class),
                ip.is_fragment(),
                usize::from(ip.upper.offset),
                ip.total_len(),
            )
        }
        Family::Unknown => return Err(DropReason::TunnelMalformed),
    };
    let peer = peer.ok_or(DropReason::TunnelUnknownPeer)?;
    if is_fragment {
        return Err(DropReason::TunnelMalformed);
    }
    // The packet ends where the outer one does: link padding is not ours to read.
    let at = usize::from(packet.l3);
    let Some(l3) = bytes.get_mut(at..at + end) else {
        return Err(DropReason::TunnelMalformed);
    };
    let (inner_family, inner_at) = match tunnel {
        Tunnel::Ipip => {
            ipip::inner(l3, &packet.ip4).map_err(ipip_reason)?;
            (Family::V4, outer_len..l3.len())
        }
        Tunnel::Vxlan(end) => {
            let Some(payload) = l3.get_mut(outer_len..) else {
                return Err(DropReason::TunnelMalformed);
            };
            let (family, len) = match ordinary_vxlan(payload, end) {
                Some(family) => (family, payload.len()),
                None => vxlan_payload(packet, payload, end)?,
            };
            (family, outer_len + VXLAN_HEADERS..outer_len + len)
        }
    };
    let skip = inner_at.start;
    let Some(inner) = l3.get_mut(inner_at) else {
        return Err(DropReason::TunnelMalformed);
    };
    // That was the outer packet.
    packet.flags &= !flag::ORDINARY;
    match inner_family {
        Family::V4 => inner4(packet, inner, outer_ecn, tunnels)?,
        _ => inner6(packet, inner, outer_ecn, tunnels)?,
    }
    packet.l3 += skip as u16;
    packet.peer = peer;
    Ok(())
}

/// The reason that stands for a parser's verdict.
const fn ipip_reason(error: ipip::IpipError) -> DropReason {
    match error {
        ipip::IpipError::InnerVersion => DropReason::TunnelInnerType,
        ipip::IpipError::Fragment | ipip::IpipError::Truncated => DropReason::TunnelMalformed,
    }
}

/// UDP, VXLAN and Ethernet, in front of the inner IP packet.
const VXLAN_HEADERS: usize = l4::UDP_HEADER_LEN + vxlan::HEADER_LEN + ETH_LEN;

/// Takes the headers of nearly all VXLAN packets: without a UDP checksum, of our network, to our MAC address. None decides
/// nothing: [`vxlan_payload`] does.
#[inline(always)]
fn ordinary_vxlan(udp: &[u8], end: VxlanEnd) -> Option<Family> {
    let (headers, _) = udp.split_first_chunk::<VXLAN_HEADERS>()?;
    let (udp_header, rest) = headers.split_first_chunk::<{ l4::UDP_HEADER_LEN }>()?;
    let (vxlan, ethernet) = rest.split_first_chunk::<{ vxlan::HEADER_LEN }>()?;
    let (dst, _, ethertype) = eth::fields(ethernet.first_chunk()?);
    let (len, checksum) = (
        (u64::from_be_bytes(*udp_header) >> 16) as u16,
        u64::from_be_bytes(*udp_header) as u16,
    );
    let is_ordinary = checksum == 0
        && usize::from(len) == udp.len()
        && vxlan::parse(vxlan) == Ok(end.vni)
        && *dst == end.mac.0;
    match ethertype {
        EtherType::IPV4 if is_ordinary => Some(Family::V4),
        EtherType::IPV6 if is_ordinary => Some(Family::V6),
        _ => None,
    }
}

/// Checks UDP, VXLAN and the inner Ethernet header; the family that is inside, and the length of the datagram.
#[inline(never)]
fn vxlan_payload(
    packet: &Packet,
    payload: &mut [u8],
    end: VxlanEnd,
) -> Result<(Family, usize), DropReason> {
    let len = l4::udp_datagram(payload).map(<[u8]>::len);
    let udp = len.and_then(|len| payload.get_mut(..len));
    let udp = udp.ok_or(DropReason::TunnelMalformed)?;
    let is_right = outer_is_right(packet, udp)
        || packet.has(flag::MAYBE_PARTIAL) && complete_inner(udp) && outer_is_right(packet, udp);
    if !is_right {
        return Err(DropReason::TunnelChecksum);
    }
    let data = udp.get(l4::UDP_HEADER_LEN..).unwrap_or_default();
    let vni = vxlan::parse(data).map_err(|_| DropReason::TunnelMalformed)?;
    if vni != end.vni {
        return Err(DropReason::TunnelVni);
    }
    let inner = data.get(vxlan::HEADER_LEN..).unwrap_or_default();
    let ethernet = eth::parse(inner).map_err(|_| DropReason::TunnelMalformed)?;
    if ethernet.dst != end.mac {
        return Err(DropReason::TunnelInnerMac);
    }
    match ethernet.ethertype {
        _ if ethernet.vlan.is_some() => Err(DropReason::TunnelInnerType),
        EtherType::IPV4 => Ok((Family::V4, udp.len())),
        EtherType::IPV6 => Ok((Family::V6, udp.len())),
        _ => Err(DropReason::TunnelInnerType),
    }
}

/// Whether the checksum of the outer UDP header is right, or not there.
fn outer_is_right(packet: &Packet, udp: &[u8]) -> bool {
    let sent_checksum = matches!(udp, [_, _, _, _, _, _, a, b, ..] if (*a, *b) != (0, 0));
    match packet.family {
        // Section 4.3: a zero checksum must be taken, another must be right. Over IPv6 zero is taken
        // from known nodes only (RFC 6935), and the caller has checked that.
        _ if !sent_checksum => true,
        Family::V6 => {
            let pseudo = Sum::pseudo_v6(packet.ip6.src, packet.ip6.dst, l4::UDP, udp.len() as u32);
            is_partial(packet, udp, pseudo)
                || checksum::verify_v6(packet.ip6.src, packet.ip6.dst, l4::UDP, udp)
        }
        _ => {
            let pseudo = Sum::pseudo_v4(packet.ip4.src, packet.ip4.dst, l4::UDP, udp.len() as u16);
            is_partial(packet, udp, pseudo)
                || checksum::verify_v4(packet.ip4.src, packet.ip4.dst, l4::UDP, udp)
        }
    }
}

/// Completes the inner packet's checksum where it is partial. A kernel on this machine makes the outer checksum for the
/// packet as it will be then ("local checksum offload"), and leaves the inner one to hardware that never comes.
#[cold]
fn complete_inner(udp: &mut [u8]) -> bool {
    let inner = udp.get_mut(VXLAN_HEADERS..).unwrap_or_default();
    let completed = match inner.first().map(|first| first >> 4) {
        Some(4) => ipv4::parse(inner)
            .map(|ip| checksum::complete_partial_v4(inner, &ip))
            .ok(),
        Some(6) => ipv6::parse(inner)
            .map(|ip| checksum::complete_partial_v6(inner, &ip))
            .ok(),
        _ => None,
    };
    completed == Some(Completed::Filled)
}

/// Whether the outer checksum waits for hardware that never came: the peer is on this machine.
fn is_partial(packet: &Packet, udp: &[u8], pseudo: Sum) -> bool {
    packet.has(flag::MAYBE_PARTIAL) && udp.get(6..8) == Some(&pseudo.fold().to_be_bytes())
}

#[inline(always)]
fn inner4(
    packet: &mut Packet,
    l3: &mut [u8],
    outer_ecn: Ecn,
    tunnels: &Tunnels,
) -> Result<(), DropReason> {
    ecn::decapsulate_ipv4(l3, outer_ecn).map_err(|_| DropReason::TunnelEcn)?;
    packet.ip4.read(l3).map_err(parse::ip4_reason)?;
    packet.family = Family::V4;
    packet.ports = (0, 0);
    let ip = packet.ip4;
    parse::addresses4(ip.src, ip.dst)?;
    parse::transport4(packet, l3)?;
    if is_tunnel(ip.protocol, packet.ports.1, tunnels)
        && (tunnels.local4.map(u32::from) == Some(ip.dst) || tunnels.peers4.contains_key(&ip.dst))
    {
        return Err(DropReason::TunnelNested);
    }
    Ok(())
}

#[inline(never)]
fn inner6(
    packet: &mut Packet,
    l3: &mut [u8],
    outer_ecn: Ecn,
    tunnels: &Tunnels,
) -> Result<(), DropReason> {
    ecn::decapsulate_ipv6(l3, outer_ecn).map_err(|_| DropReason::TunnelEcn)?;
    packet.ip6.read(l3).map_err(parse::ip6_reason)?;
    packet.family = Family::V6;
    packet.ports = (0, 0);
    let ip = packet.ip6;
    parse::addresses6(ip.src, ip.dst)?;
    parse::transport6(packet, l3)?;
    // Behind more headers than are walked a tunnel could hide.
    if (ip.upper.is_unknown() || is_tunnel(ip.upper.protocol, packet.ports.1, tunnels))
        && (tunnels.local6.map(u128::from) == Some(ip.dst) || tunnels.peers6.contains_key(&ip.dst))
    {
        return Err(DropReason::TunnelNested);
    }
    Ok(())
}

/// Whether the inner packet is a tunnel packet itself. Whoever sent it wants two headers taken off.
const fn is_tunnel(protocol: u8, dst_port: u16, tunnels: &Tunnels) -> bool {
    match protocol {
        ipv4::PROTOCOL_IPIP => true,
        l4::UDP => dst_port == tunnels.vxlan_port,
        _ => false,
    }
}

/// Whether a packet came out of a tunnel.
#[inline]
pub(super) fn came_by_tunnel(packet: &Packet) -> bool {
    packet.peer != PeerId::NONE
}

#[cfg(test)]
mod tests {
    use encap::eth::MacAddr;
    use encap::vxlan::Vni;
    use proptest::prelude::*;

    use super::*;
    use crate::frame::Frame;
    use crate::port::PortId;

    const END: VxlanEnd = VxlanEnd {
        vni: Vni::CALICO,
        mac: MacAddr([0x66, 0, 0, 0, 0, 1]),
    };

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2048, ..ProptestConfig::default() })]

        #[test]
        fn what_the_quick_way_takes_the_careful_one_takes_alike(
            v6 in any::<bool>(),
            inner in 0..60_usize,
            length in prop::option::of(0..80_u16),
            changes in prop::collection::vec((0..31_usize, 0..8_u32), 0..3),
            cut in 0..40_usize,
        ) {
            let mut udp = vec![0xc0, 0x01, 0x12, 0xb5];
            let len = length.unwrap_or((VXLAN_HEADERS + inner) as u16);
            udp.extend(len.to_be_bytes());
            udp.extend([0, 0]);
            udp.extend(vxlan::header(END.vni));
            let ethertype = if v6 { EtherType::IPV6 } else { EtherType::IPV4 };
            udp.extend(eth::header(END.mac, MacAddr([2; 6]), ethertype));
            udp.resize(VXLAN_HEADERS + inner, 0x45);
            for (at, bit) in changes {
                if let Some(byte) = udp.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }
            udp.truncate(udp.len() - cut.saturating_sub(20).min(udp.len()));
            let mut batch = Batch::default();
            let packet = batch.push(Frame::NONE, PortId(0)).expect("it is empty");
            packet.family = Family::V4;
            if let Some(family) = ordinary_vxlan(&udp, END) {
                let careful = vxlan_payload(packet, &mut udp, END);
                prop_assert_eq!(careful, Ok((family, udp.len())));
            }
        }
    }

    const LOCAL: u32 = 0xc0a8_3866;
    const PEER: u32 = 0xc0a8_3865;

    fn both_tunnels() -> Tunnels {
        Tunnels {
            local4: Some(LOCAL.into()),
            vxlan4: Some(END),
            ipip: true,
            vxlan_port: vxlan::DEFAULT_PORT,
            peers4: [(PEER, PeerId(3))].into_iter().collect(),
            ..Tunnels::default()
        }
    }

    /// An IPv4 packet.
    fn ip4(ends: (u32, u32), (tos, protocol): (u8, u8), payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, tos];
        packet.extend((20 + payload.len() as u16).to_be_bytes());
        packet.extend([0x12, 0x34, 0, 0, 64, protocol, 0, 0]);
        packet.extend(ends.0.to_be_bytes());
        packet.extend(ends.1.to_be_bytes());
        let sum = checksum::of(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(payload);
        packet
    }

    /// An IPv6 packet.
    fn ip6(ends: (u128, u128), protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend((payload.len() as u16).to_be_bytes());
        packet.extend([protocol, 64]);
        packet.extend(ends.0.to_be_bytes());
        packet.extend(ends.1.to_be_bytes());
        packet.extend(payload);
        packet
    }

    const ENDS6: (u128, u128) = (0xfd00_0041_0001 << 80 | 2, 0xfd00_0041 << 96 | 2);

    /// What is in a tunnel, and in which.
    #[derive(Clone, Copy, Debug)]
    enum In {
        Ipip,
        Vxlan,
        /// IPv6 from one address to another.
        Vxlan6(u128, u128),
    }

    impl In {
        const fn skip(self) -> usize {
            match self {
                Self::Ipip => 0,
                Self::Vxlan | Self::Vxlan6(..) => VXLAN_HEADERS,
            }
        }
    }

    fn ways() -> impl Strategy<Value = In> {
        let unusual = || {
            let all = vec![
                0,
                1,
                0xffff << 32 | 1,
                0xfe80 << 112 | 1,
                0xff02 << 112 | 1,
                0xfec0 << 112 | 1,
            ];
            prop::sample::select(all)
        };
        prop_oneof![
            2 => Just(In::Ipip),
            2 => Just(In::Vxlan),
            3 => (prop_oneof![4 => Just(ENDS6.0), 1 => unusual()], prop_oneof![4 => Just(ENDS6.1), 1 => unusual()])
                .prop_map(|(src, dst)| In::Vxlan6(src, dst)),
        ]
    }

    /// A frame with a packet of `protocol` in one of our tunnels.
    fn tunnelled(way: In, tos: u8, protocol: u8, dst_port: u16, len: usize) -> Vec<u8> {
        let mut segment = vec![0xc0, 0x01];
        segment.extend(dst_port.to_be_bytes());
        segment.resize(len, 0x50);
        let (ethertype, inner) = match way {
            In::Vxlan6(src, dst) => (EtherType::IPV6, ip6((src, dst), protocol, &segment)),
            In::Ipip | In::Vxlan => {
                let ends = (0x0a41_0102, 0x0a41_0002);
                (EtherType::IPV4, ip4(ends, (0, protocol), &segment))
            }
        };
        let by_vxlan = !matches!(way, In::Ipip);
        let mut payload = Vec::new();
        if by_vxlan {
            payload.extend([0xc0, 0x01, 0x12, 0xb5]);
            payload.extend(((VXLAN_HEADERS + inner.len()) as u16).to_be_bytes());
            payload.extend([0, 0]);
            payload.extend(vxlan::header(END.vni));
            payload.extend(eth::header(END.mac, MacAddr([2; 6]), ethertype));
        }
        payload.extend(inner);
        let protocol = if by_vxlan {
            l4::UDP
        } else {
            ipv4::PROTOCOL_IPIP
        };
        let mut frame = eth::header(MacAddr([4; 6]), MacAddr([6; 6]), EtherType::IPV4).to_vec();
        frame.extend(ip4((PEER, LOCAL), (tos, protocol), &payload));
        frame
    }

    /// What parsing makes of a frame's outer headers, and whether it may be opened at all.
    fn parsed<'a>(batch: &'a mut Batch, frame: &[u8]) -> Option<&'a mut Packet> {
        let packet = batch.push(Frame::NONE, PortId(0)).ok()?;
        let l3 = frame.get(ETH_LEN..)?;
        packet.ip4.read(l3).ok()?;
        packet.family = Family::V4;
        packet.l3 = ETH_LEN as u16;
        parse::transport4(packet, l3).ok()?;
        Some(packet)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 8192, ..ProptestConfig::default() })]

        #[test]
        fn what_opens_the_quick_way_opens_the_careful_one_alike(
            way in ways(),
            (tos, protocol, dst_port) in (
                prop::sample::select(vec![0, 0, 1, 2, 3]),
                prop::sample::select(vec![l4::UDP, l4::UDP, l4::TCP, l4::TCP, l4::ICMP, 4, 0, 43, 44, 60]),
                prop::sample::select(vec![53, 53, vxlan::DEFAULT_PORT]),
            ),
            len in 8..40_usize,
            // The more often what the inner IP header begins with.
            changes in prop::collection::vec((prop_oneof![2 => 14..120_usize, 1 => 64..72_usize], 0..8_u32), 0..3),
            // The inner payload length, of IPv6.
            length in prop::option::weighted(0.3, 0..60_u16),
            seals in any::<bool>(),
            (cut, padded) in (0..40_usize, any::<bool>()),
        ) {
            let mut frame = tunnelled(way, tos, protocol, dst_port, len);
            if let (In::Vxlan6(..), Some(length)) = (way, length) {
                let at = ETH_LEN + 20 + VXLAN_HEADERS + 4;
                frame[at..at + 2].copy_from_slice(&length.to_be_bytes());
            }
            for (at, bit) in changes {
                if let Some(byte) = frame.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }
            if seals {
                // A checksum that is right for what was changed, so that it is not all that is found.
                let inner = (!matches!(way, In::Vxlan6(..))).then_some(ETH_LEN + 20 + way.skip());
                for at in [ETH_LEN].into_iter().chain(inner) {
                    frame[at + 10..at + 12].copy_from_slice(&[0, 0]);
                    let sum = checksum::of(&frame[at..at + 20]);
                    frame[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
                }
            }
            if padded {
                frame.extend([0; 7]);
            } else {
                frame.truncate(frame.len() - cut.saturating_sub(30));
            }
            let tunnels = both_tunnels();
            let (mut quick, mut careful) = (Batch::default(), Batch::default());
            let (Some(quick), Some(careful)) = (parsed(&mut quick, &frame), parsed(&mut careful, &frame)) else {
                return Ok(());
            };
            let ordinary = Ordinary::at(&tunnels);
            let before = format!("{quick:?}");
            if !ordinary.is_for_us(quick) || !ordinary.open(quick, &frame, &tunnels) {
                prop_assert_eq!(format!("{quick:?}"), before);
                return Ok(());
            }
            let tunnel = tunnel_of(careful, &tunnels);
            let mut bytes = frame.clone();
            let opened = tunnel.map(|tunnel| open(careful, &mut bytes, &tunnels, tunnel));
            prop_assert_eq!(opened, Some(Ok(())));
            prop_assert_eq!(bytes, frame);
            prop_assert_eq!(format!("{quick:?}"), format!("{careful:?}"));
        }

        #[test]
        fn all_but_what_is_unusual_opens_the_quick_way(
            way in prop::sample::select(vec![In::Ipip, In::Vxlan, In::Vxlan6(ENDS6.0, ENDS6.1)]),
            tcp in any::<bool>(), len in 20..40_usize,
        ) {
            let protocol = if tcp { l4::TCP } else { l4::UDP };
            let frame = tunnelled(way, 0, protocol, 53, len);
            let mut batch = Batch::default();
            let packet = parsed(&mut batch, &frame).expect("it is a packet");
            let tunnels = both_tunnels();
            let ordinary = Ordinary::at(&tunnels);
            prop_assert!(ordinary.is_for_us(packet) && ordinary.open(packet, &frame, &tunnels));
        }
    }

    #[test]
    fn most_packets_go_the_quick_way() {
        let mut udp = vec![0xc0, 0x01, 0x12, 0xb5, 0, 50, 0, 0];
        udp.extend(vxlan::header(END.vni));
        udp.extend(eth::header(END.mac, MacAddr([2; 6]), EtherType::IPV4));
        udp.resize(50, 0x45);
        assert_eq!(ordinary_vxlan(&udp, END), Some(Family::V4));
    }

    /// RFC 768: what lies behind the datagram's length is not part of it.
    #[test]
    fn bytes_behind_the_datagram_are_not_decapsulated() {
        let mut udp = vec![0xc0, 0x01, 0x12, 0xb5, 0, 50, 0, 0];
        udp.extend(vxlan::header(END.vni));
        udp.extend(eth::header(END.mac, MacAddr([2; 6]), EtherType::IPV4));
        udp.resize(57, 0x45);
        let mut batch = Batch::default();
        let packet = batch.push(Frame::NONE, PortId(0)).expect("it is empty");
        packet.family = Family::V4;
        assert_eq!(ordinary_vxlan(&udp, END), None);
        let careful = vxlan_payload(packet, &mut udp, END);
        assert_eq!(careful, Ok((Family::V4, 50)));
        for len in [7, 29, 58] {
            udp[5] = len;
            let careful = vxlan_payload(packet, &mut udp, END);
            assert_eq!(careful, Err(DropReason::TunnelMalformed), "{len}");
        }
    }
}
