//! The contract suite.

use std::time::Duration;

use fastpath::batch::{BATCH, Batch};
use fastpath::frame::Frame;
use fastpath::io::{HEADROOM, PacketIo};
use fastpath::port::PortId;
use flowtable::Tick;

/// How many sent frames a port holds until it has to give one back.
pub(crate) enum TxRoom {
    /// So many, while nobody takes them.
    Frames(usize),
    /// Any number: it is never full.
    Endless,
}

/// What a test needs beside the packet I/O itself: the far ends of its two ports, 0 and 1.
pub(crate) trait Rig {
    /// The packet I/O under test.
    type Io: PacketIo;

    /// Whether it can be built here; if not, this has said why.
    fn can_run(_test: &str) -> bool {
        true
    }

    /// Fresh ports, nothing on its way.
    fn new() -> Self;

    /// The packet I/O.
    fn io(&mut self) -> &mut Self::Io;

    /// Makes these frames arrive at a port, in this order.
    fn arrive(&mut self, port: PortId, frames: &[Vec<u8>]);

    /// What left by a port and was not seen yet, oldest first.
    fn left(&mut self, port: PortId) -> Vec<Vec<u8>>;

    /// How many sent frames a port holds.
    fn tx_room(&self) -> TxRoom;

    /// Lets nothing leave by a port until [`Rig::unblock`]. The default is for ports whose frames stay until they are seen.
    fn block(&mut self, _port: PortId) {}

    /// Lets leave what a blocked port holds.
    fn unblock(&mut self, _port: PortId) {}

    /// How many chunks are free, once everything that was sent has left. The default takes and gives back all that can
    /// be taken; an implementation that keeps free chunks elsewhere too (a fill ring) counts these as well.
    fn free_chunks(&mut self) -> usize {
        let io = self.io();
        io.flush();
        let frames: Vec<Frame> = std::iter::from_fn(|| io.alloc()).collect();
        let count = frames.len();
        for frame in frames {
            io.free(frame);
        }
        count
    }
}

/// Runs every clause of the contract as a test of its own.
macro_rules! packet_io_contract {
    ($rig:ty; $($clause:ident)*) => {
        $(
            #[test]
            fn $clause() {
                if <$rig as $crate::contract::Rig>::can_run(concat!(module_path!(), "::", stringify!($clause))) {
                    $crate::contract::$clause::<$rig>();
                }
            }
        )*
    };
    ($rig:ty) => {
        $crate::contract::packet_io_contract! { $rig;
            what_arrives_is_received_once_in_order_and_intact
            a_batch_is_never_longer_than_its_bound
            received_frames_have_headroom_and_stay_in_their_chunks
            what_is_sent_leaves_once_in_order_and_intact
            what_is_sent_together_leaves_in_order_or_stays
            a_frame_received_on_one_port_leaves_by_another
            a_full_port_gives_the_frame_back
            a_port_that_does_not_exist_gives_the_frame_back
            a_queue_that_does_not_exist_is_none
            every_chunk_is_handed_out_once_and_comes_back
            nothing_is_lost_or_doubled_under_churn
        }
    };
}
pub(crate) use packet_io_contract;

/// How often a test looks for packets that are on their way.
const LOOKS: usize = 2000;

/// Frames that are all different, of all lengths from an Ethernet header up, valid Ethernet to anybody.
pub(crate) fn frames(count: usize, seed: usize) -> Vec<Vec<u8>> {
    let frame = |index: usize| {
        let len = 60 + (index * 37 + seed) % 1400;
        let mut bytes: Vec<u8> = (0..len)
            .map(|at| (at * 7 + index * 13 + seed) as u8)
            .collect();
        bytes[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
        bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
        bytes[14..22].copy_from_slice(&((index << 32 | seed) as u64).to_be_bytes());
        bytes
    };
    (0..count).map(frame).collect()
}

/// Looks at every queue until `count` packets came in or nothing more comes; `see` owns their frames.
fn receive<R: Rig>(
    rig: &mut R,
    count: usize,
    mut see: impl FnMut(&mut R::Io, PortId, Frame),
) -> usize {
    let mut batch = Batch::default();
    let mut received = 0;
    for _ in 0..LOOKS {
        let io = rig.io();
        io.maintain(Tick(0));
        let before = received;
        for queue in 0..io.rx_queues() {
            let port = io.recv(queue, &mut batch).expect("a queue below the count");
            received += batch.len();
            for packet in batch.packets() {
                assert_eq!(packet.in_port, port);
                see(io, port, packet.frame.take());
            }
            batch.clear();
        }
        io.flush();
        if received >= count {
            break;
        }
        if received == before {
            io.wait(Duration::from_millis(1));
        }
    }
    received
}

fn bytes_of<I: PacketIo>(io: &mut I, frame: &Frame) -> Vec<u8> {
    frame.of(io.chunk(frame)).to_vec()
}

/// A fresh frame with these bytes.
pub(crate) fn filled<I: PacketIo>(io: &mut I, bytes: &[u8]) -> Frame {
    let mut frame = io.alloc().expect("a free chunk");
    frame.len = bytes.len() as u16;
    frame.of(io.chunk(&frame)).copy_from_slice(bytes);
    frame
}

pub(crate) fn what_arrives_is_received_once_in_order_and_intact<R: Rig>() {
    let mut rig = R::new();
    for port in [PortId(0), PortId(1)] {
        let sent = frames(150, usize::from(port.0));
        rig.arrive(port, &sent);
        let mut seen = Vec::new();
        let count = receive(&mut rig, sent.len(), |io, from, frame| {
            assert_eq!(from, port);
            seen.push(bytes_of(io, &frame));
            io.free(frame);
        });
        assert_eq!(count, sent.len());
        assert!(seen == sent, "bytes or order changed");
    }
    assert_eq!(receive(&mut rig, 0, |_, _, _| panic!("a packet twice")), 0);
}

pub(crate) fn a_batch_is_never_longer_than_its_bound<R: Rig>() {
    let mut rig = R::new();
    rig.arrive(PortId(0), &frames(3 * BATCH, 1));
    let mut batch = Batch::default();
    let mut received = 0;
    for _ in 0..LOOKS {
        for queue in 0..rig.io().rx_queues() {
            let _ = rig.io().recv(queue, &mut batch);
            assert!(batch.len() <= BATCH);
            received += batch.len();
            for packet in batch.packets() {
                let frame = packet.frame.take();
                rig.io().free(frame);
            }
            batch.clear();
        }
        if received == 3 * BATCH {
            return;
        }
        rig.io().wait(Duration::from_millis(1));
    }
    panic!("{received} of {} packets came", 3 * BATCH);
}

pub(crate) fn received_frames_have_headroom_and_stay_in_their_chunks<R: Rig>() {
    let mut rig = R::new();
    rig.arrive(PortId(0), &frames(100, 2));
    receive(&mut rig, 100, |io, _, frame| {
        assert!(frame.start >= HEADROOM, "{frame:?}");
        let end = usize::from(frame.start) + usize::from(frame.len);
        assert!(end <= io.chunk(&frame).len(), "{frame:?}");
        io.free(frame);
    });
    let frame = rig.io().alloc().expect("a free chunk");
    assert_eq!((frame.start, frame.len), (HEADROOM, 0));
    rig.io().free(frame);
}

pub(crate) fn what_is_sent_leaves_once_in_order_and_intact<R: Rig>() {
    let mut rig = R::new();
    for port in [PortId(1), PortId(0)] {
        let packets = frames(50, 3);
        for packet in &packets {
            let frame = filled(rig.io(), packet);
            rig.io().send(port, frame).expect("room");
        }
        rig.io().flush();
        assert!(rig.left(port) == packets, "bytes or order changed");
        assert!(rig.left(port).is_empty(), "a packet twice");
    }
}

pub(crate) fn what_is_sent_together_leaves_in_order_or_stays<R: Rig>() {
    let mut rig = R::new();
    let total = rig.free_chunks();
    let room = match rig.tx_room() {
        TxRoom::Frames(room) => room,
        TxRoom::Endless => total - 3,
    };
    let packets = frames(room + 3, 9);
    let fill = |rig: &mut R, packets: &[Vec<u8>]| -> Vec<Frame> {
        let all = packets.iter();
        all.map(|packet| filled(rig.io(), packet)).collect()
    };
    // No such port: nothing is taken.
    let mut stays = fill(&mut rig, &packets[..3]);
    assert_eq!(rig.io().send_all(PortId(999), stays.iter_mut()), 0);
    for (frame, packet) in stays.into_iter().zip(&packets) {
        assert_eq!(&bytes_of(rig.io(), &frame), packet);
        rig.io().free(frame);
    }
    rig.block(PortId(0));
    let (first, rest) = packets.split_at(room);
    let mut sent = fill(&mut rig, first);
    assert_eq!(rig.io().send_all(PortId(0), sent.iter_mut()), room);
    assert!(sent.iter().all(Frame::is_none), "a frame is in two places");
    if matches!(rig.tx_room(), TxRoom::Frames(_)) {
        let mut stays = fill(&mut rig, rest);
        assert_eq!(rig.io().send_all(PortId(0), stays.iter_mut()), 0);
        assert!(!stays.iter().any(Frame::is_none), "a frame is nowhere");
        assert_eq!(rig.io().send_all(PortId(1), stays.iter_mut()), 3);
        rig.io().flush();
        assert!(rig.left(PortId(1)) == rest, "bytes or order changed");
    }
    rig.unblock(PortId(0));
    rig.io().flush();
    assert!(rig.left(PortId(0)) == first, "bytes or order changed");
    assert_eq!(rig.free_chunks(), total);
}

pub(crate) fn a_frame_received_on_one_port_leaves_by_another<R: Rig>() {
    let mut rig = R::new();
    let packets = frames(64, 4);
    rig.arrive(PortId(0), &packets);
    let mut expected = Vec::new();
    receive(&mut rig, packets.len(), |io, _, mut frame| {
        // As encapsulation does it: new bytes in the headroom.
        let mut bytes = vec![0xee; usize::from(HEADROOM)];
        bytes.extend(bytes_of(io, &frame));
        bytes.truncate(1500);
        frame.start -= HEADROOM;
        frame.len = bytes.len() as u16;
        frame.of(io.chunk(&frame)).copy_from_slice(&bytes);
        expected.push(bytes);
        io.send(PortId(1), frame).expect("room");
    });
    rig.io().flush();
    assert!(rig.left(PortId(1)) == expected, "bytes or order changed");
    assert!(rig.left(PortId(0)).is_empty());
}

pub(crate) fn a_full_port_gives_the_frame_back<R: Rig>() {
    let mut rig = R::new();
    let TxRoom::Frames(room) = rig.tx_room() else {
        return never_is_full(&mut rig);
    };
    let packets = frames(room + 1, 5);
    let total = rig.free_chunks();
    rig.block(PortId(0));
    for packet in packets.iter().take(room) {
        let frame = filled(rig.io(), packet);
        rig.io().send(PortId(0), frame).expect("room");
    }
    let frame = filled(rig.io(), &packets[room]);
    let chunk = frame.chunk;
    let back = rig.io().send(PortId(0), frame).expect_err("no room");
    assert_eq!(back.chunk, chunk);
    assert_eq!(bytes_of(rig.io(), &back), packets[room]);
    let other = rig.io().send(PortId(1), back);
    assert!(other.is_ok(), "one full port leaves the other alone");
    rig.io().flush();
    assert!(rig.left(PortId(1)) == packets[room..]);
    rig.unblock(PortId(0));
    rig.io().flush();
    assert!(rig.left(PortId(0)) == packets[..room], "bytes or order");
    assert_eq!(rig.free_chunks(), total);
}

/// Takes more than there are chunks, without a flush in between.
fn never_is_full<R: Rig>(rig: &mut R) {
    let total = rig.free_chunks();
    let packets = frames(4 * total, 5);
    for packet in &packets {
        let frame = filled(rig.io(), packet);
        rig.io().send(PortId(0), frame).expect("endless room");
    }
    rig.io().flush();
    assert!(rig.left(PortId(0)) == packets, "bytes or order");
    assert_eq!(rig.free_chunks(), total);
}

pub(crate) fn a_port_that_does_not_exist_gives_the_frame_back<R: Rig>() {
    let mut rig = R::new();
    let packet = &frames(1, 6)[0];
    for port in [2, 999, u16::MAX] {
        let frame = filled(rig.io(), packet);
        let back = rig
            .io()
            .send(PortId(port), frame)
            .expect_err("no such port");
        assert_eq!(&bytes_of(rig.io(), &back), packet);
        rig.io().free(back);
    }
}

pub(crate) fn a_queue_that_does_not_exist_is_none<R: Rig>() {
    let mut rig = R::new();
    let mut batch = Batch::default();
    let queues = rig.io().rx_queues();
    for queue in [queues, queues + 1, usize::MAX] {
        assert_eq!(rig.io().recv(queue, &mut batch), None);
        assert!(batch.is_empty());
    }
}

pub(crate) fn every_chunk_is_handed_out_once_and_comes_back<R: Rig>() {
    let mut rig = R::new();
    let total = rig.free_chunks();
    assert!(total >= BATCH);
    for _ in 0..3 {
        let io = rig.io();
        let frames: Vec<Frame> = std::iter::from_fn(|| io.alloc()).collect();
        let mut chunks: Vec<u32> = frames.iter().map(|frame| frame.chunk).collect();
        chunks.sort_unstable();
        chunks.dedup();
        assert_eq!(chunks.len(), frames.len(), "a chunk with two owners");
        for frame in frames {
            io.free(frame);
        }
        io.free(Frame::NONE);
        assert_eq!(rig.free_chunks(), total);
    }
}

pub(crate) fn nothing_is_lost_or_doubled_under_churn<R: Rig>() {
    let mut rig = R::new();
    let total = rig.free_chunks();
    for round in 0..20 {
        let packets = frames(1 + (round * 29) % 100, round);
        let from = PortId((round % 2) as u16);
        rig.arrive(from, &packets);
        let (mut out, mut kept, mut index) = ([Vec::new(), Vec::new()], Vec::new(), 0);
        let count = receive(&mut rig, packets.len(), |io, _, frame| {
            index += 1;
            match index % 4 {
                0 => io.free(frame),
                1 => kept.push(frame),
                by => {
                    let bytes = bytes_of(io, &frame);
                    if io.send(PortId(by - 2), frame).is_ok() {
                        out[usize::from(by - 2)].push(bytes);
                    } else {
                        panic!("no room for packet {index}");
                    }
                }
            }
        });
        assert_eq!(count, packets.len());
        for frame in kept {
            let bytes = bytes_of(rig.io(), &frame);
            assert!(packets.contains(&bytes), "a kept frame changed");
            rig.io().send(PortId(0), frame).expect("room");
            out[0].push(bytes);
        }
        rig.io().flush();
        for (port, expected) in [PortId(0), PortId(1)].into_iter().zip(out) {
            assert!(rig.left(port) == expected, "bytes or order changed");
        }
        assert_eq!(rig.free_chunks(), total, "round {round}");
    }
}
