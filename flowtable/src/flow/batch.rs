//! Lookup of many keys together, pass by pass, so that their cache misses are under way at once.

use core::sync::atomic::Ordering;

use fearless_simd::dispatch;

use super::action::Action;
use super::entry::{Entry, EntryLines};
use super::hash::Blocks;
use super::key::FlowKey;
use super::table::{FlowTable, Found};
use super::tags::{LANES, LINE_WORDS, Word, home};
use super::view::FlowRef;
use crate::prefetch;

/// Keys that a batch holds at most.
pub const BATCH: usize = 64;

/// Keys that a vector holds at most: passes run to a multiple of it, so that they need no rest.
const VECTOR: usize = 8;

/// How often a batch looks again for keys that are not where their tags showed first: twice for each, so
/// that entries that change under our eyes cannot keep it.
const AGAIN: usize = 2 * BATCH;

/// Tags and entries of this size are in a core's own cache anyway: half of what the smallest ones have.
const NEAR_BYTES: usize = 512 << 10;

/// What is known of the keys of a batch before their entries are looked at.
struct Candidates<K: FlowKey> {
    blocks: <K::Blocks as Blocks>::Batch,
    hashes: [u64; BATCH],
    /// The first slot whose tag is the key's; any one of the home word if there is none.
    slots: [u64; BATCH],
    /// The keys that may be in the table.
    keys: u64,
    /// How often was looked again for one of them.
    again: usize,
}

impl<K: FlowKey> FlowTable<K> {
    /// Looks up at most [`BATCH`] keys; those beyond are not looked at.
    ///
    /// `hit` is called for each key that is found, in the order of the keys: with its place in `keys`, its
    /// entry and its action. The entry's cache line is there, so this is the moment to count the packet.
    /// Returns a bit for each key that was found, the first key's lowest.
    ///
    /// As with [`FlowTable::lookup`], a key is not found while another poller keeps changing its entry.
    #[inline]
    pub fn lookup_batch(
        &self,
        keys: &[K],
        mut hit: impl FnMut(usize, FlowRef, Action<K::Addr>),
    ) -> u64 {
        let keys = &keys[..keys.len().min(BATCH)];
        let mut candidates = Candidates::<K> {
            blocks: K::Blocks::empty_batch(),
            hashes: [0; BATCH],
            slots: [0; BATCH],
            keys: 0,
            again: 0,
        };
        dispatch!(self.hasher.level, _simd => self.find_candidates(keys, &mut candidates));
        // Slices in variables: the compiler does not load them anew behind each Acquire.
        let entries = self.entries();
        let mut hits = candidates.keys;
        for at in Bits(candidates.keys) {
            let mut slot = candidates.slots[at] as usize;
            let blocks = K::Blocks::get(&candidates.blocks, at);
            loop {
                let entry = Entry::<K>(&entries[slot & (entries.len() - 1)]);
                if let Some((head, words)) = entry.read(&blocks) {
                    hit(at, FlowRef::new(slot, head), K::action(&words));
                    break;
                }
                let Some(elsewhere) = self.look_again(&mut candidates, at) else {
                    hits &= !(1 << at);
                    break;
                };
                slot = elsewhere;
            }
        }
        hits
    }

    /// Has the processor fetch what inserting these keys needs: their tags, and the entries that they would be in as things are.
    /// At most [`BATCH`] keys; those beyond are not looked at.
    #[inline]
    pub fn prefetch_inserts(&self, keys: &[K]) {
        let keys = &keys[..keys.len().min(BATCH)];
        if size_of_val(self.entries()) > NEAR_BYTES {
            dispatch!(self.hasher.level, _simd => self.prefetch_places(keys));
        }
    }

    #[inline(always)]
    fn prefetch_places(&self, keys: &[K]) {
        let (mut blocks, mut hashes) = (K::Blocks::empty_batch(), [0; BATCH]);
        for (at, key) in keys.iter().enumerate() {
            key.blocks().put(&mut blocks, at);
        }
        let rounded = keys.len().next_multiple_of(VECTOR).min(BATCH);
        K::Blocks::hash_batch(&blocks, rounded, self.hasher.seed, &mut hashes);
        let homes = hashes.iter().map(|&hash| self.tags.home(hash));
        for home in homes.clone().take(keys.len()) {
            self.tags.prefetch(home);
        }
        for home in homes.take(keys.len()) {
            if let Some(slot) = self.tags.free_slot(home) {
                self.prefetch_entry(slot);
            }
        }
    }

    /// The passes up to the entries. Compiled once for each kind of vectors, and chosen when it runs.
    #[inline(always)]
    fn find_candidates(&self, keys: &[K], candidates: &mut Candidates<K>) {
        for (at, key) in keys.iter().enumerate() {
            key.blocks().put(&mut candidates.blocks, at);
        }
        let rounded = keys.len().next_multiple_of(VECTOR).min(BATCH);
        let hashes = &mut candidates.hashes;
        K::Blocks::hash_batch(&candidates.blocks, rounded, self.hasher.seed, hashes);

        let (tags, mask) = (self.tags.lines(), self.tags.words_mask());
        if size_of_val(tags) > NEAR_BYTES {
            for &hash in &hashes[..keys.len()] {
                prefetch(&tags[(hash as usize & mask) / LINE_WORDS]);
            }
        }
        // The words of tags first, then what they say: scalar loads, then vectors.
        let slots = &mut candidates.slots;
        for at in 0..rounded {
            let word = hashes[at] as usize & mask;
            slots[at] = tags[word / LINE_WORDS].0[word % LINE_WORDS].load(Ordering::Acquire);
        }
        let mut found = 0;
        for at in 0..rounded {
            let home = home(hashes[at], mask);
            let word = Word::new(slots[at]);
            let slot = home.word * LANES + word.matches(home).first_or_any();
            slots[at] = slot as u64;
            found |= u64::from(word.may_lead_to(home)) << at;
        }
        candidates.keys = found & (u64::MAX >> (BATCH - keys.len().clamp(1, BATCH)));
        let entries = self.entries();
        if size_of_val(entries) > NEAR_BYTES {
            for at in Bits(candidates.keys) {
                entries[candidates.slots[at] as usize & (entries.len() - 1)].prefetch();
            }
        }
    }

    /// The slot of a key that is not where its tag showed first.
    #[cold]
    #[inline(never)]
    fn look_again(&self, candidates: &mut Candidates<K>, at: usize) -> Option<usize> {
        let home = self.tags.home(candidates.hashes[at]);
        let blocks = K::Blocks::get(&candidates.blocks, at);
        while candidates.again < AGAIN {
            candidates.again += 1;
            match self.find(home, self.tags.load(home.word), &blocks, [None; 2]) {
                Found::At(slot) => return Some(slot),
                Found::Nowhere => return None,
                Found::Unsettled => {}
            }
        }
        None
    }
}

/// The places of the bits that are set, the lowest first.
struct Bits(u64);

impl Iterator for Bits {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        // The remainder changes nothing, and spares a check of the index.
        let at = self.0.trailing_zeros() as usize % BATCH;
        self.0 &= self.0 - 1;
        Some(at)
    }
}
