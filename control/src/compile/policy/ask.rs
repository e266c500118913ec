//! What is in force, for those who ask.

use fastpath::policy::{Decided, Decider, RuleCounters};
use flowtable::acl::RuleId;

use super::PolicyCompiler;
use super::owners::OwnerId;
use crate::policy::model::{Direction, PolicyId, WorkloadId};
use crate::policy::rule::Action;
use crate::policy::verdict::{DefaultDenial, Reason};

impl PolicyCompiler {
    /// What decided, in words. None where nothing did.
    pub fn reason(&self, decider: Decider) -> Option<Reason> {
        self.decided(decider).map(|(reason, _)| reason)
    }

    /// The same, and for packets in which direction it was asked.
    pub fn decided(&self, decider: Decider) -> Option<(Reason, Direction)> {
        match decider.decided() {
            Decided::Rule(id) => {
                let name = self.numbers.name(id);
                name.map(|name| name.decided(&self.model))
            }
            // What denies by default has numbers.
            Decided::Nobody
            | Decided::TierDefault(..)
            | Decided::End(_)
            | Decided::Inactive(_)
            | Decided::Unknown(_) => None,
        }
    }

    /// What is in force that denies: rules, and what does where no rule matches. With the direction of packets that are denied.
    pub fn denying(&self) -> impl Iterator<Item = (RuleId, Reason, Direction)> {
        self.in_force().filter(
            |(_, reason, _)| !matches!(reason, Reason::Rule(rule) if rule.action != Action::Deny),
        )
    }

    /// All that is in force and decides: rules, and what denies where no rule matches. With the direction of its packets.
    pub fn in_force(&self) -> impl Iterator<Item = (RuleId, Reason, Direction)> {
        let rules = self.compiled.values().flat_map(|compiled| &compiled.ids);
        let ids = rules.chain(self.defaults.ids());
        ids.filter_map(|id| {
            let (reason, direction) = self.numbers.name(*id)?.decided(&self.model);
            Some((*id, reason, direction))
        })
    }

    /// The number of what denies where no rule does. None of what applies to no endpoint here.
    pub fn default_id(&self, denial: DefaultDenial, direction: Direction) -> Option<RuleId> {
        Some(self.defaults.get(denial, direction)).filter(|id| id.0 != 0)
    }

    /// What rules have decided.
    pub const fn counters(&self) -> &RuleCounters {
        self.numbers.counters()
    }

    /// The endpoint of an interface.
    pub fn endpoint(&self, interface: &str) -> Option<&WorkloadId> {
        self.endpoints.get(interface).map(|(id, _)| id)
    }

    /// The numbers of the rules of a policy, in order; none of one that applies to no endpoint here.
    pub fn rule_ids(&self, policy: &PolicyId, direction: Direction) -> &[RuleId] {
        self.ids(OwnerId::Policy(policy.clone()), direction)
    }

    /// The same of a profile.
    pub fn profile_rule_ids(&self, profile: &str, direction: Direction) -> &[RuleId] {
        self.ids(OwnerId::Profile(profile.to_owned()), direction)
    }

    fn ids(&self, owner: OwnerId, direction: Direction) -> &[RuleId] {
        let compiled = self.compiled.get(&(owner, direction));
        compiled.map_or(&[], |compiled| &compiled.ids)
    }
}
