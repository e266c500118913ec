//! The flow table: from a packet's five-tuple to what was decided about its direction of a connection.
//!
//! One table for all pollers, since the two directions of a connection may arrive at different ones. Its
//! memory is fixed when it is made. A lookup takes no lock and never waits; a change that meets another
//! one's lock gives up with [`InsertError::Busy`] or [`Unavailable::Busy`] instead of waiting.
//!
//! A connection is a pair of entries, one a direction, which are inserted and removed together. An entry
//! is a cache line (IPv6: two). Where it is, the *tags* say: eight slots share a word with seven bits of
//! each slot's hash, and eight words share a cache line. A key's hash chooses its home word; if the
//! eight slots of that are taken, the entry goes to another word of the same line, never farther.
//!
//! What protects what:
//!
//! - the lock bit of a key's home word: that a key is inserted once. Held by an insert, and by a sweep
//!   that clears an overflow flag;
//! - a slot's tag, set and cleared by compare and swap: who owns an empty slot;
//! - the lowest bit of an entry's version, set by compare and swap: who changes or removes a live entry.
//!   Readers copy an entry and compare the version before and after (a seqlock);
//! - the last three words of an entry (the tracker's word, last seen and packets, bytes): nothing. One
//!   poller writes them by load and store. A write that comes too late hits the slot's next connection,
//!   so they serve expiry and display, and never decide what happens to a packet.
//!
//! Checked by loom: `RUSTFLAGS="--cfg loom" cargo test -p flowtable --release --test loom_flow`.

mod action;
mod batch;
mod capacity;
mod clock;
mod entry;
mod hash;
mod key;
mod memory;
mod pair;
mod sweep;
mod sync;
mod table;
mod tags;
mod view;

pub use action::{Action, flag};
pub use batch::{BATCH, Hit, Keys, Soon};
pub use capacity::{Capacity, CapacityError};
pub use clock::{REMEMBERED, SEEN_UNIT, idle, seen_at, seen_before};
pub use hash::Seed;
pub(crate) use hash::hash_of;
pub use key::{FlowKey, Key4, Key6};
pub use pair::InsertError;
pub use sweep::{Cursor, SweepStats};
#[cfg(loom)]
pub use sync::sabotage;
pub use table::{FlowTable, Unavailable};
pub use view::{FlowRef, Live, View};

/// The flow table of IPv4: 64 bytes an entry, and one byte of tags.
pub type FlowTable4 = FlowTable<Key4>;

/// The flow table of IPv6: 128 bytes an entry, and one byte of tags.
pub type FlowTable6 = FlowTable<Key6>;
