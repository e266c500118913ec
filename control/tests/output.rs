//! What commands do whose output cannot be written, and with what the command line has wrong. Without a daemon.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use control::api::Response;
use serde_json::Value;

const CASE: &str = "../pcap-tests/cases/vxlan-across-nodes";

fn caracal(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_caracal"));
    command.args(args);
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Commands that need no daemon, and what they come to.
fn commands(out: &Path) -> Vec<(Vec<String>, i32)> {
    let texts = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let out = out.display();
    vec![
        (texts("--help"), 0),
        (texts("--version"), 0),
        (texts("help flows"), 0),
        (texts("explain policy-deny"), 0),
        (texts("completion bash"), 0),
        (texts("man"), 0),
        (texts("explain --list -o json"), 0),
        (texts(&format!("validate -f {CASE}/pool.yaml")), 0),
        (texts(&format!("validate -f {CASE}/pool.yaml -o json")), 0),
        (texts("config show --config examples/caracal.yaml"), 0),
        (
            texts("config show --config examples/caracal.yaml --effective -o json"),
            0,
        ),
        (texts("policy validate -f examples/policy"), 0),
        (texts("policy validate -f examples/policy -o json"), 0),
        (texts("policy test examples/policy/shop.test.yaml"), 0),
        (
            texts("policy test examples/policy/shop.test.yaml -o json"),
            0,
        ),
        (texts("policy test tests/policy-tests/wrong.yaml"), 1),
        (
            texts("policy show --endpoint shop/backend -f examples/policy"),
            0,
        ),
        (
            texts(&format!(
                "replay --config ../pcap-tests/cases/cluster.yaml --config {CASE}/pool.yaml --node node1 \
                 --kernel ../pcap-tests/cases/kernel.yaml --in calia={CASE}/in-calia.pcap --out {out}"
            )),
            0,
        ),
    ]
}

/// A directory that goes away with its test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("caracal-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn output_that_cannot_be_written_is_one_error() {
    let scratch = Scratch::new("full");
    for (args, _) in commands(&scratch.0) {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = caracal(&args).stdout(full).output().unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        let error = "error: the output cannot be written: No space left on device (os error 28)";
        assert_eq!(said.lines().last(), Some(error), "{args:?}");
        assert_eq!(said.matches("error").count(), 2, "{args:?}: {said}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_changes_nothing() {
    let scratch = Scratch::new("gone");
    for (args, code) in commands(&scratch.0) {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = caracal(&args).stdout(writer).output().unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(!said.contains("error"), "{args:?}: {said}");
    }
}

#[test]
fn answers_of_the_daemon_that_cannot_be_written_are_an_error_too() {
    let scratch = Scratch::new("daemon");
    let path = scratch.0.join("socket");
    let answers = [
        ("status", include_str!("golden/status.json")),
        ("ports", include_str!("golden/ports.json")),
        ("drops", include_str!("golden/drops.json")),
        ("routes", include_str!("golden/routes.json")),
        ("services", include_str!("golden/services.json")),
        ("flows", include_str!("golden/flows.json")),
        ("observe", include_str!("golden/observe.json")),
        (
            "trace --from a --to b --port 80",
            r#"{"packet":"p","steps":[],"verdict":"DROP","reason":null,"entry":null,"staged":[]}"#,
        ),
    ];
    for (args, answer) in answers {
        let listener = UnixListener::bind(&path).unwrap();
        let daemon = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap());
            let mut question = String::new();
            lines.read_line(&mut question).unwrap();
            let mut stream = stream;
            let mut answer: Value = serde_json::from_str(answer).unwrap();
            if answer["next"].is_string() {
                // The only page.
                answer["next"] = Value::Null;
            }
            let outcome = Ok(answer);
            let response = Response {
                id: Some(1),
                outcome,
            };
            stream.write_all(response.to_line().as_bytes()).unwrap();
            question
        });
        let full = File::options().write(true).open("/dev/full").unwrap();
        let socket = path.display().to_string();
        let mut all = vec!["--socket", socket.as_str()];
        all.extend(args.split(' '));
        let output = caracal(&all).stdout(full).output().unwrap();
        let question = daemon.join().unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{question}: {said}");
        assert!(
            said.starts_with("error: the output cannot be written"),
            "{said}"
        );
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn wrong_questions_are_refused_before_a_daemon_is_asked() {
    let ask = ["--socket", "/nowhere", "trace", "--from", "a"];
    for (args, expected) in [
        (vec![], "TCP needs --port PORT"),
        (vec!["--proto", "udp"], "UDP needs --port PORT"),
        (vec!["--proto", "132"], "SCTP needs --port PORT"),
        (vec!["--proto", "tcp", "--port", "0"], "invalid value '0'"),
        (vec!["--proto", "0"], "unknown protocol `0`"),
        (vec!["--proto", "256"], "unknown protocol `256`"),
        (vec!["--proto", "tcq"], "unknown protocol `tcq`"),
        (vec!["--proto", "icmp", "--port", "80"], "ICMP has no ports"),
        (
            vec!["--to", "b:81", "--port", "80"],
            "--to says port 81, and --port says 80",
        ),
    ] {
        let mut all = ask.to_vec();
        if !args.contains(&"--to") {
            all.extend(["--to", "b"]);
        }
        all.extend(args);
        let output = caracal(&all).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{all:?}: {}", said(&output));
        assert!(said(&output).contains(expected), "{}", said(&output));
    }
    let output = caracal(&["demo", "--step", "foo,snat"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    let expected = "error: no step \"foo\" of these modes: vxlan, policy, stopped, killed, snat";
    assert!(said(&output).contains(expected), "{}", said(&output));
}
