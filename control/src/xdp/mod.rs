//! The XDP programs: loading, attaching, and what they are told.
//!
//! * [`NicProgram`]: on an uplink, passes by default, takes overlay and pod traffic. One a NIC. Its link lives as
//!   long as its [`NicAttachment`], so nothing stays behind after `kill -9`. Who stops in order may leave it.
//! * [`EndpointProgram`]: on pods' veths and the host port, takes everything. One for all endpoints. Its links are
//!   pinned ([`PinDir`]), so that pods stay closed while no daemon runs; the next daemon takes them over in place.
//!
//! The programs' C sources and committed objects are in `xdp/`; ADR 0004 says why it is as it is.
//!
//! Everything here acts on the network namespace of the calling thread.

mod counters;
mod device;
mod direct;
mod endpoint;
mod error;
mod link;
mod nic;
mod object;
mod pins;
mod prefixes;
mod sys;

pub use counters::{EndpointCounters, NicCounters};
pub use endpoint::{EndpointAttachment, EndpointConfig, EndpointProgram, FailMode};
pub use error::{AttachError, LoadError, PinError, UpdateError};
pub(crate) use error::{effective_capabilities, programs_on};
pub(crate) use nic::NIC_PROGRAM;
pub use nic::{NatPorts, NicAttachment, NicConfig, NicMode, NicProgram, no_ports};
pub use object::Verdict;
pub(crate) use pins::{BPFFS, Bpffs, INITS_PID_NAMESPACE, bpffs, is_left_on};
pub use pins::{PinDir, PinnedDevice};
