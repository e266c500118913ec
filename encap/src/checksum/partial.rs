//! Completing the checksums that a pod's stack left to "the hardware".
//!
//! A Linux stack that may offload leaves the folded sum of the pseudo-header in the checksum field of TCP and UDP
//! (`CHECKSUM_PARTIAL`), and zero in that of SCTP. A veth does no such work, so the packet reaches us like that.

use super::{Sum, crc32c, udp_on_wire};
use crate::ipv4::Ipv4Info;
use crate::ipv6::Ipv6Info;
use crate::{bytes, l4};

/// What [`complete_partial_v4`] or [`complete_partial_v6`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completed {
    /// The checksum was partial and is now right.
    Filled,
    /// The checksum was not partial, or there is none: nothing was touched.
    Untouched,
}

/// Completes a partial checksum of TCP, UDP or SCTP over IPv4; touches nothing else, above all no wrong checksum that
/// is not partial, and no fragment (a stack completes the checksum before it fragments).
///
/// `l3` starts at the IP header that `ip` was parsed from. Idempotent.
#[inline]
pub fn complete_partial_v4(l3: &mut [u8], ip: &Ipv4Info) -> Completed {
    if ip.is_fragment() {
        return Completed::Untouched;
    }
    let Some(segment) = l3.get_mut(usize::from(ip.header_len())..usize::from(ip.total_len)) else {
        return Completed::Untouched;
    };
    let pseudo = Sum::pseudo_v4(ip.src, ip.dst, ip.protocol, ip.payload_len());
    complete(segment, ip.protocol, pseudo)
}

/// Completes a partial checksum of TCP, UDP, ICMPv6 or SCTP over IPv6; see [`complete_partial_v4`].
#[inline]
pub fn complete_partial_v6(l3: &mut [u8], ip: &Ipv6Info) -> Completed {
    if ip.upper.fragment.is_some() {
        return Completed::Untouched;
    }
    let Some(segment) = l3.get_mut(usize::from(ip.upper.offset)..ip.total_len()) else {
        return Completed::Untouched;
    };
    let pseudo = Sum::pseudo_v6(ip.src, ip.dst, ip.upper.protocol, segment.len() as u32);
    complete(segment, ip.upper.protocol, pseudo)
}

#[inline]
fn complete(segment: &mut [u8], protocol: u8, pseudo: Sum) -> Completed {
    let offset = match protocol {
        l4::TCP => 16,
        l4::UDP => 6,
        l4::ICMPV6 => 2,
        l4::SCTP => return complete_sctp(segment),
        _ => return Completed::Untouched,
    };
    match bytes::u16_at(segment, offset) {
        Some(field) if pseudo.folds_to(field) => fill(segment, offset, protocol),
        Some(_) | None => Completed::Untouched,
    }
}

/// The field already holds the pseudo-header's sum, so summing the segment as it is gives the sum of both.
#[inline(never)]
fn fill(segment: &mut [u8], offset: usize, protocol: u8) -> Completed {
    let checksum = Sum::of(segment).checksum();
    let checksum = if protocol == l4::UDP {
        udp_on_wire(checksum)
    } else {
        checksum
    };
    bytes::put_u16(segment, offset, checksum);
    Completed::Filled
}

/// A zero in SCTP's field is an offloaded checksum, or one that RFC 9653 lets be zero: the right one is accepted for both.
#[cold]
fn complete_sctp(segment: &mut [u8]) -> Completed {
    const COMMON_HEADER_LEN: usize = 12;
    let Some((header, chunks)) = segment.split_first_chunk_mut::<COMMON_HEADER_LEN>() else {
        return Completed::Untouched;
    };
    if bytes::array_at(header, 8) != Some(&[0; 4]) {
        return Completed::Untouched;
    }
    let crc = crc32c(&[header, chunks]);
    let [.., c0, c1, c2, c3] = header;
    [*c0, *c1, *c2, *c3] = crc.to_le_bytes();
    Completed::Filled
}
