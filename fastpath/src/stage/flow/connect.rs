//! New connections, and those that older tables decided.

use flowtable::Tick;
use flowtable::conn::Dir;
use flowtable::conn::quota::Denied;
use flowtable::flow::{Action, FlowKey, FlowRef, FlowTable, InsertError, View, flag as action};
use flowtable::lpm::NextHopId;
use flowtable::snat::MAX_PROBES;

use super::evict::state_of;
use super::insert::Refused;
use super::lookup::{is_told, l3_of, set_source, source_of};
use super::net::{Net, V4, V6};
use super::plan::{NewSource, Plan, destination_in, destination_of};
use super::sweep::is_gone;
use super::track::{self, Standing};
use super::{
    Found, NOWHERE, ahead, evict, is_newer, origin_of, plan, policy, related, service, short,
};
use crate::batch::{Batch, Family, Fate, Packet, PeerId, flag};
use crate::connections::Tracker;
use crate::counters::Counters;
use crate::io::PacketIo;
use crate::policy::Judgement;
use crate::port::{PortId, PortKind};
use crate::reason::DropReason;
use crate::record::Verdict;
use crate::stage::resolve;
use crate::tables::{NextHop, Tables, Way};

/// How often the packets of a batch may search for a connection to evict. A search takes up to 16 µs (benches/README.md), as long as some
/// hundred packets that are known, and a refusal no longer than one of these: whoever sprays must not hold up those that are served
/// after him. All packets of a batch came in by one port.
const SEARCHES: u8 = 4;

/// How many ports they may try beyond the first few of each, where nearly all of a destination's are taken: as many as four
/// connections try at most. To try them all takes a connection as long as some seventy packets that are known.
const SPARE_TRIES: u32 = 4 * MAX_PROBES;

/// Makes connections of the packets that are to be sent and belong to none, and renews what was decided by older tables.
/// Returns whether a sender has to be told that its packet is dropped.
pub fn run<I: PacketIo>(
    batch: &mut Batch,
    io: &mut I,
    tables: &Tables,
    tracker: &mut Tracker,
    now: Tick,
    counters: &Counters,
) -> bool {
    ahead::run(batch.packets(), io, tables, tracker);
    tracker.searches = SEARCHES;
    tracker.spare_tries = SPARE_TRIES;
    let mut told = false;
    if let Some(records) = &mut tracker.records {
        records.look();
    }
    for (at, packet) in batch.packets().iter_mut().enumerate() {
        let found = tracker.found.get(at).copied().unwrap_or(Found::Done);
        match packet.family {
            _ if matches!(found, Found::Done) => {}
            Family::V4 => one::<V4, I>(packet, found, io, tables, tracker, now, counters),
            Family::V6 => one::<V6, I>(packet, found, io, tables, tracker, now, counters),
            Family::Unknown => {}
        }
        told |= is_told(packet);
    }
    told
}

fn one<N: Net, I: PacketIo>(
    packet: &mut Packet,
    found: Found,
    io: &mut I,
    tables: &Tables,
    tracker: &mut Tracker,
    now: Tick,
    counters: &Counters,
) {
    let hop = tables.next_hop(packet.next_hop);
    let waits = packet.fate == Fate::Held && !packet.frame.is_none();
    let l3 = l3_of(packet, io);
    if (waits || matches!(packet.fate, Fate::Transmit(_)))
        && let Some(onward) = Onward::by(hop)
    {
        let mut context = Context {
            tables,
            tracker,
            counters,
            now,
            onward,
        };
        let done = match found {
            Found::Nothing if waits => context.may_wait::<N>(packet, l3),
            Found::Untracked => context.pass_untracked::<N>(packet, l3, waits),
            _ if waits => Ok(()),
            Found::Nothing => context.begin::<N>(packet, l3),
            Found::Stale(flow) => context.renew::<N>(flow, packet, l3),
            Found::Related(flow) => {
                let connections = &context.tracker.connections;
                related::translate::<N>(&N::side(connections).table, flow, packet, l3, tables)
            }
            // About what the host itself began, as far as we know.
            Found::Unrelated if onward.way == Way::Host && !context.is_from_pod(packet) => Ok(()),
            Found::Unrelated => Err(DropReason::IcmpUnrelated),
            Found::Done => Ok(()),
        };
        if let Err(reason) = done {
            packet.drop(reason);
        }
    }
    if let Found::Stale(flow) = found
        && !matches!(packet.fate, Fate::Transmit(_))
    {
        // The way to a service's backend that is gone may be gone, too.
        let side = N::side(&tracker.connections);
        let view = side.table.view(flow);
        if view.is_some_and(|it| service::begins_anew::<N>(tables, &side.table, &it, packet)) {
            evict::remove::<N>(side, flow, &tables.policies.counters);
            packet.drop(DropReason::FlowEnded);
        }
    }
    if matches!(packet.fate, Fate::Drop(_)) && packet.has(flag::TRANSLATE) {
        N::restore(packet, l3);
    }
}

/// Where a packet goes, whether its next hop's MAC address is known or not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Onward {
    pub(super) way: Way,
    pub(super) peer: PeerId,
    pub(super) port: PortId,
}

impl Onward {
    /// By a next hop; `None` for one that drops.
    pub(super) fn by(hop: &NextHop) -> Option<Self> {
        let (way, peer, port) = hop.origin()?;
        Some(Self { way, peer, port })
    }
}

/// What a packet's connection depends on beside the packet.
pub(super) struct Context<'a> {
    pub(super) tables: &'a Tables,
    pub(super) tracker: &'a mut Tracker,
    pub(super) counters: &'a Counters,
    pub(super) now: Tick,
    pub(super) onward: Onward,
}

/// On a forward entry: the connection counts for the endpoint that its replies come from.
pub(super) const OWNED_BY_REPLY: u8 = 1 << 4;

/// No endpoint's: the count of nobody.
pub(super) const NOBODY: u16 = u16::MAX;

impl Context<'_> {
    /// Whether a packet of no known connection may wait for its next hop. It will be judged when it goes on; but no neighbour is asked
    /// for, and nothing kept, for who may not send at all.
    #[cold]
    fn may_wait<N: Net>(&mut self, packet: &mut Packet, l3: &mut [u8]) -> Result<(), DropReason> {
        let key = N::key_as_it_came(packet, l3);
        let known = N::side(&self.tracker.connections).table.lookup(&key);
        let is_known = known.is_some_and(|(_, action)| !policy::is_denial(&action));
        // Later fragments wait behind their first.
        if is_known || N::is_later_fragment(packet) || self.is_hosts_own::<N>(packet) {
            return Ok(());
        }
        let subject = self.subject::<N>(packet, l3);
        let policies = &self.tables.policies;
        match policies.explain(&subject.tuple, subject.from, subject.to, |_, _, _, _| ()) {
            Judgement::Allow { .. } => Ok(()),
            // Denies again, counts and remembers.
            Judgement::Deny { .. } => self.begin::<N>(packet, l3),
        }
    }

    /// The first packet of a connection.
    fn begin<N: Net>(&mut self, packet: &mut Packet, l3: &mut [u8]) -> Result<(), DropReason> {
        let side = N::side(&self.tracker.connections);
        let key = N::key_as_it_came(packet, l3);
        // To a service the packet goes on to a backend, which it is known by.
        let there = if packet.has(flag::TRANSLATE) {
            N::key(packet)
        } else {
            key
        };
        let mut of_denial = 0;
        // A packet before it in the batch, or at another poller, may have begun it by now.
        if let Some((flow, action)) = side.table.lookup(&key) {
            let goes_to = destination_of::<N>(&key, &action);
            let would_go = destination_in::<N>(&there);
            // A later fragment is known by the port that its first came with, and has none to be translated.
            let is_same =
                goes_to == would_go || N::is_later_fragment(packet) && goes_to.0 == would_go.0;
            if policy::is_denial(&action) {
                of_denial = self.meets_denial::<N>(flow, &action, packet, l3)?;
            } else if is_same {
                return self.renew::<N>(flow, packet, l3);
            } else {
                return Err(DropReason::CtInvalid);
            }
        }
        if self.is_hosts_own::<N>(packet) {
            return Ok(());
        }
        if N::is_later_fragment(packet) {
            return Err(DropReason::FragmentNoFirst);
        }
        if N::is_upper_unknown(packet) {
            // No rule about protocols or ports can be answered, and the receiver may find what we did not.
            return Err(DropReason::Ip6Extension);
        }
        let settings = &self.tables.tracking;
        let dir = match track::first::<N>(packet, l3, settings.pick_up, self.counters) {
            Ok(dir) => Some(dir),
            // As without us: whoever it is for decides, if policy lets it.
            Err(DropReason::CtInvalid) if !settings.drops_invalid => None,
            Err(reason) => return Err(reason),
        };
        let subject = self.subject::<N>(packet, l3);
        let (source, destination) = match self.judge::<N>(packet, &subject) {
            Judgement::Allow {
                source,
                destination,
            } => (source, destination),
            Judgement::Deny { reason, by } => {
                self.remember_denied::<N>((key, there.reversed()), packet, (reason, by), of_denial);
                packet.denied_by = by;
                self.tell::<N>(packet, &subject, || Verdict::Denied { reason, by });
                return Err(reason);
            }
        };
        let source_is = self.new_source::<N>(packet, &there);
        let is_translated = source_is != NewSource::Own || there != key;
        let Some(dir) = dir else {
            // Without a connection it has no other source, and its own must not be seen outside; nor would answers be a service's.
            return if is_translated {
                Err(DropReason::CtInvalid)
            } else {
                Ok(())
            };
        };
        let (owner, owned_by_reply) = self.owner(packet);
        self.make_room::<N>(owner, !owned_by_reply, &key)?;
        let forward = Action {
            generation: short(self.tables.generation),
            next_hop: packet.next_hop,
            origin: origin_of(packet),
            flags: if owned_by_reply { OWNED_BY_REPLY } else { 0 },
            rule: source.to_bits(),
            ..Action::default()
        };
        let reply = Action {
            generation: short(self.tables.generation),
            next_hop: self.route_back::<N>(packet),
            origin: self.reply_origin(),
            rule: destination.to_bits(),
            ..Action::default()
        };
        let plan = Plan::<N>::new((key, forward), (there, reply));
        let mut inserted = self.insert::<N>(owner, &plan, source_is, dir);
        if matches!(inserted, Err(Refused::Insert(InsertError::Full))) && self.may_search() {
            let side = N::side(&self.tracker.connections);
            let rules = &self.tables.policies.counters;
            if evict::for_key::<N>(side, &key, self.now, rules)
                || evict::for_key::<N>(side, &there.reversed(), self.now, rules)
            {
                self.counters.connections_evicted.add(1);
                inserted = self.insert::<N>(owner, &plan, source_is, dir);
            }
        }
        let side = N::side(&self.tracker.connections);
        match inserted {
            Ok((flow, new_source)) => {
                self.counters.connections_made.add(1);
                side.table.touch(flow, self.now, packet.ip_len() as u32);
                self.tell::<N>(packet, &subject, || Verdict::Allowed {
                    source,
                    destination,
                    snat: new_source.map(|(addr, port)| (N::ip(addr), port)),
                });
                if let Some((addr, port)) = new_source {
                    set_source::<N>(packet, addr, port);
                }
                Ok(())
            }
            Err(Refused::Drop(reason)) => Err(reason),
            Err(Refused::Insert(InsertError::Full)) => Err(DropReason::FlowTableFull),
            // Another poller was faster. What it was given is the only source that this may leave with.
            Err(Refused::Insert(_)) if is_translated => match side.table.lookup(&key) {
                Some((flow, _)) => self.renew::<N>(flow, packet, l3),
                None => Err(DropReason::FlowTableFull),
            },
            // Another poller was faster, or is at work there: this packet goes without, the next one finds it.
            Err(Refused::Insert(_)) => {
                self.counters.connections_untracked.add(1);
                Ok(())
            }
        }
    }

    /// Whether a packet is between the outside and the host itself: no connection of ours, whatever it is. What is not
    /// remembered can take no port from a pod (CVE-2021-3773).
    fn is_hosts_own<N: Net>(&self, packet: &Packet) -> bool {
        if self.onward.way != Way::Host || packet.peer != PeerId::NONE {
            return false;
        }
        let by_uplink = self.tables.port(packet.in_port);
        if !by_uplink.is_some_and(|port| matches!(port.kind, PortKind::Uplink)) {
            return false;
        }
        // Pods of other nodes speak to this one without encapsulation; the host answers them through us.
        let back = N::route(self.tables, N::tuple(packet).src);
        !matches!(
            self.tables.next_hop(back).origin(),
            Some((Way::Tunnel, ..) | (Way::Uplink, PeerId(1..), _))
        )
    }

    /// Whether a packet comes from a pod of this node.
    pub(super) fn is_from_pod(&self, packet: &Packet) -> bool {
        packet.peer == PeerId::NONE && self.is_pods(packet.in_port)
    }

    /// Whether a port is a pod's.
    fn is_pods(&self, port: PortId) -> bool {
        let port = self.tables.port(port);
        port.is_some_and(|port| matches!(port.kind, PortKind::Pod(_)))
    }

    /// The endpoint that a connection counts for, and whether it is the one that answers.
    fn owner(&self, packet: &Packet) -> (u16, bool) {
        if self.is_from_pod(packet) {
            (packet.in_port.0, false)
        } else if self.onward.way == Way::Pod {
            (self.onward.port.0, true)
        } else {
            (NOBODY, true)
        }
    }

    /// The next hop of the answers to a packet; of several the one that their flow takes.
    fn route_back<N: Net>(&self, packet: &Packet) -> NextHopId {
        let tuple = N::tuple(packet);
        let hop = N::route(self.tables, tuple.src);
        if self.tables.spreads.is_empty() {
            return hop;
        }
        match self.tables.next_hop(hop) {
            NextHop::Group(group) => {
                let hash = N::leg_hash(self.tables, tuple.reversed(), N::protocol(packet));
                group.pick(self.tables, hash)
            }
            NextHop::Send(_) | NextHop::Resolve(_) | NextHop::Drop(_) => hop,
        }
    }

    /// Where the answers come in, if they come back the way that the packet goes.
    const fn reply_origin(&self) -> u16 {
        match self.onward.way {
            Way::Tunnel if self.onward.peer.0 == PeerId::NONE.0 => NOWHERE,
            Way::Tunnel => super::BY_TUNNEL | self.onward.peer.0,
            Way::Uplink | Way::Pod | Way::Host => self.onward.port.0,
        }
    }

    /// Makes sure that the endpoint may have another connection, if need be at the cost of one that nobody answered: in a full
    /// table anybody's, else its own. `is_own` says that it is the endpoint that begins it.
    fn make_room<N: Net>(
        &mut self,
        owner: u16,
        is_own: bool,
        key: &N::Key,
    ) -> Result<(), DropReason> {
        let side = N::side(&self.tracker.connections);
        let Err(denied) = side.quota.may_create(owner, side.len()) else {
            return Ok(());
        };
        let may_search = self.may_search();
        let side = N::side(&self.tracker.connections);
        let rules = &self.tables.policies.counters;
        let (has_room, reason) = match denied {
            Denied::Quota => (
                may_search && evict::of_owner::<N>(side, (owner, is_own), self.now, rules),
                DropReason::FlowQuota,
            ),
            Denied::Full => (
                may_search && evict::for_key::<N>(side, key, self.now, rules),
                DropReason::FlowTableFull,
            ),
        };
        if !has_room {
            return Err(reason);
        }
        self.counters.connections_evicted.add(1);
        Ok(())
    }

    /// Whether the packet may search for a connection to evict: few of a batch may.
    const fn may_search(&mut self) -> bool {
        let may = self.tracker.searches > 0;
        self.tracker.searches = self.tracker.searches.saturating_sub(1);
        may
    }

    /// A packet of a connection that was decided by other tables, or that came in elsewhere. Routes were looked up again,
    /// and its source checked; what it is translated to stays.
    fn renew<N: Net>(
        &mut self,
        flow: FlowRef,
        packet: &mut Packet,
        l3: &mut [u8],
    ) -> Result<(), DropReason> {
        let side = N::side(&self.tracker.connections);
        let view = side.table.view(flow).ok_or(DropReason::FlowEnded)?;
        let was = view.action;
        if policy::is_denial(&was) {
            return self.begin::<N>(packet, l3);
        }
        let rules = &self.tables.policies.counters;
        let is_over = is_gone(self.tables, (was.origin, was.generation))
            || endpoint_is_newer(self.tables, packet.in_port, was.generation)
            || endpoint_is_newer(self.tables, self.onward.port, was.generation)
            || service::begins_anew::<N>(self.tables, &side.table, &view, packet);
        if is_over {
            evict::remove::<N>(side, flow, rules);
            return Err(DropReason::FlowEnded);
        }
        let source = if was.flags & action::NAT_SRC == 0 {
            None
        } else {
            let source = source_of::<N>(&side.table, &was, flow);
            Some(source.ok_or(DropReason::FlowEnded)?)
        };
        // What answers come from stays a service's.
        if let Some((address, _)) = source.filter(|_| !view.is_reply()) {
            let by_uplink = self.onward.way == Way::Uplink;
            let is_hosts = (self.tables.nat)
                .mapping_of(N::protocol_of(&view.key), N::ICMP)
                .is_none();
            if is_hosts || !plan::may_have_source::<N>(self.tables, &view.key, address, by_uplink) {
                evict::remove::<N>(side, flow, rules);
                return Err(DropReason::FlowEnded);
            }
            keep_to_leg::<N>(self.tables, &mut self.onward, packet, address)?;
        }
        let side = N::side(&self.tracker.connections);
        let mut rule = was.rule;
        let reevaluates = self.tables.policies.reevaluate;
        if was.generation != short(self.tables.generation)
            && (reevaluates || is_unanswered::<N>(&side.table, &view))
        {
            match self.judge_again::<N>(&view, packet, l3) {
                Some((Judgement::Deny { reason, by }, subject)) => {
                    self.revoke::<N>(&view, packet, (reason, by), reevaluates);
                    packet.denied_by = by;
                    self.tell::<N>(packet, &subject, || Verdict::Denied { reason, by });
                    return Err(reason);
                }
                Some((
                    Judgement::Allow {
                        source,
                        destination,
                    },
                    _,
                )) => {
                    let decider = if view.is_reply() { destination } else { source };
                    rule = decider.to_bits();
                }
                None => {}
            }
        }
        match track::note::<N>(
            &side.table,
            &side.table.live(flow),
            Dir::from_bits(view.dir),
            view.is_reply(),
            packet,
            l3,
            self.counters,
        ) {
            standing @ (Standing::Part | Standing::Passes) => {
                if standing == Standing::Part {
                    side.table.touch(flow, self.now, packet.ip_len() as u32);
                }
            }
            Standing::Invalid => return Err(DropReason::CtInvalid),
            Standing::Reopens => {
                let is_lost = view.is_reply() && packet.has(flag::TRANSLATE)
                    || service::goes_elsewhere::<N>(self.tables, &view, packet);
                if !evict::remove::<N>(side, flow, rules) || is_lost {
                    // It was looked up as an answer. The next one finds nothing, and begins.
                    return Err(DropReason::FlowEnded);
                }
                return self.begin::<N>(packet, l3);
            }
        }
        // What a pod's packets began, or answered, stays its own, and is counted so, though another may send in its name.
        let origin = if self.is_pods(PortId(was.origin)) {
            was.origin
        } else {
            origin_of(packet)
        };
        let renewed = Action {
            generation: short(self.tables.generation),
            next_hop: packet.next_hop,
            origin,
            rule,
            ..was
        };
        // A later fragment shows neither where its connection's packets come in nor, of ping, what is asked.
        if renewed != was && !N::is_later_fragment(packet) {
            // Should another poller be at work on it, the next packet tries again.
            let _ = side.table.update_action(flow, &renewed);
        }
        if let Some((addr, port)) = source {
            set_source::<N>(packet, addr, port);
        }
        Ok(())
    }
}

/// Has a packet whose connection has another source already leave by an uplink that has this address, if the route has such a leg:
/// behind another it may count as forged.
pub(super) fn keep_to_leg<N: Net>(
    tables: &Tables,
    onward: &mut Onward,
    packet: &mut Packet,
    address: N::Addr,
) -> Result<(), DropReason> {
    let has_address = |port: PortId| tables.port(port).and_then(N::nat_address) == Some(address);
    if tables.spreads.is_empty() || has_address(onward.port) {
        return Ok(());
    }
    let route = tables.next_hop(N::route(tables, N::tuple(packet).dst));
    let NextHop::Group(group) = route else {
        return Ok(());
    };
    let is_own = |hop: &NextHop| matches!(hop, NextHop::Send(it) if has_address(it.port));
    let Some(leg) = group.pick_where(tables, resolve::leg_hash(packet, tables), is_own) else {
        return Ok(());
    };
    let hop = tables.next_hop(leg);
    packet.next_hop = leg;
    packet.fate = Fate::Undecided;
    resolve::settle(packet, N::FAMILY, hop, tables);
    *onward = Onward::by(hop).unwrap_or(*onward);
    match packet.fate {
        Fate::Drop(reason) => Err(reason),
        _ => Ok(()),
    }
}

/// Whether a port belongs to another endpoint than when an entry was decided.
pub(super) fn endpoint_is_newer(tables: &Tables, port: PortId, entry: u32) -> bool {
    let port = tables.port(port);
    port.is_some_and(|port| port.since != 0 && is_newer(port.since, entry))
}

/// Whether an entry is of a connection's first direction, and nobody has answered: what iptables calls new is judged as such.
pub(super) fn is_unanswered<N: Net>(table: &FlowTable<N::Key>, view: &View<N::Key>) -> bool {
    let reply = || table.view(table.partner(view.flow)?);
    !view.is_reply() && reply().is_some_and(|reply| state_of::<N>(view, &reply).1.is_embryonic())
}
