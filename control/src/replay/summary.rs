//! `summary.json`: what a replay counted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use fastpath::counters::Counters;
use fastpath::port::PortId;
use fastpath::reason::DropReason;
use serde::Serialize;

/// The schema's name and version. A field may be added under the same version; none changes or goes.
pub(super) const SCHEMA: &str = "caracal.replay/v1";

/// The counters of a replay.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Name and version of the schema.
    pub schema: &'static str,
    /// Name of the node.
    pub node: String,
    /// What chose the outer source ports.
    pub seed: u64,
    /// Packets by fate.
    pub accounting: Accounting,
    /// Packets that the dataplane made itself and sent: ICMP errors, fragments after the first.
    pub originated: u64,
    /// Packets that the dataplane made itself and could not send.
    pub originated_dropped: u64,
    /// ICMP errors that were not sent because of the rate limit.
    pub icmp_limited: u64,
    /// Transport checksums that came in partial and were completed.
    pub checksums_completed: u64,
    /// Dropped packets by reason; reasons without any are left out.
    pub drops: BTreeMap<&'static str, u64>,
    /// Ports by name.
    pub ports: BTreeMap<String, PortSummary>,
    /// Neighbours whose MAC addresses packets waited for.
    pub unresolved: BTreeSet<Unresolved>,
}

/// Packets by fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Accounting {
    /// Came in.
    pub rx: u64,
    /// Came in and went out.
    pub tx: u64,
    /// Came in and were dropped.
    pub drop: u64,
    /// Came in and went to control.
    pub punt: u64,
    /// Came in and wait for a neighbour still.
    pub held: u64,
    /// Whether `rx = tx + drop + punt + held`.
    pub balanced: bool,
}

/// One port's counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortSummary {
    /// The capture of what came in.
    pub input: Option<String>,
    /// Packets of the input that the capture had cut short.
    pub cut: u64,
    /// The capture of what went out, in the output directory.
    pub output: Option<String>,
    /// Packets that came in.
    pub rx_packets: u64,
    /// Bytes that came in.
    pub rx_bytes: u64,
    /// Packets that went out, the dataplane's own included.
    pub tx_packets: u64,
    /// Bytes that went out.
    pub tx_bytes: u64,
    /// Packets that came in by this port and were dropped, by reason.
    pub drops: BTreeMap<&'static str, u64>,
}

/// A neighbour whose MAC address is not known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Unresolved {
    /// The port that it is behind.
    pub port: String,
    /// Its address.
    pub address: IpAddr,
}

impl Accounting {
    pub(super) fn of(counters: &Counters) -> Self {
        Self {
            rx: counters.rx.get(),
            tx: counters.tx.get(),
            drop: counters.dropped.get(),
            punt: counters.punt.get(),
            held: counters.held.get(),
            balanced: counters.is_balanced(),
        }
    }
}

impl PortSummary {
    pub(super) fn of(counters: &Counters, port: PortId) -> Self {
        let count =
            |of: fn(&fastpath::counters::PortCounters) -> u64| counters.port(port).map_or(0, of);
        let drops = DropReason::ALL.iter().filter_map(|&reason| {
            let count = counters.drops(port, reason)?.get();
            (count > 0).then(|| (reason.name(), count))
        });
        Self {
            input: None,
            cut: 0,
            output: None,
            rx_packets: count(|port| port.rx_packets.get()),
            rx_bytes: count(|port| port.rx_bytes.get()),
            tx_packets: count(|port| port.tx_packets.get()),
            tx_bytes: count(|port| port.tx_bytes.get()),
            drops: drops.collect(),
        }
    }
}
