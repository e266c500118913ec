//! Two user-space TCP stacks talk through source NAT, over a link that loses and reorders, while tables change.

use std::collections::VecDeque;

use fastpath::port::PortId;
use pcap_tests::build;
use pcap_tests::choices::Random;
use pcap_tests::rig::Rig;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

use crate::node::*;
use crate::schedule::{Change, Outside, Plan, first_tables};

/// What is transferred: enough that windows, retransmissions and sequence numbers are all in use.
const LEN: usize = 16 << 20;
const PORT: u16 = 80;

/// The near end of a wire of IP packets.
#[derive(Default)]
struct Wire {
    arrived: VecDeque<Vec<u8>>,
    sent: Vec<Vec<u8>>,
}

struct Arrived(Vec<u8>);

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, see: F) -> R {
        see(&self.0)
    }
}

struct Sending<'a>(&'a mut Vec<Vec<u8>>);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let mut packet = vec![0; len];
        let result = fill(&mut packet);
        self.0.push(packet);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Arrived, Sending<'_>)> {
        let packet = self.arrived.pop_front()?;
        Some((Arrived(packet), Sending(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        // No more at once than the node's port takes in a batch.
        (self.sent.len() < 32).then_some(Sending(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 1500;
        capabilities
    }
}

/// A host with one connection.
struct Host {
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
}

impl Host {
    fn new(addr: &str) -> Self {
        let mut wire = Wire::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = 7;
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        let addr: IpAddress = addr.parse().expect("an address");
        let len = if addr.version() == smoltcp::wire::IpVersion::Ipv4 {
            32
        } else {
            128
        };
        interface.update_ip_addrs(|addrs| {
            addrs.push(IpCidr::new(addr, len)).expect("room for one");
        });
        let routes = interface.routes_mut();
        match addr {
            IpAddress::Ipv4(addr) => routes.add_default_ipv4_route(addr),
            IpAddress::Ipv6(addr) => routes.add_default_ipv6_route(addr),
        }
        .expect("room for one");
        let buffer = || SocketBuffer::new(vec![0; 256 << 10]);
        let mut sockets = SocketSet::new(Vec::new());
        let socket = sockets.add(Socket::new(buffer(), buffer()));
        Self {
            wire,
            interface,
            sockets,
            socket,
        }
    }

    fn tcp(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.socket)
    }

    fn poll(&mut self, now: Instant) {
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
    }
}

/// FNV-1a: nothing is hidden from a hash that any lost, doubled or moved byte changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Hash(u64);

impl Hash {
    const NEW: Self = Self(0xcbf2_9ce4_8422_2325);

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// The frames on their way in one direction: some are lost, some overtaken.
struct Link {
    random: Random,
    late: Vec<Vec<u8>>,
    lost: usize,
}

impl Link {
    const fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            late: Vec::new(),
            lost: 0,
        }
    }

    /// What arrives of `frames`: one in 128 never does, one in 64 behind those of the next time.
    fn carry(&mut self, frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let mut arrived = std::mem::take(&mut self.late);
        for (at, frame) in frames.into_iter().enumerate() {
            match self.random.below(128) {
                0 => self.lost += 1,
                1 | 2 => self.late.push(frame),
                3 => arrived.insert(at.min(arrived.len()), frame),
                _ => arrived.push(frame),
            }
        }
        arrived
    }
}

/// One transfer of `len` bytes from a pod to a server outside, and as many back.
struct Transfer {
    rig: Rig,
    plan: Plan,
    pod: Host,
    server: Host,
    there: Link,
    back: Link,
    now: Instant,
}

impl Transfer {
    fn new(pod: &str, server: &str) -> Self {
        let plan = Plan::default();
        Self {
            rig: Rig::new(first_tables(&plan)).with_connections(),
            plan,
            pod: Host::new(pod),
            server: Host::new(server),
            there: Link::new(1),
            back: Link::new(2),
            now: Instant::ZERO,
        }
    }

    /// What hosts have sent comes in at the node, and what it sends on arrives.
    fn exchange(&mut self) {
        for from_pod in [true, false] {
            let (host, link, port, macs) = if from_pod {
                (&mut self.pod, &mut self.there, POD, (GATEWAY_MAC, POD_MAC))
            } else {
                (
                    &mut self.server,
                    &mut self.back,
                    UPLINK,
                    (UPLINK_MAC, ROUTER_MAC),
                )
            };
            let frames = std::mem::take(&mut host.wire.sent);
            let frames: Vec<_> = link
                .carry(frames)
                .iter()
                .map(|packet| build::ethernet(macs.0, macs.1, packet))
                .collect();
            for frames in frames.chunks(64) {
                self.rig
                    .run_now(port, frames)
                    .sent
                    .into_iter()
                    .enumerate()
                    .for_each(|(port, frames)| {
                        self.pod
                            .arrive(&mut self.server, PortId(port as u16), &frames);
                    });
            }
        }
    }

    /// Changes something that the connection does not hang on, or only for a moment.
    fn change(&mut self, round: usize) {
        let mut plan = self.plan.clone();
        match round % 6 {
            0 => plan.outside = Outside::Router(10),
            1 => plan.outside = Outside::Unreachable,
            2 => plan.outside = Outside::Router(9),
            3 => plan.has_pods[1] ^= true,
            4 => plan.is_pod_known ^= true,
            _ => plan.masquerades ^= true,
        }
        let is_new = [false, plan.has_pods[1] && !self.plan.has_pods[1]];
        let change = Change { plan, is_new };
        change.apply(&self.plan, &mut self.rig);
        self.plan = change.plan;
    }

    /// Lets the pod open the connection, send `len` bytes and take as many, and both close.
    fn run(&mut self, addr: &str, len: usize) {
        let endpoint = (addr.parse::<IpAddress>().expect("an address"), PORT);
        self.server.tcp().listen(PORT).expect("a closed socket");
        let context = self.pod.interface.context();
        let socket = self.pod.sockets.get_mut::<Socket<'_>>(self.pod.socket);
        socket
            .connect(context, endpoint, 40_000)
            .expect("a closed socket");
        let (mut sent, mut taken) = ([Hash::NEW; 2], [Hash::NEW; 2]);
        let (mut sent_len, mut taken_len) = ([0; 2], [0; 2]);
        let mut rounds = 0;
        while taken_len != [len; 2] {
            rounds += 1;
            assert!(rounds < 400_000, "{sent_len:?} sent, {taken_len:?} arrived");
            self.now += Duration::from_millis(1);
            self.pod.poll(self.now);
            self.server.poll(self.now);
            self.exchange();
            if rounds % 50 == 0 {
                self.rig.pass(std::time::Duration::from_millis(50));
                let late = self.rig.sent();
                for (port, frames) in late.iter().enumerate() {
                    self.pod
                        .arrive(&mut self.server, PortId(port as u16), frames);
                }
            }
            if rounds % 200 == 0 {
                self.change(rounds / 200);
            }
            for at in 0..2 {
                let host = if at == 0 {
                    &mut self.pod
                } else {
                    &mut self.server
                };
                let socket = host.tcp();
                if socket.can_send() && sent_len[at] < len {
                    let data = data(at, sent_len[at], len);
                    let count = socket.send_slice(&data).expect("open");
                    sent[at].add(&data[..count]);
                    sent_len[at] += count;
                }
                if socket.can_recv() {
                    let mut room = vec![0; 64 << 10];
                    let count = socket.recv_slice(&mut room).expect("open");
                    taken[1 - at].add(&room[..count]);
                    taken_len[1 - at] += count;
                }
            }
        }
        assert_eq!(sent, taken, "what was sent is what arrived");
        assert_ne!(sent[0], sent[1], "both ways have data of their own");
        assert!(
            self.there.lost > 50 && self.back.lost > 50,
            "the link is lossy"
        );
        let generation = self.rig.tables().generation;
        assert!(generation > 10, "tables changed {generation} times");
    }
}

impl Host {
    /// What the node has sent by a port: to this host, which is a pod, or to the other, which is outside.
    fn arrive(&mut self, outside: &mut Self, port: PortId, frames: &[Vec<u8>]) {
        let host = match port {
            POD => self,
            UPLINK => outside,
            other => return assert!(frames.is_empty(), "to {other:?}: {frames:x?}"),
        };
        host.wire
            .arrived
            .extend(frames.iter().map(|frame| frame[14..].to_vec()));
    }
}

/// The next bytes that one side sends: no two parts alike.
fn data(side: usize, from: usize, len: usize) -> Vec<u8> {
    let to = len.min(from + (32 << 10));
    (from..to)
        .map(|at| ((at as u64 + side as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect()
}

#[test]
fn tcp_stacks_transfer_over_a_bad_link_while_tables_change_ipv4() {
    let mut transfer = Transfer::new(POD_ADDR, SERVER);
    transfer.run(SERVER, LEN);
    assert_eq!(transfer.rig.connections().v4.len(), 1);
}

#[test]
fn tcp_stacks_transfer_over_a_bad_link_while_tables_change_ipv6() {
    let mut transfer = Transfer::new(POD6, SERVER6);
    transfer.run(SERVER6, LEN);
    assert_eq!(transfer.rig.connections().v6.len(), 1);
}
