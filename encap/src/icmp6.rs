//! ICMPv6 error messages (RFC 4443).

use crate::bytes::{self, Writer};
use crate::checksum::Sum;
use crate::ipv6::{self, AddrClass, Ipv6Info};
use crate::l4;

#[cfg(test)]
mod tests;

/// The longest error message, IP header included, in bytes (RFC 4443 section 2.4(c)).
pub const MAX_LEN: usize = ipv6::MIN_MTU as usize;

const HEADER_LEN: usize = 8;
const HOP_LIMIT: u8 = 64;
const REDIRECT: u8 = 137;

/// An error to be told to a packet's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Icmp6Error {
    /// No route: type 1 code 0.
    NoRoute,
    /// Forbidden by policy: type 1 code 1.
    Prohibited,
    /// Beyond the scope of the source address: type 1 code 2.
    BeyondScope,
    /// The last hop does not answer: type 1 code 3.
    AddressUnreachable,
    /// Nobody listens on the port: type 1 code 4.
    PortUnreachable,
    /// Too long for the next hop: type 2 code 0.
    PacketTooBig {
        /// The MTU of the next hop in bytes.
        mtu: u32,
    },
    /// The hop limit ran out: type 3 code 0.
    TimeExceeded,
}

impl Icmp6Error {
    /// Type, code, and the word behind the checksum.
    const fn fields(self) -> (u8, u8, u32) {
        match self {
            Self::NoRoute => (1, 0, 0),
            Self::Prohibited => (1, 1, 0),
            Self::BeyondScope => (1, 2, 0),
            Self::AddressUnreachable => (1, 3, 0),
            Self::PortUnreachable => (1, 4, 0),
            Self::PacketTooBig { mtu } => (2, 0, mtu),
            Self::TimeExceeded => (3, 0, 0),
        }
    }
}

/// Whether `error` may be sent about a packet (RFC 4443 section 2.4(e)).
///
/// Not about ICMPv6 errors and redirects, later fragments, packets whose upper layer is unknown (it might be such an
/// error), from an address that is not one host's, or to a group; "packet too big" may answer the last. Whether the
/// frame came as link multicast the caller knows: treat it as a packet to a group.
#[must_use]
pub fn may_answer(error: Icmp6Error, l3: &[u8], ip: &Ipv6Info) -> bool {
    let to_group = ipv6::class(ip.dst) == AddrClass::Multicast;
    if to_group && !matches!(error, Icmp6Error::PacketTooBig { .. }) {
        return false;
    }
    if !matches!(
        ipv6::class(ip.src),
        AddrClass::Unicast | AddrClass::LinkLocal
    ) {
        return false;
    }
    if ip.is_later_fragment() || ip.upper.is_unknown() {
        return false;
    }
    ip.upper.protocol != l4::ICMPV6
        || l3
            .get(usize::from(ip.upper.offset)..ip.total_len())
            .is_some_and(|m| m.first().is_some_and(|t| *t >= 128 && *t != REDIRECT))
}

/// Builds the whole IPv6 packet of an error about `l3`, the packet that `ip` was parsed from, into `room`; returns its length.
///
/// Quotes as much as fits into [`MAX_LEN`]. `source` is one of our own addresses, host order. None if `room` is too small:
/// [`MAX_LEN`] bytes are always enough. Ask [`may_answer`] before.
#[must_use]
pub fn error(
    room: &mut [u8],
    error: Icmp6Error,
    source: u128,
    l3: &[u8],
    ip: &Ipv6Info,
) -> Option<usize> {
    let quote = l3.get(..ip.total_len())?;
    let quote = quote
        .get(..MAX_LEN - ipv6::HEADER_LEN - HEADER_LEN)
        .unwrap_or(quote);
    let (kind, code, word) = error.fields();
    let payload_len = HEADER_LEN + quote.len();

    let mut writer = Writer::new(room);
    put_header(&mut writer, source, ip.src, payload_len as u16, HOP_LIMIT)?;
    writer.put(&[kind, code, 0, 0])?;
    writer.put(&word.to_be_bytes())?;
    writer.put(quote)?;
    seal(writer.written(), source, ip.src)?;
    Some(ipv6::HEADER_LEN + payload_len)
}

/// Writes the IPv6 header of an ICMPv6 message.
pub(crate) fn put_header(
    writer: &mut Writer<'_>,
    src: u128,
    dst: u128,
    payload_len: u16,
    hop_limit: u8,
) -> Option<()> {
    writer.put(&[0x60, 0, 0, 0])?;
    writer.put(&payload_len.to_be_bytes())?;
    writer.put(&[l4::ICMPV6, hop_limit])?;
    writer.put(&src.to_be_bytes())?;
    writer.put(&dst.to_be_bytes())
}

/// Fills the checksum of a whole IPv6 packet whose payload is an ICMPv6 message with a checksum of zero.
pub(crate) fn seal(packet: &mut [u8], src: u128, dst: u128) -> Option<()> {
    let message = packet.get_mut(ipv6::HEADER_LEN..)?;
    let checksum = Sum::pseudo_v6(src, dst, l4::ICMPV6, message.len() as u32)
        .add_bytes(message)
        .checksum();
    bytes::put_u16(message, 2, checksum).then_some(())
}
