//! A frame that came out, taken apart into named fields. Every byte is in one, but for those that two right
//! dataplanes choose freely (recipe in the table below); checksums stand for whether they are right.
//!
//! | left out | because |
//! |---|---|
//! | outer identification | arbitrary where DF is set (RFC 6864) |
//! | outer UDP source port | from a keyed hash; its range and steadiness have a test of their own |
//! | identification of the node's own ICMP errors and echo replies | arbitrary |

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::frame::{Ends, FRAGMENT, ICMP, ICMPV6, IPIP, TYPE_IPV4, TYPE_IPV6, UDP, checksum};
use crate::plan::{NODE4, NODE6, POD_GATEWAY4, POD_GATEWAY6, TUNNEL4, TUNNEL6, VXLAN_PORT};
use crate::script::Key;
use crate::services::{SERVICE4, SERVICE6};

/// A frame's fields in the order of their bytes, values in hexadecimal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// What it is, for people: `ip`, `vxlan`, `icmp 11/0 from 169.254.1.1`.
    pub(crate) kind: String,
    pub(crate) fields: Vec<(String, String)>,
    /// The innermost packet's identification.
    pub(crate) key: Option<Key>,
    /// The innermost fragment's offset, in bytes: fragments come in any order.
    pub(crate) offset: u16,
    /// The source port of VXLAN.
    pub(crate) source_port: Option<u16>,
}

impl View {
    /// Takes a frame apart.
    pub(crate) fn of(frame: &[u8]) -> Self {
        let mut view = Self::default();
        view.ethernet("", frame);
        view
    }

    fn push(&mut self, layer: &str, name: &str, bytes: &[u8]) {
        let mut text = String::new();
        for byte in bytes {
            let _ = write!(text, "{byte:02x}");
        }
        self.fields.push((format!("{layer}{name}"), text));
    }

    fn say(&mut self, layer: &str, name: &str, value: &str) {
        self.fields
            .push((format!("{layer}{name}"), value.to_owned()));
    }

    fn ethernet(&mut self, layer: &str, frame: &[u8]) {
        let Some((header, rest)) = frame.split_first_chunk::<14>() else {
            self.push(layer, "rest", frame);
            return;
        };
        self.push(layer, "eth.dst", &header[..6]);
        self.push(layer, "eth.src", &header[6..12]);
        self.push(layer, "eth.type", &header[12..]);
        match word(header, 12) {
            TYPE_IPV4 => self.ip4(layer, rest),
            TYPE_IPV6 => self.ip6(layer, rest),
            other => {
                self.kind = format!("type {other:04x}");
                self.push(layer, "rest", rest);
            }
        }
    }

    fn ip4(&mut self, layer: &str, packet: &[u8]) {
        let header_len = packet
            .first()
            .map_or(0, |first| usize::from(first & 15) * 4);
        let total_len = packet.get(2..4).map_or(0, |_| usize::from(word(packet, 2)));
        if header_len < 20 || total_len < header_len || packet.len() < total_len {
            "bad ip".clone_into(&mut self.kind);
            self.push(layer, "rest", packet);
            return;
        }
        let (header, payload) = packet.split_at(header_len);
        let (payload, trailer) = payload.split_at(total_len - header_len);
        let (src, dst) = (address4(header, 12), address4(header, 16));
        let protocol = header[9];
        let outer = layer.is_empty() && is_tunnel(src == NODE4, protocol, payload);
        let own = is_own(src.into())
            && matches!(
                (protocol, payload.first()),
                (ICMP, Some(0 | 3 | 4 | 5 | 11 | 12))
            );
        self.push(layer, "ip.first", &header[..1]);
        self.push(layer, "ip.tos", &header[1..2]);
        self.push(layer, "ip.len", &header[2..4]);
        if !outer && !own {
            self.push(layer, "ip.id", &header[4..6]);
        }
        self.push(layer, "ip.fragment", &header[6..8]);
        self.push(layer, "ip.ttl", &header[8..9]);
        self.push(layer, "ip.protocol", &header[9..10]);
        let mut blank = header.to_vec();
        blank[10..12].fill(0);
        let check = verdict(word(header, 10), checksum(&[&blank]));
        self.say(layer, "ip.checksum", check);
        self.push(layer, "ip.src", &header[12..16]);
        self.push(layer, "ip.dst", &header[16..20]);
        self.push(layer, "ip.options", &header[20..]);
        self.key = Some(Key::Id(word(header, 4)));
        self.offset = (word(header, 6) & 0x1fff) * 8;
        "ip".clone_into(&mut self.kind);
        if outer {
            self.tunnel(layer, protocol, &(src, dst), payload);
        } else if own {
            self.control(layer, src.into(), payload, verdict_of(&[payload]));
        } else {
            self.push(layer, "payload", payload);
        }
        self.push(layer, "trailer", trailer);
    }

    fn ip6(&mut self, layer: &str, packet: &[u8]) {
        let payload_len = packet.get(4..6).map_or(0, |_| usize::from(word(packet, 4)));
        if packet.len() < 40 + payload_len {
            "bad ip6".clone_into(&mut self.kind);
            self.push(layer, "rest", packet);
            return;
        }
        let (header, payload) = packet.split_at(40);
        let (payload, trailer) = payload.split_at(payload_len);
        let (src, dst) = (address6(header, 8), address6(header, 24));
        let (next, label) = (
            header[6],
            u32::from_be_bytes([0, header[1] & 15, header[2], header[3]]),
        );
        let outer = layer.is_empty() && is_tunnel(src == NODE6, next, payload);
        let own =
            is_own(src.into()) && matches!((next, payload.first()), (ICMPV6, Some(0..=127 | 129)));
        self.push(layer, "ip6.class", &[header[0] << 4 | header[1] >> 4]);
        self.push(layer, "ip6.label", &label.to_be_bytes());
        self.push(layer, "ip6.len", &header[4..6]);
        self.push(layer, "ip6.next", &header[6..7]);
        self.push(layer, "ip6.hop_limit", &header[7..8]);
        self.push(layer, "ip6.src", &header[8..24]);
        self.push(layer, "ip6.dst", &header[24..40]);
        self.key = Some(Key::Label(label));
        "ip6".clone_into(&mut self.kind);
        if outer {
            self.tunnel(layer, next, &(src, dst), payload);
        } else if own {
            let pseudo = (src, dst).pseudo(ICMPV6, payload.len());
            self.control(layer, src.into(), payload, verdict_of(&[&pseudo, payload]));
        } else {
            self.payload6(layer, next, payload);
        }
        self.push(layer, "trailer", trailer);
    }

    /// What IPv6 carries that is neither a tunnel's nor the node's own; of a fragment its header first.
    fn payload6(&mut self, layer: &str, next: u8, payload: &[u8]) {
        let fragment = payload.split_first_chunk::<8>();
        let Some((header, rest)) = fragment.filter(|_| next == FRAGMENT) else {
            return self.push(layer, "payload", payload);
        };
        self.push(layer, "fragment.next", &header[..2]);
        self.push(layer, "fragment.offset", &header[2..4]);
        self.push(layer, "fragment.id", &header[4..]);
        self.offset = word(header, 2) & 0xfff8;
        self.push(layer, "payload", rest);
    }

    fn tunnel(&mut self, layer: &str, protocol: u8, ends: &impl Ends, payload: &[u8]) {
        if protocol == IPIP {
            self.ip4("inner.", payload);
            self.kind = format!("ipip({})", self.kind);
            return;
        }
        let (udp, data) = payload.split_at(8);
        self.source_port = Some(word(udp, 0));
        self.push(layer, "udp.dst", &udp[2..4]);
        self.push(layer, "udp.len", &udp[4..6]);
        let check = match word(udp, 6) {
            0 => "zero",
            _ => verdict_of(&[&ends.pseudo(UDP, payload.len()), payload]),
        };
        self.say(layer, "udp.checksum", check);
        let (vxlan, inner) = data.split_at(8);
        self.push(layer, "vxlan", vxlan);
        self.ethernet("inner.", inner);
        self.kind = format!("vxlan({})", self.kind);
    }

    /// What an ICMP error quotes: the TTL and what follows from it by themselves, then the rest.
    fn quote(&mut self, layer: &str, quote: &[u8]) {
        let mut rest = quote.to_vec();
        match quote.first().map(|first| first >> 4) {
            Some(4) if quote.len() >= 20 => {
                self.push(layer, "icmp.quote.ttl", &quote[TTL..=TTL]);
                rest[HEADER_CHECKSUM].fill(0);
                let header_len = usize::from(quote[0] & 15) * 4;
                let header = &rest[..header_len.clamp(20, rest.len())];
                let check = verdict(word(quote, HEADER_CHECKSUM.start), checksum(&[header]));
                self.say(layer, "icmp.quote.checksum", check);
                rest[TTL] = 0;
            }
            Some(6) if quote.len() >= 40 => {
                self.push(layer, "icmp.quote.hop_limit", &quote[HOP_LIMIT..=HOP_LIMIT]);
                rest[HOP_LIMIT] = 0;
            }
            _ => {}
        }
        self.push(layer, "icmp.quote", &rest);
    }

    /// An ICMP message of the node's own.
    fn control(&mut self, layer: &str, src: IpAddr, message: &[u8], check: &str) {
        let Some((header, rest)) = message.split_first_chunk::<8>() else {
            self.push(layer, "payload", message);
            return;
        };
        let [kind, code, _, _, word @ ..] = *header;
        self.push(layer, "icmp.type", &[kind]);
        self.push(layer, "icmp.code", &[code]);
        self.say(layer, "icmp.checksum", check);
        self.push(layer, "icmp.word", &word);
        self.quote(layer, rest);
        let is_reply = (src.is_ipv4() && kind == 0) || kind == 129;
        self.kind = format!("icmp {kind}/{code} from {src}");
        self.key = if is_reply {
            let ident = u16::from_be_bytes([word[0], word[1]]);
            Some(if src.is_ipv4() {
                Key::Id(ident)
            } else {
                Key::Label(ident.into())
            })
        } else if src.is_ipv4() {
            rest.get(4..6).map(|id| Key::Id(word_of(id)))
        } else {
            let label = rest.get(1..4);
            label.map(|l| Key::Label(u32::from_be_bytes([0, l[0] & 15, l[1], l[2]])))
        };
    }
}

/// Where an IPv4 header has its TTL and its checksum, and an IPv6 header its hop limit.
const TTL: usize = 8;
const HEADER_CHECKSUM: std::ops::Range<usize> = 10..12;
const HOP_LIMIT: usize = 7;

/// Whether an outermost packet is one that the node encapsulated.
fn is_tunnel(from_node: bool, protocol: u8, payload: &[u8]) -> bool {
    let is_vxlan = protocol == UDP && payload.len() >= 16 && word(payload, 2) == VXLAN_PORT;
    from_node && (is_vxlan || protocol == IPIP)
}

/// Whether the node speaks from this address. A service's is among them: the kernel speaks of its packets in its name.
fn is_own(addr: IpAddr) -> bool {
    [NODE4, TUNNEL4, POD_GATEWAY4, SERVICE4]
        .map(IpAddr::from)
        .contains(&addr)
        || [NODE6, TUNNEL6, POD_GATEWAY6, SERVICE6]
            .map(IpAddr::from)
            .contains(&addr)
}

fn word(bytes: &[u8], at: usize) -> u16 {
    word_of(&bytes[at..at + 2])
}

fn word_of(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

fn address4(header: &[u8], at: usize) -> Ipv4Addr {
    <[u8; 4]>::try_from(&header[at..at + 4])
        .expect("4 bytes")
        .into()
}

fn address6(header: &[u8], at: usize) -> Ipv6Addr {
    <[u8; 16]>::try_from(&header[at..at + 16])
        .expect("16 bytes")
        .into()
}

/// 0xffff for 0 is no right checksum here: nobody computes it so.
fn verdict(found: u16, computed: u16) -> &'static str {
    if found == computed { "right" } else { "wrong" }
}

/// Of bytes that contain their own checksum.
fn verdict_of(parts: &[&[u8]]) -> &'static str {
    verdict(checksum(parts), 0)
}
