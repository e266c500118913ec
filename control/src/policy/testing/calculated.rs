//! Tests in the calculated form: rules in the terms of Felix's messages, IP sets with their members, packets that
//! are allowed and packets that are dropped. It is the form of `control/tests/policy-cases/cases.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Check, Group};
use crate::config::decode::{self, Context, Fields};
use crate::config::yaml::{Node, Value};
use crate::config::{Located, Span};
use crate::policy::legs::Leg;
use crate::policy::model::{
    DefaultAction, Direction, HostEndpoint, IpPort, IpSet, Model, Policy, PolicyId, PolicyKind,
    Profile, Rules, Settings, TierPolicies, Workload, WorkloadId,
};
use crate::policy::packet::{Packet, State};
use crate::policy::rule::{
    Action, Families, Family, IcmpMatch, IpSetId, Matches, Origin, PortRange, Ports, Protocol,
    Rule, Side,
};
use crate::policy::verdict::Outcome;

/// True if a document has this form.
pub(crate) fn is_calculated(document: &Node) -> bool {
    matches!(&document.value, Value::Map(pairs) if pairs.iter().any(|(key, _)| key.name == "cases"))
}

/// Decodes a document.
pub(crate) fn decode(document: &Node, cx: &mut Context<'_>) -> Vec<Group> {
    let Some(mut fields) = Fields::open(document, "the file", cx) else {
        return Vec::new();
    };
    fields.accept(&["meta"]);
    let cases = fields.require("cases", cx, decode::list(case));
    fields.finish(cx);
    let cases = cases.map(|cases| cases.value).unwrap_or_default();
    cases.into_iter().map(|case| case.value).collect()
}

fn case(node: &Node, cx: &mut Context<'_>) -> Option<Group> {
    let mut fields = Fields::open(node, "a case", cx)?;
    let name = fields.require("name", cx, decode::name)?;
    cx.resource = format!("case {}", name.value);
    fields.accept(&["table"]);
    let _ = fields.get("ipv6", cx, decode::boolean);
    let mut model = Model {
        settings: settings(),
        ..Model::default()
    };
    if let Some(sets) = fields.take("ipsets") {
        model.ip_sets = ip_sets(sets, cx)?;
    }
    let side = fields.require("policy", cx, |node, cx| policy(node, &mut model, cx));
    let mut checks = Vec::new();
    for (name, expected) in [("allowed", Outcome::Allow), ("dropped", Outcome::Deny)] {
        let packets = fields.get(name, cx, decode::list(packet));
        for packet in packets.into_iter().flat_map(|list| list.value) {
            checks.push((packet, expected));
        }
    }
    fields.finish(cx);
    cx.resource.clear();
    let side = side?.value;
    let checks = checks
        .into_iter()
        .map(|(packet, expected)| check(packet, expected, side))
        .collect();
    Some(Group {
        name: name.value,
        model,
        checks,
    })
}

/// The cases know no failsafe ports.
fn settings() -> Settings {
    Settings {
        failsafe_inbound: Vec::new(),
        failsafe_outbound: Vec::new(),
        ..Settings::default()
    }
}

/// Which interface a case's policy is for.
#[derive(Clone, Copy)]
enum Interface {
    Workload,
    Host,
    /// A host's, before anything else: untracked policy.
    HostUntracked,
}

const HOST: &str = "host";

fn workload_id() -> WorkloadId {
    WorkloadId {
        orchestrator: "k8s".to_owned(),
        workload: "workload".to_owned(),
        endpoint: "eth0".to_owned(),
    }
}

fn check(packet: Located<CasePacket>, expected: Outcome, interface: Interface) -> Check {
    let case = packet.value;
    let to_host = case.from_host || case.to_host;
    let host = HOST.to_owned();
    let legs = match interface {
        Interface::Workload => vec![Leg::Workload(workload_id(), Direction::Ingress)],
        Interface::HostUntracked => vec![Leg::HostUntracked(host, Direction::Ingress)],
        Interface::Host if to_host => vec![
            Leg::HostPreDnat(host.clone()),
            Leg::HostNormal(host, Direction::Ingress),
        ],
        Interface::Host => vec![
            Leg::HostPreDnat(host.clone()),
            Leg::HostForward(host, Direction::Ingress),
        ],
    };
    let suffix = match (case.from_host, case.to_host) {
        (true, _) => ", from the host",
        (false, true) => ", to the host",
        (false, false) => "",
    };
    let way = format!("{}{suffix}", case.packet);
    Check {
        name: String::new(),
        way,
        packet: case.packet,
        legs,
        expected,
        decided_by: None,
        at: packet.at,
    }
}

fn policy(node: &Node, model: &mut Model, cx: &mut Context<'_>) -> Option<Interface> {
    let mut fields = Fields::open(node, "policy", cx)?;
    let mut is = |name| {
        fields
            .get(name, cx, decode::boolean)
            .is_some_and(|on| on.value)
    };
    let (host, xdp) = (is("for_host_interface"), is("for_xdp"));
    let mut tiers = |name: &'static str, cx: &mut Context<'_>| {
        let node = fields.take(name);
        node.and_then(|node| tier_list(node, name, model, cx))
            .unwrap_or_default()
    };
    let workload = tiers("tiers", cx);
    let normal = tiers("host_normal_tiers", cx);
    let pre_dnat = tiers("host_pre_dnat_tiers", cx);
    let forward = tiers("host_forward_tiers", cx);
    let mut profiles = |name: &'static str, cx: &mut Context<'_>| {
        let node = fields.take(name);
        node.and_then(|node| profile_list(node, model, cx))
            .unwrap_or_default()
    };
    let workload_profiles = profiles("profiles", cx);
    let host_profiles = profiles("host_profiles", cx);
    fields.finish(cx);
    let interface = match (host, xdp) {
        (_, true) => Interface::HostUntracked,
        (true, false) => Interface::Host,
        (false, false) => Interface::Workload,
    };
    if let Interface::Workload = interface {
        let endpoint = Workload {
            active: true,
            tiers: workload,
            profiles: workload_profiles,
            ..Workload::default()
        };
        model.workloads.insert(workload_id(), endpoint);
        return Some(interface);
    }
    let mut endpoint = HostEndpoint {
        interface: "eth0".to_owned(),
        profiles: host_profiles,
        pre_dnat,
        forward,
        ..HostEndpoint::default()
    };
    match interface {
        // An XDP program holds untracked policy in the place of the normal one.
        Interface::HostUntracked => endpoint.untracked = normal,
        Interface::Host | Interface::Workload => endpoint.normal = normal,
    }
    model.host_endpoints.insert(HOST.to_owned(), endpoint);
    Some(interface)
}

fn tier_list(
    node: &Node,
    list: &str,
    model: &mut Model,
    cx: &mut Context<'_>,
) -> Option<Vec<TierPolicies>> {
    let tiers = decode::list(|node: &Node, cx: &mut Context<'_>| {
        let mut fields = Fields::open(node, "a tier", cx)?;
        let name = fields.require("name", cx, decode::name);
        let actions = [("deny", DefaultAction::Deny), ("pass", DefaultAction::Pass)];
        let end = fields.get("end_action", cx, decode::choice(&actions, false));
        let policies = fields.require("policies", cx, decode::list(named_rules));
        fields.finish(cx);
        Some((
            name?.value,
            end.map(|end| end.value).unwrap_or_default(),
            policies?.value,
        ))
    })(node, cx)?;
    let mut done = Vec::new();
    for (place, tier) in tiers.into_iter().enumerate() {
        let (name, default_action, policies) = tier.value;
        let mut ids = Vec::new();
        for policy in policies {
            let (name_of_policy, rules) = policy.value;
            let id = PolicyId {
                kind: PolicyKind::Global,
                namespace: None,
                name: name_of_policy.as_str().into(),
            };
            let policy = Policy {
                tier: name.as_str().into(),
                rules,
            };
            check_sets(&policy.rules, model, cx);
            if model.policies.insert(id.clone(), policy).is_some() {
                let message = format!("policy `{name_of_policy}` is defined twice");
                cx.error(&tier.at, message, format!("in {list}, tier {}", place + 1));
            }
            ids.push(id);
        }
        done.push(TierPolicies {
            name: name.as_str().into(),
            default_action,
            ingress: ids.clone(),
            egress: ids,
        });
    }
    Some(done)
}

fn profile_list(node: &Node, model: &mut Model, cx: &mut Context<'_>) -> Option<Vec<String>> {
    let profiles = decode::list(named_rules)(node, cx)?;
    let mut names = Vec::new();
    for profile in profiles {
        let (name, rules) = profile.value;
        check_sets(&rules, model, cx);
        if model
            .profiles
            .insert(name.clone(), Profile { rules })
            .is_some()
        {
            cx.error(
                &profile.at,
                format!("profile `{name}` is defined twice"),
                "again here",
            );
        }
        names.push(name);
    }
    Some(names)
}

/// A name and rules, which count for both directions.
fn named_rules(node: &Node, cx: &mut Context<'_>) -> Option<(String, Rules)> {
    let mut fields = Fields::open(node, "a policy", cx)?;
    let name = fields.require("name", cx, decode::name);
    let rules = fields.require("rules", cx, decode::list(rule));
    fields.finish(cx);
    let mut all = Vec::new();
    for (index, rule) in rules?.value.into_iter().enumerate() {
        let mut value = rule.value;
        value.origin.index = index;
        value.origin.at = Some(rule.at);
        all.push(value);
    }
    let rules = Rules {
        inbound: all.clone(),
        outbound: all,
    };
    Some((name?.value, rules))
}

fn check_sets(rules: &Rules, model: &Model, cx: &mut Context<'_>) {
    let probe = Model {
        ip_sets: model.ip_sets.clone(),
        profiles: BTreeMap::from([(
            String::new(),
            Profile {
                rules: rules.clone(),
            },
        )]),
        ..Model::default()
    };
    let at = rules
        .inbound
        .first()
        .and_then(|rule| rule.origin.at.clone());
    let Some(at) = at else { return };
    for id in probe.unknown_ip_sets() {
        cx.error(
            &at,
            format!("unknown IP set `{id}`"),
            "`ipsets` of the case has no such set",
        );
    }
}

fn rule(node: &Node, cx: &mut Context<'_>) -> Option<Rule> {
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

fn ip_sets(node: &Node, cx: &mut Context<'_>) -> Option<BTreeMap<IpSetId, IpSet>> {
    let Value::Map(pairs) = &node.value else {
        cx.error(
            &node.at,
            "ipsets must be a map",
            format!("this is {}", node.value.describe()),
        );
        return None;
    };
    let mut sets = BTreeMap::new();
    for (key, members) in pairs {
        let members = decode::list(|node: &Node, cx: &mut Context<'_>| {
            let text = decode::name(node, cx)?;
            member(&text, &node.at, cx)
        })(members, cx)?;
        let (mut nets, mut ports) = (BTreeSet::new(), BTreeSet::new());
        for member in members {
            match member.value {
                Member::Net(net) => drop(nets.insert(net)),
                Member::Port(port) => drop(ports.insert(port)),
            }
        }
        if !nets.is_empty() && !ports.is_empty() {
            cx.error(
                &key.at,
                "a set of addresses and of ports",
                "must be one of both",
            );
        }
        let set = if ports.is_empty() {
            IpSet::Nets(nets)
        } else {
            IpSet::IpPorts(ports)
        };
        sets.insert(key.name.as_str().into(), set);
    }
    Some(sets)
}

enum Member {
    Net(IpNet),
    Port(IpPort),
}

/// `10.0.0.0/8`, `10.0.0.1`, `10.0.0.1,tcp:80` or `10.0.0.1/32,tcp:80`.
fn member(text: &str, at: &Span, cx: &mut Context<'_>) -> Option<Member> {
    let (address, port) = match text.split_once(',') {
        Some((address, port)) => (address, Some(port)),
        None => (text, None),
    };
    let net = address.parse::<IpNet>().ok();
    let net = net.or_else(|| address.parse::<IpAddr>().ok().map(IpNet::from));
    let port = port.map(|port| {
        let (protocol, port) = port.split_once(':')?;
        Some((Protocol::by_name(protocol)?, port.parse::<u16>().ok()?))
    });
    let member = match (net, port) {
        (Some(net), None) => Some(Member::Net(net.trunc())),
        (Some(net), Some(Some((protocol, port)))) if net.prefix_len() == net.max_prefix_len() => {
            Some(Member::Port(IpPort {
                address: net.addr(),
                protocol,
                port,
            }))
        }
        _ => None,
    };
    if member.is_none() {
        let label = "such as `10.0.0.0/8` or `10.0.0.1,tcp:80`";
        cx.error(at, format!("not a member of an IP set: `{text}`"), label);
    }
    member
}

/// A packet as a case has it.
struct CasePacket {
    packet: Packet,
    from_host: bool,
    to_host: bool,
}

fn packet(node: &Node, cx: &mut Context<'_>) -> Option<CasePacket> {
    let mut fields = Fields::open(node, "a packet", cx)?;
    let protocol = fields.require("proto", cx, decode::number(0..=255u8));
    let address =
        |node: &Node, cx: &mut Context<'_>| Some(decode::address_in_subnet(node, cx)?.addr());
    let src = fields.require("src", cx, address);
    let dst = fields.require("dst", cx, address);
    let original = fields.get("pre_nat_dst", cx, address);
    let mut number = |name, cx: &mut Context<'_>| {
        let number = fields.get(name, cx, decode::number(0..=65535u16));
        number.map(|number| number.value)
    };
    let ports = (number("sport", cx), number("dport", cx));
    let original_port = number("pre_nat_dport", cx);
    let icmp = (number("icmp_type", cx), number("icmp_code", cx));
    let mut is = |name| {
        fields
            .get(name, cx, decode::boolean)
            .is_some_and(|on| on.value)
    };
    let (from_host, to_host) = (is("from_host"), is("to_host"));
    fields.finish(cx);
    let ports = match ports {
        (None, None) => None,
        (src, dst) => Some((src.unwrap_or(0), dst.unwrap_or(0))),
    };
    let icmp = icmp.0.map(|kind| (kind as u8, icmp.1.unwrap_or(0) as u8));
    let to_port = ports.map_or(0, |(_, dst)| dst);
    Some(CasePacket {
        packet: Packet {
            src: src?.value,
            dst: dst?.value,
            protocol: Protocol(protocol?.value),
            ports,
            icmp,
            original_dst: original.map(|dst| (dst.value, original_port.unwrap_or(to_port))),
            state: State::New,
        },
        from_host,
        to_host,
    })
}
