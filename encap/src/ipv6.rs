//! IPv6: the fixed header, and a bounded walk over extension headers to the upper layer (RFC 8200).

use core::fmt;

use crate::bytes;

mod class;
mod quoted;
#[cfg(test)]
mod tests;
mod walk;

pub use class::{AddrClass, class, is_surely_unicast};
pub use quoted::parse_quoted;

/// Length of the fixed header, in bytes.
pub const HEADER_LEN: usize = 40;
/// The smallest MTU a link may have (RFC 8200 section 5), in bytes.
pub const MIN_MTU: u16 = 1280;
/// How many extension headers are walked.
pub const MAX_EXTENSIONS: usize = 8;
/// How many bytes of extension headers are walked.
pub const MAX_EXTENSION_BYTES: usize = 256;

/// Header numbers of extension headers and their like.
pub mod next_header {
    /// Hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// Routing.
    pub const ROUTING: u8 = 43;
    /// Fragment.
    pub const FRAGMENT: u8 = 44;
    /// Encapsulating security payload: what follows is not readable.
    pub const ESP: u8 = 50;
    /// Authentication header.
    pub const AUTHENTICATION: u8 = 51;
    /// Nothing follows.
    pub const NONE: u8 = 59;
    /// Destination options.
    pub const DESTINATION: u8 = 60;
}

/// What a fragment header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Identification, shared by the fragments of a datagram.
    pub id: u32,
    /// Where the payload belongs in the fragmentable part, in bytes (a multiple of 8).
    pub offset: u16,
    /// Bytes of the fragmentable part in this fragment: all that follows the fragment header.
    pub len: u16,
    /// Whether another fragment follows.
    pub more: bool,
}

impl Fragment {
    /// Whether this "fragment" is the whole datagram (RFC 6946): to be handled alone, without state.
    #[inline]
    pub const fn is_atomic(&self) -> bool {
        self.offset == 0 && !self.more
    }

    /// Whether this fragment does not hold the start of the payload.
    #[inline]
    pub const fn is_later(&self) -> bool {
        self.offset != 0
    }
}

/// What follows the headers that the walk went over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Upper {
    /// Protocol number; that of an extension header if the walk ended before the upper layer (see [`Self::is_unknown`]).
    pub protocol: u8,
    /// Where it starts, counted from the start of the IPv6 header, in bytes. In a later fragment: where the fragment's data starts.
    pub offset: u16,
    /// The fragment header, if one was among them.
    pub fragment: Option<Fragment>,
}

impl Upper {
    /// Whether the upper layer's protocol could not be found: more extension headers than the walk follows, or a later
    /// fragment whose data starts with one. A rule that asks for a protocol or ports cannot be answered.
    #[inline]
    pub const fn is_unknown(&self) -> bool {
        matches!(
            self.protocol,
            next_header::HOP_BY_HOP
                | next_header::ROUTING
                | next_header::FRAGMENT
                | next_header::DESTINATION
        )
    }
}

/// A checked IPv6 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Ipv6Info {
    /// Source address, host order.
    pub src: u128,
    /// Destination address, host order.
    pub dst: u128,
    /// Bytes behind the fixed header; never more than the bytes given. What lies behind is link padding.
    pub payload_len: u16,
    /// Hop limit.
    pub hop_limit: u8,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Flow label, 20 bits.
    pub flow_label: u32,
    /// The upper layer.
    pub upper: Upper,
}

impl Ipv6Info {
    /// Takes the addresses that the header's bytes have, when what is known of them has changed since. Leaves them as they are when
    /// `l3` holds no header.
    #[inline(always)]
    pub fn read_addresses(&mut self, l3: &[u8]) {
        let addresses = l3.get(8..).and_then(|rest| rest.split_first_chunk::<16>());
        if let Some((src, rest)) = addresses
            && let Some(dst) = rest.first_chunk::<16>()
        {
            self.src = u128::from_be_bytes(*src);
            self.dst = u128::from_be_bytes(*dst);
        }
    }

    /// Fixed header and payload in bytes.
    #[inline]
    pub const fn total_len(&self) -> usize {
        HEADER_LEN + self.payload_len as usize
    }

    /// Bytes from the upper layer's start to the packet's end.
    #[inline]
    pub const fn upper_len(&self) -> usize {
        self.total_len() - self.upper.offset as usize
    }

    /// Whether a fragment header is there and more than one fragment makes the datagram.
    #[inline]
    pub const fn is_fragment(&self) -> bool {
        match self.upper.fragment {
            Some(fragment) => !fragment.is_atomic(),
            None => false,
        }
    }

    /// Whether this is a fragment that does not hold the start of the payload.
    #[inline]
    pub const fn is_later_fragment(&self) -> bool {
        match self.upper.fragment {
            Some(fragment) => fragment.is_later(),
            None => false,
        }
    }
}

/// Why a packet is refused at the IPv6 layer. Each is dropped silently, under a counter of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ipv6Error {
    /// Fewer bytes than the fixed header.
    Truncated,
    /// The version is not 6.
    Version,
    /// The payload length is more than the frame holds.
    BeyondFrame,
    /// A jumbo payload option, or a payload length of zero with hop-by-hop options (RFC 2675).
    Jumbogram,
    /// Hop-by-hop options that are not the first extension header.
    HopByHopMisplaced,
    /// A type 0 routing header (RFC 5095).
    RoutingType0,
    /// An extension header that leads out of the packet.
    ExtensionTruncated,
    /// An option that leads out of its extension header.
    BadOption,
    /// The fragment ends behind byte 65535 of its datagram.
    FragmentOverflow,
    /// A fragment that is empty, or not the last one and no multiple of 8 bytes long.
    FragmentLength,
    /// A second fragment header.
    NestedFragment,
    /// A first fragment without the whole chain of headers (RFC 7112 section 5).
    IncompleteChain,
}

impl fmt::Display for Ipv6Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "packet cut inside the IPv6 header",
            Self::Version => "IP version is not 6",
            Self::BeyondFrame => "IPv6 payload length beyond the end of the frame",
            Self::Jumbogram => "IPv6 jumbogram",
            Self::HopByHopMisplaced => "IPv6 hop-by-hop options that are not the first header",
            Self::RoutingType0 => "IPv6 routing header of type 0",
            Self::ExtensionTruncated => "IPv6 extension header beyond the end of the packet",
            Self::BadOption => "IPv6 option with a bad length",
            Self::FragmentOverflow => "IPv6 fragment ends beyond 65535 bytes",
            Self::FragmentLength => "IPv6 fragment is empty or not a multiple of 8 bytes long",
            Self::NestedFragment => "IPv6 packet with two fragment headers",
            Self::IncompleteChain => "first IPv6 fragment without the whole header chain",
        })
    }
}

impl core::error::Error for Ipv6Error {}

/// Checks the headers at the start of `l3` and returns what they say.
///
/// Extension headers are walked to find the upper layer, [`MAX_EXTENSIONS`] of them and [`MAX_EXTENSION_BYTES`] at most;
/// where that is not enough the packet still passes, with [`Upper::is_unknown`]. AH and ESP are upper layers here.
/// Hop limits 0 and 1 pass: whether they matter depends on where the packet goes.
#[inline]
pub fn parse(l3: &[u8]) -> Result<Ipv6Info, Ipv6Error> {
    let mut info = Ipv6Info::default();
    info.read(l3)?;
    Ok(info)
}

impl Ipv6Info {
    /// [`parse`] into what is there already, which spares the hot path a copy. After an error the content is unspecified.
    #[inline(always)]
    pub fn read(&mut self, l3: &[u8]) -> Result<(), Ipv6Error> {
        if let Some((header, rest)) = l3.split_first_chunk() {
            let version = self.fill(header);
            // Nearly all packets: no extension headers, nothing wrong.
            if version == 6
                && usize::from(self.payload_len) <= rest.len()
                && !walk::is_extension(self.upper.protocol)
            {
                return Ok(());
            }
        }
        self.read_any(l3)
    }

    /// Takes what the fixed header says, unchecked, as if the upper layer followed it. Returns the version.
    #[inline(always)]
    fn fill(&mut self, header: &[u8; HEADER_LEN]) -> u8 {
        let number = |at| bytes::array_at(header, at).map_or(0, |it| u64::from_be_bytes(*it));
        let address = |at| u128::from(number(at)) << 64 | u128::from(number(at + 8));
        let fixed = number(0);
        *self = Self {
            src: address(8),
            dst: address(24),
            payload_len: (fixed >> 16) as u16,
            hop_limit: fixed as u8,
            traffic_class: (fixed >> 52) as u8,
            flow_label: (fixed >> 32) as u32 & 0x000f_ffff,
            upper: Upper {
                protocol: (fixed >> 8) as u8,
                offset: HEADER_LEN as u16,
                fragment: None,
            },
        };
        (fixed >> 60) as u8
    }

    /// Takes or refuses any header.
    #[cold]
    fn read_any(&mut self, l3: &[u8]) -> Result<(), Ipv6Error> {
        let Some((header, rest)) = l3.split_first_chunk() else {
            return Err(Ipv6Error::Truncated);
        };
        if self.fill(header) != 6 {
            return Err(Ipv6Error::Version);
        }
        let Some(payload) = rest.get(..usize::from(self.payload_len)) else {
            return Err(Ipv6Error::BeyondFrame);
        };
        if walk::is_extension(self.upper.protocol) {
            self.upper = walk::upper(self.upper.protocol, payload)?;
        }
        Ok(())
    }
}

/// Takes one off the hop limit. Returns what is left; none, and nothing changed, if it is 0 or 1 or there is no whole header.
#[inline]
pub fn decrement_hop_limit(l3: &mut [u8]) -> Option<u8> {
    let [_, _, _, _, _, _, _, hop_limit, ..] = l3.first_chunk_mut::<HEADER_LEN>()?;
    if *hop_limit <= 1 {
        return None;
    }
    *hop_limit -= 1;
    Some(*hop_limit)
}
