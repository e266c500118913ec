//! What Felix would send for a wanted state: the other way round from `control::felix`, for tests only, in each generation of the
//! protocol.

mod policy;
mod settings;

pub(crate) use policy::policy_id;

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::IpAddr;

use control::desired::{
    AllowedUse, Desired, EncapMode, Endpoint, Node, Pool, PoolType, Route, Vtep,
};
use control::felix::frame;
use control::felix::proto::{self, ConfigUpdate, InSync, Payload, ToDataplane};
use control::policy::model::{HostEndpoint, Model, Workload, WorkloadId};
use ipnet::IpNet;
use prost::Message as _;

/// A version of Calico that speaks in its own way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Generation {
    /// Policies by tier and name; nodes' addresses in three messages.
    V3_31,
    /// Policies by name, namespace and kind.
    V3_32,
    /// Nodes' addresses in one message.
    V3_33,
}

impl Generation {
    fn version(self) -> &'static str {
        match self {
            Self::V3_31 => "v3.31.2",
            Self::V3_32 => "v3.32.0",
            Self::V3_33 => "v3.33.0",
        }
    }
}

/// What Felix of the state's node would send, in its order, up to and without `InSync`.
pub(crate) fn snapshot(desired: &Desired, generation: Generation) -> Vec<Payload> {
    let node = desired.node_name.as_str();
    let model = &desired.policy;
    let mut config = settings::changed(&desired.felix, model.settings_of(node));
    config.insert("CalicoVersion".to_owned(), generation.version().to_owned());
    config.insert("FelixHostname".to_owned(), node.to_owned());
    let mut all = vec![Payload::ConfigUpdate(ConfigUpdate { config })];
    let local = |of: &str| of.is_empty() || of == node;
    let pods: Vec<_> = model
        .workloads
        .iter()
        .filter(|(_, pod)| local(&pod.node))
        .collect();
    let hosts: Vec<_> = model
        .host_endpoints
        .iter()
        .filter(|(_, host)| local(&host.node))
        .collect();
    all.extend(policy::active(model, &pods, &hosts, generation));
    for (id, pod) in pods {
        let endpoint = desired
            .endpoints
            .iter()
            .find(|it| it.interface == pod.interface);
        all.push(workload(id, pod, endpoint, generation));
    }
    all.extend(
        hosts
            .into_iter()
            .map(|(id, host)| self::host(id, host, generation)),
    );
    all.extend(desired.vteps.values().map(vtep));
    all.extend(desired.routes.iter().map(route));
    all.extend(
        desired
            .nodes
            .values()
            .flat_map(|node| metadata(node, generation)),
    );
    all.extend(desired.pools.iter().map(pool));
    let services = &desired.service_cidrs;
    all.push(Payload::GlobalBgpConfigUpdate(
        proto::GlobalBgpConfigUpdate {
            service_cluster_cidrs: texts(&services.cluster),
            service_external_cidrs: texts(&services.external),
            service_loadbalancer_cidrs: texts(&services.load_balancer),
        },
    ));
    all
}

/// The end of a snapshot.
pub(crate) fn in_sync() -> Payload {
    Payload::InSync(InSync {})
}

/// A message on the wire.
pub(crate) fn on_the_wire(sequence_number: u64, payload: Payload) -> Vec<u8> {
    let message = ToDataplane {
        sequence_number,
        payload: Some(payload),
    };
    frame::encode(&message)
}

/// What names a pod's interface.
pub(crate) fn workload_id(id: &WorkloadId) -> proto::WorkloadEndpointId {
    proto::WorkloadEndpointId {
        orchestrator_id: id.orchestrator.clone(),
        workload_id: id.workload.clone(),
        endpoint_id: id.endpoint.clone(),
    }
}

pub(crate) fn workload(
    id: &WorkloadId,
    pod: &Workload,
    endpoint: Option<&Endpoint>,
    generation: Generation,
) -> Payload {
    let (v4, v6): (Vec<IpNet>, Vec<IpNet>) = pod
        .nets
        .iter()
        .copied()
        .partition(|net| net.addr().is_ipv4());
    let mac = endpoint.and_then(|it| it.mac).map(|mac| mac.to_string());
    let state = if pod.active { "active" } else { "inactive" };
    let endpoint = proto::WorkloadEndpoint {
        state: state.to_owned(),
        name: pod.interface.clone(),
        mac: mac.unwrap_or_default(),
        profile_ids: pod.profiles.clone(),
        ipv4_nets: texts(&v4),
        ipv6_nets: texts(&v6),
        tiers: policy::tiers(&pod.tiers, generation),
        allow_spoofed_source_prefixes: texts(&pod.spoofable),
    };
    Payload::WorkloadEndpointUpdate(proto::WorkloadEndpointUpdate {
        id: Some(workload_id(id)),
        endpoint: endpoint.encode_to_vec(),
    })
}

fn host(id: &str, host: &HostEndpoint, generation: Generation) -> Payload {
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) =
        host.expected.iter().copied().partition(IpAddr::is_ipv4);
    Payload::HostEndpointUpdate(proto::HostEndpointUpdate {
        id: Some(proto::HostEndpointId {
            endpoint_id: id.to_owned(),
        }),
        endpoint: Some(proto::HostEndpoint {
            name: host.interface.clone(),
            profile_ids: host.profiles.clone(),
            tiers: policy::tiers(&host.normal, generation),
            expected_ipv4_addrs: texts(&v4),
            expected_ipv6_addrs: texts(&v6),
            untracked_tiers: policy::tiers(&host.untracked, generation),
            pre_dnat_tiers: policy::tiers(&host.pre_dnat, generation),
            forward_tiers: policy::tiers(&host.forward, generation),
        }),
    })
}

fn vtep(vtep: &Vtep) -> Payload {
    Payload::VtepUpdate(proto::VtepUpdate {
        node: vtep.node.clone(),
        mac: vtep.mac.to_string(),
        ipv4_addr: text(vtep.addr),
        parent_device_ip: text(vtep.parent),
        mac_v6: vtep.mac_v6.to_string(),
        ipv6_addr: text(vtep.addr_v6),
        parent_device_ipv6: text(vtep.parent_v6),
    })
}

pub(crate) fn route(route: &Route) -> Payload {
    let tunnel = route.tunnel;
    Payload::RouteUpdate(proto::RouteUpdate {
        ip_pool_type: match route.pool_type {
            PoolType::None => 0,
            PoolType::NoEncap => 1,
            PoolType::Vxlan => 2,
            PoolType::Ipip => 3,
        },
        dst: route.dst.to_string(),
        dst_node_name: route.dst_node.clone().unwrap_or_default(),
        dst_node_ip: text(route.dst_node_ip),
        same_subnet: route.same_subnet,
        nat_outgoing: route.nat_outgoing,
        local_workload: route.local_workload,
        tunnel_type: (tunnel != control::desired::TunnelType::default()).then_some(
            proto::TunnelType {
                ipip: tunnel.ipip,
                vxlan: tunnel.vxlan,
                wireguard: tunnel.wireguard,
            },
        ),
        borrowed: route.borrowed,
        types: i32::from(route.types.0),
    })
}

fn metadata(node: &Node, generation: Generation) -> Vec<Payload> {
    let hostname = node.name.clone();
    let (v4, v6) = (node.v4, node.v6);
    if v4.is_none() && v6.is_none() {
        return Vec::new();
    }
    if generation == Generation::V3_33 {
        return vec![Payload::HostMetadataUpdate(proto::HostMetadataUpdate {
            hostname,
            ipv4_addr: text(v4),
            ipv6_addr: text(v6),
        })];
    }
    let plain = v4.map(|net| {
        Payload::HostMetadataUpdate(proto::HostMetadataUpdate {
            hostname: hostname.clone(),
            ipv4_addr: net.addr().to_string(),
            ipv6_addr: String::new(),
        })
    });
    let plain_v6 = v6.map(|net| {
        Payload::HostMetadataV6Update(proto::HostMetadataV6Update {
            hostname: hostname.clone(),
            ipv6_addr: net.addr().to_string(),
        })
    });
    let both = Payload::HostMetadataV4V6Update(proto::HostMetadataV4V6Update {
        hostname: hostname.clone(),
        ipv4_addr: text(v4),
        ipv6_addr: text(v6),
    });
    plain.into_iter().chain(plain_v6).chain([both]).collect()
}

/// Felix's name of a pool.
pub(crate) fn pool_id(pool: &Pool) -> String {
    pool.cidr.to_string().replace(['/', ':'], "-")
}

fn pool(pool: &Pool) -> Payload {
    let mode = |mode| match mode {
        EncapMode::Never => "",
        EncapMode::Always => "always",
        EncapMode::CrossSubnet => "cross-subnet",
    };
    let word = |it: &AllowedUse| match it {
        AllowedUse::Workload => "Workload",
        AllowedUse::Tunnel => "Tunnel",
        AllowedUse::LoadBalancer => "LoadBalancer",
    };
    Payload::IpamPoolUpdate(proto::IpamPoolUpdate {
        id: pool_id(pool),
        pool: Some(proto::IpamPool {
            cidr: pool.cidr.to_string(),
            masquerade: pool.masquerade,
            ipip_mode: mode(pool.ipip_mode).to_owned(),
            vxlan_mode: mode(pool.vxlan_mode).to_owned(),
            allowed_uses: pool
                .allowed_uses
                .iter()
                .map(|it| word(it).to_owned())
                .collect(),
        }),
    })
}

fn text(value: Option<impl Display>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn texts(values: &[impl Display]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

/// Names of profiles that endpoints have.
fn profiles<'m>(
    pods: &[(&WorkloadId, &'m std::sync::Arc<Workload>)],
    hosts: &[(&String, &'m std::sync::Arc<HostEndpoint>)],
    model: &Model,
) -> BTreeSet<&'m str> {
    let of_pods = pods.iter().flat_map(|(_, pod)| &pod.profiles);
    let of_hosts = hosts.iter().flat_map(|(_, host)| &host.profiles);
    let all = of_pods.chain(of_hosts).map(String::as_str);
    all.filter(|name| model.profiles.contains_key(*name))
        .collect()
}
