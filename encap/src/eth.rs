//! Ethernet II frames; 802.1Q and 802.1ad tags are recognised, up to two of them.

use core::fmt;
use core::str::FromStr;

#[cfg(test)]
mod tests;

/// Length of an Ethernet header without tags, in bytes.
pub const HEADER_LEN: usize = 14;
/// Length of one VLAN tag with the type behind it, in bytes.
pub const TAG_LEN: usize = 4;
/// How many stacked tags are walked; a frame with more is refused.
pub const MAX_TAGS: usize = 2;

/// An Ethernet hardware address.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// 00:00:00:00:00:00, which is nobody's address.
    pub const ZERO: Self = Self([0; 6]);
    /// What Calico gives to the host's side of every pod's veth.
    pub const CALICO_HOST: Self = Self([0xee; 6]);

    /// Whether the group bit is set: multicast and broadcast.
    #[inline]
    pub const fn is_multicast(self) -> bool {
        let [first, ..] = self.0;
        first & 1 != 0
    }

    /// Whether this is ff:ff:ff:ff:ff:ff.
    #[inline]
    pub const fn is_broadcast(self) -> bool {
        matches!(self.0, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff])
    }

    /// Whether one station can have this address: neither multicast nor zero.
    #[inline]
    pub const fn is_unicast(self) -> bool {
        !self.is_multicast() && !matches!(self.0, [0, 0, 0, 0, 0, 0])
    }

    /// The group address of an IPv4 multicast group: 01:00:5e and the lower 23 bits (RFC 1112 section 6.4).
    #[must_use]
    pub const fn of_ipv4_group(group: u32) -> Self {
        let [_, b, c, d] = group.to_be_bytes();
        Self([0x01, 0x00, 0x5e, b & 0x7f, c, d])
    }

    /// The group address of an IPv6 multicast group: 33:33 and the last four bytes (RFC 2464 section 7).
    #[must_use]
    pub const fn of_ipv6_group(group: u128) -> Self {
        let [a, b, c, d] = (group as u32).to_be_bytes();
        Self([0x33, 0x33, a, b, c, d])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let colon = if index == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not six hexadecimal bytes between colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidMac;

impl fmt::Display for InvalidMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a MAC address: six hexadecimal bytes between colons are wanted, as in ee:ee:ee:ee:ee:ee")
    }
}

impl core::error::Error for InvalidMac {}

impl FromStr for MacAddr {
    type Err = InvalidMac;

    fn from_str(text: &str) -> Result<Self, InvalidMac> {
        let mut mac = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut mac {
            let part = parts.next().ok_or(InvalidMac)?;
            // from_str_radix would take "+1".
            if !matches!(part.len(), 1 | 2) || !part.bytes().all(|c| c.is_ascii_hexdigit()) {
                return Err(InvalidMac);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| InvalidMac)?;
        }
        if parts.next().is_some() {
            Err(InvalidMac)
        } else {
            Ok(Self(mac))
        }
    }
}

/// The type field of an Ethernet frame, in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4.
    pub const IPV4: Self = Self(0x0800);
    /// ARP.
    pub const ARP: Self = Self(0x0806);
    /// A customer's VLAN tag, IEEE 802.1Q.
    pub const VLAN: Self = Self(0x8100);
    /// IPv6.
    pub const IPV6: Self = Self(0x86dd);
    /// A service provider's VLAN tag, IEEE 802.1ad.
    pub const QINQ: Self = Self(0x88a8);

    /// Whether a VLAN tag follows.
    #[inline]
    pub const fn is_tag(self) -> bool {
        matches!(self, Self::VLAN | Self::QINQ)
    }
}

/// The outermost VLAN tag of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// Priority, drop eligibility and VLAN id, as on the wire, in host order.
    pub tci: u16,
    /// How many tags the frame carries: 1 or 2.
    pub depth: u8,
}

impl Vlan {
    /// The VLAN id, 0 to 4095.
    pub const fn id(self) -> u16 {
        self.tci & 0x0fff
    }
}

/// What the Ethernet header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EthInfo {
    /// Destination address.
    pub dst: MacAddr,
    /// Source address.
    pub src: MacAddr,
    /// Type of the payload, behind all tags.
    pub ethertype: EtherType,
    /// Where the payload starts: 14, 18 or 22.
    pub header_len: u8,
    /// The outermost tag, if any.
    pub vlan: Option<Vlan>,
}

/// Why a frame is refused at the Ethernet layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EthError {
    /// Shorter than the header, or cut inside a tag.
    Truncated,
    /// More stacked tags than [`MAX_TAGS`].
    TooManyTags,
}

impl fmt::Display for EthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "frame cut inside the Ethernet header",
            Self::TooManyTags => "more than two VLAN tags",
        })
    }
}

impl core::error::Error for EthError {}

/// Destination, source and type of a header, whatever they are.
#[inline(always)]
#[must_use]
pub fn fields(header: &[u8; HEADER_LEN]) -> (&[u8; 6], &[u8; 6], EtherType) {
    const NOBODY: &[u8; 6] = &MacAddr::ZERO.0;
    let (dst, rest) = header.split_first_chunk().unwrap_or((NOBODY, &[]));
    let (src, rest) = rest.split_first_chunk().unwrap_or((NOBODY, &[]));
    let ethertype = rest.first_chunk().map_or(0, |it| u16::from_be_bytes(*it));
    (dst, src, EtherType(ethertype))
}

/// Parses the Ethernet header at the start of `frame`.
#[inline]
pub fn parse(frame: &[u8]) -> Result<EthInfo, EthError> {
    let Some(header) = frame.first_chunk::<HEADER_LEN>() else {
        return Err(EthError::Truncated);
    };
    let (Some((dst, rest)), Some(ethertype)) = (header.split_first_chunk(), header.last_chunk())
    else {
        return Err(EthError::Truncated);
    };
    let Some(src) = rest.first_chunk() else {
        return Err(EthError::Truncated);
    };
    let ethertype = EtherType(u16::from_be_bytes(*ethertype));
    let (ethertype, header_len, vlan) = if ethertype.is_tag() {
        parse_tags(frame, ethertype)?
    } else {
        (ethertype, HEADER_LEN as u8, None)
    };
    Ok(EthInfo {
        dst: MacAddr(*dst),
        src: MacAddr(*src),
        ethertype,
        header_len,
        vlan,
    })
}

/// Walks the tags from the first one, of type `ethertype`: the type behind them, where the payload starts, the outermost tag.
#[cold]
fn parse_tags(
    frame: &[u8],
    mut ethertype: EtherType,
) -> Result<(EtherType, u8, Option<Vlan>), EthError> {
    let mut rest = frame.get(HEADER_LEN..).ok_or(EthError::Truncated)?;
    let mut depth = 0;
    let mut outermost = 0;
    while ethertype.is_tag() {
        if usize::from(depth) == MAX_TAGS {
            return Err(EthError::TooManyTags);
        }
        let (&[tci0, tci1, type0, type1], behind) =
            rest.split_first_chunk().ok_or(EthError::Truncated)?;
        if depth == 0 {
            outermost = u16::from_be_bytes([tci0, tci1]);
        }
        depth += 1;
        ethertype = EtherType(u16::from_be_bytes([type0, type1]));
        rest = behind;
    }
    let header_len = HEADER_LEN as u8 + depth * TAG_LEN as u8;
    Ok((
        ethertype,
        header_len,
        Some(Vlan {
            tci: outermost,
            depth,
        }),
    ))
}

/// An Ethernet header without tags.
#[inline]
#[must_use]
pub const fn header(dst: MacAddr, src: MacAddr, ethertype: EtherType) -> [u8; HEADER_LEN] {
    let [d0, d1, d2, d3, d4, d5] = dst.0;
    let [s0, s1, s2, s3, s4, s5] = src.0;
    let [t0, t1] = ethertype.0.to_be_bytes();
    [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1]
}
