//! Who may make how many connections, and which go when there is no room.
//!
//! One pod must not be able to fill the table for all: an endpoint has at most its share of it; the last part is kept
//! for endpoints that have few connections; and what a flood consists of, unanswered packets, is evicted first: the endpoint's own
//! where it has its share, and of these what others began at it before what it began. An assured connection is never evicted for
//! a new one, but for datagrams of an endpoint at its share that have served their purpose.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use core::time::Duration;

use super::State;

/// Why a connection may not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Denied {
    /// The endpoint has its share of the table.
    #[error("the endpoint has as many connections as one may have")]
    Quota,
    /// The table is full, or full but for the reserve and the endpoint has not few connections.
    #[error("the table of connections is full")]
    Full,
}

/// The limits, in connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// What the table holds.
    pub capacity: u32,
    /// The most that one endpoint may have.
    pub share: u32,
    /// What is kept for endpoints that have few.
    pub reserve: u32,
    /// An endpoint that has fewer than this has few.
    pub few: u32,
}

impl Limits {
    /// The default limits of a table of `capacity` connections: a quarter for an endpoint, a sixteenth in reserve for
    /// endpoints that have less than 1/1024 (16 at least).
    #[must_use]
    pub const fn of(capacity: u32) -> Self {
        let few = capacity / 1024;
        Self {
            capacity,
            share: capacity / 4,
            reserve: capacity / 16,
            few: if few < 16 { 16 } else { few },
        }
    }
}

/// How many connections each endpoint has, and whether it may have another.
///
/// An endpoint is a port's index. A connection counts for the pod whose packet began it, or, when that came from an uplink,
/// for the pod that it goes to: an uplink speaks for too many to have a share. What counts for no pod (the host's connections, transit
/// between tunnels) has no share either, and nothing of the reserve.
///
/// Shared by all pollers, relaxed: two that ask at the same moment may both be let in, so a limit may be exceeded
/// by as many as there are pollers. Nothing else depends on the counts.
#[derive(Debug)]
pub struct Quota {
    counts: Box<[AtomicU32]>,
    limits: Limits,
}

impl Quota {
    /// Counts for endpoints `0..endpoints`, all zero. Allocates; nothing later does.
    #[must_use]
    pub fn new(endpoints: u16, limits: Limits) -> Self {
        Self {
            counts: (0..endpoints).map(|_| AtomicU32::new(0)).collect(),
            limits,
        }
    }

    /// The limits.
    #[must_use]
    pub const fn limits(&self) -> Limits {
        self.limits
    }

    /// The connections of an endpoint; 0 of one that there is no count for.
    #[must_use]
    pub fn count(&self, endpoint: u16) -> u32 {
        self.counts
            .get(usize::from(endpoint))
            .map_or(0, |count| count.load(Relaxed))
    }

    /// Whether this endpoint may make a connection in a table that has `table_len`.
    ///
    /// # Errors
    ///
    /// [`Denied::Full`] is worth an attempt to [evict](Candidate::rank) another, [`Denied::Quota`] one of the same endpoint.
    pub fn may_create(&self, endpoint: u16, table_len: u32) -> Result<(), Denied> {
        let Limits {
            capacity,
            share,
            reserve,
            few,
        } = self.limits;
        let count = self.counts.get(usize::from(endpoint));
        let count = count.map(|count| count.load(Relaxed));
        if count.is_some_and(|count| count >= share) {
            return Err(Denied::Quota);
        }
        let room = if count.is_some_and(|count| count < few) {
            capacity
        } else {
            capacity.saturating_sub(reserve)
        };
        if table_len >= room {
            return Err(Denied::Full);
        }
        Ok(())
    }

    /// Counts a connection that was made.
    pub fn created(&self, endpoint: u16) {
        if let Some(count) = self.counts.get(usize::from(endpoint)) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Counts a connection that was removed. Once for each [`created`](Self::created); a count does not fall below zero.
    pub fn removed(&self, endpoint: u16) {
        if let Some(count) = self.counts.get(usize::from(endpoint)) {
            // Of no interest: at zero there is nothing to count down.
            let _ = count.fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1));
        }
    }
}

/// A connection that may have to go for a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its state.
    pub state: State,
    /// How long it has been idle ([`idle_time`](super::idle_time)).
    pub idle: Duration,
}

impl Candidate {
    /// The rank of a victim: a larger one goes first. `None` may not be evicted.
    #[must_use]
    pub fn rank(self) -> Option<(bool, Duration)> {
        let may_go = self.state.is_embryonic() || self.state.is_closing();
        may_go.then_some((self.state.is_embryonic(), self.idle))
    }
}

#[cfg(test)]
mod tests;
