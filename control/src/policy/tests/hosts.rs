//! The legs of a packet's way, host endpoints, and what policy does not decide about.

use std::sync::Arc;

use std::net::IpAddr;

use crate::desired::EndpointToHost;
use crate::policy::evaluate;
use crate::policy::legs::{Leg, Party, host_endpoint, legs};
use crate::policy::model::{
    DefaultAction, Direction, HostEndpoint, Model, Policy, PolicyId, PolicyKind, Profile, Rules,
    TierPolicies, Workload, WorkloadId,
};
use crate::policy::packet::{Packet, State};
use crate::policy::rule::{Action, Matches, Origin, PortRange, Ports, Protocol, Rule, Side};
use crate::policy::verdict::{Outcome, Reason, Verdict};

fn pod(name: &str) -> WorkloadId {
    WorkloadId {
        orchestrator: "k8s".to_owned(),
        workload: format!("prod/{name}"),
        endpoint: "eth0".to_owned(),
    }
}

fn packet(from: &str, to: &str, port: u16) -> Packet {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    Packet {
        src: address(from),
        dst: address(to),
        protocol: Protocol::TCP,
        ports: Some((40000, port)),
        icmp: None,
        original_dst: None,
        state: State::New,
    }
}

fn rules(action: Action, port: Option<u16>) -> Rules {
    let ports = port.map(|port| Ports {
        ranges: vec![PortRange {
            first: port,
            last: port,
        }],
        named: Vec::new(),
    });
    let rule = Rule {
        action,
        matches: Matches {
            dst: Side {
                ports,
                ..Side::default()
            },
            ..Matches::default()
        },
        origin: Origin::default(),
    };
    Rules {
        inbound: vec![rule.clone()],
        outbound: vec![rule],
    }
}

/// A tier of one policy, which does one thing with one port or all.
fn tier(model: &mut Model, name: &str, action: Action, port: Option<u16>) -> Vec<TierPolicies> {
    let id = PolicyId {
        kind: PolicyKind::Global,
        namespace: None,
        name: name.into(),
    };
    let policy = Policy {
        tier: "t".into(),
        rules: rules(action, port),
        origin: Origin::default(),
    };
    model.policies.insert(id.clone(), policy.into());
    vec![TierPolicies {
        name: "t".into(),
        default_action: DefaultAction::Deny,
        ingress: vec![id.clone()],
        egress: vec![id],
    }]
}

/// Two pods that allow everything, on a node without host endpoints.
fn two_pods() -> Model {
    let mut model = Model::default();
    let allow = Profile {
        rules: rules(Action::Allow, None),
    };
    model.profiles.insert("allow".to_owned(), allow.into());
    for (name, address) in [("a", "10.0.0.1/32"), ("b", "10.0.0.2/32")] {
        let workload = Workload {
            node: "n".to_owned(),
            active: true,
            nets: vec![address.parse().unwrap()],
            profiles: vec!["allow".to_owned()],
            ..Workload::default()
        };
        model.workloads.insert(pod(name), workload.into());
    }
    model
}

/// A pod of the model, to be changed.
fn changed<'m>(model: &'m mut Model, name: &str) -> &'m mut Workload {
    Arc::make_mut(model.workloads.get_mut(&pod(name)).unwrap())
}

fn host() -> Party {
    Party::Host("n".to_owned())
}

fn outside(endpoint: Option<&str>) -> Party {
    Party::Outside {
        node: "n".to_owned(),
        endpoint: endpoint.map(str::to_owned),
    }
}

fn judge(model: &Model, from: &Party, to: &Party, packet: &Packet) -> Verdict {
    evaluate(model, packet, &legs(model, from, to))
}

fn reason(verdict: &Verdict) -> &Reason {
    &verdict.decided_by().unwrap().reason
}

#[test]
fn from_pod_to_pod_both_must_allow() {
    let (a, b) = (Party::Workload(pod("a")), Party::Workload(pod("b")));
    let packet = packet("10.0.0.1", "10.0.0.2", 80);
    let allowed = judge(&two_pods(), &a, &b, &packet);
    assert_eq!((allowed.outcome, allowed.legs.len()), (Outcome::Allow, 2));
    for (name, direction) in [("a", Direction::Egress), ("b", Direction::Ingress)] {
        let mut model = two_pods();
        let deny = tier(&mut model, "deny", Action::Deny, Some(80));
        changed(&mut model, name).tiers = deny;
        let verdict = judge(&model, &a, &b, &packet);
        assert_eq!(verdict.outcome, Outcome::Deny);
        assert_eq!(
            verdict.legs.last().unwrap().leg,
            Leg::Workload(pod(name), direction)
        );
        assert!(matches!(reason(&verdict), Reason::Rule(_)));
    }
}

#[test]
fn nothing_passes_an_endpoint_that_is_down_or_unknown() {
    let mut model = two_pods();
    changed(&mut model, "a").active = false;
    let (a, b) = (Party::Workload(pod("a")), Party::Workload(pod("b")));
    let mut established = packet("10.0.0.1", "10.0.0.2", 80);
    established.state = State::Established;
    let verdict = judge(&model, &a, &b, &established);
    assert_eq!(
        (verdict.outcome, reason(&verdict)),
        (Outcome::Deny, &Reason::Inactive)
    );
    let stranger = Party::Workload(pod("stranger"));
    let verdict = judge(&model, &stranger, &b, &established);
    assert_eq!(
        (verdict.outcome, reason(&verdict)),
        (Outcome::Deny, &Reason::UnknownEndpoint)
    );
}

#[test]
fn a_host_reaches_its_pods_and_pods_reach_it_if_the_node_says_so() {
    let mut model = two_pods();
    let deny = tier(&mut model, "deny", Action::Deny, None);
    changed(&mut model, "a").tiers = deny;
    let (a, b) = (Party::Workload(pod("a")), Party::Workload(pod("b")));
    let to_pod = packet("192.0.2.1", "10.0.0.1", 80);
    assert_eq!(judge(&model, &host(), &a, &to_pod).outcome, Outcome::Allow);

    let to_host = packet("10.0.0.2", "192.0.2.1", 22);
    for (action, outcome) in [
        (EndpointToHost::Drop, Outcome::Deny),
        (EndpointToHost::Accept, Outcome::Allow),
        (EndpointToHost::Return, Outcome::Allow),
        (EndpointToHost::Reject, Outcome::Deny),
    ] {
        model.settings.endpoint_to_host = action;
        let verdict = judge(&model, &b, &host(), &to_host);
        assert_eq!(
            (verdict.outcome, reason(&verdict)),
            (outcome, &Reason::EndpointToHost(action))
        );
        // What the pod's own policy denies is denied whatever the node says.
        assert_eq!(judge(&model, &a, &host(), &to_host).outcome, Outcome::Deny);
    }
    // A pod that may say nothing still answers its host, and finds it by IPv6.
    let mut answer = packet("10.0.0.1", "192.0.2.1", 40000);
    answer.state = State::Established;
    assert_eq!(judge(&model, &a, &host(), &answer).outcome, Outcome::Allow);
    let solicitation = Packet {
        protocol: Protocol::ICMPV6,
        ports: None,
        icmp: Some((135, 0)),
        ..packet("fd00::1", "fd00::2", 0)
    };
    let verdict = judge(&model, &a, &host(), &solicitation);
    assert_eq!(
        (verdict.outcome, reason(&verdict)),
        (Outcome::Allow, &Reason::NeighbourDiscovery)
    );
    let echo = Packet {
        icmp: Some((128, 0)),
        ..solicitation
    };
    assert_eq!(judge(&model, &a, &host(), &echo).outcome, Outcome::Deny);
}

#[test]
fn pods_do_not_tunnel_unless_they_may() {
    let mut model = two_pods();
    let (a, b) = (Party::Workload(pod("a")), Party::Workload(pod("b")));
    let vxlan = Packet {
        protocol: Protocol::UDP,
        ..packet("10.0.0.1", "10.0.0.2", 4789)
    };
    let ipip = Packet {
        protocol: Protocol::IPIP,
        ports: None,
        ..vxlan
    };
    assert_eq!(
        reason(&judge(&model, &a, &b, &vxlan)),
        &Reason::VxlanFromWorkload
    );
    assert_eq!(
        reason(&judge(&model, &a, &b, &ipip)),
        &Reason::IpipFromWorkload
    );
    // Only Calico's two kinds: IPv6 in IP is a protocol like any other.
    let ipv6_in_ip = Packet {
        protocol: Protocol(41),
        ..ipip
    };
    assert_eq!(judge(&model, &a, &b, &ipv6_in_ip).outcome, Outcome::Allow);
    // Only what pods send.
    let out = outside(None);
    assert_eq!(judge(&model, &out, &b, &vxlan).outcome, Outcome::Allow);
    model.settings.allow_vxlan_from_workloads = true;
    model.settings.allow_ipip_from_workloads = true;
    assert_eq!(judge(&model, &a, &b, &vxlan).outcome, Outcome::Allow);
    assert_eq!(judge(&model, &a, &b, &ipip).outcome, Outcome::Allow);
}

#[test]
fn packets_of_no_connection_are_dropped_unless_the_check_is_off() {
    let mut model = two_pods();
    let (a, b) = (Party::Workload(pod("a")), Party::Workload(pod("b")));
    let mut invalid = packet("10.0.0.1", "10.0.0.2", 80);
    invalid.state = State::Invalid;
    assert_eq!(reason(&judge(&model, &a, &b, &invalid)), &Reason::Invalid);
    model.settings.disable_conntrack_invalid_check = true;
    assert_eq!(judge(&model, &a, &b, &invalid).outcome, Outcome::Allow);
}

/// The model with a host endpoint for eth0.
fn with_eth0(model: Model, change: impl FnOnce(&mut Model, &mut HostEndpoint)) -> Model {
    let mut model = model;
    let mut endpoint = HostEndpoint {
        node: "n".to_owned(),
        interface: "eth0".to_owned(),
        ..HostEndpoint::default()
    };
    change(&mut model, &mut endpoint);
    model
        .host_endpoints
        .insert("eth0".to_owned(), endpoint.into());
    model
}

#[test]
fn a_host_endpoint_without_policy_closes_the_host_but_for_failsafe_ports() {
    let model = with_eth0(two_pods(), |_, _| {});
    let eth0 = outside(Some("eth0"));
    let to = |port| {
        judge(
            &model,
            &eth0,
            &host(),
            &packet("198.51.100.1", "192.0.2.1", port),
        )
    };
    assert_eq!(to(80).outcome, Outcome::Deny);
    assert!(matches!(reason(&to(22)), Reason::Failsafe(_)));
    let from = |port| {
        judge(
            &model,
            &host(),
            &eth0,
            &packet("192.0.2.1", "198.51.100.1", port),
        )
    };
    assert_eq!(from(80).outcome, Outcome::Deny);
    assert_eq!(from(6443).outcome, Outcome::Allow);
    // What is forwarded is no business of its normal policy, and has no failsafe ports.
    let a = Party::Workload(pod("a"));
    assert_eq!(
        judge(&model, &eth0, &a, &packet("198.51.100.1", "10.0.0.1", 80)).outcome,
        Outcome::Allow
    );
    let closed = with_eth0(two_pods(), |model, endpoint| {
        endpoint.forward = tier(model, "f", Action::Allow, Some(80));
    });
    assert_eq!(
        judge(&closed, &eth0, &a, &packet("198.51.100.1", "10.0.0.1", 80)).outcome,
        Outcome::Allow
    );
    assert_eq!(
        judge(&closed, &eth0, &a, &packet("198.51.100.1", "10.0.0.1", 22)).outcome,
        Outcome::Deny
    );
    assert_eq!(
        judge(&closed, &a, &eth0, &packet("10.0.0.1", "198.51.100.1", 22)).outcome,
        Outcome::Deny
    );
    // Without host endpoints nothing stands in the way.
    let free = judge(
        &two_pods(),
        &outside(None),
        &host(),
        &packet("198.51.100.1", "192.0.2.1", 80),
    );
    assert_eq!((free.outcome, free.decided_by()), (Outcome::Allow, None));
}

#[test]
fn early_policy_that_allows_speaks_for_the_later() {
    let eth0 = outside(Some("eth0"));
    for early in ["untracked", "pre-dnat"] {
        let model = with_eth0(two_pods(), |model, endpoint| {
            let tiers = tier(model, "early", Action::Allow, Some(80));
            match early {
                "untracked" => endpoint.untracked = tiers,
                _ => endpoint.pre_dnat = tiers,
            }
            endpoint.forward = tier(model, "f", Action::Deny, None);
        });
        let to = |party: &Party, port| {
            judge(
                &model,
                &eth0,
                party,
                &packet("198.51.100.1", "10.0.0.1", port),
            )
            .outcome
        };
        let a = Party::Workload(pod("a"));
        for party in [&host(), &a] {
            assert_eq!(to(party, 80), Outcome::Allow, "{early}");
            // The end of an early tier is no verdict: later policy decides.
            assert_eq!(to(party, 81), Outcome::Deny, "{early}");
        }
        // A pod's own policy is asked all the same.
        let mut model = model;
        let deny = tier(&mut model, "own", Action::Deny, None);
        changed(&mut model, "a").tiers = deny;
        let verdict = judge(&model, &eth0, &a, &packet("198.51.100.1", "10.0.0.1", 80));
        assert_eq!(verdict.outcome, Outcome::Deny, "{early}");
    }
}

#[test]
fn policy_before_dnat_sees_the_destination_that_was_asked_for() {
    let model = with_eth0(two_pods(), |model, endpoint| {
        endpoint.pre_dnat = tier(model, "early", Action::Deny, Some(80));
    });
    let mut translated = packet("198.51.100.1", "10.0.0.1", 8080);
    let (eth0, a) = (outside(Some("eth0")), Party::Workload(pod("a")));
    assert_eq!(
        judge(&model, &eth0, &a, &translated).outcome,
        Outcome::Allow
    );
    translated.original_dst = Some(("192.0.2.1".parse().unwrap(), 80));
    assert_eq!(judge(&model, &eth0, &a, &translated).outcome, Outcome::Deny);
}

#[test]
fn untracked_policy_knows_failsafe_replies_by_their_source_port_and_ignores_state() {
    let model = with_eth0(two_pods(), |model, endpoint| {
        endpoint.untracked = tier(model, "early", Action::Deny, None);
    });
    let eth0 = outside(Some("eth0"));
    let mut reply = packet("198.51.100.1", "192.0.2.1", 40000);
    reply.ports = Some((6443, 40000));
    reply.state = State::Established;
    assert_eq!(
        judge(&model, &eth0, &host(), &reply).outcome,
        Outcome::Allow
    );
    reply.ports = Some((80, 40000));
    assert_eq!(judge(&model, &eth0, &host(), &reply).outcome, Outcome::Deny);
}

/// `felix/rules/static.go`: what a failsafe port lets through carries no mark.
#[test]
fn a_failsafe_port_ends_its_step_and_no_more() {
    for is_untracked in [true, false] {
        let model = with_eth0(two_pods(), |model, endpoint| {
            let early = tier(model, "early", Action::Deny, None);
            if is_untracked {
                endpoint.untracked = early;
            } else {
                endpoint.pre_dnat = early;
            }
            endpoint.forward = tier(model, "forward", Action::Deny, Some(22));
        });
        let (eth0, a) = (outside(Some("eth0")), Party::Workload(pod("a")));
        let to = |dst, port| packet("198.51.100.1", dst, port);
        // The host's own policy has the port open once more; what is forwarded has none.
        assert_eq!(
            judge(&model, &eth0, &host(), &to("192.0.2.1", 22)).outcome,
            Outcome::Allow
        );
        let forwarded = judge(&model, &eth0, &a, &to("10.0.0.1", 22));
        assert_eq!(forwarded.outcome, Outcome::Deny);
        assert!(matches!(forwarded.legs[0].reason, Reason::Failsafe(_)));
        assert!(matches!(forwarded.legs[1].leg, Leg::HostForward(..)));
    }
}

#[test]
fn what_is_not_tracked_is_neither_established_nor_out_of_place() {
    let model = with_eth0(two_pods(), |model, endpoint| {
        endpoint.untracked = tier(model, "early", Action::Allow, Some(80));
        endpoint.forward = tier(model, "forward", Action::Deny, None);
    });
    let a = Party::Workload(pod("a"));
    let mut closed = model.clone();
    changed(&mut closed, "a").profiles.clear();
    for state in [State::New, State::Established, State::Invalid] {
        let mut sent = packet("198.51.100.1", "10.0.0.1", 80);
        sent.state = state;
        let judged = |model| judge(model, &outside(Some("eth0")), &a, &sent).outcome;
        assert_eq!(judged(&model), Outcome::Allow, "{state:?}");
        assert_eq!(judged(&closed), Outcome::Deny, "{state:?}");
    }
}

#[test]
fn the_endpoint_for_all_interfaces_is_met_between_pods_when_forwarding_but_not_by_the_host() {
    let mut model = with_eth0(two_pods(), |_, _| {});
    let mut all = HostEndpoint {
        node: "n".to_owned(),
        interface: "*".to_owned(),
        ..HostEndpoint::default()
    };
    all.forward = tier(&mut model, "f", Action::Allow, Some(80));
    all.normal = tier(&mut model, "deny", Action::Deny, None);
    model.host_endpoints.insert("all".to_owned(), all.into());
    let (a, b) = (Party::Workload(pod("a")), Party::Workload(pod("b")));
    assert_eq!(
        judge(&model, &a, &b, &packet("10.0.0.1", "10.0.0.2", 80)).outcome,
        Outcome::Allow
    );
    assert_eq!(
        judge(&model, &a, &b, &packet("10.0.0.1", "10.0.0.2", 81)).outcome,
        Outcome::Deny
    );
    assert_eq!(
        judge(&model, &host(), &a, &packet("192.0.2.1", "10.0.0.1", 81)).outcome,
        Outcome::Allow
    );
    // It has the interfaces that have none of their own.
    assert_eq!(host_endpoint(&model, "n", "eth0", &[]), Some("eth0"));
    assert_eq!(host_endpoint(&model, "n", "eth1", &[]), Some("all"));
    assert_eq!(host_endpoint(&model, "other", "eth0", &[]), None);
    let address: IpAddr = "192.0.2.1".parse().unwrap();
    let by_address = HostEndpoint {
        node: "n".to_owned(),
        expected: vec![address],
        ..HostEndpoint::default()
    };
    model
        .host_endpoints
        .insert("by-address".to_owned(), by_address.into());
    assert_eq!(
        host_endpoint(&model, "n", "eth1", &[address]),
        Some("by-address")
    );
    // Of those that fit by name or by address, the first name counts (`resolveHostEndpoints` in
    // `felix/dataplane/linux/endpoint_mgr.go`).
    assert_eq!(
        host_endpoint(&model, "n", "eth0", &[address]),
        Some("by-address")
    );
    let by_address = model.host_endpoints.remove("by-address").unwrap();
    model
        .host_endpoints
        .insert("the-address".to_owned(), by_address);
    assert_eq!(host_endpoint(&model, "n", "eth0", &[address]), Some("eth0"));
}

#[test]
fn log_rules_are_noted_and_do_not_decide() {
    let mut model = two_pods();
    let tiers = tier(&mut model, "log", Action::Log, None);
    changed(&mut model, "b").tiers = tiers;
    let (a, b) = (Party::Workload(pod("a")), Party::Workload(pod("b")));
    let verdict = judge(&model, &a, &b, &packet("10.0.0.1", "10.0.0.2", 80));
    assert_eq!(verdict.logs.len(), 1);
    // The policy applies, so that the tier ends with its default action.
    assert_eq!(
        reason(&verdict).to_string(),
        "no rule matched in tier t; GlobalNetworkPolicy log selects this endpoint"
    );
}
