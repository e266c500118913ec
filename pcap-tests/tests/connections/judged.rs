//! Random conversations, judged by a plain program with a map.

use std::fmt::Write as _;
use std::time::Duration;

use fastpath::batch::Fate;
use fastpath::port::PortId;
use pcap_tests::build::{self, ip4};
use pcap_tests::choices::Choices;
use pcap_tests::rig::Rig;
use proptest::prelude::*;

use crate::node::*;
use crate::oracle::{Connection, Oracle, Phase, Says, State, Tuple, Verdict};
use crate::same::{Bytes, room};
use crate::schedule::{Change, NODE_B, Outside, Plan, first_tables, time};
use crate::traffic::REMOTE_POD;

const SERVER_B: &str = "198.51.100.8";

/// Whose address it is, the port that it is behind, and whether it may begin something to each of the others.
const ENDS: [(&str, PortId); 6] = [
    (POD_ADDR, POD),
    (OTHER_ADDR, OTHER),
    (SERVER, UPLINK),
    (SERVER_B, UPLINK),
    (NODE, HOST),
    (REMOTE_POD, UPLINK),
];

/// The frame of a packet that comes in by a port.
fn frame(port: PortId, packet: Tuple, says: Says, is_reply: bool) -> Vec<u8> {
    let (src, dst) = (packet.src.0.to_string(), packet.dst.0.to_string());
    let ip = ip4(&src, &dst);
    let ports = (packet.src.1, packet.dst.1);
    let (own, other) = if is_reply { (200, 101) } else { (100, 201) };
    let bytes = match packet.protocol {
        6 => {
            let (flags, seq, ack) = match says {
                Says::Syn => (0x02, own, 0),
                Says::SynAck => (0x12, own, other),
                Says::Reset => (0x04, own + 1, 0),
                _ => (0x10, own + 1, other),
            };
            ip.sealed(6, build::segment(ports, flags, seq, ack, &[]), 16)
        }
        17 => ip.udp(ports.0, ports.1, b"datagram"),
        1 => {
            let id = u32::from(ports.0 | ports.1);
            ip.icmp(
                if says == Says::Answer { 0 } else { 8 },
                0,
                id << 16,
                b"ping",
            )
        }
        other => ip.packet(other, &build::counted(20)),
    };
    if src == REMOTE_POD {
        let inner = build::ethernet([0x66, 0, 0, 0, 0, 2], [0x66, 0, 0, 0, 0, 3], &bytes);
        let outer =
            ip4("172.18.0.3", NODE).udp_unchecked(50_000, 4789, &build::vxlan(4096, &inner));
        return from_outside(&outer);
    }
    match port {
        POD => from_pod(&bytes),
        OTHER => build::ethernet(GATEWAY_MAC, OTHER_MAC, &bytes),
        HOST => build::ethernet([2, 0, 0, 0, 0, 4], HOST_MAC, &bytes),
        _ => from_outside(&bytes),
    }
}

/// What left, by its facts.
fn facts(frame: &[u8], protocol: u8) -> Tuple {
    let is_tunnel = frame[23] == 17 && frame[36..38] == [0x12, 0xb5] && frame.len() > 50;
    let frame = if is_tunnel { &frame[50..] } else { frame };
    let view = seen(frame);
    let address = |addr: std::net::IpAddr| match addr {
        std::net::IpAddr::V4(addr) => addr,
        std::net::IpAddr::V6(addr) => panic!("{addr}"),
    };
    let (mut from, mut to) = view.ports;
    if protocol == 1 {
        // Of an answer the asker is the receiver.
        (from, to) = if frame[34] == 0 { (0, to) } else { (from, 0) };
    }
    Tuple {
        protocol,
        src: (address(view.src), from),
        dst: (address(view.dst), to),
    }
}

/// A packet, the port it comes in by, what it says, and whether it is an answer.
type Packet = (PortId, Tuple, Says, bool);

/// The next packet of a connection that keeps to the rules.
fn of_connection(choices: &mut Choices<'_>, connection: &Connection) -> Packet {
    let mut is_reply = choices.once_in(2);
    let says = match connection.first.protocol {
        6 => match (connection.phase, is_reply) {
            (Phase::Asked, false) => Says::Syn,
            (Phase::Asked | Phase::Answered, true) => Says::SynAck,
            (Phase::Open, _) if choices.once_in(8) => Says::Reset,
            (Phase::Answered, false) | (Phase::Open, _) => Says::Ack,
            (Phase::Reset, _) => {
                is_reply = false;
                Says::Syn
            }
        },
        1 if is_reply => Says::Answer,
        _ => Says::Anything,
    };
    let packet = if is_reply {
        connection.back
    } else {
        connection.first
    };
    let end = ENDS.iter().find(|(addr, _)| v4(addr) == packet.src.0);
    // The node has another address too.
    let port = end.map_or(HOST, |(_, port)| *port);
    (port, packet, says, is_reply)
}

/// A packet that begins something, or is astray.
fn opening(choices: &mut Choices<'_>) -> Packet {
    let from = choices.below(ENDS.len());
    let to = (from + 1 + choices.below(ENDS.len() - 1)) % ENDS.len();
    let ((src, port), (mut dst, _)) = (ENDS[from], ENDS[to]);
    if dst == NODE && choices.once_in(3) {
        dst = NODE_B;
    }
    let protocol = choices.of(&[6, 6, 17, 17, 1, 50]);
    // Nobody begins from a port that another asks at: that would be the other's answer.
    let own = 40_000 + 10 * from as u16 + choices.below(2) as u16;
    let (ports, says) = match protocol {
        6 => {
            let says = choices.of(&[Says::Syn, Says::Syn, Says::Syn, Says::SynAck, Says::Reset]);
            ((own, 80), says)
        }
        17 => ((own, 53), Says::Anything),
        1 if choices.once_in(4) => ((0, own), Says::Answer),
        // The number of the query's type, which several may have for an identifier.
        1 if choices.once_in(2) => ((8, 0), Says::Anything),
        1 => ((own, 0), Says::Anything),
        _ => ((0, 0), Says::Anything),
    };
    let packet = Tuple {
        protocol,
        src: (v4(src), ports.0),
        dst: (v4(dst), ports.1),
    };
    (port, packet, says, false)
}

/// One thing changed: tables, and what the oracle is told of them.
fn change(choices: &mut Choices<'_>, plan: &Plan, oracle: &mut Oracle) -> Change {
    let mut plan = plan.clone();
    let mut is_new = [false; 2];
    let pod = choices.below(2);
    match choices.below(5) {
        0 => {
            plan.outside = choices.of(&[
                Outside::Router(9),
                Outside::Router(10),
                Outside::Unreachable,
            ]);
        }
        1 => {
            plan.has_pods[pod] ^= true;
            is_new[pod] = plan.has_pods[pod];
            oracle.lose([POD_ADDR, OTHER_ADDR][pod]);
        }
        2 if plan.has_pods[pod] => {
            is_new[pod] = true;
            oracle.lose([POD_ADDR, OTHER_ADDR][pod]);
        }
        3 => plan.has_other_address ^= true,
        _ => plan.masquerades ^= true,
    }
    oracle.state = state(&plan);
    Change { plan, is_new }
}

fn state(plan: &Plan) -> State {
    State {
        has_pods: plan.has_pods,
        address: v4(if plan.has_other_address { NODE_B } else { NODE }),
        masquerades: plan.masquerades,
        reaches_outside: matches!(plan.outside, Outside::Router(_)),
        range: 1024..=65_535,
    }
}

/// Lets a packet in, and compares.
fn compare(
    rig: &mut Rig,
    oracle: &mut Oracle,
    (port, packet, says, is_reply): Packet,
) -> Result<bool, String> {
    let verdict = oracle.judge(port, packet, says);
    let outcome = rig.run_now(port, &[frame(port, packet, says, is_reply)]);
    let fate = outcome.fates[0];
    let sent = match fate {
        Fate::Transmit(port) => {
            let frame = &outcome.sent[usize::from(port.0)][0];
            Some((port, facts(frame, packet.protocol)))
        }
        Fate::Drop(_) => None,
        fate => return Err(format!("{fate:?}")),
    };
    match (verdict, sent) {
        (Verdict::Dropped, None) => Ok(false),
        (Verdict::Sent(to, expected), Some(found)) if (to, expected) == found => Ok(true),
        (Verdict::SentFrom(address, expected), Some((UPLINK, found)))
            if found.src.0 == address && found.dst == expected.dst =>
        {
            oracle.given(packet, found.src.1).map(|()| true)
        }
        _ => Err(format!("{verdict:?} was expected, {fate:?} {sent:?} found")),
    }
}

fn run(bytes: &Bytes) -> Result<[usize; 3], String> {
    let mut plan = Plan {
        pick_up: false,
        ..Plan::default()
    };
    let mut rig = Rig::new(first_tables(&plan)).with_room_for(room());
    let mut oracle = Oracle::new(state(&plan));
    let (mut story, mut long_times, mut counts) = (String::new(), 0, [0; 3]);
    for bytes in &bytes.0 {
        let choices = &mut Choices::new(bytes);
        let kind = choices.below(12);
        let known: Vec<Connection> = oracle
            .all()
            .map(|(_, connection)| connection.clone())
            .collect();
        match kind {
            10 => {
                let change = change(choices, &plan, &mut oracle);
                let _ = writeln!(story, "{change:?}");
                change.apply(&plan, &mut rig);
                plan = change.plan;
                // What ends with it is gone within this time.
                rig.pass(Duration::from_millis(100));
                oracle.pass(Duration::from_millis(100));
            }
            11 => {
                let time = match time(choices) {
                    time if time > Duration::from_secs(1) && long_times == 7 => continue,
                    time => time,
                };
                long_times += usize::from(time > Duration::from_secs(1));
                let _ = writeln!(story, "{time:?}");
                rig.pass(time);
                oracle.pass(time);
            }
            _ => {
                let packet = match kind {
                    0..=5 if !known.is_empty() => {
                        let at = choices.below(known.len());
                        of_connection(choices, &known[at])
                    }
                    _ => opening(choices),
                };
                let pods = [(POD, plan.has_pods[0]), (OTHER, plan.has_pods[1])];
                if pods.contains(&(packet.0, false)) {
                    continue;
                }
                let _ = writeln!(story, "{packet:?}");
                let outcome = compare(&mut rig, &mut oracle, packet);
                let passed = outcome.map_err(|problem| format!("{story}{problem}"))?;
                counts[usize::from(passed)] += 1;
                rig.pass(Duration::from_millis(100));
                oracle.pass(Duration::from_millis(100));
            }
        }
        let count = rig.connections().v4.len() as usize;
        if count != oracle.all().count() {
            return Err(format!(
                "{story}{count} connections, not {}",
                oracle.all().count()
            ));
        }
        counts[2] = counts[2].max(count);
    }
    Ok(counts)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn connections_are_as_a_plain_program_keeps_them(bytes in crate::same::bytes()) {
        let outcome = run(&bytes);
        prop_assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
    }
}

#[test]
fn the_random_conversations_are_worth_it() {
    let mut random = pcap_tests::choices::Random::new(3);
    let events = (0..600)
        .map(|_| (0..60).map(|_| random.number() as u8).collect())
        .collect();
    let [dropped, passed, most] = run(&Bytes(events)).unwrap_or_else(|problem| panic!("{problem}"));
    assert!(
        dropped > 30 && passed > 150 && most > 10,
        "{dropped} {passed} {most}"
    );
}
