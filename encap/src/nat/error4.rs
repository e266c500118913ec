//! ICMP errors for IPv4 and what they quote (RFC 792, RFC 5508 section 4).

use super::quote::{self, QuoteError, Quoted4};
use super::{Tuple4, Untranslatable, translate_within4};
use crate::checksum::{self, Sum};
use crate::ipv4::{self, Ipv4Info};
use crate::nat::upper::Extent;
use crate::{bytes, l4};

const ICMP_HEADER_LEN: usize = 8;
const DESTINATION_UNREACHABLE: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;
const REDIRECT: u8 = 5;
const CHECKSUM_AT: usize = 2;
const MTU_AT: usize = 6;

/// Checks an ICMP error (types 3, 4, 11 and 12) and finds what it quotes.
///
/// `l3` starts at the IP header that `ip` was parsed from. Both the error's checksum and that of the quoted header have to be right
/// (RFC 5508 REQ-3). Whether the quoted flow exists, and the quoted sequence number fits it, is for the caller to ask.
pub fn icmp_error4(l3: &[u8], ip: &Ipv4Info) -> Result<Quoted4, QuoteError> {
    if ip.protocol != l4::ICMP {
        return Err(QuoteError::NotAnError);
    }
    if ip.is_fragment() {
        return Err(QuoteError::Fragment);
    }
    let message = l3
        .get(usize::from(ip.header_len())..usize::from(ip.total_len))
        .ok_or(QuoteError::Truncated)?;
    let kind = *message.first().ok_or(QuoteError::Truncated)?;
    if kind == REDIRECT {
        return Err(QuoteError::Redirect);
    }
    if !l4::is_icmp_error(l4::ICMP, kind) {
        return Err(QuoteError::NotAnError);
    }
    if !Sum::of(message).is_valid() {
        return Err(QuoteError::Checksum);
    }
    let quote = message
        .get(ICMP_HEADER_LEN..)
        .ok_or(QuoteError::Truncated)?;
    let quoted = ipv4::parse_quoted(quote)?;
    let end = quote.len().min(usize::from(quoted.total_len));
    let segment = quote
        .get(usize::from(quoted.header_len())..end)
        .ok_or(QuoteError::Truncated)?;
    let (ports, tcp_sequence) = if quoted.is_later_fragment() {
        ((0, 0), None)
    } else {
        quote::read_upper(quoted.protocol, segment)?
    };
    Ok(Quoted4 {
        tuple: Tuple4 {
            src: quoted.src,
            dst: quoted.dst,
            ports,
        },
        protocol: quoted.protocol,
        is_later_fragment: quoted.is_later_fragment(),
        tcp_sequence,
        icmp_type: quote::icmp_type(quoted.protocol, quoted.is_later_fragment(), segment),
        ip: quoted,
        at: u16::from(ip.header_len()) + ICMP_HEADER_LEN as u16,
    })
}

/// Sends an ICMP error from `src` to `dst`, and has it quote a packet of `inner`. All its checksums are right afterwards, except
/// that of the quoted upper layer if it was not.
///
/// `l3`, `ip` and `quoted` are those of [`icmp_error4`], nothing changed since.
pub fn translate_error4(
    l3: &mut [u8],
    ip: &Ipv4Info,
    quoted: &Quoted4,
    (src, dst): (u32, u32),
    inner: Tuple4,
) -> Result<(), Untranslatable> {
    let packet = l3
        .get_mut(..usize::from(ip.total_len))
        .ok_or(Untranslatable)?;
    let quote = packet
        .get_mut(usize::from(quoted.at)..)
        .ok_or(Untranslatable)?;
    let end = quote.len().min(usize::from(quoted.ip.total_len));
    let extent = if quoted.is_later_fragment {
        Extent::LaterFragment
    } else {
        Extent::Quote
    };
    let quote = quote.get_mut(..end).ok_or(Untranslatable)?;
    translate_within4(quote, &quoted.ip, inner, extent)?;
    let message = packet
        .get_mut(usize::from(ip.header_len())..)
        .ok_or(Untranslatable)?;
    bytes::put_u16(message, CHECKSUM_AT, 0);
    let checksum = checksum::of(message);
    bytes::put_u16(message, CHECKSUM_AT, checksum);
    // The error's addresses: as of any packet, ICMP's checksum knows none.
    let outer = Tuple4 {
        src,
        dst,
        ports: (0, 0),
    };
    translate_within4(packet, ip, outer, Extent::LaterFragment)
}

/// The MTU that a "fragmentation needed" (type 3 code 4) names, in bytes: zero if its sender is older than RFC 1191.
/// None for other messages and fragments. To be believed only from [`crate::icmp4::MIN_MTU`] on, and only after [`icmp_error4`].
pub fn mtu_of_error4(l3: &[u8], ip: &Ipv4Info) -> Option<u16> {
    let message = l3.get(usize::from(ip.header_len())..usize::from(ip.total_len))?;
    mtu_in(message, ip)
}

fn mtu_in(message: &[u8], ip: &Ipv4Info) -> Option<u16> {
    let is_one = ip.protocol == l4::ICMP
        && !ip.is_fragment()
        && message.starts_with(&[DESTINATION_UNREACHABLE, FRAGMENTATION_NEEDED]);
    bytes::u16_at(message, MTU_AT).filter(|_| is_one)
}
