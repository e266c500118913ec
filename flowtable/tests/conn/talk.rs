//! A connection as the table keeps it, and packets as a test writes them.

use flowtable::conn::{
    self, Dir, Facts, Flags, Invalid, Judgement, Protocol, Segment, State, is_quick,
};

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It began a connection, the first or after one that was over.
    New,
    Pass,
    Invalid(Invalid),
}

/// Two words, and who sent the first packet: all that a table would keep.
#[derive(Clone, Debug)]
pub(crate) struct Talk {
    pub(crate) words: [Dir; 2],
    pub(crate) original: Side,
    pub(crate) pick_up: bool,
}

impl Talk {
    pub(crate) fn new() -> Self {
        Self {
            words: [Dir::EMPTY; 2],
            original: Side::Client,
            pick_up: false,
        }
    }

    pub(crate) fn picking_up() -> Self {
        Self {
            pick_up: true,
            ..Self::new()
        }
    }

    pub(crate) fn word(&self, side: Side) -> Dir {
        self.words[side as usize]
    }

    pub(crate) fn state(&self) -> State {
        self.state_of(Protocol::Tcp)
    }

    pub(crate) fn state_of(&self, protocol: Protocol) -> State {
        let reply = match self.original {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        };
        conn::state(protocol, self.word(self.original), self.word(reply))
    }

    /// Hands a packet to the tracker as a poller does: quick when that will do, else judged.
    pub(crate) fn send(&mut self, side: Side, facts: &Facts) -> Fate {
        if self.words == [Dir::EMPTY; 2] {
            return self.begin(side, facts);
        }
        let own = self.word(side);
        if let Facts::Tcp(segment) = facts
            && is_quick(own, segment.flags)
        {
            self.words[side as usize] = own.note(segment);
            return Fate::Pass;
        }
        let partner = self.words[1 - side as usize];
        let next = conn::next(own, partner, side != self.original, facts);
        match next.judgement {
            Judgement::Pass => {
                self.words[side as usize] = next.dir;
                Fate::Pass
            }
            Judgement::Invalid(why) => {
                assert_eq!(next.dir, own, "an invalid packet changes nothing");
                Fate::Invalid(why)
            }
            Judgement::Reopen => {
                self.words = [Dir::EMPTY; 2];
                self.begin(side, facts)
            }
        }
    }

    /// Sends a TCP segment.
    pub(crate) fn tcp(&mut self, side: Side, segment: Segment) -> Fate {
        self.send(side, &Facts::Tcp(segment))
    }

    /// Plays lines and checks the state after each.
    pub(crate) fn play(&mut self, lines: &[Line]) -> &mut Self {
        for (at, (way, flags, seq, ack, len, state)) in lines.iter().enumerate() {
            let side = match way {
                '>' => Side::Client,
                '<' => Side::Server,
                other => panic!("{other} is no direction"),
            };
            let fate = self.tcp(side, segment(flags, *seq, *ack, *len));
            assert!(
                matches!(fate, Fate::New | Fate::Pass),
                "line {at}: {fate:?}"
            );
            assert_eq!(self.state(), *state, "after line {at}: {self:?}");
        }
        self
    }

    fn begin(&mut self, side: Side, facts: &Facts) -> Fate {
        match conn::first(facts, self.pick_up) {
            Ok(dir) => {
                self.original = side;
                self.words[side as usize] = dir;
                Fate::New
            }
            Err(why) => Fate::Invalid(why),
        }
    }
}

/// Direction (`>` from the client), flags, sequence number, acknowledgement, bytes of payload, and the state afterwards.
pub(crate) type Line = (char, &'static str, u32, u32, u32, State);

/// A segment with flags as tcpdump writes them: `S`, `S.`, `.`, `P.`, `F.`, `R`, `R.`, and `U`.
pub(crate) fn segment(flags: &str, seq: u32, ack: u32, payload_len: u32) -> Segment {
    let flags = flags.chars().fold(Flags::default(), |flags, letter| {
        flags
            | match letter {
                'S' => Flags::SYN,
                '.' => Flags::ACK,
                'P' => Flags::PSH,
                'F' => Flags::FIN,
                'R' => Flags::RST,
                'U' => Flags::URG,
                other => panic!("{other} is no flag"),
            }
    });
    Segment {
        flags,
        seq,
        ack,
        window: 60_000,
        payload_len,
        window_scale: None,
    }
}

/// A handshake: the client's next sequence number is 101, the server's 301. Windows are not scaled.
pub(crate) fn established() -> Talk {
    let mut talk = Talk::new();
    talk.play(&[
        ('>', "S", 100, 0, 0, State::SynSent),
        ('<', "S.", 300, 101, 0, State::SynReceived),
        ('>', ".", 101, 301, 0, State::Established),
    ]);
    talk
}
