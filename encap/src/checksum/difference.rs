//! What changed words make of a checksum, all of them taken together.

/// The difference between the old and the new words of something summed (RFC 1624 equation 3): the sum of `!old + new`,
/// not yet folded.
///
/// Taken once, it serves every checksum that covers the words: an IPv4 header's and its upper layer's.
/// A wrong checksum stays wrong by as much as it was. Room for 2^31 words of 32 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Difference(u64);

impl Difference {
    /// Nothing changed.
    pub const NONE: Self = Self(0);

    /// One word changed, given in host order.
    #[inline(always)]
    #[must_use]
    pub const fn u16(self, old: u16, new: u16) -> Self {
        Self(self.0 + !old as u64 + new as u64)
    }

    /// Two words changed, given as one number in host order.
    #[inline(always)]
    #[must_use]
    pub const fn u32(self, old: u32, new: u32) -> Self {
        Self(self.0 + !old as u64 + new as u64)
    }

    /// Eight words changed, given as one number in host order (an IPv6 address).
    #[inline(always)]
    #[must_use]
    pub const fn u128(self, old: u128, new: u128) -> Self {
        let old = !old;
        // Four words at a time. What is carried out of them comes in again when they are cut up, which leaves room for more; nothing
        // is left only of nothing.
        let sum = (old >> 64) + (old as u64) as u128 + (new >> 64) + (new as u64) as u128;
        let (high, low) = ((sum >> 32) as u32, sum as u32);
        Self(self.0 + high as u64 + low as u64 + (sum >> 64) as u64)
    }

    /// The checksum (host order) of the new words, from that of the old ones.
    ///
    /// Never 0xffff unless checksum, words and change were all zero-like, so a right checksum stays exactly what a full
    /// computation gives.
    #[inline(always)]
    #[must_use]
    pub const fn apply(self, checksum: u16) -> u16 {
        let sum = self.0 + !checksum as u64;
        // The high half onto the low one, and what that carries; then the same with halves of those.
        let (sum, carry) = (sum as u32).overflowing_add((sum >> 32) as u32);
        let sum = sum.wrapping_add(carry as u32);
        let sum = sum.wrapping_add(sum.rotate_left(16)) >> 16;
        !(sum as u16)
    }
}
