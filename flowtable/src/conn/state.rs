//! The state of a connection, read from both directions' words.

use super::Protocol;
use super::dir::{Dir, Seen};
use super::sctp::sctp_state;

/// The state of a connection. The names are those that `conntrack -L` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// TCP, SCTP: nothing has been seen.
    None,
    /// TCP: one side sent SYN.
    SynSent,
    /// TCP: both sides sent SYN, neither acknowledged (simultaneous open).
    SynSent2,
    /// TCP: one side acknowledged the other's SYN.
    SynReceived,
    /// TCP: both sides acknowledged. SCTP: the cookie was acknowledged, or the association was picked up.
    Established,
    /// TCP: one side sent FIN.
    FinWait,
    /// TCP: the other side acknowledged the FIN, and may send on.
    CloseWait,
    /// TCP: both sides sent FIN, not both were acknowledged.
    LastAck,
    /// TCP: both sides sent FIN, both were acknowledged.
    TimeWait,
    /// TCP: a side reset the connection.
    Close,
    /// SCTP: INIT was sent, or answered.
    CookieWait,
    /// SCTP: the cookie was sent back.
    CookieEchoed,
    /// SCTP: a side sent SHUTDOWN.
    ShutdownSent,
    /// SCTP: the SHUTDOWN was acknowledged.
    ShutdownAckSent,
    /// SCTP: ABORT or SHUTDOWN COMPLETE was sent.
    Closed,
    /// The reply direction has not been seen: any protocol but TCP and SCTP, and these when picked up.
    Unreplied,
    /// Both directions have been seen: any protocol but TCP and SCTP.
    Assured,
}

impl State {
    /// All of them, in the order in which they are declared.
    pub const ALL: [Self; 17] = [
        Self::None,
        Self::SynSent,
        Self::SynSent2,
        Self::SynReceived,
        Self::Established,
        Self::FinWait,
        Self::CloseWait,
        Self::LastAck,
        Self::TimeWait,
        Self::Close,
        Self::CookieWait,
        Self::CookieEchoed,
        Self::ShutdownSent,
        Self::ShutdownAckSent,
        Self::Closed,
        Self::Unreplied,
        Self::Assured,
    ];

    /// The name in capitals, as `conntrack -L` writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::SynSent => "SYN_SENT",
            Self::SynSent2 => "SYN_SENT2",
            Self::SynReceived => "SYN_RECV",
            Self::Established => "ESTABLISHED",
            Self::FinWait => "FIN_WAIT",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
            Self::CookieWait => "COOKIE_WAIT",
            Self::CookieEchoed => "COOKIE_ECHOED",
            Self::ShutdownSent => "SHUTDOWN_SENT",
            Self::ShutdownAckSent => "SHUTDOWN_ACK_SENT",
            Self::Closed => "CLOSED",
            Self::Unreplied => "UNREPLIED",
            Self::Assured => "ASSURED",
        }
    }

    /// Whether the other side has yet to agree: what a flood consists of, and the first to be evicted.
    #[must_use]
    pub const fn is_embryonic(self) -> bool {
        matches!(
            self,
            Self::None
                | Self::SynSent
                | Self::SynSent2
                | Self::SynReceived
                | Self::CookieWait
                | Self::CookieEchoed
                | Self::Unreplied
        )
    }

    /// Whether a side has begun to close the connection, or it is closed.
    #[must_use]
    pub const fn is_closing(self) -> bool {
        matches!(
            self,
            Self::FinWait
                | Self::CloseWait
                | Self::LastAck
                | Self::TimeWait
                | Self::Close
                | Self::ShutdownSent
                | Self::ShutdownAckSent
                | Self::Closed
        )
    }

    /// Whether both sides have closed the connection, or one has reset it: it is remembered for what is still on its way.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(
            self,
            Self::LastAck | Self::TimeWait | Self::Close | Self::ShutdownAckSent | Self::Closed
        )
    }

    /// Whether both sides take part and neither has begun to close: never evicted.
    #[must_use]
    pub const fn is_assured(self) -> bool {
        !self.is_embryonic() && !self.is_closing()
    }
}

/// The state of a connection of `protocol`, from the words of the direction that began it and of the other.
#[must_use]
pub fn state(protocol: Protocol, original: Dir, reply: Dir) -> State {
    match protocol {
        Protocol::Tcp => tcp_state(original, reply),
        Protocol::Sctp => sctp_state(original, reply),
        Protocol::Udp | Protocol::Icmp | Protocol::Other => {
            if reply.is_empty() {
                State::Unreplied
            } else {
                State::Assured
            }
        }
    }
}

pub(super) fn tcp_state(original: Dir, reply: Dir) -> State {
    let either = |seen| original.has(seen) || reply.has(seen);
    let both = |seen| original.has(seen) && reply.has(seen);
    if either(Seen::RST) {
        return State::Close;
    }
    if !either(Seen::ACKED) {
        return if both(Seen::SYN) {
            State::SynSent2
        } else if either(Seen::SYN) {
            State::SynSent
        } else {
            State::None
        };
    }
    if reply.is_empty() {
        return State::Unreplied;
    }
    match (original.has(Seen::FIN), reply.has(Seen::FIN)) {
        (false, false) if both(Seen::ACKED) => State::Established,
        (false, false) => State::SynReceived,
        (true, false) if is_fin_acknowledged(original, reply) => State::CloseWait,
        (false, true) if is_fin_acknowledged(reply, original) => State::CloseWait,
        (true, true)
            if is_fin_acknowledged(original, reply) && is_fin_acknowledged(reply, original) =>
        {
            State::TimeWait
        }
        (true, true) => State::LastAck,
        _ => State::FinWait,
    }
}

/// Whether `other` has acknowledged the FIN that `closer` sent. Judged by the low bits of its number: while
/// many kilobytes before the FIN are under way it may be taken for acknowledged too early.
fn is_fin_acknowledged(closer: Dir, other: Dir) -> bool {
    other.has(Seen::ACKED) && closer.is_tail(other.ack())
}
