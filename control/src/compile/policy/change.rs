//! What of a node's policy has to be compiled again, from one model to the next.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::defaults::DIRECTIONS;
use super::owners::{Key, OwnerId, keys_of};
use super::{Compiled, hosts, workloads_of};
use crate::policy::model::{Model, Workload, WorkloadId};

/// An endpoint of the node as it was and as it is.
type Changed<'m> = (
    &'m WorkloadId,
    Option<&'m Arc<Workload>>,
    Option<&'m Arc<Workload>>,
);

/// How two models differ, for a node.
#[derive(Debug)]
pub(super) struct Change<'m> {
    /// Endpoints that came, went, or are not the very ones that they were.
    pub(super) endpoints: Vec<Changed<'m>>,
    /// By how many endpoints more, or fewer, owners are used.
    uses: HashMap<Key, isize>,
    /// Owners that apply to an endpoint, and did to none.
    gained: HashSet<Key>,
    /// Owners that apply to no endpoint any more.
    pub(super) lost: HashSet<Key>,
    /// Owners that are not the very ones that they were.
    owners: Vec<OwnerId>,
}

impl<'m> Change<'m> {
    /// From a model, and a node's name, to the next ones. `uses` is by how many endpoints each owner was compiled for.
    pub(super) fn between(
        before: (&'m Model, &'m str),
        now: (&'m Model, &'m str),
        uses: &HashMap<Key, usize>,
    ) -> Self {
        let endpoints = endpoints(before, now);
        let hosts_stay = before.1 == now.1
            && are_the_very(
                &hosts::of_node(before.0, before.1),
                &hosts::of_node(now.0, now.1),
            );
        let hosts = |(model, node): (&Model, &str)| {
            let keys = (!hosts_stay).then(|| hosts::keys(model, node));
            keys.into_iter().flatten()
        };
        let mut more: HashMap<Key, isize> = HashMap::new();
        let new = endpoints.iter().filter_map(|(.., new)| *new);
        for key in new.flat_map(|it| keys_of(it)).chain(hosts(now)) {
            *more.entry(key).or_default() += 1;
        }
        let old = endpoints.iter().filter_map(|(_, old, _)| *old);
        for key in old.flat_map(|it| keys_of(it)).chain(hosts(before)) {
            *more.entry(key).or_default() -= 1;
        }
        let was_used = |key: &Key| uses.contains_key(key);
        let is_used = |key: &Key, more: isize| {
            let before = uses.get(key).copied().unwrap_or_default();
            before.saturating_add_signed(more) > 0
        };
        let changed = more.iter();
        let changed = changed.filter(|(key, more)| was_used(key) != is_used(key, **more));
        let (lost, gained) = changed
            .map(|(key, _)| key.clone())
            .partition(|key| was_used(key));
        Self {
            endpoints,
            uses: more,
            gained,
            lost,
            owners: changed_owners(before.0, now.0),
        }
    }

    /// Counts who uses what.
    pub(super) fn count(&self, uses: &mut HashMap<Key, usize>) {
        for (key, more) in &self.uses {
            let count = uses.entry(key.clone()).or_default();
            *count = count.saturating_add_signed(*more);
            if *count == 0 {
                uses.remove(key);
            }
        }
    }

    /// What has to be compiled: what is new, and of what was compiled before what has changed.
    pub(super) fn redo(&self, compiled: &HashMap<Key, Arc<Compiled>>) -> BTreeSet<Key> {
        let owners = self.owners.iter();
        let keys = owners.flat_map(|owner| DIRECTIONS.map(|direction| (owner.clone(), direction)));
        let changed = keys.filter(|key| compiled.contains_key(key) && !self.lost.contains(key));
        changed.chain(self.gained.iter().cloned()).collect()
    }
}

fn endpoints<'m>(before: (&'m Model, &'m str), now: (&'m Model, &'m str)) -> Vec<Changed<'m>> {
    if before.1 != now.1 {
        let old = workloads_of(before.0, before.1).map(|(id, old)| (id, Some(old), None));
        let new = workloads_of(now.0, now.1).map(|(id, new)| (id, None, Some(new)));
        return old.chain(new).collect();
    }
    let is_ours = |it: &&Arc<Workload>| it.node == now.1;
    let all = now.0.workloads.diff(&before.0.workloads, Arc::ptr_eq);
    let all = all.into_iter();
    all.map(|(id, new, old)| (id, old.filter(is_ours), new.filter(is_ours)))
        .filter(|(_, old, new)| old.is_some() || new.is_some())
        .collect()
}

/// Policies and profiles that are not the very ones of the model before, with those that went.
pub(super) fn changed_owners(before: &Model, now: &Model) -> Vec<OwnerId> {
    let policies = now.policies.diff(&before.policies, Arc::ptr_eq);
    let policies = policies
        .into_iter()
        .map(|(id, ..)| OwnerId::Policy(id.clone()));
    let profiles = now.profiles.diff(&before.profiles, Arc::ptr_eq);
    let profiles = profiles
        .into_iter()
        .map(|(name, ..)| OwnerId::Profile(name.clone()));
    policies.chain(profiles).collect()
}

/// Whether two lists name the very same things.
fn are_the_very<K: PartialEq, V>(one: &[(K, &Arc<V>)], other: &[(K, &Arc<V>)]) -> bool {
    one.len() == other.len()
        && one
            .iter()
            .zip(other)
            .all(|(one, other)| one.0 == other.0 && Arc::ptr_eq(one.1, other.1))
}
