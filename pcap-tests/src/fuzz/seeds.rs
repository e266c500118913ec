//! Inputs to begin with.

use std::fs;
use std::path::{Path, PathBuf};

use encap::outer::Macs;
use encap::{eth, ipv4, ipv6};

use super::packets::{
    OUTSIDE, OUTSIDE6, PEER, PEER_VTEP, POD, POD6, REMOTE, SERVICE, SERVICE6, VNI, VTEP, mark,
};
use crate::build::{self, ethernet, ip4, ip6};
use crate::fixtures;

/// Of a capture's packets not more than these.
const PACKETS: usize = 3;

/// The first packets of all captures.
pub(super) fn frames() -> Vec<Vec<u8>> {
    let macs = Macs {
        dst: VTEP,
        src: PEER_VTEP,
    };
    let frames = fixtures::all()
        .into_iter()
        .filter_map(|fixture| fixtures::frames(&fixture.path, &macs).ok());
    frames
        .flat_map(|frames| frames.into_iter().take(PACKETS))
        .filter(|frame| frame.len() < 2000)
        .collect()
}

fn of_type(ethertype: eth::EtherType) -> Vec<Vec<u8>> {
    let packets = frames().into_iter().filter_map(|frame| {
        let header = eth::parse(&frame).ok()?;
        let packet = frame.get(usize::from(header.header_len)..)?;
        (header.ethertype == ethertype).then(|| packet.to_vec())
    });
    packets.collect()
}

pub(super) fn ipv4() -> Vec<Vec<u8>> {
    of_type(eth::EtherType::IPV4)
}

pub(super) fn ipv6() -> Vec<Vec<u8>> {
    of_type(eth::EtherType::IPV6)
}

/// Errors of the captures, and one about each packet of them.
pub(super) fn icmp_errors4() -> Vec<Vec<u8>> {
    let about = |packet: Vec<u8>| {
        let ip = ipv4::parse(&packet).ok()?;
        let message = [&[3, 1, 0, 0, 0, 0, 0, 0], &packet[..packet.len().min(100)]].concat();
        let (from, to) = (
            OUTSIDE.to_string(),
            std::net::Ipv4Addr::from(ip.src).to_string(),
        );
        Some(ip4(&from, &to).packet(build::ICMP, &with_sum(message, 2, 0)))
    };
    ipv4().into_iter().filter_map(about).collect()
}

pub(super) fn icmp_errors6() -> Vec<Vec<u8>> {
    let about = |packet: Vec<u8>| {
        let ip = ipv6::parse(&packet).ok()?;
        let message = [&[1, 4, 0, 0, 0, 0, 0, 0], &packet[..packet.len().min(200)]].concat();
        let (from, to) = (OUTSIDE6, std::net::Ipv6Addr::from(ip.src));
        let pseudo = build::sum(&from.octets()) as u32
            + build::sum(&to.octets()) as u32
            + message.len() as u32
            + u32::from(build::ICMPV6);
        let message = with_sum(message, 2, pseudo);
        Some(ip6(&from.to_string(), &to.to_string()).packet(build::ICMPV6, &message))
    };
    ipv6().into_iter().filter_map(about).collect()
}

/// The message with its checksum at `at`; `more` is what is added to its sum.
fn with_sum(mut message: Vec<u8>, at: usize, more: u32) -> Vec<u8> {
    let mut sum = u32::from(build::sum(&message)) + more;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    message[at..at + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    message
}

/// Packets as the pipeline's input.
fn input(packets: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let one = |(marks, frame): &(u8, Vec<u8>)| {
        let len = (frame.len() as u16).to_be_bytes();
        [&[*marks], &len[..], frame].concat()
    };
    packets.iter().flat_map(one).collect()
}

/// Conversations through the node, and the captures at its ports.
pub(super) fn pipeline() -> Vec<Vec<u8>> {
    const FROM_UPLINK: u8 = mark::MEND;
    const FROM_POD: u8 = mark::MEND | 1;
    // The addresses are mended.
    let frame = |packet: Vec<u8>| ethernet([0; 6], [0; 6], &packet);
    let (pod, outside, remote, peer) = (
        POD.to_string(),
        OUTSIDE.to_string(),
        REMOTE.to_string(),
        PEER.to_string(),
    );
    let node = super::packets::NODE.to_string();
    let (pod6, outside6) = (POD6.to_string(), OUTSIDE6.to_string());
    let udp = |from: &str, to: &str, ports: (u16, u16)| {
        frame(ip4(from, to).udp(ports.0, ports.1, b"fuzz me if you can"))
    };
    let inner = ethernet(
        VTEP.0,
        PEER_VTEP.0,
        &ip4(&remote, &pod).udp(53, 5000, b"answer"),
    );
    let tunnelled = ip4(&peer, &node).udp_unchecked(50_000, 4789, &build::vxlan(VNI, &inner));
    let ipip = ip4(&peer, &node).packet(build::IPIP, &ip4(&remote, &pod).udp(53, 5000, b"answer"));
    // All ports of a destination, answers to some, later fragments, time.
    let mut masqueraded: Vec<_> = (0..20)
        .map(|port| (FROM_POD, udp(&pod, &outside, (5000 + port, 53))))
        .collect();
    masqueraded
        .extend((40_000..40_016).map(|port| (FROM_UPLINK, udp(&outside, &node, (53, port)))));
    masqueraded.push((
        FROM_POD | mark::WAIT | 7 << 5,
        udp(&pod, &outside, (6000, 53)),
    ));
    // The service's answers are the outside's, the tunnel's, and the pod's own to the node.
    let (service, service6) = (SERVICE.to_string(), SERVICE6.to_string());
    let about = ip4(&node, &outside).udp(40_000, 53, b"fuzz me if you can");
    let piece = |word, data: &[u8]| {
        let ip = ip4(&pod, &service).id(7).fragment(word);
        frame(ip.packet(build::UDP, data))
    };
    let whole = build::udp(5001, 53, &[7; 24]);
    let served = [
        (FROM_POD, udp(&pod, &service, (5000, 53))),
        (FROM_POD, udp(&pod, &service, (5000, 54))),
        (FROM_POD, udp(&pod, &service, (5000, 55))),
        (FROM_POD, udp(&pod, &service, (5000, 80))),
        (FROM_POD, udp(&pod, &service, (5000, 81))),
        (FROM_POD, piece(build::MF, &whole[..16])),
        (FROM_POD | mark::LAST, piece(2, &whole[16..])),
        (FROM_UPLINK, udp(&outside, &node, (53, 40_000))),
        (FROM_UPLINK, frame(tunnelled.clone())),
        (FROM_POD, udp(&pod, &node, (53, 40_001))),
        (
            FROM_UPLINK,
            frame(ip4(&outside, &node).icmp(3, 3, 0, &about)),
        ),
        (
            FROM_POD | mark::LAST,
            frame(ip6(&pod6, &service6).udp(5000, 53, b"question")),
        ),
        (
            FROM_POD,
            frame(ip6(&pod6, &service6).udp(5000, 54, b"myself?")),
        ),
    ];
    let mut seeds = vec![
        input(&masqueraded),
        input(&served),
        input(&[
            (FROM_POD, udp(&pod, &remote, (5000, 53))),
            (FROM_UPLINK | mark::LAST, frame(tunnelled)),
            (FROM_UPLINK, frame(ipip)),
            (
                FROM_POD | mark::WAIT | 3 << 5,
                udp(&pod, &remote, (5000, 53)),
            ),
        ]),
        input(&[
            (
                FROM_POD,
                frame(ip6(&pod6, &outside6).udp(5000, 53, b"question")),
            ),
            (
                FROM_UPLINK,
                frame(ip6(&outside6, &pod6).udp(53, 5000, b"answer")),
            ),
        ]),
    ];
    for (number, captured) in frames().chunks(4).enumerate() {
        let packets: Vec<_> = captured
            .iter()
            .enumerate()
            .map(|(at, frame)| {
                (
                    mark::MEND | ((number + at) as u8 & mark::PORT),
                    frame.clone(),
                )
            })
            .collect();
        seeds.push(input(&packets));
    }
    seeds
}

/// Small captures as they are.
pub(super) fn captures() -> Vec<Vec<u8>> {
    let files = fixtures::all().into_iter().map(|fixture| fixture.path);
    files
        .filter_map(|path| fs::read(path).ok())
        .filter(|bytes| bytes.len() < 4096)
        .collect()
}

/// Control's good and bad examples.
pub(super) fn resources() -> Vec<Vec<u8>> {
    let control = Path::new(env!("CARGO_MANIFEST_DIR")).join("../control");
    let mut files: Vec<PathBuf> = [
        "tests/bad-config",
        "tests/bad-policy",
        "examples/conf.d",
        "examples/policy",
    ]
    .iter()
    .filter_map(|dir| fs::read_dir(control.join(dir)).ok())
    .flat_map(|entries| entries.flatten().map(|entry| entry.path()))
    // The bomb is slow to refuse in a debug build.
    .filter(|file| {
        file.extension().is_some_and(|it| it == "yaml") && !file.ends_with("alias-bomb.yaml")
    })
    .collect();
    files.sort();
    files
        .iter()
        .filter_map(|file| fs::read(file).ok())
        .collect()
}

fn lines(lines: &[&str]) -> Vec<Vec<u8>> {
    lines.iter().map(|line| line.as_bytes().to_vec()).collect()
}

pub(super) fn selectors() -> Vec<Vec<u8>> {
    lines(&[
        "all()",
        "global()",
        "a == 'b'",
        "a != \"b\" && !has(c)",
        "role in {'db', 'web'} || tier not in { 'x' }",
        "name contains 'x' && name starts with 'y' || name ends with \"z\"",
        "!(a == 'b' || (has(projectcalico.org/namespace) && !all()))",
        "k8s-app == 'kube-dns'",
    ])
}

pub(super) fn flow_filters() -> Vec<Vec<u8>> {
    lines(&[
        "host 10.65.0.2 and tcp",
        "not (udp port 53 or icmp)",
        "src net 10.0.0.0/8 and dst port 1024-65535",
        "endpoint na and state established",
        "ip6 host fd00::1 or proto sctp",
    ])
}

pub(super) fn requests() -> Vec<Vec<u8>> {
    lines(&[
        r#"{"v":1,"id":1,"method":"status"}"#,
        r#"{"v":1,"id":18446744073709551615,"method":"flows","params":{"filter":"tcp","limit":10}}"#,
        r#"{"v":1,"id":2,"method":"explain","params":{"reason":"no-route"}}"#,
        r#"{"v":1,"id":3,"result":{"a":[1,2.5,null]}}"#,
        r#"{"v":1,"id":4,"error":{"code":"bad-request","message":"no"}}"#,
        r#"{"v":2,"id":5,"method":"status"}"#,
    ])
}

pub(super) fn http_requests() -> Vec<Vec<u8>> {
    lines(&[
        "GET /metrics HTTP/1.1\r\nHost: localhost:9191\r\nAccept: application/openmetrics-text;version=1.0.0;q=0.6,*/*;q=0.1\r\n\r\n",
        "HEAD /liveness?verbose HTTP/1.0\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
        "GET http://localhost/readiness HTTP/1.1\nAccept:text/plain;q=0\n\n",
    ])
}
