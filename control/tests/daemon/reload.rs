//! Files and pods change while packets flow.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::{Lab, OUTSIDE4, OUTSIDE6, addr, ip, json, run, v4, veth};
use crate::process::{Daemon, PATIENCE};
use crate::traffic::{Echo, Stream, reaches};

const PACE: Duration = Duration::from_millis(10);

/// The interface index of a link of the node.
fn ifindex(lab: &Lab, name: &str) -> u32 {
    let links = run(&lab.node, || json(&format!("link show {name}")));
    links[0]["ifindex"].as_u64().expect("an index") as u32
}

/// Waits until something holds.
fn until(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    start.elapsed()
}

#[test]
fn a_bad_file_changes_nothing_and_a_good_one_is_taken() {
    let test = "reload::a_bad_file_changes_nothing_and_a_good_one_is_taken";
    let Some(mut lab) = Lab::new(test) else {
        return;
    };
    let first = lab.pod(0);
    let second = lab.pod_without_endpoint(1);
    let outside = Echo::at(&lab.wire, addr(OUTSIDE4));
    let mut daemon = Daemon::start(&lab);
    daemon.wait_for("no WorkloadEndpoint names this interface");
    reaches(&first.netns, first.v4(), outside.addr());
    let stream = Stream::start(&first.netns, first.v4(), outside.addr(), PACE);

    lab.resource(
        "pod-1.yaml",
        "apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\nmetadata:\n  name: x\nspec:\n  node: [\n",
    );
    daemon.wait_for("bad resources; the state before stays in force");
    let place = daemon.wait_for("pod-1.yaml:");
    let numbers = place.split("pod-1.yaml:").nth(1).expect("a place");
    let numbers: Vec<_> = numbers.trim().split(':').map(str::parse::<u32>).collect();
    assert!(
        numbers.len() == 2 && numbers.iter().all(Result::is_ok),
        "{place}"
    );

    // An error of meaning, not of form: nothing of the whole load is taken.
    let text = fs::read_to_string(lab.dir.join("conf.d/pod-0.yaml")).expect("read");
    let lines = daemon.log_len();
    lab.resource(
        "pod-1.yaml",
        &text.replace("p0", "p1").replace("cali0", "cali1"),
    );
    daemon.wait_after(lines, "is claimed twice");

    let lines = daemon.log_len();
    lab.write_endpoint(1, true);
    daemon.wait_after(lines, "resources loaded");
    reaches(&second.netns, second.v4(), outside.addr());
    let (sent, lost) = stream.finish();
    assert_eq!(lost, 0, "of {sent}");
    daemon.finish();
}

#[test]
fn a_reload_says_what_the_next_start_would_make_of_caracal_yaml() {
    let test = "reload::a_reload_says_what_the_next_start_would_make_of_caracal_yaml";
    let Some(lab) = Lab::new(test) else {
        return;
    };
    let mut daemon = Daemon::start(&lab);
    let good = fs::read_to_string(lab.config()).expect("read");
    let mut reloaded = |text: &str| {
        fs::write(lab.config(), text).expect("write");
        let skip = daemon.log_len();
        let pid = Pid::from_raw(daemon.pid().cast_signed());
        kill(pid, Signal::SIGHUP).expect("kill");
        daemon.wait_after(skip, "resources loaded");
        daemon
            .log()
            .lines()
            .skip(skip)
            .collect::<Vec<_>>()
            .join("\n")
    };
    let said = reloaded(&good);
    assert!(!said.contains("caracal.yaml"), "{said}");
    let said = reloaded(&format!("{good}failMode: open\n"));
    assert!(
        said.contains("caracal.yaml has changed; that takes effect with the next start"),
        "{said}"
    );
    let said = reloaded(&format!("{good}failMode: opne\n"));
    assert!(
        said.contains("caracal.yaml; the next start would fail"),
        "{said}"
    );
    assert!(said.contains("did you mean `open`?"), "{said}");
    daemon.finish();
}

/// Sets how many descriptors a daemon may have.
fn limit_descriptors(daemon: &Daemon, count: &str) {
    let limited = Command::new("prlimit")
        .args(["--pid", &daemon.pid().to_string()])
        .arg(format!("--nofile={count}:"))
        .status();
    assert!(limited.expect("prlimit").success());
}

#[test]
fn what_could_not_be_read_for_a_moment_is_read_again() {
    let test = "reload::what_could_not_be_read_for_a_moment_is_read_again";
    let Some(mut lab) = Lab::new(test) else {
        return;
    };
    lab.pod(0);
    let mut daemon = Daemon::start(&lab);
    limit_descriptors(&daemon, "10");
    lab.pod_without_endpoint(1);
    lab.write_endpoint(1, true);
    daemon.wait_for("conf.d: Too many open files");
    limit_descriptors(&daemon, "1000");
    daemon.wait_for("resources loaded");
    until("the second pod is served", || {
        daemon.state()["ports"].as_array().map(Vec::len) == Some(4)
    });
    let state = daemon.state();
    assert!(state["datastore"]["error"].is_null(), "{state}");
    daemon.finish();
}

#[test]
fn a_file_that_is_nested_too_deeply_is_refused() {
    let test = "reload::a_file_that_is_nested_too_deeply_is_refused";
    let Some(mut lab) = Lab::new(test) else {
        return;
    };
    lab.pod(0);
    let mut daemon = Daemon::start(&lab);
    let mut deep = String::new();
    for level in 0..1000 {
        let _ = writeln!(deep, "{:level$}a:", "");
    }
    lab.resource("deep.yaml", &deep);
    daemon.wait_for("bad resources; the state before stays in force");
    daemon.wait_for("deep.yaml:65:65");
    daemon.finish();
}

#[test]
fn nobody_waits_for_a_large_file() {
    let Some(mut lab) = Lab::new("reload::nobody_waits_for_a_large_file") else {
        return;
    };
    lab.pod(0);
    let mut daemon = Daemon::start(&lab);
    // Seconds long, of what is not read at all.
    lab.resource(
        "large.yaml",
        &"---\napiVersion: v1\nkind: Secret\n".repeat(40_000),
    );
    lab.pod_without_endpoint(1);
    daemon.wait_for("no WorkloadEndpoint names this interface");
    assert!(!daemon.log().contains("bad resources"), "{}", daemon.log());
    daemon.wait_for("bad resources; the state before stays in force");
    daemon.finish();
}

#[test]
fn a_fifo_among_the_files_is_named_and_not_waited_for() {
    let test = "reload::a_fifo_among_the_files_is_named_and_not_waited_for";
    let Some(mut lab) = Lab::new(test) else {
        return;
    };
    let first = lab.pod(0);
    let outside = Echo::at(&lab.wire, addr(OUTSIDE4));
    let mut daemon = Daemon::start(&lab);
    let fifo = lab.dir.join("conf.d/fifo.yaml");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
    daemon.wait_for("bad resources; the state before stays in force");
    daemon.wait_for("fifo.yaml: it is a FIFO, and only regular files are read");
    reaches(&first.netns, first.v4(), outside.addr());
    let lines = daemon.log_len();
    fs::remove_file(fifo).expect("remove");
    daemon.wait_after(lines, "resources loaded");
    assert!(daemon.state()["datastore"]["error"].is_null());
    daemon.finish();
}

#[test]
fn more_routes_than_fit_change_nothing_and_are_refused_once() {
    let test = "reload::more_routes_than_fit_change_nothing_and_are_refused_once";
    let Some(mut lab) = Lab::new(test) else {
        return;
    };
    let first = lab.pod(0);
    let outside = Echo::at(&lab.wire, addr(OUTSIDE4));
    let mut daemon = Daemon::start(&lab);
    reaches(&first.netns, first.v4(), outside.addr());
    let stream = Stream::start(&first.netns, first.v4(), outside.addr(), PACE);

    let mut blocks = String::from(
        "{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: large}, spec: {cidr: 11.0.0.0/8}}\n",
    );
    for number in 0..=0x8000_u32 {
        let (high, low) = (number >> 8, number & 0xff);
        let _ = write!(
            blocks,
            "---\n{{apiVersion: projectcalico.org/v3, kind: BlockAffinity, metadata: {{name: b{number}}}, \
             spec: {{cidr: 11.{high}.{low}.0/26, node: node2, state: confirmed}}}}\n"
        );
    }
    lab.resource("blocks.yaml", &blocks);
    let refused = "resources refused; the state before stays in force";
    let line = daemon.wait_for(refused);
    assert!(line.contains("32768 different /24"), "{line}");
    let state = daemon.state();
    let error = state["datastore"]["error"].as_str().unwrap_or_default();
    assert!(error.contains("32768 different /24"), "{state}");

    fs::remove_file(lab.dir.join("conf.d/blocks.yaml")).expect("remove");
    let second = lab.pod(1);
    reaches(&second.netns, second.v4(), outside.addr());
    assert!(daemon.state()["datastore"]["error"].is_null());
    assert_eq!(daemon.log().matches(refused).count(), 1, "{}", daemon.log());
    let (sent, lost) = stream.finish();
    assert_eq!(lost, 0, "of {sent}");
    daemon.finish();
}

#[test]
fn a_file_that_is_not_read_is_named_once() {
    let Some(mut lab) = Lab::new("reload::a_file_that_is_not_read_is_named_once") else {
        return;
    };
    lab.pod(0);
    lab.resource("pod-0.yaml.bak", "");
    let mut daemon = Daemon::start(&lab);
    daemon.wait_for("pod-0.yaml.bak: this file is not read");
    let lines = daemon.log_len();
    lab.resource("deny.YAML", "");
    daemon.wait_after(lines, "deny.YAML: this file is not read");
    for index in 1..3 {
        let lines = daemon.log_len();
        lab.write_endpoint(index, true);
        daemon.wait_after(lines, "resources loaded");
    }
    // What follows the last load in the log is there when this is answered.
    let lines = daemon.log_len();
    lab.resource("web.Yml", "");
    daemon.wait_after(lines, "web.Yml: this file is not read");
    let log = daemon.log();
    for (name, times) in [("pod-0.yaml.bak", 3), ("deny.YAML", 2), ("web.Yml", 1)] {
        let said = format!("{name}: this file is not read");
        assert_eq!(log.matches(&said).count(), times, "{name}:\n{log}");
    }
    daemon.finish();
}

#[test]
fn a_file_that_comes_while_the_daemon_starts_is_not_missed() {
    let test = "reload::a_file_that_comes_while_the_daemon_starts_is_not_missed";
    let Some(mut lab) = Lab::new(test) else {
        return;
    };
    lab.pod(0);
    let mut daemon = Daemon::spawn(&lab);
    // The files have been read, and nothing is served yet.
    daemon.wait_for("MiB at most for packets");
    lab.write_endpoint(1, true);
    daemon.wait_for("ready");
    daemon.wait_for("endpoints=2");
    daemon.finish();
}

#[test]
fn a_pod_comes_and_goes_by_its_file() {
    let Some(mut lab) = Lab::new("reload::a_pod_comes_and_goes_by_its_file") else {
        return;
    };
    let first = lab.pod(0);
    let outside = Echo::at(&lab.wire, addr(OUTSIDE6));
    let mut daemon = Daemon::start(&lab);
    reaches(&first.netns, first.v6(), outside.addr());
    let stream = Stream::start(&first.netns, first.v6(), outside.addr(), PACE);
    // File first, then veth; and the other way round.
    lab.write_endpoint(1, true);
    daemon.wait_for("endpoints=2");
    let second = lab.pod_without_endpoint(1);
    reaches(&second.netns, second.v6(), outside.addr());
    let third = lab.pod(2);
    reaches(&third.netns, third.v6(), outside.addr());

    let talk = Stream::start(&third.netns, third.v6(), outside.addr(), PACE);
    talk.wait_for_reply();
    let lines = daemon.log_len();
    lab.remove_endpoint(2);
    daemon.wait_after(lines, "no longer serving");
    // What the pollers hold at that moment still goes its way.
    std::thread::sleep(Duration::from_millis(100));
    assert!(
        !talk.flows_within(Duration::from_millis(300)),
        "a pod without endpoint is closed"
    );
    lab.write_endpoint(2, true);
    talk.wait_for_reply();
    let (sent, lost) = stream.finish();
    assert_eq!(lost, 0, "of {sent}");
    daemon.finish();
}

#[test]
fn a_veth_is_made_again() {
    let Some(mut lab) = Lab::new("reload::a_veth_is_made_again") else {
        return;
    };
    let (first, second) = (lab.pod(0), lab.pod(1));
    let outside = Echo::at(&lab.wire, addr(OUTSIDE4));
    let mut daemon = Daemon::start(&lab);
    for pod in [&first, &second] {
        reaches(&pod.netns, pod.v4(), outside.addr());
    }
    let stream = Stream::start(&first.netns, first.v4(), outside.addr(), PACE);
    let before = daemon.descriptors();
    let index = ifindex(&lab, &veth(1));
    for same_index in [true, false, true, true] {
        lab.unplug(1);
        lab.plug(&second, same_index.then_some(index));
        assert_eq!(ifindex(&lab, &veth(1)) == index, same_index);
        let time = reaches(&second.netns, second.v4(), outside.addr());
        eprintln!("veth made again, same index: {same_index}: traffic after {time:?}");
    }
    // Faster than the daemon hears of it: what it attaches to by name is another device by then.
    for round in 0..20 {
        lab.unplug(1);
        lab.plug(&second, (round % 2 == 1).then_some(index));
    }
    reaches(&second.netns, second.v4(), outside.addr());
    let (sent, lost) = stream.finish();
    assert_eq!(lost, 0, "of {sent}");
    until("descriptors are given back", || {
        daemon.descriptors() <= before
    });
    assert_eq!(
        lab.pins().len(),
        3,
        "two pods and the host's port: {:?}",
        lab.pins()
    );
    daemon.finish();
}

#[test]
fn a_veth_is_renamed() {
    let Some(mut lab) = Lab::new("reload::a_veth_is_renamed") else {
        return;
    };
    let pod = lab.pod(0);
    let outside = Echo::at(&lab.wire, addr(OUTSIDE4));
    let mut daemon = Daemon::start(&lab);
    reaches(&pod.netns, pod.v4(), outside.addr());
    run(&lab.node, || {
        ip("link set cali0 down");
        ip("link set cali0 name cali00");
        ip("link set cali00 up");
    });
    daemon.wait_for("no longer serving");
    run(&lab.node, || {
        ip("link set cali00 down");
        ip("link set cali00 name cali0");
        ip("link set cali0 up");
    });
    reaches(&pod.netns, pod.v4(), outside.addr());
    daemon.finish();
}

#[test]
fn the_uplink_goes_down_and_comes_back() {
    let Some(mut lab) = Lab::new("reload::the_uplink_goes_down_and_comes_back") else {
        return;
    };
    let pod = lab.pod(0);
    let outside = Echo::at(&lab.wire, addr(OUTSIDE4));
    let mut daemon = Daemon::start(&lab);
    reaches(&pod.netns, v4(0), outside.addr());
    run(&lab.node, || {
        ip("link set eth0 down");
        ip("link set eth0 up");
        // The kernel drops routes by a link that goes down.
        ip(&format!("route replace default via {}", crate::lab::WIRE4));
    });
    reaches(&pod.netns, v4(0), outside.addr());
    daemon.finish();
}
