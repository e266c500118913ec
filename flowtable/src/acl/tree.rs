//! Which interval a value lies in: a search tree whose nodes are compared as a whole.

use fearless_simd::prelude::*;
use fearless_simd::{u8x64, u16x32, u32x16};

use super::intervals::Key;

/// As a cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct Line<T>(pub(super) T);

/// Keys that are compared together.
pub trait Node: Key {
    /// One cache line of them.
    type Keys: Copy + std::fmt::Debug + AsRef<[Self]> + AsMut<[Self]>;
    /// How many.
    const FANOUT: usize;
    /// All of them the highest key.
    const HIGHEST: Self::Keys;

    /// How many of `keys`, which ascend, are not above `value`.
    fn count<S: Simd>(simd: S, keys: &Self::Keys, value: Self) -> usize;
}

macro_rules! node {
    ($int:ty, $vector:ident, $fanout:literal) => {
        impl Node for $int {
            type Keys = [$int; $fanout];
            const FANOUT: usize = $fanout;
            const HIGHEST: Self::Keys = [<$int>::MAX; $fanout];

            #[inline(always)]
            fn count<S: Simd>(simd: S, keys: &Self::Keys, value: Self) -> usize {
                let keys: $vector<S> = (*keys).simd_into(simd);
                let value = $vector::splat(simd, value);
                keys.simd_le(value).to_bitmask().count_ones() as usize
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
    const HIGHEST: Self::Keys = [Self::MAX; 4];

    #[inline(always)]
    fn count<S: Simd>(_: S, keys: &Self::Keys, value: Self) -> usize {
        keys.iter().map(|&key| usize::from(key <= value)).sum()
    }
}

/// One level of a tree.
#[derive(Clone, Copy, Debug)]
struct Level {
    /// Its first node.
    first: u32,
    /// The number of its last key.
    last: u32,
}

/// Ascending bounds, the first of which is the lowest value there is.
#[derive(Clone, Debug)]
pub(super) struct Tree<K: Node> {
    nodes: Box<[Line<K::Keys>]>,
    /// From the root, which is one node, to all bounds.
    levels: Box<[Level]>,
}

impl<K: Node> Tree<K> {
    pub(super) fn new(bounds: &[K]) -> Self {
        let mut heights = vec![bounds.to_vec()];
        while let Some(below) = heights.last().filter(|keys| keys.len() > K::FANOUT) {
            heights.push(below.iter().copied().step_by(K::FANOUT).collect());
        }
        let (mut nodes, mut levels) = (Vec::new(), Vec::new());
        // Without a second bound there is nothing to search.
        for keys in heights.iter().rev().filter(|keys| keys.len() > 1) {
            levels.push(Level {
                first: nodes.len() as u32,
                last: keys.len() as u32 - 1,
            });
            nodes.extend(keys.chunks(K::FANOUT).map(|keys| {
                let mut line = Line(K::HIGHEST);
                for (place, &key) in line.0.as_mut().iter_mut().zip(keys) {
                    *place = key;
                }
                line
            }));
        }
        Self {
            nodes: nodes.into(),
            levels: levels.into(),
        }
    }

    /// The number of the last bound that is not above `value`.
    #[inline(always)]
    pub(super) fn rank<S: Simd>(&self, simd: S, value: K) -> usize {
        let mut at = 0;
        for level in &self.levels {
            let count = match self.nodes.get(level.first as usize + at) {
                Some(node) => K::count(simd, &node.0, value),
                None => 1,
            };
            // The highest value is not below what fills the last node.
            at = (at * K::FANOUT + count)
                .saturating_sub(1)
                .min(level.last as usize);
        }
        at
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.nodes) + size_of_val(&*self.levels)
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
            if let Some(least) = best.as_sse2() {
                assert_eq!(tree.rank(least, value), expected, "without AVX");
            }
        }
    }

    #[test]
    fn trees_of_any_height_find_the_interval() {
        for len in [1, 2, 15, 16, 17, 255, 256, 257, 4096, 5000] {
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
        assert_tree(&ports, 0..=u16::MAX);
        assert_tree(&[0, u16::MAX], 0..=u16::MAX);
        assert_tree(&(0..=255).collect::<Vec<u8>>(), 0..=255);
        assert_tree(&[0_u8, 1, 6, 7], 0..=255);
    }
}
