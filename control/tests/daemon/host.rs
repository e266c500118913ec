//! The host is a port: it and the pods reach each other, and remote pods are reached through the tunnel.

use std::process::{Command, Output};

use crate::lab::{
    Lab, NODE4, NODE6, OUTSIDE4, OUTSIDE6, Options, Pod, REMOTE4, TUNNEL4, WIRE4, addr, batch, ip,
    run,
};
use crate::packet::{Tap, holds, octets};
use crate::process::Daemon;
use crate::traffic::{Echo, reaches, tcp};

#[test]
fn host_and_pod_reach_each_other() {
    let Some(mut lab) = Lab::new("host::host_and_pod_reach_each_other") else {
        return;
    };
    let pods = [lab.pod(0), lab.pod(1)];
    let mut daemon = Daemon::start(&lab);
    for pod in &pods {
        for (host, pod_addr) in [(addr(NODE4), pod.v4()), (addr(NODE6), pod.v6())] {
            let inside = Echo::at(&pod.netns, pod_addr);
            reaches(&lab.node, host, inside.addr());
            let outside = Echo::at(&lab.node, host);
            reaches(&pod.netns, pod_addr, outside.addr());
            tcp((&pod.netns, pod_addr), (&lab.node, host), 1 << 18);
            tcp((&lab.node, host), (&pod.netns, pod_addr), 1 << 18);
        }
    }
    daemon.finish();
}

#[test]
fn pods_reach_each_other_and_the_outside() {
    let Some(mut lab) = Lab::new("host::pods_reach_each_other_and_the_outside") else {
        return;
    };
    let pods = [lab.pod(0), lab.pod(1)];
    let mut daemon = Daemon::start(&lab);
    all_reach_all(&lab, &pods);
    daemon.finish();
}

/// Two pods reach each other and the outside, and are reached from there, by TCP.
pub(crate) fn all_reach_all(lab: &Lab, [a, b]: &[Pod; 2]) {
    for (at, other, outside) in [(a.v4(), b.v4(), OUTSIDE4), (a.v6(), b.v6(), OUTSIDE6)] {
        tcp((&a.netns, at), (&b.netns, other), 1 << 18);
        tcp((&b.netns, other), (&a.netns, at), 1 << 18);
        tcp((&a.netns, at), (&lab.wire, addr(outside)), 1 << 18);
        tcp(
            (&lab.wire, addr(outside_source(at))),
            (&a.netns, at),
            1 << 18,
        );
    }
}

/// With natOutgoing echo replies and what comes to its ports go through the dataplane, which hands on what is the host's: here
/// over a port that has no tunnel address.
#[test]
fn the_host_keeps_its_answers_while_pods_are_masqueraded() {
    let Some(mut lab) = Lab::new("host::the_host_keeps_its_answers_while_pods_are_masqueraded")
    else {
        return;
    };
    lab.masquerade();
    let pod = lab.pod(0);
    let mut daemon = Daemon::start(&lab);
    let outside = Echo::at(&lab.wire, addr(OUTSIDE4));
    reaches(&pod.netns, pod.v4(), outside.addr());
    let pinged = run(&lab.node, || ping(OUTSIDE4));
    assert!(pinged.status.success(), "{pinged:?}");
    // Its port is one of natOutgoing's until the daemon sees that somebody listens.
    let inside = Echo::at(&lab.node, addr(NODE4));
    reaches(&lab.wire, addr(WIRE4), inside.addr());
    daemon.finish();
}

fn ping(to: &str) -> Output {
    Command::new("ping")
        .args(["-n", "-c", "3", "-i", "0.1", "-W", "1", to])
        .output()
        .expect("ping")
}

/// The address that the wire speaks to a pod from.
fn outside_source(pod: std::net::IpAddr) -> &'static str {
    if pod.is_ipv4() {
        WIRE4
    } else {
        crate::lab::WIRE6
    }
}

#[test]
fn the_host_reaches_remote_pods_from_its_tunnel_address() {
    let test = "host::the_host_reaches_remote_pods_from_its_tunnel_address";
    let options = Options {
        vxlan: true,
        ..Options::default()
    };
    let Some(mut lab) = Lab::with(test, options) else {
        return;
    };
    let pod = lab.pod(0);
    // The kernel's own VXLAN is the other node.
    let mac = control_mac("node1");
    run(&lab.wire, || {
        batch(&format!(
            "route del 10.244.0.0/16\n\
             link add vxlan.calico address {} type vxlan id 4096 dev eth0 local {WIRE4} dstport 4789 nolearning\n\
             addr add 10.244.9.1/32 dev vxlan.calico\n\
             addr add {REMOTE4}/32 dev lo\n\
             link set vxlan.calico up\n\
             neigh add {TUNNEL4} lladdr {mac} nud permanent dev vxlan.calico\n\
             route add 10.244.1.0/24 via {TUNNEL4} dev vxlan.calico onlink\n",
            control_mac("node2"),
        ));
        let fdb = std::process::Command::new("bridge")
            .args([
                "fdb",
                "append",
                &mac,
                "dev",
                "vxlan.calico",
                "dst",
                NODE4,
                "self",
                "permanent",
            ])
            .status();
        assert!(fdb.expect("bridge").success());
    });
    let mut daemon = Daemon::start(&lab);
    let wire = Tap::on(&lab.wire, "eth0");
    let remote = Echo::at(&lab.wire, addr(REMOTE4));
    reaches(&lab.node, addr("0.0.0.0"), remote.addr());
    let frame = wire.wait_for("packet from the tunnel address", |frame| {
        holds(frame, &octets(addr(REMOTE4))) && frame.len() > 64 && frame[23] == 17
    });
    // Ethernet, outer IPv4, UDP, VXLAN, Ethernet, inner IPv4.
    assert_eq!(
        (&frame[26..30], &frame[30..34]),
        (&octets(addr(NODE4))[..], &octets(addr(WIRE4))[..])
    );
    assert_eq!(frame[36..38], 4789_u16.to_be_bytes());
    assert_eq!(
        (&frame[76..80], &frame[80..84]),
        (&octets(addr(TUNNEL4))[..], &octets(addr(REMOTE4))[..])
    );
    tcp(
        (&lab.node, addr(TUNNEL4)),
        (&lab.wire, addr(REMOTE4)),
        1 << 17,
    );
    tcp((&pod.netns, pod.v4()), (&lab.wire, addr(REMOTE4)), 1 << 17);
    daemon.finish();
}

/// The MAC address that Calico gives a node's VXLAN device.
fn control_mac(node: &str) -> String {
    control::calico::vtep_mac(node).to_string()
}

/// As systemd-networkd does with what is not its own, unless it is told not to.
#[test]
fn deleted_rules_and_routes_are_put_back() {
    let Some(mut lab) = Lab::new("host::deleted_rules_and_routes_are_put_back") else {
        return;
    };
    let pod = lab.pod(0);
    let mut daemon = Daemon::start(&lab);
    let ways = || {
        run(&lab.node, || {
            ["rule show pref 100", "route show table 4242"]
                .map(|what| ["-4", "-6"].map(|family| ip(&format!("{family} {what}"))))
        })
    };
    let whole = ways();
    assert!(
        whole.as_flattened().iter().all(|way| !way.is_empty()),
        "{whole:?}"
    );
    for deletion in ["rule del pref 100", "route flush table 4242"] {
        for family in ["-4", "-6"] {
            let lines = daemon.log_len();
            run(&lab.node, || ip(&format!("{family} {deletion}")));
            daemon.wait_after(lines, "they are put back");
            assert_eq!(ways(), whole, "after {family} {deletion}");
        }
    }
    for (host, at) in [(addr(NODE4), pod.v4()), (addr(NODE6), pod.v6())] {
        let inside = Echo::at(&pod.netns, at);
        reaches(&lab.node, host, inside.addr());
    }
    // Said for each deletion and no more: what is there is as it should be.
    let lines = daemon.log_len();
    std::thread::sleep(std::time::Duration::from_millis(2500));
    let log = daemon.log();
    let since: Vec<_> = log.lines().skip(lines).collect();
    assert!(
        since.iter().all(|line| !line.contains("put back")),
        "{since:?}"
    );
    assert_eq!(daemon.state()["problems"].as_array().map(Vec::len), Some(0));
    daemon.finish();
}
