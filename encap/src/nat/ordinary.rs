//! Translating and forwarding in one, for the packets that nearly all packets are.

use super::{Tuple4, Tuple6};
use crate::bytes;
use crate::checksum::{Difference, udp_on_wire};
use crate::ipv4::MIN_HEADER_LEN;
use crate::ipv6::HEADER_LEN;
use crate::l4;

/// Gives an IPv4 packet the addresses and ports `to`, and takes its TTL down: [`translate4`](super::translate4) and
/// [`decrement_ttl`](crate::ipv4::decrement_ttl) together, each checksum updated once.
///
/// For TCP and UDP behind a header without options, not fragmented. Returns false, and has changed nothing, where `l3` is
/// too short for the headers, or the TTL is spent.
#[inline(always)]
#[must_use]
pub fn forward_ordinary4(l3: &mut [u8], protocol: u8, to: Tuple4) -> bool {
    let Some((ip, segment)) = l3.split_first_chunk_mut::<MIN_HEADER_LEN>() else {
        return false;
    };
    if protocol == l4::UDP {
        let Some(udp) = segment.first_chunk_mut::<8>() else {
            return false;
        };
        forward::<8, 6, true>(ip, udp, to)
    } else {
        let Some(tcp) = segment.first_chunk_mut::<20>() else {
            return false;
        };
        forward::<20, 16, false>(ip, tcp, to)
    }
}

/// `CHECKSUM_AT` is where the transport's checksum is, which may be `MAYBE_NONE`: zero.
///
/// Words are summed as they lie in memory: a sum in ones' complement does not mind the order of bytes (RFC 1071 section 2 B).
#[inline(always)]
fn forward<const N: usize, const CHECKSUM_AT: usize, const MAYBE_NONE: bool>(
    ip: &mut [u8; MIN_HEADER_LEN],
    segment: &mut [u8; N],
    to: Tuple4,
) -> bool {
    let [_, _, _, _, _, _, _, _, ttl, _, c0, c1, rest @ ..] = *ip;
    let [s0, s1, s2, s3, d0, d1, d2, d3] = rest;
    if ttl <= 1 {
        return false;
    }
    let ports = (u32::from(to.ports.0) << 16 | u32::from(to.ports.1)).to_be();
    let (src, dst) = (to.src.to_be(), to.dst.to_be());
    let addresses = Difference::NONE
        .u32(u32::from_ne_bytes([s0, s1, s2, s3]), src)
        .u32(u32::from_ne_bytes([d0, d1, d2, d3]), dst);

    // Of the word of TTL and protocol as much is gone, whatever it was.
    let header = addresses.u16(u16::from_ne_bytes([1, 0]), 0);
    let checksum = header.apply(u16::from_ne_bytes([c0, c1]));
    bytes::put(ip, 8, [ttl - 1]);
    bytes::put(ip, 10, checksum.to_ne_bytes());
    bytes::put(ip, 12, src.to_ne_bytes());
    bytes::put(ip, 16, dst.to_ne_bytes());

    put_segment::<N, CHECKSUM_AT, MAYBE_NONE>(segment, addresses, ports);
    true
}

/// Gives an IPv6 packet the addresses and ports `to`, and takes its hop limit down: [`translate6`](super::translate6) and
/// [`decrement_hop_limit`](crate::ipv6::decrement_hop_limit) together.
///
/// For TCP and UDP without extension headers. Returns false, and has changed nothing, where `l3` is too short for the headers, or the
/// hop limit is spent.
#[inline(always)]
#[must_use]
pub fn forward_ordinary6(l3: &mut [u8], protocol: u8, to: Tuple6) -> bool {
    let Some((ip, segment)) = l3.split_first_chunk_mut::<HEADER_LEN>() else {
        return false;
    };
    if protocol == l4::UDP {
        let Some(udp) = segment.first_chunk_mut::<8>() else {
            return false;
        };
        forward6::<8, 6, true>(ip, udp, to)
    } else {
        let Some(tcp) = segment.first_chunk_mut::<20>() else {
            return false;
        };
        forward6::<20, 16, false>(ip, tcp, to)
    }
}

/// [`forward`] for IPv6, whose header has no checksum.
#[inline(always)]
fn forward6<const N: usize, const CHECKSUM_AT: usize, const MAYBE_NONE: bool>(
    ip: &mut [u8; HEADER_LEN],
    segment: &mut [u8; N],
    to: Tuple6,
) -> bool {
    let [_, _, _, _, _, _, _, hop_limit, ..] = *ip;
    if hop_limit <= 1 {
        return false;
    }
    let ports = (u32::from(to.ports.0) << 16 | u32::from(to.ports.1)).to_be();
    let (src, dst) = (to.src.to_be(), to.dst.to_be());
    let there = |at| bytes::array_at(ip, at).map_or(0, |it| u128::from_ne_bytes(*it));
    let addresses = Difference::NONE.u128(there(8), src).u128(there(24), dst);
    bytes::put(ip, 7, [hop_limit - 1]);
    bytes::put(ip, 8, src.to_ne_bytes());
    bytes::put(ip, 24, dst.to_ne_bytes());
    put_segment::<N, CHECKSUM_AT, MAYBE_NONE>(segment, addresses, ports);
    true
}

/// Writes ports, which are as they lie in memory, and the checksum that they and the `addresses` make.
#[inline(always)]
fn put_segment<const N: usize, const CHECKSUM_AT: usize, const MAYBE_NONE: bool>(
    segment: &mut [u8; N],
    addresses: Difference,
    ports: u32,
) {
    let there = bytes::array_at(segment, CHECKSUM_AT).map_or(0, |at| u16::from_ne_bytes(*at));
    if !(MAYBE_NONE && there == 0) {
        let old = bytes::array_at(segment, 0).map_or(0, |at| u32::from_ne_bytes(*at));
        let checksum = addresses.u32(old, ports).apply(there);
        let checksum = if MAYBE_NONE {
            udp_on_wire(checksum)
        } else {
            checksum
        };
        bytes::put(segment, CHECKSUM_AT, checksum.to_ne_bytes());
    }
    bytes::put(segment, 0, ports.to_ne_bytes());
}
