//! What a rule matches, in nft's words.
//!
//! nft's rules know no OR between unlike conditions: what asks for one becomes several lines, no two of which match the
//! same packet, so that a `Log` rule logs once.

use ipnet::IpNet;

use super::names;
use super::ruleset::{Members, Set};
use super::sets::{Sets, outermost};
use crate::policy::matching::is_void;
use crate::policy::rule::{
    Families, Family, IcmpMatch, IpSetId, Matches, PortRange, Ports, Protocol, Side,
};

/// Protocols whose headers begin with two ports.
const PORTED: [Protocol; 4] = [
    Protocol::TCP,
    Protocol::UDP,
    Protocol::SCTP,
    Protocol::UDPLITE,
];

/// The lines that together match what a rule matches; none if nothing can.
pub(super) fn lines(matches: &Matches, sets: &Sets) -> Vec<String> {
    let families = [Family::V4, Family::V6].into_iter().filter(|family| {
        matches.families.has(*family)
            && !is_void(&matches.src, *family)
            && !is_void(&matches.dst, *family)
    });
    let families: Vec<Family> = families.collect();
    if families.len() == 2 && matches.families == Families::Any && is_of_no_family(matches) {
        return of_family(matches, Family::V4, sets);
    }
    let of = |family: Family| {
        let word = match family {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        };
        let lines = of_family(matches, family, sets).into_iter();
        lines.map(move |line| format!("meta nfproto {word} {line}"))
    };
    let lines = families.into_iter().flat_map(of);
    lines.map(|line| line.trim_end().to_owned()).collect()
}

/// Whether nothing that is asked for is said otherwise in the other family.
fn is_of_no_family(matches: &Matches) -> bool {
    let side = |side: &Side| side.nets.is_none() && side.not_nets.is_empty();
    matches.icmp.is_none()
        && matches.not_icmp.is_none()
        && matches.ip_sets().next().is_none()
        && side(&matches.src)
        && side(&matches.dst)
}

/// One way to match.
#[derive(Clone, Default)]
struct Way {
    /// Whether the protocol is to have ports; `None`: either.
    ported: Option<bool>,
    parts: Vec<String>,
}

impl Way {
    fn of(ported: Option<bool>, part: impl Into<String>) -> Self {
        Self {
            ported,
            parts: vec![part.into()],
        }
    }

    fn ported(ported: bool) -> Self {
        Self {
            ported: Some(ported),
            parts: Vec::new(),
        }
    }

    /// Both. `None`: they contradict each other.
    fn and(&self, other: &Self) -> Option<Self> {
        let ported = match (self.ported, other.ported) {
            (Some(one), Some(other)) if one != other => return None,
            (one, other) => one.or(other),
        };
        let parts = self.parts.iter().chain(&other.parts).cloned().collect();
        Some(Self { ported, parts })
    }
}

/// Ways, any of which will do. Conditions are added to them.
struct Ways(Vec<Way>);

impl Ways {
    fn and(&mut self, more: &[Way]) {
        let both = |one: &Way| {
            let one = one.clone();
            more.iter().filter_map(move |other| one.and(other))
        };
        self.0 = self.0.iter().flat_map(both).collect();
    }
}

fn of_family(matches: &Matches, family: Family, sets: &Sets) -> Vec<String> {
    let icmp = match family {
        Family::V4 => Protocol::ICMP,
        Family::V6 => Protocol::ICMPV6,
    };
    let asked = matches.icmp.map(|_| icmp);
    let protocol = matches.protocol.or(asked);
    let excluded = matches.not_protocol;
    if asked.is_some_and(|asked| protocol != Some(asked))
        || excluded.is_some() && excluded == protocol
    {
        return Vec::new();
    }
    let mut ways = Ways(vec![Way {
        ported: protocol.map(|protocol| PORTED.contains(&protocol)),
        parts: Vec::new(),
    }]);
    if let Some(wanted) = matches.icmp {
        ways.and(&[Way::of(None, icmp_is(wanted, family))]);
    }
    if let Some(unwanted) = matches.not_icmp {
        let could_be = protocol.is_none_or(|protocol| protocol == icmp) && excluded != Some(icmp);
        if could_be {
            ways.and(&icmp_is_not(unwanted, family, protocol.is_some()));
        }
    }
    for (side, end) in [
        (&matches.src, End::Source),
        (&matches.dst, End::Destination),
    ] {
        let at = At { end, family, sets };
        at.add(side, &mut ways);
    }
    let head = match (protocol, excluded) {
        (Some(protocol), _) => Some(format!("meta l4proto {}", protocol.0)),
        (None, Some(excluded)) => Some(format!("meta l4proto != {}", excluded.0)),
        (None, None) => None,
    };
    let line = |way: Way| {
        let ported = match way.ported.filter(|_| protocol.is_none()) {
            Some(true) => Some(format!("meta l4proto {}", ported())),
            Some(false) => Some(format!("meta l4proto != {}", ported())),
            None => None,
        };
        let all = head.iter().cloned().chain(ported).chain(way.parts);
        all.collect::<Vec<_>>().join(" ")
    };
    ways.0.into_iter().map(line).collect()
}

fn ported() -> String {
    let numbers = PORTED.map(|protocol| protocol.0.to_string());
    format!("{{ {} }}", numbers.join(", "))
}

fn icmp_word(family: Family) -> &'static str {
    match family {
        Family::V4 => "icmp",
        Family::V6 => "icmpv6",
    }
}

fn icmp_is(icmp: IcmpMatch, family: Family) -> String {
    let word = icmp_word(family);
    match icmp.code {
        Some(code) => format!("{word} type {} {word} code {code}", icmp.kind),
        None => format!("{word} type {}", icmp.kind),
    }
}

/// Another protocol, another type, or another code of the type.
fn icmp_is_not(icmp: IcmpMatch, family: Family, is_icmp: bool) -> Vec<Way> {
    let word = icmp_word(family);
    let number = match family {
        Family::V4 => Protocol::ICMP.0,
        Family::V6 => Protocol::ICMPV6.0,
    };
    let mut ways = Vec::new();
    let mut same = String::new();
    if !is_icmp {
        ways.push(Way::of(None, format!("meta l4proto != {number}")));
        same = format!("meta l4proto {number} ");
    }
    let not_ported = Some(false);
    let kind = icmp.kind;
    ways.push(Way::of(not_ported, format!("{same}{word} type != {kind}")));
    if let Some(code) = icmp.code {
        let other_code = format!("{same}{word} type {kind} {word} code != {code}");
        ways.push(Way::of(not_ported, other_code));
    }
    ways
}

#[derive(Clone, Copy)]
enum End {
    Source,
    Destination,
}

/// One side of packets of a family.
struct At<'s> {
    end: End,
    family: Family,
    sets: &'s Sets,
}

impl At<'_> {
    fn address(&self) -> &'static str {
        match (self.family, self.end) {
            (Family::V4, End::Source) => "ip saddr",
            (Family::V4, End::Destination) => "ip daddr",
            (Family::V6, End::Source) => "ip6 saddr",
            (Family::V6, End::Destination) => "ip6 daddr",
        }
    }

    fn port(&self) -> &'static str {
        match self.end {
            End::Source => "th sport",
            End::Destination => "th dport",
        }
    }

    fn add(&self, side: &Side, ways: &mut Ways) {
        if let Some(nets) = &side.nets {
            ways.and(&[Way::of(None, self.in_nets("", nets))]);
        }
        if !side.not_nets.is_empty() {
            ways.and(&[Way::of(None, self.in_nets("!= ", &side.not_nets))]);
        }
        for id in side.ip_sets.iter().chain(&side.ip_port_sets) {
            ways.and(&self.holds(id));
        }
        for id in &side.not_ip_sets {
            ways.and(&self.lacks(id));
        }
        if let Some(ports) = &side.ports {
            ways.and(&self.one_of(ports));
        }
        if let Some(ports) = &side.not_ports {
            if !ports.ranges.is_empty() {
                ways.and(&[self.not_in_ranges(&ports.ranges)]);
            }
            for id in &ports.named {
                ways.and(&self.lacks(id));
            }
        }
    }

    fn in_nets(&self, not: &str, nets: &[IpNet]) -> String {
        let nets = outermost(nets, self.family);
        format!("{} {not}{}", self.address(), list(nets.iter()))
    }

    fn in_ranges(&self, ranges: &[PortRange]) -> Option<Way> {
        let ranges = merged(ranges);
        let part = format!("{} {}", self.port(), list(ranges.iter()));
        (!ranges.is_empty()).then(|| Way::of(Some(true), part))
    }

    fn not_in_ranges(&self, ranges: &[PortRange]) -> Way {
        let ranges = merged(ranges);
        let part = format!("{} != {}", self.port(), list(ranges.iter()));
        if ranges.is_empty() {
            Way::ported(true)
        } else {
            Way::of(Some(true), part)
        }
    }

    /// A number, or a member of a set: of several each way leaves out those before it.
    fn one_of(&self, ports: &Ports) -> Vec<Way> {
        let mut all = Vec::new();
        let mut others = Ways(vec![Way::default()]);
        if let Some(way) = self.in_ranges(&ports.ranges) {
            all.push(way);
            others.and(&[Way::ported(false), self.not_in_ranges(&ports.ranges)]);
        }
        for id in &ports.named {
            let mut held = Ways(others.0.clone());
            held.and(&self.holds(id));
            all.append(&mut held.0);
            // A set that is not known holds nothing: those after it are asked all the same.
            if self.sets.contains_key(id) {
                others.and(&self.lacks(id));
            }
        }
        all
    }

    fn holds(&self, id: &IpSetId) -> Vec<Way> {
        let part = self.part(id).into_iter();
        let way = |part: &Set| Way::of(has_ports(part).then_some(true), self.in_set("", id, part));
        part.map(way).collect()
    }

    /// What has no port is in no set of ports. A set that is not known neither holds nor lacks anything.
    fn lacks(&self, id: &IpSetId) -> Vec<Way> {
        let Some(part) = self.part(id) else {
            return Vec::new();
        };
        let not_in = self.in_set("!= ", id, part);
        if has_ports(part) {
            vec![Way::ported(false), Way::of(Some(true), not_in)]
        } else {
            vec![Way::of(None, not_in)]
        }
    }

    fn part(&self, id: &IpSetId) -> Option<&Set> {
        Some(self.sets.get(id)?.part(self.family))
    }

    fn in_set(&self, not: &str, id: &IpSetId, part: &Set) -> String {
        let (name, address) = (names::set(id, part), self.address());
        if has_ports(part) {
            format!("{address} . meta l4proto . {} {not}@{name}", self.port())
        } else {
            format!("{address} {not}@{name}")
        }
    }
}

const fn has_ports(part: &Set) -> bool {
    matches!(part.members, Members::Ports(_))
}

/// One thing, or several between braces.
fn list<T: Says>(things: impl Iterator<Item = T>) -> String {
    let things: Vec<_> = things.map(|thing| thing.say()).collect();
    match things.as_slice() {
        [one] => one.clone(),
        several => format!("{{ {} }}", several.join(", ")),
    }
}

trait Says {
    fn say(&self) -> String;
}

impl Says for &IpNet {
    fn say(&self) -> String {
        super::ruleset::net(self)
    }
}

impl Says for &PortRange {
    fn say(&self) -> String {
        if self.first == self.last {
            self.first.to_string()
        } else {
            format!("{}-{}", self.first, self.last)
        }
    }
}

/// Ranges in order, those that meet made one. Ranges that are empty are left out.
fn merged(ranges: &[PortRange]) -> Vec<PortRange> {
    let mut ranges: Vec<_> = ranges
        .iter()
        .filter(|range| range.first <= range.last)
        .copied()
        .collect();
    ranges.sort_unstable();
    let mut merged: Vec<PortRange> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.first <= last.last.saturating_add(1) => {
                last.last = last.last.max(range.last);
            }
            _ => merged.push(range),
        }
    }
    merged
}
