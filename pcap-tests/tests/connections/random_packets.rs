//! Random first packets of connections, of all kinds that policy tells apart.

use control::policy::packet::Packet;
use control::policy::rule::Protocol;
use pcap_tests::build::{ip4, ip6};

use crate::random_policy::Dice;

/// IPv6 in IP, which policy judges like any protocol.
const IPV6_IN_IP: Protocol = Protocol(41);
/// Generic routing encapsulation.
const GRE: Protocol = Protocol(47);

/// Protocols that rules ask for; rules without one are frequent.
pub(crate) const OF_RULES: [Option<Protocol>; 12] = [
    None,
    None,
    None,
    Some(Protocol::TCP),
    Some(Protocol::TCP),
    Some(Protocol::UDP),
    Some(Protocol::UDP),
    Some(Protocol::SCTP),
    Some(Protocol::ICMP),
    Some(Protocol::ICMPV6),
    Some(GRE),
    Some(IPV6_IN_IP),
];

/// What is sent, and what policy sees of it.
pub(crate) struct Sent {
    pub(crate) bytes: Vec<u8>,
    pub(crate) protocol: Protocol,
    pub(crate) ports: Option<(u16, u16)>,
    pub(crate) icmp: Option<(u8, u8)>,
}

/// A packet with a source port, or an identifier, of its own.
pub(crate) fn any(dice: &mut Dice, (src, dst): (&str, &str), own: u16) -> Sent {
    let v4 = !src.contains(':');
    let protocol = dice.of(&[
        Protocol::TCP,
        Protocol::TCP,
        Protocol::UDP,
        Protocol::UDP,
        Protocol::SCTP,
        Protocol::ICMP,
        Protocol::ICMP,
        Protocol::UDPLITE,
        Protocol::IPIP,
        IPV6_IN_IP,
        GRE,
    ]);
    let dport = dice.of(&[53, 80, 81, 443, 4789, 15_000]);
    let payload: Vec<u8> = match protocol {
        Protocol::SCTP => sctp_init(own, dport),
        _ => [&own.to_be_bytes()[..], &dport.to_be_bytes(), &[0; 28]].concat(),
    };
    let ports = Some((own, dport));
    let kind = if v4 { dice.of(&[8, 13, 15, 17]) } else { 128 };
    let code = dice.of(&[0, 0, 1, 2]);
    let word = u32::from(own) << 16 | 1;
    let (bytes, ports, icmp) = match protocol {
        Protocol::TCP if v4 => (ip4(src, dst).tcp(own, dport, 2, &[]), ports, None),
        Protocol::TCP => (ip6(src, dst).tcp(own, dport, 2, &[]), ports, None),
        Protocol::UDP if v4 => (ip4(src, dst).udp(own, dport, b"data"), ports, None),
        Protocol::UDP => (ip6(src, dst).udp(own, dport, b"data"), ports, None),
        Protocol::ICMP => {
            let data = [0; 12];
            let bytes = if v4 {
                ip4(src, dst).icmp(kind, code, word, &data)
            } else {
                ip6(src, dst).icmp(kind, code, word, &data)
            };
            (bytes, None, Some((kind, code)))
        }
        Protocol(number) => {
            let bytes = if v4 {
                ip4(src, dst).packet(number, &payload)
            } else {
                ip6(src, dst).packet(number, &payload)
            };
            let has_ports = matches!(protocol, Protocol::SCTP | Protocol::UDPLITE);
            (bytes, ports.filter(|_| has_ports), None)
        }
    };
    let protocol = match protocol {
        Protocol::ICMP if !v4 => Protocol::ICMPV6,
        other => other,
    };
    Sent {
        bytes,
        protocol,
        ports,
        icmp,
    }
}

/// The source port of a packet's connection in the flow table; protocols without ports have none.
pub(crate) fn source_port(packet: &Packet, own: u16) -> u16 {
    if packet.ports.is_some() || packet.icmp.is_some() {
        own
    } else {
        0
    }
}

/// The packet that begins an association (RFC 9260 section 3.3.2); nobody on the way looks at its checksum.
fn sctp_init(src: u16, dst: u16) -> Vec<u8> {
    let mut bytes = [src.to_be_bytes(), dst.to_be_bytes()].concat();
    bytes.extend([0; 8]);
    bytes.extend([1, 0, 0, 20]);
    bytes.extend([0, 0, 0, 7, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 9]);
    bytes
}
