//! Whole IPv6 packets.

use proptest::prelude::*;

use super::build::{Content, PROTOCOLS, checksum_at, contents, fit, packet6, tuples};
use crate::nat::{Tuple6, Untranslatable, forward_ordinary6, translate_any6, translate6};
use crate::{ipv6, l4};

const POD: Tuple6 = Tuple6 {
    src: 0xfd00_0010 << 96 | 2,
    dst: 0x2001_0db8 << 96 | 9,
    ports: (40000, 443),
};
const NODE: Tuple6 = Tuple6 {
    src: 0x2001_0db8_0001 << 80 | 1,
    ports: (61234, 443),
    ..POD
};

fn translated(packet: &[u8], to: Tuple6) -> Vec<u8> {
    let ip = ipv6::parse(packet).unwrap();
    let mut packet = packet.to_vec();
    translate6(&mut packet, &ip, to).unwrap();
    packet
}

#[test]
fn a_packet_cut_anywhere_is_translated_or_left_as_it_was() {
    for protocol in PROTOCOLS {
        for options in [false, true] {
            let content = Content {
                options,
                ..Content::new(protocol, b"payload")
            };
            let packet = packet6(&content, fit(POD, &content));
            let ip = ipv6::parse(&packet).unwrap();
            for len in 0..packet.len() {
                let mut cut = packet[..len].to_vec();
                if translate6(&mut cut, &ip, NODE).is_err() {
                    assert_eq!(cut, packet[..len]);
                }
                let mut says_so = ip;
                says_so.payload_len = len.saturating_sub(40) as u16;
                let mut whole = [&packet[..], &[0xa5; 30]].concat();
                let before = whole.clone();
                let end = says_so.total_len();
                match translate6(&mut whole, &says_so, NODE) {
                    Err(Untranslatable) => assert_eq!(whole, before),
                    Ok(()) => assert_eq!(whole[end..], before[end..]),
                }
            }
        }
    }
}

#[test]
fn a_chain_too_long_to_be_walked_is_refused() {
    let mut payload = vec![];
    for _ in 0..9 {
        payload.extend_from_slice(&[60, 0, 1, 4, 0, 0, 0, 0]);
    }
    let packet = crate::testing::ipv6(60, &payload);
    let ip = ipv6::parse(&packet).unwrap();
    assert!(ip.upper.is_unknown());
    let mut out = packet.clone();
    assert_eq!(translate6(&mut out, &ip, NODE), Err(Untranslatable));
    assert_eq!(out, packet);
}

#[test]
fn another_implementation_finds_the_checksums_right() {
    for protocol in [l4::TCP, l4::UDP, l4::ICMPV6] {
        let content = Content::new(protocol, b"odd");
        let packet = translated(&packet6(&content, fit(POD, &content)), fit(NODE, &content));
        let sliced = etherparse::SlicedPacket::from_ip(&packet).unwrap();
        let (src, dst) = (NODE.src.to_be_bytes(), NODE.dst.to_be_bytes());
        let (wanted, is) = match sliced.transport.unwrap() {
            etherparse::TransportSlice::Tcp(tcp) => {
                (tcp.calc_checksum_ipv6(src, dst).unwrap(), tcp.checksum())
            }
            etherparse::TransportSlice::Udp(udp) => (
                udp.to_header()
                    .calc_checksum_ipv6_raw(src, dst, udp.payload())
                    .unwrap(),
                udp.checksum(),
            ),
            etherparse::TransportSlice::Icmpv6(icmp) => {
                assert!(icmp.is_checksum_valid(src, dst));
                continue;
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(is, wanted, "{protocol}");
    }
}

proptest! {
    #[test]
    fn a_translated_packet_is_one_built_with_the_new_tuple(content in contents(), from in tuples(), to in tuples()) {
        let (from, to) = (fit(from, &content), fit(to, &content));
        let built = packet6(&content, from);
        let there = translated(&built, to);
        prop_assert_eq!(&there, &packet6(&content, to));
        prop_assert_eq!(translated(&there, from), built);
    }

    #[test]
    fn a_wrong_checksum_stays_wrong_by_as_much(content in contents(), from in tuples(), to in tuples(), field in 1..0xffffu16) {
        let (from, to) = (fit(from, &content), fit(to, &content));
        let Some(at) = checksum_at(content.protocol) else { return Ok(()) };
        let mut packet = packet6(&content, from);
        let right = packet6(&content, to);
        let at = at + 40 + if content.options { 8 } else { 0 };
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
    fn the_quick_way_does_what_the_careful_one_does(content in contents(), from in tuples(), to in tuples(), padding in 0..60usize) {
        let mut packet = packet6(&content, fit(from, &content));
        let ip = ipv6::parse(&packet).unwrap();
        packet.resize(packet.len() + padding, 0xa5);
        let mut other = packet.clone();
        prop_assert_eq!(translate6(&mut packet, &ip, to), translate_any6(&mut other, &ip, to));
        prop_assert_eq!(packet, other);
    }

    #[test]
    fn forwarding_and_translating_in_one_is_one_after_the_other(
        data in prop::collection::vec(any::<u8>(), 0..70), tcp in any::<bool>(), (from, to) in (tuples(), tuples()),
        hop_limit in prop::sample::select(vec![0, 1, 2, 64, 255]), field in prop::option::of(any::<u16>()), cut in any::<prop::sample::Index>()
    ) {
        let content = Content::new(if tcp { l4::TCP } else { l4::UDP }, &data);
        let mut packet = packet6(&content, from);
        packet[7] = hop_limit;
        if let Some(field) = field {
            let at = 40 + checksum_at(content.protocol).unwrap();
            packet[at..at + 2].copy_from_slice(&field.to_be_bytes());
        }
        let mut other = packet.clone();
        let ip = ipv6::parse(&other).unwrap();
        if hop_limit > 1 {
            translate6(&mut other, &ip, to).unwrap();
            ipv6::decrement_hop_limit(&mut other);
        }
        let mut short = packet[..cut.index(if tcp { 60 } else { 48 })].to_vec();
        let before = short.clone();
        prop_assert!(!forward_ordinary6(&mut short, content.protocol, to));
        prop_assert_eq!(short, before);
        prop_assert_eq!(forward_ordinary6(&mut packet, content.protocol, to), hop_limit > 1);
        prop_assert_eq!(packet, other);
    }
}
