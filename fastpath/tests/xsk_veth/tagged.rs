//! One socket that receives for many ports, by the tags of its frames.

use fastpath::batch::Batch;
use fastpath::io::PacketIo;
use fastpath::io::xsk::arena::QUARANTINE;
use fastpath::io::xsk::packet_io::{Command, Reply, XskControl, XskIo};
use fastpath::io::xsk::test_support::{XdpLink, XdpProgram, can_run};
use fastpath::io::xsk::{SocketOptions, UmemArea, XskSocket};
use fastpath::port::PortId;
use flowtable::Tick;

use crate::lab::{End, Lab, arena, both_ways, drain, frame, ring, until};

/// Names the socket, and no port.
const PUNT: PortId = PortId(9);
const CHUNKS: u32 = 512;

/// A poller's I/O whose punt socket is at `r0`; frames come from `l0`.
struct Rig {
    io: XskIo,
    control: XskControl,
    area: UmemArea,
    from: End,
    _link: XdpLink,
    lab: Lab,
}

impl Rig {
    /// Ports 1 and 2 are those of devices 101 and 102; the devices' addresses end with these numbers too.
    fn new() -> Self {
        let lab = Lab::new(1);
        let from = End::open(&lab.left, "l0", CHUNKS, &both_ways(256));
        let (area, part) = arena(CHUNKS);
        let (io, control) = XskIo::new(part, 16).expect("a poller's sockets");
        let program = XdpProgram::redirect(1);
        let link = lab.right.within(|| program.attach("r0"));
        let options = SocketOptions::receive_only(ring(128));
        let socket = lab
            .right
            .within(|| XskSocket::open(&area, "r0", 0, &options))
            .expect("a socket");
        program.set_socket(0, &socket);
        let mut rig = Self {
            io,
            control,
            area,
            from,
            _link: link,
            lab,
        };
        let socket = Box::new(socket);
        rig.tell(Command::AttachPunt { port: PUNT, socket });
        for port in [1, 2] {
            rig.tell(Command::Tag {
                ifindex: 100 + u32::from(port),
                port: PortId(port),
                mac: mac(port),
            });
        }
        rig
    }

    fn tell(&mut self, command: Command) {
        self.control.send(command).expect("room for a command");
        self.io.maintain(Tick(0));
    }

    /// Sends these, and waits until the other end has all of them.
    fn send(&mut self, frames: &[Vec<u8>]) {
        for frame in frames {
            self.from.send(frame, 0);
        }
        drain(&mut self.from.port, &mut self.from.part);
    }

    /// One call of `recv`: whose frames these are, and their bytes.
    fn batch(&mut self) -> (PortId, Vec<Vec<u8>>) {
        let mut batch = Batch::default();
        let port = self.io.recv(0, &mut batch).expect("the punt's queue");
        let mut frames = Vec::new();
        for packet in batch.packets() {
            let frame = packet.frame.take();
            frames.push(frame.of(self.io.chunk(&frame)).to_vec());
            self.io.free(frame);
        }
        (port, frames)
    }

    /// The first frames of `port` that come; nobody else has any.
    fn next(&mut self, port: PortId) -> Vec<Vec<u8>> {
        until("frames", || {
            let (from, frames) = self.batch();
            if frames.is_empty() {
                return None;
            }
            assert_eq!(from, port);
            Some(frames)
        })
    }
}

/// The address of a port's device.
fn mac(port: u16) -> [u8; 6] {
    [0xee, 0, 0, 0, 0, port as u8]
}

fn tagged(kind: u8, ifindex: u32, mut frame: Vec<u8>) -> Vec<u8> {
    frame[..2].copy_from_slice(&[kind, 0]);
    frame[2..6].copy_from_slice(&ifindex.to_be_bytes());
    frame
}

/// A frame with another destination.
fn to(destination: [u8; 6], mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&destination);
    frame
}

/// With room for addresses: an IPv4 or IPv6 packet as far as anybody looks.
fn packet(ethertype: [u8; 2], destination: &[u8]) -> Vec<u8> {
    let mut bytes = frame(7, 80);
    bytes[12..14].copy_from_slice(&ethertype);
    let at = if destination.len() == 4 { 30 } else { 38 };
    bytes[at..at + destination.len()].copy_from_slice(destination);
    bytes
}

#[test]
fn a_burst_of_several_ports_comes_by_port_and_in_order() {
    if !can_run("a_burst_of_several_ports_comes_by_port_and_in_order") {
        return;
    }
    let mut rig = Rig::new();
    let of = |ifindex, seed| tagged(0, ifindex, frame(seed, 64));
    let unknown = [of(7, 3), of(8, 6)];
    rig.send(&[
        of(101, 1),
        of(102, 2),
        unknown[0].clone(),
        of(101, 4),
        of(101, 5),
        unknown[1].clone(),
        of(102, 7),
    ]);
    let expected = |port, seeds: &[u32]| {
        let frames = seeds.iter().map(|&seed| to(mac(port), frame(seed, 64)));
        (PortId(port), frames.collect::<Vec<_>>())
    };
    assert_eq!(rig.batch(), expected(1, &[1, 4, 5]));
    assert!(rig.io.has_more(0));
    // What comes meanwhile is left where it is.
    rig.send(&[of(102, 8)]);
    assert_eq!(rig.batch(), expected(2, &[2, 7]));
    assert!(rig.io.has_more(0));
    assert_eq!(rig.batch(), (PUNT, unknown.to_vec()), "as they came");
    assert!(!rig.io.has_more(0));
    assert_eq!(rig.batch(), expected(2, &[8]));
    assert!(!rig.io.has_more(0));
    assert_eq!(rig.batch(), (PUNT, vec![]));
    assert!(!rig.io.has_more(1), "no such queue");
    let part = rig.io.part();
    assert!(part.is_balanced());
    assert_eq!(part.accounting().held, 0);
    assert_eq!(part.anomalies(), <_>::default());
}

#[test]
fn more_than_a_batch_comes_a_batch_at_a_time() {
    if !can_run("more_than_a_batch_comes_a_batch_at_a_time") {
        return;
    }
    let mut rig = Rig::new();
    // By turns, but for the last ones.
    let port = |seed: u32| if seed < 90 { 1 + (seed % 2) as u16 } else { 2 };
    let frames: Vec<_> = (0..100)
        .map(|seed| tagged(0, 100 + u32::from(port(seed)), frame(seed, 64)))
        .collect();
    rig.send(&frames);
    let mut came = Vec::new();
    for _ in 0..4 {
        let (from, frames) = rig.batch();
        came.push((from.0, frames.len()));
        let seeds = frames
            .iter()
            .map(|frame| u32::from_be_bytes(*frame[14..].first_chunk().expect("a seed")));
        let seeds: Vec<_> = seeds.collect();
        assert!(seeds.is_sorted() && seeds.iter().all(|&seed| port(seed) == from.0));
    }
    assert_eq!(came, [(1, 32), (2, 32), (1, 13), (2, 23)]);
    assert_eq!(rig.batch(), (PUNT, vec![]));
}

#[test]
fn destinations_are_put_back() {
    if !can_run("destinations_are_put_back") {
        return;
    }
    let mut rig = Rig::new();
    let group4 = packet([0x08, 0x00], &[239, 129, 2, 3]);
    let group6 = packet(
        [0x86, 0xdd],
        &[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 4, 5, 6],
    );
    // The shortest frames that can be sent, of the one kind and of the other.
    let (short4, short6) = (group4[..14].to_vec(), group6[..14].to_vec());
    let anothers = [0x02, 0, 0, 0, 0, 0];
    let cases = [
        (0, frame(1, 64), mac(1)),
        (1, frame(2, 64), [0xff; 6]),
        (2, group4.clone(), [0x01, 0x00, 0x5e, 1, 2, 3]),
        (3, group6.clone(), [0x33, 0x33, 0xff, 4, 5, 6]),
        (4, group4, anothers),
        (77, group6, anothers),
        (0, short4.clone(), mac(1)),
        (2, short4, anothers),
        (3, short6, anothers),
    ];
    let sent = cases
        .each_ref()
        .map(|(kind, frame, _)| tagged(*kind, 101, frame.clone()));
    rig.send(&sent);
    let wanted = cases.map(|(_, frame, mac)| to(mac, frame));
    assert_eq!(rig.next(PortId(1)), wanted);
}

#[test]
fn a_port_that_goes_leaves_what_waited_to_nobody() {
    if !can_run("a_port_that_goes_leaves_what_waited_to_nobody") {
        return;
    }
    let mut rig = Rig::new();
    let of = |ifindex, seed| tagged(0, ifindex, frame(seed, 64));
    rig.send(&[of(101, 1), of(102, 2), of(102, 3)]);
    assert_eq!(rig.next(PortId(1)).len(), 1);
    rig.tell(Command::Detach { port: PortId(2) });
    assert!(matches!(
        rig.control.reply(),
        Some(Reply::Gone { port: PortId(2) })
    ));
    assert_eq!(rig.next(PUNT).len(), 2, "what waited");
    rig.send(&[of(102, 4)]);
    assert_eq!(rig.next(PUNT), [of(102, 4)], "what came after");

    // The number is another device's.
    let mac = mac(2);
    let (ifindex, port) = (55, PortId(2));
    rig.tell(Command::Tag { ifindex, port, mac });
    rig.send(&[of(55, 5)]);
    assert_eq!(rig.next(PortId(2)), [to(mac, frame(5, 64))]);
}

#[test]
fn a_punt_that_goes_loses_no_chunk() {
    if !can_run("a_punt_that_goes_loses_no_chunk") {
        return;
    }
    let mut rig = Rig::new();
    let of = |ifindex, seed| tagged(0, ifindex, frame(seed, 64));
    rig.send(&[of(101, 1), of(102, 2), of(7, 3), of(102, 4)]);
    assert_eq!(rig.next(PortId(1)).len(), 1);
    assert_eq!(rig.io.part().accounting().held, 3);
    rig.tell(Command::Detach { port: PUNT });
    assert_eq!(rig.io.part().accounting().held, 0);
    assert!(!rig.io.has_more(0));
    let Some(Reply::Detached { port: PUNT, socket }) = rig.control.reply() else {
        panic!("no socket was given back");
    };
    assert!(matches!(
        rig.control.reply(),
        Some(Reply::Gone { port: PUNT })
    ));
    rig.tell(Command::Closed(socket.close()));
    let mut tick = 0;
    until("end of the quarantine", || {
        std::thread::sleep(QUARANTINE / 10);
        tick += 2_000_000_000;
        rig.io.maintain(Tick(tick));
        let part = rig.io.part();
        assert!(part.is_balanced());
        (part.available() == CHUNKS).then_some(())
    });
    assert_eq!(rig.io.part().anomalies(), <_>::default());

    // Another one, and its tags are those that were told before.
    let options = SocketOptions::receive_only(ring(128));
    let socket = rig
        .lab
        .right
        .within(|| XskSocket::open(&rig.area, "r0", 0, &options));
    let socket = Box::new(socket.expect("a socket"));
    rig.tell(Command::AttachPunt { port: PUNT, socket });
}
