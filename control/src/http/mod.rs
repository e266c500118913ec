//! As much of HTTP as Prometheus and a kubelet need: `GET` of a few paths, one request a connection.
//!
//! The server is a state machine for a poll loop, as that of the control socket is: it never waits, and what a client may
//! take is bounded in connections, bytes and time (`Limits`).

mod request;
mod response;
mod server;

pub use request::{Malformed, Request};
pub(crate) use response::Response;
pub(crate) use server::{Limits, Server};
