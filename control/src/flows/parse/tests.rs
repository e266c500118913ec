//! What a filter means, and what is said about one that means nothing.

use std::time::Duration;

use fastpath::connections::{Connection, Direction, Origin};
use fastpath::policy::Decider;
use fastpath::port::PortId;
use proptest::prelude::*;

use super::*;

/// Names stand for ports as `p1`, `p2` …
fn resolved(filter: &Filter) -> Filter<Vec<PortId>> {
    let port = |name: &String| {
        name.trim_start_matches('p')
            .parse()
            .map(|port| vec![PortId(port)])
    };
    filter.resolve(&port).unwrap()
}

fn meant(text: &str, connection: &Connection) -> bool {
    resolved(&Filter::parse(text).unwrap()).matches(connection)
}

fn direction(origin: Origin) -> Direction {
    Direction {
        origin,
        packets: 0,
        bytes: 0,
        generation: 0,
        decided_by: Decider::NOBODY,
    }
}

/// A pod's query, translated.
fn query() -> Connection {
    Connection {
        protocol: 17,
        state: State::Assured,
        denied: false,
        src: "10.1.0.5".parse().unwrap(),
        dst: "8.8.8.8".parse().unwrap(),
        sport: 40_000,
        dport: 53,
        snat: Some(("192.0.2.1".parse().unwrap(), 1024)),
        dnat: Some(("203.0.113.7".parse().unwrap(), 5353)),
        owner: Some(PortId(1)),
        original: direction(Origin::Port(PortId(1))),
        reply: direction(Origin::Port(PortId(2))),
        idle: Duration::ZERO,
        expires_in: Duration::ZERO,
    }
}

#[test]
fn each_condition_means_what_it_says() {
    let query = query();
    for text in [
        "src 10.0.0.0/8",
        "src net 10.1.0.5",
        "dst host 8.8.8.8",
        "host 10.1.0.5",
        "host 8.8.8.8",
        "host 192.0.2.1",
        "net 192.0.2.0/24",
        "port 53",
        "port 1000-1024",
        "dst port 53",
        "src port 40000-40000",
        "proto udp",
        "PROTO UDP",
        "proto 17",
        "udp",
        "ip",
        "state ASSURED",
        "state assured",
        "endpoint p1",
        "endpoint p2",
        "snat",
        "dnat",
        "host 203.0.113.7",
        "port 5353",
        "src 10.0.0.0/8 and dst port 53 and proto udp",
        "not tcp",
        "not not udp",
        "!tcp&&(udp||sctp)",
        // `and` binds stronger.
        "udp or tcp and tcp",
        "tcp and tcp or udp",
    ] {
        assert!(meant(text, &query), "{text}");
        assert!(!meant(&format!("not ({text})"), &query), "{text}");
    }
    for text in [
        "dst 10.0.0.0/8",
        "src 192.0.2.1",
        "dst 192.0.2.1",
        "dst 203.0.113.7",
        "dst port 5353",
        "src port 53",
        "src port 1024",
        "port 54-1023",
        "host ::1",
        "net ::/0",
        "ip6",
        "icmp",
        "state established",
        "endpoint p3",
        "(udp or tcp) and tcp",
        "not udp or tcp",
    ] {
        assert!(!meant(text, &query), "{text}");
    }
    let ping = Connection {
        protocol: 1,
        owner: None,
        snat: None,
        dnat: None,
        reply: direction(Origin::Unknown),
        ..query
    };
    assert!(!meant("port 53", &ping), "an identifier is no port");
    assert!(!meant("dnat", &ping));
    assert!(!meant("snat", &ping) && !meant("endpoint p2", &ping));
    let state = Connection {
        state: State::SynSent,
        ..query
    };
    assert!(meant("state syn_sent", &state) && meant("state syn-sent", &state));
}

#[test]
fn what_is_wrong_is_said_with_its_column() {
    for (text, column, message) in [
        ("", 1, "a condition is missing at the end"),
        ("   ", 1, "a condition is missing at the end"),
        ("src", 4, "an address or a network is missing at the end"),
        ("src foo", 5, "`foo` is no address and no network"),
        ("dst host 10.0.0.0/8", 10, "`10.0.0.0/8` is no address"),
        (
            "net 10.0.0.0/33",
            5,
            "`10.0.0.0/33` is no address and no network",
        ),
        ("udp and port 65536", 14, "`65536` is no port"),
        ("port 20-10", 6, "`20-10` is no port"),
        ("proto tpc", 7, "`tpc` is no protocol; did you mean `tcp`?"),
        ("state establihed", 7, "did you mean `ESTABLISHED`?"),
        ("sorce 10.0.0.1", 1, "`sorce` is no condition"),
        (
            "10.0.0.1",
            1,
            "needs `src`, `dst`, `host` or `net` in front",
        ),
        ("udp port 53", 5, "`and` or `or` is missing"),
        ("(udp port 53)", 6, "`and`, `or` or `)` is missing"),
        ("udp and (tcp", 9, "no `)` closes this"),
        ("udp)", 4, "there is no `(` that this closes"),
        ("udp and or tcp", 9, "`or` is no condition"),
        ("udp and ()", 10, "a condition is missing here"),
        ("ünïcode and tcp", 1, "`ünïcode` is no condition"),
        ("(tcp) and ünï", 11, "`ünï` is no condition"),
        ("7", 1, "`7` is no condition"),
    ] {
        let error = Filter::parse(text).unwrap_err();
        assert_eq!(error.column, column, "{text:?}: {error}");
        assert!(error.message.contains(message), "{text:?}: {error}");
    }
    let error = Filter::parse("udp and\tport x").unwrap_err().to_string();
    let expected = "column 14: `x` is no port (0 to 65535) and no range of ports (1000-2000)\n  \
                    udp and port x\n               ^";
    assert_eq!(error, expected);
}

#[test]
fn nothing_that_is_sent_hurts() {
    let deep = |depth| format!("{}udp{}", "(".repeat(depth), ")".repeat(depth));
    assert!(Filter::parse(&deep(DEEPEST)).is_ok());
    assert_eq!(Filter::parse(&deep(DEEPEST + 1)).unwrap_err().column, 33);
    let beside = vec![deep(2); 100].join(" or ");
    assert!(Filter::parse(&beside).is_ok(), "depth, not number");
    assert!(Filter::parse(&format!("{}udp", "not ".repeat(1000))).is_ok());
    let long = Filter::parse(&"(".repeat(LONGEST + 1)).unwrap_err();
    assert!(long.message.contains("4096 bytes"), "{long}");
    let escape = Filter::parse("\u{1b}[2J\u{7}").unwrap_err().to_string();
    assert!(
        !escape.contains(|c: char| c.is_control() && c != '\n'),
        "{escape:?}"
    );
}

/// A filter as a tree, with an evaluation and a way of writing of its own.
#[derive(Clone, Debug)]
enum Tree {
    Leaf(Leaf),
    Not(Box<Self>),
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
}

#[derive(Clone, Debug)]
enum Leaf {
    Src(u8),
    Dst(u8),
    /// Within a /30.
    Net(u8),
    Port(u16, u16),
    DstPort(u16),
    Protocol(u8),
    State(State),
    Endpoint(u16),
    Snat,
    Dnat,
}

impl Tree {
    fn holds(&self, one: &Connection) -> bool {
        match self {
            Self::Leaf(leaf) => leaf.holds(one),
            Self::Not(inner) => !inner.holds(one),
            Self::And(a, b) => a.holds(one) & b.holds(one),
            Self::Or(a, b) => a.holds(one) | b.holds(one),
        }
    }

    /// With no more parentheses than are needed, or with all.
    fn text(&self, outer: u8, all: bool) -> String {
        let (level, text) = match self {
            Self::Leaf(leaf) => (3, leaf.text()),
            Self::Not(inner) => (2, format!("not {}", inner.text(2, all))),
            Self::And(a, b) => (1, format!("{} and {}", a.text(1, all), b.text(1, all))),
            Self::Or(a, b) => (0, format!("{} or {}", a.text(0, all), b.text(0, all))),
        };
        if all || level < outer {
            format!("({text})")
        } else {
            text
        }
    }
}

fn last_byte(addr: IpAddr) -> u8 {
    match addr {
        IpAddr::V4(addr) => addr.octets()[3],
        IpAddr::V6(_) => unreachable!("IPv4 only here"),
    }
}

impl Leaf {
    fn holds(&self, one: &Connection) -> bool {
        let translated =
            [one.snat, one.dnat].map(|it| it.map(|(addr, port)| (last_byte(addr), port)));
        let translated = translated.into_iter().flatten();
        let has_ports = one.protocol == 6 || one.protocol == 17;
        match *self {
            Self::Src(byte) => last_byte(one.src) == byte,
            Self::Dst(byte) => last_byte(one.dst) == byte,
            Self::Net(byte) => {
                let mut bytes = vec![last_byte(one.src), last_byte(one.dst)];
                bytes.extend(translated.map(|(byte, _)| byte));
                bytes.into_iter().any(|other| other / 4 == byte / 4)
            }
            Self::Port(first, last) => {
                let mut ports = vec![one.sport, one.dport];
                ports.extend(translated.map(|(_, port)| port));
                has_ports && ports.into_iter().any(|port| first <= port && port <= last)
            }
            Self::DstPort(port) => has_ports && one.dport == port,
            Self::Protocol(protocol) => one.protocol == protocol,
            Self::State(state) => one.state == state,
            Self::Endpoint(port) => {
                let port = PortId(port);
                one.owner == Some(port)
                    || one.original.origin == Origin::Port(port)
                    || one.reply.origin == Origin::Port(port)
            }
            Self::Snat => one.snat.is_some(),
            Self::Dnat => one.dnat.is_some(),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Src(byte) => format!("src 10.0.0.{byte}"),
            Self::Dst(byte) => format!("dst host 10.0.0.{byte}"),
            Self::Net(byte) => format!("net 10.0.0.{byte}/30"),
            Self::Port(first, last) => format!("port {first}-{last}"),
            Self::DstPort(port) => format!("dst port {port}"),
            Self::Protocol(protocol) => format!("proto {}", protocol::name(*protocol)),
            Self::State(state) => format!("state {}", state.name()),
            Self::Endpoint(port) => format!("endpoint p{port}"),
            Self::Snat => "snat".to_owned(),
            Self::Dnat => "dnat".to_owned(),
        }
    }
}

fn leaf() -> impl Strategy<Value = Leaf> {
    prop_oneof![
        (0..8_u8).prop_map(Leaf::Src),
        (0..8_u8).prop_map(Leaf::Dst),
        (0..8_u8).prop_map(Leaf::Net),
        (0..4_u16, 0..4_u16).prop_map(|(a, b)| Leaf::Port(a.min(b), a.max(b))),
        (0..4_u16).prop_map(Leaf::DstPort),
        prop::sample::select(vec![1, 6, 17]).prop_map(Leaf::Protocol),
        prop::sample::select(State::ALL.to_vec()).prop_map(Leaf::State),
        (0..4_u16).prop_map(Leaf::Endpoint),
        Just(Leaf::Snat),
        Just(Leaf::Dnat),
    ]
}

fn tree() -> impl Strategy<Value = Tree> {
    leaf()
        .prop_map(Tree::Leaf)
        .prop_recursive(5, 32, 2, |inner| {
            let two = (inner.clone(), inner.clone());
            prop_oneof![
                inner.prop_map(|a| Tree::Not(a.into())),
                two.clone().prop_map(|(a, b)| Tree::And(a.into(), b.into())),
                two.prop_map(|(a, b)| Tree::Or(a.into(), b.into())),
            ]
        })
}

fn connection() -> impl Strategy<Value = Connection> {
    let addr = || (0..8_u8).prop_map(|byte| IpAddr::from([10, 0, 0, byte]));
    let origin = || {
        prop_oneof![
            (0..4_u16).prop_map(|port| Origin::Port(PortId(port))),
            Just(Origin::Unknown),
        ]
    };
    (
        prop::sample::select(vec![1_u8, 6, 17]),
        prop::sample::select(State::ALL.to_vec()),
        (addr(), addr()),
        (0..4_u16, 0..4_u16),
        [(); 2].map(|()| prop::option::of((addr(), 0..4_u16))),
        prop::option::of(0..4_u16),
        (origin(), origin()),
    )
        .prop_map(
            |(protocol, state, ends, ports, [snat, dnat], owner, origins)| Connection {
                protocol,
                state,
                denied: false,
                src: ends.0,
                dst: ends.1,
                sport: ports.0,
                dport: ports.1,
                snat,
                dnat,
                owner: owner.map(PortId),
                original: direction(origins.0),
                reply: direction(origins.1),
                ..query()
            },
        )
}

proptest! {
    #[test]
    fn a_filter_means_what_its_tree_means(
        tree in tree(),
        connections in prop::collection::vec(connection(), 1..32),
    ) {
        for all in [false, true] {
            let text = tree.text(0, all);
            let filter = resolved(&Filter::parse(&text).map_err(|error| {
                TestCaseError::fail(format!("{text}: {error}"))
            })?);
            for one in &connections {
                prop_assert_eq!(filter.matches(one), tree.holds(one), "{}: {:?}", text, one);
            }
        }
    }
}
