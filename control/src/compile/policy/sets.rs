//! The model's IP sets, by numbers.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use flowtable::acl::{Member, Net, SetError, SetId, SetWriter, Sets};
use flowtable::lpm::{Prefix4, Prefix6};
use ipnet::IpNet;

use super::Compiled;
use super::owners::{Key as OwnerKey, rules_of};
use crate::policy::model::{IpPort, IpSet, Model};
use crate::policy::rule::{IpSetId, Rule};

/// The numbers that the sets of some rules have; none for one that is not known.
pub(super) type Snapshot = BTreeMap<IpSetId, Option<SetId>>;

/// The sets that rules ask for.
#[derive(Debug, Default)]
pub(super) struct IpSets {
    writer: SetWriter,
    known: HashMap<IpSetId, Known>,
    /// Whose rules name a set, known or not.
    users: HashMap<IpSetId, HashSet<OwnerKey>>,
    last: u32,
    readers: Sets,
}

/// A set's number and members.
type Known = (SetId, Arc<IpSet>);

/// What [`IpSets::begin`] did, and what is left to be done.
#[derive(Debug)]
pub(super) struct Change {
    added: Vec<(SetId, Member)>,
    removed: Vec<(SetId, Member)>,
    /// The sets that changed, as they were.
    before: Vec<(IpSetId, Option<Known>)>,
    /// Sets that came or went. The others keep their numbers.
    renumbered: Vec<IpSetId>,
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

    /// Rules of an owner name sets.
    pub(super) fn add_user<'i>(
        &mut self,
        owner: &OwnerKey,
        sets: impl Iterator<Item = &'i IpSetId>,
    ) {
        for id in sets {
            let users = self.users.entry(id.clone()).or_default();
            users.insert(owner.clone());
        }
    }

    /// They name them no longer.
    pub(super) fn remove_user<'i>(
        &mut self,
        owner: &OwnerKey,
        sets: impl Iterator<Item = &'i IpSetId>,
    ) {
        for id in sets {
            if let Some(users) = self.users.get_mut(id) {
                users.remove(owner);
                if users.is_empty() {
                    self.users.remove(id);
                }
            }
        }
    }

    /// Whose rules name sets that have another number than before, but for those that are lost.
    pub(super) fn renumbered_users(
        &self,
        change: &Change,
        lost: &HashSet<OwnerKey>,
    ) -> Vec<OwnerKey> {
        let sets = change.renumbered.iter();
        let users = sets.filter_map(|id| self.users.get(id)).flatten();
        users.filter(|key| !lost.contains(*key)).cloned().collect()
    }

    /// Takes the sets as the model has them that rules name, where they differ from those of the model before, or are named
    /// anew: owners in `redo` name others than before, those in `lost` none. Adds what came; what went is removed by
    /// [`IpSets::commit`].
    pub(super) fn begin(
        &mut self,
        model: &Model,
        model_before: &Model,
        redo: &BTreeSet<OwnerKey>,
        lost: &HashSet<OwnerKey>,
        compiled: &HashMap<OwnerKey, Arc<Compiled>>,
    ) -> Result<Change, SetError> {
        let rules = redo
            .iter()
            .flat_map(|(owner, direction)| rules_of(model, owner, *direction));
        let named: HashSet<&IpSetId> = rules.flat_map(|rule| rule.matches.ip_sets()).collect();
        let old = redo.iter().chain(lost).filter_map(|key| compiled.get(key));
        let differ = model.ip_sets.diff(&model_before.ip_sets, Arc::ptr_eq);
        let differ = differ
            .into_iter()
            .map(|(id, ..)| id)
            .filter(|id| self.users.contains_key(*id));
        let review = old.flat_map(|old| old.sets.keys()).chain(differ);
        let review: BTreeSet<&IpSetId> = review.chain(named.iter().copied()).collect();
        let stays = |key: &OwnerKey| !redo.contains(key) && !lost.contains(key);
        let is_needed = |id: &IpSetId| {
            named.contains(id)
                || self
                    .users
                    .get(id)
                    .is_some_and(|users| users.iter().any(stays))
        };

        let (mut added, mut removed) = (Vec::new(), Vec::new());
        let (mut changed, mut renumbered) = (Vec::new(), Vec::new());
        let mut last = self.last;
        for id in review {
            let known = self.known.get(id);
            let set = model.ip_sets.get(id).filter(|_| is_needed(id));
            match (known, set) {
                (Some((number, before)), Some(set)) if before != set => {
                    let (old, new) = (members(before), members(set));
                    added.extend(pairs(*number, new.difference(&old)));
                    removed.extend(pairs(*number, old.difference(&new)));
                    changed.push((id.clone(), Some((*number, Arc::clone(set)))));
                }
                (Some(_), Some(_)) | (None, None) => {}
                (None, Some(set)) => {
                    last += 1;
                    added.extend(pairs(SetId(last), &members(set)));
                    changed.push((id.clone(), Some((SetId(last), Arc::clone(set)))));
                    renumbered.push(id.clone());
                }
                (Some((number, before)), None) => {
                    removed.extend(pairs(*number, &members(before)));
                    changed.push((id.clone(), None));
                    renumbered.push(id.clone());
                }
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
        self.last = last;
        let before = changed.into_iter().map(|(id, now)| {
            let before = self.put(&id, now);
            (id, before)
        });
        Ok(Change {
            before: before.collect(),
            added,
            removed,
            renumbered,
        })
    }

    fn put(&mut self, id: &IpSetId, known: Option<Known>) -> Option<Known> {
        match known {
            Some(known) => self.known.insert(id.clone(), known),
            None => self.known.remove(id),
        }
    }

    /// Everything as it was before.
    pub(super) fn undo(&mut self, change: Change) {
        for (set, member) in &change.added {
            self.writer.remove(*set, member);
        }
        for (id, known) in change.before {
            self.put(&id, known);
        }
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
