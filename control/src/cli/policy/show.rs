//! `caracal policy show`: what applies to an endpoint, in order. Of the running daemon, with what each rule has decided; or of
//! files, offline.

use std::path::PathBuf;

use super::{Cli, Exit};
use crate::api::report::PolicyShown;
use crate::api::{EndpointParams, Method};
use crate::cli::{Output, ask, output};
use crate::config::{Diagnostic, Diagnostics};
use crate::policy::calculate;
use crate::policy::resource::load_paths;
use crate::policy::show::{self, Shown, to_json, to_text};
use crate::policy::testing::find_workload;

/// Arguments of `caracal policy show`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The endpoint: `namespace/pod`, the name of a WorkloadEndpoint or that of a HostEndpoint.
    #[arg(long, value_name = "NAME")]
    endpoint: String,
    /// File or directory of resources; `-`: standard input; may be repeated. Without any the daemon is asked.
    #[arg(short, long = "filename", value_name = "FILE|DIR")]
    filename: Vec<PathBuf>,
}

pub(super) fn run(args: &Args, cli: &Cli) -> Exit {
    if args.filename.is_empty() {
        return live(args, cli);
    }
    match shown(args) {
        Ok((remarks, shown)) => {
            let text = match cli.output {
                Output::Json => format!("{:#}\n", to_json(&shown)),
                Output::Table | Output::Wide => {
                    output::remark(&remarks.render(cli.color_stderr()));
                    to_text(&shown)
                }
            };
            output::print(&text, Exit::Ok)
        }
        Err((errors, exit)) => {
            output::remark(&errors.render(cli.color_stderr()));
            exit
        }
    }
}

fn live(args: &Args, cli: &Cli) -> Exit {
    let params = EndpointParams {
        endpoint: args.endpoint.clone(),
    };
    match ask::ask::<PolicyShown>(cli, Method::Policy(params)) {
        Ok(shown) => {
            let text = match cli.output {
                Output::Json => format!("{:#}\n", shown.policy),
                Output::Table | Output::Wide => shown.text,
            };
            output::print(&text, Exit::Ok)
        }
        Err(exit) => exit,
    }
}

fn shown(args: &Args) -> Result<(Diagnostics, Shown), (Diagnostics, Exit)> {
    let invalid = |errors| (errors, Exit::Invalid);
    let resources = load_paths(&args.filename).map_err(invalid)?;
    let (model, remarks) = calculate(&resources).map_err(invalid)?;
    if let Some(host) = model.host_endpoints.get(&args.endpoint) {
        return Ok((remarks, show::host(&model, &args.endpoint, host)));
    }
    let id = find_workload(&resources, &model, &args.endpoint).map_err(|(message, label)| {
        let error = Diagnostic::error(message).help(label);
        (Diagnostics(vec![error]), Exit::Failure)
    })?;
    let shown = show::workload(&model, &id, &|_, _| None);
    let shown = shown.ok_or_else(|| {
        let error = Diagnostic::error(format!("unknown endpoint `{id}`"));
        (Diagnostics(vec![error]), Exit::Failure)
    })?;
    Ok((remarks, shown))
}
