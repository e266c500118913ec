//! Sleeping until there is something to do.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use fastpath::io::xsk::test_support::can_run;
use fastpath::io::xsk::wait::{WaitSet, Woken};
use nix::sys::eventfd::EventFd;

use crate::lab::{End, Lab, both_ways, frame, until};

/// Long enough never to be over by chance.
const LONG: Option<Duration> = Some(Duration::from_secs(30));

/// The set that nodes use, and the one that they fall back to.
fn both_kinds() -> [WaitSet; 2] {
    let set = WaitSet::new().expect("a wait set");
    if !set.is_called_once() {
        eprintln!("NOT TESTED: waiting by io_uring, which is not to be had here; epoll twice");
    }
    [set, WaitSet::by_epoll().expect("a wait set")]
}

#[test]
fn a_frame_ends_the_wait_and_names_its_port() {
    if !can_run("a_frame_ends_the_wait_and_names_its_port") {
        return;
    }
    for waits in both_kinds() {
        a_frame_ends(waits);
    }
}

fn a_frame_ends(mut waits: WaitSet) {
    let lab = Lab::new(1);
    let mut left = End::open(&lab.left, "l0", 256, &both_ways(64));
    let mut right = End::open(&lab.right, "r0", 256, &both_ways(64));
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
    // Awake and not yet there to look: what comes is not forgotten.
    left.send(&frame(3, 64), 0);
    assert_eq!(waits.wait(LONG).expect("a wait").ready, 1);
    assert_eq!(right.receive(2), [frame(1, 64), frame(3, 64)]);
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
    for mut waits in both_kinds() {
        let waker = waits.waker();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(30));
                waker.wake();
            });
            // A signal may end a wait early.
            until("word of the waker", || {
                let woken = waits.wait(LONG).expect("a wait");
                assert_eq!(woken.ready, 0);
                woken.waker.then_some(())
            });
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
}

#[test]
fn a_wait_of_less_than_a_millisecond_still_sleeps() {
    for mut waits in both_kinds() {
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
}

#[test]
fn the_wakers_key_is_not_for_others() {
    for mut waits in both_kinds() {
        let event = event();
        waits.add(&event, u64::MAX).expect_err("reserved");
        waits.add(&event, 1).expect("any other");
    }
}

fn event() -> EventFd {
    EventFd::new().expect("an eventfd")
}

#[test]
fn all_of_many_are_reported() {
    const MANY: u64 = 1500;
    for mut waits in both_kinds() {
        let events: Vec<EventFd> = (0..MANY).map(|_| event()).collect();
        for (key, event) in (0..).zip(&events) {
            waits.add(event, key).expect("waiting for an event");
        }
        assert_eq!(
            waits.wait(Some(Duration::ZERO)).expect("a look"),
            Woken::default()
        );
        for event in &events {
            event.write(1).expect("an event");
        }
        let mut seen = BTreeSet::new();
        until("sight of all", || {
            waits.wait(LONG).expect("a wait");
            for key in waits.ready() {
                seen.insert(key);
                // Read, or it would be ready for ever.
                let event = usize::try_from(key).ok().and_then(|at| events.get(at));
                event.expect("one of them").read().expect("what it counted");
            }
            (seen.len() as u64 == MANY).then_some(())
        });
        // Those that completed beyond what had room may be told of twice.
        until("rest", || {
            let woken = waits.wait(Some(Duration::ZERO)).expect("a look");
            (woken == Woken::default()).then_some(())
        });
    }
}

#[test]
fn what_happens_while_another_is_removed_is_not_forgotten() {
    for mut waits in both_kinds() {
        let (goes, stays) = (event(), event());
        waits.add(&goes, 1).expect("waiting for one");
        waits.add(&stays, 2).expect("waiting for another");
        waits.wait(Some(Duration::ZERO)).expect("a look");
        stays.write(1).expect("an event");
        waits.remove(&goes).expect("no longer waited for");
        goes.write(1).expect("an event");
        waits.wait(LONG).expect("a wait");
        assert_eq!(waits.ready().collect::<Vec<_>>(), [2]);
    }
}

#[test]
fn what_was_served_before_it_was_told_of_can_be_removed() {
    for mut waits in both_kinds() {
        let event = event();
        waits.add(&event, 1).expect("waiting for an event");
        waits.wait(Some(Duration::ZERO)).expect("a look");
        event.write(1).expect("an event");
        event.read().expect("what it counted");
        waits.remove(&event).expect("no longer waited for");
    }
}

/// A pipe, whose reading end `waits` has slept on.
fn slept_on(waits: &mut WaitSet) -> (OwnedFd, OwnedFd) {
    let flags = nix::fcntl::OFlag::O_CLOEXEC;
    let (read, write) = nix::unistd::pipe2(flags).expect("a pipe");
    waits.add(&read, 7).expect("waiting for a pipe");
    let woken = waits.wait(Some(Duration::from_millis(1)));
    assert_eq!(woken.expect("a wait"), Woken::default());
    (read, write)
}

#[test]
fn what_is_no_longer_waited_for_is_not_held_open() {
    for mut waits in both_kinds() {
        let (read, write) = slept_on(&mut waits);
        waits.remove(&read).expect("no longer waited for");
        drop(read);
        // A reader that is only held open by the set would take it.
        assert!(is_refused(&write));
        let (read, write) = slept_on(&mut waits);
        drop((read, waits));
        assert!(is_refused(&write), "the set is gone");
    }
}

/// Whether nobody reads from the pipe. What another thread starts has a copy of each descriptor for a moment.
fn is_refused(write: &OwnedFd) -> bool {
    let mut tries = 0..20;
    tries.any(|_| {
        std::thread::sleep(Duration::from_micros(100));
        nix::unistd::write(write, b"x") == Err(nix::errno::Errno::EPIPE)
    })
}

#[test]
fn what_was_closed_without_a_word_disturbs_nobody() {
    for mut waits in both_kinds() {
        let (gone, stays) = (event(), event());
        waits.add(&gone, 1).expect("waiting for one");
        waits.add(&stays, 2).expect("waiting for another");
        drop(gone);
        let started = Instant::now();
        for _ in 0..3 {
            let woken = waits.wait(Some(Duration::from_millis(10)));
            assert_eq!(woken.expect("a wait"), Woken::default());
        }
        assert!(started.elapsed() >= Duration::from_millis(20), "it spins");
        stays.write(1).expect("an event");
        waits.wait(LONG).expect("a wait");
        assert_eq!(waits.ready().collect::<Vec<_>>(), [2]);
    }
}
