//! Which flows the kernel repeats, and what the flow table learns of it.
//!
//! One thread. It takes what pollers offer, tells the kernel what is done with it, reads what the kernel counted, four times a second, and has
//! it forget what is gone, is being closed, is idle, or is done otherwise since tables changed. While the kernel has nothing it sleeps
//! until somebody calls. It is told the time, so that tests tell it too.
//!
//! Many flows are read together, in the kernel's order, and then credited one after the other. Whom that missed, because it came meanwhile, is
//! asked for alone, and only if the kernel does not know it then it is lost.
//!
//! A connection that a poller removes is the kernel's until the next pass over all flows has come to it: 250 milliseconds and as long as the pass
//! takes. Those are connections that expired, or were evicted: that nobody answered, or that are being closed, or were long
//! silent. What is removed by command, or because an endpoint is gone, is given back at once, with [`Orders::flush`] and with the tables that say so.

mod credit;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use encap::l4;
use fastpath::batch::{Batch, Family};
use fastpath::connections::{Connections, Origin};
use fastpath::counters::Counters;
use fastpath::offload::{Candidate, Carried, Established, Rechecked, Why};
use fastpath::port::PortId;
use fastpath::snapshot::Subscriber;
use fastpath::tables::{Tables, Way};
use flowtable::Tick;
use flowtable::conn::{Segment, Unseen};
use flowtable::flow::FlowRef;
use hashbrown::hash_map;
use hashbrown::{HashMap, HashSet};

use super::compile::{Devices, compile};
use super::flow::{Counts, KernelFlows, Key};
use super::orders::Orders;
use super::stats::{Refused, Removed, Stats};
use super::tally::Tally;

/// How often counts are read.
const READ_EVERY: Duration = Duration::from_millis(250);

/// The part of a family's flows that one pod may have, of what it sends and of what it receives together: so that none takes the kernel from all
/// others.
const SHARE: usize = 4;

/// How many flows, or candidates, are looked at between two looks at tables and orders: one or two milliseconds' worth, at some
/// system calls of half a microsecond each.
const CHUNK: usize = 512;

/// A direction's entry in the flow table.
type Entry = (Family, FlowRef);

/// What a worker is made with.
#[derive(Debug)]
pub struct Parts {
    /// The connections that pollers share.
    pub connections: Arc<Connections>,
    /// The tables that they get.
    pub tables: Subscriber<Tables>,
    /// What they offer.
    pub offers: Arc<ArrayQueue<Candidate>>,
    /// What control says.
    pub orders: Orders,
    /// Counts what the kernel moves, as a poller counts: its own.
    pub counters: Arc<Counters>,
    /// Counts what the worker does.
    pub stats: Arc<Stats>,
    /// The most directions that the kernel has at once, of either family.
    pub max_flows: [usize; 2],
    /// From how many of a family's directions on all of them are read together, not one by one.
    pub walk_from: [usize; 2],
}

/// The worker.
#[derive(Debug)]
pub struct Worker<K> {
    kernel: K,
    parts: Parts,
    flows: Vec<Option<Flow>>,
    /// What was counted of each: apart from the rest, since they are gone over in the kernel's order.
    tallies: Vec<Tally>,
    free: Vec<usize>,
    by_entry: HashMap<Entry, usize>,
    by_key: HashMap<Key, usize>,
    /// How many flows each pod has.
    by_pod: HashMap<(Family, PortId), usize>,
    scratch: Batch,
    /// By what flows were rechecked last, or are being.
    generation: u64,
    devices: Arc<Devices>,
    /// Which version of them that is.
    devices_version: u64,
    flushes: u64,
    /// Where rechecking goes on, and how many places are left to look at. Newer tables do not begin anew: else some would never be reached
    /// while tables change often.
    recheck_at: usize,
    unchecked: usize,
    /// Where reading and clearing go on, while they are under way.
    reading: Option<Reading>,
    clear_at: Option<usize>,
    /// Entries of TCP, both directions', that were given back in this pass and in the one before: what pollers judged meanwhile, by words that
    /// were not up to it, is yet to be told.
    left: [HashSet<Entry>; 2],
    /// How many flows the kernel refuses to forget.
    kept: usize,
    /// When counts are read again, and the number of the pass.
    read_next: Tick,
    pass: u64,
}

/// How far a pass has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// The kernel's flows of this family are read together, from this place on.
    Together(Family, Option<u32>),
    /// What was read is told to the flow table, from this flow on. Of whom nothing was read yet, it is read now.
    Each(usize),
}

/// A direction that the kernel has.
#[derive(Debug)]
struct Flow {
    /// When the last packet was counted.
    seen: Tick,
    /// The pass in which the flow table was told of it last.
    pass: u64,
    established: Established,
    key: Key,
    /// The generation of the tables by which it was checked last.
    checked: u64,
    /// The pass in which the kernel told of a segment that may end it, while no poller has.
    unconfirmed: Option<u64>,
    /// Why the kernel is to forget it, while it refuses.
    leaving: Option<Removed>,
}

impl Flow {
    /// Whether it comes in or leaves by one of these ports.
    fn is_by(&self, ports: &HashSet<PortId>) -> bool {
        let Established {
            origin, adjacency, ..
        } = &self.established;
        matches!(origin, Origin::Port(port) if ports.contains(port))
            || ports.contains(&adjacency.port)
    }
}

/// When the worker is to be called again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// At once: there is more to do.
    Now,
    /// After so long, or when somebody calls.
    After(Duration),
    /// When somebody calls.
    Called,
}

impl<K: KernelFlows> Worker<K> {
    /// One whose kernel has nothing yet.
    pub fn new(kernel: K, parts: Parts) -> Self {
        let generation = parts.tables.current().generation;
        let (devices_version, devices) = parts.orders.devices();
        parts.orders.set_devices_done(devices_version);
        Self {
            kernel,
            parts,
            flows: Vec::new(),
            tallies: Vec::new(),
            free: Vec::new(),
            by_entry: HashMap::new(),
            by_key: HashMap::new(),
            by_pod: HashMap::new(),
            scratch: Batch::default(),
            generation,
            devices,
            devices_version,
            flushes: 0,
            recheck_at: 0,
            unchecked: 0,
            reading: None,
            clear_at: None,
            left: Default::default(),
            kept: 0,
            read_next: Tick(0),
            pass: 1,
        }
    }

    /// Works until it is stopped. `start` is when the pollers' clocks began.
    pub fn run(mut self, start: Instant) {
        self.parts.orders.set_thread();
        let now = || Tick(start.elapsed().as_nanos() as u64);
        while !self.parts.orders.is_stopped() {
            match self.step(now()) {
                Next::Now => {}
                Next::After(time) => std::thread::park_timeout(time),
                Next::Called => std::thread::park(),
            }
        }
        self.clear(now());
        if self.kept == 0 {
            // Nothing is by any device from now on.
            self.parts.orders.set_devices_done(u64::MAX);
        }
    }

    /// Has the kernel forget everything.
    pub fn clear(&mut self, now: Tick) {
        for at in 0..self.flows.len() {
            self.give_back(at, Removed::Paused, now);
        }
    }

    /// Has counts read with the next step.
    pub const fn read_soon(&mut self) {
        self.read_next = Tick(0);
    }

    /// Does some of what there is to do.
    pub fn step(&mut self, now: Tick) -> Next {
        let tables = Arc::clone(self.parts.tables.refresh());
        self.follow_devices(now);
        if tables.generation != self.generation {
            self.generation = tables.generation;
            self.unchecked = self.flows.len();
        }
        let paused = self.parts.orders.is_paused();
        if paused {
            self.clear_at = self.clear_at.or(Some(0));
        }
        if self.clear_at.is_some() {
            self.clear_at = self.some(self.clear_at, |this, at| {
                this.give_back(at, Removed::Paused, now);
            });
        }
        let flushes = self.parts.orders.flushes();
        if flushes != self.flushes {
            self.flushes = flushes;
            self.forget_gone(now);
        }
        self.recheck_some(&tables, now);
        for _ in 0..CHUNK {
            let Some(candidate) = self.parts.offers.pop() else {
                break;
            };
            self.take(candidate, &tables, paused, now);
        }
        if self.reading.is_none() && !self.by_key.is_empty() && now >= self.read_next {
            self.read_next = now + READ_EVERY;
            self.pass += 1;
            self.reading = Some(self.after(None));
            let [left, before] = &mut self.left;
            *before = std::mem::take(left);
        }
        self.reading = match self.reading {
            None => None,
            Some(Reading::Together(family, place)) => Some(self.read_next(family, place)),
            Some(Reading::Each(at)) => self
                .some(Some(at), |this, at| this.read(at, now))
                .map(Reading::Each),
        };
        // What the kernel refuses to forget may be by a device that is not served.
        if self.kept == 0 {
            self.parts.orders.set_devices_done(self.devices_version);
        }
        self.next(now)
    }

    fn next(&self, now: Tick) -> Next {
        let is_busy = self.unchecked > 0 || self.reading.is_some() || self.clear_at.is_some();
        if is_busy || !self.parts.offers.is_empty() {
            Next::Now
        } else if self.by_key.is_empty() {
            Next::Called
        } else {
            Next::After(self.read_next.since(now))
        }
    }

    /// Gives back at once what comes in or leaves by a device that is not served any more, or is another port's: all flows are looked at, but
    /// the kernel is called for those alone. The tables may say nothing of it yet.
    fn follow_devices(&mut self, now: Tick) {
        let (version, devices) = self.parts.orders.devices();
        if version != self.devices_version {
            let before = std::mem::replace(&mut self.devices, devices);
            self.devices_version = version;
            let is_gone =
                |port| before.of(port).is_some() && before.of(port) != self.devices.of(port);
            let gone: HashSet<PortId> = before
                .0
                .keys()
                .copied()
                .filter(|port| is_gone(*port))
                .collect();
            if !gone.is_empty() {
                for at in 0..self.flows.len() {
                    if self.flows[at]
                        .as_ref()
                        .is_some_and(|flow| flow.is_by(&gone))
                    {
                        self.give_back(at, Removed::Device, now);
                    }
                }
            }
        }
    }

    /// Does something with the next few flows. Returns where it goes on.
    fn some(&mut self, at: Option<usize>, mut work: impl FnMut(&mut Self, usize)) -> Option<usize> {
        let start = at?;
        let end = start.saturating_add(CHUNK).min(self.flows.len());
        for at in start..end {
            work(self, at);
        }
        (end < self.flows.len()).then_some(end)
    }

    fn take(&mut self, candidate: Candidate, tables: &Tables, paused: bool, now: Tick) {
        let Candidate { family, flow, why } = candidate;
        let entry = (family, flow);
        if let Why::Judged(segment) = why {
            return self.end(entry, segment, now);
        }
        if let Some(&at) = self.by_entry.get(&entry) {
            // Its packets come to pollers: for a reason that ends it, or each for its own.
            self.credit_now(at, now);
        }
        if paused || self.by_entry.contains_key(&entry) {
            return;
        }
        self.parts.stats.count_offered();
        if let Err(why) = self.insert(entry, tables, now) {
            self.parts.stats.count_refused(why);
        }
    }

    /// A poller has judged a segment that may end a connection. If the kernel has it, it sees no more of it, and the segment is judged
    /// with words that are brought up to what the kernel saw.
    fn end(&mut self, entry: Entry, segment: Segment, now: Tick) {
        let partner = self.partner_of(entry);
        let other = partner.and_then(|partner| self.by_entry.get(&partner).copied());
        if let Some(&at) = self.by_entry.get(&entry) {
            return self.settle(at, other, Some(segment), Removed::Closing, now);
        }
        if let Some(other) = other {
            self.settle(other, None, None, Removed::Closing, now);
        } else if !self.left.iter().any(|left| left.contains(&entry)) {
            // The poller saw all of it.
            return;
        }
        let carried = Carried {
            unseen: Unseen {
                latest: None,
                closing: Some(segment),
            },
            ..Carried::default()
        };
        let connections = &self.parts.connections;
        connections.credit(entry, &carried, None, true, now);
    }

    /// The other direction's entry.
    fn partner_of(&self, (family, flow): Entry) -> Option<Entry> {
        let Connections { v4, v6, .. } = &*self.parts.connections;
        let partner = match family {
            Family::V4 => v4.table.partner(flow),
            Family::V6 => v6.table.partner(flow),
            Family::Unknown => None,
        };
        partner.map(|partner| (family, partner))
    }

    fn insert(&mut self, entry: Entry, tables: &Tables, now: Tick) -> Result<(), Refused> {
        let connections = &self.parts.connections;
        let established = connections
            .offer(entry, tables, &mut self.scratch)
            .map_err(Refused::Not)?;
        let (key, action) = compile(&established, &self.devices).ok_or(Refused::Device)?;
        // Of a connection between the same ends before this one.
        if let Some(&at) = self.by_key.get(&key) {
            self.give_back(at, Removed::Gone, now);
            if self.by_key.contains_key(&key) {
                // Nor would it take another.
                return Err(Refused::Full);
            }
        }
        let family = established.family;
        let most = self.parts.max_flows[usize::from(family == Family::V6)];
        if self.parts.stats.now(family) >= most as u64 {
            return Err(Refused::Full);
        }
        let share = (most / SHARE).max(1);
        let count = |pod| self.by_pod.get(&(family, pod));
        if pods_of(&established).any(|pod| count(pod).is_some_and(|count| *count >= share)) {
            return Err(Refused::Share);
        }
        let at = self.free.last().copied().unwrap_or(self.flows.len());
        let mark = u32::try_from(at).map_err(|_| Refused::Full)?;
        self.kernel
            .insert(&key, &action, mark)
            .map_err(|_| Refused::Full)?;
        if self.free.pop().is_none() {
            self.flows.push(None);
            self.tallies.push(Tally::default());
            // One more that lies before those that were to be looked at, where rechecking has to come round.
            self.unchecked += usize::from(self.unchecked > 0);
        }
        self.by_entry.insert(entry, at);
        self.by_key.insert(key, at);
        for pod in pods_of(&established) {
            *self.by_pod.entry((family, pod)).or_default() += 1;
        }
        self.tallies[at] = Tally::default();
        self.flows[at] = Some(Flow {
            seen: now,
            pass: self.pass,
            established,
            key,
            checked: tables.generation,
            unconfirmed: None,
            leaving: None,
        });
        self.parts.stats.count_inserted(established.family);
        if !self.parts.connections.has(entry) {
            // It was removed between the look at it and the kernel's being told.
            self.give_back(at, Removed::Gone, now);
        }
        Ok(())
    }

    /// Rechecks the next few flows, round and round until all were checked by the newest tables. However often those change, each flow is
    /// looked at in as many steps as it takes to come round once.
    fn recheck_some(&mut self, tables: &Tables, now: Tick) {
        for _ in 0..self.unchecked.min(CHUNK) {
            if self.recheck_at >= self.flows.len() {
                self.recheck_at = 0;
            }
            self.recheck(self.recheck_at, tables, now);
            self.recheck_at += 1;
            self.unchecked -= 1;
        }
    }

    /// Looks whether the same is done with a flow's packets still.
    fn recheck(&mut self, at: usize, tables: &Tables, now: Tick) {
        let Some(flow) = &self.flows[at] else {
            return;
        };
        if flow.checked == tables.generation {
            return;
        }
        let connections = &self.parts.connections;
        let rechecked = connections.recheck(&flow.established, tables, &mut self.scratch);
        match rechecked {
            Rechecked::Same => {
                if let Some(flow) = &mut self.flows[at] {
                    flow.checked = tables.generation;
                }
            }
            Rechecked::Changed => self.give_back(at, Removed::Changed, now),
            Rechecked::Gone => self.give_back(at, Removed::Gone, now),
        }
    }

    /// Gives back all flows whose connections are gone.
    fn forget_gone(&mut self, now: Tick) {
        for at in 0..self.flows.len() {
            let is_gone = self.flows[at].as_ref().is_some_and(|flow| {
                let entry = (flow.established.family, flow.established.flow);
                !self.parts.connections.has(entry)
            });
            if is_gone {
                self.give_back(at, Removed::Gone, now);
            }
        }
    }

    /// Has the kernel forget a flow.
    fn give_back(&mut self, at: usize, why: Removed, now: Tick) {
        if self.flows[at].is_none() {
            return;
        }
        let other = self.other(at);
        let own = self.remove(at, why);
        let back = other.and_then(|at| self.count(at));
        self.tell(at, own, other.zip(back), None, true, now);
        self.forget(at, why);
    }

    /// The same for both directions, after which, if it is so, this segment came in the first one.
    fn settle(
        &mut self,
        at: usize,
        other: Option<usize>,
        closing: Option<Segment>,
        why: Removed,
        now: Tick,
    ) {
        // First nobody else may send anything, then both words are brought up to it.
        let own = self.remove(at, why);
        let back = other.and_then(|at| self.remove(at, why));
        self.tell(at, own, other.zip(back), closing, true, now);
        self.forget(at, why);
        if let Some(other) = other {
            self.forget(other, why);
        }
    }

    /// Has the kernel forget a flow, and says what it counted. If it refuses the flow stays [leaving](Flow::leaving).
    fn remove(&mut self, at: usize, why: Removed) -> Option<Counts> {
        let flow = self.flows.get_mut(at)?.as_mut()?;
        let was_kept = flow.leaving.is_some();
        if let Ok(counts) = self.kernel.remove(&flow.key) {
            flow.leaving = None;
            self.kept -= usize::from(was_kept);
            counts
        } else {
            flow.leaving.get_or_insert(why);
            self.kept += usize::from(!was_kept);
            self.kernel.read(&flow.key)
        }
    }

    /// Where the other direction is, if the kernel has it.
    fn other(&self, at: usize) -> Option<usize> {
        let established = &self.flows.get(at)?.as_ref()?.established;
        let entry = (established.family, established.partner);
        self.by_entry.get(&entry).copied()
    }

    /// Forgets a flow that the kernel has forgotten.
    fn forget(&mut self, at: usize, why: Removed) {
        let flow = self.flows.get(at).and_then(Option::as_ref);
        if flow.is_some_and(|flow| flow.leaving.is_some()) {
            // It is tried again with the next pass.
            return;
        }
        let Some(flow) = self.flows.get_mut(at).and_then(Option::take) else {
            return;
        };
        let Established {
            family,
            flow: entry,
            partner,
            protocol,
            ..
        } = flow.established;
        if protocol == l4::TCP {
            let [left, _] = &mut self.left;
            left.extend([(family, entry), (family, partner)]);
        }
        self.by_entry.remove(&(family, entry));
        self.by_key.remove(&flow.key);
        for pod in pods_of(&flow.established) {
            if let hash_map::Entry::Occupied(mut count) = self.by_pod.entry((family, pod)) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
        self.free.push(at);
        self.parts.stats.count_removed(family, why);
    }
}

/// The pods that a flow is of: the one that sends it, and the one that receives it.
fn pods_of(established: &Established) -> impl Iterator<Item = PortId> + use<> {
    let sender = established.from_mac.and(established.in_port);
    let to = &established.adjacency;
    let receiver = (to.way == Way::Pod).then_some(to.port);
    sender
        .into_iter()
        .chain(receiver.filter(|_| receiver != sender))
}
