//! Connections that the kernel repeats: with a kernel in memory, what leaves is what the pipeline would have sent, and the flow table ends as
//! if it had seen every packet.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use control::offload::fake::{Ends, Fake};
use control::offload::{Devices, Key, Next, Orders, Parts, Refused, Removed, Seen, Stats, Worker};
use crossbeam_queue::ArrayQueue;
use fastpath::batch::{Family, Fate};
use fastpath::connections::Connection;
use fastpath::counters::Counters;
use fastpath::offload::{Candidate, NotOffered, Why};
use fastpath::port::PortId;
use fastpath::snapshot::Publisher;
use fastpath::tables::Tables;
use flowtable::conn::{Flags, Segment, State, Timeouts};
use flowtable::flow::Capacity;
use pcap_tests::build::{self, ip4, ip6};
use pcap_tests::rig::Rig;
use proptest::prelude::*;

use crate::node::*;
use crate::policy::{ACK, SYN, SYN_ACK};
use crate::same::{Cached, Node, Result, bytes, compare, rig, room};
use crate::schedule::{Behind, Change, Plan, first_tables};
use crate::services::{VIP, VIP6};
use crate::traffic::Traffic;

const FIN_ACK: u8 = 0x11;
const RST: u8 = 0x04;

thread_local! {
    /// From how many flows of a family on they are read together, by the nodes that a test makes from now on.
    static WALK_FROM: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Does the test with a kernel whose flows are always read together.
fn read_together(test: fn()) {
    WALK_FROM.set(0);
    test();
    WALK_FROM.set(usize::MAX);
}

/// These tests, which read flows one by one, with flows that are read together, too.
macro_rules! also_together {
    ($($test:ident),* $(,)?) => {
        mod together {
            $(
                #[test]
                fn $test() {
                    crate::offload::read_together(super::$test);
                }
            )*
        }
    };
}

mod closing;
mod keeping;
mod reading;

also_together![
    every_kind_of_way_is_repeated_byte_for_byte,
    tunnels_are_entered_and_left_as_by_pollers,
    what_the_kernel_does_is_what_pollers_would,
];

/// A node whose established flows are the kernel's.
struct Offloaded {
    rig: Rig,
    kernel: Fake,
    worker: Worker<Fake>,
    publisher: Publisher<Tables>,
    published: u64,
    ring: Arc<ArrayQueue<Candidate>>,
    orders: Orders,
    stats: Arc<Stats>,
    counters: Arc<Counters>,
}

impl Offloaded {
    fn new(rig: Rig, kernel: Fake, max_flows: usize) -> Self {
        Self::with_room_for(room(), rig, kernel, max_flows)
    }

    fn with_room_for(entries: Capacity, rig: Rig, kernel: Fake, max_flows: usize) -> Self {
        let mut publisher = Publisher::new(rig.tables().clone());
        let ring = Arc::new(ArrayQueue::new(4096));
        let rig = rig.with_offers(entries, &ring);
        let (orders, stats) = (Orders::default(), Arc::new(Stats::default()));
        let counters = Arc::new(Counters::new(4));
        let devices = [UPLINK, POD, OTHER].map(|port| (port, device_of(port)));
        orders.set_devices(Devices(devices.into_iter().collect()));
        let parts = Parts {
            connections: Arc::clone(rig.connections()),
            tables: publisher.subscribe(),
            offers: Arc::clone(&ring),
            orders: orders.clone(),
            counters: Arc::clone(&counters),
            stats: Arc::clone(&stats),
            max_flows: [max_flows; 2],
            walk_from: [WALK_FROM.get(); 2],
        };
        Self {
            published: rig.tables().generation,
            worker: Worker::new(kernel.clone(), parts),
            rig,
            kernel,
            publisher,
            ring,
            orders,
            stats,
            counters,
        }
    }

    /// Publishes the tables in force, and lets the worker do what there is to do.
    fn work(&mut self) {
        let generation = self.rig.tables().generation;
        if generation != self.published {
            self.published = generation;
            self.publisher.publish(self.rig.tables().clone());
        }
        while self.worker.step(self.rig.now()) == Next::Now {}
    }

    /// Offers every entry, and has all counts read.
    fn offer_all(&mut self) {
        self.work();
        let connections = Arc::clone(self.rig.connections());
        let mut all = Vec::new();
        let timeouts = Timeouts::DEFAULT;
        connections.visit(
            0..connections.lines(),
            &timeouts,
            self.rig.now(),
            |it, flow| {
                let (family, partner) = if it.src.is_ipv4() {
                    (Family::V4, connections.v4.table.partner(flow))
                } else {
                    (Family::V6, connections.v6.table.partner(flow))
                };
                all.extend(
                    [Some(flow), partner]
                        .into_iter()
                        .flatten()
                        .map(|flow| (family, flow)),
                );
            },
        );
        for (family, flow) in all {
            let why = Why::UnderWay;
            let _ = self.ring.push(Candidate { family, flow, why });
        }
        self.worker.read_soon();
        self.work();
    }

    /// Lets the kernel treat a frame, if it does.
    fn by_kernel(&self, port: PortId, frame: &[u8]) -> Option<(PortId, Vec<u8>)> {
        let tables = self.rig.tables();
        let own = tables.port(port)?.mac.0;
        let ends = Ends {
            local: v4(NODE),
            vxlan: tables
                .tunnels
                .vxlan4
                .map(|end| (tables.tunnels.vxlan_port, end.vni, end.mac)),
            ipip: tables.tunnels.ipip,
        };
        let ends = Some(&ends).filter(|_| port == UPLINK);
        // What is not for the device itself is not looked up.
        if frame.get(..6)? != own || port == HOST {
            return None;
        }
        let (out, sent) = self.kernel.receive(device_of(port), ends, frame)?;
        Some((port_of(out), sent))
    }

    fn connections(&self) -> Vec<Connection> {
        let connections = self.rig.connections();
        let mut all = Vec::new();
        let timeouts = Timeouts::DEFAULT;
        connections.visit(
            0..connections.lines(),
            &timeouts,
            self.rig.now(),
            |it, _| {
                all.push(*it);
            },
        );
        all
    }

    fn key_from(&self, port: PortId) -> Key {
        let from = control::offload::From::Device(device_of(port));
        let flows = self.kernel.flows();
        let mut keys = flows.iter().map(|(key, ..)| *key);
        keys.find(|key| key.from == from)
            .expect("it is the kernel's")
    }
}

const fn device_of(port: PortId) -> u32 {
    100 + port.0 as u32
}

fn port_of(device: u32) -> PortId {
    PortId((device - 100) as u16)
}

impl Node for Offloaded {
    fn packets(&mut self, port: PortId, frames: &[Vec<u8>]) -> Result {
        self.work();
        let mut fates = vec![Fate::Undecided; frames.len()];
        let mut sent = vec![Vec::new(); 4];
        let mut rest = Vec::new();
        for (at, frame) in frames.iter().enumerate() {
            match self.by_kernel(port, frame) {
                Some((out, frame)) => {
                    fates[at] = Fate::Transmit(out);
                    sent[usize::from(out.0)].push(frame);
                }
                None => rest.push((at, frame.clone())),
            }
        }
        if !rest.is_empty() {
            let (places, frames): (Vec<_>, Vec<_>) = rest.into_iter().unzip();
            let outcome = self.rig.run_now(port, &frames);
            for (at, fate) in places.into_iter().zip(outcome.fates) {
                fates[at] = fate;
            }
            for (all, sent) in sent.iter_mut().zip(outcome.sent) {
                all.extend(sent);
            }
        }
        self.offer_all();
        Result::new(fates, sent)
    }

    fn each(&mut self) -> Vec<&mut Rig> {
        vec![&mut self.rig]
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 200, ..ProptestConfig::default() })]

    /// Whatever comes, and whatever changes: it leaves as if there were pollers alone, and as many connections are left.
    #[test]
    fn what_the_kernel_does_is_what_pollers_would(bytes in bytes()) {
        let mut offloaded = Offloaded::new(rig(), Fake::default(), 4096);
        let outcome = compare(&mut Cached(rig()), &mut offloaded, Traffic::new(true), &bytes.0);
        prop_assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
    }
}

/// Two nodes to which the same happens: with pollers alone, and with the kernel.
struct Twin(Cached, Offloaded);

impl Twin {
    fn new(plan: &Plan) -> Self {
        let rig = || Rig::new(first_tables(plan)).with_room_for(room());
        Self(Cached(rig()), Offloaded::new(rig(), Fake::default(), 64))
    }

    /// Both get a frame, and send the same. Whether the kernel did.
    fn takes(&mut self, port: PortId, frame: &[u8]) -> bool {
        let before = self.1.kernel.executed();
        let frames = [frame.to_vec()];
        let (a, b) = (self.0.packets(port, &frames), self.1.packets(port, &frames));
        assert!(matches!(a.fates[..], [Fate::Transmit(_)]), "{:?}", a.fates);
        assert_eq!(a, b);
        self.1.kernel.executed() > before
    }

    /// What left last, as the answering side got it: the packet's ports and addresses.
    fn says(&mut self, port: PortId, frame: &[u8]) -> Seen4 {
        let outcome = self.0.0.run_now(port, &[frame.to_vec()]);
        let (_, sent) = outcome.all().next().expect("it was sent");
        let same = self.1.rig.run_now(port, &[frame.to_vec()]);
        assert_eq!(outcome.sent, same.sent);
        seen(sent)
    }
}

type Seen4 = crate::node::Seen;

#[test]
fn every_kind_of_way_is_repeated_byte_for_byte() {
    let outside = Plan {
        behind: Behind::Outside,
        ..Plan::default()
    };
    let other = Plan {
        behind: Behind::Other,
        ..Plan::default()
    };
    let cases = [
        // From the first pod to another, to a service's backend there, and outside by a service: both ends translated.
        (
            &other,
            ip4(POD_ADDR, OTHER_ADDR).udp(40_000, 53, &[7; 30]),
            OTHER,
        ),
        (&other, ip4(POD_ADDR, VIP).udp(40_000, 80, &[7; 30]), OTHER),
        (&other, ip6(POD6, OTHER6).udp(40_000, 53, &[7; 30]), OTHER),
        (&other, ip6(POD6, VIP6).udp(40_000, 80, &[7; 30]), OTHER),
        (
            &outside,
            ip4(POD_ADDR, VIP).udp(40_000, 80, &[7; 30]),
            UPLINK,
        ),
        (&outside, ip6(POD6, VIP6).udp(40_000, 80, &[7; 30]), UPLINK),
        // Outside with the node's address.
        (
            &outside,
            ip4(POD_ADDR, SERVER).udp(40_000, 53, &[7; 30]),
            UPLINK,
        ),
        (
            &outside,
            ip6(POD6, SERVER6).udp(40_000, 53, &[7; 30]),
            UPLINK,
        ),
    ];
    for (plan, packet, answers_by) in cases {
        let mut twin = Twin::new(plan);
        let there = from_pod(&packet);
        let arrived = twin.says(POD, &there);
        let (src, dst, ports) = (arrived.dst, arrived.src, arrived.ports);
        let (src, dst) = (src.to_string(), dst.to_string());
        let back = if src.contains(':') {
            ip6(&src, &dst).udp(ports.1, ports.0, &[9; 40])
        } else {
            ip4(&src, &dst).udp(ports.1, ports.0, &[9; 40])
        };
        let back = if answers_by == UPLINK {
            from_outside(&back)
        } else {
            build::ethernet(GATEWAY_MAC, OTHER_MAC, &back)
        };
        // What goes on between the two by pollers is offered, and then the kernel does it.
        assert!(!twin.takes(answers_by, &back));
        let of_both = [twin.takes(POD, &there), twin.takes(answers_by, &back)];
        assert_eq!(of_both, [true; 2], "{arrived:?}");
        // And not what is unusual.
        let mut short_lived = there.clone();
        short_lived[if src.contains(':') { 21 } else { 22 }] = 1;
        assert_eq!(twin.1.by_kernel(POD, &short_lived), None);
        let mut forged = there.clone();
        forged[6] ^= 4;
        assert_eq!(twin.1.by_kernel(POD, &forged), None);
    }
}

#[test]
fn tunnels_are_entered_and_left_as_by_pollers() {
    let mut twin = Twin::new(&Plan::default());
    let there = from_pod(&ip4(POD_ADDR, REMOTE).udp(40_000, 53, &[7; 30]));
    let answer = |from: &str| {
        let inner = ip4(REMOTE, POD_ADDR).udp(53, 40_000, &[9; 40]);
        let inner = build::ethernet([0x66, 0, 0, 0, 0, 2], [0x66, 0, 0, 0, 0, 3], &inner);
        let vxlan = build::vxlan(4096, &inner);
        from_outside(&ip4(from, NODE).udp_unchecked(50_000, 4789, &vxlan))
    };
    let back = answer("172.18.0.3");
    assert!(!twin.takes(POD, &there));
    assert!(!twin.takes(UPLINK, &back));
    assert!(twin.takes(POD, &there));
    assert!(twin.takes(UPLINK, &back));
    // Of another node it is not the same flow.
    assert_eq!(twin.1.by_kernel(UPLINK, &answer("172.18.0.4")), None);
    // Frames are counted as pollers count them, outer headers and all.
    twin.1.worker.read_soon();
    twin.1.work();
    let plain = |port: PortId| {
        let counters = twin.0.0.counters();
        let port = counters.port(port).expect("it is there");
        [
            &port.rx_packets,
            &port.rx_bytes,
            &port.tx_packets,
            &port.tx_bytes,
        ]
        .map(fastpath::counters::Counter::get)
    };
    let both = |port: PortId| {
        let all = [twin.1.rig.counters(), &twin.1.counters].map(|counters| {
            let port = counters.port(port).expect("it is there");
            [
                &port.rx_packets,
                &port.rx_bytes,
                &port.tx_packets,
                &port.tx_bytes,
            ]
            .map(fastpath::counters::Counter::get)
        });
        std::array::from_fn(|at| all[0][at] + all[1][at])
    };
    assert_eq!(plain(POD), both(POD));
    assert_eq!(plain(UPLINK), both(UPLINK));
    assert!(twin.1.counters.is_balanced() && twin.1.counters.rx.get() == 2);
}

#[test]
fn pollers_offer_what_is_under_way_and_again_what_keeps_coming() {
    let ring = Arc::new(ArrayQueue::new(16));
    let mut rig = Rig::new(tables(1024..=65_535)).with_offers(room(), &ring);
    let datagram = from_pod(&ip4(POD_ADDR, OTHER_ADDR).udp(40_000, 53, &[7; 30]));
    let mut offered = Vec::new();
    for count in 1..=140 {
        rig.run(POD, std::slice::from_ref(&datagram));
        offered.extend(std::iter::from_fn(|| ring.pop()).map(|it| (count, it.why)));
    }
    let at = |count| (count, Why::UnderWay);
    assert_eq!(offered, [at(68), at(132)], "nobody answers");
    let answer = ip4(OTHER_ADDR, POD_ADDR).udp(53, 40_000, &[7; 30]);
    let answer = build::ethernet(GATEWAY_MAC, OTHER_MAC, &answer);
    rig.run(OTHER, &vec![answer; 4]);
    assert_eq!(ring.pop().map(|it| it.why), Some(Why::UnderWay));
    // Of those that are answered at once.
    let datagram = from_pod(&ip4(POD_ADDR, OTHER_ADDR).udp(40_001, 53, &[7; 30]));
    let answer = ip4(OTHER_ADDR, POD_ADDR).udp(53, 40_001, &[7; 30]);
    let answer = build::ethernet(GATEWAY_MAC, OTHER_MAC, &answer);
    rig.run(POD, &vec![datagram.clone(); 3]);
    rig.run(OTHER, &[answer]);
    assert_eq!(ring.pop(), None);
    rig.run(POD, &[datagram]);
    assert_eq!(ring.pop().map(|it| it.why), Some(Why::UnderWay));
    // Of TCP what both sides have acknowledged.
    let segment = |flags, seq, ack| {
        from_pod(&segment4(
            POD_ADDR,
            OTHER_ADDR,
            (40_000, 80),
            flags,
            seq,
            ack,
        ))
    };
    let answer = |flags, seq, ack| {
        let packet = segment4(OTHER_ADDR, POD_ADDR, (80, 40_000), flags, seq, ack);
        build::ethernet(GATEWAY_MAC, OTHER_MAC, &packet)
    };
    rig.run(POD, &[segment(SYN, 100, 0)]);
    for _ in 0..80 {
        rig.run(POD, &[segment(SYN, 100, 0)]);
    }
    assert_eq!(ring.pop(), None);
    rig.run(OTHER, &[answer(SYN_ACK, 200, 101)]);
    for _ in 0..64 {
        rig.run(POD, &[segment(ACK, 101, 201)]);
    }
    assert_eq!(ring.pop().map(|it| it.why), Some(Why::UnderWay));
    assert_eq!(ring.pop(), None);
    // And what may end it.
    rig.run(POD, &[segment(FIN_ACK, 101, 201)]);
    let judged = ring.pop().map(|it| it.why);
    assert!(matches!(judged, Some(Why::Judged(it)) if (it.seq, it.ack) == (101, 201)));
}

/// A TCP connection of the first pod to the other, which the kernel has.
fn established() -> Offloaded {
    let mut node = Offloaded::new(rig(), Fake::default(), 64);
    client(&mut node, SYN, 100, 0);
    server(&mut node, SYN_ACK, 200, 101);
    client(&mut node, ACK, 101, 201);
    server(&mut node, ACK, 201, 101);
    assert_eq!(node.kernel.flows().len(), 2);
    node
}

fn client(node: &mut Offloaded, flags: u8, seq: u32, ack: u32) -> Fate {
    let packet = segment4(POD_ADDR, OTHER_ADDR, (40_000, 80), flags, seq, ack);
    node.packets(POD, &[from_pod(&packet)]).fates[0]
}

fn server(node: &mut Offloaded, flags: u8, seq: u32, ack: u32) -> Fate {
    let packet = segment4(OTHER_ADDR, POD_ADDR, (80, 40_000), flags, seq, ack);
    let frame = build::ethernet(GATEWAY_MAC, OTHER_MAC, &packet);
    node.packets(OTHER, &[frame]).fates[0]
}

fn only(node: &Offloaded) -> Connection {
    let all = node.connections();
    assert_eq!(all.len(), 1, "{all:?}");
    all[0]
}
