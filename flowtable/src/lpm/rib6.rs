//! The IPv6 writer. The trie holds all routes as they are, so it is all that the writer needs.

use std::sync::Arc;

use super::lpm6::{Hops, Node, chunk_of, level_of, rank, route_bit};
use super::{Lpm6, LpmError, NextHopId, Prefix6};

/// IPv6 routes to change. Limits are those of [`Lpm6`].
///
/// A change copies the nodes on the way to the route, with their siblings, if a snapshot still shares
/// them: a few KiB.
#[derive(Clone, Debug, Default)]
pub struct Rib6 {
    lpm: Lpm6,
    len: usize,
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
        for &(prefix, hop) in routes {
            rib.insert(prefix, hop)?;
        }
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
        if hop.is_none() {
            return Err(LpmError::NoNextHop);
        }
        let old = insert(Arc::make_mut(&mut self.lpm.root), prefix, hop);
        self.len += usize::from(old.is_none());
        Ok(old)
    }

    /// Removes the route; returns its next hop, or `None` if there was no such route.
    pub fn remove(&mut self, prefix: Prefix6) -> Option<NextHopId> {
        let old = self.get(prefix)?;
        remove(Arc::make_mut(&mut self.lpm.root), prefix);
        self.len -= 1;
        Some(old)
    }

    /// The next hop of exactly this route.
    #[must_use]
    pub fn get(&self, prefix: Prefix6) -> Option<NextHopId> {
        let (level, _) = level_of(prefix.len());
        let mut node = &*self.lpm.root;
        while node.level() < level {
            let chunk = chunk_of(prefix.addr(), node.level());
            if (node.children >> chunk) & 1 == 0 {
                return None;
            }
            node = node.nodes.as_ref()?.get(rank(node.children, chunk))?;
            if node.level() > level || !node.is_on_path(prefix.addr()) {
                return None;
            }
        }
        let bit = route_bit(prefix);
        ((node.routes >> bit) & 1 == 1).then(|| node.hop(bit as u8))
    }

    /// All routes, in no order that means something.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix6, NextHopId)> {
        let mut todo = vec![&*self.lpm.root];
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
        assert_eq!(nodes(&Rib6::from_routes(&routes).unwrap().lpm.root), 2);
    }
}
