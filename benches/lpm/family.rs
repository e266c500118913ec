//! One face for both families, so that the bench is written once.

use std::fmt::Debug;

use benches::routes::{Address, Route};
use flowtable::lpm::{Lpm4, Lpm6, LpmError, NextHopId, Prefix4, Prefix6, Rib4, Rib6};
use prefix_trie::PrefixMap;

/// A family's writer and reader.
pub(crate) trait Family {
    type Addr: Address + Debug;
    type Prefix: Copy;
    type Rib;
    type Lpm;
    /// The peer in Rust: a binary trie.
    type Trie: Default;

    fn prefix(route: &Route<Self::Addr>) -> Self::Prefix;
    fn from_routes(routes: &[(Self::Prefix, NextHopId)]) -> Result<Self::Rib, LpmError>;
    fn insert(rib: &mut Self::Rib, prefix: Self::Prefix, hop: NextHopId) -> Result<(), LpmError>;
    fn remove(rib: &mut Self::Rib, prefix: Self::Prefix) -> Option<NextHopId>;
    fn snapshot(rib: &Self::Rib) -> Self::Lpm;
    fn lookup(lpm: &Self::Lpm, addr: Self::Addr) -> NextHopId;
    fn lookup_batch(lpm: &Self::Lpm, addrs: &[Self::Addr], out: &mut [NextHopId]);

    fn trie_insert(trie: &mut Self::Trie, route: &Route<Self::Addr>);
    fn trie_remove(trie: &mut Self::Trie, route: &Route<Self::Addr>);
    fn trie_lookup(trie: &Self::Trie, addr: Self::Addr) -> u16;

    /// The address as a C peer reads it.
    fn bytes(addr: Self::Addr) -> Vec<u8>;
}

macro_rules! family {
    ($family:ident, $addr:ty, $prefix:ident, $rib:ident, $lpm:ident, $bytes:ident) => {
        pub(crate) struct $family;

        impl Family for $family {
            type Addr = $addr;
            type Prefix = $prefix;
            type Rib = $rib;
            type Lpm = $lpm;
            type Trie = PrefixMap<($addr, u8), u16>;

            fn prefix(route: &Route<$addr>) -> $prefix {
                $prefix::new(route.0, route.1).expect("workloads have no host bits")
            }
            fn from_routes(routes: &[($prefix, NextHopId)]) -> Result<$rib, LpmError> {
                $rib::from_routes(routes)
            }
            fn insert(rib: &mut $rib, prefix: $prefix, hop: NextHopId) -> Result<(), LpmError> {
                rib.insert(prefix, hop).map(drop)
            }
            fn remove(rib: &mut $rib, prefix: $prefix) -> Option<NextHopId> {
                rib.remove(prefix)
            }
            fn snapshot(rib: &$rib) -> $lpm {
                rib.snapshot()
            }
            #[inline(always)]
            fn lookup(lpm: &$lpm, addr: $addr) -> NextHopId {
                lpm.lookup(addr)
            }
            #[inline(always)]
            fn lookup_batch(lpm: &$lpm, addrs: &[$addr], out: &mut [NextHopId]) {
                lpm.lookup_batch(addrs, out);
            }
            fn trie_insert(trie: &mut Self::Trie, route: &Route<$addr>) {
                trie.insert((route.0, route.1), route.2);
            }
            fn trie_remove(trie: &mut Self::Trie, route: &Route<$addr>) {
                trie.remove(&(route.0, route.1));
            }
            #[inline(always)]
            fn trie_lookup(trie: &Self::Trie, addr: $addr) -> u16 {
                trie.get_lpm(&(addr, <$addr>::BITS as u8))
                    .map_or(0, |(_, hop)| *hop)
            }
            fn bytes(addr: $addr) -> Vec<u8> {
                addr.$bytes().to_vec()
            }
        }
    };
}

family!(V4, u32, Prefix4, Rib4, Lpm4, to_ne_bytes);
family!(V6, u128, Prefix6, Rib6, Lpm6, to_be_bytes);
