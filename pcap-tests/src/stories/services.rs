//! Services: what pods reach by an address that nobody has.

use super::snat::{PORT, ROUTER4, Step, comes, story, tcp4};
#[cfg_attr(
    not(test),
    expect(clippy::wildcard_imports, reason = "the names of the cluster")
)]
use super::*;
use crate::build::{ip4, ip6, segment, vxlan};

const SYN: u8 = 0x02;
const RST_ACK: u8 = 0x14;
const PSH_ACK: u8 = 0x18;
const SYN_ACK: u8 = 0x12;

/// From pod a to a pod of node2.
fn leaves_to_remote(before: &[u8], after: &[u8]) -> Step {
    let tunnelled = vxlan_to(NODE2_4, VTEP2, after);
    (A, from_a(before), ETH0, to_node2(&tunnelled))
}

/// From a pod of node2 to pod a.
fn comes_from_remote(before: &[u8], after: &[u8]) -> Step {
    let tunnelled = from_node2(&vxlan_from_node2(before));
    (ETH0, tunnelled, A, to_a(after))
}

/// What the gateway says to pod a about its packet, which is dropped.
fn port_unreachable(about: &[u8]) -> Vec<u8> {
    if about[0] >> 4 == 4 {
        let gateway = ip4(POD_GATEWAY4, A4).tos(0xc0).fragment(0);
        return to_a(&gateway.icmp(3, 3, 0, about));
    }
    to_a(&ip6(POD_GATEWAY6, A6).icmp(1, 4, 0, about))
}

/// A DNS message (RFC 1035 section 4): the address of `example.org` is asked for, and is 192.0.2.1.
fn dns(is_answer: bool) -> Vec<u8> {
    let question = b"\x07example\x03org\0\0\x01\0\x01";
    let (flags, answer) = if is_answer {
        let record = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01";
        ([0x81, 0x80], &record[..])
    } else {
        ([0x01, 0x00], &[][..])
    };
    let counts = [0, 1, 0, u8::from(is_answer), 0, 0, 0, 0];
    [&[0x12, 0x34][..], &flags, &counts, question, answer].concat()
}

/// The same as it is in TCP, with its length.
fn dns_in_tcp(is_answer: bool) -> Vec<u8> {
    let message = dns(is_answer);
    [&(message.len() as u16).to_be_bytes()[..], &message].concat()
}

pub(super) fn dns_across_nodes() -> Story {
    const DNS: &str = "10.96.0.10";
    const DNS6: &str = "fd00:96::a";
    let asked = |ttl, to| ip4(A4, to).ttl(ttl).udp(40_000, 53, &dns(false));
    let answered = |ttl, from| ip4(from, A4).ttl(ttl).udp(53, 40_000, &dns(true));
    let tcp = |src, dst, ttl, ports, flags, seq, ack, data: &[u8]| {
        let segment = segment(ports, flags, seq, ack, data);
        ip4(src, dst).ttl(ttl).sealed(6, segment, 16)
    };
    let out = |flags, seq, ack, data: &[u8]| {
        let ports = (40_001, 53);
        leaves_to_remote(
            &tcp(A4, DNS, 64, ports, flags, seq, ack, data),
            &tcp(A4, REMOTE4, 63, ports, flags, seq, ack, data),
        )
    };
    let answer = |flags, seq, ack, data: &[u8]| {
        let ports = (53, 40_001);
        comes_from_remote(
            &tcp(REMOTE4, A4, 63, ports, flags, seq, ack, data),
            &tcp(DNS, A4, 62, ports, flags, seq, ack, data),
        )
    };
    let asked6 = |limit, to| ip6(A6, to).hop_limit(limit).udp(40_000, 53, &dns(false));
    let answered6 = |limit, from| ip6(from, A6).hop_limit(limit).udp(53, 40_000, &dns(true));
    let carried = |to, from, packet: &[u8]| vxlan(4096, &ethernet(to, from, packet));
    let there6 = carried(VTEP2_V6, VTEP1_V6, &asked6(63, REMOTE6));
    let back6 = carried(VTEP1_V6, VTEP2_V6, &answered6(63, REMOTE6));
    // As the server saw the question.
    let closed = |from, about: &[u8], ttl| ip4(from, A4).ttl(ttl).icmp(3, 3, 0, about);
    story(
        "service-dns-across-nodes",
        vec![
            leaves_to_remote(&asked(64, DNS), &asked(63, REMOTE4)),
            comes_from_remote(&answered(63, REMOTE4), &answered(62, DNS)),
            // Known by now.
            leaves_to_remote(&asked(64, DNS), &asked(63, REMOTE4)),
            comes_from_remote(&answered(63, REMOTE4), &answered(62, DNS)),
            out(SYN, 100, 0, b""),
            answer(SYN_ACK, 900, 101, b""),
            out(PSH_ACK, 101, 901, &dns_in_tcp(false)),
            answer(PSH_ACK, 901, 132, &dns_in_tcp(true)),
            (
                A,
                from_a(&asked6(64, DNS6)),
                ETH0,
                to_node2(&ip6(NODE1_6, NODE2_6).udp(0, 4789, &there6)),
            ),
            (
                ETH0,
                from_node2(&ip6(NODE2_6, NODE1_6).udp(50000, 4789, &back6)),
                A,
                to_a(&answered6(62, DNS6)),
            ),
            // The server has ended.
            leaves_to_remote(&asked(64, DNS), &asked(63, REMOTE4)),
            comes_from_remote(
                &closed(REMOTE4, &asked(62, REMOTE4), 63),
                &closed(DNS, &asked(62, DNS), 62),
            ),
            // By its own address it is itself.
            leaves_to_remote(
                &ip4(A4, REMOTE4).udp(40_002, 53, &dns(false)),
                &ip4(A4, REMOTE4).ttl(63).udp(40_002, 53, &dns(false)),
            ),
            comes_from_remote(
                &ip4(REMOTE4, A4).ttl(63).udp(53, 40_002, &dns(true)),
                &ip4(REMOTE4, A4).ttl(62).udp(53, 40_002, &dns(true)),
            ),
        ],
    )
}

pub(super) fn api_server() -> Story {
    const API: &str = "10.96.0.1";
    let out = |flags, numbers, data: &[u8]| {
        let before = tcp4((A4, API), 64, (40_000, 443), flags, numbers, data);
        let after = tcp4((NODE1_4, NODE2_4), 63, (PORT, 6443), flags, numbers, data);
        (A, from_a(&before), ETH0, to_node2(&after))
    };
    let answer = |flags, numbers, data: &[u8]| {
        let before = tcp4((NODE2_4, NODE1_4), 64, (6443, PORT), flags, numbers, data);
        let after = tcp4((API, A4), 63, (443, 40_000), flags, numbers, data);
        (ETH0, from_node2(&before), A, to_a(&after))
    };
    let watch = (PSH_ACK, (101, 901), &b"GET /api/v1/pods?watch=1"[..]);
    let on_the_way = |ends, ports| tcp4(ends, 62, ports, watch.0, watch.1, watch.2);
    let error = |src, dst, ttl, about: &[u8]| ip4(src, dst).ttl(ttl).icmp(3, 4, 1300, about);
    story(
        "service-api-server",
        vec![
            out(SYN, (100, 0), b""),
            answer(SYN_ACK, (900, 101), b""),
            out(watch.0, watch.1, watch.2),
            // A router on the way has a narrow link. What it quotes is what the pod sent.
            comes(
                &error(
                    ROUTER4,
                    NODE1_4,
                    64,
                    &on_the_way((NODE1_4, NODE2_4), (PORT, 6443)),
                ),
                &error(API, A4, 63, &on_the_way((A4, API), (40_000, 443))),
            ),
            answer(PSH_ACK, (901, 125), b"200 OK"),
            answer(RST_ACK, (907, 125), b""),
        ],
    )
}

pub(super) fn to_itself() -> Story {
    const WEB: &str = "10.96.7.7";
    let out = |flags, numbers, data: &[u8]| {
        let before = tcp4((A4, WEB), 64, (40_000, 80), flags, numbers, data);
        let after = tcp4((NODE1_4, A4), 63, (PORT, 8080), flags, numbers, data);
        (A, from_a(&before), A, to_a(&after))
    };
    let answer = |flags, numbers, data: &[u8]| {
        let before = tcp4((A4, NODE1_4), 64, (8080, PORT), flags, numbers, data);
        let after = tcp4((WEB, A4), 63, (80, 40_000), flags, numbers, data);
        (A, from_a(&before), A, to_a(&after))
    };
    // Who is not behind it keeps its address.
    let of_b = tcp4((B4, WEB), 64, (40_000, 80), SYN, (100, 0), b"");
    let of_b_there = tcp4((B4, A4), 63, (40_000, 8080), SYN, (100, 0), b"");
    let to_b = tcp4((A4, B4), 64, (8080, 40_000), SYN_ACK, (900, 101), b"");
    let to_b_there = tcp4((WEB, B4), 63, (80, 40_000), SYN_ACK, (900, 101), b"");
    let mut story = story(
        "service-to-itself",
        vec![
            out(SYN, (100, 0), b""),
            answer(SYN_ACK, (900, 101), b""),
            out(PSH_ACK, (101, 901), b"GET /"),
            answer(PSH_ACK, (901, 106), b"200 OK"),
            (B, ethernet(GATEWAY, POD_B, &of_b), A, to_a(&of_b_there)),
            (A, from_a(&to_b), B, ethernet(POD_B, GATEWAY, &to_b_there)),
        ],
    );
    // By its own address it is a pod's own stack's.
    let own = tcp4((A4, A4), 64, (40_001, 8080), SYN, (100, 0), b"");
    story.input.push((A, 6, from_a(&own)));
    story.fates.push("same-interface");
    story
}

pub(super) fn without_endpoints() -> Story {
    const WEB: &str = "10.96.7.7";
    const WEB6: &str = "fd00:96::7:7";
    let syn = |port| tcp4((A4, WEB), 64, (40_000, port), SYN, (100, 0), b"");
    let refused = [
        ("service-no-endpoints", syn(80)),
        ("service-no-endpoints", syn(80)),
        (
            "service-no-endpoints",
            ip6(A6, WEB6).tcp(40_000, 80, SYN, b""),
        ),
        ("service-no-port", syn(81)),
        ("service-no-port", ip4(A4, WEB).udp(40_000, 80, b"anybody?")),
        (
            "service-no-port",
            ip4(A4, WEB).icmp(8, 0, 7 << 16 | 1, b"ping"),
        ),
    ];
    let mut story = Story {
        name: "service-without-endpoints",
        input: Vec::new(),
        output: Vec::new(),
        fates: Vec::new(),
    };
    for (at, (fate, packet)) in (0..).zip(&refused) {
        story.input.push((A, at, from_a(packet)));
        story.output.push((A, port_unreachable(packet)));
        story.fates.push(fate);
    }
    story
}
