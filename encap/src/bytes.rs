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

/// Writes a big-endian 16-bit word; false if it does not fit.
#[inline]
pub(crate) fn put_u16(bytes: &mut [u8], offset: usize, value: u16) -> bool {
    let Some(room) = bytes.get_mut(offset..).and_then(<[u8]>::first_chunk_mut) else {
        return false;
    };
    *room = value.to_be_bytes();
    true
}
