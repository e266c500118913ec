//! The daemon ends, in order or not, and comes back.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Command;
use std::thread;
use std::time::Duration;

use control::netlink::{NeighbourState, Writer};

use crate::lab::{
    Lab, NODE4, NODE6, OUTSIDE4, OUTSIDE6, Options, Pod, WIRE4, WIRE6, addr, run, veth,
};
use crate::packet::{Tap, ethernet, holds, octets, udp_packet};
use crate::process::Daemon;
use crate::traffic::{Echo, Stream, answered, connect, reaches, tcp};

const PACE: Duration = Duration::from_millis(10);

/// Without a daemon nothing comes from the pod or to it, though the kernel forwards; the host's own traffic goes on.
fn assert_closed(lab: &Lab, pod: &Pod, host: Stream) {
    let wire = Tap::on(&lab.wire, "eth0");
    let inside = Tap::on(&pod.netns, "eth0");
    for (from, to) in [(pod.v4(), OUTSIDE4), (pod.v6(), OUTSIDE6)] {
        let echo = Echo::at(&lab.wire, addr(to));
        let answer = answered(&pod.netns, from, echo.addr(), Duration::from_millis(300));
        assert_eq!(answer, None, "{from} -> {to}");
    }
    for at in pod.both() {
        let echo = Echo::at(&pod.netns, at);
        let from = addr(if at.is_ipv4() { OUTSIDE4 } else { OUTSIDE6 });
        let answer = answered(&lab.wire, from, echo.addr(), Duration::from_millis(300));
        assert_eq!(answer, None, "{from} -> {at}");
    }
    // What the pod sends to the node's own MAC address reaches nothing either.
    let (from, to) = (pod.v4(), addr(WIRE4));
    let mac = crate::packet::mac(&crate::lab::pod_mac(pod.index));
    let frame = ethernet([0xee; 6], mac, 0x0800, &udp_packet(from, to, 9, b"closed?"));
    for _ in 0..10 {
        inside.send(&frame);
    }
    let seen = wire.all(Duration::from_millis(300));
    for from in pod.both() {
        let leaked = seen.iter().find(|frame| {
            // What the wire itself sends to the pod is seen too.
            holds(&frame[14..], &octets(from)) && frame[6..12] == eth0_mac(lab)
        });
        assert_eq!(leaked, None, "the kernel forwarded a pod's packet");
    }
    let at_pod = inside.all(Duration::from_millis(100));
    for from in [OUTSIDE4, OUTSIDE6] {
        let leaked = at_pod.iter().find(|frame| {
            frame[6..12] == [0xee; 6] && holds(&frame[14..34.min(frame.len())], &octets(addr(from)))
        });
        assert_eq!(leaked, None, "the kernel forwarded a packet to a pod");
    }
    let (sent, lost) = host.finish();
    assert!(sent > 10);
    assert_eq!(lost, 0, "of {sent} of the host's own datagrams");
    for (at, from) in [(WIRE4, NODE4), (WIRE6, NODE6)] {
        tcp((&lab.node, addr(from)), (&lab.wire, addr(at)), 1 << 16);
    }
}

fn eth0_mac(lab: &Lab) -> [u8; 6] {
    let links = crate::lab::run(&lab.node, || crate::lab::json("link show eth0"));
    crate::packet::mac(links[0]["address"].as_str().expect("an address"))
}

#[test]
fn after_sigkill_pods_stay_closed_and_flow_again() {
    let test = "crash::after_sigkill_pods_stay_closed_and_flow_again";
    let Some(mut lab) = Lab::new(test) else {
        return;
    };
    let pod = lab.pod(0);
    let outside = Echo::at(&lab.wire, addr(OUTSIDE4));
    let node_echo = Echo::at(&lab.wire, addr(WIRE4));
    let mut daemon = Daemon::start(&lab);
    reaches(&pod.netns, pod.v4(), outside.addr());

    // A connection that lives through it.
    let listener = crate::lab::run(&lab.wire, || TcpListener::bind((addr(OUTSIDE4), 0)));
    let listener = listener.expect("listen");
    let mut client = connect(&pod.netns, pod.v4(), listener.local_addr().expect("bound"));
    let (mut server, _) = listener.accept().expect("accept");
    server
        .set_read_timeout(Some(crate::process::PATIENCE))
        .expect("timeout");
    let mut exchange = || {
        client.write_all(b"one way").expect("write");
        let mut buffer = [0; 7];
        server.read_exact(&mut buffer).expect("read");
        server.write_all(b"the oth").expect("write back");
        client.read_exact(&mut buffer).expect("read back");
    };
    exchange();

    let host = Stream::start(&lab.node, addr(NODE4), node_echo.addr(), PACE);
    daemon.kill();
    drop(outside);
    assert_closed(&lab, &pod, host);

    let outside = Echo::at(&lab.wire, addr(OUTSIDE4));
    let mut daemon = Daemon::spawn(&lab);
    reaches(&pod.netns, pod.v4(), outside.addr());
    eprintln!(
        "kill -9: traffic flows {:?} after the start of the next",
        daemon.started.elapsed()
    );
    daemon.wait_for("ready");
    exchange();
    // The pod's own stack may still hold against its gateway that it was silent.
    let outside6 = Echo::at(&lab.wire, addr(OUTSIDE6));
    reaches(&pod.netns, pod.v6(), outside6.addr());
    tcp((&pod.netns, pod.v4()), (&lab.wire, addr(OUTSIDE4)), 1 << 18);
    tcp((&pod.netns, pod.v6()), (&lab.wire, addr(OUTSIDE6)), 1 << 18);
    daemon.finish();
}

#[test]
fn after_sigterm_pods_stay_closed_until_cleanup() {
    let test = "crash::after_sigterm_pods_stay_closed_until_cleanup";
    let Some(mut lab) = Lab::new(test) else {
        return;
    };
    let pod = lab.pod(0);
    let node_echo = Echo::at(&lab.wire, addr(WIRE6));
    let mut daemon = Daemon::start(&lab);
    {
        let outside = Echo::at(&lab.wire, addr(OUTSIDE6));
        reaches(&pod.netns, pod.v6(), outside.addr());
    }
    let host = Stream::start(&lab.node, addr(NODE6), node_echo.addr(), PACE);
    thread::sleep(PACE);
    assert_eq!(daemon.terminate().code(), Some(0), "{}", daemon.log());
    assert_closed(&lab, &pod, host);
    let output = lab.cleanup();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(said["opened"], 2, "the pod and the host's port: {said}");
    assert_eq!(lab.attached(), Vec::<String>::new());
    // The kernel's from now on.
    let outside = Echo::at(&lab.wire, addr(OUTSIDE4));
    reaches(&pod.netns, pod.v4(), outside.addr());
    assert_eq!(
        lab.cleanup().status.code(),
        Some(0),
        "nothing to clean up is no error"
    );
}

#[test]
fn neighbours_that_nobody_wants_any_more_are_not_asked_for() {
    let test = "crash::neighbours_that_nobody_wants_any_more_are_not_asked_for";
    let Some(mut lab) = Lab::new(test) else {
        return;
    };
    let pod = lab.pod(0);
    // By interface; those of the host's port are nobody's to resolve.
    let resolved = |lab: &Lab| {
        run(&lab.node, || {
            let mut writer = Writer::open().expect("netlink");
            let mut all = writer.own_neighbours().expect("list");
            all.retain(|it| it.state != NeighbourState::PERMANENT);
            all.into_iter().map(|it| it.ip).collect::<BTreeSet<_>>()
        })
    };
    let gateway = addr(WIRE4);
    let stranger = addr("10.244.1.77");
    let mut daemon = Daemon::start(&lab);
    let outside = Echo::at(&lab.wire, addr(OUTSIDE4));
    reaches(&pod.netns, pod.v4(), outside.addr());
    assert!(resolved(&lab).contains(&gateway));
    daemon.kill();
    // As if a packet to a pod had been waiting.
    run(&lab.node, || {
        let mut writer = Writer::open().expect("netlink");
        let link = writer.find_link(&veth(0)).expect("list").expect("a veth");
        writer
            .resolve_neighbour(link.ifindex, stranger)
            .expect("ask");
    });
    assert!(resolved(&lab).is_superset(&[gateway, stranger].into()));

    let mut daemon = Daemon::start(&lab);
    let left = resolved(&lab);
    assert!(
        left.contains(&gateway) && !left.contains(&stranger),
        "{left:?}"
    );
    reaches(&pod.netns, pod.v4(), outside.addr());
    assert_eq!(daemon.terminate().code(), Some(0), "{}", daemon.log());
    assert_eq!(resolved(&lab), BTreeSet::new());

    let mut daemon = Daemon::start(&lab);
    reaches(&pod.netns, pod.v4(), outside.addr());
    daemon.kill();
    assert!(resolved(&lab).contains(&gateway));
    assert_eq!(lab.cleanup().status.code(), Some(0));
    assert_eq!(resolved(&lab), BTreeSet::new());
}

#[test]
fn with_fail_mode_open_the_kernel_forwards_after_an_orderly_stop() {
    let test = "crash::with_fail_mode_open_the_kernel_forwards_after_an_orderly_stop";
    let options = Options {
        settings: "failMode: open\n".to_owned(),
        ..Options::default()
    };
    let Some(mut lab) = Lab::with(test, options) else {
        return;
    };
    let pod = lab.pod(0);
    let outside = [OUTSIDE4, OUTSIDE6].map(|at| Echo::at(&lab.wire, addr(at)));
    let inside = pod.both().map(|at| Echo::at(&pod.netns, at));
    let all_reached = || {
        for (at, echo) in pod.both().into_iter().zip(&outside) {
            reaches(&pod.netns, at, echo.addr());
        }
        for (from, echo) in [NODE4, NODE6].into_iter().zip(&inside) {
            reaches(&lab.node, addr(from), echo.addr());
        }
    };
    let mut daemon = Daemon::start(&lab);
    all_reached();
    assert_eq!(daemon.terminate().code(), Some(0), "{}", daemon.log());
    all_reached();
    // Who comes next takes it over, and a crash is what the manual says it is.
    let mut daemon = Daemon::start(&lab);
    all_reached();
    daemon.kill();
    let answer = answered(
        &pod.netns,
        pod.v4(),
        outside[0].addr(),
        Duration::from_millis(300),
    );
    assert_eq!(answer, None, "the answer ends at the host's port");
    assert_eq!(lab.cleanup().status.code(), Some(0));
    all_reached();
}

#[test]
fn pins_that_end_with_the_daemon_are_warned_of() {
    let test = "crash::pins_that_end_with_the_daemon_are_warned_of";
    let Some(mut lab) = Lab::new(test) else {
        return;
    };
    lab.pod(0);
    let warning = "pods are OPEN, without policy, after a stop";
    let mut daemon = Daemon::start(&lab);
    assert!(!daemon.log().contains(warning), "{}", daemon.log());
    daemon.finish();
    assert_eq!(lab.cleanup().status.code(), Some(0));
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c"]);
    command.args([
        "umount /sys/fs/bpf && exec \"$0\" \"$@\"",
        env!("CARGO_BIN_EXE_caracal"),
    ]);
    let mut daemon = Daemon::spawn_by(&lab, &mut command);
    daemon.wait_for("ready");
    assert_eq!(daemon.log().matches(warning).count(), 1, "{}", daemon.log());
    daemon.finish();
}

#[test]
fn cleanup_refuses_while_a_daemon_runs() {
    let Some(mut lab) = Lab::new("crash::cleanup_refuses_while_a_daemon_runs") else {
        return;
    };
    let pod = lab.pod(0);
    let mut daemon = Daemon::start(&lab);
    let output = lab.cleanup();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("already runs"),
        "{output:?}"
    );
    let outside = Echo::at(&lab.wire, addr(OUTSIDE4));
    reaches(&pod.netns, pod.v4(), outside.addr());
    daemon.finish();
}

#[test]
fn the_first_packet_comes_soon() {
    let Some(mut lab) = Lab::new("crash::the_first_packet_comes_soon") else {
        return;
    };
    let pod = lab.pod(0);
    let outside = Echo::at(&lab.wire, addr(OUTSIDE4));
    let stream = Stream::start(
        &pod.netns,
        pod.v4(),
        outside.addr(),
        Duration::from_millis(2),
    );
    // The kernel forwards until the daemon is there: only the daemon's own mark is proof.
    let mut daemon = Daemon::start(&lab);
    let ready = daemon.started.elapsed();
    let after = stream.wait_for_reply();
    eprintln!(
        "from start to ready: {ready:?}; to the first packet: {:?}",
        ready + after
    );
    assert!(daemon.started.elapsed() < Duration::from_secs(5));
    drop(stream);
    daemon.finish();
}

#[test]
fn pins_that_somebody_removes_are_put_back() {
    let Some(mut lab) = Lab::new("crash::pins_that_somebody_removes_are_put_back") else {
        return;
    };
    let pod = lab.pod(0);
    lab.pod_without_endpoint(1);
    let outside = Echo::at(&lab.wire, addr(OUTSIDE4));
    let node_echo = Echo::at(&lab.wire, addr(WIRE4));
    let mut daemon = Daemon::start(&lab);
    daemon.wait_for("no WorkloadEndpoint names this interface");
    reaches(&pod.netns, pod.v4(), outside.addr());
    let pins: BTreeSet<_> = lab.pins().into_iter().collect();
    assert_eq!(pins.len(), 3, "two pods and the host's port: {pins:?}");
    lab.remove_pins();
    daemon.wait_for("they are put back");
    assert_eq!(lab.pins().into_iter().collect::<BTreeSet<_>>(), pins);
    drop(outside);
    let host = Stream::start(&lab.node, addr(NODE4), node_echo.addr(), PACE);
    daemon.kill();
    assert_closed(&lab, &pod, host);
    let mut daemon = Daemon::start(&lab);
    daemon.finish();
}
