//! Whole IPv4 packets.

use proptest::prelude::*;

use super::build::{Content, PROTOCOLS, checksum_at, contents, fit, packet4, tuples};
use crate::nat::{Tuple4, Untranslatable, forward_ordinary4, translate_any4, translate4};
use crate::{ipv4, l4};

const POD: Tuple4 = Tuple4 {
    src: 0x0a41_0002,
    dst: 0xcb00_7109,
    ports: (40000, 443),
};
const NODE: Tuple4 = Tuple4 {
    src: 0xc0a8_0001,
    dst: 0xcb00_7109,
    ports: (61234, 443),
};

fn translated(packet: &[u8], to: Tuple4) -> Vec<u8> {
    let ip = ipv4::parse(packet).unwrap();
    let mut packet = packet.to_vec();
    translate4(&mut packet, &ip, to).unwrap();
    packet
}

#[test]
fn a_masqueraded_packet_is_the_one_that_the_node_would_send() {
    for protocol in PROTOCOLS {
        let content = Content::new(protocol, b"payload");
        let (pod, node) = (fit(POD, &content), fit(NODE, &content));
        assert_eq!(
            translated(&packet4(&content, pod), node),
            packet4(&content, node),
            "{protocol}"
        );
    }
}

#[test]
fn either_port_may_be_the_new_identifier_of_a_query() {
    let content = Content::new(l4::ICMP, b"ping");
    let with_id = |ports| Tuple4 { ports, ..NODE };
    let from = packet4(&content, with_id((7, 7)));
    let to = packet4(&content, with_id((9, 9)));
    for ports in [(9, 9), (9, 7), (7, 9)] {
        assert_eq!(translated(&from, with_id(ports)), to, "{ports:?}");
    }
}

#[test]
fn padding_behind_the_packet_is_not_touched() {
    for protocol in PROTOCOLS {
        for data in [&b""[..], b"x", b"payload"] {
            let content = Content::new(protocol, data);
            let packet = packet4(&content, POD);
            let padded = [&packet[..], &[0xa5; 40]].concat();
            let out = translated(&padded, NODE);
            assert_eq!(out[packet.len()..], [0xa5; 40], "{protocol}");
            assert_eq!(out[..packet.len()], translated(&packet, NODE));
        }
    }
}

#[test]
fn a_packet_cut_anywhere_is_translated_or_left_as_it_was() {
    for protocol in PROTOCOLS {
        for options in [false, true] {
            let content = Content {
                options,
                ..Content::new(protocol, b"payload")
            };
            let packet = packet4(&content, POD);
            let ip = ipv4::parse(&packet).unwrap();
            for len in 0..packet.len() {
                // Cut behind the parser's back, and by a total length that says so.
                let mut cut = packet[..len].to_vec();
                if translate4(&mut cut, &ip, NODE).is_err() {
                    assert_eq!(cut, packet[..len]);
                }
                let mut says_so = ip;
                says_so.total_len = len as u16;
                let mut whole = packet.clone();
                match translate4(&mut whole, &says_so, NODE) {
                    Err(Untranslatable) => assert_eq!(whole, packet),
                    Ok(()) => assert_eq!(whole[len..], packet[len..]),
                }
            }
        }
    }
}

#[test]
fn a_udp_checksum_that_comes_to_zero_is_sent_as_all_ones() {
    // Row 4.35, RFC 768. All ports, so that one of them makes it so.
    let content = Content::new(l4::UDP, b"payload");
    let packet = packet4(&content, POD);
    let mut all_ones = 0;
    for port in 0..=u16::MAX {
        let to = Tuple4 {
            ports: (port, 443),
            ..NODE
        };
        let out = translated(&packet, to);
        assert_eq!(out, packet4(&content, to), "{port}");
        all_ones += u32::from(out[26..28] == [0xff, 0xff]);
    }
    assert!(all_ones > 0);
}

#[test]
fn sctp_with_a_wrong_checksum_keeps_it() {
    let content = Content::new(l4::SCTP, b"chunks");
    for wrong in [[0; 4], [1, 2, 3, 4]] {
        let mut packet = packet4(&content, POD);
        packet[28..32].copy_from_slice(&wrong);
        let mut right = packet4(&content, NODE);
        right[28..32].copy_from_slice(&wrong);
        assert_eq!(translated(&packet, NODE), right);
    }
}

#[test]
fn another_implementation_finds_the_checksums_right() {
    for protocol in [l4::TCP, l4::UDP, l4::ICMP] {
        let content = Content::new(protocol, b"odd");
        let (pod, node) = (fit(POD, &content), fit(NODE, &content));
        let packet = translated(&packet4(&content, pod), node);
        let sliced = etherparse::SlicedPacket::from_ip(&packet).unwrap();
        let Some(etherparse::NetSlice::Ipv4(ip)) = sliced.net else {
            panic!("no IPv4")
        };
        let header = ip.header().to_header();
        assert_eq!(header.calc_header_checksum(), header.header_checksum);
        let (wanted, is) = match sliced.transport.unwrap() {
            etherparse::TransportSlice::Tcp(tcp) => (
                tcp.calc_checksum_ipv4(header.source, header.destination)
                    .unwrap(),
                tcp.checksum(),
            ),
            etherparse::TransportSlice::Udp(udp) => (
                udp.to_header()
                    .calc_checksum_ipv4(&header, udp.payload())
                    .unwrap(),
                udp.checksum(),
            ),
            etherparse::TransportSlice::Icmpv4(icmp) => (
                icmp.header().icmp_type.calc_checksum(icmp.payload()),
                icmp.checksum(),
            ),
            other => panic!("{other:?}"),
        };
        assert_eq!(is, wanted, "{protocol}");
    }
}

proptest! {
    #[test]
    fn a_translated_packet_is_one_built_with_the_new_tuple(content in contents(), from in tuples(), to in tuples()) {
        let (from, to) = (fit(from, &content), fit(to, &content));
        let built = packet4(&content, from);
        let there = translated(&built, to);
        prop_assert_eq!(&there, &packet4(&content, to));
        prop_assert_eq!(translated(&there, from), built);
    }

    #[test]
    fn a_wrong_checksum_stays_wrong_by_as_much(content in contents(), from in tuples(), to in tuples(), field in 1..0xffffu16) {
        let (from, to) = (fit(from, &content), fit(to, &content));
        let Some(at) = checksum_at(content.protocol) else { return Ok(()) };
        let mut packet = packet4(&content, from);
        let right = packet4(&content, to);
        let at = at + usize::from(packet[0] & 15) * 4;
        let word = |packet: &[u8]| u16::from_be_bytes([packet[at], packet[at + 1]]);
        let error = (0xffff + u32::from(field) - u32::from(word(&packet))) % 0xffff;
        packet[at..at + 2].copy_from_slice(&field.to_be_bytes());
        let there = translated(&packet, to);
        let error_after = (0xffff + u32::from(word(&there)) - u32::from(word(&right))) % 0xffff;
        if !content.no_checksum {
            prop_assert_eq!(error, error_after);
        }
        prop_assert_eq!(translated(&there, from), packet);
    }

    #[test]
    fn the_quick_way_does_what_the_careful_one_does(
        bytes in prop::collection::vec(any::<u8>(), 0..70), protocol in prop::sample::select(PROTOCOLS.to_vec()),
        word in prop::sample::select(vec![0, 0x4000, 0x2000, 0x2001, 0x0003]), to in tuples(), cut in 0..80usize
    ) {
        let mut packet = crate::testing::Ipv4Builder::new(protocol, &[], &bytes).flags_and_offset(word).bytes;
        let Ok(ip) = ipv4::parse(&packet) else { return Ok(()) };
        packet.truncate(packet.len().max(cut) - cut.min(packet.len()) / 20);
        let mut other = packet.clone();
        let done = translate4(&mut packet, &ip, to);
        // A frame shorter than the packet never gets here; the two differ in how much of it they look at.
        if packet.len() >= usize::from(ip.total_len) {
            prop_assert_eq!(done, translate_any4(&mut other, &ip, to));
            prop_assert_eq!(packet, other);
        }
    }

    #[test]
    fn forwarding_and_translating_in_one_is_one_after_the_other(
        data in prop::collection::vec(any::<u8>(), 0..70), tcp in any::<bool>(), (from, to) in (tuples(), tuples()),
        ttl in prop::sample::select(vec![0, 1, 2, 64, 255]), field in prop::option::of(any::<u16>()), cut in any::<prop::sample::Index>()
    ) {
        let content = Content::new(if tcp { l4::TCP } else { l4::UDP }, &data);
        let mut packet = packet4(&content, from);
        packet[8] = ttl;
        packet[10..12].fill(0);
        let sum = crate::checksum::of(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        if let Some(field) = field {
            let at = 20 + checksum_at(content.protocol).unwrap();
            packet[at..at + 2].copy_from_slice(&field.to_be_bytes());
        }
        let mut other = packet.clone();
        let ip = ipv4::parse(&other).unwrap();
        if ttl > 1 {
            translate4(&mut other, &ip, to).unwrap();
            ipv4::decrement_ttl(&mut other);
        }
        let mut short = packet[..cut.index(if tcp { 40 } else { 28 })].to_vec();
        let before = short.clone();
        prop_assert!(!forward_ordinary4(&mut short, content.protocol, to));
        prop_assert_eq!(short, before);
        prop_assert_eq!(forward_ordinary4(&mut packet, content.protocol, to), ttl > 1);
        prop_assert_eq!(packet, other);
    }
}
