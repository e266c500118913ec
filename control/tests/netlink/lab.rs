//! A namespace of a test's own, and `ip` as the judge.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use control::netlink::{Changes, Mirror, NetNs};
use fastpath::io::xsk::test_support::{reap_at_end, skipped_without_root};
use serde_json::Value;

/// A namespace that goes with this.
pub(crate) struct Lab {
    name: String,
    netns: NetNs,
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = NetNs::delete(&self.name);
    }
}

impl Lab {
    /// A new namespace with loopback up; none where there is no root, and then the test is skipped, aloud.
    pub(crate) fn new(test: &str) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let this = std::thread::current();
        if skipped_without_root(&format!("netlink::{}", this.name().unwrap_or(test))) {
            return None;
        }
        let name = format!(
            "car-{}-{test}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        reap_at_end();
        let netns = NetNs::create(&name).expect("create a namespace");
        let lab = Self { name, netns };
        lab.run(|| ip("link set lo up"));
        Some(lab)
    }

    pub(crate) fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// Runs `work` in the namespace.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.netns.run(work).expect("enter the namespace")
    }
}

/// Runs `ip ARGUMENTS` in the calling thread's namespace.
pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .expect("iproute2");
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Feeds `ip -batch` with lines.
pub(crate) fn ip_batch(lines: &str) {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("iproute2");
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(lines.as_bytes())
        .expect("write to ip");
    assert!(child.wait().expect("wait for ip").success());
}

/// What `ip -j ARGUMENTS` prints.
pub(crate) fn ip_json(arguments: &str) -> Vec<Value> {
    let output = Command::new("ip")
        .arg("-j")
        .args(arguments.split_whitespace())
        .output()
        .expect("iproute2");
    assert!(
        output.status.success(),
        "ip -j {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    if text.trim().is_empty() {
        Vec::new()
    } else {
        serde_json::from_str(&text).expect("JSON")
    }
}

/// Drains until `done`, for two minutes at most: a busy machine brings routes in slowly.
pub(crate) fn drain_until(mirror: &mut Mirror, mut done: impl FnMut(&Mirror, &Changes) -> bool) {
    let deadline = Instant::now() + Duration::from_mins(2);
    loop {
        let changes = mirror.drain().expect("drain");
        if done(mirror, &changes) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "the mirror did not follow: {changes:?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}
