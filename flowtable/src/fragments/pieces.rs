//! What has come of one datagram.

use super::{DropReason, Piece};

/// Fragments a datagram may have. Enough for the longest datagram in fragments of an MTU of 1500 (45 of them) and of the 1280
/// that every IPv6 link has (54); what has more is made to cost us something.
pub const MAX_PIECES: usize = 64;

/// The pieces of a datagram that have come, no two of which overlap.
#[derive(Clone, Debug)]
pub(super) struct Pieces {
    starts: [u16; MAX_PIECES],
    /// One behind the last byte.
    ends: [u16; MAX_PIECES],
    count: u8,
    /// Bytes in all pieces.
    bytes: u32,
    /// Where the datagram ends, once the last fragment has come.
    end: Option<u16>,
}

impl Pieces {
    pub(super) const NONE: Self = Self {
        starts: [0; MAX_PIECES],
        ends: [0; MAX_PIECES],
        count: 0,
        bytes: 0,
        end: None,
    };

    /// Whether `piece` may be added, and where it ends.
    pub(super) fn check(&self, piece: Piece) -> Result<u16, DropReason> {
        if piece.len == 0 {
            // No parser lets one pass. It would overlap nothing, and another first fragment would not be noticed.
            return Err(DropReason::Overlap);
        }
        let start = piece.offset;
        let end = start.checked_add(piece.len).ok_or(DropReason::TooLong)?;
        let count = usize::from(self.count);
        for (was_start, was_end) in self.starts.iter().zip(&self.ends).take(count) {
            if (start, end) == (*was_start, *was_end) {
                let was_last = self.end == Some(end);
                return Err(if was_last == piece.more {
                    DropReason::Overlap
                } else {
                    DropReason::Duplicate
                });
            }
            let overlaps = start < *was_end && *was_start < end;
            if overlaps || (!piece.more && *was_end > end) {
                return Err(DropReason::Overlap);
            }
        }
        // Another last fragment that ends where the first one did would overlap it.
        if self.end.is_some_and(|last| end > last) {
            return Err(DropReason::Overlap);
        }
        if count == MAX_PIECES {
            return Err(DropReason::TooMany);
        }
        Ok(end)
    }

    /// Adds a piece that [`Self::check`] let pass, and said to end at `end`.
    pub(super) fn add(&mut self, piece: Piece, end: u16) {
        let count = usize::from(self.count);
        let (Some(new_start), Some(new_end)) =
            (self.starts.get_mut(count), self.ends.get_mut(count))
        else {
            return;
        };
        (*new_start, *new_end) = (piece.offset, end);
        self.count += 1;
        self.bytes += u32::from(piece.len);
        if !piece.more {
            self.end = Some(end);
        }
    }

    /// Whether all of the datagram has come.
    pub(super) fn are_complete(&self) -> bool {
        // No two overlap and none leads behind the end, so that as many bytes as there are can only be all of them.
        self.end.is_some_and(|end| self.bytes == u32::from(end))
    }
}
