//! `caracal node checksystem`: what the machine lacks for the daemon, or has in its way.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::super::table::one_line;
use super::super::{Cli, Exit, Output, ask, output};
use crate::node::{Asked, DEFAULT_CONFIG, Finding, State, checksystem};
use crate::words::counted;

/// Arguments of `caracal node checksystem`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The daemon's own file [default: /etc/caracal/caracal.yaml].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Look at this interface as an uplink, instead of those that the file names; may be repeated.
    #[arg(short, long = "interface", value_name = "NAME")]
    interfaces: Vec<String>,
}

pub(in super::super) fn run(args: &Args, cli: &Cli) -> Exit {
    let findings = checksystem(&Asked {
        config: args.config.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG)),
        by_name: args.config.is_some(),
        interfaces: &args.interfaces,
    });
    let text = match cli.output {
        Output::Json => to_json(&findings),
        Output::Table | Output::Wide => to_text(&findings),
    };
    output::print(&text, exit(&findings))
}

/// The worst of all.
fn worst(findings: &[Finding]) -> State {
    findings
        .iter()
        .map(|it| it.state)
        .max()
        .unwrap_or(State::Ok)
}

fn exit(findings: &[Finding]) -> Exit {
    match worst(findings) {
        State::Ok => Exit::Ok,
        State::Warn => Exit::Degraded,
        State::Missing => Exit::Failure,
    }
}

fn count(findings: &[Finding], state: State) -> u64 {
    findings.iter().filter(|it| it.state == state).count() as u64
}

fn to_json(findings: &[Finding]) -> String {
    let one = |it: &Finding| json!({ "check": it.check, "of": it.of, "state": it.state.as_str(), "found": it.found, "todo": it.todo });
    let checks: Vec<Value> = findings.iter().map(one).collect();
    let answer = json!({
        "usable": worst(findings) != State::Missing,
        "warnings": count(findings, State::Warn),
        "missing": count(findings, State::Missing),
        "checks": checks,
    });
    ask::to_json("caracal.checksystem/v1", &answer)
}

fn to_text(findings: &[Finding]) -> String {
    let name = |it: &Finding| {
        let of = it.of.as_ref().map(|of| format!(" {of}"));
        one_line(&format!("{}{}", it.check, of.unwrap_or_default()))
    };
    let width = findings.iter().map(|it| name(it).chars().count()).max();
    let width = width.unwrap_or_default();
    let mut text = String::new();
    // Writing to a String cannot fail.
    for it in findings {
        let state = match it.state {
            State::Ok => "OK",
            State::Warn => "WARN",
            State::Missing => "MISSING",
        };
        let _ = writeln!(
            text,
            "{state:<7}  {:<width$}  {}",
            name(it),
            one_line(&it.found)
        );
        if let Some(todo) = &it.todo {
            let _ = writeln!(text, "{:<7}  {:<width$}  -> {}", "", "", one_line(todo));
        }
    }
    let warnings = counted(count(findings, State::Warn), "warning");
    let missing = count(findings, State::Missing);
    let result = match worst(findings) {
        State::Ok => "usable".to_owned(),
        State::Warn => format!("usable, {warnings}"),
        State::Missing => format!("not usable: {missing} missing, {warnings}"),
    };
    let _ = writeln!(text, "Result: {result}");
    text
}

#[cfg(test)]
mod tests {
    use super::super::super::golden;
    use super::*;

    fn finding(check: &'static str, of: Option<&str>, state: State, found: &str) -> Finding {
        Finding {
            check,
            of: of.map(str::to_owned),
            state,
            found: found.to_owned(),
            todo: (state != State::Ok).then(|| "`do it`".to_owned()),
        }
    }

    fn findings() -> Vec<Finding> {
        vec![
            finding("kernel", None, State::Ok, "Linux 6.18.44"),
            finding(
                "uplink",
                Some("ens1f0"),
                State::Ok,
                "driver ice, 4 queues for 2 pollers, MTU 1500, native XDP, no zero-copy",
            ),
            finding(
                "uplink-program",
                Some("ens1f0"),
                State::Missing,
                "held by another XDP program \"x\u{1b}\" (id 7)",
            ),
            finding(
                "irqbalance",
                None,
                State::Warn,
                "runs (pid 812), and moves interrupts to the pollers' cores",
            ),
        ]
    }

    #[test]
    fn for_people_and_for_programs() {
        golden::check("checksystem.txt", &to_text(&findings()));
        golden::check("checksystem.json", &to_json(&findings()));
    }

    #[test]
    fn the_worst_decides() {
        let mut all = findings();
        assert_eq!(exit(&all), Exit::Failure);
        all.remove(2);
        assert_eq!(exit(&all), Exit::Degraded);
        assert!(to_text(&all).ends_with("Result: usable, 1 warning\n"));
        all.pop();
        assert_eq!(exit(&all), Exit::Ok);
        assert!(to_text(&all).ends_with("Result: usable\n"));
        assert_eq!(exit(&[]), Exit::Ok);
    }
}
