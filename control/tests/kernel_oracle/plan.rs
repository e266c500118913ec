//! Who is where, the same for the kernel and for Caracal.
//!
//! ```text
//!   pod 1, pod 2  ----  node  ----  wire: two other nodes and a router
//! ```
//!
//! One more thing is the same: both nodes have the routes that make the classes of destinations.

use std::net::{Ipv4Addr, Ipv6Addr};

use control::calico;

pub(crate) const NODE: &str = "judged";
pub(crate) const PEER1: &str = "peer1";
pub(crate) const PEER2: &str = "peer2";

pub(crate) type Mac = [u8; 6];

/// The host's side of every pod's veth.
pub(crate) const GATEWAY_MAC: Mac = [0xee; 6];
pub(crate) const POD1_MAC: Mac = [2, 0, 0, 0, 1, 2];
pub(crate) const POD2_MAC: Mac = [2, 0, 0, 0, 1, 3];
/// The node's on the underlay.
pub(crate) const NODE_MAC: Mac = [2, 0, 0, 0, 2, 1];
pub(crate) const PEER1_MAC: Mac = [2, 0, 0, 0, 2, 3];
pub(crate) const PEER2_MAC: Mac = [2, 0, 0, 0, 2, 4];
pub(crate) const ROUTER_MAC: Mac = [2, 0, 0, 0, 2, 9];

/// MTU of pod 2's veth; everything else has 1500.
pub(crate) const POD2_MTU: u16 = 1400;

const fn v4(a: u8, b: u8, c: u8, d: u8) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, d)
}

const fn v6(block: u16, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd65, 0, 0, block, 0, 0, 0, host)
}

pub(crate) const NODE4: Ipv4Addr = v4(172, 18, 0, 2);
pub(crate) const PEER1_4: Ipv4Addr = v4(172, 18, 0, 3);
pub(crate) const PEER2_4: Ipv4Addr = v4(172, 18, 0, 4);
pub(crate) const ROUTER4: Ipv4Addr = v4(172, 18, 0, 9);
/// On the underlay, and no node.
pub(crate) const STRANGER4: Ipv4Addr = v4(172, 18, 0, 77);
/// The node's tunnel address.
pub(crate) const TUNNEL4: Ipv4Addr = v4(10, 65, 0, 1);
pub(crate) const PEER1_TUNNEL4: Ipv4Addr = v4(10, 65, 1, 1);
pub(crate) const PEER2_TUNNEL4: Ipv4Addr = v4(10, 65, 2, 1);
pub(crate) const POD1_4: Ipv4Addr = v4(10, 65, 0, 2);
pub(crate) const POD2_4: Ipv4Addr = v4(10, 65, 0, 3);
/// More addresses of pod 1: the kernel limits what it says of routes by source, one a second after five.
pub(crate) const POD1_MORE4: [Ipv4Addr; 8] = [
    v4(10, 65, 0, 40),
    v4(10, 65, 0, 41),
    v4(10, 65, 0, 42),
    v4(10, 65, 0, 43),
    v4(10, 65, 0, 44),
    v4(10, 65, 0, 45),
    v4(10, 65, 0, 46),
    v4(10, 65, 0, 47),
];
/// In the node's own block, and nobody's.
pub(crate) const NO_POD4: Ipv4Addr = v4(10, 65, 0, 9);
pub(crate) const PEER1_POD4: Ipv4Addr = v4(10, 65, 1, 5);
pub(crate) const PEER2_POD4: Ipv4Addr = v4(10, 65, 2, 5);
/// On peer 1, in the pool without encapsulation.
pub(crate) const DIRECT_POD4: Ipv4Addr = v4(10, 66, 1, 5);
/// Behind the router.
pub(crate) const OUTSIDE4: Ipv4Addr = v4(198, 51, 100, 7);
pub(crate) const POD_GATEWAY4: Ipv4Addr = v4(169, 254, 1, 1);
/// No route leads here.
pub(crate) const NOWHERE4: Ipv4Addr = v4(203, 0, 113, 200);
pub(crate) const UNREACHABLE4: Ipv4Addr = v4(192, 0, 2, 7);
pub(crate) const PROHIBITED4: Ipv4Addr = v4(192, 0, 2, 200);
pub(crate) const BLACKHOLE4: Ipv4Addr = v4(203, 0, 113, 7);

pub(crate) const NODE6: Ipv6Addr = Ipv6Addr::new(0xfd18, 0, 0, 0, 0, 0, 0, 2);
pub(crate) const PEER1_6: Ipv6Addr = Ipv6Addr::new(0xfd18, 0, 0, 0, 0, 0, 0, 3);
pub(crate) const PEER2_6: Ipv6Addr = Ipv6Addr::new(0xfd18, 0, 0, 0, 0, 0, 0, 4);
pub(crate) const ROUTER6: Ipv6Addr = Ipv6Addr::new(0xfd18, 0, 0, 0, 0, 0, 0, 9);
pub(crate) const STRANGER6: Ipv6Addr = Ipv6Addr::new(0xfd18, 0, 0, 0, 0, 0, 0, 0x77);
pub(crate) const TUNNEL6: Ipv6Addr = v6(0, 1);
pub(crate) const PEER1_TUNNEL6: Ipv6Addr = v6(1, 1);
pub(crate) const PEER2_TUNNEL6: Ipv6Addr = v6(2, 1);
pub(crate) const POD1_6: Ipv6Addr = v6(0, 2);
pub(crate) const POD2_6: Ipv6Addr = v6(0, 3);
pub(crate) const NO_POD6: Ipv6Addr = v6(0, 9);
pub(crate) const PEER1_POD6: Ipv6Addr = v6(1, 5);
pub(crate) const PEER2_POD6: Ipv6Addr = v6(2, 5);
pub(crate) const DIRECT_POD6: Ipv6Addr = Ipv6Addr::new(0xfd66, 0, 0, 1, 0, 0, 0, 5);
pub(crate) const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 7);
pub(crate) const POD_GATEWAY6: Ipv6Addr =
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);
pub(crate) const NOWHERE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xdead, 0, 0, 0, 0, 7);
pub(crate) const UNREACHABLE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 7);
pub(crate) const PROHIBITED6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xb, 0, 0, 0, 0, 7);
pub(crate) const BLACKHOLE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 7);

pub(crate) const VXLAN_PORT: u16 = 4789;
pub(crate) const VNI: u32 = 4096;

/// How pods' packets travel between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tunnel {
    Vxlan,
    /// IPv4 only.
    Ipip,
}

pub(crate) fn pod_interface(number: u8) -> String {
    calico::veth_name("cali", "oracle", &format!("pod{number}"))
}

pub(crate) const UPLINK: &str = "eth0";

/// The MAC address of a node's VXLAN device for IPv4.
pub(crate) fn vtep4(node: &str) -> Mac {
    calico::vtep_mac(node).0
}

/// The same for IPv6.
pub(crate) fn vtep6(node: &str) -> Mac {
    calico::vtep_mac_v6(node).0
}

pub(crate) fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Addresses and routes on the underlay, and neighbours that are known from the start: nobody answers on the wire.
pub(crate) fn underlay() -> Vec<String> {
    let mut commands = vec![
        "link set lo up".to_owned(),
        format!("link set {UPLINK} up"),
        format!("addr add {NODE4}/16 dev {UPLINK}"),
        format!("addr add {NODE6}/64 dev {UPLINK} nodad"),
    ];
    for (ip4, ip6, mac) in [
        (PEER1_4, PEER1_6, PEER1_MAC),
        (PEER2_4, PEER2_6, PEER2_MAC),
        (ROUTER4, ROUTER6, ROUTER_MAC),
    ] {
        let mac = text(mac);
        for ip in [ip4.to_string(), ip6.to_string()] {
            commands.push(format!(
                "neigh replace {ip} lladdr {mac} dev {UPLINK} nud permanent"
            ));
        }
    }
    commands.extend(
        [
            format!("198.51.100.0/24 via {ROUTER4} dev {UPLINK}"),
            format!("240.0.0.0/4 via {ROUTER4} dev {UPLINK}"),
            // Of services' addresses, which a default route is about on other nodes.
            format!("10.96.0.0/16 via {ROUTER4} dev {UPLINK}"),
            "unreachable 192.0.2.0/25".to_owned(),
            "prohibit 192.0.2.128/25".to_owned(),
            "blackhole 203.0.113.0/25".to_owned(),
            format!("2001:db8:51::/48 via {ROUTER6} dev {UPLINK}"),
            format!("fd96::/112 via {ROUTER6} dev {UPLINK}"),
            "unreachable 2001:db8:a::/48".to_owned(),
            "prohibit 2001:db8:b::/48".to_owned(),
            "blackhole 2001:db8:c::/48".to_owned(),
        ]
        .map(|route| format!("route add {route}")),
    );
    commands
}

/// The node's side of the pods' veths, up, with the routes that the CNI plugin adds.
pub(crate) fn pods() -> Vec<String> {
    let mut commands = Vec::new();
    for (number, ip4, ip6) in [(1, POD1_4, POD1_6), (2, POD2_4, POD2_6)] {
        let veth = pod_interface(number);
        commands.push(format!("link set {veth} up"));
        commands.push(format!("route add {ip4}/32 dev {veth} scope link"));
        commands.push(format!("addr add {POD_GATEWAY6}/64 dev {veth} nodad"));
        commands.push(format!("route add {ip6}/128 dev {veth}"));
    }
    for ip in POD1_MORE4 {
        let veth = pod_interface(1);
        commands.push(format!("route add {ip}/32 dev {veth} scope link"));
    }
    commands
}

/// Settings of a node before it has links. No duplicate address detection, no link-local addresses that nobody
/// asked for, no router advertisements, no flow labels of the stack's own.
pub(crate) fn quiet() -> Vec<(String, &'static str)> {
    let mut settings = vec![("ipv6/auto_flowlabels".to_owned(), "0")];
    for scope in ["all", "default"] {
        settings.push((format!("ipv4/conf/{scope}/rp_filter"), "0"));
        for (name, value) in [
            ("accept_ra", "0"),
            ("router_solicitations", "0"),
            ("accept_dad", "0"),
            ("dad_transmits", "0"),
            ("addr_gen_mode", "1"),
        ] {
            settings.push((format!("ipv6/conf/{scope}/{name}"), value));
        }
    }
    settings
}
