//! A tracker without a care for memory: the judge of the one that fits into two words.
//!
//! It keeps every number in full and the connection's phase as such, and follows it from segment to segment. It knows the two
//! approximations that are part of the tracker's contract: [windows](reach) are rounded up to powers of two, and where a
//! sender's last segment ended is compared by 15 bits ([`same_end`]).

use flowtable::conn::{Flags, Segment, State};

use crate::talk::Side;

/// What became of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    New,
    Pass,
    Invalid,
}

/// All that one side has told.
#[derive(Clone, Copy, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an event, in any combination"
)]
pub(crate) struct Told {
    /// Number after the SYN, without the data that came with it.
    pub(crate) after_syn: Option<u32>,
    opened_with: Option<Opening>,
    opened_bare: bool,
    pub(crate) ack: Option<u32>,
    /// The largest announced.
    window: u64,
    shift: Option<u8>,
    pub(crate) next: u32,
    early_data: bool,
    fin: bool,
    rst: bool,
    picked_up: bool,
    /// After the handshake windows are judged as agreed, and numbers no longer as the handshake's.
    settled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    Syn,
    SynAck,
}

#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) sides: [Told; 2],
    original: Option<usize>,
    pick_up: bool,
}

/// Two windows that a number may lie in.
fn reach(window: u64) -> u32 {
    (window + 1).next_power_of_two() as u32
}

fn same_end(a: u32, b: u32) -> bool {
    a & 0x7fff == b & 0x7fff
}

impl Model {
    pub(crate) fn new(pick_up: bool) -> Self {
        Self {
            sides: [Told::default(); 2],
            original: None,
            pick_up,
        }
    }

    pub(crate) fn state(&self) -> State {
        let Some(original) = self.original else {
            return State::None;
        };
        let [first, second] = [self.sides[original], self.sides[1 - original]];
        if first.rst || second.rst {
            return State::Close;
        }
        let told_anything = second.opened_with.is_some() || second.ack.is_some();
        match (first.ack, second.ack) {
            (None, None) if second.opened_with.is_some() => return State::SynSent2,
            (None, None) => return State::SynSent,
            _ if !told_anything => return State::Unreplied,
            (Some(_), Some(_)) => {}
            _ if first.fin || second.fin => {}
            _ => return State::SynReceived,
        }
        let acknowledged =
            |closer: Told, other: Told| other.ack.is_some_and(|ack| same_end(ack, closer.next));
        let closed = [first.fin, second.fin];
        let gone = [acknowledged(first, second), acknowledged(second, first)];
        match (closed, gone) {
            ([false, false], _) => State::Established,
            ([true, true], [true, true]) => State::TimeWait,
            ([true, true], _) => State::LastAck,
            ([true, _], [true, _]) | ([_, true], [_, true]) => State::CloseWait,
            _ => State::FinWait,
        }
    }

    pub(crate) fn step(&mut self, side: Side, segment: &Segment) -> Verdict {
        let own = side as usize;
        let kind = segment.flags.0 & 0x17;
        let is_sensible = match kind {
            0x02 | 0x11 | 0x10 => true,
            0x12 | 0x04 | 0x14 => !segment.flags.has(Flags::URG),
            _ => false,
        };
        if !is_sensible {
            return Verdict::Invalid;
        }
        let Some(original) = self.original else {
            return self.begin(own, kind, segment);
        };
        let is_reply = own != original;
        let state = self.state();
        match kind {
            0x04 | 0x14 => {
                self.reset(own, segment);
                Verdict::Pass
            }
            0x02 => match state {
                State::Close | State::TimeWait | State::Unreplied => {
                    *self = Self::new(self.pick_up);
                    self.begin(own, kind, segment)
                }
                State::SynSent | State::SynSent2 => {
                    self.open(own, segment);
                    Verdict::Pass
                }
                State::SynReceived if is_reply && !self.sides[own].opened_bare => Verdict::Invalid,
                _ => Verdict::Pass,
            },
            0x12 => self.answer(own, is_reply, state, segment),
            _ => self.acknowledge(own, state, kind == 0x11, segment),
        }
    }

    fn begin(&mut self, own: usize, kind: u8, segment: &Segment) -> Verdict {
        match kind {
            0x02 => self.open(own, segment),
            0x10 | 0x11 if self.pick_up => {
                self.sides[own] = Told {
                    picked_up: true,
                    ack: Some(segment.ack),
                    window: u64::from(segment.window),
                    next: segment.end(),
                    fin: kind == 0x11,
                    ..Told::default()
                };
            }
            _ => return Verdict::Invalid,
        }
        self.original = Some(own);
        Verdict::New
    }

    fn open(&mut self, own: usize, segment: &Segment) {
        self.sides[own] = Told {
            after_syn: Some(segment.seq.wrapping_add(1)),
            opened_with: Some(Opening::Syn),
            opened_bare: true,
            window: u64::from(segment.window),
            shift: segment.window_scale,
            next: segment.end(),
            ..Told::default()
        };
    }

    /// Whether a number is the first after what the side opened with.
    fn follows_opening(told: Told, number: u32) -> bool {
        match (told.ack, told.after_syn) {
            (Some(_), _) => same_end(told.next, number),
            (None, Some(after_syn)) => {
                let data = number.wrapping_sub(after_syn);
                data == 0 || (data < 1 << 14 && same_end(told.next, number))
            }
            (None, None) => false,
        }
    }

    fn answer(&mut self, own: usize, is_reply: bool, state: State, segment: &Segment) -> Verdict {
        let [told, other] = [self.sides[own], self.sides[1 - own]];
        if !is_reply && !other.opened_bare {
            return Verdict::Invalid;
        }
        let is_answer = match (told.ack, other.ack) {
            _ if state == State::Close => false,
            (None, _) => other.opened_bare,
            (Some(_), None) => {
                told.opened_with == Some(Opening::SynAck) && !told.early_data && !told.fin
            }
            (Some(_), Some(_)) => false,
        };
        if is_answer && Self::follows_opening(other, segment.ack) {
            self.sides[own] = Told {
                after_syn: Some(segment.seq.wrapping_add(1)),
                opened_with: Some(Opening::SynAck),
                opened_bare: told.opened_bare,
                ack: Some(segment.ack),
                window: u64::from(segment.window),
                shift: segment.window_scale,
                next: segment.end(),
                ..Told::default()
            };
            self.agree(own);
        }
        Verdict::Pass
    }

    /// RFC 7323 section 2.2, and whether both have acknowledged.
    fn agree(&mut self, own: usize) {
        let other = self.sides[1 - own];
        let told = &mut self.sides[own];
        if told.settled || told.ack.is_none() {
            return;
        }
        let other_is_known = other.opened_with.is_some() || other.ack.is_some() || other.rst;
        if other_is_known && other.shift.is_none() {
            told.shift = None;
        }
        told.settled = other.ack.is_some();
    }

    fn acknowledge(
        &mut self,
        own: usize,
        state: State,
        is_fin: bool,
        segment: &Segment,
    ) -> Verdict {
        let [before, other] = [self.sides[own], self.sides[1 - own]];
        if (before.rst || other.rst) && !before.settled {
            return Verdict::Pass;
        }
        let reach_of = |told: Told| {
            if told.picked_up {
                1 << 30
            } else {
                reach(told.window)
            }
        };
        let other_is_silent = other.opened_with.is_none() && other.ack.is_none();
        match before.ack {
            Some(ack) if segment.ack.wrapping_sub(ack) <= reach_of(before) => {
                self.take(own, segment);
            }
            None if other.picked_up => {
                self.sides[own] = Told {
                    picked_up: true,
                    ack: Some(segment.ack),
                    window: u64::from(segment.window),
                    next: segment.end(),
                    ..before
                };
            }
            None if other_is_silent => return Verdict::Invalid,
            None if before.opened_bare
                && (Self::follows_opening(other, segment.ack) || other.early_data) =>
            {
                self.sides[own].ack = Some(segment.ack);
                self.agree(own);
                self.take(own, segment);
            }
            Some(_) | None => {}
        }
        let after = self.sides[own];
        if is_fin && after.ack.is_none() && matches!(state, State::SynSent | State::SynSent2) {
            return Verdict::Invalid;
        }
        if is_fin && !before.fin && after.ack.is_some() {
            let may_be = before.ack.is_none_or(|ack| {
                segment.ack.wrapping_sub(ack) <= reach_of(before)
                    || ack.wrapping_sub(segment.ack) <= reach_of(before)
            });
            let lies_right = match other.ack {
                Some(expected) => {
                    let fin = segment.seq.wrapping_add(segment.payload_len);
                    fin.wrapping_sub(expected) <= reach(other.window)
                }
                None => same_end(before.next, segment.seq),
            };
            if may_be && lies_right {
                self.sides[own].fin = true;
                self.sides[own].next = segment.end();
            }
        }
        let told = &mut self.sides[own];
        told.early_data |=
            segment.payload_len > 0 && !before.settled && told.ack == Some(segment.ack);
        self.agree(own);
        Verdict::Pass
    }

    fn take(&mut self, own: usize, segment: &Segment) {
        let told = &mut self.sides[own];
        told.ack = Some(segment.ack);
        let window = u64::from(segment.window) << told.shift.unwrap_or(0);
        told.window = told.window.max(window);
        if !told.fin {
            told.next = segment.end();
        }
    }

    fn reset(&mut self, own: usize, segment: &Segment) {
        let [told, other] = [self.sides[own], self.sides[1 - own]];
        let own_is_silent = told.opened_with.is_none() && told.ack.is_none() && !told.rst;
        let counts = match other.ack {
            Some(expected) => {
                segment.seq == expected
                    || (told.fin && segment.seq.wrapping_add(1) == expected)
                    || (segment.seq.wrapping_sub(expected) <= reach(other.window)
                        && same_end(told.next, segment.seq))
            }
            None => {
                (segment.flags.has(Flags::ACK) && Self::follows_opening(other, segment.ack))
                    || (!own_is_silent && Self::follows_opening(told, segment.seq))
            }
        };
        self.sides[own].rst |= counts;
    }
}
