//! The pod's side of its veth: what it is answered, and what of it gets nowhere.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::lab::{Lab, NODE4, OUTSIDE4, OUTSIDE6, Pod, WIRE4, addr, pod_mac, v4, v6};
use crate::packet::{
    BROADCAST, GATEWAY_MAC, Tap, arp, ethernet, holds, icmp6, ip_packet, mac, udp_packet,
};
use crate::process::Daemon;
use crate::traffic::{Echo, reaches};

const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const REQUEST: u16 = 1;
const REPLY: u16 = 2;
const GATEWAY4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);
/// In every frame that must get nowhere.
const MARK: &[u8] = b"must not be seen";

fn ip4(addr: std::net::IpAddr) -> Ipv4Addr {
    match addr {
        std::net::IpAddr::V4(addr) => addr,
        std::net::IpAddr::V6(_) => panic!("IPv4 is wanted"),
    }
}

fn ip6(addr: std::net::IpAddr) -> Ipv6Addr {
    match addr {
        std::net::IpAddr::V6(addr) => addr,
        std::net::IpAddr::V4(_) => panic!("IPv6 is wanted"),
    }
}

/// A neighbour solicitation for `target`.
fn solicitation(from: Ipv6Addr, target: Ipv6Addr, source: [u8; 6]) -> Vec<u8> {
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    if !from.is_unspecified() {
        message.extend([1, 1]);
        message.extend(source);
    }
    let low = target.octets();
    let group = Ipv6Addr::from([
        0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, low[13], low[14], low[15],
    ]);
    let to = [0x33, 0x33, 0xff, low[13], low[14], low[15]];
    ethernet(to, source, IPV6, &icmp6(from, group, &message))
}

#[test]
fn arp_and_solicitations_are_answered_as_calico_does() {
    let test = "pods::arp_and_solicitations_are_answered_as_calico_does";
    let Some(mut lab) = Lab::new(test) else {
        return;
    };
    let pod = lab.pod(0);
    let own = mac(&pod_mac(0));
    let outside = Echo::at(&lab.wire, addr(OUTSIDE4));
    let mut daemon = Daemon::start(&lab);
    reaches(&pod.netns, pod.v4(), outside.addr());
    let tap = Tap::on(&pod.netns, "eth0");
    let zero = [0; 6];
    let me = ip4(v4(0));
    for target in [GATEWAY4, ip4(addr(WIRE4)), ip4(v4(7))] {
        let question = arp(REQUEST, (own, me), (zero, target));
        tap.send(&ethernet(BROADCAST, own, ARP, &question));
        let answer = tap.wait_for("ARP reply", |frame| {
            frame[12..14] == ARP.to_be_bytes() && frame[21] == 2 && frame[28..32] == target.octets()
        });
        assert_eq!((&answer[..6], &answer[6..12]), (&own[..], &GATEWAY_MAC[..]));
        let wanted = arp(REPLY, (GATEWAY_MAC, target), (own, me));
        assert_eq!(answer[14..42], wanted);
    }
    // A probe for its own address (RFC 5227), and an announcement of it.
    for sender in [Ipv4Addr::UNSPECIFIED, me] {
        tap.send(&ethernet(
            BROADCAST,
            own,
            ARP,
            &arp(REQUEST, (own, sender), (zero, me)),
        ));
    }
    let frames = tap.all(Duration::from_millis(300));
    let answered = frames
        .iter()
        .find(|frame| frame[12..14] == ARP.to_be_bytes() && frame[21] == 2);
    assert_eq!(answered, None, "one's own address is not answered for");

    tap.send(&solicitation(ip6(v6(0)), GATEWAY6, own));
    let answer = tap.wait_for("neighbour advertisement", |frame| {
        frame[12..14] == IPV6.to_be_bytes() && frame[20] == 58 && frame[54] == 136
    });
    assert_eq!((&answer[..6], &answer[6..12]), (&own[..], &GATEWAY_MAC[..]));
    assert_eq!(answer[62..78], GATEWAY6.octets());
    assert_eq!(answer[78..86], [2, 1, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee]);
    // Duplicate address detection of its own address.
    tap.send(&solicitation(Ipv6Addr::UNSPECIFIED, ip6(v6(0)), own));
    let frames = tap.all(Duration::from_millis(300));
    let answered = frames.iter().find(|frame| {
        frame[12..14] == IPV6.to_be_bytes() && frame[54] == 136 && frame[6..12] == GATEWAY_MAC
    });
    assert_eq!(answered, None, "one's own address is not answered for");
    daemon.finish();
}

/// Frames that a pod must not get through: name and frame. Each holds [`MARK`].
fn evil(pod: &Pod, other: &Pod) -> Vec<(&'static str, Vec<u8>)> {
    let own = mac(&pod_mac(pod.index));
    let others = mac(&pod_mac(other.index));
    let (me, them) = (ip4(pod.v4()), ip4(other.v4()));
    let (me6, them6) = (ip6(pod.v6()), ip6(other.v6()));
    let outside = addr(OUTSIDE4);
    let marked = |mut bytes: Vec<u8>| {
        bytes.extend(MARK);
        bytes
    };
    let arp_of = |operation, sender, target| marked(arp(operation, sender, target));
    let nd = |kind: u8, from, to: Ipv6Addr, rest: &[u8]| {
        let mut message = vec![kind, 0, 0, 0];
        message.extend(rest);
        message.extend([253, 3]);
        message.extend([0; 6]);
        message.extend(MARK);
        icmp6(from, to, &message)
    };
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let all_nodes_mac = [0x33, 0x33, 0, 0, 0, 1];
    let inner = udp_packet(pod.v4(), other.v4(), 9, MARK);
    let mut vxlan = vec![0x08, 0, 0, 0, 0, 0x10, 0, 0];
    vxlan.extend(ethernet(others, own, IPV4, &inner));
    let to_gateway = |packet: &[u8]| ethernet(GATEWAY_MAC, own, IPV4, packet);
    let to_gateway6 = |packet: &[u8]| ethernet(GATEWAY_MAC, own, IPV6, packet);
    vec![
        (
            "a gratuitous ARP of another's address",
            ethernet(
                BROADCAST,
                own,
                ARP,
                &arp_of(REQUEST, (own, them), ([0; 6], them)),
            ),
        ),
        (
            "an ARP reply for another's address",
            ethernet(
                GATEWAY_MAC,
                own,
                ARP,
                &arp_of(REPLY, (own, them), (GATEWAY_MAC, GATEWAY4)),
            ),
        ),
        (
            "an ARP reply for the gateway",
            ethernet(
                others,
                own,
                ARP,
                &arp_of(REPLY, (own, GATEWAY4), (others, them)),
            ),
        ),
        (
            "a router advertisement",
            ethernet(
                all_nodes_mac,
                own,
                IPV6,
                &nd(
                    134,
                    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
                    all_nodes,
                    &[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0],
                ),
            ),
        ),
        (
            "a redirect",
            ethernet(GATEWAY_MAC, own, IPV6, &nd(137, me6, them6, &[0; 36])),
        ),
        (
            "an advertisement for another",
            ethernet(
                all_nodes_mac,
                own,
                IPV6,
                &nd(
                    136,
                    them6,
                    all_nodes,
                    &[&[0xa0, 0, 0, 0][..], &them6.octets()].concat(),
                ),
            ),
        ),
        (
            "another's IPv4 source",
            to_gateway(&udp_packet(other.v4(), outside, 9, MARK)),
        ),
        (
            "the node's IPv4 source",
            to_gateway(&udp_packet(addr(NODE4), other.v4(), 9, MARK)),
        ),
        (
            "another's IPv6 source",
            to_gateway6(&udp_packet(other.v6(), addr(OUTSIDE6), 9, MARK)),
        ),
        (
            "another's MAC address",
            ethernet(
                GATEWAY_MAC,
                others,
                IPV4,
                &udp_packet(me.into(), outside, 9, MARK),
            ),
        ),
        (
            "VXLAN to the wire",
            to_gateway(&udp_packet(pod.v4(), addr(WIRE4), 4789, &vxlan)),
        ),
        (
            "VXLAN to the node",
            to_gateway(&udp_packet(pod.v4(), addr(NODE4), 4789, &vxlan)),
        ),
        (
            "IPIP",
            to_gateway(&ip_packet(pod.v4(), addr(WIRE4), 4, &inner)),
        ),
        (
            "IPIP to the node",
            to_gateway(&ip_packet(pod.v4(), addr(NODE4), 4, &inner)),
        ),
        (
            "an unknown EtherType",
            ethernet(GATEWAY_MAC, own, 0x88b5, MARK),
        ),
        (
            "a VLAN tag",
            ethernet(GATEWAY_MAC, own, 0x8100, &marked(vec![0, 100, 8, 0])),
        ),
        (
            "LLDP",
            ethernet([1, 0x80, 0xc2, 0, 0, 0x0e], own, 0x88cc, MARK),
        ),
        (
            "an IPv4 broadcast",
            ethernet(
                BROADCAST,
                own,
                IPV4,
                &udp_packet(pod.v4(), addr("255.255.255.255"), 9, MARK),
            ),
        ),
        (
            "unicast IPv4 in a broadcast frame",
            ethernet(
                BROADCAST,
                own,
                IPV4,
                &udp_packet(pod.v4(), other.v4(), 9, MARK),
            ),
        ),
        (
            "multicast",
            ethernet(
                [1, 0, 0x5e, 0, 0, 0xfb],
                own,
                IPV4,
                &udp_packet(pod.v4(), addr("224.0.0.251"), 5353, MARK),
            ),
        ),
        (
            "straight to the other pod's MAC address",
            ethernet(
                others,
                own,
                IPV4,
                &udp_packet(pod.v4(), other.v4(), 9, MARK),
            ),
        ),
    ]
}

#[test]
fn what_a_pod_may_not_send_is_seen_nowhere() {
    let test = "pods::what_a_pod_may_not_send_is_seen_nowhere";
    let Some(mut lab) = Lab::new(test) else {
        return;
    };
    let (pod, other) = (lab.pod(0), lab.pod(1));
    let outside = Echo::at(&lab.wire, addr(OUTSIDE4));
    let mut daemon = Daemon::start(&lab);
    for pod in [&pod, &other] {
        reaches(&pod.netns, pod.v4(), outside.addr());
    }
    let inside = Tap::on(&pod.netns, "eth0");
    let places = [
        ("on the wire", Tap::on(&lab.wire, "eth0")),
        ("in the other pod", Tap::on(&other.netns, "eth0")),
        ("on the host's port", Tap::on(&lab.node, "caracal0")),
    ];
    // A frame that may pass shows that frames with the mark are seen where they go.
    let own = mac(&pod_mac(0));
    for to in [addr(OUTSIDE4), other.v4(), addr(NODE4)] {
        inside.send(&ethernet(
            GATEWAY_MAC,
            own,
            IPV4,
            &udp_packet(pod.v4(), to, 9, MARK),
        ));
    }
    for (place, tap) in &places {
        tap.wait_for(&format!("marked frame {place}"), |frame| holds(frame, MARK));
    }
    for (_, tap) in &places {
        tap.all(Duration::from_millis(200));
    }
    for (what, frame) in evil(&pod, &other) {
        inside.send(&frame);
        for (place, tap) in &places {
            let seen = tap.all(Duration::from_millis(60));
            // An ICMP error may quote it; it goes to the pod itself only.
            let leaked = seen.iter().find(|frame| holds(frame, MARK));
            assert_eq!(leaked, None, "{what} was seen {place}");
        }
    }
    // Nothing of it has changed what others believe.
    for pod in [&pod, &other] {
        reaches(&pod.netns, pod.v4(), outside.addr());
    }
    daemon.finish();
}

#[test]
fn a_pod_whose_address_is_not_known_is_learned() {
    let Some(mut lab) = Lab::new("pods::a_pod_whose_address_is_not_known_is_learned") else {
        return;
    };
    let (silent, speaker) = (lab.pod_without_endpoint(0), lab.pod_without_endpoint(1));
    lab.write_endpoint(0, false);
    lab.write_endpoint(1, false);
    let mut daemon = Daemon::start(&lab);
    // One that speaks first, and one that is spoken to first.
    let outside = Echo::at(&lab.wire, addr(OUTSIDE4));
    reaches(&speaker.netns, speaker.v4(), outside.addr());
    let outside6 = Echo::at(&lab.wire, addr(OUTSIDE6));
    reaches(&speaker.netns, speaker.v6(), outside6.addr());
    let inside = Echo::at(&silent.netns, silent.v4());
    reaches(&lab.wire, addr(WIRE4), inside.addr());
    let inside = Echo::at(&silent.netns, silent.v6());
    reaches(&speaker.netns, speaker.v6(), inside.addr());
    daemon.finish();
}
