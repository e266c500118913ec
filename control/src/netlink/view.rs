//! The mirror as the compiler sees it.

use std::net::IpAddr;

use encap::eth::MacAddr;
use ipnet::IpNet;

use super::mirror::Mirror;
use super::model::{Address, Leg, Link, Route, RouteKind};
use crate::compile::{KernelHop, KernelView};

impl KernelView for Mirror {
    fn route(&self, addr: IpAddr) -> Option<KernelHop> {
        self.hop(&self.lookup(addr)?)
    }

    fn exact(&self, prefix: IpNet) -> Option<KernelHop> {
        self.hop(&Mirror::route(self, prefix)?)
    }

    fn mac(&self, ifindex: u32, addr: IpAddr) -> Option<MacAddr> {
        self.neighbour(ifindex, addr)?.usable_mac().map(MacAddr)
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

impl Mirror {
    /// Where a route leads: of several legs the first whose link is up, and if none is, the first. `None`: not to where
    /// the compiler could follow.
    pub fn hop(&self, route: &Route) -> Option<KernelHop> {
        hop(route, |leg| self.link(leg.ifindex).is_some_and(Link::is_up))
    }
}

/// The one way out: of several the first whose link is up, and if none is, the first.
fn hop(route: &Route, is_up: impl Fn(&Leg) -> bool) -> Option<KernelHop> {
    match route.kind {
        RouteKind::Unicast => {
            let leg = route
                .legs
                .iter()
                .find(|leg| is_up(leg))
                .or(route.legs.first())?;
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
    fn the_first_leg_that_is_up_is_taken() {
        let route = route(
            RouteKind::Unicast,
            vec![leg(1, Some("192.0.2.1")), leg(2, None)],
        );
        assert_eq!(
            hop(&route, |leg| leg.ifindex == 2),
            Some(KernelHop::OnLink { ifindex: 2 })
        );
        let first = KernelHop::Via {
            gateway: "192.0.2.1".parse().expect("an address"),
            ifindex: 1,
        };
        assert_eq!(hop(&route, |_| true), Some(first));
        assert_eq!(
            hop(&route, |_| false),
            Some(first),
            "the kernel has nothing better either"
        );
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
        let at = |kind| hop(&route(kind, Vec::new()), |_| true);
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
