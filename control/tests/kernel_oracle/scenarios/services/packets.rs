//! The packets of a conversation, of either family.

use std::net::IpAddr;

use crate::frame::{
    Check, FRAGMENT, ICMP, ICMPV6, Ip4, Ip6, MF, TCP, TYPE_IPV4, TYPE_IPV6, UDP, Vxlan, checksum,
    filler, icmp, icmp6, seal, udp,
};
use crate::masquerade::{ip, segment};
use crate::plan::{NODE, NODE4, NODE6, PEER1, PEER1_4, PEER1_6, vtep4, vtep6};

/// A TCP segment with `len` bytes of data.
pub(super) fn tcp(
    (src, dst): (IpAddr, IpAddr),
    ports: (u16, u16),
    flags: u8,
    numbers: (u32, u32),
    len: usize,
) -> Vec<u8> {
    let segment = segment(
        &(src, dst),
        ports,
        flags,
        numbers,
        &filler(len),
        Check::Right,
    );
    ip(src, dst, TCP, segment)
}

/// A datagram with `len` bytes of data.
pub(super) fn datagram((src, dst): (IpAddr, IpAddr), ports: (u16, u16), len: usize) -> Vec<u8> {
    ip(
        src,
        dst,
        UDP,
        udp(&(src, dst), ports, &filler(len), Check::Right),
    )
}

/// The same packet with another TTL or hop limit.
pub(super) fn with_ttl(mut packet: Vec<u8>, ttl: u8) -> Vec<u8> {
    if packet[0] >> 4 == 6 {
        packet[7] = ttl;
        return packet;
    }
    packet[8] = ttl;
    packet[10..12].fill(0);
    let sum = checksum(&[&packet[..20]]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// What an ICMP error says.
#[derive(Clone, Copy, Debug)]
pub(super) enum Error {
    Closed,
    NoWay,
    Expired,
    TooBig,
}

pub(super) fn error((src, dst): (IpAddr, IpAddr), what: Error, about: &[u8]) -> Vec<u8> {
    const MTU: [u8; 4] = [0, 0, 5, 0x14];
    if src.is_ipv4() {
        let (kind, code, word) = match what {
            Error::Closed => (3, 3, [0; 4]),
            Error::NoWay => (3, 1, [0; 4]),
            Error::Expired => (11, 0, [0; 4]),
            Error::TooBig => (3, 4, MTU),
        };
        return ip(src, dst, ICMP, icmp(kind, code, word, about, Check::Right));
    }
    let (kind, code, word) = match what {
        Error::Closed => (1, 4, [0; 4]),
        Error::NoWay => (1, 0, [0; 4]),
        Error::Expired => (3, 0, [0; 4]),
        Error::TooBig => (2, 0, MTU),
    };
    let message = [&[kind, code, 0, 0][..], &word, about].concat();
    ip(
        src,
        dst,
        ICMPV6,
        seal(message, 2, ICMPV6, &(src, dst), Check::Right),
    )
}

/// An echo request.
pub(super) fn ping(src: IpAddr, dst: IpAddr) -> Vec<u8> {
    const ECHO: [u8; 4] = [0, 7, 0, 1];
    if src.is_ipv4() {
        return ip(src, dst, ICMP, icmp(8, 0, ECHO, &filler(40), Check::Right));
    }
    let message = icmp6(&(src, dst), 128, ECHO, &filler(40));
    ip(src, dst, ICMPV6, message)
}

/// A packet in VXLAN from peer 1.
pub(super) fn tunnelled(inner: &[u8]) -> Vec<u8> {
    if inner[0] >> 4 == 4 {
        let vxlan = Vxlan::new(vtep4(NODE), vtep4(PEER1), TYPE_IPV4);
        let payload = vxlan.bytes(&(PEER1_4, NODE4), inner);
        return Ip4::new(PEER1_4, NODE4, UDP, payload).bytes();
    }
    let mut vxlan = Vxlan::new(vtep6(NODE), vtep6(PEER1), TYPE_IPV6);
    vxlan.check = Check::Right;
    let payload = vxlan.bytes(&(PEER1_6, NODE6), inner);
    Ip6::new(PEER1_6, NODE6, UDP, payload).bytes()
}

/// One fragment of a datagram of 2,000 bytes, the first or the last.
pub(super) fn piece(
    (src, dst): (IpAddr, IpAddr),
    ports: (u16, u16),
    id: u16,
    is_first: bool,
) -> Vec<u8> {
    const AT: usize = 1232;
    let whole = udp(&(src, dst), ports, &filler(2000), Check::Right);
    let (more, at, part) = if is_first {
        (1, 0, &whole[..AT])
    } else {
        (0, AT as u16, &whole[AT..])
    };
    if let (IpAddr::V4(src), IpAddr::V4(dst)) = (src, dst) {
        let mut packet = Ip4::new(src, dst, UDP, part.to_vec());
        (packet.id, packet.fragment) = (id, (MF * more) | (at / 8));
        return packet.bytes();
    }
    let word = (at | more).to_be_bytes();
    let header = [&[UDP, 0][..], &word, &[0, 0], &id.to_be_bytes()].concat();
    ip(src, dst, FRAGMENT, [&header[..], part].concat())
}
