//! The tags: seven bits of hash for each slot, eight slots a word, eight words a cache line.
//!
//! A byte of a word is a slot's tag, 0 if the slot is empty. The bytes' highest bits are not part of
//! the tags: that of the last byte locks the word, that of the one before says that a key at home here
//! went to another word of the line.

use core::sync::atomic::Ordering;

use super::memory::{Line, Lines};
use super::sync::{AtomicU64, is_locked};
use crate::prefetch;

/// Slots a word.
pub(super) const LANES: usize = 8;

/// Words a line; a key that is not in its home word is in another one of the line. Fewer are enough for a
/// model, and more are too many for loom.
pub(super) const LINE_WORDS: usize = if cfg!(loom) { 2 } else { 8 };

/// Slots a line.
pub(super) const LINE_SLOTS: usize = LINE_WORDS * LANES;

const LOCK: u64 = 1 << 63;
const OVERFLOW: u64 = 1 << 55;
const HIGH: u64 = 0x8080_8080_8080_8080;
const ONES: u64 = 0x0101_0101_0101_0101;

/// How often a change tries again to swap a word that others keep changing.
const ATTEMPTS: usize = 8;

/// All tags. Words are numbered across lines. Written by all pollers, by read-modify-write only.
#[derive(Debug)]
pub(super) struct Tags(Lines);

/// Where a key belongs by its hash, and what its tag is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Home {
    pub(super) word: usize,
    /// 1 to 127.
    pub(super) tag: u64,
}

impl Home {
    /// The tag in each lane. By two halves, which vectors multiply faster than a whole.
    #[inline(always)]
    const fn all_lanes(self) -> u64 {
        let half = (self.tag as u32 as u64) * (ONES as u32 as u64);
        half | half << 32
    }
}

/// A word of tags, as it was once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word(u64);

impl Word {
    /// The lanes with this tag: the highest bit of each one's byte.
    #[inline(always)]
    pub(super) const fn matches(self, home: Home) -> Lanes {
        let differing = (self.0 & !HIGH) ^ home.all_lanes();
        Lanes(HIGH.wrapping_sub(differing) & HIGH)
    }

    /// The lanes without a tag.
    #[inline(always)]
    const fn free(self) -> Lanes {
        Lanes(HIGH.wrapping_sub(self.0 & !HIGH) & HIGH)
    }

    /// The lanes with a tag.
    #[inline(always)]
    pub(super) const fn used(self) -> Lanes {
        Lanes(!self.free().0 & HIGH)
    }

    #[inline(always)]
    pub(super) const fn new(word: u64) -> Self {
        Self(word)
    }

    /// Whether a key may be in this word, its home, or in another one.
    #[inline(always)]
    pub(super) const fn may_lead_to(self, home: Home) -> bool {
        self.matches(home).0 | self.0 & OVERFLOW != 0
    }

    /// Whether a key at home here may be in another word.
    #[inline(always)]
    pub(super) const fn overflows(self) -> bool {
        self.0 & OVERFLOW != 0
    }

    const fn with(self, lane: usize, home: Home) -> Self {
        Self(self.0 | home.tag << (lane * 8))
    }

    fn is_locked(self) -> bool {
        is_locked(self.0, LOCK)
    }
}

/// Some of the lanes of a word.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lanes(u64);

impl Lanes {
    #[inline(always)]
    pub(super) const fn is_empty(&self) -> bool {
        self.0 == 0
    }

    /// The first lane, or any if there is none. Made of what vectors can do.
    #[inline(always)]
    pub(super) const fn first_or_any(&self) -> usize {
        // A bit for each lane below the first, those of either half of the word in one half; their sum is in the product's highest byte.
        let below = (self.0.wrapping_sub(1) & !self.0 & HIGH) >> 7;
        let halves = (below + (below >> 32)) as u32 as u64;
        ((halves * (ONES as u32 as u64)) >> 24) as usize % LANES
    }

    /// The first lane; 8 if there is none.
    #[inline(always)]
    pub(super) const fn first(&self) -> usize {
        self.0.trailing_zeros() as usize / 8
    }

    pub(super) const fn len(&self) -> usize {
        self.0.count_ones() as usize
    }
}

impl Iterator for Lanes {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        if self.is_empty() {
            return None;
        }
        let first = self.first();
        self.0 &= self.0 - 1;
        Some(first)
    }
}

/// A locked home word, and a slot that was claimed for a key at home there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    /// `None` if all slots of the line are taken.
    pub(super) slot: Option<usize>,
    /// The home word, without the claimed slot's tag.
    pub(super) before: Word,
}

impl Tags {
    /// Tags of `slots` empty slots, a multiple of [`LINE_SLOTS`].
    pub(super) fn new(slots: usize) -> Self {
        Self(Lines::new(slots / LINE_SLOTS))
    }

    pub(super) fn lines(&self) -> &[Line] {
        &self.0
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.0)
    }

    #[inline(always)]
    pub(super) fn home(&self, hash: u64) -> Home {
        home(hash, self.words_mask())
    }

    #[inline(always)]
    pub(super) fn words_mask(&self) -> usize {
        self.0.len() * LINE_WORDS - 1
    }

    /// Has the processor fetch a home word.
    #[inline(always)]
    pub(super) fn prefetch(&self, home: Home) {
        prefetch(self.line(home.word));
    }

    /// Has the processor fetch a slot's tag.
    #[inline(always)]
    pub(super) fn prefetch_slot(&self, slot: usize) {
        prefetch(self.line(slot / LANES));
    }

    #[inline(always)]
    fn line(&self, word: usize) -> &Line {
        &self.0[(word / LINE_WORDS) & (self.0.len() - 1)]
    }

    #[inline(always)]
    fn word(&self, word: usize) -> &AtomicU64 {
        &self.line(word).0[word % LINE_WORDS]
    }

    #[inline(always)]
    pub(super) fn load(&self, word: usize) -> Word {
        Word(self.word(word).load(Ordering::Acquire))
    }

    /// The slot of the home word that would be claimed now.
    #[inline(always)]
    pub(super) fn free_slot(&self, home: Home) -> Option<usize> {
        let lane = self.load(home.word).free().first();
        (lane < LANES).then_some(home.word * LANES + lane)
    }

    /// Locks the home word and claims an empty slot for its key, there if possible. `None` if somebody
    /// else holds the lock or keeps changing the word.
    ///
    /// `held` is a word that the caller has locked already.
    pub(super) fn lock_and_claim(&self, home: Home, held: Option<usize>) -> Option<Claim> {
        let mut before = self.load(home.word);
        for _ in 0..ATTEMPTS {
            if held != Some(home.word) && before.is_locked() {
                return None;
            }
            let lane = before.free().first();
            let is_free = lane < LANES;
            let after = if is_free {
                before.with(lane, home)
            } else {
                before
            };
            match self.swap(home.word, before, Word(after.0 | LOCK)) {
                Ok(()) => {
                    let slot = if is_free {
                        Some(home.word * LANES + lane)
                    } else {
                        self.claim_elsewhere(home)
                    };
                    return Some(Claim { slot, before });
                }
                Err(now) => before = now,
            }
        }
        None
    }

    /// Claims an empty slot in another word of the locked home word's line.
    #[cold]
    fn claim_elsewhere(&self, home: Home) -> Option<usize> {
        for word in others(home.word) {
            let mut before = self.load(word);
            for _ in 0..ATTEMPTS {
                let lane = before.free().first();
                if lane == LANES {
                    break;
                }
                match self.swap(word, before, before.with(lane, home)) {
                    Ok(()) => {
                        self.word(home.word).fetch_or(OVERFLOW, Ordering::AcqRel);
                        return Some(word * LANES + lane);
                    }
                    Err(now) => before = now,
                }
            }
        }
        None
    }

    fn swap(&self, word: usize, before: Word, after: Word) -> Result<(), Word> {
        self.word(word)
            .compare_exchange(before.0, after.0, Ordering::AcqRel, Ordering::Acquire)
            .map(drop)
            .map_err(Word)
    }

    /// Locks a word, or says no.
    pub(super) fn try_lock(&self, word: usize) -> bool {
        !Word(self.word(word).fetch_or(LOCK, Ordering::Acquire)).is_locked()
    }

    pub(super) fn unlock(&self, word: usize) {
        self.word(word).fetch_and(!LOCK, Ordering::Release);
    }

    /// Says of a locked word that all keys at home there are there.
    pub(super) fn clear_overflow(&self, word: usize) {
        self.word(word).fetch_and(!OVERFLOW, Ordering::Release);
    }

    /// Gives up a slot. The entry must be out of use before.
    pub(super) fn free(&self, slot: usize) {
        let lane = 0x7f << (slot % LANES * 8);
        self.word(slot / LANES).fetch_and(!lane, Ordering::Release);
    }
}

/// The home of a key by its hash, in a table whose words are numbered up to `words_mask`.
#[inline(always)]
pub(super) const fn home(hash: u64, words_mask: usize) -> Home {
    let tag = hash >> 57;
    Home {
        word: hash as usize & words_mask,
        // An empty slot's is 0.
        tag: if tag == 0 { 1 } else { tag },
    }
}

/// The other words of a word's line.
pub(super) fn others(word: usize) -> impl Iterator<Item = usize> {
    (1..LINE_WORDS).map(move |step| word / LINE_WORDS * LINE_WORDS + (word + step) % LINE_WORDS)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn tag(tag: u64) -> Home {
        Home { word: 0, tag }
    }

    #[test]
    fn matches_are_exact_beside_each_other_and_beside_flags() {
        let bytes = [5, 4, 5, 6, 0x7f, 0, 0x80 | 5, 0x80 | 4];
        let word = Word(u64::from_le_bytes(bytes));
        let lanes = |lanes: Lanes| lanes.collect::<Vec<_>>();
        assert_eq!(lanes(word.matches(tag(5))), [0, 2, 6]);
        assert_eq!(lanes(word.matches(tag(4))), [1, 7]);
        assert_eq!(lanes(word.matches(tag(0x7f))), [4]);
        assert_eq!(lanes(word.matches(tag(9))), []);
        assert_eq!(lanes(word.free()), [5]);
        assert_eq!(lanes(word.used()), [0, 1, 2, 3, 4, 6, 7]);
    }

    #[test]
    fn the_first_lane_is_the_same_by_either_way() {
        for bits in 1..256_u64 {
            let lanes = || {
                Lanes(
                    (0..8)
                        .map(|lane| (bits >> lane & 1) << (lane * 8 + 7))
                        .sum(),
                )
            };
            assert_eq!(lanes().first_or_any(), lanes().first());
            assert_eq!(lanes().first(), bits.trailing_zeros() as usize);
        }
        assert!(Lanes(0).first_or_any() < LANES);
    }

    #[test]
    fn a_full_home_sends_keys_to_other_words_of_its_line_and_says_so() {
        let tags = Tags::new(2 * LINE_SLOTS);
        let home = Home { word: 3, tag: 7 };
        let mut slots = Vec::new();
        for _ in 0..LINE_SLOTS {
            let claim = tags.lock_and_claim(home, None).unwrap();
            assert!(tags.lock_and_claim(home, None).is_none(), "it is locked");
            slots.push(claim.slot.unwrap());
            tags.unlock(home.word);
            let overflows = slots.len() > LANES;
            assert_eq!(tags.load(home.word).overflows(), overflows);
        }
        assert_eq!(slots[..LANES], [24, 25, 26, 27, 28, 29, 30, 31]);
        slots.sort_unstable();
        assert_eq!(
            slots,
            (0..LINE_SLOTS).collect::<Vec<_>>(),
            "its line, all of it"
        );
        let claim = tags.lock_and_claim(home, None).unwrap();
        assert_eq!(claim.slot, None);
    }
}
