//! IPv4 in IPv4 (RFC 2003): what is peculiar to taking it apart. It is put together by [`crate::outer`].

use core::fmt;

use crate::ipv4::Ipv4Info;

#[cfg(test)]
mod tests;

/// What the outer header takes from the inner packet's MTU, in bytes.
pub const OVERHEAD: u16 = 20;

/// Why an IPIP packet is refused before its inner header is parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum IpipError {
    /// A fragment of the outer packet.
    Fragment,
    /// Nothing behind the outer header.
    Truncated,
    /// The inner packet is not IPv4.
    InnerVersion,
}

impl fmt::Display for IpipError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fragment => "fragmented IPIP packet",
            Self::Truncated => "IPIP packet without an inner packet",
            Self::InnerVersion => "IPIP packet whose inner packet is not IPv4",
        })
    }
}

impl core::error::Error for IpipError {}

/// The inner packet of the IPIP packet `l3` that `outer` was parsed from; link padding is left out.
#[inline]
pub fn inner<'a>(l3: &'a [u8], outer: &Ipv4Info) -> Result<&'a [u8], IpipError> {
    if outer.is_fragment() {
        return Err(IpipError::Fragment);
    }
    match l3.get(usize::from(outer.header_len())..usize::from(outer.total_len)) {
        Some(inner @ [first, ..]) if first >> 4 == 4 => Ok(inner),
        Some([_, ..]) => Err(IpipError::InnerVersion),
        Some([]) | None => Err(IpipError::Truncated),
    }
}
