//! The IPv6 writer. The trie and its short cuts hold all routes as they are, so they are all that the writer needs.

use std::sync::Arc;

use super::levels::{self, MIN_ROUTES};
use super::lpm6::{Hops, Node, chunk_of, level_of, rank, route_bit};
use super::tier::Tier;
use super::{Lpm6, LpmError, NextHopId, Prefix6};

/// IPv6 routes to change. Limits are those of [`Lpm6`].
///
/// A change copies the nodes on the way to the route, with their siblings, if a snapshot still shares
/// them: a few KiB. Now and then one makes all anew, with short cuts for the routes that there are then: when there are half as many
/// more than the last time, or there were four times as many changes as routes. A change bears a few insertions' time of that.
#[derive(Clone, Debug, Default)]
pub struct Rib6 {
    lpm: Lpm6,
    len: usize,
    /// The routes that there were when the short cuts were chosen.
    chosen_for: usize,
    /// Changes since then.
    changes: usize,
}

impl Rib6 {
    /// No routes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// All of `routes`; of two routes with one prefix the later counts.
    ///
    /// # Errors
    /// As [`Rib6::insert`].
    pub fn from_routes(routes: &[(Prefix6, NextHopId)]) -> Result<Self, LpmError> {
        let mut rib = Self::new();
        rib.lpm.tiers = levels::tiers(routes).into();
        for &(prefix, hop) in routes {
            rib.put(prefix, hop)?;
        }
        rib.chosen_for = rib.len;
        Ok(rib)
    }

    /// Adds the route or replaces its next hop; returns the next hop that it had.
    ///
    /// # Errors
    /// [`LpmError::NoNextHop`]. Nothing has changed then.
    pub fn insert(
        &mut self,
        prefix: Prefix6,
        hop: NextHopId,
    ) -> Result<Option<NextHopId>, LpmError> {
        let old = self.put(prefix, hop)?;
        self.count_change()?;
        Ok(old)
    }

    /// Removes the route; returns its next hop, or `None` if there was no such route.
    pub fn remove(&mut self, prefix: Prefix6) -> Option<NextHopId> {
        let old = self.get(prefix)?;
        self.len -= 1;
        let (level, addr) = (level_of(prefix.len()).0, prefix.addr());
        let tiers = Arc::make_mut(&mut self.lpm.tiers).iter_mut();
        if !tiers
            .filter(|it| it.level <= level)
            .any(|tier| tier.change(addr, |node| remove(node, prefix)))
        {
            remove(Arc::make_mut(&mut self.lpm.root), prefix);
        }
        // All have next hops.
        let _ = self.count_change();
        Some(old)
    }

    fn put(&mut self, prefix: Prefix6, hop: NextHopId) -> Result<Option<NextHopId>, LpmError> {
        if hop.is_none() {
            return Err(LpmError::NoNextHop);
        }
        let top = top_for(&mut self.lpm, prefix.addr(), level_of(prefix.len()).0);
        let old = insert(top, prefix, hop);
        self.len += usize::from(old.is_none());
        Ok(old)
    }

    /// Counts a change, and makes all anew if the short cuts may be wrong for what there is now.
    fn count_change(&mut self) -> Result<(), LpmError> {
        self.changes += 1;
        if self.len > self.chosen_for + self.chosen_for / 2 + MIN_ROUTES
            || self.changes > 4 * self.chosen_for + 8 * MIN_ROUTES
        {
            *self = Self::from_routes(&self.iter().collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// The next hop of exactly this route.
    #[must_use]
    pub fn get(&self, prefix: Prefix6) -> Option<NextHopId> {
        let (level, addr) = (level_of(prefix.len()).0, prefix.addr());
        let mut tiers = self.lpm.tiers.iter().filter(|it| it.level <= level);
        let top = tiers
            .find_map(|tier| tier.find(addr))
            .unwrap_or(&self.lpm.root);
        let node = top.find(addr, level)?;
        let bit = route_bit(prefix);
        ((node.routes >> bit) & 1 == 1).then(|| node.hop(bit as u8))
    }

    /// All routes, in no order that means something.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix6, NextHopId)> {
        let mut todo = vec![&*self.lpm.root];
        todo.extend(self.lpm.tiers.iter().flat_map(Tier::nodes));
        std::iter::from_fn(move || {
            let node = todo.pop()?;
            todo.extend(node.nodes.iter().flat_map(|nodes| nodes.iter()));
            Some(node)
        })
        .flat_map(routes_of)
    }

    /// The number of routes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no routes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The table as it is now.
    #[must_use]
    pub fn lpm(&self) -> &Lpm6 {
        &self.lpm
    }

    /// A table that stays as it is now. Copies a pointer.
    #[must_use]
    pub fn snapshot(&self) -> Lpm6 {
        self.lpm.clone()
    }
}

/// Where a route of `level` to `addr` belongs: the first tier's node that there is or can be, or else the root.
///
/// All routes below a path of a tier are in one place, so that a lookup that finds one there need not look elsewhere for longer ones.
fn top_for(lpm: &mut Lpm6, addr: u128, level: u8) -> &mut Node {
    let Lpm6 {
        root,
        tiers,
        octets,
        ..
    } = lpm;
    let takes = |which: &usize| {
        let tier = &tiers[*which];
        let behind = tiers[which + 1..].iter().filter_map(|it| it.find(addr));
        tier.level <= level
            && (tier.find(addr).is_some()
                || tier.has_room(addr)
                    && !behind
                        .chain([&**root])
                        .any(|it| it.leads_to(addr, tier.level)))
    };
    let which = (0..tiers.len()).find(takes);
    let tier = which.and_then(|which| Arc::make_mut(tiers).get_mut(which));
    match tier.and_then(|tier| tier.find_or_add(addr)) {
        Some(node) => {
            octets.add(addr);
            node
        }
        None => Arc::make_mut(root),
    }
}

/// The routes that end in `node`.
fn routes_of(node: &Node) -> impl Iterator<Item = (Prefix6, NextHopId)> {
    (0..63u8)
        .filter(|bit| (node.routes >> bit) & 1 == 1)
        .filter_map(|bit| {
            let depth = (bit + 1).ilog2() as u8;
            let value = u128::from(bit) + 1 - (1 << depth);
            // The path is 6 * level - 3 bits long; the bits of the root begin three before the address.
            let len = 6 * node.level() + depth - 3;
            let below = if len == 0 { 0 } else { value << (128 - len) };
            Some((Prefix6::new(node.path() | below, len).ok()?, node.hop(bit)))
        })
}

/// Adds the route below `node`, which is on its way.
fn insert(node: &mut Node, prefix: Prefix6, hop: NextHopId) -> Option<NextHopId> {
    let (level, _) = level_of(prefix.len());
    if node.level() == level {
        return set_hop(node, route_bit(prefix), hop);
    }
    let chunk = chunk_of(prefix.addr(), node.level());
    let at = rank(node.children, chunk);
    if (node.children >> chunk) & 1 == 0 {
        let mut child = Node::new(prefix.addr(), level);
        set_hop(&mut child, route_bit(prefix), hop);
        add_child(node, chunk, child);
        return None;
    }
    let child = &mut Arc::make_mut(node.nodes.as_mut()?)[at];
    let common = common_level(child, prefix.addr(), level);
    if common < child.level() {
        let split = Node::new(prefix.addr(), common);
        let below = std::mem::replace(child, split);
        let chunk = chunk_of(below.path(), common);
        add_child(child, chunk, below);
    }
    insert(child, prefix, hop)
}

/// Removes the route, which must exist, from below `node`, and what the trie has no more use for.
fn remove(node: &mut Node, prefix: Prefix6) {
    if node.level() == level_of(prefix.len()).0 {
        clear_hop(node, route_bit(prefix));
        return;
    }
    let chunk = chunk_of(prefix.addr(), node.level());
    let at = rank(node.children, chunk);
    let Some(nodes) = node.nodes.as_mut() else {
        return;
    };
    let child = &mut Arc::make_mut(nodes)[at];
    remove(child, prefix);
    if child.routes != 0 {
        return;
    }
    match child.nodes.as_deref() {
        None => remove_child(node, chunk),
        Some([only]) => {
            let only = only.clone();
            *child = only;
        }
        Some(_) => {}
    }
}

/// The last level, at most `level`, at which `child` and `addr` share their path.
fn common_level(child: &Node, addr: u128, level: u8) -> u8 {
    let shared = (child.path() ^ addr).leading_zeros() as u8;
    let (shared_level, _) = level_of(shared);
    shared_level.min(level)
}

/// Sets the next hop of the route at `bit`; returns the one that it had.
fn set_hop(node: &mut Node, bit: usize, hop: NextHopId) -> Option<NextHopId> {
    let at = rank(node.routes, bit);
    if (node.routes >> bit) & 1 == 1 {
        return Some(std::mem::replace(&mut node.hops.as_mut_slice()[at], hop));
    }
    let count = node.routes.count_ones() as usize;
    let hops = &node.hops.as_slice()[..count];
    node.hops = hops_of(
        hops[..at]
            .iter()
            .copied()
            .chain([hop])
            .chain(hops[at..].iter().copied()),
        count + 1,
    );
    node.routes |= 1 << bit;
    None
}

/// Removes the next hop of the route at `bit`, which must exist.
fn clear_hop(node: &mut Node, bit: usize) {
    let at = rank(node.routes, bit);
    let count = node.routes.count_ones() as usize;
    let hops = &node.hops.as_slice()[..count];
    node.hops = hops_of(hops[..at].iter().chain(&hops[at + 1..]).copied(), count - 1);
    node.routes &= !(1 << bit);
}

fn hops_of(hops: impl Iterator<Item = NextHopId>, count: usize) -> Hops {
    let mut few = [NextHopId::NONE; 4];
    if count > few.len() {
        return Hops::Many(hops.collect());
    }
    few.iter_mut()
        .zip(hops)
        .for_each(|(place, hop)| *place = hop);
    Hops::Few(few)
}

/// Adds the child for `chunk`, which must have none.
fn add_child(node: &mut Node, chunk: usize, child: Node) {
    let at = rank(node.children, chunk);
    let nodes = node.nodes.as_deref().unwrap_or_default();
    node.nodes = Some(
        nodes[..at]
            .iter()
            .cloned()
            .chain([child])
            .chain(nodes[at..].iter().cloned())
            .collect(),
    );
    node.children |= 1 << chunk;
}

/// Removes the child for `chunk`, which must exist.
fn remove_child(node: &mut Node, chunk: usize) {
    let at = rank(node.children, chunk);
    let nodes = node.nodes.as_deref().unwrap_or_default();
    let left: Arc<[Node]> = nodes[..at]
        .iter()
        .chain(&nodes[at + 1..])
        .cloned()
        .collect();
    node.nodes = (!left.is_empty()).then_some(left);
    node.children &= !(1 << chunk);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The nodes of the trie below `node` and itself.
    fn nodes(node: &Node) -> usize {
        1 + node
            .nodes
            .as_deref()
            .unwrap_or_default()
            .iter()
            .map(nodes)
            .sum::<usize>()
    }

    fn rib(routes: &[&str]) -> Rib6 {
        let routes: Vec<_> = routes
            .iter()
            .map(|text| (text.parse().unwrap(), NextHopId::MAX))
            .collect();
        Rib6::from_routes(&routes).unwrap()
    }

    #[test]
    fn removals_leave_no_more_nodes_than_the_rest_needs() {
        let all = [
            "::/0",
            "fd00::/8",
            "fd00:10::/48",
            "fd00:10::40/122",
            "fd00:10::80/122",
            "fd00:11::1/128",
        ];
        for gone in all {
            let rest: Vec<_> = all.into_iter().filter(|text| *text != gone).collect();
            let mut changed = rib(&all);
            changed.remove(gone.parse().unwrap()).unwrap();
            assert_eq!(
                nodes(&changed.lpm.root),
                nodes(&rib(&rest).lpm.root),
                "without {gone}"
            );
        }
        let mut changed = rib(&all);
        for gone in all {
            changed.remove(gone.parse().unwrap()).unwrap();
        }
        assert_eq!(nodes(&changed.lpm.root), 1);
    }

    #[test]
    fn blocks_side_by_side_share_a_node() {
        let routes: Vec<_> = (0..32u128)
            .map(|block| (Prefix6::new(block << 6, 122).unwrap(), NextHopId::MAX))
            .collect();
        let rib = Rib6::from_routes(&routes).unwrap();
        let in_tiers = rib.lpm.tiers.iter().flat_map(Tier::nodes).map(nodes);
        assert_eq!(nodes(&rib.lpm.root) + in_tiers.sum::<usize>(), 2);
    }

    /// The longest of `routes` by scanning all of them.
    fn scan(routes: &BTreeMap<Prefix6, NextHopId>, addr: u128) -> NextHopId {
        let holding = routes.iter().filter(|(prefix, _)| prefix.contains(addr));
        let longest = holding.max_by_key(|(prefix, _)| prefix.len());
        longest.map_or(NextHopId::NONE, |(_, hop)| *hop)
    }

    /// Tables that have room for a few of the nodes only: what finds none comes and goes in the other tables and in the trie.
    #[test]
    fn what_finds_no_room_in_a_short_cut_is_found_all_the_same() {
        let mut rib = Rib6::new();
        rib.lpm.tiers = [Tier::new(20, 1), Tier::new(16, 1)].into();
        // So that they stay.
        rib.chosen_for = 1 << 20;
        let mut routes = BTreeMap::new();
        // Nodes in the two tables and in the trie.
        let mut most = [0; 3];
        let mut state = 1u64;
        let mut draw = move |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % below
        };
        let lens = [122, 122, 128, 117, 119, 116, 108, 98, 94, 93, 90, 33, 0];
        for change in 0..3000 {
            let len = lens[draw(lens.len() as u64) as usize];
            let addr = (0xfd << 120)
                | u128::from(draw(100) << 36 | draw(8) << 11 | draw(3) << 6 | draw(2));
            let prefix = Prefix6::containing(addr, len).unwrap();
            // It grows first, and becomes small then.
            if draw(3) < if change < 1500 { 2 } else { 1 } {
                let hop = NextHopId::new(draw(5) as u16 + 1).unwrap();
                assert_eq!(rib.insert(prefix, hop), Ok(routes.insert(prefix, hop)));
            } else {
                assert_eq!(rib.remove(prefix), routes.remove(&prefix));
            }
            if change % 200 == 0 {
                let ends = routes
                    .keys()
                    .flat_map(|it| [it.addr(), it.last(), it.addr().wrapping_sub(1)]);
                let addrs: Vec<_> = ends.collect();
                let mut found = vec![NextHopId::MAX; addrs.len()];
                rib.lpm.lookup_batch(&addrs, &mut found);
                for (&addr, found) in addrs.iter().zip(found) {
                    let expected = scan(&routes, addr);
                    assert_eq!(
                        (found, rib.lpm.lookup(addr)),
                        (expected, expected),
                        "{addr:x}"
                    );
                }
                assert_eq!(rib.iter().collect::<BTreeMap<_, _>>(), routes);
                let held = |which: usize| rib.lpm.tiers[which].nodes().count();
                let now = [held(0), held(1), nodes(&rib.lpm.root)];
                most = std::array::from_fn(|at| most[at].max(now[at]));
            }
        }
        // How many find room depends on the tables' random numbers.
        assert!(most.iter().all(|&most| most > 8), "{most:?} nodes");
        for prefix in routes.into_keys() {
            rib.remove(prefix).unwrap();
        }
        assert_eq!(nodes(&rib.lpm.root), 1);
        assert!(rib.lpm.tiers.iter().all(|it| it.nodes().count() == 0));
    }
}
