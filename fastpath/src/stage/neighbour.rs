//! ARP and neighbour discovery at pods' ports, answered as Calico's host side answers them.
//!
//! The port stands for everybody: every address but the pod's own is answered with the port's MAC address. A pod
//! may speak for itself only. RFC 826, 5227, 4861; RA-guard: RFC 6105.

use encap::arp::{self, Arp, Operation};
use encap::eth::MacAddr;
use encap::ipv6::{AddrClass, class};
use encap::l4;
use encap::ndp::{self, Advertisement, Ndp, Solicitation, Station};

use crate::batch::{Fate, Packet, flag};
use crate::event::{Event, Events};
use crate::port::{PodPort, Port, PortId, PortKind};
use crate::reason::DropReason;

/// The pods' IPv6 gateway: the link-local address of the host side of every pod's veth
/// (`cni-plugin/pkg/dataplane/linux/dataplane_linux.go`).
pub const POD_GATEWAY6: u128 = 0xfe80_0000_0000_0000_ecee_eeff_feee_eeee;

/// Whether a parsed IPv6 packet is a neighbour discovery message, behind whatever extension headers.
#[inline]
pub(super) fn is_discovery(packet: &Packet, l3: &[u8]) -> bool {
    let upper = &packet.ip6.upper;
    upper.protocol == l4::ICMPV6
        && !packet.ip6.is_later_fragment()
        && l3
            .get(usize::from(upper.offset))
            .is_some_and(|&kind| ndp::is_ndp(kind))
}

/// Answers, learns from or drops an ARP packet, which is at the beginning of `room`.
pub(super) fn arp(
    packet: &mut Packet,
    room: &mut [u8],
    id: PortId,
    port: &Port,
    eth_src: MacAddr,
    events: &mut Events,
) -> Result<(), DropReason> {
    let arp = arp::parse(l3_of(packet, room)).map_err(|_| DropReason::ArpMalformed)?;
    if arp.sender_mac != eth_src {
        return Err(DropReason::ArpSpoofed);
    }
    match &port.kind {
        PortKind::Uplink => return Err(DropReason::ArpIgnored),
        PortKind::Host => {}
        PortKind::Pod(pod) => {
            if !arp.is_probe() && !pod.addrs4.contains(&arp.sender_ip) {
                return Err(DropReason::ArpSpoofed);
            }
            // A probe for its own address must stay unanswered, or the pod would give it up.
            if pod.addrs4.contains(&arp.target_ip) || arp.operation == Operation::Reply {
                return learn(packet, pod, id, &arp, events);
            }
        }
    }
    if arp.operation == Operation::Reply || arp.is_gratuitous() {
        return Err(DropReason::ArpIgnored);
    }
    let reply = arp::build_reply(&arp, port.mac);
    answer(packet, room, &reply, id).ok_or(DropReason::ArpMalformed)
}

/// A pod that tells its own address tells its MAC address too.
fn learn(
    packet: &mut Packet,
    pod: &PodPort,
    id: PortId,
    arp: &Arp,
    events: &mut Events,
) -> Result<(), DropReason> {
    if pod.mac.is_some() || arp.is_probe() {
        return Err(DropReason::ArpIgnored);
    }
    events.push(Event::PodMac {
        port: id,
        mac: arp.sender_mac,
    });
    packet.fate = Fate::Punt;
    Ok(())
}

/// Answers, learns from or drops a neighbour discovery message, which is at the beginning of `room`.
pub(super) fn discovery(
    packet: &mut Packet,
    room: &mut [u8],
    id: PortId,
    port: &Port,
    eth_src: MacAddr,
    events: &mut Events,
) -> Result<(), DropReason> {
    let parsed = ndp::parse(l3_of(packet, room), &packet.ip6);
    let none = PodPort::default();
    let (pod, bound) = match &port.kind {
        PortKind::Uplink => return Err(DropReason::NdIgnored),
        PortKind::Host => (&none, false),
        PortKind::Pod(pod) => (pod, true),
    };
    match parsed.map_err(|_| DropReason::NdMalformed)? {
        Ndp::RouterAdvertisement | Ndp::Redirect => Err(DropReason::NdRogueRouter),
        Ndp::RouterSolicitation => Err(DropReason::NdIgnored),
        Ndp::Solicitation(asked) => {
            let src = packet.ip6.src;
            let may_ask = matches!(class(src), AddrClass::LinkLocal | AddrClass::Unspecified)
                || pod.addrs6.contains(&src);
            if bound && (!may_ask || asked.source_mac.is_some_and(|mac| mac != eth_src)) {
                return Err(DropReason::NdSpoofed);
            }
            // Who is about to take an address (RFC 4862 section 5.4) is told of ours only: a proxy has none of the others, and which are
            // the host's is not known here.
            let is_probe = class(src) == AddrClass::Unspecified;
            let is_ours = bound && asked.target == POD_GATEWAY6;
            if !is_answered(&asked, pod) || (is_probe && !is_ours) {
                return Err(DropReason::NdIgnored);
            }
            let asker = Station {
                ip: src,
                mac: eth_src,
            };
            let ours = Station {
                ip: asked.target,
                mac: port.mac,
            };
            // Longer than a question without a link-layer address (RFC 4861 section 4.3): its frame grows.
            let reply = ndp::build_reply(&asked, asker, ours);
            answer(packet, room, &reply, id).ok_or(DropReason::NdIgnored)
        }
        Ndp::Advertisement(told) => advertised(packet, pod, bound, id, &told, eth_src, events),
    }
}

/// Not the pod's own address, or duplicate address detection would fail; and of link-local ones only the gateway.
fn is_answered(asked: &Solicitation, pod: &PodPort) -> bool {
    if class(asked.target) == AddrClass::LinkLocal {
        asked.target == POD_GATEWAY6
    } else {
        !pod.addrs6.contains(&asked.target)
    }
}

fn advertised(
    packet: &mut Packet,
    pod: &PodPort,
    bound: bool,
    id: PortId,
    told: &Advertisement,
    eth_src: MacAddr,
    events: &mut Events,
) -> Result<(), DropReason> {
    let own = pod.addrs6.contains(&told.target);
    let harmless = class(told.target) == AddrClass::LinkLocal && told.target != POD_GATEWAY6;
    if bound && (!(own || harmless) || told.target_mac.is_some_and(|mac| mac != eth_src)) {
        return Err(DropReason::NdSpoofed);
    }
    if !own || pod.mac.is_some() {
        return Err(DropReason::NdIgnored);
    }
    events.push(Event::PodMac {
        port: id,
        mac: eth_src,
    });
    packet.fate = Fate::Punt;
    Ok(())
}

/// The packet behind its Ethernet header.
fn l3_of<'a>(packet: &Packet, room: &'a [u8]) -> &'a [u8] {
    room.get(usize::from(packet.l3)..usize::from(packet.frame.len))
        .unwrap_or_default()
}

/// Writes the answer over the question and sends it back; `None` if its chunk has no room for it.
fn answer(packet: &mut Packet, room: &mut [u8], answer: &[u8], id: PortId) -> Option<()> {
    room.get_mut(..answer.len())?.copy_from_slice(answer);
    packet.frame.len = answer.len() as u16;
    packet.flags |= flag::COMPLETE;
    packet.fate = Fate::Transmit(id);
    Some(())
}
