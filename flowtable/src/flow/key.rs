//! Keys: the five-tuple of a direction, and how it and its action fit an entry's words.

use core::fmt::Debug;

use super::action::{Action, TAIL_BITS, next_hop};
use super::entry::{EntryLines, EntryWords};
use super::hash::Blocks;
use super::memory::Line;
use crate::lpm::NextHopId;

/// What an IPv4 packet is looked up by. Addresses and ports in host byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Key4 {
    /// The source address.
    pub src: u32,
    /// The destination address.
    pub dst: u32,
    /// The source port; the identifier of an ICMP echo.
    pub sport: u16,
    /// The destination port; the identifier of an ICMP echo.
    pub dport: u16,
    /// The protocol.
    pub protocol: u8,
}

/// What an IPv6 packet is looked up by. Addresses and ports in host byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Key6 {
    /// The source address.
    pub src: u128,
    /// The destination address.
    pub dst: u128,
    /// The source port; the identifier of an ICMPv6 echo.
    pub sport: u16,
    /// The destination port; the identifier of an ICMPv6 echo.
    pub dport: u16,
    /// The protocol behind the extension headers.
    pub protocol: u8,
}

/// A key of a [`super::FlowTable`]: [`Key4`] or [`Key6`]. Its `Addr` is an address, `u32` or `u128`.
pub trait FlowKey: Layout + Eq + Debug + Send + Sync {
    /// The same five-tuple seen from the other end.
    #[must_use]
    fn reversed(self) -> Self;
}

/// How a key and an action are laid out in words. For the table only.
pub trait Layout: Copy {
    /// An address of the family.
    type Addr: Copy + Eq + Debug + Default + Send + Sync;
    /// The key as the blocks that are hashed.
    type Blocks: Blocks;
    /// The words of an entry that its version protects.
    type Words: EntryWords;
    /// The cache lines of an entry.
    type Lines: EntryLines;

    fn blocks(self) -> Self::Blocks;
    fn words(self, action: &Action<Self::Addr>) -> Self::Words;
    /// Zero if `words` are of the key with these `blocks`.
    fn difference(words: &Self::Words, blocks: &Self::Blocks) -> u64;
    fn key(words: &Self::Words) -> Self;
    /// The words of its action but for the new address: beside the key's last, the decision, the way.
    fn action_words(words: &Self::Words) -> [u64; 3];
    fn action(words: &Self::Words) -> Action<Self::Addr>;
    /// The next hop that an entry names, whoever's it is.
    fn next_hop(lines: &Self::Lines) -> NextHopId;
}

impl FlowKey for Key4 {
    #[inline]
    fn reversed(self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            sport: self.dport,
            dport: self.sport,
            protocol: self.protocol,
        }
    }
}

impl FlowKey for Key6 {
    #[inline]
    fn reversed(self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            sport: self.dport,
            dport: self.sport,
            protocol: self.protocol,
        }
    }
}

/// Ports and protocol, and the length in bytes of the key where SipHash wants it: in its last block.
#[inline(always)]
const fn tail(sport: u16, dport: u16, protocol: u8, len: u64) -> u64 {
    sport as u64 | (dport as u64) << 16 | (protocol as u64) << 32 | len << 56
}

/// Zero if two tails are of the same ports and protocol, whatever is above them.
#[inline(always)]
const fn tail_difference(a: u64, b: u64) -> u64 {
    (a ^ b) << (64 - TAIL_BITS)
}

const TAIL_MASK: u64 = (1 << TAIL_BITS) - 1;

/// Words: addresses; ports, protocol, flags, origin; generation, rule, reason; new address, new port, next hop.
impl Layout for Key4 {
    type Addr = u32;
    type Blocks = [u64; 2];
    type Words = [u64; 4];
    type Lines = [Line; 1];

    #[inline(always)]
    fn blocks(self) -> [u64; 2] {
        let addresses = self.src as u64 | (self.dst as u64) << 32;
        [addresses, tail(self.sport, self.dport, self.protocol, 13)]
    }

    #[inline(always)]
    fn words(self, action: &Action<u32>) -> [u64; 4] {
        let [addresses, tail] = self.blocks();
        [
            addresses,
            tail & TAIL_MASK | action.beside_key(),
            action.decision(),
            action.way() | action.nat_addr as u64,
        ]
    }

    #[inline(always)]
    fn difference(words: &[u64; 4], blocks: &[u64; 2]) -> u64 {
        (words[0] ^ blocks[0]) | tail_difference(words[1], blocks[1])
    }

    #[inline(always)]
    fn key(words: &[u64; 4]) -> Self {
        Self {
            src: words[0] as u32,
            dst: (words[0] >> 32) as u32,
            sport: words[1] as u16,
            dport: (words[1] >> 16) as u16,
            protocol: (words[1] >> 32) as u8,
        }
    }

    #[inline(always)]
    fn action_words(words: &[u64; 4]) -> [u64; 3] {
        [words[1], words[2], words[3]]
    }

    #[inline(always)]
    fn action(words: &[u64; 4]) -> Action<u32> {
        Action::decode(Self::action_words(words), words[3] as u32)
    }

    #[inline(always)]
    fn next_hop(lines: &Self::Lines) -> NextHopId {
        next_hop(<[u64; 4]>::word(lines, 3))
    }
}

/// Words: source, destination, low half first; then as in IPv4, but the new address in two words of its own.
impl Layout for Key6 {
    type Addr = u128;
    type Blocks = [u64; 5];
    type Words = [u64; 9];
    type Lines = [Line; 2];

    #[inline(always)]
    fn blocks(self) -> [u64; 5] {
        [
            self.src as u64,
            (self.src >> 64) as u64,
            self.dst as u64,
            (self.dst >> 64) as u64,
            tail(self.sport, self.dport, self.protocol, 37),
        ]
    }

    #[inline(always)]
    fn words(self, action: &Action<u128>) -> [u64; 9] {
        let [src_low, src_high, dst_low, dst_high, tail] = self.blocks();
        [
            src_low,
            src_high,
            dst_low,
            dst_high,
            tail & TAIL_MASK | action.beside_key(),
            action.decision(),
            action.way(),
            action.nat_addr as u64,
            (action.nat_addr >> 64) as u64,
        ]
    }

    #[inline(always)]
    fn difference(words: &[u64; 9], blocks: &[u64; 5]) -> u64 {
        (words[0] ^ blocks[0])
            | (words[1] ^ blocks[1])
            | (words[2] ^ blocks[2])
            | (words[3] ^ blocks[3])
            | tail_difference(words[4], blocks[4])
    }

    #[inline(always)]
    fn key(words: &[u64; 9]) -> Self {
        Self {
            src: wide(words[0], words[1]),
            dst: wide(words[2], words[3]),
            sport: words[4] as u16,
            dport: (words[4] >> 16) as u16,
            protocol: (words[4] >> 32) as u8,
        }
    }

    #[inline(always)]
    fn action_words(words: &[u64; 9]) -> [u64; 3] {
        [words[4], words[5], words[6]]
    }

    #[inline(always)]
    fn action(words: &[u64; 9]) -> Action<u128> {
        Action::decode(Self::action_words(words), wide(words[7], words[8]))
    }

    #[inline(always)]
    fn next_hop(lines: &Self::Lines) -> NextHopId {
        next_hop(<[u64; 9]>::word(lines, 6))
    }
}

#[inline(always)]
const fn wide(low: u64, high: u64) -> u128 {
    low as u128 | (high as u128) << 64
}
