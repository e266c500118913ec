//! What the kernel passed unseen: both words end as if every segment had been seen, and who cannot see the connection changes nothing.

use flowtable::conn::State::{CloseWait, Established, FinWait, TimeWait};
use flowtable::conn::{Dir, Flags, Latest, Protocol, Segment, Unseen, catch_up, state};
use proptest::prelude::*;

use crate::talk::{Side, Talk, established, segment};

/// What a program notes of a direction as its segments pass.
fn pass(unseen: &mut Unseen, segment: Segment) {
    let window = unseen.latest.map_or(0, |latest| latest.window);
    unseen.latest = Some(Latest {
        ack: segment.ack,
        end: segment.end(),
        window: window.max(segment.window),
    });
}

/// A conversation of which all is known, and what a poller knows that saw the beginning alone.
struct Both {
    /// Sees everything.
    talk: Talk,
    words: [Dir; 2],
    unseen: [Unseen; 2],
    /// The next sequence number of each side, and what of the other one has arrived there.
    next: [u32; 2],
    got: [u32; 2],
}

impl Both {
    fn new() -> Self {
        let mut talk = established();
        // Both have seen that the other has acknowledged: only then it is the kernel's.
        talk.play(&[('<', ".", 301, 101, 0, Established)]);
        Self {
            words: talk.words,
            talk,
            unseen: [Unseen::default(); 2],
            next: [101, 301],
            got: [301, 101],
        }
    }

    /// A segment of this side. Those with SYN, FIN or RST are seen by nobody but who judges at the end.
    fn send(&mut self, side: Side, flags: &str, len: u32) {
        let at = side as usize;
        let segment = segment(flags, self.next[at], self.got[at], len);
        self.talk.tcp(side, segment);
        self.next[at] = segment.end();
        let unseen = &mut self.unseen[at];
        if !segment.flags.is_plain_ack() {
            unseen.closing.get_or_insert(segment);
        } else if unseen.closing.is_none() {
            pass(unseen, segment);
        } else {
            // A poller's again.
            self.words[at] = self.words[at].note(&segment);
        }
    }

    /// All that the other side sent arrives at this one.
    fn receive(&mut self, side: Side) {
        self.got[side as usize] = self.next[1 - side as usize];
    }

    fn caught_up(&self) -> [Dir; 2] {
        catch_up(self.words, self.unseen.map(Some), true)
    }

    /// As many bytes there and back, each acknowledged.
    fn exchange(&mut self, len: u32) {
        for (from, to) in [(Side::Client, Side::Server), (Side::Server, Side::Client)] {
            for _ in 0..8 {
                self.send(from, "P.", len / 8);
                self.receive(to);
                self.send(to, ".", 0);
            }
        }
    }
}

fn state_of(words: [Dir; 2]) -> flowtable::conn::State {
    state(Protocol::Tcp, words[0], words[1])
}

#[test]
fn megabytes_unseen_and_then_the_end() {
    use Side::{Client, Server};
    for rounds in [0, 1, 400] {
        let mut both = Both::new();
        for _ in 0..rounds {
            both.exchange(32_000);
        }
        assert_eq!(both.caught_up(), both.talk.words);
        both.send(Client, "F.", 0);
        assert_eq!(state_of(both.caught_up()), FinWait);
        both.receive(Server);
        both.send(Server, ".", 0);
        assert_eq!(both.caught_up(), both.talk.words);
        assert_eq!(state_of(both.caught_up()), CloseWait);
        both.send(Server, "PF.", 100);
        both.receive(Client);
        assert_eq!(both.caught_up(), both.talk.words);
        both.words = both.caught_up();
        both.unseen = [Unseen::default(); 2];
        let last = segment(".", both.next[0], both.got[0], 0);
        both.words[0] = flowtable::conn::next(
            both.words[0],
            both.words[1],
            false,
            &flowtable::conn::Facts::Tcp(last),
        )
        .dir;
        assert_eq!(state_of(both.words), TimeWait);
    }
}

#[test]
fn a_reset_after_megabytes_counts_if_the_endpoint_takes_it() {
    for side in [Side::Client, Side::Server] {
        let mut both = Both::new();
        for _ in 0..100 {
            both.exchange(32_000);
        }
        both.send(side, "R", 0);
        assert_eq!(both.caught_up(), both.talk.words);
        assert!(state_of(both.caught_up()).is_over());
        // Of one who does not know where the connection is.
        let at = side as usize;
        let closing = segment("R", both.next[at].wrapping_add(3_000_000), 0, 0);
        both.unseen[at].closing = Some(closing);
        assert_eq!(state_of(both.caught_up()), Established);
    }
}

#[test]
fn who_guesses_moves_nothing() {
    let mut both = Both::new();
    for _ in 0..100 {
        both.exchange(32_000);
    }
    let right = both.caught_up();
    for far in [1 << 20, 1 << 27, 1 << 31, u32::MAX - (1 << 20)] {
        let mut unseen = both.unseen;
        let latest = unseen[1].latest.as_mut().expect("it has sent");
        (latest.ack, latest.end) = (latest.ack.wrapping_add(far), 7);
        latest.window = u16::MAX;
        let caught = catch_up(both.words, unseen.map(Some), true);
        assert_eq!(caught[1], both.words[1], "{far}");
        // Where such a one says that it has come to is not believed of the other direction either, and nothing is lost for long.
        assert_eq!(catch_up(caught, both.unseen.map(Some), true), right);
    }
}

#[test]
fn what_was_seen_later_is_not_taken_back() {
    let mut both = Both::new();
    both.exchange(8000);
    let before = both.unseen;
    both.exchange(8000);
    let now = both.caught_up();
    assert_eq!(now, both.talk.words);
    assert_eq!(catch_up(now, before.map(Some), false), now);
}

#[test]
fn alone_it_goes_as_far_as_it_would_be_noted() {
    let start = established().words;
    let latest = |ack| Unseen {
        latest: Some(Latest {
            ack,
            end: 101,
            window: 500,
        }),
        closing: None,
    };
    let near = catch_up(start, [Some(latest(301 + 500)), None], true);
    let noted = start[0].note(&segment(".", 101, 801, 0));
    assert_eq!(
        near[0].note(&segment(".", 101, 801, 0)),
        noted.note(&segment(".", 101, 801, 0))
    );
    let far = [Some(latest(301 + 5_000_000)), None];
    assert_eq!(catch_up(start, far, false), start);
    // Then it may be anywhere, and goes on from where it is met.
    let picked_up = catch_up(start, far, true)[0];
    assert_ne!(picked_up, start[0]);
    let next = segment(".", 101, 301 + 5_000_100, 0);
    assert_ne!(picked_up.note(&next), picked_up);
    assert_eq!(start[0].note(&next), start[0]);
    // Nothing was unseen of what sent nothing.
    assert_eq!(catch_up(start, [Some(Unseen::default()); 2], true), start);
}

#[derive(Clone, Debug)]
enum Step {
    Send(bool, u32),
    Receive(bool),
    Close(bool, &'static str),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any::<bool>(), 0..1400_u32).prop_map(|(is_reply, len)| Step::Send(is_reply, len)),
        4 => any::<bool>().prop_map(Step::Receive),
        1 => (any::<bool>(), prop::sample::select(vec!["F.", "R.", "S."])).prop_map(|(is_reply, flags)| Step::Close(is_reply, flags)),
    ]
}

proptest! {
    /// Whatever passes unseen, and whichever ends it: the state is as if all had been seen.
    #[test]
    fn it_is_as_if_all_had_been_seen(steps in prop::collection::vec(step(), 1..60)) {
        let mut both = Both::new();
        let side = |is_reply| if is_reply { Side::Server } else { Side::Client };
        for step in steps {
            match step {
                Step::Send(is_reply, len) => both.send(side(is_reply), ".", len),
                Step::Receive(is_reply) => both.receive(side(is_reply)),
                Step::Close(is_reply, flags) => both.send(side(is_reply), flags, 0),
            }
            // Who has closed is seen again, and both directions from then on.
            let has_closed = both.unseen.iter().any(|unseen| unseen.closing.is_some());
            let caught_up = both.caught_up();
            prop_assert_eq!(state_of(caught_up), both.talk.state());
            prop_assert_eq!(caught_up, both.talk.words);
            if has_closed {
                break;
            }
        }
    }

    #[test]
    fn any_words_do(words: [u64; 2], ack: u32, end: u32, window: u16, flags: u8, seq: u32, is_last: bool) {
        let closing = Segment { flags: Flags(flags), seq, ack, window, ..Segment::default() };
        let unseen = Unseen { latest: Some(Latest { ack, end, window }), closing: Some(closing) };
        let words = words.map(Dir::from_bits);
        for unseen in [[Some(unseen); 2], [Some(unseen), None], [None, Some(unseen)]] {
            let _ = catch_up(words, unseen, is_last);
        }
    }
}
