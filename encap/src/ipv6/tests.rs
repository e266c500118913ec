use proptest::prelude::*;

use super::*;
use crate::l4;
use crate::testing::ipv6 as packet;

/// An options header of `len` bytes, filled with Pad1.
fn options(next: u8, len: usize) -> Vec<u8> {
    let mut header = vec![0; len];
    header[0] = next;
    header[1] = (len / 8 - 1) as u8;
    header
}

fn fragment_header(next: u8, offset: u16, more: bool) -> [u8; 8] {
    let [high, low] = (offset | u16::from(more)).to_be_bytes();
    [next, 0, high, low, 0, 0, 0, 9]
}

const UDP: [u8; 8] = [0, 1, 0, 2, 0, 8, 0, 0];

#[test]
fn a_header_is_read_field_by_field() {
    let mut bytes = packet(l4::UDP, &UDP);
    bytes[..4].copy_from_slice(&[0x6b, 0x91, 0x23, 0x45]);
    bytes.extend([0xa5; 10]);
    let info = parse(&bytes).unwrap();
    assert_eq!(
        (info.src, info.dst),
        ((0x2001_0db8 << 96) | 1, (0x2001_0db8 << 96) | 2)
    );
    assert_eq!((info.traffic_class, info.flow_label), (0xb9, 0x12345));
    assert_eq!(
        (
            info.payload_len,
            info.hop_limit,
            info.total_len(),
            info.upper_len()
        ),
        (8, 64, 48, 8)
    );
    assert_eq!(
        info.upper,
        Upper {
            protocol: l4::UDP,
            offset: 40,
            fragment: None
        }
    );
}

#[test]
fn bad_headers_are_refused_each_for_its_reason() {
    // Row 6.1, RFC 8200 section 3.
    let bytes = packet(l4::UDP, &UDP);
    for end in 0..40 {
        assert_eq!(parse(&bytes[..end]), Err(Ipv6Error::Truncated));
    }
    for end in 40..48 {
        assert_eq!(parse(&bytes[..end]), Err(Ipv6Error::BeyondFrame));
    }
    for version in (0..16).filter(|v| *v != 6) {
        let mut bytes = bytes.clone();
        bytes[0] = version << 4;
        assert_eq!(parse(&bytes), Err(Ipv6Error::Version));
    }
}

#[test]
fn extension_headers_are_walked_to_the_upper_layer() {
    // Row 6.2, RFC 8200 section 4.
    let chain = [
        options(43, 8),
        [60, 0, 4, 0, 0, 0, 0, 0].to_vec(),
        options(l4::UDP, 16),
        UDP.to_vec(),
    ]
    .concat();
    let info = parse(&packet(0, &chain)).unwrap();
    assert_eq!(
        info.upper,
        Upper {
            protocol: l4::UDP,
            offset: 72,
            fragment: None
        }
    );
    assert!(!info.upper.is_unknown());
}

#[test]
fn the_walk_is_bounded_in_headers_and_in_bytes() {
    // Row 6.2: what lies beyond is unknown, not refused.
    let chain = |headers: usize, len: usize| {
        let mut chain: Vec<u8> = (1..headers).flat_map(|_| options(60, len)).collect();
        chain.extend(options(l4::UDP, len));
        chain.extend(UDP);
        parse(&packet(60, &chain)).unwrap().upper
    };
    assert_eq!(
        chain(8, 8),
        Upper {
            protocol: l4::UDP,
            offset: 104,
            fragment: None
        }
    );
    assert!(chain(9, 8).is_unknown());
    assert_eq!(
        chain(4, 64),
        Upper {
            protocol: l4::UDP,
            offset: 40 + 256,
            fragment: None
        }
    );
    assert!(chain(5, 64).is_unknown());
    assert!(chain(1, 264).is_unknown());
}

#[test]
fn a_chain_cut_at_any_byte_is_refused() {
    // VPP 6c15c5b7118: an extension header that leads out of the packet.
    let chain = [
        options(43, 8),
        [60, 0, 4, 0, 0, 0, 0, 0].to_vec(),
        options(l4::UDP, 16),
    ]
    .concat();
    for end in 1..chain.len() {
        assert_eq!(
            parse(&packet(0, &chain[..end])),
            Err(Ipv6Error::ExtensionTruncated),
            "cut at {end}"
        );
    }
    assert_eq!(
        parse(&packet(60, &options(17, 8)[..0])),
        Err(Ipv6Error::ExtensionTruncated)
    );
}

#[test]
fn hop_by_hop_options_come_first_or_not_at_all() {
    // Row 6.3, RFC 8200 section 4.1.
    let chain = [options(0, 8), options(l4::UDP, 8), UDP.to_vec()].concat();
    assert_eq!(
        parse(&packet(60, &chain)),
        Err(Ipv6Error::HopByHopMisplaced)
    );
}

#[test]
fn routing_headers_of_type_0_are_refused_with_and_without_segments_left() {
    // Row 6.4, RFC 5095.
    for segments_left in [0, 1] {
        let chain = [&[l4::UDP, 0, 0, segments_left, 0, 0, 0, 0], &UDP[..]].concat();
        assert_eq!(parse(&packet(43, &chain)), Err(Ipv6Error::RoutingType0));
    }
}

#[test]
fn jumbograms_are_refused() {
    // Row 6.14, RFC 2675.
    let chain = [&[l4::UDP, 0, 0xc2, 4, 0, 1, 0, 0], &UDP[..]].concat();
    assert_eq!(parse(&packet(0, &chain)), Err(Ipv6Error::Jumbogram));
    let mut zero_len = packet(0, &chain);
    zero_len[4..6].fill(0);
    assert_eq!(parse(&zero_len), Err(Ipv6Error::Jumbogram));
}

#[test]
fn options_that_lead_out_of_their_header_are_refused() {
    for bad in [[1, 5, 0, 0, 0, 0], [5, 255, 0, 0, 0, 0], [0, 0, 0, 0, 0, 7]] {
        for kind in [0, 60] {
            let chain = [&[l4::UDP, 0][..], &bad, &UDP].concat();
            assert_eq!(parse(&packet(kind, &chain)), Err(Ipv6Error::BadOption));
        }
    }
}

#[test]
fn ah_esp_and_no_next_header_end_the_walk() {
    // Row 6.15, RFC 4302, RFC 4303.
    for protocol in [
        next_header::AUTHENTICATION,
        next_header::ESP,
        next_header::NONE,
    ] {
        let info = parse(&packet(60, &options(protocol, 8))).unwrap();
        assert_eq!((info.upper.protocol, info.upper.offset), (protocol, 48));
        assert!(!info.upper.is_unknown());
    }
}

#[test]
fn a_first_fragment_without_the_whole_chain_is_refused() {
    // Row 6.5, RFC 7112 section 5.
    let first = |next, data: &[u8]| {
        parse(&packet(
            44,
            &[&fragment_header(next, 0, true)[..], data].concat(),
        ))
    };
    let mut tcp = [0; 24];
    tcp[12] = 0x60;
    assert!(first(l4::TCP, &tcp).is_ok());
    assert_eq!(first(l4::TCP, &tcp[..16]), Err(Ipv6Error::IncompleteChain));
    tcp[12] = 0x70;
    assert_eq!(first(l4::TCP, &tcp), Err(Ipv6Error::IncompleteChain));
    assert!(first(l4::UDP, &UDP).is_ok());
    assert_eq!(
        first(60, &options(l4::UDP, 8)),
        Err(Ipv6Error::IncompleteChain)
    );
    assert!(first(60, &[options(l4::UDP, 8), UDP.to_vec()].concat()).is_ok());
}

#[test]
fn impossible_fragments_are_refused() {
    let fragment = |offset, more, len: usize| {
        parse(&packet(
            44,
            &[&fragment_header(l4::UDP, offset, more)[..], &vec![0; len]].concat(),
        ))
    };
    assert_eq!(fragment(8, true, 12), Err(Ipv6Error::FragmentLength));
    assert_eq!(fragment(8, false, 0), Err(Ipv6Error::FragmentLength));
    assert_eq!(fragment(0xfff8, false, 8), Err(Ipv6Error::FragmentOverflow));
    let info = fragment(16, true, 16).unwrap();
    assert!(info.is_later_fragment() && info.is_fragment());
    assert_eq!(
        info.upper,
        Upper {
            protocol: 17,
            offset: 48,
            fragment: Some(Fragment {
                id: 9,
                offset: 16,
                len: 16,
                more: true
            })
        }
    );
    let twice = [
        &fragment_header(44, 0, false)[..],
        &fragment_header(l4::UDP, 0, false),
        &UDP,
    ]
    .concat();
    assert_eq!(parse(&packet(44, &twice)), Err(Ipv6Error::NestedFragment));
}

#[test]
fn an_atomic_fragment_is_no_fragment() {
    // Row 6.7, RFC 6946.
    let info = parse(&packet(
        44,
        &[&fragment_header(l4::UDP, 0, false)[..], &UDP].concat(),
    ))
    .unwrap();
    assert!(!info.is_fragment() && info.upper.fragment.is_some_and(|f| f.is_atomic()));
    assert_eq!((info.upper.protocol, info.upper.offset), (l4::UDP, 48));
}

#[test]
fn a_later_fragment_is_not_walked_into() {
    let data = [0xff; 16];
    let info = parse(&packet(
        44,
        &[&fragment_header(60, 8, false)[..], &data].concat(),
    ))
    .unwrap();
    assert_eq!(info.upper.offset, 48);
    assert!(info.upper.is_unknown());
}

#[test]
fn the_hop_limit_is_decremented_down_to_one() {
    let mut bytes = packet(l4::UDP, &UDP);
    assert_eq!(decrement_hop_limit(&mut bytes), Some(63));
    assert_eq!(bytes[7], 63);
    for limit in [0, 1] {
        bytes[7] = limit;
        assert_eq!(decrement_hop_limit(&mut bytes), None);
        assert_eq!(bytes[7], limit);
    }
    assert_eq!(decrement_hop_limit(&mut bytes[..39]), None);
}

#[test]
fn addresses_fall_into_the_classes_of_rfc_4291() {
    // Row 6.12 and others.
    let of = |text: &str| class(text.parse::<std::net::Ipv6Addr>().unwrap().to_bits());
    for (text, wanted) in [
        ("::", AddrClass::Unspecified),
        ("::1", AddrClass::Loopback),
        ("::2", AddrClass::Unicast),
        ("::ffff:10.0.0.1", AddrClass::V4Mapped),
        ("fe80::1", AddrClass::LinkLocal),
        ("febf:ffff::1", AddrClass::LinkLocal),
        ("fec0::1", AddrClass::Unicast),
        ("fd00::1", AddrClass::Unicast),
        ("2001:db8::1", AddrClass::Unicast),
        ("feff::1", AddrClass::Unicast),
        ("ff02::1", AddrClass::Multicast),
        ("ffff::1", AddrClass::Multicast),
    ] {
        assert_eq!(of(text), wanted, "{text}");
    }
    for first in 0..=u16::MAX {
        let addr = u128::from(first) << 112 | 2;
        let unicast = class(addr) == AddrClass::Unicast;
        assert_eq!(
            is_surely_unicast(addr),
            unicast && first != 0 && first < 0xfe80,
            "{first:04x}"
        );
    }
    assert!(AddrClass::Unicast.is_valid_source() && !AddrClass::LinkLocal.is_valid_destination());
}

/// Chains of plausible extension headers, now and then with a byte changed.
fn nearly_ipv6() -> impl Strategy<Value = Vec<u8>> {
    let header = (
        prop::sample::select(vec![0u8, 43, 44, 60, 6, 17, 58, 50, 59]),
        1..4usize,
        any::<u16>(),
    );
    (
        prop::collection::vec(header, 1..6),
        prop::collection::vec(any::<u8>(), 0..40),
        any::<(u16, u8)>(),
        0..3u8,
    )
        .prop_map(|(headers, data, (at, value), mutate)| {
            let mut chain = Vec::new();
            for (index, (kind, units, word)) in headers.iter().enumerate() {
                let next = headers.get(index + 1).map_or(17, |h| h.0);
                chain.extend(match kind {
                    44 => fragment_header(next, word & 0x18, word & 0x100 != 0).to_vec(),
                    43 => vec![next, 0, (word & 7) as u8, 0, 0, 0, 0, 0],
                    0 | 60 => options(next, units * 8),
                    _ => continue,
                });
            }
            chain.extend(data);
            let mut bytes = packet(headers[0].0, &chain);
            if mutate == 0 {
                let at = usize::from(at) % bytes.len();
                bytes[at] = value;
            }
            bytes
        })
}

proptest! {
    #[test]
    fn the_short_way_agrees_with_the_long_one(bytes in nearly_ipv6()) {
        for end in 0..=bytes.len() {
            let (mut short, mut long) = (Ipv6Info::default(), Ipv6Info::default());
            let taken = short.read(&bytes[..end]);
            prop_assert_eq!(taken, long.read_any(&bytes[..end]));
            prop_assert!(taken.is_err() || short == long);
        }
    }

    #[test]
    fn what_is_accepted_is_what_etherparse_reads(bytes in nearly_ipv6()) {
        for end in (0..=bytes.len()).rev() {
            let cut = &bytes[..end];
            let Ok(ours) = parse(cut) else { continue };
            let (theirs, _) = etherparse::Ipv6Header::from_slice(cut).unwrap();
            prop_assert_eq!((ours.src.to_be_bytes(), ours.dst.to_be_bytes()), (theirs.source, theirs.destination));
            prop_assert_eq!((ours.payload_len, ours.hop_limit), (theirs.payload_length, theirs.hop_limit));
            prop_assert_eq!(ours.flow_label, theirs.flow_label.value());
            prop_assert_eq!(ours.traffic_class, theirs.traffic_class);
            prop_assert!(usize::from(ours.upper.offset) <= ours.total_len());
            // Etherparse walks on where we stop: over an authentication header, and without our bounds.
            let whole = &cut[..ours.total_len()];
            if !ours.upper.is_unknown() && ours.upper.protocol != next_header::AUTHENTICATION
                && let Ok(slice) = etherparse::Ipv6Slice::from_slice(whole)
            {
                prop_assert_eq!(slice.payload().ip_number.0, ours.upper.protocol);
                prop_assert_eq!(slice.payload().payload, &whole[usize::from(ours.upper.offset)..]);
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(next in prop::sample::select(vec![0u8, 43, 44, 60]), bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&packet(next, &bytes));
        let _ = parse(&bytes);
    }
}
