//! `caracal explain REASON`: what a reason for drops means, and what to do. Needs no daemon.

use fastpath::reason::DropReason;
use serde_json::json;

use super::table::{Align, Table};
use super::{Cli, Exit, Output, output};

/// Arguments of `caracal explain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The reason, as `caracal drops` calls it.
    #[arg(required_unless_present = "list")]
    reason: Option<String>,
    /// All reasons.
    #[arg(long, conflicts_with = "reason")]
    list: bool,
}

pub(super) fn run(args: &Args, cli: &Cli) -> Exit {
    let Some(name) = &args.reason else {
        return output::print(&list(cli.output), Exit::Ok);
    };
    let Some(reason) = DropReason::ALL.iter().find(|reason| reason.name() == name) else {
        let names = DropReason::ALL.iter().map(|reason| reason.name());
        let hint = crate::config::suggest::nearest(name, names)
            .map_or(String::new(), |near| format!("; did you mean {near:?}?"));
        let error = format!("no reason {name:?}{hint} (caracal explain --list)");
        output::complain(&error);
        return Exit::Usage;
    };
    let text = match cli.output {
        Output::Json => {
            let mut value = as_json(*reason);
            value["schema"] = json!("caracal.explain/v1");
            format!("{value:#}\n")
        }
        Output::Table | Output::Wide => explain(*reason),
    };
    output::print(&text, Exit::Ok)
}

fn explain(reason: DropReason) -> String {
    format!(
        "{}  (stage {})\n\n  {}\n\n  What to do: {}\n\n  Where it happens: caracal drops\n",
        reason.name(),
        reason.stage(),
        reason.meaning(),
        reason.advice()
    )
}

fn as_json(reason: DropReason) -> serde_json::Value {
    json!({
        "name": reason.name(),
        "stage": reason.stage(),
        "meaning": reason.meaning(),
        "advice": reason.advice(),
    })
}

fn list(output: Output) -> String {
    let all = DropReason::ALL.iter();
    match output {
        Output::Json => {
            let reasons: Vec<_> = all.map(|reason| as_json(*reason)).collect();
            let value = json!({ "schema": "caracal.explain/v1", "reasons": reasons });
            format!("{value:#}\n")
        }
        Output::Table | Output::Wide => {
            let mut table = Table::new(&[
                ("REASON", Align::Left),
                ("STAGE", Align::Left),
                ("MEANING", Align::Left),
            ]);
            for reason in all {
                table.push(&[reason.name(), reason.stage(), reason.meaning()].map(str::to_owned));
            }
            table.to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_explained_and_listed() {
        let all = list(Output::Table);
        for &reason in DropReason::ALL {
            let text = explain(reason);
            assert!(text.contains(reason.meaning()) && text.contains(reason.advice()));
            assert!(all.lines().any(|line| line.starts_with(reason.name())));
        }
        assert_eq!(all.lines().count(), DropReason::COUNT + 1);
    }
}
