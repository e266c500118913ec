//! Expiry over time.

use hashbrown::HashSet;
use std::time::Duration;

use flowtable::Tick;
use flowtable::flow::{BATCH, Cursor, FlowTable, Key4, Keys, View, idle};

use crate::family::{Family, insert, table};

const SLOTS: usize = 4096;
const LINES: usize = SLOTS / 64;

fn filled(connections: u64) -> FlowTable<Key4> {
    let table = table::<Key4>(SLOTS, 7);
    for number in 0..connections {
        insert(&table, number, 0, Tick(0)).unwrap();
    }
    table
}

/// Who is not told of what was removed.
fn nothing(_: &View<Key4>, _: &View<Key4>) {}

#[test]
fn what_is_idle_in_both_directions_goes_and_the_rest_stays() {
    let table = filled(900);
    let later = Tick(0) + Duration::from_mins(1);
    for number in 0..900 {
        // One direction is enough to live on; a third of the connections has none.
        let key = match number % 3 {
            0 => Key4::make(number),
            1 => flowtable::flow::FlowKey::reversed(Key4::make(number)),
            _ => continue,
        };
        let (flow, _) = table.lookup(&key).unwrap();
        table.touch(flow, later, 100);
    }
    let now = later + Duration::from_secs(20);
    let stats = table.sweep(
        &mut Cursor::default(),
        LINES,
        |forward, reply| {
            let idle = |last_seen| idle(now, last_seen) > Duration::from_secs(30);
            idle(forward.last_seen) && idle(reply.last_seen)
        },
        nothing,
    );
    assert_eq!((stats.removed, stats.busy), (300, 0));
    for number in 0..900 {
        let is_there = table.lookup(&Key4::make(number)).is_some();
        assert_eq!(is_there, number % 3 != 2, "connection {number}");
    }
}

#[test]
fn sweeps_of_all_pollers_see_each_connection_once_a_round() {
    let table = filled(900);
    for pollers in 1..=5 {
        let mut seen = HashSet::new();
        let mut slots = 0;
        for poller in 0..pollers {
            let mut cursor = Cursor::new(poller, pollers);
            let lines = (poller..LINES).step_by(pollers).count();
            // In two steps: the second goes on where the first ended.
            for lines in [lines / 3, lines - lines / 3] {
                let stats = table.sweep(
                    &mut cursor,
                    lines,
                    |forward, _| {
                        assert!(seen.insert(forward.key), "seen twice");
                        false
                    },
                    nothing,
                );
                slots += stats.slots;
            }
        }
        assert_eq!((seen.len(), slots), (900, SLOTS), "{pollers} pollers");
    }
}

#[test]
fn a_sweep_goes_round_and_round() {
    let table = filled(10);
    let mut cursor = Cursor::new(1, 3);
    let own = (1..LINES).step_by(3).count();
    let round = |cursor: &mut Cursor| {
        let mut seen = Vec::new();
        table.sweep(
            cursor,
            own,
            |forward, _| {
                seen.push(forward.key);
                false
            },
            nothing,
        );
        seen
    };
    assert_eq!(round(&mut cursor), round(&mut cursor));
}

/// More pollers than lines: those without a line of their own take one of the others'.
#[test]
fn a_poller_without_lines_sweeps_all_the_same() {
    let table = filled(10);
    let stats = table.sweep(
        &mut Cursor::new(LINES + 3, LINES + 9),
        5,
        |_, _| false,
        nothing,
    );
    assert_eq!(stats.slots, 5 * 64);
}

#[test]
fn overflow_flags_go_with_the_keys_that_overflowed() {
    // So full that words overflow.
    let table = filled(1150);
    let mut cursor = Cursor::default();
    table.sweep(
        &mut cursor,
        LINES,
        |forward, _| forward.key.src % 4 != 0,
        nothing,
    );
    let cleared = table
        .sweep(&mut cursor, LINES, |_, _| false, nothing)
        .cleared;
    let again = table
        .sweep(&mut cursor, LINES, |_, _| false, nothing)
        .cleared;
    assert!(again == 0, "{cleared}, and then {again}");
    // What is away from home is found all the same.
    let keys: Vec<_> = (0..1150).map(Key4::make).collect();
    for keys in keys.chunks(BATCH) {
        let hits = table.lookup_batch(&mut Keys::from(keys), |_| {});
        for (at, key) in keys.iter().enumerate() {
            assert_eq!(hits >> at & 1 == 1, key.src.is_multiple_of(4), "{key:?}");
        }
    }
    // Empty, nothing overflows any more: a lookup of what is not there looks at one word.
    let last = table.sweep(&mut cursor, LINES, |_, _| true, nothing);
    assert!(table.is_empty());
    let all = last.cleared
        + table
            .sweep(&mut cursor, LINES, |_, _| false, nothing)
            .cleared;
    assert!(all > 0, "there was a flag left for keys away from home");
}
