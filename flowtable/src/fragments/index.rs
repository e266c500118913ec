//! From a key to the datagram's number.

use core::hash::{Hash, Hasher};

use siphasher::sip::SipHasher13;

use super::Key;
use super::links::NONE;

/// A hash table of fixed size. The hash is keyed, so that nobody outside makes keys that share a bucket (CVE-2003-0364).
#[derive(Clone)]
pub(super) struct Index {
    keyed: SipHasher13,
    /// The first number of each bucket; a power of two of them, no fewer than numbers.
    buckets: Box<[u32]>,
    /// By number: its key and the next number of its bucket.
    entries: Box<[(Key, u32)]>,
}

impl Index {
    pub(super) fn new(len: usize, [key0, key1]: [u64; 2]) -> Self {
        Self {
            keyed: SipHasher13::new_with_keys(key0, key1),
            buckets: vec![NONE; len.next_power_of_two()].into(),
            entries: vec![(Key::default(), NONE); len].into(),
        }
    }

    fn bucket(&self, key: &Key) -> usize {
        let mut hasher = self.keyed;
        key.hash(&mut hasher);
        hasher.finish() as usize & (self.buckets.len() - 1)
    }

    pub(super) fn find(&self, key: &Key) -> Option<u32> {
        let mut number = self.buckets[self.bucket(key)];
        while number != NONE {
            let (is, next) = &self.entries[number as usize];
            if is == key {
                return Some(number);
            }
            number = *next;
        }
        None
    }

    /// The key of a number that is in the index.
    pub(super) fn key(&self, number: u32) -> &Key {
        &self.entries[number as usize].0
    }

    /// Adds `key`, which is not there, under `number`, which is free.
    pub(super) fn insert(&mut self, key: &Key, number: u32) {
        let bucket = self.bucket(key);
        self.entries[number as usize] = (*key, self.buckets[bucket]);
        self.buckets[bucket] = number;
    }

    pub(super) fn remove(&mut self, number: u32) {
        let (key, behind) = self.entries[number as usize];
        let bucket = self.bucket(&key);
        if self.buckets[bucket] == number {
            self.buckets[bucket] = behind;
            return;
        }
        let mut before = self.buckets[bucket];
        while before != NONE {
            let next = self.entries[before as usize].1;
            if next == number {
                self.entries[before as usize].1 = behind;
                return;
            }
            before = next;
        }
    }
}
