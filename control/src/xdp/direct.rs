//! The endpoints' slots once more, in an array that the program reads without a call (`direct` in `xdp/pod.bpf.c`).

use aya::maps::{Array, MapData, MapError};

/// The most places: half a megabyte.
const MOST: u32 = 1 << 16;

/// The array. Written by control alone, read by the program on every frame of an endpoint.
pub(super) struct DirectSlots {
    map: Array<MapData, u64>,
    mask: u32,
}

impl DirectSlots {
    /// How many places an array for `max_endpoints` devices has: a power of two, and four a device, since the indexes
    /// of pods that came and went leave gaps.
    pub(super) fn places(max_endpoints: u32) -> u32 {
        max_endpoints.clamp(1, MOST / 4).next_power_of_two() * 4
    }

    /// `map` has [`places`](Self::places) for `max_endpoints`, all empty.
    pub(super) fn new(map: Array<MapData, u64>, max_endpoints: u32) -> Self {
        Self {
            map,
            mask: Self::places(max_endpoints) - 1,
        }
    }

    /// Notes the slot of a device, unless another device has its place.
    pub(super) fn insert(&mut self, ifindex: u32, slot: u32) -> Result<(), MapError> {
        let place = ifindex & self.mask;
        if self.map.get(&place, 0)? == 0 {
            self.map.set(place, entry(ifindex, slot), 0)?;
        }
        Ok(())
    }

    /// Forgets a device, whether it had a place or not.
    pub(super) fn remove(&mut self, ifindex: u32) -> Result<(), MapError> {
        let place = ifindex & self.mask;
        if self.map.get(&place, 0)? >> 32 == u64::from(ifindex) {
            self.map.set(place, 0, 0)?;
        }
        Ok(())
    }
}

/// One word, so that the program sees all of it or nothing.
fn entry(ifindex: u32, slot: u32) -> u64 {
    (u64::from(ifindex) << 32) | u64::from(slot + 1)
}
