//! Fragments of connections: by the ports of their first, whatever order they come in.

use std::time::Duration;

use fastpath::batch::Fate;
use fastpath::port::PortId;
use fastpath::reason::DropReason;
use pcap_tests::build::{counted, ip4, udp};
use pcap_tests::rig::Rig;

use crate::node::*;
use crate::services::{VIP, from_other, rig_with};

/// A UDP datagram of 3,000 bytes in three fragments.
pub(crate) fn fragments(src: &str, dst: &str, ports: (u16, u16)) -> Vec<Vec<u8>> {
    let whole = ip4(src, dst).sealed(17, udp(ports.0, ports.1, &counted(3000)), 6);
    let datagram = &whole[20..];
    let one = |from: usize, to: usize| {
        let more = u16::from(to < datagram.len()) << 13;
        let word = more | (from / 8) as u16;
        ip4(src, dst)
            .id(77)
            .fragment(word)
            .packet(17, &datagram[from..to])
    };
    vec![one(0, 1200), one(1200, 2400), one(2400, datagram.len())]
}

fn sent(rig: &mut Rig, port: PortId, frames: &[Vec<u8>]) -> Vec<(PortId, Vec<u8>)> {
    let outcome = rig.run(port, frames);
    outcome
        .all()
        .map(|(port, frame)| (port, frame.clone()))
        .collect()
}

#[test]
fn fragments_leave_translated_and_come_back_in_any_order() {
    let mut rig = rig();
    let frames: Vec<_> = fragments(POD_ADDR, SERVER, (5000, 53))
        .iter()
        .map(|it| from_pod(it))
        .collect();
    let out = sent(&mut rig, POD, &frames);
    assert_eq!(out.len(), 3);
    for (port, frame) in &out {
        assert_eq!(*port, UPLINK);
        assert_eq!(frame[26..30], [172, 18, 0, 2], "the node's address on each");
    }
    let port = u16::from_be_bytes([out[0].1[34], out[0].1[35]]);
    // Back with the first one last.
    let mut back: Vec<_> = fragments(SERVER, NODE, (53, port))
        .iter()
        .map(|it| from_outside(it))
        .collect();
    back.rotate_left(1);
    let outcome = rig.run(UPLINK, &back);
    assert_eq!(outcome.fates[..2], [Fate::Held, Fate::Held]);
    let got: Vec<_> = outcome.all().collect();
    assert_eq!(got.len(), 3, "{:?}", outcome.fates);
    assert!(
        got.iter()
            .all(|(port, frame)| *port == POD && frame[30..34] == [10, 65, 0, 2])
    );
    let first = got[0].1;
    assert_eq!(
        u16::from_be_bytes([first[36], first[37]]),
        5000,
        "the first one first"
    );
    assert_eq!(rig.connections().v4.len(), 1);
}

#[test]
fn a_later_fragment_without_its_first_goes_nowhere() {
    let mut rig = rig();
    let frames = [from_pod(&fragments(POD_ADDR, SERVER, (5000, 53))[1])];
    let outcome = rig.run_without_waiting(POD, &frames);
    assert_eq!(outcome.fates, [Fate::Held]);
    assert_eq!(rig.held(), 1);
    rig.pass(Duration::from_secs(5));
    assert_eq!(rig.held(), 0);
    let drops = rig.counters().drops(POD, DropReason::FragmentNoFirst);
    assert_eq!(drops.map(fastpath::counters::Counter::get), Some(1));
}

#[test]
fn what_overtook_its_first_on_the_way_to_the_host_gets_there() {
    let mut rig = rig();
    let frames = [from_outside(&fragments(SERVER, NODE, (53, 40_000))[1])];
    rig.run_without_waiting(UPLINK, &frames);
    rig.pass(Duration::from_secs(5));
    assert_eq!(
        rig.counters().port(HOST).map(|port| port.tx_packets.get()),
        Some(1)
    );
}

#[test]
fn overlapping_fragments_are_dropped() {
    let mut rig = rig();
    let mut frames: Vec<_> = fragments(POD_ADDR, OTHER_ADDR, (5000, 53))
        .iter()
        .map(|it| from_pod(it))
        .collect();
    let overlap = ip4(POD_ADDR, OTHER_ADDR)
        .id(77)
        .fragment(0x2000 | 0x95)
        .packet(17, &counted(1200));
    frames.insert(1, from_pod(&overlap));
    let outcome = rig.run(POD, &frames);
    assert!(matches!(outcome.fates[0], Fate::Transmit(_)));
    assert!(
        outcome.fates[1..]
            .iter()
            .all(|fate| *fate == Fate::Drop(DropReason::FragmentOverlap)),
        "{:?}",
        outcome.fates
    );
}

/// A long ping, or its answer, in two fragments. The second begins with this byte, as if it were an ICMP message's type.
fn ping(src: &str, dst: &str, kind: u8, id: u16, byte: u8) -> Vec<Vec<u8>> {
    let data = vec![byte; 1000];
    let whole = ip4(src, dst).icmp(kind, 0, u32::from(id) << 16, &data);
    let message = &whole[20..];
    let ip = |word| ip4(src, dst).id(78).fragment(word);
    vec![
        ip(0x2000).packet(1, &message[..504]),
        ip(504 / 8).packet(1, &message[504..]),
    ]
}

#[test]
fn what_later_fragments_of_a_ping_begin_with_is_no_type() {
    for byte in [0, 8, 3, 0xff] {
        let mut rig = rig();
        let there: Vec<_> = ping(POD_ADDR, SERVER, 8, 7, byte);
        let there: Vec<_> = there.iter().map(|it| from_pod(it)).collect();
        let out = sent(&mut rig, POD, &there);
        assert_eq!(out.len(), 2, "{byte}");
        let id = u16::from_be_bytes([out[0].1[38], out[0].1[39]]);
        let back: Vec<_> = ping(SERVER, NODE, 0, id, byte);
        let back: Vec<_> = back.iter().map(|it| from_outside(it)).collect();
        let out = sent(&mut rig, UPLINK, &back);
        assert_eq!(out.len(), 2, "{byte}");
        let to_pod =
            |(port, frame): &(PortId, Vec<u8>)| *port == POD && frame[30..34] == [10, 65, 0, 2];
        assert!(out.iter().all(to_pod), "{byte}: {out:x?}");
    }
}

#[test]
fn what_waited_for_a_first_fragment_is_checked_for_its_source() {
    let mut rig = rig();
    let query = from_pod(&ip4(POD_ADDR, OTHER_ADDR).udp(5000, 53, b"query"));
    one(&mut rig, POD, query).expect("local");
    // From outside, in the pod's name: a later fragment, its first, then a whole datagram.
    let pieces = fragments(POD_ADDR, OTHER_ADDR, (5000, 53));
    let spoofed = [
        pieces[1].clone(),
        pieces[0].clone(),
        ip4(POD_ADDR, OTHER_ADDR).udp(5000, 53, b"mine"),
    ];
    for packet in spoofed {
        let outcome = rig.run_without_waiting(UPLINK, &[from_outside(&packet)]);
        assert_eq!(outcome.all().count(), 0, "{:?}", outcome.fates);
    }
    assert_eq!(rig.held(), 0);
    let drops = rig.counters().drops(UPLINK, DropReason::SourceMisplaced);
    assert_eq!(drops.map(fastpath::counters::Counter::get), Some(3));
    // The connection is the pod's still, and counted as its own.
    let query = from_pod(&ip4(POD_ADDR, OTHER_ADDR).udp(5000, 53, b"query"));
    one(&mut rig, POD, query).expect("local");
    rig.pass(Duration::from_secs(200));
    assert_eq!(rig.connections().v4.quota.count(POD.0), 0);
}

#[test]
fn fragments_do_not_outlive_their_sender() {
    let mut rig = rig();
    // The pods came once.
    let mut tables = rig.tables().clone();
    tables.endpoints_since = tables.generation;
    rig.set_tables(tables);
    rig.pass(Duration::from_millis(100));
    let pieces = fragments(POD_ADDR, SERVER, (5000, 53));
    let outcome = rig.run_without_waiting(POD, &[from_pod(&pieces[1])]);
    assert_eq!((outcome.fates, rig.held()), (vec![Fate::Held], 1));
    // Another pod's port, before the first comes.
    let mut tables = rig.tables().clone();
    tables.generation += 1;
    tables.endpoints_since = tables.generation;
    if let Some(Some(port)) = tables.ports.get_mut(usize::from(POD.0)) {
        port.since = tables.generation;
    }
    rig.set_tables(tables);
    rig.pass(Duration::from_millis(100));
    assert_eq!(rig.held(), 0);
    let drops = rig.counters().drops(POD, DropReason::FlowEnded);
    assert_eq!(drops.map(fastpath::counters::Counter::get), Some(1));
}

/// All of them are looked up before there is a connection; those that came before their first wait.
#[test]
fn fragments_to_a_service_follow_their_first_and_come_back() {
    let wrapped = |all: Vec<Vec<u8>>, wrap: fn(&[u8]) -> Vec<u8>| -> Vec<_> {
        all.iter().map(|it| wrap(it)).collect()
    };
    for early in 0..3 {
        let mut rig = rig_with(&[(VIP, 17, 53, &[(OTHER_ADDR, 5353)])]);
        let mut there = wrapped(fragments(POD_ADDR, VIP, (5000, 53)), from_pod);
        there.rotate_right(early);
        let out = sent(&mut rig, POD, &there);
        assert_eq!(out.len(), 3, "{early} came before their first");
        for (to, frame) in &out {
            assert_eq!((*to, &frame[30..34]), (OTHER, &[10, 65, 0, 3][..]));
        }
        let first = out.iter().find(|(_, it)| it[20..22] == [0x20, 0]);
        let (_, first) = first.expect("the first");
        assert_eq!(first[36..38], 5353_u16.to_be_bytes());
        assert_eq!(rig.counters().connections_made.get(), 1);
        let back = wrapped(fragments(OTHER_ADDR, POD_ADDR, (5353, 5000)), from_other);
        let out = sent(&mut rig, OTHER, &back);
        assert_eq!(out.len(), 3);
        for (to, frame) in &out {
            assert_eq!((*to, &frame[26..30]), (POD, &[10, 96, 0, 10][..]));
        }
        assert_eq!(out[0].1[34..36], 53_u16.to_be_bytes());
    }
}

#[test]
fn fragments_to_a_service_outside_leave_as_the_nodes() {
    let mut rig = rig_with(&[(VIP, 17, 53, &[(SERVER, 5353)])]);
    let there: Vec<_> = fragments(POD_ADDR, VIP, (5000, 53))
        .iter()
        .map(|it| from_pod(it))
        .collect();
    let out = sent(&mut rig, POD, &there);
    assert_eq!(out.len(), 3);
    for (to, frame) in &out {
        let ends = [v4(NODE).octets(), v4(SERVER).octets()].concat();
        assert_eq!((*to, &frame[26..34]), (UPLINK, &ends[..]));
    }
}

/// The first says so for all.
#[test]
fn fragments_of_a_refused_datagram_are_told_once() {
    for behind in [&[(VIP, 17, 53, &[][..])][..], &[]] {
        let mut rig = rig_with(behind);
        let there: Vec<_> = fragments(POD_ADDR, VIP, (5000, 53))
            .iter()
            .map(|it| from_pod(it))
            .collect();
        let outcome = rig.run(POD, &there);
        let told: Vec<_> = outcome.all().map(|(to, it)| (to, it[34])).collect();
        assert_eq!(told, [(POD, 3)], "{:?}", outcome.fates);
    }
}
