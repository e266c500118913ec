//! Rules as v3 resources have them.

use ipnet::IpNet;

use crate::config::decode::{self, Context, Fields};
use crate::config::diagnostic::Diagnostic;
use crate::config::source::{Located, Span};
use crate::config::yaml::{Node, Value};
use crate::policy::rule::{Action, Families, Family, IcmpMatch, PortRange, Protocol};
use crate::policy::selector::{Expr, named_selector, selector};

/// A rule.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleSpec {
    /// `action`.
    pub action: Action,
    /// `ipVersion`, and what a protocol's name says.
    pub families: Families,
    /// `protocol`.
    pub protocol: Option<Protocol>,
    /// `notProtocol`.
    pub not_protocol: Option<Protocol>,
    /// `icmp`.
    pub icmp: Option<IcmpMatch>,
    /// `notICMP`.
    pub not_icmp: Option<IcmpMatch>,
    /// `source`.
    pub source: Entity,
    /// `destination`.
    pub destination: Entity,
    /// Place among the rules of its direction, from 0.
    pub index: usize,
    /// Where it was written.
    pub at: Located<()>,
}

/// One side of a rule.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Entity {
    /// `nets`.
    pub nets: Vec<IpNet>,
    /// `notNets`.
    pub not_nets: Vec<IpNet>,
    /// `selector`.
    pub selector: Option<Located<Expr>>,
    /// `notSelector`.
    pub not_selector: Option<Located<Expr>>,
    /// `namespaceSelector`.
    pub namespace_selector: Option<Located<Expr>>,
    /// `serviceAccounts`.
    pub service_accounts: Option<ServiceAccounts>,
    /// `ports`.
    pub ports: Vec<Located<PortSpec>>,
    /// `notPorts`.
    pub not_ports: Vec<Located<PortSpec>>,
}

/// Which service accounts' pods are meant.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct ServiceAccounts {
    /// `names`; empty: whatever the name.
    pub names: Vec<String>,
    /// `selector`.
    pub selector: Option<Located<Expr>>,
}

/// A port as rules name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortSpec {
    /// By number.
    Range(PortRange),
    /// By a name that endpoints give it.
    Named(String),
}

const ACTIONS: [(&str, Action); 4] = [
    ("Allow", Action::Allow),
    ("Deny", Action::Deny),
    ("Log", Action::Log),
    ("Pass", Action::Pass),
];

/// The rules of a direction.
pub(super) fn rules(
    spec: &mut Fields<'_>,
    direction: &'static str,
    cx: &mut Context<'_>,
) -> Option<Located<Vec<RuleSpec>>> {
    let rules = spec.get(
        direction,
        cx,
        decode::list(|node, cx| rule(node, direction, cx)),
    )?;
    let numbered = rules.value.into_iter().enumerate();
    let numbered = numbered.map(|(index, rule)| RuleSpec {
        index,
        ..rule.value
    });
    Some(Located {
        value: numbered.collect(),
        at: rules.at,
    })
}

fn rule(node: &Node, direction: &str, cx: &mut Context<'_>) -> Option<RuleSpec> {
    let mut fields = Fields::open(node, format!("a rule of {direction}"), cx)?;
    let action = fields.require("action", cx, decode::choice(&ACTIONS, true));
    let version = fields.get("ipVersion", cx, ip_version);
    let protocol = fields.get("protocol", cx, protocol);
    let not_protocol = fields.get("notProtocol", cx, self::protocol);
    let icmp = fields.get("icmp", cx, icmp);
    let not_icmp = fields.get("notICMP", cx, self::icmp);
    let source = fields
        .take("source")
        .and_then(|node| entity(node, "source", cx));
    let destination = fields
        .take("destination")
        .and_then(|node| entity(node, "destination", cx));
    if let Some((key, _)) = fields.take_with_key("http") {
        cx.report(
            Diagnostic::error("HTTP matches are not supported")
                .at(&key.at, "nothing here looks into HTTP")
                .help("the rule would allow all that its other fields match"),
        );
    }
    fields.accept(&["metadata"]);
    fields.finish(cx);
    let (source, destination) = (source.unwrap_or_default(), destination.unwrap_or_default());

    let mut families = version
        .as_ref()
        .map(|version| version.value)
        .unwrap_or_default();
    if let Some(protocol) = &protocol {
        families = families.and(protocol.value.1);
        if families == Families::Never {
            let label = "this protocol is of the other IP version";
            cx.error(&protocol.at, "the rule can match nothing", label);
        }
    }
    if let (Some(version), Some(protocol)) = (&version, &not_protocol)
        && version.value.and(protocol.value.1) == Families::Never
    {
        let label = "this protocol is of the other IP version";
        cx.error(&protocol.at, "the rule excludes nothing", label);
    }
    let by_name = protocol.as_ref().map(|protocol| protocol.value.0);
    for icmp in icmp.iter().chain(&not_icmp) {
        if !matches!(by_name, Some(Protocol::ICMP | Protocol::ICMPV6)) {
            cx.error(
                &icmp.at,
                "ICMP types need a protocol",
                "add `protocol: ICMP` or `ICMPv6`",
            );
        }
    }
    for entity in [&source, &destination] {
        ports_need_a_protocol(entity, by_name, cx);
    }
    one_family(&[&source, &destination], families, &node.at, cx);
    Some(RuleSpec {
        action: action?.value,
        families,
        protocol: by_name,
        not_protocol: not_protocol.map(|protocol| protocol.value.0),
        icmp: icmp.map(|icmp| icmp.value),
        not_icmp: not_icmp.map(|icmp| icmp.value),
        source,
        destination,
        index: 0,
        at: Located {
            value: (),
            at: node.at.clone(),
        },
    })
}

fn ip_version(node: &Node, cx: &mut Context<'_>) -> Option<Families> {
    match node.value {
        Value::Int(4) => Some(Families::Only(Family::V4)),
        Value::Int(6) => Some(Families::Only(Family::V6)),
        _ => {
            cx.error(&node.at, "no such IP version", "must be 4 or 6");
            None
        }
    }
}

/// A protocol by name or number; ICMP's names say the family, too.
fn protocol(node: &Node, cx: &mut Context<'_>) -> Option<(Protocol, Families)> {
    if let Value::Int(_) = node.value {
        let number = decode::number(1..=255u8)(node, cx)?;
        return Some((Protocol(number), Families::Any));
    }
    let protocol = decode::choice(&Protocol::NAMES, true)(node, cx)?;
    let families = match protocol {
        Protocol::ICMP => Families::Only(Family::V4),
        Protocol::ICMPV6 => Families::Only(Family::V6),
        _ => Families::Any,
    };
    Some((protocol, families))
}

fn icmp(node: &Node, cx: &mut Context<'_>) -> Option<IcmpMatch> {
    let mut fields = Fields::open(node, "icmp", cx)?;
    // 255 is reserved (RFC 4443), and Calico refuses it.
    let kind = fields.require("type", cx, decode::number(0..=254u8));
    let code = fields.get("code", cx, decode::number(0..=255u8));
    fields.finish(cx);
    Some(IcmpMatch {
        kind: kind?.value,
        code: code.map(|code| code.value),
    })
}

fn entity(node: &Node, what: &'static str, cx: &mut Context<'_>) -> Option<Entity> {
    let mut fields = Fields::open(node, what, cx)?;
    let nets = list(&mut fields, "nets", cx, net);
    let not_nets = list(&mut fields, "notNets", cx, excluded_net);
    let own = fields.get("selector", cx, selector);
    let not_selector = fields.get("notSelector", cx, selector);
    let namespaces = fields.get("namespaceSelector", cx, named_selector);
    let accounts = fields
        .take("serviceAccounts")
        .and_then(|node| service_accounts(node, cx));
    let ports = list(&mut fields, "ports", cx, port);
    let not_ports = list(&mut fields, "notPorts", cx, port);
    if let Some((key, _)) = fields.take_with_key("services") {
        cx.report(
            Diagnostic::error("matching services is not supported")
                .at(
                    &key.at,
                    "use a selector of the service's pods, and their ports",
                )
                .help("rules are judged by selectors and networks alone"),
        );
    }
    fields.finish(cx);
    let plain = |list: Vec<Located<IpNet>>| list.into_iter().map(|net| net.value).collect();
    Some(Entity {
        nets: plain(nets),
        not_nets: plain(not_nets),
        selector: own,
        not_selector,
        namespace_selector: namespaces,
        service_accounts: accounts,
        ports,
        not_ports,
    })
}

/// A list; one without items is pointed out, since it restricts nothing.
fn list<T>(
    fields: &mut Fields<'_>,
    name: &'static str,
    cx: &mut Context<'_>,
    item: impl Fn(&Node, &mut Context<'_>) -> Option<T>,
) -> Vec<Located<T>> {
    let Some((key, node)) = fields.take_with_key(name) else {
        return Vec::new();
    };
    if matches!(&node.value, Value::List(items) if items.is_empty()) {
        cx.report(
            Diagnostic::warning(format!("an empty list of {name} restricts nothing"))
                .at(&key.at, "leave it out, or name what should match"),
        );
    }
    decode::list(item)(node, cx).unwrap_or_default()
}

/// A prefix, or an address.
fn net(node: &Node, cx: &mut Context<'_>) -> Option<IpNet> {
    let plain = matches!(&node.value, Value::Text(text) if !text.contains('/'));
    if plain {
        decode::address_in_subnet(node, cx)
    } else {
        decode::cidr(node, cx)
    }
}

fn excluded_net(node: &Node, cx: &mut Context<'_>) -> Option<IpNet> {
    let net = net(node, cx)?;
    if net.prefix_len() == 0 {
        cx.error(
            &node.at,
            "the rule can match nothing",
            "this excludes every address",
        );
        return None;
    }
    Some(net)
}

fn service_accounts(node: &Node, cx: &mut Context<'_>) -> Option<ServiceAccounts> {
    let mut fields = Fields::open(node, "serviceAccounts", cx)?;
    let names = fields.get("names", cx, decode::list(decode::name));
    let selector = fields.get("selector", cx, selector);
    fields.finish(cx);
    let names = names.into_iter().flat_map(|list| list.value);
    Some(ServiceAccounts {
        names: names.map(|name| name.value).collect(),
        selector,
    })
}

/// A port: a number, `first:last`, or a name.
fn port(node: &Node, cx: &mut Context<'_>) -> Option<PortSpec> {
    let Value::Text(text) = &node.value else {
        let port = decode::port(node, cx)?;
        let (first, last) = (port, port);
        return Some(PortSpec::Range(PortRange { first, last }));
    };
    let is_range = text
        .chars()
        .all(|c| c.is_ascii_digit() || c == ':' || c == '-');
    if !is_range && is_port_name(text) {
        return Some(PortSpec::Named(text.clone()));
    }
    let (first, last) = text.split_once(':').unwrap_or((text, text));
    let number = |part: &str| decode::digits(part).filter(|port: &u16| *port > 0);
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => {
            Some(PortSpec::Range(PortRange { first, last }))
        }
        (Some(first), Some(last)) => {
            let label = format!("did you mean `{last}:{first}`?");
            cx.error(&node.at, "a range of ports that is empty", label);
            None
        }
        _ => {
            let label = match text.split_once('-') {
                Some((first, last)) if number(first).is_some() && number(last).is_some() => {
                    format!("did you mean `{first}:{last}`?")
                }
                _ => "must be 1 to 65535, a `first:last` range, or a port's name".to_owned(),
            };
            cx.error(&node.at, "port out of range", label);
            None
        }
    }
}

fn is_port_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    (1..=128).contains(&text.len()) && text.chars().all(allowed)
}

/// Numbers need a protocol that has ports; names bring theirs along, and other protocols can not have any.
fn ports_need_a_protocol(entity: &Entity, protocol: Option<Protocol>, cx: &mut Context<'_>) {
    let ports = entity.ports.iter().chain(&entity.not_ports);
    let mut wrong = ports.filter(|port| match protocol {
        None => matches!(port.value, PortSpec::Range(_)),
        Some(protocol) => !protocol.has_ports(),
    });
    let Some(first) = wrong.next() else { return };
    match protocol {
        None => cx.error(
            &first.at,
            "ports without a protocol",
            "add `protocol: TCP`, `UDP` or `SCTP`",
        ),
        Some(protocol) => {
            let label = "only TCP, UDP and SCTP have ports";
            cx.error(&first.at, format!("{protocol} has no ports"), label);
        }
    }
}

/// All prefixes of a rule must be of one family, which is that of the rule.
fn one_family(sides: &[&Entity], families: Families, at: &Span, cx: &mut Context<'_>) {
    let nets = sides
        .iter()
        .flat_map(|side| side.nets.iter().chain(&side.not_nets));
    let mut seen = families;
    for net in nets {
        seen = seen.and(Families::Only(Family::of_net(*net)));
    }
    if seen == Families::Never && families != Families::Never {
        let label = format!("{} does not fit the others", mismatch(sides, families));
        cx.error(at, "a rule of both IPv4 and IPv6", label);
    }
}

fn mismatch(sides: &[&Entity], families: Families) -> String {
    let mut wanted = families;
    for net in sides
        .iter()
        .flat_map(|side| side.nets.iter().chain(&side.not_nets))
    {
        let both = wanted.and(Families::Only(Family::of_net(*net)));
        if both == Families::Never {
            return net.to_string();
        }
        wanted = both;
    }
    String::new()
}
