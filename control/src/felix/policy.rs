//! Names of policies, in both generations of the protocol, and tiers.

use prost::Message as _;

use super::parse::Refusal;
use super::proto::{self, TierInfo};
use crate::policy::model::{DefaultAction, PolicyId, PolicyKind, TierPolicies};

/// Where a staged policy's name says so, up to v3.31.
const STAGED: &str = "staged:";

/// With what names of Kubernetes' policies begin up to v3.31.
const PREFIXES: [(&str, PolicyKind); 3] = [
    ("knp.default.", PolicyKind::Kubernetes),
    ("kanp.adminnetworkpolicy.", PolicyKind::KubernetesCluster),
    (
        "kbanp.baselineadminnetworkpolicy.",
        PolicyKind::KubernetesBaseline,
    ),
];

/// What names a policy. Up to v3.31 its name has all of it: `namespace/staged:tier.name`.
pub(super) fn policy_id(id: &proto::PolicyId) -> Result<PolicyId, Refusal> {
    if id.name.is_empty() {
        return Err("a policy without a name".to_owned());
    }
    if id.kind.is_empty() {
        return Ok(by_name(&id.name));
    }
    let namespace = (!id.namespace.is_empty()).then_some(id.namespace.as_str());
    Ok(PolicyId {
        kind: kind(&id.kind, namespace.is_some()),
        namespace: namespace.map(Into::into),
        name: id.name.as_str().into(),
    })
}

/// The kind of a word. One that came later than this is taken for what its name is closest to; it must never be taken
/// for staged when it is not.
fn kind(word: &str, namespaced: bool) -> PolicyKind {
    const ALL: [PolicyKind; 8] = [
        PolicyKind::Global,
        PolicyKind::Namespaced,
        PolicyKind::Kubernetes,
        PolicyKind::KubernetesCluster,
        PolicyKind::KubernetesBaseline,
        PolicyKind::StagedGlobal,
        PolicyKind::StagedNamespaced,
        PolicyKind::StagedKubernetes,
    ];
    let known = ALL.into_iter().find(|kind| kind.as_str() == word);
    known.unwrap_or(match (word.starts_with("Kubernetes"), namespaced) {
        (true, true) => PolicyKind::Kubernetes,
        (true, false) => PolicyKind::KubernetesCluster,
        (false, true) => PolicyKind::Namespaced,
        (false, false) => PolicyKind::Global,
    })
}

fn by_name(text: &str) -> PolicyId {
    let is_staged = text.contains(STAGED);
    let text = text.replacen(STAGED, "", 1);
    let (namespace, name) = match text.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, text.as_str()),
    };
    let known = PREFIXES.iter().find_map(|(prefix, kind)| {
        let name = name.strip_prefix(prefix)?;
        Some((*kind, name))
    });
    let (kind, name) = known.unwrap_or(match namespace {
        Some(_) => (PolicyKind::Namespaced, name),
        None => (PolicyKind::Global, name),
    });
    let kind = match kind {
        PolicyKind::Kubernetes if is_staged => PolicyKind::StagedKubernetes,
        PolicyKind::Namespaced if is_staged => PolicyKind::StagedNamespaced,
        _ if is_staged => PolicyKind::StagedGlobal,
        kind => kind,
    };
    PolicyId {
        kind,
        namespace: namespace.map(Into::into),
        name: name.into(),
    }
}

/// Tiers of an endpoint.
pub(super) fn tiers(tiers: &[TierInfo]) -> Result<Vec<TierPolicies>, Refusal> {
    let one = |tier: &TierInfo| {
        let why = |why| format!("tier {}: {why}", tier.name);
        Ok(TierPolicies {
            name: tier.name.as_str().into(),
            default_action: if tier.default_action.eq_ignore_ascii_case("pass") {
                DefaultAction::Pass
            } else {
                DefaultAction::Deny
            },
            ingress: entries(&tier.ingress_policies).map_err(why)?,
            egress: entries(&tier.egress_policies).map_err(why)?,
        })
    };
    tiers.iter().map(one).collect()
}

fn entries(all: &[Vec<u8>]) -> Result<Vec<PolicyId>, Refusal> {
    all.iter().map(|bytes| entry(bytes)).collect()
}

/// A policy of a tier: a name, or a message that begins with the tag of a field, which is a control character and so
/// none of a name.
fn entry(bytes: &[u8]) -> Result<PolicyId, Refusal> {
    match bytes.first() {
        Some(0..0x20) => {
            let id = proto::PolicyId::decode(bytes);
            policy_id(&id.map_err(|error| format!("the name of a policy: {error}"))?)
        }
        Some(_) => match std::str::from_utf8(bytes) {
            Ok(name) => Ok(by_name(name)),
            Err(_) => Err("the name of a policy is no text".to_owned()),
        },
        None => Err("a policy without a name".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(kind: PolicyKind, namespace: Option<&str>, name: &str) -> PolicyId {
        PolicyId {
            kind,
            namespace: namespace.map(Into::into),
            name: name.into(),
        }
    }

    fn message(name: &str, namespace: &str, kind: &str) -> proto::PolicyId {
        proto::PolicyId {
            tier: String::new(),
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            kind: kind.to_owned(),
        }
    }

    #[test]
    fn names_of_both_generations_say_the_same() {
        use PolicyKind::{
            Global, Kubernetes, KubernetesBaseline, KubernetesCluster, Namespaced, StagedGlobal,
            StagedKubernetes, StagedNamespaced,
        };
        for (old, kind, namespace, name) in [
            ("default.allow", Global, None, "default.allow"),
            ("ns/default.allow", Namespaced, Some("ns"), "default.allow"),
            ("staged:sec.deny", StagedGlobal, None, "sec.deny"),
            (
                "ns/staged:sec.deny",
                StagedNamespaced,
                Some("ns"),
                "sec.deny",
            ),
            ("ns/knp.default.web", Kubernetes, Some("ns"), "web"),
            (
                "ns/staged:knp.default.web",
                StagedKubernetes,
                Some("ns"),
                "web",
            ),
            ("kanp.adminnetworkpolicy.a", KubernetesCluster, None, "a"),
            (
                "kbanp.baselineadminnetworkpolicy.default",
                KubernetesBaseline,
                None,
                "default",
            ),
        ] {
            let expected = named(kind, namespace, name);
            assert_eq!(entry(old.as_bytes()), Ok(expected.clone()), "{old}");
            let new = message(name, namespace.unwrap_or_default(), kind.as_str());
            assert_eq!(entry(&new.encode_to_vec()), Ok(expected.clone()), "{old}");
            assert_eq!(policy_id(&new), Ok(expected.clone()), "{old}");
            // As the key of a policy up to v3.31.
            let mut key = message(old, "", "");
            key.tier = "default".to_owned();
            assert_eq!(policy_id(&key), Ok(expected), "{old}");
        }
    }

    #[test]
    fn kinds_that_are_not_known_are_enforced() {
        for (kind, namespace) in [
            ("KubernetesFuturePolicy", ""),
            ("Other", "ns"),
            ("Other", ""),
        ] {
            let id = policy_id(&message("p", namespace, kind)).unwrap();
            assert!(!id.kind.is_staged(), "{id}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bytes in [&b""[..], b"\xff\xfe", b"\x12", b"\x1a\x02ns"] {
            assert!(entry(bytes).is_err(), "{bytes:?}");
        }
    }
}
