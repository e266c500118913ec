//! What was made of each file, kept while the file stays what it was.
//!
//! Whether it did is told by what stat says of it. A file that was written moments before it was read could be written
//! again within one tick of its clock, and look the same: such a file is read again, and its bytes are compared.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::diagnostic::{Diagnostic, Diagnostics};
use super::load::{each_file, read_with_metadata};
use super::source::Source;

/// Twice the tick of the coarsest clock of a file system (FAT: two seconds).
const SETTLES: Duration = Duration::from_secs(4);

/// What a file is known by. Nothing writes to a file without a change of its times, and only the system sets `changed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    file: (u64, u64),
    size: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self {
            file: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            written: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether the times are so old that what is written from `now` on must show in them.
    fn is_older_than(&self, age: Duration, now: SystemTime) -> bool {
        let (seconds, nanos) = self.written.max(self.changed);
        let (seconds, nanos) = (u64::try_from(seconds), u32::try_from(nanos));
        let since_epoch = Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0));
        now.duration_since(SystemTime::UNIX_EPOCH + since_epoch)
            .is_ok_and(|own| own >= age)
    }
}

#[derive(Debug)]
struct File<T> {
    identity: Identity,
    is_settled: bool,
    source: Arc<Source>,
    made: Arc<T>,
}

/// What was made of files, by their paths, as text: as paths they would be compared part by part.
#[derive(Debug)]
pub(super) struct Kept<T> {
    /// Times of files are trusted that are older than this.
    pub(super) settles: Duration,
    files: HashMap<OsString, File<T>>,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self {
            settles: SETTLES,
            files: HashMap::new(),
        }
    }
}

impl<T> Kept<T> {
    /// What `make` makes of the files, and of those of directories, in their order. It is asked only about files that
    /// are new or have changed; what files are gone gave is forgotten. Reports as [`super::read_all`] does.
    pub(super) fn read(
        &mut self,
        paths: &[PathBuf],
        diagnostics: &mut Diagnostics,
        make: impl Fn(&Arc<Source>) -> T,
    ) -> Vec<Arc<T>> {
        let mut before = std::mem::take(&mut self.files);
        let mut all = Vec::with_capacity(before.len());
        each_file(paths, diagnostics, |path, diagnostics| {
            match again(before.remove(path.as_os_str()), &path, self.settles, &make) {
                Ok(file) => {
                    all.push(Arc::clone(&file.made));
                    self.files.insert(path.into_os_string(), file);
                }
                Err(error) => diagnostics.push(*error),
            }
        });
        all
    }
}

/// What was made of a file before, and what is made of it now.
pub(super) type Again<T> = (Option<Arc<T>>, Option<Arc<T>>);

impl<T> Kept<T> {
    /// Whether there is no file.
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// What `make` made of a file when it was read last, and makes of it now; nothing where it is not there.
    pub(super) fn read_again(
        &mut self,
        path: &Path,
        make: impl Fn(&Arc<Source>) -> T,
    ) -> Result<Again<T>, Box<Diagnostic>> {
        let before = self.files.remove(path.as_os_str());
        let made = before.as_ref().map(|file| Arc::clone(&file.made));
        if fs::symlink_metadata(path).is_err() {
            return Ok((made, None));
        }
        let file = again(before, path, self.settles, &make)?;
        let now = Arc::clone(&file.made);
        self.files.insert(path.as_os_str().to_owned(), file);
        Ok((made, Some(now)))
    }
}

/// A file as it is now, and what was made of it before if that is still right.
fn again<T>(
    mut before: Option<File<T>>,
    path: &Path,
    settles: Duration,
    make: &impl Fn(&Arc<Source>) -> T,
) -> Result<File<T>, Box<Diagnostic>> {
    let is_same = |before: &mut File<T>| {
        before.is_settled
            && fs::metadata(path).is_ok_and(|now| Identity::of(&now) == before.identity)
    };
    if let Some(same) = before.take_if(is_same) {
        return Ok(same);
    }
    let now = SystemTime::now();
    let (source, metadata) = read_with_metadata(path)?;
    // Taken before the file was read: what is written meanwhile makes it another file the next time.
    let identity = Identity::of(&metadata);
    let is_settled = identity.is_older_than(settles, now);
    let same = before.filter(|before| before.source.text == source.text);
    let (source, made) = same.map_or_else(
        || {
            let made = Arc::new(make(&source));
            (source, made)
        },
        |before| (before.source, before.made),
    );
    Ok(File {
        identity,
        is_settled,
        source,
        made,
    })
}
