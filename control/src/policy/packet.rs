//! What policy sees of a packet.

use std::fmt;
use std::net::IpAddr;

use super::rule::{Family, Protocol};

/// Facts about a packet. Addresses are those on its way from the sender to the receiver, after translation of the
/// destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the family of `src`.
    pub dst: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// Source and destination port, where the protocol has them.
    pub ports: Option<(u16, u16)>,
    /// Type and code of ICMP and of ICMPv6.
    pub icmp: Option<(u8, u8)>,
    /// Destination address and port before translation, where they differ.
    pub original_dst: Option<(IpAddr, u16)>,
    /// What connection tracking says.
    pub state: State,
}

/// What connection tracking says about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum State {
    /// The first packet of a connection.
    #[default]
    New,
    /// One of a connection that was allowed, or about one.
    Established,
    /// One that fits no connection.
    Invalid,
}

impl Packet {
    /// The family of its addresses.
    pub fn family(&self) -> Family {
        Family::of(self.src)
    }

    /// The packet as it was before its destination was translated.
    #[must_use]
    pub fn before_dnat(&self) -> Self {
        let Some((dst, port)) = self.original_dst else {
            return *self;
        };
        Self {
            dst,
            ports: self.ports.map(|(src, _)| (src, port)),
            original_dst: None,
            ..*self
        }
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}",
            self.protocol,
            Address(self.src, self.ports.map(|(src, _)| src))
        )?;
        write!(
            f,
            " -> {}",
            Address(self.dst, self.ports.map(|(_, dst)| dst))
        )?;
        if let Some((kind, code)) = self.icmp {
            write!(f, " type {kind} code {code}")?;
        }
        if let Some((address, port)) = self.original_dst {
            write!(
                f,
                " (sent to {})",
                Address(address, self.ports.map(|_| port))
            )?;
        }
        Ok(())
    }
}

/// An address and a port, as `10.0.0.1:80` or `[fd00::1]:80`.
struct Address(IpAddr, Option<u16>);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, self.1) {
            (address, None) => write!(f, "{address}"),
            (IpAddr::V4(address), Some(port)) => write!(f, "{address}:{port}"),
            (IpAddr::V6(address), Some(port)) => write!(f, "[{address}]:{port}"),
        }
    }
}
