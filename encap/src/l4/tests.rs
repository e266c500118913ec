use proptest::prelude::*;

use super::*;

const PORTS: Transport = Transport::Ports {
    source: 0x9c40,
    destination: 0x01bb,
};

fn segment(len: usize) -> Vec<u8> {
    let mut bytes = vec![0x9c, 0x40, 0x01, 0xbb, 0x00, 0x08, 0, 0];
    bytes.resize(len, 0);
    bytes
}

#[test]
fn ports_are_read_of_all_protocols_that_have_them() {
    for protocol in [TCP, UDP, SCTP, DCCP, UDPLITE] {
        assert_eq!(parse(protocol, &segment(20)), Ok(PORTS));
        for len in 0..min_header_len(protocol) {
            assert_eq!(
                parse(protocol, &segment(32)[..len]),
                Err(L4Error::Truncated),
                "{protocol} of {len}"
            );
        }
    }
    assert_eq!(PORTS.ports(), (0x9c40, 0x01bb));
}

#[test]
fn protocols_without_ports_match_none() {
    // Row 6.15: AH, ESP and unknown ones go by address and protocol.
    for protocol in [0, 2, 4, 41, 47, 50, 51, 59, 89, 255] {
        for len in [0, 3, 40] {
            assert_eq!(parse(protocol, &vec![7; len]), Ok(Transport::Other));
        }
    }
    assert_eq!(Transport::Other.ports(), (0, 0));
}

#[test]
fn icmp_queries_have_an_identifier_and_errors_have_none() {
    let read = |protocol, kind| parse(protocol, &[kind, 1, 0, 0, 0xab, 0xcd, 0, 1]).unwrap();
    assert_eq!(
        read(ICMP, 8),
        Transport::Icmp {
            kind: 8,
            code: 1,
            id: 0xabcd
        }
    );
    assert_eq!(
        read(ICMP, 3),
        Transport::Icmp {
            kind: 3,
            code: 1,
            id: 0
        }
    );
    assert_eq!(
        read(ICMPV6, 128),
        Transport::Icmp {
            kind: 128,
            code: 1,
            id: 0xabcd
        }
    );
    assert_eq!(
        read(ICMPV6, 135),
        Transport::Icmp {
            kind: 135,
            code: 1,
            id: 0
        }
    );
    assert_eq!(parse(ICMP, &[8; 7]), Err(L4Error::Truncated));
}

#[test]
fn a_first_fragment_must_hold_what_rules_ask_for() {
    // Row 4.29, RFC 1858 section 3.2.1.
    assert_eq!(
        parse_first_fragment(TCP, &segment(15)),
        Err(L4Error::TinyFragment)
    );
    assert_eq!(parse_first_fragment(TCP, &segment(16)), Ok(PORTS));
    for protocol in [UDP, SCTP, ICMP] {
        assert_eq!(
            parse_first_fragment(protocol, &[1; 7]),
            Err(L4Error::TinyFragment)
        );
        assert!(parse_first_fragment(protocol, &[1; 8]).is_ok());
    }
    assert_eq!(parse_first_fragment(50, &[]), Ok(Transport::Other));
}

#[test]
fn only_tcp_at_offset_eight_overwrites_flags() {
    // Row 4.29, RFC 3128.
    assert!(overwrites_tcp_flags(TCP, 8));
    assert!(
        !overwrites_tcp_flags(TCP, 16)
            && !overwrites_tcp_flags(TCP, 0)
            && !overwrites_tcp_flags(UDP, 8)
    );
}

#[test]
fn the_tcp_data_offset_stays_within_the_segment() {
    // VPP 6c15c5b7118: all 16 offsets times segment lengths.
    for words in 0..16u8 {
        for len in 0..80 {
            let mut bytes = vec![0; len];
            if let Some(byte) = bytes.get_mut(12) {
                *byte = words << 4 | 0x0f;
            }
            let header = usize::from(words) * 4;
            let sound = header >= 20 && header <= len;
            assert_eq!(tcp_header_len(&bytes), sound.then_some(header));
        }
    }
}

#[test]
fn a_udp_length_covers_the_header_and_stays_within_the_packet() {
    for (len, expected) in [
        (0, None),
        (7, None),
        (8, Some(8)),
        (12, Some(12)),
        (13, None),
        (0xffff, None),
    ] {
        let mut bytes = [0; 12];
        bytes[4..6].copy_from_slice(&u16::to_be_bytes(len));
        assert_eq!(udp_datagram(&bytes).map(<[u8]>::len), expected, "{len}");
    }
    assert_eq!(udp_datagram(&[0; 5]), None);
}

proptest! {
    #[test]
    fn ordinary_ports_are_those_of_the_parser(protocol in prop::sample::select(vec![TCP, UDP, SCTP, ICMP, 4]), bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        if let Some(ports) = ordinary_ports(protocol, &bytes) {
            prop_assert_eq!(parse(protocol, &bytes).unwrap().ports(), ports);
        }
        let is_whole = matches!(protocol, TCP | UDP) && bytes.len() >= min_header_len(protocol);
        prop_assert_eq!(ordinary_ports(protocol, &bytes).is_some(), is_whole);
    }

    #[test]
    fn ports_are_those_that_etherparse_reads(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        if let (Ok(ours), Ok(theirs)) = (parse(UDP, &bytes), etherparse::UdpHeaderSlice::from_slice(&bytes)) {
            prop_assert_eq!(ours.ports(), (theirs.source_port(), theirs.destination_port()));
        }
        if let Ok(theirs) = etherparse::TcpHeaderSlice::from_slice(&bytes) {
            prop_assert_eq!(parse(TCP, &bytes).unwrap().ports(), (theirs.source_port(), theirs.destination_port()));
            prop_assert_eq!(tcp_header_len(&bytes), Some(usize::from(theirs.data_offset()) * 4));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(protocol in any::<u8>(), bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let _ = (parse(protocol, &bytes), parse_first_fragment(protocol, &bytes), udp_datagram(&bytes));
    }
}
