//! What happened between two looks at a daemon, a second.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::api::report::{DenyingRule, Flow, Port, Status};

/// Flows that are shown at most.
const FLOWS: usize = 10;

/// What one look saw. Counters count since the daemon started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Look {
    pub(super) status: Status,
    /// What denied most.
    pub(super) rules: Vec<DenyingRule>,
}

/// The connections of another look, which is not at the same time.
#[derive(Clone, Debug, Default)]
pub(super) struct FlowLook {
    counts: HashMap<Key, (u64, u64)>,
}

/// What tells connections apart.
type Key = (
    String,
    IpAddr,
    IpAddr,
    Option<u16>,
    Option<u16>,
    Option<u16>,
);

/// All that is shown. Rates are a second.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Top {
    /// Between the looks.
    pub(super) seconds: f64,
    pub(super) node: String,
    pub(super) version: String,
    pub(super) uptime_seconds: u64,
    pub(super) generation: u64,
    /// How many things are not as they should be.
    pub(super) problems: usize,
    pub(super) rx_packets: f64,
    pub(super) tx_packets: f64,
    pub(super) drops: f64,
    /// In the tables now.
    pub(super) connections: u64,
    pub(super) cores: Vec<PollerRates>,
    /// The fastest first.
    pub(super) ports: Vec<PortRates>,
    /// The fastest, the fastest first.
    pub(super) flows: Vec<FlowRates>,
    /// By reason, the most first.
    pub(super) reasons: Vec<ReasonRate>,
    /// By what denies, the most first.
    pub(super) rules: Vec<RuleRate>,
}

/// One poller.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct PollerRates {
    pub(super) core: Option<u16>,
    /// Time of rounds in which packets came in, of all time.
    pub(super) busy_percent: f64,
    pub(super) rx_packets: f64,
    /// Rounds without packets included.
    pub(super) packets_per_round: f64,
}

/// One port.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct PortRates {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) mode: String,
    pub(super) rx_packets: f64,
    pub(super) tx_packets: f64,
    pub(super) rx_bits: f64,
    pub(super) tx_bits: f64,
    pub(super) drops: f64,
}

/// One connection, both directions together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct FlowRates {
    pub(super) protocol: String,
    pub(super) src: IpAddr,
    pub(super) src_port: Option<u16>,
    pub(super) dst: IpAddr,
    pub(super) dst_port: Option<u16>,
    pub(super) state: String,
    pub(super) endpoint: Option<String>,
    pub(super) packets: f64,
    pub(super) bits: f64,
}

/// Drops for one reason.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct ReasonRate {
    pub(super) reason: String,
    pub(super) packets: f64,
    /// Since the daemon started.
    pub(super) total: u64,
}

/// What one rule denied, or what does where no rule matches.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct RuleRate {
    pub(super) rule: String,
    pub(super) default: bool,
    pub(super) packets: f64,
    /// Since the rule is there.
    pub(super) total: u64,
}

/// What happened between two looks; nothing is known of it if the daemon was started again meanwhile.
pub(super) fn between(before: &Look, now: &Look, time: Duration) -> Option<Top> {
    let (old, new) = (&before.status, &now.status);
    if old.pid != new.pid || new.uptime_seconds < old.uptime_seconds {
        return None;
    }
    let seconds = time.as_secs_f64();
    let rate = |old, new| rate(old, new, seconds);
    let (from, to) = (&old.accounting, &new.accounting);
    let ports = new.ports.iter().map(|port| {
        let before = old.ports.iter().find(|it| is_same(it, port));
        let of = |count: fn(&Port) -> u64| rate(before.map_or(0, count), count(port));
        PortRates {
            name: port.name.clone(),
            kind: port.kind.clone(),
            mode: port.mode.clone(),
            rx_packets: of(|it| it.rx_packets),
            tx_packets: of(|it| it.tx_packets),
            rx_bits: 8.0 * of(|it| it.rx_bytes),
            tx_bits: 8.0 * of(|it| it.tx_bytes),
            drops: of(|it| it.drops),
        }
    });
    let mut ports: Vec<_> = ports.collect();
    let packets = |port: &PortRates| port.rx_packets + port.tx_packets;
    ports.sort_by(|a, b| packets(b).total_cmp(&packets(a)));
    let cores = old.pollers.iter().zip(&new.pollers).map(|(old, new)| {
        let (busy, idle) = (
            rate(old.busy_nanoseconds, new.busy_nanoseconds),
            rate(old.idle_nanoseconds, new.idle_nanoseconds),
        );
        let (packets, rounds) = (
            rate(old.rx_packets, new.rx_packets),
            rate(old.rounds, new.rounds),
        );
        PollerRates {
            core: new.core,
            busy_percent: 100.0 * part(busy, busy + idle),
            rx_packets: packets,
            packets_per_round: part(packets, rounds),
        }
    });
    let mut reasons: Vec<_> = new
        .drops
        .iter()
        .map(|drop| {
            let before = old.drops.iter().find(|it| it.reason == drop.reason);
            ReasonRate {
                reason: drop.reason.clone(),
                packets: rate(before.map_or(0, |it| it.count), drop.count),
                total: drop.count,
            }
        })
        .collect();
    // Those of one rate stay in the order of their counts.
    reasons.sort_by(|a, b| b.packets.total_cmp(&a.packets));
    let mut rules: Vec<_> = now
        .rules
        .iter()
        .map(|rule| {
            let mut all = before.rules.iter();
            // One that is named for the first time may have denied before.
            let before = all.find(|it| it.rule == rule.rule);
            RuleRate {
                rule: rule.rule.clone(),
                default: rule.default,
                packets: before.map_or(0.0, |it| rate(it.packets, rule.packets)),
                total: rule.packets,
            }
        })
        .collect();
    rules.sort_by(|a, b| b.packets.total_cmp(&a.packets));
    let used = [new.connections.ipv4.used, new.connections.ipv6.used];
    Some(Top {
        seconds,
        node: new.node.clone(),
        version: new.version.clone(),
        uptime_seconds: new.uptime_seconds,
        generation: new.generation,
        problems: new.problems.len(),
        rx_packets: rate(from.rx, to.rx),
        tx_packets: rate(from.tx, to.tx),
        drops: rate(from.drop, to.drop),
        connections: used.map(u64::from).iter().sum(),
        cores: cores.collect(),
        ports,
        flows: Vec::new(),
        reasons,
        rules,
    })
}

/// Whether it is the same port, and not another of its name.
fn is_same(one: &Port, other: &Port) -> bool {
    one.name == other.name && one.id == other.id
}

/// A counter's rate. One that is less than it was began anew.
fn rate(before: u64, now: u64, seconds: f64) -> f64 {
    let count = now.checked_sub(before).unwrap_or(now);
    part(count as f64, seconds)
}

fn part(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

impl FlowLook {
    /// Takes connections in.
    pub(super) fn add(&mut self, flows: &[Flow]) {
        self.counts
            .extend(flows.iter().map(|it| (key(it), sums(it))));
    }
}

/// The fastest of the connections that were there before, too.
pub(super) fn fastest(before: &FlowLook, now: &[Flow], time: Duration) -> Vec<FlowRates> {
    let seconds = time.as_secs_f64();
    let rates = now.iter().filter_map(|flow| {
        let &(packets, bytes) = before.counts.get(&key(flow))?;
        let (packets_now, bytes_now) = sums(flow);
        let packets = rate(packets, packets_now, seconds);
        (packets > 0.0).then(|| FlowRates {
            protocol: flow.protocol.clone(),
            src: flow.src,
            src_port: flow.src_port,
            dst: flow.dst,
            dst_port: flow.dst_port,
            state: flow.state.clone(),
            endpoint: flow.endpoint.clone(),
            packets,
            bits: 8.0 * rate(bytes, bytes_now, seconds),
        })
    });
    let mut rates: Vec<_> = rates.collect();
    rates.sort_by(|a, b| b.packets.total_cmp(&a.packets));
    rates.truncate(FLOWS);
    rates
}

fn key(flow: &Flow) -> Key {
    (
        flow.protocol.clone(),
        flow.src,
        flow.dst,
        flow.src_port,
        flow.dst_port,
        flow.icmp_id,
    )
}

/// Packets and bytes of both directions.
const fn sums(flow: &Flow) -> (u64, u64) {
    (
        flow.original.packets.saturating_add(flow.reply.packets),
        flow.original.bytes.saturating_add(flow.reply.bytes),
    )
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "such rates are exact")]
pub(super) mod tests {
    use super::*;

    fn look() -> Look {
        let status = serde_json::from_str(include_str!("../../../tests/golden/status.json"));
        Look {
            status: status.unwrap(),
            rules: vec![DenyingRule {
                rule: "tier default: NetworkPolicy shop/db, ingress rule 2 (Deny)".to_owned(),
                default: false,
                connections: 3,
                packets: 40,
            }],
        }
    }

    /// Two looks, two seconds apart, between which something happened.
    pub(in super::super) fn looks() -> (Look, Look, Duration) {
        let before = look();
        let mut now = look();
        let status = &mut now.status;
        status.uptime_seconds += 2;
        status.accounting.rx += 8_240_000;
        status.accounting.tx += 8_239_990;
        status.accounting.drop += 8;
        status.pollers[0].rx_packets += 8_240_000;
        status.pollers[0].rounds += 300_000;
        status.pollers[0].busy_nanoseconds += 1_220_000_000;
        status.pollers[0].idle_nanoseconds += 780_000_000;
        let port = &mut status.ports[0];
        port.rx_packets += 4_000_000;
        port.rx_bytes += 4_000_000_000;
        port.tx_packets += 2_000;
        port.drops += 8;
        status.drops[0].count += 8;
        now.rules[0].packets += 8;
        (before, now, Duration::from_secs(2))
    }

    pub(in super::super) fn flows() -> Vec<Flow> {
        let text = include_str!("../../../tests/golden/flows.json");
        serde_json::from_str::<crate::api::report::Flows>(text)
            .unwrap()
            .flows
    }

    #[test]
    fn rates_are_what_was_counted_between_two_looks() {
        let (before, now, time) = looks();
        let top = between(&before, &now, time).unwrap();
        assert_eq!((top.rx_packets, top.drops), (4_120_000.0, 4.0));
        assert!((top.cores[0].busy_percent - 61.0).abs() < 1e-9);
        assert!((top.cores[0].packets_per_round - 8_240_000.0 / 300_000.0).abs() < 1e-9);
        assert_eq!(top.cores[1].rx_packets, 0.0);
        assert_eq!(top.ports[0].rx_packets, 2_000_000.0);
        assert_eq!(top.ports[0].rx_bits, 16_000_000_000.0);
        assert_eq!((top.reasons[0].packets, top.rules[0].packets), (4.0, 4.0));
    }

    #[test]
    fn a_counter_that_began_anew_counts_from_its_beginning() {
        assert_eq!(rate(100, 30, 2.0), 15.0);
        assert_eq!(rate(100, 100, 2.0), 0.0);
        assert_eq!(rate(0, 7, 0.0), 0.0, "no time");
        // A port of the same name that is another one.
        let (before, mut now, time) = looks();
        now.status.ports[0].id = 99;
        now.status.ports[0].rx_packets = 50;
        let top = between(&before, &now, time).unwrap();
        assert_eq!(top.ports[0].rx_packets, 25.0);
        // And a rule that was not among the first before.
        now.rules[0].rule = "another".to_owned();
        let top = between(&before, &now, time).unwrap();
        assert_eq!((top.rules[0].packets, top.rules[0].total), (0.0, 48));
    }

    #[test]
    fn nothing_is_known_across_a_restart() {
        let (before, mut now, time) = looks();
        now.status.pid += 1;
        assert_eq!(between(&before, &now, time), None);
        now.status.pid -= 1;
        now.status.uptime_seconds = before.status.uptime_seconds - 1;
        assert_eq!(
            between(&before, &now, time),
            None,
            "as pid 1 of a container"
        );
    }

    #[test]
    fn the_fastest_connection_is_the_first() {
        let flows = flows();
        let mut before = FlowLook::default();
        before.add(&flows[1..]);
        let mut now = flows.clone();
        // Not seen before.
        now[0].original.packets += 1000;
        now[1].original.packets += 10;
        now[2].reply.packets += 30;
        now[2].reply.bytes += 3000;
        let fastest = fastest(&before, &now, Duration::from_secs(2));
        let found: Vec<_> = fastest
            .iter()
            .map(|it| (it.src, it.packets, it.bits))
            .collect();
        assert_eq!(
            found,
            [(flows[2].src, 15.0, 12_000.0), (flows[1].src, 5.0, 0.0)]
        );
    }
}
