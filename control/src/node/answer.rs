//! Answers to what the control socket asks.

use std::net::IpAddr;
use std::time::Instant;

use fastpath::connections::Side;
use fastpath::io::xsk::Statistics;
use fastpath::port::PortId;
use fastpath::reason::DropReason;
use flowtable::flow::FlowKey;
use serde::Serialize;
use serde_json::Value;

use super::tally::{self, Tally};
use super::{Node, kernel, ports::Served, services};
use crate::api::report::{
    Connections, Datastore, DropCount, Drops, KernelDrops, NatPorts, Neighbour, Neighbours, Part,
    Poller, Port, Ports, Problem, ReasonCount, RouteCounts, Routes, Status, TableUse, Tunnel,
    XskCounters,
};
use crate::api::{
    ApiError, ErrorCode, MAX_PAGE, Method, PageParams, Request, Response, RoutesParams,
};
use crate::compile::{KernelView, PortRole, PortSpec};
use crate::config::daemon::FailMode;
use crate::desired::PoolType;
use crate::netlink::{Link, punt};
use crate::nft::what_holds;
use crate::trace;

/// Above this part of its capacity a table makes the node degraded.
const FULL_PERCENT: u64 = 90;

impl Node {
    /// Answers a request, in a few milliseconds at most. Only [`Method::FlushFlows`] changes something.
    pub(super) fn answer(&mut self, request: &Request) -> Response {
        let outcome = match &request.method {
            Method::Status => value(&self.status()),
            Method::Ports => value(&Ports {
                ports: self.port_reports(),
                problems: self.port_problems(),
            }),
            Method::Drops => value(&self.drops()),
            Method::Accounting => value(&tally::accounting(self.pollers.counters())),
            Method::Routes(params) => value(&self.routes(params)),
            Method::Neighbours(params) => value(&self.neighbour_reports(params)),
            Method::Services(params) => {
                value(&services::page(&self.compiler.desired().services, params))
            }
            Method::Policy(params) => self.policy_shown(&params.endpoint),
            Method::Trace(ask) => {
                let tables = self.publisher.latest();
                let route = |address| self.interface_towards(address);
                let table = self.host_policy.table(&route);
                let connections = Some(&*self.connections);
                let trace = trace::trace(&self.compiler, tables, connections, table, ask);
                let trace = trace.map_err(|message| ApiError::new(ErrorCode::BadParams, message));
                trace.and_then(|trace| value(&trace))
            }
            Method::Flows(params) => self.flows(params).and_then(|flows| value(&flows)),
            Method::FlushFlows(params) => {
                self.flush_flows(params).and_then(|flushed| value(&flushed))
            }
            Method::Observe(params) => self.observed(params),
            Method::Capture(params) => self.captured(params),
            Method::Perf(params) => self.perf(params).and_then(|perf| value(&perf)),
        };
        Response {
            id: Some(request.id),
            outcome,
        }
    }

    pub(super) fn status(&self) -> Status {
        let now = Instant::now();
        let accounting = tally::accounting(self.pollers.counters());
        let mut problems = self.datastore_problem();
        problems.extend(self.telemetry.problems());
        problems.extend(self.felix_problems());
        problems.extend(self.kubernetes_problem());
        problems.extend(self.misplaced_node());
        problems.extend(self.port_problems());
        let host_table = self.host_policy_condition();
        let holds = what_holds(host_table.has_table);
        problems.extend(host_table.problem.map(|error| Problem {
            part: Part::HostPolicy,
            interface: None,
            message: format!(
                "host endpoints are not enforced on the host's own traffic as they should be; {holds}\n{error}"
            ),
        }));
        let overtaken = self.offload.iter().flat_map(|it| &it.overtaken);
        problems.extend(overtaken.map(|name| Problem {
            part: Part::Ports,
            interface: Some(name.clone()),
            message:
                "another tcx program runs before ours, and may let packets past policy".to_owned(),
        }));
        problems.extend(self.punt_error.iter().map(|error| Problem {
            part: Part::Ports,
            interface: Some(punt::IN_END.to_owned()),
            message: format!("what is no established flow is lost: {error}"),
        }));
        if !accounting.balanced {
            problems.push(Problem {
                part: Part::Accounting,
                interface: None,
                message:
                    "packets came in that have no fate, or more than one; please report it with \
                          `caracal status -o json`"
                        .to_owned(),
            });
        }
        let connections = self.connection_report();
        problems.extend(table_problems(&connections));
        let (ipv4, ipv6) = self.compiler.route_count();
        let closed = self
            .closed
            .keys()
            .filter_map(|&ifindex| Some(&self.mirror.link(ifindex)?.name))
            .filter(|name| !self.complaints.contains_key(*name));
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.name.clone(),
            pid: std::process::id(),
            uptime_seconds: now.duration_since(self.started).as_secs(),
            generation: self.compiler.generation(),
            problems,
            pollers: self.poller_reports(),
            host_table_pending: host_table.is_pending,
            fail_mode: match self.config.fail_mode {
                FailMode::Closed => "closed",
                FailMode::Open => "open",
            }
            .to_owned(),
            reevaluate_established: self.config.reevaluate_established,
            host_endpoints: self.config.host_endpoints.word().to_owned(),
            packet_memory_bytes: self.packet_memory,
            datastore: Datastore {
                path: self.source.path(&self.config),
                resources: self.store.resources,
                loaded_seconds_ago: now.duration_since(self.store.loaded).as_secs(),
                remarks: self.store.remarks,
                error: self.store.error.clone(),
                refusals: self.telemetry.refusals,
            },
            felix: self.felix_report(now),
            kubernetes: self.kubernetes_report(now),
            routes: RouteCounts {
                ipv4,
                ipv6,
                kernel: self.mirror.route_count(),
                overruns: self.mirror.overruns(),
            },
            services: services::counts(&self.compiler.desired().services),
            ports: self.port_reports(),
            closed: closed.cloned().collect(),
            tunnels: self.tunnels(),
            accounting,
            drops: self.reason_counts(),
            connections,
            offload: self.offload.as_ref().map(|offload| offload.report()),
            changes: self.telemetry.changes.clone(),
        }
    }

    fn connection_report(&self) -> Connections {
        let nat_ports = self.compiler.nat_ports();
        Connections {
            ipv4: table_use(&self.connections.v4),
            ipv6: table_use(&self.connections.v6),
            nat_ports: NatPorts {
                tcp: nat_ports.tcp.len(),
                udp: nat_ports.udp.len(),
            },
            taken_over: self.inherited.taken,
            left_out: self.inherited.left_out,
            ..tally::connections(self.pollers.counters())
        }
    }

    fn datastore_problem(&self) -> Vec<Problem> {
        let error = self.store.error.as_ref();
        let problem = |error: &String| Problem {
            part: Part::Datastore,
            interface: None,
            message: format!(
                "bad {}; the state before is in force\n{error}",
                self.source.name()
            ),
        };
        let refused = self.refused.as_ref().map(|error| Problem {
            part: Part::Datastore,
            interface: None,
            message: format!("routes refused; the tables before are in force\n{error}"),
        });
        error.map(problem).into_iter().chain(refused).collect()
    }

    fn misplaced_node(&self) -> Vec<Problem> {
        // Without an uplink no other node is reached.
        if self.config.uplinks.is_empty() {
            return Vec::new();
        }
        let problem = |message| Problem {
            part: Part::Datastore,
            interface: None,
            message,
        };
        let all = kernel::misplaced(self.compiler.desired(), &self.mirror);
        all.map(problem).collect()
    }

    /// What should be served and is not, with the reason where there is one.
    fn port_problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut problem = |part, interface: &str, message: String| {
            problems.push(Problem {
                part,
                interface: Some(interface.to_owned()),
                message,
            });
        };
        let wanted = self.wanted();
        for name in wanted.keys() {
            let message = match (self.served.get(name), self.complaints.get(name)) {
                (Some(served), _) if !served.is_alive() => {
                    "its program is gone; it is attached again within a second".to_owned()
                }
                (Some(_), None) => {
                    let link = self.mirror.link_by_name(name);
                    match link.and_then(|link| self.too_long_for_frames(link)) {
                        Some(message) => message,
                        None => continue,
                    }
                }
                (_, Some(complaint)) => format!("not served: {complaint}"),
                (None, None) if self.mirror.link_by_name(name).is_none() => {
                    "not served: there is no such interface".to_owned()
                }
                (None, None) => "not served yet".to_owned(),
            };
            problem(Part::Ports, name, message);
        }
        for (name, complaint) in &self.complaints {
            if !wanted.contains_key(name) {
                problem(Part::Ports, name, format!("not closed: {complaint}"));
            }
        }
        if let Some(error) = &self.host_error {
            problem(
                Part::Host,
                crate::netlink::host_port::HOST_END,
                error.clone(),
            );
        }
        problems.extend(self.pins_error.as_ref().map(|error| Problem {
            part: Part::Ports,
            interface: None,
            message: format!("{}: {error}", super::guard::OPEN_AT_END),
        }));
        problems
    }

    /// The core of each poller, if it has one; without end.
    pub(super) fn cores(&self) -> impl Iterator<Item = Option<u16>> {
        let cores = self.config.cores.iter().map(|core| Some(core.value));
        cores.chain(std::iter::repeat(None))
    }

    fn poller_reports(&self) -> Vec<Poller> {
        let report =
            |(counters, core): (&std::sync::Arc<fastpath::counters::Counters>, _)| Poller {
                core,
                generation: counters.generation.get(),
                rx_packets: counters.rx.get(),
                rounds: counters.rounds.get(),
                sleeps: counters.sleeps.get(),
                events_lost: counters.events_lost.get(),
                records_lost: counters.records_lost.get(),
                logs_limited: counters.logs_limited.get(),
                copies_lost: counters.copies_lost.get(),
                busy_nanoseconds: counters.busy.get(),
                idle_nanoseconds: counters.idle.get(),
            };
        self.pollers
            .own_counters()
            .zip(self.cores())
            .map(report)
            .collect()
    }

    fn port_reports(&self) -> Vec<Port> {
        let mut ports: Vec<_> = self
            .served
            .values()
            .filter_map(|served| {
                Some(self.port_report(served, self.compiler.ports().get(served.id)?))
            })
            .collect();
        ports.sort_by_key(|port| port.id);
        ports
    }

    fn port_report(&self, served: &Served, spec: &PortSpec) -> Port {
        let tally = self.tally(served);
        let kind = match spec.role {
            PortRole::Uplink => "uplink",
            PortRole::Pod => "pod",
            PortRole::Host(_) => "host",
        };
        Port {
            id: served.id.0,
            name: spec.name.clone(),
            kind: kind.to_owned(),
            driver: served.driver.clone(),
            members: served.members(),
            mode: served.mode_in_words(),
            generic: served.is_generic(),
            queues: served.queues,
            mtu: spec.mtu,
            mac: spec.mac.to_string(),
            addresses: match spec.role {
                PortRole::Uplink => KernelView::addresses(&self.mirror, served.ifindex),
                PortRole::Pod | PortRole::Host(_) => Vec::new(),
            },
            up: self.mirror.link(served.ifindex).is_some_and(Link::is_up),
            software_checksums: spec.partial_checksums,
            rx_packets: tally.rx_packets,
            rx_bytes: tally.rx_bytes,
            tx_packets: tally.tx_packets,
            tx_bytes: tally.tx_bytes,
            drops: tally.drops.iter().sum(),
            xsk: xsk_counters(served.statistics.values()),
        }
    }

    /// What was counted on a port since it is served.
    fn tally(&self, served: &Served) -> Tally {
        Tally::of(&self.pollers.counters(), served.id).since(&served.base)
    }

    /// How many port numbers there are counters for.
    fn numbers(&self) -> usize {
        match &self.offload {
            // The punt's own is the last.
            Some(_) => usize::from(self.punt_number().0) + 1,
            None => self.compiler.ports().len(),
        }
    }

    fn drops(&self) -> Drops {
        let (total, drops, kernel) = self.drop_counts();
        Drops {
            total,
            drops,
            kernel,
            rules: self.denying_rules(),
        }
    }

    /// Drops in all, by reason and port of entry, and the kernel's by port.
    pub(super) fn drop_counts(&self) -> (u64, Vec<DropCount>, Vec<KernelDrops>) {
        let mut totals = tally::drops(&self.pollers.counters(), self.numbers());
        let total = totals.iter().sum();
        let mut drops = Vec::new();
        let mut kernel = Vec::new();
        let mut count = |reason: DropReason, port: Option<&str>, count: u64| {
            if count > 0 {
                drops.push(DropCount {
                    reason: reason.name().to_owned(),
                    stage: reason.stage().to_owned(),
                    port: port.map(str::to_owned),
                    count,
                });
            }
        };
        for (name, served) in &self.served {
            let of_port = self.tally(served).drops;
            for ((&reason, total), dropped) in DropReason::ALL.iter().zip(&mut totals).zip(of_port)
            {
                // Pollers count on between the two looks.
                *total = total.saturating_sub(dropped);
                count(reason, Some(name), dropped);
            }
            let xsk = xsk_counters(served.statistics.values());
            if xsk != XskCounters::default() {
                kernel.push(KernelDrops {
                    port: name.clone(),
                    xsk,
                });
            }
        }
        if let Some(offload) = &self.offload {
            let at_punt = Tally::of(&self.pollers.counters(), self.punt_number()).drops;
            for ((&reason, total), dropped) in DropReason::ALL.iter().zip(&mut totals).zip(at_punt)
            {
                *total = total.saturating_sub(dropped);
                count(reason, Some(punt::OUT_END), dropped);
            }
            let xsk = offload.xsk();
            if xsk != XskCounters::default() {
                kernel.push(KernelDrops {
                    port: punt::OUT_END.to_owned(),
                    xsk,
                });
            }
        }
        for (&reason, left) in DropReason::ALL.iter().zip(totals) {
            count(reason, None, left);
        }
        drops.sort_by(|a, b| (b.count, &a.reason, &a.port).cmp(&(a.count, &b.reason, &b.port)));
        (total, drops, kernel)
    }

    fn reason_counts(&self) -> Vec<ReasonCount> {
        let totals = tally::drops(&self.pollers.counters(), self.numbers());
        let mut counts: Vec<_> = DropReason::ALL
            .iter()
            .zip(totals)
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| ReasonCount {
                reason: reason.name().to_owned(),
                stage: reason.stage().to_owned(),
                count,
            })
            .collect();
        counts.sort_by_key(|entry| std::cmp::Reverse(entry.count));
        counts
    }

    fn tunnels(&self) -> Vec<Tunnel> {
        let desired = self.compiler.desired();
        let felix = &desired.felix;
        let node = desired.local_node();
        let others = |has: &dyn Fn(&crate::desired::Node) -> bool| {
            let others = desired.nodes.iter().filter(|(name, _)| **name != self.name);
            others.filter(|(_, node)| has(node)).count()
        };
        let uses = |kind: PoolType, v6: bool| {
            let mut pools = desired.pools.iter();
            pools.any(|pool| pool.kind() == kind && pool.cidr.addr().is_ipv6() == v6)
        };
        let mut tunnels = Vec::new();
        for v6 in [false, true] {
            if uses(PoolType::Vxlan, v6) && super::start::vxlan_port(desired).is_some() {
                tunnels.push(Tunnel {
                    kind: "vxlan".to_owned(),
                    local: node.and_then(|node| address(node, v6)),
                    vni: Some(felix.vxlan_vni),
                    port: Some(felix.vxlan_port),
                    peers: others(&|node| address(node, v6).is_some()),
                });
            }
        }
        if felix
            .ipip_enabled
            .unwrap_or_else(|| uses(PoolType::Ipip, false))
        {
            tunnels.push(Tunnel {
                kind: "ipip".to_owned(),
                local: node.and_then(|node| address(node, false)),
                vni: None,
                port: None,
                peers: others(&|node| address(node, false).is_some()),
            });
        }
        tunnels
    }

    fn routes(&self, params: &RoutesParams) -> Routes {
        let (ipv4, ipv6) = self.compiler.route_count();
        let limit = params.limit.unwrap_or(MAX_PAGE).min(MAX_PAGE);
        let routes: Vec<_> = match params.dst {
            Some(addr) => self
                .compiler
                .route_to(addr, &self.mirror)
                .into_iter()
                .collect(),
            None => self.compiler.routes(params.after, limit, &self.mirror),
        };
        let full = params.dst.is_none() && routes.len() == limit;
        Routes {
            total: ipv4 + ipv6,
            next: routes.last().filter(|_| full).map(|last| last.prefix),
            routes,
        }
    }

    fn neighbour_reports(&self, params: &PageParams) -> Neighbours {
        let mut all: Vec<_> = self.mirror.neighbours().collect();
        all.sort_unstable_by_key(|neighbour| (neighbour.ifindex, neighbour.ip));
        let limit = params.limit.unwrap_or(MAX_PAGE).min(MAX_PAGE);
        let report = |neighbour: &&crate::netlink::Neighbour| Neighbour {
            dev: self
                .mirror
                .link(neighbour.ifindex)
                .map(|link| link.name.clone()),
            addr: neighbour.ip,
            mac: neighbour
                .mac
                .map(|mac| encap::eth::MacAddr(mac).to_string()),
            state: format!("{:?}", neighbour.state),
            usable: neighbour.usable_mac().is_some(),
        };
        Neighbours {
            total: all.len(),
            neighbours: all
                .iter()
                .skip(params.offset)
                .take(limit)
                .map(report)
                .collect(),
        }
    }

    /// Keeps what the kernel counts on a socket.
    pub(super) fn keep_statistics(
        &mut self,
        port: PortId,
        queue: (u32, u32),
        statistics: Statistics,
    ) {
        let punt = self.punt_number();
        let mut served = self.served.values_mut();
        if let Some(served) = served.find(|served| served.id == port) {
            served.statistics.insert(queue, statistics);
        } else if let Some(offload) = self.offload.as_mut().filter(|_| port == punt) {
            offload.statistics.insert(queue, statistics);
        }
    }
}

pub(super) fn value(report: &impl Serialize) -> Result<Value, ApiError> {
    serde_json::to_value(report)
        .map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))
}

fn table_use<K: FlowKey>(side: &Side<K>) -> TableUse {
    TableUse {
        used: side.len(),
        capacity: side.quota.limits().capacity,
    }
}

/// Tables that are so full that new connections may soon be refused.
fn table_problems(connections: &Connections) -> Vec<Problem> {
    let families = [("IPv4", connections.ipv4), ("IPv6", connections.ipv6)];
    let full = families.into_iter().filter(|(_, table)| {
        u64::from(table.used) * 100 > u64::from(table.capacity) * FULL_PERCENT
    });
    let problem = |(family, table): (&str, TableUse)| Problem {
        part: Part::Connections,
        interface: None,
        message: format!(
            "the table of {family} connections is more than {FULL_PERCENT} % full ({} of {}): \
             `caracal flows --count` says of what; `connections` in caracal.yaml makes it larger",
            table.used, table.capacity
        ),
    };
    full.map(problem).collect()
}

fn address(node: &crate::desired::Node, v6: bool) -> Option<IpAddr> {
    if v6 {
        node.v6.map(|net| net.addr().into())
    } else {
        node.v4.map(|net| net.addr().into())
    }
}

pub(super) fn xsk_counters<'a>(queues: impl Iterator<Item = &'a Statistics>) -> XskCounters {
    queues.fold(XskCounters::default(), |sum, queue| XskCounters {
        rx_dropped: sum.rx_dropped + queue.rx_dropped,
        rx_ring_full: sum.rx_ring_full + queue.rx_ring_full,
        fill_empty: sum.fill_empty + queue.fill_empty,
        rx_invalid: sum.rx_invalid + queue.rx_invalid,
        tx_invalid: sum.tx_invalid + queue.tx_invalid,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_is_nearly_full_is_a_problem() {
        let table = |used| TableUse {
            used,
            capacity: 448,
        };
        let with = |v4, v6| Connections {
            ipv4: table(v4),
            ipv6: table(v6),
            ..Connections::default()
        };
        assert_eq!(table_problems(&with(403, 403)), []);
        let problems = table_problems(&with(404, 0));
        let [problem] = &problems[..] else {
            panic!("{problems:?}")
        };
        assert_eq!(problem.part, Part::Connections);
        assert!(problem.message.contains("IPv4") && problem.message.contains("404 of 448"));
        assert_eq!(table_problems(&with(448, 448)).len(), 2);
        assert_eq!(table_problems(&Connections::default()), [], "no table");
    }
}
