//! Translating addresses and ports of packets in place, and of the packets that ICMP errors quote (RFC 3022, RFC 5508).
//!
//! Checksums are updated by what changed (RFC 1624), never computed anew, so that one that was wrong stays wrong
//! by as much and its receiver sees it. Who gets which address and port is decided elsewhere.

use core::fmt;

use crate::bytes;
use crate::checksum::Difference;
use crate::ipv4::{self, Ipv4Info};
use crate::ipv6::{self, Ipv6Info};
use crate::l4;

mod error4;
mod error6;
mod ordinary;
mod quote;
#[cfg(test)]
mod tests;
mod upper;

pub use error4::{icmp_error4, mtu_of_error4, translate_error4};
pub use error6::{icmp_error6, mtu_of_error6, translate_error6};
pub use ordinary::{forward_ordinary4, forward_ordinary6};
pub use quote::{QuoteError, Quoted, Quoted4, Quoted6};
use upper::Extent;

/// Where a packet comes from and goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tuple<A> {
    /// Source address, host order.
    pub src: A,
    /// Destination address, host order.
    pub dst: A,
    /// Source and destination port. Of an ICMP query both are its identifier; where a new one is asked for, either may
    /// be it and the other the old one. Zeros where there are none.
    pub ports: (u16, u16),
}

/// Where an IPv4 packet comes from and goes to.
pub type Tuple4 = Tuple<u32>;
/// Where an IPv6 packet comes from and goes to.
pub type Tuple6 = Tuple<u128>;

impl<A> Tuple<A> {
    /// That of an answer: source and destination swapped.
    #[inline]
    #[must_use]
    pub fn reversed(self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            ports: (self.ports.1, self.ports.0),
        }
    }
}

/// The packet cannot be made to agree and is as it was; to be dropped.
///
/// Its ports or its checksum lie outside of the bytes: a first fragment that splits TCP's header behind byte 16, one of
/// SCTP, whose checksum cannot be updated without the rest, or a chain of extension headers too long to be walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Untranslatable;

impl fmt::Display for Untranslatable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("packet that does not hold all that address translation must change")
    }
}

impl core::error::Error for Untranslatable {}

/// Gives an IPv4 packet the addresses and ports `to`, and updates its checksums.
///
/// `l3` starts at the IP header that `ip` was parsed from, and its addresses are still those of `ip`. Ports are those of
/// TCP, UDP, UDP-Lite, DCCP and SCTP, or the identifier of an ICMP query; other protocols, ICMP errors and later
/// fragments get new addresses only. A UDP checksum of zero stays zero (RFC 768). SCTP's checksum, which no difference
/// updates, is computed anew if it was right, and stays wrong if it was not.
#[inline(always)]
pub fn translate4(l3: &mut [u8], ip: &Ipv4Info, to: Tuple4) -> Result<(), Untranslatable> {
    if usize::from(ip.header_len()) == ipv4::MIN_HEADER_LEN
        && !ip.is_later_fragment()
        && let Some((header, segment)) = l3.split_first_chunk_mut()
    {
        // Nearly all packets. The lengths are constants, so that each is checked once.
        let addresses = difference4(ip, to);
        match ip.protocol {
            l4::TCP if ip.total_len >= 40 => {
                if let Some(tcp) = segment.first_chunk_mut::<20>() {
                    upper::tcp(tcp, addresses, to.ports)?;
                    readdress4(header, addresses, to);
                    return Ok(());
                }
            }
            l4::UDP if ip.total_len >= 28 => {
                if let Some(udp) = segment.first_chunk_mut::<8>() {
                    upper::udp(udp, addresses, to.ports)?;
                    readdress4(header, addresses, to);
                    return Ok(());
                }
            }
            _ => {}
        }
    }
    translate_any4(l3, ip, to)
}

/// Gives an IPv6 packet the addresses and ports `to`, and updates its checksums, that of ICMPv6 too.
///
/// As [`translate4`] does it. The destination is taken for the final one: no packet is translated that a routing
/// header still sends elsewhere.
#[inline(always)]
pub fn translate6(l3: &mut [u8], ip: &Ipv6Info, to: Tuple6) -> Result<(), Untranslatable> {
    if usize::from(ip.upper.offset) == ipv6::HEADER_LEN
        && let Some((header, segment)) = l3.split_first_chunk_mut()
    {
        let addresses = difference6(ip, to);
        match ip.upper.protocol {
            l4::TCP if ip.payload_len >= 20 => {
                if let Some(tcp) = segment.first_chunk_mut::<20>() {
                    upper::tcp(tcp, addresses, to.ports)?;
                    readdress6(header, to);
                    return Ok(());
                }
            }
            l4::UDP if ip.payload_len >= 8 => {
                if let Some(udp) = segment.first_chunk_mut::<8>() {
                    upper::udp(udp, addresses, to.ports)?;
                    readdress6(header, to);
                    return Ok(());
                }
            }
            _ => {}
        }
    }
    translate_any6(l3, ip, to)
}

/// [`translate4`] for any packet.
#[inline(never)]
fn translate_any4(l3: &mut [u8], ip: &Ipv4Info, to: Tuple4) -> Result<(), Untranslatable> {
    let extent = Extent::of(ip.is_fragment(), ip.is_later_fragment());
    let packet = l3
        .get_mut(..usize::from(ip.total_len))
        .ok_or(Untranslatable)?;
    translate_within4(packet, ip, to, extent)
}

/// [`translate6`] for any packet.
#[inline(never)]
fn translate_any6(l3: &mut [u8], ip: &Ipv6Info, to: Tuple6) -> Result<(), Untranslatable> {
    let extent = Extent::of(ip.is_fragment(), ip.is_later_fragment());
    let packet = l3.get_mut(..ip.total_len()).ok_or(Untranslatable)?;
    translate_within6(packet, ip, to, extent)
}

/// Translates an IPv4 packet, of which `extent` says how much is there. `packet` ends where the packet does.
fn translate_within4(
    packet: &mut [u8],
    ip: &Ipv4Info,
    to: Tuple4,
    extent: Extent,
) -> Result<(), Untranslatable> {
    let (header, segment) = packet
        .split_at_mut_checked(usize::from(ip.header_len()))
        .ok_or(Untranslatable)?;
    let header = header.first_chunk_mut().ok_or(Untranslatable)?;
    let addresses = difference4(ip, to);
    upper::rewrite(segment, ip.protocol, addresses, to.ports, extent)?;
    readdress4(header, addresses, to);
    Ok(())
}

/// Translates an IPv6 packet, of which `extent` says how much is there. `packet` ends where the packet does.
fn translate_within6(
    packet: &mut [u8],
    ip: &Ipv6Info,
    to: Tuple6,
    extent: Extent,
) -> Result<(), Untranslatable> {
    if ip.upper.is_unknown() && extent != Extent::LaterFragment {
        return Err(Untranslatable);
    }
    let (headers, segment) = packet
        .split_at_mut_checked(usize::from(ip.upper.offset))
        .ok_or(Untranslatable)?;
    let header = headers.first_chunk_mut().ok_or(Untranslatable)?;
    upper::rewrite(
        segment,
        ip.upper.protocol,
        difference6(ip, to),
        to.ports,
        extent,
    )?;
    readdress6(header, to);
    Ok(())
}

#[inline(always)]
const fn difference4(ip: &Ipv4Info, to: Tuple4) -> Difference {
    Difference::NONE.u32(ip.src, to.src).u32(ip.dst, to.dst)
}

#[inline(always)]
const fn difference6(ip: &Ipv6Info, to: Tuple6) -> Difference {
    Difference::NONE.u128(ip.src, to.src).u128(ip.dst, to.dst)
}

/// Writes addresses, and the header checksum that `difference` makes.
#[inline(always)]
fn readdress4(header: &mut [u8; ipv4::MIN_HEADER_LEN], difference: Difference, to: Tuple4) {
    let [.., c0, c1, _, _, _, _, _, _, _, _] = header;
    [*c0, *c1] = difference
        .apply(u16::from_be_bytes([*c0, *c1]))
        .to_be_bytes();
    bytes::put_u32(header, 12, to.src);
    bytes::put_u32(header, 16, to.dst);
}

/// Writes addresses.
#[inline(always)]
fn readdress6(header: &mut [u8; ipv6::HEADER_LEN], to: Tuple6) {
    let (_, addresses) = header.as_mut_slice().split_at_mut(8);
    let (src, dst) = addresses.split_at_mut(16);
    src.copy_from_slice(&to.src.to_be_bytes());
    dst.copy_from_slice(&to.dst.to_be_bytes());
}
