//! A packet generator over AF_XDP: UDP in IPv4, any length, many flows.

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
/// Where the UDP source port is.
const SOURCE_PORT: usize = 14 + 20;
/// The first flow's source port.
pub const FIRST_PORT: u16 = 1024;

/// What the packets say.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// Ethernet address of the next hop.
    pub to: [u8; 6],
    /// Ethernet address of the sender.
    pub from: [u8; 6],
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// How many flows, told apart by their UDP source ports; at most 64,512.
    pub flows: u16,
}

/// Sends the same packet over and over, the flows in turn, from one queue of one device.
#[derive(Debug)]
pub struct Generator {
    port: QueuePort,
    part: ArenaPart,
    flow: Flow,
    len: u16,
    next: u16,
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
            len,
            next: 0,
        };
        generator.set_len(len);
        Ok(generator)
    }

    /// Makes the frames `len` bytes long from now on.
    pub fn set_len(&mut self, len: u16) {
        self.len = len.max(HEADERS as u16);
        let template = frame(&self.flow, usize::from(self.len));
        self.drain();
        let mut chunks = Vec::new();
        while let Some(chunk) = self.part.alloc() {
            self.part
                .frame(FrameSpan {
                    chunk,
                    start: 0,
                    len: self.len,
                })
                .copy_from_slice(&template);
            chunks.push(chunk);
        }
        for chunk in chunks {
            self.part.release(chunk);
        }
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
                len: self.len,
            };
            let port = FIRST_PORT + self.next;
            if let Some(at) = self.part.frame(frame).get_mut(SOURCE_PORT..SOURCE_PORT + 2) {
                at.copy_from_slice(&port.to_be_bytes());
            }
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

/// A UDP packet of `len` bytes from the Ethernet header on, with no UDP checksum, so that the ports can
/// change.
fn frame(flow: &Flow, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    bytes.extend(flow.to);
    bytes.extend(flow.from);
    bytes.extend([0x08, 0x00]);
    let ip_len = (len - 14) as u16;
    let mut ip = [0_u8; 20];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&ip_len.to_be_bytes());
    ip[6] = 0x40;
    ip[8] = 64;
    ip[9] = 17;
    ip[12..16].copy_from_slice(&flow.source.octets());
    ip[16..20].copy_from_slice(&flow.destination.octets());
    let sum = ip
        .chunks_exact(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum::<u32>();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ip[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    bytes.extend(ip);
    bytes.extend(FIRST_PORT.to_be_bytes());
    bytes.extend(9_u16.to_be_bytes());
    bytes.extend((ip_len - 20).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.resize(len, 0x5a);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_valid_ipv4_udp_of_the_length_asked_for() {
        let flow = Flow {
            to: [2, 0, 0, 0, 0, 1],
            from: [2, 0, 0, 0, 0, 2],
            source: Ipv4Addr::new(10, 1, 0, 2),
            destination: Ipv4Addr::new(10, 2, 0, 2),
            flows: 1,
        };
        for len in [HEADERS, 64, 1400] {
            let bytes = frame(&flow, len);
            assert_eq!(bytes.len(), len);
            let words = bytes[14..34]
                .chunks_exact(2)
                .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
            assert_eq!(
                words.sum::<u32>() % 0xffff,
                0,
                "the header's sum is all ones"
            );
            assert_eq!(
                usize::from(u16::from_be_bytes([bytes[38], bytes[39]])),
                len - 34
            );
        }
    }
}
