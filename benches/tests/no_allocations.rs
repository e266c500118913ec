//! The packet path allocates nothing once it is warm: counted over ten thousand batches of every kind.
//!
//! One test, so that no other thread allocates beside it.

use std::sync::Arc;

use benches::alloc::{self, Counting};
use benches::scenario::{Chain, POD4, Scenario, fragments4, no_connections, udp4_of, unreachable4};
use crossbeam_queue::ArrayQueue;
use encap::checksum;
use fastpath::batch::Batch;
use fastpath::connections::{Connections, Sizes, Tracker};
use fastpath::counters::{Counter, Counters};
use fastpath::event::Events;
use fastpath::group::{Group, Spread};
use fastpath::io::PacketIo;
use fastpath::io::mem::MemIo;
use fastpath::pipeline::Pipeline;
use fastpath::port::PortId;
use fastpath::reason::DropReason;
use fastpath::stage::egress::Observe;
use fastpath::stopwatch::{Stage, Stopwatch, Until};
use fastpath::tables::{Adjacency, NextHop};
use fastpath::tap::{Copied, Switch, Tap, Wanted};
use flowtable::Tick;
use flowtable::flow::Capacity;
use flowtable::lpm::NextHopId;

#[global_allocator]
static ALLOC: Counting = Counting;

const BATCHES: u64 = 10_000;
const WARM_UP: u64 = 100;
const TOGETHER: usize = 16;
/// Between two batches: long enough for as many ICMP errors as a batch has packets, or for connections to expire.
const PAUSE: u64 = 1_000_000_000;
/// So short that no connection expires.
const SHORT_PAUSE: u64 = 10_000_000;

/// What a case must have done, to have tested anything.
#[derive(Clone, Copy, Debug)]
enum Proof {
    /// Every packet went on.
    Forwarded,
    /// Every packet was dropped for this reason, and answered.
    Answered(DropReason),
    /// Every packet went on in pieces.
    Fragmented,
    /// Every packet went on; connections were made, and expired.
    MadeAndExpired,
    /// Connections were made, at the cost of others; what found none to take the place of was dropped.
    MadeAndEvicted,
    /// Some packets went on, and the others were dropped for this reason.
    Refused(DropReason),
}

#[test]
fn the_steady_state_allocates_nothing() {
    for chain in Chain::ALL {
        if chain != Chain::Forward4Bgp {
            let scenario = Scenario::new(chain, 64);
            let packets: Vec<_> = scenario.packets(0, 64).map(<[u8]>::to_vec).collect();
            check(chain.name(), &scenario, &packets, Proof::Forwarded);
        }
    }
    let (plain, vxlan) = (
        Scenario::new(Chain::Forward4, 64),
        Scenario::new(Chain::Vxlan4, 64),
    );
    let to = |scenario: &Scenario, len, flags_and_ttl| {
        let packet = |flow: u32| {
            // Some destination behind a route.
            let known = scenario.packet(flow as usize);
            let dst = u32::from_be_bytes(known[30..34].try_into().expect("four bytes"));
            udp4_of(len, flags_and_ttl, POD4 + 1, dst, flow)
        };
        (0..64).map(packet).collect::<Vec<_>>()
    };
    let expired = to(&plain, 64, [0x40, 1]);
    let proof = Proof::Answered(DropReason::TtlExpired);
    check("time exceeded", &plain, &expired, proof);
    let too_big = to(&vxlan, 1500, [0x40, 64]);
    let proof = Proof::Answered(DropReason::MtuExceeded);
    check("fragmentation needed", &vxlan, &too_big, proof);
    for (name, scenario) in [("fragments", &plain), ("fragments in VXLAN", &vxlan)] {
        let long = to(scenario, 1900, [0, 64]);
        check(name, scenario, &long, Proof::Fragmented);
    }

    let translated = Scenario::new(Chain::Snat4Reply, 64);
    // Errors alone keep no connection alive.
    let errors: Vec<_> = translated
        .packets(0, 64)
        .flat_map(|answer| [answer.to_vec(), unreachable4(answer)])
        .collect();
    check(
        "ICMP errors, translated",
        &translated,
        &errors,
        Proof::Forwarded,
    );
    // So many that each has expired when its turn comes again: made, swept and made.
    for (chain, flows) in [
        (Chain::State4, 4096),
        (Chain::Snat4, 4096),
        (Chain::Snat6, 4096),
    ] {
        let mut scenario = Scenario::beginning(chain, flows);
        scenario.connections = Some(no_connections(chain, flows));
        let packets: Vec<_> = scenario.packets(0, flows).map(<[u8]>::to_vec).collect();
        check(
            "new connections",
            &scenario,
            &packets,
            Proof::MadeAndExpired,
        );
        if chain == Chain::Snat4 {
            let destination =
                |packet: &[u8]| u32::from_be_bytes(packet[30..34].try_into().expect("four bytes"));
            let pieces: Vec<_> = (0..)
                .zip(&packets)
                .flat_map(|(flow, packet)| fragments4(POD4 + 1, destination(packet), flow))
                .collect();
            scenario.connections = Some(no_connections(chain, flows));
            check(
                "fragments, translated",
                &scenario,
                &pieces,
                Proof::MadeAndExpired,
            );
        }
    }
    over_two_legs();
    of_protocols_without_ports();
    at_a_share();
    while_somebody_captures();
    while_somebody_measures();
}

/// Every stage is timed, in rounds as a poller has them.
fn while_somebody_measures() {
    let scenario = Scenario::new(Chain::Vxlan4, 64);
    let packets: Vec<_> = scenario.packets(0, 64).map(<[u8]>::to_vec).collect();
    let (until, counters) = (Arc::new(Until::default()), Arc::new(Counters::new(0)));
    until.extend(Tick(u64::MAX));
    let mut stopwatch = Stopwatch::new(until, Arc::clone(&counters));
    assert!(stopwatch.look(Tick(0)));
    let (name, proof) = ("while somebody measures", Proof::Forwarded);
    let nothing = ArrayQueue::new(1);
    check_observed((name, proof), &scenario, &packets, &mut stopwatch, &nothing);
    let ((), footprint) = alloc::measure(|| {
        stopwatch.finish();
        assert!(stopwatch.look(Tick(1)));
        stopwatch.finish();
    });
    assert_eq!(footprint.allocations, 0, "{name}");
    let parsed = &counters.measured.stages[Stage::Parse as usize];
    let count = WARM_UP + BATCHES;
    let expected = (count, count * TOGETHER as u64);
    assert_eq!((parsed.calls.get(), parsed.packets.get()), expected);
}

/// New connections, whose routes have two legs each.
fn over_two_legs() {
    for chain in [Chain::State4, Chain::Snat4, Chain::Snat6] {
        let flows = 4096;
        let mut scenario = Scenario::beginning(chain, flows);
        scenario.connections = Some(no_connections(chain, flows));
        let tables = &mut scenario.tables;
        tables.spreads = vec![Spread::new(|bucket| (bucket % 2) as u8)];
        for hop in 0..tables.next_hops.len() {
            let leg = tables.next_hops[hop];
            let NextHop::Send(Adjacency {
                way, peer, port, ..
            }) = leg
            else {
                continue;
            };
            let first = NextHopId::new(tables.next_hops.len() as u16).expect("few");
            tables.next_hops.extend([leg, leg]);
            tables.next_hops[hop] = NextHop::Group(Group {
                first,
                spread: 0,
                way,
                peer,
                port,
            });
        }
        let packets: Vec<_> = scenario.packets(0, flows).map(<[u8]>::to_vec).collect();
        let name = "new connections over two legs";
        check(name, &scenario, &packets, Proof::MadeAndExpired);
    }
}

/// Everything is copied, and taken.
fn while_somebody_captures() {
    let scenario = Scenario::new(Chain::Vxlan4, 64);
    let packets: Vec<_> = scenario.packets(0, 64).map(<[u8]>::to_vec).collect();
    let copies = Arc::new(ArrayQueue::new(4 * TOGETHER));
    let switch = Arc::new(Switch::default());
    switch.set(Some(Wanted {
        drops_only: false,
        port: None,
    }));
    let counters = Arc::new(Counters::new(0));
    let mut tap = Tap::new(Arc::clone(&copies), switch, Arc::clone(&counters));
    assert!(tap.look(Tick(0), 1));
    let (name, proof) = ("while somebody captures", Proof::Forwarded);
    let count = check_observed((name, proof), &scenario, &packets, &mut tap, &copies);
    let captured = (WARM_UP + BATCHES) * TOGETHER as u64 * 2;
    assert_eq!((count, counters.copies_lost.get()), (captured, 0), "{name}");
}

/// So many connections by natOutgoing that each has expired when its turn comes again.
fn of_protocols_without_ports() {
    const GRE: u8 = 47;
    let flows = 16_384;
    let mut scenario = Scenario::beginning(Chain::Snat4, flows);
    scenario.connections = Some(no_connections(Chain::Snat4, flows));
    let packets: Vec<_> = scenario
        .packets(0, flows)
        .map(|packet| changed4(packet, |packet| packet[23] = GRE))
        .collect();
    let name = "protocols without ports, translated";
    check(name, &scenario, &packets, Proof::MadeAndExpired);
}

/// A pod that goes on where it has its share: of the table, and of the ports of a destination.
fn at_a_share() {
    let mut scenario = Scenario::beginning(Chain::Snat4, 65_536);
    let sizes = Sizes {
        v4: Capacity::MIN,
        v6: Capacity::MIN,
        ports: 64,
        share_percent: 50,
    };
    scenario.connections = Some(Arc::new(Connections::new(&sizes, [1, 2, 3, 4])));
    let packets: Vec<_> = scenario
        .packets(0, scenario.flows())
        .map(<[u8]>::to_vec)
        .collect();
    let name = "a pod's share of the table";
    check(name, &scenario, &packets, Proof::MadeAndEvicted);

    // More connections to one port of one destination than a pod may have.
    let (to, service) = (scenario.packet(0)[30..34].to_vec(), 53_u16.to_be_bytes());
    let packets: Vec<_> = (1024..60_000_u16)
        .zip(&packets)
        .map(|(port, packet)| {
            changed4(packet, |packet| {
                packet[30..34].copy_from_slice(&to);
                packet[34..36].copy_from_slice(&port.to_be_bytes());
                packet[36..38].copy_from_slice(&service);
                packet[40..42].fill(0);
            })
        })
        .collect();
    scenario.connections = Some(no_connections(Chain::Snat4, packets.len()));
    let proof = Proof::Refused(DropReason::NatPortsQuota);
    check("a pod's share of ports", &scenario, &packets, proof);
}

/// A frame of IPv4 with something changed, and the header's checksum right again.
fn changed4(packet: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut packet = packet.to_vec();
    change(&mut packet);
    packet[24..26].fill(0);
    let sum = checksum::of(&packet[14..34]);
    packet[24..26].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn check(name: &str, scenario: &Scenario, packets: &[Vec<u8>], proof: Proof) {
    let nothing = ArrayQueue::new(1);
    check_observed((name, proof), scenario, packets, &mut (), &nothing);
}

/// Runs a case under an observer, and takes what it copies. Returns how many copies there were.
fn check_observed(
    (name, proof): (&str, Proof),
    scenario: &Scenario,
    packets: &[Vec<u8>],
    observer: &mut impl Observe,
    copies: &ArrayQueue<Copied>,
) -> u64 {
    let ports = scenario.tables.ports.len();
    let counters = Arc::new(Counters::new(ports));
    let events = Events::new(Arc::new(ArrayQueue::new(64)));
    let mut pipeline = Pipeline::new(Arc::clone(&counters), events);
    if let Some(connections) = &scenario.connections {
        let tracker = Tracker::new(Arc::clone(connections), (0, 1), [7, 8]);
        pipeline = pipeline.with_connections(tracker);
    }
    let mut io = MemIo::new(256, 2048, ports, 256);
    let mut batch = Batch::default();
    let port = scenario.in_ports()[0];
    let mut now = Tick(0);
    let pause = match proof {
        Proof::Forwarded | Proof::MadeAndEvicted | Proof::Refused(_) => SHORT_PAUSE,
        Proof::Answered(_) | Proof::Fragmented | Proof::MadeAndExpired => PAUSE,
    };
    let mut next = packets.iter().cycle();
    let mut copied = 0;
    let mut run = |batches: u64| {
        for _ in 0..batches {
            now = Tick(now.0 + pause);
            for packet in next.by_ref().take(TOGETHER) {
                assert!(io.inject(port, packet));
            }
            io.recv(port.0.into(), &mut batch);
            pipeline.run(&mut batch, &mut io, &scenario.tables, port, now, observer);
            pipeline.run_timers(&mut io, &scenario.tables, now, observer);
            while copies.pop().is_some() {
                copied += 1;
            }
            for port in (0..ports as u16).map(PortId) {
                io.discard_sent(port);
            }
        }
    };
    run(WARM_UP);
    let ((), footprint) = alloc::measure(|| run(BATCHES));
    assert_eq!(footprint.allocations, 0, "{name}");

    let count = (WARM_UP + BATCHES) * TOGETHER as u64;
    let (tx, originated) = (counters.tx.get(), counters.originated.get());
    let drops = |reason| counters.drops(port, reason).map_or(0, Counter::get);
    match proof {
        Proof::Forwarded => {
            assert_eq!((tx, originated), (count, 0), "{name}");
            assert_eq!(counters.connections_made.get(), 0, "{name}");
        }
        Proof::Answered(reason) => {
            assert_eq!((drops(reason), originated), (count, count), "{name}");
        }
        Proof::MadeAndEvicted => {
            // Seldom a line of so small a table is full.
            let refused = drops(DropReason::FlowQuota) + drops(DropReason::FlowTableFull);
            assert_eq!(tx + refused, count, "{name}");
            let evicted = counters.connections_evicted.get();
            assert!(evicted > 10_000 && refused > 10_000, "{name}: {evicted}");
        }
        Proof::Refused(reason) => {
            let refused = drops(reason);
            assert_eq!(tx + refused, count, "{name}");
            assert!(tx > 10_000 && refused > 10_000, "{name}: {refused}");
        }
        Proof::MadeAndExpired => {
            let (made, expired) = (&counters.connections_made, &counters.connections_expired);
            assert_eq!((tx, originated), (count, 0), "{name}");
            assert!(made.get() > 10_000 && expired.get() > 10_000, "{name}");
        }
        Proof::Fragmented => assert_eq!((tx, originated), (count, count), "{name}"),
    }
    assert!(counters.is_balanced(), "{name}");
    copied
}
