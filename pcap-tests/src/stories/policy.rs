//! Network policy: who may speak to whom.

use super::{
    A, A4, B, B4, ETH0, GATEWAY, HOST, HOST_PORT, HOST_STACK, NODE1_4, POD_B, REMOTE4, Story,
    ethernet, from_a, from_node2, ip4, to_a, to_node2,
};

const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;

fn from_b(packet: &[u8]) -> Vec<u8> {
    ethernet(GATEWAY, POD_B, packet)
}

fn to_b(packet: &[u8]) -> Vec<u8> {
    ethernet(POD_B, GATEWAY, packet)
}

pub(super) fn policy_denies() -> Story {
    let syn = |port, ttl| ip4(A4, B4).ttl(ttl).tcp(40_000, port, SYN, &[]);
    let answer = |ttl| ip4(B4, A4).ttl(ttl).tcp(80, 40_000, SYN_ACK, &[]);
    let datagram = || from_a(&ip4(A4, B4).udp(40_000, 5000, b"query"));
    Story {
        name: "policy-denies",
        input: vec![
            (A, 0, from_a(&syn(80, 64))),
            (B, 1, from_b(&answer(64))),
            (A, 2, datagram()),
            (A, 3, datagram()),
            (A, 4, from_a(&syn(81, 64))),
            (A, 5, from_a(&syn(81, 64))),
            (B, 6, from_b(&ip4(B4, A4).udp(50_000, 5000, b"query"))),
        ],
        output: vec![(B, to_b(&syn(80, 63))), (A, to_a(&answer(63)))],
        fates: vec![
            B,
            A,
            "policy-deny",
            "policy-deny",
            "policy-deny",
            "policy-deny",
            "policy-deny",
        ],
    }
}

pub(super) fn staged_policy() -> Story {
    let datagram = |ttl| ip4(A4, B4).ttl(ttl).udp(40_000, 5000, b"query");
    Story {
        name: "staged-policy",
        input: vec![(A, 0, from_a(&datagram(64)))],
        output: vec![(B, to_b(&datagram(63)))],
        fates: vec![B],
    }
}

pub(super) fn log_rule() -> Story {
    let datagram = |port, ttl| ip4(A4, B4).ttl(ttl).udp(40_000, port, b"query");
    Story {
        name: "log-rule",
        input: vec![
            (A, 0, from_a(&datagram(5000, 64))),
            (A, 1, from_a(&datagram(5000, 64))),
            (A, 2, from_a(&datagram(5001, 64))),
            (A, 3, from_a(&datagram(5001, 64))),
            (A, 4, from_a(&ip4(A4, B4).tcp(40_000, 80, SYN, &[]))),
        ],
        output: vec![
            (B, to_b(&datagram(5000, 63))),
            (B, to_b(&datagram(5000, 63))),
        ],
        fates: vec![B, B, "policy-deny", "policy-deny", "policy-deny"],
    }
}

pub(super) fn untracked_policy() -> Story {
    let question = |ttl| ip4(REMOTE4, A4).ttl(ttl).udp(40_000, 5000, b"question");
    let answer = |ttl| ip4(A4, REMOTE4).ttl(ttl).udp(5000, 40_000, b"answer");
    let segment = |port, ttl| ip4(REMOTE4, A4).ttl(ttl).tcp(40_000, port, SYN_ACK, &[]);
    let asked = |ttl| {
        ip4(A4, REMOTE4)
            .ttl(ttl)
            .udp(7777, 7777, b"what time is it?")
    };
    let told = ip4(REMOTE4, A4).udp(7777, 7777, b"late");
    Story {
        name: "untracked-policy",
        input: vec![
            (ETH0, 0, from_node2(&question(64))),
            (A, 1, from_a(&answer(64))),
            (ETH0, 2, from_node2(&question(64))),
            (ETH0, 3, from_node2(&segment(8080, 64))),
            (ETH0, 4, from_node2(&segment(8081, 64))),
            (A, 5, from_a(&asked(64))),
            (ETH0, 6, from_node2(&told)),
        ],
        output: vec![
            (A, to_a(&question(63))),
            (A, to_a(&question(63))),
            (A, to_a(&segment(8080, 63))),
            (ETH0, to_node2(&answer(63))),
            (ETH0, to_node2(&asked(63))),
        ],
        fates: vec![A, ETH0, A, A, "ct-invalid", ETH0, "policy-deny"],
    }
}

pub(super) fn no_egress_answers_the_host() -> Story {
    let probe = ip4(NODE1_4, A4).tcp(50_000, 8080, SYN, &[]);
    let answer = ip4(A4, NODE1_4).tcp(8080, 50_000, SYN_ACK, &[]);
    Story {
        name: "no-egress-answers-the-host",
        input: vec![
            (HOST, 0, ethernet(HOST_PORT, HOST_STACK, &probe)),
            (A, 1, from_a(&answer)),
            (A, 2, from_a(&ip4(A4, NODE1_4).tcp(40_000, 22, SYN, &[]))),
            (A, 3, from_a(&ip4(A4, B4).udp(40_000, 5000, b"query"))),
        ],
        output: vec![
            (A, to_a(&probe)),
            (HOST, ethernet(HOST_STACK, HOST_PORT, &answer)),
        ],
        fates: vec![A, HOST, "policy-deny", "policy-deny"],
    }
}
