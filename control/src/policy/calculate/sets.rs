//! The sets that rules need: who needs them, and who is in them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::items::Item;
use super::order::compare;
use super::rules::WantedSet;
use super::{Calculator, Known, Purpose, Touched, Use, keep_or_insert};
use crate::config::diagnostic::Diagnostic;
use crate::policy::model::{IpPort, IpSet, Model, PolicyId};
use crate::policy::rule::IpSetId;

/// Who needs which sets, and which of them have no member.
#[derive(Debug, Default)]
pub(super) struct SetUses {
    /// The policies that need a set.
    policies: HashMap<IpSetId, BTreeSet<PolicyId>>,
    /// What profiles need.
    profiles: BTreeMap<IpSetId, WantedSet>,
    empty: BTreeSet<IpSetId>,
}

impl SetUses {
    /// A policy needs sets.
    pub(super) fn add<'i>(&mut self, policy: &PolicyId, sets: impl Iterator<Item = &'i IpSetId>) {
        for id in sets {
            let users = self.policies.entry(id.clone()).or_default();
            users.insert(policy.clone());
        }
    }

    /// A policy needs sets no longer.
    pub(super) fn remove<'i>(
        &mut self,
        policy: &PolicyId,
        sets: impl Iterator<Item = &'i IpSetId>,
    ) {
        for id in sets {
            if let Some(users) = self.policies.get_mut(id) {
                users.remove(policy);
                if users.is_empty() {
                    self.policies.remove(id);
                }
            }
        }
    }

    /// Takes all that profiles need. Returns the sets of which that may be news.
    pub(super) fn set_profiles(&mut self, sets: BTreeMap<IpSetId, WantedSet>) -> Vec<IpSetId> {
        let before = std::mem::replace(&mut self.profiles, sets);
        let now = self.profiles.keys().cloned();
        before.into_keys().chain(now).collect()
    }

    /// A set as somebody needs it; none if nobody does.
    fn wanted<'s>(
        &'s self,
        id: &IpSetId,
        policies: &'s HashMap<PolicyId, Known>,
    ) -> Option<&'s WantedSet> {
        let mut users = self.users(id, policies);
        users.next().or_else(|| self.profiles.get(id))
    }

    fn users<'s>(
        &'s self,
        id: &IpSetId,
        policies: &'s HashMap<PolicyId, Known>,
    ) -> impl Iterator<Item = &'s WantedSet> {
        let users = self.known_users(id, policies);
        let id = id.clone();
        users.filter_map(move |known| known.sets.get(&id))
    }

    fn known_users<'s>(
        &'s self,
        id: &IpSetId,
        policies: &'s HashMap<PolicyId, Known>,
    ) -> impl Iterator<Item = &'s Known> {
        let users = self.policies.get(id).into_iter().flatten();
        users.filter_map(|user| policies.get(user))
    }

    /// Where a set is asked for first, by somebody worth a remark: policies in their order, then profiles.
    fn first_use<'s>(
        &'s self,
        id: &IpSetId,
        policies: &'s HashMap<PolicyId, Known>,
    ) -> Option<(&'s WantedSet, &'s Use)> {
        fn said<'s>(known: &'s Known, id: &IpSetId) -> Option<(&'s WantedSet, &'s Use)> {
            let set = known.sets.get(id)?;
            Some((set, set.used_by.as_ref()?))
        }
        let users = self.known_users(id, policies);
        let users = users.filter(|known| said(known, id).is_some());
        let first = users.min_by(|one, other| compare(&one.resource, &other.resource));
        first.and_then(|known| said(known, id)).or_else(|| {
            let set = self.profiles.get(id)?;
            Some((set, set.used_by.as_ref()?))
        })
    }

    /// Points out sets without members, where they are asked for first.
    pub(super) fn are_empty(&self, policies: &HashMap<PolicyId, Known>) -> Vec<Diagnostic> {
        let about = self.empty.iter().filter_map(|id| {
            let (set, (at, resource)) = self.first_use(id, policies)?;
            let (message, label) = match &set.named_port {
                None => (
                    "the selector selects nothing".to_owned(),
                    "no endpoint and no network set of these files satisfies this".to_owned(),
                ),
                Some((protocol, name)) => (
                    format!("no endpoint has a {protocol} port called `{name}`"),
                    "named in `ports` of endpoints".to_owned(),
                ),
            };
            Some(Diagnostic::warning(message).at(at, label).about(resource))
        });
        about.collect()
    }
}

impl Calculator {
    /// Takes the sets that rules need, or need no longer, and resolves those to their members that may have others than before.
    pub(super) fn take_sets(
        &mut self,
        needed: BTreeSet<IpSetId>,
        model: &mut Model,
        touched: &mut Touched,
    ) {
        for id in needed {
            let purpose = Purpose::Set(id.clone());
            match self.sets.wanted(&id, &self.policies) {
                Some(set) if !model.ip_sets.contains_key(&id) => {
                    self.index.set_selector(&purpose, set.expr.clone());
                    touched.selectors.insert(purpose);
                }
                Some(_) => {}
                None => {
                    self.index.remove_selector(&purpose);
                    model.ip_sets.remove(&id);
                    self.sets.empty.remove(&id);
                }
            }
        }
        for purpose in &touched.selectors {
            let Purpose::Set(id) = purpose else {
                continue;
            };
            if let Some(set) = self.sets.wanted(id, &self.policies) {
                let selected = self.index.selected(purpose);
                let selected = selected.filter_map(|item| self.items.get(item));
                let members = members(set, selected);
                if is_empty(&members) {
                    self.sets.empty.insert(id.clone());
                } else {
                    self.sets.empty.remove(id);
                }
                keep_or_insert(&mut model.ip_sets, id, members);
            }
        }
    }
}

fn is_empty(set: &IpSet) -> bool {
    match set {
        IpSet::Nets(nets) => nets.is_empty(),
        IpSet::IpPorts(ports) => ports.is_empty(),
    }
}

fn members<'i>(set: &WantedSet, selected: impl Iterator<Item = &'i Item>) -> IpSet {
    let Some((protocol, name)) = &set.named_port else {
        return IpSet::Nets(selected.flat_map(|item| item.nets.clone()).collect());
    };
    let mut members = BTreeSet::new();
    for item in selected {
        let ports = item.ports.iter();
        let ports = ports.filter(|port| port.name == *name && port.protocol == *protocol);
        for port in ports {
            members.extend(item.nets.iter().map(|net| IpPort {
                address: net.addr(),
                protocol: *protocol,
                port: port.port,
            }));
        }
    }
    IpSet::IpPorts(members)
}
