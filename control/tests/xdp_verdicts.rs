//! Every class of packet through the loaded programs (`BPF_PROG_TEST_RUN`), with a socket bound and without.
//!
//! The kernel runs a program only on frames of at least an Ethernet header, so runts begin at 14 bytes; shorter ones
//! never reach a program in production either.

mod xdp_support;

use std::net::IpAddr;

use control::xdp::{
    EndpointConfig, EndpointProgram, FailMode, NicConfig, NicCounters, NicProgram, PinDir, Verdict,
};
use fastpath::io::xsk::test_support::skipped_without_root;
use xdp_support::frames::*;
use xdp_support::socket::XdpSocket;
use xdp_support::{ifindex, ip, isolated};

/// A frame, a name for it, and how many of its first bytes make it ours; `None`: it is the kernel's.
type Case = (&'static str, Vec<u8>, Option<usize>);

const TO_ADDRESSES4: usize = 14 + 20;
const TO_ADDRESSES6: usize = 14 + 40;
const TO_UDP4: usize = TO_ADDRESSES4 + 8;
const TO_UDP6: usize = TO_ADDRESSES6 + 8;

fn cases() -> Vec<Case> {
    let v4 = |from, to, protocol, payload: &[u8]| V4::new(from, to, protocol).frame(payload);
    let vxlan = udp(VXLAN_PORT);
    let options = |to, payload: &[u8]| {
        let header = V4 {
            options: 12,
            ..V4::new(PEER4, to, UDP)
        };
        header.frame(payload)
    };
    let fragment = |from, to, protocol, fragment| {
        let header = V4 {
            fragment,
            ..V4::new(from, to, protocol)
        };
        header.frame(&udp(VXLAN_PORT))
    };
    let (first, later, last) = (0x2000, 0x2010, 0x0010);
    let mut short_header = v4(PEER4, POD4, TCP, &tcp(1, 80));
    short_header[14] = 0x44;
    let mut wrong_version4 = v4(PEER4, POD4, TCP, &tcp(1, 80));
    wrong_version4[14] = 0x65;
    let mut wrong_version6 = ipv6(PEER6, POD6, TCP, &tcp(1, 80));
    wrong_version6[14] = 0x40;
    vec![
        // Ours.
        (
            "TCP to a pod",
            v4(PEER4, POD4, TCP, &tcp(1, 80)),
            Some(TO_ADDRESSES4),
        ),
        (
            "ICMP to a pod",
            v4(OTHER4, POD4, ICMP, &[8, 0, 0, 0, 0, 1, 0, 1]),
            Some(TO_ADDRESSES4),
        ),
        (
            "options to a pod",
            options(POD4, &udp(53)),
            Some(TO_ADDRESSES4),
        ),
        (
            "first fragment to a pod",
            fragment(PEER4, POD4, UDP, first),
            Some(TO_ADDRESSES4),
        ),
        (
            "later fragment to a pod",
            fragment(PEER4, POD4, UDP, later),
            Some(TO_ADDRESSES4),
        ),
        (
            "last fragment to a pod",
            fragment(PEER4, POD4, UDP, last),
            Some(TO_ADDRESSES4),
        ),
        (
            "IPv6 TCP to a pod",
            ipv6(PEER6, POD6, TCP, &tcp(1, 80)),
            Some(TO_ADDRESSES6),
        ),
        (
            "IPv6 extension header to a pod",
            ipv6(PEER6, POD6, HOP_BY_HOP, &extension(TCP, &tcp(1, 80))),
            Some(TO_ADDRESSES6),
        ),
        (
            "IPv6 fragment to a pod",
            ipv6(PEER6, POD6, FRAGMENT6, &extension(TCP, &tcp(1, 80))),
            Some(TO_ADDRESSES6),
        ),
        ("VXLAN to us", v4(PEER4, LOCAL4, UDP, &vxlan), Some(TO_UDP4)),
        (
            "VXLAN to us behind options",
            options(LOCAL4, &vxlan),
            Some(TO_UDP4 + 12),
        ),
        (
            "first fragment of VXLAN to us",
            fragment(PEER4, LOCAL4, UDP, first),
            Some(TO_UDP4),
        ),
        (
            "VXLAN over IPv6 to us",
            ipv6(PEER6, LOCAL6, UDP, &vxlan),
            Some(TO_UDP6),
        ),
        (
            "IPIP to us",
            v4(PEER4, LOCAL4, IPIP, &v4(POD4, POD4, TCP, &[])[14..]),
            Some(TO_ADDRESSES4),
        ),
        (
            "later fragment of IPIP to us",
            fragment(PEER4, LOCAL4, IPIP, later),
            Some(TO_ADDRESSES4),
        ),
        (
            "a pod's TCP to us",
            v4(POD4, LOCAL4, TCP, &tcp(80, 1)),
            Some(TO_ADDRESSES4),
        ),
        (
            "a pod's ICMP to us",
            v4(POD4, LOCAL4, ICMP, &[0, 0, 0, 0, 0, 1, 0, 1]),
            Some(TO_ADDRESSES4),
        ),
        (
            "a pod's fragment to us",
            fragment(POD4, LOCAL4, UDP, later),
            Some(TO_ADDRESSES4),
        ),
        (
            "an IPv6 pod's TCP to us",
            ipv6(POD6, LOCAL6, TCP, &tcp(80, 1)),
            Some(TO_ADDRESSES6),
        ),
        // The kernel's.
        ("ARP for us", arp(LOCAL4), None),
        ("ARP for a pod", arp(POD4), None),
        ("SSH to us", v4(PEER4, LOCAL4, TCP, &tcp(50_000, 22)), None),
        ("BGP to us", v4(PEER4, LOCAL4, TCP, &tcp(179, 50_000)), None),
        ("DNS reply to us", v4(OTHER4, LOCAL4, UDP, &udp(53)), None),
        ("DHCP reply to us", v4(PEER4, LOCAL4, UDP, &udp(68)), None),
        (
            "ping to us",
            v4(PEER4, LOCAL4, ICMP, &[8, 0, 0, 0, 0, 1, 0, 1]),
            None,
        ),
        ("VXLAN to another", v4(PEER4, OTHER4, UDP, &vxlan), None),
        (
            "VXLAN on another port",
            v4(PEER4, LOCAL4, UDP, &udp(8472)),
            None,
        ),
        (
            "TCP to the VXLAN port",
            v4(PEER4, LOCAL4, TCP, &tcp(1, VXLAN_PORT)),
            None,
        ),
        (
            "later fragment of VXLAN to us",
            fragment(PEER4, LOCAL4, UDP, later),
            None,
        ),
        (
            "last fragment of VXLAN to us",
            fragment(PEER4, LOCAL4, UDP, last),
            None,
        ),
        (
            "IPIP to another",
            v4(PEER4, OTHER4, IPIP, &[0x45; 20]),
            None,
        ),
        (
            "a pod's TCP to another",
            v4(POD4, OTHER4, TCP, &tcp(80, 1)),
            None,
        ),
        (
            "VXLAN over IPv6 to another",
            ipv6(PEER6, OTHER6, UDP, &vxlan),
            None,
        ),
        (
            "VXLAN over IPv6 on another port",
            ipv6(PEER6, LOCAL6, UDP, &udp(8472)),
            None,
        ),
        (
            "VXLAN over IPv6 behind an extension header",
            ipv6(PEER6, LOCAL6, HOP_BY_HOP, &extension(UDP, &vxlan)),
            None,
        ),
        (
            "fragment of VXLAN over IPv6",
            ipv6(PEER6, LOCAL6, FRAGMENT6, &extension(UDP, &vxlan)),
            None,
        ),
        (
            "TCP over IPv6 to the VXLAN port",
            ipv6(PEER6, LOCAL6, TCP, &tcp(1, VXLAN_PORT)),
            None,
        ),
        (
            "IPIP over IPv6",
            ipv6(PEER6, LOCAL6, IPIP, &[0x45; 20]),
            None,
        ),
        (
            "SSH over IPv6",
            ipv6(PEER6, LOCAL6, TCP, &tcp(50_000, 22)),
            None,
        ),
        (
            "neighbour solicitation",
            ipv6(PEER6, LOCAL6, ICMP6, &[135; 24]),
            None,
        ),
        (
            "VLAN to a pod",
            vlan(&v4(PEER4, POD4, TCP, &tcp(1, 80))),
            None,
        ),
        (
            "VLAN VXLAN to us",
            vlan(&v4(PEER4, LOCAL4, UDP, &vxlan)),
            None,
        ),
        (
            "broadcast frame to a pod",
            to_broadcast(&v4(PEER4, POD4, TCP, &tcp(1, 80))),
            None,
        ),
        ("a header length of 16", short_header, None),
        ("version 6 in an IPv4 frame", wrong_version4, None),
        ("version 4 in an IPv6 frame", wrong_version6, None),
        ("an unknown EtherType", ethernet(0x88cc, &[0xff; 46]), None),
        (
            "nothing but an Ethernet header",
            ethernet(0x0800, &[]),
            None,
        ),
    ]
}

/// The loopback device's index in every network namespace.
const LO: u32 = 1;

fn nic() -> NicProgram {
    let mut nic = NicProgram::load(&NicConfig {
        vxlan_port: Some(VXLAN_PORT),
    })
    .expect("load");
    nic.sync_pods4([(POD4, 24)]).expect("pods4");
    nic.sync_pods6([(POD6, 64)]).expect("pods6");
    nic.sync_local([IpAddr::V4(LOCAL4), IpAddr::V6(LOCAL6)])
        .expect("local");
    nic
}

#[test]
fn the_nic_takes_what_is_ours_and_passes_the_rest() {
    if skipped_without_root("the_nic_takes_what_is_ours_and_passes_the_rest") {
        return;
    }
    isolated(|| {
        let mut nic = nic();
        let socket = XdpSocket::bind("lo", 0);
        nic.set_socket(0, &socket).expect("set socket");
        for (name, frame, ours) in cases() {
            let expected = ours.map_or(Verdict::Pass, |_| Verdict::Redirect);
            assert_eq!(nic.verdict(LO, 0, &frame).expect("run"), expected, "{name}");
        }
    });
}

#[test]
fn runts_pass_until_they_show_what_they_are() {
    if skipped_without_root("runts_pass_until_they_show_what_they_are") {
        return;
    }
    isolated(|| {
        let mut nic = nic();
        let socket = XdpSocket::bind("lo", 0);
        nic.set_socket(0, &socket).expect("set socket");
        for (name, frame, ours) in cases() {
            for len in 0..=frame.len() {
                let Ok(verdict) = nic.verdict(LO, 0, &frame[..len]) else {
                    assert!(len < 14, "{name}: the kernel refused {len} bytes");
                    continue;
                };
                let expected = match ours {
                    Some(enough) if len >= enough => Verdict::Redirect,
                    _ => Verdict::Pass,
                };
                assert_eq!(verdict, expected, "{name} cut to {len} bytes");
            }
        }
    });
}

#[test]
fn the_nic_passes_everything_without_a_socket() {
    if skipped_without_root("the_nic_passes_everything_without_a_socket") {
        return;
    }
    isolated(|| {
        let mut nic = nic();
        let all_pass = |nic: &NicProgram| {
            for (name, frame, _) in cases() {
                assert_eq!(
                    nic.verdict(LO, 0, &frame).expect("run"),
                    Verdict::Pass,
                    "{name}"
                );
            }
        };
        all_pass(&nic);
        // A socket on another queue is no socket.
        let socket = XdpSocket::bind("lo", 0);
        nic.set_socket(1, &socket).expect("set socket");
        all_pass(&nic);
        // Nor is one that was taken out, nor one that was closed.
        nic.set_socket(0, &socket).expect("set socket");
        nic.clear_socket(0).expect("clear");
        all_pass(&nic);
        nic.clear_socket(0).expect("clear twice");
        nic.set_socket(0, &socket).expect("set socket");
        drop(socket);
        all_pass(&nic);
    });
}

#[test]
fn the_nic_counts_every_frame_once() {
    if skipped_without_root("the_nic_counts_every_frame_once") {
        return;
    }
    isolated(|| {
        let mut nic = nic();
        let (ours, kernels): (Vec<Case>, Vec<Case>) =
            cases().into_iter().partition(|(_, _, ours)| ours.is_some());
        for (_, frame, _) in ours.iter().chain(&kernels) {
            nic.verdict(LO, 0, frame).expect("run");
        }
        let no_socket = NicCounters {
            passed: kernels.len() as u64,
            no_socket: ours.len() as u64,
            ..NicCounters::default()
        };
        assert_eq!(nic.counters().expect("counters"), no_socket);

        let socket = XdpSocket::bind("lo", 0);
        nic.set_socket(0, &socket).expect("set socket");
        for (_, frame, _) in &ours {
            nic.verdict(LO, 0, frame).expect("run");
        }
        let with_socket = NicCounters {
            to_pod: 9,
            vxlan: 4,
            ipip: 2,
            from_pod: 4,
            ..no_socket
        };
        assert_eq!(nic.counters().expect("counters"), with_socket);
    });
}

#[test]
fn what_the_nic_takes_follows_the_sets() {
    if skipped_without_root("what_the_nic_takes_follows_the_sets") {
        return;
    }
    isolated(|| {
        let mut nic = nic();
        let socket = XdpSocket::bind("lo", 0);
        nic.set_socket(0, &socket).expect("set socket");
        let to = |addr| V4::new(PEER4, addr, TCP).frame(&tcp(1, 80));
        let to6 = |addr| ipv6(PEER6, addr, TCP, &tcp(1, 80));
        let vxlan = V4::new(PEER4, LOCAL4, UDP).frame(&udp(VXLAN_PORT));
        let verdict = |nic: &NicProgram, frame: &[u8]| nic.verdict(LO, 0, frame).expect("run");

        // Host bits do not matter; the longest prefix is not asked for, any will do.
        nic.sync_pods4([(OTHER4, 32), (POD4, 16)]).expect("sync");
        assert_eq!(verdict(&nic, &to(OTHER4)), Verdict::Redirect);
        assert_eq!(verdict(&nic, &to(POD4)), Verdict::Redirect);
        nic.sync_pods4([(OTHER4, 32)]).expect("sync");
        assert_eq!(verdict(&nic, &to(OTHER4)), Verdict::Redirect);
        assert_eq!(verdict(&nic, &to(POD4)), Verdict::Pass);
        nic.sync_pods4([]).expect("sync");
        assert_eq!(verdict(&nic, &to(OTHER4)), Verdict::Pass);

        nic.sync_pods6([(OTHER6, 128)]).expect("sync");
        assert_eq!(verdict(&nic, &to6(OTHER6)), Verdict::Redirect);
        assert_eq!(verdict(&nic, &to6(POD6)), Verdict::Pass);

        nic.set_vxlan_port(Some(8472)).expect("port");
        assert_eq!(verdict(&nic, &vxlan), Verdict::Pass);
        nic.set_vxlan_port(Some(VXLAN_PORT)).expect("port");
        assert_eq!(verdict(&nic, &vxlan), Verdict::Redirect);
        nic.set_vxlan_port(None).expect("port");
        let port_zero = V4::new(PEER4, LOCAL4, UDP).frame(&udp(0));
        assert_eq!(verdict(&nic, &port_zero), Verdict::Pass);
        nic.set_vxlan_port(Some(VXLAN_PORT)).expect("port");
        nic.sync_local([]).expect("sync");
        assert_eq!(verdict(&nic, &vxlan), Verdict::Pass);

        let error = nic.sync_pods4([(POD4, 33)]).expect_err("no such length");
        assert_eq!(error.to_string(), "a prefix length of 33 is more than 32");
        let error = nic.set_socket(256, &socket).expect_err("no such queue");
        assert!(
            error
                .to_string()
                .contains("beyond the queues of the XDP program (256)"),
            "{error}"
        );
    });
}

#[test]
fn endpoints_give_everything_to_the_socket_or_fail_as_configured() {
    if skipped_without_root("endpoints_give_everything_to_the_socket_or_fail_as_configured") {
        return;
    }
    isolated(|| {
        ip("link add cali0 numrxqueues 2 numtxqueues 2 type veth peer name eth0");
        ip("link set cali0 up");
        ip("link set eth0 up");
        let pins = PinDir::open().expect("pins");
        for (fail_mode, refused) in [
            (FailMode::Closed, Verdict::Drop),
            (FailMode::Open, Verdict::Pass),
        ] {
            let mut pods = EndpointProgram::load(&EndpointConfig {
                fail_mode,
                max_endpoints: 4,
                queues: 2,
            })
            .expect("load");
            let device = ifindex("cali0");
            let all = |pods: &EndpointProgram, expected: Verdict| {
                for (name, frame, _) in cases() {
                    for len in 14..=frame.len() {
                        let verdict = pods.verdict(device, 0, &frame[..len]).expect("run");
                        assert_eq!(verdict, expected, "{fail_mode:?}: {name}, {len} bytes");
                    }
                }
            };
            // A device that nobody knows; then one without a socket, with one on another queue, with one.
            all(&pods, refused);
            let unknown = pods.counters().expect("counters").unknown_device;
            assert!(unknown > 0);
            let attachment = pods.attach("cali0", &pins).expect("attach");
            let before = pods.counters().expect("counters");
            all(&pods, refused);
            let socket = XdpSocket::bind("cali0", 0);
            pods.set_socket(device, 1, &socket).expect("set socket");
            all(&pods, refused);
            pods.set_socket(device, 0, &socket).expect("set socket");
            all(&pods, Verdict::Redirect);
            pods.clear_socket(device, 0).expect("clear");
            all(&pods, refused);
            pods.set_socket(device, 0, &socket).expect("set socket");
            drop(socket);
            all(&pods, refused);

            // At least: the device has traffic of its own, of neighbour discovery.
            let counters = pods.counters().expect("counters");
            assert_eq!(counters.unknown_device, before.unknown_device);
            assert!(counters.taken - before.taken >= unknown);
            assert!(counters.no_socket - before.no_socket >= 4 * unknown);
            pods.detach(attachment).expect("detach");
        }
    });
}

#[test]
fn an_endpoint_reaches_no_sockets_but_its_own() {
    if skipped_without_root("an_endpoint_reaches_no_sockets_but_its_own") {
        return;
    }
    isolated(|| {
        for (host, pod) in [("cali0", "eth0"), ("cali1", "eth1")] {
            ip(&format!(
                "link add {host} numrxqueues 2 numtxqueues 2 type veth peer name {pod}"
            ));
            ip(&format!("link set {host} up"));
            ip(&format!("link set {pod} up"));
        }
        // One queue is served; the devices have two.
        let mut pods = EndpointProgram::load(&EndpointConfig {
            fail_mode: FailMode::Closed,
            max_endpoints: 2,
            queues: 1,
        })
        .expect("load");
        let pins = PinDir::open().expect("pins");
        let first = pods.attach("cali0", &pins).expect("attach");
        let second = pods.attach("cali1", &pins).expect("attach");
        let socket = XdpSocket::bind("cali1", 0);
        pods.set_socket(second.ifindex(), 0, &socket)
            .expect("set socket");
        let frame = V4::new(POD4, OTHER4, TCP).frame(&tcp(1, 80));
        let verdict = |pods: &EndpointProgram, ifindex, queue| {
            pods.verdict(ifindex, queue, &frame).expect("run")
        };
        assert_eq!(verdict(&pods, second.ifindex(), 0), Verdict::Redirect);
        assert_eq!(verdict(&pods, second.ifindex(), 1), Verdict::Drop);
        assert_eq!(verdict(&pods, first.ifindex(), 0), Verdict::Drop);
        assert_eq!(verdict(&pods, first.ifindex(), 1), Verdict::Drop);
        let error = pods
            .set_socket(first.ifindex(), 1, &socket)
            .expect_err("no such queue");
        assert!(
            error
                .to_string()
                .contains("beyond the queues of the XDP program (1)"),
            "{error}"
        );

        // A slot is empty when the next device gets it.
        pods.detach(second).expect("detach");
        let again = pods.attach("cali1", &pins).expect("attach");
        assert_eq!(verdict(&pods, again.ifindex(), 0), Verdict::Drop);
        let error = pods.set_socket(LO, 0, &socket).expect_err("not attached");
        assert_eq!(error.to_string(), "interface 1 is not attached");
    });
}

#[test]
fn devices_that_meet_at_a_place_keep_their_own_sockets() {
    use Verdict::{Drop, Redirect};

    if skipped_without_root("devices_that_meet_at_a_place_keep_their_own_sockets") {
        return;
    }
    isolated(|| {
        // Two endpoints have eight places: all three indexes end in the same three bits.
        for (host, index, pod) in [
            ("cali0", 100, "eth0"),
            ("cali1", 108, "eth1"),
            ("cali2", 116, "eth2"),
        ] {
            ip(&format!(
                "link add {host} index {index} type veth peer name {pod}"
            ));
            ip(&format!("link set {host} up"));
        }
        let mut pods = EndpointProgram::load(&EndpointConfig {
            fail_mode: FailMode::Closed,
            max_endpoints: 2,
            queues: 1,
        })
        .expect("load");
        let pins = PinDir::open().expect("pins");
        let frame = V4::new(POD4, OTHER4, TCP).frame(&tcp(1, 80));
        let verdicts = |pods: &EndpointProgram| {
            [100, 108, 116].map(|ifindex| pods.verdict(ifindex, 0, &frame).expect("run"))
        };
        let first = pods.attach("cali0", &pins).expect("attach");
        let second = pods.attach("cali1", &pins).expect("attach");
        let sockets = ["cali0", "cali1"].map(|ifname| XdpSocket::bind(ifname, 0));
        pods.set_socket(100, 0, &sockets[0]).expect("set socket");
        assert_eq!(verdicts(&pods), [Redirect, Drop, Drop]);
        pods.set_socket(108, 0, &sockets[1]).expect("set socket");
        assert_eq!(verdicts(&pods), [Redirect, Redirect, Drop]);

        // Who has the place goes; the other stays, and a third gets it with the slot.
        pods.detach(first).expect("detach");
        assert_eq!(verdicts(&pods), [Drop, Redirect, Drop]);
        let third = pods.attach("cali2", &pins).expect("attach");
        assert_eq!(verdicts(&pods), [Drop, Redirect, Drop]);
        let socket = XdpSocket::bind("cali2", 0);
        pods.set_socket(116, 0, &socket).expect("set socket");
        assert_eq!(verdicts(&pods), [Drop, Redirect, Redirect]);
        pods.detach(second).expect("detach");
        assert_eq!(verdicts(&pods), [Drop, Drop, Redirect]);
        pods.detach(third).expect("detach");
        assert_eq!(verdicts(&pods), [Drop; 3]);
        // No device is known any more, wherever its slot was noted.
        let unknown = pods.counters().expect("counters").unknown_device;
        verdicts(&pods);
        assert!(pods.counters().expect("counters").unknown_device >= unknown + 3);
    });
}
