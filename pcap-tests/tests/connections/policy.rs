//! Policy: what the first packet of a connection is told, what is remembered of it, and what changes it.

use std::sync::Arc;
use std::time::Duration;

use fastpath::batch::Fate;
use fastpath::policy::{Decided, Decider, Direction, Endpoint, Policies, ToHost};
use fastpath::port::PortId;
use fastpath::reason::DropReason;
use fastpath::tables::Way;
use flowtable::acl::{
    Action, Chain, ChainSpec, Compiler, Icmp, Policy, PortRange, Rule, RuleId, Side, Tier,
};
use flowtable::flow::{Key4, View, flag};
use pcap_tests::build::{counted, ethernet, ip4, ip6};
use pcap_tests::rig::Rig;
use pcap_tests::world::Hop;

use crate::node::*;

pub(crate) const SYN: u8 = 0x02;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const SYN_ACK: u8 = 0x12;

fn chain(rules: Vec<Rule>) -> Chain {
    let policy = Arc::new(Policy { rules });
    let tier = Tier {
        policies: vec![policy].into(),
        ..Tier::default()
    };
    let spec = ChainSpec {
        tiers: vec![tier],
        ..ChainSpec::default()
    };
    Compiler::default().chain(&spec).expect("small")
}

pub(crate) fn rule(id: u32, action: Action) -> Rule {
    Rule {
        id: RuleId(id),
        action,
        ..Rule::default()
    }
}

/// A rule about a destination port.
pub(crate) fn to_port(id: u32, action: Action, port: u16) -> Rule {
    Rule {
        destination: Side {
            ports: vec![PortRange::one(port)],
            ..Side::default()
        },
        ..rule(id, action)
    }
}

pub(crate) fn endpoint(ingress: Vec<Rule>, egress: Vec<Rule>) -> Endpoint {
    Endpoint {
        active: true,
        ingress: chain(ingress),
        egress: chain(egress),
        defaults: Default::default(),
    }
}

pub(crate) fn put(policies: &mut Policies, port: PortId, endpoint: impl Into<Option<Endpoint>>) {
    policies.endpoints[usize::from(port.0)] = endpoint.into();
}

pub(crate) fn allow() -> Vec<Rule> {
    vec![rule(99, Action::Allow)]
}

/// Puts another policy of the two pods in force.
pub(crate) fn set(rig: &mut Rig, change: impl FnOnce(&mut Policies)) {
    let mut tables = rig.tables().clone();
    tables.policies.counters.grow(RuleId(100));
    change(&mut tables.policies);
    rig.set_tables(tables);
}

/// POD may open port 80 of OTHER by rules 1 (egress) and 2 (ingress), which denies port 81 by rule 3; port 82 is nobody's.
fn guarded() -> Rig {
    let mut rig = rig();
    set(&mut rig, |policies| {
        put(
            policies,
            POD,
            endpoint(allow(), vec![rule(1, Action::Allow)]),
        );
        let ingress = vec![to_port(2, Action::Allow, 80), to_port(3, Action::Deny, 81)];
        put(policies, OTHER, endpoint(ingress, allow()));
    });
    rig
}

pub(crate) fn tcp(src: &str, dst: &str, ports: (u16, u16), flags: u8) -> Vec<u8> {
    let is_pod = src == POD_ADDR;
    let (own, others) = if is_pod { (100, 200) } else { (200, 100) };
    let seq = own + u32::from(flags & SYN == 0);
    let ack = if flags & ACK == 0 { 0 } else { others + 1 };
    let segment = segment4(src, dst, ports, flags, seq, ack);
    ethernet(
        GATEWAY_MAC,
        if is_pod { POD_MAC } else { OTHER_MAC },
        &segment,
    )
}

pub(crate) fn syn(port: u16) -> Vec<u8> {
    tcp(POD_ADDR, OTHER_ADDR, (40_000, port), SYN)
}

pub(crate) fn entries(rig: &Rig) -> Vec<View<Key4>> {
    let mut all = Vec::new();
    rig.connections().v4.table.for_each(|view| all.push(*view));
    all
}

pub(crate) fn forward(rig: &Rig) -> View<Key4> {
    let all = entries(rig);
    *all.iter().find(|view| !view.is_reply()).expect("an entry")
}

#[test]
fn both_legs_must_allow_and_the_entry_names_who_decided() {
    let mut rig = guarded();
    assert!(one(&mut rig, POD, syn(80)).is_ok());
    let deciders: Vec<_> = entries(&rig)
        .iter()
        .map(|view| (view.is_reply(), view.action.rule))
        .collect();
    assert!(deciders.contains(&(false, 1)), "{deciders:?}");
    assert!(deciders.contains(&(true, 2)), "{deciders:?}");
    // Answers are never judged: OTHER's egress could say no.
    set(&mut rig, |policies| {
        put(
            policies,
            OTHER,
            endpoint(vec![], vec![rule(4, Action::Deny)]),
        );
    });
    let answer = tcp(OTHER_ADDR, POD_ADDR, (80, 40_000), SYN_ACK);
    assert!(one(&mut rig, OTHER, answer).is_ok());
}

#[test]
fn a_denial_is_judged_once_and_names_the_rule() {
    let mut rig = guarded();
    for _ in 0..5 {
        assert_eq!(one(&mut rig, POD, syn(81)), Err(DropReason::PolicyDeny));
    }
    let counters = &rig.tables().policies.counters;
    assert_eq!(counters.get(RuleId(3)).connections, 1, "judged once");
    let denial = forward(&rig);
    assert_ne!(denial.action.flags & flag::DENY, 0);
    assert_eq!((denial.action.rule, denial.packets), (3, 5));
    assert_eq!(
        rig.connections().v4.quota.count(POD.0),
        0,
        "nobody pays for it"
    );
    rig.pass(Duration::from_secs(15));
    assert!(rig.connections().v4.is_empty(), "soon forgotten");
    assert_eq!(rig.tables().policies.counters.get(RuleId(3)).packets, 5);
    assert_eq!(rig.counters().connections_expired.get(), 0, "no connection");
}

#[test]
fn what_no_rule_is_about_ends_at_the_tier() {
    let mut rig = guarded();
    assert_eq!(one(&mut rig, POD, syn(82)), Err(DropReason::PolicyDeny));
    let by = Decider::from_bits(forward(&rig).action.rule).decided();
    assert_eq!(by, Decided::TierDefault(Direction::Ingress, 0));
}

#[test]
fn who_is_denied_opens_no_way_back() {
    let mut rig = guarded();
    assert_eq!(one(&mut rig, POD, syn(81)), Err(DropReason::PolicyDeny));
    // OTHER's egress allows all, POD's ingress does: its own connection, not an answer.
    let own = tcp(OTHER_ADDR, POD_ADDR, (81, 40_000), SYN);
    assert!(one(&mut rig, OTHER, own).is_ok());
    let entry = forward(&rig);
    assert_eq!((entry.key.sport, entry.action.rule), (81, 99));
    assert_eq!(entry.action.flags & flag::DENY, 0);
    // And what POD sends within that is an answer.
    let answer = tcp(POD_ADDR, OTHER_ADDR, (40_000, 81), SYN_ACK);
    assert!(one(&mut rig, POD, answer).is_ok());
    // But where the other side may not speak either, the denial opens nothing.
    let mut rig = guarded();
    set(&mut rig, |policies| {
        put(
            policies,
            OTHER,
            endpoint(vec![rule(5, Action::Deny)], vec![rule(6, Action::Deny)]),
        );
    });
    for _ in 0..2 {
        assert_eq!(one(&mut rig, POD, syn(80)), Err(DropReason::PolicyDeny));
        let back = tcp(OTHER_ADDR, POD_ADDR, (80, 40_000), SYN_ACK);
        assert!(one(&mut rig, OTHER, back).is_err());
    }
}

#[test]
fn a_denial_ends_with_the_tables_that_said_so() {
    let mut rig = guarded();
    assert_eq!(one(&mut rig, POD, syn(81)), Err(DropReason::PolicyDeny));
    set(&mut rig, |policies| {
        put(policies, OTHER, endpoint(allow(), allow()));
    });
    assert!(one(&mut rig, POD, syn(81)).is_ok());
    assert_eq!(forward(&rig).action.flags & flag::DENY, 0);
    assert_eq!(rig.connections().v4.quota.count(POD.0), 1);
}

fn deny_port_80(policies: &mut Policies) {
    put(
        policies,
        OTHER,
        endpoint(vec![to_port(7, Action::Deny, 80)], allow()),
    );
}

fn establish(rig: &mut Rig) {
    assert!(one(rig, POD, syn(80)).is_ok());
    let answer = tcp(OTHER_ADDR, POD_ADDR, (80, 40_000), SYN_ACK);
    assert!(one(rig, OTHER, answer).is_ok());
    assert!(one(rig, POD, tcp(POD_ADDR, OTHER_ADDR, (40_000, 80), ACK)).is_ok());
}

#[test]
fn a_change_of_policy_leaves_established_connections_alone() {
    let mut rig = guarded();
    establish(&mut rig);
    set(&mut rig, deny_port_80);
    assert!(one(&mut rig, POD, tcp(POD_ADDR, OTHER_ADDR, (40_000, 80), ACK)).is_ok());
    let new = tcp(POD_ADDR, OTHER_ADDR, (40_001, 80), SYN);
    assert_eq!(one(&mut rig, POD, new), Err(DropReason::PolicyDeny));
}

#[test]
fn with_reevaluation_they_end_from_either_side_and_stay_ended() {
    for by_answer in [false, true] {
        let mut rig = guarded();
        establish(&mut rig);
        set(&mut rig, |policies| policies.reevaluate = true);
        let query = || tcp(POD_ADDR, OTHER_ADDR, (40_000, 80), ACK);
        let answer = || tcp(OTHER_ADDR, POD_ADDR, (80, 40_000), ACK);
        assert!(one(&mut rig, POD, query()).is_ok(), "still allowed");
        set(&mut rig, deny_port_80);
        for _ in 0..3 {
            let (asked, answered) = if by_answer {
                let answered = one(&mut rig, OTHER, answer());
                (one(&mut rig, POD, query()), answered)
            } else {
                let asked = one(&mut rig, POD, query());
                (asked, one(&mut rig, OTHER, answer()))
            };
            assert_eq!(asked, Err(DropReason::PolicyDeny));
            assert_eq!(answered, Err(DropReason::PolicyDeny), "no way back in");
            // Any change of tables.
            set(&mut rig, |_| {});
        }
        set(&mut rig, |policies| {
            put(policies, OTHER, endpoint(allow(), allow()));
        });
        assert!(one(&mut rig, POD, query()).is_ok(), "picked up again");
    }
}

#[test]
fn pods_reach_their_host_only_if_it_is_let() {
    let ping = || from_pod(&ip4(POD_ADDR, NODE).icmp(8, 0, 0x0001_0001, b"ping"));
    let mut rig = guarded();
    assert!(one(&mut rig, POD, ping()).is_ok());
    for (to_host, reason) in [
        (ToHost::Drop, DropReason::EndpointToHost),
        (ToHost::Reject, DropReason::EndpointToHostRejected),
    ] {
        let mut rig = guarded();
        set(&mut rig, |policies| policies.to_host = to_host);
        for _ in 0..2 {
            let outcome = rig.run(POD, &[ping()]);
            assert_eq!(outcome.fates[0], fastpath::batch::Fate::Drop(reason));
            let told: Vec<_> = outcome.all().map(|(port, _)| port).collect();
            let expected: &[PortId] = if to_host == ToHost::Reject {
                &[POD]
            } else {
                &[]
            };
            assert_eq!(told, expected, "each time, remembered or not");
        }
        let by = Decider::from_bits(forward(&rig).action.rule).decided();
        assert_eq!(
            by,
            Decided::Rule(RuleId(1)),
            "the rule that allowed it so far"
        );
    }
}

#[test]
fn a_pod_that_may_say_nothing_still_answers_the_host() {
    let mut rig = rig();
    set(&mut rig, |policies| {
        put(
            policies,
            POD,
            endpoint(vec![rule(8, Action::Deny)], vec![rule(9, Action::Deny)]),
        );
        policies.to_host = ToHost::Drop;
    });
    let probe = segment4(NODE, POD_ADDR, (50_000, 8080), SYN, 100, 0);
    let probe = ethernet([2, 0, 0, 0, 0, 4], HOST_MAC, &probe);
    assert!(one(&mut rig, HOST, probe).is_ok());
    let answer = tcp(POD_ADDR, NODE, (8080, 50_000), SYN_ACK);
    assert_eq!(one(&mut rig, POD, answer).map(|(port, _)| port), Ok(HOST));
    let own = tcp(POD_ADDR, NODE, (8081, 50_000), SYN);
    assert_eq!(one(&mut rig, POD, own), Err(DropReason::PolicyDeny));
}

#[test]
fn what_the_kernel_forwards_has_no_rights_of_the_host() {
    let mut rig = rig();
    set(&mut rig, |policies| {
        put(
            policies,
            POD,
            endpoint(vec![rule(8, Action::Deny)], allow()),
        );
    });
    // As a client's packet to a NodePort that kube-proxy translated.
    let forwarded = segment4(SERVER, POD_ADDR, (50_000, 8080), SYN, 100, 0);
    let forwarded = ethernet([2, 0, 0, 0, 0, 4], HOST_MAC, &forwarded);
    let denied = one(&mut rig, HOST, forwarded);
    assert_eq!(denied, Err(DropReason::PolicyDeny));
    let own = segment4(NODE, POD_ADDR, (50_001, 8080), SYN, 100, 0);
    let own = ethernet([2, 0, 0, 0, 0, 4], HOST_MAC, &own);
    assert!(one(&mut rig, HOST, own).is_ok());
}

#[test]
fn what_was_ended_stays_ended_while_the_other_end_sends_again() {
    let mut rig = guarded();
    establish(&mut rig);
    set(&mut rig, |policies| policies.reevaluate = true);
    set(&mut rig, deny_port_80);
    let query = || tcp(POD_ADDR, OTHER_ADDR, (40_000, 80), ACK);
    let answer = || tcp(OTHER_ADDR, POD_ADDR, (80, 40_000), ACK);
    assert_eq!(one(&mut rig, POD, query()), Err(DropReason::PolicyDeny));
    // Ever slower, as TCP does.
    for seconds in [1, 2, 4, 8, 16, 32, 64, 120, 120, 120, 900] {
        rig.pass(Duration::from_secs(seconds));
        assert_eq!(one(&mut rig, OTHER, answer()), Err(DropReason::PolicyDeny));
    }
    assert_eq!(one(&mut rig, POD, query()), Err(DropReason::PolicyDeny));
}

#[test]
fn an_endpoint_that_is_down_or_unknown_is_closed_both_ways() {
    let mut rig = guarded();
    set(&mut rig, |policies| {
        if let Some(other) = &mut policies.endpoints[usize::from(OTHER.0)] {
            other.active = false;
        }
    });
    let own = || tcp(OTHER_ADDR, POD_ADDR, (5000, 80), SYN);
    assert_eq!(one(&mut rig, POD, syn(80)), Err(DropReason::PolicyDeny));
    assert_eq!(one(&mut rig, OTHER, own()), Err(DropReason::PolicyDeny));
    set(&mut rig, |policies| {
        put(policies, OTHER, None);
    });
    assert_eq!(one(&mut rig, POD, syn(80)), Err(DropReason::PolicyDeny));
    assert_eq!(one(&mut rig, OTHER, own()), Err(DropReason::PolicyDeny));
}

#[test]
fn invalid_packets_that_may_pass_are_judged_too() {
    let mut rig = guarded();
    let mut liberal = rig.tables().clone();
    liberal.tracking.drops_invalid = false;
    rig.set_tables(liberal);
    let reset = |port| tcp(POD_ADDR, OTHER_ADDR, (40_000, port), 0x04);
    assert!(one(&mut rig, POD, reset(80)).is_ok());
    assert_eq!(one(&mut rig, POD, reset(81)), Err(DropReason::PolicyDeny));
}

#[test]
fn what_is_said_about_one_type_of_ping_is_not_said_about_another() {
    let mut rig = rig();
    let echo_only = Rule {
        icmp: Some(Icmp {
            kind: 8,
            code: None,
        }),
        protocol: Some(1),
        ..rule(10, Action::Allow)
    };
    set(&mut rig, |policies| {
        put(policies, OTHER, endpoint(vec![echo_only], allow()));
    });
    let query = |kind| from_pod(&ip4(POD_ADDR, OTHER_ADDR).icmp(kind, 0, 0x0007_0001, &[0; 12]));
    assert!(one(&mut rig, POD, query(8)).is_ok());
    assert_eq!(one(&mut rig, POD, query(13)), Err(DropReason::PolicyDeny));
    assert!(
        one(&mut rig, POD, query(8)).is_ok(),
        "nor the other way round"
    );
    let reply = ip4(OTHER_ADDR, POD_ADDR).icmp(0, 0, 0x0007_0001, &[0; 12]);
    assert!(one(&mut rig, OTHER, ethernet(GATEWAY_MAC, OTHER_MAC, &reply)).is_ok());
}

#[test]
fn large_pings_are_answered_in_fragments() {
    let mut rig = guarded();
    set(&mut rig, |policies| {
        put(policies, OTHER, endpoint(allow(), vec![]));
    });
    let message = |src: &str, dst: &str, kind: u8| -> Vec<Vec<u8>> {
        let whole = ip4(src, dst).icmp(kind, 0, 0x0007_0001, &counted(2000)[5..]);
        let data = &whole[20..];
        [(0, 1200), (1200, data.len())]
            .map(|(from, to)| {
                let more = u16::from(to < data.len()) << 13;
                let packet = ip4(src, dst).id(7).fragment(more | (from / 8) as u16);
                let mac = if src == POD_ADDR { POD_MAC } else { OTHER_MAC };
                ethernet(GATEWAY_MAC, mac, &packet.packet(1, &data[from..to]))
            })
            .to_vec()
    };
    let query = message(POD_ADDR, OTHER_ADDR, 8);
    assert_eq!(rig.run(POD, &query).all().count(), 2);
    let reply = message(OTHER_ADDR, POD_ADDR, 0);
    assert_eq!(rig.run(OTHER, &reply).all().count(), 2);
    assert_eq!(rig.connections().v4.len(), 1);
}

#[test]
fn errors_about_what_was_denied_are_unrelated() {
    let mut rig = guarded();
    assert_eq!(one(&mut rig, POD, syn(81)), Err(DropReason::PolicyDeny));
    let quoted = segment4(POD_ADDR, OTHER_ADDR, (40_000, 81), SYN, 100, 0);
    let error = ip4(OTHER_ADDR, POD_ADDR).icmp(3, 3, 0, &quoted);
    let error = ethernet(GATEWAY_MAC, OTHER_MAC, &error);
    assert_eq!(one(&mut rig, OTHER, error), Err(DropReason::IcmpUnrelated));
}

#[test]
fn connections_that_leave_are_judged_by_what_they_were_before_translation() {
    let mut rig = rig();
    set(&mut rig, |policies| {
        put(
            policies,
            POD,
            endpoint(vec![], vec![to_port(11, Action::Allow, 443)]),
        );
    });
    let out = |port| from_pod(&segment4(POD_ADDR, SERVER, (40_000, port), SYN, 100, 0));
    let (port, frame) = one(&mut rig, POD, out(443)).expect("allowed");
    assert_eq!((port, seen(&frame).src), (UPLINK, NODE.parse().unwrap()));
    assert_eq!(one(&mut rig, POD, out(80)), Err(DropReason::PolicyDeny));
    // Another node's pod is nobody of ours: only the endpoint that it speaks to is asked.
    let syn = ip6("2001:db8:99::7", POD6).tcp(40_000, 80, SYN, &[]);
    assert_eq!(
        one(&mut rig, UPLINK, from_outside(&syn)),
        Err(DropReason::PolicyDeny)
    );
}

#[test]
fn a_flood_of_denials_leaves_room_for_connections() {
    let mut rig = guarded();
    let connections = rig.connections().v4.quota.limits().capacity;
    for port in 0..connections as u16 {
        let syn = tcp(POD_ADDR, OTHER_ADDR, (port, 81), SYN);
        assert_eq!(one(&mut rig, POD, syn), Err(DropReason::PolicyDeny));
    }
    assert!(rig.connections().v4.fill() <= 130);
    assert!(one(&mut rig, POD, syn(80)).is_ok());
}

#[test]
fn what_hides_behind_more_headers_than_are_walked_reaches_no_pod() {
    let mut rig = rig();
    set(&mut rig, |policies| {
        let ingress = vec![to_port(1, Action::Deny, 53), rule(2, Action::Allow)];
        put(policies, POD, endpoint(ingress, allow()));
    });
    // Destination options of 264 bytes, all of one that a receiver skips, and a query to port 53.
    let mut options = vec![17, 32, 0x1e, 255];
    options.resize(3 + 256, 0);
    options.extend([1, 3, 0, 0, 0]);
    let mut hidden = options;
    hidden.extend(&ip6(SERVER6, POD6).udp(5000, 53, b"query")[40..]);
    let packet = ip6(SERVER6, POD6).packet(60, &hidden);
    let passed = one(&mut rig, UPLINK, from_outside(&packet));
    assert_eq!(passed.map(|_| ()), Err(DropReason::Ip6Extension));
}

#[test]
fn what_nobody_answered_is_judged_again_when_policy_changes() {
    let mut rig = guarded();
    let query = || from_pod(&ip4(POD_ADDR, OTHER_ADDR).udp(5000, 80, b"query"));
    let answer = || {
        let answer = ip4(OTHER_ADDR, POD_ADDR).udp(80, 5000, b"answer");
        ethernet(GATEWAY_MAC, OTHER_MAC, &answer)
    };
    assert!(one(&mut rig, POD, query()).is_ok());
    set(&mut rig, deny_port_80);
    assert_eq!(one(&mut rig, POD, query()), Err(DropReason::PolicyDeny));
    assert_eq!(rig.connections().v4.quota.count(POD.0), 0);
    assert_ne!(forward(&rig).action.flags & flag::DENY, 0);
    // Allowed again, and answered: now a change leaves it alone.
    let mut again = guarded();
    std::mem::swap(&mut rig, &mut again);
    assert!(one(&mut rig, POD, query()).is_ok());
    assert!(one(&mut rig, OTHER, answer()).is_ok());
    set(&mut rig, deny_port_80);
    assert!(one(&mut rig, POD, query()).is_ok());
}

#[test]
fn who_may_not_send_has_no_neighbour_asked_for() {
    let mut world = world();
    for (net, hop) in &mut world.routes {
        if net.prefix_len() == 0 {
            let (port, way) = (UPLINK, Way::Uplink);
            *hop = Hop::Unresolved { port, way };
        }
    }
    let mut rig = Rig::new(world.tables()).with_connections();
    let query = |port| [from_pod(&ip4(POD_ADDR, SERVER).udp(5000, port, b"query"))];
    set(&mut rig, |policies| {
        let egress = vec![to_port(3, Action::Allow, 53)];
        put(policies, POD, endpoint(allow(), egress));
    });
    let outcome = rig.run_without_waiting(POD, &query(80));
    assert_eq!(outcome.fates, [Fate::Drop(DropReason::PolicyDeny)]);
    assert_eq!((rig.held(), rig.events()), (0, vec![]));
    let outcome = rig.run_without_waiting(POD, &query(53));
    assert_eq!(outcome.fates, [Fate::Held]);
    assert_eq!((rig.held(), rig.events().len()), (1, 1));
    // Judged, and counted, when it goes on.
    let allowed = |rig: &Rig| rig.tables().policies.counters.get(RuleId(3)).connections;
    assert_eq!(allowed(&rig), 0);
    let mut known = tables(1024..=65_535);
    known.policies = rig.tables().policies.clone();
    known.generation = rig.tables().generation + 1;
    rig.set_tables(known);
    rig.pass(Duration::from_millis(100));
    assert_eq!((rig.held(), allowed(&rig)), (0, 1));
}
