//! Connections, as `flows` and `flush-flows` answer.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Connections of a part of the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows {
    /// How many of this part are meant.
    pub matched: u64,
    /// Entries of this part that were being changed, and so are not in the answer.
    pub busy: u64,
    /// Those that are meant, or as many as were asked for.
    pub flows: Vec<Flow>,
    /// How many there are of which kind, if that was asked for.
    pub counts: Option<FlowCounts>,
    /// What to ask for as `from`, when there are more parts.
    pub next: Option<usize>,
}

/// Connections by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowCounts {
    /// By state.
    pub state: BTreeMap<String, u64>,
    /// By protocol.
    pub protocol: BTreeMap<String, u64>,
    /// By endpoint that they count for; `none`: for no endpoint of this node.
    pub endpoint: BTreeMap<String, u64>,
}

/// A connection. Its source is where the packet came from that began it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// The protocol's name, or its number.
    pub protocol: String,
    /// The tracker's state, as `conntrack -L` names it; `UNREPLIED` or `ASSURED` where the protocol has none.
    pub state: String,
    /// The source's address, before it is translated.
    pub src: IpAddr,
    /// The source's port, for protocols that have ports.
    pub src_port: Option<u16>,
    /// The destination's address.
    pub dst: IpAddr,
    /// The destination's port.
    pub dst_port: Option<u16>,
    /// The identifier of ICMP queries.
    pub icmp_id: Option<u16>,
    /// The type of ICMP queries.
    #[serde(default)]
    pub icmp_type: Option<u8>,
    /// Whether the node itself began it, not a pod nor anybody beyond the node.
    #[serde(default)]
    pub from_host: bool,
    /// What the source is translated to, if it is.
    pub snat: Option<Translation>,
    /// What the destination is translated to, if it is: a service's endpoint.
    #[serde(default)]
    pub dnat: Option<Translation>,
    /// The pod that it counts for, as `namespace/name`, or its interface if nobody names it any more.
    pub endpoint: Option<String>,
    /// The direction of the packet that began it.
    pub original: FlowDirection,
    /// The other direction.
    pub reply: FlowDirection,
    /// Seconds since the last packet.
    pub idle_seconds: u64,
    /// Seconds that it is kept for if no other packet comes.
    pub expires_seconds: u64,
}

/// What a source or destination is translated to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Translation {
    /// The address.
    pub addr: IpAddr,
    /// The port.
    pub port: Option<u16>,
    /// The identifier of ICMP queries.
    pub icmp_id: Option<u16>,
}

/// One direction of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowDirection {
    /// The port that its packets come in by.
    pub port: Option<String>,
    /// The node whose tunnel they come by; then there is no `port`.
    pub node: Option<String>,
    /// The same by number: `port 3`, `node 2`, `unknown`.
    pub origin: String,
    /// Packets.
    pub packets: u64,
    /// Bytes of IP packets.
    pub bytes: u64,
    /// Generation of the tables by which they are sent.
    pub generation: u32,
}

/// What became of the connections that were to be removed, in a part of the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flushed {
    /// How many were meant.
    pub matched: u64,
    /// How many of them were removed. The others were gone by then.
    pub removed: u64,
    /// How many could not be removed: pollers were at work on them.
    pub busy: u64,
    /// What to ask for as `from`, when there are more parts.
    pub next: Option<usize>,
}
