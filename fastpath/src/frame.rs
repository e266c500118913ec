//! A frame: the right to use one chunk of the arena.

/// One packet buffer: a chunk of the arena and the bytes of it that are in use.
///
/// A frame is owned: it is neither `Clone` nor `Copy`, and whoever holds it must hand it on
/// ([`send`](crate::io::PacketIo::send)), give it back ([`free`](crate::io::PacketIo::free)) or keep it.
/// That makes "each chunk has one owner" a matter of types, up to the arena's edge.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    /// Index of the chunk in the arena.
    pub chunk: u32,
    /// Where the packet's first byte lies in the chunk, in bytes.
    pub start: u16,
    /// Length of the packet, in bytes.
    pub len: u16,
}

impl Frame {
    /// Stands where a frame was taken from; names no chunk.
    pub const NONE: Self = Self {
        chunk: u32::MAX,
        start: 0,
        len: 0,
    };

    /// Takes the frame out, leaving [`Frame::NONE`].
    #[must_use]
    pub const fn take(&mut self) -> Self {
        core::mem::replace(self, Self::NONE)
    }

    /// Whether this names no chunk.
    pub const fn is_none(&self) -> bool {
        self.chunk == u32::MAX
    }

    /// The packet's bytes within its chunk. Empty when the frame does not fit the chunk.
    #[inline]
    pub fn of<'a>(&self, chunk: &'a mut [u8]) -> &'a mut [u8] {
        let start = usize::from(self.start);
        match chunk.get_mut(start..start + usize::from(self.len)) {
            Some(bytes) => bytes,
            None => no_bytes(),
        }
    }

    /// From the packet's first byte to the end of its chunk: where it may grow. Empty as [`Frame::of`] is.
    pub fn room<'a>(&self, chunk: &'a mut [u8]) -> &'a mut [u8] {
        let start = usize::from(self.start);
        match chunk.get_mut(start..) {
            Some(room) if room.len() >= usize::from(self.len) => room,
            Some(_) | None => no_bytes(),
        }
    }
}

/// What there is where nothing is. A call, and a cold one, so that a branch leads here and the hot path chooses nothing.
#[cold]
#[inline(never)]
pub(crate) const fn no_bytes<'a>() -> &'a mut [u8] {
    &mut []
}
