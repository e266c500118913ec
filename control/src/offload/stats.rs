//! What the worker did, as numbers that others read.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use fastpath::batch::Family;
use fastpath::offload::NotOffered;

/// Why a candidate was not told to the kernel, beside [`NotOffered`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is nothing for the kernel.
    Not(NotOffered),
    /// The kernel does not serve a port of it.
    Device,
    /// There is no room for it.
    Full,
    /// An endpoint of it has its share of the room.
    Share,
}

impl Refused {
    const COUNT: usize = NotOffered::ALL.len() + 3;

    const fn index(self) -> usize {
        match self {
            Self::Not(why) => why as usize,
            Self::Device => NotOffered::ALL.len(),
            Self::Full => NotOffered::ALL.len() + 1,
            Self::Share => NotOffered::ALL.len() + 2,
        }
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let others = NotOffered::ALL.map(Self::Not);
        others
            .into_iter()
            .chain([Self::Device, Self::Full, Self::Share])
    }

    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Not(why) => why.name(),
            Self::Device => "port not served by the kernel",
            Self::Full => "no room",
            Self::Share => "endpoint has its share",
        }
    }
}

/// Why the kernel was told to forget a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// The connection is gone.
    Gone,
    /// Other tables do something else with it, or have it decided anew.
    Changed,
    /// A device that it came in or left by is not served any more, or is another port's.
    Device,
    /// A segment with SYN, FIN or RST came.
    Closing,
    /// The kernel saw such a segment, but no poller took it for one that counts.
    Unconfirmed,
    /// No packet came for a while.
    Idle,
    /// Somebody captures, or the node stops.
    Paused,
    /// The kernel had forgotten it by itself.
    Lost,
}

impl Removed {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Gone,
        Self::Changed,
        Self::Device,
        Self::Closing,
        Self::Unconfirmed,
        Self::Idle,
        Self::Paused,
        Self::Lost,
    ];

    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gone => "connection gone",
            Self::Changed => "tables changed",
            Self::Device => "device not served any more",
            Self::Closing => "closing",
            Self::Unconfirmed => "closing segment not confirmed",
            Self::Idle => "idle",
            Self::Paused => "paused",
            Self::Lost => "forgotten by the kernel",
        }
    }
}

/// The worker's numbers. It writes, anybody reads.
#[derive(Debug, Default)]
pub struct Stats {
    now: [AtomicU64; 2],
    offered: AtomicU64,
    inserted: AtomicU64,
    refused: [AtomicU64; Refused::COUNT],
    removed: [AtomicU64; Removed::ALL.len()],
}

impl Stats {
    /// Directions that the kernel has now.
    pub fn now(&self, family: Family) -> u64 {
        self.now[usize::from(family == Family::V6)].load(Relaxed)
    }

    /// Candidates that were looked at.
    pub fn offered(&self) -> u64 {
        self.offered.load(Relaxed)
    }

    /// Those that the kernel was told of.
    pub fn inserted(&self) -> u64 {
        self.inserted.load(Relaxed)
    }

    /// Those that it was not told of, by reason.
    pub fn refused(&self, why: Refused) -> u64 {
        self.refused[why.index()].load(Relaxed)
    }

    /// Those that it was told to forget, by reason.
    pub fn removed(&self, why: Removed) -> u64 {
        self.removed[why as usize].load(Relaxed)
    }

    pub(super) fn count_offered(&self) {
        self.offered.fetch_add(1, Relaxed);
    }

    pub(super) fn count_inserted(&self, family: Family) {
        self.inserted.fetch_add(1, Relaxed);
        self.now[usize::from(family == Family::V6)].fetch_add(1, Relaxed);
    }

    pub(super) fn count_refused(&self, why: Refused) {
        self.refused[why.index()].fetch_add(1, Relaxed);
    }

    pub(super) fn count_removed(&self, family: Family, why: Removed) {
        self.removed[why as usize].fetch_add(1, Relaxed);
        self.now[usize::from(family == Family::V6)].fetch_sub(1, Relaxed);
    }
}
