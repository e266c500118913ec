//! Link types, and Ethernet headers for captures that have none.

use encap::eth::{self, EtherType};
use encap::outer::Macs;

/// A link type whose packets can be forwarded (<https://www.tcpdump.org/linktypes.html>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Ethernet (1).
    Ethernet,
    /// IPv4 or IPv6, as the first nibble says (101; 12 and 14 on some systems).
    RawIp,
    /// IPv4 (228).
    Ipv4,
    /// IPv6 (229).
    Ipv6,
    /// An address family in four bytes, then IP (0 in the byte order of the machine that captured, 108 in
    /// network order).
    Loopback,
}

impl Link {
    /// The link type with this number, if it is one that can be forwarded.
    pub const fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Ethernet,
            12 | 14 | 101 => Self::RawIp,
            228 => Self::Ipv4,
            229 => Self::Ipv6,
            0 | 108 => Self::Loopback,
            _ => return None,
        })
    }

    /// A packet of this link type as Ethernet: the header that is put in front (none for Ethernet itself) and the
    /// bytes behind it. A packet that is no IP keeps a header that says so, and is dropped for its own reason.
    pub fn to_ethernet<'a>(
        self,
        packet: &'a [u8],
        macs: &Macs,
    ) -> (Option<[u8; eth::HEADER_LEN]>, &'a [u8]) {
        let (ethertype, payload) = match self {
            Self::Ethernet => return (None, packet),
            Self::Ipv4 => (EtherType::IPV4, packet),
            Self::Ipv6 => (EtherType::IPV6, packet),
            Self::RawIp => (by_version(packet), packet),
            Self::Loopback => {
                let payload = packet.get(4..).unwrap_or_default();
                (by_version(payload), payload)
            }
        };
        let header = eth::header(macs.dst, macs.src, ethertype);
        (Some(header), payload)
    }
}

fn by_version(packet: &[u8]) -> EtherType {
    match packet.first().map(|byte| byte >> 4) {
        Some(6) => EtherType::IPV6,
        _ => EtherType::IPV4,
    }
}
