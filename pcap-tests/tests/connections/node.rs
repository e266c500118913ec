//! A node with two pods, another node behind VXLAN, and a router to the outside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use encap::eth::MacAddr;
use fastpath::batch::{Fate, PeerId};
use fastpath::port::{PodPort, Port, PortId, PortKind};
use fastpath::reason::DropReason;
use fastpath::tables::{Nat, Tables, Way};
use flowtable::snat::{NatPools, Pool, Ports};
use ipnet::IpNet;
use pcap_tests::build::{self, Mac};
use pcap_tests::rig::Rig;
use pcap_tests::world::{Hop, To, World};

pub(crate) const UPLINK: PortId = PortId(0);
pub(crate) const POD: PortId = PortId(1);
pub(crate) const OTHER: PortId = PortId(2);
pub(crate) const HOST: PortId = PortId(3);

pub(crate) const NODE: &str = "172.18.0.2";
pub(crate) const POD_ADDR: &str = "10.65.0.2";
pub(crate) const OTHER_ADDR: &str = "10.65.0.3";
pub(crate) const SERVER: &str = "198.51.100.7";
/// A pod of the other node, behind VXLAN.
pub(crate) const REMOTE: &str = "10.65.1.5";
pub(crate) const NODE6: &str = "2001:db8:18::2";
pub(crate) const POD6: &str = "fd00:65::2";
pub(crate) const OTHER6: &str = "fd00:65::3";
pub(crate) const SERVER6: &str = "2001:db8:99::7";

pub(crate) const UPLINK_MAC: Mac = [2, 0, 0, 0, 0, 1];
pub(crate) const ROUTER_MAC: Mac = [2, 0, 0, 0, 0, 9];
pub(crate) const GATEWAY_MAC: Mac = [0xee; 6];
pub(crate) const POD_MAC: Mac = [2, 0, 0, 0, 1, 2];
pub(crate) const OTHER_MAC: Mac = [2, 0, 0, 0, 1, 3];
pub(crate) const HOST_MAC: Mac = [2, 0, 0, 0, 0, 5];

pub(crate) fn v4(text: &str) -> Ipv4Addr {
    text.parse().expect("an address")
}

pub(crate) fn v6(text: &str) -> Ipv6Addr {
    text.parse().expect("an address")
}

fn port(name: &str, mac: Mac, kind: PortKind) -> Port {
    let is_uplink = kind == PortKind::Uplink;
    Port {
        name: name.to_owned(),
        mac: MacAddr(mac),
        mtu: 1500,
        partial_checksums: !is_uplink,
        since: u64::from(matches!(kind, PortKind::Pod(_))),
        kind,
        icmp_source4: Some(v4(if is_uplink { NODE } else { "169.254.1.1" }).into()),
        icmp_source6: Some(v6(NODE6).into()),
        nat4: is_uplink.then(|| v4(NODE).into()),
        nat6: is_uplink.then(|| v6(NODE6).into()),
    }
}

pub(crate) fn pod(mac: Mac, addr: &str, addr6: &str) -> PortKind {
    PortKind::Pod(PodPort {
        mac: Some(MacAddr(mac)),
        addrs4: vec![v4(addr).into()],
        addrs6: vec![v6(addr6).into()],
        ..PodPort::default()
    })
}

pub(crate) fn world() -> World {
    let send = |port, mac, way, peer, tunnel| Hop::Send {
        port,
        mac: MacAddr(mac),
        way,
        peer,
        tunnel,
    };
    let net = |text: &str| text.parse::<IpNet>().expect("a prefix");
    let router = send(UPLINK, ROUTER_MAC, Way::Uplink, PeerId::NONE, None);
    let to_pod = send(POD, POD_MAC, Way::Pod, PeerId::NONE, None);
    let to_other = send(OTHER, OTHER_MAC, Way::Pod, PeerId::NONE, None);
    let to_host = send(HOST, HOST_MAC, Way::Host, PeerId::NONE, None);
    let vtep = MacAddr([0x66, 0, 0, 0, 0, 3]);
    let remote = To::Vxlan4(v4("172.18.0.3"), vtep);
    let node2 = send(UPLINK, ROUTER_MAC, Way::Tunnel, PeerId(1), Some(remote));
    World {
        ports: vec![
            port("eth0", UPLINK_MAC, PortKind::Uplink),
            port("calia", GATEWAY_MAC, pod(POD_MAC, POD_ADDR, POD6)),
            port("calib", GATEWAY_MAC, pod(OTHER_MAC, OTHER_ADDR, OTHER6)),
            port("caracal0", [2, 0, 0, 0, 0, 4], PortKind::Host),
        ],
        routes: vec![
            (net("10.65.0.2/32"), to_pod),
            (net("10.65.0.3/32"), to_other),
            (net("10.65.0.0/26"), Hop::Drop(DropReason::Blackhole)),
            (net("10.65.1.0/26"), node2),
            (net("172.18.0.2/32"), to_host),
            (net("0.0.0.0/0"), router),
            (net("fd00:65::2/128"), to_pod),
            (net("fd00:65::3/128"), to_other),
            (net("fd00:65::/122"), Hop::Drop(DropReason::Blackhole)),
            (net("2001:db8:18::2/128"), to_host),
            (net("::/0"), router),
        ],
        local4: v4(NODE),
        local6: v6(NODE6),
        vxlan: (4096, true, false),
        vtep: MacAddr([0x66, 0, 0, 0, 0, 2]),
        ipip: false,
        peers: vec![(IpAddr::V4(v4("172.18.0.3")), PeerId(1))],
        pods_may: (false, false),
    }
}

/// The node's tables; translated connections get ports of this range.
pub(crate) fn tables(range: RangeInclusive<u16>) -> Tables {
    Tables {
        nat: nat(range, true),
        ..world().tables()
    }
}

/// Pools that masquerade, or not.
pub(crate) fn nat(range: RangeInclusive<u16>, masquerades: bool) -> Nat {
    Nat {
        rules4: NatPools::new(
            [Pool {
                addresses: v4("10.65.0.0").into()..=v4("10.65.255.255").into(),
                masquerades,
            }],
            [],
        ),
        rules6: NatPools::new(
            [Pool {
                addresses: v6("fd00:65::").into()..=v6("fd00:65::ffff").into(),
                masquerades,
            }],
            [],
        ),
        addresses4: vec![v4(NODE).into()],
        addresses6: vec![v6(NODE6).into()],
        ports: Arc::new(Ports::new(range, [], [4789..=4789])),
        ..Nat::default()
    }
}

pub(crate) fn rig() -> Rig {
    Rig::new(tables(1024..=65_535)).with_connections()
}

/// A TCP segment in the middle of a conversation in which the client began with 100 and the server with 200.
pub(crate) fn segment4(
    src: &str,
    dst: &str,
    ports: (u16, u16),
    flags: u8,
    seq: u32,
    ack: u32,
) -> Vec<u8> {
    build::ip4(src, dst).sealed(6, build::segment(ports, flags, seq, ack, &[]), 16)
}

/// A frame that a pod sends.
pub(crate) fn from_pod(packet: &[u8]) -> Vec<u8> {
    build::ethernet(GATEWAY_MAC, POD_MAC, packet)
}

/// A frame that comes in by the uplink.
pub(crate) fn from_outside(packet: &[u8]) -> Vec<u8> {
    build::ethernet(UPLINK_MAC, ROUTER_MAC, packet)
}

/// A packet of the other node's pods in VXLAN, but for the outer Ethernet header.
pub(crate) fn tunnelled(inner: &[u8]) -> Vec<u8> {
    let frame = build::ethernet([0x66, 0, 0, 0, 0, 2], [0x66, 0, 0, 0, 0, 3], inner);
    let vxlan = build::vxlan(4096, &frame);
    build::ip4("172.18.0.3", NODE).udp(50_000, 4789, &vxlan)
}

/// Lets one packet come in, and returns what was sent in its turn, if anything.
pub(crate) fn one(
    rig: &mut Rig,
    port: PortId,
    frame: Vec<u8>,
) -> Result<(PortId, Vec<u8>), DropReason> {
    let outcome = rig.run(port, &[frame]);
    match outcome.fates[0] {
        Fate::Drop(reason) => Err(reason),
        Fate::Transmit(_) => {
            let mut sent = outcome.all();
            let (port, frame) = sent.next().expect("it was sent");
            Ok((port, frame.clone()))
        }
        fate => panic!("{fate:?}"),
    }
}

/// Addresses, ports, and whether all checksums are right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) ports: (u16, u16),
}

/// Looks into a frame with a library's eyes.
pub(crate) fn seen(frame: &[u8]) -> Seen {
    let packet = etherparse::SlicedPacket::from_ethernet(frame).expect("a frame");
    let (src, dst): (IpAddr, IpAddr) = match packet.net.expect("an IP packet") {
        etherparse::NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.calc_header_checksum(), header.header_checksum);
            (header.source.into(), header.destination.into())
        }
        etherparse::NetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            (header.source.into(), header.destination.into())
        }
        etherparse::NetSlice::Arp(_) => panic!("ARP"),
    };
    let ports = match packet.transport {
        Some(etherparse::TransportSlice::Tcp(tcp)) => {
            let header = tcp.to_header();
            let right = match (src, dst) {
                (IpAddr::V4(a), IpAddr::V4(b)) => {
                    header.calc_checksum_ipv4_raw(a.octets(), b.octets(), tcp.payload())
                }
                (IpAddr::V6(a), IpAddr::V6(b)) => {
                    header.calc_checksum_ipv6_raw(a.octets(), b.octets(), tcp.payload())
                }
                _ => unreachable!("one family"),
            };
            assert_eq!(right.expect("short"), header.checksum, "TCP's checksum");
            (header.source_port, header.destination_port)
        }
        Some(etherparse::TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port()),
        Some(etherparse::TransportSlice::Icmpv4(icmp)) => {
            let right = icmp.icmp_type().calc_checksum(icmp.payload());
            assert_eq!(right, icmp.header().checksum, "ICMP's checksum");
            let bytes = icmp.slice();
            let id = u16::from_be_bytes([bytes[4], bytes[5]]);
            (id, id)
        }
        _ => (0, 0),
    };
    Seen { src, dst, ports }
}
