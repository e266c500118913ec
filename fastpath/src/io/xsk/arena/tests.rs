//! The record of places against a naive map, and descriptors that lie.
#![expect(clippy::disallowed_methods, reason = "any instant will do")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{Anomalies, ArenaPart, ClosedSocket, FrameSpan, Place, QUARANTINE, Slot, UmemArea};
use crate::io::xsk::XskError;

fn one_part(chunks: u32) -> ArenaPart {
    let (_, mut parts) = UmemArea::new(&[chunks], 2048, false).expect("a small arena");
    parts.remove(0)
}

#[test]
fn parts_have_disjoint_chunks_that_cover_the_area() {
    let (area, mut parts) = UmemArea::new(&[3, 0, 5], 4096, true).expect("a small arena");
    assert_eq!((area.chunks(), area.chunk_size()), (8, 4096));
    let mut all = Vec::new();
    for part in &mut parts {
        let len = part.len();
        for _ in 0..len {
            all.push(part.alloc().expect("as many as the part has"));
        }
        assert_eq!(part.alloc(), None);
        assert!(part.is_balanced());
    }
    all.sort_unstable();
    assert_eq!(all, (0..8).collect::<Vec<_>>());
}

#[test]
fn a_chunk_keeps_its_bytes_and_no_other() {
    let mut part = one_part(4);
    let chunks: Vec<u32> = std::iter::from_fn(|| part.alloc()).collect();
    for &chunk in &chunks {
        part.chunk(chunk).fill(chunk as u8 + 1);
    }
    for &chunk in &chunks {
        assert_eq!(part.chunk(chunk).len(), 2048);
        assert!(
            part.chunk(chunk)
                .iter()
                .all(|&byte| byte == chunk as u8 + 1)
        );
        assert_eq!(
            part.frame(FrameSpan {
                chunk,
                start: 2000,
                len: 48
            })
            .len(),
            48
        );
        assert_eq!(
            part.frame(FrameSpan {
                chunk,
                start: 2000,
                len: 49
            })
            .len(),
            0
        );
    }
}

#[test]
fn chunks_that_are_not_held_give_no_bytes() {
    let (_, mut parts) = UmemArea::new(&[2, 2], 2048, false).expect("a small arena");
    let mut second = parts.remove(1);
    let mut first = parts.remove(0);
    let chunk = second.alloc().expect("a chunk");
    assert!(second.chunk(chunk).len() == 2048);
    assert!(first.chunk(chunk).is_empty(), "another part's");
    assert!(first.chunk(0).is_empty(), "free");
    assert!(first.chunk(u32::MAX).is_empty(), "out of range");
    let slot = second.open_slot().expect("a slot");
    second
        .lend_to_tx(
            slot,
            FrameSpan {
                chunk,
                start: 0,
                len: 64,
            },
        )
        .expect("a held frame");
    assert!(second.chunk(chunk).is_empty(), "with the kernel");
    second.release(chunk);
    assert_eq!(second.anomalies().misuse, 2);
    assert_eq!(
        second.accounting().sending,
        1,
        "a release of a chunk not held changes nothing"
    );
}

#[test]
fn the_last_chunk_freed_is_the_first_reused() {
    let mut part = one_part(8);
    let chunks: Vec<u32> = std::iter::from_fn(|| part.alloc()).collect();
    part.release(chunks[3]);
    part.release(chunks[5]);
    assert_eq!(part.alloc(), Some(chunks[5]));
    assert_eq!(part.alloc(), Some(chunks[3]));
}

#[test]
fn descriptors_that_cannot_be_true_are_counted_and_ignored() {
    let mut part = one_part(4);
    let (a, b) = (
        part.open_slot().expect("a slot"),
        part.open_slot().expect("a slot"),
    );
    let address = part.lend_to_fill(a).expect("a chunk");
    let before = part.accounting();
    assert_eq!(
        part.take_received(b, address, 64, 0),
        None,
        "another socket's"
    );
    assert_eq!(
        part.take_received(a, address + 2048, 64, 0),
        None,
        "a free chunk"
    );
    assert_eq!(part.take_received(a, u64::MAX, 64, 0), None, "outside");
    assert!(!part.take_completed(a, address), "not being sent");
    assert_eq!(part.accounting(), before);
    assert_eq!(
        part.take_received(a, address + 256, 1793, 0),
        None,
        "over the end"
    );
    assert_eq!(
        part.accounting().receiving,
        0,
        "the chunk is back, the frame is not used"
    );
    assert_eq!(
        part.anomalies(),
        Anomalies {
            foreign_rx: 3,
            malformed_rx: 1,
            foreign_completion: 1,
            misuse: 0
        }
    );
    let address = part.lend_to_fill(a).expect("a chunk");
    let frame = part
        .take_received(a, address + 256, 1792, 0)
        .expect("to the very end");
    assert_eq!((frame.start, frame.len), (256, 1792));
    assert_eq!(part.take_received(a, address + 256, 64, 0), None, "twice");
    assert!(part.is_balanced());
}

#[test]
fn a_closed_sockets_chunks_come_back_after_the_quarantine_and_not_before() {
    let mut part = one_part(4);
    let (a, b) = (
        part.open_slot().expect("a slot"),
        part.open_slot().expect("a slot"),
    );
    part.lend_to_fill(a).expect("a chunk");
    let chunk = part.alloc().expect("a chunk");
    part.lend_to_tx(
        a,
        FrameSpan {
            chunk,
            start: 0,
            len: 64,
        },
    )
    .expect("a held frame");
    let other = part.lend_to_fill(b).expect("a chunk");
    let now = Instant::now();
    part.quarantine(ClosedSocket::for_test(part.id(), a), now);
    assert_eq!(part.accounting().quarantined, 2);
    assert_eq!(part.accounting().receiving, 1, "b keeps its own");
    assert_eq!(
        part.open_slot(),
        Some(Slot(2)),
        "a's number is not reused yet"
    );
    assert_eq!(
        part.reclaim(now + QUARANTINE.saturating_sub(Duration::from_nanos(1))),
        0
    );
    assert_eq!(part.reclaim(now + QUARANTINE), 2);
    assert!(part.is_balanced());
    assert_eq!(part.open_slot(), Some(a));
    assert!(part.take_received(b, other, 64, 0).is_some());
}

#[test]
fn another_parts_socket_is_not_taken_for_ones_own() {
    let (_, mut parts) = UmemArea::new(&[2, 2], 2048, false).expect("a small arena");
    let slot = parts[0].open_slot().expect("a slot");
    assert_eq!(parts[1].open_slot(), Some(slot));
    parts[1].lend_to_fill(slot).expect("a chunk");
    let stranger = ClosedSocket::for_test(parts[0].id(), slot);
    parts[1].quarantine(stranger, Instant::now());
    assert_eq!(parts[1].accounting().receiving, 1);
    assert_eq!(parts[1].anomalies().misuse, 1);
}

#[test]
fn impossible_shapes_are_refused() {
    for (shares, chunk_size) in [
        (&[][..], 2048),
        (&[0][..], 2048),
        (&[4][..], 1000),
        (&[4][..], 8192),
    ] {
        assert!(matches!(
            UmemArea::new(shares, chunk_size, false),
            Err(XskError::Arena { .. })
        ));
    }
    assert!(matches!(
        UmemArea::new(&[u32::MAX, 2], 2048, false),
        Err(XskError::Arena { .. })
    ));
}

#[test]
fn places_survive_packing() {
    for slot in [0, 1, 77, Place::SLOTS - 1] {
        let slot = Slot(slot);
        for place in [
            Place::Free,
            Place::Held,
            Place::Receiving(slot),
            Place::Sending(slot),
            Place::Quarantined(slot),
        ] {
            assert_eq!(Place::unpack(place.pack()), place);
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Alloc,
    Release(u32),
    Fill(u16),
    Receive(u16, u32, u32),
    Send(u16, u32, u16),
    Complete(u16, u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let chunk = 0_u32..10;
    let slot = 0_u16..3;
    let step = prop_oneof![
        Just(Step::Alloc),
        chunk.clone().prop_map(Step::Release),
        slot.clone().prop_map(Step::Fill),
        (slot.clone(), chunk.clone(), 0_u32..2100)
            .prop_map(|(slot, chunk, len)| Step::Receive(slot, chunk, len)),
        (slot.clone(), chunk.clone(), 0_u16..2100)
            .prop_map(|(slot, chunk, len)| Step::Send(slot, chunk, len)),
        (slot, chunk).prop_map(|(slot, chunk)| Step::Complete(slot, chunk)),
    ];
    prop::collection::vec(step, 0..300)
}

proptest! {
    /// The part against a plain map of places, for any calls, sensible or not: a call succeeds exactly
    /// when the map allows it, and nothing is ever lost or doubled.
    #[test]
    fn every_chunk_is_in_exactly_one_place(steps in steps()) {
        let mut part = one_part(8);
        let slots: Vec<Slot> = (0..3).map(|_| part.open_slot().expect("a slot")).collect();
        let mut model: BTreeMap<u32, Place> = (0..8).map(|chunk| (chunk, Place::Free)).collect();
        for step in steps {
            match step {
                Step::Alloc => match part.alloc() {
                    Some(chunk) => prop_assert_eq!(model.insert(chunk, Place::Held), Some(Place::Free)),
                    None => prop_assert!(model.values().all(|&place| place != Place::Free)),
                },
                Step::Release(chunk) => {
                    part.release(chunk);
                    if model.get(&chunk) == Some(&Place::Held) {
                        model.insert(chunk, Place::Free);
                    }
                }
                Step::Fill(slot) => {
                    let slot = slots[usize::from(slot)];
                    match part.lend_to_fill(slot) {
                        Some(address) => prop_assert_eq!(
                            model.insert((address / 2048) as u32, Place::Receiving(slot)), Some(Place::Free)
                        ),
                        None => prop_assert!(model.values().all(|&place| place != Place::Free)),
                    }
                }
                Step::Receive(slot, chunk, len) => {
                    let slot = slots[usize::from(slot)];
                    let got = part.take_received(slot, u64::from(chunk) * 2048 + 16, len, 0);
                    let ours = model.get(&chunk) == Some(&Place::Receiving(slot));
                    prop_assert_eq!(got.is_some(), ours && len <= 2032);
                    if ours {
                        model.insert(chunk, if len <= 2032 { Place::Held } else { Place::Free });
                    }
                }
                Step::Send(slot, chunk, len) => {
                    let slot = slots[usize::from(slot)];
                    let got = part.lend_to_tx(slot, FrameSpan { chunk, start: 16, len });
                    let ours = model.get(&chunk) == Some(&Place::Held) && len <= 2032;
                    prop_assert_eq!(got, ours.then(|| u64::from(chunk) * 2048 + 16));
                    if ours {
                        model.insert(chunk, Place::Sending(slot));
                    }
                }
                Step::Complete(slot, chunk) => {
                    let slot = slots[usize::from(slot)];
                    let ours = model.get(&chunk) == Some(&Place::Sending(slot));
                    prop_assert_eq!(part.take_completed(slot, u64::from(chunk) * 2048), ours);
                    if ours {
                        model.insert(chunk, Place::Free);
                    }
                }
            }
            prop_assert!(part.is_balanced());
            let held = model.values().filter(|&&place| place == Place::Held).count();
            prop_assert_eq!(part.accounting().held as usize, held);
        }
    }
}
