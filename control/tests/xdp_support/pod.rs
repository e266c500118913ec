//! A pod that sends to its node, and what the node's kernel gets to see of that.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{in_netns, ip};

const NODE: &str = "10.0.0.1";

/// A namespace behind a veth, and a socket of the node's that it can send to. Neighbours are fixed, so that it is the
/// datagram that is stopped and not the question before it.
pub struct Pod {
    node: UdpSocket,
    sender: UdpSocket,
}

impl Pod {
    pub fn new(ifname: &str) -> Self {
        ip("netns add pod");
        ip(&format!(
            "link add {ifname} address 02:00:00:00:00:01 type veth peer name eth0 address 02:00:00:00:00:02 netns pod"
        ));
        ip(&format!("addr add {NODE}/24 dev {ifname}"));
        ip(&format!("link set {ifname} up"));
        ip("-n pod addr add 10.0.0.2/24 dev eth0");
        ip("-n pod link set eth0 up");
        ip(&format!(
            "-n pod neigh replace {NODE} lladdr 02:00:00:00:00:01 nud permanent dev eth0"
        ));
        let node = UdpSocket::bind((NODE, 0)).expect("bind");
        let sender = in_netns("pod", || UdpSocket::bind("10.0.0.2:0").expect("bind"));
        Self { node, sender }
    }

    /// Whether the node's kernel gets what the pod sends now.
    pub fn reaches_the_kernel(&self) -> bool {
        for _ in 0..20 {
            self.sender.send_to(b"?", self.to()).expect("send");
            self.wait_for_datagrams(Duration::from_millis(50));
            if self.reached_the_kernel() > 0 {
                return true;
            }
        }
        false
    }

    /// How many datagrams the node's kernel has got since this was asked last.
    pub fn reached_the_kernel(&self) -> u64 {
        self.wait_for_datagrams(Duration::from_millis(50));
        self.node.set_nonblocking(true).expect("nonblocking");
        let mut count = 0;
        while self.node.recv(&mut [0; 16]).is_ok() {
            count += 1;
        }
        count
    }

    /// Sends until the result is dropped.
    pub fn send_without_pause(&self) -> Sender {
        let (socket, to) = (self.sender.try_clone().expect("clone"), self.to());
        let (sent, stop) = (Arc::default(), Arc::default());
        let (counter, stopped) = (Arc::clone(&sent), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            while !AtomicBool::load(&stopped, Ordering::Relaxed) {
                if socket.send_to(b"!", to).is_ok() {
                    AtomicU64::fetch_add(&counter, 1, Ordering::Relaxed);
                }
                // Few enough not to fill the node's socket, which would hide what got through first.
                thread::sleep(Duration::from_micros(200));
            }
        });
        Sender {
            sent,
            stop,
            thread: Some(thread),
        }
    }

    fn to(&self) -> SocketAddr {
        self.node.local_addr().expect("bound")
    }

    fn wait_for_datagrams(&self, patience: Duration) {
        self.node.set_nonblocking(false).expect("blocking");
        self.node.set_read_timeout(Some(patience)).expect("timeout");
        let _ = self.node.peek_from(&mut [0; 16]);
    }
}

/// A thread that sends, until it is dropped.
pub struct Sender {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sender {
    /// Waits until that many more datagrams are on their way.
    pub fn wait_for(&self, more: u64) {
        let goal = self.sent.load(Ordering::Relaxed) + more;
        while self.sent.load(Ordering::Relaxed) < goal {
            assert!(
                self.thread.as_ref().is_some_and(|t| !t.is_finished()),
                "the sender ended"
            );
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
