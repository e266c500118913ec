//! The packet memory, and who may touch which chunk of it.
//!
//! A [`UmemArea`] is one anonymous mapping, cut into chunks of one size. It is split for ever into
//! [`ArenaPart`]s, one a poller, each with the chunks `first..first + len`. A part knows where each of
//! its chunks is (`Place`): free, held by our code, with a socket's receive side (fill ring, kernel,
//! RX ring), with a socket's send side (TX ring, kernel, completion ring), or in quarantine.
//!
//! ```text
//!          alloc                    send                   reap
//!   Free --------> Held ----------------------> Sending --------> Free
//!    |              ^                                               |
//!    |  refill      |  recv                                         |
//!    +--------> Receiving                       close, wait: Quarantined -> Free
//! ```
//!
//! # Invariants
//!
//! The unsafe code of `io::xsk` rests on these.
//!
//! - **A1** A chunk belongs to exactly one part: parts are made once, by splitting, with disjoint
//!   ranges; a part is neither `Clone` nor `Sync`.
//! - **A2** Code reads or writes a chunk's bytes only while the chunk is `Held`, and only through
//!   `&mut ArenaPart`; so there is at most one reference to a chunk.
//! - **A3** A chunk's address gets into a ring only by `ArenaPart::lend_to_fill` or
//!   `ArenaPart::lend_to_tx`, which take it out of `Free` or `Held` first. So the kernel never has a
//!   chunk that is `Free` or `Held`.
//! - **A4** A chunk comes back from a ring only if the record says that this very socket has it; any
//!   other descriptor is counted and ignored. So a wrong descriptor cannot make a chunk `Held` while
//!   another ring has it.
//! - **A5** The chunks of a closed socket become `Free` only after its rings are unmapped, its
//!   descriptor is closed (only [`XskSocket::close`](super::XskSocket::close) makes the
//!   [`ClosedSocket`] that proves it; the poller has its [`WaitSet`](super::wait::WaitSet) let go of it before) and [`QUARANTINE`] has passed, since a driver in zero-copy mode
//!   stops its queue later than `close` returns.
//! - **A6** The mapping outlives all parts and sockets: each holds an `Arc` of it. The kernel holds the
//!   pages themselves, so that it could never write into memory that was given to somebody else.
//! - **A7** A ring's pointers lead into a mapping that the same value owns, at offsets that were
//!   checked when it was made.
#![expect(
    clippy::disallowed_types,
    reason = "sockets are opened and closed under a lock; packets never meet it"
)]

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::XskError;
use super::map::Mapping;
use super::socket::{BoundSocket, ClosedSocket};

/// How long the chunks of a closed socket stay out of use (invariant A5).
pub const QUARANTINE: Duration = Duration::from_secs(1);

/// A frame in the packet memory: `len` bytes at `start` in chunk number `chunk`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameSpan {
    /// Number of the chunk in the area.
    pub chunk: u32,
    /// Offset of the first byte in the chunk; the room before it is headroom.
    pub start: u16,
    /// Length in bytes.
    pub len: u16,
}

/// The packet memory of the process (a UMEM). Cheap to clone: a handle.
#[derive(Clone, Debug)]
pub struct UmemArea {
    inner: Arc<AreaInner>,
}

#[derive(Debug)]
pub(super) struct AreaInner {
    memory: Mapping,
    chunk_size: u32,
    chunks: u32,
    /// Sockets bound to this memory: any of them can be shared with. Held while sharing and while
    /// closing, so that a socket is not closed between choosing it and binding to it.
    bound: Mutex<Vec<BoundSocket>>,
}

impl UmemArea {
    /// Maps memory for `shares.iter().sum()` chunks of `chunk_size` bytes and splits it: part `k` gets
    /// `shares[k]` chunks.
    ///
    /// `chunk_size` is 2048 or 4096 (an AF_XDP limit: a power of two, at most a page). With `huge` the
    /// kernel is asked for transparent huge pages; it may refuse, and nothing depends on it.
    ///
    /// # Errors
    ///
    /// [`XskError::Arena`] for another chunk size or no chunks, [`XskError::OutOfMemory`] when the
    /// mapping fails.
    pub fn new(
        shares: &[u32],
        chunk_size: u32,
        huge: bool,
    ) -> Result<(Self, Vec<ArenaPart>), XskError> {
        let total: u64 = shares.iter().map(|&share| u64::from(share)).sum();
        if !matches!(chunk_size, 2048 | 4096) {
            return Err(XskError::Arena {
                chunks: total,
                chunk_size,
            });
        }
        let chunks = match u32::try_from(total) {
            Ok(chunks) if chunks != 0 => chunks,
            Ok(_) | Err(_) => {
                return Err(XskError::Arena {
                    chunks: total,
                    chunk_size,
                });
            }
        };
        let bytes = total * u64::from(chunk_size);
        let memory = Mapping::anonymous(bytes as usize)
            .map_err(|source| XskError::OutOfMemory { bytes, source })?;
        if huge {
            memory.advise_huge();
        }
        let area = Self {
            inner: Arc::new(AreaInner {
                memory,
                chunk_size,
                chunks,
                bound: Mutex::default(),
            }),
        };
        let mut first = 0;
        let parts = shares
            .iter()
            .map(|&len| {
                let part = ArenaPart::new(Arc::clone(&area.inner), first, len);
                first += len;
                part
            })
            .collect();
        Ok((area, parts))
    }

    /// Bytes of a chunk.
    pub fn chunk_size(&self) -> u32 {
        self.inner.chunk_size
    }

    /// Chunks in all parts together.
    pub fn chunks(&self) -> u32 {
        self.inner.chunks
    }

    /// Sockets bound to this memory now.
    pub fn bound_sockets(&self) -> usize {
        self.inner.bound().len()
    }

    pub(super) fn inner(&self) -> &Arc<AreaInner> {
        &self.inner
    }
}

impl AreaInner {
    pub(super) fn bound(&self) -> MutexGuard<'_, Vec<BoundSocket>> {
        // The list is pushed to and removed from, nothing in between can panic: a poisoned lock still
        // guards a whole list.
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn registration(&self) -> libc::xdp_umem_reg {
        libc::xdp_umem_reg {
            addr: self.memory.start().as_ptr() as u64,
            len: self.memory.len() as u64,
            chunk_size: self.chunk_size,
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.memory.len() as u64
    }
}

/// Number of a socket within its part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(u16);

/// Which part, over all areas of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PartId(u64);

/// Where a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Free,
    Held,
    Receiving(Slot),
    Sending(Slot),
    Quarantined(Slot),
}

/// A `Place` in two bytes, since there is one for each chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PackedPlace(u16);

impl Place {
    const FREE: PackedPlace = PackedPlace(0);
    const HELD: PackedPlace = PackedPlace(1);
    /// Sockets that a part can tell apart: three places each, two for the rest.
    const SLOTS: u16 = (u16::MAX - 1) / 3;

    #[inline]
    const fn pack(self) -> PackedPlace {
        match self {
            Self::Free => Self::FREE,
            Self::Held => Self::HELD,
            Self::Receiving(Slot(slot)) => PackedPlace(2 + slot * 3),
            Self::Sending(Slot(slot)) => PackedPlace(3 + slot * 3),
            Self::Quarantined(Slot(slot)) => PackedPlace(4 + slot * 3),
        }
    }

    const fn unpack(PackedPlace(packed): PackedPlace) -> Self {
        match packed {
            0 => Self::Free,
            1 => Self::Held,
            _ => {
                let slot = Slot((packed - 2) / 3);
                match (packed - 2) % 3 {
                    0 => Self::Receiving(slot),
                    1 => Self::Sending(slot),
                    _ => Self::Quarantined(slot),
                }
            }
        }
    }
}

/// What a socket slot of a part is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlotUse {
    Unused,
    Open,
    Quarantined { until: Instant },
}

/// Descriptors that could not be true, each counted and otherwise ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Anomalies {
    /// Received descriptors for a chunk that the socket did not have.
    pub foreign_rx: u64,
    /// Received descriptors that reach over their chunk's end, or continue in another chunk.
    pub malformed_rx: u64,
    /// Completions for a chunk that the socket was not sending.
    pub foreign_completion: u64,
    /// Frames of our own code that name a chunk it does not hold, or that reach over its end.
    pub misuse: u64,
}

/// Where all chunks of a part are: the five add up to the part's length, always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accounting {
    /// On the free list.
    pub free: u32,
    /// With our code.
    pub held: u32,
    /// In fill rings, with the kernel, or in RX rings.
    pub receiving: u32,
    /// In TX rings, with the kernel, or in completion rings.
    pub sending: u32,
    /// Of closed sockets, not free yet.
    pub quarantined: u32,
}

impl Accounting {
    /// The sum of all.
    pub fn total(&self) -> u32 {
        self.free + self.held + self.receiving + self.sending + self.quarantined
    }
}

/// How one part is shared out; see `ArenaPart::share_of`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Chunks with the socket's receive side.
    pub receiving: u32,
    /// Chunks with the socket's send side.
    pub sending: u32,
}

/// One poller's exclusive share of the packet memory: its chunks, its free list, its record of where
/// each chunk is.
///
/// `Send`, so that it can be made by one thread and used by another; neither `Sync` nor `Clone`:
///
/// ```compile_fail,E0277
/// fn shared<T: Sync>() {}
/// shared::<fastpath::io::xsk::ArenaPart>();
/// ```
#[derive(Debug)]
pub struct ArenaPart {
    area: Arc<AreaInner>,
    id: PartId,
    first: u32,
    places: Box<[PackedPlace]>,
    /// Last in, first out: the chunk that was just freed is the one still in the cache.
    free: Vec<u32>,
    counts: Accounting,
    /// Chunks for sockets that are busy, beyond what each has at rest.
    extra: u32,
    slots: Vec<SlotUse>,
    anomalies: Anomalies,
    /// Not `Sync`: the chunks' bytes are reached without any lock (invariant A1).
    _not_sync: PhantomData<Cell<()>>,
}

impl ArenaPart {
    fn new(area: Arc<AreaInner>, first: u32, len: u32) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        Self {
            area,
            id: PartId(NEXT_ID.fetch_add(1, Ordering::Relaxed)),
            first,
            places: vec![Place::FREE; len as usize].into_boxed_slice(),
            // Reversed, so that the first chunks go out first.
            free: (first..first + len).rev().collect(),
            counts: Accounting {
                free: len,
                ..Accounting::default()
            },
            extra: 0,
            slots: Vec::new(),
            anomalies: Anomalies::default(),
            _not_sync: PhantomData,
        }
    }

    /// Sets how many chunks sockets that are busy may have together, beyond what each has at rest
    /// ([`SocketOptions::at_rest`](super::SocketOptions::at_rest)). 0 unless set. Before the part serves any.
    pub fn set_extra(&mut self, chunks: u32) {
        self.extra = chunks;
    }

    /// What is left of them.
    #[inline]
    pub(super) fn extra(&mut self) -> &mut u32 {
        &mut self.extra
    }

    /// Chunks of this part.
    pub fn len(&self) -> u32 {
        self.places.len() as u32
    }

    /// True for a part without chunks.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Bytes of a chunk.
    #[inline]
    pub fn chunk_size(&self) -> u32 {
        self.area.chunk_size
    }

    /// Chunks on the free list.
    #[inline]
    pub fn available(&self) -> u32 {
        self.counts.free
    }

    /// Takes a free chunk; its bytes are whatever they were.
    #[inline]
    pub fn alloc(&mut self) -> Option<u32> {
        let chunk = self.pop_free()?;
        self.set_place(chunk, Place::Held);
        self.counts.held += 1;
        Some(chunk)
    }

    /// Gives a held chunk back. A chunk that is not held is left where it is and counted in
    /// [`Anomalies::misuse`].
    #[inline]
    pub fn release(&mut self, chunk: u32) {
        if self.place(chunk) == Some(Place::HELD) {
            self.counts.held -= 1;
            self.push_free(chunk);
        } else {
            self.misuse();
        }
    }

    /// The bytes of a held chunk; an empty slice for a chunk that is not held by us, which is counted
    /// in [`Anomalies::misuse`].
    #[inline]
    pub fn chunk(&mut self, chunk: u32) -> &mut [u8] {
        if self.place(chunk) != Some(Place::HELD) {
            self.misuse();
            return &mut [];
        }
        let size = self.area.chunk_size as usize;
        // SAFETY: the chunk is one of this part's, so `chunk < area.chunks` and the offset is inside
        // the mapping of `chunks * chunk_size` bytes.
        let start = unsafe { self.area.memory.start().add(chunk as usize * size) };
        // SAFETY: `size` bytes from there lie in the mapping, which lives as long as `self.area` (A6);
        // they are initialised (the kernel zeroes new pages). The chunk is held: no ring has it (A3),
        // no other part (A1), and `&mut self` keeps our own code from a second reference (A2).
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), size) }
    }

    /// The bytes of a frame; an empty slice if its chunk is not held by us or it leads out of it.
    #[inline]
    pub fn frame(&mut self, frame: FrameSpan) -> &mut [u8] {
        let start = usize::from(frame.start);
        self.chunk(frame.chunk)
            .get_mut(start..start + usize::from(frame.len))
            .unwrap_or_default()
    }

    /// Starts loading the cache line at `offset` of `chunk`. Any argument is harmless.
    #[inline]
    pub fn prefetch(&self, chunk: u32, offset: u16) {
        #[cfg(target_arch = "x86_64")]
        {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let at = chunk as usize * self.area.chunk_size as usize + usize::from(offset);
            let line = self.area.memory.start().as_ptr().wrapping_add(at);
            // SAFETY: a prefetch reads nothing as far as the program can see, and faults on no address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast::<i8>()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (chunk, offset);
    }

    /// Where the part's chunks are, by the running counts.
    #[inline]
    pub fn accounting(&self) -> Accounting {
        self.counts
    }

    /// Where the part's chunks are, by looking at each. For tests and for slow timers.
    pub fn recount(&self) -> Accounting {
        let mut counts = Accounting::default();
        for &packed in &self.places {
            match Place::unpack(packed) {
                Place::Free => counts.free += 1,
                Place::Held => counts.held += 1,
                Place::Receiving(_) => counts.receiving += 1,
                Place::Sending(_) => counts.sending += 1,
                Place::Quarantined(_) => counts.quarantined += 1,
            }
        }
        counts
    }

    /// True when the running counts, the free list and the record of places agree and nothing is lost.
    pub fn is_balanced(&self) -> bool {
        let counts = self.recount();
        counts == self.counts
            && counts.total() == self.len()
            && self.free.len() == counts.free as usize
    }

    /// What could not be true so far.
    pub fn anomalies(&self) -> Anomalies {
        self.anomalies
    }

    /// Puts the chunks that a closed socket had into quarantine, from which [`reclaim`](Self::reclaim)
    /// frees them after [`QUARANTINE`]. A socket that no port of this part used changes nothing.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "used once: a second time, the slot may be another socket's"
    )]
    pub fn quarantine(&mut self, closed: ClosedSocket, now: Instant) {
        let Some((part, slot)) = closed.attachment() else {
            return;
        };
        if part != self.id {
            return self.misuse();
        }
        for at in &mut self.places {
            let count = match Place::unpack(*at) {
                Place::Receiving(of) if of == slot => &mut self.counts.receiving,
                Place::Sending(of) if of == slot => &mut self.counts.sending,
                _ => continue,
            };
            *count -= 1;
            self.counts.quarantined += 1;
            *at = Place::Quarantined(slot).pack();
        }
        if let Some(used) = self.slots.get_mut(usize::from(slot.0)) {
            *used = SlotUse::Quarantined {
                until: now + QUARANTINE,
            };
        }
    }

    /// Frees the chunks whose quarantine is over; returns how many. Cheap when there is none.
    pub fn reclaim(&mut self, now: Instant) -> u32 {
        let before = self.counts.free;
        for number in 0..self.slots.len() {
            let Some(used) = self.slots.get_mut(number) else {
                break;
            };
            if !matches!(*used, SlotUse::Quarantined { until } if until <= now) {
                continue;
            }
            *used = SlotUse::Unused;
            let gone = Place::Quarantined(Slot(number as u16)).pack();
            for at in 0..self.places.len() {
                if self.places.get(at) == Some(&gone) {
                    self.counts.quarantined -= 1;
                    self.push_free(self.first + at as u32);
                }
            }
        }
        self.counts.free - before
    }

    pub(super) fn id(&self) -> PartId {
        self.id
    }

    pub(super) fn area(&self) -> &Arc<AreaInner> {
        &self.area
    }

    /// A number for a new socket of this part; `None` when too many are open or in quarantine.
    pub(super) fn open_slot(&mut self) -> Option<Slot> {
        let mut slots = self.slots.iter_mut().enumerate();
        if let Some((number, slot)) = slots.find(|(_, used)| **used == SlotUse::Unused) {
            *slot = SlotUse::Open;
            return Some(Slot(number as u16));
        }
        let slot = u16::try_from(self.slots.len())
            .ok()
            .filter(|&number| number < Place::SLOTS)?;
        self.slots.push(SlotUse::Open);
        Some(Slot(slot))
    }

    /// Takes a free chunk for a socket's fill ring; returns its address.
    #[inline]
    pub(super) fn lend_to_fill(&mut self, slot: Slot) -> Option<u64> {
        let chunk = self.pop_free()?;
        self.set_place(chunk, Place::Receiving(slot));
        self.counts.receiving += 1;
        Some(u64::from(chunk) * u64::from(self.area.chunk_size))
    }

    /// A packet came out of a socket's RX ring: its chunk is held now.
    #[inline]
    pub(super) fn take_received(
        &mut self,
        slot: Slot,
        address: u64,
        len: u32,
        options: u32,
    ) -> Option<FrameSpan> {
        let (chunk, start) = self.locate(address);
        if self.place(chunk) != Some(Place::Receiving(slot).pack()) {
            self.anomalies.foreign_rx += 1;
            return None;
        }
        self.counts.receiving -= 1;
        if u64::from(start) + u64::from(len) > u64::from(self.area.chunk_size)
            || options & libc::XDP_PKT_CONTD != 0
        {
            self.anomalies.malformed_rx += 1;
            self.push_free(chunk);
            return None;
        }
        self.set_place(chunk, Place::Held);
        self.counts.held += 1;
        Some(FrameSpan {
            chunk,
            start: start as u16,
            len: len as u16,
        })
    }

    /// Takes a held frame for a socket's TX ring; returns its address, `None` if it is no frame of ours.
    #[inline]
    pub(super) fn lend_to_tx(&mut self, slot: Slot, frame: FrameSpan) -> Option<u64> {
        let end = u32::from(frame.start) + u32::from(frame.len);
        if self.place(frame.chunk) != Some(Place::HELD) || end > self.area.chunk_size {
            self.misuse();
            return None;
        }
        self.set_place(frame.chunk, Place::Sending(slot));
        self.counts.held -= 1;
        self.counts.sending += 1;
        Some(u64::from(frame.chunk) * u64::from(self.area.chunk_size) + u64::from(frame.start))
    }

    /// An address came out of a socket's completion ring: its chunk is free now. False if it is no
    /// chunk that the socket was sending.
    #[inline]
    pub(super) fn take_completed(&mut self, slot: Slot, address: u64) -> bool {
        let (chunk, _) = self.locate(address);
        if self.place(chunk) != Some(Place::Sending(slot).pack()) {
            self.anomalies.foreign_completion += 1;
            return false;
        }
        self.counts.sending -= 1;
        self.push_free(chunk);
        true
    }

    /// How many chunks the socket in `slot` has, by looking at each.
    pub(super) fn share_of(&self, slot: Slot) -> Share {
        let count =
            |place: Place| self.places.iter().filter(|&&at| at == place.pack()).count() as u32;
        Share {
            receiving: count(Place::Receiving(slot)),
            sending: count(Place::Sending(slot)),
        }
    }

    pub(super) fn misuse(&mut self) {
        self.anomalies.misuse += 1;
    }

    /// Splits an address into chunk and offset. An address outside the area gives a chunk of no part.
    #[inline]
    fn locate(&self, address: u64) -> (u32, u32) {
        let size = u64::from(self.area.chunk_size);
        let chunk = u32::try_from(address / size).unwrap_or(u32::MAX);
        (chunk, (address % size) as u32)
    }

    #[inline]
    fn place(&self, chunk: u32) -> Option<PackedPlace> {
        self.places
            .get(chunk.wrapping_sub(self.first) as usize)
            .copied()
    }

    #[inline]
    fn set_place(&mut self, chunk: u32, place: Place) {
        if let Some(at) = self.places.get_mut(chunk.wrapping_sub(self.first) as usize) {
            *at = place.pack();
        }
    }

    #[inline]
    fn pop_free(&mut self) -> Option<u32> {
        let chunk = self.free.pop()?;
        self.counts.free -= 1;
        Some(chunk)
    }

    #[inline]
    fn push_free(&mut self, chunk: u32) {
        self.set_place(chunk, Place::Free);
        self.counts.free += 1;
        // Within capacity: the list was made with all chunks of the part on it.
        self.free.push(chunk);
    }
}

impl From<XskError> for io::Error {
    fn from(error: XskError) -> Self {
        Self::other(error)
    }
}

#[cfg(test)]
mod tests;
