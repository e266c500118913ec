//! Conversations of pods with a service: as its client, as its backend, and as both.

mod packets;

use std::net::{IpAddr, Ipv4Addr};

use packets::{Error, datagram, error, piece, ping, tcp, tunnelled, with_ttl};

use crate::frame::{Check, DF, UDP, filler, udp};
use crate::masquerade::{Learnt, Talk, ip};
use crate::plan::{
    NODE4, NODE6, OUTSIDE4, OUTSIDE6, PEER1_POD4, PEER1_POD6, PEER1_TUNNEL4, PEER1_TUNNEL6, POD1_4,
    POD1_6, POD2_4, POD2_6, ROUTER4, ROUTER6,
};
use crate::script::Side;
use crate::services::{SERVICE4, SERVICE6};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// A client's port, the same in all conversations.
const CLIENT: u16 = 40_000;
/// RFC 3692: for experiments. Nobody has ports in it.
const EXPERIMENT: u8 = 253;

/// Who speaks, in one family.
#[derive(Clone, Copy)]
struct Cast {
    /// The beginning of packets' names.
    family: &'static str,
    service: IpAddr,
    pod1: IpAddr,
    pod2: IpAddr,
    remote: IpAddr,
    /// The node that the remote pod is on, inside the tunnel.
    peer: IpAddr,
    outside: IpAddr,
    router: IpAddr,
    node: IpAddr,
}

pub(crate) fn write(talk: &mut Talk) {
    let v4 = Cast {
        family: "v4",
        service: SERVICE4.into(),
        pod1: POD1_4.into(),
        pod2: POD2_4.into(),
        remote: PEER1_POD4.into(),
        peer: PEER1_TUNNEL4.into(),
        outside: OUTSIDE4.into(),
        router: ROUTER4.into(),
        node: NODE4.into(),
    };
    let v6 = Cast {
        family: "v6",
        service: SERVICE6.into(),
        pod1: POD1_6.into(),
        pod2: POD2_6.into(),
        remote: PEER1_POD6.into(),
        peer: PEER1_TUNNEL6.into(),
        outside: OUTSIDE6.into(),
        router: ROUTER6.into(),
        node: NODE6.into(),
    };
    for cast in [v4, v6] {
        tcp_to_a_pod_here(talk, cast);
        udp_to_a_pod_here(talk, cast);
        to_a_pod_elsewhere(talk, cast);
        to_the_outside(talk, cast);
        to_itself(talk, cast);
        refused(talk, cast);
        errors(talk, cast);
        errors_of_the_node(talk, cast);
        fragments(talk, cast);
        strays(talk, cast);
    }
    of_ipv4_alone(talk);
}

impl Cast {
    /// Says a packet that does not depend on what was learnt.
    fn say(&self, talk: &mut Talk, name: &str, side: Side, packet: Vec<u8>) {
        let name = format!("{}/{name}", self.family);
        talk.say(&name, side, move |_| packet.clone());
    }

    /// The full name of a conversation.
    fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.family)
    }
}

fn tcp_to_a_pod_here(talk: &mut Talk, cast: Cast) {
    let (there, back) = ((cast.pod1, cast.service), (cast.pod2, cast.pod1));
    let out = |flags, numbers, len| tcp(there, (CLIENT, 80), flags, numbers, len);
    let answer = |flags, numbers, len| tcp(back, (8080, CLIENT), flags, numbers, len);
    for (name, side, packet) in [
        ("syn", Side::Pod1, out(SYN, (100, 0), 0)),
        ("syn-again", Side::Pod1, out(SYN, (100, 0), 0)),
        ("syn-ack", Side::Pod2, answer(SYN | ACK, (200, 101), 0)),
        ("ack", Side::Pod1, out(ACK, (101, 201), 0)),
        ("request", Side::Pod1, out(ACK | PSH, (101, 201), 100)),
        ("answer", Side::Pod2, answer(ACK | PSH, (201, 201), 1000)),
        ("odd-answer", Side::Pod2, answer(ACK | PSH, (1201, 201), 7)),
        ("fin-back", Side::Pod2, answer(FIN | ACK, (1208, 201), 0)),
        ("fin", Side::Pod1, out(FIN | ACK, (201, 1209), 0)),
        ("last-ack", Side::Pod2, answer(ACK, (1209, 202), 0)),
    ] {
        cast.say(talk, &format!("tcp/{name}"), side, packet);
    }
    // The backend refuses.
    let syn = tcp(there, (CLIENT + 1, 80), SYN, (100, 0), 0);
    cast.say(talk, "tcp/another", Side::Pod1, syn);
    let reset = tcp(back, (8080, CLIENT + 1), RST | ACK, (0, 101), 0);
    cast.say(talk, "tcp/reset", Side::Pod2, reset);
}

fn udp_to_a_pod_here(talk: &mut Talk, cast: Cast) {
    let query = |len| datagram((cast.pod1, cast.service), (CLIENT, 53), len);
    let answer = |port, len| datagram((cast.pod2, cast.pod1), (port, CLIENT), len);
    cast.say(talk, "udp/query", Side::Pod1, query(32));
    cast.say(talk, "udp/answer", Side::Pod2, answer(5353, 200));
    cast.say(talk, "udp/query-again", Side::Pod1, query(33));
    cast.say(talk, "udp/answer-again", Side::Pod2, answer(5353, 1));
    // No answers to what was asked: as the backend itself.
    cast.say(talk, "udp/of-another-port", Side::Pod2, answer(5300, 20));
    let unasked = datagram((cast.remote, cast.pod1), (5353, CLIENT), 20);
    cast.say(talk, "udp/of-another-pod", Side::Wire, tunnelled(&unasked));
    let last = |packet| with_ttl(packet, 2);
    cast.say(talk, "udp/ttl-2", Side::Pod1, last(query(9)));
    cast.say(talk, "udp/ttl-2-back", Side::Pod2, last(answer(5353, 9)));
}

fn to_a_pod_elsewhere(talk: &mut Talk, cast: Cast) {
    let query = datagram((cast.pod1, cast.service), (CLIENT, 55), 32);
    let answer = datagram((cast.remote, cast.pod1), (5355, CLIENT), 64);
    cast.say(talk, "elsewhere/query", Side::Pod1, query);
    cast.say(talk, "elsewhere/answer", Side::Wire, tunnelled(&answer));
    let out =
        |flags, numbers, len| tcp((cast.pod1, cast.service), (CLIENT, 82), flags, numbers, len);
    let back = |flags, numbers, len| {
        let segment = tcp(
            (cast.remote, cast.pod1),
            (8082, CLIENT),
            flags,
            numbers,
            len,
        );
        tunnelled(&segment)
    };
    cast.say(talk, "elsewhere/syn", Side::Pod1, out(SYN, (100, 0), 0));
    let syn_ack = back(SYN | ACK, (200, 101), 0);
    cast.say(talk, "elsewhere/syn-ack", Side::Wire, syn_ack);
    cast.say(talk, "elsewhere/ack", Side::Pod1, out(ACK, (101, 201), 0));
    let request = out(ACK | PSH, (101, 201), 100);
    cast.say(talk, "elsewhere/request", Side::Pod1, request);
    let data = back(ACK | PSH, (201, 201), 500);
    cast.say(talk, "elsewhere/data", Side::Wire, data);
}

/// As the API server: natOutgoing is about the backend, so both ends are translated.
fn to_the_outside(talk: &mut Talk, cast: Cast) {
    let (there, back) = ((cast.pod1, cast.service), (cast.outside, cast.node));
    let query = datagram(there, (CLIENT, 56), 32);
    let name = cast.name("outside/query");
    talk.begin(&name, Side::Pod1, move |_| query.clone());
    talk.say(&cast.name("outside/answer"), Side::Wire, move |l| {
        datagram(back, (5356, l.port(&name)), 64)
    });
    let again = datagram(there, (CLIENT, 56), 33);
    cast.say(talk, "outside/query-again", Side::Pod1, again);

    let out = move |flags, numbers, len| tcp(there, (CLIENT, 443), flags, numbers, len);
    let name = cast.name("outside/syn");
    talk.begin(&name, Side::Pod1, move |_| out(SYN, (100, 0), 0));
    let answer = move |talk: &mut Talk, what: &str, flags, numbers, len| {
        let name = name.clone();
        talk.say(&cast.name(what), Side::Wire, move |l| {
            tcp(back, (6443, l.port(&name)), flags, numbers, len)
        });
    };
    answer(talk, "outside/syn-ack", SYN | ACK, (200, 101), 0);
    cast.say(talk, "outside/ack", Side::Pod1, out(ACK, (101, 201), 0));
    let request = out(ACK | PSH, (101, 201), 99);
    cast.say(talk, "outside/request", Side::Pod1, request);
    answer(talk, "outside/data", ACK | PSH, (201, 200), 1000);
    answer(talk, "outside/fin", FIN | ACK, (1201, 200), 0);
    // The same client port at the other pod.
    let name = cast.name("outside/another-client");
    let query = datagram((cast.pod2, cast.service), (CLIENT, 56), 32);
    talk.begin(&name, Side::Pod2, move |_| query.clone());
    talk.say(&cast.name("outside/another-answer"), Side::Wire, move |l| {
        datagram(back, (5356, l.port(&name)), 65)
    });
}

/// A pod is behind the service that it speaks to, and so sees the node.
fn to_itself(talk: &mut Talk, cast: Cast) {
    let (there, back) = ((cast.pod1, cast.service), (cast.pod1, cast.node));
    let query = datagram(there, (CLIENT, 54), 32);
    let name = cast.name("itself/query");
    talk.begin(&name, Side::Pod1, move |_| query.clone());
    let asked = name.clone();
    talk.say(&cast.name("itself/answer"), Side::Pod1, move |l| {
        datagram(back, (5354, l.port(&asked)), 64)
    });
    talk.say(&cast.name("itself/closed"), Side::Pod1, move |l| {
        let about = datagram((cast.node, cast.pod1), (l.port(&name), 5354), 32);
        error(back, Error::Closed, &with_ttl(about, 63))
    });
    let out = move |flags, numbers, len| tcp(there, (CLIENT, 81), flags, numbers, len);
    let name = cast.name("itself/syn");
    talk.begin(&name, Side::Pod1, move |_| out(SYN, (100, 0), 0));
    let answer = move |talk: &mut Talk, what: &str, flags, numbers, len| {
        let name = name.clone();
        talk.say(&cast.name(what), Side::Pod1, move |l| {
            tcp(back, (8081, l.port(&name)), flags, numbers, len)
        });
    };
    answer(talk, "itself/syn-ack", SYN | ACK, (200, 101), 0);
    cast.say(talk, "itself/ack", Side::Pod1, out(ACK, (101, 201), 0));
    answer(talk, "itself/data", ACK | PSH, (201, 101), 50);
    // The other pod keeps its address.
    let query = datagram((cast.pod2, cast.service), (CLIENT, 54), 32);
    cast.say(talk, "itself/of-another", Side::Pod2, query);
    let answer = datagram((cast.pod1, cast.pod2), (5354, CLIENT), 32);
    cast.say(talk, "itself/to-another", Side::Pod1, answer);
}

fn refused(talk: &mut Talk, cast: Cast) {
    let there = (cast.pod1, cast.service);
    for (name, port) in [("no-endpoint", 90), ("no-port", 9999)] {
        let mut say = |what: &str, packet| {
            cast.say(talk, &format!("{name}/{what}"), Side::Pod1, packet);
        };
        say("syn", tcp(there, (CLIENT, port), SYN, (100, 0), 0));
        say("syn-again", tcp(there, (CLIENT, port), SYN, (100, 0), 0));
        say("udp", datagram(there, (CLIENT, port), 32));
        say("long-udp", datagram(there, (CLIENT, port), 1400));
        say(
            "udp-ttl-2",
            with_ttl(datagram(there, (CLIENT, port), 32), 2),
        );
        say(
            "udp-ttl-1",
            with_ttl(datagram(there, (CLIENT, port), 32), 1),
        );
        say("reset", tcp(there, (CLIENT, port), RST, (100, 0), 0));
    }
    // A port of the other protocol.
    let query = datagram(there, (CLIENT, 80), 32);
    cast.say(talk, "no-port/other-protocol", Side::Pod1, query);
    // The backend's port is not the service's.
    let query = datagram(there, (CLIENT, 5353), 32);
    cast.say(talk, "no-port/the-backends", Side::Pod1, query);
    let ping = ping(cast.pod1, cast.service);
    cast.say(talk, "no-port/ping", Side::Pod1, ping);
    let other = ip(cast.pod1, cast.service, EXPERIMENT, filler(40));
    cast.say(talk, "no-port/without-ports", Side::Pod1, other);
}

fn errors(talk: &mut Talk, cast: Cast) {
    // About the client's packets, as those who speak saw them.
    let at_backend =
        |to: IpAddr, port, len| with_ttl(datagram((cast.pod1, to), (CLIENT, port), len), 63);
    for what in [Error::Closed, Error::NoWay] {
        let packet = error(
            (cast.pod2, cast.pod1),
            what,
            &at_backend(cast.pod2, 5353, 32),
        );
        cast.say(
            talk,
            &format!("error/of-the-backend-{what:?}"),
            Side::Pod2,
            packet,
        );
    }
    let far = at_backend(cast.remote, 5355, 32);
    let closed = error((cast.remote, cast.pod1), Error::Closed, &far);
    let closed = tunnelled(&closed);
    cast.say(talk, "error/of-a-backend-elsewhere", Side::Wire, closed);
    let expired = error((cast.peer, cast.pod1), Error::Expired, &far);
    let expired = tunnelled(&expired);
    cast.say(talk, "error/of-its-node", Side::Wire, expired);
    for (who, from) in [("router", cast.router), ("outside-backend", cast.outside)] {
        for what in [Error::Closed, Error::NoWay, Error::Expired, Error::TooBig] {
            let asked = cast.name("outside/query");
            let name = cast.name(&format!("error/of-the-{who}-{what:?}"));
            talk.say(&name, Side::Wire, move |l| {
                let ports = (l.port(&asked), 5356);
                let about = datagram((cast.node, cast.outside), ports, 32);
                error((from, cast.node), what, &with_ttl(about, 63))
            });
        }
    }
    // The first was acknowledged, so no router has it still.
    let numbers = [("acknowledged", (101, 201)), ("tcp", (200, 1202))];
    let there = (cast.pod1, cast.service);
    let more = tcp(there, (CLIENT, 443), ACK | PSH, numbers[1].1, 99);
    cast.say(talk, "error/before", Side::Pod1, more);
    for (name, numbers) in numbers {
        let asked = cast.name("outside/syn");
        let name = cast.name(&format!("error/about-{name}"));
        talk.say(&name, Side::Wire, move |l| {
            let ports = (l.port(&asked), 6443);
            let about = tcp((cast.node, cast.outside), ports, ACK | PSH, numbers, 99);
            error(
                (cast.router, cast.node),
                Error::TooBig,
                &with_ttl(about, 63),
            )
        });
    }
    // About answers: the client has gone.
    for (name, port) in [("", 53), ("elsewhere-", 55), ("outside-", 56)] {
        let about = datagram((cast.service, cast.pod1), (port, CLIENT), 64);
        let closed = error(
            (cast.pod1, cast.service),
            Error::Closed,
            &with_ttl(about, 63),
        );
        cast.say(
            talk,
            &format!("error/of-the-{name}client"),
            Side::Pod1,
            closed,
        );
    }
    // About nothing that was said.
    let unsaid = at_backend(cast.pod2, 5300, 32);
    let forged = error((cast.pod2, cast.pod1), Error::Closed, &unsaid);
    cast.say(talk, "error/about-nothing", Side::Pod2, forged);
    let unsaid = datagram((cast.service, cast.pod1), (90, CLIENT), 32);
    let forged = error((cast.pod1, cast.service), Error::Closed, &unsaid);
    cast.say(talk, "error/about-no-answer", Side::Pod1, forged);
    // None of them has ended anything.
    let answer = datagram((cast.pod2, cast.pod1), (5353, CLIENT), 20);
    cast.say(talk, "error/still-there", Side::Pod2, answer);
}

fn errors_of_the_node(talk: &mut Talk, cast: Cast) {
    let there = (cast.pod1, cast.service);
    for (name, port) in [
        ("here", 53),
        ("elsewhere", 55),
        ("outside", 56),
        ("itself", 54),
    ] {
        let packet = with_ttl(datagram(there, (CLIENT, port), 32), 1);
        cast.say(talk, &format!("node/ttl-1-{name}"), Side::Pod1, packet);
    }
    let first = with_ttl(datagram(there, (CLIENT + 2, 53), 32), 1);
    cast.say(talk, "node/ttl-1-at-first", Side::Pod1, first);
    let back = datagram((cast.pod2, cast.pod1), (5353, CLIENT), 32);
    cast.say(talk, "node/ttl-1-back", Side::Pod2, with_ttl(back, 1));
    for (name, port) in [("here", 53), ("elsewhere", 55)] {
        let mut packet = datagram(there, (CLIENT, port), 1440);
        if cast.service.is_ipv4() {
            packet[6..8].copy_from_slice(&DF.to_be_bytes());
            packet = with_ttl(packet, 64);
        }
        cast.say(talk, &format!("node/too-big-{name}"), Side::Pod1, packet);
    }
}

fn fragments(talk: &mut Talk, cast: Cast) {
    let there = (cast.pod1, cast.service);
    let mut id = 0x100;
    let mut say = |name: &str, side, ends, ports: (u16, u16), wrap: fn(&[u8]) -> Vec<u8>| {
        for (suffix, order) in [("", [true, false]), ("-reversed", [false, true])] {
            id += 1;
            let pieces: Vec<_> = order
                .map(|first| wrap(&piece(ends, ports, id, first)))
                .into();
            let name = cast.name(&format!("fragments/{name}{suffix}"));
            talk.say_all(&name, side, move |_: &Learnt| pieces.clone());
        }
    };
    let as_it_is = |packet: &[u8]| packet.to_vec();
    say("here", Side::Pod1, there, (CLIENT, 53), as_it_is);
    say("elsewhere", Side::Pod1, there, (CLIENT, 55), as_it_is);
    say("outside", Side::Pod1, there, (CLIENT, 56), as_it_is);
    say("refused", Side::Pod1, there, (CLIENT, 90), as_it_is);
    let back = (cast.pod2, cast.pod1);
    say("back", Side::Pod2, back, (5353, CLIENT), as_it_is);
    let back = (cast.remote, cast.pod1);
    say(
        "back-from-elsewhere",
        Side::Wire,
        back,
        (5355, CLIENT),
        tunnelled,
    );
    // The first of a conversation.
    say("begin", Side::Pod1, there, (CLIENT + 3, 53), as_it_is);
}

fn strays(talk: &mut Talk, cast: Cast) {
    let there = (cast.pod1, cast.service);
    for (name, flags) in [
        ("syn-ack", SYN | ACK),
        ("reset", RST),
        ("fin", FIN),
        ("none", 0),
    ] {
        let packet = tcp(there, (CLIENT + 4, 80), flags, (1, 1), 0);
        cast.say(talk, &format!("stray/{name}"), Side::Pod1, packet);
    }
    // Of a connection that nobody knows any more.
    let packet = tcp(there, (CLIENT + 5, 80), ACK | PSH, (1, 1), 10);
    cast.say(talk, "stray/data", Side::Pod1, packet);
    let packet = tcp(
        (cast.pod2, cast.pod1),
        (8080, CLIENT + 6),
        SYN | ACK,
        (1, 1),
        0,
    );
    cast.say(talk, "stray/answer", Side::Pod2, packet);
    // Somebody else in the service's name.
    let forged = datagram((cast.service, cast.pod1), (53, CLIENT), 20);
    cast.say(talk, "stray/in-the-services-name", Side::Pod2, forged);
    // Who is no pod of this node.
    let query = datagram((cast.outside, cast.service), (CLIENT, 53), 20);
    cast.say(talk, "stray/from-outside", Side::Wire, query);
    let query = datagram((cast.remote, cast.service), (CLIENT, 53), 20);
    cast.say(
        talk,
        "stray/from-another-nodes-pod",
        Side::Wire,
        tunnelled(&query),
    );
    // Without the service.
    let query = datagram((cast.pod1, cast.pod2), (CLIENT + 7, 5353), 20);
    cast.say(talk, "stray/directly", Side::Pod1, query);
}

/// Checksums that IPv6 does not have, or that nobody verifies.
fn of_ipv4_alone(talk: &mut Talk) {
    let mut say = |name: &str, side, (src, dst): (Ipv4Addr, Ipv4Addr), ports, check| {
        let packet = ip(src, dst, UDP, udp(&(src, dst), ports, &filler(31), check));
        talk.say(&format!("v4/{name}"), side, move |_| packet.clone());
    };
    let (there, back) = ((POD1_4, SERVICE4), (POD2_4, POD1_4));
    say(
        "udp/checksum-zero",
        Side::Pod1,
        there,
        (CLIENT, 53),
        Check::Zero,
    );
    say(
        "udp/checksum-zero-back",
        Side::Pod2,
        back,
        (5353, CLIENT),
        Check::Zero,
    );
    say(
        "udp/checksum-wrong",
        Side::Pod1,
        there,
        (CLIENT, 53),
        Check::Wrong,
    );
    say(
        "udp/checksum-wrong-back",
        Side::Pod2,
        back,
        (5353, CLIENT),
        Check::Wrong,
    );
    let outside = (CLIENT, 56);
    say(
        "outside/checksum-zero",
        Side::Pod1,
        there,
        outside,
        Check::Zero,
    );
}
