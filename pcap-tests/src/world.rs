//! A node's forwarding state as plain data: made into tables for the pipeline, and scanned by the oracle.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use encap::eth::MacAddr;
use encap::flow_hash::HashKey;
use encap::outer::{Macs, Overlay, Rewrite, Tunnel, UdpChecksum};
use encap::vxlan::Vni;
use fastpath::batch::PeerId;
use fastpath::policy::Policies;
use fastpath::port::{Port, PortId};
use fastpath::reason::DropReason;
use fastpath::tables::{Adjacency, NextHop, Tables, Tunnels, Unresolved, VxlanEnd, Way};
use flowtable::lpm::{Lpm4, Lpm6, NextHopId, Prefix4, Prefix6, Rib4, Rib6};
use ipnet::IpNet;

/// Ports, routes and tunnels.
#[derive(Clone, Debug)]
pub struct World {
    /// Ports by number.
    pub ports: Vec<Port>,
    /// Routes; of equal prefixes the first counts.
    pub routes: Vec<(IpNet, Hop)>,
    /// Our own address on the underlay.
    pub local4: Ipv4Addr,
    /// The same for IPv6.
    pub local6: Ipv6Addr,
    /// VXLAN's network identifier, and whether it is in use over IPv4 and over IPv6.
    pub vxlan: (u32, bool, bool),
    /// Our VTEP's MAC address.
    pub vtep: MacAddr,
    /// Whether IPIP is in use.
    pub ipip: bool,
    /// Nodes: their addresses, and their numbers.
    pub peers: Vec<(IpAddr, PeerId)>,
    /// Whether pods may send VXLAN, and IPIP.
    pub pods_may: (bool, bool),
}

/// VXLAN's UDP port.
pub const VXLAN_PORT: u16 = 4789;

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// To a MAC address behind a port, perhaps in a tunnel.
    Send {
        /// The port.
        port: PortId,
        /// The MAC address.
        mac: MacAddr,
        /// What kind of way it is.
        way: Way,
        /// The node behind it.
        peer: PeerId,
        /// The tunnel.
        tunnel: Option<To>,
    },
    /// To a neighbour whose MAC address is not known.
    Unresolved {
        /// The port.
        port: PortId,
        /// What kind of way it is.
        way: Way,
    },
    /// Nowhere.
    Drop(DropReason),
}

/// A tunnel's far end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// IPIP to this address.
    Ipip(Ipv4Addr),
    /// VXLAN over IPv4 to this address, and the VTEP's MAC address.
    Vxlan4(Ipv4Addr, MacAddr),
    /// VXLAN over IPv6 to this address, and the VTEP's MAC address.
    Vxlan6(Ipv6Addr, MacAddr),
}

impl To {
    /// What the tunnel takes from the port's MTU, in bytes.
    pub const fn overhead(self) -> u16 {
        match self {
            Self::Ipip(_) => 20,
            Self::Vxlan4(..) => 50,
            Self::Vxlan6(..) => 70,
        }
    }
}

impl World {
    /// A port.
    pub fn port(&self, id: PortId) -> &Port {
        &self.ports[usize::from(id.0)]
    }

    /// The tables that say the same, with a policy that allows everything.
    ///
    /// # Panics
    /// When there are too many routes for test tables.
    pub fn tables(&self) -> Tables {
        let mut next_hops = vec![NextHop::Drop(DropReason::NoRoute)];
        let (mut rib4, mut rib6) = (Rib4::new(), Rib6::new());
        for (net, hop) in self.routes.iter().rev() {
            let id = NextHopId::new(next_hops.len() as u16).expect("few routes");
            next_hops.push(self.next_hop(hop));
            match net {
                IpNet::V4(net) => {
                    let prefix = Prefix4::containing(net.addr().into(), net.prefix_len());
                    rib4.insert(prefix.expect("a prefix"), id).expect("room");
                }
                IpNet::V6(net) => {
                    let prefix = Prefix6::containing(net.addr().into(), net.prefix_len());
                    rib6.insert(prefix.expect("a prefix"), id).expect("room");
                }
            }
        }
        let (fib4, fib6): (Lpm4, Lpm6) = (rib4.snapshot(), rib6.snapshot());
        Tables {
            generation: 1,
            fib4,
            fib6,
            next_hops,
            ports: self.ports.iter().cloned().map(Some).collect(),
            tunnels: self.tunnels(),
            hash_key: HashKey([1, 2]),
            policies: Policies::allowing_all(self.ports.len()),
            ..Tables::default()
        }
    }

    fn next_hop(&self, hop: &Hop) -> NextHop {
        match *hop {
            Hop::Drop(reason) => NextHop::Drop(reason),
            Hop::Unresolved { port, way } => NextHop::Resolve(Unresolved {
                port,
                peer: PeerId::NONE,
                way,
                gateway: None,
            }),
            Hop::Send {
                port,
                mac,
                way,
                peer,
                tunnel,
            } => {
                let spec = self.port(port);
                let macs = Macs {
                    dst: mac,
                    src: spec.mac,
                };
                let rewrite = match tunnel {
                    None => Rewrite::ethernet(macs),
                    Some(To::Ipip(dst)) => {
                        let src = self.local4.into();
                        Rewrite::ipip(
                            macs,
                            Tunnel {
                                src,
                                dst: dst.into(),
                            },
                            64,
                        )
                    }
                    Some(To::Vxlan4(dst, vtep)) => {
                        let src = self.local4.into();
                        let ends = Tunnel {
                            src,
                            dst: dst.into(),
                        };
                        Rewrite::vxlan4(macs, ends, self.overlay(vtep))
                    }
                    Some(To::Vxlan6(dst, vtep)) => {
                        let src = self.local6.into();
                        let ends = Tunnel {
                            src,
                            dst: dst.into(),
                        };
                        Rewrite::vxlan6(macs, ends, self.overlay(vtep), UdpChecksum::Computed)
                    }
                };
                NextHop::Send(Adjacency {
                    port,
                    mtu: spec.mtu - tunnel.map_or(0, To::overhead),
                    peer,
                    way,
                    rewrite,
                })
            }
        }
    }

    fn vni(&self) -> Vni {
        Vni::new(self.vxlan.0).expect("a network identifier")
    }

    fn overlay(&self, vtep: MacAddr) -> Overlay {
        Overlay {
            port: VXLAN_PORT,
            vni: self.vni(),
            macs: Macs {
                dst: vtep,
                src: self.vtep,
            },
        }
    }

    fn tunnels(&self) -> Tunnels {
        let end = VxlanEnd {
            vni: self.vni(),
            mac: self.vtep,
        };
        let mut tunnels = Tunnels {
            local4: Some(self.local4),
            local6: Some(self.local6),
            vxlan4: self.vxlan.1.then_some(end),
            vxlan6: self.vxlan.2.then_some(end),
            ipip: self.ipip,
            vxlan_port: VXLAN_PORT,
            pods_may_vxlan: self.pods_may.0,
            pods_may_ipip: self.pods_may.1,
            ..Tunnels::default()
        };
        for (addr, peer) in &self.peers {
            match addr {
                IpAddr::V4(addr) => tunnels.peers4.insert((*addr).into(), *peer),
                IpAddr::V6(addr) => tunnels.peers6.insert((*addr).into(), *peer),
            };
        }
        tunnels
    }
}
