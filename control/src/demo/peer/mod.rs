//! Clients and servers with ordinary sockets: what applications in the pods would see. Nothing here knows Caracal.
//!
//! A socket belongs to the namespace it was made in; afterwards any thread may use it.

pub mod flood;
pub mod icmp;
pub mod neighbour;
pub mod ping;
pub mod pipe;
pub mod tcp;
pub mod udp;

use std::io::{self, ErrorKind};
use std::net::IpAddr;

use super::cancel::Cancel;

/// Where a conversation runs.
#[derive(Clone, Debug)]
pub struct Route {
    /// Namespace of the client.
    pub from: String,
    /// Namespace of the server.
    pub to: String,
    /// Address of the server.
    pub address: IpAddr,
}

/// Why a conversation failed, in words for the user.
pub type Failure = String;

/// True for the error of a read or write that timed out, to be tried again.
fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

/// An error once the user wants to stop.
pub(super) fn check(cancel: &Cancel) -> Result<(), Failure> {
    cancel.check().map_err(|error| error.to_string())
}
