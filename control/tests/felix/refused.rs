//! What is not understood is closed and told; what can not be honoured is refused as a whole.

use std::sync::Arc;

use control::config::HostEndpoints;
use control::desired::{EndpointId, PoolType};
use control::felix::proto::{self, ConfigUpdate, Payload};
use control::felix::{State, Surroundings};
use control::policy::Model;
use control::policy::model::WorkloadId;
use control::policy::rule::Action;
use prost::Message as _;

use crate::{calculated, told};

fn pod(name: &str, change: impl FnOnce(&mut proto::WorkloadEndpoint)) -> Payload {
    let mut endpoint = proto::WorkloadEndpoint {
        state: "active".to_owned(),
        name: format!("cali-{name}"),
        ipv4_nets: vec!["10.0.0.5/32".to_owned()],
        ..proto::WorkloadEndpoint::default()
    };
    change(&mut endpoint);
    Payload::WorkloadEndpointUpdate(proto::WorkloadEndpointUpdate {
        id: Some(proto::WorkloadEndpointId {
            orchestrator_id: "k8s".to_owned(),
            workload_id: format!("ns/{name}"),
            endpoint_id: "eth0".to_owned(),
        }),
        endpoint: endpoint.encode_to_vec(),
    })
}

fn policy(rule: proto::Rule) -> Payload {
    Payload::ActivePolicyUpdate(proto::ActivePolicyUpdate {
        id: Some(proto::PolicyId {
            name: "p".to_owned(),
            kind: "GlobalNetworkPolicy".to_owned(),
            ..proto::PolicyId::default()
        }),
        policy: Some(proto::Policy {
            inbound_rules: vec![rule],
            tier: "default".to_owned(),
            ..proto::Policy::default()
        }),
    })
}

fn set(kind: i32, members: &[&str]) -> Payload {
    Payload::IpSetUpdate(proto::IpSetUpdate {
        id: "s".to_owned(),
        members: members.iter().map(|it| (*it).to_owned()).collect(),
        kind,
    })
}

fn config(name: &str, value: &str) -> Payload {
    Payload::ConfigUpdate(ConfigUpdate {
        config: [(name.to_owned(), value.to_owned())].into(),
    })
}

/// The only problem with what was said; none when all is well.
fn problem(payloads: Vec<Payload>) -> Option<String> {
    let got = calculated(&told("node1", payloads)).unwrap();
    assert!(got.problems.len() < 2, "{:?}", got.problems);
    got.problems.into_iter().next()
}

#[test]
fn an_endpoint_that_is_not_understood_is_not_served() {
    type Change = fn(&mut proto::WorkloadEndpoint);
    let cases: [(&str, Change); 6] = [
        ("not the name of an interface", |it| {
            it.name = "../x".to_owned();
        }),
        ("not the name of an interface", |it| it.name.clear()),
        ("not a prefix", |it| it.ipv4_nets.push("10.0.0".to_owned())),
        ("not an IPv6 address", |it| {
            it.ipv6_nets.push("10.0.0.1".to_owned());
        }),
        ("not a MAC address", |it| it.mac = "0:1:2:3:4:5".to_owned()),
        ("the name of a policy", |it| {
            it.tiers.push(proto::TierInfo {
                ingress_policies: vec![b"\x12\xff".to_vec()],
                ..proto::TierInfo::default()
            });
        }),
    ];
    for (why, change) in cases {
        let all = vec![pod("good", |_| {}), pod("bad", change)];
        let said = problem(all.clone()).unwrap();
        assert!(
            said.starts_with("endpoint ns/bad: ") && said.contains(why),
            "{said}"
        );
        let got = calculated(&told("node1", all.clone())).unwrap().desired;
        let ids: Vec<&EndpointId> = got.endpoints.iter().map(|it| &it.id).collect();
        assert_eq!(ids.len(), 1);
        assert_eq!(ids[0].name, "node1-k8s-good-eth0");
        // It is all well again when it is said well.
        let mended = all.into_iter().chain([pod("bad", |_| {})]);
        assert_eq!(problem(mended.collect()), None);
    }
}

#[test]
fn an_interface_has_one_endpoint_and_an_uplink_none() {
    let twice = vec![
        pod("a", |_| {}),
        pod("b", |it| it.name = "cali-a".to_owned()),
    ];
    let said = problem(twice.clone()).unwrap();
    assert_eq!(said, "endpoint ns/b: cali-a is that of ns/a");
    let got = calculated(&told("node1", twice)).unwrap().desired;
    let pods: Vec<&WorkloadId> = got.policy.workloads.keys().collect();
    assert_eq!(pods.len(), 1, "one in policy as in forwarding");
    let said = problem(vec![pod("a", |it| it.name = "eth0".to_owned())]).unwrap();
    assert_eq!(said, "endpoint ns/a: eth0 is no pod's interface");
}

#[test]
fn a_policy_that_is_not_understood_denies_everything() {
    type Change = fn(&mut proto::Rule);
    let cases: [(&str, Change); 9] = [
        ("IP version 5", |it| it.ip_version = 5),
        ("unknown protocol", |it| {
            it.protocol = Some(proto::Protocol {
                number_or_name: Some(proto::NumberOrName::Name("quic".to_owned())),
            });
        }),
        ("protocol 256", |it| {
            it.not_protocol = Some(proto::Protocol {
                number_or_name: Some(proto::NumberOrName::Number(256)),
            });
        }),
        ("not a prefix", |it| {
            it.src_net.push("10.0.0.0/33".to_owned());
        }),
        ("not a prefix", |it| it.not_dst_net.push("x".to_owned())),
        ("ports 9 to 3", |it| {
            it.dst_ports.push(proto::PortRange { first: 9, last: 3 });
        }),
        ("ports -1 to 3", |it| {
            it.not_src_ports
                .push(proto::PortRange { first: -1, last: 3 });
        }),
        ("ICMP type 300", |it| it.icmp = Some(proto::Icmp::Type(300))),
        // Which the classifier has no words for: it would refuse all of Felix's state.
        ("ICMP types are excluded", |it| {
            it.not_icmp = Some(proto::NotIcmp::Type(8));
            it.not_protocol = Some(proto::Protocol {
                number_or_name: Some(proto::NumberOrName::Number(17)),
            });
        }),
    ];
    for (why, change) in cases {
        let mut rule = proto::Rule {
            action: "allow".to_owned(),
            ..proto::Rule::default()
        };
        change(&mut rule);
        let said = problem(vec![policy(rule.clone())]).unwrap();
        let wanted = "policy GlobalNetworkPolicy p: inbound rule 1: ";
        assert!(said.starts_with(wanted) && said.contains(why), "{said}");
        let got = calculated(&told("node1", [policy(rule)])).unwrap().desired;
        let rules = &got.policy.policies.values().next().unwrap().rules;
        for rules in [&rules.inbound, &rules.outbound] {
            assert_eq!(rules.len(), 1);
            assert_eq!(rules[0].action, Action::Deny);
        }
    }
}

#[test]
fn control_characters_of_names_are_written_out() {
    let name = "a\n2026-01-01 INFO \u{1b}[31mforged";
    let said = problem(vec![pod(name, |it| it.mac = "x".to_owned())]).unwrap();
    assert!(
        said.starts_with(r"endpoint ns/a\n2026-01-01 INFO \u{1b}[31mforged: "),
        "{said}"
    );
    let settings = told("node1", [config("FelixHostname", name)]);
    let error = calculated(&settings).unwrap_err();
    assert!(!error.contains(char::is_control), "{error}");
}

#[test]
fn a_policy_that_asks_for_an_unknown_set_denies_everything() {
    let rule = proto::Rule {
        action: "allow".to_owned(),
        not_src_ip_set_ids: vec!["s".to_owned()],
        ..proto::Rule::default()
    };
    for (sets, is_known) in [
        (vec![], false),
        (vec![set(2, &["10.0.0.0/8"])], true),
        (vec![set(2, &["10.0.0.0/8", "10.0.0.1,tcp:80"])], false),
        (vec![set(1, &["10.0.0.0/8"])], false),
        (
            vec![set(1, &["10.0.0.1,tcp:80", "fd00::1/128,sctp:7"])],
            true,
        ),
        (vec![set(7, &[])], false),
    ] {
        let all: Vec<_> = sets.into_iter().chain([policy(rule.clone())]).collect();
        let got = calculated(&told("node1", all)).unwrap();
        let rules = &got.desired.policy.policies.values().next().unwrap().rules;
        let action = rules.inbound[0].action;
        assert_eq!(action == Action::Allow, is_known, "{:?}", got.problems);
        assert_eq!(got.problems.is_empty(), is_known);
        assert!(got.desired.policy.unknown_ip_sets().is_empty());
    }
    // A member that is not understood may go again.
    let mend = Payload::IpSetDeltaUpdate(proto::IpSetDeltaUpdate {
        id: "s".to_owned(),
        removed_members: vec!["x".to_owned()],
        ..proto::IpSetDeltaUpdate::default()
    });
    assert_eq!(problem(vec![set(2, &["x"]), policy(rule), mend]), None);
}

#[test]
fn routes_pools_and_nodes_that_are_not_understood_are_left_out() {
    let route = |dst: &str, kind| {
        Payload::RouteUpdate(proto::RouteUpdate {
            dst: dst.to_owned(),
            ip_pool_type: kind,
            types: 1,
            ..proto::RouteUpdate::default()
        })
    };
    let all = vec![route("10.1.0.0/26", 2), route("10.1.0.0/26", 9)];
    assert!(problem(all.clone()).unwrap().contains("unknown type 9"));
    assert!(
        calculated(&told("node1", all))
            .unwrap()
            .desired
            .routes
            .is_empty()
    );
    let got = calculated(&told("node1", [route("10.1.0.9/26", 2)]))
        .unwrap()
        .desired;
    assert_eq!(got.routes[0].dst.to_string(), "10.1.0.0/26");
    assert_eq!(got.routes[0].pool_type, PoolType::Vxlan);
    let pool = Payload::IpamPoolUpdate(proto::IpamPoolUpdate {
        id: "p".to_owned(),
        pool: Some(proto::IpamPool {
            cidr: "10.0.0.0/8".to_owned(),
            ipip_mode: "sometimes".to_owned(),
            ..proto::IpamPool::default()
        }),
    });
    assert!(problem(vec![pool]).unwrap().contains("unknown mode"));
    let node = Payload::HostMetadataUpdate(proto::HostMetadataUpdate {
        hostname: "n".to_owned(),
        ipv4_addr: "here".to_owned(),
        ..proto::HostMetadataUpdate::default()
    });
    assert!(problem(vec![node]).unwrap().starts_with("node n: "));
}

#[test]
fn what_can_not_be_honoured_is_refused_as_a_whole() {
    for (payload, why) in [
        (
            config("WireguardEnabled", "true"),
            "WireGuard is not supported",
        ),
        (
            config("FelixHostname", "node2"),
            "Felix is that of node node2, and this daemon is node node1",
        ),
    ] {
        let error = calculated(&told("node1", [payload])).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
    assert!(calculated(&told("node1", [config("FelixHostname", "node1")])).is_ok());
    let host = Payload::HostEndpointUpdate(proto::HostEndpointUpdate {
        id: Some(proto::HostEndpointId {
            endpoint_id: "eth0".to_owned(),
        }),
        endpoint: None,
    });
    let state = told("node1", [host]);
    let around = |host_endpoints| Surroundings {
        taken: &[],
        host_endpoints,
        before: Box::leak(Box::new(Arc::new(Model::default()))),
    };
    let error = state.desired(&around(HostEndpoints::Refuse)).unwrap_err();
    assert!(
        error.contains("host endpoint eth0") && error.contains("forwarded-only"),
        "{error}"
    );
    assert!(state.desired(&around(HostEndpoints::ForwardedOnly)).is_ok());
}

#[test]
fn what_did_not_change_stays_the_very_same() {
    let all = [
        set(2, &["10.0.0.0/8"]),
        policy(proto::Rule {
            src_ip_set_ids: vec!["s".to_owned()],
            ..proto::Rule::default()
        }),
        pod("a", |_| {}),
    ];
    let first = calculated(&told("node1", all.clone())).unwrap().desired;
    let of = |state: &State| {
        let around = Surroundings {
            taken: &[],
            host_endpoints: HostEndpoints::ForwardedOnly,
            before: &first.policy,
        };
        state.desired(&around).unwrap().desired
    };
    // Another Felix says the same: nothing has to be compiled again.
    let same = of(&told("node1", all.clone()));
    assert!(Arc::ptr_eq(&same.policy, &first.policy));
    // What is not said any more is gone.
    let less = of(&told("node1", all.clone().into_iter().take(2)));
    assert!(less.policy.workloads.is_empty() && less.endpoints.is_empty());
    assert_eq!(less.policy.policies.len(), 1);
    let nothing = of(&told("node1", []));
    assert!(nothing.policy.policies.is_empty() && nothing.policy.ip_sets.is_empty());
    let more = of(&told("node1", all.into_iter().chain([pod("b", |_| {})])));
    let workloads = |model: &Arc<Model>| {
        let mut all = model.workloads.values();
        Arc::clone(all.next().unwrap())
    };
    assert!(Arc::ptr_eq(
        &workloads(&more.policy),
        &workloads(&first.policy)
    ));
    let policies =
        [&more, &first].map(|it| Arc::clone(it.policy.policies.values().next().unwrap()));
    assert!(Arc::ptr_eq(&policies[0], &policies[1]));
}
