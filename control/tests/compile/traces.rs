//! What `caracal trace` says of tunnels and natOutgoing.

use super::{asked, asked_by, compiler, desired_with, kernel};

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
