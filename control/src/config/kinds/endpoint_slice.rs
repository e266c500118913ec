//! `EndpointSlice` of Kubernetes (`discovery.k8s.io/v1`).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::service::{PROTOCOLS, PROXY_LABEL, TCP, address, twice};
use crate::config::decode::{self, Context, Fields};
use crate::config::resource::Meta;
use crate::config::source::{Located, Span};
use crate::config::yaml::Node;
use crate::services::objects::{self, Endpoint, SlicePort};

/// Says which service a slice is of.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// Some of the endpoints of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSlice {
    /// Its name.
    pub meta: Meta,
    /// What matters of it. None of one that is no service's, or has names instead of addresses.
    pub object: Option<Arc<objects::EndpointSlice>>,
}

/// `addressType`.
#[derive(Clone, Copy, PartialEq)]
enum AddressType {
    V4,
    V6,
    Name,
}

const TYPES: [(&str, AddressType); 3] = [
    ("IPv4", AddressType::V4),
    ("IPv6", AddressType::V6),
    ("FQDN", AddressType::Name),
];

/// A port; one that stands for all is told by no number.
struct Port {
    name: String,
    protocol: u8,
    number: Option<u16>,
}

impl EndpointSlice {
    /// Takes the fields beside `metadata`.
    pub(crate) fn decode(meta: Meta, fields: &mut Fields<'_>, cx: &mut Context<'_>) -> Self {
        let kind = fields.require("addressType", cx, decode::choice(&TYPES, true));
        // What a wrong type would make of the addresses is not worth a word.
        let kind = kind.map_or(AddressType::Name, |it| it.value);
        let endpoints = fields.get(
            "endpoints",
            cx,
            decode::list(|node, cx| endpoint(node, kind, cx)),
        );
        let ports = fields.get("ports", cx, decode::list(port));
        let ports = ports.map(|list| list.value).unwrap_or_default();
        names_are_distinct(&ports, cx);
        let endpoints = endpoints.into_iter().flat_map(|list| list.value);
        let ports = ports.into_iter().filter_map(|it| {
            let port = it.value.number?;
            let (name, protocol) = (it.value.name, it.value.protocol);
            Some(SlicePort {
                name,
                protocol,
                port,
            })
        });
        let service = meta.labels.get(SERVICE_LABEL);
        let service = service.filter(|it| !it.is_empty() && kind != AddressType::Name);
        let service = service.filter(|_| !meta.labels.contains_key(PROXY_LABEL));
        let object = service.map(|service| objects::EndpointSlice {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.value.clone(),
            service: service.clone(),
            endpoints: endpoints.map(|it| it.value).collect(),
            ports: ports.collect(),
        });
        Self {
            meta,
            object: object.map(Arc::new),
        }
    }
}

/// One that has a name instead of an address is none.
fn endpoint(node: &Node, kind: AddressType, cx: &mut Context<'_>) -> Option<Endpoint> {
    let mut fields = Fields::open(node, "an item of endpoints", cx)?;
    let mark = cx.mark();
    let addresses = if kind == AddressType::Name {
        let _ = fields.require("addresses", cx, decode::list(decode::name));
        None
    } else {
        let item = decode::list(|node, cx| address_like(node, kind == AddressType::V4, cx));
        fields.require("addresses", cx, item)
    };
    let conditions = fields.get("conditions", cx, conditions);
    let node_name = fields.get("nodeName", cx, decode::text);
    let _ = fields.get("hostname", cx, decode::text);
    let _ = fields.get("zone", cx, decode::text);
    let _ = fields.get("deprecatedTopology", cx, decode::text_map);
    fields.accept(&["targetRef", "hints"]);
    fields.finish(cx);
    let addresses = addresses?;
    let Some(first) = addresses.value.first() else {
        if !cx.has_errors_since(mark) {
            cx.error(
                &addresses.at,
                "an endpoint needs an address",
                "this is empty",
            );
        }
        return None;
    };
    let conditions = conditions.map(|it| it.value).unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    Some(Endpoint {
        address: first.value,
        ready,
        serving: conditions.serving.unwrap_or(true),
        terminating: conditions.terminating.unwrap_or(false),
        node: node_name.map(|it| it.value).filter(|it| !it.is_empty()),
    })
}

fn address_like(node: &Node, v4: bool, cx: &mut Context<'_>) -> Option<IpAddr> {
    let found = address(node, cx)?;
    if found.is_ipv4() == v4 {
        return Some(found);
    }
    let wanted = if v4 { "IPv4" } else { "IPv6" };
    let label = format!("addressType says {wanted}; the other family has slices of its own");
    cx.error(&node.at, "wrong address family", label);
    None
}

/// None: not said.
#[derive(Default)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

fn conditions(node: &Node, cx: &mut Context<'_>) -> Option<Conditions> {
    let mut fields = Fields::open(node, "conditions", cx)?;
    let mut flag = |name| fields.get(name, cx, decode::boolean).map(|it| it.value);
    let conditions = Conditions {
        ready: flag("ready"),
        serving: flag("serving"),
        terminating: flag("terminating"),
    };
    fields.finish(cx);
    Some(conditions)
}

fn port(node: &Node, cx: &mut Context<'_>) -> Option<Port> {
    let mark = cx.mark();
    let mut fields = Fields::open(node, "an item of ports", cx)?;
    let name = fields.get("name", cx, decode::text);
    let protocol = fields.get("protocol", cx, decode::choice(&PROTOCOLS, true));
    let port = fields.get("port", cx, decode::port);
    let _ = fields.get("appProtocol", cx, decode::text);
    fields.finish(cx);
    let port = Port {
        name: name.map(|name| name.value).unwrap_or_default(),
        protocol: protocol.map_or(TCP, |protocol| protocol.value),
        number: port.map(|port| port.value),
    };
    (!cx.has_errors_since(mark)).then_some(port)
}

fn names_are_distinct(ports: &[Located<Port>], cx: &mut Context<'_>) {
    let mut names: HashMap<&str, &Span> = HashMap::new();
    for port in ports {
        let name = port.value.name.as_str();
        if let Some(first) = names.insert(name, &port.at) {
            twice(&format!("port name `{name}`"), &port.at, first, cx);
        }
    }
}
