//! Connections that the kernel repeats: what is done with their packets, and what it counted of them. For one thread of control; pollers go
//! on meanwhile.
//!
//! What is said of an entry is what `lookup` would do with an ordinary packet of it, and `resolve` and `connect` have to agree: they are asked
//! about a packet without a frame.

use std::net::{IpAddr, Ipv4Addr};

use encap::l4;
use encap::outer::Kind;
use flowtable::Tick;
use flowtable::conn::{self, Dir, Flags, catch_up};
use flowtable::flow::{Action, FlowRef, FlowTable, View, flag as action};

use super::connect::{Onward, endpoint_is_newer, is_unanswered, keep_to_leg};
use super::evict::state_of;
use super::inspect::Origin;
use super::lookup::{source_of, translate_destination};
use super::net::{Net, V4, V6};
use super::sweep::is_gone;
use super::{plan, policy, service, short};
use crate::batch::{Batch, Family, Fate, PeerId};
use crate::connections::{Connections, Side};
use crate::frame::Frame;
use crate::offload::{Carried, Established, NotOffered, Rechecked};
use crate::policy::HostEndpoints;
use crate::port::{PortId, PortKind};
use crate::stage::{parse, resolve};
use crate::tables::{Adjacency, NextHop, Tables, Way};

/// An Ethernet header.
const ETHERNET: usize = encap::eth::HEADER_LEN;

impl Connections {
    /// What is done with the packets of an entry that is under way, by `tables`, which must have decided it. `scratch` is an empty batch.
    ///
    /// # Errors
    /// Why that is nothing for the kernel, at present or at all.
    pub fn offer(
        &self,
        (family, flow): (Family, FlowRef),
        tables: &Tables,
        scratch: &mut Batch,
    ) -> Result<Established, NotOffered> {
        match family {
            Family::V4 => offer::<V4>(&self.v4, flow, tables, scratch),
            Family::V6 => offer::<V6>(&self.v6, flow, tables, scratch),
            Family::Unknown => Err(NotOffered::Gone),
        }
    }

    /// Whether what was said of an entry holds still, by `tables`, which may be newer than those that decided it. `scratch` is an empty
    /// batch.
    pub fn recheck(&self, was: &Established, tables: &Tables, scratch: &mut Batch) -> Rechecked {
        match was.family {
            Family::V4 => recheck::<V4>(&self.v4, was, tables, scratch),
            Family::V6 => recheck::<V6>(&self.v6, was, tables, scratch),
            Family::Unknown => Rechecked::Gone,
        }
    }

    /// Whether a connection is still there, by either direction's entry.
    pub fn has(&self, (family, flow): (Family, FlowRef)) -> bool {
        match family {
            Family::V4 => self.v4.table.contains(flow),
            Family::V6 => self.v6.table.contains(flow),
            Family::Unknown => false,
        }
    }

    /// Counts what the kernel passed of a connection: of the direction `flow`, and of the other one if the kernel has it too. Both
    /// tracker's words are brought up to what it showed. `is_last` says that its packets come to pollers from now on. `now` is by
    /// the pollers' clock. Returns whether the connection is still there.
    ///
    /// For one thread. A packet that a poller counts at the same moment, or what it notes of it, may be lost, or this.
    pub fn credit(
        &self,
        (family, flow): (Family, FlowRef),
        carried: &Carried,
        other: Option<&Carried>,
        is_last: bool,
        now: Tick,
    ) -> bool {
        match family {
            Family::V4 => credit::<V4>(&self.v4, flow, carried, other, is_last, now),
            Family::V6 => credit::<V6>(&self.v6, flow, carried, other, is_last, now),
            Family::Unknown => false,
        }
    }
}

fn offer<N: Net>(
    side: &Side<N::Key>,
    flow: FlowRef,
    tables: &Tables,
    scratch: &mut Batch,
) -> Result<Established, NotOffered> {
    let table = &side.table;
    let view = table.view(flow).ok_or(NotOffered::Gone)?;
    let action = view.action;
    let protocol = N::protocol_of(&view.key);
    if policy::is_denial(&action) {
        return Err(NotOffered::Denied);
    }
    if !matches!(protocol, l4::TCP | l4::UDP) {
        return Err(NotOffered::Protocol);
    }
    if have_untracked(tables) {
        return Err(NotOffered::Untracked);
    }
    if action.generation != short(tables.generation) {
        return Err(NotOffered::Stale);
    }
    let own = Dir::from_bits(view.dir);
    if own.is_empty() || protocol == l4::TCP && !conn::is_quick(own, Flags::ACK) {
        return Err(NotOffered::State);
    }
    let partner = table.partner(flow).ok_or(NotOffered::Gone)?;
    let back = table.view(partner).ok_or(NotOffered::Gone)?;
    let (forward, reply) = if view.is_reply() {
        (&back, &view)
    } else {
        (&view, &back)
    };
    if protocol == l4::TCP && !state_of::<N>(forward, reply).1.is_assured() {
        return Err(NotOffered::State);
    }
    let adjacency = way_of(tables, &action).ok_or(NotOffered::Way)?;
    match (adjacency.rewrite.kind(), N::FAMILY) {
        (Kind::Ethernet | Kind::Vxlan4, _) | (Kind::Ipip, Family::V4) => {}
        _ => return Err(NotOffered::Rewrite),
    }
    let origin = Origin::of(action.origin);
    let (mut in_port, mut front) = (None, ETHERNET);
    let (mut from_mac, mut peer) = (None, None);
    match origin {
        Origin::Port(id) => {
            in_port = Some(id);
            match tables.port(id).map(|port| &port.kind) {
                Some(PortKind::Pod(pod)) => {
                    from_mac = Some(pod.mac.ok_or(NotOffered::Sender)?);
                }
                Some(PortKind::Uplink) => {}
                Some(PortKind::Host) | None => return Err(NotOffered::Origin),
            }
        }
        Origin::Node(node) => {
            peer = Some(outer_source::<N>(tables, node).ok_or(NotOffered::Peer)?);
            if let Some(back) = way_of(tables, &back.action).filter(|it| it.way == Way::Tunnel) {
                (in_port, front) = (Some(back.port), back.rewrite.len());
            }
        }
        Origin::Unknown => return Err(NotOffered::Origin),
    }
    let to_ip = |(addr, port)| (N::ip(addr), port);
    let source = if action.flags & action::NAT_SRC == 0 {
        None
    } else {
        let source = source_of::<N>(table, &action, flow);
        Some(to_ip(source.ok_or(NotOffered::Gone)?))
    };
    let destination = (action.flags & action::NAT_DST != 0)
        .then(|| to_ip(plan::destination_of::<N>(&view.key, &action)));
    let tuple = N::tuple_of(&view.key);
    let flow_hash = table.flow_hash(&view.key);
    let established = Established {
        family: N::FAMILY,
        flow,
        partner,
        protocol,
        src: (N::ip(tuple.src), tuple.ports.0),
        dst: (N::ip(tuple.dst), tuple.ports.1),
        origin,
        in_port,
        front,
        from_mac,
        peer,
        adjacency,
        flow_hash,
        source,
        destination,
    };
    // What is known of an entry of another hash than 0 does not depend on the tables.
    let holds = flow_hash != 0 && is_decided_so::<N>(side, &view, &established, tables, scratch);
    // Still the same entry: else the partner was another one's.
    if holds && table.contains(flow) {
        Ok(established)
    } else {
        Err(NotOffered::Stale)
    }
}

fn recheck<N: Net>(
    side: &Side<N::Key>,
    was: &Established,
    tables: &Tables,
    scratch: &mut Batch,
) -> Rechecked {
    let table = &side.table;
    if !table.contains(was.flow) {
        return Rechecked::Gone;
    }
    let Some(view) = table.view(was.flow) else {
        // A poller is at work on it.
        return Rechecked::Changed;
    };
    if policy::is_denial(&view.action) {
        return Rechecked::Gone;
    }
    let entry = view.action.generation;
    let to = was.adjacency.port;
    if is_gone(tables, (view.action.origin, entry))
        || endpoint_is_newer(tables, to, entry)
        || tables.port(to).is_none()
    {
        return Rechecked::Gone;
    }
    let is_of_these = entry == short(tables.generation);
    let is_judged_again =
        || !is_of_these && (tables.policies.reevaluate || is_unanswered::<N>(table, &view));
    let is_same = Origin::of(view.action.origin) == was.origin
        && !have_untracked(tables)
        && !is_judged_again()
        && (!is_of_these || way_of(tables, &view.action) == Some(was.adjacency))
        && sender_of(tables, was) == Some((was.from_mac, was.peer))
        && is_decided_so::<N>(side, &view, was, tables, scratch);
    if is_same {
        Rechecked::Same
    } else {
        Rechecked::Changed
    }
}

/// Whether a packet of this entry, had it been decided by other tables, would be sent as was established: the checks of `parse`, `resolve`
/// and `connect`.
fn is_decided_so<N: Net>(
    side: &Side<N::Key>,
    view: &View<N::Key>,
    was: &Established,
    tables: &Tables,
    scratch: &mut Batch,
) -> bool {
    scratch.clear();
    let decided = decide::<N>(side, view, was, tables, scratch);
    scratch.clear();
    decided == Some(was.adjacency)
}

fn decide<N: Net>(
    side: &Side<N::Key>,
    view: &View<N::Key>,
    was: &Established,
    tables: &Tables,
    scratch: &mut Batch,
) -> Option<Adjacency> {
    let peer = match was.origin {
        Origin::Port(_) => PeerId::NONE,
        Origin::Node(peer) => peer,
        Origin::Unknown => return None,
    };
    let in_port = was.in_port.or_else(|| uplink(tables))?;
    let port = tables.port(in_port)?;
    let packet = scratch.push(Frame::NONE, in_port).ok()?;
    packet.peer = peer;
    let (bytes, len) = example(was)?;
    parse::lone(packet, bytes.get(..len)?, port, &tables.tunnels).ok()?;
    packet.flow_hash = was.flow_hash;
    translate_destination::<N>(packet, &view.action);
    resolve::run(scratch, tables, Some(port));
    let [packet] = scratch.packets() else {
        return None;
    };
    let hop = tables.next_hop(packet.next_hop);
    if !matches!(packet.fate, Fate::Transmit(_))
        || service::begins_anew::<N>(tables, &side.table, view, packet)
    {
        return None;
    }
    let mut onward = Onward::by(hop)?;
    if let Some((source, _)) = was.source.filter(|_| !view.is_reply()) {
        let source = N::addr(source)?;
        let by_uplink = onward.way == Way::Uplink;
        tables.nat.mapping_of(was.protocol, N::ICMP)?;
        if !plan::may_have_source::<N>(tables, &view.key, source, by_uplink) {
            return None;
        }
        keep_to_leg::<N>(tables, &mut onward, packet, source).ok()?;
    }
    match (tables.next_hop(packet.next_hop), packet.fate) {
        (NextHop::Send(adjacency), Fate::Transmit(_)) => Some(*adjacency),
        _ => None,
    }
}

/// What an entry's action leads to, if that is for the kernel.
fn way_of<A>(tables: &Tables, action: &Action<A>) -> Option<Adjacency> {
    match tables.next_hop(action.next_hop) {
        NextHop::Send(adjacency) if adjacency.way != Way::Host => Some(*adjacency),
        _ => None,
    }
}

fn have_untracked(tables: &Tables) -> bool {
    let hosts = tables.policies.hosts.as_deref();
    hosts.is_some_and(HostEndpoints::have_untracked)
}

/// What packets must come from: the pod's MAC address, or the node's outer one. `None` if that is not known any more.
fn sender_of(
    tables: &Tables,
    was: &Established,
) -> Option<(Option<encap::eth::MacAddr>, Option<Ipv4Addr>)> {
    match was.origin {
        Origin::Port(id) => match &tables.port(id)?.kind {
            PortKind::Pod(pod) => Some((Some(pod.mac?), None)),
            PortKind::Uplink => Some((None, None)),
            PortKind::Host => None,
        },
        Origin::Node(node) => {
            let source = match was.family {
                Family::V4 => outer_source::<V4>(tables, node),
                _ => outer_source::<V6>(tables, node),
            };
            Some((None, Some(source?)))
        }
        Origin::Unknown => None,
    }
}

/// The one outer source that packets of a family out of a node's tunnel come with, if it is of IPv4.
fn outer_source<N: Net>(tables: &Tables, node: PeerId) -> Option<Ipv4Addr> {
    let tunnels = &tables.tunnels;
    let mut all = tunnels.peers4.iter().filter(|(_, peer)| **peer == node);
    let (&source, _) = all.next()?;
    let may_be_6 = N::FAMILY == Family::V6
        && tunnels.vxlan6.is_some()
        && tunnels.peers6.values().any(|peer| *peer == node);
    (all.next().is_none() && !may_be_6).then(|| Ipv4Addr::from_bits(source))
}

/// An uplink: which, does not matter to what comes out of a tunnel.
fn uplink(tables: &Tables) -> Option<PortId> {
    let mut all = tables.ports.iter();
    let at = all.position(|port| {
        port.as_ref()
            .is_some_and(|it| matches!(it.kind, PortKind::Uplink))
    })?;
    Some(PortId(at as u16))
}

/// An ordinary packet of a direction: its bytes, and how many there are.
fn example(was: &Established) -> Option<([u8; 60], usize)> {
    const TTL: u8 = 64;
    let l4_len: u8 = if was.protocol == l4::TCP { 20 } else { 8 };
    let mut bytes = [0; 60];
    let (header, at) = match (was.src.0, was.dst.0) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut header = [0; 40];
            let ip = header.get_mut(..20)?;
            let fields = [0x45, 0, 0, 20 + l4_len, 0, 1, 0x40, 0, TTL, was.protocol];
            ip.get_mut(..10)?.copy_from_slice(&fields);
            ip.get_mut(12..16)?.copy_from_slice(&src.octets());
            ip.get_mut(16..)?.copy_from_slice(&dst.octets());
            let checksum = encap::checksum::of(ip).to_be_bytes();
            ip.get_mut(10..12)?.copy_from_slice(&checksum);
            (header, 20)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut header = [0; 40];
            header
                .get_mut(..8)?
                .copy_from_slice(&[0x60, 0, 0, 0, 0, l4_len, was.protocol, TTL]);
            header.get_mut(8..24)?.copy_from_slice(&src.octets());
            header.get_mut(24..)?.copy_from_slice(&dst.octets());
            (header, 40)
        }
        _ => return None,
    };
    bytes.get_mut(..40)?.copy_from_slice(&header);
    let l4 = bytes.get_mut(at..)?;
    let ports = [was.src.1.to_be_bytes(), was.dst.1.to_be_bytes()];
    for (to, from) in l4.iter_mut().zip(ports.iter().flatten()) {
        *to = *from;
    }
    if was.protocol == l4::TCP {
        // Five words of header, an acknowledgement.
        l4.get_mut(12..14)?.copy_from_slice(&[0x50, 0x10]);
    } else {
        l4.get_mut(4..6)?.copy_from_slice(&[0, l4_len]);
    }
    Some((bytes, at + usize::from(l4_len)))
}

fn credit<N: Net>(
    side: &Side<N::Key>,
    flow: FlowRef,
    carried: &Carried,
    other: Option<&Carried>,
    is_last: bool,
    now: Tick,
) -> bool {
    let table = &side.table;
    let (Some(view), Some(partner)) = (table.view(flow), table.partner(flow)) else {
        return table.contains(flow);
    };
    if N::protocol_of(&view.key) == l4::TCP {
        let mut flows = [(flow, Some(carried)), (partner, other)];
        if view.is_reply() {
            flows.reverse();
        }
        // A poller that is at work on a word at this moment may write over it. Later that is put right with what comes then, at the last only now.
        let tries = if is_last { TRIES } else { 1 };
        for _ in 0..tries {
            if !bring_up::<N>(table, flows, is_last) {
                break;
            }
            for _ in 0..PAUSE {
                core::hint::spin_loop();
            }
        }
    }
    for (flow, carried) in [(flow, Some(carried)), (partner, other)] {
        if let Some(carried) = carried.filter(|it| it.packets > 0) {
            table.live(flow).count(now, carried.packets, carried.bytes);
        }
    }
    table.contains(flow)
}

/// How often the words are looked at again at the last, and how many turns of a loop lie between: longer than a poller has one in hand.
const TRIES: usize = 3;
const PAUSE: usize = 50;

/// Brings the words of both directions, the original one's first, up to what was carried. Returns whether any changed.
fn bring_up<N: Net>(
    table: &FlowTable<N::Key>,
    flows: [(FlowRef, Option<&Carried>); 2],
    is_last: bool,
) -> bool {
    let words = flows.map(|(flow, _)| Dir::from_bits(table.dir(flow)));
    let unseen = flows.map(|(_, carried)| carried.map(|it| it.unseen));
    let closes = unseen.iter().flatten().any(|it| it.closing.is_some());
    let after = catch_up(words, unseen, is_last);
    let mut changed = false;
    for (((flow, carried), after), before) in flows.into_iter().zip(after).zip(words) {
        // Without new packets nothing new is known, and what a poller saw since is newer.
        let is_told = closes || carried.is_some_and(|it| it.packets > 0);
        if after != before && is_told {
            table.set_dir(flow, after.to_bits());
            changed = true;
        }
    }
    changed
}
