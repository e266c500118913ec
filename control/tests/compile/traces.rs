//! What `caracal trace` says of tunnels and natOutgoing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;

use control::trace::{HostTable, trace};

use super::{ask, asked, asked_by, compiler, desired_with, ip, kernel, net};

#[test]
fn natoutgoing_is_done_by_the_interfaces_that_are_meant() {
    let kernel = kernel();
    for (filter, done) in [("eth0", true), ("e+", true), ("ens+", false)] {
        let felix = format!(
            "---
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {{name: default}}
spec: {{iptablesNATOutgoingInterfaceFilter: {filter}}}
"
        );
        let wanted = desired_with("natOutgoing: true", "192.168.0.12/24", &felix);
        let mut compiler = compiler(wanted, &kernel);
        let said = asked(&mut compiler, &kernel, "prod/web", "203.0.113.1");
        // The uplink of this kernel has no address to translate to.
        assert_eq!(said.contains("nat-no-address"), done, "{filter}: {said}");
        assert_eq!(said.contains("Verdict ALLOW"), !done, "{filter}: {said}");
    }
}

#[test]
fn a_trace_says_that_pods_make_no_tunnels() {
    let kernel = kernel();
    let may = "---
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: default}
spec: {allowIPIPPacketsFromWorkloads: true, allowVXLANPacketsFromWorkloads: true}
";
    for (may, tunnels) in [("", false), (may, true)] {
        let wanted = desired_with("vxlanMode: Always", "192.168.0.12/24", may);
        let mut compiler = compiler(wanted, &kernel);
        let mut said = |from, packet| asked_by(&mut compiler, &kernel, (from, "10.65.1.7"), packet);
        for tunnel in [("udp", 4789), ("4", 0)] {
            let said = said("prod/web", tunnel);
            let refused = said.contains("parse                dropped: A pod sent VXLAN or IPIP.")
                && said.contains("Verdict DROP  tunnel-from-pod")
                && !said.contains("flow entry");
            assert_eq!(refused, !tunnels, "{tunnel:?}: {said}");
            assert_eq!(
                said.contains("Verdict ALLOW"),
                tunnels,
                "{tunnel:?}: {said}"
            );
        }
        // Nothing that another node of Calico's would open; and not a pod of this node.
        for packet in [("udp", 4790), ("tcp", 4789), ("41", 0)] {
            let said = said("prod/web", packet);
            assert!(said.contains("Verdict ALLOW"), "{packet:?}: {said}");
        }
        let said = said("192.168.0.11", ("udp", 4789));
        assert!(said.contains("Verdict ALLOW"), "{said}");
    }
}

#[test]
fn a_trace_knows_what_the_stages_before_policy_drop() {
    let kernel = kernel();
    let open = "---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: all}
spec: {selector: all(), types: [Ingress, Egress], ingress: [{action: Allow}], egress: [{action: Allow}]}
";
    let wanted = desired_with("vxlanMode: Always", "192.168.0.12/24", open);
    let mut compiler = compiler(wanted, &kernel);
    for (from, to, said) in [
        ("203.0.113.1", "web", "Verdict ALLOW"),
        ("10.65.0.5", "web", "Verdict DROP  source-misplaced"),
        ("127.0.0.1", "web", "Verdict DROP  martian-source"),
        ("0.1.2.3", "web", "Verdict DROP  martian-source"),
        ("224.0.0.1", "web", "Verdict DROP  martian-source"),
        ("240.0.0.1", "web", "Verdict DROP  martian-source"),
        ("255.255.255.255", "web", "Verdict DROP  martian-source"),
        ("web", "127.0.0.1", "Verdict DROP  martian-destination"),
        ("web", "224.0.0.1", "Verdict DROP  multicast"),
        ("web", "255.255.255.255", "Verdict DROP  multicast"),
        ("web", "web", "Verdict DROP  same-interface"),
        (
            "10.65.1.7",
            "web",
            "10.65.1.7 is not of this node, out of a tunnel",
        ),
        (
            "203.0.113.1",
            "192.168.0.11",
            "Caracal does not see it\nVerdict UNSEEN",
        ),
        ("203.0.113.1", "203.0.113.2", "Verdict UNSEEN"),
        ("192.168.0.11", "203.0.113.2", "Verdict UNSEEN"),
    ] {
        let trace = asked(&mut compiler, &kernel, from, to);
        assert!(trace.contains(said), "{from} -> {to}: {trace}");
    }
}

#[test]
fn a_trace_needs_a_port_and_a_protocol_that_there_is() {
    let kernel = kernel();
    let wanted = desired_with("vxlanMode: Always", "192.168.0.12/24", "");
    let mut compiler = compiler(wanted, &kernel);
    for (packet, said) in [
        (("tcp", 0), "TCP needs a port"),
        (("132", 0), "SCTP needs a port"),
        (("0", 0), "unknown protocol `0`"),
        (("tcq", 80), "unknown protocol `tcq`"),
    ] {
        let trace = asked_by(&mut compiler, &kernel, ("web", "10.65.1.7"), packet);
        assert!(trace.contains(said), "{packet:?}: {trace}");
    }
}

#[test]
fn a_trace_says_what_untracked_policy_decides() {
    let kernel = kernel();
    let policy = "---
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: a-eth0, labels: {at: edge}}
spec: {node: a, interfaceName: eth0}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: raw}
spec:
  selector: at == 'edge'
  doNotTrack: true
  applyOnForward: true
  types: [Ingress]
  ingress:
  - {action: Deny, protocol: TCP, source: {nets: [203.0.113.9/32]}}
  - {action: Allow, protocol: TCP, destination: {ports: [80]}}
";
    let wanted = desired_with("vxlanMode: Always", "192.168.0.12/24", policy);
    let mut compiler = compiler(wanted, &kernel);
    let mut said = |from, port| asked_by(&mut compiler, &kernel, (from, "web"), ("tcp", port));
    let allowed = said("203.0.113.1", 80);
    for part in [
        "flow cache           not asked, and no entry is made: untracked policy decides\n",
        "untracked ingress of host endpoint a-eth0 allowed by tier default: GlobalNetworkPolicy raw, ingress rule 2 (Allow)",
        "ingress of prod/web",
    ] {
        assert!(allowed.contains(part), "{part}: {allowed}");
    }
    assert!(allowed.ends_with("Verdict ALLOW\n"), "{allowed}");
    let denied = said("203.0.113.9", 80);
    assert!(denied.contains("untracked policy decides"), "{denied}");
    assert!(denied.ends_with("Verdict DROP  policy-deny\n"), "{denied}");
    // A failsafe port is no decision.
    for port in [81, 22] {
        let tracked = said("203.0.113.1", port);
        assert!(!tracked.contains("untracked policy decides"), "{tracked}");
        assert!(tracked.contains("Would install flow entry"), "{tracked}");
    }
}

/// `UPDATE_EXPECTED=1 cargo test -p control --test compile` writes them anew; read the difference.
#[test]
fn a_trace_says_what_the_hosts_own_table_does() {
    let kernel = kernel();
    let policy = "---
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: a-eth0, labels: {at: edge}}
spec: {node: a, interfaceName: eth0, profiles: [shut]}
---
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: a-all, labels: {at: all}}
spec: {node: a, interfaceName: '*'}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: raw}
spec:
  selector: at == 'edge'
  doNotTrack: true
  applyOnForward: true
  types: [Ingress]
  ingress: [{action: Allow, protocol: UDP, destination: {ports: [53]}}]
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: early}
spec:
  selector: at == 'edge'
  preDNAT: true
  applyOnForward: true
  types: [Ingress]
  ingress: [{action: Deny, protocol: TCP, destination: {ports: ['30000:32767']}}]
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: edge}
spec:
  selector: at == 'edge'
  order: 5
  types: [Ingress, Egress]
  ingress:
  - {action: Log, protocol: TCP}
  - {action: Allow, protocol: TCP, destination: {ports: [8080]}}
  egress: [{action: Deny, destination: {nets: [203.0.113.8/32]}}, {action: Allow}]
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: onward}
spec:
  selector: at == 'edge'
  applyOnForward: true
  order: 9
  types: [Ingress]
  ingress: [{action: Deny, source: {nets: [203.0.113.1/32]}, destination: {nets: [203.0.113.0/24]}}]
---
apiVersion: projectcalico.org/v3
kind: StagedGlobalNetworkPolicy
metadata: {name: closed}
spec: {selector: at == 'edge', order: 2, types: [Ingress], ingress: [{action: Deny}]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: tunnels}
spec: {selector: at == 'all', types: [Egress], egress: [{action: Deny, protocol: UDP}, {action: Allow}]}
";
    let wanted = desired_with("vxlanMode: Always", "192.168.0.12/24", policy);
    let mut compiler = compiler(wanted, &kernel);
    let tables = compiler.tables(&kernel);
    let interfaces = BTreeMap::from([("eth0".to_owned(), "a-eth0".to_owned())]);
    let peers = BTreeSet::from([net("192.168.0.12/32")]);
    // As the kernel has routes.
    let route = |address| {
        let by = if address == ip("198.51.100.1") {
            "eth1"
        } else {
            "eth0"
        };
        Some(by.to_owned())
    };
    let table = HostTable {
        interfaces: &interfaces,
        peers: &peers,
        vxlan: Some(4789),
        is_in_force: true,
        route: &route,
    };
    let (mut text, mut json) = (String::new(), String::new());
    for (from, to, protocol, port) in [
        ("203.0.113.1", "host", "tcp", 8080),
        ("203.0.113.1", "host", "tcp", 9090),
        ("203.0.113.1", "host", "tcp", 22),
        ("203.0.113.1", "host", "tcp", 30080),
        ("203.0.113.1", "host", "udp", 53),
        ("host", "203.0.113.8", "tcp", 80),
        ("host", "203.0.113.9", "tcp", 80),
        // By an interface that has the endpoint for all of them.
        ("host", "198.51.100.1", "udp", 80),
        // Plain, and in a tunnel.
        ("10.65.1.7", "host", "tcp", 9090),
        ("host", "10.65.1.7", "udp", 80),
        ("host", "10.65.1.7", "tcp", 80),
        ("192.168.0.12", "host", "udp", 4789),
        ("203.0.113.9", "host", "udp", 4789),
        ("203.0.113.1", "203.0.113.2", "tcp", 80),
        // The table has no part in these.
        ("host", "host", "tcp", 80),
        ("host", "prod/web", "tcp", 80),
    ] {
        let ask = ask((from, to), (protocol, port));
        let trace = trace(&compiler, &tables, None, Some(table), &ask).expect("a trace");
        let _ = writeln!(text, "{trace}");
        json += &serde_json::to_string_pretty(&trace).expect("JSON");
        json.push('\n');
    }
    for (name, said) in [("trace-host.txt", text), ("trace-host.json", json)] {
        let path = format!("tests/golden/{name}");
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            fs::write(&path, &said).expect("write");
        }
        let agreed = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(said, agreed, "{name}");
    }
    let without = asked(&mut compiler, &kernel, "203.0.113.1", "host");
    assert!(without.contains("Verdict UNSEEN"), "{without}");
}
