//! `caracal replay` as a user runs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use fastpath::capture::Reader;
use serde_json::Value;

const CASES: &str = "../pcap-tests/cases";

/// What a test does to a capture's bytes.
type Change = fn(&mut Vec<u8>);

/// A directory that goes away with its test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir =
            std::env::temp_dir().join(format!("caracal-replay-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// `--in PORT=…` for a copy of a case's capture, changed.
    fn input(&self, port: &str, change: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut bytes = fs::read(format!("{CASES}/vxlan-across-nodes/in-{port}.pcap")).unwrap();
        change(&mut bytes);
        let path = self.0.join(format!("in-{port}.pcap"));
        fs::write(&path, bytes).unwrap();
        format!("{port}={}", path.display())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn replay(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_caracal"));
    command.args(["replay", "--config", &format!("{CASES}/cluster.yaml")]);
    command.args(["--config", &format!("{CASES}/vxlan-across-nodes/pool.yaml")]);
    command.args(args).output().unwrap()
}

fn kernel() -> String {
    format!("{CASES}/kernel.yaml")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn packets(path: &Path) -> usize {
    let mut reader = Reader::open(path).unwrap();
    let mut count = 0;
    while reader.next_record().unwrap().is_some() {
        count += 1;
    }
    count
}

#[test]
fn packets_go_out_are_counted_and_explained() {
    let scratch = Scratch::new("good");
    let (a, eth0) = (
        scratch.input("calia", |_| ()),
        scratch.input("eth0", |_| ()),
    );
    let (out, verdicts) = (scratch.path("out"), scratch.path("verdicts.jsonl"));
    let output = replay(&[
        "--node",
        "node1",
        "--kernel",
        &kernel(),
        "--in",
        &a,
        "--in",
        &eth0,
        "--out",
        &out,
        "--verdicts",
        &verdicts,
        "-o",
        "json",
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(packets(&Path::new(&out).join("eth0.pcap")), 1);
    assert_eq!(packets(&Path::new(&out).join("calia.pcap")), 1);
    assert!(
        !Path::new(&out).join("calib.pcap").exists(),
        "it sent nothing"
    );
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    let written: Value =
        serde_json::from_slice(&fs::read(Path::new(&out).join("summary.json")).unwrap()).unwrap();
    assert_eq!(summary, written);
    assert_eq!(summary["schema"], "caracal.replay/v1");
    assert_eq!(
        summary["accounting"].to_string(),
        r#"{"balanced":true,"drop":0,"held":0,"punt":0,"rx":2,"tx":2}"#
    );
    assert_eq!(summary["ports"]["eth0"]["txPackets"], 1);
    let lines = fs::read_to_string(verdicts).unwrap();
    assert_eq!(
        lines,
        "{\"port\":\"calia\",\"index\":0,\"fate\":\"transmit\",\"out\":{\"port\":\"eth0\",\"index\":0},\"reason\":null}\n\
         {\"port\":\"eth0\",\"index\":0,\"fate\":\"transmit\",\"out\":{\"port\":\"calia\",\"index\":0},\"reason\":null}\n"
    );
}

#[test]
fn without_a_kernel_file_the_unknown_port_is_the_uplink() {
    let scratch = Scratch::new("assumed");
    let (a, eth0) = (
        scratch.input("calia", |_| ()),
        scratch.input("eth0", |_| ()),
    );
    let out = scratch.path("out");
    let output = replay(&["--node", "node1", "--in", &a, "--in", &eth0, "--out", &out]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    // The way in works, as far as an answer whose question still waits for node2 may go.
    assert!(said.contains("eth0 is taken for the uplink"), "{said}");
    assert!(said.contains("02:00:00:00:01:02"), "{said}");
    assert!(said.contains("waited for 172.18.0.3 on eth0"), "{said}");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        told.contains("rx 2 = tx 0 + drop 1 + punt 0 + held 1"),
        "{told}"
    );
    assert!(told.contains("ct-invalid"), "{told}");
}

#[test]
fn raw_ip_is_addressed_to_the_port() {
    let scratch = Scratch::new("raw");
    let a = scratch.input("calia", |bytes| {
        // Link type 101, and the Ethernet header taken out of the one packet.
        bytes[20] = 101;
        for at in [32, 36] {
            let len = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) - 14;
            bytes[at..at + 4].copy_from_slice(&len.to_le_bytes());
        }
        bytes.drain(40..54);
    });
    let out = scratch.path("out");
    let output = replay(&[
        "--node",
        "node1",
        "--kernel",
        &kernel(),
        "--in",
        &a,
        "--out",
        &out,
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(packets(&Path::new(&out).join("eth0.pcap")), 1);
}

#[test]
fn a_bad_capture_is_one_error_with_its_place_and_nothing_is_written() {
    let cases: [(&str, Change, &str); 4] = [
        (
            "truncated",
            |bytes| bytes.truncate(bytes.len() - 3),
            "at byte 40: the file ends in a packet's data, after 51 of 54 bytes",
        ),
        (
            "link",
            |bytes| bytes[20] = 113,
            "at byte 20: link type 113 is neither Ethernet (1) nor raw IP",
        ),
        (
            "text",
            |bytes| *bytes = b"not a capture".to_vec(),
            "at byte 0: this is neither a pcap nor a pcapng file",
        ),
        (
            "empty",
            Vec::clear,
            "at byte 0: this is neither a pcap nor a pcapng file",
        ),
    ];
    for (name, change, expected) in cases {
        let scratch = Scratch::new(name);
        // The good one first: it must not be replayed either.
        let (eth0, a) = (
            scratch.input("eth0", |_| ()),
            scratch.input("calia", change),
        );
        let (out, verdicts) = (scratch.path("out"), scratch.path("verdicts.jsonl"));
        let output = replay(&[
            "--node",
            "node1",
            "--kernel",
            &kernel(),
            "--in",
            &eth0,
            "--in",
            &a,
            "--out",
            &out,
            "--verdicts",
            &verdicts,
        ]);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains(expected) && said.contains("in-calia.pcap"),
            "{said}"
        );
        assert_eq!(said.matches("error").count(), 1, "{said}");
        assert!(
            !Path::new(&out).exists() && !Path::new(&verdicts).exists(),
            "something was written"
        );
    }
}

#[test]
fn what_is_wrong_with_the_command_line_is_exit_code_2() {
    let scratch = Scratch::new("usage");
    let a = scratch.input("calia", |_| ());
    let out = scratch.path("out");
    let misspelt = a.replacen("calia=", "cailia=", 1);
    let stranger = a.replacen("calia=", "TYPO=", 1);
    let summary = scratch.path("out/summary.json");
    let capture = scratch.path("out/../out/eth0.pcap");
    let taken = "the replay writes this file itself; choose another --verdicts";
    let cases = [
        (
            vec!["--in", &stranger],
            "port TYPO is neither an interface of a pod of node1 nor described; describe it in",
        ),
        (vec!["--in", &a, "--verdicts", &summary], taken),
        (vec!["--in", &a, "--verdicts", &capture], taken),
        (vec!["--in", &misspelt], "did you mean `calia`?"),
        (vec!["--in", &a, "--in", &a], "given two captures"),
        (vec!["--in", "calia"], "must be PORT=FILE"),
    ];
    for (args, expected) in cases {
        let kernel = kernel();
        let mut all = vec!["--node", "node1", "--kernel", &kernel, "--out", &out];
        all.extend(args);
        let output = replay(&all);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(expected), "{said}");
    }
    assert!(!Path::new(&out).exists());
}

#[test]
fn what_is_wrong_with_the_configuration_is_exit_code_3() {
    let scratch = Scratch::new("config");
    let a = scratch.input("calia", |_| ());
    let out = scratch.path("out");
    let bad = scratch.path("kernel.yaml");
    fs::write(
        &bad,
        "neighbours:\n  - { address: 172.18.0.3, dev: eth0, mac: 02:00:00:00:01 }\n",
    )
    .unwrap();
    for (args, expected) in [
        (["--node", "node1", "--kernel", &bad], "kernel.yaml:2:44"),
        (
            ["--node", "nodeX", "--kernel", &kernel()],
            "no Node resource is called `nodeX`",
        ),
    ] {
        let mut all = args.to_vec();
        all.extend(["--in", &a, "--out", &out]);
        let output = replay(&all);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn an_output_never_overwrites_an_input() {
    let scratch = Scratch::new("overwrite");
    let bytes = fs::read(format!("{CASES}/vxlan-across-nodes/in-calia.pcap")).unwrap();
    let file = scratch.path("calia.pcap");
    fs::write(&file, &bytes).unwrap();
    let input = format!("calia={file}");
    let output = replay(&[
        "--node",
        "node1",
        "--kernel",
        &kernel(),
        "--in",
        &input,
        "--out",
        &scratch.path(""),
    ]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("would overwrite an input"));
    assert_eq!(fs::read(file).unwrap(), bytes);
}

#[test]
fn a_capture_that_is_a_fifo_is_refused_and_not_waited_for() {
    let scratch = Scratch::new("fifo");
    let fifo = scratch.path("in.pcap");
    nix::unistd::mkfifo(fifo.as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let input = format!("eth0={fifo}");
    let out = scratch.path("out");
    let output = replay(&["--node", "node1", "--in", &input, "--out", &out]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let start = format!("error: {fifo}: it is a FIFO, and only regular files are read");
    assert!(said(&output).starts_with(&start), "{}", said(&output));
    assert!(!Path::new(&out).exists());
}
