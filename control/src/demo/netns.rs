//! Work inside a network namespace: a thread moves there, does it and ends. Sockets made and processes started
//! there stay there.

use std::fs::{self, File};
use std::panic;
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, setns};

use super::error::{DemoError, Result};

const NETNS_DIR: &str = "/var/run/netns";

/// Where `ip netns` keeps the namespace `name`.
pub fn path(name: &str) -> PathBuf {
    Path::new(NETNS_DIR).join(name)
}

/// Names of all namespaces that begin with `prefix`, sorted.
pub fn list(prefix: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(NETNS_DIR) else {
        return Vec::new(); // nobody ever made one
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort();
    names
}

/// Runs `work` in a thread inside the namespace `name` and returns what it returned. A panic there goes on here.
///
/// # Errors
/// When the namespace cannot be entered.
pub fn within<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> Result<T> {
    let there = File::open(path(name)).map_err(DemoError::io(format!("namespace {name}")))?;
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            setns(there, CloneFlags::CLONE_NEWNET)
                .map_err(DemoError::io(format!("entering namespace {name}")))?;
            Ok(work())
        });
        worker
            .join()
            .unwrap_or_else(|payload| panic::resume_unwind(payload))
    })
}
