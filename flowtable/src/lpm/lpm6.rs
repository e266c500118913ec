//! The IPv6 reader: a path-compressed trie of six bits a level, in the manner of a tree bitmap.
//!
//! A node stands for the addresses that share its path and decides the six bits after it. It holds the
//! routes that end in those bits and has a child for each value of them below which more routes are.
//! The children of a node lie side by side, one cache line each, behind one pointer. Levels that would
//! have one child and no route are left out; a node carries its whole path to make up for that.
//!
//! Paths are 0, 3, 9, … 123 bits long, so that the lengths that Calico uses most (/122, /128, /32, /56)
//! are the last of a level: 32 blocks of 64 addresses side by side share a node.

use std::sync::Arc;

use fearless_simd::{Level, dispatch};

use super::{BATCH, NextHopId, Prefix6};
use crate::prefetch::prefetch;
use crate::simd;

/// The levels that a path can end at.
const LEVELS: usize = 22;

/// What a node's level says of an address. As many as five bits can number, to index without a check.
static PATHS: [Path; 32] = {
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
struct Path {
    mask: u128,
    /// Shifted to the right by this and then to the left by that, the six bits are the last.
    right: u8,
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
    /// The bits that lead here, and the level in the five last bits, which no path reaches.
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

    pub(super) fn path(&self) -> u128 {
        self.path_and_level & !31
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

/// IPv6 routes to look up in. Never changes: [`super::Rib6`] makes it and its successors.
///
/// At most 32,767 next hops and as many routes as memory holds: 64 B and less a route in most tables.
/// Cloning copies a pointer.
#[derive(Clone)]
pub struct Lpm6 {
    pub(super) root: Arc<Node>,
    /// What the processor has: counting the bits of a word takes a dozen instructions where it is not one.
    level: Level,
}

impl Default for Lpm6 {
    /// No routes.
    fn default() -> Self {
        Self {
            root: Arc::new(Node::new(0, 0)),
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
        let mut node = &*self.root;
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

    /// [`Lpm6::lookup`] of each of `addrs` into `out`, as many as the shorter of the two holds.
    ///
    /// Goes down level by level with 64 addresses together, so that the loads of a level are under way
    /// at once.
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
        let mut best = [(root, 0u64); BATCH];
        // The addresses that go on: their places in the batch and the nodes that they go to.
        let mut going = [(0usize, root); BATCH];
        let mut count = 0;
        // The root decides three bits only: eight answers serve all addresses.
        let starts: [_; 8] = std::array::from_fn(|chunk| {
            let child = root.has_child(chunk).then(|| root.child_or_any(chunk));
            (root.matches(chunk), child)
        });
        for (at, &addr) in addrs.iter().take(BATCH).enumerate() {
            let (matches, child) = starts[(addr >> 125) as usize];
            best[at] = (root, matches);
            if let Some(child) = child {
                going[count % BATCH] = (at, child);
                count += 1;
            }
        }
        while count > 0 {
            let arrived = count;
            count = 0;
            for which in 0..arrived {
                let (at, node) = going[which % BATCH];
                let Some(&addr) = addrs.get(at) else { continue };
                if node.is_on_path(addr) {
                    step(node, addr, at, &mut best, &mut going, &mut count);
                }
            }
        }
        for (out, (node, matches)) in out.iter_mut().zip(best).take(addrs.len()) {
            *out = node.longest(matches);
        }
    }
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
