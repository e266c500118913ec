//! What the NIC's program takes of answers to pods' translated connections, and what it leaves to the host
//! (`BPF_PROG_TEST_RUN`).

mod xdp_support;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use control::xdp::{NatPorts, NicConfig, NicProgram, Verdict, no_ports};
use fastpath::io::xsk::test_support::skipped_without_root;
use xdp_support::frames::*;
use xdp_support::isolated;
use xdp_support::socket::XdpSocket;

/// The loopback device's index in every network namespace.
const LO: u32 = 1;
const SCTP: u8 = 132;
/// IPv6's options for the destination.
const OPTIONS6: u8 = 60;
/// Ports of our NAT, one a protocol, and one that the host uses.
const OURS: [(u8, u16); 3] = [(TCP, 40_001), (UDP, 40_002), (SCTP, 40_003)];
const HOSTS: u16 = 50_000;

fn ports() -> Box<NatPorts> {
    let mut ports = no_ports();
    for (words, (_, port)) in ports.iter_mut().zip(OURS) {
        words[usize::from(port / 64)] |= 1 << (port % 64);
    }
    ports[3][usize::from(OUR_PROTOCOL / 64)] |= 1 << (OUR_PROTOCOL % 64);
    ports
}

/// A protocol without ports that is our NAT's, and one that the host uses.
const OUR_PROTOCOL: u8 = 47;
const HOSTS_PROTOCOL: u8 = 89;

fn with_nat(test: impl FnOnce(&mut NicProgram) + Send) {
    isolated(|| {
        let mut nic = NicProgram::load(&NicConfig {
            vxlan_port: Some(VXLAN_PORT),
        })
        .expect("load");
        let local = [IpAddr::V4(LOCAL4), IpAddr::V6(LOCAL6)];
        nic.sync_local(local).expect("local");
        nic.sync_nat(local, &ports()).expect("nat");
        let socket = XdpSocket::bind("lo", 0);
        nic.set_socket(0, &socket).expect("set socket");
        test(&mut nic);
    });
}

fn verdict(nic: &NicProgram, frame: &[u8]) -> Verdict {
    nic.verdict(LO, 0, frame).expect("run")
}

/// Source and destination port, and enough behind them for every protocol here.
fn ports_of(from: u16, to: u16) -> Vec<u8> {
    let mut bytes = from.to_be_bytes().to_vec();
    bytes.extend(to.to_be_bytes());
    bytes.extend([0; 16]);
    bytes
}

fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    V4::new(OTHER4, LOCAL4, protocol).frame(payload)
}

fn v6(protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv6(OTHER6, LOCAL6, protocol, payload)
}

/// An ICMP error about a packet that went from `LOCAL` to `OTHER`.
fn error4(kind: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(&V4::new(LOCAL4, OTHER4, protocol).frame(payload)[14..]);
    v4(ICMP, &message)
}

fn error6(kind: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(&ipv6(LOCAL6, OTHER6, protocol, payload)[14..]);
    v6(ICMP6, &message)
}

#[test]
fn answers_to_translated_connections_are_ours_and_the_hosts_are_not() {
    if skipped_without_root("answers_to_translated_connections_are_ours_and_the_hosts_are_not") {
        return;
    }
    with_nat(|nic| {
        for (protocol, port) in OURS {
            let (ours, hosts) = (ports_of(443, port), ports_of(443, HOSTS));
            for (frame, what) in [(v4(protocol, &ours), "IPv4"), (v6(protocol, &ours), "IPv6")] {
                assert_eq!(verdict(nic, &frame), Verdict::Redirect, "{what} {protocol}");
                // A frame that ends before the port shows is the kernel's.
                let header = frame.len() - ours.len();
                assert_eq!(verdict(nic, &frame[..header + 3]), Verdict::Pass);
                assert_eq!(verdict(nic, &frame[..header + 4]), Verdict::Redirect);
            }
            for frame in [v4(protocol, &hosts), v6(protocol, &hosts)] {
                assert_eq!(verdict(nic, &frame), Verdict::Pass, "the host's {protocol}");
            }
            // A port belongs to one protocol, and is a destination.
            let other = if protocol == TCP { UDP } else { TCP };
            assert_eq!(verdict(nic, &v4(other, &ours)), Verdict::Pass);
            assert_eq!(
                verdict(nic, &v4(protocol, &ports_of(port, 443))),
                Verdict::Pass
            );
            let elsewhere = V4::new(OTHER4, PEER4, protocol).frame(&ours);
            assert_eq!(verdict(nic, &elsewhere), Verdict::Pass, "another's address");
        }
        assert_eq!(
            verdict(nic, &V4::new(PEER4, LOCAL4, UDP).frame(&udp(VXLAN_PORT))),
            Verdict::Redirect,
            "VXLAN stays ours"
        );
    });
}

#[test]
fn while_nobody_is_there_on_purpose_what_the_host_would_refuse_is_lost() {
    let test = "while_nobody_is_there_on_purpose_what_the_host_would_refuse_is_lost";
    if skipped_without_root(test) {
        return;
    }
    let now = control::keep::file::since_boot().expect("a clock");
    with_nat(|nic| {
        let verdicts = |nic: &NicProgram, expected: Verdict| {
            for (protocol, port) in OURS {
                let (ours, hosts) = (ports_of(443, port), ports_of(443, HOSTS));
                for (ours, hosts) in [
                    (v4(protocol, &ours), v4(protocol, &hosts)),
                    (v6(protocol, &ours), v6(protocol, &hosts)),
                ] {
                    assert_eq!(verdict(nic, &ours), expected, "{protocol}");
                    assert_eq!(verdict(nic, &hosts), Verdict::Pass, "the host's {protocol}");
                }
            }
        };
        nic.set_away(Some(now + Duration::from_mins(10)))
            .expect("away");
        verdicts(nic, Verdict::Drop);
        nic.clear_socket(0).expect("clear");
        verdicts(nic, Verdict::Drop);
        assert_eq!(nic.counters().expect("counters").away, 12);
        // The host may have asked itself, and refuses none of these.
        for others in [
            v4(ICMP, &[0, 0, 0, 0, 0, 1, 0, 1]),
            v6(ICMP6, &[129, 0, 0, 0, 0, 1, 0, 1]),
            error4(3, TCP, &ports_of(OURS[0].1, 443)),
            v4(OUR_PROTOCOL, &[0; 20]),
        ] {
            assert_eq!(verdict(nic, &others), Verdict::Pass);
        }
        // It ends by itself, or when it is told to.
        nic.set_away(Some(now)).expect("away");
        verdicts(nic, Verdict::Pass);
        nic.set_away(None).expect("away");
        verdicts(nic, Verdict::Pass);
    });
}

#[test]
fn icmp_is_ours_when_it_tells_of_our_ports() {
    if skipped_without_root("icmp_is_ours_when_it_tells_of_our_ports") {
        return;
    }
    with_nat(|nic| {
        let echo = [0, 0, 0, 0, 0, 1, 0, 1];
        assert_eq!(
            verdict(nic, &v4(ICMP, &echo)),
            Verdict::Redirect,
            "echo reply"
        );
        let echo = [129, 0, 0, 0, 0, 1, 0, 1];
        assert_eq!(
            verdict(nic, &v6(ICMP6, &echo)),
            Verdict::Redirect,
            "echo reply"
        );
        for request in [
            v4(ICMP, &[8, 0, 0, 0, 0, 1, 0, 1]),
            v6(ICMP6, &[128, 0, 0, 0, 0, 1, 0, 1]),
        ] {
            assert_eq!(verdict(nic, &request), Verdict::Pass, "echo request");
        }
        for discovery in [133, 134, 135, 136, 137] {
            assert_eq!(verdict(nic, &v6(ICMP6, &[discovery; 40])), Verdict::Pass);
        }
        for (protocol, port) in OURS {
            let (ours, hosts) = (ports_of(port, 443), ports_of(HOSTS, 443));
            for kind in [3, 11, 12] {
                assert_eq!(
                    verdict(nic, &error4(kind, protocol, &ours)),
                    Verdict::Redirect
                );
                assert_eq!(verdict(nic, &error4(kind, protocol, &hosts)), Verdict::Pass);
            }
            for kind in [1, 2, 3, 4] {
                assert_eq!(
                    verdict(nic, &error6(kind, protocol, &ours)),
                    Verdict::Redirect
                );
                assert_eq!(verdict(nic, &error6(kind, protocol, &hosts)), Verdict::Pass);
            }
            assert_eq!(
                verdict(nic, &error4(5, protocol, &ours)),
                Verdict::Pass,
                "redirect"
            );
        }
        let ping = [8, 0, 0, 0, 0, 1, 0, 1];
        assert_eq!(verdict(nic, &error4(11, ICMP, &ping)), Verdict::Redirect);
        assert_eq!(verdict(nic, &error6(3, ICMP6, &ping)), Verdict::Redirect);
        // Cut anywhere it never faults, and is not ours before it shows a port.
        let whole = error4(3, TCP, &ports_of(OURS[0].1, 443));
        for len in 14..whole.len() {
            let enough = 14 + 20 + 8 + 20 + 2;
            let expected = if len >= enough {
                Verdict::Redirect
            } else {
                Verdict::Pass
            };
            assert_eq!(verdict(nic, &whole[..len]), expected, "{len} bytes");
        }
    });
}

#[test]
fn protocols_without_ports_are_ours_unless_the_host_uses_them() {
    if skipped_without_root("protocols_without_ports_are_ours_unless_the_host_uses_them") {
        return;
    }
    with_nat(|nic| {
        for (protocol, expected) in [
            (OUR_PROTOCOL, Verdict::Redirect),
            (HOSTS_PROTOCOL, Verdict::Pass),
        ] {
            // Behind the header there need be nothing.
            for payload in [&[0; 20][..], &[]] {
                assert_eq!(verdict(nic, &v4(protocol, payload)), expected, "{protocol}");
                assert_eq!(verdict(nic, &v6(protocol, payload)), expected, "{protocol}");
                assert_eq!(verdict(nic, &error4(3, protocol, payload)), expected);
                assert_eq!(verdict(nic, &error6(1, protocol, payload)), expected);
            }
            let elsewhere = V4::new(OTHER4, PEER4, protocol).frame(&[0; 20]);
            assert_eq!(verdict(nic, &elsewhere), Verdict::Pass, "another's address");
            // Behind options for the destination, as tunnels over IPv6 send it; what is cut there is the kernel's.
            let mut behind = vec![protocol, 0, 4, 1, 4, 1, 0, 0];
            assert_eq!(verdict(nic, &v6(OPTIONS6, &behind)), expected);
            assert_eq!(verdict(nic, &error6(1, OPTIONS6, &behind)), expected);
            assert_eq!(verdict(nic, &v6(OPTIONS6, &behind[..1])), Verdict::Pass);
            behind[0] = OPTIONS6;
            assert_eq!(verdict(nic, &v6(OPTIONS6, &behind)), Verdict::Pass);
            // Fragments: each shows the protocol.
            let first = V4 {
                fragment: 0x2000,
                ..V4::new(OTHER4, LOCAL4, protocol)
            };
            assert_eq!(verdict(nic, &first.frame(&[0; 24])), expected);
            let later = V4 {
                fragment: 3,
                ..V4::new(OTHER4, LOCAL4, protocol)
            };
            assert_eq!(verdict(nic, &later.frame(&[0; 24])), expected);
        }
        // A port is a port and not a protocol, and the other way about.
        let port = ports_of(443, OUR_PROTOCOL.into());
        assert_eq!(verdict(nic, &v4(TCP, &port)), Verdict::Pass);
        // Behind options ports show as well.
        let tcp = [&[TCP, 0, 1, 4, 0, 0, 0, 0][..], &ports_of(443, OURS[0].1)].concat();
        assert_eq!(verdict(nic, &v6(OPTIONS6, &tcp)), Verdict::Redirect);
        assert_eq!(verdict(nic, &v6(OPTIONS6, &tcp[..11])), Verdict::Pass);
        // Tunnels stay what they are.
        assert_eq!(verdict(nic, &v4(IPIP, &[0x45; 20])), Verdict::Redirect);
    });
}

#[test]
fn errors_about_tunnels_are_ours() {
    if skipped_without_root("errors_about_tunnels_are_ours") {
        return;
    }
    with_nat(|nic| {
        let vxlan = ports_of(50_001, VXLAN_PORT);
        for kind in [3, 11] {
            let about_vxlan = error4(kind, UDP, &vxlan);
            assert_eq!(verdict(nic, &about_vxlan), Verdict::Redirect, "{kind}");
            let about_ipip = error4(kind, IPIP, &[0x45; 20]);
            assert_eq!(verdict(nic, &about_ipip), Verdict::Redirect, "{kind}");
        }
        for kind in [1, 2, 3] {
            assert_eq!(
                verdict(nic, &error6(kind, UDP, &vxlan)),
                Verdict::Redirect,
                "{kind}"
            );
        }
        let from = ports_of(VXLAN_PORT, 50_001);
        assert_eq!(verdict(nic, &error4(3, UDP, &from)), Verdict::Pass);
        assert_eq!(verdict(nic, &error6(1, UDP, &from)), Verdict::Pass);
    });
}

#[test]
fn later_fragments_follow_their_first() {
    if skipped_without_root("later_fragments_follow_their_first") {
        return;
    }
    with_nat(|nic| {
        let fragment4 = |from: Ipv4Addr, fragment, payload: &[u8]| {
            let header = V4 {
                fragment,
                ..V4::new(from, LOCAL4, UDP)
            };
            header.frame(payload)
        };
        let fragment6 = |from: Ipv6Addr, offset: u16, payload: &[u8]| {
            let mut bytes = vec![UDP, 0];
            bytes.extend(offset.to_be_bytes());
            bytes.extend([0, 0, 0, 9]);
            bytes.extend(payload);
            ipv6(from, LOCAL6, FRAGMENT6, &bytes)
        };
        let (ours, hosts) = (ports_of(53, OURS[1].1), ports_of(53, HOSTS));
        // Ours: the first by its port, the later ones after it.
        assert_eq!(
            verdict(nic, &fragment4(OTHER4, 0x2000, &ours)),
            Verdict::Redirect
        );
        assert_eq!(
            verdict(nic, &fragment4(OTHER4, 0x2002, &[0; 24])),
            Verdict::Redirect
        );
        assert_eq!(
            verdict(nic, &fragment4(OTHER4, 0x0004, &[0; 24])),
            Verdict::Redirect
        );
        assert_eq!(
            verdict(nic, &fragment6(OTHER6, 0x0001, &ours)),
            Verdict::Redirect
        );
        assert_eq!(
            verdict(nic, &fragment6(OTHER6, 0x0010, &[0; 24])),
            Verdict::Redirect
        );
        // The host's.
        assert_eq!(
            verdict(nic, &fragment4(PEER4, 0x2000, &hosts)),
            Verdict::Pass
        );
        assert_eq!(
            verdict(nic, &fragment4(PEER4, 0x0002, &[0; 24])),
            Verdict::Pass
        );
        assert_eq!(
            verdict(nic, &fragment6(PEER6, 0x0001, &hosts)),
            Verdict::Pass
        );
        assert_eq!(
            verdict(nic, &fragment6(PEER6, 0x0010, &[0; 24])),
            Verdict::Pass
        );
        // One that overtook its first: ours to hold.
        let stranger = Ipv4Addr::new(203, 0, 113, 7);
        assert_eq!(
            verdict(nic, &fragment4(stranger, 0x0002, &[0; 24])),
            Verdict::Redirect
        );
    });
}

#[test]
fn what_nat_takes_follows_the_sets() {
    if skipped_without_root("what_nat_takes_follows_the_sets") {
        return;
    }
    with_nat(|nic| {
        let (protocol, port) = OURS[0];
        let frame = v4(protocol, &ports_of(443, port));
        assert_eq!(verdict(nic, &frame), Verdict::Redirect);
        let mut fewer = ports();
        fewer[0][usize::from(port / 64)] = 0;
        nic.sync_nat([IpAddr::V4(LOCAL4)], &fewer).expect("nat");
        assert_eq!(
            verdict(nic, &frame),
            Verdict::Pass,
            "the port is the host's now"
        );
        nic.sync_nat([IpAddr::V4(PEER4)], &ports()).expect("nat");
        assert_eq!(
            verdict(nic, &frame),
            Verdict::Pass,
            "the address is another"
        );
        let moved = V4::new(OTHER4, PEER4, protocol).frame(&ports_of(443, port));
        assert_eq!(verdict(nic, &moved), Verdict::Redirect);
    });
}
