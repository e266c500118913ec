use proptest::prelude::*;

use super::*;
use crate::testing::{Ipv4Builder, naive_checksum};

fn fragments(l3: &[u8], mtu: u16) -> Result<Vec<Vec<u8>>, FragmentError> {
    let ip = ipv4::parse(l3).unwrap();
    Ok(plan(l3, &ip, mtu)?
        .map(|f| [f.header(), &l3[f.payload()]].concat())
        .collect())
}

/// Puts fragments together by copying each payload to its offset: returns bytes from the lowest offset on, and whether
/// the last fragment says "more".
fn reassemble(fragments: &[Vec<u8>]) -> (usize, Vec<u8>, bool) {
    let parsed: Vec<_> = fragments.iter().map(|f| ipv4::parse(f).unwrap()).collect();
    let base = usize::from(parsed[0].fragment_offset());
    let mut data = Vec::new();
    for (fragment, ip) in fragments.iter().zip(&parsed) {
        assert_eq!(
            usize::from(ip.fragment_offset()) - base,
            data.len(),
            "no gap and no overlap"
        );
        data.extend_from_slice(&fragment[usize::from(ip.header_len())..]);
    }
    for ip in &parsed[..parsed.len() - 1] {
        assert!(ip.more_fragments() && ip.payload_len() % 8 == 0);
    }
    (base, data, parsed[parsed.len() - 1].more_fragments())
}

#[test]
fn a_packet_that_fits_is_its_only_fragment() {
    for payload in [0, 1, 1480] {
        let packet = Ipv4Builder::new(17, &[], &vec![7; payload])
            .flags_and_offset(ipv4::DONT_FRAGMENT)
            .bytes;
        assert_eq!(fragments(&packet, 1500), Ok(vec![packet]));
    }
}

#[test]
fn offsets_are_in_units_of_eight_and_all_but_the_last_say_more() {
    // Row 4.17, RFC 791 section 3.2.
    let data: Vec<u8> = (0..2000u16).map(|n| n as u8).collect();
    let packet = Ipv4Builder::new(17, &[], &data).bytes;
    let made = fragments(&packet, 1450).unwrap();
    let lens: Vec<_> = made.iter().map(Vec::len).collect();
    assert_eq!(lens, [1444, 596]);
    assert_eq!(reassemble(&made), (0, data, false));
    for fragment in &made {
        let ip = ipv4::parse(fragment).unwrap();
        assert_eq!(
            (ip.id, ip.ttl, ip.protocol, ip.src, ip.dst),
            (0x1234, 64, 17, 0x0a00_0001, 0x0a00_0002)
        );
    }
}

#[test]
fn a_packet_that_forbids_it_is_not_fragmented() {
    // Row 4.18.
    let packet = Ipv4Builder::new(17, &[], &[7; 100])
        .flags_and_offset(ipv4::DONT_FRAGMENT)
        .bytes;
    assert_eq!(fragments(&packet, 119), Err(FragmentError::DontFragment));
    assert!(fragments(&packet, 120).is_ok());
}

#[test]
fn an_mtu_without_room_for_eight_bytes_is_refused() {
    let packet = Ipv4Builder::new(17, &[1; 4], &[7; 100]).bytes;
    assert_eq!(fragments(&packet, 31), Err(FragmentError::MtuTooSmall));
    assert!(fragments(&packet, 32).is_ok());
}

#[test]
fn options_go_into_later_fragments_by_their_copy_bit() {
    // Row 4.17, RFC 791 section 3.1: record route (7) is not copied, router alert (148) is.
    let options = [7, 7, 4, 0, 0, 0, 0, 1, 148, 4, 0, 0];
    let packet = Ipv4Builder::new(17, &options, &[9; 64]).bytes;
    let made = fragments(&packet, 68).unwrap();
    assert_eq!(made[0][20..32], options);
    for later in &made[1..] {
        assert_eq!((later[0], &later[20..24]), (0x46, &[148, 4, 0, 0][..]));
    }
    assert_eq!(reassemble(&made), (0, vec![9; 64], false));
    let none_copied = Ipv4Builder::new(17, &[7, 7, 4, 0, 0, 0, 0, 0], &[9; 64]).bytes;
    assert_eq!(fragments(&none_copied, 68).unwrap()[1][0], 0x45);
}

#[test]
fn a_kept_option_of_odd_length_is_padded_with_end() {
    let packet = Ipv4Builder::new(17, &[0x9e, 3, 5, 0], &[9; 64]).bytes;
    assert_eq!(fragments(&packet, 68).unwrap()[1][20..24], [0x9e, 3, 5, 0]);
}

#[test]
fn a_fragment_is_fragmented_further() {
    for (word, more) in [(ipv4::MORE_FRAGMENTS | 0x64, true), (0x64, false)] {
        let packet = Ipv4Builder::new(17, &[], &[9; 96])
            .flags_and_offset(word)
            .bytes;
        let made = fragments(&packet, 68).unwrap();
        assert_eq!(
            (made.len(), reassemble(&made)),
            (2, (800, vec![9; 96], more))
        );
    }
}

#[test]
fn link_padding_goes_into_no_fragment() {
    // VPP ec5371e3e31: fragments sum up to the total length.
    let mut packet = Ipv4Builder::new(17, &[], &[9; 50]).bytes;
    packet.extend([0xee; 30]);
    assert_eq!(
        reassemble(&fragments(&packet, 44).unwrap()),
        (0, vec![9; 50], false)
    );
}

fn any_options() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec((any::<bool>(), 2..9u8), 0..5).prop_map(|list| {
        let mut options: Vec<u8> = list
            .iter()
            .flat_map(|(copied, len)| {
                let mut option = vec![0x5a; usize::from(*len)];
                option[0] = if *copied { 0x9e } else { 0x1e };
                option[1] = *len;
                option
            })
            .collect();
        options.resize(options.len().next_multiple_of(4), 0);
        options
    })
}

proptest! {
    #[test]
    fn fragments_fit_are_sound_and_make_the_whole(
        data in prop::collection::vec(any::<u8>(), 1..3000), options in any_options(), mtu in 68..1600u16, offset in 0..4000u16
    ) {
        let packet = Ipv4Builder::new(17, &options, &data).flags_and_offset(offset).bytes;
        let made = fragments(&packet, mtu).unwrap();
        for fragment in &made {
            prop_assert!(fragment.len() <= usize::from(mtu));
            let ip = ipv4::parse(fragment).unwrap();
            prop_assert_eq!(usize::from(ip.total_len), fragment.len());
            prop_assert_eq!(naive_checksum(&fragment[..usize::from(ip.header_len())]), 0);
        }
        prop_assert_eq!(reassemble(&made), (usize::from(offset) * 8, data, false));
    }
}
