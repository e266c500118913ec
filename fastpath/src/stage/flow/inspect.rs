//! Connections for people: the control thread looks at them, and removes those that it is told to.
//!
//! Pollers go on meanwhile and are not held up. What is seen is of some moment of late; a connection that is being
//! changed at that moment is counted as busy and left out.

use core::ops::Range;
use core::time::Duration;
use std::net::IpAddr;

use encap::nat::Tuple;
use flowtable::Tick;
use flowtable::conn::{Dir, State, Timeouts};
use flowtable::flow::{FlowRef, View, flag as action, idle};

use super::connect::NOBODY;
use super::evict::{age_of, owner_of, remove, state_of};
use super::net::{Net, V4, V6};
use super::{BY_TUNNEL, NOWHERE, plan, policy};
use crate::batch::PeerId;
use crate::connections::{Connections, Side};
use crate::policy::{Decider, RuleCounters};
use crate::port::PortId;

/// How often a removal is tried that meets a poller at work on the connection. One change takes some nanoseconds.
pub(super) const TRIES: usize = 16;

/// A connection as it was at some moment of late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The IP protocol's number.
    pub protocol: u8,
    /// What the tracker makes of it.
    pub state: State,
    /// It is no connection: policy denied it of late.
    pub denied: bool,
    /// The source of the packet that began it, before it was translated.
    pub src: IpAddr,
    /// The destination of that packet.
    pub dst: IpAddr,
    /// Its source port; the identifier of an ICMP query; 0 if the protocol has none.
    pub sport: u16,
    /// Its destination port; the type of an ICMP query.
    pub dport: u16,
    /// What the source is translated to, if it is.
    pub snat: Option<(IpAddr, u16)>,
    /// What the destination is translated to, if it is: a service's backend.
    pub dnat: Option<(IpAddr, u16)>,
    /// The pod's port whose quota it counts for; `None`: it counts for none.
    pub owner: Option<PortId>,
    /// The direction of the packet that began it.
    pub original: Direction,
    /// The other direction.
    pub reply: Direction,
    /// Since the last packet of either direction.
    pub idle: Duration,
    /// The time that it is kept for if no other packet comes, at the present fill of the table.
    pub expires_in: Duration,
}

/// One direction of a [`Connection`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Direction {
    /// Where its packets come in.
    pub origin: Origin,
    /// Packets since the connection began.
    pub packets: u64,
    /// Their IP packets' bytes.
    pub bytes: u64,
    /// Generation of the tables by which its packets are sent, the low 32 bits.
    pub generation: u32,
    /// What decided: in the original direction for the endpoint that it comes from, in the other for the one it goes to.
    pub decided_by: Decider,
}

/// Where packets of a direction come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// By a port.
    Port(PortId),
    /// By the tunnel of another node.
    Node(PeerId),
    /// No packet was seen, and its way can not be told.
    Unknown,
}

impl Origin {
    pub(super) const fn of(origin: u16) -> Self {
        if origin == NOWHERE {
            Self::Unknown
        } else if origin == PeerId::EXTERNAL.0 {
            Self::Node(PeerId::EXTERNAL)
        } else if origin & BY_TUNNEL != 0 {
            Self::Node(PeerId(origin & !BY_TUNNEL))
        } else {
            Self::Port(PortId(origin))
        }
    }

    /// As entries have it.
    pub(super) const fn code(self) -> u16 {
        match self {
            Self::Port(port) => port.0,
            Self::Node(peer) => BY_TUNNEL | peer.0,
            Self::Unknown => NOWHERE,
        }
    }
}

/// What a walk over some lines of the tables came by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walked {
    /// Entries in use, two a connection.
    pub entries: usize,
    /// Entries of connections that were being changed, and so were not shown.
    pub busy: usize,
}

/// What became of a connection that was to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// This call removed it.
    Removed,
    /// It was gone already.
    Gone,
    /// Pollers were at work on it each time that it was tried.
    Busy,
}

impl Connections {
    /// How many lines of 64 entries the tables have: IPv4's first, then IPv6's. What [`visit`](Self::visit) counts by.
    pub fn lines(&self) -> usize {
        self.v4.table.lines() + self.v6.table.lines()
    }

    /// Visits the connections of some lines, in no order, with what to [remove](Self::remove) them by. A walk over all
    /// lines sees each once. `timeouts` are the configured ones, `now` is by the pollers' clock.
    pub fn visit(
        &self,
        lines: Range<usize>,
        timeouts: &Timeouts,
        now: Tick,
        mut visit: impl FnMut(&Connection, FlowRef),
    ) -> Walked {
        let (first, second) = self.split(lines);
        let mut walked = Walked::default();
        walked.add(side::<V4>(&self.v4, first, timeouts, now, &mut visit));
        walked.add(side::<V6>(&self.v6, second, timeouts, now, &mut visit));
        walked
    }

    /// The lines of IPv4's table, and of IPv6's, that some lines are.
    pub(super) fn split(&self, lines: Range<usize>) -> (Range<usize>, Range<usize>) {
        let lines4 = self.v4.table.lines();
        let first = lines.start.min(lines4)..lines.end.min(lines4);
        let second = lines.start.max(lines4) - lines4..lines.end.max(lines4) - lines4;
        (first, second)
    }

    /// Removes a connection, counts its endpoint's quota down, and adds what it carried to its rules' counts. May be called
    /// while it is visited.
    pub fn remove(&self, connection: &Connection, flow: FlowRef, rules: &RuleCounters) -> Removal {
        let Connection {
            protocol,
            sport,
            dport,
            ..
        } = *connection;
        match (connection.src, connection.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let (src, dst) = (src.to_bits(), dst.to_bits());
                let ports = V4::ports_to(protocol, sport, dport);
                let key = V4::make_key(Tuple { src, dst, ports }, protocol);
                remove_of::<V4>(&self.v4, flow, &key, rules)
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let (src, dst) = (src.to_bits(), dst.to_bits());
                let ports = V6::ports_to(protocol, sport, dport);
                let key = V6::make_key(Tuple { src, dst, ports }, protocol);
                remove_of::<V6>(&self.v6, flow, &key, rules)
            }
            _ => Removal::Gone,
        }
    }
}

impl Walked {
    const fn add(&mut self, other: Self) {
        self.entries += other.entries;
        self.busy += other.busy;
    }
}

fn side<N: Net>(
    side: &Side<N::Key>,
    lines: Range<usize>,
    timeouts: &Timeouts,
    now: Tick,
    visit: &mut impl FnMut(&Connection, FlowRef),
) -> Walked {
    if side.is_empty() {
        return Walked::default();
    }
    let timeouts = timeouts.scaled(side.fill());
    let stats = side.table.visit(lines, |forward, reply| {
        let connection = describe::<N>(forward, reply, &timeouts, now);
        visit(&connection, forward.flow);
    });
    Walked {
        entries: stats.used,
        busy: stats.busy,
    }
}

fn describe<N: Net>(
    forward: &View<N::Key>,
    reply: &View<N::Key>,
    timeouts: &Timeouts,
    now: Tick,
) -> Connection {
    let tuple = N::tuple_of(&forward.key);
    let (_, state) = state_of::<N>(forward, reply);
    let (age, timeout) = age_of::<N>(forward, reply, timeouts, now);
    let since_reply = if Dir::from_bits(reply.dir).is_empty() {
        Duration::MAX
    } else {
        idle(now, reply.last_seen)
    };
    let to_ip = |(addr, port)| (N::ip(addr), port);
    let owner = owner_of::<N>(forward, reply);
    let direction = |view: &View<N::Key>| Direction {
        origin: Origin::of(view.action.origin),
        packets: view.packets,
        bytes: view.bytes,
        generation: view.action.generation,
        decided_by: Decider::from_bits(view.action.rule),
    };
    Connection {
        protocol: N::protocol_of(&forward.key),
        state,
        denied: policy::is_denial(&forward.action),
        src: N::ip(tuple.src),
        dst: N::ip(tuple.dst),
        sport: tuple.ports.0,
        dport: N::service(&forward.key),
        snat: plan::new_source::<N>(forward, reply).map(to_ip),
        dnat: plan::new_destination::<N>(forward).map(to_ip),
        owner: (owner != NOBODY).then_some(PortId(owner)),
        original: direction(forward),
        reply: direction(reply),
        idle: idle(now, forward.last_seen).min(since_reply),
        expires_in: timeout.saturating_sub(age),
    }
}

fn remove_of<N: Net>(
    side: &Side<N::Key>,
    mut flow: FlowRef,
    key: &N::Key,
    rules: &RuleCounters,
) -> Removal {
    for _ in 0..TRIES {
        if remove::<N>(side, flow, rules) {
            return Removal::Removed;
        }
        // Gone, being changed, or changed so often that the reference is too old.
        match side.table.lookup(key) {
            Some((now, action)) if action.flags & action::IS_REPLY == 0 => flow = now,
            _ if side.table.contains(flow) => {}
            _ => return Removal::Gone,
        }
        // The poller may have lost its core in the middle of the change.
        std::thread::yield_now();
    }
    Removal::Busy
}
