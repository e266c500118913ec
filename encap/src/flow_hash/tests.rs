use core::hash::Hasher;

use proptest::prelude::*;
use siphasher::sip::SipHasher13;

use super::*;
use crate::testing::{Ipv4Builder, ipv6 as ipv6_packet};
use crate::{ipv4, ipv6};

const KEY: HashKey = HashKey([0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908]);

/// SipHash-1-3 by someone else, over the same bytes, folded to 32 bits.
fn oracle(key: HashKey, message: &[u8]) -> u32 {
    let mut hasher = SipHasher13::new_with_keys(key.0[0], key.0[1]);
    hasher.write(message);
    let hash = hasher.finish();
    hash as u32 ^ (hash >> 32) as u32
}

fn message(addresses: &[u8], protocol: u8, ports: (u16, u16)) -> Vec<u8> {
    [
        addresses,
        &ports.1.to_le_bytes(),
        &ports.0.to_le_bytes(),
        &[protocol],
    ]
    .concat()
}

#[test]
fn source_ports_lie_in_the_range_of_rfc_7348() {
    assert_eq!(source_port(0), 49152);
    assert_eq!(source_port(u32::MAX), 65535);
}

#[test]
fn source_ports_of_many_flows_spread_evenly() {
    // Row V5: chi-square over 10,000 flows and 64 classes. 63 degrees of freedom: above 130 by chance once in a million.
    let mut counts = [0u32; 64];
    for flow in 0..10_000u32 {
        let hash = v4(
            &KEY,
            0x0a00_0000 + flow / 100,
            0x0a01_0000 + flow % 100,
            6,
            (40_000, 443),
        );
        counts[usize::from((source_port(hash) - FIRST_SOURCE_PORT) >> 8)] += 1;
    }
    let expected = 10_000.0 / 64.0;
    let chi: f64 = counts
        .iter()
        .map(|n| (f64::from(*n) - expected).powi(2) / expected)
        .sum();
    assert!(chi < 130.0, "{chi}");
}

#[test]
fn all_fragments_of_a_datagram_hash_alike_and_ports_of_whole_packets_count() {
    // Row V5.
    let first = Ipv4Builder::new(17, &[], &[1, 2, 3, 4, 5, 6, 7, 8])
        .flags_and_offset(ipv4::MORE_FRAGMENTS)
        .bytes;
    let later = Ipv4Builder::new(17, &[], &[9; 16])
        .flags_and_offset(1)
        .bytes;
    let hash = |l3: &[u8]| of_ipv4(&KEY, l3, &ipv4::parse(l3).unwrap());
    assert_eq!(hash(&first), hash(&later));
    let whole = |port| hash(&Ipv4Builder::new(17, &[], &[1, 2, 3, port, 0, 8, 0, 0]).bytes);
    assert_ne!(whole(4), whole(5));
    assert_eq!(
        whole(4),
        v4(&KEY, 0x0a00_0001, 0x0a00_0002, 17, (0x0102, 0x0304))
    );
}

#[test]
fn ipv6_fragments_hash_alike_whatever_the_first_one_holds() {
    let hash = |l3: &[u8]| of_ipv6(&KEY, l3, &ipv6::parse(l3).unwrap());
    // A first fragment with destination options before UDP; a later one that can only name the options.
    let first = ipv6_packet(
        44,
        &[
            &[60, 0, 0, 1, 0, 0, 0, 9, 17, 0, 1, 4, 0, 0, 0, 0][..],
            &[7; 8],
        ]
        .concat(),
    );
    let later = ipv6_packet(44, &[60, 0, 0, 16, 0, 0, 0, 9, 1, 1, 1, 1]);
    assert_eq!(hash(&first), hash(&later));
    let whole = ipv6_packet(17, &[0, 1, 0, 2, 0, 8, 0, 0]);
    assert_eq!(
        hash(&whole),
        v6(
            &KEY,
            ipv6::parse(&whole).unwrap().src,
            ipv6::parse(&whole).unwrap().dst,
            17,
            (1, 2)
        )
    );
}

#[test]
fn the_key_is_not_shown() {
    assert_eq!(format!("{KEY:?}"), "HashKey(..)");
}

proptest! {
    #[test]
    fn hashes_are_siphash_1_3(
        key in any::<[u64; 2]>(), v4_pair in any::<(u32, u32)>(), v6_pair in any::<(u128, u128)>(),
        protocol in any::<u8>(), ports in any::<(u16, u16)>(),
    ) {
        let key = HashKey(key);
        let bytes = [v4_pair.0.to_le_bytes(), v4_pair.1.to_le_bytes()].concat();
        prop_assert_eq!(v4(&key, v4_pair.0, v4_pair.1, protocol, ports), oracle(key, &message(&bytes, protocol, ports)));
        let bytes = [v6_pair.0.to_le_bytes(), v6_pair.1.to_le_bytes()].concat();
        prop_assert_eq!(v6(&key, v6_pair.0, v6_pair.1, protocol, ports), oracle(key, &message(&bytes, protocol, ports)));
    }
}
