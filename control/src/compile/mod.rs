//! From what is wanted and what the kernel knows to the tables that pollers read.
//!
//! Incremental where it must be: one route's change touches one route; a neighbour's change touches next hops only.

mod fib;
mod hops;
mod incarnation;
mod inspect;
mod kernel;
mod legs;
mod nat;
mod places;
mod policy;
mod ports;
mod render;
mod services;

pub use fib::FibError;
pub use inspect::{LegState, LegView, RouteKind, RouteSource, RouteState, RouteView};
pub use kernel::{KernelHop, KernelLeg, KernelView};
pub use policy::{PolicyCompiler, PolicyError};
pub use ports::{PortRole, PortSpec, PortTable};

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use encap::eth::MacAddr;
use encap::flow_hash::HashKey;
use fastpath::batch::PeerId;
use fastpath::port::PortId;
use fastpath::reason::DropReason;
use fastpath::tables::Tables;
use flowtable::snat::Ports;
use ipnet::IpNet;

use crate::desired::{Desired, Endpoint, RouteTypes, Service, Way};
use fib::{Fib, Layer};
use hops::{Hop, HopTable};
use incarnation::Incarnations;
use legs::Spreads;
use services::ServiceCompiler;

/// Why a wanted state is refused.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// Its routes.
    #[error(transparent)]
    Fib(#[from] FibError),
    /// Its policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

/// Compiles the node's state into [`Tables`]. Owned by the control thread.
#[derive(Debug)]
pub struct Compiler {
    desired: Desired,
    ports: PortTable,
    hops: HopTable,
    fib: Fib,
    /// Nodes' numbers; a node keeps its number as long as the process lives.
    peers: BTreeMap<String, PeerId>,
    /// MAC addresses that pods without a configured one were seen to use.
    learned: HashMap<PortId, MacAddr>,
    incarnations: Incarnations,
    spreads: Spreads,
    policy: PolicyCompiler,
    services: ServiceCompiler,
    /// Tunnels whose path is narrower than the uplink: the longest outer packet in bytes, by node and whether it is over IPv6.
    path_mtus: BTreeMap<(PeerId, bool), u16>,
    /// The ports of natOutgoing: none until they are set, so that none are taken from the host meanwhile.
    nat_ports: Arc<Ports>,
    /// Whether connections that are met in their middle are picked up.
    pick_up: bool,
    hash_key: HashKey,
    generation: u64,
}

impl Compiler {
    /// A compiler that knows nothing yet: its tables drop everything.
    pub fn new(hash_key: HashKey) -> Self {
        Self {
            desired: Desired::default(),
            ports: PortTable::default(),
            hops: HopTable::default(),
            fib: Fib::default(),
            peers: BTreeMap::new(),
            learned: HashMap::new(),
            incarnations: Incarnations::default(),
            spreads: Spreads::default(),
            policy: PolicyCompiler::default(),
            services: ServiceCompiler::default(),
            path_mtus: BTreeMap::new(),
            nat_ports: Arc::new(Ports::none()),
            pick_up: true,
            hash_key,
            generation: 0,
        }
    }

    /// What is wanted now.
    pub const fn desired(&self) -> &Desired {
        &self.desired
    }

    /// The ports.
    pub const fn ports(&self) -> &PortTable {
        &self.ports
    }

    /// The ports, to be changed. Call [`refresh_routes`](Self::refresh_routes) afterwards.
    pub const fn ports_mut(&mut self) -> &mut PortTable {
        &mut self.ports
    }

    /// Remembers that a tunnel's outer packets must not be longer than this. Returns whether that is news; a wider path is not:
    /// the narrow one has to be forgotten first.
    pub fn learn_path_mtu(&mut self, path: (PeerId, bool), mtu: u16) -> bool {
        let known = self.path_mtus.entry(path).or_insert(u16::MAX);
        let is_news = mtu < *known;
        *known = mtu.min(*known);
        is_news
    }

    /// Forgets a tunnel's narrow path.
    pub fn forget_path_mtu(&mut self, path: (PeerId, bool)) {
        self.path_mtus.remove(&path);
    }

    /// The ports of natOutgoing: none until they are set, so that none are taken from the host meanwhile.
    pub const fn nat_ports(&self) -> &Arc<Ports> {
        &self.nat_ports
    }

    /// Takes other ports for natOutgoing. Connections keep those that they have.
    pub fn set_nat_ports(&mut self, ports: Arc<Ports>) {
        self.nat_ports = ports;
    }

    /// Whether connections that are met in their middle are picked up, as after a restart. True unless told otherwise.
    pub const fn set_pick_up(&mut self, pick_up: bool) {
        self.pick_up = pick_up;
    }

    /// The addresses that translated connections leave the uplinks with; none when no pool asks for it.
    pub fn nat_addresses(&self, kernel: &dyn KernelView) -> BTreeSet<IpAddr> {
        let v6 = |addr: &IpAddr| addr.is_ipv6();
        let asked = |addr: &IpAddr| {
            let mut pools = self.desired.pools.iter();
            pools.any(|pool| pool.masquerade && pool.cidr.addr().is_ipv6() == v6(addr))
        };
        let specs = self.ports.iter().map(|(_, spec)| spec);
        specs
            .flat_map(|spec| [false, true].map(|v6| render::nat_address(self, spec, v6, kernel)))
            .flatten()
            .filter(asked)
            .collect()
    }

    /// The name of a node by its number.
    pub fn node_of(&self, peer: PeerId) -> Option<&str> {
        let mut peers = self.peers.iter();
        peers
            .find(|(_, number)| **number == peer)
            .map(|(name, _)| name.as_str())
    }

    /// Generation of the tables that were made last.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// How many routes there are, IPv4 and IPv6.
    pub fn route_count(&self) -> (usize, usize) {
        self.fib.len()
    }

    /// Remembers the MAC address that a pod was seen to use.
    pub fn learn(&mut self, port: PortId, mac: MacAddr) {
        let is_pod = self
            .ports
            .get(port)
            .is_some_and(|spec| spec.role == PortRole::Pod);
        if is_pod {
            self.learned.entry(port).or_insert(mac);
        }
    }

    /// The policy.
    pub const fn policy(&self) -> &PolicyCompiler {
        &self.policy
    }

    /// The policy, to be told how it is enforced.
    pub const fn policy_mut(&mut self) -> &mut PolicyCompiler {
        &mut self.policy
    }

    /// Takes a new wanted state. All routes that follow from it are replaced, and what changed of the policy and of services;
    /// nothing changes on an error.
    ///
    /// # Errors
    /// When the routes or the policy do not fit the tables.
    pub fn set_desired(
        &mut self,
        desired: Desired,
        kernel: &dyn KernelView,
    ) -> Result<(), CompileError> {
        let peers = self.peers_of(&desired)?;
        let before = std::mem::replace(&mut self.desired, desired);
        let routes = self.calico_routes();
        let outcome = self
            .fib
            .replace_layer(Layer::Calico, routes, &mut self.hops, kernel)
            .map_err(CompileError::from)
            .and_then(|routes| {
                let Desired {
                    policy, node_name, ..
                } = &self.desired;
                self.policy.update(policy, node_name).map_err(|error| {
                    self.fib.put_back(routes, &mut self.hops, kernel);
                    error.into()
                })
            });
        match outcome {
            Ok(()) => {
                self.services.update(&self.desired);
                self.peers = peers;
            }
            Err(_) => self.desired = before,
        }
        outcome
    }

    /// Takes other services, which are all that there are. All else stays as it is.
    pub fn set_services(&mut self, services: Arc<Vec<Service>>) {
        self.desired.services = services;
        self.desired.services_incomplete = false;
        self.services.update(&self.desired);
    }

    /// The nodes' numbers, with one for each node that is new.
    fn peers_of(&self, desired: &Desired) -> Result<BTreeMap<String, PeerId>, FibError> {
        let mut peers = self.peers.clone();
        for name in desired.nodes.keys() {
            if !peers.contains_key(name) {
                let next = peers.len() + 1;
                if next > usize::from(PeerId::LAST.0) {
                    return Err(FibError::TooManyNodes);
                }
                peers.insert(name.clone(), PeerId(next as u16));
            }
        }
        Ok(peers)
    }

    /// Takes a wanted state that differs from the one in force in nothing but where in its files policy is written.
    pub fn follow_places(&mut self, desired: Desired) {
        self.policy.follow_places(&desired.policy);
        self.desired = desired;
    }

    /// Recomputes the routes that depend on which ports there are.
    ///
    /// # Errors
    /// When the routes do not fit the tables. Then they are those from before, and no tables should be made: the ports are not.
    pub fn refresh_routes(&mut self, kernel: &dyn KernelView) -> Result<(), FibError> {
        let live = self.ports.iter().map(|(id, _)| id).collect::<BTreeSet<_>>();
        self.learned.retain(|port, _| live.contains(port));
        let routes = self.calico_routes();
        self.fib
            .replace_layer(Layer::Calico, routes, &mut self.hops, kernel)
            .map(drop)
    }

    /// Takes changes of the kernel's main table: the best route of each prefix, or that there is none any more.
    ///
    /// # Errors
    /// When a route does not fit the tables: the first such error. What fits is taken.
    pub fn kernel_routes<'a>(
        &mut self,
        changes: impl IntoIterator<Item = (IpNet, Option<&'a KernelHop>)>,
    ) -> Result<(), FibError> {
        let mut outcome = Ok(());
        for (prefix, hop) in changes {
            let taken = self
                .fib
                .set_kernel(prefix, hop.map(Hop::from), &mut self.hops);
            outcome = outcome.and(taken);
        }
        outcome
    }

    /// Takes the node's own addresses (with the prefix on the link) and the neighbours on uplinks whose MAC address is
    /// known.
    ///
    /// # Errors
    /// When the routes do not fit the tables.
    pub fn kernel_addresses(
        &mut self,
        addresses: impl IntoIterator<Item = IpNet>,
        neighbours: impl IntoIterator<Item = (u32, IpAddr)>,
        kernel: &dyn KernelView,
    ) -> Result<(), FibError> {
        let mut own = BTreeMap::new();
        for net in addresses {
            own.insert(IpNet::from(net.addr()), Hop::Host);
            if let IpNet::V4(net) = net
                && net.prefix_len() <= 30
            {
                // RFC 1812 section 5.3.5.2: no directed broadcasts.
                for addr in [net.broadcast(), net.network()] {
                    own.entry(IpNet::from(IpAddr::from(addr)))
                        .or_insert(Hop::Drop(DropReason::Multicast));
                }
            }
        }
        let _ = self
            .fib
            .replace_layer(Layer::Own, own, &mut self.hops, kernel)?;
        let near = neighbours
            .into_iter()
            .map(|(ifindex, addr)| {
                (
                    IpNet::from(addr),
                    Hop::Via {
                        gateway: addr,
                        ifindex,
                    },
                )
            })
            .collect();
        self.fib
            .replace_layer(Layer::Neighbour, near, &mut self.hops, kernel)
            .map(drop)
    }

    /// The tables as they follow from all of this, with the next generation number.
    pub fn tables(&mut self, kernel: &dyn KernelView) -> Tables {
        self.generation += 1;
        let mut incarnations = std::mem::take(&mut self.incarnations);
        let pods = self.ports.iter().filter_map(|(id, spec)| {
            let endpoint = self.endpoint_of(spec)?;
            Some((id, spec, endpoint))
        });
        incarnations.follow(pods, self.generation);
        self.incarnations = incarnations;
        let mut spreads = std::mem::take(&mut self.spreads);
        let tables = render::tables(self, kernel, &mut spreads);
        self.spreads = spreads;
        tables
    }

    /// The prefixes whose packets the uplinks' XDP program takes: pools, and pods outside of them.
    pub fn taken_prefixes(&self) -> Vec<IpNet> {
        let pools = self.desired.pools.iter().map(|pool| pool.cidr);
        let pods = self.desired.endpoints.iter().flat_map(|endpoint| {
            let v4 = endpoint.ipv4_nets.iter().copied().map(IpNet::from);
            v4.chain(endpoint.ipv6_nets.iter().copied().map(IpNet::from))
        });
        IpNet::aggregate(&pools.chain(pods).collect())
    }

    /// The next hops that packets need now or may need soon, by interface: the kernel is asked to keep them resolved.
    pub fn wanted_neighbours(&self, kernel: &dyn KernelView) -> BTreeSet<(u32, IpAddr)> {
        let legs = self
            .hops
            .iter()
            .flat_map(|(_, hop)| legs::all(self, hop, kernel));
        legs.filter_map(|leg| Some((leg.ifindex, leg.neighbour?)))
            .filter(|(ifindex, _)| self.ports.by_ifindex(*ifindex).is_some())
            .collect()
    }

    /// The routes that Calico's calculated state asks for.
    fn calico_routes(&self) -> BTreeMap<IpNet, Hop> {
        let mut routes = BTreeMap::new();
        for route in &self.desired.routes {
            let node = route.dst_node.clone().unwrap_or_default();
            let hop = match route.way() {
                Some(Way::Blackhole) => Hop::Drop(DropReason::Blackhole),
                Some(Way::Direct) if route.dst.addr().is_ipv4() => Hop::Node(node),
                Some(Way::Direct) => Hop::Node6(node),
                Some(Way::Vxlan) => Hop::Vxlan {
                    node,
                    v6: route.dst.addr().is_ipv6(),
                },
                Some(Way::Ipip) => Hop::Ipip(node),
                None if is_ours(route.types) => Hop::Host,
                Some(Way::LocalEndpoint) | None => continue,
            };
            routes.insert(route.dst, hop);
        }
        for endpoint in &self.desired.endpoints {
            let Some(port) = self.ports.by_name(&endpoint.interface) else {
                continue;
            };
            let v4 = endpoint.ipv4_nets.iter().copied().map(IpNet::from);
            for net in v4.chain(endpoint.ipv6_nets.iter().copied().map(IpNet::from)) {
                routes.insert(net.trunc(), Hop::Pod(port));
            }
        }
        routes
    }

    /// The endpoint that a pod's port belongs to.
    fn endpoint_of(&self, spec: &PortSpec) -> Option<&Endpoint> {
        let mut endpoints = self.desired.endpoints.iter();
        endpoints.find(|endpoint| spec.role == PortRole::Pod && endpoint.interface == spec.name)
    }

    fn node_addr(&self, node: &str, v6: bool) -> Option<IpAddr> {
        let node = self.desired.nodes.get(node)?;
        if v6 {
            node.v6.map(|net| net.addr().into())
        } else {
            node.v4.map(|net| net.addr().into())
        }
    }

    fn vtep_parent(&self, node: &str, v6: bool) -> Option<IpAddr> {
        let vtep = self.desired.vteps.get(node)?;
        if v6 {
            vtep.parent_v6.map(IpAddr::from)
        } else {
            vtep.parent.map(IpAddr::from)
        }
    }
}

/// Whether a destination is this node itself.
fn is_ours(types: RouteTypes) -> bool {
    types.contains(RouteTypes::LOCAL_HOST) || types.contains(RouteTypes::LOCAL_TUNNEL)
}
