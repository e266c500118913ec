//! An endpoint's rules in one direction.

use std::sync::Arc;

use super::check::Subject;
use super::segment::Segment;
use super::sets::Members;
use super::{Action, Address, Logs, Reason, Sets, TierDefault, Tuple, Verdict};

/// A tier that has policies.
#[derive(Clone, Debug)]
pub(super) struct ChainTier {
    pub(super) segments: Box<[Arc<Segment>]>,
    pub(super) default: TierDefault,
    /// Its index among all tiers.
    pub(super) number: u16,
}

/// What an endpoint applies in one direction, compiled. Never changes. Cloning copies a pointer.
#[derive(Clone, Debug)]
pub struct Chain {
    parts: Arc<Parts>,
}

#[derive(Debug)]
struct Parts {
    tiers: Box<[ChainTier]>,
    profiles: Box<[Arc<Segment>]>,
    allow_at_end: bool,
    uses_sets: bool,
}

/// What the rules of a tier say.
enum Outcome {
    Decided(bool, Reason),
    Passed,
    NoMatch,
}

impl Chain {
    pub(super) fn new(
        tiers: Vec<ChainTier>,
        profiles: Box<[Arc<Segment>]>,
        allow_at_end: bool,
    ) -> Self {
        let uses_sets = tiers
            .iter()
            .flat_map(|tier| &tier.segments)
            .chain(&profiles)
            .any(|segment| segment.uses_sets());
        Self {
            parts: Arc::new(Parts {
                tiers: tiers.into(),
                profiles,
                allow_at_end,
                uses_sets,
            }),
        }
    }

    /// Whether any rule asks for the sets that an address is in, so that [`Chain::classify_known`] needs
    /// them.
    #[must_use]
    pub fn uses_sets(&self) -> bool {
        self.parts.uses_sets
    }

    /// Decides about a packet.
    #[must_use]
    pub fn classify<A: Address>(&self, sets: &Sets, tuple: &Tuple<A>) -> Verdict {
        if !self.uses_sets() {
            return self.classify_known(sets, tuple, &Members::default(), &Members::default());
        }
        let (source, destination) = (sets.members(tuple.source), sets.members(tuple.destination));
        self.classify_known(sets, tuple, &source, &destination)
    }

    /// [`Chain::classify`] with the sets that source and destination are in, as [`Sets::members`] of the
    /// same `sets` says: looked up once for the chains of both ends, or for many packets together.
    #[must_use]
    pub fn classify_known<A: Address>(
        &self,
        sets: &Sets,
        tuple: &Tuple<A>,
        source: &Members,
        destination: &Members,
    ) -> Verdict {
        let subject = Subject {
            tuple,
            sets,
            source,
            destination,
        };
        let mut logs = Logs::default();
        let (allow, reason) = self.decide(&subject, &mut logs);
        Verdict {
            allow,
            reason,
            logs,
        }
    }

    #[inline]
    fn decide<A: Address>(&self, subject: &Subject<'_, A>, logs: &mut Logs) -> (bool, Reason) {
        for tier in &self.parts.tiers {
            match ask(&tier.segments, subject, logs) {
                Outcome::Decided(allow, reason) => return (allow, reason),
                Outcome::NoMatch if tier.default == TierDefault::Deny => {
                    return (false, Reason::TierDefault(tier.number));
                }
                Outcome::NoMatch | Outcome::Passed => {}
            }
        }
        match ask(&self.parts.profiles, subject, logs) {
            Outcome::Decided(allow, reason) => (allow, reason),
            Outcome::NoMatch | Outcome::Passed => (self.parts.allow_at_end, Reason::End),
        }
    }

    /// Bytes of the chain. Segments are counted in full, though other chains may share them.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let tiers = &self.parts.tiers;
        let segments = tiers.iter().flat_map(|tier| &tier.segments);
        size_of::<Parts>()
            + size_of_val(&**tiers)
            + segments
                .chain(&self.parts.profiles)
                .map(|segment| size_of::<Arc<Segment>>() + segment.memory_bytes())
                .sum::<usize>()
    }
}

/// Asks a tier's rules in order, until one decides.
#[inline]
fn ask<A: Address>(
    segments: &[Arc<Segment>],
    subject: &Subject<'_, A>,
    logs: &mut Logs,
) -> Outcome {
    for segment in segments {
        let mut from = 0;
        while let Some(place) = A::matcher(segment).find(from, subject) {
            let Some(head) = segment.heads.get(place as usize) else {
                break;
            };
            match head.action {
                Action::Allow => return Outcome::Decided(true, Reason::Rule(head.id)),
                Action::Deny => return Outcome::Decided(false, Reason::Rule(head.id)),
                Action::Pass => return Outcome::Passed,
                Action::Log => logs.push(head.id),
            }
            from = place + 1;
        }
    }
    Outcome::NoMatch
}
