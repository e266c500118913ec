//! More than 64 rules: bit vectors in blocks of 64, with summaries.
//!
//! Rules that ask for similar things stand in the same block, whatever their order in the list, so that a
//! field's value satisfies rules of few blocks. A row, the bit vector of an interval, has for every 64
//! blocks one word that says which blocks have any bit set and one that says which have all; only words
//! of the others are kept. A packet's rows are intersected summary by summary, then block by block.
//! Blocks are ordered by the first of their rules, and the search ends when no block can have a better one.

use hashbrown::HashMap;

use super::criteria::Fields;
use crate::acl::check::{Checks, Subject};
use crate::acl::intervals::{Criteria, Key, search};
use crate::acl::{AclError, Address, Rule};

/// Words before the kept words of a row, for every 64 blocks: any, all, and where the kept words begin.
const HEAD: usize = 3;

/// Where a row begins in the pool.
type Row = u32;

/// A list of more than 64 rules.
#[derive(Clone, Debug)]
pub struct Large<A> {
    source: Field<A>,
    destination: Field<A>,
    source_port: Ports,
    destination_port: Ports,
    without_ports: Row,
    protocol: Box<[Row; 256]>,
    /// All rows. The word 0 is all ones.
    pool: Box<[u64]>,
    /// Words of a summary.
    groups: usize,
    /// By block, the place of its first rule. Ascending.
    firsts: Box<[u32]>,
    /// By block, the rules that have checks.
    checked: Box<[u64]>,
    checks: Checks,
    /// By block and bit, the rule's place in the list with those that are absent. Ascending in a block.
    places: Box<[u32]>,
}

/// An address field: the first value of each interval, and its row.
#[derive(Clone, Debug)]
struct Field<K> {
    bounds: Box<[K]>,
    rows: Box<[Row]>,
}

/// A port field: rows by the port's low byte in pages by its high byte; pages that are the same are one.
#[derive(Clone, Debug)]
struct Ports {
    pages: Box<[u8; 256]>,
    rows: Box<[[Row; 256]]>,
}

/// Collects rows, each different one once.
struct Pool {
    words: Vec<u64>,
    rows: HashMap<Box<[u64]>, Row>,
    groups: usize,
    scratch: Vec<u64>,
    rules: usize,
    limit_bytes: usize,
}

impl Pool {
    fn row(&mut self, dense: &[u64]) -> Result<Row, AclError> {
        let row = &mut self.scratch;
        row.clear();
        row.resize(self.groups * HEAD, 0);
        for (group, blocks) in dense.chunks(64).enumerate() {
            let (mut any, mut all) = (0, 0);
            let kept = row.len();
            for (at, &word) in blocks.iter().enumerate() {
                any |= u64::from(word != 0) << at;
                all |= u64::from(word == u64::MAX) << at;
                if word != 0 && word != u64::MAX {
                    row.push(word);
                }
            }
            row[group * HEAD] = any;
            row[group * HEAD + 1] = all;
            row[group * HEAD + 2] = kept as u64;
        }
        if let Some(&found) = self.rows.get(&**row) {
            return Ok(found);
        }
        let at = self.words.len();
        let needed = (at + row.len()) * size_of::<u64>();
        if needed > self.limit_bytes || at > Row::MAX as usize {
            return Err(AclError::TooLarge {
                rules: self.rules,
                needed,
                limit: self.limit_bytes,
            });
        }
        self.words.extend_from_slice(row);
        self.rows.insert(row.as_slice().into(), at as Row);
        Ok(at as Row)
    }
}

impl<K: Key> Field<K> {
    fn new(criteria: &Criteria<K>, pool: &mut Pool) -> Result<Self, AclError> {
        let (mut bounds, mut rows) = (Vec::new(), Vec::new());
        criteria.sweep(|first, dense| {
            let row = pool.row(dense)?;
            if rows.last() != Some(&row) {
                bounds.push(first);
                rows.push(row);
            }
            Ok(())
        })?;
        Ok(Self {
            bounds: bounds.into(),
            rows: rows.into(),
        })
    }

    #[inline(always)]
    fn get(&self, value: K) -> Row {
        match self.rows.get(search(&self.bounds, value)) {
            Some(&row) => row,
            None => 0,
        }
    }

    fn memory_bytes(&self) -> usize {
        size_of_val(&*self.bounds) + size_of_val(&*self.rows)
    }
}

impl Ports {
    fn new(criteria: &Criteria<u16>, pool: &mut Pool) -> Result<Self, AclError> {
        let field = Field::new(criteria, pool)?;
        let mut all = Vec::with_capacity(1 << 16);
        let ends = field.bounds.iter().skip(1).map(|&bound| usize::from(bound));
        for (&row, end) in field.rows.iter().zip(ends.chain([1 << 16])) {
            all.resize(end, row);
        }
        let mut pages = Box::new([0; 256]);
        let mut rows: Vec<[Row; 256]> = Vec::new();
        for (page, found) in pages.iter_mut().zip(all.as_chunks::<256>().0) {
            let at = rows.iter().position(|own| own == found);
            *page = at.unwrap_or(rows.len()) as u8;
            if at.is_none() {
                rows.push(*found);
            }
        }
        Ok(Self {
            pages,
            rows: rows.into(),
        })
    }

    #[inline(always)]
    fn get(&self, port: u16) -> Row {
        let page = self.pages[usize::from(port >> 8)];
        match self.rows.get(usize::from(page)) {
            Some(rows) => rows[usize::from(port & 0xff)],
            None => 0,
        }
    }

    fn memory_bytes(&self) -> usize {
        size_of_val(&*self.pages) + size_of_val(&*self.rows)
    }
}

/// Blocks of rules that ask for similar things, ordered by their first rules.
fn blocks<'a, A: Address>(rules: &[(u32, &'a Rule)]) -> Vec<Vec<(u32, &'a Rule)>> {
    let mut sorted = rules.to_vec();
    sorted.sort_by_cached_key(|(_, rule)| {
        let net = |nets: &[_]| {
            nets.iter()
                .find_map(|&net| A::of_net(net))
                .filter(|net| net.2 > 0)
        };
        let (source, destination) = (net(&rule.source.nets), net(&rule.destination.nets));
        (
            source.is_none(),
            destination.is_none(),
            destination.map(|net| (net.0, net.2)),
            source.map(|net| (net.0, net.2)),
            rule.destination.sets.first().copied(),
            rule.source.sets.first().copied(),
            rule.protocol,
            rule.destination.ports.first().map(|range| range.first),
        )
    });
    let mut blocks: Vec<Vec<_>> = sorted.chunks(64).map(<[_]>::to_vec).collect();
    for block in &mut blocks {
        block.sort_unstable_by_key(|(place, _)| *place);
    }
    blocks.sort_unstable_by_key(|block| block.first().map(|(place, _)| *place));
    blocks
}

impl<A: Address> Large<A> {
    pub(super) fn new(rules: &[(u32, &Rule)], limit_bytes: usize) -> Result<Self, AclError> {
        let blocks = blocks::<A>(rules);
        // A block that is not full is filled with what never holds.
        let count = blocks.len();
        let mut bits: Vec<Option<(u32, &Rule)>> = Vec::with_capacity(count * 64);
        for block in &blocks {
            bits.extend(block.iter().copied().map(Some));
            bits.resize(bits.len().next_multiple_of(64), None);
        }
        let mut pool = Pool {
            words: vec![u64::MAX],
            rows: HashMap::new(),
            groups: count.div_ceil(64),
            scratch: Vec::new(),
            rules: rules.len(),
            limit_bytes,
        };
        let fields = Fields::<A>::new(bits.iter().map(|bit| bit.map(|(_, rule)| rule)));
        let nothing = Rule::default();
        let mut checks = Checks::default();
        let mut checked = vec![0_u64; count];
        for (at, bit) in bits.iter().enumerate() {
            checked[at / 64] |=
                u64::from(checks.push(bit.map_or(&nothing, |(_, rule)| rule))) << (at % 64);
        }
        let protocol = Field::new(&fields.protocol, &mut pool)?;
        Ok(Self {
            source: Field::new(&fields.source, &mut pool)?,
            destination: Field::new(&fields.destination, &mut pool)?,
            source_port: Ports::new(&fields.source_port, &mut pool)?,
            destination_port: Ports::new(&fields.destination_port, &mut pool)?,
            without_ports: pool.row(&fields.without_ports)?,
            protocol: Box::new(std::array::from_fn(|at| protocol.get(at as u8))),
            pool: pool.words.into(),
            groups: pool.groups,
            firsts: blocks
                .iter()
                .map(|block| block.first().map_or(u32::MAX, |(place, _)| *place))
                .collect(),
            checked: checked.into(),
            checks,
            places: bits
                .iter()
                .map(|bit| bit.map_or(u32::MAX, |(place, _)| place))
                .collect(),
        })
    }

    #[inline(always)]
    fn word(&self, at: usize) -> u64 {
        match self.pool.get(at) {
            Some(&word) => word,
            None => 0,
        }
    }

    /// The word of `block` in `row`, which has a bit there.
    #[inline(always)]
    fn block_word(&self, row: usize, group: usize, bit: u32) -> u64 {
        let head = row + group * HEAD;
        let (any, all) = (self.word(head), self.word(head + 1));
        let before = (any & !all) & ((1_u64 << bit) - 1);
        let kept = row + self.word(head + 2) as usize + before.count_ones() as usize;
        let is_full = all >> bit & 1 == 1;
        self.word(std::hint::select_unpredictable(is_full, 0, kept))
    }

    #[inline]
    pub(super) fn find(&self, from: u32, subject: &Subject<'_, A>) -> Option<u32> {
        let tuple = subject.tuple;
        let (source_port, destination_port) = match tuple.ports() {
            Some((source, destination)) => (
                self.source_port.get(source),
                self.destination_port.get(destination),
            ),
            None => (self.without_ports, self.without_ports),
        };
        let rows = [
            self.source.get(tuple.source),
            self.destination.get(tuple.destination),
            destination_port,
            source_port,
            self.protocol[usize::from(tuple.protocol)],
        ]
        .map(|row| row as usize);
        self.intersect(rows, from, subject)
    }

    #[inline(always)]
    fn intersect(&self, rows: [usize; 5], from: u32, subject: &Subject<'_, A>) -> Option<u32> {
        let mut best = u32::MAX;
        for group in 0..self.groups {
            let mut any = rows
                .iter()
                .fold(u64::MAX, |any, row| any & self.word(row + group * HEAD));
            while any != 0 {
                let bit = any.trailing_zeros();
                any &= any - 1;
                let block = group * 64 + bit as usize;
                if self.firsts.get(block).is_none_or(|&first| first >= best) {
                    return (best != u32::MAX).then_some(best);
                }
                let word = rows.iter().fold(u64::MAX, |word, &row| {
                    word & self.block_word(row, group, bit)
                });
                best = best.min(self.first_in(block, word, best, from, subject));
            }
        }
        (best != u32::MAX).then_some(best)
    }

    /// The place of the first rule among the bits `word` of `block` that is not before `from`, if it is
    /// before `best`.
    #[inline(always)]
    fn first_in(
        &self,
        block: usize,
        mut word: u64,
        best: u32,
        from: u32,
        subject: &Subject<'_, A>,
    ) -> u32 {
        while word != 0 {
            let bit = word.trailing_zeros() as usize;
            let at = block * 64 + bit;
            let place = self.places.get(at).copied().unwrap_or(u32::MAX);
            if place >= best {
                return u32::MAX;
            }
            let checked = self
                .checked
                .get(block)
                .is_some_and(|word| word >> bit & 1 == 1);
            if place >= from && (!checked || self.checks.hold(at, subject)) {
                return place;
            }
            word &= word - 1;
        }
        u32::MAX
    }

    pub(super) const fn uses_sets(&self) -> bool {
        self.checks.uses_sets()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.source.memory_bytes()
            + self.destination.memory_bytes()
            + self.source_port.memory_bytes()
            + self.destination_port.memory_bytes()
            + size_of_val(&*self.protocol)
            + size_of_val(&*self.pool)
            + size_of_val(&*self.firsts)
            + size_of_val(&*self.checked)
            + size_of_val(&*self.places)
            + self.checks.memory_bytes()
    }
}
