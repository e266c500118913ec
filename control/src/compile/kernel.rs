//! What the compiler needs to know of the kernel's routing, whoever knows it: netlink, or a replay's file.

use std::net::IpAddr;

use encap::eth::MacAddr;
use ipnet::IpNet;

/// Where a route of the kernel leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelHop {
    /// To a router.
    Via {
        /// The router's address.
        gateway: IpAddr,
        /// The interface it is on.
        ifindex: u32,
    },
    /// To a connected network.
    OnLink {
        /// The interface it is on.
        ifindex: u32,
    },
    /// Over several ways at once, used or not: the two of a multipath route at least.
    Legs(Vec<KernelLeg>),
    /// Nowhere, silently.
    Blackhole,
    /// Nowhere, with "host unreachable".
    Unreachable,
    /// Nowhere, with "administratively prohibited".
    Prohibit,
}

/// One way of a multipath route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KernelLeg {
    /// The router's address; none on a connected network.
    pub gateway: Option<IpAddr>,
    /// The interface.
    pub ifindex: u32,
    /// Its share among the others, at least 1.
    pub weight: u16,
}

/// The kernel's state, as far as the compiler asks.
pub trait KernelView {
    /// The longest route of the main table that holds `addr`.
    fn route(&self, addr: IpAddr) -> Option<KernelHop>;

    /// The best route to exactly this prefix.
    fn exact(&self, prefix: IpNet) -> Option<KernelHop>;

    /// A neighbour's MAC address, when it is usable.
    fn mac(&self, ifindex: u32, addr: IpAddr) -> Option<MacAddr>;

    /// Whether a neighbour was asked for, and does not answer.
    fn has_failed(&self, _ifindex: u32, _addr: IpAddr) -> bool {
        false
    }

    /// Whether packets can pass an interface. They can where nothing is known of links.
    fn is_up(&self, _ifindex: u32) -> bool {
        true
    }

    /// The address that the kernel would send from by this interface: what a masqueraded connection leaves with.
    /// None where nothing is known of addresses.
    fn source(&self, _ifindex: u32, _v6: bool) -> Option<IpAddr> {
        None
    }

    /// All addresses of an interface.
    fn addresses(&self, _ifindex: u32) -> Vec<IpAddr> {
        Vec::new()
    }
}
