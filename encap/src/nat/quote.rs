//! What an ICMP error says of the packet that it quotes.

use core::fmt;

use super::Tuple;
use crate::ipv4::Ipv4Info;
use crate::ipv6::Ipv6Info;
use crate::{bytes, l4};

/// The packet that a checked ICMP error quotes: one that its receiver, or someone translated to it, has sent.
///
/// To find the flow, reverse [`Self::tuple`]: the error comes from where that flow's answers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted<A, I> {
    /// Addresses and ports of the quoted packet. An ICMP query's identifier stands in both ports.
    pub tuple: Tuple<A>,
    /// Protocol of the quoted packet.
    pub protocol: u8,
    /// Whether the quoted packet is a later fragment, so that its ports (given as zeros) are not known.
    pub is_later_fragment: bool,
    /// The sequence number of quoted TCP, to be judged by the flow's window (RFC 5927 section 4.1).
    pub tcp_sequence: Option<u32>,
    /// Type of a quoted ICMP message that is no later fragment.
    pub icmp_type: Option<u8>,
    /// The quoted headers.
    pub(super) ip: I,
    /// Where the quoted packet starts, counted from the outer IP header, in bytes.
    pub(super) at: u16,
}

impl Quoted4 {
    /// What is quoted of the packet's payload. `l3` is that of [`super::icmp_error4`].
    pub fn payload<'a>(&self, l3: &'a [u8]) -> &'a [u8] {
        let from = usize::from(self.at) + usize::from(self.ip.header_len());
        l3.get(from..).unwrap_or_default()
    }
}

impl Quoted6 {
    /// What is quoted of the packet's upper layer. `l3` is that of [`super::icmp_error6`].
    pub fn payload<'a>(&self, l3: &'a [u8]) -> &'a [u8] {
        let from = usize::from(self.at) + usize::from(self.ip.upper.offset);
        l3.get(from..).unwrap_or_default()
    }
}

/// The packet that an ICMP error for IPv4 quotes.
pub type Quoted4 = Quoted<u32, Ipv4Info>;
/// The packet that an ICMPv6 error quotes.
pub type Quoted6 = Quoted<u128, Ipv6Info>;

/// Why an ICMP error cannot be translated. Each is dropped silently, under a counter of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum QuoteError {
    /// Not an ICMP error: a query, or a type that is not known.
    NotAnError,
    /// A redirect, which is for one link only and never forwarded.
    Redirect,
    /// The error itself is a fragment.
    Fragment,
    /// The error's own checksum is wrong (RFC 5508 REQ-3).
    Checksum,
    /// The quote ends before it says which flow it is of: it holds the IP header and 8 bytes at least (RFC 792).
    Truncated,
    /// The quoted bytes are no IP header, or start a chain of extension headers too long to be walked.
    Header,
    /// The quoted header's checksum is wrong (RFC 5508 REQ-3).
    HeaderChecksum,
    /// An error about an ICMP error, which nobody may send (RFC 1122 section 3.2.2).
    AboutError,
}

impl fmt::Display for QuoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAnError => "not an ICMP error",
            Self::Redirect => "ICMP redirect",
            Self::Fragment => "ICMP error in fragments",
            Self::Checksum => "ICMP error with a wrong checksum",
            Self::Truncated => "ICMP error that quotes too little",
            Self::Header => "ICMP error that quotes no IP header",
            Self::HeaderChecksum => "ICMP error that quotes a header with a wrong checksum",
            Self::AboutError => "ICMP error about an ICMP error",
        })
    }
}

impl core::error::Error for QuoteError {}

/// The type of a quoted ICMP message.
pub(super) fn icmp_type(protocol: u8, is_later_fragment: bool, segment: &[u8]) -> Option<u8> {
    let is_icmp = matches!(protocol, l4::ICMP | l4::ICMPV6);
    segment
        .first()
        .copied()
        .filter(|_| is_icmp && !is_later_fragment)
}

/// What the start of a quoted upper layer says: ports or identifier, and TCP's sequence number.
///
/// `segment` ends where the quote or the quoted packet does. It has to hold 8 bytes if the protocol is one that we translate
/// more than the addresses of.
pub(super) fn read_upper(
    protocol: u8,
    segment: &[u8],
) -> Result<((u16, u16), Option<u32>), QuoteError> {
    if l4::min_header_len(protocol) == 0 {
        return Ok(((0, 0), None));
    }
    let &[kind, _, _, _, s0, s1, s2, s3] =
        segment.first_chunk::<8>().ok_or(QuoteError::Truncated)?;
    let first = bytes::u32_at(segment, 0).ok_or(QuoteError::Truncated)?;
    let ports = ((first >> 16) as u16, first as u16);
    match protocol {
        l4::ICMP | l4::ICMPV6 if l4::is_icmp_error(protocol, kind) => Err(QuoteError::AboutError),
        l4::ICMP | l4::ICMPV6 if l4::has_identifier(protocol, kind) => {
            let id = u16::from_be_bytes([s0, s1]);
            Ok(((id, id), None))
        }
        l4::ICMP | l4::ICMPV6 => Ok(((0, 0), None)),
        l4::TCP => Ok((ports, Some(u32::from_be_bytes([s0, s1, s2, s3])))),
        _ => Ok((ports, None)),
    }
}
