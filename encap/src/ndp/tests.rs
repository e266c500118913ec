use proptest::prelude::*;

use super::*;

const POD: Station = Station {
    ip: 0xfd00 << 112 | 2,
    mac: MacAddr([2, 0, 0, 0, 1, 2]),
};
const NODE: Station = Station {
    ip: 0xfe80_0000_0000_0000_ecee_eeff_feee_eeee,
    mac: MacAddr::CALICO_HOST,
};
const TARGET: u128 = 0xfd00 << 112 | 0x12_3456;

fn read(frame: &[u8]) -> Result<Ndp, NdpError> {
    let l3 = &frame[eth::HEADER_LEN..];
    parse(l3, &ipv6::parse(l3).unwrap())
}

fn solicitation() -> Vec<u8> {
    build_solicitation(POD, TARGET, None).to_vec()
}

/// An IPv6 packet behind an Ethernet header of zeros, with `message` under a right checksum.
fn packet(src: u128, dst: u128, message: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; eth::HEADER_LEN + ipv6::HEADER_LEN + message.len()];
    let mut writer = Writer::new(&mut frame[eth::HEADER_LEN..]);
    put_header(&mut writer, src, dst, message.len() as u16, HOP_LIMIT).unwrap();
    writer.put(message).unwrap();
    seal(writer.written(), src, dst).unwrap();
    frame
}

fn message(kind: u8, flags: u8, target: u128, options: &[u8]) -> Vec<u8> {
    [
        &[kind, 0, 0, 0, flags, 0, 0, 0][..],
        &target.to_be_bytes(),
        options,
    ]
    .concat()
}

#[test]
fn a_solicitation_goes_to_the_solicited_node_group() {
    // RFC 4861 section 7.2.2, RFC 4291 section 2.7.1, RFC 2464 section 7.
    let frame = solicitation();
    assert_eq!(
        frame[..14],
        [
            0x33, 0x33, 0xff, 0x12, 0x34, 0x56, 2, 0, 0, 0, 1, 2, 0x86, 0xdd
        ]
    );
    let ip = ipv6::parse(&frame[14..]).unwrap();
    assert_eq!(
        ip.dst,
        "ff02::1:ff12:3456"
            .parse::<std::net::Ipv6Addr>()
            .unwrap()
            .to_bits()
    );
    assert_eq!(
        read(&frame),
        Ok(Ndp::Solicitation(Solicitation {
            target: TARGET,
            source_mac: Some(POD.mac)
        }))
    );
    let to_one = build_solicitation(POD, TARGET, Some(NODE.mac));
    assert_eq!(
        (ipv6::parse(&to_one[14..]).unwrap().dst, &to_one[..6]),
        (TARGET, &NODE.mac.0[..])
    );
}

#[test]
fn a_solicited_answer_goes_to_the_asker() {
    // Row D2, RFC 4861 section 7.2.4; not overriding, as a proxy (7.2.8).
    let asked = Solicitation {
        target: TARGET,
        source_mac: Some(POD.mac),
    };
    let frame = build_reply(&asked, POD, NODE);
    assert_eq!(frame[..14], eth::header(POD.mac, NODE.mac, EtherType::IPV6));
    let ip = ipv6::parse(&frame[14..]).unwrap();
    assert_eq!((ip.src, ip.dst, ip.hop_limit), (NODE.ip, POD.ip, 255));
    let told = Advertisement {
        target: TARGET,
        target_mac: Some(NODE.mac),
        router: true,
        solicited: true,
        overrides: false,
    };
    assert_eq!(read(&frame), Ok(Ndp::Advertisement(told)));
}

#[test]
fn an_asker_without_an_address_is_answered_through_all_nodes() {
    // Row D2.
    let asked = Solicitation {
        target: TARGET,
        source_mac: None,
    };
    let frame = build_reply(&asked, Station { ip: 0, ..POD }, NODE);
    assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 1]);
    assert_eq!(ipv6::parse(&frame[14..]).unwrap().dst, ALL_NODES);
    let Ok(Ndp::Advertisement(told)) = read(&frame) else {
        panic!("no advertisement")
    };
    assert!(!told.solicited && told.router && !told.overrides);
}

#[test]
fn messages_from_beyond_the_link_are_refused() {
    // Row D1, RFC 4861 section 7.1.1: every hop limit but 255.
    for limit in 0..255 {
        let mut frame = solicitation();
        frame[14 + 7] = limit;
        assert_eq!(read(&frame), Err(NdpError::HopLimit));
    }
}

#[test]
fn wrong_checksums_and_codes_are_refused() {
    // Row D1.
    for at in 56..FRAME_LEN {
        let mut frame = solicitation();
        frame[at] ^= 0x10;
        assert_eq!(read(&frame), Err(NdpError::Checksum), "byte {at}");
    }
    let mut coded = message(135, 0, TARGET, &[]);
    coded[1] = 1;
    assert_eq!(read(&packet(POD.ip, NODE.ip, &coded)), Err(NdpError::Code));
}

#[test]
fn options_of_length_zero_or_beyond_the_message_are_refused() {
    // Row D1; kernel CVE-2026-31738.
    for options in [
        &[1, 0, 0, 0, 0, 0, 0, 0][..],
        &[1, 2, 0, 0, 0, 0, 0, 0],
        &[14, 0, 0, 0, 0, 0, 0, 0],
        &[14, 255, 0, 0],
        &[1],
        &[1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        assert_eq!(
            read(&packet(POD.ip, NODE.ip, &message(135, 0, TARGET, options))),
            Err(NdpError::BadOption),
            "{options:?}"
        );
    }
    let nonce_first = [14, 1, 1, 2, 3, 4, 5, 6, 1, 1, 2, 0, 0, 0, 1, 2];
    let read = read(&packet(
        POD.ip,
        NODE.ip,
        &message(135, 0, TARGET, &nonce_first),
    ));
    assert_eq!(
        read,
        Ok(Ndp::Solicitation(Solicitation {
            target: TARGET,
            source_mac: Some(POD.mac)
        }))
    );
}

#[test]
fn a_group_is_no_target() {
    // Row D1.
    for kind in [135, 136] {
        assert_eq!(
            read(&packet(POD.ip, NODE.ip, &message(kind, 0, ALL_NODES, &[]))),
            Err(NdpError::Target)
        );
    }
}

#[test]
fn duplicate_address_detection_asks_the_group_and_tells_no_hardware_address() {
    // Row D1, RFC 4861 section 7.1.1.
    let group = solicited_node(TARGET);
    let probe = message(135, 0, TARGET, &[]);
    assert!(read(&packet(0, group, &probe)).is_ok());
    assert_eq!(read(&packet(0, NODE.ip, &probe)), Err(NdpError::Address));
    let telling = message(135, 0, TARGET, &[1, 1, 2, 0, 0, 0, 1, 2]);
    assert_eq!(read(&packet(0, group, &telling)), Err(NdpError::Address));
}

#[test]
fn an_advertisement_to_a_group_is_not_solicited() {
    // Row D1, RFC 4861 section 7.1.2.
    assert_eq!(
        read(&packet(POD.ip, ALL_NODES, &message(136, 0x40, TARGET, &[]))),
        Err(NdpError::Address)
    );
    assert!(read(&packet(POD.ip, ALL_NODES, &message(136, 0x20, TARGET, &[]))).is_ok());
    assert_eq!(
        read(&packet(0, ALL_NODES, &message(136, 0x20, TARGET, &[]))),
        Err(NdpError::Address)
    );
}

#[test]
fn fragmented_messages_are_refused() {
    // Row D4, RFC 6980: even atomic fragments.
    let plain = packet(POD.ip, NODE.ip, &message(135, 0, TARGET, &[]));
    let mut l3 = plain[14..].to_vec();
    l3.splice(40..40, [l4::ICMPV6, 0, 0, 0, 0, 0, 0, 1]);
    l3[5] += 8;
    l3[6] = 44;
    assert_eq!(
        parse(&l3, &ipv6::parse(&l3).unwrap()),
        Err(NdpError::Fragmented)
    );
}

#[test]
fn routers_messages_are_told_also_behind_extension_headers() {
    // Row D5, RFC 7113.
    for (kind, wanted) in [
        (133, Ndp::RouterSolicitation),
        (134, Ndp::RouterAdvertisement),
        (137, Ndp::Redirect),
    ] {
        let plain = packet(NODE.ip, ALL_NODES, &[kind, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(read(&plain), Ok(wanted));
        let mut l3 = plain[14..].to_vec();
        l3.splice(40..40, [l4::ICMPV6, 0, 1, 4, 0, 0, 0, 0]);
        l3[5] += 8;
        l3[6] = 60;
        assert_eq!(parse(&l3, &ipv6::parse(&l3).unwrap()), Ok(wanted));
    }
    assert!(!is_ndp(128) && !is_ndp(132) && is_ndp(133) && is_ndp(137) && !is_ndp(138));
}

#[test]
fn other_messages_are_not_ours() {
    let echo = packet(POD.ip, NODE.ip, &[128, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(read(&echo), Err(NdpError::NotNdp));
    let l3 = crate::testing::ipv6(l4::UDP, &[135; 4]);
    assert_eq!(
        parse(&l3, &ipv6::parse(&l3).unwrap()),
        Err(NdpError::NotNdp)
    );
}

proptest! {
    #[test]
    fn messages_cut_or_garbled_never_panic(
        kind in 133..138u8, src in any::<bool>(), body in prop::collection::vec(any::<u8>(), 0..60)
    ) {
        let bytes = [&[kind, 0, 0, 0][..], &body].concat();
        let _ = read(&packet(if src { POD.ip } else { 0 }, ALL_NODES, &bytes));
        for end in 4..bytes.len() {
            let _ = read(&packet(POD.ip, ALL_NODES, &bytes[..end]));
        }
    }
}
