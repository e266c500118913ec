//! Packets, made so that a reader sees what is in them. Checksums are computed the slow way, and nothing here is shared
//! with the code under test.

use std::net::{Ipv4Addr, Ipv6Addr};

/// TCP's protocol number.
pub const TCP: u8 = 6;
/// UDP's protocol number.
pub const UDP: u8 = 17;
/// ICMP's protocol number.
pub const ICMP: u8 = 1;
/// ICMPv6's protocol number.
pub const ICMPV6: u8 = 58;
/// The protocol number of IPv4 in IPv4.
pub const IPIP: u8 = 4;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// An Ethernet frame around an IP packet; the type follows its version.
pub fn ethernet(dst: Mac, src: Mac, packet: &[u8]) -> Vec<u8> {
    let ethertype = match packet.first().map(|byte| byte >> 4) {
        Some(6) => 0x86dd,
        _ => 0x0800,
    };
    frame(dst, src, ethertype, packet)
}

/// An Ethernet frame of any type.
pub fn frame(dst: Mac, src: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&dst[..], &src, &ethertype.to_be_bytes(), payload].concat()
}

/// The Internet checksum, word by word (RFC 1071).
pub fn checksum(bytes: &[u8]) -> u16 {
    !sum(bytes)
}

/// The one's complement sum of words.
pub fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
        if sum > 0xffff {
            sum -= 0xffff;
        }
    }
    sum as u16
}

/// An IPv4 packet to be.
#[derive(Clone, Debug)]
pub struct Ip4 {
    /// Source.
    pub src: Ipv4Addr,
    /// Destination.
    pub dst: Ipv4Addr,
    /// Time to live.
    pub ttl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Identification.
    pub id: u16,
    /// Flags and fragment offset, as on the wire.
    pub fragment: u16,
    /// Options, whole words.
    pub options: Vec<u8>,
}

/// "Don't fragment" in [`Ip4::fragment`].
pub const DF: u16 = 0x4000;
/// "More fragments" in [`Ip4::fragment`].
pub const MF: u16 = 0x2000;

/// From one address to another: TTL 64, "don't fragment".
///
/// # Panics
/// When a text is no address.
pub fn ip4(src: &str, dst: &str) -> Ip4 {
    Ip4 {
        src: src.parse().expect("an IPv4 address"),
        dst: dst.parse().expect("an IPv4 address"),
        ttl: 64,
        tos: 0,
        id: 0x1234,
        fragment: DF,
        options: Vec::new(),
    }
}

impl Ip4 {
    /// With another TTL.
    #[must_use]
    pub fn ttl(self, ttl: u8) -> Self {
        Self { ttl, ..self }
    }

    /// With another TOS byte.
    #[must_use]
    pub fn tos(self, tos: u8) -> Self {
        Self { tos, ..self }
    }

    /// With another identification.
    #[must_use]
    pub fn id(self, id: u16) -> Self {
        Self { id, ..self }
    }

    /// With other flags and another fragment offset.
    #[must_use]
    pub fn fragment(self, fragment: u16) -> Self {
        Self { fragment, ..self }
    }

    /// With options.
    #[must_use]
    pub fn options(self, options: &[u8]) -> Self {
        Self {
            options: options.to_vec(),
            ..self
        }
    }

    /// The packet around any payload.
    pub fn packet(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let mut bytes = vec![0x40 | (header_len / 4) as u8, self.tos];
        bytes.extend(((header_len + payload.len()) as u16).to_be_bytes());
        bytes.extend(self.id.to_be_bytes());
        bytes.extend(self.fragment.to_be_bytes());
        bytes.extend([self.ttl, protocol, 0, 0]);
        bytes.extend(self.src.octets());
        bytes.extend(self.dst.octets());
        bytes.extend(&self.options);
        let check = checksum(&bytes).to_be_bytes();
        bytes[10..12].copy_from_slice(&check);
        bytes.extend_from_slice(payload);
        bytes
    }

    /// The packet around a segment whose checksum is to be filled at `at`.
    pub fn sealed(&self, protocol: u8, mut segment: Vec<u8>, at: usize) -> Vec<u8> {
        let pseudo = pseudo4(self.src, self.dst, protocol, segment.len());
        seal(&mut segment, &pseudo, protocol, at);
        self.packet(protocol, &segment)
    }

    /// UDP.
    pub fn udp(&self, src: u16, dst: u16, data: &[u8]) -> Vec<u8> {
        self.sealed(UDP, udp(src, dst, data), 6)
    }

    /// UDP whose checksum is left to hardware that never comes, as a pod's stack does it.
    pub fn udp_partial(&self, src: u16, dst: u16, data: &[u8]) -> Vec<u8> {
        let mut datagram = udp(src, dst, data);
        let pseudo = pseudo4(self.src, self.dst, UDP, datagram.len());
        datagram[6..8].copy_from_slice(&sum(&pseudo).to_be_bytes());
        self.packet(UDP, &datagram)
    }

    /// UDP without a checksum.
    pub fn udp_unchecked(&self, src: u16, dst: u16, data: &[u8]) -> Vec<u8> {
        self.packet(UDP, &udp(src, dst, data))
    }

    /// TCP, one segment.
    pub fn tcp(&self, src: u16, dst: u16, flags: u8, data: &[u8]) -> Vec<u8> {
        self.sealed(TCP, tcp(src, dst, flags, data), 16)
    }

    /// ICMP: type, code, the word behind the checksum, data.
    pub fn icmp(&self, kind: u8, code: u8, word: u32, data: &[u8]) -> Vec<u8> {
        let mut message = icmp(kind, code, word, data);
        let check = checksum(&message).to_be_bytes();
        message[2..4].copy_from_slice(&check);
        self.packet(ICMP, &message)
    }
}

/// An IPv6 packet to be.
#[derive(Clone, Debug)]
pub struct Ip6 {
    /// Source.
    pub src: Ipv6Addr,
    /// Destination.
    pub dst: Ipv6Addr,
    /// Hop limit.
    pub hop_limit: u8,
    /// DSCP and ECN.
    pub class: u8,
}

/// From one address to another: hop limit 64.
///
/// # Panics
/// When a text is no address.
pub fn ip6(src: &str, dst: &str) -> Ip6 {
    Ip6 {
        src: src.parse().expect("an IPv6 address"),
        dst: dst.parse().expect("an IPv6 address"),
        hop_limit: 64,
        class: 0,
    }
}

impl Ip6 {
    /// With another hop limit.
    #[must_use]
    pub fn hop_limit(self, hop_limit: u8) -> Self {
        Self { hop_limit, ..self }
    }

    /// With another traffic class.
    #[must_use]
    pub fn class(self, class: u8) -> Self {
        Self { class, ..self }
    }

    /// The packet around any payload.
    pub fn packet(&self, next_header: u8, payload: &[u8]) -> Vec<u8> {
        let word = 6 << 28 | u32::from(self.class) << 20;
        let mut bytes = word.to_be_bytes().to_vec();
        bytes.extend((payload.len() as u16).to_be_bytes());
        bytes.extend([next_header, self.hop_limit]);
        bytes.extend(self.src.octets());
        bytes.extend(self.dst.octets());
        bytes.extend_from_slice(payload);
        bytes
    }

    /// The packet around a segment whose checksum is to be filled at `at`.
    pub fn sealed(&self, protocol: u8, mut segment: Vec<u8>, at: usize) -> Vec<u8> {
        let pseudo = pseudo6(self.src, self.dst, protocol, segment.len());
        seal(&mut segment, &pseudo, protocol, at);
        self.packet(protocol, &segment)
    }

    /// UDP.
    pub fn udp(&self, src: u16, dst: u16, data: &[u8]) -> Vec<u8> {
        self.sealed(UDP, udp(src, dst, data), 6)
    }

    /// UDP without a checksum.
    pub fn udp_unchecked(&self, src: u16, dst: u16, data: &[u8]) -> Vec<u8> {
        self.packet(UDP, &udp(src, dst, data))
    }

    /// UDP whose checksum is left to hardware that never comes, as a pod's stack does it.
    pub fn udp_partial(&self, src: u16, dst: u16, data: &[u8]) -> Vec<u8> {
        let mut datagram = udp(src, dst, data);
        let pseudo = pseudo6(self.src, self.dst, UDP, datagram.len());
        datagram[6..8].copy_from_slice(&sum(&pseudo).to_be_bytes());
        self.packet(UDP, &datagram)
    }

    /// TCP, one segment.
    pub fn tcp(&self, src: u16, dst: u16, flags: u8, data: &[u8]) -> Vec<u8> {
        self.sealed(TCP, tcp(src, dst, flags, data), 16)
    }

    /// ICMPv6: type, code, the word behind the checksum, data.
    pub fn icmp(&self, kind: u8, code: u8, word: u32, data: &[u8]) -> Vec<u8> {
        self.sealed(ICMPV6, icmp(kind, code, word, data), 2)
    }
}

/// The IPv4 pseudo-header.
pub fn pseudo4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, len: usize) -> Vec<u8> {
    let len = (len as u16).to_be_bytes();
    [&src.octets()[..], &dst.octets(), &[0, protocol], &len].concat()
}

/// The IPv6 pseudo-header.
pub fn pseudo6(src: Ipv6Addr, dst: Ipv6Addr, protocol: u8, len: usize) -> Vec<u8> {
    let len = (len as u32).to_be_bytes();
    [&src.octets()[..], &dst.octets(), &len, &[0, 0, 0, protocol]].concat()
}

fn seal(segment: &mut [u8], pseudo: &[u8], protocol: u8, at: usize) {
    segment[at..at + 2].fill(0);
    let check = match checksum(&[pseudo, segment].concat()) {
        0 if protocol == UDP => 0xffff,
        check => check,
    };
    segment[at..at + 2].copy_from_slice(&check.to_be_bytes());
}

/// A UDP datagram, its checksum zero.
pub fn udp(src: u16, dst: u16, data: &[u8]) -> Vec<u8> {
    let len = 8 + data.len() as u16;
    let mut bytes: Vec<u8> = [src, dst, len, 0]
        .into_iter()
        .flat_map(u16::to_be_bytes)
        .collect();
    bytes.extend_from_slice(data);
    bytes
}

/// A TCP segment with these sequence and acknowledgement numbers, its checksum zero.
pub fn segment((src, dst): (u16, u16), flags: u8, seq: u32, ack: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = tcp(src, dst, flags, data);
    bytes[4..8].copy_from_slice(&seq.to_be_bytes());
    bytes[8..12].copy_from_slice(&ack.to_be_bytes());
    bytes
}

/// A TCP segment, its checksum zero.
pub fn tcp(src: u16, dst: u16, flags: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> = [src, dst].into_iter().flat_map(u16::to_be_bytes).collect();
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    bytes.extend_from_slice(data);
    bytes
}

fn icmp(kind: u8, code: u8, word: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, code, 0, 0];
    bytes.extend(word.to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// A VXLAN header with a network identifier, and what it carries.
pub fn vxlan(vni: u32, inner: &[u8]) -> Vec<u8> {
    let mut bytes = vec![8, 0, 0, 0];
    bytes.extend((vni << 8).to_be_bytes());
    bytes.extend_from_slice(inner);
    bytes
}

/// An ARP message: operation, sender, target.
pub fn arp(operation: u16, sender: (Mac, [u8; 4]), target: (Mac, [u8; 4])) -> Vec<u8> {
    let mut bytes = vec![0, 1, 8, 0, 6, 4];
    bytes.extend(operation.to_be_bytes());
    for (mac, ip) in [sender, target] {
        bytes.extend(mac);
        bytes.extend(ip);
    }
    bytes
}

/// Data that shows where a byte got lost.
pub fn counted(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}
