//! One packet memory, many sockets.

use fastpath::io::xsk::test_support::{XdpProgram, can_run};
use fastpath::io::xsk::{FrameSpan, QueuePort, SocketOptions, UmemArea, XskSocket};

use crate::lab::{End, Lab, arena, both_ways, drain, frame, open_port, until};

#[test]
fn a_frame_goes_from_one_device_to_another_in_its_chunk() {
    if !can_run("a_frame_goes_from_one_device_to_another_in_its_chunk") {
        return;
    }
    // west.l0 <-> r0.node.n1 <-> r1.east: the node has both sockets over one memory.
    let west = Lab::new(1);
    let east = fastpath::io::xsk::test_support::Netns::new("east");
    west.right.veth("n1", &east, "e0", 1);
    let mut sender = End::open(&west.left, "l0", 256, &both_ways(64));
    let mut receiver = End::open(&east, "e0", 256, &both_ways(64));

    let (area, mut part) = arena(512);
    let program = XdpProgram::redirect(1);
    let mut from = open_port(&west.right, &area, &mut part, "r0", 0, &both_ways(64));
    program.set_socket(0, from.socket());
    let _link = west.right.within(|| program.attach("r0"));
    let mut to = open_port(&west.right, &area, &mut part, "n1", 0, &both_ways(64));
    assert_eq!(area.bound_sockets(), 2);

    for seed in 0..200 {
        let bytes = frame(seed, 64 + seed as usize);
        sender.send(&bytes, 0);
        let mut batch = [FrameSpan::default(); 64];
        until("a frame", || {
            (from.recv(&mut part, &mut batch) == 1).then_some(())
        });
        to.send(&mut part, batch[0]).expect("room");
        to.flush().expect("the port is up");
        assert_eq!(receiver.receive(1), [bytes]);
        to.reap(&mut part);
        from.refill(&mut part);
    }
    drain(&mut to, &mut part);
    assert!(part.is_balanced());
    assert_eq!(part.anomalies(), <_>::default());
}

#[test]
fn each_queue_has_a_socket_of_its_own() {
    if !can_run("each_queue_has_a_socket_of_its_own") {
        return;
    }
    let lab = Lab::new(2);
    let (area, mut parts) = UmemArea::new(&[256, 256], 2048, false).expect("an arena");
    let program = XdpProgram::redirect(2);
    let mut ports: Vec<QueuePort> = Vec::new();
    for (queue, part) in (0..).zip(&mut parts) {
        let port = open_port(&lab.right, &area, part, "r0", queue, &both_ways(64));
        program.set_socket(queue, port.socket());
        ports.push(port);
    }
    let _link = lab.right.within(|| program.attach("r0"));

    // What is sent on queue k of a veth arrives on queue k of its peer.
    let (their_area, mut their_part) = arena(256);
    for queue in 0..2 {
        let options = SocketOptions::send_only(crate::lab::ring(64));
        let mut sender = open_port(
            &lab.left,
            &their_area,
            &mut their_part,
            "l0",
            queue,
            &options,
        );
        crate::lab::send(&mut sender, &mut their_part, &frame(queue, 64), 0);
        let at = queue as usize;
        let got = crate::lab::receive(&mut ports[at], &mut parts[at], 1);
        assert_eq!(got, [frame(queue, 64)]);
        let other = 1 - at;
        assert_eq!(
            ports[other].recv(&mut parts[other], &mut [FrameSpan::default(); 4]),
            0
        );
    }
}

#[test]
fn any_bound_socket_is_good_to_share_with() {
    if !can_run("any_bound_socket_is_good_to_share_with") {
        return;
    }
    let lab = Lab::new(2);
    let (area, mut part) = arena(512);
    let first = open_port(&lab.right, &area, &mut part, "r0", 0, &both_ways(32));
    let second = open_port(&lab.right, &area, &mut part, "r0", 1, &both_ways(32));
    // The one that registered the memory goes; the next one shares with the other.
    first.close(&mut part, std::time::Instant::now());
    assert_eq!(area.bound_sockets(), 1);
    let third = open_port(&lab.left, &area, &mut part, "l0", 0, &both_ways(32));
    assert_eq!(area.bound_sockets(), 2);
    drop((second, third));
    assert_eq!(area.bound_sockets(), 0);
    // And with none left, the memory is registered again.
    let socket = lab
        .left
        .within(|| XskSocket::open(&area, "l0", 1, &both_ways(32)))
        .expect("a socket");
    assert_eq!(socket.key().queue, 1);
}

#[test]
fn sockets_of_different_kinds_live_on_one_memory() {
    if !can_run("sockets_of_different_kinds_live_on_one_memory") {
        return;
    }
    // A sharer inherits need_wakeup (and the mode) from the socket it shares with. Kinds that differ
    // get a UMEM each, over the same memory, and still pass frames to each other.
    let lab = Lab::new(2);
    let (area, mut part) = arena(512);
    let eager = SocketOptions {
        need_wakeup: false,
        ..both_ways(32)
    };
    let mut first = open_port(&lab.right, &area, &mut part, "r0", 0, &both_ways(32));
    let mut second = open_port(&lab.right, &area, &mut part, "r0", 1, &eager);
    let mut left = End::open(&lab.left, "l0", 256, &both_ways(64));
    for port in [&mut first, &mut second] {
        let chunk = part.alloc().expect("a chunk");
        let span = FrameSpan {
            chunk,
            start: 0,
            len: 64,
        };
        part.frame(span).copy_from_slice(&frame(1, 64));
        port.send(&mut part, span).expect("room");
        port.flush().expect("the port is up");
        drain(port, &mut part);
    }
    // Queue 1's frame arrives at a queue of l0 without a socket: only the first one's is seen.
    assert_eq!(left.receive(1), [frame(1, 64)]);
}
