//! Tests in the calculated form: rules in the terms of Felix's messages, IP sets with their members, packets that
//! are allowed and packets that are dropped. It is the form of `control/tests/policy-cases/cases.json`.

mod packet;
mod rule;
mod sets;

use self::packet::{CasePacket, packet};
use self::rule::rule;
use self::sets::ip_sets;
use super::{Check, Group};
use crate::config::Located;
use crate::config::decode::{self, Context, Fields};
use crate::config::yaml::{Node, Value};
use crate::policy::legs::Leg;
use crate::policy::model::{
    DefaultAction, Direction, HostEndpoint, Model, Policy, PolicyId, PolicyKind, Profile, Rules,
    Settings, TierPolicies, Workload, WorkloadId,
};
use crate::policy::rule::Origin;
use crate::policy::verdict::Outcome;

/// True if a document has this form.
pub(crate) fn is_calculated(document: &Node) -> bool {
    matches!(&document.value, Value::Map(pairs) if pairs.iter().any(|(key, _)| key.name == "cases"))
}

/// Decodes a document.
pub(crate) fn decode(document: &Node, cx: &mut Context<'_>) -> Vec<Group> {
    let Some(mut fields) = Fields::open(document, "the file", cx) else {
        return Vec::new();
    };
    fields.accept(&["meta"]);
    let cases = fields.require("cases", cx, decode::list(case));
    fields.finish(cx);
    let cases = cases.map(|cases| cases.value).unwrap_or_default();
    cases.into_iter().map(|case| case.value).collect()
}

fn case(node: &Node, cx: &mut Context<'_>) -> Option<Group> {
    let mut fields = Fields::open(node, "a case", cx)?;
    let name = fields.require("name", cx, decode::name)?;
    cx.resource = format!("case {}", name.value);
    fields.accept(&["table"]);
    let _ = fields.get("ipv6", cx, decode::boolean);
    let mut model = Model {
        settings: settings(),
        ..Model::default()
    };
    if let Some(sets) = fields.take("ipsets") {
        let sets = ip_sets(sets, cx)?.into_iter();
        model.ip_sets = sets.map(|(id, set)| (id, set.into())).collect();
    }
    let side = fields.require("policy", cx, |node, cx| policy(node, &mut model, cx));
    let mut checks = Vec::new();
    for (name, expected) in [("allowed", Outcome::Allow), ("dropped", Outcome::Deny)] {
        let packets = fields.get(name, cx, decode::list(packet));
        for packet in packets.into_iter().flat_map(|list| list.value) {
            checks.push((packet, expected));
        }
    }
    fields.finish(cx);
    cx.resource.clear();
    let side = side?.value;
    let checks = checks
        .into_iter()
        .map(|(packet, expected)| check(packet, expected, side))
        .collect();
    Some(Group {
        name: name.value,
        model,
        checks,
    })
}

/// The cases know no failsafe ports.
fn settings() -> Settings {
    Settings {
        failsafe_inbound: Vec::new(),
        failsafe_outbound: Vec::new(),
        ..Settings::default()
    }
}

/// Which interface a case's policy is for.
#[derive(Clone, Copy)]
enum Interface {
    Workload,
    Host,
    /// A host's, before anything else: untracked policy.
    HostUntracked,
}

const HOST: &str = "host";

fn workload_id() -> WorkloadId {
    WorkloadId {
        orchestrator: "k8s".to_owned(),
        workload: "workload".to_owned(),
        endpoint: "eth0".to_owned(),
    }
}

fn check(packet: Located<CasePacket>, expected: Outcome, interface: Interface) -> Check {
    let case = packet.value;
    let to_host = case.from_host || case.to_host;
    let host = HOST.to_owned();
    let legs = match interface {
        Interface::Workload => vec![Leg::Workload(workload_id(), Direction::Ingress)],
        Interface::HostUntracked => vec![Leg::HostUntracked(host, Direction::Ingress)],
        Interface::Host if to_host => vec![
            Leg::HostPreDnat(host.clone()),
            Leg::HostNormal(host, Direction::Ingress),
        ],
        Interface::Host => vec![
            Leg::HostPreDnat(host.clone()),
            Leg::HostForward(host, Direction::Ingress),
        ],
    };
    let suffix = match (case.from_host, case.to_host) {
        (true, _) => ", from the host",
        (false, true) => ", to the host",
        (false, false) => "",
    };
    let way = format!("{}{suffix}", case.packet);
    Check {
        name: String::new(),
        way,
        packet: case.packet,
        legs,
        expected,
        decided_by: None,
        at: packet.at,
    }
}

fn policy(node: &Node, model: &mut Model, cx: &mut Context<'_>) -> Option<Interface> {
    let mut fields = Fields::open(node, "policy", cx)?;
    let mut is = |name| {
        fields
            .get(name, cx, decode::boolean)
            .is_some_and(|on| on.value)
    };
    let (host, xdp) = (is("for_host_interface"), is("for_xdp"));
    let mut tiers = |name: &'static str, cx: &mut Context<'_>| {
        let node = fields.take(name);
        node.and_then(|node| tier_list(node, name, model, cx))
            .unwrap_or_default()
    };
    let workload = tiers("tiers", cx);
    let normal = tiers("host_normal_tiers", cx);
    let pre_dnat = tiers("host_pre_dnat_tiers", cx);
    let forward = tiers("host_forward_tiers", cx);
    let mut profiles = |name: &'static str, cx: &mut Context<'_>| {
        let node = fields.take(name);
        node.and_then(|node| profile_list(node, model, cx))
            .unwrap_or_default()
    };
    let workload_profiles = profiles("profiles", cx);
    let host_profiles = profiles("host_profiles", cx);
    fields.finish(cx);
    let interface = match (host, xdp) {
        (_, true) => Interface::HostUntracked,
        (true, false) => Interface::Host,
        (false, false) => Interface::Workload,
    };
    if let Interface::Workload = interface {
        let endpoint = Workload {
            active: true,
            tiers: workload,
            profiles: workload_profiles,
            ..Workload::default()
        };
        model.workloads.insert(workload_id(), endpoint.into());
        return Some(interface);
    }
    let mut endpoint = HostEndpoint {
        interface: "eth0".to_owned(),
        profiles: host_profiles,
        pre_dnat,
        forward,
        ..HostEndpoint::default()
    };
    match interface {
        // An XDP program holds untracked policy in the place of the normal one.
        Interface::HostUntracked => endpoint.untracked = normal,
        Interface::Host | Interface::Workload => endpoint.normal = normal,
    }
    model
        .host_endpoints
        .insert(HOST.to_owned(), endpoint.into());
    Some(interface)
}

fn tier_list(
    node: &Node,
    list: &str,
    model: &mut Model,
    cx: &mut Context<'_>,
) -> Option<Vec<TierPolicies>> {
    let tiers = decode::list(|node: &Node, cx: &mut Context<'_>| {
        let mut fields = Fields::open(node, "a tier", cx)?;
        let name = fields.require("name", cx, decode::name);
        let actions = [("deny", DefaultAction::Deny), ("pass", DefaultAction::Pass)];
        let end = fields.get("end_action", cx, decode::choice(&actions, false));
        let policies = fields.require("policies", cx, decode::list(named_rules));
        fields.finish(cx);
        Some((
            name?.value,
            end.map(|end| end.value).unwrap_or_default(),
            policies?.value,
        ))
    })(node, cx)?;
    let mut done = Vec::new();
    for (place, tier) in tiers.into_iter().enumerate() {
        let (name, default_action, policies) = tier.value;
        let mut ids = Vec::new();
        for policy in policies {
            let (name_of_policy, rules) = policy.value;
            let id = PolicyId {
                kind: PolicyKind::Global,
                namespace: None,
                name: name_of_policy.as_str().into(),
            };
            let policy = Policy {
                tier: name.as_str().into(),
                rules,
                origin: Origin {
                    at: Some(policy.at.clone()),
                    ..Origin::default()
                },
            };
            check_sets(&policy.rules, model, cx);
            if model.policies.insert(id.clone(), policy.into()).is_some() {
                let message = format!("policy `{name_of_policy}` is defined twice");
                cx.error(&tier.at, message, format!("in {list}, tier {}", place + 1));
            }
            ids.push(id);
        }
        done.push(TierPolicies {
            name: name.as_str().into(),
            default_action,
            ingress: ids.clone(),
            egress: ids,
        });
    }
    Some(done)
}

fn profile_list(node: &Node, model: &mut Model, cx: &mut Context<'_>) -> Option<Vec<String>> {
    let profiles = decode::list(named_rules)(node, cx)?;
    let mut names = Vec::new();
    for profile in profiles {
        let (name, rules) = profile.value;
        check_sets(&rules, model, cx);
        if model
            .profiles
            .insert(name.clone(), Profile { rules }.into())
            .is_some()
        {
            cx.error(
                &profile.at,
                format!("profile `{name}` is defined twice"),
                "again here",
            );
        }
        names.push(name);
    }
    Some(names)
}

/// A name and rules, which count for both directions.
fn named_rules(node: &Node, cx: &mut Context<'_>) -> Option<(String, Rules)> {
    let mut fields = Fields::open(node, "a policy", cx)?;
    let name = fields.require("name", cx, decode::name);
    let rules = fields.require("rules", cx, decode::list(rule));
    fields.finish(cx);
    let mut all = Vec::new();
    for (index, rule) in rules?.value.into_iter().enumerate() {
        let mut value = rule.value;
        value.origin.index = index;
        value.origin.at = Some(rule.at);
        all.push(value);
    }
    let rules = Rules {
        inbound: all.clone(),
        outbound: all,
    };
    Some((name?.value, rules))
}

/// Rules may name only sets that the case has.
fn check_sets(rules: &Rules, model: &Model, cx: &mut Context<'_>) {
    for rule in &rules.inbound {
        let Some(at) = &rule.origin.at else { continue };
        let unknown = rule
            .matches
            .ip_sets()
            .filter(|id| !model.ip_sets.contains_key(id));
        for id in unknown {
            let label = "`ipsets` of the case has no such set";
            cx.error(at, format!("unknown IP set `{id}`"), label);
        }
    }
}
