//! The control API: how commands ask the daemon.
//!
//! A unix socket (`controlSocket` in `caracal.yaml`), one JSON object a line both ways:
//!
//! ```text
//! -> {"v":1,"id":7,"method":"routes","params":{"for":"10.244.1.9"}}
//! <- {"v":1,"id":7,"result":{"total":812,"routes":[…],"next":null}}
//! <- {"v":1,"id":7,"error":{"code":"bad-params","message":"…"}}
//! ```
//!
//! `v` counts up when something is taken away or changes its meaning; members may be added at any time. Requests on one
//! connection are answered in order. One method changes something, `flush-flows`; the others read.
//!
//! The server lives in the control thread's poll loop and never waits: every connection has a bound on what it may send,
//! on what waits to be read by it, and on time.

mod bind;
mod client;
mod lines;
mod message;
pub mod report;
mod server;
#[cfg(test)]
pub(crate) use server::tests::Scratch;

pub(crate) use bind::check_place;
pub use bind::{BindError, Bound, Purpose};
pub use client::{Client, ClientError};
pub use message::{
    ApiError, CaptureParams, EndpointParams, ErrorCode, FlowsBy, FlowsParams, FlushParams, Method,
    ObserveParams, PageParams, PerfParams, Request, Response, RoutesParams, ServicesParams,
};
pub use server::{Limits, Server, Ticket};

use std::time::Duration;

/// The version of the protocol.
pub const VERSION: u32 = 1;

/// The longest request, in bytes, its newline included.
pub const MAX_REQUEST: usize = 64 * 1024;

/// Where the daemon listens unless `caracal.yaml` says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/caracal/control.sock";

/// The most entries of one answer; more are asked for page by page.
pub const MAX_PAGE: usize = 10_000;

/// The most connections of one answer.
pub const MAX_FLOWS: usize = 4096;

/// The most records of one answer.
pub const MAX_RECORDS: usize = 1000;

/// The longest that pollers measure without being asked again.
pub const MAX_MEASURED: Duration = Duration::from_secs(3);
