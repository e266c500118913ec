//! What forwarding does to packets, and tells about them.

#[cfg_attr(
    not(test),
    expect(clippy::wildcard_imports, reason = "the names of the cluster")
)]
use super::*;
use crate::build::{self, MF, counted, ethernet, frame, ip4, ip6, vxlan};

pub(super) fn ttl_expired() -> Story {
    let packet = ip4(A4, REMOTE4).ttl(1).udp(40000, 33434, b"traceroute");
    let packet6 = ip6(A6, REMOTE6)
        .hop_limit(1)
        .udp(40000, 33434, b"traceroute");
    let error = ip4(POD_GATEWAY4, A4)
        .tos(0xc0)
        .fragment(0)
        .icmp(11, 0, 0, &packet);
    let error6 = ip6(POD_GATEWAY6, A6).icmp(3, 0, 0, &packet6);
    // Nobody answers an error with an error.
    let quoted = ip4(REMOTE4, A4).udp(50001, 40000, b"datagram");
    let about_error = ip4(A4, REMOTE4).ttl(1).icmp(3, 3, 0, &quoted);
    Story {
        name: "ttl-expired",
        input: vec![
            (A, 0, from_a(&packet)),
            (A, 1, from_a(&packet6)),
            (A, 2, from_a(&about_error)),
        ],
        output: vec![(A, to_a(&error)), (A, to_a(&error6))],
        fates: vec!["ttl-expired", "ttl-expired", "ttl-expired"],
    }
}

pub(super) fn too_big_with_df() -> Story {
    let packet = ip4(A4, REMOTE4).udp(40000, 50001, &counted(1472));
    let quote = &packet[..548];
    let error = ip4(POD_GATEWAY4, A4)
        .tos(0xc0)
        .fragment(0)
        .icmp(3, 4, 1450, quote);
    let fits = |ttl| {
        ip4(A4, REMOTE4)
            .ttl(ttl)
            .udp(40000, 50001, &counted(1450 - 28))
    };
    Story {
        name: "too-big-with-df",
        input: vec![(A, 0, from_a(&packet)), (A, 1, from_a(&fits(64)))],
        output: vec![
            (A, to_a(&error)),
            (ETH0, to_node2(&vxlan_to(NODE2_4, VTEP2, &fits(63)))),
        ],
        fates: vec!["mtu-exceeded", ETH0],
    }
}

pub(super) fn too_big_without_df() -> Story {
    let ip = ip4(A4, REMOTE4).fragment(0);
    let whole = ip.udp(40000, 50001, &counted(1472));
    let datagram = &whole[20..];
    // 1450 less the header, down to a multiple of 8.
    let (first, second) = datagram.split_at(1424);
    let hop = ip.clone().ttl(63);
    let first = hop.clone().fragment(MF).packet(build::UDP, first);
    let second = hop.fragment(1424 / 8).packet(build::UDP, second);
    Story {
        name: "too-big-without-df",
        input: vec![(A, 0, from_a(&whole))],
        output: vec![
            (ETH0, to_node2(&vxlan_to(NODE2_4, VTEP2, &first))),
            (ETH0, to_node2(&vxlan_to(NODE2_4, VTEP2, &second))),
        ],
        fates: vec![ETH0],
    }
}

pub(super) fn too_big_ipv6() -> Story {
    let packet = ip6(A6, REMOTE6).udp(40000, 50001, &counted(1452));
    let quote = &packet[..1280 - 48];
    let error = ip6(POD_GATEWAY6, A6).icmp(2, 0, 1430, quote);
    Story {
        name: "too-big-ipv6",
        input: vec![(A, 0, from_a(&packet))],
        output: vec![(A, to_a(&error))],
        fates: vec!["mtu-exceeded"],
    }
}

pub(super) fn ecn_through_the_tunnel() -> Story {
    const CE: u8 = 3;
    const ECT0: u8 = 2;
    let out = |ttl| {
        ip4(A4, REMOTE4)
            .ttl(ttl)
            .tos(CE)
            .udp(40000, 80, b"congested")
    };
    let carried = vxlan(4096, &ethernet(VTEP2, VTEP1, &out(63)));
    let outer = ip4(NODE1_4, NODE2_4)
        .tos(CE)
        .udp_unchecked(0, 4789, &carried);
    let back = |ttl, ecn| {
        ip4(REMOTE4, A4)
            .ttl(ttl)
            .tos(ecn)
            .udp(80, 40000, b"congested")
    };
    let incoming = |ecn| {
        let carried = vxlan(4096, &ethernet(VTEP1, VTEP2, &back(63, ecn)));
        from_node2(
            &ip4(NODE2_4, NODE1_4)
                .tos(CE)
                .udp_unchecked(50000, 4789, &carried),
        )
    };
    Story {
        name: "ecn-through-the-tunnel",
        input: vec![
            (A, 0, from_a(&out(64))),
            (ETH0, 1, incoming(ECT0)),
            (ETH0, 2, incoming(0)),
        ],
        output: vec![(ETH0, to_node2(&outer)), (A, to_a(&back(62, CE)))],
        fates: vec![ETH0, A, "tunnel-ecn"],
    }
}

pub(super) fn partial_checksum() -> Story {
    let ip = |ttl| ip4(A4, REMOTE4).ttl(ttl);
    let data = b"left to hardware that never came";
    // A wrong checksum that is not partial stays wrong: the receiver is to see it.
    let wrong = |ttl| {
        let mut packet = ip(ttl).udp(40000, 80, data);
        packet[26] ^= 0x55;
        packet
    };
    let unchecked = |ttl| ip(ttl).udp_unchecked(40000, 80, data);
    let through = |packet: &[u8]| to_node2(&vxlan_to(NODE2_4, VTEP2, packet));
    Story {
        name: "partial-checksum",
        input: vec![
            (A, 0, from_a(&ip(64).udp_partial(40000, 80, data))),
            (A, 1, from_a(&wrong(64))),
            (A, 2, from_a(&unchecked(64))),
        ],
        output: vec![
            (ETH0, through(&ip(63).udp(40000, 80, data))),
            (ETH0, through(&wrong(63))),
            (ETH0, through(&unchecked(63))),
        ],
        fates: vec![ETH0, ETH0, ETH0],
    }
}

pub(super) fn padding_is_cut() -> Story {
    let packet = |ttl| ip4(A4, B4).ttl(ttl).udp(40000, 50001, b"x");
    let mut padded = from_a(&packet(64));
    padded.resize(60, 0xaa);
    let inner = |ttl| ip4(REMOTE4, A4).ttl(ttl).udp(40000, 50001, b"y");
    let mut tunnelled = from_node2(&vxlan_from_node2(&inner(64)));
    tunnelled.extend([0xaa; 18]);
    Story {
        name: "padding-is-cut",
        input: vec![(A, 0, padded), (ETH0, 1, tunnelled)],
        output: vec![
            (B, ethernet(POD_B, GATEWAY, &packet(63))),
            (A, to_a(&inner(63))),
        ],
        fates: vec![B, A],
    }
}

pub(super) fn source_route() -> Story {
    let with = |options: &[u8], ttl| {
        ip4(A4, B4)
            .ttl(ttl)
            .options(options)
            .udp(40000, 50001, b"this way")
    };
    let loose = [131, 7, 4, 10, 65, 0, 3, 0];
    let strict = [137, 7, 4, 10, 65, 0, 3, 0];
    let unknown = [30, 4, 1, 2];
    let bad = [7, 9, 4, 0];
    Story {
        name: "source-route",
        input: vec![
            (A, 0, from_a(&with(&loose, 64))),
            (A, 1, from_a(&with(&strict, 64))),
            (A, 2, from_a(&with(&bad, 64))),
            (A, 3, from_a(&with(&unknown, 64))),
        ],
        output: vec![(B, ethernet(POD_B, GATEWAY, &with(&unknown, 63)))],
        fates: vec!["ip4-options", "ip4-options", "ip4-options", B],
    }
}

pub(super) fn vlan_tag() -> Story {
    let tagged = |packet: &[u8]| {
        let mut payload = vec![0, 42, 8, 0];
        payload.extend_from_slice(packet);
        payload
    };
    let packet = ip4(A4, B4).udp(40000, 50001, b"tagged");
    let inner = ip4(REMOTE4, A4).udp(40000, 50001, b"tagged");
    let carried = vxlan(4096, &frame(VTEP1, VTEP2, 0x8100, &tagged(&inner)));
    Story {
        name: "vlan-tag",
        input: vec![
            (A, 0, frame(GATEWAY, POD_A, 0x8100, &tagged(&packet))),
            (ETH0, 1, frame(NODE1, NODE2, 0x88a8, &tagged(&packet))),
            // Inside the tunnel (RFC 7348 section 6.1).
            (
                ETH0,
                2,
                from_node2(&ip4(NODE2_4, NODE1_4).udp_unchecked(50000, 4789, &carried)),
            ),
        ],
        output: vec![],
        fates: vec!["eth-vlan", "eth-vlan", "tunnel-inner-type"],
    }
}
