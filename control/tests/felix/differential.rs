//! What files say, sent as Felix would send it and taken as Felix's, is what the files' source makes of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use control::config::{Cluster, HostEndpoints, Source, compute_with, load_paths, load_sources};
use control::desired::{Desired, Endpoint, EndpointId, Node};
use control::policy::Model;
use control::policy::model::Workload;
use control::policy::testing::Suite;

use crate::felix_encoder::{Generation, snapshot};
use crate::restrict::restrict;
use crate::{calculated, told};

/// Sends a state in every generation, and compares what arrives.
fn arrives(desired: &Desired, what: &str) {
    let expected = restrict(desired);
    for generation in [Generation::V3_31, Generation::V3_32, Generation::V3_33] {
        let state = told(&desired.node_name, snapshot(desired, generation));
        let got = calculated(&state).unwrap_or_else(|why| panic!("{what}: {why}"));
        assert!(got.problems.is_empty(), "{what}: {:?}", got.problems);
        same(&got.desired, &expected, &format!("{what}, {generation:?}"));
    }
}

/// Compares piece by piece, so that a difference can be read.
fn same(got: &Desired, expected: &Desired, what: &str) {
    assert_eq!(got.nodes, expected.nodes, "{what}");
    assert_eq!(got.vteps, expected.vteps, "{what}");
    assert_eq!(got.pools, expected.pools, "{what}");
    assert_eq!(got.routes, expected.routes, "{what}");
    assert_eq!(got.endpoints, expected.endpoints, "{what}");
    assert_eq!(got.felix, expected.felix, "{what}");
    assert_eq!(got.services, expected.services, "{what}");
    let (policy, wanted) = (&got.policy, &expected.policy);
    assert_eq!(policy.settings, wanted.settings, "{what}");
    assert_eq!(policy.ip_sets, wanted.ip_sets, "{what}");
    assert_eq!(policy.policies, wanted.policies, "{what}");
    assert_eq!(policy.profiles, wanted.profiles, "{what}");
    assert_eq!(policy.workloads, wanted.workloads, "{what}");
    assert_eq!(policy.host_endpoints, wanted.host_endpoints, "{what}");
    assert_eq!(got, expected, "{what}");
}

/// The states of all nodes of some resources.
fn of_every_node(cluster: &Cluster) -> Vec<Desired> {
    let nodes = cluster.base.nodes.iter();
    let nodes = nodes.map(|node| node.meta.name.value.as_str());
    nodes
        .map(|node| compute_with(cluster, node, HostEndpoints::ForwardedOnly).expect(node))
        .collect()
}

/// Policy alone, of every node that it names: its files have no nodes.
fn of_policy(model: &Arc<Model>) -> Vec<Desired> {
    let mut nodes: BTreeMap<String, Desired> = BTreeMap::new();
    let of_pods = model.workloads.values().map(|pod| &pod.node);
    for name in of_pods.chain(model.host_endpoints.values().map(|host| &host.node)) {
        nodes.entry(name.clone()).or_insert_with(|| Desired {
            node_name: name.clone(),
            nodes: [(
                name.clone(),
                Node {
                    name: name.clone(),
                    ..Node::default()
                },
            )]
            .into(),
            policy: Arc::clone(model),
            ..Desired::default()
        });
    }
    for (id, pod) in model.workloads.iter() {
        let name = id
            .workload
            .split_once('/')
            .map_or(&*id.workload, |(_, name)| name);
        let desired = nodes.get_mut(&pod.node).expect("seen above");
        desired.endpoints.push(endpoint(id, name, pod));
        desired.felix.endpoint_to_host = model.settings_of(&pod.node).endpoint_to_host;
    }
    nodes.into_values().collect()
}

fn endpoint(id: &control::policy::model::WorkloadId, name: &str, pod: &Workload) -> Endpoint {
    let namespace = id
        .workload
        .split_once('/')
        .map_or("default", |(namespace, _)| namespace);
    let v4 = pod.nets.iter().filter_map(|net| match net {
        ipnet::IpNet::V4(net) => Some(*net),
        ipnet::IpNet::V6(_) => None,
    });
    let v6 = pod.nets.iter().filter_map(|net| match net {
        ipnet::IpNet::V6(net) => Some(*net),
        ipnet::IpNet::V4(_) => None,
    });
    let (mut ipv4_nets, mut ipv6_nets): (Vec<_>, Vec<_>) = (v4.collect(), v6.collect());
    ipv4_nets.sort_unstable();
    ipv6_nets.sort_unstable();
    let mut allowed_spoofed_prefixes = pod.spoofable.clone();
    allowed_spoofed_prefixes.sort_unstable();
    Endpoint {
        id: EndpointId {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        },
        workload: name.to_owned(),
        interface: pod.interface.clone(),
        mac: None,
        ipv4_nets,
        ipv6_nets,
        allowed_spoofed_prefixes,
        profiles: pod.profiles.clone(),
    }
}

fn paths(names: &[&str]) -> Vec<PathBuf> {
    names.iter().map(PathBuf::from).collect()
}

#[test]
fn the_examples() {
    for names in [
        &["examples/conf.d"][..],
        &["examples/policy/shop.yaml", "examples/policy/policies.yaml"],
        &["tests/policy-tests/hosts.yaml"],
    ] {
        let cluster = load_paths(&paths(names)).expect("resources");
        let states = of_every_node(&cluster);
        assert!(!states.is_empty(), "{names:?}");
        for desired in states {
            arrives(&desired, &format!("{names:?} of {}", desired.node_name));
        }
    }
}

#[test]
fn every_kind_of_tunnel_pool_address_and_setting() {
    let source = Source::new("kinds.yaml", include_str!("kinds.yaml"));
    let cluster = load_sources(&[source]).expect("resources");
    let states = of_every_node(&cluster);
    assert_eq!(states.len(), 3);
    for desired in states {
        assert!(!desired.endpoints.is_empty() && !desired.vteps.is_empty());
        assert!(desired.routes.iter().any(|route| route.borrowed));
        arrives(&desired, &desired.node_name.clone());
    }
}

/// Calico's own cases, and the tests of ours: the same model arrives, and the same verdicts come of it.
#[test]
fn every_policy_test() {
    let mut judged = 0;
    for name in [
        "tests/policy-cases/cases.json",
        "examples/policy/shop.test.yaml",
        "tests/policy-tests/wrong.yaml",
    ] {
        let suite = Suite::load(Path::new(name)).unwrap_or_else(|findings| panic!("{findings}"));
        for group in suite.groups {
            let what = format!("{name}, {}", group.name);
            let mut model = group.model;
            let named = model
                .workloads
                .iter()
                .enumerate()
                .map(|(number, (id, pod))| {
                    let mut pod = Workload::clone(pod);
                    if pod.interface.is_empty() {
                        pod.interface = format!("cali{number}");
                    }
                    (id.clone(), Arc::new(pod))
                });
            model.workloads = named.collect();
            let model = Arc::new(model);
            for desired in of_policy(&model) {
                arrives(&desired, &what);
                let state = told(&desired.node_name, snapshot(&desired, Generation::V3_31));
                let got = calculated(&state).expect("understood").desired.policy;
                let is_here = |leg: &control::policy::legs::Leg| is_here(&got, leg);
                for check in &group.checks {
                    if !check.legs.is_empty() && check.legs.iter().all(is_here) {
                        let (one, other) = (check.run(&model), check.run(&got));
                        assert_eq!(one.outcome, other.outcome, "{what}: {}", check.way);
                        judged += 1;
                    }
                }
            }
        }
    }
    assert!(judged > 190, "{judged}");
}

/// Whether a leg is of an endpoint that the model has.
fn is_here(model: &Model, leg: &control::policy::legs::Leg) -> bool {
    use control::policy::legs::Leg;
    match leg {
        Leg::Workload(id, _) => model.workloads.contains_key(id),
        Leg::HostForward(name, _) | Leg::HostNormal(name, _) | Leg::HostUntracked(name, _) => {
            model.host_endpoints.contains_key(name)
        }
        Leg::HostPreDnat(name) => model.host_endpoints.contains_key(name),
        _ => false,
    }
}
