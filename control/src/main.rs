//! The `caracal` command.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    control::cli::Cli::parse().run().into()
}
