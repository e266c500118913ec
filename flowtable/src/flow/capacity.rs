//! How large a table is.

use super::tags::LINE_SLOTS;

/// How many entries a table has: a power of two, from 1,024 to 2^30. A connection takes two.
///
/// Give it twice the entries that are expected at most: at half the load hardly any key is away from its
/// home word, and above 0.8 the first inserts are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity(usize);

/// Why a number is not a capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} entries: a flow table has a power of two of them, from {min} to {max}", min = Capacity::MIN.0, max = Capacity::MAX.0)]
pub struct CapacityError(usize);

impl Capacity {
    /// The smallest table.
    pub const MIN: Self = Self(if cfg!(loom) { LINE_SLOTS } else { 1 << 10 });

    /// The largest table.
    pub const MAX: Self = Self(1 << 30);

    /// A table of `entries` entries.
    ///
    /// # Errors
    /// Not a power of two from [`Capacity::MIN`] to [`Capacity::MAX`].
    pub const fn new(entries: usize) -> Result<Self, CapacityError> {
        if entries.is_power_of_two() && entries >= Self::MIN.0 && entries <= Self::MAX.0 {
            return Ok(Self(entries));
        }
        Err(CapacityError(entries))
    }

    /// The number of entries.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0
    }
}
