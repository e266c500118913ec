//! SCTP (RFC 9260): the handshake, the shutdown, and whose packets may change them.
//!
//! Each side chooses a verification tag, and the other puts it into each packet. Who cannot see the association does not
//! know the tags, so a packet with another tag changes nothing.
//!
//! Simplified: an association has one path (multihoming is not followed), and a restart within a
//! live association (section 5.2.4) passes but is not tracked: it ends by its timeout.

use super::dir::{Dir, Seen};
use super::state::State;
use super::{Invalid, Next};

/// A packet's facts: its verification tag and what the chunks are that matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// The verification tag.
    pub tag: u32,
    /// The chunks' types, a bit each: `1 << type`. Only types below 16 count.
    pub chunks: u16,
    /// INIT and INIT ACK: the tag that the sender chose; 0 else.
    pub initiate_tag: u32,
    /// ABORT and SHUTDOWN COMPLETE: the T bit, the tag is the sender's own (section 8.5.1).
    pub reflects_tag: bool,
}

/// Chunk types (section 3.2).
pub mod chunk {
    /// Begins an association.
    pub const INIT: u8 = 1;
    /// Answers INIT.
    pub const INIT_ACK: u8 = 2;
    /// Ends the association at once.
    pub const ABORT: u8 = 6;
    /// No more data from the sender.
    pub const SHUTDOWN: u8 = 7;
    /// Answers SHUTDOWN.
    pub const SHUTDOWN_ACK: u8 = 8;
    /// Answers INIT ACK.
    pub const COOKIE_ECHO: u8 = 10;
    /// Answers COOKIE ECHO.
    pub const COOKIE_ACK: u8 = 11;
    /// Answers SHUTDOWN ACK.
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

/// Chunks that are looked at in a packet; those that matter come first (section 6.10).
const MAX_CHUNKS: usize = 16;

impl Packet {
    /// Reads the packet of `l4_len` bytes, by its IP header, at the start of `l4`. `None` when it is cut before the end of
    /// its first chunk's header, or carries no chunk.
    #[must_use]
    pub fn read(l4: &[u8], l4_len: usize) -> Option<Self> {
        let l4 = l4.get(..l4_len).unwrap_or(l4);
        let tag = word(l4, 4)?;
        let mut packet = Self {
            tag,
            ..Self::default()
        };
        let mut chunks = l4.get(12..)?;
        for _ in 0..MAX_CHUNKS {
            let &[kind, flags, len_high, len_low, ..] = chunks else {
                break;
            };
            let len = usize::from(u16::from_be_bytes([len_high, len_low]));
            if len < 4 {
                break;
            }
            if kind < 16 {
                packet.chunks |= 1 << kind;
            }
            match kind {
                chunk::INIT | chunk::INIT_ACK => packet.initiate_tag = word(chunks, 4)?,
                chunk::ABORT | chunk::SHUTDOWN_COMPLETE => packet.reflects_tag = flags & 1 != 0,
                _ => {}
            }
            // Chunks are padded to four bytes.
            match chunks.get(len.next_multiple_of(4)..) {
                Some(rest) => chunks = rest,
                None => break,
            }
        }
        (l4.len() >= 16).then_some(packet)
    }

    const fn has(&self, kind: u8) -> bool {
        self.chunks & (1 << kind) != 0
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

// What the bits of `seen` mean here.
const INIT: Seen = Seen(0x01);
const INIT_ACK: Seen = Seen(0x02);
const COOKIE_ECHO: Seen = Seen(0x04);
const COOKIE_ACK: Seen = Seen(0x08);
const SHUTDOWN: Seen = Seen(0x10);
const SHUTDOWN_ACK: Seen = Seen(0x20);
const CLOSED: Seen = Seen(0x40);
/// The handshake was not seen; the word keeps the tag that the sender *uses*.
const PICKED_UP: Seen = Seen(0x80);

pub(super) fn first(packet: &Packet, pick_up: bool) -> Result<Dir, Invalid> {
    if packet.has(chunk::INIT) {
        // Section 8.5.1: the tag of a packet with INIT is 0, and the tag that it chooses is not.
        return if packet.tag == 0 && packet.initiate_tag != 0 {
            Ok(Dir::EMPTY.with_ack(packet.initiate_tag).with(INIT))
        } else {
            Err(Invalid::Flags)
        };
    }
    let begins_nothing = [
        chunk::INIT_ACK,
        chunk::ABORT,
        chunk::SHUTDOWN_ACK,
        chunk::SHUTDOWN_COMPLETE,
    ];
    if !pick_up || begins_nothing.iter().any(|kind| packet.has(*kind)) {
        return Err(Invalid::MidStream);
    }
    Ok(Dir::EMPTY.with_ack(packet.tag).with(PICKED_UP))
}

pub(super) fn next(own: Dir, partner: Dir, is_reply: bool, packet: &Packet) -> Next {
    if packet.has(chunk::INIT) {
        let state = if is_reply {
            sctp_state(partner, own)
        } else {
            sctp_state(own, partner)
        };
        return match (state, first(packet, false)) {
            (_, Err(why)) => Next::invalid(own, why),
            (State::Closed | State::Unreplied, Ok(_)) => Next::reopen(own),
            // Another try, or both at once (section 5.2.1).
            (State::CookieWait, Ok(dir)) if !own.has(INIT_ACK) => Next::pass(dir),
            _ => Next::pass(own),
        };
    }
    if own.is_empty() && partner.has(PICKED_UP) {
        return Next::pass(Dir::EMPTY.with_ack(packet.tag).with(PICKED_UP));
    }
    let is_tag_right = if own.has(PICKED_UP) {
        packet.tag == own.ack()
    } else if packet.reflects_tag {
        !own.is_empty() && packet.tag == own.ack()
    } else {
        packet.tag == partner.ack()
    };
    if !is_tag_right || own.has(CLOSED) {
        return Next::pass(own);
    }
    if packet.has(chunk::INIT_ACK) {
        let answers = partner.has(INIT) && !own.has(COOKIE_ACK);
        return Next::pass(if answers && packet.initiate_tag != 0 {
            Dir::EMPTY.with_ack(packet.initiate_tag).with(INIT_ACK)
        } else {
            own
        });
    }
    let steps = [
        (
            chunk::COOKIE_ECHO,
            COOKIE_ECHO,
            partner.has(INIT_ACK) || partner.has(INIT),
        ),
        (chunk::COOKIE_ACK, COOKIE_ACK, partner.has(COOKIE_ECHO)),
        (chunk::SHUTDOWN, SHUTDOWN, true),
        (chunk::SHUTDOWN_ACK, SHUTDOWN_ACK, partner.has(SHUTDOWN)),
        (chunk::SHUTDOWN_COMPLETE, CLOSED, partner.has(SHUTDOWN_ACK)),
        (chunk::ABORT, CLOSED, true),
    ];
    let dir = steps
        .iter()
        .filter(|(kind, _, may)| *may && packet.has(*kind))
        .fold(own, |dir, (_, seen, _)| dir.with(*seen));
    Next::pass(dir)
}

pub(super) fn sctp_state(original: Dir, reply: Dir) -> State {
    let either = |seen| original.has(seen) || reply.has(seen);
    if either(CLOSED) {
        State::Closed
    } else if original.has(PICKED_UP) && reply.is_empty() {
        State::Unreplied
    } else if either(SHUTDOWN_ACK) {
        State::ShutdownAckSent
    } else if either(SHUTDOWN) {
        State::ShutdownSent
    } else if either(COOKIE_ACK) || either(PICKED_UP) {
        State::Established
    } else if either(COOKIE_ECHO) {
        State::CookieEchoed
    } else if either(INIT) {
        State::CookieWait
    } else {
        State::None
    }
}
