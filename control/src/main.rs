//! The `caracal` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    control::cli::Cli::parse_and_run().into()
}
