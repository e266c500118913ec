//! Where to? The only code that chooses a packet's next hop.

use encap::flow_hash;
use encap::ipv4::Ipv4Info;
use encap::ipv6::Ipv6Info;
use flowtable::lpm::NextHopId;
use flowtable::prefetch;

use crate::batch::{BATCH, Batch, Family, Fate, Packet, PeerId, flag};
use crate::port::{Port, PortKind};
use crate::reason::DropReason;
use crate::stage::decap::came_by_tunnel;
use crate::tables::{Adjacency, NextHop, Tables, Way};

/// Chooses each packet's next hop. Returns whether any packet needs more than being sent: an ICMP error, or waiting
/// for a neighbour.
///
/// `port` is the port that the whole batch came in by; `None` for packets of the dataplane's own, whose sources are not checked,
/// and for those that waited, each of which came in by a port of its own: what waited for the first fragment of its datagram was
/// not checked before, and of what was, the routes may have changed.
pub fn run(batch: &mut Batch, tables: &Tables, port: Option<&Port>) -> bool {
    let packets = batch.packets();
    let mut hops = [NextHopId::NONE; BATCH];
    lookup(packets, tables, |ip4| ip4.dst, |ip6| ip6.dst, &mut hops);
    if !tables.has_near_next_hops() {
        for (&hop, _) in hops.iter().zip(&*packets) {
            prefetch(tables.next_hop(hop));
        }
    }
    if port.is_none_or(|port| !matches!(port.kind, PortKind::Pod(_))) {
        let mut sources = [NextHopId::NONE; BATCH];
        lookup(packets, tables, |ip4| ip4.src, |ip6| ip6.src, &mut sources);
        for ((packet, &hop), source) in packets.iter_mut().zip(&hops).zip(sources) {
            if !packet.is_undecided() || packet.has(flag::ORIGINATED) {
                continue;
            }
            packet.next_hop = hop;
            let own = port.or_else(|| tables.port(packet.in_port));
            let checked = own.ok_or(DropReason::FlowEnded);
            let source = tables.next_hop(source);
            if let Err(reason) = checked.and_then(|port| check_source(packet, source, tables, port))
            {
                packet.drop(reason);
            }
        }
    }
    let mut exceptional = false;
    for (packet, &hop) in packets.iter_mut().zip(&hops) {
        if !packet.is_undecided() {
            continue;
        }
        packet.next_hop = hop;
        let hop = tables.next_hop(hop);
        let is_sent = match packet.family {
            Family::V6 => settle(packet, Family::V6, hop, tables),
            Family::V4 | Family::Unknown => settle(packet, Family::V4, hop, tables),
        };
        exceptional |= !is_sent;
    }
    exceptional
}

/// Decides the fate of a packet of a `family` by a next hop that is known already. Returns whether it is to be sent.
#[inline(always)]
pub(super) fn settle(packet: &mut Packet, family: Family, hop: &NextHop, tables: &Tables) -> bool {
    match hop {
        NextHop::Send(adjacency) if is_ordinary(packet, family, adjacency, tables) => {
            packet.fate = Fate::Transmit(adjacency.port);
            true
        }
        _ => {
            packet.fate = decide(packet, hop, tables);
            matches!(packet.fate, Fate::Transmit(_))
        }
    }
}

/// Whether a packet simply goes this way: [`decide`] would say so, and change nothing.
#[inline(always)]
#[expect(
    clippy::needless_bitwise_bool,
    reason = "all lazy, it becomes a jump by a table, which is slow"
)]
fn is_ordinary(packet: &Packet, family: Family, adjacency: &Adjacency, tables: &Tables) -> bool {
    let may_go = (adjacency.way == Way::Uplink)
        | ((adjacency.way == Way::Pod) & (adjacency.port != packet.in_port))
        || (adjacency.way == Way::Tunnel && may_enter_tunnel(packet, tables).is_ok());
    let (ttl, len) = match family {
        Family::V6 => (packet.ip6.hop_limit, packet.ip6.total_len()),
        Family::V4 | Family::Unknown => (packet.ip4.ttl, packet.ip4.total_len.into()),
    };
    may_go
        && packet.flags & (flag::KEEP_TTL | flag::ORIGINATED) == 0
        && ttl > 1
        && len <= usize::from(adjacency.mtu)
}

/// Looks up an address of each packet.
#[inline(always)]
fn lookup(
    packets: &[Packet],
    tables: &Tables,
    of_ip4: impl Fn(&Ipv4Info) -> u32,
    of_ip6: impl Fn(&Ipv6Info) -> u128,
    hops: &mut [NextHopId; BATCH],
) {
    let (mut addrs, mut families) = ([0; BATCH], 0);
    for (slot, packet) in addrs.iter_mut().zip(packets) {
        // Some old address, if this is not IPv4; what is found for it is not used.
        *slot = of_ip4(&packet.ip4);
        families |= packet.family as u8;
    }
    let len = packets.len().min(BATCH);
    if Family::V4.is_in(families)
        && let (Some(addrs), Some(hops)) = (addrs.get(..len), hops.get_mut(..len))
    {
        tables.fib4.lookup_batch(addrs, hops);
    }
    if Family::V6.is_in(families) {
        lookup6(packets, tables, of_ip6, hops, families);
    }
}

/// The same for the IPv6 packets among them.
#[inline(never)]
fn lookup6(
    packets: &[Packet],
    tables: &Tables,
    of_ip6: impl Fn(&Ipv6Info) -> u128,
    hops: &mut [NextHopId; BATCH],
    families: u8,
) {
    let mut addrs = [0; BATCH];
    for (slot, packet) in addrs.iter_mut().zip(packets) {
        *slot = of_ip6(&packet.ip6);
    }
    let len = packets.len().min(BATCH);
    let Some(addrs) = addrs.get(..len) else {
        return;
    };
    if !Family::V4.is_in(families) {
        if let Some(hops) = hops.get_mut(..len) {
            tables.fib6.lookup_batch(addrs, hops);
        }
        return;
    }
    let mut found = [NextHopId::NONE; BATCH];
    if let Some(found) = found.get_mut(..len) {
        tables.fib6.lookup_batch(addrs, found);
    }
    for ((packet, found), hop) in packets.iter().zip(found).zip(hops) {
        if packet.family == Family::V6 {
            *hop = found;
        }
    }
}

/// A source must lie behind the port, or the node, that the packet came from.
#[inline]
fn check_source(
    packet: &Packet,
    back: &NextHop,
    tables: &Tables,
    port: &Port,
) -> Result<(), DropReason> {
    let origin = back.origin();
    if came_by_tunnel(packet) {
        return match origin {
            Some((Way::Tunnel | Way::Uplink, peer, _)) if peer == packet.peer => Ok(()),
            // From outside the cluster: anything that is not a node's, a pod's or ours.
            Some((Way::Uplink, PeerId::NONE, _)) if packet.peer == PeerId::EXTERNAL => Ok(()),
            // A node's own stack, as when it answers a pod that spoke to the node's address.
            _ if node_of(packet, tables) == Some(packet.peer) => Ok(()),
            _ => Err(DropReason::TunnelSource),
        };
    }
    match (&port.kind, origin) {
        // On the underlay: what is routed there without encapsulation.
        (PortKind::Uplink, Some((Way::Uplink, ..))) => Ok(()),
        // A pod of another node that speaks to this node itself does so without encapsulation.
        (PortKind::Uplink, Some((Way::Tunnel, ..)))
            if matches!(
                tables.next_hop(packet.next_hop).origin(),
                Some((Way::Host, ..))
            ) =>
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

/// The other node whose own address on the underlay is the packet's source.
fn node_of(packet: &Packet, tables: &Tables) -> Option<PeerId> {
    let tunnels = &tables.tunnels;
    match packet.family {
        Family::V4 => tunnels.peers4.get(&packet.ip4.src).copied(),
        Family::V6 => tunnels.peers6.get(&packet.ip6.src).copied(),
        Family::Unknown => None,
    }
}

/// What becomes of a packet with this next hop. Of several the packet takes its flow's.
#[cold]
fn decide(packet: &mut Packet, hop: &NextHop, tables: &Tables) -> Fate {
    let hop = match hop {
        NextHop::Group(group) => {
            packet.next_hop = group.pick(tables, leg_hash(packet, tables));
            tables.next_hop(packet.next_hop)
        }
        hop => hop,
    };
    let (way, port) = match hop {
        NextHop::Send(adjacency) => (adjacency.way, adjacency.port),
        NextHop::Resolve(waiting) => (waiting.way, waiting.port),
        NextHop::Drop(reason) => return Fate::Drop(*reason),
        // No group has another in it.
        NextHop::Group(_) => return Fate::Drop(DropReason::NoRoute),
    };
    if way == Way::Tunnel
        && let Err(reason) = may_enter_tunnel(packet, tables)
    {
        return Fate::Drop(reason);
    }
    // A pod that speaks to itself by a service is the exception, and translated.
    let may_return = packet.flags & (flag::ORIGINATED | flag::TRANSLATE) != 0;
    if way == Way::Pod && port == packet.in_port && !may_return {
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
        NextHop::Resolve(_) | NextHop::Drop(_) | NextHop::Group(_) => Fate::Held,
    }
}

/// The hash by which a packet's flow takes one of several legs. Fragments have ports only when they are known to be their
/// datagram's; those whose first was not seen go by addresses, all of a datagram alike.
pub(super) fn leg_hash(packet: &Packet, tables: &Tables) -> u32 {
    let (is_fragment, protocol) = match packet.family {
        Family::V6 => (packet.ip6.is_fragment(), packet.ip6.upper.protocol),
        Family::V4 | Family::Unknown => (packet.ip4.is_fragment(), packet.ip4.protocol),
    };
    let (protocol, ports) = if is_fragment && !packet.has(flag::PIECED) {
        // Of IPv6, later fragments need not name the protocol that the first has.
        (0, (0, 0))
    } else {
        (protocol, packet.ports)
    };
    let key = &tables.hash_key;
    match packet.family {
        Family::V6 => flow_hash::v6(key, packet.ip6.src, packet.ip6.dst, protocol, ports),
        Family::V4 | Family::Unknown => {
            flow_hash::v4(key, packet.ip4.src, packet.ip4.dst, protocol, ports)
        }
    }
}

#[inline]
const fn ttl(packet: &Packet) -> u8 {
    match packet.family {
        Family::V6 => packet.ip6.hop_limit,
        Family::V4 | Family::Unknown => packet.ip4.ttl,
    }
}

/// No packet goes out of one tunnel into another, and nobody but this node speaks as its end (RFC 2003 section 3.2).
///
/// That section forbids it to the node too, against loops of routes, which there are none of here: outer packets are not
/// routed again. Its answers to pods of other nodes have no other way, and the kernel's tunnels send them so.
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
    let by_this_node = packet.flags & (flag::KEEP_TTL | flag::ORIGINATED) != 0;
    if from_our_end && !by_this_node {
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
