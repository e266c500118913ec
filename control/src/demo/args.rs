//! Arguments of `caracal demo`.

use clap::{Args, Subcommand, ValueEnum};

use super::plan::LabId;
use super::scenario::{Family, Mode};

/// Name of the lab when none is given.
pub const DEFAULT_LAB: &str = "demo";

/// Show Caracal at work: two nodes with pods, a router and a server outside, in network namespaces of their own.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DemoArgs {
    /// What else to do than to show Caracal.
    #[command(subcommand)]
    pub command: Option<DemoCommand>,

    /// Modes to show (all four when not given); may be repeated or separated by commas.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub mode: Vec<Mode>,

    /// IP family to show (both when not given).
    #[arg(long, value_enum)]
    pub family: Option<Family>,

    /// Steps to show (all when not given), by the names that the output has, as `snat`; may be repeated.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub step: Vec<String>,

    /// Size of each TCP transfer, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub size: u32,

    /// Have established flows carried by the kernel on both nodes (`offload: kernel`, Linux 6.6).
    #[arg(long)]
    pub offload: bool,

    /// Leave the lab standing with its daemons running, and say how to enter it.
    #[arg(long)]
    pub keep: bool,

    /// Print every command and setting that builds the lab.
    #[arg(short, long)]
    pub verbose: bool,

    /// Name of the lab, part of the namespaces' names: several can stand side by side.
    #[arg(long, value_name = "NAME", default_value = DEFAULT_LAB, value_parser = LabId::new)]
    pub lab: LabId,

    /// What forwards on the nodes. `kernel` and `none` judge the lab and its checks, not Caracal.
    #[arg(long, value_enum, default_value_t = Dataplane::Caracal, hide = true)]
    pub dataplane: Dataplane,
}

/// What else `caracal demo` does.
#[derive(Clone, Debug, Subcommand)]
pub enum DemoCommand {
    /// Remove a lab that `--keep` left.
    Down {
        /// Name of the lab.
        #[arg(long, value_name = "NAME", default_value = DEFAULT_LAB, value_parser = LabId::new)]
        lab: LabId,
        /// Print every command.
        #[arg(short, long)]
        verbose: bool,
    },
}

/// What forwards on the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dataplane {
    /// Our daemons.
    Caracal,
    /// The kernel's routing and tunnel devices.
    Kernel,
    /// Nothing: every check must fail.
    None,
}
