//! Where to? The only code that reads routes.

use flowtable::lpm::NextHopId;

use crate::batch::{BATCH, Batch, Family, Fate, Packet, PeerId, flag};
use crate::port::{Port, PortKind};
use crate::reason::DropReason;
use crate::stage::decap::came_by_tunnel;
use crate::tables::{Adjacency, NextHop, Tables, Way};

/// Chooses each packet's next hop. Returns whether any packet needs more than being sent: an ICMP error, or waiting
/// for a neighbour.
///
/// `port` is the port that the whole batch came in by; `None` for packets of the dataplane's own and for those that
/// waited, whose sources were checked before.
pub fn run(batch: &mut Batch, tables: &Tables, port: Option<&Port>) -> bool {
    let mut exceptional = false;
    let checks_sources = port.is_some_and(|port| !matches!(port.kind, PortKind::Pod(_)));
    let (hops, sources) = lookup(batch, tables, checks_sources);
    for ((packet, hop), source) in batch.packets().iter_mut().zip(hops).zip(sources) {
        if !packet.is_undecided() {
            continue;
        }
        if checks_sources
            && let Some(port) = port
            && let Err(reason) =
                check_source(packet, tables.next_hop(source), tables.next_hop(hop), port)
        {
            packet.drop(reason);
            continue;
        }
        packet.next_hop = hop;
        packet.fate = decide(packet, tables.next_hop(hop), tables);
        exceptional |= !matches!(packet.fate, Fate::Transmit(_));
    }
    exceptional
}

/// Looks up the batch's destinations and, where asked, its sources.
#[inline]
fn lookup(
    batch: &mut Batch,
    tables: &Tables,
    sources_too: bool,
) -> ([NextHopId; BATCH], [NextHopId; BATCH]) {
    let (mut hops, mut sources) = ([NextHopId::NONE; BATCH], [NextHopId::NONE; BATCH]);
    let packets = batch.packets();
    let len = packets.len();
    let (mut addrs, mut has_v6) = ([0_u32; BATCH], false);
    for (slot, packet) in addrs.iter_mut().zip(packets.iter()) {
        *slot = packet.ip4.dst;
        has_v6 |= packet.family == Family::V6;
    }
    if let (Some(addrs), Some(out)) = (addrs.get(..len), hops.get_mut(..len)) {
        tables.fib4.lookup_batch(addrs, out);
    }
    if sources_too {
        for (slot, packet) in addrs.iter_mut().zip(packets.iter()) {
            *slot = packet.ip4.src;
        }
        if let (Some(addrs), Some(out)) = (addrs.get(..len), sources.get_mut(..len)) {
            tables.fib4.lookup_batch(addrs, out);
        }
    }
    if has_v6 {
        lookup6(packets, tables, sources_too, &mut hops, &mut sources);
    }
    (hops, sources)
}

/// The same for the IPv6 packets of a batch.
fn lookup6(
    packets: &[Packet],
    tables: &Tables,
    sources_too: bool,
    hops: &mut [NextHopId; BATCH],
    sources: &mut [NextHopId; BATCH],
) {
    let mut addrs = [0_u128; BATCH];
    let mut found = [NextHopId::NONE; BATCH];
    let mut wanted: [(bool, &mut [NextHopId; BATCH]); 2] = [(false, hops), (true, sources)];
    for (is_source, out) in wanted.iter_mut().take(1 + usize::from(sources_too)) {
        for (slot, packet) in addrs.iter_mut().zip(packets) {
            *slot = if *is_source {
                packet.ip6.src
            } else {
                packet.ip6.dst
            };
        }
        let len = packets.len().min(BATCH);
        if let (Some(addrs), Some(found)) = (addrs.get(..len), found.get_mut(..len)) {
            tables.fib6.lookup_batch(addrs, found);
        }
        for ((packet, found), out) in packets.iter().zip(found).zip(out.iter_mut()) {
            if packet.family == Family::V6 {
                *out = found;
            }
        }
    }
}

/// A source must lie behind the port, or the node, that the packet came from.
#[inline]
fn check_source(
    packet: &Packet,
    back: &NextHop,
    to: &NextHop,
    port: &Port,
) -> Result<(), DropReason> {
    let origin = back.origin();
    if came_by_tunnel(packet) {
        return match origin {
            Some((Way::Tunnel | Way::Uplink, peer, _)) if peer == packet.peer => Ok(()),
            // From outside the cluster: anything that is not a node's, a pod's or ours.
            Some((Way::Uplink, PeerId::NONE, _)) if packet.peer == PeerId::EXTERNAL => Ok(()),
            _ => Err(DropReason::TunnelSource),
        };
    }
    match (&port.kind, origin) {
        // On the underlay: what is routed there without encapsulation.
        (PortKind::Uplink, Some((Way::Uplink, ..))) => Ok(()),
        // A pod of another node that speaks to this node itself does so without encapsulation.
        (PortKind::Uplink, Some((Way::Tunnel, ..)))
            if matches!(to.origin(), Some((Way::Host, ..))) =>
        {
            Ok(())
        }
        // From the host: anything but what lives in pods or behind tunnels.
        (PortKind::Host, Some((Way::Host | Way::Uplink, ..)) | None) | (PortKind::Pod(_), _) => {
            Ok(())
        }
        (PortKind::Uplink | PortKind::Host, _) => Err(DropReason::SourceMisplaced),
    }
}

/// What becomes of a packet with this next hop.
#[inline]
fn decide(packet: &mut Packet, hop: &NextHop, tables: &Tables) -> Fate {
    let (way, port) = match hop {
        NextHop::Send(adjacency) => (adjacency.way, adjacency.port),
        NextHop::Resolve(waiting) => (waiting.way, waiting.port),
        NextHop::Drop(reason) => return Fate::Drop(*reason),
    };
    if way == Way::Tunnel
        && let Err(reason) = may_enter_tunnel(packet, tables)
    {
        return Fate::Drop(reason);
    }
    if way == Way::Pod && port == packet.in_port && !packet.has(flag::ORIGINATED) {
        return Fate::Drop(DropReason::SameInterface);
    }
    let keeps_ttl = way == Way::Host || packet.flags & (flag::KEEP_TTL | flag::ORIGINATED) != 0;
    // A TTL of zero is for nobody but the host itself (RFC 1122 section 3.2.1.7, RFC 2003 section 3.1).
    let least = match way {
        Way::Host => 0,
        Way::Uplink | Way::Pod | Way::Tunnel => 2 - u8::from(keeps_ttl),
    };
    if ttl(packet) < least {
        return Fate::Drop(DropReason::TtlExpired);
    }
    if keeps_ttl {
        packet.flags |= flag::KEEP_TTL;
    }
    match hop {
        NextHop::Send(adjacency) => fit(packet, adjacency),
        NextHop::Resolve(_) | NextHop::Drop(_) => Fate::Held,
    }
}

#[inline]
const fn ttl(packet: &Packet) -> u8 {
    match packet.family {
        Family::V6 => packet.ip6.hop_limit,
        Family::V4 | Family::Unknown => packet.ip4.ttl,
    }
}

/// RFC 2003 section 3.2, and no packet goes out of one tunnel into another.
#[inline]
fn may_enter_tunnel(packet: &Packet, tables: &Tables) -> Result<(), DropReason> {
    if came_by_tunnel(packet) {
        return Err(DropReason::TunnelLoop);
    }
    let tunnels = &tables.tunnels;
    let from_our_end = match packet.family {
        Family::V6 => tunnels.local6.map(u128::from) == Some(packet.ip6.src),
        Family::V4 | Family::Unknown => tunnels.local4.map(u32::from) == Some(packet.ip4.src),
    };
    if from_our_end {
        Err(DropReason::SourceIsTunnel)
    } else {
        Ok(())
    }
}

/// Sends what fits, lets be fragmented what may be, drops the rest.
#[inline]
fn fit(packet: &mut Packet, adjacency: &Adjacency) -> Fate {
    if packet.ip_len() > usize::from(adjacency.mtu) {
        if packet.family == Family::V6 || packet.ip4.dont_fragment() {
            return Fate::Drop(DropReason::MtuExceeded);
        }
        packet.flags |= flag::FRAGMENT;
    }
    Fate::Transmit(adjacency.port)
}
