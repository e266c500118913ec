//! A poller's round over memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use encap::eth::MacAddr;
use encap::outer::{Macs, Rewrite};
use fastpath::batch::{Batch, PeerId};
use fastpath::counters::Counters;
use fastpath::event::Events;
use fastpath::frame::Frame;
use fastpath::io::PacketIo;
use fastpath::io::mem::MemIo;
use fastpath::pipeline::Pipeline;
use fastpath::poller::{Notify, PollMode, Poller};
use fastpath::port::{PodPort, Port, PortId, PortKind};
use fastpath::snapshot::Publisher;
use fastpath::stopwatch::{Stage, Stopwatch, Until};
use fastpath::tables::{Adjacency, NextHop, Tables, Unresolved, Way};
use flowtable::Tick;
use flowtable::lpm::{NextHopId, Prefix4, Rib4};

const POD: PortId = PortId(0);
const UPLINK: PortId = PortId(1);
const SECOND_POD: PortId = PortId(2);
const POD_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const GATEWAY_MAC: MacAddr = MacAddr([0xee; 6]);
const NIC_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const SERVER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);
const POD_ADDR: u32 = 0x0a00_0002;
const SECOND_POD_ADDR: u32 = 0x0a00_0003;
const SERVER: u32 = 0xc000_024d;

/// Two pods and an uplink, and a connected network behind the uplink whose one neighbour is known or not.
fn tables(generation: u64, neighbour_is_known: bool) -> Tables {
    let port = |name: &str, mac, kind| {
        Some(Port {
            name: name.to_owned(),
            mac,
            mtu: 1500,
            kind,
            partial_checksums: false,
            icmp_source4: None,
            icmp_source6: None,
            nat4: None,
            nat6: None,
            since: 0,
        })
    };
    let pod = |addr| {
        PortKind::Pod(PodPort {
            mac: Some(POD_MAC),
            addrs4: vec![addr],
            ..PodPort::default()
        })
    };
    let server = if neighbour_is_known {
        NextHop::Send(Adjacency {
            port: UPLINK,
            mtu: 1500,
            peer: PeerId::NONE,
            way: Way::Uplink,
            rewrite: Rewrite::ethernet(Macs {
                dst: SERVER_MAC,
                src: NIC_MAC,
            }),
        })
    } else {
        NextHop::Resolve(Unresolved {
            port: UPLINK,
            peer: PeerId::NONE,
            way: Way::Uplink,
            gateway: None,
        })
    };
    let mut rib = Rib4::new();
    let network = Prefix4::new(SERVER & 0xffff_ff00, 24).expect("a prefix");
    rib.insert(network, NextHopId::new(1).expect("a number"))
        .expect("room");
    let mut tables = Tables {
        generation,
        fib4: rib.snapshot(),
        ports: vec![
            port("cali0", GATEWAY_MAC, pod(POD_ADDR)),
            port("eth0", NIC_MAC, PortKind::Uplink),
            port("cali1", GATEWAY_MAC, pod(SECOND_POD_ADDR)),
        ],
        ..Tables::default()
    };
    tables.next_hops.push(server);
    tables
}

/// A UDP datagram from a pod to the server, told apart by its source port.
fn datagram(from: u32, number: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = etherparse::PacketBuilder::ethernet2(POD_MAC.0, GATEWAY_MAC.0)
        .ipv4(from.to_be_bytes(), SERVER.to_be_bytes(), 64)
        .udp(number, 9);
    builder.write(&mut frame, b"hello").expect("a packet");
    frame
}

fn source_port(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[34], frame[35]])
}

/// A poller over memory in which each port holds `tx_room` frames that were sent.
fn poller(publisher: &mut Publisher<Tables>, tx_room: usize) -> Poller<MemIo> {
    poller_over(MemIo::new(64, 2048, 3, tx_room), publisher)
}

fn poller_over<I>(io: I, publisher: &mut Publisher<Tables>) -> Poller<I> {
    Poller {
        io,
        pipeline: Pipeline::new(
            Arc::new(Counters::new(3)),
            Events::new(Arc::new(ArrayQueue::new(8))),
        ),
        tables: publisher.subscribe(),
        mode: PollMode::Busy,
        stop: Arc::new(AtomicBool::new(false)),
        notify: Notify(Arc::new(|| {})),
    }
}

#[test]
fn packets_that_waited_for_a_neighbour_leave_before_those_that_come_later() {
    let mut publisher = Publisher::new(tables(1, false));
    let mut poller = poller(&mut publisher, 64);
    let mut batch = Batch::default();
    for number in [1, 2] {
        assert!(poller.io.inject(POD, &datagram(POD_ADDR, number)));
    }
    poller.round(&mut batch, Tick(1));
    assert_eq!(poller.pipeline.held(), 2);
    publisher.publish(tables(2, true));
    assert!(poller.io.inject(POD, &datagram(POD_ADDR, 3)));
    poller.round(&mut batch, Tick(2));
    assert_eq!(poller.io.take_sent(UPLINK, source_port), [1, 2, 3]);
    assert_eq!(poller.pipeline.held(), 0);
    assert!(poller.pipeline.counters().is_balanced());
}

#[test]
fn each_queue_is_the_first_one_of_a_round_in_turn() {
    let mut publisher = Publisher::new(tables(1, true));
    // Both pods' packets leave by the uplink, which has one place.
    let mut poller = poller(&mut publisher, 1);
    let mut batch = Batch::default();
    let mut came = Vec::new();
    for round in 0..3 {
        assert!(poller.io.inject(POD, &datagram(POD_ADDR, 1)));
        assert!(poller.io.inject(SECOND_POD, &datagram(SECOND_POD_ADDR, 2)));
        poller.round(&mut batch, Tick(1 + round));
        came.extend(poller.io.take_sent(UPLINK, source_port));
    }
    assert_eq!(came, [1, 2, 2], "of three queues the uplink's own is one");
}

/// Memory in which one queue has both pods' packets, of one of them at a time.
struct Shared {
    io: MemIo,
    /// Whose turn it is.
    pod: usize,
}

impl PacketIo for Shared {
    fn chunk(&mut self, frame: &Frame) -> &mut [u8] {
        self.io.chunk(frame)
    }

    fn rx_queues(&self) -> usize {
        1
    }

    fn recv(&mut self, queue: usize, batch: &mut Batch) -> Option<PortId> {
        assert_eq!(queue, 0);
        let port = [POD, SECOND_POD][self.pod];
        self.pod = 1 - self.pod;
        self.io.recv(usize::from(port.0), batch)
    }

    fn has_more(&self, queue: usize) -> bool {
        assert_eq!(queue, 0);
        self.pod == 1
    }

    fn send(&mut self, port: PortId, frame: Frame) -> Result<(), Frame> {
        self.io.send(port, frame)
    }

    fn flush(&mut self) {
        self.io.flush();
    }

    fn alloc(&mut self) -> Option<Frame> {
        self.io.alloc()
    }

    fn free(&mut self, frame: Frame) {
        self.io.free(frame);
    }

    fn wait(&mut self, _timeout: Duration) {
        panic!("nobody runs it");
    }
}

#[test]
fn what_one_queue_has_of_several_ports_is_done_in_one_round() {
    let mut publisher = Publisher::new(tables(1, true));
    let io = Shared {
        io: MemIo::new(64, 2048, 3, 64),
        pod: 0,
    };
    let mut poller = poller_over(io, &mut publisher);
    let mut batch = Batch::default();
    for number in [1, 2] {
        assert!(poller.io.io.inject(POD, &datagram(POD_ADDR, number)));
    }
    let other = datagram(SECOND_POD_ADDR, 3);
    assert!(poller.io.io.inject(SECOND_POD, &other));
    assert_eq!(poller.round(&mut batch, Tick(1)), 3);
    let counters = poller.pipeline.counters();
    assert_eq!(counters.rounds.get(), 1);
    let came = |port| counters.port(port).expect("a port").rx_packets.get();
    assert_eq!((came(POD), came(SECOND_POD)), (2, 1));
    let sent = poller.io.io.take_sent(UPLINK, source_port);
    assert_eq!(sent, [1, 2, 3]);
}

/// What a poller did in a round, by the clock that it read.
struct Round {
    now: Tick,
    received: usize,
    slept: bool,
}

/// Memory in which a packet comes whenever the poller has gone to sleep, a few times; then it is told to stop.
struct Diary {
    io: MemIo,
    rounds: Vec<Round>,
    to_come: u16,
    stop: Arc<AtomicBool>,
}

impl PacketIo for Diary {
    fn chunk(&mut self, frame: &Frame) -> &mut [u8] {
        self.io.chunk(frame)
    }

    fn rx_queues(&self) -> usize {
        self.io.rx_queues()
    }

    fn recv(&mut self, queue: usize, batch: &mut Batch) -> Option<PortId> {
        let port = self.io.recv(queue, batch);
        let round = self.rounds.last_mut().expect("begun by `maintain`");
        round.received += batch.len();
        port
    }

    fn send(&mut self, port: PortId, frame: Frame) -> Result<(), Frame> {
        self.io.send(port, frame)
    }

    fn flush(&mut self) {
        self.io.flush();
    }

    fn alloc(&mut self) -> Option<Frame> {
        self.io.alloc()
    }

    fn free(&mut self, frame: Frame) {
        self.io.free(frame);
    }

    fn maintain(&mut self, now: Tick) {
        self.rounds.push(Round {
            now,
            received: 0,
            slept: false,
        });
    }

    fn wait(&mut self, _timeout: Duration) {
        self.rounds.last_mut().expect("after a round").slept = true;
        if self.to_come == 0 {
            return self.stop.store(true, Ordering::Relaxed);
        }
        assert!(self.io.inject(POD, &datagram(POD_ADDR, self.to_come)));
        self.to_come -= 1;
    }
}

#[test]
fn an_adaptive_poller_sleeps_when_no_packet_came_for_its_time_and_not_before() {
    const SPIN: Duration = Duration::from_millis(20);
    const PACKETS: u16 = 5;
    let mut publisher = Publisher::new(tables(1, true));
    let diary = Diary {
        io: MemIo::new(64, 2048, 3, 64),
        rounds: Vec::new(),
        to_come: PACKETS,
        stop: Arc::default(),
    };
    let stop = Arc::clone(&diary.stop);
    let poller = Poller {
        mode: PollMode::Adaptive(SPIN),
        stop,
        ..poller_over(diary, &mut publisher)
    };
    let counters = Arc::clone(poller.pipeline.counters());
    let mut diary = poller.run();

    let (mut busy_until, mut just_slept) = (Tick(0), false);
    for (number, round) in diary.rounds.iter().enumerate() {
        assert_eq!(round.received, usize::from(just_slept), "round {number}");
        if round.received > 0 {
            busy_until = round.now + SPIN;
        }
        let is_due = round.received == 0 && round.now >= busy_until;
        assert_eq!(round.slept, is_due, "round {number} at {:?}", round.now);
        just_slept = round.slept;
    }
    // Once before the first packet, and once after each.
    assert_eq!(counters.sleeps.get(), u64::from(PACKETS) + 1);
    let left = diary.io.take_sent(UPLINK, source_port);
    assert_eq!(left, [5, 4, 3, 2, 1]);
}

#[test]
fn time_is_counted_by_whether_packets_came_in() {
    let mut publisher = Publisher::new(tables(1, true));
    let mut poller = poller(&mut publisher, 64);
    assert!(poller.io.inject(POD, &datagram(POD_ADDR, 1)));
    let (counters, stop) = (
        Arc::clone(poller.pipeline.counters()),
        Arc::clone(&poller.stop),
    );
    let thread = std::thread::spawn(move || poller.run());
    while counters.rounds.get() < 10 && !thread.is_finished() {
        std::thread::yield_now();
    }
    stop.store(true, Ordering::Relaxed);
    let mut io = thread.join().expect("a poller that ends");
    assert_eq!(io.take_sent(UPLINK, source_port), [1]);
    let (busy, idle) = (counters.busy.get(), counters.idle.get());
    assert!(busy > 0, "the round in which the packet came in");
    assert!(idle > 0, "the others");
    assert_eq!(
        busy + idle,
        counters.beat.get(),
        "no time is lost or counted twice"
    );
}

#[test]
fn who_captures_gets_copies_of_what_comes_in_goes_out_and_is_dropped() {
    use fastpath::reason::DropReason;
    use fastpath::tap::{Copied, Moment, Switch, Tap, Wanted};

    let mut publisher = Publisher::new(tables(1, true));
    let mut poller = poller(&mut publisher, 64);
    let (ring, switch) = (Arc::new(ArrayQueue::new(64)), Arc::new(Switch::default()));
    let tap = Tap::new(
        Arc::clone(&ring),
        Arc::clone(&switch),
        Arc::clone(poller.pipeline.counters()),
    );
    poller.pipeline = poller.pipeline.with_tap(tap);
    let mut batch = Batch::default();
    let mut spoofed = datagram(POD_ADDR, 2);
    spoofed[29] ^= 0xff;
    // Its checksum is that of the right address.
    spoofed[24] = 0;
    spoofed[25] = 0;
    let checksum = etherparse::Ipv4HeaderSlice::from_slice(&spoofed[14..])
        .expect("a header")
        .to_header()
        .calc_header_checksum();
    spoofed[24..26].copy_from_slice(&checksum.to_be_bytes());
    let mut round = |wanted, packet: &[u8], at| {
        switch.set(wanted);
        assert!(poller.io.inject(POD, packet));
        poller.round(&mut batch, Tick(at));
        poller.io.take_sent(UPLINK, <[u8]>::to_vec);
        std::iter::from_fn(|| ring.pop()).collect::<Vec<Copied>>()
    };
    let all = Wanted {
        drops_only: false,
        port: None,
    };
    let only = |port| Wanted {
        port: Some(port),
        ..all
    };
    let drops = Wanted {
        drops_only: true,
        ..all
    };
    let seen =
        |copies: Vec<Copied>| -> Vec<_> { copies.iter().map(|it| (it.port, it.moment)).collect() };
    let dropped = Moment::Dropped {
        reason: DropReason::SourceSpoofed,
        by: fastpath::policy::Decider::NOBODY,
    };
    let good = datagram(POD_ADDR, 1);
    assert_eq!(round(None, &good, 1), []);
    let copies = round(Some(all), &good, 2);
    assert_eq!(copies[0].bytes(), good);
    assert_eq!((copies[0].at, copies[0].generation), (Tick(2), 1));
    // The TTL is one less, and the next hop's MAC address is in it.
    assert_eq!(copies[1].bytes()[..6], SERVER_MAC.0);
    assert_eq!(copies[1].bytes()[22], 63);
    assert_eq!(seen(copies), [(POD, Moment::In), (UPLINK, Moment::Out)]);
    assert_eq!(
        seen(round(Some(only(UPLINK)), &good, 3)),
        [(UPLINK, Moment::Out)]
    );
    assert_eq!(seen(round(Some(drops), &good, 4)), []);
    let copies = round(Some(drops), &spoofed, 5);
    assert_eq!(copies[0].bytes(), spoofed);
    assert_eq!(seen(copies), [(POD, dropped)]);
    assert_eq!(
        seen(round(Some(all), &spoofed, 6)),
        [(POD, Moment::In), (POD, dropped)]
    );
    assert_eq!(round(None, &spoofed, 7), []);
    assert!(poller.pipeline.counters().is_balanced());
}

#[test]
fn control_is_woken_when_copies_fill_their_ring() {
    use fastpath::tap::{Switch, Tap, Wanted};

    let mut publisher = Publisher::new(tables(1, true));
    let woken = Arc::new(AtomicBool::new(false));
    let mut poller = poller(&mut publisher, 64);
    poller.notify = Notify(Arc::new({
        let woken = Arc::clone(&woken);
        move || woken.store(true, Ordering::Relaxed)
    }));
    let switch = Arc::new(Switch::default());
    switch.set(Some(Wanted {
        drops_only: false,
        port: Some(POD),
    }));
    let tap = Tap::new(
        Arc::new(ArrayQueue::new(4)),
        switch,
        Arc::clone(poller.pipeline.counters()),
    );
    poller.pipeline = poller.pipeline.with_tap(tap);
    let mut batch = Batch::default();
    for expected in [false, true] {
        assert!(poller.io.inject(POD, &datagram(POD_ADDR, 1)));
        poller.round(&mut batch, Tick(1));
        assert_eq!(woken.load(Ordering::Relaxed), expected);
    }
}

/// Calls and packets of each stage that had any, in order.
fn measured(counters: &Counters) -> Vec<(&'static str, u64, u64)> {
    let stages = Stage::ALL.iter().zip(&counters.measured.stages);
    stages
        .map(|(stage, it)| (stage.name(), it.calls.get(), it.packets.get()))
        .filter(|(_, calls, _)| *calls > 0)
        .collect()
}

#[test]
fn stages_are_measured_until_the_time_that_was_said_and_no_longer() {
    let mut publisher = Publisher::new(tables(1, true));
    let mut poller = poller(&mut publisher, 64);
    let (until, counters) = (
        Arc::new(Until::default()),
        Arc::clone(poller.pipeline.counters()),
    );
    let stopwatch = Stopwatch::new(Arc::clone(&until), Arc::clone(&counters));
    poller.pipeline = poller.pipeline.with_stopwatch(stopwatch);
    let mut batch = Batch::default();
    let mut round = |packets: &[Vec<u8>], at| {
        for packet in packets {
            assert!(poller.io.inject(POD, packet));
        }
        poller.round(&mut batch, Tick(at));
        poller.io.take_sent(UPLINK, source_port)
    };
    let good = datagram(POD_ADDR, 1);
    let mut broken = good.clone();
    broken[24] ^= 1;
    assert_eq!(round(std::slice::from_ref(&good), 1), [1]);
    assert_eq!(measured(&counters), []);
    until.extend(Tick(10));
    until.extend(Tick(5));
    assert_eq!(round(&[good.clone(), broken, good.clone()], 9), [1, 1]);
    // Three queues are looked at, of which one has packets; one of them is dropped at once.
    let expected = [
        ("recv", 3, 3),
        ("parse", 1, 3),
        ("decap", 1, 2),
        ("resolve", 1, 2),
        ("apply", 1, 2),
        ("egress", 1, 3),
        ("flush", 1, 3),
        ("timers", 1, 0),
    ];
    assert_eq!(measured(&counters), expected);
    let took: u64 = counters
        .measured
        .stages
        .iter()
        .map(|it| it.nanoseconds.get())
        .sum();
    assert!(took > 0);
    assert_eq!(counters.measured.empty.get(), 0);
    // A round without packets says nothing of stages, and when the time is over nothing is measured.
    assert_eq!(round(&[], 9), []);
    assert_eq!(round(&[good], 10), [1]);
    assert_eq!(measured(&counters), expected);
    assert!(counters.is_balanced());
}

#[test]
fn packets_that_waited_and_errors_are_in_the_stages_that_they_pass() {
    let mut publisher = Publisher::new(tables(1, false));
    let mut poller = poller(&mut publisher, 64);
    let (until, counters) = (
        Arc::new(Until::default()),
        Arc::clone(poller.pipeline.counters()),
    );
    until.extend(Tick(10));
    let stopwatch = Stopwatch::new(until, Arc::clone(&counters));
    poller.pipeline = poller.pipeline.with_stopwatch(stopwatch);
    let mut batch = Batch::default();
    assert!(poller.io.inject(POD, &datagram(POD_ADDR, 1)));
    poller.round(&mut batch, Tick(1));
    publisher.publish(tables(2, true));
    poller.round(&mut batch, Tick(2));
    assert_eq!(poller.io.take_sent(UPLINK, source_port), [1]);
    let expected = [
        ("recv", 6, 1),
        ("parse", 1, 1),
        ("decap", 1, 1),
        ("resolve", 2, 2),
        ("icmp", 2, 1),
        ("apply", 2, 1),
        ("egress", 2, 2),
        ("flush", 2, 1),
        ("timers", 2, 0),
    ];
    assert_eq!(measured(&counters), expected);
}

#[test]
fn who_captures_and_who_measures_see_the_same_packets() {
    use fastpath::tap::{Switch, Tap, Wanted};

    let mut publisher = Publisher::new(tables(1, true));
    let mut poller = poller(&mut publisher, 64);
    let counters = Arc::clone(poller.pipeline.counters());
    let (ring, switch) = (Arc::new(ArrayQueue::new(64)), Arc::new(Switch::default()));
    switch.set(Some(Wanted {
        drops_only: false,
        port: None,
    }));
    let until = Arc::new(Until::default());
    until.extend(Tick(2));
    let tap = Tap::new(Arc::clone(&ring), switch, Arc::clone(&counters));
    let stopwatch = Stopwatch::new(until, Arc::clone(&counters));
    poller.pipeline = poller.pipeline.with_tap(tap).with_stopwatch(stopwatch);
    let mut batch = Batch::default();
    for at in 1..=2 {
        assert!(poller.io.inject(POD, &datagram(POD_ADDR, 1)));
        poller.round(&mut batch, Tick(at));
    }
    assert_eq!(ring.len(), 4, "as they came in and went out");
    let parsed = measured(&counters)[1];
    assert_eq!(
        parsed,
        ("parse", 1, 1),
        "the second came when time was over"
    );
}

#[test]
fn a_full_transmit_ring_is_a_drop_and_not_a_packet_that_went_out() {
    use fastpath::reason::DropReason;
    use fastpath::tap::{Moment, Switch, Tap, Wanted};

    let mut publisher = Publisher::new(tables(1, true));
    let mut poller = poller(&mut publisher, 1);
    let (ring, switch) = (Arc::new(ArrayQueue::new(64)), Arc::new(Switch::default()));
    switch.set(Some(Wanted {
        drops_only: false,
        port: None,
    }));
    let counters = Arc::clone(poller.pipeline.counters());
    poller.pipeline = poller
        .pipeline
        .with_tap(Tap::new(Arc::clone(&ring), switch, counters));
    for number in [1, 2] {
        assert!(poller.io.inject(POD, &datagram(POD_ADDR, number)));
    }
    poller.round(&mut Batch::default(), Tick(1));
    let moments: Vec<_> = std::iter::from_fn(|| ring.pop())
        .map(|it| it.moment)
        .collect();
    assert_eq!(moments[..3], [Moment::In, Moment::In, Moment::Out]);
    assert!(
        matches!(
            moments[3..],
            [Moment::Dropped {
                reason: DropReason::TxRingFull,
                ..
            }]
        ),
        "{moments:?}"
    );
}
