//! Going over a map of the kernel, many elements with one system call.

use std::io;

use aya::Ebpf;
use aya::maps::Map;

use super::error::LoadError;
use super::sys::{self, Elements};

/// Goes over the elements of a hash map, in the order of its buckets. An element stays in its bucket, and the kernel copies a bucket in one
/// piece: what is there all the time is met once.
pub(super) struct Walk<const KEY: usize, const VALUE: usize> {
    elements: Elements<KEY, VALUE>,
    /// Room for as many as are copied at once; none before the first time.
    keys: Vec<[u8; KEY]>,
    values: Vec<[u8; VALUE]>,
    room: usize,
}

impl<const KEY: usize, const VALUE: usize> Walk<KEY, VALUE> {
    /// Over a map of `ebpf` that nobody has taken yet, with room for so many elements at first.
    pub(super) fn over(ebpf: &Ebpf, name: &'static str, room: usize) -> Result<Self, LoadError> {
        let Some(Map::HashMap(map)) = ebpf.map(name) else {
            return Err(LoadError::BadObject(name));
        };
        let elements = Elements::of(map.fd());
        Ok(Self {
            elements: elements.map_err(|_| LoadError::BadObject(name))?,
            keys: Vec::new(),
            values: Vec::new(),
            room: room.max(1),
        })
    }

    /// The values of the next elements, and where it goes on, if there may be more. It begins with `None`.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(super) fn next(&mut self, from: Option<u32>) -> io::Result<(&[[u8; VALUE]], Option<u32>)> {
        let sys::Copied { count, next } = loop {
            self.keys.resize(self.room, [0; KEY]);
            self.values.resize(self.room, [0; VALUE]);
            match self.elements.copy(from, &mut self.keys, &mut self.values) {
                // A bucket is copied whole, or not at all.
                Err(error)
                    if error.raw_os_error() == Some(libc::ENOSPC)
                        && self.room < self.elements.most() =>
                {
                    self.room = self.room.saturating_mul(2);
                }
                copied => break copied?,
            }
        };
        Ok((self.values.get(..count).unwrap_or_default(), next))
    }
}

#[cfg(test)]
impl<const KEY: usize, const VALUE: usize> Walk<KEY, VALUE> {
    pub(super) const fn room(&self) -> usize {
        self.room
    }

    pub(super) const fn set_room(&mut self, room: usize) {
        self.room = room;
    }
}

#[cfg(test)]
mod tests {
    use aya::EbpfLoader;
    use fastpath::io::xsk::test_support::skipped_without_root;

    use super::*;
    use crate::xdp::object;

    #[test]
    fn only_a_hash_map_of_such_elements_is_gone_over() {
        if skipped_without_root("only_a_hash_map_of_such_elements_is_gone_over") {
            return;
        }
        let ebpf = EbpfLoader::new().load(object::FLOW).expect("maps");
        assert!(Walk::<16, 192>::over(&ebpf, "flows4", 1).is_ok());
        // More than it has would be written.
        assert!(Walk::<8, 192>::over(&ebpf, "flows4", 1).is_err());
        assert!(Walk::<16, 184>::over(&ebpf, "flows4", 1).is_err());
        assert!(Walk::<16, 192>::over(&ebpf, "flows6", 1).is_err());
        let Some(Map::Array(config)) = ebpf.map("config") else {
            panic!("it has settings");
        };
        assert!(Elements::<4, 32>::of(config.fd()).is_err());
        assert!(Walk::<16, 192>::over(&ebpf, "none", 1).is_err());
    }
}
