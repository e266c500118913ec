#![expect(
    unsafe_code,
    reason = "an allocator is an unsafe trait; this one counts and hands on"
)]
//! An allocator that counts, to say what a structure takes.
//!
//! A bench that wants figures installs it: `#[global_allocator] static ALLOC: Counting = Counting;`

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use flowtable::lpm::page_memory;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    // A thread's own: a test's harness, for one, speaks up beside a test that takes long.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator with three counters. One thread measures at a time.
#[derive(Debug)]
pub struct Counting;

/// What some code did to the heap, and to the pages of IPv4 tables, which are not on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes more in use after it than before.
    pub kept_bytes: usize,
    /// Bytes more in use at its worst moment than before; at most that, if it gave back pages of tables.
    pub peak_bytes: usize,
    /// Calls of the measuring thread that asked for memory.
    pub allocations: usize,
}

/// Runs `work` and says what it did to memory; of the heap nothing unless [`Counting`] is installed.
pub fn measure<T>(work: impl FnOnce() -> T) -> (T, Footprint) {
    let (live, allocations) = (LIVE.load(Relaxed), ALLOCATIONS.get());
    PEAK.store(live, Relaxed);
    let pages = page_memory();
    let made = work();
    let pages_after = page_memory();
    let footprint = Footprint {
        kept_bytes: (LIVE.load(Relaxed) + pages_after.in_use).saturating_sub(live + pages.in_use),
        peak_bytes: PEAK.load(Relaxed).saturating_sub(live) + pages_after.taken - pages.taken,
        allocations: ALLOCATIONS.get() - allocations,
    };
    (made, footprint)
}

fn took(bytes: usize) {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
    let live = LIVE.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(live, Relaxed);
}

fn gave(bytes: usize) {
    LIVE.fetch_sub(bytes, Relaxed);
}

// SAFETY: every call goes to `System` with the caller's arguments unchanged and its answer is returned
// unchanged, so that `System`'s guarantees are ours. The counters are atomics in statics and a thread's own number,
// which is there from the beginning and has nothing to drop: they neither allocate nor unwind.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller keeps `alloc`'s contract: `layout` is not empty.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller keeps `alloc_zeroed`'s contract: `layout` is not empty.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        gave(layout.size());
        // SAFETY: the caller keeps `dealloc`'s contract: `ptr` came from this allocator, that is from
        // `System`, with this `layout`.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        gave(layout.size());
        took(new_size);
        // SAFETY: the caller keeps `realloc`'s contract: `ptr` came from `System` with this `layout`, and
        // `new_size` is valid for its alignment.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    #[global_allocator]
    static ALLOC: Counting = Counting;

    #[test]
    fn what_is_kept_and_what_was_needed_are_told_apart() {
        let (kept, footprint) = measure(|| {
            drop(std::hint::black_box(vec![1u8; 3 << 20]));
            vec![1u8; 1 << 20]
        });
        // Other tests allocate beside this one, far less than that.
        assert_eq!(footprint.kept_bytes >> 20, kept.len() >> 20);
        assert_eq!(footprint.peak_bytes >> 20, 3);
        assert_eq!(footprint.allocations, 2);
    }

    #[test]
    fn what_other_threads_allocate_is_theirs() {
        let both_there = Barrier::new(2);
        let ((), footprint) = thread::scope(|scope| {
            scope.spawn(|| {
                both_there.wait();
                std::hint::black_box(vec![1u8; 100]);
                both_there.wait();
            });
            measure(|| {
                both_there.wait();
                both_there.wait();
            })
        });
        assert_eq!(footprint.allocations, 0);
    }
}
