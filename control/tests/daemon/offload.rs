//! Established flows in the kernel, with the daemon, real stacks and real veths.

use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use control::netlink::NetNs;
use control::xdp::{Tcx, TcxConfig};
use fastpath::io::xsk::ethtool;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::keep::Transfer;
use crate::lab::{Lab, NODE4, OUTSIDE4, Options, Pod, Uplink, addr, ip, pod_mac, run, veth};
use crate::packet::{Tap, ethernet, holds, mac, udp_packet};
use crate::process::{Daemon, PATIENCE};
use crate::traffic::{Echo, answered, reaches, tcp};

/// In frames that must get nowhere.
const MARK: &[u8] = b"not by this address";

fn lab(test: &str) -> Option<Lab> {
    with(test, "")
}

fn with(test: &str, settings: &str) -> Option<Lab> {
    let options = Options {
        settings: format!("offload: kernel\n{settings}"),
        ..Options::default()
    };
    Lab::with(test, options)
}

fn offload(daemon: &Daemon) -> Value {
    daemon.state()["offload"].clone()
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

/// Waits until something of the daemon's state is so.
fn wait_until(daemon: &Daemon, what: &str, is_so: impl Fn(&Value) -> bool) {
    let start = Instant::now();
    loop {
        let now = offload(daemon);
        if is_so(&now) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{what}: {now:#}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A transfer whose both directions are in the kernel.
fn offloaded(daemon: &Daemon, from: (&NetNs, IpAddr), to: (&NetNs, IpAddr)) -> Transfer {
    let before = number(&offload(daemon)["inserted"]);
    let transfer = Transfer::start(from, to);
    // Those of another that was closed may be there still.
    wait_until(daemon, "both directions in the kernel", |now| {
        number(&now["inserted"]) >= before + 2
    });
    transfer.goes_on(transfer.received());
    transfer
}

fn removed(offload: &Value, why: &str) -> u64 {
    let all = offload["removed"].as_array().expect("a list");
    let one = all.iter().find(|it| it["why"] == why);
    one.map_or(0, |it| number(&it["count"]))
}

#[test]
fn the_kernel_carries_what_is_established() {
    carried(
        "offload::the_kernel_carries_what_is_established",
        Uplink::Veth,
    );
}

/// With an uplink of any kind.
pub(crate) fn carried(test: &str, uplink: Uplink) {
    let options = Options {
        uplink,
        settings: "offload: kernel\n".to_owned(),
        ..Options::default()
    };
    let Some(mut lab) = Lab::with(test, options) else {
        return;
    };
    println!("by {}", uplink.name());
    lab.masquerade();
    let (a, b) = (lab.pod(0), lab.pod(1));
    let mut daemon = Daemon::start(&lab);
    daemon.wait_for("interface=\"cali1\"");
    // XDP would turn it off.
    let segmentation = run(&a.netns, || ethtool::segmentation("eth0"));
    assert!(segmentation.expect("a veth"), "the pod's TSO stays on");

    // Between pods, and translated to the outside.
    for (from, to) in [
        ((&a.netns, a.v4()), (&b.netns, b.v4())),
        ((&a.netns, a.v4()), (&lab.wire, addr(OUTSIDE4))),
    ] {
        let transfer = offloaded(&daemon, from, to);
        let before = offload(&daemon);
        let received = transfer.received();
        // More than pollers could be said to have carried.
        while transfer.received()[1] < received[1] + (1 << 20) {
            transfer.goes_on(transfer.received());
        }
        let after = offload(&daemon);
        let hits = number(&after["hits"]) - number(&before["hits"]);
        let punted = number(&after["punted"]) - number(&before["punted"]);
        assert!(hits > 10 * punted.max(10), "{hits} there, {punted} here");
        transfer.finish();
    }
    tcp((&a.netns, a.v4()), (&b.netns, b.v4()), 8 << 20);
    wait_until(&daemon, "what is closed is forgotten", |now| {
        number(&now["flows_v4"]) == 0 && removed(now, "closing") > 0
    });
    let state = daemon.state();
    assert_eq!(state["accounting"]["balanced"], true, "{state:#}");
    daemon.finish();
}

#[test]
fn of_many_flows_each_packet_is_counted_once() {
    const COUNT: usize = 300;
    let Some(mut lab) = lab("offload::of_many_flows_each_packet_is_counted_once") else {
        return;
    };
    let (a, b) = (lab.pod(0), lab.pod(1));
    let mut daemon = Daemon::start(&lab);
    daemon.wait_for("interface=\"cali1\"");
    let echo = Echo::at(&b.netns, b.v4());
    reaches(&a.netns, a.v4(), echo.addr());
    let sockets: Vec<_> = (0..COUNT)
        .map(|_| {
            let socket = run(&a.netns, || UdpSocket::bind((a.v4(), 0))).expect("bind");
            socket.connect(echo.addr()).expect("connect");
            socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
            socket
        })
        .collect();
    let exchange = |socket: &UdpSocket| {
        socket.send(b"ping").expect("send");
        assert_eq!(socket.recv(&mut [0; 16]).expect("an answer"), 4);
    };
    for socket in &sockets {
        (0..6).for_each(|_| exchange(socket));
    }
    // More of them than are read one by one.
    wait_until(&daemon, "all in the kernel", |now| {
        number(&now["flows_v4"]) >= 2 * COUNT as u64
    });
    let before = number(&offload(&daemon)["hits"]);
    // Of each another number.
    let mut expected = BTreeMap::new();
    for (socket, more) in sockets.iter().zip(1..) {
        (0..more % 9).for_each(|_| exchange(socket));
        let port = socket.local_addr().expect("bound").port();
        expected.insert(u64::from(port), 6 + more % 9);
    }
    let hits = number(&offload(&daemon)["hits"]) - before;
    let sent: u64 = expected.values().map(|packets| packets - 6).sum();
    assert!(hits >= 2 * sent, "{hits}");
    let start = Instant::now();
    loop {
        let words = ["flows", "-o", "json", "--limit", "1000", "--match", "udp"];
        let output = daemon.caracal(&words);
        let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let flows = value["flows"].as_array().expect("a list");
        let is_right = |flow: &&Value| {
            let packets = expected.get(&number(&flow["src_port"]));
            let is_all = |side: &Value| {
                let packets = *packets.unwrap_or(&0);
                // A header of IPv4, one of UDP, and what was said.
                side["packets"] == packets && side["bytes"] == packets * 32
            };
            [&flow["original"], &flow["reply"]].into_iter().all(is_all)
        };
        let right = flows.iter().filter(is_right).count();
        if right == COUNT {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{right} are right: {value:#}");
        std::thread::sleep(Duration::from_millis(50));
    }
    daemon.finish();
}

#[test]
fn a_pod_that_goes_takes_its_flows_along() {
    let Some(mut lab) = lab("offload::a_pod_that_goes_takes_its_flows_along") else {
        return;
    };
    let (a, b, c) = (lab.pod(0), lab.pod(1), lab.pod(2));
    let mut daemon = Daemon::start(&lab);
    daemon.wait_for("interface=\"cali2\"");
    let gone = offloaded(&daemon, (&a.netns, a.v4()), (&b.netns, b.v4()));
    let stays = offloaded(&daemon, (&c.netns, c.v4()), (&lab.wire, addr(OUTSIDE4)));
    let skip = daemon.log_len();
    // The device stays, and is nobody's.
    lab.remove_endpoint(1);
    daemon.wait_after(skip, "no longer serving");
    wait_until(&daemon, "its flows are forgotten", |now| {
        number(&now["flows_v4"]) == 2
    });
    let stands = gone.received();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(gone.received(), stands, "nothing passes any more");
    stays.goes_on(stays.received());
    stays.finish();
    drop(gone);
    daemon.finish();
}

#[test]
fn without_the_daemon_flows_in_the_kernel_end_too() {
    let Some(mut lab) = lab("offload::without_the_daemon_flows_in_the_kernel_end_too") else {
        return;
    };
    let (a, b) = (lab.pod(0), lab.pod(1));
    let mut daemon = Daemon::start(&lab);
    daemon.wait_for("interface=\"cali1\"");
    let local = offloaded(&daemon, (&a.netns, a.v4()), (&b.netns, b.v4()));
    let out = offloaded(&daemon, (&a.netns, a.v4()), (&lab.wire, addr(OUTSIDE4)));
    daemon.kill();
    // What was under way arrives.
    std::thread::sleep(Duration::from_millis(200));
    let stands = [local.received(), out.received()];
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(
        [local.received(), out.received()],
        stands,
        "pods are closed"
    );
    let mut daemon = Daemon::start(&lab);
    for transfer in [local, out] {
        transfer.goes_on(transfer.received());
        transfer.finish();
    }
    daemon.finish();
}

#[test]
fn who_captures_sees_every_packet() {
    let Some(mut lab) = lab("offload::who_captures_sees_every_packet") else {
        return;
    };
    let (a, b) = (lab.pod(0), lab.pod(1));
    let mut daemon = Daemon::start(&lab);
    daemon.wait_for("interface=\"cali1\"");
    let transfer = offloaded(&daemon, (&a.netns, a.v4()), (&b.netns, b.v4()));
    let mut capture = daemon.command(&["capture"]);
    let capture = capture.arg("-w").arg(lab.dir.join("all.pcapng")).spawn();
    let mut capture = capture.expect("caracal");
    wait_until(&daemon, "all packets come to the pollers", |now| {
        now["paused"] == true && number(&now["flows_v4"]) == 0
    });
    let before = offload(&daemon);
    for _ in 0..3 {
        transfer.goes_on(transfer.received());
    }
    let now = offload(&daemon);
    assert_eq!(now["hits"], before["hits"], "none is the kernel's");
    assert!(number(&now["punted"]) > number(&before["punted"]));
    kill(Pid::from_raw(capture.id().cast_signed()), Signal::SIGINT).expect("SIGINT");
    assert!(capture.wait().expect("an end").success());
    // And afterwards it is the kernel's again.
    wait_until(&daemon, "in the kernel again", |now| {
        now["paused"] == false && number(&now["flows_v4"]) == 2
    });
    transfer.finish();
    daemon.finish();
}

/// As long as a pod's device lets it be, and longer than a frame.
#[test]
fn what_is_too_long_for_the_pollers_is_told_of() {
    let Some(mut lab) = lab("offload::what_is_too_long_for_the_pollers_is_told_of") else {
        return;
    };
    let pod = lab.pod(0);
    let mut daemon = Daemon::start(&lab);
    daemon.wait_for("interface=\"cali0\"");
    assert_eq!(offload(&daemon)["xsk"]["rx_dropped"], 0);
    run(&lab.node, || ip("link set cali0 mtu 4000"));
    run(&pod.netns, || ip("link set eth0 mtu 4000"));
    let tap = Tap::on(&pod.netns, "eth0");
    let packet = udp_packet(pod.v4(), addr(OUTSIDE4), 9, &[7; 3000]);
    let frame = ethernet([0xee; 6], mac(&pod_mac(pod.index)), 0x0800, &packet);
    for _ in 0..3 {
        tap.send(&frame);
    }
    wait_until(&daemon, "three are lost", |now| {
        number(&now["xsk"]["rx_dropped"]) == 3
    });
    // Nor is this any port's.
    let stray = ethernet([2, 0, 0xff, 0xff, 0xff, 0xff], [2; 6], 0x0800, &[7; 60]);
    Tap::on(&lab.node, "caracal-punt0").send(&stray);
    let drops = || {
        let drops = daemon.caracal(&["drops", "-o", "json"]);
        serde_json::from_slice::<Value>(&drops.stdout).expect("JSON")
    };
    let start = Instant::now();
    let drops = loop {
        let drops = drops();
        let mut all = drops["drops"].as_array().into_iter().flatten();
        if all.any(|it| it["reason"] == "port-down" && it["port"] == "caracal-punt1") {
            break drops;
        }
        assert!(start.elapsed() < PATIENCE, "{drops:#}");
        std::thread::sleep(Duration::from_millis(20));
    };
    let kernel = drops["kernel"].as_array().expect("a list");
    let punt = kernel.iter().find(|it| it["port"] == "caracal-punt1");
    let punt = punt.unwrap_or_else(|| panic!("{drops:#}"));
    assert_eq!(punt["xsk"]["rx_dropped"], 3, "{drops:#}");
    // Another device begins to count anew, and what was lost stays lost.
    let log = daemon.log_len();
    run(&lab.node, || ip("link del caracal-punt0"));
    daemon.wait_after(log, "made anew");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(offload(&daemon)["xsk"]["rx_dropped"], 3);
    daemon.finish();
}

/// Nothing can keep it from it; but who looks after the node learns of it.
#[test]
fn a_strangers_program_before_ours_is_told_of() {
    let Some(mut lab) = lab("offload::a_strangers_program_before_ours_is_told_of") else {
        return;
    };
    lab.pod(0);
    let mut daemon = Daemon::start(&lab);
    daemon.wait_for("interface=\"cali0\"");
    let said = "another tcx program runs before ours";
    let problem = |daemon: &Daemon| daemon.state()["problems"].to_string().contains(said);
    assert!(!problem(&daemon));
    let other = run(&lab.node, || {
        let mut other = Tcx::load(&TcxConfig::default()).expect("load");
        let attachment = other.attach_uplink("eth0").expect("attach");
        (other, attachment)
    });
    daemon.wait_for(said);
    assert!(problem(&daemon));
    drop(other);
    let start = Instant::now();
    while problem(&daemon) {
        assert!(start.elapsed() < PATIENCE, "it is gone");
        std::thread::sleep(Duration::from_millis(50));
    }
    daemon.finish();
}

#[test]
fn what_others_undo_is_put_back() {
    let Some(mut lab) = lab("offload::what_others_undo_is_put_back") else {
        return;
    };
    let (a, b) = (lab.pod(0), lab.pod(1));
    let mut daemon = Daemon::start(&lab);
    daemon.wait_for("interface=\"cali1\"");
    let outside = Echo::at(&lab.wire, addr(OUTSIDE4));
    reaches(&a.netns, a.v4(), outside.addr());
    for undo in ["link del caracal-punt0", "link set caracal-punt0 down"] {
        let skip = daemon.log_len();
        run(&lab.node, || ip(undo));
        daemon.wait_after(skip, "made anew");
        reaches(&a.netns, a.v4(), outside.addr());
        let inside = Echo::at(&b.netns, b.v4());
        reaches(&a.netns, a.v4(), inside.addr());
    }
    daemon.finish();
}

/// A datagram of the pod's flow, with another source MAC address, is no packet of that flow.
#[test]
fn a_flow_in_the_kernel_is_its_pods_alone() {
    let Some(mut lab) = lab("offload::a_flow_in_the_kernel_is_its_pods_alone") else {
        return;
    };
    let (a, b) = (lab.pod(0), lab.pod(1));
    let mut daemon = Daemon::start(&lab);
    daemon.wait_for("interface=\"cali1\"");
    let echo = Echo::at(&lab.wire, addr(OUTSIDE4));
    reaches(&a.netns, a.v4(), echo.addr());
    let wire = Tap::on(&lab.wire, "eth0");
    let frame = |from: &Pod, mac_of: &Pod| {
        let packet = udp_packet(a.v4(), addr(OUTSIDE4), 9, MARK);
        let source = mac(&pod_mac(mac_of.index));
        (
            Tap::on(&from.netns, "eth0"),
            ethernet([0xee; 6], source, 0x0800, &packet),
        )
    };
    let (own, right) = frame(&a, &a);
    // So many that the kernel has it, though nobody answers.
    for _ in 0..200 {
        own.send(&right);
        std::thread::sleep(Duration::from_millis(1));
    }
    wait_until(&daemon, "the flow is in the kernel", |now| {
        number(&now["flows_v4"]) > 0
    });
    wire.all(Duration::from_millis(200));
    for (from, mac_of) in [(&a, &b), (&b, &a), (&b, &b)] {
        let (tap, forged) = frame(from, mac_of);
        for _ in 0..20 {
            tap.send(&forged);
        }
    }
    let seen = wire.all(Duration::from_millis(300));
    let forged = seen.iter().find(|frame| holds(frame, MARK));
    assert_eq!(forged, None, "a forged datagram got out");
    daemon.finish();
}

#[test]
fn modes_take_over_from_each_other() {
    let Some(mut lab) = lab("offload::modes_take_over_from_each_other") else {
        return;
    };
    let (a, b) = (lab.pod(0), lab.pod(1));
    let with = std::fs::read_to_string(lab.config()).expect("read");
    let without = with.replace("offload: kernel", "offload: off");
    assert_ne!(with, without);
    let mut transfer = None;
    for (config, is_killed) in [
        (&with, false),
        (&without, true),
        (&with, true),
        (&without, false),
    ] {
        std::fs::write(lab.config(), config).expect("write");
        let mut daemon = Daemon::start(&lab);
        daemon.wait_for("interface=\"cali1\"");
        let going: Transfer = transfer
            .take()
            .unwrap_or_else(|| Transfer::start((&a.netns, a.v4()), (&b.netns, b.v4())));
        going.goes_on(going.received());
        transfer = Some(going);
        if is_killed {
            daemon.kill();
        } else {
            assert_eq!(daemon.terminate().code(), Some(0), "{}", daemon.log());
        }
        let to = Echo::at(&b.netns, b.v4()).addr();
        let closed = answered(&a.netns, a.v4(), to, Duration::from_millis(200));
        assert_eq!(closed, None, "closed without a daemon");
    }
    let mut daemon = Daemon::start(&lab);
    let going = transfer.expect("one");
    going.goes_on(going.received());
    going.finish();
    daemon.finish();
    // Nothing of the other mode is left.
    let links = run(&lab.node, || ip("link show"));
    assert!(!links.contains("caracal-punt"), "{links}");
}

#[test]
fn the_host_reaches_pods_and_pods_the_host() {
    let Some(mut lab) = lab("offload::the_host_reaches_pods_and_pods_the_host") else {
        return;
    };
    let pod = lab.pod(0);
    let mut daemon = Daemon::start(&lab);
    daemon.wait_for("interface=\"cali0\"");
    tcp((&lab.node, addr(NODE4)), (&pod.netns, pod.v4()), 1 << 20);
    tcp((&pod.netns, pod.v4()), (&lab.node, addr(NODE4)), 1 << 20);
    let state = daemon.state();
    let ports = state["ports"].as_array().expect("a list");
    for (name, mode) in [(&*veth(0), "tcx"), ("eth0", "tcx"), ("caracal0-dp", "copy")] {
        let is_so = |port: &&Value| port["name"] == name && port["mode"] == mode;
        assert!(ports.iter().any(|port| is_so(&port)), "{name}: {state:#}");
    }
    daemon.finish();
}
