//! Two nodes whose kernels repeat what was decided, and connections between their pods: super-frames, checksums that wait for a NIC, segments
//! as a kernel makes them.
//!
//! The first packets of a connection would be the pollers'. Here the nodes' kernels forward them, until the flows are known; from then on the
//! kernels forward nothing.

mod xdp_support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use control::offload::flow::{Action, Counts, From, KernelFlows as _, Key, Way};
use control::xdp::{EndpointAttachment, FlowMaps, PinDir, Tcx, TcxConfig, UplinkAttachment};
use encap::eth::MacAddr;
use encap::l4;
use encap::outer::{Kind, Macs, Overlay, Rewrite, Tunnel};
use encap::vxlan::{DEFAULT_PORT, Vni};
use fastpath::io::xsk::test_support::skipped_without_root;
use nix::sys::socket::{setsockopt, sockopt};
use xdp_support::{command, ifindex, in_netns, ip, isolated};

/// A node, its pod, and the wire's end at it, by their number: 1 or 2.
struct Node {
    tcx: Tcx,
    flows: FlowMaps,
    pod: u32,
    uplink: u32,
    _on_pod: EndpointAttachment,
    _on_uplink: UplinkAttachment,
}

fn vtep(node: u8) -> MacAddr {
    MacAddr([0x66, 0, 0, 0, 0, node])
}

fn uplink_mac(node: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 1, node])
}

fn pod_mac(node: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 2, node])
}

fn node_address(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, node)
}

fn pod_address(node: u8, is_v6: bool) -> IpAddr {
    if is_v6 {
        format!("fd00:65:{node}::7").parse().expect("IPv6")
    } else {
        Ipv4Addr::new(10, 65, node, 7).into()
    }
}

/// What a pod's address becomes on the wire, where it is translated.
fn outside(end: SocketAddr) -> (IpAddr, u16) {
    let address = match end.ip() {
        IpAddr::V4(address) => {
            let [_, _, node, _] = address.octets();
            Ipv4Addr::new(172, 16, node, 99).into()
        }
        IpAddr::V6(address) => {
            let mut words = address.segments();
            (words[0], words[1], words[7]) = (0xfd99, 0x1234, 0xabcd);
            IpAddr::V6(words.into())
        }
    };
    (address, end.port() ^ 0x1111)
}

fn end(end: SocketAddr) -> (IpAddr, u16) {
    (end.ip(), end.port())
}

/// Whether the node's kernel forwards.
fn set_forwarding(node: u8, is_on: bool) {
    in_netns(&format!("n{node}"), || {
        for family in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            let path = format!("/proc/sys/net/{family}");
            fs::write(&path, if is_on { "1" } else { "0" }).expect("written");
        }
    });
}

/// Two nodes with a wire between them, and a pod each.
fn build() {
    for name in ["n1", "n2", "p1", "p2"] {
        ip(&format!("netns add {name}"));
        ip(&format!("-n {name} link set lo up"));
    }
    ip(&format!(
        "link add up1 netns n1 address {} type veth peer name up2 netns n2 address {}",
        uplink_mac(1),
        uplink_mac(2)
    ));
    for node in [1, 2_u8] {
        let (n, p, other) = (format!("n{node}"), format!("p{node}"), 3 - node);
        let (v4, v6) = (pod_address(node, false), pod_address(node, true));
        ip(&format!(
            "link add cali{node} netns {n} address ee:ee:ee:ee:ee:ee type veth peer name eth0 netns {p} address {}",
            pod_mac(node)
        ));
        ip(&format!("-n {p} link set eth0 mtu 1430 up"));
        ip(&format!("-n {n} link set cali{node} up"));
        ip(&format!("-n {n} link set up{node} up"));
        ip(&format!("-n {p} addr add {v4}/32 dev eth0"));
        ip(&format!("-n {p} addr add {v6}/128 dev eth0 nodad"));
        for (gateway, family) in [("169.254.1.1", "-4"), ("fe80::1", "-6")] {
            ip(&format!("-n {p} {family} route add {gateway} dev eth0"));
            ip(&format!(
                "-n {p} {family} route add default via {gateway} dev eth0"
            ));
            ip(&format!(
                "-n {p} neigh replace {gateway} lladdr ee:ee:ee:ee:ee:ee nud permanent dev eth0"
            ));
        }
        ip(&format!(
            "-n {n} addr add {}/24 dev up{node}",
            node_address(node)
        ));
        ip(&format!(
            "-n {n} addr add 2001:db8::{node}/64 dev up{node} nodad"
        ));
        for (router, family) in [
            (node_address(other).to_string(), "-4"),
            (format!("2001:db8::{other}"), "-6"),
        ] {
            let is_v6 = family == "-6";
            let mac = uplink_mac(other);
            ip(&format!(
                "-n {n} neigh replace {router} lladdr {mac} nud permanent dev up{node}"
            ));
            let (own, its) = (pod_address(node, is_v6), pod_address(other, is_v6));
            ip(&format!("-n {n} {family} route add {own} dev cali{node}"));
            ip(&format!(
                "-n {n} {family} route add {its} via {router} dev up{node}"
            ));
            let mac = pod_mac(node);
            ip(&format!(
                "-n {n} neigh replace {own} lladdr {mac} nud permanent dev cali{node}"
            ));
        }
    }
}

impl Node {
    fn start(node: u8) -> Self {
        let load = || {
            let mut tcx = Tcx::load(&TcxConfig::default()).expect("load");
            tcx.set_vxlan_end(Some((Vni::CALICO, vtep(node))))
                .expect("VXLAN");
            tcx.set_ipip(true).expect("IPIP");
            tcx.set_tunnel_address(Some(node_address(node)))
                .expect("address");
            tcx.set_vxlan_port(Some(DEFAULT_PORT)).expect("port");
            tcx.sync_local([node_address(node).into()]).expect("local");
            let pins = PinDir::open().expect("pins");
            let (pod, uplink) = (format!("cali{node}"), format!("up{node}"));
            Self {
                flows: tcx.flows().expect("flows"),
                pod: ifindex(&pod),
                uplink: ifindex(&uplink),
                _on_pod: tcx.attach_pod(&pod, &pins).expect("attach"),
                _on_uplink: tcx.attach_uplink(&uplink).expect("attach"),
                tcx,
            }
        };
        in_netns(&format!("n{node}"), load)
    }
}

/// How packets go between the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Between {
    kind: Kind,
    is_translated: bool,
}

/// Has both nodes repeat one direction: what the pod of node `from` sends from `src` to `dst`. Its keys, at the one and at the other.
fn offload(
    nodes: &mut [Node; 2],
    way: Between,
    from: u8,
    protocol: u8,
    (src, dst): (SocketAddr, SocketAddr),
) -> [Key; 2] {
    let to = 3 - from;
    let macs = Macs {
        dst: uplink_mac(to),
        src: uplink_mac(from),
    };
    let tunnel = Tunnel {
        src: node_address(from).into(),
        dst: node_address(to).into(),
    };
    let overlay = Overlay {
        port: DEFAULT_PORT,
        vni: Vni::CALICO,
        macs: Macs {
            dst: vtep(to),
            src: vtep(from),
        },
    };
    let rewrite = match way.kind {
        Kind::Ethernet => Rewrite::ethernet(macs),
        Kind::Ipip => Rewrite::ipip(macs, tunnel, 64),
        Kind::Vxlan4 | Kind::Vxlan6 => Rewrite::vxlan4(macs, tunnel, overlay),
    };
    let on_wire = |it| {
        if way.is_translated {
            outside(it)
        } else {
            end(it)
        }
    };
    let [first, second] = nodes;
    let (sender, receiver) = if from == 1 {
        (first, second)
    } else {
        (second, first)
    };
    let leaves = Key {
        from: From::Device(sender.pod),
        protocol,
        src: end(src),
        dst: end(dst),
    };
    let plain = Action {
        out: sender.uplink,
        way: Way::Uplink,
        mtu: 1450,
        from_mac: Some(pod_mac(from)),
        peer: None,
        rewrite,
        flow_hash: 0xdead_beef,
        source: way.is_translated.then(|| on_wire(src)),
        destination: way.is_translated.then(|| on_wire(dst)),
    };
    sender.flows.insert(&leaves, &plain, 0).expect("insert");
    let is_tunnelled = way.kind != Kind::Ethernet;
    let comes = Key {
        from: if is_tunnelled {
            From::Tunnel
        } else {
            From::Device(receiver.uplink)
        },
        protocol,
        src: on_wire(src),
        dst: on_wire(dst),
    };
    let macs = Macs {
        dst: pod_mac(to),
        src: MacAddr([0xee; 6]),
    };
    let opened = Action {
        out: receiver.pod,
        way: Way::Pod,
        from_mac: None,
        peer: is_tunnelled.then(|| node_address(from)),
        rewrite: Rewrite::ethernet(macs),
        source: way.is_translated.then(|| end(src)),
        destination: way.is_translated.then(|| end(dst)),
        ..plain
    };
    receiver.flows.insert(&comes, &opened, 0).expect("insert");
    [leaves, comes]
}

const PATIENCE: Option<Duration> = Some(Duration::from_secs(20));
const AMOUNT: usize = 3 << 20;

/// Bytes that tell where they belong.
fn pattern() -> Vec<u8> {
    (0..AMOUNT as u32)
        .flat_map(|at| at.wrapping_mul(0x9e37_79b1).to_le_bytes())
        .step_by(4)
        .collect()
}

/// Sends a lot one way, and sees it arrive.
fn transfer(mut from: &TcpStream, mut to: &TcpStream, bytes: &[u8]) {
    std::thread::scope(|scope| {
        scope.spawn(move || from.write_all(bytes).expect("sent"));
        let mut got = vec![0; bytes.len()];
        to.read_exact(&mut got).expect("received");
        assert!(got == bytes, "other bytes than were sent");
    });
}

/// A connection from the pod of node 1 to that of node 2: what each end is.
fn connect(is_v6: bool) -> (TcpStream, TcpStream) {
    let listener = in_netns("p2", || {
        TcpListener::bind((pod_address(2, is_v6), 0)).expect("bind")
    });
    let to = listener.local_addr().expect("bound");
    let client = in_netns("p1", || {
        TcpStream::connect_timeout(&to, Duration::from_secs(20)).expect("connect")
    });
    let (server, _) = listener.accept().expect("accept");
    for stream in [&client, &server] {
        stream.set_read_timeout(PATIENCE).expect("timeout");
        stream.set_write_timeout(PATIENCE).expect("timeout");
    }
    (client, server)
}

fn sockets(is_v6: bool) -> (UdpSocket, UdpSocket) {
    let bind = |node: u8| {
        in_netns(&format!("p{node}"), || {
            UdpSocket::bind((pod_address(node, is_v6), 0)).expect("bind")
        })
    };
    let (one, other) = (bind(1), bind(2));
    one.connect(other.local_addr().expect("bound"))
        .expect("connect");
    other
        .connect(one.local_addr().expect("bound"))
        .expect("connect");
    for socket in [&one, &other] {
        socket.set_read_timeout(PATIENCE).expect("timeout");
    }
    (one, other)
}

/// What both nodes counted of a direction.
fn counts(nodes: &mut [Node; 2], from: u8, keys: &[Key; 2]) -> [Counts; 2] {
    let [first, second] = nodes;
    let (sender, receiver) = if from == 1 {
        (first, second)
    } else {
        (second, first)
    };
    [
        sender.flows.read(&keys[0]).expect("known"),
        receiver.flows.read(&keys[1]).expect("known"),
    ]
}

fn hits(nodes: &[Node; 2]) -> u64 {
    let of = |node: &Node| node.tcx.counters().expect("counters").hits;
    nodes.iter().map(of).sum()
}

/// Sends several datagrams as one super-frame. Where it comes whole out of a tunnel it is the pollers', and here nobody's.
fn datagrams_at_once(nodes: &[Node; 2], from: &UdpSocket, to: &UdpSocket, is_pollers: bool) {
    let punted = || nodes[1].tcx.counters().expect("counters").no_punt;
    let before = punted();
    setsockopt(from, sockopt::UdpGsoSegment, &1000).expect("segments");
    let sent: Vec<u8> = (0..3500_u16).map(|at| at as u8).collect();
    from.send(&sent).expect("send");
    if is_pollers {
        let counted = (0..4000).any(|_| {
            std::thread::sleep(Duration::from_millis(5));
            punted() > before
        });
        assert!(counted, "it went elsewhere");
        return;
    }
    for part in sent.chunks(1000) {
        let mut got = vec![0xff; 2000];
        let len = to.recv(&mut got).expect("received");
        assert_eq!(&got[..len], part);
    }
}

/// TCP and UDP both ways, over a wire that segments and completes checksums, or has the kernel do it.
fn traffic(way: Between, is_v6: bool, has_offloads: bool) {
    isolated(|| {
        build();
        if !has_offloads {
            for node in [1, 2] {
                in_netns(&format!("n{node}"), || {
                    command(
                        "ethtool",
                        &format!("-K up{node} tx off tso off gso off gro off"),
                    )
                });
            }
        }
        for node in [1, 2] {
            set_forwarding(node, true);
        }
        let (client, server) = connect(is_v6);
        let (one, other) = sockets(is_v6);
        for node in [1, 2] {
            set_forwarding(node, false);
        }
        let nodes = &mut [Node::start(1), Node::start(2)];
        let ends = (
            client.local_addr().expect("bound"),
            server.local_addr().expect("bound"),
        );
        let there = offload(nodes, way, 1, l4::TCP, ends);
        let back = offload(nodes, way, 2, l4::TCP, (ends.1, ends.0));
        let bytes = pattern();
        transfer(&client, &server, &bytes);
        transfer(&server, &client, &bytes);

        for (from, keys) in [(1, there), (2, back)] {
            let [leaves, comes] = counts(nodes, from, &keys);
            assert!(leaves.bytes > AMOUNT as u64, "{leaves:?}");
            // Whatever was lost was sent again, and counted so; what both counted are the same packets.
            assert!(leaves.packets >= AMOUNT as u64 / 1430, "{leaves:?}");
            assert!(comes.packets <= leaves.packets && comes.bytes <= leaves.bytes);
            assert!(comes.bytes > AMOUNT as u64, "{comes:?}");
            assert_eq!((leaves.closing, comes.closing), (None, None));
        }
        let packets: u64 = [(1, there), (2, back)]
            .iter()
            .flat_map(|(from, keys)| counts(nodes, *from, keys))
            .map(|counts| counts.packets)
            .sum();
        let hits_of_tcp = hits(nodes);
        if has_offloads {
            assert!(
                hits_of_tcp < packets / 2,
                "super-frames stay whole: {hits_of_tcp} {packets}"
            );
        }

        let ends = (
            one.local_addr().expect("bound"),
            other.local_addr().expect("bound"),
        );
        offload(nodes, way, 1, l4::UDP, ends);
        offload(nodes, way, 2, l4::UDP, (ends.1, ends.0));
        for len in [0_u16, 1, 99, 1300] {
            for (from, to) in [(&one, &other), (&other, &one)] {
                let sent: Vec<u8> = (0..len).map(|at| at as u8).collect();
                from.send(&sent).expect("send");
                let mut got = vec![0xff; 2000];
                let len = to.recv(&mut got).expect("received");
                assert_eq!(got[..len], sent);
            }
        }
        datagrams_at_once(
            nodes,
            &one,
            &other,
            way.kind != Kind::Ethernet && has_offloads,
        );
        for node in nodes.iter() {
            assert_eq!(node.tcx.counters().expect("counters").spoilt, 0);
        }

        // The end is the pollers'.
        drop(client);
        let closing = (0..4000).find_map(|_| {
            std::thread::sleep(Duration::from_millis(5));
            counts(nodes, 1, &there)[0].closing
        });
        assert_eq!(closing.map(|it| it.flags & 1), Some(1), "FIN");
    });
}

const PLAIN: Between = Between {
    kind: Kind::Ethernet,
    is_translated: false,
};

fn all(test: &str, way: Between, families: &[bool]) {
    if skipped_without_root(test) {
        return;
    }
    for is_v6 in families {
        for has_offloads in [true, false] {
            traffic(way, *is_v6, has_offloads);
        }
    }
}

#[test]
fn plain_packets_arrive() {
    all("plain_packets_arrive", PLAIN, &[false, true]);
}

#[test]
fn translated_packets_arrive() {
    let way = Between {
        is_translated: true,
        ..PLAIN
    };
    all("translated_packets_arrive", way, &[false, true]);
}

#[test]
fn packets_in_vxlan_arrive() {
    let way = Between {
        kind: Kind::Vxlan4,
        ..PLAIN
    };
    all("packets_in_vxlan_arrive", way, &[false, true]);
}

#[test]
fn translated_packets_in_vxlan_arrive() {
    let way = Between {
        kind: Kind::Vxlan4,
        is_translated: true,
    };
    all("translated_packets_in_vxlan_arrive", way, &[false, true]);
}

#[test]
fn packets_in_ipip_arrive() {
    let way = Between {
        kind: Kind::Ipip,
        ..PLAIN
    };
    all("packets_in_ipip_arrive", way, &[false]);
}
