//! Pages of entries, shared and copied on write, in huge pages of memory.
//!
//! A lookup in a large table touches any of 28 MiB. In memory pages of 4 KiB nearly every one of them
//! misses the processor's translations as well as its data cache, in those of 2 MiB none does. The heap
//! has no huge pages where the kernel gives them only to who asks (`transparent_hugepage=madvise`), so
//! that pages of entries come from mappings of their own. Those stay mapped: a page that nobody uses any
//! more waits for who takes the next.
//!
//! So a page's memory is written again after its readers have gone, and no type says when that is. What
//! says so is a count, as an `Arc`'s: who is counted reads entries that do not change, and only who alone
//! is counted writes. Entries are atomics therefore, read and written `Relaxed`, which costs a reader
//! nothing; the count orders a page's last reader before its next writer.

use std::alloc::{Layout, handle_alloc_error};
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, MutexGuard, PoisonError};

use memmap2::MmapMut;
use zerocopy::{FromBytes, FromZeros};

/// The bits that number an entry in its page.
pub(super) const PAGE_BITS: u32 = 14;

/// One entry for each /24 of a /10, or 64 extension groups: 32 KiB.
pub(super) type Entries = [AtomicU16; 1 << PAGE_BITS];

/// Pages that are mapped together: what a huge page holds.
type Block = [Entries; (2 << 20) / size_of::<Entries>()];

/// Owners that are counted together, see [`Pages`].
const OWNERS: usize = 16;

/// The pages of this process.
struct Pool {
    free: Vec<&'static Entries>,
    /// How many there are, free and in use.
    mapped: usize,
    /// How many were taken into use until now.
    taken: usize,
}

#[expect(
    clippy::disallowed_types,
    reason = "whoever changes routes or frees a table takes it, a lookup never"
)]
static POOL: std::sync::Mutex<Pool> = std::sync::Mutex::new(Pool {
    free: Vec::new(),
    mapped: 0,
    taken: 0,
});

/// What the pages of all IPv4 tables of a process take. They are not on the heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageMemory {
    /// Bytes that tables and snapshots use.
    pub in_use: usize,
    /// Bytes that were taken into use since the process began, those given back included.
    pub taken: usize,
    /// Bytes that are mapped, and stay so: the most that was in use at once, in steps of 2 MiB.
    pub mapped: usize,
}

/// What the pages of all IPv4 tables of this process take now.
#[must_use]
pub fn page_memory() -> PageMemory {
    let pool = pool();
    let bytes = |pages: usize| pages * size_of::<Entries>();
    PageMemory {
        in_use: bytes(pool.mapped - pool.free.len()),
        taken: bytes(pool.taken),
        mapped: bytes(pool.mapped),
    }
}

fn pool() -> MutexGuard<'static, Pool> {
    // Nothing in here panics half way.
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    fn take(&mut self) -> &'static Entries {
        self.taken += 1;
        if let Some(entries) = self.free.pop() {
            return entries;
        }
        let block = map_block().unwrap_or_else(heap_block);
        let [first, rest @ ..] = &*block;
        self.mapped += block.len();
        self.free.extend(rest.iter().rev());
        first
    }
}

/// A block in a huge page if the kernel has one, else in pages of 4 KiB.
fn map_block() -> Option<&'static mut Block> {
    // Twice as much as is used, to begin where a huge page does. What is not touched is not there.
    let map = MmapMut::map_anon(2 * size_of::<Block>()).ok()?;
    #[cfg(target_os = "linux")]
    // A kernel without huge pages says no, and works without.
    let _ = map.advise(memmap2::Advice::HugePage);
    let map: &'static mut MmapMut = Box::leak(Box::new(map));
    let bytes = &mut map[..];
    let start = bytes.as_ptr().align_offset(size_of::<Block>());
    let bytes = bytes.get_mut(start..start + size_of::<Block>())?;
    Block::mut_from_bytes(bytes).ok()
}

/// A block where mappings are refused.
fn heap_block() -> &'static mut Block {
    Block::new_box_zeroed().map_or_else(|_| handle_alloc_error(Layout::new::<Block>()), Box::leak)
}

/// A page in use. The last clone gives it back.
#[derive(Clone, Debug)]
pub(super) struct Page(Arc<Owner>);

#[derive(Debug)]
struct Owner(&'static Entries);

impl Drop for Owner {
    fn drop(&mut self) {
        pool().free.push(self.0);
    }
}

impl Page {
    /// A page that says `entry` everywhere.
    pub(super) fn uniform(entry: u16) -> Self {
        let entries = pool().take();
        fill(entries, entry);
        Self(Arc::new(Owner(entries)))
    }

    /// Another page that says the same.
    fn copied(&self) -> Self {
        let entries = pool().take();
        // Arrays of eight are unrolled, which halves the time.
        let (new, old) = (
            entries.as_chunks::<8>().0,
            self.entries().as_chunks::<8>().0,
        );
        for (new, old) in new.iter().zip(old) {
            for (new, old) in new.iter().zip(old) {
                new.store(old.load(Relaxed), Relaxed);
            }
        }
        Self(Arc::new(Owner(entries)))
    }

    fn entries(&self) -> &'static Entries {
        self.0.0
    }

    fn is_shared(&mut self) -> bool {
        // Not by the count: this waits for what the last other owner did, too.
        Arc::get_mut(&mut self.0).is_none()
    }
}

/// Writes `entry` into all of `entries`.
pub(super) fn fill(entries: &[AtomicU16], entry: u16) {
    for it in entries {
        it.store(entry, Relaxed);
    }
}

/// `N` pages side by side, a multiple of 16, any of which may be the same as others.
///
/// A clone shares them all. What readers follow is apart from who holds it, so that they load nothing
/// between, and owners are counted by sixteen, so that a clone does not count up hundreds.
#[derive(Clone, Debug)]
pub(super) struct Pages<const N: usize> {
    entries: [&'static Entries; N],
    owners: Box<[Arc<[Page; OWNERS]>]>,
}

impl<const N: usize> Pages<N> {
    /// `page` everywhere.
    pub(super) fn all(page: &Page) -> Self {
        let owners = Arc::new(std::array::from_fn(|_| page.clone()));
        Self {
            entries: [page.entries(); N],
            owners: vec![owners; N / OWNERS].into(),
        }
    }

    /// The entries of page `index`.
    #[inline(always)]
    pub(super) fn get(&self, index: usize) -> &Entries {
        self.entries[index]
    }

    /// Page `index`.
    pub(super) fn page(&self, index: usize) -> &Page {
        &self.owners[index / OWNERS][index % OWNERS]
    }

    /// Puts `page` at `index`.
    pub(super) fn set(&mut self, index: usize, page: Page) {
        self.entries[index] = page.entries();
        Arc::make_mut(&mut self.owners[index / OWNERS])[index % OWNERS] = page;
    }

    /// The entries of page `index` to be written: of a copy from now on if anybody shares it.
    pub(super) fn make_mut(&mut self, index: usize) -> &Entries {
        let page = &mut Arc::make_mut(&mut self.owners[index / OWNERS])[index % OWNERS];
        if page.is_shared() {
            *page = page.copied();
            self.entries[index] = page.entries();
        }
        self.entries[index]
    }

    /// All entries, page by page.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entries> {
        self.entries.iter().copied()
    }
}
