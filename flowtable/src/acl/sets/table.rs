//! A hash table in copy-on-write shards: a change copies one shard, whatever the table holds.
//!
//! Linear hashing: the table grows by splitting one shard at a time, so that no single change pays for
//! all. A shard is an open-addressing table of its own.

use std::sync::Arc;

use crate::prefetch::prefetch;

/// Entries that a shard has on average before the next one is split.
const FULL: usize = 448;

/// Entries that a shard has on average before the last one is merged into another.
const SPARSE: usize = 112;

/// Slots of a new shard.
const FIRST_SLOTS: usize = 8;

/// A few words.
pub trait TableKey: Copy + Eq + Default + std::fmt::Debug + AsRef<[u32]> {}

impl<K: Copy + Eq + Default + std::fmt::Debug + AsRef<[u32]>> TableKey for K {}

/// A key and its value; the value 0 marks a free slot.
#[derive(Clone, Copy, Debug, Default)]
struct Slot<K: TableKey> {
    key: K,
    value: u32,
}

/// A power of two of slots, at most five eighths of them in use.
#[derive(Clone, Debug)]
struct Shard<K: TableKey> {
    slots: Arc<[Slot<K>]>,
    used: u32,
}

/// From keys to values that are not 0. Cloning copies a pointer.
#[derive(Clone, Debug)]
pub(super) struct Table<K: TableKey> {
    shards: Arc<Vec<Shard<K>>>,
    len: usize,
    /// Slots of all shards.
    slots: usize,
}

impl<K: TableKey> Default for Table<K> {
    fn default() -> Self {
        Self {
            shards: Arc::new(vec![Shard::new(FIRST_SLOTS)]),
            len: 0,
            slots: FIRST_SLOTS,
        }
    }
}

/// A key's hash: the high half selects the shard, the low half the slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hash(u64);

/// Not keyed: what is in the table comes from the control plane, so packets cannot make it degenerate.
#[inline(always)]
fn hash<K: TableKey>(key: &K) -> Hash {
    let mut hash = 0x9e37_79b9_7f4a_7c15_u64;
    for &word in key.as_ref() {
        hash = (hash ^ u64::from(word)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        hash ^= hash >> 32;
    }
    hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
    Hash(hash ^ (hash >> 29))
}

impl<K: TableKey> Shard<K> {
    fn new(slots: usize) -> Self {
        Self {
            slots: vec![Slot::default(); slots].into(),
            used: 0,
        }
    }

    /// The slot of `key`, or the free slot at which it would be put.
    #[inline(always)]
    fn find(&self, hash: Hash, key: &K) -> usize {
        let slots = &*self.slots;
        let mask = slots.len().wrapping_sub(1);
        let mut at = hash.0 as usize & mask;
        // Ends: a shard is never full.
        loop {
            let slot = &slots[at];
            if slot.value == 0 || slot.key == *key {
                return at;
            }
            at = (at + 1) & mask;
        }
    }

    /// Puts in a key that is not there, and room for it.
    fn insert(&mut self, key: K, value: u32) {
        if (self.used as usize + 1) * 8 > self.slots.len() * 5 {
            let mut wider = Self::new(self.slots.len() * 2);
            for slot in self.slots.iter().filter(|slot| slot.value != 0) {
                wider.insert(slot.key, slot.value);
            }
            *self = wider;
        }
        let at = self.find(hash(&key), &key);
        Arc::make_mut(&mut self.slots)[at] = Slot { key, value };
        self.used += 1;
    }

    /// Frees slot `at` and moves those behind it that are not where they belong.
    fn free(&mut self, mut at: usize) {
        let slots = Arc::make_mut(&mut self.slots);
        let mask = slots.len() - 1;
        let mut next = at;
        loop {
            next = (next + 1) & mask;
            if slots[next].value == 0 {
                break;
            }
            let home = hash(&slots[next].key).0 as usize & mask;
            // Its way from home to `next` leads over `at`.
            if next.wrapping_sub(home) & mask >= next.wrapping_sub(at) & mask {
                slots[at] = slots[next];
                at = next;
            }
        }
        slots[at] = Slot::default();
        self.used -= 1;
    }
}

impl<K: TableKey> Table<K> {
    /// The most bytes that one more key can take.
    pub(super) const BYTES_A_KEY: usize = size_of::<Slot<K>>() * 8;

    #[inline(always)]
    fn shard_of(hash: Hash, shards: usize) -> usize {
        // All ones, as many as the highest shard's number has bits.
        let mask = usize::MAX
            .checked_shr(shards.wrapping_sub(1).leading_zeros())
            .unwrap_or(0);
        let at = (hash.0 >> 32) as usize & mask;
        if at < shards { at } else { at & (mask >> 1) }
    }

    /// The value of `key`, 0 if it has none.
    #[inline(always)]
    pub(super) fn get(&self, key: &K) -> u32 {
        if self.len == 0 {
            return 0;
        }
        let hash = hash(key);
        let shards = &**self.shards;
        match shards.get(Self::shard_of(hash, shards.len())) {
            Some(shard) => shard.slots[shard.find(hash, key)].value,
            None => 0,
        }
    }

    /// Asks for the cache line at which the search for `key` begins.
    #[inline(always)]
    pub(super) fn prefetch(&self, key: &K) {
        let hash = hash(key);
        let shards = &**self.shards;
        if let Some(shard) = shards.get(Self::shard_of(hash, shards.len())) {
            let at = hash.0 as usize & shard.slots.len().wrapping_sub(1);
            if let Some(slot) = shard.slots.get(at) {
                prefetch(slot);
            }
        }
    }

    /// Gives `key` this value; 0 removes it.
    pub(super) fn set(&mut self, key: K, value: u32) {
        let hash = hash(&key);
        let shards = Arc::make_mut(&mut self.shards);
        let at = Self::shard_of(hash, shards.len());
        let shard = &mut shards[at];
        let before = shard.slots.len();
        let slot = shard.find(hash, &key);
        let had = shard.slots[slot].value;
        match (had != 0, value != 0) {
            (true, true) => Arc::make_mut(&mut shard.slots)[slot].value = value,
            (true, false) => {
                shard.free(slot);
                self.len -= 1;
            }
            (false, true) => {
                shard.insert(key, value);
                self.len += 1;
            }
            (false, false) => {}
        }
        self.slots = self.slots - before + shard.slots.len();
        if self.len > shards.len() * FULL {
            self.split();
        } else if shards.len() > 1 && self.len < shards.len() * SPARSE {
            self.merge();
        }
    }

    /// Adds a shard and moves into it what belongs there: all from one other.
    fn split(&mut self) {
        let shards = Arc::make_mut(&mut self.shards);
        let new = shards.len();
        // The shard whose number is the new one's without its highest bit.
        let old = new & !(1 << new.ilog2());
        let both = std::mem::replace(&mut shards[old], Shard::new(FIRST_SLOTS));
        shards.push(Shard::new(FIRST_SLOTS));
        for slot in both.slots.iter().filter(|slot| slot.value != 0) {
            let at = Self::shard_of(hash(&slot.key), shards.len());
            shards[at].insert(slot.key, slot.value);
        }
        self.slots =
            self.slots - both.slots.len() + shards[old].slots.len() + shards[new].slots.len();
    }

    /// Takes the last shard back into the one it was split from.
    fn merge(&mut self) {
        let shards = Arc::make_mut(&mut self.shards);
        let Some(last) = shards.pop() else { return };
        let old = shards.len() & !(1 << shards.len().ilog2());
        self.slots -= last.slots.len() + shards[old].slots.len();
        for slot in last.slots.iter().filter(|slot| slot.value != 0) {
            shards[old].insert(slot.key, slot.value);
        }
        self.slots += shards[old].slots.len();
    }

    /// How many keys there are.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Every key with its value, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (K, u32)> + '_ {
        self.shards
            .iter()
            .flat_map(|shard| shard.slots.iter())
            .filter(|slot| slot.value != 0)
            .map(|slot| (slot.key, slot.value))
    }

    /// Bytes of the table, also those that snapshots share with it.
    pub(super) fn memory_bytes(&self) -> usize {
        self.slots * size_of::<Slot<K>>() + self.shards.capacity() * (size_of::<Shard<K>>() + 16)
    }
}

#[cfg(test)]
mod tests {
    use hashbrown::HashMap;

    use super::*;

    #[test]
    fn a_table_that_grows_and_shrinks_equals_a_map_and_snapshots_stay() {
        let (mut table, mut map) = (Table::<[u32; 1]>::default(), HashMap::new());
        let mut state = 1_u64;
        let mut random = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as u32
        };
        let mut snapshots = Vec::new();
        for step in 0..60_000_u32 {
            // Grows to some thousands of keys, then shrinks.
            let (key, remove) = (
                random() % 8_000,
                random() % 10 < if step < 30_000 { 2 } else { 9 },
            );
            let value = if remove { 0 } else { 1 + random() % 5 };
            table.set([key], value);
            if value == 0 {
                map.remove(&key);
            } else {
                map.insert(key, value);
            }
            if step % 20_000 == 19_999 {
                snapshots.push((table.clone(), map.clone()));
            }
        }
        snapshots.push((table, map));
        assert!(snapshots[0].1.len() > 4_000 && snapshots[2].1.len() < 1_500);
        assert!(snapshots[2].0.shards.len() < snapshots[0].0.shards.len());
        for (table, map) in snapshots {
            assert_eq!(table.len(), map.len());
            for key in 0..8_100 {
                assert_eq!(
                    table.get(&[key]),
                    map.get(&key).copied().unwrap_or(0),
                    "{key}"
                );
            }
            let found: HashMap<_, _> = table.iter().map(|([key], value)| (key, value)).collect();
            assert_eq!(found, map);
            let slots: usize = table.shards.iter().map(|shard| shard.slots.len()).sum();
            assert_eq!(table.slots, slots, "the counted slots");
        }
    }
}
