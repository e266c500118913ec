//! Random packets that have to do with each other: openings, answers, errors about what was sent, fragments, and garbage.

use std::net::IpAddr;

use fastpath::port::PortId;
use pcap_tests::build::{self, Mac, ip4, ip6};
use pcap_tests::choices::Choices;
use pcap_tests::judge::{self, View};

use crate::node::*;
use crate::schedule::{NODE_B, NODE6_B};
use crate::services::{VIP, VIP6};

/// A neighbour of a port, as a sender and as a receiver: port, MAC addresses of the port and its own, addresses.
struct Peer {
    port: PortId,
    macs: (Mac, Mac),
    v4: &'static str,
    v6: &'static str,
}

const PEERS: [Peer; 6] = [
    Peer {
        port: POD,
        macs: (GATEWAY_MAC, POD_MAC),
        v4: POD_ADDR,
        v6: POD6,
    },
    Peer {
        port: UPLINK,
        macs: (UPLINK_MAC, ROUTER_MAC),
        v4: SERVER,
        v6: SERVER6,
    },
    Peer {
        port: OTHER,
        macs: (GATEWAY_MAC, OTHER_MAC),
        v4: OTHER_ADDR,
        v6: OTHER6,
    },
    Peer {
        port: UPLINK,
        macs: (UPLINK_MAC, ROUTER_MAC),
        v4: "198.51.100.8",
        v6: "2001:db8:99::8",
    },
    Peer {
        port: HOST,
        macs: ([2, 0, 0, 0, 0, 4], HOST_MAC),
        v4: NODE,
        v6: NODE6,
    },
    Peer {
        port: UPLINK,
        macs: (UPLINK_MAC, ROUTER_MAC),
        v4: REMOTE_POD,
        v6: "2001:db8:18::3",
    },
];

/// A pod of the other node, which is reached by a tunnel.
pub(crate) const REMOTE_POD: &str = "10.65.1.9";
const REMOTE_NODE: &str = "172.18.0.3";

/// What the node has sent of late, for others to answer.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    sent: Vec<(PortId, Vec<u8>)>,
    last: Vec<u8>,
    /// Whether the other node's pods may speak to outside through this one.
    tunnels_to_outside: bool,
}

/// TCP's flags that come in the life of a connection, and some that should not.
const FLAGS: [u8; 10] = [0x02, 0x10, 0x18, 0x12, 0x11, 0x04, 0x14, 0x19, 0x00, 0x3f];

impl Traffic {
    /// Nothing was sent yet. Whether the other node's pods may speak to outside through this one.
    pub(crate) fn new(tunnels_to_outside: bool) -> Self {
        Self {
            tunnels_to_outside,
            ..Self::default()
        }
    }

    /// Remembers what was sent.
    pub(crate) fn note(&mut self, sent: &[Vec<Vec<u8>>]) {
        for (port, frames) in sent.iter().enumerate() {
            let port = PortId(port as u16);
            self.sent
                .extend(frames.iter().map(|frame| (port, frame.clone())));
        }
        let too_many = self.sent.len().saturating_sub(12);
        self.sent.drain(..too_many);
    }

    /// The next frame, and the port that it comes in by.
    pub(crate) fn next(&mut self, choices: &mut Choices<'_>) -> (PortId, Vec<u8>) {
        let kind = choices.below(12);
        self.of_kind(kind, choices)
    }

    /// A frame that may come in together with those before it. No ICMP error: that is about a connection that was there
    /// before the batch.
    pub(crate) fn another(&mut self, choices: &mut Choices<'_>) -> (PortId, Vec<u8>) {
        let kind = choices.below(9);
        self.of_kind(kind, choices)
    }

    fn of_kind(&mut self, kind: usize, choices: &mut Choices<'_>) -> (PortId, Vec<u8>) {
        let (port, frame) = match kind {
            0..=4 => opening(choices, self.tunnels_to_outside),
            5..=8 => self.answer(choices),
            9 => self.error(choices),
            10 if choices.once_in(2) => self.piece_of_answer(choices),
            10 => piece(choices),
            _ => (
                choices.of(&[UPLINK, POD, OTHER, HOST]),
                self.garbage(choices),
            ),
        };
        self.last.clone_from(&frame);
        (port, frame)
    }

    /// Frame that was sent, if any was: the port, and the IP packet in it, without a tunnel around it.
    fn one(&self, choices: &mut Choices<'_>) -> Option<(PortId, bool, View)> {
        let back = choices.below(self.sent.len().max(1));
        let (port, frame) = self.sent.iter().rev().nth(back)?;
        let view = View::of(frame.get(14..)?)?;
        let is_ours = view.src == v4(NODE).octets();
        let inner = judge::open(&view).filter(|_| *port == UPLINK && is_ours);
        let by_tunnel = inner.is_some();
        let view = inner.map_or(Some(view), |inner| View::of(&inner))?;
        let is_between_others =
            view.dst == v4(REMOTE_POD).octets() && !matches!(view.src[0], 10 | 172);
        (self.tunnels_to_outside || !is_between_others).then_some((*port, by_tunnel, view))
    }

    /// What the receiver of something that was sent might answer.
    fn answer(&self, choices: &mut Choices<'_>) -> (PortId, Vec<u8>) {
        let Some((port, by_tunnel, view)) = self.one(choices) else {
            return opening(choices, self.tunnels_to_outside);
        };
        let (src, dst) = (address(&view.dst), address(&view.src));
        let mut l4 = view.payload().to_vec();
        match view.protocol {
            build::TCP if l4.len() >= 20 => {
                let (seq, ack) = (&view.payload()[4..8], &view.payload()[8..12]);
                let ports = (word(&l4, 2), word(&l4, 0));
                let (seq, ack) = (number(seq), number(ack));
                let flags = choices.of(&[0x12, 0x10, 0x18, 0x11, 0x04, 0x14, 0x02]);
                let is_first = view.payload()[13] & 0x02 != 0;
                let seq_back = if ack < 100 { 200 } else { ack };
                let seq_back = seq_back.wrapping_add(u32::from(choices.once_in(8)) * 100_000);
                let ack_back = seq.wrapping_add(u32::from(is_first));
                l4 = build::segment(ports, flags, seq_back, ack_back, &[]);
            }
            build::UDP | 132 if l4.len() >= 8 => {
                let (a, b) = (word(&l4, 0), word(&l4, 2));
                l4[..2].copy_from_slice(&b.to_be_bytes());
                l4[2..4].copy_from_slice(&a.to_be_bytes());
                if view.protocol == 132 && l4.len() > 12 {
                    l4[12] = choices.of(&[2, 11, 0, 3, 6, 7, 8, 14, 1]);
                }
            }
            build::ICMP if l4.len() >= 8 => l4[0] = choices.of(&[0, 0, 0, 8]),
            build::ICMPV6 if l4.len() >= 8 => l4[0] = choices.of(&[129, 129, 129, 128]),
            _ => {}
        }
        let packet = packet(choices, src, dst, view.protocol, l4);
        let frame = delivered(port, by_tunnel, &packet);
        (port, frame)
    }

    /// A fragment of a long answer to something that was sent.
    fn piece_of_answer(&self, choices: &mut Choices<'_>) -> (PortId, Vec<u8>) {
        let Some((port, by_tunnel, view)) = self.one(choices) else {
            return piece(choices);
        };
        let asked = view.payload();
        let (src, dst) = (address(&view.dst), address(&view.src));
        let kind = match (view.protocol, asked.first()) {
            (build::UDP, Some(_)) | (build::ICMP, Some(8)) if asked.len() >= 8 => 0,
            (build::ICMPV6, Some(128)) if asked.len() >= 8 => 129,
            _ => return piece(choices),
        };
        let id = choices.of(&[80, 81]);
        let data = vec![id as u8; 100];
        let (src, dst) = (src.to_string(), dst.to_string());
        let is_udp = view.protocol == build::UDP;
        let whole = match (src.contains(':'), is_udp) {
            (false, true) => ip4(&src, &dst).udp(word(asked, 2), word(asked, 0), &data),
            (true, true) => ip6(&src, &dst).udp(word(asked, 2), word(asked, 0), &data),
            (false, false) => ip4(&src, &dst).icmp(kind, 0, number(&asked[4..8]), &data),
            (true, false) => ip6(&src, &dst).icmp(kind, 0, number(&asked[4..8]), &data),
        };
        let packet = cut(choices, (&src, &dst), view.protocol, id, &whole);
        (port, delivered(port, by_tunnel, &packet))
    }

    /// An ICMP error about something that was sent, from its receiver or somebody on the way.
    fn error(&self, choices: &mut Choices<'_>) -> (PortId, Vec<u8>) {
        let Some((port, by_tunnel, view)) = self.one(choices) else {
            return opening(choices, self.tunnels_to_outside);
        };
        let from_router = choices.once_in(2);
        let mut quote = view.bytes.clone();
        quote.truncate(if choices.once_in(4) { 28 } else { 200 });
        if choices.once_in(8) {
            let at = choices.below(quote.len());
            quote[at] ^= 1;
        }
        let packet = match (address(&view.dst), address(&view.src)) {
            (IpAddr::V4(dst), IpAddr::V4(src)) => {
                let from = if from_router {
                    "203.0.113.1"
                } else {
                    &dst.to_string()
                };
                let (kind, code) = choices.of(&[(3, 1), (3, 3), (3, 4), (11, 0), (12, 0), (5, 1)]);
                ip4(from, &src.to_string()).icmp(kind, code, 1400, &quote)
            }
            (dst, src) => {
                let from = if from_router {
                    "2001:db8:77::1"
                } else {
                    &dst.to_string()
                };
                let (kind, code) = choices.of(&[(1, 0), (1, 4), (2, 0), (3, 0), (4, 0)]);
                ip6(from, &src.to_string()).icmp(kind, code, 1400, &quote)
            }
        };
        (port, delivered(port, by_tunnel, &packet))
    }

    /// The last frame, damaged.
    fn garbage(&self, choices: &mut Choices<'_>) -> Vec<u8> {
        let mut frame = self.last.clone();
        if frame.is_empty() || choices.once_in(8) {
            return (0..choices.byte()).map(|_| choices.byte()).collect();
        }
        for _ in 0..=choices.below(3) {
            let at = choices.below(frame.len().min(80));
            frame[at] ^= choices.byte();
        }
        if choices.once_in(4) {
            frame.truncate(choices.below(frame.len().min(120)));
        }
        frame
    }
}

/// A packet that may begin something, or belong to something that was begun before.
fn opening(choices: &mut Choices<'_>, tunnels_to_outside: bool) -> (PortId, Vec<u8>) {
    let is_v6 = choices.once_in(3);
    let from = choices.below(PEERS.len());
    let mut to = choices.below(PEERS.len());
    if to == from {
        to = (to + 1) % PEERS.len();
    }
    let by_tunnel = from == 5 && !is_v6;
    if from == 5 && !tunnels_to_outside && PEERS[to].port == UPLINK {
        to = 0;
    }
    let (peer, other) = (&PEERS[from], &PEERS[to]);
    let (src, mut dst) = if is_v6 {
        (peer.v6, other.v6)
    } else {
        (peer.v4, other.v4)
    };
    if to == 4 && choices.once_in(3) {
        dst = if is_v6 { NODE6_B } else { NODE_B };
    }
    // To other nodes' pods it is an address outside.
    if (from != 5 || tunnels_to_outside) && choices.once_in(4) {
        dst = if is_v6 { VIP6 } else { VIP };
    }
    let ports = (choices.of(&[40_000, 40_001]), choices.of(&[80, 53]));
    let (protocol, l4) = payload(choices, is_v6, ports);
    let parse = |text: &str| text.parse::<IpAddr>().expect("an address");
    let packet = packet(choices, parse(src), parse(dst), protocol, l4);
    let frame = if by_tunnel {
        delivered(UPLINK, true, &packet)
    } else {
        build::ethernet(peer.macs.0, peer.macs.1, &packet)
    };
    (peer.port, frame)
}

/// A protocol, and what its header and payload are.
fn payload(choices: &mut Choices<'_>, is_v6: bool, ports: (u16, u16)) -> (u8, Vec<u8>) {
    match choices.below(10) {
        0..=3 => {
            let flags = choices.of(&FLAGS);
            let (seq, ack) = choices.of(&[(100, 0), (101, 201), (101, 201), (900_000, 900_000)]);
            let data = build::counted(choices.below(4));
            (build::TCP, build::segment(ports, flags, seq, ack, &data))
        }
        4..=6 => (
            build::UDP,
            build::udp(ports.0, ports.1, &build::counted(choices.below(9))),
        ),
        7 => {
            let kind = match (choices.below(4), is_v6) {
                (0..=2, false) => 8,
                (0..=2, true) => 128,
                (_, false) => choices.of(&[0, 13, 14, 42]),
                (_, true) => choices.of(&[129, 130, 42]),
            };
            // The type of a ping is one that is met in the wild.
            let id = choices.of(&[7_u8, 8, 9]);
            let protocol = if is_v6 { build::ICMPV6 } else { build::ICMP };
            (protocol, vec![kind, 0, 0, 0, 0, id, 0, 1, 1, 2, 3])
        }
        8 => {
            let kind = choices.of(&[1, 1, 10, 0, 6, 7, 14]);
            let mut bytes = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
            let tag = u8::from(kind != 1);
            bytes.extend([0, 0, 0, tag, 0, 0, 0, 0]);
            bytes.extend([
                kind, 0, 0, 20, 0, 0, 0, 1, 0, 0, 16, 0, 0, 1, 0, 1, 0, 0, 0, 1,
            ]);
            (132, bytes)
        }
        _ => (choices.of(&[47, 50, 89, 136, 33]), build::counted(12)),
    }
}

/// The IP packet, its transport checksum right but for once in a while, its TTL long but for once in a while.
fn packet(
    choices: &mut Choices<'_>,
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    l4: Vec<u8>,
) -> Vec<u8> {
    let ttl = choices.of(&[64, 64, 64, 64, 64, 64, 1, 2]);
    let at = match protocol {
        build::TCP => Some(16),
        build::UDP => Some(6),
        build::ICMP | build::ICMPV6 => Some(2),
        _ => None,
    };
    // What answers a fragment may be too short to have one.
    let at = at.filter(|at| l4.len() >= 8.max(at + 2));
    let is_wrong = choices.once_in(12);
    let bytes = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let packet = ip4(&src.to_string(), &dst.to_string()).ttl(ttl);
            match at {
                Some(2) => packet.icmp(l4[0], l4[1], number(&l4[4..8]), &l4[8..]),
                Some(at) => packet.sealed(protocol, l4, at),
                None => packet.packet(protocol, &l4),
            }
        }
        (src, dst) => {
            let packet = ip6(&src.to_string(), &dst.to_string()).hop_limit(ttl);
            match at {
                Some(at) => packet.sealed(protocol, l4, at),
                None => packet.packet(protocol, &l4),
            }
        }
    };
    spoilt(bytes, is_wrong)
}

/// With its last byte changed, if so.
fn spoilt(mut bytes: Vec<u8>, is_spoilt: bool) -> Vec<u8> {
    if is_spoilt && let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    bytes
}

/// A fragment of one of a few datagrams, in any order.
fn piece(choices: &mut Choices<'_>) -> (PortId, Vec<u8>) {
    let from = choices.below(3);
    let (peer, other) = (&PEERS[from], &PEERS[(from + 1) % 3]);
    let id = choices.of(&[70_u16, 71, 72]);
    let is_v6 = choices.once_in(3);
    let is_ping = id == 72;
    let (src, dst) = if is_v6 {
        (peer.v6, other.v6)
    } else {
        (peer.v4, other.v4)
    };
    let data = vec![id as u8; 100];
    let (protocol, whole) = match (is_v6, is_ping) {
        (false, true) => (build::ICMP, ip4(src, dst).icmp(8, 0, 0x0007_0001, &data)),
        (true, true) => (
            build::ICMPV6,
            ip6(src, dst).icmp(128, 0, 0x0007_0001, &data),
        ),
        (false, false) => (build::UDP, ip4(src, dst).udp(40_000, 53, &data)),
        (true, false) => (build::UDP, ip6(src, dst).udp(40_000, 53, &data)),
    };
    let packet = cut(choices, (src, dst), protocol, id, &whole);
    (
        peer.port,
        build::ethernet(peer.macs.0, peer.macs.1, &packet),
    )
}

/// A fragment of a packet.
fn cut(
    choices: &mut Choices<'_>,
    (src, dst): (&str, &str),
    protocol: u8,
    id: u16,
    whole: &[u8],
) -> Vec<u8> {
    let is_v6 = src.contains(':');
    let whole = &whole[if is_v6 { 40 } else { 20 }..];
    let at = choices.below(3);
    let (start, end) = [(0, 40), (40, 80), (80, whole.len())][at];
    let more = u16::from(end < whole.len());
    if is_v6 {
        let mut payload = vec![protocol, 0];
        payload.extend(((start as u16) | more).to_be_bytes());
        payload.extend(u32::from(id).to_be_bytes());
        payload.extend(&whole[start..end]);
        ip6(src, dst).packet(44, &payload)
    } else {
        let word = (more << 13) | (start as u16 / 8);
        let ip = ip4(src, dst).id(id).fragment(word);
        ip.packet(protocol, &whole[start..end])
    }
}

/// The frame in which a packet comes in by a port, perhaps by the other node's tunnel.
fn delivered(port: PortId, by_tunnel: bool, packet: &[u8]) -> Vec<u8> {
    if by_tunnel {
        let inner = build::ethernet([0x66, 0, 0, 0, 0, 2], [0x66, 0, 0, 0, 0, 3], packet);
        let outer = ip4(REMOTE_NODE, NODE).udp_unchecked(50_000, 4789, &build::vxlan(4096, &inner));
        return build::ethernet(UPLINK_MAC, ROUTER_MAC, &outer);
    }
    let peer = PEERS.iter().find(|peer| peer.port == port);
    let macs = peer.map_or((UPLINK_MAC, ROUTER_MAC), |peer| peer.macs);
    build::ethernet(macs.0, macs.1, packet)
}

fn address(octets: &[u8]) -> IpAddr {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return octets.into();
    }
    <[u8; 16]>::try_from(octets).expect("16 octets").into()
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().expect("four bytes"))
}
