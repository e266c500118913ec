//! VXLAN (RFC 7348).

use core::fmt;

#[cfg(test)]
mod tests;

/// Length of the VXLAN header, in bytes.
pub const HEADER_LEN: usize = 8;
/// The UDP port that IANA assigned; Calico's default too.
pub const DEFAULT_PORT: u16 = 4789;
/// What VXLAN over IPv4 takes from the inner packet's MTU: IPv4, UDP, VXLAN and the inner Ethernet header, in bytes.
pub const OVERHEAD_V4: u16 = 50;
/// What VXLAN over IPv6 takes from the inner packet's MTU, in bytes.
pub const OVERHEAD_V6: u16 = 70;

const FLAG_VNI: u8 = 0x08;

/// A VXLAN network identifier: 24 bits (RFC 7348 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Vni(u32);

impl Vni {
    /// Calico's default network.
    pub const CALICO: Self = Self(4096);

    /// None if `vni` has more than 24 bits.
    pub const fn new(vni: u32) -> Option<Self> {
        if vni < 1 << 24 { Some(Self(vni)) } else { None }
    }

    /// The number.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Why a VXLAN packet is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum VxlanError {
    /// Fewer bytes than the VXLAN header.
    Truncated,
    /// The I flag is not set, so there is no network identifier.
    NoVni,
}

impl fmt::Display for VxlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "packet cut inside the VXLAN header",
            Self::NoVni => "VXLAN header without the I flag",
        })
    }
}

impl core::error::Error for VxlanError {}

/// Reads the VXLAN header at the start of a UDP payload; the inner Ethernet frame follows at [`HEADER_LEN`].
///
/// Only the I flag counts: all reserved bits, the group policy bit among them, are "ignored on receipt" (section 5).
#[inline]
pub fn parse(udp_payload: &[u8]) -> Result<Vni, VxlanError> {
    let Some(&[flags, _, _, _, v0, v1, v2, _]) = udp_payload.first_chunk::<HEADER_LEN>() else {
        return Err(VxlanError::Truncated);
    };
    if flags & FLAG_VNI == 0 {
        return Err(VxlanError::NoVni);
    }
    Ok(Vni(u32::from_be_bytes([0, v0, v1, v2])))
}

/// A VXLAN header; reserved bits are zero.
#[inline]
#[must_use]
pub const fn header(vni: Vni) -> [u8; HEADER_LEN] {
    let [_, v0, v1, v2] = vni.0.to_be_bytes();
    [FLAG_VNI, 0, 0, 0, v0, v1, v2, 0]
}
