//! What rules decided about, counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use flowtable::acl::RuleId;

use super::{Decided, Decider};

/// What rules decided about, by their numbers. Counts up for as long as the process lives and never wraps in practice:
/// 64 bits. Shared by all pollers and by control, relaxed.
///
/// `connections` are decisions: once for each first packet that was judged. `packets` and `bytes` are those of the
/// connections that the rule decided about, both directions, and of cached denials; added when an entry ends, so what is
/// under way has to be added from the flow table.
#[derive(Clone, Debug, Default)]
pub struct RuleCounters {
    chunks: Vec<Arc<[RuleCounter; CHUNK]>>,
}

/// What one rule decided about.
#[derive(Debug, Default)]
pub struct RuleCounter {
    connections: AtomicU64,
    packets: AtomicU64,
    bytes: AtomicU64,
}

/// A copy of a [`RuleCounter`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleCount {
    /// First packets that were judged.
    pub connections: u64,
    /// Packets of connections.
    pub packets: u64,
    /// Their bytes, from the IP header on.
    pub bytes: u64,
}

const CHUNK: usize = 256;

impl RuleCounters {
    /// Counters of no rule.
    pub const fn new() -> Self {
        Self { chunks: Vec::new() }
    }

    /// Makes room for rules up to this number. What was counted stays, also in clones.
    pub fn grow(&mut self, last: RuleId) {
        while self.chunks.len() * CHUNK <= last.0 as usize {
            self.chunks
                .push(Arc::new(std::array::from_fn(|_| RuleCounter::default())));
        }
    }

    fn of(&self, decider: Decider) -> Option<&RuleCounter> {
        let Decided::Rule(id) = decider.decided() else {
            return None;
        };
        let id = id.0 as usize;
        self.chunks.get(id / CHUNK)?.get(id % CHUNK)
    }

    pub(super) fn decided(&self, decider: Decider) {
        if let Some(counter) = self.of(decider) {
            counter.connections.fetch_add(1, Relaxed);
        }
    }

    /// Adds packets of a connection, in one direction.
    pub(crate) fn add(&self, decider: Decider, packets: u64, bytes: u64) {
        if let Some(counter) = self.of(decider) {
            counter.packets.fetch_add(packets, Relaxed);
            counter.bytes.fetch_add(bytes, Relaxed);
        }
    }

    /// Begins to count anew, for another rule of this number.
    pub fn reset(&self, rule: RuleId) {
        if let Some(counter) = self.of(Decider::from_bits(rule.0)) {
            counter.connections.store(0, Relaxed);
            counter.packets.store(0, Relaxed);
            counter.bytes.store(0, Relaxed);
        }
    }

    /// The counts of a rule; zeros for one that there are none for.
    pub fn get(&self, rule: RuleId) -> RuleCount {
        let counter = self.of(Decider::from_bits(rule.0));
        counter.map_or_else(RuleCount::default, |counter| RuleCount {
            connections: counter.connections.load(Relaxed),
            packets: counter.packets.load(Relaxed),
            bytes: counter.bytes.load(Relaxed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_kept_as_they_grow() {
        let mut counters = RuleCounters::default();
        counters.grow(RuleId(3));
        let older = counters.clone();
        counters.grow(RuleId(1000));
        older.add(Decider::from_bits(3), 2, 100);
        counters.decided(Decider::from_bits(1000));
        assert_eq!(
            (
                counters.get(RuleId(3)).packets,
                counters.get(RuleId(3)).bytes
            ),
            (2, 100)
        );
        assert_eq!(counters.get(RuleId(1000)).connections, 1);
        assert_eq!(older.get(RuleId(1000)), RuleCount::default());
    }
}
