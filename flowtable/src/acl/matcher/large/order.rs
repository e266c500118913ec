//! The order of rules in a large matcher.

use crate::acl::{Address, Rule};

/// Blocks of rules that ask for similar things, ordered by their first rules.
pub(super) fn blocks<'a, A: Address>(rules: &[(u32, &'a Rule)]) -> Vec<Vec<(u32, &'a Rule)>> {
    let mut sorted = rules.to_vec();
    sorted.sort_by_cached_key(|(_, rule)| {
        let net = |nets: &[_]| {
            nets.iter()
                .find_map(|&net| A::of_net(net))
                .filter(|net| net.2 > 0)
        };
        let (source, destination) = (net(&rule.source.nets), net(&rule.destination.nets));
        // An eighth of the address a class.
        let class = |net: Option<(A, A, u8)>| {
            net.map(|net| (u16::from(net.2) * 8).div_ceil(u16::from(A::BITS)))
        };
        (
            class(source),
            class(destination),
            destination.map(|net| (net.0, net.2)),
            source.map(|net| (net.0, net.2)),
            rule.destination.sets.first().copied(),
            rule.source.sets.first().copied(),
            rule.protocol,
            rule.destination.ports.first().map(|range| range.first),
        )
    });
    let mut blocks: Vec<Vec<_>> = sorted.chunks(64).map(<[_]>::to_vec).collect();
    for block in &mut blocks {
        block.sort_unstable_by_key(|(place, _)| *place);
    }
    blocks.sort_unstable_by_key(|block| block.first().map(|(place, _)| *place));
    blocks
}
