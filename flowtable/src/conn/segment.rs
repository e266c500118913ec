//! What the tracker wants to know of a TCP segment.

use core::ops::{BitOr, Range};

/// The flags of a TCP header (RFC 9293 section 3.1), one byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Push what is buffered.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement number counts.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer counts.
    pub const URG: Self = Self(0x20);

    /// The flags that have a say in a connection's state.
    const CONTROL: u8 = Self::FIN.0 | Self::SYN.0 | Self::RST.0 | Self::ACK.0;

    /// Whether all of `flags` are set.
    #[inline(always)]
    #[must_use]
    pub const fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// Whether this is an acknowledgement without SYN, FIN or RST; PSH, URG, ECE and CWR do not matter.
    #[inline(always)]
    #[must_use]
    pub const fn is_plain_ack(self) -> bool {
        self.0 & Self::CONTROL == Self::ACK.0
    }

    /// Whether an endpoint sends such a combination: no null, no "Christmas tree", no SYN with FIN or RST,
    /// no FIN without ACK. The combinations that `nf_conntrack` lets through; PSH, ECE and CWR do not matter.
    #[must_use]
    pub const fn are_valid(self) -> bool {
        const URG: u8 = Flags::URG.0;
        const VALID: [u8; 9] = [
            Flags::SYN.0,
            Flags::SYN.0 | URG,
            Flags::SYN.0 | Flags::ACK.0,
            Flags::RST.0,
            Flags::RST.0 | Flags::ACK.0,
            Flags::FIN.0 | Flags::ACK.0,
            Flags::FIN.0 | Flags::ACK.0 | URG,
            Flags::ACK.0,
            Flags::ACK.0 | URG,
        ];
        let judged = self.0 & (Self::CONTROL | URG);
        let mut at = 0;
        while at < VALID.len() {
            if VALID[at] == judged {
                return true;
            }
            at += 1;
        }
        false
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, rhs: Self) -> Self {
        Self(self.0 | rhs.0)
    }
}

/// A TCP segment's facts, in host byte order (RFC 9293 section 3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The flags.
    pub flags: Flags,
    /// Sequence number of the first byte, or of the SYN.
    pub seq: u32,
    /// Acknowledgement number; means nothing without [`Flags::ACK`].
    pub ack: u32,
    /// The window as it stands in the header, not scaled.
    pub window: u16,
    /// Bytes of payload.
    pub payload_len: u32,
    /// Shift of the window scale option (RFC 7323 section 2), at most 14. Read on a SYN only, where it counts.
    pub window_scale: Option<u8>,
}

impl Segment {
    /// Bytes of a header without options.
    const HEADER_LEN: usize = 20;

    /// Reads the header at the start of `l4`.
    ///
    /// `l4_len` is the length of the TCP segment by its IP header: `l4` may be longer (a frame's padding) or, when
    /// payload was cut off, shorter. `None` when the header is cut or its data offset is impossible: such a
    /// segment is invalid.
    #[inline]
    #[must_use]
    pub fn read(l4: &[u8], l4_len: usize) -> Option<Self> {
        let header: &[u8; Self::HEADER_LEN] = l4.first_chunk()?;
        let header_len = usize::from(header[12] >> 4) * 4;
        if header_len < Self::HEADER_LEN || header_len > l4_len || header_len > l4.len() {
            return None;
        }
        let flags = Flags(header[13]);
        Some(Self {
            flags,
            seq: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            ack: u32::from_be_bytes([header[8], header[9], header[10], header[11]]),
            window: u16::from_be_bytes([header[14], header[15]]),
            payload_len: (l4_len - header_len) as u32,
            window_scale: if flags.has(Flags::SYN) {
                window_scale(&l4[Self::HEADER_LEN..header_len])
            } else {
                None
            },
        })
    }

    /// [`Segment::read`] of the segment at `at` in `bytes`, if it is a [plain acknowledgement](Flags::is_plain_ack), as nearly all are;
    /// `None` for others. The end of it is taken as given.
    #[inline(always)]
    #[must_use]
    pub fn read_plain(bytes: &[u8], at: Range<usize>) -> Option<Self> {
        let header: &[u8; Self::HEADER_LEN] = bytes
            .get(at.start..at.start + Self::HEADER_LEN)?
            .first_chunk()?;
        let header_len = usize::from(header[12] >> 4) * 4;
        let payload_len = at.end.checked_sub(at.start + header_len)?;
        let flags = Flags(header[13]);
        if header_len < Self::HEADER_LEN || !flags.is_plain_ack() {
            return None;
        }
        Some(Self {
            flags,
            seq: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            ack: u32::from_be_bytes([header[8], header[9], header[10], header[11]]),
            window: u16::from_be_bytes([header[14], header[15]]),
            payload_len: payload_len as u32,
            window_scale: None,
        })
    }

    /// The sequence number after this segment: SYN and FIN count one each.
    #[inline(always)]
    #[must_use]
    pub const fn end(&self) -> u32 {
        let controls = (self.flags.0 & Flags::FIN.0) + ((self.flags.0 & Flags::SYN.0) >> 1);
        self.seq
            .wrapping_add(self.payload_len)
            .wrapping_add(controls as u32)
    }
}

/// The shift of the window scale option, if there is one and the options before it are sound.
#[cold]
fn window_scale(mut options: &[u8]) -> Option<u8> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const WINDOW_SCALE: u8 = 3;
    // RFC 7323 section 2.3: a larger shift is taken for 14.
    const MAX_SHIFT: u8 = 14;
    loop {
        match options {
            [] | [END, ..] => return None,
            [NO_OPERATION, rest @ ..] => options = rest,
            [WINDOW_SCALE, 3, shift, ..] => return Some((*shift).min(MAX_SHIFT)),
            [_, len, ..] if *len >= 2 => options = options.get(usize::from(*len)..)?,
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests;
