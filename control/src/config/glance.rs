//! What a directory of resources holds, in a few bytes: enough to see that it changed, not how.
//!
//! Only stat calls, and none of the files is opened. Symlinks are followed, which inotify does not do.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// A directory at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Glance {
    /// Which directory it is; `None`: there is none.
    pub(super) dir: Option<(u64, u64)>,
    /// How many entries were looked at.
    pub(super) entries: u32,
    /// The sum of all entries' hashes: their order is the file system's and means nothing.
    files: u64,
}

impl Glance {
    /// Looks at those entries of a directory whose names concern us.
    pub(super) fn at(dir: &Path, concerns: impl Fn(&OsStr) -> bool) -> Self {
        let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
        let mut glance = Self {
            dir: fs::metadata(dir).ok().map(identity),
            ..Self::default()
        };
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if concerns(&name) {
                glance.entries += 1;
                glance.files = glance.files.wrapping_add(hash(&name, &entry.path()));
            }
        }
        glance
    }
}

fn hash(name: &OsStr, path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
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
