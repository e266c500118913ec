//! The keyed hash: SipHash-1-3, so that nobody outside can choose keys that share a line of tags.

use core::fmt;

use super::batch::BATCH;

/// The secret of a table's hash. Take it from the system's random numbers, anew at each start.
#[derive(Clone, Copy)]
pub struct Seed(pub [u64; 2]);

impl fmt::Debug for Seed {
    /// Shows nothing: who knows it can fill a line of tags at will.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(..)")
    }
}

/// A key as SipHash's blocks of eight bytes, the length in the last one's highest.
pub trait Blocks: Copy {
    /// The blocks of a batch of keys: first all keys' first, then all keys' second.
    type Batch;

    fn hash(self, seed: Seed) -> u64;
    fn empty_batch() -> Self::Batch;
    fn put(self, batch: &mut Self::Batch, at: usize);
    fn get(batch: &Self::Batch, at: usize) -> Self;
    fn hash_batch(batch: &Self::Batch, seed: Seed) -> [u64; BATCH];
}

impl<const N: usize> Blocks for [u64; N] {
    type Batch = [[u64; BATCH]; N];

    #[inline(always)]
    fn hash(self, seed: Seed) -> u64 {
        siphash(self, seed)
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
    fn hash_batch(batch: &Self::Batch, seed: Seed) -> [u64; BATCH] {
        let mut hashes = [0; BATCH];
        for (at, hash) in hashes.iter_mut().enumerate() {
            *hash = siphash::<N>(core::array::from_fn(|block| batch[block][at]), seed);
        }
        hashes
    }
}

/// SipHash with one round a block and three at the end.
#[inline(always)]
fn siphash<const N: usize>(blocks: [u64; N], Seed([k0, k1]): Seed) -> u64 {
    let mut state = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    for block in blocks {
        state[3] ^= block;
        state = round(state);
        state[0] ^= block;
    }
    state[2] ^= 0xff;
    let [v0, v1, v2, v3] = round(round(round(state)));
    v0 ^ v1 ^ v2 ^ v3
}

#[inline(always)]
const fn round([mut v0, mut v1, mut v2, mut v3]: [u64; 4]) -> [u64; 4] {
    v0 = v0.wrapping_add(v1);
    v1 = v1.rotate_left(13) ^ v0;
    v0 = v0.rotate_left(32);
    v2 = v2.wrapping_add(v3);
    v3 = v3.rotate_left(16) ^ v2;
    v0 = v0.wrapping_add(v3);
    v3 = v3.rotate_left(21) ^ v0;
    v2 = v2.wrapping_add(v1);
    v1 = v1.rotate_left(17) ^ v2;
    v2 = v2.rotate_left(32);
    [v0, v1, v2, v3]
}
