//! Network namespaces by name, by process or by file.
//!
//! A thread that has entered a namespace stays there: so work in another one is done on a thread of its own.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use super::socket::{Error, Result};

/// Where `ip netns` keeps its names.
const NAMES: &str = "/run/netns";

/// The namespace of the calling thread, which is not always that of the process.
const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace, held open: it lives at least as long as this does.
#[derive(Debug)]
pub struct NetNs {
    file: File,
    path: PathBuf,
}

impl NetNs {
    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn current() -> Result<Self> {
        Self::open(OWN)
    }

    /// The namespace that `ip netns` knows as `name`.
    ///
    /// # Errors
    /// When there is none.
    pub fn named(name: &str) -> Result<Self> {
        Self::open(Path::new(NAMES).join(checked(name)?))
    }

    /// The namespace of a process, or of one of its threads.
    ///
    /// # Errors
    /// When there is no such process, or we may not look.
    pub fn of_process(pid: u32) -> Result<Self> {
        Self::open(format!("/proc/{pid}/ns/net"))
    }

    /// The namespace behind a file: a bind mount, or a link in /proc.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let file = File::open(&path).map_err(|error| {
            Error::new(format!("open network namespace {}", path.display()), error)
        })?;
        Ok(Self { file, path })
    }

    /// Makes a new namespace under a name, as `ip netns add` does. Its loopback interface is down.
    ///
    /// # Errors
    /// When the name is taken or not a file name, or without `CAP_SYS_ADMIN`.
    pub fn create(name: &str) -> Result<Self> {
        let path = Path::new(NAMES).join(checked(name)?);
        let failed =
            |error: io::Error| Error::new(format!("create network namespace {name}"), error);
        prepare_names().map_err(failed)?;
        File::options()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(failed)?;
        let bound = in_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            mount(
                Some(OWN),
                &path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )?;
            Ok(())
        });
        if let Err(error) = bound {
            let _ = fs::remove_file(&path);
            return Err(failed(error));
        }
        Self::open(path)
    }

    /// Takes a name away, as `ip netns delete` does. The namespace goes when nothing uses it any more. Does nothing if
    /// there is no such name.
    ///
    /// # Errors
    /// Without `CAP_SYS_ADMIN`.
    pub fn delete(name: &str) -> Result<()> {
        let path = Path::new(NAMES).join(checked(name)?);
        let failed =
            |error: io::Error| Error::new(format!("delete network namespace {name}"), error);
        match umount2(&path, MntFlags::MNT_DETACH) {
            // A name left behind without its mount, or none at all.
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        }
    }

    /// Runs `work` on a thread of its own in this namespace and returns what it returns. Sockets it opens stay in this
    /// namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    ///
    /// # Panics
    /// When `work` does.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        in_thread(|| {
            self.enter_thread()?;
            Ok(work())
        })
        .map_err(|error| {
            Error::new(
                format!("enter network namespace {}", self.path.display()),
                error,
            )
        })
    }

    /// Moves the calling thread here, for good.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn enter(&self) -> Result<()> {
        self.enter_thread().map_err(|error| {
            Error::new(
                format!("enter network namespace {}", self.path.display()),
                error,
            )
        })
    }

    fn enter_thread(&self) -> io::Result<()> {
        Ok(setns(&self.file, CloneFlags::CLONE_NEWNET)?)
    }

    /// The inode that tells namespaces apart, as in `ls -i` or `net:[4026531840]`.
    ///
    /// # Errors
    /// When it cannot be looked up.
    pub fn inode(&self) -> Result<u64> {
        let metadata = self.file.metadata();
        metadata.map(|metadata| metadata.ino()).map_err(|error| {
            Error::new(
                format!("look at network namespace {}", self.path.display()),
                error,
            )
        })
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn checked(name: &str) -> Result<&str> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "not a file name");
        return Err(Error::new(format!("network namespace {name:?}"), error));
    }
    Ok(name)
}

/// The directory of names must be a shared mount, so that names taken away vanish in all mount namespaces and do not keep
/// their namespace alive (ip-netns.c does the same).
fn prepare_names() -> io::Result<()> {
    fs::create_dir_all(NAMES)?;
    let share = || {
        mount(
            None::<&str>,
            NAMES,
            None::<&str>,
            MsFlags::MS_SHARED | MsFlags::MS_REC,
            None::<&str>,
        )
    };
    if share().is_err() {
        mount(
            Some(NAMES),
            NAMES,
            None::<&str>,
            MsFlags::MS_BIND | MsFlags::MS_REC,
            None::<&str>,
        )?;
        share()?;
    }
    Ok(())
}

fn in_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, work)?;
        worker
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_the_directory_of_names() {
        for name in ["", ".", "..", "../x", "a/b", "a\0b"] {
            assert!(NetNs::named(name).is_err(), "{name:?}");
            assert!(NetNs::create(name).is_err(), "{name:?}");
            assert!(NetNs::delete(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn threads_of_one_namespace_see_one_inode() {
        let here = NetNs::current().and_then(|ns| ns.inode()).expect("/proc");
        let process = NetNs::of_process(std::process::id())
            .and_then(|ns| ns.inode())
            .expect("/proc");
        assert_eq!(here, process);
    }
}
