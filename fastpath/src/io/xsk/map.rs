//! Mappings that unmap themselves, and the kernel's rings seen as atomics.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use super::ring::{Index, RingMemory};
use super::socket::RingLen;

/// A mapping, unmapped on drop.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a `Mapping` is an address and a length. It gives no access to the memory by itself, and
// `munmap` may be called from any thread.
unsafe impl Send for Mapping {}
// SAFETY: as for `Send`: shared references only read the address and the length.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Zeroed private memory.
    pub(super) fn anonymous(len: usize) -> io::Result<Self> {
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        Self::from_mmap(start, len)
    }

    /// `len` bytes of `fd` at `offset`, shared.
    pub(super) fn of(fd: BorrowedFd<'_>, len: usize, offset: libc::off_t) -> io::Result<Self> {
        // SAFETY: a new shared mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                fd.as_raw_fd(),
                offset,
            )
        };
        Self::from_mmap(start, len)
    }

    fn from_mmap(start: *mut libc::c_void, len: usize) -> io::Result<Self> {
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast())
            .ok_or_else(|| io::Error::other("mmap returned address 0"))?;
        Ok(Self { start, len })
    }

    /// Asks for transparent huge pages. Only a hint: the kernel may refuse, and nothing depends on it.
    pub(super) fn advise_huge(&self) {
        // SAFETY: start and length are those of this live mapping; the advice changes no content.
        unsafe { libc::madvise(self.start.as_ptr().cast(), self.len, libc::MADV_HUGEPAGE) };
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: start and length are those that `mmap` returned; whoever used the memory borrowed
        // or owned this value, so nobody uses it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// What a ring's slots hold, as 64-bit words.
pub(super) trait Descriptor: Copy {
    /// 64-bit words in a slot.
    const WORDS: usize;
    /// Reads it from its words.
    fn load(words: &[AtomicU64]) -> Option<Self>;
    /// Writes it to its words.
    fn store(self, words: &[AtomicU64]);
}

/// A slot of the fill or the completion ring: an address in the packet memory.
impl Descriptor for u64 {
    const WORDS: usize = 1;

    #[inline]
    fn load(words: &[AtomicU64]) -> Option<Self> {
        words.first().map(|word| word.load(Ordering::Relaxed))
    }

    #[inline]
    fn store(self, words: &[AtomicU64]) {
        if let Some(word) = words.first() {
            word.store(self, Ordering::Relaxed);
        }
    }
}

/// A slot of the RX or the TX ring (`struct xdp_desc`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PacketDescriptor {
    /// Where the packet starts, from the start of the packet memory.
    pub(super) address: u64,
    /// Length in bytes.
    pub(super) len: u32,
    /// `XDP_PKT_CONTD`, `XDP_TX_METADATA`.
    pub(super) options: u32,
}

impl PacketDescriptor {
    /// `len` comes first in memory, `options` behind it: where that is in a word of 64 bits.
    const LEN_SHIFT: u32 = if cfg!(target_endian = "little") {
        0
    } else {
        32
    };
    const OPTIONS_SHIFT: u32 = 32 - Self::LEN_SHIFT;
}

impl Descriptor for PacketDescriptor {
    const WORDS: usize = 2;

    #[inline]
    fn load(words: &[AtomicU64]) -> Option<Self> {
        let [address, rest] = words else { return None };
        let rest = rest.load(Ordering::Relaxed);
        Some(Self {
            address: address.load(Ordering::Relaxed),
            len: (rest >> Self::LEN_SHIFT) as u32,
            options: (rest >> Self::OPTIONS_SHIFT) as u32,
        })
    }

    #[inline]
    fn store(self, words: &[AtomicU64]) {
        let [address, rest] = words else { return };
        address.store(self.address, Ordering::Relaxed);
        let fields = (u64::from(self.len) << Self::LEN_SHIFT)
            | (u64::from(self.options) << Self::OPTIONS_SHIFT);
        rest.store(fields, Ordering::Relaxed);
    }
}

/// Where a ring's parts are in its mapping, in bytes, as `XDP_MMAP_OFFSETS` says.
#[derive(Clone, Copy, Debug)]
pub(super) struct RingLayout {
    pub(super) producer: u64,
    pub(super) consumer: u64,
    pub(super) descriptors: u64,
    pub(super) flags: u64,
}

/// A ring in memory shared with the kernel.
///
/// All accesses are atomic, the slots' by relaxed words: whatever the kernel does, there is no data
/// race to reason about, and the compiled code is that of plain loads and stores.
#[derive(Debug)]
pub(super) struct MappedRing<D> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    words: NonNull<[AtomicU64]>,
    len: RingLen,
    _mapping: Mapping,
    _descriptor: PhantomData<D>,
}

// SAFETY: the pointers lead into `_mapping`, which this value owns (invariant A7); everything behind
// them is atomic.
unsafe impl<D> Send for MappedRing<D> {}

impl<D: Descriptor> MappedRing<D> {
    /// Maps the ring of `len` slots that `fd` has at `offset`.
    pub(super) fn map(
        fd: BorrowedFd<'_>,
        len: RingLen,
        layout: RingLayout,
        offset: libc::off_t,
    ) -> io::Result<Self> {
        let words = len.get() as usize * D::WORDS;
        let bytes = layout.descriptors as usize + words * size_of::<u64>();
        let mapping = Mapping::of(fd, bytes, offset)?;
        let at = |offset: u64, align: usize| {
            let offset = offset as usize;
            let inside = offset.checked_add(align).is_some_and(|end| end <= bytes);
            if !inside || !offset.is_multiple_of(align) {
                return Err(io::Error::other(
                    "XDP_MMAP_OFFSETS leads out of the ring's mapping",
                ));
            }
            // SAFETY: `offset + align <= bytes`, so the result stays in the mapping just made.
            Ok(unsafe { mapping.start().add(offset) })
        };
        let first_word = at(layout.descriptors, size_of::<u64>())?.cast::<AtomicU64>();
        Ok(Self {
            producer: at(layout.producer, size_of::<u32>())?.cast(),
            consumer: at(layout.consumer, size_of::<u32>())?.cast(),
            flags: at(layout.flags, size_of::<u32>())?.cast(),
            words: NonNull::slice_from_raw_parts(first_word, words),
            len,
            _mapping: mapping,
            _descriptor: PhantomData,
        })
    }

    fn index(&self, which: Index) -> &AtomicU32 {
        let at = match which {
            Index::Producer => self.producer,
            Index::Consumer => self.consumer,
        };
        // SAFETY: aligned and inside `_mapping`, checked in `map`; alive as long as `self` (A7).
        unsafe { at.as_ref() }
    }

    fn slot(&self, index: u32) -> &[AtomicU64] {
        // SAFETY: `descriptors .. descriptors + words * 8` lies in `_mapping`, by its size in `map`,
        // and is aligned; alive as long as `self` (A7).
        let words = unsafe { self.words.as_ref() };
        let first = (index & (self.len.get() - 1)) as usize * D::WORDS;
        words.get(first..first + D::WORDS).unwrap_or_default()
    }
}

impl<D: Descriptor> RingMemory for MappedRing<D> {
    type Descriptor = D;

    fn slots(&self) -> u32 {
        self.len.get()
    }

    #[inline]
    fn load(&self, which: Index, order: Ordering) -> u32 {
        self.index(which).load(order)
    }

    #[inline]
    fn store(&self, which: Index, value: u32, order: Ordering) {
        self.index(which).store(value, order);
    }

    #[inline]
    fn needs_wakeup(&self) -> bool {
        // The flag is read after our index is published, the kernel does it the other way round: a
        // full fence keeps the two from missing each other.
        fence(Ordering::SeqCst);
        // SAFETY: aligned and inside `_mapping`, checked in `map`; alive as long as `self` (A7).
        let flags = unsafe { self.flags.as_ref() };
        flags.load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }

    #[inline]
    fn read(&self, index: u32) -> Option<D> {
        D::load(self.slot(index))
    }

    #[inline]
    fn write(&self, index: u32, descriptor: D) {
        descriptor.store(self.slot(index));
    }
}
