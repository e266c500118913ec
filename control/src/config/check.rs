//! What must hold between resources.

mod services;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use super::daemon::Uplink;
use super::diagnostic::{Diagnostic, Diagnostics};
use super::load::Resources;
use super::resource::Meta;
use super::source::{Located, Span};
use super::suggest::nearest;

/// Checks all that does not depend on which node we are.
pub fn check(resources: &Resources, diagnostics: &mut Diagnostics) {
    // What a broken document would have defined is not there: nobody is told then that it is missing.
    let complete = !diagnostics.has_errors();
    endpoints_are_unique(resources, diagnostics);
    pools_are_disjoint(resources, diagnostics);
    blocks_are_disjoint(resources, diagnostics);
    services::claims_are_unique(resources, diagnostics);
    if complete {
        references_are_met(resources, diagnostics);
        blocks_lie_in_pools(resources, diagnostics);
        endpoints_lie_in_pools(resources, diagnostics);
        nodes_have_addresses(resources, diagnostics);
        services::slices_have_services(resources, diagnostics);
    }
}

/// Checks that hold for endpoints whether nodes and pools are known or not.
pub(crate) fn endpoints_are_unique(resources: &Resources, diagnostics: &mut Diagnostics) {
    addresses_are_unique(resources, diagnostics);
    interfaces_are_unique(resources, diagnostics);
}

/// Pairs of neighbours, in the order of address, that overlap. Sorted prefixes overlap only if a later one lies
/// in an earlier one, so one look at the innermost open prefix is enough.
fn overlaps<T>(mut items: Vec<(IpNet, T)>) -> Vec<[(IpNet, T); 2]>
where
    T: Copy,
{
    items.sort_by_key(|(net, _)| (net.network(), net.prefix_len()));
    let mut open: Option<(IpNet, T)> = None;
    let mut found = Vec::new();
    for item in items {
        match open {
            Some(outer) if outer.0.contains(&item.0) => found.push([outer, item]),
            _ => open = Some(item),
        }
    }
    found
}

fn pools_are_disjoint(resources: &Resources, diagnostics: &mut Diagnostics) {
    let items = resources
        .pools
        .iter()
        .map(|pool| (pool.cidr.value, pool))
        .collect();
    for [(outer_net, outer), (net, pool)] in overlaps(items) {
        diagnostics.push(
            Diagnostic::error(format!("pools overlap: {net} and {outer_net}"))
                .at(&pool.cidr.at, format!("overlaps {}", outer.meta.label()))
                .about(pool.meta.label())
                .see(format!("{} is here", outer.meta.label()), &outer.cidr.at)
                .help("an address belongs to one pool: make one of them smaller, or take it away"),
        );
    }
}

fn blocks_are_disjoint(resources: &Resources, diagnostics: &mut Diagnostics) {
    let items = resources
        .blocks
        .iter()
        .filter(|block| block.confirmed)
        .map(|block| (block.cidr.value, block))
        .collect();
    for [(outer_net, outer), (net, block)] in overlaps(items) {
        diagnostics.push(
            Diagnostic::error(format!("blocks overlap: {net} and {outer_net}"))
                .at(
                    &block.cidr.at,
                    format!("node {} owns {outer_net}", outer.node.value),
                )
                .about(block.meta.label())
                .see("the other block is here", &outer.cidr.at)
                .help("a block belongs to one node: take away the affinity that is out of date"),
        );
    }
}

/// Nobody may have an address that another has: pods, nodes, tunnel devices.
fn addresses_are_unique(resources: &Resources, diagnostics: &mut Diagnostics) {
    let mut owners: HashMap<IpAddr, (String, Span)> = HashMap::new();
    let mut claim = |address: IpAddr, owner: String, meta: &Meta, at: &Span| {
        if let Some((other, place)) = owners.get(&address) {
            diagnostics.push(
                Diagnostic::error(format!("address {address} is claimed twice"))
                    .at(at, format!("already that of {other}"))
                    .about(meta.label())
                    .see(format!("{other} has it here"), place)
                    .help("give one of them another address, or take away the one that is gone"),
            );
        } else {
            owners.insert(address, (owner, at.clone()));
        }
    };
    for node in &resources.nodes {
        let name = &node.meta.name.value;
        if let Some(net) = &node.v4 {
            claim(
                net.addr().into(),
                format!("node {name}"),
                &node.meta,
                &net.at,
            );
        }
        if let Some(net) = &node.v6 {
            claim(
                net.addr().into(),
                format!("node {name}"),
                &node.meta,
                &net.at,
            );
        }
        let tunnel = format!("a tunnel of node {name}");
        // One node may use one address for both of its IPv4 tunnels.
        let mut tunnels: Vec<(IpAddr, &Span)> = Vec::new();
        tunnels.extend(
            node.ipip_tunnel_v4
                .as_ref()
                .map(|a| (IpAddr::V4(a.value), &a.at)),
        );
        tunnels.extend(
            node.vxlan_tunnel_v4
                .as_ref()
                .map(|a| (IpAddr::V4(a.value), &a.at)),
        );
        tunnels.extend(
            node.vxlan_tunnel_v6
                .as_ref()
                .map(|a| (IpAddr::V6(a.value), &a.at)),
        );
        tunnels.dedup_by_key(|(address, _)| *address);
        for (address, at) in tunnels {
            claim(address, tunnel.clone(), &node.meta, at);
        }
    }
    for endpoint in &resources.endpoints {
        for address in &endpoint.addresses {
            claim(
                address.value,
                endpoint.meta.label(),
                &endpoint.meta,
                &address.at,
            );
        }
    }
}

fn interfaces_are_unique(resources: &Resources, diagnostics: &mut Diagnostics) {
    let mut owners: HashMap<(&str, &str), (&Meta, &Span)> = HashMap::new();
    for endpoint in &resources.endpoints {
        let Some(interface) = &endpoint.interface else {
            continue;
        };
        let key = (endpoint.node.value.as_str(), interface.value.as_str());
        if let Some((other, place)) = owners.get(&key) {
            let message = format!("interface {} of node {} has two endpoints", key.1, key.0);
            diagnostics.push(
                Diagnostic::error(message)
                    .at(&interface.at, format!("already that of {}", other.label()))
                    .about(endpoint.meta.label())
                    .see(format!("{} has it here", other.label()), place),
            );
        } else {
            owners.insert(key, (&endpoint.meta, &interface.at));
        }
    }
}

/// Endpoints of a node whose interface is one of its uplinks. Pods would be given what is the node's.
pub(crate) fn uplinks_are_no_pods(
    resources: &Resources,
    node: &str,
    uplinks: &[Uplink],
) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for endpoint in resources
        .endpoints
        .iter()
        .filter(|it| it.node.value == node)
    {
        let Some(interface) = &endpoint.interface else {
            continue;
        };
        if let Some(uplink) = uplinks.iter().find(|it| it.interface == *interface) {
            let message = format!("interface {} is an uplink of this node", interface.value);
            found.push(
                Diagnostic::error(message)
                    .at(&interface.at, "must be the host's end of the pod's veth")
                    .about(endpoint.meta.label())
                    .see("an uplink by this line", &uplink.interface.at),
            );
        }
    }
    found
}

fn references_are_met(resources: &Resources, diagnostics: &mut Diagnostics) {
    let nodes: BTreeSet<&str> = resources
        .nodes
        .iter()
        .map(|node| node.meta.name.value.as_str())
        .collect();
    let mut check = |meta: &Meta, node: &Located<String>, consequence: &str| {
        if nodes.contains(node.value.as_str()) {
            return;
        }
        let label = match nearest(&node.value, nodes.iter().copied()) {
            Some(known) => format!("did you mean `{known}`?"),
            None => format!("no Node has this name{consequence}"),
        };
        diagnostics.push(
            Diagnostic::warning(format!("unknown node `{}`", node.value))
                .at(&node.at, label)
                .about(meta.label()),
        );
    };
    for endpoint in &resources.endpoints {
        check(
            &endpoint.meta,
            &endpoint.node,
            ": its pods cannot be reached",
        );
    }
    for block in &resources.blocks {
        check(&block.meta, &block.node, ": the block cannot be reached");
    }
}

fn blocks_lie_in_pools(resources: &Resources, diagnostics: &mut Diagnostics) {
    let pools = Prefixes::new(resources.pools.iter().map(|pool| (pool.cidr.value, ())));
    for block in &resources.blocks {
        if pools.containing(block.cidr.value).is_none() {
            diagnostics.push(
                Diagnostic::warning(format!("block {} lies in no pool", block.cidr.value))
                    .at(&block.cidr.at, "no route is made for it")
                    .about(block.meta.label()),
            );
        }
    }
}

fn endpoints_lie_in_pools(resources: &Resources, diagnostics: &mut Diagnostics) {
    let pools = Prefixes::new(resources.pools.iter().map(|pool| (pool.cidr.value, ())));
    for endpoint in &resources.endpoints {
        for address in &endpoint.addresses {
            if pools.containing(address.value.into()).is_none() {
                diagnostics.push(
                    Diagnostic::warning(format!("address {} lies in no pool", address.value))
                        .at(
                            &address.at,
                            "other nodes reach it only if the kernel has a route",
                        )
                        .about(endpoint.meta.label()),
                );
            }
        }
    }
}

fn nodes_have_addresses(resources: &Resources, diagnostics: &mut Diagnostics) {
    for node in &resources.nodes {
        if node.v4.is_none() && node.v6.is_none() {
            diagnostics.push(
                Diagnostic::warning(format!("node {} has no address", node.meta.name.value))
                    .at(
                        &node.meta.name.at,
                        "its pods cannot be reached: give spec.bgp.ipv4Address",
                    )
                    .about(node.meta.label()),
            );
        }
    }
}

/// Prefixes that can be asked for the longest one that holds another.
#[derive(Debug)]
pub(super) struct Prefixes<T> {
    by_prefix: BTreeMap<IpNet, T>,
    lengths_v4: BTreeSet<u8>,
    lengths_v6: BTreeSet<u8>,
}

impl<T> Prefixes<T> {
    /// Of equal prefixes the last counts.
    pub(super) fn new(items: impl IntoIterator<Item = (IpNet, T)>) -> Self {
        let by_prefix: BTreeMap<IpNet, T> = items
            .into_iter()
            .map(|(net, item)| (net.trunc(), item))
            .collect();
        let lengths = |v4: bool| {
            by_prefix
                .keys()
                .filter(|net| matches!(net, IpNet::V4(_)) == v4)
                .map(IpNet::prefix_len)
                .collect()
        };
        Self {
            lengths_v4: lengths(true),
            lengths_v6: lengths(false),
            by_prefix,
        }
    }

    /// All prefixes in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (IpNet, &T)> {
        self.by_prefix.iter().map(|(net, item)| (*net, item))
    }

    /// The longest prefix that holds `net`, which may be `net` itself.
    pub(super) fn containing(&self, net: IpNet) -> Option<(IpNet, &T)> {
        let lengths = match net {
            IpNet::V4(_) => &self.lengths_v4,
            IpNet::V6(_) => &self.lengths_v6,
        };
        lengths.range(..=net.prefix_len()).rev().find_map(|length| {
            let outer = IpNet::new(net.addr(), *length).ok()?.trunc();
            self.by_prefix.get(&outer).map(|item| (outer, item))
        })
    }
}
