//! What became of connections as they began, as `observe` answers.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Translation;

/// Records of connections that were judged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    /// Those that are meant, the oldest first.
    pub records: Vec<FlowRecord>,
    /// What to ask for as `after`, to go on.
    pub next: u64,
    /// Whether there are more already.
    pub more: bool,
    /// Records after `after` that were forgotten before they were asked for.
    pub missed: u64,
    /// Records that were lost since the daemon started, because pollers had more to tell than was taken from them.
    pub lost: u64,
    /// Matches of `Log` rules since the daemon started that were counted only, because of the rate limit.
    pub limited: u64,
}

/// What became of the first packet of a connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowRecord {
    /// When: UTC, RFC 3339, with milliseconds.
    pub time: String,
    /// What became of it.
    pub verdict: FlowVerdict,
    /// The protocol's name, or its number.
    pub protocol: String,
    /// Where it came from.
    pub src: FlowEnd,
    /// Where it was to go.
    pub dst: FlowEnd,
    /// The service's address and port, if it was sent to one; `dst` is its endpoint then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<SocketAddr>,
    /// Type and code of an ICMP message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp: Option<(u8, u8)>,
    /// The interface that it came in by.
    pub interface: Option<String>,
    /// The node whose tunnel it came by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// What the source is translated to, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snat: Option<Translation>,
    /// Why it was dropped: see `caracal explain`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What decided, or the rule that logged it; of an allowed one the sender's side first.
    pub by: Vec<FlowDecider>,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum FlowVerdict {
    /// A connection was made.
    Allowed,
    /// It was dropped by policy.
    Denied,
    /// It met a `Log` rule; what became of it is told apart.
    Logged,
    /// One that this program does not know yet.
    #[serde(other)]
    #[value(skip)]
    Other,
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowEnd {
    /// Its address, before it is translated.
    pub addr: IpAddr,
    /// Its port, for protocols that have ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The pod, as `namespace/name`, if it is one that is known; `host`: this node itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}

/// What decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowDecider {
    /// For packets of the endpoint in this direction, `ingress` or `egress`; none: beside policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    /// The endpoint that it decided for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// In words.
    pub text: String,
    /// For programs; `kind` says which members there are: of a `rule` tier, policy, number, file, line.
    pub why: Value,
}
