//! The kernel's mirror, as the compiler sees it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use encap::eth::MacAddr;
use ipnet::IpNet;

use crate::compile::{KernelHop, KernelView};
use crate::netlink::{Mirror, Route, RouteKind};

/// The mirror as a [`KernelView`].
pub(super) struct Kernel<'a>(pub(super) &'a Mirror);

impl KernelView for Kernel<'_> {
    fn route(&self, addr: IpAddr) -> Option<KernelHop> {
        hop(&self.0.lookup(addr)?)
    }

    fn exact(&self, prefix: IpNet) -> Option<KernelHop> {
        hop(&self.0.route(prefix)?)
    }

    fn mac(&self, ifindex: u32, addr: IpAddr) -> Option<MacAddr> {
        self.0.neighbour(ifindex, addr)?.usable_mac().map(MacAddr)
    }
}

/// Where a route leads. Of a multipath route the first leg counts.
pub(super) fn hop(route: &Route) -> Option<KernelHop> {
    match route.kind {
        RouteKind::Unicast => {
            let leg = route.legs.first()?;
            Some(match leg.gateway {
                Some(gateway) => KernelHop::Via {
                    gateway,
                    ifindex: leg.ifindex,
                },
                None => KernelHop::OnLink {
                    ifindex: leg.ifindex,
                },
            })
        }
        RouteKind::Blackhole => Some(KernelHop::Blackhole),
        RouteKind::Unreachable => Some(KernelHop::Unreachable),
        RouteKind::Prohibit => Some(KernelHop::Prohibit),
        RouteKind::Local | RouteKind::Unusable => None,
    }
}

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
            let on_link = KernelHop::OnLink {
                ifindex: neighbour.ifindex,
            };
            mirror
                .lookup(neighbour.ip)
                .is_some_and(|route| hop(&route) == Some(on_link))
        })
        .map(|neighbour| (neighbour.ifindex, neighbour.ip))
        .collect()
}
