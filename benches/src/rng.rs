//! Numbers that look random and are the same on every run.

/// `SplitMix64`.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The sequence of `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next 128 bits.
    pub const fn next_u128(&mut self) -> u128 {
        (self.next_u64() as u128) << 64 | self.next_u64() as u128
    }

    /// A number below `end`, which is not 0.
    pub const fn below(&mut self, end: usize) -> usize {
        ((self.next_u64() as u128 * end as u128) >> 64) as usize
    }

    /// A number from 0 to 1, without 1.
    pub const fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Puts `items` into a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }
}

/// Zipf's distribution with exponent 1: rank `r` (from 0) is `r + 1` times as rare as rank 0.
#[derive(Clone, Debug)]
pub struct Zipf {
    cumulated: Vec<f64>,
}

impl Zipf {
    /// Over `ranks` ranks, at least one.
    #[must_use]
    pub fn new(ranks: usize) -> Self {
        let mut sum = 0.0;
        let cumulated = (0..ranks).map(|rank| {
            sum += 1.0 / (rank + 1) as f64;
            sum
        });
        Self {
            cumulated: cumulated.collect(),
        }
    }

    /// A rank.
    pub fn draw(&self, rng: &mut Rng) -> usize {
        let at = rng.unit() * self.cumulated.last().copied().unwrap_or(0.0);
        self.cumulated.partition_point(|&sum| sum <= at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipf_draws_the_first_rank_as_often_as_it_should() {
        let (zipf, mut rng) = (Zipf::new(1000), Rng::new(1));
        let drawn: Vec<_> = (0..100_000).map(|_| zipf.draw(&mut rng)).collect();
        let first = drawn.iter().filter(|&&rank| rank == 0).count();
        // 1 / H(1000) = 0.1336.
        assert!((12_800..13_900).contains(&first), "{first}");
        assert!(drawn.iter().all(|&rank| rank < 1000));
    }
}
