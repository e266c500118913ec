//! Routes out of pools, blocks, nodes and endpoints, as `felix/calc/l3_route_resolver.go` makes them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use super::check::Prefixes;
use super::load::Resources;
use crate::desired::{Node, Pool, PoolType, Route, RouteTypes, TunnelType};

/// One route for each pool, block, borrowed address, node, tunnel device and local pod. Files may lack blocks, so
/// that remote pods outside a block of their own node have routes too. Sorted.
pub(super) fn routes(
    resources: &Resources,
    node_name: &str,
    nodes: &BTreeMap<String, Node>,
    pools: &[Pool],
) -> Vec<Route> {
    let pool_of = Prefixes::new(pools.iter().map(|pool| (pool.cidr, pool)));
    let blocks = Prefixes::new(
        resources
            .blocks
            .iter()
            .filter(|block| block.confirmed && pool_of.containing(block.cidr.value).is_some())
            .map(|block| (block.cidr.value, block.node.value.as_str())),
    );
    let resolver = Resolver {
        node_name,
        nodes,
        pool_of,
        blocks,
        known: Known::new(resources, nodes),
    };

    let mut wanted: BTreeSet<IpNet> = pools.iter().map(|pool| pool.cidr).collect();
    wanted.extend(resolver.blocks.iter().map(|(net, _)| net));
    let known = &resolver.known;
    wanted.extend(known.hosts.keys().map(|address| IpNet::from(*address)));
    wanted.extend(known.tunnels.keys().map(|address| IpNet::from(*address)));
    wanted.extend(known.pods.iter().filter_map(|(address, node)| {
        let net = IpNet::from(*address);
        let block_owner = resolver.blocks.containing(net).map(|(_, owner)| *owner);
        (*node == node_name || block_owner != Some(node)).then_some(net)
    }));
    wanted.into_iter().map(|dst| resolver.route(dst)).collect()
}

/// All that a route is made from.
struct Resolver<'a> {
    node_name: &'a str,
    nodes: &'a BTreeMap<String, Node>,
    pool_of: Prefixes<&'a Pool>,
    /// Owners of blocks.
    blocks: Prefixes<&'a str>,
    known: Known<'a>,
}

impl Resolver<'_> {
    fn route(&self, dst: IpNet) -> Route {
        let address = dst.addr();
        let single = dst.prefix_len() == dst.max_prefix_len();
        let pool = self.pool_of.containing(dst).map(|(_, pool)| *pool);
        let block = self.blocks.containing(dst).map(|(_, owner)| *owner);
        let pod = self.known.pods.get(&address).copied().filter(|_| single);
        let tunnel = self.known.tunnels.get(&address).copied().filter(|_| single);
        let host = self.known.hosts.get(&address).copied().filter(|_| single);
        let owner = pod.or(tunnel.map(|(node, _)| node)).or(host).or(block);

        let mut types = RouteTypes::CIDR_INFO;
        // Inside a block of its own node a tunnel address or a node address is a workload's as well.
        if let Some(node) = pod.or(block.filter(|_| owner == block)) {
            types |= self.side(
                node,
                RouteTypes::LOCAL_WORKLOAD,
                RouteTypes::REMOTE_WORKLOAD,
            );
        }
        if let Some((node, _)) = tunnel {
            types |= self.side(node, RouteTypes::LOCAL_TUNNEL, RouteTypes::REMOTE_TUNNEL);
            // Without blocks, the pool alone says that the address is reached as pods are.
            if block.is_none() && pool.is_some() {
                types |= self.side(node, RouteTypes::CIDR_INFO, RouteTypes::REMOTE_WORKLOAD);
            }
        }
        if let Some(node) = host {
            types |= self.side(node, RouteTypes::LOCAL_HOST, RouteTypes::REMOTE_HOST);
        }
        let owner_ip = owner
            .and_then(|owner| self.nodes.get(owner))
            .and_then(|node| node.address_like(address));
        let near = owner.is_some_and(|owner| owner != self.node_name)
            && owner_ip.is_some_and(|ip| self.in_our_subnet(ip));
        Route {
            dst,
            types,
            pool_type: pool.map_or(PoolType::None, Pool::kind),
            dst_node: owner.map(str::to_owned),
            dst_node_ip: owner_ip,
            same_subnet: near && pool.is_some_and(Pool::cross_subnet),
            nat_outgoing: pool.is_some_and(|pool| pool.masquerade),
            local_workload: pod == Some(self.node_name),
            borrowed: block.is_some_and(|block| Some(block) != owner),
            tunnel: tunnel.map(|(_, kind)| kind).unwrap_or_default(),
        }
    }

    fn side(&self, node: &str, local: RouteTypes, remote: RouteTypes) -> RouteTypes {
        if node == self.node_name {
            local
        } else {
            remote
        }
    }

    fn in_our_subnet(&self, ip: IpAddr) -> bool {
        let Some(local) = self.nodes.get(self.node_name) else {
            return false;
        };
        match ip {
            IpAddr::V4(ip) => local.v4.is_some_and(|net| net.contains(&ip)),
            IpAddr::V6(ip) => local.v6.is_some_and(|net| net.contains(&ip)),
        }
    }
}

/// What is known about single addresses.
#[derive(Default)]
struct Known<'a> {
    /// Node whose own address it is.
    hosts: HashMap<IpAddr, &'a str>,
    /// Node and devices of a tunnel address.
    tunnels: HashMap<IpAddr, (&'a str, TunnelType)>,
    /// Node of a pod's address.
    pods: HashMap<IpAddr, &'a str>,
}

impl<'a> Known<'a> {
    fn new(resources: &'a Resources, nodes: &'a BTreeMap<String, Node>) -> Self {
        let mut known = Self::default();
        for node in nodes.values() {
            for address in node.addresses() {
                known.hosts.insert(address, &node.name);
            }
            if let Some(address) = node.ipip_tunnel_v4 {
                known.tunnel(address.into(), &node.name).ipip = true;
            }
            if let Some(address) = node.vxlan_tunnel_v4 {
                known.tunnel(address.into(), &node.name).vxlan = true;
            }
            if let Some(address) = node.vxlan_tunnel_v6 {
                known.tunnel(address.into(), &node.name).vxlan = true;
            }
        }
        for endpoint in &resources.endpoints {
            for address in &endpoint.addresses {
                known.pods.insert(address.value, &endpoint.node.value);
            }
        }
        known
    }

    fn tunnel(&mut self, address: IpAddr, node: &'a str) -> &mut TunnelType {
        &mut self
            .tunnels
            .entry(address)
            .or_insert((node, TunnelType::default()))
            .1
    }
}
