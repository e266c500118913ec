//! Connections: what was decided about the first packet of one is repeated for the others.
//!
//! [`lookup`] finds the connections of a batch. A packet whose connection was decided by the tables in force is done
//! then: no route, no rule and no port is looked at again. What is new or was decided by older tables goes on to
//! `resolve`; [`connect`] makes connections of the new ones that are to be sent, and renews the others.
//!
//! A packet's addresses and ports *as known* ([`Packet`]) become what it is translated to; its
//! bytes stay as they came until `apply`. Who is dropped on the way is restored from them.

mod ahead;
mod connect;
mod evict;
mod fragments;
mod insert;
mod inspect;
mod keep;
mod lookup;
mod net;
mod offload;
mod plan;
mod policy;
mod related;
mod service;
mod snat;
mod sweep;
mod tell;
mod track;
mod untracked;

use flowtable::flow::FlowRef;

pub use connect::run as connect;
pub use fragments::run as fragments;
pub(crate) use fragments::{Held, expire as expire_fragments};
pub use inspect::{Connection, Direction, Origin, Removal, Walked};
pub use keep::{Kept, KeptDirection, LeftOut};
pub(super) use lookup::l3_of;
pub use lookup::run as lookup;
pub(super) use net::{Sent, sent4, sent6};
pub(super) use service::one as to_backend;
pub use sweep::{Sweep, run as sweep};

use crate::batch::{Packet, PeerId};

/// What a packet has to do with a connection, between [`lookup`] and [`connect`].
#[derive(Clone, Copy, Debug)]
pub enum Found {
    /// No connection: it may start one.
    Nothing,
    /// Its fate is decided.
    Done,
    /// None, and it begins none: untracked policy has allowed it.
    Untracked,
    /// A connection that was decided by older tables, or whose packets came in elsewhere.
    Stale(FlowRef),
    /// An ICMP error about a packet of this direction's opposite: it travels with this direction.
    Related(FlowRef),
    /// An ICMP error about nothing that is known.
    Unrelated,
}

/// Where a packet came in, as an entry remembers it: the port, or the node whose tunnel it came by. A packet of the
/// same connection that comes in elsewhere has its source checked again.
#[inline(always)]
pub(super) const fn origin_of(packet: &Packet) -> u16 {
    if packet.peer.0 == PeerId::NONE.0 {
        packet.in_port.0
    } else {
        BY_TUNNEL | packet.peer.0
    }
}

/// Whether an origin is the packet's.
#[inline(always)]
pub(super) const fn is_of(packet: &Packet, origin: u16) -> bool {
    // Most come by no tunnel: one branch for that.
    packet.peer.0 | (packet.in_port.0 ^ origin) == 0 || origin_of(packet) == origin
}

/// Set in an origin that is a node, not a port. There are fewer than 2^15 of either.
const BY_TUNNEL: u16 = 0x8000;

/// The origin of a direction of which no packet was seen.
const NOWHERE: u16 = BY_TUNNEL;

/// A generation as entries keep it. Entries that are older than 2^32 generations are gone.
#[inline(always)]
const fn short(generation: u64) -> u32 {
    generation as u32
}

/// Whether something that holds since a generation is newer than an entry of another.
#[inline]
const fn is_newer(since: u64, entry: u32) -> bool {
    short(since).wrapping_sub(entry).cast_signed() > 0
}
