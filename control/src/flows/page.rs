//! Going over connections a page at a time, so that the control thread never stops for long.
//!
//! A page is some lines of the tables, counted from the start of IPv4's. Entries stay in their line, so no connection is
//! on two pages; which page ends where depends on how full the lines are.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use fastpath::batch::PeerId;
use fastpath::connections::{Connection, Connections, Direction, Origin, Removal};
use fastpath::policy::RuleCounters;
use fastpath::port::PortId;
use flowtable::Tick;
use flowtable::conn::{State, Timeouts};
use flowtable::flow::FlowRef;

use super::{Filter, has_identifier, has_ports, protocol_name};
use crate::api::MAX_FLOWS;
use crate::api::report::{Flow, FlowCounts, FlowDirection, Flows, Flushed, Translation};
use crate::api::{FlowsBy, FlowsParams};

/// Lines that are visited at once: 1,024 entries.
const STEP: usize = 16;
/// Entries after which a page ends: some milliseconds.
const ENTRIES: usize = 1 << 16;
/// Lines after which a page ends, were they all empty.
const LINES: usize = 1 << 15;

/// The state of what policy denied: no connection.
pub(crate) const DENIED: &str = "DENIED";

/// What numbers in connections stand for.
pub(crate) trait Names {
    /// The interface of a port.
    fn port(&self, id: PortId) -> Option<Cow<'_, str>>;
    /// The endpoint behind a port, as `namespace/name`.
    fn endpoint(&self, id: PortId) -> Option<Cow<'_, str>>;
    /// Whether the host itself sends from an address by a port, not one that it forwards for.
    fn is_hosts(&self, id: PortId, address: IpAddr) -> bool;
    /// A node.
    fn node(&self, id: PeerId) -> Option<Cow<'_, str>>;
}

/// What pages are made of.
pub(crate) struct Pages<'a> {
    /// The connections.
    pub(crate) connections: &'a Connections,
    /// How long they are kept.
    pub(crate) timeouts: &'a Timeouts,
    /// The time by the pollers' clock.
    pub(crate) now: Tick,
    /// What rules have decided, where what is removed is counted.
    pub(crate) rules: &'a RuleCounters,
    /// Which are meant; `None`: all.
    pub(crate) filter: Option<&'a Filter<Vec<PortId>>>,
}

impl Pages<'_> {
    /// Lists and counts the connections of a page.
    pub(crate) fn list(&self, params: &FlowsParams, names: &dyn Names) -> Flows {
        let limit = params.limit.unwrap_or(MAX_FLOWS).min(MAX_FLOWS);
        let mut rows = Shown {
            limit,
            by: params.top,
            rows: Vec::new(),
        };
        let mut counts = params.counts.then(Counts::default);
        let mut matched = 0;
        // Rows that were asked for and have no room end the page; others are counted only.
        let is_full = |rows: &Shown| {
            limit == MAX_FLOWS && rows.by.is_none() && rows.rows.len() + STEP * 64 > limit
        };
        let active = params.active.map(Duration::from_secs);
        let (busy, next) = self.walk(params.from, &mut rows, is_full, |rows, one, _| {
            if active.is_some_and(|active| one.idle > active) {
                return;
            }
            matched += 1;
            rows.push(one);
            if let Some(counts) = &mut counts {
                counts.add(one);
            }
        });
        Flows {
            matched,
            busy,
            flows: rows.take().iter().map(|one| flow(one, names)).collect(),
            counts: counts.map(|counts| counts.named(names)),
            next,
        }
    }

    /// Removes the connections of a page.
    pub(crate) fn flush(&self, from: usize) -> Flushed {
        let mut flushed = Flushed::default();
        let (busy, next) = self.walk(
            from,
            &mut flushed,
            |_| false,
            |flushed, one, flow| {
                flushed.matched += 1;
                match self.connections.remove(one, flow, self.rules) {
                    Removal::Removed => flushed.removed += 1,
                    Removal::Gone => {}
                    Removal::Busy => flushed.busy += 1,
                }
            },
        );
        // Whether what could not even be seen was meant is not known.
        flushed.busy += busy;
        flushed.next = next;
        flushed
    }

    /// Visits the connections of a page that are meant. Returns the entries that were being changed, and where the next page starts.
    fn walk<T>(
        &self,
        from: usize,
        state: &mut T,
        is_full: impl Fn(&T) -> bool,
        mut visit: impl FnMut(&mut T, &Connection, FlowRef),
    ) -> (u64, Option<usize>) {
        let lines = self.connections.lines();
        let end = lines.min(from.saturating_add(LINES));
        let (mut entries, mut busy) = (0, 0);
        let mut at = from;
        while at < end && entries < ENTRIES && !is_full(state) {
            let step = at..end.min(at + STEP);
            at = step.end;
            let walked =
                self.connections
                    .visit(step, self.timeouts, self.now, |connection, flow| {
                        if self.filter.is_none_or(|filter| filter.matches(connection)) {
                            visit(state, connection, flow);
                        }
                    });
            entries += walked.entries;
            busy += walked.busy as u64;
        }
        (busy, (at < lines).then_some(at))
    }
}

/// The connections that a page shows.
struct Shown {
    limit: usize,
    by: Option<FlowsBy>,
    rows: Vec<Connection>,
}

impl Shown {
    fn push(&mut self, one: &Connection) {
        match self.by {
            None if self.rows.len() < self.limit => self.rows.push(*one),
            None => {}
            Some(by) => {
                self.rows.push(*one);
                if self.rows.len() >= 2 * self.limit.max(512) {
                    self.rows
                        .sort_unstable_by_key(|one| std::cmp::Reverse(size(one, by)));
                    self.rows.truncate(self.limit);
                }
            }
        }
    }

    fn take(mut self) -> Vec<Connection> {
        if let Some(by) = self.by {
            self.rows
                .sort_unstable_by_key(|one| std::cmp::Reverse(size(one, by)));
            self.rows.truncate(self.limit);
        }
        self.rows
    }
}

/// What both directions come to.
const fn size(one: &Connection, by: FlowsBy) -> u64 {
    match by {
        FlowsBy::Bytes => one.original.bytes.saturating_add(one.reply.bytes),
        FlowsBy::Packets => one.original.packets.saturating_add(one.reply.packets),
    }
}

/// Connections by kind, by number.
struct Counts {
    states: [u64; State::ALL.len()],
    denied: u64,
    protocols: [u64; 256],
    /// By port; the first of none.
    owners: Vec<u64>,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            states: [0; State::ALL.len()],
            denied: 0,
            protocols: [0; 256],
            owners: Vec::new(),
        }
    }
}

impl Counts {
    fn add(&mut self, one: &Connection) {
        // In the order of `State::ALL`, as a test of it says.
        if one.denied {
            self.denied += 1;
        } else if let Some(count) = self.states.get_mut(one.state as usize) {
            *count += 1;
        }
        self.protocols[usize::from(one.protocol)] += 1;
        let owner = one.owner.map_or(0, |port| usize::from(port.0) + 1);
        if owner >= self.owners.len() {
            self.owners.resize(owner + 1, 0);
        }
        self.owners[owner] += 1;
    }

    fn named(self, names: &dyn Names) -> FlowCounts {
        let some = |(_, count): &(String, u64)| *count > 0;
        let states = State::ALL.iter().map(|state| state.name().to_owned());
        let protocols = (0..=u8::MAX).map(|number| protocol_name(number).into_owned());
        let mut endpoint = std::collections::BTreeMap::new();
        for (index, count) in self.owners.into_iter().enumerate() {
            if count > 0 {
                let owner = index.checked_sub(1).map(|port| PortId(port as u16));
                let name = owner.map_or_else(|| "none".to_owned(), |port| owner_name(port, names));
                *endpoint.entry(name).or_insert(0) += count;
            }
        }
        FlowCounts {
            state: states
                .zip(self.states)
                .chain([(DENIED.to_owned(), self.denied)])
                .filter(some)
                .collect(),
            protocol: protocols.zip(self.protocols).filter(some).collect(),
            endpoint,
        }
    }
}

fn owner_name(port: PortId, names: &dyn Names) -> String {
    let name = names.endpoint(port).or_else(|| names.port(port));
    name.map_or_else(|| "gone".to_owned(), Cow::into_owned)
}

fn flow(one: &Connection, names: &dyn Names) -> Flow {
    let port = |port: u16| has_ports(one.protocol).then_some(port);
    let identifier = |id: u16| has_identifier(one.protocol).then_some(id);
    let translation = |(addr, to)| Translation {
        addr,
        port: port(to),
        icmp_id: identifier(to),
    };
    Flow {
        protocol: protocol_name(one.protocol).into_owned(),
        state: if one.denied { DENIED } else { one.state.name() }.to_owned(),
        src: one.src,
        src_port: port(one.sport),
        dst: one.dst,
        dst_port: port(one.dport),
        icmp_id: identifier(one.sport),
        // A query's type stands in a byte of what stands for the other end's port.
        icmp_type: identifier(one.dport).map(|port| port as u8),
        from_host: matches!(one.original.origin, Origin::Port(id) if names.is_hosts(id, one.src)),
        snat: one.snat.map(translation),
        dnat: one.dnat.map(translation),
        endpoint: one.owner.map(|port| owner_name(port, names)),
        original: direction(&one.original, names),
        reply: direction(&one.reply, names),
        idle_seconds: one.idle.as_secs(),
        expires_seconds: one.expires_in.as_secs(),
    }
}

fn direction(one: &Direction, names: &dyn Names) -> FlowDirection {
    let (port, node, origin) = match one.origin {
        Origin::Port(id) => (names.port(id), None, format!("port {}", id.0)),
        Origin::Node(PeerId::EXTERNAL) => (None, Some("external".into()), "external".to_owned()),
        Origin::Node(id) => (None, names.node(id), format!("node {}", id.0)),
        Origin::Unknown => (None, None, "unknown".to_owned()),
    };
    FlowDirection {
        port: port.map(Cow::into_owned),
        node: node.map(Cow::into_owned),
        origin,
        packets: one.packets,
        bytes: one.bytes,
        generation: one.generation,
    }
}

#[cfg(test)]
mod tests;
