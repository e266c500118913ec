//! `caracal policy` as a user runs it: no daemon, no root.
//!
//! `UPDATE_EXPECTED=1 cargo test -p control --test policy` writes the expected outputs anew; read the difference.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn policy(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_caracal"))
        .arg("policy")
        .args(args)
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn same_as(name: &str, text: &str) {
    let path = Path::new("tests/golden").join(name);
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "if this is meant: UPDATE_EXPECTED=1");
}

const CASES: &str = "tests/policy-cases/cases.json";
const SHOP: &str = "examples/policy/shop.test.yaml";
const WRONG: &str = "tests/policy-tests/wrong.yaml";

#[test]
fn calicos_cases_and_the_example_pass_together() {
    let output = policy(&["test", CASES, SHOP]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(stdout(&output), "213 verdicts as expected\n");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn what_is_not_as_expected_names_what_decided() {
    let output = policy(&["test", WRONG]);
    assert_eq!(output.status.code(), Some(1));
    same_as("policy-test.txt", &stdout(&output));
    let output = policy(&["test", "--verbose", WRONG]);
    same_as("policy-test-verbose.txt", &stdout(&output));
}

#[test]
fn json_says_the_same() {
    let output = policy(&["test", WRONG, "-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["schema"], "caracal.policy-test/v1");
    assert_eq!(answer["valid"], true);
    let tests = answer["tests"].as_array().unwrap();
    let met = tests.iter().filter(|test| test["met"] == true).count();
    assert_eq!(answer["passed"], met);
    assert_eq!(answer["failed"], tests.len() - met);
    same_as("policy-test.json", &stdout(&output));
}

#[test]
fn nothing_is_judged_while_a_part_of_the_input_is_bad() {
    for output in ["table", "json"] {
        let output = policy(&["test", SHOP, "tests/bad-policy/cases.json", "-o", output]);
        assert_eq!(output.status.code(), Some(3));
        let said = stdout(&output);
        if said.is_empty() {
            let expected = std::fs::read_to_string("tests/bad-policy/cases.expected").unwrap();
            assert_eq!(String::from_utf8(output.stderr).unwrap(), expected);
        } else {
            let answer: Value = serde_json::from_str(&said).unwrap();
            assert_eq!(answer["valid"], false);
            assert_eq!(answer["tests"], Value::Array(Vec::new()));
            assert!(
                answer["diagnostics"]
                    .as_array()
                    .is_some_and(|list| list.len() > 5)
            );
        }
    }
    assert_eq!(policy(&["test", "no/such/file"]).status.code(), Some(3));
    assert_eq!(policy(&["test"]).status.code(), Some(2));
}

#[test]
fn a_case_that_is_changed_fails() {
    let text = std::fs::read_to_string(CASES).unwrap();
    let wrong = text.replacen("\"end_action\": \"deny\"", "\"end_action\": \"pass\"", 200);
    let wrong = wrong.replace("\"action\": \"allow\"", "\"action\": \"deny\"");
    let path = std::env::temp_dir().join(format!("caracal-cases-{}.json", std::process::id()));
    std::fs::write(&path, wrong).unwrap();
    let output = policy(&["test", path.to_str().unwrap()]);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("expected Allow, got Deny"));
}

#[test]
fn what_applies_to_an_endpoint_is_shown_in_order() {
    let files = [
        "-f",
        "examples/policy/shop.yaml",
        "-f",
        "examples/policy/policies.yaml",
    ];
    for (name, file) in [
        ("shop/backend", "policy-show.txt"),
        ("frontend", "policy-show-staged.txt"),
        ("worker1-eth0", "policy-show-host.txt"),
    ] {
        let output = policy(&[&["show", "--endpoint", name], &files[..]].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        same_as(file, &stdout(&output));
    }
    let output = policy(
        &[
            &["show", "--endpoint", "shop/backend", "-o", "json"],
            &files[..],
        ]
        .concat(),
    );
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["schema"], "caracal.policy-show/v1");
    assert_eq!(
        answer["chains"][0]["tiers"][1]["policies"][0]["rules"][1]["line"],
        64
    );
}

#[test]
fn an_endpoint_that_is_not_there_has_a_neighbour() {
    let output = policy(&["show", "--endpoint", "shop/backed", "-f", "examples/policy"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        said,
        "error: unknown endpoint `shop/backed`\n   = did you mean `shop/backend`?\n"
    );
}

#[test]
fn policies_are_validated_without_tests() {
    let output = policy(&["validate", "-f", "examples/policy"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(stdout(&output), "16 resources valid, 0 warnings\n");
    let output = policy(&[
        "validate",
        "-f",
        "tests/bad-policy/tiers.yaml",
        "-o",
        "json",
    ]);
    assert_eq!(output.status.code(), Some(3));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (
            &answer["valid"],
            answer["diagnostics"].as_array().map(Vec::len)
        ),
        (&Value::Bool(false), Some(2))
    );
}

#[test]
fn host_endpoints_of_the_node_are_enforced_unless_the_operator_says_otherwise() {
    let validate = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_caracal"))
            .args(["validate", "-f", "tests/policy-tests/hosts.yaml"])
            .args(arguments)
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, said) = validate(&[]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = validate(&["--node=node1"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("a host endpoint"), "{said}");
    let enforced = validate(&["--node=node1", "--host-endpoints=enforced"]);
    assert_eq!(enforced, (code, said));
    let (code, said) = validate(&["--node=node1", "--host-endpoints=refuse"]);
    assert_eq!(code, Some(3), "{said}");
    for part in [
        "a host endpoint of this node, and `hostEndpoints: refuse`",
        "tests/policy-tests/hosts.yaml:14:14",
        "set `hostEndpoints: enforced` in caracal.yaml",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let (code, said) = validate(&["--node=node1", "--host-endpoints=forwarded-only"]);
    assert_eq!(code, Some(0), "{said}");
    let message = "warning: a host endpoint is enforced on forwarded traffic only";
    // One each, and none of the other node's.
    assert_eq!(said.matches(message).count(), 2, "{said}");
    assert_eq!(
        said.matches("of its doNotTrack policies").count(),
        1,
        "{said}"
    );
    let (code, said) = validate(&["--node=node2"]);
    assert_eq!(code, Some(0), "{said}");
    // Without a node there is nobody whose they could be.
    assert_eq!(validate(&["--host-endpoints=forwarded-only"]).0, Some(2));
}
