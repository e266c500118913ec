//! Felix as the source of updates: a Felix of our own that starts the driver as the real one does.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use control::config::{HostEndpoints, compute_with, load_dir};
use control::desired::Desired;
use control::felix::proto::{self, FromPayload, Payload};

use crate::felix_encoder::{self as encoder, Generation};
use crate::felix_process::Felix;
use crate::keep::{AWAY, Transfer, file};
use crate::lab::{Lab, NODE4, OUTSIDE4, Pod, WIRE4, addr, ip, run};
use crate::process::{Daemon, PATIENCE};
use crate::traffic::{Echo, Stream, answered, reaches};

const PACE: Duration = Duration::from_millis(5);
/// Long enough for what may pass to pass.
const A_WHILE: Duration = Duration::from_millis(500);

/// A lab whose daemon is driven by Felix. Its files say what Felix knows.
pub(crate) fn lab(test: &str) -> Option<Lab> {
    let lab = Lab::new(test)?;
    let mut config = fs::OpenOptions::new()
        .append(true)
        .open(lab.config())
        .expect("open");
    let (socket, mtu) = (socket(&lab), lab.dir.join("calico/mtu"));
    let (socket, mtu) = (socket.display(), mtu.display());
    writeln!(
        config,
        "source: felix\nfelixSocket: {socket}\nmtuFile: {mtu}"
    )
    .expect("write");
    // As Calico's operator calls it: by this name, without arguments.
    symlink(env!("CARGO_BIN_EXE_caracal"), plugin(&lab)).expect("link");
    Some(lab)
}

fn socket(lab: &Lab) -> PathBuf {
    lab.dir.join("felix.sock")
}

fn plugin(lab: &Lab) -> PathBuf {
    lab.dir.join("felix-api-proxy")
}

fn felix(lab: &Lab) -> Felix {
    Felix::start(&plugin(lab), &socket(lab))
}

/// What Felix knows.
fn known(lab: &Lab) -> Desired {
    let cluster = load_dir(&lab.dir.join("conf.d")).expect("resources");
    compute_with(&cluster, "node1", HostEndpoints::Enforced).expect("resources of the node")
}

pub(crate) fn snapshot(lab: &Lab) -> Vec<Payload> {
    encoder::snapshot(&known(lab), Generation::V3_33)
}

/// A Felix that has said all it knows.
#[cfg(feature = "kubernetes")]
pub(crate) fn connected(lab: &Lab) -> Felix {
    let mut felix = felix(lab);
    felix.say(&snapshot(lab));
    felix.say(&[encoder::in_sync()]);
    felix
}

/// What is in the second and not in the first.
fn news(before: &[Payload], now: &[Payload]) -> Vec<Payload> {
    now.iter()
        .filter(|it| !before.contains(it))
        .cloned()
        .collect()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The status of a pod as Felix was told last.
fn status(felix: &Felix, pod: &Pod) -> Option<String> {
    let name = format!("test/p{}", pod.index);
    let is_it = |id: &Option<proto::WorkloadEndpointId>| {
        id.as_ref().is_some_and(|id| id.workload_id == name)
    };
    let heard = felix.heard();
    let last = heard.iter().rev().find_map(|message| match message {
        FromPayload::WorkloadEndpoint(it) if is_it(&it.id) => {
            assert!(!it.endpoint.is_empty(), "the endpoint comes with it");
            Some(it.status.as_ref().map(|it| it.status.clone()))
        }
        FromPayload::WorkloadEndpointGone(it) if is_it(&it.id) => Some(None),
        _ => None,
    });
    last.flatten()
}

fn passes(from: &Pod, src: IpAddr, to: &Echo) -> bool {
    answered(&from.netns, src, to.addr(), A_WHILE).is_some()
}

const DENY: &str = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata:\n  name: deny\n\
                    spec:\n  selector: all()\n  types: [Ingress]\n  ingress:\n    - action: Deny\n      protocol: UDP\n";

#[test]
fn felix_drives_goes_and_comes_back() {
    let Some(mut lab) = lab("felix::felix_drives_goes_and_comes_back") else {
        return;
    };
    let (first, second, third) = (lab.pod(0), lab.pod(1), lab.pod(2));
    let (echo4, echo6) = (
        Echo::at(&second.netns, second.v4()),
        Echo::at(&second.netns, second.v6()),
    );
    let mut daemon = Daemon::start(&lab);
    daemon.wait_for("is not read: ");
    assert_eq!(daemon.state()["felix"]["connected"], false);

    // All is said but that it is all.
    let all = snapshot(&lab);
    let mut felix = felix(&lab);
    daemon.wait_for("Felix connected");
    felix.say(&all);
    until("all was read", || {
        daemon.state()["felix"]["messages"] == all.len()
    });
    assert!(!passes(&first, first.v4(), &echo4), "nothing before InSync");
    assert_eq!(daemon.state()["felix"]["in_sync"], false);
    assert!(felix.heard().is_empty(), "{:?}", felix.heard());
    felix.say(&[encoder::in_sync()]);
    daemon.wait_for("Felix is in sync");
    reaches(&first.netns, first.v4(), echo4.addr());
    reaches(&first.netns, first.v6(), echo6.addr());
    let state = daemon.state();
    assert_eq!(state["felix"]["in_sync"], true);
    assert_eq!(state["felix"]["sequence"], all.len());
    assert_eq!(
        state["problems"].as_array().map(Vec::len),
        Some(0),
        "{state}"
    );
    for pod in [&first, &second, &third] {
        until("its status is told", || {
            status(&felix, pod).as_deref() == Some("up")
        });
    }

    // A policy comes and goes; what is under way stays.
    let stream = Stream::start(&first.netns, first.v4(), echo4.addr(), PACE);
    stream.wait_for_reply();
    lab.resource("deny.yaml", DENY);
    let denied = snapshot(&lab);
    let deny = known(&lab)
        .policy
        .policies
        .keys()
        .next()
        .cloned()
        .expect("a policy");
    let deny = encoder::policy_id(&deny, "default", Generation::V3_33);
    felix.say(&news(&all, &denied));
    until("new connections are denied", || {
        !passes(&first, first.v4(), &echo4)
    });
    assert!(stream.flows_within(A_WHILE));
    fs::remove_file(lab.dir.join("conf.d/deny.yaml")).expect("remove");
    felix.say(&news(&denied, &all));
    let removed = proto::ActivePolicyRemove { id: Some(deny) };
    felix.say(&[Payload::ActivePolicyRemove(removed)]);
    reaches(&first.netns, first.v4(), echo4.addr());

    // Felix goes: what it said stays.
    assert_eq!(felix.end().code(), Some(0));
    daemon.wait_for("Felix is gone");
    reaches(&first.netns, first.v4(), echo4.addr());
    assert!(stream.flows_within(A_WHILE));
    let state = daemon.state();
    assert_eq!(state["felix"]["connected"], false);
    assert!(
        state["problems"]
            .to_string()
            .contains("Felix is not connected"),
        "{state}"
    );

    // Another comes, and knows nothing of a pod.
    lab.remove_endpoint(2);
    let mut felix = self::felix(&lab);
    let lines = daemon.log_len();
    felix.say(&snapshot(&lab));
    until("all was read", || {
        daemon.state()["felix"]["messages"] == snapshot(&lab).len()
    });
    reaches(&third.netns, third.v4(), echo4.addr());
    felix.say(&[encoder::in_sync()]);
    daemon.wait_after(lines, "no longer serving");
    until("it is closed", || !passes(&third, third.v4(), &echo4));
    reaches(&first.netns, first.v4(), echo4.addr());
    until("its status is told", || {
        status(&felix, &first).as_deref() == Some("up")
    });
    assert_eq!(status(&felix, &third), None);
    let (sent, lost) = stream.finish();
    assert_eq!(lost, 0, "of {sent}");

    // A pod whose veth goes is down, and up again.
    lab.unplug(1);
    until("it is down", || {
        status(&felix, &second).as_deref() == Some("down")
    });
    lab.plug(&second, None);
    until("it is up", || {
        status(&felix, &second).as_deref() == Some("up")
    });
    assert_eq!(daemon.state()["felix"]["connections"], 2);
    daemon.finish();
    let (code, said) = felix.wait();
    assert_eq!(code.code(), Some(1));
    assert!(said.contains("the daemon ended the connection"), "{said}");
    assert!(!socket(&lab).exists());
}

/// Traffic goes on through whatever is wrong with Felix; each time the next one mends it.
#[test]
fn what_is_wrong_with_felix_changes_nothing() {
    let Some(mut lab) = lab("felix::what_is_wrong_with_felix_changes_nothing") else {
        return;
    };
    let (first, second) = (lab.pod(0), lab.pod(1));
    let echo = Echo::at(&second.netns, second.v6());
    let mut daemon = Daemon::start(&lab);
    let all = |generation| {
        let mut all = encoder::snapshot(&known(&lab), generation);
        all.push(encoder::in_sync());
        all
    };
    let mut old = felix(&lab);
    old.say(&all(Generation::V3_31));
    reaches(&first.netns, first.v6(), echo.addr());
    let stream = Stream::start(&first.netns, first.v6(), echo.addr(), PACE);
    stream.wait_for_reply();

    // Another one takes its place.
    let mut second_felix = felix(&lab);
    daemon.wait_for("another Felix connected");
    assert_eq!(old.wait().0.code(), Some(1));

    // It can not be understood, or does not end what it began.
    second_felix.say(&all(Generation::V3_32));
    second_felix.say_bytes(b"GET / HTTP/1.1\r\n\r\n");
    daemon.wait_for("the connection to Felix is over: message ");
    assert_eq!(second_felix.wait().0.code(), Some(1));
    let said = daemon.state()["felix"]["last_error"].to_string();
    assert!(said.contains("is that Felix?"), "{said}");
    let mut third = felix(&lab);
    third.say_bytes(&[9, 0, 0, 0, 0, 0, 0, 0, 1]);
    daemon.wait_for("Felix connected");
    assert_eq!(third.end().code(), Some(0));
    daemon.wait_for("the connection ended within message 0");

    // It wants what can not be done.
    let lines = daemon.log_len();
    let mut fourth = felix(&lab);
    let wireguard = [("WireguardEnabled".to_owned(), "true".to_owned())];
    let config = proto::ConfigUpdate {
        config: wireguard.into(),
    };
    fourth.say(&[Payload::ConfigUpdate(config), encoder::in_sync()]);
    daemon.wait_after(
        lines,
        "Felix's state refused; the state before stays in force",
    );
    let problems = daemon.state()["problems"].to_string();
    assert!(
        problems.contains("WireGuard is not supported"),
        "{problems}"
    );
    assert_eq!(status(&fourth, &first), None, "it has no endpoint");
    // Later it does not.
    fourth.say(&all(Generation::V3_33));
    until("all is well", || {
        daemon.state()["problems"]
            .as_array()
            .is_some_and(Vec::is_empty)
    });
    until("its status is told", || {
        status(&fourth, &first).as_deref() == Some("up")
    });

    // An endpoint that is not understood is closed, and no other is.
    let mut bad = known(&lab);
    bad.endpoints.clear();
    let mut pods = bad.policy.as_ref().clone();
    let renamed = pods.workloads.iter().map(|(id, pod)| {
        let mut pod = control::policy::model::Workload::clone(pod);
        if pod.interface == "cali0" {
            pod.interface = "no/interface".to_owned();
        }
        (id.clone(), std::sync::Arc::new(pod))
    });
    pods.workloads = renamed.collect();
    bad.policy = pods.into();
    let lines = daemon.log_len();
    fourth.say(&encoder::snapshot(&bad, Generation::V3_33));
    daemon.wait_after(lines, "not done as Felix says: endpoint test/p0");
    until("it is closed", || !passes(&first, first.v6(), &echo));
    fourth.say(&all(Generation::V3_33));
    reaches(&first.netns, first.v6(), echo.addr());
    assert!(stream.flows_within(A_WHILE));
    drop(stream);
    daemon.finish();
}

/// A Felix that hears of what the daemon does, and an operator who sees both.
#[test]
fn felix_hears_that_the_daemon_lives() {
    let Some(mut lab) = lab("felix::felix_hears_that_the_daemon_lives") else {
        return;
    };
    lab.pod(0);
    let mut daemon = Daemon::start(&lab);
    let mut felix = felix(&lab);
    let mut all = snapshot(&lab);
    all.push(encoder::in_sync());
    felix.say(&all);
    let alive = |felix: &Felix| {
        let heard = felix.heard();
        heard.into_iter().find_map(|it| match it {
            FromPayload::Process(it) => Some(it),
            _ => None,
        })
    };
    until("it is told", || alive(&felix).is_some());
    let said = alive(&felix).expect("told");
    assert!(
        said.uptime > 5.0 && said.iso_timestamp.ends_with('Z'),
        "{said:?}"
    );
    // The endpoint goes: so does its status.
    lab.remove_endpoint(0);
    let id = all.iter().find_map(|it| match it {
        Payload::WorkloadEndpointUpdate(it) => it.id.clone(),
        _ => None,
    });
    felix.say(&[Payload::WorkloadEndpointRemove(
        proto::WorkloadEndpointRemove { id: id.clone() },
    )]);
    let gone = FromPayload::WorkloadEndpointGone(proto::WorkloadEndpointStatusRemove { id });
    until("it is gone", || felix.heard().contains(&gone));
    let mtu = fs::read_to_string(lab.dir.join("calico/mtu"));
    assert_eq!(mtu.expect("written"), "1500");
    run(&lab.node, || ip("link set eth0 mtu 1400"));
    until("the CNI plugin is told of the other MTU", || {
        fs::read_to_string(lab.dir.join("calico/mtu")).is_ok_and(|mtu| mtu == "1400")
    });
    let text = daemon.caracal(&["status"]).stdout;
    let text = String::from_utf8_lossy(&text);
    let line = text
        .lines()
        .find(|line| line.contains("Datastore"))
        .expect("a line");
    assert!(
        line.contains("felix.sock") && line.contains("in sync"),
        "{line}"
    );
    daemon.finish();
}

const EDGE: &str = "apiVersion: projectcalico.org/v3\nkind: HostEndpoint\nmetadata: {name: edge, labels: {at: edge}}\n\
                    spec: {node: node1, interfaceName: eth0}\n---\n\
                    apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: edge}\n\
                    spec:\n  selector: at == 'edge'\n  types: [Ingress, Egress]\n  ingress:\n  - {action: Deny, protocol: UDP}\n\
                    \x20 - {action: Allow}\n  egress:\n  - {action: Allow}\n";

/// The status of the host endpoint that Felix was told last.
fn host_status(felix: &Felix) -> Option<String> {
    let heard = felix.heard();
    heard.iter().rev().find_map(|message| match message {
        FromPayload::HostEndpoint(it) => Some(it.status.as_ref()?.status.clone()),
        _ => None,
    })
}

#[test]
fn felixs_host_endpoints_judge_the_hosts_own_traffic() {
    let Some(lab) = lab("felix::felixs_host_endpoints_judge_the_hosts_own_traffic") else {
        return;
    };
    lab.resource("edge.yaml", EDGE);
    let echo = Echo::at(&lab.node, addr(NODE4));
    let mut daemon = Daemon::start(&lab);
    let is_answered = || answered(&lab.wire, addr(WIRE4), echo.addr(), A_WHILE).is_some();
    let all = snapshot(&lab);
    let mut felix = felix(&lab);
    daemon.wait_for("Felix connected");
    felix.say(&all);
    until("all was read", || {
        daemon.state()["felix"]["messages"] == all.len()
    });
    assert!(is_answered(), "nothing before InSync");
    felix.say(&[encoder::in_sync()]);
    until("it is denied", || !is_answered());
    until("its status is told", || {
        host_status(&felix).as_deref() == Some("up")
    });
    // Felix goes, and says in the next snapshot that there is no host endpoint any more.
    felix.end();
    daemon.wait_for("Felix is gone");
    assert!(!is_answered(), "what Felix said stays");
    fs::remove_file(lab.dir.join("conf.d/edge.yaml")).expect("remove");
    let all = snapshot(&lab);
    let mut felix = self::felix(&lab);
    daemon.wait_for("Felix connected");
    felix.say(&all);
    felix.say(&[encoder::in_sync()]);
    until("it is allowed", is_answered);
    felix.end();
    daemon.finish();
}

#[test]
fn connections_wait_until_felix_has_said_all() {
    let test = "felix::connections_wait_until_felix_has_said_all";
    let Some(mut lab) = lab(test) else {
        return;
    };
    lab.masquerade();
    let pod = lab.pod(0);
    let speak = |daemon: &mut Daemon, first: bool| {
        let mut felix = felix(&lab);
        felix.say(&snapshot(&lab));
        if !first {
            // Pollers are at work, and sweep, all the while.
            std::thread::sleep(AWAY);
            assert!(!daemon.log().contains("took over"), "{}", daemon.log());
        }
        felix.say(&[encoder::in_sync()]);
        daemon.wait_for("Felix's state taken");
        felix
    };
    let mut daemon = Daemon::start(&lab);
    let talker = speak(&mut daemon, true);
    let outside = Echo::at(&lab.wire, addr(OUTSIDE4));
    reaches(&pod.netns, pod.v4(), outside.addr());
    let transfer = Transfer::start((&pod.netns, pod.v4()), (&lab.wire, addr(OUTSIDE4)));
    transfer.goes_on(transfer.received());
    assert_eq!(daemon.terminate().code(), Some(0), "{}", daemon.log());
    drop(talker);
    // One that is stopped before it has taken them over hands them on.
    let mut daemon = Daemon::start(&lab);
    assert!(!file(&lab).exists(), "they are in memory");
    std::thread::sleep(AWAY);
    assert_eq!(daemon.terminate().code(), Some(0), "{}", daemon.log());
    daemon.wait_for("for the next start");

    let before = transfer.received();
    let mut daemon = Daemon::start(&lab);
    let _felix = speak(&mut daemon, false);
    daemon.wait_for("took over");
    transfer.goes_on(before);
    transfer.finish();
    daemon.finish();
}
