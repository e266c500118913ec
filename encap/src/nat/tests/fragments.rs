//! Fragments, translated each for itself, make up the translated packet.

use proptest::prelude::*;

use super::build::{Content, PROTOCOLS, contents, fit, packet4, packet6, tuples};
use crate::nat::{Tuple4, Tuple6, Untranslatable, translate4, translate6};
use crate::testing::{self, Ipv4Builder};
use crate::{ipv4, ipv6, l4};

/// Cuts the payload of an IPv4 packet into fragments of `len` bytes.
fn cut4(packet: &[u8], len: usize) -> Vec<Vec<u8>> {
    let (header, payload) = packet.split_at(usize::from(packet[0] & 15) * 4);
    let pieces = payload.chunks(len).enumerate();
    pieces
        .map(|(number, piece)| {
            let more = if (number + 1) * len < payload.len() {
                ipv4::MORE_FRAGMENTS
            } else {
                0
            };
            let bytes = [header, piece].concat();
            let total_len = bytes.len() as u16;
            Ipv4Builder { bytes }
                .total_len(total_len)
                .flags_and_offset(more | (number * len / 8) as u16)
                .bytes
        })
        .collect()
}

/// Cuts the payload of an IPv6 packet without extension headers into fragments of `len` bytes.
fn cut6(packet: &[u8], len: usize) -> Vec<Vec<u8>> {
    let (header, payload) = packet.split_at(40);
    let pieces = payload.chunks(len).enumerate();
    pieces
        .map(|(number, piece)| {
            let more = u16::from((number + 1) * len < payload.len());
            let [word0, word1] = ((number * len) as u16 | more).to_be_bytes();
            let extension = [header[6], 0, word0, word1, 0, 0, 0, 7];
            let mut bytes = testing::ipv6(44, &[&extension[..], piece].concat());
            bytes[8..40].copy_from_slice(&header[8..]);
            bytes
        })
        .collect()
}

#[test]
fn sctp_in_fragments_keeps_its_ports_or_is_refused() {
    let content = Content::new(l4::SCTP, &[7; 40]);
    let from = Tuple4 {
        src: 1,
        dst: 2,
        ports: (3, 4),
    };
    let same_ports = Tuple4 { src: 9, ..from };
    let fragments = cut4(&packet4(&content, from), 24);
    let whole = cut4(&packet4(&content, same_ports), 24);
    for (fragment, wanted) in fragments.iter().zip(whole) {
        let ip = ipv4::parse(fragment).unwrap();
        let mut out = fragment.clone();
        translate4(&mut out, &ip, same_ports).unwrap();
        assert_eq!(out, wanted);
    }
    let ip = ipv4::parse(&fragments[0]).unwrap();
    let mut out = fragments[0].clone();
    let other_ports = Tuple4 {
        ports: (5, 4),
        ..from
    };
    assert_eq!(translate4(&mut out, &ip, other_ports), Err(Untranslatable));
    assert_eq!(out, fragments[0]);
}

#[test]
fn a_first_fragment_that_ends_before_its_checksum_is_refused() {
    let content = Content::new(l4::TCP, &[7; 40]);
    let from = Tuple4 {
        src: 1,
        dst: 2,
        ports: (3, 4),
    };
    let first = &cut4(&packet4(&content, from), 16)[0];
    let ip = ipv4::parse(first).unwrap();
    let mut out = first.clone();
    assert_eq!(
        translate4(&mut out, &ip, from.reversed()),
        Err(Untranslatable)
    );
    assert_eq!(&out, first);
}

#[test]
fn an_atomic_fragment_is_a_whole_packet() {
    // RFC 6946, and the only kind of fragment in which SCTP's checksum can be updated.
    let from = Tuple6 {
        src: 1,
        dst: 2,
        ports: (3, 3),
    };
    for protocol in PROTOCOLS {
        let content = Content::new(protocol, &[7; 16]);
        let to = fit(from.reversed(), &content);
        let mut out = cut6(&packet6(&content, from), 1024).remove(0);
        let ip = ipv6::parse(&out).unwrap();
        translate6(&mut out, &ip, to).unwrap();
        assert_eq!(out, cut6(&packet6(&content, to), 1024)[0], "{protocol}");
    }
}

proptest! {
    #[test]
    fn of_ipv4(content in contents(), from in tuples(), to in tuples(), eights in 3..8usize) {
        let (from, to): (Tuple4, Tuple4) = (fit(from, &content), fit(to, &content));
        prop_assume!(content.protocol != l4::SCTP);
        let wanted = cut4(&packet4(&content, to), eights * 8);
        for (mut fragment, wanted) in cut4(&packet4(&content, from), eights * 8).into_iter().zip(wanted) {
            let ip = ipv4::parse(&fragment).unwrap();
            translate4(&mut fragment, &ip, to).unwrap();
            prop_assert_eq!(fragment, wanted);
        }
    }

    #[test]
    fn of_ipv6(mut content in contents(), from in tuples(), to in tuples(), eights in 3..8usize) {
        content.options = false;
        let (from, to): (Tuple6, Tuple6) = (fit(from, &content), fit(to, &content));
        prop_assume!(content.protocol != l4::SCTP);
        let wanted = cut6(&packet6(&content, to), eights * 8);
        for (mut fragment, wanted) in cut6(&packet6(&content, from), eights * 8).into_iter().zip(wanted) {
            let ip = ipv6::parse(&fragment).unwrap();
            translate6(&mut fragment, &ip, to).unwrap();
            prop_assert_eq!(fragment, wanted);
        }
    }
}
