//! Real network stacks talk through a bare forwarder.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastpath::io::xsk::test_support::{Netns, XdpProgram, can_run};
use fastpath::io::xsk::wait::WaitSet;
use fastpath::io::xsk::{FrameSpan, ethtool};

use crate::lab::{arena, both_ways, open_port};

/// client c0 <-> n0 node n1 <-> s0 server; the node copies every frame from one port to the other.
struct Chain {
    client: Netns,
    node: Netns,
    server: Netns,
}

impl Chain {
    fn new() -> Self {
        let chain = Self {
            client: Netns::new("client"),
            node: Netns::new("node"),
            server: Netns::new("server"),
        };
        chain.node.veth("n0", &chain.client, "c0", 1);
        chain.node.veth("n1", &chain.server, "s0", 1);
        for (netns, link, address) in [
            (&chain.client, "c0", "10.77.0.1"),
            (&chain.server, "s0", "10.77.0.2"),
        ] {
            netns.ip(&format!("addr add {address}/24 dev {link}"));
            // Whole checksums: nobody here completes partial ones.
            netns
                .within(|| ethtool::set_tx_checksum(link, false))
                .expect("tx off");
        }
        chain
    }

    /// Runs `body` while a thread forwards; the forwarder's frames are all accounted for at the end.
    fn forwarding<R>(&self, body: impl FnOnce() -> R) -> R {
        let stop = AtomicBool::new(false);
        let (area, mut part) = arena(2048);
        let program = XdpProgram::redirect(1);
        let other_program = XdpProgram::redirect(1);
        let mut ports = [
            open_port(&self.node, &area, &mut part, "n0", 0, &both_ways(256)),
            open_port(&self.node, &area, &mut part, "n1", 0, &both_ways(256)),
        ];
        program.set_socket(0, ports[0].socket());
        other_program.set_socket(0, ports[1].socket());
        let _links = self
            .node
            .within(|| (program.attach("n0"), other_program.attach("n1")));
        let mut waits = WaitSet::new().expect("a wait set");
        for (key, port) in (0..).zip(&ports) {
            waits.add_port(port, key).expect("waiting for a port");
        }
        let waker = waits.waker();
        std::thread::scope(|scope| {
            let forwarder = scope.spawn(|| {
                let mut batch = [FrameSpan::default(); 64];
                while !stop.load(Ordering::Relaxed) {
                    let mut busy = false;
                    for from in 0..2 {
                        let received = ports[from].recv(&mut part, &mut batch);
                        for &frame in &batch[..received] {
                            if ports[1 - from].send(&mut part, frame).is_err() {
                                part.release(frame.chunk);
                            }
                        }
                        busy |= received != 0;
                    }
                    for port in &mut ports {
                        busy |= port.flush().expect("the port is up").left != 0;
                        port.reap(&mut part);
                        port.refill(&mut part);
                    }
                    if !busy {
                        waits
                            .wait(Some(Duration::from_millis(100)))
                            .expect("a wait");
                    }
                }
                assert!(part.is_balanced());
                assert_eq!(part.anomalies(), <_>::default());
                assert_eq!(part.accounting().held, 0);
            });
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            stop.store(true, Ordering::Relaxed);
            waker.wake();
            forwarder.join().expect("the forwarder");
            result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

#[test]
fn ping_and_arp_cross_the_forwarder() {
    if !can_run("ping_and_arp_cross_the_forwarder") {
        return;
    }
    let chain = Chain::new();
    let ping = |count: u32| {
        chain
            .client
            .exec(&format!("ping -c {count} -i 0.05 -W 1 10.77.0.2"))
    };
    assert!(!ping(1).status.success(), "nothing forwards yet");
    chain.forwarding(|| {
        let output = ping(10);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains(" 0% packet loss"), "{said}");
    });
    assert!(!ping(1).status.success(), "nothing forwards any more");
}

#[test]
fn udp_crosses_the_forwarder() {
    if !can_run("udp_crosses_the_forwarder") {
        return;
    }
    let chain = Chain::new();
    let server = chain
        .server
        .within(|| UdpSocket::bind("10.77.0.2:5000"))
        .expect("a server");
    let client = chain
        .client
        .within(|| UdpSocket::bind("10.77.0.1:5001"))
        .expect("a client");
    for socket in [&server, &client] {
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .expect("a timeout");
    }
    chain.forwarding(|| {
        let mut buffer = [0; 2048];
        for len in [0, 1, 64, 1000, 1472] {
            let sent: Vec<u8> = (0..len).map(|at| (at * 7) as u8).collect();
            client.send_to(&sent, "10.77.0.2:5000").expect("sent");
            let (got, from) = server.recv_from(&mut buffer).expect("received");
            assert_eq!(&buffer[..got], sent);
            server.send_to(&sent, from).expect("sent back");
            assert_eq!(client.recv(&mut buffer).expect("received back"), len);
        }
    });
}

#[test]
fn a_tcp_transfer_crosses_the_forwarder_whole() {
    const BYTES: usize = 8 << 20;
    if !can_run("a_tcp_transfer_crosses_the_forwarder_whole") {
        return;
    }
    let chain = Chain::new();
    let listener = chain
        .server
        .within(|| TcpListener::bind("10.77.0.2:5000"))
        .expect("a server");
    let sent: Vec<u8> = (0..BYTES).map(|at| (at ^ (at >> 8)) as u8).collect();
    chain.forwarding(|| {
        std::thread::scope(|scope| {
            let server = scope.spawn(|| {
                let (mut stream, _) = listener.accept().expect("a connection");
                stream
                    .set_read_timeout(Some(Duration::from_secs(10)))
                    .expect("a timeout");
                let mut got = Vec::with_capacity(BYTES);
                stream.read_to_end(&mut got).expect("all of it");
                got
            });
            let mut stream = chain
                .client
                .within(|| {
                    TcpStream::connect_timeout(
                        &"10.77.0.2:5000".parse().expect("an address"),
                        Duration::from_secs(10),
                    )
                })
                .expect("connected");
            stream
                .set_write_timeout(Some(Duration::from_secs(10)))
                .expect("a timeout");
            stream.write_all(&sent).expect("written");
            drop(stream);
            let got = server.join().expect("the server");
            assert!(got == sent, "{} of {BYTES} bytes, or other ones", got.len());
        });
    });
}
