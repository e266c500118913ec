//! The IPv4 writer: all routes, and the depth of each entry of the reader's table.
//!
//! The reader's entries do not say how long the route is that they come from. The writer keeps that
//! beside them, so that a route overwrites only entries of shorter ones and its removal only its own.

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering::Relaxed;

use hashbrown::HashMap;

use super::lpm4::{
    EXTENDED, GROUP_PAGES, GROUPS_A_PAGE, Groups, MAX_GROUPS, PAGE_LEN, Root, group_place, page_of,
    slot_of,
};
use super::pages::{Entries, PAGE_BITS, Page, Pages, fill};
use super::{Lpm4, LpmError, NextHopId, Prefix4};

/// Pages beyond which entries are prefetched: 1 MiB of them.
const CACHED_PAGES: usize = (1 << 20) / size_of::<Entries>();

/// The length from which routes say something of a part of a page only.
const FIRST_INNER_LEN: u8 = PAGE_LEN + 1;

/// IPv4 routes to change. Limits are those of [`Lpm4`].
///
/// A change copies the page of entries or of extension groups that it touches (32 KiB) if a snapshot still
/// shares it, once for any number of changes between two snapshots.
#[derive(Clone, Debug, Default)]
pub struct Rib4 {
    lpm: Lpm4,
    routes: Routes,
    pages: PageShadows,
    groups: GroupShadows,
}

/// The routes by length, then by first address.
#[derive(Clone, Debug)]
struct Routes([HashMap<u32, NextHopId>; 33]);

/// What the writer knows of each page.
#[derive(Clone, Debug)]
struct PageShadows(Box<[PageShadow; 1 << PAGE_LEN]>);

/// What the writer knows of one page.
#[derive(Clone, Debug, Default)]
struct PageShadow {
    /// Routes longer than the page's prefix. With none the page is uniform.
    inner_routes: u32,
    /// The length of the route that a uniform page comes from.
    uniform_depth: u8,
    /// The length of the route that each entry comes from, 0 without one; none for a uniform page.
    depths: Option<Box<[u8; 1 << PAGE_BITS]>>,
}

/// What the writer knows of all extension groups.
#[derive(Clone, Debug, Default)]
struct GroupShadows {
    all: Vec<GroupShadow>,
    /// Groups that are not in use.
    free: Vec<u16>,
}

/// What the writer knows of one extension group.
#[derive(Clone, Debug)]
struct GroupShadow {
    /// Routes longer than /24. With none the group goes away.
    routes: u16,
    /// The length of the route that each entry comes from.
    depths: [u8; 1 << 8],
}

/// What to write into which entries.
#[derive(Clone, Copy)]
struct Fill {
    hop: NextHopId,
    depth: u8,
    /// Entries of these depths are overwritten.
    over: (u8, u8),
}

impl Default for Routes {
    fn default() -> Self {
        Self(std::array::from_fn(|_| HashMap::new()))
    }
}

impl Default for PageShadows {
    fn default() -> Self {
        Self(Box::new(std::array::from_fn(|_| PageShadow::default())))
    }
}

impl Rib4 {
    /// No routes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// All of `routes`; of two routes with one prefix the later counts.
    ///
    /// # Errors
    /// As [`Rib4::insert`].
    pub fn from_routes(routes: &[(Prefix4, NextHopId)]) -> Result<Self, LpmError> {
        let mut rib = Self::new();
        let mut count = [0; 33];
        for (prefix, _) in routes {
            count[prefix.len() as usize] += 1;
        }
        for (map, count) in rib.routes.0.iter_mut().zip(count) {
            map.reserve(count);
        }
        for &(prefix, hop) in routes {
            rib.insert(prefix, hop)?;
        }
        Ok(rib)
    }

    /// Adds the route or replaces its next hop; returns the next hop that it had.
    ///
    /// # Errors
    /// [`LpmError::NoNextHop`], [`LpmError::TooManyGroups`]. Nothing has changed then.
    pub fn insert(
        &mut self,
        prefix: Prefix4,
        hop: NextHopId,
    ) -> Result<Option<NextHopId>, LpmError> {
        if hop.is_none() {
            return Err(LpmError::NoNextHop);
        }
        let (index, len) = (page_of(prefix.addr()), prefix.len());
        if len > 24 && self.is_full(prefix) {
            return Err(LpmError::TooManyGroups);
        }
        let old = self.routes.0[len as usize].insert(prefix.addr(), hop);
        if old == Some(hop) {
            return Ok(old);
        }
        if old.is_none() && len > PAGE_LEN {
            self.pages.0[index].inner_routes += 1;
        }
        let fill = Fill {
            hop,
            depth: len,
            over: (0, len),
        };
        let mut table = self.table();
        match len {
            0..=PAGE_LEN => table.fill_pages(prefix, fill),
            FIRST_INNER_LEN..=24 => table.fill_slots(index, prefix, fill),
            _ => {
                let group = table.extend(index, slot_of(prefix.addr()));
                table.groups.all[group].routes += u16::from(old.is_none());
                table.fill_group(group, prefix, fill);
            }
        }
        Ok(old)
    }

    /// Removes the route; returns its next hop, or `None` if there was no such route.
    pub fn remove(&mut self, prefix: Prefix4) -> Option<NextHopId> {
        let (index, len) = (page_of(prefix.addr()), prefix.len());
        let old = self.routes.0[len as usize].remove(&prefix.addr())?;
        let (hop, depth) = self.routes.covering(prefix);
        let fill = Fill {
            hop,
            depth,
            over: (len, len),
        };
        let page_cover = self.routes.covering_page(index);
        let mut table = self.table();
        match len {
            0..=PAGE_LEN => table.fill_pages(prefix, fill),
            FIRST_INNER_LEN..=24 => table.fill_slots(index, prefix, fill),
            _ => {
                let slot = slot_of(prefix.addr());
                let group = table.extend(index, slot);
                table.groups.all[group].routes -= 1;
                table.fill_group(group, prefix, fill);
                if table.groups.all[group].routes == 0 {
                    table.collapse(index, slot, group);
                }
            }
        }
        if len > PAGE_LEN {
            table.pages.0[index].inner_routes -= 1;
            if table.pages.0[index].inner_routes == 0 {
                table.make_uniform(index, page_cover);
            }
        }
        Some(old)
    }

    /// The next hop of exactly this route.
    #[must_use]
    pub fn get(&self, prefix: Prefix4) -> Option<NextHopId> {
        self.routes.0[prefix.len() as usize]
            .get(&prefix.addr())
            .copied()
    }

    /// All routes, from the shortest to the longest prefixes, in no order within a length.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix4, NextHopId)> {
        (0..).zip(&self.routes.0).flat_map(|(len, routes)| {
            routes
                .iter()
                .filter_map(move |(&addr, &hop)| Some((Prefix4::containing(addr, len).ok()?, hop)))
        })
    }

    /// The number of routes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.routes.0.iter().map(HashMap::len).sum()
    }

    /// Whether there are no routes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The table as it is now.
    #[must_use]
    pub fn lpm(&self) -> &Lpm4 {
        &self.lpm
    }

    /// A table that stays as it is now. Copies a pointer.
    #[must_use]
    pub fn snapshot(&self) -> Lpm4 {
        self.lpm.clone()
    }

    /// Whether `prefix` needs an extension group and there is none left.
    fn is_full(&self, prefix: Prefix4) -> bool {
        let entry =
            self.lpm.root.pages.get(page_of(prefix.addr()))[slot_of(prefix.addr())].load(Relaxed);
        entry & EXTENDED == 0 && self.groups.free.is_empty() && self.groups.all.len() == MAX_GROUPS
    }

    /// The table and what is known of it, to be written.
    fn table(&mut self) -> TableMut<'_> {
        let Self {
            lpm, pages, groups, ..
        } = self;
        TableMut {
            root: Arc::make_mut(&mut lpm.root),
            pages,
            groups,
        }
    }
}

impl Routes {
    /// The longest route that holds `prefix` and is shorter: its next hop and its length.
    fn covering(&self, prefix: Prefix4) -> (NextHopId, u8) {
        (0..prefix.len())
            .rev()
            .find_map(|len| self.holding(prefix.addr(), len))
            .unwrap_or_default()
    }

    /// The longest route that holds all of page `page`.
    fn covering_page(&self, page: usize) -> (NextHopId, u8) {
        let first = (page as u32) << (8 + PAGE_BITS);
        (0..=PAGE_LEN)
            .rev()
            .find_map(|len| self.holding(first, len))
            .unwrap_or_default()
    }

    /// The route of length `len` that holds `addr`.
    fn holding(&self, addr: u32, len: u8) -> Option<(NextHopId, u8)> {
        let routes = &self.0[len as usize];
        if routes.is_empty() {
            return None;
        }
        let prefix = Prefix4::containing(addr, len).ok()?;
        routes.get(&prefix.addr()).map(|&hop| (hop, len))
    }
}

impl Fill {
    fn covers(self, depth: u8) -> bool {
        self.over.0 <= depth && depth <= self.over.1
    }

    fn write(self, entries: &[AtomicU16], depths: &mut [u8]) {
        for (entry, depth) in entries.iter().zip(depths) {
            if self.covers(*depth) {
                entry.store(self.hop.0, Relaxed);
                *depth = self.depth;
            }
        }
    }
}

/// The table that readers get next, and what the writer knows of it.
struct TableMut<'a> {
    root: &'a mut Root,
    pages: &'a mut PageShadows,
    groups: &'a mut GroupShadows,
}

impl TableMut<'_> {
    /// Writes a route that is no longer than a page's prefix: whole pages.
    fn fill_pages(&mut self, prefix: Prefix4, fill: Fill) {
        let mut shared = None;
        for index in page_of(prefix.addr())..=page_of(prefix.last()) {
            let shadow = &mut self.pages.0[index];
            if shadow.depths.is_some() {
                self.fill_slots(index, prefix, fill);
            } else if fill.covers(shadow.uniform_depth) {
                shadow.uniform_depth = fill.depth;
                let page = shared.get_or_insert_with(|| self.uniform_page(fill.hop));
                self.root.pages.set(index, page.clone());
            }
        }
        self.count_pages();
    }

    /// Writes a route of at most 24 bits into the entries of its /24 in page `index`.
    fn fill_slots(&mut self, index: usize, prefix: Prefix4, fill: Fill) {
        let slots = if prefix.len() <= PAGE_LEN {
            0..=(1 << PAGE_BITS) - 1
        } else {
            slot_of(prefix.addr())..=slot_of(prefix.last())
        };
        let was_uniform = self.pages.0[index].depths.is_none();
        let entries = &self.root.pages.make_mut(index)[slots.clone()];
        let depths = &mut self.pages.0[index].depths_mut()[slots];
        for (slot, depth) in entries.iter().zip(depths) {
            let entry = slot.load(Relaxed);
            if entry & EXTENDED != 0 {
                let group = group_of_entry(entry);
                fill.write(
                    group_mut(&mut self.root.groups, group),
                    &mut self.groups.all[group].depths,
                );
            } else if fill.covers(*depth) {
                slot.store(fill.hop.0, Relaxed);
                *depth = fill.depth;
            }
        }
        if was_uniform {
            self.count_pages();
        }
    }

    /// The extension group of a /24, made if it has none. There must be a free one.
    fn extend(&mut self, index: usize, slot: usize) -> usize {
        let entry = self.root.pages.get(index)[slot].load(Relaxed);
        if entry & EXTENDED != 0 {
            return group_of_entry(entry);
        }
        let was_uniform = self.pages.0[index].depths.is_none();
        let depth = self.pages.0[index].depths_mut()[slot];
        let group = self.groups.take(GroupShadow {
            routes: 0,
            depths: [depth; 1 << 8],
        });
        fill(group_mut(&mut self.root.groups, group), entry);
        self.root.pages.make_mut(index)[slot].store(entry_of_group(group), Relaxed);
        if was_uniform {
            self.count_pages();
        }
        group
    }

    /// Writes a route longer than /24 into its group.
    fn fill_group(&mut self, group: usize, prefix: Prefix4, fill: Fill) {
        let octets = (prefix.addr() & 0xff) as usize..=(prefix.last() & 0xff) as usize;
        let entries = &group_mut(&mut self.root.groups, group)[octets.clone()];
        fill.write(entries, &mut self.groups.all[group].depths[octets]);
    }

    /// Gives back the group of a /24, which no route longer than /24 is in any more.
    fn collapse(&mut self, index: usize, slot: usize, group: usize) {
        let first = (group % GROUPS_A_PAGE) << 8;
        let entry = self.root.groups.get(group / GROUPS_A_PAGE)[first].load(Relaxed);
        self.root.pages.make_mut(index)[slot].store(entry, Relaxed);
        self.pages.0[index].depths_mut()[slot] = self.groups.all[group].depths[0];
        if self.groups.give_back(group) {
            self.root.groups = Pages::all(&self.uniform_page(NextHopId::NONE));
        }
    }

    /// Shares page `index`, which no route longer than its prefix is in any more.
    fn make_uniform(&mut self, index: usize, (hop, uniform_depth): (NextHopId, u8)) {
        let page = self.uniform_page(hop);
        self.root.pages.set(index, page);
        self.pages.0[index] = PageShadow {
            uniform_depth,
            ..PageShadow::default()
        };
        self.count_pages();
    }

    /// A page with `hop` everywhere: another uniform page if there is one.
    fn uniform_page(&self, hop: NextHopId) -> Page {
        let pages = &self.root.pages;
        let says_hop = |index: &usize| {
            self.pages.0[*index].depths.is_none() && pages.get(*index)[0].load(Relaxed) == hop.0
        };
        (0..self.pages.0.len())
            .find(says_hop)
            .map_or_else(|| Page::uniform(hop.0), |index| pages.page(index).clone())
    }

    /// Decides whether batches prefetch, after the number of different pages may have changed.
    fn count_pages(&mut self) {
        let pages = &self.root.pages;
        // Uniform pages side by side mostly are the same; a few counted twice do not matter.
        let next = pages.iter().skip(1);
        let steps = pages
            .iter()
            .zip(next)
            .filter(|(one, next)| !ptr::eq(*one, *next));
        self.root.prefetches = steps.count() >= CACHED_PAGES;
    }
}

impl PageShadow {
    /// The depths of the entries, written out if the page was uniform.
    fn depths_mut(&mut self) -> &mut [u8; 1 << PAGE_BITS] {
        self.depths
            .get_or_insert_with(|| Box::new([self.uniform_depth; 1 << PAGE_BITS]))
    }
}

impl GroupShadows {
    /// Takes a free group into use.
    fn take(&mut self, shadow: GroupShadow) -> usize {
        if let Some(group) = self.free.pop() {
            self.all[group as usize] = shadow;
            return group as usize;
        }
        self.all.push(shadow);
        self.all.len() - 1
    }

    /// Frees a group; says whether it was the last in use.
    fn give_back(&mut self, group: usize) -> bool {
        self.free.push(group as u16);
        let none_left = self.free.len() == self.all.len();
        if none_left {
            *self = Self::default();
        }
        none_left
    }
}

/// The entry that stands for group `group`.
fn entry_of_group(group: usize) -> u16 {
    let (page, at) = (group / GROUPS_A_PAGE, group % GROUPS_A_PAGE);
    EXTENDED | (at * GROUP_PAGES + page) as u16
}

/// The group that an extended entry stands for.
fn group_of_entry(entry: u16) -> usize {
    let (page, at) = group_place(entry);
    page * GROUPS_A_PAGE + at
}

/// Group `group`, its page copied first if anybody shares it.
fn group_mut(groups: &mut Groups, group: usize) -> &[AtomicU16] {
    let first = (group % GROUPS_A_PAGE) << 8;
    &groups.make_mut(group / GROUPS_A_PAGE)[first..first + (1 << 8)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages of entries in memory, and extension groups in use.
    fn footprint(rib: &Rib4) -> (usize, usize) {
        let mut pages: Vec<_> = rib.lpm.root.pages.iter().map(ptr::from_ref).collect();
        pages.sort_unstable();
        pages.dedup();
        (pages.len(), rib.groups.all.len() - rib.groups.free.len())
    }

    /// The places at which there is another page than before.
    fn copied<const N: usize>(before: &Pages<N>, after: &Pages<N>) -> Vec<usize> {
        let differs = |&index: &usize| !ptr::eq(before.get(index), after.get(index));
        (0..N).filter(differs).collect()
    }

    fn rib(routes: &[&str]) -> Rib4 {
        let mut rib = Rib4::new();
        for text in routes {
            rib.insert(text.parse().unwrap(), NextHopId::MAX).unwrap();
        }
        rib
    }

    fn without(mut rib: Rib4, gone: &str) -> Rib4 {
        rib.remove(gone.parse().unwrap()).unwrap();
        rib
    }

    #[test]
    fn pages_with_one_next_hop_are_there_once() {
        let one_hop = rib(&["0.0.0.0/0"]);
        assert_eq!(footprint(&one_hop), (1, 0));
        let inner = rib(&["0.0.0.0/0", "10.0.0.0/16"]);
        assert_eq!(footprint(&inner), (2, 0));
        assert_eq!(footprint(&without(inner, "10.0.0.0/16")), (1, 0));
        let short = rib(&["0.0.0.0/1", "10.0.0.0/8", "192.0.0.0/3"]);
        assert_eq!(footprint(&short), (2, 0));
    }

    #[test]
    fn a_group_goes_with_the_last_of_its_routes() {
        let hosts = rib(&["10.0.0.0/16", "10.0.0.1/32", "10.0.0.2/32", "10.0.1.0/25"]);
        assert_eq!(footprint(&hosts), (2, 2));
        let hosts = without(hosts, "10.0.0.1/32");
        assert_eq!(footprint(&hosts), (2, 2));
        let hosts = without(hosts, "10.0.0.2/32");
        assert_eq!(footprint(&hosts), (2, 1));
        assert_eq!(footprint(&without(hosts, "10.0.1.0/25")), (2, 0));
    }

    #[test]
    fn a_change_copies_only_the_page_that_it_touches() {
        let mut rib = rib(&["10.0.0.0/16", "11.0.0.0/16", "11.0.0.1/32"]);
        let before = rib.snapshot().root;
        rib.insert("11.0.0.2/32".parse().unwrap(), NextHopId::MAX)
            .unwrap();
        let after = rib.snapshot().root;
        // The route is in a group that was there, the first of all.
        assert_eq!(copied(&before.pages, &after.pages), []);
        assert_eq!(copied(&before.groups, &after.groups), [0]);

        rib.remove("11.0.0.0/16".parse().unwrap()).unwrap();
        let after = rib.snapshot().root;
        assert_eq!(copied(&before.pages, &after.pages), [0x0b00_0000 >> 22]);
    }

    #[test]
    fn batches_prefetch_in_tables_larger_than_a_cache() {
        let mut rib = rib(&["0.0.0.0/0", "10.0.0.0/16"]);
        assert!(!rib.lpm.root.prefetches);
        let others = || (20..60).map(|octet| Prefix4::new(octet << 24, 16).unwrap());
        for prefix in others() {
            rib.insert(prefix, NextHopId::new(1).unwrap()).unwrap();
        }
        assert!(rib.lpm.root.prefetches);
        for prefix in others() {
            rib.remove(prefix).unwrap();
        }
        assert!(!rib.lpm.root.prefetches);
    }
}
