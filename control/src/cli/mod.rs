//! The command line: one file per subcommand. Every command returns an [`Exit`].

mod cleanup;
mod replay;
mod run;
mod validate;

use std::io::IsTerminal as _;

use clap::{Parser, Subcommand, ValueEnum};

/// How a command ended; the process's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All went well.
    Ok = 0,
    /// It failed while running.
    Failure = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The configuration is invalid.
    Invalid = 3,
    /// The daemon cannot be reached.
    Unreachable = 4,
    /// It runs, but not as it should.
    Degraded = 5,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A userspace dataplane that speaks Calico.
#[derive(Debug, Parser)]
#[command(name = "caracal", version, about, arg_required_else_help = true)]
pub struct Cli {
    /// How results are written.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Do not colour the output (also by the environment variable NO_COLOR).
    #[arg(long, global = true)]
    pub no_color: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon.
    Run(run::Args),
    /// Take away what a stopped daemon leaves on purpose: closed pods, the host's port.
    Cleanup,
    /// Check resources and say all that is wrong with them.
    Validate(validate::Args),
    /// Take captures through the production pipeline, offline.
    Replay(replay::Args),
    /// Show Caracal at work, in network namespaces of its own.
    Demo(crate::demo::DemoArgs),
}

impl Cli {
    /// Runs the command.
    pub fn run(self) -> Exit {
        match &self.command {
            Command::Run(args) => run::run(args, &self),
            Command::Cleanup => cleanup::run(),
            Command::Validate(args) => validate::run(args, &self),
            Command::Replay(args) => replay::run(args, &self),
            Command::Demo(args) => crate::demo::run(args, self.output),
        }
    }

    /// True if what goes to standard error may be coloured.
    pub fn color_stderr(&self) -> bool {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        !self.no_color && !refused && std::io::stderr().is_terminal()
    }
}
