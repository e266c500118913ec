//! `caracal capture` of a daemon at work, read back by tshark.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fastpath::io::xsk::test_support::skip;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::{Lab, OUTSIDE4, addr, v4};
use crate::packet::{GATEWAY_MAC, Tap, ethernet, mac, udp_packet};
use crate::process::{Daemon, PATIENCE};
use crate::traffic::{Echo, reaches};

/// Pods send nothing to UDP port 9.
const GUARD: &str = "apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: guard, namespace: test}
spec:
  selector: all()
  types: [Egress]
  egress:
    - {action: Deny, protocol: UDP, destination: {ports: [9]}}
    - {action: Allow}
";

/// A capture that goes on.
struct Running {
    child: Child,
    file: std::path::PathBuf,
}

impl Running {
    fn start(daemon: &Daemon, lab: &Lab, name: &str, words: &[&str]) -> Self {
        let file = lab.dir.join(name);
        let mut command = daemon.command(&["capture"]);
        let child = command
            .arg("-w")
            .arg(&file)
            .args(words)
            .stderr(Stdio::piped())
            .spawn()
            .expect("caracal");
        let running = Self { child, file };
        let deadline = Instant::now() + PATIENCE;
        while std::fs::metadata(&running.file).map_or(0, |it| it.len()) == 0 {
            assert!(Instant::now() < deadline, "it does not begin");
            std::thread::sleep(Duration::from_millis(10));
        }
        running
    }

    /// Ends it, and says what it said last.
    fn end(self) -> String {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGINT);
        let output = self.child.wait_with_output().expect("an end");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{said}");
        said.lines().last().unwrap_or_default().to_owned()
    }
}

/// Fields of each packet of a file that a display filter of Wireshark means.
fn tshark(file: &std::path::Path, filter: &str, fields: &[&str]) -> Vec<Vec<String>> {
    let mut command = Command::new("tshark");
    command
        .arg("-r")
        .arg(file)
        .args(["-Y", filter, "-T", "fields"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let output = command.output().expect("tshark");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text
        .lines()
        .map(|line| line.split('\t').map(str::to_owned).collect());
    lines.collect()
}

#[test]
fn a_capture_is_read_by_tshark() {
    let test = "capture::a_capture_is_read_by_tshark";
    if Command::new("tshark").arg("--version").output().is_err() {
        return skip(test, "tshark is not installed");
    }
    let Some(mut lab) = Lab::new(test) else {
        return;
    };
    lab.resource("guard.yaml", GUARD);
    let pod = lab.pod(0);
    let outside = Echo::at(&lab.wire, addr(OUTSIDE4));
    let mut daemon = Daemon::start(&lab);
    reaches(&pod.netns, pod.v4(), outside.addr());

    let all = Running::start(&daemon, &lab, "all.pcapng", &["udp"]);
    let drops = Running::start(
        &daemon,
        &lab,
        "drops.pcapng",
        &["--drops", "-i", "cali0", "-c", "3", "udp"],
    );
    reaches(&pod.netns, pod.v4(), outside.addr());
    let tap = Tap::on(&pod.netns, "eth0");
    let own = mac("02:00:00:00:01:00");
    let send = |from, port| {
        let packet = udp_packet(from, addr(OUTSIDE4), port, &[0x55; 600]);
        tap.send(&ethernet(GATEWAY_MAC, own, 0x0800, &packet));
    };
    send(v4(77), 5000);
    // What is denied once is denied by the table of connections then.
    send(pod.v4(), 9);
    send(pod.v4(), 9);
    let deadline = Instant::now() + PATIENCE;
    while tshark(&all.file, "pkt_comment", &["frame.number"]).len() < 3 {
        assert!(Instant::now() < deadline, "the drops are captured");
        std::thread::sleep(Duration::from_millis(50));
    }
    let file = drops.file.clone();
    assert_eq!(drops.end(), "3 packets, 0 lost");
    let found = tshark(
        &file,
        "frame",
        &[
            "frame.interface_name",
            "frame.len",
            "frame.cap_len",
            "ip.src",
            "frame.comment",
        ],
    );
    let generation = daemon.state()["generation"].to_string();
    let denied = format!(
        "drop=policy-deny stage=policy rule=tier default: NetworkPolicy test/guard, egress rule 1 (Deny), {}/conf.d/guard.yaml:8 gen={generation}",
        lab.dir.display()
    );
    let spoofed = format!("drop=source-spoofed stage=parse gen={generation}");
    let (own, other) = (pod.v4().to_string(), v4(77).to_string());
    assert_eq!(
        found,
        [
            ["cali0", "642", "256", &*other, &*spoofed],
            ["cali0", "642", "256", &*own, &*denied],
            ["cali0", "642", "256", &*own, &*denied],
        ]
    );

    // The echo: in by the pod, out by the uplink, and the answer the other way; 1 is inbound.
    let file = all.file.clone();
    let said = all.end();
    assert!(said.ends_with(" packets, 0 lost"), "{said}");
    let echo = format!("udp.port == {} && !pkt_comment", outside.addr().port());
    let found = tshark(
        &file,
        &echo,
        &[
            "frame.interface_name",
            "frame.packet_flags_direction",
            "ip.src",
        ],
    );
    let outside4 = OUTSIDE4.to_owned();
    let way = |port: &str, direction: &str, from: &str| {
        vec![port.to_owned(), direction.to_owned(), from.to_owned()]
    };
    assert!(
        found.len() >= 4 && found.len().is_multiple_of(4),
        "{found:?}"
    );
    for round in found.chunks(4) {
        assert_eq!(
            round,
            [
                way("cali0", "0x00000001", &own),
                way("eth0", "0x00000002", &own),
                way("eth0", "0x00000001", &outside4),
                way("cali0", "0x00000002", &outside4),
            ]
        );
    }
    let times = tshark(&file, "frame", &["frame.time_epoch"]);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970");
    for time in times {
        let time: f64 = time[0].parse().expect("a time");
        assert!((0.0..120.0).contains(&(now.as_secs_f64() - time)), "{time}");
    }
    daemon.finish();
}

#[test]
fn what_can_not_be_captured_is_said() {
    let Some(lab) = Lab::new("capture::what_can_not_be_captured_is_said") else {
        return;
    };
    let mut daemon = Daemon::start(&lab);
    let file = lab.dir.join("x.pcapng");
    let file = file.to_str().expect("text");
    for (words, code, said) in [
        (&["-i", "nothing"][..], 1, "no port is called \"nothing\""),
        (
            &["udp", "and", "state", "established"],
            1,
            "a packet has none",
        ),
        (&["udp", "port"], 2, "column"),
    ] {
        let output = daemon.caracal(&[&["capture", "-w", file], words].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {stderr}");
        assert!(stderr.contains(said), "{words:?}: {stderr}");
    }
    let output = daemon.caracal(&["capture", "-w", "/nowhere/x"]);
    assert_eq!(output.status.code(), Some(1));
    daemon.finish();
}
