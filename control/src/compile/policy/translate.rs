//! A rule of the model as rules of the classifier.

use flowtable::acl::{self, Net, RuleId, SetId};
use ipnet::IpNet;

use super::sets::{IpSets, net};
use crate::policy::rule::{
    Action, Families, Family, IcmpMatch, IpSetId, PortRange, Ports, Protocol, Rule, Side,
};

/// The rule can not be said in the classifier's terms.
#[derive(Debug)]
pub(super) struct Unsupported;

/// The rules that together match what `rule` matches: none if nothing can match it.
pub(super) fn rule(rule: &Rule, id: RuleId, sets: &IpSets) -> Result<Vec<acl::Rule>, Unsupported> {
    let matches = &rule.matches;
    let family = match matches.families {
        Families::Any => None,
        Families::Only(Family::V4) => Some(acl::Family::V4),
        Families::Only(Family::V6) => Some(acl::Family::V6),
        Families::Never => return Ok(Vec::new()),
    };
    let (Some(source), Some(destination)) = (side(&matches.src, sets), side(&matches.dst, sets))
    else {
        return Ok(Vec::new());
    };
    let plain = acl::Rule {
        id,
        action: match rule.action {
            Action::Allow => acl::Action::Allow,
            Action::Deny => acl::Action::Deny,
            Action::Log => acl::Action::Log,
            Action::Pass => acl::Action::Pass,
        },
        family,
        protocol: matches.protocol.map(|protocol| protocol.0),
        not_protocol: matches.not_protocol.map(|protocol| protocol.0),
        source,
        destination,
        icmp: matches.icmp.map(icmp),
        not_icmp: None,
    };
    let Some(excluded) = matches.not_icmp else {
        return Ok(vec![plain]);
    };
    let mut all = Vec::new();
    for family in [acl::Family::V4, acl::Family::V6] {
        if plain.family.is_none_or(|own| own == family) {
            all.extend(not_icmp(&plain, family, excluded)?);
        }
    }
    Ok(all)
}

/// What is asked of ICMP types holds for all that is not ICMP, too; the classifier takes it for ICMP only.
fn not_icmp(
    plain: &acl::Rule,
    family: acl::Family,
    excluded: IcmpMatch,
) -> Result<Vec<acl::Rule>, Unsupported> {
    let protocol = match family {
        acl::Family::V4 => Protocol::ICMP.0,
        acl::Family::V6 => Protocol::ICMPV6.0,
    };
    let plain = acl::Rule {
        family: Some(family),
        ..plain.clone()
    };
    let of_icmp = acl::Rule {
        protocol: Some(protocol),
        not_icmp: Some(icmp(excluded)),
        ..plain.clone()
    };
    let of_others = acl::Rule {
        not_protocol: Some(protocol),
        ..plain.clone()
    };
    Ok(match (plain.protocol, plain.not_protocol) {
        (Some(own), _) if own == protocol => vec![of_icmp],
        (Some(_), _) => vec![plain],
        (None, None) => vec![of_icmp, of_others],
        (None, Some(other)) if other == protocol => vec![of_others],
        (None, Some(_)) => return Err(Unsupported),
    })
}

fn icmp(icmp: IcmpMatch) -> acl::Icmp {
    acl::Icmp {
        kind: icmp.kind,
        code: icmp.code,
    }
}

/// A side; none if nothing can match it.
fn side(side: &Side, sets: &IpSets) -> Option<acl::Side> {
    if side.nets.as_ref().is_some_and(Vec::is_empty) {
        return None;
    }
    let numbers = |ids: &[IpSetId]| -> Option<Vec<SetId>> {
        // What is not known is neither empty nor everything.
        ids.iter().map(|id| sets.number(id)).collect()
    };
    let nets = |nets: &[IpNet]| -> Vec<Net> { nets.iter().filter_map(|it| net(*it)).collect() };
    let ranges = |ports: &Ports| -> Vec<acl::PortRange> {
        let range = |range: &PortRange| acl::PortRange {
            first: range.first,
            last: range.last,
        };
        ports.ranges.iter().map(range).collect()
    };
    let mut done = acl::Side::default();
    if let Some(ports) = &side.ports {
        done.ports = ranges(ports);
        // Of the sets one that is known is enough.
        let known = ports.named.iter().filter_map(|id| sets.number(id));
        done.named_ports = known.collect();
        if done.ports.is_empty() && done.named_ports.is_empty() {
            return None;
        }
    }
    if let Some(ports) = &side.not_ports {
        done.not_ports = ranges(ports);
        done.not_named_ports = numbers(&ports.named)?;
    }
    Some(acl::Side {
        nets: nets(side.nets.as_deref().unwrap_or_default()),
        not_nets: nets(&side.not_nets),
        sets: numbers(&side.ip_sets)?,
        not_sets: numbers(&side.not_ip_sets)?,
        port_sets: numbers(&side.ip_port_sets)?,
        ..done
    })
}
