//! What of a packet is classified.

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What lies behind the IP header, as far as rules ask for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum L4 {
    /// Neither ports nor an ICMP type: another protocol, or a fragment that was not put together.
    #[default]
    Other,
    /// Ports of TCP, UDP, SCTP or UDP-Lite.
    Ports {
        /// The source port.
        source: u16,
        /// The destination port.
        destination: u16,
    },
    /// ICMP in IPv4, ICMPv6 in IPv6.
    Icmp {
        /// The type.
        kind: u8,
        /// The code.
        code: u8,
    },
}

/// A packet as rules see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tuple<A> {
    /// The source address.
    pub source: A,
    /// The destination address.
    pub destination: A,
    /// The protocol of the IP header, or of the last extension header.
    pub protocol: u8,
    /// Ports or ICMP type.
    pub l4: L4,
}

impl<A> Tuple<A> {
    /// Source and destination port, if it has ports.
    #[must_use]
    pub const fn ports(&self) -> Option<(u16, u16)> {
        match self.l4 {
            L4::Ports {
                source,
                destination,
            } => Some((source, destination)),
            L4::Other | L4::Icmp { .. } => None,
        }
    }
}
