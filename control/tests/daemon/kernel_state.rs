//! Routes and neighbours of the kernel are followed live.

use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab::{Lab, OUTSIDE4, Pod, WIRE4, WIRE6, addr, batch, ip, run};
use crate::packet::{Tap, octets};
use crate::process::{Daemon, PATIENCE};
use crate::traffic::{Echo, Stream, reaches};

const PACE: Duration = Duration::from_millis(10);

/// Sends a datagram from the pod.
fn send(pod: &Pod, to: &str, data: &[u8]) {
    let socket = run(&pod.netns, || UdpSocket::bind((pod.v4(), 0))).expect("bind");
    socket.send_to(data, (addr(to), 9)).expect("send");
}

/// Waits for an ICMP "unreachable" of this code from Calico's gateway.
fn wait_for_unreachable(tap: &Tap, code: u8) {
    let gateway = octets(addr("169.254.1.1"));
    tap.wait_for("ICMP unreachable", |frame| {
        frame.len() > 36
            && frame[12..14] == [8, 0]
            && frame[23] == 1
            && frame[26..30] == gateway[..]
            && frame[34..36] == [3, code]
    });
}

#[test]
fn a_gateway_with_a_new_address_is_followed() {
    let Some(mut lab) = Lab::new("kernel_state::a_gateway_with_a_new_address_is_followed") else {
        return;
    };
    let pod = lab.pod(0);
    let outside = Echo::at(&lab.wire, addr(OUTSIDE4));
    let mut daemon = Daemon::start(&lab);
    reaches(&pod.netns, pod.v4(), outside.addr());
    let stream = Stream::start(&pod.netns, pod.v4(), outside.addr(), PACE);
    for last in [1, 2, 3] {
        run(&lab.wire, || {
            ip(&format!("link set eth0 address 02:00:00:00:0f:{last:02x}"));
        });
        // As the kernel would find out by itself within half a minute.
        run(&lab.node, || ip("neigh flush dev eth0"));
        let time = stream.wait_for_reply();
        eprintln!("new MAC address of the gateway: traffic after {time:?}");
    }
    daemon.finish();
}

#[test]
fn a_gateway_that_announces_its_new_address_is_followed() {
    let test = "kernel_state::a_gateway_that_announces_its_new_address_is_followed";
    let Some(mut lab) = Lab::new(test) else {
        return;
    };
    let pod = lab.pod(0);
    let outside = Echo::at(&lab.wire, addr(OUTSIDE4));
    let mut daemon = Daemon::start(&lab);
    reaches(&pod.netns, pod.v4(), outside.addr());
    let stream = Stream::start(&pod.netns, pod.v4(), outside.addr(), PACE);
    run(&lab.wire, || {
        // The kernel sends a gratuitous ARP when it is told to.
        crate::lab::sysctl("ipv4/conf/eth0/arp_notify", "1");
        ip("link set eth0 address 02:00:00:00:0f:09");
    });
    let time = stream.wait_for_reply();
    eprintln!("announced MAC address of the gateway: traffic after {time:?}");
    daemon.finish();
}

#[test]
fn a_route_that_changes_is_followed() {
    let Some(mut lab) = Lab::new("kernel_state::a_route_that_changes_is_followed") else {
        return;
    };
    let pod = lab.pod(0);
    let second = lab.extra("wire2");
    // A second gateway on the same link, behind a bridge of the wire's.
    run(&lab.wire, || {
        batch(&format!(
            "link add sw type bridge forward_delay 0 mcast_snooping 0\n\
             link add toward type veth peer name eth0 netns {}\n\
             link set toward master sw up\n\
             link set sw up\n\
             addr flush dev eth0\n\
             link set eth0 master sw\n\
             addr add {WIRE4}/24 dev sw\n\
             addr add {WIRE6}/64 dev sw nodad\n\
             route replace 10.244.0.0/16 via 192.0.2.1\n",
            lab.part("wire2")
        ));
    });
    run(&second, || {
        batch(&format!(
            "link set lo up\nlink set eth0 up\naddr add 192.0.2.3/24 dev eth0\naddr add {OUTSIDE4}/32 dev lo\n\
             route add 10.244.0.0/16 via 192.0.2.1\n"
        ));
    });
    let mut daemon = Daemon::start(&lab);
    let first_echo = Echo::at(&lab.wire, addr(OUTSIDE4));
    reaches(&pod.netns, pod.v4(), first_echo.addr());
    drop(first_echo);
    let second_echo = Echo::at(&second, addr(OUTSIDE4));
    run(&lab.node, || ip("route replace default via 192.0.2.3"));
    let time = reaches(&pod.netns, pod.v4(), second_echo.addr());
    eprintln!("another default route: traffic after {time:?}");
    // A longer prefix counts more.
    drop(second_echo);
    let first_echo = Echo::at(&lab.wire, addr(OUTSIDE4));
    run(&lab.node, || {
        ip(&format!("route add 198.51.100.0/24 via {WIRE4}"))
    });
    reaches(&pod.netns, pod.v4(), first_echo.addr());
    daemon.finish();
}

#[test]
fn without_a_route_the_network_is_unreachable() {
    let Some(mut lab) = Lab::new("kernel_state::without_a_route_the_network_is_unreachable") else {
        return;
    };
    let pod = lab.pod(0);
    let outside = Echo::at(&lab.wire, addr(OUTSIDE4));
    let mut daemon = Daemon::start(&lab);
    reaches(&pod.netns, pod.v4(), outside.addr());
    let tap = Tap::on(&pod.netns, "eth0");
    run(&lab.node, || ip("route del default"));
    // The kernel's message may be under way still.
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(500) {
        send(&pod, OUTSIDE4, b"nowhere");
        std::thread::sleep(Duration::from_millis(100));
    }
    wait_for_unreachable(&tap, 0);
    for (kind, code) in [("unreachable", 1), ("prohibit", 13)] {
        run(&lab.node, || {
            ip(&format!("route replace {kind} 198.51.100.0/24"))
        });
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(500) {
            send(&pod, OUTSIDE4, b"nowhere");
            std::thread::sleep(Duration::from_millis(100));
        }
        wait_for_unreachable(&tap, code);
    }
    run(&lab.node, || {
        ip("route del prohibit 198.51.100.0/24");
        ip(&format!("route add default via {WIRE4}"));
    });
    reaches(&pod.netns, pod.v4(), outside.addr());
    daemon.finish();
}

#[test]
fn an_unknown_neighbour_is_waited_for() {
    let Some(mut lab) = Lab::new("kernel_state::an_unknown_neighbour_is_waited_for") else {
        return;
    };
    let pod = lab.pod(0);
    // On the link, and never heard of by the node.
    run(&lab.wire, || ip("addr add 192.0.2.77/24 dev eth0"));
    let mut daemon = Daemon::start(&lab);
    let receiver = run(&lab.wire, || UdpSocket::bind((addr("192.0.2.77"), 9))).expect("bind");
    receiver
        .set_read_timeout(Some(crate::process::PATIENCE))
        .expect("timeout");
    let socket = run(&pod.netns, || UdpSocket::bind((pod.v4(), 0))).expect("bind");
    for byte in 0..3_u8 {
        socket.send_to(&[byte], "192.0.2.77:9").expect("send");
    }
    for byte in 0..3_u8 {
        let mut buffer = [0xff; 8];
        let (len, from) = receiver
            .recv_from(&mut buffer)
            .expect("the packets that waited");
        assert_eq!((len, buffer[0], from.ip()), (1, byte, pod.v4()), "in order");
    }
    // And one that nobody has.
    let tap = Tap::on(&pod.netns, "eth0");
    let start = Instant::now();
    send(&pod, "192.0.2.200", b"anybody?");
    wait_for_unreachable(&tap, 1);
    eprintln!(
        "nobody there: ICMP host unreachable after {:?}",
        start.elapsed()
    );
    let icmp: IpAddr = addr("2001:db8::77");
    run(&lab.wire, || {
        ip(&format!("addr add {icmp}/64 dev eth0 nodad"))
    });
    let echo = Echo::at(&lab.wire, icmp);
    reaches(&pod.netns, pod.v6(), echo.addr());
    daemon.finish();
}

#[test]
fn an_mtu_that_outgrows_the_frames_is_told() {
    let Some(mut lab) = Lab::new("kernel_state::an_mtu_that_outgrows_the_frames_is_told") else {
        return;
    };
    let pod = lab.pod(0);
    let outside = Echo::at(&lab.wire, addr(OUTSIDE4));
    let mut daemon = Daemon::start(&lab);
    let problems = |daemon: &Daemon| daemon.state()["problems"].clone();
    assert_eq!(problems(&daemon).as_array().map(Vec::len), Some(0));
    run(&lab.node, || ip("link set eth0 mtu 3000"));
    daemon.wait_for("longer packets are lost on the way in: eth0: MTU 3000 does not fit");
    let said = problems(&daemon);
    assert_eq!(said[0]["interface"], "eth0", "{said}");
    let message = said[0]["message"].as_str().unwrap_or_default();
    assert!(
        message.contains("does not fit frames of 2048 bytes"),
        "{said}"
    );
    // The others are not.
    reaches(&pod.netns, pod.v4(), outside.addr());
    run(&lab.node, || ip("link set eth0 mtu 1500"));
    let start = Instant::now();
    while problems(&daemon) != Value::Array(Vec::new()) {
        assert!(start.elapsed() < PATIENCE, "{}", problems(&daemon));
    }
    daemon.finish();
}
