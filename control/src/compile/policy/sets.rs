//! The model's IP sets, by numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use flowtable::acl::{Member, Net, SetError, SetId, SetWriter, Sets};
use flowtable::lpm::{Prefix4, Prefix6};
use ipnet::IpNet;

use crate::policy::model::{IpPort, IpSet, Model};
use crate::policy::rule::{IpSetId, Rule};

/// The numbers that the sets of some rules have; none for one that is not known.
pub(super) type Snapshot = BTreeMap<IpSetId, Option<SetId>>;

/// The sets that rules ask for.
#[derive(Debug, Default)]
pub(super) struct IpSets {
    writer: SetWriter,
    known: BTreeMap<IpSetId, (SetId, Arc<IpSet>)>,
    last: u32,
    readers: Sets,
}

/// What [`IpSets::begin`] did, and what is left to be done.
#[derive(Debug)]
pub(super) struct Change {
    added: Vec<(SetId, Member)>,
    removed: Vec<(SetId, Member)>,
    before: BTreeMap<IpSetId, (SetId, Arc<IpSet>)>,
    /// Whether sets came or went. The others keep their numbers.
    pub(super) is_renumbered: bool,
}

impl IpSets {
    pub(super) fn with_limit(bytes: usize) -> Self {
        Self {
            writer: SetWriter::with_limit(bytes),
            ..Self::default()
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.writer.memory_bytes()
    }

    /// For pollers.
    pub(super) fn readers(&self) -> Sets {
        self.readers.clone()
    }

    /// The number of a set; none if it is not known.
    pub(super) fn number(&self, id: &IpSetId) -> Option<SetId> {
        self.known.get(id).map(|(number, _)| *number)
    }

    pub(super) fn snapshot_of(&self, rules: &[Rule]) -> Snapshot {
        let ids = rules.iter().flat_map(|rule| rule.matches.ip_sets());
        ids.map(|id| (id.clone(), self.number(id))).collect()
    }

    /// Whether sets still have the numbers that they had.
    pub(super) fn are_numbered(&self, sets: &Snapshot) -> bool {
        let mut sets = sets.iter();
        sets.all(|(id, number)| self.number(id) == *number)
    }

    /// Takes the wanted sets as the model has them: adds what came; what went is removed by [`IpSets::commit`].
    pub(super) fn begin(
        &mut self,
        model: &Model,
        wanted: BTreeSet<IpSetId>,
    ) -> Result<Change, SetError> {
        let mut known = BTreeMap::new();
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        for id in wanted {
            let Some(set) = model.ip_sets.get(&id) else {
                continue;
            };
            let number = if let Some((number, before)) = self.known.get(&id) {
                if before != set {
                    let (old, new) = (members(before), members(set));
                    added.extend(pairs(*number, new.difference(&old)));
                    removed.extend(pairs(*number, old.difference(&new)));
                }
                *number
            } else {
                self.last += 1;
                added.extend(pairs(SetId(self.last), &members(set)));
                SetId(self.last)
            };
            known.insert(id, (number, set.clone()));
        }
        for (id, (number, set)) in &self.known {
            if !known.contains_key(id) {
                removed.extend(pairs(*number, &members(set)));
            }
        }
        for (at, (set, member)) in added.iter().enumerate() {
            if let Err(error) = self.writer.add(*set, member) {
                for (set, member) in &added[..at] {
                    self.writer.remove(*set, member);
                }
                return Err(error);
            }
        }
        let is_renumbered = !known.keys().eq(self.known.keys());
        let before = std::mem::replace(&mut self.known, known);
        Ok(Change {
            added,
            removed,
            before,
            is_renumbered,
        })
    }

    /// Everything as it was before.
    pub(super) fn undo(&mut self, change: Change) {
        for (set, member) in &change.added {
            self.writer.remove(*set, member);
        }
        self.known = change.before;
    }

    /// Removes what went, and shows readers the result.
    pub(super) fn commit(&mut self, change: &Change) {
        for (set, member) in &change.removed {
            self.writer.remove(*set, member);
        }
        if !change.added.is_empty() || !change.removed.is_empty() {
            self.readers = self.writer.snapshot();
        }
    }
}

/// A member, as a key that can be compared. Prefixes without host bits: of two that say the same one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Net(IpNet),
    Port(IpPort),
}

fn members(set: &IpSet) -> BTreeSet<Key> {
    match set {
        IpSet::Nets(nets) => nets.iter().map(|net| Key::Net(net.trunc())).collect(),
        IpSet::IpPorts(ports) => ports.iter().copied().map(Key::Port).collect(),
    }
}

fn pairs<'k>(
    set: SetId,
    keys: impl IntoIterator<Item = &'k Key>,
) -> impl Iterator<Item = (SetId, Member)> {
    let members = keys.into_iter().filter_map(|key| member(*key));
    members.map(move |member| (set, member))
}

fn member(key: Key) -> Option<Member> {
    Some(match key {
        Key::Net(of) => Member::Net(net(of)?),
        Key::Port(port) => Member::Port {
            addr: port.address,
            protocol: port.protocol.0,
            port: port.port,
        },
    })
}

/// A prefix as the classifier has it; none if it is longer than an address, which none is.
pub(super) fn net(net: IpNet) -> Option<Net> {
    Some(match net {
        IpNet::V4(net) => Net::V4(Prefix4::containing(net.addr().into(), net.prefix_len()).ok()?),
        IpNet::V6(net) => Net::V6(Prefix6::containing(net.addr().into(), net.prefix_len()).ok()?),
    })
}
