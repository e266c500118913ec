//! The keyed hash of a flow: SipHash-1-3 over addresses, protocol and ports.
//!
//! From it come the outer UDP source port and the choice among equal paths. Keyed, so that nobody outside can aim many
//! flows at one port, path or queue. All fragments of a datagram hash alike, because their ports are left out.

use crate::ipv4::Ipv4Info;
use crate::ipv6::Ipv6Info;
use crate::l4;

#[cfg(test)]
mod tests;

/// The secret of the hash. Draw it at random when the process starts, and use it for nothing else.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey(pub [u64; 2]);

impl core::fmt::Debug for HashKey {
    /// Shows no bit of the secret.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("HashKey(..)")
    }
}

/// First of the ports that RFC 7348 section 5 recommends as VXLAN's source ports: 49152 to 65535.
pub const FIRST_SOURCE_PORT: u16 = 49152;

/// The outer UDP source port for a flow's hash: 49152 to 65535.
#[inline]
#[must_use]
pub const fn source_port(hash: u32) -> u16 {
    FIRST_SOURCE_PORT | (hash >> 18) as u16
}

/// Hashes an IPv4 flow. Addresses in host order; give ports (0, 0) for fragments and protocols without ports.
#[inline(always)]
#[must_use]
pub fn v4(key: &HashKey, src: u32, dst: u32, protocol: u8, ports: (u16, u16)) -> u32 {
    let mut state = State::new(key);
    state.block(u64::from(src) | u64::from(dst) << 32);
    state.last_block(tail(protocol, ports), 13)
}

/// Hashes an IPv6 flow. Addresses in host order; give ports (0, 0) for fragments and protocols without ports.
#[inline(never)]
#[must_use]
pub fn v6(key: &HashKey, src: u128, dst: u128, protocol: u8, ports: (u16, u16)) -> u32 {
    let mut state = State::new(key);
    state.block(src as u64);
    state.block((src >> 64) as u64);
    state.block(dst as u64);
    state.block((dst >> 64) as u64);
    state.last_block(tail(protocol, ports), 37)
}

/// Hashes the flow of a parsed IPv4 packet. `l3` starts at the header that `ip` was parsed from.
#[inline]
#[must_use]
pub fn of_ipv4(key: &HashKey, l3: &[u8], ip: &Ipv4Info) -> u32 {
    let ports = if ip.is_fragment() {
        (0, 0)
    } else {
        ports(ip.protocol, l3, usize::from(ip.header_len()))
    };
    v4(key, ip.src, ip.dst, ip.protocol, ports)
}

/// Hashes the flow of a parsed IPv6 packet. `l3` starts at the header that `ip` was parsed from.
#[inline]
#[must_use]
pub fn of_ipv6(key: &HashKey, l3: &[u8], ip: &Ipv6Info) -> u32 {
    // The protocol stays out: a later fragment names the first header of the fragmented part, which need not be the upper layer.
    if ip.is_fragment() {
        return v6(key, ip.src, ip.dst, 0, (0, 0));
    }
    v6(
        key,
        ip.src,
        ip.dst,
        ip.upper.protocol,
        ports(ip.upper.protocol, l3, usize::from(ip.upper.offset)),
    )
}

/// Ports at the start of the upper layer; zeros where there are none.
#[inline]
fn ports(protocol: u8, l3: &[u8], offset: usize) -> (u16, u16) {
    match protocol {
        l4::TCP | l4::UDP | l4::SCTP | l4::DCCP | l4::UDPLITE => {
            match crate::bytes::array_at(l3, offset) {
                Some(&[a, b, c, d]) => (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
                None => (0, 0),
            }
        }
        _ => (0, 0),
    }
}

/// Five bytes: destination port, source port (as one number they are what the packet holds), protocol.
#[inline]
const fn tail(protocol: u8, (source, destination): (u16, u16)) -> u64 {
    destination as u64 | (source as u64) << 16 | (protocol as u64) << 32
}

/// SipHash-1-3: one round a block, three at the end.
struct State([u64; 4]);

impl State {
    #[inline(always)]
    const fn new(&HashKey([k0, k1]): &HashKey) -> Self {
        Self([
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ])
    }

    #[inline(always)]
    const fn round(&mut self) {
        let [mut v0, mut v1, mut v2, mut v3] = self.0;
        v0 = v0.wrapping_add(v1);
        v2 = v2.wrapping_add(v3);
        v1 = v1.rotate_left(13) ^ v0;
        v3 = v3.rotate_left(16) ^ v2;
        v0 = v0.rotate_left(32);
        v2 = v2.wrapping_add(v1);
        v0 = v0.wrapping_add(v3);
        v1 = v1.rotate_left(17) ^ v2;
        v3 = v3.rotate_left(21) ^ v0;
        v2 = v2.rotate_left(32);
        self.0 = [v0, v1, v2, v3];
    }

    #[inline(always)]
    const fn block(&mut self, word: u64) {
        let [v0, v1, v2, v3] = self.0;
        self.0 = [v0, v1, v2, v3 ^ word];
        self.round();
        let [v0, v1, v2, v3] = self.0;
        self.0 = [v0 ^ word, v1, v2, v3];
    }

    /// The last block holds up to seven bytes and, on top, the message's length.
    #[inline(always)]
    const fn last_block(mut self, word: u64, len: u64) -> u32 {
        self.block(word | len << 56);
        let [v0, v1, v2, v3] = self.0;
        self.0 = [v0, v1, v2 ^ 0xff, v3];
        self.round();
        self.round();
        self.round();
        let [v0, v1, v2, v3] = self.0;
        let hash = v0 ^ v1 ^ v2 ^ v3;
        (hash ^ hash >> 32) as u32
    }
}
