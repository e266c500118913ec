//! What the node should do, in the terms of Calico's calculated state: the one model that every source of
//! updates produces (files today, Felix later) and that the compiler turns into tables.
//!
//! Plain data. Two equal values mean the same dataplane, so a source can be compared with the last one applied.
//! All lists are sorted and free of duplicates.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use flowtable::conn::Timeouts;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::policy::Model;

/// The state wanted on one node.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Desired {
    /// Our own node's name; always a key of `nodes`.
    pub node_name: String,
    /// Every node of the cluster, our own included, by name.
    pub nodes: BTreeMap<String, Node>,
    /// VXLAN tunnel endpoints by node name, our own included.
    pub vteps: BTreeMap<String, Vtep>,
    /// Address pools, sorted by CIDR; they never overlap.
    pub pools: Vec<Pool>,
    /// Routes, sorted by `dst`, one per `dst`.
    pub routes: Vec<Route>,
    /// Workload endpoints of this node, sorted by id.
    pub endpoints: Vec<Endpoint>,
    /// Felix settings in force, defaults filled in.
    pub felix: FelixSettings,
    /// Service prefixes that BGP advertises (for service loop prevention).
    pub service_cidrs: ServiceCidrs,
    /// Kubernetes services, sorted by namespace and name.
    pub services: Arc<Vec<Service>>,
    /// Whether there may be more services, of which the source has not told yet.
    pub services_incomplete: bool,
    /// Who may speak to whom. Of the endpoints of all nodes that the source knows; ours are enforced.
    pub policy: Arc<Model>,
}

impl Desired {
    /// Whether nothing but policy differs.
    pub fn is_same_but_policy(&self, other: &Self) -> bool {
        let Self {
            node_name,
            nodes,
            vteps,
            pools,
            routes,
            endpoints,
            felix,
            service_cidrs,
            services,
            services_incomplete,
            policy: _,
        } = self;
        *node_name == other.node_name
            && *nodes == other.nodes
            && *vteps == other.vteps
            && *pools == other.pools
            && *routes == other.routes
            && *endpoints == other.endpoints
            && *felix == other.felix
            && *service_cidrs == other.service_cidrs
            && *services == other.services
            && *services_incomplete == other.services_incomplete
    }

    /// Our own node. `None` only in a value that no source has filled.
    pub fn local_node(&self) -> Option<&Node> {
        self.nodes.get(&self.node_name)
    }
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Node {
    /// Name, as Calico knows it.
    pub name: String,
    /// IPv4 address with the prefix length of its subnet (/32 where unknown).
    pub v4: Option<Ipv4Net>,
    /// IPv6 address with the prefix length of its subnet (/128 where unknown).
    pub v6: Option<Ipv6Net>,
    /// Address of the node's IPIP device.
    pub ipip_tunnel_v4: Option<Ipv4Addr>,
    /// Address of the node's VXLAN device.
    pub vxlan_tunnel_v4: Option<Ipv4Addr>,
    /// Address of the node's IPv6 VXLAN device.
    pub vxlan_tunnel_v6: Option<Ipv6Addr>,
}

impl Node {
    /// The node's address in the family of `like`.
    pub fn address_like(&self, like: IpAddr) -> Option<IpAddr> {
        match like {
            IpAddr::V4(_) => self.v4.map(|net| IpAddr::V4(net.addr())),
            IpAddr::V6(_) => self.v6.map(|net| IpAddr::V6(net.addr())),
        }
    }

    /// Both addresses of the node that exist, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.v4.map(|net| IpAddr::V4(net.addr()));
        let v6 = self.v6.map(|net| IpAddr::V6(net.addr()));
        v4.into_iter().chain(v6)
    }

    /// The same, and those of its tunnel devices.
    pub fn all_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let tunnels = [self.ipip_tunnel_v4, self.vxlan_tunnel_v4];
        let tunnels = tunnels.into_iter().flatten().map(IpAddr::V4);
        let tunnel_v6 = self.vxlan_tunnel_v6.map(IpAddr::V6);
        self.addresses().chain(tunnels).chain(tunnel_v6)
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct MacAddr(pub [u8; 6]);

impl std::fmt::Display for MacAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ":" };
            write!(f, "{separator}{byte:02x}")?;
        }
        Ok(())
    }
}

/// One node's VXLAN tunnel endpoint. A family is usable when its `parent` is there.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Vtep {
    /// Node that owns it.
    pub node: String,
    /// Inner destination MAC address of IPv4 pods' packets to this node.
    pub mac: MacAddr,
    /// Address of the VXLAN device.
    pub addr: Option<Ipv4Addr>,
    /// Outer destination address: the node's own.
    pub parent: Option<Ipv4Addr>,
    /// Inner destination MAC address of IPv6 pods' packets to this node.
    pub mac_v6: MacAddr,
    /// Address of the IPv6 VXLAN device.
    pub addr_v6: Option<Ipv6Addr>,
    /// Outer destination address of the IPv6 tunnel: the node's own.
    pub parent_v6: Option<Ipv6Addr>,
}

/// When a pool's traffic is encapsulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum EncapMode {
    /// Never.
    #[default]
    Never,
    /// To every other node.
    Always,
    /// To nodes outside our node's subnet.
    CrossSubnet,
}

/// What a pool's addresses may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AllowedUse {
    /// Pods.
    Workload,
    /// Tunnel devices.
    Tunnel,
    /// Service load balancers.
    LoadBalancer,
}

/// An address pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Resource name.
    pub name: String,
    /// Addresses of the pool.
    pub cidr: IpNet,
    /// `natOutgoing`: traffic that leaves the pools takes an address of the node.
    pub masquerade: bool,
    /// IPIP, IPv4 only.
    pub ipip_mode: EncapMode,
    /// VXLAN.
    pub vxlan_mode: EncapMode,
    /// No new addresses are taken from it; forwarding is unchanged.
    pub disabled: bool,
    /// Sorted; workloads and tunnels by default.
    pub allowed_uses: Vec<AllowedUse>,
}

impl Pool {
    /// What Calico calls the type of the pool on a route.
    pub fn kind(&self) -> PoolType {
        if self.vxlan_mode != EncapMode::Never {
            PoolType::Vxlan
        } else if self.ipip_mode != EncapMode::Never {
            PoolType::Ipip
        } else {
            PoolType::NoEncap
        }
    }

    /// True if nodes of our own subnet are reached without encapsulation.
    pub fn cross_subnet(&self) -> bool {
        self.vxlan_mode == EncapMode::CrossSubnet || self.ipip_mode == EncapMode::CrossSubnet
    }
}

/// The kind of the pool that a route's destination lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum PoolType {
    /// In no pool.
    #[default]
    None,
    /// A pool without encapsulation.
    NoEncap,
    /// A VXLAN pool.
    Vxlan,
    /// An IPIP pool.
    Ipip,
}

/// What a route's destination is: a set of Calico's `RouteType` bits. Empty means that the route only says
/// that a prefix belongs to a pool (`CIDR_INFO`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct RouteTypes(pub u8);

impl RouteTypes {
    /// Only information about a prefix.
    pub const CIDR_INFO: Self = Self(0);
    /// Pods of another node.
    pub const REMOTE_WORKLOAD: Self = Self(1);
    /// Another node itself.
    pub const REMOTE_HOST: Self = Self(2);
    /// Pods of our node (a block, or with `Route::local_workload` one pod).
    pub const LOCAL_WORKLOAD: Self = Self(4);
    /// Our node itself.
    pub const LOCAL_HOST: Self = Self(8);
    /// The tunnel device of another node.
    pub const REMOTE_TUNNEL: Self = Self(16);
    /// Our node's tunnel device.
    pub const LOCAL_TUNNEL: Self = Self(32);

    /// True if all bits of `other` are set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for RouteTypes {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl std::ops::BitOrAssign for RouteTypes {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// Which tunnel device a tunnel address belongs to. One address may serve several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct TunnelType {
    /// The IPIP device.
    pub ipip: bool,
    /// The VXLAN device.
    pub vxlan: bool,
    /// The WireGuard device.
    pub wireguard: bool,
}

/// A destination, as Felix's `RouteUpdate` describes it. It says where the destination is; how to get there
/// (directly, by VXLAN, by IPIP, blackhole) follows from it: see [`Route::way`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the flags of Felix's RouteUpdate"
)]
pub struct Route {
    /// Destination prefix, host bits clear.
    pub dst: IpNet,
    /// What is there.
    pub types: RouteTypes,
    /// Kind of the pool that holds `dst`.
    pub pool_type: PoolType,
    /// Node that owns `dst`.
    pub dst_node: Option<String>,
    /// That node's address in the family of `dst`.
    pub dst_node_ip: Option<IpAddr>,
    /// The pool is a cross-subnet one and the node is in our node's subnet.
    pub same_subnet: bool,
    /// The pool masquerades.
    pub nat_outgoing: bool,
    /// `dst` is one local pod (not a block).
    pub local_workload: bool,
    /// `dst` is one address out of a block that another node owns.
    pub borrowed: bool,
    /// For tunnel addresses: whose.
    pub tunnel: TunnelType,
}

/// How packets to a route's destination leave the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// Unencapsulated to the owning node's address.
    Direct,
    /// In VXLAN to the owning node's VTEP.
    Vxlan,
    /// In IPIP to the owning node's address.
    Ipip,
    /// Nowhere: an address of our own block that no pod has.
    Blackhole,
    /// To the local pod that has the address.
    LocalEndpoint,
}

impl Route {
    /// How packets to `dst` leave, by the rules of Felix's route managers (`felix/dataplane/linux/route_mgr.go`).
    /// `None`: not ours to forward; the kernel's routes decide (nodes' own addresses, prefixes outside all
    /// pools, mere information about a pool).
    pub fn way(&self) -> Option<Way> {
        if self.local_workload {
            return Some(Way::LocalEndpoint);
        }
        // First: an address that another node has borrowed of our block is a workload of both sides.
        let remote_tunnel = self.types.contains(RouteTypes::REMOTE_TUNNEL);
        let remote_workload = self.types.contains(RouteTypes::REMOTE_WORKLOAD);
        if !(remote_workload || remote_tunnel && self.borrowed) {
            let is_block = self.types.contains(RouteTypes::LOCAL_WORKLOAD)
                && self.dst.prefix_len() < self.dst.max_prefix_len();
            return (is_block && self.pool_type != PoolType::None).then_some(Way::Blackhole);
        }
        match self.pool_type {
            PoolType::None => None,
            _ if self.same_subnet && self.dst_node_ip.is_some() => Some(Way::Direct),
            PoolType::NoEncap => Some(Way::Direct),
            PoolType::Vxlan => Some(Way::Vxlan),
            PoolType::Ipip => Some(Way::Ipip),
        }
    }
}

/// A workload endpoint of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Namespace and resource name; unique.
    pub id: EndpointId,
    /// Pod (or other workload) that it belongs to, for people to read.
    pub workload: String,
    /// Host end of the pod's veth, such as `cali1234567890a`.
    pub interface: String,
    /// MAC address of the pod's end; `None`: take it from the pod's own frames or the kernel.
    pub mac: Option<MacAddr>,
    /// IPv4 addresses, normally one /32.
    pub ipv4_nets: Vec<Ipv4Net>,
    /// IPv6 addresses, normally one /128.
    pub ipv6_nets: Vec<Ipv6Net>,
    /// Further source prefixes that the pod may use.
    pub allowed_spoofed_prefixes: Vec<IpNet>,
    /// Names of its profiles, in order.
    pub profiles: Vec<String>,
}

/// What an endpoint is told by from another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointIdentity {
    id: EndpointId,
    ipv4_nets: Vec<Ipv4Net>,
    ipv6_nets: Vec<Ipv6Net>,
}

impl Endpoint {
    /// What it is told by: one with another name or other addresses is another one, and has no part in connections of the one
    /// before.
    pub fn identity(&self) -> EndpointIdentity {
        EndpointIdentity {
            id: self.id.clone(),
            ipv4_nets: self.ipv4_nets.clone(),
            ipv6_nets: self.ipv6_nets.clone(),
        }
    }

    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.ipv4_nets.iter().map(|net| IpAddr::V4(net.addr()));
        v4.chain(self.ipv6_nets.iter().map(|net| IpAddr::V6(net.addr())))
    }
}

/// A workload endpoint's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId {
    /// Namespace; `default` where none is given.
    pub namespace: String,
    /// Resource name.
    pub name: String,
}

impl std::fmt::Display for EndpointId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Service prefixes of the BGPConfiguration.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ServiceCidrs {
    /// `serviceClusterIPs`.
    pub cluster: Vec<IpNet>,
    /// `serviceExternalIPs`.
    pub external: Vec<IpNet>,
    /// `serviceLoadBalancerIPs`.
    pub load_balancer: Vec<IpNet>,
}

impl ServiceCidrs {
    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = IpNet> {
        let lists = [&self.cluster, &self.external, &self.load_balancer];
        lists.into_iter().flatten().copied()
    }
}

/// A service as this node's pods are to reach it: kube-proxy's part, for them.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The addresses that it is reached at, of both families: cluster IPs, external IPs, those of load balancers. Sorted.
    pub addresses: Vec<IpAddr>,
    /// Those of them that nobody but the service has: its cluster IPs. Sorted.
    pub own_addresses: Vec<IpAddr>,
    /// Its ports, sorted by protocol and port.
    pub ports: Vec<ServicePort>,
    /// Whether a client stays with its endpoint (`sessionAffinity: ClientIP`).
    pub affinity: bool,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServicePort {
    /// The IP protocol's number: TCP, UDP or SCTP.
    pub protocol: u8,
    /// Where clients send.
    pub port: u16,
    /// Its name, empty if it has none.
    pub name: String,
    /// The endpoints that are usable, of both families, sorted. None: clients are refused.
    pub backends: Vec<SocketAddr>,
}

/// What becomes of a packet from a pod to its own node, after policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum EndpointToHost {
    /// Dropped.
    #[default]
    Drop,
    /// Delivered.
    Accept,
    /// Left to the host's own rules.
    Return,
    /// Refused with an ICMP error.
    Reject,
}

impl EndpointToHost {
    /// As Calico writes them.
    pub const WORDS: [(&'static str, Self); 4] = [
        ("Drop", Self::Drop),
        ("Accept", Self::Accept),
        ("Return", Self::Return),
        ("Reject", Self::Reject),
    ];
}

/// What becomes of packets to service prefixes that were not translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum ServiceLoopPrevention {
    /// Dropped.
    #[default]
    Drop,
    /// Refused with an ICMP error.
    Reject,
    /// Forwarded.
    Disabled,
}

impl ServiceLoopPrevention {
    /// As Calico writes them.
    pub const WORDS: [(&'static str, Self); 3] = [
        ("Drop", Self::Drop),
        ("Reject", Self::Reject),
        ("Disabled", Self::Disabled),
    ];
}

/// Which destinations natOutgoing leaves alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum NatExclusions {
    /// All pools.
    #[default]
    IpPoolsOnly,
    /// All pools and all nodes' addresses.
    IpPoolsAndHostIps,
}

impl NatExclusions {
    /// As Calico writes them.
    pub const WORDS: [(&'static str, Self); 2] = [
        ("IPPoolsOnly", Self::IpPoolsOnly),
        ("IPPoolsAndHostIPs", Self::IpPoolsAndHostIps),
    ];
}

/// Felix settings that the dataplane acts on, with Calico's defaults filled in.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "mirrors independent switches of FelixConfiguration"
)]
pub struct FelixSettings {
    /// UDP port of VXLAN (4789).
    pub vxlan_port: u16,
    /// VXLAN network identifier, 24 bits (4096).
    pub vxlan_vni: u32,
    /// MTU of the inner IPv4 packet in VXLAN; `None`: from the uplink's MTU less 50.
    pub vxlan_mtu: Option<u16>,
    /// MTU of the inner IPv6 packet in VXLAN; `None`: from the uplink's MTU less 70.
    pub vxlan_mtu_v6: Option<u16>,
    /// MTU of the inner packet in IPIP; `None`: from the uplink's MTU less 20.
    pub ipip_mtu: Option<u16>,
    /// Overrides whether IPIP is used; `None`: by the pools.
    pub ipip_enabled: Option<bool>,
    /// Overrides whether VXLAN is used; `None`: by the pools.
    pub vxlan_enabled: Option<bool>,
    /// Pods may send VXLAN themselves (false).
    pub allow_vxlan_from_workloads: bool,
    /// Pods may send IPIP themselves (false).
    pub allow_ipip_from_workloads: bool,
    /// Prefixes of pods' interface names (`cali`).
    pub interface_prefixes: Vec<String>,
    /// Sources outside the cluster whose tunnel packets are accepted.
    pub external_nodes: Vec<IpNet>,
    /// Source address of natOutgoing; `None`: that of the interface the packet leaves by.
    pub nat_outgoing_address: Option<Ipv4Addr>,
    /// First and last source port of natOutgoing.
    pub nat_port_range: Option<(u16, u16)>,
    /// Interfaces by which natOutgoing is done, as iptables says it: a name, or `prefix+`; `None`: all.
    pub nat_outgoing_interfaces: Option<String>,
    /// First and last NodePort of each range: natOutgoing draws none of them (30000 to 32767).
    pub node_ports: Vec<(u16, u16)>,
    /// Destinations that natOutgoing leaves alone.
    pub nat_exclusions: NatExclusions,
    /// Packets from pods to their own node.
    pub endpoint_to_host: EndpointToHost,
    /// `allowedSourcePrefixes` of endpoints count (`workloadSourceSpoofing: Any`).
    pub workload_source_spoofing: bool,
    /// Source address of the kernel routes that the daemon adds for pods.
    pub device_route_source: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub device_route_source_v6: Option<Ipv6Addr>,
    /// Protocol number of kernel routes that the daemon adds (80).
    pub device_route_protocol: u8,
    /// Kernel routes to pods' interfaces that are not ours are removed (true).
    pub remove_external_routes: bool,
    /// Packets to service prefixes that were not translated.
    pub service_loop_prevention: ServiceLoopPrevention,
    /// IPv6 is handled (true).
    pub ipv6_support: bool,
    /// Connections in a state that conntrack calls invalid go on (false).
    pub disable_conntrack_invalid_check: bool,
    /// How long connections are kept (`bpfConntrackTimeouts`, where it says).
    pub conntrack: Timeouts,
}

impl Default for FelixSettings {
    fn default() -> Self {
        Self {
            vxlan_port: 4789,
            vxlan_vni: 4096,
            vxlan_mtu: None,
            vxlan_mtu_v6: None,
            ipip_mtu: None,
            ipip_enabled: None,
            vxlan_enabled: None,
            allow_vxlan_from_workloads: false,
            allow_ipip_from_workloads: false,
            interface_prefixes: vec!["cali".to_owned()],
            external_nodes: Vec::new(),
            nat_outgoing_address: None,
            nat_port_range: None,
            nat_outgoing_interfaces: None,
            node_ports: vec![(30_000, 32_767)],
            nat_exclusions: NatExclusions::default(),
            endpoint_to_host: EndpointToHost::default(),
            workload_source_spoofing: false,
            device_route_source: None,
            device_route_source_v6: None,
            device_route_protocol: 80,
            remove_external_routes: true,
            service_loop_prevention: ServiceLoopPrevention::default(),
            ipv6_support: true,
            disable_conntrack_invalid_check: false,
            conntrack: Timeouts::DEFAULT,
        }
    }
}
