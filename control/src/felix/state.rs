//! All that Felix has said in one connection.
//!
//! A fold over messages: what it holds depends on the last word about each thing only, so that messages that are sent twice, or
//! not at all because a later one says more, make no difference, and the removal of what is not there is none.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::host::host_endpoint;
use super::parse::{self, Refusal};
use super::policy::policy_id;
use super::proto::{self, Payload, ToDataplane};
use super::rule::{closed, rules};
use super::set::Set;
use super::settings::parameter;
use super::workload::{Pod, pod, workload_id};
use crate::calico;
use crate::desired::{
    AllowedUse, EncapMode, Pool, PoolType, Route, RouteTypes, ServiceCidrs, TunnelType, Vtep,
};
use crate::policy::model::{HostEndpoint, Policy, PolicyId, Profile, WorkloadId};
use crate::policy::rule::{IpSetId, Origin};

/// All that Felix has said in one connection.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Our node's name.
    pub(super) node: String,
    pub(super) config: BTreeMap<String, String>,
    pub(super) sets: BTreeMap<IpSetId, Set>,
    pub(super) policies: BTreeMap<PolicyId, Arc<Policy>>,
    pub(super) profiles: BTreeMap<String, Arc<Profile>>,
    pub(super) pods: BTreeMap<WorkloadId, Pod>,
    pub(super) hosts: BTreeMap<String, Arc<HostEndpoint>>,
    pub(super) nodes: BTreeMap<String, Addresses>,
    /// By Felix's name of them.
    pub(super) pools: BTreeMap<String, Pool>,
    pub(super) routes: BTreeMap<IpNet, Route>,
    pub(super) vteps: BTreeMap<String, Vtep>,
    pub(super) services: ServiceCidrs,
    /// Things as they were sent last that are not understood, by kind and name.
    pub(super) problems: BTreeMap<(&'static str, String), Refusal>,
    in_sync: bool,
}

/// A node's addresses, by the message that said so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Addresses {
    /// HostMetadataUpdate.
    plain: (Option<Ipv4Net>, Option<Ipv6Net>),
    /// HostMetadataV6Update.
    v6: Option<Ipv6Net>,
    /// HostMetadataV4V6Update.
    both: (Option<Ipv4Net>, Option<Ipv6Net>),
}

impl Addresses {
    /// IPv4, with the prefix of the subnet if any message says it.
    pub(super) fn v4(&self) -> Option<Ipv4Net> {
        self.both.0.or(self.plain.0)
    }

    /// The same for IPv6.
    pub(super) fn v6(&self) -> Option<Ipv6Net> {
        self.both.1.or(self.plain.1).or(self.v6)
    }
}

/// What a message was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Something that is acted on.
    Update,
    /// The snapshot is complete.
    InSync,
    /// Nothing that is acted on.
    Ignored,
}

impl State {
    /// Nothing has been said to the node of this name.
    pub fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            ..Self::default()
        }
    }

    /// Whether Felix has said that the snapshot is complete.
    pub const fn is_in_sync(&self) -> bool {
        self.in_sync
    }

    /// How many things have been said to be there.
    pub fn len(&self) -> usize {
        let policy = self.sets.len() + self.policies.len() + self.profiles.len();
        let endpoints = self.pods.len() + self.hosts.len();
        let network = self.nodes.len() + self.pools.len() + self.routes.len() + self.vteps.len();
        policy + endpoints + network
    }

    /// Whether nothing has been said to be there.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How often Felix wants to hear that we are alive, in seconds; `None`: not at all.
    pub fn reporting_interval(&self) -> Option<f64> {
        let given = parameter(&self.config, "ReportingIntervalSecs");
        let seconds = given.and_then(|given| given.trim_end_matches('s').parse().ok());
        Some(seconds.unwrap_or(30.0)).filter(|seconds: &f64| seconds.is_finite() && *seconds > 0.0)
    }

    /// Takes a message.
    pub fn take(&mut self, message: ToDataplane) -> Taken {
        let Some(payload) = message.payload else {
            return Taken::Ignored;
        };
        match payload {
            Payload::InSync(_) => {
                self.in_sync = true;
                return Taken::InSync;
            }
            Payload::ConfigUpdate(it) => self.config = it.config.into_iter().collect(),
            Payload::IpSetUpdate(it) => self.set(&it),
            Payload::IpSetDeltaUpdate(it) => self.set_delta(&it),
            Payload::IpSetRemove(it) => {
                self.sets.remove(&it.id.as_str().into());
                self.settled("IP set", &it.id);
            }
            Payload::ActiveProfileUpdate(it) => self.profile(it),
            Payload::ActiveProfileRemove(it) => {
                let name = it.id.unwrap_or_default().name;
                self.profiles.remove(&name);
                self.settled("profile", &name);
            }
            Payload::ActivePolicyUpdate(it) => self.policy(it),
            Payload::ActivePolicyRemove(it) => {
                if let Ok(id) = policy_id(&it.id.unwrap_or_default()) {
                    self.policies.remove(&id);
                    self.settled("policy", &id.to_string());
                }
            }
            Payload::WorkloadEndpointUpdate(it) => self.pod(&it),
            Payload::WorkloadEndpointRemove(it) => {
                if let Some(id) = workload_id(it.id.as_ref()) {
                    self.pods.remove(&id);
                    self.settled("endpoint", &id.to_string());
                }
            }
            Payload::HostEndpointUpdate(it) => {
                let id = it.id.unwrap_or_default().endpoint_id;
                let made = host_endpoint(&it.endpoint.unwrap_or_default(), &self.node);
                let made = self.understood("host endpoint", &id, made);
                set_or_remove(&mut self.hosts, id, made.map(Arc::new));
            }
            Payload::HostEndpointRemove(it) => {
                let id = it.id.unwrap_or_default().endpoint_id;
                self.hosts.remove(&id);
                self.settled("host endpoint", &id);
            }
            Payload::IpamPoolUpdate(it) => {
                let made = pool(&it.id, &it.pool.unwrap_or_default());
                let made = self.understood("pool", &it.id, made);
                set_or_remove(&mut self.pools, it.id, made);
            }
            Payload::IpamPoolRemove(it) => {
                self.pools.remove(&it.id);
                self.settled("pool", &it.id);
            }
            Payload::RouteUpdate(it) => self.route(&it),
            Payload::RouteRemove(it) => {
                if let Ok(dst) = parse::net(&it.dst) {
                    self.routes.remove(&dst.trunc());
                }
                self.settled("route", &it.dst);
            }
            Payload::VtepUpdate(it) => {
                let made = vtep(&it);
                let made = self.understood("VTEP", &it.node, made);
                set_or_remove(&mut self.vteps, it.node, made);
            }
            Payload::VtepRemove(it) => {
                self.vteps.remove(&it.node);
                self.settled("VTEP", &it.node);
            }
            Payload::GlobalBgpConfigUpdate(it) => {
                let made = services(&it);
                let made = self.understood("BGP configuration", "default", made);
                self.services = made.unwrap_or_default();
            }
            Payload::HostMetadataUpdate(it) => {
                let made = addresses(&it.ipv4_addr, &it.ipv6_addr);
                self.address("node", &it.hostname, made, |all, made| all.plain = made);
            }
            Payload::HostMetadataRemove(it) => {
                self.address("node", &it.hostname, Ok((None, None)), |all, made| {
                    all.plain = made;
                });
            }
            Payload::HostMetadataV6Update(it) => {
                let made = addresses("", &it.ipv6_addr);
                self.address("node (IPv6)", &it.hostname, made, |all, made| {
                    all.v6 = made.1;
                });
            }
            Payload::HostMetadataV6Remove(it) => {
                self.address(
                    "node (IPv6)",
                    &it.hostname,
                    Ok((None, None)),
                    |all, made| all.v6 = made.1,
                );
            }
            Payload::HostMetadataV4V6Update(it) => {
                let made = addresses(&it.ipv4_addr, &it.ipv6_addr);
                self.address("node (both)", &it.hostname, made, |all, made| {
                    all.both = made;
                });
            }
            Payload::HostMetadataV4V6Remove(it) => {
                self.address(
                    "node (both)",
                    &it.hostname,
                    Ok((None, None)),
                    |all, made| all.both = made,
                );
            }
        }
        Taken::Update
    }

    fn set(&mut self, it: &proto::IpSetUpdate) {
        let made = Set::new(it.kind);
        let made = self.understood("IP set", &it.id, made).map(|mut set| {
            set.add(&it.members);
            set
        });
        set_or_remove(&mut self.sets, it.id.as_str().into(), made);
    }

    /// Members of a set that is not there come to nothing: Felix sends the whole set first.
    fn set_delta(&mut self, it: &proto::IpSetDeltaUpdate) {
        if let Some(set) = self.sets.get_mut(&it.id.as_str().into()) {
            set.remove(&it.removed_members);
            set.add(&it.added_members);
        }
    }

    fn policy(&mut self, it: proto::ActivePolicyUpdate) {
        let (id, it) = (it.id.unwrap_or_default(), it.policy.unwrap_or_default());
        let tier = if it.tier.is_empty() {
            &id.tier
        } else {
            &it.tier
        };
        let tier = tier.as_str().into();
        let id = match policy_id(&id) {
            Ok(id) => id,
            Err(why) => {
                self.problems.insert(("policy", String::new()), why);
                return;
            }
        };
        let made = rules(&it.inbound_rules, &it.outbound_rules);
        let made = self.understood("policy", &id.to_string(), made);
        let policy = Policy {
            tier,
            rules: made.unwrap_or_else(closed),
            origin: Origin::default(),
        };
        keep_or_insert(&mut self.policies, id, policy);
    }

    fn profile(&mut self, it: proto::ActiveProfileUpdate) {
        let name = it.id.unwrap_or_default().name;
        let it = it.profile.unwrap_or_default();
        let made = rules(&it.inbound_rules, &it.outbound_rules);
        let made = self.understood("profile", &name, made);
        let rules = made.unwrap_or_else(closed);
        keep_or_insert(&mut self.profiles, name, Profile { rules });
    }

    fn pod(&mut self, it: &proto::WorkloadEndpointUpdate) {
        let Some(id) = workload_id(it.id.as_ref()) else {
            return;
        };
        let made = pod(&id, &it.endpoint, &self.node);
        let made = self.understood("endpoint", &id.to_string(), made);
        set_or_remove(&mut self.pods, id, made);
    }

    fn route(&mut self, it: &proto::RouteUpdate) {
        let made = route(it);
        let dst = parse::net(&it.dst).map(|dst| dst.trunc());
        let made = self.understood("route", &it.dst, made);
        if let Ok(dst) = dst {
            set_or_remove(&mut self.routes, dst, made);
        }
    }

    fn address(
        &mut self,
        kind: &'static str,
        node: &str,
        made: Result<(Option<Ipv4Net>, Option<Ipv6Net>), Refusal>,
        set: impl FnOnce(&mut Addresses, (Option<Ipv4Net>, Option<Ipv6Net>)),
    ) {
        let made = self.understood(kind, node, made).unwrap_or_default();
        let all = self.nodes.entry(node.to_owned()).or_default();
        set(all, made);
        if *all == Addresses::default() {
            self.nodes.remove(node);
        }
    }

    /// What was made of something, or a note of why nothing was.
    fn understood<T>(
        &mut self,
        kind: &'static str,
        name: &str,
        made: Result<T, Refusal>,
    ) -> Option<T> {
        match made {
            Ok(made) => {
                self.settled(kind, name);
                Some(made)
            }
            Err(why) => {
                self.problems.insert((kind, name.to_owned()), why);
                None
            }
        }
    }

    fn settled(&mut self, kind: &'static str, name: &str) {
        if !self.problems.is_empty() {
            self.problems.remove(&(kind, name.to_owned()));
        }
    }
}

/// Puts a value into a map; without one, what was there goes.
fn set_or_remove<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

/// Puts a value into a map, unless it is there: what is equal stays the very same.
fn keep_or_insert<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, Arc<V>>, key: K, value: V) {
    if map.get(&key).is_none_or(|before| **before != value) {
        map.insert(key, Arc::new(value));
    }
}

fn addresses(v4: &str, v6: &str) -> Result<(Option<Ipv4Net>, Option<Ipv6Net>), Refusal> {
    Ok((
        parse::optional(v4, parse::net_v4)?,
        parse::optional(v6, parse::net_v6)?,
    ))
}

fn encap_mode(text: &str) -> Result<EncapMode, Refusal> {
    match text.to_ascii_lowercase().as_str() {
        "" | "never" => Ok(EncapMode::Never),
        "always" => Ok(EncapMode::Always),
        "cross-subnet" | "crosssubnet" => Ok(EncapMode::CrossSubnet),
        _ => Err(format!("unknown mode {text:?}")),
    }
}

fn pool(id: &str, it: &proto::IpamPool) -> Result<Pool, Refusal> {
    let mut allowed_uses = it
        .allowed_uses
        .iter()
        .map(|text| match text.to_ascii_lowercase().as_str() {
            "workload" => Ok(AllowedUse::Workload),
            "tunnel" => Ok(AllowedUse::Tunnel),
            "loadbalancer" => Ok(AllowedUse::LoadBalancer),
            _ => Err(format!("unknown use {text:?}")),
        })
        .collect::<Result<Vec<_>, _>>()?;
    if allowed_uses.is_empty() {
        allowed_uses = vec![AllowedUse::Workload, AllowedUse::Tunnel];
    }
    allowed_uses.sort_unstable();
    allowed_uses.dedup();
    Ok(Pool {
        name: id.to_owned(),
        cidr: parse::net(&it.cidr)?.trunc(),
        masquerade: it.masquerade,
        ipip_mode: encap_mode(&it.ipip_mode)?,
        vxlan_mode: encap_mode(&it.vxlan_mode)?,
        // Felix does not say; forwarding is the same.
        disabled: false,
        allowed_uses,
    })
}

fn route(it: &proto::RouteUpdate) -> Result<Route, Refusal> {
    let pool_type = match it.ip_pool_type {
        0 => PoolType::None,
        1 => PoolType::NoEncap,
        2 => PoolType::Vxlan,
        3 => PoolType::Ipip,
        other => return Err(format!("a pool of the unknown type {other}")),
    };
    let types = u8::try_from(it.types).map_err(|_| format!("unknown types {}", it.types))?;
    let tunnel = it.tunnel_type.unwrap_or_default();
    Ok(Route {
        dst: parse::net(&it.dst)?.trunc(),
        types: RouteTypes(types),
        pool_type,
        dst_node: (!it.dst_node_name.is_empty()).then(|| it.dst_node_name.clone()),
        dst_node_ip: parse::optional(&it.dst_node_ip, parse::address)?,
        same_subnet: it.same_subnet,
        nat_outgoing: it.nat_outgoing,
        local_workload: it.local_workload,
        borrowed: it.borrowed,
        tunnel: TunnelType {
            ipip: tunnel.ipip,
            vxlan: tunnel.vxlan,
            wireguard: tunnel.wireguard,
        },
    })
}

/// A VTEP; its MAC addresses are those that Calico gives where it says none.
fn vtep(it: &proto::VtepUpdate) -> Result<Vtep, Refusal> {
    let mac = parse::optional(&it.mac, parse::mac)?;
    let mac_v6 = parse::optional(&it.mac_v6, parse::mac)?;
    let v4 = |text: &str| -> Result<Option<Ipv4Addr>, Refusal> { parse::optional(text, parse::v4) };
    let v6 = |text: &str| -> Result<Option<Ipv6Addr>, Refusal> { parse::optional(text, parse::v6) };
    Ok(Vtep {
        mac: mac.unwrap_or_else(|| calico::vtep_mac(&it.node)),
        addr: v4(&it.ipv4_addr)?,
        parent: v4(&it.parent_device_ip)?,
        mac_v6: mac_v6.unwrap_or_else(|| calico::vtep_mac_v6(&it.node)),
        addr_v6: v6(&it.ipv6_addr)?,
        parent_v6: v6(&it.parent_device_ipv6)?,
        node: it.node.clone(),
    })
}

fn services(it: &proto::GlobalBgpConfigUpdate) -> Result<ServiceCidrs, Refusal> {
    let list = |texts: &[String]| -> Result<Vec<IpNet>, Refusal> {
        let mut all = parse::nets(texts, |text| parse::net(text).map(|net| net.trunc()))?;
        all.sort_unstable();
        all.dedup();
        Ok(all)
    };
    Ok(ServiceCidrs {
        cluster: list(&it.service_cluster_cidrs)?,
        external: list(&it.service_external_cidrs)?,
        load_balancer: list(&it.service_loadbalancer_cidrs)?,
    })
}

/// An address of a route's destination, where it is one address.
pub(super) fn single(dst: IpNet) -> Option<IpAddr> {
    (dst.prefix_len() == dst.max_prefix_len()).then(|| dst.addr())
}
