//! Links, addresses, routes and neighbours as plain data.

use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use ipnet::IpNet;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Operational state of a link (RFC 2863), the kernel's `IF_OPER_*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OperState {
    /// The driver does not say: loopback and many virtual devices.
    #[default]
    Unknown,
    /// A component is missing.
    NotPresent,
    /// Down.
    Down,
    /// Down because of what lies below, as a veth whose peer is down.
    LowerLayerDown,
    /// In a test mode.
    Testing,
    /// Waits for an external event, as 802.1X.
    Dormant,
    /// Passes packets.
    Up,
}

/// One network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Index, unique in the namespace while the interface lives, and reused afterwards.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// Ethernet address; none on tunnels and the like.
    pub mac: Option<Mac>,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Kind as `ip -d link` shows it (`veth`, `vxlan`, `bridge` …); none for physical devices and loopback.
    pub kind: Option<String>,
    /// Administratively up (`IFF_UP`).
    pub admin_up: bool,
    /// Operational state.
    pub oper: OperState,
    /// Loopback (`IFF_LOOPBACK`).
    pub loopback: bool,
    /// Interface index of the bridge, bond or VRF it is part of.
    pub master: Option<u32>,
    /// The other end of a veth pair, the lower device of a VLAN and so on (`IFLA_LINK`). An index of the namespace
    /// `peer_netns` if that is given, else of this one.
    pub peer: Option<u32>,
    /// This namespace's id for the namespace of `peer` (`IFLA_LINK_NETNSID`), where it is another one.
    pub peer_netns: Option<i32>,
    /// Number of transmit queues the device was made with.
    pub tx_queues: u32,
    /// Number of receive queues the device was made with.
    pub rx_queues: u32,
}

impl Link {
    /// Whether packets can pass: administratively up, and operationally up or not known to be down.
    pub fn is_up(&self) -> bool {
        self.admin_up && matches!(self.oper, OperState::Up | OperState::Unknown)
    }
}

/// One address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Interface it is on.
    pub ifindex: u32,
    /// The local address.
    pub ip: IpAddr,
    /// Length of the prefix that is on the link, in bits.
    pub prefix_len: u8,
    /// Scope as in rtnetlink: 0 universe, 253 link, 254 host.
    pub scope: u8,
    /// The other end of a point-to-point address.
    pub peer: Option<IpAddr>,
    /// `IFA_F_*`: secondary, tentative, deprecated …
    pub flags: u32,
}

impl Address {
    /// Whether packets may use it: duplicate address detection neither runs nor failed.
    pub fn is_usable(&self) -> bool {
        self.flags & (libc::IFA_F_TENTATIVE | libc::IFA_F_DADFAILED) == 0
            || self.flags & libc::IFA_F_OPTIMISTIC != 0
    }
}

/// What a route does with packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouteKind {
    /// Sends them over one of its legs.
    Unicast,
    /// Delivers them to this host.
    Local,
    /// Drops them silently.
    Blackhole,
    /// Drops them and answers with ICMP host unreachable.
    Unreachable,
    /// Drops them and answers with ICMP administratively prohibited.
    Prohibit,
    /// Does what we cannot repeat: `throw`, multicast, MPLS or another light-weight encapsulation.
    Unusable,
}

/// Weight of a leg for which none was given.
pub const LEG_WEIGHT_DEFAULT: u16 = 1;

/// One way out of a route: a single next hop, or one of a multipath route's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Leg {
    /// The next router. None: the destination is on the link. An IPv4 route may have an IPv6 gateway (RFC 5549).
    pub gateway: Option<IpAddr>,
    /// Interface packets leave by; 0 if the kernel did not say.
    pub ifindex: u32,
    /// Share of this leg among its siblings, at least 1.
    pub weight: u16,
    /// The gateway is taken to be on the link although no prefix says so.
    pub onlink: bool,
}

/// All of a route but its prefix and metric: what many routes have in common, and share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    /// What it does.
    pub kind: RouteKind,
    /// Who put it there (`RTPROT_*`): 2 kernel, 3 boot, 4 static, 11 zebra, 12 BIRD, 80 Felix, 186 BGP.
    pub protocol: u8,
    /// Source address for packets of this host.
    pub pref_src: Option<IpAddr>,
    /// Id of the nexthop object it was made with.
    pub nexthop_id: Option<u32>,
    /// Ways out, as the kernel gives them; also those over links that are down. Empty unless `kind` is
    /// [`RouteKind::Unicast`] (or [`RouteKind::Local`]), and then empty only where the kernel hides what a nexthop
    /// object stands for (`net.ipv4.nexthop_compat_mode=0`).
    pub legs: Vec<Leg>,
}

/// One route. Its [`Path`] is shared: `route.kind`, `route.legs`, `route.protocol` … are read through it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub dst: IpNet,
    /// Metric (priority); of several routes to one prefix the lowest is the best.
    pub metric: u32,
    /// The rest.
    pub path: Arc<Path>,
}

impl Deref for Route {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

/// State of a neighbour entry: `NUD_*` bits, of which one is set, or none.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct NeighbourState(pub u16);

impl NeighbourState {
    /// Being resolved for the first time.
    pub const INCOMPLETE: Self = Self(0x01);
    /// Confirmed lately.
    pub const REACHABLE: Self = Self(0x02);
    /// Known, to be confirmed at the next use.
    pub const STALE: Self = Self(0x04);
    /// In use, soon to be confirmed.
    pub const DELAY: Self = Self(0x08);
    /// Being confirmed.
    pub const PROBE: Self = Self(0x10);
    /// Does not answer.
    pub const FAILED: Self = Self(0x20);
    /// Needs no resolution.
    pub const NOARP: Self = Self(0x40);
    /// Set by hand, for good.
    pub const PERMANENT: Self = Self(0x80);

    /// Whether the entry's link-layer address may be sent to (the kernel's `NUD_VALID`).
    pub fn is_usable(self) -> bool {
        const VALID: u16 = NeighbourState::REACHABLE.0
            | NeighbourState::STALE.0
            | NeighbourState::DELAY.0
            | NeighbourState::PROBE.0
            | NeighbourState::NOARP.0
            | NeighbourState::PERMANENT.0;
        self.0 & VALID != 0
    }
}

impl fmt::Debug for NeighbourState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match *self {
            Self::INCOMPLETE => "INCOMPLETE",
            Self::REACHABLE => "REACHABLE",
            Self::STALE => "STALE",
            Self::DELAY => "DELAY",
            Self::PROBE => "PROBE",
            Self::FAILED => "FAILED",
            Self::NOARP => "NOARP",
            Self::PERMANENT => "PERMANENT",
            Self(0) => "NONE",
            Self(bits) => return write!(f, "NUD({bits:#x})"),
        };
        f.write_str(name)
    }
}

/// One entry of the neighbour tables (ARP, NDP).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Interface.
    pub ifindex: u32,
    /// Address that is resolved.
    pub ip: IpAddr,
    /// What it resolves to; none while unknown, and on links without Ethernet addresses.
    pub mac: Option<Mac>,
    /// State.
    pub state: NeighbourState,
    /// The kernel keeps it resolved on its own (`NTF_EXT_MANAGED`).
    pub managed: bool,
    /// Who added it (`NDA_PROTOCOL`), 0 if the kernel itself; [`super::PROTOCOL`] for ours.
    pub protocol: u8,
}

impl Neighbour {
    /// The address to send to, if there is one and the state allows it.
    pub fn usable_mac(&self) -> Option<Mac> {
        self.mac.filter(|_| self.state.is_usable())
    }
}
