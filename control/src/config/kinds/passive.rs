//! Kinds that the dataplane does not act on: left alone with a note, or refused where leaving them alone would
//! let through what they forbid.

use crate::config::decode::{Context, Fields};
use crate::config::diagnostic::{Diagnostic, Severity};
use crate::config::resource::unknown_kind;
use crate::config::source::Located;
use crate::config::yaml::{Node, Value};

/// Kinds that only others act on.
const IGNORED: [(&str, &str); 18] = [
    ("BGPPeer", "BIRD or another BGP daemon reads it"),
    ("BGPFilter", "BIRD or another BGP daemon reads it"),
    ("IPReservation", "only address management reads it"),
    ("IPAMConfiguration", "only address management reads it"),
    ("IPAMConfig", "only address management reads it"),
    (
        "IPAMBlock",
        "only address management reads it; block owners come from BlockAffinity",
    ),
    ("IPAMHandle", "only address management reads it"),
    ("ClusterInformation", "nothing in it concerns the dataplane"),
    (
        "KubeControllersConfiguration",
        "only kube-controllers reads it",
    ),
    ("CalicoNodeStatus", "only calico-node writes it"),
    ("Tier", "tiers do nothing without policies"),
    ("Profile", "it allows everything"),
    ("NetworkSet", "network sets do nothing without policies"),
    (
        "GlobalNetworkSet",
        "network sets do nothing without policies",
    ),
    ("StagedNetworkPolicy", "staged policies are never enforced"),
    (
        "StagedGlobalNetworkPolicy",
        "staged policies are never enforced",
    ),
    (
        "StagedKubernetesNetworkPolicy",
        "staged policies are never enforced",
    ),
    ("RemoteClusterConfiguration", "federation is not supported"),
];

/// Kinds that forbid traffic.
const REFUSED: [&str; 4] = [
    "NetworkPolicy",
    "GlobalNetworkPolicy",
    "HostEndpoint",
    "QoSPolicy",
];

/// All kinds that this file knows.
pub(crate) fn known() -> impl Iterator<Item = &'static str> {
    IGNORED.into_iter().map(|(kind, _)| kind).chain(REFUSED)
}

/// Handles a kind that has no type of its own.
pub(crate) fn decode(mut fields: Fields<'_>, kind: &Located<String>, cx: &mut Context<'_>) {
    let metadata = fields.take("metadata");
    if let Some(name) = metadata.and_then(|node| child(node, "name"))
        && let Value::Text(name) = &name.value
    {
        cx.resource = format!("{} {name}", kind.value);
    }
    if REFUSED.contains(&kind.value.as_str()) {
        return refuse(kind, cx);
    }
    let Some((_, why)) = IGNORED.into_iter().find(|(known, _)| *known == kind.value) else {
        return unknown_kind(kind, cx);
    };
    if kind.value == "Profile"
        && let Some(rule) = fields.take("spec").and_then(restricting_rule)
    {
        let message = "this profile's rules are not enforced yet by this version";
        cx.error(
            &rule.at,
            message,
            "only profiles that allow everything are accepted",
        );
        return;
    }
    let message = format!("{} is left alone: {why}", kind.value);
    cx.report(Diagnostic::new(Severity::Note, message).at(&kind.at, ""));
}

/// Refuses a policy: one that is not enforced is a hole that nobody sees.
pub(crate) fn refuse(kind: &Located<String>, cx: &mut Context<'_>) {
    cx.report(
        Diagnostic::error(format!(
            "{} is not enforced yet by this version",
            kind.value
        ))
        .at(&kind.at, "refused: traffic that it forbids would pass")
        .help("remove it, or keep this node on a dataplane that enforces policy"),
    );
}

fn child<'n>(node: &'n Node, name: &str) -> Option<&'n Node> {
    let Value::Map(pairs) = &node.value else {
        return None;
    };
    pairs
        .iter()
        .find(|(key, _)| key.name == name)
        .map(|(_, node)| node)
}

/// The first rule of a profile that is more than `action: Allow`.
fn restricting_rule(spec: &Node) -> Option<&Node> {
    ["ingress", "egress"]
        .into_iter()
        .filter_map(|direction| child(spec, direction))
        .filter_map(|rules| match &rules.value {
            Value::List(rules) => Some(rules),
            _ => None,
        })
        .flatten()
        .find(|rule| {
            let Value::Map(pairs) = &rule.value else {
                return true;
            };
            let allows = child(rule, "action").is_some_and(
                |action| matches!(&action.value, Value::Text(text) if text == "Allow"),
            );
            let matches_all = pairs.iter().all(|(key, value)| match &value.value {
                Value::Map(inner) => inner.is_empty(),
                _ => key.name == "action",
            });
            !(allows && matches_all)
        })
}
