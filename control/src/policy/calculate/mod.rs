//! Resources to the calculated model: what Felix's calculation graph does, for files.
//!
//! All selectors, those of policies and those of rules, live in one [`Index`] with all that they can select. Today the
//! index is filled anew for each load. It tells of each change what it selects and ceases to select, so that a change
//! of one label can be carried through to the sets and endpoints it concerns and to nothing else.

mod items;
mod order;
mod rules;

use std::collections::{BTreeMap, BTreeSet};

use self::items::{ItemId, Items};
use self::order::{Tier, by_tier, in_order, tiers, tiers_are_known};
use self::rules::{RuleBuilder, endpoints_of};
use super::model::{
    HostEndpoint, IpPort, IpSet, Model, Policy, PolicyId, Rules, Settings, Workload,
};
use super::resource::{PolicyResource, PolicyResources, Profile};
use super::rule::IpSetId;
use super::selector::index::Index;
use crate::config::diagnostic::{Diagnostic, Diagnostics};
use crate::config::source::Span;
use crate::config::{Located, felix};

/// The calculated model of resources, and what is remarkable about it.
///
/// # Errors
/// What policies refer to and is not there. Warnings are among the findings.
pub fn calculate(resources: &PolicyResources) -> Result<(Model, Diagnostics), Diagnostics> {
    let mut findings = Diagnostics::default();
    let tiers = tiers(resources);
    tiers_are_known(resources, &tiers, &mut findings);
    let items = Items::new(resources, &mut findings);
    let mut calculation = Calculation {
        index: Index::new(),
        rules: RuleBuilder::default(),
    };
    for (id, item) in &items.all {
        calculation.index.set_item(id, item.labels.clone());
    }
    let mut model = Model {
        settings: settings(resources, ""),
        ..Model::default()
    };
    let policies = in_order(resources);
    for policy in &policies {
        let rules = calculation.policy(policy);
        let value = Policy {
            tier: policy.tier.value.as_str().into(),
            rules,
        };
        model.policies.insert(policy_id(policy), value);
    }
    for (name, (profile, is_written)) in &items.profiles {
        let mut rules = calculation.rules.profile(profile);
        if !is_written {
            let all = rules.inbound.iter_mut().chain(&mut rules.outbound);
            all.for_each(|rule| rule.origin.at = None);
        }
        model
            .profiles
            .insert(name.clone(), super::model::Profile { rules });
    }
    calculation.sets(&items, &mut model);
    calculation.endpoints(resources, &items, &tiers, &policies, &mut model);
    calculation.remark(&policies, &items, &model, &mut findings);
    findings.sort();
    if findings.has_errors() {
        return Err(findings);
    }
    Ok((model, findings))
}

/// What a selector is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Purpose {
    /// The endpoints of a policy.
    Policy(PolicyId),
    /// The members of a set.
    Set(IpSetId),
}

struct Calculation {
    index: Index<Purpose, ItemId>,
    rules: RuleBuilder,
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

impl Calculation {
    fn policy(&mut self, policy: &PolicyResource) -> Rules {
        let id = policy_id(policy);
        self.index
            .set_selector(&Purpose::Policy(id), endpoints_of(policy));
        self.rules.policy(policy)
    }

    /// Resolves sets to their members.
    fn sets(&mut self, items: &Items<'_>, model: &mut Model) {
        for (id, set) in &self.rules.sets {
            self.index
                .set_selector(&Purpose::Set(id.clone()), set.expr.clone());
        }
        for (id, set) in &self.rules.sets {
            let purpose = Purpose::Set(id.clone());
            let selected = self.index.selected(&purpose);
            let selected = selected.filter_map(|item| items.all.get(item));
            let members = match &set.named_port {
                None => IpSet::Nets(selected.flat_map(|item| item.nets.clone()).collect()),
                Some((protocol, name)) => {
                    let mut members = BTreeSet::new();
                    for item in selected {
                        let ports = item.ports.iter();
                        let ports =
                            ports.filter(|port| port.name == *name && port.protocol == *protocol);
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
            };
            model.ip_sets.insert(id.clone(), members);
        }
    }

    fn endpoints(
        &self,
        resources: &PolicyResources,
        items: &Items<'_>,
        tiers: &[Tier],
        policies: &[&PolicyResource],
        model: &mut Model,
    ) {
        let numbered = policies.iter().enumerate();
        let places = numbered
            .map(|(place, policy)| (policy_id(policy), place))
            .collect();
        for (id, endpoint) in &items.workloads {
            let applies = self.applies_to(&ItemId::Workload(id.clone()), policies, &places);
            let normal = |policy: &PolicyResource| !policy.do_not_track && !policy.pre_dnat;
            let node = endpoint.node.value.clone();
            let workload = Workload {
                interface: endpoint
                    .interface
                    .as_ref()
                    .map(|name| name.value.clone())
                    .unwrap_or_default(),
                active: true,
                nets: endpoint
                    .addresses
                    .iter()
                    .map(|address| address.value.into())
                    .collect(),
                spoofable: endpoint.spoofable.iter().map(|net| net.value).collect(),
                profiles: endpoint.profiles.clone(),
                tiers: by_tier(tiers, &applies, normal),
                node,
            };
            add_settings(resources, &workload.node, model);
            model.workloads.insert(id.clone(), workload);
        }
        for endpoint in &resources.host_endpoints {
            let name = endpoint.meta.name.value.clone();
            let applies = self.applies_to(&ItemId::Host(name.clone()), policies, &places);
            let of = |wanted: &dyn Fn(&PolicyResource) -> bool| by_tier(tiers, &applies, wanted);
            let is_normal = |policy: &PolicyResource| !policy.do_not_track && !policy.pre_dnat;
            let value = HostEndpoint {
                node: endpoint.node.value.clone(),
                interface: endpoint
                    .interface
                    .as_ref()
                    .map(|name| name.value.clone())
                    .unwrap_or_default(),
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
            };
            add_settings(resources, &value.node, model);
            model.host_endpoints.insert(name, value);
        }
    }

    /// The policies that apply to an endpoint, in order.
    fn applies_to<'p>(
        &self,
        item: &ItemId,
        policies: &[&'p PolicyResource],
        places: &BTreeMap<PolicyId, usize>,
    ) -> Vec<&'p PolicyResource> {
        let mut found: Vec<usize> = self
            .index
            .selectors_of(item)
            .filter_map(|purpose| match purpose {
                Purpose::Policy(id) => places.get(id).copied(),
                Purpose::Set(_) => None,
            })
            .collect();
        found.sort_unstable();
        found.into_iter().map(|place| policies[place]).collect()
    }

    /// Points out what selects nothing.
    fn remark(
        &self,
        policies: &[&PolicyResource],
        items: &Items<'_>,
        model: &Model,
        findings: &mut Diagnostics,
    ) {
        if items.all.is_empty() {
            return;
        }
        for policy in policies {
            let purpose = Purpose::Policy(policy_id(policy));
            let endpoints = self.index.selected(&purpose);
            let mut endpoints = endpoints.filter(|item| !matches!(item, ItemId::Set(..)));
            if endpoints.next().is_none() {
                let at = policy
                    .selector
                    .as_ref()
                    .map_or(&policy.meta.name.at, |own| &own.at);
                findings.push(
                    Diagnostic::warning("the policy selects no endpoint")
                        .at(at, "no endpoint of these files satisfies this")
                        .about(policy.meta.label()),
                );
            }
        }
        for (id, set) in &self.rules.sets {
            let is_empty = match model.ip_sets.get(id) {
                Some(IpSet::Nets(nets)) => nets.is_empty(),
                Some(IpSet::IpPorts(ports)) => ports.is_empty(),
                None => true,
            };
            let Some((at, resource)) = set.used_by.first().filter(|_| is_empty) else {
                continue;
            };
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
            findings.push(Diagnostic::warning(message).at(at, label).about(resource));
        }
    }
}

fn add_settings(resources: &PolicyResources, node: &str, model: &mut Model) {
    if !model.node_settings.contains_key(node) {
        let settings = settings(resources, node);
        model.node_settings.insert(node.to_owned(), settings);
    }
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
