//! `NetworkPolicy` of Kubernetes, and Calico's staged form of it, as policies of Calico: tier `default`, order 1000,
//! one rule for each protocol and peer.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::policy::{DEFAULT_TIER, PolicyResource, TYPES, deletes_and_no_more, staged_action};
use super::rule::{Entity, PortSpec, RuleSpec};
use crate::config::decode::{self, Context, Fields};
use crate::config::diagnostic::Diagnostic;
use crate::config::resource::Meta;
use crate::config::source::{Located, Span};
use crate::config::yaml::{Node, Value};
use crate::policy::model::{Direction, PolicyKind};
use crate::policy::rule::{Action, Families, PortRange, Protocol};
use crate::policy::selector::Expr;

/// Says which orchestrator an endpoint is of.
pub(crate) const ORCHESTRATOR_LABEL: &str = "projectcalico.org/orchestrator";
/// Where Calico puts these policies among those of the tier.
const ORDER: f64 = 1000.0;

pub(super) fn decode(
    kind: PolicyKind,
    meta: Meta,
    spec: &mut Fields<'_>,
    cx: &mut Context<'_>,
) -> PolicyResource {
    let mark = cx.mark();
    let pods = spec.get("podSelector", cx, |node, cx| {
        label_selector(node, "podSelector", cx)
    });
    let types = spec.get(
        "policyTypes",
        cx,
        decode::list(decode::choice(&TYPES, true)),
    );
    let ingress = rules(spec, "ingress", "from", cx);
    let egress = rules(spec, "egress", "to", cx);
    let deletes = kind.is_staged() && staged_action(spec, cx);
    if deletes {
        let pods = pods.as_ref().filter(|pods| !pods.value.is_empty());
        let fields = [pods.map(|it| &it.at), types.as_ref().map(|it| &it.at)];
        let mut rules = ingress.iter().chain(&egress);
        let fields = fields
            .into_iter()
            .chain([rules.next().map(|rule| &rule.at.at)]);
        deletes_and_no_more(fields, cx);
    }
    let (on_ingress, on_egress) = match &types {
        Some(types) if !types.value.is_empty() => {
            let says = |direction| types.value.iter().any(|item| item.value == direction);
            (says(Direction::Ingress), says(Direction::Egress))
        }
        // Kubernetes' defaults.
        _ => (true, !egress.is_empty()),
    };
    let at = pods
        .as_ref()
        .map_or_else(|| meta.name.at.clone(), |pods| pods.at.clone());
    let labels = pods.map(|pods| pods.value).unwrap_or_default();
    let policy = PolicyResource {
        kind,
        tier: Located {
            value: DEFAULT_TIER.to_owned(),
            at: meta.name.at.clone(),
        },
        meta,
        order: Some(ORDER),
        selector: Some(Located {
            value: pods_with(labels),
            at,
        }),
        namespace_selector: None,
        service_account_selector: None,
        on_ingress,
        on_egress,
        ingress,
        egress,
        do_not_track: false,
        pre_dnat: false,
        apply_on_forward: false,
        deletes,
    };
    policy.remark(mark, cx);
    policy
}

/// Pods of Kubernetes that satisfy all of some expressions.
fn pods_with(mut expressions: Vec<Expr>) -> Expr {
    expressions.insert(0, Expr::Eq(ORCHESTRATOR_LABEL.to_owned(), "k8s".to_owned()));
    all_of(expressions)
}

fn all_of(mut expressions: Vec<Expr>) -> Expr {
    match expressions.len() {
        0 => Expr::All,
        1 => expressions.remove(0),
        _ => Expr::And(expressions),
    }
}

/// A `LabelSelector`: expressions that must all hold.
fn label_selector(node: &Node, what: &str, cx: &mut Context<'_>) -> Option<Vec<Expr>> {
    let mut fields = Fields::open(node, what, cx)?;
    let labels = fields.get("matchLabels", cx, decode::text_map);
    let expressions = fields.get("matchExpressions", cx, decode::list(expression));
    fields.finish(cx);
    let equal = labels.into_iter().flat_map(|labels| labels.value);
    let mut all: Vec<Expr> = equal.map(|(key, value)| Expr::Eq(key, value)).collect();
    let expressions = expressions.into_iter().flat_map(|list| list.value);
    all.extend(expressions.map(|expression| expression.value));
    Some(all)
}

#[derive(Clone, Copy)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

const OPERATORS: [(&str, Operator); 4] = [
    ("In", Operator::In),
    ("NotIn", Operator::NotIn),
    ("Exists", Operator::Exists),
    ("DoesNotExist", Operator::DoesNotExist),
];

fn expression(node: &Node, cx: &mut Context<'_>) -> Option<Expr> {
    let mut fields = Fields::open(node, "an item of matchExpressions", cx)?;
    let key = fields.require("key", cx, decode::name);
    let operator = fields.require("operator", cx, decode::choice(&OPERATORS, true));
    let values = fields.get("values", cx, decode::list(decode::text));
    fields.finish(cx);
    let (key, operator) = (key?.value, operator?);
    let set: BTreeSet<String> = values
        .iter()
        .flat_map(|list| &list.value)
        .map(|value| value.value.clone())
        .collect();
    let wants_values = matches!(operator.value, Operator::In | Operator::NotIn);
    if wants_values == set.is_empty() {
        let (message, label) = if wants_values {
            ("this operator needs values", "add `values: […]`")
        } else {
            ("this operator takes no values", "leave `values` out")
        };
        cx.error(&operator.at, message, label);
        return None;
    }
    Some(match operator.value {
        Operator::In => Expr::In(key, set),
        Operator::NotIn => Expr::NotIn(key, set),
        Operator::Exists => Expr::Has(key),
        Operator::DoesNotExist => Expr::Has(key).negated(),
    })
}

fn rules(
    spec: &mut Fields<'_>,
    direction: &'static str,
    peers: &'static str,
    cx: &mut Context<'_>,
) -> Vec<RuleSpec> {
    let written = spec.get(
        direction,
        cx,
        decode::list(|node, cx| rule(node, direction, peers, cx)),
    );
    let written = written.into_iter().flat_map(|list| list.value).enumerate();
    let numbered = |(index, rules): (usize, Located<Vec<RuleSpec>>)| {
        rules
            .value
            .into_iter()
            .map(move |rule| RuleSpec { index, ..rule })
    };
    written.flat_map(numbered).collect()
}

fn rule(
    node: &Node,
    direction: &'static str,
    peers: &'static str,
    cx: &mut Context<'_>,
) -> Option<Vec<RuleSpec>> {
    let mut fields = Fields::open(node, format!("a rule of {direction}"), cx)?;
    let peer_list = list(&mut fields, peers, cx, |node, cx| peer(node, peers, cx));
    let port_list = list(&mut fields, "ports", cx, port);
    fields.finish(cx);
    // What is refused has been reported, and nothing is built then.
    let peer_list = match peer_list {
        Some(list) if !list.is_empty() => list,
        _ => vec![Located {
            value: Entity::default(),
            at: node.at.clone(),
        }],
    };
    let mut rules = Vec::new();
    for (protocol, ports) in by_protocol(port_list.unwrap_or_default()) {
        for peer in &peer_list {
            rules.push(one(direction, protocol, &ports, peer, &peer.at));
        }
    }
    Some(rules)
}

fn one(
    direction: &str,
    protocol: Option<Protocol>,
    ports: &[Located<PortSpec>],
    peer: &Entity,
    at: &Span,
) -> RuleSpec {
    let mut source = Entity::default();
    let mut destination = Entity::default();
    if direction == "ingress" {
        source = peer.clone();
    } else {
        destination = peer.clone();
    }
    destination.ports = ports.to_vec();
    RuleSpec {
        action: Action::Allow,
        families: Families::Any,
        protocol,
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source,
        destination,
        index: 0,
        at: Located {
            value: (),
            at: at.clone(),
        },
    }
}

/// A protocol, and its port unless all ports are meant.
type Port = (Protocol, Option<Located<PortSpec>>);

/// Ports of one protocol make one rule; a protocol without ports means all of them.
fn by_protocol(ports: Vec<Located<Port>>) -> Vec<(Option<Protocol>, Vec<Located<PortSpec>>)> {
    if ports.is_empty() {
        return vec![(None, Vec::new())];
    }
    let mut grouped: BTreeMap<Protocol, Option<Vec<Located<PortSpec>>>> = BTreeMap::new();
    for port in ports {
        let (protocol, port) = port.value;
        let group = grouped.entry(protocol).or_insert_with(|| Some(Vec::new()));
        match (group.as_mut(), port) {
            (Some(list), Some(port)) => list.push(port),
            (_, None) => *group = None,
            (None, Some(_)) => {}
        }
    }
    let groups = grouped.into_iter();
    groups
        .map(|(protocol, ports)| (Some(protocol), ports.unwrap_or_default()))
        .collect()
}

fn list<T>(
    fields: &mut Fields<'_>,
    name: &'static str,
    cx: &mut Context<'_>,
    item: impl Fn(&Node, &mut Context<'_>) -> Option<T>,
) -> Option<Vec<Located<T>>> {
    let (key, node) = fields.take_with_key(name)?;
    if matches!(&node.value, Value::List(items) if items.is_empty()) {
        cx.report(
            Diagnostic::warning(format!("an empty list of {name} restricts nothing"))
                .at(&key.at, "leave it out, or name what should match"),
        );
    }
    decode::list(item)(node, cx)
}

fn peer(node: &Node, what: &str, cx: &mut Context<'_>) -> Option<Entity> {
    let mark = cx.mark();
    let mut fields = Fields::open(node, format!("an item of {what}"), cx)?;
    let pods = fields.get("podSelector", cx, |node, cx| {
        label_selector(node, "podSelector", cx)
    });
    let namespaces = fields.get("namespaceSelector", cx, |node, cx| {
        label_selector(node, "namespaceSelector", cx)
    });
    let block = fields.get("ipBlock", cx, ip_block);
    fields.finish(cx);
    let selects = pods.is_some() || namespaces.is_some();
    if !selects && block.is_none() {
        if !cx.has_errors_since(mark) {
            let label = "give podSelector, namespaceSelector or ipBlock";
            cx.error(&node.at, "a peer that says nothing", label);
        }
        return None;
    }
    let at_block = block.as_ref().map(|block| block.at.clone());
    if let Some(at) = at_block.filter(|_| selects) {
        cx.error(
            &at,
            "an ipBlock can not be combined with selectors",
            "use two items",
        );
        return None;
    }
    if let Some(block) = block {
        let (net, except) = block.value;
        return Some(Entity {
            nets: vec![net],
            not_nets: except,
            ..Entity::default()
        });
    }
    let at = pods
        .as_ref()
        .map_or_else(|| node.at.clone(), |pods| pods.at.clone());
    Some(Entity {
        selector: Some(Located {
            value: pods_with(pods.map(|pods| pods.value).unwrap_or_default()),
            at,
        }),
        namespace_selector: namespaces.map(|namespaces| Located {
            value: all_of(namespaces.value),
            at: namespaces.at,
        }),
        ..Entity::default()
    })
}

fn ip_block(node: &Node, cx: &mut Context<'_>) -> Option<(IpNet, Vec<IpNet>)> {
    let mut fields = Fields::open(node, "ipBlock", cx)?;
    let net = fields.require("cidr", cx, decode::masked_cidr);
    let except = fields.get("except", cx, decode::list(decode::masked_cidr));
    fields.finish(cx);
    let net = net?;
    let mut excluded = Vec::new();
    for hole in except.into_iter().flat_map(|list| list.value) {
        if !net.value.contains(&hole.value) || net.value == hole.value {
            let label = format!("must lie in {} and be smaller", net.value);
            cx.error(&hole.at, "an exception from elsewhere", label);
        }
        excluded.push(hole.value);
    }
    Some((net.value, excluded))
}

fn port(node: &Node, cx: &mut Context<'_>) -> Option<Port> {
    let mut fields = Fields::open(node, "an item of ports", cx)?;
    let protocols = [
        ("TCP", Protocol::TCP),
        ("UDP", Protocol::UDP),
        ("SCTP", Protocol::SCTP),
    ];
    let protocol = fields.get("protocol", cx, decode::choice(&protocols, true));
    let port = fields.get("port", cx, |node, cx| match &node.value {
        Value::Text(name) if !name.is_empty() && !name.bytes().all(|c| c.is_ascii_digit()) => {
            Some(PortSpec::Named(name.clone()))
        }
        _ => {
            let port = decode::port(node, cx)?;
            let (first, last) = (port, port);
            Some(PortSpec::Range(PortRange { first, last }))
        }
    });
    let end = fields.get("endPort", cx, decode::port);
    fields.finish(cx);
    let port = match (port, end) {
        (port, None) => port,
        (Some(port), Some(end)) => match port.value {
            PortSpec::Range(PortRange { first, .. }) if first <= end.value => Some(Located {
                value: PortSpec::Range(PortRange {
                    first,
                    last: end.value,
                }),
                at: port.at,
            }),
            PortSpec::Range(PortRange { first, .. }) => {
                let label = format!("must be {first} or more");
                cx.error(&end.at, "a range of ports that is empty", label);
                return None;
            }
            PortSpec::Named(_) => {
                cx.error(
                    &end.at,
                    "endPort needs a port's number",
                    "the port is given by name",
                );
                return None;
            }
        },
        (None, Some(end)) => {
            cx.error(&end.at, "endPort without port", "add `port`");
            return None;
        }
    };
    Some((
        protocol.map_or(Protocol::TCP, |protocol| protocol.value),
        port,
    ))
}
