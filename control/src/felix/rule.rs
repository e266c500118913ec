//! Rules, field by field.

use super::parse::{self, Refusal};
use super::proto::{self, Icmp, IcmpTypeAndCode, NotIcmp, NumberOrName};
use crate::config::decode::digits;
use crate::policy::model::Rules;
use crate::policy::rule::{
    Action, Families, Family, IcmpMatch, IpSetId, Matches, Origin, PortRange, Ports, Protocol,
    Rule, Side,
};

/// The rules of both directions.
pub(super) fn rules(inbound: &[proto::Rule], outbound: &[proto::Rule]) -> Result<Rules, Refusal> {
    Ok(Rules {
        inbound: direction(inbound, "inbound")?,
        outbound: direction(outbound, "outbound")?,
    })
}

/// Rules that let nothing pass.
pub(super) fn closed() -> Rules {
    let deny = Rule {
        action: Action::Deny,
        matches: Matches::default(),
        origin: Origin::default(),
    };
    Rules {
        inbound: vec![deny.clone()],
        outbound: vec![deny],
    }
}

fn direction(rules: &[proto::Rule], which: &str) -> Result<Vec<Rule>, Refusal> {
    let one = |(index, rule)| {
        self::rule(index, rule).map_err(|why| format!("{which} rule {}: {why}", index + 1))
    };
    rules.iter().enumerate().map(one).collect()
}

fn rule(index: usize, rule: &proto::Rule) -> Result<Rule, Refusal> {
    let families = match rule.ip_version {
        0 => Families::Any,
        4 => Families::Only(Family::V4),
        6 => Families::Only(Family::V6),
        other => return Err(format!("IP version {other}")),
    };
    let protocol = rule.protocol.as_ref().map(protocol).transpose()?.flatten();
    let not_protocol = rule.not_protocol.as_ref().map(self::protocol);
    let not_protocol = not_protocol.transpose()?.flatten();
    if rule.not_icmp.is_some() && protocol.is_none() && not_protocol.is_some() {
        return Err("ICMP types are excluded beside a protocol".to_owned());
    }
    let by_name = protocol.map_or(Families::Any, |(_, families)| families);
    Ok(Rule {
        action: Action::of_felix(&rule.action),
        matches: Matches {
            families: families.and(by_name),
            protocol: protocol.map(|(protocol, _)| protocol),
            not_protocol: not_protocol.map(|(protocol, _)| protocol),
            icmp: rule.icmp.as_ref().map(icmp).transpose()?,
            not_icmp: rule.not_icmp.as_ref().map(not_icmp).transpose()?,
            src: Side {
                nets: some_nets(&rule.src_net)?,
                not_nets: nets(&rule.not_src_net)?,
                ports: ports(&rule.src_ports, &rule.src_named_port_ip_set_ids)?,
                not_ports: ports(&rule.not_src_ports, &rule.not_src_named_port_ip_set_ids)?,
                ip_sets: sets(&rule.src_ip_set_ids),
                not_ip_sets: sets(&rule.not_src_ip_set_ids),
                ip_port_sets: Vec::new(),
            },
            dst: Side {
                nets: some_nets(&rule.dst_net)?,
                not_nets: nets(&rule.not_dst_net)?,
                ports: ports(&rule.dst_ports, &rule.dst_named_port_ip_set_ids)?,
                not_ports: ports(&rule.not_dst_ports, &rule.not_dst_named_port_ip_set_ids)?,
                ip_sets: sets(&rule.dst_ip_set_ids),
                not_ip_sets: sets(&rule.not_dst_ip_set_ids),
                ip_port_sets: sets(&rule.dst_ip_port_set_ids),
            },
        },
        origin: Origin {
            index,
            rule_id: (!rule.rule_id.is_empty()).then(|| rule.rule_id.clone()),
            at: None,
        },
    })
}

/// A protocol, and what its name says of the family; an empty message asks for none.
fn protocol(protocol: &proto::Protocol) -> Result<Option<(Protocol, Families)>, Refusal> {
    let name = match &protocol.number_or_name {
        None => return Ok(None),
        Some(NumberOrName::Number(number)) => {
            return Ok(Some((Protocol(byte(*number, "protocol")?), Families::Any)));
        }
        Some(NumberOrName::Name(name)) => name,
    };
    if let Some(number) = digits(name) {
        return Ok(Some((Protocol(number), Families::Any)));
    }
    let protocol = Protocol::by_name(name).ok_or_else(|| format!("unknown protocol {name:?}"))?;
    let families = match protocol {
        Protocol::ICMP => Families::Only(Family::V4),
        Protocol::ICMPV6 => Families::Only(Family::V6),
        _ => Families::Any,
    };
    Ok(Some((protocol, families)))
}

fn byte(number: i32, what: &str) -> Result<u8, Refusal> {
    u8::try_from(number).map_err(|_| format!("{what} {number}, which is not within 0 to 255"))
}

fn icmp(icmp: &Icmp) -> Result<IcmpMatch, Refusal> {
    match icmp {
        Icmp::Type(kind) => icmp_type(*kind),
        Icmp::TypeCode(both) => icmp_type_code(*both),
    }
}

fn not_icmp(icmp: &NotIcmp) -> Result<IcmpMatch, Refusal> {
    match icmp {
        NotIcmp::Type(kind) => icmp_type(*kind),
        NotIcmp::TypeCode(both) => icmp_type_code(*both),
    }
}

fn icmp_type(kind: i32) -> Result<IcmpMatch, Refusal> {
    Ok(IcmpMatch {
        kind: byte(kind, "ICMP type")?,
        code: None,
    })
}

fn icmp_type_code(both: IcmpTypeAndCode) -> Result<IcmpMatch, Refusal> {
    Ok(IcmpMatch {
        kind: byte(both.kind, "ICMP type")?,
        code: Some(byte(both.code, "ICMP code")?),
    })
}

fn nets(texts: &[String]) -> Result<Vec<ipnet::IpNet>, Refusal> {
    parse::nets(texts, |text| parse::net(text).map(|net| net.trunc()))
}

/// A list that is not there asks for nothing.
fn some_nets(texts: &[String]) -> Result<Option<Vec<ipnet::IpNet>>, Refusal> {
    (!texts.is_empty()).then(|| nets(texts)).transpose()
}

fn sets(ids: &[String]) -> Vec<IpSetId> {
    ids.iter().map(|id| id.as_str().into()).collect()
}

fn ports(ranges: &[proto::PortRange], named: &[String]) -> Result<Option<Ports>, Refusal> {
    if ranges.is_empty() && named.is_empty() {
        return Ok(None);
    }
    let one = |range: &proto::PortRange| {
        let ends = (u16::try_from(range.first), u16::try_from(range.last));
        match ends {
            (Ok(first), Ok(last)) if first <= last => Ok(PortRange { first, last }),
            _ => Err(format!("ports {} to {}", range.first, range.last)),
        }
    };
    Ok(Some(Ports {
        ranges: ranges.iter().map(one).collect::<Result<_, _>>()?,
        named: sets(named),
    }))
}
