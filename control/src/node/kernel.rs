//! What the node takes of the kernel's addresses and neighbours.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::compile::KernelHop;
use crate::desired::{Desired, Node};
use crate::netlink::{self, Mirror};

/// Whether an address is one that packets are routed to: not loopback, not link-local.
fn is_global(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => !addr.is_loopback() && !addr.is_link_local(),
        IpAddr::V6(addr) => !addr.is_loopback() && !addr.is_unicast_link_local(),
    }
}

/// The node's own addresses, with the prefix on the link.
pub(super) fn own_addresses(mirror: &Mirror) -> BTreeSet<IpNet> {
    let usable = mirror
        .all_addresses()
        .filter(|address| is_global(address.ip));
    usable
        .filter_map(|address| IpNet::new(address.ip, address.prefix_len).ok())
        .collect()
}

/// The node's own addresses but those of the host's port: what is addressed to them is the kernel's, unless it is a
/// tunnel or comes from a pod.
pub(super) fn underlay_addresses(mirror: &Mirror, host_port: u32) -> BTreeSet<IpAddr> {
    let others = mirror
        .all_addresses()
        .filter(|address| address.ifindex != host_port);
    others
        .map(|address| address.ip)
        .filter(|&ip| is_global(ip))
        .collect()
}

/// What is to be said of the addresses by which other nodes know this one, and that no interface here has: another machine's files,
/// or its name.
pub(super) fn misplaced(desired: &Desired, mirror: &Mirror) -> impl Iterator<Item = String> {
    let is_here = |address: &IpAddr| mirror.all_addresses().any(|it| it.ip == *address);
    let addresses = desired.local_node().into_iter().flat_map(Node::addresses);
    let missing = addresses.filter(move |address| !is_here(address));
    missing.map(|address| {
        format!(
            "Node {} has the address {address}, and no interface here has it: tunnels to this node end nowhere; see \
             nodeName in caracal.yaml",
            desired.node_name
        )
    })
}

/// Neighbours on one of these interfaces that lie on a network connected there and whose MAC address is known.
pub(super) fn known_neighbours(
    mirror: &Mirror,
    uplinks: &BTreeSet<u32>,
) -> BTreeSet<(u32, IpAddr)> {
    mirror
        .neighbours()
        .filter(|neighbour| {
            uplinks.contains(&neighbour.ifindex) && neighbour.usable_mac().is_some()
        })
        .filter(|neighbour| is_global(neighbour.ip))
        .filter(|neighbour| {
            let route = mirror.lookup(neighbour.ip);
            match route.as_ref().and_then(netlink::hop) {
                Some(KernelHop::OnLink { ifindex }) => ifindex == neighbour.ifindex,
                Some(KernelHop::Legs(legs)) => legs
                    .iter()
                    .any(|leg| leg.gateway.is_none() && leg.ifindex == neighbour.ifindex),
                _ => false,
            }
        })
        .map(|neighbour| (neighbour.ifindex, neighbour.ip))
        .collect()
}
