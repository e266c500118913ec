//! Lookup of many keys together, pass by pass, so that their cache misses are under way at once.

use super::action::Action;
use super::hash::Blocks;
use super::key::{FlowKey, Layout};
use super::table::{FlowRef, FlowTable};
use super::tags::LANES;
use crate::prefetch;

/// Keys that a batch holds at most.
pub const BATCH: usize = 64;

/// How often a key is looked for again whose entry changes under our eyes.
const AGAIN: usize = 4;

impl<K: FlowKey> FlowTable<K> {
    /// Looks up at most [`BATCH`] keys; those beyond are not looked at.
    ///
    /// `hit` is called for each key that is found, in the order of the keys: with its place in `keys`, its
    /// entry and its action. The entry's cache line is there, so this is the moment to count the packet.
    /// Returns a bit for each key that was found, the first key's lowest.
    #[inline]
    pub fn lookup_batch(
        &self,
        keys: &[K],
        mut hit: impl FnMut(usize, FlowRef, Action<K::Addr>),
    ) -> u64 {
        let keys = &keys[..keys.len().min(BATCH)];
        let mut blocks = K::Blocks::empty_batch();
        for (at, key) in keys.iter().enumerate() {
            key.blocks().put(&mut blocks, at);
        }
        let hashes = K::Blocks::hash_batch(&blocks, self.seed);
        let tags = &self.tags;
        for &hash in &hashes[..keys.len()] {
            tags.prefetch(hash);
        }
        // The slot to look at first, and whether there is anything to look for.
        let mut slots = [0u32; BATCH];
        let mut candidates = 0u64;
        let entries = &*self.entries;
        for (at, &hash) in hashes[..keys.len()].iter().enumerate() {
            let home = tags.home(hash);
            let word = tags.load(home.word);
            let lanes = word.matches(home);
            let is_candidate = !lanes.is_empty() | word.overflows();
            let slot = home.word * LANES + lanes.first() % LANES;
            slots[at] = slot as u32;
            candidates |= u64::from(is_candidate) << at;
            if is_candidate {
                prefetch(&entries[slot & (entries.len() - 1)]);
            }
        }
        let mut hits = candidates;
        let mut left = candidates;
        while left != 0 {
            let at = left.trailing_zeros() as usize;
            left &= left - 1;
            let mut slot = slots[at] as usize;
            let mut attempts = 0;
            let key = K::Blocks::get(&blocks, at);
            loop {
                let entry = &entries[slot & (entries.len() - 1)];
                let head = entry.head();
                let words = entry.words();
                if K::is_of(&words, &key) && head.is_stable() && entry.is_still(head) {
                    hit(at, FlowRef::new(slot, head), K::action(&words));
                    break;
                }
                match self.look_again(&key, hashes[at]) {
                    Some(there) if attempts < AGAIN => slot = there,
                    _ => {
                        hits &= !(1 << at);
                        break;
                    }
                }
                attempts += 1;
            }
        }
        hits
    }

    /// The slot of a key that is not where its tag showed first.
    #[cold]
    #[inline(never)]
    fn look_again(&self, blocks: &<K as Layout>::Blocks, hash: u64) -> Option<usize> {
        let (flow, _) = self.lookup_hashed(blocks, hash)?;
        Some(flow.slot() as usize)
    }
}
