//! What policy's word comes to: natOutgoing, the verdict, and the entry in the flow table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use encap::l4;
use fastpath::policy::Judgement;
use fastpath::port::PortId;
use fastpath::reason::DropReason;
use fastpath::tables::{Mapping, Way};

use super::Tracer;
use crate::policy::packet::Packet;

/// What the entry in the flow table depends on beside policy.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    /// There is none: untracked policy decides.
    pub(super) is_untracked: bool,
    /// The destination is a service's endpoint.
    pub(super) to_service: bool,
    /// That is the sender itself.
    pub(super) returns: bool,
}

impl Tracer<'_> {
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

    pub(super) fn conclude(
        &mut self,
        packet: &Packet,
        judgement: Judgement,
        (way, out): (Way, PortId),
        is: Entry,
    ) {
        let generation = self.tables.generation;
        let entry = |said: String| (!is.is_untracked).then_some(said);
        match judgement {
            Judgement::Deny { reason, .. } => {
                if reason != DropReason::PolicyDeny {
                    self.step("to the host", reason.meaning());
                }
                self.trace.reason = Some(reason.name().to_owned());
                self.trace.entry = entry(format!("deny, idle 10 s, generation {generation}"));
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
                if is.returns {
                    let said = "the pod's own: what it gets comes from the node's address";
                    self.step("service", said);
                }
                "ALLOW".clone_into(&mut self.trace.verdict);
                let nat = match (is.to_service, masquerades || is.returns) {
                    (false, false) => "",
                    (false, true) => ", source translated",
                    (true, false) => ", destination translated",
                    (true, true) => ", source and destination translated",
                };
                self.trace.entry = entry(format!(
                    "allow{nat}, generation {generation}, both directions"
                ));
            }
        }
    }
}
