//! `caracal run`: the daemon.

use std::path::PathBuf;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

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
    // What it meets at every try is said once, by who uses it.
    let library = Some(args.log).filter(|it| *it > tracing::Level::INFO);
    let levels = Targets::new()
        .with_default(args.log)
        .with_target("kube_client", library);
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(cli.color_stderr())
        .with_max_level(args.log)
        .with_target(false)
        // It would say on standard error that standard error cannot be written, and panic.
        .log_internal_errors(false)
        .finish()
        .with(levels)
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
