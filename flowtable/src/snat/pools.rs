//! Which connections are masqueraded.

use std::ops::RangeInclusive;

/// A range of pods' addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool<A> {
    /// First and last address, host byte order.
    pub addresses: RangeInclusive<A>,
    /// Whether what its pods send out of all pools is masqueraded (`natOutgoing`).
    pub masquerades: bool,
}

/// The rule of Calico's `natOutgoing` for one family; `A` is `u32` or `u128`, addresses in host byte order.
///
/// A connection is masqueraded if its source is in a pool that masquerades, and its destination in no pool and no address
/// that was excluded. Pools may lie in each other: what counts is whether any of them holds the address.
/// Takes time by the logarithm of the pools. Never changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatPools<A> {
    masquerading: Ranges<A>,
    exempt: Ranges<A>,
}

impl<A: Copy + Ord> NatPools<A> {
    /// The rule by `pools` and `excluded` destinations.
    ///
    /// Disabled pools belong in `pools`, those for load balancers only do not. `excluded` is every node's
    /// address if `natOutgoingExclusions` is `IPPoolsAndHostIPs`, else nothing.
    #[must_use]
    pub fn new(
        pools: impl IntoIterator<Item = Pool<A>>,
        excluded: impl IntoIterator<Item = A>,
    ) -> Self {
        let mut masquerading = vec![];
        let mut exempt: Vec<_> = excluded.into_iter().map(|addr| (addr, addr)).collect();
        for pool in pools {
            let range = pool.addresses.into_inner();
            exempt.push(range);
            if pool.masquerades {
                masquerading.push(range);
            }
        }
        Self {
            masquerading: Ranges::new(masquerading),
            exempt: Ranges::new(exempt),
        }
    }

    /// Whether a connection from `src` to `dst`, decided once at its first packet, is masqueraded.
    #[inline]
    #[must_use]
    pub fn masquerades(&self, src: A, dst: A) -> bool {
        self.masquerading.contains(src) && !self.exempt.contains(dst)
    }
}

/// Ranges in order that do not overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ranges<A>(Box<[(A, A)]>);

impl<A: Copy + Ord> Ranges<A> {
    /// The union of `ranges`, given by first and last address. One that ends before it starts is empty.
    fn new(mut ranges: Vec<(A, A)>) -> Self {
        ranges.retain(|(first, last)| first <= last);
        ranges.sort_unstable();
        ranges.dedup_by(|next, kept| {
            let overlaps = next.0 <= kept.1;
            if overlaps {
                kept.1 = kept.1.max(next.1);
            }
            overlaps
        });
        Self(ranges.into())
    }

    #[inline]
    fn contains(&self, addr: A) -> bool {
        let behind = self.0.partition_point(|(first, _)| *first <= addr);
        behind
            .checked_sub(1)
            .and_then(|index| self.0.get(index))
            .is_some_and(|(_, last)| addr <= *last)
    }
}
