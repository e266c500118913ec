//! Services: an address and a port that stand for several backends, of which each connection gets one.
//!
//! [`Services`] says what an address and port are, [`Frontend`] which backend a connection gets: by the connection's hash, or by its
//! client's address where clients stay with their backend. Either way nothing is remembered and nothing shared: all pollers choose alike,
//! and a backend that comes or goes moves few of the others' clients (Maglev, section 3.4). The connection keeps what it got.
//! Made by the control plane, only read by pollers.

mod maglev;
#[cfg(test)]
mod tests;

use core::hash::Hash;
use core::ops::RangeInclusive;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use crate::flow::Seed;

/// The most backends of a [`Frontend`].
pub const MAX_BACKENDS: usize = u16::MAX as usize;

/// By which client addresses choose. The same everywhere and always: a client is to find its backend again after a restart.
const CLIENTS: Seed = Seed([0x6166_6669_6e69_7479, 0x6361_7261_6361_6c00]);

/// An address of a family: `u32` or `u128`, in host byte order.
pub trait ServiceAddr: Copy + Ord + Hash {
    /// As the blocks of a hash.
    fn blocks(self) -> [u64; 2];
}

impl ServiceAddr for u32 {
    fn blocks(self) -> [u64; 2] {
        [self.into(), 0]
    }
}

impl ServiceAddr for u128 {
    fn blocks(self) -> [u64; 2] {
        [self as u64, (self >> 64) as u64]
    }
}

/// What is behind one port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend<A> {
    backends: Box<[(A, u16)]>,
    /// The place in `backends` for each remainder of a hash.
    table: Box<[u16]>,
    affinity: bool,
}

impl<A: ServiceAddr> Frontend<A> {
    /// One with these backends, in any order, of which there may be none: clients are refused then. Those beyond [`MAX_BACKENDS`] are left
    /// out. `affinity`: a client address stays with its backend.
    #[must_use]
    pub fn new(mut backends: Vec<(A, u16)>, affinity: bool) -> Self {
        backends.truncate(MAX_BACKENDS);
        Self {
            table: maglev::table(&backends),
            backends: backends.into(),
            affinity,
        }
    }

    /// The backends.
    pub fn backends(&self) -> &[(A, u16)] {
        &self.backends
    }

    /// Whether a client address stays with its backend.
    pub const fn has_affinity(&self) -> bool {
        self.affinity
    }

    /// Bytes of memory that it takes.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.backends) + size_of_val(&*self.table)
    }

    /// The backend of a connection from `client` whose hash is `hash`; `None` if there is no backend.
    #[inline]
    pub fn choose(&self, client: A, hash: u32) -> Option<(A, u16)> {
        let hash = if self.affinity {
            crate::flow::hash_of(CLIENTS, client.blocks()) as usize
        } else {
            hash as usize
        };
        let place = self.table.get(hash.checked_rem(self.table.len())?)?;
        self.backends.get(usize::from(*place)).copied()
    }
}

/// What an address and port are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service<'a, A> {
    /// No service's.
    None,
    /// The address is a service's alone, which has no such port.
    NoPort,
    /// No service's, though only services have addresses there: whoever gets it next would send it back here.
    Stray,
    /// A service's port.
    Port(&'a Frontend<A>),
}

/// The services of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Services<A: Eq + Hash> {
    ports: HashMap<(A, u8, u16), Arc<Frontend<A>>>,
    own: HashSet<A>,
    ranges: Box<[RangeInclusive<A>]>,
}

impl<A: Eq + Hash> Default for Services<A> {
    fn default() -> Self {
        Self {
            ports: HashMap::default(),
            own: HashSet::default(),
            ranges: Box::default(),
        }
    }
}

impl<A: ServiceAddr> Services<A> {
    /// Those at these addresses, protocols and ports. Of two at one the last counts. `own` are the addresses that nobody but a service has
    /// (cluster IPs), so that nothing else is to be found at their other ports.
    #[must_use]
    pub fn new(
        entries: impl IntoIterator<Item = ((A, u8, u16), Arc<Frontend<A>>)>,
        own: impl IntoIterator<Item = A>,
    ) -> Self {
        Self {
            ports: entries.into_iter().collect(),
            own: own.into_iter().collect(),
            ranges: Box::default(),
        }
    }

    /// The same, where only services have the addresses of these ranges, of which there are a few.
    #[must_use]
    pub fn alone_in(mut self, ranges: impl IntoIterator<Item = RangeInclusive<A>>) -> Self {
        self.ranges = ranges.into_iter().collect();
        self
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty() && self.own.is_empty() && self.ranges.is_empty()
    }

    /// All ports, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&(A, u8, u16), &Arc<Frontend<A>>)> {
        self.ports.iter()
    }

    /// What an address, protocol and port are.
    #[inline]
    pub fn at(&self, addr: A, protocol: u8, port: u16) -> Service<'_, A> {
        match self.ports.get(&(addr, protocol, port)) {
            Some(frontend) => Service::Port(frontend),
            None if self.own.contains(&addr) => Service::NoPort,
            None if self.ranges.iter().any(|it| it.contains(&addr)) => Service::Stray,
            None => Service::None,
        }
    }
}
