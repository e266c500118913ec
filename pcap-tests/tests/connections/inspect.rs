//! What the control thread sees of connections, and that it may remove them.

use std::net::IpAddr;
use std::time::Duration;

use fastpath::batch::PeerId;
use fastpath::connections::{Connection, Connections, Origin, Removal};
use flowtable::Tick;
use flowtable::conn::{State, Timeouts};
use flowtable::flow::FlowRef;
use pcap_tests::build::{ip4, ip6};
use pcap_tests::rig::Rig;

use crate::node::*;

const SYN: u8 = 0x02;

/// All connections, by their first destination port.
fn all(connections: &Connections, now: Tick) -> Vec<(Connection, FlowRef)> {
    let mut all = Vec::new();
    let lines = 0..connections.lines();
    let walked = connections.visit(lines, &Timeouts::DEFAULT, now, |one, flow| {
        all.push((*one, flow));
    });
    assert_eq!((walked.entries, walked.busy), (2 * all.len(), 0));
    all.sort_by_key(|(one, _)| one.dport);
    all
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A query to the other pod, a segment to the outside, and the same in IPv6 to another node's pod.
fn busy_rig() -> Rig {
    let mut rig = rig();
    let query = from_pod(&ip4(POD_ADDR, OTHER_ADDR).udp(5000, 53, b"query"));
    one(&mut rig, POD, query).expect("local");
    let syn = from_pod(&ip4(POD_ADDR, SERVER).tcp(40_000, 80, SYN, &[]));
    one(&mut rig, POD, syn).expect("it leaves");
    let remote = from_pod(&ip4(POD_ADDR, "10.65.1.9").udp(5001, 90, b"query"));
    one(&mut rig, POD, remote).expect("by the tunnel");
    let six = from_pod(&ip6(POD6, SERVER6).udp(5002, 100, b"query"));
    one(&mut rig, POD, six).expect("it leaves");
    rig
}

#[test]
fn connections_are_described_as_they_are() {
    let mut rig = busy_rig();
    let answer = pcap_tests::build::ethernet(
        GATEWAY_MAC,
        OTHER_MAC,
        &ip4(OTHER_ADDR, POD_ADDR).udp(53, 5000, b"an answer"),
    );
    one(&mut rig, OTHER, answer).expect("local");
    let now = rig.now();
    let all_now = all(rig.connections(), now).into_iter();
    let all_now: Vec<_> = all_now.map(|(one, _)| one).collect();
    let [dns, web, remote, six] = all_now.try_into().unwrap();

    assert_eq!((dns.protocol, dns.state), (17, State::Assured));
    assert_eq!((dns.src, dns.sport), (address(POD_ADDR), 5000));
    assert_eq!((dns.dst, dns.dport), (address(OTHER_ADDR), 53));
    assert_eq!((dns.snat, dns.owner), (None, Some(POD)));
    assert_eq!(dns.original.origin, Origin::Port(POD));
    assert_eq!((dns.original.packets, dns.original.bytes), (1, 33));
    assert_eq!(dns.reply.origin, Origin::Port(OTHER));
    assert_eq!((dns.reply.packets, dns.reply.bytes), (1, 37));
    assert_eq!(dns.expires_in, Timeouts::DEFAULT.udp_assured);

    assert_eq!((web.protocol, web.state), (6, State::SynSent));
    assert_eq!(web.snat.map(|(addr, _)| addr), Some(address(NODE)));
    assert_eq!(web.reply.origin, Origin::Port(UPLINK));
    assert_eq!((web.reply.packets, web.reply.bytes), (0, 0));

    assert_eq!(remote.reply.origin, Origin::Node(PeerId(1)));
    assert_eq!(six.src, address(POD6));
    assert_eq!(six.snat.map(|(addr, _)| addr), Some(address(NODE6)));

    // Up to a unit of the coarse clock.
    let later = all(rig.connections(), now + Duration::from_secs(5))[1].0;
    let near = |time: Duration, seconds: f64| (time.as_secs_f64() - seconds).abs() < 0.2;
    assert!(
        near(later.idle.saturating_sub(web.idle), 5.0),
        "{:?}",
        later.idle
    );
    assert!(near(later.idle + later.expires_in, 20.0), "of a SYN");
    let much_later = all(rig.connections(), now + Duration::from_secs(100));
    assert_eq!(much_later[1].0.expires_in, Duration::ZERO);
}

#[test]
fn a_removed_connection_counts_no_more_and_begins_anew() {
    let mut rig = busy_rig();
    let now = rig.now();
    let quota = |rig: &Rig| {
        let connections = rig.connections();
        let (v4, v6) = (&connections.v4.quota, &connections.v6.quota);
        (v4.count(POD.0), v6.count(POD.0))
    };
    assert_eq!(quota(&rig), (3, 1));
    let before = all(rig.connections(), now);
    // In the midst of the walk.
    let rules = &rig.tables().policies.counters.clone();
    let connections = rig.connections();
    let mut removed = 0;
    connections.visit(
        0..connections.lines(),
        &Timeouts::DEFAULT,
        now,
        |connection, flow| {
            if connection.dport != 53 {
                assert_eq!(
                    connections.remove(connection, flow, rules),
                    Removal::Removed
                );
                removed += 1;
            }
        },
    );
    assert_eq!(removed, 3);
    assert_eq!(quota(&rig), (1, 0));
    assert_eq!(all(rig.connections(), now), before[..1]);
    assert_eq!(
        rig.connections().remove(&before[1].0, before[1].1, rules),
        Removal::Gone
    );
    assert_eq!(quota(&rig), (1, 0), "counted once");

    let syn = from_pod(&ip4(POD_ADDR, SERVER).tcp(40_000, 80, SYN, &[]));
    one(&mut rig, POD, syn).expect("it leaves");
    let after = all(rig.connections(), now);
    assert_eq!(after.len(), 2);
    assert_eq!(after[1].0.original.packets, 1);
    assert_eq!(quota(&rig), (2, 0));
    // What was seen of the one before finds its successor: the same connection to whoever asked.
    assert_eq!(
        rig.connections().remove(&before[1].0, before[1].1, rules),
        Removal::Removed
    );
    assert_eq!(quota(&rig), (1, 0));
}
