//! What a connection's packets meet does not depend on how they are decided: by what was remembered of the tables in
//! force, or anew; at one poller, or at two (OVS CVE-2023-1668: a cached verdict that is not the slow path's).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use fastpath::batch::Fate;
use fastpath::port::PortId;
use fastpath::reason::DropReason;
use flowtable::flow::Capacity;
use pcap_tests::choices::Choices;
use pcap_tests::oracle::masked;
use pcap_tests::rig::Rig;
use pcap_tests::show;
use proptest::prelude::*;

use crate::node::*;
use crate::schedule::{Event, Plan, first_tables, make_stale, time};
use crate::traffic::Traffic;

/// What came out of an event: fates, and what each port sent, in no order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Result {
    pub(crate) fates: Vec<Fate>,
    sent: Vec<Vec<Vec<u8>>>,
}

impl Result {
    pub(crate) fn new(fates: Vec<Fate>, sent: Vec<Vec<Vec<u8>>>) -> Self {
        let sent = sent.into_iter().map(|frames| {
            let mut frames: Vec<_> = frames.iter().map(|frame| plain(frame)).collect();
            frames.sort_unstable();
            frames
        });
        Self {
            fates,
            sent: sent.collect(),
        }
    }

    fn show(&self) -> String {
        let sent = self.sent.iter().enumerate().flat_map(|(port, frames)| {
            let frames = frames.iter();
            frames.map(move |frame| format!("out by {port}\n{}", show::frame(frame)))
        });
        format!("{:?}\n{}", self.fates, sent.collect::<String>())
    }
}

/// A frame without what the node may choose: the identification of an outer header.
fn plain(frame: &[u8]) -> Vec<u8> {
    let is_tunnel = frame.len() > 50 && frame[12..14] == [8, 0] && frame[36..38] == [0x12, 0xb5];
    masked(frame, is_tunnel)
}

/// A node, of one poller or of two, to which events happen.
pub(crate) trait Node {
    fn packets(&mut self, port: PortId, frames: &[Vec<u8>]) -> Result;
    fn each(&mut self) -> Vec<&mut Rig>;

    fn happens(&mut self, plan: &Plan, event: &Event) -> Result {
        match event {
            Event::Packets(port, frames) => return self.packets(*port, frames),
            Event::Change(change) => {
                for rig in self.each() {
                    change.apply(plan, rig);
                }
            }
            Event::Pass(time) => {
                // Pollers' clocks go together.
                let steps = time.as_millis() / 100;
                for _ in 0..steps {
                    for rig in self.each() {
                        rig.pass(Duration::from_millis(100));
                    }
                }
            }
        }
        let mut all = vec![Vec::new(); 4];
        for rig in self.each() {
            for (all, sent) in all.iter_mut().zip(rig.sent()) {
                all.extend(sent);
            }
        }
        Result::new(Vec::new(), all)
    }
}

/// Uses what it remembers.
pub(crate) struct Cached(pub(crate) Rig);

impl Node for Cached {
    fn packets(&mut self, port: PortId, frames: &[Vec<u8>]) -> Result {
        let outcome = self.0.run_now(port, frames);
        Result::new(outcome.fates, outcome.sent)
    }

    fn each(&mut self) -> Vec<&mut Rig> {
        vec![&mut self.0]
    }
}

/// Decides each packet anew.
struct Stale(Rig);

impl Node for Stale {
    fn packets(&mut self, port: PortId, frames: &[Vec<u8>]) -> Result {
        let (mut fates, mut sent) = (Vec::new(), vec![Vec::new(); 4]);
        for frame in frames {
            make_stale(&mut self.0);
            let outcome = self.0.run_now(port, std::slice::from_ref(frame));
            fates.extend(outcome.fates);
            for (all, sent) in sent.iter_mut().zip(outcome.sent) {
                all.extend(sent);
            }
        }
        Result::new(fates, sent)
    }

    fn each(&mut self) -> Vec<&mut Rig> {
        vec![&mut self.0]
    }
}

/// Two pollers: one for what comes from outside, one for the rest.
struct Two(Rig, Rig);

impl Node for Two {
    fn packets(&mut self, port: PortId, frames: &[Vec<u8>]) -> Result {
        let rig = if port == UPLINK {
            &mut self.1
        } else {
            &mut self.0
        };
        let outcome = rig.run_now(port, frames);
        Result::new(outcome.fates, outcome.sent)
    }

    fn each(&mut self) -> Vec<&mut Rig> {
        vec![&mut self.0, &mut self.1]
    }
}

/// Big enough that nothing is evicted, nor refused for want of room.
pub(crate) fn room() -> Capacity {
    Capacity::new(4096).expect("a power of two")
}

pub(crate) fn rig() -> Rig {
    Rig::new(first_tables(&Plan::default())).with_room_for(room())
}

fn two() -> Two {
    let first = rig();
    let shared = Arc::clone(first.connections());
    let first = Rig::new(first_tables(&Plan::default()));
    let second = Rig::new(first_tables(&Plan::default()));
    Two(
        first.with_part_of(Arc::clone(&shared), (0, 2)),
        second.with_part_of(shared, (1, 2)),
    )
}

/// Lets the same happen to both, and compares. The events are decided by the bytes and by what the first one sends.
pub(crate) fn compare(
    one: &mut impl Node,
    other: &mut impl Node,
    mut traffic: Traffic,
    bytes: &[Vec<u8>],
) -> std::result::Result<usize, String> {
    let mut plan = Plan::default();
    let mut story = String::new();
    let mut forwarded = 0;
    let mut long_times = 0;
    for bytes in bytes {
        let choices = &mut Choices::new(bytes);
        let event = match choices.below(8) {
            6 => Event::Change(plan.changed(choices)),
            7 => match time(choices) {
                // Not so often that sums of these come near a timeout.
                time if time > Duration::from_secs(1) && long_times == 7 => {
                    Event::Pass(Duration::from_millis(100))
                }
                time => Event::Pass(time),
            },
            _ => packets(choices, &mut traffic),
        };
        long_times += usize::from(matches!(&event, Event::Pass(time) if time.as_secs() > 1));
        story += &tell(&event);
        let (a, b) = (one.happens(&plan, &event), other.happens(&plan, &event));
        let is_batch = matches!(&event, Event::Packets(_, frames) if frames.len() > 1);
        if is_batch && a.fates.contains(&Fate::Drop(DropReason::FlowEnded)) {
            // The others of the batch that were found to be of the same connection end with it; alone they might begin another.
            return Ok(forwarded);
        }
        if a != b {
            return Err(format!(
                "{story}\none\n{}\nthe other\n{}",
                a.show(),
                b.show()
            ));
        }
        traffic.note(&a.sent);
        forwarded += a
            .fates
            .iter()
            .filter(|fate| matches!(fate, Fate::Transmit(_)))
            .count();
        if let Event::Change(change) = event {
            plan = change.plan;
        }
        // Let the counts say the same too: who is gone, and whose there are.
        let (a, b) = (counts(one), counts(other));
        if a != b {
            return Err(format!("{story}\n{a:?}\n{b:?}"));
        }
    }
    Ok(forwarded)
}

/// Connections of each family, and of each endpoint.
fn counts(node: &mut impl Node) -> Vec<u32> {
    let rig = &node.each()[0];
    let connections = rig.connections();
    let mut counts = vec![connections.v4.len(), connections.v6.len()];
    for port in 0..4 {
        counts.push(connections.v4.quota.count(port));
        counts.push(connections.v6.quota.count(port));
    }
    counts
}

/// One packet, or several that come in by the same port.
fn packets(choices: &mut Choices<'_>, traffic: &mut Traffic) -> Event {
    let (port, frame) = traffic.next(choices);
    let mut frames = vec![frame];
    if choices.once_in(3) {
        for _ in 0..3 {
            let (other, frame) = traffic.another(choices);
            if other == port {
                frames.push(frame);
            }
        }
    }
    Event::Packets(port, frames)
}

fn tell(event: &Event) -> String {
    match event {
        Event::Packets(port, frames) => {
            let frames: String = frames.iter().map(|frame| show::frame(frame)).collect();
            format!("into {port:?}\n{frames}")
        }
        other => format!("{other:?}\n"),
    }
}

/// What events are decided by. The story of a failure tells more than these bytes.
#[derive(Clone)]
pub(crate) struct Bytes(pub(crate) Vec<Vec<u8>>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} events", self.0.len())
    }
}

pub(crate) fn bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 60), 1..80).prop_map(Bytes)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_was_remembered_is_what_would_be_decided(bytes in bytes()) {
        let traffic = Traffic::new(true);
        let outcome = compare(&mut Cached(rig()), &mut Stale(rig()), traffic, &bytes.0);
        prop_assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
    }

    #[test]
    fn two_pollers_are_as_one(bytes in bytes()) {
        // Pollers draw ports each for itself: here only one of them does.
        let outcome = compare(&mut Cached(rig()), &mut two(), Traffic::new(false), &bytes.0);
        prop_assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
    }
}

/// Whatever happens, in the end nothing is left of it: no connection, and none that an endpoint still counts.
fn comes_to_an_end(bytes: &[Vec<u8>]) -> std::result::Result<(), String> {
    let (mut plan, mut traffic, mut node) = (Plan::default(), Traffic::new(true), Cached(rig()));
    for bytes in bytes {
        let choices = &mut Choices::new(bytes);
        let event = match choices.below(12) {
            11 => Event::Change(plan.changed(choices)),
            _ => packets(choices, &mut traffic),
        };
        traffic.note(&node.happens(&plan, &event).sent);
        if let Event::Change(change) = event {
            plan = change.plan;
        }
    }
    node.0
        .pass_roughly(Duration::from_hours(9), Duration::from_secs(2));
    let left = counts(&mut node);
    if left.iter().all(|count| *count == 0) {
        Ok(())
    } else {
        Err(format!("{left:?}"))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn in_the_end_nothing_is_left(bytes in bytes()) {
        let outcome = comes_to_an_end(&bytes.0);
        prop_assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
    }
}
