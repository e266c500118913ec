//! Routes for people: what the tables say, in words.

use std::collections::BinaryHeap;
use std::net::IpAddr;

use fastpath::tables::NextHop;
use flowtable::lpm::{NextHopId, Prefix4, Prefix6};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::fib::{Fib, Layer};
use super::hops::Hop;
use super::kernel::KernelView;
use super::legs::{self, Leg};
use super::{Compiler, render};

/// Who asked for a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteSource {
    /// The node's own addresses.
    Own,
    /// Calico's resources.
    Calico,
    /// A neighbour on a connected network.
    Neighbour,
    /// The kernel's main table.
    Kernel,
}

impl RouteSource {
    /// The name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Calico => "calico",
            Self::Neighbour => "neighbour",
            Self::Kernel => "kernel",
        }
    }
}

/// What a route leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteKind {
    /// A local pod.
    Pod,
    /// The host's own stack.
    Host,
    /// A router or a neighbour.
    Gateway,
    /// A connected network.
    Connected,
    /// Another node, without encapsulation.
    Node,
    /// Another node, in VXLAN.
    Vxlan,
    /// Another node, in IPIP.
    Ipip,
    /// Nothing: packets are dropped.
    Drop,
}

impl RouteKind {
    /// The name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Host => "host",
            Self::Gateway => "gateway",
            Self::Connected => "connected",
            Self::Node => "node",
            Self::Vxlan => "vxlan",
            Self::Ipip => "ipip",
            Self::Drop => "drop",
        }
    }
}

/// Whether packets may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteState {
    /// Every byte of the headers is known.
    Ready,
    /// The MAC address is asked for when a packet comes, or is being asked for.
    Unresolved,
    /// Packets are dropped.
    Drop,
}

impl RouteState {
    /// The name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Unresolved => "unresolved",
            Self::Drop => "drop",
        }
    }
}

/// One route as the pollers have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteView {
    /// Destination.
    pub prefix: IpNet,
    /// Who asked for it.
    pub source: RouteSource,
    /// What it leads to.
    pub kind: RouteKind,
    /// The node it leads to.
    pub node: Option<String>,
    /// The node's address: the tunnel's other end.
    pub remote: Option<IpAddr>,
    /// The router or neighbour on the link.
    pub via: Option<IpAddr>,
    /// The interface packets leave by.
    pub dev: Option<String>,
    /// Longest inner IP packet, in bytes.
    pub mtu: Option<u16>,
    /// Destination MAC address on the link.
    pub mac: Option<String>,
    /// Whether packets may go.
    pub state: RouteState,
    /// Why not.
    pub reason: Option<String>,
    /// The ways of a route that has several, where the router, the interface and what follows from these are each one's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub legs: Vec<LegView>,
}

/// One way of a route that has several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegView {
    /// The router or neighbour on the link; none on a connected network.
    pub via: Option<IpAddr>,
    /// The interface packets leave by; none where it is no uplink.
    pub dev: Option<String>,
    /// Its weight among all, as the kernel has it.
    pub weight: u16,
    /// Whether flows take it.
    pub used: bool,
    /// How many of them, in percent.
    pub share_percent: u8,
    /// Longest inner IP packet, in bytes.
    pub mtu: Option<u16>,
    /// Destination MAC address on the link.
    pub mac: Option<String>,
    /// Whether packets may go.
    pub state: LegState,
}

/// How a leg stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LegState {
    /// Every byte of the headers is known.
    Ready,
    /// The MAC address is asked for when a packet comes, or is being asked for.
    Unresolved,
    /// The neighbour does not answer: not used while another leg works.
    Failed,
    /// The interface is down, or no uplink: not used while another leg works.
    Down,
}

impl LegState {
    /// The name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Unresolved => "unresolved",
            Self::Failed => "failed",
            Self::Down => "down",
        }
    }
}

impl Compiler {
    /// The route that packets to `addr` take, if there is one.
    pub fn route_to(&self, addr: IpAddr, kernel: &dyn KernelView) -> Option<RouteView> {
        let (prefix, id) = self.fib.lookup(addr)?;
        self.view(prefix, id, kernel)
    }

    /// At most `limit` routes in order of address and length, those after `after`. Walks all routes once.
    pub fn routes(
        &self,
        after: Option<IpNet>,
        limit: usize,
        kernel: &dyn KernelView,
    ) -> Vec<RouteView> {
        self.fib
            .page(after, limit)
            .into_iter()
            .filter_map(|prefix| {
                let id = self.fib.get(prefix)?;
                self.view(prefix, id, kernel)
            })
            .collect()
    }

    fn view(&self, prefix: IpNet, id: NextHopId, kernel: &dyn KernelView) -> Option<RouteView> {
        let hop = self.hops.get(id)?;
        let (kind, node, remote) = self.describe(hop);
        let all = legs::all(self, hop, kernel);
        let used = legs::used(self, &all, kernel);
        let several = all.len() > 1;
        let mut view = RouteView {
            prefix,
            source: self.fib.source(prefix),
            kind,
            node: node.cloned(),
            remote,
            via: all
                .first()
                .filter(|_| !several)
                .and_then(|leg| leg.neighbour),
            dev: None,
            mtu: None,
            mac: None,
            state: RouteState::Drop,
            reason: None,
            legs: Vec::new(),
        };
        if several {
            view.legs = self.legs(hop, &all, &used, kernel);
            for leg in &used {
                match render::next_hop(self, hop, Some(leg), kernel) {
                    NextHop::Send(_) => view.state = RouteState::Ready,
                    NextHop::Resolve(_) if view.state != RouteState::Ready => {
                        view.state = RouteState::Unresolved;
                    }
                    NextHop::Drop(reason) => view.reason = Some(reason.name().to_owned()),
                    NextHop::Resolve(_) | NextHop::Group(_) => {}
                }
            }
            return Some(view);
        }
        let dev = |port| self.ports.get(port).map(|spec| spec.name.clone());
        match render::next_hop(self, hop, used.first(), kernel) {
            NextHop::Send(adjacency) => {
                view.dev = dev(adjacency.port);
                view.mtu = Some(adjacency.mtu);
                view.mac = Some(adjacency.rewrite.macs().dst.to_string());
                view.state = RouteState::Ready;
            }
            NextHop::Resolve(waiting) => {
                view.dev = dev(waiting.port);
                view.state = RouteState::Unresolved;
            }
            NextHop::Drop(reason) => view.reason = Some(reason.name().to_owned()),
            // Of several only.
            NextHop::Group(_) => {}
        }
        Some(view)
    }

    /// The legs of a next hop that has several.
    fn legs(&self, hop: &Hop, all: &[Leg], used: &[Leg], kernel: &dyn KernelView) -> Vec<LegView> {
        let shares = legs::shares(used);
        let share = |leg: &Leg| {
            let at = used.iter().position(|used| used == leg)?;
            shares.get(at).copied()
        };
        let view = |leg: &Leg| {
            let port = self.ports.by_ifindex(leg.ifindex);
            let failed = |addr| kernel.has_failed(leg.ifindex, addr);
            let mut view = LegView {
                via: leg.neighbour,
                dev: port.and_then(|id| Some(self.ports.get(id)?.name.clone())),
                weight: leg.weight,
                used: share(leg).is_some(),
                share_percent: share(leg).unwrap_or(0),
                mtu: None,
                mac: None,
                state: LegState::Down,
            };
            match render::next_hop(self, hop, Some(leg), kernel) {
                _ if !kernel.is_up(leg.ifindex) => {}
                NextHop::Send(adjacency) => {
                    view.mtu = Some(adjacency.mtu);
                    view.mac = Some(adjacency.rewrite.macs().dst.to_string());
                    view.state = LegState::Ready;
                }
                NextHop::Resolve(_) if leg.neighbour.is_some_and(failed) => {
                    view.state = LegState::Failed;
                }
                NextHop::Resolve(_) => view.state = LegState::Unresolved,
                NextHop::Drop(_) | NextHop::Group(_) => {}
            }
            view
        };
        all.iter().map(view).collect()
    }

    fn describe<'a>(&self, hop: &'a Hop) -> (RouteKind, Option<&'a String>, Option<IpAddr>) {
        match hop {
            Hop::Drop(_) => (RouteKind::Drop, None, None),
            Hop::Host => (RouteKind::Host, None, None),
            Hop::Pod(_) => (RouteKind::Pod, None, None),
            Hop::Via { .. } => (RouteKind::Gateway, None, None),
            Hop::Legs(legs) if legs.iter().any(|leg| leg.gateway.is_some()) => {
                (RouteKind::Gateway, None, None)
            }
            Hop::Legs(_) | Hop::OnLink { .. } => (RouteKind::Connected, None, None),
            Hop::Node(node) => (RouteKind::Node, Some(node), self.node_addr(node, false)),
            Hop::Node6(node) => (RouteKind::Node, Some(node), self.node_addr(node, true)),
            Hop::Vxlan { node, v6 } => (RouteKind::Vxlan, Some(node), self.vtep_parent(node, *v6)),
            Hop::Ipip(node) => (RouteKind::Ipip, Some(node), self.node_addr(node, false)),
        }
    }
}

impl Fib {
    /// The longest route that holds an address.
    fn lookup(&self, addr: IpAddr) -> Option<(IpNet, NextHopId)> {
        let longest = if addr.is_ipv4() { 32 } else { 128 };
        (0..=longest).rev().find_map(|len| {
            let prefix = IpNet::new(addr, len).ok()?.trunc();
            Some((prefix, self.get(prefix)?))
        })
    }

    fn get(&self, prefix: IpNet) -> Option<NextHopId> {
        let len = prefix.prefix_len();
        match prefix.addr() {
            IpAddr::V4(addr) => self
                .rib4
                .get(Prefix4::containing(addr.to_bits(), len).ok()?),
            IpAddr::V6(addr) => self
                .rib6
                .get(Prefix6::containing(addr.to_bits(), len).ok()?),
        }
    }

    /// The `limit` first prefixes after `after`, in order; needs memory for no more than these.
    fn page(&self, after: Option<IpNet>, limit: usize) -> Vec<IpNet> {
        let v4 = self.rib4.iter().filter_map(|(prefix, _)| {
            IpNet::new(IpAddr::V4(prefix.addr().into()), prefix.len()).ok()
        });
        let v6 = self.rib6.iter().filter_map(|(prefix, _)| {
            IpNet::new(IpAddr::V6(prefix.addr().into()), prefix.len()).ok()
        });
        let mut page = BinaryHeap::new();
        for prefix in v4.chain(v6).filter(|prefix| Some(*prefix) > after) {
            if page.len() < limit {
                page.push(prefix);
            } else if let Some(mut last) = page.peek_mut()
                && prefix < *last
            {
                *last = prefix;
            }
        }
        page.into_sorted_vec()
    }

    fn source(&self, prefix: IpNet) -> RouteSource {
        let by_layer = self.layers.get(&prefix);
        let has = |layer| by_layer.is_some_and(|layers| layers[layer as usize].is_some());
        if has(Layer::Own) {
            RouteSource::Own
        } else if has(Layer::Calico) {
            RouteSource::Calico
        } else if has(Layer::Neighbour) {
            RouteSource::Neighbour
        } else {
            RouteSource::Kernel
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::KernelHop;
    use crate::desired::Desired;
    use encap::eth::MacAddr;
    use encap::flow_hash::HashKey;

    struct NoKernel;

    impl KernelView for NoKernel {
        fn route(&self, _: IpAddr) -> Option<KernelHop> {
            None
        }

        fn exact(&self, _: IpNet) -> Option<KernelHop> {
            None
        }

        fn mac(&self, _: u32, _: IpAddr) -> Option<MacAddr> {
            None
        }
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn compiler(prefixes: &[&str]) -> Compiler {
        let mut compiler = Compiler::new(HashKey([1, 2]));
        compiler.set_desired(Desired::default(), &NoKernel).unwrap();
        let hop = KernelHop::Blackhole;
        let routes = prefixes.iter().map(|text| (net(text), Some(&hop)));
        compiler.kernel_routes(routes).unwrap();
        compiler
    }

    #[test]
    fn pages_hold_every_route_once_and_in_order() {
        let sorted = [
            "0.0.0.0/0",
            "10.0.0.0/8",
            "10.0.0.0/24",
            "10.0.0.7/32",
            "192.0.2.0/24",
            "::/0",
            "2001:db8::/32",
            "2001:db8::1/128",
        ];
        let mut shuffled = sorted;
        shuffled.reverse();
        let compiler = compiler(&shuffled);
        for limit in 1..=sorted.len() + 1 {
            let (mut all, mut after) = (Vec::new(), None);
            loop {
                let page = compiler.routes(after, limit, &NoKernel);
                assert!(page.len() <= limit);
                let Some(last) = page.last() else { break };
                after = Some(last.prefix);
                all.extend(page.into_iter().map(|view| view.prefix));
            }
            assert_eq!(all, sorted.map(net));
        }
    }

    #[test]
    fn the_longest_route_is_found_and_says_why_nothing_goes_there() {
        let compiler = compiler(&["10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32"]);
        let prefix = |addr: &str| {
            compiler
                .route_to(addr.parse().unwrap(), &NoKernel)
                .map(|view| view.prefix)
        };
        assert_eq!(prefix("10.1.2.3"), Some(net("10.1.0.0/16")));
        assert_eq!(prefix("10.2.2.3"), Some(net("10.0.0.0/8")));
        assert_eq!(prefix("2001:db8:1::"), Some(net("2001:db8::/32")));
        assert_eq!(prefix("11.0.0.1"), None);
        assert_eq!(prefix("::1"), None);
        let view = compiler
            .route_to("10.1.2.3".parse().unwrap(), &NoKernel)
            .unwrap();
        assert_eq!(
            (view.source, view.kind),
            (RouteSource::Kernel, RouteKind::Drop)
        );
        assert_eq!(view.reason.as_deref(), Some("blackhole"));
    }
}
