//! Rules' numbers: what pollers and connections know a rule by.

use std::collections::{HashMap, HashSet, VecDeque};

use fastpath::policy::{Decider, RuleCounters};
use flowtable::acl::RuleId;

use crate::policy::verdict::RuleRef;

/// So many numbers rest before one is used again: connections may outlive the rules that allowed them.
const REST: usize = 1 << 16;

/// Who has which number.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    names: HashMap<RuleId, RuleRef>,
    /// Numbers of rules that are gone, the oldest first. Their names and counts are still known.
    gone: VecDeque<RuleId>,
    last: u32,
    counters: RuleCounters,
}

impl Numbers {
    /// A number that no rule has.
    pub(super) fn take(&mut self) -> Option<RuleId> {
        let is_spent = self.last + 1 >= Decider::MAX_RULES;
        if (self.gone.len() > REST || is_spent)
            && let Some(id) = self.gone.pop_front()
        {
            self.counters.reset(id);
            return Some(id);
        }
        if is_spent {
            return None;
        }
        self.last += 1;
        let id = RuleId(self.last);
        self.counters.grow(id);
        Some(id)
    }

    pub(super) fn set_name(&mut self, id: RuleId, name: RuleRef) {
        self.names.insert(id, name);
    }

    /// The rule of a number, also of one that is gone.
    pub(super) fn name(&self, id: RuleId) -> Option<&RuleRef> {
        self.names.get(&id)
    }

    /// Lets the numbers of all other rules rest.
    pub(super) fn retain<'i>(&mut self, used: impl Iterator<Item = &'i RuleId>) {
        let used: HashSet<RuleId> = used.copied().collect();
        let resting: HashSet<RuleId> = self.gone.iter().copied().collect();
        let mut gone: Vec<_> = (1..=self.last)
            .map(RuleId)
            .filter(|id| !used.contains(id) && !resting.contains(id))
            .collect();
        gone.sort_unstable();
        self.gone.extend(gone);
    }

    pub(super) const fn counters(&self) -> &RuleCounters {
        &self.counters
    }
}
