//! `caracal config`: settings, looked at.

mod show;

use clap::Subcommand;

use super::{Cli, Exit};

/// Arguments of `caracal config`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the settings that files give, and where each is written: the daemon's own, and Calico's.
    Show(show::Args),
}

pub(super) fn run(args: &Args, cli: &Cli) -> Exit {
    match &args.command {
        Command::Show(args) => show::run(args, cli),
    }
}
