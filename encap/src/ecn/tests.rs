use super::*;
use crate::testing::{Ipv4Builder, ipv6 as ipv6_packet, naive_checksum};

const ALL: [Ecn; 4] = [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce];

/// RFC 6040 figure 4, row by row as printed: inner down, outer across in the order of `ALL`. None is "drop".
const FIGURE_4: [[Option<Ecn>; 4]; 4] = [
    [
        Some(Ecn::NotEct),
        Some(Ecn::NotEct),
        Some(Ecn::NotEct),
        None,
    ],
    [
        Some(Ecn::Ect0),
        Some(Ecn::Ect0),
        Some(Ecn::Ect1),
        Some(Ecn::Ce),
    ],
    [
        Some(Ecn::Ect1),
        Some(Ecn::Ect1),
        Some(Ecn::Ect1),
        Some(Ecn::Ce),
    ],
    [Some(Ecn::Ce), Some(Ecn::Ce), Some(Ecn::Ce), Some(Ecn::Ce)],
];

fn cases() -> impl Iterator<Item = (Ecn, Ecn, Option<Ecn>)> {
    ALL.into_iter().zip(FIGURE_4).flat_map(|(inner, row)| {
        ALL.into_iter()
            .zip(row)
            .map(move |(outer, forwarded)| (inner, outer, forwarded))
    })
}

#[test]
fn encapsulation_copies_the_field_in_normal_mode() {
    // Row T-ECN-in, RFC 6040 section 4.1.
    for ecn in ALL {
        assert_eq!(encapsulate(ecn), ecn);
    }
}

#[test]
fn decapsulation_follows_figure_4_of_rfc_6040() {
    // Row T-ECN-out, all 16 cases.
    for (inner, outer, forwarded) in cases() {
        assert_eq!(
            decapsulate(inner, outer).ok(),
            forwarded,
            "inner {inner:?}, outer {outer:?}"
        );
    }
}

#[test]
fn ipv4_headers_take_the_result_with_a_right_checksum_and_keep_their_dscp() {
    for (inner, outer, forwarded) in cases() {
        for dscp in 0..64 {
            let before = Ipv4Builder::new(6, &[], &[1; 20])
                .byte(1, dscp << 2 | inner as u8)
                .bytes;
            let mut packet = before.clone();
            assert_eq!(
                decapsulate_ipv4(&mut packet, outer).is_ok(),
                forwarded.is_some()
            );
            let expected = forwarded.unwrap_or(inner);
            assert_eq!(packet[1], dscp << 2 | expected as u8);
            assert_eq!(naive_checksum(&packet[..20]), 0);
            packet[1] = before[1];
            packet[10..12].copy_from_slice(&before[10..12]);
            assert_eq!(packet, before);
        }
    }
}

#[test]
fn ipv6_headers_take_the_result_and_keep_all_else() {
    for (inner, outer, forwarded) in cases() {
        let mut before = ipv6_packet(59, &[]);
        before[0] = 0x6a;
        before[1] = 0xcf | (inner as u8) << 4;
        let mut packet = before.clone();
        assert_eq!(
            decapsulate_ipv6(&mut packet, outer).is_ok(),
            forwarded.is_some()
        );
        before[1] = 0xcf | (forwarded.unwrap_or(inner) as u8) << 4;
        assert_eq!(packet, before);
    }
}

#[test]
fn bytes_too_short_for_a_header_are_left_alone() {
    for len in 0..20 {
        let mut bytes = vec![0x42; len];
        let _ = decapsulate_ipv4(&mut bytes, Ecn::Ce);
        let _ = decapsulate_ipv6(&mut bytes, Ecn::Ce);
        assert!(bytes.iter().all(|b| *b == 0x42));
    }
}
