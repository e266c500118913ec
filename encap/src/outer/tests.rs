use proptest::prelude::*;

use super::*;
use crate::testing::naive_checksum;
use crate::{ipv4, ipv6};

const MACS: Macs = Macs {
    dst: MacAddr([2, 0, 0, 0, 2, 2]),
    src: MacAddr([2, 0, 0, 0, 2, 1]),
};
const OVERLAY: Overlay = Overlay {
    port: vxlan::DEFAULT_PORT,
    vni: Vni::CALICO,
    macs: Macs {
        dst: MacAddr([0x66, 0, 0, 0, 0, 2]),
        src: MacAddr([0x66, 0, 0, 0, 0, 1]),
    },
};
const V4: Tunnel<u32> = Tunnel {
    src: 0xac12_0002,
    dst: 0xac12_0003,
};
const V6: Tunnel<u128> = Tunnel {
    src: 0xfd00 << 112 | 2,
    dst: 0xfd00 << 112 | 3,
};

fn inner(len: u16) -> Inner {
    Inner {
        len,
        family: Family::V4,
        ecn: Ecn::NotEct,
        dont_fragment: false,
        flow_hash: 0,
        id: 0,
    }
}

fn all_kinds() -> [Rewrite; 5] {
    [
        Rewrite::ethernet(MACS),
        Rewrite::ipip(MACS, V4, 64),
        Rewrite::vxlan4(MACS, V4, OVERLAY),
        Rewrite::vxlan6(MACS, V6, OVERLAY, UdpChecksum::Computed),
        Rewrite::vxlan6(MACS, V6, OVERLAY, UdpChecksum::Zero),
    ]
}

/// Headers and an inner packet of `len` bytes, written over 0xa5, so that a byte left out is seen.
fn written(rewrite: &Rewrite, inner: &Inner) -> Vec<u8> {
    let mut frame = vec![0xa5; rewrite.len() + usize::from(inner.len)];
    rewrite.write(&mut frame, inner).unwrap();
    assert!(
        frame[rewrite.len()..].iter().all(|b| *b == 0xa5),
        "the inner packet is not touched"
    );
    frame
}

#[test]
fn a_rewrite_is_small_and_plain_headers_lie_at_its_start() {
    assert!(size_of::<Rewrite>() <= 90);
    assert!(core::mem::offset_of!(Rewrite, bytes) + IPIP_LEN <= 48);
    assert_eq!(
        [ETHERNET_LEN, IPIP_LEN, VXLAN4_LEN, VXLAN6_LEN],
        [14, 34, 64, 84]
    );
    assert_eq!(all_kinds().map(|r| r.mtu_overhead()), [0, 20, 50, 70, 70]);
}

#[test]
fn vxlan_over_ipv4_is_written_byte_for_byte() {
    // RFC 7348 section 5; rows V5, V6, V9, V14.
    let inner = Inner {
        flow_hash: 0x1234_5678,
        id: 0xbeef,
        ..inner(84)
    };
    #[rustfmt::skip]
    let expected: [u8; 64] = [
        2, 0, 0, 0, 2, 2,  2, 0, 0, 0, 2, 1,  0x08, 0x00,
        0x45, 0, 0, 134,  0xbe, 0xef, 0x40, 0,  64, 17, 0x23, 0x4e,  172, 18, 0, 2,  172, 18, 0, 3,
        0xc4, 0x8d,  0x12, 0xb5,  0, 114,  0, 0,
        0x08, 0, 0, 0,  0, 0x10, 0, 0,
        0x66, 0, 0, 0, 0, 2,  0x66, 0, 0, 0, 0, 1,  0x08, 0x00,
    ];
    let frame = written(&Rewrite::vxlan4(MACS, V4, OVERLAY), &inner);
    assert_eq!(frame[..64], expected);
    assert_eq!(naive_checksum(&frame[14..34]), 0);
}

#[test]
fn ipip_copies_dont_fragment_and_nothing_else_of_the_flags() {
    // Rows I1 and I2, RFC 2003 section 3.1.
    for dont_fragment in [false, true] {
        let frame = written(
            &Rewrite::ipip(MACS, V4, 63),
            &Inner {
                dont_fragment,
                id: 7,
                ..inner(100)
            },
        );
        let outer = ipv4::parse(&frame[14..]).unwrap();
        assert_eq!(
            (
                outer.protocol,
                outer.header_len(),
                outer.total_len,
                outer.ttl
            ),
            (4, 20, 120, 63)
        );
        assert_eq!(
            (outer.src, outer.dst, outer.id, outer.tos),
            (V4.src, V4.dst, 7, 0)
        );
        assert_eq!(
            outer.flags_and_offset,
            if dont_fragment { 0x4000 } else { 0 }
        );
    }
    let v6 = Inner {
        family: Family::V6,
        ..inner(100)
    };
    assert_eq!(
        Rewrite::ipip(MACS, V4, 64).write(&mut [0; 200], &v6),
        Err(WriteError::Family)
    );
}

#[test]
fn the_ethernet_type_follows_the_family() {
    for (family, ethertype) in [(Family::V4, [0x08, 0x00]), (Family::V6, [0x86, 0xdd])] {
        for rewrite in all_kinds() {
            let inner = Inner {
                family,
                ..inner(60)
            };
            if rewrite.kind() != Kind::Ipip {
                let frame = written(&rewrite, &inner);
                assert_eq!(frame[rewrite.len() - 2..rewrite.len()], ethertype);
            }
        }
    }
}

#[test]
fn the_outer_ecn_is_the_inner_one_ce_too() {
    // Row T-ECN-in, RFC 6040 section 4.1; DSCP stays 0 (row T-DSCP).
    for ecn in [Ecn::NotEct, Ecn::Ect1, Ecn::Ect0, Ecn::Ce] {
        let inner = Inner { ecn, ..inner(60) };
        for rewrite in all_kinds() {
            let frame = written(&rewrite, &inner);
            match rewrite.kind() {
                Kind::Ethernet => {}
                Kind::Ipip | Kind::Vxlan4 => {
                    assert_eq!(ipv4::parse(&frame[14..]).unwrap().tos, ecn as u8);
                }
                Kind::Vxlan6 => {
                    assert_eq!(ipv6::parse(&frame[14..]).unwrap().traffic_class, ecn as u8);
                }
            }
        }
    }
}

#[test]
fn an_outer_header_never_wraps_its_length() {
    for rewrite in all_kinds().into_iter().skip(1) {
        let mut frame = vec![0; 66_000];
        let most = match rewrite.kind() {
            Kind::Vxlan6 => 65535 - 30,
            _ => 65535 - rewrite.mtu_overhead(),
        };
        assert_eq!(rewrite.write(&mut frame, &inner(most)), Ok(()));
        assert_eq!(
            rewrite.write(&mut frame, &inner(most + 1)),
            Err(WriteError::TooLong)
        );
    }
}

#[test]
fn without_room_nothing_is_written() {
    for rewrite in all_kinds() {
        for len in 0..rewrite.len() {
            let mut frame = vec![0xa5; len];
            assert_eq!(
                rewrite.write(&mut frame, &inner(60)),
                Err(WriteError::NoRoom)
            );
            assert!(frame.iter().all(|b| *b == 0xa5));
        }
        // The room alone is enough unless a checksum covers the inner packet.
        let wanted = if rewrite.reads_inner() {
            Err(WriteError::NoRoom)
        } else {
            Ok(())
        };
        assert_eq!(
            rewrite.write(&mut vec![0; rewrite.len()], &inner(60)),
            wanted
        );
    }
}

#[test]
fn other_macs_change_nothing_else() {
    let other = Macs {
        dst: MacAddr([8; 6]),
        src: MacAddr([6; 6]),
    };
    let rewrite = Rewrite::vxlan4(MACS, V4, OVERLAY).with_macs(other);
    assert_eq!(rewrite.macs(), other);
    assert!(rewrite == Rewrite::vxlan4(other, V4, OVERLAY));
}

fn any_inner() -> impl Strategy<Value = Inner> {
    (
        20..2000u16,
        0..4u8,
        any::<bool>(),
        any::<u32>(),
        any::<u16>(),
    )
        .prop_map(|(len, ecn, dont_fragment, flow_hash, id)| Inner {
            len,
            family: Family::V4,
            ecn: Ecn::of(ecn),
            dont_fragment,
            flow_hash,
            id,
        })
}

proptest! {
    #[test]
    fn outer_ipv4_headers_are_sound(inner in any_inner(), src in any::<u32>(), dst in any::<u32>(), ttl in any::<u8>()) {
        for rewrite in [Rewrite::ipip(MACS, Tunnel { src, dst }, ttl), Rewrite::vxlan4(MACS, Tunnel { src, dst }, OVERLAY)] {
            let frame = written(&rewrite, &inner);
            let outer = ipv4::parse(&frame[14..]).unwrap();
            prop_assert_eq!((outer.src, outer.dst, outer.id), (src, dst, inner.id));
            prop_assert_eq!(usize::from(outer.total_len), frame.len() - 14);
            prop_assert_eq!(naive_checksum(&frame[14..34]), 0);
            prop_assert_ne!(&frame[24..26], &[0xff, 0xff]);
        }
    }

    #[test]
    fn etherparse_reads_what_vxlan_was_written(inner in any_inner()) {
        for rewrite in all_kinds().into_iter().skip(2) {
            let frame = written(&rewrite, &inner);
            let packet = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(etherparse::TransportSlice::Udp(udp)) = packet.transport else { panic!("no UDP") };
            prop_assert!((49152..=65535).contains(&udp.source_port()));
            prop_assert_eq!(udp.destination_port(), 4789);
            prop_assert_eq!(usize::from(udp.length()), 30 + usize::from(inner.len));
            prop_assert_eq!(vxlan::parse(udp.payload()), Ok(Vni::CALICO));
            if rewrite.reads_inner() {
                let ip = ipv6::parse(&frame[14..]).unwrap();
                prop_assert!(crate::checksum::verify_v6(ip.src, ip.dst, l4::UDP, &frame[54..]));
                prop_assert_ne!(udp.checksum(), 0);
            } else {
                prop_assert_eq!(udp.checksum(), 0);
            }
        }
    }
}
