//! Each bad input gets one error that says what, where and what to do; nothing stays attached.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;
use std::{env, fs, thread};

use control::netlink::{Neighbour, NeighbourState, Writer};
use control::xdp::{NicConfig, NicMode, NicProgram};
use nix::unistd::{Uid, setfsuid};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::lab::{Lab, Options, ip, run, v4, veth};
use crate::process::Daemon;
use crate::traffic::{Echo, reaches};

const FILES: i32 = 3;
const RUNTIME: i32 = 1;

/// The one error: everything the daemon wrote from the line on that begins with `error`.
fn error_of(daemon: &Daemon) -> String {
    let log = daemon.log();
    let errors = log.lines().filter(|line| line.starts_with("error"));
    assert_eq!(errors.count(), 1, "one error:\n{log}");
    log[log.find("\nerror").map_or(0, |at| at + 1)..].to_owned()
}

/// Lets the daemon fail with this code and an error that holds these words. What is attached is then what was before; its log.
fn fails(lab: &Lab, command: &mut Command, code: i32, words: &[&str]) -> String {
    let before = lab.attached();
    let mut daemon = Daemon::spawn_by(lab, command);
    let status = daemon.wait();
    let error = error_of(&daemon);
    assert_eq!(status.code(), Some(code), "{error}");
    for word in words {
        assert!(error.contains(word), "{word:?} is missing in: {error}");
    }
    assert_eq!(lab.attached(), before, "after: {error}");
    daemon.log()
}

/// Whether the log says that an interface was served, and so attached to.
fn is_served(log: &str, interface: &str) -> bool {
    let name = format!("interface=\"{interface}\"");
    log.lines()
        .any(|line| line.contains("serving") && line.contains(&name))
}

fn refused_by(lab: &Lab, command: &mut Command, code: i32, words: &[&str]) {
    let log = fails(lab, command, code, words);
    assert!(!log.contains("serving"), "it was found out late: {log}");
}

/// The daemon must end with this code and an error that holds these words, before it has attached anything.
fn refused(lab: &Lab, code: i32, words: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_caracal"));
    refused_by(lab, &mut command, code, words);
}

/// The same where it is found out late: all that was attached by then, the uplink among it, is taken off again.
fn undone(lab: &Lab, code: i32, words: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_caracal"));
    let log = fails(lab, &mut command, code, words);
    for interface in ["eth0", "caracal0-dp"] {
        assert!(is_served(&log, interface), "{interface}: {log}");
    }
    let asked = run(&lab.node, || {
        let mut writer = Writer::open().expect("netlink");
        writer.own_neighbours().expect("list")
    });
    let resolved = |it: &&Neighbour| it.state != NeighbourState::PERMANENT;
    assert_eq!(asked.iter().find(resolved), None, "{log}");
}

fn replace_in_config(lab: &Lab, from: &str, to: &str) {
    let text = fs::read_to_string(lab.config()).expect("read");
    assert!(text.contains(from), "{text}");
    fs::write(lab.config(), text.replace(from, to)).expect("write");
}

#[test]
fn an_unknown_uplink() {
    let Some(mut lab) = Lab::new("bad_input::an_unknown_uplink") else {
        return;
    };
    lab.pod(0);
    replace_in_config(&lab, "interface: eth0", "interface: eth7");
    refused(
        &lab,
        RUNTIME,
        &["caracal.yaml", "eth7", "no such interface", "`ip link`"],
    );
}

#[test]
fn an_uplink_that_another_program_holds() {
    let Some(mut lab) = Lab::new("bad_input::an_uplink_that_another_program_holds") else {
        return;
    };
    lab.pod(0);
    // Behind a good one, which is served by then.
    run(&lab.node, || {
        ip("link add eth1 type veth peer name eth1-peer");
        ip("link set eth1 up");
    });
    replace_in_config(
        &lab,
        "interface: eth0\n",
        "interface: eth0\n  - interface: eth1\n",
    );
    let program = NicProgram::load(&NicConfig::default()).expect("load");
    let held = run(&lab.node, || program.attach("eth1", NicMode::Native)).expect("attach");
    assert_eq!(lab.attached(), ["XDP on eth1"]);
    undone(
        &lab,
        RUNTIME,
        &[
            "eth1",
            "held by another XDP program",
            "caracal_nic",
            "ip link set dev eth1 xdp off",
        ],
    );
    assert!(held.is_alive());
}

#[test]
fn more_queues_than_the_nic_has() {
    let Some(mut lab) = Lab::new("bad_input::more_queues_than_the_nic_has") else {
        return;
    };
    lab.pod(0);
    replace_in_config(
        &lab,
        "interface: eth0\n",
        "interface: eth0\n    queues: 3\n",
    );
    refused(
        &lab,
        RUNTIME,
        &["eth0", "3 queues", "has 1", "caracal.yaml"],
    );
}

#[test]
fn more_pollers_than_the_nic_has_queues() {
    let Some(mut lab) = Lab::new("bad_input::more_pollers_than_the_nic_has_queues") else {
        return;
    };
    lab.pod(0);
    replace_in_config(&lab, "nodeName", "pollers:\n  cores: [0, 1]\nnodeName");
    refused(
        &lab,
        RUNTIME,
        &["eth0", "2 queues", "has 1", "caracal.yaml"],
    );
}

#[test]
fn more_pollers_than_a_pod_has_queues() {
    let options = Options {
        uplink_queues: 2,
        pod_queues: 2,
        settings: "pollers:\n  cores: [0, 1]\n".to_owned(),
        ..Options::default()
    };
    let test = "bad_input::more_pollers_than_a_pod_has_queues";
    let Some(mut lab) = Lab::with(test, options) else {
        return;
    };
    let good = lab.pod(0);
    let bad = lab.pod(1);
    // The same pod behind a veth of one queue.
    lab.unplug(1);
    run(&lab.node, || {
        ip(&format!(
            "link add {} numrxqueues 1 numtxqueues 1 type veth peer name eth0 netns {}",
            veth(1),
            lab.part("p1")
        ));
        ip(&format!("link set {} up", veth(1)));
    });
    run(&bad.netns, || ip("link set eth0 up"));
    let mut daemon = Daemon::start(&lab);
    let line = daemon.wait_for("not served");
    for words in ["cali1", "2 queues", "has 1"] {
        assert!(line.contains(words), "{words:?} is missing in: {line}");
    }
    let echo = Echo::at(&lab.wire, crate::lab::addr(crate::lab::OUTSIDE4));
    reaches(&good.netns, v4(0), echo.addr());
    daemon.finish();
}

#[test]
fn an_uplink_mtu_that_is_too_big() {
    let options = Options {
        uplink_mtu: 9000,
        ..Options::default()
    };
    let Some(mut lab) = Lab::with("bad_input::an_uplink_mtu_that_is_too_big", options) else {
        return;
    };
    lab.pod(0);
    refused(&lab, RUNTIME, &["eth0: MTU 9000", "3498", "lower the MTU"]);
}

#[test]
fn no_privileges() {
    let Some(mut lab) = Lab::new("bad_input::no_privileges") else {
        return;
    };
    lab.pod(0);
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]);
    command.arg(env!("CARGO_BIN_EXE_caracal"));
    refused_by(
        &lab,
        &mut command,
        RUNTIME,
        &["not permitted", "run as root", "CAP_NET_RAW"],
    );
}

/// Refuses AF_XDP sockets to this thread and what it starts, as a kernel does that was built without.
fn without_af_xdp() {
    let is_xdp = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Eq,
        libc::AF_XDP as u64,
    )
    .expect("a condition");
    let rule = SeccompRule::new(vec![is_xdp]).expect("a rule");
    let filter = SeccompFilter::new(
        [(libc::SYS_socket, vec![rule])].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EAFNOSUPPORT.cast_unsigned()),
        env::consts::ARCH.try_into().expect("a known processor"),
    )
    .expect("a filter");
    let program: seccompiler::BpfProgram = filter.try_into().expect("a program");
    seccompiler::apply_filter(&program).expect("seccomp");
}

#[test]
fn a_kernel_without_af_xdp() {
    let Some(mut lab) = Lab::new("bad_input::a_kernel_without_af_xdp") else {
        return;
    };
    lab.pod(0);
    // On a thread of its own: a filter is there to stay.
    thread::scope(|scope| {
        scope.spawn(|| {
            without_af_xdp();
            refused(
                &lab,
                RUNTIME,
                &["this kernel (", "no AF_XDP sockets", "CONFIG_XDP_SOCKETS=y"],
            );
        });
    });
}

#[test]
fn overlapping_pools() {
    let Some(mut lab) = Lab::new("bad_input::overlapping_pools") else {
        return;
    };
    lab.pod(0);
    lab.resource(
        "more.yaml",
        "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: more\n\
         spec:\n  cidr: 10.244.128.0/20\n",
    );
    refused(
        &lab,
        FILES,
        &[
            "more.yaml:6:",
            "10.244.128.0/20",
            "10.244.0.0/16",
            "cluster.yaml",
        ],
    );
}

#[test]
fn an_address_claimed_by_two_endpoints() {
    let Some(mut lab) = Lab::new("bad_input::an_address_claimed_by_two_endpoints") else {
        return;
    };
    lab.pod(0);
    let text = fs::read_to_string(lab.dir.join("conf.d/pod-0.yaml")).expect("read");
    let text = text.replace("p0", "p1").replace("cali0", "cali1");
    let text = text.replace("::2/128", "::3/128");
    lab.resource("pod-1.yaml", &text);
    refused(&lab, FILES, &["pod-1.yaml:", "10.244.1.2", "pod-0.yaml"]);
}

#[test]
fn an_endpoint_on_an_uplink_or_on_our_own_port() {
    let Some(mut lab) = Lab::new("bad_input::an_endpoint_on_an_uplink_or_on_our_own_port") else {
        return;
    };
    lab.pod(0);
    let good = fs::read_to_string(lab.dir.join("conf.d/pod-0.yaml")).expect("read");
    for (name, said) in [
        ("eth0", "interface eth0 is an uplink of this node"),
        ("caracal0", "interface caracal0 is Caracal's own"),
        ("caracal0-dp", "interface caracal0-dp is Caracal's own"),
    ] {
        let interface = format!("interfaceName: {name}");
        lab.resource(
            "pod-0.yaml",
            &good.replace("interfaceName: cali0", &interface),
        );
        refused(&lab, FILES, &[said, "pod-0.yaml:11:18"]);
    }
    // Nor is it taken over later.
    lab.resource("pod-0.yaml", &good);
    let mut daemon = Daemon::start(&lab);
    lab.resource(
        "pod-0.yaml",
        &good.replace("interfaceName: cali0", "interfaceName: eth0"),
    );
    daemon.wait_for("bad resources; the state before stays in force");
    daemon.wait_for("an uplink by this line: ");
    daemon.finish();
}

#[test]
fn no_uplink_at_all() {
    let Some(lab) = Lab::new("bad_input::no_uplink_at_all") else {
        return;
    };
    replace_in_config(&lab, "uplinks:\n  - interface: eth0\n", "");
    let mut daemon = Daemon::start(&lab);
    let said = daemon.wait_for("names no uplink");
    assert!(said.contains("caracal.yaml"), "{said}");
    daemon.finish();
}

#[test]
fn an_uplink_that_is_our_own_port() {
    let Some(lab) = Lab::new("bad_input::an_uplink_that_is_our_own_port") else {
        return;
    };
    replace_in_config(&lab, "interface: eth0", "interface: caracal0");
    refused(&lab, FILES, &["caracal.yaml:3:16", "Caracal's own"]);
}

#[test]
fn more_connections_than_the_machine_has_memory_for() {
    let test = "bad_input::more_connections_than_the_machine_has_memory_for";
    let Some(lab) = Lab::new(test) else {
        return;
    };
    let text = fs::read_to_string(lab.config()).expect("read");
    let settings = "connections:\n  entries: 1073741824\n  entriesV6: 1073741824\n";
    fs::write(lab.config(), text + settings).expect("write");
    refused(
        &lab,
        FILES,
        &[
            "caracal.yaml",
            "connections.entries: 1073741824",
            "198656 MiB",
            "this machine has",
        ],
    );
}

#[test]
fn a_configuration_that_is_a_fifo() {
    let Some(lab) = Lab::new("bad_input::a_configuration_that_is_a_fifo") else {
        return;
    };
    fs::remove_file(lab.config()).expect("remove");
    nix::unistd::mkfifo(&lab.config(), nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
    refused(
        &lab,
        FILES,
        &["caracal.yaml", "a FIFO", "only regular files"],
    );
}

#[test]
fn a_missing_directory_of_resources() {
    let Some(lab) = Lab::new("bad_input::a_missing_directory_of_resources") else {
        return;
    };
    fs::remove_dir_all(lab.dir.join("conf.d")).expect("remove");
    refused(&lab, FILES, &["conf.d", "No such file or directory"]);
}

#[test]
fn a_missing_configuration() {
    let Some(lab) = Lab::new("bad_input::a_missing_configuration") else {
        return;
    };
    fs::remove_file(lab.config()).expect("remove");
    refused(&lab, FILES, &["caracal.yaml", "No such file or directory"]);
}

#[test]
fn a_core_that_is_not_there() {
    let Some(mut lab) = Lab::new("bad_input::a_core_that_is_not_there") else {
        return;
    };
    lab.pod(0);
    replace_in_config(&lab, "nodeName", "pollers:\n  cores: [1000]\nnodeName");
    undone(
        &lab,
        RUNTIME,
        &["core 1000", "pollers.cores", "caracal.yaml"],
    );
}

#[test]
fn a_second_daemon() {
    let Some(mut lab) = Lab::new("bad_input::a_second_daemon") else {
        return;
    };
    let pod = lab.pod(0);
    let mut first = Daemon::start(&lab);
    refused(&lab, RUNTIME, &["already runs", "stop it first"]);
    let echo = Echo::at(&lab.wire, crate::lab::addr(crate::lab::OUTSIDE4));
    reaches(&pod.netns, pod.v4(), echo.addr());
    first.finish();
}

/// An abstract name is anybody's who takes it first.
#[test]
fn a_user_who_holds_the_daemons_name() {
    let test = "bad_input::a_user_who_holds_the_daemons_name";
    let Some(mut lab) = Lab::new(test) else {
        return;
    };
    let pod = lab.pod(0);
    let hold = || {
        // A socket is whose files the thread would make.
        let root = setfsuid(Uid::from_raw(65534));
        let name = SocketAddr::from_abstract_name("caracal-daemon").unwrap();
        let held = UnixDatagram::bind_addr(&name);
        setfsuid(root);
        held
    };
    let held = lab.node.run(hold).unwrap().unwrap();
    let mut daemon = Daemon::start(&lab);
    daemon.wait_for("user 65534, who can not be a Caracal daemon");
    let echo = Echo::at(&lab.wire, crate::lab::addr(crate::lab::OUTSIDE4));
    reaches(&pod.netns, pod.v4(), echo.addr());
    daemon.finish();
    drop(held);
}

#[test]
fn a_failed_start_leaves_closed_what_was_closed() {
    let Some(mut lab) = Lab::new("bad_input::a_failed_start_leaves_closed_what_was_closed") else {
        return;
    };
    lab.pod(0);
    let mut daemon = Daemon::start(&lab);
    daemon.wait_for("interface=\"cali0\"");
    daemon.kill();
    let left = lab.attached();
    assert!(left.contains(&"link caracal0".to_owned()), "{left:?}");
    assert!(left.contains(&"XDP on cali0".to_owned()), "{left:?}");
    replace_in_config(&lab, "nodeName", "pollers:\n  cores: [1000]\nnodeName");
    undone(&lab, RUNTIME, &["core 1000"]);
}
