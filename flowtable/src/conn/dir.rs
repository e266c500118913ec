//! One direction of a connection, in one word.

use core::fmt;

use super::segment::Segment;

/// What one direction of a connection has shown: the packets of one sender, in 64 bits.
///
/// Only the poller that the direction's packets come to writes the word, with a relaxed store, and who is told of what the
/// kernel passed of it ([`catch_up`](super::catch_up)); everybody may read it. A word that is a few packets old misleads nobody for longer than that, and an all-zero word says that
/// no packet of the direction has counted yet. Words are handed from one process to the next: what they mean is part of that file's version.
///
/// ```text
///  63        49 48   45 44       40 39   32 31                             0
/// +------------+-------+-----------+-------+--------------------------------+
/// |    tail    | shift | exponent  | seen  |              ack               |
/// +------------+-------+-----------+-------+--------------------------------+
/// ```
///
/// - `ack`: TCP: the last acknowledgement that the sender sent; until it has acknowledged anything, the
///   sequence number after its SYN. SCTP: the verification tag that it chose.
/// - `seen`: what it has sent so far, a bit each: SYN, SYN with ACK, an acknowledgement, data, FIN, RST; whether
///   the connection is assured; whether it was picked up in the middle.
/// - `exponent`: TCP: the largest receive window that it announced, scaled, is smaller than two to this power.
/// - `shift`: TCP: the window scale that its SYN offered; 15 when none.
/// - `tail`: TCP: the low 15 bits of the sequence number after its last segment; once it has sent FIN, after the FIN.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Dir(u64);

/// One bit of `seen`, in a TCP connection's word. SCTP gives the bits [another meaning](super::sctp), other
/// protocols know [`Seen::DATA`] only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen(pub(super) u8);

impl Seen {
    /// It sent a SYN without ACK.
    pub(super) const SYN: Self = Self(0x01);
    /// It sent a SYN with ACK.
    pub(super) const SYN_ACK: Self = Self(0x02);
    /// It acknowledged the other side's SYN, or anything of a connection that was picked up.
    pub(super) const ACKED: Self = Self(0x04);
    /// It sent data (TCP: data that came before both sides had acknowledged).
    pub(super) const DATA: Self = Self(0x08);
    /// It sent FIN.
    pub(super) const FIN: Self = Self(0x10);
    /// It sent RST.
    pub(super) const RST: Self = Self(0x20);
    /// Both sides have acknowledged: the quick path does without the other word.
    pub(super) const ASSURED: Self = Self(0x40);
    /// Its SYN was not seen, and so neither was its window scale.
    pub(super) const PICKED_UP: Self = Self(0x80);
}

/// How far an acknowledgement may jump when the window scale is not known: as far as any window goes (RFC 7323
/// section 2.3).
const WIDEST_WINDOW: u32 = 1 << 30;

/// The stored shift of a sender that offered no window scale.
const NO_SHIFT: u8 = 15;

const SEEN_AT: u32 = 32;
const EXPONENT_AT: u32 = 40;
const SHIFT_AT: u32 = 45;
const TAIL_AT: u32 = 49;

const EXPONENT_MASK: u8 = 0x1f;
const SHIFT_MASK: u8 = 0x0f;
/// The bits of a sequence number that `tail` keeps.
const TAIL_MASK: u16 = 0x7fff;

impl Dir {
    /// The word of a direction that no packet has counted for yet.
    pub const EMPTY: Self = Self(0);

    /// The word as it stands in the table. Any bits do: none makes a function here panic.
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The word for the table.
    #[inline(always)]
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// Whether no packet of this direction has counted yet.
    #[inline(always)]
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.seen_bits() == 0
    }

    /// A datagram was sent: all that protocols without a handshake remember.
    pub(super) const fn datagram() -> Self {
        Self((Seen::DATA.0 as u64) << SEEN_AT)
    }

    /// A TCP segment was sent, the first that counts: `ack` as given, the rest from the segment.
    pub(super) fn from_segment(ack: u32, seen: Seen, segment: &Segment) -> Self {
        Self(u64::from(ack))
            .with(seen)
            .with_shift(segment.window_scale)
            .with_window(u32::from(segment.window))
            .with_tail(segment.end())
    }

    #[inline(always)]
    pub(super) const fn seen_bits(self) -> u8 {
        (self.0 >> SEEN_AT) as u8
    }

    /// Whether this bit is set.
    #[inline(always)]
    pub(super) const fn has(self, seen: Seen) -> bool {
        self.seen_bits() & seen.0 == seen.0
    }

    /// The word with this bit set.
    #[inline(always)]
    pub(super) const fn with(self, seen: Seen) -> Self {
        Self(self.0 | (seen.0 as u64) << SEEN_AT)
    }

    /// See the type.
    #[inline(always)]
    pub(super) const fn ack(self) -> u32 {
        self.0 as u32
    }

    /// The largest receive window that the sender announced, rounded up to a power of two; more than the window by one at
    /// least. The largest, as in RFC 5961 section 5: what was announced once may be used later, whatever order
    /// announcements are seen in.
    #[inline(always)]
    pub(super) const fn window(self) -> u32 {
        1 << ((self.0 >> EXPONENT_AT) as u8 & EXPONENT_MASK)
    }

    /// How far the sender's next acknowledgement may lie beyond its last: no further than its window let the
    /// other side send. A connection that was picked up has a window of unknown scale, so as far as any goes.
    #[inline(always)]
    pub(super) const fn reach(self) -> u32 {
        if self.has(Seen::PICKED_UP) {
            WIDEST_WINDOW
        } else {
            self.window()
        }
    }

    /// The shift that its SYN offered, if any.
    pub(super) const fn offers_scale(self) -> bool {
        self.shift_bits() != NO_SHIFT
    }

    /// The word without window scaling, because the other side offered none (RFC 7323 section 2.2).
    pub(super) fn without_scale(self) -> Self {
        self.with_shift(None)
    }

    /// Whether `seq` is where the sender's last segment ended, as far as the kept bits tell.
    #[inline(always)]
    pub(super) const fn is_tail(self, seq: u32) -> bool {
        (self.0 >> TAIL_AT) as u16 == seq as u16 & TAIL_MASK
    }

    /// The word with another `ack`.
    #[inline(always)]
    pub(super) const fn with_ack(self, ack: u32) -> Self {
        Self(self.0 & !0xffff_ffff | ack as u64)
    }

    /// The word with this end of the last segment.
    #[inline(always)]
    pub(super) const fn with_tail(self, end: u32) -> Self {
        let rest = self.0 & ((1 << TAIL_AT) - 1);
        Self(rest | ((end as u16 & TAIL_MASK) as u64) << TAIL_AT)
    }

    /// The word with the tail of another.
    pub(super) const fn with_tail_of(self, other: Self) -> Self {
        let rest = (1 << TAIL_AT) - 1;
        Self(self.0 & rest | other.0 & !rest)
    }

    /// Notes the acknowledgement, the window and the end of a segment with ACK and without SYN, if the acknowledgement
    /// is one that the sender may have sent: not older than the last, and
    /// no further than its largest window, all that the other side may have sent by then.
    ///
    /// Anything else is old, or not from the sender, and leaves the word as it is. So who cannot see the connection
    /// has to guess the acknowledgement before anything that it sends is believed (RFC 5961 section 5).
    #[inline(always)]
    #[must_use]
    pub fn note(self, segment: &Segment) -> Self {
        let ahead = segment.ack.wrapping_sub(self.ack());
        // Nearly all are within the window, and no window is larger than what may be reached.
        if ahead > self.window() && ahead > self.reach() {
            return self;
        }
        self.with_scaled_window(segment.window)
            .with_ack(segment.ack)
            .with_tail(segment.end())
    }

    /// The word with this window of a header if it is the largest so far.
    #[inline(always)]
    pub(super) fn with_scaled_window(self, window: u16) -> Self {
        let shift = self.shift_bits();
        let shift = if shift == NO_SHIFT { 0 } else { shift };
        let window = u32::from(window) << shift;
        // Few are larger than those before.
        if window < self.window() {
            self
        } else {
            self.with_window(window)
        }
    }

    #[inline(always)]
    const fn shift_bits(self) -> u8 {
        (self.0 >> SHIFT_AT) as u8 & SHIFT_MASK
    }

    fn with_shift(self, shift: Option<u8>) -> Self {
        let shift = shift.unwrap_or(NO_SHIFT) & SHIFT_MASK;
        let mask = u64::from(SHIFT_MASK) << SHIFT_AT;
        Self(self.0 & !mask | u64::from(shift) << SHIFT_AT)
    }

    /// The word with this window if it is the largest so far.
    #[inline(always)]
    fn with_window(self, window: u32) -> Self {
        let mask = u64::from(EXPONENT_MASK) << EXPONENT_AT;
        // 65,535 << 14 has 30 bits, so the power fits.
        let exponent = u64::from(u32::BITS - window.leading_zeros()) << EXPONENT_AT;
        Self(self.0 & !mask | exponent.max(self.0 & mask))
    }
}

impl fmt::Debug for Dir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dir")
            .field("ack", &self.ack())
            .field("seen", &format_args!("{:#010b}", self.seen_bits()))
            .field("window", &self.window())
            .field("shift", &self.shift_bits())
            .field("tail", &(self.0 >> TAIL_AT))
            .finish()
    }
}

#[cfg(test)]
mod tests;
