//! What a rule says, in numbers: the input of the compiler.

use std::sync::Arc;

use super::Family;
use crate::lpm::{Prefix4, Prefix6};

/// The number of a rule, chosen by the control plane: what counters and explanations are kept by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(pub u32);

/// The number of an IP set, chosen by the control plane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetId(pub u32);

impl SetId {
    /// The number of no set: nothing is ever a member of it.
    pub const NONE: Self = Self(u32::MAX);
}

/// What a rule does with the packets it matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Action {
    /// Ends the chain: the packet may go on.
    Allow,
    /// Ends the chain: the packet is dropped.
    #[default]
    Deny,
    /// Ends the tier: the next tier decides, after the last tier the profiles.
    Pass,
    /// Is recorded, and the next rule is asked.
    Log,
}

/// A prefix of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Net {
    /// An IPv4 prefix.
    V4(Prefix4),
    /// An IPv6 prefix.
    V6(Prefix6),
}

impl Net {
    /// The family of its addresses.
    #[must_use]
    pub const fn family(self) -> Family {
        match self {
            Self::V4(_) => Family::V4,
            Self::V6(_) => Family::V6,
        }
    }
}

/// Ports from `first` to `last`, both included. Holds none if `first` is above `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    /// The lowest port.
    pub first: u16,
    /// The highest port.
    pub last: u16,
}

impl PortRange {
    /// The range of one port.
    #[must_use]
    pub const fn one(port: u16) -> Self {
        Self {
            first: port,
            last: port,
        }
    }

    /// Whether `port` lies in the range.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

/// An ICMP or ICMPv6 type, and perhaps a code of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Icmp {
    /// The type.
    pub kind: u8,
    /// The code; `None` is any.
    pub code: Option<u8>,
}

impl Icmp {
    /// Whether a packet of type `kind` and code `code` is meant.
    #[must_use]
    pub fn matches(self, kind: u8, code: u8) -> bool {
        self.kind == kind && self.code.is_none_or(|own| own == code)
    }
}

/// What a rule asks of one side of a packet, its source or its destination. An empty list asks nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// The address is in one of them. A list without a prefix of the packet's family makes the rule absent.
    pub nets: Vec<Net>,
    /// The address is in none of them. A list without a prefix of the packet's family makes the rule absent.
    pub not_nets: Vec<Net>,
    /// The port is in one of them, or address, protocol and port in one of `named_ports`.
    pub ports: Vec<PortRange>,
    /// The port is in none of them.
    pub not_ports: Vec<PortRange>,
    /// The address is in every one of these sets.
    pub sets: Vec<SetId>,
    /// The address is in none of these sets.
    pub not_sets: Vec<SetId>,
    /// Sets of address, protocol and port; see `ports`.
    pub named_ports: Vec<SetId>,
    /// Address, protocol and port are in none of these sets.
    pub not_named_ports: Vec<SetId>,
    /// Address, protocol and port are in every one of these sets.
    pub port_sets: Vec<SetId>,
}

impl Side {
    /// Whether it asks for ports, so that only a packet that has ports can match.
    #[must_use]
    pub fn asks_for_ports(&self) -> bool {
        !(self.ports.is_empty()
            && self.not_ports.is_empty()
            && self.named_ports.is_empty()
            && self.port_sets.is_empty())
    }
}

/// A rule: everything that it asks must hold.
///
/// What is asked of ports, positive or negated, holds only for packets that have ports, but for `not_named_ports`, which are sets:
/// what has no port is in none (`! --match-set` in Calico's rules). What is asked of
/// ICMP only for packets that are ICMP (IPv4) or ICMPv6 (IPv6).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Its number in verdicts.
    pub id: RuleId,
    /// What it does.
    pub action: Action,
    /// The family of its packets; `None` is both.
    pub family: Option<Family>,
    /// The protocol.
    pub protocol: Option<u8>,
    /// The protocol is another than this.
    pub not_protocol: Option<u8>,
    /// What is asked of the source.
    pub source: Side,
    /// What is asked of the destination.
    pub destination: Side,
    /// The ICMP type, perhaps with a code.
    pub icmp: Option<Icmp>,
    /// The ICMP type, or this type with this code, is another.
    pub not_icmp: Option<Icmp>,
}

impl Rule {
    /// Whether the rule can match packets of `family` at all.
    pub(super) fn is_present(&self, family: Family) -> bool {
        let lost = |nets: &[Net]| !nets.is_empty() && nets.iter().all(|net| net.family() != family);
        self.family.is_none_or(|own| own == family)
            && [&self.source, &self.destination]
                .iter()
                .all(|side| !lost(&side.nets) && !lost(&side.not_nets))
    }
}

/// The rules of one policy or profile in one direction, in order.
///
/// Compiled parts are shared between chains by the identity of this value: hand out clones of one [`Arc`],
/// and make a new one when a rule changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The rules, the first asked first.
    pub rules: Vec<Rule>,
}

/// What a tier does with packets that none of its rules decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TierDefault {
    /// They are dropped.
    #[default]
    Deny,
    /// The next tier decides.
    Pass,
}

/// A tier's policies that apply to an endpoint in one direction, without staged ones.
#[derive(Clone, Debug, Default)]
pub struct Tier {
    /// In order. A tier without any is skipped, whatever its default. Endpoints that apply the same
    /// policies should share one list: a list that is known costs nothing to compile.
    pub policies: Arc<[Arc<Policy>]>,
    /// What happens when none of its rules decides.
    pub default: TierDefault,
}

/// What an endpoint applies in one direction.
#[derive(Clone, Debug, Default)]
pub struct ChainSpec {
    /// The tiers, in order.
    pub tiers: Vec<Tier>,
    /// The profiles, asked after the last tier.
    pub profiles: Arc<[Arc<Policy>]>,
    /// Whether a packet is allowed that nothing decided. Endpoints' chains deny it; a host endpoint's
    /// pre-DNAT and forward chains let it go on.
    pub allow_at_end: bool,
}
