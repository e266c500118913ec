//! The quick way is judged by the careful one.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use encap::checksum::{self, Completed, Sum};
use encap::vxlan;
use proptest::prelude::*;

use super::*;
use crate::batch::PeerId;
use crate::frame::Frame;
use crate::port::PodPort;
use flowtable::lpm::NextHopId;

const PORT_MAC: MacAddr = MacAddr::CALICO_HOST;
const POD_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 7]);
const POD4: u32 = 0x0a41_0002;
const POD6: u128 = 0xfd00_0041 << 96 | 2;

fn packet() -> Packet {
    Packet {
        ip4: Ipv4Info::default(),
        frame: Frame::NONE,
        ports: (0, 0),
        l3: 0,
        in_port: PortId(1),
        next_hop: NextHopId::NONE,
        peer: PeerId::NONE,
        fate: crate::batch::Fate::Undecided,
        family: Family::Unknown,
        flags: 0,
        denied_by: crate::policy::Decider::NOBODY,
        flow_hash: 0,
        tag: 0,
        ip6: Ipv6Info::default(),
    }
}

/// Addresses that are none of a host beyond its link: unspecified, loopback, an IPv4 address, link-local, multicast; and such that are, but
/// not for the quick way.
const UNUSUAL6: [u128; 8] = [
    0,
    1,
    0xffff << 32 | 0x0a41_0002,
    0xfe80 << 112 | 9,
    0xff02 << 112 | 1,
    u128::MAX,
    0xfec0 << 112 | 9,
    9,
];

fn port(kind: u8, has_mac: bool, partial_checksums: bool) -> Port {
    let pod = PodPort {
        mac: has_mac.then_some(POD_MAC),
        addrs4: vec![POD4, POD4 + 1],
        addrs6: vec![POD6, POD6 + 1],
        allowed4: vec![(0x0808_0000, 0xffff_0000)],
        allowed6: vec![
            (0xfe80 << 112 | 9, u128::MAX),
            (0xfd08 << 112, 0xffff << 112),
        ],
    };
    Port {
        name: "port".into(),
        mac: PORT_MAC,
        mtu: 1500,
        kind: match kind {
            0 => PortKind::Uplink,
            1 => PortKind::Host,
            _ => PortKind::Pod(pod),
        },
        partial_checksums,
        icmp_source4: None,
        icmp_source6: None,
        nat4: None,
        nat6: None,
        since: 0,
    }
}

fn tunnels(pods_may_vxlan: bool) -> Tunnels {
    Tunnels {
        vxlan_port: vxlan::DEFAULT_PORT,
        pods_may_vxlan,
        ..Tunnels::default()
    }
}

/// An ordinary packet of a pod, and what is to be changed in it.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let ends = (
        prop::sample::select(vec![
            POD4,
            POD4,
            POD4 + 1,
            POD4 + 2,
            0x0808_0101,
            0,
            0xe000_0001,
        ]),
        prop::sample::select(vec![0x0a41_0103, 0x0808_0808, 0x7f00_0001, 0xe000_0001_u32]),
    );
    let plain6 = vec![POD6, POD6, POD6 + 1, POD6 + 2, 0xfd08 << 112 | 1];
    let unusual6 = || prop::sample::select(UNUSUAL6.to_vec());
    let ends6 = (
        prop_oneof![4 => prop::sample::select(plain6), 1 => unusual6()],
        prop_oneof![4 => Just(0xfd00_u128 << 112 | 9), 1 => unusual6()],
    );
    let protocol = prop::sample::select(vec![
        l4::UDP,
        l4::UDP,
        l4::TCP,
        l4::UDP,
        l4::TCP,
        l4::TCP,
        l4::SCTP,
        l4::ICMP,
        4,
        0,
        43,
        44,
        59,
        60,
    ]);
    let ttl = prop::sample::select(vec![64, 64, 0, 1, 2, 255]);
    let dst_port = prop::sample::select(vec![53, vxlan::DEFAULT_PORT]);
    let checksum = prop::sample::select(vec![0_u16, 1, 2, 0xffff]);
    let payload = 0..40_usize;
    let length = prop::option::of(prop::sample::select(vec![
        0_u16, 7, 8, 19, 20, 27, 28, 39, 40, 60, 0xffff,
    ]));
    // Where, which bit, and whether the IPv4 checksum is put right again.
    // The more often what the IP header begins with.
    let place = prop_oneof![2 => 0..70_usize, 1 => 14..22_usize];
    let changes = prop::collection::vec((place, 0..8_u32, any::<bool>()), 0..3);
    (
        any::<bool>(),
        (ends, ends6),
        (protocol, ttl),
        dst_port,
        checksum,
        (payload, length),
        changes,
    )
        .prop_map(
            |(
                v6,
                ((src, dst), (src6, dst6)),
                (protocol, ttl),
                dst_port,
                checksum,
                (payload, length),
                changes,
            )| {
                let mut l4 = vec![0x12, 0x34];
                l4.extend(dst_port.to_be_bytes());
                l4.resize(8 + payload, 0x5a);
                let len = l4.len();
                let pseudo = if v6 {
                    Sum::pseudo_v6(src6, dst6, protocol, len as u32)
                } else {
                    Sum::pseudo_v4(src, dst, protocol, len as u16)
                };
                let field = match checksum {
                    1 => pseudo.fold(),
                    2 => !pseudo.fold(),
                    other => other,
                };
                let at = if protocol == l4::TCP { 16 } else { 6 };
                if let Some(room) = l4.get_mut(at..at + 2) {
                    room.copy_from_slice(&field.to_be_bytes());
                }
                let ethertype = if v6 { EtherType::IPV6 } else { EtherType::IPV4 };
                let mut frame = eth::header(PORT_MAC, POD_MAC, ethertype).to_vec();
                if v6 {
                    frame.extend([0x60, 0, 0, 0]);
                    frame.extend((len as u16).to_be_bytes());
                    frame.extend([protocol, ttl]);
                    frame.extend(src6.to_be_bytes());
                    frame.extend(dst6.to_be_bytes());
                } else {
                    frame.extend([0x45, 0]);
                    frame.extend((20 + len as u16).to_be_bytes());
                    frame.extend([0x12, 0x34, 0x40, 0, ttl, protocol, 0, 0]);
                    frame.extend(src.to_be_bytes());
                    frame.extend(dst.to_be_bytes());
                }
                frame.extend(l4);
                if let Some(length) = length {
                    let at = if v6 { 18 } else { 16 };
                    frame[at..at + 2].copy_from_slice(&length.to_be_bytes());
                }
                seal(&mut frame);
                for (at, bit, sealed) in changes {
                    if let Some(byte) = frame.get_mut(at) {
                        *byte ^= 1 << bit;
                    }
                    if sealed {
                        seal(&mut frame);
                    }
                }
                frame
            },
        )
}

/// Puts an IPv4 header's checksum right.
fn seal(frame: &mut [u8]) {
    if frame.len() > 34 && frame[14] == 0x45 {
        frame[24..26].fill(0);
        let sum = checksum::of(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Whether a packet's checksum is partial, as `apply` finds out.
fn is_partial(packet: &Packet, frame: &[u8]) -> bool {
    let mut l3 = frame[14..].to_vec();
    let completed = match packet.family {
        Family::V6 => checksum::complete_partial_v6(&mut l3, &packet.ip6),
        _ => checksum::complete_partial_v4(&mut l3, &packet.ip4),
    };
    completed == Completed::Filled
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn what_the_quick_way_takes_the_careful_one_takes_alike(
        frame in frames(),
        kind in 0..4_u8,
        (has_mac, partial, pods_may_vxlan) in any::<(bool, bool, bool)>(),
        first6 in prop::option::weighted(0.5, prop::sample::select(UNUSUAL6.to_vec())),
        from_first in any::<bool>(),
        cut in 0..8_usize,
    ) {
        let (mut port, tunnels) = (port(kind, has_mac, partial), tunnels(pods_may_vxlan));
        let mut frame = frame;
        if let (PortKind::Pod(pod), Some(first)) = (&mut port.kind, first6) {
            pod.addrs6.insert(0, first);
            if from_first && frame[12..14] == [0x86, 0xdd] {
                frame[22..38].copy_from_slice(&first.to_be_bytes());
            }
        }
        let frame = &frame[..frame.len().saturating_sub(if cut < 4 { 0 } else { cut })];
        let (mut quick, mut careful) = (packet(), packet());
        (quick.frame.len, careful.frame.len) = (frame.len() as u16, frame.len() as u16);
        if !Ordinary::at(&port, &tunnels).take(&mut quick, frame) {
            return Ok(());
        }
        let mut events = Events::new(Arc::new(ArrayQueue::new(1)));
        let mut bytes = frame.to_vec();
        let taken = ethernet(&mut careful, &mut bytes, &tunnels, PortId(1), &port, &mut events);
        prop_assert_eq!(taken, Ok(()));
        prop_assert!(!events.take_pending());
        prop_assert_eq!(&bytes[..], frame);
        // The careful way says that a checksum may be partial, the quick one looks.
        let partial = flag::MAYBE_PARTIAL;
        if quick.flags & partial != careful.flags & partial {
            prop_assert!(careful.has(partial) && !is_partial(&careful, frame));
            quick.flags |= partial;
        }
        prop_assert_eq!(format!("{quick:?}"), format!("{careful:?}"));
    }

    /// What stages with a shorter way take for granted.
    #[test]
    fn what_is_called_ordinary_has_its_ports_right_behind_the_ip_header(
        (v6, protocol) in (any::<bool>(), prop::sample::select(vec![l4::UDP, l4::TCP, l4::SCTP])),
        // Options of IPv4; of IPv6 destination options, a whole datagram's fragment header, that of a first fragment.
        extension in prop::option::of(0..3_u8),
        payload in 0..40_usize,
    ) {
        let mut l4 = vec![0x12, 0x34, 0, 53, 0, 0, 0, 0];
        l4.resize(8 + payload / 8 * 8, 0x5a);
        let mut frame = eth::header(PORT_MAC, POD_MAC, if v6 { EtherType::IPV6 } else { EtherType::IPV4 }).to_vec();
        if v6 {
            let (next, header) = match extension {
                Some(0) => (60, vec![protocol, 0, 1, 4, 0, 0, 0, 0]),
                Some(1) => (44, vec![protocol, 0, 0, 0, 0, 0, 0, 9]),
                Some(_) => (44, vec![protocol, 0, 0, 1, 0, 0, 0, 9]),
                None => (protocol, Vec::new()),
            };
            l4.splice(0..0, header);
            frame.extend([0x60, 0, 0, 0]);
            frame.extend((l4.len() as u16).to_be_bytes());
            frame.extend([next, 64]);
            frame.extend(POD6.to_be_bytes());
            frame.extend((0xfd00_u128 << 112 | 9).to_be_bytes());
        } else {
            let (words, options) = if extension.is_some() { (6, vec![1, 1, 1, 0]) } else { (5, Vec::new()) };
            l4.splice(0..0, options);
            frame.extend([0x40 | words, 0]);
            frame.extend((20 + l4.len() as u16).to_be_bytes());
            frame.extend([0x12, 0x34, 0x40, 0, 64, protocol, 0, 0]);
            frame.extend(POD4.to_be_bytes());
            frame.extend(0x0a41_0103_u32.to_be_bytes());
        }
        frame.extend(l4);
        if !v6 {
            let end = 14 + usize::from(frame[14] & 15) * 4;
            let sum = checksum::of(&frame[14..end]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        let mut parsed = packet();
        parsed.frame.len = frame.len() as u16;
        let mut events = Events::new(Arc::new(ArrayQueue::new(1)));
        let taken = ethernet(&mut parsed, &mut frame, &tunnels(true), PortId(1), &port(0, true, false), &mut events);
        let least = if protocol == l4::TCP { 20 } else { 8 };
        let is_whole = protocol != l4::SCTP && 8 + payload / 8 * 8 >= least;
        let is_ordinary = taken.is_ok() && extension.is_none() && is_whole;
        prop_assert_eq!(parsed.has(flag::ORDINARY), is_ordinary, "{:?}", taken);
    }

    #[test]
    fn all_but_what_is_unusual_goes_the_quick_way(
        v6 in any::<bool>(), tcp in any::<bool>(), payload in 12..40_usize, kind in 0..4_u8,
    ) {
        let protocol = if tcp { l4::TCP } else { l4::UDP };
        let len = (8 + payload) as u16;
        let mut frame = eth::header(PORT_MAC, POD_MAC, if v6 { EtherType::IPV6 } else { EtherType::IPV4 }).to_vec();
        if v6 {
            frame.extend([0x60, 0, 0, 0]);
            frame.extend(len.to_be_bytes());
            frame.extend([protocol, 64]);
            frame.extend(POD6.to_be_bytes());
            frame.extend((0xfd00_u128 << 112 | 9).to_be_bytes());
        } else {
            frame.extend([0x45, 0]);
            frame.extend((20 + len).to_be_bytes());
            frame.extend([0x12, 0x34, 0x40, 0, 64, protocol, 0, 0]);
            frame.extend(POD4.to_be_bytes());
            frame.extend(0x0a41_0103_u32.to_be_bytes());
        }
        frame.resize(frame.len() + usize::from(len), 7);
        seal(&mut frame);
        let (port, tunnels) = (port(kind, true, true), tunnels(false));
        prop_assert!(Ordinary::at(&port, &tunnels).take(&mut packet(), &frame));
    }
}
