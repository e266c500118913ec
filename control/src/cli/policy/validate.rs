//! `caracal policy validate`: what is wrong with policies, without any packet.

use std::path::PathBuf;

use serde_json::json;

use super::{Cli, Exit};
use crate::cli::{Output, output};
use crate::config::{Diagnostics, Severity};
use crate::policy::calculate;
use crate::policy::resource::{PolicyResources, load_paths};
use crate::words::counted;

/// Arguments of `caracal policy validate`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// File or directory of resources, Calico's and Kubernetes'; `-`: standard input; may be repeated.
    #[arg(short, long = "filename", required = true, value_name = "FILE|DIR")]
    filename: Vec<PathBuf>,
}

pub(super) fn run(args: &Args, cli: &Cli) -> Exit {
    let result = load_paths(&args.filename).and_then(check);
    let (findings, count) = match &result {
        Ok((findings, count)) => (findings, Some(*count)),
        Err(findings) => (findings, None),
    };
    let exit = if count.is_some() {
        Exit::Ok
    } else {
        Exit::Invalid
    };
    let text = match cli.output {
        Output::Json => to_json(findings, count),
        Output::Table | Output::Wide => to_text(findings, count, cli.color_stderr()),
    };
    output::print(&text, exit)
}

/// All findings of load and calculation together, and how many resources there are.
fn check(resources: PolicyResources) -> Result<(Diagnostics, usize), Diagnostics> {
    let count = resources.len();
    let (ok, more) = match calculate(&resources) {
        Ok((_, remarks)) => (true, remarks),
        Err(errors) => (false, errors),
    };
    let mut all = resources.base.remarks;
    all.0.extend(more.0);
    all.sort();
    if ok { Ok((all, count)) } else { Err(all) }
}

fn to_json(findings: &Diagnostics, count: Option<usize>) -> String {
    let answer = json!({
        "schema": "caracal.validate/v1",
        "valid": count.is_some(),
        "resources": count,
        "diagnostics": findings.to_json(),
    });
    format!("{answer:#}\n")
}

/// The result; findings, and how many errors there are, go to standard error.
fn to_text(findings: &Diagnostics, count: Option<usize>, color: bool) -> String {
    output::remark(&findings.render(color));
    let warnings = counted(findings.count(Severity::Warning) as u64, "warning");
    if let Some(count) = count {
        return format!("{} valid, {warnings}\n", counted(count as u64, "resource"));
    }
    let errors = counted(findings.count(Severity::Error) as u64, "error");
    output::remark(&format!("\n{errors}, {warnings}\n"));
    String::new()
}
