//! IPv4 options: walked to refuse bad lengths and source routes; all others are forwarded as they came
//! (RFC 1812 sections 4.2.2.6 and 5.3.13).

use super::Ipv4Error;

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const LOOSE_SOURCE_ROUTE: u8 = 131;
const STRICT_SOURCE_ROUTE: u8 = 137;

/// An option, and what follows it.
type OptionAndRest<'a> = (&'a [u8], &'a [u8]);

/// Splits the first option off. None at the end of the list.
fn split(options: &[u8]) -> Result<Option<OptionAndRest<'_>>, Ipv4Error> {
    let len = match options {
        [] | [END, ..] => return Ok(None),
        [NO_OPERATION, ..] => 1,
        // An option counts its type and length bytes too.
        [_, len, ..] if *len >= 2 => usize::from(*len),
        _ => return Err(Ipv4Error::BadOption),
    };
    options
        .split_at_checked(len)
        .map(Some)
        .ok_or(Ipv4Error::BadOption)
}

/// Walks the options. At most 40 bytes, each step takes at least one: bounded.
pub(super) fn check(mut options: &[u8]) -> Result<(), Ipv4Error> {
    while let Some((option, rest)) = split(options)? {
        if let [LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE, ..] = option {
            return Err(Ipv4Error::SourceRoute);
        }
        options = rest;
    }
    Ok(())
}

/// The option goes into every fragment (RFC 791 section 3.1).
const COPIED: u8 = 0x80;

/// The options that every fragment carries, padded with "end" to whole words, and their length in bytes.
pub(crate) fn kept_in_fragments(mut options: &[u8]) -> ([u8; 40], usize) {
    let mut kept = [END; 40];
    let mut len = 0;
    while let Ok(Some((option, rest))) = split(options) {
        if option.first().is_some_and(|kind| kind & COPIED != 0)
            && let Some(room) = kept.get_mut(len..len + option.len())
        {
            room.copy_from_slice(option);
            len += option.len();
        }
        options = rest;
    }
    (kept, len.next_multiple_of(4))
}
