//! From the calculated model to what pollers classify by: chains, IP sets, and the numbers of rules.
//!
//! Incremental: a policy that did not change keeps its compiled form, and a chain all of whose policies did not change stays
//! as it is; of IP sets only members that came or went are touched. All or nothing: what does not fit leaves the policy
//! that is in force as it was.

mod ask;
mod change;
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

use self::change::{Change, changed_owners};
use self::defaults::{DIRECTIONS, DefaultNumbers};
use self::hosts::Hosts;
use self::numbers::{Name, Numbers};
use self::owners::{Key, OwnerId, name_of, rules_of};
use self::sets::IpSets;
use super::ports::{PortRole, PortTable};
use crate::desired::EndpointToHost;
use crate::policy::model::{DefaultAction, Direction, Model, TierPolicies, Workload, WorkloadId};
use crate::policy::rule::{Action, Rule};
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
    /// The list of these policies.
    fn of(&mut self, policies: Vec<Arc<Policy>>) -> List {
        let key = policies.iter().map(address).collect();
        let list = self.0.entry(key).or_insert_with(|| policies.into());
        Arc::clone(list)
    }

    /// Forgets lists that nobody has any more.
    fn sweep(&mut self) {
        self.0.retain(|_, list| Arc::strong_count(list) > 1);
    }
}

fn address(policy: &Arc<Policy>) -> usize {
    Arc::as_ptr(policy) as usize
}

/// Compiled rules by their owners: those that were made anew, and those from before.
#[derive(Debug, Default)]
struct Known {
    made: HashMap<Key, Arc<Compiled>>,
    before: HashMap<Key, Arc<Compiled>>,
}

impl Known {
    fn get(&self, key: &Key) -> Option<&Arc<Compiled>> {
        self.made.get(key).or_else(|| self.before.get(key))
    }
}

/// What an update made: lines of endpoints that have others than before, and the rest.
type Work = (Vec<(WorkloadId, [Line; 2])>, Hosts, DefaultNumbers);

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

    /// Whether one of these policies, which are sorted, is in it.
    fn has(&self, policies: &[usize]) -> bool {
        let mut all = self.lists().flat_map(|list| list.iter());
        !policies.is_empty() && all.any(|policy| policies.binary_search(&address(policy)).is_ok())
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
    /// How many endpoints, and chains of host endpoints, each is compiled for.
    uses: HashMap<Key, usize>,
    /// Ingress and egress of endpoints.
    lines: HashMap<WorkloadId, [Line; 2]>,
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
        let (before, node_before) = (Arc::clone(&self.model), self.node.clone());
        let change = Change::between((&before, &node_before), (model, node), &self.uses);
        let mut redo = change.redo(&self.compiled);
        let sets = self
            .sets
            .begin(model, &before, &redo, &change.lost, &self.compiled)?;
        redo.extend(self.sets.renumbered_users(&sets, &change.lost));
        self.numbers.begin();
        let mut known = Known {
            made: HashMap::with_capacity(redo.len()),
            before: std::mem::take(&mut self.compiled),
        };
        let outcome = self.compile(model, node, &change, &redo, &mut known);
        let Known { made, before } = known;
        self.compiled = before;
        let (lines, hosts, defaults) = match outcome {
            Ok(work) => work,
            Err(error) => {
                self.sets.undo(sets);
                self.numbers.give_back();
                self.lists.sweep();
                return Err(error);
            }
        };
        let mut gone = Vec::new();
        for key in &change.lost {
            gone.extend(self.replace(key, None));
        }
        for (key, compiled) in made {
            gone.extend(self.replace(&key, Some(compiled)));
        }
        for (id, old, new) in &change.endpoints {
            if old.is_some() && new.is_none() {
                self.lines.remove(*id);
            }
        }
        self.lines.extend(lines);
        gone.extend(self.hosts.ids().chain(self.defaults.ids()));
        let made: HashSet<RuleId> = hosts.ids().chain(defaults.ids()).copied().collect();
        gone.retain(|id| !made.contains(id));
        self.numbers.release(gone);
        self.hosts = hosts;
        self.defaults = defaults;
        self.lists.sweep();
        self.sets.commit(&sets);
        change.count(&mut self.uses);
        self.endpoints = self.endpoints_of(model, node);
        self.to_host = match model.settings_of(node).endpoint_to_host {
            EndpointToHost::Accept | EndpointToHost::Return => ToHost::Deliver,
            EndpointToHost::Drop => ToHost::Drop,
            EndpointToHost::Reject => ToHost::Reject,
        };
        self.model = Arc::clone(model);
        node.clone_into(&mut self.node);
        Ok(())
    }

    /// Puts what was compiled for a key in the place of what was before. Returns the numbers that are free now.
    fn replace(&mut self, key: &Key, compiled: Option<Arc<Compiled>>) -> Vec<RuleId> {
        let (old, ids) = match compiled {
            Some(compiled) => {
                self.sets.add_user(key, compiled.sets.keys());
                let ids = compiled.ids.clone();
                (self.compiled.insert(key.clone(), compiled), ids)
            }
            None => (self.compiled.remove(key), Vec::new()),
        };
        let Some(old) = old else {
            return Vec::new();
        };
        let now = self.compiled.get(key).map(|compiled| &compiled.sets);
        let unused = old.sets.keys();
        let unused = unused.filter(|id| now.is_none_or(|now| !now.contains_key(*id)));
        self.sets.remove_user(key, unused);
        let ids: HashSet<RuleId> = ids.into_iter().collect();
        let old = old.ids.iter().filter(|id| !ids.contains(id));
        old.copied().collect()
    }

    /// Endpoints by interface.
    fn endpoints_of(&self, model: &Model, node: &str) -> BTreeMap<String, (WorkloadId, Endpoint)> {
        let local = workloads_of(model, node);
        let endpoint = |(id, workload): (&WorkloadId, &Arc<Workload>)| {
            let chains = self
                .lines
                .get(id)
                .map(|lines| lines.each_ref().map(|line| line.chain.clone()));
            let [ingress, egress] = chains.unwrap_or_default();
            let endpoint = Endpoint {
                active: workload.active,
                ingress,
                egress,
                defaults: self.defaults.of_endpoint(workload),
            };
            (workload.interface.clone(), (id.clone(), endpoint))
        };
        local.map(endpoint).collect()
    }

    /// The same model with rules in other places of their files.
    pub fn follow_places(&mut self, model: &Arc<Model>) {
        for owner in changed_owners(&self.model, model) {
            for direction in DIRECTIONS {
                let key = (owner.clone(), direction);
                let Some(compiled) = self.compiled.get_mut(&key) else {
                    continue;
                };
                let rules = rules_of(model, &owner, direction);
                for (rule, id) in rules.iter().zip(&compiled.ids) {
                    let name = name_of(model, &owner, direction, rule);
                    self.numbers.set_name(*id, Name::Rule(name));
                }
                Arc::make_mut(compiled).rules = rules.to_vec();
            }
        }
        self.model = Arc::clone(model);
    }

    /// Compiles what is in `redo`, and the chains that it is in.
    fn compile(
        &mut self,
        model: &Model,
        node: &str,
        change: &Change<'_>,
        redo: &BTreeSet<Key>,
        known: &mut Known,
    ) -> Result<Work, PolicyError> {
        let mut replaced = Vec::new();
        for key in redo {
            let old = known.before.get(key);
            let new = Arc::new(self.rules(model, key, old)?);
            let old = old.map(|old| address(&old.policy));
            replaced.extend(old.filter(|old| *old != address(&new.policy)));
            known.made.insert(key.clone(), new);
        }
        replaced.sort_unstable();
        let mut lines = Vec::new();
        let new = change
            .endpoints
            .iter()
            .filter_map(|(id, _, new)| Some((*id, (*new)?)));
        let new: BTreeMap<_, _> = new.collect();
        let touched = self
            .lines
            .iter()
            .filter(|(_, lines)| lines.iter().any(|line| line.has(&replaced)));
        let touched =
            touched.filter_map(|(id, _)| model.workloads.get(id).map(|workload| (id, workload)));
        let touched = touched.filter(|(_, workload)| workload.node == node);
        let redo: Vec<_> = touched
            .filter(|(id, _)| !new.contains_key(id))
            .map(|(id, workload)| (id.clone(), Arc::clone(workload)))
            .collect();
        let redo = redo.iter().map(|(id, workload)| (id, workload));
        for (id, workload) in new.into_iter().chain(redo) {
            let ingress = self.line(id, workload, Direction::Ingress, known)?;
            let egress = self.line(id, workload, Direction::Egress, known)?;
            lines.push((id.clone(), [ingress, egress]));
        }
        let hosts = hosts::of_node(model, node);
        let workloads = workloads_of(model, node).map(|(_, workload)| &**workload);
        let ours = hosts.iter().map(|(_, host)| &***host);
        let defaults = DefaultNumbers::of(workloads, ours, &self.defaults, &mut self.numbers)?;
        let hosts = self.compile_hosts(model.settings_of(node), &hosts, known)?;
        Ok((lines, hosts, defaults))
    }

    /// Compiles the rules of an owner in a direction, or takes what was compiled of the same.
    fn rules(
        &mut self,
        model: &Model,
        key: &Key,
        known: Option<&Arc<Compiled>>,
    ) -> Result<Compiled, PolicyError> {
        let (owner, direction) = key;
        let rules = rules_of(model, owner, *direction);
        let sets = self.sets.snapshot_of(rules);
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
        let mut ids = Vec::with_capacity(rules.len());
        let mut policy = Policy::default();
        for (at, rule) in rules.iter().enumerate() {
            let name = name_of(model, owner, *direction, rule);
            // A rule that stays what it was where it was goes on counting.
            let same = known.and_then(|before| {
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
        compiled: &Known,
    ) -> Result<Line, PolicyError> {
        let mut list = |policies| self.lists.of(policies);
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
        let lines = self.lines.get(id);
        if let Some(known) = lines.map(|[ingress, egress]| match direction {
            Direction::Ingress => ingress,
            Direction::Egress => egress,
        }) && are_same(&known.tiers, &tiers)
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
fn workloads_of<'m>(
    model: &'m Model,
    node: &'m str,
) -> impl Iterator<Item = (&'m WorkloadId, &'m Arc<Workload>)> {
    let all = model.workloads.iter();
    all.filter(move |(_, workload)| workload.node == node)
}

/// The policies of a tier that decide about packets.
fn enforced(tier: &TierPolicies, direction: Direction, compiled: &Known) -> Vec<Arc<Policy>> {
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
