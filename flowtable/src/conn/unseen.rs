//! TCP segments that nobody here saw: programs in the kernel passed them, and tell what they showed.

use super::dir::{Dir, Seen};
use super::segment::{Flags, Segment};
use super::{Facts, Judgement, Protocol, missed, next};

/// What the latest segment of a direction showed, of those that changed nothing: with ACK, without SYN, FIN and RST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latest {
    /// Its acknowledgement.
    pub ack: u32,
    /// The sequence number after it.
    pub end: u32,
    /// The largest window so far, as in headers.
    pub window: u16,
}

/// What was not seen of a direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unseen {
    /// Its latest segment, if there was any.
    pub latest: Option<Latest>,
    /// The first one with SYN, FIN or RST. Those after it are seen here.
    pub closing: Option<Segment>,
}

impl Unseen {
    /// Where the direction has come to.
    fn end(&self) -> Option<u32> {
        let latest = self.latest.map(|latest| latest.end);
        self.closing.map(|closing| closing.end()).or(latest)
    }

    /// The number of its FIN, if there is one.
    fn fin(&self) -> Option<u32> {
        let fin = self.closing.filter(|it| it.flags.has(Flags::FIN))?;
        Some(fin.seq.wrapping_add(fin.payload_len))
    }
}

/// The words of a connection's two directions, the original one's first, after what was not seen of them; `None`: all of that direction
/// was seen. `is_last` says that both are seen from now on.
///
/// Nobody compared these segments with the words when they passed, and whoever cannot see the connection may have sent the latest. So
/// an acknowledgement is believed if it is no further than the sender's largest window from where the other side has come to: it
/// takes the same guess as to be [noted](Dir::note). A FIN, or an RST, is judged by [`next`] with both words brought up to it; whoever
/// tells of it knows that its checksum is right.
///
/// Where the other direction was seen, that is known by a few bits only. Then an acknowledgement is believed as far as it would be
/// noted; what went further is, at the last, as in a connection that was [picked up](missed).
#[must_use]
pub fn catch_up(words: [Dir; 2], unseen: [Option<Unseen>; 2], is_last: bool) -> [Dir; 2] {
    let [mut original, mut reply] = words;
    let [there, back] = unseen;
    let fins = [there, back].map(|it| it.and_then(|it| it.fin()));
    // What acknowledges a FIN comes after it: first both words up to there.
    original = follow(original, there, back, fins[1], false);
    reply = follow(reply, back, there, fins[0], false);
    let closing = |it: Option<Unseen>| it.and_then(|it| it.closing);
    let reply_is_first = match (closing(there), fins[1]) {
        (Some(segment), Some(fin)) => is_after(segment.ack, fin),
        _ => false,
    };
    for is_reply in [reply_is_first, !reply_is_first] {
        if is_reply {
            reply = judge(reply, original, true, closing(back));
            original = follow(original, there, back, None, is_last);
        } else {
            original = judge(original, reply, false, closing(there));
            reply = follow(reply, back, there, None, is_last);
        }
    }
    [original, reply]
}

/// A direction's word after its latest segment, whose acknowledgement counts up to `most`.
fn follow(
    own: Dir,
    unseen: Option<Unseen>,
    other: Option<Unseen>,
    most: Option<u32>,
    is_last: bool,
) -> Dir {
    let Some(latest) = unseen.and_then(|unseen| unseen.latest) else {
        return own;
    };
    if !own.has(Seen::ACKED) {
        return own;
    }
    let ack = most
        .filter(|&most| is_after(latest.ack, most))
        .unwrap_or(latest.ack);
    let widest = own.with_scaled_window(latest.window);
    let (reach, ahead) = (widest.reach(), ack.wrapping_sub(own.ack()));
    let is_near = match other {
        Some(other) => other
            .end()
            .is_some_and(|end| ack.wrapping_sub(end) <= reach || end.wrapping_sub(ack) <= reach),
        None => false,
    };
    if !is_near && ahead > own.reach() {
        return if other.is_none() && is_last {
            missed(Protocol::Tcp, own)
        } else {
            own
        };
    }
    // One that was seen here may have come after it.
    if ahead != 0 && ahead.wrapping_neg() <= reach {
        return own;
    }
    let caught_up = widest.with_ack(ack);
    if own.has(Seen::FIN) {
        // No new data comes after the FIN: the tail stays where it ended.
        caught_up
    } else {
        caught_up.with_tail(latest.end)
    }
}

fn judge(own: Dir, partner: Dir, is_reply: bool, closing: Option<Segment>) -> Dir {
    let Some(segment) = closing else {
        return own;
    };
    let next = next(own, partner, is_reply, &Facts::Tcp(segment));
    // What begins anew is for who has the packet.
    match next.judgement {
        Judgement::Pass => next.dir,
        Judgement::Invalid(_) | Judgement::Reopen => own,
    }
}

/// Whether a number is after another (RFC 9293 section 3.4).
const fn is_after(number: u32, other: u32) -> bool {
    number.wrapping_sub(other).cast_signed() > 0
}
