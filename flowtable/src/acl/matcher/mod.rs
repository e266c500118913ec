//! The first rule of a list that matches a packet, by bit vectors.
//!
//! Each field of the packet (two addresses, two ports, the protocol) selects a row, the bit vector of the
//! rules that it satisfies; the rules that all rows hold match. What no single field can answer, sets and
//! ICMP, is asked of the few rules that are left ([`super::check`]).
//!
//! Three sizes: rows of one word, rows of a few cache lines, and rows with summaries.

mod criteria;
mod fields;
mod large;
mod small;
mod wide;

use fearless_simd::{Level, Simd, dispatch};

use self::large::Large;
use self::small::Small;
use self::wide::Wide;
use super::check::{Checks, Subject, Subjects};
use super::{AclError, Address, Rule};
use crate::simd;

/// No rule, as a place in a list.
pub(super) const NONE: u32 = u32::MAX;

/// Rules up to which rows are kept whole.
const WIDE: usize = 1024;

/// A compiled list of rules for one family.
#[derive(Clone, Debug)]
pub struct Matcher<A: Address> {
    size: Size<A>,
    checks: Checks,
    level: Level,
}

#[derive(Clone, Debug)]
enum Size<A: Address> {
    /// No rule can match.
    Empty,
    Small(Small<A>),
    Wide(Wide<A>),
    Large(Large<A>),
}

/// A size of matcher: how it goes from a packet to its first rule.
trait Find<A: Address> {
    /// The place of the first rule from `from` on that matches, or [`NONE`].
    fn find<S: Simd>(&self, simd: S, from: u32, subject: &Subject<'_, A>, checks: &Checks) -> u32;

    /// `find` from the first rule on, of all packets.
    fn find_batch<S: Simd>(
        &self,
        simd: S,
        subjects: &Subjects<'_, A>,
        checks: &Checks,
        places: &mut [u32],
    );
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
        let mut checks = Checks::default();
        let size = match rules.len() {
            0 => Size::Empty,
            1..=64 => Size::Small(Small::new(&rules, &mut checks)),
            65..=WIDE => Size::Wide(Wide::new(&rules, &mut checks)),
            _ => Size::Large(Large::new(&rules, &mut checks, limit_bytes)?),
        };
        Ok(Self {
            size,
            checks,
            level: simd::best(),
        })
    }

    /// The place of the first rule from `from` on that matches, or [`NONE`].
    #[inline]
    pub(super) fn find(&self, from: u32, subject: &Subject<'_, A>) -> u32 {
        let checks = &self.checks;
        match &self.size {
            Size::Empty => NONE,
            Size::Small(it) => {
                dispatch!(self.level, simd => it.find(simd, from, subject, checks))
            }
            Size::Wide(it) => {
                dispatch!(self.level, simd => it.find(simd, from, subject, checks))
            }
            Size::Large(it) => {
                dispatch!(self.level, simd => it.find(simd, from, subject, checks))
            }
        }
    }

    /// [`Matcher::find`] from the first rule on, of all packets into `places`.
    pub(super) fn find_batch(&self, subjects: &Subjects<'_, A>, places: &mut [u32]) {
        let checks = &self.checks;
        match &self.size {
            Size::Empty => places.fill(NONE),
            Size::Small(it) => {
                dispatch!(self.level, simd => it.find_batch(simd, subjects, checks, places));
            }
            Size::Wide(it) => {
                dispatch!(self.level, simd => it.find_batch(simd, subjects, checks, places));
            }
            Size::Large(it) => {
                dispatch!(self.level, simd => it.find_batch(simd, subjects, checks, places));
            }
        }
    }

    /// Whether any rule asks for the sets that an address is in.
    pub(super) const fn uses_sets(&self) -> bool {
        self.checks.uses_sets()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.checks.memory_bytes()
            + match &self.size {
                Size::Empty => 0,
                Size::Small(it) => it.memory_bytes(),
                Size::Wide(it) => it.memory_bytes(),
                Size::Large(it) => it.memory_bytes(),
            }
    }
}
