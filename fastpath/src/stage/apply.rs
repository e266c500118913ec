//! Changing packets that go on. Elsewhere only what ICMP errors quote is translated, and a checksum that is to be judged completed.

use encap::checksum::{self, Completed};
use encap::ecn::Ecn;
use encap::flow_hash::{self, HashKey};
use encap::nat::{self, Tuple};
use encap::outer::{self, Inner, Kind, WriteError};
use encap::{ipv4, ipv6};

use crate::batch::{Batch, Family, Fate, Packet, flag};
use crate::counters::Counters;
use crate::io::PacketIo;
use crate::reason::DropReason;
use crate::stage::fragment::{self, Outbox};
use crate::tables::{Adjacency, NextHop, Tables};

/// What is looked at to know whether the short way does: of these flags an ordinary packet has only the one that says so.
const CAREFUL: u8 =
    flag::ORDINARY | flag::MAYBE_PARTIAL | flag::FRAGMENT | flag::KEEP_TTL | flag::COMPLETE;

/// A family and flags in one number, for one comparison.
const fn both(family: u8, flags: u8) -> u16 {
    u16::from_le_bytes([family, flags])
}

/// Applies its next hop to every packet that leaves: TTL, checksum, outer headers. Packets that must be fragmented
/// leave their other fragments in `outbox`.
pub fn run<I: PacketIo>(
    batch: &mut Batch,
    io: &mut I,
    tables: &Tables,
    outbox: &mut Outbox,
    counters: &Counters,
) {
    let key = &tables.hash_key;
    for packet in batch.packets() {
        if !matches!(packet.fate, Fate::Transmit(_)) {
            continue;
        }
        let NextHop::Send(adjacency) = tables.next_hop(packet.next_hop) else {
            if !packet.has(flag::COMPLETE) {
                packet.drop(DropReason::NoRoute);
            }
            continue;
        };
        let looks = both(packet.family as u8, packet.flags) & both(u8::MAX, CAREFUL);
        let is = |family: Family| looks == both(family as u8, flag::ORDINARY);
        let done = if is(Family::V4) && adjacency.rewrite.kind() != Kind::Vxlan6 {
            ordinary4(packet, io.chunk(&packet.frame), adjacency, key)
        } else if is(Family::V6) {
            ordinary6(packet, io.chunk(&packet.frame), adjacency, key)
        } else if packet.has(flag::COMPLETE) {
            continue;
        } else {
            careful(packet, io, adjacency, key, outbox, counters)
        };
        if let Err(reason) = done {
            packet.drop(reason);
        }
    }
}

/// Any packet.
#[inline(never)]
fn careful<I: PacketIo>(
    packet: &mut Packet,
    io: &mut I,
    adjacency: &Adjacency,
    key: &HashKey,
    outbox: &mut Outbox,
    counters: &Counters,
) -> Result<(), DropReason> {
    if packet.has(flag::MAYBE_PARTIAL) {
        complete(packet, l3_of(packet, io.chunk(&packet.frame)), counters);
    }
    if packet.has(flag::FRAGMENT) {
        forward(packet, l3_of(packet, io.chunk(&packet.frame)))?;
        fragment::run(packet, io, adjacency, key, outbox)
    } else {
        encapsulate(packet, io.chunk(&packet.frame), adjacency, key)
    }
}

/// An ordinary packet of IPv4, behind outer headers of IPv4 if any.
#[inline(always)]
fn ordinary4(
    packet: &mut Packet,
    chunk: &mut [u8],
    adjacency: &Adjacency,
    key: &HashKey,
) -> Result<(), DropReason> {
    let rewrite = &adjacency.rewrite;
    let l3 = usize::from(packet.frame.start) + usize::from(packet.l3);
    let Some((front, ip)) = chunk.split_at_mut_checked(l3) else {
        return Err(DropReason::NoHeadroom);
    };
    forward_ordinary4(packet, ip)?;
    let written = if rewrite.kind() == Kind::Ethernet {
        rewrite.prepend_ethernet(front, outer::Family::V4)
    } else {
        rewrite.prepend4(front, &ordinary_inner4(packet, adjacency, key))
    };
    written.map_err(write_reason)?;
    let len = rewrite.len() as u16;
    // Both fit: headers and packet lie in the chunk.
    packet.frame.start = (l3 as u16).wrapping_sub(len);
    packet.frame.len = packet.ip4.total_len.wrapping_add(len);
    Ok(())
}

/// An ordinary packet of IPv6.
#[inline(always)]
fn ordinary6(
    packet: &mut Packet,
    chunk: &mut [u8],
    adjacency: &Adjacency,
    key: &HashKey,
) -> Result<(), DropReason> {
    let rewrite = &adjacency.rewrite;
    let l3 = usize::from(packet.frame.start) + usize::from(packet.l3);
    let Some((front, ip)) = chunk.split_at_mut_checked(l3) else {
        return Err(DropReason::NoHeadroom);
    };
    forward_ordinary6(packet, ip)?;
    let (start, ip_len) = (l3.wrapping_sub(rewrite.len()), packet.ip6.total_len());
    let written = if rewrite.kind() == Kind::Ethernet {
        rewrite.prepend_ethernet(front, outer::Family::V6)
    } else if rewrite.kind() == Kind::Vxlan6 {
        // Its checksum covers the packet.
        let Some(bytes) = chunk.get_mut(start..l3 + ip_len) else {
            return Err(DropReason::NoHeadroom);
        };
        rewrite.write(bytes, &ordinary_inner6(packet, adjacency, key))
    } else {
        rewrite.prepend4(front, &ordinary_inner6(packet, adjacency, key))
    };
    written.map_err(write_reason)?;
    // Both fit: headers and packet lie in the chunk.
    packet.frame.start = start as u16;
    packet.frame.len = (rewrite.len() + ip_len) as u16;
    Ok(())
}

/// What forwarding changes in the IP packet itself, which is `l3` without link padding: addresses, ports, TTL.
#[inline(always)]
fn forward(packet: &Packet, l3: &mut [u8]) -> Result<(), DropReason> {
    if packet.has(flag::TRANSLATE) {
        translate(packet, l3)?;
    }
    if !packet.has(flag::KEEP_TTL) {
        match packet.family {
            Family::V6 => ipv6::decrement_hop_limit(l3),
            Family::V4 | Family::Unknown => ipv4::decrement_ttl(l3),
        };
    }
    Ok(())
}

/// The same for an ordinary packet that spends its TTL.
#[inline(always)]
fn forward_ordinary4(packet: &Packet, l3: &mut [u8]) -> Result<(), DropReason> {
    if !packet.has(flag::TRANSLATE) {
        ipv4::decrement_ttl(l3);
        return Ok(());
    }
    let to = Tuple {
        src: packet.ip4.src,
        dst: packet.ip4.dst,
        ports: packet.ports,
    };
    if nat::forward_ordinary4(l3, packet.ip4.protocol, to) {
        Ok(())
    } else {
        Err(DropReason::NatProtocol)
    }
}

/// The same for IPv6.
#[inline(always)]
fn forward_ordinary6(packet: &Packet, l3: &mut [u8]) -> Result<(), DropReason> {
    if !packet.has(flag::TRANSLATE) {
        ipv6::decrement_hop_limit(l3);
        return Ok(());
    }
    let to = Tuple {
        src: packet.ip6.src,
        dst: packet.ip6.dst,
        ports: packet.ports,
    };
    if nat::forward_ordinary6(l3, packet.ip6.upper.protocol, to) {
        Ok(())
    } else {
        Err(DropReason::NatProtocol)
    }
}

/// Gives the packet's bytes the addresses and ports that it is known by.
#[inline(always)]
fn translate(packet: &Packet, l3: &mut [u8]) -> Result<(), DropReason> {
    let done = match packet.family {
        Family::V6 => {
            let (src, dst) = (packet.ip6.src, packet.ip6.dst);
            let mut there = packet.ip6;
            there.read_addresses(l3);
            let to = Tuple {
                src,
                dst,
                ports: packet.ports,
            };
            nat::translate6(l3, &there, to)
        }
        Family::V4 | Family::Unknown => {
            let (src, dst) = (packet.ip4.src, packet.ip4.dst);
            let mut there = packet.ip4;
            there.read_addresses(l3);
            let to = Tuple {
                src,
                dst,
                ports: packet.ports,
            };
            nat::translate4(l3, &there, to)
        }
    };
    done.map_err(|_| DropReason::NatProtocol)
}

/// Completes a partial transport checksum.
#[inline(never)]
pub(super) fn complete(packet: &Packet, l3: &mut [u8], counters: &Counters) {
    // By the addresses that it came with, whatever it is to be translated to.
    let completed = match packet.family {
        Family::V6 => {
            let mut there = packet.ip6;
            there.read_addresses(l3);
            checksum::complete_partial_v6(l3, &there)
        }
        Family::V4 | Family::Unknown => {
            let mut there = packet.ip4;
            there.read_addresses(l3);
            checksum::complete_partial_v4(l3, &there)
        }
    };
    if completed == Completed::Filled {
        counters.checksums_completed.add(1);
    }
}

/// The IP packet of a frame, without link padding.
fn l3_of<'a>(packet: &Packet, chunk: &'a mut [u8]) -> &'a mut [u8] {
    let start = usize::from(packet.frame.start) + usize::from(packet.l3);
    chunk
        .get_mut(start..start + packet.ip_len())
        .unwrap_or_default()
}

/// Forwards the IP packet and puts the next hop's headers in front of it, in place; link padding is cut off.
#[inline(always)]
fn encapsulate(
    packet: &mut Packet,
    chunk: &mut [u8],
    adjacency: &Adjacency,
    key: &HashKey,
) -> Result<(), DropReason> {
    let rewrite = &adjacency.rewrite;
    let l3 = usize::from(packet.frame.start) + usize::from(packet.l3);
    let start = l3.wrapping_sub(rewrite.len());
    let Some(bytes) = chunk.get_mut(start..l3 + packet.ip_len()) else {
        return Err(DropReason::NoHeadroom);
    };
    packet.frame.start = start as u16;
    packet.frame.len = bytes.len() as u16;
    let Some(ip) = bytes.get_mut(rewrite.len()..) else {
        return Err(DropReason::NoHeadroom);
    };
    forward(packet, ip)?;
    let family = match packet.family {
        Family::V4 => outer::Family::V4,
        Family::V6 => outer::Family::V6,
        Family::Unknown => return Err(DropReason::NoRoute),
    };
    if rewrite.kind() == Kind::Ethernet {
        rewrite.write_ethernet(bytes, family).map_err(write_reason)
    } else {
        tunnel(packet, bytes, adjacency, key)
    }
}

/// Writes outer IP headers.
#[inline(always)]
fn tunnel(
    packet: &Packet,
    bytes: &mut [u8],
    adjacency: &Adjacency,
    key: &HashKey,
) -> Result<(), DropReason> {
    let inner = inner_of(packet, adjacency, key).ok_or(DropReason::NoRoute)?;
    adjacency.rewrite.write(bytes, &inner).map_err(write_reason)
}

/// What the outer headers need to know of an ordinary packet of IPv4: [`inner_of`], of which fewer things are asked.
#[inline(always)]
fn ordinary_inner4(packet: &Packet, adjacency: &Adjacency, key: &HashKey) -> Inner {
    let ip = &packet.ip4;
    let flow_hash = if adjacency.rewrite.kind() == Kind::Ipip && ip.dont_fragment() {
        0
    } else if packet.flow_hash != 0 {
        packet.flow_hash
    } else {
        flow_hash::v4(key, ip.src, ip.dst, ip.protocol, packet.ports)
    };
    Inner {
        len: ip.total_len,
        family: outer::Family::V4,
        ecn: Ecn::of(ip.tos),
        dont_fragment: ip.dont_fragment(),
        flow_hash,
        id: ip.id.wrapping_add((flow_hash >> 16) as u16),
    }
}

/// The same of IPv6.
#[inline(always)]
fn ordinary_inner6(packet: &Packet, adjacency: &Adjacency, key: &HashKey) -> Inner {
    let ip = &packet.ip6;
    let flow_hash = if adjacency.rewrite.kind() == Kind::Ipip {
        0
    } else if packet.flow_hash != 0 {
        packet.flow_hash
    } else {
        flow_hash::v6(key, ip.src, ip.dst, ip.upper.protocol, packet.ports)
    };
    Inner {
        // A packet that is longer does not fit a frame.
        len: ip.total_len() as u16,
        family: outer::Family::V6,
        ecn: Ecn::of(ip.traffic_class),
        dont_fragment: true,
        flow_hash,
        id: (flow_hash >> 16) as u16,
    }
}

/// What the outer headers need to know of the inner packet.
#[inline(always)]
pub(super) fn inner_of(packet: &Packet, adjacency: &Adjacency, key: &HashKey) -> Option<Inner> {
    match packet.family {
        Family::V4 => {
            let ip = &packet.ip4;
            let is_whole = !ip.is_fragment() && !packet.has(flag::FRAGMENT);
            // All fragments of a datagram share a source port: the first must not use its ports.
            let ports = if is_whole { packet.ports } else { (0, 0) };
            let flow_hash = match adjacency.rewrite.kind() {
                Kind::Ethernet => 0,
                Kind::Ipip if ip.dont_fragment() => 0,
                Kind::Ipip | Kind::Vxlan4 | Kind::Vxlan6 if is_whole && packet.flow_hash != 0 => {
                    packet.flow_hash
                }
                Kind::Ipip | Kind::Vxlan4 | Kind::Vxlan6 => {
                    flow_hash::v4(key, ip.src, ip.dst, ip.protocol, ports)
                }
            };
            Some(Inner {
                len: ip.total_len,
                family: outer::Family::V4,
                ecn: Ecn::of(ip.tos),
                dont_fragment: ip.dont_fragment(),
                flow_hash,
                // The sender's own counter, shifted a flow and a fragment: as unique as the sender made it (RFC 6864 section 4.1).
                id: ip
                    .id
                    .wrapping_add((flow_hash >> 16) as u16)
                    .wrapping_add(ip.fragment_offset() / 8),
            })
        }
        Family::V6 => {
            let ip = &packet.ip6;
            // The protocol too: a later fragment may name another header than the first.
            let (protocol, ports) = if ip.is_fragment() {
                (0, (0, 0))
            } else {
                (ip.upper.protocol, packet.ports)
            };
            let flow_hash = match adjacency.rewrite.kind() {
                Kind::Ethernet | Kind::Ipip => 0,
                Kind::Vxlan4 | Kind::Vxlan6 if !ip.is_fragment() && packet.flow_hash != 0 => {
                    packet.flow_hash
                }
                Kind::Vxlan4 | Kind::Vxlan6 => flow_hash::v6(key, ip.src, ip.dst, protocol, ports),
            };
            Some(Inner {
                len: u16::try_from(ip.total_len()).ok()?,
                family: outer::Family::V6,
                ecn: Ecn::of(ip.traffic_class),
                dont_fragment: true,
                flow_hash,
                id: (flow_hash >> 16) as u16,
            })
        }
        Family::Unknown => None,
    }
}

/// The reason that stands for a writer's verdict.
pub(super) const fn write_reason(error: WriteError) -> DropReason {
    match error {
        WriteError::NoRoom | WriteError::TooLong => DropReason::NoHeadroom,
        WriteError::Family => DropReason::NoRoute,
    }
}

#[cfg(test)]
mod tests {
    use encap::eth::MacAddr;
    use encap::ipv6::{Fragment, Upper};
    use encap::outer::{Macs, Overlay, Rewrite, Tunnel, UdpChecksum};
    use encap::vxlan::{self, Vni};
    use proptest::prelude::*;

    use super::*;
    use crate::batch::PeerId;
    use crate::port::PortId;
    use crate::tables::Way;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2048, ..ProptestConfig::default() })]

        #[test]
        fn ordinary_packets_get_the_outer_headers_that_any_get(
            kind in 0..3_u8,
            (src, dst, protocol, ports) in any::<(u32, u32, bool, (u16, u16))>(),
            (total_len, id, dont_fragment, tos) in any::<(u16, u16, bool, u8)>(),
            flow_hash in prop::option::of(any::<u32>()),
        ) {
            let macs = Macs { dst: MacAddr([4; 6]), src: MacAddr([2; 6]) };
            let overlay = Overlay { port: vxlan::DEFAULT_PORT, vni: Vni::CALICO, macs };
            let tunnel = Tunnel { src: 1, dst: 2 };
            let rewrite = match kind {
                0 => Rewrite::ethernet(macs),
                1 => Rewrite::ipip(macs, tunnel, 64),
                _ => Rewrite::vxlan4(macs, tunnel, overlay),
            };
            let adjacency = Adjacency {
                port: PortId(0),
                mtu: 1500,
                peer: PeerId::NONE,
                way: Way::Tunnel,
                rewrite,
            };
            let mut batch = Batch::default();
            let packet = batch.push(crate::frame::Frame::NONE, PortId(1)).expect("it is empty");
            packet.family = Family::V4;
            packet.flags = flag::ORDINARY;
            packet.ip4 = ipv4::Ipv4Info {
                src,
                checksum: 0,
                dst,
                total_len,
                id,
                flags_and_offset: if dont_fragment { ipv4::DONT_FRAGMENT } else { 0 },
                version_and_len: ipv4::NO_OPTIONS,
                protocol: if protocol { encap::l4::TCP } else { encap::l4::UDP },
                ttl: 64,
                tos,
            };
            packet.ports = ports;
            packet.flow_hash = flow_hash.unwrap_or(0);
            let key = HashKey([1, 2]);
            let (ordinary, others) = (ordinary_inner4(packet, &adjacency, &key), inner_of(packet, &adjacency, &key));
            let others = others.expect("it is IPv4");
            let (mut before, mut frame) = ([0; 100], [0; 100]);
            let prepended = adjacency.rewrite.prepend4(&mut before, &ordinary);
            prop_assert_eq!(prepended, adjacency.rewrite.write(&mut frame, &others));
            if prepended.is_ok() {
                let len = adjacency.rewrite.len();
                prop_assert_eq!(&before[100 - len..], &frame[..len]);
                prop_assert_eq!(before[..100 - len].iter().max(), Some(&0));
            }
        }
    }

    /// An ordinary packet between some ends, as it lies behind its link header.
    fn ip_packet(v6: bool, tcp: bool, hop_limit: u8, tos: u8, len: usize) -> Vec<u8> {
        let protocol = if tcp { encap::l4::TCP } else { encap::l4::UDP };
        let mut bytes = if v6 {
            let mut bytes = (6 << 28 | u32::from(tos) << 20).to_be_bytes().to_vec();
            bytes.extend((len as u16).to_be_bytes());
            bytes.extend([protocol, hop_limit]);
            bytes.extend([0xfd; 32]);
            bytes
        } else {
            let mut bytes = vec![0x45, tos];
            bytes.extend((20 + len as u16).to_be_bytes());
            bytes.extend([
                0x12, 0x34, 0x40, 0, hop_limit, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
            ]);
            let sum = checksum::of(&bytes);
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
            bytes
        };
        bytes.extend((0..len).map(|it| it as u8));
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

        #[test]
        fn an_ordinary_packet_leaves_as_any_does(
            (v6, tcp, kind) in (any::<bool>(), any::<bool>(), 0..5_u8),
            hop_limit in prop::sample::select(vec![0, 1, 2, 64, 255]),
            (tos, len, room) in (any::<u8>(), 20..60_usize, prop::sample::select(vec![0_usize, 13, 14, 60, 84, 120])),
            translated in prop::option::of((any::<u128>(), any::<u128>(), any::<(u16, u16)>())),
            flow_hash in prop::option::of(any::<u32>()),
        ) {
            let macs = Macs { dst: MacAddr([4; 6]), src: MacAddr([2; 6]) };
            let overlay = Overlay { port: vxlan::DEFAULT_PORT, vni: Vni::CALICO, macs };
            let ends6 = Tunnel { src: 3, dst: 4 };
            let rewrite = match kind {
                0 => Rewrite::ethernet(macs),
                1 => Rewrite::ipip(macs, Tunnel { src: 1, dst: 2 }, 64),
                2 => Rewrite::vxlan4(macs, Tunnel { src: 1, dst: 2 }, overlay),
                3 => Rewrite::vxlan6(macs, ends6, overlay, UdpChecksum::Zero),
                _ => Rewrite::vxlan6(macs, ends6, overlay, UdpChecksum::Computed),
            };
            let adjacency = Adjacency { port: PortId(0), mtu: 1500, peer: PeerId::NONE, way: Way::Tunnel, rewrite };
            let ip = ip_packet(v6, tcp, hop_limit, tos, len);
            let ports = (u16::from_be_bytes([ip[ip.len() - len], ip[ip.len() - len + 1]]), 0x0203);
            // What is translated has a TTL to spend: it was decided so.
            let translated = translated.filter(|_| hop_limit > 1);
            let mut results = Vec::new();
            for is_ordinary in [true, false] {
                let mut chunk = vec![0xa5; room];
                chunk.extend(&ip);
                chunk.extend([0x5a; 9]);
                let mut batch = Batch::default();
                let packet = batch.push(crate::frame::Frame::NONE, PortId(1)).expect("it is empty");
                (packet.frame.start, packet.frame.len) = (0, (room + ip.len() + 9) as u16);
                packet.l3 = room as u16;
                packet.flags = flag::ORDINARY;
                packet.ports = ports;
                packet.flow_hash = flow_hash.unwrap_or(0);
                if v6 {
                    packet.family = Family::V6;
                    packet.ip6 = ipv6::parse(&ip).expect("it is right");
                } else {
                    packet.family = Family::V4;
                    packet.ip4 = ipv4::parse(&ip).expect("it is right");
                }
                if let Some((src, dst, ports)) = translated {
                    packet.flags |= flag::TRANSLATE;
                    packet.ports = ports;
                    (packet.ip6.src, packet.ip6.dst) = (src, dst);
                    (packet.ip4.src, packet.ip4.dst) = (src as u32, dst as u32);
                }
                let key = HashKey([1, 2]);
                let done = match (is_ordinary, v6) {
                    (true, true) => ordinary6(packet, &mut chunk, &adjacency, &key),
                    // Of such there are so few that they go the careful way.
                    (true, false) if kind < 3 => ordinary4(packet, &mut chunk, &adjacency, &key),
                    _ => encapsulate(packet, &mut chunk, &adjacency, &key),
                };
                let (start, len) = (usize::from(packet.frame.start), usize::from(packet.frame.len));
                // Of who is dropped nothing is sent.
                results.push(done.map(|()| (start, len, chunk)));
            }
            prop_assert_eq!(&results[0], &results[1]);
        }
    }

    #[test]
    fn fragments_of_one_ipv6_datagram_share_an_outer_source_port() {
        let macs = Macs {
            dst: MacAddr::ZERO,
            src: MacAddr::ZERO,
        };
        let overlay = Overlay {
            port: vxlan::DEFAULT_PORT,
            vni: Vni::CALICO,
            macs,
        };
        let adjacency = Adjacency {
            port: PortId(0),
            mtu: 1500,
            peer: PeerId::NONE,
            way: Way::Tunnel,
            rewrite: Rewrite::vxlan6(macs, Tunnel { src: 1, dst: 2 }, overlay, UdpChecksum::Zero),
        };
        let mut batch = Batch::default();
        let packet = batch
            .push(crate::frame::Frame::NONE, PortId(1))
            .expect("it is empty");
        packet.family = Family::V6;
        let mut hash_of = |protocol, ports, offset| {
            packet.ports = ports;
            // What they were looked up by need not be the same.
            packet.flow_hash = 1 + u32::from(offset);
            packet.ip6.upper = Upper {
                protocol,
                offset: 48,
                fragment: Some(Fragment {
                    id: 7,
                    len: 8,
                    offset,
                    more: true,
                }),
            };
            let key = HashKey([1, 2]);
            inner_of(packet, &adjacency, &key).map(|inner| inner.flow_hash)
        };
        // The first fragment shows its ports, a later one not, and may name another header than the first.
        let first = hash_of(encap::l4::UDP, (1000, 2000), 0);
        assert!(first.is_some());
        assert_eq!(first, hash_of(encap::l4::UDP, (0, 0), 1448));
        assert_eq!(first, hash_of(60, (0, 0), 1448));
        // A whole packet is known by its connection's.
        packet.ip6.upper.fragment = None;
        packet.flow_hash = 7;
        let whole = inner_of(packet, &adjacency, &HashKey([1, 2]));
        assert_eq!(whole.map(|inner| inner.flow_hash), Some(7));
    }
}
