//! All third-party captures, at every kind of port, whole and cut at every length, bare and in tunnels.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use encap::eth::MacAddr;
use encap::outer::Macs;
use fastpath::batch::{Fate, PeerId};
use fastpath::capture::Problem;
use fastpath::port::{PodPort, Port, PortId, PortKind};
use fastpath::tables::Way;
use pcap_tests::build::{self, Mac, ethernet, ip4, ip6};
use pcap_tests::fixtures;
use pcap_tests::judge::{self, View};
use pcap_tests::rig::{Outcome, Rig};
use pcap_tests::show;
use pcap_tests::world::{Hop, To, World};

const UPLINK: PortId = PortId(0);
const POD: PortId = PortId(1);
const HOST: PortId = PortId(2);

const NODE_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 2]);
const GATEWAY_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
const POD_MAC: Mac = [2, 0, 0, 0, 0, 10];
const VTEP: MacAddr = MacAddr([0x66, 0, 0, 0, 0, 1]);
const PEER_VTEP: MacAddr = MacAddr([0x66, 0, 0, 0, 0, 2]);

const LOCAL4: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 2);
const PEER4: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 3);
const LOCAL6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x18, 0, 0, 0, 0, 2);
const PEER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x18, 0, 0, 0, 0, 3);

/// A node that lets everything through: one route to everywhere, a pod that may send from any address.
fn world(tunnel: Option<To>) -> World {
    let port = |name: &str, mac, kind, partial_checksums| Port {
        name: name.to_owned(),
        mac,
        mtu: 1500,
        kind,
        partial_checksums,
        icmp_source4: Some(Ipv4Addr::new(169, 254, 1, 1).into()),
        icmp_source6: Some(LOCAL6.into()),
        nat4: None,
        nat6: None,
        since: 0,
    };
    let pod = PodPort {
        mac: None,
        allowed4: vec![(0, 0)],
        allowed6: vec![(0, 0)],
        ..PodPort::default()
    };
    let hop = Hop::Send {
        port: UPLINK,
        mac: GATEWAY_MAC,
        way: if tunnel.is_some() {
            Way::Tunnel
        } else {
            Way::Uplink
        },
        peer: PeerId(1),
        tunnel,
    };
    World {
        ports: vec![
            port("eth0", NODE_MAC, PortKind::Uplink, false),
            port("cali1", MacAddr([0xee; 6]), PortKind::Pod(pod), true),
            port(
                "caracal0",
                MacAddr([2, 0, 0, 0, 1, 0xaa]),
                PortKind::Host,
                true,
            ),
        ],
        routes: ["0.0.0.0/0", "::/0"]
            .map(|net| (net.parse().expect("a prefix"), hop))
            .into(),
        local4: LOCAL4,
        local6: LOCAL6,
        vxlan: (4096, true, true),
        vtep: VTEP,
        ipip: true,
        peers: vec![
            (IpAddr::V4(PEER4), PeerId(1)),
            (IpAddr::V6(PEER6), PeerId(1)),
        ],
        pods_may: (true, true),
    }
}

/// Every Ethernet frame of every capture, with the capture's name; what can not be read is left out.
fn corpus() -> Vec<(String, Vec<u8>)> {
    let macs = Macs {
        dst: NODE_MAC,
        src: GATEWAY_MAC,
    };
    let mut corpus = Vec::new();
    for fixture in fixtures::all() {
        let Ok(frames) = fixtures::frames(&fixture.path, &macs) else {
            continue;
        };
        let name = fixture
            .path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        for (index, frame) in frames.into_iter().enumerate() {
            if frame.len() <= Rig::longest() - 100 {
                corpus.push((format!("{name}, packet {index}"), frame));
            }
        }
    }
    assert!(corpus.len() > 4500, "{} packets", corpus.len());
    corpus
}

/// The frame as if it were sent to this port.
fn addressed(frame: &[u8], to: MacAddr, from: Mac) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if let Some(macs) = frame.get_mut(..12) {
        macs[..6].copy_from_slice(&to.0);
        macs[6..].copy_from_slice(&from);
    }
    frame
}

#[test]
fn all_captures_are_read_as_tshark_reads_them_or_refused_with_a_reason() {
    let macs = Macs {
        dst: NODE_MAC,
        src: GATEWAY_MAC,
    };
    let all = fixtures::all();
    assert_eq!(all.len(), 359);
    for fixture in all {
        let frames = fixtures::frames(&fixture.path, &macs);
        match (fixture.links.as_str(), frames) {
            ("1" | "228" | "229", Ok(frames)) => {
                assert_eq!(frames.len(), fixture.packets, "{}", fixture.path.display());
            }
            ("9" | "113", Err(error)) => {
                let number = fixture.links.parse().expect("a number");
                assert!(
                    matches!(error.problem, Problem::Link(link) if link == number),
                    "{error}"
                );
            }
            (_, outcome) => panic!("{fixture:?}: {outcome:?}"),
        }
    }
}

/// What each output must be, whatever it answers.
fn judge_outputs(rig: &Rig, outcome: &Outcome, what: &str) {
    for (port, frame) in outcome.all() {
        let port = rig.tables().port(port).expect("a port");
        if let Err(problem) = judge::frame(port, frame) {
            panic!(
                "{what}: out by {}: {problem}\n{}",
                port.name,
                show::frame(frame)
            );
        }
    }
}

/// Lets one packet in and judges what comes out against it.
fn judge_packet(rig: &mut Rig, port: PortId, frame: &[u8], what: &str) -> Fate {
    let outcome = rig.run(port, &[frame.to_vec()]);
    judge_outputs(rig, &outcome, what);
    let fate = outcome.fates[0];
    let out: Vec<(PortId, &Vec<u8>)> = outcome.all().collect();
    let fail = |problem: &str| {
        let sent: String = out.iter().map(|(_, frame)| show::frame(frame)).collect();
        panic!(
            "{what} into {port:?}: {problem}\nin, {fate:?}\n{}out\n{sent}",
            show::frame(frame)
        )
    };
    match fate {
        Fate::Transmit(_) => {
            if frame.get(12..14) == Some(&[8, 6]) {
                return fate;
            }
            let before = carried(&frame[14..], port);
            let Some(before) = before else {
                fail("a packet that is no IP was forwarded")
            };
            let (_, first) = out[0];
            let after = View::of(&first[14..]).and_then(|view| match judge::open(&view) {
                Some(inner) if rig.encapsulates() => View::of(&inner),
                _ => Some(view),
            });
            let Some(after) = after else {
                fail("what left is no IP packet")
            };
            if before.protocol == build::ICMPV6 && after.src != before.src {
                // An answer to neighbour discovery.
                return fate;
            }
            if out.len() > 1 || after.fragment && !before.fragment {
                judge_fragments(rig, &before, &out).unwrap_or_else(|problem| fail(&problem));
                return fate;
            }
            let completes = judge::completes(rig.tables(), port);
            let spent = u8::from(port != HOST);
            judge::forwarded(&before, &after, spent, completes)
                .unwrap_or_else(|problem| fail(&problem));
        }
        Fate::Drop(_) => {
            if out.len() > 1 {
                fail("more than one packet for a dropped one");
            }
            if let Some((to, error)) = out.first() {
                let before = carried(&frame[14..], port);
                let error = View::of(&error[14..]);
                let (Some(before), Some(error)) = (before, error) else {
                    fail("not about a packet")
                };
                let error = match judge::open(&error) {
                    Some(inner) if rig.encapsulates() => View::of(&inner).unwrap_or(error),
                    _ => error,
                };
                // Everything is routed to the uplink.
                assert_eq!(*to, UPLINK);
                judge::icmp_error(&before, &error).unwrap_or_else(|problem| fail(&problem));
            }
        }
        Fate::Punt | Fate::Held => {
            if !out.is_empty() {
                fail("a packet that went nowhere was sent");
            }
        }
        Fate::Undecided => fail("no fate"),
    }
    fate
}

/// The packet that is forwarded: the one inside, when a tunnel to us ends here.
fn carried(l3: &[u8], port: PortId) -> Option<View> {
    let outer = View::of(l3)?;
    let to_us = outer.dst == LOCAL4.octets() || outer.dst == LOCAL6.octets();
    match judge::open(&outer) {
        Some(inner) if port == UPLINK && to_us => View::of(&inner),
        _ => Some(outer),
    }
}

/// The fragments of one packet must make it up again, but for TTL and checksum.
fn judge_fragments(rig: &Rig, before: &View, out: &[(PortId, &Vec<u8>)]) -> Result<(), String> {
    let mut data = Vec::new();
    let start = usize::from(u16::from_be_bytes([before.bytes[6], before.bytes[7]]) & 0x1fff) * 8;
    for (index, (_, frame)) in out.iter().enumerate() {
        let view = View::of(&frame[14..]).ok_or("no IP packet")?;
        let view = match judge::open(&view) {
            Some(inner) if rig.encapsulates() => View::of(&inner).ok_or("no IP packet inside")?,
            _ => view,
        };
        let word = u16::from_be_bytes([view.bytes[6], view.bytes[7]]);
        if usize::from(word & 0x1fff) * 8 != start + data.len() {
            return Err(format!("fragment {index} does not follow"));
        }
        let more_before = before.bytes[6] & 0x20 != 0;
        if (word & build::MF != 0) != (index + 1 < out.len() || more_before) {
            return Err(format!("fragment {index}: more fragments is wrong"));
        }
        if view.bytes[4..6] != before.bytes[4..6] {
            return Err("the identification changed".to_owned());
        }
        data.extend_from_slice(view.payload());
    }
    if before.check() != judge::Check::Partial && data != before.payload() {
        return Err("the fragments do not make up the packet".to_owned());
    }
    Ok(())
}

#[test]
fn every_packet_is_accounted_for_and_what_leaves_is_right() {
    let corpus = corpus();
    let tunnels = [
        None,
        Some(To::Ipip(PEER4)),
        Some(To::Vxlan4(PEER4, PEER_VTEP)),
        Some(To::Vxlan6(PEER6, PEER_VTEP)),
    ];
    for tunnel in tunnels {
        let mut rig = Rig::new(world(tunnel).tables());
        rig.set_encapsulates(tunnel.is_some());
        let mut forwarded = 0;
        for port in [UPLINK, POD, HOST] {
            let mac = rig.tables().port(port).expect("a port").mac;
            for (what, frame) in &corpus {
                judge_packet(&mut rig, port, frame, what);
                let frame = addressed(frame, mac, POD_MAC);
                let fate = judge_packet(&mut rig, port, &frame, what);
                forwarded += usize::from(matches!(fate, Fate::Transmit(_)));
            }
        }
        assert!(
            forwarded > 2500,
            "only {forwarded} packets were forwarded: is the test still one?"
        );
    }
}

#[test]
fn every_packet_in_a_tunnel_is_accounted_for_and_what_leaves_is_right() {
    let mut rig = Rig::new(world(None).tables());
    let mut forwarded = 0;
    for (what, frame) in corpus() {
        let Some(packet) = frame.get(14..).filter(|packet| packet.len() < 1430) else {
            continue;
        };
        let inner = addressed(&frame, VTEP, PEER_VTEP.0);
        let vxlan = build::vxlan(4096, &inner);
        let (src4, dst4) = (PEER4.to_string(), LOCAL4.to_string());
        let (src6, dst6) = (PEER6.to_string(), LOCAL6.to_string());
        let outers = [
            ip4(&src4, &dst4).udp(50000, 4789, &vxlan),
            ip4(&src4, &dst4).udp_unchecked(50000, 4789, &vxlan),
            ip6(&src6, &dst6).udp(50000, 4789, &vxlan),
            ip4(&src4, &dst4).packet(build::IPIP, packet),
        ];
        for outer in outers {
            let frame = ethernet(NODE_MAC.0, GATEWAY_MAC.0, &outer);
            let fate = judge_packet(&mut rig, UPLINK, &frame, &what);
            forwarded += usize::from(matches!(fate, Fate::Transmit(_)));
        }
    }
    assert!(
        forwarded > 5000,
        "only {forwarded} packets were forwarded: is the test still one?"
    );
}

/// The lengths that a frame is cut at: every one up to 256 bytes, then fewer and fewer.
fn cuts(len: usize) -> impl Iterator<Item = usize> {
    (0..len.min(256)).chain((256..len).step_by(97))
}

#[test]
fn packets_cut_anywhere_are_accounted_for_and_what_leaves_is_right() {
    let mut rig = Rig::new(world(None).tables());
    for (what, frame) in corpus() {
        for port in [UPLINK, POD, HOST] {
            let mac = rig.tables().port(port).expect("a port").mac;
            let frame = addressed(&frame, mac, POD_MAC);
            let cut: Vec<Vec<u8>> = cuts(frame.len()).map(|len| frame[..len].to_vec()).collect();
            let outcome = rig.run(port, &cut);
            judge_outputs(&rig, &outcome, &what);
        }
    }
}

#[test]
fn tunnel_packets_cut_anywhere_are_accounted_for_and_what_leaves_is_right() {
    let mut rig = Rig::new(world(None).tables());
    for (what, frame) in corpus().into_iter().step_by(5) {
        let frame = addressed(&frame, VTEP, PEER_VTEP.0);
        let frame = &frame[..frame.len().min(400)];
        for len in cuts(frame.len()) {
            // The outer headers are whole and tell of all there is; the inner ones are cut.
            let vxlan = build::vxlan(4096, &frame[..len]);
            let outer = ip4(&PEER4.to_string(), &LOCAL4.to_string());
            let mut frames = vec![ethernet(
                NODE_MAC.0,
                GATEWAY_MAC.0,
                &outer.udp_unchecked(50000, 4789, &vxlan),
            )];
            if let Some(packet) = frame.get(14..len) {
                frames.push(ethernet(
                    NODE_MAC.0,
                    GATEWAY_MAC.0,
                    &outer.packet(build::IPIP, packet),
                ));
            }
            let outcome = rig.run(UPLINK, &frames);
            judge_outputs(&rig, &outcome, &what);
        }
    }
}
