//! What the two families differ in.

use std::ops::{BitAnd, BitOr};

use super::matcher::Matcher;
use super::segment::Segment;
use super::sets::{FamilyTables, Tables};
use super::{Family, Net};

/// An address in host byte order: `u32` for IPv4, `u128` for IPv6. There are no others.
pub trait Address: sealed::Sealed {}

impl Address for u32 {}
impl Address for u128 {}

pub(super) mod sealed {
    use super::{BitAnd, BitOr, Family, FamilyTables, Net, Tables};
    use crate::acl::matcher::Matcher;
    use crate::acl::segment::Segment;
    use crate::acl::sets::TableKey;
    use crate::acl::tree::Node;

    pub trait Sealed:
        Node + Default + std::fmt::Debug + BitAnd<Output = Self> + BitOr<Output = Self>
    {
        /// The address as a key.
        type Host: TableKey;
        /// The address and one word more as a key.
        type Long: TableKey;
        const FAMILY: Family;
        const BITS: u8;
        /// The protocol number of the family's ICMP.
        const ICMP: u8;

        fn host(self) -> Self::Host;
        fn long(self, more: u32) -> Self::Long;
        fn of_host(key: Self::Host) -> Self;
        fn of_long(key: Self::Long) -> (Self, u32);
        /// The bits that the first `len` bits select.
        fn mask(len: u8) -> Self;
        /// First address, last address and length of a prefix of this family.
        fn of_net(net: Net) -> Option<(Self, Self, u8)>;
        fn tables(all: &Tables) -> &FamilyTables<Self>;
        fn matcher(segment: &Segment) -> &Matcher<Self>
        where
            Self: super::Address;
    }
}

impl sealed::Sealed for u32 {
    type Host = [u32; 1];
    type Long = [u32; 2];
    const FAMILY: Family = Family::V4;
    const BITS: u8 = 32;
    const ICMP: u8 = 1;

    #[inline(always)]
    fn host(self) -> [u32; 1] {
        [self]
    }

    #[inline(always)]
    fn long(self, more: u32) -> [u32; 2] {
        [self, more]
    }

    fn of_host([addr]: [u32; 1]) -> Self {
        addr
    }

    fn of_long([addr, more]: [u32; 2]) -> (Self, u32) {
        (addr, more)
    }

    #[inline(always)]
    fn mask(len: u8) -> Self {
        Self::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)
    }

    fn of_net(net: Net) -> Option<(Self, Self, u8)> {
        match net {
            Net::V4(net) => Some((net.addr(), net.last(), net.len())),
            Net::V6(_) => None,
        }
    }

    #[inline(always)]
    fn tables(all: &Tables) -> &FamilyTables<Self> {
        &all.v4
    }

    #[inline(always)]
    fn matcher(segment: &Segment) -> &Matcher<Self> {
        &segment.v4
    }
}

impl sealed::Sealed for u128 {
    type Host = [u32; 4];
    type Long = [u32; 5];
    const FAMILY: Family = Family::V6;
    const BITS: u8 = 128;
    const ICMP: u8 = 58;

    #[inline(always)]
    fn host(self) -> [u32; 4] {
        [
            (self >> 96) as u32,
            (self >> 64) as u32,
            (self >> 32) as u32,
            self as u32,
        ]
    }

    #[inline(always)]
    fn long(self, more: u32) -> [u32; 5] {
        let [a, b, c, d] = self.host();
        [a, b, c, d, more]
    }

    fn of_host(key: [u32; 4]) -> Self {
        key.iter()
            .fold(0, |addr, &word| addr << 32 | Self::from(word))
    }

    fn of_long([a, b, c, d, more]: [u32; 5]) -> (Self, u32) {
        (Self::of_host([a, b, c, d]), more)
    }

    #[inline(always)]
    fn mask(len: u8) -> Self {
        Self::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
    }

    fn of_net(net: Net) -> Option<(Self, Self, u8)> {
        match net {
            Net::V4(_) => None,
            Net::V6(net) => Some((net.addr(), net.last(), net.len())),
        }
    }

    #[inline(always)]
    fn tables(all: &Tables) -> &FamilyTables<Self> {
        &all.v6
    }

    #[inline(always)]
    fn matcher(segment: &Segment) -> &Matcher<Self> {
        &segment.v6
    }
}
