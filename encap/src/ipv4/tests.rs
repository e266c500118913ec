use proptest::prelude::*;

use super::*;
use crate::l4;
use crate::testing::{Ipv4Builder, naive_checksum};

fn plain() -> Ipv4Builder {
    Ipv4Builder::new(l4::UDP, &[], &[0xaa; 24])
}

#[test]
fn a_header_is_read_field_by_field() {
    let packet = plain().byte(1, 0xb9).flags_and_offset(DONT_FRAGMENT).bytes;
    let info = parse(&packet).unwrap();
    assert_eq!((info.src, info.dst), (0x0a00_0001, 0x0a00_0002));
    assert_eq!(
        (info.header_len(), info.total_len, info.payload_len()),
        (20, 44, 24)
    );
    assert_eq!(
        (info.protocol, info.ttl, info.tos, info.id),
        (l4::UDP, 64, 0xb9, 0x1234)
    );
    assert!(info.dont_fragment() && !info.is_fragment());
}

#[test]
fn bad_headers_are_refused_each_for_its_reason() {
    // Rows 4.1 and 4.2, RFC 1812 section 5.2.2.
    let error = |packet: Ipv4Builder| parse(&packet.bytes).unwrap_err();
    assert_eq!(error(plain().byte(0, 0x65)), Ipv4Error::Version);
    assert_eq!(error(plain().byte(0, 0x44)), Ipv4Error::HeaderLength);
    assert_eq!(error(plain().total_len(19)), Ipv4Error::TotalLength);
    assert_eq!(error(plain().total_len(45)), Ipv4Error::BeyondFrame);
    assert_eq!(parse(&plain().bytes[..19]), Err(Ipv4Error::Truncated));
    // 60 bytes of header asked for, 44 there.
    assert_eq!(error(plain().byte(0, 0x4f)), Ipv4Error::Truncated);
}

#[test]
fn every_wrong_checksum_is_refused() {
    // Row 4.2. 0xffff in place of 0 is the same number; this header's checksum is neither.
    let packet = plain().bytes;
    let right = u16::from_be_bytes([packet[10], packet[11]]);
    assert!(right != 0 && right != 0xffff);
    for wrong in (0..=u16::MAX).filter(|c| *c != right) {
        let mut packet = packet.clone();
        packet[10..12].copy_from_slice(&wrong.to_be_bytes());
        assert_eq!(parse(&packet), Err(Ipv4Error::Checksum), "{wrong:04x}");
    }
}

#[test]
fn link_padding_is_not_part_of_the_packet() {
    // Row 4.3.
    for padding in 0..64 {
        let mut packet = plain().bytes;
        packet.resize(44 + padding, 0xa5);
        assert_eq!(parse(&packet).unwrap().total_len, 44);
    }
}

#[test]
fn a_ttl_of_zero_or_one_is_left_to_the_caller() {
    // Row 4.5, RFC 1812 section 4.2.2.9: it does not matter if the packet is for us.
    for ttl in [0, 1] {
        assert_eq!(parse(&plain().byte(8, ttl).bytes).unwrap().ttl, ttl);
    }
}

#[test]
fn a_decremented_ttl_leaves_the_checksum_as_computed_anew() {
    // Row 4.6, RFC 1624 section 3: all 2^16 checksums (through the identification) times all TTLs.
    let mut packet: [u8; 20] = plain().bytes[..20].try_into().unwrap();
    for ttl in 2..=255 {
        packet[8] = ttl;
        packet[10..12].fill(0);
        packet[4..6].fill(0);
        let without_id = !naive_checksum(&packet);
        for id in 0..=u16::MAX {
            let sum = u32::from(without_id) + u32::from(id);
            let checksum = !((sum & 0xffff) as u16 + (sum >> 16) as u16);
            packet[4..6].copy_from_slice(&id.to_be_bytes());
            packet[8] = ttl;
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
            assert_eq!(decrement_ttl(&mut packet), Some(ttl - 1));
            assert_eq!(packet[8], ttl - 1);
            assert_ne!(packet[10..12], [0xff, 0xff], "minus zero");
            // One word less by 0x0100.
            let sum = sum + 0xfeff;
            let sum = (sum & 0xffff) + (sum >> 16);
            let sum = (sum & 0xffff) + (sum >> 16);
            assert_eq!(packet[10..12], (!(sum as u16)).to_be_bytes());
            if id % 4096 == 7 {
                assert_eq!(naive_checksum(&packet), 0);
            }
        }
    }
}

#[test]
fn a_ttl_of_zero_or_one_is_not_decremented() {
    for ttl in [0, 1] {
        let mut packet = plain().byte(8, ttl).bytes;
        let before = packet.clone();
        assert_eq!(decrement_ttl(&mut packet), None);
        assert_eq!(packet, before);
    }
    assert_eq!(decrement_ttl(&mut [64; 19]), None);
}

#[test]
fn unknown_options_pass_and_source_routes_do_not() {
    // Rows 4.14 and 4.15.
    let with = |options: &[u8]| parse(&Ipv4Builder::new(l4::UDP, options, &[1; 8]).bytes);
    let info = with(&[30, 4, 1, 2]).unwrap();
    assert_eq!(
        (info.header_len(), info.payload_len(), info.has_options()),
        (24, 8, true)
    );
    assert!(
        with(&[1, 1, 1, 1, 7, 7, 4, 0, 0, 0, 0, 0]).is_ok(),
        "record route"
    );
    assert_eq!(with(&[131, 3, 4, 0]), Err(Ipv4Error::SourceRoute));
    assert_eq!(with(&[1, 137, 3, 4]), Err(Ipv4Error::SourceRoute));
    assert!(
        with(&[0, 137, 3, 4]).is_ok(),
        "behind the end of the list there are no options"
    );
}

#[test]
fn option_lengths_that_lead_nowhere_are_refused() {
    // Row 4.16.
    let with = |options: &[u8]| parse(&Ipv4Builder::new(l4::UDP, options, &[1; 8]).bytes);
    for bad in [
        [30, 0, 0, 0],
        [30, 1, 0, 0],
        [30, 5, 0, 0],
        [30, 255, 0, 0],
        [1, 1, 1, 30],
    ] {
        assert_eq!(with(&bad), Err(Ipv4Error::BadOption), "{bad:?}");
    }
}

#[test]
fn impossible_fragments_are_refused() {
    // Rows 4.30 and 4.31, RFC 791.
    let fragment = |word, payload: usize| {
        parse(
            &Ipv4Builder::new(l4::UDP, &[], &vec![0; payload])
                .flags_and_offset(word)
                .bytes,
        )
    };
    assert_eq!(fragment(0x1fff, 8), Err(Ipv4Error::FragmentOverflow));
    assert!(fragment(0x1fff, 7).is_ok());
    assert_eq!(fragment(MORE_FRAGMENTS, 7), Err(Ipv4Error::FragmentLength));
    assert_eq!(
        fragment(MORE_FRAGMENTS | 3, 0),
        Err(Ipv4Error::FragmentLength)
    );
    assert_eq!(fragment(3, 0), Err(Ipv4Error::FragmentLength));
    let info = fragment(MORE_FRAGMENTS | 3, 16).unwrap();
    assert!(info.is_fragment() && info.is_later_fragment() && info.more_fragments());
    assert_eq!(info.fragment_offset(), 24);
}

#[test]
fn addresses_fall_into_the_classes_of_rfc_1812_section_5_3_7() {
    // Rows 4.7, 4.8 and 4.13.
    let of = |a, b, c, d| class(u32::from_be_bytes([a, b, c, d]));
    assert_eq!(of(0, 1, 2, 3), AddrClass::ThisNetwork);
    assert_eq!(of(127, 0, 0, 1), AddrClass::Loopback);
    assert_eq!(of(223, 255, 255, 255), AddrClass::Unicast);
    assert_eq!(of(224, 0, 0, 1), AddrClass::Multicast);
    assert_eq!(of(239, 255, 255, 255), AddrClass::Multicast);
    assert_eq!(of(240, 0, 0, 1), AddrClass::Reserved);
    assert_eq!(of(255, 255, 255, 254), AddrClass::Reserved);
    assert_eq!(of(255, 255, 255, 255), AddrClass::Broadcast);
    assert_eq!(of(169, 254, 1, 1), AddrClass::Unicast);
    for (class, forwarded) in [
        (of(10, 0, 0, 1), true),
        (of(0, 0, 0, 0), false),
        (of(240, 0, 0, 1), false),
    ] {
        assert_eq!(
            (class.is_valid_source(), class.is_valid_destination()),
            (forwarded, forwarded)
        );
    }
    for addr in
        (0..=u16::MAX).flat_map(|high| [u32::from(high) << 16, u32::from(high) << 16 | 0xffff])
    {
        assert_eq!(
            is_unicast(addr),
            class(addr) == AddrClass::Unicast,
            "{addr:08x}"
        );
    }
}

/// Bytes that look like IPv4 often enough for the later checks to be reached.
fn nearly_ipv4() -> impl Strategy<Value = Vec<u8>> {
    (
        prop::collection::vec(any::<u8>(), 0..10),
        prop::collection::vec(any::<u8>(), 0..80),
        any::<u8>(),
        any::<bool>(),
        0..6usize,
    )
        .prop_map(|(options, payload, protocol, fragment, flips)| {
            let options = [options.clone(), options.clone(), options.clone(), options].concat();
            let mut packet = Ipv4Builder::new(protocol, &options, &payload);
            if fragment {
                let word = u16::from_be_bytes([protocol, packet.bytes.len() as u8]);
                packet = packet.flags_and_offset(word);
            }
            for flip in 1..flips {
                let at = (usize::from(protocol) * flip * 7) % 20;
                packet = packet.byte(at, protocol.wrapping_mul(flip as u8));
            }
            packet.bytes
        })
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        let _ = parse(&bytes);
        let mut bytes = bytes;
        let _ = decrement_ttl(&mut bytes);
    }

    #[test]
    fn what_is_accepted_is_what_etherparse_reads(bytes in nearly_ipv4()) {
        for end in 0..=bytes.len() {
            let cut = &bytes[..end];
            let Ok(ours) = parse(cut) else { continue };
            let (theirs, _) = etherparse::Ipv4Header::from_slice(cut).unwrap();
            prop_assert_eq!(ours.src.to_be_bytes(), theirs.source);
            prop_assert_eq!(ours.dst.to_be_bytes(), theirs.destination);
            prop_assert_eq!(usize::from(ours.header_len()), theirs.header_len());
            prop_assert_eq!(ours.total_len, theirs.total_len);
            prop_assert_eq!(ours.protocol, theirs.protocol.0);
            prop_assert_eq!(ours.ttl, theirs.time_to_live);
            prop_assert_eq!(ours.id, theirs.identification);
            prop_assert_eq!(ours.dont_fragment(), theirs.dont_fragment);
            prop_assert_eq!(ours.more_fragments(), theirs.more_fragments);
            prop_assert_eq!(ours.fragment_offset() / 8, theirs.fragment_offset.value());
            prop_assert_eq!(ours.tos, theirs.dscp.value() << 2 | theirs.ecn.value());
            // etherparse forgets the reserved flag, so its checksum is another where that is set.
            if ours.flags_and_offset & 0x8000 == 0 {
                // 0xffff and 0 are the same checksum; etherparse computes the latter.
                let sum = u16::from_be_bytes([cut[10], cut[11]]) % 0xffff;
                prop_assert_eq!(sum, theirs.calc_header_checksum() % 0xffff);
            }
        }
    }

    #[test]
    fn the_short_way_agrees_with_the_long_one(bytes in nearly_ipv4()) {
        for end in 0..=bytes.len() {
            let (mut short, mut long) = (Ipv4Info::default(), Ipv4Info::default());
            let taken = short.read(&bytes[..end]);
            prop_assert_eq!(taken, long.read_any(&bytes[..end]));
            prop_assert!(taken.is_err() || short == long);
        }
    }

    #[test]
    fn a_sound_packet_is_accepted(payload in prop::collection::vec(any::<u8>(), 0..100), protocol in any::<u8>()) {
        let packet = Ipv4Builder::new(protocol, &[], &payload).bytes;
        prop_assert_eq!(usize::from(parse(&packet).unwrap().payload_len()), payload.len());
        for end in 0..packet.len() {
            prop_assert!(parse(&packet[..end]).is_err());
        }
    }
}
