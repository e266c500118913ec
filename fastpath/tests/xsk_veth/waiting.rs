//! Sleeping until there is something to do.

use std::time::{Duration, Instant};

use fastpath::io::xsk::test_support::can_run;
use fastpath::io::xsk::wait::{WaitSet, Woken};

use crate::lab::{End, Lab, both_ways, frame, until};

/// Long enough never to be over by chance.
const LONG: Option<Duration> = Some(Duration::from_secs(30));

#[test]
fn a_frame_ends_the_wait_and_names_its_port() {
    if !can_run("a_frame_ends_the_wait_and_names_its_port") {
        return;
    }
    let lab = Lab::new(1);
    let mut left = End::open(&lab.left, "l0", 256, &both_ways(64));
    let mut right = End::open(&lab.right, "r0", 256, &both_ways(64));
    let mut waits = WaitSet::new().expect("a wait set");
    waits.add_port(&right.port, 3).expect("waiting for a port");
    assert_eq!(
        waits.wait(Some(Duration::ZERO)).expect("a look"),
        Woken::default()
    );
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(30));
            left.send(&frame(1, 64), 0);
        });
        // A signal may end a wait early.
        until("a port that is ready", || {
            let woken = waits.wait(LONG).expect("a wait");
            assert!(!woken.waker && woken.ready <= 1, "{woken:?}");
            (woken.ready == 1).then_some(())
        });
        assert_eq!(waits.ready().collect::<Vec<_>>(), [3]);
    });
    assert_eq!(right.receive(1), [frame(1, 64)]);
    assert_eq!(
        waits.wait(Some(Duration::ZERO)).expect("a look"),
        Woken::default(),
        "nothing is left"
    );
    waits
        .remove_port(&right.port)
        .expect("no longer waited for");
    left.send(&frame(2, 64), 0);
    assert_eq!(
        waits.wait(Some(Duration::from_millis(20))).expect("a wait"),
        Woken::default()
    );
}

#[test]
fn the_waker_ends_the_wait_once() {
    let mut waits = WaitSet::new().expect("a wait set");
    let waker = waits.waker();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(30));
            waker.wake();
        });
        assert_eq!(
            waits.wait(LONG).expect("a wait"),
            Woken {
                ready: 0,
                waker: true
            }
        );
    });
    // Before the wait counts too, and many are one.
    waker.wake();
    waker.wake();
    assert!(waits.wait(LONG).expect("a wait").waker);
    assert_eq!(
        waits.wait(Some(Duration::ZERO)).expect("a look"),
        Woken::default()
    );
}

#[test]
fn a_wait_of_less_than_a_millisecond_still_sleeps() {
    let mut waits = WaitSet::new().expect("a wait set");
    let started = Instant::now();
    for _ in 0..10 {
        assert_eq!(
            waits
                .wait(Some(Duration::from_micros(200)))
                .expect("a wait"),
            Woken::default()
        );
    }
    assert!(started.elapsed() >= Duration::from_millis(2));
}

#[test]
fn the_wakers_key_is_not_for_others() {
    let waits = WaitSet::new().expect("a wait set");
    let other = WaitSet::new().expect("a wait set");
    let event = nix::sys::eventfd::EventFd::new().expect("an eventfd");
    waits.add(&event, u64::MAX).expect_err("reserved");
    waits.add(&event, 1).expect("any other");
    drop(other);
}
