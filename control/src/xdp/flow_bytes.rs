//! Flows as the kernel's program has them: the bytes of `struct key4`, `struct key6` and `struct flow` in `xdp/flow.h`.
//!
//! Numbers are the machine's own, but what lies in a packet lies here as it does there.

use std::net::IpAddr;

use encap::checksum::Sum;
use encap::l4;
use encap::outer::{ETHERNET_LEN, IPIP_LEN, Kind};

use crate::offload::flow::{Action, Counts, From, Key, Seen, Segment, Way};

pub(super) const KEY4_LEN: usize = 16;
pub(super) const KEY6_LEN: usize = 40;
pub(super) const FLOW_LEN: usize = 192;

/// A key of either family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyBytes {
    V4([u8; KEY4_LEN]),
    V6([u8; KEY6_LEN]),
}

pub(super) type FlowBytes = [u8; FLOW_LEN];

const FROM_UDP: u32 = 1 << 30;
const FROM_TUNNEL: u32 = 1 << 31;

const HAS_MAC: u8 = 1;
const HAS_PEER: u8 = 2;
const IS_TRANSLATED: u8 = 4;

/// Where a field of `struct flow` begins.
mod at {
    pub(super) const CHECK: usize = 0;
    pub(super) const OUT: usize = 8;
    pub(super) const HASH: usize = 12;
    pub(super) const PEER: usize = 16;
    pub(super) const MTU: usize = 20;
    pub(super) const WAY: usize = 22;
    pub(super) const KIND: usize = 23;
    pub(super) const MAC: usize = 24;
    pub(super) const SET: usize = 30;
    pub(super) const WINDOW: usize = 32;
    pub(super) const BASE_SUM: usize = 36;
    pub(super) const PACKETS: usize = 40;
    pub(super) const SEEN: usize = 56;
    pub(super) const BYTES: usize = 48;
    pub(super) const HEAD: usize = 64;
    pub(super) const TO: usize = 128;
    pub(super) const TO_PORTS: usize = 160;
    pub(super) const MARK: usize = 164;
    pub(super) const CLOSING: usize = 168;
    pub(super) const CLOSING_AT: usize = 176;
    pub(super) const CHECK_AGAIN: usize = 184;
}

/// The key of a flow; `None` where no packet can have it: another protocol, ends of two families, an index too large.
pub(super) fn key(key: &Key) -> Option<KeyBytes> {
    let from = match key.from {
        From::Device(index) if index < 1 << 24 => index,
        From::Device(_) => return None,
        From::Tunnel => FROM_TUNNEL,
    };
    let from = match key.protocol {
        l4::TCP => from,
        l4::UDP => from | FROM_UDP,
        _ => return None,
    };
    let tail = [ports(key.src.1, key.dst.1), from.to_ne_bytes()];
    match (key.src.0, key.dst.0) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut bytes = [0; KEY4_LEN];
            put(&mut bytes, 0, &src.octets());
            put(&mut bytes, 4, &dst.octets());
            put(&mut bytes, 8, tail.as_flattened());
            Some(KeyBytes::V4(bytes))
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut bytes = [0; KEY6_LEN];
            put(&mut bytes, 0, &src.octets());
            put(&mut bytes, 16, &dst.octets());
            put(&mut bytes, 32, tail.as_flattened());
            Some(KeyBytes::V6(bytes))
        }
        _ => None,
    }
}

/// A flow of which nothing has been counted; `None` where the program cannot do what the action says.
pub(super) fn flow(key: &Key, action: &Action, mark: u32) -> Option<FlowBytes> {
    let mut bytes = [0; FLOW_LEN];
    let (kind, is_v4_only) = match action.rewrite.kind() {
        Kind::Ethernet => (0, false),
        Kind::Ipip => (1, true),
        Kind::Vxlan4 => (2, false),
        Kind::Vxlan6 => return None,
    };
    // Tunnels end at pods.
    let is_tunnelled = key.from == From::Tunnel;
    if (is_v4_only && key.src.0.is_ipv6()) || (is_tunnelled && kind != 0) {
        return None;
    }
    let way = match action.way {
        Way::Pod => 0,
        Way::Uplink => 1,
    };
    let check = check(self::key(key)?);
    for at in [at::CHECK, at::CHECK_AGAIN] {
        put(&mut bytes, at, &check.to_ne_bytes());
    }
    put(&mut bytes, at::OUT, &action.out.to_ne_bytes());
    put(&mut bytes, at::HASH, &action.flow_hash.to_ne_bytes());
    put(&mut bytes, at::MTU, &action.mtu.to_ne_bytes());
    put(&mut bytes, at::WAY, &[way]);
    put(&mut bytes, at::KIND, &[kind]);
    let mut set = 0;
    if let Some(mac) = action.from_mac {
        set |= HAS_MAC;
        put(&mut bytes, at::MAC, &mac.0);
    }
    if let Some(peer) = action.peer {
        set |= HAS_PEER;
        put(&mut bytes, at::PEER, &peer.octets());
    }
    let head = action.rewrite.bytes();
    put(&mut bytes, at::HEAD, head);
    let base_sum = Sum::of(head.get(ETHERNET_LEN..IPIP_LEN).unwrap_or_default()).fold();
    put(&mut bytes, at::BASE_SUM, &base_sum.to_ne_bytes());
    if action.source.is_some() || action.destination.is_some() {
        set |= IS_TRANSLATED;
        let (src, dst) = (
            action.source.unwrap_or(key.src),
            action.destination.unwrap_or(key.dst),
        );
        match (src.0, dst.0) {
            (IpAddr::V4(src), IpAddr::V4(dst)) if key.src.0.is_ipv4() => {
                put(&mut bytes, at::TO, &src.octets());
                put(&mut bytes, at::TO + 4, &dst.octets());
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) if key.src.0.is_ipv6() => {
                put(&mut bytes, at::TO, &src.octets());
                put(&mut bytes, at::TO + 16, &dst.octets());
            }
            _ => return None,
        }
        put(&mut bytes, at::TO_PORTS, &ports(src.1, dst.1));
    }
    put(&mut bytes, at::SET, &[set]);
    put(&mut bytes, at::MARK, &mark.to_ne_bytes());
    Some(bytes)
}

/// `check4` and `check6`: whose flow it is, in one word.
fn check(key: KeyBytes) -> u64 {
    const FACTORS4: [u64; 2] = [1, 0x9e37_79b9_7f4a_7c15];
    const FACTORS6: [u64; 5] = [
        1,
        0xbf58_476d_1ce4_e5b9,
        0x94d0_49bb_1331_11eb,
        0xd6e8_feb8_6659_fd93,
        0x9e37_79b9_7f4a_7c15,
    ];
    let sum = |words: &[[u8; 8]], factors: &[u64]| {
        let products = words.iter().zip(factors);
        products.fold(0_u64, |sum, (word, factor)| {
            sum.wrapping_add(u64::from_ne_bytes(*word).wrapping_mul(*factor))
        })
    };
    match key {
        KeyBytes::V4(bytes) => sum(bytes.as_chunks().0, &FACTORS4),
        KeyBytes::V6(bytes) => sum(bytes.as_chunks().0, &FACTORS6),
    }
}

/// The number that a flow was inserted with.
pub(super) fn mark(flow: &FlowBytes) -> u32 {
    u32_at(flow, at::MARK)
}

/// What was counted of a flow.
pub(super) fn counts(flow: &FlowBytes) -> Counts {
    let (seen, window) = (u64_at(flow, at::SEEN), u32_at(flow, at::WINDOW));
    let (closing, ends) = (u64_at(flow, at::CLOSING), u64_at(flow, at::CLOSING_AT));
    Counts {
        packets: u64_at(flow, at::PACKETS),
        bytes: u64_at(flow, at::BYTES),
        seen: (window >> 16 != 0).then_some(Seen {
            ack: seen as u32,
            end: (seen >> 32) as u32,
            window: window as u16,
        }),
        closing: (closing >> 56 != 0).then_some(Segment {
            seq: ends as u32,
            ack: (ends >> 32) as u32,
            payload_len: closing as u32,
            window: (closing >> 32) as u16,
            flags: (closing >> 48) as u8,
        }),
    }
}

fn ports(src: u16, dst: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (src.to_be_bytes(), dst.to_be_bytes());
    [a, b, c, d]
}

/// Writes into a place that is there: places and lengths are constants of one layout.
fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    let place = bytes.get_mut(at..).unwrap_or_default();
    for (to, from) in place.iter_mut().zip(what) {
        *to = *from;
    }
}

fn u64_at(flow: &FlowBytes, at: usize) -> u64 {
    let found = flow.get(at..).and_then(<[u8]>::first_chunk);
    found.map_or(0, |bytes| u64::from_ne_bytes(*bytes))
}

fn u32_at(flow: &FlowBytes, at: usize) -> u32 {
    let found = flow.get(at..).and_then(<[u8]>::first_chunk);
    found.map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}
