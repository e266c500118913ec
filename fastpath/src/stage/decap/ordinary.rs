//! The quick way out of a tunnel, for the packets that nearly all packets of tunnels are.
//!
//! TCP and UDP without options, extension headers or fragments, in IPv4 without options, without a UDP checksum, with nothing that congestion did outside.
//! It takes such a packet with few comparisons, and refuses none, as [parsing's quick way](crate::stage::parse::ordinary) does it: a property test
//! compares the two ways.

use encap::ipv4::{self, Ipv4Info};
use encap::ipv6::{self, Ipv6Info};
use encap::{eth, l4, vxlan};

use super::VXLAN_HEADERS;
use crate::batch::{Family, Packet, flag};
use crate::stage::parse::ordinary::{be32, in_order, le64, number, read4, read6};
use crate::tables::Tunnels;

/// Where the outer IPv4 header of an ordinary packet is, and what is behind it.
const OUTER: usize = eth::HEADER_LEN;
const PAYLOAD: usize = OUTER + ipv4::MIN_HEADER_LEN;
/// What is looked at of the inner packet: IPv4 without options, ports.
const INNER: usize = ipv4::MIN_HEADER_LEN + 4;
/// The same of IPv6.
const INNER6: usize = ipv6::HEADER_LEN + 4;
/// What is in front of what is in VXLAN, from the outer IPv4 header on.
const VXLAN_SKIP: usize = ipv4::MIN_HEADER_LEN + VXLAN_HEADERS;

/// Types of what is in VXLAN, as they are read: turned.
const IPV4: u16 = eth::EtherType::IPV4.0.swap_bytes();
const IPV6: u16 = eth::EtherType::IPV6.0.swap_bytes();

/// What ordinary packets of our tunnels have in common. Worked out once a batch.
#[derive(Debug)]
pub(super) struct Ordinary {
    /// The outer destination. Beyond all addresses if there is none.
    local: u64,
    vxlan_port: u16,
    /// The VXLAN header, as far as it is looked at. More than that if nothing comes by VXLAN.
    vxlan: u64,
    /// The MAC address of our VTEP, in the low bits.
    mac: u64,
    takes_ipip: bool,
}

impl Ordinary {
    /// The I flag and the network identifier.
    const VXLAN_MASK: u64 = u64::from_le_bytes([0x08, 0, 0, 0, 0xff, 0xff, 0xff, 0]);
    const MAC_MASK: u64 = (1 << 48) - 1;

    pub(super) fn at(tunnels: &Tunnels) -> Self {
        Self {
            local: tunnels.local4.map_or(u64::MAX, |it| u32::from(it).into()),
            vxlan_port: tunnels.vxlan_port,
            vxlan: tunnels.vxlan4.map_or(u64::MAX, |end| {
                u64::from_le_bytes(vxlan::header(end.vni)) & Self::VXLAN_MASK
            }),
            mac: tunnels.vxlan4.map_or(0, |end| number(end.mac)),
            takes_ipip: tunnels.ipip,
        }
    }

    /// Whether a packet is addressed to our end of the tunnels over IPv4.
    #[inline(always)]
    pub(super) fn is_for_us(&self, packet: &Packet) -> bool {
        packet.family == Family::V4 && u64::from(packet.ip4.dst) == self.local
    }

    /// Makes the packet, which is for us, the inner one if it is ordinary. If not, it stays as it is.
    #[inline(always)]
    pub(super) fn open(&self, packet: &mut Packet, bytes: &[u8], tunnels: &Tunnels) -> bool {
        let outer = &packet.ip4;
        // Inner ECN stays as it is under Not-ECT and ECT(0) (RFC 6040 section 4.2).
        let is_plain = outer.tos & 1 == 0 && !outer.has_options() && !outer.is_fragment();
        if usize::from(packet.l3) != OUTER || !is_plain {
            return false;
        }
        let len = usize::from(outer.total_len);
        let skip = if outer.protocol == l4::UDP {
            if packet.ports.1 != self.vxlan_port {
                return false;
            }
            match self.vxlan(bytes, len) {
                Some(IPV4) => VXLAN_SKIP,
                Some(IPV6) => return self.open6(packet, bytes, len, tunnels),
                _ => return false,
            }
        } else {
            if outer.protocol != ipv4::PROTOCOL_IPIP || !self.takes_ipip {
                return false;
            }
            ipv4::MIN_HEADER_LEN
        };
        let inner = bytes.get(OUTER + skip..).and_then(<[u8]>::first_chunk);
        let (Some(inner), Some(len)) = (inner, len.checked_sub(skip)) else {
            return false;
        };
        let headers: &[u8; INNER] = inner;
        let [ipv4::NO_OPTIONS, ..] = headers else {
            return false;
        };
        let (mut ip, header) = (Ipv4Info::default(), headers.first_chunk());
        let is_ip = header.is_some_and(|it| read4(&mut ip, it, len));
        if !is_ip || !ipv4::is_unicast(ip.src) {
            return false;
        }
        let ports = in_order(be32(headers, ipv4::MIN_HEADER_LEN));
        let least = match ip.protocol {
            // A tunnel in the tunnel is the careful way's.
            l4::UDP if ports.1 != self.vxlan_port => 8,
            l4::TCP => 20,
            _ => return false,
        };
        if usize::from(ip.total_len) < ipv4::MIN_HEADER_LEN + least {
            return false;
        }
        let Some(peer) = tunnels.peer4(outer.src) else {
            return false;
        };
        packet.ip4 = ip;
        packet.ports = ports;
        packet.l3 += skip as u16;
        packet.peer = peer;
        packet.flags |= flag::ORDINARY;
        true
    }

    /// The same for IPv6 in VXLAN, in an IPv4 packet of `len` bytes: what is in front of it was looked at.
    #[inline(never)]
    fn open6(&self, packet: &mut Packet, bytes: &[u8], len: usize, tunnels: &Tunnels) -> bool {
        let inner = bytes
            .get(OUTER + VXLAN_SKIP..)
            .and_then(<[u8]>::first_chunk);
        let (Some(inner), Some(len)) = (inner, len.checked_sub(VXLAN_SKIP)) else {
            return false;
        };
        let headers: &[u8; INNER6] = inner;
        let [0x60..=0x6f, ..] = headers else {
            return false;
        };
        let (mut ip, header) = (Ipv6Info::default(), headers.first_chunk());
        let is_ip = header.is_some_and(|it| read6(&mut ip, it, len));
        if !is_ip || !ipv6::is_surely_unicast(ip.src) {
            return false;
        }
        let ports = in_order(be32(headers, ipv6::HEADER_LEN));
        let least = match ip.upper.protocol {
            // A tunnel in the tunnel is the careful way's.
            l4::UDP if ports.1 != self.vxlan_port => 8,
            l4::TCP => 20,
            _ => return false,
        };
        if ip.payload_len < least {
            return false;
        }
        let Some(peer) = tunnels.peer4(packet.ip4.src) else {
            return false;
        };
        packet.ip6 = ip;
        packet.family = Family::V6;
        packet.ports = ports;
        packet.l3 += VXLAN_SKIP as u16;
        packet.peer = peer;
        packet.flags |= flag::ORDINARY;
        true
    }

    /// The type of what is in our VXLAN, as it lies there, if a frame has its headers in an IPv4 packet of `len` bytes. Its ports were looked at.
    #[inline(always)]
    fn vxlan(&self, bytes: &[u8], len: usize) -> Option<u16> {
        let payload = bytes.get(PAYLOAD..).and_then(<[u8]>::first_chunk);
        let headers: &[u8; VXLAN_HEADERS] = payload?;
        // The length of all of it, and no checksum. An IPv4 packet has at least its header.
        let udp = be32(headers, 4);
        let is_whole = udp == (len as u32).wrapping_sub(ipv4::MIN_HEADER_LEN as u32) << 16;
        let vxlan = le64(headers, 8) & Self::VXLAN_MASK;
        let mac = le64(headers, 16) & Self::MAC_MASK;
        let ethertype = (le64(headers, 22) >> 48) as u16;
        (is_whole && vxlan == self.vxlan && mac == self.mac).then_some(ethertype)
    }
}
