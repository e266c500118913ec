//! Random host endpoints, policies and packets, of few values each, so that they meet.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use control::policy::model::{
    DefaultAction, Failsafe, HostEndpoint, IpPort, IpSet, Model, Policy, PolicyId, PolicyKind,
    Profile, Rules, TierPolicies,
};
use control::policy::packet::{Packet, State};
use control::policy::rule::{
    Action, Families, Family, IcmpMatch, IpSetId, Matches, Origin, PortRange, Ports, Protocol,
    Rule, Side,
};
use ipnet::IpNet;

use crate::lab::{NODE, TRANSLATED, Way};

/// The node that everything is of.
pub(crate) const OURS: &str = "n";

/// A stream of numbers (SplitMix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub(crate) fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn some<T>(&mut self, one_in: usize, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.one_in(one_in).then(|| make(self))
    }

    fn several<T>(&mut self, most: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = self.below(most + 1);
        (0..count).map(|_| make(self)).collect()
    }
}

const PROTOCOLS: [Protocol; 6] = [
    Protocol::TCP,
    Protocol::UDP,
    Protocol::ICMP,
    Protocol::ICMPV6,
    Protocol::UDPLITE,
    Protocol(99),
];

fn remote(dice: &mut Dice, v6: bool) -> IpAddr {
    let last = dice.below(8);
    let text = if v6 {
        format!("fd00::{last:x}")
    } else {
        format!("10.0.0.{last}")
    };
    text.parse().expect("an address")
}

/// Where the node forwards to.
fn beyond(dice: &mut Dice, v6: bool) -> IpAddr {
    let last = dice.below(4);
    let text = if v6 {
        format!("fd01::{last:x}")
    } else {
        format!("198.51.100.{last}")
    };
    text.parse().expect("an address")
}

fn own(dice: &mut Dice, v6: bool, addresses: usize) -> IpAddr {
    let at = dice.below(addresses) + if v6 { 3 } else { 0 };
    NODE[at].parse().expect("an address")
}

fn address(dice: &mut Dice) -> IpAddr {
    let v6 = dice.one_in(2);
    match dice.below(5) {
        0 | 1 => remote(dice, v6),
        2 => beyond(dice, v6),
        _ => own(dice, v6, 3),
    }
}

fn net(dice: &mut Dice) -> IpNet {
    let address = address(dice);
    let less = dice.pick(&[0, 0, 1, 2, 3, 3, 24, 32]);
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let length = if less == 32 { 0 } else { longest - less };
    IpNet::new(address, length).expect("a prefix").trunc()
}

fn port(dice: &mut Dice) -> u16 {
    dice.below(5) as u16 + 1
}

fn range(dice: &mut Dice) -> PortRange {
    let first = port(dice);
    PortRange {
        first,
        last: first + dice.below(2) as u16,
    }
}

fn set_id(dice: &mut Dice) -> IpSetId {
    IpSetId::from(dice.pick(&["a", "b", "s:c-_\"", "p", "q", "unknown"]))
}

fn ports(dice: &mut Dice) -> Ports {
    Ports {
        ranges: dice.several(2, range),
        named: dice.several(1, |dice| IpSetId::from(dice.pick(&["p", "q"]))),
    }
}

fn side(dice: &mut Dice) -> Side {
    Side {
        nets: dice.some(5, |dice| dice.several(3, net)),
        not_nets: dice
            .some(8, |dice| dice.several(2, net))
            .unwrap_or_default(),
        ports: dice.some(5, ports),
        not_ports: dice.some(8, ports),
        ip_sets: dice.some(6, set_id).into_iter().collect(),
        not_ip_sets: dice.some(8, set_id).into_iter().collect(),
        ip_port_sets: dice.some(12, |_| IpSetId::from("p")).into_iter().collect(),
    }
}

fn icmp(dice: &mut Dice) -> IcmpMatch {
    IcmpMatch {
        kind: dice.pick(&[8, 13, 128, 139]),
        code: dice.some(2, |dice| dice.below(2) as u8),
    }
}

fn rule(dice: &mut Dice) -> Rule {
    let only = |family| Families::Only(family);
    let families = [
        Families::Any,
        Families::Any,
        Families::Any,
        only(Family::V4),
        only(Family::V6),
        Families::Never,
    ];
    Rule {
        action: dice.pick(&[
            Action::Allow,
            Action::Allow,
            Action::Deny,
            Action::Log,
            Action::Pass,
        ]),
        matches: Matches {
            families: dice.pick(&families),
            protocol: dice.some(3, |dice| dice.pick(&PROTOCOLS)),
            not_protocol: dice.some(8, |dice| dice.pick(&PROTOCOLS)),
            icmp: dice.some(10, icmp),
            not_icmp: dice.some(10, icmp),
            src: side(dice),
            dst: side(dice),
        },
        origin: Origin::default(),
    }
}

fn rules(dice: &mut Dice) -> Rules {
    Rules {
        inbound: dice.several(4, rule),
        outbound: dice.several(4, rule),
    }
}

fn tiers(dice: &mut Dice, ids: &[PolicyId], most: usize) -> Vec<TierPolicies> {
    let mut number = 0;
    dice.several(most, |dice| {
        number += 1;
        TierPolicies {
            name: format!("t{number}").into(),
            default_action: dice.pick(&[DefaultAction::Deny, DefaultAction::Pass]),
            ingress: dice.several(3, |dice| ids[dice.below(ids.len())].clone()),
            egress: dice.several(3, |dice| ids[dice.below(ids.len())].clone()),
        }
    })
}

fn sets(dice: &mut Dice, model: &mut Model) {
    for id in ["a", "b", "s:c-_\""] {
        // Of single addresses alone it is another kind of set.
        let is_single = dice.one_in(2);
        let member = |dice: &mut Dice| {
            if is_single {
                address(dice).into()
            } else {
                net(dice)
            }
        };
        let nets: BTreeSet<_> = dice.several(8, member).into_iter().collect();
        model.ip_sets.insert(id.into(), Arc::new(IpSet::Nets(nets)));
    }
    for id in ["p", "q"] {
        let member = |dice: &mut Dice| IpPort {
            address: address(dice),
            protocol: dice.pick(&[Protocol::TCP, Protocol::UDP]),
            port: port(dice),
        };
        let members = dice.several(20, member).into_iter().collect();
        model
            .ip_sets
            .insert(id.into(), Arc::new(IpSet::IpPorts(members)));
    }
}

fn failsafes(dice: &mut Dice, first: u16) -> Vec<Failsafe> {
    dice.several(3, |dice| Failsafe {
        protocol: dice.pick(&[Protocol::TCP, Protocol::UDP]),
        port: first + dice.below(2) as u16,
        net: dice.some(2, net),
    })
}

/// A node's model with one host endpoint, `edge`.
pub(crate) fn model(dice: &mut Dice) -> Model {
    let mut model = Model::default();
    sets(dice, &mut model);
    model.settings.failsafe_inbound = failsafes(dice, 6);
    model.settings.failsafe_outbound = failsafes(dice, 6);
    model.settings.disable_conntrack_invalid_check = dice.one_in(4);
    let mut ids = Vec::new();
    for number in 0..8 {
        let id = PolicyId {
            kind: if dice.one_in(6) {
                PolicyKind::StagedGlobal
            } else {
                PolicyKind::Global
            },
            namespace: None,
            name: format!("p{number}").into(),
        };
        let policy = Policy {
            tier: "t".into(),
            rules: rules(dice),
            origin: Origin::default(),
        };
        model.policies.insert(id.clone(), policy.into());
        ids.push(id);
    }
    for name in ["kns.x", "y"] {
        model
            .profiles
            .insert(name.to_owned(), Profile { rules: rules(dice) }.into());
    }
    let open = Rule {
        action: Action::Allow,
        matches: Matches::default(),
        origin: Origin::default(),
    };
    let open = Rules {
        inbound: vec![open.clone()],
        outbound: vec![open],
    };
    model
        .profiles
        .insert("open".to_owned(), Profile { rules: open }.into());
    let endpoint = HostEndpoint {
        node: OURS.to_owned(),
        interface: dice.pick(&["eth0", "*", ""]).to_owned(),
        expected: vec![NODE[4].parse().expect("an address")],
        profiles: dice.several(3, |dice| {
            dice.pick(&["kns.x", "y", "open", "gone"]).to_owned()
        }),
        normal: tiers(dice, &ids, 3),
        forward: dice
            .some(2, |dice| tiers(dice, &ids, 2))
            .unwrap_or_default(),
        pre_dnat: dice
            .some(2, |dice| tiers(dice, &ids, 2))
            .unwrap_or_default(),
        untracked: dice
            .some(3, |dice| tiers(dice, &ids, 2))
            .unwrap_or_default(),
    };
    model
        .host_endpoints
        .insert("edge".to_owned(), endpoint.into());
    model
}

/// The same model with other members of sets.
pub(crate) fn other_members(dice: &mut Dice, model: &Model) -> Model {
    let mut model = model.clone();
    sets(dice, &mut model);
    model
}

/// A packet, the first of a connection or of none.
pub(crate) fn packet(dice: &mut Dice, way: Way) -> Packet {
    let v6 = dice.one_in(2);
    let protocol = dice.pick(&PROTOCOLS[..]);
    let protocol = match protocol {
        Protocol::ICMP | Protocol::ICMPV6 if v6 => Protocol::ICMPV6,
        Protocol::ICMP | Protocol::ICMPV6 => Protocol::ICMP,
        // Of what comes in, Linux' connection tracking finds checksums wrong that are not (and does not look at what goes out).
        Protocol::UDPLITE if way != Way::Out => Protocol::UDP,
        other => other,
    };
    let has_ports = protocol.has_ports() || protocol == Protocol::UDPLITE;
    let is_icmp = matches!(protocol, Protocol::ICMP | Protocol::ICMPV6);
    let kinds = if v6 { [128, 139] } else { [8, 13] };
    let mut packet = Packet {
        src: remote(dice, v6),
        dst: own(dice, v6, 2),
        protocol,
        ports: has_ports.then(|| (dice.below(7) as u16 + 1, dice.below(8) as u16 + 1)),
        icmp: is_icmp.then(|| (dice.pick(&kinds), dice.below(2) as u8)),
        original_dst: None,
        state: State::New,
    };
    // Not out of failsafe ports, of which the table lets these through: a connection may be older than it.
    let may_be_older = way == Way::Out && packet.ports.is_some_and(|(src, _)| src > 5);
    if protocol == Protocol::TCP && !may_be_older && dice.one_in(8) {
        packet.state = State::Invalid;
    }
    if way == Way::Out {
        std::mem::swap(&mut packet.src, &mut packet.dst);
    } else if way == Way::Through {
        packet.dst = beyond(dice, v6);
    } else if packet.state == State::New && dice.one_in(4) {
        let [first, last] = [0, 2].map(|at| NODE[at + if v6 { 3 } else { 0 }]);
        packet.dst = first.parse().expect("an address");
        let (before, after) = TRANSLATED;
        let port = packet.ports.map(|(_, port)| port).unwrap_or_default();
        packet.original_dst = Some((last.parse().expect("an address"), port));
        if protocol == Protocol::TCP && port == before {
            packet.ports = packet.ports.map(|(src, _)| (src, after));
        }
    }
    packet
}
