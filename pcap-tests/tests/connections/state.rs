//! What is remembered, for how long, and when it ends.

use std::time::Duration;

use fastpath::batch::Fate;
use fastpath::counters::Counter;
use fastpath::port::{PortId, PortKind};
use fastpath::reason::DropReason;
use fastpath::tables::{Tables, Way};
use flowtable::flow::Key4;
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
fn what_is_invalid_and_passes_shows_no_pods_address_outside() {
    let mut liberal = tables(1024..=65_535);
    liberal.tracking.drops_invalid = false;
    let mut rig = Rig::new(liberal).with_connections();
    // A reset of a connection that nobody knows: between pods it passes, out of all pools nothing could stand for the pod's address.
    let reset = |to: &str| from_pod(&segment4(POD_ADDR, to, (5000, 80), RST, 100, 0));
    assert!(one(&mut rig, POD, reset(OTHER_ADDR)).is_ok());
    assert_eq!(
        one(&mut rig, POD, reset(SERVER)),
        Err(DropReason::CtInvalid)
    );
    // Of one that is known, with another source, it is dropped or leaves with that.
    let ends = (5001, 80);
    let syn = segment4(POD_ADDR, SERVER, ends, SYN, 100, 0);
    let (_, out) = one(&mut rig, POD, from_pod(&syn)).expect("a connection");
    let source = seen(&out).src;
    for seq in [0, 101, 1 << 31] {
        let reset = segment4(POD_ADDR, SERVER, ends, RST, seq, 0);
        if let Ok((_, out)) = one(&mut rig, POD, from_pod(&reset)) {
            assert_eq!(seen(&out).src, source, "{seq}");
        }
    }
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
    for port in 0..600 {
        let query = from_pod(&ip4(POD_ADDR, OTHER_ADDR).udp(5000 + port, 53, b"query"));
        one(&mut rig, POD, query).expect("at the cost of one of its own");
    }
    // Half of the table, as this rig gives to one.
    let quota = &rig.connections().v4.quota;
    assert_eq!(quota.count(POD.0), quota.limits().share);
    assert_eq!(rig.connections().v4.len(), quota.limits().share);
    let syn = ip4(OTHER_ADDR, SERVER).tcp(40_000, 80, SYN, &[]);
    let frame = pcap_tests::build::ethernet(GATEWAY_MAC, OTHER_MAC, &syn);
    assert!(one(&mut rig, OTHER, frame).is_ok());
}

/// A datagram to the pod from one of many outside.
fn from_stranger(n: u16) -> Vec<u8> {
    let stranger = format!("203.0.113.{}", n % 250);
    from_outside(&ip4(&stranger, POD_ADDR).udp(1000 + n, 53, b"spray"))
}

/// Has a pod's query answered, at once.
fn answered(rig: &mut Rig, port: u16) -> Result<(), DropReason> {
    let query = from_pod(&ip4(POD_ADDR, OTHER_ADDR).udp(port, 53, b"query"));
    let answer = ip4(OTHER_ADDR, POD_ADDR).udp(53, port, b"answer");
    let answer = build::ethernet(GATEWAY_MAC, OTHER_MAC, &answer);
    for (port, frame) in [(POD, query), (OTHER, answer)] {
        if let Fate::Drop(reason) = rig.run_now(port, &[frame]).fates[0] {
            return Err(reason);
        }
    }
    Ok(())
}

/// Whether the pod's connection from a port is there.
fn is_there(rig: &Rig, port: u16) -> bool {
    let key = Key4 {
        src: v4(POD_ADDR).into(),
        dst: v4(OTHER_ADDR).into(),
        sport: port,
        dport: 53,
        protocol: build::UDP,
    };
    rig.connections().v4.table.lookup(&key).is_some()
}

#[test]
fn strangers_take_no_connection_from_a_pod() {
    let mut rig = rig();
    for port in 5000..5020 {
        answered(&mut rig, port).expect("there is room");
    }
    let unanswered = 6000..6020;
    for port in unanswered.clone() {
        let query = from_pod(&ip4(POD_ADDR, OTHER_ADDR).udp(port, 53, b"query"));
        one(&mut rig, POD, query).expect("there is room");
    }
    let mut came = 0;
    for n in 0..2000 {
        came += u16::from(one(&mut rig, UPLINK, from_stranger(n)).is_ok());
        assert!(rig.connections().v4.quota.count(POD.0) <= 224);
    }
    assert_eq!(came, 2000, "at the cost of one of their own");
    assert_eq!(rig.connections().v4.quota.count(POD.0), 224, "its share");
    for port in (5000..5020).chain(unanswered.clone()) {
        assert!(is_there(&rig, port), "{port}");
    }
    // The pod begins others: theirs go first.
    for port in 7000..7100 {
        answered(&mut rig, port).expect("it goes on");
    }
    for port in (5000..5020).chain(unanswered).chain(7000..7100) {
        assert!(is_there(&rig, port), "{port}");
    }
}

#[test]
fn what_was_answered_just_now_goes_for_nothing_new() {
    let mut rig = rig();
    for n in 0..224 {
        answered(&mut rig, 5000 + n).expect("there is room");
    }
    assert_eq!(answered(&mut rig, 6000), Err(DropReason::FlowQuota));
    let stranger = one(&mut rig, UPLINK, from_stranger(1));
    assert_eq!(stranger, Err(DropReason::FlowQuota));
    for n in 0..224 {
        assert!(is_there(&rig, 5000 + n), "{n}");
    }
    // Who asks so much goes on at the cost of what was answered some time ago; not who asks it.
    rig.pass(Duration::from_secs(11));
    let stranger = one(&mut rig, UPLINK, from_stranger(1));
    assert_eq!(stranger, Err(DropReason::FlowQuota));
    for n in 0..200 {
        answered(&mut rig, 6000 + n).expect("at the cost of an older one");
    }
}

#[test]
fn what_is_refused_is_not_counted() {
    let mut rig = Rig::new(tables(2000..=2009)).with_connections();
    for port in 0..500 {
        let _ = one(
            &mut rig,
            POD,
            from_pod(&ip4(POD_ADDR, SERVER).udp(5000 + port, 53, b"")),
        );
    }
    assert_eq!(rig.connections().v4.quota.count(POD.0), 10);
    assert_eq!(rig.connections().v4.len(), 10);
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

/// A segment between a stranger's port and the pod's.
fn of_client(n: u16, is_reply: bool, flags: u8, seq: u32, ack: u32) -> (PortId, Vec<u8>) {
    let stranger = format!("203.0.113.{}", n % 250 + 1);
    let port = 1024 + n;
    if is_reply {
        let segment = segment4(POD_ADDR, &stranger, (80, port), flags, seq, ack);
        (POD, from_pod(&segment))
    } else {
        let segment = segment4(&stranger, POD_ADDR, (port, 80), flags, seq, ack);
        (UPLINK, from_outside(&segment))
    }
}

#[test]
fn who_serves_many_goes_on_at_its_share_at_the_cost_of_what_is_over() {
    let mut rig = rig();
    let share = rig.connections().v4.quota.limits().share as u16;
    for n in 0..share * 4 {
        for (is_reply, flags, seq, ack) in [
            (false, SYN, 100, 0),
            (true, SYN_ACK, 200, 101),
            (false, 0x10, 101, 201),
            (true, 0x11, 201, 101),
            (false, 0x11, 101, 202),
            (true, 0x10, 202, 102),
        ] {
            let (port, frame) = of_client(n, is_reply, flags, seq, ack);
            let outcome = rig.run_now(port, &[frame]);
            assert!(
                matches!(outcome.fates[0], Fate::Transmit(_)),
                "{n} {flags:#x}: {:?}",
                outcome.fates
            );
        }
    }
}

#[test]
fn who_answers_many_goes_on_at_its_share_at_the_cost_of_what_was_answered() {
    let mut rig = rig();
    let share = rig.connections().v4.quota.limits().share as u16;
    let exchange = |rig: &mut Rig, n: u16| {
        let stranger = format!("203.0.113.{}", n % 250 + 1);
        let query = from_outside(&ip4(&stranger, POD_ADDR).udp(1024 + n, 53, b"query"));
        let answer = from_pod(&ip4(POD_ADDR, &stranger).udp(53, 1024 + n, b"answer"));
        let came = rig.run_now(UPLINK, &[query]).fates;
        let went = rig.run_now(POD, &[answer]).fates;
        (came[0], went[0])
    };
    let served = (Fate::Transmit(POD), Fate::Transmit(UPLINK));
    for n in 0..share {
        assert_eq!(exchange(&mut rig, n), served);
    }
    // What goes on stays.
    for _ in 0..4 {
        for n in 0..10 {
            assert_eq!(exchange(&mut rig, n), served);
        }
    }
    let refused = rig.run_now(UPLINK, &[from_stranger(40_000)]).fates;
    assert_eq!(refused, [Fate::Drop(DropReason::FlowQuota)], "too soon");
    rig.pass(Duration::from_secs(11));
    for n in share..share * 3 {
        assert_eq!(exchange(&mut rig, n), served, "{n}");
        rig.pass(Duration::from_millis(100));
    }
    for n in 0..10 {
        let key = Key4 {
            src: v4(&format!("203.0.113.{}", n + 1)).into(),
            dst: v4(POD_ADDR).into(),
            sport: 1024 + n,
            dport: 53,
            protocol: build::UDP,
        };
        assert!(rig.connections().v4.table.lookup(&key).is_some(), "{n}");
    }
    assert_eq!(rig.connections().v4.quota.count(POD.0), u32::from(share));
}
