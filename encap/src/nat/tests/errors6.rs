//! ICMPv6 errors.

use proptest::prelude::*;

use super::build::{Content, PROTOCOLS, contents, error6, fit, packet6, tuples};
use crate::nat::{QuoteError, Quoted6, Tuple6, icmp_error6, mtu_of_error6, translate_error6};
use crate::{checksum, ipv6, l4};

const ROUTER: u128 = 0x2001_0db8_00ff << 80 | 1;
const FROM_NODE: Tuple6 = Tuple6 {
    src: 0x2001_0db8_0001 << 80 | 1,
    dst: 0x2001_0db8_0002 << 80 | 9,
    ports: (61234, 443),
};
const FROM_POD: Tuple6 = Tuple6 {
    src: 0xfd00_0010 << 96 | 2,
    ports: (40000, 443),
    ..FROM_NODE
};

fn found(packet: &[u8]) -> Result<Quoted6, QuoteError> {
    icmp_error6(packet, &ipv6::parse(packet).unwrap())
}

fn translated(packet: &[u8], outer: (u128, u128), inner: Tuple6) -> Vec<u8> {
    let ip = ipv6::parse(packet).unwrap();
    let quoted = icmp_error6(packet, &ip).unwrap();
    let mut out = packet.to_vec();
    translate_error6(&mut out, &ip, &quoted, outer, inner).unwrap();
    out
}

#[test]
fn the_quote_tells_the_flow_and_whatever_is_wrong_is_refused() {
    let content = Content::new(l4::TCP, b"data");
    let quote = packet6(&content, FROM_NODE);
    let ends = (ROUTER, FROM_NODE.src);
    for kind in 1..=4 {
        let quoted = found(&error6(kind, ends, &quote)).unwrap();
        assert_eq!((quoted.protocol, quoted.tuple), (l4::TCP, FROM_NODE));
        assert_eq!(quoted.tcp_sequence, Some(0x0102_0304));
    }
    for kind in [0, 5, 127, 128, 129, 135, 255] {
        assert_eq!(
            found(&error6(kind, ends, &quote)),
            Err(QuoteError::NotAnError)
        );
    }
    assert_eq!(found(&error6(137, ends, &quote)), Err(QuoteError::Redirect));
    assert_eq!(found(&quote), Err(QuoteError::NotAnError));
    let good = error6(1, ends, &quote);
    assert_eq!(found(&error6(1, ends, &good)), Err(QuoteError::AboutError));
    // Every bit of the message counts, and the addresses of the pseudo-header.
    for at in 8..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(found(&bad).is_err(), "{at}");
    }
    let mut quote = quote;
    quote[0] = 0x45;
    assert_eq!(found(&error6(1, ends, &quote)), Err(QuoteError::Header));
}

#[test]
fn a_quoted_later_fragment_has_no_ports_and_gets_addresses_only() {
    let fragment = |src: u128, offset: u16| {
        let [o0, o1] = offset.to_be_bytes();
        let payload = [&[l4::UDP, 0, o0, o1, 0, 0, 0, 7][..], &[9; 24]].concat();
        let mut packet = crate::testing::ipv6(44, &payload);
        packet[8..24].copy_from_slice(&src.to_be_bytes());
        packet
    };
    let error = error6(3, (ROUTER, FROM_NODE.src), &fragment(FROM_NODE.src, 64));
    let quoted = found(&error).unwrap();
    assert!(quoted.is_later_fragment);
    assert_eq!(quoted.tuple.ports, (0, 0));
    let inner = Tuple6 {
        dst: quoted.tuple.dst,
        ..FROM_POD
    };
    let out = translated(&error, (ROUTER, FROM_POD.src), inner);
    let wanted = error6(3, (ROUTER, FROM_POD.src), &fragment(FROM_POD.src, 64));
    assert_eq!(out, wanted);
    // The first fragment has them.
    let error = error6(3, (ROUTER, FROM_NODE.src), &fragment(FROM_NODE.src, 1));
    assert_eq!(found(&error).unwrap().tuple.ports, (0x0909, 0x0909));
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
            let (quote, wanted) = (packet6(&content, node), packet6(&content, pod));
            let headers_len = if options { 48 } else { 40 };
            for len in 0..=quote.len() {
                let error = error6(1, (ROUTER, node.src), &quote[..len]);
                let needed = headers_len
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
                assert!(checksum::verify_v6(ROUTER, pod.src, l4::ICMPV6, &out[40..]));
                if protocol != l4::SCTP && !(protocol == l4::TCP && len == headers_len + 17) {
                    assert_eq!(out[48..], wanted[..len], "{protocol} {len}");
                }
                assert_eq!(translated(&out, (ROUTER, node.src), node), error);
            }
        }
    }
}

#[test]
fn the_mtu_is_read_in_packet_too_big_only() {
    let quote = packet6(&Content::new(l4::UDP, b"data"), FROM_NODE);
    let ends = (ROUTER, FROM_NODE.src);
    let mut error = error6(2, ends, &quote);
    let ip = ipv6::parse(&error).unwrap();
    assert_eq!(mtu_of_error6(&error, &ip), Some(1500));
    for mtu in [0, 1430, u32::MAX, 1] {
        error[44..48].copy_from_slice(&mtu.to_be_bytes());
        assert_eq!(mtu_of_error6(&error, &ip), Some(mtu));
    }
    for kind in [1, 3, 128] {
        let other = error6(kind, ends, &quote);
        assert_eq!(mtu_of_error6(&other, &ip), None);
    }
}

proptest! {
    #[test]
    fn a_translated_error_is_one_built_about_the_other_flow(
        content in contents(), from in tuples(), to in tuples(), outer in any::<(u128, u128)>(), outer_to in any::<(u128, u128)>(),
    ) {
        let (from, to) = (fit(from, &content), fit(to, &content));
        prop_assume!(content.protocol != l4::SCTP);
        let built = error6(2, outer, &packet6(&content, from));
        let there = translated(&built, outer_to, to);
        prop_assert_eq!(&there, &error6(2, outer_to, &packet6(&content, to)));
        prop_assert_eq!(translated(&there, outer, from), built);
    }

    #[test]
    fn any_bytes_quoted_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), next in prop::sample::select(vec![0, 43, 44, 60, 6, 17, 58]), to in tuples(), junk in any::<bool>()) {
        let quote = if junk { bytes } else { crate::testing::ipv6(next, &bytes) };
        let error = error6(1, (1, 2), &quote);
        let ip = ipv6::parse(&error).unwrap();
        if let Ok(quoted) = icmp_error6(&error, &ip) {
            for len in 0..=error.len() {
                let mut cut = error[..len].to_vec();
                let _ = translate_error6(&mut cut, &ip, &quoted, (3, 4), to);
            }
        }
    }
}
