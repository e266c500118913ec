//! Network namespaces that go when they are dropped, or when their process is killed.

use std::fs::File;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CloneFlags, setns};

use super::reap_at_end;

/// A named network namespace of this process and test; deleted on drop, on panics too.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes a namespace called `car-<pid>-<number>-<tag>`, with `lo` up and IPv6 off on new links (so
    /// that no router solicitation gets among the test's frames).
    ///
    /// # Panics
    ///
    /// When `ip netns add` fails.
    #[must_use]
    pub fn new(tag: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("car-{}-{number}-{tag}", std::process::id());
        reap_at_end();
        run(Command::new("ip").args(["netns", "add", &name]));
        let netns = Self { name };
        netns.ip("link set lo up");
        netns.sysctl("net/ipv6/conf/default/disable_ipv6", "1");
        netns
    }

    /// The name under `/run/netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip <arguments>` in it (split at blanks).
    ///
    /// # Panics
    ///
    /// When it fails.
    pub fn ip(&self, arguments: &str) {
        run(Command::new("ip")
            .args(["-n", &self.name])
            .args(arguments.split_whitespace()));
    }

    /// Runs a command in it; its output, whether it succeeds or not.
    ///
    /// # Panics
    ///
    /// When `ip` cannot be started.
    #[must_use]
    pub fn exec(&self, command: &str) -> Output {
        Command::new("ip")
            .args(["netns", "exec", &self.name])
            .args(command.split_whitespace())
            .output()
            .expect("ip starts")
    }

    /// Writes `value` to `/proc/sys/<key>` as seen in it.
    ///
    /// # Panics
    ///
    /// When the file cannot be written.
    pub fn sysctl(&self, key: &str, value: &str) {
        self.within(|| {
            std::fs::write(format!("/proc/sys/{key}"), value)
                .unwrap_or_else(|error| panic!("{key}: {error}"));
        });
    }

    /// Makes a veth pair, `ours` in this namespace and `theirs` in `other`, both up, with `queues` queues
    /// active on each.
    ///
    /// # Panics
    ///
    /// When `ip` fails.
    pub fn veth(&self, ours: &str, other: &Self, theirs: &str, queues: u32) {
        let shape = format!("numtxqueues {queues} numrxqueues {queues}");
        self.ip(&format!(
            "link add {ours} {shape} type veth peer name {theirs} {shape} netns {}",
            other.name
        ));
        for (netns, link) in [(self, ours), (other, theirs)] {
            netns.within(|| {
                super::super::ethtool::set_channels(link, queues)
                    .unwrap_or_else(|error| panic!("{link}: {error}"));
            });
            netns.ip(&format!("link set {link} up"));
        }
    }

    /// Enters the namespace with this thread until the result is dropped.
    ///
    /// # Panics
    ///
    /// When `setns` fails.
    #[must_use]
    pub fn enter(&self) -> Entered {
        let before = File::open("/proc/thread-self/ns/net").expect("the thread's own namespace");
        let inside = File::open(format!("/run/netns/{}", self.name)).expect("the namespace's file");
        setns(&inside, CloneFlags::CLONE_NEWNET).expect("setns as root");
        Entered { before }
    }

    /// Runs `body` in the namespace, on this thread.
    pub fn within<R>(&self, body: impl FnOnce() -> R) -> R {
        let _inside = self.enter();
        body()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // A failure here must not hide the test's own.
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .output();
    }
}

/// While it lives, this thread is in another network namespace.
#[derive(Debug)]
pub struct Entered {
    before: File,
}

impl Drop for Entered {
    fn drop(&mut self) {
        // A thread stuck in the wrong namespace would make all that follows wrong.
        if let Err(error) = setns(&self.before, CloneFlags::CLONE_NEWNET)
            && !std::thread::panicking()
        {
            panic!("cannot go back to the first network namespace: {error}");
        }
    }
}

fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
}
