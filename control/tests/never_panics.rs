//! Whatever is in a file, loading it ends with resources or with findings, never with a panic.

use std::fs;

use control::config::{DaemonConfig, Source, compute, load_sources};
use control::policy::testing::Suite;
use control::policy::{calculate, resource};
use proptest::prelude::*;

/// One change to a text.
#[derive(Clone, Debug)]
enum Change {
    Insert(usize, String),
    Remove(usize, usize),
    Repeat(usize, usize, usize),
    Swap(usize, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let scraps = prop::sample::select(vec![
        ":",
        "- ",
        "\n",
        "\t",
        "{",
        "}",
        "[",
        "]",
        "\"",
        "'",
        "&a ",
        "*a",
        "<<: *a",
        "---\n",
        "|\n",
        ">-\n",
        "!!int ",
        "!x ",
        "null",
        "~",
        "0x",
        "-1",
        "1e9",
        "99999999999999999999999999999999999999999",
        "é",
        "\u{0}",
        "\u{feff}",
        "10.0.0.0/8",
        "::/0",
        "kind: List",
        "items:",
        "? ",
        "%YAML 1.1\n",
        "...\n",
        "#",
        ",",
        "\r",
    ]);
    prop_oneof![
        (any::<usize>(), scraps).prop_map(|(at, text)| Change::Insert(at, text.to_owned())),
        (any::<usize>(), 1..40usize).prop_map(|(at, len)| Change::Remove(at, len)),
        (any::<usize>(), 1..80usize, 1..5usize).prop_map(|(at, len, n)| Change::Repeat(at, len, n)),
        (any::<usize>(), any::<usize>()).prop_map(|(a, b)| Change::Swap(a, b)),
    ]
}

fn apply(text: &str, change: &Change) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    let count = chars.len().max(1);
    match change {
        Change::Insert(at, scrap) => {
            let at = at % count;
            chars.splice(at..at, scrap.chars());
        }
        Change::Remove(at, len) => {
            let start = (at % count).min(chars.len());
            let end = (start + len).min(chars.len());
            chars.drain(start..end);
        }
        Change::Repeat(at, len, times) => {
            let start = (at % count).min(chars.len());
            let end = (start + len).min(chars.len());
            let piece: Vec<char> = chars[start..end].repeat(*times);
            chars.splice(end..end, piece);
        }
        Change::Swap(a, b) => {
            if !chars.is_empty() {
                chars.swap(a % count, b % count);
            }
        }
    }
    chars.into_iter().collect()
}

fn seeds() -> Vec<String> {
    let mut seeds = Vec::new();
    for dir in [
        "tests/bad-config",
        "tests/bad-policy",
        "examples/conf.d",
        "examples/policy",
        "examples",
    ] {
        let mut files: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        seeds.extend(
            files
                .into_iter()
                .filter(|file| file.is_file() && file.extension().is_some_and(|e| e != "expected"))
                // The bomb is slow to refuse in a debug build.
                .filter(|file| !file.ends_with("alias-bomb.yaml"))
                .map(|file| String::from_utf8_lossy(&fs::read(file).unwrap()).into_owned()),
        );
    }
    seeds
}

/// Loads a text in every way and shows all that is said about it.
fn load(text: &str) {
    let source = Source::new("a.yaml", text);
    match load_sources(std::slice::from_ref(&source)) {
        Ok(resources) => {
            assert!(!resources.base.remarks.has_errors());
            let _ = resources.base.remarks.render(true);
            for node in ["node1", "worker1"] {
                if let Err(errors) = compute(&resources, node) {
                    assert!(!errors.is_empty());
                }
            }
        }
        Err(findings) => {
            assert!(findings.has_errors());
            assert!(!findings.render(true).is_empty());
            let _ = findings.to_json();
        }
    }
    if let Err(findings) = DaemonConfig::parse(&source) {
        assert!(findings.has_errors());
        let _ = findings.render(false);
    }
    let policy = resource::load_sources(std::slice::from_ref(&source));
    if let Err(findings) = policy.and_then(|resources| calculate(&resources)) {
        assert!(findings.has_errors());
        let _ = findings.render(false);
    }
    match Suite::parse(&source) {
        Ok(suite) => {
            for group in &suite.groups {
                for check in &group.checks {
                    let _ = check.run(&group.model);
                }
            }
        }
        Err(findings) => {
            assert!(findings.has_errors());
            let _ = findings.render(false);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn mutated_files_never_panic(
        seed in prop::sample::select(seeds()),
        changes in prop::collection::vec(change(), 1..12),
    ) {
        load(&changes.iter().fold(seed, |text, change| apply(&text, change)));
    }

    #[test]
    fn arbitrary_text_never_panics(text in any::<String>()) {
        load(&text);
    }
}

#[test]
fn files_cut_anywhere_never_panic() {
    let text = fs::read_to_string("examples/conf.d/cluster.yaml").unwrap();
    for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
        load(&text[..end]);
    }
}
