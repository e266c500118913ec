//! What the node says itself about IPv4 packets that it cannot forward, and what it cuts into fragments
//! (RFC 792, 1122 section 3.2.2, 1191, 1812 sections 4.3 and 5.3).

use std::net::Ipv4Addr;

use crate::frame::{Check, DF, ICMP, Ip4, MF, filler, icmp};
use crate::plan::{
    BLACKHOLE4, NO_POD4, NOWHERE4, OUTSIDE4, PEER1_4, PEER1_POD4, POD1_4, POD1_MORE4, POD2_4,
    PROHIBITED4, UNREACHABLE4,
};
use crate::script::{Script, Side, make_icmp, make_tcp, send_to, stretch, udp4};

pub(crate) fn write(script: &mut Script) {
    time_exceeded(script);
    unreachable(script);
    about_what(script);
    too_big(script);
    cut_up(script);
}

fn time_exceeded(script: &mut Script) {
    for len in [28, 29, 548, 549, 576, 577, 1500] {
        script.both4(&format!("ttl-1-bytes-{len}"), |ip| {
            stretch(ip, len);
            ip.ttl = 1;
        });
    }
    script.both4("ttl-0", |ip| ip.ttl = 0);
    for (name, dst) in [
        ("local-pod", POD2_4),
        ("tunnel", PEER1_POD4),
        ("node", PEER1_4),
    ] {
        script.out4(&format!("ttl-1-to-{name}"), |ip| {
            send_to(ip, dst);
            ip.ttl = 1;
        });
    }
    script.both4("ttl-1-tcp", |ip| {
        make_tcp(ip, 10, Check::Right);
        ip.ttl = 1;
    });
    for tos in [0x01, 0x02, 0x03, 0x10, 0xb8, 0xfc] {
        script.both4(&format!("ttl-1-tos-{tos:02x}"), |ip| {
            ip.tos = tos;
            ip.ttl = 1;
        });
    }
    script.both4("ttl-1-df", |ip| {
        ip.fragment = DF;
        ip.ttl = 1;
    });
    for (name, list) in [
        ("router-alert", &[148, 4, 0, 0][..]),
        ("unknown", &[30, 4, 1, 2]),
        ("record-route", &[7, 7, 4, 0, 0, 0, 0, 0]),
        ("timestamp", &[68, 8, 5, 0, 0, 0, 0, 0]),
    ] {
        script.both4(&format!("ttl-1-option-{name}"), |ip| {
            ip.options = list.to_vec();
            ip.ttl = 1;
        });
    }
    script.both4("ttl-1-with-padding-behind", |ip| {
        // Not the packet's, and not to be quoted.
        ip.ttl = 1;
        let len = 20 + ip.payload.len() as u16;
        ip.total_len = Some(len);
        ip.payload.extend([0x99; 30]);
    });
}

fn unreachable(script: &mut Script) {
    let mut sources = POD1_MORE4.into_iter().cycle();
    let mut from_pod1 = |script: &mut Script, name: String, dst, change: &dyn Fn(&mut Ip4)| {
        let src = sources.next().expect("an endless row");
        let id = script.id();
        script.ip4(&name, Side::Pod1, id, udp4(src, dst, 32), change);
    };
    for (name, dst) in [
        ("nowhere", NOWHERE4),
        ("unreachable", UNREACHABLE4),
        ("prohibited", PROHIBITED4),
        ("blackhole", BLACKHOLE4),
        ("nobody-in-the-own-block", NO_POD4),
        ("no-block-of-the-pool", Ipv4Addr::new(10, 65, 9, 9)),
        ("link-local", Ipv4Addr::new(169, 254, 9, 9)),
    ] {
        from_pod1(script, format!("out/to-{name}"), dst, &|_| {});
        from_pod1(script, format!("out/to-{name}-ttl-1"), dst, &|ip| {
            ip.ttl = 1;
        });
        from_pod1(script, format!("out/to-{name}-long"), dst, &|ip| {
            stretch(ip, 1500);
        });
    }
    from_pod1(
        script,
        "out/to-nowhere-icmp-error".to_owned(),
        NOWHERE4,
        &|ip| make_icmp(ip, 3, 1),
    );
    from_pod1(
        script,
        "out/to-nowhere-later-fragment".to_owned(),
        NOWHERE4,
        &|ip| ip.fragment = 8,
    );
    for (host, (name, dst)) in (20..).zip([
        ("nobody-in-the-own-block", NO_POD4),
        ("no-block-of-the-pool", Ipv4Addr::new(10, 65, 9, 9)),
    ]) {
        let id = script.id();
        let ip = udp4(Ipv4Addr::new(198, 51, 100, host), dst, 32);
        script.ip4(&format!("in/to-{name}"), Side::Wire, id, ip, |_| {});
    }
    script.out4("to-a-neighbour-that-is-not-there", |ip| {
        send_to(ip, Ipv4Addr::new(172, 18, 0, 99));
    });
    script.takes_time();
}

/// Not about everything (RFC 1812 section 4.3.2.7).
fn about_what(script: &mut Script) {
    for kind in [
        0, 3, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 30, 37, 40, 42, 250,
    ] {
        script.both4(&format!("ttl-1-icmp-{kind}"), |ip| {
            make_icmp(ip, kind, 0);
            ip.ttl = 1;
        });
    }
    script.both4("ttl-1-icmp-without-a-type", |ip| {
        ip.protocol = ICMP;
        ip.payload.clear();
        ip.ttl = 1;
    });
    script.both4("ttl-1-icmp-checksum-wrong", |ip| {
        make_icmp(ip, 8, 0);
        ip.payload = icmp(8, 0, [0; 4], &filler(9), Check::Wrong);
        ip.ttl = 1;
    });
    for (name, fragment) in [("first", MF), ("middle", MF | 8), ("last", 8)] {
        script.both4(&format!("ttl-1-fragment-{name}"), |ip| {
            stretch(ip, 20 + 64);
            ip.fragment = fragment;
            ip.ttl = 1;
        });
    }
    script.both4("ttl-1-header-checksum-wrong", |ip| {
        ip.ttl = 1;
        ip.checksum_flip = 1;
    });
}

fn too_big(script: &mut Script) {
    for len in [1450, 1451, 1478, 1500] {
        script.out4(&format!("df-into-the-tunnel-bytes-{len}"), |ip| {
            send_to(ip, PEER1_POD4);
            stretch(ip, len);
            ip.fragment = DF;
        });
    }
    for len in [1400, 1401, 1500] {
        to_pod2(script, &format!("df-bytes-{len}"), |ip| {
            stretch(ip, len);
            ip.fragment = DF;
        });
    }
    to_pod2(script, "df-tcp", |ip| {
        make_tcp(ip, 1440, Check::Right);
        ip.fragment = DF;
    });
    // Both are true: which is told?
    to_pod2(script, "df-ttl-1", |ip| {
        stretch(ip, 1500);
        ip.fragment = DF;
        ip.ttl = 1;
    });
    to_pod2(script, "df-icmp-error", |ip| {
        ip.protocol = ICMP;
        ip.payload = icmp(3, 1, [0; 4], &filler(1400), Check::Right);
        ip.fragment = DF;
    });
    to_pod2(script, "df-later-fragment", |ip| {
        ip.payload = filler(1440);
        ip.fragment = DF | 8;
    });
}

fn cut_up(script: &mut Script) {
    for len in [1400, 1401, 1404, 1408, 1500] {
        to_pod2(script, &format!("bytes-{len}"), |ip| stretch(ip, len));
    }
    for len in [1450, 1451, 1500] {
        script.out4(&format!("into-the-tunnel-bytes-{len}"), |ip| {
            send_to(ip, PEER1_POD4);
            stretch(ip, len);
        });
    }
    to_pod2(script, "tos", |ip| {
        stretch(ip, 1500);
        ip.tos = 0xba;
    });
    script.out4("into-the-tunnel-tos", |ip| {
        send_to(ip, PEER1_POD4);
        stretch(ip, 1500);
        ip.tos = 0xba;
    });
    to_pod2(script, "reserved-flag", |ip| {
        stretch(ip, 1500);
        ip.fragment = 0x8000;
    });
    to_pod2(script, "ttl-1", |ip| {
        stretch(ip, 1500);
        ip.ttl = 1;
    });
    for (name, fragment) in [("first", MF), ("middle", MF | 0x64), ("last", 0x64)] {
        to_pod2(script, &format!("a-{name}-fragment"), |ip| {
            ip.payload = filler(1480);
            ip.fragment = fragment;
        });
    }
    for (name, list) in [
        ("copied", &[148, 4, 0, 0][..]),
        ("not-copied", &[30, 4, 1, 2]),
        ("no-operation", &[1, 1, 1, 1]),
        ("mixed", &[30, 4, 1, 2, 148, 4, 0, 0]),
    ] {
        to_pod2(script, &format!("option-{name}"), |ip| {
            ip.options = list.to_vec();
            stretch(ip, 1500);
        });
    }
    to_pod2(script, "tcp", |ip| make_tcp(ip, 1440, Check::Right));
    to_pod2(script, "udp-checksum-wrong", |ip| {
        stretch(ip, 1500);
        ip.payload[6] ^= 0x55;
    });
}

/// Packets from both sides to pod 2, whose link is narrower.
fn to_pod2(script: &mut Script, name: &str, change: impl Fn(&mut Ip4)) {
    for (way, side, src) in [("local", Side::Pod1, POD1_4), ("in", Side::Wire, OUTSIDE4)] {
        let id = script.id();
        script.ip4(
            &format!("{way}/{name}"),
            side,
            id,
            udp4(src, POD2_4, 32),
            &change,
        );
    }
}
