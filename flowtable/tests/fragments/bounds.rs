//! Time, shares and limits.

use std::time::Duration;

use flowtable::Tick;
use flowtable::fragments::{DropReason, Limits, Verdict};

use crate::{Bench, UPPER, key, piece, seconds};

const SMALL: Limits = Limits {
    datagrams: 16,
    held: 8,
    held_a_datagram: 3,
    share: 4,
    lifetime: Duration::from_secs(30),
    patience: Duration::from_secs(2),
};

#[test]
fn held_fragments_wait_for_the_first_for_a_short_time_only() {
    let mut bench = Bench::new(SMALL);
    assert_eq!(bench.table.next_expiry(), None);
    assert_eq!(bench.later(key(1, 0), piece(8, 8, true), 1), Verdict::Hold);
    assert_eq!(bench.table.next_expiry(), Some(seconds(2)));
    bench.expire_at(Tick(seconds(2).0 - 1));
    // Another fragment does not make it wait any longer.
    assert_eq!(bench.later(key(1, 0), piece(16, 8, true), 2), Verdict::Hold);
    assert!(bench.back().is_empty());
    bench.expire_at(seconds(2));
    let expired = Err(DropReason::NoFirst);
    assert_eq!(bench.back(), [(1, expired), (2, expired)]);
    assert!(bench.table.is_empty());
}

#[test]
fn a_known_datagram_is_remembered_for_its_lifetime_from_the_first_fragment_on() {
    let mut bench = Bench::new(SMALL);
    assert_eq!(bench.later(key(1, 0), piece(8, 8, true), 1), Verdict::Hold);
    bench.expire_at(seconds(1));
    assert_eq!(bench.first(key(1, 0), 8), Verdict::Pass(UPPER));
    assert_eq!(bench.table.next_expiry(), Some(seconds(31)));
    bench.expire_at(Tick(seconds(31).0 - 1));
    let late = piece(16, 8, true);
    assert_eq!(bench.later(key(1, 0), late, 2), Verdict::Pass(UPPER));
    bench.expire_at(seconds(31));
    assert!(bench.table.is_empty());
    assert_eq!(bench.later(key(1, 0), late, 3), Verdict::Hold);
}

#[test]
fn an_endpoint_that_floods_the_table_pushes_out_its_own_oldest() {
    // Row S11. Endpoint 9 had a datagram before, 1 sends ten times what the table holds.
    let mut bench = Bench::new(SMALL);
    assert_eq!(bench.first(key(1, 9), 8), Verdict::Pass(UPPER));
    assert_eq!(bench.later(key(2, 9), piece(8, 8, true), 42), Verdict::Hold);
    for id in 0..160 {
        bench.now = Tick(u64::from(id));
        assert_eq!(bench.first(key(id, 1), 8), Verdict::Pass(UPPER));
    }
    assert_eq!(bench.table.len(), 2 + 4, "a share of a quarter of 16");
    for id in 156..160 {
        let more = piece(8, 8, true);
        assert_eq!(bench.later(key(id, 1), more, 0), Verdict::Pass(UPPER));
    }
    assert_eq!(
        bench.later(key(1, 9), piece(8, 8, true), 0),
        Verdict::Pass(UPPER)
    );
    assert!(bench.back().is_empty());
}

#[test]
fn an_endpoint_that_floods_what_is_held_pushes_out_its_own_oldest() {
    let mut bench = Bench::new(SMALL);
    assert_eq!(
        bench.later(key(1, 9), piece(8, 8, true), 1000),
        Verdict::Hold
    );
    for id in 0..80 {
        bench.now = Tick(u64::from(id));
        let later = piece(8, 8, true);
        assert_eq!(bench.later(key(id, 1), later, id.into()), Verdict::Hold);
    }
    let quota = Err(DropReason::Quota);
    let pushed_out: Vec<_> = (0..78).map(|id| (id, quota)).collect();
    assert_eq!(bench.back(), pushed_out, "a share of a quarter of 8");
    assert_eq!(bench.table.held(), 3);
}

#[test]
fn a_datagram_never_pushes_out_itself() {
    let mut bench = Bench::new(SMALL);
    for (number, verdict) in [
        (1, Verdict::Hold),
        (2, Verdict::Hold),
        (3, Verdict::Drop(DropReason::Quota)),
    ] {
        let later = piece(number * 8, 8, true);
        assert_eq!(bench.later(key(1, 1), later, number.into()), verdict);
    }
    // What was not held has not come.
    assert_eq!(bench.first(key(1, 1), 8), Verdict::Pass(UPPER));
    assert_eq!(bench.back(), [(1, Ok(UPPER)), (2, Ok(UPPER))]);
    let again = piece(24, 8, false);
    assert_eq!(bench.later(key(1, 1), again, 3), Verdict::Pass(UPPER));
    assert!(bench.table.is_empty());
}

#[test]
fn a_datagram_has_a_bound_of_held_fragments() {
    let mut bench = Bench::new(Limits { share: 1, ..SMALL });
    for number in 1..=5 {
        let later = piece(number * 8, 8, true);
        let wanted = if number <= 3 {
            Verdict::Hold
        } else {
            Verdict::Drop(DropReason::Quota)
        };
        assert_eq!(bench.later(key(1, 1), later, number.into()), wanted);
    }
    let none = Limits {
        held_a_datagram: 0,
        ..SMALL
    };
    let mut bench = Bench::new(none);
    let verdict = bench.later(key(1, 1), piece(8, 8, true), 1);
    assert_eq!(verdict, Verdict::Drop(DropReason::Quota));
    assert!(bench.table.is_empty());
}

#[test]
fn a_full_table_forgets_the_oldest() {
    let mut bench = Bench::new(SMALL);
    for origin in 0..8 {
        bench.now = Tick(u64::from(origin));
        let later = piece(8, 8, true);
        assert_eq!(
            bench.later(key(1, origin), later, origin.into()),
            Verdict::Hold
        );
    }
    bench.now = Tick(8);
    assert_eq!(bench.later(key(1, 8), piece(8, 8, true), 8), Verdict::Hold);
    assert_eq!(bench.back(), [(0, Err(DropReason::Full))]);
    for origin in 9..18 {
        bench.now = Tick(u64::from(origin));
        assert_eq!(bench.first(key(1, origin), 8), Verdict::Pass(UPPER));
    }
    assert_eq!(bench.back(), [(1, Err(DropReason::Full))]);
    assert_eq!(bench.table.len(), 16);
}

#[test]
fn what_an_endpoint_has_comes_back_when_it_goes_away() {
    let mut bench = Bench::new(SMALL);
    for id in 1..=2 {
        for origin in [1, 2] {
            let token = u32::from(id * 10 + origin);
            bench.later(key(id, origin), piece(8, 8, true), token);
        }
    }
    bench.first(key(7, 1), 8);
    let back = &mut bench.back;
    bench
        .table
        .remove_origin(1, |token, what| back.push((token, what)));
    bench.table.remove_origin(5, |_, _| panic!("has nothing"));
    let gone = Err(DropReason::OriginGone);
    assert_eq!(bench.back(), [(11, gone), (21, gone)]);
    assert_eq!(bench.table.len(), 2);
    let back = &mut bench.back;
    bench.table.clear(|token, what| back.push((token, what)));
    assert_eq!(bench.back(), [(12, gone), (22, gone)]);
    assert!(bench.table.is_empty() && bench.table.held() == 0);
}

#[test]
fn limits_of_nothing_are_limits_of_one() {
    let nothing = Limits {
        datagrams: 0,
        held: 0,
        share: 0,
        ..SMALL
    };
    let mut bench = Bench::new(nothing);
    assert_eq!(bench.first(key(1, 1), 8), Verdict::Pass(UPPER));
    assert_eq!(bench.later(key(2, 1), piece(8, 8, true), 1), Verdict::Hold);
    assert_eq!(bench.table.len(), 1);
}
