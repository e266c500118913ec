//! The keyed hash: SipHash-1-3, so that nobody outside can choose keys that share a line of tags.

use core::fmt;
use core::ops::BitXor;

use fearless_simd::prelude::*;
use fearless_simd::{Level, dispatch, u64x4};

use super::batch::BATCH;
use crate::simd;

/// Keys of a vector.
const LANES: usize = 4;

/// The secret of a table's hash. Take it from the system's random numbers, anew at each start.
#[derive(Clone, Copy)]
pub struct Seed(pub [u64; 2]);

impl fmt::Debug for Seed {
    /// Shows nothing: who knows it can fill a line of tags at will.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(..)")
    }
}

/// The hash with a table's seed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hasher {
    seed: Seed,
    /// For vectors that are spelled out here, and 256 bits wide.
    level: Level,
    /// For what is done with the hashes of a batch.
    pub(super) loops: Level,
}

impl Hasher {
    pub(super) fn new(seed: Seed) -> Self {
        Self {
            seed,
            level: simd::best(),
            loops: simd::not_too_wide(),
        }
    }

    /// The hashes of the first `len` keys of a batch, and of some behind them.
    #[inline(always)]
    pub(super) fn hash_batch<B: Blocks>(
        &self,
        batch: &B::Batch,
        len: usize,
        hashes: &mut [u64; BATCH],
    ) {
        dispatch!(self.level, simd => B::hash_batch(simd, batch, len, self.seed, hashes));
    }

    #[inline(always)]
    pub(super) fn hash<B: Blocks>(&self, blocks: B) -> u64 {
        blocks.hash(self.seed)
    }
}

/// The bits of a key's hash that choose neither a line of tags (in tables of fewer than 2^28 entries) nor a tag: whoever sees them learns
/// nothing that would help to fill a line.
#[inline(always)]
pub(super) const fn spare(hash: u64) -> u32 {
    (hash >> 25) as u32
}

/// The keyed hash of some blocks, for those who look something else up.
pub(crate) fn hash_of<const N: usize>(seed: Seed, blocks: [u64; N]) -> u64 {
    blocks.hash(seed)
}

/// A key as SipHash's blocks of eight bytes, the length in the last one's highest.
pub trait Blocks: Copy {
    /// The blocks of a batch of keys: first all keys' first, then all keys' second.
    type Batch;

    fn hash(self, seed: Seed) -> u64;
    fn empty_batch() -> Self::Batch;
    fn put(self, batch: &mut Self::Batch, at: usize);
    fn get(batch: &Self::Batch, at: usize) -> Self;
    /// As [`Hasher::hash_batch`].
    fn hash_batch<S: Simd>(
        simd: S,
        batch: &Self::Batch,
        len: usize,
        seed: Seed,
        hashes: &mut [u64; BATCH],
    );
}

impl<const N: usize> Blocks for [u64; N] {
    type Batch = [[u64; BATCH]; N];

    #[inline(always)]
    fn hash(self, seed: Seed) -> u64 {
        siphash(initial(seed), self, END)
    }

    #[inline(always)]
    fn empty_batch() -> Self::Batch {
        [[0; BATCH]; N]
    }

    #[inline(always)]
    fn put(self, batch: &mut Self::Batch, at: usize) {
        for (column, block) in batch.iter_mut().zip(self) {
            column[at % BATCH] = block;
        }
    }

    #[inline(always)]
    fn get(batch: &Self::Batch, at: usize) -> Self {
        core::array::from_fn(|block| batch[block][at % BATCH])
    }

    #[inline(always)]
    fn hash_batch<S: Simd>(
        simd: S,
        batch: &Self::Batch,
        len: usize,
        seed: Seed,
        hashes: &mut [u64; BATCH],
    ) {
        let initial = initial(seed).map(|word| u64x4::splat(simd, word));
        let end = u64x4::splat(simd, END);
        let all = hashes.as_chunks_mut::<LANES>().0;
        for (at, hashes) in all.iter_mut().enumerate().take(len.div_ceil(LANES)) {
            let blocks: [_; N] = core::array::from_fn(|block| {
                u64x4::from_slice(simd, &batch[block].as_chunks::<LANES>().0[at])
            });
            siphash(initial, blocks, end).store_slice(hashes);
        }
    }
}

/// What SipHash works on: words of one key, or of a key in each lane.
trait Words: Copy + BitXor<Output = Self> {
    /// Modulo 2^64.
    fn plus(self, other: Self) -> Self;
    fn rotate<const LEFT: u32>(self) -> Self;
}

impl Words for u64 {
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        self.wrapping_add(other)
    }

    #[inline(always)]
    fn rotate<const LEFT: u32>(self) -> Self {
        self.rotate_left(LEFT)
    }
}

impl<S: Simd> Words for u64x4<S> {
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        self + other
    }

    #[inline(always)]
    fn rotate<const LEFT: u32>(self) -> Self {
        (self << LEFT) | (self >> (64 - LEFT))
    }
}

/// The state before the first block.
#[inline(always)]
const fn initial(Seed([k0, k1]): Seed) -> [u64; 4] {
    [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ]
}

/// What goes into the state behind the last block.
const END: u64 = 0xff;

/// SipHash with one round a block and three at the end.
#[inline(always)]
fn siphash<W: Words, const N: usize>(initial: [W; 4], blocks: [W; N], end: W) -> W {
    let mut state = initial;
    for block in blocks {
        state[3] = state[3] ^ block;
        state = round(state);
        state[0] = state[0] ^ block;
    }
    state[2] = state[2] ^ end;
    let [v0, v1, v2, v3] = round(round(round(state)));
    v0 ^ v1 ^ v2 ^ v3
}

#[inline(always)]
fn round<W: Words>([mut v0, mut v1, mut v2, mut v3]: [W; 4]) -> [W; 4] {
    v0 = v0.plus(v1);
    v1 = v1.rotate::<13>() ^ v0;
    v0 = v0.rotate::<32>();
    v2 = v2.plus(v3);
    v3 = v3.rotate::<16>() ^ v2;
    v0 = v0.plus(v3);
    v3 = v3.rotate::<21>() ^ v0;
    v2 = v2.plus(v1);
    v1 = v1.rotate::<17>() ^ v2;
    v2 = v2.rotate::<32>();
    [v0, v1, v2, v3]
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::hash::{BuildHasher, Hasher as _, RandomState};

    use siphasher::sip::SipHasher13;

    use super::super::key::{Key4, Key6, Layout};
    use super::super::tags::home;
    use super::*;

    /// The key's bytes, as little-endian as the blocks.
    fn reference(Seed([k0, k1]): Seed, bytes: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(k0, k1);
        hasher.write(bytes);
        hasher.finish()
    }

    fn key4(number: u32) -> (Key4, Vec<u8>) {
        let key = Key4 {
            src: number.wrapping_mul(0x9e37_79b9),
            dst: !number,
            sport: number as u16,
            dport: 0xfedc,
            protocol: 17,
        };
        let mut bytes = [key.src.to_le_bytes(), key.dst.to_le_bytes()].concat();
        bytes.extend([key.sport.to_le_bytes(), key.dport.to_le_bytes()].concat());
        bytes.push(key.protocol);
        (key, bytes)
    }

    fn key6(number: u128) -> (Key6, Vec<u8>) {
        let key = Key6 {
            src: number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835),
            dst: !number,
            sport: 0x1234,
            dport: number as u16,
            protocol: 58,
        };
        let mut bytes = [key.src.to_le_bytes(), key.dst.to_le_bytes()].concat();
        bytes.extend([key.sport.to_le_bytes(), key.dport.to_le_bytes()].concat());
        bytes.push(key.protocol);
        (key, bytes)
    }

    fn assert_is_siphash<K: Layout>(keys: &[(K, Vec<u8>)]) {
        let hasher = Hasher::new(Seed([0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908]));
        let mut batch = K::Blocks::empty_batch();
        for (at, (key, _)) in keys.iter().enumerate() {
            key.blocks().put(&mut batch, at);
        }
        let mut hashes = [0; BATCH];
        hasher.hash_batch::<K::Blocks>(&batch, BATCH, &mut hashes);
        for ((key, bytes), hash) in keys.iter().zip(hashes) {
            assert_eq!(hasher.hash(key.blocks()), reference(hasher.seed, bytes));
            assert_eq!(hash, reference(hasher.seed, bytes), "in the batch");
        }
    }

    #[test]
    fn the_hash_is_siphash_1_3_alone_and_in_batches() {
        assert_is_siphash(&(0..64).map(key4).collect::<Vec<_>>());
        assert_is_siphash(&(0..64).map(key6).collect::<Vec<_>>());
    }

    /// A line of 64 slots holds 31 keys on average here. More than 80 in one of 32,768 lines has a chance of
    /// 10^-9 if the hash is random, and is certain sooner or later if it is not.
    #[test]
    fn sequential_keys_spread_over_the_lines_under_any_seed() {
        let random = RandomState::new();
        let seed = Seed([random.hash_one(1), random.hash_one(2)]);
        let (words, hasher) = (1 << 18, Hasher::new(seed));
        let mut lines = vec![0_u32; words / 8];
        let mut tags = [0_u32; 128];
        for number in 0..1_000_000 {
            let key = Key4 {
                src: 0x0a00_0000 + number,
                dst: 1,
                ..Key4::default()
            };
            let home = home(hasher.hash(key.blocks()), words - 1);
            lines[home.word / 8] += 1;
            tags[home.tag as usize] += 1;
        }
        let most = lines.iter().max().copied().unwrap_or(0);
        assert!(most <= 80, "{most} in a line, seed {:x?}", seed.0);
        // Tag 1 stands for two values of the hash; 0 is an empty slot.
        let (most, least) = (tags[2..].iter().max(), tags[2..].iter().min());
        assert_eq!(tags[0], 0);
        assert!(most < Some(&8_500) && least > Some(&7_100), "{tags:?}");
    }

    #[test]
    fn a_seed_does_not_show() {
        assert_eq!(format!("{:?}", Seed([0x1234, 0x5678])), "Seed(..)");
    }
}
