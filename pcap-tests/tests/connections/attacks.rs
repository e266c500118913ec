//! What one pod, or somebody outside, can do to the connections of others: nothing. Numbers of rows are those of the
//! RFC that each follows; CVEs are of other dataplanes, whose mistakes are not to be made again.

use std::time::Duration;

use fastpath::batch::Fate;
use fastpath::port::{PortId, PortKind};
use fastpath::reason::DropReason;
use flowtable::Tick;
use flowtable::flow::{Action, Capacity, FlowKey as _, FlowTable4, Key4, Seed};
use pcap_tests::build::{self, Mac, counted, ip4};
use pcap_tests::choices::Random;
use pcap_tests::rig::Rig;

use crate::node::*;

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
const FIN_ACK: u8 = 0x11;
const SYN_ACK: u8 = 0x12;

fn from_other(packet: &[u8]) -> Vec<u8> {
    build::ethernet(GATEWAY_MAC, OTHER_MAC, packet)
}

fn room(entries: usize) -> Rig {
    let entries = Capacity::new(entries).expect("a power of two");
    Rig::new(tables(1024..=65_535)).with_room_for(entries)
}

/// Opens a connection of the other pod to outside; the port that it leaves with.
fn establish(rig: &mut Rig, port: u16) -> u16 {
    let syn = from_other(&segment4(OTHER_ADDR, SERVER, (port, 80), SYN, 100, 0));
    let (_, frame) = one(rig, OTHER, syn).expect("it leaves");
    let public = seen(&frame).ports.0;
    let answer = segment4(SERVER, NODE, (80, public), SYN_ACK, 200, 101);
    assert!(one(rig, UPLINK, from_outside(&answer)).is_ok());
    let ack = from_other(&segment4(OTHER_ADDR, SERVER, (port, 80), ACK, 101, 201));
    assert!(one(rig, OTHER, ack).is_ok());
    public
}

/// Whether data still goes both ways.
fn is_alive(rig: &mut Rig, port: u16, public: u16) -> bool {
    let data = from_other(&segment4(OTHER_ADDR, SERVER, (port, 80), ACK, 101, 201));
    let answer = from_outside(&segment4(SERVER, NODE, (80, public), ACK, 201, 101));
    let there = one(rig, OTHER, data).map(|(to, frame)| (to, seen(&frame).ports.0));
    let back = one(rig, UPLINK, answer).map(|(to, _)| to);
    (there, back) == (Ok((UPLINK, public)), Ok(OTHER))
}

/// What is remembered of all connections: the tracker's words, when each was last seen, its packets.
fn remembered(rig: &Rig) -> Vec<(Key4, u64, u32, u64)> {
    let mut all = Vec::new();
    let table = &rig.connections().v4.table;
    table.for_each(|view| all.push((view.key, view.dir, view.last_seen, view.packets)));
    all.sort_by_key(|(key, ..)| (key.src, key.dst, key.sport, key.dport));
    all
}

/// RFC 7857 section 11, and OVS CVE-2019-25076 and CVE-2016-10377 in their effect: a flood of new connections.
#[test]
fn a_spray_of_new_connections_leaves_those_of_others() {
    let mut rig = room(4096);
    let public = establish(&mut rig, 40_000);
    let mut random = Random::new(1);
    let (mut made, mut refused) = (0, 0);
    let (mut tried, mut succeeded) = (0, 0);
    for round in 0..300_u16 {
        let spray: Vec<_> = (0..64)
            .map(|_| {
                let (to, ports) = (random.below(250) + 1, random.number());
                let packet = ip4(POD_ADDR, &format!("198.51.100.{to}"));
                from_pod(&packet.udp(ports as u16, (ports >> 16) as u16 | 0x8000, b"spray"))
            })
            .collect();
        let evicted = rig.counters().connections_evicted.get();
        let fates = rig.run_now(POD, &spray).fates;
        // A search for what may go takes long: that of a batch is bounded.
        assert!(rig.counters().connections_evicted.get() - evicted <= 4);
        for fate in fates {
            match fate {
                Fate::Transmit(_) => made += 1,
                Fate::Drop(
                    DropReason::FlowQuota
                    | DropReason::FlowTableFull
                    | DropReason::NatPortsExhausted,
                ) => refused += 1,
                fate => panic!("{fate:?}"),
            }
        }
        tried += 1;
        let syn = segment4(OTHER_ADDR, SERVER, (41_000 + round, 80), SYN, 100, 0);
        succeeded += u16::from(one(&mut rig, OTHER, from_other(&syn)).is_ok());
        assert!(is_alive(&mut rig, 40_000, public), "round {round}");
    }
    let flood = (made + refused) / rig.connections().v4.quota.limits().capacity;
    assert!(
        flood > 4,
        "{made} made, {refused} refused: is this a flood?"
    );
    assert!(succeeded * 100 >= tried * 99, "{succeeded} of {tried}");
    let share = rig.connections().v4.quota.limits().share;
    assert!(rig.connections().v4.quota.count(POD.0) <= share);
}

/// RFC 4787 REQ-11: what is full refuses the new, and changes nothing of the old.
#[test]
fn exhausted_ports_leave_old_connections_and_other_destinations() {
    let mut rig = Rig::new(tables(2000..=2049)).with_connections();
    let public = establish(&mut rig, 40_000);
    let mut refused = 0;
    for port in 0..200 {
        let syn = from_pod(&segment4(
            POD_ADDR,
            SERVER,
            (10_000 + port, 80),
            SYN,
            100,
            0,
        ));
        match one(&mut rig, POD, syn) {
            Ok((_, frame)) => assert_ne!(seen(&frame).ports.0, public, "taken from the other"),
            Err(DropReason::NatPortsExhausted) => refused += 1,
            Err(reason) => panic!("{reason:?}"),
        }
    }
    assert_eq!(refused, 200 - 49);
    assert!(is_alive(&mut rig, 40_000, public));
    let elsewhere = segment4(OTHER_ADDR, SERVER, (40_000, 443), SYN, 100, 0);
    assert!(one(&mut rig, OTHER, from_other(&elsewhere)).is_ok());
}

/// The first of two fragments, or the second.
fn piece(src: &str, dst: &str, id: u16, is_first: bool) -> Vec<u8> {
    let whole = ip4(src, dst).udp(5000, 53, &counted(1000))[20..].to_vec();
    let ip = ip4(src, dst).id(id);
    if is_first {
        ip.fragment(0x2000).packet(17, &whole[..504])
    } else {
        ip.fragment(504 / 8).packet(17, &whole[504..])
    }
}

/// CVE-2018-5391 (FragmentSmack): datagrams that never become whole.
#[test]
fn a_flood_of_fragments_leaves_those_of_others() {
    for is_first in [true, false] {
        let mut rig = room(4096);
        for round in 0..40_u16 {
            let flood: Vec<_> = (0..64)
                .map(|at| from_pod(&piece(POD_ADDR, SERVER, round * 64 + at, is_first)))
                .collect();
            rig.run_now(POD, &flood);
            let held = rig.held();
            assert!(held <= 256, "{held} frames wait");
            // In order, and not in order.
            for (id, order) in [
                (60_000 + round, [true, false]),
                (61_000 + round, [false, true]),
            ] {
                let pieces =
                    order.map(|is_first| from_other(&piece(OTHER_ADDR, SERVER, id, is_first)));
                let outcome = rig.run_now(OTHER, &pieces);
                let count = outcome.sent[usize::from(UPLINK.0)].len();
                assert_eq!(count, 2, "round {round}: {:?}", outcome.fates);
            }
        }
    }
}

/// CVE-2003-0364: who knows the seed can fill a line of the table, and no more than that.
#[test]
fn keys_that_collide_fill_one_line_and_no_more() {
    // The rig's seed, which nobody outside knows of a node.
    let twin = FlowTable4::new(Capacity::new(4096).expect("a power of two"), Seed([1, 2]));
    let addr = |text: &str| u32::from(v4(text));
    let mut colliding = Vec::new();
    for number in 0..1_000_000_u32 {
        let key = Key4 {
            src: addr(POD_ADDR),
            dst: addr(OTHER_ADDR),
            sport: (number >> 8) as u16,
            dport: (number & 0xff) as u16 + 1000,
            protocol: 17,
        };
        let action = Action::default();
        let pair = twin.insert_pair((key, action), (key.reversed(), action), Tick(0), (0, 0));
        if let Ok((flow, _)) = pair {
            if flow.slot() / 64 == 5 {
                colliding.push((key.sport, key.dport));
            }
            assert!(twin.remove_pair(flow));
        }
        if colliding.len() == 256 {
            break;
        }
    }
    assert_eq!(colliding.len(), 256);
    let mut rig = room(4096);
    let public = establish(&mut rig, 40_000);
    for (sport, dport) in colliding {
        let packet = from_pod(&ip4(POD_ADDR, OTHER_ADDR).udp(sport, dport, b"collide"));
        match one(&mut rig, POD, packet) {
            Ok(_) | Err(DropReason::FlowTableFull) => {}
            Err(reason) => panic!("{reason:?}"),
        }
    }
    // The attacker's own make room for each other.
    let made = rig.counters().connections_made.get() - 1;
    let evicted = rig.counters().connections_evicted.get();
    let refused = 256 - made;
    assert!(
        evicted + refused >= 256 - 64,
        "{evicted} evicted and {refused} refused of 256: do they collide?"
    );
    assert!(is_alive(&mut rig, 40_000, public));
    let mut refused = 0;
    for port in 0..200 {
        let syn = segment4(OTHER_ADDR, SERVER, (50_000 + port, 80), SYN, 100, 0);
        refused += u32::from(one(&mut rig, OTHER, from_other(&syn)).is_err());
    }
    // One of the 64 lines is full.
    assert!(refused <= 20, "{refused} of 200");
}

/// RFC 4787 REQ-12, RFC 5382 REQ-10, RFC 5508 REQ-6.
#[test]
fn icmp_errors_change_nothing_and_refresh_nothing() {
    let mut rig = rig();
    let query = from_pod(&ip4(POD_ADDR, SERVER).udp(5000, 53, b"query"));
    let (_, query) = one(&mut rig, POD, query).expect("it leaves");
    let public = establish(&mut rig, 40_000);
    let ack = segment4(NODE, SERVER, (public, 80), ACK, 101, 201);
    let before = remembered(&rig);
    rig.pass(Duration::from_secs(15));
    for _ in 0..5 {
        for (kind, code) in [(3, 1), (3, 3), (3, 4), (11, 0), (12, 0), (4, 0)] {
            for quoted in [&query[14..], &ack] {
                let error = ip4("203.0.113.1", NODE).icmp(kind, code, 1400, quoted);
                assert!(one(&mut rig, UPLINK, from_outside(&error)).is_ok());
            }
        }
        assert_eq!(remembered(&rig), before, "it shows");
    }
    // The query's time is over though there were errors all through it.
    rig.pass(Duration::from_secs(3));
    assert!(is_alive(&mut rig, 40_000, public));
    assert_eq!(rig.connections().v4.len(), 1);
}

/// RFC 5961 section 3 and "insertion" (Ptacek, Newsham 1998): what the endpoint never sees, or refuses, closes nothing.
#[test]
fn resets_that_the_endpoint_does_not_take_change_no_state() {
    let mut rig = rig();
    let public = establish(&mut rig, 40_000);
    let before = |rig: &Rig| {
        remembered(rig)
            .iter()
            .map(|(key, dir, ..)| (*key, *dir))
            .collect::<Vec<_>>()
    };
    let state = before(&rig);
    let ports = (80, public);
    let short_lived = |flags| {
        let segment = build::segment(ports, flags, 201, 101, &[]);
        ip4(SERVER, NODE).ttl(1).sealed(6, segment, 16)
    };
    // They end here, and the pod never hears of them.
    for flags in [RST, FIN_ACK, RST | ACK] {
        let outcome = one(&mut rig, UPLINK, from_outside(&short_lived(flags)));
        assert_eq!(outcome.map(|_| ()), Err(DropReason::TtlExpired));
        assert_eq!(before(&rig), state, "flags {flags:#x}");
    }
    // Out of the window: the pod answers with a challenge, if at all.
    for seq in [201 + 0x4000_0000, 0x8000_0000, 150] {
        let reset = segment4(SERVER, NODE, ports, RST, seq, 0);
        assert!(one(&mut rig, UPLINK, from_outside(&reset)).is_ok());
        assert_eq!(before(&rig), state, "number {seq}");
    }
    // A wrong checksum: the pod throws it away.
    let mut reset = segment4(SERVER, NODE, ports, RST, 201, 0);
    reset[36] ^= 0x55;
    let outcome = rig.run(UPLINK, &[from_outside(&reset)]);
    assert!(matches!(
        outcome.fates[0],
        Fate::Transmit(_) | Fate::Drop(_)
    ));
    assert_eq!(before(&rig), state, "a wrong checksum");
    assert!(is_alive(&mut rig, 40_000, public));
    // The same right does close it.
    let reset = segment4(SERVER, NODE, ports, RST, 201, 0);
    assert!(one(&mut rig, UPLINK, from_outside(&reset)).is_ok());
    assert_ne!(before(&rig), state, "else this test is none");
}

/// Calico issue 12244: a masqueraded datagram from the port of VXLAN, whose answer is taken for a tunnel's.
#[test]
fn no_datagram_of_200_000_leaves_from_the_port_of_vxlan() {
    let room = Capacity::new(1 << 15).expect("a power of two");
    let mut rig = Rig::new(tables(4700..=4899)).with_room_for(room);
    let mut left = 0;
    while left < 200_000 {
        let share = rig.connections().v4.quota.limits().share as usize;
        for number in 0..share / 64 {
            let frames: Vec<_> = (0..64)
                .map(|at| {
                    let to = format!("198.51.{}.{}", number & 0xff, at + 1);
                    from_pod(&ip4(POD_ADDR, &to).udp(5000, 53, b"query"))
                })
                .collect();
            let outcome = rig.run_now(POD, &frames);
            for frame in &outcome.sent[usize::from(UPLINK.0)] {
                assert_ne!(frame[34..36], [0x12, 0xb5], "4789");
                left += 1;
            }
        }
        // Until they are over, and the next ones draw anew.
        rig.pass(Duration::from_secs(35));
        assert!(rig.connections().v4.is_empty());
    }
}

/// OVS CVE-2023-1668: protocol 0 made an entry for all protocols.
#[test]
fn a_packet_of_protocol_0_opens_no_door_for_others() {
    let mut rig = rig();
    let strange = from_pod(&ip4(POD_ADDR, OTHER_ADDR).packet(0, &counted(40)));
    one(&mut rig, POD, strange).expect("by its addresses");
    let reset = from_pod(&ip4(POD_ADDR, OTHER_ADDR).tcp(0, 0, RST, &[]));
    assert_eq!(one(&mut rig, POD, reset), Err(DropReason::CtInvalid));
    let ping = ip4(OTHER_ADDR, POD_ADDR).icmp(0, 0, 0, b"an answer");
    assert_eq!(
        one(&mut rig, OTHER, from_other(&ping)),
        Err(DropReason::CtInvalid)
    );
}

/// CVE-2021-3773 (port shadow): what comes from outside to a port of the node takes no port from a pod.
#[test]
fn packets_from_outside_block_no_port() {
    let mut rig = Rig::new(tables(2000..=2000)).with_connections();
    for flags in [SYN, SYN_ACK, ACK] {
        let shadow = ip4(SERVER, NODE).tcp(80, 2000, flags, &[]);
        let to = one(&mut rig, UPLINK, from_outside(&shadow)).map(|(to, _)| to);
        assert_eq!(to, Ok(HOST));
    }
    let public = establish(&mut rig, 40_000);
    assert_eq!(public, 2000);
}

/// How many of `count` queries of a pod to one port of the server come through, the others refused for its share.
fn through(rig: &mut Rig, (pod, mac, from): (PortId, Mac, &str), to: u16, count: u16) -> usize {
    let mut through = 0;
    for first in (0..count).step_by(64) {
        let frames = first..count.min(first + 64);
        let frames: Vec<_> = frames
            .map(|n| {
                let query = ip4(from, SERVER).udp(5000 + n, to, b"query");
                build::ethernet(GATEWAY_MAC, mac, &query)
            })
            .collect();
        for fate in rig.run_now(pod, &frames).fates {
            match fate {
                Fate::Transmit(_) => through += 1,
                fate => assert_eq!(fate, Fate::Drop(DropReason::NatPortsQuota)),
            }
        }
    }
    through
}

/// Requirement S15: one pod leaves ports of each destination for the others.
#[test]
fn one_pod_can_not_take_all_ports_of_a_destination() {
    let pod = (POD, POD_MAC, POD_ADDR);
    let other = (OTHER, OTHER_MAC, OTHER_ADDR);
    let entries = Capacity::new(1 << 14).expect("a power of two");
    // 4096, without the port of VXLAN.
    let mut rig = Rig::new(tables(2000..=2000 + 4096)).with_room_for(entries);
    // Three quarters.
    assert_eq!(through(&mut rig, pod, 53, 3400), 3072);
    assert_eq!(through(&mut rig, other, 53, 500), 500);
    // Elsewhere it may go, within its share of the table.
    assert_eq!(through(&mut rig, pod, 54, 400), 400);
    // What is over does not count.
    rig.pass(Duration::from_mins(10));
    assert!(rig.connections().v4.is_empty());
    assert_eq!(through(&mut rig, pod, 53, 3400), 3072);
    assert_eq!(through(&mut rig, other, 53, 500), 500);
}

/// Who may not speak to a pod, or through the node, does not do so by ICMP errors: a pod tells of its own connections only. All
/// that it would have to guess of others' is a port.
#[test]
fn a_pod_tells_nothing_of_the_connections_of_others() {
    let mut rig = rig();
    let query = ip4(POD_ADDR, OTHER_ADDR).udp(5000, 53, b"query");
    one(&mut rig, POD, from_pod(&query)).expect("local");
    let abroad = ip4(POD_ADDR, SERVER).udp(5000, 53, b"query");
    let (_, outside) = one(&mut rig, POD, from_pod(&abroad)).expect("it leaves");
    let ours = |id| ip4(OTHER_ADDR, SERVER).udp(id, 53, b"query");
    let (_, own) = one(&mut rig, OTHER, from_other(&ours(6000))).expect("it leaves");
    let public = seen(&outside).ports.0;
    let answer = ip4(SERVER, NODE).udp(53, public, b"answer");
    let before = remembered(&rig);
    for (kind, code, mtu) in [(3, 3, 0), (3, 4, 1400), (11, 0, 0), (12, 0, 0)] {
        // To the pod about what it sent, by its own address and by the node's; to the server about its answer.
        for (to, about) in [
            (POD_ADDR, &abroad),
            (NODE, &outside[14..].to_vec()),
            (SERVER, &ip4(SERVER, POD_ADDR).udp(53, 5000, b"answer")),
            (SERVER, &answer),
        ] {
            let error = ip4(OTHER_ADDR, to).icmp(kind, code, mtu, about);
            let told = one(&mut rig, OTHER, from_other(&error)).map(|_| ());
            assert_eq!(told, Err(DropReason::IcmpUnrelated), "{to} {kind}");
        }
        // Of what was sent to it, it may.
        let error = ip4(OTHER_ADDR, POD_ADDR).icmp(kind, code, mtu, &query);
        let (to, _) = one(&mut rig, OTHER, from_other(&error)).expect("its own");
        assert_eq!(to, POD);
        let came = ip4(SERVER, OTHER_ADDR).udp(53, 6000, b"answer");
        let error = ip4(OTHER_ADDR, SERVER).icmp(kind, code, mtu, &came);
        let (to, frame) = one(&mut rig, OTHER, from_other(&error)).expect("its own");
        assert_eq!((to, seen(&frame).src), (UPLINK, seen(&own).src));
    }
    assert_eq!(remembered(&rig), before);
}

/// FelixConfiguration `workloadSourceSpoofing`: who may send in another pod's name leaves its share as it is.
#[test]
fn who_sends_in_another_pods_name_does_not_use_up_its_share() {
    let mut tables = tables(1024..=65_535);
    if let Some(Some(port)) = tables.ports.get_mut(usize::from(OTHER.0))
        && let PortKind::Pod(pod) = &mut port.kind
    {
        pod.allowed4 = vec![(v4(POD_ADDR).into(), u32::MAX)];
    }
    let mut rig = Rig::new(tables).with_connections();
    for port in 5000..5020 {
        let query = ip4(POD_ADDR, SERVER).udp(port, 53, b"query");
        let (_, own) = one(&mut rig, POD, from_pod(&query)).expect("it leaves");
        let (_, in_its_name) = one(&mut rig, OTHER, from_other(&query)).expect("it may");
        assert_eq!(seen(&own), seen(&in_its_name));
    }
    let count = |rig: &Rig| [POD, OTHER].map(|port| rig.connections().v4.quota.count(port.0));
    assert_eq!(count(&rig), [20, 0]);
    rig.pass(Duration::from_mins(1));
    assert_eq!(count(&rig), [0, 0]);
}

/// A pod's search for free ports holds up no other: who searches in vain has less to search with.
#[test]
fn a_batch_that_finds_no_port_does_not_search_for_long() {
    let mut rig = Rig::new(tables(2000..=2099)).with_connections();
    let query = |port: u16, to: u16| from_pod(&ip4(POD_ADDR, SERVER).udp(port, to, b"query"));
    // One destination without a free port, and one with one.
    for (to, taken) in [(53, 100), (54, 99)] {
        for port in 5000..5000 + taken {
            assert!(one(&mut rig, POD, query(port, to)).is_ok(), "{port} {to}");
        }
    }
    let mut batch: Vec<_> = (0..63).map(|n| query(6000 + n, 53)).collect();
    batch.push(query(6000, 54));
    let fates = rig.run_now(POD, &batch).fates;
    let none = Fate::Drop(DropReason::NatPortsExhausted);
    assert!(fates.iter().all(|fate| *fate == none), "{fates:?}");
    // In another batch it finds it.
    assert!(one(&mut rig, POD, query(6000, 54)).is_ok());
    assert_eq!(
        one(&mut rig, POD, query(6001, 54)),
        Err(DropReason::NatPortsExhausted)
    );
}
