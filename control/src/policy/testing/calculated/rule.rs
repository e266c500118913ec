//! Rules, field by field as in Felix's `Rule` message.

use crate::config::decode::{self, Context, Fields};
use crate::config::yaml::{Node, Value};
use crate::policy::rule::{
    Action, Families, Family, IcmpMatch, IpSetId, Matches, Origin, PortRange, Ports, Protocol,
    Rule, Side,
};

/// One rule. Its place in the list is not known here.
pub(super) fn rule(node: &Node, cx: &mut Context<'_>) -> Option<Rule> {
    let mut fields = Fields::open(node, "a rule", cx)?;
    let actions = [
        ("allow", Action::Allow),
        ("deny", Action::Deny),
        ("log", Action::Log),
        ("pass", Action::Pass),
        ("next-tier", Action::Pass),
    ];
    let action = fields.get("action", cx, decode::choice(&actions, false));
    let versions = |node: &Node, cx: &mut Context<'_>| match decode::number(0..=6u8)(node, cx)? {
        0 => Some(Families::Any),
        4 => Some(Families::Only(Family::V4)),
        6 => Some(Families::Only(Family::V6)),
        _ => {
            cx.error(&node.at, "no such IP version", "must be 0, 4 or 6");
            None
        }
    };
    let families = fields.get("ip_version", cx, versions);
    let protocol = fields.get("protocol", cx, protocol);
    let not_protocol = fields.get("not_protocol", cx, self::protocol);
    let icmp_field = fields.get("icmp", cx, icmp);
    let not_icmp = fields.get("not_icmp", cx, icmp);
    let rule_id = fields.get("rule_id", cx, decode::name);
    let src = side(&mut fields, &SRC, cx);
    let dst = side(&mut fields, &DST, cx);
    fields.accept(&[
        "metadata",
        "http_match",
        "src_service_account_match",
        "dst_service_account_match",
    ]);
    fields.finish(cx);
    let families = families.map(|families| families.value).unwrap_or_default();
    // A protocol's name says its family, too.
    let by_name = protocol
        .as_ref()
        .map_or(Families::Any, |protocol| protocol.value.1);
    Some(Rule {
        action: action.map_or(Action::Allow, |action| action.value),
        matches: Matches {
            families: families.and(by_name),
            protocol: protocol.map(|protocol| protocol.value.0),
            not_protocol: not_protocol.map(|protocol| protocol.value.0),
            icmp: icmp_field.map(|icmp| icmp.value),
            not_icmp: not_icmp.map(|icmp| icmp.value),
            src,
            dst,
        },
        origin: Origin {
            index: 0,
            rule_id: rule_id.map(|id| id.value),
            at: None,
        },
    })
}

/// Names of a side's fields.
struct SideNames {
    net: &'static str,
    not_net: &'static str,
    ports: &'static str,
    not_ports: &'static str,
    sets: &'static str,
    not_sets: &'static str,
    named: &'static str,
    not_named: &'static str,
    ip_ports: Option<&'static str>,
}

const SRC: SideNames = SideNames {
    net: "src_net",
    not_net: "not_src_net",
    ports: "src_ports",
    not_ports: "not_src_ports",
    sets: "src_ip_set_ids",
    not_sets: "not_src_ip_set_ids",
    named: "src_named_port_ip_set_ids",
    not_named: "not_src_named_port_ip_set_ids",
    ip_ports: None,
};

const DST: SideNames = SideNames {
    net: "dst_net",
    not_net: "not_dst_net",
    ports: "dst_ports",
    not_ports: "not_dst_ports",
    sets: "dst_ip_set_ids",
    not_sets: "not_dst_ip_set_ids",
    named: "dst_named_port_ip_set_ids",
    not_named: "not_dst_named_port_ip_set_ids",
    ip_ports: Some("dst_ip_port_set_ids"),
};

fn side(fields: &mut Fields<'_>, names: &SideNames, cx: &mut Context<'_>) -> Side {
    let mut nets = |name, cx: &mut Context<'_>| {
        let list = fields.get(name, cx, decode::list(decode::address_in_subnet));
        list.map(|list| {
            list.value
                .iter()
                .map(|net| net.value.trunc())
                .collect::<Vec<_>>()
        })
    };
    let (positive, negative) = (nets(names.net, cx), nets(names.not_net, cx));
    let mut sets = |name, cx: &mut Context<'_>| {
        let list = fields.get(name, cx, decode::list(decode::name));
        list.map(|list| {
            list.value
                .iter()
                .map(|id| id.value.as_str().into())
                .collect::<Vec<IpSetId>>()
        })
    };
    let ip_sets = sets(names.sets, cx);
    let not_ip_sets = sets(names.not_sets, cx);
    let named = sets(names.named, cx);
    let not_named = sets(names.not_named, cx);
    let ip_ports = names.ip_ports.and_then(|name| sets(name, cx));
    let mut ranges = |name, cx: &mut Context<'_>| {
        let list = fields.get(name, cx, decode::list(range));
        list.map(|list| {
            list.value
                .iter()
                .map(|range| range.value)
                .collect::<Vec<_>>()
        })
    };
    let (ports, not_ports) = (ranges(names.ports, cx), ranges(names.not_ports, cx));
    Side {
        nets: positive,
        not_nets: negative.unwrap_or_default(),
        ports: either(ports, named),
        not_ports: either(not_ports, not_named),
        ip_sets: ip_sets.unwrap_or_default(),
        not_ip_sets: not_ip_sets.unwrap_or_default(),
        ip_port_sets: ip_ports.unwrap_or_default(),
    }
}

fn either(ranges: Option<Vec<PortRange>>, named: Option<Vec<IpSetId>>) -> Option<Ports> {
    (ranges.is_some() || named.is_some()).then(|| Ports {
        ranges: ranges.unwrap_or_default(),
        named: named.unwrap_or_default(),
    })
}

fn range(node: &Node, cx: &mut Context<'_>) -> Option<PortRange> {
    let ends = decode::list(decode::number(0..=65535u16))(node, cx)?;
    match ends.as_slice() {
        [first, last] if first.value <= last.value => Some(PortRange {
            first: first.value,
            last: last.value,
        }),
        _ => {
            cx.error(&node.at, "not a range of ports", "must be [first, last]");
            None
        }
    }
}

fn icmp(node: &Node, cx: &mut Context<'_>) -> Option<IcmpMatch> {
    let mut fields = Fields::open(node, "icmp", cx)?;
    let kind = fields.require("type", cx, decode::number(0..=255u8));
    let code = fields.get("code", cx, decode::number(0..=255u8));
    fields.finish(cx);
    Some(IcmpMatch {
        kind: kind?.value,
        code: code.map(|code| code.value),
    })
}

/// A protocol by name or number, and what its name says of the family.
fn protocol(node: &Node, cx: &mut Context<'_>) -> Option<(Protocol, Families)> {
    if let Value::Int(_) = node.value {
        let number = decode::number(0..=255u8)(node, cx)?;
        return Some((Protocol(number), Families::Any));
    }
    let protocol = decode::choice(&Protocol::NAMES, false)(node, cx)?;
    let families = match protocol {
        Protocol::ICMP => Families::Only(Family::V4),
        Protocol::ICMPV6 => Families::Only(Family::V6),
        _ => Families::Any,
    };
    Some((protocol, families))
}
