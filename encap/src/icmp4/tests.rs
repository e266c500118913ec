use proptest::prelude::*;

use super::*;
use crate::testing::{Ipv4Builder, naive_checksum};

const GATEWAY: u32 = 0xa9fe_0101;

fn build(kind: Icmp4Error, l3: &[u8]) -> Vec<u8> {
    let ip = ipv4::parse(l3).unwrap();
    let mut room = vec![0xa5; MAX_LEN];
    let len = error(&mut room, kind, GATEWAY, 0x4242, l3, &ip).unwrap();
    assert!(room[len..].iter().all(|b| *b == 0xa5));
    room.truncate(len);
    room
}

fn answerable(packet: &Ipv4Builder) -> bool {
    may_answer(&packet.bytes, &ipv4::parse(&packet.bytes).unwrap())
}

#[test]
fn each_error_has_its_type_and_code() {
    // RFC 792, RFC 1191, RFC 1812 sections 4.3.3 and 5.2.7.
    let packet = Ipv4Builder::new(17, &[], &[7; 30]).bytes;
    for (kind, bytes) in [
        (Icmp4Error::TimeExceeded, [11, 0, 0, 0]),
        (Icmp4Error::NetUnreachable, [3, 0, 0, 0]),
        (Icmp4Error::HostUnreachable, [3, 1, 0, 0]),
        (Icmp4Error::PortUnreachable, [3, 3, 0, 0]),
        (
            Icmp4Error::FragmentationNeeded { mtu: 1450 },
            [3, 4, 0x05, 0xaa],
        ),
        (Icmp4Error::Prohibited, [3, 13, 0, 0]),
    ] {
        let built = build(kind, &packet);
        assert_eq!([built[20], built[21], built[26], built[27]], bytes);
        assert_eq!(built[24..26], [0, 0]);
        assert_eq!(built[28..], packet);
        assert_eq!(
            (naive_checksum(&built[20..]), naive_checksum(&built[..20])),
            (0, 0)
        );
        let ip = ipv4::parse(&built).unwrap();
        assert_eq!(
            (ip.src, ip.dst, ip.protocol),
            (GATEWAY, 0x0a00_0001, l4::ICMP)
        );
        // Row 4.22: precedence 6.
        assert_eq!((ip.tos, ip.ttl, ip.id), (0xc0, 64, 0x4242));
    }
}

#[test]
fn a_message_has_576_bytes_at_most() {
    // Row 4.20, RFC 1812 section 4.3.2.3.
    for payload in [0, 1, 527, 528, 529, 1480] {
        let packet = Ipv4Builder::new(17, &[], &vec![7; payload]).bytes;
        let built = build(Icmp4Error::TimeExceeded, &packet);
        assert_eq!(built.len(), (28 + packet.len()).min(576));
        assert_eq!(built[28..], packet[..built.len() - 28]);
    }
}

#[test]
fn link_padding_is_not_quoted() {
    let mut packet = Ipv4Builder::new(17, &[], &[7; 8]).bytes;
    packet.extend([0xee; 18]);
    assert_eq!(build(Icmp4Error::TimeExceeded, &packet).len(), 28 + 28);
}

#[test]
fn no_error_is_sent_about_what_may_be_an_error() {
    // Row 4.23, RFC 1122 section 3.2.2. Type 40 is an error that came later (RFC 2521).
    for kind in 0..=255 {
        let wanted = matches!(kind, 0 | 8 | 13..=18);
        assert_eq!(
            answerable(&Ipv4Builder::new(
                l4::ICMP,
                &[],
                &[kind, 0, 0, 0, 0, 0, 0, 0]
            )),
            wanted,
            "{kind}"
        );
    }
    assert!(
        !answerable(&Ipv4Builder::new(l4::ICMP, &[], &[])),
        "the type is not there"
    );
}

#[test]
fn no_error_is_sent_about_later_fragments() {
    let fragment = |word| answerable(&Ipv4Builder::new(17, &[], &[0; 16]).flags_and_offset(word));
    assert!(fragment(0) && fragment(ipv4::MORE_FRAGMENTS));
    assert!(!fragment(1) && !fragment(ipv4::MORE_FRAGMENTS | 1));
}

#[test]
fn no_error_is_sent_from_or_to_addresses_of_nobody() {
    // Row 4.23: 0/8, 127/8, multicast, class E, broadcast.
    let good = || Ipv4Builder::new(17, &[], &[0; 16]);
    assert!(answerable(&good()));
    for first in [0, 127, 224, 239, 240, 255] {
        assert!(!answerable(&good().byte(12, first)), "from {first}");
        assert!(!answerable(&good().byte(16, first)), "to {first}");
    }
}

#[test]
fn too_little_room_is_told() {
    let packet = Ipv4Builder::new(17, &[], &[7; 8]).bytes;
    let ip = ipv4::parse(&packet).unwrap();
    for len in 0..56 {
        assert_eq!(
            error(
                &mut vec![0; len],
                Icmp4Error::TimeExceeded,
                1,
                1,
                &packet,
                &ip
            ),
            None
        );
    }
}

proptest! {
    #[test]
    fn etherparse_reads_what_was_built(payload in prop::collection::vec(any::<u8>(), 0..700), mtu in any::<u16>()) {
        let built = build(Icmp4Error::FragmentationNeeded { mtu }, &Ipv4Builder::new(6, &[], &payload).bytes);
        let ip = etherparse::Ipv4Slice::from_slice(&built).unwrap();
        let icmp = etherparse::Icmpv4Slice::from_slice(ip.payload().payload).unwrap();
        prop_assert_eq!(icmp.icmp_type(), etherparse::Icmpv4Type::DestinationUnreachable(
            etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu }));
        prop_assert_eq!(naive_checksum(ip.payload().payload), 0);
    }
}
