//! Each file in `bad-policy/` next to what is said about it: `x.yaml` and `x.expected`. Files that end in
//! `.test.yaml` or `.json` are read as tests, the others as resources.
//!
//! `UPDATE_EXPECTED=1 cargo test -p control --test bad_policy` writes the expectations anew; read the difference.

use std::fs;
use std::path::{Path, PathBuf};

use control::config::Diagnostics;
use control::policy::testing::Suite;
use control::policy::{calculate, resource};

fn said_about(path: &Path) -> Diagnostics {
    let name = path.to_string_lossy();
    if name.ends_with(".test.yaml") || name.ends_with(".json") {
        return match Suite::load(path) {
            Ok(suite) => suite.remarks,
            Err(errors) => errors,
        };
    }
    let resources = match resource::load_paths(&[path.to_path_buf()]) {
        Ok(resources) => resources,
        Err(errors) => return errors,
    };
    let mut all = resources.base.remarks.clone();
    match calculate(&resources) {
        Ok((_, more)) | Err(more) => all.0.extend(more.0),
    }
    all.sort();
    all
}

#[test]
fn what_is_said_about_bad_policies_is_what_was_agreed() {
    let update = std::env::var_os("UPDATE_EXPECTED").is_some();
    let mut files: Vec<PathBuf> = fs::read_dir("tests/bad-policy")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension != "expected")
        })
        .collect();
    files.sort();
    assert!(files.len() >= 8, "the cases are missing");
    let mut differing = Vec::new();
    for file in files {
        let findings = said_about(&file);
        let only_warnings = file.ends_with("warnings.yaml");
        assert_ne!(findings.has_errors(), only_warnings, "{}", file.display());
        let said = findings.render(false);
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
