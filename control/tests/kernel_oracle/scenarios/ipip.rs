//! IPIP, both ways (RFC 2003, RFC 6040).

use std::net::Ipv4Addr;

use crate::frame::{Check, DF, IPIP, Ip4, MF, TYPE_IPV4, UDP, Vxlan, ethernet, filler};
use crate::plan::{
    NO_POD4, NODE, NODE_MAC, NODE4, OUTSIDE4, PEER1, PEER1_4, PEER1_MAC, PEER1_POD4, PEER1_TUNNEL4,
    PEER2_4, PEER2_POD4, POD1_4, POD2_4, STRANGER4, TUNNEL4, vtep4,
};
use crate::script::{Key, Script, Side, make_icmp, make_tcp, send_from, send_to, stretch, udp4};

pub(crate) fn write(script: &mut Script) {
    encapsulation(script);
    cut_up(script);
    outer(script);
    inner_packets(script);
    inner_sources(script);
    inner_destinations(script);
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
    for ttl in [0, 1, 2, 64, 255] {
        to_peer(script, &format!("ttl-{ttl}"), |ip| ip.ttl = ttl);
    }
    for (name, flags) in [("df", DF), ("reserved-flag", 0x8000)] {
        to_peer(script, name, |ip| ip.fragment = flags);
    }
    for len in [28, 29, 1479, 1480] {
        to_peer(script, &format!("bytes-{len}"), |ip| stretch(ip, len));
    }
    for len in [1480, 1481, 1500] {
        to_peer(script, &format!("df-bytes-{len}"), |ip| {
            stretch(ip, len);
            ip.fragment = DF;
        });
    }
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
    let id = script.id();
    let ip = udp4(OUTSIDE4, PEER1_POD4, 32);
    script.ip4("encap/from-the-world", Side::Wire, id, ip, |_| {});
    // Its answer has to take the tunnel.
    script.in4("echo-from-a-remote-pod", |ip| {
        (ip.src, ip.dst) = (PEER1_POD4, NODE4);
        make_icmp(ip, 8, 0);
    });
}

fn cut_up(script: &mut Script) {
    for len in [1481, 1500] {
        to_peer(script, &format!("cut-up-bytes-{len}"), |ip| {
            stretch(ip, len);
        });
    }
    to_peer(script, "cut-up-tos", |ip| {
        stretch(ip, 1500);
        ip.tos = 0xba;
    });
}

fn outer(script: &mut Script) {
    script.decap_ipip("udp", |_, _| {});
    script.decap_ipip("from-the-other-peer", |outer, inner| {
        outer.src = PEER2_4;
        send_from(inner, PEER2_POD4);
    });
    for ttl in [0, 1, 2, 255] {
        script.decap_ipip(&format!("outer-ttl-{ttl}"), |outer, _| outer.ttl = ttl);
    }
    script.decap_ipip("outer-df", |outer, _| outer.fragment = DF);
    script.decap_ipip("outer-dscp", |outer, _| outer.tos = 0xb8);
    script.decap_ipip("outer-options", |outer, _| outer.options = vec![1, 1, 1, 0]);
    script.decap_ipip("outer-header-checksum-wrong", |outer, _| {
        outer.checksum_flip = 1;
    });
    script.decap_ipip("outer-padding", |outer, _| {
        outer.total_len = Some(20 + 60);
        outer.payload = vec![0x99; 20];
    });
    script.decap_ipip("outer-from-a-stranger", |outer, _| outer.src = STRANGER4);
    script.decap_ipip("outer-from-the-world", |outer, _| outer.src = OUTSIDE4);
    script.decap_ipip("outer-from-ourselves", |outer, _| outer.src = NODE4);
    script.decap_ipip("outer-from-a-martian", |outer, _| {
        outer.src = Ipv4Addr::LOCALHOST;
    });
    script.decap_ipip("outer-to-another", |outer, _| outer.dst = STRANGER4);
    script.decap_ipip("outer-to-the-tunnel-address", |outer, _| {
        outer.dst = TUNNEL4;
    });
    script.decap_ipip("outer-fragment-first", |outer, _| {
        outer.fragment = MF;
        outer.payload = vec![0; 4];
    });
    for len in [0, 1, 19, 20, 27, 59] {
        let id = script.id();
        let mut inner = udp4(PEER1_POD4, POD1_4, 32);
        inner.id = id;
        let mut payload = inner.bytes();
        payload.truncate(len);
        let mut outer = Ip4::new(PEER1_4, NODE4, IPIP, payload);
        outer.id = id;
        let frame = ethernet(NODE_MAC, PEER1_MAC, TYPE_IPV4, &outer.bytes());
        script.frame(
            format!("decap/cut-at-{len}"),
            Side::Wire,
            Key::Id(id),
            frame,
        );
    }
    for protocol in [41, 47, 94] {
        script.decap_ipip(&format!("outer-protocol-{protocol}"), |outer, _| {
            outer.protocol = protocol;
        });
    }
}

fn inner_packets(script: &mut Script) {
    script.decap_ipip("inner-tcp", |_, inner| make_tcp(inner, 100, Check::Right));
    script.decap_ipip("inner-icmp", |_, inner| make_icmp(inner, 8, 0));
    for ttl in [0, 1, 2, 255] {
        script.decap_ipip(&format!("inner-ttl-{ttl}"), |_, inner| inner.ttl = ttl);
    }
    script.decap_ipip("inner-header-checksum-wrong", |_, inner| {
        inner.checksum_flip = 1;
    });
    script.decap_ipip("inner-udp-checksum-wrong", |_, inner| {
        inner.payload[6] ^= 0x55;
    });
    script.decap_ipip("inner-options", |_, inner| {
        inner.options = vec![148, 4, 0, 0];
    });
    for first in [0x65, 0x44, 0x05] {
        script.decap_ipip(&format!("inner-first-byte-{first:02x}"), |_, inner| {
            inner.first = Some(first);
        });
    }
    script.decap_ipip("inner-length-beyond", |_, inner| inner.total_len = Some(61));
    script.decap_ipip("inner-padding", |outer, _| outer.payload = vec![0x99; 20]);
    script.decap_ipip("inner-fragment-last", |_, inner| {
        stretch(inner, 20 + 64);
        inner.fragment = 8;
    });
    script.decap_ipip("inner-bytes-1480", |_, inner| stretch(inner, 1480));
    for (name, fragment) in [("df", DF), ("no-df", 0)] {
        script.decap_ipip(&format!("inner-to-narrow-pod2-{name}"), |_, inner| {
            send_to(inner, POD2_4);
            stretch(inner, 1480);
            inner.fragment = fragment;
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
        NODE4,
        TUNNEL4,
        OUTSIDE4,
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::new(224, 0, 0, 1),
        Ipv4Addr::BROADCAST,
    ] {
        script.decap_ipip(&format!("inner-from-{src}"), |_, inner| {
            send_from(inner, src);
        });
    }
}

fn inner_destinations(script: &mut Script) {
    for (name, dst) in [
        ("pod2", POD2_4),
        ("nobody", NO_POD4),
        ("a-pod-of-the-other-peer", PEER2_POD4),
        ("the-world", OUTSIDE4),
        ("the-node", NODE4),
        ("the-tunnel-address", TUNNEL4),
        ("loopback", Ipv4Addr::LOCALHOST),
        ("a-group", Ipv4Addr::new(224, 0, 0, 1)),
        ("broadcast", Ipv4Addr::BROADCAST),
    ] {
        script.decap_ipip(&format!("inner-to-{name}"), |_, inner| send_to(inner, dst));
    }
    for (name, dst) in [("our-end", NODE4), ("the-other-peer", PEER2_4)] {
        script.decap_ipip(&format!("nested-ipip-to-{name}"), |_, inner| {
            let mut innermost = udp4(PEER1_POD4, POD1_4, 32);
            innermost.id = inner.id;
            inner.dst = dst;
            inner.protocol = IPIP;
            inner.payload = innermost.bytes();
        });
        script.decap_ipip(&format!("nested-vxlan-to-{name}"), |_, inner| {
            let mut innermost = udp4(PEER1_POD4, POD1_4, 32);
            innermost.id = inner.id;
            inner.dst = dst;
            inner.protocol = UDP;
            let vxlan = Vxlan::new(vtep4(NODE), vtep4(PEER1), TYPE_IPV4);
            inner.payload = vxlan.bytes(&(inner.src, dst), &innermost.bytes());
        });
    }
}

/// RFC 6040: all that can be inside and outside.
fn ecn(script: &mut Script) {
    for outside in 0..4 {
        for inside in 0..4 {
            script.decap_ipip(&format!("ecn-{outside}-{inside}"), |outer, inner| {
                outer.tos = outside;
                inner.tos = 0xb8 | inside;
            });
        }
    }
}
