//! Fragments: what the first of a datagram says of all, later ones that came before it, and overlaps.
//!
//! Nothing is reassembled. The first fragment tells the upper layer; later ones are forwarded by what it told, or held
//! until it comes. A datagram in which fragments overlap is dropped from there on (RFC 5722, RFC 8200 section 4.5; for IPv4 as well,
//! where RFC 1858 section 3 shows what overlaps are for). Atomic "fragments" (RFC 6946) never get here.
//!
//! Everything is bounded, also for each endpoint that fragments come from, so that one that floods the table pushes out only
//! its own; see [`Limits`]. One table a poller, for both families; fragments of one datagram must reach the same poller.

use core::fmt;
use core::time::Duration;

mod held;
mod index;
mod links;
mod origins;
mod pieces;
mod table;

pub use pieces::MAX_PIECES;
pub use table::Fragments;

/// What the fragments of a datagram have in common (RFC 791 section 3.2, RFC 8200 section 4.5), and where they come in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Key {
    src: u128,
    dst: u128,
    id: u32,
    origin: u16,
    protocol: u8,
    is_v6: bool,
}

impl Key {
    /// That of an IPv4 fragment. `origin` is the port or the peer that it comes from: no endpoint adds to another's datagram.
    #[must_use]
    pub const fn v4(src: u32, dst: u32, protocol: u8, id: u16, origin: u16) -> Self {
        Self {
            src: src as u128,
            dst: dst as u128,
            id: id as u32,
            origin,
            protocol,
            is_v6: false,
        }
    }

    /// That of an IPv6 fragment. The upper layer's protocol is not part of it: only the first fragment tells it.
    #[must_use]
    pub const fn v6(src: u128, dst: u128, id: u32, origin: u16) -> Self {
        Self {
            src,
            dst,
            id,
            origin,
            protocol: 0,
            is_v6: true,
        }
    }

    /// The port or the peer that the fragment comes from.
    #[must_use]
    pub const fn origin(&self) -> u16 {
        self.origin
    }
}

/// Where a fragment belongs in its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where its data starts in the datagram's, in bytes.
    pub offset: u16,
    /// Its data in bytes.
    pub len: u16,
    /// Whether another fragment follows.
    pub more: bool,
}

/// What the first fragment says of the upper layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Upper {
    /// Source and destination port, or the identifier of an ICMP query twice.
    pub ports: (u16, u16),
    /// Protocol. That of a later IPv6 fragment's header may be an extension header's.
    pub protocol: u8,
}

/// What to do with a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Forward it as part of a packet with this upper layer.
    Pass(Upper),
    /// It is held; its token comes back.
    Hold,
    /// Drop it.
    Drop(DropReason),
}

/// What to do with a fragment that was held.
pub type Released = Result<Upper, DropReason>;

/// Why a fragment is dropped. Each has a counter of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DropReason {
    /// It overlaps another, or leads behind the datagram's end: as all later fragments of that datagram.
    Overlap,
    /// The datagram would be longer than 65535 bytes: as all later fragments of that datagram.
    TooLong,
    /// The datagram has more than [`MAX_PIECES`] fragments: as all later fragments of that datagram.
    TooMany,
    /// The same fragment has come already.
    Duplicate,
    /// The first fragment did not come in time.
    NoFirst,
    /// The endpoint that it comes from has its share of the table, or the datagram has enough held fragments.
    Quota,
    /// The table is full.
    Full,
    /// The endpoint that it comes from went away, or the table was cleared.
    OriginGone,
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Overlap => "fragments overlap",
            Self::TooLong => "fragments make more than 65535 bytes",
            Self::TooMany => "too many fragments of a datagram",
            Self::Duplicate => "fragment came twice",
            Self::NoFirst => "first fragment did not come",
            Self::Quota => "endpoint's share of fragments used up",
            Self::Full => "table of fragments is full",
            Self::OriginGone => "endpoint of the fragment went away",
        })
    }
}

/// How much a table holds, and for how long.
///
/// A datagram takes about 350 bytes. Held fragments are bounded by their number only: their frames have a fixed size, and as
/// they never overlap, those of one datagram hold 64 KiB at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Datagrams, complete ones excepted. At least 1.
    pub datagrams: u16,
    /// Held fragments of all datagrams. At least 1.
    pub held: u16,
    /// Held fragments of one datagram.
    pub held_a_datagram: u16,
    /// What part of `datagrams` and `held` one origin may have: 16 for a sixteenth, but at least 1 of each. When it
    /// has that, its oldest datagram gives way to a new one.
    pub share: u16,
    /// How long a datagram is remembered from its first fragment on, as `ipfrag_time` of Linux.
    pub lifetime: Duration,
    /// How long later fragments are held before the first.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            datagrams: 4096,
            held: 1024,
            held_a_datagram: 16,
            share: 16,
            lifetime: Duration::from_secs(30),
            patience: Duration::from_secs(2),
        }
    }
}
