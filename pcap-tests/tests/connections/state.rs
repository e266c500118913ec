//! What is remembered, for how long, and when it ends.

use std::time::Duration;

use fastpath::counters::Counter;
use fastpath::port::PortKind;
use fastpath::reason::DropReason;
use fastpath::tables::{Tables, Way};
use pcap_tests::build::{self, ip4};
use pcap_tests::rig::Rig;
use pcap_tests::world::Hop;

use crate::node::*;

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const SYN_ACK: u8 = 0x12;

#[test]
fn strays_are_invalid_and_may_pass_if_configured() {
    let mut rig = rig();
    let reset = || from_pod(&ip4(POD_ADDR, OTHER_ADDR).tcp(40_000, 80, RST, &[]));
    assert_eq!(one(&mut rig, POD, reset()), Err(DropReason::CtInvalid));
    let syn_ack = from_pod(&ip4(POD_ADDR, OTHER_ADDR).tcp(80, 40_000, SYN_ACK, &[]));
    assert_eq!(one(&mut rig, POD, syn_ack), Err(DropReason::CtInvalid));
    let mut liberal = rig.tables().clone();
    liberal.tracking.drops_invalid = false;
    rig.set_tables(liberal);
    assert!(one(&mut rig, POD, reset()).is_ok());
    assert!(rig.connections().v4.is_empty());
}

#[test]
fn unanswered_connections_end_soon() {
    let mut rig = rig();
    let query = from_pod(&ip4(POD_ADDR, OTHER_ADDR).udp(5000, 53, b"query"));
    one(&mut rig, POD, query).expect("local");
    rig.pass(Duration::from_secs(20));
    assert_eq!(rig.connections().v4.len(), 1);
    rig.pass(Duration::from_secs(15));
    assert!(rig.connections().v4.is_empty());
    assert_eq!(rig.counters().connections_expired.get(), 1);
    assert_eq!(rig.connections().v4.quota.count(POD.0), 0);
}

#[test]
fn an_endpoint_that_goes_takes_its_connections_along() {
    let mut rig = rig();
    for (port, from) in [(POD, POD_ADDR), (OTHER, OTHER_ADDR)] {
        let mac = if port == POD { POD_MAC } else { OTHER_MAC };
        let syn = ip4(from, SERVER).tcp(40_000, 80, SYN, &[]);
        let frame = pcap_tests::build::ethernet(GATEWAY_MAC, mac, &syn);
        one(&mut rig, port, frame).expect("it leaves");
    }
    assert_eq!(rig.connections().v4.len(), 2);
    let mut without = rig.tables().clone();
    without.ports[usize::from(POD.0)] = None;
    without.endpoints_since = without.generation + 1;
    rig.set_tables(without);
    rig.pass(Duration::from_millis(100));
    assert_eq!(rig.connections().v4.len(), 1, "the other pod's stays");
    assert_eq!(rig.counters().connections_ended.get(), 1);
}

#[test]
fn a_new_pod_with_an_old_address_gets_nothing_of_the_old_ones_connections() {
    let mut rig = rig();
    let syn = from_pod(&segment4(POD_ADDR, SERVER, (40_000, 80), SYN, 100, 0));
    let (_, frame) = one(&mut rig, POD, syn).expect("it leaves");
    let port = seen(&frame).ports.0;
    // The same port and address, and another pod; no sweep has come by yet.
    let mut tables: Tables = rig.tables().clone();
    let next = tables.generation + 1;
    if let Some(Some(port)) = tables.ports.get_mut(usize::from(POD.0)) {
        port.kind = pod(POD_MAC, POD_ADDR, POD6);
        port.since = next;
        assert!(matches!(port.kind, PortKind::Pod(_)));
    }
    rig.set_tables(tables);
    let answer = from_outside(&segment4(SERVER, NODE, (80, port), SYN_ACK, 200, 101));
    assert_eq!(
        one(&mut rig, UPLINK, answer).map(|_| ()),
        Err(DropReason::FlowEnded)
    );
    assert!(rig.connections().v4.is_empty());
}

#[test]
fn connections_outlive_changes_of_the_tables() {
    let mut rig = rig();
    let syn = from_pod(&segment4(POD_ADDR, SERVER, (40_000, 80), SYN, 100, 0));
    let (_, frame) = one(&mut rig, POD, syn).expect("it leaves");
    let port = seen(&frame).ports.0;
    for _ in 0..5 {
        let tables = rig.tables().clone();
        rig.set_tables(tables);
        let answer = from_outside(&segment4(SERVER, NODE, (80, port), SYN_ACK, 200, 101));
        assert_eq!(one(&mut rig, UPLINK, answer).map(|(to, _)| to), Ok(POD));
        let tables = rig.tables().clone();
        rig.set_tables(tables);
        let again = from_pod(&segment4(POD_ADDR, SERVER, (40_000, 80), 0x10, 101, 201));
        let (_, frame) = one(&mut rig, POD, again).expect("known");
        assert_eq!(seen(&frame).ports.0, port);
    }
}

#[test]
fn one_pod_can_not_take_the_room_of_others() {
    let mut rig = rig();
    let mut refused = 0;
    for port in 0..600 {
        let query = from_pod(&ip4(POD_ADDR, OTHER_ADDR).udp(5000 + port, 53, b"query"));
        match one(&mut rig, POD, query) {
            Ok(_) => {}
            Err(DropReason::FlowQuota) => refused += 1,
            Err(reason) => panic!("{reason:?}"),
        }
    }
    // Half of the table, as this rig gives to one; refused, not evicted: its own connections go first to expire.
    assert!(refused > 300, "{refused}");
    let syn = ip4(OTHER_ADDR, SERVER).tcp(40_000, 80, SYN, &[]);
    let frame = pcap_tests::build::ethernet(GATEWAY_MAC, OTHER_MAC, &syn);
    assert!(one(&mut rig, OTHER, frame).is_ok());
}

#[test]
fn a_connection_that_is_reopened_counts_once() {
    let mut rig = rig();
    let client = |flags, seq, ack| {
        from_pod(&segment4(
            POD_ADDR,
            OTHER_ADDR,
            (40_000, 80),
            flags,
            seq,
            ack,
        ))
    };
    let server = |flags, seq, ack| {
        let segment = segment4(OTHER_ADDR, POD_ADDR, (80, 40_000), flags, seq, ack);
        pcap_tests::build::ethernet(GATEWAY_MAC, OTHER_MAC, &segment)
    };
    for round in 0..5 {
        let (a, b) = (100 + round * 10_000, 200 + round * 10_000);
        one(&mut rig, POD, client(SYN, a, 0)).expect("a first packet");
        one(&mut rig, OTHER, server(SYN_ACK, b, a + 1)).expect("its answer");
        one(&mut rig, POD, client(0x10, a + 1, b + 1)).expect("established");
        // Closed by both, FIN and ACK.
        one(&mut rig, POD, client(0x11, a + 1, b + 1)).expect("closing");
        one(&mut rig, OTHER, server(0x11, b + 1, a + 2)).expect("closing");
        one(&mut rig, POD, client(0x10, a + 2, b + 2)).expect("closed");
    }
    assert_eq!(rig.connections().v4.len(), 1);
    assert_eq!(rig.connections().v4.quota.count(POD.0), 1);
    assert_eq!(rig.counters().connections_made.get(), 5);
}

#[test]
fn an_endpoint_that_moves_away_leaves_no_connection_behind() {
    let mut rig = rig();
    let syn = from_pod(&segment4(POD_ADDR, OTHER_ADDR, (40_000, 80), SYN, 100, 0));
    one(&mut rig, POD, syn).expect("local");
    // To the other node, from which it answers before a sweep comes by.
    let mut world = world();
    let behind_tunnel = world
        .routes
        .iter()
        .find(|(net, _)| net.prefix_len() == 26 && net.to_string().starts_with("10.65.1."));
    let behind_tunnel = behind_tunnel.expect("a route by the tunnel").1;
    for (net, hop) in &mut world.routes {
        if net.to_string() == "10.65.0.3/32" {
            *hop = behind_tunnel;
        }
    }
    let mut tables = world.tables();
    tables.ports[usize::from(OTHER.0)] = None;
    tables.endpoints_since = rig.tables().generation + 1;
    rig.set_tables(tables);
    let answer = segment4(OTHER_ADDR, POD_ADDR, (80, 40_000), SYN_ACK, 200, 101);
    let inner = build::ethernet([0x66, 0, 0, 0, 0, 2], [0x66, 0, 0, 0, 0, 3], &answer);
    let outer = ip4("172.18.0.3", NODE).udp_unchecked(50_000, 4789, &build::vxlan(4096, &inner));
    assert_eq!(
        one(&mut rig, UPLINK, from_outside(&outer)).map(|_| ()),
        Err(DropReason::FlowEnded)
    );
    assert!(rig.connections().v4.is_empty());
    assert_eq!(rig.connections().v4.quota.count(POD.0), 0);
}

#[test]
fn errors_about_an_old_pods_connections_do_not_reach_the_new_one() {
    let mut rig = rig();
    let query = from_pod(&ip4(POD_ADDR, SERVER).udp(5000, 53, b"query"));
    let (_, frame) = one(&mut rig, POD, query).expect("it leaves");
    let mut tables: Tables = rig.tables().clone();
    let next = tables.generation + 1;
    if let Some(Some(port)) = tables.ports.get_mut(usize::from(POD.0)) {
        port.since = next;
    }
    rig.set_tables(tables);
    let error = ip4("203.0.113.1", NODE).icmp(3, 1, 0, &frame[14..]);
    assert_eq!(
        one(&mut rig, UPLINK, from_outside(&error)).map(|_| ()),
        Err(DropReason::FlowEnded)
    );
}

#[test]
fn connections_that_begin_again_count_once() {
    let mut rig = rig();
    for round in 0..5 {
        let syn = from_pod(&segment4(POD_ADDR, OTHER_ADDR, (40_000, 80), SYN, 100, 0));
        one(&mut rig, POD, syn).expect("local");
        assert_eq!(rig.connections().v4.quota.count(POD.0), 1, "round {round}");
        let refused = segment4(OTHER_ADDR, POD_ADDR, (80, 40_000), RST | 0x10, 0, 101);
        let frame = build::ethernet(GATEWAY_MAC, OTHER_MAC, &refused);
        one(&mut rig, OTHER, frame).expect("of the connection");
    }
    rig.pass(Duration::from_secs(250));
    assert_eq!(rig.connections().v4.quota.count(POD.0), 0);
}

#[test]
fn what_waits_for_a_neighbour_does_not_outlive_its_sender() {
    for replaced in [false, true] {
        let mut world = world();
        for (net, hop) in &mut world.routes {
            if net.prefix_len() == 0 {
                let (port, way) = (UPLINK, Way::Uplink);
                *hop = Hop::Unresolved { port, way };
            }
        }
        let mut waiting = Rig::new(world.tables()).with_connections();
        let query = from_pod(&ip4(POD_ADDR, SERVER).udp(5000, 53, b"query"));
        waiting.run_now(POD, &[query]);
        assert_eq!(waiting.held(), 1);
        // The pod goes, and then the next hop becomes known.
        let mut tables = rig().tables().clone();
        tables.generation = waiting.tables().generation + 1;
        if let Some(port) = tables.ports.get_mut(usize::from(POD.0)) {
            let next = tables.generation;
            *port = port.take().filter(|_| replaced);
            if let Some(port) = port {
                port.since = next;
            }
        }
        waiting.set_tables(tables);
        waiting.pass(Duration::from_millis(100));
        assert_eq!(waiting.sent(), vec![Vec::<Vec<u8>>::new(); 4]);
        let drops = waiting.counters().drops(POD, DropReason::FlowEnded);
        assert_eq!(drops.map(Counter::get), Some(1));
    }
}

#[test]
fn errors_about_tcp_quote_what_is_under_way() {
    let mut rig = rig();
    let client = |flags, seq, ack| segment4(POD_ADDR, OTHER_ADDR, (40_000, 80), flags, seq, ack);
    let server = segment4(OTHER_ADDR, POD_ADDR, (80, 40_000), SYN_ACK, 500, 101);
    one(&mut rig, POD, from_pod(&client(SYN, 100, 0))).expect("a first packet");
    let server = build::ethernet(GATEWAY_MAC, OTHER_MAC, &server);
    one(&mut rig, OTHER, server).expect("its answer");
    one(&mut rig, POD, from_pod(&client(0x10, 101, 501))).expect("established");
    // Who guesses ports, and not numbers.
    for (seq, believed) in [(101, true), (500_000_000, false)] {
        let error = ip4(OTHER_ADDR, POD_ADDR).icmp(3, 1, 0, &client(0x10, seq, 501)[..40]);
        let error = build::ethernet(GATEWAY_MAC, OTHER_MAC, &error);
        let passed = one(&mut rig, OTHER, error).map(|_| ());
        let expected = if believed {
            Ok(())
        } else {
            Err(DropReason::IcmpUnrelated)
        };
        assert_eq!(passed, expected, "{seq}");
    }
}
