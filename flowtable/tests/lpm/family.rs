//! One face for both families, so that the properties are written once.

use std::fmt::Debug;

use flowtable::lpm::{Lpm4, Lpm6, LpmError, NextHopId, Prefix4, Prefix6, Rib4, Rib6};

/// A family's prefixes, writer and reader.
pub(crate) trait Family {
    type Prefix: Copy + Ord + Debug;
    type Rib: Clone + Default;
    type Lpm: Clone;

    const BITS: u8;

    /// The prefix of length `len` that holds the address in the low bits of `addr`.
    fn prefix(addr: u128, len: u8) -> Self::Prefix;
    fn len_of(prefix: Self::Prefix) -> u8;
    /// The first and the last address.
    fn ends(prefix: Self::Prefix) -> (u128, u128);
    fn contains(prefix: Self::Prefix, addr: u128) -> bool;

    fn from_routes(routes: &[(Self::Prefix, NextHopId)]) -> Result<Self::Rib, LpmError>;
    fn insert(
        rib: &mut Self::Rib,
        prefix: Self::Prefix,
        hop: NextHopId,
    ) -> Result<Option<NextHopId>, LpmError>;
    fn remove(rib: &mut Self::Rib, prefix: Self::Prefix) -> Option<NextHopId>;
    fn get(rib: &Self::Rib, prefix: Self::Prefix) -> Option<NextHopId>;
    fn routes(rib: &Self::Rib) -> Vec<(Self::Prefix, NextHopId)>;
    fn len(rib: &Self::Rib) -> usize;
    fn snapshot(rib: &Self::Rib) -> Self::Lpm;
    fn lookup(lpm: &Self::Lpm, addr: u128) -> NextHopId;
    fn lookup_batch(lpm: &Self::Lpm, addrs: &[u128]) -> Vec<NextHopId>;
}

macro_rules! family {
    ($family:ident, $bits:ty, $prefix:ident, $rib:ident, $lpm:ident) => {
        pub(crate) struct $family;

        impl Family for $family {
            type Prefix = $prefix;
            type Rib = $rib;
            type Lpm = $lpm;

            const BITS: u8 = <$bits>::BITS as u8;

            fn prefix(addr: u128, len: u8) -> $prefix {
                $prefix::containing(addr as $bits, len).unwrap()
            }
            fn len_of(prefix: $prefix) -> u8 {
                prefix.len()
            }
            fn ends(prefix: $prefix) -> (u128, u128) {
                (prefix.addr() as u128, prefix.last() as u128)
            }
            fn contains(prefix: $prefix, addr: u128) -> bool {
                prefix.contains(addr as $bits)
            }
            fn from_routes(routes: &[($prefix, NextHopId)]) -> Result<$rib, LpmError> {
                $rib::from_routes(routes)
            }
            fn insert(
                rib: &mut $rib,
                prefix: $prefix,
                hop: NextHopId,
            ) -> Result<Option<NextHopId>, LpmError> {
                rib.insert(prefix, hop)
            }
            fn remove(rib: &mut $rib, prefix: $prefix) -> Option<NextHopId> {
                rib.remove(prefix)
            }
            fn get(rib: &$rib, prefix: $prefix) -> Option<NextHopId> {
                rib.get(prefix)
            }
            fn routes(rib: &$rib) -> Vec<($prefix, NextHopId)> {
                rib.iter().collect()
            }
            fn len(rib: &$rib) -> usize {
                assert_eq!(rib.is_empty(), rib.len() == 0);
                rib.len()
            }
            fn snapshot(rib: &$rib) -> $lpm {
                rib.snapshot()
            }
            fn lookup(lpm: &$lpm, addr: u128) -> NextHopId {
                lpm.lookup(addr as $bits)
            }
            fn lookup_batch(lpm: &$lpm, addrs: &[u128]) -> Vec<NextHopId> {
                let addrs: Vec<$bits> = addrs.iter().map(|&addr| addr as $bits).collect();
                let mut out = vec![NextHopId::MAX; addrs.len()];
                lpm.lookup_batch(&addrs, &mut out);
                out
            }
        }
    };
}

family!(V4, u32, Prefix4, Rib4, Lpm4);
family!(V6, u128, Prefix6, Rib6, Lpm6);
