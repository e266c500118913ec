//! Resources to the model: what Felix's calculation graph does, for files.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::diagnostic::Diagnostic;
use super::hosts::HostEndpoints;
use super::kinds;
use super::load::{Cluster, Resources};
use super::routes::routes;
use super::suggest::nearest;
use crate::calico;
use crate::desired::{
    Desired, Endpoint, EndpointId, FelixSettings, Node, Pool, PoolType, ServiceCidrs, Vtep,
};

/// What the node called `node_name` should do, where host endpoints of it are refused.
///
/// # Errors
/// As [`compute_with`].
pub fn compute(cluster: &Cluster, node_name: &str) -> Result<Desired, Vec<Diagnostic>> {
    compute_with(cluster, node_name, HostEndpoints::Refuse)
}

/// What the node called `node_name` should do.
///
/// # Errors
/// What is wrong for this node: it is not among the nodes, has no address, or one of its endpoints cannot be
/// attached. Checks that concern all nodes alike were made at load.
pub fn compute_with(
    cluster: &Cluster,
    node_name: &str,
    host_endpoints: HostEndpoints,
) -> Result<Desired, Vec<Diagnostic>> {
    let resources = &cluster.base;
    let mut errors = Vec::new();
    let nodes = nodes(resources);
    match nodes.get(node_name) {
        None => errors.push(unknown_local_node(node_name, &nodes)),
        Some(node) if node.v4.is_none() && node.v6.is_none() => {
            errors.push(Diagnostic::error(format!("our own node `{node_name}` has no address")).help(
                "give spec.bgp.ipv4Address or spec.bgp.ipv6Address, with the prefix length of its subnet",
            ));
        }
        Some(_) => {}
    }
    let felix = felix(resources, node_name);
    let pools = pools(resources);
    let endpoints = endpoints(resources, node_name, &felix, &mut errors);
    errors.extend(host_endpoints.errors(cluster, node_name));
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(Desired {
        policy: Arc::clone(&cluster.policy),
        node_name: node_name.to_owned(),
        vteps: vteps(resources, &nodes, &pools),
        routes: routes(resources, node_name, &nodes, &pools),
        service_cidrs: services(resources),
        services: cluster.services.on(node_name),
        services_incomplete: false,
        nodes,
        pools,
        endpoints,
        felix,
    })
}

fn unknown_local_node(name: &str, nodes: &BTreeMap<String, Node>) -> Diagnostic {
    let known: Vec<&str> = nodes.keys().map(String::as_str).collect();
    let error = Diagnostic::error(format!(
        "no Node resource is called `{name}`, as this node is"
    ));
    match nearest(name, known.iter().copied()) {
        Some(meant) => error.help(format!(
            "did you mean `{meant}`? set nodeName in caracal.yaml"
        )),
        None if known.is_empty() => error.help("there is no Node resource at all"),
        None => error.help(format!(
            "there are: {}; set nodeName in caracal.yaml",
            known.join(", ")
        )),
    }
}

fn nodes(resources: &Resources) -> BTreeMap<String, Node> {
    let value = |node: &kinds::Node| Node {
        name: node.meta.name.value.clone(),
        v4: node.v4.as_ref().map(|net| net.value),
        v6: node.v6.as_ref().map(|net| net.value),
        ipip_tunnel_v4: node.ipip_tunnel_v4.as_ref().map(|address| address.value),
        vxlan_tunnel_v4: node.vxlan_tunnel_v4.as_ref().map(|address| address.value),
        vxlan_tunnel_v6: node.vxlan_tunnel_v6.as_ref().map(|address| address.value),
    };
    resources
        .nodes
        .iter()
        .map(|node| (node.meta.name.value.clone(), value(node)))
        .collect()
}

fn pools(resources: &Resources) -> Vec<Pool> {
    let mut pools: Vec<Pool> = resources
        .pools
        .iter()
        .map(|pool| Pool {
            name: pool.meta.name.value.clone(),
            cidr: pool.cidr.value,
            masquerade: pool.nat_outgoing,
            ipip_mode: pool.ipip_mode,
            vxlan_mode: pool.vxlan_mode,
            disabled: pool.disabled,
            allowed_uses: pool.allowed_uses.clone(),
        })
        .collect();
    pools.sort_by_key(|pool| pool.cidr);
    pools
}

/// Built-in values under `default` under `node.<name>`.
pub(crate) fn felix(resources: &Resources, node_name: &str) -> FelixSettings {
    let mut settings = FelixSettings::default();
    for name in ["default".to_owned(), format!("node.{node_name}")] {
        for felix in resources
            .felix
            .iter()
            .filter(|felix| felix.meta.name.value == name)
        {
            felix.apply(&mut settings);
        }
    }
    settings
}

/// Prefixes of services.
pub(super) fn services(resources: &Resources) -> ServiceCidrs {
    let mut services = ServiceCidrs::default();
    // Service prefixes are the cluster's: Calico reads them from `default` alone.
    for bgp in resources
        .bgp
        .iter()
        .filter(|bgp| bgp.meta.name.value == "default")
    {
        services.cluster.clone_from(&bgp.service_cluster);
        services.external.clone_from(&bgp.service_external);
        services
            .load_balancer
            .clone_from(&bgp.service_load_balancer);
    }
    for list in [
        &mut services.cluster,
        &mut services.external,
        &mut services.load_balancer,
    ] {
        list.sort_unstable();
        list.dedup();
    }
    services
}

/// The nodes' VTEPs: where a family has a tunnel address, or a VXLAN pool that needs the tunnel anyway.
fn vteps(
    resources: &Resources,
    nodes: &BTreeMap<String, Node>,
    pools: &[Pool],
) -> BTreeMap<String, Vtep> {
    let pool_of = |v4: bool| {
        pools
            .iter()
            .any(|pool| pool.kind() == PoolType::Vxlan && matches!(pool.cidr, IpNet::V4(_)) == v4)
    };
    let (pool_v4, pool_v6) = (pool_of(true), pool_of(false));
    let mut vteps = BTreeMap::new();
    for resource in &resources.nodes {
        let name = &resource.meta.name.value;
        let Some(node) = nodes.get(name) else {
            continue;
        };
        let use_v4 = pool_v4 || node.vxlan_tunnel_v4.is_some();
        let use_v6 = pool_v6 || node.vxlan_tunnel_v6.is_some();
        let vtep = Vtep {
            node: name.clone(),
            mac: resource
                .vxlan_mac
                .as_ref()
                .map_or_else(|| calico::vtep_mac(name), |mac| mac.value),
            addr: node.vxlan_tunnel_v4,
            parent: node.v4.filter(|_| use_v4).map(|net| net.addr()),
            mac_v6: resource
                .vxlan_mac_v6
                .as_ref()
                .map_or_else(|| calico::vtep_mac_v6(name), |mac| mac.value),
            addr_v6: node.vxlan_tunnel_v6,
            parent_v6: node.v6.filter(|_| use_v6).map(|net| net.addr()),
        };
        if vtep.parent.is_some() || vtep.parent_v6.is_some() {
            vteps.insert(name.clone(), vtep);
        }
    }
    vteps
}

fn endpoints(
    resources: &Resources,
    node_name: &str,
    felix: &FelixSettings,
    errors: &mut Vec<Diagnostic>,
) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    for endpoint in resources
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.node.value == node_name)
    {
        let Some(interface) = &endpoint.interface else {
            errors.push(
                Diagnostic::error("an endpoint of our own node has no interfaceName")
                    .at(
                        &endpoint.meta.name.at,
                        "give spec.interfaceName, the host's end of its veth",
                    )
                    .about(endpoint.meta.label()),
            );
            continue;
        };
        if let Some(prefix) = endpoint.spoofable.first()
            && !felix.workload_source_spoofing
        {
            errors.push(
                Diagnostic::error("allowSpoofedSourcePrefixes is not allowed on this node")
                    .at(
                        &prefix.at,
                        "needs workloadSourceSpoofing: Any in the FelixConfiguration",
                    )
                    .about(endpoint.meta.label()),
            );
        }
        let mut value = Endpoint {
            id: endpoint_id(endpoint),
            workload: endpoint
                .workload
                .clone()
                .unwrap_or_else(|| endpoint.meta.name.value.clone()),
            interface: interface.value.clone(),
            mac: endpoint.mac.as_ref().map(|mac| mac.value),
            ipv4_nets: Vec::new(),
            ipv6_nets: Vec::new(),
            allowed_spoofed_prefixes: endpoint.spoofable.iter().map(|net| net.value).collect(),
            profiles: endpoint.profiles.clone(),
        };
        for address in &endpoint.addresses {
            match address.value {
                IpAddr::V4(v4) => value.ipv4_nets.push(v4.into()),
                IpAddr::V6(v6) => value.ipv6_nets.push(v6.into()),
            }
        }
        value.ipv4_nets.sort_unstable();
        value.ipv6_nets.sort_unstable();
        value.allowed_spoofed_prefixes.sort_unstable();
        endpoints.push(value);
    }
    endpoints.sort_by(|a, b| a.id.cmp(&b.id));
    endpoints
}

fn endpoint_id(endpoint: &kinds::WorkloadEndpoint) -> EndpointId {
    EndpointId {
        namespace: endpoint.meta.namespace.clone().unwrap_or_default(),
        name: endpoint.meta.name.value.clone(),
    }
}
