//! Frames as they are, on interfaces inside namespaces.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use control::netlink::NetNs;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::lab::run;
use crate::process::PATIENCE;

/// A packet socket on one interface: it sees all frames, both ways.
pub(crate) struct Tap(OwnedFd);

impl Tap {
    /// On `interface` of a namespace.
    pub(crate) fn on(netns: &NetNs, interface: &str) -> Self {
        run(netns, || {
            let tap = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            )
            .expect("AF_PACKET");
            let link = getifaddrs()
                .expect("interfaces")
                .filter(|entry| entry.interface_name == interface)
                .find_map(|entry| entry.address?.as_link_addr().copied())
                .expect("an interface");
            bind(tap.as_raw_fd(), &link).expect("bind");
            setsockopt(&tap, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50)).expect("timeout");
            // What came between the two calls may be of any interface.
            while recv(tap.as_raw_fd(), &mut [0; 64], MsgFlags::MSG_DONTWAIT).is_ok() {}
            Self(tap)
        })
    }

    /// Sends a frame out of the interface.
    pub(crate) fn send(&self, frame: &[u8]) {
        let mut padded = frame.to_vec();
        padded.resize(frame.len().max(60), 0);
        send(self.0.as_raw_fd(), &padded, MsgFlags::empty()).expect("send");
    }

    /// The next frame within 50 ms.
    pub(crate) fn next(&self) -> Option<Vec<u8>> {
        let mut buffer = [0; 2048];
        let len = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()).ok()?;
        Some(buffer[..len].to_vec())
    }

    /// Waits for a frame that is looked for.
    pub(crate) fn wait_for(&self, what: &str, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(frame) = self.next().filter(|frame| wanted(frame)) {
                return frame;
            }
        }
        panic!("no {what} came");
    }

    /// All frames of the next `time`.
    pub(crate) fn all(&self, time: Duration) -> Vec<Vec<u8>> {
        let deadline = Instant::now() + time;
        let mut frames = Vec::new();
        while Instant::now() < deadline {
            frames.extend(self.next());
        }
        frames
    }
}

/// An Ethernet address from text.
pub(crate) fn mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).expect("a byte"))
        .collect();
    bytes.try_into().expect("six bytes")
}

pub(crate) const GATEWAY_MAC: [u8; 6] = [0xee; 6];
pub(crate) const BROADCAST: [u8; 6] = [0xff; 6];

/// An Ethernet frame.
pub(crate) fn ethernet(to: [u8; 6], from: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [to, from].concat();
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An ARP message for Ethernet and IPv4.
pub(crate) fn arp(
    operation: u16,
    sender: ([u8; 6], Ipv4Addr),
    target: ([u8; 6], Ipv4Addr),
) -> Vec<u8> {
    let mut body = vec![0, 1, 8, 0, 6, 4];
    body.extend(operation.to_be_bytes());
    for (mac, ip) in [sender, target] {
        body.extend(mac);
        body.extend(ip.octets());
    }
    body
}

/// The sum of the Internet checksum, folded and complemented.
fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes: Vec<u8> = parts.concat();
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from))
        .sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

/// An IP packet with TTL 64 (255 for neighbour discovery).
pub(crate) fn ip_packet(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = vec![0x45, 0];
            header.extend((20 + payload.len() as u16).to_be_bytes());
            header.extend([0, 1, 0, 0, 64, protocol, 0, 0]);
            header.extend(from.octets());
            header.extend(to.octets());
            let sum = checksum(&[&header]);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            [&header[..], payload].concat()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let limit = if protocol == 58 { 255 } else { 64 };
            let mut header = vec![0x60, 0, 0, 0];
            header.extend((payload.len() as u16).to_be_bytes());
            header.extend([protocol, limit]);
            header.extend(from.octets());
            header.extend(to.octets());
            [&header[..], payload].concat()
        }
        _ => panic!("two families"),
    }
}

/// A UDP datagram in an IP packet. Its checksum is right.
pub(crate) fn udp_packet(from: IpAddr, to: IpAddr, port: u16, data: &[u8]) -> Vec<u8> {
    let len = 8 + data.len() as u16;
    let mut udp = Vec::new();
    udp.extend(4000_u16.to_be_bytes());
    udp.extend(port.to_be_bytes());
    udp.extend(len.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(data);
    let sum = checksum(&[
        &octets(from),
        &octets(to),
        &[0, 17],
        &len.to_be_bytes(),
        &udp,
    ]);
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    ip_packet(from, to, 17, &udp)
}

/// An ICMPv6 message in an IPv6 packet. Its checksum is right.
pub(crate) fn icmp6(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    let len = (message.len() as u32).to_be_bytes();
    let sum = checksum(&[&from.octets(), &to.octets(), &len, &[0, 0, 0, 58], &message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ip_packet(from.into(), to.into(), 58, &message)
}

/// An address's bytes.
pub(crate) fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}

/// Whether `frame` holds `bytes` somewhere.
pub(crate) fn holds(frame: &[u8], bytes: &[u8]) -> bool {
    frame.windows(bytes.len()).any(|window| window == bytes)
}
