//! The BPF programs: loading, attaching, and what they are told.
//!
//! * [`NicProgram`]: on an uplink, passes by default, takes overlay and pod traffic. One a NIC. Its link lives as
//!   long as its [`NicAttachment`], so nothing stays behind after `kill -9`. Who stops in order may leave it.
//! * [`EndpointProgram`]: on pods' veths and the host port, takes everything. One for all endpoints. Its links are
//!   pinned ([`PinDir`]), so that pods stay closed while no daemon runs; the next daemon takes them over in place.
//! * [`Tcx`]: in place of both where flows are in the kernel: on what comes in by pods' veths and uplinks it repeats what was decided of a
//!   flow, and sends the rest to the pollers. Pods' links are pinned, an uplink's is not.
//!
//! The programs' C sources and committed objects are in `xdp/`; ADR 0004 says why it is as it is.
//!
//! Everything here acts on the network namespace of the calling thread.

mod counters;
mod device;
mod direct;
mod endpoint;
mod error;
mod flow_bytes;
mod flow_maps;
mod link;
mod nic;
mod object;
mod pins;
mod prefixes;
mod sys;
mod taken;
mod tcx;
mod walk;

pub use counters::{EndpointCounters, NicCounters, TcxCounters};
pub use endpoint::{EndpointAttachment, EndpointConfig, EndpointProgram, FailMode};
pub use error::{AttachError, LoadError, PinError, UpdateError};
pub(crate) use error::{effective_capabilities, programs_on};
pub use flow_maps::FlowMaps;
pub(crate) use nic::NIC_PROGRAM;
pub use nic::{NicAttachment, NicConfig, NicMode, NicProgram};
pub use object::Verdict;
pub(crate) use pins::{BPFFS, Bpffs, INITS_PID_NAMESPACE, bpffs, is_left_on};
pub use pins::{PinDir, PinnedDevice};
pub use taken::{NatPorts, Taken, no_ports};
pub use tcx::{Tcx, TcxConfig, TcxResult, TcxVerdict, UplinkAttachment, tcx_programs_on};
