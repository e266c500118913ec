//! Whether the flow table knows the packet's connection.

use std::net::IpAddr;

use fastpath::connections::Connections;
use flowtable::flow::{Key4, Key6, flag};

use super::Tracer;
use crate::policy::packet::Packet;

impl Tracer<'_> {
    /// Whether a connection is there already, or a denial.
    pub(super) fn is_known(
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
}
