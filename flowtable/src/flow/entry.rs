//! An entry: the words of one direction under a version, and the counters that have none.

use core::sync::atomic::Ordering;

use super::key::Layout;
use super::memory::{CELLS, Line};
use super::sync::{AtomicU64, change, read_fence, write_fence};
use crate::prefetch;

/// The lines of an entry.
pub trait EntryLines: Sized + 'static {
    /// All of `lines` as lines of entries.
    fn of(lines: &[Line]) -> &[Self];
    fn word(&self, at: usize) -> &AtomicU64;
    fn prefetch(&self);
}

impl<const N: usize> EntryLines for [Line; N] {
    #[inline(always)]
    fn of(lines: &[Line]) -> &[Self] {
        lines.as_chunks().0
    }

    #[inline(always)]
    fn word(&self, at: usize) -> &AtomicU64 {
        &self[at / CELLS].0[at % CELLS]
    }

    #[inline(always)]
    fn prefetch(&self) {
        self.iter().for_each(prefetch);
    }
}

/// The words of an entry that its version protects; they come right behind it.
pub trait EntryWords: Copy {
    /// How many.
    const LEN: usize;

    /// One of them, as it is at this moment.
    fn word(lines: &impl EntryLines, at: usize) -> u64;
    fn load(lines: &impl EntryLines) -> Self;
    fn store(&self, lines: &impl EntryLines);
}

impl<const N: usize> EntryWords for [u64; N] {
    const LEN: usize = N;

    #[inline(always)]
    fn word(lines: &impl EntryLines, at: usize) -> u64 {
        lines.word(1 + at).load(Ordering::Relaxed)
    }

    #[inline(always)]
    fn load(lines: &impl EntryLines) -> Self {
        core::array::from_fn(|at| Self::word(lines, at))
    }

    #[inline(always)]
    fn store(&self, lines: &impl EntryLines) {
        for (at, &word) in self.iter().enumerate() {
            lines.word(1 + at).store(word, Ordering::Relaxed);
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

    /// One of a connection that has used the slot.
    pub(super) const fn of_incarnation(incarnation: u32) -> Self {
        Self::of(incarnation << INCARNATION, 0)
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

    /// This one, were it stable.
    #[inline(always)]
    const fn stable(self) -> Self {
        Self(self.0 & !(UNSTABLE as u64))
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

    /// The first of the connection whose number is in it already. Not the empty slot's own, were that stable: who found it so and looks again would take
    /// the words for whole that were written in between, where the partner is in the same slot as before.
    const fn published(self, partner: u32) -> Self {
        Self::of((self.version() & !UNSTABLE).wrapping_add(2), partner)
    }
}

/// One direction of a connection. IPv4: one cache line; IPv6: two, the first enough without NAT.
///
/// The first word is the version, then come the words that it protects, written by whoever set its lowest
/// bit; then three that the direction's poller writes, and who adds what the kernel passed of it: the tracker's word, last seen (24 bits)
/// and packets, and bytes.
#[derive(Debug)]
pub(super) struct Entry<'a, K: Layout>(pub(super) &'a K::Lines);

/// The counters of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) last_seen: u32,
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

const PACKETS: u32 = 24;

impl<K: Layout> Entry<'_, K> {
    #[inline(always)]
    fn version(&self) -> &AtomicU64 {
        self.0.word(0)
    }

    #[inline(always)]
    fn dir_word(&self) -> &AtomicU64 {
        self.0.word(1 + K::Words::LEN)
    }

    #[inline(always)]
    fn seen(&self) -> &AtomicU64 {
        self.0.word(2 + K::Words::LEN)
    }

    #[inline(always)]
    fn bytes(&self) -> &AtomicU64 {
        self.0.word(3 + K::Words::LEN)
    }

    /// Makes lines of zeroes an entry that is not in use.
    pub(super) fn init(&self) {
        self.version().store(Head::EMPTY.0, Ordering::Relaxed);
    }

    #[inline(always)]
    pub(super) fn head(&self) -> Head {
        Head(self.version().load(Ordering::Acquire))
    }

    /// The words, whatever state they are in.
    #[inline(always)]
    pub(super) fn words(&self) -> K::Words {
        K::Words::load(self.0)
    }

    /// Whether the words that were loaded since `head` was are the entry's of that version.
    #[inline(always)]
    pub(super) fn is_still(&self, head: Head) -> bool {
        self.change_since(head) == 0
    }

    /// Zero if they are.
    #[inline(always)]
    fn change_since(&self, head: Head) -> u64 {
        read_fence();
        change(head.0, self.version().load(Ordering::Relaxed))
    }

    /// A consistent copy, if the entry is in use and is of the key with these `blocks`.
    #[inline(always)]
    pub(super) fn read(&self, blocks: &K::Blocks) -> Option<(Head, K::Words)> {
        let head = self.head();
        let words = self.words();
        // One branch: whatever is wrong, it seldom is. No version that is published is an unstable one's with the lowest bit cleared.
        let wrong = K::difference(&words, blocks) | self.change_since(head.stable());
        (wrong == 0).then_some((head, words))
    }

    /// Keeps everybody else from changing the entry, if it is what it was.
    pub(super) fn try_lock(&self, head: Head) -> bool {
        let (was, locked) = (head.0, head.locked().0);
        self.version()
            .compare_exchange(was, locked, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Ends [`Entry::try_lock`] without a change.
    pub(super) fn unlock(&self, head: Head) {
        self.version().store(head.0, Ordering::Release);
    }

    /// Ends [`Entry::try_lock`] with other words.
    pub(super) fn change(&self, head: Head, words: &K::Words) -> Head {
        write_fence();
        words.store(self.0);
        let after = head.changed();
        self.version().store(after.0, Ordering::Release);
        after
    }

    /// Ends [`Entry::try_lock`] by taking the entry out of use.
    pub(super) fn remove(&self, head: Head) {
        self.version().store(head.removed().0, Ordering::Release);
    }

    /// Fills the entry of a claimed slot and puts it into use.
    pub(super) fn publish(&self, partner: u32, words: &K::Words, dir: u64, seen: u32) -> Head {
        // Empty, and the claim has made visible what its last user left.
        let head = Head(self.version().load(Ordering::Relaxed));
        write_fence();
        words.store(self.0);
        self.dir_word().store(dir, Ordering::Relaxed);
        self.seen().store(seen as u64, Ordering::Relaxed);
        self.bytes().store(0, Ordering::Relaxed);
        let after = head.published(partner);
        self.version().store(after.0, Ordering::Release);
        after
    }

    /// Counts a packet. Returns how many there were.
    #[inline(always)]
    pub(super) fn touch(&self, seen: u32, bytes: u32) -> u64 {
        self.count(seen, 1, bytes as u64)
    }

    /// Counts packets. Returns how many there were.
    #[inline(always)]
    pub(super) fn count(&self, seen: u32, packets: u64, bytes: u64) -> u64 {
        let packets = (self.seen().load(Ordering::Relaxed) >> PACKETS).wrapping_add(packets);
        self.seen()
            .store(packets << PACKETS | seen as u64, Ordering::Relaxed);
        let sum = self.bytes().load(Ordering::Relaxed).wrapping_add(bytes);
        self.bytes().store(sum, Ordering::Relaxed);
        packets
    }

    /// Sets when it was last seen; its packets stay counted.
    pub(super) fn set_seen(&self, seen: u32) {
        let packets = self.seen().load(Ordering::Relaxed) >> PACKETS;
        self.seen()
            .store(packets << PACKETS | seen as u64, Ordering::Relaxed);
    }

    #[inline(always)]
    pub(super) fn dir(&self) -> u64 {
        self.dir_word().load(Ordering::Relaxed)
    }

    #[inline(always)]
    pub(super) fn set_dir(&self, dir: u64) {
        self.dir_word().store(dir, Ordering::Relaxed);
    }

    pub(super) fn counters(&self) -> Counters {
        let seen = self.seen().load(Ordering::Relaxed);
        Counters {
            last_seen: seen as u32 & super::clock::SEEN_MASK,
            packets: seen >> PACKETS,
            bytes: self.bytes().load(Ordering::Relaxed),
        }
    }
}
