//! Policy of host endpoints: what is forwarded meets it, by which interfaces, and in what order.

use std::collections::BTreeMap;
use std::sync::Arc;

use fastpath::policy::{HostEndpoint, HostEndpoints, Policies, ToHost};
use fastpath::port::PortId;
use fastpath::reason::DropReason;
use flowtable::acl::{Action, Chain, ChainSpec, Compiler, Policy, Rule, RuleId, Tier, TierDefault};
use flowtable::flow::flag;
use pcap_tests::build::{ethernet, ip4, ip6};
use pcap_tests::rig::Rig;

use crate::node::*;
use crate::policy::{
    ACK, SYN, SYN_ACK, allow, endpoint, entries, forward, put, rule, set, to_port,
};

type Denied = Result<(PortId, Vec<u8>), DropReason>;

/// What leaves the packets that no rule is about to whoever is next.
pub(crate) fn chain(rules: Vec<Rule>) -> Chain {
    let tier = Tier {
        policies: vec![Arc::new(Policy { rules })].into(),
        default: TierDefault::Pass,
    };
    let spec = ChainSpec {
        tiers: vec![tier],
        allow_at_end: true,
        ..ChainSpec::default()
    };
    Compiler::default().chain(&spec).expect("small")
}

fn deny(id: u32, port: u16) -> Vec<Rule> {
    vec![to_port(id, Action::Deny, port)]
}

/// One for the uplink, one for all interfaces without one.
fn hosts(uplink: HostEndpoint, wildcard: HostEndpoint) -> Arc<HostEndpoints> {
    let failsafes = Vec::new();
    Arc::new(HostEndpoints::new(
        vec![Some(uplink)],
        Some(wildcard),
        failsafes,
    ))
}

/// A node whose pods allow all, by rule 99, and whose uplink has this host endpoint.
fn with_uplink(uplink: HostEndpoint) -> Rig {
    with(|policies| policies.hosts = Some(hosts(uplink, HostEndpoint::default())))
}

fn with_wildcard(wildcard: HostEndpoint) -> Rig {
    with(|policies| policies.hosts = Some(hosts(HostEndpoint::default(), wildcard)))
}

fn with(change: impl FnOnce(&mut Policies)) -> Rig {
    let mut rig = rig();
    set(&mut rig, |policies| {
        for pod in [POD, OTHER] {
            put(policies, pod, endpoint(allow(), allow()));
        }
        change(policies);
    });
    rig
}

/// The first packet of a connection, of TCP.
fn opening(src: &str, dst: &str, port: u16) -> Vec<u8> {
    segment4(src, dst, (40_000, port), SYN, 100, 0)
}

fn comes_in(rig: &mut Rig, port: u16) -> Denied {
    one(rig, UPLINK, from_outside(&opening(SERVER, POD_ADDR, port)))
}

fn leaves(rig: &mut Rig, port: u16) -> Denied {
    one(rig, POD, from_pod(&opening(POD_ADDR, SERVER, port)))
}

/// What each rule has decided.
fn judged(rig: &Rig) -> BTreeMap<u32, u64> {
    let counters = &rig.tables().policies.counters;
    let all = (1..=100).map(|id| (id, counters.get(RuleId(id)).connections));
    all.filter(|(_, count)| *count > 0).collect()
}

fn deciders(rig: &Rig) -> Vec<(bool, u32)> {
    let all = entries(rig);
    let mut all: Vec<_> = all
        .iter()
        .map(|view| (view.is_reply(), view.action.rule))
        .collect();
    all.sort_unstable();
    all
}

#[test]
fn what_comes_in_meets_the_uplinks_endpoint_then_the_pods() {
    let ingress = vec![
        to_port(20, Action::Deny, 80),
        to_port(21, Action::Allow, 81),
    ];
    let mut rig = with_uplink(HostEndpoint {
        ingress: Some(chain(ingress)),
        egress: Some(chain(vec![rule(22, Action::Deny)])),
        ..HostEndpoint::default()
    });
    for _ in 0..3 {
        assert_eq!(comes_in(&mut rig, 80), Err(DropReason::PolicyDeny));
    }
    let counters = rig.tables().policies.counters.clone();
    assert_eq!(counters.get(RuleId(20)).connections, 1, "judged once");
    assert_eq!(
        counters.get(RuleId(99)).connections,
        0,
        "the pod's not at all"
    );
    let denial = forward(&rig);
    assert_ne!(denial.action.flags & flag::DENY, 0);
    assert_eq!((denial.action.rule, denial.packets), (20, 3));
    // The same for IPv6.
    let syn = ip6(SERVER6, POD6).tcp(40_000, 80, SYN, &[]);
    let denied = one(&mut rig, UPLINK, from_outside(&syn));
    assert_eq!(denied, Err(DropReason::PolicyDeny));
    assert_eq!(counters.get(RuleId(20)).connections, 2);

    let mut rig = with(|policies| policies.hosts = rig.tables().policies.hosts.clone());
    assert!(comes_in(&mut rig, 81).is_ok());
    assert_eq!(deciders(&rig), [(false, 21), (true, 99)]);
    // The answer leaves by an endpoint that lets nothing out.
    let answer = segment4(POD_ADDR, SERVER, (81, 40_000), SYN_ACK, 200, 101);
    assert!(one(&mut rig, POD, from_pod(&answer)).is_ok());
    // What no rule is about is the pod's alone to decide.
    let mut rig = with(|policies| policies.hosts = rig.tables().policies.hosts.clone());
    assert!(comes_in(&mut rig, 82).is_ok());
    assert_eq!(deciders(&rig), [(false, 0), (true, 99)]);
}

#[test]
fn what_leaves_meets_the_pods_endpoint_then_the_uplinks() {
    let egress = vec![
        to_port(20, Action::Deny, 80),
        to_port(21, Action::Allow, 81),
    ];
    let uplink = HostEndpoint {
        ingress: Some(chain(vec![rule(22, Action::Deny)])),
        egress: Some(chain(egress)),
        ..HostEndpoint::default()
    };
    let mut rig = with_uplink(uplink.clone());
    for _ in 0..2 {
        assert_eq!(leaves(&mut rig, 80), Err(DropReason::PolicyDeny));
    }
    assert_eq!(forward(&rig).action.rule, 20);
    let mut rig = with_uplink(uplink);
    let (port, frame) = leaves(&mut rig, 81).expect("allowed");
    let sent = seen(&frame);
    assert_eq!((port, sent.src), (UPLINK, NODE.parse().unwrap()));
    assert_eq!(deciders(&rig), [(false, 99), (true, 21)]);
    let answer = segment4(SERVER, NODE, (81, sent.ports.0), SYN_ACK, 200, 101);
    assert!(one(&mut rig, UPLINK, from_outside(&answer)).is_ok());
}

#[test]
fn early_policy_that_allows_speaks_for_the_rest_of_its_endpoint() {
    let rules = |id| {
        chain(vec![
            to_port(id, Action::Allow, 80),
            to_port(id + 1, Action::Deny, 81),
        ])
    };
    let all_denied = || chain(vec![rule(29, Action::Deny)]);
    let untracked = HostEndpoint {
        untracked: Some(rules(30)),
        pre_dnat: Some(all_denied()),
        ingress: Some(all_denied()),
        ..HostEndpoint::default()
    };
    let pre_dnat = HostEndpoint {
        untracked: Some(chain(deny(33, 7))),
        pre_dnat: Some(rules(30)),
        ingress: Some(all_denied()),
        ..HostEndpoint::default()
    };
    for early in [untracked, pre_dnat] {
        let mut rig = with_uplink(early.clone());
        assert!(comes_in(&mut rig, 80).is_ok());
        assert_eq!(judged(&rig), BTreeMap::from([(30, 1), (99, 1)]));
        for (port, by) in [(81, 31), (82, 29)] {
            let mut rig = with_uplink(early.clone());
            assert_eq!(comes_in(&mut rig, port), Err(DropReason::PolicyDeny));
            assert_eq!(judged(&rig), BTreeMap::from([(by, 1)]));
        }
        // But not for the pod.
        let mut rig = with_uplink(early);
        set(&mut rig, |policies| {
            put(policies, POD, endpoint(deny(40, 80), allow()));
        });
        assert_eq!(comes_in(&mut rig, 80), Err(DropReason::PolicyDeny));
        assert_eq!(judged(&rig), BTreeMap::from([(30, 1), (40, 1)]));
    }
}

/// `felix/rules/static.go`: what a failsafe port lets through carries no mark.
#[test]
fn a_failsafe_port_ends_its_step_and_no_more() {
    let open = || chain(vec![to_port(30, Action::Allow, 80), rule(31, Action::Deny)]);
    let untracked = HostEndpoint {
        untracked: Some(open()),
        ..HostEndpoint::default()
    };
    let pre_dnat = HostEndpoint {
        pre_dnat: Some(open()),
        ..HostEndpoint::default()
    };
    for early in [untracked, pre_dnat] {
        for (ingress, expected) in [
            (None, Ok(0)),
            (Some(chain(deny(32, 80))), Err(32)),
            (Some(chain(vec![to_port(33, Action::Allow, 80)])), Ok(33)),
        ] {
            let uplink = HostEndpoint {
                ingress,
                ..early.clone()
            };
            let mut rig = with(|policies| {
                let failsafes = vec![RuleId(30)];
                let hosts = HostEndpoints::new(vec![Some(uplink)], None, failsafes);
                policies.hosts = Some(Arc::new(hosts));
            });
            let passes = comes_in(&mut rig, 80).is_ok();
            let decider = forward(&rig).action.rule;
            assert_eq!(if passes { Ok(decider) } else { Err(decider) }, expected);
            let counters = &rig.tables().policies.counters;
            assert_eq!(counters.get(RuleId(30)).connections, 1);
        }
    }
}

#[test]
fn tunnels_hide_packets_from_the_uplinks_endpoint() {
    let closed = || HostEndpoint {
        untracked: Some(chain(vec![rule(20, Action::Deny)])),
        ingress: Some(chain(vec![rule(21, Action::Deny)])),
        egress: Some(chain(vec![rule(22, Action::Deny)])),
        ..HostEndpoint::default()
    };
    let arrives = |rig: &mut Rig| {
        let inner = opening(REMOTE, POD_ADDR, 80);
        one(rig, UPLINK, from_outside(&tunnelled(&inner)))
    };
    let departs = |rig: &mut Rig| one(rig, POD, from_pod(&opening(POD_ADDR, REMOTE, 80)));
    let mut rig = with_uplink(closed());
    assert!(arrives(&mut rig).is_ok());
    assert_eq!(departs(&mut rig).map(|(port, _)| port), Ok(UPLINK));
    // The one for all interfaces has the tunnels' too.
    let mut rig = with_wildcard(closed());
    assert_eq!(arrives(&mut rig), Err(DropReason::PolicyDeny));
    assert_eq!(judged(&rig), BTreeMap::from([(20, 1)]));
    let mut rig = with_wildcard(HostEndpoint {
        egress: Some(chain(vec![rule(22, Action::Deny)])),
        ..HostEndpoint::default()
    });
    assert_eq!(departs(&mut rig), Err(DropReason::PolicyDeny));
    assert_eq!(forward(&rig).action.rule, 22);
    // And not those of an uplink that has its own.
    let entrance = HostEndpoint {
        egress: None,
        ..closed()
    };
    assert!(comes_in(&mut with_wildcard(entrance), 80).is_ok());
}

#[test]
fn between_pods_there_is_the_endpoint_for_all_interfaces_only() {
    let speaks = |rig: &mut Rig| one(rig, POD, from_pod(&opening(POD_ADDR, OTHER_ADDR, 80)));
    let closed = |id| HostEndpoint {
        ingress: Some(chain(vec![rule(id, Action::Deny)])),
        egress: Some(chain(vec![rule(id, Action::Deny)])),
        ..HostEndpoint::default()
    };
    assert!(speaks(&mut with_uplink(closed(20))).is_ok());
    let mut rig = with_wildcard(closed(20));
    assert_eq!(speaks(&mut rig), Err(DropReason::PolicyDeny));
    assert_eq!(forward(&rig).action.rule, 20);
    // Untracked policy is for what comes from without.
    let untracked = HostEndpoint {
        untracked: Some(chain(vec![rule(20, Action::Deny)])),
        ..HostEndpoint::default()
    };
    assert!(speaks(&mut with_wildcard(untracked)).is_ok());
    // What pods' policies say is what the connection is known by.
    let open = HostEndpoint {
        ingress: Some(chain(vec![rule(23, Action::Allow)])),
        egress: Some(chain(vec![rule(24, Action::Allow)])),
        ..HostEndpoint::default()
    };
    let mut rig = with_wildcard(open);
    assert!(speaks(&mut rig).is_ok());
    assert_eq!(deciders(&rig), [(false, 99), (true, 99)]);
    let counters = &rig.tables().policies.counters;
    assert_eq!(
        [23, 24].map(|id| counters.get(RuleId(id)).connections),
        [1, 1]
    );
}

#[test]
fn the_host_and_its_pods_are_not_forwarded_to() {
    let closed = || HostEndpoint {
        untracked: Some(chain(vec![rule(19, Action::Deny)])),
        ingress: Some(chain(vec![rule(20, Action::Deny)])),
        egress: Some(chain(vec![rule(21, Action::Deny)])),
        ..HostEndpoint::default()
    };
    let mut rig = with(|policies| policies.hosts = Some(hosts(closed(), closed())));
    let by_host = |packet: &[u8]| ethernet([2, 0, 0, 0, 0, 4], HOST_MAC, packet);
    assert!(one(&mut rig, HOST, by_host(&opening(NODE, POD_ADDR, 80))).is_ok());
    assert!(one(&mut rig, POD, from_pod(&opening(POD_ADDR, NODE, 81))).is_ok());
    // What the kernel forwards has come by an interface that is not known.
    let forwarded = opening(SERVER, POD_ADDR, 80);
    let denied = one(&mut rig, HOST, by_host(&forwarded));
    assert_eq!(denied, Err(DropReason::PolicyDeny));
    let mut rig = with_uplink(closed());
    assert!(one(&mut rig, HOST, by_host(&forwarded)).is_ok());
    // Another node's pod that speaks to the host is for the host's own rules.
    let mut rig = with(|policies| policies.hosts = Some(hosts(closed(), closed())));
    let inner = opening(REMOTE, NODE, 80);
    let arrives = one(&mut rig, UPLINK, from_outside(&tunnelled(&inner)));
    assert_eq!(arrives.map(|(port, _)| port), Ok(HOST));
}

#[test]
fn a_pod_meets_policy_before_dnat_on_its_way_to_the_host() {
    let early = || HostEndpoint {
        pre_dnat: Some(chain(vec![
            to_port(20, Action::Deny, 80),
            to_port(21, Action::Allow, 81),
        ])),
        ..HostEndpoint::default()
    };
    let asks = |rig: &mut Rig, port| one(rig, POD, from_pod(&opening(POD_ADDR, NODE, port)));
    let mut rig = with_wildcard(early());
    assert_eq!(asks(&mut rig, 80), Err(DropReason::PolicyDeny));
    assert!(asks(&mut rig, 81).is_ok());
    // Which opens nothing that the pod's policy or the host closes.
    set(&mut rig, |policies| policies.to_host = ToHost::Drop);
    assert_eq!(asks(&mut rig, 82), Err(DropReason::EndpointToHost));
    let other = from_pod(&segment4(POD_ADDR, NODE, (40_001, 81), SYN, 100, 0));
    assert_eq!(one(&mut rig, POD, other), Err(DropReason::EndpointToHost));
}

#[test]
fn with_reevaluation_a_host_endpoint_ends_connections_too() {
    for by_answer in [false, true] {
        let mut rig = with_uplink(HostEndpoint::default());
        set(&mut rig, |policies| policies.reevaluate = true);
        assert!(comes_in(&mut rig, 80).is_ok());
        let answer = || from_pod(&segment4(POD_ADDR, SERVER, (80, 40_000), SYN_ACK, 200, 101));
        assert!(one(&mut rig, POD, answer()).is_ok());
        let query = || from_outside(&segment4(SERVER, POD_ADDR, (40_000, 80), ACK, 101, 201));
        assert!(one(&mut rig, UPLINK, query()).is_ok());
        // Its rule for what leaves is not about what has come in.
        let closed = HostEndpoint {
            ingress: Some(chain(deny(20, 80))),
            ..HostEndpoint::default()
        };
        let open = HostEndpoint {
            egress: Some(chain(vec![rule(21, Action::Deny)])),
            ..HostEndpoint::default()
        };
        set(&mut rig, |policies| {
            policies.hosts = Some(hosts(open, HostEndpoint::default()));
        });
        assert!(one(&mut rig, POD, answer()).is_ok());
        assert!(one(&mut rig, UPLINK, query()).is_ok());
        set(&mut rig, |policies| {
            policies.hosts = Some(hosts(closed, HostEndpoint::default()));
        });
        let (port, frame) = if by_answer {
            (POD, answer())
        } else {
            (UPLINK, query())
        };
        assert_eq!(one(&mut rig, port, frame), Err(DropReason::PolicyDeny));
        assert_eq!(forward(&rig).action.rule, 20);
    }
}

#[test]
fn answers_and_errors_about_what_was_allowed_are_not_judged() {
    let mut rig = with_uplink(HostEndpoint {
        pre_dnat: Some(chain(vec![rule(20, Action::Deny)])),
        ingress: Some(chain(vec![rule(21, Action::Deny)])),
        ..HostEndpoint::default()
    });
    let ping = ip4(POD_ADDR, SERVER).icmp(8, 0, 0x0007_0001, b"ping");
    let (_, frame) = one(&mut rig, POD, from_pod(&ping)).expect("allowed");
    let (id, _) = seen(&frame).ports;
    let pong = ip4(SERVER, NODE).icmp(0, 0, u32::from(id) << 16 | 1, b"ping");
    assert!(one(&mut rig, UPLINK, from_outside(&pong)).is_ok());
    let (_, frame) = leaves(&mut rig, 80).expect("allowed");
    let error = ip4("203.0.113.9", NODE).icmp(3, 1, 0, &frame[14..]);
    assert!(one(&mut rig, UPLINK, from_outside(&error)).is_ok());
}
