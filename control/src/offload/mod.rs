//! Established flows in the kernel: what pollers decided about a direction of a connection is repeated by programs on the
//! devices themselves (tcx), and only what those do not know comes to the pollers (ADR 27).

mod compile;
#[cfg(any(test, feature = "test-support"))]
pub mod fake;
pub mod flow;
mod orders;
mod stats;
mod tally;
mod worker;

pub use compile::Devices;
pub use flow::{Action, Counts, From, Full, Kept, KernelFlows, Key, Seen, Segment, Unread, Way};
pub use orders::Orders;
pub use stats::{Refused, Removed, Stats};
pub use worker::{Next, Parts, Worker};
