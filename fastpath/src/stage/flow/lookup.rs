//! Finding the connections of a batch, and repeating what was decided about them.

use encap::l4;
use flowtable::conn::{self, Dir, Flags};
use flowtable::flow::{Action, FlowRef, FlowTable, Hit, Keys, Live, Soon, flag as action};
use flowtable::{Tick, prefetch};

use super::net::{Net, V4, V6};
use super::track::{self, Standing};
use super::{Found, evict, origin_of, policy, related, service, short, untracked};
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
    /// A packet is still undecided: routes are to be looked up, connections made or renewed.
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
    let families = packets.iter().fold(0, |all, it| all | it.family as u8);
    let mut left = Left::default();
    for (found, _) in tracker.found.iter_mut().zip(packets.iter()) {
        *found = Found::Done;
    }
    let hosts = tables.policies.hosts.as_deref();
    if hosts.is_some_and(HostEndpoints::have_untracked) {
        untracked::run(packets, io, tables, tracker, now, counters);
    }
    // What offers connections for the kernel is compiled apart: a packet of a node that does not pays nothing for it.
    let (v4, v6): (Repeater<I>, Repeater<I>) = if tracker.offers.is_some() {
        (family::<V4, I, true>, family::<V6, I, true>)
    } else {
        (family::<V4, I, false>, family::<V6, I, false>)
    };
    if Family::V4.is_in(families) {
        v4(packets, io, tables, tracker, now, counters, &mut left);
    }
    if Family::V6.is_in(families) {
        v6(packets, io, tables, tracker, now, counters, &mut left);
    }
    left
}

/// [`family`] of one.
type Repeater<I> = fn(&mut [Packet], &mut I, &Tables, &mut Tracker, Tick, &Counters, &mut Left);

/// The connections of one family: keys first, then all entries, then what was decided, so that the memory that each needs
/// is fetched for all of them together. `OFFERS`: they are offered for the kernel, by [`Tracker::offers`].
fn family<N: Net, I: PacketIo, const OFFERS: bool>(
    packets: &mut [Packet],
    io: &mut I,
    tables: &Tables,
    tracker: &mut Tracker,
    now: Tick,
    counters: &Counters,
    left: &mut Left,
) {
    let Tracker {
        connections,
        found,
        offers,
        ..
    } = tracker;
    let side = N::side(connections);
    let mut keys = Keys::<N::Key>::default();
    let mut taken = 0;
    for (at, packet) in packets.iter_mut().enumerate() {
        if !packet.is_undecided() || packet.family != N::FAMILY {
            continue;
        }
        if packet.flags & (flag::ORDINARY | flag::TRANSLATE) == flag::ORDINARY {
            keys.put(at, N::key(packet));
            taken |= 1 << at;
            continue;
        }
        if matches!(found.get(at), Some(Found::Untracked)) {
            left.undecided = true;
            continue;
        }
        if N::protocol(packet) == N::ICMP || packet.has(flag::TRANSLATE) {
            let l3 = l3_of(packet, io);
            if packet.has(flag::TRANSLATE) {
                N::restore(packet, l3);
            }
            if N::is_icmp_error(packet, l3) {
                let related = related::find::<N>(&side.table, packet, l3, tables);
                set(found, at, related);
                left.undecided |= packet.is_undecided();
                continue;
            }
        }
        keys.put(at, N::key_in(packet, || l3_of(packet, io)));
        taken |= 1 << at;
    }
    keys.set_taken(taken);
    let repeat = Repeat::<N, OFFERS> {
        side,
        tables,
        generation: short(tables.generation),
        now,
        counters,
        offers: offers.as_ref().filter(|_| OFFERS),
    };
    let soon = |entry: Soon<'_, N::Key>| prefetch(tables.next_hop(entry.next_hop()));
    let known =
        side.table
            .lookup_batch_ahead(&mut keys, !tables.has_near_next_hops(), soon, |hit| {
                if let Some(packet) = packets.get_mut(hit.place) {
                    repeat.one(packet, io, hit, found, left);
                }
            });
    let unknown = taken & !known;
    if unknown != 0 {
        left.undecided = true;
        for ((at, packet), found) in packets.iter_mut().enumerate().zip(&mut **found) {
            if unknown >> at & 1 != 0 {
                packet.flow_hash = keys.flow_hash(at);
                *found = Found::Nothing;
            }
        }
    }
    if left.undecided && !N::services(tables).is_empty() {
        left.exceptional |= service::run::<N>(packets, &**found, tables);
    }
}

/// Says what is left to do for the packet in a place. Called, since few packets need it.
#[inline(never)]
fn set(all: &mut [Found; BATCH], at: usize, found: Found) {
    if let Some(slot) = all.get_mut(at) {
        *slot = found;
    }
}

/// What a decision is repeated with.
///
/// What it is told of an entry it hands on by value: of what a function that is called gets a reference to, all has to be in memory for each packet.
struct Repeat<'a, N: Net, const OFFERS: bool> {
    side: &'a Side<N::Key>,
    tables: &'a Tables,
    /// That of the tables, as entries have it.
    generation: u32,
    now: Tick,
    counters: &'a Counters,
    /// Where connections are offered for the kernel, with `OFFERS`.
    offers: Option<&'a Offers>,
}

impl<N: Net, const OFFERS: bool> Repeat<'_, N, OFFERS> {
    /// Decides a packet's fate as its connection's was decided, if that holds. If not, `found` says what is left to do.
    #[inline(always)]
    fn one<I: PacketIo>(
        &self,
        packet: &mut Packet,
        io: &mut I,
        hit: Hit<'_, N::Key>,
        found: &mut [Found; BATCH],
        left: &mut Left,
    ) {
        let Hit {
            place,
            flow_hash,
            entry,
            action,
        } = hit;
        packet.flow_hash = flow_hash;
        if policy::is_denial(&action) {
            if policy::repeat::<N>(entry, action, packet, self.tables, self.now) {
                left.exceptional |= is_told(packet);
                return;
            }
            // It is met again when it is known where the packet would go.
            left.undecided = true;
            return set(found, place, Found::Nothing);
        }
        translate_destination::<N>(packet, &action);
        if action.generation != self.generation || action.origin != origin_of(packet) {
            left.undecided = true;
            return set(found, place, Found::Stale(entry.flow()));
        }
        packet.next_hop = action.next_hop;
        let hop = self.tables.next_hop(action.next_hop);
        if !resolve::settle(packet, N::FAMILY, hop, self.tables) {
            left.exceptional = true;
            if !matches!(packet.fate, Fate::Held) && packet.has(flag::TRANSLATE) {
                let l3 = l3_of(packet, io);
                N::restore(packet, l3);
            }
            return;
        }
        let own = Dir::from_bits(entry.dir());
        if !track::is_known_datagram::<N>(packet, own)
            && !track::note_ordinary::<N>(&entry, own, packet, io.chunk(&packet.frame))
        {
            let is_reply = action.flags & action::IS_REPLY != 0;
            let l3 = l3_of(packet, io);
            let table = &self.side.table;
            let standing =
                track::note::<N>(table, &entry, own, is_reply, packet, l3, self.counters);
            if OFFERS
                && let Some(offers) = self.offers
                && conn::is_quick(own, Flags::ACK)
                && let Some(segment) = track::ending::<N>(packet, l3)
            {
                offers.judged(N::FAMILY, entry.flow(), segment);
            }
            match standing {
                Standing::Part => {}
                Standing::Passes => return self.translate_source(packet, &action, entry.flow()),
                Standing::Invalid => return packet.drop(DropReason::CtInvalid),
                Standing::Reopens => {
                    let counters = &self.tables.policies.counters;
                    if packet.has(flag::TRANSLATE) && !is_reply {
                        N::restore(packet, l3);
                    }
                    if reopen::<N>(self.side, entry.flow(), packet, counters) {
                        left.undecided = true;
                        set(found, place, Found::Nothing);
                    }
                    return;
                }
            }
        }
        let count = entry.touch(self.now, N::len(packet));
        if OFFERS && count % OFFERED_AGAIN == OFFERED_AT {
            self.offer(packet, entry, count);
        }
        self.translate_source(packet, &action, entry.flow());
    }

    /// Offers what is well under way to who has it repeated by the kernel.
    #[cold]
    #[inline(never)]
    fn offer(&self, packet: &Packet, entry: Live<'_, N::Key>, count: u64) {
        let may = match N::protocol(packet) {
            l4::TCP => conn::is_quick(Dir::from_bits(entry.dir()), Flags::ACK),
            // Whom nobody answers may be sending into the blue, to ever other ports: that is nothing to call the kernel for.
            l4::UDP => count >= OFFERED_AGAIN || self.is_answered(entry),
            _ => false,
        };
        if let Some(offers) = self.offers.filter(|_| may) {
            offers.under_way(N::FAMILY, entry.flow());
        }
    }

    /// Whether a packet of the other direction has come.
    fn is_answered(&self, entry: Live<'_, N::Key>) -> bool {
        let table = &self.side.table;
        let partner = table.partner(entry.flow());
        partner.is_some_and(|partner| !Dir::from_bits(table.dir(partner)).is_empty())
    }

    #[inline(always)]
    fn translate_source(&self, packet: &mut Packet, action: &Action<N::Addr>, flow: FlowRef) {
        if action.flags & action::NAT_SRC == 0 {
            return;
        }
        match source_of::<N>(&self.side.table, action, flow) {
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

/// Whether the sender is told that the packet is dropped.
pub(super) const fn is_told(packet: &Packet) -> bool {
    matches!(packet.fate, Fate::Drop(DropReason::EndpointToHostRejected))
}

/// The connection is over, and the packet is the first of another. Returns whether that is to be made now.
#[cold]
fn reopen<N: Net>(
    side: &Side<N::Key>,
    flow: FlowRef,
    packet: &mut Packet,
    counters: &RuleCounters,
) -> bool {
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
