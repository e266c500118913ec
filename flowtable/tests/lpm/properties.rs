//! What holds for any routes and any sequence of changes.

use std::collections::BTreeMap;

use flowtable::lpm::NextHopId;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::family::{Family, V4, V6};

type Routes<F> = BTreeMap<<F as Family>::Prefix, NextHopId>;

/// Longest match by scanning every route. Slow and obviously right; the judge of both tables.
fn scan<F: Family>(routes: &Routes<F>, addr: u128) -> NextHopId {
    routes
        .iter()
        .filter(|(prefix, _)| F::contains(**prefix, addr))
        .max_by_key(|(prefix, _)| F::len_of(**prefix))
        .map_or(NextHopId::NONE, |(_, hop)| *hop)
}

/// A change of the routes.
#[derive(Clone, Debug)]
enum Change {
    Insert {
        addr: u128,
        len: u8,
        hop: NextHopId,
    },
    /// Removes the route at this place among those that there are, or nothing.
    RemoveOne(prop::sample::Index),
    /// Removes this prefix, which is most likely not there.
    RemoveAny {
        addr: u128,
        len: u8,
    },
    /// Gives this next hop to the route at this place.
    Replace(prop::sample::Index, NextHopId),
    TakeSnapshot,
    /// Gives up one of the snapshots, so that what it alone held can be written again.
    DropSnapshot(prop::sample::Index),
    /// Goes on with a copy of the writer, which must leave the writer itself as it is.
    Fork,
}

/// Addresses that lie close together and at the borders of octets, so that prefixes nest and touch.
fn addrs(bits: u8) -> BoxedStrategy<u128> {
    let top = u128::MAX >> (128 - u32::from(bits));
    let anchors = [
        0,
        top,
        10 << (bits - 8),
        (10 << (bits - 8)) | (1 << (bits - 16)),
        (10 << (bits - 8)) | (1 << (bits - 10)),
        0xfd << (bits - 8),
    ];
    let near = (
        prop::sample::select(anchors.to_vec()),
        0..=3u32,
        0..u32::from(bits),
    )
        .prop_map(move |(anchor, value, shift)| anchor ^ ((u128::from(value) << shift) & top));
    prop_oneof![6 => near, 1 => any::<u128>().prop_map(move |addr| addr & top)].boxed()
}

/// Lengths: all of them, and those at which the structures change their shape more often.
fn lens(bits: u8) -> BoxedStrategy<u8> {
    let special = vec![
        0, 1, 2, 3, 7, 8, 9, 10, 11, 16, 23, 24, 25, 26, 31, 32, 48, 64, 117, 122, 123, 127, 128,
    ];
    prop_oneof![1 => 0..=bits, 1 => prop::sample::select(special)]
        .prop_map(move |len| len.min(bits))
        .boxed()
}

fn hops() -> impl Strategy<Value = NextHopId> {
    // Few, so that neighbours and covering routes often share one.
    prop_oneof![4 => 1..=4u16, 1 => 1..=0x7fffu16].prop_map(|id| NextHopId::new(id).unwrap())
}

fn changes(bits: u8) -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        8 => (addrs(bits), lens(bits), hops()).prop_map(|(addr, len, hop)| Change::Insert { addr, len, hop }),
        4 => any::<prop::sample::Index>().prop_map(Change::RemoveOne),
        1 => (addrs(bits), lens(bits)).prop_map(|(addr, len)| Change::RemoveAny { addr, len }),
        1 => (any::<prop::sample::Index>(), hops()).prop_map(|(index, hop)| Change::Replace(index, hop)),
        2 => Just(Change::TakeSnapshot),
        1 => any::<prop::sample::Index>().prop_map(Change::DropSnapshot),
        1 => Just(Change::Fork),
    ];
    vec(change, 1..60)
}

/// The addresses at which a mistake about `prefix` would show.
fn borders<F: Family>(prefix: F::Prefix) -> [u128; 4] {
    let (first, last) = F::ends(prefix);
    [first.wrapping_sub(1), first, last, last.wrapping_add(1)]
        .map(|addr| addr & (u128::MAX >> (128 - u32::from(F::BITS))))
}

/// Single and batch lookups say what the scan says.
fn assert_table<F: Family>(lpm: &F::Lpm, routes: &Routes<F>, addrs: &[u128]) {
    let batch = F::lookup_batch(lpm, addrs);
    for (&addr, found) in addrs.iter().zip(batch) {
        let expected = scan::<F>(routes, addr);
        assert_eq!(
            F::lookup(lpm, addr),
            expected,
            "lookup of {addr:#x} in {routes:?}"
        );
        assert_eq!(found, expected, "batch lookup of {addr:#x} in {routes:?}");
    }
}

fn run<F: Family>(start: Routes<F>, changes: &[Change], probes: &[u128]) {
    let all: Vec<_> = start.iter().map(|(prefix, hop)| (*prefix, *hop)).collect();
    let (mut rib, mut routes) = (F::from_routes(&all).unwrap(), start);
    let (mut snapshots, mut forks) = (Vec::new(), Vec::new());
    let mut touched: Vec<u128> = probes.to_vec();
    touched.extend(routes.keys().flat_map(|&prefix| borders::<F>(prefix)));
    for change in changes {
        let nth = |index: &prop::sample::Index| {
            (!routes.is_empty()).then(|| *routes.keys().nth(index.index(routes.len())).unwrap())
        };
        let prefix = match change {
            Change::Insert { addr, len, hop } => {
                let prefix = F::prefix(*addr, *len);
                assert_eq!(
                    F::insert(&mut rib, prefix, *hop).unwrap(),
                    routes.insert(prefix, *hop)
                );
                Some(prefix)
            }
            Change::Replace(index, hop) => nth(index).inspect(|&prefix| {
                assert_eq!(
                    F::insert(&mut rib, prefix, *hop).unwrap(),
                    routes.insert(prefix, *hop)
                );
            }),
            Change::RemoveOne(index) => nth(index).inspect(|&prefix| {
                assert_eq!(F::remove(&mut rib, prefix), routes.remove(&prefix));
            }),
            Change::RemoveAny { addr, len } => {
                let prefix = F::prefix(*addr, *len);
                assert_eq!(F::remove(&mut rib, prefix), routes.remove(&prefix));
                Some(prefix)
            }
            Change::TakeSnapshot => {
                snapshots.push((F::snapshot(&rib), routes.clone()));
                None
            }
            Change::DropSnapshot(index) => {
                if !snapshots.is_empty() {
                    let (lpm, routes) = snapshots.swap_remove(index.index(snapshots.len()));
                    assert_table::<F>(&lpm, &routes, &touched);
                }
                None
            }
            Change::Fork => {
                let fork = rib.clone();
                forks.push((std::mem::replace(&mut rib, fork), routes.clone()));
                None
            }
        };
        if let Some(prefix) = prefix {
            touched.extend(borders::<F>(prefix));
            assert_eq!(F::get(&rib, prefix), routes.get(&prefix).copied());
        }
        assert_table::<F>(&F::snapshot(&rib), &routes, &touched);
    }
    assert_eq!(F::len(&rib), routes.len());
    assert_eq!(F::routes(&rib).into_iter().collect::<Routes<F>>(), routes);

    let all: Vec<_> = routes.iter().map(|(prefix, hop)| (*prefix, *hop)).collect();
    assert_table::<F>(
        &F::snapshot(&F::from_routes(&all).unwrap()),
        &routes,
        &touched,
    );

    for (lpm, routes) in snapshots {
        assert_table::<F>(&lpm, &routes, &touched);
    }
    for (fork, routes) in forks {
        assert_table::<F>(&F::snapshot(&fork), &routes, &touched);
    }
    for prefix in routes.keys() {
        F::remove(&mut rib, *prefix);
    }
    assert_table::<F>(&F::snapshot(&rib), &Routes::<F>::new(), &touched);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn ipv4_tables_equal_a_scan_after_every_change(changes in changes(32), probes in vec(addrs(32), 0..80)) {
        run::<V4>(Routes::<V4>::new(), &changes, &probes);
    }

    #[test]
    fn ipv6_tables_equal_a_scan_after_every_change(changes in changes(128), probes in vec(addrs(128), 0..80)) {
        run::<V6>(Routes::<V6>::new(), &changes, &probes);
    }

    #[test]
    fn many_routes_of_one_block_equal_a_scan(
        lows in vec((any::<u8>(), 118..=128u8, hops()), 1..120),
        probes in vec(any::<u8>(), 1..200),
    ) {
        let pool: u128 = 0xfd00_0010_0244 << 80;
        let six: Routes<V6> = lows.iter().map(|&(low, len, hop)| (V6::prefix(pool | u128::from(low) << 2, len), hop)).collect();
        let four: Routes<V4> = lows.iter().map(|&(low, len, hop)| (V4::prefix(0x0a41_0000 | u128::from(low) << 2, len - 96), hop)).collect();
        let routes: Vec<_> = six.iter().map(|(prefix, hop)| (*prefix, *hop)).collect();
        let probes6: Vec<_> = probes.iter().map(|&low| pool | u128::from(low) << 2).collect();
        assert_table::<V6>(&V6::snapshot(&V6::from_routes(&routes).unwrap()), &six, &probes6);
        let routes: Vec<_> = four.iter().map(|(prefix, hop)| (*prefix, *hop)).collect();
        let probes4: Vec<_> = probes.iter().map(|&low| 0x0a41_0000 | u128::from(low) << 2).collect();
        assert_table::<V4>(&V4::snapshot(&V4::from_routes(&routes).unwrap()), &four, &probes4);
    }

    /// Such tables are prefetched from, the others here are not.
    #[test]
    fn tables_of_many_pages_equal_a_scan(
        all in vec((any::<u32>(), 11..=32u8, hops()), 40..60),
        probes in vec(any::<u32>(), 0..70),
    ) {
        let routes: Routes<V4> = all.iter().map(|&(addr, len, hop)| (V4::prefix(addr.into(), len), hop)).collect();
        let pairs: Vec<_> = routes.iter().map(|(prefix, hop)| (*prefix, *hop)).collect();
        let borders = routes.keys().flat_map(|&prefix| borders::<V4>(prefix));
        let probes: Vec<_> = borders.chain(probes.into_iter().map(u128::from)).collect();
        assert_table::<V4>(&V4::snapshot(&V4::from_routes(&pairs).unwrap()), &routes, &probes);
    }
}

/// Routes of a cluster, and some of the Internet's: enough of both for short cuts to each.
fn clusters() -> impl Strategy<Value = Routes<V6>> {
    let near = |base: u128, shift: u32, lens: Vec<u8>| {
        (0..200u128, prop::sample::select(lens), hops())
            .prop_map(move |(value, len, hop)| (V6::prefix(base | value << shift, len), hop))
    };
    let blocks = near(0xfd << 120, 6, vec![122, 122, 122, 121, 117, 128, 127]);
    let others = near(0x20 << 120, 91, vec![32, 32, 29, 36, 48, 64]);
    (vec(blocks, 40..100), vec(others, 0..60))
        .prop_map(|(blocks, others)| blocks.into_iter().chain(others).collect())
}

/// Changes among the routes of [`clusters`].
fn cluster_changes() -> impl Strategy<Value = Vec<Change>> {
    let addr = prop_oneof![
        (0..0x4000u128).prop_map(|value| (0xfd << 120) | value),
        (0..0x4000u128).prop_map(|value| (0x20 << 120) | value << 85),
    ];
    let lens = prop::sample::select(vec![0, 3, 28, 32, 40, 48, 116, 117, 119, 122, 123, 128]);
    let insert =
        (addr, lens, hops()).prop_map(|(addr, len, hop)| Change::Insert { addr, len, hop });
    let one = || any::<prop::sample::Index>();
    let change = prop_oneof![
        4 => insert,
        4 => one().prop_map(Change::RemoveOne),
        1 => (one(), hops()).prop_map(|(index, hop)| Change::Replace(index, hop)),
        1 => Just(Change::TakeSnapshot),
        1 => one().prop_map(Change::DropSnapshot),
        1 => Just(Change::Fork),
    ];
    vec(change, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Also where they become more than short cuts were made for, and other ones are worth it.
    #[test]
    fn tables_with_short_cuts_equal_a_scan_after_every_change(
        start in clusters(),
        changes in cluster_changes(),
        probes in vec(addrs(128), 0..40),
    ) {
        run::<V6>(start, &changes, &probes);
    }

    /// From nothing to many, by one and one, and back.
    #[test]
    fn short_cuts_come_and_go_with_the_routes(routes in clusters(), probes in vec(addrs(128), 0..40)) {
        let (mut rib, mut so_far) = (<V6 as Family>::Rib::default(), Routes::<V6>::new());
        let mut addrs: Vec<_> = routes.keys().flat_map(|&prefix| borders::<V6>(prefix)).collect();
        addrs.extend(probes);
        for (at, (&prefix, &hop)) in routes.iter().enumerate() {
            V6::insert(&mut rib, prefix, hop).unwrap();
            so_far.insert(prefix, hop);
            if at % 8 == 0 {
                assert_table::<V6>(&V6::snapshot(&rib), &so_far, &addrs);
            }
        }
        let held = V6::snapshot(&rib);
        for (at, prefix) in routes.keys().rev().enumerate() {
            assert_eq!(V6::remove(&mut rib, *prefix), so_far.remove(prefix));
            if at % 8 == 0 {
                assert_table::<V6>(&V6::snapshot(&rib), &so_far, &addrs);
            }
        }
        assert_table::<V6>(&held, &routes, &addrs);
    }
}
