//! Random policies and packets: what the pipeline does with the first packet of a connection, and what it says decided, is
//! what the evaluator that goes through everything says.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, Hasher as _};
use std::net::IpAddr;
use std::sync::Arc;

use control::compile::{PolicyCompiler, PortRole, PortSpec, PortTable};
use control::desired::EndpointToHost;
use control::policy::evaluate;
use control::policy::legs::{Party, legs};
use control::policy::model::{
    DefaultAction, Direction, IpPort, IpSet, Model, Policy, PolicyId, PolicyKind, Profile, Rules,
    Settings, TierPolicies, Workload, WorkloadId,
};
use control::policy::packet::{Packet, State};
use control::policy::rule::{
    Action, Families, Family, IcmpMatch, IpSetId, Matches, Origin, PortRange, Ports, Protocol,
    Rule, Side,
};
use control::policy::verdict::{Outcome, Reason, Verdict};
use encap::eth::MacAddr;
use fastpath::batch::Fate;
use fastpath::policy::Decider;
use fastpath::port::PortId;
use fastpath::reason::DropReason;
use fastpath::record;
use flowtable::acl::Logs;
use flowtable::flow::{FlowKey, FlowTable, flag};
use pcap_tests::build::ethernet;
use pcap_tests::rig::Rig;

use crate::node::*;
use crate::random_packets;

const OTHER6: &str = "fd00:65::3";
const NODE_NAME: &str = "n";

/// Numbers that look random, the same each time.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize].clone()
    }
}

fn workload_id(name: &str) -> WorkloadId {
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

fn model(dice: &mut Dice) -> Model {
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
            IpSet::Nets(members),
        );
        let members = (0..dice.below(4)).map(|_| IpPort {
            address: net(dice).addr(),
            protocol: dice.of(&[Protocol::TCP, Protocol::UDP, Protocol::SCTP]),
            port: dice.of(&[80, 443]),
        });
        let members = members.collect();
        model.ip_sets.insert(
            IpSetId::from(format!("ports{at}").as_str()),
            IpSet::IpPorts(members),
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
            },
        );
        ids.push(id);
    }
    for name in ["kns.x", "ksa.x"] {
        model
            .profiles
            .insert(name.to_owned(), Profile { rules: rules(dice) });
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
        model.workloads.insert(workload_id(name), workload);
    }
    model
}

/// Where a packet comes in, and how.
struct Way {
    from: (Party, PortId),
    to: Party,
    addresses: (&'static str, &'static str),
}

fn way(dice: &mut Dice) -> Way {
    let pod = |name| Party::Workload(workload_id(name));
    let host = || Party::Host(NODE_NAME.to_owned());
    let outside = || Party::Outside {
        node: NODE_NAME.to_owned(),
        endpoint: None,
    };
    let (from, to, addresses) = match dice.below(9) {
        0 => ((pod("a"), POD), pod("b"), (POD_ADDR, OTHER_ADDR)),
        1 => ((pod("b"), OTHER), pod("a"), (OTHER_ADDR, POD_ADDR)),
        2 => ((pod("a"), POD), outside(), (POD_ADDR, SERVER)),
        3 => ((outside(), UPLINK), pod("a"), (SERVER, POD_ADDR)),
        4 => ((pod("a"), POD), host(), (POD_ADDR, NODE)),
        5 => ((host(), HOST), pod("a"), (NODE, POD_ADDR)),
        6 => ((pod("a"), POD), outside(), (POD6, SERVER6)),
        // Forwarded by the kernel.
        7 => ((outside(), HOST), pod("a"), (SERVER, POD_ADDR)),
        _ => ((outside(), UPLINK), pod("a"), (SERVER6, POD6)),
    };
    Way {
        from,
        to,
        addresses,
    }
}

/// A first packet with a source port, or an identifier, of its own; and what policy sees of it.
fn packet(dice: &mut Dice, way: &Way, own: u16) -> (Vec<u8>, Packet) {
    let (src, dst) = way.addresses;
    let sent = random_packets::any(dice, (src, dst), own);
    let bytes = sent.bytes;
    let (macs, frame_of) = match way.from.1 {
        UPLINK => ((UPLINK_MAC, ROUTER_MAC), bytes),
        POD => ((GATEWAY_MAC, POD_MAC), bytes),
        OTHER => ((GATEWAY_MAC, OTHER_MAC), bytes),
        _ => (([2, 0, 0, 0, 0, 4], HOST_MAC), bytes),
    };
    let seen = Packet {
        src: src.parse().expect("an address"),
        dst: dst.parse().expect("an address"),
        protocol: sent.protocol,
        ports: sent.ports,
        icmp: sent.icmp,
        original_dst: None,
        state: State::New,
    };
    (ethernet(macs.0, macs.1, &frame_of), seen)
}

fn ports_of_the_node() -> PortTable {
    let mut ports = PortTable::default();
    for (name, role) in [
        ("eth0", PortRole::Uplink),
        ("calia", PortRole::Pod),
        ("calib", PortRole::Pod),
        ("caracal0", PortRole::Host(MacAddr(HOST_MAC))),
    ] {
        ports.insert(PortSpec {
            name: name.to_owned(),
            ifindex: ports.len() as u32 + 1,
            mac: MacAddr(GATEWAY_MAC),
            mtu: 1500,
            partial_checksums: true,
            role,
        });
    }
    assert_eq!(ports.by_name("calib"), Some(OTHER));
    ports
}

/// Whether the entries of the connection with this source port are a denial's, and what they say decided on each leg.
fn deciders(rig: &Rig, packet: &Packet, own: u16) -> Option<(bool, [Decider; 2])> {
    let connections = rig.connections();
    let id = (packet.protocol.0, random_packets::source_port(packet, own));
    match (packet.src, packet.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => in_table(&connections.v4.table, |key| {
            (key.protocol, key.sport, key.src, key.dst) == (id.0, id.1, src.into(), dst.into())
        }),
        (IpAddr::V6(src), IpAddr::V6(dst)) => in_table(&connections.v6.table, |key| {
            (key.protocol, key.sport, key.src, key.dst) == (id.0, id.1, src.into(), dst.into())
        }),
        _ => None,
    }
}

fn in_table<K: FlowKey>(
    table: &FlowTable<K>,
    is_it: impl Fn(&K) -> bool,
) -> Option<(bool, [Decider; 2])> {
    let mut found = None;
    table.for_each(|view| {
        if !view.is_reply() && is_it(&view.key) {
            let reply = table.partner(view.flow).and_then(|flow| table.view(flow));
            let rules = [view.action.rule, reply.expect("both").action.rule];
            let denies = view.action.flags & flag::DENY != 0;
            found = Some((denies, rules.map(Decider::from_bits)));
        }
    });
    found
}

/// The `Log` rules that are told of: of each leg the first few.
fn logs(verdict: &Verdict) -> Vec<Option<Reason>> {
    let of = |direction| {
        let logs = verdict.logs.iter();
        logs.filter(move |rule| rule.direction == direction)
            .take(Logs::MAX)
    };
    let all = of(Direction::Egress).chain(of(Direction::Ingress));
    all.map(|rule| Some(Reason::Rule(rule.clone()))).collect()
}

/// What was compared.
#[derive(Debug, Default)]
struct Tally {
    /// How often packets of a protocol were allowed and denied.
    fates: BTreeMap<Protocol, [usize; 2]>,
    /// How many `Log` rules were told of.
    logged: usize,
}

impl Tally {
    fn note(&mut self, protocol: Protocol, outcome: Outcome) {
        self.fates.entry(protocol).or_default()[usize::from(outcome == Outcome::Deny)] += 1;
    }
}

fn compare(seed: u64, rounds: usize, tally: &mut Tally) {
    let mut dice = Dice(seed | 1);
    let ports = ports_of_the_node();
    let mut compiler = PolicyCompiler::default();
    for round in 0..rounds {
        // The same compiler goes on from model to model.
        let model = Arc::new(model(&mut dice));
        compiler.update(&model, NODE_NAME).expect("it fits");
        let mut tables = tables(1024..=65_535);
        tables.policies = compiler.policies(&ports);
        let mut rig = Rig::new(tables).with_records(64, &Arc::default());
        let mut without_ports = BTreeSet::new();
        for own in 10_000..10_040 {
            let way = way(&mut dice);
            let (frame, packet) = packet(&mut dice, &way, own);
            let verdict = evaluate(&model, &packet, &legs(&model, &way.from.0, &way.to));
            let is_known = packet.ports.is_none()
                && packet.icmp.is_none()
                && !without_ports
                    .insert((BTreeSet::from([packet.src, packet.dst]), packet.protocol));
            if is_known {
                // It would be part of a connection, or its answer.
                continue;
            }
            let what = format!(
                "seed {seed:#x}, round {round}, {packet}, {:?} -> {:?}: {verdict:?}",
                way.from.0, way.to
            );
            let outcome = rig.run(way.from.1, &[frame]);
            let told = rig
                .records()
                .into_iter()
                .map(|record| match record.verdict {
                    record::Verdict::Logged(rule) => compiler.reason(Decider::rule(rule)),
                    other => panic!("{other:?}: {what}"),
                });
            let told: Vec<_> = told.collect();
            assert_eq!(told, logs(&verdict), "{what}");
            tally.logged += told.len();
            let fate = match outcome.fates[0] {
                Fate::Transmit(_) => Outcome::Allow,
                Fate::Drop(
                    DropReason::PolicyDeny
                    | DropReason::EndpointToHost
                    | DropReason::EndpointToHostRejected,
                ) => Outcome::Deny,
                // Found out before policy is asked, and after: neither leaves an entry.
                Fate::Drop(DropReason::TunnelFromPod) => {
                    let said = verdict.decided_by().map(|leg| &leg.reason);
                    assert!(
                        matches!(
                            said,
                            Some(
                                Reason::VxlanFromWorkload
                                    | Reason::IpipFromWorkload
                                    | Reason::Inactive
                            )
                        ),
                        "{what}"
                    );
                    tally.note(packet.protocol, Outcome::Deny);
                    continue;
                }
                Fate::Drop(DropReason::NatProtocol) => {
                    assert_eq!(verdict.outcome, Outcome::Allow, "{what}");
                    tally.note(packet.protocol, Outcome::Allow);
                    continue;
                }
                other => panic!("{other:?}: {what}"),
            };
            assert_eq!(fate, verdict.outcome, "{what}");
            tally.note(packet.protocol, fate);
            let (denies, [source, destination]) =
                deciders(&rig, &packet, own).unwrap_or_else(|| panic!("no entry: {what}"));
            assert_eq!(denies, fate == Outcome::Deny, "{what}");
            let said = verdict.legs.iter().filter_map(|leg| match &leg.leg {
                control::policy::legs::Leg::Workload(id, _) => Some((id, &leg.reason)),
                _ => None,
            });
            let said: Vec<_> = said.collect();
            let entries: Vec<Decider> = if denies {
                vec![source]
            } else {
                let both = [source, destination].into_iter();
                both.filter(|it| *it != Decider::NOBODY).collect()
            };
            // A denial has the one that denied, else each leg has its own.
            let told = if denies {
                &said[said.len() - 1..]
            } else {
                &said[..]
            };
            assert_eq!(entries.len(), told.len(), "{what}");
            for (decider, (_, reason)) in entries.iter().zip(told) {
                let ours = compiler.reason(*decider);
                assert_eq!(ours.as_ref(), Some::<&Reason>(reason), "{what}");
            }
        }
    }
}

#[test]
fn the_pipeline_says_what_the_evaluator_says() {
    let mut tally = Tally::default();
    for seed in [
        0x9e37_79b9_7f4a_7c15,
        0xd1b5_4a32_d192_ed03,
        0x2545_f491_4f6c_dd1d,
        0x6a09_e667_f3bc_c909,
    ] {
        compare(seed, 50, &mut tally);
    }
    assert_eq!(tally.fates.len(), 9, "{tally:?}");
    assert!(tally.logged > 100, "{tally:?}");
    for (protocol, [allowed, denied]) in &tally.fates {
        // IPIP is allowed from elsewhere only.
        assert!(*allowed > 20 && *denied > 100, "{protocol}: {tally:?}");
    }
}

/// Another seed each time; `DIFFERENTIAL_SEED` repeats one that a failure names.
#[test]
fn with_a_seed_of_chance_too() {
    let given = std::env::var("DIFFERENTIAL_SEED").ok();
    let seed = given.map_or_else(
        || RandomState::new().build_hasher().finish(),
        |seed| {
            u64::from_str_radix(seed.trim_start_matches("0x"), 16).expect("a hexadecimal number")
        },
    );
    compare(seed, 50, &mut Tally::default());
}
