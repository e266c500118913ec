//! Publishing immutable values to pollers without stopping them.
//!
//! One publisher (the control thread), a fixed set of subscribers (one a poller). The publisher puts the
//! new value into each subscriber's mailbox and then counts the generation up; a subscriber compares one
//! number a batch and empties its mailbox when it changed. Nobody waits for anybody, and since the
//! publisher keeps a reference to each value until it is the last, the memory is always freed on the
//! publisher's thread, never by a poller.
//!
//! Checked by loom: `RUSTFLAGS="--cfg loom" cargo test -p fastpath --release --test loom_snapshot`.

mod sync;

use std::sync::atomic::Ordering;

use crossbeam_utils::CachePadded;
#[cfg(loom)]
pub use sync::sabotage;
use sync::{Arc, AtomicU64, Slot, strong_count};

/// What a publisher and one subscriber share.
#[derive(Debug)]
struct Mailbox<T> {
    /// The newest value that the subscriber has not taken. The publisher replaces, the subscriber takes.
    slot: Slot<(u64, Arc<T>)>,
    /// The newest generation in the slot or taken from it. Written by the publisher only.
    offered: CachePadded<AtomicU64>,
    /// The generation that the subscriber uses. Written by the subscriber only.
    in_force: CachePadded<AtomicU64>,
}

/// The control thread's end.
#[derive(Debug)]
pub struct Publisher<T> {
    mailboxes: Vec<Arc<Mailbox<T>>>,
    /// Every value that a subscriber may still use, with its generation.
    kept: Vec<Arc<T>>,
    generation: u64,
}

/// A poller's end. `Send`, and of no use to two threads: `refresh` takes `&mut self`.
#[derive(Debug)]
pub struct Subscriber<T> {
    mailbox: Arc<Mailbox<T>>,
    current: Arc<T>,
    seen: u64,
}

impl<T> Publisher<T> {
    /// A publisher whose first value is `initial`, generation 0.
    pub fn new(initial: T) -> Self {
        Self {
            mailboxes: Vec::new(),
            kept: vec![Arc::new(initial)],
            generation: 0,
        }
    }

    /// A new subscriber, which starts with the newest value.
    ///
    /// # Panics
    /// Never: the publisher always keeps the newest value.
    pub fn subscribe(&mut self) -> Subscriber<T> {
        let current = Arc::clone(self.latest());
        let mailbox = Arc::new(Mailbox {
            slot: Slot::empty(),
            offered: CachePadded::new(AtomicU64::new(self.generation)),
            in_force: CachePadded::new(AtomicU64::new(self.generation)),
        });
        self.mailboxes.push(Arc::clone(&mailbox));
        Subscriber {
            mailbox,
            current,
            seen: self.generation,
        }
    }

    /// The newest value.
    ///
    /// # Panics
    /// Never: the publisher always keeps the newest value.
    #[expect(clippy::expect_used, reason = "on the publisher's thread, and never")]
    pub fn latest(&self) -> &Arc<T> {
        self.kept.last().expect("the newest value is kept")
    }

    /// Offers a new value to every subscriber and frees the values that nobody uses any more.
    /// Returns its generation.
    pub fn publish(&mut self, value: T) -> u64 {
        let value = Arc::new(value);
        self.generation += 1;
        for mailbox in &self.mailboxes {
            // The value that is pushed out was never taken; `kept` holds the reference that counts.
            drop(mailbox.slot.replace((self.generation, Arc::clone(&value))));
            mailbox.offered.store(self.generation, Ordering::Release);
        }
        self.kept.push(value);
        self.collect();
        self.generation
    }

    /// Frees the values that nobody uses any more. Returns how many are still in use, the newest included.
    pub fn collect(&mut self) -> usize {
        let newest = self.kept.len() - 1;
        let mut index = 0;
        self.kept.retain(|value| {
            let keep = index == newest || strong_count(value) > 1;
            index += 1;
            keep
        });
        self.kept.len()
    }

    /// The generation of the newest value.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// The oldest generation that a subscriber still uses.
    pub fn in_force(&self) -> u64 {
        let used = self
            .mailboxes
            .iter()
            .map(|mailbox| mailbox.in_force.load(Ordering::Acquire));
        used.min().unwrap_or(self.generation)
    }
}

impl<T> Subscriber<T> {
    /// Takes the newest value when there is one, and returns the value in force. One relaxed load when
    /// nothing changed. Called once a batch: a whole batch sees one value.
    #[inline]
    pub fn refresh(&mut self) -> &Arc<T> {
        if self.mailbox.offered.load(Ordering::Relaxed) != self.seen {
            self.take();
        }
        &self.current
    }

    /// The value in force, without a look at the mailbox.
    pub const fn current(&self) -> &Arc<T> {
        &self.current
    }

    #[cold]
    fn take(&mut self) {
        // A value newer than `offered` may be here already: the generation travels with the value.
        if let Some((generation, value)) = self.mailbox.slot.take() {
            self.current = value;
            self.seen = generation;
            self.mailbox.in_force.store(generation, Ordering::Release);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_subscriber_sees_the_newest_value_and_the_publisher_frees_the_others() {
        let mut publisher = Publisher::new(0);
        let mut subscriber = publisher.subscribe();
        assert_eq!(**subscriber.refresh(), 0);
        publisher.publish(1);
        assert_eq!(publisher.publish(2), 2);
        assert_eq!(publisher.in_force(), 0);
        assert_eq!(**subscriber.refresh(), 2);
        assert_eq!(publisher.in_force(), 2);
        assert_eq!(publisher.collect(), 1);
    }

    #[test]
    fn a_value_in_use_is_kept() {
        let mut publisher = Publisher::new(0);
        let mut lazy = publisher.subscribe();
        let mut eager = publisher.subscribe();
        publisher.publish(1);
        eager.refresh();
        assert_eq!(
            publisher.collect(),
            2,
            "the lazy one still uses generation 0"
        );
        assert_eq!(**lazy.current(), 0);
        lazy.refresh();
        assert_eq!(publisher.collect(), 1);
    }

    #[test]
    fn values_are_dropped_by_the_publishing_thread_only() {
        struct Watched(std::thread::ThreadId);
        impl Drop for Watched {
            fn drop(&mut self) {
                assert_eq!(std::thread::current().id(), self.0);
            }
        }
        let home = std::thread::current().id();
        let mut publisher = Publisher::new(Watched(home));
        let mut subscriber = publisher.subscribe();
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let ready = Arc::new(std::sync::Barrier::new(2));
        let poller = {
            let (stop, ready) = (Arc::clone(&stop), Arc::clone(&ready));
            std::thread::spawn(move || {
                ready.wait();
                let mut refreshed = 0_u64;
                loop {
                    subscriber.refresh();
                    refreshed += 1;
                    if stop.load(Ordering::Relaxed) {
                        return (subscriber, refreshed);
                    }
                }
            })
        };
        ready.wait();
        for _ in 0..10_000 {
            publisher.publish(Watched(home));
        }
        stop.store(true, Ordering::Relaxed);
        let (subscriber, refreshed) = poller.join().expect("no value was dropped by the poller");
        assert!(refreshed > 0);
        drop(subscriber);
    }
}
