//! The production pipeline in memory, with every packet and every frame accounted for.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use fastpath::batch::{BATCH, Batch, Fate, Packet, flag};
use fastpath::connections::{Connections, Sizes, Tracker};
use fastpath::counters::Counters;
use fastpath::event::{Event, Events};
use fastpath::io::PacketIo as _;
use fastpath::io::mem::MemIo;
use fastpath::offload::{Candidate, Offers};
use fastpath::pipeline::Pipeline;
use fastpath::poller::Notify;
use fastpath::port::PortId;
use fastpath::record::{Record, Records};
use fastpath::stage::egress::Observe;
use fastpath::tables::Tables;
use flowtable::Tick;
use flowtable::flow::Capacity;

const CHUNKS: u32 = 1024;
const CHUNK: u16 = 4096;
/// Of the tables of connections: the same in each run, so that a failure can be repeated.
const SEED: [u64; 4] = [1, 2, 3, 4];

/// A second, in nanoseconds: by then all rate limits have recovered.
const RECOVERY: u64 = 1_000_000_000;

/// A pipeline over memory.
#[derive(Debug)]
pub struct Rig {
    tables: Tables,
    io: MemIo,
    pipeline: Pipeline,
    events: Arc<ArrayQueue<Event>>,
    batch: Batch,
    now: Tick,
    /// Packets that came in so far.
    received: u32,
    encapsulates: bool,
    connections: Option<Arc<Connections>>,
    records: Option<Arc<ArrayQueue<Record>>>,
}

/// What became of the packets of one run.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Each packet's fate, in the order in which they came in.
    pub fates: Vec<Fate>,
    /// What each port sent, by the port's number.
    pub sent: Vec<Vec<Vec<u8>>>,
}

impl Outcome {
    /// Everything that was sent, with its port.
    pub fn all(&self) -> impl Iterator<Item = (PortId, &Vec<u8>)> {
        let ports = self.sent.iter().enumerate();
        ports
            .flat_map(|(port, frames)| frames.iter().map(move |frame| (PortId(port as u16), frame)))
    }
}

/// Notes the fates of the packets that came in; each may have one only.
struct Fates {
    /// The first packet's number.
    first: u32,
    fates: Vec<Option<Fate>>,
}

impl Observe for Fates {
    fn fate(&mut self, packet: &Packet) {
        assert_ne!(packet.fate, Fate::Undecided);
        if packet.has(flag::ORIGINATED) {
            return;
        }
        // One that came in before, and waited until now: its fate was that it was held.
        let Some(index) = packet.tag.checked_sub(self.first) else {
            return;
        };
        let slot = &mut self.fates[index as usize];
        // A fragment that waited for its first, which has come in the same batch.
        if *slot == Some(Fate::Held) && packet.has(flag::PIECED) {
            return;
        }
        assert!(
            slot.is_none(),
            "a packet met two fates: {slot:?}, {:?}",
            packet.fate
        );
        *slot = Some(packet.fate);
    }
}

impl Rig {
    /// A pipeline that has seen no packet.
    pub fn new(tables: Tables) -> Self {
        let ports = tables.ports.len();
        let events = Arc::new(ArrayQueue::new(64));
        Self {
            io: MemIo::new(CHUNKS, CHUNK, ports, CHUNKS as usize),
            pipeline: Pipeline::new(
                Arc::new(Counters::new(ports)),
                Events::new(Arc::clone(&events)),
            ),
            tables,
            events,
            batch: Batch::default(),
            now: Tick(1 << 40),
            received: 0,
            encapsulates: false,
            connections: None,
            records: None,
        }
    }

    /// The same, with a table of connections.
    #[must_use]
    pub fn with_connections(self) -> Self {
        self.with_room_for(Capacity::MIN)
    }

    /// The same, with a table of as many entries, two a connection, of each family.
    #[must_use]
    pub fn with_room_for(self, entries: Capacity) -> Self {
        let sizes = Sizes {
            v4: entries,
            v6: entries,
            ports: self.tables.ports.len() as u16,
            share_percent: 50,
        };
        let connections = Arc::new(Connections::new(&sizes, SEED));
        self.with_part_of(connections, (0, 1))
    }

    /// The same, as poller `index` of so many that share these connections.
    #[must_use]
    pub fn with_part_of(mut self, connections: Arc<Connections>, place: (usize, usize)) -> Self {
        let secret = [5 + place.0 as u64, 6];
        let tracker = Tracker::new(Arc::clone(&connections), place, secret);
        self.connections = Some(connections);
        self.pipeline = self.pipeline.with_connections(tracker);
        self
    }

    /// The same, with a table of connections, which offers those that are under way for the kernel.
    #[must_use]
    pub fn with_offers(mut self, entries: Capacity, ring: &Arc<ArrayQueue<Candidate>>) -> Self {
        let sizes = Sizes {
            v4: entries,
            v6: entries,
            ports: self.tables.ports.len() as u16,
            share_percent: 50,
        };
        let connections = Arc::new(Connections::new(&sizes, SEED));
        let offers = Offers::new(Arc::clone(ring), Notify(Arc::new(|| ())));
        let tracker = Tracker::new(Arc::clone(&connections), (0, 1), [5, 6]).with_offers(offers);
        self.connections = Some(connections);
        self.pipeline = self.pipeline.with_connections(tracker);
        self
    }

    /// The same, with a table of connections and room for so many records: of `Log` rules, and of each connection that is judged while
    /// `observed`.
    #[must_use]
    pub fn with_records(mut self, room: usize, observed: &Arc<AtomicBool>) -> Self {
        let sizes = Sizes {
            v4: Capacity::MIN,
            v6: Capacity::MIN,
            ports: self.tables.ports.len() as u16,
            share_percent: 50,
        };
        let connections = Arc::new(Connections::new(&sizes, SEED));
        let ring = Arc::new(ArrayQueue::new(room));
        let records = Records::new(Arc::clone(&ring), Arc::clone(observed));
        let tracker = Tracker::new(Arc::clone(&connections), (0, 1), [5, 6]).with_records(records);
        self.connections = Some(connections);
        self.records = Some(ring);
        self.pipeline = self.pipeline.with_connections(tracker);
        self
    }

    /// What it told of connections since the last call.
    pub fn records(&self) -> Vec<Record> {
        let ring = self.records.iter();
        ring.flat_map(|ring| std::iter::from_fn(|| ring.pop()))
            .collect()
    }

    /// Its connections.
    ///
    /// # Panics
    /// When it keeps none.
    pub fn connections(&self) -> &Arc<Connections> {
        self.connections.as_ref().expect("a rig with connections")
    }

    /// Puts other tables in force, with the next generation number.
    pub fn set_tables(&mut self, tables: Tables) {
        let generation = self.tables.generation + 1;
        self.tables = Tables {
            generation,
            ..tables
        };
    }

    /// Lets time pass, and what is due with it happen.
    pub fn pass(&mut self, time: Duration) {
        self.pass_roughly(time, Duration::from_millis(100));
    }

    /// The same, with a look at what is due as seldom as `step` says.
    pub fn pass_roughly(&mut self, time: Duration, step: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = (self.now + step).min(end);
            self.pipeline
                .run_timers(&mut self.io, &self.tables, self.now, &mut ());
        }
    }

    /// The time by the pipeline's clock.
    pub const fn now(&self) -> Tick {
        self.now
    }

    /// The tables in force.
    pub const fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Whether its routes lead into a tunnel, as the test said.
    pub const fn encapsulates(&self) -> bool {
        self.encapsulates
    }

    /// Says whether its routes lead into a tunnel.
    pub const fn set_encapsulates(&mut self, encapsulates: bool) {
        self.encapsulates = encapsulates;
    }

    /// The counters.
    pub fn counters(&self) -> &Counters {
        self.pipeline.counters()
    }

    /// What the pipeline told control since the last call.
    pub fn events(&self) -> Vec<Event> {
        std::iter::from_fn(|| self.events.pop()).collect()
    }

    /// The longest frame that [`Rig::run`] takes, in bytes.
    pub const fn longest() -> usize {
        CHUNK as usize - 128
    }

    /// Lets these packets come in by a port, in batches, and returns what became of them. Packets that wait for a
    /// neighbour wait until the time is over for them, so that each run starts afresh: their fate is that they were held.
    ///
    /// # Panics
    /// When a packet has no fate or two, the counters do not balance, or a frame is lost.
    pub fn run(&mut self, port: PortId, frames: &[Vec<u8>]) -> Outcome {
        let mut outcome = Outcome {
            fates: Vec::new(),
            sent: vec![Vec::new(); self.tables.ports.len()],
        };
        for frames in frames.chunks(BATCH) {
            for frame in frames {
                assert!(
                    self.io.inject(port, frame),
                    "a frame of {} bytes",
                    frame.len()
                );
            }
            self.run_batch(port, frames.len(), &mut outcome);
        }
        outcome
    }

    /// The same for one batch, after which no time passes: who waits goes on waiting.
    ///
    /// # Panics
    /// As [`Rig::run`].
    pub fn run_without_waiting(&mut self, port: PortId, frames: &[Vec<u8>]) -> Outcome {
        let mut outcome = Outcome {
            fates: Vec::new(),
            sent: vec![Vec::new(); self.tables.ports.len()],
        };
        for frame in frames {
            assert!(
                self.io.inject(port, frame),
                "a frame of {} bytes",
                frame.len()
            );
        }
        self.take_batch(port, frames.len(), &mut outcome);
        outcome
    }

    /// The same, and no time passes before it either: rate limits do not recover.
    ///
    /// # Panics
    /// As [`Rig::run`].
    pub fn run_now(&mut self, port: PortId, frames: &[Vec<u8>]) -> Outcome {
        self.now = Tick(self.now.0 - RECOVERY);
        self.run_without_waiting(port, frames)
    }

    /// What each port sent since it was last asked, by the port's number: what waited, and goes on as time passes.
    pub fn sent(&mut self) -> Vec<Vec<Vec<u8>>> {
        let ports = 0..self.tables.ports.len();
        ports
            .map(|index| self.io.take_sent(PortId(index as u16), <[u8]>::to_vec))
            .collect()
    }

    /// How many packets wait.
    pub fn held(&self) -> usize {
        self.pipeline.held()
    }

    fn run_batch(&mut self, port: PortId, count: usize, outcome: &mut Outcome) {
        self.take_batch(port, count, outcome);
        while self.pipeline.held() > 0 {
            self.now.0 += 1_000_000_000;
            self.pipeline
                .run_timers(&mut self.io, &self.tables, self.now, &mut ());
        }
        for index in 0..self.tables.ports.len() {
            self.io.discard_sent(PortId(index as u16));
        }
        self.check_balance();
    }

    fn take_batch(&mut self, port: PortId, count: usize, outcome: &mut Outcome) {
        assert_eq!(
            self.io.recv(usize::from(port.0), &mut self.batch),
            Some(port)
        );
        assert_eq!(self.batch.len(), count);
        let mut fates = Fates {
            first: self.received,
            fates: vec![None; count],
        };
        for packet in self.batch.packets() {
            packet.tag = self.received;
            self.received += 1;
        }
        // All rate limits have recovered by then.
        self.now.0 += RECOVERY;
        self.pipeline.run(
            &mut self.batch,
            &mut self.io,
            &self.tables,
            port,
            self.now,
            &mut fates,
        );
        assert!(self.batch.is_empty());
        outcome.fates.extend(
            fates
                .fates
                .iter()
                .map(|fate| fate.expect("every packet has a fate")),
        );
        for (index, sent) in outcome.sent.iter_mut().enumerate() {
            sent.extend(self.io.take_sent(PortId(index as u16), <[u8]>::to_vec));
        }
        self.check_balance();
    }

    fn check_balance(&self) {
        assert!(self.counters().is_balanced(), "{:?}", self.counters());
        let held = self.pipeline.held();
        assert_eq!(self.counters().held.get(), held as u64);
        assert_eq!(
            self.io.free_chunks() + held,
            CHUNKS as usize,
            "a frame is lost"
        );
    }
}
