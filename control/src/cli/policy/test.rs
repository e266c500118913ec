//! `caracal policy test`: packets, and what should become of them.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Cli, Exit};
use crate::cli::table::one_line;
use crate::cli::{Output, output};
use crate::config::{self, Diagnostics};
use crate::policy::report;
use crate::policy::testing::{Check, Suite};
use crate::policy::verdict::Verdict;
use crate::words::{counted, number};

/// Arguments of `caracal policy test`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Files of tests: PolicyTest documents with resources, or cases in the calculated form (docs/policy-test.md); `-`: standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Show tests that are met, too.
    #[arg(short, long)]
    verbose: bool,
}

pub(super) fn run(args: &Args, cli: &Cli) -> Exit {
    let mut findings = Diagnostics::default();
    let mut suites = Vec::new();
    for path in &args.files {
        match Suite::load(path) {
            Ok(mut suite) => {
                findings.0.append(&mut suite.remarks.0);
                suites.push((config::name(path), suite));
            }
            Err(mut errors) => findings.0.append(&mut errors.0),
        }
    }
    let is_valid = !findings.has_errors();
    // Nothing is judged while a part of the input is not understood.
    let results = if is_valid { judge(&suites) } else { Vec::new() };
    let failed = results.iter().filter(|result| !result.is_met()).count();
    let text = match cli.output {
        Output::Json => to_json(&results, &findings, is_valid),
        Output::Table | Output::Wide => to_text(&results, &findings, is_valid, args, cli),
    };
    let exit = match (is_valid, failed) {
        (false, _) => Exit::Invalid,
        (true, 0) => Exit::Ok,
        (true, _) => Exit::Failure,
    };
    output::print(&text, exit)
}

/// One test and what came out.
struct TestResult<'s> {
    file: &'s Path,
    group: &'s str,
    check: &'s Check,
    verdict: Verdict,
}

impl TestResult<'_> {
    fn is_met(&self) -> bool {
        self.check.is_met_by(&self.verdict)
    }
}

fn judge<'s>(suites: &'s [(&'s Path, Suite)]) -> Vec<TestResult<'s>> {
    let mut results = Vec::new();
    for (file, suite) in suites {
        for group in &suite.groups {
            results.extend(group.checks.iter().map(|check| TestResult {
                file,
                group: &group.name,
                check,
                verdict: check.run(&group.model),
            }));
        }
    }
    results
}

fn to_json(results: &[TestResult<'_>], findings: &Diagnostics, is_valid: bool) -> String {
    let failed = results.iter().filter(|result| !result.is_met()).count();
    let answer = json!({
        "schema": "caracal.policy-test/v1",
        "valid": is_valid,
        "passed": results.len() - failed,
        "failed": failed,
        "tests": results.iter().map(test_json).collect::<Vec<_>>(),
        "diagnostics": findings.to_json(),
    });
    format!("{answer:#}\n")
}

fn test_json(result: &TestResult<'_>) -> Value {
    let check = result.check;
    let (line, column) = check.at.line_and_column();
    json!({
        "file": result.file.display().to_string(),
        "line": line,
        "column": column,
        "group": result.group,
        "name": check.name,
        "way": check.way,
        "packet": check.packet.to_string(),
        "expected": check.expected.as_str(),
        "expectedDecidedBy": check.decided_by,
        "met": result.is_met(),
        "verdict": report::verdict(&result.verdict),
    })
}

/// The result; findings go to standard error.
fn to_text(
    results: &[TestResult<'_>],
    findings: &Diagnostics,
    is_valid: bool,
    args: &Args,
    cli: &Cli,
) -> String {
    output::remark(&findings.render(cli.color_stderr()));
    if !is_valid {
        return String::new();
    }
    let failed = results.iter().filter(|result| !result.is_met()).count();
    let shown = results.iter().filter(|it| args.verbose || !it.is_met());
    let mut lines: Vec<String> = shown.map(describe).collect();
    let passed = counted((results.len() - failed) as u64, "verdict");
    lines.push(if failed == 0 {
        format!("{passed} as expected\n")
    } else {
        format!("{passed} as expected, {} not\n", number(failed as u64))
    });
    lines.join("\n")
}

/// A test and its verdict, for people.
fn describe(result: &TestResult<'_>) -> String {
    let (check, verdict) = (result.check, &result.verdict);
    let (line, column) = check.at.line_and_column();
    let mut titles = vec![result.group, check.name.as_str(), check.way.as_str()];
    titles.retain(|title| !title.is_empty());
    let title = titles.join(": ");
    let (expected, outcome) = (check.expected.as_str(), verdict.outcome.as_str());
    let mut lines = vec![if result.is_met() {
        format!("ok    {title}: {outcome}")
    } else if verdict.outcome == check.expected {
        let wanted = check.decided_by.as_deref().unwrap_or_default();
        format!("FAIL  {title}: {outcome} as expected, but not decided by `{wanted}`")
    } else {
        format!("FAIL  {title}: expected {expected}, got {outcome}")
    }];
    lines.push(format!("      packet:     {}", check.packet));
    lines.push(match verdict.decided_by() {
        Some(by) => format!("      decided by: {}: {}", by.leg, by.reason),
        None => "      decided by: no endpoint stands in the way".to_owned(),
    });
    let logs = verdict.logs.iter();
    lines.extend(logs.map(|rule| format!("      logged by:  {rule}")));
    let staged = verdict.staged.iter();
    lines.extend(staged.map(|staged| {
        let (outcome, policy) = (staged.outcome.as_str(), &staged.policy);
        format!("      staged:     {outcome}, were {policy} enforced")
    }));
    let file = result.file.display();
    lines.push(format!("      test:       {file}:{line}:{column}"));
    let lines: Vec<String> = lines.iter().map(|line| one_line(line)).collect();
    lines.join("\n")
}
