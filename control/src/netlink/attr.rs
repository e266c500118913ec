//! Netlink messages and their attributes, read without copying. Whatever is cut short ends the iteration.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// One netlink message: the fields of `struct nlmsghdr` and what follows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    pub(super) payload: &'a [u8],
}

/// The messages of one datagram.
pub(super) struct Messages<'a>(pub(super) &'a [u8]);

const MESSAGE_HEADER_LEN: usize = 16;
const ATTRIBUTE_HEADER_LEN: usize = 4;

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let len = u32_at(self.0, 0)? as usize;
        let message = Message {
            kind: u16_at(self.0, 4)?,
            flags: u16_at(self.0, 6)?,
            sequence: u32_at(self.0, 8)?,
            payload: self.0.get(MESSAGE_HEADER_LEN..len)?,
        };
        self.0 = self.0.get(aligned(len)..).unwrap_or_default();
        Some(message)
    }
}

/// The attributes of a message or of a nested attribute: (type without flag bits, value).
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Attributes<'a> {
    /// The attributes behind a fixed header of `header_len` bytes.
    pub(super) fn after(payload: &'a [u8], header_len: usize) -> Self {
        Self(payload.get(aligned(header_len)..).unwrap_or_default())
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        const FLAGS: u16 = 0xc000;
        let len = u16_at(self.0, 0)? as usize;
        let kind = u16_at(self.0, 2)? & !FLAGS;
        let value = self.0.get(ATTRIBUTE_HEADER_LEN..len)?;
        self.0 = self.0.get(aligned(len)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// Rounds up to the four bytes that netlink aligns everything to.
pub(super) fn aligned(len: usize) -> usize {
    len.saturating_add(3) & !3
}

pub(super) fn u8_at(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// An IP address; its length tells the family.
pub(super) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(*bytes.first_chunk::<4>()?).into()),
        16 => Some(Ipv6Addr::from(*bytes.first_chunk::<16>()?).into()),
        _ => None,
    }
}

/// A string that ends at its first zero byte.
pub(super) fn string(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_longer_than_its_datagram_ends_the_iteration() {
        let mut bytes = vec![0; 20];
        bytes[..4].copy_from_slice(&24u32.to_ne_bytes());
        assert!(Messages(&bytes).next().is_none());
    }

    #[test]
    fn a_length_smaller_than_the_header_ends_the_iteration() {
        assert!(Messages(&[0; 32]).next().is_none());
        assert!(Attributes(&[0; 32]).next().is_none());
    }

    #[test]
    fn flag_bits_are_not_part_of_an_attributes_type() {
        let mut bytes = 5u16.to_ne_bytes().to_vec();
        bytes.extend(0x8001u16.to_ne_bytes());
        bytes.extend([7, 0, 0, 0]);
        assert_eq!(Attributes(&bytes).collect::<Vec<_>>(), [(1, &[7u8][..])]);
    }
}
