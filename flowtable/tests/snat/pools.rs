//! The rule of masquerading against a linear scan.

use flowtable::lpm::{Prefix4, Prefix6};
use flowtable::snat::{NatPools, Pool};
use proptest::collection::vec;
use proptest::prelude::*;

fn pool4(prefix: &str, masquerades: bool) -> Pool<u32> {
    let prefix: Prefix4 = prefix.parse().unwrap();
    Pool {
        addresses: prefix.addr()..=prefix.last(),
        masquerades,
    }
}

fn addr(text: &str) -> u32 {
    text.parse::<Prefix4>().map_or_else(
        |_| text.parse::<std::net::Ipv4Addr>().unwrap().to_bits(),
        Prefix4::addr,
    )
}

#[test]
fn pods_of_a_masquerading_pool_are_hidden_from_all_but_pools() {
    let rules = NatPools::new(
        [
            pool4("10.65.0.0/16", true),
            // A pool inside that does not: its pods are in the outer one too.
            pool4("10.65.4.0/24", false),
            pool4("172.31.0.0/16", false),
        ],
        [addr("192.168.0.9")],
    );
    let says = |src, dst| rules.masquerades(addr(src), addr(dst));
    assert!(says("10.65.0.2", "8.8.8.8"));
    assert!(says("10.65.4.2", "8.8.8.8"));
    assert!(says("10.65.0.2", "192.168.0.8") && !says("10.65.0.2", "192.168.0.9"));
    assert!(!says("10.65.0.2", "10.65.255.255") && !says("10.65.0.2", "172.31.1.1"));
    assert!(!says("172.31.1.1", "8.8.8.8") && !says("10.66.0.0", "8.8.8.8"));
}

#[test]
fn without_pools_nothing_is_masqueraded() {
    assert!(!NatPools::<u32>::default().masquerades(1, 2));
    assert!(!NatPools::new([], [7u128]).masquerades(7, 8));
}

/// Prefixes that lie in each other and side by side.
fn prefixes() -> impl Strategy<Value = (u128, u8)> {
    let near = (
        0..4u128,
        0..12u32,
        prop::sample::select(vec![0, 0xfd00 << 112, u128::MAX]),
    );
    let near = near.prop_map(|(value, shift, anchor)| anchor ^ (value << shift));
    let len = prop_oneof![9 => 112..=128u8, 1 => 0..=128u8];
    (near, len)
}

proptest! {
    #[test]
    fn the_rule_is_that_of_a_linear_scan(
        pools in vec((prefixes(), any::<bool>()), 0..20), excluded in vec(prefixes(), 0..6), probes in vec(prefixes(), 1..20)
    ) {
        let pools: Vec<_> = pools
            .into_iter()
            .map(|((addr, len), masquerades)| (Prefix6::containing(addr, len).unwrap(), masquerades))
            .collect();
        let excluded: Vec<_> = excluded.into_iter().map(|(addr, _)| addr).collect();
        let rules = NatPools::new(
            pools.iter().map(|(prefix, masquerades)| Pool {
                addresses: prefix.addr()..=prefix.last(),
                masquerades: *masquerades,
            }),
            excluded.iter().copied(),
        );
        // Every border of every pool, and what lies beyond it.
        let borders = pools.iter().flat_map(|(prefix, _)| {
            [prefix.addr(), prefix.last(), prefix.addr().wrapping_sub(1), prefix.last().wrapping_add(1)]
        });
        let addrs: Vec<_> = borders.chain(excluded.iter().copied()).chain(probes.iter().map(|(addr, _)| *addr)).collect();
        for src in &addrs {
            for dst in &addrs {
                let from = pools.iter().any(|(prefix, masquerades)| *masquerades && prefix.contains(*src));
                let to = pools.iter().any(|(prefix, _)| prefix.contains(*dst)) || excluded.contains(dst);
                prop_assert_eq!(rules.masquerades(*src, *dst), from && !to, "{:x} {:x}", src, dst);
            }
        }
    }
}
