//! A poller: one pinned thread that does nothing but move packets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flowtable::Tick;

use crate::batch::Batch;
use crate::io::PacketIo;
use crate::pipeline::Pipeline;
use crate::snapshot::Subscriber;
use crate::stage::egress::Observe;
use crate::stopwatch::{Both, Stage, Stopwatch};
use crate::tables::Tables;
use crate::tap::Tap;

/// When a poller that finds no packets goes to sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollMode {
    /// Spin while there is traffic, sleep when there was none for this long.
    Adaptive(Duration),
    /// Never sleep: the lowest latency, a whole core.
    Busy,
    /// Sleep as soon as there is nothing to do.
    Interrupt,
}

impl PollMode {
    /// Adaptive with the time that a round trip through a busy node takes.
    pub const DEFAULT: Self = Self::Adaptive(Duration::from_micros(50));
}

/// The longest sleep: after this a poller looks around even if nobody wakes it.
const LONGEST_SLEEP: Duration = Duration::from_millis(500);
/// The longest sleep while packets wait for a neighbour.
const SLEEP_WHILE_HOLDING: Duration = Duration::from_millis(10);

/// One poller, ready to run on a thread of its own.
#[derive(Debug)]
pub struct Poller<I> {
    /// Its packet I/O.
    pub io: I,
    /// Its pipeline.
    pub pipeline: Pipeline,
    /// Where it gets the tables from.
    pub tables: Subscriber<Tables>,
    /// When it sleeps.
    pub mode: PollMode,
    /// Set by control: time to end.
    pub stop: Arc<AtomicBool>,
    /// Called after a round that left events for control.
    pub notify: Notify,
}

/// How a poller wakes the control thread.
#[derive(Clone)]
pub struct Notify(pub Arc<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for Notify {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Notify")
    }
}

impl<I: PacketIo> Poller<I> {
    /// Runs until `stop` is set. Returns the I/O, so that its frames can be accounted for.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place of the packet path that reads the clock"
    )]
    pub fn run(mut self) -> I {
        let start = Instant::now();
        let mut batch = Batch::default();
        let mut busy_until = Duration::ZERO;
        let mut received = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let elapsed = start.elapsed();
            let now = Tick(elapsed.as_nanos() as u64);
            self.beat(now, received);
            received = self.round(&mut batch, now);
            if received > 0 {
                if let PollMode::Adaptive(spin) = self.mode {
                    busy_until = elapsed + spin;
                }
            } else if self.mode != PollMode::Busy
                && elapsed >= busy_until
                && !self.pipeline.is_in_haste()
            {
                self.pipeline.counters().sleeps.add(1);
                let holds = self.pipeline.held() > 0;
                self.io.wait(if holds {
                    SLEEP_WHILE_HOLDING
                } else {
                    LONGEST_SLEEP
                });
            }
        }
        self.io.flush();
        self.io
    }

    /// Says that the poller is alive, and how the time since the last beat was spent, by what came in meanwhile.
    fn beat(&self, now: Tick, received: usize) {
        let counters = self.pipeline.counters();
        let spent = if received > 0 {
            &counters.busy
        } else {
            &counters.idle
        };
        spent.add(now.0.saturating_sub(counters.beat.get()));
        counters.beat.set(now.0);
    }

    /// Serves every queue once, and another one first each time: what is short, a slower port's ring above all, goes to whoever comes first.
    /// Returns how many packets came in.
    pub fn round(&mut self, batch: &mut Batch, now: Tick) -> usize {
        // Ports first: a port's number goes to another only after every poller let go of it, so tables that are newer
        // than the sockets drop, and never send to the wrong port.
        self.io.maintain(now);
        let generation = self.tables.refresh().generation;
        self.pipeline.counters().generation.set(generation);
        // Who captures or measures sees every packet of a round; nobody pays for it otherwise.
        let tap = self.pipeline.take_tap(now, generation);
        let stopwatch = self.pipeline.take_stopwatch(now);
        let received = if tap.is_none() && stopwatch.is_none() {
            self.observed_round(batch, now, &mut ())
        } else {
            self.watched_round(batch, now, tap, stopwatch)
        };
        if self.pipeline.take_pending() {
            (self.notify.0)();
        }
        received
    }

    #[cold]
    #[inline(never)]
    fn watched_round(
        &mut self,
        batch: &mut Batch,
        now: Tick,
        mut tap: Option<Box<Tap>>,
        mut stopwatch: Option<Box<Stopwatch>>,
    ) -> usize {
        let received = match (tap.as_deref_mut(), stopwatch.as_deref_mut()) {
            (Some(tap), Some(stopwatch)) => {
                self.observed_round(batch, now, &mut Both(tap, stopwatch))
            }
            (Some(tap), None) => self.observed_round(batch, now, tap),
            (None, Some(stopwatch)) => self.observed_round(batch, now, stopwatch),
            (None, None) => self.observed_round(batch, now, &mut ()),
        };
        if let Some(mut stopwatch) = stopwatch {
            stopwatch.finish();
            self.pipeline.put_back(stopwatch);
        }
        if let Some(tap) = tap {
            self.pipeline.give_back(tap);
        }
        received
    }

    fn observed_round<O: Observe>(
        &mut self,
        batch: &mut Batch,
        now: Tick,
        observer: &mut O,
    ) -> usize {
        let tables = self.tables.current();
        observer.enter(Stage::Timers, || 0);
        // Before what comes in now, so that packets that waited stay in front of those that did not have to.
        self.pipeline
            .run_timers(&mut self.io, tables, now, observer);
        let mut received = 0;
        let queues = self.io.rx_queues();
        let first = self.pipeline.counters().rounds.get() as usize % queues.max(1);
        for queue in (first..queues).chain(0..first) {
            loop {
                observer.enter(Stage::Recv, || 0);
                let Some(port) = self.io.recv(queue, batch) else {
                    break;
                };
                if batch.is_empty() {
                    break;
                }
                received += batch.len();
                self.pipeline
                    .run(batch, &mut self.io, tables, port, now, observer);
                // Of one port at a time: what came together with it is done before anything else.
                if !self.io.has_more(queue) {
                    break;
                }
            }
        }
        observer.enter(Stage::Flush, || received);
        self.io.flush();
        self.pipeline.counters().rounds.add(1);
        received
    }
}
