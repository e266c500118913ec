//! The golden cases: what comes in, and what a person says must come out. The stories themselves are told in
//! `cases/<name>/README.md`; the nodes, pods and addresses are those of `cases/cluster.yaml` and `cases/kernel.yaml`.

use crate::build::{self, DF, IPIP, MF, Mac, arp, counted, ethernet, frame, ip4, ip6, vxlan};

/// A golden case.
#[derive(Clone, Debug)]
pub struct Story {
    /// The name of its folder.
    pub name: &'static str,
    /// What comes in: port, time in milliseconds, frame.
    pub input: Vec<(&'static str, u64, Vec<u8>)>,
    /// What goes out, port by port in order. Outer fields that are ours to choose are not compared.
    pub output: Vec<(&'static str, Vec<u8>)>,
    /// What becomes of each packet, in the order of `input`: a port, or the reason of a drop, or `held`.
    pub fates: Vec<&'static str>,
}

const A: &str = "calia";
const B: &str = "calib";
const C: &str = "calic";
const ETH0: &str = "eth0";
const HOST: &str = "caracal0";

/// The host's side of every pod's veth.
const GATEWAY: Mac = [0xee; 6];
const POD_A: Mac = [2, 0, 0, 0, 0, 0x0a];
const POD_B: Mac = [2, 0, 0, 0, 0, 0x0b];
const POD_C: Mac = [2, 0, 0, 0, 0, 0x0c];
const NODE1: Mac = [2, 0, 0, 0, 1, 2];
const NODE2: Mac = [2, 0, 0, 0, 1, 3];
const ROUTER: Mac = [2, 0, 0, 0, 1, 1];
const HOST_PORT: Mac = [2, 0, 0, 0, 1, 0xaa];
const HOST_STACK: Mac = [2, 0, 0, 0, 1, 0xbb];
const VTEP1: Mac = [0x66, 0, 0, 0, 0, 1];
const VTEP2: Mac = [0x66, 0, 0, 0, 0, 2];
const VTEP3: Mac = [0x66, 0, 0, 0, 0, 3];
const VTEP1_V6: Mac = [0x66, 0, 0, 0, 6, 1];
const VTEP2_V6: Mac = [0x66, 0, 0, 0, 6, 2];

const A4: &str = "10.65.0.2";
const B4: &str = "10.65.0.3";
const C4: &str = "10.65.0.4";
const REMOTE4: &str = "10.65.1.2";
const FAR4: &str = "10.65.2.2";
const A6: &str = "fd00:65::2";
const B6: &str = "fd00:65::3";
const REMOTE6: &str = "fd00:65:0:1::2";
const NODE1_4: &str = "172.18.0.2";
const NODE2_4: &str = "172.18.0.3";
const NODE3_4: &str = "172.19.0.4";
const NODE1_6: &str = "2001:db8:18::2";
const NODE2_6: &str = "2001:db8:18::3";
const POD_GATEWAY4: &str = "169.254.1.1";
const POD_GATEWAY6: &str = "fe80::ecee:eeff:feee:eeee";

/// A packet from pod a, as its veth delivers it.
fn from_a(packet: &[u8]) -> Vec<u8> {
    ethernet(GATEWAY, POD_A, packet)
}

/// A packet to pod a, as it should arrive there.
fn to_a(packet: &[u8]) -> Vec<u8> {
    ethernet(POD_A, GATEWAY, packet)
}

/// A packet from the underlay's node2.
fn from_node2(packet: &[u8]) -> Vec<u8> {
    ethernet(NODE1, NODE2, packet)
}

/// A packet to node2 over the underlay.
fn to_node2(packet: &[u8]) -> Vec<u8> {
    ethernet(NODE2, NODE1, packet)
}

/// VXLAN over IPv4 from node1 around a packet for a VTEP.
fn vxlan_to(dst: &str, vtep: Mac, packet: &[u8]) -> Vec<u8> {
    let carried = vxlan(4096, &ethernet(vtep, VTEP1, packet));
    ip4(NODE1_4, dst)
        .fragment(DF)
        .udp_unchecked(0, 4789, &carried)
}

/// VXLAN over IPv4 from node2 to node1 around a packet.
fn vxlan_from_node2(packet: &[u8]) -> Vec<u8> {
    let carried = vxlan(4096, &ethernet(VTEP1, VTEP2, packet));
    ip4(NODE2_4, NODE1_4).udp_unchecked(50000, 4789, &carried)
}

/// All golden cases.
pub fn all() -> Vec<Story> {
    vec![
        pod_to_pod(),
        vxlan_across_nodes(),
        vxlan_over_ipv6(),
        ipip_across_nodes(),
        direct_across_nodes(),
        cross_subnet(),
        to_the_world(),
        host_is_a_port(),
        own_block_is_blackholed(),
        borrowed_address(),
        ttl_expired(),
        too_big_with_df(),
        too_big_without_df(),
        too_big_ipv6(),
        unknown_peer(),
        wrong_vni(),
        nested_tunnel(),
        spoofed_sources(),
        tunnel_made_by_a_pod(),
        neighbours_answered(),
        rogue_router(),
        ecn_through_the_tunnel(),
        partial_checksum(),
        padding_is_cut(),
        source_route(),
        vlan_tag(),
        mac_learnt_late(),
        neighbour_never_answers(),
    ]
}

fn pod_to_pod() -> Story {
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

fn vxlan_across_nodes() -> Story {
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

fn vxlan_over_ipv6() -> Story {
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

fn ipip_across_nodes() -> Story {
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

fn direct_across_nodes() -> Story {
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

fn cross_subnet() -> Story {
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

fn to_the_world() -> Story {
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

fn host_is_a_port() -> Story {
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

fn own_block_is_blackholed() -> Story {
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

fn borrowed_address() -> Story {
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

fn ttl_expired() -> Story {
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
    let about_error = ip4(A4, REMOTE4).ttl(1).icmp(3, 3, 0, &counted(28));
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

fn too_big_with_df() -> Story {
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

fn too_big_without_df() -> Story {
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

fn too_big_ipv6() -> Story {
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

fn unknown_peer() -> Story {
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

fn wrong_vni() -> Story {
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

fn nested_tunnel() -> Story {
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

fn spoofed_sources() -> Story {
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

fn tunnel_made_by_a_pod() -> Story {
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

fn neighbours_answered() -> Story {
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
        ],
    }
}

fn rogue_router() -> Story {
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

fn ecn_through_the_tunnel() -> Story {
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

fn partial_checksum() -> Story {
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

fn padding_is_cut() -> Story {
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

fn source_route() -> Story {
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

fn vlan_tag() -> Story {
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

fn mac_learnt_late() -> Story {
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

fn neighbour_never_answers() -> Story {
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
