//! The host's port in a namespace that plays the node.

use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use control::netlink::host_port::{DATAPLANE_END, DATAPLANE_MAC, HOST_END, HOST_MAC};
use control::netlink::{HostPort, HostPortConfig, HostRoute, Writer};
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::lab::{Lab, ip, ip_batch, ip_json};

fn config() -> HostPortConfig {
    let addresses = ["10.244.1.1", "fd00:10:244::1"];
    HostPortConfig {
        mtu: 1450,
        queues: 2,
        addresses: addresses.map(|a| a.parse().expect("an address")).to_vec(),
    }
}

fn routes() -> Vec<HostRoute> {
    [
        ("10.244.0.0/16", "10.244.1.1"),
        ("fd00:10:244::/48", "fd00:10:244::1"),
        ("10.245.0.0/16", "192.0.2.1"),
    ]
    .map(|(dst, src)| HostRoute {
        dst: dst.parse().expect("a prefix"),
        pref_src: src.parse().ok(),
    })
    .to_vec()
}

fn node(test: &str) -> Option<Lab> {
    let lab = Lab::new(test)?;
    lab.run(|| {
        ip_batch("link add eth0 type veth peer name eth0-p\nlink set eth0 up\nlink set eth0-p up\naddr add 192.0.2.1/24 dev eth0\n");
    });
    Some(lab)
}

/// Everything of the port, as `ip` shows it.
fn shown() -> String {
    let routes: Vec<_> = ["-4", "-6"]
        .map(|f| ip_json(&format!("{f} route show table 4242")))
        .into_iter()
        .flatten()
        .collect();
    let rules: Vec<_> = ["-4", "-6"]
        .map(|f| ip_json(&format!("{f} rule show")))
        .into_iter()
        .flatten()
        .collect();
    let links = ip_json("-d link show type veth");
    let neighbours = ip_json("neigh show nud permanent");
    let addresses: Vec<String> = [HOST_END, DATAPLANE_END]
        .map(|end| {
            Writer::open()
                .and_then(|mut w| {
                    let index = w.find_link(end)?.expect("there").ifindex;
                    w.addresses(index)
                })
                .expect("addresses")
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" ")
        })
        .to_vec();
    let links: Vec<String> = links
        .iter()
        .map(|l| {
            format!(
                "{} {} {} {}",
                l["ifindex"], l["address"], l["mtu"], l["operstate"]
            )
        })
        .collect();
    format!("{routes:?}\n{rules:?}\n{links:?}\n{neighbours:?}\n{addresses:?}")
}

#[test]
fn it_is_the_same_however_often_it_is_ensured() {
    let Some(lab) = node("ensure") else { return };
    lab.run(|| {
        let mut port = HostPort::ensure(&config()).expect("ensure");
        assert_eq!(port.sync_routes(&routes()).expect("routes"), 3);
        assert_eq!(port.sync_routes(&routes()).expect("routes"), 0);
        std::thread::sleep(Duration::from_millis(300));
        let before = shown();
        let indexes = (port.host_ifindex, port.dataplane_ifindex);
        // A process that is killed does not clean up: the next one finds all of it.
        drop(port);
        let mut again = HostPort::ensure(&config()).expect("ensure again");
        assert_eq!(again.sync_routes(&routes()).expect("routes"), 0);
        assert_eq!(
            (again.host_ifindex, again.dataplane_ifindex),
            indexes,
            "what is attached to the pair stays"
        );
        assert_eq!(shown(), before);
        let wanted = ["10.244.1.1/32 127.42.42.1/32 fd00:10:244::1/128", ""];
        assert!(before.ends_with(&format!("{wanted:?}")), "{before}");
    });
}

#[test]
fn half_a_port_and_changed_settings_are_mended() {
    let Some(lab) = node("mend") else { return };
    lab.run(|| {
        let mut port = HostPort::ensure(&config()).expect("ensure");
        port.sync_routes(&routes()).expect("routes");
        std::thread::sleep(Duration::from_millis(300));
        let before = shown();
        ip("link set caracal0 down");
        ip("link set caracal0-dp mtu 1400");
        ip("addr add 10.99.0.1/32 dev caracal0");
        ip("rule del pref 100");
        drop(port);
        let mut port = HostPort::ensure(&config()).expect("ensure");
        assert_eq!(
            port.sync_routes(&routes()).expect("routes"),
            3,
            "they went with the link"
        );
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(shown(), before);

        let more = HostPortConfig {
            queues: 1,
            mtu: 1500,
            ..config()
        };
        let other = HostPort::ensure(&more).expect("with other queues");
        assert_ne!(
            other.host_ifindex, port.host_ifindex,
            "queues cannot be changed"
        );
        let link = &ip_json("-d link show caracal0")[0];
        assert_eq!(
            (link["mtu"].as_u64(), link["num_rx_queues"].as_u64()),
            (Some(1500), Some(1))
        );

        ip("link del caracal0");
        ip("link add caracal0 type bridge");
        let error = HostPort::ensure(&config())
            .err()
            .expect("a stranger's link")
            .to_string();
        assert!(
            error.contains("caracal0 is there already and not a veth"),
            "{error}"
        );
        assert_eq!(
            ip_json("link show caracal0").len(),
            1,
            "the stranger's link is left alone"
        );
    });
}

#[test]
fn routes_are_brought_to_what_is_wanted() {
    let Some(lab) = node("sync") else { return };
    lab.run(|| {
        let mut port = HostPort::ensure(&config()).expect("ensure");
        port.sync_routes(&routes()).expect("routes");
        let mut wanted = routes();
        wanted[0].pref_src = None;
        wanted[2].dst = "10.246.0.0/16".parse().expect("a prefix");
        ip("route add 10.250.0.0/16 dev caracal0 table 4242 proto 97");
        assert_eq!(
            port.sync_routes(&wanted).expect("routes"),
            4,
            "one changed, one new, two gone"
        );
        let dst: BTreeSet<String> = ["-4", "-6"]
            .iter()
            .flat_map(|f| ip_json(&format!("{f} route show table 4242")))
            .map(|r| r["dst"].as_str().expect("dst").to_owned())
            .collect();
        assert_eq!(
            dst.into_iter().collect::<Vec<_>>(),
            ["10.244.0.0/16", "10.246.0.0/16", "fd00:10:244::/48"]
        );
        let get = &ip_json("route get 10.246.7.7")[0];
        assert_eq!(
            (get["dev"].as_str(), get["prefsrc"].as_str()),
            (Some("caracal0"), Some("192.0.2.1"))
        );
        let get = &ip_json("route get fd00:10:244:5::5")[0];
        assert_eq!(
            (get["dev"].as_str(), get["prefsrc"].as_str()),
            (Some("caracal0"), Some("fd00:10:244::1"))
        );
    });
}

/// Waits for a frame that the host sent and that holds `payload`, on the dataplane's end.
fn frame_with(packets: &impl AsRawFd, ifindex: u32, payload: &[u8]) -> Vec<u8> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut buffer = vec![0; 4096];
    while Instant::now() < deadline {
        let Ok((len, from)) = recvfrom::<LinkAddr>(packets.as_raw_fd(), &mut buffer) else {
            continue;
        };
        let frame = &buffer[..len];
        let incoming =
            from.is_some_and(|from| from.ifindex() == ifindex as usize && from.pkttype() == 0);
        if incoming && frame.windows(payload.len()).any(|w| w == payload) {
            return frame.to_vec();
        }
    }
    panic!("no such frame on the dataplane's end");
}

#[test]
fn the_hosts_packets_to_pods_arrive_on_the_dataplane_end() {
    let Some(lab) = node("packets") else { return };
    lab.run(|| {
        let mut port = HostPort::ensure(&config()).expect("ensure");
        port.sync_routes(&routes()).expect("routes");
        let packets = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::EthAll,
        )
        .expect("AF_PACKET");
        setsockopt(
            &packets,
            sockopt::ReceiveTimeout,
            &TimeVal::milliseconds(200),
        )
        .expect("timeout");
        // A pod's own route in table main, as CNI makes it, must not be taken.
        ip("route add 10.244.1.5/32 dev eth0 scope link");
        for (to, from) in [
            ("10.244.1.5", "10.244.1.1"),
            ("10.244.77.7", "10.244.1.1"),
            ("fd00:10:244:3::9", "fd00:10:244::1"),
        ] {
            let to: IpAddr = to.parse().expect("an address");
            let from: IpAddr = from.parse().expect("an address");
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let payload = format!("to {to}");
            UdpSocket::bind(any)
                .expect("bind")
                .send_to(payload.as_bytes(), (to, 7777))
                .expect("send");
            let frame = frame_with(&packets, port.dataplane_ifindex, payload.as_bytes());
            assert_eq!(
                (&frame[..6], &frame[6..12]),
                (&DATAPLANE_MAC[..], &HOST_MAC[..])
            );
            let (source, destination) = if to.is_ipv4() {
                (26..30, 30..34)
            } else {
                (22..38, 38..54)
            };
            let octets = |ip: IpAddr| match ip {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            assert_eq!(
                (&frame[source], &frame[destination]),
                (&octets(from)[..], &octets(to)[..])
            );
        }
        // Nothing on the dataplane's end answers or passes on.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forwarding on");
        let port = {
            drop(port);
            HostPort::ensure(&config()).expect("ensure")
        };
        let forwarding = std::fs::read_to_string("/proc/sys/net/ipv4/conf/caracal0-dp/forwarding")
            .expect("readable");
        assert_eq!(forwarding.trim(), "0");
        drop(port);
    });
}

#[test]
fn removal_leaves_nothing() {
    let Some(lab) = node("removal") else { return };
    lab.run(|| {
        let everything = || {
            let shown: Vec<_> = [
                "-4 rule show",
                "-6 rule show",
                "-4 route show table all",
                "neigh show",
                "link show",
            ]
            .iter()
            .map(|what| ip_json(what))
            .collect();
            format!("{shown:?}")
        };
        std::thread::sleep(Duration::from_millis(300));
        let before = everything();
        for crash in [false, true] {
            let mut port = HostPort::ensure(&config()).expect("ensure");
            port.sync_routes(&routes()).expect("routes");
            assert_ne!(everything(), before);
            if crash {
                drop(port);
                HostPort::remove_leftovers().expect("remove");
            } else {
                port.remove().expect("remove");
            }
            assert_eq!(everything(), before, "after a crash: {crash}");
        }
        HostPort::remove_leftovers().expect("nothing to remove is no error");
    });
}
