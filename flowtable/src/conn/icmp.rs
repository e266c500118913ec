//! ICMP and ICMPv6 queries (RFC 792, RFC 4443 section 4).

use super::dir::Dir;
use super::{Invalid, Next};

/// What an ICMP message is to the tracker. Errors are not the tracker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Icmp {
    /// Asks: echo, and with IPv4 timestamp, information and address mask.
    Query,
    /// Answers one of these.
    Answer,
}

impl Icmp {
    /// By the type of an ICMP message for IPv4; `None` when it is neither a query nor an answer.
    #[must_use]
    pub const fn of_type(icmp_type: u8) -> Option<Self> {
        match icmp_type {
            8 | 13 | 15 | 17 => Some(Self::Query),
            0 | 14 | 16 | 18 => Some(Self::Answer),
            _ => None,
        }
    }

    /// By the type of an ICMPv6 message; `None` when it is neither an echo request nor a reply.
    #[must_use]
    pub const fn of_type_v6(icmp_type: u8) -> Option<Self> {
        match icmp_type {
            128 => Some(Self::Query),
            129 => Some(Self::Answer),
            _ => None,
        }
    }
}

pub(super) fn first(icmp: Icmp) -> Result<Dir, Invalid> {
    match icmp {
        Icmp::Query => Ok(Dir::datagram()),
        Icmp::Answer => Err(Invalid::MidStream),
    }
}

/// Queries go one way and answers the other: else whoever is asked could ask back past the policy.
pub(super) fn next(own: Dir, is_reply: bool, icmp: Icmp) -> Next {
    if is_reply == (icmp == Icmp::Answer) {
        Next::pass(Dir::datagram())
    } else {
        Next::invalid(own, Invalid::Direction)
    }
}
