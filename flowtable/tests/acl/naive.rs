//! The judge: the first rule that matches, found by asking every rule in order. Slow and obviously right.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use flowtable::acl::{
    Action, ChainSpec, Family, L4, Member, Net, Policy, Reason, Rule, RuleId, SetId, Side,
    TierDefault, Tuple,
};
use flowtable::lpm::{Prefix4, Prefix6};

/// A packet of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Packet {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) l4: L4,
}

/// IP sets, as lists of members.
pub(crate) type NaiveSets = BTreeMap<SetId, HashSet<Member>>;

/// What a chain says: whether the packet may go on, who decided, and the log rules before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NaiveVerdict {
    pub(crate) allow: bool,
    pub(crate) reason: Reason,
    pub(crate) logs: Vec<RuleId>,
}

impl Packet {
    pub(crate) fn v4(self) -> Option<Tuple<u32>> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Some(Tuple {
                source: source.to_bits(),
                destination: destination.to_bits(),
                protocol: self.protocol,
                l4: self.l4,
            }),
            _ => None,
        }
    }

    pub(crate) fn v6(self) -> Option<Tuple<u128>> {
        match (self.source, self.destination) {
            (IpAddr::V6(source), IpAddr::V6(destination)) => Some(Tuple {
                source: source.to_bits(),
                destination: destination.to_bits(),
                protocol: self.protocol,
                l4: self.l4,
            }),
            _ => None,
        }
    }

    fn family(self) -> Family {
        match self.source {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    /// Address and port of an end; the port if it has ports.
    fn ends(self) -> [(IpAddr, Option<u16>); 2] {
        let (source, destination) = match self.l4 {
            L4::Ports {
                source,
                destination,
            } => (Some(source), Some(destination)),
            L4::Icmp { .. } | L4::Other => (None, None),
        };
        [(self.source, source), (self.destination, destination)]
    }

    fn icmp(self) -> Option<(u8, u8)> {
        let own = match self.family() {
            Family::V4 => 1,
            Family::V6 => 58,
        };
        match self.l4 {
            L4::Icmp { kind, code } if self.protocol == own => Some((kind, code)),
            _ => None,
        }
    }
}

fn net_holds(net: Net, addr: IpAddr) -> bool {
    match (net, addr) {
        (Net::V4(net), IpAddr::V4(addr)) => net.contains(addr.to_bits()),
        (Net::V6(net), IpAddr::V6(addr)) => net.contains(addr.to_bits()),
        _ => false,
    }
}

/// Whether `addr` is in the set. Members are few lengths, so not every member is asked.
pub(crate) fn set_holds(sets: &NaiveSets, set: SetId, addr: IpAddr) -> bool {
    let Some(members) = sets.get(&set) else {
        return false;
    };
    match addr {
        IpAddr::V4(addr) => (0..=32).any(|len| {
            let net = Prefix4::containing(addr.to_bits(), len).unwrap();
            members.contains(&Member::Net(Net::V4(net)))
        }),
        IpAddr::V6(addr) => (0..=128).any(|len| {
            let net = Prefix6::containing(addr.to_bits(), len).unwrap();
            members.contains(&Member::Net(Net::V6(net)))
        }),
    }
}

pub(crate) fn port_set_holds(
    sets: &NaiveSets,
    set: SetId,
    addr: IpAddr,
    protocol: u8,
    port: u16,
) -> bool {
    sets.get(&set).is_some_and(|members| {
        members.contains(&Member::Port {
            addr,
            protocol,
            port,
        })
    })
}

fn side_matches(
    side: &Side,
    sets: &NaiveSets,
    protocol: u8,
    (addr, port): (IpAddr, Option<u16>),
) -> bool {
    let in_port_set =
        |set: &SetId| port.is_some_and(|port| port_set_holds(sets, *set, addr, protocol, port));
    let in_range = |ranges: &[flowtable::acl::PortRange]| {
        port.is_some_and(|port| {
            ranges
                .iter()
                .any(|range| range.first <= port && port <= range.last)
        })
    };
    let asks_for_ports = !side.ports.is_empty()
        || !side.not_ports.is_empty()
        || !side.named_ports.is_empty()
        || !side.port_sets.is_empty();
    if asks_for_ports && port.is_none() {
        return false;
    }
    if !side.nets.is_empty() && !side.nets.iter().any(|net| net_holds(*net, addr)) {
        return false;
    }
    if side.not_nets.iter().any(|net| net_holds(*net, addr)) {
        return false;
    }
    let asks_for_a_port = !side.ports.is_empty() || !side.named_ports.is_empty();
    if asks_for_a_port && !(in_range(&side.ports) || side.named_ports.iter().any(in_port_set)) {
        return false;
    }
    if in_range(&side.not_ports) || side.not_named_ports.iter().any(in_port_set) {
        return false;
    }
    side.port_sets.iter().all(in_port_set)
        && side.sets.iter().all(|set| set_holds(sets, *set, addr))
        && !side.not_sets.iter().any(|set| set_holds(sets, *set, addr))
}

/// Whether a list has prefixes, but none of the family: the whole rule is absent then.
fn lost(nets: &[Net], family: Family) -> bool {
    !nets.is_empty() && !nets.iter().any(|net| net.family() == family)
}

pub(crate) fn rule_matches(rule: &Rule, sets: &NaiveSets, packet: Packet) -> bool {
    let family = packet.family();
    if rule.family.is_some_and(|own| own != family) {
        return false;
    }
    for side in [&rule.source, &rule.destination] {
        if lost(&side.nets, family) || lost(&side.not_nets, family) {
            return false;
        }
    }
    if rule.protocol.is_some_and(|own| own != packet.protocol)
        || rule.not_protocol.is_some_and(|own| own == packet.protocol)
    {
        return false;
    }
    let icmp = |asked: flowtable::acl::Icmp| {
        packet
            .icmp()
            .map(|(kind, code)| asked.kind == kind && asked.code.is_none_or(|own| own == code))
    };
    if rule.icmp.is_some_and(|asked| icmp(asked) != Some(true))
        || rule
            .not_icmp
            .is_some_and(|asked| icmp(asked) != Some(false))
    {
        return false;
    }
    let [source, destination] = packet.ends();
    side_matches(&rule.source, sets, packet.protocol, source)
        && side_matches(&rule.destination, sets, packet.protocol, destination)
}

enum Outcome {
    Decided(bool, RuleId),
    Passed,
    NoMatch,
}

fn ask<'a>(
    policies: impl IntoIterator<Item = &'a Policy>,
    sets: &NaiveSets,
    packet: Packet,
    logs: &mut Vec<RuleId>,
) -> Outcome {
    for rule in policies.into_iter().flat_map(|policy| &policy.rules) {
        if !rule_matches(rule, sets, packet) {
            continue;
        }
        match rule.action {
            Action::Allow => return Outcome::Decided(true, rule.id),
            Action::Deny => return Outcome::Decided(false, rule.id),
            Action::Pass => return Outcome::Passed,
            Action::Log => logs.push(rule.id),
        }
    }
    Outcome::NoMatch
}

pub(crate) fn classify(spec: &ChainSpec, sets: &NaiveSets, packet: Packet) -> NaiveVerdict {
    let mut logs = Vec::new();
    let (allow, reason) = decide(spec, sets, packet, &mut logs);
    NaiveVerdict {
        allow,
        reason,
        logs,
    }
}

fn decide(
    spec: &ChainSpec,
    sets: &NaiveSets,
    packet: Packet,
    logs: &mut Vec<RuleId>,
) -> (bool, Reason) {
    for (number, tier) in spec.tiers.iter().enumerate() {
        if tier.policies.is_empty() {
            continue;
        }
        match ask(
            tier.policies.iter().map(|policy| &**policy),
            sets,
            packet,
            logs,
        ) {
            Outcome::Decided(allow, rule) => return (allow, Reason::Rule(rule)),
            Outcome::Passed => {}
            Outcome::NoMatch if tier.default == TierDefault::Pass => {}
            Outcome::NoMatch => {
                return (false, Reason::TierDefault(u16::try_from(number).unwrap()));
            }
        }
    }
    match ask(
        spec.profiles.iter().map(|policy| &**policy),
        sets,
        packet,
        logs,
    ) {
        Outcome::Decided(allow, rule) => (allow, Reason::Rule(rule)),
        Outcome::Passed | Outcome::NoMatch => (spec.allow_at_end, Reason::End),
    }
}
