//! What must hold of every packet that leaves, whatever came in: lengths, checksums, TTL, addresses.

use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice};
use fastpath::port::{Port, PortKind};
use fastpath::tables::Tables;

use crate::build::{self, ICMP, ICMPV6, TCP, UDP};
use crate::world::VXLAN_PORT;

/// How a transport checksum stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// It is right.
    Right,
    /// UDP's zero: there is none.
    Absent,
    /// It is the pseudo-header's sum: hardware was to complete it.
    Partial,
    /// It is wrong.
    Wrong,
    /// It can not be told: a fragment, another protocol, no whole header.
    Unknown,
}

/// An IP packet, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// 4 or 6.
    pub version: u8,
    /// Source, as on the wire.
    pub src: Vec<u8>,
    /// Destination, as on the wire.
    pub dst: Vec<u8>,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Protocol, or next header of the fixed IPv6 header.
    pub protocol: u8,
    /// Whether it is an IPv4 fragment.
    pub fragment: bool,
    /// Length of the headers, IPv4 options included and IPv6 extensions not.
    pub header_len: usize,
    /// The packet without link padding.
    pub bytes: Vec<u8>,
}

impl View {
    /// Takes an IP packet apart; `None` when it is none. Checks nothing that forwarding need not have checked.
    pub fn of(l3: &[u8]) -> Option<Self> {
        match l3.first()? >> 4 {
            4 => {
                let header = Ipv4HeaderSlice::from_slice(l3).ok()?;
                let len = usize::from(header.total_len());
                Some(Self {
                    version: 4,
                    src: header.source().to_vec(),
                    dst: header.destination().to_vec(),
                    ttl: header.ttl(),
                    protocol: header.protocol().0,
                    fragment: header.is_fragmenting_payload(),
                    header_len: header.slice().len(),
                    bytes: l3
                        .get(..len)
                        .filter(|_| len >= header.slice().len())?
                        .to_vec(),
                })
            }
            6 => {
                let header = Ipv6HeaderSlice::from_slice(l3).ok()?;
                let len = 40 + usize::from(header.payload_length());
                Some(Self {
                    version: 6,
                    src: header.source().to_vec(),
                    dst: header.destination().to_vec(),
                    ttl: header.hop_limit(),
                    protocol: header.next_header().0,
                    fragment: false,
                    header_len: 40,
                    bytes: l3.get(..len)?.to_vec(),
                })
            }
            _ => None,
        }
    }

    /// What follows the header.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.header_len..]
    }

    fn pseudo(&self) -> Vec<u8> {
        let len = self.payload().len() as u32;
        let mut pseudo = [&self.src[..], &self.dst].concat();
        pseudo.extend(len.to_be_bytes());
        pseudo.extend([0, 0, 0, self.protocol]);
        pseudo
    }

    /// How the transport checksum stands.
    pub fn check(&self) -> Check {
        let payload = self.payload();
        let (at, shortest) = match (self.protocol, self.version) {
            (TCP, _) => (16, 20),
            (UDP, _) => (6, 8),
            (ICMP, 4) | (ICMPV6, 6) => (2, 8),
            _ => return Check::Unknown,
        };
        if self.fragment || payload.len() < shortest {
            return Check::Unknown;
        }
        let field = [payload[at], payload[at + 1]];
        let pseudo = if (self.protocol, self.version) == (ICMP, 4) {
            Vec::new()
        } else {
            self.pseudo()
        };
        if self.protocol == UDP && field == [0, 0] {
            Check::Absent
        } else if build::sum(&[&pseudo[..], payload].concat()) == 0xffff {
            Check::Right
        } else if self.protocol != ICMP && field == build::sum(&pseudo).to_be_bytes() {
            Check::Partial
        } else {
            Check::Wrong
        }
    }
}

/// What is inside a tunnel packet; `None` when it is no tunnel packet.
pub fn open(outer: &View) -> Option<Vec<u8>> {
    match outer.protocol {
        build::IPIP if outer.version == 4 => Some(outer.payload().to_vec()),
        UDP if outer.payload().get(2..4)? == VXLAN_PORT.to_be_bytes() => {
            Some(outer.payload().get(8 + 8 + 14..)?.to_vec())
        }
        _ => None,
    }
}

/// Checks one frame that left by a port, on its own.
///
/// # Errors
/// What is wrong with it.
pub fn frame(port: &Port, frame: &[u8]) -> Result<(), String> {
    let [_, _, _, _, _, _, src @ .., a, b] = frame.get(..14).ok_or("shorter than Ethernet")? else {
        return Err("shorter than Ethernet".to_owned());
    };
    if src != port.mac.0 {
        return Err(format!("not from the port's MAC address: {src:02x?}"));
    }
    let l3 = &frame[14..];
    match [*a, *b] {
        [8, 6] if l3.len() == 28 => return Ok(()),
        [8, 0] | [0x86, 0xdd] => {}
        other => return Err(format!("type {other:02x?}, {} bytes", l3.len())),
    }
    let view = View::of(l3).ok_or("no whole IP packet")?;
    if view.version != if [*a, *b] == [8, 0] { 4 } else { 6 } {
        return Err("the Ethernet type and the IP version differ".to_owned());
    }
    if view.bytes.len() != l3.len() {
        return Err(format!("{} bytes of padding", l3.len() - view.bytes.len()));
    }
    if l3.len() > usize::from(port.mtu) {
        return Err(format!("{} bytes, the MTU is {}", l3.len(), port.mtu));
    }
    if view.ttl == 0 && !matches!(port.kind, PortKind::Host) {
        return Err("TTL 0".to_owned());
    }
    header(&view)
}

/// An IPv4 header's checksum must be right.
fn header(view: &View) -> Result<(), String> {
    if view.version == 4 && build::sum(&view.bytes[..view.header_len]) != 0xffff {
        return Err("the IPv4 header checksum is wrong".to_owned());
    }
    Ok(())
}

/// Checks a packet that was forwarded against what came in: both without tunnels. `spent` is what forwarding takes from
/// the TTL here, and `completes` whether partial checksums are completed here.
///
/// # Errors
/// What is wrong with it.
pub fn forwarded(before: &View, after: &View, spent: u8, completes: bool) -> Result<(), String> {
    header(after)?;
    if after.ttl != before.ttl - spent {
        return Err(format!("TTL {} became {}", before.ttl, after.ttl));
    }
    if (&after.src, &after.dst) != (&before.src, &before.dst) {
        return Err("the addresses changed".to_owned());
    }
    let expected = match before.check() {
        Check::Partial if completes => Check::Right,
        same => same,
    };
    let found = after.check();
    if found != expected {
        return Err(format!(
            "the checksum was {:?} and is {found:?}",
            before.check()
        ));
    }
    // But for TTL, header checksum, a completed checksum and ECN it is the same packet.
    if expected == before.check() && after.payload() != before.payload() {
        return Err("the payload changed".to_owned());
    }
    Ok(())
}

/// Checks an ICMP error that answers a packet.
///
/// # Errors
/// What is wrong with it.
pub fn icmp_error(before: &View, error: &View) -> Result<(), String> {
    let (kind, longest) = if error.version == 4 {
        (ICMP, 576)
    } else {
        (ICMPV6, 1280)
    };
    if error.protocol != kind || error.bytes.len() > longest {
        return Err(format!(
            "protocol {}, {} bytes",
            error.protocol,
            error.bytes.len()
        ));
    }
    if error.check() != Check::Right {
        return Err(format!("its checksum is {:?}", error.check()));
    }
    if error.dst != before.src {
        return Err("it goes to somebody else".to_owned());
    }
    let quote = &error.payload()[8..];
    if !before.bytes.starts_with(quote) || quote.is_empty() {
        return Err("it quotes something else".to_owned());
    }
    Ok(())
}

/// Whether partial checksums are completed when they come in by this port.
pub fn completes(tables: &Tables, port: fastpath::port::PortId) -> bool {
    tables.port(port).is_some_and(|port| port.partial_checksums)
}
