//! `WorkloadEndpoint`: one interface of a pod.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::decode::{self, Context, Fields};
use crate::config::resource::Meta;
use crate::config::source::Located;
use crate::config::yaml;
use crate::desired::MacAddr;

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
}

impl WorkloadEndpoint {
    pub(crate) fn decode(meta: Meta, spec: &mut Fields<'_>, cx: &mut Context<'_>) -> Option<Self> {
        let node = spec.require("node", cx, decode::name);
        let _ = spec.get("orchestrator", cx, decode::text);
        let workload = spec.get("workload", cx, decode::text);
        let pod = spec.get("pod", cx, decode::text);
        for name in [
            "endpoint",
            "containerID",
            "serviceAccountName",
            "ipv4Gateway",
            "ipv6Gateway",
        ] {
            let _ = spec.get(name, cx, decode::text);
        }
        let interface = spec.get("interfaceName", cx, decode::interface);
        let mac = spec.get("mac", cx, decode::mac);
        let addresses = spec.get("ipNetworks", cx, decode::list(decode::host_address));
        let nats = spec.get("ipNATs", cx, decode::list(nat));
        let profiles = spec.get("profiles", cx, decode::list(decode::name));
        let _ = spec.get("ports", cx, decode::list(port));
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
        })
    }
}

fn nat(node: &yaml::Node, cx: &mut Context<'_>) -> Option<IpAddr> {
    let mut fields = Fields::open(node, "an item of ipNATs", cx)?;
    let internal = fields.require("internalIP", cx, decode::host_address);
    let _ = fields.require("externalIP", cx, decode::host_address);
    fields.finish(cx);
    internal.map(|address| address.value)
}

fn port(node: &yaml::Node, cx: &mut Context<'_>) -> Option<()> {
    let mut fields = Fields::open(node, "an item of ports", cx)?;
    let _ = fields.get("name", cx, decode::text);
    let _ = fields.require("port", cx, decode::port);
    let _ = fields.get("hostPort", cx, decode::number(0..=65535u16));
    let _ = fields.get("hostIP", cx, decode::text);
    fields.accept(&["protocol"]);
    fields.finish(cx);
    Some(())
}
