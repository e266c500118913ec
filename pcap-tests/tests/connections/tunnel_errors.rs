//! ICMP errors from the underlay about tunnel packets: relayed to the pod in the tunnel, and believed only where a
//! connection lives.

use std::net::IpAddr;

use fastpath::batch::{Fate, PeerId};
use fastpath::event::Event;
use fastpath::reason::DropReason;
use fastpath::tables::NextHop;
use pcap_tests::build::{counted, ip4, ip6};
use pcap_tests::rig::Rig;

use crate::node::*;

const REMOTE: &str = "10.65.1.9";
const ROUTER: &str = "172.18.0.1";

/// The outer packet that a datagram to a pod of the other node leaves in.
fn outer_packet(rig: &mut Rig) -> Vec<u8> {
    let datagram = ip4(POD_ADDR, REMOTE).udp(5000, 53, &counted(1300));
    let (to, frame) = one(rig, POD, from_pod(&datagram)).expect("by tunnel");
    assert_eq!(to, UPLINK);
    frame[14..].to_vec()
}

#[test]
fn a_narrow_path_is_told_to_the_pod_and_learnt() {
    let mut rig = rig();
    let outer = outer_packet(&mut rig);
    let error = ip4(ROUTER, NODE).icmp(3, 4, 1300, &outer[..500]);
    let outcome = rig.run(UPLINK, &[from_outside(&error)]);
    assert_eq!(outcome.fates, [Fate::Punt]);
    let told: Vec<_> = outcome.all().collect();
    assert_eq!(told.len(), 1);
    let (port, frame) = told[0];
    assert_eq!(port, POD);
    let told = seen(frame);
    let addr = |text: &str| text.parse::<IpAddr>().expect("an address");
    assert_eq!((told.src, told.dst), (addr("169.254.1.1"), addr(POD_ADDR)));
    let message = &frame[34..];
    assert_eq!(message[..2], [3, 4]);
    assert_eq!(
        u16::from_be_bytes([message[6], message[7]]),
        1250,
        "less the tunnel's headers"
    );
    assert_eq!(
        message[8 + 12..8 + 20],
        [10, 65, 0, 2, 10, 65, 1, 9],
        "what the pod sent"
    );
    let learnt = Event::PathMtu {
        peer: PeerId(1),
        v6: false,
        mtu: 1300,
    };
    assert_eq!(rig.events(), [learnt]);
}

#[test]
fn no_sender_of_ipv6_is_told_less_than_every_link_takes() {
    // As a tunnel over IPv6 whose path takes 1280 bytes: RFC 2473 section 7.1, RFC 8201 section 4.
    let mut tables = tables(1024..=65_535);
    for hop in &mut tables.next_hops {
        if let NextHop::Send(adjacency) = hop
            && adjacency.port == UPLINK
        {
            adjacency.mtu = 1210;
        }
    }
    let mut rig = Rig::new(tables).with_connections();
    let datagram = ip6(POD6, "2001:db8:9::9").udp(5000, 53, &counted(1200));
    let outcome = rig.run(POD, &[from_pod(&datagram)]);
    assert_eq!(outcome.fates, [Fate::Drop(DropReason::MtuExceeded)]);
    let told: Vec<_> = outcome.all().collect();
    assert_eq!(told.len(), 1);
    let (port, frame) = told[0];
    assert_eq!((port, &frame[54..56]), (POD, &[2, 0][..]));
    assert_eq!(frame[58..62], 1280_u32.to_be_bytes());
}

#[test]
fn a_node_that_is_not_reached_is_told_as_an_unreachable_host() {
    let mut rig = rig();
    let outer = outer_packet(&mut rig);
    for (kind, code) in [(3, 1), (11, 0)] {
        let error = ip4(ROUTER, NODE).icmp(kind, code, 0, &outer[..200]);
        let outcome = rig.run(UPLINK, &[from_outside(&error)]);
        let told: Vec<_> = outcome.all().collect();
        assert_eq!(told.len(), 1, "{kind}");
        assert_eq!(
            told[0].1[34..36],
            [3, 1],
            "host unreachable (RFC 2003 section 4)"
        );
    }
    assert!(rig.events().is_empty());
}

#[test]
fn no_path_is_believed_to_be_absurdly_narrow() {
    let mut rig = rig();
    let outer = outer_packet(&mut rig);
    let error = ip4(ROUTER, NODE).icmp(3, 4, 68, &outer[..200]);
    rig.run(UPLINK, &[from_outside(&error)]);
    assert!(matches!(
        rig.events()[..],
        [Event::PathMtu { mtu: 576, .. }]
    ));
}

#[test]
fn errors_about_tunnels_that_carry_no_live_connection_change_nothing() {
    let mut rig = rig();
    let outer = outer_packet(&mut rig);
    let mut forged = outer.clone();
    // Another port of the pod: inner IPv4 header at 50 - 14 + 14.
    forged[50 + 20] ^= 0x40;
    let error = ip4(ROUTER, NODE).icmp(3, 4, 1300, &forged[..500]);
    let told = one(&mut rig, UPLINK, from_outside(&error));
    assert_eq!(told.map(|_| ()), Err(DropReason::IcmpUnrelated));
    assert!(rig.events().is_empty());
    // To a node that is none, or cut before it says who: the host's business.
    let mut elsewhere = outer.clone();
    elsewhere[19] = 77;
    let sum =
        pcap_tests::build::checksum(&[&elsewhere[..10], &[0, 0], &elsewhere[12..20]].concat());
    elsewhere[10..12].copy_from_slice(&sum.to_be_bytes());
    for quote in [&elsewhere[..200], &outer[..28]] {
        let error = ip4(ROUTER, NODE).icmp(3, 4, 1300, quote);
        let outcome = rig.run(UPLINK, &[from_outside(&error)]);
        assert_ne!(outcome.fates, [Fate::Punt]);
    }
    assert!(rig.events().is_empty());
}

#[test]
fn who_has_not_seen_a_tunnel_packet_is_not_believed() {
    let mut rig = rig();
    let mut outer = outer_packet(&mut rig);
    // Knows everything of it but the source port.
    outer[21] ^= 1;
    let error = ip4(ROUTER, NODE).icmp(3, 4, 600, &outer[..500]);
    let outcome = rig.run(UPLINK, &[from_outside(&error)]);
    assert_eq!(outcome.fates, [Fate::Drop(DropReason::IcmpUnrelated)]);
    assert_eq!(rig.events(), []);
}

/// RFC 5927 section 4.1. Of IPIP nothing else must be guessed.
#[test]
fn what_quotes_tcp_that_is_not_under_way_is_not_believed() {
    let ends = (40_000, 80);
    let there = |flags, seq, ack| segment4(POD_ADDR, REMOTE, ends, flags, seq, ack);
    let mut rig = rig();
    one(&mut rig, POD, from_pod(&there(0x02, 100, 0))).expect("by tunnel");
    let answer = segment4(REMOTE, POD_ADDR, (80, 40_000), 0x12, 200, 101);
    one(&mut rig, UPLINK, from_outside(&tunnelled(&answer))).expect("known");
    let (_, frame) = one(&mut rig, POD, from_pod(&there(0x10, 101, 201))).expect("by tunnel");
    for (seq, believed) in [(101_u32, true), (101 + (1 << 20), false), (0, false)] {
        let mut quote = frame[14..].to_vec();
        // TCP behind IP, UDP, VXLAN, Ethernet, IP.
        quote[50 + 20 + 4..][..4].copy_from_slice(&seq.to_be_bytes());
        let error = ip4(ROUTER, NODE).icmp(3, 4, 1300, &quote);
        let outcome = rig.run(UPLINK, &[from_outside(&error)]);
        let expected = if believed {
            Fate::Punt
        } else {
            Fate::Drop(DropReason::IcmpUnrelated)
        };
        assert_eq!(outcome.fates, [expected], "{seq}");
        assert_eq!(rig.events().is_empty(), !believed, "{seq}");
    }
}
