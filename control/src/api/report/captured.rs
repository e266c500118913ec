//! Copies of packets, as `capture` answers.

use serde::{Deserialize, Serialize};

/// Copies of packets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captured {
    /// Those that are meant, the oldest first.
    pub packets: Vec<CapturedPacket>,
    /// What to ask for as `after`, to go on.
    pub next: u64,
    /// Whether there are more already.
    pub more: bool,
    /// Packets after `after` that were forgotten before they were asked for.
    pub missed: u64,
    /// Copies that were lost since the daemon started, because pollers made more than were taken from them.
    pub lost: u64,
}

/// The beginning of a packet, at one moment of its way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturedPacket {
    /// When, in nanoseconds since 1970: the beginning of the poller's round.
    pub time: u64,
    /// The port's interface.
    pub port: String,
    /// The moment.
    pub moment: Moment,
    /// Its whole length, in bytes.
    pub length: u16,
    /// Its first bytes, in hexadecimal.
    pub bytes: String,
    /// Generation of the tables in force.
    pub generation: u64,
    /// Why it was dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The stage that dropped it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// What denied it, of policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
}

/// A moment of a packet's way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Moment {
    /// As it came in.
    #[default]
    In,
    /// As it went out.
    Out,
    /// As it was dropped.
    Dropped,
}
