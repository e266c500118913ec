//! Services of an API server, which is on the node itself here.

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::api_server::{ApiServer, SERVICES, SLICES, service, slice};
use crate::felix;
use crate::lab::{Lab, run};
use crate::process::{Daemon, PATIENCE};
use crate::traffic::{Echo, Stream, connect, reaches};

const PACE: Duration = Duration::from_millis(10);

/// A server on the node's loopback, with one service, and the daemon told of it.
fn server(lab: &Lab) -> ApiServer {
    let server = run(&lab.node, ApiServer::start);
    server.put(SERVICES, service("web", "10.96.0.1"));
    server.put(SLICES, slice("web", &["10.244.1.3"]));
    let config = fs::OpenOptions::new().append(true).open(lab.config());
    let kubeconfig = server.kubeconfig(&lab.dir);
    writeln!(
        config.expect("open"),
        "kubernetes: {{kubeconfig: {}}}",
        kubeconfig.display()
    )
    .expect("write");
    server
}

/// Waits until the daemon says this of the API server.
fn until(daemon: &Daemon, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let start = Instant::now();
    loop {
        let state = daemon.state();
        if holds(&state["kubernetes"]) {
            return state;
        }
        assert!(start.elapsed() < PATIENCE, "not in time: {what}; {state}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What the source says again, the same, makes no tables, and so leaves the services. A neighbour that comes at that moment does, so it
/// may take more than one time; each has another service, the first of them the `next`th.
fn stay(
    daemon: &mut Daemon,
    server: &ApiServer,
    next: u64,
    mut again: impl FnMut(&mut Daemon, u64),
) {
    let start = Instant::now();
    for number in next.. {
        server.put(SERVICES, service(&format!("s{number}"), "10.96.1.1"));
        let state = until(daemon, "a service more", |it| it["services"] == number);
        again(daemon, number);
        if daemon.state()["generation"] == state["generation"] {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "tables are made each time");
    }
}

fn problems(state: &Value) -> Vec<&str> {
    let all = state["problems"].as_array().into_iter().flatten();
    let ours = all.filter(|it| it["part"] == "kubernetes");
    ours.filter_map(|it| it["message"].as_str()).collect()
}

fn is_well(kubernetes: &Value) -> bool {
    kubernetes["error"].is_null() && kubernetes["synced_seconds"].is_u64()
}

#[test]
fn services_come_when_the_server_answers_and_stay_when_it_does_not() {
    let test = "kubernetes::services_come_when_the_server_answers_and_stay_when_it_does_not";
    let Some(mut lab) = Lab::new(test) else {
        return;
    };
    let (first, second) = (lab.pod(0), lab.pod(1));
    let echo = Echo::at(&second.netns, second.v4());
    let server = server(&lab);
    server.away(true);
    let mut daemon = Daemon::start(&lab);
    // It serves, and says what it waits for.
    reaches(&first.netns, first.v4(), echo.addr());
    let stream = Stream::start(&first.netns, first.v4(), echo.addr(), PACE);
    stream.wait_for_reply();
    let state = until(&daemon, "the error", |it| it["error"].is_string());
    assert_eq!(state["kubernetes"]["synced_seconds"], Value::Null);
    let said = problems(&state);
    assert_eq!(said.len(), 1, "{state}");
    assert!(
        said[0].ends_with("; none of its services is known yet"),
        "{said:?}"
    );
    assert_eq!(daemon.caracal(&["status"]).status.code(), Some(5));

    server.away(false);
    daemon.wait_for("services of Kubernetes are known");
    let state = until(&daemon, "services", is_well);
    let kubernetes = &state["kubernetes"];
    assert_eq!(kubernetes["server"], server.url);
    assert_eq!(
        (&kubernetes["services"], &kubernetes["endpoint_slices"]),
        (&1.into(), &1.into())
    );
    assert_eq!(problems(&state), [""; 0]);
    let shown = daemon.caracal(&["status"]);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(text.contains("1 service, 1 endpoint slice"), "{text}");
    // Its endpoint is the second pod.
    let listener = run(&second.netns, || TcpListener::bind((second.v4(), 8080))).expect("listen");
    let client = connect(
        &first.netns,
        first.v4(),
        SocketAddr::from(([10, 96, 0, 1], 80)),
    );
    let (_, seen) = listener.accept().expect("accept");
    assert_eq!(seen, client.local_addr().expect("bound"));

    // What changes takes effect, and nothing else is touched by it.
    let generation = state["generation"].as_u64().expect("a number");
    server.put(SERVICES, service("api", "10.96.0.2"));
    let state = until(&daemon, "another", |it| it["services"] == 2);
    assert!(state["generation"].as_u64() > Some(generation), "{state}");

    // It refuses: said once, however often it is asked.
    let lines = daemon.log_len();
    let tries = server.asked().len();
    server.refuse(Some((403, "services is forbidden")));
    let state = until(&daemon, "the refusal", |it| {
        let error = it["error"].as_str();
        error.is_some_and(|error| error.starts_with("services: "))
    });
    let why =
        "Kubernetes: services: services is forbidden (HTTP 403); the services before stay in force";
    assert_eq!(problems(&state), [why]);
    assert_eq!(state["kubernetes"]["services"], 2);
    let start = Instant::now();
    while server.asked().len() < tries + 6 {
        assert!(start.elapsed() < PATIENCE, "{:?}", server.asked());
        std::thread::sleep(Duration::from_millis(10));
    }
    server.refuse(None);
    daemon.wait_after(lines, "Kubernetes answers again");
    let log = daemon.log();
    let said = log.lines().skip(lines);
    assert_eq!(said.filter(|it| it.contains("403")).count(), 1, "{log}");
    assert!(
        !log.contains("kube_client") && !log.contains("failed with"),
        "{log}"
    );

    // Files are read anew: the services stay.
    stay(&mut daemon, &server, 3, |daemon, time| {
        let loaded = daemon.log_len();
        lab.resource("again.yaml", &format!("# {time}\n"));
        daemon.wait_after(loaded, "resources loaded");
    });

    assert!(stream.flows_within(Duration::from_millis(500)));
    // It ends in time whatever the server does.
    server.away(true);
    drop(stream);
    daemon.finish();
}

#[test]
fn services_of_the_api_server_beside_felix() {
    let Some(mut lab) = felix::lab("kubernetes::services_of_the_api_server_beside_felix") else {
        return;
    };
    let pod = lab.pod(0);
    let server = server(&lab);
    let mut daemon = Daemon::start(&lab);
    // It does not wait for Felix.
    daemon.wait_for("services of Kubernetes are known");
    let mut felix = felix::connected(&lab);
    daemon.wait_for("Felix's state taken");
    until(&daemon, "services", |it| is_well(it) && it["services"] == 1);
    // The same state once more is no change: services are as they were.
    let all = felix::snapshot(&lab);
    let mut heard = all.len() + 1;
    stay(&mut daemon, &server, 2, |daemon, _| {
        felix.say(&all);
        heard += all.len();
        let start = Instant::now();
        while daemon.state()["felix"]["messages"] != heard {
            assert!(start.elapsed() < PATIENCE, "{}", daemon.state());
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    drop(pod);
    assert_eq!(daemon.terminate().code(), Some(0));
}
