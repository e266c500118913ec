//! What policy says about the first packet of a connection, and what is remembered of a denial.
//!
//! A denied packet's key is inserted as a connection is, with [`action::DENY`] on both entries: the next packet costs a
//! lookup. The entry of the other direction is no answer's: who meets it begins a connection of its own, and the denial
//! goes. A denial holds as long as the tables by which it was decided, and [`DENIAL`] after its last packet at most.

use core::time::Duration;

use encap::l4;
use flowtable::Tick;
use flowtable::acl::{L4, Tuple};
use flowtable::conn::{Dir, Flags};
use flowtable::flow::{Action, FlowKey, FlowRef, FlowTable, Live, View, flag as action, idle};

use super::connect::{Context, NOBODY};
use super::net::Net;
use super::{NOWHERE, evict, origin_of, short};
use crate::batch::{Packet, PeerId, flag};
use crate::policy::{Decider, End, Judgement};
use crate::port::{PortId, PortKind};
use crate::reason::DropReason;
use crate::tables::{Tables, Way};

/// How long a denial is remembered after its last packet.
const DENIAL: Duration = Duration::from_secs(10);

/// The same of one that ended a connection: longer than a stack sends again what was not acknowledged (Linux `tcp_retries2`,
/// 924 s), so that nothing of it is taken for the middle of a new connection.
const REVOCATION: Duration = Duration::from_secs(1000);

/// Denials are remembered while a table is filled to less than this, of 256: the rest is for connections.
const ROOM_FOR_DENIALS: u16 = 128;

/// On a denial's entries: it ended a connection that was established, so that what the other end still sends within that
/// begins nothing.
const REVOKED: u8 = 1 << 5;

/// Whether an entry is a denial's.
#[inline(always)]
pub(super) const fn is_denial<A>(action: &Action<A>) -> bool {
    action.flags & action::DENY != 0
}

/// How long a denial has had no packet of either direction, and how long it is remembered then.
pub(super) fn denial_age<K: FlowKey>(
    forward: &View<K>,
    reply: &View<K>,
    now: Tick,
) -> (Duration, Duration) {
    let since = idle(now, forward.last_seen).min(idle(now, reply.last_seen));
    if forward.action.flags & REVOKED == 0 {
        (since, DENIAL)
    } else {
        (since, REVOCATION)
    }
}

/// Why packets of a denial's direction are dropped.
pub(super) fn reason_of<A>(action: &Action<A>) -> DropReason {
    let reason = DropReason::ALL.get(usize::from(action.reason));
    reason.copied().unwrap_or(DropReason::PolicyDeny)
}

/// Repeats a denial for a packet of its direction. `false` if it does not hold for the packet.
#[inline(always)]
pub(super) fn repeat<N: Net>(
    entry: &Live<'_, N::Key>,
    action: &Action<N::Addr>,
    packet: &mut Packet,
    tables: &Tables,
    now: Tick,
) -> bool {
    let holds = action.flags & action::IS_REPLY == 0
        && action.generation == short(tables.generation)
        && action.origin == origin_of(packet);
    if holds {
        entry.touch(now, packet.ip_len() as u32);
        packet.next_hop = action.next_hop;
        packet.deny(reason_of(action), Decider::from_bits(action.rule));
    }
    holds
}

/// The part of a packet behind its IP header, as rules ask for it. `l4` is its bytes.
fn l4_of<N: Net>(protocol: u8, ports: (u16, u16), l4: &[u8]) -> L4 {
    match protocol {
        l4::TCP | l4::UDP | l4::SCTP | l4::UDPLITE => L4::Ports {
            source: ports.0,
            destination: ports.1,
        },
        _ if protocol == N::ICMP => match l4 {
            &[kind, code, ..] => L4::Icmp { kind, code },
            _ => L4::Other,
        },
        _ => L4::Other,
    }
}

/// A packet as policy sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<A> {
    pub(super) tuple: Tuple<A>,
    /// The service that it was sent to; the tuple is about its backend.
    pub(super) service: Option<(A, u16)>,
    pub(super) from: End,
    pub(super) to: End,
}

impl Context<'_> {
    /// A packet as policy sees it. Its addresses and ports, as known, must be those that it came with, but for a service's backend.
    pub(super) fn subject<N: Net>(&self, packet: &Packet, l3: &[u8]) -> Subject<N::Addr> {
        let known = N::tuple(packet);
        let protocol = N::protocol(packet);
        // What stands there in a later fragment is no header: of ICMP, neither type nor code is known.
        let l4 = if N::is_later_fragment(packet) {
            &[]
        } else {
            N::l4_of(packet, l3)
        };
        let tuple = Tuple {
            source: known.src,
            destination: known.dst,
            protocol,
            l4: l4_of::<N>(protocol, known.ports, l4),
        };
        let service = packet.has(flag::TRANSLATE).then(|| {
            let (_, to) = N::addresses_in(packet, l3);
            (to, N::ports_in(packet, l3).1)
        });
        Subject {
            tuple,
            service,
            from: self.came_from::<N>(packet),
            to: self.goes_to(),
        }
    }

    /// Judges the first packet of a connection.
    pub(super) fn judge<N: Net>(
        &mut self,
        packet: &Packet,
        subject: &Subject<N::Addr>,
    ) -> Judgement {
        let &Subject {
            ref tuple,
            from,
            to,
            ..
        } = subject;
        let policies = &self.tables.policies;
        policies.judge(tuple, from, to, |logs| self.log::<N>(packet, subject, logs))
    }

    /// Judges a connection anew, of which this packet may be of either direction: what is said, and about which first packet.
    pub(super) fn judge_again<N: Net>(
        &self,
        view: &View<N::Key>,
        packet: &Packet,
        l3: &[u8],
    ) -> Option<(Judgement, Subject<N::Addr>)> {
        let mut ends = (self.came_from::<N>(packet), self.goes_to());
        let forward = if view.is_reply() {
            ends = (ends.1, ends.0);
            let table = &N::side(&self.tracker.connections).table;
            table.view(table.partner(view.flow)?)?
        } else {
            *view
        };
        let (key, action) = (forward.key, forward.action);
        let protocol = N::protocol_of(&key);
        if protocol == N::ICMP && (view.is_reply() || N::is_later_fragment(packet)) {
            // What was asked is not seen here: the next query tells.
            return None;
        }
        let mut known = N::tuple_of(&key);
        let mut service = None;
        if action.flags & action::NAT_DST != 0 {
            service = Some((known.dst, known.ports.1));
            (known.dst, known.ports.1) = (action.nat_addr, action.nat_port);
        }
        let tuple = Tuple {
            source: known.src,
            destination: known.dst,
            protocol,
            l4: l4_of::<N>(protocol, known.ports, N::l4_of(packet, l3)),
        };
        let (from, to) = ends;
        // `Log` rules are for what begins.
        let policies = &self.tables.policies;
        let judgement = policies.judge(&tuple, from, to, |_| ());
        let subject = Subject {
            tuple,
            service,
            from,
            to,
        };
        Some((judgement, subject))
    }

    fn came_from<N: Net>(&self, packet: &Packet) -> End {
        if packet.peer != PeerId::NONE {
            return End::Elsewhere;
        }
        match self.end_at(packet.in_port) {
            // What the kernel forwards comes by the host's port too, as from a client whose NodePort kube-proxy translated: it has
            // the client's address, and none of the host's rights. By which interface it came is not known.
            End::Host if !self.is_own::<N>(N::tuple(packet).src) => End::Elsewhere,
            end => end,
        }
    }

    /// Whether an address is the node's own.
    fn is_own<N: Net>(&self, addr: N::Addr) -> bool {
        let hop = self.tables.next_hop(N::route(self.tables, addr));
        matches!(hop.origin(), Some((Way::Host, ..)))
    }

    const fn goes_to(&self) -> End {
        match self.onward.way {
            Way::Pod => End::Pod(self.onward.port),
            Way::Host => End::Host,
            Way::Uplink => End::Uplink(self.onward.port),
            Way::Tunnel => End::Elsewhere,
        }
    }

    fn end_at(&self, port: PortId) -> End {
        match self.tables.port(port).map(|port| &port.kind) {
            Some(PortKind::Host) => End::Host,
            Some(PortKind::Uplink) => End::Uplink(port),
            // A port that is gone: closed, as no endpoint is known for it.
            Some(PortKind::Pod(_)) | None => End::Pod(port),
        }
    }

    /// Remembers that connections of the first of these keys, answered by the second, are denied. `flags` are what an earlier denial of it hands on.
    pub(super) fn remember_denied<N: Net>(
        &self,
        keys: (N::Key, N::Key),
        packet: &Packet,
        denied: (DropReason, Decider),
        flags: u8,
    ) {
        self.deny_keys::<N>(keys, origin_of(packet), packet, denied, flags);
    }

    /// Removes a connection that is no longer allowed, and remembers that: as one that was ended, or one that never began.
    pub(super) fn revoke<N: Net>(
        &self,
        view: &View<N::Key>,
        packet: &Packet,
        denied: (DropReason, Decider),
        was_established: bool,
    ) {
        let side = N::side(&self.tracker.connections);
        let table = &side.table;
        let other = table.partner(view.flow).and_then(|flow| table.view(flow));
        let (forward, reply) = if view.is_reply() {
            (other, Some(*view))
        } else {
            (Some(*view), other)
        };
        let counters = &self.tables.policies.counters;
        if let (Some(View { key, action, .. }), Some(reply)) = (forward, reply)
            && evict::remove::<N>(side, view.flow, counters)
        {
            let flags = if was_established { REVOKED } else { 0 };
            // Answers to another source than the sender's own are to nobody now.
            let is_to_sender = N::tuple_of(&reply.key).dst == N::tuple_of(&key).src;
            let back = if is_to_sender {
                reply.key
            } else {
                key.reversed()
            };
            self.deny_keys::<N>((key, back), action.origin, packet, denied, flags);
        }
    }

    fn deny_keys<N: Net>(
        &self,
        (key, back): (N::Key, N::Key),
        origin: u16,
        packet: &Packet,
        (reason, by): (DropReason, Decider),
        flags: u8,
    ) {
        let side = N::side(&self.tracker.connections);
        let forward = Action {
            generation: short(self.tables.generation),
            next_hop: N::route(self.tables, N::tuple_of(&key).dst),
            origin,
            flags: action::DENY | flags,
            rule: by.to_bits(),
            reason: reason as u8,
            ..Action::default()
        };
        let reply = Action {
            origin: NOWHERE,
            ..forward
        };
        let (there, back) = ((key, forward), (back, reply));
        let dirs = (Dir::EMPTY.to_bits(), Dir::EMPTY.to_bits());
        let len = packet.ip_len() as u32;
        // One that ended a connection takes no room that was not its own.
        let has_room = flags & REVOKED != 0 || side.fill() < ROOM_FOR_DENIALS;
        let insert = |table: &FlowTable<N::Key>| table.insert_pair(there, back, self.now, dirs);
        if has_room && let Ok((flow, _)) = side.insert(NOBODY, insert) {
            side.table.touch(flow, self.now, len);
        } else {
            // The next packet is judged, as this one was.
            self.tables.policies.counters.add(by, 1, len.into());
        }
    }

    /// What a denial that a packet meets, of either direction, means for it: the reason to drop it; or the denial is gone and
    /// the packet begins a connection of its own, to which the flags are handed on if it is denied again.
    pub(super) fn meets_denial<N: Net>(
        &self,
        flow: FlowRef,
        action: &Action<N::Addr>,
        packet: &mut Packet,
        l3: &[u8],
    ) -> Result<u8, DropReason> {
        let side = N::side(&self.tracker.connections);
        let entry = side.table.live(flow);
        if repeat::<N>(&entry, action, packet, self.tables, self.now) {
            return Err(reason_of(action));
        }
        let is_reply = action.flags & action::IS_REPLY != 0;
        let revoked = action.flags & REVOKED;
        if is_reply && revoked != 0 && is_mid_stream::<N>(packet, l3) {
            side.table.touch(flow, self.now, packet.ip_len() as u32);
            packet.denied_by = Decider::from_bits(action.rule);
            return Err(reason_of(action));
        }
        if !evict::remove::<N>(side, flow, &self.tables.policies.counters) {
            // Another poller is at work on it; the sender tries again.
            return Err(DropReason::FlowEnded);
        }
        Ok(if is_reply { 0 } else { revoked })
    }
}

/// Whether a packet is a TCP segment that begins no connection.
fn is_mid_stream<N: Net>(packet: &Packet, l3: &[u8]) -> bool {
    let begins = |flags: Flags| flags.has(Flags::SYN) && !flags.has(Flags::ACK);
    N::protocol(packet) == l4::TCP
        && N::segment(packet, l3).is_some_and(|segment| !begins(segment.flags))
}
