//! What would become of a packet that begins a connection: the steps of the dataplane, by its own tables and its own
//! classifier. Nothing is sent, counted or remembered.

mod ask;
mod bytes;
mod host;
mod judge;
mod known;
mod origin;
mod outcome;
mod place;
mod report;
mod service;
mod side;

use fastpath::connections::Connections;
use fastpath::policy::End;
use fastpath::reason::DropReason;
use fastpath::stage::probe::Probe;
use fastpath::tables::{NextHop, Tables, Way};

pub use self::ask::{Ask, protocol};
pub use self::host::HostTable;
use self::host::HostsOwn;
pub(crate) use self::judge::explain;
use self::outcome::Entry;
use self::place::end_of;
pub use self::report::{Step, Trace};
pub use self::side::find;
use self::side::{Side, side};
use crate::compile::Compiler;
use crate::policy::evaluate;
use crate::policy::legs::{Party, legs};
use crate::policy::packet::{Packet, State};
use crate::policy::rule::Protocol;
use crate::policy::verdict::Verdict;

/// The verdict about what comes neither by the dataplane nor by the host's own table.
const UNSEEN: &str = "UNSEEN";

struct Tracer<'c> {
    compiler: &'c Compiler,
    tables: &'c Tables,
    host_table: Option<HostTable<'c>>,
    trace: Trace,
}

/// Traces a packet. `host_table` is what the kernel judges the host's own packets by, where it does.
///
/// # Errors
/// What is wrong with the question.
pub fn trace(
    compiler: &Compiler,
    tables: &Tables,
    connections: Option<&Connections>,
    host_table: Option<HostTable<'_>>,
    ask: &Ask,
) -> Result<Trace, String> {
    let (mut from, mut to) = (
        side(compiler, &ask.from, None)?,
        side(compiler, &ask.to, None)?,
    );
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
        host_table,
        trace: Trace {
            packet: packet.to_string(),
            verdict: "DROP".to_owned(),
            ..Trace::default()
        },
    };
    let id = is_icmp.then_some((ask.source_port, echo.into()));
    tracer.run(&packet, &from, id, connections)?;
    Ok(tracer.trace)
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
        from: &Side<'_>,
        id: Option<(u16, u16)>,
        connections: Option<&Connections>,
    ) -> Result<(), String> {
        let origin = self.origin(from, packet.dst)?;
        let hosts_own = self.hosts_own(packet, &origin);
        if !self.is_seen(&origin, packet.dst) {
            self.by_kernel(packet, hosts_own.as_ref());
            return Ok(());
        }
        if let (End::Host, Some(own)) = (origin.end, &hosts_own)
            && !self.ask_host_table(packet, own)
        {
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
        let untracked = self.end_towards(packet.dst).and_then(|to_end| {
            let allows = self.untracked(packet, from_end, to_end)?;
            Some((to_end, allows))
        });
        let is_untracked = untracked.is_some();
        if let Some((to_end, allows)) = untracked {
            let said = "not asked, and no entry is made: untracked policy decides";
            self.step("flow cache", said);
            if !allows {
                // Before anybody asks where it goes.
                self.judge(packet, from_end, to_end);
                self.staged_on(packet, &from_party, to_end);
                self.trace.reason = Some(DropReason::PolicyDeny.name().to_owned());
                return Ok(());
            }
        } else if let Some(connections) = connections
            && self.is_known(packet, ports, connections)
        {
            return Ok(());
        }
        let hash = connections.map_or(0, |it| service::hash(packet, ports, it));
        let backend = match probe.give_backend(self.tables, hash) {
            Ok(backend) => backend,
            Err(reason) => {
                self.dropped("service", reason);
                return Ok(());
            }
        };
        let packet = &self.at_backend(packet, backend);
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
        let among = if matches!(self.hop(packet.dst), NextHop::Group(_)) {
            "; the route has several legs, and this is the flow's"
        } else {
            ""
        };
        let said = format!("{} by {to_what}{among}{waits}", packet.dst);
        self.step("route", said);
        let to_end = end_of(way, out);
        let judgement = self.judge(packet, from_end, to_end);
        let entry = Entry {
            is_untracked,
            to_service: backend.is_some(),
            returns: to_end == from_end,
        };
        if let Some(own) = hosts_own {
            self.conclude(packet, judgement, (way, out), entry);
            // On its way in the table is last.
            if to_end == End::Host && self.trace.reason.is_none() {
                self.ask_host_table(packet, &own);
            }
            return Ok(());
        }
        self.staged_on(packet, &from_party, to_end);
        self.conclude(packet, judgement, (way, out), entry);
        Ok(())
    }

    /// What does not come by the dataplane.
    fn by_kernel(&mut self, packet: &Packet, hosts_own: Option<&HostsOwn>) {
        let what = "neither from nor to a pod or a tunnel: the node's kernel has it";
        let Some(own) = hosts_own else {
            self.step("kernel", format!("{what}, and Caracal does not see it"));
            UNSEEN.clone_into(&mut self.trace.verdict);
            return;
        };
        let interfaces = own.interfaces();
        let said = format!("{what} ({interfaces}), and asks the table of host endpoints");
        self.step("kernel", said);
        if self.ask_host_table(packet, own) {
            "ALLOW".clone_into(&mut self.trace.verdict);
        }
    }

    /// Says what staged policies on a way would change.
    fn staged_on(&mut self, packet: &Packet, from: &Party, to: End) {
        let to = self.party_at(to);
        let model = self.compiler.policy().model();
        let verdict = evaluate(model, packet, &legs(model, from, &to));
        self.staged(&verdict);
    }

    /// Says what staged policies would change.
    fn staged(&mut self, verdict: &Verdict) {
        for staged in &verdict.staged {
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
    }

    fn dropped(&mut self, stage: &str, reason: DropReason) {
        self.step(stage, format!("dropped: {}", reason.meaning()));
        self.trace.reason = Some(reason.name().to_owned());
    }
}
