//! Membership classes: each different list of sets that some address is in, once.

use std::sync::Arc;

use hashbrown::HashMap;

use crate::acl::SetId;

/// Classes that are copied together when one of them changes.
const CHUNK: usize = 64;

/// A few bits for each set of a list: what is not in it is most often not in the list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Signature([u64; 4]);

impl Signature {
    /// Of no set.
    pub(super) const NONE: Self = Self([0; 4]);

    fn of(sets: &[SetId]) -> Self {
        let mut bits = [0; 4];
        for &set in sets {
            let (word, bit) = Self::place(set);
            bits[word] |= bit;
        }
        Self(bits)
    }

    #[inline(always)]
    const fn place(set: SetId) -> (usize, u64) {
        let hash = set.0.wrapping_mul(0x9e37_79b1) >> 24;
        ((hash >> 6) as usize & 3, 1 << (hash & 63))
    }

    #[inline(always)]
    pub(super) const fn may_hold(&self, set: SetId) -> bool {
        let (word, bit) = Self::place(set);
        self.0[word] & bit != 0
    }

    #[inline(always)]
    pub(super) fn add(&mut self, other: &Self) {
        for (own, other) in self.0.iter_mut().zip(other.0) {
            *own |= other;
        }
    }
}

/// A list of sets, not empty but for the class 0.
#[derive(Clone, Debug, Default)]
pub(super) struct Class {
    pub(super) signature: Signature,
    /// The sets, each at the first free place from its hash on; a power of two of places, at most half of
    /// them taken. Without sets there are none.
    table: Arc<[SetId]>,
}

impl Class {
    fn new(sets: &[SetId]) -> Self {
        let mut table = vec![SetId::NONE; (sets.len() * 2).next_power_of_two()];
        for &set in sets {
            let mut at = place_of(set, table.len());
            while table[at] != SetId::NONE {
                at = (at + 1) & (table.len() - 1);
            }
            table[at] = set;
        }
        Self {
            signature: Signature::of(sets),
            table: table.into(),
        }
    }

    /// Whether `set` is in the list.
    #[inline(always)]
    pub(super) fn holds(&self, set: SetId) -> bool {
        let table = &*self.table;
        let mut at = place_of(set, table.len());
        // Ends: half of the places are free.
        while let Some(&found) = table.get(at).filter(|&&found| found != SetId::NONE) {
            if found == set {
                return true;
            }
            at = (at + 1) & (table.len() - 1);
        }
        false
    }
}

/// Where a set's place is sought from in a table of `len` places.
#[inline(always)]
fn place_of(set: SetId, len: usize) -> usize {
    (set.0.wrapping_mul(0x9e37_79b1) >> 16) as usize & len.wrapping_sub(1)
}

/// The classes as readers see them. Cloning copies a pointer.
#[derive(Clone, Debug, Default)]
pub(super) struct Classes {
    chunks: Arc<Vec<Arc<[Class; CHUNK]>>>,
}

impl Classes {
    /// The class with this number.
    #[inline(always)]
    pub(super) fn get(&self, class: u32) -> Option<&Class> {
        let at = class as usize;
        self.chunks.get(at / CHUNK).map(|chunk| &chunk[at % CHUNK])
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<Class>()
    }

    fn put(&mut self, class: u32, value: Class) {
        let (chunk, at) = (class as usize / CHUNK, class as usize % CHUNK);
        let chunks = Arc::make_mut(&mut self.chunks);
        while chunks.len() <= chunk {
            chunks.push(Arc::new(std::array::from_fn(|_| Class::default())));
        }
        Arc::make_mut(&mut chunks[chunk])[at] = value;
    }
}

/// The writer's side: which list has which number, and how many keys have it.
#[derive(Debug, Default)]
pub(super) struct ClassWriter {
    pub(super) classes: Classes,
    numbers: HashMap<Arc<[SetId]>, u32>,
    /// Keys of each class; the class 0 is "in no set".
    keys: Vec<u32>,
    free: Vec<u32>,
    /// By class, its sets, sorted.
    lists: Vec<Arc<[SetId]>>,
    /// Bytes of the lists that are in use.
    list_bytes: usize,
}

impl ClassWriter {
    /// The sets of `class`.
    pub(super) fn sets(&self, class: u32) -> &[SetId] {
        self.lists.get(class as usize).map_or(&[], |sets| sets)
    }

    /// The class for one more key with these sets, sorted; 0 for none.
    pub(super) fn take(&mut self, sets: &[SetId]) -> u32 {
        if sets.is_empty() {
            return 0;
        }
        if let Some(&class) = self.numbers.get(sets) {
            self.keys[class as usize] += 1;
            return class;
        }
        if self.keys.is_empty() {
            self.keys.push(0);
            self.lists.push(Arc::default());
        }
        let class = self.free.pop().unwrap_or_else(|| {
            self.keys.push(0);
            self.lists.push(Arc::default());
            (self.keys.len() - 1) as u32
        });
        let sets: Arc<[SetId]> = sets.into();
        self.keys[class as usize] = 1;
        self.list_bytes += Self::bytes_of(&sets);
        self.numbers.insert(Arc::clone(&sets), class);
        self.classes.put(class, Class::new(&sets));
        self.lists[class as usize] = sets;
        class
    }

    /// How many class numbers have been used.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// One key less has `class`.
    pub(super) fn release(&mut self, class: u32) {
        let Some(keys) = self.keys.get_mut(class as usize).filter(|keys| **keys > 0) else {
            return;
        };
        *keys -= 1;
        if *keys == 0 {
            if let Some(sets) = self.lists.get_mut(class as usize).map(std::mem::take) {
                self.list_bytes -= Self::bytes_of(&sets);
                self.numbers.remove(&sets);
            }
            self.classes.put(class, Class::default());
            self.free.push(class);
        }
    }

    /// A list, its table, and its entry in the map.
    fn bytes_of(sets: &[SetId]) -> usize {
        let table = (sets.len() * 2).next_power_of_two() * size_of::<SetId>();
        32 + size_of_val(sets) + table + 2 * size_of::<(Arc<[SetId]>, u32)>()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.list_bytes
            + self.classes.memory_bytes()
            + (self.keys.capacity() + self.free.capacity()) * size_of::<u32>()
            + self.lists.capacity() * size_of::<Arc<[SetId]>>()
    }
}
