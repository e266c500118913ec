//! Sockets that only send, on a veth that has no XDP program: what a pod is sent by, where it sends in another way.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastpath::batch::Batch;
use fastpath::io::PacketIo;
use fastpath::io::xsk::arena::QUARANTINE;
use fastpath::io::xsk::packet_io::{Command, Reply, XskControl, XskIo};
use fastpath::io::xsk::test_support::{Netns, XdpProgram, can_run};
use fastpath::io::xsk::wait::{WaitSet, Woken};
use fastpath::io::xsk::{
    FrameSpan, PortError, QueuePort, SocketOptions, UmemArea, XskSocket, ethtool,
};
use fastpath::port::PortId;
use flowtable::Tick;

use crate::lab::{
    End, Lab, PATIENCE, arena, both_ways, drain, frame, open_port, ring, send, until,
};

const POD: PortId = PortId(1);
const PUNT: PortId = PortId(9);
const CHUNKS: u32 = 256;
const POD_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0d];
const SECOND: u64 = 1_000_000_000;

fn options() -> SocketOptions {
    SocketOptions::send_only(ring(64))
}

/// Gives `r0` in `right` an address, and hears what comes to it there.
fn pod(lab: &Lab) -> UdpSocket {
    lab.right.ip("link set r0 address 02:00:00:00:00:0d");
    lab.right.ip("addr add 10.77.0.2/24 dev r0");
    let socket = lab
        .right
        .within(|| UdpSocket::bind("10.77.0.2:9"))
        .expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

/// A datagram for the pod that says its number.
fn datagram(number: u32) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = etherparse::PacketBuilder::ethernet2([0xee; 6], POD_MAC)
        .ipv4([10, 77, 0, 1], [10, 77, 0, 2], 64)
        .udp(7, 9);
    builder
        .write(&mut frame, &number.to_be_bytes())
        .expect("a packet");
    frame
}

/// The number of the next datagram that the pod hears.
fn heard(pod: &UdpSocket) -> u32 {
    let mut number = [0; 4];
    assert_eq!(pod.recv(&mut number).expect("a datagram"), 4);
    u32::from_be_bytes(number)
}

#[test]
fn a_pods_stack_gets_what_is_sent_and_keeps_its_super_frames() {
    if !can_run("a_pods_stack_gets_what_is_sent_and_keeps_its_super_frames") {
        return;
    }
    let lab = Lab::new(1);
    let heard_by = pod(&lab);
    let segmentation = || {
        lab.right
            .within(|| ethtool::segmentation("r0"))
            .expect("a feature")
    };
    let (area, mut part) = arena(CHUNKS);
    let mut port = open_port(&lab.left, &area, &mut part, "l0", 0, &options());
    assert!(segmentation());
    for number in 0..300 {
        send(&mut port, &mut part, &datagram(number), 64);
        assert_eq!(heard(&heard_by), number);
    }
    drain(&mut port, &mut part);
    port.health().expect("up");
    let statistics = port.statistics().expect("statistics");
    assert_eq!(statistics.tx_invalid + statistics.rx_dropped, 0);
    // It receives nothing, and holds no chunk for that.
    assert_eq!(port.recv(&mut part, &mut [FrameSpan::default(); 4]), 0);
    assert_eq!(part.accounting().free, CHUNKS);
    assert_eq!(part.anomalies(), <_>::default());
    assert!(segmentation());
    // What it would cost.
    let program = XdpProgram::redirect(1);
    let _link = lab.left.within(|| program.attach("l0"));
    assert!(!segmentation());
}

#[test]
fn nothing_that_it_sends_ends_a_wait() {
    if !can_run("nothing_that_it_sends_ends_a_wait") {
        return;
    }
    let sets = [WaitSet::new(), WaitSet::by_epoll()];
    for mut waits in sets.map(|set| set.expect("a wait set")) {
        let lab = Lab::new(1);
        let heard_by = pod(&lab);
        let (area, mut part) = arena(CHUNKS);
        let mut port = open_port(&lab.left, &area, &mut part, "l0", 0, &options());
        waits.add_port(&port, 3).expect("waiting for a port");
        let mut sleep = || waits.wait(Some(Duration::from_millis(20))).expect("a wait");
        assert_eq!(sleep(), Woken::default());
        for number in 0..100 {
            send(&mut port, &mut part, &datagram(number), 0);
            assert_eq!(heard(&heard_by), number);
        }
        drain(&mut port, &mut part);
        assert_eq!(sleep(), Woken::default());
        lab.left.ip("link del l0");
        // By io_uring the end of the device ends a wait, once.
        let _ = sleep();
        assert_eq!(sleep(), Woken::default());
        waits.remove_port(&port).expect("no longer waited for");
    }
}

/// A poller's I/O by which the pod is sent what is for it.
struct Sender {
    io: XskIo,
    control: XskControl,
    area: UmemArea,
    tick: Tick,
}

impl Sender {
    fn new() -> Self {
        let (area, part) = arena(CHUNKS);
        let (io, control) = XskIo::new(part, 16).expect("a poller's sockets");
        Self {
            io,
            control,
            area,
            tick: Tick(0),
        }
    }

    /// The next second comes.
    fn tell(&mut self, command: Option<Command>) {
        if let Some(command) = command {
            self.control.send(command).expect("room for a command");
        }
        self.tick = Tick(self.tick.0 + 2 * SECOND);
        self.io.maintain(self.tick);
    }

    fn attach(&mut self, netns: &Netns) {
        let socket = netns.within(|| XskSocket::open(&self.area, "l0", 0, &options()));
        let socket = Box::new(socket.expect("a socket"));
        self.tell(Some(Command::Attach { port: POD, socket }));
    }

    fn send(&mut self, bytes: &[u8]) -> bool {
        let mut span = self.io.alloc().expect("a chunk");
        span.len = bytes.len() as u16;
        span.of(self.io.chunk(&span)).copy_from_slice(bytes);
        let sent = self.io.send(POD, span).map_err(|span| self.io.free(span));
        self.io.flush();
        sent.is_ok()
    }

    fn sending(&self) -> u32 {
        assert!(self.io.part().is_balanced());
        self.io.part().accounting().sending
    }

    /// Has it let go of the pod, and closes its socket.
    fn detach(&mut self) {
        while self.control.reply().is_some() {}
        self.tell(Some(Command::Detach { port: POD }));
        let mut sockets = Vec::new();
        until("end of the port", || match self.control.reply() {
            Some(Reply::Detached { port: POD, socket }) => {
                sockets.push(socket);
                None
            }
            Some(Reply::Gone { port: POD }) => Some(()),
            _ => None,
        });
        for socket in sockets {
            self.tell(Some(Command::Closed(socket.close())));
        }
    }
}

#[test]
fn a_pods_device_that_was_down_or_deleted_costs_no_frame() {
    if !can_run("a_pods_device_that_was_down_or_deleted_costs_no_frame") {
        return;
    }
    let lab = Lab::new(1);
    let heard_by = pod(&lab);
    let mut sender = Sender::new();
    sender.attach(&lab.left);
    assert!(sender.send(&datagram(1)));
    assert_eq!(heard(&heard_by), 1);

    lab.left.ip("link set l0 down");
    assert!(sender.send(&datagram(2)), "found out only by sending");
    assert!(!sender.send(&datagram(3)));
    assert_eq!(sender.sending(), 1);
    lab.left.ip("link set l0 up");
    // The addresses of the other end stay, for it was not down.
    until("a port that is up again", || {
        sender.tell(None);
        sender.send(&datagram(4)).then_some(())
    });
    assert_eq!((heard(&heard_by), heard(&heard_by)), (2, 4));
    until("completions", || {
        sender.io.flush();
        (sender.sending() == 0).then_some(())
    });

    // The pod's own end is down: what is sent is lost on the way, and comes back to us.
    lab.right.ip("link set r0 down");
    assert!(sender.send(&datagram(5)));
    until("completions", || {
        sender.io.flush();
        (sender.sending() == 0).then_some(())
    });
    lab.right.ip("link set r0 up");
    until("a pod that is up again", || {
        sender.tell(None);
        sender.send(&datagram(6));
        heard_by.set_nonblocking(true).expect("a mode");
        let came = heard_by.recv(&mut [0; 4]).is_ok();
        heard_by.set_nonblocking(false).expect("a mode");
        came.then_some(())
    });

    // Deleted with frames outstanding.
    lab.left.ip("link set l0 down");
    assert!(sender.send(&datagram(7)));
    lab.left.ip("link del l0");
    for number in 8..10 {
        assert!(!sender.send(&datagram(number)));
        sender.tell(None);
    }
    assert_eq!(sender.sending(), 1);
    sender.detach();
    assert_eq!(sender.io.part().accounting().quarantined, 1);

    // Another one of the same name.
    lab.left.veth("l0", &lab.right, "r0", 1);
    drop(heard_by);
    let heard_by = pod(&lab);
    sender.attach(&lab.left);
    assert!(sender.send(&datagram(10)));
    assert_eq!(heard(&heard_by), 10);
    until("all chunks", || {
        std::thread::sleep(QUARANTINE / 10);
        sender.io.flush();
        sender.tell(None);
        (sender.io.part().available() == CHUNKS).then_some(())
    });
    assert_eq!(sender.io.part().anomalies(), <_>::default());
}

#[test]
fn a_socket_tells_what_became_of_its_device() {
    if !can_run("a_socket_tells_what_became_of_its_device") {
        return;
    }
    let lab = Lab::new(1);
    let (area, mut part) = arena(CHUNKS);
    let port = open_port(&lab.left, &area, &mut part, "l0", 0, &options());
    let is_down = |port: &QueuePort| matches!(port.health(), Err(PortError::Down));
    assert!(!is_down(&port));
    lab.left.ip("link set l0 down");
    assert!(is_down(&port));
    lab.left.ip("link set l0 up");
    assert!(!is_down(&port));
    lab.right.ip("link set r0 down");
    assert!(!is_down(&port), "no carrier is not down");
    lab.left.ip("link del l0");
    assert!(is_down(&port));
    assert_eq!(port.statistics().expect("still there").tx_invalid, 0);
}

/// Has the poller stop when the test is over, well or not.
struct Stopping<'a>(&'a AtomicBool, &'a XskControl);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.wake();
    }
}

/// A pod that is received by a punt and sent by its own device: the frames of one come back by the other, from a sleeping poller's I/O.
#[test]
fn a_tag_and_a_socket_that_sends_are_a_whole_port() {
    if !can_run("a_tag_and_a_socket_that_sends_are_a_whole_port") {
        return;
    }
    let pods = Lab::new(1);
    let punt = Lab::new(1);
    let mut from = End::open(&punt.left, "l0", CHUNKS, &both_ways(64));
    let mut back = End::open(&pods.right, "r0", CHUNKS, &both_ways(64));
    let mut sender = Sender::new();
    let program = XdpProgram::redirect(1);
    let _link = punt.right.within(|| program.attach("r0"));
    let options = SocketOptions::receive_only(ring(64));
    let socket = punt
        .right
        .within(|| XskSocket::open(&sender.area, "r0", 0, &options))
        .expect("a socket");
    program.set_socket(0, &socket);
    let socket = Box::new(socket);
    sender.tell(Some(Command::AttachPunt { port: PUNT, socket }));
    sender.attach(&pods.left);
    sender.tell(Some(Command::Tag {
        ifindex: 77,
        port: POD,
        mac: [0xee; 6],
    }));

    let Sender {
        mut io, control, ..
    } = sender;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let poller = scope.spawn(|| {
            let (mut batch, mut sleeps) = (Batch::default(), 0);
            while !stop.load(Ordering::Relaxed) {
                io.maintain(Tick(0));
                let mut received = 0;
                for queue in 0..io.rx_queues() {
                    while let Some(port) = io.recv(queue, &mut batch) {
                        received += batch.len();
                        for packet in batch.packets() {
                            let frame = packet.frame.take();
                            io.send(port, frame).expect("room in the ring");
                        }
                        batch = Batch::default();
                        if !io.has_more(queue) {
                            break;
                        }
                    }
                }
                io.flush();
                if received == 0 {
                    sleeps += 1;
                    // Longer than the test waits for a frame: it must be called.
                    io.wait(3 * PATIENCE);
                }
            }
            sleeps
        });
        let stopping = Stopping(&stop, &control);
        for seed in 0..20 {
            let mut bytes = frame(seed, 64);
            bytes[..6].copy_from_slice(&[0, 0, 0, 0, 0, 77]);
            from.send(&bytes, 0);
            bytes[..6].copy_from_slice(&[0xee; 6]);
            assert_eq!(back.receive(1), [bytes]);
        }
        drop(stopping);
        let sleeps = poller.join().expect("the poller");
        assert!(sleeps > 0, "it never slept");
    });
    assert!(io.part().is_balanced());
    assert_eq!(io.part().anomalies(), <_>::default());
}
