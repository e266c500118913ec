//! Source NAT: what leaves, what comes back, and what is told about it.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fastpath::reason::DropReason;
use flowtable::snat::Ports;
use pcap_tests::build::{self, ip4, ip6};
use pcap_tests::rig::Rig;

use crate::node::*;

const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;
const ACK: u8 = 0x10;

fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Opens a connection from the pod's port, and returns the port that it leaves with.
fn open(rig: &mut Rig, port: u16) -> u16 {
    let syn = from_pod(&segment4(POD_ADDR, SERVER, (port, 80), SYN, 100, 0));
    let (out, frame) = one(rig, POD, syn).expect("it leaves");
    assert_eq!(out, UPLINK);
    let there = seen(&frame);
    assert_eq!(
        (there.src, there.dst, there.ports.1),
        (addr(NODE), addr(SERVER), 80)
    );
    there.ports.0
}

#[test]
fn tcp_leaves_with_the_nodes_address_and_the_answer_finds_the_pod() {
    let mut rig = rig();
    let port = open(&mut rig, 40_000);
    let answer = from_outside(&segment4(SERVER, NODE, (80, port), SYN_ACK, 200, 101));
    let (to, frame) = one(&mut rig, UPLINK, answer).expect("it is known");
    assert_eq!(to, POD);
    let back = seen(&frame);
    assert_eq!(
        (back.src, back.dst, back.ports),
        (addr(SERVER), addr(POD_ADDR), (80, 40_000))
    );
    for _ in 0..3 {
        let data = from_pod(&segment4(POD_ADDR, SERVER, (40_000, 80), ACK, 101, 201));
        let (_, frame) = one(&mut rig, POD, data).expect("established");
        assert_eq!(seen(&frame).ports, (port, 80), "the port stays");
        let data = from_outside(&segment4(SERVER, NODE, (80, port), ACK, 201, 101));
        let (_, frame) = one(&mut rig, UPLINK, data).expect("established");
        assert_eq!(seen(&frame).ports, (80, 40_000));
    }
    assert_eq!(rig.connections().v4.len(), 1);
}

#[test]
fn udp_ping_and_ipv6_are_translated_too() {
    let mut rig = rig();
    let query = from_pod(&ip4(POD_ADDR, SERVER).udp(5000, 53, b"query"));
    let (_, frame) = one(&mut rig, POD, query).expect("it leaves");
    let port = seen(&frame).ports.0;
    let answer = from_outside(&ip4(SERVER, NODE).udp(53, port, b"answer"));
    let (to, frame) = one(&mut rig, UPLINK, answer).expect("it is known");
    assert_eq!(
        (to, seen(&frame).dst, seen(&frame).ports),
        (POD, addr(POD_ADDR), (53, 5000))
    );

    let ping = from_pod(&ip4(POD_ADDR, SERVER).icmp(8, 0, 0x0007_0001, b"ping"));
    let (_, frame) = one(&mut rig, POD, ping).expect("it leaves");
    let id = seen(&frame).ports.0;
    assert_eq!(seen(&frame).src, addr(NODE));
    let pong = from_outside(&ip4(SERVER, NODE).icmp(0, 0, u32::from(id) << 16 | 1, b"ping"));
    let (to, frame) = one(&mut rig, UPLINK, pong).expect("it is known");
    assert_eq!(
        (to, seen(&frame).dst, seen(&frame).ports),
        (POD, addr(POD_ADDR), (7, 7))
    );

    let syn = from_pod(&ip6(POD6, SERVER6).tcp(40_000, 80, SYN, &[]));
    let (_, frame) = one(&mut rig, POD, syn).expect("it leaves");
    let there = seen(&frame);
    assert_eq!((there.src, there.dst), (addr(NODE6), addr(SERVER6)));
    let answer = from_outside(&ip6(SERVER6, NODE6).tcp(80, there.ports.0, SYN_ACK, &[]));
    let (to, frame) = one(&mut rig, UPLINK, answer).expect("it is known");
    let back = seen(&frame);
    assert_eq!((to, back.dst, back.ports), (POD, addr(POD6), (80, 40_000)));
}

#[test]
fn pods_and_nodes_of_the_cluster_see_the_pods_address() {
    let mut rig = rig();
    let to_other = from_pod(&ip4(POD_ADDR, OTHER_ADDR).tcp(40_000, 80, SYN, &[]));
    let (to, frame) = one(&mut rig, POD, to_other).expect("local");
    assert_eq!((to, seen(&frame).src), (OTHER, addr(POD_ADDR)));
    let to_host = from_pod(&ip4(POD_ADDR, NODE).tcp(40_000, 10_250, SYN, &[]));
    let (to, frame) = one(&mut rig, POD, to_host).expect("to the host");
    assert_eq!((to, seen(&frame).src), (HOST, addr(POD_ADDR)));
    let to_remote = from_pod(&ip4(POD_ADDR, "10.65.1.9").tcp(40_000, 80, SYN, &[]));
    let (to, frame) = one(&mut rig, POD, to_remote).expect("by tunnel");
    assert_eq!(to, UPLINK);
    assert_eq!(seen(&frame[50..]).src, addr(POD_ADDR));
}

#[test]
fn by_an_uplink_that_is_left_out_the_pods_address_leaves() {
    let mut tables = tables(1024..=65_535);
    tables.nat.untouched = vec![POD, UPLINK];
    let mut rig = Rig::new(tables).with_connections();
    let syn = from_pod(&segment4(POD_ADDR, SERVER, (40_000, 80), SYN, 100, 0));
    let (out, frame) = one(&mut rig, POD, syn).expect("it leaves");
    assert_eq!((out, seen(&frame).src), (UPLINK, addr(POD_ADDR)));
    assert_eq!(seen(&frame).ports, (40_000, 80));
    let answer = from_outside(&segment4(SERVER, POD_ADDR, (80, 40_000), SYN_ACK, 200, 101));
    assert_eq!(one(&mut rig, UPLINK, answer).map(|(to, _)| to), Ok(POD));
}

#[test]
fn what_nobody_asked_for_goes_to_the_host_and_leaves_no_trace() {
    let mut rig = rig();
    let stray = from_outside(&ip4(SERVER, NODE).tcp(80, 33_333, SYN, &[]));
    assert_eq!(one(&mut rig, UPLINK, stray).map(|(to, _)| to), Ok(HOST));
    let pong = from_outside(&ip4(SERVER, NODE).icmp(0, 0, 0x0007_0001, b"ping"));
    assert_eq!(one(&mut rig, UPLINK, pong).map(|(to, _)| to), Ok(HOST));
    assert!(
        rig.connections().v4.is_empty(),
        "it could take a pod's port"
    );
    // Another address than the one asked does not get in.
    let port = open(&mut rig, 40_000);
    let forged = from_outside(&ip4("198.51.100.8", NODE).tcp(80, port, SYN_ACK, &[]));
    assert_eq!(one(&mut rig, UPLINK, forged).map(|(to, _)| to), Ok(HOST));
}

#[test]
fn ports_are_unique_to_a_destination_and_run_out_with_a_reason() {
    let mut rig = Rig::new(tables(2000..=2099)).with_connections();
    let mut ports = HashSet::new();
    for port in 0..100 {
        assert!(ports.insert(open(&mut rig, 10_000 + port)), "given twice");
    }
    assert_eq!(ports.len(), 100);
    let one_more = from_pod(&ip4(POD_ADDR, SERVER).tcp(20_000, 80, SYN, &[]));
    assert_eq!(
        one(&mut rig, POD, one_more),
        Err(DropReason::NatPortsExhausted)
    );
    // Another destination has all of them again.
    let elsewhere = from_pod(&ip4(POD_ADDR, SERVER).tcp(20_000, 81, SYN, &[]));
    assert!(one(&mut rig, POD, elsewhere).is_ok());
    // Those that are there go on.
    let port = open_port(&mut rig, 10_050);
    assert!(ports.contains(&port));
}

fn open_port(rig: &mut Rig, port: u16) -> u16 {
    let again = from_pod(&segment4(POD_ADDR, SERVER, (port, 80), SYN, 100, 0));
    let (_, frame) = one(rig, POD, again).expect("known");
    seen(&frame).ports.0
}

#[test]
fn icmp_errors_are_translated_inside_and_outside() {
    let mut rig = rig();
    let query = ip4(POD_ADDR, SERVER).udp(5000, 53, b"query");
    let (_, frame) = one(&mut rig, POD, from_pod(&query)).expect("it leaves");
    let sent = frame[14..].to_vec();
    // A router on the way could not deliver it.
    let error = ip4("203.0.113.1", NODE).icmp(3, 1, 0, &sent);
    let (to, frame) = one(&mut rig, UPLINK, from_outside(&error)).expect("related");
    assert_eq!(to, POD);
    let told = seen(&frame);
    assert_eq!((told.src, told.dst), (addr("203.0.113.1"), addr(POD_ADDR)));
    let quoted = &frame[14 + 28..];
    assert_eq!(
        &quoted[12..28],
        &query[12..28],
        "addresses, ports and length as the pod sent them"
    );
    assert_eq!(
        build::checksum(&quoted[..20]),
        0,
        "the quoted header's checksum"
    );
    // The pod tells of an answer that came to a closed port.
    let answer = ip4(SERVER, NODE).udp(53, seen_port(&sent), b"answer");
    let (_, frame) = one(&mut rig, UPLINK, from_outside(&answer)).expect("it is known");
    let closed = ip4(POD_ADDR, SERVER).icmp(3, 3, 0, &frame[14..]);
    let (to, frame) = one(&mut rig, POD, from_pod(&closed)).expect("related");
    assert_eq!(
        (to, seen(&frame).src, seen(&frame).dst),
        (UPLINK, addr(NODE), addr(SERVER))
    );
    let quoted = &frame[14 + 28..];
    assert_eq!(&quoted[16..24], &answer[16..24], "as the server sent it");
    assert_eq!(rig.connections().v4.len(), 1);
}

fn seen_port(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[20], packet[21]])
}

const GRE: u8 = 47;
const ESP: u8 = 50;
const UDPLITE: u8 = 136;

#[test]
fn a_protocol_without_ports_leaves_by_one_pod_a_destination() {
    let mut rig = rig();
    let data = [7; 24];
    let there = |src, dst| from_pod(&ip4(src, dst).packet(GRE, &data));
    let of_other = |dst| {
        build::ethernet(
            GATEWAY_MAC,
            OTHER_MAC,
            &ip4(OTHER_ADDR, dst).packet(GRE, &data),
        )
    };
    let back = |src| from_outside(&ip4(src, NODE).packet(GRE, &data));
    let ends = |frame: &[u8]| (seen(frame).src, seen(frame).dst);

    for _ in 0..2 {
        let (to, frame) = one(&mut rig, POD, there(POD_ADDR, SERVER)).expect("it leaves");
        assert_eq!((to, ends(&frame)), (UPLINK, (addr(NODE), addr(SERVER))));
        assert_eq!(&frame[34..58], &data, "nothing else changes");
        let (to, frame) = one(&mut rig, UPLINK, back(SERVER)).expect("it is known");
        assert_eq!((to, ends(&frame)), (POD, (addr(SERVER), addr(POD_ADDR))));
    }
    assert_eq!(
        one(&mut rig, OTHER, of_other(SERVER)),
        Err(DropReason::NatAddressTaken)
    );
    assert_eq!(rig.connections().v4.len(), 1, "no trace");
    // Elsewhere it may, and the answers do not get mixed up.
    let elsewhere = "198.51.100.8";
    let (_, frame) = one(&mut rig, OTHER, of_other(elsewhere)).expect("it leaves");
    assert_eq!(ends(&frame), (addr(NODE), addr(elsewhere)));
    let to = |rig: &mut Rig, frame| one(rig, UPLINK, frame).map(|(to, _)| to);
    assert_eq!(to(&mut rig, back(elsewhere)), Ok(OTHER));
    assert_eq!(to(&mut rig, back(SERVER)), Ok(POD));
    // Nobody asked this one.
    assert_eq!(to(&mut rig, back("198.51.100.9")), Ok(HOST));
    // Another protocol is another conversation.
    let esp = build::ethernet(
        GATEWAY_MAC,
        OTHER_MAC,
        &ip4(OTHER_ADDR, SERVER).packet(ESP, &data),
    );
    assert!(one(&mut rig, OTHER, esp).is_ok());
    // Who has fallen silent makes room.
    rig.pass(Duration::from_hours(1));
    assert!(one(&mut rig, OTHER, of_other(SERVER)).is_ok());
    assert_eq!(to(&mut rig, back(SERVER)), Ok(OTHER));
}

#[test]
fn a_protocol_without_ports_leaves_by_one_pod_a_destination_of_ipv6() {
    let mut rig = rig();
    let data = [7; 24];
    let there = from_pod(&ip6(POD6, SERVER6).packet(ESP, &data));
    let (_, frame) = one(&mut rig, POD, there).expect("it leaves");
    assert_eq!((seen(&frame).src, &frame[54..]), (addr(NODE6), &data[..]));
    let back = from_outside(&ip6(SERVER6, NODE6).packet(ESP, &data));
    let (to, frame) = one(&mut rig, UPLINK, back).expect("it is known");
    assert_eq!((to, seen(&frame).dst), (POD, addr(POD6)));
    let other = ip6(OTHER6, SERVER6).packet(ESP, &data);
    let other = build::ethernet(GATEWAY_MAC, OTHER_MAC, &other);
    assert_eq!(
        one(&mut rig, OTHER, other),
        Err(DropReason::NatAddressTaken)
    );
}

#[test]
fn icmp_errors_about_protocols_without_ports_are_translated() {
    let mut rig = rig();
    let there = ip4(POD_ADDR, SERVER).packet(GRE, &[7; 24]);
    let (_, frame) = one(&mut rig, POD, from_pod(&there)).expect("it leaves");
    // From outside, which quotes 8 bytes of it, or none.
    for len in [28, 20] {
        let error = ip4("203.0.113.1", NODE).icmp(3, 2, 0, &frame[14..][..len]);
        let (to, frame) = one(&mut rig, UPLINK, from_outside(&error)).expect("related");
        assert_eq!((to, seen(&frame).dst), (POD, addr(POD_ADDR)));
        let quoted = &frame[14 + 28..];
        assert_eq!(quoted[12..len], there[12..len], "as the pod sent it");
        assert_eq!(build::checksum(&quoted[..20]), 0);
    }
    // From the pod.
    let answer = ip4(SERVER, NODE).packet(GRE, &[8; 24]);
    let (_, frame) = one(&mut rig, UPLINK, from_outside(&answer)).expect("it is known");
    let error = ip4(POD_ADDR, SERVER).icmp(3, 2, 0, &frame[14..]);
    let (to, frame) = one(&mut rig, POD, from_pod(&error)).expect("related");
    assert_eq!((to, seen(&frame).src), (UPLINK, addr(NODE)));
    assert_eq!(frame[14 + 28..][16..24], answer[16..24], "as it was sent");
}

#[test]
fn what_the_host_speaks_itself_is_not_translated() {
    let with_protocols = |protocols| {
        let mut tables = tables(1024..=65_535);
        let ports = Ports::clone(&tables.nat.ports);
        tables.nat.ports = Arc::new(Ports { protocols, ..ports });
        tables
    };
    let mut rig = Rig::new(with_protocols(Ports::protocols_without([]))).with_connections();
    let gre = || from_pod(&ip4(POD_ADDR, SERVER).packet(GRE, &[7; 24]));
    assert!(one(&mut rig, POD, gre()).is_ok());
    // The host comes to use it: the connection is over, and there is no other.
    rig.set_tables(with_protocols(Ports::protocols_without([GRE.into()])));
    assert_eq!(one(&mut rig, POD, gre()), Err(DropReason::FlowEnded));
    assert_eq!(one(&mut rig, POD, gre()), Err(DropReason::NatProtocol));
    let answer = from_outside(&ip4(SERVER, NODE).packet(GRE, &[8; 24]));
    assert_eq!(one(&mut rig, UPLINK, answer).map(|(to, _)| to), Ok(HOST));
    // Ports that nobody draws.
    let lite = from_pod(&ip4(POD_ADDR, SERVER).packet(UDPLITE, &[7; 24]));
    assert_eq!(one(&mut rig, POD, lite), Err(DropReason::NatProtocol));
}

#[test]
fn icmp_errors_about_nothing_known_or_with_wrong_checksums_are_dropped() {
    let mut rig = rig();
    let never_sent = ip4(NODE, SERVER).udp(5000, 53, b"query");
    let error = ip4("203.0.113.1", POD_ADDR).icmp(3, 1, 0, &never_sent);
    assert_eq!(
        one(&mut rig, UPLINK, from_outside(&error)).map(|_| ()),
        Err(DropReason::IcmpUnrelated)
    );
    let mut broken = error;
    *broken.last_mut().expect("bytes") ^= 1;
    assert_eq!(
        one(&mut rig, UPLINK, from_outside(&broken)).map(|_| ()),
        Err(DropReason::IcmpMalformed)
    );
}

#[test]
fn a_vxlan_port_is_never_drawn() {
    let mut rig = Rig::new(tables(4788..=4790)).with_connections();
    let mut drawn = HashSet::new();
    for host in 1..=60 {
        let to = format!("198.51.100.{host}");
        let query = from_pod(&ip4(POD_ADDR, &to).udp(5000, 53, b"query"));
        let (_, frame) = one(&mut rig, POD, query).expect("it leaves");
        drawn.insert(seen(&frame).ports.0);
    }
    assert_eq!(drawn, HashSet::from([4788, 4790]));
}
