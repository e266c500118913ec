//! Source NAT: which connections are translated, and which port each gets (RFC 4787, RFC 6056).
//!
//! A twin of `MASQUERADE --random-fully`: address- and port-dependent mapping to ports drawn at random. [`NatPools`] says
//! whether, [`PortSet::probes`] proposes ports, the flow table says which of them is free for the remote end.
//! [`NatPools`] and [`Ports`] are made by the control plane and only read by pollers; each poller has a [`PortRng`] of its own.

mod pools;
mod ports;
mod rng;
pub mod shares;

pub use pools::{NatPools, Pool};
pub use ports::{MAX_PROBES, PortSet, Ports, Probes};
pub use rng::PortRng;
pub use shares::Shares;
