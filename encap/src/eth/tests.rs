use proptest::prelude::*;

use super::*;

const DST: MacAddr = MacAddr([0xee; 6]);
const SRC: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x1f]);

fn tagged(tags: &[[u8; 4]]) -> Vec<u8> {
    let mut frame = [DST.0, SRC.0].concat();
    frame.extend(tags.iter().flatten());
    frame.extend([0x08, 0x00, 0x45]);
    frame
}

#[test]
fn an_untagged_header_is_read() {
    let info = parse(&tagged(&[])).unwrap();
    let wanted = EthInfo {
        dst: DST,
        src: SRC,
        ethertype: EtherType::IPV4,
        header_len: 14,
        vlan: None,
    };
    assert_eq!(info, wanted);
    assert_eq!(header(DST, SRC, EtherType::IPV4), tagged(&[])[..14]);
}

#[test]
fn tags_are_recognised_and_the_outermost_reported() {
    let info = parse(&tagged(&[[0x81, 0, 0x60, 7]])).unwrap();
    assert_eq!((info.header_len, info.ethertype), (18, EtherType::IPV4));
    assert_eq!(info.vlan.map(|v| (v.id(), v.depth)), Some((7, 1)));
    let info = parse(&tagged(&[[0x88, 0xa8, 0, 9], [0x81, 0, 0, 7]])).unwrap();
    assert_eq!(
        (info.header_len, info.vlan.map(|v| (v.id(), v.depth))),
        (22, Some((9, 2)))
    );
}

#[test]
fn stacks_of_tags_are_bounded() {
    // OVS CVE-2016-2074: 1 to 64 stacked tags.
    for depth in 3..=64 {
        assert_eq!(
            parse(&tagged(&vec![[0x81, 0, 0, 1]; depth])),
            Err(EthError::TooManyTags)
        );
    }
}

#[test]
fn a_frame_cut_inside_header_or_tag_is_refused() {
    // Kernel CVE-2026-31684: cut inside the second tag.
    let frame = tagged(&[[0x88, 0xa8, 0, 9], [0x81, 0, 0, 7]]);
    for end in 0..22 {
        assert_eq!(
            parse(&frame[..end]),
            Err(EthError::Truncated),
            "cut at {end}"
        );
    }
    assert!(parse(&frame[..22]).is_ok());
}

#[test]
fn addresses_are_written_and_read_alike() {
    assert_eq!(SRC.to_string(), "02:00:00:00:00:1f");
    assert_eq!("02:0:00:00-00:1F".parse(), Ok(SRC));
    for bad in [
        "",
        "02:00:00:00:00",
        "02:00:00:00:00:1f:00",
        "02:00:00:00:00:+1",
        "02:00:00:00:00:1g",
        "02:00:00:00:00:011",
    ] {
        assert_eq!(bad.parse::<MacAddr>(), Err(InvalidMac), "{bad}");
    }
}

#[test]
fn group_addresses_are_told_from_stations() {
    assert!(MacAddr::BROADCAST.is_multicast() && MacAddr::BROADCAST.is_broadcast());
    assert!(!MacAddr::ZERO.is_unicast() && !MacAddr::ZERO.is_multicast());
    assert!(MacAddr::CALICO_HOST.is_unicast());
    assert_eq!(
        MacAddr::of_ipv4_group(0xe0ff_0102),
        MacAddr([1, 0, 0x5e, 0x7f, 1, 2])
    );
    assert_eq!(
        MacAddr::of_ipv6_group(0xff02 << 112 | 1),
        MacAddr([0x33, 0x33, 0, 0, 0, 1])
    );
}

proptest! {
    #[test]
    fn arbitrary_bytes_read_as_etherparse_reads_them(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        match (parse(&bytes), etherparse::Ethernet2Header::from_slice(&bytes)) {
            (Ok(ours), Ok((theirs, _))) => {
                prop_assert_eq!((ours.dst.0, ours.src.0), (theirs.destination, theirs.source));
                prop_assert!(ours.vlan.is_some() || ours.ethertype.0 == theirs.ether_type.0);
            }
            (Err(_), Err(_)) => {}
            (ours, theirs) => prop_assert!(theirs.is_ok() && ours.is_err()),
        }
    }

    #[test]
    fn any_address_survives_its_text(bytes in any::<[u8; 6]>()) {
        prop_assert_eq!(MacAddr(bytes).to_string().parse(), Ok(MacAddr(bytes)));
    }
}
