//! Connections that the kernel repeats: with a kernel in memory, what leaves is what the pipeline would have sent, and the flow table ends as
//! if it had seen every packet.

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

/// The client has sent five gigabytes and the server one, of which nobody here saw a segment.
fn transfer(node: &Offloaded) -> (u32, u32) {
    let (seq, back) = (101_u32.wrapping_add(705_032_704), 201 + 1_000_000_000);
    let seen = |ack, end| Seen {
        ack,
        end,
        window: 60_000,
    };
    let (there, answers) = (node.key_from(POD), node.key_from(OTHER));
    node.kernel
        .carry(&there, 4_000_000, 5_000_000_000, Some(seen(back, seq)));
    node.kernel
        .carry(&answers, 3_000_000, 1_000_000_000, Some(seen(seq, back)));
    (seq, back)
}

fn only(node: &Offloaded) -> Connection {
    let all = node.connections();
    assert_eq!(all.len(), 1, "{all:?}");
    all[0]
}

#[test]
fn fins_after_gigabytes_that_only_the_kernel_saw_close_it() {
    let mut node = established();
    let (seq, back) = transfer(&node);
    client(&mut node, FIN_ACK, seq, back);
    assert_eq!(only(&node).state, State::FinWait);
    assert!(
        node.kernel.flows().is_empty(),
        "it comes to pollers from now on"
    );
    assert_eq!(node.stats.removed(Removed::Closing), 2);
    server(&mut node, ACK, back, seq + 1);
    assert_eq!(only(&node).state, State::CloseWait);
    server(&mut node, FIN_ACK, back, seq + 1);
    client(&mut node, ACK, seq + 1, back + 1);
    let closed = only(&node);
    assert_eq!(closed.state, State::TimeWait);
    assert!(closed.original.bytes >= 5_000_000_000 && closed.reply.packets >= 3_000_000);
    assert!(closed.expires_in <= Timeouts::DEFAULT.tcp_time_wait);
    assert!(node.kernel.flows().is_empty());
    // And the same ports begin another one.
    client(&mut node, SYN, seq + 90_000, 0);
    assert_eq!(only(&node).state, State::SynSent);
}

#[test]
fn a_reset_counts_if_the_endpoint_takes_it_wherever_the_connection_is() {
    let mut node = established();
    let (_, back) = transfer(&node);
    node.offer_all();
    // Who does not see it knows where it was at most.
    server(&mut node, RST, 201, 0);
    assert_eq!(only(&node).state, State::Established);
    assert!(!node.kernel.flows().is_empty(), "it is the kernel's again");
    server(&mut node, RST, back, 0);
    assert_eq!(only(&node).state, State::Close);
    assert!(only(&node).expires_in <= Timeouts::DEFAULT.tcp_close);
}

#[test]
fn what_no_endpoint_takes_closes_nothing_though_the_kernel_saw_it() {
    for flags in [FIN_ACK, RST, RST | ACK, SYN] {
        let mut node = established();
        let (seq, back) = transfer(&node);
        // In sequence, with a checksum that is wrong.
        let packet = segment4(POD_ADDR, OTHER_ADDR, (40_000, 80), flags, seq, back);
        let mut frame = from_pod(&packet);
        frame[14 + 20 + 16] ^= 0x55;
        assert_eq!(node.by_kernel(POD, &frame), None);
        node.rig.run_now(POD, &[frame]);
        node.work();
        let marked = |node: &Offloaded| {
            let flows = node.kernel.flows();
            flows.iter().filter(|(.., it)| it.closing.is_some()).count()
        };
        assert_eq!(marked(&node), 1, "the kernel does not know");
        assert_eq!(only(&node).state, State::Established);
        // Within two passes it is the kernel's again, both ways, without anybody offering it.
        for _ in 0..2 {
            node.worker.read_soon();
            node.work();
        }
        assert_eq!((marked(&node), node.kernel.flows().len()), (0, 2));
        assert_eq!(node.stats.removed(Removed::Unconfirmed), 1);
        assert_eq!(node.stats.removed(Removed::Closing), 0);
        assert_eq!(only(&node).state, State::Established);
        let before = node.kernel.executed();
        client(&mut node, ACK, seq, back);
        server(&mut node, ACK, back, seq);
        assert_eq!(node.kernel.executed(), before + 2);
        // One that is right counts.
        client(&mut node, FIN_ACK, seq, back);
        assert_eq!(only(&node).state, State::FinWait);
        assert_eq!(node.stats.removed(Removed::Closing), 2);
    }
}

#[test]
fn a_wrong_one_before_it_does_not_hide_the_right_one() {
    let mut node = established();
    let (seq, back) = transfer(&node);
    let wrong = segment4(OTHER_ADDR, POD_ADDR, (80, 40_000), RST, 7, 0);
    let mut wrong = build::ethernet(GATEWAY_MAC, OTHER_MAC, &wrong);
    wrong[14 + 20 + 16] ^= 0x55;
    let right = segment4(OTHER_ADDR, POD_ADDR, (80, 40_000), FIN_ACK, back, seq);
    let right = build::ethernet(GATEWAY_MAC, OTHER_MAC, &right);
    // The kernel knows of the first alone.
    node.packets(OTHER, &[wrong, right]);
    assert_eq!(only(&node).state, State::FinWait);
    assert!(node.kernel.flows().is_empty());
}

#[test]
fn the_end_of_what_pollers_see_counts_though_the_kernel_has_the_other_direction() {
    let mut node = Offloaded::new(rig(), Fake::default(), 1);
    client(&mut node, SYN, 100, 0);
    server(&mut node, SYN_ACK, 200, 101);
    client(&mut node, ACK, 101, 201);
    let there = node.key_from(POD);
    // What the server sends comes to pollers, and nobody but the kernel sees it acknowledged.
    let back = 201 + 500_000_000;
    let seen = Seen {
        ack: back,
        end: 101,
        window: 60_000,
    };
    server(&mut node, ACK, back, 101);
    node.kernel.carry(&there, 500_000, 26_000_000, Some(seen));
    server(&mut node, FIN_ACK, back, 101);
    assert_eq!(only(&node).state, State::FinWait);
    assert!(node.kernel.flows().is_empty());
    assert_eq!(node.stats.removed(Removed::Closing), 1);
}

#[test]
fn what_another_poller_judged_at_that_moment_counts_too() {
    let mut node = established();
    let (seq, back) = transfer(&node);
    let connections = Arc::clone(node.rig.connections());
    let mut answers = None;
    let lines = 0..connections.lines();
    connections.visit(lines, &Timeouts::DEFAULT, node.rig.now(), |_, flow| {
        answers = connections.v4.table.partner(flow);
    });
    let answers = answers.expect("it has two directions");
    client(&mut node, FIN_ACK, seq, back);
    assert_eq!(only(&node).state, State::FinWait);
    // By a word that was not yet brought up to what the kernel saw, the server's end was nothing.
    let segment = Segment {
        flags: Flags(FIN_ACK),
        seq: back,
        ack: seq + 1,
        window: 60_000,
        ..Segment::default()
    };
    let late = Candidate {
        family: Family::V4,
        flow: answers,
        why: Why::Judged(segment),
    };
    let _ = node.ring.push(late);
    node.work();
    assert_eq!(only(&node).state, State::LastAck);
    // A connection that the kernel never had is the pollers' alone.
    let mut node = Offloaded::new(rig(), Fake::default(), 64);
    node.orders.pause(true);
    client(&mut node, SYN, 100, 0);
    server(&mut node, SYN_ACK, 200, 101);
    client(&mut node, ACK, 101, 201);
    let connections = Arc::clone(node.rig.connections());
    let lines = 0..connections.lines();
    connections.visit(lines, &Timeouts::DEFAULT, node.rig.now(), |_, flow| {
        let _ = node.ring.push(Candidate { flow, ..late });
    });
    node.work();
    assert_eq!(only(&node).state, State::Established);
}

#[test]
fn what_the_kernel_carries_does_not_expire_and_what_is_idle_is_given_back() {
    let mut node = established();
    let datagram = from_pod(&ip4(POD_ADDR, OTHER_ADDR).udp(40_000, 53, &[7; 30]));
    let answer = ip4(OTHER_ADDR, POD_ADDR).udp(53, 40_000, &[7; 30]);
    let answer = build::ethernet(GATEWAY_MAC, OTHER_MAC, &answer);
    for _ in 0..2 {
        node.packets(POD, std::slice::from_ref(&datagram));
        node.packets(OTHER, std::slice::from_ref(&answer));
    }
    assert_eq!(node.kernel.flows().len(), 4);
    // Fifteen minutes in which only the kernel sees datagrams: three times as long as they are remembered.
    for _ in 0..90 {
        assert!(node.by_kernel(POD, &datagram).is_some());
        node.rig
            .pass_roughly(Duration::from_secs(10), Duration::from_secs(2));
        node.work();
    }
    assert_eq!(node.connections().len(), 2);
    // Its answers, and TCP, are silent: the kernel does not have them any more.
    assert_eq!(node.kernel.flows().len(), 1);
    assert_eq!(node.stats.removed(Removed::Idle), 3);
    for _ in 0..40 {
        node.rig
            .pass_roughly(Duration::from_secs(10), Duration::from_secs(2));
        node.work();
    }
    assert!(node.kernel.flows().is_empty());
    let left = node.connections();
    assert!(left.iter().all(|it| it.protocol == 6), "{left:?}");
    assert_eq!(node.worker.step(node.rig.now()), Next::Called, "it sleeps");
    assert_eq!(node.stats.now(Family::V4), 0);
}

#[test]
fn an_endpoint_that_is_gone_is_forgotten_with_the_tables_that_say_so() {
    let mut node = established();
    let plan = Plan::default();
    // Tables that do the same: they stay.
    let same = Change {
        plan: plan.clone(),
        is_new: [false; 2],
    };
    same.apply(&plan, &mut node.rig);
    node.work();
    assert_eq!(node.kernel.flows().len(), 2);
    // Another pod with the same address.
    let another = Change {
        plan: plan.clone(),
        is_new: [false, true],
    };
    another.apply(&plan, &mut node.rig);
    node.work();
    assert!(node.kernel.flows().is_empty());
    assert_eq!(node.stats.removed(Removed::Gone), 2);
}

#[test]
fn tables_that_change_all_the_time_do_not_keep_the_worker_from_what_is_gone_or_new() {
    // More flows than are looked at in three steps, and behind them one of a pod that goes.
    const MANY: u16 = 1700;
    let room = Capacity::new(16_384).expect("a power of two");
    let mut node = Offloaded::with_room_for(room, rig(), Fake::default(), 16_384);
    let outside = |port: u16| from_pod(&ip4(POD_ADDR, SERVER).udp(20_000 + port, 53, &[7; 30]));
    for first in (0..MANY).step_by(50) {
        let frames: Vec<_> = (first..first + 50).map(outside).collect();
        node.rig.run_now(POD, &frames);
    }
    node.offer_all();
    let goes = ip4(OTHER_ADDR, SERVER).udp(40_000, 53, &[7; 30]);
    let goes = build::ethernet(GATEWAY_MAC, OTHER_MAC, &goes);
    node.packets(OTHER, std::slice::from_ref(&goes));
    assert_eq!(node.kernel.flows().len(), usize::from(MANY) + 1);
    let is_gone = |node: &Offloaded| {
        let from = control::offload::From::Device(device_of(OTHER));
        node.kernel.flows().iter().all(|(key, ..)| key.from != from)
    };
    let plan = Plan::default();
    let (mut steps, mut is_new) = (0, true);
    while !is_gone(&node) {
        steps += 1;
        assert!(steps <= 4, "it is never reached");
        let change = Change {
            plan: plan.clone(),
            is_new: [false, std::mem::take(&mut is_new)],
        };
        change.apply(&plan, &mut node.rig);
        node.publisher.publish(node.rig.tables().clone());
        // Meanwhile another one is offered, as these tables decide it.
        let inserted = node.stats.inserted();
        node.rig.run_now(POD, &[outside(MANY + steps)]);
        let connections = Arc::clone(node.rig.connections());
        let lines = 0..connections.lines();
        connections.visit(lines, &Timeouts::DEFAULT, node.rig.now(), |it, flow| {
            if it.sport == 20_000 + MANY + steps {
                let (family, why) = (Family::V4, Why::UnderWay);
                let _ = node.ring.push(Candidate { family, flow, why });
            }
        });
        node.worker.step(node.rig.now());
        assert_eq!(node.stats.inserted(), inserted + 1, "step {steps}");
    }
    assert!(steps > 1, "it was not the last");
    // And when they are left alone, all were looked at by the newest ones.
    node.published = node.rig.tables().generation;
    node.work();
    let left = node.kernel.flows().len();
    assert!(
        left <= usize::from(steps),
        "nobody answered the others: {left}"
    );
}

#[test]
fn what_is_by_a_device_that_is_not_served_is_forgotten_at_once_and_that_is_said() {
    let mut node = established();
    let outside = from_pod(&ip4(POD_ADDR, SERVER).udp(40_000, 53, &[7; 30]));
    node.packets(POD, &[outside]);
    assert_eq!(node.kernel.flows().len(), 3);
    let serve = |node: &Offloaded, ports: &[(PortId, u32)]| {
        node.orders
            .set_devices(Devices(ports.iter().copied().collect()))
    };
    let [uplink, pod, other] = [UPLINK, POD, OTHER].map(|port| (port, device_of(port)));
    // A port more is nothing to them.
    let version = serve(&node, &[uplink, pod, other, (PortId(9), 9)]);
    assert!(node.orders.devices_done() < version);
    node.work();
    assert_eq!(node.orders.devices_done(), version);
    assert_eq!(node.kernel.flows().len(), 3);
    // What comes in by the other pod's device, and what goes out by it. The tables have the pod still.
    let version = serve(&node, &[uplink, pod]);
    node.worker.step(node.rig.now());
    assert_eq!(node.orders.devices_done(), version);
    assert_eq!(node.stats.removed(Removed::Device), 2);
    let left = node.kernel.flows();
    assert!(matches!(&left[..], [(_, action, _)] if action.out == device_of(UPLINK)));
    // Nor is it taken again.
    node.offer_all();
    assert_eq!(node.kernel.flows().len(), 1);
    assert!(node.stats.refused(Refused::Device) > 0);
    // The same number is another device.
    serve(&node, &[(UPLINK, 77), pod]);
    node.worker.step(node.rig.now());
    assert!(node.kernel.flows().is_empty());
}

#[test]
fn another_next_hop_is_another_action() {
    let mut node = Offloaded::new(rig(), Fake::default(), 64);
    let datagram = from_pod(&ip4(POD_ADDR, SERVER).udp(40_000, 53, &[7; 30]));
    node.packets(POD, std::slice::from_ref(&datagram));
    assert_eq!(node.kernel.flows().len(), 1);
    let plan = Plan::default();
    let change = Change {
        plan: Plan {
            outside: crate::schedule::Outside::Router(10),
            ..plan.clone()
        },
        is_new: [false; 2],
    };
    change.apply(&plan, &mut node.rig);
    node.work();
    assert!(node.kernel.flows().is_empty());
    assert_eq!(node.stats.removed(Removed::Changed), 1);
    // Decided anew by its next packet.
    node.packets(POD, std::slice::from_ref(&datagram));
    assert_eq!(node.kernel.flows().len(), 1);
}

#[test]
fn who_removes_connections_or_captures_has_the_kernel_forget() {
    let mut node = established();
    node.orders.pause(true);
    node.offer_all();
    assert!(node.kernel.flows().is_empty());
    node.orders.pause(false);
    node.offer_all();
    assert_eq!(node.kernel.flows().len(), 2);
    let connections = Arc::clone(node.rig.connections());
    let (now, rules) = (node.rig.now(), node.rig.tables().policies.counters.clone());
    connections.visit(
        0..connections.lines(),
        &Timeouts::DEFAULT,
        now,
        |it, flow| {
            connections.remove(it, flow, &rules);
        },
    );
    node.orders.flush();
    node.work();
    assert!(node.kernel.flows().is_empty());
    assert_eq!(node.stats.removed(Removed::Gone), 2);
}

#[test]
fn what_the_kernel_refuses_to_forget_is_not_lost_sight_of() {
    let mut node = established();
    let there = node.key_from(POD);
    node.kernel.keep(true);
    let version = node.orders.set_devices(Devices::default());
    node.offer_all();
    // It may be sending by devices that are others' soon.
    assert_eq!(node.kernel.flows().len(), 2);
    assert_eq!(node.stats.now(Family::V4), 2);
    assert!(node.orders.devices_done() < version);
    assert_eq!(node.stats.removed(Removed::Device), 0);
    node.kernel.carry(&there, 7, 700, None);
    node.kernel.keep(false);
    node.worker.read_soon();
    node.work();
    assert!(node.kernel.flows().is_empty());
    assert_eq!(node.stats.now(Family::V4), 0);
    assert_eq!(node.orders.devices_done(), version);
    assert_eq!(node.stats.removed(Removed::Device), 2);
    // Nor is what it carried: both sent two packets before.
    assert_eq!(only(&node).original.packets, 2 + 7);
    assert_eq!(node.worker.step(node.rig.now()), Next::Called);
}

#[test]
fn what_is_removed_while_the_kernel_is_told_of_it_is_taken_back() {
    let mut node = established();
    let datagram = from_pod(&ip4(POD_ADDR, SERVER).udp(40_000, 53, &[7; 30]));
    node.rig.run_now(POD, &[datagram]);
    let connections = Arc::clone(node.rig.connections());
    let (now, rules) = (node.rig.now(), node.rig.tables().policies.counters.clone());
    let lines = 0..connections.lines();
    connections.visit(lines.clone(), &Timeouts::DEFAULT, now, |it, flow| {
        if it.protocol == 17 {
            let (family, why) = (Family::V4, Why::UnderWay);
            let _ = node.ring.push(Candidate { family, flow, why });
        }
    });
    node.kernel.meanwhile(move || {
        connections.visit(lines, &Timeouts::DEFAULT, now, |it, flow| {
            if it.protocol == 17 {
                connections.remove(it, flow, &rules);
            }
        });
    });
    // The next pass is a while off.
    node.worker.step(now);
    assert_eq!((only(&node).protocol, node.stats.inserted()), (6, 3));
    assert_eq!(node.kernel.flows().len(), 2);
    assert_eq!(node.stats.removed(Removed::Gone), 1);
}

#[test]
fn what_the_kernel_forgot_by_itself_is_told_again() {
    let mut node = established();
    node.kernel.lose_all();
    node.offer_all();
    assert_eq!(node.stats.removed(Removed::Lost), 2);
    node.offer_all();
    assert_eq!(node.kernel.flows().len(), 2);
    assert_eq!(node.stats.now(Family::V4), 2);
}

#[test]
fn there_is_an_end_to_how_many_and_a_reason_for_each_that_is_left_out() {
    for (kernel, most) in [(Fake::default(), 1), (Fake::with_room_for(1), 64)] {
        let mut node = Offloaded::new(rig(), kernel, most);
        for port in 0..3 {
            let datagram = ip4(POD_ADDR, OTHER_ADDR).udp(40_000 + port, 53, &[7; 30]);
            node.packets(POD, &[from_pod(&datagram)]);
        }
        assert_eq!(node.kernel.flows().len(), 1);
        assert!(node.stats.refused(Refused::Full) > 0);
    }
    let mut node = Offloaded::new(rig(), Fake::default(), 64);
    let not = |node: &Offloaded, why| node.stats.refused(Refused::Not(why));
    // Nobody has answered that it was seen; it goes to the host; a ping is none.
    client(&mut node, SYN, 100, 0);
    assert!(not(&node, NotOffered::State) > 0);
    node.packets(
        POD,
        &[from_pod(&ip4(POD_ADDR, NODE).udp(40_000, 53, &[7; 30]))],
    );
    assert!(not(&node, NotOffered::Way) > 0);
    node.packets(
        POD,
        &[from_pod(&ip4(POD_ADDR, OTHER_ADDR).icmp(8, 0, 1, &[]))],
    );
    assert!(not(&node, NotOffered::Protocol) > 0);
    assert!(node.kernel.flows().is_empty());
    assert!(node.stats.offered() >= 3 && node.stats.inserted() == 0);
}

#[test]
fn no_pod_has_more_than_a_quarter_of_what_the_kernel_has() {
    let mut node = Offloaded::new(rig(), Fake::default(), 16);
    let refused = |node: &Offloaded| node.stats.refused(Refused::Share);
    let to = |addr, port: u16| from_pod(&ip4(POD_ADDR, addr).udp(40_000 + port, 53, &[7; 30]));
    // Of what it sends, to whomever.
    for port in 0..2 {
        node.packets(POD, &[to(SERVER, port), to(OTHER_ADDR, port)]);
    }
    assert_eq!((node.kernel.flows().len(), refused(&node)), (4, 0));
    node.packets(POD, &[to(SERVER, 9)]);
    assert_eq!(node.kernel.flows().len(), 4);
    assert!(refused(&node) > 0);
    // Of what it receives too: the other pod has room for two more.
    let inner = |port: u16| ip4(REMOTE, OTHER_ADDR).udp(53, port, &[9; 40]);
    let by_tunnel = |port: u16| {
        let inner = build::ethernet([0x66, 0, 0, 0, 0, 2], [0x66, 0, 0, 0, 0, 3], &inner(port));
        let vxlan = build::vxlan(4096, &inner);
        from_outside(&ip4("172.18.0.3", NODE).udp_unchecked(50_000, 4789, &vxlan))
    };
    for port in 1..=5 {
        node.packets(UPLINK, &[by_tunnel(port)]);
    }
    assert_eq!(node.kernel.flows().len(), 6);
    // What goes makes room.
    let [sent, received] = [POD, OTHER].map(|port| {
        let out = node.kernel.flows().into_iter();
        out.filter(|(key, action, _)| {
            key.from == control::offload::From::Device(device_of(port))
                || action.out == device_of(port)
        })
        .count()
    });
    assert_eq!((sent, received), (4, 4));
    for _ in 0..4 {
        node.rig
            .pass_roughly(Duration::from_secs(10), Duration::from_secs(2));
        node.work();
    }
    assert!(node.kernel.flows().is_empty());
    node.packets(POD, &[to(SERVER, 10)]);
    assert!(node.kernel.flows().len() <= 4);
    let by_pod = control::offload::From::Device(device_of(POD));
    assert!(
        node.kernel
            .flows()
            .iter()
            .any(|(key, ..)| key.from == by_pod)
    );
}

#[test]
fn a_thread_of_its_own_takes_offers_and_leaves_nothing_behind() {
    let node = established();
    let (orders, kernel, stats) = (node.orders.clone(), node.kernel.clone(), node.stats);
    let Offloaded {
        rig, ring, worker, ..
    } = node;
    let start = std::time::Instant::now();
    let thread = std::thread::spawn(move || worker.run(start));
    let wait_until = |what: &dyn Fn() -> bool| {
        let mut left = 2000;
        while !what() {
            left -= 1;
            assert!(left > 0, "it does not come");
            orders.call();
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    orders.pause(true);
    wait_until(&|| kernel.flows().is_empty());
    orders.pause(false);
    let connections = rig.connections();
    let (now, timeouts) = (rig.now(), Timeouts::DEFAULT);
    wait_until(&|| {
        connections.visit(0..connections.lines(), &timeouts, now, |_, flow| {
            let (family, why) = (Family::V4, Why::UnderWay);
            let _ = ring.push(Candidate { family, flow, why });
        });
        !kernel.flows().is_empty()
    });
    orders.stop();
    thread.join().expect("it ends");
    assert!(kernel.flows().is_empty());
    assert_eq!(stats.now(Family::V4), 0);
}
