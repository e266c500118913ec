//! `caracal diff` of files and files, as a user runs it, and of what a daemon answers.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};

use control::api::{ApiError, ErrorCode, Response};
use serde_json::{Value, json};

fn diff(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_caracal"))
        .arg("diff")
        .args(args)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Compares with a committed file; with `CARACAL_BLESS=1` writes it instead.
#[track_caller]
fn golden(name: &str, text: &str) {
    let path = Path::new("tests/golden").join(name);
    if std::env::var_os("CARACAL_BLESS").is_some_and(|value| value == "1") {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, expected, "if this is meant: CARACAL_BLESS=1");
}

const BOTH: [&str; 4] = ["-f", "tests/diff/new", "--against", "tests/diff/old"];

#[test]
fn what_differs_is_said_by_resource_and_field() {
    for (more, file) in [
        (&[][..], "diff.txt"),
        (&["--node", "worker1"], "diff.txt"),
        (&["-o", "json"], "diff.json"),
    ] {
        let output = diff(&[&BOTH, more].concat());
        assert_eq!(text(&output.stderr), "");
        assert_eq!(output.status.code(), Some(1));
        golden(file, &text(&output.stdout));
    }
}

#[test]
fn a_set_does_not_differ_from_itself() {
    for set in ["tests/diff/old", "tests/diff/new", "examples/conf.d"] {
        let output = diff(&["-f", set, "--against", set]);
        assert_eq!(text(&output.stdout), "no differences\n");
        assert_eq!(output.status.code(), Some(0));
        let output = diff(&["-f", set, "--against", set, "-o", "json"]);
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["schema"], "caracal.diff/v1");
        assert_eq!(answer["different"], false);
        assert_eq!(output.status.code(), Some(0));
    }
    // Nor from its files in another order.
    let (first, second) = ("examples/conf.d/cluster.yaml", "examples/conf.d/web.yaml");
    let output = diff(&["-f", second, "-f", first, "--against", "examples/conf.d"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn bad_files_of_either_side_are_told_as_validate_does() {
    let (bad, good) = ("tests/bad-config/pools.yaml", "tests/diff/old");
    for more in [&[][..], &["-o", "json"]] {
        let validate = Command::new(env!("CARGO_BIN_EXE_caracal"))
            .args([&["validate", "-f", bad], more].concat())
            .output()
            .unwrap();
        assert_eq!(validate.status.code(), Some(3));
        for args in [
            ["-f", bad, "--against", good],
            ["-f", good, "--against", bad],
        ] {
            let output = diff(&[&args, more].concat());
            assert_eq!(output.status.code(), Some(3));
            assert_eq!(text(&output.stdout), text(&validate.stdout));
            assert_eq!(text(&output.stderr), text(&validate.stderr));
        }
    }
    // What is wrong for a node only.
    let output = diff(&[&BOTH[..], &["--node", "worker3"]].concat());
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("no Node resource is called `worker3`"));
}

#[test]
fn whatever_fails_ends_with_more_than_1() {
    let full = std::fs::File::create("/dev/full").unwrap();
    for (args, code, says) in [
        (&["--against", "tests/diff/old"][..], 2, "--filename"),
        (
            &["-f", "tests/diff/old", "--socket", "/nowhere"],
            4,
            "no daemon answers at /nowhere",
        ),
        (&["-f", "-", "--against", "-"], 2, "once only"),
        (
            &["-f", "tests/diff/none", "--against", "tests/diff/old"],
            3,
            "tests/diff/none",
        ),
        (
            &["-f", "tests/diff/old", "--node", "worker1"],
            2,
            "--against",
        ),
    ] {
        let output = diff(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        assert!(text(&output.stderr).contains(says), "{args:?}: {output:?}");
        assert_eq!(text(&output.stdout), "");
    }
    let status = Command::new(env!("CARGO_BIN_EXE_caracal"))
        .arg("diff")
        .args(BOTH)
        .stdout(full)
        .stderr(std::process::Stdio::null())
        .status();
    assert_eq!(status.unwrap().code(), Some(2));
}

/// Answers in turn, as a daemon; what was asked.
fn answered(answers: Vec<Result<Value, ApiError>>, args: &[&str]) -> (Output, Vec<Value>) {
    let name = format!("caracal-diff-{}-{}", std::process::id(), answers.len());
    let path = std::env::temp_dir().join(name);
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    let daemon = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let mut asked = Vec::new();
        for outcome in answers {
            let Some(Ok(line)) = lines.next() else { break };
            asked.push(serde_json::from_str(&line).unwrap());
            let id = Some(asked.len() as u64);
            let response = Response { id, outcome };
            stream.write_all(response.to_line().as_bytes()).unwrap();
        }
        asked
    });
    let output = diff(&[&["--socket", path.to_str().unwrap()], args].concat());
    let asked = daemon.join().unwrap();
    std::fs::remove_file(&path).unwrap();
    (output, asked)
}

fn status() -> Value {
    let status = std::fs::read_to_string("tests/golden/status.json").unwrap();
    let mut status: Value = serde_json::from_str(&status).unwrap();
    status["datastore"]["path"] = json!("tests/diff/old");
    status["datastore"]["error"] = Value::Null;
    status
}

/// A part of the tables, with a connection of each of these protocols to the pod.
fn part(protocols: &[&str], next: Option<usize>) -> Value {
    let direction = |port: &str| json!({ "port": port, "node": null, "origin": "port 1", "packets": 1, "bytes": 99, "generation": 1 });
    let flow = |protocol: &&str| {
        json!({
            "protocol": protocol, "state": "ESTABLISHED", "src": "198.51.100.9", "src_port": 4000, "dst": "10.244.235.133",
            "dst_port": 80, "icmp_id": null, "snat": null, "endpoint": null, "original": direction("ens1f0"),
            "reply": direction("cali5b9a4c3d2e1"), "idle_seconds": 0, "expires_seconds": 9,
        })
    };
    let flows: Vec<_> = protocols.iter().map(flow).collect();
    json!({ "matched": flows.len(), "busy": 1, "flows": flows, "counts": null, "next": next })
}

#[test]
fn connections_are_asked_for_part_by_part() {
    let parts = [
        part(&["tcp"], Some(5)),
        part(&["tcp", "udp"], Some(9)),
        part(&["tcp"], None),
    ];
    let answers = [status()].into_iter().chain(parts).map(Ok).collect();
    let (output, asked) = answered(answers, &["-f", "tests/diff/new", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let from = |asked: &Value| asked["params"]["from"].as_u64();
    let from: Vec<_> = asked.iter().skip(1).map(from).collect();
    assert_eq!(from, [Some(0), Some(5), Some(9)]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let effect = &answer["effect"];
    // The label has another policy allow what the one of Kubernetes does not; it denies UDP.
    assert_eq!(effect["denyToAllow"]["connections"], 3, "{effect:#}");
    assert_eq!(
        (&effect["unchanged"], &effect["notSeen"]),
        (&1.into(), &3.into())
    );
    let example = &effect["denyToAllow"]["example"];
    let rule = example["rule"].as_str().unwrap();
    assert!(
        rule.contains("NetworkPolicy prod/frontend, ingress rule 2 (Allow)"),
        "{rule}"
    );
}

#[test]
fn a_daemon_that_refuses_or_whose_files_are_not_there_is_trouble() {
    let refusal = ApiError::new(ErrorCode::Internal, "no poller runs");
    let (output, _) = answered(vec![Ok(status()), Err(refusal)], &["-f", "tests/diff/new"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output.stderr).contains("no poller runs"));
    let mut elsewhere = status();
    elsewhere["datastore"]["path"] = json!("tests/diff/none");
    let (output, _) = answered(vec![Ok(elsewhere)], &["-f", "tests/diff/new"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let said = text(&output.stderr);
    assert!(
        said.contains("in tests/diff/none, are not what it read"),
        "{said}"
    );
    assert!(output.stdout.is_empty());
}

#[test]
fn services_differ_in_what_they_say_and_not_in_who_manages_them() {
    let dir = std::env::temp_dir().join(format!("caracal-diff-services-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let old = std::fs::read_to_string("tests/services/kubectl.yaml").unwrap();
    let (one, other) = (dir.join("old.yaml"), dir.join("new.yaml"));
    std::fs::write(&one, &old).unwrap();
    let differ = |new: &str| {
        std::fs::write(&other, new).unwrap();
        let (one, other) = (one.to_str().unwrap(), other.to_str().unwrap());
        let output = diff(&["-f", other, "--against", one]);
        assert_eq!(text(&output.stderr), "");
        text(&output.stdout)
    };
    let mut managed = old.clone();
    for (was, is) in [
        ("resourceVersion: \"480\"", "resourceVersion: \"481\""),
        (
            "lastTransitionTime: \"2026-01-05",
            "lastTransitionTime: \"2026-01-06",
        ),
    ] {
        assert!(managed.contains(was), "{was}");
        managed = managed.replace(was, is);
    }
    assert_eq!(differ(&managed), "no differences\n");
    let new = old
        .replace("    - 10.244.1.3\n", "    - 10.244.1.33\n")
        .replace("- ip: 198.51.100.7\n", "- ip: 198.51.100.9\n");
    let said = differ(&new);
    std::fs::remove_dir_all(&dir).unwrap();
    for part in [
        "EndpointSlice prod/web-k2j9d",
        "endpoints[0].addresses",
        "Service prod/web",
        "status.loadBalancer.ingress[0].ip",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}
