//! Counts of many flows, read together: as if each had been asked for alone.

use std::collections::{BTreeMap, BTreeSet};

use control::offload::fake::Together;
use control::offload::{Action, Counts};

use super::*;

/// A node whose kernel tells of its flows so, from so many on.
fn node(together: Together, walk_from: usize) -> Offloaded {
    let entries = Capacity::new(4096).expect("a power of two");
    let kernel = Fake::default();
    kernel.tell_together(together);
    WALK_FROM.set(walk_from);
    let node = Offloaded::with_room_for(entries, rig(), kernel, 4096);
    WALK_FROM.set(usize::MAX);
    node
}

/// A datagram of the first pod to one outside.
fn datagram(is_v6: bool, port: u16) -> Vec<u8> {
    from_pod(&if is_v6 {
        ip6(POD6, SERVER6).udp(port, 53, &[7; 30])
    } else {
        ip4(POD_ADDR, SERVER).udp(port, 53, &[7; 30])
    })
}

const FIRST: u16 = 20_000;

/// So many datagrams of either family, each of a flow of its own, which the kernel has.
fn many(node: &mut Offloaded, count: u16) {
    for port in FIRST..FIRST + count {
        let frames = [false, true].map(|is_v6| datagram(is_v6, port));
        node.rig.run_now(POD, &frames);
    }
    node.offer_all();
    assert_eq!(node.kernel.flows().len(), 2 * usize::from(count));
}

/// Has the kernel carry something of every flow, of each another number of packets. What that is by family and port.
fn carry(node: &Offloaded) -> BTreeMap<(bool, u16), u64> {
    let flows = node.kernel.flows();
    let carried = flows.iter().zip(1..).map(|((key, ..), packets)| {
        node.kernel.carry(key, packets, 100 * packets, None);
        ((key.src.0.is_ipv6(), key.src.1), packets)
    });
    carried.collect()
}

/// The packets of each connection, by family and port.
fn packets(node: &Offloaded) -> BTreeMap<(bool, u16), u64> {
    let all = node.connections().into_iter();
    all.map(|it| ((it.src.is_ipv6(), it.sport), it.original.packets))
        .collect()
}

fn read(node: &mut Offloaded) {
    node.worker.read_soon();
    node.work();
}

/// What each has after that, when a poller saw one packet of it.
fn and_one(carried: BTreeMap<(bool, u16), u64>) -> BTreeMap<(bool, u16), u64> {
    carried
        .into_iter()
        .map(|(flow, packets)| (flow, packets + 1))
        .collect()
}

#[test]
fn many_are_read_together_and_few_one_by_one() {
    // Twenty of each family.
    for (walk_from, alone) in [(0, 0), (20, 0), (21, 40), (usize::MAX, 40)] {
        let mut node = node(Together::All, walk_from);
        many(&mut node, 20);
        let carried = carry(&node);
        let before = node.kernel.read_alone();
        read(&mut node);
        assert_eq!(node.kernel.read_alone() - before, alone, "{walk_from}");
        assert_eq!(packets(&node), and_one(carried));
        // And nothing twice.
        let all = packets(&node);
        read(&mut node);
        assert_eq!(packets(&node), all);
        let frames = node.counters.rx.get();
        assert_eq!(frames, all.values().sum::<u64>() - 40);
    }
}

#[test]
fn whom_reading_together_misses_is_asked_for_alone_and_lost_is_only_who_is_gone() {
    for together in [Together::All, Together::Half, Together::Refused] {
        let mut node = node(together, 0);
        many(&mut node, 30);
        let carried = carry(&node);
        let before = node.kernel.read_alone();
        read(&mut node);
        let alone = node.kernel.read_alone() - before;
        match together {
            Together::All => assert_eq!(alone, 0),
            Together::Half => assert!((1..60).contains(&alone), "{alone}"),
            Together::Refused => assert_eq!(alone, 60),
        }
        assert_eq!(packets(&node), and_one(carried));
        assert_eq!(node.stats.removed(Removed::Lost), 0);
        let (key, ..) = node.kernel.flows()[7];
        node.kernel.lose(&key);
        read(&mut node);
        assert_eq!(node.stats.removed(Removed::Lost), 1);
        assert_eq!(node.kernel.flows().len(), 59);
        let now = [Family::V4, Family::V6].map(|family| node.stats.now(family));
        assert_eq!(now.iter().sum::<u64>(), 59);
    }
}

#[test]
fn what_nobody_sends_is_given_back_and_what_is_removed_too_though_all_are_read_together() {
    let mut node = node(Together::All, 0);
    many(&mut node, 10);
    let goes = FIRST + 3;
    remove(&node, (true, goes));
    // It is not said that something was removed: the next pass finds it.
    read(&mut node);
    assert_eq!(node.stats.removed(Removed::Gone), 1);
    assert_eq!(node.kernel.flows().len(), 19);
    // All but one send.
    for _ in 0..4 {
        node.rig
            .pass_roughly(Duration::from_secs(10), Duration::from_secs(2));
        for (key, ..) in node.kernel.flows() {
            if key.src.1 != FIRST + 5 {
                node.kernel.carry(&key, 1, 100, None);
            }
        }
        node.work();
    }
    assert_eq!(node.stats.removed(Removed::Idle), 2);
    assert_eq!(node.kernel.flows().len(), 17);
}

#[test]
fn what_comes_to_pollers_though_the_kernel_has_it_is_counted_up_to_then() {
    for walk_from in [0, usize::MAX] {
        let mut node = node(Together::All, walk_from);
        many(&mut node, 3);
        read(&mut node);
        let carried = carry(&node);
        // The next pass is a while off.
        offer(&node, (false, FIRST));
        node.worker.step(node.rig.now());
        let now = packets(&node);
        assert_eq!(now[&(false, FIRST)], 1 + carried[&(false, FIRST)]);
        assert_eq!(now[&(false, FIRST + 1)], 1);
        assert_eq!(node.kernel.flows().len(), 6);
        read(&mut node);
        assert_eq!(packets(&node), and_one(carried));
    }
}

/// Offers the connections of this family and port.
fn offer(node: &Offloaded, (is_v6, port): (bool, u16)) {
    let connections = node.rig.connections();
    let lines = 0..connections.lines();
    connections.visit(lines, &Timeouts::DEFAULT, node.rig.now(), |it, flow| {
        if (it.src.is_ipv6(), it.sport) == (is_v6, port) {
            let family = if is_v6 { Family::V6 } else { Family::V4 };
            let why = Why::UnderWay;
            let _ = node.ring.push(Candidate { family, flow, why });
        }
    });
}

/// Removes them.
fn remove(node: &Offloaded, (is_v6, port): (bool, u16)) {
    let connections = node.rig.connections();
    let rules = node.rig.tables().policies.counters.clone();
    let lines = 0..connections.lines();
    connections.visit(lines, &Timeouts::DEFAULT, node.rig.now(), |it, flow| {
        if (it.src.is_ipv6(), it.sport) == (is_v6, port) {
            connections.remove(it, flow, &rules);
        }
    });
}

/// The kernel's flow of this port.
fn flow_of(node: &Offloaded, port: u16) -> Option<(Key, Action, Counts)> {
    let mut flows = node.kernel.flows().into_iter();
    flows.find(|(key, ..)| key.src.1 == port)
}

/// What happens between two steps of the worker.
#[derive(Clone, Copy, Debug)]
enum Happens {
    /// A poller passes a packet of this flow, and offers it.
    Offered(u16),
    /// The kernel carries so many packets of it.
    Carried(u16, u8),
    /// It is removed, and the worker is told or not.
    Removed(u16, bool),
    /// All are to be read.
    Read,
    Nothing,
}

fn happens() -> impl Strategy<Value = Happens> {
    let port = || FIRST..FIRST + 12;
    prop_oneof![
        4 => port().prop_map(Happens::Offered),
        8 => (port(), 1_u8..9).prop_map(|(port, packets)| Happens::Carried(port, packets)),
        2 => (port(), any::<bool>()).prop_map(|(port, told)| Happens::Removed(port, told)),
        2 => Just(Happens::Read),
        4 => Just(Happens::Nothing),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    /// Flows that come, go and come again in the places of others while they are read: each packet is counted once, and by its own connection.
    #[test]
    fn each_packet_is_counted_once_whatever_happens_while_flows_are_read(
        all in prop::collection::vec(happens(), 1..200),
        way in prop::sample::select(vec![Together::All, Together::Half, Together::Refused]),
        walk_from in prop::sample::select(vec![0, 4, usize::MAX]),
    ) {
        let mut node = node(way, walk_from);
        let mut expected = BTreeMap::<u16, u64>::new();
        // Those that the kernel has of a connection that is gone: they carry for nobody.
        let mut stale = BTreeSet::new();
        let mut carried = 0;
        for it in all {
            match it {
                Happens::Offered(port) => {
                    node.rig.run_now(POD, &[datagram(false, port)]);
                    *expected.entry(port).or_default() += 1;
                    offer(&node, (false, port));
                }
                Happens::Carried(port, packets) => {
                    if let Some((key, ..)) = flow_of(&node, port).filter(|_| !stale.contains(&port)) {
                        let packets = u64::from(packets);
                        node.kernel.carry(&key, packets, 100 * packets, None);
                        *expected.entry(port).or_default() += packets;
                        carried += packets;
                    }
                }
                Happens::Removed(port, told) => {
                    remove(&node, (false, port));
                    expected.remove(&port);
                    if let Some((key, ..)) = flow_of(&node, port) {
                        // By this it is known from the next one, which begins anew.
                        node.kernel.carry(&key, 1, 100, None);
                        carried += 1;
                        stale.insert(port);
                    }
                    if told {
                        node.orders.flush();
                    }
                }
                Happens::Read => node.worker.read_soon(),
                Happens::Nothing => {}
            }
            node.worker.step(node.rig.now());
            stale.retain(|port| flow_of(&node, *port).is_some_and(|(.., counts)| counts.packets > 0));
        }
        node.worker.clear(node.rig.now());
        prop_assert_eq!(node.counters.rx.get(), carried);
        prop_assert!(node.kernel.flows().is_empty());
        let found: BTreeMap<_, _> = packets(&node).into_iter().map(|((_, port), packets)| (port, packets)).collect();
        prop_assert_eq!(found, expected);
    }
}

/// What one direction acknowledges is held against what the other sent: if they were read at different moments that may be far apart.
#[test]
fn both_directions_of_tcp_are_told_as_they_are_then_and_not_as_they_were_read() {
    WALK_FROM.set(0);
    let mut node = established();
    WALK_FROM.set(usize::MAX);
    let [there, back] = [POD, OTHER].map(|port| node.key_from(port));
    node.kernel.carry(&there, 10, 1000, None);
    node.worker.read_soon();
    let now = node.rig.now();
    assert_eq!(node.worker.step(now), Next::Now, "they were read");
    node.kernel.carry(&there, 100, 10_000, None);
    node.kernel.carry(&back, 50, 2000, None);
    node.work();
    let it = only(&node);
    // Two of either were seen by pollers.
    assert_eq!((it.original.packets, it.reply.packets), (112, 52));
    let alone = node.kernel.read_alone();
    node.worker.read_soon();
    node.work();
    assert_eq!(node.kernel.read_alone(), alone, "nothing came");
}
