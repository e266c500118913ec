//! `WorkloadEndpoint`: one interface of a pod.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::decode::{self, Context, Fields};
use crate::config::resource::Meta;
use crate::config::source::Located;
use crate::config::yaml;
use crate::desired::MacAddr;
use crate::policy::rule::Protocol;

/// A pod's interface.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkloadEndpoint {
    /// Its name.
    pub meta: Meta,
    /// `node`: the node that the pod runs on.
    pub node: Located<String>,
    /// `pod`, or for other orchestrators `workload`.
    pub workload: Option<String>,
    /// `interfaceName`: the host's end of the veth.
    pub interface: Option<Located<String>>,
    /// `mac` of the pod's end.
    pub mac: Option<Located<MacAddr>>,
    /// `ipNetworks`: the pod's addresses.
    pub addresses: Vec<Located<IpAddr>>,
    /// `allowSpoofedSourcePrefixes`.
    pub spoofable: Vec<Located<IpNet>>,
    /// `profiles`.
    pub profiles: Vec<String>,
    /// `orchestrator`, `k8s` for Kubernetes.
    pub orchestrator: Option<String>,
    /// `endpoint`: the pod's end, `eth0`.
    pub endpoint: Option<String>,
    /// `serviceAccountName`.
    pub service_account: Option<String>,
    /// `ports` that have a name.
    pub ports: Vec<EndpointPort>,
}

/// A port that an endpoint gives a name.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointPort {
    /// `name`.
    pub name: String,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`.
    pub port: u16,
}

impl WorkloadEndpoint {
    pub(crate) fn decode(meta: Meta, spec: &mut Fields<'_>, cx: &mut Context<'_>) -> Option<Self> {
        let node = spec.require("node", cx, decode::name);
        let orchestrator = spec.get("orchestrator", cx, decode::text);
        let workload = spec.get("workload", cx, decode::text);
        let pod = spec.get("pod", cx, decode::text);
        let endpoint = spec.get("endpoint", cx, decode::text);
        let service_account = spec.get("serviceAccountName", cx, decode::text);
        for name in ["containerID", "ipv4Gateway", "ipv6Gateway"] {
            let _ = spec.get(name, cx, decode::text);
        }
        let interface = spec.get("interfaceName", cx, decode::foreign_interface);
        let mac = spec.get("mac", cx, decode::mac);
        let addresses = spec.get("ipNetworks", cx, decode::list(decode::host_address));
        let nats = spec.get("ipNATs", cx, decode::list(nat));
        let profiles = spec.get("profiles", cx, decode::list(decode::name));
        let ports = spec.get("ports", cx, decode::list(endpoint_port));
        let spoofable = spec.get("allowSpoofedSourcePrefixes", cx, decode::list(decode::cidr));
        spec.accept(&["qosControls"]);

        let addresses = addresses.map(|list| list.value).unwrap_or_default();
        for nat in nats.iter().flat_map(|list| &list.value) {
            if !addresses.iter().any(|address| address.value == nat.value) {
                let label = format!("{} is not in ipNetworks", nat.value);
                cx.error(
                    &nat.at,
                    "ipNATs names an address that the endpoint does not have",
                    label,
                );
            }
        }
        Some(Self {
            meta,
            node: node?,
            workload: pod.or(workload).map(|name| name.value),
            interface,
            mac,
            addresses,
            spoofable: spoofable.map(|list| list.value).unwrap_or_default(),
            profiles: profiles
                .map(|list| list.value.into_iter().map(|name| name.value).collect())
                .unwrap_or_default(),
            orchestrator: orchestrator.map(|name| name.value),
            endpoint: endpoint.map(|name| name.value),
            service_account: service_account.map(|name| name.value),
            ports: named_ports(ports),
        })
    }
}

/// Ports without a name concern only the CNI plugin.
pub(crate) fn named_ports(ports: Option<Located<Vec<Located<EndpointPort>>>>) -> Vec<EndpointPort> {
    let ports = ports.into_iter().flat_map(|list| list.value);
    let ports = ports.map(|port| port.value);
    ports.filter(|port| !port.name.is_empty()).collect()
}

fn nat(node: &yaml::Node, cx: &mut Context<'_>) -> Option<IpAddr> {
    let mut fields = Fields::open(node, "an item of ipNATs", cx)?;
    let internal = fields.require("internalIP", cx, decode::host_address);
    let _ = fields.require("externalIP", cx, decode::host_address);
    fields.finish(cx);
    internal.map(|address| address.value)
}

/// One item of `ports`, of pods and of hosts.
pub(crate) fn endpoint_port(node: &yaml::Node, cx: &mut Context<'_>) -> Option<EndpointPort> {
    let mut fields = Fields::open(node, "an item of ports", cx)?;
    let name = fields.get("name", cx, decode::text);
    let port = fields.require("port", cx, decode::port);
    let protocol = fields.get("protocol", cx, protocol);
    let _ = fields.get("hostPort", cx, decode::number(0..=65535u16));
    let _ = fields.get("hostIP", cx, decode::text);
    fields.finish(cx);
    Some(EndpointPort {
        name: name.map(|name| name.value).unwrap_or_default(),
        protocol: protocol.map_or(Protocol::TCP, |protocol| protocol.value),
        port: port?.value,
    })
}

/// TCP, UDP or SCTP, by name or number.
fn protocol(node: &yaml::Node, cx: &mut Context<'_>) -> Option<Protocol> {
    let protocols = [
        ("TCP", Protocol::TCP),
        ("UDP", Protocol::UDP),
        ("SCTP", Protocol::SCTP),
    ];
    if let yaml::Value::Int(number) = node.value {
        let known = protocols.into_iter().map(|(_, protocol)| protocol);
        let found = known
            .into_iter()
            .find(|known| i128::from(known.0) == number);
        if found.is_none() {
            cx.error(
                &node.at,
                "not a protocol with ports",
                "must be TCP (6), UDP (17) or SCTP (132)",
            );
        }
        return found;
    }
    decode::choice(&protocols, false)(node, cx)
}
