//! The table: what one key or one reference is enough for. Batches are in `batch`, expiry in `sweep`.

use core::fmt;
use core::marker::PhantomData;

use super::action::Action;
use super::capacity::Capacity;
use super::entry::{Entry, EntryLines, Head};
use super::hash::{Hasher, Seed, spare};
use super::key::FlowKey;
use super::memory::{Line, Lines};
use super::tags::{Home, LANES, Lanes, Tags, Word, others};
use super::view::{FlowRef, Live, View};
use crate::Tick;

/// How often a lookup looks again that met an entry of its key in the middle of a change.
pub(super) const LOOKS: usize = 4;

/// Why an entry was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// Another poller is changing it.
    #[error("another poller is changing the entry")]
    Busy,
    /// It is not what the reference was to.
    #[error("the entry is gone")]
    Gone,
}

/// Connections of one address family, shared by all pollers.
pub struct FlowTable<K: FlowKey> {
    pub(super) tags: Tags,
    lines: Lines,
    key: PhantomData<K>,
    pub(super) hasher: Hasher,
}

impl<K: FlowKey> fmt::Debug for FlowTable<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlowTable")
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}

/// Where the entry of a key is.
pub(super) enum Found {
    At(usize),
    Nowhere,
    /// There is one, but in the middle of a change.
    Unsettled,
}

impl<K: FlowKey> FlowTable<K> {
    /// An empty table. Takes all its memory now, and touches it.
    #[must_use]
    pub fn new(capacity: Capacity, seed: Seed) -> Self {
        let lines = Lines::new(capacity.get() * size_of::<K::Lines>() / size_of::<Line>());
        for entry in K::Lines::of(&lines) {
            Entry::<K>(entry).init();
        }
        Self {
            tags: Tags::new(capacity.get()),
            lines,
            key: PhantomData,
            hasher: Hasher::new(seed),
        }
    }

    /// The entries that fit, two a connection.
    pub fn capacity(&self) -> usize {
        self.entries().len()
    }

    /// The memory that the table takes, all of it from the start.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.tags.bytes() + size_of_val(&*self.lines)
    }

    /// The entries in use, two a connection; not exact while pollers insert and remove.
    ///
    /// Counts the tags: 0.1 ms a million entries, so this is for the control thread. A poller knows the
    /// load from what its sweeps saw ([`super::SweepStats`]). Nobody pays for a counter with each connection.
    pub fn len(&self) -> usize {
        let words = 0..self.capacity() / LANES;
        words.map(|word| self.tags.load(word).used().len()).sum()
    }

    /// Whether no entry is in use, as [`FlowTable::len`] sees it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The hash of a key, which nobody can foresee who does not know the seed.
    #[must_use]
    pub fn hash(&self, key: &K) -> u64 {
        self.hasher.hash(key.blocks())
    }

    /// Has the processor fetch the tags that decide about `key`, soon to be looked up alone or inserted.
    #[inline]
    pub fn prefetch(&self, key: &K) {
        self.tags
            .prefetch(self.tags.home(self.hasher.hash(key.blocks())));
    }

    /// Has the processor fetch an entry.
    #[inline(always)]
    pub(super) fn prefetch_entry(&self, slot: usize) {
        self.entry(slot).0.prefetch();
    }

    /// Has the processor fetch an entry and its tags.
    #[inline(always)]
    pub(super) fn prefetch_slot(&self, slot: usize) {
        self.tags.prefetch_slot(slot);
        self.prefetch_entry(slot);
    }

    /// The entry of `key`.
    ///
    /// `None` also in the rare case that another poller is changing the entry and does not come to an end.
    #[inline]
    pub fn lookup(&self, key: &K) -> Option<(FlowRef, Action<K::Addr>)> {
        let blocks = key.blocks();
        self.lookup_hashed(&blocks, self.hasher.hash(blocks))
    }

    fn lookup_hashed(&self, blocks: &K::Blocks, hash: u64) -> Option<(FlowRef, Action<K::Addr>)> {
        let home = self.tags.home(hash);
        for _ in 0..LOOKS {
            let slot = match self.find(home, self.tags.load(home.word), blocks, [None; 2]) {
                Found::At(slot) => slot,
                Found::Unsettled => continue,
                Found::Nowhere => return None,
            };
            if let Some((head, words)) = self.entry(slot).read(blocks) {
                return Some((FlowRef::new(slot, head), K::action(&words)));
            }
        }
        None
    }

    /// Where the entry of a key is, whose home word is `word`. A reader must look whether it still is.
    pub(super) fn find(
        &self,
        home: Home,
        word: Word,
        blocks: &K::Blocks,
        except: [Option<usize>; 2],
    ) -> Found {
        let found = self.find_in_word(home.word, word.matches(home), blocks, except);
        if matches!(found, Found::At(_)) || !word.overflows() {
            return found;
        }
        let mut nowhere = found;
        for other in others(home.word) {
            let lanes = self.tags.load(other).matches(home);
            match self.find_in_word(other, lanes, blocks, except) {
                found @ Found::At(_) => return found,
                Found::Unsettled => nowhere = Found::Unsettled,
                Found::Nowhere => {}
            }
        }
        nowhere
    }

    #[inline(always)]
    fn find_in_word(
        &self,
        word: usize,
        lanes: Lanes,
        blocks: &K::Blocks,
        except: [Option<usize>; 2],
    ) -> Found {
        let mut found = Found::Nowhere;
        for lane in lanes {
            let slot = word * LANES + lane;
            let entry = self.entry(slot);
            let head = entry.head();
            if K::difference(&entry.words(), blocks) == 0 && !except.contains(&Some(slot)) {
                if head.is_stable() {
                    return Found::At(slot);
                }
                found = Found::Unsettled;
            }
        }
        found
    }

    #[inline(always)]
    pub(super) fn entries(&self) -> &[K::Lines] {
        K::Lines::of(&self.lines)
    }

    #[inline(always)]
    pub(super) fn entry(&self, slot: usize) -> Entry<'_, K> {
        let entries = self.entries();
        Entry(&entries[slot & (entries.len() - 1)])
    }

    /// The head of an entry, if it is still what `flow` was to.
    #[inline(always)]
    pub(super) fn head(&self, flow: FlowRef) -> Option<Head> {
        let head = self.entry(flow.slot as usize).head();
        (head.incarnation() == flow.incarnation).then_some(head)
    }

    /// Whether an entry is still what `flow` was to, though another poller may be changing it.
    pub fn contains(&self, flow: FlowRef) -> bool {
        self.head(flow).is_some()
    }

    /// Gives an entry another action; its flags stay. Returns the reference to use from now on.
    ///
    /// # Errors
    /// The entry is gone, or another poller is changing it.
    pub fn update_action(
        &self,
        flow: FlowRef,
        action: &Action<K::Addr>,
    ) -> Result<FlowRef, Unavailable> {
        let entry = self.entry(flow.slot as usize);
        let head = self.head(flow).ok_or(Unavailable::Gone)?;
        if !head.is_stable() || !entry.try_lock(head) {
            return Err(Unavailable::Busy);
        }
        let words = entry.words();
        let action = Action {
            flags: K::action(&words).flags,
            ..*action
        };
        let head = entry.change(head, &K::key(&words).words(&action));
        Ok(FlowRef::new(flow.slot as usize, head))
    }

    /// A copy of an entry; `None` if it is gone or another poller is changing it all the time.
    pub fn view(&self, flow: FlowRef) -> Option<View<K>> {
        self.view_slot(flow.slot as usize)
            .filter(|view| view.flow == flow)
    }

    /// A copy of whatever entry is in a slot.
    pub(super) fn view_slot(&self, slot: usize) -> Option<View<K>> {
        let entry = self.entry(slot);
        for _ in 0..LOOKS {
            let head = entry.head();
            let words = entry.words();
            let counters = entry.counters();
            let dir = entry.dir();
            if head.is_stable() && entry.is_still(head) {
                return Some(View {
                    flow: FlowRef::new(slot, head),
                    key: K::key(&words),
                    action: K::action(&words),
                    dir,
                    last_seen: counters.last_seen,
                    packets: counters.packets,
                    bytes: counters.bytes,
                });
            }
        }
        None
    }

    /// [`Live::dir`] of an entry. Not checked.
    #[inline(always)]
    pub fn dir(&self, flow: FlowRef) -> u64 {
        self.live(flow).dir()
    }

    /// [`Live::set_dir`] of an entry. Not checked.
    #[inline(always)]
    pub fn set_dir(&self, flow: FlowRef, dir: u64) {
        self.live(flow).set_dir(dir);
    }

    /// [`Live::touch`] of an entry. Not checked.
    #[inline(always)]
    pub fn touch(&self, flow: FlowRef, now: Tick, bytes: u32) {
        self.live(flow).touch(now, bytes);
    }

    /// Sets when an entry was last seen, by [`super::seen_before`]. Not checked. For who puts a connection in that is older than its entry;
    /// a packet that its poller counts at this moment may be forgotten.
    pub fn set_last_seen(&self, flow: FlowRef, last_seen: u32) {
        self.entry(flow.slot as usize).set_seen(last_seen);
    }

    /// 32 bits of the key's hash under the table's secret, for whoever has to spread connections too: outer source ports come of them.
    #[inline]
    pub fn flow_hash(&self, key: &K) -> u32 {
        spare(self.hasher.hash(key.blocks()))
    }

    /// An entry as a lookup gives it. Not checked: if it is gone it is another one's.
    #[inline(always)]
    pub fn live(&self, flow: FlowRef) -> Live<'_, K> {
        let slot = flow.slot as usize;
        Live::new(
            slot,
            Head::of_incarnation(flow.incarnation),
            self.entry(slot),
        )
    }

    /// Visits every entry, both directions of each connection, in no order. Entries that come or go
    /// meanwhile may be missed. Pollers are not held up. For the control thread: it reads the whole table.
    pub fn for_each(&self, mut visit: impl FnMut(&View<K>)) {
        for line in 0..self.tags.lines().len() {
            for slot in self.used_slots(line) {
                if let Some(view) = self.view_slot(slot) {
                    visit(&view);
                }
            }
        }
    }
}
