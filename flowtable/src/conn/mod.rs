//! The connection tracker: what a packet means for the connection that it belongs to.
//!
//! Pure functions over two words, one a direction ([`Dir`]); where the words are kept, and when, is the caller's.
//! The state of a connection is a function of both ([`state()`]), so neither poller writes what the other reads.
//!
//! A packet of a known connection is either *quick* ([`is_quick`]: an assured TCP connection, plain data) and
//! only [noted](Dir::note), without a look at the other direction's word; or it is judged by [`next`]. A packet without
//! a connection asks [`first`] whether it may begin one.
//!
//! The tracker is liberal: where endpoints differ, the packet passes and the endpoint decides. It is strict about
//! itself: **no packet changes the state that the endpoint would refuse** (RFC 5961). Two checks are the
//! caller's, because they need the whole packet:
//!
//! - a TCP segment that is not quick counts only if its checksum is right, else it is passed or
//!   dropped without [`next`];
//! - the new word is stored only if the packet is forwarded: one whose TTL ends here never reaches the endpoint.
//!
//! ICMP errors about a connection change nothing and refresh nothing (RFC 4787 REQ-12, RFC 5382 REQ-10, RFC 5508
//! REQ-6): they are not handed to the tracker at all.
//!
//! What differs from the kernel's `nf_conntrack` with `nf_conntrack_tcp_be_liberal=1`:
//!
//! | | here | kernel |
//! |---|---|---|
//! | RST before the last acknowledgement | passes, changes nothing | invalid |
//! | SYN of the reply direction in an established connection | passes, changes nothing | invalid |
//! | SYN of the reply direction after RST | begins anew | invalid |
//! | plain ACK that acknowledges nothing the responder sent, in the handshake | passes, changes nothing | establishes |
//! | FIN out of window | passes, changes nothing | begins to close |
//! | an established connection seen in one direction only (picked up) | embryonic | established |

mod dir;
mod icmp;
pub mod quota;
pub mod sctp;
mod segment;
mod state;
mod tcp;
mod timeouts;
mod unseen;

pub use dir::Dir;
pub use icmp::Icmp;
pub use segment::{Flags, Segment};
pub use state::{State, state};
pub use tcp::{is_quick, is_under_way, missed};
pub use timeouts::{Timeouts, idle_time};
pub use unseen::{Latest, Unseen, catch_up};

/// The kinds of protocols that the tracker tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP (6).
    Tcp,
    /// UDP (17) and UDP-Lite (136).
    Udp,
    /// ICMP (1) and ICMPv6 (58) queries, which have an identifier.
    Icmp,
    /// SCTP (132).
    Sctp,
    /// Any other, known by its addresses only.
    Other,
}

impl Protocol {
    /// The kind of an IP protocol number.
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            6 => Self::Tcp,
            17 | 136 => Self::Udp,
            1 | 58 => Self::Icmp,
            132 => Self::Sctp,
            _ => Self::Other,
        }
    }
}

/// A packet's facts, by its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Facts {
    /// A TCP segment.
    Tcp(Segment),
    /// An SCTP packet.
    Sctp(sctp::Packet),
    /// An ICMP query or its answer.
    Icmp(Icmp),
    /// A packet of UDP or of any other protocol: that it came is all there is to know.
    Datagram,
}

/// Why a packet is invalid. The caller drops it with a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Invalid {
    /// No endpoint sends such flags (TCP), or such tags (SCTP).
    #[error("no endpoint sends such flags")]
    Flags,
    /// It belongs to a connection that is not known, and may not begin one.
    #[error("in the middle of a connection that is not known")]
    MidStream,
    /// The handshake is not that far.
    #[error("out of place in the handshake")]
    Handshake,
    /// An ICMP query against the direction of the first, or an answer in it.
    #[error("an ICMP query or answer in the wrong direction")]
    Direction,
}

/// What becomes of a packet of a known connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It passes.
    Pass,
    /// It is dropped.
    Invalid(Invalid),
    /// The connection is over and this packet begins another between the same addresses and ports: the caller removes
    /// both entries, and the packet is [`first`], in the direction that it goes in.
    Reopen,
}

/// A packet's judgement, and its direction's word from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// The word to store if the packet is forwarded. Often the same as before: then there is no need to.
    pub dir: Dir,
    /// What becomes of the packet.
    pub judgement: Judgement,
    /// Whether the packet shows that the connection lives: then the direction's last-seen time is set. Not if it is
    /// invalid, nor if it is an RST that closes nothing (RFC 7857 section 7.1).
    pub refreshes: bool,
}

impl Next {
    const fn pass(dir: Dir) -> Self {
        Self {
            dir,
            judgement: Judgement::Pass,
            refreshes: true,
        }
    }

    const fn invalid(dir: Dir, why: Invalid) -> Self {
        Self {
            dir,
            judgement: Judgement::Invalid(why),
            refreshes: false,
        }
    }

    const fn reopen(dir: Dir) -> Self {
        Self {
            dir,
            judgement: Judgement::Reopen,
            refreshes: false,
        }
    }
}

/// The first packet of a connection: its direction's word, with which the pair of entries is made. The other
/// direction's word is [`Dir::EMPTY`].
///
/// TCP begins with SYN, SCTP with INIT, ICMP with a query, anything else with any packet. With `pick_up`, a TCP segment
/// with ACK or FIN and ACK, and an SCTP packet with data, begins a connection in the middle, as after a
/// restart. RST, or SYN with ACK, never does.
///
/// # Errors
///
/// Why the packet begins no connection.
pub fn first(facts: &Facts, pick_up: bool) -> Result<Dir, Invalid> {
    match facts {
        Facts::Tcp(segment) => tcp::first(segment, pick_up),
        Facts::Sctp(packet) => sctp::first(packet, pick_up),
        Facts::Icmp(icmp) => icmp::first(*icmp),
        Facts::Datagram => Ok(Dir::datagram()),
    }
}

/// A later packet of a connection. `own` is the word of the direction that the packet goes in, `partner` that of the
/// other; `is_reply` says that it goes against the direction of the first packet.
#[must_use]
pub fn next(own: Dir, partner: Dir, is_reply: bool, facts: &Facts) -> Next {
    match facts {
        Facts::Tcp(segment) => tcp::next(own, partner, is_reply, segment),
        Facts::Sctp(packet) => sctp::next(own, partner, is_reply, packet),
        Facts::Icmp(icmp) => icmp::next(own, is_reply, *icmp),
        Facts::Datagram => Next::pass(Dir::datagram()),
    }
}
