//! The IPv4 reader: DIR-24-8 in copy-on-write pages.
//!
//! An address selects a page by its first octet and an entry in it by the next two. The entry is a next
//! hop, or the number of an extension group: 256 entries for the last octet, made only for a /24 that
//! has routes longer than /24.

use std::array;
use std::hint::select_unpredictable;
use std::sync::Arc;

use super::{BATCH, NextHopId};
use crate::prefetch::prefetch;

/// Marks an entry as the number of an extension group.
pub(super) const EXTENDED: u16 = 0x8000;

/// Extension groups a table can have: what the 15 bits beside the mark can number.
pub(super) const MAX_GROUPS: usize = 0x8000;

/// Groups that are copied together when one of them changes: 32 KiB.
pub(super) const GROUPS_A_CHUNK: usize = 64;

/// One entry for each /24 of a first octet.
pub(super) type Page = [u16; 1 << 16];

/// One next hop for each address of a /24.
pub(super) type Group = [u16; 1 << 8];

/// Groups side by side: group `g` is number `g % GROUPS_A_CHUNK` of chunk `g / GROUPS_A_CHUNK`.
pub(super) type Chunk = [Group; GROUPS_A_CHUNK];

/// All chunks; a power of two of them, at least one.
pub(super) type Chunks = [Arc<Chunk>];

/// What is copied, pointer by pointer, with the first change after a snapshot.
#[derive(Clone)]
pub(super) struct Root {
    /// By first octet. Pages that hold the same next hop everywhere are one and the same.
    pub(super) pages: [Arc<Page>; 256],
    pub(super) chunks: Arc<Chunks>,
    /// Whether the entries are more than a core's own cache holds, so that a batch prefetches them.
    pub(super) prefetches: bool,
}

/// IPv4 routes to look up in. Never changes: [`super::Rib4`] makes it and its successors.
///
/// At most 32,767 next hops, and at most 32,768 /24 that have routes longer than /24. Takes 128 KiB for
/// each first octet in which routes differ and 512 B for each such /24; what is the same as in another
/// snapshot is there once. Cloning copies a pointer.
#[derive(Clone)]
pub struct Lpm4 {
    pub(super) root: Arc<Root>,
}

impl Default for Lpm4 {
    /// No routes.
    fn default() -> Self {
        let page = uniform(NextHopId::NONE);
        let root = Root {
            pages: array::from_fn(|_| Arc::clone(&page)),
            chunks: Arc::new([empty_chunk()]),
            prefetches: false,
        };
        Self {
            root: Arc::new(root),
        }
    }
}

impl std::fmt::Debug for Lpm4 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lpm4").finish_non_exhaustive()
    }
}

impl Lpm4 {
    /// The next hop of the longest route that holds `addr` (host byte order).
    #[inline]
    #[must_use]
    pub fn lookup(&self, addr: u32) -> NextHopId {
        let entry = *entry_of(&self.root.pages, addr);
        if entry & EXTENDED == 0 {
            return NextHopId(entry);
        }
        NextHopId(extended(&self.root.chunks, entry, addr))
    }

    /// [`Lpm4::lookup`] of each of `addrs` into `out`, as many as the shorter of the two holds.
    ///
    /// The loads of 64 addresses are under way together, and it does not matter in which order addresses
    /// with and without extension come.
    #[inline]
    pub fn lookup_batch(&self, addrs: &[u32], out: &mut [NextHopId]) {
        for (addrs, out) in addrs.chunks(BATCH).zip(out.chunks_mut(BATCH)) {
            lookup_pass(&self.root, addrs, out);
        }
    }
}

/// Looks up at most [`BATCH`] addresses: prefetches if that pays, loads all entries, then follows the
/// extensions if there is one.
#[inline(always)]
fn lookup_pass(root: &Root, addrs: &[u32], out: &mut [NextHopId]) {
    if root.prefetches {
        for &addr in addrs {
            prefetch(entry_of(&root.pages, addr));
        }
    }
    // Arrays of eight are unrolled; one by one the loop itself costs a tenth.
    let len = addrs.len().min(out.len());
    let (addrs, addrs_rest) = addrs[..len].as_chunks::<8>();
    let (out, out_rest) = out[..len].as_chunks_mut::<8>();
    let mut seen = 0;
    for (addrs, out) in addrs.iter().zip(out.iter_mut()) {
        *out = addrs.map(|addr| NextHopId(*entry_of(&root.pages, addr)));
        seen |= out.iter().fold(0, |seen, hop| seen | hop.0);
    }
    if seen & EXTENDED != 0 {
        let chunks = &*root.chunks;
        for (addrs, out) in addrs.iter().zip(out) {
            *out = array::from_fn(|at| NextHopId(extended(chunks, out[at].0, addrs[at])));
        }
    }
    for (&addr, out) in addrs_rest.iter().zip(out_rest) {
        *out = NextHopId(extended(&root.chunks, *entry_of(&root.pages, addr), addr));
    }
}

/// The entry of the /24 of `addr`.
#[inline(always)]
fn entry_of(pages: &[Arc<Page>; 256], addr: u32) -> &u16 {
    &pages[(addr >> 24) as usize][slot_of(addr)]
}

/// Which /24 of its page an address is in.
#[inline(always)]
pub(super) fn slot_of(addr: u32) -> usize {
    ((addr >> 8) & 0xffff) as usize
}

/// The next hop that `entry` of the /24 of `addr` says, itself or by its extension group.
///
/// Without a branch: pods and the rest of the world come in random order, and a branch would be
/// mispredicted again and again. What an entry without extension reads from the chunks is not used.
#[inline(always)]
fn extended(chunks: &Chunks, entry: u16, addr: u32) -> u16 {
    let group = (entry & !EXTENDED) as usize;
    // Their number is a power of two, so this changes no group's chunk and keeps all others in bounds.
    let chunk = (group / GROUPS_A_CHUNK) & (chunks.len().wrapping_sub(1));
    let hop = match chunks.get(chunk) {
        Some(chunk) => chunk[group % GROUPS_A_CHUNK][(addr & 0xff) as usize],
        None => 0,
    };
    select_unpredictable(entry & EXTENDED != 0, hop, entry)
}

/// A page that says `hop` everywhere.
#[expect(
    clippy::large_stack_arrays,
    reason = "128 KiB, on the control plane's stack only"
)]
pub(super) fn uniform(hop: NextHopId) -> Arc<Page> {
    Arc::new([hop.0; 1 << 16])
}

/// A chunk without a group in use.
#[expect(
    clippy::large_stack_arrays,
    reason = "32 KiB, on the control plane's stack only"
)]
pub(super) fn empty_chunk() -> Arc<Chunk> {
    Arc::new([[0; 1 << 8]; GROUPS_A_CHUNK])
}
