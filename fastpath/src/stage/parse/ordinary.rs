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
    /// A frame's first eight bytes, as far as `mask` says: the port's MAC address, and the beginning of the pod's.
    start: u64,
    start_mask: u64,
    /// The next eight: the rest of the pod's MAC address, the type, and the first byte of IPv4 without options.
    next4: u64,
    next4_mask: u64,
    /// The same for IPv6, of which the first half of a byte is the version.
    next6: u64,
    next6_mask: u64,
    /// The pod behind the port, which may use its own addresses only.
    pod: Option<&'a PodPort>,
    /// The first of them, if plain: most packets come from there. Beyond all addresses if there is none.
    pod4: u64,
    pod6: Option<u128>,
    /// Whether a checksum is looked at to know whether it is partial: what comes out of a tunnel may be, whatever is outside.
    looks_for_partial: bool,
    /// The UDP destination port that is refused; beyond all ports if none is.
    refused_port: u32,
    /// [`flag`] bits of the port's ordinary packets.
    flags: u8,
}

impl<'a> Ordinary<'a> {
    /// At the port of a pod whose MAC address is still to be learned no packet is ordinary.
    pub(super) fn at(port: &'a Port, tunnels: &Tunnels) -> Self {
        /// A MAC address in the low bits of eight bytes, and what of another is left there and in the next.
        const ADDRESS: u64 = (1 << 48) - 1;
        const REST: u64 = (1 << 32) - 1;
        const TYPE: u64 = 0xffff << 32;
        const VERSION: u64 = 0xff << 48;
        const VERSION_6: u64 = 0xf0 << 48;
        let of_type = |it: eth::EtherType| u64::from(it.0.swap_bytes()) << 32;
        let mut ordinary = Self {
            start: number(port.mac),
            start_mask: ADDRESS,
            next4: of_type(eth::EtherType::IPV4) | u64::from(ipv4::NO_OPTIONS) << 48,
            next4_mask: TYPE | VERSION,
            next6: of_type(eth::EtherType::IPV6) | 0x60 << 48,
            next6_mask: TYPE | VERSION_6,
            pod: None,
            pod4: u64::MAX,
            pod6: None,
            looks_for_partial: false,
            refused_port: u32::MAX,
            flags: flag::ORDINARY,
        };
        ordinary.looks_for_partial =
            port.partial_checksums && !matches!(port.kind, PortKind::Uplink);
        match &port.kind {
            PortKind::Uplink if port.partial_checksums => ordinary.flags |= flag::MAYBE_PARTIAL,
            PortKind::Uplink => {}
            PortKind::Host => ordinary.flags |= flag::KEEP_TTL,
            PortKind::Pod(pod) => {
                let Some(mac) = pod.mac else {
                    // More than is looked at.
                    ordinary.start = u64::MAX;
                    return ordinary;
                };
                let src = number(mac);
                ordinary.start |= src << 48;
                ordinary.start_mask = u64::MAX;
                ordinary.next4 |= src >> 16;
                ordinary.next4_mask |= REST;
                ordinary.next6 |= src >> 16;
                ordinary.next6_mask |= REST;
                ordinary.pod = Some(pod);
                let plain = pod.addrs4.first().filter(|&&it| ipv4::is_unicast(it));
                ordinary.pod4 = plain.map_or(u64::MAX, |&it| it.into());
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
        ordinary
    }

    /// Takes the packet if it is ordinary. If not, what is known of it is unspecified, but for its frame and port.
    #[inline(always)]
    pub(super) fn take(&self, packet: &mut Packet, bytes: &[u8]) -> bool {
        let Some(headers) = bytes.first_chunk::<HEADERS4>() else {
            return false;
        };
        let (start, next) = (le64(headers, 0), le64(headers, 8));
        let differs = (start & self.start_mask) ^ self.start;
        if differs | ((next & self.next4_mask) ^ self.next4) == 0 {
            self.take4(packet, bytes, headers)
        } else if differs | ((next & self.next6_mask) ^ self.next6) == 0 {
            self.take6(packet, bytes)
        } else {
            false
        }
    }

    /// IPv4 without options, by its first byte.
    #[inline(always)]
    fn take4(&self, packet: &mut Packet, bytes: &[u8], headers: &[u8; HEADERS4]) -> bool {
        let (_, l3) = headers.split_at(eth::HEADER_LEN);
        let ip = &mut packet.ip4;
        let Some(header) = l3.first_chunk() else {
            return false;
        };
        if !read4(ip, header, bytes.len() - eth::HEADER_LEN) {
            return false;
        }
        let Ipv4Info {
            src, dst, protocol, ..
        } = *ip;
        if self.pod4 != u64::from(src) && !self.may_come_from4(src) {
            return false;
        }
        let (len, l4) = (usize::from(ip.total_len), ipv4::MIN_HEADER_LEN);
        let ports = be32(headers, eth::HEADER_LEN + l4);
        let (least, field) = match protocol {
            l4::UDP => (8, be16(headers, eth::HEADER_LEN + l4 + 6)),
            l4::TCP => (20, be16(bytes, eth::HEADER_LEN + l4 + 16)),
            _ => {
                self.settle(packet, Family::V4, 0);
                packet.flags &= !flag::ORDINARY;
                return protocol == ipv4::PROTOCOL_IPIP && len >= l4 && self.pod.is_none();
            }
        };
        if len < l4 + least || (protocol == l4::UDP && ports & 0xffff == self.refused_port) {
            return false;
        }
        self.settle(packet, Family::V4, ports);
        if self.looks_for_partial {
            let ends = u64::from(src) + u64::from(dst);
            let pseudo = ends + u64::from(protocol) + (len as u64 - l4 as u64);
            look_for_partial(packet, pseudo, field);
        }
        true
    }

    /// IPv6, by its first byte.
    #[inline(always)]
    fn take6(&self, packet: &mut Packet, bytes: &[u8]) -> bool {
        const L4: usize = eth::HEADER_LEN + ipv6::HEADER_LEN;
        let Some(headers) = bytes.first_chunk::<HEADERS6>() else {
            return false;
        };
        let (_, l3) = headers.split_at(eth::HEADER_LEN);
        let ip = &mut packet.ip6;
        let Some(header) = l3.first_chunk() else {
            return false;
        };
        if !read6(ip, header, bytes.len() - eth::HEADER_LEN) {
            return false;
        }
        let Ipv6Info {
            src,
            dst,
            payload_len,
            upper: Upper { protocol, .. },
            ..
        } = *ip;
        if self.pod6 != Some(src) && !self.may_come_from6(src) {
            return false;
        }
        let ports = be32(headers, L4);
        let (least, field) = match protocol {
            l4::UDP => (8, be16(headers, L4 + 6)),
            l4::TCP => (20, be16(bytes, L4 + 16)),
            _ => return false,
        };
        if payload_len < least || (protocol == l4::UDP && ports & 0xffff == self.refused_port) {
            return false;
        }
        self.settle(packet, Family::V6, ports);
        if self.looks_for_partial {
            let words = [src >> 64, src, dst >> 64, dst].map(|it| u128::from(it as u64));
            let sum: u128 = words.iter().sum();
            // Eight bytes at a time: what is carried out comes in again (RFC 1071 section 2).
            let folded = (sum as u32 as u64) + u64::from((sum >> 32) as u32) + (sum >> 64) as u64;
            let pseudo = folded + u64::from(protocol) + u64::from(payload_len);
            look_for_partial(packet, pseudo, field);
        }
        true
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
    const fn settle(&self, packet: &mut Packet, family: Family, ports: u32) {
        packet.ports = in_order(ports);
        packet.l3 = eth::HEADER_LEN as u16;
        packet.family = family;
        packet.flags = self.flags;
    }
}

/// Reads the header of an IPv4 packet, of which `len` bytes are there. Whether it is whole, its checksum right, and it is sent to plain
/// unicast; what was read is unspecified if not. That it is IPv4 without options, and where it comes from, is for the caller to know.
#[inline(always)]
pub(in crate::stage) fn read4(
    ip: &mut Ipv4Info,
    header: &[u8; ipv4::MIN_HEADER_LEN],
    len: usize,
) -> bool {
    // As they lie there for the checksum, which is right in either order, and turned for what they say.
    let (first, second, third) = (le64(header, 0), le64(header, 8), le32(header, 16));
    let (sum, carried) = first.overflowing_add(second);
    let (sum, again) = sum.overflowing_add(u64::from(third) + u64::from(carried));
    // What a carry is left of is nearly nothing.
    let is_right = checksum::is_zero(sum + u64::from(again));
    let (first, second) = (first.swap_bytes(), second.swap_bytes());
    let (dst, total_len) = (third.swap_bytes(), (first >> 32) as u16);
    let is_fragment = first & u64::from(ipv4::MORE_FRAGMENTS | ipv4::OFFSET_MASK) != 0;
    *ip = Ipv4Info::of(first, second, dst);
    is_right && !is_fragment && usize::from(total_len) <= len && ipv4::is_unicast(dst)
}

/// Reads the fixed header of an IPv6 packet, of which `len` bytes are there, as if the upper layer followed it. Whether it is whole, and sent to
/// plain unicast; what was read is unspecified if not. That it is IPv6, what follows, and where it comes from, is for the caller to know.
#[inline(always)]
pub(in crate::stage) fn read6(
    ip: &mut Ipv6Info,
    header: &[u8; ipv6::HEADER_LEN],
    len: usize,
) -> bool {
    let number = |at| le64(header, at).swap_bytes();
    let address = |at| u128::from(number(at)) << 64 | u128::from(number(at + 8));
    let (fixed, dst) = (number(0), address(24));
    let payload_len = (fixed >> 16) as u16;
    *ip = Ipv6Info {
        src: address(8),
        dst,
        payload_len,
        hop_limit: fixed as u8,
        traffic_class: (fixed >> 52) as u8,
        flow_label: (fixed >> 32) as u32 & 0x000f_ffff,
        upper: Upper {
            protocol: (fixed >> 8) as u8,
            offset: ipv6::HEADER_LEN as u16,
            fragment: None,
        },
    };
    ipv6::HEADER_LEN + usize::from(payload_len) <= len && ipv6::is_surely_unicast(dst)
}

/// Sets the flag if the checksum `field` is the folded sum of the pseudo-header, which is to say the same by 0xffff.
/// `pseudo` is the sum of its words in host order.
#[inline(always)]
const fn look_for_partial(packet: &mut Packet, pseudo: u64, field: u16) {
    if checksum::is_zero(pseudo + !field as u64) {
        packet.flags |= flag::MAYBE_PARTIAL;
    }
}

/// Source and destination port out of one number, in the order in which they are stored: at once.
#[inline(always)]
pub(in crate::stage) const fn in_order(ports: u32) -> (u16, u16) {
    let turned = ports.rotate_left(16);
    (turned as u16, (turned >> 16) as u16)
}

/// An address as it is read in the low bits of a little-endian number.
pub(in crate::stage) fn number(mac: MacAddr) -> u64 {
    let bytes = mac.0.iter().rev();
    bytes.fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// The little-endian number at `at`; zero where there is none.
#[inline(always)]
pub(in crate::stage) fn le64(bytes: &[u8], at: usize) -> u64 {
    let found = bytes.get(at..).and_then(<[u8]>::first_chunk);
    found.map_or(0, |it| u64::from_le_bytes(*it))
}

/// The little-endian number at `at`; zero where there is none.
#[inline(always)]
fn le32(bytes: &[u8], at: usize) -> u32 {
    let found = bytes.get(at..).and_then(<[u8]>::first_chunk);
    found.map_or(0, |it| u32::from_le_bytes(*it))
}

/// The big-endian number at `at`; zero where there is none.
#[inline(always)]
pub(in crate::stage) fn be32(bytes: &[u8], at: usize) -> u32 {
    let found = bytes.get(at..).and_then(<[u8]>::first_chunk);
    found.map_or(0, |it| u32::from_be_bytes(*it))
}

/// The big-endian number at `at`; zero where there is none.
#[inline(always)]
fn be16(bytes: &[u8], at: usize) -> u16 {
    let found = bytes.get(at..).and_then(<[u8]>::first_chunk);
    found.map_or(0, |it| u16::from_be_bytes(*it))
}
