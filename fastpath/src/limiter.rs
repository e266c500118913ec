//! The rate limit of ICMP errors (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 (f)).

use std::time::Duration;

use flowtable::Tick;

/// Errors a second, to everybody together.
pub const GLOBAL_RATE: u64 = 1000;
/// Errors a second, to one source (sources that hash alike share).
pub const SOURCE_RATE: u64 = 100;
/// Errors that may go out at once.
pub const BURST: u64 = 50;

const BUCKETS: usize = 256;
const SECOND: u64 = Duration::from_secs(1).as_nanos() as u64;

/// Two token buckets an error must pass: one for its receiver, one for all. Fixed memory.
///
/// Per receiver first, so that who is over its own share takes nothing from the others'; and keyed by the
/// caller's hash, so that nobody can aim at another's bucket (as in CVE-2020-25705).
#[derive(Debug)]
pub struct IcmpLimiter {
    global: Bucket,
    sources: Box<[Bucket; BUCKETS]>,
}

/// A token bucket as a theoretical arrival time (the generic cell rate algorithm): one word, no timer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bucket(Tick);

impl Bucket {
    /// Takes a token, if there is one: `rate` a second, and up to `burst` at once.
    pub(crate) fn take(&mut self, now: Tick, rate: u64, burst: u64) -> bool {
        let interval = SECOND / rate;
        let earliest = self.0.max(now);
        if earliest.since(now) > Duration::from_nanos(interval * (burst - 1)) {
            return false;
        }
        self.0 = earliest + Duration::from_nanos(interval);
        true
    }
}

impl Default for IcmpLimiter {
    fn default() -> Self {
        Self {
            global: Bucket::default(),
            sources: Box::new([Bucket::default(); BUCKETS]),
        }
    }
}

impl IcmpLimiter {
    /// Whether an error may go to the source with this (keyed) hash now.
    pub fn allows(&mut self, source_hash: u32, now: Tick) -> bool {
        let index = source_hash as usize % BUCKETS;
        let Some(source) = self.sources.get_mut(index) else {
            return false;
        };
        source.take(now, SOURCE_RATE, BURST) && self.global.take(now, GLOBAL_RATE, BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(limiter: &mut IcmpLimiter, hash: u32, tries: u32, at: Tick) -> usize {
        (0..tries).filter(|_| limiter.allows(hash, at)).count()
    }

    #[test]
    fn a_burst_then_the_rate() {
        let mut limiter = IcmpLimiter::default();
        let start = Tick(1);
        assert_eq!(allowed(&mut limiter, 7, 1000, start), BURST as usize);
        let later = start + Duration::from_millis(100);
        assert_eq!(allowed(&mut limiter, 7, 1000, later), 10);
    }

    #[test]
    fn one_source_does_not_starve_another() {
        let mut limiter = IcmpLimiter::default();
        allowed(&mut limiter, 7, 1000, Tick(1));
        let later = Tick(1) + Duration::from_millis(200);
        allowed(&mut limiter, 7, 1000, later);
        assert!(limiter.allows(8, later));
    }

    #[test]
    fn everybody_together_is_limited_too() {
        let mut limiter = IcmpLimiter::default();
        let sum: usize = (0..200)
            .map(|hash| allowed(&mut limiter, hash, 10, Tick(1)))
            .sum();
        assert_eq!(sum, BURST as usize);
    }
}
