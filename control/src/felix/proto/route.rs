//! Nodes, pools, routes, tunnels, services.

/// A node's addresses: plain up to v3.32, with the prefix of their subnet since v3.33.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HostMetadataUpdate {
    /// The node.
    #[prost(string, tag = "1")]
    pub hostname: String,
    /// IPv4.
    #[prost(string, tag = "2")]
    pub ipv4_addr: String,
    /// IPv6, since v3.33.
    #[prost(string, tag = "3")]
    pub ipv6_addr: String,
}

/// A node's IPv6 address (up to v3.32).
#[derive(Clone, PartialEq, prost::Message)]
pub struct HostMetadataV6Update {
    /// The node.
    #[prost(string, tag = "1")]
    pub hostname: String,
    /// IPv6.
    #[prost(string, tag = "2")]
    pub ipv6_addr: String,
}

/// A node's addresses with their prefixes (up to v3.32).
#[derive(Clone, PartialEq, prost::Message)]
pub struct HostMetadataV4V6Update {
    /// The node.
    #[prost(string, tag = "1")]
    pub hostname: String,
    /// IPv4.
    #[prost(string, tag = "2")]
    pub ipv4_addr: String,
    /// IPv6.
    #[prost(string, tag = "3")]
    pub ipv6_addr: String,
}

/// A node goes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HostMetadataRemove {
    /// The node.
    #[prost(string, tag = "1")]
    pub hostname: String,
}

/// A pool.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IpamPoolUpdate {
    /// What names it: its prefix, with a dash.
    #[prost(string, tag = "1")]
    pub id: String,
    /// What it is.
    #[prost(message, optional, tag = "2")]
    pub pool: Option<IpamPool>,
}

/// A pool goes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IpamPoolRemove {
    /// What names it.
    #[prost(string, tag = "1")]
    pub id: String,
}

/// A pool.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IpamPool {
    /// Its prefix.
    #[prost(string, tag = "1")]
    pub cidr: String,
    /// `natOutgoing`.
    #[prost(bool, tag = "2")]
    pub masquerade: bool,
    /// `always`, `cross-subnet` or nothing.
    #[prost(string, tag = "3")]
    pub ipip_mode: String,
    /// `always`, `cross-subnet` or nothing.
    #[prost(string, tag = "4")]
    pub vxlan_mode: String,
    /// `Workload`, `Tunnel`, `LoadBalancer`.
    #[prost(string, repeated, tag = "5")]
    pub allowed_uses: Vec<String>,
}

/// A route.
#[derive(Clone, PartialEq, prost::Message)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the flags of Felix's message"
)]
pub struct RouteUpdate {
    /// Kind of the pool: none 0, without encapsulation 1, VXLAN 2, IPIP 3.
    #[prost(int32, tag = "2")]
    pub ip_pool_type: i32,
    /// Destination.
    #[prost(string, tag = "3")]
    pub dst: String,
    /// Node that owns it.
    #[prost(string, tag = "4")]
    pub dst_node_name: String,
    /// That node's address.
    #[prost(string, tag = "5")]
    pub dst_node_ip: String,
    /// It is reached without encapsulation.
    #[prost(bool, tag = "7")]
    pub same_subnet: bool,
    /// The pool masquerades.
    #[prost(bool, tag = "8")]
    pub nat_outgoing: bool,
    /// It is a pod of this node.
    #[prost(bool, tag = "9")]
    pub local_workload: bool,
    /// Whose address it is, of a tunnel.
    #[prost(message, optional, tag = "10")]
    pub tunnel_type: Option<TunnelType>,
    /// It is of a block that another node owns.
    #[prost(bool, tag = "11")]
    pub borrowed: bool,
    /// What is there: bits of [`RouteTypes`](crate::desired::RouteTypes).
    #[prost(int32, tag = "12")]
    pub types: i32,
}

/// Tunnels that have an address.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct TunnelType {
    /// IPIP.
    #[prost(bool, tag = "1")]
    pub ipip: bool,
    /// VXLAN.
    #[prost(bool, tag = "2")]
    pub vxlan: bool,
    /// WireGuard.
    #[prost(bool, tag = "3")]
    pub wireguard: bool,
}

/// A route goes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RouteRemove {
    /// Destination.
    #[prost(string, tag = "2")]
    pub dst: String,
}

/// A node's VXLAN tunnel endpoint.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VtepUpdate {
    /// The node.
    #[prost(string, tag = "1")]
    pub node: String,
    /// MAC address of its device.
    #[prost(string, tag = "2")]
    pub mac: String,
    /// IPv4 address of its device.
    #[prost(string, tag = "3")]
    pub ipv4_addr: String,
    /// The node's own IPv4 address.
    #[prost(string, tag = "4")]
    pub parent_device_ip: String,
    /// MAC address of its IPv6 device.
    #[prost(string, tag = "5")]
    pub mac_v6: String,
    /// IPv6 address of its device.
    #[prost(string, tag = "6")]
    pub ipv6_addr: String,
    /// The node's own IPv6 address.
    #[prost(string, tag = "7")]
    pub parent_device_ipv6: String,
}

/// It goes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VtepRemove {
    /// The node.
    #[prost(string, tag = "1")]
    pub node: String,
}

/// Prefixes of services.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GlobalBgpConfigUpdate {
    /// `serviceClusterIPs`.
    #[prost(string, repeated, tag = "1")]
    pub service_cluster_cidrs: Vec<String>,
    /// `serviceExternalIPs`.
    #[prost(string, repeated, tag = "2")]
    pub service_external_cidrs: Vec<String>,
    /// `serviceLoadBalancerIPs`.
    #[prost(string, repeated, tag = "3")]
    pub service_loadbalancer_cidrs: Vec<String>,
}
