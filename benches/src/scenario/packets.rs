//! Packets as bytes.

use encap::eth::{self, EtherType, MacAddr};
use encap::outer::{self, Inner, Macs, Overlay, Rewrite, Tunnel};
use encap::{checksum, ecn, l4};

use super::tables::{macs_of, node4, overlay, pod_mac};
use super::{Chain, LOCAL4, PACKET_LEN, UPLINK_MAC};
use crate::rng::Rng;

/// UDP over IPv4 in Ethernet from a pod, not to be fragmented, all checksums right.
#[must_use]
pub fn udp4(src: u32, dst: u32, flow: u32) -> Vec<u8> {
    udp4_of(PACKET_LEN, [0x40, 64], src, dst, flow)
}

/// The same with a length, and with the first byte of flags and fragment offset, and the TTL.
#[must_use]
pub fn udp4_of(len: usize, [flags, ttl]: [u8; 2], src: u32, dst: u32, flow: u32) -> Vec<u8> {
    let ip_len = (len - eth::HEADER_LEN) as u16;
    let mut packet = ip4(ip_len, [flags, ttl, l4::UDP], src, dst, flow);
    let mut udp = udp(flow, ip_len - 20);
    let sum = checksum::Sum::pseudo_v4(src, dst, l4::UDP, ip_len - 20);
    seal(&mut udp, sum);
    packet.extend(udp);
    packet
}

/// TCP over IPv4 in Ethernet from a pod: the SYN of a connection, or data once it is established. All checksums right.
pub(super) fn tcp4(src: u32, dst: u32, flow: u32, begins: bool) -> Vec<u8> {
    let (flags, seq, ack) = if begins {
        (SYN, CLIENT_BEGINS, 0)
    } else {
        (PSH | ACK, CLIENT_BEGINS + 1, SERVER_BEGINS + 1)
    };
    let ip_len = (PACKET_LEN - eth::HEADER_LEN) as u16;
    // A SYN carries nothing; behind it is link padding.
    let tcp_len = if begins { 20 } else { ip_len - 20 };
    let mut packet = ip4(20 + tcp_len, [0x40, 64, l4::TCP], src, dst, flow);
    let mut tcp = ports(flow).to_vec();
    tcp.extend(seq.to_be_bytes());
    tcp.extend(ack.to_be_bytes());
    tcp.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    tcp.resize(tcp_len.into(), 0x5a);
    let sum = checksum::Sum::pseudo_v4(src, dst, l4::TCP, tcp_len)
        .add_bytes(&tcp)
        .checksum();
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    packet.extend(tcp);
    packet.resize(PACKET_LEN, 0);
    packet
}

const SYN: u8 = 0x02;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const CLIENT_BEGINS: u32 = 1000;
const SERVER_BEGINS: u32 = 5000;

/// What is behind the uplink answers to a packet that came there: ends swapped, which leaves the checksums as they are. A
/// SYN is answered by a SYN with ACK.
pub(super) fn answer(frame: &[u8]) -> Vec<u8> {
    let mut answer = frame.to_vec();
    let mut swap = |a: usize, b: usize, len: usize| {
        for at in 0..len {
            answer.swap(a + at, b + at);
        }
    };
    swap(0, 6, 6);
    let is_v6 = frame[12..14] == EtherType::IPV6.0.to_be_bytes();
    if is_v6 {
        swap(22, 38, 16);
        swap(54, 56, 2);
        return answer;
    }
    swap(26, 30, 4);
    swap(34, 36, 2);
    if frame[23] == l4::TCP {
        let number = |at: usize| {
            u32::from_be_bytes([answer[at], answer[at + 1], answer[at + 2], answer[at + 3]])
        };
        let (src, dst) = (number(26), number(30));
        let tcp = &mut answer[34..54];
        tcp[4..8].copy_from_slice(&SERVER_BEGINS.to_be_bytes());
        tcp[8..12].copy_from_slice(&(CLIENT_BEGINS + 1).to_be_bytes());
        tcp[13] = SYN | ACK;
        tcp[16..18].fill(0);
        let sum = checksum::Sum::pseudo_v4(src, dst, l4::TCP, 20).add_bytes(tcp);
        let sum = sum.checksum().to_be_bytes();
        tcp[16..18].copy_from_slice(&sum);
    }
    answer
}

/// A router says of the packet that `answer` answers, as it came out at the uplink, that its destination is unreachable.
#[must_use]
pub fn unreachable4(answer: &[u8]) -> Vec<u8> {
    let mut quoted = answer[eth::HEADER_LEN..eth::HEADER_LEN + 28].to_vec();
    for (a, b, len) in [(12, 16, 4), (20, 22, 2)] {
        for at in 0..len {
            quoted.swap(a + at, b + at);
        }
    }
    let mut icmp = vec![3, 1, 0, 0, 0, 0, 0, 0];
    icmp.extend(quoted);
    let sum = checksum::of(&icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let from = u32::from_be_bytes([answer[26], answer[27], answer[28], answer[29]]);
    let len = 20 + icmp.len() as u16;
    let mut packet = ip4(len, [0, 64, l4::ICMP], from, LOCAL4, 0);
    packet[..12].copy_from_slice(&answer[..12]);
    packet.extend(icmp);
    packet
}

/// A datagram of 96 bytes from a pod in two fragments.
#[must_use]
pub fn fragments4(src: u32, dst: u32, flow: u32) -> [Vec<u8>; 2] {
    let whole = udp4_of(eth::HEADER_LEN + 20 + 96, [0, 64], src, dst, flow);
    let (headers, data) = whole.split_at(eth::HEADER_LEN + 20);
    let (first, second) = data.split_at(48);
    [(0x2000_u16, first), (48 / 8, second)].map(|(flags_and_offset, data)| {
        let mut packet = headers.to_vec();
        packet[16..18].copy_from_slice(&(20 + data.len() as u16).to_be_bytes());
        packet[20..22].copy_from_slice(&flags_and_offset.to_be_bytes());
        packet[24..26].fill(0);
        let sum = checksum::of(&packet[eth::HEADER_LEN..]);
        packet[24..26].copy_from_slice(&sum.to_be_bytes());
        packet.extend(data);
        packet
    })
}

/// An IPv4 header in Ethernet from a pod.
fn ip4(ip_len: u16, [flags, ttl, protocol]: [u8; 3], src: u32, dst: u32, flow: u32) -> Vec<u8> {
    let mut packet = from_pod(EtherType::IPV4);
    let id = Rng::new(u64::from(flow)).next_u64() as u16;
    packet.extend([0x45, 0]);
    packet.extend(ip_len.to_be_bytes());
    packet.extend(id.to_be_bytes());
    packet.extend([flags, 0, ttl, protocol, 0, 0]);
    packet.extend(src.to_be_bytes());
    packet.extend(dst.to_be_bytes());
    let sum = checksum::of(&packet[eth::HEADER_LEN..]);
    packet[24..26].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// UDP over IPv6 in Ethernet from a pod, all checksums right.
#[must_use]
pub(super) fn udp6(src: u128, dst: u128, flow: u32) -> Vec<u8> {
    let mut packet = from_pod(EtherType::IPV6);
    let udp_len = (PACKET_LEN - eth::HEADER_LEN - 40) as u16;
    packet.extend([0x60, 0, 0, 0]);
    packet.extend(udp_len.to_be_bytes());
    packet.extend([l4::UDP, 64]);
    packet.extend(src.to_be_bytes());
    packet.extend(dst.to_be_bytes());
    let mut udp = udp(flow, udp_len);
    let sum = checksum::Sum::pseudo_v6(src, dst, l4::UDP, udp_len.into());
    seal(&mut udp, sum);
    packet.extend(udp);
    packet
}

fn from_pod(ethertype: EtherType) -> Vec<u8> {
    eth::header(MacAddr::CALICO_HOST, pod_mac(), ethertype).into()
}

/// Source and destination port of a flow, 1,024 and above.
fn ports(flow: u32) -> [u8; 4] {
    let ports = Rng::new(u64::from(flow) << 1 | 1).next_u64() as u32 | 0x0400_0400;
    ports.to_be_bytes()
}

fn udp(flow: u32, len: u16) -> Vec<u8> {
    let mut udp = ports(flow).to_vec();
    udp.extend(len.to_be_bytes());
    udp.extend([0, 0]);
    udp.resize(len.into(), 0x5a);
    udp
}

fn seal(udp: &mut [u8], pseudo: checksum::Sum) {
    let sum = checksum::udp_on_wire(pseudo.add_bytes(udp).checksum());
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
}

/// The packet as node number `peer` sends it through its tunnel to us.
pub(super) fn tunnelled(chain: Chain, peer: u16, packet: &[u8]) -> Vec<u8> {
    let macs = Macs {
        dst: UPLINK_MAC,
        src: macs_of(peer).dst,
    };
    let ends = Tunnel {
        src: node4(peer),
        dst: LOCAL4,
    };
    let rewrite = if chain == Chain::IpipDecap {
        Rewrite::ipip(macs, ends, 64)
    } else {
        let macs_inside = overlay(peer).macs;
        let overlay = Overlay {
            macs: Macs {
                dst: macs_inside.src,
                src: macs_inside.dst,
            },
            ..overlay(peer)
        };
        Rewrite::vxlan4(macs, ends, overlay)
    };
    let l3 = &packet[eth::HEADER_LEN..];
    let mut whole = vec![0; rewrite.len()];
    whole.extend(l3);
    let inner = Inner {
        len: l3.len() as u16,
        family: outer::Family::V4,
        ecn: ecn::Ecn::NotEct,
        dont_fragment: true,
        flow_hash: 0x1234_5678,
        id: peer,
    };
    rewrite.write(&mut whole, &inner).expect("there is room");
    whole
}
