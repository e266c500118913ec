//! Conversations of pods with the world, through masquerade: RFC 4787, 5382, 5508.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::frame::{Check, DF, ICMP, ICMPV6, Ip4, MF, TCP, UDP, filler, icmp, icmp6, udp};
use crate::masquerade::{Learnt, Talk, ip, segment};
use crate::plan::{NODE4, NODE6, OUTSIDE4, OUTSIDE6, POD1_4, POD1_6, POD2_4, POD2_6, ROUTER4};
use crate::script::Side;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// Another server outside.
const ELSEWHERE4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 8);
/// A client's port, the same in all conversations.
const CLIENT: u16 = 40_000;

pub(crate) fn write(talk: &mut Talk) {
    tcp4(talk);
    tcp6(talk);
    udp4(talk);
    udp6(talk);
    pings(talk);
    without_ports(talk);
    errors_from_outside(talk);
    errors_from_inside(talk);
    errors_of_the_node(talk);
    fragments(talk);
    strays(talk);
}

/// A segment of a pod's to a server.
fn out4(
    from: Ipv4Addr,
    port: u16,
    flags: u8,
    numbers: (u32, u32),
    len: usize,
    check: Check,
) -> Vec<u8> {
    let ends = (from, OUTSIDE4);
    let segment = segment(&ends, (CLIENT, port), flags, numbers, &filler(len), check);
    ip(from, OUTSIDE4, TCP, segment)
}

/// A server's answer.
fn in4(to: u16, port: u16, flags: u8, numbers: (u32, u32), len: usize, check: Check) -> Vec<u8> {
    let ends = (OUTSIDE4, NODE4);
    let segment = segment(&ends, (port, to), flags, numbers, &filler(len), check);
    ip(OUTSIDE4, NODE4, TCP, segment)
}

fn tcp4(talk: &mut Talk) {
    let say_out = |talk: &mut Talk, name: &str, flags, numbers, len, check| {
        talk.say(name, Side::Pod1, move |_| {
            out4(POD1_4, 80, flags, numbers, len, check)
        });
    };
    let say_in = |talk: &mut Talk, name: &str, flags, numbers, len, check| {
        talk.say(name, Side::Wire, move |learnt| {
            in4(learnt.port("tcp/syn"), 80, flags, numbers, len, check)
        });
    };
    let right = Check::Right;
    talk.begin("tcp/syn", Side::Pod1, move |_| {
        out4(POD1_4, 80, SYN, (100, 0), 0, right)
    });
    say_out(talk, "tcp/syn-again", SYN, (100, 0), 0, right);
    say_in(talk, "tcp/syn-ack", SYN | ACK, (200, 101), 0, right);
    say_out(talk, "tcp/ack", ACK, (101, 201), 0, right);
    say_out(talk, "tcp/request", ACK | PSH, (101, 201), 100, right);
    say_in(talk, "tcp/answer", ACK | PSH, (201, 201), 1000, right);
    say_out(
        talk,
        "tcp/checksum-wrong-out",
        ACK | PSH,
        (201, 1201),
        50,
        Check::Wrong,
    );
    say_in(
        talk,
        "tcp/checksum-wrong-in",
        ACK | PSH,
        (1201, 201),
        50,
        Check::Wrong,
    );
    say_in(
        talk,
        "tcp/reset-checksum-wrong",
        RST,
        (1201, 0),
        0,
        Check::Wrong,
    );
    say_in(
        talk,
        "tcp/reset-out-of-window",
        RST,
        (0x4000_0000, 0),
        0,
        right,
    );
    say_out(talk, "tcp/after-resets", ACK | PSH, (201, 1201), 10, right);
    // The same client port at the other pod, to the same server.
    talk.begin("tcp/another-client", Side::Pod2, move |_| {
        out4(POD2_4, 80, SYN, (300, 0), 0, right)
    });
    talk.say("tcp/another-client-answer", Side::Wire, move |learnt| {
        in4(
            learnt.port("tcp/another-client"),
            80,
            SYN | ACK,
            (500, 301),
            0,
            right,
        )
    });
    talk.begin("tcp/another-server-port", Side::Pod1, move |_| {
        out4(POD1_4, 443, SYN, (300, 0), 0, right)
    });
    say_out(talk, "tcp/fin", FIN | ACK, (211, 1201), 0, right);
    say_in(talk, "tcp/fin-acknowledged", ACK, (1201, 212), 0, right);
    say_in(talk, "tcp/fin-back", FIN | ACK, (1201, 212), 0, right);
    say_out(talk, "tcp/last-ack", ACK, (212, 1202), 0, right);
    say_in(talk, "tcp/late", ACK, (1202, 212), 0, right);
    talk.begin("tcp/reset-me", Side::Pod1, move |_| {
        out4(POD1_4, 81, SYN, (100, 0), 0, right)
    });
    talk.say("tcp/refused", Side::Wire, move |learnt| {
        in4(
            learnt.port("tcp/reset-me"),
            81,
            RST | ACK,
            (0, 101),
            0,
            right,
        )
    });
}

fn tcp6(talk: &mut Talk) {
    let out = |flags, numbers, len| {
        let ends = (POD1_6, OUTSIDE6);
        let segment = segment(
            &ends,
            (CLIENT, 80),
            flags,
            numbers,
            &filler(len),
            Check::Right,
        );
        ip(POD1_6, OUTSIDE6, TCP, segment)
    };
    let back = |to: u16, flags, numbers, len| {
        let ends = (OUTSIDE6, NODE6);
        let segment = segment(&ends, (80, to), flags, numbers, &filler(len), Check::Right);
        ip(OUTSIDE6, NODE6, TCP, segment)
    };
    talk.begin("tcp6/syn", Side::Pod1, move |_| out(SYN, (100, 0), 0));
    talk.say("tcp6/syn-ack", Side::Wire, move |l| {
        back(l.port("tcp6/syn"), SYN | ACK, (200, 101), 0)
    });
    talk.say("tcp6/ack", Side::Pod1, move |_| out(ACK, (101, 201), 0));
    talk.say("tcp6/request", Side::Pod1, move |_| {
        out(ACK | PSH, (101, 201), 77)
    });
    talk.say("tcp6/answer", Side::Wire, move |l| {
        back(l.port("tcp6/syn"), ACK | PSH, (201, 178), 99)
    });
    talk.say("tcp6/reset", Side::Wire, move |l| {
        back(l.port("tcp6/syn"), RST, (300, 0), 0)
    });
}

/// A datagram of a pod's.
fn datagram(from: Ipv4Addr, to: Ipv4Addr, port: u16, len: usize, check: Check) -> Vec<u8> {
    ip(
        from,
        to,
        UDP,
        udp(&(from, to), (CLIENT, port), &filler(len), check),
    )
}

/// A datagram to the node.
fn answer(from: Ipv4Addr, port: u16, to: u16, len: usize, check: Check) -> Vec<u8> {
    ip(
        from,
        NODE4,
        UDP,
        udp(&(from, NODE4), (port, to), &filler(len), check),
    )
}

fn udp4(talk: &mut Talk) {
    let right = Check::Right;
    talk.begin("udp/query", Side::Pod1, move |_| {
        datagram(POD1_4, OUTSIDE4, 53, 32, right)
    });
    talk.say("udp/answer", Side::Wire, |l| {
        answer(OUTSIDE4, 53, l.port("udp/query"), 200, Check::Right)
    });
    talk.say("udp/answer-checksum-zero", Side::Wire, |l| {
        answer(OUTSIDE4, 53, l.port("udp/query"), 20, Check::Zero)
    });
    talk.say("udp/answer-checksum-wrong", Side::Wire, |l| {
        answer(OUTSIDE4, 53, l.port("udp/query"), 20, Check::Wrong)
    });
    talk.say("udp/query-checksum-wrong", Side::Pod1, move |_| {
        datagram(POD1_4, OUTSIDE4, 53, 31, Check::Wrong)
    });
    talk.say("udp/answer-of-another-port", Side::Wire, |l| {
        answer(OUTSIDE4, 54, l.port("udp/query"), 20, Check::Right)
    });
    talk.say("udp/answer-of-another-server", Side::Wire, |l| {
        answer(ELSEWHERE4, 53, l.port("udp/query"), 20, Check::Right)
    });
    talk.begin("udp/another-server", Side::Pod1, move |_| {
        datagram(POD1_4, ELSEWHERE4, 53, 32, right)
    });
    talk.begin("udp/another-client", Side::Pod2, move |_| {
        datagram(POD2_4, OUTSIDE4, 53, 32, right)
    });
    talk.begin("udp/checksum-zero", Side::Pod1, move |_| {
        datagram(POD1_4, OUTSIDE4, 54, 32, Check::Zero)
    });
    talk.say("udp/checksum-wrong-first", Side::Pod1, move |_| {
        datagram(POD1_4, OUTSIDE4, 55, 32, Check::Wrong)
    });
    talk.begin("udp/ttl-2", Side::Pod1, move |_| {
        let payload = udp(&(POD1_4, OUTSIDE4), (CLIENT, 56), &filler(9), right);
        let mut packet = Ip4::new(POD1_4, OUTSIDE4, UDP, payload);
        packet.ttl = 2;
        packet.bytes()
    });
}

fn udp6(talk: &mut Talk) {
    talk.begin("udp6/query", Side::Pod1, |_| {
        let payload = udp(&(POD1_6, OUTSIDE6), (CLIENT, 53), &filler(32), Check::Right);
        ip(POD1_6, OUTSIDE6, UDP, payload)
    });
    talk.say("udp6/answer", Side::Wire, |l| {
        let ports = (53, l.port("udp6/query"));
        ip(
            OUTSIDE6,
            NODE6,
            UDP,
            udp(&(OUTSIDE6, NODE6), ports, &filler(32), Check::Right),
        )
    });
}

fn echo(kind: u8, id: u16) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    icmp(kind, 0, [high, low, 0, 1], &filler(40), Check::Right)
}

fn pings(talk: &mut Talk) {
    talk.begin("ping/request", Side::Pod1, |_| {
        ip(POD1_4, OUTSIDE4, ICMP, echo(8, 7))
    });
    talk.say("ping/reply", Side::Wire, |l| {
        ip(OUTSIDE4, NODE4, ICMP, echo(0, l.port("ping/request")))
    });
    talk.begin("ping/another-client", Side::Pod2, |_| {
        ip(POD2_4, OUTSIDE4, ICMP, echo(8, 7))
    });
    talk.say("ping/checksum-wrong", Side::Wire, |l| {
        let [high, low] = l.port("ping/request").to_be_bytes();
        let message = icmp(0, 0, [high, low, 0, 1], &filler(40), Check::Wrong);
        ip(OUTSIDE4, NODE4, ICMP, message)
    });
    let echo6 = |src: Ipv6Addr, dst: Ipv6Addr, kind, id: u16| {
        let [high, low] = id.to_be_bytes();
        ip(
            src,
            dst,
            ICMPV6,
            icmp6(&(src, dst), kind, [high, low, 0, 1], &filler(40)),
        )
    };
    talk.begin("ping6/request", Side::Pod1, move |_| {
        echo6(POD1_6, OUTSIDE6, 128, 7)
    });
    talk.say("ping6/reply", Side::Wire, move |l| {
        echo6(OUTSIDE6, NODE6, 129, l.port("ping6/request"))
    });
}

/// RFC 3692: for experiments. Nobody has ports in it.
const EXPERIMENT: u8 = 253;
const ESP: u8 = 50;

/// Protocols without ports: the addresses alone say whose an answer is, so there is one pod a destination.
fn without_ports(talk: &mut Talk) {
    for (name, protocol) in [("experiment", EXPERIMENT), ("esp", ESP)] {
        let mut say = |what: &str, side, src: IpAddr, dst: IpAddr| {
            talk.say(&format!("without-ports/{name}-{what}"), side, move |_| {
                ip(src, dst, protocol, filler(40))
            });
        };
        let (pod1, pod2) = (POD1_4.into(), POD2_4.into());
        let (node, outside, elsewhere) = (NODE4.into(), OUTSIDE4.into(), ELSEWHERE4.into());
        say("out", Side::Pod1, pod1, outside);
        say("answer", Side::Wire, outside, node);
        say("another-pod", Side::Pod2, pod2, outside);
        say("still-the-first", Side::Wire, outside, node);
        say("another-pod-elsewhere", Side::Pod2, pod2, elsewhere);
        say("answer-from-elsewhere", Side::Wire, elsewhere, node);
        let (pod1, pod2) = (POD1_6.into(), POD2_6.into());
        say("out6", Side::Pod1, pod1, OUTSIDE6.into());
        say("answer6", Side::Wire, OUTSIDE6.into(), NODE6.into());
        say("another-pod6", Side::Pod2, pod2, OUTSIDE6.into());
    }
    talk.say("without-ports/error", Side::Wire, |_| {
        let quoted = ip(NODE4, OUTSIDE4, EXPERIMENT, filler(40));
        let message = icmp(3, 2, [0; 4], &quoted, Check::Right);
        ip(OUTSIDE4, NODE4, ICMP, message)
    });
    talk.say("without-ports/error-of-the-pod", Side::Pod1, |_| {
        let quoted = ip(OUTSIDE4, POD1_4, EXPERIMENT, filler(40));
        let message = icmp(3, 2, [0; 4], &quoted, Check::Right);
        ip(POD1_4, OUTSIDE4, ICMP, message)
    });
    talk.say("without-ports/to-the-host", Side::Wire, |_| {
        ip(ROUTER4, NODE4, EXPERIMENT, filler(40))
    });
}

/// What the node has sent for the query, as routers and the server saw it.
fn query_outside(l: &Learnt) -> Vec<u8> {
    let ports = (l.port("udp/query"), 53);
    let payload = udp(&(NODE4, OUTSIDE4), ports, &filler(32), Check::Right);
    let mut packet = Ip4::new(NODE4, OUTSIDE4, UDP, payload);
    packet.ttl = 63;
    packet.bytes()
}

fn errors_from_outside(talk: &mut Talk) {
    for (kind, code) in [(3, 0), (3, 1), (3, 3), (3, 4), (3, 13), (11, 0)] {
        talk.say(&format!("error-in/{kind}-{code}"), Side::Wire, move |l| {
            let message = icmp(kind, code, [0, 0, 5, 0x78], &query_outside(l), Check::Right);
            ip(ROUTER4, NODE4, ICMP, message)
        });
    }
    talk.say("error-in/checksum-wrong", Side::Wire, |l| {
        let message = icmp(3, 1, [0; 4], &query_outside(l), Check::Wrong);
        ip(ROUTER4, NODE4, ICMP, message)
    });
    talk.say("error-in/quoted-header-checksum-wrong", Side::Wire, |l| {
        let mut quote = query_outside(l);
        quote[10] ^= 0x55;
        ip(
            ROUTER4,
            NODE4,
            ICMP,
            icmp(3, 1, [0; 4], &quote, Check::Right),
        )
    });
    talk.say("error-in/quote-of-8-bytes", Side::Wire, |l| {
        let message = icmp(3, 3, [0; 4], &query_outside(l)[..28], Check::Right);
        ip(OUTSIDE4, NODE4, ICMP, message)
    });
    talk.say("error-in/about-tcp", Side::Wire, |l| {
        let ports = (l.port("tcp/another-server-port"), 443);
        let quoted = segment(&(NODE4, OUTSIDE4), ports, SYN, (300, 0), &[], Check::Right);
        let quoted = ip(NODE4, OUTSIDE4, TCP, quoted);
        ip(
            ROUTER4,
            NODE4,
            ICMP,
            icmp(3, 1, [0; 4], &quoted, Check::Right),
        )
    });
    talk.say("error-in/about-ping", Side::Wire, |l| {
        let quoted = ip(NODE4, OUTSIDE4, ICMP, echo(8, l.port("ping/request")));
        ip(
            ROUTER4,
            NODE4,
            ICMP,
            icmp(11, 0, [0; 4], &quoted, Check::Right),
        )
    });
    talk.say("error-in/about-nothing", Side::Wire, |_| {
        let quoted = datagram(NODE4, OUTSIDE4, 9999, 20, Check::Right);
        ip(
            ROUTER4,
            NODE4,
            ICMP,
            icmp(3, 1, [0; 4], &quoted, Check::Right),
        )
    });
    talk.say("error-in/forged-to-the-pod", Side::Wire, |_| {
        let quoted = datagram(POD1_4, OUTSIDE4, 9999, 20, Check::Right);
        ip(
            ROUTER4,
            POD1_4,
            ICMP,
            icmp(3, 1, [0; 4], &quoted, Check::Right),
        )
    });
    talk.say("error-in/still-there", Side::Wire, |l| {
        answer(OUTSIDE4, 53, l.port("udp/query"), 9, Check::Right)
    });
}

fn errors_from_inside(talk: &mut Talk) {
    for (kind, code) in [(3, 3), (3, 2), (11, 1)] {
        talk.say(&format!("error-out/{kind}-{code}"), Side::Pod1, move |_| {
            let ports = (53, CLIENT);
            let payload = udp(&(OUTSIDE4, POD1_4), ports, &filler(200), Check::Right);
            let mut quoted = Ip4::new(OUTSIDE4, POD1_4, UDP, payload);
            quoted.ttl = 63;
            ip(
                POD1_4,
                OUTSIDE4,
                ICMP,
                icmp(kind, code, [0; 4], &quoted.bytes(), Check::Right),
            )
        });
    }
    talk.say("error-out/about-nothing", Side::Pod1, |_| {
        let payload = udp(
            &(OUTSIDE4, POD1_4),
            (9999, CLIENT),
            &filler(20),
            Check::Right,
        );
        let quoted = ip(OUTSIDE4, POD1_4, UDP, payload);
        ip(
            POD1_4,
            OUTSIDE4,
            ICMP,
            icmp(3, 3, [0; 4], &quoted, Check::Right),
        )
    });
}

fn errors_of_the_node(talk: &mut Talk) {
    let with_ttl = |ttl, src, dst, payload| {
        let mut packet = Ip4::new(src, dst, UDP, payload);
        packet.ttl = ttl;
        packet.bytes()
    };
    talk.say("node/ttl-1-out", Side::Pod1, move |_| {
        let payload = udp(&(POD1_4, OUTSIDE4), (CLIENT, 53), &filler(8), Check::Right);
        with_ttl(1, POD1_4, OUTSIDE4, payload)
    });
    talk.say("node/ttl-1-in", Side::Wire, move |l| {
        let ports = (53, l.port("udp/query"));
        let payload = udp(&(OUTSIDE4, NODE4), ports, &filler(8), Check::Right);
        with_ttl(1, OUTSIDE4, NODE4, payload)
    });
    talk.say("node/too-big-in", Side::Wire, move |l| {
        let ports = (53, l.port("udp/another-client"));
        let payload = udp(&(OUTSIDE4, NODE4), ports, &filler(1472), Check::Right);
        let mut packet = Ip4::new(OUTSIDE4, NODE4, UDP, payload);
        packet.fragment = DF;
        packet.bytes()
    });
    talk.say("node/fragmented-in", Side::Wire, move |l| {
        let ports = (53, l.port("udp/another-client"));
        let payload = udp(&(OUTSIDE4, NODE4), ports, &filler(1472), Check::Right);
        ip(OUTSIDE4, NODE4, UDP, payload)
    });
}

/// One fragment of a datagram of 2,000 bytes, cut where a link of 1,500 bytes makes it.
fn piece(src: Ipv4Addr, dst: Ipv4Addr, ports: (u16, u16), id: u16, is_first: bool) -> Vec<u8> {
    let whole = udp(&(src, dst), ports, &filler(2000), Check::Right);
    let (word, part) = if is_first {
        (MF, &whole[..1480])
    } else {
        (1480 / 8, &whole[1480..])
    };
    let mut packet = Ip4::new(src, dst, UDP, part.to_vec());
    (packet.id, packet.fragment) = (id, word);
    packet.bytes()
}

fn fragments(talk: &mut Talk) {
    let out = |id, order: [bool; 2]| {
        move |_: &Learnt| {
            let piece = |is_first| piece(POD1_4, OUTSIDE4, (CLIENT, 60), id, is_first);
            order.map(piece).into()
        }
    };
    let back = |id, order: [bool; 2]| {
        move |l: &Learnt| {
            let ports = (60, l.port("fragments/query"));
            let piece = |is_first| piece(OUTSIDE4, NODE4, ports, id, is_first);
            order.map(piece).into()
        }
    };
    talk.begin("fragments/query", Side::Pod1, |_| {
        datagram(POD1_4, OUTSIDE4, 60, 32, Check::Right)
    });
    talk.say_all("fragments/out", Side::Pod1, out(21, [true, false]));
    talk.say_all("fragments/out-reversed", Side::Pod1, out(22, [false, true]));
    talk.say_all("fragments/in", Side::Wire, back(23, [true, false]));
    talk.say_all("fragments/in-reversed", Side::Wire, back(24, [false, true]));
}

fn strays(talk: &mut Talk) {
    for (name, flags) in [
        ("syn", SYN),
        ("syn-ack", SYN | ACK),
        ("ack", ACK),
        ("reset", RST),
    ] {
        talk.say(
            &format!("stray/{name}-to-the-node"),
            Side::Wire,
            move |_| in4(33_333, 80, flags, (1, 1), 0, Check::Right),
        );
    }
    talk.say("stray/reset-of-a-pod", Side::Pod1, |_| {
        out4(POD1_4, 82, RST, (1, 1), 0, Check::Right)
    });
    talk.say("stray/syn-ack-of-a-pod", Side::Pod1, |_| {
        out4(POD1_4, 82, SYN | ACK, (1, 1), 0, Check::Right)
    });
    talk.say("stray/ping-reply-to-the-node", Side::Wire, |_| {
        ip(OUTSIDE4, NODE4, ICMP, echo(0, 0x1111))
    });
    talk.say("stray/ping-reply-of-a-pod", Side::Pod1, |_| {
        ip(POD1_4, OUTSIDE4, ICMP, echo(0, 0x1111))
    });
}
