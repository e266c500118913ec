//! Chains of host endpoints for what the node forwards.
//!
//! What an end of a tier says, or a failsafe port, has a number as rules have: an entry of the flow table tells no more.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use fastpath::policy::{HostEndpoint, HostEndpoints};
use flowtable::acl::{Chain, ChainSpec, Policy, RuleId, Tier, TierDefault};

use super::numbers::Name;
use super::owners::{Key, keys_of_tiers};
use super::{Known, Line, List, PolicyCompiler, PolicyError, enforced, translate};
use crate::compile::{KernelView, PortRole, PortSpec, PortTable};
use crate::policy::legs::{host_endpoint, wildcard};
use crate::policy::model::{
    DefaultAction, Direction, Failsafe, HostEndpoint as Described, Model, Settings, TierPolicies,
};
use crate::policy::rule::{Action, Matches, Origin, PortRange, Ports, Rule};

/// One of a host endpoint's chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Stage {
    Untracked,
    PreDnat,
    Ingress,
    Egress,
}

use Stage::{Egress, Ingress, PreDnat, Untracked};

impl Stage {
    const ALL: [Self; 4] = [Untracked, PreDnat, Ingress, Egress];

    fn direction(self) -> Direction {
        match self {
            Untracked | PreDnat | Ingress => Direction::Ingress,
            Egress => Direction::Egress,
        }
    }

    /// Whether it comes before the decision that a packet is forwarded: failsafe ports are open, and tiers have no end.
    fn is_early(self) -> bool {
        matches!(self, Untracked | PreDnat)
    }

    fn tiers(self, host: &Described) -> &[TierPolicies] {
        match self {
            Untracked => &host.untracked,
            PreDnat => &host.pre_dnat,
            Ingress | Egress => &host.forward,
        }
    }
}

/// Failsafe ports as a policy: of a packet's destination, or of its source.
#[derive(Clone, Debug)]
struct Failsafes {
    ports: Vec<(Failsafe, bool)>,
    ids: Vec<RuleId>,
    policy: Arc<Policy>,
}

/// What is compiled of host endpoints.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    lines: HashMap<(String, Stage), Line>,
    failsafes: BTreeMap<Stage, Failsafes>,
    /// By name.
    endpoints: BTreeMap<String, HostEndpoint>,
}

impl Hosts {
    /// The numbers of failsafe ports.
    pub(super) fn ids(&self) -> impl Iterator<Item = &RuleId> {
        self.failsafes.values().flat_map(|failsafes| &failsafes.ids)
    }
}

/// The host endpoints of a node, with their names.
pub(super) fn of_node<'m>(model: &'m Model, node: &str) -> Vec<(&'m String, &'m Arc<Described>)> {
    let hosts = model.host_endpoints.iter();
    hosts.filter(|(_, host)| host.node == node).collect()
}

/// What is compiled for a node's host endpoints.
pub(super) fn keys(model: &Model, node: &str) -> Vec<Key> {
    let of = |host: &Described| {
        let stages = Stage::ALL.into_iter();
        let keys = stages.flat_map(|stage| keys_of_tiers(stage.tiers(host), stage.direction()));
        keys.collect::<Vec<_>>()
    };
    let hosts = of_node(model, node).into_iter();
    hosts.flat_map(|(_, host)| of(host)).collect()
}

impl PolicyCompiler {
    pub(super) fn compile_hosts(
        &mut self,
        settings: &Settings,
        hosts: &[(&String, &Arc<Described>)],
        compiled: &Known,
    ) -> Result<Hosts, PolicyError> {
        let mut done = Hosts::default();
        for &(name, host) in hosts {
            let mut endpoint = HostEndpoint {
                name: name.as_str().into(),
                ..HostEndpoint::default()
            };
            for stage in Stage::ALL {
                let tiers = stage.tiers(host);
                if tiers
                    .iter()
                    .all(|tier| tier.of(stage.direction()).is_empty())
                {
                    continue;
                }
                if stage.is_early() && !done.failsafes.contains_key(&stage) {
                    let failsafes = self.failsafes(settings, stage)?;
                    done.failsafes.insert(stage, failsafes);
                }
                let mut spec = Vec::new();
                if let Some(failsafes) = done.failsafes.get(&stage) {
                    let policies = vec![Arc::clone(&failsafes.policy)];
                    spec.push((TierDefault::Pass, self.lists.of(policies)));
                }
                for tier in tiers {
                    let policies = enforced(tier, stage.direction(), compiled);
                    let default = match tier.default_action {
                        DefaultAction::Deny if !stage.is_early() => TierDefault::Deny,
                        DefaultAction::Deny | DefaultAction::Pass => TierDefault::Pass,
                    };
                    spec.push((default, self.lists.of(policies)));
                }
                let key = (name.clone(), stage);
                let line = self.host_line(&key, spec)?;
                let chain = Some(line.chain.clone());
                match stage {
                    Untracked => endpoint.untracked = chain,
                    PreDnat => endpoint.pre_dnat = chain,
                    Ingress => endpoint.ingress = chain,
                    Egress => endpoint.egress = chain,
                }
                done.lines.insert(key, line);
            }
            done.endpoints.insert(name.clone(), endpoint);
        }
        Ok(done)
    }

    fn host_line(
        &mut self,
        key: &(String, Stage),
        tiers: Vec<(TierDefault, List)>,
    ) -> Result<Line, PolicyError> {
        if let Some(known) = self.hosts.lines.get(key)
            && super::are_same(&known.tiers, &tiers)
        {
            return Ok(known.clone());
        }
        let tier = |(default, policies): &(TierDefault, List)| Tier {
            policies: Arc::clone(policies),
            default: *default,
        };
        let spec = ChainSpec {
            tiers: tiers.iter().map(tier).collect(),
            profiles: List::default(),
            allow_at_end: true,
        };
        let chain = self.compiler.chain(&spec);
        let chain: Chain = chain.map_err(|source| PolicyError::Rules {
            endpoint: format!("host endpoint {}", key.0),
            source,
        })?;
        Ok(Line {
            tiers,
            profiles: List::default(),
            chain,
        })
    }

    fn failsafes(&mut self, settings: &Settings, stage: Stage) -> Result<Failsafes, PolicyError> {
        let inbound = settings.failsafe_inbound.iter();
        let inbound = inbound.map(|failsafe| (failsafe.clone(), true));
        // Without connection tracking a reply is known by its source port.
        let replies = settings.failsafe_outbound.iter();
        let replies = replies.map(|failsafe| (failsafe.clone(), false));
        let ports: Vec<_> = inbound
            .chain(replies.filter(|_| stage == Untracked))
            .collect();
        if let Some(known) = self.hosts.failsafes.get(&stage)
            && known.ports == ports
        {
            return Ok(known.clone());
        }
        let (mut ids, mut rules) = (Vec::new(), Vec::new());
        for (failsafe, is_destination) in &ports {
            let id = self.numbers.take().ok_or(PolicyError::TooManyRules)?;
            self.numbers
                .set_name(id, Name::Failsafe(failsafe.to_string()));
            let rule = failsafe_rule(failsafe, *is_destination);
            // Nothing that it asks for is more than can be said.
            rules.extend(translate::rule(&rule, id, &self.sets).unwrap_or_default());
            ids.push(id);
        }
        Ok(Failsafes {
            ports,
            ids,
            policy: Arc::new(Policy { rules }),
        })
    }

    /// The node's host endpoints by port; none if none of them has a say about what is forwarded.
    pub(super) fn host_endpoints(
        &self,
        ports: &PortTable,
        addresses: &dyn Fn(u32) -> Vec<IpAddr>,
    ) -> Option<HostEndpoints> {
        if self.hosts.lines.is_empty() {
            return None;
        }
        let of = |name: &str| {
            let endpoint = self.hosts.endpoints.get(name).cloned()?;
            let host = self.model.host_endpoints.get(name)?;
            Some(HostEndpoint {
                ends: self.defaults.of_host(host),
                ..endpoint
            })
        };
        let mut uplinks = vec![None; ports.len()];
        for (id, spec) in ports.iter().filter(|(_, it)| it.role == PortRole::Uplink) {
            let own = addresses(spec.ifindex);
            let name = host_endpoint(&self.model, &self.node, &spec.name, &own);
            if let Some(slot) = uplinks.get_mut(usize::from(id.0)) {
                *slot = name.and_then(of);
            }
        }
        let all = wildcard(&self.model, &self.node).and_then(of);
        let failsafes = self.hosts.ids().copied().collect();
        Some(HostEndpoints::new(uplinks, all, failsafes))
    }

    /// The uplinks whose host endpoint is the one of this name.
    pub fn uplinks_of(
        &self,
        name: &str,
        ports: &PortTable,
        kernel: &dyn KernelView,
    ) -> Vec<String> {
        let uplinks = ports.iter().map(|(_, spec)| spec);
        let has = |spec: &&PortSpec| {
            let own = kernel.addresses(spec.ifindex);
            host_endpoint(&self.model, &self.node, &spec.name, &own) == Some(name)
        };
        uplinks
            .filter(|spec| spec.role == PortRole::Uplink)
            .filter(has)
            .map(|spec| spec.name.clone())
            .collect()
    }
}

/// Lets a failsafe port through its chain. The other end's net is asked of who sends, whichever end the port is of.
fn failsafe_rule(failsafe: &Failsafe, is_destination: bool) -> Rule {
    let port = PortRange {
        first: failsafe.port,
        last: failsafe.port,
    };
    let ports = Some(Ports {
        ranges: vec![port],
        ..Ports::default()
    });
    let mut matches = Matches {
        protocol: Some(failsafe.protocol),
        ..Matches::default()
    };
    if is_destination {
        matches.dst.ports = ports;
    } else {
        matches.src.ports = ports;
    }
    matches.src.nets = failsafe.net.map(|net| vec![net]);
    Rule {
        action: Action::Allow,
        matches,
        origin: Origin::default(),
    }
}
