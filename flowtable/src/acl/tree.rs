//! Which interval a value lies in: a search tree whose nodes are compared as a whole.
//!
//! A node is a cache line of separators; how many of them are below a value is its child. One packet
//! compares a line of separators with its value; a batch compares the root's separators, one after the
//! other, with the values of as many packets as fit into a register.

use fearless_simd::prelude::*;
use fearless_simd::{u8x64, u16x32, u32x16};

use super::check::BATCH;
use super::intervals::Key;

/// As a cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct Line<T>(pub(super) T);

/// Values of the packets of a batch.
pub(super) type Column<T> = Line<[T; BATCH]>;

/// Keys that are compared together.
pub trait Node: Key {
    /// One cache line of them.
    type Keys: Copy + std::fmt::Debug + AsRef<[Self]> + AsMut<[Self]>;
    /// How many, and how many children a node has.
    const FANOUT: usize;
    /// Children that the root may have.
    const ROOT: usize;
    /// All of them the highest key, which is below none.
    const HIGHEST: Self::Keys;

    /// How many of `keys` are below `value`.
    fn count<S: Simd>(simd: S, keys: &Self::Keys, value: Self) -> usize;

    /// How many of `keys` are below each of `values`.
    fn count_each<S: Simd>(
        simd: S,
        keys: &[Self],
        values: &[Self; BATCH],
        counts: &mut [u32; BATCH],
    );
}

macro_rules! node {
    ($int:ty, $vector:ident, $fanout:literal) => {
        impl Node for $int {
            type Keys = [$int; $fanout];
            const FANOUT: usize = $fanout;
            const ROOT: usize = 64;
            const HIGHEST: Self::Keys = [<$int>::MAX; $fanout];

            #[inline(always)]
            fn count<S: Simd>(simd: S, keys: &Self::Keys, value: Self) -> usize {
                let keys: $vector<S> = (*keys).simd_into(simd);
                let value = $vector::splat(simd, value);
                keys.simd_lt(value).to_bitmask().count_ones() as usize
            }

            #[inline(always)]
            fn count_each<S: Simd>(
                simd: S,
                keys: &[Self],
                values: &[Self; BATCH],
                counts: &mut [u32; BATCH],
            ) {
                let (values, _) = values.as_chunks::<$fanout>();
                let (counts, _) = counts.as_chunks_mut::<$fanout>();
                for (values, counts) in values.iter().zip(counts) {
                    let values: $vector<S> = (*values).simd_into(simd);
                    let (one, none) = ($vector::splat(simd, 1), $vector::splat(simd, 0));
                    let mut count = none;
                    for &key in keys {
                        let key = $vector::splat(simd, key);
                        count += key.simd_lt(values).select(one, none);
                    }
                    let mut narrow = Line([0; $fanout]);
                    count.store_slice(&mut narrow.0);
                    for (count, narrow) in counts.iter_mut().zip(narrow.0) {
                        *count = narrow.into();
                    }
                }
            }
        }
    };
}

node!(u8, u8x64, 64);
node!(u16, u16x32, 32);
node!(u32, u32x16, 16);

impl Node for u128 {
    type Keys = [Self; 4];
    const FANOUT: usize = 4;
    const ROOT: usize = 4;
    const HIGHEST: Self::Keys = [Self::MAX; 4];

    #[inline(always)]
    fn count<S: Simd>(_: S, keys: &Self::Keys, value: Self) -> usize {
        keys.iter().map(|&key| usize::from(key < value)).sum()
    }

    #[inline(always)]
    fn count_each<S: Simd>(_: S, keys: &[Self], values: &[Self; BATCH], counts: &mut [u32; BATCH]) {
        for (value, count) in values.iter().zip(counts) {
            *count = keys.iter().map(|key| u32::from(key < value)).sum();
        }
    }
}

/// Nodes side by side.
type Nodes<K> = Box<[Line<<K as Node>::Keys>]>;

/// Ascending bounds, the first of which is the lowest value there is.
#[derive(Clone, Debug)]
pub(super) struct Tree<K: Node> {
    /// What separates the root's children: the value before each but the first.
    root: Box<[K]>,
    /// The same in whole nodes, filled with the highest value.
    root_nodes: Nodes<K>,
    /// The nodes of the levels below, from the root's children down. The children of node `n` are the
    /// nodes from `n` times the fanout on.
    levels: Box<[Nodes<K>]>,
}

impl<K: Node> Tree<K> {
    pub(super) fn new(bounds: &[K]) -> Self {
        // By height, the first bound of each node.
        let mut heights = vec![bounds.to_vec()];
        while let Some(below) = heights.last().filter(|bounds| bounds.len() > K::ROOT) {
            heights.push(below.iter().copied().step_by(K::FANOUT).collect());
        }
        let separators = |bounds: &[K]| -> Vec<K> {
            bounds
                .iter()
                .skip(1)
                .filter_map(|bound| bound.before())
                .collect()
        };
        let nodes = |bounds: &[K], separated: usize| -> Nodes<K> {
            bounds
                .chunks(separated)
                .map(|bounds| {
                    let mut line = Line(K::HIGHEST);
                    for (place, key) in line.0.as_mut().iter_mut().zip(separators(bounds)) {
                        *place = key;
                    }
                    line
                })
                .collect()
        };
        let root = heights
            .pop()
            .map_or_else(Vec::new, |root| separators(&root));
        let root_nodes = root.chunks(K::FANOUT).map(|keys| {
            let mut line = Line(K::HIGHEST);
            line.0.as_mut()[..keys.len()].copy_from_slice(keys);
            line
        });
        Self {
            root_nodes: root_nodes.collect(),
            levels: heights
                .iter()
                .rev()
                .map(|bounds| nodes(bounds, K::FANOUT))
                .collect(),
            root: root.into(),
        }
    }

    /// The number of the last bound that is not above `value`.
    #[inline(always)]
    pub(super) fn rank<S: Simd>(&self, simd: S, value: K) -> usize {
        let root = self.root_nodes.iter();
        let mut at = root.map(|node| K::count(simd, &node.0, value)).sum();
        for nodes in &self.levels {
            at = step(simd, nodes, at, value);
        }
        at
    }

    /// [`Tree::rank`] of each of `values`.
    #[inline(always)]
    pub(super) fn ranks<S: Simd>(&self, simd: S, values: &Column<K>, ranks: &mut Column<u32>) {
        K::count_each(simd, &self.root, &values.0, &mut ranks.0);
        for nodes in &self.levels {
            for (&value, rank) in values.0.iter().zip(&mut ranks.0) {
                *rank = step(simd, nodes, *rank as usize, value) as u32;
            }
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let lines: usize = self.levels.iter().map(|nodes| nodes.len() + 1).sum();
        size_of_val(&*self.root) + (self.root_nodes.len() + lines) * size_of::<Line<K::Keys>>()
    }
}

/// From node `at` of a level to the child that holds `value`.
#[inline(always)]
fn step<K: Node, S: Simd>(simd: S, nodes: &[Line<K::Keys>], at: usize, value: K) -> usize {
    match nodes.get(at) {
        Some(node) => at * K::FANOUT + K::count(simd, &node.0, value),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use fearless_simd::dispatch;

    use super::*;

    fn assert_tree<K: Node + std::fmt::Debug>(bounds: &[K], values: impl Iterator<Item = K>) {
        let tree = Tree::new(bounds);
        for value in values {
            let expected = bounds.partition_point(|&bound| bound <= value) - 1;
            let best = fearless_simd::Level::new();
            let found = dispatch!(best, simd => tree.rank(simd, value));
            assert_eq!(found, expected, "{value:?} in {} bounds", bounds.len());
            let column = Line([value; BATCH]);
            let mut ranks = Line([7; BATCH]);
            dispatch!(best, simd => tree.ranks(simd, &column, &mut ranks));
            assert_eq!(ranks.0, [expected as u32; BATCH], "{value:?}");
            if let Some(least) = best.as_sse2() {
                assert_eq!(tree.rank(least, value), expected, "without AVX");
                tree.ranks(least, &column, &mut ranks);
                assert_eq!(ranks.0, [expected as u32; BATCH], "without AVX");
            }
        }
    }

    #[test]
    fn trees_of_any_height_find_the_interval() {
        for len in [
            1, 2, 4, 5, 15, 16, 17, 63, 64, 65, 255, 256, 257, 1024, 1025, 5000,
        ] {
            let step = (u32::MAX / len).max(1);
            let mut bounds: Vec<u32> = (0..len).map(|at| at * step).collect();
            let near = |bounds: &[u32]| {
                let mut values = vec![0, u32::MAX, u32::MAX - 1];
                values.extend(
                    bounds
                        .iter()
                        .flat_map(|&at| [at, at.saturating_add(1), at.saturating_sub(1)]),
                );
                values
            };
            assert_tree(&bounds, near(&bounds).into_iter());
            if len > 1 {
                *bounds.last_mut().unwrap() = u32::MAX;
                assert_tree(&bounds, near(&bounds).into_iter());
            }
            let wide: Vec<u128> = bounds.iter().map(|&at| u128::from(at) << 96).collect();
            let values = near(&bounds);
            assert_tree(
                &wide,
                values
                    .iter()
                    .map(|&at| u128::from(at) << 96)
                    .chain([u128::MAX]),
            );
        }
        let ports: Vec<u16> = (0..=u16::MAX).step_by(7).collect();
        assert_tree(&ports, (0..=u16::MAX).step_by(31).chain([u16::MAX]));
        assert_tree(&[0, u16::MAX], [0, 1, u16::MAX - 1, u16::MAX].into_iter());
        assert_tree(&(0..=255).collect::<Vec<u8>>(), 0..=255);
        assert_tree(&[0_u8, 1, 6, 7], 0..=255);
    }
}
