//! The memory of a table: cache lines of words, on huge pages if there are many.

use core::ops::Deref;

use super::sync::AtomicU64;

/// Words a cache line holds.
pub(super) const CELLS: usize = 8;

/// A cache line of words.
#[derive(Debug)]
#[cfg_attr(
    not(loom),
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout)
)]
#[repr(C, align(64))]
pub struct Line(pub(super) [AtomicU64; CELLS]);

impl Line {
    fn empty() -> Self {
        Self(core::array::from_fn(|_| AtomicU64::new(0)))
    }
}

/// Lines that stay where they are.
#[derive(Debug)]
pub(super) enum Lines {
    Few(Box<[Line]>),
    /// Whole huge pages where the system has any. Never given back: a table of this size is made once.
    #[cfg(not(loom))]
    Many(&'static [Line]),
}

impl Lines {
    /// `count` lines of zeroes.
    pub(super) fn new(count: usize) -> Self {
        #[cfg(not(loom))]
        if let Some(lines) = huge::lines(count) {
            return Self::Many(lines);
        }
        Self::Few((0..count).map(|_| Line::empty()).collect())
    }
}

impl Deref for Lines {
    type Target = [Line];

    #[inline(always)]
    fn deref(&self) -> &[Line] {
        match self {
            Self::Few(lines) => lines,
            #[cfg(not(loom))]
            Self::Many(lines) => lines,
        }
    }
}

#[cfg(not(loom))]
mod huge {
    use memmap2::{Advice, MmapMut};
    use zerocopy::FromBytes;

    use super::Line;

    /// From here on the processor needs more page table entries than it keeps.
    const MIN_BYTES: usize = 2 << 20;

    /// Lines in a mapping of their own, for which huge pages are asked. `None` if they are few, or if the
    /// system does not give the mapping: then the allocator has the last word.
    pub(super) fn lines(count: usize) -> Option<&'static [Line]> {
        let bytes = count.checked_mul(size_of::<Line>())?;
        if bytes < MIN_BYTES {
            return None;
        }
        let map = MmapMut::map_anon(bytes).ok()?;
        // Without huge pages a lookup outside the cache takes up to twice as long, and that is all.
        let _ = map.advise(Advice::HugePage);
        let map: &'static mut MmapMut = Box::leak(Box::new(map));
        <[Line]>::mut_from_bytes(map).ok().map(|lines| &*lines)
    }
}
