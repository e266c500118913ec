//! Untracked policy of host endpoints: each packet from without is judged by it, before connections are looked up, and what
//! it allows belongs to none.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fastpath::batch::Fate;
use fastpath::policy::{HostEndpoint, HostEndpoints};
use fastpath::port::PortId;
use fastpath::reason::DropReason;
use fastpath::tables::Way;
use flowtable::acl::{Action, Rule, RuleId};
use pcap_tests::build::{ethernet, ip4, ip6};
use pcap_tests::rig::Rig;
use pcap_tests::world::Hop;

use crate::fragments::fragments;
use crate::host_policy::chain;
use crate::node::*;
use crate::policy::{ACK, SYN, SYN_ACK, allow, endpoint, entries, put, rule, set, to_port};

fn endpoint_with(untracked: Vec<Rule>) -> HostEndpoint {
    HostEndpoint {
        untracked: Some(chain(untracked)),
        ..HostEndpoint::default()
    }
}

/// A node whose pods allow all, by rule 99, with this untracked policy at its uplink, or at all other interfaces.
fn with(uplink: Vec<Rule>, elsewhere: Vec<Rule>) -> Rig {
    let mut rig = rig();
    judged_by(&mut rig, uplink, elsewhere);
    rig
}

fn judged_by(rig: &mut Rig, uplink: Vec<Rule>, elsewhere: Vec<Rule>) {
    set(rig, |policies| {
        for pod in [POD, OTHER] {
            put(policies, pod, endpoint(allow(), allow()));
        }
        let hosts = HostEndpoints::new(
            vec![Some(endpoint_with(uplink))],
            Some(endpoint_with(elsewhere)),
            Vec::new(),
        );
        policies.hosts = Some(Arc::new(hosts));
    });
}

/// Decisions, packets and bytes of a rule.
fn counts(rig: &Rig, id: u32) -> (u64, u64, u64) {
    let count = rig.tables().policies.counters.get(RuleId(id));
    (count.connections, count.packets, count.bytes)
}

fn query() -> Vec<u8> {
    from_outside(&ip4(SERVER, POD_ADDR).udp(5000, 80, b"query"))
}

fn answer() -> Vec<u8> {
    from_pod(&ip4(POD_ADDR, SERVER).udp(80, 5000, b"answer"))
}

fn sent(outcome: &pcap_tests::rig::Outcome) -> Vec<PortId> {
    outcome.all().map(|(port, _)| port).collect()
}

#[test]
fn what_it_allows_is_judged_packet_by_packet_and_remembered_by_nobody() {
    let mut rig = with(vec![to_port(30, Action::Allow, 80)], vec![]);
    // Also several in a batch, and in the middle of no connection.
    let outcome = rig.run(UPLINK, &[query(), query()]);
    assert_eq!(sent(&outcome), [POD, POD]);
    for flags in [SYN, ACK] {
        let segment = segment4(SERVER, POD_ADDR, (5000, 80), flags, 100, 200);
        let (port, frame) = one(&mut rig, UPLINK, from_outside(&segment)).expect("allowed");
        assert_eq!((port, seen(&frame).src), (POD, SERVER.parse().unwrap()));
    }
    assert_eq!(entries(&rig), []);
    let bytes = 2 * (20 + 8 + 5) + 2 * 40;
    // The pod has its say each time.
    assert_eq!(counts(&rig, 30), (4, 4, bytes));
    assert_eq!(counts(&rig, 99), (4, 4, bytes));
    let six = ip6(SERVER6, POD6).udp(5000, 80, b"query");
    assert!(one(&mut rig, UPLINK, from_outside(&six)).is_ok());
    assert_eq!(rig.connections().v6.len(), 0);
    assert_eq!(counts(&rig, 30).0, 5);
    set(&mut rig, |policies| {
        let closed = endpoint(vec![to_port(40, Action::Deny, 80)], allow());
        put(policies, POD, closed);
    });
    for _ in 0..2 {
        assert_eq!(one(&mut rig, UPLINK, query()), Err(DropReason::PolicyDeny));
    }
    assert_eq!(counts(&rig, 40), (2, 2, 66));
    assert_eq!(entries(&rig), []);
    // What it does not decide about is tracked as ever.
    let other = ip4(SERVER, POD_ADDR).udp(5000, 81, b"query");
    assert_eq!(
        one(&mut rig, UPLINK, from_outside(&other)),
        Err(DropReason::PolicyDeny)
    );
    assert_eq!(entries(&rig).len(), 2);
}

/// An answer is the first packet of its own, and so is each question after it.
#[test]
fn each_direction_needs_policy_of_its_own() {
    let mut rig = with(vec![to_port(30, Action::Allow, 80)], vec![]);
    assert!(one(&mut rig, UPLINK, query()).is_ok());
    set(&mut rig, |policies| {
        put(policies, POD, endpoint(allow(), vec![]));
    });
    assert_eq!(one(&mut rig, POD, answer()), Err(DropReason::PolicyDeny));
    set(&mut rig, |policies| {
        put(policies, POD, endpoint(allow(), allow()));
    });
    assert!(one(&mut rig, POD, answer()).is_ok());
    assert_eq!(entries(&rig).len(), 2);
    assert!(one(&mut rig, UPLINK, query()).is_ok());
    assert_eq!(counts(&rig, 30).0, 2);
    // An answer of TCP is out of place: its question was never seen, as far as anybody knows.
    let syn = segment4(SERVER, POD_ADDR, (5001, 80), SYN, 100, 0);
    assert!(one(&mut rig, UPLINK, from_outside(&syn)).is_ok());
    let syn_ack = segment4(POD_ADDR, SERVER, (80, 5001), SYN_ACK, 200, 101);
    assert_eq!(
        one(&mut rig, POD, from_pod(&syn_ack)),
        Err(DropReason::CtInvalid)
    );
}

#[test]
fn what_it_denies_is_no_answer() {
    let begins = |dst| from_pod(&ip4(POD_ADDR, dst).udp(5000, 80, b"query"));
    let remote = from_outside(&tunnelled(&ip4(REMOTE, POD_ADDR).udp(80, 5000, b"answer")));
    let closed = || vec![rule(31, Action::Deny)];
    // To a pod's own address, out of a tunnel.
    let mut rig = with(vec![], closed());
    assert!(one(&mut rig, POD, begins(REMOTE)).is_ok());
    let known = entries(&rig);
    for _ in 0..2 {
        assert_eq!(
            one(&mut rig, UPLINK, remote.clone()),
            Err(DropReason::PolicyDeny)
        );
    }
    assert_eq!(counts(&rig, 31), (2, 2, 68));
    assert_eq!(entries(&rig), known, "the connection is left alone");
    judged_by(&mut rig, closed(), vec![]);
    assert!(one(&mut rig, UPLINK, remote).is_ok());
    // To the node's address, for natOutgoing.
    let (_, frame) = one(&mut rig, POD, begins(SERVER)).expect("allowed");
    let (port, _) = seen(&frame).ports;
    let back = from_outside(&ip4(SERVER, NODE).udp(80, port, b"answer"));
    assert_eq!(
        one(&mut rig, UPLINK, back.clone()),
        Err(DropReason::PolicyDeny)
    );
    // Allowed, it is an answer all the same: nobody else could make anything of it.
    judged_by(&mut rig, vec![rule(30, Action::Allow)], vec![]);
    let (port, frame) = one(&mut rig, UPLINK, back).expect("allowed");
    assert_eq!((port, seen(&frame).dst), (POD, POD_ADDR.parse().unwrap()));
    assert_eq!(counts(&rig, 30), (0, 0, 0));
}

#[test]
fn what_is_for_the_host_is_for_the_kernel() {
    let mut rig = with(vec![rule(31, Action::Deny)], vec![rule(31, Action::Deny)]);
    let to_host = |packet: &[u8]| from_outside(packet);
    let plain = ip4(SERVER, NODE).udp(5000, 80, b"query");
    let inner = ip4(REMOTE, NODE).udp(5000, 80, b"query");
    for packet in [plain, tunnelled(&inner)] {
        let arrives = one(&mut rig, UPLINK, to_host(&packet));
        assert_eq!(arrives.map(|(port, _)| port), Ok(HOST));
    }
    assert_eq!(counts(&rig, 31), (0, 0, 0));
    // And what pods send is for their own policy.
    let between = from_pod(&ip4(POD_ADDR, OTHER_ADDR).udp(5000, 80, b"query"));
    assert!(one(&mut rig, POD, between).is_ok());
}

/// It came in by an interface that is not known here, and connections may be translated there.
#[test]
fn what_the_kernel_forwards_is_tracked() {
    let rules = vec![to_port(30, Action::Allow, 80), rule(31, Action::Deny)];
    let mut rig = with(vec![], rules);
    let by_host = |packet: &[u8]| ethernet([2, 0, 0, 0, 0, 4], HOST_MAC, packet);
    let syn = segment4(SERVER, POD_ADDR, (5000, 80), SYN, 100, 0);
    assert!(one(&mut rig, HOST, by_host(&syn)).is_ok());
    assert_eq!((entries(&rig).len(), counts(&rig, 30).0), (2, 1));
    let syn_ack = segment4(POD_ADDR, SERVER, (80, 5000), SYN_ACK, 200, 101);
    assert!(one(&mut rig, POD, from_pod(&syn_ack)).is_ok());
    let ack = segment4(SERVER, POD_ADDR, (5000, 80), ACK, 101, 201);
    assert!(one(&mut rig, HOST, by_host(&ack)).is_ok());
    assert_eq!(counts(&rig, 30).0, 1);
}

#[test]
fn fragments_are_judged_by_the_ports_of_their_first() {
    for turn in 0..3 {
        let rules = vec![to_port(30, Action::Allow, 80), rule(31, Action::Deny)];
        let mut rig = with(rules, vec![]);
        for (port, expected) in [(80, vec![POD; 3]), (81, vec![])] {
            let pieces = fragments(SERVER, POD_ADDR, (5000, port));
            let mut frames: Vec<_> = pieces.iter().map(|it| from_outside(it)).collect();
            frames.rotate_left(turn);
            assert_eq!(sent(&rig.run(UPLINK, &frames)), expected, "{turn}");
            assert_eq!(entries(&rig), []);
        }
        assert_eq!((counts(&rig, 30).0, counts(&rig, 31).0), (3, 3));
    }
}

/// What has no connection can not be translated, and its source must not be seen outside.
#[test]
fn what_would_leave_by_another_source_does_not_leave() {
    let mut rig = with(vec![], vec![rule(30, Action::Allow)]);
    let inner = ip4(REMOTE, SERVER).udp(5000, 80, b"query");
    let leaves = one(&mut rig, UPLINK, from_outside(&tunnelled(&inner)));
    assert_eq!(leaves, Err(DropReason::CtInvalid));
    judged_by(&mut rig, vec![], vec![]);
    assert!(one(&mut rig, UPLINK, from_outside(&tunnelled(&inner))).is_ok());
}

#[test]
fn what_waits_for_its_next_hop_is_counted_when_it_goes_on() {
    let mut world = world();
    for (net, hop) in &mut world.routes {
        if net.addr() == IpAddr::from(v4(POD_ADDR)) {
            let (port, way) = (POD, Way::Pod);
            *hop = Hop::Unresolved { port, way };
        }
    }
    let mut rig = Rig::new(world.tables()).with_connections();
    judged_by(&mut rig, vec![to_port(30, Action::Allow, 80)], vec![]);
    let outcome = rig.run_without_waiting(UPLINK, &[query()]);
    assert_eq!(outcome.fates, [Fate::Held]);
    assert_eq!(counts(&rig, 30).0, 0);
    let mut known = tables(1024..=65_535);
    known.policies = rig.tables().policies.clone();
    known.generation = rig.tables().generation + 1;
    rig.set_tables(known);
    rig.pass(Duration::from_millis(100));
    assert_eq!((rig.held(), counts(&rig, 30).0), (0, 1));
    assert_eq!(entries(&rig), []);
    // Who may not send to the pod does not wait for it.
    let mut rig = Rig::new(world.tables()).with_connections();
    judged_by(&mut rig, vec![to_port(30, Action::Allow, 80)], vec![]);
    set(&mut rig, |policies| {
        put(
            policies,
            POD,
            endpoint(vec![rule(40, Action::Deny)], allow()),
        );
    });
    let outcome = rig.run_without_waiting(UPLINK, &[query()]);
    assert_eq!(outcome.fates, [Fate::Drop(DropReason::PolicyDeny)]);
    assert_eq!(counts(&rig, 40), (1, 1, 33));
}
