//! An endpoint's rules in one direction.

use std::sync::Arc;

use super::check::{BATCH, Subject, Subjects};
use super::matcher::NONE;
use super::segment::Segment;
use super::sets::Members;
use super::{Action, Address, Logs, Reason, Sets, TierDefault, Tuple, Verdict};

/// A tier that has policies.
#[derive(Clone, Debug)]
pub(super) struct ChainTier {
    pub(super) segments: Arc<[Arc<Segment>]>,
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
    profiles: Arc<[Arc<Segment>]>,
    allow_at_end: bool,
    uses_sets: bool,
}

/// What the rules of a tier say.
enum Outcome {
    Decided(bool, Reason),
    Passed,
    NoMatch,
}

impl Default for Chain {
    /// No rule, and nothing passes.
    fn default() -> Self {
        Self::new(Vec::new(), std::sync::Arc::from([]), false)
    }
}

impl Chain {
    pub(super) fn new(
        tiers: Vec<ChainTier>,
        profiles: Arc<[Arc<Segment>]>,
        allow_at_end: bool,
    ) -> Self {
        let uses_sets = tiers
            .iter()
            .flat_map(|tier| &*tier.segments)
            .chain(&*profiles)
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
            return self.classify_known(sets, tuple, &Members::NONE, &Members::NONE);
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

    /// [`Chain::classify`] of each of `tuples` into `out`, as many as the shorter of the two holds.
    pub fn classify_batch<A: Address>(
        &self,
        sets: &Sets,
        tuples: &[Tuple<A>],
        out: &mut [Verdict],
    ) {
        for (tuples, out) in tuples.chunks(BATCH).zip(out.chunks_mut(BATCH)) {
            if !self.uses_sets() {
                self.classify_known_batch(sets, tuples, &[], &[], out);
                continue;
            }
            let mut addrs = [tuples[0].source; BATCH];
            let (mut sources, mut destinations) = ([Members::NONE; BATCH], [Members::NONE; BATCH]);
            for (addr, tuple) in addrs.iter_mut().zip(tuples) {
                *addr = tuple.source;
            }
            sets.members_batch(&addrs[..tuples.len()], &mut sources);
            for (addr, tuple) in addrs.iter_mut().zip(tuples) {
                *addr = tuple.destination;
            }
            sets.members_batch(&addrs[..tuples.len()], &mut destinations);
            self.classify_known_batch(sets, tuples, &sources, &destinations, out);
        }
    }

    /// [`Chain::classify_known`] of each of `tuples` into `out`; `sources` and `destinations` are the sets
    /// of their addresses, and may be empty if the chain does not use them.
    pub fn classify_known_batch<A: Address>(
        &self,
        sets: &Sets,
        tuples: &[Tuple<A>],
        sources: &[Members],
        destinations: &[Members],
        out: &mut [Verdict],
    ) {
        for (at, (tuples, out)) in tuples.chunks(BATCH).zip(out.chunks_mut(BATCH)).enumerate() {
            let subjects = Subjects {
                tuples: &tuples[..tuples.len().min(out.len())],
                sets,
                sources: sources.get(at * BATCH..).unwrap_or(&[]),
                destinations: destinations.get(at * BATCH..).unwrap_or(&[]),
                which: &[],
            };
            self.decide_batch(&subjects, out);
        }
    }

    /// Decides about up to 64 packets: tier by tier, segment by segment, those that are left together.
    fn decide_batch<A: Address>(&self, all: &Subjects<'_, A>, out: &mut [Verdict]) {
        let count = all.tuples.len();
        // Packets that the tier has not decided about, and those that it passed.
        let mut left: [u8; BATCH] = std::array::from_fn(|at| at as u8);
        let mut passed = [0; BATCH];
        let (mut left_count, mut passed_count) = (count, 0);
        let tiers = self.parts.tiers.iter().map(|tier| {
            let denies = tier.default == TierDefault::Deny;
            (
                &tier.segments,
                denies.then_some((false, Reason::TierDefault(tier.number))),
            )
        });
        let end = (self.parts.allow_at_end, Reason::End);
        for (segments, default) in tiers.chain([(&self.parts.profiles, None)]) {
            for segment in &**segments {
                if left_count == 0 {
                    break;
                }
                let mut places = [NONE; BATCH];
                let which = &left[..left_count];
                A::matcher(segment)
                    .find_batch(&Subjects { which, ..*all }, &mut places[..left_count]);
                let mut kept = 0;
                for i in 0..left_count {
                    let at = left[i];
                    let Some(head) = segment.heads.get(places[i] as usize) else {
                        left[kept] = at;
                        kept += 1;
                        continue;
                    };
                    match head.action {
                        Action::Allow | Action::Deny => {
                            out[usize::from(at)] = Verdict {
                                allow: head.action == Action::Allow,
                                reason: Reason::Rule(head.id),
                                logs: Logs::default(),
                            };
                        }
                        Action::Pass => {
                            passed[passed_count] = at;
                            passed_count += 1;
                        }
                        // Rare: from the beginning, by itself.
                        Action::Log => {
                            let one = [at];
                            for subject in (Subjects {
                                which: &one,
                                ..*all
                            })
                            .iter()
                            {
                                let mut logs = Logs::default();
                                let (allow, reason) = self.decide(&subject, &mut logs);
                                out[usize::from(at)] = Verdict {
                                    allow,
                                    reason,
                                    logs,
                                };
                            }
                        }
                    }
                }
                left_count = kept;
            }
            if let Some((allow, reason)) = default {
                for &at in &left[..left_count] {
                    out[usize::from(at)] = Verdict {
                        allow,
                        reason,
                        logs: Logs::default(),
                    };
                }
                left_count = 0;
            }
            for &at in &passed[..passed_count] {
                left[left_count] = at;
                left_count += 1;
            }
            passed_count = 0;
        }
        for &at in &left[..left_count] {
            let (allow, reason) = end;
            out[usize::from(at)] = Verdict {
                allow,
                reason,
                logs: Logs::default(),
            };
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
        let segments = tiers.iter().flat_map(|tier| &*tier.segments);
        size_of::<Parts>()
            + size_of_val(&**tiers)
            + segments
                .chain(&*self.parts.profiles)
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
        loop {
            let place = A::matcher(segment).find(from, subject);
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
