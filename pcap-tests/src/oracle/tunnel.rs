//! Out of tunnels, by hand.

use std::net::IpAddr;

use etherparse::Ethernet2HeaderSlice;
use fastpath::reason::DropReason;

use super::{Judged, Packet, Verdict, addresses, drop, ecn, fix_header, parse4, parse6, transport};
use crate::build::{self, IPIP, UDP};
use crate::judge::{Check, View};
use crate::world::{VXLAN_PORT, World};

/// Takes a packet out of the tunnel that ends here, if it came by one.
pub(super) fn decapsulate(world: &World, outer: Packet) -> Judged<Packet> {
    let (to_us, vxlan) = match outer.dst {
        IpAddr::V4(dst) => (dst == world.local4, world.vxlan.1),
        IpAddr::V6(dst) => (dst == world.local6, world.vxlan.2),
    };
    let is_vxlan = vxlan && outer.protocol == UDP && outer.dst_port == VXLAN_PORT;
    let is_ipip = world.ipip && outer.protocol == IPIP && outer.dst.is_ipv4();
    if !to_us || !(is_vxlan || is_ipip) {
        return Ok(outer);
    }
    let mut peers = world.peers.iter();
    let Some((_, peer)) = peers.find(|(addr, _)| *addr == outer.src) else {
        return drop(DropReason::TunnelUnknownPeer);
    };
    if outer.fragment {
        return drop(DropReason::TunnelMalformed);
    }
    let payload = &outer.l3[outer.header_len..];
    let (version, inner) = if is_ipip {
        match payload.first() {
            Some(first) if first >> 4 == 4 => (4, payload),
            Some(_) => return drop(DropReason::TunnelInnerType),
            None => return drop(DropReason::TunnelMalformed),
        }
    } else {
        open_vxlan(world, &outer, payload)?
    };
    let inner = ecn_out(ecn(&outer.l3), inner, version)?;
    let mut packet = if version == 4 {
        parse4(&inner)?
    } else {
        parse6(&inner)?
    };
    addresses(&packet)?;
    packet = transport(packet)?;
    let local: IpAddr = if version == 4 {
        world.local4.into()
    } else {
        world.local6.into()
    };
    let to_node = packet.dst == local || world.peers.iter().any(|(addr, _)| *addr == packet.dst);
    let tunnel = packet.protocol == IPIP || packet.protocol == UDP && packet.dst_port == VXLAN_PORT;
    if to_node && tunnel {
        return drop(DropReason::TunnelNested);
    }
    packet.by = Some(*peer);
    Ok(packet)
}

fn open_vxlan<'a>(world: &World, outer: &Packet, udp: &'a [u8]) -> Judged<(u8, &'a [u8])> {
    let len = usize::from(u16::from_be_bytes([udp[4], udp[5]]));
    if len < 8 || len > udp.len() {
        return drop(DropReason::TunnelMalformed);
    }
    let udp = &udp[..len];
    let view = View::of(&outer.l3).ok_or(Verdict::Unsure)?;
    match view.check() {
        Check::Right | Check::Absent => {}
        // Whether it may be partial depends on the uplink; zero plus one's complement make odd cases.
        Check::Partial => return Err(Verdict::Unsure),
        Check::Wrong | Check::Unknown => return drop(DropReason::TunnelChecksum),
    }
    let Some((header, inner)) = udp[8..].split_first_chunk::<8>() else {
        return drop(DropReason::TunnelMalformed);
    };
    if header[0] & 8 == 0 {
        return drop(DropReason::TunnelMalformed);
    }
    let vni = u32::from_be_bytes([0, header[4], header[5], header[6]]);
    if vni == 0 {
        return Err(Verdict::Unsure);
    }
    if vni != world.vxlan.0 {
        return drop(DropReason::TunnelVni);
    }
    let Ok(ethernet) = Ethernet2HeaderSlice::from_slice(inner) else {
        return drop(DropReason::TunnelMalformed);
    };
    let ethertype = ethernet.ether_type().0;
    if matches!(ethertype, 0x8100 | 0x88a8) {
        // Is a cut tag malformed, of the wrong type, or for somebody else?
        return Err(Verdict::Unsure);
    }
    if ethernet.destination() != world.vtep.0 {
        return drop(DropReason::TunnelInnerMac);
    }
    match ethertype {
        0x0800 => Ok((4, &inner[14..])),
        0x86dd => Ok((6, &inner[14..])),
        _ => drop(DropReason::TunnelInnerType),
    }
}

const NOT_ECT: u8 = 0;
const ECT1: u8 = 1;
const ECT0: u8 = 2;
const CE: u8 = 3;

/// RFC 6040 section 4.2, figure 4.
fn ecn_out(outer: u8, inner: &[u8], version: u8) -> Judged<Vec<u8>> {
    let mut inner = inner.to_vec();
    // The outer mark counts before the inner packet is looked at closely.
    let Some(second) = inner.get(1) else {
        return Ok(inner);
    };
    let before = if version == 4 {
        second & 3
    } else {
        second >> 4 & 3
    };
    let after = match (before, outer) {
        (NOT_ECT, CE) => return drop(DropReason::TunnelEcn),
        (NOT_ECT, _) => NOT_ECT,
        (_, CE) => CE,
        (ECT0, ECT1) => ECT1,
        (same, _) => same,
    };
    if after == before {
        return Ok(inner);
    }
    if version == 6 {
        inner[1] = inner[1] & !0x30 | after << 4;
        return Ok(inner);
    }
    let header_len = usize::from(inner[0] & 15) * 4;
    let was_right = inner
        .get(..header_len)
        .is_some_and(|header| build::sum(header) == 0xffff);
    if !was_right || header_len < 20 {
        return Ok(inner);
    }
    inner[1] = inner[1] & !3 | after;
    fix_header(&mut inner);
    Ok(inner)
}
