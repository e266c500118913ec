//! VXLAN over IPv4, both ways (RFC 7348, RFC 6040).

use std::net::Ipv4Addr;

use crate::frame::{
    Check, DF, Ip4, MF, TYPE_IPV4, TYPE_IPV6, UDP, Vxlan, ethernet, filler, icmp, tcp, udp,
};
use crate::plan::{
    NO_POD4, NODE, NODE_MAC, NODE4, OUTSIDE4, PEER1, PEER1_4, PEER1_MAC, PEER1_POD4, PEER1_TUNNEL4,
    PEER2, PEER2_4, PEER2_POD4, POD1_4, POD2_4, STRANGER4, TUNNEL4, VXLAN_PORT, vtep4,
};
use crate::script::{Key, Script, Side, make_icmp, make_tcp, send_from, send_to, stretch, udp4};

pub(crate) fn write(script: &mut Script) {
    encapsulation(script);
    headers(script);
    outer(script);
    inner_frames(script);
    inner_packets(script);
    inner_sources(script);
    inner_destinations(script);
    errors(script);
    ecn(script);
}

fn to_peer(script: &mut Script, name: &str, change: impl FnOnce(&mut Ip4)) {
    let id = script.id();
    let ip = udp4(POD1_4, PEER1_POD4, 32);
    script.ip4(&format!("encap/{name}"), Side::Pod1, id, ip, change);
}

fn encapsulation(script: &mut Script) {
    to_peer(script, "udp", |_| {});
    to_peer(script, "other-peer", |ip| send_to(ip, PEER2_POD4));
    to_peer(script, "peer's-tunnel-address", |ip| {
        send_to(ip, PEER1_TUNNEL4);
    });
    to_peer(script, "tcp", |ip| make_tcp(ip, 100, Check::Right));
    to_peer(script, "icmp", |ip| make_icmp(ip, 8, 0));
    to_peer(script, "protocol-132", |ip| {
        ip.protocol = 132;
        ip.payload = filler(40);
    });
    for tos in [0, 1, 2, 3, 0xb8, 0xb9, 0xba, 0xbb, 0xfc] {
        to_peer(script, &format!("tos-{tos:02x}"), |ip| ip.tos = tos);
    }
    for ttl in [1, 2, 64, 255] {
        to_peer(script, &format!("ttl-{ttl}"), |ip| ip.ttl = ttl);
    }
    for len in [28, 29, 60, 1399, 1449, 1450] {
        to_peer(script, &format!("bytes-{len}"), |ip| stretch(ip, len));
    }
    to_peer(script, "df", |ip| ip.fragment = DF);
    to_peer(script, "udp-checksum-zero", |ip| ip.payload[6..8].fill(0));
    to_peer(script, "udp-checksum-wrong", |ip| ip.payload[6] ^= 0x55);
    to_peer(script, "options", |ip| ip.options = vec![148, 4, 0, 0]);
    to_peer(script, "fragment-first", |ip| {
        stretch(ip, 20 + 64);
        ip.fragment = MF;
    });
    to_peer(script, "fragment-last", |ip| {
        stretch(ip, 20 + 64);
        ip.fragment = 8;
    });
    // From the world into the tunnel, by this node: it routes there.
    let id = script.id();
    let ip = udp4(OUTSIDE4, PEER1_POD4, 32);
    script.ip4("encap/from-the-world", Side::Wire, id, ip, |_| {});
}

fn headers(script: &mut Script) {
    script.decap4("udp", |_, _, _| {});
    script.decap4("from-the-other-peer", |outer, _, inner| {
        outer.src = PEER2_4;
        send_from(inner, PEER2_POD4);
    });
    for flags in [0x00, 0x04, 0x80, 0xf7] {
        script.decap4(&format!("no-vni-flag-{flags:02x}"), |_, vxlan, _| {
            vxlan.flags[0] = flags;
        });
    }
    for bit in [0, 1, 2, 4, 5, 6, 7] {
        script.decap4(&format!("reserved-flag-{bit}"), |_, vxlan, _| {
            vxlan.flags[0] |= 0x80 >> bit;
        });
    }
    for byte in 1..4 {
        for value in [0x80, 0x01] {
            script.decap4(
                &format!("reserved-byte-{byte}-{value:02x}"),
                |_, vxlan, _| {
                    vxlan.flags[byte] = value;
                },
            );
        }
    }
    script.decap4("last-reserved-byte", |_, vxlan, _| vxlan.reserved = 1);
    for vni in [0, 1, 99, 4095, 4097, 0xff_ffff] {
        script.decap4(&format!("vni-{vni}"), |_, vxlan, _| vxlan.vni = vni);
    }
    for (name, check) in [
        ("zero", Check::Zero),
        ("right", Check::Right),
        ("wrong", Check::Wrong),
        ("partial", Check::Partial),
    ] {
        script.decap4(&format!("checksum-{name}"), |_, vxlan, _| {
            vxlan.check = check;
        });
    }
    for port in [4788, 4790, 8472, 0] {
        script.decap4(&format!("port-{port}"), |_, vxlan, _| vxlan.port = port);
    }
    for port in [0, 1, 4789, 65535] {
        script.decap4(&format!("source-port-{port}"), |_, vxlan, _| {
            vxlan.source_port = port;
        });
    }
    for len in [0, 7, 8, 15, 16, 30, 49, 200] {
        script.decap4(&format!("udp-length-{len}"), |_, vxlan, _| {
            vxlan.udp_len = Some(len);
        });
    }
}

fn outer(script: &mut Script) {
    for ttl in [0, 1, 2, 255] {
        script.decap4(&format!("outer-ttl-{ttl}"), |outer, _, _| outer.ttl = ttl);
    }
    script.decap4("outer-df", |outer, _, _| outer.fragment = DF);
    script.decap4("outer-dscp", |outer, _, _| outer.tos = 0xb8);
    script.decap4("outer-options", |outer, _, _| {
        outer.options = vec![1, 1, 1, 0];
    });
    script.decap4("outer-header-checksum-wrong", |outer, _, _| {
        outer.checksum_flip = 1;
    });
    script.decap4("outer-padding", |outer, _, _| {
        // Link padding: behind the outer packet's length.
        outer.total_len = Some(20 + 8 + 8 + 14 + 60);
        outer.payload = vec![0x99; 20];
    });
    script.decap4("outer-from-a-stranger", |outer, _, _| outer.src = STRANGER4);
    script.decap4("outer-from-the-world", |outer, _, _| outer.src = OUTSIDE4);
    script.decap4("outer-from-ourselves", |outer, _, _| outer.src = NODE4);
    script.decap4("outer-from-a-martian", |outer, _, _| {
        outer.src = Ipv4Addr::LOCALHOST;
    });
    script.decap4("outer-to-another", |outer, _, _| outer.dst = STRANGER4);
    script.decap4("outer-to-the-tunnel-address", |outer, _, _| {
        outer.dst = TUNNEL4;
    });
    script.decap4("outer-to-a-pod", |outer, _, _| outer.dst = POD1_4);
    script.decap4("outer-fragment-first", |outer, _, _| {
        outer.fragment = MF;
        outer.payload = vec![0; 6];
    });
    cut(script);
}

/// Tunnel packets that end early, with outer lengths that agree.
fn cut(script: &mut Script) {
    for len in [0, 7, 8, 11, 15, 16, 22, 29, 30, 31, 49, 50, 57, 89] {
        let id = script.id();
        let mut inner = udp4(PEER1_POD4, POD1_4, 32);
        inner.id = id;
        let vxlan = Vxlan::new(vtep4(NODE), vtep4(PEER1), TYPE_IPV4);
        let mut datagram = vxlan.bytes(&(PEER1_4, NODE4), &inner.bytes());
        datagram.truncate(len);
        if let Some(field) = datagram.get_mut(4..6) {
            field.copy_from_slice(&(len as u16).to_be_bytes());
        }
        let mut outer = Ip4::new(PEER1_4, NODE4, UDP, datagram);
        outer.id = id;
        let frame = ethernet(NODE_MAC, PEER1_MAC, TYPE_IPV4, &outer.bytes());
        script.frame(
            format!("decap/cut-at-{len}"),
            Side::Wire,
            Key::Id(id),
            frame,
        );
    }
}

fn inner_frames(script: &mut Script) {
    for (name, mac) in [
        ("broadcast", [0xff; 6]),
        ("group", [1, 0, 0x5e, 0, 0, 1]),
        ("another", [2, 0, 0, 0, 9, 9]),
        ("the-uplink's", NODE_MAC),
        ("the-peer's", vtep4(PEER1)),
    ] {
        script.decap4(&format!("inner-to-mac-{name}"), |_, vxlan, _| {
            vxlan.dst = mac;
        });
    }
    for (name, mac) in [
        ("another", [2, 0, 0, 0, 9, 9]),
        ("group", [1, 0, 0x5e, 0, 0, 1]),
        ("ours", vtep4(NODE)),
        ("the-other-peer's", vtep4(PEER2)),
    ] {
        script.decap4(&format!("inner-from-mac-{name}"), |_, vxlan, _| {
            vxlan.src = mac;
        });
    }
    for (name, tag) in [("5", [0, 5, 8, 0]), ("0", [0, 0, 8, 0])] {
        script.decap4(&format!("inner-vlan-{name}"), |_, vxlan, _| {
            vxlan.ethertype = 0x8100;
            vxlan.tag = tag.to_vec();
        });
    }
    for (name, ethertype) in [
        ("arp", 0x0806),
        ("ipv6", TYPE_IPV6),
        ("unknown", 0x88b5),
        ("length", 60),
    ] {
        script.decap4(&format!("inner-type-{name}"), |_, vxlan, _| {
            vxlan.ethertype = ethertype;
        });
    }
}

fn inner_packets(script: &mut Script) {
    script.decap4("inner-tcp", |_, _, inner| {
        make_tcp(inner, 100, Check::Right);
    });
    script.decap4("inner-icmp", |_, _, inner| make_icmp(inner, 8, 0));
    for ttl in [2, 3, 255] {
        script.decap4(&format!("inner-ttl-{ttl}"), |_, _, inner| inner.ttl = ttl);
    }
    for tos in [0x01, 0x02, 0x03, 0x04, 0xb8, 0xfc] {
        script.decap4(&format!("inner-tos-{tos:02x}"), |_, _, inner| {
            inner.tos = tos;
        });
    }
    script.decap4("inner-header-checksum-wrong", |_, _, inner| {
        inner.checksum_flip = 1;
    });
    script.decap4("inner-udp-checksum-wrong", |_, _, inner| {
        inner.payload[6] ^= 0x55;
    });
    script.decap4("inner-udp-checksum-zero", |_, _, inner| {
        inner.payload[6..8].fill(0);
    });
    script.decap4("inner-udp-checksum-partial", |_, _, inner| {
        let ends = (inner.src, inner.dst);
        inner.payload = udp(&ends, (40_000, 8080), &filler(32), Check::Partial);
    });
    script.decap4("inner-tcp-checksum-partial", |_, _, inner| {
        make_tcp(inner, 100, Check::Partial);
    });
    script.decap4("inner-options", |_, _, inner| {
        inner.options = vec![148, 4, 0, 0];
    });
    script.decap4("inner-source-route", |_, _, inner| {
        inner.options = vec![131, 7, 4, 10, 65, 0, 2, 0];
    });
    script.decap4("inner-version-6", |_, _, inner| inner.first = Some(0x65));
    script.decap4("inner-header-length-4", |_, _, inner| {
        inner.first = Some(0x44);
    });
    script.decap4("inner-length-beyond", |_, _, inner| {
        inner.total_len = Some(61);
    });
    script.decap4("inner-length-below-header", |_, _, inner| {
        inner.total_len = Some(19);
    });
    script.decap4("inner-padding", |outer, _, _| {
        outer.payload = vec![0x99; 20];
    });
    script.decap4("inner-fragment-first", |_, _, inner| {
        stretch(inner, 20 + 64);
        inner.fragment = MF;
    });
    script.decap4("inner-fragment-last", |_, _, inner| {
        stretch(inner, 20 + 64);
        inner.fragment = 8;
    });
    for len in [28, 1399, 1400, 1450] {
        script.decap4(&format!("inner-bytes-{len}"), |_, _, inner| {
            stretch(inner, len);
        });
    }
}

fn inner_sources(script: &mut Script) {
    for src in [
        PEER2_POD4,
        PEER1_TUNNEL4,
        PEER1_4,
        PEER2_4,
        POD1_4,
        POD2_4,
        NO_POD4,
        NODE4,
        TUNNEL4,
        OUTSIDE4,
        STRANGER4,
        Ipv4Addr::new(8, 8, 8, 8),
        Ipv4Addr::new(10, 66, 1, 5),
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::new(224, 0, 0, 1),
        Ipv4Addr::new(240, 0, 0, 1),
        Ipv4Addr::BROADCAST,
    ] {
        script.decap4(&format!("inner-from-{src}"), |_, _, inner| {
            send_from(inner, src);
        });
    }
}

fn inner_destinations(script: &mut Script) {
    for (name, dst) in [
        ("pod2", POD2_4),
        ("nobody", NO_POD4),
        ("a-pod-of-the-other-peer", PEER2_POD4),
        ("a-pod-of-its-own", Ipv4Addr::new(10, 65, 1, 6)),
        ("no-block", Ipv4Addr::new(10, 65, 9, 9)),
        ("the-world", OUTSIDE4),
        ("nowhere", Ipv4Addr::new(203, 0, 113, 200)),
        ("the-node", NODE4),
        ("the-tunnel-address", TUNNEL4),
        ("a-peer", PEER2_4),
        ("loopback", Ipv4Addr::LOCALHOST),
        ("a-group", Ipv4Addr::new(224, 0, 0, 1)),
        ("broadcast", Ipv4Addr::BROADCAST),
        ("class-e", Ipv4Addr::new(240, 0, 0, 1)),
    ] {
        script.decap4(&format!("inner-to-{name}"), |_, _, inner| {
            send_to(inner, dst);
        });
    }
    script.decap4("inner-echo-to-the-tunnel-address", |_, _, inner| {
        inner.dst = TUNNEL4;
        make_icmp(inner, 8, 0);
    });
    // Tunnel in tunnel: to this node's own end, and to the next node's.
    for (name, dst) in [
        ("our-end", NODE4),
        ("the-other-peer", PEER2_4),
        ("our-tunnel-address", TUNNEL4),
    ] {
        script.decap4(&format!("nested-vxlan-to-{name}"), |_, _, inner| {
            let mut innermost = udp4(PEER1_POD4, POD1_4, 32);
            innermost.id = inner.id;
            inner.dst = dst;
            inner.protocol = UDP;
            let vxlan = Vxlan::new(vtep4(NODE), vtep4(PEER1), TYPE_IPV4);
            inner.payload = vxlan.bytes(&(inner.src, dst), &innermost.bytes());
        });
        script.decap4(&format!("nested-ipip-to-{name}"), |_, _, inner| {
            let mut innermost = udp4(PEER1_POD4, POD1_4, 32);
            innermost.id = inner.id;
            inner.dst = dst;
            inner.protocol = 4;
            inner.payload = innermost.bytes();
        });
    }
    // To a pod it is none of our business.
    script.decap4("inner-vxlan-to-a-pod", |_, _, inner| {
        let data = filler(60);
        inner.payload = udp(
            &(inner.src, inner.dst),
            (40_000, VXLAN_PORT),
            &data,
            Check::Right,
        );
    });
}

/// What the node says to who sent by the tunnel.
fn errors(script: &mut Script) {
    for ttl in [0, 1] {
        script.decap4(&format!("inner-ttl-{ttl}"), |_, _, inner| inner.ttl = ttl);
    }
    script.decap4("inner-ttl-1-long", |_, _, inner| {
        stretch(inner, 1450);
        inner.ttl = 1;
    });
    script.decap4("inner-ttl-1-icmp-error", |_, _, inner| {
        inner.protocol = 1;
        inner.payload = icmp(3, 1, [0; 4], &filler(30), Check::Right);
        inner.ttl = 1;
    });
    for (name, fragment) in [("df", DF), ("no-df", 0)] {
        script.decap4(&format!("inner-to-narrow-pod2-{name}"), |_, _, inner| {
            send_to(inner, POD2_4);
            stretch(inner, 1450);
            inner.fragment = fragment;
        });
    }
    script.decap4("inner-to-closed-port", |_, _, inner| {
        inner.dst = TUNNEL4;
        inner.payload = udp(&(inner.src, TUNNEL4), (40_000, 9), &filler(9), Check::Right);
    });
    script.decap4("inner-tcp-to-closed-port", |_, _, inner| {
        inner.dst = POD1_4;
        inner.protocol = 6;
        inner.payload = tcp(&(inner.src, POD1_4), 2, &[], Check::Right);
    });
}

/// RFC 6040: all that can be inside and outside.
fn ecn(script: &mut Script) {
    for outside in 0..4 {
        for inside in 0..4 {
            script.decap4(&format!("ecn-{outside}-{inside}"), |outer, _, inner| {
                outer.tos = outside;
                inner.tos = 0xb8 | inside;
            });
        }
    }
}
