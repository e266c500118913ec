//! `Service` of Kubernetes (`v1`).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::config::decode::{self, Context, Fields};
use crate::config::diagnostic::{Diagnostic, Severity};
use crate::config::resource::Meta;
use crate::config::source::{Located, Span};
use crate::config::yaml::{Node, Value};
use crate::flows::protocol_name;
use crate::services::objects::{self, Port};

/// A service.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Its name.
    pub meta: Meta,
    /// What matters of it. None of one without cluster IPs: `clusterIP: None`, `type: ExternalName`.
    pub object: Option<Arc<objects::Service>>,
    /// Its cluster IPs, where they are written.
    pub inside: Vec<Located<IpAddr>>,
    /// Its external IPs and those of load balancers, likewise.
    pub outside: Vec<Located<IpAddr>>,
}

/// Who has it is another proxy's (`pkg/proxy/apis/well_known_labels.go`).
pub(super) const PROXY_LABEL: &str = "service.kubernetes.io/service-proxy-name";

/// `type`: whether it is one with cluster IPs.
const TYPES: [(&str, bool); 4] = [
    ("ClusterIP", true),
    ("NodePort", true),
    ("LoadBalancer", true),
    ("ExternalName", false),
];
/// `internalTrafficPolicy` and `externalTrafficPolicy`: whether only endpoints of the same node count.
const TRAFFIC_POLICIES: [(&str, bool); 2] = [("Cluster", false), ("Local", true)];
const AFFINITIES: [(&str, bool); 2] = [("None", false), ("ClientIP", true)];
const FAMILIES: [(&str, ()); 2] = [("IPv4", ()), ("IPv6", ())];
/// The protocols of ports, with their numbers.
pub(super) const PROTOCOLS: [(&str, u8); 3] = [("TCP", TCP), ("UDP", 17), ("SCTP", 132)];
/// That of a port that names none.
pub(super) const TCP: u8 = 6;

/// What `spec` says, without the name.
struct Spec {
    object: objects::Service,
    /// Neither headless nor a name for something outside.
    has_addresses: bool,
    inside: Vec<Located<IpAddr>>,
    external: Vec<Located<IpAddr>>,
    /// `loadBalancerSourceRanges`, if they restrict something.
    source_ranges: Option<Span>,
}

impl Service {
    /// Takes the fields beside `metadata`.
    pub(crate) fn decode(
        meta: Meta,
        fields: &mut Fields<'_>,
        cx: &mut Context<'_>,
    ) -> Option<Self> {
        let mark = cx.mark();
        let ingress = fields.get("status", cx, status);
        let spec = fields.require("spec", cx, spec)?.value;
        if spec.inside.is_empty() {
            if spec.has_addresses && !cx.has_errors_since(mark) {
                let message = "a service without a cluster IP: nobody reaches it";
                cx.report(
                    Diagnostic::warning(message)
                        .at(&meta.name.at, "spec.clusterIPs is missing or empty")
                        .help(
                            "the API server gives it one: take what `kubectl get -o yaml` prints",
                        ),
                );
            }
            return Some(Self {
                meta,
                object: None,
                inside: Vec::new(),
                outside: Vec::new(),
            });
        }
        if is_anothers(&meta, cx) {
            return Some(Self {
                meta,
                object: None,
                inside: Vec::new(),
                outside: Vec::new(),
            });
        }
        let mut balanced = ingress.map(|it| it.value).unwrap_or_default();
        if let Some(at) = spec.source_ranges.filter(|_| !balanced.is_empty()) {
            let message = "load balancers' addresses of this service are left to the load balancer";
            let finding = Diagnostic::new(Severity::Note, message);
            cx.report(finding.at(&at, "who may use them is checked there"));
            balanced.clear();
        }
        let plain = |list: &[Located<IpAddr>]| list.iter().map(|it| it.value).collect();
        let object = objects::Service {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.value.clone(),
            cluster_ips: plain(&spec.inside),
            external_ips: plain(&spec.external),
            load_balancer_ips: plain(&balanced),
            ..spec.object
        };
        Some(Self {
            meta,
            object: Some(object.into()),
            inside: spec.inside,
            outside: spec.external.into_iter().chain(balanced).collect(),
        })
    }
}

/// Whether another proxy than kube-proxy is to translate: that is not ours either.
pub(super) fn is_anothers(meta: &Meta, cx: &mut Context<'_>) -> bool {
    let is_it = meta.labels.contains_key(PROXY_LABEL);
    if is_it {
        let message = format!("left to another proxy: it has the label {PROXY_LABEL}");
        let finding = Diagnostic::new(Severity::Note, message);
        cx.report(finding.at(&meta.name.at, "pods reach it by its own proxy alone"));
    }
    is_it
}

fn spec(node: &Node, cx: &mut Context<'_>) -> Option<Spec> {
    let mut spec = Fields::open(node, "spec", cx)?;
    let kind = spec.get("type", cx, decode::choice(&TYPES, true));
    let (mut inside, is_headless) = cluster_ips(&mut spec, cx);
    let external = spec.get("externalIPs", cx, decode::list(address));
    let mark = cx.mark();
    let ports = spec.get("ports", cx, decode::list(port));
    let affinity = spec.get("sessionAffinity", cx, decode::choice(&AFFINITIES, true));
    let _ = spec.get("sessionAffinityConfig", cx, affinity_config);
    let policy = decode::choice(&TRAFFIC_POLICIES, true);
    let internal = spec.get("internalTrafficPolicy", cx, &policy);
    let _ = spec.get("externalTrafficPolicy", cx, &policy);
    let publish = spec.get("publishNotReadyAddresses", cx, decode::boolean);
    let ranges = spec.get("loadBalancerSourceRanges", cx, decode::list(decode::text));
    let families = decode::list(decode::choice(&FAMILIES, true));
    let _ = spec.get("ipFamilies", cx, families);
    let _ = spec.get("selector", cx, decode::text_map);
    let _ = spec.get("allocateLoadBalancerNodePorts", cx, decode::boolean);
    let _ = spec.get("healthCheckNodePort", cx, decode::number(0..=65535u16));
    for name in [
        "externalName",
        "ipFamilyPolicy",
        "loadBalancerClass",
        "loadBalancerIP",
        "trafficDistribution",
    ] {
        let _ = spec.get(name, cx, decode::text);
    }
    let at = spec.at().clone();
    spec.finish(cx);

    let has_addresses = !is_headless && kind.is_none_or(|kind| kind.value);
    let ports = ports.map(|list| list.value).unwrap_or_default();
    if has_addresses && ports.is_empty() && !cx.has_errors_since(mark) {
        cx.error(
            &at,
            "a service needs ports",
            "spec.ports is missing or empty",
        );
    }
    ports_are_distinct(&ports, cx);
    if !has_addresses {
        inside.clear();
    }
    Some(Spec {
        object: objects::Service {
            ports: ports.into_iter().map(|port| port.value).collect(),
            client_ip_affinity: affinity.is_some_and(|it| it.value),
            internal_local: internal.is_some_and(|it| it.value),
            publish_not_ready: publish.is_some_and(|it| it.value),
            ..objects::Service::default()
        },
        has_addresses,
        inside,
        external: external.map(|list| list.value).unwrap_or_default(),
        source_ranges: ranges.filter(|it| !it.value.is_empty()).map(|it| it.at),
    })
}

/// `clusterIPs`, or `clusterIP` where only that is given, and whether it is headless.
fn cluster_ips(spec: &mut Fields<'_>, cx: &mut Context<'_>) -> (Vec<Located<IpAddr>>, bool) {
    let mark = cx.mark();
    let first = spec.get("clusterIP", cx, cluster_ip);
    let all = spec.get("clusterIPs", cx, decode::list(cluster_ip));
    let all = match (first, all.map(|it| it.value).unwrap_or_default()) {
        (Some(first), all) if all.is_empty() => vec![first],
        (Some(first), all) => {
            let differs = all.first().is_some_and(|it| it.value != first.value);
            if differs && !cx.has_errors_since(mark) {
                let label = "must be the first of clusterIPs";
                cx.error(&first.at, "clusterIP and clusterIPs differ", label);
            }
            all
        }
        (None, all) => all,
    };
    let is_headless = all.iter().any(|it| it.value == ClusterIp::Headless);
    let addresses = all.into_iter().filter_map(|it| match it.value {
        ClusterIp::Is(value) => Some(Located { value, at: it.at }),
        ClusterIp::Headless | ClusterIp::NotYet => None,
    });
    let addresses: Vec<Located<IpAddr>> = addresses.collect();
    if let [one, other, ..] = addresses.as_slice()
        && one.value.is_ipv4() == other.value.is_ipv4()
    {
        let label = "a service has one of IPv4, one of IPv6, or both";
        cx.error(&other.at, "two cluster IPs of one family", label);
    }
    (addresses, is_headless)
}

#[derive(Clone, Copy, PartialEq)]
enum ClusterIp {
    Is(IpAddr),
    Headless,
    NotYet,
}

fn cluster_ip(node: &Node, cx: &mut Context<'_>) -> Option<ClusterIp> {
    match &node.value {
        Value::Text(text) if text == "None" => Some(ClusterIp::Headless),
        Value::Text(text) if text.is_empty() => Some(ClusterIp::NotYet),
        _ => address(node, cx).map(ClusterIp::Is),
    }
}

/// A plain address that a machine can have.
pub(super) fn address(node: &Node, cx: &mut Context<'_>) -> Option<IpAddr> {
    if let Value::Text(text) = &node.value
        && text.parse::<IpAddr>().is_err()
    {
        let label = match text.split_once('/') {
            Some((plain, _)) => format!("without a prefix length: `{plain}`"),
            None => "such as `10.96.0.10` or `fd00:96::a`".to_owned(),
        };
        cx.error(&node.at, format!("not an IP address: `{text}`"), label);
        return None;
    }
    decode::host_address(node, cx)
}

fn port(node: &Node, cx: &mut Context<'_>) -> Option<Port> {
    let mark = cx.mark();
    let mut fields = Fields::open(node, "an item of ports", cx)?;
    let name = fields.get("name", cx, decode::text);
    let protocol = fields.get("protocol", cx, decode::choice(&PROTOCOLS, true));
    let port = fields.require("port", cx, decode::port);
    let _ = fields.get("targetPort", cx, |node, cx| match node.value {
        Value::Text(_) => decode::name(node, cx).map(|_| ()),
        _ => decode::port(node, cx).map(|_| ()),
    });
    let _ = fields.get("nodePort", cx, decode::number(0..=65535u16));
    let _ = fields.get("appProtocol", cx, decode::text);
    fields.finish(cx);
    let port = Port {
        name: name.map(|name| name.value).unwrap_or_default(),
        protocol: protocol.map_or(TCP, |protocol| protocol.value),
        port: port?.value,
    };
    (!cx.has_errors_since(mark)).then_some(port)
}

/// As the API server has it: each of several ports has a name, no two the same one, or the same number of one protocol.
fn ports_are_distinct(ports: &[Located<Port>], cx: &mut Context<'_>) {
    let mut names: HashMap<&str, &Span> = HashMap::new();
    let mut numbers: HashMap<(u8, u16), &Span> = HashMap::new();
    for port in ports {
        let name = port.value.name.as_str();
        if name.is_empty() && ports.len() > 1 {
            let label = "give each a `name` where there are several";
            cx.error(&port.at, "a port without a name", label);
        }
        if let Some(first) = names.insert(name, &port.at).filter(|_| !name.is_empty()) {
            twice(&format!("port name `{name}`"), &port.at, first, cx);
        }
        let number = (port.value.protocol, port.value.port);
        if let Some(first) = numbers.insert(number, &port.at) {
            let what = format!("port {}/{}", number.1, protocol_name(number.0));
            twice(&what, &port.at, first, cx);
        }
    }
}

/// Reports what two ports of one list have.
pub(super) fn twice(what: &str, at: &Span, first: &Span, cx: &mut Context<'_>) {
    cx.report(
        Diagnostic::error(format!("{what} is given twice"))
            .at(at, "again here")
            .see("first given here", first),
    );
}

fn affinity_config(node: &Node, cx: &mut Context<'_>) -> Option<()> {
    let mut fields = Fields::open(node, "sessionAffinityConfig", cx)?;
    let _ = fields.get("clientIP", cx, |node, cx| {
        let mut fields = Fields::open(node, "clientIP", cx)?;
        let _ = fields.get("timeoutSeconds", cx, decode::number(1..=86_400u32));
        fields.finish(cx);
        Some(())
    });
    fields.finish(cx);
    Some(())
}

/// The addresses of load balancers that send on what they get with its destination as it was.
fn status(node: &Node, cx: &mut Context<'_>) -> Option<Vec<Located<IpAddr>>> {
    let mut fields = Fields::open(node, "status", cx)?;
    fields.accept(&["conditions"]);
    let found = fields.get("loadBalancer", cx, |node, cx| {
        let mut fields = Fields::open(node, "loadBalancer", cx)?;
        let found = fields.get("ingress", cx, decode::list(ingress));
        fields.finish(cx);
        found
    });
    fields.finish(cx);
    let found = found.into_iter().flat_map(|it| it.value.value);
    Some(found.map(|it| it.value).collect())
}

fn ingress(node: &Node, cx: &mut Context<'_>) -> Option<Located<IpAddr>> {
    let mut fields = Fields::open(node, "an item of ingress", cx)?;
    let ip = fields.get("ip", cx, balanced_address);
    let modes = [("VIP", true), ("Proxy", false)];
    let is_vip = fields.get("ipMode", cx, decode::choice(&modes, true));
    let _ = fields.get("hostname", cx, decode::text);
    fields.accept(&["ports"]);
    fields.finish(cx);
    ip.filter(|_| is_vip.is_none_or(|it| it.value))
}

/// An address of a load balancer. What only means something on its own machine is none for pods.
fn balanced_address(node: &Node, cx: &mut Context<'_>) -> Option<IpAddr> {
    match &node.value {
        Value::Text(text) if text.is_empty() => None,
        Value::Text(text) if text.parse().is_ok_and(|it: IpAddr| it.is_loopback()) => None,
        _ => address(node, cx),
    }
}
