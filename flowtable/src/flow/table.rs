//! The table: what one key or one reference is enough for. Batches are in `batch`, expiry in `sweep`.

use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::action::{Action, flag};
use super::clock::seen_at;
use super::entry::{Entry, Head};
use super::hash::{Blocks, Seed};
use super::key::FlowKey;
use super::tags::{Home, LANES, LINE_SLOTS, Tags, Word, others};
use crate::Tick;

/// How often a lookup looks again that met an entry of its key in the middle of a change.
const LOOKS: usize = 4;

/// Counters of entries; a change counts in that of its line of tags, so that pollers seldom meet.
const COUNTERS: usize = 16;

/// How many entries a table has: a power of two, from 1,024 to 2^30. A connection takes two.
///
/// Give it twice the entries that are expected at most: at half the load hardly any key is away from its
/// home word, and above 0.8 the first inserts are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity(usize);

/// Why a number is not a capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} entries: a flow table has a power of two of them, from {min} to {max}", min = Capacity::MIN.0, max = Capacity::MAX.0)]
pub struct CapacityError(usize);

impl Capacity {
    /// The smallest table.
    pub const MIN: Self = Self(if cfg!(loom) { LINE_SLOTS } else { 1 << 10 });

    /// The largest table.
    pub const MAX: Self = Self(1 << 30);

    /// A table of `entries` entries.
    ///
    /// # Errors
    /// Not a power of two from [`Capacity::MIN`] to [`Capacity::MAX`].
    pub const fn new(entries: usize) -> Result<Self, CapacityError> {
        if entries.is_power_of_two() && entries >= Self::MIN.0 && entries <= Self::MAX.0 {
            return Ok(Self(entries));
        }
        Err(CapacityError(entries))
    }

    /// The number of entries.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0
    }
}

/// An entry while it belongs to one connection: a slot, and which of its users is meant.
///
/// Plain data, and good for as long as the connection is in the table; afterwards methods that return
/// something say that the entry is gone. After 128 changes of one entry it is gone too, though the
/// connection is not: look it up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowRef {
    slot: u32,
    incarnation: u32,
}

impl FlowRef {
    #[inline(always)]
    pub(super) const fn new(slot: usize, head: Head) -> Self {
        Self {
            slot: slot as u32,
            incarnation: head.incarnation(),
        }
    }

    /// The number of the entry, below the table's capacity.
    #[inline]
    #[must_use]
    pub const fn slot(self) -> u32 {
        self.slot
    }
}

/// A consistent copy of an entry, beside its counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View<K: FlowKey> {
    /// The entry.
    pub flow: FlowRef,
    /// Whose it is.
    pub key: K,
    /// What happens to its packets.
    pub action: Action<K::Addr>,
    /// The connection tracker's word.
    pub dir: u64,
    /// When it was last seen, by [`seen_at`]; [`super::idle`] says how long ago.
    pub last_seen: u32,
    /// Packets since the connection began; 40 bits.
    pub packets: u64,
    /// Bytes since the connection began.
    pub bytes: u64,
}

impl<K: FlowKey> View<K> {
    /// Whether this is the direction of the replies.
    pub const fn is_reply(&self) -> bool {
        self.action.flags & flag::IS_REPLY != 0
    }
}

/// Why a connection was not inserted. The table is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InsertError {
    /// There is an entry of the reply's key: a SNAT port that is in use, or the connection itself.
    #[error("the key of the replies is taken")]
    ReplyTaken,
    /// There is an entry of the forward key, or the two keys are the same.
    #[error("the forward key is taken")]
    ForwardTaken,
    /// All slots in the line of one of the keys are taken.
    #[error("no room where one of the keys belongs")]
    Full,
    /// Another poller is at work where one of the keys belongs.
    #[error("another poller is at work where one of the keys belongs")]
    Busy,
}

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
    pub(super) entries: Box<[Entry<K::Cells>]>,
    pub(super) seed: Seed,
    used: [Counter; COUNTERS],
}

/// Entries that were inserted less those that were removed, in some of the lines.
#[repr(align(64))]
#[derive(Default)]
struct Counter(AtomicUsize);

impl<K: FlowKey> fmt::Debug for FlowTable<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlowTable")
            .field("capacity", &self.capacity())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

/// A slot for a key, its home word locked.
struct Place {
    home: Home,
    slot: usize,
}

/// Why there is no [`Place`] for a key.
enum NoPlace {
    Taken,
    Full,
    Busy,
}

impl NoPlace {
    const fn with(self, taken: InsertError) -> InsertError {
        match self {
            Self::Taken => taken,
            Self::Full => InsertError::Full,
            Self::Busy => InsertError::Busy,
        }
    }
}

/// What a look at the entries of a key showed.
enum Found<K: FlowKey> {
    Entry(Head, K::Words),
    OtherKey,
    /// The key, but in the middle of a change.
    Unsettled,
}

impl<K: FlowKey> FlowTable<K> {
    /// An empty table. Takes all its memory now, and touches it.
    #[must_use]
    pub fn new(capacity: Capacity, seed: Seed) -> Self {
        Self {
            tags: Tags::new(capacity.0),
            entries: (0..capacity.0).map(|_| Entry::empty()).collect(),
            seed,
            used: Default::default(),
        }
    }

    /// The entries that fit, two a connection.
    pub const fn capacity(&self) -> usize {
        self.entries.len()
    }

    /// The memory that the table takes, all of it from the start.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.tags.bytes() + size_of_val(&*self.entries)
    }

    /// The entries in use, two a connection. While pollers insert and remove it may miss their latest.
    pub fn len(&self) -> usize {
        let sum = self.used.iter().fold(0usize, |sum, counter| {
            sum.wrapping_add(counter.0.load(Ordering::Relaxed))
        });
        // A removal may be seen before the insertion.
        if sum > self.capacity() { 0 } else { sum }
    }

    /// Whether no entry is in use, as [`FlowTable::len`] sees it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Has the processor fetch the tags that decide about `key`, soon to be looked up alone or inserted.
    #[inline]
    pub fn prefetch(&self, key: &K) {
        self.tags.prefetch(key.blocks().hash(self.seed));
    }

    /// The entry of `key`.
    ///
    /// `None` also in the rare case that another poller is changing the entry and does not come to an end.
    #[inline]
    pub fn lookup(&self, key: &K) -> Option<(FlowRef, Action<K::Addr>)> {
        let blocks = key.blocks();
        self.lookup_hashed(&blocks, blocks.hash(self.seed))
    }

    pub(super) fn lookup_hashed(
        &self,
        blocks: &K::Blocks,
        hash: u64,
    ) -> Option<(FlowRef, Action<K::Addr>)> {
        let home = self.tags.home(hash);
        for _ in 0..LOOKS {
            let word = self.tags.load(home.word);
            let (found, is_unsettled) = self.look_in_line(home, word, blocks, [None; 2]);
            if found.is_some() || !is_unsettled {
                return found.map(|(flow, words)| (flow, K::action(&words)));
            }
        }
        None
    }

    /// The entry of a key in its line, and whether one there is unsettled. `word` is the home word.
    fn look_in_line(
        &self,
        home: Home,
        word: Word,
        blocks: &K::Blocks,
        except: [Option<usize>; 2],
    ) -> (Option<(FlowRef, K::Words)>, bool) {
        let (mut found, mut is_unsettled) = self.look(home.word, word, home, blocks, except);
        if found.is_none() && word.overflows() {
            for other in others(home.word) {
                let (there, unsettled) =
                    self.look(other, self.tags.load(other), home, blocks, except);
                is_unsettled |= unsettled;
                found = found.or(there);
            }
        }
        (found, is_unsettled)
    }

    /// The entry of a key among the slots of one word, and whether one of them is unsettled.
    fn look(
        &self,
        at: usize,
        word: Word,
        home: Home,
        blocks: &K::Blocks,
        except: [Option<usize>; 2],
    ) -> (Option<(FlowRef, K::Words)>, bool) {
        let mut is_unsettled = false;
        for lane in word.matches(home) {
            let slot = at * LANES + lane;
            if except.contains(&Some(slot)) {
                continue;
            }
            match self.look_at(slot, blocks) {
                Found::Entry(head, words) => {
                    return (Some((FlowRef::new(slot, head), words)), false);
                }
                Found::OtherKey => {}
                Found::Unsettled => is_unsettled = true,
            }
        }
        (None, is_unsettled)
    }

    #[inline(always)]
    fn look_at(&self, slot: usize, blocks: &K::Blocks) -> Found<K> {
        let entry = self.entry(slot);
        let head = entry.head();
        let words = entry.words();
        if !K::is_of(&words, blocks) {
            Found::OtherKey
        } else if head.is_stable() && entry.is_still(head) {
            Found::Entry(head, words)
        } else {
            Found::Unsettled
        }
    }

    #[inline(always)]
    pub(super) fn entry(&self, slot: usize) -> &Entry<K::Cells> {
        &self.entries[slot & (self.entries.len() - 1)]
    }

    /// Inserts both directions of a connection, or neither. Last seen `now`, with no packet yet.
    ///
    /// The reply's key is claimed first: with SNAT it is what makes a port the connection's own. The
    /// table sets [`flag::IS_REPLY`] as it should be. `dirs` are the tracker's words, the forward one first.
    ///
    /// # Errors
    /// A key is in the table already, has no room, or is where another poller is at work.
    pub fn insert_pair(
        &self,
        forward: (K, Action<K::Addr>),
        reply: (K, Action<K::Addr>),
        now: Tick,
        dirs: (u64, u64),
    ) -> Result<(FlowRef, FlowRef), InsertError> {
        let ((forward, mut there), (reply, mut back)) = (forward, reply);
        if forward == reply {
            return Err(InsertError::ForwardTaken);
        }
        there.flags &= !flag::IS_REPLY;
        back.flags |= flag::IS_REPLY;
        let reply_place = self
            .claim(&reply.blocks(), None)
            .map_err(|why| why.with(InsertError::ReplyTaken))?;
        let forward_place = match self.claim(&forward.blocks(), Some(&reply_place)) {
            Ok(place) => place,
            Err(why) => {
                self.tags.free(reply_place.slot);
                self.tags.unlock(reply_place.home.word);
                return Err(why.with(InsertError::ForwardTaken));
            }
        };
        let seen = seen_at(now);
        let fill = |place: &Place, partner: &Place, words, dir| {
            let head = self
                .entry(place.slot)
                .publish(partner.slot as u32, &words, dir, seen);
            FlowRef::new(place.slot, head)
        };
        let flows = (
            fill(&forward_place, &reply_place, forward.words(&there), dirs.0),
            fill(&reply_place, &forward_place, reply.words(&back), dirs.1),
        );
        self.tags.unlock(forward_place.home.word);
        if reply_place.home.word != forward_place.home.word {
            self.tags.unlock(reply_place.home.word);
        }
        self.counter(reply_place.slot)
            .fetch_add(2, Ordering::Relaxed);
        Ok(flows)
    }

    /// Locks a key's home word and claims a slot for it, unless there is an entry of it.
    ///
    /// `first` is the place of the other direction, whose home word stays locked in any case.
    fn claim(&self, blocks: &K::Blocks, first: Option<&Place>) -> Result<Place, NoPlace> {
        let home = self.tags.home(blocks.hash(self.seed));
        let held = first.map(|place| place.home.word);
        let claim = self.tags.lock_and_claim(home, held).ok_or(NoPlace::Busy)?;
        // What is in them was left by others.
        let except = [claim.slot, first.map(|place| place.slot)];
        let (found, is_unsettled) = self.look_in_line(home, claim.before, blocks, except);
        let why = match claim.slot {
            Some(slot) if found.is_none() && !is_unsettled => return Ok(Place { home, slot }),
            _ if found.is_some() => NoPlace::Taken,
            _ if is_unsettled => NoPlace::Busy,
            _ => NoPlace::Full,
        };
        if let Some(slot) = claim.slot {
            self.tags.free(slot);
        }
        if held != Some(home.word) {
            self.tags.unlock(home.word);
        }
        Err(why)
    }

    fn counter(&self, slot: usize) -> &AtomicUsize {
        &self.used[slot / LINE_SLOTS % COUNTERS].0
    }

    /// The head of an entry, if it is still what `flow` was to.
    #[inline(always)]
    fn head(&self, flow: FlowRef) -> Option<Head> {
        let head = self.entry(flow.slot as usize).head();
        (head.incarnation() == flow.incarnation).then_some(head)
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

    /// The entry of the other direction; `None` if the connection is gone or being removed.
    #[inline]
    pub fn partner(&self, flow: FlowRef) -> Option<FlowRef> {
        let head = self.head(flow)?;
        let slot = head.partner() as usize;
        let partner = self.entry(slot).head();
        // What names us as its partner was inserted with us, unless it came after us: then we are gone.
        let is_ours = partner.is_stable() && partner.partner() == flow.slot;
        (is_ours && self.head(flow).is_some()).then(|| FlowRef::new(slot, partner))
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
            let dir = entry.dir.load(Ordering::Relaxed);
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

    /// The connection tracker's word, which the table only keeps. Not checked: if the entry is gone it is
    /// another one's.
    #[inline(always)]
    pub fn dir(&self, flow: FlowRef) -> u64 {
        self.entry(flow.slot as usize).dir.load(Ordering::Relaxed)
    }

    /// Sets the connection tracker's word. For the direction's poller; not checked.
    #[inline(always)]
    pub fn set_dir(&self, flow: FlowRef, dir: u64) {
        self.entry(flow.slot as usize)
            .dir
            .store(dir, Ordering::Relaxed);
    }

    /// Counts a packet of `bytes` bytes, seen `now`. For the direction's poller; not checked.
    #[inline(always)]
    pub fn touch(&self, flow: FlowRef, now: Tick, bytes: u32) {
        self.entry(flow.slot as usize).touch(seen_at(now), bytes);
    }

    /// Removes both directions. `true` if this call did it; `false` if the connection is gone, or another
    /// poller is changing it: then a later sweep finds it again.
    pub fn remove_pair(&self, flow: FlowRef) -> bool {
        let Some(head) = self.head(flow) else {
            return false;
        };
        let (slot, partner_slot) = (flow.slot as usize, head.partner() as usize);
        let partner = self.entry(partner_slot).head();
        if !head.is_stable() || !partner.is_stable() || partner.partner() != flow.slot {
            return false;
        }
        // The lower slot first: of two who remove the same pair from its two ends one comes through.
        let mut both = [(slot, head), (partner_slot, partner)];
        both.sort_unstable_by_key(|&(slot, _)| slot);
        let [(first, first_head), (second, second_head)] = both;
        if !self.entry(first).try_lock(first_head) {
            return false;
        }
        if !self.entry(second).try_lock(second_head) {
            self.entry(first).unlock(first_head);
            return false;
        }
        for (slot, head) in both {
            self.entry(slot).remove(head);
            self.tags.free(slot);
        }
        // Maybe in another counter than it was added to; only the sum means something.
        self.counter(slot).fetch_sub(2, Ordering::Relaxed);
        true
    }

    /// Visits every entry, both directions of each connection, in no order. Entries that come or go
    /// meanwhile may be missed. Pollers are not held up. For the control thread: it reads the whole table.
    pub fn for_each(&self, mut visit: impl FnMut(&View<K>)) {
        for line in 0..self.tags.lines() {
            for slot in self.used_slots(line) {
                if let Some(view) = self.view_slot(slot) {
                    visit(&view);
                }
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::{FlowTable4, Key4};
    use super::*;

    fn key(n: u32) -> Key4 {
        Key4 {
            src: n,
            dst: !n,
            sport: 1,
            dport: 2,
            protocol: 6,
        }
    }

    #[test]
    fn a_pair_is_found_from_both_ends_and_removed_from_either() {
        let table = FlowTable4::new(Capacity::MIN, Seed([1, 2]));
        let action = Action {
            generation: 7,
            rule: 0x00ab_cdef,
            nat_port: 9,
            ..Action::default()
        };
        let insert = || {
            let reply = (key(1).reversed(), action);
            table.insert_pair((key(1), action), reply, Tick(0), (11, 12))
        };
        let (there, back) = insert().unwrap();
        assert_eq!(insert(), Err(InsertError::ReplyTaken));
        assert_eq!(table.lookup(&key(1)), Some((there, action)));
        let (found, reply) = table.lookup(&key(1).reversed()).unwrap();
        assert_eq!((found, reply.flags), (back, flag::IS_REPLY));
        assert_eq!(table.partner(there), Some(back));
        assert_eq!(table.partner(back), Some(there));
        assert_eq!((table.dir(there), table.dir(back)), (11, 12));
        assert_eq!(table.len(), 2);
        assert!(table.remove_pair(back));
        assert!(!table.remove_pair(there));
        assert_eq!(table.lookup(&key(1)), None);
        assert_eq!(table.view(there), None);
        assert!(table.is_empty());
    }
}
