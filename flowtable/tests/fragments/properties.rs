//! Any sequence of fragments: the table does what the model does, and every token comes back once.

use std::collections::BTreeSet;
use std::time::Duration;

use flowtable::Tick;
use flowtable::fragments::{Key, Limits, Piece, Upper, Verdict};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::model::Model;
use crate::{Bench, UPPER};

#[derive(Clone, Debug)]
enum Step {
    First { key: Key, len: u16 },
    Later { key: Key, piece: Piece },
    Wait(u64),
    RemoveOrigin(u16),
}

/// Few, so that they meet.
fn keys() -> impl Strategy<Value = Key> {
    (
        any::<bool>(),
        0..4u16,
        prop_oneof![3 => 0..6u16, 1 => 0x8000..0x8003u16],
    )
        .prop_map(|(v6, id, origin)| {
            if v6 {
                Key::v6(1, 2, id.into(), origin)
            } else {
                Key::v4(1, 2, 17, id, origin)
            }
        })
}

fn pieces() -> impl Strategy<Value = Piece> {
    // Mostly on a grid, where datagrams get complete; seldom off it, where fragments overlap, and at the far end.
    let regular = (1..5u16).prop_map(|number| Piece {
        offset: number * 8,
        len: 8,
        more: number != 4,
    });
    let uneven = (1..6u16, 0..20u16, any::<bool>()).prop_map(|(number, len, more)| Piece {
        offset: number * 8,
        len,
        more,
    });
    let far = (65480..=u16::MAX, 0..60u16, any::<bool>()).prop_map(|(offset, len, more)| Piece {
        offset: offset & !7,
        len,
        more,
    });
    prop_oneof![30 => regular, 1 => uneven, 1 => far]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        20 => (keys(), prop_oneof![20 => Just(8), 1 => 0..24u16]).prop_map(|(key, len)| Step::First { key, len }),
        60 => (keys(), pieces()).prop_map(|(key, piece)| Step::Later { key, piece }),
        10 => (0..40u64).prop_map(Step::Wait),
        1 => (0..6u16).prop_map(Step::RemoveOrigin),
    ];
    vec(step, 1..400)
}

fn limits() -> impl Strategy<Value = Limits> {
    (1..24u16, 1..16u16, 0..4u16, 1..6u16).prop_map(|(datagrams, held, held_a_datagram, share)| {
        Limits {
            datagrams,
            held,
            held_a_datagram,
            share,
            lifetime: Duration::from_nanos(100),
            patience: Duration::from_nanos(30),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn the_table_does_what_a_list_of_everything_does(limits in limits(), steps in steps()) {
        let mut bench = Bench::new(limits);
        let mut model = Model::new(limits);
        let mut given = BTreeSet::new();
        let mut returned = BTreeSet::new();
        for (token, step) in (0..).zip(steps) {
            match step {
                Step::First { key, len } => {
                    prop_assert_eq!(bench.first(key, len), model.first(bench.now, key, len, UPPER));
                }
                Step::Later { key, piece } => {
                    let verdict = bench.later(key, piece, token);
                    prop_assert_eq!(verdict, model.later(bench.now, key, piece, token));
                    if verdict == Verdict::Hold {
                        given.insert(token);
                    }
                }
                Step::Wait(ticks) => {
                    let now = Tick(bench.now.0 + ticks);
                    bench.expire_at(now);
                    model.expire(now);
                }
                Step::RemoveOrigin(origin) => {
                    let back = &mut bench.back;
                    bench.table.remove_origin(origin, |token, what| back.push((token, what)));
                    model.remove_origin(origin);
                }
            }
            let back = bench.back();
            prop_assert_eq!(&back, &std::mem::take(&mut model.back));
            for (token, _) in back {
                prop_assert!(given.contains(&token) && returned.insert(token), "token {} came twice", token);
            }
            prop_assert_eq!((bench.table.len(), bench.table.held()), model.sizes());
            prop_assert_eq!(bench.table.held(), given.len() - returned.len());
        }
        let back = &mut bench.back;
        bench.table.clear(|token, what| back.push((token, what)));
        for (token, _) in bench.back() {
            prop_assert!(returned.insert(token), "token {} came twice", token);
        }
        prop_assert_eq!(given, returned);
        prop_assert!(bench.table.is_empty() && bench.table.next_expiry().is_none());
    }

    #[test]
    fn any_order_of_a_datagram_without_overlaps_passes_whole(order in Just((0..10u16).collect::<Vec<_>>()).prop_shuffle()) {
        let mut bench = Bench::new(Limits::default());
        let key = Key::v6(1, 2, 3, 4);
        let mut passed = 0;
        for number in order {
            let piece = Piece { offset: number * 8, len: 8, more: number != 9 };
            let verdict = if number == 0 { bench.first(key, 8) } else { bench.later(key, piece, number.into()) };
            passed += usize::from(verdict == Verdict::Pass(UPPER));
            passed += bench.back().iter().filter(|(_, what)| *what == Ok(UPPER)).count();
        }
        prop_assert_eq!(passed, 10);
        prop_assert!(bench.table.is_empty());
    }
}

#[test]
fn different_upper_layers_are_told_by_their_own_first_fragments() {
    let mut bench = Bench::new(Limits::default());
    for id in 0..200 {
        let upper = Upper {
            ports: (id, id + 1),
            protocol: id as u8,
        };
        let key = Key::v6(1, 2, id.into(), id);
        bench
            .table
            .first(bench.now, &key, 8, upper, |_, _| panic!("nothing is held"));
    }
    for id in 0..200 {
        let upper = Upper {
            ports: (id, id + 1),
            protocol: id as u8,
        };
        let piece = Piece {
            offset: 8,
            len: 8,
            more: true,
        };
        let key = Key::v6(1, 2, id.into(), id);
        assert_eq!(bench.later(key, piece, 0), Verdict::Pass(upper));
    }
}
