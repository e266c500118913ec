//! ICMP errors about packets of connections (RFC 5508 section 4): translated as the connection is, inside and outside,
//! and changing nothing about it.

use encap::nat::Tuple;
use flowtable::conn::{self, Dir};
use flowtable::flow::{Action, FlowKey, FlowRef, FlowTable, flag as action};

use super::net::Net;
use super::sweep::is_over;
use super::{Found, origin_of, policy};
use crate::batch::{Packet, flag};
use crate::port::{Port, PortKind};
use crate::reason::DropReason;
use crate::tables::Tables;

/// Finds the connection that an ICMP error is about. The packet's destination, as known, becomes what it is to be
/// translated to; a malformed error is dropped.
#[cold]
pub(super) fn find<N: Net>(
    table: &FlowTable<N::Key>,
    packet: &mut Packet,
    l3: &[u8],
    tables: &Tables,
) -> Found {
    let Ok(quote) = N::quote(packet, l3) else {
        packet.drop(DropReason::IcmpMalformed);
        return Found::Done;
    };
    let known = table.lookup(&quote.key);
    let Some((flow, action)) = known.filter(|(_, action)| !policy::is_denial(action)) else {
        return Found::Unrelated;
    };
    // A pod sees packets of no connections but those that come in by its own port: about others it has guessed, past policy.
    let is_pod = |port: &Port| matches!(port.kind, PortKind::Pod(_));
    if action.origin != origin_of(packet) && tables.port(packet.in_port).is_some_and(is_pod) {
        return Found::Unrelated;
    }
    let mut tuple = N::tuple(packet);
    // An error goes to whoever sent what it quotes.
    if N::destination_of(&quote.key) != tuple.dst {
        return Found::Unrelated;
    }
    let is_believed = |sequence| {
        let quoted = table.partner(flow);
        quoted.is_some_and(|quoted| is_under_way(table, quoted, flow, sequence))
    };
    if !quote.sequence.is_none_or(is_believed) {
        return Found::Unrelated;
    }
    if action.flags & action::NAT_DST != 0 {
        tuple.dst = action.nat_addr;
        N::set_tuple(packet, tuple);
        packet.flags |= flag::TRANSLATE;
    }
    Found::Related(flow)
}

/// Whether a segment with this sequence number, of the direction `quoted`, to which `back` is the other, may be on its way: who guesses
/// addresses and ports has to guess that, too (RFC 5927 section 4.1).
pub(super) fn is_under_way<K: FlowKey>(
    table: &FlowTable<K>,
    quoted: FlowRef,
    back: FlowRef,
    sequence: u32,
) -> bool {
    let dir = |flow| Dir::from_bits(table.dir(flow));
    conn::is_under_way(dir(quoted), dir(back), sequence)
}

/// Translates an ICMP error that is to be sent, and what it quotes, as the connection's packets are.
#[cold]
pub(super) fn translate<N: Net>(
    table: &FlowTable<N::Key>,
    flow: FlowRef,
    packet: &mut Packet,
    l3: &mut [u8],
    tables: &Tables,
) -> Result<(), DropReason> {
    let view = table.view(flow).ok_or(DropReason::FlowEnded)?;
    let partner = table.partner(flow).and_then(|flow| table.view(flow));
    let partner = partner.filter(|partner| !is_over(&view, partner, tables));
    let partner = partner.ok_or(DropReason::FlowEnded)?;
    let Action {
        flags,
        nat_addr,
        nat_port,
        ..
    } = view.action;
    if flags & (action::NAT_SRC | action::NAT_DST) == 0 {
        return Ok(());
    }
    let to = N::tuple(packet);
    // As it came: what is quoted has to be found where it was.
    N::restore(packet, l3);
    let quote = N::quote(packet, l3).map_err(|_| DropReason::IcmpMalformed)?;
    let Tuple {
        mut src,
        mut dst,
        mut ports,
    } = N::tuple_of(&quote.key).reversed();
    let mut ends = (to.src, to.dst);
    let is_icmp = N::protocol_of(&quote.key) == N::ICMP;
    if flags & action::NAT_DST != 0 {
        src = nat_addr;
        ports.0 = nat_port;
        if is_icmp {
            ports.1 = nat_port;
        }
    }
    if flags & action::NAT_SRC != 0 {
        let (addr, port) = if flags & action::NAT_DST == 0 {
            (nat_addr, nat_port)
        } else {
            let answered = N::tuple_of(&partner.key);
            (answered.dst, answered.ports.1)
        };
        ends.0 = addr;
        dst = addr;
        ports.1 = port;
        if is_icmp {
            ports.0 = port;
        }
    }
    if !N::translate_error(packet, l3, &quote, ends, Tuple { src, dst, ports }) {
        return Err(DropReason::IcmpMalformed);
    }
    // Bytes and what is known agree again.
    let tuple = Tuple {
        src: ends.0,
        dst: ends.1,
        ports: to.ports,
    };
    N::set_tuple(packet, tuple);
    Ok(())
}
