//! `caracal validate` as a user runs it.

use std::process::{Command, Output};

fn validate(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_caracal"))
        .arg("validate")
        .args(args)
        .output()
        .unwrap()
}

#[test]
fn a_good_directory_is_accepted() {
    let output = validate(&["-f", "examples/conf.d", "--node", "worker1"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(said, "7 resources valid, 0 warnings\n");
    assert!(output.stderr.is_empty());
}

#[test]
fn what_a_directory_holds_and_is_not_read_is_named() {
    let dir = std::env::temp_dir().join(format!("caracal-validate-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(dir.join("more")).unwrap();
    for file in ["cluster.yaml", "web.yaml"] {
        std::fs::copy(format!("examples/conf.d/{file}"), dir.join(file)).unwrap();
    }
    for file in ["deny.YAML", "web.yaml.bak", "web.yaml~", ".web.yaml.swp"] {
        std::fs::copy("examples/conf.d/web.yaml", dir.join(file)).unwrap();
    }
    let output = validate(&["-f", dir.to_str().unwrap()]);
    let _ = std::fs::remove_dir_all(&dir);
    let said = String::from_utf8(output.stderr).unwrap();
    let warning = |name: &str, what: &str| {
        format!(
            "warning: {}: this {what} is not read\n   = of a directory `*.yaml`, `*.yml` and `*.json` are read, \
             in small letters, and nothing below it; rename it, or move it away\n",
            dir.join(name).display()
        )
    };
    let expected = [
        warning("deny.YAML", "file"),
        warning("more", "directory"),
        warning("web.yaml.bak", "file"),
    ];
    assert_eq!(said, expected.join("\n"));
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "7 resources valid, 3 warnings\n"
    );
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_bad_file_ends_with_exit_code_3_and_says_where() {
    let output = validate(&["-f", "tests/bad-config/pools.yaml"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(output.stdout.is_empty());
    let said = String::from_utf8(output.stderr).unwrap();
    let expected = std::fs::read_to_string("tests/bad-config/pools.expected").unwrap();
    assert_eq!(said, expected + "\n9 errors, 0 warnings\n");
}

#[test]
fn json_is_json_and_has_the_same_exit_code() {
    for (file, valid, code) in [
        ("tests/bad-config/pools.yaml", false, 3),
        ("tests/bad-config/warnings.yaml", true, 0),
    ] {
        let output = validate(&["-f", file, "-o", "json"]);
        assert_eq!(output.status.code(), Some(code));
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["schema"], "caracal.validate/v1");
        assert_eq!(answer["valid"], valid);
        assert!(
            answer["diagnostics"]
                .as_array()
                .is_some_and(|list| list.len() > 4)
        );
    }
}

#[test]
fn a_missing_file_and_a_missing_argument_are_told_apart() {
    let output = validate(&["-f", "no/such/file.yaml"]);
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.starts_with("error: cannot read no/such/file.yaml: No such file"),
        "{said}"
    );
    assert_eq!(validate(&[]).status.code(), Some(2));
}

#[test]
fn what_is_no_regular_file_is_named_and_not_waited_for() {
    let dir = std::env::temp_dir().join(format!("caracal-validate-fifo-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    let fifo = dir.join("policies.yaml");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let by_directory = validate(&["-f", dir.to_str().unwrap()]);
    let by_name = validate(&["-f", fifo.to_str().unwrap()]);
    let device = validate(&["-f", "/dev/zero"]);
    let _ = std::fs::remove_dir_all(&dir);
    for (output, file, what) in [
        (by_directory, fifo.to_str().unwrap(), "a FIFO"),
        (by_name, fifo.to_str().unwrap(), "a FIFO"),
        (device, "/dev/zero", "a device"),
    ] {
        assert_eq!(output.status.code(), Some(3));
        let said = String::from_utf8(output.stderr).unwrap();
        let start =
            format!("error: cannot read {file}: it is {what}, and only regular files are read");
        assert!(said.starts_with(&start), "{said}");
        assert!(said.ends_with("\n1 error, 0 warnings\n"), "{said}");
    }
}

#[test]
fn a_directory_with_nothing_to_read_is_named() {
    let dir = std::env::temp_dir().join(format!("caracal-validate-empty-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.to_str().unwrap();
    let empty = validate(&["-f", path]);
    let beside = validate(&["-f", "examples/conf.d", "-f", path]);
    let _ = std::fs::remove_dir_all(&dir);
    for (output, resources) in [(empty, 0), (beside, 7)] {
        assert_eq!(output.status.code(), Some(0));
        let said = String::from_utf8(output.stderr).unwrap();
        let expected = format!("warning: {path}: no `*.yaml`, `*.yml` or `*.json` here\n");
        assert_eq!(said, expected);
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said, format!("{resources} resources valid, 1 warning\n"));
    }
}
