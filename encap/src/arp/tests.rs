use proptest::prelude::*;

use super::*;

const ASKER: MacAddr = MacAddr([2, 0, 0, 0, 1, 2]);

fn request() -> [u8; FRAME_LEN] {
    build_request(ASKER, 0x0a41_0002, 0xa9fe_0101, None)
}

#[test]
fn a_request_is_built_byte_for_byte() {
    #[rustfmt::skip]
    let expected = [
        255, 255, 255, 255, 255, 255,  2, 0, 0, 0, 1, 2,  0x08, 0x06,
        0, 1,  8, 0,  6, 4,  0, 1,
        2, 0, 0, 0, 1, 2,  10, 65, 0, 2,
        0, 0, 0, 0, 0, 0,  169, 254, 1, 1,
    ];
    assert_eq!(request(), expected);
    let to_one = build_request(ASKER, 1, 2, Some(MacAddr::CALICO_HOST));
    assert_eq!(to_one[..6], [0xee; 6]);
}

#[test]
fn a_reply_goes_to_the_asker_and_turns_the_addresses_round() {
    // Row A3.
    let asked = parse(&request()[14..]).unwrap();
    let reply = build_reply(&asked, MacAddr::CALICO_HOST);
    assert_eq!(
        reply[..14],
        eth::header(ASKER, MacAddr::CALICO_HOST, EtherType::ARP)
    );
    let told = Arp {
        operation: Operation::Reply,
        sender_mac: MacAddr::CALICO_HOST,
        sender_ip: 0xa9fe_0101,
        target_mac: ASKER,
        target_ip: 0x0a41_0002,
    };
    assert_eq!(parse(&reply[14..]), Ok(told));
}

#[test]
fn only_ipv4_over_ethernet_is_read() {
    // Row A1, RFC 826: each byte of the types and lengths.
    for at in 0..6 {
        for bit in 0..8 {
            let mut payload = request()[14..].to_vec();
            payload[at] ^= 1 << bit;
            assert_eq!(parse(&payload), Err(ArpError::Type));
        }
    }
    for operation in (0..=u16::MAX).filter(|op| !matches!(op, 1 | 2)) {
        let mut payload = request()[14..].to_vec();
        payload[6..8].copy_from_slice(&operation.to_be_bytes());
        assert_eq!(parse(&payload), Err(ArpError::Operation));
    }
}

#[test]
fn a_sender_is_one_station() {
    for mac in [
        MacAddr::BROADCAST,
        MacAddr::ZERO,
        MacAddr([3, 0, 0, 0, 0, 1]),
    ] {
        let frame = build_request(mac, 1, 2, None);
        assert_eq!(parse(&frame[14..]), Err(ArpError::SenderMac));
    }
}

#[test]
fn a_cut_packet_is_refused_and_padding_is_ignored() {
    for end in 0..PACKET_LEN {
        assert_eq!(parse(&request()[14..14 + end]), Err(ArpError::Truncated));
    }
    let mut padded = request()[14..].to_vec();
    padded.extend([0xa5; 18]);
    assert_eq!(parse(&padded), parse(&request()[14..]));
}

#[test]
fn probes_and_announcements_are_told() {
    // Rows A4 and A5, RFC 5227.
    let read = |sender, target| parse(&build_request(ASKER, sender, target, None)[14..]).unwrap();
    assert!(read(0, 7).is_probe() && !read(1, 7).is_probe());
    assert!(read(7, 7).is_gratuitous() && !read(1, 7).is_gratuitous());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = parse(&bytes);
        let _ = parse(&[&FIXED[..], &[0, 1], &bytes].concat());
    }

    #[test]
    fn etherparse_reads_what_was_built(sender in any::<u32>(), target in any::<u32>()) {
        let frame = build_request(ASKER, sender, target, None);
        let packet = etherparse::ArpPacketSlice::from_slice(&frame[14..]).unwrap();
        prop_assert_eq!(packet.sender_hw_addr(), &ASKER.0);
        prop_assert_eq!(packet.sender_protocol_addr(), &sender.to_be_bytes());
        prop_assert_eq!(packet.target_protocol_addr(), &target.to_be_bytes());
    }
}
