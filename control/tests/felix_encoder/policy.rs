//! Sets, policies, profiles and tiers as Felix sends them.

use std::collections::BTreeSet;
use std::sync::Arc;

use control::felix::proto::{
    self, ActivePolicyUpdate, ActiveProfileUpdate, Icmp, IcmpTypeAndCode, IpSetType, IpSetUpdate,
    NotIcmp, NumberOrName, Payload,
};
use control::policy::model::{
    DefaultAction, HostEndpoint, IpPort, IpSet, Model, PolicyId, PolicyKind, Rules, TierPolicies,
    Workload, WorkloadId,
};
use control::policy::rule::{
    Families, Family, IcmpMatch, IpSetId, PortRange, Protocol, Rule, Side,
};
use prost::Message as _;

use super::{Generation, profiles, texts};

/// Those that some endpoints need: sets first, then what asks for them.
pub(super) fn active(
    model: &Model,
    pods: &[(&WorkloadId, &Arc<Workload>)],
    hosts: &[(&String, &Arc<HostEndpoint>)],
    generation: Generation,
) -> Vec<Payload> {
    let of_pods = pods.iter().flat_map(|(_, pod)| &pod.tiers);
    let of_hosts = hosts.iter().flat_map(|(_, host)| {
        [&host.normal, &host.forward, &host.pre_dnat, &host.untracked]
            .into_iter()
            .flatten()
    });
    let named = of_pods
        .chain(of_hosts)
        .flat_map(|tier| tier.ingress.iter().chain(&tier.egress));
    let named: BTreeSet<&PolicyId> = named.collect();
    let policies: Vec<_> = model
        .policies
        .iter()
        .filter(|(id, _)| named.contains(id))
        .collect();
    let names = profiles(pods, hosts, model);
    let profiles = model.profiles.iter();
    let profiles: Vec<_> = profiles
        .filter(|(name, _)| names.contains(name.as_str()))
        .collect();
    let rules = policies.iter().map(|(_, policy)| &policy.rules);
    let rules = rules.chain(profiles.iter().map(|(_, profile)| &profile.rules));
    let rules = rules.flat_map(|rules| rules.inbound.iter().chain(&rules.outbound));
    let sets: BTreeSet<&IpSetId> = rules.flat_map(|rule| rule.matches.ip_sets()).collect();
    let mut all = Vec::new();
    all.extend(
        sets.into_iter()
            .filter_map(|id| Some(set(id, model.ip_sets.get(id)?))),
    );
    all.extend(
        policies
            .into_iter()
            .map(|(id, it)| policy(id, &it.tier, &it.rules, generation)),
    );
    all.extend(profiles.into_iter().map(|(name, it)| {
        let (inbound_rules, outbound_rules) = rules_of(&it.rules);
        Payload::ActiveProfileUpdate(ActiveProfileUpdate {
            id: Some(proto::ProfileId { name: name.clone() }),
            profile: Some(proto::Profile {
                inbound_rules,
                outbound_rules,
            }),
        })
    }));
    all
}

pub(crate) fn set(id: &IpSetId, set: &IpSet) -> Payload {
    let (kind, members) = match set {
        IpSet::Nets(nets) => (
            IpSetType::Net,
            nets.iter().map(ToString::to_string).collect(),
        ),
        IpSet::IpPorts(ports) => (IpSetType::IpAndPort, ports.iter().map(member).collect()),
    };
    Payload::IpSetUpdate(IpSetUpdate {
        id: id.to_string(),
        members,
        kind: kind.into(),
    })
}

fn member(port: &IpPort) -> String {
    let protocol = port.protocol.to_string().to_lowercase();
    format!("{},{protocol}:{}", port.address, port.port)
}

pub(crate) fn policy(id: &PolicyId, tier: &str, rules: &Rules, generation: Generation) -> Payload {
    let (inbound_rules, outbound_rules) = rules_of(rules);
    let is_old = generation == Generation::V3_31;
    Payload::ActivePolicyUpdate(ActivePolicyUpdate {
        id: Some(policy_id(id, tier, generation)),
        policy: Some(proto::Policy {
            inbound_rules,
            outbound_rules,
            namespace: id.namespace.as_deref().unwrap_or_default().to_owned(),
            tier: if is_old {
                String::new()
            } else {
                tier.to_owned()
            },
        }),
    })
}

/// The key of a policy.
pub(crate) fn policy_id(id: &PolicyId, tier: &str, generation: Generation) -> proto::PolicyId {
    if generation == Generation::V3_31 {
        return proto::PolicyId {
            tier: tier.to_owned(),
            name: old_name(id),
            ..proto::PolicyId::default()
        };
    }
    proto::PolicyId {
        tier: String::new(),
        name: id.name.to_string(),
        namespace: id.namespace.as_deref().unwrap_or_default().to_owned(),
        kind: id.kind.as_str().to_owned(),
    }
}

/// Up to v3.31 a name says all.
fn old_name(id: &PolicyId) -> String {
    let namespace = id
        .namespace
        .as_deref()
        .map(|it| format!("{it}/"))
        .unwrap_or_default();
    let staged = if id.kind.is_staged() { "staged:" } else { "" };
    let kind = match id.kind {
        PolicyKind::Kubernetes | PolicyKind::StagedKubernetes => "knp.default.",
        PolicyKind::KubernetesCluster => "kanp.adminnetworkpolicy.",
        PolicyKind::KubernetesBaseline => "kbanp.baselineadminnetworkpolicy.",
        _ => "",
    };
    format!("{namespace}{staged}{kind}{}", id.name)
}

pub(super) fn tiers(tiers: &[TierPolicies], generation: Generation) -> Vec<proto::TierInfo> {
    let entry = |id: &PolicyId| match generation {
        Generation::V3_31 => old_name(id).into_bytes(),
        Generation::V3_32 | Generation::V3_33 => policy_id(id, "", generation).encode_to_vec(),
    };
    let one = |tier: &TierPolicies| proto::TierInfo {
        name: tier.name.to_string(),
        ingress_policies: tier.ingress.iter().map(entry).collect(),
        egress_policies: tier.egress.iter().map(entry).collect(),
        default_action: match tier.default_action {
            DefaultAction::Deny => "Deny".to_owned(),
            DefaultAction::Pass => "Pass".to_owned(),
        },
    };
    tiers.iter().map(one).collect()
}

fn rules_of(rules: &Rules) -> (Vec<proto::Rule>, Vec<proto::Rule>) {
    let all = |rules: &[Rule]| rules.iter().map(rule).collect();
    (all(&rules.inbound), all(&rules.outbound))
}

fn rule(rule: &Rule) -> proto::Rule {
    let it = &rule.matches;
    let (src, dst) = (&it.src, &it.dst);
    // By name where the name says the family, and a family beside it where it does not fit.
    let of_name = match it.protocol {
        Some(Protocol::ICMP) => Some(Family::V4),
        Some(Protocol::ICMPV6) => Some(Family::V6),
        _ => None,
    };
    let number = |family| match family {
        Family::V4 => 4,
        Family::V6 => 6,
    };
    let (ip_version, by_name) = match (it.families, of_name) {
        (Families::Any, of_name) => (0, of_name.is_none()),
        (Families::Only(family), Some(of_name)) if family == of_name => (0, true),
        (Families::Only(family), None) => (number(family), true),
        (Families::Only(family), Some(_)) => (number(family), false),
        (Families::Never, Some(Family::V4)) => (6, true),
        (Families::Never, _) => (4, true),
    };
    let ports = |of: &Option<control::policy::rule::Ports>| {
        let ports = of.clone().unwrap_or_default();
        let ranges: Vec<_> = ports.ranges.iter().copied().map(range).collect();
        (ranges, texts(&ports.named))
    };
    let (src_ports, src_named_port_ip_set_ids) = ports(&src.ports);
    let (dst_ports, dst_named_port_ip_set_ids) = ports(&dst.ports);
    let (not_src_ports, not_src_named_port_ip_set_ids) = ports(&src.not_ports);
    let (not_dst_ports, not_dst_named_port_ip_set_ids) = ports(&dst.not_ports);
    let nets = |side: &Side| texts(side.nets.as_deref().unwrap_or_default());
    proto::Rule {
        action: rule.action.as_str().to_lowercase(),
        ip_version,
        protocol: it
            .protocol
            .map(|protocol| self::protocol(protocol, by_name)),
        src_net: nets(src),
        src_ports,
        dst_net: nets(dst),
        dst_ports,
        icmp: it.icmp.map(|icmp| match both(icmp) {
            Some(both) => Icmp::TypeCode(both),
            None => Icmp::Type(icmp.kind.into()),
        }),
        src_ip_set_ids: texts(&src.ip_sets),
        dst_ip_set_ids: texts(&dst.ip_sets),
        src_named_port_ip_set_ids,
        dst_named_port_ip_set_ids,
        dst_ip_port_set_ids: texts(&dst.ip_port_sets),
        not_protocol: it
            .not_protocol
            .map(|protocol| self::protocol(protocol, true)),
        not_src_net: texts(&src.not_nets),
        not_src_ports,
        not_dst_net: texts(&dst.not_nets),
        not_dst_ports,
        not_icmp: it.not_icmp.map(|icmp| match both(icmp) {
            Some(both) => NotIcmp::TypeCode(both),
            None => NotIcmp::Type(icmp.kind.into()),
        }),
        not_src_ip_set_ids: texts(&src.not_ip_sets),
        not_dst_ip_set_ids: texts(&dst.not_ip_sets),
        not_src_named_port_ip_set_ids,
        not_dst_named_port_ip_set_ids,
        rule_id: rule.origin.rule_id.clone().unwrap_or_default(),
    }
}

fn range(range: PortRange) -> proto::PortRange {
    proto::PortRange {
        first: range.first.into(),
        last: range.last.into(),
    }
}

fn both(icmp: IcmpMatch) -> Option<IcmpTypeAndCode> {
    Some(IcmpTypeAndCode {
        kind: icmp.kind.into(),
        code: icmp.code?.into(),
    })
}

fn protocol(protocol: Protocol, by_name: bool) -> proto::Protocol {
    let name = Protocol::NAMES
        .iter()
        .find(|(_, known)| by_name && *known == protocol);
    let number_or_name = match name {
        Some((name, _)) => NumberOrName::Name(name.to_lowercase()),
        None => NumberOrName::Number(protocol.0.into()),
    };
    proto::Protocol {
        number_or_name: Some(number_or_name),
    }
}
