//! Explicit congestion notification through tunnels (RFC 6040).

use crate::checksum::update16;
use crate::{bytes, ipv4, ipv6};

#[cfg(test)]
mod tests;

/// The ECN field: the two low bits of the IPv4 TOS byte and the IPv6 traffic class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ecn {
    /// The transport does not know ECN.
    NotEct = 0,
    /// ECN-capable transport (1).
    Ect1 = 1,
    /// ECN-capable transport (0).
    Ect0 = 2,
    /// Congestion experienced.
    Ce = 3,
}

impl Ecn {
    /// The field of a TOS byte or traffic class.
    #[inline]
    #[must_use]
    pub const fn of(tos: u8) -> Self {
        match tos & 3 {
            0 => Self::NotEct,
            1 => Self::Ect1,
            2 => Self::Ect0,
            _ => Self::Ce,
        }
    }
}

/// The inner packet knows no ECN and a router marked the outer one: it has to be dropped (RFC 6040 section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CongestionDrop;

impl core::fmt::Display for CongestionDrop {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("tunnel packet marked congested, inner packet without ECN")
    }
}

impl core::error::Error for CongestionDrop {}

/// The outer field for an inner one, normal mode: a copy, CE too (RFC 6040 section 4.1).
#[inline]
#[must_use]
pub const fn encapsulate(inner: Ecn) -> Ecn {
    inner
}

/// The inner field to forward, from both fields received (RFC 6040 section 4.2, figure 4).
#[inline]
pub const fn decapsulate(inner: Ecn, outer: Ecn) -> Result<Ecn, CongestionDrop> {
    match (inner, outer) {
        (Ecn::NotEct, Ecn::Ce) => Err(CongestionDrop),
        (Ecn::Ect0, Ecn::Ect1) => Ok(Ecn::Ect1),
        (Ecn::Ect0 | Ecn::Ect1, Ecn::Ce) => Ok(Ecn::Ce),
        (inner, _) => Ok(inner),
    }
}

/// Applies [`decapsulate`] to an inner IPv4 header, its checksum kept right.
///
/// `l3` starts at the inner header; bytes too short for one are left alone.
#[inline]
pub fn decapsulate_ipv4(l3: &mut [u8], outer: Ecn) -> Result<(), CongestionDrop> {
    // Not-ECT outside changes nothing, and is what nearly all packets have.
    if outer == Ecn::NotEct {
        return Ok(());
    }
    let Some(word) = bytes::u16_at(l3, 0) else {
        return Ok(());
    };
    let old = Ecn::of(word as u8);
    let new = decapsulate(old, outer)?;
    if new != old {
        set_ipv4(l3, new);
    }
    Ok(())
}

/// Applies [`decapsulate`] to an inner IPv6 header. `l3` starts at the inner header; bytes too short for one are left alone.
#[inline]
pub fn decapsulate_ipv6(l3: &mut [u8], outer: Ecn) -> Result<(), CongestionDrop> {
    if outer == Ecn::NotEct {
        return Ok(());
    }
    let Some(word) = bytes::u16_at(l3, 0) else {
        return Ok(());
    };
    let old = Ecn::of((word >> 4) as u8);
    let new = decapsulate(old, outer)?;
    if new != old {
        set_ipv6(l3, new);
    }
    Ok(())
}

/// Sets the ECN field of an IPv4 header and updates its checksum. Does nothing to bytes too short for a header.
pub fn set_ipv4(l3: &mut [u8], ecn: Ecn) {
    let Some(header) = l3.first_chunk_mut::<{ ipv4::MIN_HEADER_LEN }>() else {
        return;
    };
    let [version_ihl, tos, _, _, _, _, _, _, _, _, check0, check1, ..] = header;
    let old = u16::from_be_bytes([*version_ihl, *tos]);
    *tos = (*tos & !3) | ecn as u8;
    let new = u16::from_be_bytes([*version_ihl, *tos]);
    [*check0, *check1] = update16(u16::from_be_bytes([*check0, *check1]), old, new).to_be_bytes();
}

/// Sets the ECN field of an IPv6 header. Does nothing to bytes too short for a header.
pub fn set_ipv6(l3: &mut [u8], ecn: Ecn) {
    let Some([_, class_flow, ..]) = l3.first_chunk_mut::<{ ipv6::HEADER_LEN }>() else {
        return;
    };
    *class_flow = (*class_flow & !0x30) | ((ecn as u8) << 4);
}
