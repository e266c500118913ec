//! More than 64 rules: bit vectors in blocks of 64, with summaries.
//!
//! Rules that ask for similar things stand in the same block, whatever their order in the list, so that a
//! field's value satisfies rules of few blocks. A row, the bit vector of an interval, has for every 64
//! blocks one word that says which blocks have any bit set and one that says which have all; only words
//! of the others are kept. A packet's rows are intersected summary by summary, then block by block.
//! Blocks are ordered by the first of their rules, and the search ends when no block can have a better one.

use fearless_simd::Simd;
use hashbrown::HashMap;

use super::criteria::Asked;
use super::fields::{FIELDS, Fields, Rows};
use super::{Find, NONE};
use crate::acl::check::{BATCH, Checks, Subject, Subjects};
use crate::acl::{AclError, Address, Rule};
use crate::prefetch;

/// Words before the kept words of a row, for every 64 blocks: any, some but not all, and where the kept
/// words begin.
const HEAD: usize = 3;

/// Where a row begins in the pool.
type Row = u32;

/// A list of rules in blocks.
#[derive(Clone, Debug)]
pub(super) struct Large<A: Address> {
    fields: Fields<A>,
    source: Box<[Row]>,
    destination: Box<[Row]>,
    source_port: Box<[Row]>,
    destination_port: Box<[Row]>,
    protocol: Box<[Row]>,
    /// All rows. The word 0 is all ones.
    pool: Box<[u64]>,
    /// Words of a summary.
    groups: usize,
    /// By block, the place of its first rule. Ascending.
    firsts: Box<[u32]>,
    /// By block, the rules that have checks.
    checked: Box<[u64]>,
    /// By block and bit, the rule's place in the list with those that are absent. Ascending in a block.
    places: Box<[u32]>,
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
            row[group * HEAD + 1] = any & !all;
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
    pub(super) fn new(
        rules: &[(u32, &Rule)],
        checks: &mut Checks,
        limit_bytes: usize,
    ) -> Result<Self, AclError> {
        let blocks = blocks::<A>(rules);
        let count = blocks.len();
        // A block that is not full is filled with what never holds.
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
        let asked = Asked::<A>::new(bits.iter().map(|bit| bit.map(|(_, rule)| rule)));
        let nothing = Rule::default();
        let mut checked = vec![0_u64; count];
        for (at, bit) in bits.iter().enumerate() {
            let rule = bit.map_or(&nothing, |(_, rule)| rule);
            checked[at / 64] |= u64::from(checks.push(rule)) << (at % 64);
        }
        let (fields, rows) = Fields::new(&asked, |dense| pool.row(dense))?;
        let Rows {
            source,
            destination,
            source_port,
            destination_port,
            protocol,
        } = rows;
        Ok(Self {
            fields,
            source: source.into(),
            destination: destination.into(),
            source_port: source_port.into(),
            destination_port: destination_port.into(),
            protocol: protocol.into(),
            pool: pool.words.into(),
            groups: pool.groups,
            firsts: blocks
                .iter()
                .map(|block| block.first().map_or(NONE, |(place, _)| *place))
                .collect(),
            checked: checked.into(),
            places: bits
                .iter()
                .map(|bit| bit.map_or(NONE, |(place, _)| place))
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

    /// Where the packet's rows begin.
    #[inline(always)]
    fn rows(&self, rows: [usize; FIELDS]) -> [u32; FIELDS] {
        let [source, destination, source_port, destination_port, protocol] = rows;
        let row = |rows: &[Row], at: usize| rows.get(at).copied().unwrap_or(0);
        [
            row(&self.source, source),
            row(&self.destination, destination),
            row(&self.destination_port, destination_port),
            row(&self.source_port, source_port),
            row(&self.protocol, protocol),
        ]
    }

    /// The word of block `bit` of the group whose head is at `head`, in the row at `row`. The row has a bit
    /// in the block.
    #[inline(always)]
    fn block_word(&self, row: usize, head: usize, bit: u32) -> u64 {
        let kept = self.word(head + 1);
        let before = kept & ((1_u64 << bit) - 1);
        let at = row + self.word(head + 2) as usize + before.count_ones() as usize;
        let is_kept = kept >> bit & 1 == 1;
        self.word(std::hint::select_unpredictable(is_kept, at, 0))
    }

    #[inline(always)]
    fn intersect(
        &self,
        rows: [u32; FIELDS],
        from: u32,
        subject: &Subject<'_, A>,
        checks: &Checks,
    ) -> u32 {
        let rows = rows.map(|row| row as usize);
        let mut best = NONE;
        for group in 0..self.groups {
            let heads = rows.map(|row| row + group * HEAD);
            let mut any = heads
                .iter()
                .fold(u64::MAX, |any, &head| any & self.word(head));
            while any != 0 {
                let bit = any.trailing_zeros();
                any &= any - 1;
                let block = group * 64 + bit as usize;
                if self.firsts.get(block).is_none_or(|&first| first >= best) {
                    return best;
                }
                let word = rows.iter().zip(heads).fold(u64::MAX, |word, (&row, head)| {
                    word & self.block_word(row, head, bit)
                });
                best = best.min(self.first_in(block, word, best, from, subject, checks));
            }
        }
        best
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
        checks: &Checks,
    ) -> u32 {
        while word != 0 {
            let bit = word.trailing_zeros() as usize;
            let at = block * 64 + bit;
            let place = self.places.get(at).copied().unwrap_or(NONE);
            if place >= best {
                return NONE;
            }
            let checked = self
                .checked
                .get(block)
                .is_some_and(|word| word >> bit & 1 == 1);
            if place >= from && (!checked || checks.hold(at, subject)) {
                return place;
            }
            word &= word - 1;
        }
        NONE
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.fields.memory_bytes()
            + size_of_val(&*self.source)
            + size_of_val(&*self.destination)
            + size_of_val(&*self.source_port)
            + size_of_val(&*self.destination_port)
            + size_of_val(&*self.protocol)
            + size_of_val(&*self.pool)
            + size_of_val(&*self.firsts)
            + size_of_val(&*self.checked)
            + size_of_val(&*self.places)
    }
}

impl<A: Address> Find<A> for Large<A> {
    #[inline(always)]
    fn find<S: Simd>(&self, simd: S, from: u32, subject: &Subject<'_, A>, checks: &Checks) -> u32 {
        let rows = self.rows(self.fields.rows(simd, subject.tuple));
        self.intersect(rows, from, subject, checks)
    }

    #[inline(always)]
    fn find_batch<S: Simd>(
        &self,
        simd: S,
        subjects: &Subjects<'_, A>,
        checks: &Checks,
        places: &mut [u32],
    ) {
        let mut rows = [[0; FIELDS]; BATCH];
        let columns = self.fields.columns(simd, subjects);
        for (at, rows) in rows.iter_mut().enumerate().take(subjects.which.len()) {
            *rows = self.rows(columns.rows(at));
            // The rows of addresses are many; those of ports and protocols are few and stay in the cache.
            for &row in &rows[..2] {
                if let Some(head) = self.pool.get(row as usize) {
                    prefetch(head);
                }
            }
        }
        for ((subject, rows), place) in subjects.iter().zip(rows).zip(places) {
            *place = self.intersect(rows, 0, &subject, checks);
        }
    }
}
