//! The queues of the punt device that packets come out of: the first is the uplinks', and a pod floods one of the others.

mod xdp_support;

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use control::xdp::{EndpointConfig, EndpointProgram, FailMode, PinDir, Tcx, TcxConfig};
use fastpath::io::xsk::test_support::skipped_without_root;
use nix::sys::socket::{setsockopt, sockopt};
use xdp_support::{command, ifindex, in_netns, ip, isolated};

const QUEUES: usize = 8;
/// The pods' devices, by their index.
const PODS: [u32; 2] = [1004, 1008];
/// Where their packets come out: `1 + index % 7`.
const QUEUES_OF_PODS: [usize; 2] = [4, 1];
const QUEUE_OF_UPLINKS: usize = 0;

/// Datagrams at once, and the bytes of one.
const AT_ONCE: usize = 20;
const LEN: i32 = 1000;
/// TCP's first flight has ten segments; a little of it is enough.
const SEGMENTS: u64 = 5;

fn pod_address(pod: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 65, pod as u8, 7)
}

const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);

/// A namespace behind a veth with one queue. With several its sockets would remember which of them they used, and the kernel would take that.
fn neighbour(netns: &str, host: &str, options: &str, address: Ipv4Addr, node: Ipv4Addr) {
    let queues = "numtxqueues 1 numrxqueues 1";
    ip(&format!("netns add {netns}"));
    ip(&format!(
        "link add {host} {options} {queues} type veth peer name eth0 {queues} netns {netns}"
    ));
    in_netns(netns, || {
        std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").expect("no IPv6");
    });
    ip(&format!("addr add {node}/24 dev {host}"));
    ip(&format!("link set {host} up"));
    ip(&format!("-n {netns} addr add {address}/24 dev eth0"));
    ip(&format!("-n {netns} link set eth0 up"));
    ip(&format!("-n {netns} route add default via {node}"));
    let text = ip(&format!("-o link show dev {host}"));
    let mac = text.split("link/ether ").nth(1).expect("a MAC address");
    let mac = mac.split_whitespace().next().expect("a MAC address");
    ip(&format!(
        "-n {netns} neigh replace {node} lladdr {mac} nud permanent dev eth0"
    ));
}

/// What came out of each queue.
fn came_out() -> [u64; QUEUES] {
    let text = command("ethtool", "-S punt1");
    std::array::from_fn(|queue| {
        let name = format!("rx_queue_{queue}_xdp_packets:");
        let line = text
            .lines()
            .find_map(|line| line.trim().strip_prefix(&name));
        let count = line.and_then(|count| count.trim().parse().ok());
        count.unwrap_or_else(|| panic!("no {name} in {text}"))
    })
}

/// Has so many packets sent, and sees them all come out of one queue.
fn comes_out_of(queue: usize, packets: u64, name: &str, send: impl FnOnce()) {
    let before = came_out();
    send();
    let mut more = [0; QUEUES];
    for _ in 0..1000 {
        std::thread::sleep(Duration::from_millis(5));
        let now = came_out();
        more = std::array::from_fn(|queue| now[queue] - before[queue]);
        if more[queue] >= packets {
            break;
        }
    }
    assert!(more[queue] >= packets, "{name}: {more:?}");
    let used = [QUEUE_OF_UPLINKS, QUEUES_OF_PODS[0], QUEUES_OF_PODS[1]];
    for other in (0..QUEUES).filter(|other| !used.contains(other)) {
        assert_eq!(more[other], 0, "{name}: {more:?}");
    }
}

/// Datagrams one by one and at once, of a socket that remembers its route, and of one that does not.
fn datagrams(tcx: &Tcx, netns: &str, to: SocketAddr, queue: usize) {
    for is_connected in [true, false] {
        let socket = in_netns(netns, || UdpSocket::bind("0.0.0.0:0").expect("bind"));
        if is_connected {
            socket.connect(to).expect("connect");
        }
        let send = |bytes: &[u8]| {
            if is_connected {
                socket.send(bytes).expect("send")
            } else {
                socket.send_to(bytes, to).expect("send")
            }
        };
        let name = format!("{netns}, connected: {is_connected}");
        comes_out_of(queue, AT_ONCE as u64, &name, || {
            for _ in 0..AT_ONCE {
                send(&[1; LEN as usize]);
            }
        });
        setsockopt(&socket, sockopt::UdpGsoSegment, &LEN).expect("segments");
        let punted = || tcx.counters().expect("counters").punted;
        let before = punted();
        comes_out_of(queue, AT_ONCE as u64, &format!("{name}, at once"), || {
            send(&[2; LEN as usize].repeat(AT_ONCE));
        });
        assert!(
            punted() - before < AT_ONCE as u64 / 2,
            "super-frames are one"
        );
    }
}

fn connect(from: &str, to: &str, address: Ipv4Addr) -> (TcpStream, TcpStream) {
    let listener = in_netns(to, || TcpListener::bind((address, 0)).expect("bind"));
    let address = listener.local_addr().expect("bound");
    let client = in_netns(from, || {
        TcpStream::connect_timeout(&address, Duration::from_secs(20)).expect("connect")
    });
    (client, listener.accept().expect("accept").0)
}

#[test]
fn a_queue_of_the_punt_is_the_uplinks_and_pods_share_the_others() {
    if skipped_without_root("a_queue_of_the_punt_is_the_uplinks_and_pods_share_the_others") {
        return;
    }
    isolated(|| {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forwarding");
        let queues = format!("numtxqueues {QUEUES} numrxqueues {QUEUES}");
        ip(&format!(
            "link add punt0 {queues} type veth peer name punt1 {queues}"
        ));
        for end in ["punt0", "punt1"] {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{end}/disable_ipv6"), "1")
                .expect("no IPv6");
            ip(&format!("link set {end} up"));
        }
        for (pod, index) in PODS.into_iter().enumerate() {
            let options = format!("index {index} address ee:ee:ee:ee:ee:ee");
            let node = Ipv4Addr::new(10, 65, pod as u8, 1);
            let (netns, host) = (format!("p{pod}"), format!("cali{pod}"));
            neighbour(&netns, &host, &options, pod_address(pod), node);
            assert_eq!(ifindex(&host), index);
        }
        neighbour("router", "up0", "", ROUTER, Ipv4Addr::new(192, 0, 2, 1));
        // The node's kernel forwards until the programs are there.
        let (by_pod, by_router) = connect("p0", "router", ROUTER);

        let mut tcx = Tcx::load(&TcxConfig {
            punt_queues: QUEUES as u32,
            ..TcxConfig::default()
        })
        .expect("load");
        tcx.set_punt(ifindex("punt0")).expect("punt");
        tcx.sync_pods4([("10.65.0.0".parse().expect("IPv4"), 16)])
            .expect("pods");
        let pins = PinDir::open().expect("pins");
        // Nobody has a socket there: it counts and drops.
        let mut end = EndpointProgram::load(&EndpointConfig {
            fail_mode: FailMode::Closed,
            max_endpoints: 1,
            queues: QUEUES as u32,
        })
        .expect("load");
        let _on_end = end.attach("punt1", &pins).expect("attach");
        let _on_pods = ["cali0", "cali1"].map(|pod| tcx.attach_pod(pod, &pins).expect("attach"));
        let _on_uplink = tcx.attach_uplink("up0").expect("attach");

        for (pod, queue) in QUEUES_OF_PODS.into_iter().enumerate() {
            datagrams(&tcx, &format!("p{pod}"), (ROUTER, 9).into(), queue);
        }
        let to_pod = (pod_address(1), 9).into();
        datagrams(&tcx, "router", to_pod, QUEUE_OF_UPLINKS);
        for (mut stream, queue, name) in [
            (&by_pod, QUEUES_OF_PODS[0], "the pod's segments"),
            (&by_router, QUEUE_OF_UPLINKS, "the router's segments"),
        ] {
            comes_out_of(queue, SEGMENTS, name, || {
                stream.write_all(&[3; 2000].repeat(10)).expect("sent");
            });
        }
    });
}
