//! References to entries, and copies of them.

use super::action::{Action, flag};
use super::entry::Head;
use super::key::FlowKey;

/// An entry while it belongs to one connection: a slot, and which of its users is meant.
///
/// Plain data, and good for as long as the connection is in the table; afterwards methods that return
/// something say that the entry is gone. After 128 changes of one entry it is gone too, though the
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
