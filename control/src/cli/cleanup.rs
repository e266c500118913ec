//! `caracal cleanup`: opens what a stopped daemon left closed.

use super::Exit;
use crate::node;

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the command's result"
)]
pub(super) fn run() -> Exit {
    match node::cleanup() {
        Ok(count) => {
            println!(
                "{count} interface{} opened; the host's port is gone",
                if count == 1 { "" } else { "s" }
            );
            Exit::Ok
        }
        Err(error) => {
            eprintln!("error: {error}");
            Exit::Failure
        }
    }
}
