//! Kinds that the dataplane does not act on: left alone with a note, or refused where leaving them alone would
//! let through what they forbid.

use crate::config::decode::{Context, Fields};
use crate::config::diagnostic::{Diagnostic, Severity};
use crate::config::resource::unknown_kind;
use crate::config::source::Located;
use crate::config::yaml::{Node, Value};

/// Kinds that only others act on.
const IGNORED: [(&str, &str); 11] = [
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
    ("RemoteClusterConfiguration", "federation is not supported"),
];

/// Kinds that forbid traffic.
const REFUSED: [&str; 1] = ["QoSPolicy"];

/// Kinds of policy, which have a reader of their own: for suggestions.
const POLICY: [&str; 11] = [
    "NetworkPolicy",
    "GlobalNetworkPolicy",
    "StagedNetworkPolicy",
    "StagedGlobalNetworkPolicy",
    "StagedKubernetesNetworkPolicy",
    "Tier",
    "Profile",
    "NetworkSet",
    "GlobalNetworkSet",
    "HostEndpoint",
    "Namespace",
];

/// All kinds that this file knows.
pub(crate) fn known() -> impl Iterator<Item = &'static str> {
    let ignored = IGNORED.into_iter().map(|(kind, _)| kind);
    ignored.chain(REFUSED).chain(POLICY)
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
    let message = format!("{} is left alone: {why}", kind.value);
    cx.report(Diagnostic::new(Severity::Note, message).at(&kind.at, ""));
}

/// Refuses a policy: one that is not enforced is a hole that nobody sees.
fn refuse(kind: &Located<String>, cx: &mut Context<'_>) {
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
