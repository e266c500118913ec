//! `caracal config show` on files.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn show(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_caracal"));
    command.args(["config", "show"]).args(arguments);
    command.output().expect("caracal")
}

/// A directory that goes away with its test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let name = format!("caracal-config-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(path.join("conf.d")).expect("a directory");
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const FELIX: &str = "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: node.a}\nspec:\n  vxlanPort: 4791\n";

fn setting(output: &Output, name: &str) -> Value {
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(answer["schema"], "caracal.config/v1");
    let all = answer["settings"].as_array().expect("settings");
    let found = all.iter().find(|it| it["setting"] == name);
    found.cloned().unwrap_or(Value::Null)
}

#[test]
fn resources_are_where_the_file_says_and_the_node_is_whom_it_names() {
    let scratch = Scratch::new("where");
    let config = scratch.write("caracal.yaml", "nodeName: a\n");
    let felix = scratch.write("conf.d/felix.yaml", FELIX);
    let output = show(&["--config", &config, "-o", "json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let port = setting(&output, "vxlanPort");
    assert_eq!(port["value"], 4791);
    assert_eq!(port["resource"], "FelixConfiguration node.a");
    assert_eq!(
        (port["file"].as_str(), port["line"].as_u64()),
        (Some(felix.as_str()), Some(5))
    );
    assert_eq!(setting(&output, "vxlanVNI"), Value::Null, "nobody gives it");
    let output = show(&[
        "--config",
        &config,
        "--node",
        "b",
        "--effective",
        "-o",
        "json",
    ]);
    assert_eq!(setting(&output, "vxlanPort")["value"], 4789);
    assert_eq!(setting(&output, "vxlanPort")["file"], Value::Null);
    assert_eq!(setting(&output, "nodeName")["value"], "b");
}

#[test]
fn resources_can_be_looked_at_where_there_is_no_daemon() {
    if Path::new("/etc/caracal/caracal.yaml").exists() {
        return;
    }
    let scratch = Scratch::new("alone");
    let felix = scratch.write("conf.d/felix.yaml", FELIX);
    let output = show(&["-f", &felix, "--node", "a", "-o", "json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(setting(&output, "vxlanPort")["value"], 4791);
    let output = show(&[]);
    assert_eq!(
        output.status.code(),
        Some(3),
        "no file, and nothing else to look at"
    );
}

#[test]
fn bad_files_are_errors_with_their_places() {
    let scratch = Scratch::new("bad");
    let config = scratch.write("caracal.yaml", "nodeNam: a\n");
    let output = show(&["--config", &config]);
    assert_eq!(output.status.code(), Some(3));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("caracal.yaml:1:1"),
        "{output:?}"
    );
    let config = scratch.write("caracal.yaml", "nodeName: a\n");
    scratch.write("conf.d/felix.yaml", &FELIX.replace("4791", "x"));
    let output = show(&["--config", &config]);
    assert_eq!(output.status.code(), Some(3));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("felix.yaml:5:14"),
        "{output:?}"
    );
    assert!(output.stdout.is_empty());
}

#[test]
fn under_felix_only_the_daemons_own_are_shown() {
    let scratch = Scratch::new("felix");
    let config = scratch.write("caracal.yaml", "nodeName: a\nsource: felix\n");
    scratch.write("conf.d/felix.yaml", FELIX);
    let output = show(&["--config", &config, "--effective", "-o", "json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(setting(&output, "source")["value"], "felix");
    assert_eq!(setting(&output, "vxlanPort"), Value::Null);
    assert!(
        String::from_utf8_lossy(&output.stderr).starts_with("note: "),
        "{output:?}"
    );
}
