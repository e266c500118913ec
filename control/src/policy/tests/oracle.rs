//! The evaluator against a second formulation: policies compiled to a list of instructions with jumps, prefixes to
//! numbers with masks.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use proptest::prelude::*;

use crate::policy::evaluate;
use crate::policy::legs::Leg;
use crate::policy::model::{
    DefaultAction, Direction, IpPort, IpSet, Model, Policy, PolicyId, PolicyKind, Profile, Rules,
    TierPolicies, Workload, WorkloadId,
};
use crate::policy::packet::{Packet, State};
use crate::policy::rule::{
    Action, Families, Family, IcmpMatch, IpSetId, Matches, Origin, PortRange, Ports, Protocol,
    Rule, Side,
};
use crate::policy::verdict::Outcome;

/// What an instruction does.
enum Op<'m> {
    /// Goes on at a place if the rule matches.
    IfMatches(&'m Matches, usize),
    Allow,
    Drop,
}

/// Where `Allow` and `Drop` stand, so that rules can jump there.
const ALLOW: usize = 0;
const DROP: usize = 1;

fn compile<'m>(
    model: &'m Model,
    workload: &'m Workload,
    enforced: Option<&PolicyId>,
) -> Vec<Op<'m>> {
    let mut program = vec![Op::Allow, Op::Drop];
    for tier in &workload.tiers {
        let live: Vec<&PolicyId> = tier
            .ingress
            .iter()
            .filter(|id| !id.kind.is_staged() || enforced == Some(*id))
            .collect();
        let rules = live
            .iter()
            .flat_map(|id| &model.policies[*id].rules.inbound);
        let rules: Vec<&Rule> = rules.filter(|rule| rule.action != Action::Log).collect();
        let drops = !live.is_empty() && tier.default_action == DefaultAction::Deny;
        let next_tier = program.len() + rules.len() + usize::from(drops);
        for rule in rules {
            let target = match rule.action {
                Action::Allow => ALLOW,
                Action::Deny => DROP,
                Action::Pass | Action::Log => next_tier,
            };
            program.push(Op::IfMatches(&rule.matches, target));
        }
        if drops {
            program.push(Op::Drop);
        }
    }
    for name in &workload.profiles {
        let rules = &model.profiles[name].rules.inbound;
        let mut rules: Vec<&Rule> = rules
            .iter()
            .filter(|rule| rule.action != Action::Log)
            .collect();
        // What passes passes by the rest of this profile.
        let after = program.len() + rules.len();
        for rule in rules.drain(..) {
            let target = match rule.action {
                Action::Allow => ALLOW,
                Action::Deny => DROP,
                Action::Pass | Action::Log => after,
            };
            program.push(Op::IfMatches(&rule.matches, target));
        }
    }
    program.push(Op::Drop);
    program
}

fn execute(model: &Model, program: &[Op<'_>], packet: &Packet) -> Outcome {
    let mut at = 2;
    loop {
        match &program[at] {
            Op::Allow => return Outcome::Allow,
            Op::Drop => return Outcome::Deny,
            Op::IfMatches(rule, target) => {
                at = if matches(model, rule, packet) {
                    *target
                } else {
                    at + 1
                };
            }
        }
    }
}

/// An address as a number, with its family above it.
fn number(address: IpAddr) -> (u8, u128) {
    match address {
        IpAddr::V4(address) => (4, u128::from(u32::from(address))),
        IpAddr::V6(address) => (6, u128::from(address)),
    }
}

fn lies_in(address: IpAddr, net: &IpNet) -> bool {
    let ((family, address), (net_family, base)) = (number(address), number(net.addr()));
    let free = u32::from(net.max_prefix_len() - net.prefix_len());
    let cut = |value: u128| value.checked_shr(free).unwrap_or(0);
    family == net_family && cut(address) == cut(base)
}

fn matches(model: &Model, rule: &Matches, packet: &Packet) -> bool {
    let v4 = packet.src.is_ipv4();
    let mut conditions = vec![match rule.families {
        Families::Any => true,
        Families::Only(Family::V4) => v4,
        Families::Only(Family::V6) => !v4,
        Families::Never => false,
    }];
    let protocol = packet.protocol.0;
    conditions.extend(rule.protocol.map(|wanted| wanted.0 == protocol));
    conditions.extend(rule.not_protocol.map(|other| other.0 != protocol));
    let icmp_number = if v4 { 1 } else { 58 };
    let is = |icmp: &IcmpMatch| {
        let (kind, code) = packet.icmp.unwrap_or((255, 255));
        protocol == icmp_number
            && packet.icmp.is_some()
            && kind == icmp.kind
            && icmp.code.is_none_or(|c| c == code)
    };
    conditions.extend(rule.icmp.as_ref().map(is));
    conditions.extend(rule.not_icmp.as_ref().map(|icmp| !is(icmp)));
    let ports = packet.ports.unzip();
    for (side, address, port) in [
        (&rule.src, packet.src, ports.0),
        (&rule.dst, packet.dst, ports.1),
    ] {
        conditions.extend(side_conditions(model, side, address, port, packet.protocol));
    }
    conditions.into_iter().all(|condition| condition)
}

fn side_conditions(
    model: &Model,
    side: &Side,
    address: IpAddr,
    port: Option<u16>,
    protocol: Protocol,
) -> Vec<bool> {
    let same_family = |nets: &[IpNet]| -> Vec<IpNet> {
        let same = nets
            .iter()
            .filter(|net| number(net.addr()).0 == number(address).0);
        same.copied().collect()
    };
    let member = |id: &IpSetId| match &*model.ip_sets[id] {
        IpSet::Nets(nets) => nets.iter().any(|net| lies_in(address, net)),
        IpSet::IpPorts(members) => members.iter().any(|member| {
            member.address == address && member.protocol == protocol && Some(member.port) == port
        }),
    };
    let mut conditions = Vec::new();
    if let Some(nets) = &side.nets {
        conditions.push(same_family(nets).iter().any(|net| lies_in(address, net)));
    }
    if !side.not_nets.is_empty() {
        let nets = same_family(&side.not_nets);
        conditions.push(!nets.is_empty());
        conditions.extend(
            nets.iter()
                .map(|net| net.prefix_len() > 0 && !lies_in(address, net)),
        );
    }
    conditions.extend(side.ip_sets.iter().map(member));
    conditions.extend(side.not_ip_sets.iter().map(|id| !member(id)));
    conditions.extend(side.ip_port_sets.iter().map(member));
    let listed = |ranges: &[PortRange]| {
        let mut all = ranges.iter().flat_map(|range| range.first..=range.last);
        port.is_some_and(|port| all.any(|one| one == port))
    };
    if let Some(ports) = &side.ports {
        conditions.push(listed(&ports.ranges) || ports.named.iter().any(member));
    }
    if let Some(ports) = &side.not_ports {
        conditions.push(ports.ranges.is_empty() || port.is_some());
        conditions.push(!listed(&ports.ranges));
        conditions.push(!ports.named.iter().any(member));
    }
    conditions
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0..4u8).prop_map(|last| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))),
        (0..4u16).prop_map(|last| IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last))),
    ]
}

fn net() -> impl Strategy<Value = IpNet> {
    (address(), 0..4usize).prop_map(|(address, length)| {
        let lengths = if address.is_ipv4() {
            [0, 30, 31, 32]
        } else {
            [0, 126, 127, 128]
        };
        IpNet::new(address, lengths[length]).unwrap().trunc()
    })
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop::sample::select(vec![1, 6, 17, 58, 4]).prop_map(Protocol)
}

fn set_id() -> impl Strategy<Value = IpSetId> {
    prop::sample::select(vec!["a", "b", "p", "empty"]).prop_map(IpSetId::from)
}

fn ports() -> impl Strategy<Value = Ports> {
    let range = (0..4u16, 0..3u16).prop_map(|(first, more)| PortRange {
        first,
        last: first + more,
    });
    (
        prop::collection::vec(range, 0..3),
        prop::collection::vec(set_id(), 0..2),
    )
        .prop_map(|(ranges, named)| Ports { ranges, named })
}

/// Mostly nothing: rules that ask for everything never match.
fn rarely<T: std::fmt::Debug + Clone>(
    inner: impl Strategy<Value = T>,
) -> impl Strategy<Value = Option<T>> {
    prop::option::weighted(0.2, inner)
}

fn side() -> impl Strategy<Value = Side> {
    (
        rarely(prop::collection::vec(net(), 0..3)),
        rarely(prop::collection::vec(net(), 1..3)),
        rarely(ports()),
        rarely(ports()),
        rarely(set_id()),
        rarely(set_id()),
        rarely(set_id()),
    )
        .prop_map(
            |(nets, not_nets, ports, not_ports, set, not_set, service)| Side {
                nets,
                not_nets: not_nets.unwrap_or_default(),
                ports,
                not_ports,
                ip_sets: set.into_iter().collect(),
                not_ip_sets: not_set.into_iter().collect(),
                ip_port_sets: service.into_iter().collect(),
            },
        )
}

fn icmp() -> impl Strategy<Value = IcmpMatch> {
    (0..2u8, prop::option::of(0..2u8)).prop_map(|(kind, code)| IcmpMatch { kind, code })
}

fn rule() -> impl Strategy<Value = Rule> {
    let actions = vec![Action::Allow, Action::Deny, Action::Log, Action::Pass];
    let families = vec![
        Families::Any,
        Families::Any,
        Families::Only(Family::V4),
        Families::Only(Family::V6),
        Families::Never,
    ];
    (
        prop::sample::select(actions),
        prop::sample::select(families),
        rarely(protocol()),
        rarely(protocol()),
        rarely(icmp()),
        rarely(icmp()),
        side(),
        side(),
    )
        .prop_map(
            |(action, families, protocol, not_protocol, icmp, not_icmp, src, dst)| Rule {
                action,
                matches: Matches {
                    families,
                    protocol,
                    not_protocol,
                    icmp,
                    not_icmp,
                    src,
                    dst,
                },
                origin: Origin::default(),
            },
        )
}

fn rules() -> impl Strategy<Value = Rules> {
    prop::collection::vec(rule(), 0..4).prop_map(|inbound| Rules {
        inbound,
        outbound: Vec::new(),
    })
}

/// Tiers of policies, each with whether it is staged.
type Tiers = Vec<(DefaultAction, Vec<(bool, Rules)>)>;

fn tiers() -> impl Strategy<Value = Tiers> {
    let action = prop::sample::select(vec![DefaultAction::Deny, DefaultAction::Pass]);
    let policy = (prop::bool::weighted(0.25), rules());
    prop::collection::vec((action, prop::collection::vec(policy, 0..3)), 0..4)
}

fn members() -> impl Strategy<Value = BTreeMap<IpSetId, IpSet>> {
    let nets = || prop::collection::btree_set(net(), 0..4);
    let port = (address(), protocol(), 0..4u16).prop_map(|(address, protocol, port)| IpPort {
        address,
        protocol,
        port,
    });
    (nets(), nets(), prop::collection::btree_set(port, 0..8)).prop_map(|(a, b, p)| {
        BTreeMap::from([
            ("a".into(), IpSet::Nets(a)),
            ("b".into(), IpSet::Nets(b)),
            ("p".into(), IpSet::IpPorts(p)),
            ("empty".into(), IpSet::Nets([].into())),
        ])
    })
}

/// The one endpoint of [`model`].
pub(crate) fn id() -> WorkloadId {
    WorkloadId {
        orchestrator: String::new(),
        workload: String::new(),
        endpoint: String::new(),
    }
}

/// Random policies for one endpoint, ingress only.
pub(crate) fn model() -> impl Strategy<Value = Model> {
    (tiers(), prop::collection::vec(rules(), 0..3), members()).prop_map(
        |(tiers, profiles, ip_sets)| {
            let ip_sets = ip_sets.into_iter();
            let mut model = Model {
                ip_sets: ip_sets.map(|(id, set)| (id, set.into())).collect(),
                ..Model::default()
            };
            let mut workload = Workload {
                active: true,
                ..Workload::default()
            };
            for (number, (default_action, policies)) in tiers.into_iter().enumerate() {
                let name: std::sync::Arc<str> = format!("t{number}").into();
                let mut ids = Vec::new();
                for (place, (staged, rules)) in policies.into_iter().enumerate() {
                    let id = PolicyId {
                        kind: if staged {
                            PolicyKind::StagedGlobal
                        } else {
                            PolicyKind::Global
                        },
                        namespace: None,
                        name: format!("{name}.p{place}").into(),
                    };
                    let policy = Policy {
                        tier: name.clone(),
                        rules,
                        origin: Origin::default(),
                    };
                    model.policies.insert(id.clone(), policy.into());
                    ids.push(id);
                }
                workload.tiers.push(TierPolicies {
                    name,
                    default_action,
                    ingress: ids,
                    egress: Vec::new(),
                });
            }
            for (number, rules) in profiles.into_iter().enumerate() {
                let name = format!("profile{number}");
                model
                    .profiles
                    .insert(name.clone(), Profile { rules }.into());
                workload.profiles.push(name);
            }
            model.workloads.insert(id(), workload.into());
            model
        },
    )
}

/// Random packets that the rules of [`model`] are about.
pub(crate) fn packet() -> impl Strategy<Value = Packet> {
    (
        address(),
        0..4u8,
        protocol(),
        (0..4u16, 0..4u16),
        (0..2u8, 0..2u8),
    )
        .prop_map(|(src, last, protocol, ports, icmp)| {
            let dst = match src {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last.into())),
            };
            let is_icmp = [1, 58].contains(&protocol.0);
            Packet {
                src,
                dst,
                protocol,
                ports: [6, 17].contains(&protocol.0).then_some(ports),
                icmp: is_icmp.then_some(icmp),
                original_dst: None,
                state: State::New,
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn verdicts_are_those_of_the_second_formulation(
        model in model(),
        packets in prop::collection::vec(packet(), 1..30),
    ) {
        prop_assert!(model.unknown_ip_sets().is_empty());
        let workload = &model.workloads[&id()];
        let legs = [Leg::Workload(id(), Direction::Ingress)];
        let program = compile(&model, workload, None);
        for packet in &packets {
            let verdict = evaluate(&model, packet, &legs);
            prop_assert_eq!(verdict.outcome, execute(&model, &program, packet), "{} {:?}", packet, verdict);
            prop_assert_eq!(verdict.decided_by().map(|by| by.outcome), Some(verdict.outcome));
            for staged in &verdict.staged {
                let program = compile(&model, workload, Some(&staged.policy));
                prop_assert_eq!(staged.outcome, execute(&model, &program, packet), "{:?}", staged);
            }
        }
    }
}
