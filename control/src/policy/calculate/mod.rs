//! Resources to the calculated model: what Felix's calculation graph does, for files.
//!
//! All selectors, those of policies and those of rules, live in one [`Index`] with all that they can select. It tells of
//! each change what it selects and ceases to select, so that a change of one label, or of one policy, is carried through
//! to the sets and endpoints it concerns and to nothing else.

mod items;
mod order;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use self::items::{Item, ItemId, Items};
use self::order::{Tier, by_tier, in_order, tiers, tiers_are_known};
use self::rules::{RuleBuilder, WantedSet, endpoints_of};
use super::model::{
    self, HostEndpoint, IpPort, IpSet, Model, Policy, PolicyId, Settings, Workload, WorkloadId,
};
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
    /// By the addresses of their resources.
    policies: HashMap<usize, Known>,
    /// Policies that select no endpoint.
    idle: BTreeSet<PolicyId>,
    workloads: BTreeMap<WorkloadId, Arc<WorkloadEndpoint>>,
    hosts: BTreeMap<String, Arc<resource::HostEndpoint>>,
    /// What the above gave, also where it was refused.
    model: Arc<Model>,
}

/// What follows from one policy.
#[derive(Debug)]
struct Known {
    resource: Arc<PolicyResource>,
    id: PolicyId,
    /// The sets that its rules need.
    sets: BTreeMap<IpSetId, WantedSet>,
    /// Place among all policies.
    place: usize,
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
        let policies = in_order(resources);
        self.take_policies(&policies, &mut model, &mut touched);
        let mut builder = RuleBuilder::default();
        model.profiles = written(&profiles, &mut builder);
        let known = policies
            .iter()
            .filter_map(|it| self.policies.get(&address(it)));
        let mut sets: HashMap<&IpSetId, &WantedSet> = HashMap::new();
        for (id, set) in known.clone().flat_map(|it| &it.sets).chain(&builder.sets) {
            let first = sets.entry(id).or_insert(set);
            // Not everybody who needs a set is worth a remark.
            if first.used_by.is_none() {
                *first = set;
            }
        }
        let policies: HashMap<&PolicyId, &Known> = known.map(|it| (&it.id, it)).collect();
        take_sets(
            &sets,
            &mut self.index,
            &self.items,
            &mut model,
            &mut touched,
        );
        let applying = Applying {
            index: &self.index,
            tiers: &self.tiers,
            policies: &policies,
        };
        let mut nodes = BTreeMap::new();
        let mut add_settings = |node: &String| {
            if !nodes.contains_key(node) {
                nodes.insert(node.clone(), settings(resources, node));
            }
        };
        model.workloads.retain(|id, _| workloads.contains_key(id));
        for (id, endpoint) in &workloads {
            add_settings(&endpoint.node.value);
            let before = self.workloads.get(id);
            let item = ItemId::Workload(id.clone());
            if !before.is_some_and(|it| Arc::ptr_eq(it, endpoint)) || touched.has(&item) {
                let value = applying.workload(endpoint, &item);
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
                let value = applying.host(endpoint, &item);
                keep_or_insert(&mut model.host_endpoints, name, value);
            }
        }
        model.node_settings = nodes;
        for purpose in touched.selectors {
            if let Purpose::Policy(id) = &purpose {
                let selected = self.index.selected(&purpose);
                let mut endpoints = selected.filter(|item| !matches!(item, ItemId::Set(..)));
                if policies.contains_key(id) && endpoints.next().is_none() {
                    self.idle.insert(id.clone());
                } else {
                    self.idle.remove(id);
                }
            }
        }
        if !self.items.is_empty() {
            let idle = self.idle.iter().filter_map(|id| policies.get(id));
            findings
                .0
                .extend(idle.map(|it| selects_nothing(&it.resource)));
            findings.0.extend(are_empty(&model, &sets));
        }
        self.workloads = workloads
            .into_iter()
            .map(|(id, endpoint)| (id, Arc::clone(endpoint)))
            .collect();
        self.hosts = hosts
            .into_iter()
            .map(|(name, endpoint)| (name.clone(), Arc::clone(endpoint)))
            .collect();
        self.model = Arc::new(model);
        findings.sort();
        if findings.has_errors() {
            return Err(findings);
        }
        Ok((Arc::clone(&self.model), findings))
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

    /// Takes policies in their order. One that has changed goes, and comes.
    fn take_policies(
        &mut self,
        policies: &[&Arc<PolicyResource>],
        model: &mut Model,
        touched: &mut Touched,
    ) {
        let all: HashSet<usize> = policies.iter().map(|it| address(it)).collect();
        for (_, gone) in self.policies.extract_if(|at, _| !all.contains(at)) {
            model.policies.remove(&gone.id);
            let purpose = Purpose::Policy(gone.id);
            touched.note(self.index.remove_selector(&purpose));
            touched.selectors.insert(purpose);
        }
        for (place, resource) in policies.iter().enumerate() {
            let known = self.policies.entry(address(resource)).or_insert_with(|| {
                let id = policy_id(resource);
                let purpose = Purpose::Policy(id.clone());
                let selects = endpoints_of(resource);
                touched.note(self.index.set_selector(&purpose, selects));
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
                Known {
                    resource: Arc::clone(resource),
                    id,
                    sets: builder.sets,
                    place,
                }
            });
            known.place = place;
        }
    }
}

/// The address of a resource, by which it is known while something keeps it.
fn address(resource: &Arc<PolicyResource>) -> usize {
    Arc::as_ptr(resource) as usize
}

/// Puts a value into a map, unless it is there: what is equal stays the very same.
fn keep_or_insert<K: Ord + Clone, V: PartialEq>(map: &mut BTreeMap<K, Arc<V>>, key: &K, value: V) {
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

/// Takes the sets that rules need, and resolves those to their members that have others than before.
fn take_sets(
    sets: &HashMap<&IpSetId, &WantedSet>,
    index: &mut Index<Purpose, ItemId>,
    items: &BTreeMap<ItemId, Item>,
    model: &mut Model,
    touched: &mut Touched,
) {
    model.ip_sets.retain(|id, _| {
        let is_needed = sets.contains_key(id);
        if !is_needed {
            index.remove_selector(&Purpose::Set(id.clone()));
        }
        is_needed
    });
    for (id, set) in sets {
        if !model.ip_sets.contains_key(*id) {
            let purpose = Purpose::Set((*id).clone());
            index.set_selector(&purpose, set.expr.clone());
            touched.selectors.insert(purpose);
        }
    }
    for purpose in &touched.selectors {
        if let Purpose::Set(id) = purpose
            && let Some(set) = sets.get(id)
        {
            let selected = index.selected(purpose);
            let selected = selected.filter_map(|item| items.get(item));
            keep_or_insert(&mut model.ip_sets, id, members(set, selected));
        }
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

/// Which policies apply to endpoints, and in which order.
struct Applying<'c> {
    index: &'c Index<Purpose, ItemId>,
    tiers: &'c [Tier],
    policies: &'c HashMap<&'c PolicyId, &'c Known>,
}

impl Applying<'_> {
    fn workload(&self, endpoint: &WorkloadEndpoint, item: &ItemId) -> Workload {
        let applies = self.to(item);
        let normal = |policy: &PolicyResource| !policy.do_not_track && !policy.pre_dnat;
        let interface = endpoint.interface.as_ref();
        Workload {
            node: endpoint.node.value.clone(),
            interface: interface.map(|name| name.value.clone()).unwrap_or_default(),
            active: true,
            nets: endpoint
                .addresses
                .iter()
                .map(|address| address.value.into())
                .collect(),
            spoofable: endpoint.spoofable.iter().map(|net| net.value).collect(),
            profiles: endpoint.profiles.clone(),
            tiers: by_tier(self.tiers, &applies, normal),
        }
    }

    fn host(&self, endpoint: &resource::HostEndpoint, item: &ItemId) -> HostEndpoint {
        let applies = self.to(item);
        let of = |wanted: &dyn Fn(&PolicyResource) -> bool| by_tier(self.tiers, &applies, wanted);
        let is_normal = |policy: &PolicyResource| !policy.do_not_track && !policy.pre_dnat;
        let interface = endpoint.interface.as_ref();
        HostEndpoint {
            node: endpoint.node.value.clone(),
            interface: interface.map(|name| name.value.clone()).unwrap_or_default(),
            expected: endpoint.expected.clone(),
            profiles: endpoint
                .profiles
                .iter()
                .map(|name| name.value.clone())
                .collect(),
            normal: of(&is_normal),
            forward: of(&|policy| is_normal(policy) && policy.apply_on_forward),
            pre_dnat: of(&|policy| policy.pre_dnat),
            untracked: of(&|policy| policy.do_not_track),
        }
    }

    /// The policies that apply to an endpoint, in order.
    fn to(&self, item: &ItemId) -> Vec<&PolicyResource> {
        let mut found: Vec<&Known> = self
            .index
            .selectors_of(item)
            .filter_map(|purpose| match purpose {
                Purpose::Policy(id) => self.policies.get(id).copied(),
                Purpose::Set(_) => None,
            })
            .collect();
        found.sort_unstable_by_key(|known| known.place);
        found.into_iter().map(|known| &*known.resource).collect()
    }
}

fn selects_nothing(policy: &PolicyResource) -> Diagnostic {
    let selector = policy.selector.as_ref();
    let at = selector.map_or(&policy.meta.name.at, |own| &own.at);
    Diagnostic::warning("the policy selects no endpoint")
        .at(at, "no endpoint of these files satisfies this")
        .about(policy.meta.label())
}

/// Points out sets without members, where they are asked for first.
fn are_empty(model: &Model, sets: &HashMap<&IpSetId, &WantedSet>) -> Vec<Diagnostic> {
    let is_empty = |set: &IpSet| match set {
        IpSet::Nets(nets) => nets.is_empty(),
        IpSet::IpPorts(ports) => ports.is_empty(),
    };
    let empty = model.ip_sets.iter().filter(|(_, set)| is_empty(set));
    let about = empty.filter_map(|(id, _)| {
        let set = sets.get(id)?;
        let (at, resource) = set.used_by.as_ref()?;
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
    let mut settings = Settings {
        endpoint_to_host: felix.endpoint_to_host,
        vxlan_port: felix.vxlan_port,
        allow_vxlan_from_workloads: felix.allow_vxlan_from_workloads,
        allow_ipip_from_workloads: felix.allow_ipip_from_workloads,
        disable_conntrack_invalid_check: felix.disable_conntrack_invalid_check,
        ..Settings::default()
    };
    for name in ["default".to_owned(), format!("node.{node}")] {
        let found = resources
            .base
            .felix
            .iter()
            .filter(|felix| felix.meta.name.value == name);
        for felix in found {
            if let Some(ports) = &felix.failsafe_inbound {
                settings.failsafe_inbound.clone_from(ports);
            }
            if let Some(ports) = &felix.failsafe_outbound {
                settings.failsafe_outbound.clone_from(ports);
            }
        }
    }
    settings
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
