//! IPv4: the checks of RFC 1812 section 5.2.2 and the fragment rules of RFC 791, in one pass over the header.

use core::fmt;

use crate::bytes;
use crate::checksum::{self, Sum};

mod class;
mod options;
mod quoted;
#[cfg(test)]
mod tests;

pub use class::{AddrClass, class, is_unicast};
pub(crate) use options::kept_in_fragments as options_kept_in_fragments;
pub use quoted::parse_quoted;

/// Length of a header without options, in bytes.
pub const MIN_HEADER_LEN: usize = 20;
/// Length of the longest header, in bytes.
pub const MAX_HEADER_LEN: usize = 60;
/// Protocol number of IPv4 in IPv4 (RFC 2003).
pub const PROTOCOL_IPIP: u8 = 4;

/// The first byte of a header without options: version 4, and a length of five words.
pub const NO_OPTIONS: u8 = 0x45;
/// The "don't fragment" flag in the word of flags and fragment offset.
pub const DONT_FRAGMENT: u16 = 0x4000;
/// The "more fragments" flag in the word of flags and fragment offset.
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// The fragment offset, in units of 8 bytes, in the word of flags and fragment offset.
pub const OFFSET_MASK: u16 = 0x1fff;

/// A checked IPv4 header.
///
/// The fields lie as they do in the header's three numbers of eight, eight and four bytes, once those are in host order, the second first: so that
/// who reads it stores three numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Ipv4Info {
    /// Source address, host order.
    pub src: u32,
    /// Header checksum as it came, host order. Not kept up with what changes.
    pub checksum: u16,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Time to live.
    pub ttl: u8,
    /// Flags and fragment offset as on the wire, host order.
    pub flags_and_offset: u16,
    /// Identification, shared by the fragments of a datagram.
    pub id: u16,
    /// Header and payload in bytes; never more than the bytes given. What lies behind is link padding.
    pub total_len: u16,
    /// DSCP and ECN.
    pub tos: u8,
    /// Version and header length as on the wire: [`NO_OPTIONS`] where there are no options.
    pub version_and_len: u8,
    /// Destination address, host order.
    pub dst: u32,
}

impl Ipv4Info {
    /// Takes the addresses that the header's bytes have, when what is known of them has changed since. Leaves them as they are when
    /// `l3` holds no header.
    #[inline(always)]
    pub fn read_addresses(&mut self, l3: &[u8]) {
        if let Some(header) = l3.first_chunk::<MIN_HEADER_LEN>() {
            let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *header;
            self.src = u32::from_be_bytes([s0, s1, s2, s3]);
            self.dst = u32::from_be_bytes([d0, d1, d2, d3]);
        }
    }

    /// What the header's numbers say, the first eight bytes', the next eight's and the last four's, in host order. Nothing is checked.
    #[inline(always)]
    pub const fn of(first: u64, second: u64, dst: u32) -> Self {
        Self {
            src: second as u32,
            checksum: (second >> 32) as u16,
            protocol: (second >> 48) as u8,
            ttl: (second >> 56) as u8,
            flags_and_offset: first as u16,
            id: (first >> 16) as u16,
            total_len: (first >> 32) as u16,
            tos: (first >> 48) as u8,
            version_and_len: (first >> 56) as u8,
            dst,
        }
    }

    /// Header with options in bytes: 20 to 60, and at most `total_len`.
    #[inline(always)]
    pub const fn header_len(&self) -> u8 {
        (self.version_and_len & 0x0f) * 4
    }

    /// Bytes behind the header.
    #[inline]
    pub const fn payload_len(&self) -> u16 {
        self.total_len - self.header_len() as u16
    }

    /// Whether routers may not fragment the packet.
    #[inline]
    pub const fn dont_fragment(&self) -> bool {
        self.flags_and_offset & DONT_FRAGMENT != 0
    }

    /// Whether another fragment follows.
    #[inline]
    pub const fn more_fragments(&self) -> bool {
        self.flags_and_offset & MORE_FRAGMENTS != 0
    }

    /// Where the payload belongs in the datagram, in bytes (a multiple of 8).
    #[inline]
    pub const fn fragment_offset(&self) -> u16 {
        (self.flags_and_offset & OFFSET_MASK) << 3
    }

    /// Whether this is a fragment, the first one or another.
    #[inline]
    pub const fn is_fragment(&self) -> bool {
        self.flags_and_offset & (MORE_FRAGMENTS | OFFSET_MASK) != 0
    }

    /// Whether this is a fragment that does not hold the start of the payload.
    #[inline]
    pub const fn is_later_fragment(&self) -> bool {
        self.flags_and_offset & OFFSET_MASK != 0
    }

    /// Whether the header carries options.
    #[inline]
    pub const fn has_options(&self) -> bool {
        self.version_and_len != NO_OPTIONS
    }
}

/// Why a packet is refused at the IPv4 layer. Each is dropped silently, under a counter of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ipv4Error {
    /// Fewer bytes than the header.
    Truncated,
    /// The version is not 4.
    Version,
    /// The header length field says less than 20 bytes.
    HeaderLength,
    /// The total length is less than the header's.
    TotalLength,
    /// The total length is more than the frame holds.
    BeyondFrame,
    /// The header checksum is wrong.
    Checksum,
    /// The fragment ends behind byte 65535 of its datagram.
    FragmentOverflow,
    /// A fragment that is empty, or not the last one and no multiple of 8 bytes long.
    FragmentLength,
    /// An option's length is less than 2 or leads out of the header.
    BadOption,
    /// A loose or strict source route option.
    SourceRoute,
}

impl fmt::Display for Ipv4Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "packet cut inside the IPv4 header",
            Self::Version => "IP version is not 4",
            Self::HeaderLength => "IPv4 header length below 20 bytes",
            Self::TotalLength => "IPv4 total length below the header's length",
            Self::BeyondFrame => "IPv4 total length beyond the end of the frame",
            Self::Checksum => "IPv4 header checksum is wrong",
            Self::FragmentOverflow => "IPv4 fragment ends beyond 65535 bytes",
            Self::FragmentLength => "IPv4 fragment is empty or not a multiple of 8 bytes long",
            Self::BadOption => "IPv4 option with a bad length",
            Self::SourceRoute => "IPv4 source route option",
        })
    }
}

impl core::error::Error for Ipv4Error {}

/// Checks the header at the start of `l3` and returns what it says.
///
/// TTL 0 and 1 pass: whether they matter depends on where the packet goes (RFC 1812 section 4.2.2.9).
#[inline]
pub fn parse(l3: &[u8]) -> Result<Ipv4Info, Ipv4Error> {
    let mut info = Ipv4Info::default();
    info.read(l3)?;
    Ok(info)
}

impl Ipv4Info {
    /// [`parse`] into what is there already, which spares the hot path a copy. After an error the content is unspecified.
    #[inline(always)]
    pub fn read(&mut self, l3: &[u8]) -> Result<(), Ipv4Error> {
        if let Some(header) = l3.first_chunk() {
            let sum = self.fill(header);
            // Nearly all packets: no options, no fragment, nothing wrong.
            if matches!(header, [NO_OPTIONS, ..])
                && checksum::is_zero(sum)
                && !self.is_fragment()
                && usize::from(self.total_len) <= l3.len()
                && usize::from(self.total_len) >= MIN_HEADER_LEN
            {
                return Ok(());
            }
        }
        self.read_any(l3)
    }

    /// Takes what the header says, unchecked. Returns the sum of its words in host order, which may be added up two by two
    /// (RFC 1071 section 2).
    #[inline(always)]
    fn fill(&mut self, header: &[u8; MIN_HEADER_LEN]) -> u64 {
        let number = |at| bytes::array_at(header, at).map_or(0, |it| u64::from_be_bytes(*it));
        let (first, second) = (number(0), number(8));
        let dst = bytes::array_at(header, 16).map_or(0, |it| u32::from_be_bytes(*it));
        *self = Self::of(first, second, dst);
        [first >> 32, first, second >> 32, second, dst.into()]
            .iter()
            .map(|&it| u64::from(it as u32))
            .sum()
    }

    /// Takes or refuses any header.
    #[cold]
    fn read_any(&mut self, l3: &[u8]) -> Result<(), Ipv4Error> {
        let Some(header) = l3.first_chunk::<MIN_HEADER_LEN>() else {
            return Err(Ipv4Error::Truncated);
        };
        self.fill(header);
        let [version_ihl, ..] = *header;
        if version_ihl != NO_OPTIONS {
            check_unusual_header(l3, version_ihl, self.header_len())?;
        } else if !Sum::ZERO.add_ipv4_header(header).is_valid() {
            return Err(Ipv4Error::Checksum);
        }
        if usize::from(self.total_len) > l3.len() {
            return Err(Ipv4Error::BeyondFrame);
        }
        if self.total_len < u16::from(self.header_len()) {
            return Err(Ipv4Error::TotalLength);
        }
        if self.is_fragment() {
            check_fragment(self)?;
        }
        Ok(())
    }
}

/// A header that does not start with 0x45: has options, or is no IPv4 header.
fn check_unusual_header(l3: &[u8], version_ihl: u8, header_len: u8) -> Result<(), Ipv4Error> {
    if version_ihl >> 4 != 4 {
        return Err(Ipv4Error::Version);
    }
    if usize::from(header_len) < MIN_HEADER_LEN {
        return Err(Ipv4Error::HeaderLength);
    }
    let header = l3
        .get(..usize::from(header_len))
        .ok_or(Ipv4Error::Truncated)?;
    if !Sum::of(header).is_valid() {
        return Err(Ipv4Error::Checksum);
    }
    options::check(header.get(MIN_HEADER_LEN..).unwrap_or_default())
}

fn check_fragment(info: &Ipv4Info) -> Result<(), Ipv4Error> {
    let len = info.payload_len();
    if u32::from(info.fragment_offset()) + u32::from(len) > 65535 {
        return Err(Ipv4Error::FragmentOverflow);
    }
    if len == 0 || (info.more_fragments() && !len.is_multiple_of(8)) {
        return Err(Ipv4Error::FragmentLength);
    }
    Ok(())
}

/// Takes one off the TTL and updates the checksum (RFC 1624 equation 3). Returns the TTL left.
///
/// None, and nothing changed, if the TTL is 0 or 1 or there is no whole header.
#[inline]
pub fn decrement_ttl(l3: &mut [u8]) -> Option<u8> {
    let [_, _, _, _, _, _, _, _, ttl, _, check0, check1, ..] =
        l3.first_chunk_mut::<MIN_HEADER_LEN>()?;
    if *ttl <= 1 {
        return None;
    }
    *ttl -= 1;
    // The word of TTL and protocol shrinks by 0x0100, whatever the protocol, so the checksum grows by as much, which is 1 where
    // bytes are read the other way round; a carry goes around, and what would be 0xffff is 0.
    let checksum = u16::from_le_bytes([*check0, *check1]);
    let checksum = checksum.wrapping_add(1 + u16::from(checksum >= 0xfffe));
    [*check0, *check1] = checksum.to_le_bytes();
    Some(*ttl)
}
