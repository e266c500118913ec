use proptest::prelude::*;

use super::*;

/// Port 1 to 2, sequence number 0x0a0b0c0d, acknowledgement 0x01020304, window 0x1234.
fn header(flags: u8, options: &[u8]) -> Vec<u8> {
    assert_eq!(options.len() % 4, 0, "options are padded");
    let data_offset = ((20 + options.len()) / 4) as u8;
    let mut bytes = vec![
        0, 1, 0, 2, 0x0a, 0x0b, 0x0c, 0x0d, 1, 2, 3, 4, 0, flags, 0x12, 0x34, 0, 0, 0, 0,
    ];
    bytes[12] = data_offset << 4;
    bytes.extend_from_slice(options);
    bytes
}

#[test]
fn a_header_is_read() {
    let mut bytes = header(0x18, &[]);
    bytes.extend_from_slice(b"payload and padding");
    assert_eq!(
        Segment::read(&bytes, 20 + 7),
        Some(Segment {
            flags: Flags::PSH | Flags::ACK,
            seq: 0x0a0b_0c0d,
            ack: 0x0102_0304,
            window: 0x1234,
            payload_len: 7,
            window_scale: None,
        })
    );
}

#[test]
fn payload_may_be_cut_off_and_headers_may_not() {
    let bytes = header(0x02, &[2, 4, 5, 0xb4, 1, 3, 3, 7]);
    let cut = |len: usize, l4_len| Segment::read(&bytes[..len], l4_len);
    assert_eq!(cut(28, 1000).map(|segment| segment.payload_len), Some(972));
    for len in 0..28 {
        assert_eq!(cut(len, 1000), None, "{len} bytes");
        assert_eq!(cut(28, len), None, "{len} bytes by the IP header");
    }
}

#[test]
fn data_offsets_below_five_are_impossible() {
    let mut bytes = header(0x10, &[]);
    bytes.resize(100, 0);
    for data_offset in 0..16_u8 {
        bytes[12] = data_offset << 4;
        assert_eq!(Segment::read(&bytes, 100).is_some(), data_offset >= 5);
    }
}

#[test]
fn the_window_scale_is_found_among_options() {
    let scale = |flags, options: &[u8]| {
        let bytes = header(flags, options);
        Segment::read(&bytes, bytes.len()).and_then(|segment| segment.window_scale)
    };
    let linux = [
        2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7,
    ];
    assert_eq!(scale(0x02, &linux), Some(7));
    assert_eq!(scale(0x12, &linux), Some(7));
    assert_eq!(scale(0x10, &linux), None, "it counts on SYN only");
    assert_eq!(
        scale(0x02, &[3, 3, 15, 0]),
        Some(14),
        "RFC 7323 section 2.3"
    );
    assert_eq!(scale(0x02, &[0, 3, 3, 7]), None, "after the end");
    assert_eq!(scale(0x02, &[1, 1, 3, 3]), None, "cut");
    assert_eq!(
        scale(0x02, &[5, 0, 3, 3, 7, 0, 0, 0]),
        None,
        "a length of 0"
    );
    assert_eq!(scale(0x02, &[5, 200, 3, 3]), None, "longer than the header");
    assert_eq!(scale(0x02, &[]), None);
}

#[test]
fn syn_and_fin_count_one_each() {
    let end = |flags, payload_len| {
        Segment {
            flags,
            seq: u32::MAX,
            payload_len,
            ..Segment::default()
        }
        .end()
    };
    assert_eq!(end(Flags::ACK, 0), u32::MAX);
    assert_eq!(end(Flags::SYN, 0), 0);
    assert_eq!(end(Flags::FIN | Flags::ACK, 5), 5);
    assert_eq!(end(Flags::RST, 0), u32::MAX);
}

/// The combinations in which the kernel's `tcp_valid_flags` has a 1, each with any of PSH, ECE and CWR.
#[test]
fn flags_are_valid_as_in_the_kernel() {
    let valid = [0x02, 0x22, 0x12, 0x04, 0x14, 0x11, 0x31, 0x10, 0x30];
    for bits in 0..=u8::MAX {
        let expected = valid.contains(&(bits & 0x37));
        assert_eq!(Flags(bits).are_valid(), expected, "{bits:#04x}");
        let plain = bits & 0x17 == 0x10;
        assert_eq!(Flags(bits).is_plain_ack(), plain, "{bits:#04x}");
    }
}

proptest! {
    /// Wherever the segment lies in the bytes and ends in them, and whatever lies behind it.
    #[test]
    fn the_short_way_reads_what_the_long_way_reads_of_plain_ones(
        mut bytes in prop::collection::vec(any::<u8>(), 0..90),
        (start, len) in (0..40_usize, 0..60_usize),
        (offset, flags) in (0..16_u8, prop::option::of(any::<u8>())),
    ) {
        let end = (start + len).min(bytes.len());
        for (at, byte) in [(12, offset << 4), (13, flags.unwrap_or(0x10))] {
            if let Some(there) = bytes.get_mut(start + at) {
                *there = byte;
            }
        }
        let long = bytes.get(start..end).and_then(|l4| Segment::read(l4, l4.len()));
        let long = long.filter(|it| it.flags.is_plain_ack());
        prop_assert_eq!(Segment::read_plain(&bytes, start..end), long);
    }
}
