//! What goes in comes out.

use fastpath::io::xsk::test_support::{Sink, SinkHook, can_run};
use fastpath::io::xsk::{FrameSpan, ModeInForce, SendError, SocketOptions};

use crate::lab::{End, Lab, arena, both_ways, drain, frame, open_port, receive, ring, send, until};

#[test]
fn frames_arrive_as_they_were_sent() {
    if !can_run("frames_arrive_as_they_were_sent") {
        return;
    }
    let lab = Lab::new(1);
    let mut left = End::open(&lab.left, "l0", 512, &both_ways(128));
    let mut right = End::open(&lab.right, "r0", 512, &both_ways(128));
    assert_eq!(left.port.socket().mode(), ModeInForce::Copy);
    for (seed, (len, start)) in [
        (18, 0),
        (60, 256),
        (64, 13),
        (1400, 256),
        (1514, 300),
        (1514, 534),
    ]
    .into_iter()
    .enumerate()
    {
        let sent = frame(seed as u32, len);
        left.send(&sent, start);
        assert_eq!(
            right.receive(1),
            std::slice::from_ref(&sent),
            "{len} bytes from {start}"
        );
        right.send(&sent, start);
        assert_eq!(left.receive(1), [sent], "{len} bytes back");
    }
    drain(&mut left.port, &mut left.part);
    drain(&mut right.port, &mut right.part);
    for end in [&left, &right] {
        assert!(end.part.is_balanced());
        assert_eq!(end.part.anomalies(), <_>::default());
        assert_eq!(end.part.accounting().held, 0);
    }
}

#[test]
fn received_frames_have_room_for_an_encapsulation_in_front() {
    if !can_run("received_frames_have_room_for_an_encapsulation_in_front") {
        return;
    }
    let lab = Lab::new(1);
    let mut left = End::open(&lab.left, "l0", 256, &both_ways(64));
    let mut right = End::open(&lab.right, "r0", 256, &both_ways(64));
    let inner = frame(7, 200);
    left.send(&inner, 0);
    let mut batch = [FrameSpan::default(); 4];
    until("a frame", || {
        (right.port.recv(&mut right.part, &mut batch) == 1).then_some(())
    });
    let mut got = batch[0];
    assert!(got.start >= 84, "headroom {}", got.start);
    got.start -= 84;
    got.len += 84;
    let outer = frame(8, 84);
    right.part.frame(got)[..84].copy_from_slice(&outer);
    right.port.send(&mut right.part, got).expect("room");
    right.port.flush().expect("the port is up");
    assert_eq!(left.receive(1), [[outer, inner].concat()]);
}

#[test]
fn more_than_a_ring_goes_through_in_order() {
    const FRAMES: u32 = 3000;
    if !can_run("more_than_a_ring_goes_through_in_order") {
        return;
    }
    let lab = Lab::new(1);
    let mut left = End::open(&lab.left, "l0", 128, &both_ways(64));
    // All frames of the test fit on the receiving side, so that none may be lost.
    let mut right = End::open(&lab.right, "r0", 8192, &both_ways(4096));
    for seed in 0..FRAMES {
        send(&mut left.port, &mut left.part, &frame(seed, 64), 0);
    }
    let got = right.receive(FRAMES as usize);
    for (seed, got) in got.iter().enumerate() {
        assert_eq!(got, &frame(seed as u32, 64), "number {seed}");
    }
    drain(&mut left.port, &mut left.part);
    assert!(left.part.is_balanced());
    assert_eq!(left.port.statistics().expect("statistics").tx_invalid, 0);
}

#[test]
fn one_flush_sends_a_whole_ring_whatever_the_budget_of_a_call() {
    if !can_run("one_flush_sends_a_whole_ring_whatever_the_budget_of_a_call") {
        return;
    }
    for tx_budget in [None, Some(256)] {
        let lab = Lab::new(1);
        let options = SocketOptions {
            tx_budget,
            ..both_ways(512)
        };
        let mut left = End::open(&lab.left, "l0", 2048, &options);
        let mut right = End::open(&lab.right, "r0", 2048, &both_ways(1024));
        for seed in 0..512 {
            let chunk = left.part.alloc().expect("a chunk");
            let span = FrameSpan {
                chunk,
                start: 0,
                len: 64,
            };
            left.part.frame(span).copy_from_slice(&frame(seed, 64));
            left.port.send(&mut left.part, span).expect("room");
        }
        let spare = FrameSpan {
            chunk: left.part.alloc().expect("a chunk"),
            start: 0,
            len: 64,
        };
        assert_eq!(left.port.send(&mut left.part, spare), Err(SendError::Full));
        let flushed = left.port.flush().expect("the port is up");
        assert_eq!((flushed.published, flushed.left), (512, 0));
        assert_eq!(right.receive(512).len(), 512);
        let kicks = left.port.kicks();
        let budget = u64::from(left.port.socket().tx_budget());
        assert!(kicks.tx >= 512 / budget, "{kicks:?} at {budget} a call");
    }
}

#[test]
fn a_socket_that_only_sends_needs_no_program() {
    if !can_run("a_socket_that_only_sends_needs_no_program") {
        return;
    }
    let lab = Lab::new(1);
    let (area, mut part) = arena(64);
    let options = SocketOptions::send_only(ring(32));
    let mut sender = open_port(&lab.left, &area, &mut part, "l0", 0, &options);
    let mut right = End::open(
        &lab.right,
        "r0",
        256,
        &SocketOptions::receive_only(ring(64)),
    );
    send(&mut sender, &mut part, &frame(1, 100), 0);
    assert_eq!(right.receive(1), [frame(1, 100)]);
    let chunk = right.part.alloc().expect("a chunk");
    let refused = right.port.send(
        &mut right.part,
        FrameSpan {
            chunk,
            start: 0,
            len: 64,
        },
    );
    assert_eq!(refused, Err(SendError::ReceiveOnly));
    assert_eq!(
        part.accounting().receiving,
        0,
        "no chunk waits where nothing is received"
    );
    assert!(receive(&mut sender, &mut part, 0).is_empty());
}

#[test]
fn frames_that_are_none_are_refused() {
    if !can_run("frames_that_are_none_are_refused") {
        return;
    }
    let lab = Lab::new(1);
    let mut left = End::open(&lab.left, "l0", 64, &both_ways(32));
    let (_, mut stranger) = arena(64);
    let foreign = stranger.alloc().expect("a chunk");
    let ours = left.part.alloc().expect("a chunk");
    let freed = left.part.alloc().expect("a chunk");
    left.part.release(freed);
    for span in [
        FrameSpan {
            chunk: ours,
            start: 0,
            len: 13,
        },
        FrameSpan {
            chunk: ours,
            start: 2000,
            len: 49,
        },
        FrameSpan {
            chunk: freed,
            start: 0,
            len: 64,
        },
        FrameSpan {
            chunk: u32::MAX,
            start: 0,
            len: 64,
        },
    ] {
        assert_eq!(
            left.port.send(&mut left.part, span),
            Err(SendError::Invalid),
            "{span:?}"
        );
    }
    let span = FrameSpan {
        chunk: foreign,
        start: 0,
        len: 64,
    };
    assert_eq!(left.port.send(&mut stranger, span), Err(SendError::Invalid));
    assert_eq!(
        left.port
            .recv(&mut stranger, &mut [FrameSpan::default(); 4]),
        0
    );
    assert_eq!(left.port.refill(&mut stranger), 0);
    assert_eq!(
        (left.part.anomalies().misuse, stranger.anomalies().misuse),
        (4, 3)
    );
    assert!(left.part.is_balanced());
    assert_eq!(left.port.outstanding(), 0);
}

#[test]
fn an_empty_fill_ring_shows_in_the_statistics() {
    if !can_run("an_empty_fill_ring_shows_in_the_statistics") {
        return;
    }
    let lab = Lab::new(1);
    let mut left = End::open(&lab.left, "l0", 256, &both_ways(64));
    // 8 chunks and no refill: the ninth frame finds none.
    let mut right = End::open(&lab.right, "r0", 8, &both_ways(64));
    let before = right.port.statistics().expect("statistics");
    for seed in 0..40 {
        left.send(&frame(seed, 64), 0);
    }
    let after = until("drops", || {
        let now = right.port.statistics().expect("statistics");
        (now.fill_empty > before.fill_empty).then_some(now)
    });
    assert!(after.rx_dropped + after.fill_empty >= 1, "{after:?}");
    let levels = right.port.levels(&right.part);
    assert_eq!(
        (levels.receiving, levels.fill, levels.rx),
        (8, 0, 8),
        "{levels:?}"
    );
    let got = right.receive(8);
    assert_eq!(got, (0..8).map(|seed| frame(seed, 64)).collect::<Vec<_>>());
}

#[test]
fn sinks_count_frames_and_bytes() {
    if !can_run("sinks_count_frames_and_bytes") {
        return;
    }
    for hook in [SinkHook::Xdp, SinkHook::Tc] {
        let lab = Lab::new(1);
        let sink = lab.right.within(|| Sink::attach("r0", hook));
        let mut left = End::open(&lab.left, "l0", 64, &both_ways(32));
        for len in [64, 100, 1400] {
            left.send(&frame(1, len), 0);
        }
        until("frames at the sink", || (sink.packets() == 3).then_some(()));
        assert_eq!(sink.bytes(), 64 + 100 + 1400, "{hook:?}");
    }
}
