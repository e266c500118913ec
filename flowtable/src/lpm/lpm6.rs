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

use super::{BATCH, NextHopId, Prefix6};
use crate::prefetch::prefetch;

/// The levels that a path can end at.
const LEVELS: usize = 22;

/// The bits of an address that a node of each level has on its path.
static PATH_MASKS: [u128; LEVELS] = {
    let mut masks = [0; LEVELS];
    let mut level = 1;
    while level < LEVELS {
        masks[level] = !(u128::MAX >> (6 * level - 3));
        level += 1;
    }
    masks
};

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
/// the last level the sixth is not the address's, and no route and no child there depends on it.
#[inline(always)]
pub(super) const fn chunk_of(addr: u128, level: u8) -> usize {
    let mask = if level == 0 { 7 } else { 63 };
    (addr.rotate_left(6 * level as u32 + 3) as usize) & mask
}

/// The place of bit `bit` of `bits` among those that are set.
#[inline(always)]
pub(super) const fn rank(bits: u64, bit: usize) -> usize {
    (bits & ((1 << bit) - 1)).count_ones() as usize
}

/// The bit in [`Node::routes`] of `prefix`, which must end in a node of this path.
pub(super) const fn route_bit(prefix: Prefix6) -> usize {
    let (level, depth) = level_of(prefix.len());
    (1 << depth) - 1 + (chunk_of(prefix.addr(), level) >> (6 - depth))
}

impl Node {
    /// A node without routes and children on the way to `addr`.
    pub(super) fn new(addr: u128, level: u8) -> Self {
        Self {
            path_and_level: addr & PATH_MASKS[level as usize] | u128::from(level),
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
        let mask = PATH_MASKS.get(self.level() as usize).copied().unwrap_or(0);
        (self.path_and_level ^ addr) & mask == 0
    }

    pub(super) fn path(&self) -> u128 {
        self.path_and_level & !31
    }

    /// The bit of the longest route in this node that holds `addr`.
    #[inline(always)]
    fn longest(&self, addr: u128) -> Option<u8> {
        let hits = self.routes & MATCHES[chunk_of(addr, self.level())];
        hits.checked_ilog2().map(|bit| bit as u8)
    }

    /// The next hop of the route at `bit`.
    #[inline(always)]
    pub(super) fn hop(&self, bit: u8) -> NextHopId {
        let hops = self.hops.as_slice();
        hops.get(rank(self.routes, bit as usize))
            .copied()
            .unwrap_or(NextHopId::NONE)
    }

    /// The child on the way to `addr`. Reads nothing of the child.
    #[inline(always)]
    fn child(&self, addr: u128) -> Option<&Self> {
        let chunk = chunk_of(addr, self.level());
        if (self.children >> chunk) & 1 == 0 {
            return None;
        }
        self.nodes.as_ref()?.get(rank(self.children, chunk))
    }
}

/// IPv6 routes to look up in. Never changes: [`super::Rib6`] makes it and its successors.
///
/// At most 32,767 next hops and as many routes as memory holds: 64 B and less a route in most tables.
/// Cloning copies a pointer.
#[derive(Clone)]
pub struct Lpm6 {
    pub(super) root: Arc<Node>,
}

impl Default for Lpm6 {
    /// No routes.
    fn default() -> Self {
        Self {
            root: Arc::new(Node::new(0, 0)),
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
        let mut best = None;
        loop {
            if let Some(bit) = node.longest(addr) {
                best = Some((node, bit));
            }
            match node.child(addr) {
                Some(child) if child.is_on_path(addr) => node = child,
                _ => return best.map_or(NextHopId::NONE, |(node, bit)| node.hop(bit)),
            }
        }
    }

    /// [`Lpm6::lookup`] of each of `addrs` into `out`, as many as the shorter of the two holds.
    ///
    /// Goes down level by level with 64 addresses together, so that the loads of a level are under way
    /// at once.
    #[inline]
    pub fn lookup_batch(&self, addrs: &[u128], out: &mut [NextHopId]) {
        for (addrs, out) in addrs.chunks(BATCH).zip(out.chunks_mut(BATCH)) {
            self.lookup_chunk(addrs, out);
        }
    }

    /// [`Lpm6::lookup_batch`] of at most [`BATCH`] addresses.
    fn lookup_chunk(&self, addrs: &[u128], out: &mut [NextHopId]) {
        let root = &*self.root;
        let mut nodes = [root; BATCH];
        let mut best = [(root, NO_BIT); BATCH];
        let mut alive = [0u8; BATCH];
        let len = addrs.len().min(out.len()).min(BATCH);
        let mut count = 0;
        for at in 0..len {
            step(
                root,
                addrs[at],
                &mut nodes[at],
                &mut best[at],
                at,
                &mut alive,
                &mut count,
            );
        }
        while count > 0 {
            let going = count;
            count = 0;
            for which in 0..going {
                let at = (alive[which] as usize) % BATCH;
                let Some(&addr) = addrs.get(at) else { continue };
                let node = nodes[at];
                if node.is_on_path(addr) {
                    step(
                        node,
                        addr,
                        &mut nodes[at],
                        &mut best[at],
                        at,
                        &mut alive,
                        &mut count,
                    );
                }
            }
        }
        for (out, (node, bit)) in out.iter_mut().zip(best).take(len) {
            *out = if bit == NO_BIT {
                NextHopId::NONE
            } else {
                node.hop(bit)
            };
        }
    }
}

/// No route yet; bits go to 62.
const NO_BIT: u8 = 63;

/// What `node` says of the address at `at` in the batch, and its child prefetched.
#[inline(always)]
fn step<'a>(
    node: &'a Node,
    addr: u128,
    next: &mut &'a Node,
    best: &mut (&'a Node, u8),
    at: usize,
    alive: &mut [u8; BATCH],
    count: &mut usize,
) {
    if let Some(bit) = node.longest(addr) {
        *best = (node, bit);
    }
    if let Some(child) = node.child(addr) {
        prefetch(child);
        *next = child;
        alive[*count % BATCH] = at as u8;
        *count += 1;
    }
}
