//! `-` is standard input.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

fn caracal(args: &str, input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_caracal"))
        .args(args.split(' '))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    child.wait_with_output().unwrap()
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

fn file(path: &str) -> String {
    std::fs::read_to_string(path).unwrap()
}

const POOL: &str = "\
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pods}
spec:
  cidr: 10.244.0.0/16
";

#[test]
fn resources_are_read_from_standard_input() {
    for command in ["validate", "policy validate"] {
        let (code, out, err) = said(&caracal(&format!("{command} -f -"), POOL));
        assert_eq!((code, err.as_str()), (Some(0), ""), "{command}");
        assert_eq!(out, "1 resource valid, 0 warnings\n", "{command}");

        // Beside files.
        let args = format!("{command} -f examples/conf.d -f -");
        let other = POOL.replace("pods", "more").replace("244", "99");
        let (code, out, err) = said(&caracal(&args, &other));
        assert_eq!(code, Some(0), "{command}: {err}");
        assert_eq!(out, "8 resources valid, 0 warnings\n", "{command}");

        let bad = POOL.replace("cidr", "cdir");
        let (code, out, err) = said(&caracal(&format!("{command} -f -"), &bad));
        assert_eq!((code, out.as_str()), (Some(3), ""), "{command}");
        assert!(err.contains("--> <stdin>:5:3"), "{command}: {err}");
        let json = caracal(&format!("{command} -f - -o json"), &bad);
        let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!(json["diagnostics"][0]["at"]["file"], "<stdin>", "{json:#}");
    }
}

#[test]
fn tests_of_policies_are_read_from_standard_input() {
    // Its resources are named from the directory that it is in.
    let name = "examples/policy/shop.test.yaml";
    let resources = "[examples/policy/shop.yaml, examples/policy/policies.yaml]";
    let suite = file(name).replace("[shop.yaml, policies.yaml]", resources);
    let (code, out, err) = said(&caracal("policy test -", &suite));
    let (_, expected, _) = said(&caracal(&format!("policy test {name}"), ""));
    assert_eq!((code, out), (Some(0), expected), "{err}");

    let wrong = file("tests/policy-tests/wrong.yaml");
    let (code, out, err) = said(&caracal("policy test -", &wrong));
    assert_eq!(code, Some(1), "{err}");
    assert!(out.contains("test:       <stdin>:"), "{out}");
}

#[test]
fn what_applies_is_shown_of_standard_input() {
    let from_files = "policy show --endpoint shop/backend -f examples/policy";
    let all: Vec<String> = std::fs::read_dir("examples/policy")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .map(|path| file(path.to_str().unwrap()))
        .collect();
    let from_stdin = "policy show --endpoint shop/backend -f -";
    let (code, out, err) = said(&caracal(from_stdin, &all.join("\n---\n")));
    assert_eq!(code, Some(0), "{err}");
    let (_, expected, _) = said(&caracal(from_files, ""));
    assert_eq!(out.lines().count(), expected.lines().count(), "{out}");
    assert!(out.contains("<stdin>:"), "{out}");
}

#[test]
fn what_cannot_be_read_is_one_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_caracal"))
        .args(["validate", "-f", "-"])
        .stdin(std::fs::File::open(".").unwrap())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let code = child.wait().unwrap().code();
    let (_, _, err) = said(&child.wait_with_output().unwrap());
    assert_eq!(code, Some(3));
    assert!(err.starts_with("error: cannot read <stdin>: "), "{err}");
}
