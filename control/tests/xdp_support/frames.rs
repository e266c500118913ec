//! Frames of every class, byte by byte, so that the judge shares nothing with the code it judges.

use std::net::{Ipv4Addr, Ipv6Addr};

pub const VXLAN_PORT: u16 = 4789;
pub const POD4: Ipv4Addr = Ipv4Addr::new(10, 65, 1, 7);
pub const LOCAL4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const PEER4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub const OTHER4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);
pub const POD6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x65, 1, 0, 0, 0, 0, 7);
pub const LOCAL6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub const PEER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
pub const OTHER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 9);

pub const ICMP: u8 = 1;
pub const IPIP: u8 = 4;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP6: u8 = 58;
pub const FRAGMENT6: u8 = 44;
pub const HOP_BY_HOP: u8 = 0;

/// An Ethernet frame to a unicast address.
pub fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    frame
}

pub fn vlan(frame: &[u8]) -> Vec<u8> {
    let mut tagged = frame[..12].to_vec();
    tagged.extend([0x81, 0x00, 0x00, 0x64]);
    tagged.extend(&frame[12..]);
    tagged
}

pub fn to_broadcast(frame: &[u8]) -> Vec<u8> {
    let mut group = frame.to_vec();
    group[..6].fill(0xff);
    group
}

/// What varies in an IPv4 header.
pub struct V4 {
    pub from: Ipv4Addr,
    pub to: Ipv4Addr,
    pub protocol: u8,
    pub options: usize,
    /// Flags and offset.
    pub fragment: u16,
}

impl V4 {
    pub fn new(from: Ipv4Addr, to: Ipv4Addr, protocol: u8) -> Self {
        Self {
            from,
            to,
            protocol,
            options: 0,
            fragment: 0,
        }
    }

    pub fn frame(&self, payload: &[u8]) -> Vec<u8> {
        let words = 5 + self.options / 4;
        let mut ip = vec![0x40 | words as u8, 0];
        ip.extend(((words * 4 + payload.len()) as u16).to_be_bytes());
        ip.extend([0, 1]);
        ip.extend(self.fragment.to_be_bytes());
        ip.extend([64, self.protocol, 0, 0]);
        ip.extend(self.from.octets());
        ip.extend(self.to.octets());
        ip.extend(vec![1; self.options]); // no-operation options
        ip.extend(payload);
        ethernet(0x0800, &ip)
    }
}

pub fn ipv6(from: Ipv6Addr, to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x60, 0, 0, 0];
    ip.extend((payload.len() as u16).to_be_bytes());
    ip.extend([next, 64]);
    ip.extend(from.octets());
    ip.extend(to.octets());
    ip.extend(payload);
    ethernet(0x86dd, &ip)
}

/// Ports, length and checksum of UDP, then a VXLAN header and an inner frame of nothing.
pub fn udp(to_port: u16) -> Vec<u8> {
    let mut datagram = vec![0xc0, 0x01];
    datagram.extend(to_port.to_be_bytes());
    datagram.extend([0, 30, 0, 0]);
    datagram.extend([0x08, 0, 0, 0, 0, 0x10, 0, 0]);
    datagram.extend([0; 14]);
    datagram
}

pub fn tcp(from_port: u16, to_port: u16) -> Vec<u8> {
    let mut segment = from_port.to_be_bytes().to_vec();
    segment.extend(to_port.to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    segment
}

/// An extension header of eight bytes before `payload`.
pub fn extension(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![next, 0, 1, 4, 0, 0, 0, 0];
    bytes.extend(payload);
    bytes
}

pub fn arp(target: Ipv4Addr) -> Vec<u8> {
    let mut body = vec![0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2];
    body.extend(PEER4.octets());
    body.extend([0; 6]);
    body.extend(target.octets());
    ethernet(0x0806, &body)
}
