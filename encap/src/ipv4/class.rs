//! What kind of address an IPv4 address is, decided by its first byte (RFC 1812 section 5.3.7, RFC 6890).

/// The kind of an IPv4 address, as far as forwarding cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum AddrClass {
    /// An address of one host. 169.254/16 too: the pods' gateway lies there.
    Unicast,
    /// 0/8, "this network".
    ThisNetwork,
    /// 127/8.
    Loopback,
    /// 224/4.
    Multicast,
    /// 240/4 without the limited broadcast.
    Reserved,
    /// 255.255.255.255.
    Broadcast,
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

static BY_FIRST_BYTE: [AddrClass; 256] = by_first_byte();

#[cfg_attr(
    not(test),
    expect(
        clippy::indexing_slicing,
        reason = "runs at compile time, where a bad index is a build error"
    )
)]
const fn by_first_byte() -> [AddrClass; 256] {
    let mut table = [AddrClass::Unicast; 256];
    table[0] = AddrClass::ThisNetwork;
    table[127] = AddrClass::Loopback;
    let mut byte = 224;
    while byte < 256 {
        table[byte] = if byte < 240 {
            AddrClass::Multicast
        } else {
            AddrClass::Reserved
        };
        byte += 1;
    }
    table
}

/// The kind of `addr` (host order).
#[inline]
#[cfg_attr(
    not(test),
    expect(
        clippy::indexing_slicing,
        reason = "a byte is always within 256 entries"
    )
)]
pub fn class(addr: u32) -> AddrClass {
    if addr == u32::MAX {
        return AddrClass::Broadcast;
    }
    let [first, ..] = addr.to_be_bytes();
    BY_FIRST_BYTE[usize::from(first)]
}

/// Whether the kind of `addr` is [`AddrClass::Unicast`], without a table.
#[inline]
#[must_use]
pub const fn is_unicast(addr: u32) -> bool {
    let first = addr >> 24;
    first != 0 && first != 127 && first < 224
}
