//! What matters of the objects `Service` (`v1`) and `EndpointSlice` (`discovery.k8s.io/v1`).

use std::net::IpAddr;

/// A service. One without cluster IPs (`clusterIP: None`, `type: ExternalName`) is none for the dataplane, and is not told.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `spec.clusterIPs`.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip`, but for those whose `ipMode` is `Proxy`: they want to see what is sent to them.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.ports`.
    pub ports: Vec<Port>,
    /// `spec.sessionAffinity: ClientIP`.
    pub client_ip_affinity: bool,
    /// `spec.internalTrafficPolicy: Local`: to the cluster IPs only endpoints of the client's node count.
    pub internal_local: bool,
    /// `spec.publishNotReadyAddresses`.
    pub publish_not_ready: bool,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Port {
    /// Its name, empty if it has none.
    pub name: String,
    /// The IP protocol's number.
    pub protocol: u8,
    /// Where clients send.
    pub port: u16,
}

/// Some of the endpoints of a service, all of one family.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct EndpointSlice {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The service's name (label `kubernetes.io/service-name`). A slice without one is no service's, and is not told.
    pub service: String,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
    /// The ports that each has.
    pub ports: Vec<SlicePort>,
}

/// An endpoint of a slice. What is not said of it is as Kubernetes has it: ready, serving, not terminating.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `addresses[0]`: others mean nothing (`discovery.k8s.io/v1`, `Endpoint.addresses`).
    pub address: IpAddr,
    /// `conditions.ready`.
    pub ready: bool,
    /// `conditions.serving`.
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
    /// `nodeName`.
    pub node: Option<String>,
}

/// A port of a slice's endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct SlicePort {
    /// The name of the service's port that it is behind, empty if that has none.
    pub name: String,
    /// The IP protocol's number.
    pub protocol: u8,
    /// Where endpoints listen. A port without a number means all, which a service cannot have, and is not told.
    pub port: u16,
}
