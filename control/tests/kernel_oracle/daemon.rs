//! `caracal run` in a lab's namespace.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use control::netlink::NetNs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::Lab;
use crate::plan::{NODE, UPLINK};

const CARACAL: &str = env!("CARGO_BIN_EXE_caracal");
/// How long it may take to be ready, and to end, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running daemon. Ended when dropped, and what it leaves closed opened.
pub(crate) struct Daemon {
    child: Child,
    netns: NetNs,
    log: PathBuf,
}

impl Daemon {
    /// Starts it with these resources and waits until it is ready.
    pub(crate) fn start(lab: &Lab, part: &str, resources: &str) -> Self {
        let dir = lab.dir();
        let log = dir.join("caracal.log");
        let conf = dir.join("conf.d");
        fs::create_dir_all(&conf).expect("a directory for resources");
        fs::write(conf.join("cluster.yaml"), resources).expect("write resources");
        let config = dir.join("caracal.yaml");
        let socket = dir.join("control.sock");
        let text = format!(
            "nodeName: {NODE}\nuplinks:\n  - interface: {UPLINK}\nmaxPods: 4\ncontrolSocket: {}\n",
            socket.display()
        );
        fs::write(&config, text).expect("write the configuration");
        let output = File::create(&log).expect("a log");
        let name = lab.name_of(part);
        let child = lab.within(part, || {
            Command::new(CARACAL)
                .arg("run")
                .arg("--config")
                .arg(&config)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(output)
                .spawn()
                .expect("start caracal")
        });
        let mut daemon = Self {
            child,
            netns: NetNs::named(&name).expect("its namespace"),
            log,
        };
        daemon.wait_ready();
        daemon
    }

    fn wait_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            if log.lines().any(|line| line.contains(" INFO ready")) {
                return;
            }
            let ended = self.child.try_wait().expect("its state");
            assert!(ended.is_none(), "caracal ended at start:\n{log}");
            assert!(Instant::now() < deadline, "caracal is not ready:\n{log}");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            eprintln!("caracal said:\n{log}");
        }
        // Not waited for yet, so the number is still its own.
        let _ = kill(
            Pid::from_raw(self.child.id().cast_signed()),
            Signal::SIGTERM,
        );
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() >= deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
            thread::sleep(Duration::from_millis(5));
        }
        let _ = self
            .netns
            .run(|| Command::new(CARACAL).arg("cleanup").output());
    }
}
