//! Processes and namespaces that benches on veth stand on: the daemon itself, commands, children that end with the bench.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use fastpath::io::xsk::test_support::Netns;

use crate::rounds::Result;

/// A child process that is killed when dropped, and the directory that goes with it.
#[derive(Debug)]
pub struct Process(Child, Option<PathBuf>);

impl Process {
    /// Owns `child`, and `dir` if there is one.
    #[must_use]
    pub const fn new(child: Child, dir: Option<PathBuf>) -> Self {
        Self(child, dir)
    }

    /// Starts `caracal run` in `netns` with `dir/caracal.yaml`, which is there; its log goes to `dir/log`, and `dir` goes
    /// with the process.
    ///
    /// # Errors
    /// The daemon cannot be built or started.
    pub fn daemon(netns: &Netns, dir: PathBuf) -> Result<Self> {
        let log = std::fs::File::create(dir.join("log"))?;
        let child = Command::new("ip")
            .args(["netns", "exec", netns.name()])
            .arg(caracal()?)
            .arg("run")
            .arg("--config")
            .arg(dir.join("caracal.yaml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        Ok(Self::new(child, Some(dir)))
    }

    /// Numbers of its threads.
    #[must_use]
    pub fn threads(&self) -> Vec<i32> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.0.id()));
        tasks
            .into_iter()
            .flatten()
            .filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok())
            .collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        if let Some(dir) = &self.1 {
            let _ = std::fs::remove_dir_all(dir);
        }
    }
}

/// Runs a shell command in `netns`.
///
/// # Errors
/// What it said when it failed.
pub fn shell(netns: &Netns, script: &str) -> Result<()> {
    let output = Command::new("ip")
        .args(["netns", "exec", netns.name(), "sh", "-ec", script])
        .output()?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!(
            "{script}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )
        .into())
    }
}

/// The release binary, built now if it is not up to date.
///
/// # Errors
/// It could not be built.
pub fn caracal() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args([
            "build",
            "--release",
            "--quiet",
            "-p",
            "control",
            "--bin",
            "caracal",
        ])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .status()?;
    // target/release/deps/veth-… -> target/release/caracal
    let exe = std::env::current_exe()?;
    let release = exe
        .ancestors()
        .nth(2)
        .ok_or("the bench is not in a target directory")?;
    let binary = release.join("caracal");
    if status.success() && binary.exists() {
        Ok(binary)
    } else {
        Err(format!("{}: could not be built", binary.display()).into())
    }
}
