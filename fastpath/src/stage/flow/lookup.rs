//! Finding the connections of a batch, and repeating what was decided about them.

use encap::l4;
use flowtable::conn::{self, Dir, Flags};
use flowtable::flow::{Action, FlowKey, FlowRef, FlowTable, Hit, Keys, Live, Soon, flag as action};
use flowtable::{Tick, prefetch};

use super::net::{Net, V4, V6};
use super::track::{self, Standing};
use super::{Found, evict, is_of, policy, related, service, short, untracked};
use crate::batch::{BATCH, Batch, Family, Fate, Packet, flag};
use crate::connections::{Side, Tracker};
use crate::counters::Counters;
use crate::io::PacketIo;
use crate::offload::Offers;
use crate::policy::{HostEndpoints, RuleCounters};
use crate::reason::DropReason;
use crate::stage::resolve;
use crate::tables::Tables;

/// Of so many packets of a direction that come here one has it offered for the kernel: what keeps coming was not taken, or was removed.
const OFFERED_AGAIN: u64 = 64;

/// Which one: few come of what is soon over. Of datagrams that nobody has answered the first of these is left out.
const OFFERED_AT: u64 = 4;

/// What is left to do for a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// A packet is still undecided: routes are to be looked up, connections made or renewed. Only then [`Tracker`] has findings of this batch.
    pub undecided: bool,
    /// A packet needs more than being sent: an ICMP error, or waiting for a neighbour.
    pub exceptional: bool,
}

/// Finds each packet's connection. What was decided by the tables in force is repeated: the packet's fate is decided then.
pub fn run<I: PacketIo>(
    batch: &mut Batch,
    io: &mut I,
    tables: &Tables,
    tracker: &mut Tracker,
    now: Tick,
    counters: &Counters,
) -> Left {
    let packets = batch.packets();
    let hosts = tables.policies.hosts.as_deref();
    let is_judged = hosts.is_some_and(HostEndpoints::have_untracked);
    if is_judged {
        tracker.found.fill(Found::Done);
        untracked::run(packets, io, tables, tracker, now, counters);
    }
    // What offers connections for the kernel is compiled apart: where none are a packet pays nothing for it.
    let repeat = if tracker.offers.is_some() {
        families::<I, true>
    } else {
        families::<I, false>
    };
    repeat(packets, io, tables, tracker, now, counters, is_judged)
}

/// The connections of both families. `OFFERS`: they are offered for the kernel. Some have been judged already, if `are_judged`.
fn families<I: PacketIo, const OFFERS: bool>(
    packets: &mut [Packet],
    io: &mut I,
    tables: &Tables,
    tracker: &mut Tracker,
    now: Tick,
    counters: &Counters,
    are_judged: bool,
) -> Left {
    let Tracker {
        connections,
        found,
        offers,
        ..
    } = tracker;
    let mut findings = Findings {
        found,
        are_of_batch: are_judged,
        left: Left::default(),
    };
    let offers = offers.as_ref();
    let families = packets.iter().fold(0, |all, it| all | it.family as u8);
    let generation = short(tables.generation);
    if Family::V4.is_in(families) {
        let repeat = Repeat::<V4, OFFERS> {
            side: &connections.v4,
            tables,
            generation,
            now,
            counters,
            offers,
        };
        repeat.all(packets, io, &mut findings);
    }
    if Family::V6.is_in(families) {
        let repeat = Repeat::<V6, OFFERS> {
            side: &connections.v6,
            tables,
            generation,
            now,
            counters,
            offers,
        };
        repeat.all(packets, io, &mut findings);
    }
    findings.left
}

/// Puts the keys of a family's undecided packets that are ordinary into their places. Returns a bit for each of them, and whether
/// there are no other packets.
#[inline(always)]
fn put_ordinary<N: Net>(packets: &[Packet], keys: &mut Keys<N::Key>) -> (u64, bool) {
    let (mut taken, mut are_all) = (0, true);
    for (packet, at) in packets.iter().zip(0..BATCH) {
        if packet.is_undecided()
            && packet.family == N::FAMILY
            && packet.flags & (flag::ORDINARY | flag::TRANSLATE) == flag::ORDINARY
        {
            keys.put(at, N::key(packet));
            taken |= 1 << at;
        } else {
            are_all = false;
        }
    }
    (taken, are_all)
}

/// The same of the family's others, which are among those without a bit in `ordinary`.
#[inline(never)]
fn put_unusual<N: Net, I: PacketIo>(
    ordinary: u64,
    packets: &mut [Packet],
    keys: &mut Keys<N::Key>,
    io: &mut I,
    tables: &Tables,
    table: &FlowTable<N::Key>,
    findings: &mut Findings<'_>,
) -> u64 {
    let mut taken = 0;
    for (packet, at) in packets.iter_mut().zip(0..BATCH) {
        let is_other = packet.is_undecided() && packet.family == N::FAMILY;
        if !is_other || ordinary >> at & 1 != 0 {
            continue;
        }
        if matches!(findings.all().get(at), Some(Found::Untracked)) {
            findings.left.undecided = true;
            continue;
        }
        if N::protocol(packet) == N::ICMP || packet.has(flag::TRANSLATE) {
            let l3 = l3_of(packet, io);
            if packet.has(flag::TRANSLATE) {
                N::restore(packet, l3);
            }
            if N::is_icmp_error(packet, l3) {
                let related = related::find::<N>(table, packet, l3, tables);
                findings.note(at, related);
                findings.left.undecided |= packet.is_undecided();
                continue;
            }
        }
        keys.put(at, N::key_in(packet, || l3_of(packet, io)));
        taken |= 1 << at;
    }
    taken
}

/// What the packets of a batch have to do with connections.
struct Findings<'a> {
    found: &'a mut [Found; BATCH],
    /// Whether they are this batch's yet: of most there is nothing to say.
    are_of_batch: bool,
    left: Left,
}

impl Findings<'_> {
    /// Says what is left to do for the packet in a place, which is undecided.
    #[cold]
    #[inline(never)]
    fn set(&mut self, at: usize, found: Found) {
        self.left.undecided = true;
        self.note(at, found);
    }

    fn note(&mut self, at: usize, found: Found) {
        self.all();
        if let Some(slot) = self.found.get_mut(at) {
            *slot = found;
        }
    }

    /// Those of the batch, [`Found::Done`] where nothing else was said.
    fn all(&mut self) -> &[Found] {
        if !self.are_of_batch {
            self.found.fill(Found::Done);
            self.are_of_batch = true;
        }
        &*self.found
    }
}

/// What decisions are repeated with.
///
/// What few packets need is a call, a cold one, so that only these save registers for it; and it is told no more of an entry and of this than
/// fits registers, since what is behind a reference has to be in memory for each packet.
struct Repeat<'a, N: Net, const OFFERS: bool> {
    side: &'a Side<N::Key>,
    tables: &'a Tables,
    /// That of the tables, as entries have it.
    generation: u32,
    now: Tick,
    counters: &'a Counters,
    /// Where connections are offered for the kernel, if they are.
    offers: Option<&'a Offers>,
}

impl<N: Net, const OFFERS: bool> Repeat<'_, N, OFFERS> {
    /// The connections of one family: keys first, then all entries, then what was decided, so that the memory that each needs
    /// is fetched for all of them together.
    #[inline(always)]
    fn all<I: PacketIo>(self, packets: &mut [Packet], io: &mut I, findings: &mut Findings<'_>) {
        let (tables, table) = (self.tables, &self.side.table);
        let mut keys = Keys::<N::Key>::default();
        let (mut taken, are_all) = put_ordinary::<N>(packets, &mut keys);
        if !are_all {
            taken |= put_unusual::<N, I>(taken, packets, &mut keys, io, tables, table, findings);
        }
        keys.set_taken(taken);
        let shows = !tables.has_near_next_hops();
        let soon = |entry: Soon<'_, N::Key>| prefetch(tables.next_hop(entry.next_hop()));
        let one = |packet: &mut Packet, hit: Hit<'_, N::Key>| self.one(packet, io, &hit, findings);
        let known = table.lookup_batch_ahead(&mut keys, packets, shows, soon, one);
        let unknown = taken & !known;
        if unknown != 0 {
            for (packet, at) in packets.iter_mut().zip(0..BATCH) {
                if unknown >> at & 1 != 0 {
                    packet.flow_hash = keys.flow_hash(at);
                    findings.set(at, Found::Nothing);
                }
            }
        }
        if findings.left.undecided && !N::services(tables).is_empty() {
            findings.left.exceptional |= service::run::<N>(packets, findings.all(), tables);
        }
    }

    /// Decides a packet's fate as its connection's was decided, if that holds. If not, `findings` say what is left to do.
    #[inline(always)]
    fn one<I: PacketIo>(
        &self,
        packet: &mut Packet,
        io: &mut I,
        hit: &Hit<'_, N::Key>,
        findings: &mut Findings<'_>,
    ) {
        let (place, entry) = (hit.place, &hit.entry);
        packet.flow_hash = hit.flow_hash;
        if hit.flags() & (action::DENY | action::NAT_DST) != 0 {
            let action = hit.action();
            if policy::is_denial(&action) {
                if policy::repeat::<N>(entry, &action, packet, self.tables, self.now) {
                    findings.left.exceptional |= is_told(packet);
                    return;
                }
                // It is met again when it is known where the packet would go.
                return findings.set(place, Found::Nothing);
            }
            translate_destination::<N>(packet, &action);
        }
        if hit.generation() != self.generation || !is_of(packet, hit.origin()) {
            return findings.set(place, Found::Stale(entry.flow()));
        }
        packet.next_hop = hit.next_hop();
        let hop = self.tables.next_hop(packet.next_hop);
        if !resolve::settle(packet, N::FAMILY, hop, self.tables) {
            findings.left.exceptional = true;
            return unsent::<N, I>(packet, io);
        }
        let own = Dir::from_bits(entry.dir());
        if !track::is_known_datagram::<N>(packet, own)
            && !track::note_ordinary::<N>(entry, own, packet, io.chunk(&packet.frame))
        {
            let (table, flow) = (&self.side.table, entry.flow());
            let is_reply = hit.flags() & action::IS_REPLY != 0;
            match judge::<N, I>(
                packet,
                io,
                flow,
                is_reply,
                table,
                self.counters,
                self.offers,
            ) {
                Standing::Part => {
                    self.count(packet, entry);
                    return self.translate_source(packet, hit);
                }
                Standing::Passes => return self.translate_source(packet, hit),
                Standing::Invalid => return packet.drop(DropReason::CtInvalid),
                Standing::Reopens => {
                    let counters = &self.tables.policies.counters;
                    if reopen::<N, I>(packet, io, flow, is_reply, self.side, counters) {
                        findings.set(place, Found::Nothing);
                    }
                    return;
                }
            }
        }
        self.count(packet, entry);
        self.translate_source(packet, hit);
    }

    /// Counts a packet of a direction, which is offered for the kernel if it is well under way.
    #[inline(always)]
    fn count(&self, packet: &Packet, entry: &Live<'_, N::Key>) {
        let count = entry.touch(self.now, N::len(packet));
        if OFFERS
            && count % OFFERED_AGAIN == OFFERED_AT
            && let Some(offers) = self.offers
        {
            let (protocol, flow) = (N::protocol(packet), entry.flow());
            offer::<N>(offers, &self.side.table, protocol, flow, count);
        }
    }

    #[inline(always)]
    fn translate_source(&self, packet: &mut Packet, hit: &Hit<'_, N::Key>) {
        if hit.flags() & action::NAT_SRC == 0 {
            return;
        }
        match source_of::<N>(&self.side.table, &hit.action(), hit.entry.flow()) {
            Some((addr, port)) => set_source::<N>(packet, addr, port),
            None => packet.drop(DropReason::FlowEnded),
        }
    }
}

/// What the source of a direction is translated to that has [`action::NAT_SRC`]; `None` if its connection is going at this moment. Where the
/// destination is translated too, the entry has room for that alone: the other direction's key says the source.
#[inline(always)]
pub(super) fn source_of<N: Net>(
    table: &FlowTable<N::Key>,
    action: &Action<N::Addr>,
    flow: FlowRef,
) -> Option<(N::Addr, u16)> {
    if action.flags & action::NAT_DST == 0 {
        Some((action.nat_addr, action.nat_port))
    } else {
        answered_at::<N>(table, flow)
    }
}

/// Where the other direction's packets go to.
#[cold]
fn answered_at<N: Net>(table: &FlowTable<N::Key>, flow: FlowRef) -> Option<(N::Addr, u16)> {
    let tuple = N::tuple_of(&table.partner_key(flow)?);
    Some((tuple.dst, tuple.ports.1))
}

/// A packet whose way is known, and that is not sent.
#[cold]
#[inline(never)]
fn unsent<N: Net, I: PacketIo>(packet: &mut Packet, io: &mut I) {
    if !matches!(packet.fate, Fate::Held) && packet.has(flag::TRANSLATE) {
        let l3 = l3_of(packet, io);
        N::restore(packet, l3);
    }
}

/// Takes a packet into its connection's state that may change it.
#[cold]
#[inline(never)]
fn judge<N: Net, I: PacketIo>(
    packet: &mut Packet,
    io: &mut I,
    flow: FlowRef,
    is_reply: bool,
    table: &FlowTable<N::Key>,
    counters: &Counters,
    offers: Option<&Offers>,
) -> Standing {
    let entry = table.live(flow);
    let own = Dir::from_bits(entry.dir());
    let l3 = l3_of(packet, io);
    let standing = track::note::<N>(table, &entry, own, is_reply, packet, l3, counters);
    if let Some(offers) = offers
        && conn::is_quick(own, Flags::ACK)
        && let Some(segment) = track::ending::<N>(packet, l3)
    {
        offers.judged(N::FAMILY, flow, segment);
    }
    standing
}

/// Offers what is well under way to who has it repeated by the kernel.
#[cold]
#[inline(never)]
fn offer<N: Net>(
    offers: &Offers,
    table: &FlowTable<N::Key>,
    protocol: u8,
    flow: FlowRef,
    count: u64,
) {
    let may = match protocol {
        l4::TCP => conn::is_quick(Dir::from_bits(table.dir(flow)), Flags::ACK),
        // Whom nobody answers may be sending into the blue, to ever other ports: that is nothing to call the kernel for.
        l4::UDP => count >= OFFERED_AGAIN || is_answered(table, flow),
        _ => false,
    };
    if may {
        offers.under_way(N::FAMILY, flow);
    }
}

/// Whether a packet of the other direction has come.
fn is_answered<K: FlowKey>(table: &FlowTable<K>, flow: FlowRef) -> bool {
    let partner = table.partner(flow);
    partner.is_some_and(|partner| !Dir::from_bits(table.dir(partner)).is_empty())
}

/// Whether the sender is told that the packet is dropped.
pub(super) const fn is_told(packet: &Packet) -> bool {
    matches!(packet.fate, Fate::Drop(DropReason::EndpointToHostRejected))
}

/// The connection is over, and the packet is the first of another. Returns whether that is to be made now.
#[cold]
#[inline(never)]
fn reopen<N: Net, I: PacketIo>(
    packet: &mut Packet,
    io: &mut I,
    flow: FlowRef,
    is_reply: bool,
    side: &Side<N::Key>,
    counters: &RuleCounters,
) -> bool {
    if packet.has(flag::TRANSLATE) && !is_reply {
        let l3 = l3_of(packet, io);
        N::restore(packet, l3);
    }
    if !evict::remove::<N>(side, flow, counters) || packet.has(flag::TRANSLATE) {
        // Another poller is at work on it, or it was looked up as an answer. The next one finds nothing, and begins.
        packet.drop(DropReason::FlowEnded);
        return false;
    }
    packet.fate = Fate::Undecided;
    true
}

/// Gives the packet, as it is known, the destination that its connection's packets get.
#[inline(always)]
pub(super) fn translate_destination<N: Net>(packet: &mut Packet, action: &Action<N::Addr>) {
    if action.flags & action::NAT_DST != 0 {
        set_destination::<N>(packet, action.nat_addr, action.nat_port);
    }
}

/// Gives the packet, as it is known, another destination.
#[inline(always)]
pub(super) fn set_destination<N: Net>(packet: &mut Packet, addr: N::Addr, port: u16) {
    N::set_destination(packet, addr);
    if packet.has(flag::ORDINARY) {
        packet.ports.1 = port;
    } else {
        set_unusual_port::<N>(packet, |ports| &mut ports.1, port);
    }
    packet.flags |= flag::TRANSLATE;
}

/// The same for its source.
#[inline(always)]
pub(super) fn set_source<N: Net>(packet: &mut Packet, addr: N::Addr, port: u16) {
    N::set_source(packet, addr);
    if packet.has(flag::ORDINARY) {
        packet.ports.0 = port;
    } else {
        set_unusual_port::<N>(packet, |ports| &mut ports.0, port);
    }
    packet.flags |= flag::TRANSLATE;
}

#[inline(always)]
fn set_unusual_port<N: Net>(
    packet: &mut Packet,
    which: impl Fn(&mut (u16, u16)) -> &mut u16,
    port: u16,
) {
    if N::is_later_fragment(packet) {
        // Its bytes have none.
        return;
    }
    if N::protocol(packet) == N::ICMP {
        // One identifier for both.
        packet.ports = (port, port);
    } else {
        *which(&mut packet.ports) = port;
    }
}

/// The IP packet of a frame, without link padding.
#[inline(always)]
pub(in crate::stage) fn l3_of<'a, I: PacketIo>(packet: &Packet, io: &'a mut I) -> &'a mut [u8] {
    let start = usize::from(packet.frame.start) + usize::from(packet.l3);
    io.chunk(&packet.frame)
        .get_mut(start..start + packet.ip_len())
        .unwrap_or_default()
}
