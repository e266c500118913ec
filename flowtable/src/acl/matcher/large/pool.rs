//! Rows of a large matcher: bit vectors in blocks of 64, with summaries.

use hashbrown::HashMap;

use crate::acl::AclError;

/// Words before the kept words of a row, for every 64 blocks: any, some but not all, and where the kept
/// words begin.
pub(super) const HEAD: usize = 3;

/// Where a row begins in the pool.
pub(super) type Row = u32;

/// Collects rows, each different one once.
pub(super) struct PoolBuilder {
    words: Vec<u64>,
    rows: HashMap<Box<[u64]>, Row>,
    scratch: Vec<u64>,
    groups: usize,
    rules: usize,
    limit_bytes: usize,
}

/// All rows. The word 0 is all ones.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    words: Box<[u64]>,
}

/// Where the word of a block in a row is, and whether it is kept or all ones.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place(u32);

impl PoolBuilder {
    /// For rows of `blocks` blocks; the pool may take up to `limit_bytes`.
    pub(super) fn new(blocks: usize, rules: usize, limit_bytes: usize) -> Self {
        Self {
            words: vec![u64::MAX],
            rows: HashMap::new(),
            scratch: Vec::new(),
            groups: blocks.div_ceil(64),
            rules,
            limit_bytes,
        }
    }

    /// The row of a bit vector.
    pub(super) fn row(&mut self, dense: &[u64]) -> Result<Row, AclError> {
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
        if needed > self.limit_bytes || at + row.len() > Row::MAX as usize {
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

    pub(super) fn finish(self) -> Pool {
        Pool {
            words: self.words.into(),
        }
    }
}

impl Pool {
    #[inline(always)]
    fn word(&self, at: usize) -> u64 {
        match self.words.get(at) {
            Some(&word) => word,
            None => 0,
        }
    }

    /// Asks for the beginning of a row.
    #[inline(always)]
    pub(super) fn prefetch(&self, row: Row) {
        if let Some(head) = self.words.get(row as usize) {
            crate::prefetch(head);
        }
    }

    /// The blocks of a group in which the row has any bit.
    #[inline(always)]
    pub(super) fn any(&self, row: Row, group: usize) -> u64 {
        self.word(row as usize + group * HEAD)
    }

    /// Where the word of block `bit` of `group` is; the row has a bit in the block.
    #[inline(always)]
    pub(super) fn place(&self, row: Row, group: usize, bit: u32) -> Place {
        let head = row as usize + group * HEAD;
        let kept = self.word(head + 1);
        let before = kept & ((1_u64 << bit) - 1);
        let at = row + self.word(head + 2) as u32 + before.count_ones();
        let is_kept = kept >> bit & 1 == 1;
        Place(std::hint::select_unpredictable(is_kept, at, 0))
    }

    #[inline(always)]
    pub(super) fn prefetch_word(&self, place: Place) {
        if let Some(word) = self.words.get(place.0 as usize) {
            crate::prefetch(word);
        }
    }

    /// The word at `place`.
    #[inline(always)]
    pub(super) fn get(&self, place: Place) -> u64 {
        self.word(place.0 as usize)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.words)
    }
}
