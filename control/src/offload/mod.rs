//! Established flows in the kernel: what pollers decided about a direction of a connection is repeated by programs on the
//! devices themselves (tcx), and only what those do not know comes to the pollers (ADR 27).

pub mod flow;

pub use flow::{Action, Counts, From, Full, KernelFlows, Key, Seen, Segment, Way};
