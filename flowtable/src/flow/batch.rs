//! Lookup of many keys together, pass by pass, so that their cache misses are under way at once.

use core::fmt;
use core::sync::atomic::Ordering;

use fearless_simd::dispatch;

use super::action::{self, Action};
use super::entry::{Entry, EntryLines};
use super::hash::{Blocks, Hasher, spare};
use super::key::FlowKey;
use super::table::{FlowTable, Found};
use super::tags::{LANES, LINE_WORDS, Word, home};
use super::view::Live;
use crate::lpm::NextHopId;
use crate::prefetch;

/// Keys that a batch holds at most.
pub const BATCH: usize = 64;

/// Keys that a vector holds at most: passes run to a multiple of it, so that they need no rest.
const VECTOR: usize = 8;

/// How often a batch looks again for keys that are not where their tags showed first: twice for each, so
/// that entries that change under our eyes cannot keep it.
const AGAIN: usize = 2 * BATCH;

/// Entries of so many keys are fetched, or shown, together: to ask about each whether there is another one takes longer.
const GROUP: usize = 8;

/// The places of the first group.
const GROUP_BITS: u64 = (1 << GROUP) - 1;

/// How many groups before its own an entry is fetched: so that somewhat more are than the processor has misses under way at once.
const FETCHED_AHEAD: usize = 3;

/// How many groups before its own an entry is shown. It was fetched by then.
const SHOWN_AHEAD: usize = 1;

/// Tags and entries of this size are in a core's own cache anyway: half of what the smallest ones have.
const NEAR_BYTES: usize = 512 << 10;

/// Keys to be looked up together, at most [`BATCH`], each in a place of the caller's choice.
pub struct Keys<K: FlowKey> {
    blocks: <K::Blocks as Blocks>::Batch,
    hashes: [u64; BATCH],
    /// The places that hold a key.
    taken: u64,
}

impl<K: FlowKey> fmt::Debug for Keys<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("taken", &self.taken)
            .finish_non_exhaustive()
    }
}

impl<K: FlowKey> Default for Keys<K> {
    #[inline]
    fn default() -> Self {
        Self {
            blocks: K::Blocks::empty_batch(),
            hashes: [0; BATCH],
            taken: 0,
        }
    }
}

impl<K: FlowKey> Keys<K> {
    /// Puts a key to a place below [`BATCH`]. It is looked up once [`Keys::set_taken`] names the place.
    #[inline(always)]
    pub fn put(&mut self, at: usize, key: K) {
        key.blocks().put(&mut self.blocks, at);
    }

    /// Says which places hold keys: a bit for each, the first place's lowest. Not kept by [`Keys::put`], which would have each key wait
    /// for the one before.
    #[inline(always)]
    pub const fn set_taken(&mut self, places: u64) {
        self.taken = places;
    }

    /// Says that the first `count` places hold keys, and no other.
    #[inline]
    pub const fn set_first_taken(&mut self, count: usize) {
        self.taken = match count {
            0 => 0,
            1..BATCH => (1 << count) - 1,
            _ => u64::MAX,
        };
    }

    /// The hash of the key in a place, as [`FlowTable::flow_hash`] gives it. Means something once the keys were looked up.
    #[inline(always)]
    pub fn flow_hash(&self, at: usize) -> u32 {
        spare(self.hashes[at % BATCH])
    }

    /// How far the passes go: behind the last key, up to a vector's end.
    #[inline(always)]
    fn end(&self) -> usize {
        let len = BATCH - self.taken.leading_zeros() as usize;
        len.next_multiple_of(VECTOR).min(BATCH)
    }

    /// Groups with keys, and those between them.
    #[inline(always)]
    fn groups(&self) -> usize {
        self.end() / GROUP
    }

    #[inline(always)]
    fn hash(&mut self, hasher: &Hasher) {
        hasher.hash_batch::<K::Blocks>(&self.blocks, self.end(), &mut self.hashes);
    }
}

impl<K: FlowKey> From<&[K]> for Keys<K> {
    /// Each key in its place of the slice; those beyond [`BATCH`] are left out.
    #[inline]
    fn from(all: &[K]) -> Self {
        let mut keys = Self::default();
        let all = &all[..all.len().min(BATCH)];
        for (at, &key) in all.iter().enumerate() {
            keys.put(at, key);
        }
        keys.set_first_taken(all.len());
        keys
    }
}

/// A key that a lookup has found.
#[derive(Debug)]
pub struct Hit<'a, K: FlowKey> {
    /// The key's place.
    pub place: usize,
    /// As [`FlowTable::flow_hash`] gives it for the key.
    pub flow_hash: u32,
    /// Its entry. The cache line is there, so this is the moment to count the packet.
    pub entry: Live<'a, K>,
    words: K::Words,
}

impl<K: FlowKey> Hit<'_, K> {
    /// What was decided. Taken apart by each who asks, since what only some packets need of it should not be kept for all: who needs one
    /// field for all asks for that.
    #[inline(always)]
    pub fn action(&self) -> Action<K::Addr> {
        K::action(&self.words)
    }

    /// [`Action::flags`].
    #[inline(always)]
    pub fn flags(&self) -> u8 {
        let [beside_key, ..] = K::action_words(&self.words);
        action::flags(beside_key)
    }

    /// [`Action::generation`].
    #[inline(always)]
    pub fn generation(&self) -> u32 {
        let [_, decision, _] = K::action_words(&self.words);
        action::generation(decision)
    }

    /// [`Action::origin`].
    #[inline(always)]
    pub fn origin(&self) -> u16 {
        let [beside_key, ..] = K::action_words(&self.words);
        action::origin(beside_key)
    }

    /// [`Action::next_hop`].
    #[inline(always)]
    pub fn next_hop(&self) -> NextHopId {
        let [.., way] = K::action_words(&self.words);
        action::next_hop(way)
    }
}

/// An entry that a lookup is about to look at, whoever's it is by then.
pub struct Soon<'a, K: FlowKey>(Entry<'a, K>);

impl<K: FlowKey> fmt::Debug for Soon<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Soon").field(&self.next_hop()).finish()
    }
}

impl<K: FlowKey> Soon<'_, K> {
    /// The next hop that the entry names at this moment. A hint: nothing protects it.
    #[inline(always)]
    pub fn next_hop(&self) -> NextHopId {
        K::next_hop(self.0.0)
    }
}

/// What is known of the keys of a batch before their entries are looked at.
struct Candidates {
    /// The first slot whose tag is the key's; any one of the home word if there is none.
    slots: [u64; BATCH],
    /// The keys that may be in the table.
    keys: u64,
    /// How often was looked again for one of them.
    again: usize,
}

impl Candidates {
    #[inline(always)]
    fn groups(&self) -> &[[u64; GROUP]] {
        self.slots.as_chunks().0
    }
}

impl<K: FlowKey> FlowTable<K> {
    /// Looks up keys together.
    ///
    /// `hit` is called for each key that is found, in the order of their places. Returns a bit for each key that was found, the first place's lowest.
    ///
    /// As with [`FlowTable::lookup`], a key is not found while another poller keeps changing its entry.
    #[inline]
    pub fn lookup_batch(&self, keys: &mut Keys<K>, mut hit: impl FnMut(Hit<'_, K>)) -> u64 {
        let no_items = &mut [(); BATCH];
        self.look_up(keys, no_items, false, |_| {}, |(), found| hit(found))
    }

    /// [`FlowTable::lookup_batch`] of what the keys are made of: `hit` gets the item in the key's place too. Each place with a key must have
    /// one. Each entry is shown to `soon` some keys before, if `shows`: the moment to have the processor fetch what its action
    /// leads to.
    #[inline(always)]
    pub fn lookup_batch_ahead<T>(
        &self,
        keys: &mut Keys<K>,
        items: &mut [T],
        shows: bool,
        soon: impl FnMut(Soon<'_, K>),
        hit: impl FnMut(&mut T, Hit<'_, K>),
    ) -> u64 {
        self.look_up(keys, items, shows, soon, hit)
    }

    #[inline(always)]
    fn look_up<T>(
        &self,
        keys: &mut Keys<K>,
        items: &mut [T],
        shows: bool,
        mut soon: impl FnMut(Soon<'_, K>),
        mut hit: impl FnMut(&mut T, Hit<'_, K>),
    ) -> u64 {
        let mut candidates = Candidates {
            slots: [0; BATCH],
            keys: 0,
            again: 0,
        };
        keys.hash(&self.hasher);
        dispatch!(self.hasher.loops, _simd => self.find_candidates(keys, &mut candidates));
        // Slices in variables: the compiler does not load them anew behind each Acquire.
        let entries = self.entries();
        let Some(last) = entries.len().checked_sub(1) else {
            return 0;
        };
        let entry_in = |slot: u64| Entry::<K>(&entries[slot as usize & last]);
        // Fetched a little ahead of its use each, and not all at once: the processor has few misses under way at a time.
        let fetches = size_of_val(entries) > NEAR_BYTES;
        let fetch = |slots: &[u64; GROUP]| slots.iter().for_each(|&it| entry_in(it).0.prefetch());
        let mut show = |slots: &[u64; GROUP]| slots.iter().for_each(|&it| soon(Soon(entry_in(it))));
        let (found, taken) = (candidates.keys, keys.groups());
        // Of a group in which nothing was found no entry is needed: a flood of new connections would push others' out of the cache.
        let is_wanted = |group: usize| group < taken && found & GROUP_BITS << (group * GROUP) != 0;
        for (group, slots) in candidates.groups().iter().enumerate().take(FETCHED_AHEAD) {
            if fetches && is_wanted(group) {
                fetch(slots);
            }
            if shows && group < SHOWN_AHEAD && is_wanted(group) {
                show(slots);
            }
        }
        for group in 0..taken {
            let ahead = |groups: usize| {
                let slots = candidates.groups().get(group + groups);
                slots.filter(|_| is_wanted(group + groups))
            };
            if fetches && let Some(slots) = ahead(FETCHED_AHEAD) {
                fetch(slots);
            }
            if shows && let Some(slots) = ahead(SHOWN_AHEAD) {
                show(slots);
            }
            for at in Bits(found & GROUP_BITS << (group * GROUP)) {
                let Some(item) = items.get_mut(at) else {
                    continue;
                };
                let (slot, blocks) = (candidates.slots[at], K::Blocks::get(&keys.blocks, at));
                let entry = entry_in(slot);
                let (entry, words) = if let Some((head, words)) = entry.read(&blocks) {
                    (Live::new(slot as usize, head, entry), words)
                } else if let Some(elsewhere) = self.look_again(keys, &mut candidates, at) {
                    elsewhere
                } else {
                    continue;
                };
                let flow_hash = keys.flow_hash(at);
                hit(
                    item,
                    Hit {
                        place: at,
                        flow_hash,
                        entry,
                        words,
                    },
                );
            }
        }
        candidates.keys
    }

    /// Has the processor fetch what inserting these keys needs: their tags, and the entries that they would be in as things are.
    #[inline]
    pub fn prefetch_inserts(&self, keys: &mut Keys<K>) {
        if size_of_val(self.entries()) > NEAR_BYTES {
            keys.hash(&self.hasher);
            self.prefetch_places(keys);
        }
    }

    #[inline(always)]
    fn prefetch_places(&self, keys: &Keys<K>) {
        let homes = Bits(keys.taken).map(|at| self.tags.home(keys.hashes[at]));
        for home in homes.clone() {
            self.tags.prefetch(home);
        }
        for home in homes {
            if let Some(slot) = self.tags.free_slot(home) {
                self.prefetch_entry(slot);
            }
        }
    }

    /// The passes from hashes up to the entries. Compiled once for each kind of vectors, and chosen when it runs.
    #[inline(always)]
    fn find_candidates(&self, keys: &Keys<K>, candidates: &mut Candidates) {
        let (hashes, end) = (&keys.hashes, keys.end());
        let (tags, mask) = (self.tags.lines(), self.tags.words_mask());
        if size_of_val(tags) > NEAR_BYTES {
            for at in Bits(keys.taken) {
                prefetch(&tags[(hashes[at] as usize & mask) / LINE_WORDS]);
            }
        }
        // The words of tags first, then what they say: scalar loads, then vectors.
        let slots = &mut candidates.slots;
        let Some(last) = tags.len().checked_sub(1) else {
            return;
        };
        for at in 0..end {
            let word = hashes[at] as usize;
            let line = &tags[(word / LINE_WORDS) & last];
            slots[at] = line.0[word % LINE_WORDS].load(Ordering::Acquire);
        }
        let mut found = 0;
        for at in 0..end {
            let home = home(hashes[at], mask);
            let word = Word::new(slots[at]);
            let slot = home.word * LANES + word.matches(home).first_or_any();
            slots[at] = slot as u64;
            found |= u64::from(word.may_lead_to(home)) << at;
        }
        candidates.keys = found & keys.taken;
    }

    /// The entry of a key that is not where its tag showed first. If it has none, it is no candidate any more.
    #[cold]
    #[inline(never)]
    fn look_again(
        &self,
        keys: &Keys<K>,
        candidates: &mut Candidates,
        at: usize,
    ) -> Option<(Live<'_, K>, K::Words)> {
        let home = self.tags.home(keys.hashes[at]);
        let blocks = K::Blocks::get(&keys.blocks, at);
        while candidates.again < AGAIN {
            candidates.again += 1;
            match self.find(home, self.tags.load(home.word), &blocks, [None; 2]) {
                Found::At(slot) => {
                    let entry = self.entry(slot);
                    if let Some((head, words)) = entry.read(&blocks) {
                        return Some((Live::new(slot, head, entry), words));
                    }
                }
                Found::Nowhere => break,
                Found::Unsettled => {}
            }
        }
        candidates.keys &= !(1 << at);
        None
    }
}

/// The places of the bits that are set, the lowest first.
#[derive(Clone)]
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
