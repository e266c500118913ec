//! IPv4 fragmentation (RFC 791 section 3.2): a plan of headers and payload ranges, so that the caller copies each byte once.

use core::fmt;
use core::ops::Range;

use crate::checksum;
use crate::ipv4::{self, Ipv4Info, MAX_HEADER_LEN, MIN_HEADER_LEN, MORE_FRAGMENTS, OFFSET_MASK};

#[cfg(test)]
mod tests;

/// Why a packet cannot be fragmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FragmentError {
    /// The packet says "don't fragment": answer with "fragmentation needed".
    DontFragment,
    /// The MTU has no room for the header and 8 bytes of payload.
    MtuTooSmall,
    /// Fewer bytes than the header says.
    Truncated,
}

impl fmt::Display for FragmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DontFragment => "packet too long and not to be fragmented",
            Self::MtuTooSmall => "MTU too small for a fragment",
            Self::Truncated => "packet shorter than it says",
        })
    }
}

impl core::error::Error for FragmentError {}

/// One fragment: its header, and which bytes of the original packet follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    header: [u8; MAX_HEADER_LEN],
    header_len: u8,
    payload: (u16, u16),
}

impl Fragment {
    /// The fragment's IPv4 header, complete.
    #[must_use]
    pub fn header(&self) -> &[u8] {
        self.header
            .get(..usize::from(self.header_len))
            .unwrap_or_default()
    }

    /// Where its payload lies, counted from the start of the original packet's IPv4 header, in bytes.
    #[must_use]
    pub fn payload(&self) -> Range<usize> {
        usize::from(self.payload.0)..usize::from(self.payload.1)
    }

    /// Header and payload, in bytes.
    #[expect(
        clippy::len_without_is_empty,
        reason = "never empty: there is a header"
    )]
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.header_len) + self.payload().len()
    }
}

/// The fragments of one packet, first to last.
#[derive(Clone, Debug)]
pub struct Fragments<'a> {
    original: &'a [u8],
    ip: Ipv4Info,
    mtu: u16,
    /// Header of the fragments behind the first one: only the options that are copied.
    later_header: [u8; MAX_HEADER_LEN],
    later_header_len: u8,
    /// Where the next fragment's payload starts in `original`.
    next: u16,
}

/// Plans the fragments of `l3`, the packet that `ip` was parsed from, for a link of `mtu` bytes.
///
/// A packet that fits comes out as one fragment, itself. A fragment is fragmented further.
///
/// # Errors
///
/// See [`FragmentError`].
pub fn plan<'a>(l3: &'a [u8], ip: &Ipv4Info, mtu: u16) -> Result<Fragments<'a>, FragmentError> {
    let original = l3
        .get(..usize::from(ip.total_len))
        .ok_or(FragmentError::Truncated)?;
    if ip.total_len > mtu {
        if ip.dont_fragment() {
            return Err(FragmentError::DontFragment);
        }
        if mtu < u16::from(ip.header_len()) + 8 {
            return Err(FragmentError::MtuTooSmall);
        }
    }
    let header = original
        .get(..usize::from(ip.header_len()))
        .ok_or(FragmentError::Truncated)?;
    let (fixed, options) = header
        .split_first_chunk::<MIN_HEADER_LEN>()
        .ok_or(FragmentError::Truncated)?;
    let (kept, kept_len) = ipv4::options_kept_in_fragments(options);
    let mut later_header = [0; MAX_HEADER_LEN];
    for (to, from) in later_header.iter_mut().zip(fixed.iter().chain(&kept)) {
        *to = *from;
    }
    let later_header_len = (MIN_HEADER_LEN + kept_len) as u8;
    Ok(Fragments {
        original,
        ip: *ip,
        mtu,
        later_header,
        later_header_len,
        next: u16::from(ip.header_len()),
    })
}

impl Iterator for Fragments<'_> {
    type Item = Fragment;

    fn next(&mut self) -> Option<Fragment> {
        let first = self.next == u16::from(self.ip.header_len());
        if self.next >= self.ip.total_len && !(first && self.ip.payload_len() == 0) {
            return None;
        }
        let (mut header, header_len) = if first {
            let mut header = [0; MAX_HEADER_LEN];
            for (to, from) in header
                .iter_mut()
                .zip(self.original.get(..usize::from(self.ip.header_len()))?)
            {
                *to = *from;
            }
            (header, self.ip.header_len())
        } else {
            (self.later_header, self.later_header_len)
        };

        let left = self.ip.total_len - self.next;
        let room = self.mtu.saturating_sub(u16::from(header_len));
        let last = left <= room;
        let len = if last { left } else { room & !7 };
        let start = self.next;
        // An empty packet has one fragment; none follows it.
        self.next = if left == 0 {
            self.ip.total_len.saturating_add(1)
        } else {
            start + len
        };

        let offset = self.ip.flags_and_offset + ((start - u16::from(self.ip.header_len())) >> 3);
        let more = if last {
            self.ip.flags_and_offset & MORE_FRAGMENTS
        } else {
            MORE_FRAGMENTS
        };
        let flags_and_offset = (self.ip.flags_and_offset & !(MORE_FRAGMENTS | OFFSET_MASK))
            | (offset & OFFSET_MASK)
            | more;
        patch(
            &mut header,
            header_len,
            u16::from(header_len) + len,
            flags_and_offset,
        )?;
        Some(Fragment {
            header,
            header_len,
            payload: (start, start + len),
        })
    }
}

/// Fills what differs between fragments, and the checksum.
fn patch(
    header: &mut [u8; MAX_HEADER_LEN],
    header_len: u8,
    total_len: u16,
    flags_and_offset: u16,
) -> Option<()> {
    let [
        version_ihl,
        _,
        len0,
        len1,
        _,
        _,
        frag0,
        frag1,
        _,
        _,
        check0,
        check1,
        ..,
    ] = header;
    *version_ihl = 0x40 | (header_len >> 2);
    [*len0, *len1] = total_len.to_be_bytes();
    [*frag0, *frag1] = flags_and_offset.to_be_bytes();
    [*check0, *check1] = [0, 0];
    let checksum = checksum::of(header.get(..usize::from(header_len))?);
    crate::bytes::put_u16(header, 10, checksum).then_some(())
}
