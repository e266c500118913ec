//! Changes to the kernel's state. Each is idempotent: asked for again, it changes nothing and succeeds.
//!
//! Routes, rules and neighbours carry our protocol number ([`PROTOCOL`](super::PROTOCOL)), so that ours can be told from
//! others'.

mod link;
mod neighbour;
mod route;

pub use link::VethEnd;
pub use neighbour::Resolution;
pub use route::{NewRoute, RouteTarget};

use super::socket::{Requests, Result};

/// Makes changes in the namespace of the thread that opened it.
pub struct Writer {
    requests: Requests,
}

impl Writer {
    /// Opens a netlink socket.
    ///
    /// # Errors
    /// When there is none to be had.
    pub fn open() -> Result<Self> {
        Ok(Self {
            requests: Requests::open()?,
        })
    }
}

/// Success, also when the kernel says by one of these error numbers that there is nothing to do.
fn unless(outcome: Result<()>, harmless: &[i32]) -> Result<()> {
    outcome.or_else(|error| {
        if harmless.iter().any(|&errno| error.is(errno)) {
            Ok(())
        } else {
            Err(error)
        }
    })
}
