//! Policy changes while a poller works: each packet is judged by one policy, never by parts of two, and none is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use fastpath::batch::Batch;
use fastpath::connections::{Connections, Sizes, Tracker};
use fastpath::counters::Counters;
use fastpath::event::Events;
use fastpath::io::mem::MemIo;
use fastpath::pipeline::Pipeline;
use fastpath::poller::{Notify, PollMode, Poller};
use fastpath::reason::DropReason;
use fastpath::snapshot::Publisher;
use fastpath::tables::Tables;
use flowtable::Tick;
use flowtable::acl::{Action, Member, Net, Rule, RuleId, SetId, SetWriter, Side};
use flowtable::flow::Capacity;
use flowtable::lpm::Prefix4;
use pcap_tests::build::ip4;

use crate::node::*;
use crate::policy::{endpoint, put, to_port};

const CHANGES: u64 = 500;
const FRAMES: u32 = 512;
/// Packets of a batch: as many to each of the three ports.
const BATCH: u16 = 63;
/// The longest that a poller may take to see a change, on a machine as busy as can be.
const PATIENCE: Duration = Duration::from_mins(1);

/// One of two policies that say the opposite of each other. POD may send to port 80 if OTHER is in a set, which is so in the
/// first, and to 81 in the second; OTHER lets in 81 in the first and 80 in the second. So neither lets anything to 80 or
/// 81: only the sets or the rules of one with the rules of the other. Both let everything to 82.
fn policy(second: bool) -> Tables {
    let mut tables = tables(1024..=65_535);
    let to = |port, first| {
        let action = if first == second {
            Action::Deny
        } else {
            Action::Allow
        };
        to_port(u32::from(port), action, port)
    };
    let in_set = Rule {
        destination: Side {
            sets: vec![SetId(0)],
            ..to_port(80, Action::Allow, 80).destination
        },
        ..to_port(80, Action::Allow, 80)
    };
    let always = || to_port(82, Action::Allow, 82);
    let policies = &mut tables.policies;
    policies.counters.grow(RuleId(100));
    put(
        policies,
        POD,
        endpoint(vec![], vec![in_set, to(81, false), always()]),
    );
    put(
        policies,
        OTHER,
        endpoint(vec![to(81, true), to(80, false), always()], vec![]),
    );
    let mut sets = SetWriter::with_limit(1 << 20);
    if !second {
        let other = Prefix4::new(v4(OTHER_ADDR).to_bits(), 32).expect("an address");
        let other = Member::Net(Net::V4(other));
        sets.add(SetId(0), &other).expect("there is room");
    }
    policies.sets = sets.snapshot();
    tables
}

/// What the poller's thread saw.
#[derive(Default)]
struct Seen {
    sent_to_82: u64,
    injected: u64,
    changes: u64,
}

/// Takes packets to the three ports through the pipeline until told to stop: new connections, known ones, and denied ones.
fn forward(mut poller: Poller<MemIo>, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let mut batch = Batch::default();
    let (mut source, mut generation) = (0_u16, 0);
    while !stop.load(Ordering::Relaxed) {
        for number in 0..BATCH {
            // A thousand connections to each port, each met again and again.
            let sport = 20_000 + (source + number) % 3000;
            let query = ip4(POD_ADDR, OTHER_ADDR).udp(sport, 80 + sport % 3, b"query");
            assert!(poller.io.inject(POD, &from_pod(&query)));
            seen.injected += 1;
            seen.sent_to_82 += u64::from(sport % 3 == 2);
        }
        source = (source + BATCH) % 3000;
        poller.round(&mut batch, Tick(seen.injected));
        for port in poller.io.take_sent(OTHER, |frame| [frame[36], frame[37]]) {
            assert_eq!(port, [0, 82], "let through by no policy that there was");
        }
        let now = poller.tables.current().generation;
        seen.changes += u64::from(now != generation);
        generation = now;
    }
    seen
}

#[test]
fn no_packet_is_judged_by_a_mix_of_two_policies_and_none_is_lost() {
    let both = [policy(false), policy(true)];
    let mut publisher = Publisher::<Tables>::new(both[0].clone());
    let counters = Arc::new(Counters::new(4));
    let stop = Arc::new(AtomicBool::new(false));
    let sizes = Sizes {
        v4: Capacity::new(1 << 14).expect("a power of two"),
        v6: Capacity::MIN,
        ports: 4,
        share_percent: 100,
    };
    let connections = Arc::new(Connections::new(&sizes, [1, 2, 3, 4]));
    let events = Events::new(Arc::new(ArrayQueue::new(64)));
    let poller = Poller {
        io: MemIo::new(FRAMES, 2048, 4, FRAMES as usize),
        pipeline: Pipeline::new(Arc::clone(&counters), events).with_connections(Tracker::new(
            connections,
            (0, 1),
            [5, 6],
        )),
        tables: publisher.subscribe(),
        mode: PollMode::Busy,
        stop: Arc::clone(&stop),
        notify: Notify(Arc::new(|| {})),
    };
    let thread = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || forward(poller, &stop)
    });
    for change in 1..=CHANGES {
        let mut tables = both[usize::from(change % 2 == 1)].clone();
        tables.generation += change;
        let generation = publisher.publish(tables);
        let started = Instant::now();
        while publisher.in_force() < generation && !thread.is_finished() {
            assert!(started.elapsed() < PATIENCE, "the poller sees no change");
            std::thread::yield_now();
        }
    }
    stop.store(true, Ordering::Relaxed);
    let seen = thread.join().expect("the poller's checks hold");

    assert!(seen.changes >= CHANGES, "{} changes seen", seen.changes);
    assert_eq!(counters.rx.get(), seen.injected);
    assert_eq!(
        counters.tx.get(),
        seen.sent_to_82,
        "all to 82, and no other"
    );
    let denied = counters.drops(POD, DropReason::PolicyDeny).expect("a port");
    assert_eq!(denied.get(), seen.injected - seen.sent_to_82);
    assert!(counters.is_balanced());
}
