//! `caracal services` of a daemon whose file of services changes.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab::Lab;
use crate::process::{Daemon, PATIENCE};

const FILE: &str = include_str!("../services/kubectl.yaml");
const NAME: &str = "services.yaml";

/// What `caracal services WORDS -o json` says.
fn services(daemon: &Daemon, words: &[&str]) -> Value {
    let output = daemon.caracal(&[&["services", "-o", "json"], words].concat());
    assert!(output.status.success(), "{output:?}");
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(answer["schema"], "caracal.services/v1");
    answer
}

/// The endpoints of the first port that is told.
fn endpoints(answer: &Value) -> Vec<&str> {
    let all = answer["services"][0]["endpoints"].as_array();
    let all = all.expect("a service").iter();
    all.map(|it| it.as_str().expect("text")).collect()
}

#[test]
fn services_are_those_of_the_files_as_they_are() {
    let test = "services::services_are_those_of_the_files_as_they_are";
    let Some(lab) = Lab::new(test) else {
        return;
    };
    lab.resource(NAME, FILE);
    let mut daemon = Daemon::start(&lab);
    let state = daemon.state();
    assert_eq!(state["services"]["total"], 3, "{state}");
    // IPv6 has no endpoint of two ports of kube-dns.
    assert_eq!(state["services"]["without_endpoints"], 1);
    let all = services(&daemon, &[]);
    assert_eq!((&all["total"], &all["next"]), (&10.into(), &Value::Null));

    let dns = services(&daemon, &["10.96.0.10"]);
    assert_eq!(dns["total"], 3);
    let text = daemon.caracal(&["services", "kube-system/kube-dns", "-o", "wide"]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    let line = text.lines().find(|it| it.contains("53/udp"));
    let line: Vec<&str> = line.expect("a line").split_whitespace().collect();
    let address = ["kube-system", "kube-dns", "10.96.0.10", "53/udp"];
    let backends = ["2", "endpoints", "dns", "-", "10.244.1.2:53,10.244.2.2:53"];
    assert_eq!(line, [&address[..], &backends].concat());

    let before = daemon.state()["generation"].as_u64().expect("a number");
    let changed = FILE.replace("    - 10.244.2.2\n", "    - 10.244.2.22\n");
    lab.resource(NAME, &changed);
    let start = Instant::now();
    let dns = ["10.96.0.10"];
    while endpoints(&services(&daemon, &dns)) != ["10.244.1.2:53", "10.244.2.22:53"] {
        assert!(start.elapsed() < PATIENCE, "the change is not taken");
        std::thread::sleep(Duration::from_millis(20));
    }
    let state = daemon.state();
    assert!(state["generation"].as_u64() > Some(before), "{state}");

    let nobody = daemon.caracal(&["services", "prod/nobody"]);
    assert_eq!(nobody.status.code(), Some(1));
    let said = String::from_utf8_lossy(&nobody.stderr).into_owned();
    let expected = "error: no service is called so, or has this address: prod/nobody\n";
    assert_eq!(said, expected);
    daemon.finish();
}
