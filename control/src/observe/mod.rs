//! What pollers tell about connections, for operators: put into words ([`Names`]), kept for a while ([`History`]).

mod history;
mod names;

pub(crate) use history::{History, Wanted, net, protocol};
pub(crate) use names::{Names, utc};
