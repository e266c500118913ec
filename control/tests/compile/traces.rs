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
