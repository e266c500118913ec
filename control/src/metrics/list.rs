//! The list of all metrics.

use fastpath::reason::DropReason;

use crate::api::report::Part;

/// A metric: what it is called and where in the JSON it is.
#[derive(Debug)]
pub(super) struct Metric {
    /// Without the prefix `caracal_`, the unit, and the suffix of its kind.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) unit: Unit,
    /// The path of its values in [`Figures`](super::Figures) as JSON: members with dots between, `[]` behind an array.
    /// Numbers, booleans (0 or 1), and of all else the count.
    pub(super) from: &'static str,
    /// Its labels: each with the member of the innermost array's entry (or the whole report) that it is from; `#` is the
    /// number of the entry, from 0, and `=…` a word. Where such a member is null, so that it has no port or core, the
    /// label is left out if its member ends in `?`, and the sample otherwise.
    pub(super) labels: &'static [(&'static str, &'static str)],
    /// What is there even if nothing was counted.
    pub(super) always: Always,
    pub(super) help: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    /// Labels only; the value is 1.
    Info,
    /// Of [`Changes`](crate::api::report::Changes).
    Histogram,
}

/// What a metric is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// It counts.
    None,
    Bytes,
    /// Seconds; the JSON has so many times as many.
    Seconds(u32),
}

/// Samples that a metric has even if the JSON has none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Always {
    /// None.
    Nothing,
    /// One without labels.
    One,
    /// One a reason for drops.
    Reasons,
    /// One a part of the node that may have problems.
    Parts,
}

impl Always {
    /// Their labels.
    pub(super) fn labels(self) -> Vec<Vec<(&'static str, String)>> {
        match self {
            Self::Nothing => Vec::new(),
            Self::One => vec![Vec::new()],
            Self::Reasons => {
                let labels = |reason: &DropReason| {
                    let (name, stage) = (reason.name().to_owned(), reason.stage().to_owned());
                    vec![("reason", name), ("stage", stage)]
                };
                DropReason::ALL.iter().map(labels).collect()
            }
            Self::Parts => {
                let labels = |part: &Part| vec![("part", part.name().to_owned())];
                Part::ALL.iter().map(labels).collect()
            }
        }
    }
}

impl Metric {
    /// Its full name, as rules and dashboards have it; of a histogram its stem.
    #[cfg(test)]
    pub(super) fn full_name(&self) -> String {
        let unit = match self.unit {
            Unit::None => "",
            Unit::Bytes => "_bytes",
            Unit::Seconds(_) => "_seconds",
        };
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        format!("{}_{}{unit}{suffix}", super::page::PREFIX, self.name)
    }

    const fn labelled(mut self, labels: &'static [(&'static str, &'static str)]) -> Self {
        self.labels = labels;
        self
    }

    const fn always(mut self, always: Always) -> Self {
        self.always = always;
        self
    }

    const fn in_unit(mut self, unit: Unit) -> Self {
        self.unit = unit;
        self
    }
}

const fn counter(name: &'static str, from: &'static str, help: &'static str) -> Metric {
    Metric {
        name,
        kind: Kind::Counter,
        unit: Unit::None,
        from,
        labels: &[],
        always: Always::Nothing,
        help,
    }
}

const fn gauge(name: &'static str, from: &'static str, help: &'static str) -> Metric {
    Metric {
        kind: Kind::Gauge,
        ..counter(name, from, help)
    }
}

const fn info(name: &'static str, from: &'static str, help: &'static str) -> Metric {
    Metric {
        kind: Kind::Info,
        ..counter(name, from, help)
    }
}

const NANOSECONDS: Unit = Unit::Seconds(1_000_000_000);
const PORT: &[(&str, &str)] = &[("port", "name")];
/// The device by which packets come to the pollers with flows in the kernel.
const PUNT: &[(&str, &str)] = &[("port", "=caracal-punt1")];
const POLLER: &[(&str, &str)] = &[("poller", "#"), ("core", "core?")];
const V4: &[(&str, &str)] = &[("family", "=ipv4")];
const V6: &[(&str, &str)] = &[("family", "=ipv6")];
const RULE: &[(&str, &str)] = &[
    ("tier", "tier?"),
    ("policy", "policy"),
    ("direction", "direction"),
    ("rule", "rule"),
    ("action", "action"),
];

/// All metrics. Those of one name stand together; they differ in a label.
pub(super) const METRICS: &[Metric] = &[
    info("build", "status.version", "The daemon.").labelled(&[("version", "version")]),
    gauge("uptime", "status.uptime_seconds", "Time since the daemon started.")
        .in_unit(Unit::Seconds(1)),
    gauge("problems", "status.problems[]", "Things that are not as they should be: `caracal status` names them.")
        .labelled(&[("part", "part")])
        .always(Always::Parts),
    // Packets.
    counter("rx_packets", "status.ports[].rx_packets", "Packets received by a port since it is served.")
        .labelled(PORT),
    counter("rx", "status.ports[].rx_bytes", "Bytes received by a port since it is served.")
        .labelled(PORT)
        .in_unit(Unit::Bytes),
    counter("tx_packets", "status.ports[].tx_packets", "Packets sent by a port since it is served.")
        .labelled(PORT),
    counter("tx", "status.ports[].tx_bytes", "Bytes sent by a port since it is served.")
        .labelled(PORT)
        .in_unit(Unit::Bytes),
    counter("drops", "status.drops[].count", "Packets dropped, all ports together, those that are gone included. `caracal explain` says what a reason means.")
        .labelled(&[("reason", "reason"), ("stage", "stage")])
        .always(Always::Reasons),
    counter("port_drops", "drops.drops[].count", "Packets that came in by a port and were dropped, since it is served; of a reason that has occurred.")
        .labelled(&[("port", "port"), ("reason", "reason"), ("stage", "stage")]),
    counter("received_packets", "status.accounting.rx", "Packets that came in, by whatever port."),
    counter("forwarded_packets", "status.accounting.tx", "Of these, those that went out."),
    counter("punts", "status.accounting.punt", "Of these, those whose content went to the control thread: answers of neighbours."),
    gauge("held_packets", "status.accounting.held", "Of these, those that wait for a neighbour."),
    gauge("accounting_balanced", "status.accounting.balanced", "Whether every packet that came in has one fate: forwarded, dropped, punted or held. 0: packets are lost count of."),
    counter("originated_packets", "status.accounting.originated", "Packets that the dataplane made itself and sent: ICMP errors, fragments after the first, ARP requests."),
    counter("originated_dropped_packets", "status.accounting.originated_dropped", "Packets that the dataplane made itself and could not send."),
    counter("icmp_limited", "status.accounting.icmp_limited", "ICMP errors that were not made, because of the rate limit."),
    counter("checksums_completed", "status.accounting.checksums_completed", "Partial transport checksums that were completed."),
    // The kernel's counters.
    counter("xsk_rx_dropped", "status.ports[].xsk.rx_dropped", "Packets that the kernel dropped on the way to a port's sockets for other reasons than the next.")
        .labelled(PORT),
    counter("xsk_rx_dropped", "status.offload.xsk.rx_dropped", "").labelled(PUNT),
    counter("xsk_rx_ring_full", "status.ports[].xsk.rx_ring_full", "Packets that the kernel dropped because the receive ring was full: the poller is too slow.")
        .labelled(PORT),
    counter("xsk_rx_ring_full", "status.offload.xsk.rx_ring_full", "").labelled(PUNT),
    counter("xsk_rx_fill_ring_empty", "status.ports[].xsk.fill_empty", "Times that the kernel found the fill ring empty: too few frames.")
        .labelled(PORT),
    counter("xsk_rx_fill_ring_empty", "status.offload.xsk.fill_empty", "").labelled(PUNT),
    counter("xsk_rx_invalid_descs", "status.ports[].xsk.rx_invalid", "Bad descriptors in the fill ring.")
        .labelled(PORT),
    counter("xsk_rx_invalid_descs", "status.offload.xsk.rx_invalid", "").labelled(PUNT),
    counter("xsk_tx_invalid_descs", "status.ports[].xsk.tx_invalid", "Bad descriptors in the send ring.")
        .labelled(PORT),
    counter("xsk_tx_invalid_descs", "status.offload.xsk.tx_invalid", "").labelled(PUNT),
    // Ports.
    info("port", "status.ports[].name", "A port.")
        .labelled(&[("port", "name"), ("kind", "kind"), ("mode", "mode"), ("driver", "driver?")]),
    gauge("port_up", "status.ports[].up", "Whether the interface is up.").labelled(PORT),
    gauge("port_generic", "status.ports[].generic", "Whether XDP runs in the kernel's stack instead of the driver, several times slower.")
        .labelled(PORT),
    gauge("closed_interfaces", "status.closed[]", "Pods' interfaces that no WorkloadEndpoint names: nothing passes there.")
        .always(Always::One),
    // Connections.
    gauge("flow_cache_entries", "status.connections.ipv4.used", "Connections in the table.").labelled(V4),
    gauge("flow_cache_entries", "status.connections.ipv6.used", "Connections in the table.").labelled(V6),
    gauge("flow_cache_capacity", "status.connections.ipv4.capacity", "Connections that the table may hold.").labelled(V4),
    gauge("flow_cache_capacity", "status.connections.ipv6.capacity", "Connections that the table may hold.").labelled(V6),
    counter("flow_cache_inserts", "status.connections.made", "Connections that were made."),
    counter("flow_cache_takeovers", "status.connections.taken_over", "Connections that the daemon before kept, by whether they were taken over.")
        .labelled(&[("outcome", "=taken-over")]),
    counter("flow_cache_takeovers", "status.connections.left_out", "").labelled(&[("outcome", "=left-out")]),
    counter("flow_cache_insert_failures", "status.connections.untracked", "First packets that went without a connection being remembered, because pollers met. Those refused for want of room are drops: `flow-table-full`, `flow-quota`."),
    counter("flow_cache_removals", "status.connections.expired", "Connections that were removed: nothing was sent for too long, their endpoint is gone, or early for new ones.")
        .labelled(&[("cause", "=expired")]),
    counter("flow_cache_removals", "status.connections.ended", "").labelled(&[("cause", "=ended")]),
    counter("flow_cache_removals", "status.connections.evicted", "").labelled(&[("cause", "=evicted")]),
    gauge("nat_ports", "status.connections.nat_ports.tcp", "Source ports for translated connections to one destination.")
        .labelled(&[("protocol", "=tcp")]),
    gauge("nat_ports", "status.connections.nat_ports.udp", "").labelled(&[("protocol", "=udp")]),
    // Flows in the kernel, with `offload: kernel`.
    gauge("offload_flows", "status.offload.flows_v4", "Flows that the kernel has: one direction of a connection each. This and the next are there with `offload: kernel`.").labelled(V4),
    gauge("offload_flows", "status.offload.flows_v6", "").labelled(V6),
    gauge("offload_paused", "status.offload.paused", "Whether all packets go to the pollers, since somebody captures."),
    counter("offload_offers", "status.offload.offered", "Flows that pollers offered to the kernel."),
    counter("offload_inserts", "status.offload.inserted", "Flows that it was given."),
    counter("offload_refusals", "status.offload.refused[].count", "Flows that it was not given.").labelled(&[("why", "why")]),
    counter("offload_removals", "status.offload.removed[].count", "Flows that were taken from it.").labelled(&[("why", "why")]),
    counter("offload_packets", "status.offload.hits", "Packets that the programs saw, a super-frame counted once: of flows that the kernel has, for the pollers, of the host, and dropped, since their pod had more for the pollers than its share or their flow went.")
        .labelled(&[("outcome", "=kernel")]),
    counter("offload_packets", "status.offload.punted", "").labelled(&[("outcome", "=pollers")]),
    counter("offload_packets", "status.offload.passed", "").labelled(&[("outcome", "=host")]),
    counter("offload_packets", "status.offload.limited", "").labelled(&[("outcome", "=limited")]),
    counter("offload_packets", "status.offload.spoilt", "").labelled(&[("outcome", "=spoilt")]),
    // Pollers.
    counter("poller_rx_packets", "status.pollers[].rx_packets", "Packets that a poller received.").labelled(POLLER),
    counter("poller_rounds", "status.pollers[].rounds", "Rounds of a poller's loop; one that stands is stalled.").labelled(POLLER),
    counter("poller_sleeps", "status.pollers[].sleeps", "Times that a poller went to sleep.").labelled(POLLER),
    counter("poller_busy", "status.pollers[].busy_nanoseconds", "Time of rounds in which packets came in.")
        .labelled(POLLER)
        .in_unit(NANOSECONDS),
    counter("poller_idle", "status.pollers[].idle_nanoseconds", "Time of the other rounds, sleep included.")
        .labelled(POLLER)
        .in_unit(NANOSECONDS),
    gauge("poller_generation", "status.pollers[].generation", "Generation of the tables that a poller uses.").labelled(POLLER),
    counter("poller_events_lost", "status.pollers[].events_lost", "Events for the control thread that were lost, because it was behind.").labelled(POLLER),
    counter("poller_records_lost", "status.pollers[].records_lost", "Records of connections that were lost: `caracal observe` misses them.").labelled(POLLER),
    counter("poller_logs_limited", "status.pollers[].logs_limited", "Matches of `Log` rules that were only counted, because of the rate limit.").labelled(POLLER),
    counter(
        "poller_copies_lost",
        "status.pollers[].copies_lost",
        "Copies of packets that were lost: `caracal capture` misses them.",
    )
    .labelled(POLLER),
    gauge("packet_memory", "status.packet_memory_bytes", "Memory set aside for packets.").in_unit(Unit::Bytes),
    // Configuration and the kernel's state.
    gauge("config_generation", "status.generation", "Generation of the tables that were published last."),
    counter("config_apply_failures", "status.datastore.refusals", "Times that files, or the routes they lead to, were refused; the state before stays in force."),
    gauge("config_resources", "status.datastore.resources", "Resources in force."),
    gauge("config_remarks", "status.datastore.remarks", "Warnings and notes about them."),
    gauge("felix_connected", "status.felix.connected", "Whether Felix is connected. This and the next are there with `source: felix`."),
    gauge("felix_in_sync", "status.felix.in_sync", "Whether Felix has said, in this connection, that its snapshot is complete."),
    counter("felix_connections", "status.felix.connections", "Times that Felix connected."),
    gauge("felix_messages", "status.felix.messages", "Messages of the connection to Felix."),
    gauge("felix_messages_ignored", "status.felix.ignored", "Those of them that nothing acts on."),
    gauge("kubernetes_services", "status.kubernetes.services", "Services that the API server has told of, headless ones left out. This and the next are there with `kubernetes`."),
    gauge("kubernetes_endpoint_slices", "status.kubernetes.endpoint_slices", "Slices of their endpoints that it has told of."),
    Metric {
        kind: Kind::Histogram,
        ..counter("route_apply", "status.changes", "Time from when the control thread woke to when pollers had tables of what was new: routes, neighbours, pods, files.")
    }
    .in_unit(Unit::Seconds(1_000_000)),
    gauge("routes", "status.routes.ipv4", "Routes in the tables.").labelled(V4),
    gauge("routes", "status.routes.ipv6", "").labelled(V6),
    gauge("kernel_routes", "status.routes.kernel", "Routes in the kernel's main table."),
    gauge("services", "status.services.total", "Kubernetes services that pods reach."),
    gauge("services_without_endpoints", "status.services.without_endpoints", "Of these, those of which a port has no endpoint: its clients are refused."),
    counter("netlink_overruns", "status.routes.overruns", "Times that the kernel's messages overran us; each was followed by a full dump."),
    // Policy, with `ruleMetrics: true`.
    counter("policy_rule_connections", "rules[].connections", "First packets that a rule decided about; with `ruleMetrics: true`.").labelled(RULE),
    counter("policy_rule_packets", "rules[].packets", "All packets of these connections; with `ruleMetrics: true`.").labelled(RULE),
];
