//! Packets whose checksums are computed in full, word by word and bit by bit.

use proptest::prelude::*;

use crate::l4;
use crate::nat::{Tuple, Tuple4, Tuple6};
use crate::testing::{Ipv4Builder, naive_checksum};

/// All of a packet but its tuple.
#[derive(Clone, Debug)]
pub(super) struct Content {
    pub(super) protocol: u8,
    /// ICMP's type.
    pub(super) kind: u8,
    /// UDP without a checksum.
    pub(super) no_checksum: bool,
    /// IPv4 options or, if not empty, an IPv6 destination options header.
    pub(super) options: bool,
    pub(super) data: Vec<u8>,
}

impl Content {
    pub(super) fn new(protocol: u8, data: &[u8]) -> Self {
        Self {
            protocol,
            kind: if protocol == l4::ICMPV6 { 128 } else { 8 },
            no_checksum: false,
            options: false,
            data: data.to_vec(),
        }
    }

    /// The upper layer's header and data, the checksum right over `pseudo`.
    fn segment(&self, ports: (u16, u16), pseudo: impl Fn(usize) -> Vec<u8>) -> Vec<u8> {
        let both = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
        let mut segment = match self.protocol {
            l4::TCP => [
                &both[..],
                &[1, 2, 3, 4, 5, 6, 7, 8, 0x50, 0x18, 9, 9, 0, 0, 0, 0],
            ]
            .concat(),
            l4::UDP => {
                let len = 8 + self.data.len() as u16;
                [&both[..], &len.to_be_bytes(), &[0, 0]].concat()
            }
            // Covers all.
            l4::UDPLITE => [&both[..], &[0, 0, 0, 0]].concat(),
            l4::DCCP => [&both[..], &[4, 0, 0, 0, 5, 6, 7, 8]].concat(),
            l4::SCTP => [&both[..], &[9, 9, 9, 9, 0, 0, 0, 0]].concat(),
            l4::ICMP | l4::ICMPV6 => {
                let id = if l4::has_identifier(self.protocol, self.kind) {
                    ports.0
                } else {
                    0x7777
                };
                [&[self.kind, 0, 0, 0][..], &id.to_be_bytes(), &[0, 1]].concat()
            }
            _ => vec![],
        };
        segment.extend_from_slice(&self.data);
        let pseudo = pseudo(segment.len());
        let at = match self.protocol {
            l4::TCP => 16,
            l4::UDP | l4::UDPLITE | l4::DCCP => 6,
            l4::ICMP | l4::ICMPV6 => 2,
            l4::SCTP => {
                let crc = naive_crc32c(&segment).to_le_bytes();
                segment[8..12].copy_from_slice(&crc);
                return segment;
            }
            _ => return segment,
        };
        if self.protocol == l4::UDP && self.no_checksum {
            return segment;
        }
        let covered = if self.protocol == l4::ICMP {
            segment.clone()
        } else {
            [pseudo, segment.clone()].concat()
        };
        let mut checksum = naive_checksum(&covered);
        if matches!(self.protocol, l4::UDP | l4::UDPLITE) && checksum == 0 {
            checksum = 0xffff;
        }
        segment[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        segment
    }
}

/// Where the checksum of a protocol that uses the Internet checksum is in its header.
pub(super) fn checksum_at(protocol: u8) -> Option<usize> {
    match protocol {
        l4::TCP => Some(16),
        l4::UDP | l4::UDPLITE | l4::DCCP => Some(6),
        l4::ICMP | l4::ICMPV6 => Some(2),
        _ => None,
    }
}

pub(super) fn packet4(content: &Content, tuple: Tuple4) -> Vec<u8> {
    let addresses = [tuple.src.to_be_bytes(), tuple.dst.to_be_bytes()].concat();
    let segment = content.segment(tuple.ports, |len| {
        let [len0, len1] = (len as u16).to_be_bytes();
        [&addresses[..], &[0, content.protocol, len0, len1]].concat()
    });
    let options: &[u8] = if content.options {
        &[148, 4, 0, 0, 1, 1, 1, 0]
    } else {
        &[]
    };
    let mut packet = Ipv4Builder::new(content.protocol, options, &segment).bytes;
    packet[12..20].copy_from_slice(&addresses);
    Ipv4Builder { bytes: packet }.byte(8, 61).bytes
}

pub(super) fn packet6(content: &Content, tuple: Tuple6) -> Vec<u8> {
    let addresses = [tuple.src.to_be_bytes(), tuple.dst.to_be_bytes()].concat();
    let segment = content.segment(tuple.ports, |len| {
        [
            &addresses[..],
            &(len as u32).to_be_bytes(),
            &[0, 0, 0, content.protocol],
        ]
        .concat()
    });
    let (next, payload) = if content.options {
        let extension = [content.protocol, 0, 1, 4, 0, 0, 0, 0];
        (60, [&extension[..], &segment].concat())
    } else {
        (content.protocol, segment)
    };
    let mut packet = crate::testing::ipv6(next, &payload);
    packet[8..40].copy_from_slice(&addresses);
    packet
}

/// An ICMP error from one address to another that quotes `quote`, its checksum right.
pub(super) fn error4(kind: u8, code: u8, (src, dst): (u32, u32), quote: &[u8]) -> Vec<u8> {
    let content = Content {
        kind,
        ..Content::new(l4::ICMP, &[])
    };
    let mut packet = packet4(
        &content,
        Tuple {
            src,
            dst,
            ports: (0, 0),
        },
    );
    packet[21] = code;
    packet[24..28].copy_from_slice(&[0, 0, 5, 0xdc]);
    packet.extend_from_slice(quote);
    packet[22..24].fill(0);
    let checksum = naive_checksum(&packet[20..]);
    packet[22..24].copy_from_slice(&checksum.to_be_bytes());
    let len = packet.len() as u16;
    Ipv4Builder { bytes: packet }.total_len(len).bytes
}

/// An ICMPv6 error from one address to another that quotes `quote`, its checksum right.
pub(super) fn error6(kind: u8, (src, dst): (u128, u128), quote: &[u8]) -> Vec<u8> {
    let addresses = [src.to_be_bytes(), dst.to_be_bytes()].concat();
    let mut message = [&[kind, 0, 0, 0, 0, 0, 5, 0xdc][..], quote].concat();
    let pseudo = [
        &addresses[..],
        &(message.len() as u32).to_be_bytes(),
        &[0, 0, 0, l4::ICMPV6],
    ]
    .concat();
    let checksum = naive_checksum(&[pseudo, message.clone()].concat());
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let mut packet = crate::testing::ipv6(l4::ICMPV6, &message);
    packet[8..40].copy_from_slice(&addresses);
    packet
}

/// The CRC of RFC 9260 appendix A, bit by bit, over a packet whose own field counts as zeros.
pub(super) fn naive_crc32c(packet: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for (at, byte) in packet.iter().enumerate() {
        crc ^= u32::from(if (8..12).contains(&at) { 0 } else { *byte });
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    !crc
}

/// Protocols with and without ports and checksums.
pub(super) const PROTOCOLS: [u8; 9] = [
    l4::TCP,
    l4::UDP,
    l4::UDPLITE,
    l4::DCCP,
    l4::SCTP,
    l4::ICMP,
    l4::ICMPV6,
    47,
    50,
];

pub(super) fn contents() -> impl Strategy<Value = Content> {
    let data = prop::collection::vec(any::<u8>(), 0..80);
    let kind = prop::sample::select(vec![0, 8, 13, 18, 37, 128, 129, 250]);
    (
        prop::sample::select(PROTOCOLS.to_vec()),
        kind,
        any::<bool>(),
        any::<bool>(),
        data,
    )
        .prop_map(|(protocol, kind, no_checksum, options, data)| Content {
            protocol,
            kind,
            no_checksum,
            options,
            data,
        })
}

/// A tuple for `content`: an ICMP query has one identifier.
pub(super) fn fit<A>(mut tuple: Tuple<A>, content: &Content) -> Tuple<A> {
    if matches!(content.protocol, l4::ICMP | l4::ICMPV6) {
        tuple.ports.1 = tuple.ports.0;
    }
    tuple
}

/// Tuples with all-ones and all-zeros words, at which one's complement has two zeros.
pub(super) fn tuples<A: Arbitrary + Copy + From<u8> + std::ops::Not<Output = A> + 'static>()
-> BoxedStrategy<Tuple<A>> {
    let addr = || {
        prop_oneof![
            4 => any::<A>(),
            1 => Just(A::from(0)),
            1 => Just(!A::from(0))
        ]
    };
    let port = || prop_oneof![4 => any::<u16>(), 1 => Just(0), 1 => Just(0xffff)];
    (addr(), addr(), port(), port())
        .prop_map(|(src, dst, sport, dport)| Tuple {
            src,
            dst,
            ports: (sport, dport),
        })
        .boxed()
}
