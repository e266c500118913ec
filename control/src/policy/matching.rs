//! Whether a rule matches a packet: each field in turn, as Calico's reference renderer has it.

use std::net::IpAddr;

use ipnet::IpNet;

use super::model::{IpPort, IpSet, Model};
use super::packet::Packet;
use super::rule::{Family, IcmpMatch, IpSetId, Matches, Ports, Protocol, Side};

/// Whether all that a rule asks for holds for a packet.
pub fn rule_matches(model: &Model, rule: &Matches, packet: &Packet) -> bool {
    let family = packet.family();
    if !rule.families.has(family) || is_void(&rule.src, family) || is_void(&rule.dst, family) {
        return false;
    }
    if rule
        .protocol
        .is_some_and(|wanted| wanted != packet.protocol)
    {
        return false;
    }
    if rule.not_protocol == Some(packet.protocol) {
        return false;
    }
    if rule.icmp.is_some_and(|icmp| !icmp_matches(icmp, packet)) {
        return false;
    }
    if rule.not_icmp.is_some_and(|icmp| icmp_matches(icmp, packet)) {
        return false;
    }
    let (src, dst) = (End::source(packet), End::destination(packet));
    side_matches(model, &rule.src, &src) && side_matches(model, &rule.dst, &dst)
}

/// One end of a packet.
struct End {
    address: IpAddr,
    protocol: Protocol,
    port: Option<u16>,
}

impl End {
    fn source(packet: &Packet) -> Self {
        Self {
            address: packet.src,
            protocol: packet.protocol,
            port: packet.ports.map(|(src, _)| src),
        }
    }

    fn destination(packet: &Packet) -> Self {
        Self {
            address: packet.dst,
            protocol: packet.protocol,
            port: packet.ports.map(|(_, dst)| dst),
        }
    }
}

/// True if a side's prefixes make the whole rule void in a family: a list that has none of this family, or that
/// excludes all of it.
pub(crate) fn is_void(side: &Side, family: Family) -> bool {
    let none_of = |nets: &[IpNet]| nets.iter().all(|net| Family::of_net(*net) != family);
    let positive = side.nets.as_ref().is_some_and(|nets| none_of(nets));
    let negative = !side.not_nets.is_empty() && none_of(&side.not_nets);
    let everything = |net: &IpNet| net.prefix_len() == 0 && Family::of_net(*net) == family;
    positive || negative || side.not_nets.iter().any(everything)
}

fn icmp_matches(icmp: IcmpMatch, packet: &Packet) -> bool {
    let protocol = match packet.family() {
        Family::V4 => Protocol::ICMP,
        Family::V6 => Protocol::ICMPV6,
    };
    packet.protocol == protocol
        && packet.icmp.is_some_and(|(kind, code)| {
            kind == icmp.kind && icmp.code.is_none_or(|wanted| wanted == code)
        })
}

fn side_matches(model: &Model, side: &Side, end: &End) -> bool {
    let in_one_of = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&end.address));
    let holds = |id: &IpSetId| set_holds(model, id, end);
    let lacks = |id: &IpSetId| set_lacks(model, id, end);
    side.nets.as_ref().is_none_or(|nets| in_one_of(nets))
        && !in_one_of(&side.not_nets)
        && side.ip_sets.iter().all(holds)
        && side.not_ip_sets.iter().all(lacks)
        && side.ip_port_sets.iter().all(holds)
        && side
            .ports
            .as_ref()
            .is_none_or(|ports| port_is_one_of(model, ports, end))
        && side
            .not_ports
            .as_ref()
            .is_none_or(|ports| port_is_none_of(model, ports, end))
}

fn port_is_one_of(model: &Model, ports: &Ports, end: &End) -> bool {
    let by_number = |port: u16| ports.ranges.iter().any(|range| range.contains(port));
    end.port.is_some_and(by_number) || ports.named.iter().any(|id| set_holds(model, id, end))
}

/// A list of numbers is about headers with ports only, also where it says which the port is not.
fn port_is_none_of(model: &Model, ports: &Ports, end: &End) -> bool {
    let other_number = match end.port {
        Some(port) => !ports.ranges.iter().any(|range| range.contains(port)),
        None => ports.ranges.is_empty(),
    };
    other_number && ports.named.iter().all(|id| set_lacks(model, id, end))
}

/// True if a set is known and has the end as a member.
fn set_holds(model: &Model, id: &IpSetId, end: &End) -> bool {
    model.ip_sets.get(id).is_some_and(|set| has(set, end))
}

/// True if a set is known and does not have the end as a member. What is not known is neither: a rule that names
/// it matches nothing.
fn set_lacks(model: &Model, id: &IpSetId, end: &End) -> bool {
    model.ip_sets.get(id).is_some_and(|set| !has(set, end))
}

fn has(set: &IpSet, end: &End) -> bool {
    match set {
        IpSet::Nets(nets) => nets.iter().any(|net| net.contains(&end.address)),
        IpSet::IpPorts(members) => end.port.is_some_and(|port| {
            members.contains(&IpPort {
                address: end.address,
                protocol: end.protocol,
                port,
            })
        }),
    }
}
