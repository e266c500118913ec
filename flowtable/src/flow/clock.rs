//! When an entry was last seen: 24 bits of coarse time, which wrap after 26 days.

use core::time::Duration;

use crate::Tick;

/// 2^27 ns, the unit in which an entry remembers when it was last seen.
pub const SEEN_UNIT: Duration = Duration::from_nanos(1 << UNIT_BITS);

const UNIT_BITS: u32 = 27;

/// The bits of a coarse time.
pub(super) const SEEN_MASK: u32 = 0x00ff_ffff;

/// The part of the range that is taken for the future: 2 h 26 min, in which no two pollers' clocks differ.
const AHEAD: u32 = 1 << 16;

/// How long ago an entry can have been last seen: 25 days. What is longer ago looks as if it were of now.
pub const REMEMBERED: Duration = Duration::from_nanos(((SEEN_MASK - AHEAD) as u64) << UNIT_BITS);

/// `now` as an entry remembers it: 24 bits, in units of [`SEEN_UNIT`].
#[inline]
#[must_use]
pub const fn seen_at(now: Tick) -> u32 {
    (now.0 >> UNIT_BITS) as u32 & SEEN_MASK
}

/// What was seen so long before `now`, as an entry remembers it: also if that is before the clock began.
#[inline]
#[must_use]
pub const fn seen_before(now: Tick, ago: Duration) -> u32 {
    let units = (ago.as_nanos() >> UNIT_BITS) as u32;
    seen_at(now).wrapping_sub(units) & SEEN_MASK
}

/// How long ago `last_seen` was, up to a unit too long or too short.
///
/// Nearly all of the range is the past, [`REMEMBERED`]: what lies a little ahead was seen by a poller whose clock was read later, and
/// is zero ago.
#[inline]
#[must_use]
pub const fn idle(now: Tick, last_seen: u32) -> Duration {
    let units = seen_at(now).wrapping_sub(last_seen) & SEEN_MASK;
    if units > SEEN_MASK - AHEAD {
        return Duration::ZERO;
    }
    Duration::from_nanos((units as u64) << UNIT_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_is_what_passed_in_whole_units() {
        let start = Tick(77 << UNIT_BITS);
        let later = start + Duration::from_mins(1);
        let passed = idle(later, seen_at(start));
        assert!(passed <= Duration::from_mins(1));
        assert!(passed + SEEN_UNIT > Duration::from_mins(1));
    }

    #[test]
    fn what_was_seen_before_the_clock_began_is_as_long_ago() {
        for ago in [0, 1, 2, 100, 40_000].map(|units| SEEN_UNIT * units) {
            let now = Tick(5);
            assert_eq!(idle(now, seen_before(now, ago)), ago);
            let later = now + SEEN_UNIT * 7;
            assert_eq!(idle(later, seen_before(now, ago)), ago + SEEN_UNIT * 7);
        }
    }

    #[test]
    fn idle_survives_the_wrap_of_the_coarse_clock() {
        let before = Tick(((SEEN_MASK as u64) << UNIT_BITS) | 5);
        let after = before + SEEN_UNIT * 3;
        assert!(seen_at(after) < seen_at(before));
        assert_eq!(idle(after, seen_at(before)), SEEN_UNIT * 3);
    }

    #[test]
    fn what_is_weeks_ago_is_not_of_now() {
        let start = Tick(77 << UNIT_BITS);
        for days in [6, 12, 14, 25] {
            let passed = Duration::from_hours(24 * days);
            let seen = idle(start + passed, seen_at(start));
            assert!(seen <= passed && seen + SEEN_UNIT > passed, "{seen:?}");
        }
    }

    #[test]
    fn what_another_poller_saw_later_is_not_ages_ago() {
        assert_eq!(idle(Tick(0), seen_at(Tick(1 << UNIT_BITS))), Duration::ZERO);
    }
}
