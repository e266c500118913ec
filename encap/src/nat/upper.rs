//! Ports, identifiers and checksums of upper layers.

use super::Untranslatable;
use crate::bytes;
use crate::checksum::{Difference, crc32c, udp_on_wire};
use crate::l4;

/// Bytes of TCP up to the end of its checksum. Alone among those with ports it has it behind byte 8, where quotes may end.
const TCP_UP_TO_CHECKSUM: usize = 18;

/// How much of an upper layer's packet the bytes hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// All of it.
    Whole,
    /// Its start. What must be changed and is not there makes the packet untranslatable.
    FirstFragment,
    /// Not its start.
    LaterFragment,
    /// As much as an ICMP error quotes. A checksum that is not there is nobody's concern.
    Quote,
}

impl Extent {
    pub(super) const fn of(is_fragment: bool, is_later_fragment: bool) -> Self {
        if is_later_fragment {
            Self::LaterFragment
        } else if is_fragment {
            Self::FirstFragment
        } else {
            Self::Whole
        }
    }
}

/// Gives `segment` the ports or the identifier and updates its checksum, also by the `addresses` of its pseudo-header.
/// After an error nothing has changed.
pub(super) fn rewrite(
    segment: &mut [u8],
    protocol: u8,
    addresses: Difference,
    ports: (u16, u16),
    extent: Extent,
) -> Result<(), Untranslatable> {
    if extent == Extent::LaterFragment {
        return Ok(());
    }
    match protocol {
        l4::TCP if extent == Extent::Quote && segment.len() < TCP_UP_TO_CHECKSUM => {
            put_ports(segment, ports)
        }
        l4::TCP => tcp(segment, addresses, ports),
        l4::UDP | l4::UDPLITE => udp(segment, addresses, ports),
        l4::DCCP => with_ports::<6, false>(segment, addresses, ports),
        l4::SCTP => sctp(segment, ports, extent),
        // No pseudo-header.
        l4::ICMP => icmp(segment, protocol, Difference::NONE, ports),
        l4::ICMPV6 => icmp(segment, protocol, addresses, ports),
        _ => Ok(()),
    }
}

#[inline(always)]
pub(super) fn tcp(
    segment: &mut [u8],
    addresses: Difference,
    ports: (u16, u16),
) -> Result<(), Untranslatable> {
    with_ports::<16, false>(segment, addresses, ports)
}

/// UDP and UDP-Lite. A zero of the latter is not "none" but wrong (RFC 3828 section 3.1), and stays so.
#[inline(always)]
pub(super) fn udp(
    segment: &mut [u8],
    addresses: Difference,
    ports: (u16, u16),
) -> Result<(), Untranslatable> {
    with_ports::<6, true>(segment, addresses, ports)
}

/// Ports in bytes 0 to 3, a checksum over them and the addresses at `CHECKSUM_AT`, which may be `MAYBE_NONE`: zero.
#[inline(always)]
fn with_ports<const CHECKSUM_AT: usize, const MAYBE_NONE: bool>(
    segment: &mut [u8],
    addresses: Difference,
    ports: (u16, u16),
) -> Result<(), Untranslatable> {
    let checksum = bytes::u16_at(segment, CHECKSUM_AT).ok_or(Untranslatable)?;
    let old = bytes::u32_at(segment, 0).ok_or(Untranslatable)?;
    if !(MAYBE_NONE && checksum == 0) {
        let checksum = addresses.u32(old, joined(ports)).apply(checksum);
        let checksum = if MAYBE_NONE {
            udp_on_wire(checksum)
        } else {
            checksum
        };
        bytes::put_u16(segment, CHECKSUM_AT, checksum);
    }
    put_ports(segment, ports)
}

/// Ports in host order as they are on the wire, taken as one number.
#[inline(always)]
const fn joined(ports: (u16, u16)) -> u32 {
    (ports.0 as u32) << 16 | ports.1 as u32
}

#[inline(always)]
fn put_ports(segment: &mut [u8], ports: (u16, u16)) -> Result<(), Untranslatable> {
    if bytes::put_u32(segment, 0, joined(ports)) {
        Ok(())
    } else {
        Err(Untranslatable)
    }
}

fn icmp(
    message: &mut [u8],
    protocol: u8,
    addresses: Difference,
    ports: (u16, u16),
) -> Result<(), Untranslatable> {
    let &[kind, _, c0, c1, id0, id1, ..] = message.first_chunk::<8>().ok_or(Untranslatable)?;
    let mut difference = addresses;
    if l4::has_identifier(protocol, kind) {
        let old = u16::from_be_bytes([id0, id1]);
        let new = if ports.0 == old { ports.1 } else { ports.0 };
        difference = difference.u16(old, new);
        bytes::put_u16(message, 4, new);
    }
    let checksum = difference.apply(u16::from_be_bytes([c0, c1]));
    bytes::put_u16(message, 2, checksum);
    Ok(())
}

/// SCTP's checksum knows no pseudo-header, and covers the whole packet (RFC 9260 section 6.8).
fn sctp(packet: &mut [u8], ports: (u16, u16), extent: Extent) -> Result<(), Untranslatable> {
    if bytes::u32_at(packet, 0).ok_or(Untranslatable)? == joined(ports) {
        return Ok(());
    }
    match extent {
        Extent::Quote => return put_ports(packet, ports),
        Extent::FirstFragment | Extent::LaterFragment => return Err(Untranslatable),
        Extent::Whole => {}
    }
    let (header, chunks) = packet.split_first_chunk_mut::<12>().ok_or(Untranslatable)?;
    let checksum = |header: &[u8]| {
        let start = header.get(..8).unwrap_or_default();
        crc32c(&[start, &[0; 4], chunks]).to_le_bytes()
    };
    let was_right = header.ends_with(&checksum(header));
    put_ports(header, ports)?;
    if was_right {
        let new = checksum(header);
        let [.., c0, c1, c2, c3] = header;
        [*c0, *c1, *c2, *c3] = new;
    }
    Ok(())
}
