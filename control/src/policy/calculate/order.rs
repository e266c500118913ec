//! The order of tiers and policies.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::policy_id;
use crate::config::diagnostic::{Diagnostic, Diagnostics};
use crate::config::suggest::nearest;
use crate::policy::model::{DefaultAction, PolicyId, PolicyKind, TierPolicies};
use crate::policy::resource::{BUILT_IN_TIERS, PolicyResource, PolicyResources};

/// A tier, for ordering.
#[derive(Debug, PartialEq)]
pub(super) struct Tier {
    order: f64,
    name: Arc<str>,
    default_action: DefaultAction,
}

/// Tiers in order: by their order, then by name.
pub(super) fn tiers(resources: &PolicyResources) -> Vec<Tier> {
    let mut tiers: Vec<Tier> = resources
        .tiers
        .iter()
        .map(|tier| Tier {
            order: tier.order.unwrap_or(f64::INFINITY),
            name: tier.meta.name.value.as_str().into(),
            default_action: tier.default_action,
        })
        .collect();
    for built_in in &BUILT_IN_TIERS {
        if tiers.iter().all(|tier| &*tier.name != built_in.name) {
            tiers.push(Tier {
                order: built_in.order,
                name: built_in.name.into(),
                default_action: built_in.default_action,
            });
        }
    }
    tiers.sort_by(|a, b| {
        a.order
            .total_cmp(&b.order)
            .then_with(|| a.name.cmp(&b.name))
    });
    tiers
}

pub(super) fn tiers_are_known(
    resources: &PolicyResources,
    tiers: &[Tier],
    findings: &mut Diagnostics,
) {
    for policy in &resources.policies {
        let name = policy.tier.value.as_str();
        if tiers.iter().any(|tier| &*tier.name == name) {
            continue;
        }
        let label = match nearest(name, tiers.iter().map(|tier| &*tier.name)) {
            Some(known) => format!("did you mean `{known}`?"),
            None => "no Tier has this name".to_owned(),
        };
        findings.push(
            Diagnostic::error(format!("unknown tier `{name}`"))
                .at(&policy.tier.at, label)
                .about(policy.meta.label()),
        );
    }
}

/// Policies in order: by their order, then by name. What stands for a deletion is left out.
pub(super) fn in_order(resources: &PolicyResources) -> Vec<&Arc<PolicyResource>> {
    let all = resources.policies.iter().filter(|policy| !policy.deletes);
    let mut policies: Vec<_> = all.map(|policy| (sort_name(policy), policy)).collect();
    let order = |policy: &PolicyResource| policy.order.unwrap_or(f64::INFINITY);
    policies.sort_by(|(a_name, a), (b_name, b)| {
        let by_order = order(a).total_cmp(&order(b));
        by_order.then_with(|| a_name.cmp(b_name))
    });
    policies.into_iter().map(|(_, policy)| policy).collect()
}

/// Policies of Kubernetes have a prefix in Calico's order.
fn sort_name(policy: &PolicyResource) -> (Cow<'_, str>, PolicyKind, Option<&str>) {
    let name = policy.meta.name.value.as_str();
    let name = match policy.kind {
        PolicyKind::Kubernetes | PolicyKind::StagedKubernetes => {
            Cow::Owned(format!("knp.default.{name}"))
        }
        _ => Cow::Borrowed(name),
    };
    (name, policy.kind, policy.meta.namespace.as_deref())
}

/// Policies of an endpoint, those that are wanted, by tier.
pub(super) fn by_tier(
    tiers: &[Tier],
    policies: &[&PolicyResource],
    wanted: impl Fn(&PolicyResource) -> bool,
) -> Vec<TierPolicies> {
    let mut found: BTreeMap<usize, (Vec<PolicyId>, Vec<PolicyId>)> = BTreeMap::new();
    for policy in policies.iter().filter(|policy| wanted(policy)) {
        let name = policy.tier.value.as_str();
        let Some(place) = tiers.iter().position(|tier| &*tier.name == name) else {
            continue;
        };
        let (ingress, egress) = found.entry(place).or_default();
        if policy.on_ingress {
            ingress.push(policy_id(policy));
        }
        if policy.on_egress {
            egress.push(policy_id(policy));
        }
    }
    let tier = |(place, (ingress, egress)): (usize, _)| TierPolicies {
        name: tiers[place].name.clone(),
        default_action: tiers[place].default_action,
        ingress,
        egress,
    };
    found.into_iter().map(tier).collect()
}
