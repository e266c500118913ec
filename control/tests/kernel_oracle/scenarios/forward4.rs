//! Plain IPv4 forwarding between a pod and the world (requirements of RFC 791, 792, 1122, 1812).

use std::net::Ipv4Addr;

use crate::frame::{Check, DF, Ip4, MF, TCP, TYPE_IPV4, UDP, ethernet, filler, icmp, udp};
use crate::plan::{
    BLACKHOLE4, DIRECT_POD4, GATEWAY_MAC, NO_POD4, NODE_MAC, NODE4, OUTSIDE4, PEER1_4, PEER1_POD4,
    POD_GATEWAY4, POD1_4, POD1_MAC, POD1_MORE4, POD2_4, POD2_MAC, ROUTER_MAC, ROUTER4, TUNNEL4,
};
use crate::script::{
    Key, OWN_IDS, Script, Side, macs, make_icmp, make_tcp, send_from, send_to, stretch, udp4,
};

pub(crate) fn write(script: &mut Script) {
    transports(script);
    headers(script);
    checksums(script);
    options(script);
    lengths(script);
    sources(script);
    destinations(script);
    frames(script);
    icmp_types(script);
    fragments(script);
    to_the_node(script);
}

fn transports(script: &mut Script) {
    script.both4("udp", |_| {});
    for (name, dst) in [
        ("local-pod", POD2_4),
        ("direct-pod", DIRECT_POD4),
        ("router", ROUTER4),
    ] {
        script.out4(&format!("to-{name}"), |ip| send_to(ip, dst));
    }
    for (name, check) in [
        ("right", Check::Right),
        ("wrong", Check::Wrong),
        ("partial", Check::Partial),
    ] {
        script.both4(&format!("tcp-checksum-{name}"), |ip| {
            make_tcp(ip, 100, check);
        });
        script.both4(&format!("udp-checksum-{name}"), |ip| {
            ip.payload = udp(&(ip.src, ip.dst), (40_000, 8080), &filler(33), check);
        });
    }
    script.both4("udp-checksum-zero", |ip| {
        ip.payload = udp(&(ip.src, ip.dst), (40_000, 8080), &filler(33), Check::Zero);
    });
    script.both4("icmp-checksum-wrong", |ip| {
        make_icmp(ip, 8, 0);
        ip.payload = icmp(8, 0, [0; 4], &filler(9), Check::Wrong);
    });
    script.both4("udp-length-too-short", |ip| {
        ip.payload[4..6].copy_from_slice(&[0, 7]);
    });
    script.both4("udp-length-too-long", |ip| {
        ip.payload[4..6].copy_from_slice(&[1, 0]);
    });
    script.both4("udp-cut", |ip| ip.payload.truncate(5));
    script.both4("tcp-cut", |ip| {
        make_tcp(ip, 0, Check::Right);
        ip.payload.truncate(10);
    });
    script.both4("tcp-offset-0", |ip| {
        make_tcp(ip, 10, Check::Right);
        ip.payload[12] = 0;
    });
    for protocol in [0, 2, 4, 41, 47, 50, 51, 89, 112, 132, 136, 253, 255] {
        script.both4(&format!("protocol-{protocol}"), |ip| {
            ip.protocol = protocol;
            ip.payload = filler(64);
        });
    }
    script.both4("no-payload", |ip| ip.payload.clear());
    for port in [53, 67, 179, 4789, 10250] {
        script.both4(&format!("to-port-{port}"), |ip| {
            ip.payload = udp(&(ip.src, ip.dst), (40_000, port), &filler(33), Check::Right);
        });
    }
}

fn headers(script: &mut Script) {
    for ttl in [0, 1, 2, 3, 64, 255] {
        script.both4(&format!("ttl-{ttl}"), |ip| ip.ttl = ttl);
    }
    for tos in (0..=255).step_by(5) {
        script.both4(&format!("tos-{tos:02x}"), |ip| ip.tos = tos);
    }
    for (name, flags) in [("df", DF), ("reserved-flag", 0x8000)] {
        script.both4(name, |ip| ip.fragment = flags);
    }
    for first in [0x05, 0x15, 0x55, 0x65, 0xf5, 0x40, 0x44, 0x46, 0x4f] {
        script.both4(&format!("first-byte-{first:02x}"), |ip| {
            ip.first = Some(first);
        });
    }
}

fn checksums(script: &mut Script) {
    for flip in [1, 0x100, 0x8000, 0xffff] {
        script.both4(&format!("header-checksum-flipped-{flip:04x}"), |ip| {
            ip.checksum_flip = flip;
        });
    }
    script.both4("header-checksum-zero", |ip| ip.checksum = Some(0));
    // Identifications that give these checksums, where sums end around.
    for (number, wanted) in (0..).zip([0x0000, 0xffff, 0xfeff, 0xfefe, 0x00ff, 0x0100, 0xff00]) {
        for (side, src, dst) in [
            (Side::Pod1, POD1_4, OUTSIDE4),
            (Side::Wire, OUTSIDE4, POD1_4),
        ] {
            // The sum is the same both ways; the identification must not be.
            let skip = 2 * number + usize::from(side == Side::Wire);
            let ip = with_checksum(&udp4(src, dst, 32), wanted, skip);
            let name = format!(
                "{}/header-checksum-is-{wanted:04x}",
                if side == Side::Pod1 { "out" } else { "in" }
            );
            script.ip4(&name, side, ip.id, ip.clone(), |changed| *changed = ip);
        }
    }
}

/// Chooses identification and TTL so that the header's checksum is `wanted`; `skip` makes for different ones.
fn with_checksum(ip: &Ip4, wanted: u16, skip: usize) -> Ip4 {
    // 0xffff is never computed: it is what a sender writes that takes -0 for 0.
    let computed = if wanted == 0xffff { 0 } else { wanted };
    let found = (2..=255).filter_map(|ttl| {
        let mut ip = Ip4 { ttl, ..ip.clone() };
        let header = ip.bytes();
        let sum = !u16::from_be_bytes([header[10], header[11]]);
        // What is missing in the sum, modulo 65535.
        ip.id = (65535 + u32::from(!computed) - u32::from(sum)).rem_euclid(65535) as u16;
        let fits = OWN_IDS.contains(&ip.id);
        (fits && ip.bytes()[10..12] == computed.to_be_bytes()).then_some(ip)
    });
    let mut ip = found
        .step_by(5)
        .nth(skip)
        .expect("a header with that checksum");
    ip.checksum = Some(wanted);
    ip
}

fn options(script: &mut Script) {
    let lists: &[(&str, &[u8])] = &[
        ("no-operation", &[1, 1, 1, 1]),
        ("end", &[0, 0, 0, 0]),
        ("end-then-junk", &[1, 0, 0xaa, 0xbb]),
        ("unknown-30", &[30, 4, 1, 2]),
        ("unknown-copied-158", &[158, 4, 1, 2]),
        ("router-alert", &[148, 4, 0, 0]),
        ("security", &[130, 11, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0]),
        ("record-route", &[7, 7, 4, 0, 0, 0, 0, 0]),
        ("record-route-full", &[7, 7, 8, 10, 1, 2, 3, 0]),
        ("record-route-bad-pointer", &[7, 7, 3, 0, 0, 0, 0, 0]),
        ("timestamp", &[68, 8, 5, 0, 0, 0, 0, 0]),
        ("timestamp-full", &[68, 8, 9, 0, 1, 2, 3, 4]),
        ("loose-source-route", &[131, 7, 4, 10, 65, 0, 2, 0]),
        ("strict-source-route", &[137, 7, 4, 10, 65, 0, 2, 0]),
        ("source-route-used-up", &[131, 7, 8, 10, 65, 0, 2, 0]),
        ("length-0", &[30, 0, 0, 0]),
        ("length-1", &[30, 1, 0, 0]),
        ("length-beyond", &[30, 5, 0, 0]),
        ("no-length", &[1, 1, 1, 30]),
        ("forty", &[1; 40]),
    ];
    for (name, list) in lists {
        script.both4(&format!("option-{name}"), |ip| {
            ip.options = list.to_vec();
            ip.ttl = 9;
        });
    }
}

fn lengths(script: &mut Script) {
    for padding in [1, 2, 17, 46, 255] {
        padded(script, padding);
    }
    script.both4("length-below-header", |ip| ip.total_len = Some(19));
    script.both4("length-of-header", |ip| ip.total_len = Some(20));
    script.both4("length-beyond-frame", |ip| ip.total_len = Some(61));
    script.both4("length-zero", |ip| ip.total_len = Some(0));
    for len in [28, 29, 60, 576, 1399, 1400, 1499, 1500] {
        script.both4(&format!("bytes-{len}"), |ip| stretch(ip, len));
    }
    // A header cut short. It has no identification any more, so nothing may come of it at all.
    for len in [1, 4, 12, 19] {
        for side in [Side::Pod1, Side::Wire] {
            let id = script.id();
            let (to, from) = macs(side);
            let mut ip = udp4(POD1_4, OUTSIDE4, 32);
            ip.id = id;
            let frame = ethernet(to, from, TYPE_IPV4, &ip.bytes()[..len]);
            script.frame(
                format!("{}/cut-at-{len}", side.name()),
                side,
                Key::Id(id),
                frame,
            );
        }
    }
}

/// A packet with bytes behind it that are not its own.
fn padded(script: &mut Script, padding: usize) {
    for (side, src, dst) in [
        (Side::Pod1, POD1_4, OUTSIDE4),
        (Side::Wire, OUTSIDE4, POD1_4),
    ] {
        let id = script.id();
        let mut ip = udp4(src, dst, 1);
        ip.id = id;
        let (to, from) = macs(side);
        let mut frame = ethernet(to, from, TYPE_IPV4, &ip.bytes());
        frame.extend(vec![0x99; padding]);
        script.frame(
            format!("{}/padding-{padding}", side.name()),
            side,
            Key::Id(id),
            frame,
        );
    }
}

fn sources(script: &mut Script) {
    let martians = [
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::new(0, 1, 2, 3),
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::new(127, 9, 9, 9),
        Ipv4Addr::new(169, 254, 7, 7),
        Ipv4Addr::new(224, 0, 0, 1),
        Ipv4Addr::new(239, 1, 1, 1),
        Ipv4Addr::new(240, 0, 0, 1),
        Ipv4Addr::BROADCAST,
        NODE4,
        TUNNEL4,
        POD_GATEWAY4,
        Ipv4Addr::new(172, 18, 255, 255),
        Ipv4Addr::new(8, 8, 8, 8),
        POD2_4,
        NO_POD4,
        PEER1_POD4,
        DIRECT_POD4,
        BLACKHOLE4,
    ];
    for src in martians {
        script.both4(&format!("from-{src}"), |ip| send_from(ip, src));
    }
    script.in4("from-the-pod-itself", |ip| send_from(ip, POD1_4));
}

fn destinations(script: &mut Script) {
    // The kernel says no more than so much to one source.
    for (number, dst) in (0..).zip([
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::new(0, 1, 2, 3),
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::new(127, 9, 9, 9),
        Ipv4Addr::new(224, 0, 0, 1),
        Ipv4Addr::new(224, 0, 0, 251),
        Ipv4Addr::new(239, 1, 1, 1),
        Ipv4Addr::new(240, 0, 0, 1),
        Ipv4Addr::BROADCAST,
        Ipv4Addr::new(172, 18, 255, 255),
        Ipv4Addr::new(172, 18, 0, 0),
        NO_POD4,
        BLACKHOLE4,
    ]) {
        let pod = POD1_MORE4[usize::from(number) % POD1_MORE4.len()];
        let outside = Ipv4Addr::new(198, 51, 100, 30 + number);
        for (way, side, src) in [("out", Side::Pod1, pod), ("in", Side::Wire, outside)] {
            let id = script.id();
            script.ip4(
                &format!("{way}/to-{dst}"),
                side,
                id,
                udp4(src, dst, 32),
                |_| {},
            );
        }
    }
    // Back to where it came from.
    script.out4("to-the-pod-itself", |ip| send_to(ip, POD1_4));
    script.in4("to-the-world-again", |ip| {
        send_to(ip, Ipv4Addr::new(198, 51, 100, 8));
    });
}

fn frames(script: &mut Script) {
    const BROADCAST: [u8; 6] = [0xff; 6];
    const GROUP: [u8; 6] = [1, 0, 0x5e, 0, 0, 1];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 9, 9];
    let mut send = |name: &str,
                    out: ([u8; 6], [u8; 6]),
                    inwards: ([u8; 6], [u8; 6]),
                    ethertype: u16,
                    tag: &[u8]| {
        for (side, (to, from), src, dst) in [
            (Side::Pod1, out, POD1_4, OUTSIDE4),
            (Side::Wire, inwards, OUTSIDE4, POD1_4),
        ] {
            let id = script.id();
            let mut ip = udp4(src, dst, 32);
            ip.id = id;
            let frame = ethernet(to, from, ethertype, &[tag, &ip.bytes()].concat());
            script.frame(format!("{}/{name}", side.name()), side, Key::Id(id), frame);
        }
    };
    let (out, inwards) = (macs(Side::Pod1), macs(Side::Wire));
    send(
        "to-broadcast-mac",
        (BROADCAST, out.1),
        (BROADCAST, inwards.1),
        TYPE_IPV4,
        &[],
    );
    send(
        "to-group-mac",
        (GROUP, out.1),
        (GROUP, inwards.1),
        TYPE_IPV4,
        &[],
    );
    send(
        "to-another-mac",
        (OTHER, out.1),
        (OTHER, inwards.1),
        TYPE_IPV4,
        &[],
    );
    send(
        "from-another-mac",
        (out.0, OTHER),
        (inwards.0, OTHER),
        TYPE_IPV4,
        &[],
    );
    send(
        "from-group-mac",
        (out.0, GROUP),
        (inwards.0, GROUP),
        TYPE_IPV4,
        &[],
    );
    send(
        "from-the-node's-mac",
        (out.0, GATEWAY_MAC),
        (inwards.0, NODE_MAC),
        TYPE_IPV4,
        &[],
    );
    send(
        "from-the-other-side's-mac",
        (out.0, ROUTER_MAC),
        (inwards.0, POD1_MAC),
        TYPE_IPV4,
        &[],
    );
    send(
        "from-pod2's-mac",
        (out.0, POD2_MAC),
        (inwards.0, POD2_MAC),
        TYPE_IPV4,
        &[],
    );
    send("vlan-tag", out, inwards, 0x8100, &[0, 5, 8, 0]);
    send("vlan-priority-tag", out, inwards, 0x8100, &[0xe0, 0, 8, 0]);
    send(
        "two-vlan-tags",
        out,
        inwards,
        0x88a8,
        &[0, 5, 0x81, 0, 0, 6, 8, 0],
    );
    send("type-ipv6", out, inwards, 0x86dd, &[]);
    send("type-unknown", out, inwards, 0x88b5, &[]);
    send("type-mpls", out, inwards, 0x8847, &[0, 1, 0x41, 64]);
    send("type-length-802.3", out, inwards, 60, &[]);
}

fn icmp_types(script: &mut Script) {
    for kind in [
        0, 3, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 30, 37, 40, 42, 250, 255,
    ] {
        script.both4(&format!("icmp-{kind}"), |ip| make_icmp(ip, kind, 0));
    }
    script.both4("icmp-unreachable-with-a-quote", |ip| {
        make_icmp(ip, 3, 4);
        let mut quoted = udp4(ip.dst, ip.src, 8);
        quoted.id = ip.id;
        ip.payload = icmp(3, 4, [0, 0, 5, 0x14], &quoted.bytes(), Check::Right);
    });
    script.both4("icmp-cut", |ip| {
        make_icmp(ip, 8, 0);
        ip.payload.truncate(3);
    });
}

fn fragments(script: &mut Script) {
    script.both4("fragment-first", |ip| {
        stretch(ip, 20 + 64);
        ip.fragment = MF;
    });
    script.both4("fragment-middle", |ip| {
        ip.payload = filler(64);
        ip.fragment = MF | 8;
    });
    script.both4("fragment-last", |ip| {
        ip.payload = filler(13);
        ip.fragment = 16;
    });
    script.both4("fragment-first-df", |ip| {
        stretch(ip, 20 + 64);
        ip.fragment = MF | DF;
    });
    script.both4("fragment-first-with-options", |ip| {
        ip.options = vec![148, 4, 0, 0];
        stretch(ip, 24 + 64);
        ip.fragment = MF;
    });
    script.both4("fragment-first-tcp", |ip| {
        make_tcp(ip, 44, Check::Right);
        ip.fragment = MF;
    });
    script.both4("fragment-first-tcp-tiny", |ip| {
        make_tcp(ip, 0, Check::Right);
        ip.payload.truncate(8);
        ip.fragment = MF;
    });
    script.both4("fragment-tcp-at-8", |ip| {
        ip.protocol = TCP;
        ip.payload = filler(32);
        ip.fragment = 1;
    });
    script.both4("fragment-udp-at-8", |ip| {
        ip.protocol = UDP;
        ip.payload = filler(32);
        ip.fragment = 1;
    });
    script.both4("fragment-udp-tiny", |ip| {
        ip.payload.truncate(8);
        ip.fragment = MF;
    });
    script.both4("fragment-beyond-65535", |ip| {
        ip.payload = filler(64);
        ip.fragment = 0x1fff;
    });
    script.both4("fragment-up-to-65535", |ip| {
        ip.payload = filler(7);
        ip.fragment = 0x1ffc;
    });
    script.both4("fragment-not-of-8", |ip| {
        ip.payload = filler(63);
        ip.fragment = MF | 8;
    });
    script.both4("fragment-empty", |ip| {
        ip.payload.clear();
        ip.fragment = MF | 8;
    });
}

/// What the node's own stack answers, ours having handed it over.
fn to_the_node(script: &mut Script) {
    // Pods of other nodes speak to this one without a tunnel; the answer goes through it.
    for (name, src) in [
        ("a-remote-pod", PEER1_POD4),
        ("a-direct-pod", DIRECT_POD4),
        ("a-peer", PEER1_4),
    ] {
        script.in4(&format!("echo-from-{name}"), |ip| {
            (ip.src, ip.dst) = (src, NODE4);
            make_icmp(ip, 8, 0);
        });
    }
    for dst in [NODE4, TUNNEL4, POD_GATEWAY4] {
        script.both4(&format!("echo-to-{dst}"), |ip| {
            ip.dst = dst;
            make_icmp(ip, 8, 0);
        });
        script.both4(&format!("echo-to-{dst}-ttl-1"), |ip| {
            ip.dst = dst;
            ip.ttl = 1;
            make_icmp(ip, 8, 0);
        });
        script.both4(&format!("udp-to-{dst}"), |ip| send_to(ip, dst));
        script.both4(&format!("protocol-253-to-{dst}"), |ip| {
            ip.dst = dst;
            ip.protocol = 253;
        });
    }
}
