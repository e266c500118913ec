//! What Felix has said, as the daemon's [`Desired`]. Pure: the same state gives the same result.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::{Ipv4Net, Ipv6Net};

use super::rule::closed;
use super::settings::{self, Given, parameter};
use super::state::{State, single};
use crate::config::printable::printable;
use crate::config::{Diagnostics, HostEndpoints};
use crate::desired::{Desired, Endpoint, Node, Route, TunnelType};
use crate::policy::model::{IpSet, Model, Policy, PolicyId, Profile, Rules, SharedMap, WorkloadId};
use crate::policy::rule::IpSetId;

/// What the daemon knows beside Felix.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'s> {
    /// Interfaces that are no pod's: uplinks, the host's port.
    pub taken: &'s [&'s str],
    /// What is done with host endpoints.
    pub host_endpoints: HostEndpoints,
    /// The policy in force: what is equal stays the very same.
    pub before: &'s Arc<Model>,
}

/// What follows from what Felix has said.
#[derive(Debug)]
pub struct Calculated {
    /// The state wanted.
    pub desired: Desired,
    /// What is not done as Felix says, and why: closed endpoints and policies, left out routes.
    pub problems: Vec<String>,
    /// Warnings about Felix's settings.
    pub remarks: Diagnostics,
}

impl State {
    /// What the node should do.
    ///
    /// # Errors
    /// What makes the whole of it unfit: settings that can not be honoured, another node's state, host endpoints that are
    /// to be refused. Then what is in force should stay.
    pub fn desired(&self, around: &Surroundings<'_>) -> Result<Calculated, String> {
        let Given {
            felix,
            policy: policy_settings,
            remarks,
        } = settings::settings(&self.config).map_err(|errors| errors.render(false))?;
        self.is_ours()?;
        if around.host_endpoints == HostEndpoints::Refuse
            && let Some(name) = self.hosts.keys().next()
        {
            return Err(format!(
                "host endpoint {} of this node, and `hostEndpoints: refuse`: its policy would not be enforced; remove it, or set \
                 `hostEndpoints: enforced` in caracal.yaml, or `forwarded-only`",
                printable(name)
            ));
        }
        let mut problems: Vec<String> = self
            .problems
            .iter()
            .map(|((kind, name), why)| format!("{kind} {name}: {why}"))
            .collect();
        let (ids, endpoints) = self.endpoints(around.taken, &mut problems);
        let before = around.before;
        let Shared {
            sets,
            policies,
            profiles,
        } = self.closed_where_unknown(&mut problems);
        let workloads = ids.into_iter().filter_map(|id| {
            let pod = self.pods.get(id)?;
            Some((id, Arc::clone(&pod.workload)))
        });
        let hosts = self.hosts.iter().map(|(id, host)| (id, Arc::clone(host)));
        let model = Model {
            settings: policy_settings,
            node_settings: BTreeMap::new(),
            ip_sets: following(&before.ip_sets, sets),
            policies: following(&before.policies, policies),
            profiles: following(&before.profiles, profiles),
            workloads: following(&before.workloads, workloads),
            host_endpoints: following(&before.host_endpoints, hosts),
        };
        let policy = if model == **before {
            Arc::clone(before)
        } else {
            Arc::new(model)
        };
        let mut pools: Vec<_> = self.pools.values().cloned().collect();
        pools.sort_by_key(|pool| pool.cidr);
        let desired = Desired {
            node_name: self.node.clone(),
            nodes: self.nodes(),
            vteps: self.vteps.clone(),
            pools,
            routes: self.routes.values().cloned().collect(),
            endpoints,
            felix,
            service_cidrs: self.services.clone(),
            services: Arc::default(),
            services_incomplete: false,
            policy,
        };
        for problem in &mut problems {
            if let Cow::Owned(written_out) = printable(problem) {
                *problem = written_out;
            }
        }
        Ok(Calculated {
            desired,
            problems,
            remarks,
        })
    }

    /// Felix must be that of this node: all that it sends is about its own.
    fn is_ours(&self) -> Result<(), String> {
        match parameter(&self.config, "FelixHostname") {
            Some(felix) if !felix.is_empty() && felix != self.node => Err(format!(
                "Felix is that of node {}, and this daemon is node {}; set nodeName in caracal.yaml",
                printable(felix),
                self.node
            )),
            _ => Ok(()),
        }
    }

    /// The endpoints that are served: of two on one interface the first by name, since a packet has one.
    fn endpoints(
        &self,
        taken: &[&str],
        problems: &mut Vec<String>,
    ) -> (Vec<&WorkloadId>, Vec<Endpoint>) {
        let mut owners: BTreeMap<&str, &WorkloadId> = BTreeMap::new();
        let (mut ids, mut endpoints) = (Vec::new(), Vec::new());
        for (id, pod) in &self.pods {
            let interface = pod.endpoint.interface.as_str();
            if taken.contains(&interface) {
                problems.push(format!("endpoint {id}: {interface} is no pod's interface"));
            } else if let Some(other) = owners.get(interface) {
                problems.push(format!("endpoint {id}: {interface} is that of {other}"));
            } else {
                owners.insert(interface, id);
                ids.push(id);
                endpoints.push(pod.endpoint.clone());
            }
        }
        endpoints.sort_by(|a, b| a.id.cmp(&b.id));
        (ids, endpoints)
    }

    /// Sets, policies and profiles. What asks for a set that is not known lets nothing pass: such a set must neither be taken
    /// for empty nor for everything.
    fn closed_where_unknown(&self, problems: &mut Vec<String>) -> Shared<'_> {
        let mut sets = BTreeMap::new();
        for (id, set) in &self.sets {
            if let Some(bad) = set.bad.first() {
                problems.push(format!("IP set {id}: not a member of its kind: {bad:?}"));
            } else {
                sets.insert(id, Arc::clone(&set.value));
            }
        }
        let mut lacks = |rules: &Rules, owner: &dyn Fn() -> String| {
            let mut all = rules.inbound.iter().chain(&rules.outbound);
            let missing = all.find_map(|rule| {
                let mut named = rule.matches.ip_sets();
                named.find(|id| !sets.contains_key(*id))
            });
            if let Some(id) = missing {
                problems.push(format!(
                    "{}: IP set {id} is not known; all is denied",
                    owner()
                ));
            }
            missing.is_some()
        };
        let mut policies = BTreeMap::new();
        for (id, policy) in &self.policies {
            let mut policy = Arc::clone(policy);
            if lacks(&policy.rules, &|| id.to_string()) {
                Arc::make_mut(&mut policy).rules = closed();
            }
            policies.insert(id, policy);
        }
        let mut profiles = BTreeMap::new();
        for (name, profile) in &self.profiles {
            let mut profile = Arc::clone(profile);
            if lacks(&profile.rules, &|| format!("profile {name}")) {
                Arc::make_mut(&mut profile).rules = closed();
            }
            profiles.insert(name, profile);
        }
        Shared {
            sets,
            policies,
            profiles,
        }
    }

    /// All nodes that anything was said of, and our own.
    fn nodes(&self) -> BTreeMap<String, Node> {
        let mut nodes = BTreeMap::new();
        at(&mut nodes, &self.node);
        for (name, addresses) in &self.nodes {
            let node = at(&mut nodes, name);
            node.v4 = addresses.v4();
            node.v6 = addresses.v6();
        }
        for route in self.routes.values() {
            let says = route.dst_node_ip.is_some() || route.tunnel != TunnelType::default();
            if let Some(name) = route.dst_node.as_ref().filter(|_| says) {
                learn(at(&mut nodes, name), route);
            }
        }
        for (name, vtep) in &self.vteps {
            let node = at(&mut nodes, name);
            node.vxlan_tunnel_v4 = vtep.addr.or(node.vxlan_tunnel_v4);
            node.vxlan_tunnel_v6 = vtep.addr_v6.or(node.vxlan_tunnel_v6);
        }
        // Without routes this is all that is said of our own tunnels.
        let node = at(&mut nodes, &self.node);
        let own = |name| parameter(&self.config, name);
        let v4 = |name| own(name).and_then(|text| text.parse().ok());
        node.ipip_tunnel_v4 = node.ipip_tunnel_v4.or_else(|| v4("IpInIpTunnelAddr"));
        node.vxlan_tunnel_v4 = node.vxlan_tunnel_v4.or_else(|| v4("IPv4VXLANTunnelAddr"));
        let v6 = || own("IPv6VXLANTunnelAddr").and_then(|text| text.parse().ok());
        node.vxlan_tunnel_v6 = node.vxlan_tunnel_v6.or_else(v6);
        nodes
    }
}

/// The node of a name, which begins with nothing known of it.
fn at<'n>(nodes: &'n mut BTreeMap<String, Node>, name: &str) -> &'n mut Node {
    nodes.entry(name.to_owned()).or_insert_with(|| Node {
        name: name.to_owned(),
        ..Node::default()
    })
}

/// What a route says of the node that it leads to.
fn learn(node: &mut Node, route: &Route) {
    match route.dst_node_ip {
        Some(std::net::IpAddr::V4(ip)) => node.v4 = node.v4.or(Some(Ipv4Net::from(ip))),
        Some(std::net::IpAddr::V6(ip)) => node.v6 = node.v6.or(Some(Ipv6Net::from(ip))),
        None => {}
    }
    match single(route.dst) {
        Some(std::net::IpAddr::V4(ip)) => {
            if route.tunnel.ipip {
                node.ipip_tunnel_v4 = Some(ip);
            }
            if route.tunnel.vxlan {
                node.vxlan_tunnel_v4 = Some(ip);
            }
        }
        Some(std::net::IpAddr::V6(ip)) if route.tunnel.vxlan => node.vxlan_tunnel_v6 = Some(ip),
        _ => {}
    }
}

/// What endpoints share.
struct Shared<'s> {
    sets: BTreeMap<&'s IpSetId, Arc<IpSet>>,
    policies: BTreeMap<&'s PolicyId, Arc<Policy>>,
    profiles: BTreeMap<&'s String, Arc<Profile>>,
}

/// These entries in a map that shares with the one before what is equal.
fn following<'k, K: Ord + Clone + 'k, V: PartialEq>(
    before: &SharedMap<K, Arc<V>>,
    now: impl IntoIterator<Item = (&'k K, Arc<V>)>,
) -> SharedMap<K, Arc<V>> {
    let mut map = before.clone();
    let mut keys = BTreeSet::new();
    for (key, value) in now {
        let is_same = |known: &Arc<V>| Arc::ptr_eq(known, &value) || **known == *value;
        if !before.get(key).is_some_and(is_same) {
            map.insert(key.clone(), value);
        }
        keys.insert(key);
    }
    if map.len() > keys.len() {
        map.retain(|key, _| keys.contains(key));
    }
    map
}
