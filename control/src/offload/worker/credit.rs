//! What the kernel counted, read and told to the flow table.

use std::time::Duration;

use encap::l4;
use fastpath::batch::Family;
use fastpath::counters::Counters;
use fastpath::offload::{Candidate, Carried, Established, Why};
use flowtable::Tick;
use flowtable::conn::{Latest, Segment, Unseen};

use super::super::flow::{Counts, KernelFlows};
use super::super::stats::Removed;
use super::{Flow, Reading, Worker};

/// After how long without a packet a flow is given back: an expiring connection is the pollers' business.
const IDLE: Duration = Duration::from_secs(30);

impl<K: KernelFlows> Worker<K> {
    /// What a pass goes on with when this family's flows were read, or at first: those that are many, then each.
    pub(super) fn after(&self, done: Option<Family>) -> Reading {
        let rest: &[Family] = match done {
            None => &[Family::V4, Family::V6],
            Some(Family::V4) => &[Family::V6],
            Some(_) => &[],
        };
        let are_many = |family: &Family| {
            let from = self.parts.walk_from[usize::from(*family == Family::V6)];
            self.parts.stats.now(*family) >= from as u64
        };
        let next = rest.iter().copied().find(are_many);
        next.map_or(Reading::Each(0), |family| Reading::Together(family, None))
    }

    /// Reads what was counted of the next few flows of a family. Returns what the pass goes on with.
    pub(super) fn read_next(&mut self, family: Family, place: Option<u32>) -> Reading {
        let Self {
            kernel,
            tallies,
            pass,
            ..
        } = self;
        // A mark is a flow's own as long as the kernel has the flow.
        let mut note = |mark: u32, counts| {
            if let Some(tally) = tallies.get_mut(mark as usize) {
                tally.note_together(counts, *pass);
            }
        };
        match kernel.read_next(family, place, &mut note) {
            Ok(Some(place)) => Reading::Together(family, Some(place)),
            // Whoever was missed is asked for alone.
            Ok(None) | Err(_) => self.after(Some(family)),
        }
    }

    /// Has the flow table have what was counted of a flow and its other direction, if that was not done in this pass.
    pub(super) fn read(&mut self, at: usize, now: Tick) {
        let Some(flow) = &self.flows[at] else {
            return;
        };
        if flow.leaving.is_some() {
            self.credit(at, now);
        } else if flow.pass != self.pass {
            self.catch_up(at, now);
        }
        if self.is_idle(at, now) {
            // Since it was read a packet may have come.
            self.credit_now(at, now);
            if self.is_idle(at, now) {
                self.give_back(at, Removed::Idle, now);
            }
        }
    }

    fn is_idle(&self, at: usize, now: Tick) -> bool {
        let flow = self.flows[at].as_ref();
        flow.is_some_and(|flow| now.since(flow.seen) >= IDLE)
    }

    /// The same, whether it was done or not.
    fn catch_up(&mut self, at: usize, now: Tick) {
        let (is_known, pass) = (self.counted(at).is_some(), self.pass);
        if let Some(flow) = &mut self.flows[at]
            && is_known
            && self.tallies[at].is_told()
        {
            // Nothing came. If that is not so of the other direction, both are credited when it is that one's turn.
            let entry = (flow.established.family, flow.established.flow);
            if self.parts.connections.has(entry) {
                flow.pass = pass;
                return;
            }
        }
        let is_tcp = |flow: &Flow| flow.established.protocol == l4::TCP;
        if self.flows[at].as_ref().is_some_and(is_tcp) {
            // What one direction acknowledges is held against what the other sent, and both against what pollers saw: as of now.
            for at in [Some(at), self.other(at)].into_iter().flatten() {
                self.tallies[at].renew_old();
            }
        }
        self.credit(at, now);
    }

    /// Credits what was counted of a flow until now.
    pub(super) fn credit_now(&mut self, at: usize, now: Tick) {
        for at in [Some(at), self.other(at)].into_iter().flatten() {
            self.tallies[at].renew();
        }
        self.credit(at, now);
    }

    /// Credits what was counted of a flow, and of its other direction, and has what ends them end them.
    pub(super) fn credit(&mut self, at: usize, now: Tick) {
        if let Some(why) = self.flows[at].as_ref().and_then(|flow| flow.leaving) {
            return self.give_back(at, why, now);
        }
        let other = self.other(at);
        let own = self.counted(at);
        let back = other.and_then(|at| self.counted(at));
        if own.is_none() || other.is_some() && back.is_none() {
            // The kernel has forgotten one of them: its program began anew.
            self.settle(at, other, None, Removed::Lost, now);
            return;
        }
        let alive = self.tell(at, own, other.zip(back), None, false, now);
        if !alive {
            self.settle(at, other, None, Removed::Gone, now);
            return;
        }
        for (at, counts) in [(Some(at), own), (other, back)] {
            if let (
                Some(at),
                Some(Counts {
                    closing: Some(_), ..
                }),
            ) = (at, counts)
            {
                self.doubt(at, now);
            }
        }
    }

    /// The kernel saw a segment that may end a flow, and leaves the flow to pollers. If none of them tells of it until the next pass, it was
    /// none that counts: its checksum is wrong, for one. Then the kernel gets the flow anew.
    fn doubt(&mut self, at: usize, now: Tick) {
        let Some(flow) = &mut self.flows[at] else {
            return;
        };
        if *flow.unconfirmed.get_or_insert(self.pass) == self.pass {
            return;
        }
        let Established { family, flow, .. } = flow.established;
        self.give_back(at, Removed::Unconfirmed, now);
        let why = Why::UnderWay;
        let _ = self.parts.offers.push(Candidate { family, flow, why });
    }

    /// What the kernel counted of a flow: as it was read in this pass, if it was.
    fn counted(&mut self, at: usize) -> Option<Counts> {
        let tally = self.tallies.get(at)?;
        tally.of(self.pass).or_else(|| self.count(at))
    }

    /// What the kernel has counted of a flow now.
    pub(super) fn count(&mut self, at: usize) -> Option<Counts> {
        let flow = self.flows.get(at)?.as_ref()?;
        let counts = self.kernel.read(&flow.key)?;
        self.tallies.get_mut(at)?.note(counts, self.pass);
        Some(counts)
    }

    /// Tells the flow table, and whoever reads counters, what came since the last time. Returns whether the connection is there.
    pub(super) fn tell(
        &mut self,
        at: usize,
        own: Option<Counts>,
        back: Option<(usize, Counts)>,
        closing: Option<Segment>,
        is_last: bool,
        now: Tick,
    ) -> bool {
        let carried = own.map(|counts| self.carry(at, counts, now));
        let back = back.map(|(other, counts)| self.carry(other, counts, now));
        let Some(flow) = self.flows.get(at).and_then(Option::as_ref) else {
            return false;
        };
        let Established { family, flow, .. } = flow.established;
        let mut carried = carried.unwrap_or_default();
        carried.unseen.closing = closing;
        let connections = &self.parts.connections;
        connections.credit((family, flow), &carried, back.as_ref(), is_last, now)
    }

    /// What came since the last time, which is counted now.
    fn carry(&mut self, at: usize, counts: Counts, now: Tick) -> Carried {
        let (pass, counters) = (self.pass, &self.parts.counters);
        let flow = self.flows.get_mut(at).and_then(Option::as_mut);
        let (Some(flow), Some(tally)) = (flow, self.tallies.get_mut(at)) else {
            return Carried::default();
        };
        tally.note(counts, pass);
        flow.pass = pass;
        let (packets, bytes) = tally.tell();
        if packets > 0 {
            flow.seen = now;
            count_frames(counters, &flow.established, packets, bytes);
        }
        Carried {
            packets,
            bytes,
            unseen: Unseen {
                latest: counts.seen.map(|seen| Latest {
                    ack: seen.ack,
                    end: seen.end,
                    window: seen.window,
                }),
                closing: None,
            },
        }
    }
}

/// Counts frames as a poller would have: with what is in front of the IP packet as they come in, and as they leave.
fn count_frames(counters: &Counters, established: &Established, packets: u64, bytes: u64) {
    counters.rx.add(packets);
    counters.tx.add(packets);
    if let Some(port) = established.in_port.and_then(|port| counters.port(port)) {
        port.rx_packets.add(packets);
        port.rx_bytes
            .add(bytes + packets * established.front as u64);
    }
    let adjacency = &established.adjacency;
    if let Some(port) = counters.port(adjacency.port) {
        port.tx_packets.add(packets);
        port.tx_bytes
            .add(bytes + packets * adjacency.rewrite.len() as u64);
    }
}
