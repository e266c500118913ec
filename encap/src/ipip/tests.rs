use super::*;
use crate::ipv4::{self, PROTOCOL_IPIP};
use crate::testing::Ipv4Builder;

fn outer(payload: &[u8]) -> Ipv4Builder {
    Ipv4Builder::new(PROTOCOL_IPIP, &[], payload)
}

#[test]
fn the_inner_packet_ends_where_the_outer_one_does() {
    let wrapped = Ipv4Builder::new(17, &[], &[7; 8]).bytes;
    let mut packet = outer(&wrapped).bytes;
    packet.extend([0xa5; 20]);
    let ip = ipv4::parse(&packet).unwrap();
    assert_eq!(inner(&packet, &ip), Ok(&wrapped[..]));
}

#[test]
fn an_inner_packet_of_another_version_is_refused() {
    // Row I9.
    for version in (0..16).filter(|v| *v != 4) {
        let packet = outer(&[version << 4 | 5; 40]).bytes;
        let ip = ipv4::parse(&packet).unwrap();
        assert_eq!(inner(&packet, &ip), Err(IpipError::InnerVersion));
    }
}

#[test]
fn outer_fragments_and_empty_packets_are_refused() {
    let fragment = outer(&[0x45; 40])
        .flags_and_offset(ipv4::MORE_FRAGMENTS)
        .bytes;
    assert_eq!(
        inner(&fragment, &ipv4::parse(&fragment).unwrap()),
        Err(IpipError::Fragment)
    );
    let empty = outer(&[]).bytes;
    assert_eq!(
        inner(&empty, &ipv4::parse(&empty).unwrap()),
        Err(IpipError::Truncated)
    );
}
