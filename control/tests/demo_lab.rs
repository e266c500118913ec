//! The lab and the checks of `caracal demo`, judged with the kernel as the dataplane: they must pass where the
//! kernel forwards, fail where nothing does, and leave nothing behind, however they end. As root.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use fastpath::io::xsk::test_support::{can_run, skipped_without};
use serde_json::Value;

/// True if the test cannot run here.
fn skipped(test: &str) -> bool {
    skipped_without(test, &["ip"]) || !can_run(test)
}

/// A lab's name that no other test or process uses.
fn lab_name(test: &str) -> String {
    format!("t{}{test}", std::process::id())
}

fn demo(lab: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_caracal"));
    command.args(["demo", "--lab", lab]).args(args);
    command
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        panic!("standard output is not one JSON document: {error}\n{stderr}")
    })
}

fn namespaces(lab: &str) -> Vec<String> {
    let prefix = format!("cara-{lab}-");
    let entries = fs::read_dir("/var/run/netns").into_iter().flatten();
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(&prefix))
        .collect()
}

#[track_caller]
fn assert_nothing_left(lab: &str) {
    assert_eq!(namespaces(lab), Vec::<String>::new());
    let state = Path::new("/run/caracal-demo").join(lab);
    let lock = state.with_extension("lock");
    for left in [&state, &lock] {
        assert!(!left.exists(), "{} is left", left.display());
    }
    assert_eq!(daemons(lab), Vec::<String>::new());
}

/// Command lines of the lab's processes.
fn daemons(lab: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .map(|entry| fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default())
        .filter(|command| command.contains("caracal") && command.contains(lab))
        .map(|command| command.replace('\0', " "))
        .collect()
}

/// Removes what a failed test leaves.
struct Cleanup(String);

impl Drop for Cleanup {
    fn drop(&mut self) {
        let _ = demo("x", &[]).args(["down", "--lab", &self.0]).output();
    }
}

fn down(lab: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_caracal"))
        .args(["demo", "down", "--lab", lab])
        .output()
        .unwrap()
}

/// Starts a demonstration and waits until it says something that begins so; it then goes on for some time.
fn start_until(lab: &str, args: &[&str], said: &str) -> Child {
    let mut child = demo(lab, args)
        .args(["--size", "1", "-o", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let progress = BufReader::new(child.stderr.take().unwrap());
    let mut lines = progress.lines().map_while(Result::ok);
    if !lines.any(|line| line.trim_start().starts_with(said)) {
        let output = child.wait_with_output().unwrap();
        panic!("it ended before '{said}': {}", json(&output)["error"]);
    }
    // Nobody may close the pipe while it writes.
    thread::spawn(move || lines.for_each(drop));
    assert_eq!(namespaces(lab).len(), 8);
    child
}

/// With no dataplane: its checks fail slowly.
fn start_long(lab: &str) -> Child {
    start_until(lab, &["--dataplane", "none"], "[1/")
}

/// With daemons, which run when this returns.
fn start_caracal(lab: &str) -> Child {
    start_until(lab, &[], "PASS vxlan")
}

fn signal(child: &Child, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, signal).unwrap();
}

#[test]
fn the_kernel_passes_every_check() {
    if skipped("the_kernel_passes_every_check") {
        return;
    }
    let lab = lab_name("k");
    let _cleanup = Cleanup(lab.clone());
    let output = demo(
        &lab,
        &["--dataplane", "kernel", "--size", "1", "-o", "json"],
    )
    .output()
    .unwrap();
    let report = json(&output);
    let failed: Vec<&Value> = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["status"] == "fail")
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(report["ok"], true);
    // 3 scenarios that every kernel has (IPIP may be missing) of 2 families, 6 conversations, 5 checks, the source of 4, and starts.
    assert!(
        report["summary"]["passed"].as_u64().unwrap() >= 4 * (2 * (6 * 5 + 4) + 1),
        "{}",
        report["summary"]
    );
    let transfer = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|check| check["what"] == "tcp")
        .unwrap();
    assert_eq!(transfer["figures"]["bytes"], 1 << 20);
    assert_eq!(transfer["figures"]["sha256"].as_str().unwrap().len(), 64);
    assert_nothing_left(&lab);
}

#[test]
fn caracal_passes_every_check() {
    if skipped("caracal_passes_every_check") {
        return;
    }
    let lab = lab_name("c");
    let _cleanup = Cleanup(lab.clone());
    let output = demo(&lab, &["--size", "1", "-o", "json"]).output().unwrap();
    let report = json(&output);
    let checks = report["checks"].as_array().unwrap();
    let failed: Vec<&Value> = checks.iter().filter(|c| c["status"] == "fail").collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(report["error"], Value::Null);
    assert_eq!(output.status.code(), Some(0));
    for step in ["stopped", "killed"] {
        let blocked = |c: &&Value| c["step"] == step && c["what"] == "blocked";
        assert!(checks.iter().filter(blocked).count() >= 8, "{step}");
    }
    let policy = |what: &str| {
        let of = |c: &&Value| c["step"] == "policy" && c["what"] == what;
        checks.iter().filter(of).count()
    };
    // The policy of pods by what was dropped; that of a host endpoint so, and by a trace in each family: by pollers, and by
    // the kernel's table, where there can be one.
    let skipped = |c: &Value| c["step"] == "policy" && c["status"] == "skipped";
    let tables = usize::from(!checks.iter().any(skipped));
    assert_eq!(policy("named"), 1 + (1 + 2) * (1 + tables));
    assert_eq!(policy("blocked"), 2 * 3 + if tables == 1 { 2 } else { 1 });
    assert_eq!(policy("connections"), 2 * tables);
    let judged = |c: &&Value| c["step"] == "interop-vxlan" && c["what"] == "tcp";
    assert_eq!(checks.iter().filter(judged).count(), 8);
    let snat = |what: &str| -> Vec<&Value> {
        let of = |c: &&Value| c["step"] == "snat" && c["what"] == what;
        checks.iter().filter(of).collect()
    };
    for what in ["refused", "expired", "mtu", "exhausted", "flood"] {
        assert_eq!(snat(what).len(), 2, "{what}");
    }
    // Of the conversations of each family, two leave all pools, three do not, and of one the client is a host.
    let sources: Vec<&str> = snat("source")
        .iter()
        .filter_map(|check| check["figures"]["source"].as_str())
        .collect();
    let (pod, pod6) = ("10.244.1.2", "fd44:0:0:1::2");
    let (node, node6) = ("172.30.1.11", "fd30:1::11");
    assert_eq!(
        sources,
        [node, node, pod, pod, pod, node6, node6, pod6, pod6, pod6]
    );
    let services = |what: &str| {
        let of = |c: &&Value| c["step"] == "services" && c["what"] == what;
        checks.iter().filter(of).count()
    };
    // Of each family: three kinds of endpoints by TCP, UDP and who is seen; none; one that goes; two policies.
    for (what, of_each) in [
        ("connections", 3 + 1 + 1),
        ("udp", 3),
        ("source", 3),
        ("refused", 1),
        ("kept", 1),
        ("blocked", 1),
    ] {
        assert_eq!(services(what), 2 * of_each, "{what}");
    }
    assert_nothing_left(&lab);
}

#[test]
fn without_forwarding_the_checks_fail() {
    if skipped("without_forwarding_the_checks_fail") {
        return;
    }
    let lab = lab_name("n");
    let _cleanup = Cleanup(lab.clone());
    let args = [
        "--dataplane",
        "none",
        "--mode",
        "direct",
        "--family",
        "ipv4",
        "--size",
        "1",
    ];
    let output = demo(&lab, &args).args(["-o", "json"]).output().unwrap();
    let report = json(&output);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(report["ok"], false);
    let pings: Vec<&Value> = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["what"] == "ping")
        .map(|check| &check["status"])
        .collect();
    assert_eq!(pings, ["fail"; 6]);
    assert_nothing_left(&lab);
}

#[test]
fn a_signal_ends_it_in_order() {
    if skipped("a_signal_ends_it_in_order") {
        return;
    }
    let lab = lab_name("s");
    let _cleanup = Cleanup(lab.clone());
    let child = start_long(&lab);
    signal(&child, nix::sys::signal::Signal::SIGTERM);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(json(&output)["error"], "interrupted");
    assert_nothing_left(&lab);
}

#[test]
fn what_a_killed_one_left_is_removed_and_a_second_one_refused() {
    if skipped("what_a_killed_one_left_is_removed_and_a_second_one_refused") {
        return;
    }
    let lab = lab_name("l");
    let _cleanup = Cleanup(lab.clone());
    let mut child = start_long(&lab);
    let second = demo(&lab, &["--dataplane", "none", "-o", "json"])
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let error = json(&second)["error"].to_string();
    assert!(
        error.contains(&format!("process {}", child.id())),
        "{error}"
    );
    assert_eq!(
        namespaces(&lab).len(),
        8,
        "the first one's lab still stands"
    );

    signal(&child, nix::sys::signal::Signal::SIGKILL);
    child.wait().unwrap();
    assert_eq!(namespaces(&lab).len(), 8, "nobody cleaned up");
    // The next start does, and a signal ends that one in order.
    let next = start_long(&lab);
    signal(&next, nix::sys::signal::Signal::SIGINT);
    let output = next.wait_with_output().unwrap();
    assert_eq!(json(&output)["error"], "interrupted");
    assert_nothing_left(&lab);
}

#[test]
fn daemons_end_with_the_demonstration_however_it_ends() {
    if skipped("daemons_end_with_the_demonstration_however_it_ends") {
        return;
    }
    let lab = lab_name("e");
    let _cleanup = Cleanup(lab.clone());
    let child = start_caracal(&lab);
    signal(&child, nix::sys::signal::Signal::SIGTERM);
    let output = child.wait_with_output().unwrap();
    assert_eq!(json(&output)["error"], "interrupted");
    assert_nothing_left(&lab);

    let mut child = start_caracal(&lab);
    signal(&child, nix::sys::signal::Signal::SIGKILL);
    child.wait().unwrap();
    assert!(!daemons(&lab).is_empty(), "orphaned, nobody ended them");
    assert_eq!(down(&lab).status.code(), Some(0));
    assert_nothing_left(&lab);
}

#[test]
fn a_kept_lab_stands_until_it_is_taken_down() {
    if skipped("a_kept_lab_stands_until_it_is_taken_down") {
        return;
    }
    let lab = lab_name("d");
    let _cleanup = Cleanup(lab.clone());
    let args = "--mode direct --family ipv4 --size 1 --keep";
    let args: Vec<&str> = args.split(' ').collect();
    let output = demo(&lab, &args).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        told.contains(&format!("caracal demo down --lab {lab}")),
        "{told}"
    );
    assert_eq!(namespaces(&lab).len(), 8);
    assert_eq!(daemons(&lab).len(), 2);
    // What it says how to ask a daemon by.
    let ask = told.lines().find_map(|line| line.strip_prefix("Ask:"));
    let ask: Vec<_> = ask.unwrap_or_default().split_whitespace().take(4).collect();
    assert_eq!(
        (ask.first(), ask.last()),
        (Some(&"caracal"), Some(&"status")),
        "{told}"
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_caracal"));
    let status = command.args(&ask[1..]).arg("--brief").output().unwrap();
    assert_eq!(status.stdout, b"OK\n", "{status:?}");
    let node = fs::metadata(format!("/var/run/netns/cara-{lab}-node1")).unwrap();
    let pins = Path::new("/sys/fs/bpf/caracal").join(node.ino().to_string());
    assert!(pins.exists(), "{}", pins.display());

    let again = demo(&lab, &["--dataplane", "none"]).output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(namespaces(&lab).len(), 8, "a kept lab is not a leftover");

    assert_eq!(down(&lab).status.code(), Some(0));
    assert_nothing_left(&lab);
    assert!(!pins.exists(), "{}", pins.display());
    assert_eq!(
        down(&lab).status.code(),
        Some(0),
        "taking down nothing is no error"
    );
}

#[test]
fn a_wrong_command_line_is_refused() {
    for args in [
        ["--mode", "gre"],
        ["--size", "0"],
        ["--family", "ipx"],
        ["--lab", "../up"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_caracal"))
            .arg("demo")
            .args(args)
            .output();
        assert_eq!(output.unwrap().status.code(), Some(2), "{args:?}");
    }
}
