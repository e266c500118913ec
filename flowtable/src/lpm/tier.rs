//! A hash table of the nodes of one level: a short cut into the IPv6 trie.
//!
//! A node lies where the hash of its path says, at its *home*, or in one of the few places behind. A home says how far behind those
//! lie that belong there, so that who finds another's node mostly knows that there is none of his.
//!
//! The table owns its nodes and what is below them: no route is in it and in the trie above. A node that finds no room
//! stays in the trie, where it is found by walking.
//!
//! Whoever announces routes might choose them to share others' homes. What that could do is little: a node is at most seven places from
//! its home, and one that finds no room is walked to, as all are without short cuts. To choose them takes the hash, which is keyed with
//! random numbers, new ones for each table. It is no cryptographic hash: nobody outside sees what it says.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use super::lpm6::{MAX_REACH, Node, PATHS};

const PAGE: usize = 16;
const GROUP: usize = 64;

/// Nodes that are copied together.
type Page = [Node; PAGE];

/// Pages that are counted together, so that a clone does not count thousands.
type Group = [Arc<Page>; GROUP];

/// The nodes of one level, by their paths.
#[derive(Clone)]
pub(super) struct Tier {
    pub(super) level: u8,
    key: Key,
    groups: Box<[Arc<Group>]>,
}

/// What the home of an address depends on.
#[derive(Clone, Copy)]
struct Key {
    /// The bits of an address that are a path.
    mask: u128,
    secret: [u64; 2],
    homes: u64,
}

impl Key {
    #[inline(always)]
    fn home_of(&self, addr: u128) -> usize {
        let path = addr & self.mask;
        let low = path as u64 ^ self.secret[0];
        let high = (path >> 64) as u64 ^ self.secret[1];
        let product = u128::from(low) * u128::from(high);
        let hash = product as u64 ^ (product >> 64) as u64;
        ((u128::from(hash) * u128::from(self.homes)) >> 64) as usize
    }
}

/// Homes that a core's own cache holds.
const CACHED: usize = 1 << 13;

/// A tier as lookups see it.
#[derive(Clone, Copy)]
pub(super) struct Homes<'a> {
    key: Key,
    /// Whether the homes are more than a core's own cache holds, so that a batch prefetches them.
    pub(super) prefetches: bool,
    shift: u8,
    tier: &'a Tier,
    groups: &'a [Arc<Group>],
}

impl<'a> Homes<'a> {
    #[inline(always)]
    fn node(&self, index: usize) -> &'a Node {
        let group = &self.groups[index / (PAGE * GROUP)];
        &group[index / PAGE % GROUP][index % PAGE]
    }

    /// Some place.
    #[inline(always)]
    pub(super) fn any(&self) -> &'a Node {
        self.node(0)
    }

    /// Where the node of `addr` is, or what tells where. Reads nothing of it.
    #[inline(always)]
    pub(super) fn home(&self, addr: u128) -> &'a Node {
        self.node(self.key.home_of(addr))
    }

    /// The six bits of `addr` that the nodes here decide.
    #[inline(always)]
    pub(super) fn chunk_of(&self, addr: u128) -> usize {
        (addr >> (self.shift & 127)) as usize & 63
    }

    /// The node of `addr`, whose home is `home`.
    #[inline(always)]
    pub(super) fn node_of(&self, home: &'a Node, addr: u128) -> Option<&'a Node> {
        if home.begins_like(addr, self.key.mask) {
            // Or what it left when it went, empty: it is not behind its home while that is free.
            return Some(home);
        }
        if home.reach() == 0 {
            return None;
        }
        find_behind(self.tier, addr)
    }
}

#[cold]
fn find_behind(tier: &Tier, addr: u128) -> Option<&Node> {
    tier.find(addr)
}

impl Tier {
    /// Room for `nodes` of `level`, which is not the root's, and half as many more.
    pub(super) fn new(level: u8, nodes: usize) -> Self {
        // Where it costs little there is more room, so that few nodes are away from their homes.
        let homes = (2 * nodes).max((8 * nodes).min(CACHED)).max(4 * PAGE);
        let pages = (homes + MAX_REACH).div_ceil(PAGE);
        let page = Arc::new(std::array::from_fn(|_| Node::new(0, level)));
        let group = Arc::new(std::array::from_fn(|_| Arc::clone(&page)));
        let random = RandomState::new();
        Self {
            level,
            key: Key {
                mask: PATHS[usize::from(level & 31)].mask,
                secret: [random.hash_one(0), random.hash_one(1)],
                homes: homes as u64,
            },
            groups: vec![group; pages.div_ceil(GROUP)].into(),
        }
    }

    /// To look up in.
    #[inline(always)]
    pub(super) fn homes(&self) -> Homes<'_> {
        Homes {
            key: self.key,
            prefetches: self.key.homes > CACHED as u64,
            // Only bits of the last level, which has no tier, are shifted back.
            shift: PATHS[usize::from(self.level & 31)].right,
            tier: self,
            groups: &self.groups,
        }
    }

    fn node(&self, index: usize) -> &Node {
        self.homes().node(index)
    }

    fn node_mut(&mut self, index: usize) -> &mut Node {
        let group = Arc::make_mut(&mut self.groups[index / (PAGE * GROUP)]);
        &mut Arc::make_mut(&mut group[index / PAGE % GROUP])[index % PAGE]
    }

    fn index_of(&self, addr: u128) -> Option<usize> {
        let home = self.key.home_of(addr);
        (home..=home + self.node(home).reach()).find(|&index| {
            !self.is_free(index) && self.node(index).begins_like(addr, self.key.mask)
        })
    }

    fn is_free(&self, index: usize) -> bool {
        self.node(index).is_empty()
    }

    /// The node of `addr`.
    pub(super) fn find(&self, addr: u128) -> Option<&Node> {
        Some(self.node(self.index_of(addr)?))
    }

    /// A free place for a node of `addr`.
    fn free_for(&self, addr: u128) -> Option<usize> {
        let home = self.key.home_of(addr);
        (home..=home + MAX_REACH).find(|&index| self.is_free(index))
    }

    /// Whether there is room for a node of `addr`.
    pub(super) fn has_room(&self, addr: u128) -> bool {
        self.free_for(addr).is_some()
    }

    /// The node of `addr`, to be changed: a new one if there is none, which must get a route, or `None` if it would find no room.
    pub(super) fn find_or_add(&mut self, addr: u128) -> Option<&mut Node> {
        if let Some(index) = self.index_of(addr) {
            return Some(self.node_mut(index));
        }
        let home = self.key.home_of(addr);
        let index = self.free_for(addr)?;
        self.set_reach(home, self.node(home).reach().max(index - home));
        self.put(index, addr);
        Some(self.node_mut(index))
    }

    /// Changes the node of `addr` by `change` and removes it if that leaves it empty. Whether there was one.
    pub(super) fn change(&mut self, addr: u128, change: impl FnOnce(&mut Node)) -> bool {
        let Some(index) = self.index_of(addr) else {
            return false;
        };
        change(self.node_mut(index));
        if self.is_free(index) {
            let home = self.key.home_of(addr);
            let is_from_here =
                |&at: &usize| !self.is_free(at) && self.key.home_of(self.node(at).path()) == home;
            let last = (home..=home + self.node(home).reach()).rfind(is_from_here);
            self.set_reach(home, last.unwrap_or(home) - home);
        }
        true
    }

    /// Puts an empty node of the path of `addr` at `index`.
    fn put(&mut self, index: usize, addr: u128) {
        let reach = self.node(index).reach();
        *self.node_mut(index) = Node::new(addr, self.level).with_reach(reach);
    }

    fn set_reach(&mut self, index: usize, reach: usize) {
        if self.node(index).reach() != reach {
            let node = self.node_mut(index);
            *node = node.clone().with_reach(reach);
        }
    }

    /// All nodes.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Node> {
        let pages = self.groups.iter().flat_map(|group| group.iter());
        pages
            .flat_map(|page| page.iter())
            .filter(|node| !node.is_empty())
    }
}
