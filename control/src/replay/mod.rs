//! The production pipeline offline: captures in, captures out, the clock taken from the captures.
//!
//! What the kernel says on a real node is said by a file here ([`KernelFile`]); everything else, from the resources to
//! the tables and the stages, is what the daemon runs.

mod kernel;
mod kernel_file;
mod node;
mod run;
mod scan;
mod summary;
mod verdicts;

pub use kernel::Kernel;
pub use kernel_file::{KernelFile, LinkRole};
pub use node::{AssumedUplink, HOST_PORT, ReplayNode};
pub use run::{Job, ReplayError, run};
pub use scan::{Scan, scan};
pub use summary::Summary;
