//! ICMP errors for IPv4.

use proptest::prelude::*;

use super::build::{Content, PROTOCOLS, contents, error4, fit, packet4, tuples};
use crate::ipv4::{self, Ipv4Info};
use crate::l4;
use crate::nat::{QuoteError, Quoted4, Tuple4, icmp_error4, mtu_of_error4, translate_error4};
use crate::testing::Ipv4Builder;

const ROUTER: u32 = 0xc633_6401;
const FROM_NODE: Tuple4 = Tuple4 {
    src: 0xc0a8_0001,
    dst: 0xcb00_7109,
    ports: (61234, 443),
};
const FROM_POD: Tuple4 = Tuple4 {
    src: 0x0a41_0002,
    ports: (40000, 443),
    ..FROM_NODE
};

fn found(packet: &[u8]) -> Result<Quoted4, QuoteError> {
    icmp_error4(packet, &ipv4::parse(packet).unwrap())
}

fn translated(packet: &[u8], outer: (u32, u32), inner: Tuple4) -> Vec<u8> {
    let ip = ipv4::parse(packet).unwrap();
    let quoted = icmp_error4(packet, &ip).unwrap();
    let mut out = packet.to_vec();
    translate_error4(&mut out, &ip, &quoted, outer, inner).unwrap();
    out
}

#[test]
fn an_error_about_the_node_becomes_one_about_the_pod() {
    for protocol in PROTOCOLS {
        let content = Content::new(protocol, &[9; 30]);
        let (node, pod) = (fit(FROM_NODE, &content), fit(FROM_POD, &content));
        // In a quote nobody checks SCTP's, so nobody updates it.
        if protocol == l4::SCTP {
            continue;
        }
        for (kind, code) in [(3, 1), (3, 3), (3, 4), (4, 0), (11, 0), (11, 1), (12, 0)] {
            let error = error4(kind, code, (ROUTER, node.src), &packet4(&content, node));
            let wanted = error4(kind, code, (ROUTER, pod.src), &packet4(&content, pod));
            assert_eq!(translated(&error, (ROUTER, pod.src), pod), wanted);
        }
    }
}

#[test]
fn the_quote_tells_the_flow() {
    let quoted = |protocol| {
        let content = Content::new(protocol, b"data");
        let packet = packet4(&content, fit(FROM_NODE, &content));
        found(&error4(3, 3, (ROUTER, FROM_NODE.src), &packet)).unwrap()
    };
    let tcp = quoted(l4::TCP);
    assert_eq!((tcp.protocol, tcp.tuple), (l4::TCP, FROM_NODE));
    assert_eq!(tcp.tcp_sequence, Some(0x0102_0304));
    let udp = quoted(l4::UDP);
    assert_eq!((udp.tuple, udp.tcp_sequence), (FROM_NODE, None));
    assert_eq!(quoted(l4::ICMP).tuple.ports, (61234, 61234));
    assert_eq!(quoted(47).tuple.ports, (0, 0));
}

#[test]
fn wrong_checksums_and_what_is_no_error_are_refused() {
    // Row N19.
    let content = Content::new(l4::UDP, b"data");
    let quote = packet4(&content, FROM_NODE);
    let ends = (ROUTER, FROM_NODE.src);
    let good = error4(3, 3, ends, &quote);
    assert!(found(&good).is_ok());

    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    assert_eq!(found(&bad), Err(QuoteError::Checksum));
    for at in 0..20 {
        let mut bad = quote.clone();
        bad[at] ^= 0x80;
        let refused = found(&error4(3, 3, ends, &bad)).unwrap_err();
        let is_other = matches!(at, 0 | 2) && refused == QuoteError::Header;
        assert!(is_other || refused == QuoteError::HeaderChecksum, "{at}");
    }
    assert_eq!(
        found(&error4(5, 1, ends, &quote)),
        Err(QuoteError::Redirect)
    );
    for kind in [0, 8, 13, 37, 250] {
        assert_eq!(
            found(&error4(kind, 0, ends, &quote)),
            Err(QuoteError::NotAnError)
        );
    }
    assert_eq!(found(&quote), Err(QuoteError::NotAnError));
    assert_eq!(
        found(&error4(3, 3, ends, &good)),
        Err(QuoteError::AboutError)
    );
    let fragment = Ipv4Builder { bytes: good }.flags_and_offset(ipv4::MORE_FRAGMENTS);
    let fragment = fragment.bytes;
    let ip = Ipv4Info {
        flags_and_offset: ipv4::MORE_FRAGMENTS,
        ..ipv4::parse(&error4(3, 3, ends, &quote)).unwrap()
    };
    assert_eq!(icmp_error4(&fragment, &ip), Err(QuoteError::Fragment));
}

#[test]
fn a_quoted_later_fragment_has_no_ports_and_gets_addresses_only() {
    let content = Content::new(l4::UDP, &[9; 30]);
    let fragment = |tuple| {
        let bytes = packet4(&content, tuple);
        Ipv4Builder { bytes }.flags_and_offset(5).bytes
    };
    let same_ports = Tuple4 {
        ports: FROM_NODE.ports,
        ..FROM_POD
    };
    let error = error4(11, 1, (ROUTER, FROM_NODE.src), &fragment(FROM_NODE));
    let quoted = found(&error).unwrap();
    assert!(quoted.is_later_fragment);
    assert_eq!(quoted.tuple.ports, (0, 0));
    let out = translated(&error, (ROUTER, FROM_POD.src), FROM_POD);
    let mut quote = fragment(same_ports);
    // The bytes at a checksum's place are data.
    quote[26..28].copy_from_slice(&fragment(FROM_NODE)[26..28]);
    assert_eq!(out, error4(11, 1, (ROUTER, FROM_POD.src), &quote));
}

#[test]
fn a_quote_cut_anywhere_is_translated_up_to_its_end_or_refused() {
    for protocol in PROTOCOLS {
        for options in [false, true] {
            let content = Content {
                options,
                ..Content::new(protocol, &[9; 30])
            };
            let (node, pod) = (fit(FROM_NODE, &content), fit(FROM_POD, &content));
            let (quote, wanted) = (packet4(&content, node), packet4(&content, pod));
            let header_len = usize::from(quote[0] & 15) * 4;
            for len in 0..=quote.len() {
                let error = error4(3, 1, (ROUTER, node.src), &quote[..len]);
                let needed = header_len
                    + if protocol == 47 || protocol == 50 {
                        0
                    } else {
                        8
                    };
                let Ok(_) = found(&error) else {
                    assert!(len < needed, "{protocol} {len}");
                    continue;
                };
                assert!(len >= needed, "{protocol} {len}");
                let out = translated(&error, (ROUTER, pod.src), pod);
                let ip = ipv4::parse(&out).unwrap();
                assert!(crate::checksum::Sum::of(&out[20..]).is_valid());
                assert_eq!((ip.src, ip.dst), (ROUTER, pod.src));
                // TCP's checksum is changed only if all of it is there; SCTP's never.
                if protocol != l4::SCTP && !(protocol == l4::TCP && len == header_len + 17) {
                    assert_eq!(out[28..], wanted[..len], "{protocol} {len}");
                }
                assert_eq!(translated(&out, (ROUTER, node.src), node), error);
            }
        }
    }
}

#[test]
fn what_follows_the_quoted_packet_is_not_touched() {
    // RFC 4884: padding and an extension structure. The quoted packet is a fragment of 8 bytes.
    let content = Content::new(l4::TCP, &[9; 30]);
    let quote = |tuple| {
        let bytes = packet4(&content, tuple);
        let quote = Ipv4Builder { bytes }.total_len(28);
        let quote = quote.flags_and_offset(ipv4::MORE_FRAGMENTS).bytes;
        [&quote[..28], &[0; 100], &[0x20, 0, 0xdf, 0xff]].concat()
    };
    let error = error4(3, 4, (ROUTER, FROM_NODE.src), &quote(FROM_NODE));
    let wanted = error4(3, 4, (ROUTER, FROM_POD.src), &quote(FROM_POD));
    assert_eq!(translated(&error, (ROUTER, FROM_POD.src), FROM_POD), wanted);
}

#[test]
fn the_mtu_is_read_in_fragmentation_needed_only() {
    let quote = packet4(&Content::new(l4::UDP, b"data"), FROM_NODE);
    let ends = (ROUTER, FROM_NODE.src);
    let mut error = error4(3, 4, ends, &quote);
    let ip = ipv4::parse(&error).unwrap();
    assert_eq!(mtu_of_error4(&error, &ip), Some(1500));
    for mtu in [0, 1450, 0xffff, 1_u16] {
        error[26..28].copy_from_slice(&mtu.to_be_bytes());
        assert_eq!(mtu_of_error4(&error, &ip), Some(mtu));
    }
    for (kind, code) in [(3, 3), (11, 4), (8, 4)] {
        let other = error4(kind, code, ends, &quote);
        assert_eq!(mtu_of_error4(&other, &ip), None);
    }
}

proptest! {
    #[test]
    fn a_translated_error_is_one_built_about_the_other_flow(
        content in contents(), from in tuples(), to in tuples(), outer in any::<(u32, u32)>(), outer_to in any::<(u32, u32)>(),
    ) {
        let (from, to) = (fit(from, &content), fit(to, &content));
        prop_assume!(content.protocol != l4::SCTP);
        let built = error4(3, 1, outer, &packet4(&content, from));
        let there = translated(&built, outer_to, to);
        prop_assert_eq!(&there, &error4(3, 1, outer_to, &packet4(&content, to)));
        prop_assert_eq!(translated(&there, outer, from), built);
    }

    #[test]
    fn any_bytes_quoted_never_panic(quote in prop::collection::vec(any::<u8>(), 0..80), protocol in any::<u8>(), to in tuples(), junk in any::<bool>()) {
        // Headers that are right as far as they get, and bytes that are nothing at all.
        let quote = if junk { quote } else { Ipv4Builder::new(protocol, &[], &quote).bytes };
        let error = error4(11, 0, (1, 2), &quote);
        let ip = ipv4::parse(&error).unwrap();
        if let Ok(quoted) = icmp_error4(&error, &ip) {
            for len in 0..=error.len() {
                let mut cut = error[..len].to_vec();
                let _ = translate_error4(&mut cut, &ip, &quoted, (3, 4), to);
            }
        }
    }
}
