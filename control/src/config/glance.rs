//! What a directory of resources holds, in a few bytes an entry: enough to see that it changed, not how.
//!
//! Only stat calls, and none of the files is opened. Symlinks are followed, which inotify does not do.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// A directory at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Glance {
    /// Which directory it is; `None`: there is none.
    pub(super) dir: Option<(u64, u64)>,
    /// What is known of each entry that was looked at.
    entries: HashMap<OsString, u64>,
}

impl Glance {
    /// Looks at those entries of a directory whose names concern us.
    pub(super) fn at(dir: &Path, concerns: impl Fn(&OsStr) -> bool) -> Self {
        let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name());
        let names = names.filter(|name| concerns(name));
        Self {
            dir: fs::metadata(dir).ok().map(identity),
            entries: names
                .map(|name| {
                    let hash = hash(&dir.join(&name));
                    (name, hash)
                })
                .collect(),
        }
    }

    /// How many entries were looked at.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Looks again at one entry of the directory.
    pub(super) fn look_at(&mut self, dir: &Path, name: &OsStr) {
        let path = dir.join(name);
        if fs::symlink_metadata(&path).is_ok() {
            self.entries.insert(name.to_owned(), hash(&path));
        } else {
            self.entries.remove(name);
        }
    }
}

fn hash(path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    if let Ok(metadata) = fs::metadata(path) {
        (metadata.dev(), metadata.ino(), metadata.mode()).hash(&mut hasher);
        // Of others neither says that there is something new to read.
        if metadata.is_file() {
            let written = (metadata.mtime(), metadata.mtime_nsec());
            // Whoever copies a file with its times cannot copy this one.
            let changed = (metadata.ctime(), metadata.ctime_nsec());
            (metadata.size(), written, changed).hash(&mut hasher);
        }
    }
    hasher.finish()
}
