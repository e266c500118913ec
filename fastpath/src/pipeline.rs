//! A batch's way through the stages.

use std::sync::Arc;

use flowtable::Tick;

use crate::batch::{BATCH, Batch, Fate, Packet};
use crate::connections::Tracker;
use crate::counters::Counters;
use crate::event::{Event, Events};
use crate::hold::{self, Hold, Terms};
use crate::io::PacketIo;
use crate::limiter::IcmpLimiter;
use crate::port::{Port, PortId};
use crate::reason::DropReason;
use crate::stage::egress::Observe;
use crate::stage::fragment::Outbox;
use crate::stage::{apply, decap, egress, flow, icmp, parse, resolve, tunnel_error};
use crate::stopwatch::{Stage, Stopwatch};
use crate::tables::{NextHop, Tables};
use crate::tap::Tap;

/// How long a held packet rests between two looks at its neighbour.
const RETRY: u64 = 10_000_000;
/// After how long a lasting condition is reported to control again.
const REMIND: u64 = 1_000_000_000;

/// One poller's pipeline: the stages' own state, and nothing that another poller sees.
#[derive(Debug)]
pub struct Pipeline {
    counters: Arc<Counters>,
    events: Events,
    limiter: IcmpLimiter,
    hold: Hold,
    /// Packets that the dataplane makes itself: ICMP errors.
    own: Batch,
    /// Later fragments of the packets of this batch.
    outbox: Outbox,
    /// Held packets that get another look.
    retry: Batch,
    retried: (Tick, u64),
    reminded: Tick,
    /// Connections; without it each packet is decided by itself.
    tracker: Option<Tracker>,
    /// For who captures. Not here while it is at work.
    tap: Option<Box<Tap>>,
    /// For who measures. Not here while it is at work.
    stopwatch: Option<Box<Stopwatch>>,
}

impl Pipeline {
    /// A pipeline that counts into `counters` and reports to `events`.
    pub fn new(counters: Arc<Counters>, events: Events) -> Self {
        Self {
            counters,
            events,
            limiter: IcmpLimiter::default(),
            hold: Hold::default(),
            own: Batch::default(),
            outbox: Outbox::default(),
            retry: Batch::default(),
            retried: (Tick(0), 0),
            reminded: Tick(0),
            tracker: None,
            tap: None,
            stopwatch: None,
        }
    }

    /// The same pipeline, which keeps track of connections. What a node runs is this; without connections there is neither
    /// NAT nor policy.
    #[must_use]
    pub fn with_connections(mut self, tracker: Tracker) -> Self {
        self.tracker = Some(tracker);
        self
    }

    /// The same pipeline, which copies packets for who captures.
    #[must_use]
    pub fn with_tap(mut self, tap: Tap) -> Self {
        self.tap = Some(Box::new(tap));
        self
    }

    /// The tap, if packets of the round that begins are to be captured: it is to observe them, and to be
    /// [given back](Self::give_back).
    #[inline]
    pub(crate) fn take_tap(&mut self, now: Tick, generation: u64) -> Option<Box<Tap>> {
        self.tap.take_if(|tap| tap.look(now, generation))
    }

    /// Gives the tap back.
    pub(crate) fn give_back(&mut self, tap: Box<Tap>) {
        self.tap = Some(tap);
    }

    /// The same pipeline, which measures where time goes for who asks.
    #[must_use]
    pub fn with_stopwatch(mut self, stopwatch: Stopwatch) -> Self {
        self.stopwatch = Some(Box::new(stopwatch));
        self
    }

    /// The stopwatch, if the round that begins is to be measured: it is to observe it, and to be
    /// [put back](Self::put_back).
    #[inline]
    pub(crate) fn take_stopwatch(&mut self, now: Tick) -> Option<Box<Stopwatch>> {
        self.stopwatch.take_if(|stopwatch| stopwatch.look(now))
    }

    /// Puts the stopwatch back.
    pub(crate) fn put_back(&mut self, stopwatch: Box<Stopwatch>) {
        self.stopwatch = Some(stopwatch);
    }

    /// Whether it has more to do at once, packets or not.
    pub fn is_in_haste(&self) -> bool {
        self.tracker.as_ref().is_some_and(Tracker::is_in_haste)
    }

    /// The counters that it counts into.
    pub const fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Its end of the ring of events.
    pub const fn events(&mut self) -> &mut Events {
        &mut self.events
    }

    /// Whether there is something for control that it should not wait to look at.
    pub fn take_pending(&mut self) -> bool {
        let records = match &mut self.tracker {
            Some(tracker) => tracker.take_pending(),
            None => false,
        };
        let copies = match &mut self.tap {
            Some(tap) => tap.take_pending(),
            None => false,
        };
        self.events.take_pending() | records | copies
    }

    /// How many packets wait: for a neighbour, or for the first fragment of their datagram.
    pub fn held(&self) -> usize {
        held(&self.hold, self.tracker.as_ref())
    }

    /// Takes a batch that came in by `id` through all stages, and empties it. Every packet meets one fate.
    pub fn run<I: PacketIo, O: Observe>(
        &mut self,
        batch: &mut Batch,
        io: &mut I,
        tables: &Tables,
        id: PortId,
        now: Tick,
        observer: &mut O,
    ) {
        self.count_received(batch, id);
        observer.received(batch, id, io);
        let Some(port) = tables.port(id) else {
            for packet in batch.packets() {
                packet.drop(DropReason::PortDown);
            }
            observer.enter(Stage::Egress, || batch.len());
            return egress::run(batch, io, &self.counters, observer);
        };
        observer.enter(Stage::Parse, || batch.len());
        parse::run(batch, io, tables, id, port, &mut self.events);
        observer.enter(Stage::Decap, || undecided(batch));
        let is_told = decap::run(batch, io, tables, port);
        if let Some(tracker) = &mut self.tracker {
            if is_told {
                tunnel_error::run(
                    batch,
                    io,
                    tables,
                    tracker.connections(),
                    &mut self.limiter,
                    now,
                    &mut self.own,
                    (&mut self.events, &self.counters),
                );
            }
            observer.enter(Stage::Fragments, || undecided(batch));
            flow::fragments(batch, io, tracker, now);
        }
        if decide(
            &mut self.tracker,
            batch,
            io,
            tables,
            Some(port),
            now,
            &self.counters,
            observer,
        ) {
            observer.enter(Stage::Icmp, || not_sent(batch));
            hold_back(batch, tables, &mut self.hold, &mut self.events, None, now);
            icmp::run(
                batch,
                io,
                tables,
                &mut self.limiter,
                now,
                &mut self.own,
                &self.counters,
            );
        }
        observer.enter(Stage::Apply, || batch.len() - not_sent(batch));
        apply::run(batch, io, tables, &mut self.outbox, &self.counters);
        observer.enter(Stage::Egress, || batch.len());
        egress::run(batch, io, &self.counters, observer);
        self.outbox.send(io, &self.counters, observer);
        self.send_own(io, tables, observer);
        self.go_on(io, tables, now, observer);
        self.count_held();
    }

    /// Lets fragments go on that waited for their first.
    #[inline(always)]
    fn go_on<I: PacketIo, O: Observe>(
        &mut self,
        io: &mut I,
        tables: &Tables,
        now: Tick,
        observer: &mut O,
    ) {
        let waited = |pipeline: &Self| pipeline.tracker.as_ref().is_some_and(Tracker::has_released);
        while waited(self) {
            let Self { retry, tracker, .. } = self;
            let released = tracker.iter_mut().flat_map(|it| {
                let count = it.released.len().min(BATCH);
                it.released.drain(..count)
            });
            for packet in released {
                retry.push_packet(packet);
            }
            self.retry_batch(None, io, tables, now, observer);
        }
    }

    #[inline(always)]
    fn count_held(&self) {
        self.counters.held.set(self.held() as u64);
    }

    /// What is due beside packets: sweeps connections, gives held packets another look. Called once a round; costs a comparison when nothing
    /// waits.
    pub fn run_timers<I: PacketIo, O: Observe>(
        &mut self,
        io: &mut I,
        tables: &Tables,
        now: Tick,
        observer: &mut O,
    ) {
        if now.0.saturating_sub(self.reminded.0) >= REMIND {
            self.reminded = now;
            self.events.forget();
            self.counters.events_lost.set(self.events.lost());
        }
        if let Some(tracker) = &mut self.tracker {
            flow::sweep(tracker, tables, now, &self.counters);
            flow::expire_fragments(tracker, now);
            self.go_on(io, tables, now, observer);
            self.count_held();
        }
        let (last, generation) = self.retried;
        if self.hold.is_empty()
            || (generation == tables.generation && now.0.saturating_sub(last.0) < RETRY)
        {
            return;
        }
        self.retried = (now, tables.generation);
        let mut left = self.hold.len();
        while left > 0 {
            let count = left.min(BATCH);
            left -= count;
            self.retry_held(count, io, tables, now, observer);
        }
        self.count_held();
    }

    fn retry_held<I: PacketIo, O: Observe>(
        &mut self,
        count: usize,
        io: &mut I,
        tables: &Tables,
        now: Tick,
        observer: &mut O,
    ) {
        let mut all = [Terms::default(); BATCH];
        for ((mut packet, terms), slot) in self.hold.take(count).zip(&mut all) {
            *slot = terms;
            packet.fate = Fate::Undecided;
            if terms.sender_is_gone(&packet, tables) {
                packet.drop(DropReason::FlowEnded);
            }
            self.retry.push_packet(packet);
        }
        self.retry_batch(Some(&all), io, tables, now, observer);
    }

    /// Takes the packets in `retry` from their decision on. Those whose deadline has come do not wait for a neighbour again.
    fn retry_batch<I: PacketIo, O: Observe>(
        &mut self,
        terms: Option<&[Terms; BATCH]>,
        io: &mut I,
        tables: &Tables,
        now: Tick,
        observer: &mut O,
    ) {
        let Self {
            counters,
            events,
            limiter,
            hold,
            own,
            retry,
            outbox,
            tracker,
            ..
        } = self;
        decide(tracker, retry, io, tables, None, now, counters, observer);
        observer.enter(Stage::Icmp, || not_sent(retry));
        for (packet, terms) in retry.packets().iter_mut().zip(terms.into_iter().flatten()) {
            if packet.fate == Fate::Held && now >= terms.deadline {
                packet.drop(DropReason::NeighbourUnresolved);
            }
        }
        hold_back(retry, tables, hold, events, terms, now);
        icmp::run(retry, io, tables, limiter, now, own, counters);
        observer.enter(Stage::Apply, || retry.len() - not_sent(retry));
        apply::run(retry, io, tables, outbox, counters);
        observer.enter(Stage::Egress, || retry.len());
        egress::run(retry, io, counters, observer);
        outbox.send(io, counters, observer);
        self.send_own(io, tables, observer);
    }

    /// Counts what came in.
    fn count_received(&self, batch: &mut Batch, id: PortId) {
        let count = batch.len() as u64;
        self.counters.rx.add(count);
        if let Some(port) = self.counters.port(id) {
            let bytes = batch
                .packets()
                .iter()
                .map(|packet| u64::from(packet.frame.len))
                .sum();
            port.rx_packets.add(count);
            port.rx_bytes.add(bytes);
        }
    }

    /// Sends the packets that the dataplane made itself.
    fn send_own<I: PacketIo, O: Observe>(&mut self, io: &mut I, tables: &Tables, observer: &mut O) {
        let Self {
            counters,
            events,
            own,
            outbox,
            ..
        } = self;
        if own.is_empty() {
            return;
        }
        observer.enter(Stage::Resolve, || own.len());
        resolve::run(own, tables, None);
        for packet in own.packets() {
            // Not worth waiting for; the next one will find the neighbour known.
            if packet.fate == Fate::Held {
                if let Some((port, addr)) = awaited(packet, tables) {
                    events.push(Event::MissingNeighbour { port, addr });
                }
                packet.drop(DropReason::NeighbourUnresolved);
            }
        }
        observer.enter(Stage::Apply, || own.len() - not_sent(own));
        apply::run(own, io, tables, outbox, counters);
        observer.enter(Stage::Egress, || own.len());
        egress::run(own, io, counters, observer);
        outbox.send(io, counters, observer);
    }
}

/// How many packets wait.
#[inline(always)]
fn held(hold: &Hold, tracker: Option<&Tracker>) -> usize {
    hold.len() + tracker.map_or(0, Tracker::held)
}

/// Decides each packet's fate: as its connection's was decided, or by the routes. Returns whether any needs more than being
/// sent.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the stages' own")]
fn decide<I: PacketIo, O: Observe>(
    tracker: &mut Option<Tracker>,
    batch: &mut Batch,
    io: &mut I,
    tables: &Tables,
    port: Option<&Port>,
    now: Tick,
    counters: &Counters,
    observer: &mut O,
) -> bool {
    let Some(tracker) = tracker else {
        observer.enter(Stage::Resolve, || undecided(batch));
        return resolve::run(batch, tables, port);
    };
    observer.enter(Stage::Lookup, || undecided(batch));
    let left = flow::lookup(batch, io, tables, tracker, now, counters);
    let mut exceptional = left.exceptional;
    if left.undecided {
        let packets = observer.enter(Stage::Resolve, || undecided(batch));
        exceptional |= resolve::run(batch, tables, port);
        observer.enter(Stage::Connect, || packets);
        exceptional |= flow::connect(batch, io, tables, tracker, now, counters);
    }
    exceptional
}

/// How many packets' fates are to be decided.
fn undecided(batch: &mut Batch) -> usize {
    let packets = batch.packets().iter();
    packets.filter(|packet| packet.is_undecided()).count()
}

/// How many packets are not to be sent.
fn not_sent(batch: &mut Batch) -> usize {
    let packets = batch.packets().iter();
    let is_sent = |packet: &&Packet| matches!(packet.fate, Fate::Transmit(_));
    packets.filter(|packet| !is_sent(packet)).count()
}

/// Lets packets wait whose next hop has no MAC address yet, and asks control for it.
#[cold]
fn hold_back(
    batch: &mut Batch,
    tables: &Tables,
    hold: &mut Hold,
    events: &mut Events,
    terms: Option<&[Terms; BATCH]>,
    now: Tick,
) {
    for (index, packet) in batch.packets().iter_mut().enumerate() {
        // A fragment that waits for its first is where it waits.
        if packet.fate != Fate::Held || packet.frame.is_none() {
            continue;
        }
        let Some(neighbour) = awaited(packet, tables) else {
            packet.drop(DropReason::NoRoute);
            continue;
        };
        // Who scans has his share of questions, too; for others it is asked though there is no room.
        if hold.has_share(packet.in_port) {
            events.push(Event::MissingNeighbour {
                port: neighbour.0,
                addr: neighbour.1,
            });
        }
        if !hold.has_room(neighbour, packet.in_port) {
            packet.drop(DropReason::NeighbourQueueFull);
            continue;
        }
        let terms = terms.and_then(|terms| terms.get(index)).copied();
        hold.push(
            packet.move_out(),
            neighbour,
            terms.unwrap_or_else(|| Terms::new(tables, now)),
        );
    }
}

/// The neighbour that a packet waits for.
fn awaited(packet: &Packet, tables: &Tables) -> Option<hold::Neighbour> {
    match tables.next_hop(packet.next_hop) {
        NextHop::Resolve(unresolved) => Some((
            unresolved.port,
            unresolved.gateway.or_else(|| packet.destination())?,
        )),
        NextHop::Send(_) | NextHop::Drop(_) | NextHop::Group(_) => None,
    }
}
