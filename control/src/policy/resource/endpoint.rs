//! `HostEndpoint`: an interface of a node that policy is for.

use std::net::IpAddr;

use crate::config::decode::{self, Context, Fields};
use crate::config::kinds::{EndpointPort, endpoint_port, named_ports};
use crate::config::resource::Meta;
use crate::config::source::Located;
use crate::config::yaml::Node;

/// An interface of a node, or all of them.
#[derive(Clone, Debug, PartialEq)]
pub struct HostEndpoint {
    /// Its name.
    pub meta: Meta,
    /// `node`.
    pub node: Located<String>,
    /// `interfaceName`: a name, `*` or nothing.
    pub interface: Option<Located<String>>,
    /// `expectedIPs`.
    pub expected: Vec<IpAddr>,
    /// `profiles`.
    pub profiles: Vec<Located<String>>,
    /// `ports` that have a name.
    pub ports: Vec<EndpointPort>,
}

impl HostEndpoint {
    pub(super) fn decode(meta: Meta, spec: &mut Fields<'_>, cx: &mut Context<'_>) -> Option<Self> {
        let node = spec.require("node", cx, decode::name);
        let interface = spec.get("interfaceName", cx, interface);
        let expected = spec.get("expectedIPs", cx, decode::list(decode::host_address));
        let profiles = spec.get("profiles", cx, decode::list(decode::name));
        let ports = spec.get("ports", cx, decode::list(endpoint_port));
        let expected: Vec<IpAddr> = expected
            .into_iter()
            .flat_map(|list| list.value)
            .map(|address| address.value)
            .collect();
        if interface.is_none() && expected.is_empty() {
            let label = "give interfaceName, or expectedIPs";
            cx.error(&meta.name.at, "a host endpoint of no interface", label);
        }
        Some(Self {
            meta,
            node: node?,
            interface,
            expected,
            profiles: profiles.map(|list| list.value).unwrap_or_default(),
            ports: named_ports(ports),
        })
    }
}

fn interface(node: &Node, cx: &mut Context<'_>) -> Option<String> {
    let text = decode::text(node, cx)?;
    if text == "*" {
        return Some(text);
    }
    decode::interface(node, cx)
}
