//! What denies where no rule does: numbered, so that it is counted and named as rules are.

use std::collections::HashMap;
use std::sync::Arc;

use fastpath::policy::Defaults;
use flowtable::acl::RuleId;

use super::PolicyError;
use super::numbers::{Name, Numbers};
use crate::policy::model::{Direction, HostEndpoint, TierPolicies, Workload};
use crate::policy::verdict::DefaultDenial;

pub(super) const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// Numbers of what denies. Endpoints for which the same policy is the last of a tier share one.
#[derive(Debug, Default)]
pub(super) struct DefaultNumbers(HashMap<(DefaultDenial, Direction), RuleId>);

impl DefaultNumbers {
    /// The numbers that endpoints need, and tiers of host endpoints; the same as before where there was one.
    pub(super) fn of<'w>(
        workloads: impl Iterator<Item = &'w Workload>,
        hosts: impl Iterator<Item = &'w HostEndpoint>,
        before: &Self,
        numbers: &mut Numbers,
    ) -> Result<Self, PolicyError> {
        let mut wanted = vec![DefaultDenial::Inactive, DefaultDenial::UnknownEndpoint]
            .into_iter()
            .flat_map(|denial| DIRECTIONS.map(|direction| (denial.clone(), direction)))
            .collect::<Vec<_>>();
        for workload in workloads {
            for direction in DIRECTIONS {
                let tiers = workload.tiers.iter();
                let ends = tiers.filter_map(|tier| tier.default_denial(direction));
                let all = ends.chain([no_profile(workload)]);
                wanted.extend(all.map(|denial| (denial, direction)));
            }
        }
        for tier in hosts.flat_map(|host| &host.forward) {
            let ends =
                DIRECTIONS.map(|direction| Some((tier.default_denial(direction)?, direction)));
            wanted.extend(ends.into_iter().flatten());
        }
        let mut now = HashMap::new();
        for key in wanted {
            if now.contains_key(&key) {
                continue;
            }
            let known = before.0.get(&key).copied();
            let id = known.or_else(|| numbers.take());
            let id = id.ok_or(PolicyError::TooManyRules)?;
            numbers.set_name(id, Name::Default(key.0.clone(), key.1));
            now.insert(key, id);
        }
        Ok(Self(now))
    }

    /// The number of a denial; 0 if it has none.
    pub(super) fn get(&self, denial: DefaultDenial, direction: Direction) -> RuleId {
        let id = self.0.get(&(denial, direction));
        id.copied().unwrap_or_default()
    }

    /// All numbers.
    pub(super) fn ids(&self) -> impl Iterator<Item = &RuleId> {
        self.0.values()
    }

    /// What pollers need of them for an endpoint: ingress, egress.
    pub(super) fn of_endpoint(&self, workload: &Workload) -> [Defaults; 2] {
        DIRECTIONS.map(|direction| Defaults {
            inactive: self.get(DefaultDenial::Inactive, direction),
            tiers: self.of_tiers(&workload.tiers, direction),
            end: self.get(no_profile(workload), direction),
        })
    }

    /// The same for a host endpoint, of what is forwarded.
    pub(super) fn of_host(&self, host: &HostEndpoint) -> [Defaults; 2] {
        DIRECTIONS.map(|direction| Defaults {
            tiers: self.of_tiers(&host.forward, direction),
            ..Defaults::default()
        })
    }

    fn of_tiers(&self, tiers: &[TierPolicies], direction: Direction) -> Arc<[RuleId]> {
        let number = |tier: &TierPolicies| {
            let denial = tier.default_denial(direction);
            denial.map_or(RuleId(0), |denial| self.get(denial, direction))
        };
        tiers.iter().map(number).collect()
    }

    /// The numbers of denials by ports of which no policy is known: ingress, egress.
    pub(super) fn unknown(&self) -> [RuleId; 2] {
        DIRECTIONS.map(|direction| self.get(DefaultDenial::UnknownEndpoint, direction))
    }
}

fn no_profile(workload: &Workload) -> DefaultDenial {
    DefaultDenial::NoProfileMatched(workload.profiles.clone())
}
