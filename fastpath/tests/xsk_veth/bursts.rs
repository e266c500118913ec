//! A queue that has few chunks at rest, and more while it is busy.

use std::time::{Duration, Instant};

use fastpath::io::xsk::test_support::can_run;
use fastpath::io::xsk::{FrameSpan, SocketOptions};

use crate::lab::{End, Lab, both_ways, drain, frame, ring};

/// Sends so many frames while nobody receives, and then receives all that came, as a poller does.
fn burst(from: &mut End, to: &mut End, frames: usize) -> usize {
    for seed in 0..frames {
        from.send(&frame(seed as u32, 64), 0);
    }
    drain(&mut from.port, &mut from.part);
    let (mut came, mut quiet) = (0, Instant::now());
    while quiet.elapsed() < Duration::from_millis(100) {
        let mut batch = [FrameSpan::default(); 64];
        let received = to.port.recv(&mut to.part, &mut batch);
        if received > 0 {
            quiet = Instant::now();
            batch[..received]
                .iter()
                .for_each(|it| to.part.release(it.chunk));
            to.port.refill_busy(&mut to.part);
        }
        came += received;
    }
    came
}

#[test]
fn a_queue_that_ran_low_takes_a_longer_burst_the_next_time() {
    if !can_run("a_queue_that_ran_low_takes_a_longer_burst_the_next_time") {
        return;
    }
    let lab = Lab::new(1);
    let mut from = End::open(&lab.left, "l0", 512, &both_ways(256));
    let options = SocketOptions {
        at_rest: Some(32),
        ..SocketOptions::receive_only(ring(256))
    };
    let mut to = End::open(&lab.right, "r0", 512, &options);
    to.part.set_extra(100);
    assert_eq!(to.port.levels(&to.part).receiving, 32);

    assert_eq!(burst(&mut from, &mut to, 48), 32, "what it has at rest");
    assert_eq!(burst(&mut from, &mut to, 48), 48, "twice as many");
    assert_eq!(burst(&mut from, &mut to, 100), 64);
    assert_eq!(burst(&mut from, &mut to, 100), 100);
    // The part has no more than 132 for it.
    assert_eq!(burst(&mut from, &mut to, 200), 128);
    assert_eq!(burst(&mut from, &mut to, 200), 128);

    // When it has been quiet for long, what came is not replaced.
    for _ in 0..4 {
        to.port.relax(&mut to.part);
    }
    assert_eq!(burst(&mut from, &mut to, 90), 90);
    assert_eq!(to.port.levels(&to.part).receiving, 38, "of 128");
    for _ in 0..2 {
        to.port.relax(&mut to.part);
    }
    assert_eq!(burst(&mut from, &mut to, 10), 10);
    assert_eq!(to.port.levels(&to.part).receiving, 32);
    assert!(to.part.is_balanced());
    assert_eq!(to.part.anomalies(), <_>::default());

    // With the part of another poller nothing is done, and that is counted.
    assert_eq!(to.port.refill_busy(&mut from.part), 0);
    to.port.relax(&mut from.part);
    to.port.give_back(&mut from.part);
    assert_eq!(from.part.anomalies().misuse, 3);
}
