//! Random packets through random small tables: the pipeline does what the oracle says, byte for byte.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use encap::eth::MacAddr;
use fastpath::batch::{Fate, PeerId};
use fastpath::port::{PodPort, Port, PortId, PortKind};
use fastpath::reason::DropReason;
use fastpath::tables::Way;
use pcap_tests::build::{self, Mac, ip4, ip6};
use pcap_tests::choices::Choices;
use pcap_tests::judge::{self, View};
use pcap_tests::oracle::{self, Verdict, masked};
use pcap_tests::rig::Rig;
use pcap_tests::show;
use pcap_tests::world::{Hop, To, World};
use proptest::prelude::*;

const UPLINK: PortId = PortId(0);
const POD_A: PortId = PortId(1);
const POD_B: PortId = PortId(2);
const HOST: PortId = PortId(3);

const PORT_MACS: [MacAddr; 4] = [
    MacAddr([2, 0, 0, 0, 1, 2]),
    MacAddr([0xee; 6]),
    MacAddr([0xee; 6]),
    MacAddr([2, 0, 0, 0, 1, 0xaa]),
];
/// Who sends to each port.
const SENDER_MACS: [Mac; 4] = [
    [2, 0, 0, 0, 1, 1],
    [2, 0, 0, 0, 0, 10],
    [2, 0, 0, 0, 0, 11],
    [2, 0, 0, 0, 1, 0xbb],
];
const VTEP: MacAddr = MacAddr([0x66, 0, 0, 0, 0, 1]);
const PEER_VTEP: MacAddr = MacAddr([0x66, 0, 0, 0, 0, 2]);

/// Addresses that matter, and some that should not.
const ADDRS4: [&str; 20] = [
    "10.65.0.2",
    "10.65.0.3",
    "10.65.1.2",
    "10.65.2.2",
    "172.18.0.2",
    "172.18.0.3",
    "172.18.0.4",
    "10.65.0.9",
    "8.8.8.8",
    "192.0.2.1",
    "203.0.113.7",
    "172.18.0.77",
    "127.0.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "240.0.0.1",
    "0.0.0.0",
    "169.254.1.1",
    "10.65.3.2",
    "198.51.100.1",
];
const ADDRS6: [&str; 16] = [
    "fd00:65::2",
    "fd00:65::3",
    "fd00:65:1::2",
    "fd00:65:2::2",
    "2001:db8:18::2",
    "2001:db8:18::3",
    "2001:db8:18::4",
    "fd00:65::9",
    "2001:4860::8",
    "2001:db8:77::1",
    "fe80::1",
    "ff02::1",
    "::",
    "::1",
    "::ffff:10.65.0.2",
    "fd00:65:3::2",
];

fn world(choices: &mut Choices<'_>) -> World {
    let mut port = |index: usize, name: &str, kind: PortKind| Port {
        name: name.to_owned(),
        mac: PORT_MACS[index],
        mtu: choices.of(&[1500, 1500, 1400, 1280, 576]),
        partial_checksums: kind != PortKind::Uplink,
        kind,
        icmp_source4: Some(Ipv4Addr::new(169, 254, 1, 1).into()),
        icmp_source6: Some(
            "2001:db8:18::2"
                .parse::<Ipv6Addr>()
                .expect("an address")
                .into(),
        ),
        nat4: None,
        nat6: None,
        since: 0,
    };
    let pod = |last: u8, mac: Option<MacAddr>| {
        PortKind::Pod(PodPort {
            mac,
            addrs4: vec![Ipv4Addr::new(10, 65, 0, last).into()],
            addrs6: vec![Ipv6Addr::new(0xfd00, 0x65, 0, 0, 0, 0, 0, last.into()).into()],
            // 198.51.100.0/24 is a's to use.
            allowed4: if last == 2 {
                vec![(0xc633_6400, 0xffff_ff00)]
            } else {
                Vec::new()
            },
            allowed6: Vec::new(),
        })
    };
    let ports = vec![
        port(0, "eth0", PortKind::Uplink),
        port(1, "cali1", pod(2, Some(MacAddr(SENDER_MACS[1])))),
        port(2, "cali2", pod(3, None)),
        port(3, "caracal0", PortKind::Host),
    ];
    let mut routes = Vec::new();
    let mut candidates: Vec<(&str, Hop)> = Vec::new();
    let to = |port: PortId, mac: Mac, way, peer, tunnel| Hop::Send {
        port,
        mac: MacAddr(mac),
        way,
        peer: PeerId(peer),
        tunnel,
    };
    let gateway = SENDER_MACS[0];
    let peer_tunnels4 = [
        Some(To::Vxlan4(Ipv4Addr::new(172, 18, 0, 3), PEER_VTEP)),
        Some(To::Ipip(Ipv4Addr::new(172, 18, 0, 3))),
        None,
    ];
    let peer6: Ipv6Addr = "2001:db8:18::3".parse().expect("an address");
    let tunnel4 = choices.of(&peer_tunnels4);
    let tunnel6 = choices.of(&[
        Some(To::Vxlan6(peer6, PEER_VTEP)),
        Some(To::Vxlan4(Ipv4Addr::new(172, 18, 0, 3), PEER_VTEP)),
        None,
    ]);
    let way = |tunnel: Option<To>| {
        if tunnel.is_some() {
            Way::Tunnel
        } else {
            Way::Uplink
        }
    };
    for (net4, net6, hop) in [
        (
            "10.65.0.2/32",
            "fd00:65::2/128",
            to(POD_A, SENDER_MACS[1], Way::Pod, 0, None),
        ),
        (
            "10.65.0.3/32",
            "fd00:65::3/128",
            to(POD_B, SENDER_MACS[2], Way::Pod, 0, None),
        ),
        (
            "172.18.0.2/32",
            "2001:db8:18::2/128",
            to(HOST, SENDER_MACS[3], Way::Host, 0, None),
        ),
        (
            "10.65.0.0/26",
            "fd00:65::/122",
            Hop::Drop(DropReason::Blackhole),
        ),
        (
            "172.18.0.0/16",
            "2001:db8:18::/64",
            to(UPLINK, gateway, Way::Uplink, 0, None),
        ),
        (
            "172.18.0.3/32",
            "2001:db8:18::3/128",
            to(UPLINK, [2, 0, 0, 0, 1, 3], Way::Uplink, 0, None),
        ),
        (
            "172.18.0.77/32",
            "2001:db8:77::1/128",
            Hop::Unresolved {
                port: UPLINK,
                way: Way::Uplink,
            },
        ),
        (
            "0.0.0.0/0",
            "::/0",
            to(UPLINK, gateway, Way::Uplink, 0, None),
        ),
        (
            "192.0.2.0/24",
            "2001:db8:7::/48",
            Hop::Drop(DropReason::Unreachable),
        ),
        (
            "203.0.113.0/25",
            "2001:db8:8::/48",
            Hop::Drop(DropReason::Prohibited),
        ),
        (
            "10.65.2.0/26",
            "fd00:65:2::/122",
            to(UPLINK, gateway, Way::Uplink, 2, None),
        ),
    ] {
        candidates.extend([(net4, hop), (net6, hop)]);
    }
    candidates.push((
        "10.65.1.0/26",
        to(UPLINK, [2, 0, 0, 0, 1, 3], way(tunnel4), 1, tunnel4),
    ));
    candidates.push((
        "fd00:65:1::/122",
        to(UPLINK, [2, 0, 0, 0, 1, 3], way(tunnel6), 1, tunnel6),
    ));
    for (net, hop) in candidates {
        if !choices.once_in(8) {
            routes.push((net.parse().expect("a prefix"), hop));
        }
    }
    let node = |v4: &str, v6: &str, peer: u16| {
        [v4.parse::<IpAddr>(), v6.parse()].map(|addr| (addr.expect("an address"), PeerId(peer)))
    };
    World {
        ports,
        routes,
        local4: Ipv4Addr::new(172, 18, 0, 2),
        local6: "2001:db8:18::2".parse().expect("an address"),
        vxlan: (4096, !choices.once_in(6), !choices.once_in(6)),
        vtep: VTEP,
        ipip: !choices.once_in(6),
        peers: [
            node("172.18.0.3", "2001:db8:18::3", 1),
            node("172.18.0.4", "2001:db8:18::4", 2),
        ]
        .concat(),
        pods_may: (choices.once_in(5), choices.once_in(5)),
    }
}

/// Source and destination for a packet into a port: mostly such as belong there.
fn ends<'a>(choices: &mut Choices<'_>, port: PortId, all: &[&'a str]) -> (&'a str, &'a str) {
    let usual = [8, 0, 1, 4][usize::from(port.0)];
    let src = if choices.once_in(10) {
        choices.of(all)
    } else {
        all[usual]
    };
    // The first ten are good for something.
    let dst = if choices.once_in(4) {
        choices.of(all)
    } else {
        choices.of(&all[..10])
    };
    (src, dst)
}

/// An IP packet between two addresses of a list.
fn packet(choices: &mut Choices<'_>, v4: bool, src: &str, dst: &str) -> Vec<u8> {
    let ttl = choices.of(&[64, 64, 64, 64, 64, 64, 64, 64, 2, 1, 0, 255]);
    let len = choices.of(&[0_usize, 18, 100, 1250, 1400, 1425, 1450, 1472, 1473]);
    let data = build::counted(len);
    let (sport, dport) = (choices.word(), choices.of(&[80, 53, 443, 80, 4789, 8472]));
    if !v4 {
        let ip = ip6(src, dst).hop_limit(ttl).class(choices.byte());
        return match choices.below(7) {
            0 | 1 => ip.udp(sport, dport, &data),
            2 => ip.tcp(sport, dport, 0x10, &data),
            3 => ip.icmp(choices.of(&[128, 129, 1, 2, 3]), 0, 7, &data),
            4 => ip.packet(choices.of(&[4, 41, 47, 50, 59, 132]), &data),
            5 => ip.udp_unchecked(sport, dport, &data),
            _ => ip.udp_partial(sport, dport, &data),
        };
    }
    let fragment = choices.of(&[
        build::DF,
        0,
        build::DF,
        0,
        build::DF,
        0,
        build::DF,
        build::MF,
        build::MF | 0xb9,
        0xb9,
        1,
    ]);
    let options: &[u8] = match choices.below(20).wrapping_sub(10) {
        0 => &[1, 1, 1, 0],
        1 => &[0x1e, 4, 1, 2],
        2 => &[131, 7, 4, 10, 0, 0, 1, 0],
        3 => &[7, 0, 0, 0],
        4 => &[7, 9, 4, 0],
        _ => &[],
    };
    let ip = ip4(src, dst)
        .ttl(ttl)
        .tos(choices.byte())
        .id(choices.word())
        .fragment(fragment)
        .options(options);
    let data = if fragment & build::MF != 0 {
        &data[..len / 8 * 8]
    } else {
        &data[..]
    };
    match choices.below(8) {
        0 | 1 => ip.udp(sport, dport, data),
        2 => ip.tcp(sport, dport, 0x10, data),
        3 => ip.icmp(choices.of(&[8, 0, 3, 11, 13]), 0, 7, data),
        4 => ip.packet(choices.of(&[4, 41, 47, 50, 132]), data),
        5 => ip.udp_unchecked(sport, dport, data),
        6 => ip.udp_partial(sport, dport, data),
        _ => ip.packet(choices.byte(), data),
    }
}

fn tunnel_packet(choices: &mut Choices<'_>) -> Vec<u8> {
    let inner_v4 = !choices.once_in(3);
    let list: &[&str] = if inner_v4 { &ADDRS4 } else { &ADDRS6 };
    // From a pod of the peer to one of ours, mostly.
    let src = if choices.once_in(4) {
        choices.of(list)
    } else {
        list[2]
    };
    let dst = if choices.once_in(3) {
        choices.of(list)
    } else {
        list[0]
    };
    let inner = packet(choices, inner_v4, src, dst);
    let peer = choices.of(&[5, 5, 5, 6, 8]);
    let outer = |dst: &str| ip4(ADDRS4[peer], dst);
    let to = if choices.once_in(10) {
        ADDRS4[5]
    } else {
        ADDRS4[4]
    };
    let outer = outer(to).ttl(choices.of(&[64, 1])).tos(choices.byte() & 3);
    let outer = outer.fragment(choices.of(&[build::DF, 0, build::DF, build::MF]));
    let vni = choices.of(&[4096, 4096, 4096, 4097, 0]);
    let mac = if choices.once_in(8) {
        choices.of(&[PEER_VTEP.0, [0xff; 6]])
    } else {
        VTEP.0
    };
    let mut frame = build::ethernet(mac, PEER_VTEP.0, &inner);
    if choices.once_in(12) {
        frame[12..14].copy_from_slice(&choices.of(&[[8, 6], [0x86, 0xdd], [8, 0], [0x81, 0]]));
    }
    let mut vxlan = build::vxlan(vni, &frame);
    if choices.once_in(8) {
        // Reserved bits are ignored, the I flag is not.
        vxlan[0] = choices.byte();
        vxlan[7] = choices.byte();
    }
    match choices.below(5) {
        0 | 1 => outer.udp_unchecked(50000, 4789, &vxlan),
        2 => outer.udp(50000, 4789, &vxlan),
        3 => outer.packet(build::IPIP, &inner),
        _ => {
            let v6 = ip6(ADDRS6[choices.of(&[5, 5, 6, 8])], ADDRS6[4]).class(choices.byte() & 0x30);
            if choices.once_in(3) {
                v6.udp_unchecked(50000, 4789, &vxlan)
            } else {
                v6.udp(50000, 4789, &vxlan)
            }
        }
    }
}

fn arp_frame(choices: &mut Choices<'_>, port: PortId, dst: Mac, src: Mac) -> Vec<u8> {
    let addr = |choices: &mut Choices<'_>| {
        choices.of(&[
            [10, 65, 0, 2],
            [10, 65, 0, 3],
            [169, 254, 1, 1],
            [0; 4],
            [8, 8, 8, 8],
        ])
    };
    let own = [
        [172, 18, 0, 1],
        [10, 65, 0, 2],
        [10, 65, 0, 3],
        [172, 18, 0, 2],
    ][usize::from(port.0)];
    let sender = if choices.once_in(3) {
        addr(choices)
    } else {
        own
    };
    let sender_mac = if choices.once_in(8) { [2; 6] } else { src };
    let target = addr(choices);
    let message = build::arp(
        choices.of(&[1, 1, 1, 2, 3]),
        (sender_mac, sender),
        ([0; 6], target),
    );
    build::frame(
        if choices.once_in(3) { dst } else { [0xff; 6] },
        src,
        0x0806,
        &message,
    )
}

fn frame(choices: &mut Choices<'_>, port: PortId) -> Vec<u8> {
    let index = usize::from(port.0);
    let (mut dst, mut src) = (PORT_MACS[index].0, SENDER_MACS[index]);
    if choices.once_in(16) {
        dst = choices.of(&[[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [2, 9, 9, 9, 9, 9]]);
    }
    if choices.once_in(20) {
        src = choices.of(&[[2, 7, 7, 7, 7, 7], [1, 2, 3, 4, 5, 6], [0; 6]]);
    }
    let mut frame = match choices.below(16) {
        0 => arp_frame(choices, port, dst, src),
        1 => build::frame(
            dst,
            src,
            choices.of(&[0x8100, 0x88a8, 0x88cc, 0x05dc]),
            &build::counted(60),
        ),
        kind => {
            let packet = if port == UPLINK && kind < 10 {
                tunnel_packet(choices)
            } else {
                let v4 = !choices.once_in(3);
                let list: &[&str] = if v4 { &ADDRS4 } else { &ADDRS6 };
                let (from, to) = ends(choices, port, list);
                packet(choices, v4, from, to)
            };
            build::ethernet(dst, src, &packet)
        }
    };
    match choices.below(16) {
        // A byte flipped.
        5 => {
            let at = usize::from(choices.word()) % frame.len().min(120);
            frame[at] ^= choices.byte();
        }
        // Cut.
        6 => {
            let at = usize::from(choices.word()) % (frame.len() + 1);
            frame.truncate(at);
        }
        // Padded.
        7 => frame.extend(std::iter::repeat_n(0xaa, choices.below(64))),
        _ => {}
    }
    frame
}

/// Compares what happened with what should have.
fn compare(
    world: &World,
    port: PortId,
    input: &[u8],
    fate: Fate,
    sent: &[(PortId, Vec<u8>)],
    verdict: &Verdict,
) -> Result<(), String> {
    for (out, frame) in sent {
        judge::frame(world.port(*out), frame)?;
    }
    let one = |sent: &[(PortId, Vec<u8>)]| match sent {
        [one] => Ok(one.clone()),
        _ => Err(format!("{} packets were sent", sent.len())),
    };
    match verdict {
        Verdict::Forward(out, expected) => {
            if fate != Fate::Transmit(*out) {
                return Err("it should have been forwarded".to_owned());
            }
            let (by, frame) = one(sent)?;
            let tunnel = expected != &masked(expected, false) || is_tunnel(world, input, expected);
            let found = masked(&frame, tunnel);
            if by != *out || &found != expected {
                return Err(show::difference(
                    "forwarded",
                    std::slice::from_ref(expected),
                    &[found],
                ));
            }
        }
        Verdict::Fragments(out) => {
            if fate != Fate::Transmit(*out)
                || sent.len() < 2
                || sent.iter().any(|(by, _)| by != out)
            {
                return Err("it should have been forwarded in pieces".to_owned());
            }
        }
        Verdict::Answer(expected) => {
            if fate != Fate::Transmit(port) {
                return Err("it should have been answered".to_owned());
            }
            let (by, found) = one(sent)?;
            if by != port || found != *expected {
                return Err(show::difference(
                    "answer",
                    std::slice::from_ref(expected),
                    &[found],
                ));
            }
        }
        Verdict::Punt | Verdict::Held => {
            let expected = if *verdict == Verdict::Punt {
                Fate::Punt
            } else {
                Fate::Held
            };
            if fate != expected || !sent.is_empty() {
                return Err(format!("expected {expected:?}"));
            }
        }
        Verdict::Drop(reason, told) => {
            if fate != Fate::Drop(*reason) {
                return Err("it should have been dropped".to_owned());
            }
            told_right(world, input, sent, *told)?;
        }
        Verdict::Unsure => {}
    }
    Ok(())
}

/// Whether a frame that is forwarded is one of our own tunnel packets: it is longer than what came in carried.
fn is_tunnel(world: &World, input: &[u8], expected: &[u8]) -> bool {
    let Some(view) = View::of(&expected[14..]) else {
        return false;
    };
    let ours = view.src == world.local4.octets() || view.src == world.local6.octets();
    ours && judge::open(&view).is_some()
        && View::of(&input[14..])
            .is_none_or(|before| before.src != view.src || before.bytes.len() < view.bytes.len())
}

/// An ICMP error goes out when one should, and only then. Where it goes is the routes' business: it may find none.
fn told_right(
    world: &World,
    input: &[u8],
    sent: &[(PortId, Vec<u8>)],
    told: Option<(u8, u8)>,
) -> Result<(), String> {
    match (sent, told) {
        ([], _) => Ok(()),
        (_, None) => Err("something was sent about a packet that is dropped silently".to_owned()),
        ([(_, frame), rest @ ..], Some((kind, code))) => {
            let error = untunnelled(world, input, frame).ok_or("no IP packet")?;
            let pieces = [frame]
                .into_iter()
                .chain(rest.iter().map(|(_, frame)| frame));
            let mut pieces = pieces.filter_map(|frame| untunnelled(world, input, frame));
            if !rest.is_empty() && !pieces.all(|piece| piece.fragment) {
                return Err(format!("{} packets about one", sent.len()));
            }
            if error.payload()[..2] != [kind, code] {
                return Err(format!(
                    "type and code {:?}, not {kind} {code}",
                    &error.payload()[..2]
                ));
            }
            // Where even the error is longer than the way's MTU, its pieces have no checksums of their own.
            if rest.is_empty() && error.check() != judge::Check::Right {
                return Err("its checksum is wrong".to_owned());
            }
            Ok(())
        }
    }
}

/// The IP packet of a frame that was sent, out of our tunnel.
fn untunnelled(world: &World, input: &[u8], frame: &[u8]) -> Option<View> {
    let view = View::of(&frame[14..])?;
    match judge::open(&view).and_then(|inner| View::of(&inner)) {
        Some(inner) if is_tunnel(world, input, frame) => Some(inner),
        _ => Some(view),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn the_pipeline_does_what_the_oracle_says(
        tables in prop::collection::vec(any::<u8>(), 64),
        packets in prop::collection::vec((0..4_u16, prop::collection::vec(any::<u8>(), 64)), 1..40),
    ) {
        let world = world(&mut Choices::new(&tables));
        let mut rig = Rig::new(world.tables());
        for (port, bytes) in &packets {
            let port = PortId(*port);
            let frame = frame(&mut Choices::new(bytes), port);
            let verdict = oracle::judge(&world, port, &frame);
            let outcome = rig.run(port, std::slice::from_ref(&frame));
            let sent: Vec<_> = outcome.all().map(|(port, frame)| (port, frame.clone())).collect();
            let fate = outcome.fates[0];
            if let Err(problem) = compare(&world, port, &frame, fate, &sent, &verdict) {
                let shown: String = sent.iter().map(|(_, frame)| show::frame(frame)).collect();
                prop_assert!(false, "{problem}\ninto {port:?}: {fate:?}, the oracle says {verdict:?}\n{}sent\n{shown}", show::frame(&frame));
            }
        }
    }

    /// A batch is no more than its packets one by one.
    #[test]
    fn a_batch_meets_the_fates_of_its_packets(
        tables in prop::collection::vec(any::<u8>(), 64),
        port in 0..4_u16,
        packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 64), 1..40),
    ) {
        let world = world(&mut Choices::new(&tables));
        let port = PortId(port);
        let frames: Vec<Vec<u8>> = packets.iter().map(|bytes| frame(&mut Choices::new(bytes), port)).collect();
        let together = Rig::new(world.tables()).run(port, &frames).fates;
        let mut rig = Rig::new(world.tables());
        let alone: Vec<Fate> = frames.iter().map(|frame| rig.run(port, std::slice::from_ref(frame)).fates[0]).collect();
        prop_assert_eq!(together, alone);
    }
}

/// How many packets the next test looks at.
const PACKETS: usize = 8000;

/// The oracle must be sure of most packets, and the packets must be of all kinds: else the test above is worth little.
#[test]
fn the_random_packets_meet_all_kinds_of_fates() {
    let mut state = 1_u64;
    let mut bytes = move || {
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        };
        (0..64).map(|_| next()).collect::<Vec<u8>>()
    };
    let (mut unsure, mut kinds, mut reasons) = (
        0,
        std::collections::BTreeMap::new(),
        std::collections::BTreeSet::new(),
    );
    for index in 0..PACKETS {
        let world = world(&mut Choices::new(&bytes()));
        let port = PortId((index % 4) as u16);
        let kind = match oracle::judge(&world, port, &frame(&mut Choices::new(&bytes()), port)) {
            Verdict::Forward(..) => "forward",
            Verdict::Fragments(_) => "fragments",
            Verdict::Answer(_) => "answer",
            Verdict::Punt => "punt",
            Verdict::Held => "held",
            Verdict::Unsure => {
                unsure += 1;
                "unsure"
            }
            Verdict::Drop(reason, _) => {
                reasons.insert(reason);
                "drop"
            }
        };
        *kinds.entry(kind).or_insert(0) += 1;
    }
    assert_eq!(kinds.len(), 7, "{kinds:?}");
    assert!(unsure * 10 < PACKETS, "{kinds:?}");
    assert!(kinds["forward"] * 7 > PACKETS, "{kinds:?}");
    assert!(
        reasons.len() >= 30,
        "{} reasons: {reasons:?}",
        reasons.len()
    );
}
