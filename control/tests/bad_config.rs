//! Each file in `bad-config/` next to what is said about it: `x.yaml` and `x.expected`.
//!
//! `UPDATE_EXPECTED=1 cargo test -p control --test bad_config` writes the expectations anew; read the difference.

use std::fs;
use std::path::{Path, PathBuf};

use control::config::{Diagnostics, compute, load_paths};

/// All that is said about a file, as node1 sees it.
fn said_about(path: &Path) -> String {
    let (findings, usable) = match load_paths(&[path.to_path_buf()]) {
        Err(findings) => (findings, false),
        Ok(resources) => match compute(&resources, "node1") {
            Ok(_) => (resources.base.remarks, true),
            Err(errors) => {
                let all = resources.base.remarks.0.into_iter().chain(errors).collect();
                (Diagnostics(all), false)
            }
        },
    };
    assert_eq!(findings.has_errors(), !usable, "{}", path.display());
    findings.render(false)
}

#[test]
fn what_is_said_about_bad_files_is_what_was_agreed() {
    let update = std::env::var_os("UPDATE_EXPECTED").is_some();
    let mut files: Vec<PathBuf> = fs::read_dir("tests/bad-config")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension != "expected")
        })
        .collect();
    files.sort();
    assert!(files.len() >= 15, "the cases are missing");
    let mut differing = Vec::new();
    for file in files {
        let said = said_about(&file);
        let expected = file.with_extension("expected");
        if update {
            fs::write(&expected, &said).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != said {
            differing.push(format!("=== {}\n{said}", file.display()));
        }
    }
    assert!(
        differing.is_empty(),
        "said otherwise:\n{}",
        differing.join("\n")
    );
}

#[test]
fn a_directory_is_read_in_the_order_of_names_and_reported_on_at_once() {
    let errors = load_paths(&[PathBuf::from("tests/bad-config")]).unwrap_err();
    let files: Vec<PathBuf> = errors
        .0
        .iter()
        .filter_map(|error| error.at.as_ref().map(|span| span.source.path.clone()))
        .collect();
    assert!(files.is_sorted());
    let first = files.first().unwrap();
    assert!(first.ends_with("addresses.yaml"), "{first:?}");
    assert!(files.iter().any(|file| file.ends_with("pools.yaml")));
    assert!(files.iter().any(|file| file.ends_with("pool.json")));
}

#[test]
fn json_carries_the_same_findings() {
    let path = Path::new("tests/bad-config/pool.json");
    let errors = load_paths(&[path.to_path_buf()]).unwrap_err();
    let json = errors.to_json();
    assert_eq!(json[0]["severity"], "error");
    assert_eq!(json[0]["resource"], "IPPool default");
    assert_eq!(json[0]["at"]["line"], 5);
    assert_eq!(json[0]["at"]["column"], 49);
    assert_eq!(json[0]["at"]["text"], "33");
}
