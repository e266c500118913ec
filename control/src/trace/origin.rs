//! Where the packet comes in, and whether it does.

use std::net::IpAddr;

use fastpath::batch::PeerId;
use fastpath::policy::End;
use fastpath::port::{PortId, PortKind};
use fastpath::tables::Way;

use super::Tracer;
use super::side::Side;
use crate::policy::legs::Party;

/// Where the packet comes in.
pub(super) struct Origin {
    pub(super) end: End,
    pub(super) party: Party,
    pub(super) port: PortId,
    /// The node whose tunnel it comes out of.
    pub(super) peer: PeerId,
}

impl Tracer<'_> {
    /// Where the packet comes in.
    pub(super) fn origin(&mut self, from: &Side<'_>, dst: IpAddr) -> Result<Origin, String> {
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

    /// Whether uplinks take packets to this address off the kernel.
    fn is_taken(&self, dst: IpAddr) -> bool {
        let taken = self.compiler.taken_prefixes();
        taken.iter().any(|prefix| prefix.contains(&dst))
    }

    /// Whether the packet comes by Caracal at all.
    pub(super) fn is_seen(&self, origin: &Origin, dst: IpAddr) -> bool {
        let to = self.hop(dst).origin();
        matches!(origin.end, End::Pod(_))
            || origin.peer != PeerId::NONE
            || matches!(to, Some((Way::Pod | Way::Tunnel, ..)))
            || self.is_taken(dst)
    }
}
