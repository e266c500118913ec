//! The IPv4 reader: DIR-24-8 in copy-on-write pages.
//!
//! An address selects a page by its first ten bits and an entry in it by the next fourteen. The entry is a
//! next hop, or the number of an extension group: 256 entries for the last octet, made only for a /24 that
//! has routes longer than /24.

use std::hint::select_unpredictable;
use std::sync::Arc;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering::Relaxed;

use super::pages::{PAGE_BITS, Page, Pages};
use super::{BATCH, NextHopId};
use crate::prefetch::prefetch;

/// Marks an entry as the number of an extension group.
pub(super) const EXTENDED: u16 = 0x8000;

/// Extension groups a table can have: what the 15 bits beside the mark can number.
pub(super) const MAX_GROUPS: usize = 0x8000;

/// The length of a page's prefix: an address's first bits number its page.
pub(super) const PAGE_LEN: u8 = 24 - PAGE_BITS as u8;

/// Groups in a page: group `g` is number `g % GROUPS_A_PAGE` of page `g / GROUPS_A_PAGE`.
pub(super) const GROUPS_A_PAGE: usize = 1 << (PAGE_BITS - 8);

/// The pages that all groups take.
pub(super) const GROUP_PAGES: usize = MAX_GROUPS / GROUPS_A_PAGE;

/// The pages of groups.
pub(super) type Groups = Pages<GROUP_PAGES>;

/// What is copied, apart from the entries, with the first change after a snapshot.
#[derive(Clone)]
pub(super) struct Root {
    /// One entry for each /24. Pages that hold the same next hop everywhere are one and the same.
    pub(super) pages: Pages<{ 1 << PAGE_LEN }>,
    /// Extension groups: one next hop for each address of a /24.
    pub(super) groups: Groups,
    /// Whether the entries are more than a core's own cache holds, so that a batch prefetches them.
    pub(super) prefetches: bool,
}

/// IPv4 routes to look up in. Never changes: [`super::Rib4`] makes it and its successors.
///
/// At most 32,767 next hops, and at most 32,768 /24 that have routes longer than /24. Takes 32 KiB for
/// each /10 in which routes differ and 512 B for each such /24, in steps of 2 MiB for all tables of the
/// process together; what is the same as in another snapshot is there once. Cloning copies a pointer.
#[derive(Clone)]
pub struct Lpm4 {
    pub(super) root: Arc<Root>,
}

impl Default for Lpm4 {
    /// No routes.
    fn default() -> Self {
        let page = Page::uniform(NextHopId::NONE.0);
        let root = Root {
            pages: Pages::all(&page),
            groups: Pages::all(&page),
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
        let entry = entry_of(&self.root, addr).load(Relaxed);
        if entry & EXTENDED == 0 {
            return NextHopId(entry);
        }
        NextHopId(extended(&self.root, entry, addr))
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

/// Looks up at most [`BATCH`] addresses: loads all entries, prefetched if that pays, then follows the
/// extensions if there is one.
#[inline(always)]
fn lookup_pass(root: &Root, addrs: &[u32], out: &mut [NextHopId]) {
    // Loops over arrays of eight are unrolled; one by one the loop itself costs a tenth.
    let len = addrs.len().min(out.len());
    let (addrs, addrs_rest) = addrs[..len].as_chunks::<8>();
    let (out, out_rest) = out[..len].as_chunks_mut::<8>();
    if root.prefetches {
        load_prefetched(root, addrs, out);
    } else {
        for (addrs, out) in addrs.iter().zip(out.iter_mut()) {
            for (&addr, out) in addrs.iter().zip(out) {
                *out = NextHopId(entry_of(root, addr).load(Relaxed));
            }
        }
    }
    let seen = out.as_flattened().iter().fold(0, |seen, hop| seen | hop.0);
    if seen & EXTENDED != 0 {
        for (addrs, out) in addrs.iter().zip(out) {
            for (&addr, out) in addrs.iter().zip(out) {
                *out = NextHopId(extended(root, out.0, addr));
            }
        }
    }
    for (&addr, out) in addrs_rest.iter().zip(out_rest) {
        *out = NextHopId(extended(root, entry_of(root, addr).load(Relaxed), addr));
    }
}

/// Loads the entries of at most [`BATCH`] addresses after all are under way.
///
/// Where the entries are is kept from the first pass for the second. So a load takes few instructions, and
/// while one waits for memory the processor comes to the first pass of the next batch.
#[inline(always)]
fn load_prefetched(root: &Root, addrs: &[[u32; 8]], out: &mut [[NextHopId; 8]]) {
    let mut places = [[&root.pages.get(0)[0]; 8]; BATCH / 8];
    for (addrs, places) in addrs.iter().zip(&mut places) {
        for (&addr, place) in addrs.iter().zip(places) {
            *place = entry_of(root, addr);
            prefetch(*place);
        }
    }
    for (places, out) in places.iter().zip(out) {
        for (place, out) in places.iter().zip(out) {
            *out = NextHopId(place.load(Relaxed));
        }
    }
}

/// The entry of the /24 of `addr`.
#[inline(always)]
fn entry_of(root: &Root, addr: u32) -> &AtomicU16 {
    &root.pages.get(page_of(addr))[slot_of(addr)]
}

/// Which page an address is in.
#[inline(always)]
pub(super) fn page_of(addr: u32) -> usize {
    (addr >> (8 + PAGE_BITS)) as usize
}

/// Which /24 of its page an address is in.
#[inline(always)]
pub(super) fn slot_of(addr: u32) -> usize {
    ((addr >> 8) & ((1 << PAGE_BITS) - 1)) as usize
}

/// The next hop that `entry` of the /24 of `addr` says, itself or by its extension group.
///
/// Without a branch: pods and the rest of the world come in random order, and a branch would be
/// mispredicted again and again. What an entry without extension reads from the groups is not used.
#[inline(always)]
fn extended(root: &Root, entry: u16, addr: u32) -> u16 {
    let (page, at) = group_place(entry);
    let groups = root.groups.get(page).as_chunks::<{ 1 << 8 }>().0;
    let hop = groups[at][(addr & 0xff) as usize].load(Relaxed);
    select_unpredictable(entry & EXTENDED != 0, hop, entry)
}

/// The page of the group that an extended `entry` stands for, and which of its groups that is.
///
/// The page is in the low bits: so the others, in place, are the group's offset in bytes.
#[inline(always)]
pub(super) fn group_place(entry: u16) -> (usize, usize) {
    let page = entry as usize % GROUP_PAGES;
    (page, (entry & !EXTENDED) as usize / GROUP_PAGES)
}
