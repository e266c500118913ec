//! The quick way through parsing, for the packets that nearly all packets are.
//!
//! TCP and UDP (and what nodes send by IPIP) without options, extension headers or fragments, from and to plain unicast
//! addresses, in a frame for this port. It takes such a packet with few comparisons, and refuses none: whatever it does not take goes the careful way, which
//! alone knows reasons. A packet that it takes is what the careful way would have made of it (a property test says so).

use encap::eth::MacAddr;
use encap::ipv4::{self, Ipv4Info};
use encap::ipv6::{self, Ipv6Info, Upper};
use encap::{checksum, eth, l4};

use crate::batch::{Family, Packet, flag};
use crate::port::{PodPort, Port, PortKind};
use crate::tables::Tunnels;

/// Headers that are looked at: Ethernet, IPv4 without options, ports.
const HEADERS4: usize = eth::HEADER_LEN + ipv4::MIN_HEADER_LEN + l4::UDP_HEADER_LEN;
/// Ethernet, IPv6, ports.
const HEADERS6: usize = eth::HEADER_LEN + ipv6::HEADER_LEN + l4::UDP_HEADER_LEN;

/// What ordinary packets of a port have in common. Worked out once a batch.
#[derive(Debug)]
pub(super) struct Ordinary<'a> {
    /// The port's MAC address, as in the low bits of a frame's first eight bytes.
    dst: u64,
    /// The pod's MAC address and the type IPv4, as in bytes 6 to 13 under `mask`.
    src_and_ipv4: u64,
    src_and_ipv6: u64,
    mask: u64,
    /// The pod behind the port, which may use its own addresses only.
    pod: Option<&'a PodPort>,
    /// The first of them, if plain: most packets come from there.
    pod4: Option<u32>,
    pod6: Option<u128>,
    /// Whether a checksum is looked at to know whether it is partial: what comes out of a tunnel may be, whatever is outside.
    looks_for_partial: bool,
    /// The UDP destination port that is refused; beyond all ports if none is.
    refused_port: u32,
    /// [`flag`] bits of the port's packets.
    flags: u8,
}

impl<'a> Ordinary<'a> {
    /// None at a port where no packet is ordinary: that of a pod whose MAC address is still to be learned.
    pub(super) fn at(port: &'a Port, tunnels: &Tunnels) -> Option<Self> {
        const TYPE: u64 = 0xffff << 48;
        let mut ordinary = Self {
            dst: number(port.mac),
            src_and_ipv4: u64::from(eth::EtherType::IPV4.0.swap_bytes()) << 48,
            src_and_ipv6: u64::from(eth::EtherType::IPV6.0.swap_bytes()) << 48,
            mask: TYPE,
            pod: None,
            pod4: None,
            pod6: None,
            looks_for_partial: false,
            refused_port: u32::MAX,
            flags: 0,
        };
        ordinary.looks_for_partial =
            port.partial_checksums && !matches!(port.kind, PortKind::Uplink);
        match &port.kind {
            PortKind::Uplink if port.partial_checksums => ordinary.flags |= flag::MAYBE_PARTIAL,
            PortKind::Uplink => {}
            PortKind::Host => ordinary.flags |= flag::KEEP_TTL,
            PortKind::Pod(pod) => {
                let src = number(pod.mac?);
                ordinary.src_and_ipv4 |= src;
                ordinary.src_and_ipv6 |= src;
                ordinary.mask = u64::MAX;
                ordinary.pod = Some(pod);
                ordinary.pod4 = pod
                    .addrs4
                    .first()
                    .copied()
                    .filter(|&it| ipv4::is_unicast(it));
                ordinary.pod6 = pod
                    .addrs6
                    .first()
                    .copied()
                    .filter(|&it| ipv6::is_surely_unicast(it));
                if !tunnels.pods_may_vxlan {
                    ordinary.refused_port = tunnels.vxlan_port.into();
                }
            }
        }
        Some(ordinary)
    }

    /// Takes the packet if it is ordinary. If not, what is known of it is unspecified, but for its frame and port.
    #[inline(always)]
    pub(super) fn take(&self, packet: &mut Packet, bytes: &[u8]) -> bool {
        let Some(start) = bytes.first_chunk::<{ eth::HEADER_LEN }>() else {
            return false;
        };
        let dst = le64(start, 0) << 16 >> 16;
        let src_and_type = le64(start, 6) & self.mask;
        if dst != self.dst {
            return false;
        }
        if src_and_type == self.src_and_ipv4 {
            self.take4(packet, bytes)
        } else if src_and_type == self.src_and_ipv6 {
            self.take6(packet, bytes)
        } else {
            false
        }
    }

    #[inline(always)]
    fn take4(&self, packet: &mut Packet, bytes: &[u8]) -> bool {
        let Some(headers) = bytes.first_chunk::<HEADERS4>() else {
            return false;
        };
        let number = |at| be32(headers, eth::HEADER_LEN + at);
        let (first, second, third) = (number(0), number(4), number(8));
        let (src, dst, ports) = (number(12), number(16), number(20));
        let (total_len, protocol) = (first as u16, (third >> 16) as u8);
        let (len, l4) = (usize::from(total_len), ipv4::MIN_HEADER_LEN);
        let is_fragment = second & u32::from(ipv4::MORE_FRAGMENTS | ipv4::OFFSET_MASK) != 0;
        if first >> 24 != 0x45 || is_fragment || len > bytes.len() - eth::HEADER_LEN {
            return false;
        }
        let ends = u64::from(src) + u64::from(dst);
        if !checksum::is_zero(u64::from(first) + u64::from(second) + u64::from(third) + ends) {
            return false;
        }
        if !ipv4::is_unicast(dst) || (self.pod4 != Some(src) && !self.may_come_from4(src)) {
            return false;
        }
        let (ports, field, flags) = match protocol {
            l4::UDP if len >= l4 + 8 && ports & 0xffff != self.refused_port => {
                let field = be16(headers, eth::HEADER_LEN + l4 + 6);
                (ports, field, flag::ORDINARY)
            }
            l4::TCP if len >= l4 + 20 => {
                let field = be16(bytes, eth::HEADER_LEN + l4 + 16);
                (ports, field, flag::ORDINARY)
            }
            ipv4::PROTOCOL_IPIP if len >= l4 && self.pod.is_none() => (0, 0, 0),
            _ => return false,
        };
        packet.ip4 = Ipv4Info {
            src,
            dst,
            total_len,
            id: (second >> 16) as u16,
            flags_and_offset: second as u16,
            header_len: ipv4::MIN_HEADER_LEN as u8,
            protocol,
            ttl: (third >> 24) as u8,
            tos: (first >> 16) as u8,
        };
        self.settle(packet, Family::V4, ports, flags);
        if self.looks_for_partial {
            let pseudo = ends + u64::from(protocol) + (len as u64 - l4 as u64);
            look_for_partial(packet, pseudo, field);
        }
        true
    }

    #[inline(always)]
    fn take6(&self, packet: &mut Packet, bytes: &[u8]) -> bool {
        let Some(headers) = bytes.first_chunk::<HEADERS6>() else {
            return false;
        };
        let number = |at| {
            u64::from(be32(headers, eth::HEADER_LEN + at)) << 32
                | u64::from(be32(headers, eth::HEADER_LEN + at + 4))
        };
        let address = |at| u128::from(number(at)) << 64 | u128::from(number(at + 8));
        let (fixed, src, dst) = (number(0), address(8), address(24));
        let ports = be32(headers, eth::HEADER_LEN + ipv6::HEADER_LEN);
        let (payload_len, protocol) = ((fixed >> 16) as u16, (fixed >> 8) as u8);
        let len = usize::from(payload_len);
        let is_ordinary = fixed >> 60 == 6
            && len <= bytes.len() - eth::HEADER_LEN - ipv6::HEADER_LEN
            && ipv6::is_surely_unicast(dst)
            && (self.pod6 == Some(src) || self.may_come_from6(src));
        let l4 = eth::HEADER_LEN + ipv6::HEADER_LEN;
        let field = match protocol {
            l4::UDP if len >= 8 && ports & 0xffff != self.refused_port => be16(headers, l4 + 6),
            l4::TCP if len >= 20 => be16(bytes, l4 + 16),
            _ => return false,
        };
        if is_ordinary {
            packet.ip6 = Ipv6Info {
                src,
                dst,
                payload_len,
                hop_limit: fixed as u8,
                traffic_class: (fixed >> 52) as u8,
                flow_label: (fixed >> 32) as u32 & 0x000f_ffff,
                upper: Upper {
                    protocol,
                    offset: ipv6::HEADER_LEN as u16,
                    fragment: None,
                },
            };
            self.settle(packet, Family::V6, ports, 0);
            if self.looks_for_partial {
                // Four bytes at a time, so that nothing is carried out.
                let sum = |at| u64::from(be32(headers, eth::HEADER_LEN + at));
                let addresses: u64 = (8..40).step_by(4).map(sum).sum();
                let pseudo = addresses + u64::from(protocol) + len as u64;
                look_for_partial(packet, pseudo, field);
            }
        }
        is_ordinary
    }

    /// Whether the port's packets may have this source, which is not the pod's first address.
    #[inline(always)]
    fn may_come_from4(&self, src: u32) -> bool {
        ipv4::is_unicast(src) && self.pod.is_none_or(|pod| pod.may_send_from4(src))
    }

    #[inline(always)]
    fn may_come_from6(&self, src: u128) -> bool {
        ipv6::is_surely_unicast(src) && self.pod.is_none_or(|pod| pod.may_send_from6(src))
    }

    #[inline(always)]
    const fn settle(&self, packet: &mut Packet, family: Family, ports: u32, flags: u8) {
        packet.ports = ((ports >> 16) as u16, ports as u16);
        packet.l3 = eth::HEADER_LEN as u16;
        packet.family = family;
        packet.flags = self.flags | flags;
    }
}

/// Sets the flag if the checksum `field` is the folded sum of the pseudo-header, which is to say the same by 0xffff.
/// `pseudo` is the sum of its words in host order.
#[inline(always)]
const fn look_for_partial(packet: &mut Packet, pseudo: u64, field: u16) {
    if checksum::is_zero(pseudo + !field as u64) {
        packet.flags |= flag::MAYBE_PARTIAL;
    }
}

/// An address as it is read in the low bits of a little-endian number.
fn number(mac: MacAddr) -> u64 {
    let bytes = mac.0.iter().rev();
    bytes.fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// The little-endian number at `at`; zero where there is none.
#[inline(always)]
fn le64(bytes: &[u8], at: usize) -> u64 {
    let found = bytes.get(at..).and_then(<[u8]>::first_chunk);
    found.map_or(0, |it| u64::from_le_bytes(*it))
}

/// The big-endian number at `at`; zero where there is none.
#[inline(always)]
fn be32(bytes: &[u8], at: usize) -> u32 {
    let found = bytes.get(at..).and_then(<[u8]>::first_chunk);
    found.map_or(0, |it| u32::from_be_bytes(*it))
}

/// The big-endian number at `at`; zero where there is none.
#[inline(always)]
fn be16(bytes: &[u8], at: usize) -> u16 {
    let found = bytes.get(at..).and_then(<[u8]>::first_chunk);
    found.map_or(0, |it| u16::from_be_bytes(*it))
}
