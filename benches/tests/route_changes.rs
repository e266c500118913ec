//! Routes change by the thousand while packets go through: no packet is lost, and the last change is in force.

mod uplinks;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use benches::rng::Rng;
use benches::scenario::udp4;
use crossbeam_queue::ArrayQueue;
use encap::eth::MacAddr;
use fastpath::batch::Batch;
use fastpath::counters::Counters;
use fastpath::event::Events;
use fastpath::io::mem::MemIo;
use fastpath::pipeline::Pipeline;
use fastpath::poller::{Notify, PollMode, Poller};
use fastpath::port::PortId;
use fastpath::snapshot::Publisher;
use fastpath::tables::Tables;
use flowtable::Tick;
use ipnet::IpNet;

use crate::uplinks::{GATEWAYS, Gateways, compiler, gateway_mac, prefix, via};

/// Where packets come from.
const IN: PortId = PortId(0);
/// Where they go.
const OUT: PortId = PortId(1);
const ROUTES: u32 = 50_000;
/// Routes that change together; packets go to all of them.
const CHANGED: u32 = 1000;
const CHANGES: u32 = 60;
const FRAMES: u32 = 512;
/// The longest that a poller may take to see a change, on a machine as busy as can be.
const PATIENCE: Duration = Duration::from_mins(1);

/// A packet to the /24 with this number, as it comes in.
fn packet(number: u32) -> Vec<u8> {
    let mut packet = udp4(0xc633_6401, 0x0a00_0007 + (number << 8), number);
    packet[..6].copy_from_slice(&[2, 0, 0, 0, 1, 0]);
    packet
}

/// The gateway that a packet went to.
fn gateway_of(packet: &[u8]) -> Option<u8> {
    (0..GATEWAYS).find(|&number| packet.starts_with(&gateway_mac(number).0))
}

/// What the poller's thread saw.
struct Seen {
    poller: Poller<MemIo>,
    injected: u64,
    /// Changes of the tables between two batches.
    changes: u64,
}

/// Takes packets to all changed routes through the pipeline until told to stop.
fn forward(mut poller: Poller<MemIo>, stop: &AtomicBool) -> Seen {
    let packets: Vec<_> = (0..CHANGED).map(packet).collect();
    let mut batch = Batch::default();
    let (mut injected, mut changes, mut generation) = (0, 0, 0);
    let mut next = packets.iter().cycle();
    while !stop.load(Ordering::Relaxed) {
        for packet in next.by_ref().take(64) {
            assert!(poller.io.inject(IN, packet));
            injected += 1;
        }
        poller.round(&mut batch, Tick(injected));
        for gateway in poller.io.take_sent(OUT, gateway_of) {
            assert!(gateway.is_some(), "sent to nobody");
        }
        let now = poller.tables.current().generation;
        changes += u64::from(now != generation);
        generation = now;
    }
    Seen {
        poller,
        injected,
        changes,
    }
}

#[test]
fn a_thousand_routes_change_under_load_and_no_packet_is_lost() {
    let mut compiler = compiler(ROUTES);
    let mut publisher = Publisher::<Tables>::new(compiler.tables(&Gateways));
    let counters = Arc::new(Counters::new(2));
    let stop = Arc::new(AtomicBool::new(false));
    let poller = Poller {
        io: MemIo::new(FRAMES, 2048, 2, FRAMES as usize),
        pipeline: Pipeline::new(
            Arc::clone(&counters),
            Events::new(Arc::new(ArrayQueue::new(64))),
        ),
        tables: publisher.subscribe(),
        mode: PollMode::Busy,
        stop: Arc::clone(&stop),
        notify: Notify(Arc::new(|| {})),
    };
    let thread = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || forward(poller, &stop)
    });

    // What is in force, by the number of the /24; None: the default route.
    let mut model: Vec<_> = (0..CHANGED).map(|it| Some((it % 8) as u8)).collect();
    let mut rng = Rng::new(1);
    for _ in 0..CHANGES {
        for hop in &mut model {
            *hop = (rng.below(4) > 0).then(|| rng.below(GATEWAYS.into()) as u8);
        }
        let hops: Vec<_> = model.iter().map(|hop| hop.map(via)).collect();
        let changes = (0..).zip(&hops).map(|(it, hop)| (prefix(it), hop.as_ref()));
        compiler
            .kernel_routes(changes.collect::<Vec<(IpNet, _)>>())
            .expect("the routes fit");
        let generation = publisher.publish(compiler.tables(&Gateways));
        let started = Instant::now();
        while publisher.in_force() < generation {
            assert!(started.elapsed() < PATIENCE, "the poller sees no change");
            std::thread::yield_now();
        }
    }
    stop.store(true, Ordering::Relaxed);
    let mut seen = thread.join().expect("the poller's checks hold");

    assert_eq!(counters.rx.get(), seen.injected);
    assert_eq!(counters.tx.get(), seen.injected, "every packet went on");
    assert_eq!(counters.dropped.get(), 0);
    assert!(counters.is_balanced());
    assert_eq!(
        seen.poller.io.free_chunks(),
        FRAMES as usize,
        "no frame is lost"
    );
    assert!(
        seen.changes >= u64::from(CHANGES),
        "{} changes seen",
        seen.changes
    );
    assert_eq!(publisher.collect(), 1, "old tables are freed");

    // The last change is in force, route by route.
    let mut batch = Batch::default();
    for (number, hop) in (0..).zip(model) {
        assert!(seen.poller.io.inject(IN, &packet(number)));
        seen.poller.round(&mut batch, Tick(0));
        let sent = seen.poller.io.take_sent(OUT, |packet| {
            MacAddr(*packet.first_chunk().expect("an Ethernet header"))
        });
        assert_eq!(
            sent,
            [gateway_mac(hop.unwrap_or(0))],
            "to /24 number {number}"
        );
    }
}
