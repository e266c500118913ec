//! What would become of a packet that begins a connection: the steps of the dataplane, by its own tables and its own
//! classifier. Nothing is sent, counted or remembered.

mod bytes;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use encap::l4;
use fastpath::batch::PeerId;
use fastpath::connections::Connections;
use fastpath::policy::{Decider, Direction, End, Judgement, Leg};
use fastpath::port::{PortId, PortKind};
use fastpath::reason::DropReason;
use fastpath::stage::probe::Probe;
use fastpath::tables::{Mapping, NextHop, Tables, Way};
use flowtable::acl::{L4, Logs, Tuple};
use flowtable::flow::{Key4, Key6, flag};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::cli::table::one_line;
use crate::compile::{Compiler, PortRole};
use crate::config::suggest::nearest;
use crate::desired::Endpoint;
use crate::policy::evaluate;
use crate::policy::legs::{Party, legs};
use crate::policy::model::{Workload, WorkloadId};
use crate::policy::packet::{Packet, State};
use crate::policy::rule::Protocol;
use crate::policy::verdict::Reason;

/// Which packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// Who sends: an address, a pod, or `host`.
    pub from: String,
    /// Who is meant: an address, a pod, or `host`.
    pub to: String,
    /// A name or a number.
    pub protocol: String,
    /// Destination port.
    #[serde(default)]
    pub port: u16,
    /// Source port, or the identifier of an echo request.
    #[serde(default)]
    pub source_port: u16,
}

/// What would become of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// The packet.
    pub packet: String,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// `ALLOW`, `DROP`, or `UNSEEN`: the packet does not come by Caracal.
    pub verdict: String,
    /// Why it is dropped: see `caracal explain`.
    pub reason: Option<String>,
    /// The entry that it would leave in the flow table.
    pub entry: Option<String>,
    /// What staged policies would change.
    pub staged: Vec<String>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Where in the pipeline.
    pub stage: String,
    /// What happens there.
    pub said: String,
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Packet  {}   (synthetic; nothing is sent)",
            one_line(&self.packet)
        )?;
        for (at, step) in self.steps.iter().enumerate() {
            writeln!(
                f,
                " {} {:<20} {}",
                at + 1,
                one_line(&step.stage),
                one_line(&step.said)
            )?;
        }
        write!(f, "Verdict {}", self.verdict)?;
        match &self.reason {
            Some(reason) => writeln!(f, "  {reason}")?,
            None => writeln!(f)?,
        }
        if let Some(entry) = &self.entry {
            writeln!(f, "Would install flow entry: {}", one_line(entry))?;
        }
        for staged in &self.staged {
            writeln!(f, "Staged: {}", one_line(staged))?;
        }
        Ok(())
    }
}

/// The name of the node itself.
const HOST: &str = "host";

/// One end of the packet.
struct Side<'c> {
    endpoint: Option<&'c Endpoint>,
    address: IpAddr,
}

/// Where the packet comes in.
struct Origin {
    end: End,
    party: Party,
    port: PortId,
    /// The node whose tunnel it comes out of.
    peer: PeerId,
}

/// The verdict about what does not come by the dataplane.
const UNSEEN: &str = "UNSEEN";

struct Tracer<'c> {
    compiler: &'c Compiler,
    tables: &'c Tables,
    trace: Trace,
}

/// Traces a packet.
///
/// # Errors
/// What is wrong with the question.
pub fn trace(
    compiler: &Compiler,
    tables: &Tables,
    connections: Option<&Connections>,
    ask: &Ask,
) -> Result<Trace, String> {
    let (mut from, to) = (
        side(compiler, &ask.from, None)?,
        side(compiler, &ask.to, None)?,
    );
    let mut to = to;
    if from.address.is_ipv4() != to.address.is_ipv4() {
        // A name has the other family, too.
        let v4 = to.address.is_ipv4();
        match side(compiler, &ask.from, Some(v4)) {
            Ok(side) => from = side,
            Err(_) => to = side(compiler, &ask.to, Some(from.address.is_ipv4()))?,
        }
    }
    let v4 = from.address.is_ipv4();
    let protocol = match protocol(&ask.protocol)? {
        Protocol::ICMP if !v4 && ask.protocol.parse::<u8>().is_err() => Protocol::ICMPV6,
        protocol => protocol,
    };
    let has_ports = protocol.has_ports() || protocol == Protocol::UDPLITE;
    if has_ports && ask.port == 0 {
        return Err(format!("{protocol} needs a port"));
    }
    let is_icmp = matches!(protocol, Protocol::ICMP | Protocol::ICMPV6);
    let echo = if v4 { 8 } else { 128 };
    let packet = Packet {
        src: from.address,
        dst: to.address,
        protocol,
        ports: has_ports.then_some((ask.source_port, ask.port)),
        icmp: is_icmp.then_some((echo, 0)),
        original_dst: None,
        state: State::New,
    };
    let mut tracer = Tracer {
        compiler,
        tables,
        trace: Trace {
            packet: packet.to_string(),
            verdict: "DROP".to_owned(),
            ..Trace::default()
        },
    };
    let id = is_icmp.then_some((ask.source_port, echo.into()));
    tracer.run(&packet, (&from, &to), id, connections)?;
    Ok(tracer.trace)
}

/// The protocol that a name or a number means; `icmp` is of both families.
///
/// # Errors
/// There is none.
pub fn protocol(name: &str) -> Result<Protocol, String> {
    let number = || name.parse().ok().filter(|number| *number > 0);
    let known = Protocol::by_name(name).or_else(|| number().map(Protocol));
    known.ok_or_else(|| {
        format!("unknown protocol `{name}`: tcp, udp, sctp, icmp or a number from 1 to 255")
    })
}

fn side<'c>(compiler: &'c Compiler, name: &str, v4: Option<bool>) -> Result<Side<'c>, String> {
    let endpoints = &compiler.desired().endpoints;
    let has = |endpoint: &&Endpoint, address: IpAddr| addresses(endpoint).any(|it| it == address);
    if let Ok(address) = name.parse::<IpAddr>() {
        if v4.is_some_and(|v4| v4 != address.is_ipv4()) {
            return Err(format!("{name} and the other end are of two families"));
        }
        let endpoint = endpoints.iter().find(|it| has(it, address));
        return Ok(Side { endpoint, address });
    }
    let of_family = |it: &IpAddr| v4.is_none_or(|v4| v4 == it.is_ipv4());
    let none = || format!("{name} has no address of that family");
    if let Some(mut addresses) = elsewhere(compiler, name) {
        addresses.retain(of_family);
        let address = *addresses.first().ok_or_else(none)?;
        return Ok(Side {
            endpoint: None,
            address,
        });
    }
    let endpoint = find(compiler, name)?;
    let address = addresses(endpoint).find(of_family).ok_or_else(none)?;
    Ok(Side {
        endpoint: Some(endpoint),
        address,
    })
}

/// The addresses of the node itself (`host`), or of another node's pod, by the names that `caracal observe` shows.
fn elsewhere(compiler: &Compiler, name: &str) -> Option<Vec<IpAddr>> {
    let desired = compiler.desired();
    if name == HOST {
        return desired.local_node().map(|node| node.addresses().collect());
    }
    let workloads = &compiler.policy().model().workloads;
    let is_meant =
        |id: &WorkloadId, of: &Workload| id.workload == name && of.node != desired.node_name;
    let (_, workload) = workloads.iter().find(|(id, of)| is_meant(id, of))?;
    let mut nets = workload.nets.clone();
    nets.sort_by_key(|net| net.addr().is_ipv6());
    Some(nets.iter().map(IpNet::addr).collect())
}

/// The endpoint of this node that a name means: `namespace/pod`, the resource's name, the interface, or the pod where that
/// is enough.
///
/// # Errors
/// There is none, or more than one.
pub fn find<'c>(compiler: &'c Compiler, name: &str) -> Result<&'c Endpoint, String> {
    let means = |endpoint: &&Endpoint| {
        let namespaced = |pod: &str| name == format!("{}/{pod}", endpoint.id.namespace);
        [&endpoint.workload, &endpoint.id.name, &endpoint.interface].contains(&&name.to_owned())
            || namespaced(&endpoint.workload)
            || namespaced(&endpoint.id.name)
    };
    let found: Vec<_> = compiler.desired().endpoints.iter().filter(means).collect();
    match found.as_slice() {
        [one] => Ok(one),
        [] => {
            let all = compiler.desired().endpoints.iter();
            let names: Vec<_> = all
                .map(|it| format!("{}/{}", it.id.namespace, it.workload))
                .collect();
            let near = nearest(name, names.iter().map(String::as_str));
            let help = near.map_or_else(
                || "say `namespace/pod`".to_owned(),
                |near| format!("did you mean `{near}`?"),
            );
            Err(format!(
                "no endpoint of this node is called `{name}`; {help}"
            ))
        }
        _ => Err(format!(
            "`{name}` is several endpoints: say namespace/{name}"
        )),
    }
}

fn addresses(endpoint: &Endpoint) -> impl Iterator<Item = IpAddr> {
    let v4 = endpoint.ipv4_nets.iter().map(|net| IpAddr::V4(net.addr()));
    v4.chain(endpoint.ipv6_nets.iter().map(|net| IpAddr::V6(net.addr())))
}

impl Tracer<'_> {
    fn step(&mut self, stage: impl Into<String>, said: impl Into<String>) {
        self.trace.steps.push(Step {
            stage: stage.into(),
            said: said.into(),
        });
    }

    fn run(
        &mut self,
        packet: &Packet,
        (from, to): (&Side<'_>, &Side<'_>),
        id: Option<(u16, u16)>,
        connections: Option<&Connections>,
    ) -> Result<(), String> {
        let origin = self.origin(from, packet.dst)?;
        if !self.is_seen(&origin, packet.dst) {
            self.step("kernel", "neither from nor to a pod or a tunnel: the node's kernel has it, and Caracal does not see it");
            UNSEEN.clone_into(&mut self.trace.verdict);
            return Ok(());
        }
        let (from_end, from_party) = (origin.end, origin.party);
        let l3 = bytes::of(packet, id.map(|(id, _)| id));
        let mut probe = match Probe::parse(self.tables, &l3, origin.port, origin.peer) {
            Ok(probe) => probe,
            Err(reason) => {
                self.dropped("parse", reason);
                return Ok(());
            }
        };
        let ports = id.or(packet.ports).unwrap_or_default();
        if let Some(connections) = connections
            && self.is_known(packet, ports, connections)
        {
            return Ok(());
        }
        let hop = match probe.resolve(self.tables) {
            Ok(hop) => self.tables.next_hop(hop),
            Err(reason) => {
                self.dropped("route", reason);
                return Ok(());
            }
        };
        let Some((way, _, out)) = hop.origin() else {
            return Ok(());
        };
        let name = self.port_name(out);
        let waits = if matches!(hop, NextHop::Resolve(_)) {
            "; its MAC address is not known yet, and the packet would wait"
        } else {
            ""
        };
        let to_what = match way {
            Way::Pod => format!("{name} (a pod of this node)"),
            Way::Host => "this node itself".to_owned(),
            Way::Uplink => format!("{name}, plain"),
            Way::Tunnel => format!("{name}, in a tunnel"),
        };
        self.step("route", format!("{} by {to_what}{waits}", packet.dst));
        let to_end = match way {
            Way::Pod => End::Pod(out),
            Way::Host => End::Host,
            Way::Uplink => End::Uplink(out),
            Way::Tunnel => End::Elsewhere,
        };
        let to_party = match way {
            Way::Pod => self.party(&name).unwrap_or_else(|| self.outside(to_end)),
            Way::Host => Party::Host(self.compiler.desired().node_name.clone()),
            Way::Uplink | Way::Tunnel => self.outside(to_end),
        };
        let _ = to;
        let judgement = self.judge(packet, from_end, to_end);
        let model = self.compiler.policy().model();
        let verdict = evaluate(model, packet, &legs(model, &from_party, &to_party));
        for staged in verdict.staged {
            if staged.outcome != verdict.outcome {
                let word = match staged.outcome {
                    crate::policy::verdict::Outcome::Allow => "ALLOW",
                    crate::policy::verdict::Outcome::Deny => "DROP",
                };
                let said = format!(
                    "with {} enforced the verdict would be {word}",
                    staged.policy
                );
                self.trace.staged.push(said);
            }
        }
        self.conclude(packet, judgement, (way, out));
        Ok(())
    }

    fn dropped(&mut self, stage: &str, reason: DropReason) {
        self.step(stage, format!("dropped: {}", reason.meaning()));
        self.trace.reason = Some(reason.name().to_owned());
    }

    fn hop(&self, address: IpAddr) -> &NextHop {
        self.tables.next_hop(match address {
            IpAddr::V4(address) => self.tables.fib4.lookup(address.into()),
            IpAddr::V6(address) => self.tables.fib6.lookup(address.into()),
        })
    }

    /// Where the packet comes in.
    fn origin(&mut self, from: &Side<'_>, dst: IpAddr) -> Result<Origin, String> {
        let desired = self.compiler.desired();
        if let Some(endpoint) = from.endpoint {
            let port = self.compiler.ports().by_name(&endpoint.interface);
            let port = port.ok_or_else(|| format!("{} is not served", endpoint.interface))?;
            let party = self.party(&endpoint.interface);
            let party = party.ok_or_else(|| format!("no policy is known of {}", endpoint.id))?;
            let said = format!(
                "source ok: {} is an address of {}",
                from.address, endpoint.id
            );
            self.step(format!("port {}", endpoint.interface), said);
            return Ok(Origin {
                end: End::Pod(port),
                party,
                port,
                peer: PeerId::NONE,
            });
        }
        let node = desired.node_name.clone();
        let back = self.hop(from.address).origin();
        if let Some((Way::Host, _, port)) = back {
            self.step("port of the host", "the host's own packet");
            return Ok(Origin {
                end: End::Host,
                party: Party::Host(node),
                port,
                peer: PeerId::NONE,
            });
        }
        let uplink = |port: &PortId| {
            let port = self.tables.port(*port);
            port.is_some_and(|port| port.kind == PortKind::Uplink)
        };
        let mut uplinks = (0..self.tables.ports.len()).map(|at| PortId(at as u16));
        let behind = back.map(|(_, _, port)| port).filter(uplink);
        let port = behind.or_else(|| uplinks.find(uplink));
        let port = port
            .ok_or_else(|| format!("{} is not of this node, which has no uplink", from.address))?;
        // Pods of other nodes speak to this node itself without encapsulation.
        let peer = match back {
            Some((Way::Tunnel, peer, _)) if self.is_taken(dst) => peer,
            _ => PeerId::NONE,
        };
        let tunnel = if peer == PeerId::NONE {
            ""
        } else {
            ", out of a tunnel"
        };
        let said = format!("{} is not of this node{tunnel}", from.address);
        self.step("uplink", said);
        let end = if peer == PeerId::NONE {
            End::Uplink(port)
        } else {
            End::Elsewhere
        };
        Ok(Origin {
            end,
            party: self.outside(end),
            port,
            peer,
        })
    }

    /// Beyond the node, behind the host endpoint that is there.
    fn outside(&self, end: End) -> Party {
        Party::Outside {
            node: self.compiler.desired().node_name.clone(),
            endpoint: self.host_endpoint(end).map(str::to_owned),
        }
    }

    fn host_endpoint(&self, end: End) -> Option<&str> {
        let hosts = self.tables.policies.hosts.as_ref()?;
        hosts.of(end).map(|endpoint| &*endpoint.name)
    }

    /// Whether uplinks take packets to this address off the kernel.
    fn is_taken(&self, dst: IpAddr) -> bool {
        let taken = self.compiler.taken_prefixes();
        taken.iter().any(|prefix| prefix.contains(&dst))
    }

    /// Whether the packet comes by Caracal at all.
    fn is_seen(&self, origin: &Origin, dst: IpAddr) -> bool {
        let to = self.hop(dst).origin();
        matches!(origin.end, End::Pod(_))
            || origin.peer != PeerId::NONE
            || matches!(to, Some((Way::Pod | Way::Tunnel, ..)))
            || self.is_taken(dst)
    }

    fn party(&self, interface: &str) -> Option<Party> {
        let id = self.compiler.policy().endpoint(interface)?;
        Some(Party::Workload(id.clone()))
    }

    fn port_name(&self, port: PortId) -> String {
        let port = self.compiler.ports().get(port);
        port.map_or_else(
            || "?".to_owned(),
            |spec| match spec.role {
                PortRole::Host(_) => "the host's port".to_owned(),
                PortRole::Uplink | PortRole::Pod => spec.name.clone(),
            },
        )
    }

    /// Whether a connection is there already, or a denial.
    fn is_known(
        &mut self,
        packet: &Packet,
        (sport, dport): (u16, u16),
        connections: &Connections,
    ) -> bool {
        let protocol = packet.protocol.0;
        let found = match (packet.src, packet.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let (src, dst) = (src.into(), dst.into());
                let key = Key4 {
                    src,
                    dst,
                    sport,
                    dport,
                    protocol,
                };
                let found = connections.v4.table.lookup(&key);
                found.map(|(_, action)| (action.flags, action.generation, action.rule))
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let (src, dst) = (src.into(), dst.into());
                let key = Key6 {
                    src,
                    dst,
                    sport,
                    dport,
                    protocol,
                };
                let found = connections.v6.table.lookup(&key);
                found.map(|(_, action)| (action.flags, action.generation, action.rule))
            }
            _ => None,
        };
        match found {
            None => self.step("flow cache", "miss"),
            Some((flags, generation, _)) if flags & flag::DENY != 0 => {
                let current = generation == self.tables.generation as u32;
                let said = if current {
                    "denied of late; what follows is how"
                } else {
                    "denied by older tables; it is judged anew"
                };
                self.step("flow cache", said);
            }
            Some((flags, generation, _))
                if flags & flag::IS_REPLY == 0
                    && self.tables.policies.reevaluate
                    && generation != self.tables.generation as u32 =>
            {
                self.step(
                    "flow cache",
                    "hit: part of a connection of older tables; it is judged again (reevaluateEstablished)",
                );
            }
            Some(_) => {
                self.step(
                    "flow cache",
                    "hit: part of a connection; policy is not asked",
                );
                "ALLOW".clone_into(&mut self.trace.verdict);
                return true;
            }
        }
        false
    }

    fn judge(&mut self, packet: &Packet, from: End, to: End) -> Judgement {
        let l4 = match (packet.ports, packet.icmp) {
            (Some((source, destination)), _) => L4::Ports {
                source,
                destination,
            },
            (None, Some((kind, code))) => L4::Icmp { kind, code },
            (None, None) => L4::Other,
        };
        let protocol = packet.protocol.0;
        let mut said: Vec<(Leg, Decider, bool, Logs)> = Vec::new();
        let policies = &self.tables.policies;
        let note = |leg, decider, allows, logs: &Logs| said.push((leg, decider, allows, *logs));
        let judgement = match (packet.src, packet.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let (source, destination) = (src.to_bits(), dst.to_bits());
                let tuple = Tuple {
                    source,
                    destination,
                    protocol,
                    l4,
                };
                policies.explain(&tuple, from, to, note)
            }
            (src, dst) => {
                let bits = |addr: IpAddr| match addr {
                    IpAddr::V4(addr) => addr.to_ipv6_mapped().to_bits(),
                    IpAddr::V6(addr) => addr.to_bits(),
                };
                let (source, destination) = (bits(src), bits(dst));
                let tuple = Tuple {
                    source,
                    destination,
                    protocol,
                    l4,
                };
                policies.explain(&tuple, from, to, note)
            }
        };
        for (leg, decider, allows, logs) in said {
            self.leg(leg, (from, to), (decider, allows), &logs);
        }
        if from == End::Host && matches!(to, End::Pod(_)) {
            self.step("policy", "a host always reaches its own pods");
        }
        judgement
    }

    fn leg(
        &mut self,
        leg: Leg,
        (from, to): (End, End),
        (decider, allows): (Decider, bool),
        logs: &Logs,
    ) {
        let host = |end, what: &str| {
            let name = self.host_endpoint(end).unwrap_or("?");
            format!("{what} of host endpoint {name}")
        };
        let stage = match leg {
            Leg::Pod(port, direction) => {
                let endpoint = self.compiler.ports().get(port);
                let endpoint =
                    endpoint.and_then(|spec| self.compiler.policy().endpoint(&spec.name));
                let name = endpoint.map_or_else(|| "?".to_owned(), ToString::to_string);
                match direction {
                    Direction::Ingress => format!("ingress of {name}"),
                    Direction::Egress => format!("egress of {name}"),
                }
            }
            Leg::Untracked => host(from, "untracked ingress"),
            Leg::PreDnat => host(from, "ingress before DNAT"),
            Leg::Forward(Direction::Ingress) => host(from, "forwarded ingress"),
            Leg::Forward(Direction::Egress) => host(to, "forwarded egress"),
        };
        for rule in logs.rules() {
            if let Some(rule) = self.compiler.policy().reason(Decider::rule(*rule)) {
                self.step(stage.clone(), format!("logged by {rule}"));
            }
        }
        let said = match (self.compiler.policy().reason(decider), allows) {
            (Some(reason), true) => format!("allowed by {reason}"),
            (Some(reason), false) => format!("denied: {reason}"),
            // A host endpoint's, which leaves it to what follows.
            (None, true) => Reason::Undecided.to_string(),
            (None, false) => "denied: nothing".to_owned(),
        };
        self.step(stage, said);
    }

    /// What becomes of the source of a packet that natOutgoing is for. Which port, and whether one is free, shows only then.
    fn translation(&self, packet: &Packet, out: PortId) -> Result<String, DropReason> {
        let port = self.tables.port(out);
        let (address, icmp): (Option<IpAddr>, u8) = if packet.src.is_ipv4() {
            let address = port.and_then(|port| port.nat4);
            let address = address.map(|bits| Ipv4Addr::from_bits(bits).into());
            (address, l4::ICMP)
        } else {
            let address = port.and_then(|port| port.nat6);
            let address = address.map(|bits| Ipv6Addr::from_bits(bits).into());
            (address, l4::ICMPV6)
        };
        let address = address.ok_or(DropReason::NatNoAddress)?;
        let mapping = self.tables.nat.mapping_of(packet.protocol.0, icmp);
        let what = match mapping.ok_or(DropReason::NatProtocol)? {
            Mapping::Port(ports) if ports.is_empty() => return Err(DropReason::NatPortsExhausted),
            Mapping::Port(_) if packet.icmp.is_some() => "an identifier of ours",
            Mapping::Port(_) => "a port of ours",
            Mapping::Address => {
                return Ok(format!(
                    "it leaves with {address}, unless another pod speaks to this destination by the same protocol"
                ));
            }
        };
        Ok(format!("it leaves with {address} and {what}"))
    }

    fn conclude(&mut self, packet: &Packet, judgement: Judgement, (way, out): (Way, PortId)) {
        let generation = self.tables.generation;
        match judgement {
            Judgement::Deny { reason, .. } => {
                if reason != DropReason::PolicyDeny {
                    self.step("to the host", reason.meaning());
                }
                self.trace.reason = Some(reason.name().to_owned());
                self.trace.entry = Some(format!("deny, idle 10 s, generation {generation}"));
            }
            Judgement::Allow { .. } => {
                let nat = &self.tables.nat;
                let masquerades = way == Way::Uplink
                    && !nat.untouched.contains(&out)
                    && match (packet.src, packet.dst) {
                        (IpAddr::V4(src), IpAddr::V4(dst)) => {
                            nat.rules4.masquerades(src.into(), dst.into())
                        }
                        (IpAddr::V6(src), IpAddr::V6(dst)) => {
                            nat.rules6.masquerades(src.into(), dst.into())
                        }
                        _ => false,
                    };
                if masquerades {
                    match self.translation(packet, out) {
                        Ok(said) => self.step("natOutgoing", said),
                        Err(reason) => {
                            self.step("natOutgoing", reason.meaning());
                            self.trace.reason = Some(reason.name().to_owned());
                            return;
                        }
                    }
                }
                "ALLOW".clone_into(&mut self.trace.verdict);
                let nat = if masquerades {
                    ", source translated"
                } else {
                    ""
                };
                self.trace.entry = Some(format!(
                    "allow{nat}, generation {generation}, both directions"
                ));
            }
        }
    }
}
