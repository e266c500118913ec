use proptest::prelude::*;

use super::*;
use crate::testing::{Ipv4Builder, ipv6 as ipv6_packet, naive_checksum, partial_segment};
use crate::{ipv4, ipv6, l4};

#[test]
fn the_example_of_rfc_1071_section_3_sums_up() {
    let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    assert_eq!(Sum::of(&bytes).fold(), 0xddf2);
    assert_eq!(of(&bytes), !0xddf2);
}

#[test]
fn validity_and_comparison_agree_with_folding() {
    let sums = [
        0,
        1,
        0xfffe,
        0xffff,
        0x1_0000,
        0x1_fffe,
        0x2_fffd,
        u32::MAX.into(),
        0xffff_0000,
    ];
    for sum in sums
        .into_iter()
        .chain((0..1000).map(|n| n * 0x1234_5678_9abc))
    {
        let sum = Sum(sum);
        assert_eq!(sum.is_valid(), sum.fold() == 0xffff, "{sum:?}");
        let right = sum.fold();
        for word in [0, 1, 0xfffe, 0xffff, right, right.wrapping_add(1), !right] {
            assert_eq!(sum.folds_to(word), right == word, "{sum:?} {word:04x}");
        }
    }
    for word in 0..=u16::MAX {
        assert!(Sum::ZERO.add_u16(word).folds_to(word));
    }
}

#[test]
fn zero_in_ones_complement_is_a_multiple_of_all_ones() {
    let near = (0..0x2_0001).flat_map(|n| [n, n << 20, u64::MAX - n]);
    for sum in near {
        assert_eq!(is_zero(sum), sum % 0xffff == 0, "{sum:x}");
    }
}

#[test]
fn every_word_and_every_change_updates_as_computed_anew() {
    // All 2^16 checksums (through a free word) times changes of another word: RFC 1624 section 3.
    // The rest of the data is not all zero, or -0 and +0 could not be told apart.
    for free in 0..=u16::MAX {
        for (old, new) in [
            (0, 0xffff),
            (0xffff, 0),
            (0x4006, 0x3f06),
            (1, 0),
            (0x1234, 0xfedc),
            (7, 7),
        ] {
            let words = |word: u16| {
                let mut bytes = [0x45; 6];
                bytes[2..4].copy_from_slice(&free.to_be_bytes());
                bytes[4..6].copy_from_slice(&word.to_be_bytes());
                naive_checksum(&bytes)
            };
            assert_eq!(
                update16(words(old), old, new),
                words(new),
                "{free:04x}: {old:04x} -> {new:04x}"
            );
        }
    }
}

#[test]
fn an_updated_checksum_is_never_minus_zero() {
    // RFC 1624 section 5: the eqn 2 error. 0xffff would need a sum of zero.
    for checksum in 0..0xffff {
        for (old, new) in [(0x5555, 0x5555), (0x4006, 0x3f06), (0, 0xffff), (0xffff, 0)] {
            assert_ne!(update16(checksum, old, new), 0xffff);
        }
    }
}

#[test]
fn computed_udp_zero_is_sent_as_all_ones() {
    assert_eq!(udp_on_wire(0), 0xffff);
    assert_eq!(udp_on_wire(0x1234), 0x1234);
}

#[test]
fn crc32c_matches_rfc_3720_appendix_b_4() {
    assert_eq!(crc32c(&[&[0; 32]]), 0x8a91_36aa);
    assert_eq!(crc32c(&[&[0xff; 32]]), 0x62a8_ab43);
    assert_eq!(crc32c(&[b"123456789"]), 0xe306_9283);
    assert_eq!(crc32c(&[b"1234", b"56789"]), 0xe306_9283);
}

fn tcp_over_v4(data: &[u8]) -> Vec<u8> {
    let segment = partial_segment(l4::TCP, data, |len| {
        Sum::pseudo_v4(0x0a00_0001, 0x0a00_0002, l4::TCP, len as u16)
    });
    Ipv4Builder::new(l4::TCP, &[], &segment).bytes
}

#[test]
fn a_partial_checksum_is_completed_up_to_the_total_length_only() {
    let mut packet = tcp_over_v4(b"hello");
    packet.extend_from_slice(&[0xa5; 9]);
    let ip = ipv4::parse(&packet).unwrap();
    assert_eq!(complete_partial_v4(&mut packet, &ip), Completed::Filled);
    assert!(verify_v4(ip.src, ip.dst, l4::TCP, &packet[20..45]));
    assert_eq!(packet[45..], [0xa5; 9]);
    assert_eq!(complete_partial_v4(&mut packet, &ip), Completed::Untouched);
}

#[test]
fn a_wrong_checksum_that_is_not_partial_stays_wrong() {
    // Row 4.34: a bad checksum in transit is forwarded as it came.
    let packet = tcp_over_v4(b"hello");
    let ip = ipv4::parse(&packet).unwrap();
    let partial = u16::from_be_bytes([packet[36], packet[37]]);
    for checksum in (0..=u16::MAX).filter(|c| *c != partial) {
        let mut wrong = packet.clone();
        wrong[36..38].copy_from_slice(&checksum.to_be_bytes());
        let before = wrong.clone();
        assert_eq!(complete_partial_v4(&mut wrong, &ip), Completed::Untouched);
        assert_eq!(wrong, before);
    }
}

#[test]
fn a_udp_checksum_of_zero_stays_zero_and_a_completed_one_is_never_zero() {
    // Row 4.35, RFC 768.
    let pseudo = |len: usize| Sum::pseudo_v4(0x0a00_0001, 0x0a00_0002, l4::UDP, len as u16);
    let mut seen_all_ones = false;
    for word in 0..=u16::MAX {
        let segment = partial_segment(l4::UDP, &word.to_be_bytes(), pseudo);
        let mut packet = Ipv4Builder::new(l4::UDP, &[], &segment).bytes;
        let ip = ipv4::parse(&packet).unwrap();
        assert_eq!(complete_partial_v4(&mut packet, &ip), Completed::Filled);
        assert_ne!(packet[26..28], [0, 0]);
        seen_all_ones |= packet[26..28] == [0xff, 0xff];
    }
    assert!(
        seen_all_ones,
        "one of the words must sum up to a checksum of zero"
    );
    let mut none = Ipv4Builder::new(l4::UDP, &[], &[0, 1, 0, 2, 0, 9, 0, 0, 7]).bytes;
    let ip = ipv4::parse(&none).unwrap();
    assert_eq!(complete_partial_v4(&mut none, &ip), Completed::Untouched);
    assert_eq!(none[26..28], [0, 0]);
}

#[test]
fn fragments_are_left_alone() {
    let whole = tcp_over_v4(&[7; 12]);
    let mut fragment = Ipv4Builder { bytes: whole }
        .flags_and_offset(ipv4::MORE_FRAGMENTS)
        .bytes;
    let ip = ipv4::parse(&fragment).unwrap();
    let before = fragment.clone();
    assert_eq!(
        complete_partial_v4(&mut fragment, &ip),
        Completed::Untouched
    );
    assert_eq!(fragment, before);
}

#[test]
fn an_offloaded_sctp_checksum_is_completed_and_a_wrong_one_kept() {
    let mut packet = Ipv4Builder::new(
        l4::SCTP,
        &[],
        &[&[0, 1, 0, 2, 9, 9, 9, 9][..], &[0; 4], b"chunks"].concat(),
    )
    .bytes;
    let ip = ipv4::parse(&packet).unwrap();
    assert_eq!(complete_partial_v4(&mut packet, &ip), Completed::Filled);
    let field: [u8; 4] = packet[28..32].try_into().unwrap();
    let mut zeroed = packet[20..].to_vec();
    zeroed[8..12].fill(0);
    assert_eq!(u32::from_le_bytes(field), crc32c(&[&zeroed]));
    packet[28] ^= 1;
    let before = packet.clone();
    assert_eq!(complete_partial_v4(&mut packet, &ip), Completed::Untouched);
    assert_eq!(packet, before);
}

#[test]
fn a_received_udp_checksum_is_right_or_none() {
    // Rows V7, V8 and 6.13.
    let pseudo = |len: usize| Sum::pseudo_v4(1, 2, l4::UDP, len as u16);
    let mut datagram = partial_segment(l4::UDP, b"payload", pseudo);
    let right = Sum::of(&datagram).checksum();
    for checksum in 0..=u16::MAX {
        datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
        assert_eq!(
            verify_udp_v4(1, 2, &datagram),
            checksum == right || checksum == 0
        );
    }
    datagram[6..8].copy_from_slice(&right.to_be_bytes());
    assert!(
        verify_udp_v4(1, 2, &[&datagram[..], &[0xee; 5]].concat()),
        "padding is ignored"
    );
    assert!(
        !verify_udp_v4(1, 2, &datagram[..14]),
        "the length leads out of the packet"
    );

    let pseudo = |len: usize| Sum::pseudo_v6(1, 2, l4::UDP, len as u32);
    let mut datagram = partial_segment(l4::UDP, b"payload", pseudo);
    assert!(!verify_udp_v6(1, 2, &datagram, true));
    let right = Sum::of(&datagram).checksum();
    datagram[6..8].copy_from_slice(&right.to_be_bytes());
    assert!(verify_udp_v6(1, 2, &datagram, false));
    datagram[6..8].fill(0);
    assert!(verify_udp_v6(1, 2, &datagram, true) && !verify_udp_v6(1, 2, &datagram, false));
}

proptest! {
    #[test]
    fn the_sum_equals_the_naive_one(bytes in prop::collection::vec(any::<u8>(), 0..2000), cut in any::<prop::sample::Index>()) {
        prop_assert_eq!(of(&bytes), naive_checksum(&bytes));
        let cut = cut.index(bytes.len() + 1) & !1;
        prop_assert_eq!(Sum::of(&bytes[..cut]).add_bytes(&bytes[cut..]).checksum(), naive_checksum(&bytes));
    }

    #[test]
    fn numbers_sum_up_as_their_bytes_do(a in any::<u16>(), b in any::<u32>(), c in any::<u128>()) {
        let bytes = [&a.to_be_bytes()[..], &b.to_be_bytes(), &c.to_be_bytes()].concat();
        prop_assert_eq!(Sum::ZERO.add_u16(a).add_u32(b).add_u128(c).fold(), !naive_checksum(&bytes));
    }

    #[test]
    fn incremental_equals_recomputed(
        mut words in prop::collection::vec(any::<u16>(), 2..40), at in any::<prop::sample::Index>(), new in any::<u32>()
    ) {
        // Not all zero before and after, or -0 and +0 could not be told apart (RFC 1624 section 3).
        words.push(1);
        let bytes = |words: &[u16]| words.iter().flat_map(|w| w.to_be_bytes()).collect::<Vec<u8>>();
        let before = naive_checksum(&bytes(&words));
        let at = at.index(words.len() - 2);
        let (old0, old1) = (words[at], words[at + 1]);
        words[at] = (new >> 16) as u16;
        let after_one = update16(before, old0, words[at]);
        prop_assert_eq!(after_one, naive_checksum(&bytes(&words)));
        words[at + 1] = new as u16;
        let after_two = update32(before, u32::from(old0) << 16 | u32::from(old1), new);
        prop_assert_eq!(after_two, naive_checksum(&bytes(&words)));
    }

    #[test]
    fn partial_checksums_over_ipv6_are_completed(data in prop::collection::vec(any::<u8>(), 0..300), tcp in any::<bool>()) {
        let protocol = if tcp { l4::TCP } else { l4::UDP };
        let (src, dst) = (0x2001_0db8_0000_0000_0000_0000_0000_0001, 0x2001_0db8_0000_0000_0000_0000_0000_0002);
        let segment = partial_segment(protocol, &data, |len| Sum::pseudo_v6(src, dst, protocol, len as u32));
        let mut packet = ipv6_packet(protocol, &segment);
        let ip = ipv6::parse(&packet).unwrap();
        prop_assert_eq!(complete_partial_v6(&mut packet, &ip), Completed::Filled);
        prop_assert!(verify_v6(src, dst, protocol, &packet[40..]));
    }

    #[test]
    fn completing_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..100), ip in prop::collection::vec(any::<u8>(), 60..100)) {
        let v4 = Ipv4Builder::new(ip[0] % 140, &[], &ip[1..]).bytes;
        if let Ok(info) = ipv4::parse(&v4) {
            complete_partial_v4(&mut bytes, &info);
        }
        if let Ok(info) = ipv6::parse(&ipv6_packet(ip[0] % 140, &ip[1..])) {
            complete_partial_v6(&mut bytes, &info);
        }
    }
}
