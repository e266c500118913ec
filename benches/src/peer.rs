//! Peers in C: small programs of our own under `peers/`, compiled against DPDK when it is installed.
//!
//! A peer reads commands from stdin, one a line, and answers each with a line that begins with `= `;
//! other lines on its stdout are its library's talk. Rounds of it and of ours therefore take turns.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::rounds::Result;

/// How the peers' part of DPDK starts: no huge pages, no devices, AVX-512 where the processor has it.
const EAL: [&str; 8] = [
    "--no-huge",
    "--no-pci",
    "--no-shconf",
    "--no-telemetry",
    "--log-level=error",
    "--force-max-simd-bitwidth=512",
    "-m",
    "2048",
];

/// A running peer. It ends when this is dropped.
#[derive(Debug)]
pub struct Peer {
    process: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// Compiles `peers/<name>.c` against DPDK into `into`.
///
/// # Errors
/// DPDK's development files or a C compiler are missing, or the compiler says no.
pub fn compile(name: &str, into: &Path) -> Result<PathBuf> {
    let pkg_config = Command::new("pkg-config")
        .args(["--cflags", "--libs", "libdpdk"])
        .output()
        .map_err(|why| format!("pkg-config does not start: {why}"))?;
    if !pkg_config.status.success() {
        return Err("DPDK is not installed (on Debian: apt install libdpdk-dev)".into());
    }
    let flags = String::from_utf8(pkg_config.stdout)?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("peers")
        .join(format!("{name}.c"));
    let program = into.join(format!("{name}-peer"));
    let compiler = Command::new("cc")
        .args(["-O3", "-Wall", "-o"])
        .arg(&program)
        .arg(&source)
        .args(flags.split_whitespace())
        // After DPDK's own -march, which is older.
        .arg("-march=native")
        .output()
        .map_err(|why| format!("cc does not start: {why}"))?;
    if !compiler.status.success() {
        return Err(format!("cc: {}", String::from_utf8_lossy(&compiler.stderr)).into());
    }
    Ok(program)
}

impl Peer {
    /// Starts `program kind` on `core`. Does not wait until it is ready; [`Peer::ready`] does.
    ///
    /// # Errors
    /// The program does not start.
    pub fn start(program: &Path, kind: &str, core: usize) -> Result<Self> {
        let mut process = Command::new(program)
            .arg(kind)
            .args(EAL)
            .args(["-l", &core.to_string()])
            .args([
                "--file-prefix",
                &format!("caracal-bench-{}-{kind}", std::process::id()),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let commands = process.stdin.take();
        let answers = BufReader::new(process.stdout.take().ok_or("the peer has no stdout")?);
        Ok(Self {
            process,
            commands,
            answers,
        })
    }

    /// Waits until the peer takes commands.
    ///
    /// # Errors
    /// The peer ended.
    pub fn ready(&mut self) -> Result<()> {
        self.answer().map(drop)
    }

    /// Sends a command, and does not wait for its answer.
    ///
    /// # Errors
    /// The peer ended.
    pub fn tell(&mut self, command: &str) -> Result<()> {
        let commands = self.commands.as_mut().ok_or("the peer has no stdin")?;
        writeln!(commands, "{command}")?;
        Ok(commands.flush()?)
    }

    /// The numbers of the next answer.
    ///
    /// # Errors
    /// The peer ended.
    pub fn answer(&mut self) -> Result<Vec<u64>> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.answers.read_line(&mut line)? == 0 {
                return Err("the peer ended".into());
            }
            if let Some(answer) = line.strip_prefix("= ") {
                return Ok(answer
                    .split_whitespace()
                    .filter_map(|number| number.parse().ok())
                    .collect());
            }
        }
    }

    /// Sends a command; the numbers of its answer.
    ///
    /// # Errors
    /// The peer ended.
    pub fn ask(&mut self, command: &str) -> Result<Vec<u64>> {
        self.tell(command)?;
        self.answer()
    }

    /// Sends a command whose answer is a time in nanoseconds.
    ///
    /// # Errors
    /// The peer ended or answered something else.
    pub fn time(&mut self, command: &str) -> Result<Duration> {
        let answer = self.ask(command)?;
        Ok(Duration::from_nanos(
            *answer.first().ok_or("the peer's answer has no time")?,
        ))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The end of its input is the end of the peer; a peer that is busy is not waited for.
        drop(self.commands.take());
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
