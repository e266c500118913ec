//! The IPv4 writer: all routes, and the depth of each entry of the reader's table.
//!
//! The reader's entries do not say how long the route is that they come from. The writer keeps that
//! beside them, so that a route overwrites only entries of shorter ones and its removal only its own.

use std::sync::Arc;

use hashbrown::HashMap;

use super::lpm4::{Base, EXTENDED, GROUPS_A_CHUNK, Group, MAX_GROUPS, Page, slot_of, uniform};
use super::{Lpm4, LpmError, NextHopId, Prefix4};

/// IPv4 routes to change. Limits are those of [`Lpm4`].
///
/// A change copies the page (128 KiB) or the chunk of extension groups (16 KiB) that it touches if a
/// snapshot still shares it, once for any number of changes between two snapshots.
#[derive(Clone, Debug, Default)]
pub struct Rib4 {
    lpm: Lpm4,
    routes: Routes,
    shadows: Shadows,
}

/// The routes by length, then by first address.
#[derive(Clone, Debug)]
struct Routes([HashMap<u32, NextHopId>; 33]);

/// What the writer knows of each page.
#[derive(Clone, Debug)]
struct Shadows(Box<[Shadow; 256]>);

/// What the writer knows of one page.
#[derive(Clone, Debug, Default)]
struct Shadow {
    /// Routes longer than /8. With none the page is uniform.
    inner_routes: u32,
    /// The length of the route that a uniform page comes from.
    uniform_depth: u8,
    /// The length of the route that each entry comes from, 0 without one; none for a uniform page.
    depths: Option<Box<[u8; 1 << 16]>>,
    /// What the writer knows of each extension group.
    groups: Vec<GroupShadow>,
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

impl Default for Shadows {
    fn default() -> Self {
        Self(Box::new(std::array::from_fn(|_| Shadow::default())))
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
        let (octet, len) = ((prefix.addr() >> 24) as u8, prefix.len());
        if len > 24 && self.is_full(octet, slot_of(prefix.addr())) {
            return Err(LpmError::TooManyGroups { octet });
        }
        let old = self.routes.0[len as usize].insert(prefix.addr(), hop);
        if old == Some(hop) {
            return Ok(old);
        }
        if old.is_none() && len > 8 {
            self.shadows.0[octet as usize].inner_routes += 1;
        }
        let fill = Fill {
            hop,
            depth: len,
            over: (0, len),
        };
        match len {
            0..=8 => self.fill_pages(prefix, fill),
            9..=24 => self.page(octet).fill_slots(prefix, fill),
            _ => {
                let group = self.page(octet).extend(slot_of(prefix.addr()));
                if old.is_none() {
                    self.shadows.0[octet as usize].groups[group].routes += 1;
                }
                self.page(octet)
                    .fill_group(group, last_octets(prefix), fill);
            }
        }
        Ok(old)
    }

    /// Removes the route; returns its next hop, or `None` if there was no such route.
    pub fn remove(&mut self, prefix: Prefix4) -> Option<NextHopId> {
        let (octet, len) = ((prefix.addr() >> 24) as u8, prefix.len());
        let old = self.routes.0[len as usize].remove(&prefix.addr())?;
        let (hop, depth) = self.routes.covering(prefix);
        let fill = Fill {
            hop,
            depth,
            over: (len, len),
        };
        if len <= 8 {
            self.fill_pages(prefix, fill);
            return Some(old);
        }
        let shadow = &mut self.shadows.0[octet as usize];
        shadow.inner_routes -= 1;
        if shadow.inner_routes == 0 {
            self.make_uniform(octet);
        } else if len <= 24 {
            self.page(octet).fill_slots(prefix, fill);
        } else {
            let slot = slot_of(prefix.addr());
            let group = self.page(octet).extend(slot);
            self.page(octet)
                .fill_group(group, last_octets(prefix), fill);
            let routes = &mut self.shadows.0[octet as usize].groups[group].routes;
            *routes -= 1;
            if *routes == 0 {
                self.page(octet).collapse(slot, group);
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

    /// Whether `slot` needs an extension group and there is none left.
    fn is_full(&self, octet: u8, slot: usize) -> bool {
        let shadow = &self.shadows.0[octet as usize];
        let extended = self.lpm.pages[octet as usize].base[slot] & EXTENDED != 0;
        !extended && shadow.free.is_empty() && shadow.groups.len() == MAX_GROUPS
    }

    /// Writes a route of at most 8 bits: whole pages.
    fn fill_pages(&mut self, prefix: Prefix4, fill: Fill) {
        let mut uniform = None;
        for octet in (prefix.addr() >> 24) as u8..=(prefix.last() >> 24) as u8 {
            let shadow = &mut self.shadows.0[octet as usize];
            if shadow.depths.is_some() {
                self.page(octet).fill_slots(prefix, fill);
            } else if fill.covers(shadow.uniform_depth) {
                shadow.uniform_depth = fill.depth;
                let base = uniform.get_or_insert_with(|| self.uniform_base(fill.hop));
                Arc::make_mut(&mut self.lpm.pages)[octet as usize].base = Arc::clone(base);
            }
        }
    }

    /// Shares the page of `octet`, which no route longer than /8 is in any more.
    fn make_uniform(&mut self, octet: u8) {
        let (hop, uniform_depth) = self.routes.covering_page(octet);
        let base = self.uniform_base(hop);
        Arc::make_mut(&mut self.lpm.pages)[octet as usize] = Page {
            base,
            groups: Vec::new(),
        };
        self.shadows.0[octet as usize] = Shadow {
            uniform_depth,
            ..Shadow::default()
        };
    }

    /// A page with `hop` everywhere: another uniform page's if there is one.
    fn uniform_base(&self, hop: NextHopId) -> Arc<Base> {
        self.shadows
            .0
            .iter()
            .zip(self.lpm.pages.iter())
            .find(|(shadow, page)| shadow.depths.is_none() && page.base[0] == hop.0)
            .map_or_else(|| uniform(hop), |(_, page)| Arc::clone(&page.base))
    }

    /// The page of `octet`, to be written.
    fn page(&mut self, octet: u8) -> PageMut<'_> {
        PageMut {
            page: &mut Arc::make_mut(&mut self.lpm.pages)[octet as usize],
            shadow: &mut self.shadows.0[octet as usize],
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

    /// The longest route of at most 8 bits that holds the page of `octet`.
    fn covering_page(&self, octet: u8) -> (NextHopId, u8) {
        (0..=8)
            .rev()
            .find_map(|len| self.holding(u32::from(octet) << 24, len))
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

    fn write(self, entries: &mut [u16], depths: &mut [u8]) {
        for (entry, depth) in entries.iter_mut().zip(depths) {
            if self.covers(*depth) {
                *entry = self.hop.0;
                *depth = self.depth;
            }
        }
    }
}

/// A page and what the writer knows of it.
struct PageMut<'a> {
    page: &'a mut Page,
    shadow: &'a mut Shadow,
}

impl PageMut<'_> {
    /// Writes a route of at most 24 bits into the entries of its /24.
    fn fill_slots(&mut self, prefix: Prefix4, fill: Fill) {
        let slots = if prefix.len() <= 8 {
            0..=0xffff
        } else {
            slot_of(prefix.addr())..=slot_of(prefix.last())
        };
        let Self { page, shadow } = self;
        let entries = &mut Arc::make_mut(&mut page.base)[slots.clone()];
        let depths = &mut depths_of(&mut shadow.depths, shadow.uniform_depth)[slots];
        for (entry, depth) in entries.iter_mut().zip(depths) {
            if *entry & EXTENDED != 0 {
                let group = (*entry & !EXTENDED) as usize;
                fill.write(
                    group_mut(&mut page.groups, group),
                    &mut shadow.groups[group].depths,
                );
            } else if fill.covers(*depth) {
                *entry = fill.hop.0;
                *depth = fill.depth;
            }
        }
    }

    /// The extension group of the /24 `slot`, made if it has none. There must be a free one.
    fn extend(&mut self, slot: usize) -> usize {
        let Self { page, shadow } = self;
        let entry = page.base[slot];
        if entry & EXTENDED != 0 {
            return (entry & !EXTENDED) as usize;
        }
        let depth = depths_of(&mut shadow.depths, shadow.uniform_depth)[slot];
        let made = GroupShadow {
            routes: 0,
            depths: [depth; 1 << 8],
        };
        let group = if let Some(group) = shadow.free.pop() {
            shadow.groups[group as usize] = made;
            group as usize
        } else {
            shadow.groups.push(made);
            shadow.groups.len() - 1
        };
        if group / GROUPS_A_CHUNK == page.groups.len() {
            page.groups.push(Arc::new([[0; 1 << 8]; GROUPS_A_CHUNK]));
        }
        *group_mut(&mut page.groups, group) = [entry; 1 << 8];
        Arc::make_mut(&mut page.base)[slot] = EXTENDED | group as u16;
        group
    }

    /// Writes a route longer than /24 into its group.
    fn fill_group(&mut self, group: usize, octets: std::ops::RangeInclusive<usize>, fill: Fill) {
        let entries = &mut group_mut(&mut self.page.groups, group)[octets.clone()];
        fill.write(entries, &mut self.shadow.groups[group].depths[octets]);
    }

    /// Gives back the group of `slot`, which no route longer than /24 is in any more.
    fn collapse(&mut self, slot: usize, group: usize) {
        let Self { page, shadow } = self;
        let entry = group_mut(&mut page.groups, group)[0];
        Arc::make_mut(&mut page.base)[slot] = entry;
        depths_of(&mut shadow.depths, shadow.uniform_depth)[slot] = shadow.groups[group].depths[0];
        shadow.free.push(group as u16);
    }
}

/// The depths of a page's entries, written out if the page was uniform.
#[expect(
    clippy::large_stack_arrays,
    reason = "64 KiB, on the control plane's stack only"
)]
fn depths_of(depths: &mut Option<Box<[u8; 1 << 16]>>, uniform_depth: u8) -> &mut [u8; 1 << 16] {
    depths.get_or_insert_with(|| Box::new([uniform_depth; 1 << 16]))
}

/// Group `group`, copied first if a snapshot shares its chunk.
fn group_mut(groups: &mut [Arc<[Group; GROUPS_A_CHUNK]>], group: usize) -> &mut Group {
    &mut Arc::make_mut(&mut groups[group / GROUPS_A_CHUNK])[group % GROUPS_A_CHUNK]
}

/// The last octets that a route longer than /24 holds.
fn last_octets(prefix: Prefix4) -> std::ops::RangeInclusive<usize> {
    (prefix.addr() & 0xff) as usize..=(prefix.last() & 0xff) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages of entries in memory, and extension groups in use.
    fn footprint(rib: &Rib4) -> (usize, usize) {
        let mut pages: Vec<_> = rib
            .lpm
            .pages
            .iter()
            .map(|page| Arc::as_ptr(&page.base))
            .collect();
        pages.sort_unstable();
        pages.dedup();
        let groups = rib
            .shadows
            .0
            .iter()
            .map(|shadow| shadow.groups.len() - shadow.free.len());
        (pages.len(), groups.sum())
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
        let before = rib.snapshot();
        rib.insert("11.0.0.2/32".parse().unwrap(), NextHopId::MAX)
            .unwrap();
        let same =
            |octet: usize| Arc::ptr_eq(&before.pages[octet].base, &rib.lpm.pages[octet].base);
        assert!(
            (0..=255).all(same),
            "a route in an extension group leaves the entries alone"
        );
        assert!(!Arc::ptr_eq(
            &before.pages[11].groups[0],
            &rib.lpm.pages[11].groups[0]
        ));

        rib.remove("11.0.0.0/16".parse().unwrap()).unwrap();
        let same =
            |octet: usize| Arc::ptr_eq(&before.pages[octet].base, &rib.lpm.pages[octet].base);
        assert!((0..=255).all(|octet| same(octet) == (octet != 11)));
    }
}
