//! `caracal perf` of a daemon at work.

use std::process::Stdio;
use std::time::{Duration, Instant};

use control::api::{Client, Method, PerfParams};
use serde_json::Value;

use crate::lab::{Lab, OUTSIDE4, addr};
use crate::process::{Daemon, PATIENCE};
use crate::traffic::{Echo, Stream, reaches};

/// What a stage of all pollers has in an answer.
fn stage(perf: &Value, name: &str, member: &str) -> u64 {
    let pollers = perf["pollers"].as_array().expect("pollers");
    let stages = pollers
        .iter()
        .flat_map(|it| it["stages"].as_array().expect("stages"));
    stages
        .filter(|it| it["stage"] == name)
        .map(|it| it[member].as_u64().expect("a number"))
        .sum()
}

/// What the daemon has counted so far, without having it measure.
fn counted(daemon: &Daemon) -> Value {
    let mut client = Client::connect(daemon.socket(), PATIENCE).expect("a daemon");
    let method = Method::Perf(PerfParams::default());
    client.call(method).expect("an answer")
}

#[test]
fn every_packet_is_counted_in_the_stages_that_it_passes() {
    let Some(mut lab) = Lab::new("perf::every_packet_is_counted_in_the_stages_that_it_passes")
    else {
        return;
    };
    let pod = lab.pod(0);
    let outside = Echo::at(&lab.wire, addr(OUTSIDE4));
    let mut daemon = Daemon::start(&lab);
    reaches(&pod.netns, pod.v4(), outside.addr());

    // Traffic begins after the measuring, and ends before it.
    let rx = |daemon: &Daemon| daemon.state()["accounting"]["rx"].as_u64().expect("rx");
    let before = rx(&daemon);
    let measuring = daemon
        .command(&["perf", "--for", "5s", "-o", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("caracal");
    // A poller that measures has found out what its clock takes.
    let deadline = Instant::now() + PATIENCE;
    while counted(&daemon)["pollers"][0]["clock_nanoseconds"] == 0 {
        assert!(Instant::now() < deadline, "it measures");
        std::thread::sleep(Duration::from_millis(20));
    }
    let begun = rx(&daemon);
    let stream = Stream::start(
        &pod.netns,
        pod.v4(),
        outside.addr(),
        Duration::from_millis(2),
    );
    std::thread::sleep(Duration::from_secs(1));
    let (sent, lost) = stream.finish();
    let ended = rx(&daemon);
    let output = measuring.wait_with_output().expect("an end");
    assert_eq!(output.status.code(), Some(0));
    let after = rx(&daemon);
    let perf: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(perf["schema"], "caracal.perf/v1");
    let seconds = perf["seconds"].as_f64().expect("seconds");
    assert!(seconds >= 5.0, "{seconds}");

    let packets = |name| stage(&perf, name, "packets");
    let received = packets("recv");
    assert!(sent > lost && sent > 50, "{lost} of {sent}");
    // Beside the stream there are ARP and neighbour discovery, also before the measuring begins and after it ends.
    assert!(
        received >= ended - begun,
        "{received} of {begun} to {ended}"
    );
    assert!(
        received <= after - before,
        "{received} of {before} to {after}"
    );
    assert_eq!(packets("parse"), received);
    for name in [
        "decap",
        "fragments",
        "lookup",
        "resolve",
        "connect",
        "apply",
    ] {
        assert!(packets(name) <= received, "{name}: {perf:#}");
    }
    // Both directions of the stream pass by what was remembered of it.
    assert!(packets("lookup") >= sent, "{perf:#}");
    assert!(packets("apply") >= sent, "{perf:#}");
    assert!(packets("resolve") >= 1, "{perf:#}");
    assert!(packets("egress") >= received, "{perf:#}");
    for name in ["recv", "parse", "lookup", "apply", "egress", "flush"] {
        let (calls, took) = (
            stage(&perf, name, "calls"),
            stage(&perf, name, "nanoseconds"),
        );
        assert!(calls > 0 && took > 0, "{name}: {perf:#}");
        assert!((took as f64) < seconds * 1e9, "{name}: {perf:#}");
    }

    let text = daemon.caracal(&["perf", "--for", "100ms"]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("NS/PKT") && text.contains("egress"), "{text}");
    let none = daemon.caracal(&["perf", "--for", "10ms", "--core", "999"]);
    assert_eq!(none.status.code(), Some(1));
    daemon.finish();
}

#[test]
fn measuring_ends_when_whoever_asked_has_died() {
    let Some(mut lab) = Lab::new("perf::measuring_ends_when_whoever_asked_has_died") else {
        return;
    };
    let pod = lab.pod(0);
    let outside = Echo::at(&lab.wire, addr(OUTSIDE4));
    let mut daemon = Daemon::start(&lab);
    reaches(&pod.netns, pod.v4(), outside.addr());
    let mut client = daemon
        .command(&["perf", "--for", "1h"])
        .stdout(Stdio::null())
        .spawn()
        .expect("caracal");
    let stream = Stream::start(
        &pod.netns,
        pod.v4(),
        outside.addr(),
        Duration::from_millis(2),
    );
    let parsed = |daemon: &Daemon| stage(&counted(daemon), "parse", "packets");
    let deadline = Instant::now() + PATIENCE;
    while parsed(&daemon) == 0 {
        assert!(Instant::now() < deadline, "it is measured");
        std::thread::sleep(Duration::from_millis(20));
    }
    client.kill().expect("SIGKILL");
    client.wait().expect("wait");
    // It lasts three seconds at most, and the stream goes on.
    let mut last = parsed(&daemon);
    loop {
        assert!(Instant::now() < deadline, "it still measures");
        std::thread::sleep(Duration::from_millis(500));
        let now = parsed(&daemon);
        if now == last {
            break;
        }
        last = now;
    }
    let (sent, lost) = stream.finish();
    assert!(sent > lost);
    daemon.finish();
}
