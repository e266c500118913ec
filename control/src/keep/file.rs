//! The file itself: beside the control socket, for root alone, never more than one, read once.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::format::{FormatError, Head, MOST_BYTES, Saved};

/// What is longer ago is too old: who is at the other end has given up, or begun anew. Tunnels, addresses and ports have had time to
/// become others'.
pub const OLDEST: Duration = Duration::from_hours(1);

/// Rights of the file: the connections of pods are nobody else's business.
const MODE: u32 = 0o600;

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It can not be opened, or read.
    #[error("{0}")]
    System(#[from] io::Error),
    /// It is no file.
    #[error("it is no regular file")]
    NoFile,
    /// Somebody else may have written it.
    #[error("it is user {uid}'s with mode {mode:04o}, and must be our own with mode 0600")]
    NotOurs {
        /// Whose it is.
        uid: u32,
        /// Its rights.
        mode: u32,
    },
    /// It is larger than any that is written.
    #[error("it has {0} bytes, more than any that is written")]
    TooLarge(u64),
    /// Its content.
    #[error("{0}")]
    Format(#[from] FormatError),
    /// The machine was started since.
    #[error("it is from before the machine was started")]
    OtherBoot,
    /// It is of another network namespace.
    #[error("it is another network namespace's")]
    OtherNamespace,
    /// It is of another node.
    #[error("it is node {0}'s")]
    OtherNode(String),
    /// It was written in the future.
    #[error("it is from the future")]
    Future,
    /// See [`OLDEST`].
    #[error("it is {} minutes old, and {} are too many", .0.as_secs() / 60, OLDEST.as_secs() / 60)]
    TooOld(Duration),
}

/// Where the connections of the daemon with this control socket are kept.
pub fn path(control_socket: &Path) -> PathBuf {
    let mut name = control_socket.as_os_str().to_owned();
    name.push(".connections");
    name.into()
}

/// The name that it is written under.
fn fresh(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// Puts `bytes` there in one step, in place of what is there.
///
/// # Errors
/// The system's; then what is there is what was there.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = &fresh(path);
    // Of one that was killed while it wrote.
    match fs::remove_file(fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    // Follows no link: it makes the file, or fails.
    let file = options.write(true).create_new(true).mode(MODE).open(fresh);
    let written = file.and_then(|mut file| file.write_all(bytes));
    let placed = written.and_then(|()| fs::rename(fresh, path));
    if placed.is_err() {
        let _ = fs::remove_file(fresh);
    }
    placed
}

/// Takes the file away and reads it; nothing where there is none. It is for a daemon of this node, here and now.
///
/// # Errors
/// Why it is not used. It is gone all the same.
pub fn take(path: &Path, node: &str) -> Result<Option<Saved>, Unusable> {
    take_at(path, Head::now(node))
}

/// Takes the file away, unread, of the daemon with this control socket. None there is fine.
///
/// # Errors
/// The system's.
pub fn remove(control_socket: &Path) -> io::Result<()> {
    let path = path(control_socket);
    for path in [fresh(&path), path] {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn take_at(path: &Path, now: io::Result<Head>) -> Result<Option<Saved>, Unusable> {
    // Of one that was killed while it wrote.
    let _ = fs::remove_file(fresh(path));
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path);
    let removed = fs::remove_file(path);
    let file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Err(Unusable::NoFile),
        opened => opened?,
    };
    removed?;
    let saved = Saved::read(content(file)?)?;
    belongs(&saved.head, &now?)?;
    Ok(Some(saved))
}

fn content(file: File) -> Result<Vec<u8>, Unusable> {
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(Unusable::NoFile);
    }
    let (uid, mode) = (meta.uid(), meta.mode() & 0o7777);
    if uid != nix::unistd::geteuid().as_raw() || mode != MODE {
        return Err(Unusable::NotOurs { uid, mode });
    }
    if meta.len() > MOST_BYTES as u64 {
        return Err(Unusable::TooLarge(meta.len()));
    }
    let mut bytes = Vec::with_capacity(meta.len() as usize);
    file.take(MOST_BYTES as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether connections from there and then can be ours, here and now.
fn belongs(then: &Head, now: &Head) -> Result<(), Unusable> {
    if then.boot != now.boot {
        return Err(Unusable::OtherBoot);
    }
    if then.netns != now.netns {
        return Err(Unusable::OtherNamespace);
    }
    if then.node != now.node {
        return Err(Unusable::OtherNode(then.node.clone()));
    }
    let age = now.stopped.checked_sub(then.stopped);
    match age.ok_or(Unusable::Future)? {
        age if age > OLDEST => Err(Unusable::TooOld(age)),
        _ => Ok(()),
    }
}

impl Head {
    /// That of a daemon of this node, here and now.
    ///
    /// # Errors
    /// The system's.
    pub fn now(node: &str) -> io::Result<Self> {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let digits = text.trim().replace('-', "");
        let boot = u128::from_str_radix(&digits, 16).map_err(io::Error::other)?;
        Ok(Self {
            boot: boot.to_be_bytes(),
            netns: fs::metadata("/proc/thread-self/ns/net")?.ino(),
            stopped: since_boot()?,
            node: node.to_owned(),
        })
    }
}

/// The time since the machine was started, sleep included.
///
/// # Errors
/// The system has no such clock.
pub fn since_boot() -> io::Result<Duration> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)?;
    Ok(now.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::format::Writer;
    use super::*;
    use crate::api::Scratch;

    fn head() -> Head {
        Head {
            boot: [7; 16],
            netns: 9,
            stopped: Duration::from_secs(1000),
            node: "n".to_owned(),
        }
    }

    fn bytes() -> Vec<u8> {
        Writer::new(&head(), &[], 0).finish()
    }

    fn refusal(path: &Path, now: &Head) -> String {
        let refused = take_at(path, Ok(now.clone())).unwrap_err().to_string();
        assert!(fs::symlink_metadata(path).is_err(), "it is gone: {refused}");
        refused
    }

    #[test]
    fn it_is_read_once_and_by_its_owner_only() {
        let scratch = Scratch::new();
        let path = path(&scratch.0.join("s"));
        assert!(take_at(&path, Ok(head())).unwrap().is_none());
        write(&path, &bytes()).unwrap();
        fs::write(fresh(&path), "half").unwrap();
        assert!(take_at(&path, Ok(head())).unwrap().is_some());
        assert_eq!(
            fs::read_dir(&scratch.0).unwrap().count(),
            0,
            "nor what was not finished"
        );
        write(&path, &bytes()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 1);
        assert_eq!(
            take_at(&path, Ok(head())).unwrap().unwrap().bytes(),
            bytes()
        );
        assert!(take_at(&path, Ok(head())).unwrap().is_none());
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 0);
    }

    #[test]
    fn what_is_not_ours_is_refused_and_gone() {
        let scratch = Scratch::new();
        let path = path(&scratch.0.join("s"));
        let later = |seconds| Head {
            stopped: Duration::from_secs(seconds),
            ..head()
        };
        write(&path, &bytes()).unwrap();
        assert!(take_at(&path, Ok(later(1000 + 3600))).unwrap().is_some());
        for (now, why) in [
            (later(1000 + 3601), "60 minutes old"),
            (later(999), "from the future"),
            (
                Head {
                    boot: [8; 16],
                    ..head()
                },
                "before the machine was started",
            ),
            (Head { netns: 1, ..head() }, "another network namespace's"),
            (
                Head {
                    node: "m".to_owned(),
                    ..head()
                },
                "node n's",
            ),
        ] {
            write(&path, &bytes()).unwrap();
            let said = refusal(&path, &now);
            assert!(said.contains(why), "{said}");
        }
        fs::write(&path, bytes()).unwrap();
        let open = fs::Permissions::from_mode(0o622);
        fs::set_permissions(&path, open).unwrap();
        let said = refusal(&path, &head());
        assert!(said.contains("mode 0622"), "{said}");
    }

    #[test]
    fn no_link_is_followed() {
        let scratch = Scratch::new();
        let path = path(&scratch.0.join("s"));
        let other = scratch.0.join("other");
        let link = || std::os::unix::fs::symlink(&other, &path).unwrap();
        write(&other, &bytes()).unwrap();
        link();
        let said = refusal(&path, &head());
        assert!(said.contains("no regular file"), "{said}");
        // Neither that of the name nor that of what it is made under.
        link();
        std::os::unix::fs::symlink(&other, fresh(&path)).unwrap();
        fs::write(&other, "kept").unwrap();
        write(&path, &bytes()).unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "kept");
        assert!(take_at(&path, Ok(head())).unwrap().is_some());
    }
}
