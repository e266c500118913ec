//! TCP connections that were captured, and what the tracker makes of them.

use std::path::Path;

use flowtable::conn::{Invalid, Segment, State};

use crate::talk::{Fate, Side, Talk};

/// A captured segment: source port, destination port, and what stands in it.
type Captured = (u16, u16, Segment);

/// The TCP segments over IPv4 of a capture, by a walk that trusts the file as far as slices do not.
fn segments(name: &str) -> Vec<Captured> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../pcap-tests/fixtures/tcp-conntrack")
        .join(name);
    let file = std::fs::read(&path).expect("the fixture is in the repository");
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().expect("four bytes"));
    // Ethernet, Linux cooked, IPv4 alone.
    let link_len = match word(20) {
        1 => 14,
        113 => 16,
        228 => 0,
        other => panic!("link type {other}"),
    };
    let mut found = Vec::new();
    let mut at = 24;
    while at < file.len() {
        let len = word(at + 8) as usize;
        let ip = &file[at + 16..at + 16 + len][link_len..];
        at += 16 + len;
        let header_len = usize::from(ip[0] & 0x0f) * 4;
        let total_len = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        if ip[9] != 6 {
            continue;
        }
        let tcp = &ip[header_len..];
        let port = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
        let segment = Segment::read(tcp, total_len - header_len).expect("a whole header");
        found.push((port(0), port(2), segment));
    }
    assert!(!found.is_empty(), "{name}");
    found
}

/// Replays the segments of the client that has this port. The fates, and the state after each.
fn replay(name: &str, client: u16) -> (Vec<Fate>, Vec<State>) {
    let mut talk = Talk::new();
    segments(name)
        .into_iter()
        .filter(|(from, to, _)| [*from, *to].contains(&client))
        .map(|(from, _, segment)| {
            let side = if from == client {
                Side::Client
            } else {
                Side::Server
            };
            (talk.tcp(side, segment), talk.state())
        })
        .unzip()
}

/// The states without repetitions.
fn course(name: &str, client: u16) -> Vec<State> {
    let (fates, mut states) = replay(name, client);
    assert!(
        fates.iter().all(|fate| !matches!(fate, Fate::Invalid(_))),
        "{name}: {fates:?}"
    );
    states.dedup();
    states
}

const OPENED: [State; 3] = [State::SynSent, State::SynReceived, State::Established];

#[test]
fn whole_connections() {
    let closed = |last: &[State]| [&OPENED[..], last].concat();
    assert_eq!(
        course("tcpdump__mptcp-v1.pcap", 33306),
        closed(&[
            State::FinWait,
            State::CloseWait,
            State::LastAck,
            State::TimeWait
        ])
    );
    // Two connections, the second with data on its SYN.
    assert_eq!(
        course("zeek__tcp-fast-open.pcap", 55533),
        closed(&[State::FinWait, State::LastAck, State::TimeWait])
    );
    assert_eq!(
        course("zeek__tcp-fast-open.pcap", 55534),
        closed(&[State::FinWait, State::LastAck, State::TimeWait])
    );
}

#[test]
fn connections_that_are_left_open() {
    assert_eq!(course("tcpdump__tcp-handshake-nano.pcap", 46656), OPENED);
    assert_eq!(course("zeek__timeout-with-pings.pcap", 12345), OPENED);
    assert_eq!(course("zeek__syn-synack.pcap", 59856), OPENED[..2]);
    assert_eq!(course("zeek__syn.pcap", 59856), OPENED[..1]);
}

/// An RST that acknowledges the SYN's own number comes before the server's answer: refused. One at exactly the number that
/// the client expects comes later: the client takes it, whoever sent it.
#[test]
fn n24_injected_rst() {
    let (fates, states) = replay("zeek__rst-inject-rae.pcap", 2527);
    assert!(fates[1..].iter().all(|fate| *fate == Fate::Pass));
    assert_eq!(states[1], State::SynSent);
    assert_eq!(
        states[2..6],
        [
            State::SynReceived,
            State::Established,
            State::Established,
            State::Established
        ]
    );
    assert_eq!(states[6..], [State::Close; 3]);
}

/// The answer to the SYN comes first, which the tracker cannot know what to do with.
#[test]
fn an_answer_before_its_syn() {
    let (fates, states) = replay("zeek__handshake-reorder.pcap", 59856);
    assert_eq!(fates[0], Fate::Invalid(Invalid::MidStream));
    assert_eq!(fates[1], Fate::New);
    assert_eq!(fates[2], Fate::Invalid(Invalid::Handshake));
    assert!(states[1..].iter().all(|state| *state == State::SynSent));
}

/// RST and FIN at numbers that no endpoint takes.
#[test]
fn half_connections_of_nonsense() {
    for name in [
        "zeek__syn-then-rst.pcap",
        "zeek__syn-then-ack-then-rst.pcap",
        "zeek__syn-then-stuff-then-rst.pcap",
    ] {
        let (_, states) = replay(name, 13131);
        assert!(
            states.iter().all(|state| *state == State::SynSent),
            "{name}"
        );
    }
    let (fates, _) = replay("zeek__syn-then-stuff-then-rst.pcap", 13131);
    assert_eq!(fates[2], Fate::Invalid(Invalid::Flags), "FIN without ACK");
    let (fates, _) = replay("tcpdump__tcp_rst_data.pcap", 52875);
    assert_eq!(fates, [Fate::Invalid(Invalid::MidStream)]);
}
