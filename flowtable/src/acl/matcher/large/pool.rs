//! Rows of a large matcher: bit vectors in blocks of 64, with summaries.
//!
//! The words of a block are few, however many rows there are: 64 rules cut an address field into at most
//! some hundred intervals. So a block has a list of its words, and a row has their numbers, four in one
//! `u64`. Rows are many and met at random, and as numbers they are a third as long.

use hashbrown::HashMap;

use crate::acl::AclError;

/// Where a row begins in the pool.
pub(super) type Row = u32;

/// Numbers of words in one `u64`.
const PACKED: usize = 4;

/// Words of one block, and their numbers.
struct BlockWords {
    words: Vec<u64>,
    numbers: HashMap<u64, u16>,
}

/// Collects the rows of one field, each different one once.
pub(super) struct PoolBuilder {
    rows: Vec<u64>,
    known: HashMap<Box<[u64]>, Row>,
    blocks: Vec<BlockWords>,
    scratch: Vec<u64>,
    rules: usize,
    limit_bytes: usize,
}

/// The rows of one field.
///
/// A row has for every 64 blocks a word that says which of them have any rule, then for every 64 blocks a
/// word that says which of them have some but not all, then for each of these how many such blocks come
/// before it, sixteen bits each, then the numbers of the words of those blocks.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    rows: Box<[u64]>,
    /// Words of a summary.
    groups: usize,
    /// Words of a row before its numbers.
    numbers: usize,
    /// By block, where its words begin. The word there is all ones, that of number 0.
    firsts: Box<[u32]>,
    words: Box<[u64]>,
}

impl PoolBuilder {
    /// For rows of `blocks` blocks; they may take up to `limit_bytes`.
    pub(super) fn new(blocks: usize, rules: usize, limit_bytes: usize) -> Self {
        Self {
            rows: Vec::new(),
            known: HashMap::new(),
            blocks: (0..blocks).map(|_| BlockWords::new()).collect(),
            scratch: Vec::new(),
            rules,
            limit_bytes,
        }
    }

    /// The row of a bit vector.
    pub(super) fn row(&mut self, dense: &[u64]) -> Result<Row, AclError> {
        let groups = self.blocks.len().div_ceil(64);
        let row = &mut self.scratch;
        row.clear();
        row.resize(groups * 2 + groups.div_ceil(PACKED), 0);
        let mut kept = 0;
        for (at, (&word, block)) in dense.iter().zip(&mut self.blocks).enumerate() {
            let (group, bit) = (at / 64, 1 << (at % 64));
            if bit == 1 {
                row[groups * 2 + group / PACKED] |= (kept as u64) << (group % PACKED * 16);
            }
            if word != 0 {
                row[group] |= bit;
            }
            if word != 0 && word != u64::MAX {
                row[groups + group] |= bit;
                if kept % PACKED == 0 {
                    row.push(0);
                }
                if let Some(last) = row.last_mut() {
                    *last |= u64::from(block.number(word, self.rules)?) << (kept % PACKED * 16);
                }
                kept += 1;
            }
        }
        if let Some(&found) = self.known.get(&**row) {
            return Ok(found);
        }
        let at = self.rows.len();
        let needed = (at + row.len()) * size_of::<u64>();
        if needed > self.limit_bytes || at + row.len() > Row::MAX as usize {
            return Err(AclError::TooLarge {
                rules: self.rules,
                needed,
                limit: self.limit_bytes,
            });
        }
        self.rows.extend_from_slice(row);
        self.known.insert(row.as_slice().into(), at as Row);
        Ok(at as Row)
    }

    pub(super) fn finish(self) -> Pool {
        let mut first = 0;
        let firsts = self.blocks.iter().map(|block| {
            let at = first;
            first += block.words.len() as u32;
            at
        });
        let groups = self.blocks.len().div_ceil(64);
        Pool {
            groups,
            numbers: groups * 2 + groups.div_ceil(PACKED),
            firsts: firsts.collect(),
            words: self
                .blocks
                .iter()
                .flat_map(|block| block.words.iter().copied())
                .collect(),
            rows: self.rows.into(),
        }
    }
}

impl BlockWords {
    fn new() -> Self {
        Self {
            words: vec![u64::MAX],
            numbers: HashMap::new(),
        }
    }

    fn number(&mut self, word: u64, rules: usize) -> Result<u16, AclError> {
        if let Some(&number) = self.numbers.get(&word) {
            return Ok(number);
        }
        let number =
            u16::try_from(self.words.len()).map_err(|_| AclError::TooManyNets { rules })?;
        self.words.push(word);
        self.numbers.insert(word, number);
        Ok(number)
    }
}

impl Pool {
    #[inline(always)]
    fn packed(&self, at: usize) -> u64 {
        match self.rows.get(at) {
            Some(&word) => word,
            None => 0,
        }
    }

    /// Asks for the beginning of a row, most often all of it.
    #[inline(always)]
    pub(super) fn prefetch(&self, row: Row) {
        let at = row as usize;
        for line in [at, at + 8] {
            if let Some(word) = self.rows.get(line) {
                crate::prefetch(word);
            }
        }
    }

    /// The blocks of a group in which the row has any rule.
    #[inline(always)]
    pub(super) fn any(&self, row: Row, group: usize) -> u64 {
        self.packed(row as usize + group)
    }

    /// The rules of block `bit` of `group`; the row has some in it.
    #[inline(always)]
    pub(super) fn word(&self, row: Row, group: usize, bit: u32) -> u64 {
        let row = row as usize;
        let kept = self.packed(row + self.groups + group);
        let before = self.sixteen(row + self.groups * 2, group);
        let nth = before as usize + (kept & ((1_u64 << bit) - 1)).count_ones() as usize;
        let number = self.sixteen(row + self.numbers, nth);
        let number = std::hint::select_unpredictable(kept >> bit & 1 == 1, number, 0);
        let block = group * 64 + bit as usize;
        let first = self.firsts.get(block).copied().unwrap_or(0) as usize;
        self.words
            .get(first + number as usize)
            .copied()
            .unwrap_or(0)
    }

    /// The `nth` sixteen bits from word `at` on.
    #[inline(always)]
    fn sixteen(&self, at: usize, nth: usize) -> u64 {
        self.packed(at + nth / PACKED) >> (nth % PACKED * 16) & 0xffff
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.rows) + size_of_val(&*self.firsts) + size_of_val(&*self.words)
    }
}
