//! Maglev's table (Eisenbud and others, "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4): each
//! backend has a permutation of all places of its own, and backends take turns to fill their next free place. All get the same number of
//! places, give or take one, and one that leaves gives up few places but its own.

use super::ServiceAddr;
use crate::flow::{Seed, hash_of};

/// How many places there may be: prime, so that any step visits all; and few sizes, since whoever comes to another one finds most of what
/// he chose before elsewhere.
const SIZES: [usize; 4] = [1, 2039, 16_381, 131_071];

/// Places for each backend, where there are so many: a backend's share is true to one part in so many.
const PLACES: usize = 100;

const OFFSETS: Seed = Seed([0x6d61_676c_6576, 0x6f66_6673_6574]);
const STEPS: Seed = Seed([0x6d61_676c_6576, 0x7374_6570]);

/// The place in `backends` of who fills each place of the table; empty if there is none.
pub(super) fn table<A: ServiceAddr>(backends: &[(A, u16)]) -> Box<[u16]> {
    let size = match backends.len() {
        0 => return Box::default(),
        // Nobody to share with.
        1 => 1,
        count => size_for(count),
    };
    let mut turns: Vec<_> = backends
        .iter()
        .map(|backend| Turn::new(backend, size))
        .collect();
    let mut filled = vec![None; size];
    let mut free = size;
    while free > 0 {
        for (number, turn) in turns.iter_mut().enumerate().take(free) {
            while filled[turn.next].is_some() {
                turn.step(size);
            }
            filled[turn.next] = Some(number as u16);
        }
        free = free.saturating_sub(turns.len());
    }
    filled.into_iter().map(Option::unwrap_or_default).collect()
}

/// The smallest size that has enough places for each, or the largest.
fn size_for(backends: usize) -> usize {
    let wanted = backends.saturating_mul(PLACES);
    let size = SIZES.into_iter().find(|&size| size >= wanted);
    size.unwrap_or(SIZES[SIZES.len() - 1])
}

/// Where a backend is in its permutation.
struct Turn {
    next: usize,
    by: usize,
}

impl Turn {
    fn new<A: ServiceAddr>(&(addr, port): &(A, u16), size: usize) -> Self {
        let [low, high] = addr.blocks();
        let hash = |seed| hash_of(seed, [low, high, u64::from(port)]) as usize;
        Self {
            next: hash(OFFSETS) % size,
            by: match size {
                1 => 0,
                _ => hash(STEPS) % (size - 1) + 1,
            },
        }
    }

    const fn step(&mut self, size: usize) {
        self.next = (self.next + self.by) % size;
    }
}
