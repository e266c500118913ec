//! What rules belong to: policies and profiles.

use std::sync::Arc;

use crate::policy::model::{Direction, Model, PolicyId, TierPolicies, Workload};
use crate::policy::rule::Rule;
use crate::policy::verdict::{Owner, RuleRef};

/// What rules belong to, as a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum OwnerId {
    Policy(PolicyId),
    Profile(String),
}

/// The rules of an owner in one direction.
pub(super) type Key = (OwnerId, Direction);

/// What is compiled for an endpoint.
pub(super) fn keys_of(workload: &Workload) -> impl Iterator<Item = Key> {
    [Direction::Ingress, Direction::Egress]
        .into_iter()
        .flat_map(|direction| {
            let profiles = workload.profiles.iter();
            let profiles = profiles.map(move |name| (OwnerId::Profile(name.clone()), direction));
            keys_of_tiers(&workload.tiers, direction).chain(profiles)
        })
}

pub(super) fn keys_of_tiers(
    tiers: &[TierPolicies],
    direction: Direction,
) -> impl Iterator<Item = Key> {
    let policies = tiers.iter().flat_map(move |tier| tier.of(direction));
    let enforced = policies.filter(|id| !id.kind.is_staged());
    enforced.map(move |id| (OwnerId::Policy(id.clone()), direction))
}

/// The rules of an owner; of one that is not there none, so that nothing is allowed.
pub(super) fn rules_of<'m>(model: &'m Model, owner: &OwnerId, direction: Direction) -> &'m [Rule] {
    match owner {
        OwnerId::Policy(id) => {
            let policy = model.policies.get(id);
            policy.map_or(&[], |policy| policy.rules.of(direction))
        }
        OwnerId::Profile(name) => {
            let profile = model.profiles.get(name);
            profile.map_or(&[], |profile| profile.rules.of(direction))
        }
    }
}

pub(super) fn name_of(
    model: &Model,
    owner: &OwnerId,
    direction: Direction,
    rule: &Rule,
) -> RuleRef {
    let owner = match owner {
        OwnerId::Policy(id) => Owner::Policy {
            tier: model
                .policies
                .get(id)
                .map_or_else(|| "".into(), |policy| Arc::clone(&policy.tier)),
            id: id.clone(),
        },
        OwnerId::Profile(name) => Owner::Profile(name.clone()),
    };
    RuleRef::new(owner, direction, rule)
}
