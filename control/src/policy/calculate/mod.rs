//! Resources to the calculated model: what Felix's calculation graph does, for files.
//!
//! All selectors, those of policies and those of rules, live in one [`Index`] with all that they can select. It tells of
//! each change what it selects and ceases to select, so that a change of one label, or of one policy, is carried through
//! to the sets and endpoints it concerns and to nothing else.

mod applying;
mod items;
mod order;
mod rules;
mod sets;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use self::items::{Item, ItemId, Items};
use self::order::{Tier, apply_alike, is_known, tiers, tiers_are_known};
use self::rules::{RuleBuilder, WantedSet, endpoints_of};
use self::sets::SetUses;
use super::model::{self, Model, Policy, PolicyId, Settings, SharedMap, WorkloadId};
use super::resource::{self, PolicyResource, PolicyResources, Profile};
use super::rule::{IpSetId, Origin};
use super::selector::index::{Change, Index};
use crate::config::diagnostic::{Diagnostic, Diagnostics};
use crate::config::kinds::WorkloadEndpoint;
use crate::config::source::Span;
use crate::config::{Located, felix};

/// The calculated model of resources, and what is remarkable about it.
///
/// # Errors
/// What policies refer to and is not there. Warnings are among the findings.
pub fn calculate(resources: &PolicyResources) -> Result<(Model, Diagnostics), Diagnostics> {
    let (model, findings) = Calculator::default().calculate(resources)?;
    Ok((Arc::unwrap_or_clone(model), findings))
}

/// What a selector is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Purpose {
    /// The endpoints of a policy.
    Policy(PolicyId),
    /// The members of a set.
    Set(IpSetId),
}

/// Calculates the model of resources again and again. It gives what [`calculate`] would; what follows from resources that
/// are the very ones of the time before is kept.
#[derive(Debug, Default)]
pub struct Calculator {
    index: Index<Purpose, ItemId>,
    items: BTreeMap<ItemId, Item>,
    tiers: Vec<Tier>,
    policies: HashMap<PolicyId, Known>,
    /// Policies by the addresses of their resources.
    names: HashMap<usize, PolicyId>,
    /// Policies that select no endpoint.
    idle: BTreeSet<PolicyId>,
    sets: SetUses,
    workloads: BTreeMap<WorkloadId, Arc<WorkloadEndpoint>>,
    hosts: BTreeMap<String, Arc<resource::HostEndpoint>>,
    /// What is remarkable about all but policies.
    findings: Diagnostics,
    /// What the above gave, also where it was refused.
    model: Arc<Model>,
}

/// What follows from one policy.
#[derive(Debug)]
struct Known {
    resource: Arc<PolicyResource>,
    /// The sets that its rules need.
    sets: BTreeMap<IpSetId, WantedSet>,
}

/// What has to be looked at again.
#[derive(Debug, Default)]
struct Touched {
    /// Selectors that select others than before.
    selectors: BTreeSet<Purpose>,
    /// Items to which other policies apply, or policies that have changed.
    items: BTreeSet<ItemId>,
    /// All endpoints.
    all: bool,
}

impl Touched {
    fn has(&self, item: &ItemId) -> bool {
        self.all || self.items.contains(item)
    }

    fn note(&mut self, changes: Vec<Change<Purpose, ItemId>>) {
        for change in changes {
            if matches!(change.selector, Purpose::Policy(_)) {
                self.items.insert(change.item);
            }
            self.selectors.insert(change.selector);
        }
    }
}

impl Calculator {
    /// The calculated model of resources, and what is remarkable about it.
    ///
    /// # Errors
    /// As [`calculate`].
    pub fn calculate(
        &mut self,
        resources: &PolicyResources,
    ) -> Result<(Arc<Model>, Diagnostics), Diagnostics> {
        let (mut findings, mut touched) = (Diagnostics::default(), Touched::default());
        let mut model = Model::clone(&self.model);
        model.settings = settings(resources, "");
        let tiers = tiers(resources);
        tiers_are_known(resources, &tiers, &mut findings);
        touched.all = tiers != self.tiers;
        self.tiers = tiers;
        let Items {
            all,
            workloads,
            profiles,
        } = Items::new(resources, &mut findings);
        self.take_items(all, &mut touched);
        let (gone, new) = self.compare(resources);
        let mut needed = self.take_policies(&gone, &new, &mut model, &mut touched);
        let mut builder = RuleBuilder::default();
        let written = written(&profiles, &mut builder);
        model.profiles.retain(|name, _| written.contains_key(name));
        // Also what is equal: its rules may have moved in their file.
        for (name, profile) in written {
            model.profiles.insert(name, Arc::new(profile));
        }
        needed.extend(self.sets.set_profiles(builder.sets));
        self.take_sets(needed, &mut model, &mut touched);

        model.node_settings = BTreeMap::new();
        let mut add_settings = |node: &String| {
            if !model.node_settings.contains_key(node) {
                let settings = settings(resources, node);
                model.node_settings.insert(node.clone(), settings);
            }
        };
        model.workloads.retain(|id, _| workloads.contains_key(id));
        for (id, endpoint) in &workloads {
            add_settings(&endpoint.node.value);
            let before = self.workloads.get(id);
            let item = ItemId::Workload(id.clone());
            if !before.is_some_and(|it| Arc::ptr_eq(it, endpoint)) || touched.has(&item) {
                let value = self.workload(endpoint, &item);
                keep_or_insert(&mut model.workloads, id, value);
            }
        }
        let hosts: BTreeMap<&String, &Arc<resource::HostEndpoint>> = resources
            .host_endpoints
            .iter()
            .map(|endpoint| (&endpoint.meta.name.value, endpoint))
            .collect();
        model
            .host_endpoints
            .retain(|name, _| hosts.contains_key(name));
        for (&name, endpoint) in &hosts {
            add_settings(&endpoint.node.value);
            let before = self.hosts.get(name);
            let item = ItemId::Host(name.clone());
            if !before.is_some_and(|it| Arc::ptr_eq(it, endpoint)) || touched.has(&item) {
                let value = self.host(endpoint, &item);
                keep_or_insert(&mut model.host_endpoints, name, value);
            }
        }
        self.workloads = workloads
            .into_iter()
            .map(|(id, endpoint)| (id, Arc::clone(endpoint)))
            .collect();
        self.hosts = hosts
            .into_iter()
            .map(|(name, endpoint)| (name.clone(), Arc::clone(endpoint)))
            .collect();
        self.findings = findings;
        let findings = self.conclude(&touched);
        self.model = Arc::new(model);
        if findings.has_errors() {
            return Err(findings);
        }
        Ok((Arc::clone(&self.model), findings))
    }

    /// The same where nothing but policies has come and gone since the model before, which was not refused. None if one of
    /// them can not be taken like that; then nothing has changed, and all resources must be looked at.
    pub fn change_policies(
        &mut self,
        gone: &[Arc<PolicyResource>],
        new: &[Arc<PolicyResource>],
    ) -> Option<(Arc<Model>, Diagnostics)> {
        let gone: Option<Vec<PolicyId>> = gone
            .iter()
            .filter(|policy| !policy.deletes)
            .map(|policy| self.names.get(&address(policy)).cloned())
            .collect();
        let gone = gone?;
        let new: Vec<_> = new.iter().filter(|policy| !policy.deletes).collect();
        let mut names: HashSet<PolicyId> = gone.iter().cloned().collect();
        for policy in &new {
            let id = policy_id(policy);
            let is_free = names.remove(&id) || !self.policies.contains_key(&id);
            if !is_free || !is_known(&self.tiers, policy) {
                return None;
            }
        }
        if new
            .iter()
            .map(|it| policy_id(it))
            .collect::<HashSet<_>>()
            .len()
            < new.len()
        {
            return None;
        }
        let (mut model, mut touched) = (Model::clone(&self.model), Touched::default());
        let needed = self.take_policies(&gone, &new, &mut model, &mut touched);
        self.take_sets(needed, &mut model, &mut touched);
        for item in &touched.items {
            match item {
                ItemId::Workload(id) => {
                    if let Some(endpoint) = self.workloads.get(id) {
                        let value = self.workload(endpoint, item);
                        keep_or_insert(&mut model.workloads, id, value);
                    }
                }
                ItemId::Host(name) => {
                    if let Some(endpoint) = self.hosts.get(name) {
                        let value = self.host(endpoint, item);
                        keep_or_insert(&mut model.host_endpoints, name, value);
                    }
                }
                ItemId::Set(..) => {}
            }
        }
        let findings = self.conclude(&touched);
        self.model = Arc::new(model);
        Some((Arc::clone(&self.model), findings))
    }

    /// Policies that are not there any more, and those that are new, or are not the very ones that they were.
    fn compare<'r>(
        &self,
        resources: &'r PolicyResources,
    ) -> (Vec<PolicyId>, Vec<&'r Arc<PolicyResource>>) {
        // What stands for a deletion is left out.
        let all = resources.policies.iter().filter(|policy| !policy.deletes);
        let addresses: HashSet<usize> = all.clone().map(address).collect();
        let gone = self.names.iter().filter(|(at, _)| !addresses.contains(at));
        let gone = gone.map(|(_, id)| id.clone()).collect();
        let new = all.filter(|policy| !self.names.contains_key(&address(policy)));
        (gone, new.collect())
    }

    /// Takes what can be selected.
    fn take_items(&mut self, items: BTreeMap<ItemId, Item>, touched: &mut Touched) {
        let gone = self.items.keys().filter(|id| !items.contains_key(id));
        for id in gone {
            touched.note(self.index.remove_item(id));
        }
        for (id, item) in &items {
            if self.items.get(id) != Some(item) {
                touched.note(self.index.set_item(id, item.labels.clone()));
                // Who selects it has other members, also where nobody else selects it.
                touched
                    .selectors
                    .extend(self.index.selectors_of(id).cloned());
            }
        }
        self.items = items;
    }

    /// Takes policies away, and takes others, some of the same names. Returns the sets that more or fewer of them need.
    fn take_policies(
        &mut self,
        gone: &[PolicyId],
        new: &[&Arc<PolicyResource>],
        model: &mut Model,
        touched: &mut Touched,
    ) -> BTreeSet<IpSetId> {
        let mut needed = BTreeSet::new();
        let mut before: HashMap<&PolicyId, Known> = HashMap::new();
        for id in gone {
            if let Some(known) = self.policies.remove(id) {
                self.names.remove(&address(&known.resource));
                self.sets.remove(id, known.sets.keys());
                needed.extend(known.sets.keys().cloned());
                before.insert(id, known);
            }
        }
        for resource in new {
            let id = policy_id(resource);
            let purpose = Purpose::Policy(id.clone());
            let selects = endpoints_of(resource);
            touched.note(self.index.set_selector(&purpose, selects));
            let was = before.remove(&id);
            if !was.is_some_and(|was| apply_alike(&was.resource, resource)) {
                let selected = self.index.selected(&purpose).cloned();
                touched.items.extend(selected);
            }
            touched.selectors.insert(purpose);
            let mut builder = RuleBuilder::default();
            let policy = Policy {
                tier: resource.tier.value.as_str().into(),
                rules: builder.policy(resource),
                origin: Origin {
                    at: Some(resource.meta.name.at.clone()),
                    ..Origin::default()
                },
            };
            model.policies.insert(id.clone(), Arc::new(policy));
            let sets = builder.sets;
            self.sets.add(&id, sets.keys());
            needed.extend(sets.keys().cloned());
            self.names.insert(address(resource), id.clone());
            let resource = Arc::clone(resource);
            self.policies.insert(id, Known { resource, sets });
        }
        for id in before.into_keys() {
            model.policies.remove(id);
            let purpose = Purpose::Policy(id.clone());
            touched.note(self.index.remove_selector(&purpose));
            touched.selectors.insert(purpose);
        }
        needed
    }

    /// What is remarkable, after selectors have been touched.
    fn conclude(&mut self, touched: &Touched) -> Diagnostics {
        for purpose in &touched.selectors {
            if let Purpose::Policy(id) = purpose {
                let selected = self.index.selected(purpose);
                let mut endpoints = selected.filter(|item| !matches!(item, ItemId::Set(..)));
                if self.policies.contains_key(id) && endpoints.next().is_none() {
                    self.idle.insert(id.clone());
                } else {
                    self.idle.remove(id);
                }
            }
        }
        let mut findings = self.findings.clone();
        if !self.items.is_empty() {
            let idle = self.idle.iter().filter_map(|id| self.policies.get(id));
            let idle = idle.map(|it| selects_nothing(&it.resource));
            findings.0.extend(idle);
            findings.0.extend(self.sets.are_empty(&self.policies));
        }
        findings.sort();
        findings
    }
}

/// The address of a resource, by which it is known while something keeps it.
fn address(resource: &Arc<PolicyResource>) -> usize {
    Arc::as_ptr(resource) as usize
}

/// Puts a value into a map, unless it is there: what is equal stays the very same.
fn keep_or_insert<K: Ord + Clone, V: PartialEq>(map: &mut SharedMap<K, Arc<V>>, key: &K, value: V) {
    if map.get(key).is_none_or(|before| **before != value) {
        map.insert(key.clone(), Arc::new(value));
    }
}

/// The rules of profiles. Those that no file has, have no place.
fn written(
    profiles: &BTreeMap<String, (Arc<Profile>, bool)>,
    builder: &mut RuleBuilder,
) -> BTreeMap<String, model::Profile> {
    let mut all = BTreeMap::new();
    for (name, (profile, is_written)) in profiles {
        let mut rules = builder.profile(profile);
        if !is_written {
            let all = rules.inbound.iter_mut().chain(&mut rules.outbound);
            all.for_each(|rule| rule.origin.at = None);
        }
        all.insert(name.clone(), model::Profile { rules });
    }
    all
}

fn selects_nothing(policy: &PolicyResource) -> Diagnostic {
    let selector = policy.selector.as_ref();
    let at = selector.map_or(&policy.meta.name.at, |own| &own.at);
    Diagnostic::warning("the policy selects no endpoint")
        .at(at, "no endpoint of these files satisfies this")
        .about(policy.meta.label())
}

/// What names a policy in the model.
pub fn policy_id(policy: &PolicyResource) -> PolicyId {
    PolicyId {
        kind: policy.kind,
        namespace: policy.meta.namespace.as_deref().map(Into::into),
        name: policy.meta.name.value.as_str().into(),
    }
}

fn settings(resources: &PolicyResources, node: &str) -> Settings {
    let felix = felix(&resources.base, node);
    let all = &resources.base.felix;
    let named = |name: String| {
        let all = all.iter().map(|felix| &**felix);
        all.filter(move |felix| felix.meta.name.value == name)
    };
    let ours = named("default".to_owned()).chain(named(format!("node.{node}")));
    Settings::of(&felix, ours)
}

/// A place in a resource, and the resource's name.
type Use = (Span, String);

/// A profile that is not there denies all, as in Felix.
fn missing(name: &str, at: &Located<()>) -> Profile {
    let mut profile = Profile::allowing_all(name.to_owned(), BTreeMap::new(), &at.at);
    let all = profile.ingress.iter_mut().chain(&mut profile.egress);
    all.for_each(|rule| rule.action = super::rule::Action::Deny);
    profile
}

pub use items::workload_id;
