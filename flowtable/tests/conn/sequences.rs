//! Whole connections, by hand: each line a segment and the state it leads to.

use flowtable::conn::State::{
    Close, CloseWait, Established, FinWait, LastAck, SynReceived, SynSent, SynSent2, TimeWait,
    Unreplied,
};
use flowtable::conn::{self, Invalid, Protocol, is_quick};

use crate::talk::{Fate, Side, Talk, established, segment};

#[test]
fn the_client_closes_first() {
    established().play(&[
        ('>', "P.", 101, 301, 500, Established),
        ('<', ".", 301, 601, 0, Established),
        ('<', "P.", 301, 601, 9000, Established),
        ('>', ".", 601, 9301, 0, Established),
        ('>', "F.", 601, 9301, 0, FinWait),
        ('<', ".", 9301, 602, 0, CloseWait),
        ('<', "F.", 9301, 602, 0, LastAck),
        ('>', ".", 602, 9302, 0, TimeWait),
    ]);
}

#[test]
fn the_server_closes_first_with_three_segments() {
    established().play(&[
        ('>', "P.", 101, 301, 100, Established),
        ('<', "FP.", 301, 201, 1000, FinWait),
        ('>', "F.", 201, 1302, 0, LastAck),
        ('<', ".", 1302, 202, 0, TimeWait),
    ]);
}

#[test]
fn both_close_at_once() {
    established().play(&[
        ('>', "F.", 101, 301, 0, FinWait),
        ('<', "F.", 301, 101, 0, LastAck),
        ('>', ".", 102, 302, 0, LastAck),
        ('<', ".", 302, 102, 0, TimeWait),
    ]);
}

#[test]
fn a_half_closed_connection_goes_on() {
    let mut talk = established();
    talk.play(&[
        ('>', "F.", 101, 301, 0, FinWait),
        ('<', ".", 301, 102, 0, CloseWait),
    ]);
    let mut seq: u32 = 301;
    for _ in 0..1000 {
        let data = segment(".", seq, 102, 1400);
        assert!(is_quick(talk.word(Side::Server), data.flags));
        seq += 1400;
        talk.tcp(Side::Server, data);
        talk.tcp(Side::Client, segment(".", 102, seq, 0));
        assert_eq!(talk.state(), CloseWait);
    }
    talk.play(&[
        ('<', "F.", seq, 102, 0, LastAck),
        ('>', ".", 102, seq + 1, 0, TimeWait),
    ]);
}

#[test]
fn a_fin_sent_again_is_the_same_fin() {
    established().play(&[
        ('>', "F.", 101, 301, 0, FinWait),
        ('>', "F.", 101, 301, 0, FinWait),
        ('<', ".", 301, 102, 0, CloseWait),
        ('>', "F.", 101, 301, 0, CloseWait),
        ('<', "F.", 301, 102, 0, LastAck),
        ('<', "F.", 301, 102, 0, LastAck),
        ('>', ".", 102, 302, 0, TimeWait),
        ('<', "F.", 301, 102, 0, TimeWait),
    ]);
}

/// RFC 9293 section 3.5, figure 7.
#[test]
fn both_open_at_once() {
    Talk::new().play(&[
        ('>', "S", 100, 0, 0, SynSent),
        ('<', "S", 300, 0, 0, SynSent2),
        ('<', "S", 300, 0, 0, SynSent2),
        ('>', "S.", 100, 301, 0, SynReceived),
        ('<', "S.", 300, 101, 0, Established),
        ('>', "S.", 100, 301, 0, Established),
        ('>', "P.", 101, 301, 10, Established),
        ('<', ".", 301, 111, 0, Established),
    ]);
}

#[test]
fn both_open_at_once_and_acknowledge_without_syn() {
    Talk::new().play(&[
        ('>', "S", 100, 0, 0, SynSent),
        ('<', "S", 300, 0, 0, SynSent2),
        ('<', ".", 301, 101, 0, SynReceived),
        ('>', ".", 101, 301, 0, Established),
    ]);
}

#[test]
fn syn_and_its_answer_are_repeated() {
    Talk::new().play(&[
        ('>', "S", 100, 0, 0, SynSent),
        ('>', "S", 100, 0, 0, SynSent),
        ('<', "S.", 300, 101, 0, SynReceived),
        ('>', "S", 100, 0, 0, SynReceived),
        ('<', "S.", 300, 101, 0, SynReceived),
        ('>', ".", 101, 301, 0, Established),
        ('<', "S.", 300, 101, 0, Established),
        ('>', "S", 100, 0, 0, Established),
    ]);
}

/// With SYN cookies the answer to a repeated SYN may have another sequence number; the client takes the first.
#[test]
fn syn_cookies_differ_from_try_to_try() {
    Talk::new().play(&[
        ('>', "S", 100, 0, 0, SynSent),
        ('<', "S.", 300, 101, 0, SynReceived),
        ('<', "S.", 7300, 101, 0, SynReceived),
        ('>', "P.", 101, 301, 50, SynReceived),
        ('<', ".", 301, 151, 0, SynReceived),
        ('<', "P.", 301, 151, 2000, SynReceived),
        ('>', ".", 151, 1761, 0, Established),
    ]);
    Talk::new().play(&[
        ('>', "S", 100, 0, 0, SynSent),
        ('<', "S.", 300, 101, 0, SynReceived),
        ('<', "S.", 7300, 101, 0, SynReceived),
        ('>', ".", 101, 7301, 0, Established),
    ]);
}

/// RFC 7413: data with SYN, and the server's before the handshake is over.
#[test]
fn fast_open() {
    Talk::new().play(&[
        ('>', "S", 100, 0, 400, SynSent),
        ('<', "S.", 300, 501, 0, SynReceived),
        ('<', "P.", 301, 501, 1400, SynReceived),
        ('<', "P.", 1701, 501, 1400, SynReceived),
        ('>', ".", 501, 1701, 0, Established),
    ]);
    // The server does not take the data.
    Talk::new().play(&[
        ('>', "S", 100, 0, 400, SynSent),
        ('<', "S.", 300, 101, 0, SynReceived),
        ('>', "P.", 101, 301, 400, Established),
    ]);
}

#[test]
fn a_closed_port_answers_with_rst() {
    Talk::new().play(&[
        ('>', "S", 100, 0, 0, SynSent),
        ('<', "R.", 0, 101, 0, Close),
        ('>', "S", 100, 0, 0, SynSent),
        ('<', "R.", 0, 101, 0, Close),
    ]);
}

#[test]
fn a_half_open_scan() {
    Talk::new().play(&[
        ('>', "S", 100, 0, 0, SynSent),
        ('<', "S.", 300, 101, 0, SynReceived),
        ('>', "R", 101, 0, 0, Close),
    ]);
}

#[test]
fn the_server_gives_up_in_the_handshake() {
    Talk::new().play(&[
        ('>', "S", 100, 0, 0, SynSent),
        ('<', "S.", 300, 101, 0, SynReceived),
        ('<', "R.", 301, 101, 0, Close),
    ]);
}

#[test]
fn the_server_closes_in_the_handshake() {
    Talk::new().play(&[
        ('>', "S", 100, 0, 0, SynSent),
        ('<', "S.", 300, 101, 0, SynReceived),
        ('<', "F.", 301, 101, 0, FinWait),
        ('>', ".", 101, 302, 0, CloseWait),
        ('>', "F.", 101, 302, 0, LastAck),
        ('<', ".", 302, 102, 0, TimeWait),
    ]);
}

#[test]
fn rst_after_data_that_is_not_acknowledged_yet() {
    established().play(&[
        ('>', "P.", 101, 301, 100, Established),
        ('<', ".", 301, 201, 1400, Established),
        ('<', "P.", 1701, 201, 800, Established),
        ('<', "R.", 2501, 201, 0, Close),
    ]);
}

#[test]
fn rst_answers_data_to_who_is_gone() {
    established().play(&[
        ('<', "F.", 301, 101, 0, FinWait),
        ('>', "P.", 101, 302, 100, CloseWait),
        ('<', "R", 302, 0, 0, Close),
        ('>', "P.", 201, 302, 100, Close),
        ('<', "R", 302, 0, 0, Close),
    ]);
}

/// As macOS does when a program is interrupted.
#[test]
fn rst_may_repeat_the_number_of_the_fin() {
    established().play(&[
        ('>', "F.", 101, 301, 0, FinWait),
        ('<', ".", 301, 102, 0, CloseWait),
        ('>', "R", 101, 0, 0, Close),
    ]);
}

/// RFC 9293 section 3.5.1, figure 9: the client has lost its memory.
#[test]
fn a_half_open_connection_is_found_and_replaced() {
    established().play(&[
        ('>', "S", 4000, 0, 0, Established),
        ('<', ".", 301, 101, 0, Established),
        ('>', "R", 101, 0, 0, Close),
        ('>', "S", 4000, 0, 0, SynSent),
        ('<', "S.", 9000, 4001, 0, SynReceived),
        ('>', ".", 4001, 9001, 0, Established),
    ]);
}

/// The same when it is the tracker that has lost its memory: the server's answer to the SYN is an old ACK.
#[test]
fn an_old_connection_unknown_here_is_replaced() {
    Talk::new().play(&[
        ('>', "S", 4000, 0, 0, SynSent),
        ('<', ".", 301, 101, 0, SynSent),
        ('>', "R", 101, 0, 0, SynSent),
        ('>', "S", 4000, 0, 0, SynSent),
        ('<', "S.", 9000, 4001, 0, SynReceived),
        ('>', ".", 4001, 9001, 0, Established),
    ]);
}

#[test]
fn ports_are_used_again_in_time_wait() {
    let mut talk = established();
    talk.play(&[
        ('>', "F.", 101, 301, 0, FinWait),
        ('<', "F.", 301, 102, 0, LastAck),
        ('>', ".", 102, 302, 0, TimeWait),
    ]);
    let mut by_the_server = talk.clone();
    assert_eq!(
        talk.tcp(Side::Client, segment("S", 70_000, 0, 0)),
        Fate::New
    );
    talk.play(&[
        ('<', "S.", 90_000, 70_001, 0, SynReceived),
        ('>', ".", 70_001, 90_001, 0, Established),
    ]);

    assert_eq!(
        by_the_server.tcp(Side::Server, segment("S", 70_000, 0, 0)),
        Fate::New
    );
    assert_eq!(by_the_server.original, Side::Server);
    by_the_server.play(&[
        ('>', "S.", 90_000, 70_001, 0, SynReceived),
        ('<', ".", 70_001, 90_001, 0, Established),
    ]);
}

#[test]
fn another_program_tries_with_the_same_port() {
    Talk::new().play(&[
        ('>', "S", 100, 0, 0, SynSent),
        ('>', "S", 5_000_000, 0, 0, SynSent),
        // An answer to the first, which the client resets.
        ('<', "S.", 300, 101, 0, SynSent),
        ('>', "R", 101, 0, 0, SynSent),
        ('<', "S.", 800, 5_000_001, 0, SynReceived),
        ('>', ".", 5_000_001, 801, 0, Established),
    ]);
}

#[test]
fn numbers_wrap() {
    Talk::new().play(&[
        ('>', "S", u32::MAX, 0, 0, SynSent),
        ('<', "S.", u32::MAX - 1, 0, 0, SynReceived),
        ('>', ".", 0, u32::MAX, 0, Established),
        ('<', "P.", u32::MAX, 0, 3, Established),
        ('>', "F.", 0, 2, 0, FinWait),
        ('<', "F.", 2, 1, 0, LastAck),
        ('>', ".", 1, 3, 0, TimeWait),
    ]);
}

#[test]
fn picked_up_in_the_middle() {
    let mut talk = Talk::picking_up();
    talk.play(&[
        ('<', "P.", 301, 101, 1400, Unreplied),
        ('<', "P.", 1701, 101, 1400, Unreplied),
        ('>', ".", 101, 3101, 0, Established),
    ]);
    assert_eq!(talk.original, Side::Server);
    // Windows of unknown scale: acknowledgements may jump as far as they like.
    talk.play(&[
        ('<', "P.", 900_000, 101, 1400, Established),
        ('>', ".", 101, 901_400, 0, Established),
        ('<', "F.", 901_400, 101, 0, FinWait),
        ('>', "F.", 101, 901_401, 0, LastAck),
        ('<', ".", 901_401, 102, 0, TimeWait),
    ]);
}

#[test]
fn picked_up_while_it_closes() {
    Talk::picking_up().play(&[
        ('>', "F.", 101, 301, 0, Unreplied),
        ('<', "F.", 301, 102, 0, LastAck),
        ('>', ".", 102, 302, 0, TimeWait),
    ]);
}

#[test]
fn what_was_picked_up_is_answered_with_rst() {
    Talk::picking_up().play(&[
        ('>', "P.", 101, 301, 10, Unreplied),
        ('<', "R", 301, 0, 0, Close),
    ]);
}

#[test]
fn who_opens_waits_for_the_answer() {
    let mut talk = Talk::new();
    talk.play(&[('>', "S", 100, 0, 0, SynSent)]);
    for flags in [".", "P.", "F."] {
        assert_eq!(
            talk.tcp(Side::Client, segment(flags, 101, 301, 0)),
            Fate::Invalid(Invalid::Handshake)
        );
        assert_eq!(talk.state(), SynSent);
    }
    assert_eq!(
        talk.tcp(Side::Server, segment("F.", 301, 101, 0)),
        Fate::Invalid(Invalid::Handshake)
    );
}

#[test]
fn the_end_is_seen_of_what_was_missed_in_the_middle() {
    for missed in [false, true] {
        let mut talk = established();
        if missed {
            talk.words = talk.words.map(|dir| conn::missed(Protocol::Tcp, dir));
        }
        // A megabyte each way that nobody here has seen.
        let at = |state| if missed { state } else { Established };
        talk.play(&[
            ('>', "P.", 1_000_101, 1_000_301, 10, Established),
            ('<', ".", 1_000_301, 1_000_111, 0, Established),
            ('<', "F.", 1_000_301, 1_000_111, 0, at(FinWait)),
            ('>', "F.", 1_000_111, 1_000_302, 0, at(LastAck)),
            ('<', ".", 1_000_302, 1_000_112, 0, at(TimeWait)),
        ]);
    }
}
