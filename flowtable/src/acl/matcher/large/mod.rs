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
    has_checks: bool,
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

/// A packet, and the blocks of a group in which both its rows have rules.
#[derive(Clone, Copy, Debug, Default)]
struct Blocks {
    any: u64,
    packet: u8,
    group: u8,
}

/// A packet, a block, and the rules of it that hold.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    word: u64,
    packet: u8,
    block: u16,
}

/// Groups of blocks that a batch has room for.
const GROUPS: usize = 8;

/// Blocks that a batch finds before it looks into them.
const FOUND: usize = 512;

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
        let blocks: Box<[Block]> = bits
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
            has_checks: blocks.iter().any(|block| block.checked != 0),
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

    /// The blocks of a group in which both rows have rules.
    #[inline(always)]
    fn any(&self, start: Start, group: usize) -> u64 {
        self.sources.any(start.source, group) & self.destinations.any(start.destination, group)
    }

    /// The rules of block `bit` of a group that hold for both addresses.
    #[inline(always)]
    fn word(&self, start: Start, group: usize, bit: u32) -> u64 {
        self.sources.word(start.source, group, bit)
            & self.destinations.word(start.destination, group, bit)
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

    /// Words of a summary.
    #[inline(always)]
    fn groups(&self) -> usize {
        self.blocks.len().div_ceil(64)
    }

    /// Brings `places` down to the first of the rules `found` that hold for ports and protocol, and whose
    /// checks hold.
    #[inline(always)]
    fn look_into<S: Simd>(
        &self,
        simd: S,
        found: &mut [Found],
        starts: &[Start; BATCH],
        subjects: &Subjects<'_, A>,
        checks: &Checks,
        places: &mut [u32],
    ) {
        let mut left = 0;
        for at in 0..found.len() {
            let Found {
                word,
                packet,
                block,
            } = found[at];
            let Some(subject) = subjects.get(packet.into()) else {
                continue;
            };
            let start = starts[usize::from(packet) % BATCH];
            let word = word & self.others(simd, block.into(), start, subject.tuple);
            found[left] = Found {
                word,
                packet,
                block,
            };
            left += usize::from(word != 0);
        }
        for &Found {
            word,
            packet,
            block,
        } in &found[..left]
        {
            let Some(best) = places.get_mut(usize::from(packet)) else {
                continue;
            };
            let place = if self.has_checks {
                let Some(subject) = subjects.get(packet.into()) else {
                    continue;
                };
                self.first_in(block.into(), word, 0, &subject, checks)
            } else {
                let at = usize::from(block) * 64 + word.trailing_zeros() as usize;
                self.places.get(at).copied().unwrap_or(NONE)
            };
            *best = place.min(*best);
        }
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
        for group in 0..self.groups() {
            let mut any = self.any(start, group);
            while any != 0 {
                let bit = any.trailing_zeros();
                any &= any - 1;
                let word = self.word(start, group, bit);
                if word != 0 {
                    let block = group * 64 + bit as usize;
                    let word = word & self.others(simd, block, start, subject.tuple);
                    best = best.min(self.first_in(block, word, from, subject, checks));
                }
            }
        }
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
        places.fill(NONE);
        let groups = self.groups();
        if groups > GROUPS {
            for (subject, place) in subjects.iter().zip(places) {
                *place = self.find(simd, 0, &subject, checks);
            }
            return;
        }
        // What is dropped from a list is overwritten by what comes next: without branches, for none of
        // them could be predicted.
        let mut blocks = [Blocks::default(); BATCH * GROUPS];
        let mut count = 0;
        for (at, &start) in starts.iter().enumerate().take(subjects.which.len()) {
            for group in 0..groups {
                let any = self.any(start, group);
                blocks[count] = Blocks {
                    any,
                    packet: at as u8,
                    group: group as u8,
                };
                count += usize::from(any != 0);
            }
        }
        // Each round takes one block of each.
        let mut found = [Found::default(); FOUND + BATCH * GROUPS];
        let mut found_count = 0;
        while count > 0 {
            let mut left = 0;
            for at in 0..count.min(blocks.len()) {
                let Blocks { any, packet, group } = blocks[at];
                let bit = any.trailing_zeros() % 64;
                let word = self.word(starts[usize::from(packet) % BATCH], group.into(), bit);
                found[found_count] = Found {
                    word,
                    packet,
                    block: u16::from(group) * 64 + bit as u16,
                };
                found_count += usize::from(word != 0);
                let any = any & any.wrapping_sub(1);
                blocks[left] = Blocks { any, packet, group };
                left += usize::from(any != 0);
            }
            count = left;
            if found_count >= FOUND || count == 0 {
                self.look_into(
                    simd,
                    &mut found[..found_count],
                    &starts,
                    subjects,
                    checks,
                    places,
                );
                found_count = 0;
            }
        }
    }
}
