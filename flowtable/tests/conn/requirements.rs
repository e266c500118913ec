//! The rows of the requirements that concern the tracker, one test or more each.

use std::time::Duration;

use flowtable::conn::{
    self, Facts, Flags, Icmp, Invalid, Protocol, Segment, State, Timeouts, idle_time, is_quick,
    is_under_way,
};

use crate::talk::{Fate, Side, Talk, established, segment};

const MINUTE: Duration = Duration::from_mins(1);

/// N7, RFC 4787 REQ-5: UDP is kept two minutes at least, five by default, once it is answered.
#[test]
fn n7_udp_is_kept_five_minutes_once_answered() {
    let mut talk = Talk::new();
    let timeout = |talk: &Talk| Timeouts::DEFAULT.of(Protocol::Udp, talk.state_of(Protocol::Udp));
    assert_eq!(talk.send(Side::Client, &Facts::Datagram), Fate::New);
    talk.send(Side::Client, &Facts::Datagram);
    assert_eq!(talk.state_of(Protocol::Udp), State::Unreplied);
    assert_eq!(timeout(&talk), Duration::from_secs(30));
    talk.send(Side::Server, &Facts::Datagram);
    assert_eq!(talk.state_of(Protocol::Udp), State::Assured);
    assert_eq!(timeout(&talk), 5 * MINUTE);
}

/// N8, RFC 4787 REQ-6, RFC 7857 section 7: outbound packets refresh, inbound ones not for ever.
#[test]
fn n8_inbound_packets_alone_do_not_keep_a_mapping_for_ever() {
    let timeout = 5 * MINUTE;
    let idle = |original, reply| idle_time(timeout, original, reply);
    assert_eq!(idle(MINUTE, Duration::MAX), MINUTE, "no reply yet");
    assert_eq!(idle(Duration::ZERO, 60 * MINUTE), Duration::ZERO);
    assert_eq!(idle(3 * MINUTE, MINUTE), MINUTE);
    assert_eq!(idle(19 * MINUTE, Duration::ZERO), Duration::ZERO);
    assert_eq!(idle(24 * MINUTE, Duration::ZERO), 4 * MINUTE);
    assert!(idle(25 * MINUTE, Duration::ZERO) >= timeout, "expired");
    assert_eq!(idle(Duration::MAX, Duration::MAX), Duration::MAX);
}

/// N8, RFC 7857 section 7.1: an RST that closes nothing is no sign of life, and one that closes starts its timeout.
#[test]
fn n8_a_refused_rst_does_not_refresh() {
    let [client, server] = established().words;
    let refreshes = |segment| conn::next(client, server, false, &Facts::Tcp(segment)).refreshes;
    assert!(refreshes(segment("R", 101, 0, 0)));
    assert!(!refreshes(segment("R", 1101, 0, 0)));
    assert!(refreshes(segment(".", 101, 301, 0)));
    assert!(refreshes(segment("F.", 101, 301, 0)));
    assert!(!refreshes(segment("FU", 101, 301, 0)), "invalid");
}

/// N15, RFC 5382 REQ-2: see also `sequences`, simultaneous open. Here: mid-stream by configuration.
#[test]
fn n15_which_segments_begin_a_connection() {
    let begins = |flags: &str, pick_up| {
        conn::first(&Facts::Tcp(segment(flags, 100, 300, 0)), pick_up).map(drop)
    };
    for pick_up in [false, true] {
        for syn in ["S", "SP", "SU"] {
            assert_eq!(begins(syn, pick_up), Ok(()), "{syn}");
        }
        for never in ["S.", "R", "R."] {
            assert_eq!(begins(never, pick_up), Err(Invalid::MidStream), "{never}");
        }
        for senseless in [
            "", "F", "P", "U", "FPU", "SF", "SR", "SF.", "FR.", "SR.", "SFRPU.",
        ] {
            assert_eq!(
                begins(senseless, pick_up),
                Err(Invalid::Flags),
                "{senseless}"
            );
        }
        for middle in [".", "P.", "F.", "FP."] {
            let expected = if pick_up {
                Ok(())
            } else {
                Err(Invalid::MidStream)
            };
            assert_eq!(begins(middle, pick_up), expected, "{middle}");
        }
    }
}

/// N15: senseless flags are invalid inside a connection too, and change nothing.
#[test]
fn n15_senseless_flags_are_invalid_in_a_connection() {
    for bits in 0..=u8::MAX {
        let mut talk = established();
        let before = talk.words;
        let segment = Segment {
            flags: Flags(bits),
            ..segment("", 101, 301, 0)
        };
        if !segment.flags.are_valid() {
            let fate = talk.tcp(Side::Client, segment);
            assert_eq!(fate, Fate::Invalid(Invalid::Flags), "{bits:#04x}");
            assert_eq!(talk.words, before);
        }
    }
}

/// N17, RFC 5382 REQ-5, RFC 7857 section 2.
#[test]
fn n17_tcp_timeouts() {
    let of = |state| Timeouts::DEFAULT.of(Protocol::Tcp, state);
    assert_eq!(of(State::Established), 124 * MINUTE);
    for transitory in [
        State::FinWait,
        State::CloseWait,
        State::LastAck,
        State::TimeWait,
        State::Close,
    ] {
        assert_eq!(of(transitory), 4 * MINUTE, "{transitory:?}");
        assert!(transitory.is_closing() && !transitory.is_embryonic());
    }
}

/// N18, RFC 5508 REQ-1 and 2: one identifier, queries one way and answers the other.
#[test]
fn n18_icmp_queries_are_answered() {
    let mut talk = Talk::new();
    let query = Facts::Icmp(Icmp::Query);
    let answer = Facts::Icmp(Icmp::Answer);
    assert_eq!(
        talk.send(Side::Client, &answer),
        Fate::Invalid(Invalid::MidStream)
    );
    assert_eq!(talk.send(Side::Client, &query), Fate::New);
    assert_eq!(talk.send(Side::Client, &query), Fate::Pass);
    assert_eq!(talk.state_of(Protocol::Icmp), State::Unreplied);
    for (side, wrong) in [(Side::Client, answer), (Side::Server, query)] {
        let fate = talk.send(side, &wrong);
        assert_eq!(fate, Fate::Invalid(Invalid::Direction));
        assert_eq!(talk.state_of(Protocol::Icmp), State::Unreplied);
    }
    assert_eq!(talk.send(Side::Server, &answer), Fate::Pass);
    assert_eq!(talk.state_of(Protocol::Icmp), State::Assured);
    let timeout = Timeouts::DEFAULT.of(Protocol::Icmp, State::Assured);
    assert!(timeout >= MINUTE);
}

/// N18: errors are neither, so a caller cannot hand them in by mistake (N12).
#[test]
fn n12_icmp_errors_are_not_the_trackers() {
    for error in [3, 4, 5, 11, 12] {
        assert_eq!(Icmp::of_type(error), None);
    }
    for error in 1..=4 {
        assert_eq!(Icmp::of_type_v6(error), None);
    }
    assert_eq!(Icmp::of_type(8), Some(Icmp::Query));
    assert_eq!(Icmp::of_type(0), Some(Icmp::Answer));
    assert_eq!(Icmp::of_type_v6(128), Some(Icmp::Query));
    assert_eq!(Icmp::of_type_v6(129), Some(Icmp::Answer));
}

/// N24, RFC 5961 section 3: an RST closes at the number that the other side expects next. All around it do not.
#[test]
fn n24_rst_counts_in_window_only() {
    let closes = |seq| {
        let mut talk = established();
        talk.tcp(Side::Client, segment("P.", 101, 301, 500));
        talk.tcp(Side::Server, segment(".", 301, 401, 0));
        let fate = talk.tcp(Side::Client, segment("R", seq, 0, 0));
        assert_eq!(fate, Fate::Pass, "the endpoint decides");
        talk.state() == State::Close
    };
    // The server has acknowledged 401; the client has sent up to 601.
    assert!(closes(401));
    assert!(closes(601));
    for seq in (0..70_000).filter(|seq| ![401, 601].contains(seq)) {
        // The word keeps 15 bits of where the sender's last segment ended, and a window holds them once more.
        assert_eq!(closes(seq), seq == 601 + 0x8000, "{seq}");
    }
    assert!(!closes(601 + 0x1_0000), "out of window");
    assert!(!closes(601_u32.wrapping_sub(0x8000)), "out of window");
}

/// N24: FIN counts in window only, and only with an acknowledgement that can be.
#[test]
fn n24_fin_counts_in_window_only() {
    let closes = |seq, ack| {
        let mut talk = established();
        talk.tcp(Side::Client, segment("F.", seq, ack, 0));
        talk.state() != State::Established
    };
    assert!(closes(101, 301));
    assert!(closes(101, 301 + 30_000));
    assert!(closes(101 + 60_000, 301), "data before it is under way");
    assert!(!closes(100, 301));
    assert!(!closes(102 + (1 << 16), 301));
    assert!(!closes(101, 301 + (1 << 17)));
    assert!(!closes(101, 301_u32.wrapping_sub(1 << 17)));
}

/// N24: an RST in the handshake counts only if it acknowledges the SYN (RFC 9293 section 3.10.7.3).
#[test]
fn n24_rst_in_the_handshake_acknowledges_the_syn() {
    let closes = |flags: &str, seq, ack| {
        let mut talk = Talk::new();
        talk.tcp(Side::Client, segment("S", 100, 0, 0));
        talk.tcp(Side::Server, segment(flags, seq, ack, 0));
        talk.state() == State::Close
    };
    assert!(closes("R.", 0, 101));
    assert!(!closes("R", 0, 0));
    assert!(!closes("R", 101, 101));
    assert!(!closes("R.", 0, 100));
    assert!(!closes("R.", 0, 102));
    assert!(!closes("R.", 0, 101 + 0x8000));
}

/// N24, RFC 5927 section 4.1: an ICMP error is about a segment that is under way.
#[test]
fn n24_icmp_errors_quote_what_is_under_way() {
    let mut talk = established();
    talk.tcp(Side::Client, segment("P.", 101, 301, 500));
    talk.tcp(Side::Server, segment(".", 301, 401, 0));
    let [client, server] = talk.words;
    assert!(is_under_way(client, server, 401));
    assert!(is_under_way(client, server, 601));
    assert!(!is_under_way(client, server, 400));
    assert!(!is_under_way(client, server, 402 + (1 << 16)));

    let mut talk = Talk::new();
    talk.tcp(Side::Client, segment("S", 100, 0, 0));
    let [client, server] = talk.words;
    assert!(is_under_way(client, server, 100));
    assert!(!is_under_way(client, server, 99));
    assert!(
        !is_under_way(server, client, 100),
        "the server sent nothing"
    );
    talk.tcp(Side::Server, segment("S.", 300, 101, 0));
    let [client, server] = talk.words;
    assert!(is_under_way(server, client, 300));
    assert!(!is_under_way(server, client, 301));
}

/// N25: announcements of a window that overtake each other: what was announced once may be used.
#[test]
fn n25_a_smaller_window_seen_late() {
    let mut talk = established();
    let announce = |window| Segment {
        window,
        ..segment(".", 301, 101, 0)
    };
    talk.tcp(Side::Server, announce(60_000));
    talk.tcp(Side::Server, announce(10));
    talk.tcp(Side::Client, segment("P.", 101, 301, 50_000));
    talk.tcp(Side::Server, segment(".", 301, 50_101, 0));
    talk.play(&[
        ('>', "F.", 50_101, 301, 0, State::FinWait),
        ('<', ".", 301, 50_102, 0, State::CloseWait),
    ]);
}

/// N25, RFC 7323: windows of 64 MB and more, and nothing is invalid or missed.
#[test]
fn n25_large_windows() {
    for shift in [0_u8, 7, 10, 14] {
        let mut talk = Talk::new();
        let scaled = |segment: Segment| Segment {
            window: u16::MAX,
            window_scale: Some(shift),
            ..segment
        };
        talk.tcp(Side::Client, scaled(segment("S", 100, 0, 0)));
        talk.tcp(Side::Server, scaled(segment("S.", 300, 101, 0)));
        talk.tcp(Side::Client, scaled(segment(".", 101, 301, 0)));
        let window = u32::from(u16::MAX) << shift;
        let mut seq = 101_u32;
        for _ in 0..200 {
            let half = window / 2;
            talk.tcp(Side::Server, scaled(segment(".", 301, seq, 0)));
            talk.tcp(Side::Client, scaled(segment(".", seq, 301, half)));
            seq = seq.wrapping_add(half);
            talk.tcp(Side::Client, scaled(segment(".", seq, 301, half)));
            seq = seq.wrapping_add(half);
        }
        assert_eq!(talk.state(), State::Established);
        // All of the window is under way when the sender gives up.
        let mut reset = talk.clone();
        reset.tcp(Side::Client, segment("R.", seq, 301, 0));
        assert_eq!(reset.state(), State::Close, "shift {shift}");
        talk.tcp(Side::Client, segment("F.", seq, 301, 0));
        talk.tcp(Side::Server, scaled(segment(".", 301, seq + 1, 0)));
        assert_eq!(talk.state(), State::CloseWait, "shift {shift}");
    }
}

/// N25, RFC 7323 section 2.2: windows are scaled only if both sides offer to.
#[test]
fn n25_windows_are_scaled_only_if_both_offer_to() {
    let fin_counts = |client_offers: bool, server_offers: bool, ahead: u32| {
        let offering = |segment: Segment, offers: bool| Segment {
            window_scale: offers.then_some(8),
            window: 1000,
            ..segment
        };
        let mut talk = Talk::new();
        talk.tcp(
            Side::Client,
            offering(segment("S", 100, 0, 0), client_offers),
        );
        talk.tcp(
            Side::Server,
            offering(segment("S.", 300, 101, 0), server_offers),
        );
        talk.tcp(Side::Client, offering(segment(".", 101, 301, 0), false));
        talk.tcp(Side::Server, offering(segment(".", 301, 101, 0), false));
        let mut to_client = talk.clone();
        to_client.tcp(Side::Server, segment("F.", 301 + ahead, 101, 0));
        talk.tcp(Side::Client, segment("F.", 101 + ahead, 301, 0));
        let counts = [&talk, &to_client].map(|talk| talk.state() == State::FinWait);
        assert_eq!(counts[0], counts[1], "one rule for both sides");
        counts[0]
    };
    for (client, server) in [(false, false), (true, false), (false, true)] {
        assert!(fin_counts(client, server, 1000));
        assert!(!fin_counts(client, server, 2000), "{client} {server}");
    }
    assert!(fin_counts(true, true, 256_000));
    assert!(!fin_counts(true, true, 600_000));
}

/// S12, S13: a packet that is not forwarded changes nothing, because its word is not stored.
#[test]
fn s12_the_tracker_keeps_nothing_itself() {
    let talk = established();
    let [client, server] = talk.words;
    let fin = Facts::Tcp(segment("F.", 101, 301, 0));
    let next = conn::next(client, server, false, &fin);
    assert_ne!(next.dir, client);
    assert_eq!(talk.state(), State::Established);
}

/// S13: whatever may change more than numbers has its checksum verified first.
#[test]
fn s13_only_plain_data_of_assured_connections_goes_unverified() {
    let talk = established();
    // The client's word was written when both had acknowledged, the server's was not yet.
    assert!(is_quick(talk.word(Side::Client), Flags::ACK));
    assert!(!is_quick(talk.word(Side::Server), Flags::ACK));
    for bits in 0..=u8::MAX {
        let is_plain = bits & 0x17 == 0x10;
        assert_eq!(is_quick(talk.word(Side::Client), Flags(bits)), is_plain);
    }
}

/// S13, RFC 5961 section 4: SYN in an established connection, from either side, with any number.
#[test]
fn s13_syn_in_an_established_connection_changes_nothing() {
    for side in [Side::Client, Side::Server] {
        for seq in [0, 100, 101, 300, 301, 70_000] {
            let mut talk = established();
            let before = talk.words;
            assert_eq!(talk.tcp(side, segment("S", seq, 0, 0)), Fate::Pass);
            assert_eq!(talk.words, before);
        }
    }
}

/// S13: an answer to the SYN that does not acknowledge it provokes an RST; neither counts.
#[test]
fn s13_a_forged_answer_and_the_rst_it_provokes_close_nothing() {
    let mut talk = Talk::new();
    talk.play(&[
        ('>', "S", 100, 0, 0, State::SynSent),
        ('<', "S.", 900, 5101, 0, State::SynSent),
        ('>', "R", 5101, 0, 0, State::SynSent),
        ('<', "S.", 300, 101, 0, State::SynReceived),
        ('>', ".", 101, 7301, 0, State::SynReceived),
        ('<', "R", 7301, 0, 0, State::SynReceived),
        ('>', ".", 101, 301, 0, State::Established),
    ]);
}

/// S14: who answers no SYN cookie cannot make its connections safe from eviction by sending ACK after SYN.
#[test]
fn s14_a_blind_handshake_stays_embryonic() {
    let mut talk = Talk::new();
    talk.tcp(Side::Client, segment("S", 100, 0, 0));
    talk.tcp(Side::Server, segment("S.", 0x1234_5678, 101, 0));
    for guess in 0..1000_u32 {
        talk.tcp(Side::Client, segment(".", 101, guess * 37, 0));
        assert!(talk.state().is_embryonic());
    }
    assert_eq!(
        Timeouts::DEFAULT.of(Protocol::Tcp, talk.state()),
        Duration::from_secs(20)
    );
}

/// S14: a connection picked up from one side only is one that an ACK flood would make.
#[test]
fn s14_picked_up_connections_are_embryonic_until_answered() {
    let mut talk = Talk::picking_up();
    for seq in 0..100 {
        talk.tcp(Side::Client, segment("P.", seq, 77, 1));
        assert!(talk.state().is_embryonic());
    }
    talk.tcp(Side::Server, segment(".", 77, 100, 0));
    assert!(talk.state().is_assured());
}

/// S14: each state is either embryonic, closing or assured.
#[test]
fn s14_a_state_is_of_one_kind() {
    use State::{
        Assured, Close, CloseWait, Closed, CookieEchoed, CookieWait, Established, FinWait, LastAck,
        None, ShutdownAckSent, ShutdownSent, SynReceived, SynSent, SynSent2, TimeWait, Unreplied,
    };
    let embryonic = [
        None,
        SynSent,
        SynSent2,
        SynReceived,
        CookieWait,
        CookieEchoed,
        Unreplied,
    ];
    let closing = [
        FinWait,
        CloseWait,
        LastAck,
        TimeWait,
        Close,
        ShutdownSent,
        ShutdownAckSent,
        Closed,
    ];
    let kind = |state: State| (state.is_embryonic(), state.is_closing(), state.is_assured());
    for state in embryonic {
        assert_eq!(kind(state), (true, false, false), "{state:?}");
    }
    for state in closing {
        assert_eq!(kind(state), (false, true, false), "{state:?}");
    }
    for state in [Established, Assured] {
        assert_eq!(kind(state), (false, false, true), "{state:?}");
    }
}
