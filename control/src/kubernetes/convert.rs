//! From the API's objects to what matters of them.

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use kube::core::NamespaceResourceScope;
use serde::de::DeserializeOwned;

use super::kept::Keyed;
use crate::services::objects::{Endpoint, EndpointSlice, Port, Service, SlicePort};

/// The label by which a slice says whose it is.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A kind of objects that is followed.
pub(super) trait Kind:
    kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + std::fmt::Debug
    + DeserializeOwned
{
    /// What it is called in words.
    const WORD: &'static str;
    /// Only objects with such labels are asked for, as kube-proxy does.
    const LABELS: &'static str;
    /// What matters of it.
    type Object: Keyed;

    /// None: the dataplane has nothing to do with it.
    fn convert(self) -> Option<Self::Object>;
}

impl Kind for core::Service {
    const WORD: &'static str = "services";
    const LABELS: &'static str = "!service.kubernetes.io/service-proxy-name";
    type Object = Service;

    fn convert(self) -> Option<Service> {
        let spec = self.spec?;
        if spec.type_.as_deref() == Some("ExternalName") {
            return None;
        }
        // An old server says one only.
        let ips = spec.cluster_ips.filter(|it| !it.is_empty());
        let ips = ips.unwrap_or_else(|| spec.cluster_ip.into_iter().collect());
        // `None` is headless.
        let cluster_ips = addresses(&ips);
        if cluster_ips.is_empty() {
            return None;
        }
        let ranges = spec.load_balancer_source_ranges;
        let is_restricted = ranges.is_some_and(|it| !it.is_empty());
        let balancer = self.status.and_then(|it| it.load_balancer);
        let ingress = balancer.and_then(|it| it.ingress).unwrap_or_default();
        let taken = ingress
            .iter()
            .filter(|it| it.ip_mode.as_deref() != Some("Proxy"))
            // Who may use them is checked at the load balancer.
            .filter(|_| !is_restricted);
        let load_balancer_ips = taken.filter_map(|it| it.ip.as_ref()?.parse().ok());
        let ports = spec.ports.unwrap_or_default();
        Some(Service {
            namespace: self.metadata.namespace.unwrap_or_default(),
            name: self.metadata.name?,
            cluster_ips,
            external_ips: addresses(&spec.external_ips.unwrap_or_default()),
            load_balancer_ips: load_balancer_ips.collect(),
            ports: ports
                .into_iter()
                .filter_map(|it| {
                    Some(Port {
                        protocol: protocol(it.protocol.as_deref())?,
                        port: number(it.port)?,
                        name: it.name.unwrap_or_default(),
                    })
                })
                .collect(),
            client_ip_affinity: spec.session_affinity.as_deref() == Some("ClientIP"),
            internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            publish_not_ready: spec.publish_not_ready_addresses == Some(true),
        })
    }
}

impl Kind for discovery::EndpointSlice {
    const WORD: &'static str = "endpoint slices";
    const LABELS: &'static str =
        "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name";
    type Object = EndpointSlice;

    fn convert(self) -> Option<EndpointSlice> {
        if self.address_type == "FQDN" {
            return None;
        }
        let mut labels = self.metadata.labels?;
        let service = labels.remove(SERVICE_NAME).filter(|it| !it.is_empty())?;
        let endpoints = self.endpoints.into_iter().filter_map(|it| {
            let conditions = it.conditions.unwrap_or_default();
            Some(Endpoint {
                address: it.addresses.first()?.parse().ok()?,
                ready: conditions.ready.unwrap_or(true),
                serving: conditions.serving.unwrap_or(true),
                terminating: conditions.terminating.unwrap_or(false),
                node: it.node_name,
            })
        });
        let ports = self.ports.unwrap_or_default();
        let ports = ports.into_iter().filter_map(|it| {
            Some(SlicePort {
                protocol: protocol(it.protocol.as_deref())?,
                port: number(it.port?)?,
                name: it.name.unwrap_or_default(),
            })
        });
        Some(EndpointSlice {
            namespace: self.metadata.namespace.unwrap_or_default(),
            name: self.metadata.name?,
            service,
            endpoints: endpoints.collect(),
            ports: ports.collect(),
        })
    }
}

/// Those that are addresses; the server takes no others.
fn addresses(all: &[String]) -> Vec<std::net::IpAddr> {
    all.iter().filter_map(|it| it.parse().ok()).collect()
}

/// The number of a protocol, TCP if none is said.
fn protocol(name: Option<&str>) -> Option<u8> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(6),
        "UDP" => Some(17),
        "SCTP" => Some(132),
        _ => None,
    }
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|it| *it != 0)
}

#[cfg(test)]
mod tests;
