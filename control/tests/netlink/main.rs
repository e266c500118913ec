//! The mirror, the writer, the host's port and the punt against a real kernel, each test in a namespace of its own.
//!
//! Needs root; without it every test says `SKIPPED` on stderr, or fails if `CARACAL_NO_SKIP=1`.

mod host_port;
mod lab;
mod mirror;
mod oracle;
mod punt;
mod write;
