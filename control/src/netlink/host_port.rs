//! The host's port: a veth pair that joins the host's stack to the dataplane, both ends in the node's namespace.
//!
//! ```text
//!  host's stack -- rule 100 -- table 4242 -- caracal0 ====== caracal0-dp -- XDP -- dataplane
//! ```
//!
//! The host reaches pods by routes `via 169.254.1.1 dev caracal0 onlink` (IPv6: `via fe80::ecee:eeff:feee:eeee`), the
//! gateways of Calico's pods; both are permanent neighbours with the dataplane end's address, so that no ARP and no
//! neighbour discovery crosses the pair. The rule comes before table main and is for all packets, forwarded ones too: what the
//! kernel would send straight into a pod's veth goes through the dataplane, and through policy.
//!
//! The dataplane's end has no addresses, no ARP, no IPv6 and does not forward. A frame that XDP does not take there, because
//! no program is attached, finds no way on.
//!
//! All of it outlives the process on purpose: after a crash the host's packets to pods end at the pair instead of passing by
//! policy, and [`HostPort::ensure`] takes over what is there. With `failMode: open` an orderly stop takes the rules away.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;

use super::model::{Mac, Route};
use super::socket::{Error, Result};
use super::sysctl::{self, Tree};
use super::write::{NewRoute, RouteTarget, VethEnd, Writer};
use super::{PROTOCOL, pair};

/// The host's end of the pair.
pub const HOST_END: &str = "caracal0";
/// The dataplane's end of the pair.
pub const DATAPLANE_END: &str = "caracal0-dp";
/// Address of the host's end. Fixed, so that next hops stay right when the pair is made anew, and so that udev leaves it alone.
pub const HOST_MAC: Mac = [0x02, b'c', b'a', b'r', b'a', 0x01];
/// Address of the dataplane's end, as on the host side of Calico's pods.
pub const DATAPLANE_MAC: Mac = [0xee; 6];
/// The IPv4 router behind the port: Calico's link-local gateway.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The IPv6 router behind the port: the link-local address that belongs to [`DATAPLANE_MAC`].
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);
/// An address that the host's end always has. Reverse path filtering, even the loose one, drops what comes in by a device
/// without any address unless the way back leads there (`__fib_validate_source`), and what the dataplane hands on to the
/// host comes from anywhere. All of 127.0.0.0/8 is the host's own already, and of scope host, so that nothing is sent from it.
pub const PLACEHOLDER_V4: Ipv4Addr = Ipv4Addr::new(127, 42, 42, 1);
/// Routing table with the host's routes to pods.
pub const TABLE: u32 = 4242;
/// Preference of the rule that has that table looked up: after table local (0), before table main (32766).
pub const RULE_PREFERENCE: u32 = 100;

/// What the host's port is to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPortConfig {
    /// Largest IP packet, in bytes: that of pods.
    pub mtu: u32,
    /// Queues of either end: one a poller.
    pub queues: u32,
    /// The node's own tunnel addresses (VXLAN, IPIP), put on the host's end as /32 and /128, to be preferred sources.
    pub addresses: Vec<IpAddr>,
}

/// A prefix that the host reaches through the dataplane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostRoute {
    /// Destination: a pool, a block, a pod.
    pub dst: IpNet,
    /// Source address for the host's packets there; it must be one of its own. None: the kernel chooses.
    pub pref_src: Option<IpAddr>,
}

/// The host's port, set up.
pub struct HostPort {
    writer: Writer,
    /// Interface index of [`HOST_END`].
    pub host_ifindex: u32,
    /// Interface index of [`DATAPLANE_END`].
    pub dataplane_ifindex: u32,
    has_ipv6: bool,
}

impl HostPort {
    /// Sets the port up, out of whatever is there: nothing, the pair that an earlier process left, or half of it. A pair
    /// that will do is kept, with what is attached to it.
    ///
    /// # Errors
    /// What the kernel says; when a name is taken by a link that is not a veth pair of ours it is left alone.
    pub fn ensure(config: &HostPortConfig) -> Result<Self> {
        let mut writer = Writer::open()?;
        let ends =
            [(HOST_END, HOST_MAC), (DATAPLANE_END, DATAPLANE_MAC)].map(|(name, mac)| VethEnd {
                name: name.into(),
                mac,
                queues: config.queues,
                mtu: config.mtu,
            });
        let [host_ifindex, dataplane_ifindex] =
            pair::ensure(&mut writer, "the host's port", &ends)?;
        let [host_end, dataplane_end] = &ends;
        let has_ipv6 = sysctl::set(Tree::Ipv6, HOST_END, "disable_ipv6", 0)?;
        let mut port = Self {
            writer,
            host_ifindex,
            dataplane_ifindex,
            has_ipv6,
        };
        pair::isolate(&mut port.writer, dataplane_ifindex, dataplane_end)?;
        port.prepare_host_end(host_end)?;
        port.set_addresses(&config.addresses)?;
        port.ensure_rules()?;
        Ok(port)
    }

    /// Puts the rules that send the host's packets here, where they are missing; returns how many were.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn ensure_rules(&mut self) -> Result<usize> {
        let mut missing = 0;
        for family in self.families() {
            let was_missing = self.writer.add_rule(family, RULE_PREFERENCE, TABLE)?;
            missing += usize::from(was_missing);
        }
        Ok(missing)
    }

    /// Takes the rules away: the host's and forwarded packets to pods go by table main again. The rest stays.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_rules(&mut self) -> Result<()> {
        for family in self.families() {
            self.writer.delete_rule(family, RULE_PREFERENCE, TABLE)?;
        }
        Ok(())
    }

    /// Makes these the addresses of the host's end, beside [`PLACEHOLDER_V4`], and no others.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_addresses(&mut self, addresses: &[IpAddr]) -> Result<()> {
        let wanted: Vec<IpNet> = addresses
            .iter()
            .copied()
            .chain([PLACEHOLDER_V4.into()])
            .filter(|ip| ip.is_ipv4() || self.has_ipv6)
            .map(IpNet::from)
            .collect();
        let present = self.writer.addresses(self.host_ifindex)?;
        for &address in wanted.iter().filter(|address| !present.contains(address)) {
            self.writer.add_address(self.host_ifindex, address)?;
        }
        for &address in present.iter().filter(|address| !wanted.contains(address)) {
            self.writer.delete_address(self.host_ifindex, address)?;
        }
        Ok(())
    }

    /// Makes these the host's routes to pods, and no others; returns how many it had to add, change or delete. Of several for one
    /// prefix the last counts. Compares with what the kernel has, so it also repairs.
    ///
    /// # Errors
    /// What the kernel says, at the first route it refuses; the others may or may not be done. Call again to go on.
    pub fn sync_routes(&mut self, wanted: &[HostRoute]) -> Result<usize> {
        let wanted: BTreeMap<IpNet, HostRoute> = (wanted.iter())
            .filter(|route| route.dst.addr().is_ipv4() || self.has_ipv6)
            .map(|route| {
                (
                    route.dst.trunc(),
                    HostRoute {
                        dst: route.dst.trunc(),
                        ..*route
                    },
                )
            })
            .collect();
        let present = self.writer.routes(TABLE)?;
        let mut changes = 0;
        for route in wanted.values() {
            let new = self.kernel_route(route);
            if !present.iter().any(|present| is_same(present, &new)) {
                self.writer.replace_route(&new)?;
                changes += 1;
            }
        }
        // Afterwards, so that a packet finds its way at every moment. What others put there is theirs.
        for route in present.iter().filter(|route| route.protocol == PROTOCOL) {
            let replaced = |wanted: &HostRoute| self.kernel_route(wanted).metric == route.metric;
            if !wanted.get(&route.dst).is_some_and(replaced) {
                self.writer.delete_route(TABLE, route.dst, route.metric)?;
                changes += 1;
            }
        }
        Ok(changes)
    }

    /// Takes everything away: the rules first, so that packets go back to table main, then routes and links.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove(mut self) -> Result<()> {
        self.remove_rules()?;
        self.writer.flush_table(TABLE)?;
        self.writer.delete_link(self.host_ifindex)
    }

    /// Takes away what an earlier process left, if anything.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_leftovers() -> Result<()> {
        let mut writer = Writer::open()?;
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            // Without IPv6 there is no such rule, which the kernel says in its own way.
            let no_family =
                |error: &Error| error.is(libc::EAFNOSUPPORT) || error.is(libc::EOPNOTSUPP);
            match writer.delete_rule(family, RULE_PREFERENCE, TABLE) {
                Err(error) if !no_family(&error) => return Err(error),
                _ => {}
            }
        }
        writer.flush_table(TABLE)?;
        pair::remove(&mut writer, [HOST_END, DATAPLANE_END])
    }

    fn prepare_host_end(&mut self, end: &VethEnd) -> Result<()> {
        let ifindex = self.host_ifindex;
        // Pods' packets come in by a port that the way back need not lead to: a pod of a pool that is not routed here yet, a
        // remote node's tunnel address. Loose, and not off: the stricter of this and "all" is in force.
        sysctl::set(Tree::Ipv4, HOST_END, "rp_filter", 2)?;
        // The dataplane's ICMP errors to the host come from the node's own address, which is martian elsewhere.
        for (key, value) in [
            ("send_redirects", 0),
            ("accept_redirects", 0),
            ("accept_local", 1),
            ("arp_ignore", 8),
        ] {
            sysctl::set(Tree::Ipv4, HOST_END, key, value)?;
        }
        // No address of its own making, no router discovery: the pair is not a network.
        for (key, value) in [
            ("addr_gen_mode", 1),
            ("accept_ra", 0),
            ("autoconf", 0),
            ("accept_redirects", 0),
        ] {
            sysctl::set(Tree::Ipv6, HOST_END, key, value)?;
        }
        pair::set_mac_and_mtu(&mut self.writer, ifindex, end)?;
        self.writer.set_arp(ifindex, true)?;
        self.writer.set_up(ifindex, true)?;
        self.writer
            .set_permanent_neighbour(ifindex, GATEWAY_V4.into(), DATAPLANE_MAC)?;
        if self.has_ipv6 {
            self.writer
                .set_permanent_neighbour(ifindex, GATEWAY_V6.into(), DATAPLANE_MAC)?;
        }
        Ok(())
    }

    fn families(&self) -> impl Iterator<Item = AddressFamily> + use<> {
        [AddressFamily::Inet]
            .into_iter()
            .chain(self.has_ipv6.then_some(AddressFamily::Inet6))
    }

    fn kernel_route(&self, route: &HostRoute) -> NewRoute {
        // The kernel's default for IPv6, which it would put in place of 0.
        const METRIC_V6: u32 = 1024;
        let (gateway, metric) = match route.dst {
            IpNet::V4(_) => (IpAddr::V4(GATEWAY_V4), 0),
            IpNet::V6(_) => (IpAddr::V6(GATEWAY_V6), METRIC_V6),
        };
        NewRoute {
            table: TABLE,
            dst: route.dst,
            metric,
            target: RouteTarget::Link {
                ifindex: self.host_ifindex,
                gateway: Some(gateway),
                onlink: true,
            },
            pref_src: route.pref_src,
        }
    }
}

fn is_same(present: &Route, new: &NewRoute) -> bool {
    let RouteTarget::Link {
        ifindex, gateway, ..
    } = new.target
    else {
        return false;
    };
    let leads_there =
        matches!(&present.legs[..], [leg] if leg.ifindex == ifindex && leg.gateway == gateway);
    leads_there
        && present.protocol == PROTOCOL
        && (present.dst, present.metric, present.pref_src) == (new.dst, new.metric, new.pref_src)
}
