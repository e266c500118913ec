//! natOutgoing: pods' connections to the outside, and all that belongs to them.
//!
//! The pools of these stories masquerade, and `natPortRange` leaves a port or two, so that a person can say which it is.

#[cfg_attr(
    not(test),
    expect(clippy::wildcard_imports, reason = "the names of the cluster")
)]
use super::*;
use crate::build::{TCP, counted, ip4, ip6, segment};

mod fragments;

pub(super) use fragments::fragments;

const SERVER4: &str = "192.0.2.1";
const SERVER6: &str = "2001:db8:9::1";
pub(super) const ROUTER4: &str = "172.18.0.1";
const ROUTER6: &str = "2001:db8:18::1";
/// The only port of `natPortRange`.
pub(super) const PORT: u16 = 20_000;

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const FIN: u8 = 0x01;
const PSH_ACK: u8 = 0x18;
const SYN_ACK: u8 = 0x12;
const ACK: u8 = 0x10;

/// A frame from the router.
fn from_router(packet: &[u8]) -> Vec<u8> {
    ethernet(NODE1, ROUTER, packet)
}

/// A frame to the router.
fn to_router(packet: &[u8]) -> Vec<u8> {
    ethernet(ROUTER, NODE1, packet)
}

/// A TCP segment over IPv4.
pub(super) fn tcp4(
    (src, dst): (&str, &str),
    ttl: u8,
    ports: (u16, u16),
    flags: u8,
    (seq, ack): (u32, u32),
    data: &[u8],
) -> Vec<u8> {
    let segment = segment(ports, flags, seq, ack, data);
    ip4(src, dst).ttl(ttl).sealed(TCP, segment, 16)
}

/// The same over IPv6.
fn tcp6(
    (src, dst): (&str, &str),
    hop_limit: u8,
    ports: (u16, u16),
    flags: u8,
    (seq, ack): (u32, u32),
    data: &[u8],
) -> Vec<u8> {
    let segment = segment(ports, flags, seq, ack, data);
    ip6(src, dst).hop_limit(hop_limit).sealed(TCP, segment, 16)
}

/// A way of the packets of a connection: what comes in, and what must go out.
pub(super) type Step = (&'static str, Vec<u8>, &'static str, Vec<u8>);

/// From pod a to the outside.
fn leaves(before: &[u8], after: &[u8]) -> Step {
    (A, from_a(before), ETH0, to_router(after))
}

/// From the outside to pod a.
pub(super) fn comes(before: &[u8], after: &[u8]) -> Step {
    (ETH0, from_router(before), A, to_a(after))
}

pub(super) fn story(name: &'static str, steps: Vec<Step>) -> Story {
    let (mut input, mut output, mut fates) = (Vec::new(), Vec::new(), Vec::new());
    for (at, (from, before, to, after)) in steps.into_iter().enumerate() {
        input.push((from, at as u64, before));
        output.push((to, after));
        fates.push(to);
    }
    Story {
        name,
        input,
        output,
        fates,
    }
}

/// The identifier that a ping leaves with: drawn, and the same for the same seed.
const IDENTIFIER: u32 = 0xa081;

pub(super) fn out_and_back() -> Story {
    let (pod, node, back) = ((A4, SERVER4), (NODE1_4, SERVER4), (SERVER4, NODE1_4));
    let to_pod = (SERVER4, A4);
    let out = |flags, numbers, data| {
        leaves(
            &tcp4(pod, 64, (40_000, 80), flags, numbers, data),
            &tcp4(node, 63, (PORT, 80), flags, numbers, data),
        )
    };
    let answer = |flags, numbers, data| {
        comes(
            &tcp4(back, 60, (80, PORT), flags, numbers, data),
            &tcp4(to_pod, 59, (80, 40_000), flags, numbers, data),
        )
    };
    let ping = |word| ip4(A4, SERVER4).icmp(8, 0, word, b"ping");
    let (pod6, node6) = ((A6, SERVER6), (NODE1_6, SERVER6));
    let answer6 = ((SERVER6, NODE1_6), (SERVER6, A6));
    story(
        "snat-out-and-back",
        vec![
            out(SYN, (100, 0), b""),
            answer(SYN_ACK, (900, 101), b""),
            out(PSH_ACK, (101, 901), b"GET /"),
            answer(PSH_ACK, (901, 106), b"200 OK"),
            leaves(
                &ip4(A4, SERVER4).udp(40_100, 9000, b"where is it?"),
                &ip4(NODE1_4, SERVER4)
                    .ttl(63)
                    .udp(PORT, 9000, b"where is it?"),
            ),
            comes(
                &ip4(SERVER4, NODE1_4).ttl(60).udp(9000, PORT, b"there"),
                &ip4(SERVER4, A4).ttl(59).udp(9000, 40_100, b"there"),
            ),
            leaves(
                &ping(7 << 16 | 1),
                &ip4(NODE1_4, SERVER4)
                    .ttl(63)
                    .icmp(8, 0, IDENTIFIER << 16 | 1, b"ping"),
            ),
            comes(
                &ip4(SERVER4, NODE1_4)
                    .ttl(60)
                    .icmp(0, 0, IDENTIFIER << 16 | 1, b"ping"),
                &ip4(SERVER4, A4).ttl(59).icmp(0, 0, 7 << 16 | 1, b"ping"),
            ),
            leaves(
                &tcp6(pod6, 64, (40_000, 80), SYN, (100, 0), b""),
                &tcp6(node6, 63, (PORT, 80), SYN, (100, 0), b""),
            ),
            comes(
                &tcp6(answer6.0, 60, (80, PORT), SYN_ACK, (900, 101), b""),
                &tcp6(answer6.1, 59, (80, 40_000), SYN_ACK, (900, 101), b""),
            ),
            // Another node is outside of all pools; its pods are not, and see the pod's own address.
            (
                A,
                from_a(&ip4(A4, NODE2_4).udp(40_100, 10_250, b"kubelet?")),
                ETH0,
                to_node2(&ip4(NODE1_4, NODE2_4).ttl(63).udp(PORT, 10_250, b"kubelet?")),
            ),
            (
                A,
                from_a(&ip4(A4, REMOTE4).udp(40_100, 9000, b"pod?")),
                ETH0,
                to_node2(&vxlan_to(
                    NODE2_4,
                    VTEP2,
                    &ip4(A4, REMOTE4).ttl(63).udp(40_100, 9000, b"pod?"),
                )),
            ),
        ],
    )
}

pub(super) fn icmp_error_comes_back() -> Story {
    let sent = |data: &[u8]| {
        (
            ip4(A4, SERVER4).udp(40_000, 33_434, data),
            ip4(NODE1_4, SERVER4).ttl(63).udp(PORT, 33_434, data),
        )
    };
    let (long, long_out) = sent(&counted(1400));
    // As they were when the error was made: with the TTL that was left, and as much as it quotes.
    let quoted = |ttl, data: &[u8]| {
        (
            ip4(NODE1_4, SERVER4).ttl(ttl).udp(PORT, 33_434, data),
            ip4(A4, SERVER4).ttl(ttl).udp(40_000, 33_434, data),
        )
    };
    let (expired_out, expired) = quoted(1, &counted(1400));
    let (refused_out, refused) = quoted(50, &counted(1400));
    let (sent6, sent6_out) = (
        ip6(A6, SERVER6).udp(40_000, 33_434, &counted(1400)),
        ip6(NODE1_6, SERVER6)
            .hop_limit(63)
            .udp(PORT, 33_434, &counted(1400)),
    );
    let quoted6 = ip6(A6, SERVER6)
        .hop_limit(63)
        .udp(40_000, 33_434, &counted(1400));
    let stray = ip4(NODE1_4, SERVER4).udp(9999, 33_434, b"the host's");
    let mut story = story(
        "snat-icmp-error-comes-back",
        vec![
            leaves(&long, &long_out),
            // From a router on the way: its address stays.
            comes(
                &ip4(ROUTER4, NODE1_4).icmp(11, 0, 0, &expired_out[..28]),
                &ip4(ROUTER4, A4).ttl(63).icmp(11, 0, 0, &expired[..28]),
            ),
            comes(
                &ip4(ROUTER4, NODE1_4).icmp(3, 4, 1300, &expired_out[..548]),
                &ip4(ROUTER4, A4).ttl(63).icmp(3, 4, 1300, &expired[..548]),
            ),
            comes(
                &ip4(SERVER4, NODE1_4).ttl(50).icmp(3, 3, 0, &refused_out),
                &ip4(SERVER4, A4).ttl(49).icmp(3, 3, 0, &refused),
            ),
            leaves(&sent6, &sent6_out),
            comes(
                &ip6(ROUTER6, NODE1_6).icmp(2, 0, 1300, &sent6_out[..1232]),
                &ip6(ROUTER6, A6)
                    .hop_limit(63)
                    .icmp(2, 0, 1300, &quoted6[..1232]),
            ),
            // About a connection of the host's own.
            (
                ETH0,
                from_router(&ip4(ROUTER4, NODE1_4).icmp(11, 0, 0, &stray)),
                HOST,
                ethernet(
                    HOST_STACK,
                    HOST_PORT,
                    &ip4(ROUTER4, NODE1_4).icmp(11, 0, 0, &stray),
                ),
            ),
        ],
    );
    // Forged: what it says about the packet is not what was sent.
    let mut forged = ip4(ROUTER4, NODE1_4).icmp(11, 0, 0, &expired_out[..28]);
    forged[22] ^= 1;
    story.input.push((ETH0, 7, from_router(&forged)));
    story.fates.push("icmp-malformed");
    story
}

pub(super) fn ports_exhausted() -> Story {
    let syn = |ttl, src, port, to| tcp4((src, SERVER4), ttl, (port, to), SYN, (100, 0), b"");
    let data = |ttl, src, port| {
        tcp4(
            (src, SERVER4),
            ttl,
            (port, 80),
            PSH_ACK,
            (101, 901),
            b"still here",
        )
    };
    let answer = tcp4((SERVER4, NODE1_4), 60, (80, PORT), SYN_ACK, (900, 101), b"");
    let answered = tcp4((SERVER4, A4), 59, (80, 40_000), SYN_ACK, (900, 101), b"");
    Story {
        name: "snat-ports-exhausted",
        input: vec![
            (A, 0, from_a(&syn(64, A4, 40_000, 80))),
            (ETH0, 1, from_router(&answer)),
            // The one port to this server's port 80 is taken, for this pod and for others.
            (A, 2, from_a(&syn(64, A4, 40_001, 80))),
            (B, 3, ethernet(GATEWAY, POD_B, &syn(64, B4, 40_000, 80))),
            // To another port it is free.
            (A, 4, from_a(&syn(64, A4, 40_001, 81))),
            // And whoever has it keeps it.
            (A, 5, from_a(&data(64, A4, 40_000))),
        ],
        output: vec![
            (ETH0, to_router(&syn(63, NODE1_4, PORT, 80))),
            (A, to_a(&answered)),
            (ETH0, to_router(&syn(63, NODE1_4, PORT, 81))),
            (ETH0, to_router(&data(63, NODE1_4, PORT))),
        ],
        fates: vec![
            ETH0,
            A,
            "nat-ports-exhausted",
            "nat-ports-exhausted",
            ETH0,
            ETH0,
        ],
    }
}

pub(super) fn stray_packets() -> Story {
    let stray = |flags| tcp4((A4, SERVER4), 64, (40_000, 80), flags, (100, 200), b"");
    let syn = |ttl, src, port| tcp4((src, SERVER4), ttl, (port, 80), SYN, (100, 0), b"");
    let other = tcp4((SERVER4, NODE1_4), 60, (81, PORT), ACK, (900, 101), b"");
    let answer = ip4(SERVER4, A4).udp(9000, 40_100, b"nobody asked");
    Story {
        name: "stray-packets",
        input: vec![
            // None of these can begin a connection.
            (A, 0, from_a(&stray(SYN_ACK))),
            (A, 1, from_a(&stray(RST))),
            (A, 2, from_a(&stray(SYN | FIN))),
            (A, 3, from_a(&stray(0))),
            (
                A,
                4,
                from_a(&ip4(A4, SERVER4).icmp(0, 0, 7 << 16 | 1, b"pong")),
            ),
            (A, 5, from_a(&syn(64, A4, 40_000))),
            // From another port than the connection's: the host's, whatever it is.
            (ETH0, 6, from_router(&other)),
            // To the pod itself: a flow of its own, as without natOutgoing.
            (ETH0, 7, from_router(&answer)),
        ],
        output: vec![
            (ETH0, to_router(&syn(63, NODE1_4, PORT))),
            (HOST, ethernet(HOST_STACK, HOST_PORT, &other)),
            (
                A,
                to_a(&ip4(SERVER4, A4).ttl(63).udp(9000, 40_100, b"nobody asked")),
            ),
        ],
        fates: vec![
            "ct-invalid",
            "ct-invalid",
            "ct-invalid",
            "ct-invalid",
            "ct-invalid",
            ETH0,
            HOST,
            A,
        ],
    }
}
