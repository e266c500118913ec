//! Endpoints of this node.

/// A pod's interface.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WorkloadEndpointUpdate {
    /// What names it.
    #[prost(message, optional, tag = "1")]
    pub id: Option<WorkloadEndpointId>,
    /// A [`WorkloadEndpoint`], as it came: Felix wants it back with the endpoint's status.
    #[prost(bytes = "vec", tag = "5")]
    pub endpoint: Vec<u8>,
}

/// It goes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WorkloadEndpointRemove {
    /// What names it.
    #[prost(message, optional, tag = "1")]
    pub id: Option<WorkloadEndpointId>,
}

/// What names a pod's interface.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WorkloadEndpointId {
    /// `k8s` for Kubernetes.
    #[prost(string, tag = "2")]
    pub orchestrator_id: String,
    /// `namespace/pod`.
    #[prost(string, tag = "3")]
    pub workload_id: String,
    /// `eth0`.
    #[prost(string, tag = "4")]
    pub endpoint_id: String,
}

/// A pod's interface.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WorkloadEndpoint {
    /// `active`, or nothing passes.
    #[prost(string, tag = "1")]
    pub state: String,
    /// Name of the host's end.
    #[prost(string, tag = "2")]
    pub name: String,
    /// MAC address of the pod's end.
    #[prost(string, tag = "3")]
    pub mac: String,
    /// Profiles, in order.
    #[prost(string, repeated, tag = "4")]
    pub profile_ids: Vec<String>,
    /// IPv4 addresses, as prefixes.
    #[prost(string, repeated, tag = "5")]
    pub ipv4_nets: Vec<String>,
    /// IPv6 addresses, as prefixes.
    #[prost(string, repeated, tag = "6")]
    pub ipv6_nets: Vec<String>,
    /// Tiers with policies that apply, in order.
    #[prost(message, repeated, tag = "7")]
    pub tiers: Vec<TierInfo>,
    /// Other sources that it may use.
    #[prost(string, repeated, tag = "10")]
    pub allow_spoofed_source_prefixes: Vec<String>,
}

/// An interface of the host.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HostEndpointUpdate {
    /// What names it.
    #[prost(message, optional, tag = "1")]
    pub id: Option<HostEndpointId>,
    /// What it is.
    #[prost(message, optional, tag = "3")]
    pub endpoint: Option<HostEndpoint>,
}

/// It goes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HostEndpointRemove {
    /// What names it.
    #[prost(message, optional, tag = "1")]
    pub id: Option<HostEndpointId>,
}

/// What names an interface of the host.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HostEndpointId {
    /// Its name.
    #[prost(string, tag = "2")]
    pub endpoint_id: String,
}

/// An interface of the host.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HostEndpoint {
    /// Name of the interface, or `*`, or nothing.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Profiles, in order.
    #[prost(string, repeated, tag = "2")]
    pub profile_ids: Vec<String>,
    /// For packets of the host itself.
    #[prost(message, repeated, tag = "3")]
    pub tiers: Vec<TierInfo>,
    /// IPv4 addresses by which the interface is known.
    #[prost(string, repeated, tag = "4")]
    pub expected_ipv4_addrs: Vec<String>,
    /// IPv6 addresses by which the interface is known.
    #[prost(string, repeated, tag = "5")]
    pub expected_ipv6_addrs: Vec<String>,
    /// Before connections are tracked.
    #[prost(message, repeated, tag = "6")]
    pub untracked_tiers: Vec<TierInfo>,
    /// Before destinations are translated.
    #[prost(message, repeated, tag = "7")]
    pub pre_dnat_tiers: Vec<TierInfo>,
    /// For packets that are forwarded.
    #[prost(message, repeated, tag = "8")]
    pub forward_tiers: Vec<TierInfo>,
}

/// The policies of a tier that apply to an endpoint, in order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TierInfo {
    /// Name of the tier.
    #[prost(string, tag = "1")]
    pub name: String,
    /// For packets to the endpoint: names up to v3.31, [`PolicyId`](super::PolicyId)s since v3.32.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub ingress_policies: Vec<Vec<u8>>,
    /// For packets from the endpoint, likewise.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub egress_policies: Vec<Vec<u8>>,
    /// `Pass`, or `Deny`: what becomes of packets at its end.
    #[prost(string, tag = "4")]
    pub default_action: String,
}
