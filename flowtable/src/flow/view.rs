//! References to entries, and copies of them.

use core::fmt;

use super::action::{Action, flag};
use super::clock::seen_at;
use super::entry::{Entry, Head};
use super::key::FlowKey;
use super::tags::LINE_SLOTS;
use crate::Tick;

/// An entry while it belongs to one connection: a slot, and which of its users is meant.
///
/// Plain data, and good for as long as the connection is in the table; afterwards methods that return
/// something say that the entry is gone. After 127 changes of one entry it is gone too, though the
/// connection is not: look it up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowRef {
    pub(super) slot: u32,
    pub(super) incarnation: u32,
}

impl FlowRef {
    #[inline(always)]
    pub(super) const fn new(slot: usize, head: Head) -> Self {
        Self {
            slot: slot as u32,
            incarnation: head.incarnation(),
        }
    }

    /// The line of tags that it is in.
    #[must_use]
    pub const fn line(self) -> usize {
        self.slot as usize / LINE_SLOTS
    }

    /// The number of the entry, below the table's capacity.
    #[inline]
    #[must_use]
    pub const fn slot(self) -> u32 {
        self.slot
    }
}

/// An entry, for its poller to count packets in: what needs no version. If the connection is gone, it is another one's.
pub struct Live<'a, K: FlowKey> {
    slot: usize,
    head: Head,
    entry: Entry<'a, K>,
}

impl<K: FlowKey> fmt::Debug for Live<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Live").field(&self.flow()).finish()
    }
}

impl<'a, K: FlowKey> Live<'a, K> {
    #[inline(always)]
    pub(super) const fn new(slot: usize, head: Head, entry: Entry<'a, K>) -> Self {
        Self { slot, head, entry }
    }

    /// The reference to it.
    #[inline(always)]
    pub const fn flow(&self) -> FlowRef {
        FlowRef::new(self.slot, self.head)
    }

    /// The connection tracker's word, which the table only keeps.
    #[inline(always)]
    pub fn dir(&self) -> u64 {
        self.entry.dir()
    }

    /// Sets the connection tracker's word. For the direction's poller.
    #[inline(always)]
    pub fn set_dir(&self, dir: u64) {
        self.entry.set_dir(dir);
    }

    /// Counts a packet of `bytes` bytes, seen `now`. For the direction's poller. Returns how many packets there were, this one included: a
    /// hint, as all that is counted.
    #[inline(always)]
    pub fn touch(&self, now: Tick, bytes: u32) -> u64 {
        self.entry.touch(seen_at(now), bytes)
    }

    /// Counts packets of `bytes` bytes together that the kernel passed, seen `now`. For the one thread that is told of them. A packet that
    /// the direction's poller counts at this moment may be forgotten, or these.
    pub fn count(&self, now: Tick, packets: u64, bytes: u64) {
        self.entry.count(seen_at(now), packets, bytes);
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
    /// When it was last seen, by [`super::seen_at`]; [`super::idle`] says how long ago.
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
