//! Random policies and packets: what the pipeline does with the first packet of a connection, and what it says decided, is
//! what the evaluator that goes through everything says.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, Hasher as _};
use std::net::IpAddr;
use std::sync::Arc;

use control::compile::{PolicyCompiler, PortRole, PortSpec, PortTable};
use control::policy::evaluate;
use control::policy::legs::{Leg, Party, host_endpoint, legs, wildcard};
use control::policy::model::{Direction, Model};
use control::policy::packet::{Packet, State};
use control::policy::rule::Protocol;
use control::policy::verdict::{LegVerdict, Outcome, Reason, Verdict};
use encap::eth::MacAddr;
use fastpath::batch::Fate;
use fastpath::policy::Decider;
use fastpath::port::PortId;
use fastpath::reason::DropReason;
use fastpath::record;
use flowtable::acl::{Logs, RuleId};
use flowtable::flow::{FlowKey, FlowTable, flag};
use pcap_tests::build::ethernet;
use pcap_tests::rig::Rig;

use crate::node::*;
use crate::random_packets;
use crate::random_policy::{Dice, NODE_NAME, model, workload_id};

/// Where a packet comes in, and how.
struct Way {
    from: (Party, PortId),
    to: Party,
    addresses: (&'static str, &'static str),
    by_tunnel: bool,
}

fn way(dice: &mut Dice, model: &Model) -> Way {
    let pod = |name| Party::Workload(workload_id(name));
    let host = || Party::Host(NODE_NAME.to_owned());
    let by = |endpoint: Option<&str>| Party::Outside {
        node: NODE_NAME.to_owned(),
        endpoint: endpoint.map(str::to_owned),
    };
    let own = NODE.parse().expect("an address");
    let outside = || by(host_endpoint(model, NODE_NAME, "eth0", &[own]));
    // By an interface that is none of the uplinks: tunnels, and those that only the kernel serves.
    let elsewhere = || by(wildcard(model, NODE_NAME));
    let mut by_tunnel = false;
    let (from, to, addresses) = match dice.below(11) {
        0 => ((pod("a"), POD), pod("b"), (POD_ADDR, OTHER_ADDR)),
        1 => ((pod("b"), OTHER), pod("a"), (OTHER_ADDR, POD_ADDR)),
        2 => ((pod("a"), POD), outside(), (POD_ADDR, SERVER)),
        3 => ((outside(), UPLINK), pod("a"), (SERVER, POD_ADDR)),
        4 => ((pod("a"), POD), host(), (POD_ADDR, NODE)),
        5 => ((host(), HOST), pod("a"), (NODE, POD_ADDR)),
        6 => ((pod("a"), POD), outside(), (POD6, SERVER6)),
        // Forwarded by the kernel.
        7 => ((elsewhere(), HOST), pod("a"), (SERVER, POD_ADDR)),
        8 => ((pod("a"), POD), elsewhere(), (POD_ADDR, REMOTE)),
        9 => {
            by_tunnel = true;
            ((elsewhere(), UPLINK), pod("a"), (REMOTE, POD_ADDR))
        }
        _ => ((outside(), UPLINK), pod("a"), (SERVER6, POD6)),
    };
    Way {
        from,
        to,
        addresses,
        by_tunnel,
    }
}

/// A first packet with a source port, or an identifier, of its own; and what policy sees of it.
fn packet(dice: &mut Dice, way: &Way, own: u16) -> (Vec<u8>, Packet) {
    let (src, dst) = way.addresses;
    let sent = random_packets::any(dice, (src, dst), own);
    let bytes = sent.bytes;
    let (macs, frame_of) = match way.from.1 {
        UPLINK if way.by_tunnel => ((UPLINK_MAC, ROUTER_MAC), tunnelled(&bytes)),
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
fn logs(model: &Model, packet: &Packet, legs: &[Leg]) -> Vec<Option<Reason>> {
    let (mut told, mut before) = (Vec::new(), 0);
    for len in 1..=legs.len() {
        let all = evaluate(model, packet, &legs[..len]).logs;
        let of_leg = all[before..].iter().take(Logs::MAX);
        told.extend(of_leg.map(|rule| Some(Reason::Rule(rule.clone()))));
        before = all.len();
    }
    told
}

/// What decided on the sending and on the receiving side, for pods the pod's policy; or what denied.
fn told<'v>(verdict: &'v Verdict, way: &Way) -> Vec<(&'v Leg, &'v Reason)> {
    let (mut source, mut destination) = (None, None);
    let is_pod = |party: &Party| matches!(party, Party::Workload(_));
    for leg in &verdict.legs {
        let said = Some((&leg.leg, &leg.reason));
        match &leg.leg {
            Leg::Workload(_, Direction::Egress) => source = said,
            Leg::HostForward(_, Direction::Egress) if is_pod(&way.to) => {}
            Leg::Workload(_, Direction::Ingress) | Leg::HostForward(_, Direction::Egress) => {
                destination = said;
            }
            Leg::HostUntracked(..) | Leg::HostPreDnat(_) | Leg::HostForward(..)
                if !is_pod(&way.from.0) =>
            {
                source = said;
            }
            _ => {}
        }
    }
    if verdict.outcome == Outcome::Deny {
        let last = verdict.legs.last().expect("one that denied");
        return match last.leg {
            Leg::EndpointToHost(_) => source.into_iter().collect(),
            _ => vec![(&last.leg, &last.reason)],
        };
    }
    let is_named = |said: &(&Leg, &Reason)| {
        let (_, reason) = said;
        !matches!(
            reason,
            Reason::NoPolicy | Reason::Undecided | Reason::Failsafe(_)
        )
    };
    let both = [source, destination].into_iter().flatten();
    both.filter(is_named).collect()
}

/// What was compared.
#[derive(Debug, Default)]
struct Tally {
    /// How often packets of a protocol were allowed and denied.
    fates: BTreeMap<Protocol, [usize; 2]>,
    /// How many `Log` rules were told of.
    logged: usize,
    /// What host endpoints decided.
    hosts: Decided,
}

impl Tally {
    fn note(&mut self, protocol: Protocol, outcome: Outcome) {
        self.fates.entry(protocol).or_default()[usize::from(outcome == Outcome::Deny)] += 1;
    }
}

fn compare(seed: u64, rounds: usize, tally: &mut Tally) {
    let mut dice = Dice(seed | 1);
    let ports = ports_of_the_node();
    let own_address = NODE.parse().expect("an address");
    let mut compiler = PolicyCompiler::default();
    for round in 0..rounds {
        // The same compiler goes on from model to model.
        let model = Arc::new(model(&mut dice));
        compiler.update(&model, NODE_NAME).expect("it fits");
        let mut tables = tables(1024..=65_535);
        tables.policies = compiler.policies(&ports, &|_| vec![own_address]);
        let mut rig = Rig::new(tables).with_records(64, &Arc::default());
        let mut without_ports = BTreeSet::new();
        for own in 10_000..10_040 {
            let way = way(&mut dice, &model);
            let (frame, packet) = packet(&mut dice, &way, own);
            let legs = legs(&model, &way.from.0, &way.to);
            let verdict = evaluate(&model, &packet, &legs);
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
            let counted = Counted::of_now(&rig);
            let outcome = rig.run(way.from.1, std::slice::from_ref(&frame));
            let fate = match outcome.fates[0] {
                Fate::Transmit(_) => Outcome::Allow,
                Fate::Drop(
                    DropReason::PolicyDeny
                    | DropReason::EndpointToHost
                    | DropReason::EndpointToHostRejected,
                ) => Outcome::Deny,
                // Found out before policy is asked, and after: neither leaves an entry.
                Fate::Drop(DropReason::TunnelFromPod) => {
                    assert!(is_tunnels(&verdict), "{what}");
                    rig.records();
                    tally.note(packet.protocol, Outcome::Deny);
                    continue;
                }
                Fate::Drop(DropReason::NatProtocol | DropReason::NatAddressTaken) => {
                    assert_eq!(verdict.outcome, Outcome::Allow, "{what}");
                    rig.records();
                    tally.note(packet.protocol, Outcome::Allow);
                    continue;
                }
                other => panic!("{other:?}: {what}"),
            };
            assert_eq!(fate, verdict.outcome, "{what}");
            let records = rig.records().into_iter();
            let records = records.map(|record| match record.verdict {
                record::Verdict::Logged(rule) => compiler.reason(Decider::rule(rule)),
                other => panic!("{other:?}: {what}"),
            });
            let records: Vec<_> = records.collect();
            assert_eq!(records, logs(&model, &packet, &legs), "{what}");
            tally.logged += records.len();
            tally.note(packet.protocol, fate);
            tally.hosts.note_failsafes(&verdict);
            // What the kernel forwards is tracked, whatever it is by.
            let by_kernel = way.from.1 == HOST;
            if let Some(leg) = untracked(&verdict).filter(|_| !by_kernel) {
                // Each packet is judged, and counted for who decided.
                assert_eq!(deciders(&rig, &packet, own), None, "{what}");
                assert_eq!(rig.run(way.from.1, &[frame]).fates, outcome.fates);
                assert_eq!(deciders(&rig, &packet, own), None, "{what}");
                rig.records();
                let told = told(&verdict, &way);
                let told: Vec<_> = told.iter().map(|(_, reason)| *reason).collect();
                assert_eq!(counted.of(&rig, &compiler), reasons(&told, 2), "{what}");
                tally.hosts.note(&leg.leg, &leg.reason);
                continue;
            }
            let (denies, [source, destination]) =
                deciders(&rig, &packet, own).unwrap_or_else(|| panic!("no entry: {what}"));
            assert_eq!(denies, fate == Outcome::Deny, "{what}");
            let entries: Vec<Decider> = if denies {
                vec![source]
            } else {
                let both = [source, destination].into_iter();
                both.filter(|it| *it != Decider::NOBODY).collect()
            };
            // A denial has the one that denied, else each side has its own.
            let told = told(&verdict, &way);
            assert_eq!(entries.len(), told.len(), "{what}");
            for (decider, (leg, reason)) in entries.iter().zip(told) {
                let ours = compiler.reason(*decider);
                assert_eq!(ours.as_ref(), Some(reason), "{what}");
                tally.hosts.note(leg, reason);
            }
        }
    }
}

/// What untracked policy said, if it decided.
fn untracked(verdict: &Verdict) -> Option<&LegVerdict> {
    let mut legs = verdict.legs.iter();
    legs.find(|leg| {
        matches!(leg.leg, Leg::HostUntracked(..)) && matches!(leg.reason, Reason::Rule(_))
    })
}

/// How many packets were counted for each reason.
type Packets = BTreeMap<String, u64>;

/// The reasons, each with so many packets.
fn reasons(all: &[&Reason], packets: u64) -> Packets {
    let mut counts = Packets::new();
    for reason in all {
        *counts.entry(format!("{reason:?}")).or_default() += packets;
    }
    counts
}

/// The packets that each number has counted.
struct Counted(Vec<u64>);

impl Counted {
    fn of_now(rig: &Rig) -> Self {
        let counters = &rig.tables().policies.counters;
        let all = (0..2000).map(|id| counters.get(RuleId(id)).packets);
        Self(all.collect())
    }

    /// What was counted since.
    fn of(&self, rig: &Rig, compiler: &PolicyCompiler) -> Packets {
        let now = Self::of_now(rig).0.into_iter();
        let mut counts = Packets::new();
        for ((id, now), before) in (0..).zip(now).zip(&self.0) {
            if now > *before {
                let reason = compiler.reason(Decider::rule(RuleId(id)));
                let reason = reason.expect("a reason");
                *counts.entry(format!("{reason:?}")).or_default() += now - before;
            }
        }
        counts
    }
}

/// Whether a packet that a pod may not send is denied for that, or before policy is asked about that.
fn is_tunnels(verdict: &Verdict) -> bool {
    let Some(by) = verdict.decided_by() else {
        return false;
    };
    let early = matches!(
        by.leg,
        Leg::HostPreDnat(_) | Leg::HostForward(_, Direction::Ingress)
    );
    let reasons = matches!(
        by.reason,
        Reason::VxlanFromWorkload | Reason::IpipFromWorkload | Reason::Inactive
    );
    verdict.outcome == Outcome::Deny && (early || reasons)
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
    tally.hosts.each_more_than(5);
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

/// How often which kind of a host endpoint's policy decided.
#[derive(Debug, Default)]
struct Decided {
    untracked: usize,
    pre_dnat: usize,
    failsafe: usize,
    /// By the source port of a failsafe.
    answers: usize,
    ingress: usize,
    egress: usize,
    ends_of_tiers: usize,
}

impl Decided {
    fn note(&mut self, leg: &Leg, reason: &Reason) {
        match (leg, reason) {
            (Leg::HostForward(..), Reason::EndOfTier { .. }) => self.ends_of_tiers += 1,
            (Leg::HostUntracked(..), _) => self.untracked += 1,
            (Leg::HostPreDnat(_), _) => self.pre_dnat += 1,
            (Leg::HostForward(_, Direction::Ingress), _) => self.ingress += 1,
            (Leg::HostForward(_, Direction::Egress), _) => self.egress += 1,
            _ => {}
        }
    }

    /// They decide about no connection.
    fn note_failsafes(&mut self, verdict: &Verdict) {
        for leg in &verdict.legs {
            match &leg.reason {
                Reason::Failsafe(port) if port.starts_with("UDP 100") => self.answers += 1,
                Reason::Failsafe(_) => self.failsafe += 1,
                _ => {}
            }
        }
    }

    fn each_more_than(&self, least: usize) {
        let all = [
            self.untracked,
            self.pre_dnat,
            self.failsafe,
            self.answers,
            self.ingress,
            self.egress,
            self.ends_of_tiers,
        ];
        assert!(all.iter().all(|count| *count > least), "{self:?}");
    }
}
