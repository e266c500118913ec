//! The command line: one file per subcommand. Every command returns an [`Exit`].

mod ask;
mod capture;
mod cleanup;
mod completion;
mod config;
mod diff;
mod drops;
mod explain;
mod felix_proxy;
mod flows;
#[cfg(test)]
mod golden;
mod man;
mod node;
mod observe;
pub(crate) mod output;
mod perf;
mod policy;
mod ports;
mod replay;
mod routes;
mod run;
mod services;
mod status;
pub(crate) mod table;
mod top;
mod trace;
mod validate;
mod version;
mod watch;

use std::io::IsTerminal as _;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

/// How a command ended; the process's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All went well.
    Ok = 0,
    /// It failed while running; of `caracal diff`: there are differences.
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

/// What [`Exit`] means, for people.
const EXIT_CODES: &str = "EXIT CODES\n  0  all went well\n  1  it failed\n  2  the command line is wrong\n  3  files are not valid\n  \
                          4  the daemon can not be reached\n  5  it runs, or would, but not all is well";

/// A userspace dataplane that speaks Calico.
#[derive(Debug, Parser)]
#[command(name = "caracal", version, about, arg_required_else_help = true, after_long_help = EXIT_CODES)]
pub struct Cli {
    /// How results are written.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Do not colour the output (also by the environment variable NO_COLOR).
    #[arg(long, global = true)]
    pub no_color: bool,
    /// Where the daemon listens (`controlSocket` in its caracal.yaml).
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "CARACAL_SOCKET",
        default_value = crate::api::DEFAULT_SOCKET
    )]
    pub socket: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For people, with more columns where there are more.
    Wide,
    /// For programs.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon.
    Run(run::Args),
    /// Show at a glance how the daemon is. Exit code 0: well, 5: not all is well, 4: it does not answer.
    Status(status::Args),
    /// Show the ports and what passed through them.
    Ports(ports::Args),
    /// Show how many packets were dropped, why and where.
    Drops(drops::Args),
    /// Show the routes as pollers have them.
    Routes(routes::Args),
    /// Show the services that pods reach, and what is behind them.
    Services(services::Args),
    /// Show connections, count them, or remove them.
    Flows(flows::Args),
    /// Show connections as they begin: allowed, denied, logged.
    Observe(observe::Args),
    /// Write packets to a file for Wireshark, those that are dropped with the reason.
    Capture(capture::Args),
    /// Show what happens now: cores, ports, the fastest connections, drops; again each second.
    Top(top::Args),
    /// Measure where a packet's time goes, stage by stage.
    Perf(perf::Args),
    /// Explain a reason for drops.
    Explain(explain::Args),
    /// Take away what a stopped daemon leaves on purpose: closed pods, the host's port.
    Cleanup,
    /// Look at this machine before the daemon runs on it.
    Node(node::Args),
    /// Show settings, and where they are written.
    Config(config::Args),
    /// Check resources and say all that is wrong with them.
    Validate(validate::Args),
    /// Show what would change if files were the configuration. Exit code 0: nothing, 1: something.
    Diff(diff::Args),
    /// Say what would become of a packet, step by step, with the dataplane's own tables. Nothing is sent.
    Trace(trace::Args),
    /// Test policies, show what applies to an endpoint, say what is wrong with policies.
    Policy(policy::Args),
    /// Join Felix to the daemon: Felix starts this as its dataplane driver (FELIX_DATAPLANEDRIVER), nobody else.
    FelixProxy(felix_proxy::Args),
    /// Take captures through the production pipeline, offline.
    Replay(replay::Args),
    /// Show Caracal at work, in network namespaces of its own.
    Demo(crate::demo::DemoArgs),
    /// Write what a shell needs to complete commands.
    Completion(completion::Args),
    /// Write manual pages.
    Man(man::Args),
    /// Show the version of this program and, if one answers, of the daemon.
    Version,
}

impl Cli {
    /// Runs what the process's command line says; help that cannot be written is an error as any result is.
    pub fn parse_and_run() -> Exit {
        let words = felix_proxy::as_called(std::env::args_os());
        let error = match Self::try_parse_from(words) {
            Ok(cli) => return cli.run(),
            Err(error) => error,
        };
        let exit = if error.use_stderr() {
            Exit::Usage
        } else {
            Exit::Ok
        };
        match error.print() {
            Err(failed) if exit == Exit::Ok => output::failed(&failed, exit),
            Ok(()) | Err(_) => exit,
        }
    }

    /// Runs the command.
    pub fn run(self) -> Exit {
        match &self.command {
            Command::Run(args) => run::run(args, &self),
            Command::Status(args) => status::run(args, &self),
            Command::Ports(args) => ports::run(args, &self),
            Command::Drops(args) => drops::run(args, &self),
            Command::Routes(args) => routes::run(args, &self),
            Command::Services(args) => services::run(args, &self),
            Command::Flows(args) => flows::run(args, &self),
            Command::Observe(args) => observe::run(args, &self),
            Command::Capture(args) => capture::run(args, &self),
            Command::Top(args) => top::run(args, &self),
            Command::Perf(args) => perf::run(args, &self),
            Command::Explain(args) => explain::run(args, &self),
            Command::Cleanup => cleanup::run(&self),
            Command::Node(args) => node::run(args, &self),
            Command::Config(args) => config::run(args, &self),
            Command::Validate(args) => validate::run(args, &self),
            Command::Diff(args) => diff::run(args, &self),
            Command::Trace(args) => trace::run(args, &self),
            Command::Policy(args) => policy::run(args, &self),
            Command::FelixProxy(args) => felix_proxy::run(args),
            Command::Replay(args) => replay::run(args, &self),
            Command::Demo(args) => crate::demo::run(args, self.output),
            Command::Completion(args) => completion::run(args),
            Command::Man(args) => man::run(args),
            Command::Version => version::run(&self),
        }
    }

    /// True if what goes to standard error may be coloured.
    pub fn color_stderr(&self) -> bool {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        !self.no_color && !refused && std::io::stderr().is_terminal()
    }
}
