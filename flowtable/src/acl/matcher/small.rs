//! Up to 64 rules: a row is one word.

use std::convert::Infallible;

use fearless_simd::Simd;

use super::criteria::Asked;
use super::fields::{FIELDS, Fields};
use super::{Find, NONE};
use crate::acl::check::{BATCH, Checks, Subject, Subjects};
use crate::acl::{Address, Rule};

/// A list of at most 64 rules; rule `n` of those present is bit `n`.
#[derive(Clone, Debug)]
pub(super) struct Small<A: Address> {
    fields: Fields<A>,
    source: Box<[u64]>,
    destination: Box<[u64]>,
    source_port: Box<[u64]>,
    destination_port: Box<[u64]>,
    protocol: Box<[u64]>,
    /// Rules that have checks.
    checked: u64,
    /// By bit, the rule's place in the list with those that are absent; then [`NONE`].
    places: Box<[u32]>,
}

/// The row with this number.
#[inline(always)]
fn row(rows: &[u64], at: usize) -> u64 {
    match rows.get(at) {
        Some(&row) => row,
        None => 0,
    }
}

impl<A: Address> Small<A> {
    pub(super) fn new(rules: &[(u32, &Rule)], checks: &mut Checks) -> Self {
        let asked = Asked::<A>::new(rules.iter().map(|&(_, rule)| Some(rule)));
        let Ok((fields, rows)) = Fields::new(&asked, |words| {
            Ok::<_, Infallible>(words.first().copied().unwrap_or(0))
        });
        let [source, destination, protocol, source_port, destination_port] = rows;
        let mut checked = 0;
        for (bit, (_, rule)) in rules.iter().enumerate() {
            checked |= u64::from(checks.push(rule)) << bit;
        }
        let places = rules.iter().map(|&(place, _)| place);
        Self {
            fields,
            source: source.into(),
            destination: destination.into(),
            source_port: source_port.into(),
            destination_port: destination_port.into(),
            protocol: protocol.into(),
            checked,
            places: places.chain([NONE]).collect(),
        }
    }

    /// The rules that hold for every field.
    #[inline(always)]
    fn candidates(&self, rows: [usize; FIELDS]) -> u64 {
        let [source, destination, protocol, source_port, destination_port] = rows;
        row(&self.source, source)
            & row(&self.destination, destination)
            & row(&self.source_port, source_port)
            & row(&self.destination_port, destination_port)
            & row(&self.protocol, protocol)
    }

    /// The place of the first of the rules `candidates` whose checks hold.
    #[inline(always)]
    fn first(&self, mut candidates: u64, subject: &Subject<'_, A>, checks: &Checks) -> u32 {
        let mut first = candidates & candidates.wrapping_neg();
        while first & self.checked != 0 && !checks.hold(first.ilog2() as usize, subject) {
            candidates ^= first;
            first = candidates & candidates.wrapping_neg();
        }
        let at = (candidates.trailing_zeros() as usize).min(self.places.len() - 1);
        self.places.get(at).copied().unwrap_or(NONE)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.fields.memory_bytes()
            + size_of_val(&*self.source)
            + size_of_val(&*self.destination)
            + size_of_val(&*self.source_port)
            + size_of_val(&*self.destination_port)
            + size_of_val(&*self.protocol)
            + size_of_val(&*self.places)
    }
}

impl<A: Address> Find<A> for Small<A> {
    #[inline(always)]
    fn find<S: Simd>(&self, simd: S, from: u32, subject: &Subject<'_, A>, checks: &Checks) -> u32 {
        let mut candidates = self.candidates(self.fields.rows(simd, subject.tuple));
        if from > 0 {
            let gone = self.places.partition_point(|&place| place < from) as u32;
            candidates &= u64::MAX.checked_shl(gone).unwrap_or(0);
        }
        self.first(candidates, subject, checks)
    }

    #[inline(always)]
    fn find_batch<S: Simd>(
        &self,
        simd: S,
        subjects: &Subjects<'_, A>,
        checks: &Checks,
        places: &mut [u32],
    ) {
        let columns = self.fields.columns(simd, subjects);
        if self.checked == 0 {
            for (at, place) in places.iter_mut().enumerate().take(BATCH) {
                let candidates = self.candidates(columns.rows(at));
                let first = (candidates.trailing_zeros() as usize).min(self.places.len() - 1);
                *place = self.places.get(first).copied().unwrap_or(NONE);
            }
            return;
        }
        for ((at, subject), place) in subjects.iter().enumerate().zip(places) {
            let candidates = self.candidates(columns.rows(at));
            *place = self.first(candidates, &subject, checks);
        }
    }
}
