//! `caracal diff`: what would change if these files were the configuration.
//!
//! All is found out on this side: the daemon is asked where its files are, and for its connections, part by part.

mod daemon;
mod render;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::validate::{for_node, report};
use super::{Cli, Exit, Output, output};
use crate::config::{Diagnostics, HostEndpoints, Source, load_with_texts};
use crate::diff::{Change, Written, compare};

/// Arguments of `caracal diff`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct Args {
    /// File or directory of resources that would be the configuration; `-`: standard input; may be repeated.
    #[arg(short, long = "filename", required = true, value_name = "FILE|DIR")]
    filename: Vec<PathBuf>,
    /// Compare with this file or directory, and ask no daemon; may be repeated.
    #[arg(long, value_name = "FILE|DIR")]
    against: Vec<PathBuf>,
    /// Also check what concerns this node only.
    #[arg(long, value_name = "NAME", requires = "against")]
    node: Option<String>,
    /// What the node's caracal.yaml says about its host endpoints (`hostEndpoints`).
    #[arg(
        long,
        value_name = "HOW",
        value_enum,
        default_value_t,
        requires = "node"
    )]
    host_endpoints: HostEndpoints,
}

const EXIT_CODES: &str = "Exit codes:\n  0  nothing would change\n  1  something would\n  2  the command line is wrong, there is nothing to \
                          compare with, or it failed\n  3  files are not valid\n  4  the daemon can not be reached";

/// How it ends when it fails: 1 says that there are differences, as of diff(1).
const TROUBLE: Exit = Exit::Usage;

pub(super) fn run(args: &Args, cli: &Cli) -> Exit {
    let stdin = Path::new("-");
    let both = [&args.filename, &args.against];
    if both.into_iter().flatten().filter(|it| *it == stdin).count() > 1 {
        output::complain(&"standard input can be read once only");
        return TROUBLE;
    }
    let done = if args.against.is_empty() {
        daemon::run(args, cli)
    } else {
        offline(args, cli)
    };
    done.unwrap_or_else(|exit| exit)
}

/// Compares files with files.
fn offline(args: &Args, cli: &Cli) -> Result<Exit, Exit> {
    let load = |paths: &[PathBuf]| {
        let (texts, loaded) = load_with_texts(paths);
        let loaded = loaded.and_then(|cluster| match &args.node {
            Some(node) => for_node(cluster, node, args.host_endpoints).map(|it| it.0),
            None => Ok(cluster),
        });
        Ok((valid(loaded, cli)?, texts))
    };
    let (new, new_texts) = load(&args.filename)?;
    let (_, old_texts) = load(&args.against)?;
    let changes = changes(&old_texts, &new_texts);
    Ok(show(&changes, None, &new.base.remarks, cli))
}

/// What was loaded; or it is said what is wrong with it, as `caracal validate` does.
fn valid<T>(loaded: Result<T, Diagnostics>, cli: &Cli) -> Result<T, Exit> {
    loaded.map_err(|errors| match report(&errors, None, cli) {
        Exit::Invalid => Exit::Invalid,
        _ => TROUBLE,
    })
}

fn changes(old: &[Arc<Source>], new: &[Arc<Source>]) -> Vec<Change> {
    compare(&Written::read(old), &Written::read(new))
}

fn show(
    changes: &[Change],
    found: Option<&daemon::Found>,
    remarks: &Diagnostics,
    cli: &Cli,
) -> Exit {
    let text = match cli.output {
        Output::Json => render::json(changes, found, remarks),
        Output::Table | Output::Wide => {
            output::remark(&remarks.render(cli.color_stderr()));
            render::text(changes, found)
        }
    };
    let exit = if changes.is_empty() {
        Exit::Ok
    } else {
        Exit::Failure
    };
    output::print_or(&text, exit, TROUBLE)
}
