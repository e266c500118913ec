//! Big-endian reads at an offset that never panic.

/// The `N` bytes at `offset`, if all of them are there.
#[inline]
pub(crate) fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> Option<&[u8; N]> {
    bytes.get(offset..)?.first_chunk()
}

/// The big-endian 16-bit word at `offset`.
#[inline]
pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    array_at(bytes, offset).map(|b| u16::from_be_bytes(*b))
}

/// Writes bytes at `offset`; false if they do not fit.
#[inline]
pub(crate) fn put<const N: usize>(bytes: &mut [u8], offset: usize, value: [u8; N]) -> bool {
    let Some(room) = bytes.get_mut(offset..).and_then(<[u8]>::first_chunk_mut) else {
        return false;
    };
    *room = value;
    true
}

/// Writes a big-endian 16-bit word; false if it does not fit.
#[inline]
pub(crate) fn put_u16(bytes: &mut [u8], offset: usize, value: u16) -> bool {
    put(bytes, offset, value.to_be_bytes())
}

/// Writes a big-endian 32-bit number; false if it does not fit.
#[inline]
pub(crate) fn put_u32(bytes: &mut [u8], offset: usize, value: u32) -> bool {
    put(bytes, offset, value.to_be_bytes())
}

/// The big-endian 32-bit number at `offset`.
#[inline]
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    array_at(bytes, offset).map(|b| u32::from_be_bytes(*b))
}

/// Fills a fixed room from its start, piece by piece; what goes beyond it is left out.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    room: &'a mut [u8],
    len: usize,
}

impl<'a> Writer<'a> {
    pub(crate) const fn new(room: &'a mut [u8]) -> Self {
        Self { room, len: 0 }
    }

    /// Adds `bytes`; None if they do not fit.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.len.checked_add(bytes.len())?;
        self.room.get_mut(self.len..end)?.copy_from_slice(bytes);
        self.len = end;
        Some(())
    }

    /// What has been written, and where writing goes on.
    pub(crate) fn written(self) -> &'a mut [u8] {
        let len = self.len;
        self.room.get_mut(..len).unwrap_or_default()
    }
}
