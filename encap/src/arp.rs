//! ARP for IPv4 over Ethernet (RFC 826).

use core::fmt;

use crate::bytes::Writer;
use crate::eth::{self, EtherType, MacAddr};

#[cfg(test)]
mod tests;

/// Length of an ARP packet for IPv4 over Ethernet, in bytes.
pub const PACKET_LEN: usize = 28;
/// Length of a frame with an ARP packet, in bytes, without padding.
pub const FRAME_LEN: usize = eth::HEADER_LEN + PACKET_LEN;

/// Hardware type Ethernet, protocol type IPv4, address lengths 6 and 4.
const FIXED: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];

/// What an ARP packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// "Who has the target address?"
    Request,
    /// "The sender has."
    Reply,
}

/// A checked ARP packet. IPv4 addresses in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Request or reply.
    pub operation: Operation,
    /// Hardware address of the sender.
    pub sender_mac: MacAddr,
    /// Protocol address of the sender; zero in a probe.
    pub sender_ip: u32,
    /// Hardware address of the target; says nothing in a request.
    pub target_mac: MacAddr,
    /// Protocol address of the target.
    pub target_ip: u32,
}

impl Arp {
    /// Whether this asks if an address is in use before taking it (RFC 5227 section 2.1.1).
    pub const fn is_probe(&self) -> bool {
        matches!(self.operation, Operation::Request) && self.sender_ip == 0
    }

    /// Whether the sender tells all others its own address (RFC 5227 section 3).
    pub const fn is_gratuitous(&self) -> bool {
        self.sender_ip == self.target_ip
    }
}

/// Why an ARP packet is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ArpError {
    /// Fewer bytes than an ARP packet for IPv4 over Ethernet.
    Truncated,
    /// Not IPv4 over Ethernet.
    Type,
    /// Neither request nor reply.
    Operation,
    /// The sender's hardware address is not one station's.
    SenderMac,
}

impl fmt::Display for ArpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "packet cut inside ARP",
            Self::Type => "ARP for other than IPv4 over Ethernet",
            Self::Operation => "ARP that is neither request nor reply",
            Self::SenderMac => "ARP from a hardware address that no station has",
        })
    }
}

impl core::error::Error for ArpError {}

/// Reads an ARP packet, which starts at the Ethernet payload; padding behind it is ignored.
///
/// Whether the sender may say what it says is the caller's to judge: compare with the Ethernet source and the port's binding.
pub fn parse(payload: &[u8]) -> Result<Arp, ArpError> {
    let (fixed, rest) = payload
        .split_first_chunk::<6>()
        .ok_or(ArpError::Truncated)?;
    let &[
        op0,
        op1,
        sm0,
        sm1,
        sm2,
        sm3,
        sm4,
        sm5,
        s0,
        s1,
        s2,
        s3,
        tm0,
        tm1,
        tm2,
        tm3,
        tm4,
        tm5,
        t0,
        t1,
        t2,
        t3,
    ] = rest.first_chunk::<22>().ok_or(ArpError::Truncated)?;
    if *fixed != FIXED {
        return Err(ArpError::Type);
    }
    let operation = match [op0, op1] {
        [0, 1] => Operation::Request,
        [0, 2] => Operation::Reply,
        _ => return Err(ArpError::Operation),
    };
    let sender_mac = MacAddr([sm0, sm1, sm2, sm3, sm4, sm5]);
    if !sender_mac.is_unicast() {
        return Err(ArpError::SenderMac);
    }
    Ok(Arp {
        operation,
        sender_mac,
        sender_ip: u32::from_be_bytes([s0, s1, s2, s3]),
        target_mac: MacAddr([tm0, tm1, tm2, tm3, tm4, tm5]),
        target_ip: u32::from_be_bytes([t0, t1, t2, t3]),
    })
}

/// The frame that answers `request`: `mac` has the address asked for. Sent to the asker alone.
#[must_use]
pub fn build_reply(request: &Arp, mac: MacAddr) -> [u8; FRAME_LEN] {
    frame(
        request.sender_mac,
        &Arp {
            operation: Operation::Reply,
            sender_mac: mac,
            sender_ip: request.target_ip,
            target_mac: request.sender_mac,
            target_ip: request.sender_ip,
        },
    )
}

/// The frame that asks for `target_ip`, to all stations, or to one that is believed to have it.
#[must_use]
pub fn build_request(
    sender_mac: MacAddr,
    sender_ip: u32,
    target_ip: u32,
    to: Option<MacAddr>,
) -> [u8; FRAME_LEN] {
    frame(
        to.unwrap_or(MacAddr::BROADCAST),
        &Arp {
            operation: Operation::Request,
            sender_mac,
            sender_ip,
            target_mac: MacAddr::ZERO,
            target_ip,
        },
    )
}

fn frame(dst: MacAddr, arp: &Arp) -> [u8; FRAME_LEN] {
    let mut frame = [0; FRAME_LEN];
    let mut writer = Writer::new(&mut frame);
    let operation = match arp.operation {
        Operation::Request => [0, 1],
        Operation::Reply => [0, 2],
    };
    for piece in [
        &eth::header(dst, arp.sender_mac, EtherType::ARP)[..],
        &FIXED,
        &operation,
        &arp.sender_mac.0,
        &arp.sender_ip.to_be_bytes(),
        &arp.target_mac.0,
        &arp.target_ip.to_be_bytes(),
    ] {
        // The pieces' lengths add up to the frame's.
        let _ = writer.put(piece);
    }
    frame
}
