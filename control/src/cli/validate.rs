//! `caracal validate`: checks resources without touching anything.

use std::path::PathBuf;

use serde_json::json;

use super::{Cli, Exit, Output, output};
use crate::config::{Cluster, Diagnostics, HostEndpoints, Severity, compute_with, load_paths};
use crate::desired::Desired;
use crate::words::counted;

/// Arguments of `caracal validate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// File or directory of resources, Calico's and Kubernetes'; `-`: standard input; may be repeated.
    #[arg(short, long = "filename", required = true, value_name = "FILE|DIR")]
    filename: Vec<PathBuf>,
    /// Also check what concerns this node only.
    #[arg(long, value_name = "NAME")]
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

pub(super) fn run(args: &Args, cli: &Cli) -> Exit {
    let how = args.host_endpoints;
    let result = load_paths(&args.filename).and_then(|cluster| match &args.node {
        None => Ok(cluster),
        Some(node) => for_node(cluster, node, how).map(|(cluster, _)| cluster),
    });
    match &result {
        Ok(cluster) => report(&cluster.base.remarks, Some(cluster.len), cli),
        Err(errors) => report(errors, None, cli),
    }
}

/// Resources that are valid for a node, too, and what it should do by them.
pub(super) fn for_node(
    mut cluster: Cluster,
    node: &str,
    how: HostEndpoints,
) -> Result<(Cluster, Desired), Diagnostics> {
    match compute_with(&cluster, node, how) {
        Ok(desired) => {
            let warnings = how.warnings(&cluster, node, None);
            cluster.base.remarks.0.extend(warnings);
            cluster.base.remarks.sort();
            Ok((cluster, desired))
        }
        Err(errors) => {
            let mut all = cluster.base.remarks;
            all.0.extend(errors);
            all.sort();
            Err(all)
        }
    }
}

/// Says what was found: how many resources there are, unless they are not valid.
pub(super) fn report(remarks: &Diagnostics, resources: Option<usize>, cli: &Cli) -> Exit {
    let exit = if resources.is_some() {
        Exit::Ok
    } else {
        Exit::Invalid
    };
    let text = match cli.output {
        Output::Json => to_json(remarks, resources),
        Output::Table | Output::Wide => to_text(remarks, resources, cli.color_stderr()),
    };
    output::print(&text, exit)
}

fn to_json(remarks: &Diagnostics, resources: Option<usize>) -> String {
    let answer = json!({
        "schema": "caracal.validate/v1",
        "valid": resources.is_some(),
        "resources": resources,
        "diagnostics": remarks.to_json(),
    });
    format!("{answer:#}\n")
}

/// The result; findings, and how many errors there are, go to standard error.
fn to_text(remarks: &Diagnostics, resources: Option<usize>, color: bool) -> String {
    output::remark(&remarks.render(color));
    let warnings = counted(remarks.count(Severity::Warning) as u64, "warning");
    if let Some(count) = resources {
        return format!("{} valid, {warnings}\n", counted(count as u64, "resource"));
    }
    let errors = counted(remarks.count(Severity::Error) as u64, "error");
    output::remark(&format!("\n{errors}, {warnings}\n"));
    String::new()
}
