use proptest::prelude::*;

use super::*;

#[test]
fn a_header_is_written_as_rfc_7348_section_5_draws_it() {
    assert_eq!(header(Vni::CALICO), [0x08, 0, 0, 0, 0, 0x10, 0, 0]);
}

#[test]
fn a_header_without_the_i_flag_is_refused() {
    // Row V1.
    for flags in (0..=255).filter(|f| f & 0x08 == 0) {
        assert_eq!(
            parse(&[flags, 0, 0, 0, 0, 0x10, 0, 0]),
            Err(VxlanError::NoVni)
        );
    }
}

#[test]
fn reserved_bits_are_ignored_on_receipt() {
    // Row V2: each of them, the group policy bit among them.
    for bit in (0..64).filter(|bit| !(32..56).contains(bit)) {
        let bytes = (u64::from_be_bytes(header(Vni::CALICO)) | 1 << (63 - bit)).to_be_bytes();
        assert_eq!(parse(&bytes), Ok(Vni::CALICO), "bit {bit}");
    }
}

#[test]
fn a_header_cut_short_is_refused() {
    // Row V13.
    for end in 0..HEADER_LEN {
        assert_eq!(
            parse(&header(Vni::CALICO)[..end]),
            Err(VxlanError::Truncated)
        );
    }
}

#[test]
fn a_network_identifier_has_24_bits() {
    assert_eq!(Vni::new(0x00ff_ffff).map(Vni::get), Some(0x00ff_ffff));
    assert_eq!(Vni::new(0x0100_0000), None);
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(vni in 0..1u32 << 24, payload in prop::collection::vec(any::<u8>(), 0..20)) {
        let vni = Vni::new(vni).unwrap();
        prop_assert_eq!(parse(&[&header(vni)[..], &payload].concat()), Ok(vni));
    }
}
