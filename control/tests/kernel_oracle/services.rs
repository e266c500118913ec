//! One service, in kube-proxy's words for the kernel and in Kubernetes' for Caracal. Each port has one backend, so that both choose the same.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::masquerade;
use crate::node;
use crate::plan::{
    NODE4, NODE6, OUTSIDE4, OUTSIDE6, PEER1_POD4, PEER1_POD6, POD1_4, POD1_6, POD2_4, POD2_6,
    Tunnel,
};

/// The cluster IPs.
pub(crate) const SERVICE4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
pub(crate) const SERVICE6: Ipv6Addr = Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0xa);

/// A port: protocol and number, and the backend's addresses and port.
type Port = (&'static str, u16, (Ipv4Addr, Ipv6Addr, u16));

/// Ports with an endpoint.
const PORTS: [Port; 8] = [
    ("tcp", 80, (POD2_4, POD2_6, 8080)),
    ("udp", 53, (POD2_4, POD2_6, 5353)),
    ("tcp", 81, (POD1_4, POD1_6, 8081)),
    ("udp", 54, (POD1_4, POD1_6, 5354)),
    ("tcp", 82, (PEER1_POD4, PEER1_POD6, 8082)),
    ("udp", 55, (PEER1_POD4, PEER1_POD6, 5355)),
    ("tcp", 443, (OUTSIDE4, OUTSIDE6, 6443)),
    ("udp", 56, (OUTSIDE4, OUTSIDE6, 5356)),
];
/// Ports without.
const EMPTY: [(&str, u16); 2] = [("tcp", 90), ("udp", 90)];

/// The rules of kube-proxy's nftables mode (`pkg/proxy/nftables/proxier.go`), beside those of natOutgoing.
///
/// What goes back to the pod that sent it gets the node's address by name: `masquerade` would take the gateway's, which the veths of this
/// node have so that the kernel's ICMP errors come from it. On a node of Calico's they have none.
pub(crate) fn rules() -> String {
    let mut rules = masquerade::RULES.to_owned();
    for (family, service, node) in [
        ("ip", IpAddr::from(SERVICE4), IpAddr::from(NODE4)),
        ("ip6", SERVICE6.into(), NODE6.into()),
    ] {
        let mut services = String::new();
        for (protocol, port, (v4, v6, to)) in PORTS {
            let (backend, target) = match family {
                "ip" => (IpAddr::from(v4), format!("{v4}:{to}")),
                _ => (v6.into(), format!("[{v6}]:{to}")),
            };
            let _ = writeln!(
                services,
                "{family} daddr {service} {protocol} dport {port} {family} saddr {backend} meta mark set meta mark | 0x4000\n\
                 {family} daddr {service} {protocol} dport {port} dnat to {target}"
            );
        }
        let _ = write!(
            rules,
            "table {family} kube-proxy {{
                chain nat-prerouting {{
                    type nat hook prerouting priority dstnat
                    {services}
                }}
                chain nat-postrouting {{
                    type nat hook postrouting priority srcnat
                    meta mark & 0x4000 != 0 snat to {node} fully-random
                }}
                chain filter-forward {{
                    type filter hook forward priority -110
                    ct state new {family} daddr {service} reject
                }}
            }}
            "
        );
    }
    rules
}

/// The cluster, of which pods masquerade, with the service.
pub(crate) fn resources() -> String {
    let mut text =
        node::resources(Tunnel::Vxlan).replace("natOutgoing: false", "natOutgoing: true");
    let mut ports = String::new();
    let with = PORTS.iter().map(|(protocol, port, _)| (*protocol, *port));
    for (protocol, port) in with.chain(EMPTY) {
        let upper = protocol.to_uppercase();
        let _ = writeln!(
            ports,
            "  - {{name: {protocol}-{port}, protocol: {upper}, port: {port}}}"
        );
    }
    let _ = write!(
        text,
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: judged, namespace: oracle}}\n\
         spec:\n  clusterIPs: [{SERVICE4}, '{SERVICE6}']\n  ports:\n{ports}"
    );
    for (protocol, port, (v4, v6, to)) in PORTS {
        for (family, backend) in [("IPv4", IpAddr::from(v4)), ("IPv6", v6.into())] {
            let (upper, lower) = (protocol.to_uppercase(), family.to_lowercase());
            let _ = write!(
                text,
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                 metadata:\n  name: judged-{protocol}-{port}-{lower}\n  namespace: oracle\n  labels: {{kubernetes.io/service-name: judged}}\n\
                 addressType: {family}\nendpoints: [{{addresses: ['{backend}']}}]\n\
                 ports: [{{name: {protocol}-{port}, protocol: {upper}, port: {to}}}]\n"
            );
        }
    }
    text
}
