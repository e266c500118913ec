//! The two sides of an AF_XDP ring, over any memory.
//!
//! A ring has one producer and one consumer, each with a free-running 32-bit index. We are the
//! producer of the fill and TX rings, the kernel of the completion and RX rings. Each side owns the
//! slots that the other has released to it:
//!
//! - the producer reads the consumer's index with Acquire (what the consumer has read is read), writes
//!   the slots, then stores its own index with Release;
//! - the consumer reads the producer's index with Acquire (what is announced is written), reads the
//!   slots, then stores its own index with Release.
//!
//! Both keep a copy of the other's index and look again only when it does not suffice, because that
//! cache line is the one the two cores fight over.

use std::sync::atomic::Ordering;

/// Which of the two indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Index {
    /// Written by the producer only.
    Producer,
    /// Written by the consumer only.
    Consumer,
}

/// Where a ring lives: its two indices, its flags and its slots.
pub trait RingMemory {
    /// What a slot holds.
    type Descriptor: Copy;

    /// How many slots: a power of two.
    fn slots(&self) -> u32;
    /// Reads an index.
    fn load(&self, which: Index, order: Ordering) -> u32;
    /// Writes an index.
    fn store(&self, which: Index, value: u32, order: Ordering);
    /// True when the kernel asks to be woken for this ring. Read after publishing.
    fn needs_wakeup(&self) -> bool;
    /// Reads the slot of a free-running index (taken modulo the length).
    fn read(&self, index: u32) -> Option<Self::Descriptor>;
    /// Writes the slot of a free-running index (taken modulo the length).
    fn write(&self, index: u32, descriptor: Self::Descriptor);
}

/// The producer's side: stage with [`push`](Self::push), then [`publish`](Self::publish).
#[derive(Debug)]
pub struct Producer<M> {
    memory: M,
    /// Next slot to write.
    next: u32,
    /// What the consumer may read up to.
    published: u32,
    /// The consumer's index when last looked at.
    consumed: u32,
}

impl<M: RingMemory> Producer<M> {
    /// Takes the producer's side of `memory`, wherever its indices stand.
    pub fn new(memory: M) -> Self {
        let next = memory.load(Index::Producer, Ordering::Relaxed);
        let consumed = memory.load(Index::Consumer, Ordering::Acquire);
        Self {
            memory,
            next,
            published: next,
            consumed,
        }
    }

    /// Slots of the ring.
    pub fn slots(&self) -> u32 {
        self.memory.slots()
    }

    /// Free slots. Looks at the consumer's index only if fewer than `wanted` are known to be free.
    #[inline]
    pub fn room(&mut self, wanted: u32) -> u32 {
        let known = self.known_room();
        if known >= wanted {
            return known;
        }
        self.consumed = self.memory.load(Index::Consumer, Ordering::Acquire);
        self.known_room()
    }

    #[inline]
    fn known_room(&self) -> u32 {
        // Saturating: an index that the kernel never set makes the ring full, not larger than it is.
        self.memory
            .slots()
            .saturating_sub(self.next.wrapping_sub(self.consumed))
    }

    /// Writes one slot without showing it yet; false if the ring is full.
    #[inline]
    pub fn push(&mut self, descriptor: M::Descriptor) -> bool {
        if self.room(1) == 0 {
            return false;
        }
        self.memory.write(self.next, descriptor);
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Slots written and not yet published.
    #[inline]
    pub fn staged(&self) -> u32 {
        self.next.wrapping_sub(self.published)
    }

    /// Shows all staged slots to the consumer; returns how many.
    #[inline]
    pub fn publish(&mut self) -> u32 {
        let staged = self.staged();
        if staged != 0 {
            self.memory
                .store(Index::Producer, self.next, Ordering::Release);
            self.published = self.next;
        }
        staged
    }

    /// Slots published that the consumer has not taken yet.
    #[inline]
    pub fn unconsumed(&mut self) -> u32 {
        self.consumed = self.memory.load(Index::Consumer, Ordering::Acquire);
        self.published
            .wrapping_sub(self.consumed)
            .min(self.memory.slots())
    }

    /// True when the consumer asks for a system call to go on.
    #[inline]
    pub fn needs_wakeup(&self) -> bool {
        self.memory.needs_wakeup()
    }
}

/// The consumer's side: [`pop`](Self::pop) slots, then [`release`](Self::release) them.
#[derive(Debug)]
pub struct Consumer<M> {
    memory: M,
    /// Next slot to read.
    next: u32,
    /// What the producer may write up to.
    released: u32,
    /// The producer's index when last looked at.
    produced: u32,
}

impl<M: RingMemory> Consumer<M> {
    /// Takes the consumer's side of `memory`, wherever its indices stand.
    pub fn new(memory: M) -> Self {
        let next = memory.load(Index::Consumer, Ordering::Relaxed);
        let produced = memory.load(Index::Producer, Ordering::Acquire);
        Self {
            memory,
            next,
            released: next,
            produced,
        }
    }

    /// Slots of the ring.
    pub fn slots(&self) -> u32 {
        self.memory.slots()
    }

    /// Slots to read. Looks at the producer's index only if fewer than `wanted` are known.
    #[inline]
    pub fn available(&mut self, wanted: u32) -> u32 {
        let known = self.known();
        if known >= wanted {
            return known;
        }
        self.produced = self.memory.load(Index::Producer, Ordering::Acquire);
        self.known()
    }

    #[inline]
    fn known(&self) -> u32 {
        // A distance over the ring's length is no distance the kernel could have made.
        let distance = self.produced.wrapping_sub(self.next);
        if distance > self.memory.slots() {
            0
        } else {
            distance
        }
    }

    /// Reads the next slot; it stays ours until [`release`](Self::release).
    #[inline]
    pub fn pop(&mut self) -> Option<M::Descriptor> {
        if self.available(1) == 0 {
            return None;
        }
        let descriptor = self.memory.read(self.next)?;
        self.next = self.next.wrapping_add(1);
        Some(descriptor)
    }

    /// Gives all popped slots back to the producer; returns how many.
    #[inline]
    pub fn release(&mut self) -> u32 {
        let popped = self.next.wrapping_sub(self.released);
        if popped != 0 {
            self.memory
                .store(Index::Consumer, self.next, Ordering::Release);
            self.released = self.next;
        }
        popped
    }
}

#[cfg(test)]
mod tests;
