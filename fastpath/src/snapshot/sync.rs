//! What the snapshots are made of: the real thing, or loom's, which tries all interleavings and orderings.

#[cfg(not(loom))]
mod real {
    use crossbeam_queue::ArrayQueue;

    pub(crate) use std::sync::Arc;
    pub(crate) use std::sync::atomic::AtomicU64;

    /// A place for one item that two threads may replace and take without waiting for each other.
    #[derive(Debug)]
    pub(crate) struct Slot<T>(ArrayQueue<T>);

    impl<T> Slot<T> {
        pub(crate) fn empty() -> Self {
            Self(ArrayQueue::new(1))
        }

        /// Puts an item in; the one that was there comes out.
        pub(crate) fn replace(&self, item: T) -> Option<T> {
            self.0.force_push(item)
        }

        pub(crate) fn take(&self) -> Option<T> {
            self.0.pop()
        }
    }

    pub(crate) fn strong_count<T>(value: &Arc<T>) -> usize {
        Arc::strong_count(value)
    }
}

#[cfg(loom)]
mod model {
    use std::sync::PoisonError;
    use std::sync::atomic::Ordering;

    pub(crate) use loom::sync::Arc;

    use super::sabotage::{self, Sabotage};

    /// Stands for the queue of one: as atomic as it, so that the protocol around it is what is checked.
    #[derive(Debug)]
    pub(crate) struct Slot<T>(loom::sync::Mutex<Option<T>>);

    impl<T> Slot<T> {
        pub(crate) fn empty() -> Self {
            Self(loom::sync::Mutex::new(None))
        }

        fn lock(&self) -> loom::sync::MutexGuard<'_, Option<T>> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }

        pub(crate) fn replace(&self, item: T) -> Option<T> {
            self.lock().replace(item)
        }

        pub(crate) fn take(&self) -> Option<T> {
            self.lock().take()
        }
    }

    #[derive(Debug)]
    pub(crate) struct AtomicU64(loom::sync::atomic::AtomicU64);

    impl AtomicU64 {
        pub(crate) fn new(value: u64) -> Self {
            Self(loom::sync::atomic::AtomicU64::new(value))
        }

        pub(crate) fn load(&self, order: Ordering) -> u64 {
            self.0.load(order)
        }

        pub(crate) fn store(&self, value: u64, order: Ordering) {
            let is_broken = sabotage::is(Sabotage::RelaxedStores);
            self.0
                .store(value, if is_broken { Ordering::Relaxed } else { order });
        }
    }

    pub(crate) fn strong_count<T>(value: &Arc<T>) -> usize {
        if sabotage::is(Sabotage::ForgottenUsers) {
            return 1;
        }
        Arc::strong_count(value)
    }
}

#[cfg(loom)]
pub(super) use model::{Arc, AtomicU64, Slot, strong_count};
#[cfg(not(loom))]
pub(super) use real::{Arc, AtomicU64, Slot, strong_count};

/// Breaks the protocol on purpose, to show that loom notices. For models only.
#[cfg(loom)]
pub mod sabotage {
    use std::cell::Cell;

    /// What is broken.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Sabotage {
        /// Nothing.
        Nothing,
        /// Generations are stored without Release.
        RelaxedStores,
        /// The publisher believes that nobody uses a value any more.
        ForgottenUsers,
    }

    thread_local! {
        // All threads of a model run on the one that started it.
        static BROKEN: Cell<Sabotage> = const { Cell::new(Sabotage::Nothing) };
    }

    /// Breaks something in all models that this thread runs from now on.
    pub fn set(sabotage: Sabotage) {
        BROKEN.set(sabotage);
    }

    pub(super) fn is(sabotage: Sabotage) -> bool {
        BROKEN.get() == sabotage
    }
}
