//! What a packet means for its connection's state.

use encap::l4;
use flowtable::conn::{self, Dir, Facts, Flags, Icmp, Judgement, sctp};
use flowtable::flow::{FlowRef, FlowTable, Live};

use super::net::Net;
use crate::batch::{Packet, flag};
use crate::counters::Counters;
use crate::reason::DropReason;

/// How a packet stands to its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is part of it.
    Part,
    /// It passes, and keeps nothing alive: its endpoint will refuse it.
    Passes,
    /// The connection is over; the packet begins another between the same ends.
    Reopens,
    /// It cannot be.
    Invalid,
}

/// Whether a packet of a direction with this word is a datagram of which there is nothing to know but that it came.
#[inline(always)]
pub(super) fn is_known_datagram<N: Net>(packet: &Packet, own: Dir) -> bool {
    N::protocol(packet) == l4::UDP && !own.is_empty()
}

/// [`note`] for what nearly all segments of TCP are: ordinary packets of a connection that is well under way. Returns whether this is one.
#[inline(always)]
pub(super) fn note_ordinary<N: Net>(
    entry: &Live<'_, N::Key>,
    own: Dir,
    packet: &Packet,
    chunk: &[u8],
) -> bool {
    match plain_segment::<N>(packet, chunk) {
        Some(segment) if conn::is_quick(own, segment.flags) => {
            entry.set_dir(own.note(&segment).to_bits());
            true
        }
        _ => false,
    }
}

/// [`Net::segment`] of an ordinary packet that is TCP and a plain acknowledgement; `None` for others.
#[inline(always)]
fn plain_segment<N: Net>(packet: &Packet, chunk: &[u8]) -> Option<conn::Segment> {
    if !packet.has(flag::ORDINARY) || N::protocol(packet) != l4::TCP {
        return None;
    }
    let start = usize::from(packet.frame.start) + usize::from(packet.l3);
    let end = start + N::len(packet) as usize;
    conn::Segment::read_plain(chunk, start + N::HEADER_LEN..end)
}

/// Takes a packet that is going to be forwarded into its connection's state. `own` is the word of its direction.
#[inline(always)]
pub(super) fn note<N: Net>(
    table: &FlowTable<N::Key>,
    entry: &Live<'_, N::Key>,
    own: Dir,
    is_reply: bool,
    packet: &mut Packet,
    l3: &mut [u8],
    counters: &Counters,
) -> Standing {
    if N::protocol(packet) == l4::TCP
        && !N::is_later_fragment(packet)
        && let Some(segment) = N::segment(packet, l3)
        && conn::is_quick(own, segment.flags)
    {
        entry.set_dir(own.note(&segment).to_bits());
        return Standing::Part;
    }
    judge::<N>(table, entry.flow(), own, is_reply, packet, l3, counters)
}

#[inline(never)]
fn judge<N: Net>(
    table: &FlowTable<N::Key>,
    flow: FlowRef,
    own: Dir,
    is_reply: bool,
    packet: &mut Packet,
    l3: &mut [u8],
    counters: &Counters,
) -> Standing {
    // Its first fragment was judged.
    if N::is_later_fragment(packet) {
        return Standing::Part;
    }
    let Some(facts) = facts::<N>(packet, l3) else {
        return Standing::Invalid;
    };
    if !counts::<N>(&facts, packet, l3, counters) {
        // The endpoint will refuse it too; that is its business, and the state stays.
        return Standing::Passes;
    }
    let Some(partner) = table.partner(flow) else {
        return Standing::Part;
    };
    let next = conn::next(own, Dir::from_bits(table.dir(partner)), is_reply, &facts);
    match next.judgement {
        Judgement::Pass => {
            table.set_dir(flow, next.dir.to_bits());
            if next.refreshes {
                Standing::Part
            } else {
                Standing::Passes
            }
        }
        Judgement::Reopen => Standing::Reopens,
        Judgement::Invalid(_) => Standing::Invalid,
    }
}

/// The word of a connection's first direction, when this packet may begin one.
pub(super) fn first<N: Net>(
    packet: &mut Packet,
    l3: &mut [u8],
    pick_up: bool,
    counters: &Counters,
) -> Result<Dir, DropReason> {
    let facts = facts::<N>(packet, l3).ok_or(DropReason::CtInvalid)?;
    if !counts::<N>(&facts, packet, l3, counters) {
        return Err(DropReason::CtInvalid);
    }
    conn::first(&facts, pick_up).map_err(|_| DropReason::CtInvalid)
}

/// What the tracker is told of a packet; `None` for one that is broken.
fn facts<N: Net>(packet: &Packet, l3: &[u8]) -> Option<Facts> {
    let l4 = N::l4_of(packet, l3);
    Some(match N::protocol(packet) {
        l4::TCP => Facts::Tcp(N::segment(packet, l3)?),
        l4::SCTP => Facts::Sctp(sctp::Packet::read(l4, l4.len())?),
        protocol if protocol == N::ICMP => {
            let kind = *l4.first()?;
            let icmp = if protocol == l4::ICMP {
                Icmp::of_type(kind)
            } else {
                Icmp::of_type_v6(kind)
            };
            // Types that nobody knows pass by their addresses.
            icmp.map_or(Facts::Datagram, Facts::Icmp)
        }
        _ => Facts::Datagram,
    })
}

/// Whether the packet's endpoint would take it: a TCP segment's checksum must be right before it changes anything.
fn counts<N: Net>(facts: &Facts, packet: &mut Packet, l3: &mut [u8], counters: &Counters) -> bool {
    let Facts::Tcp(_) = facts else { return true };
    if packet.has(flag::MAYBE_PARTIAL) {
        crate::stage::apply::complete(packet, l3, counters);
        packet.flags &= !flag::MAYBE_PARTIAL;
    }
    // The rest of a fragmented segment is not here to be summed.
    N::is_fragment(packet) || N::verify(packet, l3)
}

/// A segment with SYN, FIN or RST whose checksum is right, after [`note`].
#[cold]
#[inline(never)]
pub(super) fn ending<N: Net>(packet: &Packet, l3: &[u8]) -> Option<conn::Segment> {
    // The checksum of one in fragments is not known here. The kernel has none of those.
    if N::protocol(packet) != l4::TCP || N::is_fragment(packet) {
        return None;
    }
    let segment = N::segment(packet, l3)?;
    let may_end = [Flags::SYN, Flags::FIN, Flags::RST];
    let may_end = may_end.into_iter().any(|flag| segment.flags.has(flag));
    (may_end && N::verify(packet, l3)).then_some(segment)
}

#[cfg(test)]
mod tests {
    use encap::{ipv4, ipv6};

    use super::super::net::{V4, V6};
    use super::*;
    use crate::batch::{Batch, Family};
    use crate::frame::Frame;
    use crate::port::PortId;

    #[test]
    fn the_plain_segment_of_an_ordinary_packet_is_that_of_any() {
        for flags in 0..=u8::MAX {
            let segment = |it| match it {
                12 => 0x80,
                13 => flags,
                it => it,
            };
            assert_plain(Flags(flags), &(0..32).map(segment).collect::<Vec<_>>());
        }
    }

    fn assert_plain(flags: Flags, tcp: &[u8]) {
        let v4 = [
            &[0x45, 0, 0, 52, 0, 0, 0, 0, 64, l4::TCP, 0, 0][..],
            &[10; 8],
        ]
        .concat();
        let v6 = [&[0x60, 0, 0, 0, 0, 32, l4::TCP, 64][..], &[0x10; 32]].concat();
        for (family, header) in [(Family::V4, v4), (Family::V6, v6)] {
            let l3 = [&header, tcp].concat();
            // In front of it a link header, behind it padding.
            let chunk = [vec![0xee; 20], l3.clone(), vec![0xee; 9]].concat();
            let mut batch = Batch::default();
            let packet = batch.push(Frame::NONE, PortId(1)).expect("it is empty");
            (packet.frame.start, packet.l3, packet.family) = (6, 14, family);
            packet.flags = flag::ORDINARY;
            let (plain, any) = if family == Family::V4 {
                let mut sealed = l3.clone();
                let sum = encap::checksum::of(&sealed[..20]).to_be_bytes();
                sealed[10..12].copy_from_slice(&sum);
                packet.ip4 = ipv4::parse(&sealed).expect("it is right");
                (
                    plain_segment::<V4>(packet, &chunk),
                    V4::segment(packet, &l3),
                )
            } else {
                packet.ip6 = ipv6::parse(&l3).expect("it is right");
                (
                    plain_segment::<V6>(packet, &chunk),
                    V6::segment(packet, &l3),
                )
            };
            assert!(any.is_some());
            assert_eq!(plain, any.filter(|_| flags.is_plain_ack()));
            packet.flags = 0;
            assert_eq!(plain_segment::<V6>(packet, &chunk), None);
        }
    }
}
