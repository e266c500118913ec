use proptest::prelude::*;

use super::*;
use crate::checksum::verify_v6;
use crate::testing::ipv6 as packet;

const GATEWAY: u128 = 0xfe80_0000_0000_0000_ecee_eeff_feee_eeee;
const TOO_BIG: Icmp6Error = Icmp6Error::PacketTooBig { mtu: 1430 };

fn build(kind: Icmp6Error, l3: &[u8]) -> Vec<u8> {
    let ip = ipv6::parse(l3).unwrap();
    let mut room = vec![0xa5; MAX_LEN];
    let len = error(&mut room, kind, GATEWAY, l3, &ip).unwrap();
    assert!(room[len..].iter().all(|b| *b == 0xa5));
    room.truncate(len);
    room
}

fn answerable(error: Icmp6Error, l3: &[u8]) -> bool {
    may_answer(error, l3, &ipv6::parse(l3).unwrap())
}

#[test]
fn each_error_has_its_type_and_code() {
    // RFC 4443 sections 3.1 to 3.3.
    let original = packet(l4::UDP, &[7; 30]);
    for (kind, bytes) in [
        (Icmp6Error::NoRoute, [1, 0, 0, 0, 0, 0]),
        (Icmp6Error::Prohibited, [1, 1, 0, 0, 0, 0]),
        (Icmp6Error::BeyondScope, [1, 2, 0, 0, 0, 0]),
        (Icmp6Error::AddressUnreachable, [1, 3, 0, 0, 0, 0]),
        (Icmp6Error::PortUnreachable, [1, 4, 0, 0, 0, 0]),
        (TOO_BIG, [2, 0, 0, 0, 0x05, 0x96]),
        (Icmp6Error::TimeExceeded, [3, 0, 0, 0, 0, 0]),
    ] {
        let built = build(kind, &original);
        assert_eq!([&built[40..42], &built[44..48]].concat(), bytes);
        assert_eq!(built[48..], original);
        let ip = ipv6::parse(&built).unwrap();
        assert_eq!(
            (ip.src, ip.dst >> 96, ip.hop_limit, ip.upper.protocol),
            (GATEWAY, 0x2001_0db8, 64, l4::ICMPV6)
        );
        assert!(verify_v6(ip.src, ip.dst, l4::ICMPV6, &built[40..]));
    }
}

#[test]
fn a_message_has_1280_bytes_at_most_and_quotes_no_padding() {
    // Row 6.10, RFC 4443 section 2.4(c).
    for payload in [0, 1, 1191, 1192, 1193, 1460] {
        let original = packet(l4::UDP, &vec![7; payload]);
        let built = build(TOO_BIG, &[&original[..], &[0xee; 20]].concat());
        assert_eq!(built.len(), (48 + original.len()).min(1280));
        assert_eq!(built[48..], original[..built.len() - 48]);
    }
}

#[test]
fn no_error_is_sent_about_errors_and_redirects() {
    // Row 6.11, RFC 4443 section 2.4(e.1) and (e.2).
    for kind in 0..=255 {
        let wanted = kind >= 128 && kind != 137;
        assert_eq!(
            answerable(TOO_BIG, &packet(l4::ICMPV6, &[kind, 0, 0, 0])),
            wanted,
            "{kind}"
        );
    }
    assert!(
        !answerable(TOO_BIG, &packet(l4::ICMPV6, &[])),
        "the type is not there"
    );
}

#[test]
fn to_a_group_only_packet_too_big_is_answered() {
    // RFC 4443 section 2.4(e.3).
    let mut to_group = packet(l4::UDP, &[0; 8]);
    to_group[24] = 0xff;
    assert!(answerable(TOO_BIG, &to_group));
    assert!(!answerable(Icmp6Error::TimeExceeded, &to_group));
}

#[test]
fn no_error_is_sent_to_addresses_of_nobody() {
    // RFC 4443 section 2.4(e.6).
    for src in [0, 1, 0xff02 << 112 | 1] {
        let mut from_nobody = packet(l4::UDP, &[0; 8]);
        from_nobody[8..24].copy_from_slice(&u128::to_be_bytes(src));
        assert!(!answerable(TOO_BIG, &from_nobody));
    }
    assert!(answerable(TOO_BIG, &packet(l4::UDP, &[0; 8])));
}

#[test]
fn no_error_is_sent_about_what_might_be_an_error() {
    let later = packet(44, &[l4::UDP, 0, 0, 8, 0, 0, 0, 9, 1, 1, 1, 1]);
    assert!(!answerable(TOO_BIG, &later));
    let endless: Vec<u8> = (0..9).flat_map(|_| [60, 0, 1, 4, 0, 0, 0, 0]).collect();
    assert!(!answerable(TOO_BIG, &packet(60, &endless)));
}

proptest! {
    #[test]
    fn too_little_room_is_told(len in 0..96usize) {
        let original = packet(l4::UDP, &[7; 8]);
        let built = error(&mut vec![0; len], TOO_BIG, 1, &original, &ipv6::parse(&original).unwrap());
        prop_assert_eq!(built, None);
    }

    #[test]
    fn etherparse_finds_the_checksum_right(payload in prop::collection::vec(any::<u8>(), 0..1400), mtu in any::<u32>()) {
        let built = build(Icmp6Error::PacketTooBig { mtu }, &packet(l4::UDP, &payload));
        let ip = etherparse::Ipv6Slice::from_slice(&built).unwrap();
        let icmp = etherparse::Icmpv6Slice::from_slice(ip.payload().payload).unwrap();
        prop_assert!(icmp.is_checksum_valid(ip.header().source(), ip.header().destination()));
        prop_assert_eq!(icmp.icmp_type(), etherparse::Icmpv6Type::PacketTooBig { mtu });
    }
}
