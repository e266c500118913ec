//! Sockets and devices that come and go.

use std::time::Instant;

use fastpath::io::PacketIo;
use fastpath::io::xsk::arena::QUARANTINE;
use fastpath::io::xsk::packet_io::{Command, XskIo};
use fastpath::io::xsk::test_support::{XdpProgram, can_run};
use fastpath::io::xsk::{FrameSpan, PortError, QueuePort, XskError, XskSocket};

use fastpath::port::PortId;
use flowtable::Tick;

use crate::lab::{End, Lab, arena, both_ways, drain, frame, open_port, receive, until};

#[test]
fn all_frames_are_accounted_for_after_close() {
    if !can_run("all_frames_are_accounted_for_after_close") {
        return;
    }
    let lab = Lab::new(1);
    let mut left = End::open(&lab.left, "l0", 256, &both_ways(64));
    let mut right = End::open(&lab.right, "r0", 256, &both_ways(64));
    // Frames everywhere: in the fill ring, in the RX ring, held, staged and never flushed.
    for seed in 0..20 {
        left.send(&frame(seed, 64), 0);
    }
    let mut batch = [FrameSpan::default(); 5];
    until("frames", || {
        (right.port.recv(&mut right.part, &mut batch) == 5).then_some(())
    });
    right.port.send(&mut right.part, batch[0]).expect("room");
    right.port.send(&mut right.part, batch[1]).expect("room");
    let before = right.part.accounting();
    assert_eq!((before.held, before.sending), (3, 2));
    assert_eq!(before.receiving, 64 - 5);
    assert!(right.part.is_balanced());

    let now = Instant::now();
    right.port.close(&mut right.part, now);
    let closed = right.part.accounting();
    assert_eq!(closed.quarantined, before.receiving + before.sending);
    assert_eq!((closed.held, closed.free), (before.held, before.free));
    assert_eq!(right.part.reclaim(now), 0);
    assert_eq!(right.part.reclaim(now + QUARANTINE), closed.quarantined);
    for frame in &batch[2..] {
        right.part.release(frame.chunk);
    }
    assert!(right.part.is_balanced());
    assert_eq!(right.part.available(), right.part.len());
}

#[test]
fn a_queue_can_be_bound_again_after_close_under_load() {
    if !can_run("a_queue_can_be_bound_again_after_close_under_load") {
        return;
    }
    let lab = Lab::new(1);
    let mut left = End::open(&lab.left, "l0", 512, &both_ways(128));
    let (area, mut part) = arena(512);
    let program = XdpProgram::redirect(1);
    let _link = lab.right.within(|| program.attach("r0"));
    for round in 0..5 {
        let mut port = open_port(&lab.right, &area, &mut part, "r0", 0, &both_ways(64));
        program.set_socket(0, port.socket());
        for seed in 0..100 {
            left.send(&frame(round * 1000 + seed, 64), 0);
        }
        assert_eq!(receive(&mut port, &mut part, 1)[0], frame(round * 1000, 64));
        // The socket is given up by the poller and closed by somebody else, as in the daemon.
        let closed = std::thread::scope(|scope| {
            scope
                .spawn(|| port.into_socket().close())
                .join()
                .expect("the closing thread")
        });
        part.quarantine(closed, Instant::now());
    }
    part.reclaim(Instant::now() + QUARANTINE);
    assert!(part.is_balanced());
    assert_eq!(part.available(), part.len());
}

#[test]
fn a_device_deleted_under_traffic_is_an_error_and_no_panic() {
    if !can_run("a_device_deleted_under_traffic_is_an_error_and_no_panic") {
        return;
    }
    let lab = Lab::new(1);
    let mut right = End::open(&lab.right, "r0", 512, &both_ways(64));
    let mut left = End::open(&lab.left, "l0", 512, &both_ways(64));
    left.port.health().expect("the device is there");

    let mut deleted = false;
    let mut sent: u32 = 0;
    let error = until("error from the deleted device", || {
        if sent == 500 && !deleted {
            lab.right.ip("link del r0");
            deleted = true;
        }
        sent += 1;
        if let Some(chunk) = left.part.alloc() {
            let span = FrameSpan {
                chunk,
                start: 0,
                len: 64,
            };
            left.part.frame(span).copy_from_slice(&frame(sent, 64));
            if left.port.send(&mut left.part, span).is_err() {
                left.part.release(chunk);
            }
        }
        let error = left.port.flush().err();
        left.port.reap(&mut left.part);
        if !deleted {
            let mut batch = [FrameSpan::default(); 64];
            let got = right.port.recv(&mut right.part, &mut batch);
            for frame in &batch[..got] {
                right.part.release(frame.chunk);
            }
            right.port.refill(&mut right.part);
        }
        error
    });
    assert!(deleted, "no error before the device went: {error}");
    assert!(matches!(error, PortError::Down), "{error:?}");
    for port in [&left.port, &right.port] {
        assert!(matches!(port.health(), Err(PortError::Down)));
        assert!(
            matches!(port.health(), Err(PortError::Down)),
            "not only once"
        );
    }
    // Going on with a dead port is harmless.
    let mut batch = [FrameSpan::default(); 64];
    right.port.recv(&mut right.part, &mut batch);
    right.port.refill(&mut right.part);
    let now = Instant::now();
    for End { port, mut part, .. } in [left, right] {
        port.close(&mut part, now);
        part.reclaim(now + QUARANTINE);
        let counts = part.accounting();
        assert!(part.is_balanced());
        assert_eq!(counts.free + counts.held, part.len());
    }
}

#[test]
fn a_device_that_was_only_down_works_again() {
    if !can_run("a_device_that_was_only_down_works_again") {
        return;
    }
    let lab = Lab::new(1);
    let mut right = End::open(&lab.right, "r0", 256, &both_ways(64));
    let mut left = End::open(&lab.left, "l0", 256, &both_ways(64));
    lab.left.ip("link set l0 down");
    let chunk = left.part.alloc().expect("a chunk");
    let span = FrameSpan {
        chunk,
        start: 0,
        len: 64,
    };
    left.part.frame(span).copy_from_slice(&frame(1, 64));
    left.port.send(&mut left.part, span).expect("room");
    assert!(matches!(left.port.flush(), Err(PortError::Down)));
    assert_eq!(left.port.outstanding(), 1);
    lab.left.ip("link set l0 up");
    until("a port that is up", || left.port.flush().ok());
    assert_eq!(right.receive(1), [frame(1, 64)]);
    drain(&mut left.port, &mut left.part);
}

#[test]
fn a_pollers_port_that_was_only_down_sends_again() {
    if !can_run("a_pollers_port_that_was_only_down_sends_again") {
        return;
    }
    let port_id = PortId(3);
    let lab = Lab::new(1);
    let mut right = End::open(&lab.right, "r0", 256, &both_ways(64));
    let (area, part) = arena(256);
    let (mut io, control) = XskIo::new(part, 8).expect("a poller's sockets");
    let socket = lab
        .left
        .within(|| XskSocket::open(&area, "l0", 0, &both_ways(64)))
        .expect("a socket");
    let attach = Command::Attach {
        port: port_id,
        socket: Box::new(socket),
    };
    control.send(attach).expect("room for a command");
    let mut tick = Tick(0);
    io.maintain(tick);
    let send = |io: &mut XskIo, seed| {
        let mut span = io.alloc().expect("a chunk");
        span.len = 64;
        let bytes = frame(seed, 64);
        span.of(io.chunk(&span)).copy_from_slice(&bytes);
        let sent = io.send(port_id, span).map_err(|span| io.free(span));
        io.flush();
        sent.is_ok()
    };
    assert!(send(&mut io, 1));
    assert_eq!(right.receive(1), [frame(1, 64)]);
    lab.left.ip("link set l0 down");
    assert!(send(&mut io, 2), "found out only by sending");
    assert!(!send(&mut io, 3), "a port that is down takes nothing");
    lab.left.ip("link set l0 up");
    until("a port that is up again", || {
        tick = Tick(tick.0 + 2_000_000_000);
        io.maintain(tick);
        send(&mut io, 4).then_some(())
    });
    // What waited in the ring goes out first.
    assert_eq!(right.receive(2), [frame(2, 64), frame(4, 64)]);
}

#[test]
fn a_recreated_device_of_the_same_name_is_another_one() {
    if !can_run("a_recreated_device_of_the_same_name_is_another_one") {
        return;
    }
    let lab = Lab::new(1);
    let (area, mut part) = arena(256);
    let first = open_port(&lab.right, &area, &mut part, "r0", 0, &both_ways(32));
    let old = first.socket().key();
    lab.left.ip("link del l0");
    // The only socket to share with is dead, and the new device has the very number of the old one.
    lab.right.ip(&format!(
        "link add r0 index {} type veth peer name l0 netns {}",
        old.ifindex,
        lab.left.name()
    ));
    lab.right.ip("link set r0 up");
    lab.left.ip("link set l0 up");
    let mut second = open_port(&lab.right, &area, &mut part, "r0", 0, &both_ways(32));
    assert_eq!(old, second.socket().key());
    assert!(matches!(first.health(), Err(PortError::Down)));
    second.health().expect("the new one is there");
    let mut left = End::open(&lab.left, "l0", 128, &both_ways(32));
    crate::lab::send(&mut second, &mut part, &frame(1, 64), 0);
    assert_eq!(left.receive(1), [frame(1, 64)]);
}

#[test]
fn a_socket_joins_one_part_of_its_own_memory_once() {
    if !can_run("a_socket_joins_one_part_of_its_own_memory_once") {
        return;
    }
    let lab = Lab::new(1);
    let (area, mut part) = arena(64);
    let (_, mut stranger) = arena(64);
    let open = || {
        lab.right
            .within(|| XskSocket::open(&area, "r0", 0, &both_ways(32)))
    };
    let socket = open().expect("a socket");
    assert!(matches!(
        QueuePort::new(socket, &mut stranger),
        Err(XskError::OtherArea)
    ));
    let port = QueuePort::new(open().expect("a socket"), &mut part).expect("a port");
    assert!(matches!(
        QueuePort::new(port.into_socket(), &mut part),
        Err(XskError::QueueTaken { .. })
    ));
}
