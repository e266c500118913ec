//! An entry: the words of one direction under a version, and the counters that have none.

use core::sync::atomic::Ordering;

use super::sync::{AtomicU64, read_fence, unchanged, write_fence};

/// Words that are loaded and stored together.
pub trait Cells: Send + Sync {
    /// What they hold.
    type Words: Copy;

    fn empty() -> Self;
    fn load(&self) -> Self::Words;
    fn store(&self, words: &Self::Words);
}

impl<const N: usize> Cells for [AtomicU64; N] {
    type Words = [u64; N];

    fn empty() -> Self {
        core::array::from_fn(|_| AtomicU64::new(0))
    }

    #[inline(always)]
    fn load(&self) -> [u64; N] {
        core::array::from_fn(|at| self[at].load(Ordering::Relaxed))
    }

    #[inline(always)]
    fn store(&self, words: &[u64; N]) {
        for (cell, &word) in self.iter().zip(words) {
            cell.store(word, Ordering::Relaxed);
        }
    }
}

/// The first word of an entry: its version, and the slot of the other direction's entry.
///
/// The lowest bit of the version is set while the entry is empty or being changed. The 24 highest count
/// the connections that have used the slot, the seven between the changes of this one; should these
/// overflow, references to the entry are gone, and nothing else happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head(u64);

const UNSTABLE: u32 = 1;
const INCARNATION: u32 = 8;

impl Head {
    /// Of a slot that was never used.
    const EMPTY: Self = Self::of(UNSTABLE, 0);

    const fn of(version: u32, partner: u32) -> Self {
        Self(version as u64 | (partner as u64) << 32)
    }

    const fn version(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    pub(super) const fn partner(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Whether the entry is in use and nobody changes it.
    #[inline(always)]
    pub(super) const fn is_stable(self) -> bool {
        self.version() & UNSTABLE == 0
    }

    /// Which of the connections that have used the slot.
    #[inline(always)]
    pub(super) const fn incarnation(self) -> u32 {
        self.version() >> INCARNATION
    }

    const fn locked(self) -> Self {
        Self::of(self.version() | UNSTABLE, self.partner())
    }

    /// After a change.
    const fn changed(self) -> Self {
        Self::of((self.version() & !UNSTABLE).wrapping_add(2), self.partner())
    }

    /// Empty, the next connection's number in it.
    const fn removed(self) -> Self {
        let next = self.incarnation().wrapping_add(1) << INCARNATION;
        Self::of(next | UNSTABLE, self.partner())
    }

    /// The first of the connection whose number is in it already.
    const fn published(self, partner: u32) -> Self {
        Self::of(self.version() & !UNSTABLE, partner)
    }
}

/// One direction of a connection. IPv4: one cache line; IPv6: two, the first enough without NAT.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Entry<C> {
    head: AtomicU64,
    /// Written by whoever set the lowest bit of the version.
    cells: C,
    /// Written by the direction's poller only, as the next two.
    pub(super) dir: AtomicU64,
    /// Last seen in the 24 lowest bits, packets above.
    seen: AtomicU64,
    bytes: AtomicU64,
}

const _: () = assert!(cfg!(loom) || size_of::<Entry<[AtomicU64; 4]>>() == 64);
const _: () = assert!(cfg!(loom) || size_of::<Entry<[AtomicU64; 9]>>() == 128);

/// The counters of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) last_seen: u32,
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

const PACKETS: u32 = 24;

impl<C: Cells> Entry<C> {
    pub(super) fn empty() -> Self {
        Self {
            head: AtomicU64::new(Head::EMPTY.0),
            cells: C::empty(),
            dir: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    #[inline(always)]
    pub(super) fn head(&self) -> Head {
        Head(self.head.load(Ordering::Acquire))
    }

    /// The words, whatever state they are in.
    #[inline(always)]
    pub(super) fn words(&self) -> C::Words {
        self.cells.load()
    }

    /// Whether the words that were loaded since `head` was are the entry's of that version.
    #[inline(always)]
    pub(super) fn is_still(&self, head: Head) -> bool {
        read_fence();
        unchanged(head.0, self.head.load(Ordering::Relaxed))
    }

    /// Keeps everybody else from changing the entry, if it is what it was.
    pub(super) fn try_lock(&self, head: Head) -> bool {
        let (was, locked) = (head.0, head.locked().0);
        self.head
            .compare_exchange(was, locked, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Ends [`Entry::try_lock`] without a change.
    pub(super) fn unlock(&self, head: Head) {
        self.head.store(head.0, Ordering::Release);
    }

    /// Ends [`Entry::try_lock`] with other words.
    pub(super) fn change(&self, head: Head, words: &C::Words) -> Head {
        write_fence();
        self.cells.store(words);
        let after = head.changed();
        self.head.store(after.0, Ordering::Release);
        after
    }

    /// Ends [`Entry::try_lock`] by taking the entry out of use.
    pub(super) fn remove(&self, head: Head) {
        self.head.store(head.removed().0, Ordering::Release);
    }

    /// Fills the entry of a claimed slot and puts it into use.
    pub(super) fn publish(&self, partner: u32, words: &C::Words, dir: u64, seen: u32) -> Head {
        // Empty, and the claim has made visible what its last user left.
        let head = Head(self.head.load(Ordering::Relaxed));
        write_fence();
        self.cells.store(words);
        self.dir.store(dir, Ordering::Relaxed);
        self.seen.store(seen as u64, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
        let after = head.published(partner);
        self.head.store(after.0, Ordering::Release);
        after
    }

    /// Counts a packet.
    #[inline(always)]
    pub(super) fn touch(&self, seen: u32, bytes: u32) {
        let packets = (self.seen.load(Ordering::Relaxed) >> PACKETS).wrapping_add(1);
        self.seen
            .store(packets << PACKETS | seen as u64, Ordering::Relaxed);
        let sum = self
            .bytes
            .load(Ordering::Relaxed)
            .wrapping_add(bytes as u64);
        self.bytes.store(sum, Ordering::Relaxed);
    }

    pub(super) fn counters(&self) -> Counters {
        let seen = self.seen.load(Ordering::Relaxed);
        Counters {
            last_seen: seen as u32 & super::clock::SEEN_MASK,
            packets: seen >> PACKETS,
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}
