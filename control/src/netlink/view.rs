//! The mirror as the compiler sees it.

use std::net::IpAddr;

use encap::eth::MacAddr;
use ipnet::IpNet;

use super::mirror::Mirror;
use super::model::{Leg, Link, Route, RouteKind};
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
