//! Notices changes of the resources' directory, for an event loop built on poll.
//!
//! The directory is watched, not its files: editors replace files by renaming over them, and a Kubernetes
//! ConfigMap swaps the symlink `..data`. Its parent is watched as well, so that a directory that is deleted and
//! made again is found again. A change is reported once it has been quiet for a moment.
//!
//! What is behind symlinks, of a file or on the way to the directory, inotify does not tell of. So the directory is also
//! looked at now and then, and compared with what it was.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

use super::files;
use super::glance::Glance;

/// How long nothing may change before a change is reported.
pub const QUIET: Duration = Duration::from_millis(100);
/// How long a change is held back at most while more keep coming.
pub const LONGEST: Duration = Duration::from_secs(1);

/// How often the directory is looked at.
pub const LOOK: Duration = Duration::from_secs(1);
/// Entries that add another [`LOOK`] to the time until the next one: a stat call takes about a microsecond.
const ENTRIES_A_LOOK: u32 = 4096;

/// A watched directory.
#[derive(Debug)]
pub struct Watch {
    inotify: Inotify,
    dir: PathBuf,
    armed: Option<WatchDescriptor>,
    /// First and last change not yet reported.
    pending: Option<(Instant, Instant)>,
    /// What the directory was when it was looked at last.
    seen: Glance,
    look_at: Instant,
}

impl Watch {
    /// Starts to watch. The directory may be missing; it is then found when it appears.
    ///
    /// # Errors
    /// The kernel's limits on inotify are reached, or the parent directory cannot be watched either.
    pub fn new(dir: impl AsRef<Path>) -> std::io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let mut watch = Self {
            inotify,
            dir: dir.as_ref().to_path_buf(),
            armed: None,
            pending: None,
            seen: Glance::at(dir.as_ref(), is_ours),
            look_at: Instant::now() + LOOK,
        };
        let parent = watch
            .dir
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let flags =
            AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ONLYDIR;
        let parent = watch
            .inotify
            .add_watch(parent.unwrap_or(Path::new(".")), flags);
        watch.arm();
        if watch.armed.is_none() {
            parent?;
        }
        Ok(watch)
    }

    /// The descriptor to poll for reading.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// Takes all events that are there. True if the files should be loaded again: something changed, and it has
    /// been quiet since, or has not been for long enough.
    pub fn drain(&mut self, now: Instant) -> bool {
        loop {
            match self.inotify.read_events() {
                Ok(events) => {
                    for event in events {
                        self.note(&event, now);
                    }
                }
                Err(Errno::EINTR) => {}
                // Nothing more to read.
                Err(_) => break,
            }
        }
        if now >= self.look_at && self.look(now) {
            self.touch(now);
        }
        let Some((first, last)) = self.pending else {
            return false;
        };
        let due = now.saturating_duration_since(last) >= QUIET
            || now.saturating_duration_since(first) >= LONGEST;
        if due {
            // Before the files are read: what changes while they are is seen the next time.
            self.look(now);
            self.pending = None;
        }
        due
    }

    /// How long poll may sleep before [`Watch::drain`] must be called though nothing came.
    pub fn timeout(&self, now: Instant) -> Duration {
        let pending = self
            .pending
            .map(|(first, last)| (last + QUIET).min(first + LONGEST));
        let due = pending.map_or(self.look_at, |due| due.min(self.look_at));
        due.saturating_duration_since(now)
    }

    /// Looks at the directory. True if it is not what it was.
    fn look(&mut self, now: Instant) -> bool {
        let glance = Glance::at(&self.dir, is_ours);
        self.look_at = now + LOOK * (1 + glance.entries / ENTRIES_A_LOOK);
        let seen = std::mem::replace(&mut self.seen, glance);
        if seen.dir != glance.dir {
            self.arm();
        }
        seen != glance
    }

    fn note(&mut self, event: &InotifyEvent, now: Instant) {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            self.touch(now);
        } else if Some(event.wd) == self.armed {
            if event
                .mask
                .intersects(AddWatchFlags::IN_IGNORED | AddWatchFlags::IN_MOVE_SELF)
            {
                self.armed = None;
                self.arm();
                self.touch(now);
            } else if event.name.as_deref().is_some_and(is_ours) {
                self.touch(now);
            }
        } else if event.name.as_deref() == self.dir.file_name() {
            self.arm();
            self.touch(now);
        }
    }

    fn touch(&mut self, now: Instant) {
        let first = self.pending.map_or(now, |(first, _)| first);
        self.pending = Some((first, now));
    }

    fn arm(&mut self) {
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        if let Some(old) = self.armed.take() {
            // A directory of the same name came in its place.
            let _ = self.inotify.rm_watch(old);
        }
        self.armed = self.inotify.add_watch(&self.dir, flags).ok();
    }
}

/// Whether a name in the directory concerns us: what the loader reads, what it says that it does not read, and the
/// ConfigMap's symlink. A name without a dot may be an editor's, for a moment.
fn is_ours(name: &OsStr) -> bool {
    name == "..data" || !files::is_scratch(name) && Path::new(name).extension().is_some()
}
