//! `caracal cleanup`: opens what a stopped daemon left closed.

use super::{Exit, output};
use crate::node;

pub(super) fn run() -> Exit {
    match node::cleanup() {
        Ok(count) => {
            let plural = if count == 1 { "" } else { "s" };
            let said = format!("{count} interface{plural} opened; the host's port is gone\n");
            output::print(&said, Exit::Ok)
        }
        Err(error) => {
            output::complain(&error);
            Exit::Failure
        }
    }
}
