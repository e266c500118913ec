//! A node and its wire, in namespaces, and a table that notes which packets come by.
//!
//! ```text
//!  wire (remote addresses) eth0 ==== eth0 node
//! ```
//!
//! Each packet of a batch has another length, by which it is known.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use control::netlink::NetNs;
use fastpath::io::xsk::test_support::{reap_at_end, skip, skipped_without_root};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};

/// The node's addresses. What is sent to the last of a family goes to the first, by another table.
pub(crate) const NODE: [&str; 6] = [
    "192.0.2.1",
    "192.0.2.3",
    "192.0.2.7",
    "2001:db8::1",
    "2001:db8::3",
    "2001:db8::7",
];
/// What [`NODE`]'s last address and this port become.
pub(crate) const TRANSLATED: (u16, u16) = (3, 2);

/// Notes packets that come in, that are let in, and that are let out.
const JUDGE: &str = "
table inet judge {
  set come { typeof meta length; size 65535; flags dynamic; }
  set in { typeof meta length; size 65535; flags dynamic; }
  set out { typeof meta length; size 65535; flags dynamic; }
  chain come { type filter hook prerouting priority -500; iifname eth0 add @come { meta length }; }
  chain in { type filter hook input priority 100; iifname eth0 add @in { meta length }; }
  chain out { type filter hook postrouting priority 100; oifname eth0 add @out { meta length }; }
  chain nat {
    type nat hook prerouting priority -100;
    ip daddr 192.0.2.7 tcp dport 3 dnat ip to 192.0.2.1:2
    ip daddr 192.0.2.7 dnat ip to 192.0.2.1
    ip6 daddr 2001:db8::7 tcp dport 3 dnat ip6 to [2001:db8::1]:2
    ip6 daddr 2001:db8::7 dnat ip6 to 2001:db8::1
  }
}
";

pub(crate) struct Lab {
    node: NetNs,
    names: [String; 2],
    /// Sockets for whole packets: of the node and of its wire, IPv4 and IPv6.
    sockets: [[OwnedFd; 2]; 2],
}

/// Where packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the wire to the node.
    In,
    /// From the node to the wire.
    Out,
    /// From the wire, by the node, to the wire.
    Through,
}

impl Lab {
    /// None without root or nftables; the test is skipped then, aloud.
    pub(crate) fn new(test: &str) -> Option<Self> {
        if skipped_without_root(test) {
            return None;
        }
        let name = format!("car-{}-n", std::process::id());
        let names = ["node", "wire"].map(|part| format!("{name}{part}"));
        reap_at_end();
        let [node, wire] =
            [&names[0], &names[1]].map(|name| NetNs::create(name).expect("create a namespace"));
        for netns in [&node, &wire] {
            netns.run(quiet).expect("enter the namespace");
        }
        let peer = names[1].clone();
        node.run(move || {
            run("ip", "link set lo up", "");
            run(
                "ip",
                &format!("link add eth0 type veth peer name eth0 netns {peer}"),
                "",
            );
            run("ip", "link set eth0 up", "");
            for address in NODE {
                let length = if address.contains(':') {
                    "64 dev eth0 nodad"
                } else {
                    "24 dev eth0"
                };
                run("ip", &format!("addr add {address}/{length}"), "");
            }
        })
        .expect("enter the namespace");
        wire.run(|| {
            run("ip", "link set eth0 up", "");
            run("ip", "addr add 192.0.2.2/24 dev eth0", "");
            run("ip", "addr add 2001:db8::2/64 dev eth0 nodad", "");
            // What answers packets with borrowed sources ends here, silently.
            run("ip", "route add blackhole 10.0.0.0/8", "");
            run("ip", "route add blackhole fd00::/16", "");
            run("ip", "route add 198.51.100.0/24 via 192.0.2.1", "");
            run("ip", "route add fd01::/16 via 2001:db8::1", "");
        })
        .expect("enter the namespace");
        node.run(|| {
            run("ip", "route add default via 192.0.2.2", "");
            run("ip", "route add default via 2001:db8::2", "");
            fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("a setting");
            fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").expect("a setting");
        })
        .expect("enter the namespace");
        let sockets = [&node, &wire].map(|netns| {
            netns
                .run(|| [AddressFamily::Inet, AddressFamily::Inet6].map(raw))
                .expect("enter the namespace")
        });
        let lab = Self {
            node,
            names,
            sockets,
        };
        if let Err(error) = lab.on_node(|| try_run("nft", "list tables", "")) {
            skip(test, &format!("no nftables here: {error}"));
            return None;
        }
        lab.on_node(|| run("nft", "-f -", JUDGE));
        if lab.on_node(|| try_run("conntrack", "-F", "")).is_err() {
            skip(test, "no program conntrack");
            return None;
        }
        // What comes in the middle of a connection is no connection.
        lab.on_node(|| {
            fs::write("/proc/sys/net/netfilter/nf_conntrack_tcp_loose", "0").expect("a setting");
        });
        Some(lab)
    }

    pub(crate) fn on_node<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.node.run(work).expect("enter the namespace")
    }

    /// Sends packets, and says the lengths of those that pass.
    pub(crate) fn passing(&self, way: Way, packets: &[(IpAddr, Vec<u8>)]) -> BTreeSet<usize> {
        self.on_node(|| {
            run("conntrack", "-F", "");
            for set in ["come", "in", "out"] {
                run("nft", &format!("flush set inet judge {set}"), "");
            }
        });
        let sockets = &self.sockets[usize::from(way != Way::Out)];
        for (to, packet) in packets {
            let to_address: SockaddrStorage = SocketAddr::new(*to, 0).into();
            let socket = &sockets[usize::from(to.is_ipv6())];
            // What policy drops on its way out is an error here.
            let _ = sendto(socket.as_raw_fd(), packet, &to_address, MsgFlags::empty());
        }
        if way == Way::Out {
            return self.noted("out");
        }
        let sent: BTreeSet<_> = packets.iter().map(|(_, packet)| packet.len()).collect();
        let start = Instant::now();
        while !self.noted("come").is_superset(&sent) {
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "packets are lost"
            );
            thread::sleep(Duration::from_millis(5));
        }
        self.noted(if way == Way::In { "in" } else { "out" })
    }

    fn noted(&self, set: &str) -> BTreeSet<usize> {
        let text = self.on_node(|| run("nft", &format!("-j list set inet judge {set}"), ""));
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let objects = value["nftables"].as_array().expect("a list");
        let elements = objects.iter().filter_map(|it| it["set"]["elem"].as_array());
        let lengths = elements.flatten().filter_map(serde_json::Value::as_u64);
        lengths.map(|length| length as usize).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = NetNs::delete(name);
        }
    }
}

fn raw(family: AddressFamily) -> OwnedFd {
    socket(
        family,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Raw,
    )
    .expect("a raw socket")
}

fn quiet() {
    for scope in ["all", "default"] {
        for (key, value) in [
            ("ipv4/conf/{}/rp_filter", "0"),
            ("ipv4/conf/{}/send_redirects", "0"),
            ("ipv6/conf/{}/accept_dad", "0"),
            ("ipv6/conf/{}/accept_ra", "0"),
        ] {
            let path = format!("/proc/sys/net/{}", key.replace("{}", scope));
            fs::write(path, value).expect("a setting");
        }
    }
}

/// Runs a program; it must succeed.
pub(crate) fn run(program: &str, arguments: &str, input: &str) -> String {
    try_run(program, arguments, input)
        .unwrap_or_else(|error| panic!("{program} {arguments}: {error}"))
}

fn try_run(program: &str, arguments: &str, input: &str) -> Result<String, String> {
    let mut child = Command::new(program)
        .args(arguments.split_whitespace())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let mut stdin = child.stdin.take().expect("piped");
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child
        .wait_with_output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
