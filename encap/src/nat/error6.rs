//! ICMPv6 errors and what they quote (RFC 4443).

use super::quote::{self, QuoteError, Quoted6};
use super::{Tuple6, Untranslatable, translate_within6};
use crate::checksum::{self, Sum};
use crate::ipv6::{self, Ipv6Info};
use crate::nat::upper::Extent;
use crate::{bytes, l4};

const ICMP_HEADER_LEN: usize = 8;
const PACKET_TOO_BIG: u8 = 2;
const REDIRECT: u8 = 137;
const CHECKSUM_AT: usize = 2;
const MTU_AT: usize = 4;

/// Checks an ICMPv6 error (types 1 to 4) and finds what it quotes.
///
/// `l3` starts at the IP header that `ip` was parsed from. The error's checksum has to be right (RFC 5508 REQ-3).
/// Whether the quoted flow exists, and the quoted sequence number fits it, is for the caller to ask.
pub fn icmp_error6(l3: &[u8], ip: &Ipv6Info) -> Result<Quoted6, QuoteError> {
    if ip.upper.protocol != l4::ICMPV6 {
        return Err(QuoteError::NotAnError);
    }
    if ip.is_fragment() {
        return Err(QuoteError::Fragment);
    }
    let message = l3
        .get(usize::from(ip.upper.offset)..ip.total_len())
        .ok_or(QuoteError::Truncated)?;
    let kind = *message.first().ok_or(QuoteError::Truncated)?;
    if kind == REDIRECT {
        return Err(QuoteError::Redirect);
    }
    if !l4::is_icmp_error(l4::ICMPV6, kind) {
        return Err(QuoteError::NotAnError);
    }
    if !checksum::verify_v6(ip.src, ip.dst, l4::ICMPV6, message) {
        return Err(QuoteError::Checksum);
    }
    let quote = message
        .get(ICMP_HEADER_LEN..)
        .ok_or(QuoteError::Truncated)?;
    let quoted = ipv6::parse_quoted(quote)?;
    if quoted.upper.is_unknown() && !quoted.is_later_fragment() {
        return Err(QuoteError::Header);
    }
    let end = quote.len().min(quoted.total_len());
    let segment = quote
        .get(usize::from(quoted.upper.offset)..end)
        .ok_or(QuoteError::Truncated)?;
    let (ports, tcp_sequence) = if quoted.is_later_fragment() {
        ((0, 0), None)
    } else {
        quote::read_upper(quoted.upper.protocol, segment)?
    };
    Ok(Quoted6 {
        tuple: Tuple6 {
            src: quoted.src,
            dst: quoted.dst,
            ports,
        },
        protocol: quoted.upper.protocol,
        is_later_fragment: quoted.is_later_fragment(),
        tcp_sequence,
        icmp_type: quote::icmp_type(quoted.upper.protocol, quoted.is_later_fragment(), segment),
        ip: quoted,
        at: ip.upper.offset + ICMP_HEADER_LEN as u16,
    })
}

/// Sends an ICMPv6 error from `src` to `dst`, and has it quote a packet of `inner`. Its checksum is right afterwards, that of
/// the quoted upper layer if it was.
///
/// `l3`, `ip` and `quoted` are those of [`icmp_error6`], nothing changed since.
pub fn translate_error6(
    l3: &mut [u8],
    ip: &Ipv6Info,
    quoted: &Quoted6,
    (src, dst): (u128, u128),
    inner: Tuple6,
) -> Result<(), Untranslatable> {
    let packet = l3.get_mut(..ip.total_len()).ok_or(Untranslatable)?;
    let quote = packet
        .get_mut(usize::from(quoted.at)..)
        .ok_or(Untranslatable)?;
    let end = quote.len().min(quoted.ip.total_len());
    let extent = if quoted.is_later_fragment {
        Extent::LaterFragment
    } else {
        Extent::Quote
    };
    let quote = quote.get_mut(..end).ok_or(Untranslatable)?;
    translate_within6(quote, &quoted.ip, inner, extent)?;
    let message = packet
        .get_mut(usize::from(ip.upper.offset)..)
        .ok_or(Untranslatable)?;
    bytes::put_u16(message, CHECKSUM_AT, 0);
    let checksum = Sum::pseudo_v6(src, dst, l4::ICMPV6, message.len() as u32)
        .add_bytes(message)
        .checksum();
    bytes::put_u16(message, CHECKSUM_AT, checksum);
    // The error's addresses: the checksum has them already.
    let outer = Tuple6 {
        src,
        dst,
        ports: (0, 0),
    };
    translate_within6(packet, ip, outer, Extent::LaterFragment)
}

/// The MTU that a "packet too big" (type 2) names, in bytes. None for other messages and fragments.
/// To be believed only after [`icmp_error6`]; one below [`ipv6::MIN_MTU`] asks for nothing (RFC 8201 section 4).
pub fn mtu_of_error6(l3: &[u8], ip: &Ipv6Info) -> Option<u32> {
    mtu_in(l3.get(usize::from(ip.upper.offset)..ip.total_len())?, ip)
}

fn mtu_in(message: &[u8], ip: &Ipv6Info) -> Option<u32> {
    let is_one = ip.upper.protocol == l4::ICMPV6
        && !ip.is_fragment()
        && message.starts_with(&[PACKET_TOO_BIG]);
    bytes::u32_at(message, MTU_AT).filter(|_| is_one)
}
