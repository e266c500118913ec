//! A packet's bytes, for the stages that read them.

use std::net::IpAddr;

use encap::{checksum, l4};

use crate::policy::packet::Packet;

/// Bytes behind the IP header: enough for every protocol's own.
const PAYLOAD: usize = 32;

/// The IP packet. `id` is the identifier of an echo request.
pub(super) fn of(packet: &Packet, id: Option<u16>) -> Vec<u8> {
    let payload = payload(packet, id);
    let (protocol, hops) = (packet.protocol.0, 64);
    let len = payload.len() as u16;
    let mut bytes = Vec::with_capacity(40 + payload.len());
    match (packet.src, packet.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            bytes.extend([0x45, 0]);
            bytes.extend((20 + len).to_be_bytes());
            // Do not fragment.
            bytes.extend([0, 0, 0x40, 0, hops, protocol, 0, 0]);
            bytes.extend(src.octets());
            bytes.extend(dst.octets());
            let sum = checksum::of(&bytes).to_be_bytes();
            bytes.splice(10..12, sum);
        }
        (src, dst) => {
            bytes.extend([0x60, 0, 0, 0]);
            bytes.extend(len.to_be_bytes());
            bytes.extend([protocol, hops]);
            for address in [src, dst] {
                bytes.extend(match address {
                    IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                    IpAddr::V6(address) => address.octets(),
                });
            }
        }
    }
    bytes.extend(payload);
    bytes
}

/// Only what the stages before policy read: ports, or an echo request. There is no checksum.
fn payload(packet: &Packet, id: Option<u16>) -> [u8; PAYLOAD] {
    let mut payload = [0; PAYLOAD];
    if let Some((src, dst)) = packet.ports {
        let ([a, b], [c, d]) = (src.to_be_bytes(), dst.to_be_bytes());
        payload[..4].copy_from_slice(&[a, b, c, d]);
        if packet.protocol.0 == l4::TCP {
            // A header without options; SYN.
            payload[12..14].copy_from_slice(&[5 << 4, 2]);
        }
    }
    if let Some((kind, code)) = packet.icmp {
        let [a, b] = id.unwrap_or_default().to_be_bytes();
        payload[..6].copy_from_slice(&[kind, code, 0, 0, a, b]);
    }
    payload
}

#[cfg(test)]
mod tests {
    use encap::{ipv4, ipv6};

    use super::*;
    use crate::policy::packet::State;
    use crate::policy::rule::Protocol;

    #[test]
    fn the_parser_reads_what_was_meant() {
        let mut packet = Packet {
            src: [10, 0, 0, 1].into(),
            dst: [10, 0, 0, 2].into(),
            protocol: Protocol::TCP,
            ports: Some((40_000, 80)),
            icmp: None,
            original_dst: None,
            state: State::New,
        };
        let bytes = of(&packet, None);
        let ip = ipv4::parse(&bytes).unwrap();
        assert_eq!((ip.protocol, ip.total_len), (6, bytes.len() as u16));
        let ports = l4::ordinary_ports(6, &bytes[20..]);
        assert_eq!(ports, Some((40_000, 80)));
        packet.src = "fd00::1".parse().unwrap();
        packet.dst = "fd00::2".parse().unwrap();
        (packet.protocol, packet.ports, packet.icmp) = (Protocol::ICMPV6, None, Some((128, 0)));
        let bytes = of(&packet, Some(7));
        let ip = ipv6::parse(&bytes).unwrap();
        let upper = l4::parse(58, &bytes[usize::from(ip.upper.offset)..]).unwrap();
        assert_eq!(upper.ports(), (7, 7));
    }
}
