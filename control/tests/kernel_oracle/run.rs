//! Sends a script's packets into both nodes and collects what comes out.

use std::collections::BTreeMap;
use std::ops::RangeFrom;
use std::thread;
use std::time::{Duration, Instant};

use crate::compare::{Outcome, Output};
use crate::frame::TYPE_IPV4;
use crate::plan::{OUTSIDE4, POD1_4};
use crate::script::{Key, Probe, Script, Side, macs, udp4};
use crate::tap::Tap;
use crate::view::View;

/// A node, by the far ends of its links.
pub(crate) struct Dataplane {
    pub(crate) name: &'static str,
    pub(crate) taps: BTreeMap<Side, Tap>,
}

/// Between packets: ICMP errors are limited to 100 a second and source.
const PACE: Duration = Duration::from_millis(11);
/// How many packets may wait for a node that gets no time: fewer than the ICMP errors that may go out at once.
const AHEAD: usize = 20;
/// Identifications of the packets that say how far a node is.
const MEETINGS: u16 = 0xf000;
/// How long both may take to forward a packet, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// What is not in order behind the last packet, if anything, comes within this time.
const SETTLE: Duration = Duration::from_millis(300);
/// How long a neighbour may take to fail: three questions, a second apart, and some more.
const SLOW: Duration = Duration::from_secs(8);

type Received = Vec<Output>;

/// Sends all of `script` into both; what each packet became.
pub(crate) fn run(script: &Script, kernel: &Dataplane, caracal: &Dataplane) -> Vec<Outcome> {
    let both = [kernel, caracal];
    let mut received: [Received; 2] = [Vec::new(), Vec::new()];
    let mut ids = MEETINGS..;
    // A node that has just started may not forward yet.
    meet(&both, &mut received, &mut ids);
    for probes in script.probes().chunks(AHEAD) {
        for probe in probes {
            let next = Instant::now() + PACE;
            for node in both {
                node.taps[&probe.side].send(&probe.frame);
            }
            collect(&both, &mut received);
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        meet(&both, &mut received, &mut ids);
    }
    let deadline = Instant::now() + SETTLE;
    while Instant::now() < deadline {
        collect(&both, &mut received);
        thread::sleep(PACE);
    }
    let slow: Vec<&Probe> = script.probes().iter().filter(|probe| probe.slow).collect();
    let deadline = Instant::now() + SLOW;
    while Instant::now() < deadline && !slow.iter().all(|probe| answered(probe, &received)) {
        collect(&both, &mut received);
        thread::sleep(PACE);
    }
    sort_out(script, &both, received)
}

fn answered(probe: &Probe, received: &[Received; 2]) -> bool {
    received.iter().all(|outputs| {
        outputs
            .iter()
            .any(|output| output.view.key == Some(probe.key))
    })
}

/// Takes what came out of both.
fn collect(both: &[&Dataplane; 2], received: &mut [Received; 2]) {
    for (node, received) in both.iter().zip(received) {
        for (&side, tap) in &node.taps {
            while let Some(frame) = tap.receive() {
                if !is_noise(&frame) {
                    let view = View::of(&frame);
                    received.push(Output { side, view });
                }
            }
        }
    }
}

/// Waits until a plain packet has come through both nodes both ways: all before it have, too.
fn meet(both: &[&Dataplane; 2], received: &mut [Received; 2], ids: &mut RangeFrom<u16>) {
    let there = |received: &Received, key: Key| {
        let mut outputs = received.iter();
        outputs.any(|output| output.view.key == Some(key))
    };
    let ways = [
        (Side::Pod1, POD1_4, OUTSIDE4),
        (Side::Wire, OUTSIDE4, POD1_4),
    ];
    for ((side, src, dst), id) in ways.into_iter().zip(ids.by_ref()) {
        let mut ip = udp4(src, dst, 32);
        ip.id = id;
        let (to, from) = macs(side);
        let frame = crate::frame::ethernet(to, from, TYPE_IPV4, &ip.bytes());
        let deadline = Instant::now() + PATIENCE;
        let mut again = Instant::now();
        loop {
            let missing = |index: usize| !there(&received[index], Key::Id(id));
            let missing: Vec<usize> = (0..2).filter(|&index| missing(index)).collect();
            if missing.is_empty() {
                break;
            }
            let name = both[missing[0]].name;
            assert!(
                Instant::now() < deadline,
                "{name} does not forward a plain packet that comes in by {}",
                side.name()
            );
            if Instant::now() >= again {
                for index in missing {
                    both[index].taps[&side].send(&frame);
                }
                again += Duration::from_secs(1);
            }
            thread::sleep(Duration::from_millis(2));
            collect(both, received);
        }
    }
}

/// ARP, neighbour discovery and group membership: what stacks say of their own accord.
pub(crate) fn is_noise(frame: &[u8]) -> bool {
    let ethertype = frame.get(12..14);
    if ethertype == Some(&[0x08, 0x06]) {
        return true;
    }
    let is = |at: usize, values: &[u8]| frame.get(at).is_some_and(|byte| values.contains(byte));
    let discovery = [133, 134, 135, 136, 137, 130, 131, 132, 143];
    // Membership reports are behind a hop-by-hop header of 8 bytes.
    let is_v6 = ethertype == Some(&[0x86, 0xdd]);
    let is_igmp = ethertype == Some(&[0x08, 0x00]) && is(23, &[2]) && is(30, &[224]);
    is_igmp
        || is_v6
            && ((is(20, &[58]) && is(54, &discovery))
                || (is(20, &[0]) && is(54, &[58]) && is(62, &discovery)))
}

/// Gives each packet what came of it.
fn sort_out(script: &Script, both: &[&Dataplane; 2], received: [Received; 2]) -> Vec<Outcome> {
    let mut of: [BTreeMap<Key, Vec<Output>>; 2] = Default::default();
    for ((outputs, of), node) in received.into_iter().zip(&mut of).zip(both) {
        for output in outputs {
            let key = output.view.key;
            match key {
                Some(Key::Id(MEETINGS..)) => {}
                Some(key) if script.probes().iter().any(|probe| probe.key == key) => {
                    of.entry(key).or_default().push(output);
                }
                _ => panic!(
                    "{}: something nobody asked for came out by {}: {:?}",
                    node.name,
                    output.side.name(),
                    output.view
                ),
            }
        }
    }
    let [mut kernel, mut caracal] = of;
    script
        .probes()
        .iter()
        .map(|probe| Outcome {
            name: probe.name.clone(),
            kernel: kernel.remove(&probe.key).unwrap_or_default(),
            caracal: caracal.remove(&probe.key).unwrap_or_default(),
        })
        .collect()
}
