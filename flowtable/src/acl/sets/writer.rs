//! The control plane's side of IP sets.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::classes::ClassWriter;
use super::table::{Table, TableKey};
use super::{FamilyTables, Sets, Tables, protocol_and_port};
use crate::acl::address::sealed::Sealed;
use crate::acl::{Address, Net, SetId};

/// A member of an IP set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Member {
    /// Addresses: of a NET set.
    Net(Net),
    /// An address with protocol and port: of an IP_AND_PORT set.
    Port {
        /// The address.
        addr: IpAddr,
        /// The protocol's number.
        protocol: u8,
        /// The port.
        port: u16,
    },
}

/// Why members were refused. The sets are as they were before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// They might not fit.
    #[error(
        "IP set {set:?} with {members} members more may take the IP sets to {needed} bytes, the limit is {limit}"
    )]
    TooLarge {
        /// The set that was to be changed.
        set: SetId,
        /// The members that were to be added.
        members: usize,
        /// What all sets would take at most, in bytes.
        needed: usize,
        /// The limit, in bytes.
        limit: usize,
    },
}

/// All IP sets, to be changed by the control plane.
///
/// A member added to or removed from a set copies a few KiB if a snapshot shares them. Removing a whole
/// set looks at every member of all sets.
#[derive(Debug)]
pub struct SetWriter {
    tables: Tables,
    classes: ClassWriter,
    /// How many prefixes there are of each length, by family.
    lengths: [Vec<u32>; 2],
    limit_bytes: usize,
}

impl Default for SetWriter {
    fn default() -> Self {
        Self::with_limit(Self::DEFAULT_LIMIT_BYTES)
    }
}

/// Which of a family's tables a key belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    Hosts,
    Nets,
    Ports,
}

/// A member as a key of one of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key<A> {
    place: Place,
    addr: A,
    /// A prefix's length, or protocol and port.
    more: u32,
}

/// A key of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum AnyKey {
    V4(Key<u32>),
    V6(Key<u128>),
}

impl<A: Sealed> Key<A> {
    fn of_net(addr: A, len: u8) -> Self {
        let place = if len == A::BITS {
            Place::Hosts
        } else {
            Place::Nets
        };
        Self {
            place,
            addr,
            more: u32::from(len),
        }
    }
}

impl AnyKey {
    fn of(member: &Member) -> Self {
        let place = Place::Ports;
        match *member {
            Member::Net(Net::V4(net)) => Self::V4(Key::of_net(net.addr(), net.len())),
            Member::Net(Net::V6(net)) => Self::V6(Key::of_net(net.addr(), net.len())),
            Member::Port {
                addr,
                protocol,
                port,
            } => {
                let more = protocol_and_port(protocol, port);
                match addr {
                    IpAddr::V4(addr) => Self::V4(Key {
                        place,
                        addr: addr.to_bits(),
                        more,
                    }),
                    IpAddr::V6(addr) => Self::V6(Key {
                        place,
                        addr: addr.to_bits(),
                        more,
                    }),
                }
            }
        }
    }
}

impl SetWriter {
    /// What all sets together may take unless said otherwise: 1 GiB.
    pub const DEFAULT_LIMIT_BYTES: usize = 1 << 30;

    /// Bytes that a new class takes at most beside its list.
    const CLASS_BYTES: usize = 256;

    /// No sets, which may take up to `limit_bytes`.
    #[must_use]
    pub fn with_limit(limit_bytes: usize) -> Self {
        Self {
            tables: Tables::default(),
            classes: ClassWriter::default(),
            lengths: [vec![0; 33], vec![0; 129]],
            limit_bytes,
        }
    }

    /// The sets as they are now, for readers.
    #[must_use]
    pub fn snapshot(&self) -> Sets {
        let mut tables = self.tables.clone();
        tables.classes = self.classes.classes.clone();
        Sets {
            tables: Arc::new(tables),
        }
    }

    /// Adds `member` to `set`; whether it was not there before.
    ///
    /// # Errors
    /// The limit might be exceeded.
    pub fn add(&mut self, set: SetId, member: &Member) -> Result<bool, SetError> {
        self.check(set, 1)?;
        Ok(self.change(set, member, true))
    }

    /// Removes `member` from `set`; whether it was there before.
    pub fn remove(&mut self, set: SetId, member: &Member) -> bool {
        self.change(set, member, false)
    }

    /// Gives `set` these members and no others.
    ///
    /// # Errors
    /// The limit might be exceeded.
    pub fn replace(&mut self, set: SetId, members: &[Member]) -> Result<(), SetError> {
        self.check(set, members.len())?;
        for member in members {
            self.change(set, member, true);
        }
        let kept: HashSet<_> = members.iter().map(AnyKey::of).collect();
        self.remove_all(set, &kept);
        Ok(())
    }

    /// Removes all members of `set`.
    pub fn clear(&mut self, set: SetId) {
        self.remove_all(set, &HashSet::new());
    }

    /// Bytes of everything, with what snapshots share.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.tables.memory_bytes() + self.classes.memory_bytes()
    }

    /// How many addresses, prefixes and ports are in any set.
    #[must_use]
    pub fn len(&self) -> usize {
        let (v4, v6) = (&self.tables.v4, &self.tables.v6);
        v4.hosts.len()
            + v4.nets.len()
            + v4.ports.len()
            + v6.hosts.len()
            + v6.nets.len()
            + v6.ports.len()
    }

    /// Whether no set has a member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Refuses `members` more if they might not fit: as if each were a new key in the widest table with
    /// a class of its own.
    fn check(&self, set: SetId, members: usize) -> Result<(), SetError> {
        let needed = self
            .memory_bytes()
            .saturating_add(members.saturating_mul(Table::<[u32; 5]>::BYTES_A_KEY))
            .saturating_add(Self::CLASS_BYTES);
        if members > 0 && needed > self.limit_bytes {
            return Err(SetError::TooLarge {
                set,
                members,
                needed,
                limit: self.limit_bytes,
            });
        }
        Ok(())
    }

    fn change(&mut self, set: SetId, member: &Member, add: bool) -> bool {
        self.change_key(set, AnyKey::of(member), add)
    }

    fn change_key(&mut self, set: SetId, key: AnyKey, add: bool) -> bool {
        if set == SetId::NONE {
            return false;
        }
        let [v4, v6] = &mut self.lengths;
        match key {
            AnyKey::V4(key) => change_in(&mut self.tables.v4, &mut self.classes, v4, set, key, add),
            AnyKey::V6(key) => change_in(&mut self.tables.v6, &mut self.classes, v6, set, key, add),
        }
    }

    /// Removes every member of `set` that is not in `kept`.
    fn remove_all(&mut self, set: SetId, kept: &HashSet<AnyKey>) {
        let holding: Vec<bool> = (0..self.classes.len())
            .map(|class| self.classes.sets(class as u32).binary_search(&set).is_ok())
            .collect();
        if !holding.contains(&true) {
            return;
        }
        let mut keys: Vec<_> = self.tables.v4.keys(&holding).map(AnyKey::V4).collect();
        keys.extend(self.tables.v6.keys(&holding).map(AnyKey::V6));
        for key in keys.into_iter().filter(|key| !kept.contains(key)) {
            self.change_key(set, key, false);
        }
    }
}

impl<A: Address> FamilyTables<A> {
    /// All keys whose class is among those that `holding` marks.
    fn keys(&self, holding: &[bool]) -> impl Iterator<Item = Key<A>> {
        let is_held = |class: u32| holding.get(class as usize) == Some(&true);
        let hosts = self.hosts.iter().map(|(key, class)| {
            let addr = A::of_host(key);
            (
                Key {
                    place: Place::Hosts,
                    addr,
                    more: u32::from(A::BITS),
                },
                class,
            )
        });
        let long = |place| {
            move |(key, class)| {
                let (addr, more) = A::of_long(key);
                (Key { place, addr, more }, class)
            }
        };
        hosts
            .chain(self.nets.iter().map(long(Place::Nets)))
            .chain(self.ports.iter().map(long(Place::Ports)))
            .filter(move |(_, class)| is_held(*class))
            .map(|(key, _)| key)
    }
}

/// Adds the set to the key's class or removes it; whether that changed anything.
fn change_in<A: Address>(
    tables: &mut FamilyTables<A>,
    classes: &mut ClassWriter,
    lengths: &mut [u32],
    set: SetId,
    key: Key<A>,
    add: bool,
) -> bool {
    let Key { place, addr, more } = key;
    let (had, has) = match place {
        Place::Hosts => change_class(&mut tables.hosts, addr.host(), classes, set, add),
        Place::Nets => change_class(&mut tables.nets, addr.long(more), classes, set, add),
        Place::Ports => change_class(&mut tables.ports, addr.long(more), classes, set, add),
    };
    if place == Place::Nets
        && let Some(count) = lengths.get_mut(more as usize)
    {
        match (had == 0, has == 0) {
            (true, false) => *count += 1,
            (false, true) => *count -= 1,
            _ => {}
        }
        let bit = 1_u128 << more;
        tables.lengths = if *count == 0 {
            tables.lengths & !bit
        } else {
            tables.lengths | bit
        };
    }
    had != has
}

/// The class that `key` had, and the class that it has now.
fn change_class<K: TableKey>(
    table: &mut Table<K>,
    key: K,
    classes: &mut ClassWriter,
    set: SetId,
    add: bool,
) -> (u32, u32) {
    let had = table.get(&key);
    let mut sets = classes.sets(had).to_vec();
    match (sets.binary_search(&set), add) {
        (Err(at), true) => sets.insert(at, set),
        (Ok(at), false) => {
            sets.remove(at);
        }
        _ => return (had, had),
    }
    let has = classes.take(&sets);
    classes.release(had);
    table.set(key, has);
    (had, has)
}
