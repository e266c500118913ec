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

pub use bpf::{Sink, SinkHook, XdpLink, XdpProgram};
pub use netns::{Entered, Netns};

/// Whether a test that needs root and AF_XDP can run here.
///
/// If not, says `SKIPPED <test>: <reason>` on standard error, for CI to collect.
///
/// # Panics
///
/// Instead of skipping, when the environment has `CARACAL_NO_SKIP=1`.
pub fn can_run(test: &str) -> bool {
    match super::probe::probe() {
        Ok(_) => true,
        Err(reason) => {
            skip(test, &reason.to_string());
            false
        }
    }
}

/// Says that `test` is skipped and why, on standard error.
///
/// # Panics
///
/// Instead of skipping, when the environment has `CARACAL_NO_SKIP=1`.
#[expect(clippy::print_stderr, reason = "CI collects these lines")]
pub fn skip(test: &str, reason: &str) {
    assert!(
        std::env::var_os("CARACAL_NO_SKIP").is_none_or(|value| value != "1"),
        "{test} would be skipped ({reason}), and CARACAL_NO_SKIP=1 forbids it"
    );
    eprintln!("SKIPPED {test}: {reason}");
}
