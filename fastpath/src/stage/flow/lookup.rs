//! Finding the connections of a batch, and repeating what was decided about them.

use encap::nat::Tuple;
use flowtable::Tick;
use flowtable::conn::Dir;
use flowtable::flow::{Action, FlowRef, flag as action};

use super::net::{Net, V4, V6};
use super::track::{self, Standing};
use super::{Found, evict, origin_of, policy, related, short};
use crate::batch::{BATCH, Batch, Family, Fate, Packet, flag};
use crate::connections::{Side, Tracker};
use crate::counters::Counters;
use crate::io::PacketIo;
use crate::policy::RuleCounters;
use crate::reason::DropReason;
use crate::stage::resolve;
use crate::tables::Tables;

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
    let families = packets.iter().fold(0, |all, it| all | 1 << it.family as u8);
    let mut left = Left::default();
    for (found, _) in tracker.found.iter_mut().zip(packets.iter()) {
        *found = Found::Done;
    }
    if families & 1 << Family::V4 as u8 != 0 {
        family::<V4, I>(packets, io, tables, tracker, now, counters, &mut left);
    }
    if families & 1 << Family::V6 as u8 != 0 {
        family::<V6, I>(packets, io, tables, tracker, now, counters, &mut left);
    }
    left
}

/// The connections of one family: keys first, then all entries, then what was decided, so that the memory that each needs
/// is fetched for all of them together.
#[inline(always)]
fn family<N: Net, I: PacketIo>(
    packets: &mut [Packet],
    io: &mut I,
    tables: &Tables,
    tracker: &mut Tracker,
    now: Tick,
    counters: &Counters,
    left: &mut Left,
) {
    let Tracker {
        connections, found, ..
    } = tracker;
    let side = N::side(connections);
    let mut keys = [N::Key::default(); BATCH];
    let mut places = [0_u8; BATCH];
    let mut count = 0;
    for ((at, packet), found) in (0_u8..).zip(&mut *packets).zip(&mut **found) {
        if !packet.is_undecided() || packet.family != N::FAMILY {
            continue;
        }
        if N::protocol(packet) == N::ICMP || packet.has(flag::TRANSLATE) {
            let l3 = l3_of(packet, io);
            if packet.has(flag::TRANSLATE) {
                N::restore(packet, l3);
            }
            if N::is_icmp_error(packet, l3) {
                *found = related::find::<N>(&side.table, packet, l3);
                left.undecided |= packet.is_undecided();
                continue;
            }
        }
        *found = Found::Nothing;
        if let (Some(key), Some(place)) = (keys.get_mut(count), places.get_mut(count)) {
            (*key, *place) = (N::key_in(packet, || l3_of(packet, io)), at);
            count += 1;
        }
    }
    let repeat = Repeat::<N> {
        side,
        tables,
        generation: short(tables.generation),
        now,
        counters,
    };
    let keys = keys.get(..count).unwrap_or_default();
    let known = side.table.lookup_batch(keys, |index, flow, action| {
        let place = places.get(index).map_or(0, |&place| usize::from(place));
        if let (Some(packet), Some(found)) = (packets.get_mut(place), found.get_mut(place)) {
            *found = repeat.one(packet, io, flow, &action, left);
        }
    });
    left.undecided |= known.count_ones() as usize != count;
}

/// What a decision is repeated with.
struct Repeat<'a, N: Net> {
    side: &'a Side<N::Key>,
    tables: &'a Tables,
    /// That of the tables, as entries have it.
    generation: u32,
    now: Tick,
    counters: &'a Counters,
}

impl<N: Net> Repeat<'_, N> {
    /// Decides a packet's fate as its connection's was decided, if that holds.
    #[inline(always)]
    fn one<I: PacketIo>(
        &self,
        packet: &mut Packet,
        io: &mut I,
        flow: FlowRef,
        action: &Action<N::Addr>,
        left: &mut Left,
    ) -> Found {
        if policy::is_denial(action) {
            if policy::repeat::<N>(self.side, flow, action, packet, self.tables, self.now) {
                left.exceptional |= is_told(packet);
                return Found::Done;
            }
            // It is met again when it is known where the packet would go.
            left.undecided = true;
            return Found::Nothing;
        }
        translate_destination::<N>(packet, action);
        if action.generation != self.generation || action.origin != origin_of(packet) {
            left.undecided = true;
            return Found::Stale(flow);
        }
        packet.next_hop = action.next_hop;
        let hop = self.tables.next_hop(action.next_hop);
        if !resolve::settle(packet, hop, self.tables) {
            left.exceptional = true;
            if !matches!(packet.fate, Fate::Held) && packet.has(flag::TRANSLATE) {
                let l3 = l3_of(packet, io);
                N::restore(packet, l3);
            }
            return Found::Done;
        }
        let table = &self.side.table;
        let own = Dir::from_bits(table.dir(flow));
        if !track::is_known_datagram::<N>(packet, own) {
            let is_reply = action.flags & action::IS_REPLY != 0;
            let l3 = l3_of(packet, io);
            match track::note::<N>(table, flow, own, is_reply, packet, l3, self.counters) {
                Standing::Part => {}
                Standing::Passes => {
                    translate_source::<N>(packet, action);
                    return Found::Done;
                }
                Standing::Invalid => {
                    packet.drop(DropReason::CtInvalid);
                    return Found::Done;
                }
                Standing::Reopens => {
                    let counters = &self.tables.policies.counters;
                    return reopen::<N>(self.side, flow, packet, counters, left);
                }
            }
        }
        table.touch(flow, self.now, N::len(packet));
        translate_source::<N>(packet, action);
        Found::Done
    }
}

/// Whether the sender is told that the packet is dropped.
pub(super) const fn is_told(packet: &Packet) -> bool {
    matches!(packet.fate, Fate::Drop(DropReason::EndpointToHostRejected))
}

/// The connection is over, and the packet is the first of another.
#[cold]
fn reopen<N: Net>(
    side: &Side<N::Key>,
    flow: FlowRef,
    packet: &mut Packet,
    counters: &RuleCounters,
    left: &mut Left,
) -> Found {
    if !evict::remove::<N>(side, flow, counters) || packet.has(flag::TRANSLATE) {
        // Another poller is at work on it, or it was looked up as an answer. The next one finds nothing, and begins.
        packet.drop(DropReason::FlowEnded);
        return Found::Done;
    }
    packet.fate = Fate::Undecided;
    left.undecided = true;
    Found::Nothing
}

/// Gives the packet, as it is known, the destination that its connection's packets get.
#[inline(always)]
pub(super) fn translate_destination<N: Net>(packet: &mut Packet, action: &Action<N::Addr>) {
    if action.flags & action::NAT_DST == 0 {
        return;
    }
    let mut tuple = N::tuple(packet);
    tuple.dst = action.nat_addr;
    set_port::<N>(packet, &mut tuple, |ports| &mut ports.1, action.nat_port);
    N::set_tuple(packet, tuple);
    packet.flags |= flag::TRANSLATE;
}

/// The same for its source.
#[inline(always)]
pub(super) fn translate_source<N: Net>(packet: &mut Packet, action: &Action<N::Addr>) {
    if action.flags & action::NAT_SRC == 0 {
        return;
    }
    let mut tuple = N::tuple(packet);
    tuple.src = action.nat_addr;
    set_port::<N>(packet, &mut tuple, |ports| &mut ports.0, action.nat_port);
    N::set_tuple(packet, tuple);
    packet.flags |= flag::TRANSLATE;
}

#[inline(always)]
fn set_port<N: Net>(
    packet: &Packet,
    tuple: &mut Tuple<N::Addr>,
    which: impl Fn(&mut (u16, u16)) -> &mut u16,
    port: u16,
) {
    if N::is_later_fragment(packet) {
        // Its bytes have none.
        return;
    }
    if N::protocol(packet) == N::ICMP {
        // One identifier for both.
        tuple.ports = (port, port);
    } else {
        *which(&mut tuple.ports) = port;
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
