//! Whether the daemon moves: heartbeats, and what is ready.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use fastpath::counters::Counters;

/// A thread that has not turned for so long stands still. Both turn once a second at least.
const STANDS: Duration = Duration::from_secs(5);

/// Heartbeats and flags. Written by the control thread, and by pollers in their counters; read by the thread that answers probes, which must
/// not be one of those that it watches.
#[derive(Debug)]
pub(super) struct Vitals {
    began: Instant,
    /// When the control thread turned last, in nanoseconds since `began`.
    control: AtomicU64,
    /// The kernel's state is to be read again in full: messages of it were lost.
    behind: AtomicBool,
    /// Felix has not said what to do yet.
    waits: AtomicBool,
    /// The pollers' counters and when they were started, once they are.
    pollers: OnceLock<(Instant, Vec<Arc<Counters>>)>,
}

impl Vitals {
    /// Of a daemon that starts.
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            began: now,
            control: AtomicU64::new(0),
            behind: AtomicBool::new(false),
            waits: AtomicBool::new(false),
            pollers: OnceLock::new(),
        }
    }

    /// The pollers run, and the first tables are published. Called once.
    pub(super) fn started(&self, now: Instant, pollers: Vec<Arc<Counters>>) {
        self.turned(now, false);
        let first = self.pollers.set((now, pollers));
        debug_assert!(first.is_ok());
    }

    /// The control thread has turned.
    pub(super) fn turned(&self, now: Instant, behind: bool) {
        let since = now.saturating_duration_since(self.began);
        self.control
            .store(since.as_nanos() as u64, Ordering::Relaxed);
        self.behind.store(behind, Ordering::Relaxed);
    }

    /// Whether Felix has yet to say what to do.
    pub(super) fn waits(&self, waits: bool) {
        self.waits.store(waits, Ordering::Relaxed);
    }

    /// The pollers that stand still, with for how long.
    pub(super) fn standing(&self, now: Instant) -> impl Iterator<Item = (usize, Duration)> {
        let (started, pollers) = match self.pollers.get() {
            Some((started, pollers)) => (*started, &**pollers),
            None => (now, [].as_slice()),
        };
        let ages = pollers.iter().enumerate().map(move |(index, counters)| {
            let beat = started + Duration::from_nanos(counters.beat.get());
            (index, now.saturating_duration_since(beat))
        });
        ages.filter(|(_, age)| *age > STANDS)
    }

    /// Why the daemon is not live; empty: it is. One that starts is.
    pub(super) fn not_live(&self, now: Instant) -> Vec<String> {
        if self.pollers.get().is_none() {
            return Vec::new();
        }
        let beat = self.began + Duration::from_nanos(self.control.load(Ordering::Relaxed));
        let age = now.saturating_duration_since(beat);
        let control = (age > STANDS)
            .then(|| format!("the control thread has not turned for {} s", age.as_secs()));
        let pollers = self.standing(now).map(|(index, age)| {
            let seconds = age.as_secs();
            format!("poller {index} has not turned for {seconds} s")
        });
        control.into_iter().chain(pollers).collect()
    }

    /// Why the daemon is not ready; empty: it is.
    pub(super) fn not_ready(&self, now: Instant) -> Vec<String> {
        let Some((_, pollers)) = self.pollers.get() else {
            return vec!["starting: resources and the kernel's state are being read".to_owned()];
        };
        let mut why = self.not_live(now);
        if self.behind.load(Ordering::Relaxed) {
            why.push("the kernel's routes are being read again".to_owned());
        }
        if self.waits.load(Ordering::Relaxed) {
            why.push("Felix has not said what to do yet".to_owned());
        }
        let without = pollers.iter().enumerate();
        let without = without.filter(|(_, counters)| counters.generation.get() == 0);
        why.extend(without.map(|(index, _)| format!("poller {index} has no tables yet")));
        why
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_daemon_that_starts_is_live_and_not_ready() {
        let now = Instant::now();
        let vitals = Vitals::new(now);
        let later = now + seconds(100);
        assert_eq!(vitals.not_live(later), [""; 0]);
        assert!(vitals.not_ready(later)[0].starts_with("starting"));
    }

    #[test]
    fn who_waits_for_felix_is_live_and_not_ready() {
        let now = Instant::now();
        let vitals = Vitals::new(now);
        vitals.waits(true);
        vitals.started(now, Vec::new());
        assert_eq!(vitals.not_live(now), [""; 0]);
        assert_eq!(vitals.not_ready(now), ["Felix has not said what to do yet"]);
        vitals.waits(false);
        assert_eq!(vitals.not_ready(now), [""; 0]);
    }

    #[test]
    fn who_stands_still_is_named() {
        let began = Instant::now();
        let vitals = Vitals::new(began);
        let pollers: Vec<_> = (0..2).map(|_| Arc::new(Counters::new(1))).collect();
        let started = began + seconds(10);
        vitals.started(started, pollers.clone());
        assert_eq!(
            vitals.not_ready(started),
            ["poller 0 has no tables yet", "poller 1 has no tables yet"]
        );
        for counters in &pollers {
            counters.generation.set(1);
        }
        assert_eq!(vitals.not_ready(started + seconds(5)), [""; 0]);

        // A minute later one poller has turned, and nobody else.
        pollers[1].beat.set(seconds(60).as_nanos() as u64);
        let now = started + seconds(62);
        let expected = [
            "the control thread has not turned for 62 s",
            "poller 0 has not turned for 62 s",
        ];
        assert_eq!(vitals.not_live(now), expected);
        assert_eq!(vitals.not_ready(now), expected);
        vitals.turned(now, false);
        assert_eq!(vitals.not_live(now), expected[1..]);
        assert_eq!(vitals.standing(now).collect::<Vec<_>>(), [(0, seconds(62))]);
        pollers[0].beat.set(seconds(61).as_nanos() as u64);
        assert_eq!(vitals.not_live(now), [""; 0]);

        vitals.turned(now, true);
        assert_eq!(vitals.not_live(now), [""; 0]);
        assert_eq!(
            vitals.not_ready(now),
            ["the kernel's routes are being read again"]
        );
    }
}
