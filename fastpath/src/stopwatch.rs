//! Where a packet's time goes, stage by stage, for who asks.
//!
//! While nobody asks it costs one relaxed load a round. While somebody does, packets go through a pipeline of their own making,
//! which reads the clock before and after each stage; what the clock itself takes is taken off. It ends by itself: whoever asks
//! says until when.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use flowtable::Tick;

use crate::batch::{Batch, Packet};
use crate::counters::Counters;
use crate::frame::Frame;
use crate::io::PacketIo;
use crate::port::PortId;
use crate::stage::egress::Observe;
use crate::tap::Tap;

/// Readings of the clock by which it is found out how long one takes.
const READINGS: usize = 64;

/// A part of a poller's round, in the order of a packet's walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// Frames come from a queue; counted on its port.
    Recv,
    /// Headers are checked.
    Parse,
    /// Tunnels are opened, and errors about their packets heard.
    Decap,
    /// Later fragments find their first.
    Fragments,
    /// Connections are found.
    Lookup,
    /// Routes are looked up.
    Resolve,
    /// Connections are made or renewed.
    Connect,
    /// Packets wait for a neighbour; ICMP errors are made.
    Icmp,
    /// Packets are rewritten.
    Apply,
    /// Packets are sent or freed, and counted.
    Egress,
    /// What was queued goes out.
    Flush,
    /// What is due beside packets: connections are swept, packets that wait get another look.
    Timers,
}

impl Stage {
    /// All of them, in order.
    pub const ALL: [Self; 12] = [
        Self::Recv,
        Self::Parse,
        Self::Decap,
        Self::Fragments,
        Self::Lookup,
        Self::Resolve,
        Self::Connect,
        Self::Icmp,
        Self::Apply,
        Self::Egress,
        Self::Flush,
        Self::Timers,
    ];

    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Recv => "recv",
            Self::Parse => "parse",
            Self::Decap => "decap",
            Self::Fragments => "fragments",
            Self::Lookup => "lookup",
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Icmp => "icmp",
            Self::Apply => "apply",
            Self::Egress => "egress",
            Self::Flush => "flush",
            Self::Timers => "timers",
        }
    }
}

/// Until when all pollers measure. Written by control, read by pollers once a round.
#[derive(Debug, Default)]
pub struct Until(AtomicU64);

impl Until {
    /// Measures until this time by the pollers' clocks, or for longer if somebody asked for that.
    pub fn extend(&self, until: Tick) {
        self.0.fetch_max(until.0, Relaxed);
    }
}

/// One poller's stopwatch.
#[derive(Debug)]
pub struct Stopwatch {
    until: Arc<Until>,
    /// The end of the measuring for which `clock` was found out.
    checked: Tick,
    /// How long reading the clock takes, in nanoseconds.
    clock: u64,
    counters: Arc<Counters>,
    /// This round's, which count when it is over.
    laps: [Lap; Stage::COUNT],
    stage: Stage,
    since: Instant,
}

/// What a stage took in a round.
#[derive(Clone, Copy, Debug, Default)]
struct Lap {
    calls: u64,
    packets: u64,
    nanoseconds: u64,
}

impl Stopwatch {
    /// Counts into [`Counters::measured`] until the time that `until` says.
    pub fn new(until: Arc<Until>, counters: Arc<Counters>) -> Self {
        Self {
            until,
            checked: Tick(0),
            clock: 0,
            counters,
            laps: [Lap::default(); Stage::COUNT],
            stage: Stage::Timers,
            since: read_clock(),
        }
    }

    /// Looks whether the round that begins now is to be measured.
    #[inline]
    pub fn look(&mut self, now: Tick) -> bool {
        let until = Tick(self.until.0.load(Relaxed));
        if now >= until {
            return false;
        }
        self.begin(until);
        true
    }

    #[cold]
    fn begin(&mut self, until: Tick) {
        if self.checked != until {
            self.checked = until;
            self.clock = time_of_clock();
            self.counters.measured.clock.set(self.clock);
        }
        self.stage = Stage::Timers;
        self.since = read_clock();
    }

    /// The round is over. What one took in which no stage had a packet says nothing of stages.
    pub fn finish(&mut self) {
        self.stop();
        let measured = &self.counters.measured;
        if self.laps.iter().any(|lap| lap.packets > 0) {
            for (lap, counters) in self.laps.iter().zip(&measured.stages) {
                counters.calls.add(lap.calls);
                counters.packets.add(lap.packets);
                counters.nanoseconds.add(lap.nanoseconds);
            }
        } else {
            let all = self.laps.iter().map(|lap| lap.nanoseconds).sum();
            measured.empty.add(all);
        }
        self.laps = [Lap::default(); Stage::COUNT];
    }

    /// The time since the clock was read last is the stage's.
    fn stop(&mut self) {
        let elapsed = read_clock().saturating_duration_since(self.since);
        if let Some(lap) = self.laps.get_mut(self.stage as usize) {
            lap.nanoseconds += without_clock(elapsed.as_nanos() as u64, self.clock);
        }
    }
}

impl Observe for Stopwatch {
    const WATCHES: bool = false;

    fn received<I: PacketIo>(&mut self, batch: &mut Batch, _port: PortId, _io: &mut I) {
        if let Some(lap) = self.laps.get_mut(Stage::Recv as usize) {
            lap.packets += batch.len() as u64;
        }
    }

    fn enter(&mut self, stage: Stage, packets: impl FnOnce() -> usize) -> usize {
        self.stop();
        // Counting is nobody's time.
        let packets = packets();
        if let Some(lap) = self.laps.get_mut(stage as usize) {
            lap.calls += 1;
            lap.packets += packets as u64;
        }
        self.stage = stage;
        self.since = read_clock();
        packets
    }

    #[inline]
    fn fate(&mut self, _packet: &Packet) {}
}

/// Who captures, and who measures what that takes, too.
#[derive(Debug)]
pub(crate) struct Both<'a>(pub(crate) &'a mut Tap, pub(crate) &'a mut Stopwatch);

impl Observe for Both<'_> {
    fn received<I: PacketIo>(&mut self, batch: &mut Batch, port: PortId, io: &mut I) {
        self.0.received(batch, port, io);
        self.1.received(batch, port, io);
    }

    fn leaving<I: PacketIo>(&mut self, frame: &Frame, io: &mut I) {
        self.0.leaving(frame, io);
    }

    fn sent(&mut self, port: PortId) {
        self.0.sent(port);
    }

    fn enter(&mut self, stage: Stage, packets: impl FnOnce() -> usize) -> usize {
        self.1.enter(stage, packets)
    }

    fn fate(&mut self, packet: &Packet) {
        self.0.fate(packet);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a stopwatch reads the clock; only while somebody measures"
)]
fn read_clock() -> Instant {
    Instant::now()
}

/// How long reading the clock takes, in nanoseconds: the shortest of some times.
fn time_of_clock() -> u64 {
    let once = |_| {
        let first = read_clock();
        read_clock().saturating_duration_since(first).as_nanos() as u64
    };
    (0..READINGS).map(once).min().unwrap_or_default()
}

/// What lies between two readings of the clock, without the half of each that does.
const fn without_clock(elapsed: u64, clock: u64) -> u64 {
    elapsed.saturating_sub(clock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_clock_takes_is_taken_off() {
        assert_eq!(without_clock(100, 30), 70);
        assert_eq!(without_clock(20, 30), 0, "the clock was quicker than usual");
    }

    #[test]
    fn every_stage_has_its_place_and_a_name_of_its_own() {
        for (index, stage) in Stage::ALL.iter().enumerate() {
            assert_eq!(*stage as usize, index);
            let same = Stage::ALL.iter().filter(|it| it.name() == stage.name());
            assert_eq!(same.count(), 1, "{stage:?}");
        }
    }

    #[test]
    fn time_goes_to_the_stage_that_was_entered_last() {
        let (until, counters) = (Arc::new(Until::default()), Arc::new(Counters::new(0)));
        let mut stopwatch = Stopwatch::new(Arc::clone(&until), Arc::clone(&counters));
        assert!(!stopwatch.look(Tick(0)), "nobody measures");
        until.extend(Tick(3));
        assert!(stopwatch.look(Tick(2)));
        assert_eq!(stopwatch.enter(Stage::Parse, || 3), 3);
        let begun = read_clock();
        while begun.elapsed().as_millis() < 2 {}
        stopwatch.enter(Stage::Apply, || 2);
        stopwatch.finish();
        let took = |stage: Stage| {
            let counters = &counters.measured.stages[stage as usize];
            counters.nanoseconds.get()
        };
        assert!(took(Stage::Parse) >= 1_900_000);
        assert_eq!(took(Stage::Lookup), 0);
        assert!(!stopwatch.look(Tick(3)), "the time is over");
    }
}
