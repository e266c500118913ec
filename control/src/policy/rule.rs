//! Rules and what they match, field by field as in Felix's `Rule` message.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::config::Span;

/// Address family of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }

    /// The family of a prefix.
    pub fn of_net(net: IpNet) -> Self {
        Self::of(net.addr())
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// A number of the Internet protocol registry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP, of IPv4.
    pub const ICMP: Self = Self(1);
    /// IP in IP.
    pub const IPIP: Self = Self(4);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// ICMP of IPv6.
    pub const ICMPV6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);
    /// UDP-Lite.
    pub const UDPLITE: Self = Self(136);

    /// Names as Calico writes them, and their numbers.
    pub const NAMES: [(&'static str, Self); 6] = [
        ("TCP", Self::TCP),
        ("UDP", Self::UDP),
        ("ICMP", Self::ICMP),
        ("ICMPv6", Self::ICMPV6),
        ("SCTP", Self::SCTP),
        ("UDPLite", Self::UDPLITE),
    ];

    /// The protocol of a name, whatever its case.
    pub fn by_name(name: &str) -> Option<Self> {
        let mut names = Self::NAMES.into_iter();
        names
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, protocol)| protocol)
    }

    /// True if rules may name ports of it.
    pub fn has_ports(self) -> bool {
        [Self::TCP, Self::UDP, Self::SCTP].contains(&self)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(_, known)| known == self) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a rule does with a packet that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The packet goes to the next leg.
    Allow,
    /// The packet is dropped.
    Deny,
    /// The packet is noted, and the next rule looked at.
    Log,
    /// The packet goes to the next tier.
    Pass,
}

impl Action {
    /// The action of a word as Felix sends it: any case, `next-tier` for Pass, nothing for Allow. What is not known
    /// denies.
    pub fn of_felix(word: &str) -> Self {
        match word.to_ascii_lowercase().as_str() {
            "" | "allow" => Self::Allow,
            "log" => Self::Log,
            "pass" | "next-tier" => Self::Pass,
            _ => Self::Deny,
        }
    }

    /// `Allow`, `Deny`, `Log` or `Pass`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "Allow",
            Self::Deny => "Deny",
            Self::Log => "Log",
            Self::Pass => "Pass",
        }
    }
}

/// First and last port, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

impl PortRange {
    /// Whether a port lies in it.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

/// A range as `80` or `80:90`.
impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}:{}", self.first, self.last)
        }
    }
}

/// Type of an ICMP message, and its code where that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IcmpMatch {
    /// Type.
    pub kind: u8,
    /// Code; `None`: any.
    pub code: Option<u8>,
}

/// The name of an IP set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IpSetId(pub Arc<str>);

impl fmt::Display for IpSetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for IpSetId {
    fn from(id: &str) -> Self {
        Self(id.into())
    }
}

/// Families that a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Families {
    /// Both.
    #[default]
    Any,
    /// One.
    Only(Family),
    /// None: the rule contradicts itself, such as ICMP (of IPv4) with `ipVersion: 6`.
    Never,
}

impl Families {
    /// Both conditions together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Any, one) | (one, Self::Any) => one,
            (Self::Only(a), Self::Only(b)) if a == b => self,
            _ => Self::Never,
        }
    }

    /// Whether a packet of this family may match.
    pub fn has(self, family: Family) -> bool {
        match self {
            Self::Any => true,
            Self::Only(only) => only == family,
            Self::Never => false,
        }
    }
}

/// Ports, by number or by name: one of them must be the packet's.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Ports {
    /// By number.
    pub ranges: Vec<PortRange>,
    /// By name: sets of address, protocol and port.
    pub named: Vec<IpSetId>,
}

/// What a rule asks of one side of a packet. All conditions must hold.
///
/// Conditions that list what may match are `Option`s: `None` asks for nothing, and an empty list can not be met.
/// A list that lost its members on the way must never turn into no condition.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Side {
    /// The address lies in one of these.
    pub nets: Option<Vec<IpNet>>,
    /// The address lies in none of these.
    pub not_nets: Vec<IpNet>,
    /// The port is one of these.
    pub ports: Option<Ports>,
    /// The port is none of these.
    pub not_ports: Option<Ports>,
    /// The address is in each of these sets.
    pub ip_sets: Vec<IpSetId>,
    /// The address is in none of these sets.
    pub not_ip_sets: Vec<IpSetId>,
    /// Address, protocol and port are in each of these sets (services).
    pub ip_port_sets: Vec<IpSetId>,
}

/// All that a rule asks of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Matches {
    /// Families that the rule is for.
    pub families: Families,
    /// The protocol.
    pub protocol: Option<Protocol>,
    /// Any protocol but this.
    pub not_protocol: Option<Protocol>,
    /// ICMP of this type (and code).
    pub icmp: Option<IcmpMatch>,
    /// Not ICMP of this type (and code).
    pub not_icmp: Option<IcmpMatch>,
    /// Where the packet comes from.
    pub src: Side,
    /// Where the packet goes.
    pub dst: Side,
}

impl Matches {
    /// All sets that are named.
    pub fn ip_sets(&self) -> impl Iterator<Item = &IpSetId> {
        [&self.src, &self.dst].into_iter().flat_map(|side| {
            let ports = side.ports.iter().chain(&side.not_ports);
            let named = ports.flat_map(|ports| &ports.named);
            let sets = side.ip_sets.iter().chain(&side.not_ip_sets);
            sets.chain(&side.ip_port_sets).chain(named)
        })
    }
}

/// Where a rule, or a policy, was written.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// Place among the rules of its direction as they were written, from 0. Several calculated rules have the same
    /// where one written rule needs them (Kubernetes). 0 of a policy.
    pub index: usize,
    /// Felix's `rule_id`: stable as long as the rule is.
    pub rule_id: Option<String>,
    /// File, line and column.
    pub at: Option<Span>,
}

impl Origin {
    /// `file:line`, or the rule's id, or nothing.
    pub fn place(&self) -> Option<String> {
        if let Some(at) = &self.at {
            let (line, _) = at.line_and_column();
            return Some(format!("{}:{line}", at.source.path.display()));
        }
        self.rule_id.as_ref().map(|id| format!("rule id {id}"))
    }
}

impl PartialEq for Origin {
    /// The same rule moved to another line is the same.
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index && self.rule_id == other.rule_id
    }
}

impl Eq for Origin {}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it does.
    pub action: Action,
    /// With which packets.
    pub matches: Matches,
    /// Where it was written.
    pub origin: Origin,
}
