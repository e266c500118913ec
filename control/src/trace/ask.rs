//! What is asked.

use serde::{Deserialize, Serialize};

use crate::policy::rule::Protocol;

/// Which packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// Who sends: an address, a pod, or `host`.
    pub from: String,
    /// Who is meant: an address, a pod, or `host`.
    pub to: String,
    /// A name or a number.
    pub protocol: String,
    /// Destination port.
    #[serde(default)]
    pub port: u16,
    /// Source port, or the identifier of an echo request.
    #[serde(default)]
    pub source_port: u16,
}

/// The protocol that a name or a number means; `icmp` is of both families.
///
/// # Errors
/// There is none.
pub fn protocol(name: &str) -> Result<Protocol, String> {
    let number = || name.parse().ok().filter(|number| *number > 0);
    let known = Protocol::by_name(name).or_else(|| number().map(Protocol));
    known.ok_or_else(|| {
        format!("unknown protocol `{name}`: tcp, udp, sctp, icmp or a number from 1 to 255")
    })
}
