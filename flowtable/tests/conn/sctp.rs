//! SCTP associations, by hand.

use flowtable::conn::sctp::{Packet, chunk};
use flowtable::conn::{Facts, Invalid, Protocol, State};

use crate::talk::{Fate, Side, Talk};

const CLIENT_TAG: u32 = 0xc11e;
const SERVER_TAG: u32 = 0x5e17;
const DATA: u8 = 0;

fn packet(tag: u32, kind: u8) -> Packet {
    Packet {
        tag,
        chunks: 1 << kind,
        ..Packet::default()
    }
}

fn opening(tag: u32, kind: u8, initiate_tag: u32) -> Packet {
    Packet {
        initiate_tag,
        ..packet(tag, kind)
    }
}

fn send(talk: &mut Talk, side: Side, packet: Packet) -> (Fate, State) {
    let fate = talk.send(side, &Facts::Sctp(packet));
    (fate, talk.state_of(Protocol::Sctp))
}

/// RFC 9260 section 5.1.
fn established() -> Talk {
    let mut talk = Talk::new();
    let steps = [
        (
            Side::Client,
            opening(0, chunk::INIT, CLIENT_TAG),
            State::CookieWait,
        ),
        (
            Side::Client,
            opening(0, chunk::INIT, CLIENT_TAG),
            State::CookieWait,
        ),
        (
            Side::Server,
            opening(CLIENT_TAG, chunk::INIT_ACK, SERVER_TAG),
            State::CookieWait,
        ),
        (
            Side::Client,
            packet(SERVER_TAG, chunk::COOKIE_ECHO),
            State::CookieEchoed,
        ),
        (
            Side::Server,
            packet(CLIENT_TAG, chunk::COOKIE_ACK),
            State::Established,
        ),
    ];
    for (side, packet, state) in steps {
        let (fate, now) = send(&mut talk, side, packet);
        assert!(matches!(fate, Fate::New | Fate::Pass));
        assert_eq!(now, state, "after {packet:?}");
    }
    talk
}

/// RFC 9260 section 9.2.
#[test]
fn an_association_shuts_down() {
    let mut talk = established();
    let steps = [
        (Side::Client, packet(SERVER_TAG, DATA), State::Established),
        (
            Side::Server,
            packet(CLIENT_TAG, chunk::SHUTDOWN),
            State::ShutdownSent,
        ),
        (
            Side::Client,
            packet(SERVER_TAG, chunk::SHUTDOWN_ACK),
            State::ShutdownAckSent,
        ),
        (
            Side::Server,
            packet(CLIENT_TAG, chunk::SHUTDOWN_COMPLETE),
            State::Closed,
        ),
    ];
    for (side, packet, state) in steps {
        assert_eq!(send(&mut talk, side, packet), (Fate::Pass, state));
    }
    let again = opening(0, chunk::INIT, 77);
    let (fate, state) = send(&mut talk, Side::Client, again);
    assert_eq!((fate, state), (Fate::New, State::CookieWait));
}

/// S13 for SCTP, RFC 9260 section 8.5: who does not know the tags changes nothing.
#[test]
fn s13_packets_with_another_tag_change_nothing() {
    for side in [Side::Client, Side::Server] {
        for kind in 0..16 {
            let mut talk = established();
            let before = talk.words;
            for tag in [1, 0xdead_beef] {
                send(&mut talk, side, opening(tag, kind, 99));
                assert_eq!(talk.words, before, "chunk {kind}");
            }
            // INIT has the tag 0, and is the endpoint's business (section 5.2.2).
            send(&mut talk, side, opening(0, chunk::INIT, 99));
            assert_eq!(talk.words, before);
        }
    }
}

/// RFC 9260 section 8.5.1: an ABORT with the T bit carries its sender's own tag.
#[test]
fn abort_with_either_tag() {
    let abort = |tag, reflects_tag| Packet {
        reflects_tag,
        ..packet(tag, chunk::ABORT)
    };
    let closes = |packet| send(&mut established(), Side::Server, packet).1 == State::Closed;
    assert!(closes(abort(CLIENT_TAG, false)));
    assert!(closes(abort(SERVER_TAG, true)));
    assert!(!closes(abort(SERVER_TAG, false)));
    assert!(!closes(abort(CLIENT_TAG, true)));
}

/// The right tags, and chunks that are out of place (section 5.2).
#[test]
fn chunks_out_of_place_change_nothing() {
    let mut talk = established();
    let before = talk.words;
    for (side, tag) in [(Side::Client, SERVER_TAG), (Side::Server, CLIENT_TAG)] {
        for out_of_place in [
            opening(tag, chunk::INIT_ACK, 99),
            packet(tag, chunk::SHUTDOWN_ACK),
            packet(tag, chunk::SHUTDOWN_COMPLETE),
        ] {
            assert_eq!(send(&mut talk, side, out_of_place).0, Fate::Pass);
            assert_eq!(talk.words, before, "{out_of_place:?}");
        }
    }

    let mut talk = Talk::new();
    send(&mut talk, Side::Client, opening(0, chunk::INIT, CLIENT_TAG));
    let before = talk.words;
    for early in [
        Packet {
            reflects_tag: true,
            ..packet(0, chunk::ABORT)
        },
        opening(CLIENT_TAG, chunk::INIT_ACK, 0),
        packet(CLIENT_TAG, chunk::COOKIE_ACK),
    ] {
        send(&mut talk, Side::Server, early);
        assert_eq!(talk.words, before, "{early:?}");
    }
    send(
        &mut talk,
        Side::Server,
        opening(CLIENT_TAG, chunk::INIT_ACK, SERVER_TAG),
    );
    let before = talk.words;
    send(&mut talk, Side::Server, opening(0, chunk::INIT, 99));
    assert_eq!(talk.words, before, "who has answered does not begin");
    send(&mut talk, Side::Server, packet(CLIENT_TAG, chunk::ABORT));
    let answer = opening(CLIENT_TAG, chunk::INIT_ACK, SERVER_TAG);
    assert_eq!(
        send(&mut talk, Side::Server, answer).1,
        State::Closed,
        "for good"
    );
}

/// Both begin at once (section 5.2.1): both answer, and the cookie of either does.
#[test]
fn both_begin_at_once() {
    let mut talk = Talk::new();
    send(&mut talk, Side::Client, opening(0, chunk::INIT, CLIENT_TAG));
    send(&mut talk, Side::Server, opening(0, chunk::INIT, SERVER_TAG));
    send(
        &mut talk,
        Side::Client,
        opening(SERVER_TAG, chunk::INIT_ACK, CLIENT_TAG),
    );
    send(
        &mut talk,
        Side::Server,
        packet(CLIENT_TAG, chunk::COOKIE_ECHO),
    );
    let acknowledged = packet(SERVER_TAG, chunk::COOKIE_ACK);
    assert_eq!(
        send(&mut talk, Side::Client, acknowledged),
        (Fate::Pass, State::Established)
    );
}

/// The server does not want the association.
#[test]
fn an_init_is_answered_with_abort() {
    let mut talk = Talk::new();
    send(&mut talk, Side::Client, opening(0, chunk::INIT, CLIENT_TAG));
    let abort = packet(CLIENT_TAG, chunk::ABORT);
    assert_eq!(send(&mut talk, Side::Server, abort).1, State::Closed);
}

#[test]
fn what_begins_an_association() {
    let mut talk = Talk::new();
    let zero_tag = opening(0, chunk::INIT, 0);
    assert_eq!(
        send(&mut talk, Side::Client, zero_tag).0,
        Fate::Invalid(Invalid::Flags)
    );
    let with_tag = opening(7, chunk::INIT, 7);
    assert_eq!(
        send(&mut talk, Side::Client, with_tag).0,
        Fate::Invalid(Invalid::Flags)
    );
    let data = packet(SERVER_TAG, DATA);
    assert_eq!(
        send(&mut talk, Side::Client, data).0,
        Fate::Invalid(Invalid::MidStream)
    );

    let mut talk = Talk::picking_up();
    let abort = packet(SERVER_TAG, chunk::ABORT);
    assert_eq!(
        send(&mut talk, Side::Client, abort).0,
        Fate::Invalid(Invalid::MidStream)
    );
    assert_eq!(
        send(&mut talk, Side::Client, data),
        (Fate::New, State::Unreplied)
    );
    let reply = packet(CLIENT_TAG, DATA);
    assert_eq!(
        send(&mut talk, Side::Server, reply),
        (Fate::Pass, State::Established)
    );
    assert_eq!(
        send(&mut talk, Side::Server, abort).1,
        State::Established,
        "another tag"
    );
    let abort = packet(CLIENT_TAG, chunk::ABORT);
    assert_eq!(send(&mut talk, Side::Server, abort).1, State::Closed);
}

#[test]
fn chunks_are_read() {
    let mut bytes = vec![0, 1, 0, 2, 0, 0, 0, 9, 0, 0, 0, 0];
    // SACK of 6 bytes and padding, then SHUTDOWN.
    bytes.extend_from_slice(&[3, 0, 0, 6, 1, 1, 0, 0, 7, 0, 0, 8, 0, 0, 0, 0]);
    let read = Packet::read(&bytes, bytes.len()).expect("whole");
    assert_eq!((read.tag, read.chunks), (9, 1 << 3 | 1 << 7));
    // Padding of the frame is not a chunk.
    assert_eq!(
        Packet::read(&bytes, 20).map(|read| read.chunks),
        Some(1 << 3)
    );
    for len in 0..16 {
        assert_eq!(Packet::read(&bytes[..len], 100), None, "{len} bytes");
    }

    bytes.truncate(12);
    bytes.extend_from_slice(&[1, 0, 0, 20, 0xaa, 0xbb, 0xcc, 0xdd]);
    let read = Packet::read(&bytes, 100).expect("cut behind the tag");
    assert_eq!(read.initiate_tag, 0xaabb_ccdd);
    assert_eq!(Packet::read(&bytes[..19], 100), None, "cut in the tag");

    bytes.truncate(12);
    bytes.extend_from_slice(&[14, 1, 0, 4]);
    assert!(Packet::read(&bytes, 16).expect("whole").reflects_tag);
    // A length of 0 would be read for ever.
    bytes.truncate(12);
    bytes.extend_from_slice(&[0, 0, 0, 0]);
    assert_eq!(Packet::read(&bytes, 16).map(|read| read.chunks), Some(0));
}
