//! `caracal observe` about real connections through a real daemon, and what names their denials.

use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, UdpSocket};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab::{Lab, Pod, run};
use crate::process::{Daemon, PATIENCE};
use crate::traffic::{Echo, reaches};

/// Pods take UDP port 7, and log that; nothing is said about the rest.
const GUARD: &str = "apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: guard, namespace: test}
spec:
  selector: all()
  types: [Ingress]
  ingress:
    - {action: Log, protocol: UDP}
    - {action: Allow, protocol: UDP, destination: {ports: [7]}}
";

const NOBODY: &str =
    "no rule matched in tier default; NetworkPolicy test/guard selects this endpoint";

/// A command that goes on, and its lines as they come.
struct Following {
    child: Child,
    lines: Receiver<Value>,
}

impl Following {
    fn start(daemon: &Daemon, words: &[&str]) -> Self {
        let words = [&["observe", "-f", "-o", "json"], words].concat();
        let mut command = daemon.command(&words);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("caracal");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (send, lines) = channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let value = serde_json::from_str(&line).expect("a JSON object a line");
                if send.send(value).is_err() {
                    break;
                }
            }
        });
        Self { child, lines }
    }

    /// Sends again and again until a record of this verdict comes.
    fn wait_for(&self, verdict: &str, mut send: impl FnMut()) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            send();
            while let Ok(line) = self.lines.recv_timeout(Duration::from_millis(200)) {
                assert_eq!(line["schema"], "caracal.observe/v1");
                if line["flow"]["verdict"] == verdict {
                    return line["flow"].clone();
                }
            }
            assert!(
                Instant::now() < deadline,
                "no {verdict} connection is told of"
            );
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is known of, with these words.
fn known(daemon: &Daemon, words: &[&str]) -> Vec<Value> {
    let output = daemon.caracal(&[&["observe", "-o", "json"], words].concat());
    assert!(output.status.success(), "{words:?}: {output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    let lines = text.lines().map(|line| {
        let mut value: Value = serde_json::from_str(line).expect("a JSON object a line");
        value["flow"].take()
    });
    lines.collect()
}

/// Sends a datagram from a port that nobody had before.
fn send(from: &Pod, to: IpAddr, port: u16) -> u16 {
    let socket = run(&from.netns, || UdpSocket::bind((from.v4(), 0))).expect("bind");
    socket.send_to(b"hello", (to, port)).expect("send");
    socket.local_addr().expect("bound").port()
}

#[test]
fn connections_are_told_as_they_begin() {
    let Some(mut lab) = Lab::new("observe::connections_are_told_as_they_begin") else {
        return;
    };
    let (a, b) = (lab.pod(0), lab.pod(1));
    lab.resource("guard.yaml", GUARD);
    let file = lab.dir.join("conf.d/guard.yaml");
    let nobody = format!("{NOBODY}, {}:3", file.display());
    let mut daemon = Daemon::start(&lab);
    daemon.wait_for("interface=\"cali1\"");
    let nothing = daemon.caracal(&["observe"]);
    assert!(nothing.status.success() && nothing.stdout.is_empty());
    let why = String::from_utf8_lossy(&nothing.stderr);
    assert!(
        why.starts_with("no such record; connections are recorded while"),
        "{why}"
    );
    let echo = Echo::at(&b.netns, b.v4());
    reaches(&a.netns, a.v4(), echo.addr());

    // Nobody observes: what is to be logged is known all the same.
    let logged = known(&daemon, &[]);
    let first = logged.first().expect("a record");
    assert_eq!(
        (
            &first["verdict"],
            &first["src"]["endpoint"],
            &first["dst"]["port"]
        ),
        (&"logged".into(), &"test/p0".into(), &7.into())
    );
    let rule = &first["by"][0];
    assert_eq!(rule["why"]["policy"], "NetworkPolicy test/guard");
    assert_eq!(
        (&rule["why"]["rule"], &rule["why"]["line"]),
        (&1.into(), &8.into())
    );
    assert!(
        logged.iter().all(|it| it["verdict"] == "logged"),
        "{logged:#?}"
    );

    let following = Following::start(&daemon, &["--last", "0"]);
    let allowed = following.wait_for("allowed", || {
        send(&a, b.v4(), 7);
    });
    assert_eq!(
        (
            &allowed["protocol"],
            &allowed["dst"]["endpoint"],
            &allowed["interface"]
        ),
        (&"udp".into(), &"test/p1".into(), &"cali0".into())
    );
    assert_eq!(
        allowed["by"][0]["text"],
        "profile kns.test, egress rule 1 (Allow)"
    );
    assert_eq!(allowed["by"][1]["why"]["rule"], 2, "{allowed:#}");
    let denied = following.wait_for("denied", || {
        send(&a, b.v4(), 9);
    });
    assert_eq!(
        (&denied["reason"], &denied["dst"]["port"]),
        (&"policy-deny".into(), &9.into())
    );
    let by = &denied["by"][0];
    assert_eq!(
        (&by["text"], &by["endpoint"]),
        (&nobody.as_str().into(), &"test/p1".into())
    );

    // What is kept can be asked for.
    let address = a.v4().to_string();
    let meant = [
        "--verdict",
        "denied",
        "--pod",
        "test/p1",
        "--port",
        "9",
        "--proto",
        "udp",
    ];
    let meant = [&meant[..], &["--ip", &address]].concat();
    let found = known(&daemon, &meant);
    assert!(!found.is_empty() && found.iter().all(|it| it["verdict"] == "denied"));
    assert_eq!(
        known(&daemon, &["--pod", "test/p1", "--port", "10"]),
        [] as [Value; 0]
    );
    let output = daemon.caracal(&[&["observe", "--last", "1"], &meant[..]].concat());
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(
        text.contains("DENIED   udp   test/p0:") && text.contains(" -> test/p1:9  policy-deny"),
        "{text}"
    );
    assert!(
        text.contains(&format!("[ingress of test/p1: {nobody}]")),
        "{text}"
    );

    // The same names in what counts.
    let drops = daemon.caracal(&["drops"]);
    let drops = String::from_utf8(drops.stdout).expect("text");
    assert!(
        drops.contains(&format!("Denied: {nobody} (ingress): ")),
        "{drops}"
    );
    let shown = daemon.caracal(&["policy", "show", "--endpoint", "test/p1"]);
    let shown = String::from_utf8(shown.stdout).expect("text");
    let line = shown.lines().find(|line| line.contains(&nobody));
    let line = line.unwrap_or_else(|| panic!("{shown}"));
    assert!(
        line.contains("else: Deny (") && !line.contains("[0 connections"),
        "{line}"
    );

    // Who has gone observes no longer.
    drop(following);
    let deadline = Instant::now() + PATIENCE;
    let is_only_logged = |port: u16| {
        let told = known(&daemon, &["--port", &port.to_string()]);
        !told.is_empty() && told.iter().all(|it| it["verdict"] == "logged")
    };
    while !is_only_logged(send(&a, b.v4(), 7)) {
        assert!(Instant::now() < deadline, "still observed");
        thread::sleep(Duration::from_millis(100));
    }
    for (words, code, says) in [
        (&["--proto", "tpc"][..], 2, "unknown protocol"),
        (&["--ip", "10.0.0"], 2, "neither an address nor a network"),
    ] {
        let output = daemon.caracal(&[&["observe"], words].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
        assert!(said.contains(says), "{words:?}: {said}");
    }
    daemon.finish();
}
