//! The ring logic against a kernel that is a thread: under loom, all interleavings and all reorderings
//! that the memory model allows; and in plain sequences against a queue.

use std::collections::VecDeque;
use std::sync::Arc as StdArc;
use std::sync::atomic::{AtomicU32 as StdAtomicU32, Ordering};

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::AtomicU32;
use proptest::prelude::*;

use super::{Consumer, Index, Producer, RingMemory};

/// A ring whose slots loom watches: an access that nothing orders after the other side's is an error.
struct Watched {
    producer: AtomicU32,
    consumer: AtomicU32,
    slots: Vec<UnsafeCell<u64>>,
}

/// One side's handle. `PUBLISH_RELAXED` is the broken variant: it stores its index without Release.
struct Side<const PUBLISH_RELAXED: bool>(Arc<Watched>);

fn watched(len: usize) -> Arc<Watched> {
    Arc::new(Watched {
        producer: AtomicU32::new(0),
        consumer: AtomicU32::new(0),
        slots: (0..len).map(|_| UnsafeCell::new(0)).collect(),
    })
}

impl<const PUBLISH_RELAXED: bool> Side<PUBLISH_RELAXED> {
    fn index(&self, which: Index) -> &AtomicU32 {
        match which {
            Index::Producer => &self.0.producer,
            Index::Consumer => &self.0.consumer,
        }
    }

    fn slot(&self, index: u32) -> &UnsafeCell<u64> {
        &self.0.slots[index as usize % self.0.slots.len()]
    }
}

impl<const PUBLISH_RELAXED: bool> RingMemory for Side<PUBLISH_RELAXED> {
    type Descriptor = u64;

    fn slots(&self) -> u32 {
        self.0.slots.len() as u32
    }

    fn load(&self, which: Index, order: Ordering) -> u32 {
        self.index(which).load(order)
    }

    fn store(&self, which: Index, value: u32, order: Ordering) {
        self.index(which).store(
            value,
            if PUBLISH_RELAXED {
                Ordering::Relaxed
            } else {
                order
            },
        );
    }

    fn needs_wakeup(&self) -> bool {
        false
    }

    fn read(&self, index: u32) -> Option<u64> {
        // SAFETY: loom panics if another thread's write is not ordered before this read.
        Some(self.slot(index).with(|at| unsafe { *at }))
    }

    fn write(&self, index: u32, descriptor: u64) {
        // SAFETY: loom panics if another thread's access is not ordered before this write.
        self.slot(index).with_mut(|at| unsafe { *at = descriptor });
    }
}

/// One side sends 1, 2, 3 through two slots, in two batches; the other takes them.
fn pass_three<const PRODUCER_RELAXED: bool, const CONSUMER_RELAXED: bool>() {
    loom::model(|| {
        let ring = watched(2);
        let theirs = Arc::clone(&ring);
        let sender = loom::thread::spawn(move || {
            let mut producer = Producer::new(Side::<PRODUCER_RELAXED>(theirs));
            assert!(producer.push(1));
            assert!(producer.push(2));
            assert!(!producer.push(4), "no third slot");
            producer.publish();
            while !producer.push(3) {
                loom::thread::yield_now();
            }
            producer.publish();
        });
        let mut consumer = Consumer::new(Side::<CONSUMER_RELAXED>(ring));
        let mut taken = Vec::new();
        while taken.len() < 3 {
            match consumer.pop() {
                Some(value) => taken.push(value),
                None => loom::thread::yield_now(),
            }
            consumer.release();
        }
        sender.join().expect("the sender ends");
        assert_eq!(taken, [1, 2, 3]);
    });
}

#[test]
fn loom_passes_all_in_order_and_never_touches_the_others_slots() {
    pass_three::<false, false>();
}

#[test]
#[should_panic(expected = "Causality violation")]
fn loom_catches_a_producer_that_publishes_without_release() {
    pass_three::<true, false>();
}

#[test]
#[should_panic(expected = "Causality violation")]
fn loom_catches_a_consumer_that_releases_without_release() {
    pass_three::<false, true>();
}

/// A ring in plain memory, for one thread.
#[derive(Clone)]
struct Plain(
    StdArc<(
        StdAtomicU32,
        StdAtomicU32,
        Vec<std::sync::atomic::AtomicU64>,
    )>,
);

impl Plain {
    fn starting_at(index: u32, len: usize) -> Self {
        let slots = (0..len)
            .map(|_| std::sync::atomic::AtomicU64::new(0))
            .collect();
        Self(StdArc::new((
            StdAtomicU32::new(index),
            StdAtomicU32::new(index),
            slots,
        )))
    }

    fn index(&self, which: Index) -> &StdAtomicU32 {
        match which {
            Index::Producer => &self.0.0,
            Index::Consumer => &self.0.1,
        }
    }

    fn slot(&self, index: u32) -> &std::sync::atomic::AtomicU64 {
        &self.0.2[index as usize & (self.0.2.len() - 1)]
    }
}

impl RingMemory for Plain {
    type Descriptor = u64;

    fn slots(&self) -> u32 {
        self.0.2.len() as u32
    }

    fn load(&self, which: Index, order: Ordering) -> u32 {
        self.index(which).load(order)
    }

    fn store(&self, which: Index, value: u32, order: Ordering) {
        self.index(which).store(value, order);
    }

    fn needs_wakeup(&self) -> bool {
        false
    }

    fn read(&self, index: u32) -> Option<u64> {
        Some(self.slot(index).load(Ordering::Relaxed))
    }

    fn write(&self, index: u32, descriptor: u64) {
        self.slot(index).store(descriptor, Ordering::Relaxed);
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Push(u8),
    Publish,
    Pop(u8),
    Release,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (1_u8..6).prop_map(Step::Push),
        Just(Step::Publish),
        (1_u8..6).prop_map(Step::Pop),
        Just(Step::Release),
    ];
    prop::collection::vec(step, 0..200)
}

proptest! {
    /// Whatever the order of calls, and wherever the indices start (they wrap at 2^32), the two sides
    /// behave as a bounded queue with a staging area at each end.
    #[test]
    fn a_ring_is_a_bounded_queue(
        start in prop_oneof![Just(0_u32), Just(u32::MAX), (u32::MAX - 20)..=u32::MAX, any::<u32>()],
        log_len in 0_u32..4,
        steps in steps(),
    ) {
        let len = 1_usize << log_len;
        let memory = Plain::starting_at(start, len);
        let (mut producer, mut consumer) = (Producer::new(memory.clone()), Consumer::new(memory));
        let (mut staged, mut visible, mut popped) = (VecDeque::new(), VecDeque::new(), 0_usize);
        let mut number = 0;
        for step in steps {
            match step {
                Step::Push(count) => for _ in 0..count {
                    let fits = staged.len() + visible.len() + popped < len;
                    prop_assert_eq!(producer.push(number), fits);
                    if fits {
                        staged.push_back(number);
                        number += 1;
                    }
                },
                Step::Publish => {
                    prop_assert_eq!(producer.publish() as usize, staged.len());
                    visible.append(&mut staged);
                }
                Step::Pop(count) => for _ in 0..count {
                    let expected = visible.pop_front();
                    prop_assert_eq!(consumer.pop(), expected);
                    popped += usize::from(expected.is_some());
                },
                Step::Release => {
                    prop_assert_eq!(consumer.release() as usize, popped);
                    popped = 0;
                }
            }
            prop_assert_eq!(producer.staged() as usize, staged.len());
            prop_assert_eq!(producer.unconsumed() as usize, visible.len() + popped);
            prop_assert_eq!(consumer.available(u32::MAX) as usize, visible.len());
        }
    }

    /// Indices that no kernel would write: nothing is read that was not offered, and nothing panics.
    #[test]
    fn impossible_indices_make_a_ring_full_or_empty(ours in any::<u32>(), theirs in any::<u32>()) {
        let memory = Plain::starting_at(ours, 4);
        let mut producer = Producer::new(memory.clone());
        let mut consumer = Consumer::new(memory.clone());
        memory.store(Index::Consumer, theirs, Ordering::Relaxed);
        prop_assert!(producer.room(1) <= 4);
        prop_assert!(producer.unconsumed() <= 4);
        memory.store(Index::Producer, theirs, Ordering::Relaxed);
        prop_assert!(consumer.available(u32::MAX) <= 4);
    }
}
