//! IP sets, all of them in one structure: from an address to the sets that it is in.
//!
//! A pod's address is in many sets, and a chain asks for many. So not every set is a table of its own:
//! an address is there once, with the number of its *class*, which is the list of its sets. One lookup
//! an address answers every question about sets that any rule asks. Addresses with the same labels have
//! the same class.
//!
//! Two types: [`SetWriter`] belongs to the control plane, [`Sets`] is an immutable snapshot that costs a
//! few pointers. A change copies one shard of a table (some KiB) and the pointers to the others.

mod classes;
mod table;
mod writer;

use std::sync::Arc;

use self::classes::{Classes, Signature};
use self::table::Table;
pub(super) use self::table::TableKey;
pub use self::writer::{Member, SetError, SetWriter};
use super::address::sealed::Sealed;
use super::{Address, SetId};

/// Classes that [`Members`] has room for: the address itself and the prefixes it is in.
const NESTED: usize = 6;

/// What holds addresses of one family.
#[derive(Clone, Debug)]
pub struct FamilyTables<A: Sealed> {
    /// From single addresses to classes.
    hosts: Table<A::Host>,
    /// From a prefix's first address and length to the class of its own sets, not of those around it.
    nets: Table<A::Long>,
    /// The lengths that prefixes have, one bit each.
    lengths: u128,
    /// From address, protocol and port to classes.
    ports: Table<A::Long>,
}

impl<A: Sealed> Default for FamilyTables<A> {
    fn default() -> Self {
        Self {
            hosts: Table::default(),
            nets: Table::default(),
            lengths: 0,
            ports: Table::default(),
        }
    }
}

/// Everything readers look up in.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    pub(super) v4: FamilyTables<u32>,
    pub(super) v6: FamilyTables<u128>,
    classes: Classes,
}

/// All IP sets as they were at one moment. Cloning copies a pointer.
#[derive(Clone, Debug, Default)]
pub struct Sets {
    tables: Arc<Tables>,
}

/// The sets that one address is in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Members {
    signature: Signature,
    classes: [u32; NESTED],
    /// How many there are, also those that have no room.
    count: u8,
}

impl Members {
    /// In no set.
    pub const NONE: Self = Self {
        signature: Signature::NONE,
        classes: [0; NESTED],
        count: 0,
    };

    #[inline(always)]
    fn push(&mut self, class: u32, all: &Classes) {
        if let Some(found) = all.get(class) {
            self.signature.add(&found.signature);
        }
        if let Some(place) = self.classes.get_mut(usize::from(self.count)) {
            *place = class;
        }
        self.count += 1;
    }
}

/// Protocol and port as one word of a key.
const fn protocol_and_port(protocol: u8, port: u16) -> u32 {
    (protocol as u32) << 16 | port as u32
}

impl Sets {
    /// The sets that `addr` is in.
    #[inline]
    #[must_use]
    pub fn members<A: Address>(&self, addr: A) -> Members {
        let tables = A::tables(&self.tables);
        let mut members = Members::default();
        let class = tables.hosts.get(&addr.host());
        if class != 0 {
            members.push(class, &self.tables.classes);
        }
        if tables.lengths != 0 {
            self.push_nets(addr, &mut members);
        }
        members
    }

    #[inline]
    fn push_nets<A: Address>(&self, addr: A, members: &mut Members) {
        for class in net_classes(A::tables(&self.tables), addr) {
            members.push(class, &self.tables.classes);
        }
    }

    /// [`Sets::members`] of each of `addrs` into `out`, as many as the shorter of the two holds: the
    /// loads of all are under way together.
    pub fn members_batch<A: Address>(&self, addrs: &[A], out: &mut [Members]) {
        let tables = A::tables(&self.tables);
        for (addrs, out) in addrs.chunks(64).zip(out.chunks_mut(64)) {
            for addr in addrs {
                tables.hosts.prefetch(&addr.host());
            }
            for (&addr, out) in addrs.iter().zip(out) {
                *out = self.members(addr);
            }
        }
    }

    /// Whether the address whose memberships `members` are is in `set`. `addr` must be that address.
    #[inline(always)]
    #[must_use]
    pub fn holds<A: Address>(&self, members: &Members, addr: A, set: SetId) -> bool {
        if !members.signature.may_hold(set) {
            return false;
        }
        self.holds_exactly(members, addr, set)
    }

    fn holds_exactly<A: Address>(&self, members: &Members, addr: A, set: SetId) -> bool {
        let kept = usize::from(members.count).min(NESTED);
        members.classes[..kept]
            .iter()
            .any(|&class| self.is_in_class(class, set))
            || (usize::from(members.count) > NESTED
                && net_classes(A::tables(&self.tables), addr)
                    .any(|class| self.is_in_class(class, set)))
    }

    #[inline(always)]
    fn is_in_class(&self, class: u32, set: SetId) -> bool {
        self.tables
            .classes
            .get(class)
            .is_some_and(|class| class.holds(set))
    }

    /// Whether `addr` is in `set`.
    #[must_use]
    pub fn contains<A: Address>(&self, set: SetId, addr: A) -> bool {
        self.holds(&self.members(addr), addr, set)
    }

    /// Whether address, protocol and port together are in `set`.
    #[must_use]
    pub fn contains_port<A: Address>(&self, set: SetId, addr: A, protocol: u8, port: u16) -> bool {
        self.is_in_class(self.port_class(addr, protocol, port), set)
    }

    /// The class of address, protocol and port; 0 if they are in no set.
    #[inline]
    fn port_class<A: Address>(&self, addr: A, protocol: u8, port: u16) -> u32 {
        A::tables(&self.tables)
            .ports
            .get(&addr.long(protocol_and_port(protocol, port)))
    }

    /// Bytes that this snapshot holds, with what it shares with others.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.tables.memory_bytes()
    }
}

impl Tables {
    fn memory_bytes(&self) -> usize {
        let (v4, v6) = (&self.v4, &self.v6);
        v4.hosts.memory_bytes()
            + v4.nets.memory_bytes()
            + v4.ports.memory_bytes()
            + v6.hosts.memory_bytes()
            + v6.nets.memory_bytes()
            + v6.ports.memory_bytes()
            + self.classes.memory_bytes()
    }
}

/// The classes of the prefixes that hold `addr`, the longest first.
#[inline]
fn net_classes<A: Address>(tables: &FamilyTables<A>, addr: A) -> impl Iterator<Item = u32> + '_ {
    let mut lengths = tables.lengths;
    std::iter::from_fn(move || {
        while lengths != 0 {
            let len = lengths.ilog2() as u8;
            lengths &= !(1 << len);
            let class = tables.nets.get(&(addr & A::mask(len)).long(u32::from(len)));
            if class != 0 {
                return Some(class);
            }
        }
        None
    })
}
