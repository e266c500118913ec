//! Words that have no place in a finished tree.

use crate::files::texts;

/// Each with why it must not be there. Spelt in two parts, so that this file passes.
const FORBIDDEN: &[(&str, &str)] = &[
    (concat!("TO", "DO"), "do it, or open an issue"),
    (concat!("FIX", "ME"), "do it, or open an issue"),
    (concat!("todo", "!("), "finish it"),
    (concat!("unimplemented", "!("), "finish it"),
    (concat!("/wo", "rk/"), "a path of one machine"),
    (concat!("/ro", "ot/"), "a path of one machine"),
    (concat!("/tmp/", "bash_jobs"), "a path of one machine"),
];

#[test]
fn no_unfinished_work_and_no_path_of_one_machine() {
    let mut found = Vec::new();
    for text in texts() {
        for (number, line) in text.lines() {
            for (word, why) in FORBIDDEN {
                if line.contains(word) {
                    found.push(format!("{}:{number}: {word}: {why}", text.path.display()));
                }
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn no_lint_is_silenced_without_a_reason() {
    let mut found = Vec::new();
    for text in texts().iter().filter(|text| text.is("rs")) {
        for (number, line) in text.lines() {
            let line = line.trim_start();
            let silences = ["#[allow(", "#![allow("]
                .iter()
                .any(|start| line.starts_with(start));
            if silences {
                found.push(format!("{}:{number}: {line}", text.path.display()));
            }
        }
    }
    assert!(
        found.is_empty(),
        "use #[expect(…, reason = \"…\")]:\n{}",
        found.join("\n")
    );
}

#[test]
fn an_ignored_test_is_a_part_of_another_that_runs_it() {
    let mark = concat!("#[", "ignore");
    let mut found = Vec::new();
    for text in texts().iter().filter(|text| text.is("rs")) {
        for (number, line) in text.lines() {
            let is_part = line.contains("run ") && line.contains(" by ");
            if line.trim_start().starts_with(mark) && !is_part {
                found.push(format!("{}:{number}: {line}", text.path.display()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
