//! The headers of a packet that an ICMP error quotes: its end is missing.

use super::{Fragment, HEADER_LEN, Ipv6Info, MAX_EXTENSIONS, next_header, walk};
use crate::bytes;
use crate::nat::QuoteError;

/// Finds the upper layer of the packet at the start of `quote`; the payload length may lead out of it.
///
/// Less is checked than of a packet to be forwarded: only that each header is there.
pub fn parse_quoted(quote: &[u8]) -> Result<Ipv6Info, QuoteError> {
    let header = quote.first_chunk().ok_or(QuoteError::Truncated)?;
    let mut info = Ipv6Info::default();
    if info.fill(header) != 6 {
        return Err(QuoteError::Header);
    }
    let quote = quote.get(..info.total_len()).unwrap_or(quote);
    let mut at = HEADER_LEN;
    for _ in 0..MAX_EXTENSIONS {
        if !walk::is_extension(info.upper.protocol) || info.is_later_fragment() {
            break;
        }
        let &[next, len, word @ .., id0, id1, id2, id3] =
            bytes::array_at::<8>(quote, at).ok_or(QuoteError::Truncated)?;
        if info.upper.protocol == next_header::FRAGMENT {
            let word = u16::from_be_bytes(word);
            info.upper.fragment = Some(Fragment {
                id: u32::from_be_bytes([id0, id1, id2, id3]),
                offset: word & !7,
                len: info.total_len().saturating_sub(at + 8) as u16,
                more: word & 1 != 0,
            });
            at += 8;
        } else {
            at += (usize::from(len) + 1) * 8;
        }
        info.upper.protocol = next;
    }
    // The extensions that are walked end before byte 40 + 8 * 2048.
    info.upper.offset = at as u16;
    Ok(info)
}
