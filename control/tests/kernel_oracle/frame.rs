//! Frames, written out naively: no code under test helps here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::plan::{Mac, VNI, VXLAN_PORT};

pub(crate) const ICMP: u8 = 1;
pub(crate) const IPIP: u8 = 4;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
/// The fragment header of IPv6.
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const ICMPV6: u8 = 58;

pub(crate) const TYPE_IPV4: u16 = 0x0800;
pub(crate) const TYPE_IPV6: u16 = 0x86dd;

/// "Don't fragment" and "more fragments".
pub(crate) const DF: u16 = 0x4000;
pub(crate) const MF: u16 = 0x2000;

/// The Internet checksum (RFC 1071).
pub(crate) fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// What is in a checksum field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    Right,
    Zero,
    Wrong,
    /// The folded sum of the pseudo-header, as a stack leaves it to hardware.
    Partial,
}

/// `len` bytes that do not repeat early.
pub(crate) fn filler(len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at * 7 + at / 256 * 3 + 1) as u8)
        .collect()
}

pub(crate) fn ethernet(dst: Mac, src: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&dst[..], &src, &ethertype.to_be_bytes(), payload].concat()
}

/// An IPv4 packet. What is not given is computed.
#[derive(Clone, Debug)]
pub(crate) struct Ip4 {
    pub(crate) tos: u8,
    pub(crate) id: u16,
    pub(crate) fragment: u16,
    pub(crate) ttl: u8,
    pub(crate) protocol: u8,
    pub(crate) src: Ipv4Addr,
    pub(crate) dst: Ipv4Addr,
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    /// Version and header length.
    pub(crate) first: Option<u8>,
    pub(crate) total_len: Option<u16>,
    /// Is added to the right checksum by exclusive or.
    pub(crate) checksum_flip: u16,
    /// The checksum field itself.
    pub(crate) checksum: Option<u16>,
}

impl Ip4 {
    pub(crate) fn new(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload: Vec<u8>) -> Self {
        Self {
            tos: 0,
            id: 0,
            fragment: 0,
            ttl: 64,
            protocol,
            src,
            dst,
            options: Vec::new(),
            payload,
            first: None,
            total_len: None,
            checksum_flip: 0,
            checksum: None,
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        assert!(self.options.len().is_multiple_of(4) && self.options.len() <= 40);
        let header_len = 20 + self.options.len();
        let total_len = (header_len + self.payload.len()) as u16;
        let mut header = vec![
            self.first.unwrap_or(0x40 | (header_len / 4) as u8),
            self.tos,
        ];
        header.extend(self.total_len.unwrap_or(total_len).to_be_bytes());
        header.extend(self.id.to_be_bytes());
        header.extend(self.fragment.to_be_bytes());
        header.extend([self.ttl, self.protocol, 0, 0]);
        header.extend(self.src.octets());
        header.extend(self.dst.octets());
        header.extend(&self.options);
        let check = self
            .checksum
            .unwrap_or_else(|| checksum(&[&header]) ^ self.checksum_flip);
        header[10..12].copy_from_slice(&check.to_be_bytes());
        [header, self.payload.clone()].concat()
    }
}

/// An IPv6 packet. What is not given is computed.
#[derive(Clone, Debug)]
pub(crate) struct Ip6 {
    pub(crate) class: u8,
    pub(crate) label: u32,
    pub(crate) next: u8,
    pub(crate) hop_limit: u8,
    pub(crate) src: Ipv6Addr,
    pub(crate) dst: Ipv6Addr,
    pub(crate) payload: Vec<u8>,
    pub(crate) version: u8,
    pub(crate) payload_len: Option<u16>,
}

impl Ip6 {
    pub(crate) fn new(src: Ipv6Addr, dst: Ipv6Addr, next: u8, payload: Vec<u8>) -> Self {
        Self {
            class: 0,
            label: 0,
            next,
            hop_limit: 64,
            src,
            dst,
            payload,
            version: 6,
            payload_len: None,
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let word = u32::from(self.version) << 28 | u32::from(self.class) << 20 | self.label;
        let len = self.payload_len.unwrap_or(self.payload.len() as u16);
        [
            &word.to_be_bytes()[..],
            &len.to_be_bytes(),
            &[self.next, self.hop_limit],
            &self.src.octets(),
            &self.dst.octets(),
            &self.payload,
        ]
        .concat()
    }
}

/// The pseudo-header of a transport checksum.
pub(crate) trait Ends {
    fn pseudo(&self, protocol: u8, len: usize) -> Vec<u8>;
}

impl Ends for (Ipv4Addr, Ipv4Addr) {
    fn pseudo(&self, protocol: u8, len: usize) -> Vec<u8> {
        let (src, dst) = (self.0.octets(), self.1.octets());
        let len = (len as u16).to_be_bytes();
        [&src[..], &dst, &[0, protocol], &len].concat()
    }
}

impl Ends for (Ipv6Addr, Ipv6Addr) {
    fn pseudo(&self, protocol: u8, len: usize) -> Vec<u8> {
        let (src, dst) = (self.0.octets(), self.1.octets());
        let len = (len as u32).to_be_bytes();
        [&src[..], &dst, &len, &[0, 0, 0, protocol]].concat()
    }
}

impl Ends for (IpAddr, IpAddr) {
    fn pseudo(&self, protocol: u8, len: usize) -> Vec<u8> {
        match *self {
            (IpAddr::V4(src), IpAddr::V4(dst)) => (src, dst).pseudo(protocol, len),
            (IpAddr::V6(src), IpAddr::V6(dst)) => (src, dst).pseudo(protocol, len),
            _ => panic!("two families"),
        }
    }
}

/// Fills the checksum at `at` of a segment.
pub(crate) fn seal(
    mut segment: Vec<u8>,
    at: usize,
    protocol: u8,
    ends: &impl Ends,
    check: Check,
) -> Vec<u8> {
    let pseudo = ends.pseudo(protocol, segment.len());
    let right = match checksum(&[&pseudo, &segment]) {
        0 if protocol == UDP => 0xffff,
        right => right,
    };
    let value = match check {
        Check::Right => right,
        Check::Zero => 0,
        Check::Wrong => right ^ 0x5555,
        Check::Partial => !checksum(&[&pseudo]),
    };
    segment[at..at + 2].copy_from_slice(&value.to_be_bytes());
    segment
}

pub(crate) fn udp(ends: &impl Ends, ports: (u16, u16), data: &[u8], check: Check) -> Vec<u8> {
    let len = (8 + data.len()) as u16;
    let segment = [
        &ports.0.to_be_bytes()[..],
        &ports.1.to_be_bytes(),
        &len.to_be_bytes(),
        &[0, 0],
        data,
    ]
    .concat();
    seal(segment, 6, UDP, ends, check)
}

/// A TCP segment with these flags.
pub(crate) fn tcp(ends: &impl Ends, flags: u8, data: &[u8], check: Check) -> Vec<u8> {
    let mut segment = vec![0x9c, 0x40, 0x1f, 0x90, 1, 2, 3, 4, 5, 6, 7, 8, 0x50, flags];
    segment.extend([0x20, 0, 0, 0, 0, 0]);
    segment.extend(data);
    seal(segment, 16, TCP, ends, check)
}

/// An ICMP message.
pub(crate) fn icmp(kind: u8, code: u8, rest: [u8; 4], data: &[u8], check: Check) -> Vec<u8> {
    let mut message = [&[kind, code, 0, 0][..], &rest, data].concat();
    let value = match check {
        Check::Right => checksum(&[&message]),
        Check::Zero => 0,
        Check::Wrong | Check::Partial => !checksum(&[&message]),
    };
    message[2..4].copy_from_slice(&value.to_be_bytes());
    message
}

/// An ICMPv6 message.
pub(crate) fn icmp6(ends: &impl Ends, kind: u8, rest: [u8; 4], data: &[u8]) -> Vec<u8> {
    let message = [&[kind, 0, 0, 0][..], &rest, data].concat();
    seal(message, 2, ICMPV6, ends, Check::Right)
}

/// A VXLAN header and what is behind it.
#[derive(Clone, Debug)]
pub(crate) struct Vxlan {
    pub(crate) flags: [u8; 4],
    pub(crate) vni: u32,
    pub(crate) reserved: u8,
    pub(crate) dst: Mac,
    pub(crate) src: Mac,
    pub(crate) ethertype: u16,
    /// What stands between the inner Ethernet header and the inner packet.
    pub(crate) tag: Vec<u8>,
    pub(crate) source_port: u16,
    pub(crate) port: u16,
    pub(crate) check: Check,
    pub(crate) udp_len: Option<u16>,
}

impl Vxlan {
    pub(crate) fn new(dst: Mac, src: Mac, ethertype: u16) -> Self {
        Self {
            flags: [8, 0, 0, 0],
            vni: VNI,
            reserved: 0,
            dst,
            src,
            ethertype,
            tag: Vec::new(),
            source_port: 50_000,
            port: VXLAN_PORT,
            check: Check::Zero,
            udp_len: None,
        }
    }

    /// The UDP datagram.
    pub(crate) fn bytes(&self, ends: &impl Ends, inner: &[u8]) -> Vec<u8> {
        let word = (self.vni << 8 | u32::from(self.reserved)).to_be_bytes();
        let behind = [&self.tag[..], inner].concat();
        let frame = ethernet(self.dst, self.src, self.ethertype, &behind);
        let data = [&self.flags[..], &word, &frame].concat();
        let mut datagram = udp(ends, (self.source_port, self.port), &data, self.check);
        if let Some(len) = self.udp_len {
            datagram[4..6].copy_from_slice(&len.to_be_bytes());
        }
        datagram
    }
}
