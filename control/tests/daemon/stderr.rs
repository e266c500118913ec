//! A daemon whose standard error cannot be written goes on.

use std::fs::File;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::{Lab, run};
use crate::process::PATIENCE;

#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let test = "stderr::a_log_that_cannot_be_written_ends_nothing";
    let Some(lab) = Lab::new(test) else {
        return;
    };
    let (reader, gone) = std::io::pipe().expect("a pipe");
    drop(reader);
    let full = File::options().write(true).open("/dev/full");
    for stderr in [Stdio::from(gone), Stdio::from(full.expect("/dev/full"))] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_caracal"));
        command.args(["run", "--log", "trace", "--config"]);
        command.arg(lab.config()).stderr(stderr);
        let mut child = run(&lab.node, || command.spawn()).expect("start caracal");
        let deadline = Instant::now() + PATIENCE;
        let ended = loop {
            let mut status = Command::new(env!("CARGO_BIN_EXE_caracal"));
            status.arg("status").arg("--socket");
            status.arg(lab.dir.join("control.sock"));
            let answered = status.output().expect("caracal").status.code() == Some(0);
            let ended = child.try_wait().expect("wait");
            if answered || ended.is_some() || Instant::now() > deadline {
                break ended;
            }
            thread::sleep(Duration::from_millis(50));
        };
        assert_eq!(ended, None, "it ended by itself");
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).expect("SIGTERM");
        assert_eq!(child.wait().expect("wait").code(), Some(0));
    }
}
