//! From the calculated model to what pollers classify by: chains, IP sets, and the numbers of rules.
//!
//! Incremental: a policy that did not change keeps its compiled form, and a chain all of whose policies did not change stays
//! as it is; of IP sets only members that came or went are touched. All or nothing: what does not fit leaves the policy
//! that is in force as it was.

mod ask;
mod defaults;
mod hosts;
mod numbers;
mod owners;
mod sets;
mod translate;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use fastpath::policy::{Decider, Endpoint, Policies, ToHost};
use flowtable::acl::{
    AclError, Chain, ChainSpec, Compiler, Policy, RuleId, SetError, Tier, TierDefault,
};

use self::defaults::DefaultNumbers;
use self::hosts::Hosts;
use self::numbers::{Name, Numbers};
use self::owners::{Key, OwnerId, keys_of, name_of, rules_of};
use self::sets::IpSets;
use super::ports::{PortRole, PortTable};
use crate::desired::EndpointToHost;
use crate::policy::model::{
    DefaultAction, Direction, Model, PolicyId, TierPolicies, Workload, WorkloadId,
};
use crate::policy::rule::{Action, IpSetId, Rule};
use crate::policy::verdict::RuleRef;

/// Why a policy can not be enforced. The one before stays in force.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// Rules do not fit.
    #[error("policy of {endpoint}: {source}")]
    Rules {
        /// The endpoint whose chain was compiled.
        endpoint: String,
        /// Why.
        source: AclError,
    },
    /// IP sets do not fit.
    #[error(transparent)]
    Sets(#[from] SetError),
    /// There are too many rules.
    #[error("more than {} rules", Decider::MAX_RULES - 1)]
    TooManyRules,
    /// A rule asks for what can not be compiled.
    #[error(
        "{rule}: a rule about ICMP types that also excludes another protocol can not be enforced"
    )]
    Unsupported {
        /// The rule.
        rule: Box<RuleRef>,
    },
}

/// The rules of one owner in one direction, compiled.
#[derive(Clone, Debug)]
struct Compiled {
    /// What it was made of.
    rules: Vec<Rule>,
    /// The numbers of the sets that the rules name, when it was made.
    sets: sets::Snapshot,
    /// Each rule's number.
    ids: Vec<RuleId>,
    policy: Arc<Policy>,
    /// Whether a rule passes.
    passes: bool,
}

/// Policies that stand together. Endpoints that apply the same ones share one list.
type List = Arc<[Arc<Policy>]>;

/// Lists by the identities of their policies, which they keep alive.
#[derive(Debug, Default)]
struct Lists(HashMap<Vec<usize>, List>);

impl Lists {
    /// The list of these policies: one of `before`, if it was there.
    fn of(&mut self, policies: Vec<Arc<Policy>>, before: &Self) -> List {
        let key: Vec<usize> = policies.iter().map(address).collect();
        let known = self.0.get(&key).or_else(|| before.0.get(&key)).cloned();
        let list = known.unwrap_or_else(|| policies.into());
        self.0.entry(key).or_insert(list).clone()
    }

    /// Takes a list over.
    fn keep(&mut self, list: &List) {
        let key = list.iter().map(address).collect();
        self.0.entry(key).or_insert_with(|| Arc::clone(list));
    }
}

fn address(policy: &Arc<Policy>) -> usize {
    Arc::as_ptr(policy) as usize
}

/// What an update made.
type Work = (
    HashMap<Key, Arc<Compiled>>,
    HashMap<(WorkloadId, Direction), Line>,
    Hosts,
    Lists,
    DefaultNumbers,
);

/// One direction of an endpoint.
#[derive(Clone, Debug)]
struct Line {
    tiers: Vec<(TierDefault, List)>,
    profiles: List,
    chain: Chain,
}

impl Line {
    fn lists(&self) -> impl Iterator<Item = &List> {
        let tiers = self.tiers.iter().map(|(_, list)| list);
        tiers.chain([&self.profiles])
    }

    /// Whether one of these policies is in it.
    fn has(&self, policies: &HashSet<usize>) -> bool {
        let mut all = self.lists().flat_map(|list| list.iter());
        !policies.is_empty() && all.any(|policy| policies.contains(&address(policy)))
    }
}

/// Compiles the policy of a node. Owned by the control thread.
#[derive(Debug, Default)]
pub struct PolicyCompiler {
    compiler: Compiler,
    sets: IpSets,
    numbers: Numbers,
    defaults: DefaultNumbers,
    compiled: HashMap<Key, Arc<Compiled>>,
    lines: HashMap<(WorkloadId, Direction), Line>,
    hosts: Hosts,
    lists: Lists,
    node: String,
    /// Endpoints by interface.
    endpoints: BTreeMap<String, (WorkloadId, Endpoint)>,
    to_host: ToHost,
    reevaluate: bool,
    model: Arc<Model>,
}

impl PolicyCompiler {
    /// A compiler whose rules, and whose IP sets, take up to so many bytes.
    pub fn with_limits(rules: usize, sets: usize) -> Self {
        Self {
            compiler: Compiler::with_limit(rules),
            sets: IpSets::with_limit(sets),
            ..Self::default()
        }
    }

    /// Whether connections are judged again when tables change.
    pub const fn set_reevaluate(&mut self, reevaluate: bool) {
        self.reevaluate = reevaluate;
    }

    /// The model in force.
    pub const fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Bytes of compiled rules and of IP sets.
    pub fn memory_bytes(&self) -> (usize, usize) {
        (self.compiler.memory_bytes(), self.sets.memory_bytes())
    }

    /// Takes another model: what it says of the endpoints of `node`.
    ///
    /// # Errors
    /// What does not fit. Then the policy in force is as it was.
    pub fn update(&mut self, model: &Arc<Model>, node: &str) -> Result<(), PolicyError> {
        let local = workloads_of(model, node);
        let endpoints_stay = node == self.node
            && are_the_very(&local, &workloads_of(&self.model, node))
            && are_the_very(
                &hosts::of_node(model, node),
                &hosts::of_node(&self.model, node),
            );
        let (mut compiled, mut redo) = (HashMap::new(), BTreeSet::new());
        if endpoints_stay {
            compiled.clone_from(&self.compiled);
        } else {
            let keys = local.iter().flat_map(|(_, workload)| keys_of(workload));
            for key in keys.chain(hosts::keys(model, node)) {
                if let Some(known) = self.compiled.get(&key) {
                    compiled.insert(key, Arc::clone(known));
                } else {
                    redo.insert(key);
                }
            }
        }
        let changed = changed_policies(&self.model, model);
        let mut named: HashSet<&IpSetId> = HashSet::new();
        for (key, known) in &compiled {
            if is_among(&key.0, &changed) {
                redo.insert(key.clone());
            } else {
                named.extend(known.sets.keys());
            }
        }
        for (owner, direction) in &redo {
            let rules = rules_of(model, owner, *direction).iter();
            named.extend(rules.flat_map(|rule| rule.matches.ip_sets()));
        }
        let named = named.into_iter().cloned().collect();
        let change = self.sets.begin(model, named)?;
        if change.is_renumbered {
            let others = compiled.iter();
            let others = others.filter(|(_, known)| !self.sets.are_numbered(&known.sets));
            redo.extend(others.map(|(key, _)| key.clone()));
        }
        match self.compile(model, node, &local, compiled, &redo) {
            Ok((compiled, lines, hosts, lists, defaults)) => {
                self.compiled = compiled;
                self.lines = lines;
                self.hosts = hosts;
                self.lists = lists;
                self.defaults = defaults;
            }
            Err(error) => {
                self.sets.undo(change);
                return Err(error);
            }
        }
        self.sets.commit(&change);
        let rules = self.compiled.values().flat_map(|it| &it.ids);
        let made = self.defaults.ids().chain(self.hosts.ids());
        self.numbers.retain(rules.chain(made));
        self.endpoints = local
            .into_iter()
            .map(|(id, workload)| {
                let chain = |direction| {
                    let line = self.lines.get(&(id.clone(), direction));
                    line.map(|line| line.chain.clone()).unwrap_or_default()
                };
                let endpoint = Endpoint {
                    active: workload.active,
                    ingress: chain(Direction::Ingress),
                    egress: chain(Direction::Egress),
                    defaults: self.defaults.of_endpoint(workload),
                };
                (workload.interface.clone(), (id.clone(), endpoint))
            })
            .collect();
        self.to_host = match model.settings_of(node).endpoint_to_host {
            EndpointToHost::Accept | EndpointToHost::Return => ToHost::Deliver,
            EndpointToHost::Drop => ToHost::Drop,
            EndpointToHost::Reject => ToHost::Reject,
        };
        self.model = Arc::clone(model);
        node.clone_into(&mut self.node);
        Ok(())
    }

    /// The same model with rules in other places of their files.
    pub fn follow_places(&mut self, model: &Arc<Model>) {
        let changed = changed_policies(&self.model, model);
        let compiled = self.compiled.iter_mut();
        for ((owner, direction), compiled) in compiled.filter(|(key, _)| is_among(&key.0, &changed))
        {
            let rules = rules_of(model, owner, *direction);
            for (rule, id) in rules.iter().zip(&compiled.ids) {
                let name = name_of(model, owner, *direction, rule);
                self.numbers.set_name(*id, Name::Rule(name));
            }
            Arc::make_mut(compiled).rules = rules.to_vec();
        }
        self.model = Arc::clone(model);
    }

    /// Compiles what is in `redo`, and the chains that it is in.
    fn compile(
        &mut self,
        model: &Model,
        node: &str,
        local: &[(&WorkloadId, &Arc<Workload>)],
        mut compiled: HashMap<Key, Arc<Compiled>>,
        redo: &BTreeSet<Key>,
    ) -> Result<Work, PolicyError> {
        let mut replaced = HashSet::new();
        for key in redo {
            let new = Arc::new(self.rules(model, key)?);
            let new_address = address(&new.policy);
            let old = compiled.insert(key.clone(), new);
            let old = old.map(|old| address(&old.policy));
            replaced.extend(old.filter(|old| *old != new_address));
        }
        let (mut lines, mut lists) = (HashMap::new(), Lists::default());
        for &(id, workload) in local {
            let before = self.model.workloads.get(id);
            let stays = before.is_some_and(|before| Arc::ptr_eq(before, workload));
            for direction in [Direction::Ingress, Direction::Egress] {
                let key = (id.clone(), direction);
                let known = self
                    .lines
                    .get(&key)
                    .filter(|line| stays && !line.has(&replaced));
                let line = if let Some(known) = known {
                    known.lists().for_each(|list| lists.keep(list));
                    known.clone()
                } else {
                    self.line(id, workload, direction, &compiled, &mut lists)?
                };
                lines.insert(key, line);
            }
        }
        let hosts = hosts::of_node(model, node);
        let workloads = local.iter().map(|(_, workload)| &***workload);
        let ours = hosts.iter().map(|(_, host)| &***host);
        let defaults = DefaultNumbers::of(workloads, ours, &self.defaults, &mut self.numbers)?;
        let hosts = self.compile_hosts(model.settings_of(node), &hosts, &compiled, &mut lists)?;
        Ok((compiled, lines, hosts, lists, defaults))
    }

    /// Compiles the rules of an owner in a direction, or takes what was compiled of the same.
    fn rules(&mut self, model: &Model, key: &Key) -> Result<Compiled, PolicyError> {
        let (owner, direction) = key;
        let rules = rules_of(model, owner, *direction);
        let sets = self.sets.snapshot_of(rules);
        let known = self.compiled.get(key);
        if let Some(known) = known.filter(|known| known.rules == rules && known.sets == sets) {
            let mut known = Compiled::clone(known);
            for (rule, id) in rules.iter().zip(&known.ids) {
                // It may have moved in its file.
                let name = name_of(model, owner, *direction, rule);
                self.numbers.set_name(*id, Name::Rule(name));
            }
            known.rules = rules.to_vec();
            return Ok(known);
        }
        let before = known.cloned();
        let mut ids = Vec::with_capacity(rules.len());
        let mut policy = Policy::default();
        for (at, rule) in rules.iter().enumerate() {
            let name = name_of(model, owner, *direction, rule);
            // A rule that stays what it was where it was goes on counting.
            let same = before.as_ref().and_then(|before| {
                let is_same = before.rules.get(at) == Some(rule);
                before.ids.get(at).filter(|_| is_same).copied()
            });
            let id = match same {
                Some(id) => id,
                None => self.numbers.take().ok_or(PolicyError::TooManyRules)?,
            };
            let translated = translate::rule(rule, id, &self.sets);
            let Ok(translated) = translated else {
                let rule = Box::new(name);
                return Err(PolicyError::Unsupported { rule });
            };
            policy.rules.extend(translated);
            self.numbers.set_name(id, Name::Rule(name));
            ids.push(id);
        }
        Ok(Compiled {
            sets,
            ids,
            passes: rules.iter().any(|rule| rule.action == Action::Pass),
            rules: rules.to_vec(),
            policy: Arc::new(policy),
        })
    }

    fn line(
        &mut self,
        id: &WorkloadId,
        workload: &Workload,
        direction: Direction,
        compiled: &HashMap<Key, Arc<Compiled>>,
        lists: &mut Lists,
    ) -> Result<Line, PolicyError> {
        let mut list = |policies| lists.of(policies, &self.lists);
        let of = |owner: OwnerId| compiled.get(&(owner, direction));
        let mut tiers: Vec<_> = workload
            .tiers
            .iter()
            .map(|tier| {
                let default = match tier.default_action {
                    DefaultAction::Deny => TierDefault::Deny,
                    DefaultAction::Pass => TierDefault::Pass,
                };
                (default, list(enforced(tier, direction, compiled)))
            })
            .collect();
        let profiles: Vec<_> = workload
            .profiles
            .iter()
            .filter_map(|name| of(OwnerId::Profile(name.clone())))
            .collect();
        let policies = profiles.iter().map(|compiled| Arc::clone(&compiled.policy));
        let profiles = if profiles.iter().any(|compiled| compiled.passes) {
            // Pass in a profile leaves what is left of it, and not the other profiles.
            tiers.extend(policies.map(|policy| (TierDefault::Pass, list(vec![policy]))));
            List::default()
        } else {
            list(policies.collect())
        };
        if let Some(known) = self.lines.get(&(id.clone(), direction))
            && are_same(&known.tiers, &tiers)
            && Arc::ptr_eq(&known.profiles, &profiles)
        {
            return Ok(known.clone());
        }
        let spec = ChainSpec {
            tiers: tiers
                .iter()
                .map(|(default, policies)| Tier {
                    policies: Arc::clone(policies),
                    default: *default,
                })
                .collect(),
            profiles: Arc::clone(&profiles),
            allow_at_end: false,
        };
        let chain = self.compiler.chain(&spec);
        let chain = chain.map_err(|source| PolicyError::Rules {
            endpoint: id.to_string(),
            source,
        })?;
        Ok(Line {
            tiers,
            profiles,
            chain,
        })
    }

    /// The policy in force, by port. `addresses` are those of an interface, by its index.
    pub fn policies(&self, ports: &PortTable, addresses: &dyn Fn(u32) -> Vec<IpAddr>) -> Policies {
        let mut endpoints = vec![None; ports.len()];
        for (id, spec) in ports.iter().filter(|(_, spec)| spec.role == PortRole::Pod) {
            if let Some(slot) = endpoints.get_mut(usize::from(id.0)) {
                let endpoint = self.endpoints.get(&spec.name);
                *slot = endpoint.map(|(_, endpoint)| endpoint.clone());
            }
        }
        Policies {
            endpoints,
            hosts: self.host_endpoints(ports, addresses).map(Arc::new),
            sets: self.sets.readers(),
            to_host: self.to_host,
            reevaluate: self.reevaluate,
            unknown: self.defaults.unknown(),
            counters: self.numbers.counters().clone(),
        }
    }
}

/// The endpoints of a node, with their names.
fn workloads_of<'m>(model: &'m Model, node: &str) -> Vec<(&'m WorkloadId, &'m Arc<Workload>)> {
    let all = model.workloads.iter();
    all.filter(|(_, workload)| workload.node == node).collect()
}

/// Whether two lists name the very same things.
fn are_the_very<K: PartialEq, V>(one: &[(K, &Arc<V>)], other: &[(K, &Arc<V>)]) -> bool {
    one.len() == other.len()
        && one
            .iter()
            .zip(other)
            .all(|(one, other)| one.0 == other.0 && Arc::ptr_eq(one.1, other.1))
}

/// Policies that are not the very ones of the time before, with those that went.
fn changed_policies(before: &Model, now: &Model) -> HashSet<PolicyId> {
    let differ = |one: &Model, other: &Model| {
        let mut others = other.policies.iter().peekable();
        let is_new = |(id, policy): &(&PolicyId, &Arc<crate::policy::model::Policy>)| {
            while others.next_if(|(other, _)| other < id).is_some() {}
            let same = others.next_if(|(other, _)| other == id);
            !same.is_some_and(|(_, same)| Arc::ptr_eq(same, policy))
        };
        let new: Vec<_> = one.policies.iter().filter(is_new).collect();
        new.into_iter()
            .map(|(id, _)| id.clone())
            .collect::<Vec<_>>()
    };
    let mut all: HashSet<_> = differ(now, before).into_iter().collect();
    all.extend(differ(before, now));
    all
}

/// Whether an owner is one of these policies, or a profile: of them there are few, and they are compared as they are.
fn is_among(owner: &OwnerId, policies: &HashSet<PolicyId>) -> bool {
    match owner {
        OwnerId::Policy(id) => policies.contains(id),
        OwnerId::Profile(_) => true,
    }
}

/// The policies of a tier that decide about packets.
fn enforced(
    tier: &TierPolicies,
    direction: Direction,
    compiled: &HashMap<Key, Arc<Compiled>>,
) -> Vec<Arc<Policy>> {
    let ids = tier.of(direction).iter().filter(|id| !id.kind.is_staged());
    ids.filter_map(|id| compiled.get(&(OwnerId::Policy(id.clone()), direction)))
        .map(|compiled| Arc::clone(&compiled.policy))
        .collect()
}

fn are_same(one: &[(TierDefault, List)], other: &[(TierDefault, List)]) -> bool {
    one.len() == other.len()
        && one
            .iter()
            .zip(other)
            .all(|(one, other)| one.0 == other.0 && Arc::ptr_eq(&one.1, &other.1))
}

#[cfg(test)]
mod tests;
