//! Policies that stand next to each other, compiled together and shared by chains.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::matcher::Matcher;
use super::{AclError, Action, Policy, Rule, RuleId};

/// A part of a policy's rules: all of them but for very long policies.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) policy: Arc<Policy>,
    pub(super) first: usize,
    pub(super) len: usize,
}

impl Piece {
    fn rules(&self) -> &[Rule] {
        self.policy
            .rules
            .get(self.first..)
            .and_then(|rules| rules.get(..self.len))
            .unwrap_or(&[])
    }
}

/// What a verdict needs of a rule.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) action: Action,
    pub(super) id: RuleId,
}

/// A run of one tier's rules, for both families.
#[derive(Debug)]
pub struct Segment {
    pub(super) v4: Matcher<u32>,
    pub(super) v6: Matcher<u128>,
    pub(super) heads: Box<[Head]>,
    uses_sets: bool,
    bytes: usize,
    /// Kept so that no other policy can have their addresses, by which segments are found again.
    _policies: Box<[Piece]>,
    /// Bytes of all segments there are.
    total: Arc<AtomicUsize>,
}

impl Segment {
    /// Compiles `pieces`; takes at most `limit_bytes` and adds what it takes to `total`.
    pub(super) fn new(
        pieces: &[Piece],
        limit_bytes: usize,
        total: &Arc<AtomicUsize>,
    ) -> Result<Self, AclError> {
        let rules = || pieces.iter().flat_map(Piece::rules);
        let v4 = Matcher::<u32>::new(rules(), limit_bytes)?;
        let left = limit_bytes.saturating_sub(v4.memory_bytes());
        let v6 = Matcher::<u128>::new(rules(), left)?;
        let heads: Box<[Head]> = rules()
            .map(|rule| Head {
                action: rule.action,
                id: rule.id,
            })
            .collect();
        let bytes = size_of::<Self>()
            + v4.memory_bytes()
            + v6.memory_bytes()
            + size_of_val(&*heads)
            + size_of_val(pieces);
        if bytes > limit_bytes {
            return Err(AclError::TooLarge {
                rules: heads.len(),
                needed: bytes,
                limit: limit_bytes,
            });
        }
        total.fetch_add(bytes, Relaxed);
        Ok(Self {
            uses_sets: v4.uses_sets() || v6.uses_sets(),
            v4,
            v6,
            heads,
            bytes,
            _policies: pieces.into(),
            total: Arc::clone(total),
        })
    }

    /// Whether any rule asks for the sets that an address is in.
    pub(super) const fn uses_sets(&self) -> bool {
        self.uses_sets
    }

    pub(super) const fn memory_bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Relaxed);
    }
}
