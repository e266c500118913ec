use super::super::segment::Flags;
use super::*;

fn ack(ack: u32, window: u16, payload_len: u32) -> Segment {
    Segment {
        flags: Flags::ACK,
        seq: 5000,
        ack,
        window,
        payload_len,
        window_scale: None,
    }
}

#[test]
fn fields_do_not_touch_each_other() {
    let dir = Dir::from_bits(u64::MAX);
    assert_eq!(dir.with_ack(0).to_bits(), u64::MAX << 32);
    assert_eq!(dir.with_tail(0).to_bits(), u64::MAX >> 15);
    assert_eq!(Dir::EMPTY.with_window(!0 >> 2).to_bits(), 0x1e << 40);
    assert_eq!(dir.with_shift(Some(0)).to_bits(), !(0x0f << 45));
    assert_eq!(Dir::EMPTY.with(Seen(0xff)).to_bits(), 0xff << 32);
    assert_eq!(Dir::EMPTY.with_tail_of(dir).to_bits(), 0x7fff << 49);
    assert!(Dir::from_bits(!(0xff << 32)).is_empty());
}

#[test]
fn windows_round_up_to_a_power_of_two() {
    let window = |window| Dir::EMPTY.with_window(window).window();
    assert_eq!(window(0), 1);
    assert_eq!(window(1), 2);
    assert_eq!(window(1023), 1024);
    assert_eq!(window(1024), 2048);
    assert_eq!(window(65_535), 1 << 16);
    assert_eq!(window(65_535 << 14), 1 << 30);
}

#[test]
fn an_acknowledgement_advances_no_further_than_its_window() {
    let syn = Segment {
        flags: Flags::SYN,
        window: 1000,
        ..Segment::default()
    };
    let dir = Dir::from_segment(u32::MAX, Seen::ACKED, &syn);
    let noted = dir.note(&ack(1023, 500, 7));
    assert_eq!((noted.ack(), noted.window()), (1023, 1024));
    assert!(noted.is_tail(5007));
    assert_eq!(dir.note(&ack(1024, 500, 7)), dir);
    assert_eq!(dir.note(&ack(u32::MAX - 1, 500, 7)), dir);
    // The same one again is a window update.
    assert_eq!(dir.note(&ack(u32::MAX, 5000, 0)).window(), 8192);
}

#[test]
fn windows_after_the_syn_are_scaled() {
    let syn = Segment {
        flags: Flags::SYN,
        window: 65_535,
        window_scale: Some(14),
        ..Segment::default()
    };
    let dir = Dir::from_segment(1, Seen::ACKED, &syn);
    assert_eq!(dir.window(), 1 << 16, "the SYN's own is not");
    assert!(dir.offers_scale());
    assert_eq!(dir.note(&ack(1, 65_535, 0)).window(), 1 << 30);
    let small = Segment { window: 1, ..syn };
    let small = Dir::from_segment(1, Seen::ACKED, &small);
    assert_eq!(small.note(&ack(1, 3, 0)).window(), 1 << 16);
    let unscaled = dir.without_scale();
    assert!(!unscaled.offers_scale());
    assert_eq!(unscaled.note(&ack(1, 65_535, 0)).window(), 1 << 16);
}

/// What [`Dir::note`] says, put without its short cuts.
fn noted(dir: Dir, segment: &Segment) -> Dir {
    if segment.ack.wrapping_sub(dir.ack()) > dir.reach() {
        return dir;
    }
    let shift = if dir.offers_scale() {
        dir.shift_bits()
    } else {
        0
    };
    dir.with_ack(segment.ack)
        .with_window(u32::from(segment.window) << shift)
        .with_tail(segment.end())
}

#[test]
fn short_cuts_note_the_same() {
    let steps = [
        0,
        1,
        2,
        0x7fff,
        0x8000,
        0xffff,
        1 << 30,
        (1 << 30) + 1,
        1 << 31,
    ];
    let windows = (0..16).map(|bit| 1_u16 << bit);
    let windows =
        windows.flat_map(|it| [it - 1, it, it | it >> 1, it.wrapping_mul(2).wrapping_sub(1)]);
    for (exponent, shift, window) in (0..=30)
        .flat_map(|exponent| (0..16).map(move |shift| (exponent, shift)))
        .flat_map(|(exponent, shift)| windows.clone().map(move |it| (exponent, shift, it)))
    {
        for seen in [Seen::ACKED, Seen::PICKED_UP] {
            let bits = exponent << EXPONENT_AT | shift << SHIFT_AT | 0xffff_fff0;
            let dir = Dir::from_bits(bits).with(seen);
            let near = [dir.window() - 1, dir.window(), dir.window() + 1];
            for step in steps.into_iter().chain(near) {
                let segment = ack(dir.ack().wrapping_add(step), window, 7);
                assert_eq!(
                    dir.note(&segment),
                    noted(dir, &segment),
                    "{dir:?} {segment:?}"
                );
            }
        }
    }
}

#[test]
fn any_bits_do() {
    for bits in (0..64).map(|at| 1_u64 << at).chain([u64::MAX]) {
        let dir = Dir::from_bits(bits);
        let _ = dir.note(&ack(0, u16::MAX, u32::MAX));
        let _ = format!("{dir:?}");
    }
}
