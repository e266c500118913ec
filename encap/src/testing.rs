//! What the tests of several modules build their packets with.

use crate::checksum::Sum;

/// An IPv4 header with options and payload, its checksum right.
pub(crate) struct Ipv4Builder {
    pub(crate) bytes: Vec<u8>,
}

impl Ipv4Builder {
    /// 10.0.0.1 to 10.0.0.2, TTL 64, identification 0x1234.
    pub(crate) fn new(protocol: u8, options: &[u8], payload: &[u8]) -> Self {
        assert!(options.len().is_multiple_of(4) && options.len() <= 40);
        let header_len = 20 + options.len();
        let mut bytes = vec![0; header_len];
        bytes[0] = 0x40 | (header_len / 4) as u8;
        bytes[4..6].copy_from_slice(&[0x12, 0x34]);
        bytes[8] = 64;
        bytes[9] = protocol;
        bytes[12..16].copy_from_slice(&[10, 0, 0, 1]);
        bytes[16..20].copy_from_slice(&[10, 0, 0, 2]);
        bytes[20..header_len].copy_from_slice(options);
        bytes.extend_from_slice(payload);
        let total_len = bytes.len() as u16;
        Self { bytes }.total_len(total_len)
    }

    pub(crate) fn total_len(self, len: u16) -> Self {
        self.word(2, len)
    }

    pub(crate) fn flags_and_offset(self, word: u16) -> Self {
        self.word(6, word)
    }

    pub(crate) fn byte(mut self, at: usize, value: u8) -> Self {
        self.bytes[at] = value;
        self.sealed()
    }

    pub(crate) fn word(mut self, at: usize, value: u16) -> Self {
        self.bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
        self.sealed()
    }

    fn sealed(mut self) -> Self {
        let header_len = usize::from(self.bytes[0] & 15) * 4;
        self.bytes[10..12].fill(0);
        let checksum = naive_checksum(&self.bytes[..header_len.clamp(20, self.bytes.len())]);
        self.bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        self
    }
}

/// An IPv6 header and payload: 2001:db8::1 to 2001:db8::2, hop limit 64.
pub(crate) fn ipv6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0, 0, 0, next_header, 64];
    bytes[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    for last in [1, 2] {
        bytes.extend_from_slice(&[
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last,
        ]);
    }
    bytes.extend_from_slice(payload);
    bytes
}

/// RFC 1071 word by word: slow and obviously right.
pub(crate) fn naive_checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        sum += u32::from(word);
        if sum > 0xffff {
            sum -= 0xffff;
        }
    }
    !(sum as u16)
}

/// A whole TCP or UDP segment over the pseudo-header `pseudo`, its checksum left partial as a pod's stack leaves it.
pub(crate) fn partial_segment(protocol: u8, data: &[u8], pseudo: impl Fn(usize) -> Sum) -> Vec<u8> {
    let (header_len, checksum_at) = if protocol == crate::l4::TCP {
        (20, 16)
    } else {
        (8, 6)
    };
    let mut segment = vec![0; header_len];
    segment[..4].copy_from_slice(&[0x9c, 0x40, 0x01, 0xbb]);
    segment.extend_from_slice(data);
    let len = segment.len();
    if protocol == crate::l4::TCP {
        segment[12] = 0x50;
    } else {
        segment[4..6].copy_from_slice(&(len as u16).to_be_bytes());
    }
    segment[checksum_at..checksum_at + 2].copy_from_slice(&pseudo(len).fold().to_be_bytes());
    segment
}
