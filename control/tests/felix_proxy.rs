//! `caracal felix-proxy` where it is not what it should be. How it works is in the daemon's tests.

use std::os::unix::fs::symlink;
use std::process::{Command, Output, Stdio};

/// Runs it with whatever descriptors `exec` of a shell makes, and a socket that nobody listens on.
fn run(exec: &str, program: &str) -> Output {
    Command::new("sh")
        .args(["-c", &format!("exec {exec}; exec \"$0\" \"$@\"")])
        .arg(program)
        .args((!program.ends_with("felix-api-proxy")).then_some("felix-proxy"))
        .env("CARACAL_FELIX_SOCKET", "/nonexistent/felix.sock")
        .stdin(Stdio::piped())
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn without_felix_it_says_who_starts_it() {
    for exec in ["3<&- 4>&-", "3</dev/null 4>/dev/null"] {
        let output = run(exec, env!("CARGO_BIN_EXE_caracal"));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = said(&output);
        assert!(said.contains("descriptor 3 is no pipe"), "{said}");
        assert!(said.contains("FELIX_DATAPLANEDRIVER"), "{said}");
        assert_eq!(said.lines().count(), 1);
    }
}

/// It waits for the daemon a while, under the name of Calico's operator as under its own.
#[test]
fn without_the_daemon_it_ends_by_itself() {
    let dir = std::env::temp_dir().join(format!("car-{}-proxy", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    let plugin = dir.join("felix-api-proxy");
    symlink(env!("CARGO_BIN_EXE_caracal"), &plugin).unwrap();
    let output = run("3<&0 4>&1 </dev/null >&2", plugin.to_str().unwrap());
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let said = said(&output);
    assert!(
        said.contains("/nonexistent/felix.sock: the daemon does not answer"),
        "{said}"
    );
}
