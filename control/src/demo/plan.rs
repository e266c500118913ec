//! Who is where in the lab: namespaces, addresses, interface names. Pure.
//!
//! ```text
//!   pods client, web         pods db, cache
//!        |   |                    |   |         cali* veths
//!      cara-…-node1           cara-…-node2
//!   172.30.1.11  \             /  172.30.2.12 (172.30.1.12 when it stands in node 1's subnet)
//!                 cara-…-router
//!                       |  172.30.9.0/24
//!                 cara-…-outside
//! ```

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::scenario::{Family, Scenario};
use crate::calico;

/// Kubernetes namespace of all pods of the lab.
pub const POD_NAMESPACE: &str = "demo";
/// MAC address of the host's side of every pod's veth, as Calico's CNI plugin sets it.
pub const GATEWAY_MAC: &str = "ee:ee:ee:ee:ee:ee";
/// IPv4 gateway of every pod.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// IPv6 gateway of every pod: the link-local address that belongs to [`GATEWAY_MAC`].
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);
/// Pool of the pods' IPv4 addresses.
pub const POOL_V4: &str = "10.244.0.0/16";
/// Pool of the pods' IPv6 addresses.
pub const POOL_V6: &str = "fd44::/48";

/// Name of a lab: part of every namespace's name, so that labs do not meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabId(String);

impl LabId {
    /// Longest name accepted.
    pub const MAX_LEN: usize = 16;

    /// Checks the name: lower-case letters and digits, 1 to [`Self::MAX_LEN`] of them.
    ///
    /// # Errors
    /// A sentence for the user when the name has another form.
    pub fn new(name: &str) -> Result<Self, String> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        if name.is_empty() || name.len() > Self::MAX_LEN || !name.bytes().all(plain) {
            return Err(format!(
                "'{name}': a lab's name is 1 to {} lower-case letters and digits",
                Self::MAX_LEN
            ));
        }
        Ok(Self(name.to_owned()))
    }

    /// Full name of one of the lab's network namespaces.
    pub fn netns(&self, part: &str) -> String {
        format!("{}{part}", self.prefix())
    }

    /// What the names of all of the lab's namespaces begin with.
    pub fn prefix(&self) -> String {
        format!("cara-{}-", self.0)
    }
}

impl fmt::Display for LabId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One of the two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    /// `node1`, always in the first subnet.
    One,
    /// `node2`, in the second subnet, or beside node 1 in the first.
    Two,
}

impl Node {
    /// Both nodes.
    pub const ALL: [Self; 2] = [Self::One, Self::Two];

    /// Its number, 1 or 2.
    pub fn number(self) -> u8 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }

    /// Its name in Calico's terms.
    pub fn name(self) -> &'static str {
        match self {
            Self::One => "node1",
            Self::Two => "node2",
        }
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::One => Self::Two,
            Self::Two => Self::One,
        }
    }

    /// Number of the subnet that it stands in.
    pub fn subnet(self, same_subnet: bool) -> u8 {
        if same_subnet { 1 } else { self.number() }
    }

    /// Its address on the underlay.
    pub fn address(self, family: Family, same_subnet: bool) -> IpAddr {
        underlay(family, self.subnet(same_subnet), 10 + self.number())
    }

    /// Block of pod addresses that is affine to it.
    pub fn block(self, family: Family) -> String {
        match family {
            Family::Ipv4 => format!("10.244.{}.0/26", self.number()),
            Family::Ipv6 => format!("fd44:0:0:{}::/122", self.number()),
        }
    }

    /// Address of its tunnel devices, taken from its block.
    pub fn tunnel_address(self, family: Family) -> IpAddr {
        pod_address(self, family, 1)
    }

    /// MAC address of its VXLAN device of a family, as Felix derives it.
    pub fn vtep_mac(self, family: Family) -> String {
        match family {
            Family::Ipv4 => calico::vtep_mac(self.name()),
            Family::Ipv6 => calico::vtep_mac_v6(self.name()),
        }
        .to_string()
    }

    /// Its pods.
    pub fn pods(self) -> impl Iterator<Item = &'static Pod> {
        PODS.iter().filter(move |pod| pod.node == self)
    }
}

/// An address of the underlay: host `host` of subnet `subnet`.
pub fn underlay(family: Family, subnet: u8, host: u8) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::new(172, 30, subnet, host).into(),
        Family::Ipv6 => {
            // Written as in IPv4: the digits of the decimal number.
            let digits = u16::from_str_radix(&host.to_string(), 16).unwrap_or(0);
            Ipv6Addr::new(0xfd30, u16::from(subnet), 0, 0, 0, 0, 0, digits).into()
        }
    }
}

/// Host number of the router in each subnet.
pub const ROUTER_HOST: u8 = 1;
/// Number of the subnet that the server outside stands in.
pub const OUTSIDE_SUBNET: u8 = 9;
/// Its host number there.
pub const OUTSIDE_HOST: u8 = 9;

fn pod_address(node: Node, family: Family, host: u8) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::new(10, 244, node.number(), host).into(),
        Family::Ipv6 => Ipv6Addr::new(
            0xfd44,
            0,
            0,
            u16::from(node.number()),
            0,
            0,
            0,
            u16::from(host),
        )
        .into(),
    }
}

/// Length of a subnet's prefix on the underlay.
pub fn underlay_prefix_len(family: Family) -> u8 {
    match family {
        Family::Ipv4 => 24,
        Family::Ipv6 => 64,
    }
}

/// A pod.
#[derive(Debug, PartialEq, Eq)]
pub struct Pod {
    /// Node that it runs on.
    pub node: Node,
    /// Its name, unique in the lab.
    pub name: &'static str,
    host: u8,
}

/// The pods of the lab.
pub static PODS: [Pod; 4] = [
    Pod {
        node: Node::One,
        name: "client",
        host: 2,
    },
    Pod {
        node: Node::One,
        name: "web",
        host: 3,
    },
    Pod {
        node: Node::Two,
        name: "db",
        host: 2,
    },
    Pod {
        node: Node::Two,
        name: "cache",
        host: 3,
    },
];

/// The pod that starts most of the traffic, on node 1.
pub static CLIENT: &Pod = &PODS[0];
/// The other pod of node 1.
pub static WEB: &Pod = &PODS[1];
/// A pod on node 2.
pub static DB: &Pod = &PODS[2];

impl Pod {
    /// Its address.
    pub fn address(&self, family: Family) -> IpAddr {
        pod_address(self.node, family, self.host)
    }

    /// Name of the host's side of its veth, as Calico's CNI plugin derives it.
    pub fn host_interface(&self) -> String {
        calico::veth_name("cali", POD_NAMESPACE, self.name)
    }

    /// MAC address of its own side of the veth.
    pub fn mac(&self) -> String {
        format!("02:ca:00:00:{:02x}:{:02x}", self.node.number(), self.host)
    }

    /// The part of its namespace's name that follows the lab's prefix.
    pub fn netns_part(&self) -> String {
        format!("{}-{}", self.node.name(), self.name)
    }
}

/// One end of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A pod.
    Pod(&'static Pod),
    /// A node's own stack.
    Host(Node),
    /// The server beyond the router.
    Outside,
}

impl End {
    /// The part of its namespace's name that follows the lab's prefix.
    pub fn netns_part(self) -> String {
        match self {
            Self::Pod(pod) => pod.netns_part(),
            Self::Host(node) => node.name().to_owned(),
            Self::Outside => "outside".to_owned(),
        }
    }

    /// Its address.
    pub fn address(self, family: Family, scenario: Scenario) -> IpAddr {
        match self {
            Self::Pod(pod) => pod.address(family),
            Self::Host(node) => node.address(family, scenario.same_subnet),
            Self::Outside => underlay(family, OUTSIDE_SUBNET, OUTSIDE_HOST),
        }
    }

    /// Its name in the output.
    pub fn label(self) -> String {
        match self {
            Self::Pod(pod) => format!("{}/{}", pod.node.name(), pod.name),
            Self::Host(node) => node.name().to_owned(),
            Self::Outside => "outside".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_calico_derives() {
        // printf demo.client | sha1sum; printf node1 | sha1sum
        assert_eq!(CLIENT.host_interface(), "cali0e8ee4fc632");
        assert_eq!(Node::One.vtep_mac(Family::Ipv4), "66:f9:37:c3:7e:94");
    }

    #[test]
    fn addresses_are_written_alike_in_both_families() {
        let two = Node::Two;
        assert_eq!(two.address(Family::Ipv4, false).to_string(), "172.30.2.12");
        assert_eq!(two.address(Family::Ipv6, false).to_string(), "fd30:2::12");
        assert_eq!(two.address(Family::Ipv6, true).to_string(), "fd30:1::12");
        assert_eq!(DB.address(Family::Ipv6).to_string(), "fd44:0:0:2::2");
    }

    #[test]
    fn a_labs_name_is_checked() {
        assert_eq!(
            LabId::new("a1").map(|id| id.netns("router")),
            Ok("cara-a1-router".to_owned())
        );
        for bad in ["", "A", "a-b", "../x", "12345678901234567"] {
            assert!(LabId::new(bad).is_err(), "{bad}");
        }
    }
}
