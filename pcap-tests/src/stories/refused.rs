//! Tunnels and sources that are not believed.

#[cfg_attr(
    not(test),
    expect(clippy::wildcard_imports, reason = "the names of the cluster")
)]
use super::*;
use crate::build::{IPIP, ethernet, ip4, ip6, vxlan};

pub(super) fn unknown_peer() -> Story {
    let inner = ip4(REMOTE4, A4).udp(40000, 50001, b"let me in");
    let carried = vxlan(4096, &ethernet(VTEP1, VTEP2, &inner));
    let outer = ip4("172.18.0.66", NODE1_4);
    Story {
        name: "unknown-peer",
        input: vec![
            (
                ETH0,
                0,
                from_node2(&outer.udp_unchecked(50000, 4789, &carried)),
            ),
            // Neither is a TTL of 1 inside a reason to answer.
            (ETH0, 1, {
                let inner = ip4(REMOTE4, A4).ttl(1).udp(40000, 50001, b"let me in");
                let carried = vxlan(4096, &ethernet(VTEP1, VTEP2, &inner));
                from_node2(&outer.udp_unchecked(50000, 4789, &carried))
            }),
        ],
        output: vec![],
        fates: vec!["tunnel-unknown-peer", "tunnel-unknown-peer"],
    }
}

pub(super) fn wrong_vni() -> Story {
    let inner = ip4(REMOTE4, A4).udp(40000, 50001, b"another network");
    let outer = |header: &[u8], mac| {
        let mut carried = vxlan(4096, &ethernet(mac, VTEP2, &inner));
        carried[..header.len()].copy_from_slice(header);
        from_node2(&ip4(NODE2_4, NODE1_4).udp_unchecked(50000, 4789, &carried))
    };
    Story {
        name: "wrong-vni",
        input: vec![
            (ETH0, 0, outer(&[8, 0, 0, 0, 0, 0x10, 1, 0], VTEP1)),
            // No network identifier at all.
            (ETH0, 1, outer(&[0], VTEP1)),
            // For another tunnel end.
            (ETH0, 2, outer(&[], VTEP3)),
            // Reserved bits are ignored (RFC 7348 section 5).
            (
                ETH0,
                3,
                outer(&[0xff, 0xff, 0xff, 0xff, 0, 0x10, 0, 0xff], VTEP1),
            ),
        ],
        output: vec![(
            A,
            to_a(
                &ip4(REMOTE4, A4)
                    .ttl(63)
                    .udp(40000, 50001, b"another network"),
            ),
        )],
        fates: vec!["tunnel-vni", "tunnel-malformed", "tunnel-inner-mac", A],
    }
}

pub(super) fn nested_tunnel() -> Story {
    let innermost = ip4(REMOTE4, A4).udp(40000, 50001, b"in disguise");
    let carried = vxlan(4096, &ethernet(VTEP1, VTEP2, &innermost));
    let twice = ip4(REMOTE4, NODE1_4).udp_unchecked(50000, 4789, &carried);
    let in_ipip = ip4(REMOTE4, NODE1_4).packet(IPIP, &innermost);
    Story {
        name: "nested-tunnel",
        input: vec![
            (ETH0, 0, from_node2(&vxlan_from_node2(&twice))),
            (ETH0, 1, from_node2(&vxlan_from_node2(&in_ipip))),
        ],
        output: vec![],
        fates: vec!["tunnel-nested", "tunnel-nested"],
    }
}

pub(super) fn spoofed_sources() -> Story {
    let forged = |src| ip4(src, B4).udp(40000, 50001, b"it was not me");
    let tunnelled = |src| from_node2(&vxlan_from_node2(&ip4(src, A4).udp(1, 2, b"forged")));
    Story {
        name: "spoofed-sources",
        input: vec![
            (A, 0, from_a(&forged(B4))),
            (A, 1, from_a(&forged("192.0.2.1"))),
            (A, 2, ethernet(GATEWAY, POD_B, &forged(A4))),
            (A, 3, from_a(&ip6("fd00:65::9", B6).udp(1, 2, b"forged"))),
            // node2 speaks for a pod of node3, of ours, and for the world.
            (ETH0, 4, tunnelled(FAR4)),
            (ETH0, 5, tunnelled(B4)),
            (ETH0, 6, tunnelled("192.0.2.1")),
        ],
        output: vec![],
        fates: vec![
            "source-spoofed",
            "source-spoofed",
            "eth-source-mac",
            "source-spoofed",
            "tunnel-source",
            "tunnel-source",
            "tunnel-source",
        ],
    }
}

pub(super) fn tunnel_made_by_a_pod() -> Story {
    let forged = ip4("10.65.0.77", REMOTE4).udp(1, 2, b"forged");
    let carried = vxlan(4096, &ethernet(VTEP2, VTEP1, &forged));
    let other_port = |ttl| ip4(A4, NODE2_4).ttl(ttl).udp(50000, 8472, &carried);
    Story {
        name: "tunnel-made-by-a-pod",
        input: vec![
            (A, 0, from_a(&ip4(A4, NODE2_4).udp(50000, 4789, &carried))),
            (A, 1, from_a(&ip4(A4, REMOTE4).udp(50000, 4789, &carried))),
            (A, 2, from_a(&ip4(A4, NODE2_4).packet(IPIP, &forged))),
            (A, 3, from_a(&ip6(A6, NODE2_6).udp(50000, 4789, &carried))),
            // Another port is no tunnel of ours.
            (A, 4, from_a(&other_port(64))),
        ],
        output: vec![(ETH0, to_node2(&other_port(63)))],
        fates: vec![
            "tunnel-from-pod",
            "tunnel-from-pod",
            "tunnel-from-pod",
            "tunnel-from-pod",
            ETH0,
        ],
    }
}
