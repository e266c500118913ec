//! Lookup of many keys together, pass by pass, so that their cache misses are under way at once.

use super::action::Action;
use super::hash::Blocks;
use super::key::FlowKey;
use super::table::{FlowRef, FlowTable};

/// Keys that a batch holds at most.
pub const BATCH: usize = 64;

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
        let mut hits = 0;
        for (at, key) in keys.iter().take(BATCH).enumerate() {
            let blocks = key.blocks();
            if let Some((flow, action)) = self.lookup_hashed(&blocks, blocks.hash(self.seed)) {
                hit(at, flow, action);
                hits |= 1 << at;
            }
        }
        hits
    }
}
