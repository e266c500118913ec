//! Which entries of a directory hold resources.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::diagnostic::Diagnostic;

/// The endings of names that are read.
const READ: [&str; 3] = ["yaml", "yml", "json"];

/// What a path stands for.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Files {
    /// To be read, in the order of their names.
    pub(super) read: Vec<PathBuf>,
    /// Entries of the directory that are left out, though somebody may have meant them to count.
    pub(super) skipped: Vec<PathBuf>,
}

/// A file, or what a directory holds.
pub(super) fn of(path: &Path) -> std::io::Result<Files> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(Files {
            read: vec![path.to_path_buf()],
            skipped: Vec::new(),
        });
    }
    let mut files = Files::default();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let (name, file) = (entry.file_name(), entry.path());
        if is_scratch(&name) {
            continue;
        }
        if is_read(&name) && !is_dir(&entry) {
            files.read.push(file);
        } else {
            files.skipped.push(file);
        }
    }
    // All have one parent.
    files
        .read
        .sort_by(|one, other| one.as_os_str().cmp(other.as_os_str()));
    files.skipped.sort();
    Ok(files)
}

/// Whether an entry is a directory, or a symlink to one. Only of a symlink the system must be asked.
fn is_dir(entry: &fs::DirEntry) -> bool {
    match entry.file_type() {
        Ok(kind) if !kind.is_symlink() => kind.is_dir(),
        _ => entry.path().is_dir(),
    }
}

/// Whether a file of this name is read.
pub(super) fn is_read(name: &OsStr) -> bool {
    let extension = Path::new(name).extension();
    !is_scratch(name) && extension.is_some_and(|extension| READ.iter().any(|it| extension == *it))
}

/// Whether a name is nobody's configuration: dot-files, and what editors leave.
pub(super) fn is_scratch(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with('.') || name.ends_with('~') || name.starts_with('#') && name.ends_with('#')
}

/// Says that a directory has nothing to read: it may not be the one that was meant.
pub(super) fn nothing(dir: &Path) -> Diagnostic {
    let dir = dir.display();
    Diagnostic::warning(format!("{dir}: no `*.yaml`, `*.yml` or `*.json` here"))
}

/// Says that an entry does not count: a policy in a file that nobody reads is a hole.
pub(super) fn warning(skipped: &Path) -> Diagnostic {
    let what = if skipped.is_dir() {
        "this directory"
    } else {
        "this file"
    };
    Diagnostic::warning(format!("{}: {what} is not read", skipped.display())).help(
        "of a directory `*.yaml`, `*.yml` and `*.json` are read, in small letters, and nothing below it; rename it, or move it away",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_neither_read_nor_scratch_is_named() {
        let dir = std::env::temp_dir().join(format!("caracal-files-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("more.yaml")).unwrap();
        fs::create_dir(dir.join("..2026_01_01")).unwrap();
        let read = ["a.yaml", "b.yml", "c.json"];
        let skipped = ["README", "d.YAML", "e.yaml.bak", "f.yaml.txt", "g.toml"];
        let scratch = [".a.yaml.swp", "a.yaml~", "#a.yaml#"];
        for name in read.iter().chain(&skipped).chain(&scratch) {
            fs::write(dir.join(name), "").unwrap();
        }
        std::os::unix::fs::symlink("..2026_01_01", dir.join("..data")).unwrap();
        let files = of(&dir).unwrap();
        let _ = fs::remove_dir_all(&dir);
        let paths = |names: &[&str]| names.iter().map(|name| dir.join(name)).collect::<Vec<_>>();
        assert_eq!(files.read, paths(&read));
        let mut named = paths(&skipped);
        named.push(dir.join("more.yaml"));
        assert_eq!(files.skipped, named);
    }
}
