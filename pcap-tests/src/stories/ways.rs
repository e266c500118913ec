//! Where packets go.

#[cfg_attr(
    not(test),
    expect(clippy::wildcard_imports, reason = "the names of the cluster")
)]
use super::*;
use crate::build::{IPIP, ethernet, ip4, ip6, vxlan};

pub(super) fn pod_to_pod() -> Story {
    let packet = |ttl| ip4(A4, B4).ttl(ttl).udp(40000, 50001, b"hello");
    let packet6 = |limit| ip6(A6, B6).hop_limit(limit).tcp(40000, 80, 2, b"");
    Story {
        name: "pod-to-pod-on-one-node",
        input: vec![(A, 0, from_a(&packet(64))), (A, 1, from_a(&packet6(64)))],
        output: vec![
            (B, ethernet(POD_B, GATEWAY, &packet(63))),
            (B, ethernet(POD_B, GATEWAY, &packet6(63))),
        ],
        fates: vec![B, B],
    }
}

pub(super) fn vxlan_across_nodes() -> Story {
    let out = |ttl| ip4(A4, REMOTE4).ttl(ttl).tcp(40000, 80, 2, b"");
    let back = |ttl| ip4(REMOTE4, A4).ttl(ttl).tcp(80, 40000, 0x12, b"");
    Story {
        name: "vxlan-across-nodes",
        input: vec![
            (A, 0, from_a(&out(64))),
            (ETH0, 1, from_node2(&vxlan_from_node2(&back(63)))),
        ],
        output: vec![
            (ETH0, to_node2(&vxlan_to(NODE2_4, VTEP2, &out(63)))),
            (A, to_a(&back(62))),
        ],
        fates: vec![ETH0, A],
    }
}

pub(super) fn vxlan_over_ipv6() -> Story {
    let out = |limit| {
        ip6(A6, REMOTE6)
            .hop_limit(limit)
            .udp(40000, 80, b"to node2")
    };
    let back = |limit| {
        ip6(REMOTE6, A6)
            .hop_limit(limit)
            .udp(80, 40000, b"to node1")
    };
    let carried = vxlan(4096, &ethernet(VTEP1_V6, VTEP2_V6, &back(63)));
    let incoming = ip6(NODE2_6, NODE1_6).udp(50000, 4789, &carried);
    // A zero checksum is taken from a known node (RFC 6935).
    let unchecked = ip6(NODE2_6, NODE1_6).udp_unchecked(50000, 4789, &carried);
    let carried = vxlan(4096, &ethernet(VTEP2_V6, VTEP1_V6, &out(63)));
    let outgoing = ip6(NODE1_6, NODE2_6).udp(0, 4789, &carried);
    Story {
        name: "vxlan-over-ipv6",
        input: vec![
            (A, 0, from_a(&out(64))),
            (ETH0, 1, from_node2(&incoming)),
            (ETH0, 2, from_node2(&unchecked)),
        ],
        output: vec![
            (ETH0, to_node2(&outgoing)),
            (A, to_a(&back(62))),
            (A, to_a(&back(62))),
        ],
        fates: vec![ETH0, A, A],
    }
}

pub(super) fn ipip_across_nodes() -> Story {
    let out = |ttl| ip4(A4, REMOTE4).ttl(ttl).udp(40000, 80, b"out");
    let loose = |ttl| {
        ip4(A4, REMOTE4)
            .ttl(ttl)
            .fragment(0)
            .udp(40000, 80, b"may be fragmented")
    };
    let back = |ttl| ip4(REMOTE4, A4).ttl(ttl).udp(80, 40000, b"back");
    let outer = ip4(NODE1_4, NODE2_4);
    Story {
        name: "ipip-across-nodes",
        input: vec![
            (A, 0, from_a(&out(64))),
            (A, 1, from_a(&loose(64))),
            (
                ETH0,
                2,
                from_node2(&ip4(NODE2_4, NODE1_4).packet(IPIP, &back(63))),
            ),
        ],
        output: vec![
            (ETH0, to_node2(&outer.packet(IPIP, &out(63)))),
            // "Don't fragment" is copied (RFC 2003 section 3.1).
            (
                ETH0,
                to_node2(&outer.clone().fragment(0).packet(IPIP, &loose(63))),
            ),
            (A, to_a(&back(62))),
        ],
        fates: vec![ETH0, ETH0, A],
    }
}

pub(super) fn direct_across_nodes() -> Story {
    let out = |ttl| ip4(A4, REMOTE4).ttl(ttl).udp(40000, 80, b"out");
    let out6 = |limit| ip6(A6, REMOTE6).hop_limit(limit).udp(40000, 80, b"out");
    let back = |ttl| ip4(REMOTE4, A4).ttl(ttl).udp(80, 40000, b"back");
    Story {
        name: "direct-across-nodes",
        input: vec![
            (A, 0, from_a(&out(64))),
            (A, 1, from_a(&out6(64))),
            (ETH0, 2, from_node2(&back(63))),
        ],
        output: vec![
            (ETH0, to_node2(&out(63))),
            (ETH0, to_node2(&out6(63))),
            (A, to_a(&back(62))),
        ],
        fates: vec![ETH0, ETH0, A],
    }
}

pub(super) fn cross_subnet() -> Story {
    let near = |ttl| ip4(A4, REMOTE4).ttl(ttl).udp(40000, 80, b"near");
    let far = |ttl| ip4(A4, FAR4).ttl(ttl).udp(40000, 80, b"far");
    let near_back = |ttl| ip4(REMOTE4, A4).ttl(ttl).udp(80, 40000, b"near");
    let far_back = |ttl| ip4(FAR4, A4).ttl(ttl).udp(80, 40000, b"far");
    let carried = vxlan(4096, &ethernet(VTEP1, VTEP3, &far_back(63)));
    let incoming = ip4(NODE3_4, NODE1_4).udp_unchecked(50000, 4789, &carried);
    Story {
        name: "cross-subnet",
        input: vec![
            (A, 0, from_a(&near(64))),
            (A, 1, from_a(&far(64))),
            (ETH0, 2, from_node2(&near_back(63))),
            (ETH0, 3, ethernet(NODE1, ROUTER, &incoming)),
            // From the far node without its tunnel: nobody there sends like that.
            (ETH0, 4, ethernet(NODE1, ROUTER, &far_back(63))),
        ],
        output: vec![
            (ETH0, to_node2(&near(63))),
            (
                ETH0,
                ethernet(ROUTER, NODE1, &vxlan_to(NODE3_4, VTEP3, &far(63))),
            ),
            (A, to_a(&near_back(62))),
            (A, to_a(&far_back(62))),
        ],
        fates: vec![ETH0, ETH0, A, A, "source-misplaced"],
    }
}

pub(super) fn to_the_world() -> Story {
    let out = |ttl| {
        ip4(A4, "192.0.2.1")
            .ttl(ttl)
            .icmp(8, 0, 0x0001_0001, b"ping")
    };
    let back = |ttl| {
        ip4("192.0.2.1", A4)
            .ttl(ttl)
            .icmp(0, 0, 0x0001_0001, b"ping")
    };
    Story {
        name: "to-the-world",
        input: vec![
            (A, 0, from_a(&out(64))),
            (ETH0, 1, ethernet(NODE1, ROUTER, &back(60))),
        ],
        output: vec![
            (ETH0, ethernet(ROUTER, NODE1, &out(63))),
            (A, to_a(&back(59))),
        ],
        fates: vec![ETH0, A],
    }
}

pub(super) fn host_is_a_port() -> Story {
    let to_host = ip4(A4, NODE1_4).udp(40000, 10250, b"to the kubelet");
    let to_pod = ip4(NODE1_4, A4).udp_partial(10250, 40000, b"from the kubelet");
    let right = ip4(NODE1_4, A4).udp(10250, 40000, b"from the kubelet");
    let probe = ip4("172.18.9.9", A4).udp(1, 2, b"not the host's");
    Story {
        name: "host-is-a-port",
        input: vec![
            (A, 0, from_a(&to_host)),
            (HOST, 1, ethernet(HOST_PORT, HOST_STACK, &to_pod)),
            (
                HOST,
                2,
                ethernet(
                    HOST_PORT,
                    HOST_STACK,
                    &ip4(B4, A4).udp(1, 2, b"a pod's address"),
                ),
            ),
            (ETH0, 3, ethernet(NODE1, ROUTER, &probe)),
        ],
        output: vec![
            // The host's own packets keep their TTL, as without us.
            (HOST, ethernet(HOST_STACK, HOST_PORT, &to_host)),
            (A, to_a(&right)),
            (
                A,
                to_a(&ip4("172.18.9.9", A4).ttl(63).udp(1, 2, b"not the host's")),
            ),
        ],
        fates: vec![HOST, A, "source-misplaced", A],
    }
}

pub(super) fn own_block_is_blackholed() -> Story {
    let packet = ip4(A4, "10.65.0.9").udp(40000, 50001, b"anybody there?");
    let outside = ip4(REMOTE4, "10.65.0.9").udp(40000, 50001, b"anybody there?");
    Story {
        name: "own-block-is-blackholed",
        input: vec![
            (A, 0, from_a(&packet)),
            (ETH0, 1, from_node2(&vxlan_from_node2(&outside))),
        ],
        output: vec![],
        fates: vec!["blackhole", "blackhole"],
    }
}

pub(super) fn borrowed_address() -> Story {
    let out = |ttl| ip4(A4, "10.65.0.40").ttl(ttl).udp(40000, 50001, b"hello");
    let back = |ttl| ip4("10.65.0.40", A4).ttl(ttl).udp(50001, 40000, b"hello");
    Story {
        name: "borrowed-address",
        input: vec![
            (A, 0, from_a(&out(64))),
            (ETH0, 1, from_node2(&vxlan_from_node2(&back(63)))),
        ],
        output: vec![
            (ETH0, to_node2(&vxlan_to(NODE2_4, VTEP2, &out(63)))),
            (A, to_a(&back(62))),
        ],
        fates: vec![ETH0, A],
    }
}

pub(super) fn mac_learnt_late() -> Story {
    let to_c = |ttl| ip4(A4, C4).ttl(ttl).udp(40000, 50001, b"are you there?");
    let from_c = |ttl| ip4(C4, A4).ttl(ttl).udp(50001, 40000, b"I am");
    let nobody = ip4(A4, "172.18.0.200").udp(40000, 50001, b"nobody there");
    Story {
        name: "mac-learnt-late",
        input: vec![
            (A, 0, from_a(&to_c(64))),
            (C, 100, ethernet(GATEWAY, POD_C, &from_c(64))),
            (A, 200, from_a(&to_c(64))),
            // On a connected network, and the kernel does not know its MAC address: waits to the capture's end.
            (A, 300, from_a(&nobody)),
        ],
        output: vec![
            (A, to_a(&from_c(63))),
            (C, ethernet(POD_C, GATEWAY, &to_c(63))),
            (C, ethernet(POD_C, GATEWAY, &to_c(63))),
        ],
        fates: vec![C, A, C, "held"],
    }
}

pub(super) fn neighbour_never_answers() -> Story {
    let waits = ip4(A4, "172.18.0.200").udp(40000, 50001, b"nobody there");
    let later = |ttl| ip4(A4, B4).ttl(ttl).udp(40000, 50001, b"much later");
    let error = ip4(POD_GATEWAY4, A4)
        .tos(0xc0)
        .fragment(0)
        .icmp(3, 1, 0, &waits);
    Story {
        name: "neighbour-never-answers",
        input: vec![(A, 0, from_a(&waits)), (A, 60_000, from_a(&later(64)))],
        output: vec![(A, to_a(&error)), (B, ethernet(POD_B, GATEWAY, &later(63)))],
        fates: vec!["neighbour-unresolved", B],
    }
}
