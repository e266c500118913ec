//! What the daemon answers, as plain data. The JSON members are these fields.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

mod captured;
mod changes;
mod flows;
mod observed;
mod perf;
mod services;

pub use captured::{Captured, CapturedPacket, Moment};
pub use changes::Changes;
pub use flows::{Flow, FlowCounts, FlowDirection, Flows, Flushed, Translation};
pub use observed::{FlowDecider, FlowEnd, FlowRecord, FlowVerdict, Observed};
pub use perf::{Perf, PollerPerf, StagePerf};
pub use services::{ServiceCounts, ServicePort, Services};

pub use crate::compile::RouteView as Route;

/// The whole node at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// The node's name.
    pub node: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Generation of the tables that were published last.
    pub generation: u64,
    /// What is not as it should be; empty: all is well.
    pub problems: Vec<Problem>,
    /// The pollers.
    pub pollers: Vec<Poller>,
    /// `closed` or `open`: what happens to pods' packets without a daemon.
    pub fail_mode: String,
    /// Whether connections are judged again when tables change (`reevaluateEstablished`).
    #[serde(default)]
    pub reevaluate_established: bool,
    /// `enforced`, `forwarded-only` or `refuse` (`hostEndpoints`).
    #[serde(default)]
    pub host_endpoints: String,
    /// Memory set aside for packets, in bytes.
    pub packet_memory_bytes: u64,
    /// The resources' files, or what Felix says.
    pub datastore: Datastore,
    /// Felix, where resources come from it.
    #[serde(default)]
    pub felix: Option<Felix>,
    /// The API server, where services come from one.
    #[serde(default)]
    pub kubernetes: Option<Kubernetes>,
    /// How many routes there are.
    pub routes: RouteCounts,
    /// How many services pods reach.
    #[serde(default)]
    pub services: ServiceCounts,
    /// The ports, as in [`Ports`].
    pub ports: Vec<Port>,
    /// Pods' interfaces that no WorkloadEndpoint names: nothing passes there.
    pub closed: Vec<String>,
    /// Whether the kernel is still to be given the table by which the host's own traffic is judged, as it is to be now. False where a
    /// problem says that it was refused.
    #[serde(default)]
    pub host_table_pending: bool,
    /// The tunnels in use.
    pub tunnels: Vec<Tunnel>,
    /// Where packets went.
    pub accounting: Accounting,
    /// Drops by reason, as in [`Drops`], the most frequent first.
    pub drops: Vec<ReasonCount>,
    /// The tables of connections.
    #[serde(default)]
    pub connections: Connections,
    /// Flows in the kernel, if established ones are the kernel's (`offload: kernel`).
    #[serde(default)]
    pub offload: Option<Offload>,
    /// How long changes took to reach the pollers.
    #[serde(default)]
    pub changes: Changes,
}

impl Status {
    /// Whether all is well.
    pub fn is_healthy(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Established flows in the kernel. A flow is one direction of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offload {
    /// Whether somebody captures: then all packets go to the pollers.
    pub paused: bool,
    /// Flows of IPv4 that the kernel has now.
    pub flows_v4: u64,
    /// Flows of IPv6 that the kernel has now.
    pub flows_v6: u64,
    /// Flows that pollers offered.
    pub offered: u64,
    /// Flows that the kernel was given.
    pub inserted: u64,
    /// Flows that it was not given, by why.
    pub refused: Vec<FlowCount>,
    /// Flows that were taken from it, by why.
    pub removed: Vec<FlowCount>,
    /// Packets of flows that the kernel has, a super-frame counted once.
    pub hits: u64,
    /// Packets that went to the pollers, a super-frame counted once.
    pub punted: u64,
    /// Pods' packets that were dropped, since their pod had more for the pollers than its share.
    pub limited: u64,
    /// Packets of uplinks that are the host's.
    pub passed: u64,
    /// Packets that were dropped while they were changed: the kernel had no memory for it, or their flow went at that moment.
    pub spoilt: u64,
    /// What was lost between the programs and the pollers, after a super-frame was cut up. `rx_dropped` has what the punt device lost, too: packets
    /// longer than it takes, or for which it had no room.
    #[serde(default)]
    pub xsk: XskCounters,
}

/// How many flows something became of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowCount {
    /// Why, in words.
    pub why: String,
    /// How many.
    pub count: u64,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What it concerns.
    pub part: Part,
    /// The interface it is about, if it is about one.
    pub interface: Option<String>,
    /// What is wrong, in words.
    pub message: String,
}

/// A part of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// The daemon itself.
    Daemon,
    /// The resources' files.
    Datastore,
    /// The way to a cluster's API server.
    Kubernetes,
    /// Ports.
    Ports,
    /// The host's port.
    Host,
    /// Host endpoints' policy on the host's own traffic.
    HostPolicy,
    /// The accounting of packets.
    Accounting,
    /// The tables of connections.
    Connections,
    /// One that this program does not know yet.
    #[serde(other)]
    Other,
}

impl Part {
    /// All that this program knows.
    pub(crate) const ALL: [Self; 8] = [
        Self::Daemon,
        Self::Datastore,
        Self::Kubernetes,
        Self::Ports,
        Self::Host,
        Self::HostPolicy,
        Self::Accounting,
        Self::Connections,
    ];

    /// Its name, as in JSON.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Daemon => "daemon",
            Self::Datastore => "datastore",
            Self::Kubernetes => "kubernetes",
            Self::Ports => "ports",
            Self::Host => "host",
            Self::HostPolicy => "host-policy",
            Self::Accounting => "accounting",
            Self::Connections => "connections",
            Self::Other => "other",
        }
    }
}

/// One poller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Poller {
    /// The core that it is pinned to.
    pub core: Option<u16>,
    /// Generation of the tables that it uses.
    pub generation: u64,
    /// Packets that came in.
    #[serde(default)]
    pub rx_packets: u64,
    /// Rounds of its loop.
    pub rounds: u64,
    /// Times that it went to sleep.
    pub sleeps: u64,
    /// Events for the control thread that were lost.
    pub events_lost: u64,
    /// Records of connections that were lost.
    #[serde(default)]
    pub records_lost: u64,
    /// Matches of `Log` rules that were only counted.
    #[serde(default)]
    pub logs_limited: u64,
    /// Copies of packets for who captures that were lost.
    #[serde(default)]
    pub copies_lost: u64,
    /// Time of rounds in which packets came in, in nanoseconds.
    #[serde(default)]
    pub busy_nanoseconds: u64,
    /// Time of the other rounds, sleep included, in nanoseconds.
    #[serde(default)]
    pub idle_nanoseconds: u64,
}

/// The way to Felix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Felix {
    /// Whether it is connected.
    pub connected: bool,
    /// Seconds since it connected, or since it has been away; `null`: it never was here.
    pub since_seconds: Option<u64>,
    /// Whether it has said, in this connection, that its snapshot is complete.
    pub in_sync: bool,
    /// Its number of the message that came last.
    pub sequence: u64,
    /// Messages of this connection.
    pub messages: u64,
    /// Those of them that nothing acts on.
    pub ignored: u64,
    /// Connections so far.
    pub connections: u64,
    /// Why the last connection ended that did not end in order.
    pub last_error: Option<String>,
}

/// The API server of a Kubernetes cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kubernetes {
    /// Its URL; `null`: the credentials that name it could not be read yet.
    pub server: Option<String>,
    /// Seconds since all services were known for the first time; `null`: they are not yet.
    pub synced_seconds: Option<u64>,
    /// `Service` objects that are known, headless ones left out.
    pub services: usize,
    /// `EndpointSlice` objects that are known.
    pub endpoint_slices: usize,
    /// Why what is known may be old; `null`: changes come.
    pub error: Option<String>,
}

/// The resources' files, or what Felix says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datastore {
    /// The directory, or the socket for Felix.
    pub path: PathBuf,
    /// Resources in force.
    pub resources: usize,
    /// Seconds since they were taken.
    pub loaded_seconds_ago: u64,
    /// Warnings and notes about them.
    pub remarks: usize,
    /// What is wrong with the files as they are now; then the state before is in force.
    pub error: Option<String>,
    /// Times that files or the routes they lead to were refused since the daemon started.
    #[serde(default)]
    pub refusals: u64,
}

/// How many routes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteCounts {
    /// IPv4, in the tables.
    pub ipv4: usize,
    /// IPv6, in the tables.
    pub ipv6: usize,
    /// In the kernel's main table.
    pub kernel: usize,
    /// Times that the kernel's messages overran us; each was followed by a full dump.
    pub overruns: u64,
}

/// A tunnel of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// `vxlan` or `ipip`.
    pub kind: String,
    /// Our end.
    pub local: Option<IpAddr>,
    /// The VXLAN network identifier.
    pub vni: Option<u32>,
    /// The UDP port.
    pub port: Option<u16>,
    /// Other nodes that may send.
    pub peers: usize,
}

/// All ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// Those that are served, by number.
    pub ports: Vec<Port>,
    /// Those that should be and are not, and other problems of ports.
    pub problems: Vec<Problem>,
}

/// One port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Its number.
    pub id: u16,
    /// The interface.
    pub name: String,
    /// `uplink`, `pod` or `host`.
    pub kind: String,
    /// The interface's driver.
    pub driver: Option<String>,
    /// The devices that a bond's packets come in by; of others none.
    #[serde(default)]
    pub members: Vec<String>,
    /// `copy` or `zero-copy`; a bond sends in copy mode, whatever its members receive in. `tcx` where established flows are the kernel's.
    pub mode: String,
    /// Whether XDP runs in the kernel's stack instead of the driver.
    pub generic: bool,
    /// Queues served.
    pub queues: u32,
    /// MTU of the interface, in bytes.
    pub mtu: u16,
    /// MAC address of the interface.
    pub mac: String,
    /// Addresses of an uplink; none of others.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// Whether the interface is up.
    pub up: bool,
    /// Whether partial transport checksums are completed in software.
    pub software_checksums: bool,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets that came in here and were dropped.
    pub drops: u64,
    /// What the kernel counts on the port's sockets, a second old at most.
    pub xsk: XskCounters,
}

/// The kernel's counters of AF_XDP sockets (`XDP_STATISTICS`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct XskCounters {
    /// Dropped for other reasons than the next ones.
    pub rx_dropped: u64,
    /// Dropped because the receive ring was full: the poller is too slow.
    pub rx_ring_full: u64,
    /// Times that the fill ring was empty: too few frames.
    pub fill_empty: u64,
    /// Bad descriptors in the fill ring.
    pub rx_invalid: u64,
    /// Bad descriptors in the send ring.
    pub tx_invalid: u64,
}

/// All drops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops {
    /// All together.
    pub total: u64,
    /// By reason and port of entry; those that are zero are left out.
    pub drops: Vec<DropCount>,
    /// What the kernel dropped before we saw it, by port.
    pub kernel: Vec<KernelDrops>,
    /// What denies, with what it denied, the most first: rules, and what does where no rule matches. Not all.
    #[serde(default)]
    pub rules: Vec<DenyingRule>,
}

/// A rule that denies, or what does where no rule matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenyingRule {
    /// Its tier, policy, number, and where it was written; of a default why it denies.
    pub rule: String,
    /// Whether it is no rule: the end of a tier or of the profiles, or a closed endpoint.
    #[serde(default)]
    pub default: bool,
    /// First packets that it denied.
    pub connections: u64,
    /// All packets.
    pub packets: u64,
}

/// What applies to an endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PolicyShown {
    /// For people.
    pub text: String,
    /// The schema `caracal.policy-show/v1`, with what each rule has decided.
    pub policy: serde_json::Value,
}

/// Drops of one reason on one port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropCount {
    /// The reason: see `caracal explain`.
    pub reason: String,
    /// The stage that dropped them.
    pub stage: String,
    /// The port that they came in by; `None`: ports that are gone.
    pub port: Option<String>,
    /// How many.
    pub count: u64,
}

/// What the kernel dropped on a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelDrops {
    /// The port.
    pub port: String,
    /// The counters.
    pub xsk: XskCounters,
}

/// Drops of one reason, all ports together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonCount {
    /// The reason.
    pub reason: String,
    /// The stage that dropped them.
    #[serde(default)]
    pub stage: String,
    /// How many.
    pub count: u64,
}

/// Where packets went: `rx = tx + drop + punt + held`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accounting {
    /// Came in.
    pub rx: u64,
    /// Went out.
    pub tx: u64,
    /// Were dropped.
    pub drop: u64,
    /// Went to the control thread.
    pub punt: u64,
    /// Wait for a neighbour.
    pub held: u64,
    /// Made by the dataplane itself and sent; in none of the others.
    pub originated: u64,
    /// Made by the dataplane itself and not sent, for want of room.
    #[serde(default)]
    pub originated_dropped: u64,
    /// ICMP errors that were not made, because of the rate limit.
    #[serde(default)]
    pub icmp_limited: u64,
    /// Partial transport checksums that were completed.
    #[serde(default)]
    pub checksums_completed: u64,
    /// Whether each packet that came in has one fate, but for those that pollers have in hand at this moment.
    pub balanced: bool,
}

/// The tables of connections, and what became of connections since the daemon started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// Those of IPv4.
    pub ipv4: TableUse,
    /// Those of IPv6.
    pub ipv6: TableUse,
    /// Were made.
    pub made: u64,
    /// Were removed because nothing was sent for too long.
    pub expired: u64,
    /// Were removed because an endpoint is gone or has become another one.
    pub ended: u64,
    /// Were removed early for new ones.
    pub evicted: u64,
    /// Were taken over from the run before.
    #[serde(default)]
    pub taken_over: u64,
    /// Of the run before, were not taken over.
    #[serde(default)]
    pub left_out: u64,
    /// Were forwarded without being remembered, because pollers met.
    pub untracked: u64,
    /// How many source ports there are for translated connections to one destination.
    pub nat_ports: NatPorts,
}

/// How full a table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableUse {
    /// Connections in it.
    pub used: u32,
    /// Connections that it may hold.
    pub capacity: u32,
}

/// Source ports for translated connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatPorts {
    /// Of TCP.
    pub tcp: u32,
    /// Of UDP.
    pub udp: u32,
}

/// Routes, or a part of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routes {
    /// How many there are in all.
    pub total: usize,
    /// In order of address and length.
    pub routes: Vec<Route>,
    /// What to ask for as `after`, when there are more.
    pub next: Option<IpNet>,
}

/// The kernel's neighbours, or a part of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbours {
    /// How many there are in all.
    pub total: usize,
    /// By interface and address.
    pub neighbours: Vec<Neighbour>,
}

/// One neighbour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// The interface.
    pub dev: Option<String>,
    /// Its address.
    pub addr: IpAddr,
    /// Its MAC address.
    pub mac: Option<String>,
    /// The kernel's state: `REACHABLE`, `STALE`, `FAILED` …
    pub state: String,
    /// Whether packets may go there.
    pub usable: bool,
}
