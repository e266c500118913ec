//! What kind of address an IPv6 address is (RFC 4291).

/// The kind of an IPv6 address, as far as forwarding cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum AddrClass {
    /// An address of one host beyond its link, unique local addresses too.
    Unicast,
    /// `::`.
    Unspecified,
    /// `::1`.
    Loopback,
    /// fe80::/10, never forwarded (RFC 4291 section 2.5.6).
    LinkLocal,
    /// ff00::/8.
    Multicast,
    /// `::ffff:0:0/96`, an IPv4 address in IPv6 form: not for the wire.
    V4Mapped,
}

impl AddrClass {
    /// Whether a packet to be forwarded may come from such an address: else it is a martian.
    #[inline]
    pub const fn is_valid_source(self) -> bool {
        matches!(self, Self::Unicast)
    }

    /// Whether a packet may be forwarded to such an address by its unicast route.
    #[inline]
    pub const fn is_valid_destination(self) -> bool {
        matches!(self, Self::Unicast)
    }
}

/// The kind of `addr` (host order).
#[inline]
pub const fn class(addr: u128) -> AddrClass {
    let first = (addr >> 112) as u16;
    if first == 0 {
        return match addr {
            0 => AddrClass::Unspecified,
            1 => AddrClass::Loopback,
            _ if addr >> 32 == 0xffff => AddrClass::V4Mapped,
            _ => AddrClass::Unicast,
        };
    }
    if first >= 0xff00 {
        AddrClass::Multicast
    } else if first & 0xffc0 == 0xfe80 {
        AddrClass::LinkLocal
    } else {
        AddrClass::Unicast
    }
}

/// Whether `addr` is of the kind [`AddrClass::Unicast`] for sure; false decides nothing for the few such addresses in ::/16 and
/// between fec0:: and feff::, which nobody is to have (RFC 3879). One comparison.
#[inline(always)]
#[must_use]
pub const fn is_surely_unicast(addr: u128) -> bool {
    /// The first 16 bits are neither 0 nor from fe80 on.
    const FIRST: u64 = 1 << 48;
    const BEHIND: u64 = 0xfe80 << 48;
    ((addr >> 64) as u64).wrapping_sub(FIRST) < BEHIND - FIRST
}
