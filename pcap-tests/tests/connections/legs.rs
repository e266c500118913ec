//! A default route over two uplinks: which flows go where, and what stays when legs come and go.

use std::collections::BTreeSet;
use std::net::IpAddr;

use encap::eth::MacAddr;
use encap::outer::{Macs, Rewrite};
use fastpath::batch::PeerId;
use fastpath::group::{Group, Spread};
use fastpath::port::{Port, PortId};
use fastpath::tables::{Adjacency, NextHop, Tables, Way};
use flowtable::lpm::NextHopId;
use pcap_tests::build::{self, ip4, ip6};
use pcap_tests::rig::Rig;

use crate::fragments::fragments;
use crate::node::*;

/// The second uplink.
const RIGHT: PortId = PortId(4);
const NODE_RIGHT: &str = "172.19.0.2";
const RIGHT_MAC: build::Mac = [2, 0, 0, 0, 0, 6];
const FLOWS: u16 = 64;

/// The node's tables with both uplinks; `leg_of` says whose each bucket is, the first uplink's (0) or the second's (1).
fn both(generation: u64, leg_of: impl FnMut(usize) -> u8) -> Tables {
    let mut tables = tables(1024..=65_535);
    tables.generation = generation;
    let left = tables.port(UPLINK).expect("an uplink").clone();
    tables.ports.push(Some(Port {
        name: "eth1".to_owned(),
        mac: MacAddr(RIGHT_MAC),
        nat4: Some(v4(NODE_RIGHT).into()),
        ..left
    }));
    tables.nat.addresses4.push(v4(NODE_RIGHT).into());
    tables.spreads = vec![Spread::new(leg_of)];
    let routes = [
        tables.fib4.lookup(v4(SERVER).into()),
        tables.fib6.lookup(v6(SERVER6).into()),
    ];
    for route in routes {
        let NextHop::Send(left) = *tables.next_hop(route) else {
            panic!("no default route");
        };
        let first = NextHopId::new(tables.next_hops.len() as u16).expect("few");
        let macs = Macs {
            dst: MacAddr(ROUTER_MAC),
            src: MacAddr(RIGHT_MAC),
        };
        let right = Adjacency {
            port: RIGHT,
            rewrite: Rewrite::ethernet(macs),
            ..left
        };
        tables.next_hops.extend([left, right].map(NextHop::Send));
        tables.next_hops[route.index()] = NextHop::Group(Group {
            first,
            spread: 0,
            way: Way::Uplink,
            peer: PeerId::NONE,
            port: UPLINK,
        });
    }
    tables
}

fn alternating(bucket: usize) -> u8 {
    (bucket % 2) as u8
}

/// A flow's packet: of IPv4, or of IPv6.
fn packet(v6: bool, port: u16) -> Vec<u8> {
    if v6 {
        from_pod(&ip6(POD6, SERVER6).udp(port, 53, b"query"))
    } else {
        from_pod(&ip4(POD_ADDR, SERVER).udp(port, 53, b"query"))
    }
}

/// By which uplink each flow leaves.
fn ways(rig: &mut Rig, v6: bool) -> Vec<PortId> {
    let way = |port| one(rig, POD, packet(v6, port)).expect("it leaves").0;
    (5000..5000 + FLOWS).map(way).collect()
}

fn kinds(ways: &[PortId]) -> BTreeSet<PortId> {
    ways.iter().copied().collect()
}

fn without_nat(mut tables: Tables) -> Tables {
    tables.nat = nat(1024..=65_535, false);
    tables
}

#[test]
fn a_flow_keeps_to_one_leg_and_flows_take_both() {
    for tracked in [true, false] {
        for v6 in [false, true] {
            let rig = Rig::new(without_nat(both(1, alternating)));
            let mut rig = if tracked { rig.with_connections() } else { rig };
            let first = ways(&mut rig, v6);
            assert_eq!(kinds(&first), BTreeSet::from([UPLINK, RIGHT]));
            let left = first.iter().filter(|way| **way == UPLINK).count();
            assert!((16..=48).contains(&left), "{left} of {FLOWS}");
            for _ in 0..3 {
                assert_eq!(ways(&mut rig, v6), first);
            }
            // Decided again by newer tables, which say the same.
            rig.set_tables(without_nat(both(2, alternating)));
            assert_eq!(ways(&mut rig, v6), first);
        }
    }
}

#[test]
fn only_the_flows_of_a_leg_that_goes_move() {
    for v6 in [false, true] {
        let mut rig = Rig::new(without_nat(both(1, |bucket| (bucket % 3 % 2) as u8)));
        rig = rig.with_connections();
        let before = ways(&mut rig, v6);
        assert_eq!(kinds(&before).len(), 2);
        rig.set_tables(without_nat(both(2, |_| 0)));
        assert_eq!(kinds(&ways(&mut rig, v6)), BTreeSet::from([UPLINK]));
        rig.set_tables(without_nat(both(3, |bucket| (bucket % 3 % 2) as u8)));
        assert_eq!(ways(&mut rig, v6), before);
    }
}

#[test]
fn a_datagrams_fragments_go_together_and_with_their_flow() {
    for tracked in [true, false] {
        let rig = Rig::new(without_nat(both(1, alternating)));
        let mut rig = if tracked { rig.with_connections() } else { rig };
        let mut all = BTreeSet::new();
        for port in 5000..5000 + FLOWS {
            let frames = fragments(POD_ADDR, SERVER, (port, 53));
            let frames: Vec<_> = frames.iter().map(|it| from_pod(it)).collect();
            let outcome = rig.run(POD, &frames);
            let mut ways: BTreeSet<PortId> = outcome.all().map(|(port, _)| port).collect();
            if tracked {
                ways.insert(
                    one(&mut rig, POD, packet(false, port))
                        .expect("it leaves")
                        .0,
                );
            }
            assert_eq!(ways.len(), 1, "port {port}");
            all.extend(ways);
        }
        // Without ports all between two addresses are one flow.
        assert_eq!(all.len(), if tracked { 2 } else { 1 });
    }
}

#[test]
fn answers_to_who_comes_from_outside_take_their_own_leg() {
    let mut rig = Rig::new(without_nat(both(1, alternating))).with_connections();
    let mut first = Vec::new();
    for round in 0..3 {
        for (at, port) in (6000..6000 + FLOWS).enumerate() {
            let query = from_outside(&ip4(SERVER, POD_ADDR).udp(port, 53, b"query"));
            let (to, _) = one(&mut rig, UPLINK, query).expect("it comes in");
            assert_eq!(to, POD);
            let answer = from_pod(&ip4(POD_ADDR, SERVER).udp(53, port, b"answer"));
            let (way, _) = one(&mut rig, POD, answer).expect("it leaves");
            if round == 0 {
                first.push(way);
            }
            assert_eq!(way, first[at], "port {port}");
        }
    }
    assert_eq!(kinds(&first).len(), 2);
    // And what newer tables decide about the answers is the same.
    rig.set_tables(without_nat(both(2, alternating)));
    for (at, port) in (6000..6000 + FLOWS).enumerate() {
        let answer = from_pod(&ip4(POD_ADDR, SERVER).udp(53, port, b"answer"));
        let (way, _) = one(&mut rig, POD, answer).expect("it leaves");
        assert_eq!(way, first[at], "port {port}");
    }
}

#[test]
fn a_translated_connection_keeps_its_address_and_its_uplink_while_there_is_one() {
    let mut rig = Rig::new(both(1, alternating)).with_connections();
    let before = ways(&mut rig, false);
    assert_eq!(kinds(&before).len(), 2);
    let sources = |rig: &mut Rig| -> Vec<IpAddr> {
        let source = |port| seen(&one(rig, POD, packet(false, port)).expect("it leaves").1).src;
        (5000..5000 + FLOWS).map(source).collect()
    };
    let bound = sources(&mut rig);
    let of = |way: &PortId| if *way == UPLINK { NODE } else { NODE_RIGHT };
    let expected: Vec<IpAddr> = before.iter().map(|way| v4(of(way)).into()).collect();
    assert_eq!(bound, expected, "each has its uplink's address");
    // All buckets but one are the first leg's: who is bound to the second's address stays there.
    rig.set_tables(both(2, |bucket| u8::from(bucket == 7)));
    assert_eq!(ways(&mut rig, false), before);
    let new = one(&mut rig, POD, packet(false, 9999)).expect("it leaves");
    assert_eq!(new.0, UPLINK, "who is not bound takes its bucket's");
    // No leg of that address: over the other, with the address that it has.
    rig.set_tables(both(3, |_| 0));
    assert_eq!(kinds(&ways(&mut rig, false)), BTreeSet::from([UPLINK]));
    assert_eq!(sources(&mut rig), bound);
    // And the answers, by whichever uplink they come.
    let frame = one(&mut rig, POD, packet(false, 5000))
        .expect("it leaves")
        .1;
    let there = seen(&frame);
    let answer = ip4(SERVER, &there.src.to_string()).udp(53, there.ports.0, b"answer");
    for port in [UPLINK, RIGHT] {
        let (to, _) = one(&mut rig, port, from_outside_by(port, &answer)).expect("it is known");
        assert_eq!(to, POD);
    }
}

/// A frame that comes in by an uplink.
fn from_outside_by(port: PortId, packet: &[u8]) -> Vec<u8> {
    let mac = if port == UPLINK {
        UPLINK_MAC
    } else {
        RIGHT_MAC
    };
    build::ethernet(mac, ROUTER_MAC, packet)
}
