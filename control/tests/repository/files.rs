//! The text files of the repository.

use std::fs;
use std::path::{Path, PathBuf};

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace")
}

/// A text file: its path below the root, and what it says.
pub(crate) struct Text {
    pub(crate) path: PathBuf,
    pub(crate) content: String,
}

impl Text {
    /// Whether it has this extension.
    pub(crate) fn is(&self, extension: &str) -> bool {
        self.path.extension().is_some_and(|have| have == extension)
    }

    /// Its lines, numbered from 1.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.content
            .lines()
            .enumerate()
            .map(|(at, line)| (at + 1, line))
    }
}

/// Every text file of the repository, `Cargo.lock` and whatever is built left out.
pub(crate) fn texts() -> Vec<Text> {
    let mut found = Vec::new();
    walk(root(), &mut found);
    assert!(found.len() > 100, "only {} files found", found.len());
    found
}

fn walk(directory: &Path, found: &mut Vec<Text>) {
    let entries = fs::read_dir(directory).expect("a readable directory");
    for entry in entries {
        let entry = entry.expect("a readable directory");
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if matches!(&*name, ".git" | "Cargo.lock" | "target") || name.starts_with("target-") {
            continue;
        }
        let path = entry.path();
        let kind = entry.file_type().expect("a kind of file");
        if kind.is_dir() {
            walk(&path, found);
        } else if kind.is_file()
            && let Ok(content) = fs::read_to_string(&path)
        {
            let path = path.strip_prefix(root()).expect("below the root").into();
            found.push(Text { path, content });
        }
    }
}
