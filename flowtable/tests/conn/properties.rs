//! What holds for any segments in any order.

use flowtable::conn::{self, Dir, Facts, Flags, Icmp, Judgement, Segment, State, is_quick, sctp};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::model::{Model, Verdict};
use crate::talk::{Fate, Side, Talk, established, segment};

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Client), Just(Side::Server)]
}

/// Mostly what endpoints send, sometimes anything.
fn flags() -> impl Strategy<Value = Flags> {
    prop_oneof![
        8 => prop::sample::select(vec![0x02, 0x12, 0x10, 0x18, 0x11, 0x04, 0x14]),
        1 => any::<u8>(),
    ]
    .prop_map(Flags)
}

/// A number near one that means something to the connection.
#[derive(Clone, Copy, Debug)]
struct Near {
    what: u8,
    offset: i32,
}

fn near() -> impl Strategy<Value = Near> {
    let offset = prop_oneof![
        8 => Just(0),
        4 => -2..=2_i32,
        1 => prop::sample::select(vec![-65_536, -32_768, 1000, 32_768, 65_535, 65_536, 65_537, 1 << 24, i32::MIN]),
        1 => any::<i32>(),
    ];
    (0..6_u8, offset).prop_map(|(what, offset)| Near { what, offset })
}

impl Near {
    /// Of `teller`, whose own numbers these are, as the model knows them.
    fn resolve(self, model: &Model, teller: usize) -> u32 {
        let told = model.sides[teller];
        let base = match self.what {
            0 => 0x4000_0000 * (teller as u32 + 1),
            1 => told.after_syn.unwrap_or_default(),
            2 => model.sides[1 - teller].ack.unwrap_or(told.next),
            _ => told.next,
        };
        base.wrapping_add_signed(self.offset)
    }
}

/// A segment, its numbers still to be resolved.
#[derive(Clone, Debug)]
struct Plan {
    side: Side,
    flags: Flags,
    seq: Near,
    ack: Near,
    window: u16,
    payload_len: u32,
    window_scale: Option<u8>,
}

fn plan() -> impl Strategy<Value = Plan> {
    (
        (side(), flags(), near(), near()),
        prop_oneof![3 => Just(60_000_u16), 1 => any::<u16>(), 1 => Just(0)],
        prop_oneof![3 => Just(0_u32), 1 => 1..1500_u32],
        prop::option::of(0..=14_u8),
    )
        .prop_map(
            |((side, flags, seq, ack), window, payload_len, window_scale)| Plan {
                side,
                flags,
                seq,
                ack,
                window,
                payload_len,
                window_scale,
            },
        )
}

impl Plan {
    fn resolve(&self, model: &Model) -> Segment {
        let own = self.side as usize;
        Segment {
            flags: self.flags,
            seq: self.seq.resolve(model, own),
            ack: self.ack.resolve(model, 1 - own),
            window: self.window,
            payload_len: self.payload_len,
            window_scale: self.window_scale.filter(|_| self.flags.has(Flags::SYN)),
        }
    }
}

fn facts() -> impl Strategy<Value = Facts> {
    let segment = (
        any::<u8>(),
        any::<u32>(),
        any::<u32>(),
        any::<u16>(),
        any::<u32>(),
        prop::option::of(0..=14_u8),
    )
        .prop_map(|(flags, seq, ack, window, payload_len, window_scale)| {
            Facts::Tcp(Segment {
                flags: Flags(flags),
                seq,
                ack,
                window,
                payload_len,
                window_scale,
            })
        });
    let packet = (any::<u32>(), any::<u16>(), any::<u32>(), any::<bool>()).prop_map(
        |(tag, chunks, initiate_tag, reflects_tag)| {
            Facts::Sctp(sctp::Packet {
                tag,
                chunks,
                initiate_tag,
                reflects_tag,
            })
        },
    );
    prop_oneof![
        4 => segment,
        2 => packet,
        1 => Just(Facts::Datagram),
        1 => Just(Facts::Icmp(Icmp::Query)),
        1 => Just(Facts::Icmp(Icmp::Answer)),
    ]
}

/// A handshake with these first numbers and scales, windows full.
fn handshake(client: u32, server: u32, scale: u8) -> Talk {
    let mut talk = Talk::new();
    let with = |flags, seq: u32, ack: u32| Segment {
        window: u16::MAX,
        window_scale: Some(scale),
        ..segment(flags, seq, ack, 0)
    };
    let (first, second) = (client.wrapping_add(1), server.wrapping_add(1));
    talk.tcp(Side::Client, with("S", client, 0));
    talk.tcp(Side::Server, with("S.", server, first));
    talk.tcp(Side::Client, with(".", first, second));
    talk.tcp(Side::Server, with(".", second, first));
    assert_eq!(talk.state(), State::Established);
    talk
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn two_words_know_what_a_full_history_knows(
        plans in vec(plan(), 1..40), pick_up in any::<bool>(), opened in any::<bool>(),
    ) {
        let mut model = Model::new(pick_up);
        let mut talk = if pick_up { Talk::picking_up() } else { Talk::new() };
        let handshake = [
            (Side::Client, segment("S", 0x4000_0000, 0, 0)),
            (Side::Server, segment("S.", 0x8000_0000, 0x4000_0001, 0)),
            (Side::Client, segment(".", 0x4000_0001, 0x8000_0001, 0)),
        ];
        if opened {
            for (side, segment) in handshake {
                model.step(side, &segment);
                talk.tcp(side, segment);
            }
        }
        for plan in plans {
            let segment = plan.resolve(&model);
            let verdict = match talk.tcp(plan.side, segment) {
                Fate::New => Verdict::New,
                Fate::Pass => Verdict::Pass,
                Fate::Invalid(_) => Verdict::Invalid,
            };
            prop_assert_eq!(verdict, model.step(plan.side, &segment), "{:?}", segment);
            prop_assert_eq!(talk.state(), model.state(), "after {:?}", segment);
        }
    }
}

proptest! {
    #[test]
    fn quick_packets_are_judged_the_same_with_care(
        own in any::<u64>(), partner in any::<u64>(), is_reply in any::<bool>(), facts in facts(),
    ) {
        const ASSURED: u64 = 0x44 << 32;
        const FIN: u64 = 0x10 << 32;
        let own = Dir::from_bits((own | ASSURED) & !FIN);
        let Facts::Tcp(mut segment) = facts else { return Ok(()) };
        segment.flags = Flags(segment.flags.0 & !0x07) | Flags::ACK;
        prop_assert!(is_quick(own, segment.flags));
        let next = conn::next(own, Dir::from_bits(partner), is_reply, &Facts::Tcp(segment));
        prop_assert_eq!(next.judgement, Judgement::Pass);
        prop_assert_eq!(next.dir, own.note(&segment));
    }

    #[test]
    fn any_word_and_any_packet_do(
        own in any::<u64>(), partner in any::<u64>(), is_reply in any::<bool>(), facts in facts(),
    ) {
        let own = Dir::from_bits(own);
        let next = conn::next(own, Dir::from_bits(partner), is_reply, &facts);
        if next.judgement != Judgement::Pass {
            prop_assert_eq!(next.dir, own);
        }
        if let Ok(dir) = conn::first(&facts, is_reply) {
            prop_assert!(!dir.is_empty());
        }
    }

    #[test]
    fn an_rst_out_of_window_changes_nothing(
        numbers in any::<(u32, u32)>(), scale in 0..=14_u8, side in side(), ahead in any::<u32>(),
        ack in prop::option::of(any::<u32>()),
    ) {
        let mut talk = handshake(numbers.0, numbers.1, scale);
        let before = talk.words;
        let expected = if side == Side::Client { numbers.0 } else { numbers.1 }.wrapping_add(1);
        let window = 1_u32 << (16 + scale);
        let seq = expected.wrapping_add(ahead.max(window + 1));
        let flags = if ack.is_some() { "R." } else { "R" };
        prop_assert_eq!(talk.tcp(side, segment(flags, seq, ack.unwrap_or(0), 0)), Fate::Pass);
        prop_assert_eq!(talk.words, before);
    }

    /// Who does not see the connection, but can send packets of one direction: it sends what it likes, as long as it does
    /// not guess the sequence number or the acknowledgement. The endpoints then close as if nothing had been.
    #[test]
    fn a_blind_attacker_neither_closes_nor_keeps_from_closing(
        numbers in any::<(u32, u32)>(), scale in 0..=10_u8, side in side(),
        segments in vec((any::<u8>(), any::<u32>(), any::<u32>(), any::<u16>(), 0..1500_u32), 1..50),
    ) {
        let mut talk = handshake(numbers.0, numbers.1, scale);
        let (client, server) = (numbers.0.wrapping_add(1), numbers.1.wrapping_add(1));
        let (own, other) = match side {
            Side::Client => (client, server),
            Side::Server => (server, client),
        };
        let window = 1_u32 << (16 + scale);
        let before = talk.words;
        for (flags, seq, ack, window_now, payload_len) in segments {
            let is_guess = |number: u32, right: u32| {
                number.wrapping_sub(right).wrapping_add(2 * window) <= 4 * window
            };
            if is_guess(seq, own) || is_guess(ack, other) {
                continue;
            }
            talk.tcp(side, Segment {
                flags: Flags(flags),
                seq,
                ack,
                window: window_now,
                payload_len,
                window_scale: None,
            });
            prop_assert_eq!(talk.state(), State::Established);
        }
        prop_assert_eq!(talk.words, before);
        talk.tcp(Side::Client, segment("F.", client, server, 0));
        talk.tcp(Side::Server, segment("F.", server, client.wrapping_add(1), 0));
        talk.tcp(Side::Client, segment(".", client.wrapping_add(1), server.wrapping_add(1), 0));
        prop_assert_eq!(talk.state(), State::TimeWait);
    }

    /// The same before the handshake is over: it stays embryonic unless the 32 bits are guessed (15 of them here).
    #[test]
    fn a_blind_attacker_does_not_finish_a_handshake(
        server in any::<u32>(),
        segments in vec((any::<u8>(), any::<u32>(), any::<u32>(), 0..1500_u32), 1..50),
    ) {
        let mut talk = Talk::new();
        talk.tcp(Side::Client, segment("S", 100, 0, 0));
        talk.tcp(Side::Server, segment("S.", server, 101, 0));
        for (flags, seq, ack, payload_len) in segments {
            if seq == 101 || ack & 0x7fff == server.wrapping_add(1) & 0x7fff {
                continue;
            }
            let flags = Flags(flags);
            talk.tcp(Side::Client, Segment { flags, seq, ack, payload_len, ..Segment::default() });
            prop_assert_eq!(talk.state(), State::SynReceived);
        }
    }

    /// Two honest endpoints, a network that loses packets before and behind the tracker: it knows how they end.
    #[test]
    fn losses_do_not_mislead(script in vec((side(), 0..4_u8, 0..3_u8), 1..200)) {
        let mut talk = established();
        let mut ends = [Endpoint::new(101, 301), Endpoint::new(301, 101)];
        let mut rounds = script.into_iter();
        // After the script nothing is lost any more, and both close.
        let mut finish = (0..40).map(|at| {
            (if at % 2 == 0 { Side::Client } else { Side::Server }, if at < 4 { 2 } else { 3 }, 0)
        });
        while let Some((side, action, loss)) = rounds.next().or_else(|| finish.next()) {
            let own = side as usize;
            let sent = ends[own].act(action);
            if loss != 1 {
                prop_assert_eq!(talk.tcp(side, sent), Fate::Pass);
                if loss != 2 {
                    ends[1 - own].hear(&sent);
                }
            }
            let is_closed = |end: &Endpoint| end.closed_at.is_some();
            if !ends.iter().any(is_closed) {
                prop_assert_eq!(talk.state(), State::Established);
            }
        }
        prop_assert!(ends.iter().all(|end| end.acknowledged == end.sent));
        prop_assert_eq!(talk.state(), State::TimeWait);
    }
}

/// Half of a TCP connection: sends in order, goes back to what was not acknowledged, takes what comes in order.
#[derive(Debug)]
struct Endpoint {
    sent: u32,
    acknowledged: u32,
    /// The number that the other side's next byte has.
    expected: u32,
    /// The number of the FIN, once it was sent.
    closed_at: Option<u32>,
}

impl Endpoint {
    const SEGMENT: u32 = 1400;

    fn new(next: u32, expected: u32) -> Self {
        Self {
            sent: next,
            acknowledged: next,
            expected,
            closed_at: None,
        }
    }

    /// 0: new data. 1: acknowledges. 2: closes. 3: goes back. Whatever cannot be done now acknowledges.
    fn act(&mut self, action: u8) -> Segment {
        let seq = self.sent;
        let in_flight = self.sent - self.acknowledged;
        let is_open = self.closed_at.is_none();
        match action {
            0 if is_open && in_flight < 50_000 => {
                self.sent += Self::SEGMENT;
                segment("P.", seq, self.expected, Self::SEGMENT)
            }
            2 if is_open => {
                self.sent += 1;
                self.closed_at = Some(seq);
                segment("F.", seq, self.expected, 0)
            }
            3 if in_flight > 0 => {
                let from = self.acknowledged;
                match self.closed_at {
                    Some(fin) if fin == from => segment("F.", from, self.expected, 0),
                    Some(fin) => segment("F.", from, self.expected, fin - from),
                    None => segment("P.", from, self.expected, in_flight),
                }
            }
            _ => segment(".", seq, self.expected, 0),
        }
    }

    fn hear(&mut self, heard: &Segment) {
        if heard.ack > self.acknowledged {
            self.acknowledged = heard.ack;
        }
        if heard.seq <= self.expected && heard.end() > self.expected {
            self.expected = heard.end();
        }
    }
}
