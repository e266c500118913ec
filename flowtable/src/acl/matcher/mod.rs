//! The first rule of a list that matches a packet, by bit vectors.
//!
//! Each field of the packet (two addresses, two ports, the protocol) selects a bit vector of the rules
//! that it satisfies; the rules that all of them hold match. What no single field can answer, sets and
//! ICMP, is asked of the few rules that are left ([`super::check`]).

mod criteria;
mod large;
mod small;

use self::large::Large;
use self::small::Small;
use super::check::Subject;
use super::{AclError, Address, Rule};

/// A compiled list of rules for one family.
#[derive(Clone, Debug)]
pub enum Matcher<A: Address> {
    /// No rule can match.
    Empty,
    /// Up to 64 rules: one word a field.
    Small(Small<A>),
    /// More: summaries, and blocks of 64.
    Large(Large<A>),
}

impl<A: Address> Matcher<A> {
    /// Compiles `rules`, which may take up to `limit_bytes`.
    pub(super) fn new<'a>(
        rules: impl Iterator<Item = &'a Rule>,
        limit_bytes: usize,
    ) -> Result<Self, AclError> {
        let rules: Vec<(u32, &Rule)> = (0..)
            .zip(rules)
            .filter(|(_, rule)| rule.is_present(A::FAMILY))
            .collect();
        Ok(match rules.len() {
            0 => Self::Empty,
            1..=64 => Self::Small(Small::new(&rules)),
            _ => Self::Large(Large::new(&rules, limit_bytes)?),
        })
    }

    /// The first rule from `from` on that matches.
    #[inline]
    pub(super) fn find(&self, from: u32, subject: &Subject<'_, A>) -> Option<u32> {
        match self {
            Self::Empty => None,
            Self::Small(small) => small.find(from, subject),
            Self::Large(large) => large.find(from, subject),
        }
    }

    /// Whether any rule asks for the sets that an address is in.
    pub(super) fn uses_sets(&self) -> bool {
        match self {
            Self::Empty => false,
            Self::Small(small) => small.uses_sets(),
            Self::Large(large) => large.uses_sets(),
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        match self {
            Self::Empty => 0,
            Self::Small(small) => small.memory_bytes(),
            Self::Large(large) => large.memory_bytes(),
        }
    }
}
