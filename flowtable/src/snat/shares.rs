//! How many ports of one destination an endpoint has, so that none has them all.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::PortSet;

/// Sets with fewer ports than this are for whoever comes first: who made them so small knows how many connections there are.
const LARGE: u32 = 4096;

/// What an endpoint may have of a destination's ports before they are counted: it can not have more while it has no more
/// connections. Nearly none ever has.
#[must_use]
pub const fn uncounted(ports: &PortSet) -> u32 {
    if ports.len() < LARGE {
        u32::MAX
    } else {
        ports.len() / 8
    }
}

/// What an endpoint may have of them that is counted: with the others three quarters of all.
#[must_use]
pub const fn limit(ports: &PortSet) -> u32 {
    ports.len() / 8 * 5
}

/// Counts by endpoint and destination, of which only a hash is known.
///
/// A hash has two counters, and either may be shared with others: the lower one says what it is or more (a count-min sketch). It
/// would take two endpoints with thousands of connections each to have both counters of a third wrong enough to matter.
/// Shared by all pollers, relaxed: a limit may be exceeded by as many as there are pollers.
#[derive(Debug)]
pub struct Shares(Box<[AtomicU32]>);

impl Shares {
    /// `counters` of them, all zero. Allocates; nothing later does.
    #[must_use]
    pub fn new(counters: usize) -> Self {
        Self((0..counters).map(|_| AtomicU32::new(0)).collect())
    }

    /// The memory that they take, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&*self.0)
    }

    /// Counts one more, unless there are `limit` already. `hash` must be one that nobody can foresee.
    pub fn claim(&self, hash: u64, limit: u32) -> bool {
        let counted = self.of(hash).map(|count| count.fetch_add(1, Relaxed)).min();
        let has_room = counted.is_some_and(|counted| counted < limit);
        if !has_room {
            self.release(hash);
        }
        has_room
    }

    /// Counts one less. Once for each that was claimed.
    pub fn release(&self, hash: u64) {
        for count in self.of(hash) {
            count.fetch_sub(1, Relaxed);
        }
    }

    /// The two counters, one in each half.
    fn of(&self, hash: u64) -> impl Iterator<Item = &AtomicU32> {
        let (first, second) = self.0.split_at(self.0.len() / 2);
        // As evenly as by a remainder, without the division.
        let at =
            |half: &[AtomicU32], bits: u32| ((u64::from(bits) * half.len() as u64) >> 32) as usize;
        let places = [
            first.get(at(first, (hash >> 32) as u32)),
            second.get(at(second, hash as u32)),
        ];
        places.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_ends_at_its_limit_and_what_is_released_may_be_had_again() {
        let shares = Shares::new(16);
        let hash = 0x0123_4567_89ab_cdef;
        for _ in 0..100 {
            assert!(shares.claim(hash, 100));
        }
        assert!(!shares.claim(hash, 100));
        assert!(!shares.claim(hash, 100), "what is refused is not counted");
        shares.release(hash);
        assert!(shares.claim(hash, 100));
        for _ in 0..100 {
            shares.release(hash);
        }
        assert!(shares.0.iter().all(|count| count.load(Relaxed) == 0));
    }

    #[test]
    fn one_counter_in_common_is_no_harm() {
        let shares = Shares::new(16);
        assert!((0..10).all(|_| shares.claim(0x2000_0000_2000_0000, 10)));
        assert!(shares.claim(0x2000_0000_4000_0000, 10));
        assert!(shares.claim(0x4000_0000_2000_0000, 10));
        assert!(!shares.claim(0x2000_0000_2000_0000, 10));
    }

    #[test]
    fn three_quarters_of_a_large_set_are_an_endpoints_and_all_of_a_small_one() {
        let large = PortSet::new([1024..=5119], []);
        assert_eq!(large.len(), LARGE);
        assert_eq!(uncounted(&large) + limit(&large), 3072);
        let small = PortSet::new([1024..=5118], []);
        assert_eq!(uncounted(&small), u32::MAX);
    }
}
