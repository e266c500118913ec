//! What a daemon leaves behind on purpose, and how to take it away; and the lock that keeps two daemons apart.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::RunError;
use crate::netlink::HostPort;
use crate::xdp::PinDir;

/// Where daemons hold their locks.
const RUN_DIR: &str = "/run/caracal";

/// Held by the one daemon of a network namespace, as long as it lives.
pub(super) type Lock = Flock<File>;

/// Takes the lock of the calling thread's network namespace.
pub(super) fn lock() -> Result<Lock, RunError> {
    let failed = |source: io::Error| RunError::System {
        what: "lock /run/caracal",
        source,
    };
    fs::create_dir_all(RUN_DIR).map_err(failed)?;
    let inode = fs::metadata("/proc/thread-self/ns/net")
        .map_err(failed)?
        .ino();
    let path: PathBuf = Path::new(RUN_DIR).join(format!("netns-{inode}.lock"));
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(failed)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(RunError::AlreadyRunning { lock: path }),
        Err((_, errno)) => Err(failed(errno.into())),
    }
}

/// Takes away what a daemon that is gone left in this network namespace: the programs that keep pods closed, the host's
/// port, its routes and its rules. Pods' traffic is the kernel's afterwards. Returns how many interfaces were opened.
///
/// # Errors
/// A daemon is running here, or the kernel refuses.
pub fn cleanup() -> Result<usize, RunError> {
    let _lock = lock()?;
    let pins = PinDir::open()?;
    let mut released = 0;
    for pin in pins.pins() {
        released += usize::from(pin.alive);
        pins.release(&pin)?;
    }
    pins.remove_if_empty();
    HostPort::remove_leftovers()?;
    Ok(released)
}
