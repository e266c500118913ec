//! Time as an argument.

use core::ops::Add;
use core::time::Duration;

/// A point on a monotonic clock, in nanoseconds from an arbitrary start.
///
/// The poller reads the clock once a batch and hands it down; a replay takes it from the capture.
/// Nothing below the poller reads a clock itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(pub u64);

impl Tick {
    /// The time from `earlier` to this tick; zero when `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Tick {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_past_is_zero_away() {
        assert_eq!(Tick(5).since(Tick(9)), Duration::ZERO);
        assert_eq!(Tick(9).since(Tick(5)), Duration::from_nanos(4));
    }

    #[test]
    fn far_futures_saturate() {
        assert_eq!(Tick(7) + Duration::MAX, Tick(u64::MAX));
    }
}
