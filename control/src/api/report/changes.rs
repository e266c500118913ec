//! How long changes take.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long it took from when the control thread woke to when pollers had tables of what was new: a route, a neighbour, a pod, files.
/// Since the daemon started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// How many times tables were published.
    pub count: u64,
    /// How long all took together, in microseconds.
    pub sum_microseconds: u64,
    /// How many took no longer than each of [`LIMITS`](Self::LIMITS), those of the limits before not among them; the last: longer than all.
    pub buckets: Vec<u64>,
}

impl Changes {
    /// Upper limits of the buckets, in microseconds.
    pub const LIMITS: [u64; 10] = [
        100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 10_000_000,
    ];

    /// Counts one.
    pub fn took(&mut self, time: Duration) {
        let microseconds = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.count += 1;
        self.sum_microseconds = self.sum_microseconds.saturating_add(microseconds);
        self.buckets.resize(Self::LIMITS.len() + 1, 0);
        let bucket = Self::LIMITS.partition_point(|limit| *limit < microseconds);
        if let Some(bucket) = self.buckets.get_mut(bucket) {
            *bucket += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_belongs_to_its_bucket() {
        let mut changes = Changes::default();
        for microseconds in [0, 100, 101, 10_000_000, 10_000_001] {
            changes.took(Duration::from_micros(microseconds));
        }
        assert_eq!(changes.count, 5);
        assert_eq!(changes.sum_microseconds, 20_000_202);
        assert_eq!(changes.buckets, [2, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        let largest = Duration::MAX;
        changes.took(largest);
        assert_eq!(changes.sum_microseconds, u64::MAX);
    }
}
