//! Notices changes of the resources' directory, for an event loop built on poll.
//!
//! The directory is watched, not its files: editors replace files by renaming over them, and a Kubernetes
//! ConfigMap swaps the symlink `..data`. Its parent is watched as well, so that a directory that is deleted and
//! made again is found again.
//!
//! A change is reported once it has been quiet for a moment: a short one after files that were closed or renamed, which are
//! whole, and a longer one where something went or was only begun, which may be half of what an editor does.
//!
//! What is behind symlinks, of a file or on the way to the directory, inotify does not tell of. So the directory is also
//! looked at now and then, and compared with what it was.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

use super::files;
use super::glance::Glance;

/// How long nothing may change before a change is reported.
pub const QUIET: Duration = Duration::from_millis(100);
/// The same where all that changed is whole: long enough for the next of several files.
pub const QUIET_IF_WHOLE: Duration = Duration::from_millis(2);
/// How long a change is held back at most while more keep coming.
pub const LONGEST: Duration = Duration::from_secs(1);

/// How often the directory is looked at.
pub const LOOK: Duration = Duration::from_secs(1);
/// Entries that add another [`LOOK`] to the time until the next one: a stat call takes about a microsecond.
const ENTRIES_A_LOOK: u32 = 4096;

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Entries of the directory, by their names.
    Names(BTreeSet<OsString>),
    /// Nobody knows what.
    Anything,
}

impl Changed {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Names(mut names), Self::Names(others)) => {
                names.extend(others);
                Self::Names(names)
            }
            _ => Self::Anything,
        }
    }
}

/// Changes that are not yet reported.
#[derive(Debug)]
struct Pending {
    first: Instant,
    last: Instant,
    what: Changed,
    /// Entries that are not there, or may be half written.
    open: BTreeSet<OsString>,
}

impl Pending {
    /// When it is to be reported.
    fn due(&self) -> Instant {
        let is_whole = self.open.is_empty() && matches!(self.what, Changed::Names(_));
        let quiet = if is_whole { QUIET_IF_WHOLE } else { QUIET };
        (self.last + quiet).min(self.first + LONGEST)
    }
}

/// A watched directory.
#[derive(Debug)]
pub struct Watch {
    inotify: Inotify,
    dir: PathBuf,
    armed: Option<WatchDescriptor>,
    pending: Option<Pending>,
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

    /// Takes all events that are there. What changed, if files should be loaded again: it has been quiet since, or has not been
    /// for long enough.
    pub fn drain(&mut self, now: Instant) -> Option<Changed> {
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
        let pending = self.pending.take_if(|pending| pending.due() <= now)?;
        // Before the files are read: what changes while they are is seen the next time.
        match &pending.what {
            Changed::Names(names) => {
                for name in names {
                    self.seen.look_at(&self.dir, name);
                }
            }
            Changed::Anything => {
                self.look(now);
            }
        }
        Some(pending.what)
    }

    /// How long poll may sleep before [`Watch::drain`] must be called though nothing came.
    pub fn timeout(&self, now: Instant) -> Duration {
        let due = self.pending.as_ref().map(Pending::due);
        let due = due.map_or(self.look_at, |due| due.min(self.look_at));
        due.saturating_duration_since(now)
    }

    /// Looks at the directory. True if it is not what it was.
    fn look(&mut self, now: Instant) -> bool {
        let glance = Glance::at(&self.dir, is_ours);
        let looks = 1 + u32::try_from(glance.len()).unwrap_or(u32::MAX) / ENTRIES_A_LOOK;
        self.look_at = now + LOOK * looks;
        let seen = std::mem::replace(&mut self.seen, glance);
        if seen.dir != self.seen.dir {
            self.arm();
        }
        seen != self.seen
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
            } else if let Some(name) = event.name.as_ref().filter(|name| is_ours(name)) {
                self.touch_entry(name, event.mask, now);
            }
        } else if event.name.as_deref() == self.dir.file_name() {
            self.arm();
            self.touch(now);
        }
    }

    /// An entry of the directory changed.
    fn touch_entry(&mut self, name: &OsStr, how: AddWatchFlags, now: Instant) {
        // What it leads to is another directory's.
        if name == "..data" {
            return self.touch(now);
        }
        let pending = self.pending(now);
        if how.intersects(AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO) {
            pending.open.remove(name);
        } else {
            pending.open.insert(name.to_owned());
        }
        if let Changed::Names(names) = &mut pending.what {
            names.insert(name.to_owned());
        }
    }

    /// Something changed.
    fn touch(&mut self, now: Instant) {
        self.pending(now).what = Changed::Anything;
    }

    fn pending(&mut self, now: Instant) -> &mut Pending {
        let pending = self.pending.get_or_insert_with(|| Pending {
            first: now,
            last: now,
            what: Changed::Names(BTreeSet::new()),
            open: BTreeSet::new(),
        });
        pending.last = now;
        pending
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
