//! More rules: bit vectors over addresses in blocks of 64 rules, with summaries.
//!
//! Rules that ask for similar addresses stand in the same block, whatever their order in the list, so that
//! an address satisfies rules of few blocks. A row, the bit vector of an interval, has for every 64 blocks
//! one word that says which blocks have any bit set and one that says which of them need a word; blocks
//! that have all bits set need none. A packet's two rows are intersected summary by summary, then block by
//! block; in the blocks that are left, all rules' ports are compared at once.
//!
//! A batch does each of these steps for all packets before the next, so that loads are under way together
//! and few branches depend on a single packet.

mod order;
mod pool;
mod ports;

use fearless_simd::Simd;

use self::pool::{Pool, PoolBuilder, Row};
use self::ports::PortBlock;
use super::criteria::Asked;
use super::fields::{ADDRESSES, Addresses};
use super::{Find, NONE};
use crate::acl::check::{BATCH, Checks, Subject, Subjects};
use crate::acl::{AclError, Address, Rule, Tuple};

/// A list of rules in blocks.
#[derive(Clone, Debug)]
pub(super) struct Large<A: Address> {
    addresses: Addresses<A>,
    source: Box<[Row]>,
    destination: Box<[Row]>,
    sources: Pool,
    destinations: Pool,
    /// By class of protocols and block, the rules that hold.
    protocol: Box<[u64]>,
    blocks: Box<[Block]>,
    /// By block and bit, the rule's place in the list with those that are absent. Ascending in a block.
    places: Box<[u32]>,
}

#[derive(Clone, Debug)]
struct Block {
    ports: PortBlock,
    /// Rules that have checks.
    checked: u64,
}

/// Where a packet's addresses lead.
#[derive(Clone, Copy, Debug, Default)]
struct Start {
    source: Row,
    destination: Row,
    /// The first word of its class of protocols.
    protocol: u32,
}

/// A packet and a block in which both its rows have rules.
#[derive(Clone, Copy, Debug, Default)]
struct Pair {
    packet: u8,
    bit: u8,
    group: u16,
    /// Words of the rows that are kept for earlier groups.
    source_before: u32,
    destination_before: u32,
}

/// Pairs of a packet that a batch has room for; a packet with more is asked by itself.
const PAIRS: usize = 16;

impl Pair {
    #[inline(always)]
    fn block(&self) -> usize {
        usize::from(self.group) * 64 + usize::from(self.bit)
    }
}

impl<A: Address> Large<A> {
    pub(super) fn new(
        rules: &[(u32, &Rule)],
        checks: &mut Checks,
        limit_bytes: usize,
    ) -> Result<Self, AclError> {
        let ordered = order::blocks::<A>(rules);
        // A block that is not full is filled with what never holds.
        let mut bits: Vec<Option<(u32, &Rule)>> = Vec::with_capacity(ordered.len() * 64);
        for block in &ordered {
            bits.extend(block.iter().copied().map(Some));
            bits.resize(bits.len().next_multiple_of(64), None);
        }
        let asked = Asked::<A>::new(bits.iter().map(|bit| bit.map(|(_, rule)| rule)));
        let nothing = Rule::default();
        let rule = |bit: &Option<(u32, _)>| bit.map_or(&nothing, |(_, rule)| rule);
        let blocks = bits
            .chunks(64)
            .map(|bits| {
                let mut checked = 0;
                for (at, bit) in bits.iter().enumerate() {
                    checked |= u64::from(checks.push_with_ports(rule(bit))) << at;
                }
                let ports = PortBlock::new(bits.iter().map(rule));
                Block { ports, checked }
            })
            .collect();
        let pool = || PoolBuilder::new(ordered.len(), rules.len(), limit_bytes);
        let (mut sources, mut destinations) = (pool(), pool());
        let (addresses, source, destination, protocol) = Addresses::new(
            &asked,
            |dense| sources.row(dense),
            |dense| destinations.row(dense),
            |dense| Ok(dense.to_vec()),
        )?;
        Ok(Self {
            addresses,
            source: source.into(),
            destination: destination.into(),
            protocol: protocol.concat().into(),
            sources: sources.finish(),
            destinations: destinations.finish(),
            blocks,
            places: bits
                .iter()
                .map(|bit| bit.map_or(NONE, |(place, _)| place))
                .collect(),
        })
    }

    #[inline(always)]
    fn start(&self, [source, destination, protocol]: [usize; ADDRESSES]) -> Start {
        let row = |rows: &[Row], at: usize| rows.get(at).copied().unwrap_or(0);
        Start {
            source: row(&self.source, source),
            destination: row(&self.destination, destination),
            protocol: (protocol * self.blocks.len()) as u32,
        }
    }

    /// Calls `each` with each block in which both rows have rules.
    #[inline(always)]
    fn each_block(&self, packet: u8, start: Start, mut each: impl FnMut(Pair)) {
        let (source, destination) = (start.source, start.destination);
        let (mut source_before, mut destination_before) = (0, 0);
        for group in 0..self.blocks.len().div_ceil(64) {
            let mut any =
                self.sources.any(source, group) & self.destinations.any(destination, group);
            while any != 0 {
                each(Pair {
                    packet,
                    bit: any.trailing_zeros() as u8,
                    group: group as u16,
                    source_before,
                    destination_before,
                });
                any &= any - 1;
            }
            source_before += self.sources.kept(source, group).count_ones();
            destination_before += self.destinations.kept(destination, group).count_ones();
        }
    }

    /// The rules of a block that hold for both addresses.
    #[inline(always)]
    fn word(&self, start: Start, pair: &Pair) -> u64 {
        let (group, bit) = (usize::from(pair.group), u32::from(pair.bit) % 64);
        self.sources
            .word(start.source, group, pair.source_before, bit)
            & self
                .destinations
                .word(start.destination, group, pair.destination_before, bit)
    }

    /// The rules of a block that hold for ports and protocol.
    #[inline(always)]
    fn others<S: Simd>(&self, simd: S, block: usize, start: Start, tuple: &Tuple<A>) -> u64 {
        let Some(found) = self.blocks.get(block) else {
            return 0;
        };
        let ports = match tuple.ports() {
            Some((source, destination)) => found.ports.holding(simd, source, destination),
            None => found.ports.without_ports,
        };
        let protocol = self.protocol.get(start.protocol as usize + block);
        ports & protocol.copied().unwrap_or(0)
    }

    /// The place of the first of the rules `word` of a block that is not before `from`, and whose checks
    /// hold.
    #[inline(always)]
    fn first_in(
        &self,
        block: usize,
        mut word: u64,
        from: u32,
        subject: &Subject<'_, A>,
        checks: &Checks,
    ) -> u32 {
        let checked = self.blocks.get(block).map_or(0, |block| block.checked);
        while word != 0 {
            let bit = word.trailing_zeros() as usize;
            let at = block * 64 + bit;
            let place = self.places.get(at).copied().unwrap_or(NONE);
            if place >= from && (checked >> bit & 1 == 0 || checks.hold(at, subject)) {
                return place;
            }
            word &= word - 1;
        }
        NONE
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.addresses.memory_bytes()
            + size_of_val(&*self.source)
            + size_of_val(&*self.destination)
            + size_of_val(&*self.protocol)
            + self.sources.memory_bytes()
            + self.destinations.memory_bytes()
            + size_of_val(&*self.blocks)
            + size_of_val(&*self.places)
    }
}

impl<A: Address> Find<A> for Large<A> {
    #[inline(always)]
    fn find<S: Simd>(&self, simd: S, from: u32, subject: &Subject<'_, A>, checks: &Checks) -> u32 {
        let start = self.start(self.addresses.rows(simd, subject.tuple));
        let mut best = NONE;
        self.each_block(0, start, |pair| {
            let (block, word) = (pair.block(), self.word(start, &pair));
            if word != 0 {
                let word = word & self.others(simd, block, start, subject.tuple);
                best = best.min(self.first_in(block, word, from, subject, checks));
            }
        });
        best
    }

    #[inline(always)]
    fn find_batch<S: Simd>(
        &self,
        simd: S,
        subjects: &Subjects<'_, A>,
        checks: &Checks,
        places: &mut [u32],
    ) {
        let columns = self.addresses.columns(simd, subjects);
        let mut starts = [Start::default(); BATCH];
        for (at, start) in starts.iter_mut().enumerate().take(subjects.which.len()) {
            *start = self.start(columns.rows(at));
            self.sources.prefetch(start.source);
            self.destinations.prefetch(start.destination);
        }
        let mut pairs = [Pair::default(); BATCH * PAIRS];
        let mut count = 0;
        for ((at, subject), place) in subjects.iter().enumerate().zip(&mut *places) {
            *place = NONE;
            let (start, before) = (starts[at], count);
            self.each_block(at as u8, start, |pair| {
                if let Some(free) = pairs.get_mut(count) {
                    *free = pair;
                }
                count += 1;
            });
            if count > before + PAIRS {
                count = before;
                *place = self.find(simd, 0, &subject, checks);
            }
        }
        // Pairs whose words have bits in common move to the front.
        let mut words = [0; BATCH * PAIRS];
        let mut left = 0;
        for at in 0..count.min(pairs.len()) {
            let pair = pairs[at];
            let word = self.word(starts[usize::from(pair.packet) % BATCH], &pair);
            pairs[left] = pair;
            words[left] = word;
            left += usize::from(word != 0);
        }
        for (pair, word) in pairs[..left].iter().zip(words) {
            let (at, block) = (usize::from(pair.packet) % BATCH, pair.block());
            let Some(subject) = subjects.get(at) else {
                continue;
            };
            let word = word & self.others(simd, block, starts[at], subject.tuple);
            let found = self.first_in(block, word, 0, &subject, checks);
            if let Some(place) = places.get_mut(at) {
                *place = found.min(*place);
            }
        }
    }
}
