//! The walk over extension headers, away from the common case.

use super::{
    Fragment, HEADER_LEN, Ipv6Error, MAX_EXTENSION_BYTES, MAX_EXTENSIONS, Upper, next_header,
};
use crate::l4;

const PAD1: u8 = 0;
const JUMBO_PAYLOAD: u8 = 0xc2;

/// Whether the walk goes over a header of this number.
#[inline]
pub(super) const fn is_extension(number: u8) -> bool {
    matches!(
        number,
        next_header::HOP_BY_HOP
            | next_header::ROUTING
            | next_header::FRAGMENT
            | next_header::DESTINATION
    )
}

/// Walks from the first header, of number `next`, at the start of `payload`.
pub(super) fn upper(next: u8, payload: &[u8]) -> Result<Upper, Ipv6Error> {
    if next == next_header::HOP_BY_HOP && payload.is_empty() {
        return Err(Ipv6Error::Jumbogram);
    }
    let mut protocol = next;
    let mut rest = payload;
    let mut fragment = None;
    for number in 0..MAX_EXTENSIONS {
        if !is_extension(protocol) {
            break;
        }
        if protocol == next_header::HOP_BY_HOP && number != 0 {
            return Err(Ipv6Error::HopByHopMisplaced);
        }
        let &[behind, len, ..] = rest
            .first_chunk::<8>()
            .ok_or(Ipv6Error::ExtensionTruncated)?;
        let len = if protocol == next_header::FRAGMENT {
            8
        } else {
            (usize::from(len) + 1) * 8
        };
        let walked = payload.len() - rest.len();
        let (header, after) = rest
            .split_at_checked(len)
            .ok_or(Ipv6Error::ExtensionTruncated)?;
        if walked + len > MAX_EXTENSION_BYTES {
            break;
        }
        match protocol {
            next_header::HOP_BY_HOP | next_header::DESTINATION => check_options(header)?,
            // Type 0 by policy always, not only with segments left.
            next_header::ROUTING if matches!(header, [_, _, 0, ..]) => {
                return Err(Ipv6Error::RoutingType0);
            }
            next_header::FRAGMENT => {
                if fragment.is_some() {
                    return Err(Ipv6Error::NestedFragment);
                }
                fragment = Some(check_fragment(header, after)?);
            }
            _ => {}
        }
        protocol = behind;
        rest = after;
        if fragment.is_some_and(|f| f.is_later()) {
            // Fragment data, not a header: nothing more to be read.
            break;
        }
    }
    if fragment.is_some_and(|f| f.more && f.offset == 0) && !holds_chain(protocol, rest) {
        return Err(Ipv6Error::IncompleteChain);
    }
    Ok(Upper {
        protocol,
        offset: (HEADER_LEN + payload.len() - rest.len()) as u16,
        fragment,
    })
}

/// Walks the options of a hop-by-hop or destination header.
fn check_options(header: &[u8]) -> Result<(), Ipv6Error> {
    let mut options = header.get(2..).ok_or(Ipv6Error::BadOption)?;
    loop {
        let len = match options {
            [] => return Ok(()),
            [PAD1, ..] => 1,
            [JUMBO_PAYLOAD, ..] => return Err(Ipv6Error::Jumbogram),
            [_, len, ..] => usize::from(*len) + 2,
            [_] => return Err(Ipv6Error::BadOption),
        };
        options = options.get(len..).ok_or(Ipv6Error::BadOption)?;
    }
}

fn check_fragment(header: &[u8], data: &[u8]) -> Result<Fragment, Ipv6Error> {
    let Some(&[_, _, offset0, offset1, id @ ..]) = header.first_chunk::<8>() else {
        return Err(Ipv6Error::ExtensionTruncated);
    };
    let word = u16::from_be_bytes([offset0, offset1]);
    let fragment = Fragment {
        id: u32::from_be_bytes(id),
        offset: word & !7,
        len: data.len() as u16,
        more: word & 1 != 0,
    };
    if usize::from(fragment.offset) + data.len() > 65535 {
        return Err(Ipv6Error::FragmentOverflow);
    }
    if !fragment.is_atomic()
        && (data.is_empty() || (fragment.more && !data.len().is_multiple_of(8)))
    {
        return Err(Ipv6Error::FragmentLength);
    }
    Ok(fragment)
}

/// Whether a first fragment reaches to the end of the upper layer's header (RFC 7112 section 5).
fn holds_chain(protocol: u8, upper: &[u8]) -> bool {
    match protocol {
        l4::TCP => l4::tcp_header_len(upper).is_some(),
        _ if is_extension(protocol) => false,
        _ => upper.len() >= l4::min_header_len(protocol),
    }
}
