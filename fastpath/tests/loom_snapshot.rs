//! The snapshots' protocol under loom: all interleavings, and all orderings that the memory model allows.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p fastpath --release --test loom_snapshot`
#![cfg(loom)]

use std::sync::Arc as StdArc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fastpath::snapshot::sabotage::{self, Sabotage};
use fastpath::snapshot::{Publisher, Subscriber};
use loom::cell::UnsafeCell;
use loom::model::Builder;
use loom::sync::Arc;
use loom::thread::{self, ThreadId};

/// Values that are published, the first included.
const VALUES: usize = 3;

/// A value that knows its generation and where it belongs.
struct Value {
    generation: usize,
    home: ThreadId,
    /// What only this value's users look at; loom watches it.
    used: UnsafeCell<()>,
}

impl Value {
    fn new(generation: usize) -> Self {
        Self {
            generation,
            home: thread::current().id(),
            used: UnsafeCell::new(()),
        }
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // A model that failed already.
            return;
        }
        assert_eq!(thread::current().id(), self.home, "freed by the subscriber");
        // Frees it, as far as loom can see: no use of it may be under way.
        self.used.with_mut(|_| ());
    }
}

/// Things outside of the values that go away with a generation: a port's sockets, for one.
type Outside = Arc<[UnsafeCell<()>; VALUES]>;

/// A poller: looks at the newest value, and uses what belongs to it.
fn poll(subscriber: &mut Subscriber<Value>, outside: &Outside, batches: usize) {
    let mut last = 0;
    for _ in 0..batches {
        let value = subscriber.refresh();
        assert!(value.generation >= last, "no way back");
        last = value.generation;
        value.used.with(|_| ());
        outside[value.generation].with(|_| ());
    }
}

/// Runs a publisher and its subscribers in every way, or with this many preemptions at most; returns in how many ways.
fn explore(subscribers: usize, batches: usize, preemptions: Option<usize>) -> usize {
    let executions = StdArc::new(AtomicUsize::new(0));
    let count = StdArc::clone(&executions);
    let mut model = Builder::new();
    model.preemption_bound = preemptions;
    model.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        let outside: Outside = Arc::new(std::array::from_fn(|_| UnsafeCell::new(())));
        let mut publisher = Publisher::new(Value::new(0));
        let pollers: Vec<_> = (0..subscribers)
            .map(|_| {
                let mut subscriber = publisher.subscribe();
                let outside = Arc::clone(&outside);
                thread::spawn(move || {
                    poll(&mut subscriber, &outside, batches);
                    subscriber
                })
            })
            .collect();
        for generation in 1..VALUES {
            assert_eq!(publisher.publish(Value::new(generation)), generation as u64);
            let in_force = publisher.in_force() as usize;
            assert!(in_force <= generation, "ahead of what was published");
            // Nobody uses an older generation any more, so what belonged to it may go.
            for old in &outside[..in_force] {
                old.with_mut(|_| ());
            }
        }
        let subscribers: Vec<_> = pollers
            .into_iter()
            .map(|poller| poller.join().expect("the poller ends"))
            .collect();
        for mut subscriber in subscribers {
            assert_eq!(
                subscriber.refresh().generation,
                VALUES - 1,
                "the newest is found"
            );
        }
        assert_eq!(publisher.in_force(), VALUES as u64 - 1);
        assert_eq!(publisher.collect(), 1, "only the newest is kept");
    });
    executions.load(Ordering::Relaxed)
}

#[test]
fn one_subscriber_sees_values_in_order_and_frees_none() {
    let executions = explore(1, 3, None);
    assert!(executions > 100, "{executions} executions check nothing");
}

#[test]
fn generations_are_in_force_only_when_both_subscribers_use_them() {
    // All of them are a million and take a minute.
    let executions = explore(2, 1, Some(3));
    assert!(executions > 100, "{executions} executions check nothing");
}

#[test]
#[should_panic(expected = "Causality violation")]
fn loom_catches_generations_stored_without_release() {
    sabotage::set(Sabotage::RelaxedStores);
    explore(1, 2, None);
}

#[test]
#[should_panic(expected = "freed by the subscriber")]
fn loom_catches_a_publisher_that_forgets_who_uses_a_value() {
    sabotage::set(Sabotage::ForgottenUsers);
    explore(1, 2, None);
}
