//! The mirror as the compiler sees it.

use std::net::IpAddr;

use encap::eth::MacAddr;
use ipnet::IpNet;

use super::mirror::Mirror;
use super::model::{Address, Leg, Link, NeighbourState, Route, RouteKind};
use crate::compile::{KernelHop, KernelLeg, KernelView};

impl KernelView for Mirror {
    fn route(&self, addr: IpAddr) -> Option<KernelHop> {
        hop(&self.lookup(addr)?)
    }

    fn exact(&self, prefix: IpNet) -> Option<KernelHop> {
        hop(&Mirror::route(self, prefix)?)
    }

    fn mac(&self, ifindex: u32, addr: IpAddr) -> Option<MacAddr> {
        self.neighbour(ifindex, addr)?.usable_mac().map(MacAddr)
    }

    fn has_failed(&self, ifindex: u32, addr: IpAddr) -> bool {
        let entry = self.neighbour(ifindex, addr);
        entry.is_some_and(|entry| entry.state == NeighbourState::FAILED)
    }

    fn is_up(&self, ifindex: u32) -> bool {
        self.link(ifindex).is_some_and(Link::is_up)
    }

    fn source(&self, ifindex: u32, v6: bool) -> Option<IpAddr> {
        let default = if v6 {
            IpNet::V6(ipnet::Ipv6Net::default())
        } else {
            IpNet::V4(ipnet::Ipv4Net::default())
        };
        let gateway = match self.exact(default) {
            Some(KernelHop::Via {
                gateway,
                ifindex: via,
            }) if via == ifindex => Some(gateway),
            Some(KernelHop::Legs(legs)) => {
                let leg = legs.into_iter().find(|leg| leg.ifindex == ifindex);
                leg.and_then(|leg| leg.gateway)
            }
            _ => None,
        };
        source(Mirror::addresses(self, ifindex), v6, gateway)
    }

    fn addresses(&self, ifindex: u32) -> Vec<IpAddr> {
        let all = Mirror::addresses(self, ifindex).iter();
        all.map(|address| address.ip).collect()
    }
}

/// The source that masquerading takes of an interface's addresses, as `inet_select_addr` of the kernel: a primary one of
/// global scope, of the gateway's network if there is one.
fn source(addresses: &[Address], v6: bool, gateway: Option<IpAddr>) -> Option<IpAddr> {
    const UNIVERSE: u8 = 0;
    let usable = |address: &&Address| {
        address.ip.is_ipv6() == v6
            && address.scope == UNIVERSE
            && address.is_usable()
            && address.flags & (libc::IFA_F_SECONDARY | libc::IFA_F_DEPRECATED) == 0
    };
    let near = |address: &&Address| {
        gateway.is_some_and(|gateway| {
            IpNet::new(address.ip, address.prefix_len).is_ok_and(|net| net.contains(&gateway))
        })
    };
    let mut all = addresses.iter().filter(usable);
    let nearest = addresses.iter().filter(usable).find(near);
    nearest.or_else(|| all.next()).map(|address| address.ip)
}

/// Where a route leads: over all its legs, also those that are down, which the compiler knows of. `None`: not to where it could follow.
pub fn hop(route: &Route) -> Option<KernelHop> {
    match route.kind {
        RouteKind::Unicast => Some(match *route.legs.as_slice() {
            [] => return None,
            [
                Leg {
                    gateway: Some(gateway),
                    ifindex,
                    ..
                },
            ] => KernelHop::Via { gateway, ifindex },
            [Leg { ifindex, .. }] => KernelHop::OnLink { ifindex },
            ref legs => KernelHop::Legs(legs.iter().map(KernelLeg::from).collect()),
        }),
        RouteKind::Blackhole => Some(KernelHop::Blackhole),
        RouteKind::Unreachable => Some(KernelHop::Unreachable),
        RouteKind::Prohibit => Some(KernelHop::Prohibit),
        RouteKind::Local | RouteKind::Unusable => None,
    }
}

impl From<&Leg> for KernelLeg {
    fn from(leg: &Leg) -> Self {
        Self {
            gateway: leg.gateway,
            ifindex: leg.ifindex,
            weight: leg.weight,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::netlink::model::Path;

    fn route(kind: RouteKind, legs: Vec<Leg>) -> Route {
        let path = Path {
            kind,
            protocol: 4,
            pref_src: None,
            nexthop_id: None,
            legs,
        };
        Route {
            dst: "10.0.0.0/8".parse().expect("a prefix"),
            metric: 0,
            path: Arc::new(path),
        }
    }

    fn leg(ifindex: u32, gateway: Option<&str>) -> Leg {
        let gateway = gateway.map(|ip| ip.parse().expect("an address"));
        Leg {
            gateway,
            ifindex,
            weight: 1,
            onlink: false,
        }
    }

    #[test]
    fn a_route_leads_over_all_its_legs() {
        let gateway = "192.0.2.1".parse().expect("an address");
        let legs = vec![leg(1, Some("192.0.2.1")), leg(2, None)];
        let of = |legs: &[Leg]| hop(&route(RouteKind::Unicast, legs.to_vec()));
        let via = KernelHop::Via {
            gateway,
            ifindex: 1,
        };
        assert_eq!(of(&legs[..1]), Some(via));
        assert_eq!(of(&legs[1..]), Some(KernelHop::OnLink { ifindex: 2 }));
        let kernel_leg = |gateway, ifindex, weight| KernelLeg {
            gateway,
            ifindex,
            weight,
        };
        let mut weighted = legs;
        weighted[1].weight = 3;
        let both = vec![kernel_leg(Some(gateway), 1, 1), kernel_leg(None, 2, 3)];
        assert_eq!(of(&weighted), Some(KernelHop::Legs(both)));
    }

    #[test]
    fn the_source_is_a_primary_address_near_the_gateway() {
        let address = |ip: &str, prefix_len, scope, flags| Address {
            ifindex: 2,
            ip: ip.parse().expect("an address"),
            prefix_len,
            scope,
            peer: None,
            flags,
        };
        let addresses = [
            address("169.254.7.7", 16, 253, 0),
            address("192.0.2.9", 24, 0, libc::IFA_F_SECONDARY),
            address("192.0.2.1", 24, 0, 0),
            address("198.51.100.1", 24, 0, 0),
            address("2001:db8::9", 64, 0, libc::IFA_F_DEPRECATED),
            address("2001:db8::8", 64, 0, libc::IFA_F_TENTATIVE),
            address("2001:db8::1", 64, 0, 0),
        ];
        let from = |v6, gateway: Option<&str>| {
            let gateway = gateway.map(|ip| ip.parse().expect("an address"));
            source(&addresses, v6, gateway).map(|ip| ip.to_string())
        };
        assert_eq!(from(false, None).as_deref(), Some("192.0.2.1"));
        let near = from(false, Some("198.51.100.254"));
        assert_eq!(near.as_deref(), Some("198.51.100.1"));
        let far = from(false, Some("203.0.113.1"));
        assert_eq!(far.as_deref(), Some("192.0.2.1"));
        assert_eq!(from(true, None).as_deref(), Some("2001:db8::1"));
        assert_eq!(source(&addresses[..2], false, None), None);
    }

    #[test]
    fn routes_that_lead_nowhere_say_how() {
        let at = |kind| hop(&route(kind, Vec::new()));
        assert_eq!(at(RouteKind::Blackhole), Some(KernelHop::Blackhole));
        assert_eq!(at(RouteKind::Unreachable), Some(KernelHop::Unreachable));
        assert_eq!(at(RouteKind::Prohibit), Some(KernelHop::Prohibit));
        assert_eq!(at(RouteKind::Unusable), None);
        assert_eq!(
            at(RouteKind::Unicast),
            None,
            "a nexthop object that the kernel does not spell out"
        );
    }
}
