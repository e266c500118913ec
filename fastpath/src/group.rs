//! Several next hops of one route, and which of them a flow takes (RFC 2991, RFC 2992).
//!
//! A flow's hash chooses one of a fixed number of buckets, and the bucket's leg is the flow's: a packet pays one look into a table,
//! however many legs there are. Whoever fills the buckets sees to it that a leg that goes away moves its own flows only.

use std::fmt;
use std::sync::Arc;

use flowtable::lpm::NextHopId;

use crate::batch::PeerId;
use crate::port::PortId;
use crate::tables::{NextHop, Tables, Way};

/// How many buckets there are: enough that a leg's share is near its weight, also where the buckets fall to legs by chance.
pub const BUCKETS: usize = 4096;

/// The most legs of a group.
pub const MAX_LEGS: usize = 256;

/// Which leg each bucket's flows take, by its number in the group. Many groups share one: all nodes behind the same routers do.
#[derive(Clone, PartialEq, Eq)]
pub struct Spread(Arc<[u8; BUCKETS]>);

impl Spread {
    /// One where `leg_of` says whose a bucket is.
    pub fn new(leg_of: impl FnMut(usize) -> u8) -> Self {
        Self(Arc::new(std::array::from_fn(leg_of)))
    }

    /// The leg of a flow with this hash.
    #[inline]
    pub fn leg(&self, hash: u32) -> u8 {
        // Outer source ports are made of the upper bits: who sees one learns nothing of the leg.
        let bucket = hash as usize % BUCKETS;
        self.0.get(bucket).copied().unwrap_or(0)
    }

    /// The leg of every bucket.
    pub fn legs(&self) -> &[u8; BUCKETS] {
        &self.0
    }
}

impl fmt::Debug for Spread {
    /// Not all of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Spread(..)")
    }
}

/// A route's legs: next hops with numbers in a row, all of one kind and to one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// The first leg.
    pub first: NextHopId,
    /// Which flows take which: the index in [`Tables::spreads`].
    pub spread: u16,
    /// What kind of way all legs are.
    pub way: Way,
    /// The node behind all legs, as in [`Adjacency::peer`](crate::tables::Adjacency::peer).
    pub peer: PeerId,
    /// The port of the first leg.
    pub port: PortId,
}

impl Group {
    /// The leg of a flow with this hash.
    #[inline]
    pub fn pick(&self, tables: &Tables, hash: u32) -> NextHopId {
        let spread = tables.spreads.get(usize::from(self.spread));
        self.leg(spread.map_or(0, |spread| spread.leg(hash)))
    }

    /// The leg that a flow with this hash takes, of those whose next hop is `wanted`: its own if it is, else that of the next bucket that
    /// has one.
    #[cold]
    pub fn pick_where(
        &self,
        tables: &Tables,
        hash: u32,
        wanted: impl Fn(&NextHop) -> bool,
    ) -> Option<NextHopId> {
        let spread = tables.spreads.get(usize::from(self.spread))?;
        let mut legs =
            (0..BUCKETS as u32).map(|step| self.leg(spread.leg(hash.wrapping_add(step))));
        legs.find(|&leg| wanted(tables.next_hop(leg)))
    }

    fn leg(&self, number: u8) -> NextHopId {
        let id = self.first.get().checked_add(number.into());
        id.and_then(NextHopId::new).unwrap_or(NextHopId::NONE)
    }
}

#[cfg(test)]
mod tests;
