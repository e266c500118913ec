//! Fragments: later ones go where their first went, and wait for it if they are early.

use flowtable::Tick;
use flowtable::fragments::{DropReason as Why, Fragments, Key, Piece, Released, Upper, Verdict};

use super::lookup::l3_of;
use super::net::{Net, V4, V6};
use super::origin_of;
use crate::batch::{Batch, Family, Fate, Packet, flag};
use crate::connections::Tracker;
use crate::io::PacketIo;
use crate::port::Port;
use crate::reason::DropReason;
use crate::tables::Tables;

/// Gives later fragments the ports of their first, and lets those wait that came before it. Those that waited for what
/// came now are in the tracker's `released` afterwards, to go behind this batch.
#[inline(always)]
pub fn run<I: PacketIo>(batch: &mut Batch, io: &mut I, tracker: &mut Tracker, now: Tick) {
    let packets = batch.packets();
    let common = packets
        .iter()
        .fold(flag::ORDINARY, |all, it| all & it.flags);
    if common != 0 {
        return;
    }
    for packet in packets {
        if packet.is_undecided() && is_fragment(packet) && !packet.has(flag::PIECED) {
            one(packet, io, tracker, now);
        }
    }
}

/// Lets fragments go whose first did not come in time.
pub(crate) fn expire(tracker: &mut Tracker, now: Tick) {
    let Tracker {
        fragments,
        released,
        ..
    } = tracker;
    if fragments.next_expiry().is_some_and(|at| at <= now) {
        fragments.expire(now, |packet, outcome| {
            released.push(settle(packet, outcome));
        });
    }
}

/// Forgets fragments of endpoints that are gone, or whose port is another's since `generation`.
#[cold]
pub(super) fn end(
    fragments: &mut Held,
    released: &mut Vec<Packet>,
    tables: &Tables,
    generation: u64,
) {
    for (origin, port) in (0..).zip(&tables.ports) {
        let is_other = |port: &Port| port.since > generation;
        if port.as_ref().is_none_or(is_other) {
            fragments.remove_origin(origin, |packet, outcome| {
                released.push(settle(packet, outcome));
            });
        }
    }
}

#[inline(always)]
fn is_fragment(packet: &Packet) -> bool {
    match packet.family {
        Family::V4 => packet.ip4.is_fragment(),
        Family::V6 => packet.ip6.is_fragment(),
        Family::Unknown => false,
    }
}

#[inline(never)]
fn one<I: PacketIo>(packet: &mut Packet, io: &mut I, tracker: &mut Tracker, now: Tick) {
    let Tracker {
        fragments,
        released,
        ..
    } = tracker;
    let origin = origin_of(packet);
    let (key, piece, protocol) = match packet.family {
        Family::V6 => {
            let ip = &packet.ip6;
            let Some(fragment) = ip.upper.fragment else {
                return;
            };
            let piece = Piece {
                offset: fragment.offset,
                len: fragment.len,
                more: fragment.more,
            };
            let key = Key::v6(ip.src, ip.dst, fragment.id, origin);
            (key, piece, ip.upper.protocol)
        }
        Family::V4 | Family::Unknown => {
            let ip = &packet.ip4;
            let piece = Piece {
                offset: ip.fragment_offset(),
                len: ip.payload_len(),
                more: ip.more_fragments(),
            };
            let key = Key::v4(ip.src, ip.dst, ip.protocol, ip.id, origin);
            (key, piece, ip.protocol)
        }
    };
    let back = |packet: Packet, outcome: Released| released.push(settle(packet, outcome));
    let verdict = if piece.offset == 0 {
        let upper = Upper {
            ports: ports(packet, io),
            protocol,
        };
        fragments.first(now, &key, piece.len, upper, back)
    } else {
        // Moved out only if it is held: what stays behind has no frame, and its fate says so.
        fragments.later(now, &key, piece, || packet.move_out(), back)
    };
    match verdict {
        Verdict::Pass(_) if piece.offset == 0 => packet.flags |= flag::PIECED,
        Verdict::Pass(upper) => *packet = known(packet.move_out(), upper),
        Verdict::Hold => packet.fate = Fate::Held,
        Verdict::Drop(why) => packet.drop(reason(why)),
    }
}

/// The ports that a first fragment is looked up by, for those after it: whether it asks or answers, an ICMP message tells
/// only there.
fn ports<I: PacketIo>(packet: &Packet, io: &mut I) -> (u16, u16) {
    match packet.family {
        Family::V6 => V6::tuple_of(&V6::key_in(packet, || l3_of(packet, io))).ports,
        Family::V4 | Family::Unknown => {
            V4::tuple_of(&V4::key_in(packet, || l3_of(packet, io))).ports
        }
    }
}

/// A fragment that knows the ports of its datagram.
fn known(mut packet: Packet, upper: Upper) -> Packet {
    packet.flags |= flag::PIECED;
    packet.ports = upper.ports;
    if packet.family == Family::V6 {
        packet.ip6.upper.protocol = upper.protocol;
    }
    packet
}

/// A fragment that waited, and how it goes on.
fn settle(mut packet: Packet, outcome: Released) -> Packet {
    packet.fate = Fate::Undecided;
    match outcome {
        Ok(upper) => known(packet, upper),
        // May be the host's, which it overtook on the way to us: without ports it is nobody else's, but for a connection of the same ends
        // with both ports 0. That does no harm: no receiver makes anything of it without the first, which is judged by its own ports.
        Err(Why::NoFirst) => known(packet, Upper::default()),
        Err(why) => {
            packet.drop(reason(why));
            packet
        }
    }
}

const fn reason(why: Why) -> DropReason {
    match why {
        Why::Overlap | Why::TooLong | Why::TooMany | Why::Duplicate => DropReason::FragmentOverlap,
        Why::NoFirst => DropReason::FragmentNoFirst,
        Why::Quota => DropReason::FragmentQuota,
        Why::Full => DropReason::FragmentTableFull,
        Why::OriginGone => DropReason::FlowEnded,
    }
}

/// Fragments of one poller, of which the held ones are whole packets.
pub(crate) type Held = Fragments<Packet>;
