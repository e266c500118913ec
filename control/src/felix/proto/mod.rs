//! Messages of Felix's protocol to an external dataplane driver: their field numbers, and nothing else.
//!
//! Written from the numbers of Calico's `felixbackend.proto`. Fields and payloads that nothing here acts on are left
//! out: a decoder skips what it does not know. Both generations of the protocol are one set of types, since no
//! number was given a second meaning but those of [`TierInfo`], whose policies are kept as bytes.

mod endpoint;
mod policy;
mod route;
mod status;

pub use endpoint::{
    HostEndpoint, HostEndpointId, HostEndpointRemove, HostEndpointUpdate, TierInfo,
    WorkloadEndpoint, WorkloadEndpointId, WorkloadEndpointRemove, WorkloadEndpointUpdate,
};
pub use policy::{
    ActivePolicyRemove, ActivePolicyUpdate, ActiveProfileRemove, ActiveProfileUpdate, Icmp,
    IcmpTypeAndCode, IpSetDeltaUpdate, IpSetRemove, IpSetType, IpSetUpdate, NotIcmp, NumberOrName,
    Policy, PolicyId, PortRange, Profile, ProfileId, Protocol, Rule,
};
pub use route::{
    GlobalBgpConfigUpdate, HostMetadataRemove, HostMetadataUpdate, HostMetadataV4V6Update,
    HostMetadataV6Update, IpamPool, IpamPoolRemove, IpamPoolUpdate, RouteRemove, RouteUpdate,
    TunnelType, VtepRemove, VtepUpdate,
};
pub use status::{
    EndpointStatus, FromDataplane, FromPayload, HostEndpointStatusRemove, HostEndpointStatusUpdate,
    ProcessStatusUpdate, WorkloadEndpointStatusRemove, WorkloadEndpointStatusUpdate,
};

use std::collections::HashMap;

/// What Felix sends.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ToDataplane {
    /// Counts the messages of a connection, from 0.
    #[prost(uint64, tag = "15")]
    pub sequence_number: u64,
    /// The message; none if it is one that is not known here.
    #[prost(
        oneof = "Payload",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 17, 18, 23, 24, 25, 26, 29, 35, 36, 37, 38"
    )]
    pub payload: Option<Payload>,
}

/// The messages that are acted on.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Payload {
    /// The snapshot is complete. Once a connection.
    #[prost(message, tag = "1")]
    InSync(InSync),
    /// A set, with all its members.
    #[prost(message, tag = "2")]
    IpSetUpdate(IpSetUpdate),
    /// Members of a set that come and go.
    #[prost(message, tag = "3")]
    IpSetDeltaUpdate(IpSetDeltaUpdate),
    /// A set goes.
    #[prost(message, tag = "4")]
    IpSetRemove(IpSetRemove),
    /// A profile.
    #[prost(message, tag = "5")]
    ActiveProfileUpdate(ActiveProfileUpdate),
    /// A profile goes.
    #[prost(message, tag = "6")]
    ActiveProfileRemove(ActiveProfileRemove),
    /// A policy.
    #[prost(message, tag = "7")]
    ActivePolicyUpdate(ActivePolicyUpdate),
    /// A policy goes.
    #[prost(message, tag = "8")]
    ActivePolicyRemove(ActivePolicyRemove),
    /// An interface of the host.
    #[prost(message, tag = "9")]
    HostEndpointUpdate(HostEndpointUpdate),
    /// It goes.
    #[prost(message, tag = "10")]
    HostEndpointRemove(HostEndpointRemove),
    /// A pod's interface.
    #[prost(message, tag = "11")]
    WorkloadEndpointUpdate(WorkloadEndpointUpdate),
    /// It goes.
    #[prost(message, tag = "12")]
    WorkloadEndpointRemove(WorkloadEndpointRemove),
    /// Felix's settings. The first message of a connection.
    #[prost(message, tag = "13")]
    ConfigUpdate(ConfigUpdate),
    /// A node's addresses.
    #[prost(message, tag = "14")]
    HostMetadataUpdate(HostMetadataUpdate),
    /// A pool.
    #[prost(message, tag = "16")]
    IpamPoolUpdate(IpamPoolUpdate),
    /// A pool goes.
    #[prost(message, tag = "17")]
    IpamPoolRemove(IpamPoolRemove),
    /// A node goes.
    #[prost(message, tag = "18")]
    HostMetadataRemove(HostMetadataRemove),
    /// A route.
    #[prost(message, tag = "23")]
    RouteUpdate(RouteUpdate),
    /// A route goes.
    #[prost(message, tag = "24")]
    RouteRemove(RouteRemove),
    /// A node's VXLAN tunnel endpoint.
    #[prost(message, tag = "25")]
    VtepUpdate(VtepUpdate),
    /// It goes.
    #[prost(message, tag = "26")]
    VtepRemove(VtepRemove),
    /// Prefixes of services.
    #[prost(message, tag = "29")]
    GlobalBgpConfigUpdate(GlobalBgpConfigUpdate),
    /// A node's IPv6 address (up to v3.32).
    #[prost(message, tag = "35")]
    HostMetadataV6Update(HostMetadataV6Update),
    /// It goes (up to v3.32).
    #[prost(message, tag = "36")]
    HostMetadataV6Remove(HostMetadataRemove),
    /// A node's addresses with their prefixes (up to v3.32).
    #[prost(message, tag = "37")]
    HostMetadataV4V6Update(HostMetadataV4V6Update),
    /// They go (up to v3.32).
    #[prost(message, tag = "38")]
    HostMetadataV4V6Remove(HostMetadataRemove),
}

/// The snapshot is complete.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct InSync {}

/// Felix's settings.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ConfigUpdate {
    /// Those that differ from their defaults, by name.
    #[prost(map = "string, string", tag = "1")]
    pub config: HashMap<String, String>,
}
