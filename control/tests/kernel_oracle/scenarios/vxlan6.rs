//! VXLAN over IPv6, both ways (RFC 7348, 6040, 6935, 6936).

use std::net::Ipv6Addr;

use crate::frame::{Check, Ip6, TCP, TYPE_IPV4, filler, icmp6, tcp};
use crate::plan::{
    NO_POD6, NODE_MAC, NODE6, OUTSIDE6, PEER1_6, PEER1_POD6, PEER2_6, PEER2_POD6, POD1_6, POD2_6,
    STRANGER6, TUNNEL6,
};
use crate::script::{Script, Side, send_from6, send_to6, stretch6, udp6};

pub(crate) fn write(script: &mut Script) {
    encapsulation(script);
    headers(script);
    inner(script);
    ecn(script);
}

fn to_peer(script: &mut Script, name: &str, change: impl FnOnce(&mut Ip6)) {
    let ip = udp6(POD1_6, PEER1_POD6, 32);
    script.ip6(&format!("encap/{name}"), Side::Pod1, ip, change);
}

fn encapsulation(script: &mut Script) {
    to_peer(script, "udp", |_| {});
    to_peer(script, "other-peer", |ip| send_to6(ip, PEER2_POD6));
    to_peer(script, "tcp", |ip| {
        ip.next = TCP;
        ip.payload = tcp(&(ip.src, ip.dst), 0x18, &filler(51), Check::Right);
    });
    to_peer(script, "icmp", |ip| {
        ip.next = 58;
        ip.payload = icmp6(&(ip.src, ip.dst), 128, [0, 1, 0, 1], &filler(41));
    });
    for class in [0, 1, 2, 3, 0xb8, 0xbb, 0xfc] {
        to_peer(script, &format!("class-{class:02x}"), |ip| ip.class = class);
    }
    for hop_limit in [1, 2, 64, 255] {
        to_peer(script, &format!("hop-limit-{hop_limit}"), |ip| {
            ip.hop_limit = hop_limit;
        });
    }
    for len in [48, 49, 1280, 1429, 1430, 1431] {
        to_peer(script, &format!("bytes-{len}"), |ip| stretch6(ip, len));
    }
    to_peer(script, "udp-checksum-wrong", |ip| ip.payload[6] ^= 0x55);
    to_peer(script, "udp-checksum-zero", |ip| ip.payload[6..8].fill(0));
    to_peer(script, "fragment", |ip| {
        let header = [17, 0, 0, 0x41, 0, 0, 0, 9];
        ip.next = 44;
        ip.payload = [&header[..], &filler(40)].concat();
    });
}

fn headers(script: &mut Script) {
    script.decap6("udp", |_, _, _| {});
    script.decap6("from-the-other-peer", |outer, _, inner| {
        outer.src = PEER2_6;
        send_from6(inner, PEER2_POD6);
    });
    for flags in [0x00, 0xf7] {
        script.decap6(&format!("no-vni-flag-{flags:02x}"), |_, vxlan, _| {
            vxlan.flags[0] = flags;
        });
    }
    script.decap6("reserved-flag", |_, vxlan, _| vxlan.flags[0] |= 0x80);
    script.decap6("last-reserved-byte", |_, vxlan, _| vxlan.reserved = 1);
    for vni in [0, 99, 4097] {
        script.decap6(&format!("vni-{vni}"), |_, vxlan, _| vxlan.vni = vni);
    }
    for (name, check) in [
        ("zero", Check::Zero),
        ("wrong", Check::Wrong),
        ("partial", Check::Partial),
    ] {
        script.decap6(&format!("checksum-{name}"), |_, vxlan, _| {
            vxlan.check = check;
        });
    }
    for port in [4788, 8472] {
        script.decap6(&format!("port-{port}"), |_, vxlan, _| vxlan.port = port);
    }
    for len in [7, 8, 30, 69, 200] {
        script.decap6(&format!("udp-length-{len}"), |_, vxlan, _| {
            vxlan.udp_len = Some(len);
            vxlan.check = Check::Zero;
        });
    }
    for hop_limit in [0, 1, 255] {
        script.decap6(&format!("outer-hop-limit-{hop_limit}"), |outer, _, _| {
            outer.hop_limit = hop_limit;
        });
    }
    script.decap6("outer-class", |outer, _, _| outer.class = 0xb8);
    script.decap6("outer-from-a-stranger", |outer, _, _| outer.src = STRANGER6);
    script.decap6("outer-from-the-world", |outer, _, _| outer.src = OUTSIDE6);
    script.decap6("outer-from-ourselves", |outer, _, _| outer.src = NODE6);
    script.decap6("outer-to-another", |outer, _, _| outer.dst = STRANGER6);
    script.decap6("outer-to-the-tunnel-address", |outer, _, _| {
        outer.dst = TUNNEL6;
    });
}

fn inner(script: &mut Script) {
    for (name, mac) in [("broadcast", [0xff; 6]), ("the-uplink's", NODE_MAC)] {
        script.decap6(&format!("inner-to-mac-{name}"), |_, vxlan, _| {
            vxlan.dst = mac;
        });
    }
    script.decap6("inner-vlan", |_, vxlan, _| {
        vxlan.ethertype = 0x8100;
        vxlan.tag = vec![0, 5, 0x86, 0xdd];
    });
    script.decap6("inner-type-ipv4", |_, vxlan, _| vxlan.ethertype = TYPE_IPV4);
    for hop_limit in [0, 1, 2, 255] {
        script.decap6(&format!("inner-hop-limit-{hop_limit}"), |_, _, inner| {
            inner.hop_limit = hop_limit;
        });
    }
    script.decap6("inner-version-4", |_, _, inner| inner.version = 4);
    script.decap6("inner-length-beyond", |_, _, inner| {
        inner.payload_len = Some(60);
    });
    script.decap6("inner-length-short", |_, _, inner| {
        inner.payload_len = Some(20);
    });
    script.decap6("inner-udp-checksum-wrong", |_, _, inner| {
        inner.payload[6] ^= 0x55;
    });
    for src in [
        PEER2_POD6,
        PEER1_6,
        PEER2_6,
        POD1_6,
        POD2_6,
        NODE6,
        TUNNEL6,
        OUTSIDE6,
        Ipv6Addr::LOCALHOST,
        Ipv6Addr::UNSPECIFIED,
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 7),
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
    ] {
        script.decap6(&format!("inner-from-{src}"), |_, _, inner| {
            send_from6(inner, src);
        });
    }
    for (name, dst) in [
        ("pod2", POD2_6),
        ("nobody", NO_POD6),
        ("a-pod-of-the-other-peer", PEER2_POD6),
        ("the-world", OUTSIDE6),
        ("the-node", NODE6),
        ("the-tunnel-address", TUNNEL6),
        ("link-local", Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 7)),
        ("a-group", Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)),
    ] {
        script.decap6(&format!("inner-to-{name}"), |_, _, inner| {
            send_to6(inner, dst);
        });
    }
    script.decap6("inner-to-narrow-pod2", |_, _, inner| {
        send_to6(inner, POD2_6);
        stretch6(inner, 1430);
    });
    script.decap6("inner-bytes-1430", |_, _, inner| stretch6(inner, 1430));
}

fn ecn(script: &mut Script) {
    for outside in 0..4 {
        for inside in 0..4 {
            script.decap6(&format!("ecn-{outside}-{inside}"), |outer, _, inner| {
                outer.class = outside;
                inner.class = 0xb8 | inside;
            });
        }
    }
}
