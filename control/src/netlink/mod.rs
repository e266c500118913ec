//! The kernel's network state, mirrored, and the few changes we make to it.
//!
//! Everything here is synchronous and works in the network namespace of the calling thread:
//! a socket belongs for ever to the namespace it was opened in.
//!
//! - [`mirror`]: links, addresses, routes of table main and neighbours, dumped once and then followed;
//! - [`write`](mod@write): changes to these, each of them idempotent;
//! - [`host_port`]: the veth pair that joins the host's stack to the dataplane;
//! - [`punt`]: the veth pair by which pollers receive what the kernel's programs leave to them;
//! - `pair`: what both are made with;
//! - [`netns`]: network namespaces by name or process;
//! - `features`: what drivers can do with XDP;
//! - `ipsec`: whether the host uses it;
//! - `nftables`: what is in a table, and whether anybody changed it;
//! - `unix_sockets`: whose an abstract name is.
//!
//! Messages are written with `netlink-packet-route`, but read by our own `decode`: one attribute that a crate does
//! not know must not cost us the message, and a million routes must not cost a million allocations.

mod attr;
mod decode;
pub(crate) mod features;
mod model;
mod pair;
mod socket;
mod state;
mod table;
mod view;

pub mod host_port;
pub(crate) mod ipsec;
pub mod mirror;
pub mod netns;
pub(crate) mod nftables;
pub mod punt;
pub mod sysctl;
pub(crate) mod unix_sockets;
pub mod write;

pub use host_port::{HostPort, HostPortConfig, HostRoute};
pub use mirror::{Changes, Mirror, MirrorOptions};
pub use model::{
    Address, LEG_WEIGHT_DEFAULT, Leg, Link, Mac, Neighbour, NeighbourState, OperState, Path, Route,
    RouteKind,
};
pub use netns::NetNs;
pub use punt::PuntPort;
pub use socket::{Error, Result};
pub use view::hop;
pub use write::Writer;

/// The protocol number that marks the routes, rules and neighbours that we add (`RTA_PROTOCOL`,
/// `FRA_PROTOCOL`, `NDA_PROTOCOL`). Unassigned in the kernel's and iproute2's lists; Felix uses 80.
pub const PROTOCOL: u8 = 97;

/// Routing table main, the one that is mirrored.
pub const TABLE_MAIN: u32 = 254;
