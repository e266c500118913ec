//! The daemon as a child process.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::lab::{Lab, run};

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon in the node's namespace. Killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    socket: PathBuf,
    log: Arc<Log>,
    reader: Option<JoinHandle<()>>,
    /// When it was started.
    pub(crate) started: Instant,
}

#[derive(Default)]
struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    more: Condvar,
}

impl Daemon {
    /// Starts it and waits until it says that it is ready.
    pub(crate) fn start(lab: &Lab) -> Self {
        let mut daemon = Self::spawn(lab);
        daemon.wait_for("ready");
        daemon
    }

    /// Starts it.
    pub(crate) fn spawn(lab: &Lab) -> Self {
        Self::spawn_by(lab, &mut Command::new(env!("CARGO_BIN_EXE_caracal")))
    }

    /// Starts it by a command that runs what follows.
    pub(crate) fn spawn_by(lab: &Lab, command: &mut Command) -> Self {
        command
            .args(["--no-color", "run", "--config"])
            .arg(lab.config())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = run(&lab.node, || command.spawn()).expect("start caracal");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let log = Arc::new(Log::default());
        let shared = Arc::clone(&log);
        let reader = thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                shared
                    .lines
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
                    .push(line);
                shared.more.notify_all();
            }
            shared
                .lines
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .1 = true;
            shared.more.notify_all();
        });
        Self {
            child,
            socket: lab.dir.join("control.sock"),
            log,
            reader: Some(reader),
            started,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line of the log that holds `text`.
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        self.wait_after(0, text)
    }

    /// Waits for a line that holds `text` and comes after the first `skip` lines.
    pub(crate) fn wait_after(&mut self, skip: usize, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self
            .log
            .lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(line) = lines.0.iter().skip(skip).find(|line| line.contains(text)) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !lines.1 && !left.is_zero(),
                "the daemon did not say {text:?}:\n{}",
                lines.0.join("\n")
            );
            lines = self.log.more.wait_timeout(lines, left).expect("log").0;
        }
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> &std::path::Path {
        &self.socket
    }

    /// `caracal COMMAND` for it.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_caracal"));
        command.args(words).arg("--socket").arg(&self.socket);
        command
    }

    /// Runs `caracal COMMAND` for it.
    pub(crate) fn caracal(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("caracal")
    }

    /// What `caracal COMMAND` says of it.
    fn ask(&self, words: &[&str]) -> String {
        String::from_utf8_lossy(&self.caracal(words).stdout).into_owned()
    }

    /// What `caracal status` says of it.
    pub(crate) fn state(&self) -> Value {
        serde_json::from_str(&self.ask(&["status", "-o", "json"])).expect("status")
    }

    /// Ends it in order, when every packet that came in has met its one fate.
    pub(crate) fn finish(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        // Those that run once more with flows in the kernel do so.
        let offload = &self.state()["offload"];
        assert!(
            crate::SETTINGS.is_empty() || offload.is_object(),
            "{offload}"
        );
        loop {
            let accounting = self.state()["accounting"].clone();
            if accounting["balanced"] == true {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "packets are lost count of: {accounting}"
            );
            thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(self.terminate().code(), Some(0), "{}", self.log());
    }

    /// How many lines it has logged.
    pub(crate) fn log_len(&self) -> usize {
        self.log
            .lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .len()
    }

    /// All it has logged.
    pub(crate) fn log(&self) -> String {
        self.log
            .lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .join("\n")
    }

    /// Ends it by SIGTERM.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        kill(
            Pid::from_raw(self.child.id().cast_signed()),
            Signal::SIGTERM,
        )
        .expect("SIGTERM");
        self.wait()
    }

    /// Ends it by SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("SIGKILL");
        self.child.wait().expect("wait");
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                break status;
            }
            assert!(
                Instant::now() < deadline,
                "the daemon does not end:\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(10));
        };
        if let Some(reader) = self.reader.take() {
            reader.join().expect("reader");
        }
        status
    }

    /// How many descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .expect("/proc")
            .count()
    }

    /// CPU time it has used, in clock ticks of 10 ms.
    pub(crate) fn ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("/proc");
        let after = stat.rsplit_once(')').expect("a name").1;
        let fields: Vec<&str> = after.split_whitespace().collect();
        let number = |index: usize| fields[index].parse::<u64>().expect("a number");
        number(11) + number(12)
    }

    /// A line of `/proc/PID/status`.
    pub(crate) fn status(&self, key: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("/proc");
        let line = status.lines().find(|line| line.starts_with(key));
        line.unwrap_or_default().to_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("its drops:\n{}", self.ask(&["drops"]));
        }
        // Gone already, when all went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
    }
}
