//! The Internet checksum: full (RFC 1071), incremental (RFC 1624), and completing the partial checksums of a pod's stack.

mod crc32c;
mod difference;
mod partial;
#[cfg(test)]
mod tests;

use crate::{bytes, l4};

pub use crc32c::crc32c;
pub use difference::Difference;
pub use partial::{Completed, complete_partial_v4, complete_partial_v6};

/// A one's complement sum of 16-bit words, not yet folded.
///
/// Holds the words in the machine's own byte order, because RFC 1071 section 2(B) allows to sum in either order
/// and to swap once at the end.
/// Room for 2^32 words of 32 bits: no packet overflows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);

    /// The sum of `bytes`; an odd last byte counts as if a zero byte followed it.
    #[inline]
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::ZERO.add_bytes(bytes)
    }

    /// Adds `bytes`, which must begin at an even offset of the data summed.
    #[inline]
    #[must_use]
    pub fn add_bytes(self, bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<4>();
        let mut sum = self.0;
        for word in words {
            sum += u64::from(u32::from_ne_bytes(*word));
        }
        let mut tail = [0; 4];
        for (to, from) in tail.iter_mut().zip(rest) {
            *to = *from;
        }
        Self(sum + u64::from(u32::from_ne_bytes(tail)))
    }

    /// Adds the 20 bytes of an IPv4 header without options: five additions.
    #[inline]
    #[must_use]
    pub fn add_ipv4_header(self, header: &[u8; 20]) -> Self {
        let (words, _) = header.as_chunks::<4>();
        Self(words.iter().fold(self.0, |sum, word| {
            sum + u64::from(u32::from_ne_bytes(*word))
        }))
    }

    /// Adds one word, given in host order.
    #[inline]
    #[must_use]
    pub const fn add_u16(self, word: u16) -> Self {
        Self(self.0 + word.to_be() as u64)
    }

    /// Adds two words, given as one number in host order.
    #[inline]
    #[must_use]
    pub const fn add_u32(self, words: u32) -> Self {
        Self(self.0 + words.to_be() as u64)
    }

    /// Adds eight words, given as one number in host order (an IPv6 address).
    #[inline]
    #[must_use]
    pub const fn add_u128(self, words: u128) -> Self {
        let words = words.to_be();
        Self(
            self.0
                + (words as u32) as u64
                + ((words >> 32) as u32) as u64
                + ((words >> 64) as u32) as u64
                + ((words >> 96) as u32) as u64,
        )
    }

    /// The pseudo-header of TCP and UDP over IPv4 (RFC 9293 section 3.1, RFC 768). Addresses in host order, length in bytes.
    #[inline]
    #[must_use]
    pub const fn pseudo_v4(src: u32, dst: u32, protocol: u8, l4_len: u16) -> Self {
        Self::ZERO
            .add_u32(src)
            .add_u32(dst)
            .add_u16(protocol as u16)
            .add_u16(l4_len)
    }

    /// The pseudo-header of upper layers over IPv6 (RFC 8200 section 8.1). Addresses in host order, length in bytes.
    #[inline]
    #[must_use]
    pub const fn pseudo_v6(src: u128, dst: u128, protocol: u8, l4_len: u32) -> Self {
        Self::ZERO
            .add_u128(src)
            .add_u128(dst)
            .add_u16(protocol as u16)
            .add_u32(l4_len)
    }

    /// The 16-bit one's complement sum, in host order. Zero only if everything summed was zero.
    #[inline]
    #[must_use]
    pub const fn fold(self) -> u16 {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        u16::from_be(sum as u16)
    }

    /// The checksum: the complement of the folded sum, in host order.
    #[inline]
    #[must_use]
    pub const fn checksum(self) -> u16 {
        !self.fold()
    }

    /// Whether data that includes its own checksum sums up right.
    #[inline]
    #[must_use]
    pub const fn is_valid(self) -> bool {
        // Folding keeps the remainder by 0xffff, in either byte order, and makes 0xffff of all multiples but zero.
        self.0 != 0 && is_zero(self.0)
    }

    /// Whether it folds to `word`, given in host order: the same as `fold() == word`, without folding.
    #[inline]
    #[must_use]
    pub const fn folds_to(self, word: u16) -> bool {
        // Only a sum of nothing but zeros folds to zero.
        if word == 0 || self.0 == 0 {
            return word == 0 && self.0 == 0;
        }
        is_zero(self.0 + !word.to_be() as u64)
    }
}

/// Whether a sum of 16-bit words is zero in one's complement arithmetic: a multiple of 0xffff. The words may be added up
/// in either byte order, and two at a time (RFC 1071 section 2).
#[inline(always)]
#[must_use]
pub const fn is_zero(sum: u64) -> bool {
    /// 0xffff times this is 1, modulo 2^64: it takes the multiples, and nothing else, to the numbers up to `MULTIPLES`.
    const INVERSE: u64 = 0xfffe_fffe_fffe_ffff;
    const MULTIPLES: u64 = u64::MAX / 0xffff;
    sum.wrapping_mul(INVERSE) <= MULTIPLES
}

/// The checksum of `bytes` (RFC 1071), in host order.
#[inline]
#[must_use]
pub fn of(bytes: &[u8]) -> u16 {
    Sum::of(bytes).checksum()
}

/// A checksum after one word changed from `old` to `new` (RFC 1624 equation 3). All in host order.
///
/// Never 0xffff unless checksum, word and change were all zero-like, so a right checksum stays exactly what a full
/// computation gives.
#[inline]
#[must_use]
pub const fn update16(checksum: u16, old: u16, new: u16) -> u16 {
    let sum = !checksum as u32 + !old as u32 + new as u32;
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// A checksum after two words changed, given as numbers in host order (RFC 1624 equation 3).
#[inline]
#[must_use]
pub const fn update32(checksum: u16, old: u32, new: u32) -> u16 {
    let sum = !checksum as u64 + !old as u64 + new as u64;
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// A computed UDP checksum as it is sent: zero means "none", so zero goes out as 0xffff (RFC 768).
#[inline]
#[must_use]
pub const fn udp_on_wire(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// Whether the checksum of a whole TCP, UDP or similar segment over IPv4 is right. `l4` ends where the IP packet ends.
///
/// Knows nothing of UDP's zero for "none": ask for that before.
#[inline]
#[must_use]
pub fn verify_v4(src: u32, dst: u32, protocol: u8, l4: &[u8]) -> bool {
    let Ok(len) = u16::try_from(l4.len()) else {
        return false;
    };
    Sum::pseudo_v4(src, dst, protocol, len)
        .add_bytes(l4)
        .is_valid()
}

/// Whether the checksum of a whole TCP, UDP or ICMPv6 segment over IPv6 is right. `l4` ends where the IP packet ends.
#[inline]
#[must_use]
pub fn verify_v6(src: u128, dst: u128, protocol: u8, l4: &[u8]) -> bool {
    let Ok(len) = u32::try_from(l4.len()) else {
        return false;
    };
    Sum::pseudo_v6(src, dst, protocol, len)
        .add_bytes(l4)
        .is_valid()
}

/// Whether a UDP datagram over IPv4 may be received: a sane length, and a checksum that is right or zero for "none"
/// (RFC 768; RFC 7348 section 5 for tunnels). Bytes behind its length are ignored.
#[must_use]
pub fn verify_udp_v4(src: u32, dst: u32, datagram: &[u8]) -> bool {
    udp_parts(datagram)
        .is_some_and(|(sum, datagram)| sum == 0 || verify_v4(src, dst, l4::UDP, datagram))
}

/// Whether a UDP datagram over IPv6 may be received: a sane length and a right checksum. Zero for "none" is accepted only
/// if `zero_is_allowed`, which is for tunnels configured so (RFC 8200 section 8.1, RFC 6935).
#[must_use]
pub fn verify_udp_v6(src: u128, dst: u128, datagram: &[u8], zero_is_allowed: bool) -> bool {
    udp_parts(datagram).is_some_and(|(sum, datagram)| match sum {
        0 => zero_is_allowed,
        _ => verify_v6(src, dst, l4::UDP, datagram),
    })
}

/// The checksum field of a UDP datagram, and the datagram as long as it says; None if that is not sane.
fn udp_parts(datagram: &[u8]) -> Option<(u16, &[u8])> {
    let datagram = l4::udp_datagram(datagram)?;
    Some((bytes::u16_at(datagram, 6)?, datagram))
}
