//! `caracal run`: the daemon.

use std::path::PathBuf;

use super::{Cli, Exit, output};
use crate::node::{self, RunError};

/// Arguments of `caracal run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The daemon's own file; resources are in `conf.d` beside it, unless it says otherwise.
    #[arg(long, value_name = "FILE", default_value = node::DEFAULT_CONFIG)]
    config: PathBuf,
    /// How much is logged: error, warn, info, debug or trace.
    #[arg(
        long,
        value_name = "LEVEL",
        default_value = "info",
        env = "CARACAL_LOG"
    )]
    log: tracing::Level,
}

pub(super) fn run(args: &Args, cli: &Cli) -> Exit {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(cli.color_stderr())
        .with_max_level(args.log)
        .with_target(false)
        // It would say on standard error that standard error cannot be written, and panic.
        .log_internal_errors(false)
        .init();
    match node::run(&args.config) {
        Ok(()) => Exit::Ok,
        Err(RunError::Config(diagnostics)) => {
            output::remark(&diagnostics.render(cli.color_stderr()));
            Exit::Invalid
        }
        Err(error) => {
            output::complain(&error);
            Exit::Failure
        }
    }
}
