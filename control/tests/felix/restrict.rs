//! A state of the files' source as the Felix of its node would know it. What differs by nature, and why:
//!
//! | | files | Felix |
//! |---|---|---|
//! | endpoints, host endpoints | of all nodes | of its own node |
//! | policies, profiles, IP sets | all | those that an endpoint of the node needs |
//! | settings of policy | of each node | its own |
//! | place of a rule | that of the rule as it was written | that in the list, as it was sent |
//! | addresses of an endpoint | in the order of the file | IPv4 before IPv6 |
//! | name of an endpoint's resource | as it is | made of node, orchestrator, pod and endpoint |
//! | name of a pool | as it is | its prefix |
//! | whether a pool is disabled | said | not said |
//! | nodes | all | those with an address |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use control::desired::Desired;
use control::policy::Model;
use control::policy::model::{PolicyId, Rules, SharedMap, TierPolicies};

use crate::felix_encoder::pool_id;

pub(crate) fn restrict(desired: &Desired) -> Desired {
    let node = desired.node_name.as_str();
    let mut all = desired.clone();
    all.policy = Arc::new(model(&desired.policy, node));
    for pool in &mut all.pools {
        pool.name = pool_id(pool);
        pool.disabled = false;
    }
    for endpoint in &mut all.endpoints {
        let mut pods = all.policy.workloads.iter();
        let (id, _) = pods
            .find(|(_, pod)| pod.interface == endpoint.interface)
            .expect("policy for every endpoint");
        let parts = [node, &id.orchestrator, &endpoint.workload, &id.endpoint];
        endpoint.id.name = parts.map(|part| part.replace('-', "--")).join("-");
    }
    all.endpoints.sort_by(|a, b| a.id.cmp(&b.id));
    all.nodes
        .retain(|name, it| name == node || it.v4.is_some() || it.v6.is_some());
    all
}

fn model(model: &Model, node: &str) -> Model {
    let workloads = each(
        &model.workloads,
        |_, pod| pod.node == node,
        |pod| {
            pod.nets.sort_by_key(|net| net.addr().is_ipv6());
        },
    );
    let host_endpoints = each(
        &model.host_endpoints,
        |_, host| host.node == node,
        |host| {
            host.expected.sort_by_key(std::net::IpAddr::is_ipv6);
        },
    );
    let (mut needed, mut names) = (BTreeSet::new(), BTreeSet::new());
    for pod in workloads.values() {
        needed.extend(named(&pod.tiers));
        names.extend(pod.profiles.clone());
    }
    for host in host_endpoints.values() {
        for tiers in [&host.normal, &host.forward, &host.pre_dnat, &host.untracked] {
            needed.extend(named(tiers));
        }
        names.extend(host.profiles.clone());
    }
    let policies = each(
        &model.policies,
        |id, _| needed.contains(id),
        |policy| {
            renumber(&mut policy.rules);
        },
    );
    let profiles = each(
        &model.profiles,
        |name, _| names.contains(name),
        |profile| {
            renumber(&mut profile.rules);
        },
    );
    let of_policies = policies.values().map(|policy| &policy.rules);
    let rules = of_policies.chain(profiles.values().map(|profile| &profile.rules));
    let rules = rules.flat_map(|rules| rules.inbound.iter().chain(&rules.outbound));
    let sets: BTreeSet<_> = rules
        .flat_map(|rule| rule.matches.ip_sets())
        .cloned()
        .collect();
    Model {
        settings: model.settings_of(node).clone(),
        node_settings: BTreeMap::new(),
        ip_sets: each(&model.ip_sets, |id, _| sets.contains(id), |_| {}),
        policies,
        profiles,
        workloads,
        host_endpoints,
    }
}

/// Those that are kept, changed.
fn each<K: Ord + Clone, V: Clone>(
    map: &SharedMap<K, Arc<V>>,
    keep: impl Fn(&K, &V) -> bool,
    change: impl Fn(&mut V),
) -> SharedMap<K, Arc<V>> {
    let kept = map.iter().filter(|(key, value)| keep(key, value));
    let changed = kept.map(|(key, value)| {
        let mut value = V::clone(value);
        change(&mut value);
        (key.clone(), Arc::new(value))
    });
    changed.collect()
}

fn named(tiers: &[TierPolicies]) -> impl Iterator<Item = PolicyId> {
    tiers
        .iter()
        .flat_map(|tier| tier.ingress.iter().chain(&tier.egress))
        .cloned()
}

fn renumber(rules: &mut Rules) {
    for list in [&mut rules.inbound, &mut rules.outbound] {
        for (index, rule) in list.iter_mut().enumerate() {
            rule.origin.index = index;
        }
    }
}
