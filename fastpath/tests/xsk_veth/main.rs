//! `io::xsk` against the kernel: veth pairs in network namespaces of their own. Needs root and AF_XDP;
//! says `SKIPPED` otherwise (and fails with `CARACAL_NO_SKIP=1`).
#![expect(clippy::disallowed_methods, reason = "the kernel works in real time")]

mod bursts;
mod errors;
mod kernel;
mod lab;
mod lifecycle;
mod send_only;
mod sharing;
mod tagged;
mod transfer;
mod waiting;
