//! Every class of packet through the flows' programs (`BPF_PROG_TEST_RUN`): where it goes, and with which bytes.

mod tcx_support;
mod xdp_support;

use std::net::{IpAddr, Ipv4Addr};

use control::offload::flow::{Action, Counts, From, KernelFlows, Key, Seen, Segment, Way};
use control::xdp::{
    FailMode, FlowMaps, NicConfig, NicProgram, PinDir, Tcx, TcxConfig, TcxVerdict, Verdict,
};
use encap::eth::MacAddr;
use encap::outer::Kind;
use encap::vxlan::Vni;
use fastpath::io::xsk::test_support::skipped_without_root;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tcx_support::*;
use xdp_support::frames;
use xdp_support::socket::XdpSocket;
use xdp_support::{ifindex, ip, isolated, veth};

/// Devices, and the programs with everything set.
struct Node {
    tcx: Tcx,
    flows: FlowMaps,
    pod: u32,
    uplink: u32,
}

/// The kernel tests programs with no frame in which there is less than an IP header.
fn shortest(frame: &[u8]) -> usize {
    14 + if frame[12] == 0x86 { 40 } else { 20 }
}

const PUNT: u32 = 4000;
const ROUTE: u32 = 4001;

fn end(address: &str, port: u16) -> (IpAddr, u16) {
    (address.parse().expect("an address"), port)
}

impl Node {
    fn new(config: &TcxConfig) -> Self {
        ip("link add cali0 address ee:ee:ee:ee:ee:ee type veth peer name eth0");
        ip("link add up0 address 02:00:00:00:00:01 type veth peer name router");
        let mut tcx = Tcx::load(config).expect("load");
        let flows = tcx.flows().expect("the first time");
        assert!(tcx.flows().is_none());
        tcx.set_punt(PUNT).expect("punt");
        tcx.set_vxlan_end(Some((Vni::CALICO, VTEP_MAC)))
            .expect("VXLAN");
        tcx.set_ipip(true).expect("IPIP");
        tcx.set_tunnel_address(Some(LOCAL)).expect("address");
        tcx.set_vxlan_port(Some(VXLAN_PORT)).expect("port");
        tcx.sync_local([IpAddr::V4(LOCAL)]).expect("local");
        tcx.sync_pods4([("10.65.0.0".parse().expect("IPv4"), 16)])
            .expect("pods");
        tcx.sync_pods6([("fd00:65::".parse().expect("IPv6"), 32)])
            .expect("pods");
        Self {
            tcx,
            flows,
            pod: ifindex("cali0"),
            uplink: ifindex("up0"),
        }
    }

    fn by_pod(&self, frame: &[u8]) -> (TcxVerdict, Vec<u8>) {
        let result = self.tcx.pod_verdict(self.pod, frame).expect("run");
        (result.verdict, result.frame)
    }

    fn by_uplink(&self, frame: &[u8]) -> (TcxVerdict, Vec<u8>) {
        let result = self.tcx.uplink_verdict(self.uplink, frame).expect("run");
        (result.verdict, result.frame)
    }

    /// What comes from the pod goes to the pollers.
    fn punts_of_pod(&self, frame: &[u8], kind: u8, name: &str) {
        let punted = (TcxVerdict::Redirect, tagged(frame, kind, self.pod));
        assert_eq!(self.by_pod(frame), punted, "{name}");
    }

    fn punts_of_uplink(&self, frame: &[u8], name: &str) {
        let punted = (TcxVerdict::Redirect, tagged(frame, 0, self.uplink));
        assert_eq!(self.by_uplink(frame), punted, "{name}");
    }

    fn counts(&mut self, key: &Key) -> Counts {
        self.flows.read(key).expect("known")
    }
}

fn of_pod(protocol: u8) -> Packet {
    Packet::new(protocol, end("10.65.1.7", 4000), end("10.65.2.9", 80))
}

fn of_pod6(protocol: u8) -> Packet {
    Packet::new(protocol, end("fd00:65:1::7", 4000), end("fd00:65:2::9", 80))
}

fn to_pod(protocol: u8) -> Packet {
    Packet::new(protocol, end("10.65.2.9", 80), end("10.65.1.7", 4000))
}

fn to_pod6(protocol: u8) -> Packet {
    Packet::new(protocol, end("fd00:65:2::9", 80), end("fd00:65:1::7", 4000))
}

/// A changed copy of an IPv4 frame, its header's checksum right.
fn changed(frame: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut frame = frame.to_vec();
    change(&mut frame[14..]);
    fix_header(&mut frame[14..]);
    frame
}

fn action_of_pod(kind: Kind) -> Action {
    Action {
        from_mac: Some(POD_MAC),
        ..action(ROUTE, Way::Uplink, rewrite(kind, TO_ROUTER))
    }
}

#[test]
fn a_pods_flow_is_repeated_and_all_else_of_it_goes_to_the_pollers() {
    if skipped_without_root("a_pods_flow_is_repeated_and_all_else_of_it_goes_to_the_pollers") {
        return;
    }
    isolated(|| {
        let mut node = Node::new(&TcxConfig::default());
        for kind in [Kind::Ethernet, Kind::Ipip, Kind::Vxlan4] {
            for packet in [of_pod(TCP), of_pod(UDP), of_pod6(TCP), of_pod6(UDP)] {
                let is_v6 = packet.src.0.is_ipv6();
                let key = packet.key(From::Device(node.pod));
                let action = action_of_pod(kind);
                let frame = packet.frame(FROM_POD);
                node.punts_of_pod(&frame, 0, "before it is known");
                if kind == Kind::Ipip && is_v6 {
                    assert!(node.flows.insert(&key, &action, 0).is_err());
                    continue;
                }
                node.flows.insert(&key, &action, 0).expect("insert");
                let sent = (TcxVerdict::Redirect, expected(&packet.ip(), &action));
                assert_eq!(node.by_pod(&frame), sent, "{kind:?} {packet:?}");
                // Another device, another protocol, other ends.
                let elsewhere = node.tcx.pod_verdict(node.uplink, &frame).expect("run");
                assert_eq!(elsewhere.frame, tagged(&frame, 0, node.uplink));
                let mut other = packet.clone();
                other.src.1 += 1;
                node.punts_of_pod(&other.frame(FROM_POD), 0, "another port");
                other = packet.clone();
                other.protocol ^= TCP ^ UDP;
                node.punts_of_pod(&other.frame(FROM_POD), 0, "another protocol");
                other = packet.clone();
                other.ttl = 1;
                node.punts_of_pod(&other.frame(FROM_POD), 0, "TTL 1");
                other.ttl = 0;
                node.punts_of_pod(&other.frame(FROM_POD), 0, "TTL 0");
                other = packet.clone();
                let headers = packet.ip().len() - packet.payload.len();
                other.payload = vec![1; 1450 - headers];
                let sent = (TcxVerdict::Redirect, expected(&other.ip(), &action));
                assert_eq!(node.by_pod(&other.frame(FROM_POD)), sent);
                other.payload.push(1);
                node.punts_of_pod(&other.frame(FROM_POD), 0, "too long");
                let mut spoofed = frame.clone();
                spoofed[11] ^= 1;
                node.punts_of_pod(&spoofed, 0, "another's MAC");
                for len in shortest(&frame)..frame.len() {
                    node.punts_of_pod(&frame[..len], 0, &format!("{len} bytes of it"));
                }
                let mut padded = frame.clone();
                padded.extend([0x5a; 9]);
                let sent = (TcxVerdict::Redirect, expected(&packet.ip(), &action));
                assert_eq!(node.by_pod(&padded), sent, "link padding goes");

                let counts = node.flows.remove(&key).expect("removed").expect("known");
                assert_eq!(counts.packets, 3);
                assert_eq!(counts.bytes, 2 * packet.ip().len() as u64 + 1450);
                assert_eq!(counts.closing, None);
                assert_eq!(node.flows.read(&key), None);
                node.punts_of_pod(&frame, 0, "removed");
            }
        }
        assert_eq!(node.tcx.counters().expect("counters").spoilt, 0);
    });
}

#[test]
fn what_is_unusual_in_a_packet_goes_to_the_pollers() {
    if skipped_without_root("what_is_unusual_in_a_packet_goes_to_the_pollers") {
        return;
    }
    isolated(|| {
        let mut node = Node::new(&TcxConfig::default());
        let (packet, packet6) = (of_pod(UDP), of_pod6(UDP));
        for packet in [&packet, &packet6] {
            let key = packet.key(From::Device(node.pod));
            node.flows
                .insert(&key, &action_of_pod(Kind::Ethernet), 0)
                .expect("insert");
        }
        let frame = packet.frame(FROM_POD);
        let with_options = {
            let mut ip = packet.ip();
            ip.splice(20..20, [1; 4]);
            ip[0] = 0x46;
            let len = ip.len() as u16;
            ip[2..4].copy_from_slice(&len.to_be_bytes());
            fix_header(&mut ip);
            in_ethernet(FROM_POD, &ip)
        };
        let mut bad_sum = frame.clone();
        bad_sum[24] ^= 1;
        for (name, frame) in [
            ("first fragment", changed(&frame, |ip| ip[6] = 0x20)),
            ("later fragment", changed(&frame, |ip| ip[7] = 1)),
            ("options", with_options),
            ("wrong sum", bad_sum),
            ("version", changed(&frame, |ip| ip[0] = 0x65)),
            ("ICMP", changed(&frame, |ip| ip[9] = 1)),
            ("SCTP", changed(&frame, |ip| ip[9] = 132)),
        ] {
            node.punts_of_pod(&frame, 0, name);
        }
        let mut arp = frames::ethernet(0x0806, &[0; 28]);
        arp[..6].fill(0xee);
        node.punts_of_pod(&arp, 0, "ARP");
        arp[..6].fill(0xff);
        node.punts_of_pod(&arp, 1, "ARP to all");
        // Extension headers in front of the same datagram.
        for next in [frames::HOP_BY_HOP, frames::FRAGMENT6] {
            let mut ip = packet6.ip();
            ip.splice(40..40, [UDP, 0, 1, 4, 0, 0, 0, 0]);
            ip[6] = next;
            let len = (ip.len() - 40) as u16;
            ip[4..6].copy_from_slice(&len.to_be_bytes());
            node.punts_of_pod(&in_ethernet(FROM_POD, &ip), 0, "extension header");
        }
        // Whoever the frame was sent to.
        let to = |frame: &[u8], mac: [u8; 6]| {
            let mut frame = frame.to_vec();
            frame[..6].copy_from_slice(&mac);
            frame
        };
        node.punts_of_pod(&to(&frame, [0xff; 6]), 1, "broadcast");
        node.punts_of_pod(&to(&frame, [2, 0, 0, 0, 0, 9]), 4, "another station");
        let group = Packet::new(UDP, packet.src, end("239.129.2.3", 80)).frame(FROM_POD);
        node.punts_of_pod(&to(&group, [1, 0, 0x5e, 1, 2, 3]), 2, "IPv4 group");
        node.punts_of_pod(&to(&group, [1, 0, 0x5e, 1, 2, 4]), 4, "another IPv4 group");
        let group = Packet::new(UDP, packet6.src, end("ff02::1:ff01:203", 80)).frame(FROM_POD);
        node.punts_of_pod(&to(&group, [0x33, 0x33, 0xff, 1, 2, 3]), 3, "IPv6 group");
        node.punts_of_pod(
            &to(&group, [0x33, 0x33, 0xff, 1, 2, 4]),
            4,
            "another IPv6 group",
        );

        // None of these counts.
        let counts = node.counts(&packet.key(From::Device(node.pod)));
        assert_eq!(counts, Counts::default());
    });
}

#[test]
fn what_changes_a_connection_goes_to_the_pollers_and_all_after_it() {
    if skipped_without_root("what_changes_a_connection_goes_to_the_pollers_and_all_after_it") {
        return;
    }
    isolated(|| {
        let mut node = Node::new(&TcxConfig::default());
        for packet in [of_pod(TCP), of_pod6(TCP)] {
            let key = packet.key(From::Device(node.pod));
            let action = action_of_pod(Kind::Ethernet);
            node.flows.insert(&key, &action, 0).expect("insert");
            assert_eq!(node.counts(&key).seen, None);
            let mut next = packet.clone();
            (next.seq, next.ack, next.window) = (5000, 6000, 400);
            (next.flags, next.payload) = (ACK | PSH, vec![1; 100]);
            let both = [packet.frame(FROM_POD), next.frame(FROM_POD)];
            let (packets, bytes) = (2, (packet.ip().len() + next.ip().len()) as u64);
            let seen = Seen {
                ack: 6000,
                end: 5100,
                window: 500,
            };
            let counts = Counts {
                packets,
                bytes,
                seen: Some(seen),
                closing: None,
            };
            let carry_both = |node: &mut Node| {
                for frame in &both {
                    node.by_pod(frame);
                }
                assert_eq!(node.counts(&key), counts);
            };
            carry_both(&mut node);

            // Without an acknowledgement no segment belongs to it, and none is told of.
            next.flags = PSH;
            node.punts_of_pod(&next.frame(FROM_POD), 0, "no acknowledgement");
            assert_eq!(node.counts(&key), counts);
            for flags in [FIN | ACK, SYN, SYN | ACK, RST, RST | ACK] {
                (next.flags, next.seq, next.window) = (flags, 7000, 300);
                // What the pollers would not forward changes nothing.
                let mut spent = next.clone();
                spent.ttl = 1;
                node.punts_of_pod(&spent.frame(FROM_POD), 0, "TTL 1");
                assert_eq!(node.counts(&key).closing, None);
                node.punts_of_pod(&next.frame(FROM_POD), 0, "closing");
                let closing = Segment {
                    seq: 7000,
                    ack: 6000,
                    payload_len: 100,
                    window: 300,
                    flags,
                };
                assert_eq!(node.counts(&key).closing, Some(closing));
                // The first is told of, and nothing is treated any more.
                node.punts_of_pod(&packet.frame(FROM_POD), 0, "after it");
                next.flags = RST;
                next.seq = 8000;
                node.punts_of_pod(&next.frame(FROM_POD), 0, "another");
                let now = node.counts(&key);
                assert_eq!(now.closing, Some(closing));
                assert_eq!((now.packets, now.seen), (packets, Some(seen)));
                // Inserted again it begins anew.
                node.flows.insert(&key, &action, 0).expect("insert");
                assert_eq!(node.counts(&key), Counts::default());
                carry_both(&mut node);
            }
            let sent = (TcxVerdict::Redirect, expected(&packet.ip(), &action));
            assert_eq!(node.by_pod(&packet.frame(FROM_POD)), sent);
            // Sequence numbers go around.
            (next.flags, next.seq) = (ACK, u32::MAX - 1);
            node.by_pod(&next.frame(FROM_POD));
            assert_eq!(node.counts(&key).seen.expect("seen").end, 98);
        }
    });
}

#[test]
fn while_it_is_paused_or_leads_nowhere_no_flow_is_treated() {
    if skipped_without_root("while_it_is_paused_or_leads_nowhere_no_flow_is_treated") {
        return;
    }
    isolated(|| {
        for (fail_mode, refused) in [
            (FailMode::Closed, TcxVerdict::Drop),
            (FailMode::Open, TcxVerdict::Next),
        ] {
            let mut node = Node::new(&TcxConfig {
                fail_mode,
                ..TcxConfig::default()
            });
            let (packet, other) = (of_pod(TCP), of_pod(UDP));
            let key = packet.key(From::Device(node.pod));
            let action = action_of_pod(Kind::Vxlan4);
            node.flows.insert(&key, &action, 0).expect("insert");
            let frame = packet.frame(FROM_POD);
            let sent = (TcxVerdict::Redirect, expected(&packet.ip(), &action));
            node.tcx.set_paused(true).expect("pause");
            node.punts_of_pod(&frame, 0, "paused");
            node.tcx.set_paused(false).expect("go on");
            assert_eq!(node.by_pod(&frame), sent);
            node.tcx.set_punt(0).expect("no punt");
            assert_eq!(node.by_pod(&frame), sent);
            let left = other.frame(FROM_POD);
            assert_eq!(node.by_pod(&left), (refused, left));
            // An uplink has a host.
            let ours = in_ethernet(TO_UPLINK, &to_pod(UDP).ip());
            assert_eq!(node.by_uplink(&ours), (TcxVerdict::Next, ours));
            assert_eq!(node.tcx.counters().expect("counters").no_punt, 2);
            ip("link del cali0");
            ip("link del up0");
        }
    });
}

#[test]
fn one_pods_flood_leaves_room_for_the_others() {
    if skipped_without_root("one_pods_flood_leaves_room_for_the_others") {
        return;
    }
    isolated(|| {
        veth("cali1", "eth1");
        let mut node = Node::new(&TcxConfig {
            punts_per_second: 1,
            punt_burst: 8,
            ..TcxConfig::default()
        });
        ip("link set cali0 up");
        let pins = PinDir::open().expect("pins");
        let flooder = node.tcx.attach_pod("cali0", &pins).expect("attach");
        let quiet = node.tcx.attach_pod("cali1", &pins).expect("attach");
        let frame = of_pod(UDP).frame(FROM_POD);
        let verdicts = |node: &Node| {
            let (mut punted, mut dropped) = (0, 0);
            for _ in 0..1000 {
                match node.by_pod(&frame).0 {
                    TcxVerdict::Redirect => punted += 1,
                    TcxVerdict::Drop => dropped += 1,
                    other => panic!("{other:?}"),
                }
            }
            (punted, dropped)
        };
        // A few more than its burst, should this take seconds.
        let (punted, dropped) = verdicts(&node);
        assert!((8..500).contains(&punted), "{punted}");
        assert!(node.tcx.counters().expect("counters").limited >= dropped);
        let other = node.tcx.pod_verdict(quiet.ifindex(), &frame).expect("run");
        assert_eq!(other.verdict, TcxVerdict::Redirect);
        // Who captures sees all of it; after that the share is used up as before.
        let limited = node.tcx.counters().expect("counters").limited;
        node.tcx.set_paused(true).expect("pause");
        assert_eq!(verdicts(&node), (1000, 0));
        assert_eq!(node.tcx.counters().expect("counters").limited, limited);
        node.tcx.set_paused(false).expect("go on");
        assert!(verdicts(&node).1 > 500);
        // What is treated here is not limited.
        let (key, action) = (
            of_pod(UDP).key(From::Device(node.pod)),
            action_of_pod(Kind::Ethernet),
        );
        node.flows.insert(&key, &action, 0).expect("insert");
        assert_eq!(verdicts(&node), (1000, 0));
        node.tcx.detach(flooder).expect("detach");
        node.tcx.detach(quiet).expect("detach");
    });
}

/// What comes by tunnels for a pod.
fn action_to_pod(node: &Node) -> Action {
    Action {
        peer: Some(PEER),
        ..action(node.pod, Way::Pod, rewrite(Kind::Ethernet, TO_POD))
    }
}

#[test]
fn what_comes_by_a_tunnel_is_opened_if_everything_about_it_is_right() {
    if skipped_without_root("what_comes_by_a_tunnel_is_opened_if_everything_about_it_is_right") {
        return;
    }
    isolated(|| {
        let mut node = Node::new(&TcxConfig::default());
        let action = action_to_pod(&node);
        for packet in [to_pod(TCP), to_pod(UDP), to_pod6(TCP), to_pod6(UDP)] {
            node.flows
                .insert(&packet.key(From::Tunnel), &action, 0)
                .expect("insert");
            // Another way of the same ends.
            node.punts_of_uplink(&packet.frame(TO_UPLINK), "without the tunnel");
        }
        for kind in [Kind::Ipip, Kind::Vxlan4] {
            for packet in [to_pod(TCP), to_pod(UDP), to_pod6(TCP), to_pod6(UDP)] {
                let inner = packet.ip();
                let frame = by_tunnel(kind, &inner, 0);
                if kind == Kind::Ipip && packet.src.0.is_ipv6() {
                    node.punts_of_uplink(&frame, "IPv6 in IPIP");
                    continue;
                }
                let sent = (TcxVerdict::Redirect, expected(&inner, &action));
                assert_eq!(node.by_uplink(&frame), sent, "{kind:?} {packet:?}");
                assert_eq!(
                    node.by_uplink(&by_tunnel(kind, &inner, 0xb8)),
                    sent,
                    "DSCP outside"
                );
                assert_eq!(
                    node.by_uplink(&by_tunnel(kind, &inner, 2)),
                    sent,
                    "ECT(0) outside"
                );
                let mut padded = frame.clone();
                padded.extend([0x5a; 30]);
                assert_eq!(node.by_uplink(&padded), sent, "link padding");
                let mut loose = inner.clone();
                loose.extend([0x5a; 30]);
                assert_eq!(
                    node.by_uplink(&by_tunnel(kind, &loose, 0)),
                    sent,
                    "more than it fills"
                );

                for (name, frame) in [
                    ("CE", by_tunnel(kind, &inner, 3)),
                    ("ECT(1)", by_tunnel(kind, &inner, 1)),
                    ("options", changed(&frame, |ip| ip[0] = 0x46)),
                    ("fragment", changed(&frame, |ip| ip[6] = 0x60)),
                    ("another peer", changed(&frame, |ip| ip[15] ^= 1)),
                    ("too short", changed(&frame, |ip| ip[3] -= 1)),
                    ("longer than the frame", changed(&frame, |ip| ip[3] += 1)),
                ] {
                    // Of VXLAN behind options nothing is at its place: it is none of ours.
                    if !(name == "options" && kind == Kind::Vxlan4) {
                        node.punts_of_uplink(&frame, name);
                    }
                }
                let mut bad_sum = frame.clone();
                bad_sum[24] ^= 1;
                node.punts_of_uplink(&bad_sum, "the outer header's sum");
                let mut spent = packet.clone();
                spent.ttl = 1;
                node.punts_of_uplink(&by_tunnel(kind, &spent.ip(), 0), "TTL 1 inside");
                let mut long = packet.clone();
                long.payload = vec![1; 1450];
                node.punts_of_uplink(&by_tunnel(kind, &long.ip(), 0), "too long");
                if packet.protocol == TCP {
                    let mut reset = packet.clone();
                    reset.flags = RST;
                    node.punts_of_uplink(&by_tunnel(kind, &reset.ip(), 0), "RST");
                    node.punts_of_uplink(&frame, "after RST");
                    node.flows
                        .insert(&packet.key(From::Tunnel), &action, 0)
                        .expect("insert");
                }
                if packet.src.0.is_ipv4() {
                    let inner_at = frame.len() - inner.len();
                    let mut fragment = frame.clone();
                    fragment[inner_at + 6] |= 0x20;
                    fix_header(&mut fragment[inner_at..]);
                    node.punts_of_uplink(&fragment, "a fragment inside");
                    let mut bad_sum = frame.clone();
                    bad_sum[inner_at + 10] ^= 1;
                    node.punts_of_uplink(&bad_sum, "the inner header's sum");
                }
                if kind == Kind::Vxlan4 {
                    for (name, at) in [
                        ("UDP length", 14 + 20 + 5),
                        ("no identifier", 14 + 20 + 8),
                        ("another network", 14 + 20 + 8 + 6),
                        ("another station", 14 + 20 + 8 + 8 + 5),
                        ("another type", 14 + 20 + 8 + 8 + 13),
                    ] {
                        let mut frame = frame.clone();
                        frame[at] ^= if name == "no identifier" { 8 } else { 1 };
                        node.punts_of_uplink(&frame, name);
                    }
                    // RFC 7348 section 5: it may be left unlooked at.
                    let mut frame_with_sum = frame.clone();
                    frame_with_sum[14 + 20 + 6] = 1;
                    assert_eq!(node.by_uplink(&frame_with_sum), sent, "a UDP checksum");
                    // Bits that are nobody's.
                    let mut frame = frame.clone();
                    frame[14 + 20 + 8 + 1] = 0xff;
                    frame[14 + 20 + 8 + 7] = 0xff;
                    assert_eq!(node.by_uplink(&frame), sent, "reserved bits");
                }
                // Not to us.
                let elsewhere = changed(&frame, |ip| ip[19] ^= 7);
                assert_eq!(node.by_uplink(&elsewhere), (TcxVerdict::Next, elsewhere));
            }
        }
        // Of the local addresses one has tunnels.
        let other = Ipv4Addr::new(192, 0, 2, 7);
        node.tcx
            .sync_local([LOCAL.into(), other.into()])
            .expect("local");
        for kind in [Kind::Ipip, Kind::Vxlan4] {
            let inner = to_pod(UDP).ip();
            let sent = (TcxVerdict::Redirect, expected(&inner, &action));
            let frame = by_tunnel(kind, &inner, 0);
            let to_other = changed(&frame, |ip| ip[16..20].copy_from_slice(&other.octets()));
            assert_eq!(node.by_uplink(&frame), sent);
            node.punts_of_uplink(&to_other, "to another local address");
            node.tcx.set_tunnel_address(Some(other)).expect("address");
            assert_eq!(node.by_uplink(&to_other), sent);
            node.punts_of_uplink(&frame, "to what is another now");
            node.tcx.set_tunnel_address(None).expect("address");
            node.punts_of_uplink(&frame, "to none");
            node.punts_of_uplink(&to_other, "to none");
            let to_nobody = changed(&frame, |ip| ip[16..20].fill(0));
            assert_eq!(node.by_uplink(&to_nobody), (TcxVerdict::Next, to_nobody));
            node.tcx.set_tunnel_address(Some(LOCAL)).expect("address");
        }
        // What is switched off is the pollers'.
        let (ipip, vxlan) = (
            by_tunnel(Kind::Ipip, &to_pod(UDP).ip(), 0),
            by_tunnel(Kind::Vxlan4, &to_pod(UDP).ip(), 0),
        );
        node.tcx.set_ipip(false).expect("IPIP");
        node.punts_of_uplink(&ipip, "no IPIP");
        node.tcx.set_vxlan_end(None).expect("VXLAN");
        node.punts_of_uplink(&vxlan, "no VXLAN");
        node.tcx
            .set_vxlan_end(Some((Vni::CALICO, MacAddr([7; 6]))))
            .expect("VXLAN");
        node.punts_of_uplink(&vxlan, "another VTEP");
        assert_eq!(node.tcx.counters().expect("counters").spoilt, 0);
    });
}

#[test]
fn an_uplinks_packets_are_the_hosts_unless_they_are_ours() {
    if skipped_without_root("an_uplinks_packets_are_the_hosts_unless_they_are_ours") {
        return;
    }
    isolated(|| {
        let mut node = Node::new(&TcxConfig::default());
        // An answer from outside, to an address that a pod's connection left with.
        let answer = Packet::new(TCP, end("198.51.100.9", 443), end("192.0.2.1", 40_000));
        let frame = answer.frame(TO_UPLINK);
        assert_eq!(node.by_uplink(&frame), (TcxVerdict::Next, frame.clone()));
        let action = Action {
            destination: Some(end("10.65.1.7", 4000)),
            ..action(node.pod, Way::Pod, rewrite(Kind::Ethernet, TO_POD))
        };
        let key = answer.key(From::Device(node.uplink));
        node.flows.insert(&key, &action, 0).expect("insert");
        let sent = (TcxVerdict::Redirect, expected(&answer.ip(), &action));
        assert_eq!(node.by_uplink(&frame), sent);
        // In a frame that is not for us it is none.
        let mut others = frame.clone();
        others[5] = 9;
        assert_eq!(node.by_uplink(&others), (TcxVerdict::Next, others));
        // Ours, in a frame for another station: the pollers drop it, as they do today.
        let mut others = to_pod(UDP).frame(TO_UPLINK);
        node.punts_of_uplink(&others, "to a pod");
        others[5] = 9;
        let punted = (TcxVerdict::Redirect, tagged(&others, 4, node.uplink));
        assert_eq!(node.by_uplink(&others), punted);
    });
}

/// The program on the NIC and the flows' one, told the same.
fn both(node: &mut Node) -> NicProgram {
    let mut nic = NicProgram::load(&NicConfig::default()).expect("load");
    let mut ports = control::xdp::no_ports();
    ports[0][40_000 / 64] |= 1 << (40_000 % 64);
    ports[3][0] |= 1 << 47;
    for taken in [&mut *nic, &mut *node.tcx] {
        taken.set_vxlan_port(Some(VXLAN_PORT)).expect("port");
        let local = [IpAddr::V4(frames::LOCAL4), IpAddr::V6(frames::LOCAL6)];
        taken.sync_local(local).expect("local");
        taken.sync_nat(local, &ports).expect("NAT");
        taken.sync_pods4([(frames::POD4, 16)]).expect("pods");
        taken.sync_pods6([(frames::POD6, 48)]).expect("pods");
    }
    nic
}

#[test]
fn both_programs_of_an_uplink_take_the_same() {
    if skipped_without_root("both_programs_of_an_uplink_take_the_same") {
        return;
    }
    isolated(|| {
        let mut node = Node::new(&TcxConfig::default());
        let mut nic = both(&mut node);
        let socket = XdpSocket::bind("lo", 0);
        nic.set_socket(0, &socket).expect("set socket");
        let addresses = prop::sample::select(vec![
            end("10.65.1.7", 0).0,
            end("192.0.2.1", 0).0,
            end("198.51.100.9", 0).0,
            end("fd00:65:1::7", 0).0,
            end("2001:db8::1", 0).0,
            end("2001:db8:9::9", 0).0,
        ]);
        let protocols = prop::sample::select(vec![1_u8, 4, 6, 17, 44, 47, 58, 60, 132]);
        let ports = prop::sample::select(vec![VXLAN_PORT, 40_000, 80]);
        let payload = (
            prop::sample::select(vec![0_u8, 1, 3, 11, 12, 129, 17, 6, 47]),
            prop::sample::select(vec![0_usize, 8, 24, 40]),
            (ports.clone(), ports),
            prop::collection::vec(any::<u8>(), 0..60),
        );
        let frame = (
            (addresses.clone(), addresses),
            protocols.clone(),
            payload,
            prop::sample::select(vec![0_u16, 0, 0, 0x2000, 0x2010, 0x10]),
            (protocols, prop::option::of(0..80_usize)),
        );
        let mut runner = TestRunner::new(ProptestConfig {
            cases: 4096,
            failure_persistence: None,
            ..ProptestConfig::default()
        });
        let counted = std::cell::Cell::new((0, 0));
        runner
            .run(
                &frame,
                |((src, dst), protocol, (first, at, ports, rest), fragment, (inner, cut))| {
                    let mut l4 = vec![first, 0];
                    l4.extend(ports.1.to_be_bytes());
                    l4.extend(ports.0.to_be_bytes());
                    l4.extend([0, 30]);
                    // What an ICMP error quotes.
                    let quoted = match dst {
                        IpAddr::V4(_) => {
                            frames::V4::new(frames::LOCAL4, frames::PEER4, inner).frame(&rest)
                        }
                        IpAddr::V6(_) => frames::ipv6(frames::LOCAL6, frames::PEER6, inner, &rest),
                    };
                    l4.extend(&quoted[14..]);
                    l4.extend(&rest);
                    if at == 8 {
                        l4 = frames::extension(inner, &l4);
                    }
                    let mut frame = match (src, dst) {
                        (IpAddr::V4(src), IpAddr::V4(dst)) => {
                            let mut header = frames::V4::new(src, dst, protocol);
                            header.fragment = fragment;
                            header.options = if at == 24 { 8 } else { 0 };
                            header.frame(&l4)
                        }
                        (IpAddr::V6(src), IpAddr::V6(dst)) => frames::ipv6(src, dst, protocol, &l4),
                        _ => return Ok(()),
                    };
                    if let Some(cut) = cut {
                        frame.truncate(cut.max(shortest(&frame)));
                    }
                    let by_nic = nic.verdict(1, 0, &frame).expect("run");
                    let result = node.by_uplink(&frame);
                    let (ours, kernels) = counted.get();
                    if by_nic == Verdict::Redirect {
                        counted.set((ours + 1, kernels));
                        prop_assert_eq!(
                            result,
                            (TcxVerdict::Redirect, tagged(&frame, 0, node.uplink))
                        );
                    } else {
                        counted.set((ours, kernels + 1));
                        prop_assert_eq!(result, (TcxVerdict::Next, frame));
                    }
                    Ok(())
                },
            )
            .unwrap_or_else(|e| panic!("{e}"));
        let (ours, kernels) = counted.get();
        assert!(ours > 400 && kernels > 400, "{counted:?}");
    });
}

/// An address of the family.
fn address(is_v6: bool, bits: u128) -> IpAddr {
    if is_v6 {
        IpAddr::V6((0xfd00_u128 << 112 | bits >> 16).into())
    } else {
        // Unicast, and neither loopback nor nobody's.
        IpAddr::V4((0x0a00_0000 | (bits as u32 & 0x00ff_ffff)).into())
    }
}

/// Flows by chance, their packets, and how they come.
#[derive(Clone, Debug)]
struct Case {
    packet: Packet,
    /// By which tunnel, if by one.
    by: Option<Kind>,
    kind: Kind,
    hash: u32,
    source: Option<(IpAddr, u16)>,
    destination: Option<(IpAddr, u16)>,
    padding: usize,
}

fn case() -> impl Strategy<Value = Case> {
    let kinds = prop::sample::select(vec![Kind::Ethernet, Kind::Ipip, Kind::Vxlan4]);
    let ends = (any::<[u128; 4]>(), any::<[u16; 4]>());
    let header = (2..=255_u8, any::<u8>(), any::<u16>(), any::<bool>());
    let tcp = (any::<u32>(), any::<u32>(), any::<u16>());
    let payload = prop::collection::vec(any::<u8>(), 0..64);
    let how = (
        prop::option::of(kinds.clone()),
        kinds,
        any::<u32>(),
        any::<[bool; 5]>(),
        prop::sample::select(vec![0_usize, 0, 1, 6, 40]),
    );
    (ends, header, tcp, payload, how).prop_map(
        |((bits, ports), (ttl, tos, id, dont_fragment), tcp, payload, how)| {
            let (by, kind, hash, [v6, is_udp, no_checksum, snat, dnat], padding) = how;
            let is_v6 = v6 && kind != Kind::Ipip && by != Some(Kind::Ipip);
            let end = |at: usize| (address(is_v6, bits[at]), ports[at]);
            let mut packet = Packet::new(if is_udp { UDP } else { TCP }, end(0), end(1));
            (packet.ttl, packet.tos, packet.id) = (ttl, tos, id);
            packet.dont_fragment = dont_fragment;
            (packet.seq, packet.ack, packet.window) = tcp;
            packet.payload = payload;
            packet.no_checksum = is_udp && no_checksum;
            Case {
                packet,
                by: by.filter(|by| *by != Kind::Ethernet),
                kind: if by.is_some_and(|by| by != Kind::Ethernet) {
                    Kind::Ethernet
                } else {
                    kind
                },
                hash,
                source: snat.then(|| end(2)),
                destination: dnat.then(|| end(3)),
                padding,
            }
        },
    )
}

#[test]
fn the_kernel_makes_the_bytes_that_the_pollers_make() {
    if skipped_without_root("the_kernel_makes_the_bytes_that_the_pollers_make") {
        return;
    }
    isolated(|| {
        let node = std::cell::RefCell::new(Node::new(&TcxConfig::default()));
        let mut runner = TestRunner::new(ProptestConfig {
            cases: 8192,
            failure_persistence: None,
            ..ProptestConfig::default()
        });
        runner
            .run(&case(), |case| {
                let node = &mut *node.borrow_mut();
                let inner = case.packet.ip();
                let macs = if case.by.is_some() { TO_POD } else { TO_ROUTER };
                let action = Action {
                    flow_hash: case.hash,
                    source: case.source,
                    destination: case.destination,
                    from_mac: case.by.is_none().then_some(POD_MAC),
                    peer: case.by.map(|_| PEER),
                    way: if case.by.is_some() {
                        Way::Pod
                    } else {
                        Way::Uplink
                    },
                    ..action(ROUTE, Way::Pod, rewrite(case.kind, macs))
                };
                let (mut frame, from) = match case.by {
                    Some(by) => (by_tunnel(by, &inner, 0), From::Tunnel),
                    None => (case.packet.frame(FROM_POD), From::Device(node.pod)),
                };
                frame.extend(vec![0xa5; case.padding]);
                let key = case.packet.key(from);
                // A case that failed may have left it.
                node.flows.remove(&key).expect("removed");
                node.flows.insert(&key, &action, 0).expect("insert");
                let result = match case.by {
                    Some(_) => node.by_uplink(&frame),
                    None => node.by_pod(&frame),
                };
                prop_assert_eq!(result, (TcxVerdict::Redirect, expected(&inner, &action)));
                let counts = node.flows.remove(&key).expect("removed").expect("known");
                prop_assert_eq!((counts.packets, counts.bytes), (1, inner.len() as u64));
                Ok(())
            })
            .unwrap_or_else(|e| panic!("{e}"));
    });
}

#[test]
fn keys_and_actions_that_no_program_knows_are_refused() {
    if skipped_without_root("keys_and_actions_that_no_program_knows_are_refused") {
        return;
    }
    isolated(|| {
        let mut node = Node::new(&TcxConfig {
            max_flows4: 2,
            ..TcxConfig::default()
        });
        let packet = of_pod(TCP);
        let key = packet.key(From::Device(node.pod));
        let action = action_of_pod(Kind::Ethernet);
        let refuses = |node: &mut Node, key: Key, action: Action| {
            assert!(
                node.flows.insert(&key, &action, 0).is_err(),
                "{key:?} {action:?}"
            );
            assert_eq!(node.flows.read(&key), None);
        };
        refuses(
            &mut node,
            Key {
                protocol: 132,
                ..key
            },
            action,
        );
        refuses(&mut node, packet.key(From::Device(1 << 24)), action);
        refuses(
            &mut node,
            Key {
                src: end("::1", 1),
                ..key
            },
            action,
        );
        let other_family = Action {
            source: Some(end("fd00::1", 1)),
            ..action
        };
        refuses(&mut node, key, other_family);
        let nested = action_of_pod(Kind::Vxlan4);
        refuses(&mut node, packet.key(From::Tunnel), nested);
        // There is room for two.
        for port in [1, 2] {
            let key = Key {
                src: (key.src.0, port),
                ..key
            };
            node.flows.insert(&key, &action, 0).expect("insert");
        }
        refuses(&mut node, key, action);
        let key = Key {
            src: (key.src.0, 1),
            ..key
        };
        node.flows.insert(&key, &action, 0).expect("again");
        assert_eq!(node.flows.remove(&key), Ok(Some(Counts::default())));
        assert_eq!(node.flows.remove(&key), Ok(None));
    });
}
