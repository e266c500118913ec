//! `caracal policy`: policies, looked at.

mod show;
mod test;
mod validate;

use clap::Subcommand;

use super::{Cli, Exit};

/// Arguments of `caracal policy`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Judge packets and compare with what is expected. Exit code 0: all as expected, 1: not, 3: bad input.
    Test(test::Args),
    /// Show what applies to an endpoint, in order.
    Show(show::Args),
    /// Check policies and all that they are made of, and say all that is wrong.
    Validate(validate::Args),
}

pub(super) fn run(args: &Args, cli: &Cli) -> Exit {
    match &args.command {
        Command::Test(args) => test::run(args, cli),
        Command::Show(args) => show::run(args, cli),
        Command::Validate(args) => validate::run(args, cli),
    }
}
