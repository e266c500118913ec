//! Connections are kept, and then something goes wrong, or another way than it usually does.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::host_policy::wrap_nft;
use crate::keep::{AWAY, Transfer, file, stopped_with_one};
use crate::lab::{Lab, NODE4, OUTSIDE4, Options, addr, batch, run};
use crate::process::{Daemon, PATIENCE};
use crate::traffic::connect;

/// What makes a start fail when the uplink's program is attached: no veth has it.
const ZERO_COPY: (&str, &str) = (
    "interface: eth0\n",
    "interface: eth0\n    mode: zero-copy\n",
);

/// Whether somebody outside reaches a service of the node's host.
fn reaches_host(lab: &Lab, at: SocketAddr) -> bool {
    run(&lab.wire, || {
        TcpStream::connect_timeout(&at, Duration::from_secs(3)).is_ok()
    })
}

/// A service of the host came to listen on the port of a connection while the daemon ran: it is reached then, and must be when the daemon
/// has stopped.
#[test]
fn a_service_of_the_host_on_the_port_of_a_kept_connection_is_reached() {
    let test = "keep_bad_luck::a_service_of_the_host_on_the_port_of_a_kept_connection_is_reached";
    let Some(mut lab) = Lab::new(test) else {
        return;
    };
    lab.masquerade();
    let pod = lab.pod(0);
    let listener = run(&lab.wire, || TcpListener::bind((addr(OUTSIDE4), 0))).expect("listen");
    let at = listener.local_addr().expect("bound");
    let mut daemon = Daemon::start(&lab);
    let both = [(); 2].map(|()| {
        let client = connect(&pod.netns, pod.v4(), at);
        let (server, seen) = listener.accept().expect("accept");
        (client, server, seen)
    });
    let ports = |daemon: &Daemon| daemon.state()["connections"]["nat_ports"]["tcp"].as_u64();
    let before = ports(&daemon);
    let seen = both[0].2;
    assert_eq!(seen.ip(), addr(NODE4));
    let _service = run(&lab.node, || TcpListener::bind(seen)).expect("listen");
    let start = Instant::now();
    while ports(&daemon) == before {
        assert!(start.elapsed() < PATIENCE, "the daemon does not see it");
        thread::sleep(Duration::from_millis(200));
    }
    assert!(reaches_host(&lab, seen), "while the daemon runs");
    assert_eq!(daemon.terminate().code(), Some(0), "{}", daemon.log());
    daemon.wait_for("kept 1 connection ");
    assert!(
        lab.pins().iter().any(|pin| pin.starts_with("eth0")),
        "answers to the other one are lost meanwhile"
    );
    assert!(reaches_host(&lab, seen), "while no daemon runs");
}

#[test]
fn a_start_that_fails_costs_no_connection() {
    let test = "keep_bad_luck::a_start_that_fails_costs_no_connection";
    let Some(mut lab) = Lab::new(test) else {
        return;
    };
    lab.masquerade();
    let pod = lab.pod(0);
    let mut daemon = Daemon::start(&lab);
    let transfer = Transfer::start((&pod.netns, pod.v4()), (&lab.wire, addr(OUTSIDE4)));
    transfer.goes_on(transfer.received());
    assert_eq!(daemon.terminate().code(), Some(0), "{}", daemon.log());
    let good = fs::read_to_string(lab.config()).expect("configuration");
    let bad = good.replace(ZERO_COPY.0, ZERO_COPY.1);
    assert_ne!(bad, good);
    fs::write(lab.config(), bad).expect("write");
    for _ in 0..2 {
        let mut daemon = Daemon::spawn(&lab);
        assert_ne!(daemon.wait().code(), Some(0), "no veth has zero-copy");
        assert!(file(&lab).exists(), "put back: {}", daemon.log());
        thread::sleep(AWAY);
    }
    fs::write(lab.config(), good).expect("write");
    let before = transfer.received();
    let mut daemon = Daemon::start(&lab);
    daemon.wait_for("took over 1 connection ");
    transfer.goes_on(before);
    assert!(
        !lab.pins().iter().any(|pin| pin.starts_with("eth0")),
        "the program goes with the daemon again"
    );
    transfer.finish();
    daemon.finish();
}

/// What the kernel forwarded meanwhile is not known; the end of the connection must be seen all the same.
#[test]
fn the_end_is_seen_of_what_the_kernel_forwarded_meanwhile() {
    let test = "keep_bad_luck::the_end_is_seen_of_what_the_kernel_forwarded_meanwhile";
    let options = Options {
        settings: "failMode: open\n".to_owned(),
        ..Options::default()
    };
    let Some(mut lab) = Lab::with(test, options) else {
        return;
    };
    let (first, second) = (lab.pod(0), lab.pod(1));
    let mut daemon = Daemon::start(&lab);
    let transfer = Transfer::start((&first.netns, first.v4()), (&second.netns, second.v4()));
    transfer.goes_on(transfer.received());
    assert_eq!(daemon.terminate().code(), Some(0), "{}", daemon.log());
    // Further than any window that was announced.
    let before = transfer.received();
    while transfer
        .received()
        .iter()
        .zip(before)
        .any(|(now, before)| *now < before + (12 << 20))
    {
        thread::sleep(Duration::from_millis(100));
    }
    let mut daemon = Daemon::start(&lab);
    daemon.wait_for("took over");
    transfer.goes_on(transfer.received());
    transfer.finish();
    let output = daemon.caracal(&["flows", "-o", "json", "--match", "tcp"]);
    let all: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let states: Vec<_> = all["flows"].as_array().into_iter().flatten().collect();
    assert!(
        states.iter().all(|flow| flow["state"] != "ESTABLISHED"),
        "{all:#}"
    );
    daemon.finish();
}

#[test]
fn cleanup_takes_what_was_kept_away() {
    let test = "keep_bad_luck::cleanup_takes_what_was_kept_away";
    let Some(mut lab) = Lab::new(test) else {
        return;
    };
    let _ends = stopped_with_one(&mut lab);
    assert!(file(&lab).exists());
    // The kernel forwards from here on, and what it did to these connections nobody knows.
    assert_eq!(lab.cleanup().status.code(), Some(0));
    assert_eq!(lab.pins(), Vec::<String>::new());
    assert!(!file(&lab).exists(), "nothing stays");
}

#[test]
fn an_uplink_that_is_one_no_more_is_the_kernels_again() {
    let test = "keep_bad_luck::an_uplink_that_is_one_no_more_is_the_kernels_again";
    let Some(mut lab) = Lab::new(test) else {
        return;
    };
    let _ends = stopped_with_one(&mut lab);
    let text = fs::read_to_string(lab.config()).expect("configuration");
    fs::write(lab.config(), text.replace("eth0", "eth9")).expect("write");
    run(&lab.node, || {
        batch("link add eth9 type veth peer name eth8\n");
    });
    let mut daemon = Daemon::start(&lab);
    let attached = lab.attached();
    assert!(
        !attached.iter().any(|what| what.contains("eth0")),
        "{attached:?}\n{}",
        daemon.log()
    );
    daemon.finish();
}

/// What the kernel has translated meanwhile may have their ports.
#[test]
fn a_start_that_fails_keeps_nothing_from_a_kernel_that_forwards() {
    let test = "keep_bad_luck::a_start_that_fails_keeps_nothing_from_a_kernel_that_forwards";
    let options = Options {
        settings: "failMode: open\n".to_owned(),
        ..Options::default()
    };
    let Some(mut lab) = Lab::with(test, options) else {
        return;
    };
    let _ends = stopped_with_one(&mut lab);
    let good = fs::read_to_string(lab.config()).expect("configuration");
    let bad = good.replace(ZERO_COPY.0, ZERO_COPY.1);
    fs::write(lab.config(), bad).expect("write");
    let mut daemon = Daemon::spawn(&lab);
    assert_ne!(daemon.wait().code(), Some(0), "no veth has zero-copy");
    assert!(file(&lab).exists(), "put back: {}", daemon.log());
    let pins = lab.pins();
    assert!(!pins.iter().any(|pin| pin.starts_with("eth0")), "{pins:?}");
}

/// The connections have been taken over already.
#[test]
fn a_start_that_fails_late_costs_no_connection() {
    let test = "keep_bad_luck::a_start_that_fails_late_costs_no_connection";
    let Some(mut lab) = Lab::new(test) else {
        return;
    };
    lab.masquerade();
    lab.resource(
        "edge.yaml",
        "apiVersion: projectcalico.org/v3\nkind: HostEndpoint\nmetadata: {name: edge}\n\
         spec: {node: node1, interfaceName: eth0, profiles: [projectcalico-default-allow]}\n",
    );
    let pod = lab.pod(0);
    let mut daemon = Daemon::start(&lab);
    let transfer = Transfer::start((&pod.netns, pod.v4()), (&lab.wire, addr(OUTSIDE4)));
    transfer.goes_on(transfer.received());
    assert_eq!(daemon.terminate().code(), Some(0), "{}", daemon.log());
    let path = wrap_nft(&lab, "echo 'Error: not today' >&2; exit 1");
    for _ in 0..2 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_caracal"));
        let mut daemon = Daemon::spawn_by(&lab, command.env("PATH", &path));
        daemon.wait_for("took over 1 connection ");
        assert_eq!(daemon.wait().code(), Some(1), "{}", daemon.log());
        assert!(file(&lab).exists(), "kept again: {}", daemon.log());
        thread::sleep(AWAY);
    }
    let before = transfer.received();
    let mut daemon = Daemon::start(&lab);
    daemon.wait_for("took over 1 connection ");
    transfer.goes_on(before);
    transfer.finish();
    daemon.finish();
}
