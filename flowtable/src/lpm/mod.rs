//! Longest prefix match: from an address to the next hop of the most specific route that holds it.
//!
//! Two types a family. The *writer* ([`Rib4`], [`Rib6`]) belongs to the control plane: it knows every
//! route and changes them one by one. The *reader* ([`Lpm4`], [`Lpm6`]) is what a poller looks up in:
//! [`Rib4::snapshot`] hands one out by copying a pointer, and no later change of the writer shows in it.
//! A change copies the few pages or nodes that it touches and shares the rest with the snapshots.
//!
//! IPv4 is DIR-24-8: one load for most routes, two for those longer than /24. IPv6 is a trie of six bits
//! a level, path-compressed, one cache line a node, and hash tables of the nodes of one or two levels as short
//! cuts into it.

mod levels;
mod lpm4;
mod lpm6;
mod pages;
mod prefix;
mod rib4;
mod rib6;
mod tier;

pub use lpm4::Lpm4;
pub use lpm6::Lpm6;
pub use pages::{PageMemory, page_memory};
pub use prefix::{Prefix4, Prefix6, PrefixError};
pub use rib4::Rib4;
pub use rib6::Rib6;

/// Addresses that one pass of a batch lookup prefetches before it loads.
const BATCH: usize = 64;

/// The number of a next hop: an index into the table of next hops, 1 to 32,767, or [`NextHopId::NONE`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct NextHopId(u16);

impl NextHopId {
    /// No route holds the address.
    pub const NONE: Self = Self(0);

    /// The largest number: 15 bits, the sixteenth marks what is not a next hop in the tables.
    pub const MAX: Self = Self(0x7fff);

    /// The next hop `id`, or `None` above [`NextHopId::MAX`]. `new(0)` is [`NextHopId::NONE`].
    #[must_use]
    pub const fn new(id: u16) -> Option<Self> {
        if id <= Self::MAX.0 {
            Some(Self(id))
        } else {
            None
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The number as an index; 0 is [`NextHopId::NONE`]'s.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Whether this is [`NextHopId::NONE`].
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// Why a route was refused. The table is as it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LpmError {
    /// [`NextHopId::NONE`] says that there is no route, so a route cannot carry it.
    #[error("a route needs a next hop, and 0 says that there is none")]
    NoNextHop,
    /// Every extension group is in use.
    #[error("{max} different /24 have routes longer than /24, there is no room for another", max = lpm4::MAX_GROUPS)]
    TooManyGroups,
}
