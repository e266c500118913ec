//! Some hundred rules: a row is a few cache lines.

use std::convert::Infallible;

use fearless_simd::prelude::*;
use fearless_simd::u64x8;

use super::criteria::Asked;
use super::fields::{FIELDS, Fields};
use super::{Find, NONE, WIDE};
use crate::acl::check::{BATCH, Checks, Subject, Subjects};
use crate::acl::tree::Line;
use crate::acl::{Address, Rule};

/// Rules of one cache line.
const LINE: usize = 512;

/// Cache lines of the longest row.
const MOST: usize = WIDE / LINE;

/// One cache line of a row.
type RowLine = Line<[u64; 8]>;

/// A list of rules; rule `n` of those present is bit `n`.
#[derive(Clone, Debug)]
pub(super) struct Wide<A: Address> {
    fields: Fields<A>,
    /// Row `n` is `lines` cache lines from `n * lines` on.
    source: Box<[RowLine]>,
    destination: Box<[RowLine]>,
    source_port: Box<[RowLine]>,
    destination_port: Box<[RowLine]>,
    protocol: Box<[RowLine]>,
    lines: usize,
    /// Rules that have checks, and whether there are any.
    checked: Box<[u64]>,
    has_checks: bool,
    /// By bit, the rule's place in the list with those that are absent; then [`NONE`], once behind the
    /// last bit.
    places: Box<[u32]>,
}

/// Words of the longest row, and one behind it.
const WORDS: usize = MOST * 8 + 1;

/// The rules that match. Behind the last is one more, so that there is always a first.
struct Candidates {
    words: Line<[u64; WORDS]>,
    /// Which words are not 0.
    some: u64,
}

impl Candidates {
    /// None, in rows of `lines` cache lines, and the one behind.
    #[inline(always)]
    fn new(lines: usize) -> Self {
        let mut words = Line([0; WORDS]);
        words.0[lines * 8] = 1;
        Self {
            words,
            some: 1 << (lines * 8),
        }
    }
}

impl<A: Address> Wide<A> {
    pub(super) fn new(rules: &[(u32, &Rule)], checks: &mut Checks) -> Self {
        let asked = Asked::<A>::new(rules.iter().map(|&(_, rule)| Some(rule)));
        let Ok((fields, rows)) = Fields::new(&asked, |words| Ok::<_, Infallible>(words.to_vec()));
        let [source, destination, protocol, source_port, destination_port] = rows;
        let lines = rules.len().div_ceil(LINE);
        let whole = |rows: Vec<Vec<u64>>| -> Box<[RowLine]> {
            let line = |row: &Vec<u64>, at: usize| {
                Line(std::array::from_fn(|word| {
                    row.get(at * 8 + word).copied().unwrap_or(0)
                }))
            };
            rows.iter()
                .flat_map(|row| (0..lines).map(move |at| line(row, at)))
                .collect()
        };
        let mut checked = vec![0; lines * 8];
        for (bit, (_, rule)) in rules.iter().enumerate() {
            checked[bit / 64] |= u64::from(checks.push(rule)) << (bit % 64);
        }
        let places = rules.iter().map(|&(place, _)| place);
        Self {
            fields,
            source: whole(source),
            destination: whole(destination),
            source_port: whole(source_port),
            destination_port: whole(destination_port),
            protocol: whole(protocol),
            lines,
            has_checks: checked.iter().any(|&word| word != 0),
            checked: checked.into(),
            places: places
                .chain(std::iter::repeat(NONE))
                .take(lines * LINE + 1)
                .collect(),
        }
    }

    /// Finds the rules that hold for every field. `lines` is the field, as a constant where it is known.
    #[inline(always)]
    fn intersect<S: Simd>(
        &self,
        simd: S,
        rows: [usize; FIELDS],
        lines: usize,
        found: &mut Candidates,
    ) {
        let [source, destination, protocol, source_port, destination_port] = rows;
        found.some = 1 << (lines * 8);
        for at in 0..lines {
            let line = |rows: &[RowLine], row: usize| -> u64x8<S> {
                match rows.get(row * lines + at) {
                    Some(line) => line.0.simd_into(simd),
                    None => u64x8::splat(simd, 0),
                }
            };
            let all = line(&self.source, source)
                & line(&self.destination, destination)
                & line(&self.source_port, source_port)
                & line(&self.destination_port, destination_port)
                & line(&self.protocol, protocol);
            let none = all.simd_eq(u64x8::splat(simd, 0)).to_bitmask();
            found.some |= (!none & 0xff) << (at * 8);
            all.store_slice(&mut found.words.0[at * 8..at * 8 + 8]);
        }
    }

    /// The place of the first rule; checks are not asked.
    #[inline(always)]
    fn first(&self, found: &Candidates) -> u32 {
        let word = found.some.trailing_zeros() as usize;
        let bit = found
            .words
            .0
            .get(word)
            .map_or(0, |word| word.trailing_zeros());
        self.places
            .get(word * 64 + bit as usize)
            .copied()
            .unwrap_or(NONE)
    }

    /// The place of the first rule from `from` on whose checks hold.
    fn first_checked(
        &self,
        found: &Candidates,
        from: u32,
        subject: &Subject<'_, A>,
        checks: &Checks,
    ) -> u32 {
        let mut some = found.some;
        while some != 0 {
            let at = some.trailing_zeros() as usize;
            some &= some - 1;
            let mut word = found.words.0.get(at).copied().unwrap_or(0);
            let checked = self.checked.get(at).copied().unwrap_or(0);
            while word != 0 {
                let bit = word.trailing_zeros();
                word &= word - 1;
                let rule = at * 64 + bit as usize;
                let place = self.places.get(rule).copied().unwrap_or(NONE);
                if place >= from && (checked >> bit & 1 == 0 || checks.hold(rule, subject)) {
                    return place;
                }
            }
        }
        NONE
    }

    /// [`Find::find_batch`] for rows of this many lines.
    #[inline(always)]
    fn find_all<S: Simd>(
        &self,
        simd: S,
        subjects: &Subjects<'_, A>,
        checks: &Checks,
        places: &mut [u32],
        lines: usize,
    ) {
        let columns = self.fields.columns(simd, subjects);
        let mut found = Candidates::new(lines);
        if !self.has_checks {
            for (at, place) in places.iter_mut().enumerate().take(BATCH) {
                self.intersect(simd, columns.rows(at), lines, &mut found);
                *place = self.first(&found);
            }
            return;
        }
        for ((at, subject), place) in subjects.iter().enumerate().zip(places) {
            self.intersect(simd, columns.rows(at), lines, &mut found);
            *place = self.first_checked(&found, 0, &subject, checks);
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.fields.memory_bytes()
            + size_of_val(&*self.source)
            + size_of_val(&*self.destination)
            + size_of_val(&*self.source_port)
            + size_of_val(&*self.destination_port)
            + size_of_val(&*self.protocol)
            + size_of_val(&*self.checked)
            + size_of_val(&*self.places)
    }
}

impl<A: Address> Find<A> for Wide<A> {
    #[inline(always)]
    fn find<S: Simd>(&self, simd: S, from: u32, subject: &Subject<'_, A>, checks: &Checks) -> u32 {
        let lines = self.lines.min(MOST);
        let mut found = Candidates::new(lines);
        let rows = self.fields.rows(simd, subject.tuple);
        self.intersect(simd, rows, lines, &mut found);
        if from == 0 && !self.has_checks {
            return self.first(&found);
        }
        self.first_checked(&found, from, subject, checks)
    }

    #[inline(always)]
    fn find_batch<S: Simd>(
        &self,
        simd: S,
        subjects: &Subjects<'_, A>,
        checks: &Checks,
        places: &mut [u32],
    ) {
        match self.lines {
            1 => self.find_all(simd, subjects, checks, places, 1),
            _ => self.find_all(simd, subjects, checks, places, MOST),
        }
    }
}
