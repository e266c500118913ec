//! `caracal node`: about the machine.

mod checksystem;

use clap::Subcommand;

use super::{Cli, Exit};

/// Arguments of `caracal node`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum Command {
    /// Say what this machine lacks for the daemon, or has in its way. Exit code 0: usable, 5: with warnings, 1: not usable.
    Checksystem(checksystem::Args),
}

pub(super) fn run(args: &Args, cli: &Cli) -> Exit {
    match &args.command {
        Command::Checksystem(args) => checksystem::run(args, cli),
    }
}
