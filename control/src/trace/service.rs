//! What a service makes of a packet's destination.

use std::net::{IpAddr, SocketAddr};

use fastpath::connections::Connections;
use flowtable::flow::{Key4, Key6};

use super::Tracer;
use crate::policy::packet::Packet;

impl Tracer<'_> {
    /// The packet as it goes on to a service's endpoint, if it does.
    pub(super) fn at_backend(&mut self, packet: &Packet, backend: Option<(IpAddr, u16)>) -> Packet {
        let mut packet = *packet;
        let (Some((addr, port)), Some((sport, dport))) = (backend, packet.ports) else {
            return packet;
        };
        let services = self.compiler.desired().services.iter();
        let protocol = packet.protocol.0;
        let mut ports = services
            .filter(|service| service.addresses.contains(&packet.dst))
            .flat_map(|service| service.ports.iter().map(move |port| (service, port)))
            .filter(|(_, it)| (it.protocol, it.port) == (protocol, dport));
        let backend = SocketAddr::new(addr, port);
        let said = match ports.next() {
            Some((service, port)) => {
                let of_family = |it: &&SocketAddr| it.is_ipv4() == addr.is_ipv4();
                let count = port.backends.iter().filter(of_family).count();
                format!(
                    "{}/{}: to its endpoint {backend}, of {count}",
                    service.namespace, service.name
                )
            }
            None => format!("to {backend}"),
        };
        self.step("service", said);
        packet.dst = addr;
        packet.ports = Some((sport, port));
        packet
    }
}

/// The hash of a packet's connection, by which a service's endpoint is chosen.
pub(super) fn hash(packet: &Packet, (sport, dport): (u16, u16), connections: &Connections) -> u32 {
    let protocol = packet.protocol.0;
    match (packet.src, packet.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => connections.v4.table.flow_hash(&Key4 {
            src: src.into(),
            dst: dst.into(),
            sport,
            dport,
            protocol,
        }),
        (IpAddr::V6(src), IpAddr::V6(dst)) => connections.v6.table.flow_hash(&Key6 {
            src: src.into(),
            dst: dst.into(),
            sport,
            dport,
            protocol,
        }),
        _ => 0,
    }
}
