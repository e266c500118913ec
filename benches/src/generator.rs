//! A packet generator over AF_XDP: UDP in IPv4 of any length, or SYNs of TCP; many flows.

use std::net::Ipv4Addr;

use fastpath::io::xsk::test_support::Netns;
use fastpath::io::xsk::{
    ArenaPart, FrameSpan, QueuePort, RingLen, SendError, SocketOptions, UmemArea, XskSocket,
};

use crate::rounds::Result;

/// Slots of the generator's rings.
const RING: u32 = 1024;
/// Bytes of Ethernet, IPv4 and UDP headers.
const HEADERS: usize = 14 + 20 + 8;
/// Bytes of IPv4 and TCP headers.
const SYN: u16 = 20 + 20;
/// Where the IPv4 header's checksum and its destination are.
const IP_SUM: usize = 14 + 10;
const DESTINATION: usize = 14 + 16;
/// Where the source port and, of TCP, the checksum are.
const SOURCE_PORT: usize = 14 + 20;
const TCP_SUM: usize = 14 + 20 + 16;
/// The first flow's source port.
pub const FIRST_PORT: u16 = 1024;
/// The most flows to one destination, each from another port.
pub const PORTS: u32 = (1 << 16) - FIRST_PORT as u32;

/// What the packets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UDP without a checksum.
    Udp,
    /// TCP that opens a connection.
    Syn,
}

/// What the packets say.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// Ethernet address of the next hop.
    pub to: [u8; 6],
    /// Ethernet address of the sender.
    pub from: [u8; 6],
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address; of flows beyond the first `ports` the next ones.
    pub destination: Ipv4Addr,
    /// How many flows, told apart by their source ports and destinations.
    pub flows: u32,
    /// How many of them go to one destination, at least 1 and at most [`PORTS`].
    pub ports: u32,
    /// What they consist of.
    pub kind: Kind,
}

/// Sends the same packet over and over, the flows in turn, from one queue of one device.
#[derive(Debug)]
pub struct Generator {
    port: QueuePort,
    part: ArenaPart,
    flow: Flow,
    template: Template,
    next: u32,
}

impl Generator {
    /// A generator on queue 0 of `interface` in `netns`; its frames are `len` bytes without the
    /// Ethernet checksum, at least 60 on the wire and here.
    ///
    /// # Errors
    /// What the socket says.
    pub fn new(netns: &Netns, interface: &str, flow: Flow, len: u16) -> Result<Self> {
        let (area, mut parts) = UmemArea::new(&[RING], 2048, false)?;
        let mut part = parts.pop().ok_or("an arena without a part")?;
        let options = SocketOptions::send_only(RingLen::new(RING)?);
        let socket = netns.within(|| XskSocket::open(&area, interface, 0, &options))?;
        let port = QueuePort::new(socket, &mut part)?;
        let mut generator = Self {
            port,
            part,
            flow,
            template: Template::new(&flow, len),
            next: 0,
        };
        generator.set_len(len);
        Ok(generator)
    }

    /// Makes the frames `len` bytes long from now on.
    pub fn set_len(&mut self, len: u16) {
        self.template = Template::new(&self.flow, len);
        self.drain();
        let mut chunks = Vec::new();
        while let Some(chunk) = self.part.alloc() {
            self.part
                .frame(FrameSpan {
                    chunk,
                    start: 0,
                    len: self.template.len(),
                })
                .copy_from_slice(&self.template.bytes);
            chunks.push(chunk);
        }
        for chunk in chunks {
            self.part.release(chunk);
        }
    }

    /// Goes on with so many flows, from where it is.
    pub fn set_flows(&mut self, flows: u32) {
        self.flow.flows = flows;
    }

    /// Sends up to `count` frames; returns how many the kernel took.
    ///
    /// # Errors
    /// The device is gone or down.
    pub fn send(&mut self, count: u32) -> Result<u32> {
        self.port.reap(&mut self.part);
        let mut sent = 0;
        while sent < count {
            let Some(chunk) = self.part.alloc() else {
                break;
            };
            let frame = FrameSpan {
                chunk,
                start: 0,
                len: self.template.len(),
            };
            self.template.number(self.part.frame(frame), self.next);
            match self.port.send(&mut self.part, frame) {
                Ok(()) => {}
                Err(SendError::Full) => {
                    self.part.release(chunk);
                    break;
                }
                Err(error) => return Err(error.into()),
            }
            self.next = (self.next + 1) % self.flow.flows.max(1);
            sent += 1;
        }
        self.port.flush()?;
        Ok(sent)
    }

    /// Waits a little for what is under way.
    fn drain(&mut self) {
        for _ in 0..1000 {
            if self.port.outstanding() == 0 {
                break;
            }
            // A device that is down shows at the next `send`.
            let _ = self.port.flush();
            self.port.reap(&mut self.part);
        }
    }
}

/// A frame, and the sums of what is the same in all flows.
#[derive(Debug)]
struct Template {
    bytes: Vec<u8>,
    kind: Kind,
    /// The first destination.
    destination: u32,
    /// Flows to one destination.
    ports: u32,
    /// Of the IPv4 header without its destination.
    ip_sum: u32,
    /// Of the TCP header and its pseudo header without destination and source port.
    tcp_sum: u32,
}

impl Template {
    /// A frame of `len` bytes from the Ethernet header on; what a SYN does not need is padding.
    fn new(flow: &Flow, len: u16) -> Self {
        let (protocol, ip_len, upper): (u8, u16, &[u8]) = match flow.kind {
            Kind::Udp => {
                let ip_len = len.max(HEADERS as u16) - 14;
                let [high, low] = (ip_len - 20).to_be_bytes();
                (17, ip_len, &[0, 0, 0, 9, high, low, 0, 0])
            }
            // To port 9, sequence number 1, five words, SYN, a window.
            Kind::Syn => (
                6,
                SYN,
                &[
                    0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0x20, 0, 0, 0, 0, 0,
                ],
            ),
        };
        let mut ip = [0_u8; 20];
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&ip_len.to_be_bytes());
        ip[6] = 0x40;
        ip[8] = 64;
        ip[9] = protocol;
        ip[12..16].copy_from_slice(&flow.source.octets());
        let bytes = [&flow.to, &flow.from, &[0x08, 0x00][..], &ip, upper].concat();
        let tcp_sum =
            sum(&flow.source.octets()) + u32::from(protocol) + u32::from(SYN - 20) + sum(upper);
        let mut template = Self {
            bytes,
            kind: flow.kind,
            destination: flow.destination.to_bits(),
            ports: flow.ports.clamp(1, PORTS),
            ip_sum: sum(&ip),
            tcp_sum,
        };
        template.bytes.resize(usize::from(ip_len) + 14, 0x5a);
        template
            .bytes
            .resize(usize::from(len).max(template.bytes.len()), 0);
        template
    }

    fn len(&self) -> u16 {
        self.bytes.len() as u16
    }

    /// Makes a frame of flow `number` of one that has the template's bytes but for the number of another flow.
    fn number(&self, frame: &mut [u8], number: u32) {
        let port = FIRST_PORT + (number % self.ports) as u16;
        let destination = self
            .destination
            .wrapping_add(number / self.ports)
            .to_be_bytes();
        let of_destination = sum(&destination);
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(place) = frame.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        };
        put(IP_SUM, &checksum(self.ip_sum + of_destination));
        put(DESTINATION, &destination);
        put(SOURCE_PORT, &port.to_be_bytes());
        if self.kind == Kind::Syn {
            let sum = self.tcp_sum + of_destination + u32::from(port);
            put(TCP_SUM, &checksum(sum));
        }
    }
}

/// The sum of an even number of bytes, in words of 16 bits.
fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks_exact(2);
    words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum()
}

/// The Internet checksum of a sum of less than 2^16 words (RFC 1071).
const fn checksum(sum: u32) -> [u8; 2] {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (!(sum as u16)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOW: Flow = Flow {
        to: [2, 0, 0, 0, 0, 1],
        from: [2, 0, 0, 0, 0, 2],
        source: Ipv4Addr::new(10, 1, 0, 2),
        destination: Ipv4Addr::new(10, 2, 0, 254),
        flows: 1,
        ports: PORTS,
        kind: Kind::Udp,
    };

    fn frame(flow: &Flow, len: u16, number: u32) -> Vec<u8> {
        let template = Template::new(flow, len);
        let mut frame = template.bytes.clone();
        // As in use: what is there already is another flow's.
        template.number(&mut frame, 77);
        template.number(&mut frame, number);
        frame
    }

    #[test]
    fn frames_are_valid_ipv4_udp_of_the_length_asked_for() {
        for len in [HEADERS as u16, 64, 1400] {
            let bytes = frame(&FLOW, len, 0);
            assert_eq!(bytes.len(), usize::from(len));
            assert_eq!(
                sum(&bytes[14..34]) % 0xffff,
                0,
                "the header's sum is all ones"
            );
            assert_eq!(bytes[38..40], (len - 34).to_be_bytes());
        }
    }

    #[test]
    fn flows_differ_by_port_then_by_destination() {
        for kind in [Kind::Udp, Kind::Syn] {
            let flow = Flow { kind, ..FLOW };
            for (number, port, host) in [
                (0, 1024, [0, 254]),
                (PORTS - 1, 65535, [0, 254]),
                (PORTS, 1024, [0, 255]),
                (2 * PORTS + 1, 1025, [1, 0]),
            ] {
                let bytes = frame(&flow, 64, number);
                assert_eq!(bytes[SOURCE_PORT..SOURCE_PORT + 2], u16::to_be_bytes(port));
                assert_eq!(bytes[DESTINATION + 2..DESTINATION + 4], host);
                assert_eq!(sum(&bytes[14..34]) % 0xffff, 0, "{kind:?} {number}");
            }
        }
    }

    #[test]
    fn a_destination_has_no_more_flows_than_it_may() {
        let flow = Flow { ports: 3, ..FLOW };
        for (number, port, host) in [(2, 1026, 254), (3, 1024, 255), (5, 1026, 255)] {
            let bytes = frame(&flow, 64, number);
            assert_eq!(bytes[SOURCE_PORT..SOURCE_PORT + 2], u16::to_be_bytes(port));
            assert_eq!(bytes[DESTINATION + 3], host);
        }
    }

    #[test]
    fn a_syn_has_the_checksum_that_its_receiver_expects() {
        let flow = Flow {
            kind: Kind::Syn,
            ..FLOW
        };
        let bytes = frame(&flow, 64, 3 * PORTS + 9);
        assert_eq!(bytes.len(), 64);
        let pseudo = sum(&bytes[26..34]) + 6 + 20;
        assert_eq!((pseudo + sum(&bytes[34..54])) % 0xffff, 0);
        assert_eq!((bytes[46], bytes[47]), (0x50, 0x02));
    }
}
