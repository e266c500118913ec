//! The IPv6 reader: a path-compressed trie of six bits a level, in the manner of a tree bitmap.
//!
//! A node stands for the addresses that share its path and decides the six bits after it. It holds the
//! routes that end in those bits and has a child for each value of them below which more routes are.
//! The children of a node lie side by side, one cache line each, behind one pointer. Levels that would
//! have one child and no route are left out; a node carries its whole path to make up for that.
//!
//! Where there are many routes, most are not walked to from the root: the nodes of a level that suits them are in a
//! hash table, a [`Tier`]. An address is looked up in the tiers first, from the longest level; what it finds there is longer than all that the other
//! tiers and the root have. A lookup costs at most a try for each of two tiers, of up to eight places, and one walk of the 22 levels.
//!
//! Paths are 0, 3, 9, … 123 bits long, so that the lengths that Calico uses most (/122, /128, /32, /56)
//! are the last of a level: 32 blocks of 64 addresses side by side share a node.

use std::sync::Arc;

use fearless_simd::{Level, dispatch};

use super::tier::Tier;
use super::{BATCH, NextHopId, Prefix6};
use crate::prefetch::prefetch;
use crate::simd;

/// The levels that a path can end at.
pub(super) const LEVELS: usize = 22;

/// What a node's level says of an address. As many as five bits can number, to index without a check.
pub(super) static PATHS: [Path; 32] = {
    let mut paths = [Path {
        mask: 0,
        right: 125,
        left: 0,
    }; 32];
    let mut level = 1;
    while level < LEVELS {
        let end = 6 * level as u8 + 3;
        paths[level] = Path {
            mask: !(u128::MAX >> (end - 6)),
            right: 128u8.saturating_sub(end),
            left: end.saturating_sub(128),
        };
        level += 1;
    }
    paths
};

/// The bits of an address before a node, and where the six are that it decides.
#[derive(Clone, Copy)]
pub(super) struct Path {
    pub(super) mask: u128,
    /// Shifted to the right by this and then to the left by that, the six bits are the last.
    pub(super) right: u8,
    left: u8,
}

/// For each value of a node's six bits, the routes in the node that hold it.
static MATCHES: [u64; 64] = {
    let mut matches = [0; 64];
    let mut chunk = 0;
    while chunk < 64 {
        let mut depth = 0;
        while depth < 6 {
            matches[chunk] |= 1 << ((1 << depth) - 1 + (chunk >> (6 - depth)));
            depth += 1;
        }
        chunk += 1;
    }
    matches
};

/// One node, one cache line.
#[derive(Clone)]
#[repr(align(64))]
pub(super) struct Node {
    /// The bits that lead here, and the level in the five last bits, which no path reaches. In a [`Tier`] the three bits before those
    /// are the place's reach.
    path_and_level: u128,
    /// The routes that end in this node: bit `2^d - 1 + v` is that of the `d` bits `v` after the path.
    pub(super) routes: u64,
    /// The values of the six bits after the path for which there is a child.
    pub(super) children: u64,
    /// The next hops of `routes`, in the order of the bits.
    pub(super) hops: Hops,
    /// The nodes of `children`, in the order of the bits.
    pub(super) nodes: Option<Arc<[Node]>>,
}

const _: () = assert!(size_of::<Node>() == 64);

/// How far behind its home a node of a [`Tier`] may lie: three bits.
pub(super) const MAX_REACH: usize = 7;

/// A few next hops in place, or more of them elsewhere.
#[derive(Clone)]
pub(super) enum Hops {
    Few([NextHopId; 4]),
    Many(Arc<[NextHopId]>),
}

impl Hops {
    pub(super) fn as_slice(&self) -> &[NextHopId] {
        match self {
            Self::Few(hops) => hops,
            Self::Many(hops) => hops,
        }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [NextHopId] {
        match self {
            Self::Few(hops) => hops,
            Self::Many(hops) => Arc::make_mut(hops),
        }
    }
}

/// The level at which routes of length `len` are, and how many bits of it they use.
pub(super) const fn level_of(len: u8) -> (u8, u8) {
    ((len + 3) / 6, (len + 3) % 6)
}

/// The six bits of `addr` that a node of `level` decides. The root decides three, after three zeroes; at
/// the last level the sixth is 0 for all addresses.
#[inline(always)]
pub(super) fn chunk_of(addr: u128, level: u8) -> usize {
    let path = &PATHS[(level & 31) as usize];
    let bits = (addr >> (path.right & 127)) as usize;
    (bits << (path.left & 1)) & 63
}

/// The place of bit `bit` of `bits` among those that are set.
#[inline(always)]
pub(super) const fn rank(bits: u64, bit: usize) -> usize {
    (bits & ((1 << bit) - 1)).count_ones() as usize
}

/// The bit in [`Node::routes`] of `prefix`, which must end in a node of this path.
pub(super) fn route_bit(prefix: Prefix6) -> usize {
    let (level, depth) = level_of(prefix.len());
    (1 << depth) - 1 + (chunk_of(prefix.addr(), level) >> (6 - depth))
}

impl Node {
    /// A node without routes and children on the way to `addr`.
    pub(super) fn new(addr: u128, level: u8) -> Self {
        Self {
            path_and_level: (addr & PATHS[level as usize].mask) | u128::from(level),
            routes: 0,
            children: 0,
            hops: Hops::Few([NextHopId::NONE; 4]),
            nodes: None,
        }
    }

    #[inline(always)]
    pub(super) fn level(&self) -> u8 {
        (self.path_and_level & 31) as u8
    }

    /// Whether `addr` begins with the path of this node.
    #[inline(always)]
    pub(super) fn is_on_path(&self, addr: u128) -> bool {
        (self.path_and_level ^ addr) & PATHS[self.level() as usize].mask == 0
    }

    /// Whether `addr` begins with the path of this node, of which `mask` says where it ends.
    #[inline(always)]
    pub(super) fn begins_like(&self, addr: u128, mask: u128) -> bool {
        (self.path_and_level ^ addr) & mask == 0
    }

    pub(super) fn path(&self) -> u128 {
        self.path_and_level & PATHS[self.level() as usize].mask
    }

    /// Whether there is neither a route nor a child.
    pub(super) fn is_empty(&self) -> bool {
        self.routes == 0 && self.children == 0
    }

    /// How far behind this place in a [`Tier`] nodes lie whose home it is.
    #[inline(always)]
    pub(super) fn reach(&self) -> usize {
        self.path_and_level as usize >> 5 & MAX_REACH
    }

    pub(super) fn with_reach(mut self, reach: usize) -> Self {
        self.path_and_level &= !((MAX_REACH as u128) << 5);
        self.path_and_level |= (reach as u128) << 5;
        self
    }

    /// The node of `level` here or below that `addr` leads to. `addr` begins with this node's path.
    pub(super) fn find(&self, addr: u128, level: u8) -> Option<&Self> {
        let mut node = self;
        while node.level() < level {
            let chunk = chunk_of(addr, node.level());
            if !node.has_child(chunk) {
                return None;
            }
            node = node.child_or_any(chunk);
            if node.level() > level || !node.is_on_path(addr) {
                return None;
            }
        }
        Some(node)
    }

    /// Whether a node of `level` or behind is here or below that begins as `addr` does up to `level`. `addr` begins with this
    /// node's path.
    pub(super) fn leads_to(&self, addr: u128, level: u8) -> bool {
        let mut node = self;
        while node.level() < level {
            let chunk = chunk_of(addr, node.level());
            if !node.has_child(chunk) {
                return false;
            }
            node = node.child_or_any(chunk);
            let end = node.level().min(level);
            if !node.begins_like(addr, PATHS[usize::from(end)].mask) {
                return false;
            }
        }
        true
    }

    /// The next hop of the longest route here or below that holds `addr`, which begins with this node's path.
    #[inline(always)]
    fn lookup(&self, addr: u128) -> NextHopId {
        let mut node = self;
        let mut best = (node, 0);
        loop {
            let chunk = chunk_of(addr, node.level());
            let matches = node.matches(chunk);
            if matches != 0 {
                best = (node, matches);
            }
            let child = node.child_or_any(chunk);
            if !node.has_child(chunk) || !child.is_on_path(addr) {
                return best.0.longest(best.1);
            }
            node = child;
        }
    }

    /// The routes in this node that hold an address with these six bits.
    #[inline(always)]
    fn matches(&self, chunk: usize) -> u64 {
        self.routes & MATCHES[chunk & 63]
    }

    /// The next hop of the longest of `matches`, which are some of the node's routes.
    #[inline(always)]
    fn longest(&self, matches: u64) -> NextHopId {
        match matches.checked_ilog2() {
            Some(bit) => self.hop(bit as u8),
            None => NextHopId::NONE,
        }
    }

    /// The next hop of the route at `bit`.
    #[inline(always)]
    pub(super) fn hop(&self, bit: u8) -> NextHopId {
        let hops = self.hops.as_slice();
        hops.get(rank(self.routes, bit as usize))
            .copied()
            .unwrap_or(NextHopId::NONE)
    }

    /// Whether there is a child for these six bits.
    #[inline(always)]
    fn has_child(&self, chunk: usize) -> bool {
        (self.children >> chunk) & 1 == 1
    }

    /// The child for these six bits, or any node if there is none. Reads nothing of the child.
    #[inline(always)]
    fn child_or_any(&self, chunk: usize) -> &Self {
        let nodes = self.nodes.as_deref().unwrap_or_default();
        nodes.get(rank(self.children, chunk)).unwrap_or(self)
    }
}

/// The first octets of the addresses that some tier has nodes for: most of the others are spared a try in vain.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Octets([u64; 4]);

impl Octets {
    #[inline(always)]
    fn have(self, addr: u128) -> bool {
        let octet = (addr >> 120) as usize;
        (self.0[octet / 64 % 4] >> (octet % 64)) & 1 == 1
    }

    pub(super) fn add(&mut self, addr: u128) {
        let octet = (addr >> 120) as usize;
        self.0[octet / 64 % 4] |= 1 << (octet % 64);
    }
}

/// IPv6 routes to look up in. Never changes: [`super::Rib6`] makes it and its successors.
///
/// At most 32,767 next hops and as many routes as memory holds: 64 B and less a route in most tables; a node of a level with a short
/// cut takes 128 B, and up to 512 B where there are fewer than 4,096. Cloning copies two pointers.
#[derive(Clone)]
pub struct Lpm6 {
    pub(super) root: Arc<Node>,
    /// Short cuts, from the longest level. What is below one of a tier's nodes is in no other tier, nor below the root.
    pub(super) tiers: Arc<[Tier]>,
    pub(super) octets: Octets,
    /// What the processor has: counting the bits of a word takes a dozen instructions where it is not one.
    level: Level,
}

impl Default for Lpm6 {
    /// No routes.
    fn default() -> Self {
        Self {
            root: Arc::new(Node::new(0, 0)),
            tiers: Arc::default(),
            octets: Octets::default(),
            level: simd::not_too_wide(),
        }
    }
}

impl std::fmt::Debug for Lpm6 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lpm6").finish_non_exhaustive()
    }
}

impl Lpm6 {
    /// The next hop of the longest route that holds `addr` (host byte order).
    #[inline]
    #[must_use]
    pub fn lookup(&self, addr: u128) -> NextHopId {
        let tiers = if self.octets.have(addr) {
            &*self.tiers
        } else {
            &[]
        };
        for tier in tiers {
            let homes = tier.homes();
            if let Some(node) = homes.node_of(homes.home(addr), addr) {
                let hop = node.lookup(addr);
                if !hop.is_none() {
                    return hop;
                }
            }
        }
        self.root.lookup(addr)
    }

    /// [`Lpm6::lookup`] of each of `addrs` into `out`, as many as the shorter of the two holds.
    ///
    /// Goes from short cut to short cut and down level by level with 64 addresses together, so that the loads
    /// of a step are under way at once.
    #[inline]
    pub fn lookup_batch(&self, addrs: &[u128], out: &mut [NextHopId]) {
        for (addrs, out) in addrs.chunks(BATCH).zip(out.chunks_mut(BATCH)) {
            dispatch!(self.level, _simd => self.lookup_chunk(addrs, out));
        }
    }

    /// [`Lpm6::lookup_batch`] of at most [`BATCH`] addresses.
    #[inline(always)]
    fn lookup_chunk(&self, addrs: &[u128], out: &mut [NextHopId]) {
        let root = &*self.root;
        let len = addrs.len().min(out.len()).min(BATCH);
        // The places in the batch of those that only the root may know, and of the others.
        let (mut left, mut going) = ([0; BATCH], [0; BATCH]);
        let (mut count, mut others) = (0, 0);
        let octets = self.octets;
        for (at, &addr) in addrs.iter().enumerate().take(len) {
            if octets.have(addr) {
                going[others % BATCH] = at as u8;
                others += 1;
            } else {
                left[count % BATCH] = at as u8;
                count += 1;
            }
        }
        for tier in &*self.tiers {
            others = descend(tier, addrs, out, &mut going, others);
        }
        for &at in going.iter().take(others) {
            left[count % BATCH] = at;
            count += 1;
        }
        // The root decides three bits only: eight answers serve all addresses.
        let starts: [_; 8] = std::array::from_fn(|chunk| {
            let hop = root.longest(root.matches(chunk));
            (hop, root.has_child(chunk), root.child_or_any(chunk))
        });
        let mut nodes = [root; BATCH];
        let mut below = 0;
        for which in 0..count.min(BATCH) {
            let at = left[which];
            let Some((addr, out)) = pair(addrs, out, at) else {
                continue;
            };
            let (hop, has_child, child) = starts[(addr >> 125) as usize];
            *out = hop;
            left[below % BATCH] = at;
            nodes[below % BATCH] = child;
            below += usize::from(has_child);
        }
        if below > 0 {
            walk(addrs, out, &nodes, &mut left, below);
        }
    }
}

/// The address and the answer at `at` in the batch.
#[inline(always)]
fn pair<'a>(addrs: &[u128], out: &'a mut [NextHopId], at: u8) -> Option<(u128, &'a mut NextHopId)> {
    let at = usize::from(at);
    Some((*addrs.get(at)?, out.get_mut(at)?))
}

/// Looks those of `addrs` up below the nodes of `tier` whose places the first `count` of `going` are. Returns how many
/// have no route there: with their places `going` begins then.
#[inline(always)]
fn descend(
    tier: &Tier,
    addrs: &[u128],
    out: &mut [NextHopId],
    going: &mut [u8; BATCH],
    count: usize,
) -> usize {
    // A copy, which the compiler knows that nobody changes.
    let homes = tier.homes();
    let mut nodes = [homes.any(); BATCH];
    if homes.prefetches {
        for (&at, home) in going.iter().zip(&mut nodes).take(count) {
            if let Some(&addr) = addrs.get(usize::from(at)) {
                *home = homes.home(addr);
                prefetch(*home);
            }
        }
    }
    let mut parents = [0; BATCH];
    let (mut below, mut missed) = (0, 0);
    for which in 0..count.min(BATCH) {
        let at = going[which];
        let Some((addr, out)) = pair(addrs, out, at) else {
            continue;
        };
        let home = if homes.prefetches {
            nodes[which]
        } else {
            homes.home(addr)
        };
        going[missed % BATCH] = at;
        let Some(node) = homes.node_of(home, addr) else {
            missed += 1;
            continue;
        };
        let chunk = homes.chunk_of(addr);
        let matches = node.matches(chunk);
        *out = node.longest(matches);
        if node.has_child(chunk) {
            let child = node.child_or_any(chunk);
            prefetch(child);
            parents[below % BATCH] = at;
            nodes[below % BATCH] = child;
            below += 1;
        } else {
            missed += usize::from(matches == 0);
        }
    }
    if below > 0 {
        for &at in walk(addrs, out, &nodes, &mut parents, below) {
            going[missed % BATCH] = at;
            missed += 1;
        }
    }
    missed
}

/// Looks those of `addrs` up below `nodes` whose places the first `count` of `going` are, and leaves the answers of those that have no
/// route there. Returns the places of those whose answer is none then.
#[inline(always)]
fn walk<'a>(
    addrs: &[u128],
    out: &mut [NextHopId],
    nodes: &[&Node; BATCH],
    places: &'a mut [u8; BATCH],
    count: usize,
) -> &'a [u8] {
    let mut best = [(nodes[0], 0u64); BATCH];
    // The addresses that go on: their places in the batch and the nodes that they go to.
    let mut going = [(0usize, nodes[0]); BATCH];
    for (going, (&at, &node)) in going.iter_mut().zip(places.iter().zip(nodes)).take(count) {
        *going = (usize::from(at), node);
    }
    let mut arrived = count;
    while arrived > 0 {
        let mut count = 0;
        for which in 0..arrived {
            let (at, node) = going[which % BATCH];
            let Some(&addr) = addrs.get(at) else { continue };
            if node.is_on_path(addr) {
                step(node, addr, at, &mut best, &mut going, &mut count);
            }
        }
        arrived = count;
    }
    let mut missed = 0;
    for which in 0..count.min(BATCH) {
        let at = places[which];
        let (node, matches) = best[usize::from(at) % BATCH];
        let Some(out) = out.get_mut(usize::from(at)) else {
            continue;
        };
        if matches != 0 {
            *out = node.longest(matches);
        }
        places[missed % BATCH] = at;
        missed += usize::from(out.is_none());
    }
    &places[..missed.min(BATCH)]
}

/// Visits `node` with the address at `at` in the batch: notes the routes that hold it, and if it goes
/// on, has its next node fetched.
#[inline(always)]
fn step<'a>(
    node: &'a Node,
    addr: u128,
    at: usize,
    best: &mut [(&'a Node, u64); BATCH],
    going: &mut [(usize, &'a Node); BATCH],
    count: &mut usize,
) {
    let chunk = chunk_of(addr, node.level());
    let matches = node.matches(chunk);
    if matches != 0 {
        best[at % BATCH] = (node, matches);
    }
    if node.has_child(chunk) {
        let child = node.child_or_any(chunk);
        prefetch(child);
        going[*count % BATCH] = (at, child);
        *count += 1;
    }
}
