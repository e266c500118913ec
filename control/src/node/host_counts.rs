//! What the kernel's table has decided, for those who ask.

use std::collections::BTreeMap;

use fastpath::policy::RuleCount;

use crate::api::report::DenyingRule;
use crate::nft::{Counters, Counting};
use crate::policy::Model;
use crate::policy::model::{Direction, Stage};
use crate::policy::rule::{Action, Rule};
use crate::policy::show::Counted;
use crate::policy::verdict::{Owner, RuleRef};

/// Counts of a table. A packet that is judged is the first of a connection, or of none: what is established is not.
#[derive(Debug)]
pub(super) struct HostCounts<'c> {
    counters: &'c Counters,
    counts: BTreeMap<String, (u64, u64)>,
}

impl<'c> HostCounts<'c> {
    /// By what the counters are of, and packets and bytes by counter.
    pub(super) const fn new(counters: &'c Counters, counts: BTreeMap<String, (u64, u64)>) -> Self {
        Self { counters, counts }
    }

    /// What something has decided about.
    pub(super) fn get(
        &self,
        stage: Stage,
        what: &Counted<'_>,
        direction: Direction,
    ) -> Option<RuleCount> {
        let is_it = |counting: &Counting| match (counting, what) {
            (Counting::Rule(owner, at), Counted::Rule(other, place)) => {
                at == place && owner == *other
            }
            (Counting::Default(denial), Counted::Default(other)) => denial == other,
            (Counting::Rule(..), Counted::Default(_))
            | (Counting::Default(_), Counted::Rule(..)) => false,
        };
        let mut all = self.counters.iter();
        let (.., counter) = all
            .find(|(of, way, counting, _)| (*of, *way) == (stage, direction) && is_it(counting))?;
        self.of(counter)
    }

    fn of(&self, counter: &str) -> Option<RuleCount> {
        let (packets, bytes) = *self.counts.get(counter)?;
        Some(RuleCount {
            connections: packets,
            packets,
            bytes,
        })
    }

    /// What rules have decided.
    pub(super) fn rules(&self, model: &Model) -> impl Iterator<Item = (RuleRef, RuleCount)> {
        self.counters
            .iter()
            .filter_map(|(_, direction, counting, counter)| {
                let Counting::Rule(owner, at) = counting else {
                    return None;
                };
                let rule = rule(model, owner, *direction, *at)?;
                let name = RuleRef::new(owner.clone(), *direction, rule);
                Some((name, self.of(counter)?))
            })
    }

    /// What denied something.
    pub(super) fn denying(&self, model: &Model) -> Vec<DenyingRule> {
        let rules = self.rules(model);
        let rules = rules.filter(|(rule, _)| rule.action == Action::Deny);
        let rules = rules.map(|(rule, count)| (rule.to_string(), false, count));
        let defaults = self
            .counters
            .iter()
            .filter_map(|(_, direction, counting, counter)| {
                let Counting::Default(denial) = counting else {
                    return None;
                };
                let reason = denial.clone().reason(model);
                let reason = format!("{reason} ({})", direction.as_str());
                Some((reason, true, self.of(counter)?))
            });
        rules
            .chain(defaults)
            .map(|(rule, default, count)| DenyingRule {
                rule: format!("{rule}, in the kernel"),
                default,
                connections: count.connections,
                packets: count.packets,
            })
            .collect()
    }
}

fn rule<'m>(model: &'m Model, owner: &Owner, direction: Direction, at: usize) -> Option<&'m Rule> {
    let rules = match owner {
        Owner::Policy { id, .. } => &model.policies.get(id)?.rules,
        Owner::Profile(name) => &model.profiles.get(name)?.rules,
    };
    rules.of(direction).get(at)
}
