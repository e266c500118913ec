//! What the host's own table of nftables says of what the host sends, gets and forwards, by the evaluator.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use fastpath::batch::PeerId;
use fastpath::port::PortId;
use fastpath::reason::DropReason;
use fastpath::tables::Way;
use ipnet::IpNet;

use super::Tracer;
use super::origin::Origin;
use crate::netlink::host_port::HOST_END;
use crate::policy::evaluate;
use crate::policy::legs::{Leg, Party, legs, wildcard};
use crate::policy::model::Direction;
use crate::policy::packet::Packet;
use crate::policy::rule::Protocol;
use crate::policy::verdict::Outcome;

/// The table, as far as it matters where a packet comes from.
#[derive(Clone, Copy)]
pub struct HostTable<'a> {
    /// Host endpoints by interface: of interfaces that have one of their own.
    pub interfaces: &'a BTreeMap<String, String>,
    /// Whose tunnels are let through.
    pub peers: &'a BTreeSet<IpNet>,
    /// The UDP port of VXLAN, where it is used.
    pub vxlan: Option<u16>,
    /// Whether the kernel has it.
    pub is_in_force: bool,
    /// The interface by which the kernel's route to an address leads.
    pub route: &'a dyn Fn(IpAddr) -> Option<String>,
}

/// Where a next hop leads.
type Hop = Option<(Way, PeerId, PortId)>;

/// A packet's way through the kernel.
pub(super) struct HostsOwn {
    from: Party,
    to: Party,
    /// The interfaces that it comes in and leaves by.
    by: Vec<String>,
}

impl HostsOwn {
    pub(super) fn interfaces(&self) -> String {
        self.by.join(" and ")
    }
}

impl Tracer<'_> {
    /// The way of a packet that the table is asked about. None: there is no table, or it is not.
    pub(super) fn hosts_own(&self, packet: &Packet, origin: &Origin) -> Option<HostsOwn> {
        let table = self.host_table?;
        let node = &self.compiler.desired().node_name;
        let (src, dst) = (self.hop(packet.src).origin(), self.hop(packet.dst).origin());
        let is_pods = |hop: Hop| matches!(hop, Some((Way::Pod, ..)));
        let is_hosts = |hop: Hop| matches!(hop, Some((Way::Host, ..)));
        // Of local pods their own policy decides, loopback has none.
        if is_pods(src) || is_pods(dst) || is_hosts(src) && is_hosts(dst) {
            return None;
        }
        let is_other_nodes =
            |hop: Hop| matches!(hop, Some((Way::Tunnel, ..) | (Way::Uplink, PeerId(1..), _)));
        let mut by = Vec::new();
        let mut party = |is_hosts: bool, interface: &dyn Fn() -> Option<String>| {
            if is_hosts {
                return Party::Host(node.clone());
            }
            let interface = interface();
            let own = interface.as_ref().and_then(|it| table.interfaces.get(it));
            by.push(interface.clone().unwrap_or_else(|| "no route".to_owned()));
            let all = || wildcard(self.compiler.policy().model(), node);
            Party::Outside {
                node: node.clone(),
                endpoint: own.map(String::as_str).or_else(all).map(str::to_owned),
            }
        };
        let from = party(is_hosts(src), &|| {
            if origin.peer != PeerId::NONE {
                Some(HOST_END.to_owned())
            } else if is_other_nodes(src) {
                Some(self.port_name(origin.port))
            } else {
                (table.route)(packet.src)
            }
        });
        let to = party(is_hosts(dst), &|| {
            if is_other_nodes(dst) {
                Some(HOST_END.to_owned())
            } else {
                (table.route)(packet.dst)
            }
        });
        // Between others a table is asked about what the kernel forwards, not about what pollers do.
        let is_ours = is_hosts(src) || is_hosts(dst) || !self.is_seen(origin, packet.dst);
        is_ours.then_some(HostsOwn { from, to, by })
    }

    /// Says what the table says. False if it drops the packet.
    pub(super) fn ask_host_table(&mut self, packet: &Packet, way: &HostsOwn) -> bool {
        let interfaces = way.interfaces();
        if self.host_table.is_some_and(|table| !table.is_in_force) {
            let said =
                "not what the kernel has now: `caracal status` says why; what it is to say follows";
            self.step("kernel's table", said.to_owned());
        }
        if self.is_tunnels(packet, &way.from) {
            let said = format!("{interfaces}: tunnels of known nodes are let through");
            self.step("kernel's table", said);
            return true;
        }
        let model = self.compiler.policy().model();
        let verdict = evaluate(model, packet, &legs(model, &way.from, &way.to));
        for rule in &verdict.logs {
            self.step("kernel's table", format!("logged by {rule}"));
        }
        for said in &verdict.legs {
            let word = match said.outcome {
                Outcome::Allow => format!("allowed by {}", said.reason),
                Outcome::Deny => format!("denied: {}", said.reason),
            };
            self.step(stage(&said.leg), word);
        }
        if verdict.legs.is_empty() {
            let said = format!("no host endpoint's policy is about it ({interfaces})");
            self.step("kernel's table", said);
        }
        self.staged(&verdict);
        let allows = verdict.outcome == Outcome::Allow;
        if !allows {
            "DROP".clone_into(&mut self.trace.verdict);
            self.trace.reason = Some(DropReason::PolicyDeny.name().to_owned());
        }
        allows
    }

    /// Whether a packet is of a tunnel between known nodes.
    fn is_tunnels(&self, packet: &Packet, from: &Party) -> bool {
        let Some(table) = self.host_table else {
            return false;
        };
        let is_vxlan = packet.protocol == Protocol::UDP
            && table.vxlan.is_some()
            && packet.ports.map(|(_, port)| port) == table.vxlan;
        let is_ipip = packet.protocol == Protocol::IPIP && packet.src.is_ipv4();
        let other = match from {
            Party::Host(_) => packet.dst,
            Party::Outside { .. } | Party::Workload(_) => packet.src,
        };
        (is_vxlan || is_ipip) && table.peers.iter().any(|peer| peer.contains(&other))
    }
}

/// A step of the table, in the words of what pollers judge.
fn stage(leg: &Leg) -> String {
    let of = |what: &str, endpoint: &str| format!("{what} of host endpoint {endpoint}");
    match leg {
        Leg::HostUntracked(endpoint, Direction::Ingress) => of("untracked ingress", endpoint),
        Leg::HostUntracked(endpoint, Direction::Egress) => of("untracked egress", endpoint),
        Leg::HostPreDnat(endpoint) => of("ingress before DNAT", endpoint),
        Leg::HostForward(endpoint, Direction::Ingress) => of("forwarded ingress", endpoint),
        Leg::HostForward(endpoint, Direction::Egress) => of("forwarded egress", endpoint),
        Leg::HostNormal(endpoint, Direction::Ingress) => of("ingress", endpoint),
        Leg::HostNormal(endpoint, Direction::Egress) => of("egress", endpoint),
        other => other.to_string(),
    }
}
