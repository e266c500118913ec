//! A sorted map whose clones share what did not change.
//!
//! A model keeps of the one before all but a few of ten thousand policies. Here a clone copies one pointer for some fifty
//! entries, and two maps are compared by those pointers.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Entries that a chunk has at most.
const MOST: usize = 64;

type Chunk<K, V> = Arc<Vec<(K, V)>>;

/// A sorted map, in chunks. No chunk is empty.
#[derive(Clone)]
pub struct SharedMap<K, V> {
    chunks: Vec<Chunk<K, V>>,
    len: usize,
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self {
            chunks: Vec::new(),
            len: 0,
        }
    }
}

impl<K, V> SharedMap<K, V> {
    /// Number of entries.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// True if there is no entry.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let entries = self.chunks.iter().flat_map(|chunk| chunk.iter());
        entries.map(|(key, value)| (key, value))
    }

    /// All keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// All values, in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

impl<K: Ord, V> SharedMap<K, V> {
    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let (chunk, place) = self.place(key);
        Some(&self.chunks.get(chunk)?.get(place.ok()?)?.1)
    }

    /// Whether a key has a value.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// Where a key is, or would be: never in a chunk of its own where there is another.
    fn place<Q: Ord + ?Sized>(&self, key: &Q) -> (usize, Result<usize, usize>)
    where
        K: Borrow<Q>,
    {
        let ends_before =
            |chunk: &Chunk<K, V>| chunk.last().is_some_and(|(last, _)| last.borrow() < key);
        let chunk = self.chunks.partition_point(ends_before);
        let chunk = chunk.min(self.chunks.len().saturating_sub(1));
        let place = self.chunks.get(chunk).map_or(Err(0), |entries| {
            entries.binary_search_by(|(other, _)| other.borrow().cmp(key))
        });
        (chunk, place)
    }

    /// What differs between this map and another: each key with its values here and there. Values are compared by `same`.
    pub fn diff<'m>(
        &'m self,
        other: &'m Self,
        same: impl Fn(&V, &V) -> bool,
    ) -> Vec<(&'m K, Option<&'m V>, Option<&'m V>)> {
        let (mut ours, mut others) = (Cursor::new(self), Cursor::new(other));
        let mut found = Vec::new();
        loop {
            if ours.at == 0
                && others.at == 0
                && let (Some(one), Some(other)) = (ours.chunks.first(), others.chunks.first())
                && Arc::ptr_eq(one, other)
            {
                ours.skip_chunk();
                others.skip_chunk();
                continue;
            }
            let (one, other) = (ours.entry(), others.entry());
            let order = match (one, other) {
                (None, None) => return found,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((one, _)), Some((other, _))) => one.cmp(other),
            };
            let one = one.filter(|_| order.is_le());
            let other = other.filter(|_| order.is_ge());
            if one.is_some() {
                ours.step();
            }
            if other.is_some() {
                others.step();
            }
            match (one, other) {
                (Some((_, one)), Some((_, other))) if same(one, other) => {}
                (Some((key, one)), other) => {
                    found.push((key, Some(one), other.map(|(_, value)| value)));
                }
                (None, Some((key, value))) => found.push((key, None, Some(value))),
                (None, None) => {}
            }
        }
    }
}

/// The value of a key that has one.
impl<K: Ord + Borrow<Q>, V, Q: Ord + ?Sized> std::ops::Index<&Q> for SharedMap<K, V> {
    type Output = V;

    fn index(&self, key: &Q) -> &V {
        self.get(key).expect("a key that has a value")
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    /// Sets the value of a key. Returns the one that it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let (chunk, place) = self.place(&key);
        let Some(entries) = self.chunks.get_mut(chunk) else {
            self.chunks.push(Arc::new(vec![(key, value)]));
            self.len = 1;
            return None;
        };
        let entries = Arc::make_mut(entries);
        match place {
            Ok(at) => Some(std::mem::replace(&mut entries[at].1, value)),
            Err(at) => {
                entries.insert(at, (key, value));
                self.len += 1;
                if entries.len() > MOST {
                    let rest = entries.split_off(MOST / 2);
                    self.chunks.insert(chunk + 1, Arc::new(rest));
                }
                None
            }
        }
    }

    /// The value of a key, to be changed.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let (chunk, place) = self.place(key);
        let entries = Arc::make_mut(self.chunks.get_mut(chunk)?);
        Some(&mut entries.get_mut(place.ok()?)?.1)
    }

    /// All values, to be changed, in the order of their keys.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        let chunks = self
            .chunks
            .iter_mut()
            .flat_map(|chunk| Arc::make_mut(chunk).iter_mut());
        chunks.map(|(_, value)| value)
    }

    /// Takes a key away. Returns the value that it had.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let (chunk, Ok(at)) = self.place(key) else {
            return None;
        };
        let entries = Arc::make_mut(&mut self.chunks[chunk]);
        let (_, value) = entries.remove(at);
        if entries.is_empty() {
            self.chunks.remove(chunk);
        }
        self.len -= 1;
        Some(value)
    }

    /// Takes all entries away but those that `keep` wants.
    pub fn retain(&mut self, keep: impl Fn(&K, &V) -> bool) {
        for chunk in &mut self.chunks {
            if !chunk.iter().all(|(key, value)| keep(key, value)) {
                Arc::make_mut(chunk).retain(|(key, value)| keep(key, value));
            }
        }
        self.chunks.retain(|chunk| !chunk.is_empty());
        self.len = self.chunks.iter().map(|chunk| chunk.len()).sum();
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// The same keys with equal values, however they came there.
impl<K: PartialEq, V: PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        let is_shared = |(one, other): (&Chunk<K, V>, &Chunk<K, V>)| {
            Arc::ptr_eq(one, other) || **one == **other
        };
        self.len == other.len
            && (self.chunks.len() == other.chunks.len()
                && self.chunks.iter().zip(&other.chunks).all(is_shared)
                || self.iter().eq(other.iter()))
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let sorted: BTreeMap<K, V> = entries.into_iter().collect();
        let len = sorted.len();
        let mut entries = sorted.into_iter();
        let mut chunks = Vec::with_capacity(len.div_ceil(MOST));
        while chunks.len() * MOST < len {
            chunks.push(Arc::new(entries.by_ref().take(MOST).collect()));
        }
        Self { chunks, len }
    }
}

/// A place in a map.
struct Cursor<'m, K, V> {
    chunks: &'m [Chunk<K, V>],
    /// In the first of the chunks.
    at: usize,
}

impl<'m, K, V> Cursor<'m, K, V> {
    fn new(map: &'m SharedMap<K, V>) -> Self {
        Self {
            chunks: &map.chunks,
            at: 0,
        }
    }

    fn entry(&self) -> Option<(&'m K, &'m V)> {
        let (key, value) = self.chunks.first()?.get(self.at)?;
        Some((key, value))
    }

    fn step(&mut self) {
        self.at += 1;
        let is_over = |chunk: &Chunk<K, V>| chunk.len() <= self.at;
        if self.chunks.first().is_some_and(is_over) {
            self.skip_chunk();
        }
    }

    fn skip_chunk(&mut self) {
        self.chunks = self.chunks.get(1..).unwrap_or_default();
        self.at = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::SharedMap;

    #[derive(Clone, Debug)]
    enum Change {
        Insert(u16, u8),
        Remove(u16),
        /// Keeps values that are no multiple of this.
        Retain(u8),
    }

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let key = 0..400_u16;
        let change = prop_oneof![
            40 => (key.clone(), 0..10_u8).prop_map(|(key, value)| Change::Insert(key, value)),
            20 => key.prop_map(Change::Remove),
            1 => (2..10_u8).prop_map(Change::Retain),
        ];
        prop::collection::vec(change, 0..600)
    }

    fn apply(change: &Change, map: &mut SharedMap<u16, u8>, oracle: &mut BTreeMap<u16, u8>) {
        match *change {
            Change::Insert(key, value) => {
                assert_eq!(map.insert(key, value), oracle.insert(key, value));
            }
            Change::Remove(key) => assert_eq!(map.remove(&key), oracle.remove(&key)),
            Change::Retain(of) => {
                map.retain(|_, value| value % of != 0);
                oracle.retain(|_, value| *value % of != 0);
            }
        }
    }

    fn check(map: &SharedMap<u16, u8>, oracle: &BTreeMap<u16, u8>) {
        assert_eq!(map.len(), oracle.len());
        assert!(map.iter().eq(oracle.iter()));
        assert!((0..400).all(|key| map.get(&key) == oracle.get(&key)));
        let fresh: SharedMap<_, _> = oracle.iter().map(|(key, value)| (*key, *value)).collect();
        assert_eq!(*map, fresh);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_is_a_map_and_its_clones_stay_what_they_were(first in changes(), second in changes()) {
            let (mut map, mut oracle) = (SharedMap::default(), BTreeMap::new());
            for change in &first {
                apply(change, &mut map, &mut oracle);
            }
            check(&map, &oracle);
            let (before, oracle_before) = (map.clone(), oracle.clone());
            for change in &second {
                apply(change, &mut map, &mut oracle);
            }
            check(&map, &oracle);
            check(&before, &oracle_before);
            let keys = oracle.keys().chain(oracle_before.keys());
            let keys: std::collections::BTreeSet<_> = keys.collect();
            let differs = |key: &&u16| oracle.get(*key) != oracle_before.get(*key);
            let wanted: Vec<_> = keys
                .into_iter()
                .filter(differs)
                .map(|key| (key, oracle.get(key), oracle_before.get(key)))
                .collect();
            prop_assert_eq!(map.diff(&before, |one, other| one == other), wanted.clone());
            prop_assert_eq!(map == before, wanted.is_empty());
        }
    }

    #[test]
    fn what_is_shared_is_not_compared() {
        let mut map: SharedMap<u32, u32> = (0..10_000).map(|key| (key, key)).collect();
        let before = map.clone();
        map.insert(5_000, 0);
        let compared = std::cell::Cell::new(0);
        let found = map.diff(&before, |one, other| {
            compared.set(compared.get() + 1);
            one == other
        });
        assert_eq!(found, [(&5_000, Some(&0), Some(&5_000))]);
        assert!(compared.get() <= super::MOST);
    }
}
