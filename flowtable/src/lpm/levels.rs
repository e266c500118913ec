//! Which levels of the IPv6 trie are worth a short cut.

use std::collections::BTreeSet;

use super::lpm6::{LEVELS, PATHS, level_of};
use super::tier::Tier;
use super::{NextHopId, Prefix6};

/// Fewer routes than this are found as fast from the root.
pub(super) const MIN_ROUTES: usize = 32;

/// As many levels as this are walked as fast as a short cut is tried in vain.
const NEAR: usize = 3;

/// The last level with a short cut: nodes of the one behind have no bits left for what a table notes.
const LAST: usize = LEVELS - 2;

/// Empty tables for the short cuts that these routes are worth, from the longest level.
///
/// The first is the last level at which, or behind which, half of the routes are: the blocks of a cluster. The second has nine tenths of the
/// rest, if that is many, as those of the Internet. Where the two are near to each other one is enough.
pub(super) fn tiers(routes: &[(Prefix6, NextHopId)]) -> Vec<Tier> {
    let mut counts = [0; LEVELS];
    for (prefix, _) in routes {
        counts[usize::from(level_of(prefix.len()).0)] += 1;
    }
    let first = last_level(&counts, LAST, 2);
    let second = first.and_then(|first| last_level(&counts[..first], first - 1, 10));
    let levels = match (first, second) {
        (Some(first), Some(second)) if first - second <= NEAR => [Some(second), None],
        both => [both.0, both.1],
    };
    levels
        .into_iter()
        .flatten()
        .map(|level| {
            let mask = PATHS[level].mask;
            let below = routes
                .iter()
                .map(|it| it.0)
                .filter(|it| usize::from(level_of(it.len()).0) >= level);
            let paths: BTreeSet<_> = below.map(|it| it.addr() & mask).collect();
            Tier::new(level as u8, paths.len())
        })
        .collect()
}

/// The last level, at most `from` and not one of the two that decide an address's first octet, at which and behind which all but one in `parts` of these routes are.
fn last_level(counts: &[usize], from: usize, parts: usize) -> Option<usize> {
    let all: usize = counts.iter().sum();
    let mut before = all;
    for level in (2..counts.len()).rev() {
        before -= counts[level];
        if level <= from && before * parts <= all {
            return (all >= MIN_ROUTES).then_some(level);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels_of(shares: &[(u8, u128)]) -> Vec<u8> {
        let routes: Vec<_> = shares
            .iter()
            .flat_map(|&(len, count)| {
                (0..count).map(move |value| {
                    let addr = (0x20 << 120) | value << (128 - u32::from(len));
                    (Prefix6::containing(addr, len).unwrap(), NextHopId::MAX)
                })
            })
            .collect();
        tiers(&routes).iter().map(|tier| tier.level).collect()
    }

    #[test]
    fn clusters_and_the_internet_have_short_cuts_each_and_few_routes_none() {
        let (blocks, pods) = (level_of(122).0, (128, 100));
        let internet = level_of(32).0;
        assert_eq!(levels_of(&[(122, 1000), pods]), [blocks]);
        assert_eq!(levels_of(&[(32, 400), (48, 600)]), [internet]);
        assert_eq!(
            levels_of(&[(32, 100), (48, 200), (122, 1000)]),
            [blocks, internet]
        );
        assert_eq!(levels_of(&[(122, MIN_ROUTES as u128 - 1)]), []);
        // All routes in the root and at the level behind, which are too short for one.
        assert_eq!(levels_of(&[(8, 200), (2, 1)]), []);
    }
}
