//! What the flow table is made of: the real thing, or loom's, which tries all interleavings and orderings.

#[cfg(not(loom))]
mod real {
    pub(crate) use std::sync::atomic::AtomicU64;
    use std::sync::atomic::{Ordering, fence};

    /// Between the loads of an entry's words and the second load of its version.
    #[inline(always)]
    pub(crate) fn read_fence() {
        fence(Ordering::Acquire);
    }

    /// Between making an entry's version odd and storing its words.
    #[inline(always)]
    pub(crate) fn write_fence() {
        fence(Ordering::Release);
    }

    /// Zero if an entry is what it was.
    #[inline(always)]
    pub(crate) fn change(before: u64, after: u64) -> u64 {
        before ^ after
    }

    /// Whether a word of tags is locked, `lock` being its bit.
    #[inline(always)]
    pub(crate) fn is_locked(word: u64, lock: u64) -> bool {
        word & lock != 0
    }
}

#[cfg(loom)]
mod model {
    use loom::sync::atomic::{AtomicU64 as Model, fence};
    use std::sync::atomic::Ordering;

    use super::sabotage::{self, Sabotage};

    #[derive(Debug)]
    pub struct AtomicU64(Model);

    impl AtomicU64 {
        pub(crate) fn new(value: u64) -> Self {
            Self(Model::new(value))
        }

        pub(crate) fn load(&self, order: Ordering) -> u64 {
            self.0.load(order)
        }

        pub(crate) fn store(&self, value: u64, order: Ordering) {
            let is_broken = sabotage::is(Sabotage::NoRelease);
            self.0
                .store(value, if is_broken { Ordering::Relaxed } else { order });
        }

        pub(crate) fn compare_exchange(
            &self,
            current: u64,
            new: u64,
            success: Ordering,
            failure: Ordering,
        ) -> Result<u64, u64> {
            self.0.compare_exchange(current, new, success, failure)
        }

        pub(crate) fn fetch_and(&self, bits: u64, order: Ordering) -> u64 {
            self.0.fetch_and(bits, order)
        }

        pub(crate) fn fetch_or(&self, bits: u64, order: Ordering) -> u64 {
            self.0.fetch_or(bits, order)
        }
    }

    pub(crate) fn read_fence() {
        if !sabotage::is(Sabotage::NoReadFence) {
            fence(Ordering::Acquire);
        }
    }

    pub(crate) fn write_fence() {
        if !sabotage::is(Sabotage::NoWriteFence) {
            fence(Ordering::Release);
        }
    }

    pub(crate) fn change(before: u64, after: u64) -> u64 {
        if sabotage::is(Sabotage::NoVersion) {
            0
        } else {
            before ^ after
        }
    }

    pub(crate) fn is_locked(word: u64, lock: u64) -> bool {
        word & lock != 0 && !sabotage::is(Sabotage::NoLock)
    }
}

#[cfg(loom)]
pub(super) use model::{AtomicU64, change, is_locked, read_fence, write_fence};
#[cfg(not(loom))]
pub(super) use real::{AtomicU64, change, is_locked, read_fence, write_fence};

/// Breaks the protocol on purpose, to show that loom notices. For models only.
#[cfg(loom)]
pub mod sabotage {
    use std::cell::Cell;

    /// What is broken.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Sabotage {
        /// Nothing.
        Nothing,
        /// A reader's second look at the version may come before its loads of the words.
        NoReadFence,
        /// A writer's words may come before the version that announces them.
        NoWriteFence,
        /// A reader does not look at the version again.
        NoVersion,
        /// Nobody minds a locked word.
        NoLock,
        /// Entries are published without Release.
        NoRelease,
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
