//! Route tables and the addresses that are looked up in them.

use std::collections::HashSet;

use crate::rng::{Rng, Zipf};

/// A route: the first address, the prefix length, the number of the next hop.
pub type Route<A> = (A, u8, u16);

/// A family's addresses.
pub trait Address: Copy + Eq + std::hash::Hash {
    /// Bits of an address.
    const BITS: u8;

    /// From the low bits of `bits`.
    fn from_bits(bits: u128) -> Self;

    /// As the low bits.
    fn to_bits(self) -> u128;

    /// The bits behind the first `len`.
    #[must_use]
    fn host_mask(len: u8) -> u128 {
        1u128
            .checked_shl((Self::BITS - len).into())
            .map_or(u128::MAX, |one| one - 1)
    }
}

impl Address for u32 {
    const BITS: u8 = 32;

    fn from_bits(bits: u128) -> Self {
        bits as Self
    }

    fn to_bits(self) -> u128 {
        self.into()
    }
}

impl Address for u128 {
    const BITS: u8 = 128;

    fn from_bits(bits: u128) -> Self {
        bits
    }

    fn to_bits(self) -> u128 {
        self
    }
}

/// How the looked up addresses spread over the routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// A random address of a random route.
    Uniform,
    /// A random address of a route drawn by Zipf's law with exponent 1.
    Zipf,
    /// Any address.
    Random,
}

impl Spread {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Uniform, Self::Zipf, Self::Random];

    /// The name in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipf => "Zipf 1.0",
            Self::Random => "random",
        }
    }
}

/// A Calico cluster of 1,000 nodes: one block of 64 addresses for each from the pool 10.0.0.0/8, and
/// the default route.
#[must_use]
pub fn calico1k() -> Vec<Route<u32>> {
    let mut routes = random_routes(&[(26, 1000)], &[(0x0a00_0000, 8, 0)], 1);
    routes.push((0, 0, 1001));
    routes
}

/// The same with IPv6: blocks of 64 addresses (/122) from fd00:10:244::/48.
#[must_use]
pub fn calico1k6() -> Vec<Route<u128>> {
    let mut routes = random_routes(&[(122, 1000)], &[(0xfd00_0010_0244 << 80, 48, 0)], 1);
    routes.push((0, 0, 1001));
    routes
}

/// About a million IPv4 prefixes, as many of each length as in the Internet's table, roughly, at random
/// places below 224.0.0.0; 255 next hops.
#[must_use]
pub fn bgp1m() -> Vec<Route<u32>> {
    let shares = [
        (8, 16),
        (9, 13),
        (10, 40),
        (11, 100),
        (12, 300),
        (13, 600),
        (14, 1_200),
        (15, 2_000),
        (16, 13_500),
        (17, 8_500),
        (18, 14_000),
        (19, 26_000),
        (20, 46_000),
        (21, 53_000),
        (22, 115_000),
        (23, 104_000),
        (24, 615_000),
    ];
    // Nothing is routed from 224.0.0.0 on.
    let unicast: Vec<_> = (0..224u32).map(|octet| (octet << 24, 8, 0)).collect();
    random_routes(&shares, &unicast, 255)
}

/// About 200,000 IPv6 prefixes, as many of each length as in the Internet's table, roughly; 255 next
/// hops. Those up to /32 lie at random places of the registries' blocks, the longer ones inside those.
#[must_use]
pub fn bgp200k6() -> Vec<Route<u128>> {
    let registries = [
        (0x2001u128, 16),
        (0x2400, 12),
        (0x2600, 12),
        (0x2800, 12),
        (0x2a00, 12),
        (0x2c00, 12),
    ];
    let registries: Vec<_> = registries
        .iter()
        .map(|&(addr, len)| (addr << 112, len, 0))
        .collect();
    let short = [
        (20, 20),
        (24, 50),
        (28, 150),
        (29, 5_000),
        (30, 700),
        (31, 300),
        (32, 25_000),
    ];
    let long = [
        (33, 4_500),
        (34, 3_500),
        (35, 1_000),
        (36, 8_500),
        (37, 800),
        (38, 1_700),
        (39, 900),
        (40, 16_000),
        (41, 800),
        (42, 4_000),
        (43, 1_000),
        (44, 22_000),
        (45, 2_500),
        (46, 5_000),
        (47, 4_000),
        (48, 92_000),
    ];
    let mut routes = random_routes(&short, &registries, 255);
    let mut inside = random_routes(&long, &routes, 255);
    routes.append(&mut inside);
    Rng::new(1).shuffle(&mut routes);
    routes
}

/// `count` different prefixes of each length in `(length, count)`, each at a random place of one of
/// `blocks`, in random order. One next hop a route if `hops` is 1, else that many in all.
fn random_routes<A: Address>(
    shares: &[(u8, usize)],
    blocks: &[Route<A>],
    hops: usize,
) -> Vec<Route<A>> {
    let mut rng = Rng::new(0x0ca7_aca1);
    let mut routes = Vec::new();
    for &(len, count) in shares {
        let mut seen = HashSet::with_capacity(count);
        while seen.len() < count {
            let (block, block_len, _) = blocks[rng.below(blocks.len())];
            let free = A::host_mask(block_len) & !A::host_mask(len);
            let addr = block.to_bits() | (rng.next_u128() & free);
            if seen.insert(addr) {
                let hop = if hops == 1 {
                    routes.len()
                } else {
                    rng.below(hops)
                };
                routes.push((A::from_bits(addr), len, hop as u16 + 1));
            }
        }
    }
    rng.shuffle(&mut routes);
    routes
}

/// `count` addresses to look up.
#[must_use]
pub fn addresses<A: Address>(routes: &[Route<A>], spread: Spread, count: usize) -> Vec<A> {
    let mut rng = Rng::new(0x0add_4e55);
    let zipf = (spread == Spread::Zipf).then(|| Zipf::new(routes.len()));
    let mut draw = || {
        let any = rng.next_u128();
        let route = match (spread, &zipf) {
            (Spread::Random, _) => return A::from_bits(any & A::host_mask(0)),
            (_, Some(zipf)) => zipf.draw(&mut rng),
            (_, None) => rng.below(routes.len()),
        };
        let (addr, len, _) = routes[route];
        A::from_bits(addr.to_bits() | (any & A::host_mask(len)))
    };
    (0..count).map(|_| draw()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_have_no_host_bits_and_no_twins() {
        let routes = calico1k();
        assert_eq!(routes.len(), 1001);
        assert!(
            routes
                .iter()
                .all(|&(addr, len, _)| addr.to_bits() & u32::host_mask(len) == 0)
        );
        assert_eq!(
            routes
                .iter()
                .map(|&(addr, len, _)| (addr, len))
                .collect::<HashSet<_>>()
                .len(),
            1001
        );
        assert!(
            calico1k6()
                .iter()
                .all(|&(addr, len, _)| len == 0 || addr >> 80 == 0xfd00_0010_0244)
        );
    }

    #[test]
    fn addresses_lie_in_routes() {
        let routes: Vec<_> = calico1k()
            .into_iter()
            .filter(|&(_, len, _)| len > 0)
            .collect();
        for spread in [Spread::Uniform, Spread::Zipf] {
            let inside = |addr: &u32| routes.iter().any(|&(first, ..)| addr & !63 == first);
            assert!(addresses(&routes, spread, 500).iter().all(inside));
        }
    }
}
