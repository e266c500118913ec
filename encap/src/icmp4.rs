//! ICMP error messages for IPv4 (RFC 792, RFC 1812 section 4.3).

use crate::bytes::{self, Writer};
use crate::ipv4::{self, Ipv4Info};
use crate::{checksum, l4};

#[cfg(test)]
mod tests;

/// The longest error message, IP header included, in bytes (RFC 1812 section 4.3.2.3).
pub const MAX_LEN: usize = 576;
/// The smallest MTU that a "fragmentation needed" may name to be believed (RFC 1191 section 3), in bytes.
pub const MIN_MTU: u16 = 68;

const HEADER_LEN: usize = 8;
/// Precedence 6, internetwork control (RFC 1812 section 4.3.2.5).
const TOS: u8 = 0xc0;
const TTL: u8 = 64;

/// An error to be told to a packet's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Icmp4Error {
    /// The TTL ran out: type 11 code 0.
    TimeExceeded,
    /// No route: type 3 code 0.
    NetUnreachable,
    /// The last hop does not answer: type 3 code 1.
    HostUnreachable,
    /// Nobody listens on the port: type 3 code 3.
    PortUnreachable,
    /// Too long for the next hop, and not to be fragmented: type 3 code 4.
    FragmentationNeeded {
        /// The MTU of the next hop in bytes.
        mtu: u16,
    },
    /// Forbidden by policy: type 3 code 13.
    Prohibited,
}

impl Icmp4Error {
    /// Type, code, and the second half of the word behind the checksum.
    const fn fields(self) -> (u8, u8, u16) {
        match self {
            Self::TimeExceeded => (11, 0, 0),
            Self::NetUnreachable => (3, 0, 0),
            Self::HostUnreachable => (3, 1, 0),
            Self::PortUnreachable => (3, 3, 0),
            Self::FragmentationNeeded { mtu } => (3, 4, mtu),
            Self::Prohibited => (3, 13, 0),
        }
    }
}

/// Whether an error may be sent about a packet (RFC 1812 section 4.3.2.7, RFC 1122 section 3.2.2).
///
/// Not about ICMP errors and what may be one, later fragments, or packets from or to addresses that are not one host's; a packet with a
/// wrong header checksum never gets to be an [`Ipv4Info`]. Whether the frame came as link broadcast or multicast the
/// caller knows: no error about those either, nor about a directed broadcast.
#[must_use]
pub fn may_answer(l3: &[u8], ip: &Ipv4Info) -> bool {
    if ip.is_later_fragment()
        || !ipv4::class(ip.src).is_valid_source()
        || !ipv4::class(ip.dst).is_valid_destination()
    {
        return false;
    }
    // What does not ask or answer is taken for an error: types unknown here, and messages too short to tell theirs.
    ip.protocol != l4::ICMP
        || l3
            .get(usize::from(ip.header_len())..usize::from(ip.total_len))
            .is_some_and(|m| m.first().is_some_and(|t| l4::has_identifier(l4::ICMP, *t)))
}

/// Builds the whole IPv4 packet of an error about `l3`, the packet that `ip` was parsed from, into `room`; returns its length.
///
/// Quotes as much as fits into [`MAX_LEN`]. `source` is one of our own addresses, host order; `id` the identification of the
/// new packet. None if `room` is too small: [`MAX_LEN`] bytes are always enough. Ask [`may_answer`] before.
#[must_use]
pub fn error(
    room: &mut [u8],
    error: Icmp4Error,
    source: u32,
    id: u16,
    l3: &[u8],
    ip: &Ipv4Info,
) -> Option<usize> {
    let quote = l3.get(..usize::from(ip.total_len))?;
    let quote = quote
        .get(..MAX_LEN - ipv4::MIN_HEADER_LEN - HEADER_LEN)
        .unwrap_or(quote);
    let total_len = ipv4::MIN_HEADER_LEN + HEADER_LEN + quote.len();
    let (kind, code, mtu) = error.fields();

    let mut writer = Writer::new(room);
    writer.put(&header(source, ip.src, l4::ICMP, total_len as u16, id))?;
    writer.put(&[kind, code, 0, 0, 0, 0])?;
    writer.put(&mtu.to_be_bytes())?;
    writer.put(quote)?;
    let message = writer.written().get_mut(ipv4::MIN_HEADER_LEN..)?;
    let checksum = checksum::of(message);
    bytes::put_u16(message, 2, checksum);
    Some(total_len)
}

/// An IPv4 header of ours for a control message, its checksum right.
fn header(src: u32, dst: u32, protocol: u8, total_len: u16, id: u16) -> [u8; ipv4::MIN_HEADER_LEN] {
    let [len0, len1] = total_len.to_be_bytes();
    let [id0, id1] = id.to_be_bytes();
    let [s0, s1, s2, s3] = src.to_be_bytes();
    let [d0, d1, d2, d3] = dst.to_be_bytes();
    let mut header = [
        0x45, TOS, len0, len1, id0, id1, 0, 0, TTL, protocol, 0, 0, s0, s1, s2, s3, d0, d1, d2, d3,
    ];
    let checksum = checksum::of(&header);
    bytes::put_u16(&mut header, 10, checksum);
    header
}
