//! The IPv4 reader: DIR-24-8 in copy-on-write pages.
//!
//! An address selects a page by its first octet and an entry in it by the next two. The entry is a next
//! hop, or the number of an extension group: 256 entries for the last octet, made only for a /24 that
//! has routes longer than /24.

use std::sync::Arc;

use super::{BATCH, NextHopId};
use crate::prefetch::prefetch;

/// Marks an entry as the number of an extension group.
pub(super) const EXTENDED: u16 = 0x8000;

/// Extension groups a page can have: what the 15 bits beside the mark can number.
pub(super) const MAX_GROUPS: usize = 0x8000;

/// Groups that are copied together when one of them changes: 16 KiB.
pub(super) const GROUPS_A_CHUNK: usize = 32;

/// One entry for each /24 of a page.
pub(super) type Base = [u16; 1 << 16];

/// One next hop for each address of a /24.
pub(super) type Group = [u16; 1 << 8];

/// The addresses of one first octet.
#[derive(Clone)]
pub(super) struct Page {
    /// Shared by all pages that hold the same next hop everywhere.
    pub(super) base: Arc<Base>,
    /// Group `g` is `groups[g / GROUPS_A_CHUNK][g % GROUPS_A_CHUNK]`.
    pub(super) groups: Vec<Arc<[Group; GROUPS_A_CHUNK]>>,
}

/// IPv4 routes to look up in. Never changes: [`super::Rib4`] makes it and its successors.
///
/// At most 32,767 next hops, and 32,768 /24 with routes longer than /24 in each /8. A page of 128 KiB
/// for each first octet in use, 512 B for each such /24, and what is the same as in another snapshot is
/// there once. Cloning copies a pointer.
#[derive(Clone)]
pub struct Lpm4 {
    pub(super) pages: Arc<[Page; 256]>,
}

impl Default for Lpm4 {
    /// No routes.
    fn default() -> Self {
        let base = uniform(NextHopId::NONE);
        Self {
            pages: Arc::new(std::array::from_fn(|_| Page {
                base: Arc::clone(&base),
                groups: Vec::new(),
            })),
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
        let page = page_of(&self.pages, addr);
        resolve(page, page.base[slot_of(addr)], addr)
    }

    /// [`Lpm4::lookup`] of each of `addrs` into `out`, as many as the shorter of the two holds.
    ///
    /// Faster than one by one as soon as the table is larger than the cache: the loads of 64 addresses
    /// are under way together.
    #[inline]
    pub fn lookup_batch(&self, addrs: &[u32], out: &mut [NextHopId]) {
        let pages = &*self.pages;
        let len = addrs.len().min(out.len());
        let (addrs, addrs_rest) = addrs[..len].as_chunks::<BATCH>();
        let (out, out_rest) = out[..len].as_chunks_mut::<BATCH>();
        for (addrs, out) in addrs.iter().zip(out) {
            lookup_pass(pages, addrs, out);
        }
        lookup_pass(pages, addrs_rest, out_rest);
    }
}

/// One prefetch pass and one pass of loads.
#[inline(always)]
fn lookup_pass(pages: &[Page; 256], addrs: &[u32], out: &mut [NextHopId]) {
    for &addr in addrs {
        prefetch(&page_of(pages, addr).base[slot_of(addr)]);
    }
    for (&addr, out) in addrs.iter().zip(out) {
        let page = page_of(pages, addr);
        *out = resolve(page, page.base[slot_of(addr)], addr);
    }
}

/// Entries that all say `hop`.
#[expect(
    clippy::large_stack_arrays,
    reason = "128 KiB, on the control plane's stack only"
)]
pub(super) fn uniform(hop: NextHopId) -> Arc<Base> {
    Arc::new([hop.0; 1 << 16])
}

/// The page of the first octet.
#[inline(always)]
fn page_of(pages: &[Page; 256], addr: u32) -> &Page {
    &pages[(addr >> 24) as usize]
}

/// Which /24 of its page an address is in.
#[inline(always)]
pub(super) fn slot_of(addr: u32) -> usize {
    ((addr >> 8) & 0xffff) as usize
}

/// What an entry of `page` says of `addr`.
#[inline(always)]
fn resolve(page: &Page, entry: u16, addr: u32) -> NextHopId {
    if entry & EXTENDED == 0 {
        return NextHopId(entry);
    }
    let group = (entry & !EXTENDED) as usize;
    match page.groups.get(group / GROUPS_A_CHUNK) {
        Some(chunk) => NextHopId(chunk[group % GROUPS_A_CHUNK][(addr & 0xff) as usize]),
        None => NextHopId::NONE,
    }
}
