use super::*;
use crate::reason::DropReason;

/// A group of three legs with the numbers 5, 6, 7 that take buckets in turn.
fn three() -> (Tables, Group) {
    let mut tables = Tables {
        spreads: vec![Spread::new(|bucket| (bucket % 3) as u8)],
        ..Tables::default()
    };
    tables
        .next_hops
        .resize(8, NextHop::Drop(DropReason::PortDown));
    let group = Group {
        first: NextHopId::new(5).unwrap_or_default(),
        spread: 0,
        way: Way::Uplink,
        peer: PeerId::NONE,
        port: PortId(1),
    };
    (tables, group)
}

#[test]
fn a_hash_chooses_a_bucket_and_its_leg() {
    let (tables, group) = three();
    for hash in [0, 1, 2, 4095, 4096, 4097, u32::MAX] {
        let bucket = hash % BUCKETS as u32;
        assert_eq!(
            u32::from(group.pick(&tables, hash).get()),
            5 + bucket % 3,
            "hash {hash}"
        );
    }
}

#[test]
fn a_leg_that_will_not_do_gives_way_to_the_next_that_will() {
    let (mut tables, group) = three();
    let blackhole = NextHop::Drop(DropReason::Blackhole);
    if let Some(hop) = tables.next_hops.get_mut(6) {
        *hop = blackhole;
    }
    for hash in [0, 1, 2, u32::MAX] {
        let found = group.pick_where(&tables, hash, |hop| *hop == blackhole);
        assert_eq!(found.map(NextHopId::get), Some(6), "hash {hash}");
    }
    let own = group.pick_where(&tables, 2, |hop| *hop != blackhole);
    assert_eq!(own.map(NextHopId::get), Some(7), "its own will do");
    assert_eq!(group.pick_where(&tables, 2, |_| false), None);
}

#[test]
fn a_spread_that_is_not_there_leads_to_the_first_leg() {
    let (mut tables, group) = three();
    tables.spreads.clear();
    assert_eq!(group.pick(&tables, 7), group.first);
    assert_eq!(group.pick_where(&tables, 7, |_| true), None);
}
