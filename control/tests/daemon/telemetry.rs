//! What others watch the daemon by: metrics, probes, and what systemd is told.

#[path = "../../src/metrics/strict.rs"]
mod strict;

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use fastpath::io::xsk::test_support::skip;
use fastpath::reason::DropReason;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde_json::Value;

use crate::lab::{Lab, OUTSIDE4, Options, addr, ip, run, v4};
use crate::packet::{GATEWAY_MAC, Tap, ethernet, mac, udp_packet};
use crate::process::{Daemon, PATIENCE};
use crate::traffic::{Echo, reaches};
use strict::Exposition;

/// What a page is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    OpenMetrics,
    Prometheus,
}

/// What `GET PATH` on a port of the node's loopback is answered: status, head and body. None when nobody listens.
fn get(lab: &Lab, port: u16, path: &str, accept: &str) -> Option<(u16, String, String)> {
    let mut stream = run(&lab.node, || TcpStream::connect(("127.0.0.1", port))).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n"
    )
    .expect("a request");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).expect("a status");
    Some((
        status.parse().expect("a number"),
        head.to_owned(),
        body.to_owned(),
    ))
}

fn probe(lab: &Lab, path: &str) -> (u16, String) {
    let (status, _, body) = get(lab, 9199, path, "*/*").expect("somebody listens");
    (status, body)
}

fn scrape(lab: &Lab, format: Format) -> Exposition {
    let (accept, content_type) = match format {
        Format::OpenMetrics => (
            "application/openmetrics-text;version=1.0.0,text/plain;q=0.5",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
        Format::Prometheus => ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
    };
    let (status, head, body) = get(lab, 9191, "/metrics", accept).expect("somebody listens");
    assert_eq!(status, 200, "{head}");
    assert!(
        head.contains(&format!("\r\nContent-Type: {content_type}\r\n")),
        "{head}"
    );
    Exposition::parse(&body, format).unwrap_or_else(|error| panic!("{error}\n{body}"))
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn json(daemon: &Daemon, command: &str) -> Value {
    let output = daemon.caracal(&[command, "-o", "json"]);
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The counts that stand still while nothing is sent.
fn at_rest(daemon: &Daemon) -> (Value, Value, Value) {
    let (mut status, ports, drops) = (
        json(daemon, "status"),
        json(daemon, "ports"),
        json(daemon, "drops"),
    );
    for moving in ["uptime_seconds", "pollers", "datastore"] {
        status[moving].take();
    }
    (status, ports, drops)
}

#[test]
fn metrics_say_what_the_json_says() {
    let options = Options {
        settings: "ruleMetrics: true\n".to_owned(),
        ..Options::default()
    };
    let Some(mut lab) = Lab::with("telemetry::metrics_say_what_the_json_says", options) else {
        return;
    };
    let pod = lab.pod(0);
    let outside = Echo::at(&lab.wire, addr(OUTSIDE4));
    let mut daemon = Daemon::start(&lab);
    reaches(&pod.netns, pod.v4(), outside.addr());
    let tap = Tap::on(&pod.netns, "eth0");
    for _ in 0..7 {
        let spoofed = udp_packet(v4(77), addr(OUTSIDE4), 9, b"spoofed");
        let own = mac("02:00:00:00:01:00");
        tap.send(&ethernet(GATEWAY_MAC, own, 0x0800, &spoofed));
    }
    eventually("the drops are counted", || {
        json(&daemon, "drops")["drops"]
            .to_string()
            .contains("source-spoofed")
    });

    // Nothing moved from before the scrapes to after them.
    let deadline = Instant::now() + PATIENCE;
    let (page, old, (status, ports, drops)) = loop {
        let before = at_rest(&daemon);
        let (page, old) = (
            scrape(&lab, Format::OpenMetrics),
            scrape(&lab, Format::Prometheus),
        );
        if before == at_rest(&daemon) {
            break (page, old, before);
        }
        assert!(Instant::now() < deadline, "it does not come to rest");
    };
    let is = |name: &str, labels: &[(&str, &str)], value: &Value| {
        let expected = value.as_u64().map(|value| value as f64);
        assert!(expected.is_some(), "{name} {labels:?}: {value}");
        let name = format!("caracal_{name}");
        assert_eq!(page.value(&name, labels), expected, "{name} {labels:?}");
        assert_eq!(old.value(&name, labels), expected, "{name} {labels:?}");
    };
    let all = |value: &Value| value.as_array().expect("an array").clone();
    assert_eq!(all(&ports["ports"]).len(), 3);
    for port in all(&ports["ports"]) {
        let labels = [("port", port["name"].as_str().expect("a name"))];
        for member in ["rx_packets", "rx_bytes", "tx_packets", "tx_bytes"] {
            is(&format!("{member}_total"), &labels, &port[member]);
        }
        for (member, name) in [
            ("rx_dropped", "rx_dropped"),
            ("rx_ring_full", "rx_ring_full"),
            ("fill_empty", "rx_fill_ring_empty"),
            ("rx_invalid", "rx_invalid_descs"),
            ("tx_invalid", "tx_invalid_descs"),
        ] {
            is(&format!("xsk_{name}_total"), &labels, &port["xsk"][member]);
        }
    }
    for drop in all(&drops["drops"]) {
        let text = |member: &str| drop[member].as_str().expect("a word").to_owned();
        let (port, reason, stage) = (text("port"), text("reason"), text("stage"));
        let labels = [("port", &*port), ("reason", &*reason), ("stage", &*stage)];
        is("port_drops_total", &labels, &drop["count"]);
    }
    for reason in DropReason::ALL {
        let mut counted = all(&status["drops"]).into_iter();
        let counted = counted.find(|drop| drop["reason"] == reason.name());
        let count = counted.map_or(Value::from(0), |drop| drop["count"].clone());
        is(
            "drops_total",
            &[("reason", reason.name()), ("stage", reason.stage())],
            &count,
        );
    }
    let spoofed = [("reason", "source-spoofed"), ("stage", "parse")];
    assert_eq!(page.value("caracal_drops_total", &spoofed), Some(7.0));
    let accounting = &status["accounting"];
    is("received_packets_total", &[], &accounting["rx"]);
    is("forwarded_packets_total", &[], &accounting["tx"]);
    is("punts_total", &[], &accounting["punt"]);
    is("accounting_balanced", &[], &Value::from(1));
    is("config_generation", &[], &status["generation"]);
    is(
        "flow_cache_entries",
        &[("family", "ipv4")],
        &status["connections"]["ipv4"]["used"],
    );
    is(
        "flow_cache_inserts_total",
        &[],
        &status["connections"]["made"],
    );
    is(
        "route_apply_seconds_count",
        &[],
        &status["changes"]["count"],
    );
    assert!(page.value("caracal_flow_cache_inserts_total", &[]) >= Some(1.0));
    // The pod's connection out, which its profile allowed.
    let allowed = page.samples.iter().any(|((name, labels), count)| {
        name == "caracal_policy_rule_connections_total"
            && labels["policy"].contains("kns.test")
            && *count >= 1.0
    });
    assert!(allowed, "{:#?}", page.samples);
    daemon.finish();
}

#[test]
fn files_that_are_refused_are_counted() {
    let Some(lab) = Lab::new("telemetry::files_that_are_refused_are_counted") else {
        return;
    };
    let mut daemon = Daemon::start(&lab);
    let value = |name: &str, labels: &[(&str, &str)]| {
        scrape(&lab, Format::OpenMetrics).value(&format!("caracal_{name}"), labels)
    };
    assert_eq!(value("config_apply_failures_total", &[]), Some(0.0));
    lab.resource(
        "bad.yaml",
        "kind: IPPool\napiVersion: projectcalico.org/v3\nspec: {}\n",
    );
    daemon.wait_for("bad resources");
    assert_eq!(value("config_apply_failures_total", &[]), Some(1.0));
    assert_eq!(value("problems", &[("part", "datastore")]), Some(1.0));
    assert_eq!(
        probe(&lab, "/readiness"),
        (200, "ok\n".to_owned()),
        "the state before is in force"
    );
    let before = value("config_generation", &[]);
    fs::remove_file(lab.dir.join("conf.d/bad.yaml")).expect("remove");
    eventually("the files are good again", || {
        value("problems", &[("part", "datastore")]) == Some(0.0)
    });
    let changes = value("route_apply_seconds_count", &[]);
    run(&lab.node, || ip("route add 203.0.113.0/24 dev eth0"));
    eventually("the route is in the tables", || {
        value("config_generation", &[]) > before
            && value("route_apply_seconds_count", &[]) > changes
    });
    daemon.finish();
}

#[test]
fn addresses_that_are_taken_stop_nobody() {
    let Some(mut lab) = Lab::new("telemetry::addresses_that_are_taken_stop_nobody") else {
        return;
    };
    let pod = lab.pod(0);
    let outside = Echo::at(&lab.wire, addr(OUTSIDE4));
    let taken = run(&lab.node, || TcpListener::bind("127.0.0.1:9191")).expect("a free address");
    let mut daemon = Daemon::spawn(&lab);
    let said = daemon.wait_for("metrics are not served at 127.0.0.1:9191");
    daemon.wait_for("ready node=");
    assert!(said.contains("set `metrics` in caracal.yaml"), "{said}");
    reaches(&pod.netns, pod.v4(), outside.addr());
    let status = daemon.state();
    assert_eq!(status["problems"][0]["part"], "daemon", "{status:#}");
    assert_eq!(daemon.caracal(&["status"]).status.code(), Some(5));
    assert_eq!(probe(&lab, "/readiness").0, 200);
    drop(taken);
    daemon.finish();
}

#[test]
fn what_is_off_is_not_served() {
    let options = Options {
        settings: "metrics: off\nhealth: off\n".to_owned(),
        ..Options::default()
    };
    let Some(lab) = Lab::with("telemetry::what_is_off_is_not_served", options) else {
        return;
    };
    let mut daemon = Daemon::start(&lab);
    for port in [9191, 9199] {
        assert_eq!(get(&lab, port, "/metrics", "*/*"), None);
    }
    assert_eq!(daemon.caracal(&["status"]).status.code(), Some(0));
    daemon.finish();
}

#[test]
fn clients_that_sit_there_keep_nobody_out() {
    let Some(lab) = Lab::new("telemetry::clients_that_sit_there_keep_nobody_out") else {
        return;
    };
    let mut daemon = Daemon::start(&lab);
    let before = daemon.descriptors();
    let mut sitting = Vec::new();
    for number in 0..100 {
        for port in [9191, 9199] {
            let mut stream =
                run(&lab.node, || TcpStream::connect(("127.0.0.1", port))).expect("a connection");
            let part = [
                &b"GET /metrics"[..],
                b"",
                &[b'x'; 9000],
                b"GET /metrics HTTP/1.1\r\n\r\n",
            ];
            // Those that were thrown out already can not send.
            let _ = stream.write_all(part[number % part.len()]);
            sitting.push(stream);
        }
    }
    scrape(&lab, Format::OpenMetrics);
    assert_eq!(probe(&lab, "/liveness").0, 200);
    assert_eq!(daemon.caracal(&["status"]).status.code(), Some(0));
    assert!(
        daemon.descriptors() <= before + 40,
        "{} of {before}",
        daemon.descriptors()
    );
    drop(sitting);
    eventually("they are forgotten", || daemon.descriptors() <= before);
    daemon.finish();
}

/// A thread that is stopped, by the calling thread and as long as this lives.
struct Stopped(Pid);

impl Stopped {
    /// Stops the daemon's thread of this name; an error where that is not allowed.
    fn thread(daemon: &Daemon, name: &str) -> nix::Result<Self> {
        let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("/proc");
        let mut tasks = tasks.flatten();
        let is_it = |task: &fs::DirEntry| {
            let comm = fs::read_to_string(task.path().join("comm"));
            comm.is_ok_and(|comm| comm.trim_end() == name)
        };
        let task = tasks
            .find(is_it)
            .expect("a thread of that name")
            .file_name();
        let tid = Pid::from_raw(task.to_string_lossy().parse().expect("a number"));
        ptrace::seize(tid, ptrace::Options::empty())?;
        ptrace::interrupt(tid)?;
        waitpid(tid, Some(WaitPidFlag::__WALL))?;
        Ok(Self(tid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // The daemon may be gone.
        let _ = ptrace::detach(self.0, None);
    }
}

/// Messages to systemd that are there.
fn messages(socket: &UnixDatagram) -> Vec<String> {
    let mut buffer = [0; 256];
    let next = || {
        Some(socket.recv(&mut buffer).ok()?)
            .map(|len| String::from_utf8_lossy(&buffer[..len]).into_owned())
    };
    std::iter::from_fn(next).collect()
}

#[test]
fn probes_and_the_watchdog_tell_who_stands() {
    let test = "telemetry::probes_and_the_watchdog_tell_who_stands";
    let Some(mut lab) = Lab::new(test) else {
        return;
    };
    lab.pod(0);
    // So many that reading them takes a while.
    let mut many = String::new();
    for index in 0..4000 {
        let _ = write!(
            many,
            "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: {{name: n{index}}}\n\
             spec: {{nets: [198.18.0.0/15]}}\n"
        );
    }
    lab.resource("many.yaml", &many);
    let socket = UnixDatagram::bind(lab.dir.join("notify")).expect("a socket");
    socket.set_nonblocking(true).expect("a mode");
    let mut command = Command::new("env");
    command
        .arg(format!(
            "NOTIFY_SOCKET={}",
            lab.dir.join("notify").display()
        ))
        .arg("WATCHDOG_USEC=30000000")
        .arg(env!("CARGO_BIN_EXE_caracal"));
    let mut daemon = Daemon::spawn_by(&lab, &mut command);
    let mut answers = Vec::new();
    eventually("the node is ready", || {
        answers
            .extend(get(&lab, 9199, "/readiness", "*/*").map(|(status, _, body)| (status, body)));
        answers.last().is_some_and(|(status, _)| *status == 200)
    });
    assert_eq!(answers[0].0, 503, "{answers:?}");
    assert!(answers[0].1.starts_with("starting"), "{answers:?}");
    daemon.wait_for("ready");
    let heard = |what: &str| {
        eventually(what, || {
            messages(&socket)
                .iter()
                .any(|message| message.contains(what))
        });
    };
    eventually("systemd is told", || {
        let messages = messages(&socket);
        messages
            .first()
            .is_some_and(|message| message == "READY=1\n")
    });
    heard("WATCHDOG=1");

    for (thread, complaint, is_fed) in [
        ("poller-0", "poller 0 has not turned for", false),
        ("caracal", "the control thread has not turned for", false),
        ("health", "", true),
    ] {
        let stopped = match Stopped::thread(&daemon, thread) {
            Ok(stopped) => stopped,
            Err(error) => return skip(test, &format!("ptrace: {error}")),
        };
        if !is_fed {
            eventually("the probes notice", || probe(&lab, "/liveness").0 == 503);
            let (status, body) = probe(&lab, "/readiness");
            assert_eq!(status, 503);
            assert!(
                body.starts_with(complaint) && body.lines().count() == 1,
                "{body}"
            );
            messages(&socket);
            thread::sleep(Duration::from_secs(3));
            assert_eq!(
                messages(&socket),
                [""; 0],
                "{thread} stands: the watchdog must not be fed"
            );
        }
        if thread == "poller-0" {
            let rounds = || {
                scrape(&lab, Format::OpenMetrics)
                    .value("caracal_poller_rounds_total", &[("poller", "0")])
            };
            assert_eq!(rounds(), rounds(), "seen from the metrics");
        }
        drop(stopped);
        eventually("it goes on", || probe(&lab, "/liveness").0 == 200);
        assert_eq!(probe(&lab, "/readiness"), (200, "ok\n".to_owned()));
        messages(&socket);
        heard("WATCHDOG=1");
    }
    daemon.finish();
    assert_eq!(
        messages(&socket).last().map(String::as_str),
        Some("STOPPING=1\n")
    );
}
