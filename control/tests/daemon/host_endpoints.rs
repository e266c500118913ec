//! Policy of host endpoints, where the daemon is told that forwarded traffic is all that it will be enforced on.

use std::time::{Duration, Instant};

use crate::lab::{Lab, NODE4, OUTSIDE4, Options, WIRE4, addr, ip, run};
use crate::process::{Daemon, PATIENCE};
use crate::traffic::{Echo, answered, reaches};

/// An address that the node gets later.
const LATER: &str = "203.0.113.77";

#[test]
fn forwarded_traffic_is_judged_once_the_interface_is_found() {
    let test = "host_endpoints::forwarded_traffic_is_judged_once_the_interface_is_found";
    let options = Options {
        settings: "hostEndpoints: forwarded-only\n".to_owned(),
        ..Options::default()
    };
    let Some(mut lab) = Lab::with(test, options) else {
        return;
    };
    let pod = lab.pod(0);
    lab.resource(
        "hosts.yaml",
        &format!(
            "apiVersion: projectcalico.org/v3\nkind: HostEndpoint\nmetadata: {{name: edge, labels: {{at: edge}}}}\n\
             spec: {{node: node1, expectedIPs: [{LATER}]}}\n---\n\
             apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: edge}}\n\
             spec:\n  selector: at == 'edge'\n  applyOnForward: true\n  types: [Egress]\n\
             \x20 egress: [{{action: Deny, destination: {{nets: [{OUTSIDE4}/32]}}}}, {{action: Allow}}]\n"
        ),
    );
    let (outside, wire) = (
        Echo::at(&lab.wire, addr(OUTSIDE4)),
        Echo::at(&lab.wire, addr(WIRE4)),
    );
    let mut daemon = Daemon::start(&lab);
    daemon.wait_for("a host endpoint is enforced on forwarded traffic only");
    // No uplink has its address yet.
    reaches(&pod.netns, pod.v4(), outside.addr());
    let show = |daemon: &Daemon| {
        let shown = daemon.caracal(&["policy", "show", "--endpoint", "edge"]);
        String::from_utf8_lossy(&shown.stdout).into_owned()
    };
    let shown = show(&daemon);
    assert!(shown.contains("no uplink, so not enforced"), "{shown}");

    run(&lab.node, || {
        ip(&format!("addr add {LATER}/32 dev eth0"));
    });
    let tried = Duration::from_millis(300);
    let start = Instant::now();
    while answered(&pod.netns, pod.v4(), outside.addr(), tried).is_some() {
        assert!(start.elapsed() < PATIENCE, "it is never enforced");
    }
    reaches(&pod.netns, pod.v4(), wire.addr());
    // The host's own packets do not come by here.
    reaches(&lab.node, addr(NODE4), outside.addr());
    let shown = show(&daemon);
    assert!(
        shown.contains("HostEndpoint edge (eth0, node node1), for what is forwarded"),
        "{shown}"
    );
    let drops = daemon.caracal(&["drops"]);
    let drops = String::from_utf8_lossy(&drops.stdout);
    assert!(
        drops.contains("GlobalNetworkPolicy edge, egress rule 1 (Deny)"),
        "{drops}"
    );
    daemon.finish();
}
