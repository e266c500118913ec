//! The header of a packet that an ICMP error quotes: its end is missing.

use super::{Ipv4Info, MIN_HEADER_LEN};
use crate::checksum::Sum;
use crate::nat::QuoteError;

/// Checks the header at the start of `quote`; the total length may lead out of it. Options are not looked at.
pub fn parse_quoted(quote: &[u8]) -> Result<Ipv4Info, QuoteError> {
    let header = quote.first_chunk().ok_or(QuoteError::Truncated)?;
    let mut info = Ipv4Info::default();
    info.fill(header);
    let [version_ihl, ..] = *header;
    let header_len = usize::from(info.header_len());
    if version_ihl >> 4 != 4
        || header_len < MIN_HEADER_LEN
        || usize::from(info.total_len) < header_len
    {
        return Err(QuoteError::Header);
    }
    let header = quote.get(..header_len).ok_or(QuoteError::Truncated)?;
    if !Sum::of(header).is_valid() {
        return Err(QuoteError::HeaderChecksum);
    }
    Ok(info)
}
