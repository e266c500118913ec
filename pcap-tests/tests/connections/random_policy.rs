//! Random policies of a node with two pods.

use std::net::IpAddr;

use control::desired::EndpointToHost;
use control::policy::model::{
    DefaultAction, IpPort, IpSet, Model, Policy, PolicyId, PolicyKind, Profile, Rules, Settings,
    TierPolicies, Workload, WorkloadId,
};
use control::policy::rule::{
    Action, Families, Family, IcmpMatch, IpSetId, Matches, Origin, PortRange, Ports, Protocol,
    Rule, Side,
};

use crate::node::{OTHER_ADDR, OTHER6, POD_ADDR, POD6};
use crate::{random_hosts, random_packets};

pub(crate) const NODE_NAME: &str = "n";

/// Numbers that look random, the same each time.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize].clone()
    }
}

pub(crate) fn workload_id(name: &str) -> WorkloadId {
    WorkloadId {
        orchestrator: "k8s".to_owned(),
        workload: format!("default/{name}"),
        endpoint: "eth0".to_owned(),
    }
}

fn net(dice: &mut Dice) -> ipnet::IpNet {
    let nets = [
        "10.65.0.2/32",
        "10.65.0.2/31",
        "10.65.0.0/16",
        "0.0.0.0/0",
        "198.51.100.0/24",
        "172.18.0.2/32",
        "fd00:65::2/128",
        "fd00:65::/64",
        "::/0",
        "2001:db8:99::/48",
    ];
    dice.of(&nets).parse().expect("a prefix")
}

fn nets(dice: &mut Dice) -> Vec<ipnet::IpNet> {
    (0..=dice.below(2)).map(|_| net(dice)).collect()
}

fn ports(dice: &mut Dice) -> Ports {
    let mut ports = Ports::default();
    for _ in 0..=dice.below(2) {
        let first = dice.of(&[53, 80, 81, 443, 10_000, 20_000]);
        let last = first + dice.of(&[0, 1, 5000]);
        ports.ranges.push(PortRange { first, last });
    }
    if dice.one_in(3) {
        ports.named.push(set_id(dice, "ports"));
    }
    ports
}

fn set_id(dice: &mut Dice, kind: &str) -> IpSetId {
    // Sometimes one that is not there.
    IpSetId::from(format!("{kind}{}", dice.below(4)).as_str())
}

fn side(dice: &mut Dice, has_ports: bool) -> Side {
    let mut side = Side::default();
    if dice.one_in(4) {
        side.nets = Some(if dice.one_in(8) {
            Vec::new()
        } else {
            nets(dice)
        });
    }
    if dice.one_in(6) {
        side.not_nets = nets(dice);
    }
    if dice.one_in(4) {
        side.ip_sets.push(set_id(dice, "nets"));
    }
    if dice.one_in(6) {
        side.not_ip_sets.push(set_id(dice, "nets"));
    }
    if has_ports {
        if dice.one_in(3) {
            side.ports = Some(ports(dice));
        }
        if dice.one_in(6) {
            side.not_ports = Some(ports(dice));
        }
        if dice.one_in(10) {
            side.ip_port_sets.push(set_id(dice, "ports"));
        }
    }
    side
}

fn rule(dice: &mut Dice, index: usize) -> Rule {
    let protocol = dice.of(&random_packets::OF_RULES);
    let has_ports = protocol.map_or_else(|| dice.one_in(2), Protocol::has_ports);
    let mut matches = Matches {
        families: dice.of(&[
            Families::Any,
            Families::Any,
            Families::Any,
            Families::Only(Family::V4),
            Families::Only(Family::V6),
            Families::Never,
        ]),
        protocol,
        src: side(dice, has_ports),
        dst: side(dice, has_ports),
        ..Matches::default()
    };
    let icmp = IcmpMatch {
        kind: dice.of(&[8, 13, 17, 128]),
        code: dice.of(&[None, Some(0), Some(1)]),
    };
    if !has_ports && dice.one_in(3) {
        matches.icmp = Some(icmp);
    }
    if dice.one_in(5) {
        matches.not_icmp = Some(icmp);
    } else if dice.one_in(6) {
        matches.not_protocol = Some(dice.of(&[Protocol::TCP, Protocol::UDP, Protocol::ICMP]));
    }
    Rule {
        action: dice.of(&[
            Action::Allow,
            Action::Allow,
            Action::Allow,
            Action::Allow,
            Action::Allow,
            Action::Deny,
            Action::Pass,
            Action::Log,
        ]),
        matches,
        origin: Origin {
            index,
            ..Origin::default()
        },
    }
}

fn rules(dice: &mut Dice) -> Rules {
    let mut list = || -> Vec<Rule> {
        (0..dice.below(5) as usize)
            .map(|at| rule(dice, at))
            .collect()
    };
    Rules {
        inbound: list(),
        outbound: list(),
    }
}

pub(crate) fn model(dice: &mut Dice) -> Model {
    let mut model = Model::default();
    let to_host = [
        EndpointToHost::Accept,
        EndpointToHost::Drop,
        EndpointToHost::Return,
        EndpointToHost::Reject,
    ];
    model.settings = Settings {
        endpoint_to_host: dice.of(&to_host),
        ..Settings::default()
    };
    for at in 0..3 {
        let members = (0..dice.below(4)).map(|_| net(dice)).collect();
        model.ip_sets.insert(
            IpSetId::from(format!("nets{at}").as_str()),
            IpSet::Nets(members).into(),
        );
        let members = (0..dice.below(4)).map(|_| IpPort {
            address: net(dice).addr(),
            protocol: dice.of(&[Protocol::TCP, Protocol::UDP, Protocol::SCTP]),
            port: dice.of(&[80, 443]),
        });
        let members = members.collect();
        model.ip_sets.insert(
            IpSetId::from(format!("ports{at}").as_str()),
            IpSet::IpPorts(members).into(),
        );
    }
    let mut ids = Vec::new();
    for at in 0..6 {
        let kind = dice.of(&[
            PolicyKind::Global,
            PolicyKind::Namespaced,
            PolicyKind::StagedGlobal,
        ]);
        let id = PolicyId {
            kind,
            namespace: None,
            name: format!("p{at}").as_str().into(),
        };
        let tier = ["first", "second"][at / 3].into();
        model.policies.insert(
            id.clone(),
            Policy {
                tier,
                rules: rules(dice),
                origin: Origin::default(),
            }
            .into(),
        );
        ids.push(id);
    }
    for name in ["kns.x", "ksa.x"] {
        let profile = Profile { rules: rules(dice) };
        model.profiles.insert(name.to_owned(), profile.into());
    }
    for (name, interface, addresses) in [
        ("a", "calia", [POD_ADDR, POD6]),
        ("b", "calib", [OTHER_ADDR, OTHER6]),
    ] {
        let tiers = [&ids[..3], &ids[3..]].into_iter().zip(["first", "second"]);
        let mut some = |of: &[PolicyId]| -> Vec<PolicyId> {
            of.iter().filter(|_| !dice.one_in(3)).cloned().collect()
        };
        let tiers = tiers
            .map(|(of, name)| (name, some(of), some(of)))
            .collect::<Vec<_>>();
        let tiers = tiers
            .into_iter()
            .map(|(name, ingress, egress)| TierPolicies {
                name: name.into(),
                default_action: dice.of(&[DefaultAction::Deny, DefaultAction::Pass]),
                ingress,
                egress,
            });
        let tiers = tiers.collect();
        let workload = Workload {
            node: NODE_NAME.to_owned(),
            interface: interface.to_owned(),
            active: !dice.one_in(20),
            nets: addresses
                .iter()
                .map(|it| it.parse::<IpAddr>().expect("an address").into())
                .collect(),
            // One of them is not there.
            profiles: ["kns.x", "nobody", "ksa.x"]
                .into_iter()
                .filter(|_| !dice.one_in(3))
                .map(str::to_owned)
                .collect(),
            tiers,
            ..Workload::default()
        };
        model.workloads.insert(workload_id(name), workload.into());
    }
    random_hosts::add(dice, &mut model, &ids);
    model
}
