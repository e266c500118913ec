//! A bond is an uplink: its members receive, and it sends.

use std::time::Duration;

use serde_json::Value;

use crate::host::all_reach_all;
use crate::lab::{Lab, OUTSIDE4, Options, Uplink, addr, ip, run};
use crate::process::Daemon;
use crate::traffic::{Echo, Stream, reaches};
use crate::virtual_machine::on_a_kernel_with;

const PACE: Duration = Duration::from_millis(20);

/// The members that the daemon says the bond has.
fn members(daemon: &Daemon) -> Vec<String> {
    let output = daemon.caracal(&["ports", "-o", "json"]);
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let mut ports = said["ports"].as_array().into_iter().flatten();
    let bond = ports.find(|port| port["name"] == "bond0");
    let members = bond.and_then(|port| port["members"].as_array());
    let names = members.into_iter().flatten().filter_map(Value::as_str);
    names.map(str::to_owned).collect()
}

#[test]
fn its_members_receive_come_and_go() {
    let test = "bond::its_members_receive_come_and_go";
    on_a_kernel_with("bond", test, || {
        let uplink = Uplink::Bond {
            mode: "active-backup",
        };
        let Some(mut lab) = Lab::with(
            test,
            Options {
                uplink,
                uplink_queues: 2,
                ..Options::default()
            },
        ) else {
            return;
        };
        lab.masquerade();
        let pods = [lab.pod(0), lab.pod(1)];
        let mut daemon = Daemon::start(&lab);
        all_reach_all(&lab, &pods);
        assert_eq!(members(&daemon), ["eth0", "eth1"]);
        // One's own address is translated, so answers are taken by their ports.
        let outside = Echo::at(&lab.wire, addr(OUTSIDE4));
        let stream = Stream::start(&pods[0].netns, pods[0].v4(), outside.addr(), PACE);
        stream.wait_for_reply();
        // Either cable is enough.
        for member in ["eth0", "eth1"] {
            run(&lab.wire, || ip(&format!("link set {member} down")));
            stream.wait_for_reply();
            run(&lab.wire, || ip(&format!("link set {member} up")));
            stream.wait_for_reply();
        }
        // A member goes, comes back, and the other goes.
        let log = daemon.log_len();
        run(&lab.node, || ip("link set eth1 nomaster"));
        daemon.wait_after(log, "INFO serving interface=\"bond0\"");
        assert_eq!(members(&daemon), ["eth0"]);
        stream.wait_for_reply();
        let log = daemon.log_len();
        run(&lab.node, || {
            ip("link set eth1 down");
            ip("link set eth1 master bond0");
        });
        daemon.wait_after(log, "INFO serving interface=\"bond0\"");
        assert_eq!(members(&daemon), ["eth0", "eth1"]);
        stream.wait_for_reply();
        let log = daemon.log_len();
        run(&lab.node, || ip("link set eth0 nomaster"));
        daemon.wait_after(log, "INFO serving interface=\"bond0\"");
        stream.wait_for_reply();
        drop(stream);
        // Without any there is nothing to receive by.
        let log = daemon.log_len();
        run(&lab.node, || ip("link set eth1 nomaster"));
        daemon.wait_after(log, "bond0: the bond has no members");
        assert!(!daemon.log().contains("already bound"), "{}", daemon.log());
        run(&lab.node, || {
            ip("link set eth1 down");
            ip("link set eth1 master bond0");
        });
        reaches(&pods[1].netns, pods[1].v4(), outside.addr());
        daemon.finish();
    });
}

/// LACP's own frames are the bond's: without them it has no member to send by.
#[test]
fn it_is_served_in_modes_that_hash_and_that_negotiate() {
    let test = "bond::it_is_served_in_modes_that_hash_and_that_negotiate";
    on_a_kernel_with("bond", test, || {
        for (mode, vxlan) in [("balance-xor", true), ("802.3ad", false)] {
            let options = Options {
                uplink: Uplink::Bond { mode },
                vxlan,
                ..Options::default()
            };
            let Some(mut lab) = Lab::with(test, options) else {
                return;
            };
            let pods = [lab.pod(0), lab.pod(1)];
            let mut daemon = Daemon::start(&lab);
            all_reach_all(&lab, &pods);
            let shown = run(&lab.node, || ip("-d link show bond0"));
            assert!(shown.contains(&format!("mode {mode}")), "{shown}");
            daemon.finish();
        }
    });
}
