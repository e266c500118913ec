//! What a chain says about a packet.

use super::RuleId;

/// Who decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A rule.
    Rule(RuleId),
    /// No rule of the tier with this index, in the order of [`super::ChainSpec::tiers`]: its default is to
    /// deny.
    TierDefault(u16),
    /// Nothing: no tier denied, no profile matched.
    #[default]
    End,
}

/// The log rules that a packet passed, in order: the first few of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Logs {
    rules: [RuleId; Self::MAX],
    count: u16,
}

impl Logs {
    /// How many are kept.
    pub const MAX: usize = 3;

    /// The rules that were kept.
    #[must_use]
    pub fn rules(&self) -> &[RuleId] {
        self.rules.get(..self.total()).unwrap_or(&self.rules)
    }

    /// How many there were, also those that were not kept.
    #[must_use]
    pub const fn total(&self) -> usize {
        self.count as usize
    }

    pub(super) fn push(&mut self, rule: RuleId) {
        let at = self.total();
        if let Some(place) = self.rules.get_mut(at) {
            *place = rule;
        }
        self.count = self.count.saturating_add(1);
    }
}

/// A decision, who made it, and what it passed on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the packet may go on.
    pub allow: bool,
    /// Who decided.
    pub reason: Reason,
    /// Rules that want the packet logged.
    pub logs: Logs,
}
