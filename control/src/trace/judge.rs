//! What policy says, by the classifier that the dataplane asks, in the words of the rules.

use std::net::IpAddr;

use fastpath::policy::{Decider, Direction, End, Judgement, Leg, Policies};
use flowtable::acl::{L4, Logs, Tuple};

use super::Tracer;
use crate::policy::packet::Packet;
use crate::policy::verdict::Reason;

/// What a chain has said: what decided, whether it allows, and which `Log` rules matched.
pub(crate) type Said = (Leg, Decider, bool, Logs);

impl Tracer<'_> {
    /// Whether untracked policy allows a packet, if it decides about it: it is asked before connections are looked up.
    pub(super) fn untracked(&self, packet: &Packet, from: End, to: End) -> Option<bool> {
        let (_, said) = self.explain(packet, from, to);
        let decides = |(leg, decider, ..): &&Said| {
            let reason = self.compiler.policy().reason(*decider);
            *leg == Leg::Untracked && matches!(reason, Some(Reason::Rule(_)))
        };
        said.iter().find(decides).map(|(_, _, allows, _)| *allows)
    }

    pub(super) fn judge(&mut self, packet: &Packet, from: End, to: End) -> Judgement {
        let (judgement, said) = self.explain(packet, from, to);
        for (leg, decider, allows, logs) in said {
            self.leg(leg, (from, to), (decider, allows), &logs);
        }
        if from == End::Host && matches!(to, End::Pod(_)) {
            self.step("policy", "a host always reaches its own pods");
        }
        judgement
    }

    fn explain(&self, packet: &Packet, from: End, to: End) -> (Judgement, Vec<Said>) {
        explain(&self.tables.policies, packet, from, to)
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
}

/// What policy says about the first packet of a connection between two ends, and what each chain that it meets says. Nothing is
/// counted.
pub(crate) fn explain(
    policies: &Policies,
    packet: &Packet,
    from: End,
    to: End,
) -> (Judgement, Vec<Said>) {
    let l4 = match (packet.ports, packet.icmp) {
        (Some((source, destination)), _) => L4::Ports {
            source,
            destination,
        },
        (None, Some((kind, code))) => L4::Icmp { kind, code },
        (None, None) => L4::Other,
    };
    let protocol = packet.protocol.0;
    let mut said: Vec<Said> = Vec::new();
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
    (judgement, said)
}
