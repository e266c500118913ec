//! Single datagrams, in order and out of it.

use flowtable::fragments::{DropReason, Key, Limits, MAX_PIECES, Verdict};

use crate::{Bench, UPPER, key, piece, seconds};

const PASS: Verdict = Verdict::Pass(UPPER);

fn dropped(reason: DropReason) -> Verdict {
    Verdict::Drop(reason)
}

#[test]
fn later_fragments_pass_by_what_the_first_said_until_the_datagram_is_complete() {
    // Row N14.
    let mut bench = Bench::new(Limits::default());
    assert_eq!(bench.first(key(1, 0), 1480), PASS);
    assert_eq!(bench.later(key(1, 0), piece(2960, 100, false), 0), PASS);
    assert_eq!(bench.table.len(), 1);
    assert_eq!(bench.later(key(1, 0), piece(1480, 1480, true), 0), PASS);
    assert!(bench.table.is_empty() && bench.back().is_empty());
}

#[test]
fn fragments_before_the_first_are_held_and_released_in_their_order() {
    let mut bench = Bench::new(Limits::default());
    assert_eq!(
        bench.later(key(1, 0), piece(2960, 100, false), 7),
        Verdict::Hold
    );
    assert_eq!(
        bench.later(key(1, 0), piece(1480, 1480, true), 8),
        Verdict::Hold
    );
    assert_eq!((bench.table.held(), bench.back()), (2, vec![]));
    assert_eq!(bench.first(key(1, 0), 1480), PASS);
    assert_eq!(bench.back(), [(7, Ok(UPPER)), (8, Ok(UPPER))]);
    assert!(bench.table.is_empty() && bench.table.held() == 0);
}

#[test]
fn the_longest_datagram_passes_in_fragments_of_the_smallest_mtu_of_ipv6() {
    for mtu in [1500, 1280] {
        let len = (mtu - 48) / 8 * 8;
        let mut bench = Bench::new(Limits::default());
        assert_eq!(bench.first(key(1, 0), len), PASS);
        let mut offset = len;
        while 65535 - offset > len {
            assert_eq!(bench.later(key(1, 0), piece(offset, len, true), 0), PASS);
            offset += len;
        }
        let last = piece(offset, 65535 - offset, false);
        assert_eq!(bench.later(key(1, 0), last, 0), PASS);
        assert!(bench.table.is_empty());
    }
}

#[test]
fn an_overlap_condemns_the_datagram() {
    // Rows 6.6 and S10. Each of them against a datagram whose bytes 0..32 and 64..96 have come.
    for bad in [
        piece(24, 16, true),
        piece(8, 8, true),
        piece(56, 16, true),
        piece(64, 16, true),
        piece(64, 32, false),
        piece(72, 8, true),
        piece(56, 48, true),
        piece(32, 64, true),
        // Ends the datagram before its end.
        piece(40, 8, false),
        piece(40, 0, true),
    ] {
        let mut bench = Bench::new(Limits::default());
        assert_eq!(bench.first(key(1, 0), 32), PASS);
        assert_eq!(bench.later(key(1, 0), piece(64, 32, true), 0), PASS);
        assert_eq!(
            bench.later(key(1, 0), bad, 0),
            dropped(DropReason::Overlap),
            "{bad:?}"
        );
        // Whatever comes, harmless in itself, and the first again.
        assert_eq!(
            bench.later(key(1, 0), piece(32, 8, true), 0),
            dropped(DropReason::Overlap)
        );
        assert_eq!(bench.first(key(1, 0), 32), dropped(DropReason::Overlap));
        // Another datagram is not concerned.
        assert_eq!(bench.first(key(2, 0), 32), PASS);
        bench.expire_at(seconds(30));
        assert!(bench.table.is_empty());
    }
}

#[test]
fn nothing_comes_behind_the_end() {
    for bad in [piece(48, 8, true), piece(48, 8, false), piece(24, 8, false)] {
        let mut bench = Bench::new(Limits::default());
        assert_eq!(bench.first(key(1, 0), 8), PASS);
        assert_eq!(bench.later(key(1, 0), piece(40, 8, false), 0), PASS);
        assert_eq!(
            bench.later(key(1, 0), bad, 0),
            dropped(DropReason::Overlap),
            "{bad:?}"
        );
    }
}

#[test]
fn another_first_fragment_does_not_change_what_the_first_said() {
    for len in [8, 24, 32, 40] {
        let mut bench = Bench::new(Limits::default());
        assert_eq!(bench.first(key(1, 0), 32), PASS);
        let reason = if len == 32 {
            DropReason::Duplicate
        } else {
            DropReason::Overlap
        };
        assert_eq!(bench.first(key(1, 0), len), dropped(reason), "{len}");
    }
}

#[test]
fn a_duplicate_is_dropped_alone() {
    let mut bench = Bench::new(Limits::default());
    let last = piece(64, 9, false);
    assert_eq!(bench.later(key(1, 0), last, 1), Verdict::Hold);
    assert_eq!(
        bench.later(key(1, 0), last, 2),
        dropped(DropReason::Duplicate)
    );
    assert_eq!(bench.first(key(1, 0), 32), PASS);
    assert_eq!(bench.back(), [(1, Ok(UPPER))]);
    assert_eq!(bench.first(key(1, 0), 32), dropped(DropReason::Duplicate));
    assert_eq!(
        bench.later(key(1, 0), last, 3),
        dropped(DropReason::Duplicate)
    );
    assert_eq!(bench.later(key(1, 0), piece(32, 32, true), 4), PASS);
    assert!(bench.table.is_empty() && bench.back().is_empty());
    // The same bytes, but once the last and once not.
    assert_eq!(bench.first(key(2, 0), 32), PASS);
    assert_eq!(bench.later(key(2, 0), piece(64, 8, true), 0), PASS);
    let other = piece(64, 8, false);
    assert_eq!(
        bench.later(key(2, 0), other, 0),
        dropped(DropReason::Overlap)
    );
}

#[test]
fn held_fragments_of_a_condemned_datagram_come_back_to_be_dropped() {
    let mut bench = Bench::new(Limits::default());
    assert_eq!(
        bench.later(key(1, 0), piece(64, 32, true), 5),
        Verdict::Hold
    );
    assert_eq!(
        bench.later(key(1, 0), piece(96, 32, true), 6),
        Verdict::Hold
    );
    let overlap = piece(72, 32, true);
    assert_eq!(
        bench.later(key(1, 0), overlap, 7),
        dropped(DropReason::Overlap)
    );
    let gone = Err(DropReason::Overlap);
    assert_eq!(bench.back(), [(5, gone), (6, gone)]);
    assert_eq!(bench.first(key(1, 0), 32), dropped(DropReason::Overlap));
    // A first fragment that overlaps one that is held.
    assert_eq!(
        bench.later(key(2, 0), piece(64, 32, true), 8),
        Verdict::Hold
    );
    assert_eq!(bench.first(key(2, 0), 72), dropped(DropReason::Overlap));
    assert_eq!(bench.back(), [(8, gone)]);
}

#[test]
fn too_long_and_too_many_condemn_too() {
    // Row 4.30; parsers refuse it before.
    let mut bench = Bench::new(Limits::default());
    let beyond = piece(65528, 8, false);
    assert_eq!(bench.first(key(1, 0), 32), PASS);
    assert_eq!(
        bench.later(key(1, 0), beyond, 0),
        dropped(DropReason::TooLong)
    );
    assert_eq!(
        bench.later(key(1, 0), piece(32, 8, false), 0),
        dropped(DropReason::TooLong)
    );
    assert_eq!(
        bench.later(key(2, 0), beyond, 0),
        dropped(DropReason::TooLong)
    );

    assert_eq!(bench.first(key(3, 0), 8), PASS);
    for number in 1..MAX_PIECES as u16 {
        assert_eq!(bench.later(key(3, 0), piece(number * 8, 8, true), 0), PASS);
    }
    let one_more = piece(MAX_PIECES as u16 * 8, 8, true);
    assert_eq!(
        bench.later(key(3, 0), one_more, 0),
        dropped(DropReason::TooMany)
    );
    assert_eq!(bench.first(key(3, 0), 8), dropped(DropReason::TooMany));
}

#[test]
fn what_is_not_of_the_same_datagram_is_told_apart() {
    let mut bench = Bench::new(Limits::default());
    assert_eq!(bench.first(key(1, 0), 8), PASS);
    assert_eq!(bench.first(Key::v6(1, 2, 1, 0), 8), PASS);
    let others = [
        Key::v4(0x0a41_0003, 0x0a41_0103, 17, 1, 0),
        Key::v4(0x0a41_0002, 0x0a41_0104, 17, 1, 0),
        Key::v4(0x0a41_0002, 0x0a41_0103, 6, 1, 0),
        Key::v4(0x0a41_0002, 0x0a41_0103, 17, 2, 0),
        Key::v4(0x0a41_0002, 0x0a41_0103, 17, 1, 9),
        Key::v4(1, 2, 0, 1, 0),
        Key::v6(0x0a41_0002, 0x0a41_0103, 1, 0),
        Key::v6(1, 2, 0x1_0001, 0),
    ];
    for (token, other) in others.into_iter().enumerate() {
        assert_eq!(
            bench.later(other, piece(8, 8, false), token as u32),
            Verdict::Hold
        );
    }
    assert_eq!(
        bench.later(Key::v6(1, 2, 1, 0), piece(8, 8, false), 0),
        PASS
    );
}
