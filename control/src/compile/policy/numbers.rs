//! Rules' numbers: what pollers and connections know a rule by. What denies where no rule does has numbers, too.

use std::collections::{HashMap, VecDeque};

use fastpath::policy::{Decider, RuleCounters};
use flowtable::acl::RuleId;

use crate::policy::model::{Direction, Model};
use crate::policy::verdict::{DefaultDenial, Reason, RuleRef};

/// So many numbers rest before one is used again: connections may outlive the rules that allowed them.
const REST: usize = 1 << 16;

/// What has a number.
#[derive(Clone, Debug)]
pub(super) enum Name {
    /// A rule.
    Rule(RuleRef),
    /// What denies where no rule does, for packets in a direction.
    Default(DefaultDenial, Direction),
    /// A failsafe port of the host, as text.
    Failsafe(String),
}

impl Name {
    /// As the reason of what it decides, and for packets in which direction. The model says where policies are written.
    pub(super) fn decided(&self, model: &Model) -> (Reason, Direction) {
        match self {
            Self::Rule(rule) => (Reason::Rule(rule.clone()), rule.direction),
            Self::Default(denial, direction) => (denial.clone().reason(model), *direction),
            Self::Failsafe(port) => (Reason::Failsafe(port.clone()), Direction::Ingress),
        }
    }
}

/// Who has which number.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    names: HashMap<RuleId, Name>,
    /// Numbers of rules that are gone, the oldest first. Their names and counts are still known.
    gone: VecDeque<RuleId>,
    last: u32,
    /// Numbers that were taken since [`Self::begin`].
    taken: Vec<RuleId>,
    counters: RuleCounters,
}

impl Numbers {
    /// From here on numbers are taken that may be given back.
    pub(super) fn begin(&mut self) {
        self.taken.clear();
    }

    /// Lets the numbers rest that were taken since.
    pub(super) fn give_back(&mut self) {
        self.gone.extend(self.taken.drain(..));
    }

    /// Lets numbers rest that nobody has any more.
    pub(super) fn release(&mut self, ids: impl IntoIterator<Item = RuleId>) {
        self.gone.extend(ids);
    }

    /// A number that no rule has.
    pub(super) fn take(&mut self) -> Option<RuleId> {
        let id = self.next();
        self.taken.extend(id);
        id
    }

    fn next(&mut self) -> Option<RuleId> {
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

    pub(super) fn set_name(&mut self, id: RuleId, name: Name) {
        self.names.insert(id, name);
    }

    /// Who has a number, or had it.
    pub(super) fn name(&self, id: RuleId) -> Option<&Name> {
        self.names.get(&id)
    }

    pub(super) const fn counters(&self) -> &RuleCounters {
        &self.counters
    }
}
