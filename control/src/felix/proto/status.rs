//! What a dataplane tells Felix.

use super::endpoint::{HostEndpointId, WorkloadEndpointId};

/// What a dataplane sends.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FromDataplane {
    /// Counts the messages of a connection, from 0.
    #[prost(uint64, tag = "8")]
    pub sequence_number: u64,
    /// The message.
    #[prost(oneof = "FromPayload", tags = "3, 4, 5, 6, 7")]
    pub payload: Option<FromPayload>,
}

/// The messages that are sent.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum FromPayload {
    /// The dataplane is alive.
    #[prost(message, tag = "3")]
    Process(ProcessStatusUpdate),
    /// How an interface of the host is.
    #[prost(message, tag = "4")]
    HostEndpoint(HostEndpointStatusUpdate),
    /// It is gone.
    #[prost(message, tag = "5")]
    HostEndpointGone(HostEndpointStatusRemove),
    /// How a pod's interface is.
    #[prost(message, tag = "6")]
    WorkloadEndpoint(WorkloadEndpointStatusUpdate),
    /// It is gone.
    #[prost(message, tag = "7")]
    WorkloadEndpointGone(WorkloadEndpointStatusRemove),
}

/// The dataplane is alive.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ProcessStatusUpdate {
    /// Now, in UTC, as in RFC 3339.
    #[prost(string, tag = "1")]
    pub iso_timestamp: String,
    /// Seconds since it started.
    #[prost(double, tag = "2")]
    pub uptime: f64,
}

/// `up`, `down` or `error`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EndpointStatus {
    /// The word.
    #[prost(string, tag = "1")]
    pub status: String,
}

/// How an interface of the host is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HostEndpointStatusUpdate {
    /// What names it.
    #[prost(message, optional, tag = "1")]
    pub id: Option<HostEndpointId>,
    /// How it is.
    #[prost(message, optional, tag = "2")]
    pub status: Option<EndpointStatus>,
}

/// An interface of the host is gone.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HostEndpointStatusRemove {
    /// What names it.
    #[prost(message, optional, tag = "1")]
    pub id: Option<HostEndpointId>,
}

/// How a pod's interface is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WorkloadEndpointStatusUpdate {
    /// What names it.
    #[prost(message, optional, tag = "1")]
    pub id: Option<WorkloadEndpointId>,
    /// How it is.
    #[prost(message, optional, tag = "2")]
    pub status: Option<EndpointStatus>,
    /// The endpoint, as Felix sent it.
    #[prost(bytes = "vec", tag = "3")]
    pub endpoint: Vec<u8>,
}

/// A pod's interface is gone.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WorkloadEndpointStatusRemove {
    /// What names it.
    #[prost(message, optional, tag = "1")]
    pub id: Option<WorkloadEndpointId>,
}
