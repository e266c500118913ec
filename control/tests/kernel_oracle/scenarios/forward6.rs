//! IPv6 forwarding between a pod and the world, and what the node says itself (RFC 8200, 4443, 4291, 5095, 7112).

use std::net::Ipv6Addr;

use crate::frame::{
    Check, FRAGMENT, ICMPV6, Ip6, TCP, TYPE_IPV4, TYPE_IPV6, ethernet, filler, icmp6, tcp, udp,
};
use crate::plan::{
    BLACKHOLE6, DIRECT_POD6, NO_POD6, NODE6, NOWHERE6, OUTSIDE6, PEER1_6, PEER1_POD6, POD_GATEWAY6,
    POD1_6, POD2_6, PROHIBITED6, ROUTER6, TUNNEL6, UNREACHABLE6,
};
use crate::script::{Key, Script, Side, macs, send_from6, send_to6, stretch6, udp6};

pub(crate) fn write(script: &mut Script) {
    transports(script);
    headers(script);
    extensions(script);
    sources(script);
    destinations(script);
    time_exceeded(script);
    unreachable(script);
    too_big(script);
    to_the_node(script);
}

fn transports(script: &mut Script) {
    script.both6("udp", |_| {});
    for (name, dst) in [
        ("local-pod", POD2_6),
        ("direct-pod", DIRECT_POD6),
        ("router", ROUTER6),
    ] {
        script.out6(&format!("to-{name}"), |ip| send_to6(ip, dst));
    }
    for (name, check) in [
        ("right", Check::Right),
        ("wrong", Check::Wrong),
        ("zero", Check::Zero),
        ("partial", Check::Partial),
    ] {
        script.both6(&format!("udp-checksum-{name}"), |ip| {
            ip.payload = udp(&(ip.src, ip.dst), (40_000, 8080), &filler(33), check);
        });
        script.both6(&format!("tcp-checksum-{name}"), |ip| {
            ip.next = TCP;
            ip.payload = tcp(&(ip.src, ip.dst), 0x18, &filler(50), check);
        });
    }
    for protocol in [4, 41, 50, 51, 59, 89, 132, 136, 253, 255] {
        script.both6(&format!("next-{protocol}"), |ip| {
            ip.next = protocol;
            ip.payload = filler(64);
        });
    }
    for kind in [1, 2, 3, 4, 100, 127, 128, 129, 144, 200, 255] {
        script.both6(&format!("icmp-{kind}"), |ip| make_icmp6(ip, kind));
    }
    script.both6("no-payload", |ip| ip.payload.clear());
    for port in [53, 4789] {
        script.both6(&format!("to-port-{port}"), |ip| {
            ip.payload = udp(&(ip.src, ip.dst), (40_000, port), &filler(33), Check::Right);
        });
    }
}

fn make_icmp6(ip: &mut Ip6, kind: u8) {
    ip.next = ICMPV6;
    let [_, _, id0, id1] = ip.label.to_be_bytes();
    ip.payload = icmp6(&(ip.src, ip.dst), kind, [id0, id1, 0, 1], &filler(40));
}

fn headers(script: &mut Script) {
    for hop_limit in [2, 3, 64, 255] {
        script.both6(&format!("hop-limit-{hop_limit}"), |ip| {
            ip.hop_limit = hop_limit;
        });
    }
    for class in (0..=255).step_by(15) {
        script.both6(&format!("class-{class:02x}"), |ip| ip.class = class);
    }
    for version in [0, 4, 5, 7, 15] {
        script.both6(&format!("version-{version}"), |ip| ip.version = version);
    }
    script.both6("length-beyond", |ip| ip.payload_len = Some(41));
    script.both6("length-zero", |ip| ip.payload_len = Some(0));
    script.both6("length-short", |ip| ip.payload_len = Some(20));
    for len in [48, 49, 1280, 1499, 1500] {
        script.both6(&format!("bytes-{len}"), |ip| stretch6(ip, len));
    }
    for (side, src, dst) in [
        (Side::Pod1, POD1_6, OUTSIDE6),
        (Side::Wire, OUTSIDE6, POD1_6),
    ] {
        let (to, from) = macs(side);
        let mut ip = udp6(src, dst, 32);
        let mut send = |name: &str, to: [u8; 6], ethertype: u16, cut: usize, more: usize| {
            let label = u32::from(script.id());
            ip.label = label;
            let mut frame = ethernet(to, from, ethertype, &ip.bytes());
            frame.truncate(frame.len() - cut);
            frame.extend(vec![0x99; more]);
            script.frame(
                format!("{}/{name}", side.name()),
                side,
                Key::Label(label),
                frame,
            );
        };
        send("padding", to, TYPE_IPV6, 0, 20);
        send("cut-in-the-header", to, TYPE_IPV6, 41, 0);
        send("type-ipv4", to, TYPE_IPV4, 0, 0);
        send("to-group-mac", [0x33, 0x33, 0, 0, 0, 1], TYPE_IPV6, 0, 0);
        send("to-broadcast-mac", [0xff; 6], TYPE_IPV6, 0, 0);
        send("to-another-mac", [2, 0, 0, 0, 9, 9], TYPE_IPV6, 0, 0);
    }
}

/// Puts an extension header in front of the payload.
fn extend(ip: &mut Ip6, number: u8, mut header: Vec<u8>) {
    header[0] = ip.next;
    ip.next = number;
    ip.payload = [header, std::mem::take(&mut ip.payload)].concat();
}

fn extensions(script: &mut Script) {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const DESTINATION: u8 = 60;
    let padding = || vec![0, 0, 1, 4, 0, 0, 0, 0];
    script.both6("hop-by-hop-padding", |ip| extend(ip, HOP_BY_HOP, padding()));
    script.both6("destination-options", |ip| {
        extend(ip, DESTINATION, padding());
    });
    script.both6("destination-options-twice", |ip| {
        extend(ip, DESTINATION, padding());
        extend(ip, DESTINATION, padding());
    });
    script.both6("hop-by-hop-then-destination", |ip| {
        extend(ip, DESTINATION, padding());
        extend(ip, HOP_BY_HOP, padding());
    });
    script.both6("hop-by-hop-second", |ip| {
        extend(ip, HOP_BY_HOP, padding());
        extend(ip, DESTINATION, padding());
    });
    script.both6("hop-by-hop-router-alert", |ip| {
        extend(ip, HOP_BY_HOP, vec![0, 0, 5, 2, 0, 0, 1, 0]);
    });
    // What is to be done with an option that nobody knows is in its two highest bits.
    for kind in [0x1e, 0x5e, 0x9e, 0xde] {
        script.both6(&format!("hop-by-hop-option-{kind:02x}"), |ip| {
            extend(ip, HOP_BY_HOP, vec![0, 0, kind, 4, 0, 0, 0, 0]);
        });
        script.both6(&format!("destination-option-{kind:02x}"), |ip| {
            extend(ip, DESTINATION, vec![0, 0, kind, 4, 0, 0, 0, 0]);
        });
    }
    script.both6("hop-by-hop-option-too-long", |ip| {
        extend(ip, HOP_BY_HOP, vec![0, 0, 1, 5, 0, 0, 0, 0]);
    });
    script.both6("hop-by-hop-longer-than-the-packet", |ip| {
        extend(ip, HOP_BY_HOP, vec![0, 9, 1, 4, 0, 0, 0, 0]);
    });
    script.both6("hop-by-hop-jumbo", |ip| {
        extend(ip, HOP_BY_HOP, vec![0, 0, 0xc2, 4, 0, 1, 0, 0]);
    });
    for kind in [0, 2, 4, 253] {
        for left in [0, 1] {
            script.both6(&format!("routing-type-{kind}-left-{left}"), |ip| {
                let mut header = vec![0, 2, kind, left, 0, 0, 0, 0];
                header.extend(OUTSIDE6.octets());
                extend(ip, ROUTING, header);
            });
        }
    }
    for (name, word, len) in [
        ("atomic", 0_u16, 32),
        ("first", 1, 64),
        ("middle", 8 << 3 | 1, 64),
        ("last", 16 << 3, 13),
        ("not-of-8", 8 << 3 | 1, 63),
        ("beyond-65535", 0xfff8, 64),
        ("reserved-bits", 6, 32),
        ("empty", 8 << 3, 0),
    ] {
        script.both6(&format!("fragment-{name}"), |ip| {
            ip.payload = if word >> 3 == 0 {
                udp(
                    &(ip.src, ip.dst),
                    (40_000, 8080),
                    &filler(len - 8),
                    Check::Right,
                )
            } else {
                filler(len)
            };
            let [word0, word1] = word.to_be_bytes();
            let [_, _, id0, id1] = ip.label.to_be_bytes();
            extend(ip, FRAGMENT, vec![0, 0, word0, word1, 0, 0, id0, id1]);
        });
    }
    script.both6("fragment-first-without-ports", |ip| {
        ip.next = TCP;
        ip.payload = filler(8);
        extend(ip, FRAGMENT, vec![0, 0, 0, 1, 0, 0, 0, 9]);
    });
    script.both6("fragment-first-without-a-whole-chain", |ip| {
        extend(ip, DESTINATION, padding());
        ip.payload.truncate(8);
        extend(ip, FRAGMENT, vec![0, 0, 0, 1, 0, 0, 0, 9]);
    });
    script.both6("fragment-in-a-fragment", |ip| {
        extend(ip, FRAGMENT, vec![0, 0, 0, 0, 0, 0, 0, 9]);
        extend(ip, FRAGMENT, vec![0, 0, 0, 0, 0, 0, 0, 8]);
    });
    script.both6("ten-destination-options", |ip| {
        for _ in 0..10 {
            extend(ip, DESTINATION, padding());
        }
    });
    script.both6("destination-options-of-300-bytes", |ip| {
        let mut header = vec![0, 37];
        header.extend([1, 255]);
        header.extend([0; 255]);
        header.extend([1, 43]);
        header.extend([0; 43]);
        extend(ip, DESTINATION, header);
    });
    script.both6("authentication-header", |ip| {
        extend(ip, 51, vec![0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]);
    });
    script.both6("destination-options-cut", |ip| {
        extend(ip, DESTINATION, padding());
        ip.payload.truncate(5);
    });
}

fn sources(script: &mut Script) {
    for src in [
        Ipv6Addr::UNSPECIFIED,
        Ipv6Addr::LOCALHOST,
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 7),
        Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0x0a41, 2),
        Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, 1),
        POD2_6,
        NO_POD6,
        PEER1_POD6,
        DIRECT_POD6,
        NODE6,
        TUNNEL6,
    ] {
        script.both6(&format!("from-{src}"), |ip| send_from6(ip, src));
    }
}

fn destinations(script: &mut Script) {
    for dst in [
        Ipv6Addr::UNSPECIFIED,
        Ipv6Addr::LOCALHOST,
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
        Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 0x77),
        Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 0, 0x77),
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 7),
        Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0x0a41, 2),
    ] {
        script.both6(&format!("to-{dst}"), |ip| send_to6(ip, dst));
    }
    script.out6("to-the-pod-itself", |ip| send_to6(ip, POD1_6));
    script.in6("to-the-world-again", |ip| {
        send_to6(ip, Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 8));
    });
}

fn time_exceeded(script: &mut Script) {
    for len in [48, 49, 1232, 1233, 1280, 1281, 1500] {
        script.both6(&format!("hop-limit-1-bytes-{len}"), |ip| {
            stretch6(ip, len);
            ip.hop_limit = 1;
        });
    }
    script.both6("hop-limit-0", |ip| ip.hop_limit = 0);
    for class in [0x01, 0x03, 0xb8] {
        script.both6(&format!("hop-limit-1-class-{class:02x}"), |ip| {
            ip.class = class;
            ip.hop_limit = 1;
        });
    }
    for kind in [1, 2, 3, 4, 100, 127, 128, 129, 144, 200] {
        script.both6(&format!("hop-limit-1-icmp-{kind}"), |ip| {
            make_icmp6(ip, kind);
            ip.hop_limit = 1;
        });
    }
    script.both6("hop-limit-1-later-fragment", |ip| {
        extend(ip, 44, vec![0, 0, 0, 0x40, 0, 0, 0, 9]);
        ip.hop_limit = 1;
    });
    script.both6("hop-limit-1-behind-options", |ip| {
        extend(ip, 60, vec![0, 0, 1, 4, 0, 0, 0, 0]);
        ip.hop_limit = 1;
    });
    for (name, dst) in [
        ("local-pod", POD2_6),
        ("tunnel", PEER1_POD6),
        ("node", PEER1_6),
    ] {
        script.out6(&format!("hop-limit-1-to-{name}"), |ip| {
            send_to6(ip, dst);
            ip.hop_limit = 1;
        });
    }
}

fn unreachable(script: &mut Script) {
    for (name, dst) in [
        ("nowhere", NOWHERE6),
        ("unreachable", UNREACHABLE6),
        ("prohibited", PROHIBITED6),
        ("blackhole", BLACKHOLE6),
        ("nobody-in-the-own-block", NO_POD6),
        (
            "no-block-of-the-pool",
            Ipv6Addr::new(0xfd65, 0, 0, 9, 0, 0, 0, 9),
        ),
    ] {
        script.out6(&format!("to-{name}"), |ip| send_to6(ip, dst));
        script.out6(&format!("to-{name}-long"), |ip| {
            send_to6(ip, dst);
            stretch6(ip, 1500);
        });
    }
    script.in6("to-nobody-in-the-own-block", |ip| send_to6(ip, NO_POD6));
    script.in6("to-no-block-of-the-pool", |ip| {
        send_to6(ip, Ipv6Addr::new(0xfd65, 0, 0, 9, 0, 0, 0, 9));
    });
    script.out6("to-a-neighbour-that-is-not-there", |ip| {
        send_to6(ip, Ipv6Addr::new(0xfd18, 0, 0, 0, 0, 0, 0, 0x99));
    });
    script.takes_time();
}

fn too_big(script: &mut Script) {
    for len in [1430, 1431, 1500] {
        script.out6(&format!("into-the-tunnel-bytes-{len}"), |ip| {
            send_to6(ip, PEER1_POD6);
            stretch6(ip, len);
        });
    }
    for len in [1400, 1401, 1500] {
        for (way, side, src) in [("local", Side::Pod1, POD1_6), ("in", Side::Wire, OUTSIDE6)] {
            let ip = udp6(src, POD2_6, 32);
            let name = format!("{way}/to-narrow-pod2-bytes-{len}");
            script.ip6(&name, side, ip, |ip| stretch6(ip, len));
        }
    }
    script.in6("to-narrow-pod2-hop-limit-1", |ip| {
        send_to6(ip, POD2_6);
        stretch6(ip, 1500);
        ip.hop_limit = 1;
    });
    script.in6("to-narrow-pod2-icmp-error", |ip| {
        ip.dst = POD2_6;
        ip.next = ICMPV6;
        ip.payload = icmp6(&(ip.src, ip.dst), 1, [0; 4], &filler(1400));
    });
}

fn to_the_node(script: &mut Script) {
    for dst in [NODE6, TUNNEL6, POD_GATEWAY6] {
        script.both6(&format!("echo-to-{dst}"), |ip| {
            ip.dst = dst;
            make_icmp6(ip, 128);
        });
        script.both6(&format!("udp-to-{dst}"), |ip| send_to6(ip, dst));
    }
    for (name, src) in [
        ("a-remote-pod", PEER1_POD6),
        ("a-direct-pod", DIRECT_POD6),
        ("a-peer", PEER1_6),
    ] {
        script.in6(&format!("echo-from-{name}"), |ip| {
            (ip.src, ip.dst) = (src, NODE6);
            make_icmp6(ip, 128);
        });
    }
    script.both6("next-253-to-the-node", |ip| {
        ip.dst = NODE6;
        ip.next = 253;
    });
}
