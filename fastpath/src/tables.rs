//! The immutable tables that the stages read. Control builds them; pollers see one whole snapshot at a time.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use encap::eth::MacAddr;
use encap::flow_hash::HashKey;
use encap::ipv4;
use encap::l4;
use encap::outer::Rewrite;
use encap::vxlan::Vni;
use flowtable::conn::Timeouts;
use flowtable::lpm::{Lpm4, Lpm6, NextHopId};
use flowtable::service;
use flowtable::snat::{NatPools, PortSet, Ports};
use hashbrown::HashMap;

use crate::batch::PeerId;
use crate::group::{Group, Spread};
use crate::policy::Policies;
use crate::port::{Port, PortId};
use crate::reason::DropReason;

/// One snapshot of all that a packet's fate depends on.
#[derive(Clone, Debug)]
pub struct Tables {
    /// Counts up with each published snapshot.
    pub generation: u64,
    /// IPv4 destination (and, for source checks, source) to next hop.
    pub fib4: Lpm4,
    /// The same for IPv6.
    pub fib6: Lpm6,
    /// Next hops; [`NextHopId`] is the index, and 0 is "no route".
    pub next_hops: Vec<NextHop>,
    /// Which flows take which leg, where a route has several.
    pub spreads: Vec<Spread>,
    /// Ports; [`PortId`] is the index.
    pub ports: Vec<Option<Port>>,
    /// Our ends of the tunnels, and who may send to them.
    pub tunnels: Tunnels,
    /// Key of the hash that chooses among the legs of a route, and outer UDP source ports where the connection's own
    /// ([`Packet::flow_hash`](crate::batch::Packet::flow_hash)) cannot: of fragments, and of what is no connection's. Random a process.
    pub hash_key: HashKey,
    /// What leaves with another source.
    pub nat: Nat,
    /// What pods' connections to services are translated to.
    pub services: Services,
    /// How connections are tracked.
    pub tracking: Tracking,
    /// Who may speak to whom.
    pub policies: Policies,
    /// The last generation in which an endpoint went away or became another one: its connections have to go.
    pub endpoints_since: u64,
}

/// Which connections get another source, and which ports they get (Calico's natOutgoing).
#[derive(Clone, Debug, Default)]
pub struct Nat {
    /// Whether one of IPv4 does.
    pub rules4: NatPools<u32>,
    /// Whether one of IPv6 does.
    pub rules6: NatPools<u128>,
    /// The addresses that are given now: a binding to another one is void.
    pub addresses4: Vec<u32>,
    /// The same for IPv6.
    pub addresses6: Vec<u128>,
    /// Uplinks by which connections leave as they are.
    pub untouched: Vec<PortId>,
    /// The ports that the dataplane may use, and the protocols without ports. None of them is the host's.
    pub ports: Arc<Ports>,
}

/// What a translated connection is told by from others to the same destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping<'a> {
    /// A port, or a query's identifier, drawn from these.
    Port(&'a PortSet),
    /// Nothing: its protocol has no ports, so there is one a destination.
    Address,
}

impl Nat {
    /// How connections of a protocol are translated; `icmp` is the family's ICMP. `None`: they are not, since answers could not be
    /// told from the host's own.
    pub fn mapping_of(&self, protocol: u8, icmp: u8) -> Option<Mapping<'_>> {
        Some(Mapping::Port(match protocol {
            l4::TCP => &self.ports.tcp,
            l4::UDP => &self.ports.udp,
            l4::SCTP => &self.ports.others,
            _ if protocol == icmp => &self.ports.identifiers,
            _ if self.ports.protocols.contains(protocol.into()) => return Some(Mapping::Address),
            _ => return None,
        }))
    }
}

/// The services that pods reach.
#[derive(Clone, Debug, Default)]
pub struct Services {
    /// By their IPv4 addresses.
    pub v4: Arc<service::Services<u32>>,
    /// By their IPv6 addresses.
    pub v6: Arc<service::Services<u128>>,
    /// Whether there may be more, of which nobody has told yet: then no connection to one is over for want of it.
    pub incomplete: bool,
    /// Whether a pod is told that nobody is at an address that only services have (`serviceLoopPrevention: Reject`).
    pub refuses_strays: bool,
}

/// How connections are tracked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracking {
    /// How long they are kept.
    pub timeouts: Timeouts,
    /// Whether one that is met in its middle is picked up, as after a restart.
    pub pick_up: bool,
    /// Whether a packet that belongs to none and can start none is dropped; else it passes, and is not remembered.
    pub drops_invalid: bool,
}

impl Default for Tracking {
    fn default() -> Self {
        Self {
            timeouts: Timeouts::DEFAULT,
            pick_up: true,
            drops_invalid: true,
        }
    }
}

impl Default for Tables {
    /// No ports, no routes, no policy: every packet is dropped.
    fn default() -> Self {
        Self {
            generation: 0,
            fib4: Lpm4::default(),
            fib6: Lpm6::default(),
            next_hops: vec![NO_ROUTE],
            spreads: Vec::new(),
            ports: Vec::new(),
            tunnels: Tunnels::default(),
            hash_key: HashKey([0, 0]),
            nat: Nat::default(),
            services: Services::default(),
            tracking: Tracking::default(),
            policies: Policies::default(),
            endpoints_since: 0,
        }
    }
}

impl Tables {
    /// A port, when it exists.
    #[inline]
    pub fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(usize::from(id.0))?.as_ref()
    }

    /// Whether next hops are so few that they are in a core's own cache anyway, and need not be fetched ahead.
    #[inline]
    pub const fn has_near_next_hops(&self) -> bool {
        /// Half of what the smallest second level caches have.
        const NEAR_BYTES: usize = 256 << 10;
        self.next_hops.len() * size_of::<NextHop>() <= NEAR_BYTES
    }

    /// A next hop; "no route" for an id that does not exist.
    #[inline]
    pub fn next_hop(&self, id: NextHopId) -> &NextHop {
        self.next_hops.get(id.index()).unwrap_or(&NO_ROUTE)
    }
}

/// Where packets without a route go.
pub static NO_ROUTE: NextHop = NextHop::Drop(DropReason::NoRoute);

/// What a route leads to. Two cache lines, of which the first is enough but for VXLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(align(64))]
pub enum NextHop {
    /// A known next hop: the bytes to put in front, and the port to send by.
    Send(Adjacency),
    /// A next hop (or a destination on a connected network) whose MAC address is not known.
    Resolve(Unresolved),
    /// Nothing may go there.
    Drop(DropReason),
    /// Several of these, of which each flow takes one. A route leads here, never a packet or a connection: they have a leg.
    Group(Group),
}

/// Everything `apply` needs to send a packet to a next hop. Plain data, complete, no pointers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Adjacency {
    /// The port to send by.
    pub port: PortId,
    /// The longest inner IP packet that may go this way, in bytes.
    pub mtu: u16,
    /// The node behind it; [`PeerId::NONE`] when it is no node of ours.
    pub peer: PeerId,
    /// What kind of way it is.
    pub way: Way,
    /// What is put in front of the inner IP packet.
    pub rewrite: Rewrite,
}

/// The kind of a next hop, for checks of source and direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Way {
    /// Plain, by an uplink: a gateway, a neighbour or another node.
    Uplink,
    /// A local pod.
    Pod,
    /// The host's own stack.
    Host,
    /// VXLAN or IPIP, by an uplink.
    Tunnel,
}

/// A next hop that waits for its MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unresolved {
    /// The port it is behind.
    pub port: PortId,
    /// The node behind it, as in [`Adjacency::peer`].
    pub peer: PeerId,
    /// As in [`Adjacency::way`].
    pub way: Way,
    /// The gateway; `None`: the packet's own destination, on a connected network.
    pub gateway: Option<std::net::IpAddr>,
}

const _: () = assert!(size_of::<NextHop>() == 128);

impl NextHop {
    /// The way and the node behind it, for source checks, and the port, of several legs the first's; `None` for a dropping one.
    #[inline]
    pub const fn origin(&self) -> Option<(Way, PeerId, PortId)> {
        match self {
            Self::Send(adjacency) => Some((adjacency.way, adjacency.peer, adjacency.port)),
            Self::Resolve(waiting) => Some((waiting.way, waiting.peer, waiting.port)),
            Self::Group(group) => Some((group.way, group.peer, group.port)),
            Self::Drop(_) => None,
        }
    }
}

/// Our ends of the tunnels and the nodes that may send to them.
#[derive(Clone, Debug, Default)]
pub struct Tunnels {
    /// The node's address on the underlay: the only outer IPv4 destination that is taken.
    pub local4: Option<Ipv4Addr>,
    /// The same for VXLAN over IPv6.
    pub local6: Option<Ipv6Addr>,
    /// VXLAN over IPv4, when a pool uses it.
    pub vxlan4: Option<VxlanEnd>,
    /// VXLAN over IPv6, when a pool uses it.
    pub vxlan6: Option<VxlanEnd>,
    /// Whether IPIP is taken, when a pool uses it.
    pub ipip: bool,
    /// The VXLAN UDP port (FelixConfiguration `vxlanPort`).
    pub vxlan_port: u16,
    /// Our tunnel's own address: the source of ICMP errors that go into a tunnel.
    pub icmp_source4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub icmp_source6: Option<Ipv6Addr>,
    /// Whether pods may send VXLAN (FelixConfiguration `allowVXLANPacketsFromWorkloads`).
    pub pods_may_vxlan: bool,
    /// Whether pods may send IPIP (FelixConfiguration `allowIPIPPacketsFromWorkloads`).
    pub pods_may_ipip: bool,
    /// Outer IPv4 sources that are taken, and the node each is.
    pub peers4: HashMap<u32, PeerId>,
    /// Outer IPv6 sources that are taken, and the node each is.
    pub peers6: HashMap<u128, PeerId>,
    /// Outer IPv4 sources outside the cluster that are taken: (network, mask) (FelixConfiguration `externalNodesList`).
    pub external4: Vec<(u32, u32)>,
}

impl Tunnels {
    /// The node behind an outer IPv4 source; `None` when its tunnel packets are not taken.
    #[inline]
    pub fn peer4(&self, src: u32) -> Option<PeerId> {
        let external = || {
            self.external4
                .iter()
                .any(|&(net, mask)| src & mask == net)
                .then_some(PeerId::EXTERNAL)
        };
        self.peers4.get(&src).copied().or_else(external)
    }

    /// Whether a packet of a pod is one that pods may not send: a tunnel of Calico's own kinds, which other nodes would open.
    /// Other tunnels are a matter of policy, like any protocol.
    #[inline]
    pub const fn refuse_of_pod(&self, protocol: u8, dst_port: u16) -> bool {
        match protocol {
            l4::UDP => dst_port == self.vxlan_port && !self.pods_may_vxlan,
            ipv4::PROTOCOL_IPIP => !self.pods_may_ipip,
            _ => false,
        }
    }

    /// The node behind an outer IPv6 source.
    #[inline]
    pub fn peer6(&self, src: u128) -> Option<PeerId> {
        self.peers6.get(&src).copied()
    }
}

/// Our end of a VXLAN tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VxlanEnd {
    /// The network identifier.
    pub vni: Vni,
    /// Our VTEP's MAC address: the only inner destination that is taken.
    pub mac: MacAddr,
}
