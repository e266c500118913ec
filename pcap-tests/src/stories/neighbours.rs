//! ARP and neighbour discovery.

#[cfg_attr(
    not(test),
    expect(clippy::wildcard_imports, reason = "the names of the cluster")
)]
use super::*;
use crate::build::{self, Mac, arp, counted, ethernet, frame, ip6};

const EVERYBODY: Mac = [0xff; 6];

const A_IP: [u8; 4] = [10, 65, 0, 2];

const GATEWAY_IP: [u8; 4] = [169, 254, 1, 1];

/// An ICMPv6 message between neighbours: target and one link-layer address option.
fn neighbour_message(
    ip: &build::Ip6,
    kind: u8,
    word: u32,
    target: &str,
    option: u8,
    mac: Mac,
) -> Vec<u8> {
    let target: std::net::Ipv6Addr = target.parse().expect("an address");
    let mut data = target.octets().to_vec();
    data.extend([option, 1]);
    data.extend(mac);
    ip.clone().hop_limit(255).icmp(kind, 0, word, &data)
}

pub(super) fn neighbours_answered() -> Story {
    let ask = |target| {
        frame(
            EVERYBODY,
            POD_A,
            0x0806,
            &arp(1, (POD_A, A_IP), ([0; 6], target)),
        )
    };
    let solicit = |src: &str, target: &str| {
        let ip = ip6(src, "ff02::1:ff00:1");
        let packet = neighbour_message(&ip, 135, 0, target, 1, POD_A);
        ethernet([0x33, 0x33, 0xff, 0, 0, 1], POD_A, &packet)
    };
    // Without the asker's MAC address, as a probe of whether it is still there may be.
    let probe = |src: &str, dst: &str, dst_mac: Mac, target: &str| {
        let asked: std::net::Ipv6Addr = target.parse().expect("an address");
        let packet = ip6(src, dst)
            .hop_limit(255)
            .icmp(135, 0, 0, &asked.octets());
        ethernet(dst_mac, POD_A, &packet)
    };
    let advertisement = |dst: &str, target: &str| {
        // Router, solicited; not overriding, for we stand in for others.
        neighbour_message(&ip6(target, dst), 136, 0xc000_0000, target, 2, GATEWAY)
    };
    let link_local = "fe80::aff:fe00:a";
    Story {
        name: "neighbours-answered",
        input: vec![
            (A, 0, ask(GATEWAY_IP)),
            (A, 1, ask([10, 65, 0, 3])),
            // A probe for its own address: answered, the pod would give it up.
            (
                A,
                2,
                frame(
                    EVERYBODY,
                    POD_A,
                    0x0806,
                    &arp(1, (POD_A, [0; 4]), ([0; 6], A_IP)),
                ),
            ),
            // Speaks for another.
            (
                A,
                3,
                frame(
                    EVERYBODY,
                    POD_A,
                    0x0806,
                    &arp(1, (POD_A, [10, 65, 0, 3]), ([0; 6], GATEWAY_IP)),
                ),
            ),
            (A, 4, solicit(A6, POD_GATEWAY6)),
            (A, 5, solicit(link_local, B6)),
            (A, 6, solicit(link_local, A6)),
            (A, 7, solicit(B6, POD_GATEWAY6)),
            (A, 8, probe(A6, POD_GATEWAY6, GATEWAY, POD_GATEWAY6)),
            // Is about to take the gateway's address; its own; one that it may not use.
            (
                A,
                9,
                probe(
                    "::",
                    "ff02::1:ffee:eeee",
                    [0x33, 0x33, 0xff, 0xee, 0xee, 0xee],
                    POD_GATEWAY6,
                ),
            ),
            (
                A,
                10,
                probe("::", "ff02::1:ff00:2", [0x33, 0x33, 0xff, 0, 0, 2], A6),
            ),
            (
                A,
                11,
                probe("::", "ff02::1:ff00:3", [0x33, 0x33, 0xff, 0, 0, 3], B6),
            ),
        ],
        output: vec![
            (
                A,
                frame(
                    POD_A,
                    GATEWAY,
                    0x0806,
                    &arp(2, (GATEWAY, GATEWAY_IP), (POD_A, A_IP)),
                ),
            ),
            (
                A,
                frame(
                    POD_A,
                    GATEWAY,
                    0x0806,
                    &arp(2, (GATEWAY, [10, 65, 0, 3]), (POD_A, A_IP)),
                ),
            ),
            (A, to_a(&advertisement(A6, POD_GATEWAY6))),
            (A, to_a(&advertisement(link_local, B6))),
            (A, to_a(&advertisement(A6, POD_GATEWAY6))),
            (
                A,
                ethernet(
                    [0x33, 0x33, 0, 0, 0, 1],
                    GATEWAY,
                    &neighbour_message(
                        &ip6(POD_GATEWAY6, "ff02::1"),
                        136,
                        0x8000_0000,
                        POD_GATEWAY6,
                        2,
                        GATEWAY,
                    ),
                ),
            ),
        ],
        fates: vec![
            A,
            A,
            "arp-ignored",
            "arp-spoofed",
            A,
            A,
            "nd-ignored",
            "nd-spoofed",
            A,
            A,
            "nd-ignored",
            "nd-ignored",
        ],
    }
}

pub(super) fn rogue_router() -> Story {
    let all_nodes: Mac = [0x33, 0x33, 0, 0, 0, 1];
    let ip = ip6("fe80::aff:fe00:a", "ff02::1").hop_limit(255);
    let advertisement = ip.icmp(134, 0, 0x4000_0708, &counted(8));
    let redirect = ip6("fe80::aff:fe00:a", B6)
        .hop_limit(255)
        .icmp(137, 0, 0, &[0; 32]);
    let claims = neighbour_message(&ip, 136, 0x2000_0000, B6, 2, POD_A);
    // Behind a header that nobody needs (RFC 7113).
    let message = ip.icmp(134, 0, 0x4000_0708, &counted(8));
    let mut hidden = vec![build::ICMPV6, 0, 1, 4, 0, 0, 0, 0];
    hidden.extend_from_slice(&message[40..]);
    let hidden = ip.packet(60, &hidden);
    Story {
        name: "rogue-router",
        input: vec![
            (A, 0, ethernet(all_nodes, POD_A, &advertisement)),
            (A, 1, ethernet(GATEWAY, POD_A, &redirect)),
            (A, 2, ethernet(all_nodes, POD_A, &claims)),
            (A, 3, ethernet(all_nodes, POD_A, &hidden)),
            (
                A,
                4,
                frame(
                    EVERYBODY,
                    POD_A,
                    0x0806,
                    &arp(2, (POD_A, GATEWAY_IP), (POD_A, GATEWAY_IP)),
                ),
            ),
        ],
        output: vec![],
        fates: vec![
            "nd-rogue-router",
            "nd-rogue-router",
            "nd-spoofed",
            "nd-rogue-router",
            "arp-spoofed",
        ],
    }
}
