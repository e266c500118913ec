//! Upper layers, as far as a dataplane reads them: ports, ICMP types, and the rules against tiny fragments.

use core::fmt;

use crate::bytes;

#[cfg(test)]
mod tests;

/// Protocol number of ICMP for IPv4.
pub const ICMP: u8 = 1;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;
/// Protocol number of DCCP.
pub const DCCP: u8 = 33;
/// Protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;
/// Protocol number of SCTP.
pub const SCTP: u8 = 132;
/// Protocol number of UDP-Lite.
pub const UDPLITE: u8 = 136;

/// Length of a UDP header, in bytes.
pub const UDP_HEADER_LEN: usize = 8;

/// What a flow is told apart by, beside addresses and protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP, UDP, UDP-Lite, SCTP, DCCP: ports.
    Ports {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// ICMP or ICMPv6.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// Identifier of a query (echo and its like); zero for all others.
        id: u16,
    },
    /// A protocol without ports.
    Other,
}

impl Transport {
    /// Source and destination port; an ICMP query's identifier as both; zeros where there is none of these.
    #[inline]
    pub const fn ports(self) -> (u16, u16) {
        match self {
            Self::Ports {
                source,
                destination,
            } => (source, destination),
            Self::Icmp { id, .. } => (id, id),
            Self::Other => (0, 0),
        }
    }
}

/// Why a packet is refused at the upper layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum L4Error {
    /// Fewer bytes than the upper layer's header.
    Truncated,
    /// A fragment cut so that it hides or overwrites a TCP header (RFC 1858, RFC 3128).
    TinyFragment,
}

impl fmt::Display for L4Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "packet cut inside the upper layer's header",
            Self::TinyFragment => "fragment that splits the upper layer's header",
        })
    }
}

impl core::error::Error for L4Error {}

/// Length of the shortest header of a protocol, in bytes; zero for one not known here.
#[inline]
pub const fn min_header_len(protocol: u8) -> usize {
    match protocol {
        TCP => 20,
        UDP | UDPLITE | ICMP | ICMPV6 => 8,
        SCTP | DCCP => 12,
        _ => 0,
    }
}

/// The ports of TCP or UDP that is no fragment, if its header is whole. None decides nothing: [`parse`] does.
#[inline(always)]
#[must_use]
pub fn ordinary_ports(protocol: u8, l4: &[u8]) -> Option<(u16, u16)> {
    let is_whole = match protocol {
        UDP => l4.len() >= UDP_HEADER_LEN,
        TCP => l4.len() >= min_header_len(TCP),
        _ => false,
    };
    let both = u32::from_be_bytes(*l4.first_chunk()?);
    is_whole.then_some(((both >> 16) as u16, both as u16))
}

/// Reads the upper layer's header of a packet that is no fragment. `l4` ends where the IP packet ends.
#[inline(never)]
pub fn parse(protocol: u8, l4: &[u8]) -> Result<Transport, L4Error> {
    let Some(&[b0, b1, b2, b3, b4, b5, ..]) = l4.first_chunk::<8>() else {
        return if min_header_len(protocol) == 0 {
            Ok(Transport::Other)
        } else {
            Err(L4Error::Truncated)
        };
    };
    let ports = Transport::Ports {
        source: u16::from_be_bytes([b0, b1]),
        destination: u16::from_be_bytes([b2, b3]),
    };
    match protocol {
        TCP | SCTP | DCCP if l4.len() < min_header_len(protocol) => Err(L4Error::Truncated),
        TCP | UDP | UDPLITE | SCTP | DCCP => Ok(ports),
        ICMP | ICMPV6 => {
            let id = if has_identifier(protocol, b0) {
                u16::from_be_bytes([b4, b5])
            } else {
                0
            };
            Ok(Transport::Icmp {
                kind: b0,
                code: b1,
                id,
            })
        }
        _ => Ok(Transport::Other),
    }
}

/// Reads the upper layer's header of a first fragment, which need not hold all of it, but all that rules ask for:
/// 16 bytes of TCP (RFC 1858 section 3.2.1), 8 of the others.
pub fn parse_first_fragment(protocol: u8, l4: &[u8]) -> Result<Transport, L4Error> {
    const TCP_UP_TO_FLAGS: usize = 16;
    match protocol {
        TCP if l4.len() < TCP_UP_TO_FLAGS => Err(L4Error::TinyFragment),
        TCP | SCTP | DCCP => {
            let head = l4.first_chunk::<8>().ok_or(L4Error::TinyFragment)?;
            parse(UDP, head)
        }
        _ => parse(protocol, l4).map_err(|_| L4Error::TinyFragment),
    }
}

/// Whether a later fragment starts so early that it could overwrite a TCP header's flags (RFC 3128): byte 8 of TCP.
#[inline]
pub const fn overwrites_tcp_flags(protocol: u8, fragment_offset: u16) -> bool {
    protocol == TCP && fragment_offset == 8
}

/// Whether messages of this type carry a query identifier in bytes 4 and 5.
#[inline]
pub const fn has_identifier(protocol: u8, kind: u8) -> bool {
    match protocol {
        // Echo, timestamp, information and address mask, requests and replies (RFC 792, RFC 950).
        ICMP => matches!(kind, 0 | 8 | 13..=18),
        ICMPV6 => matches!(kind, 128 | 129),
        _ => false,
    }
}

/// Whether messages of this type are errors, which quote the packet they are about (RFC 1122 section 3.2.2, RFC 4443):
/// for IPv4 the redirect too.
#[inline]
pub const fn is_icmp_error(protocol: u8, kind: u8) -> bool {
    match protocol {
        ICMP => matches!(kind, 3..=5 | 11 | 12),
        ICMPV6 => matches!(kind, 1..=4),
        _ => false,
    }
}

/// The length of a TCP header in bytes, if its data offset is at least 5 words and stays within the segment.
#[inline]
pub fn tcp_header_len(segment: &[u8]) -> Option<usize> {
    let &[.., data_offset] = segment.first_chunk::<13>()?;
    let len = usize::from(data_offset >> 4) * 4;
    (20..=segment.len()).contains(&len).then_some(len)
}

/// The UDP datagram at the start of an IP packet's payload, as long as its length field says (RFC 768): what lies behind
/// is not part of it. None when that length does not cover the header or leads out of the packet.
#[inline]
pub fn udp_datagram(payload: &[u8]) -> Option<&[u8]> {
    let len = usize::from(bytes::u16_at(payload, 4)?);
    payload.get(..len).filter(|_| len >= UDP_HEADER_LEN)
}
