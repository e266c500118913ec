//! Sets in the uplinks' programs' maps that are brought in line with a wanted set, entry by entry, so that what stays
//! is never missing for a packet.

use std::collections::BTreeSet;

use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, LpmTrie, Map, MapData, MapError};

use super::error::{LoadError, UpdateError};
use super::object::take_map;

/// What a set's map can do.
pub(super) trait SetMap: TryFrom<Map> {
    type Entry: Ord + Clone;
    fn add(&mut self, entry: &Self::Entry) -> Result<(), MapError>;
    fn remove(&mut self, entry: &Self::Entry) -> Result<(), MapError>;
}

/// A prefix: its length, then its address with no bit beyond the length.
pub(super) type Prefix<const N: usize> = (u8, [u8; N]);
pub(super) type PrefixMap<const N: usize> = LpmTrie<MapData, [u8; N], u8>;
pub(super) type AddressMap<const N: usize> = HashMap<MapData, [u8; N], u8>;

impl SetMap for PrefixMap<4> {
    type Entry = Prefix<4>;
    fn add(&mut self, &(len, addr): &Prefix<4>) -> Result<(), MapError> {
        self.insert(&Key::new(len.into(), addr), 1, 0)
    }
    fn remove(&mut self, &(len, addr): &Prefix<4>) -> Result<(), MapError> {
        LpmTrie::remove(self, &Key::new(len.into(), addr))
    }
}

impl SetMap for PrefixMap<16> {
    type Entry = Prefix<16>;
    fn add(&mut self, &(len, addr): &Prefix<16>) -> Result<(), MapError> {
        self.insert(&Key::new(len.into(), addr), 1, 0)
    }
    fn remove(&mut self, &(len, addr): &Prefix<16>) -> Result<(), MapError> {
        LpmTrie::remove(self, &Key::new(len.into(), addr))
    }
}

impl SetMap for AddressMap<4> {
    type Entry = [u8; 4];
    fn add(&mut self, addr: &[u8; 4]) -> Result<(), MapError> {
        self.insert(addr, 1, 0)
    }
    fn remove(&mut self, addr: &[u8; 4]) -> Result<(), MapError> {
        HashMap::remove(self, addr)
    }
}

impl SetMap for AddressMap<16> {
    type Entry = [u8; 16];
    fn add(&mut self, addr: &[u8; 16]) -> Result<(), MapError> {
        self.insert(addr, 1, 0)
    }
    fn remove(&mut self, addr: &[u8; 16]) -> Result<(), MapError> {
        HashMap::remove(self, addr)
    }
}

/// A map and what is in it. Nobody else writes to the map, so the mirror is exact.
pub(super) struct SyncedSet<M: SetMap> {
    map: M,
    what: &'static str,
    max: u32,
    held: BTreeSet<M::Entry>,
}

impl<M: SetMap> SyncedSet<M> {
    pub(super) fn take(
        ebpf: &mut Ebpf,
        map: &'static str,
        what: &'static str,
        max: u32,
    ) -> Result<Self, LoadError> {
        Ok(Self {
            map: take_map(ebpf, map)?,
            what,
            max,
            held: BTreeSet::new(),
        })
    }

    /// Makes the map hold exactly `wanted`. On an error it holds some of the change; the next call goes on from there.
    pub(super) fn sync(&mut self, wanted: &BTreeSet<M::Entry>) -> Result<(), UpdateError> {
        if wanted.len() > self.max as usize {
            return Err(UpdateError::Full {
                what: self.what,
                max: self.max,
            });
        }
        let fail = |e: &MapError| UpdateError::of(self.what, self.max, e);
        let (gone, new): (Vec<_>, Vec<_>) = self
            .held
            .symmetric_difference(wanted)
            .cloned()
            .partition(|entry| self.held.contains(entry));
        // Removals first: the map has room for `wanted`, but not always for both.
        for entry in gone {
            self.map.remove(&entry).map_err(|e| fail(&e))?;
            self.held.remove(&entry);
        }
        for entry in new {
            self.map.add(&entry).map_err(|e| fail(&e))?;
            self.held.insert(entry);
        }
        Ok(())
    }
}

/// A prefix with the bits beyond its length cleared, as a route's are.
pub(super) fn prefix<const N: usize>(addr: [u8; N], len: u8) -> Result<Prefix<N>, UpdateError> {
    let max = (N * 8) as u8;
    if len > max {
        return Err(UpdateError::BadPrefix { len, max });
    }
    let mut masked = addr;
    for (i, byte) in masked.iter_mut().enumerate() {
        let kept = (usize::from(len)).saturating_sub(i * 8).min(8);
        *byte &= !(0xff_u8.checked_shr(kept as u32).unwrap_or(0));
    }
    Ok((len, masked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_are_cleared() {
        for len in 0..=32_u8 {
            let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
            let expected = (0xc0a8_fffe_u32 & mask).to_be_bytes();
            assert_eq!(
                prefix([0xc0, 0xa8, 0xff, 0xfe], len).ok(),
                Some((len, expected)),
                "/{len}"
            );
        }
        assert!(prefix([0; 4], 33).is_err());
        assert!(prefix([0; 16], 128).is_ok());
        assert!(prefix([0; 16], 129).is_err());
    }
}
