//! Netlink messages to events. Pure; what is not understood is passed over, never an error.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::TABLE_MAIN;
use super::attr::{Attributes, Message, aligned, ip, string, u8_at, u16_at, u32_at};
use super::model::{
    Address, LEG_WEIGHT_DEFAULT, Leg, Link, Neighbour, NeighbourState, OperState, Path, RouteKind,
};

/// What a message tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    NewLink(LinkUpdate),
    DelLink(u32),
    NewAddress(Address),
    DelAddress(Address),
    NewRoute(RouteEntry, Insert),
    DelRoute(RouteEntry),
    NewNeighbour(Neighbour),
    DelNeighbour(u32, IpAddr),
    /// A nexthop object was made or changed, or is gone.
    Nexthop {
        id: u32,
        gone: bool,
    },
}

/// A route with its identity spelled out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RouteEntry {
    pub(super) dst: IpNet,
    pub(super) metric: u32,
    pub(super) path: Path,
}

/// Where a new route goes among others of the same prefix and metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Insert {
    /// In front of them (`ip route prepend`).
    First,
    /// Behind them (`ip route append`, and the order of a dump).
    Last,
    /// In place of the one the kernel replaces.
    Replace,
}

/// The fields of a link that a message carried: some carry few, as those for wireless events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LinkUpdate {
    pub(super) ifindex: u32,
    flags: u32,
    name: Option<String>,
    /// Of any length, also none.
    address: Option<Vec<u8>>,
    mtu: Option<u32>,
    kind: Option<String>,
    oper: Option<OperState>,
    master: Option<u32>,
    peer: Option<u32>,
    peer_netns: Option<i32>,
    tx_queues: Option<u32>,
    rx_queues: Option<u32>,
}

impl LinkUpdate {
    /// Writes what the message carried over `link`.
    pub(super) fn apply(self, link: &mut Link) {
        link.ifindex = self.ifindex;
        link.admin_up = self.flags & libc::IFF_UP as u32 != 0;
        link.loopback = self.flags & libc::IFF_LOOPBACK as u32 != 0;
        link.oper = self.oper.unwrap_or(link.oper);
        link.mtu = self.mtu.unwrap_or(link.mtu);
        link.mac = self
            .address
            .map_or(link.mac, |address| address.try_into().ok());
        link.tx_queues = self.tx_queues.unwrap_or(link.tx_queues);
        link.rx_queues = self.rx_queues.unwrap_or(link.rx_queues);
        if let Some(name) = self.name {
            // A message with a name but without an MTU is a wireless event; any other says all there is to say.
            if self.mtu.is_some() {
                link.kind = self.kind;
                link.master = self.master.filter(|&m| m != 0);
                link.peer = self.peer.filter(|&p| p != 0);
                link.peer_netns = self.peer_netns;
            }
            link.name = name;
        }
    }
}

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;

const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_APPEND: u16 = 0x800;

const AF_INET: u8 = libc::AF_INET as u8;
const AF_INET6: u8 = libc::AF_INET6 as u8;

/// Reads one message. None: of no interest, or not understood.
pub(super) fn decode(message: &Message<'_>) -> Option<Event> {
    let payload = message.payload;
    match message.kind {
        RTM_NEWLINK => link(payload).map(Event::NewLink),
        RTM_DELLINK => link(payload).map(|l| Event::DelLink(l.ifindex)),
        RTM_NEWADDR => address(payload).map(Event::NewAddress),
        RTM_DELADDR => address(payload).map(Event::DelAddress),
        RTM_NEWROUTE => {
            let insert = if message.flags & NLM_F_REPLACE != 0 {
                Insert::Replace
            } else if message.flags & NLM_F_APPEND != 0 {
                Insert::Last
            } else {
                Insert::First
            };
            route(payload, TABLE_MAIN).map(|r| Event::NewRoute(r, insert))
        }
        RTM_DELROUTE => route(payload, TABLE_MAIN).map(Event::DelRoute),
        RTM_NEWNEIGH => neighbour(payload).map(Event::NewNeighbour),
        RTM_DELNEIGH => neighbour(payload).map(|n| Event::DelNeighbour(n.ifindex, n.ip)),
        RTM_NEWNEXTHOP | RTM_DELNEXTHOP => nexthop_id(payload).map(|id| Event::Nexthop {
            id,
            gone: message.kind == RTM_DELNEXTHOP,
        }),
        _ => None,
    }
}

/// `struct ifinfomsg` and IFLA_*.
fn link(payload: &[u8]) -> Option<LinkUpdate> {
    const HEADER_LEN: usize = 16;
    // A bridge tells of its ports under its own family, and of one that leaves it as of a deleted link.
    if u8_at(payload, 0)? != libc::AF_UNSPEC as u8 {
        return None;
    }
    let mut link = LinkUpdate {
        ifindex: u32_at(payload, 4)?,
        flags: u32_at(payload, 8)?,
        ..LinkUpdate::default()
    };
    for (kind, value) in Attributes::after(payload, HEADER_LEN) {
        match kind {
            libc::IFLA_ADDRESS => link.address = Some(value.to_vec()),
            libc::IFLA_IFNAME => link.name = Some(string(value)),
            libc::IFLA_MTU => link.mtu = u32_at(value, 0),
            libc::IFLA_LINK => link.peer = u32_at(value, 0),
            libc::IFLA_MASTER => link.master = u32_at(value, 0),
            libc::IFLA_OPERSTATE => link.oper = u8_at(value, 0).map(oper_state),
            libc::IFLA_LINK_NETNSID => link.peer_netns = u32_at(value, 0).map(u32::cast_signed),
            libc::IFLA_NUM_TX_QUEUES => link.tx_queues = u32_at(value, 0),
            libc::IFLA_NUM_RX_QUEUES => link.rx_queues = u32_at(value, 0),
            libc::IFLA_LINKINFO => {
                link.kind = Attributes(value)
                    .find(|(kind, _)| *kind == libc::IFLA_INFO_KIND)
                    .map(|(_, v)| string(v));
            }
            _ => {}
        }
    }
    Some(link)
}

fn oper_state(value: u8) -> OperState {
    match value {
        1 => OperState::NotPresent,
        2 => OperState::Down,
        3 => OperState::LowerLayerDown,
        4 => OperState::Testing,
        5 => OperState::Dormant,
        6 => OperState::Up,
        _ => OperState::Unknown,
    }
}

/// `struct ifaddrmsg` and IFA_*.
fn address(payload: &[u8]) -> Option<Address> {
    const HEADER_LEN: usize = 8;
    let mut flags = u32::from(u8_at(payload, 2)?);
    let (mut local, mut prefix_address) = (None, None);
    for (kind, value) in Attributes::after(payload, HEADER_LEN) {
        match kind {
            libc::IFA_LOCAL => local = ip(value),
            libc::IFA_ADDRESS => prefix_address = ip(value),
            libc::IFA_FLAGS => flags = u32_at(value, 0)?,
            _ => {}
        }
    }
    let ip = local.or(prefix_address)?;
    Some(Address {
        ifindex: u32_at(payload, 4)?,
        ip,
        prefix_len: u8_at(payload, 1)?,
        scope: u8_at(payload, 3)?,
        peer: prefix_address.filter(|&peer| peer != ip),
        flags,
    })
}

/// `struct rtmsg` and RTA_*; none unless it is a route of `table` for all sources and classes of service.
pub(super) fn route(payload: &[u8], table: u32) -> Option<RouteEntry> {
    const HEADER_LEN: usize = 12;
    const RTM_F_CLONED: u32 = 0x200;
    const RTA_ENCAP: u16 = 22;
    const RTA_NH_ID: u16 = 30;
    let family = u8_at(payload, 0)?;
    let prefix_len = u8_at(payload, 1)?;
    let (source_len, class) = (u8_at(payload, 2)?, u8_at(payload, 3)?);
    let mut in_table = u32::from(u8_at(payload, 4)?);
    let flags = u32_at(payload, 8)?;
    if source_len != 0 || class != 0 || flags & RTM_F_CLONED != 0 {
        return None;
    }
    let mut dst = match family {
        AF_INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AF_INET6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let mut path = Path {
        kind: route_kind(u8_at(payload, 7)?),
        protocol: u8_at(payload, 5)?,
        pref_src: None,
        nexthop_id: None,
        legs: Vec::new(),
    };
    let mut metric = 0;
    let mut single = Leg {
        gateway: None,
        ifindex: 0,
        weight: LEG_WEIGHT_DEFAULT,
        onlink: is_onlink(flags),
    };
    for (kind, value) in Attributes::after(payload, HEADER_LEN) {
        match kind {
            libc::RTA_DST => dst = ip(value)?,
            libc::RTA_TABLE => in_table = u32_at(value, 0)?,
            libc::RTA_PRIORITY => metric = u32_at(value, 0)?,
            libc::RTA_PREFSRC => path.pref_src = ip(value),
            libc::RTA_OIF => single.ifindex = u32_at(value, 0)?,
            libc::RTA_MULTIPATH => path.legs = legs(value, &mut path.kind),
            RTA_NH_ID => path.nexthop_id = u32_at(value, 0),
            RTA_ENCAP => path.kind = RouteKind::Unusable,
            libc::RTA_GATEWAY | libc::RTA_VIA => single.gateway = gateway(kind, value),
            _ => {}
        }
    }
    if in_table != table {
        return None;
    }
    if !matches!(path.kind, RouteKind::Unicast | RouteKind::Local) {
        path.legs.clear();
    } else if path.legs.is_empty() && (single.ifindex != 0 || single.gateway.is_some()) {
        path.legs.push(single);
    }
    Some(RouteEntry {
        dst: IpNet::new(dst, prefix_len).ok()?,
        metric,
        path,
    })
}

fn route_kind(rtn: u8) -> RouteKind {
    match rtn {
        libc::RTN_UNICAST => RouteKind::Unicast,
        libc::RTN_LOCAL => RouteKind::Local,
        libc::RTN_BLACKHOLE => RouteKind::Blackhole,
        libc::RTN_UNREACHABLE => RouteKind::Unreachable,
        libc::RTN_PROHIBIT => RouteKind::Prohibit,
        _ => RouteKind::Unusable,
    }
}

fn is_onlink(flags: u32) -> bool {
    const RTNH_F_ONLINK: u32 = 4;
    flags & RTNH_F_ONLINK != 0
}

/// RTA_GATEWAY, or RTA_VIA: a family in 16 bits, then the address.
fn gateway(kind: u16, value: &[u8]) -> Option<IpAddr> {
    if kind == libc::RTA_VIA {
        ip(value.get(2..)?)
    } else {
        ip(value)
    }
}

/// The `struct rtnexthop`s of RTA_MULTIPATH.
fn legs(mut bytes: &[u8], kind: &mut RouteKind) -> Vec<Leg> {
    const HEADER_LEN: usize = 8;
    const RTA_ENCAP: u16 = 22;
    let mut legs = Vec::new();
    while let (Some(len), Some(flags), Some(hops), Some(ifindex)) = (
        u16_at(bytes, 0),
        u8_at(bytes, 2),
        u8_at(bytes, 3),
        u32_at(bytes, 4),
    ) {
        let len = usize::from(len);
        let Some(leg) = bytes.get(..len).filter(|_| len >= HEADER_LEN) else {
            break;
        };
        let mut via = None;
        for (attribute, value) in Attributes::after(leg, HEADER_LEN) {
            match attribute {
                libc::RTA_GATEWAY | libc::RTA_VIA => via = gateway(attribute, value),
                RTA_ENCAP => *kind = RouteKind::Unusable,
                _ => {}
            }
        }
        legs.push(Leg {
            gateway: via,
            ifindex,
            weight: u16::from(hops) + LEG_WEIGHT_DEFAULT,
            onlink: is_onlink(u32::from(flags)),
        });
        bytes = bytes.get(aligned(len)..).unwrap_or_default();
    }
    legs
}

/// `struct ndmsg` and NDA_*.
fn neighbour(payload: &[u8]) -> Option<Neighbour> {
    const HEADER_LEN: usize = 12;
    const NTF_PROXY: u8 = 8;
    const NDA_DST: u16 = 1;
    const NDA_LLADDR: u16 = 2;
    const NDA_PROTOCOL: u16 = 12;
    const NDA_FLAGS_EXT: u16 = 15;
    const NTF_EXT_MANAGED: u32 = 1;
    // Bridges' forwarding entries come under AF_BRIDGE.
    if !matches!(u8_at(payload, 0)?, AF_INET | AF_INET6) || u8_at(payload, 10)? & NTF_PROXY != 0 {
        return None;
    }
    let (mut dst, mut mac, mut managed, mut protocol) = (None, None, false, 0);
    for (kind, value) in Attributes::after(payload, HEADER_LEN) {
        match kind {
            NDA_DST => dst = ip(value),
            NDA_LLADDR => mac = value.try_into().ok(),
            NDA_PROTOCOL => protocol = u8_at(value, 0)?,
            NDA_FLAGS_EXT => managed = u32_at(value, 0)? & NTF_EXT_MANAGED != 0,
            _ => {}
        }
    }
    let state = NeighbourState(u16_at(payload, 8)?);
    Some(Neighbour {
        ifindex: u32_at(payload, 4)?,
        ip: dst?,
        mac,
        state,
        managed,
        protocol,
    })
}

/// `struct nhmsg` and NHA_ID.
fn nexthop_id(payload: &[u8]) -> Option<u32> {
    const HEADER_LEN: usize = 8;
    const NHA_ID: u16 = 1;
    Attributes::after(payload, HEADER_LEN)
        .find(|(kind, _)| *kind == NHA_ID)
        .and_then(|(_, v)| u32_at(v, 0))
}

#[cfg(test)]
mod malformed;
#[cfg(test)]
mod tests;
