//! Ways through the pipeline: tables and packets that benches and tests run.

use encap::eth::{self, EtherType, MacAddr};
use encap::flow_hash::HashKey;
use encap::outer::{self, Inner, Macs, Overlay, Rewrite, Tunnel, UdpChecksum};
use encap::vxlan::{self, Vni};
use encap::{checksum, ecn, l4};
use fastpath::batch::PeerId;
use fastpath::policy::Policies;
use fastpath::port::{PodPort, Port, PortId, PortKind};
use fastpath::reason::DropReason;
use fastpath::tables::{Adjacency, NextHop, Tables, Tunnels, VxlanEnd, Way};
use flowtable::lpm::{NextHopId, Prefix4, Prefix6, Rib4, Rib6};

use crate::rng::Rng;
use crate::routes::{Address, Route, Spread, addresses, bgp1m, calico1k, calico1k6};

/// The uplink's port.
pub const UPLINK: PortId = PortId(0);
/// The pods' ports: 1 to this.
pub const PODS: u16 = 4;
/// Bytes of a packet as a pod sends it, without the frame check sequence.
pub const PACKET_LEN: usize = 64;

const UPLINK_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const VTEP_MAC: MacAddr = MacAddr([0x66, 0, 0, 0, 0, 1]);
const LOCAL4: u32 = 0xc0a8_0001;
const LOCAL6: u128 = 0x2001_0db8 << 96 | 1;
/// The pod's IPv4 address is the one behind this.
pub const POD4: u32 = 0xac10_0000;
const POD6: u128 = 0xfd00_0099 << 96;
const OVERLAY_MTU: u16 = 1400;

/// What happens to a scenario's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chain {
    /// IPv4 from a pod, plain by the uplink, a thousand routes.
    Forward4,
    /// The same with a million routes.
    Forward4Bgp,
    /// IPv6 from a pod, plain by the uplink.
    Forward6,
    /// IPv4 from a pod into VXLAN over IPv4.
    Vxlan4,
    /// IPv6 from a pod into VXLAN over IPv6.
    Vxlan6,
    /// IPv4 from a pod into IPIP.
    Ipip,
    /// VXLAN over IPv4 from a node to a pod.
    VxlanDecap,
    /// IPIP from a node to a pod.
    IpipDecap,
}

impl Chain {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Forward4,
        Self::Forward4Bgp,
        Self::Forward6,
        Self::Vxlan4,
        Self::Vxlan6,
        Self::Ipip,
        Self::VxlanDecap,
        Self::IpipDecap,
    ];

    /// The name in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forward4 => "forward4-calico1k",
            Self::Forward4Bgp => "forward4-bgp1m",
            Self::Forward6 => "forward6-calico1k6",
            Self::Vxlan4 => "vxlan4-encap",
            Self::Vxlan6 => "vxlan6-encap",
            Self::Ipip => "ipip-encap",
            Self::VxlanDecap => "vxlan4-decap",
            Self::IpipDecap => "ipip-decap",
        }
    }

    /// Whether the packets come out of a tunnel.
    #[must_use]
    pub const fn is_decap(self) -> bool {
        matches!(self, Self::VxlanDecap | Self::IpipDecap)
    }

    const fn is_v6(self) -> bool {
        matches!(self, Self::Forward6 | Self::Vxlan6)
    }

    const fn way(self) -> Way {
        match self {
            Self::Forward4 | Self::Forward4Bgp | Self::Forward6 => Way::Uplink,
            Self::Vxlan4 | Self::Vxlan6 | Self::Ipip | Self::VxlanDecap | Self::IpipDecap => {
                Way::Tunnel
            }
        }
    }

    /// What is put in front of a packet to node or gateway number `hop`.
    fn rewrite(self, hop: u16) -> Rewrite {
        let macs = macs_of(hop);
        let ends = Tunnel {
            src: LOCAL4,
            dst: node4(hop),
        };
        match self {
            Self::Forward4 | Self::Forward4Bgp | Self::Forward6 => Rewrite::ethernet(macs),
            Self::Vxlan4 | Self::VxlanDecap => Rewrite::vxlan4(macs, ends, overlay(hop)),
            Self::Ipip | Self::IpipDecap => Rewrite::ipip(macs, ends, 64),
            Self::Vxlan6 => Rewrite::vxlan6(
                macs,
                Tunnel {
                    src: LOCAL6,
                    dst: LOCAL6 + u128::from(hop) + 1,
                },
                overlay(hop),
                UdpChecksum::Computed,
            ),
        }
    }
}

/// Tables, and packets that come in by [`Scenario::in_ports`], all of one length.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What happens to the packets.
    pub chain: Chain,
    /// The tables.
    pub tables: Tables,
    /// One packet a flow, one behind the other.
    packets: Vec<u8>,
    packet_len: usize,
}

impl Scenario {
    /// The scenario with this many flows.
    ///
    /// # Panics
    /// Never: the routes are made to fit.
    #[must_use]
    pub fn new(chain: Chain, flows: usize) -> Self {
        let mut tables = tables(chain);
        let mut packets = Vec::new();
        if chain.is_v6() {
            let routes = calico1k6();
            let pods = (1..=PODS).map(|pod| (POD6 + u128::from(pod), 128, POD_HOPS + pod));
            let pairs: Vec<_> = routes.iter().copied().chain(pods).map(pair6).collect();
            tables.fib6 = Rib6::from_routes(&pairs).expect("they fit").snapshot();
            for (flow, dst) in (0..).zip(remote(&routes, flows)) {
                packets.extend(udp6(POD6 + 1, dst, flow));
            }
        } else {
            let routes = if chain == Chain::Forward4Bgp {
                bgp1m()
            } else {
                calico1k()
            };
            let pods = (1..=PODS).map(|pod| (POD4 + u32::from(pod), 32, POD_HOPS + pod));
            let pairs: Vec<_> = routes.iter().copied().chain(pods).map(pair4).collect();
            tables.fib4 = Rib4::from_routes(&pairs).expect("they fit").snapshot();
            for (flow, there) in (0..).zip(remote(&routes, flows)) {
                if chain.is_decap() {
                    let peer = tables.fib4.lookup(there).get();
                    let pod = POD4 + 1 + flow % u32::from(PODS);
                    packets.extend(tunnelled(chain, peer, &udp4(there, pod, flow)));
                } else {
                    packets.extend(udp4(POD4 + 1, there, flow));
                }
            }
        }
        Self {
            chain,
            tables,
            packet_len: packets.len() / flows,
            packets,
        }
    }

    /// Bytes of each packet.
    #[must_use]
    pub const fn packet_len(&self) -> usize {
        self.packet_len
    }

    /// How many flows there are.
    #[must_use]
    pub fn flows(&self) -> usize {
        self.packets.len() / self.packet_len
    }

    /// The packet of flow number `flow`, counted from the start again after the last.
    #[must_use]
    pub fn packet(&self, flow: usize) -> &[u8] {
        let at = flow % self.flows() * self.packet_len;
        &self.packets[at..at + self.packet_len]
    }

    /// The packets of `count` flows from number `first` on, counted from the start again after the last.
    pub fn packets(&self, first: usize, count: usize) -> impl Iterator<Item = &[u8]> {
        let from = first % self.flows() * self.packet_len;
        self.packets[from..]
            .chunks_exact(self.packet_len)
            .chain(self.packets.chunks_exact(self.packet_len).cycle())
            .take(count)
    }

    /// The ports that the packets come in by, four of them: any packet may come by any of them.
    #[must_use]
    pub fn in_ports(&self) -> Vec<PortId> {
        if self.chain.is_decap() {
            vec![UPLINK; PODS.into()]
        } else {
            (1..=PODS).map(PortId).collect()
        }
    }

    /// The ports that they leave by.
    #[must_use]
    pub fn out_ports(&self) -> Vec<PortId> {
        if self.chain.is_decap() {
            (1..=PODS).map(PortId).collect()
        } else {
            vec![UPLINK]
        }
    }
}

/// The pods' next hops come behind the routes'.
const POD_HOPS: u16 = 2000;

/// All but the routes.
fn tables(chain: Chain) -> Tables {
    let mut next_hops = vec![NextHop::Drop(DropReason::NoRoute); usize::from(POD_HOPS + PODS) + 1];
    for (hop, slot) in (0..).zip(&mut next_hops).skip(1).take(1001) {
        *slot = NextHop::Send(Adjacency {
            port: UPLINK,
            mtu: OVERLAY_MTU,
            peer: PeerId(hop),
            way: chain.way(),
            rewrite: chain.rewrite(hop),
        });
    }
    for pod in 1..=PODS {
        next_hops[usize::from(POD_HOPS + pod)] = NextHop::Send(Adjacency {
            port: PortId(pod),
            mtu: OVERLAY_MTU,
            peer: PeerId::NONE,
            way: Way::Pod,
            rewrite: Rewrite::ethernet(Macs {
                dst: pod_mac(),
                src: MacAddr::CALICO_HOST,
            }),
        });
    }
    let uplink = Port {
        name: "uplink".into(),
        mac: UPLINK_MAC,
        mtu: 1500,
        kind: PortKind::Uplink,
        partial_checksums: false,
        icmp_source4: Some(LOCAL4),
        icmp_source6: Some(LOCAL6),
        nat4: None,
        nat6: None,
        since: 0,
    };
    // All of them are the same pod, so that its packets may come by any.
    let pod = |number| Port {
        name: format!("cali{number}"),
        mac: MacAddr::CALICO_HOST,
        mtu: OVERLAY_MTU,
        kind: PortKind::Pod(PodPort {
            mac: Some(pod_mac()),
            addrs4: vec![POD4 + 1],
            addrs6: vec![POD6 + 1],
            ..PodPort::default()
        }),
        partial_checksums: true,
        icmp_source4: Some(0xa9fe_0101),
        icmp_source6: None,
        nat4: None,
        nat6: None,
        since: 0,
    };
    let end = Some(VxlanEnd {
        vni: Vni::CALICO,
        mac: VTEP_MAC,
    });
    Tables {
        next_hops,
        ports: std::iter::once(uplink)
            .chain((1..=PODS).map(pod))
            .map(Some)
            .collect(),
        tunnels: Tunnels {
            local4: Some(LOCAL4.into()),
            local6: Some(LOCAL6.into()),
            vxlan4: end,
            vxlan6: end,
            ipip: true,
            vxlan_port: vxlan::DEFAULT_PORT,
            peers4: (1..=1001).map(|hop| (node4(hop), PeerId(hop))).collect(),
            ..Tunnels::default()
        },
        hash_key: HashKey([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210]),
        policies: Policies::allowing_all(usize::from(PODS) + 1),
        ..Tables::default()
    }
}

/// `count` addresses behind the routes; the default route, 0/8 and 127/8 left out.
fn remote<A: Address>(routes: &[Route<A>], count: usize) -> Vec<A> {
    let is_host = |addr: A| !matches!(addr.to_bits() >> (A::BITS - 8), 0 | 127);
    let specific: Vec<_> = routes
        .iter()
        .copied()
        .filter(|it| it.1 > 0 && is_host(it.0))
        .collect();
    addresses(&specific, Spread::Uniform, count)
}

fn pair4((addr, len, hop): Route<u32>) -> (Prefix4, NextHopId) {
    let prefix = Prefix4::containing(addr, len).expect("a length of IPv4");
    (prefix, NextHopId::new(hop).expect("a small number"))
}

fn pair6((addr, len, hop): Route<u128>) -> (Prefix6, NextHopId) {
    let prefix = Prefix6::containing(addr, len).expect("a length of IPv6");
    (prefix, NextHopId::new(hop).expect("a small number"))
}

fn macs_of(hop: u16) -> Macs {
    let [high, low] = hop.to_be_bytes();
    Macs {
        dst: MacAddr([2, 0, 0, 1, high, low]),
        src: UPLINK_MAC,
    }
}

const fn pod_mac() -> MacAddr {
    MacAddr([0xca, 0, 0, 0, 0, 1])
}

fn node4(hop: u16) -> u32 {
    LOCAL4 + 0x100 + u32::from(hop)
}

fn overlay(hop: u16) -> Overlay {
    let [high, low] = hop.to_be_bytes();
    Overlay {
        port: vxlan::DEFAULT_PORT,
        vni: Vni::CALICO,
        macs: Macs {
            dst: MacAddr([0x66, 0, 0, 1, high, low]),
            src: VTEP_MAC,
        },
    }
}

/// UDP over IPv4 in Ethernet from a pod, not to be fragmented, all checksums right.
#[must_use]
pub fn udp4(src: u32, dst: u32, flow: u32) -> Vec<u8> {
    udp4_of(PACKET_LEN, [0x40, 64], src, dst, flow)
}

/// The same with a length, and with the first byte of flags and fragment offset, and the TTL.
#[must_use]
pub fn udp4_of(len: usize, [flags, ttl]: [u8; 2], src: u32, dst: u32, flow: u32) -> Vec<u8> {
    let mut packet = from_pod(EtherType::IPV4);
    let ip_len = (len - eth::HEADER_LEN) as u16;
    let id = Rng::new(u64::from(flow)).next_u64() as u16;
    packet.extend([0x45, 0]);
    packet.extend(ip_len.to_be_bytes());
    packet.extend(id.to_be_bytes());
    packet.extend([flags, 0, ttl, l4::UDP, 0, 0]);
    packet.extend(src.to_be_bytes());
    packet.extend(dst.to_be_bytes());
    let sum = checksum::of(&packet[eth::HEADER_LEN..]);
    packet[24..26].copy_from_slice(&sum.to_be_bytes());
    let mut udp = udp(flow, ip_len - 20);
    let sum = checksum::Sum::pseudo_v4(src, dst, l4::UDP, ip_len - 20);
    seal(&mut udp, sum);
    packet.extend(udp);
    packet
}

/// UDP over IPv6 in Ethernet from a pod, all checksums right.
#[must_use]
pub fn udp6(src: u128, dst: u128, flow: u32) -> Vec<u8> {
    let mut packet = from_pod(EtherType::IPV6);
    let udp_len = (PACKET_LEN - eth::HEADER_LEN - 40) as u16;
    packet.extend([0x60, 0, 0, 0]);
    packet.extend(udp_len.to_be_bytes());
    packet.extend([l4::UDP, 64]);
    packet.extend(src.to_be_bytes());
    packet.extend(dst.to_be_bytes());
    let mut udp = udp(flow, udp_len);
    let sum = checksum::Sum::pseudo_v6(src, dst, l4::UDP, udp_len.into());
    seal(&mut udp, sum);
    packet.extend(udp);
    packet
}

fn from_pod(ethertype: EtherType) -> Vec<u8> {
    eth::header(MacAddr::CALICO_HOST, pod_mac(), ethertype).into()
}

fn udp(flow: u32, len: u16) -> Vec<u8> {
    let ports = Rng::new(u64::from(flow) << 1 | 1).next_u64() as u32 | 0x0400_0400;
    let mut udp = ports.to_be_bytes().to_vec();
    udp.extend(len.to_be_bytes());
    udp.extend([0, 0]);
    udp.resize(len.into(), 0x5a);
    udp
}

fn seal(udp: &mut [u8], pseudo: checksum::Sum) {
    let sum = checksum::udp_on_wire(pseudo.add_bytes(udp).checksum());
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
}

/// The packet as node number `peer` sends it through its tunnel to us.
fn tunnelled(chain: Chain, peer: u16, packet: &[u8]) -> Vec<u8> {
    let macs = Macs {
        dst: UPLINK_MAC,
        src: macs_of(peer).dst,
    };
    let ends = Tunnel {
        src: node4(peer),
        dst: LOCAL4,
    };
    let rewrite = if chain == Chain::IpipDecap {
        Rewrite::ipip(macs, ends, 64)
    } else {
        let macs_inside = overlay(peer).macs;
        let overlay = Overlay {
            macs: Macs {
                dst: macs_inside.src,
                src: macs_inside.dst,
            },
            ..overlay(peer)
        };
        Rewrite::vxlan4(macs, ends, overlay)
    };
    let l3 = &packet[eth::HEADER_LEN..];
    let mut whole = vec![0; rewrite.len()];
    whole.extend(l3);
    let inner = Inner {
        len: l3.len() as u16,
        family: outer::Family::V4,
        ecn: ecn::Ecn::NotEct,
        dont_fragment: true,
        flow_hash: 0x1234_5678,
        id: peer,
    };
    rewrite.write(&mut whole, &inner).expect("there is room");
    whole
}
