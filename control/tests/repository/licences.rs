//! Licences of dependencies, where cargo-deny is not installed to look at them.

use std::process::Command;

use serde_json::Value;

use crate::files::root;

#[test]
fn every_dependency_has_a_licence_and_a_source_that_we_accept() {
    let accepted = accepted();
    let mut refused = Vec::new();
    let packages = packages();
    assert!(packages.len() > 20, "only {} packages", packages.len());
    for package in &packages {
        let name = package["name"].as_str().unwrap_or_default();
        let licence = package["license"].as_str().unwrap_or_default();
        if !satisfies(licence, &accepted) {
            refused.push(format!("{name}: licence {licence:?}"));
        }
        // Packages of this workspace have no source.
        if let Some(source) = package["source"].as_str()
            && source != "registry+https://github.com/rust-lang/crates.io-index"
        {
            refused.push(format!("{name}: source {source}"));
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

#[test]
fn licence_expressions_are_understood() {
    let accepted = ["MIT".to_owned(), "BSD-3-Clause".to_owned()];
    for (expression, is_accepted) in [
        ("MIT", true),
        ("GPL-3.0-only", false),
        ("MIT OR GPL-3.0-only", true),
        ("GPL-3.0-only/MIT", true),
        ("MIT AND GPL-3.0-only", false),
        ("(GPL-3.0-only OR MIT) AND BSD-3-Clause", true),
        ("GPL-3.0-only OR (MIT AND ISC)", false),
        ("", false),
    ] {
        assert_eq!(
            satisfies(expression, &accepted),
            is_accepted,
            "{expression:?}"
        );
    }
}

/// The packages that the workspace is built of, on the platforms it is built for.
fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--offline"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .expect("cargo starts");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let used: Vec<String> = metadata["resolve"]["nodes"]
        .as_array()
        .expect("a resolved graph")
        .iter()
        .filter_map(|node| node["id"].as_str().map(str::to_owned))
        .collect();
    let Value::Array(mut packages) = metadata["packages"].take() else {
        panic!("no packages");
    };
    packages.retain(|package| {
        package["id"]
            .as_str()
            .is_some_and(|id| used.iter().any(|used| used == id))
    });
    packages
}

/// The list `allow` of `.ci/deny.toml`.
fn accepted() -> Vec<String> {
    let text = std::fs::read_to_string(root().join(".ci/deny.toml")).expect("deny.toml");
    let list = text
        .split_once("\nallow = [")
        .and_then(|(_, rest)| rest.split_once(']'))
        .map(|(list, _)| list)
        .expect("a list of licences");
    list.split('"')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// Whether an SPDX expression can be met with the accepted licences. `AND` binds closer than `OR`.
fn satisfies(expression: &str, accepted: &[String]) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    let met = any_of(&mut words, accepted);
    met && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(words: &mut Words<'_>, accepted: &[String]) -> bool {
    let mut met = all_of(words, accepted);
    while words.next_if_eq(&"OR").is_some() {
        met |= all_of(words, accepted);
    }
    met
}

fn all_of(words: &mut Words<'_>, accepted: &[String]) -> bool {
    let mut met = one(words, accepted);
    while words.next_if_eq(&"AND").is_some() {
        met &= one(words, accepted);
    }
    met
}

fn one(words: &mut Words<'_>, accepted: &[String]) -> bool {
    if words.next_if_eq(&"(").is_some() {
        let met = any_of(words, accepted);
        return words.next_if_eq(&")").is_some() && met;
    }
    let licence = words.next().unwrap_or_default();
    if words.next_if_eq(&"WITH").is_some() {
        words.next();
    }
    accepted.iter().any(|name| name == licence)
}
