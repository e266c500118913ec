//! A pod that sends as fast as it can, new connections or one, and another pod that goes on working.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fastpath::io::xsk::{FrameSpan, QueuePort, RingLen, SocketOptions, UmemArea, XskSocket};
use serde_json::Value;

use crate::lab::{Lab, OUTSIDE4, Options, Pod, addr, pod_mac, run};
use crate::packet::{ethernet, mac, udp_packet};
use crate::process::{Daemon, PATIENCE};
use crate::traffic::{connect, tcp};

/// Datagrams to where nobody is, past the pod's own stack; ends when dropped.
struct Spray {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Spray {
    /// Of one connection, or each of another one.
    fn start(pod: &Pod, is_new: bool) -> Self {
        let (area, mut parts) = UmemArea::new(&[512], 2048, false).expect("packet memory");
        let mut part = parts.pop().expect("one part");
        let options = SocketOptions::send_only(RingLen::new(512).expect("a power of two"));
        let socket = run(&pod.netns, || XskSocket::open(&area, "eth0", 0, &options));
        let mut port = QueuePort::new(socket.expect("a socket"), &mut part).expect("a port");
        let mut frame = datagram(pod);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut number = 0_u32;
            while !stopped.load(Ordering::Relaxed) {
                for _ in 0..64 {
                    let Some(chunk) = part.alloc() else { break };
                    // Both ports, without a checksum.
                    number = number.wrapping_add(u32::from(is_new));
                    frame[34..38].copy_from_slice(&(number | 1 << 31 | 1 << 15).to_be_bytes());
                    part.chunk(chunk)[..frame.len()].copy_from_slice(&frame);
                    let (start, len) = (0, frame.len() as u16);
                    let span = FrameSpan { chunk, start, len };
                    if port.send(&mut part, span).is_err() {
                        part.release(chunk);
                    }
                }
                port.flush().expect("the pod's end is up");
                port.reap(&mut part);
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Spray {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A datagram without a checksum from the pod to where nobody is.
fn datagram(pod: &Pod) -> Vec<u8> {
    let packet = udp_packet(pod.v4(), addr("203.0.113.1"), 9, &[0; 18]);
    let gateway = mac("ee:ee:ee:ee:ee:ee");
    let mut frame = ethernet(gateway, mac(&pod_mac(pod.index)), 0x0800, &packet);
    frame[40..42].fill(0);
    frame
}

/// Packets of a port that were dropped for one of these reasons.
fn dropped(daemon: &Daemon, port: &str, reasons: &[&str]) -> u64 {
    let output = daemon.caracal(&["drops", "-o", "json"]);
    let drops: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let drops = drops["drops"].as_array().expect("a list");
    let of = |drop: &&Value| {
        drop["port"] == port && reasons.iter().any(|reason| drop["reason"] == *reason)
    };
    let counts = drops.iter().filter(of).map(|drop| drop["count"].as_u64());
    counts.flatten().sum()
}

#[test]
fn a_pod_that_floods_leaves_another_pods_old_and_new_connections() {
    let test = "spray::a_pod_that_floods_leaves_another_pods_old_and_new_connections";
    // A ring that one batch fills, and a table of which the share of a pod is soon full.
    let options = Options {
        settings: "frames: {uplinkRing: 64}\nconnections: {entries: 16384, entriesV6: 1024}\n"
            .to_owned(),
        ..Options::default()
    };
    let Some(mut lab) = Lab::with(test, options) else {
        return;
    };
    lab.masquerade();
    let (a, b) = (lab.pod(0), lab.pod(1));
    let mut daemon = Daemon::start(&lab);
    daemon.wait_for("interface=\"cali1\"");
    let outside = addr(OUTSIDE4);
    let listener = run(&lab.wire, || TcpListener::bind((outside, 0))).expect("listen");
    let at = listener.local_addr().expect("bound");
    let mut client = connect(&b.netns, b.v4(), at);
    let (mut server, _) = listener.accept().expect("accept");

    for is_new in [false, true] {
        let spray = Spray::start(&a, is_new);
        if is_new {
            await_share(&daemon);
        }
        // The established one: everything arrives, and as it was sent.
        exchange(&mut client, &mut server);
        for _ in 0..50 {
            tcp((&b.netns, b.v4()), (&lab.wire, outside), 1000);
        }
        drop(spray);
    }
    let scarce = [
        "flow-quota",
        "flow-table-full",
        "nat-ports-exhausted",
        "tx-ring-full",
    ];
    for port in ["cali1", "eth0"] {
        assert_eq!(dropped(&daemon, port, &scarce), 0, "{port}");
    }
    daemon.finish();
}

/// Waits until the spraying pod has as many connections as one may have: more are refused, or cost it some that nobody answered.
fn await_share(daemon: &Daemon) {
    let deadline = Instant::now() + PATIENCE;
    let evicted = || daemon.state()["connections"]["evicted"].as_u64() > Some(0);
    while dropped(daemon, "cali0", &["flow-quota"]) == 0 && !evicted() {
        assert!(Instant::now() < deadline, "it does not reach its share");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Sends four megabytes one way, and a word back.
fn exchange(client: &mut TcpStream, server: &mut TcpStream) {
    let sent: Vec<u8> = (0_u32..4 << 20).map(|i| (i * 31 + i / 251) as u8).collect();
    let mut got = vec![0; sent.len()];
    server.set_read_timeout(Some(PATIENCE)).expect("timeout");
    client.set_write_timeout(Some(PATIENCE)).expect("timeout");
    thread::scope(|scope| {
        scope.spawn(|| {
            server.read_exact(&mut got).expect("receive");
            server.write_all(b"done").expect("answer");
        });
        client.write_all(&sent).expect("send");
        client.read_exact(&mut [0; 4]).expect("an answer");
    });
    assert!(got == sent, "other bytes came");
}
