//! Outer headers, prebuilt: all that a route knows is written once, and per packet only lengths, identification,
//! checksum, source port, ECN and the family are patched in.

use core::fmt;

use crate::checksum::{Sum, udp_on_wire};
use crate::ecn::{self, Ecn};
use crate::eth::{self, EtherType, MacAddr};
use crate::flow_hash;
use crate::ipv4::{DONT_FRAGMENT, MIN_HEADER_LEN as IPV4_LEN, PROTOCOL_IPIP};
use crate::ipv6::HEADER_LEN as IPV6_LEN;
use crate::l4::{self, UDP_HEADER_LEN};
use crate::vxlan::{self, Vni};

#[cfg(test)]
mod tests;

/// Bytes of [`Rewrite::ethernet`].
pub const ETHERNET_LEN: usize = eth::HEADER_LEN;
/// Bytes of [`Rewrite::ipip`].
pub const IPIP_LEN: usize = ETHERNET_LEN + IPV4_LEN;
/// Bytes of [`Rewrite::vxlan4`].
pub const VXLAN4_LEN: usize =
    ETHERNET_LEN + IPV4_LEN + UDP_HEADER_LEN + vxlan::HEADER_LEN + ETHERNET_LEN;
/// Bytes of [`Rewrite::vxlan6`].
pub const VXLAN6_LEN: usize =
    ETHERNET_LEN + IPV6_LEN + UDP_HEADER_LEN + vxlan::HEADER_LEN + ETHERNET_LEN;
/// Bytes of the longest rewrite: the headroom a frame needs.
pub const MAX_LEN: usize = VXLAN6_LEN;

/// What an outer UDP header and all behind it add to the inner IP packet, in bytes.
const UDP_OVERHEAD: u16 = (UDP_HEADER_LEN + vxlan::HEADER_LEN + ETHERNET_LEN) as u16;

/// The address family of an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The Ethernet type of the family.
    #[inline]
    pub const fn ethertype(self) -> EtherType {
        match self {
            Self::V4 => EtherType::IPV4,
            Self::V6 => EtherType::IPV6,
        }
    }
}

/// Which headers a [`Rewrite`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Ethernet.
    Ethernet,
    /// Ethernet and IPv4, around IPv4.
    Ipip,
    /// Ethernet, IPv4, UDP, VXLAN, Ethernet.
    Vxlan4,
    /// Ethernet, IPv6, UDP, VXLAN, Ethernet.
    Vxlan6,
}

impl Kind {
    /// Bytes of all headers together.
    const fn len(self) -> usize {
        match self {
            Self::Ethernet => ETHERNET_LEN,
            Self::Ipip => IPIP_LEN,
            Self::Vxlan4 => VXLAN4_LEN,
            Self::Vxlan6 => VXLAN6_LEN,
        }
    }
}

/// What the UDP checksum of VXLAN over IPv6 is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum UdpChecksum {
    /// Computed over the whole datagram.
    #[default]
    Computed,
    /// Zero, which a peer takes only if it is configured to (RFC 6935, RFC 6936).
    Zero,
}

/// The Ethernet addresses of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Macs {
    /// Destination.
    pub dst: MacAddr,
    /// Source.
    pub src: MacAddr,
}

/// The ends of a tunnel, addresses in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tunnel<A> {
    /// Our own address.
    pub src: A,
    /// The peer's address.
    pub dst: A,
}

/// What is in a VXLAN packet around the inner IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Overlay {
    /// UDP destination port.
    pub port: u16,
    /// Network identifier.
    pub vni: Vni,
    /// Inner Ethernet addresses: the two tunnel endpoints' own.
    pub macs: Macs,
}

/// What a rewrite needs to know of the packet it is put in front of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    /// Length of the IP packet in bytes, link padding left out.
    pub len: u16,
    /// Its family.
    pub family: Family,
    /// Its ECN field.
    pub ecn: Ecn,
    /// Its "don't fragment" flag; IPIP copies it (RFC 2003 section 3.1).
    pub dont_fragment: bool,
    /// Hash of its flow, from [`flow_hash`]; VXLAN's source port comes from it.
    pub flow_hash: u32,
    /// Identification of an outer IPv4 header. Any, where it says "don't fragment"; else unlike recent ones to the same
    /// peer (RFC 6864 section 4).
    pub id: u16,
}

/// Why outer headers could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// The frame is shorter than the headers, or than headers and inner packet where a checksum covers both.
    NoRoom,
    /// Outer headers and inner packet together exceed 65535 bytes.
    TooLong,
    /// IPIP takes IPv4 only.
    Family,
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoRoom => "no room for the outer headers",
            Self::TooLong => "packet too long for the outer headers",
            Self::Family => "IPv6 packet for an IPIP tunnel",
        })
    }
}

impl core::error::Error for WriteError {}

/// Prebuilt bytes to be put in front of an inner IP packet. Plain data, 90 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Rewrite {
    /// Folded sum of the outer IPv4 header as it is in `bytes`, host order. Without IPv4 outside: unused.
    base_sum: u16,
    kind: Kind,
    udp_checksum: UdpChecksum,
    /// How many of the bytes the kind needs.
    len: u8,
    /// The headers with all patched fields zero; as many bytes as the kind says.
    bytes: [u8; MAX_LEN],
}

impl fmt::Debug for Rewrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rewrite")
            .field("kind", &self.kind)
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

impl Rewrite {
    /// Ethernet only; the type follows the packet's family.
    #[must_use]
    pub fn ethernet(macs: Macs) -> Self {
        Self::assemble(
            Kind::Ethernet,
            &[&eth::header(macs.dst, macs.src, EtherType::IPV4)],
        )
    }

    /// IPv4 in IPv4 (RFC 2003 section 3.1). DSCP 0, "don't fragment" as in the inner packet.
    #[must_use]
    pub fn ipip(macs: Macs, tunnel: Tunnel<u32>, ttl: u8) -> Self {
        Self::assemble(
            Kind::Ipip,
            &[
                &eth::header(macs.dst, macs.src, EtherType::IPV4),
                &ipv4_template(tunnel, PROTOCOL_IPIP, ttl, 0),
            ],
        )
    }

    /// VXLAN over IPv4 (RFC 7348 section 5). TTL 64, DSCP 0, never fragmented, UDP checksum zero.
    #[must_use]
    pub fn vxlan4(macs: Macs, tunnel: Tunnel<u32>, overlay: Overlay) -> Self {
        Self::assemble(
            Kind::Vxlan4,
            &[
                &eth::header(macs.dst, macs.src, EtherType::IPV4),
                &ipv4_template(tunnel, l4::UDP, TTL, DONT_FRAGMENT),
                &udp_template(overlay.port),
                &vxlan::header(overlay.vni),
                &eth::header(overlay.macs.dst, overlay.macs.src, EtherType::IPV4),
            ],
        )
    }

    /// VXLAN over IPv6. Hop limit 64, DSCP 0, flow label 0.
    #[must_use]
    pub fn vxlan6(
        macs: Macs,
        tunnel: Tunnel<u128>,
        overlay: Overlay,
        udp_checksum: UdpChecksum,
    ) -> Self {
        let rewrite = Self::assemble(
            Kind::Vxlan6,
            &[
                &eth::header(macs.dst, macs.src, EtherType::IPV6),
                &[0x60, 0, 0, 0, 0, 0, l4::UDP, TTL],
                &tunnel.src.to_be_bytes(),
                &tunnel.dst.to_be_bytes(),
                &udp_template(overlay.port),
                &vxlan::header(overlay.vni),
                &eth::header(overlay.macs.dst, overlay.macs.src, EtherType::IPV4),
            ],
        );
        Self {
            udp_checksum,
            ..rewrite
        }
    }

    fn assemble(kind: Kind, parts: &[&[u8]]) -> Self {
        let mut bytes = [0; MAX_LEN];
        for (to, from) in bytes.iter_mut().zip(parts.iter().copied().flatten()) {
            *to = *from;
        }
        let base_sum = Sum::of(bytes.get(ETHERNET_LEN..IPIP_LEN).unwrap_or_default()).fold();
        Self {
            bytes,
            base_sum,
            kind,
            udp_checksum: UdpChecksum::Zero,
            len: kind.len() as u8,
        }
    }

    /// Which headers these are.
    #[inline]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// How many bytes are put in front of the inner packet.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// How many of them count against the link's MTU: all but the outer Ethernet header.
    #[inline]
    pub const fn mtu_overhead(&self) -> u16 {
        (self.len() - ETHERNET_LEN) as u16
    }

    /// The bytes as prebuilt, with zeros in what is patched.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len()).unwrap_or_default()
    }

    /// The outer Ethernet addresses.
    #[inline]
    pub const fn macs(&self) -> Macs {
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, ..] = self.bytes;
        Macs {
            dst: MacAddr([d0, d1, d2, d3, d4, d5]),
            src: MacAddr([s0, s1, s2, s3, s4, s5]),
        }
    }

    /// The same headers with other outer Ethernet addresses: what a neighbour's change of address needs.
    #[must_use]
    pub fn with_macs(mut self, macs: Macs) -> Self {
        for (to, from) in self
            .bytes
            .iter_mut()
            .zip(macs.dst.0.iter().chain(&macs.src.0))
        {
            *to = *from;
        }
        self
    }

    /// Whether [`Self::write`] reads the inner packet's bytes, because a checksum covers them.
    #[inline]
    pub const fn reads_inner(&self) -> bool {
        matches!(
            (self.kind, self.udp_checksum),
            (Kind::Vxlan6, UdpChecksum::Computed)
        )
    }

    /// Writes the headers to the first [`Self::len`] bytes of `frame`, patched for the inner packet.
    ///
    /// `frame` may be that room alone, or room and inner packet; the latter where [`Self::reads_inner`] says so. The inner
    /// packet must be final: complete its checksums and take its TTL down before.
    ///
    /// # Errors
    ///
    /// See [`WriteError`]; after one the room's content is unspecified.
    #[inline(always)]
    pub fn write(&self, frame: &mut [u8], inner: &Inner) -> Result<(), WriteError> {
        match self.kind {
            Kind::Ethernet => self.write_ethernet(frame, inner.family),
            Kind::Vxlan4 => self.vxlan4_to(first(frame)?, inner),
            Kind::Ipip => self.ipip_to(first(frame)?, inner),
            Kind::Vxlan6 => self.write_vxlan6(frame, inner),
        }
    }

    /// [`Self::write`] for [`Kind::Ethernet`], which needs to know nothing but the family.
    ///
    /// # Errors
    ///
    /// When `frame` is shorter than the header.
    #[inline(always)]
    pub fn write_ethernet(&self, frame: &mut [u8], family: Family) -> Result<(), WriteError> {
        self.ethernet_to(first(frame)?, family)
    }

    /// Writes the headers to the last bytes of `front`, behind which the inner packet begins, patched as [`Self::write`] does it.
    ///
    /// For outer headers of IPv4, whose lengths are known when this is compiled, and which cover nothing of the inner packet.
    ///
    /// # Errors
    ///
    /// See [`WriteError`]; [`Kind::Vxlan6`] is told to have no room. After one the content of `front` is unspecified.
    #[inline(always)]
    pub fn prepend4(&self, front: &mut [u8], inner: &Inner) -> Result<(), WriteError> {
        match self.kind {
            Kind::Ethernet => self.prepend_ethernet(front, inner.family),
            Kind::Vxlan4 => self.vxlan4_to(last(front)?, inner),
            Kind::Ipip => self.ipip_to(last(front)?, inner),
            Kind::Vxlan6 => Err(WriteError::NoRoom),
        }
    }

    /// [`Self::prepend4`] for [`Kind::Ethernet`], which needs to know nothing but the family.
    ///
    /// # Errors
    ///
    /// When `front` is shorter than the header.
    #[inline(always)]
    pub fn prepend_ethernet(&self, front: &mut [u8], family: Family) -> Result<(), WriteError> {
        self.ethernet_to(last(front)?, family)
    }

    #[inline(always)]
    fn ethernet_to(&self, room: &mut [u8; ETHERNET_LEN], family: Family) -> Result<(), WriteError> {
        self.copy_to(room)?;
        let [.., type0, type1] = room;
        [*type0, *type1] = family.ethertype().0.to_be_bytes();
        Ok(())
    }

    #[inline(always)]
    fn ipip_to(&self, room: &mut [u8; IPIP_LEN], inner: &Inner) -> Result<(), WriteError> {
        if inner.family != Family::V4 {
            return Err(WriteError::Family);
        }
        self.copy_to(room)?;
        let flags = if inner.dont_fragment {
            DONT_FRAGMENT
        } else {
            0
        };
        self.patch_ipv4(last(room)?, inner, IPV4_LEN as u16, flags)
    }

    #[inline(always)]
    fn vxlan4_to(&self, room: &mut [u8; VXLAN4_LEN], inner: &Inner) -> Result<(), WriteError> {
        self.copy_to(room)?;
        let (_, rest) = room.split_at_mut(ETHERNET_LEN);
        let Some((ip, rest)) = rest.split_first_chunk_mut::<IPV4_LEN>() else {
            return Err(WriteError::NoRoom);
        };
        self.patch_ipv4(ip, inner, IPV4_LEN as u16 + UDP_OVERHEAD, 0)?;
        patch_udp(rest, inner)
    }

    #[inline]
    fn write_vxlan6(&self, frame: &mut [u8], inner: &Inner) -> Result<(), WriteError> {
        let room = first::<VXLAN6_LEN>(frame)?;
        self.copy_to(room)?;
        let (_, rest) = room.split_at_mut(ETHERNET_LEN);
        let Some((ip, rest)) = rest.split_first_chunk_mut::<IPV6_LEN>() else {
            return Err(WriteError::NoRoom);
        };
        let len = inner
            .len
            .checked_add(UDP_OVERHEAD)
            .ok_or(WriteError::TooLong)?;
        let [_, class_flow, _, _, len0, len1, ..] = ip;
        *class_flow |= (ecn::encapsulate(inner.ecn) as u8) << 4;
        [*len0, *len1] = len.to_be_bytes();
        patch_udp(rest, inner)?;
        match self.udp_checksum {
            UdpChecksum::Zero => Ok(()),
            UdpChecksum::Computed => compute_udp6_checksum(frame, len),
        }
    }

    /// Copies the prebuilt bytes: a length known when compiled, so a few wide moves.
    #[inline(always)]
    fn copy_to<const N: usize>(&self, room: &mut [u8; N]) -> Result<(), WriteError> {
        *room = *self.bytes.first_chunk().ok_or(WriteError::NoRoom)?;
        Ok(())
    }

    /// Fills length, identification, ECN and checksum; `flags` are those that the prebuilt header does not have.
    #[inline(always)]
    fn patch_ipv4(
        &self,
        ip: &mut [u8; IPV4_LEN],
        inner: &Inner,
        overhead: u16,
        flags: u16,
    ) -> Result<(), WriteError> {
        let len = inner.len.checked_add(overhead).ok_or(WriteError::TooLong)?;
        let ecn = ecn::encapsulate(inner.ecn) as u8;
        let sum = u32::from(self.base_sum)
            + u32::from(len)
            + u32::from(inner.id)
            + u32::from(flags)
            + u32::from(ecn);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        let [
            _,
            tos,
            len0,
            len1,
            id0,
            id1,
            flags0,
            _,
            _,
            _,
            check0,
            check1,
            ..,
        ] = ip;
        *tos = ecn;
        [*len0, *len1] = len.to_be_bytes();
        [*id0, *id1] = inner.id.to_be_bytes();
        *flags0 |= (flags >> 8) as u8;
        [*check0, *check1] = (!(sum as u16)).to_be_bytes();
        Ok(())
    }
}

/// The first bytes of a frame.
#[inline(always)]
fn first<const N: usize>(frame: &mut [u8]) -> Result<&mut [u8; N], WriteError> {
    frame.first_chunk_mut().ok_or(WriteError::NoRoom)
}

/// The last bytes in front of a packet.
#[inline(always)]
fn last<const N: usize>(front: &mut [u8]) -> Result<&mut [u8; N], WriteError> {
    front.last_chunk_mut().ok_or(WriteError::NoRoom)
}

/// The TTL and hop limit of VXLAN's outer headers.
const TTL: u8 = 64;

fn ipv4_template(tunnel: Tunnel<u32>, protocol: u8, ttl: u8, flags: u16) -> [u8; IPV4_LEN] {
    let [s0, s1, s2, s3] = tunnel.src.to_be_bytes();
    let [d0, d1, d2, d3] = tunnel.dst.to_be_bytes();
    let [flags0, flags1] = flags.to_be_bytes();
    [
        0x45, 0, 0, 0, 0, 0, flags0, flags1, ttl, protocol, 0, 0, s0, s1, s2, s3, d0, d1, d2, d3,
    ]
}

fn udp_template(port: u16) -> [u8; UDP_HEADER_LEN] {
    let [port0, port1] = port.to_be_bytes();
    [0, 0, port0, port1, 0, 0, 0, 0]
}

/// Fills source port, length and the inner Ethernet type of the UDP header, VXLAN header and inner Ethernet header.
#[inline(always)]
fn patch_udp(headers: &mut [u8], inner: &Inner) -> Result<(), WriteError> {
    let Some(headers) = headers.first_chunk_mut::<{ UDP_OVERHEAD as usize }>() else {
        return Err(WriteError::NoRoom);
    };
    let len = inner
        .len
        .checked_add(UDP_OVERHEAD)
        .ok_or(WriteError::TooLong)?;
    let [port0, port1, _, _, len0, len1, .., type0, type1] = headers;
    [*port0, *port1] = flow_hash::source_port(inner.flow_hash).to_be_bytes();
    [*len0, *len1] = len.to_be_bytes();
    [*type0, *type1] = inner.family.ethertype().0.to_be_bytes();
    Ok(())
}

/// Fills the UDP checksum, over a frame whose headers are otherwise complete (RFC 8200 section 8.1).
fn compute_udp6_checksum(frame: &mut [u8], udp_len: u16) -> Result<(), WriteError> {
    const UDP_AT: usize = ETHERNET_LEN + IPV6_LEN;
    const ADDRESSES_AT: usize = ETHERNET_LEN + 8;
    let (Some(addresses), Some(datagram)) = (
        frame.get(ADDRESSES_AT..UDP_AT),
        frame.get(UDP_AT..UDP_AT + usize::from(udp_len)),
    ) else {
        return Err(WriteError::NoRoom);
    };
    let sum = Sum::of(addresses)
        .add_u16(u16::from(l4::UDP))
        .add_u16(udp_len)
        .add_bytes(datagram);
    crate::bytes::put_u16(frame, UDP_AT + 6, udp_on_wire(sum.checksum()));
    Ok(())
}
