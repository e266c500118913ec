//! `caracal diff` about a daemon with live connections: what it says is what then happens.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::flows::Pair;
use crate::lab::{Lab, Options};
use crate::process::{Daemon, PATIENCE};

/// A copy of the daemon's files, under another name.
fn copied(lab: &Lab, name: &str) -> PathBuf {
    let copy = lab.dir.join(name);
    fs::create_dir_all(&copy).expect("a directory");
    for file in fs::read_dir(lab.dir.join("conf.d")).expect("files") {
        let file = file.expect("a file");
        fs::copy(file.path(), copy.join(file.file_name())).expect("copy");
    }
    copy
}

/// Lets everything in but TCP to one port.
fn guard(port: u16) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {{name: guard, namespace: test}}\n\
         spec:\n  selector: all()\n  types: [Ingress]\n  ingress:\n\
         \x20   - {{action: Deny, protocol: TCP, destination: {{ports: [{port}]}}}}\n    - {{action: Allow}}\n"
    )
}

fn diff(daemon: &Daemon, dir: &Path, code: i32) -> Output {
    let dir = dir.to_str().expect("text");
    let output = daemon.caracal(&["diff", "-o", "json", "-f", dir]);
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    output
}

/// The effect that a directory would have.
fn effect(daemon: &Daemon, dir: &Path) -> Value {
    let output = diff(daemon, dir, 1);
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(answer["schema"], "caracal.diff/v1");
    answer["effect"].clone()
}

/// How many are denied, allowed, unchanged and ending.
fn numbers(effect: &Value) -> [u64; 4] {
    let denied = &effect["allowToDeny"]["connections"];
    let allowed = &effect["denyToAllow"]["connections"];
    [denied, allowed, &effect["unchanged"], &effect["ending"]]
        .map(|count| count.as_u64().expect("a number"))
}

/// How many connections are in a state.
fn count(daemon: &Daemon, state: &str) -> u64 {
    let output = daemon.caracal(&["flows", "--count", "-o", "json"]);
    let counts: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    counts["counts"]["state"][state].as_u64().unwrap_or(0)
}

/// Waits until something holds.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn reevaluating() -> Options {
    Options {
        settings: "reevaluateEstablished: true\n".to_owned(),
        ..Options::default()
    }
}

#[test]
fn what_it_says_of_connections_is_what_happens() {
    let test = "diff::what_it_says_of_connections_is_what_happens";
    let Some(mut lab) = Lab::with(test, reevaluating()) else {
        return;
    };
    let (a, b) = (lab.pod(0), lab.pod(1));
    let mut daemon = Daemon::start(&lab);
    daemon.wait_for("interface=\"cali1\"");
    let open = || Pair::open((&a.netns, a.v4()), (&b.netns, b.v4()));
    let (mut first, mut second, mut back) = (
        open(),
        open(),
        Pair::open((&b.netns, b.v4()), (&a.netns, a.v4())),
    );
    for pair in [&mut first, &mut second, &mut back] {
        pair.talk();
    }
    first.server.set_read_timeout(Some(PATIENCE)).expect("set");
    until("nothing else", || count(&daemon, "ESTABLISHED") == 3);

    // The same files change nothing, wherever they are.
    let same = copied(&lab, "same");
    for dir in [&same, &lab.dir.join("conf.d")] {
        let answer: Value = serde_json::from_slice(&diff(&daemon, dir, 0).stdout).expect("JSON");
        assert_eq!(
            (&answer["different"], &answer["effect"]),
            (&false.into(), &Value::Null)
        );
    }

    // One of three would be denied, and is.
    let next = copied(&lab, "next");
    fs::write(next.join("guard.yaml"), guard(first.at.port())).expect("write");
    let said = effect(&daemon, &next);
    assert_eq!(numbers(&said), [1, 0, 2, 0], "{said:#}");
    assert_eq!(
        (&said["endpoints"], &said["connections"], &said["inForce"]),
        (&2.into(), &3.into(), &"files".into())
    );
    let example = &said["allowToDeny"]["example"];
    let (client, at) = (first.client.local_addr().expect("bound"), first.at);
    assert_eq!(
        (
            &example["src"],
            &example["srcPort"],
            &example["dst"],
            &example["dstPort"]
        ),
        (
            &client.ip().to_string().into(),
            &client.port().into(),
            &at.ip().to_string().into(),
            &at.port().into()
        )
    );
    let rule = example["rule"].as_str().expect("a rule");
    assert!(
        rule.contains("NetworkPolicy test/guard, ingress rule 1 (Deny)")
            && rule.ends_with("next/guard.yaml:8"),
        "{rule}"
    );
    let text = daemon.caracal(&["diff", "-f", next.to_str().expect("text")]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    for line in [
        "+ NetworkPolicy test/guard",
        "Effect on 2 local endpoints, judging the 3 live connections by the new rules:",
        &format!("e.g. {client} -> {at}/tcp   by tier default: NetworkPolicy test/guard"),
        "reevaluateEstablished is on",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert_eq!(count(&daemon, "DENIED"), 0, "it was only asked");
    put(&lab, &mut daemon, "guard.yaml", Some(&guard(at.port())));
    first.client.write_all(b"late").expect("send");
    second.talk();
    back.talk();
    until("one ends", || count(&daemon, "DENIED") == 1);
    assert_eq!(count(&daemon, "ESTABLISHED"), 2);

    // What is denied would be allowed, and is.
    let said = effect(&daemon, &same);
    assert_eq!(numbers(&said), [0, 1, 2, 0], "{said:#}");
    put(&lab, &mut daemon, "guard.yaml", None);
    let mut heard = [0; 4];
    first.server.read_exact(&mut heard).expect("sent again");
    assert_eq!(&heard, b"late");
    until("it goes on", || count(&daemon, "DENIED") == 0);

    // Connections end with their endpoint.
    fs::remove_file(same.join("pod-1.yaml")).expect("remove");
    let said = effect(&daemon, &same);
    assert_eq!(
        numbers(&said)[3],
        said["connections"].as_u64().expect("a number")
    );
    assert_eq!(
        (&said["endpoints"], &said["notJudged"]),
        (&1.into(), &0.into())
    );
    daemon.finish();
}

/// Writes or removes a file, and waits until pollers go by it.
fn put(lab: &Lab, daemon: &mut Daemon, file: &str, text: Option<&str>) {
    let lines = daemon.log_len();
    let before = daemon.state()["generation"].as_u64();
    match text {
        Some(text) => lab.resource(file, text),
        None => fs::remove_file(lab.dir.join("conf.d").join(file)).expect("remove"),
    }
    daemon.wait_after(lines, "resources loaded");
    until("pollers have it", || {
        let state = daemon.state();
        let has = |poller: &Value| poller["generation"] == state["generation"];
        let pollers = state["pollers"].as_array().expect("a list");
        state["generation"].as_u64() > before && pollers.iter().all(has)
    });
}

#[test]
fn files_that_are_refused_are_told_of_on_either_side() {
    let test = "diff::files_that_are_refused_are_told_of_on_either_side";
    let Some(mut lab) = Lab::new(test) else {
        return;
    };
    let (a, b) = (lab.pod(0), lab.pod(1));
    let mut daemon = Daemon::start(&lab);
    daemon.wait_for("interface=\"cali1\"");
    let mut pair = Pair::open((&a.netns, a.v4()), (&b.netns, b.v4()));
    pair.talk();
    let next = copied(&lab, "next");
    fs::write(next.join("guard.yaml"), guard(pair.at.port())).expect("write");

    // The candidate's: as `caracal validate` says it.
    let bad = copied(&lab, "bad");
    fs::write(bad.join("bad.yaml"), "kind: [").expect("write");
    let bad = bad.to_str().expect("text");
    let (said, validate) = (
        daemon.caracal(&["diff", "-f", bad]),
        daemon.caracal(&["validate", "-f", bad, "--node", "node1"]),
    );
    assert_eq!(said.status.code(), Some(3));
    assert_eq!(
        (said.stdout, said.stderr),
        (validate.stdout, validate.stderr)
    );

    // The daemon's: what is in force is in no file, and connections tell.
    lab.resource("bad.yaml", "kind: [");
    daemon.wait_for("bad resources; the state before stays in force");
    let output = diff(&daemon, &next, 1);
    let warning = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        warning.contains("the daemon has refused the files that are in"),
        "{warning}"
    );
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let said = &answer["effect"];
    assert_eq!(numbers(said), [1, 0, 0, 0], "{said:#}");
    assert_eq!(
        (&said["inForce"], &said["reevaluateEstablished"]),
        (&"tables".into(), &false.into())
    );
    pair.talk();
    daemon.finish();
    let gone = daemon.caracal(&["diff", "-f", next.to_str().expect("text")]);
    assert_eq!(gone.status.code(), Some(4), "{gone:?}");
}

#[test]
fn under_felix_there_is_nothing_to_compare_with() {
    let test = "diff::under_felix_there_is_nothing_to_compare_with";
    let Some(lab) = crate::felix::lab(test) else {
        return;
    };
    let mut daemon = Daemon::spawn(&lab);
    daemon.wait_for("is not read: ");
    until("it answers", || {
        daemon.caracal(&["status", "--brief"]).status.code() != Some(4)
    });
    let output = daemon.caracal(&["diff", "-f", lab.dir.join("conf.d").to_str().expect("text")]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("from Felix"), "{said}");
    assert!(output.stdout.is_empty());
    daemon.terminate();
}
