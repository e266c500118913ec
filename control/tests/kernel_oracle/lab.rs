//! Network namespaces of a test's own, which go with it.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use control::netlink::NetNs;
use fastpath::io::xsk::test_support::reap_at_end;

/// Namespaces and a directory. All is removed when dropped.
pub(crate) struct Lab {
    prefix: String,
    parts: Vec<(&'static str, NetNs)>,
    dir: PathBuf,
}

impl Lab {
    /// New namespaces, one for each part.
    pub(crate) fn new(name: &str, parts: &[&'static str]) -> Self {
        let prefix = format!("car-{}-{name}", std::process::id());
        let dir = std::env::temp_dir().join(&prefix);
        let mut lab = Self {
            prefix,
            parts: Vec::new(),
            dir,
        };
        reap_at_end();
        fs::create_dir_all(&lab.dir).expect("a directory for the test's files");
        for &part in parts {
            let netns = NetNs::create(&lab.name_of(part)).expect("a namespace");
            lab.parts.push((part, netns));
        }
        lab
    }

    /// The name of a namespace, as `ip netns` shows it.
    pub(crate) fn name_of(&self, part: &str) -> String {
        format!("{}-{part}", self.prefix)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn netns(&self, part: &str) -> &NetNs {
        let found = self.parts.iter().find(|(name, _)| *name == part);
        &found.expect("a part of the lab").1
    }

    /// Runs `work` in a namespace.
    pub(crate) fn within<T: Send>(&self, part: &str, work: impl FnOnce() -> T + Send) -> T {
        self.netns(part).run(work).expect("enter a namespace")
    }

    /// Runs commands of `ip`.
    pub(crate) fn ip(&self, part: &str, commands: &[String]) {
        self.batch("ip", part, commands);
    }

    /// Runs commands of `bridge`.
    pub(crate) fn bridge(&self, part: &str, commands: &[String]) {
        self.batch("bridge", part, commands);
    }

    /// Puts rules of `nft` in force.
    pub(crate) fn nft(&self, part: &str, rules: &str) {
        self.feed("nft", &["-f", "-"], part, rules);
    }

    fn batch(&self, program: &str, part: &str, commands: &[String]) {
        let lines = commands.join("\n") + "\n";
        self.feed(program, &["-batch", "-"], part, &lines);
    }

    fn feed(&self, program: &str, args: &[&str], part: &str, lines: &str) {
        let output = self.within(part, || {
            let mut child = Command::new(program)
                .args(args)
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap_or_else(|e| panic!("{program}: {e}"));
            let mut input = child.stdin.take().expect("piped");
            input.write_all(lines.as_bytes()).expect("write to it");
            drop(input);
            child.wait_with_output().expect("wait for it")
        });
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{program} in {part}: {said}\n{lines}"
        );
    }

    /// Writes settings below /proc/sys/net. Those that this kernel does not have are left out.
    pub(crate) fn set(&self, part: &str, settings: &[(String, &str)]) {
        self.within(part, || {
            for (name, value) in settings {
                let path = Path::new("/proc/sys/net").join(name);
                if path.exists() {
                    fs::write(&path, value).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                }
            }
        });
    }

    /// Takes all offloads from a link, or checksums and sizes on the wire are not what they seem.
    pub(crate) fn plain(&self, part: &str, link: &str) {
        let args = "tx off rx off gso off gro off tso off";
        let output = self.within(part, || {
            Command::new("ethtool")
                .args(["-K", link])
                .args(args.split(' '))
                .output()
                .expect("ethtool")
        });
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ethtool -K {link} {args}: {said}");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for (part, _) in &self.parts {
            let _ = NetNs::delete(&self.name_of(part));
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}
