#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "for tests: what fails, fails them"
)]
//! What tests and benches need to stand up AF_XDP on a veth pair: the skip rule, network namespaces, a
//! redirecting XDP program. Only with the feature `test-support`, never in the daemon.
//!
//! Everything here panics with a clear message when it cannot do its work: it is for tests.

mod bpf;
mod netns;
mod reaper;
mod skip;

pub use bpf::{Sink, SinkHook, XdpLink, XdpProgram};
pub use netns::{Entered, Netns};
pub use reaper::reap_at_end;
pub use skip::{can_run, skip, skipped_without, skipped_without_root};
