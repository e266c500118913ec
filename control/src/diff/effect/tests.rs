//! Connections that were made up, and what is said of each.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::*;
use crate::config::{Source, compute, load_sources};

const CLUSTER: &str = "\
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: node1}
spec: {bgp: {ipv4Address: 192.0.2.1/24}, ipv4VXLANTunnelAddr: 10.0.0.1}
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: node2}
spec: {bgp: {ipv4Address: 192.0.2.2/24}, ipv4VXLANTunnelAddr: 10.0.1.1}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: v4}
spec: {cidr: 10.0.0.0/16, vxlanMode: Always, natOutgoing: true}
---
apiVersion: projectcalico.org/v3
kind: BlockAffinity
metadata: {name: node2}
spec: {cidr: 10.0.1.0/26, node: node2, state: confirmed}
";

/// Pods `web` and `db` of the node, and more.
fn desired(pods: &[(&str, u8)], more: &str) -> Desired {
    let mut text = CLUSTER.to_owned();
    for (name, number) in pods {
        let _ = write!(
            text,
            "---\napiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\n\
             metadata: {{name: node1-k8s-{name}-eth0, namespace: ns, labels: {{app: {name}}}}}\n\
             spec: {{node: node1, orchestrator: k8s, pod: {name}, endpoint: eth0, interfaceName: cali{name}, \
             ipNetworks: [10.0.0.{number}/32], profiles: [kns.ns]}}\n"
        );
    }
    let cluster = load_sources(&[Source::new("a.yaml", text + more)]);
    let cluster = cluster.unwrap_or_else(|errors| panic!("{}", errors.render(false)));
    compute(&cluster, "node1").unwrap()
}

const PODS: [(&str, u8); 2] = [("web", 2), ("db", 3)];

/// A policy of `db` with these ingress rules.
fn policy(rules: &str) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: ns}}\n\
         spec: {{selector: app == 'db', types: [Ingress], ingress: [{rules}]}}\n"
    )
}

fn places() -> Places {
    let mut places = Places::default();
    places.insert("eth0", PortRole::Uplink);
    places.insert("caracal0", PortRole::Host(encap::eth::MacAddr([2; 6])));
    places.insert("caliweb", PortRole::Pod);
    places.insert("calidb", PortRole::Pod);
    places
}

/// A direction by a port, by the tunnel of `node2`, or by what is not known.
fn direction(by: &str) -> Value {
    let known = ["eth0", "caracal0", "caliweb", "calidb"];
    json!({
        "port": known.contains(&by).then_some(by),
        "node": (by == "node2").then_some(by),
        "origin": by, "packets": 1, "bytes": 100, "generation": 1,
    })
}

/// `tcp 10.0.0.2 -> 10.0.0.3:80`, which comes in and goes out there.
fn flow(what: &str, from: &str, to: &str) -> Flow {
    let words: Vec<&str> = what.split(' ').collect();
    let [protocol, src, "->", dst] = words[..] else {
        panic!("{what}");
    };
    let (dst, port) = dst.split_once(':').unwrap_or((dst, ""));
    let port = port.parse::<u16>().ok();
    let is_icmp = protocol == "icmp";
    let value = json!({
        "protocol": protocol, "state": "ESTABLISHED", "src": src, "src_port": port.and(Some(40000)),
        "dst": dst, "dst_port": port, "icmp_id": is_icmp.then_some(7), "icmp_type": is_icmp.then_some(8),
        "snat": null, "endpoint": null, "original": direction(from), "reply": direction(to),
        "idle_seconds": 0, "expires_seconds": 9,
    });
    serde_json::from_value(value).unwrap()
}

fn compared(old: Option<Desired>, new: Desired, flows: &[Flow]) -> Effect {
    let places = places();
    let judge = |desired| Judge::new(desired, &places).unwrap();
    let (old, new) = (old.map(judge), judge(new));
    let mut comparison = Comparison::new(old.as_ref(), &new, &places);
    for flow in flows {
        comparison.add(flow);
    }
    assert_eq!(comparison.effect.total(), flows.len() as u64);
    comparison.effect
}

/// Whether a policy denies the first packet of a connection, with what is said of that.
fn denied(rules: &str, flow: &Flow) -> Option<String> {
    let (old, new) = (desired(&PODS, ""), desired(&PODS, &policy(rules)));
    let effect = compared(Some(old.clone()), new.clone(), std::slice::from_ref(flow));
    let back = compared(Some(new), old, std::slice::from_ref(flow));
    assert_eq!(
        effect.denied.count, back.allowed.count,
        "and the other way round"
    );
    let example = effect.denied.example;
    assert_eq!(example.is_none(), effect.unchanged == 1);
    example.and_then(|example| example.by)
}

const DENY: &str = "{action: Deny, protocol: TCP, destination: {ports: [5432]}}, {action: Allow}";

#[test]
fn a_connection_is_judged_from_where_it_comes_to_where_it_goes() {
    let rule = "tier default: NetworkPolicy ns/p, ingress rule 1 (Deny), a.yaml:";
    for (what, from, to, is_denied) in [
        ("tcp 10.0.0.2 -> 10.0.0.3:5432", "caliweb", "calidb", true),
        ("tcp 10.0.0.2 -> 10.0.0.3:80", "caliweb", "calidb", false),
        ("udp 10.0.0.2 -> 10.0.0.3:5432", "caliweb", "calidb", false),
        ("tcp 10.0.0.3 -> 10.0.0.2:5432", "calidb", "caliweb", false),
        ("tcp 10.0.1.9 -> 10.0.0.3:5432", "node2", "calidb", true),
        ("tcp 198.51.100.9 -> 10.0.0.3:5432", "eth0", "calidb", true),
        ("tcp 10.0.0.3 -> 198.51.100.9:5432", "calidb", "eth0", false),
    ] {
        let said = denied(DENY, &flow(what, from, to));
        assert_eq!(said.is_some(), is_denied, "{what}: {said:?}");
        assert!(said.is_none_or(|said| said.starts_with(rule)), "{what}");
    }
    let end = denied(
        "{action: Allow, protocol: UDP}",
        &flow("tcp 10.0.0.2 -> 10.0.0.3:1", "caliweb", "calidb"),
    );
    let expected =
        "no rule matched in tier default; NetworkPolicy ns/p selects this endpoint, a.yaml:";
    assert!(end.is_some_and(|end| end.starts_with(expected)));
}

#[test]
fn a_host_always_reaches_its_pods_but_not_whom_it_forwards_for() {
    let mut flow = flow("tcp 192.0.2.1 -> 10.0.0.3:5432", "caracal0", "calidb");
    flow.from_host = true;
    assert_eq!(denied(DENY, &flow), None);
    flow.from_host = false;
    assert!(denied(DENY, &flow).is_some());
}

#[test]
fn a_query_has_its_type_and_a_translated_source_its_own_address() {
    let ping = flow("icmp 10.0.0.2 -> 10.0.0.3", "caliweb", "calidb");
    assert!(
        denied(
            "{action: Deny, protocol: ICMP, icmp: {type: 8}}, {action: Allow}",
            &ping
        )
        .is_some()
    );
    assert_eq!(
        denied(
            "{action: Deny, protocol: ICMP, icmp: {type: 13}}, {action: Allow}",
            &ping
        ),
        None
    );
    let mut out = flow("udp 10.0.0.2 -> 9.9.9.9:53", "caliweb", "eth0");
    out.snat =
        serde_json::from_value(json!({"addr": "192.0.2.1", "port": 9, "icmp_id": null})).unwrap();
    let egress = "---\napiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: e, namespace: ns}\n\
                  spec: {selector: app == 'web', types: [Egress], egress: [{action: Deny, source: {nets: [10.0.0.2/32]}}, {action: Allow}]}\n";
    let effect = compared(Some(desired(&PODS, "")), desired(&PODS, egress), &[out]);
    assert_eq!(effect.denied.count, 1);
}

#[test]
fn where_a_denied_packet_would_go_is_told_by_its_address() {
    let egress = "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: e}\n\
                  spec: {selector: app == 'web', types: [Egress], egress: [{action: Deny}]}\n";
    let towards = |dst: &str| {
        let mut flow = flow(&format!("tcp 10.0.0.2 -> {dst}:5432"), "caliweb", "unknown");
        flow.state = DENIED.to_owned();
        flow
    };
    let flows = ["10.0.0.3", "10.0.1.9", "198.51.100.9", "192.0.2.1"].map(towards);
    let effect = compared(
        Some(desired(&PODS, egress)),
        desired(&PODS, &policy(DENY)),
        &flows,
    );
    // To the pod it is denied still, and to the host by what is Felix's default.
    assert_eq!(
        (effect.allowed.count, effect.unchanged),
        (2, 2),
        "{effect:?}"
    );
    let host = compared(
        Some(desired(&PODS, "")),
        desired(&PODS, egress),
        &flows[3..],
    );
    assert_eq!(host.unchanged, 1, "{host:?}");
}

#[test]
fn connections_end_with_their_endpoints() {
    let flows = [
        flow("tcp 10.0.0.2 -> 10.0.0.3:80", "caliweb", "calidb"),
        flow("tcp 10.0.0.2 -> 9.9.9.9:80", "caliweb", "eth0"),
        flow("tcp 9.9.9.9 -> 10.0.0.3:80", "eth0", "calidb"),
        flow("tcp 9.9.9.9 -> 10.0.0.7:80", "eth0", "port 7"),
    ];
    let ending = |old: Option<Desired>, new: &[(&str, u8)]| {
        let effect = compared(old, desired(new, ""), &flows);
        (effect.ending, effect.unchanged, effect.unknown)
    };
    let old = || Some(desired(&PODS, ""));
    assert_eq!(ending(old(), &PODS), (0, 3, 1));
    assert_eq!(ending(old(), &PODS[..1]), (2, 1, 1));
    assert_eq!(
        ending(old(), &[("web", 2), ("db", 4)]),
        (2, 1, 1),
        "another address"
    );
    assert_eq!(ending(None, &PODS[..1]), (2, 1, 1));
}

#[test]
fn without_files_in_force_what_became_of_a_connection_tells() {
    let mut flows = [
        flow("tcp 10.0.0.2 -> 10.0.0.3:5432", "caliweb", "calidb"),
        flow("tcp 10.0.0.2 -> 10.0.0.3:80", "caliweb", "unknown"),
        flow("tcp 10.0.0.2 -> 10.0.0.3:81", "caliweb", "calidb"),
    ];
    flows[1].state = DENIED.to_owned();
    let effect = compared(None, desired(&PODS, &policy(DENY)), &flows);
    assert_eq!(
        (effect.denied.count, effect.allowed.count, effect.unchanged),
        (1, 1, 1)
    );
    let by: u64 = effect.denied.by.values().sum();
    assert_eq!(by, 1);
}
