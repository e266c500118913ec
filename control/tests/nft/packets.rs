//! Packets as bytes, written out naively.

use std::net::IpAddr;

use control::policy::Packet;
use control::policy::packet::State;
use control::policy::rule::Protocol;

/// The bytes of a packet of this length, as it was sent: before its destination is translated. `number` tells ICMP queries
/// apart.
pub(crate) fn bytes(packet: &Packet, number: u16, length: usize) -> Vec<u8> {
    let sent = packet.before_dnat();
    let header = if sent.src.is_ipv4() { 20 } else { 40 };
    let mut payload = vec![0; length - header];
    let size = payload.len() as u16;
    let (src_port, dst_port) = sent.ports.unwrap_or_default();
    payload[..2].copy_from_slice(&src_port.to_be_bytes());
    payload[2..4].copy_from_slice(&dst_port.to_be_bytes());
    let checksum_at = match sent.protocol {
        Protocol::TCP => {
            payload[12] = 5 << 4;
            payload[13] = if sent.state == State::Invalid {
                0x10
            } else {
                0x02
            };
            payload[14..16].copy_from_slice(&1024u16.to_be_bytes());
            Some(16)
        }
        Protocol::UDP => {
            payload[4..6].copy_from_slice(&size.to_be_bytes());
            Some(6)
        }
        // All of it is covered.
        Protocol::UDPLITE => Some(6),
        Protocol::ICMP | Protocol::ICMPV6 => {
            let (kind, code) = sent.icmp.unwrap_or_default();
            payload[..4].copy_from_slice(&[kind, code, 0, 0]);
            payload[4..6].copy_from_slice(&number.to_be_bytes());
            Some(2)
        }
        _ => None,
    };
    if let Some(at) = checksum_at {
        let pseudo = match (sent.src, sent.dst) {
            _ if sent.protocol == Protocol::ICMP => Vec::new(),
            (IpAddr::V4(src), IpAddr::V4(dst)) => [
                &src.octets()[..],
                &dst.octets(),
                &[0, sent.protocol.0],
                &size.to_be_bytes(),
            ]
            .concat(),
            (IpAddr::V6(src), IpAddr::V6(dst)) => [
                &src.octets()[..],
                &dst.octets(),
                &[0, 0],
                &size.to_be_bytes(),
                &[0, 0, 0, sent.protocol.0],
            ]
            .concat(),
            _ => panic!("one family"),
        };
        let sum = checksum(&[&pseudo, &payload]);
        payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    let mut packet = match (sent.src, sent.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut header = [0; 20];
            header[0] = 0x45;
            header[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            header[8] = 64;
            header[9] = sent.protocol.0;
            header[12..16].copy_from_slice(&src.octets());
            header[16..20].copy_from_slice(&dst.octets());
            let sum = checksum(&[&header]);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            header.to_vec()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut header = [0; 40];
            header[0] = 0x60;
            header[4..6].copy_from_slice(&size.to_be_bytes());
            header[6] = sent.protocol.0;
            header[7] = 64;
            header[8..24].copy_from_slice(&src.octets());
            header[24..40].copy_from_slice(&dst.octets());
            header.to_vec()
        }
        _ => panic!("one family"),
    };
    packet.append(&mut payload);
    packet
}

/// The Internet checksum (RFC 1071).
fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let pairs = bytes.chunks(2);
    let sum: u32 = pairs
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}
