//! The order of tiers and policies.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::policy_id;
use crate::config::diagnostic::{Diagnostic, Diagnostics};
use crate::config::suggest::nearest;
use crate::policy::model::{DefaultAction, PolicyId, TierPolicies};
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
            order: tier.order,
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
        if is_known(tiers, policy) {
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

/// Whether the tier of a policy is among these.
pub(super) fn is_known(tiers: &[Tier], policy: &PolicyResource) -> bool {
    tiers.iter().any(|tier| *tier.name == policy.tier.value)
}

/// The order of policies: by their order, then by name.
pub(super) fn compare(one: &PolicyResource, other: &PolicyResource) -> Ordering {
    let order = |policy: &PolicyResource| policy.order.unwrap_or(f64::INFINITY);
    let by_order = order(one).total_cmp(&order(other));
    by_order.then_with(|| by_name(one, other))
}

/// Whether a policy applies where another one of the same name does, in the same place and to the same packets.
pub(super) fn apply_alike(one: &PolicyResource, other: &PolicyResource) -> bool {
    let what = |policy: &PolicyResource| {
        let when = (
            policy.do_not_track,
            policy.pre_dnat,
            policy.apply_on_forward,
        );
        (policy.on_ingress, policy.on_egress, when)
    };
    compare(one, other).is_eq() && one.tier.value == other.tier.value && what(one) == what(other)
}

/// As Calico has it: by `name/namespace/kind` as one text, byte by byte (`PolKVLess` in `felix/calc/policy_sorter.go`).
fn by_name(one: &PolicyResource, other: &PolicyResource) -> Ordering {
    fn parts(policy: &PolicyResource) -> [&str; 3] {
        let namespace = policy.meta.namespace.as_deref().unwrap_or("");
        [&policy.meta.name.value, namespace, policy.kind.as_str()]
    }
    let mut pairs = parts(one).into_iter().zip(parts(other));
    let differing = pairs.find_map(|(one, other)| {
        let order = with_slash(one.as_bytes(), other.as_bytes());
        order.is_ne().then_some(order)
    });
    differing.unwrap_or(Ordering::Equal)
}

/// The order of two texts that are each followed by a `/`, which is behind `-` and `.`.
fn with_slash(one: &[u8], other: &[u8]) -> Ordering {
    let common = one.len().min(other.len());
    let next = |text: &[u8]| text.get(common).copied().unwrap_or(b'/');
    let begin = one[..common].cmp(&other[..common]);
    begin.then_with(|| next(one).cmp(&next(other)))
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
