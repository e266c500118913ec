//! The lab's daemons: `caracal run`, one in each node's namespace.

use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::cancel::Cancel;
use super::error::{DemoError, Result};
use super::lab::Lab;
use super::netns;
use super::plan::{End, Node};
use super::progress::tell;

/// How long a daemon may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(10);
/// How long a daemon may take to end after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// A running daemon. Ended when dropped, unless left running.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    node: Node,
    log: PathBuf,
    /// Length of the log before this start.
    log_start: u64,
    record: PathBuf,
    leave: bool,
}

impl Daemon {
    /// Where the daemon of `node` writes.
    pub fn log_path(lab: &Lab, node: Node) -> PathBuf {
        lab.dir().join(format!("{}.log", node.name()))
    }

    /// Starts `caracal run --config …` inside the node's namespace, its output appended to its log.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start(lab: &Lab, node: Node, config: &Path) -> Result<Self> {
        let log = Self::log_path(lab, node);
        let log_file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(DemoError::io(format!("opening {}", log.display())))?;
        let log_start = log_file.metadata().map_or(0, |meta| meta.len());
        let stderr = log_file
            .try_clone()
            .map_err(DemoError::io("duplicating the log's descriptor"))?;
        let exe = std::env::current_exe().map_err(DemoError::io("finding our own program"))?;
        let mut command = Command::new(&exe);
        command
            .arg("run")
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(log_file)
            .stderr(stderr)
            // Ctrl-C on the terminal is for us, who stop it in order.
            .process_group(0);
        let netns = lab.netns(End::Host(node));
        if lab.shell().verbose {
            let (exe, config) = (exe.display(), config.display());
            tell(&format!(
                "  ip netns exec {netns} {exe} run --config {config}"
            ));
        }
        let child = netns::within(&netns, || command.spawn())?
            .map_err(DemoError::io(format!("starting {} run", exe.display())))?;
        let record = lab.dir().join(format!("{}.pid", node.name()));
        let daemon = Self {
            child,
            node,
            log,
            log_start,
            record,
            leave: false,
        };
        daemon.write_record()?;
        Ok(daemon)
    }

    fn write_record(&self) -> Result<()> {
        let pid = self.child.id();
        let started = start_time(pid).unwrap_or_default();
        fs::write(&self.record, format!("{pid} {started}\n"))
            .map_err(DemoError::io(format!("writing {}", self.record.display())))
    }

    /// Waits for the message `ready` in its log.
    ///
    /// # Errors
    /// When it ends instead, or takes longer than 10 s; with the last line that it wrote.
    pub fn wait_ready(&mut self, cancel: &Cancel) -> Result<()> {
        let mut ended: Option<ExitStatus> = None;
        let (child, log, start) = (&mut self.child, &self.log, self.log_start);
        let ready = cancel.wait_until(READY_LIMIT, || {
            ended = child.try_wait().ok().flatten();
            ended.is_some() || is_ready(&tail(log, start))
        })?;
        let output = tail(&self.log, self.log_start);
        if let Some(status) = ended {
            return Err(self.failure(&format!(
                "ended at start ({status}): {}",
                last_words(&output)
            )));
        }
        if !ready {
            let said = last_words(&output);
            return Err(self.failure(&format!(
                "is not ready after {} s, last line: {said}",
                READY_LIMIT.as_secs()
            )));
        }
        Ok(())
    }

    /// An error if it has ended by itself.
    pub fn ended_early(&mut self) -> Option<DemoError> {
        let status = self.child.try_wait().ok().flatten()?;
        let said = last_words(&tail(&self.log, self.log_start));
        Some(self.failure(&format!("ended by itself ({status}): {said}")))
    }

    /// Ends it with SIGTERM.
    ///
    /// # Errors
    /// When it does not end in time (it is killed then) or ends with a failure.
    pub fn stop(mut self) -> Result<()> {
        self.signal(Signal::SIGTERM);
        match wait_for(&mut self.child, STOP_LIMIT) {
            Some(status) if status.success() => Ok(()),
            Some(status) => {
                let said = last_words(&tail(&self.log, self.log_start));
                Err(self.failure(&format!("stopped with {status}: {said}")))
            }
            // Dropping it kills it.
            None => Err(self.failure(&format!(
                "still runs {} s after SIGTERM",
                STOP_LIMIT.as_secs()
            ))),
        }
    }

    /// Ends it with SIGKILL, as a crash would.
    pub fn crash(mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }

    /// Leaves it running when we end.
    pub fn leave(mut self) {
        self.leave = true;
    }

    fn signal(&self, signal: Signal) {
        // A child that is not yet waited for keeps its pid, so this reaches nobody else.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), signal);
    }

    fn failure(&self, what: &str) -> DemoError {
        DemoError::Daemon(format!("the daemon of {} {what}", self.node.name()))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.leave {
            return;
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::SIGTERM);
            if wait_for(&mut self.child, Duration::from_secs(2)).is_none() {
                self.signal(Signal::SIGKILL);
                let _ = self.child.wait();
            }
        }
        let _ = fs::remove_file(&self.record);
    }
}

fn wait_for(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// True once the log has the message `ready` ("… INFO ready node=…").
fn is_ready(output: &str) -> bool {
    output.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some("ready")
            || words.any(|word| word == "INFO") && words.next() == Some("ready")
    })
}

fn tail(log: &Path, start: u64) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let start = usize::try_from(start).unwrap_or(usize::MAX);
    String::from_utf8_lossy(bytes.get(start..).unwrap_or_default()).into_owned()
}

/// The line of its output that most likely says why: the last that begins with "error", or the last of all.
fn last_words(output: &str) -> String {
    let mut lines = output.lines().filter(|line| !line.trim().is_empty());
    let error = output.lines().rfind(|line| line.starts_with("error"));
    let line = error.or_else(|| lines.next_back());
    line.unwrap_or("(it wrote nothing)").trim().to_owned()
}

/// When the process started, in the kernel's clock ticks: with the pid it names one process for ever.
fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; field 22 is the 20th after it.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19).map(str::to_owned)
}

/// Ends the daemons that the records in `dir` name: those of a kept lab or of a killed demonstration.
///
/// # Errors
/// When one survives even SIGKILL.
pub fn end_recorded(dir: &Path) -> Result<()> {
    for node in Node::ALL {
        let record = dir.join(format!("{}.pid", node.name()));
        let Ok(text) = fs::read_to_string(&record) else {
            continue; // never started, or already ended
        };
        let mut fields = text.split_whitespace();
        let pid: Option<u32> = fields.next().and_then(|pid| pid.parse().ok());
        let started = fields.next().map(str::to_owned);
        let Some(pid) = pid.filter(|_| started.is_some()) else {
            continue; // cut off while it was written
        };
        let alive = || start_time(pid) == started && !is_zombie(pid);
        for (signal, limit) in [(Signal::SIGTERM, STOP_LIMIT), (Signal::SIGKILL, STOP_LIMIT)] {
            if !alive() {
                break;
            }
            let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
            let deadline = Instant::now() + limit;
            while alive() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(10));
            }
        }
        if alive() {
            return Err(DemoError::Refused(format!(
                "the daemon of {}, process {pid}, does not end",
                node.name()
            )));
        }
    }
    Ok(())
}

fn is_zombie(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| {
            stat.rsplit_once(')')
                .map(|(_, rest)| rest.trim_start().starts_with('Z'))
        })
        .unwrap_or(true)
}

/// Takes away what the daemon of a node, with this control socket, left there on purpose: closed pods, the host's port, connections.
///
/// # Errors
/// When the namespace can not be entered, or a daemon still runs there.
pub fn cleanup(netns: &str, control_socket: &Path) -> Result<()> {
    netns::within(netns, || crate::node::cleanup(control_socket))?
        .map(drop)
        .map_err(|error| DemoError::Daemon(format!("cleaning up in {netns}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_is_a_message_of_its_own() {
        assert!(is_ready("starting\nready node1 in 40 ms\n"));
        assert!(is_ready(
            "2026-11-21T01:02:03.4Z  INFO ready node=\"node1\"\n"
        ));
        assert!(!is_ready("not ready yet\nreadying\n"));
        assert!(!is_ready("T  INFO port ready\nT DEBUG ready\n"));
    }

    #[test]
    fn its_error_is_quoted_rather_than_its_last_line() {
        let usage = "error: unknown command\n\nTry '--help'.\n";
        assert_eq!(last_words(usage), "error: unknown command");
        assert_eq!(last_words("one\n two \n\n"), "two");
        assert_eq!(last_words(""), "(it wrote nothing)");
    }

    #[test]
    fn a_process_is_known_by_pid_and_start() {
        let me = std::process::id();
        assert!(start_time(me).is_some());
        assert_eq!(start_time(me), start_time(me));
        assert!(!is_zombie(me));
    }
}
