//! TCP (RFC 9293): which segments change a connection's state, and to what.

use super::dir::{Dir, Seen};
use super::segment::{Flags, Segment};
use super::state::{State, tcp_state};
use super::{Invalid, Next, Protocol};

/// Whether a segment of this direction needs no judging: the connection is assured, the sender has not closed
/// it, and the segment only acknowledges or carries data. Then it passes, [`Dir::note`] is all there is to do, and
/// the other direction's word need not be read.
#[inline(always)]
#[must_use]
pub const fn is_quick(own: Dir, flags: Flags) -> bool {
    const JUDGED: u8 = Seen::ASSURED.0 | Seen::FIN.0;
    (own.seen_bits() & JUDGED == Seen::ASSURED.0) & flags.is_plain_ack()
}

/// The first segment of a connection.
pub(super) fn first(segment: &Segment, pick_up: bool) -> Result<Dir, Invalid> {
    let flags = segment.flags;
    if !flags.are_valid() {
        return Err(Invalid::Flags);
    }
    if flags.has(Flags::RST) {
        return Err(Invalid::MidStream);
    }
    match (flags.has(Flags::SYN), flags.has(Flags::ACK)) {
        (true, false) => Ok(syn(segment)),
        (false, true) if pick_up => Ok(picked_up(segment)),
        _ => Err(Invalid::MidStream),
    }
}

/// A later segment. `own` is the word of the direction that it goes in.
pub(super) fn next(own: Dir, partner: Dir, is_reply: bool, segment: &Segment) -> Next {
    let flags = segment.flags;
    if !flags.are_valid() {
        return Next::invalid(own, Invalid::Flags);
    }
    let state = || {
        if is_reply {
            tcp_state(partner, own)
        } else {
            tcp_state(own, partner)
        }
    };
    if flags.has(Flags::RST) {
        let dir = judge_rst(own, partner, segment);
        return Next {
            refreshes: dir != own,
            ..Next::pass(dir)
        };
    }
    match (flags.has(Flags::SYN), flags.has(Flags::ACK)) {
        (true, false) => judge_syn(own, is_reply, state(), segment),
        (true, true) => judge_syn_ack(own, partner, is_reply, segment),
        _ => judge_ack(own, partner, segment),
    }
}

/// The word of a sender that has just sent SYN. Its place for the acknowledgement keeps what it expects in return.
fn syn(segment: &Segment) -> Dir {
    Dir::from_segment(segment.seq.wrapping_add(1), Seen::SYN, segment)
}

/// The word of a sender that is in the middle of a connection whose beginning was not seen.
fn picked_up(segment: &Segment) -> Dir {
    let dir = Dir::from_segment(segment.ack, Seen::ACKED, segment).with(Seen::PICKED_UP);
    if segment.flags.has(Flags::FIN) {
        dir.with(Seen::FIN)
    } else {
        dir
    }
}

/// A SYN begins, and when the connection is over it begins anew (RFC 9293 section 3.6.1). In a live connection it
/// changes nothing: the endpoint answers with a challenge ACK (RFC 5961 section 4).
fn judge_syn(own: Dir, is_reply: bool, state: State, segment: &Segment) -> Next {
    match state {
        State::Close | State::TimeWait | State::Unreplied => Next::reopen(own),
        // The first SYN of this side, or another try, perhaps of another program with another sequence number.
        // From the reply direction: both open at once (RFC 9293 section 3.5, figure 7).
        State::None | State::SynSent | State::SynSent2 => Next::pass(syn(segment)),
        State::SynReceived if is_reply && !own.has(Seen::SYN) => {
            Next::invalid(own, Invalid::Handshake)
        }
        _ => Next::pass(own),
    }
}

/// A SYN with ACK counts when it answers the SYN that the other side sent.
fn judge_syn_ack(own: Dir, partner: Dir, is_reply: bool, segment: &Segment) -> Next {
    if !is_reply && !partner.has(Seen::SYN) {
        return Next::invalid(own, Invalid::Handshake);
    }
    let is_over = own.has(Seen::RST) | partner.has(Seen::RST);
    let counts = if own.has(Seen::ACKED) {
        // A repeated one counts anew until the other side acknowledges: SYN cookies differ from try to try.
        own.has(Seen::SYN_ACK)
            && !partner.has(Seen::ACKED)
            && !own.has(Seen::DATA)
            && !own.has(Seen::FIN)
    } else {
        partner.has(Seen::SYN)
    };
    if is_over || !counts || !is_next_after_syn(partner, segment.ack) {
        return Next::pass(own);
    }
    let mut dir = Dir::from_segment(segment.ack, Seen::SYN_ACK, segment).with(Seen::ACKED);
    if own.has(Seen::SYN) {
        dir = dir.with(Seen::SYN);
    }
    Next::pass(settle(dir, partner))
}

/// A segment with ACK and without SYN, with FIN or without.
fn judge_ack(own: Dir, partner: Dir, segment: &Segment) -> Next {
    if (own.has(Seen::RST) || partner.has(Seen::RST)) && !own.has(Seen::ASSURED) {
        return Next::pass(own);
    }
    let is_fin = segment.flags.has(Flags::FIN);
    let mut dir = own;
    if own.has(Seen::ACKED) {
        dir = own.note(segment);
        if own.has(Seen::FIN) {
            // No new data comes after the FIN: the tail stays where it ended.
            dir = dir.with_tail_of(own);
        }
    } else if partner.has(Seen::PICKED_UP) {
        dir = Dir::from_segment(segment.ack, Seen::ACKED, segment).with(Seen::PICKED_UP);
    } else if partner.is_empty() {
        // The side that opened goes on without an answer.
        return Next::invalid(own, Invalid::Handshake);
    } else if own.has(Seen::SYN)
        && (is_next_after_syn(partner, segment.ack) || partner.has(Seen::DATA))
    {
        dir = settle(own.with(Seen::ACKED).with_ack(segment.ack), partner).note(segment);
    }
    if is_fin && !dir.has(Seen::ACKED) && !partner.has(Seen::ACKED) {
        return Next::invalid(own, Invalid::Handshake);
    }
    if is_fin && !own.has(Seen::FIN) && fin_counts(own, dir, partner, segment) {
        dir = dir.with(Seen::FIN).with_tail(segment.end());
    }
    // An acknowledgement that was noted is the last one.
    if segment.payload_len > 0
        && !own.has(Seen::ASSURED)
        && dir.has(Seen::ACKED)
        && dir.ack() == segment.ack
    {
        dir = dir.with(Seen::DATA);
    }
    Next::pass(settle(dir, partner))
}

/// Whether the endpoint takes this FIN: it lies in the window that it announced, and the acknowledgement beside it is one
/// that can be (RFC 9293 section 3.10.7.4, RFC 5961 section 5).
fn fin_counts(own: Dir, noted: Dir, partner: Dir, segment: &Segment) -> bool {
    let is_plausible = !own.has(Seen::ACKED)
        || segment.ack.wrapping_sub(own.ack()) <= own.reach()
        || own.ack().wrapping_sub(segment.ack) <= own.reach();
    let is_in_window = if partner.has(Seen::ACKED) {
        let fin = segment.seq.wrapping_add(segment.payload_len);
        fin.wrapping_sub(partner.ack()) <= partner.window()
    } else {
        own.is_tail(segment.seq)
    };
    noted.has(Seen::ACKED) && is_plausible && is_in_window
}

/// An RST closes the connection if the endpoint takes it (RFC 5961 section 3.2: its sequence number is exactly the next
/// one expected). What the endpoint has received and not acknowledged yet is not known here, so it may also lie in the
/// endpoint's window, if it goes on where the sender's last segment ended. Any other, the endpoint answers with a
/// challenge ACK, if at all; a sender that is really gone answers that with an RST that counts.
fn judge_rst(own: Dir, partner: Dir, segment: &Segment) -> Dir {
    let counts = if partner.has(Seen::ACKED) {
        let ahead = segment.seq.wrapping_sub(partner.ack());
        // After a FIN some senders, macOS among them, repeat the FIN's number; Linux takes it.
        let repeats_fin = own.has(Seen::FIN) && ahead == u32::MAX;
        ahead == 0 || repeats_fin || (ahead <= partner.window() && own.is_tail(segment.seq))
    } else {
        // RFC 9293 section 3.10.7.3: who has sent SYN and heard nothing takes an RST that acknowledges it.
        let answers_syn = segment.flags.has(Flags::ACK) && is_next_after_syn(partner, segment.ack);
        answers_syn || is_next_after_syn(own, segment.seq)
    };
    if counts { own.with(Seen::RST) } else { own }
}

/// The word of a direction that packets of went another way, unseen: its TCP sender may be anywhere by now, as if it had been picked up here.
#[must_use]
pub fn missed(protocol: Protocol, dir: Dir) -> Dir {
    if protocol == Protocol::Tcp && dir.has(Seen::ACKED) {
        dir.with(Seen::PICKED_UP)
    } else {
        dir
    }
}

/// Whether an ICMP error that quotes a segment of this direction, with this sequence number, may be about one that is under
/// way: sent, and not acknowledged (RFC 5927 section 4.1). `own` is the word of the quoted segment's direction. The caller ignores
/// errors about others, and changes nothing of the connection for any (RFC 5382 REQ-10).
#[must_use]
pub fn is_under_way(own: Dir, partner: Dir, seq: u32) -> bool {
    if partner.has(Seen::ACKED) {
        seq.wrapping_sub(partner.ack()) <= partner.window()
    } else {
        is_next_after_syn(own, seq.wrapping_add(1))
    }
}

/// Whether `number` is the one after the SYN that this side sent, and the data that came with it (RFC 7413).
///
/// Once the side has acknowledged, its word keeps the low bits only of the number.
fn is_next_after_syn(side: Dir, number: u32) -> bool {
    /// More than a segment with SYN carries.
    const SYN_DATA: u32 = 1 << 14;
    if side.is_empty() {
        false
    } else if side.has(Seen::ACKED) {
        side.is_tail(number)
    } else {
        let data = number.wrapping_sub(side.ack());
        data == 0 || (data < SYN_DATA && side.is_tail(number))
    }
}

/// Notes what follows from both words: the connection is assured once both sides have acknowledged, and
/// windows are scaled only if both offered to.
fn settle(dir: Dir, partner: Dir) -> Dir {
    if dir.has(Seen::ASSURED) || !dir.has(Seen::ACKED) {
        return dir;
    }
    let dir = if partner.offers_scale() {
        dir
    } else {
        dir.without_scale()
    };
    if partner.has(Seen::ACKED) {
        dir.with(Seen::ASSURED)
    } else {
        dir
    }
}
