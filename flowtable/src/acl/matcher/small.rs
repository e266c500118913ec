//! Up to 64 rules: the bit vectors are single words.

use std::convert::Infallible;

use super::criteria::Fields;
use crate::acl::check::{Checks, Subject};
use crate::acl::intervals::{Criteria, Key, search};
use crate::acl::{Address, Rule};

/// One field: the first value of each interval, and the rules that hold in it.
#[derive(Clone, Debug)]
struct Field<K> {
    bounds: Box<[K]>,
    words: Box<[u64]>,
}

/// A list of at most 64 rules; rule `n` of those present is bit `n`.
#[derive(Clone, Debug)]
pub struct Small<A> {
    source: Field<A>,
    destination: Field<A>,
    source_port: Field<u16>,
    destination_port: Field<u16>,
    protocol: Field<u8>,
    without_ports: u64,
    /// Rules that have checks.
    checked: u64,
    checks: Checks,
    /// By bit, the rule's place in the list with those that are absent.
    places: Box<[u32]>,
}

impl<K: Key> Field<K> {
    fn new(criteria: &Criteria<K>) -> Self {
        let (mut bounds, mut words) = (Vec::new(), Vec::new());
        let Ok(()) = criteria.sweep(|first, row| {
            let row = row.first().copied().unwrap_or(0);
            if words.last() != Some(&row) {
                bounds.push(first);
                words.push(row);
            }
            Ok::<_, Infallible>(())
        });
        Self {
            bounds: bounds.into(),
            words: words.into(),
        }
    }

    #[inline(always)]
    fn get(&self, value: K) -> u64 {
        match self.words.get(search(&self.bounds, value)) {
            Some(&word) => word,
            None => 0,
        }
    }

    fn memory_bytes(&self) -> usize {
        size_of_val(&*self.bounds) + size_of_val(&*self.words)
    }
}

impl<A: Address> Small<A> {
    pub(super) fn new(rules: &[(u32, &Rule)]) -> Self {
        let fields = Fields::<A>::new(rules.iter().map(|&(_, rule)| Some(rule)));
        let mut checks = Checks::default();
        let mut checked = 0;
        for (bit, (_, rule)) in rules.iter().enumerate() {
            checked |= u64::from(checks.push(rule)) << bit;
        }
        Self {
            source: Field::new(&fields.source),
            destination: Field::new(&fields.destination),
            source_port: Field::new(&fields.source_port),
            destination_port: Field::new(&fields.destination_port),
            protocol: Field::new(&fields.protocol),
            without_ports: fields.without_ports.first().copied().unwrap_or(0),
            checked,
            checks,
            places: rules.iter().map(|&(place, _)| place).collect(),
        }
    }

    /// The rules that hold for every field.
    #[inline(always)]
    fn candidates(&self, subject: &Subject<'_, A>) -> u64 {
        let tuple = subject.tuple;
        let ports = match tuple.ports() {
            Some((source, destination)) => {
                self.source_port.get(source) & self.destination_port.get(destination)
            }
            None => self.without_ports,
        };
        ports
            & self.protocol.get(tuple.protocol)
            & self.source.get(tuple.source)
            & self.destination.get(tuple.destination)
    }

    #[inline]
    pub(super) fn find(&self, from: u32, subject: &Subject<'_, A>) -> Option<u32> {
        let mut candidates = self.candidates(subject);
        if from > 0 {
            let gone = self.places.partition_point(|&place| place < from) as u32;
            candidates &= u64::MAX.checked_shl(gone).unwrap_or(0);
        }
        while candidates != 0 {
            let bit = candidates.trailing_zeros() as usize;
            if self.checked >> bit & 1 == 0 || self.checks.hold(bit, subject) {
                return self.places.get(bit).copied();
            }
            candidates &= candidates - 1;
        }
        None
    }

    pub(super) const fn uses_sets(&self) -> bool {
        self.checks.uses_sets()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.source.memory_bytes()
            + self.destination.memory_bytes()
            + self.source_port.memory_bytes()
            + self.destination_port.memory_bytes()
            + self.protocol.memory_bytes()
            + self.checks.memory_bytes()
            + size_of_val(&*self.places)
    }
}
