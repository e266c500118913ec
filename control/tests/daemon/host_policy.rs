//! Policy of host endpoints on what the host itself sends and gets, by the kernel's nftables.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use control::netlink::NetNs;

use crate::lab::{
    Lab, NODE4, NODE6, OUTSIDE4, Options, REMOTE4, TUNNEL4, WIRE4, WIRE6, addr, ip, run,
};
use crate::process::{Daemon, PATIENCE};
use crate::traffic::{Echo, answered, reaches};

/// How long a connection that is to be dropped is waited for.
const TRIED: Duration = Duration::from_millis(400);

/// Listens on ports of an address and echoes what comes by a connection. Ends with the process.
fn listen(netns: &NetNs, address: IpAddr, ports: &[u16]) {
    for port in ports {
        let listener = run(netns, || TcpListener::bind((address, *port))).expect("listen");
        thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                thread::spawn(move || {
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
                });
            }
        });
    }
}

/// A connection, if one is made soon: that there is none needs no more.
fn connect(netns: &NetNs, address: IpAddr, port: u16) -> Option<TcpStream> {
    let to = SocketAddr::new(address, port);
    run(netns, || TcpStream::connect_timeout(&to, TRIED)).ok()
}

/// A connection that there must be, on a busy machine, too.
fn connected(netns: &NetNs, address: IpAddr, port: u16) -> TcpStream {
    let to = SocketAddr::new(address, port);
    let stream = run(netns, || TcpStream::connect_timeout(&to, PATIENCE));
    stream.unwrap_or_else(|error| panic!("{to}: {error}"))
}

fn connects(netns: &NetNs, address: IpAddr, port: u16) -> bool {
    connected(netns, address, port).peer_addr().is_ok()
}

/// Whether a byte comes back.
fn echoes(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    stream.write_all(b"x").is_ok() && stream.read_exact(&mut [0]).is_ok()
}

/// Waits until a connection is made, or no longer is.
fn wait_until(made: bool, netns: &NetNs, address: IpAddr, port: u16) {
    let start = Instant::now();
    while connect(netns, address, port).is_some() != made {
        assert!(
            start.elapsed() < PATIENCE,
            "{address} port {port}: never {made}"
        );
    }
}

/// A host endpoint for `interface`, and a policy for it.
fn resources(lab: &Lab, interface: &str, policy: &str) {
    lab.resource(
        "hosts.yaml",
        &format!(
            "apiVersion: projectcalico.org/v3\nkind: HostEndpoint\nmetadata: {{name: edge, labels: {{at: edge}}}}\n\
             spec: {{node: node1, interfaceName: {interface:?}}}\n---\n\
             apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: edge}}\n\
             spec:\n  selector: at == 'edge'\n{policy}"
        ),
    );
}

fn ingress(ports: &str) -> String {
    format!(
        "  types: [Ingress, Egress]\n  ingress:\n  - {{action: Allow, protocol: TCP, destination: {{ports: [{ports}]}}}}\n\
         \x20 egress:\n  - {{action: Allow, protocol: TCP, destination: {{ports: [{ports}]}}}}\n"
    )
}

#[test]
fn the_hosts_own_traffic_is_judged() {
    let test = "host_policy::the_hosts_own_traffic_is_judged";
    let Some(lab) = Lab::new(test) else {
        return;
    };
    resources(&lab, "eth0", &ingress("8080"));
    let both = [(addr(NODE4), addr(WIRE4)), (addr(NODE6), addr(WIRE6))];
    for (node, wire) in both {
        listen(&lab.node, node, &[22, 8080, 9090]);
        listen(&lab.wire, wire, &[22, 179, 8080, 9090]);
    }
    let mut daemon = Daemon::start(&lab);
    let mut before = Vec::new();
    for (node, wire) in both {
        before.push(connected(&lab.wire, node, 8080));
        before.push(connected(&lab.node, wire, 8080));
        assert!(connects(&lab.wire, node, 22), "failsafe");
        assert!(connects(&lab.node, wire, 179), "failsafe");
        assert!(connect(&lab.wire, node, 9090).is_none(), "{node}");
        assert!(connect(&lab.node, wire, 9090).is_none(), "{wire}");
        assert!(connect(&lab.node, wire, 22).is_none(), "inwards only");
        // To itself a host speaks by loopback.
        assert!(connects(&lab.node, node, 9090), "loopback");
    }
    assert_eq!(before.len(), 4);
    for (from, to, port, verdict, by) in [
        (
            WIRE4,
            "host",
            "8080",
            "ALLOW",
            "ingress of host endpoint edge allowed by tier default: GlobalNetworkPolicy edge, ingress rule 1",
        ),
        (
            WIRE6,
            "host",
            "9090",
            "DROP  policy-deny",
            "ingress of host endpoint edge denied: no rule matched in tier default",
        ),
        (
            WIRE4,
            "host",
            "22",
            "ALLOW",
            "allowed by failsafe port TCP 22",
        ),
        (
            "host",
            WIRE6,
            "8080",
            "ALLOW",
            "egress of host endpoint edge allowed by tier default",
        ),
        (
            "host",
            WIRE4,
            "22",
            "DROP  policy-deny",
            "egress of host endpoint edge denied",
        ),
    ] {
        let asked = ["trace", "--from", from, "--to", to, "--port", port];
        let traced = daemon.caracal(&asked);
        let traced = String::from_utf8_lossy(&traced.stdout);
        assert!(traced.contains("kernel has it (eth0)"), "{traced}");
        assert!(traced.contains(by), "{by}: {traced}");
        assert!(traced.contains(&format!("Verdict {verdict}\n")), "{traced}");
    }
    let shown = daemon.caracal(&["policy", "show", "--endpoint", "edge"]);
    let shown = String::from_utf8_lossy(&shown.stdout);
    for part in [
        "HostEndpoint edge (eth0, node node1)\n",
        "ingress, the host's own\n",
        "1 Allow TCP to port 8080  ",
        "else: Deny (no rule matched in tier default; GlobalNetworkPolicy edge selects this endpoint, ",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let allowing = shown
        .lines()
        .find(|line| line.contains("1 Allow TCP to port 8080"));
    let allowing = allowing.expect("a rule");
    assert!(
        allowing.contains("connections, ") && !allowing.contains("[0 "),
        "{allowing}"
    );
    let drops = daemon.caracal(&["drops"]);
    let drops = String::from_utf8_lossy(&drops.stdout);
    assert!(
        drops.contains("(ingress), in the kernel") && drops.contains("(egress), in the kernel"),
        "{drops}"
    );

    resources(&lab, "eth0", &ingress("9090"));
    for (node, wire) in both {
        wait_until(true, &lab.wire, node, 9090);
        wait_until(false, &lab.wire, node, 8080);
        wait_until(false, &lab.node, wire, 8080);
    }
    assert!(before.iter_mut().all(echoes), "established ones go on");
    daemon.finish();
}

/// What a program prints in a namespace, given some input; it must succeed.
fn program(netns: &NetNs, words: &str, input: &str) -> String {
    let mut words = words.split_whitespace();
    let mut command = Command::new(words.next().expect("a program"));
    command
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = run(netns, || command.spawn()).expect("start");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).expect("write");
    drop(stdin);
    let output = child.wait_with_output().expect("wait");
    assert!(output.status.success(), "{command:?}: {input}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn table(netns: &NetNs) -> String {
    program(netns, "nft list tables", "")
}

/// A policy of one more name for the endpoint.
fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: {name}}}\n\
         spec:\n  selector: at == 'edge'\n{spec}"
    )
}

#[test]
fn connections_to_failsafe_ports_outlive_the_first_table() {
    let test = "host_policy::connections_to_failsafe_ports_outlive_the_first_table";
    let Some(lab) = Lab::new(test) else {
        return;
    };
    // Nothing is allowed.
    resources(&lab, "eth0", "  types: [Ingress, Egress]\n");
    let mut streams = Vec::new();
    for node in [addr(NODE4), addr(NODE6)] {
        let listener = run(&lab.node, || TcpListener::bind((node, 22))).expect("listen");
        let client = connected(&lab.wire, node, 22);
        let (server, _) = listener.accept().expect("accept");
        client.set_read_timeout(Some(PATIENCE)).expect("timeout");
        streams.push((client, server));
    }
    let mut daemon = Daemon::start(&lab);
    for (client, server) in &mut streams {
        // The server speaks first: to the kernel's connection tracking this is a new connection of its own.
        server.write_all(b"$ ").expect("write");
        client
            .read_exact(&mut [0; 2])
            .expect("what the server says");
    }
    assert!(connect(&lab.node, addr(WIRE4), 22).is_none());
    daemon.finish();
}

#[test]
fn policy_that_is_not_tracked_or_comes_before_dnat() {
    let test = "host_policy::policy_that_is_not_tracked_or_comes_before_dnat";
    let Some(lab) = Lab::new(test) else {
        return;
    };
    let node = addr(NODE4);
    program(
        &lab.node,
        "nft -f -",
        "table ip others {\n chain nat { type nat hook prerouting priority -100\n\
         tcp dport { 7777, 7778, 7779 } dnat to 192.0.2.1:8080\n }\n}\n",
    );
    listen(&lab.node, node, &[8080, 9090]);
    let udp = Echo::at(&lab.node, node);
    let tracked = ingress("8080");
    let untracked = policy(
        "untracked",
        "  doNotTrack: true\n  applyOnForward: true\n  types: [Ingress, Egress]\n\
         \x20 ingress: [{action: Allow, protocol: UDP, destination: {ports: [7]}}]\n\
         \x20 egress: [{action: Allow, protocol: UDP, source: {ports: [7]}}]\n",
    );
    let early = policy(
        "early",
        "  preDNAT: true\n  applyOnForward: true\n  types: [Ingress]\n\
         \x20 ingress: [{action: Deny, protocol: TCP, destination: {ports: [7777]}}, \
         {action: Allow, protocol: TCP, destination: {ports: [7779, 9090]}}]\n",
    );
    resources(&lab, "eth0", &format!("{tracked}{untracked}{early}"));
    let mut daemon = Daemon::start(&lab);
    reaches(&lab.wire, addr(WIRE4), udp.addr());
    assert!(connects(&lab.wire, node, 8080));
    let entries = program(&lab.node, "conntrack -L", "");
    assert!(entries.contains("dport=8080"), "{entries}");
    assert!(!entries.contains("dport=7 "), "{entries}");
    // By the ports before and after.
    assert!(connect(&lab.wire, node, 7777).is_none(), "denied before");
    assert!(connects(&lab.wire, node, 7778), "allowed after");
    assert!(
        connects(&lab.wire, node, 9090),
        "allowed before, and so after"
    );
    // Without policy after: only what was allowed before.
    resources(
        &lab,
        "eth0",
        &format!("  types: [Ingress, Egress]\n{early}"),
    );
    wait_until(false, &lab.wire, node, 7778);
    assert!(connects(&lab.wire, node, 7779));
    assert_eq!(answered(&lab.wire, addr(WIRE4), udp.addr(), TRIED), None);
    daemon.finish();
}

#[test]
fn what_the_kernel_forwards_or_translates_is_judged_where_it_comes_in_and_leaves() {
    let test = "host_policy::what_the_kernel_forwards_or_translates_is_judged_where_it_comes_in_and_leaves";
    let Some(mut lab) = Lab::new(test) else {
        return;
    };
    let pod = lab.pod(0);
    let (node, outside) = (addr(NODE4), addr(OUTSIDE4));
    listen(&pod.netns, pod.v4(), &[8080, 8081]);
    listen(&lab.wire, outside, &[8080, 8081]);
    // As kube-proxy has it: a node's port, and services of a pod and of somebody outside.
    program(
        &lab.node,
        "nft -f -",
        "table ip others {\n chain in { type nat hook prerouting priority -100\n\
         tcp dport 30080 dnat to 10.244.1.2:8080\n tcp dport 30081 dnat to 10.244.1.2:8081\n }\n\
         chain out { type nat hook output priority -100\n\
         ip daddr 10.96.0.1 tcp dport { 8080, 8081 } dnat to 10.244.1.2\n\
         ip daddr 10.96.0.2 tcp dport { 8080, 8081 } dnat to 198.51.100.9\n }\n\
         chain post { type nat hook postrouting priority 100\n oifname caracal0 ct status dnat snat to 192.0.2.1\n }\n}\n",
    );
    let forward = ingress("8080").replace("  types", "  applyOnForward: true\n  types");
    for interface in ["eth0", "*"] {
        resources(&lab, interface, &forward);
        let mut daemon = Daemon::start(&lab);
        assert!(connects(&lab.wire, node, 30080), "{interface}");
        assert!(connect(&lab.wire, node, 30081).is_none(), "{interface}");
        // A host reaches its own pods whatever policy says, also by a service.
        let service = addr("10.96.0.1");
        for port in [8080, 8081] {
            assert!(connects(&lab.node, pod.v4(), port), "{interface}");
            assert!(connects(&lab.node, service, port), "{interface}");
        }
        let service = addr("10.96.0.2");
        assert!(connects(&lab.node, service, 8080), "{interface}");
        assert!(connect(&lab.node, service, 8081).is_none(), "{interface}");
        daemon.finish();
    }
}

/// Puts a program `nft` in front of the true one, which does this first. What PATH finds it by.
pub(crate) fn wrap_nft(lab: &Lab, first: &str) -> String {
    let wrapper = lab.dir.join("nft");
    let text = format!("#!/bin/sh\n{first}\nPATH=${{PATH#*:}}\nexec nft \"$@\"\n");
    fs::write(&wrapper, text).expect("write");
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("chmod");
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{}:{path}:/usr/sbin", lab.dir.display())
}

#[test]
fn nobody_waits_for_the_first_table() {
    let test = "host_policy::nobody_waits_for_the_first_table";
    let Some(lab) = Lab::new(test) else {
        return;
    };
    let node = addr(NODE4);
    listen(&lab.node, node, &[8080, 9090]);
    // An nft that takes as long as it is told to.
    let hold = lab.dir.join("hold");
    let held = hold.display();
    let path = wrap_nft(&lab, &format!("while [ -e {held} ]; do sleep 0.05; done"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_caracal"));
    let mut daemon = Daemon::spawn_by(&lab, command.env("PATH", &path));
    daemon.wait_for("ready");
    fs::write(&hold, "").expect("write");
    resources(&lab, "eth0", &ingress("8080"));
    daemon.wait_for("resources loaded");
    // Later than the load, and answered all the same.
    for _ in 0..10 {
        assert_eq!(daemon.state()["problems"].to_string(), "[]");
    }
    assert_eq!(daemon.state()["host_table_pending"], true);
    assert!(connects(&lab.wire, node, 9090));
    fs::remove_file(&hold).expect("remove");
    wait_until(false, &lab.wire, node, 9090);
    let becomes = |pending: bool| {
        (0..100).any(|_| {
            let is = daemon.state()["host_table_pending"] == pending;
            if !is {
                std::thread::sleep(Duration::from_millis(50));
            }
            is
        })
    };
    assert!(becomes(false));
    assert!(connects(&lab.wire, node, 8080));
    // Nor does a stop wait for it.
    fs::write(&hold, "").expect("write");
    resources(&lab, "eth0", &ingress("9090"));
    assert!(becomes(true));
    daemon.finish();
    fs::remove_file(&hold).expect("remove");
}

#[test]
fn a_first_table_that_is_refused_leaves_the_host_open_and_says_so() {
    let test = "host_policy::a_first_table_that_is_refused_leaves_the_host_open_and_says_so";
    let Some(lab) = Lab::new(test) else {
        return;
    };
    let node = addr(NODE4);
    listen(&lab.node, node, &[9090]);
    let refuse = lab.dir.join("refuse");
    let refused = refuse.display();
    let path = wrap_nft(
        &lab,
        &format!(
            "if [ -e {refused} ] && [ \"$1\" = -f ]; then echo 'Error: not today' >&2; exit 1; fi"
        ),
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_caracal"));
    let mut daemon = Daemon::spawn_by(&lab, command.env("PATH", &path));
    daemon.wait_for("ready");
    fs::write(&refuse, "").expect("write");
    resources(&lab, "eth0", &ingress("8080"));
    daemon.wait_for("there are no rules, and everything passes");
    let problems = daemon.state()["problems"].to_string();
    assert!(problems.contains("there are no rules"), "{problems}");
    assert!(problems.contains("not today"), "{problems}");
    assert!(connects(&lab.wire, node, 9090));
    fs::remove_file(&refuse).expect("remove");
    daemon.wait_for("host endpoints are enforced on the host's own traffic");
    wait_until(false, &lab.wire, node, 9090);
    daemon.finish();
}

#[test]
fn the_table_stays_and_is_kept() {
    let test = "host_policy::the_table_stays_and_is_kept";
    let Some(lab) = Lab::new(test) else {
        return;
    };
    let node = addr(NODE4);
    listen(&lab.node, node, &[8080, 9090]);
    resources(&lab, "eth0", &ingress("8080"));
    // An nft that refuses when it is told to.
    let refuse = lab.dir.join("refuse");
    let path = wrap_nft(
        &lab,
        &format!(
            "if [ -e {refuse} ] && [ \"$1\" = -f ]; then echo 'Error: not today' >&2; exit 1; fi",
            refuse = refuse.display()
        ),
    );
    let spawn = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_caracal"));
        Daemon::spawn_by(&lab, command.env("PATH", &path))
    };
    program(&lab.node, "nft add table inet others", "");

    // Refused at the start: none.
    fs::write(&refuse, "").expect("write");
    let mut daemon = spawn();
    daemon.wait_for("not today");
    assert_eq!(daemon.wait().code(), Some(1));
    assert!(!table(&lab.node).contains("caracal"));
    fs::remove_file(&refuse).expect("remove");

    let mut daemon = spawn();
    daemon.wait_for("ready");
    assert!(connects(&lab.wire, node, 8080));
    assert!(connect(&lab.wire, node, 9090).is_none());

    // What others take away is put back, and theirs is left alone.
    program(&lab.node, "nft delete table inet caracal", "");
    daemon.wait_for("somebody changed table inet caracal");
    wait_until(false, &lab.wire, node, 9090);
    program(&lab.node, "nft flush chain inet caracal input", "");
    wait_until(true, &lab.wire, node, 9090);
    wait_until(false, &lab.wire, node, 9090);
    let lines = daemon.log_len();
    program(&lab.node, "nft flush set inet caracal peers4", "");
    daemon.wait_after(lines, "somebody changed table inet caracal");
    let start = Instant::now();
    let peers = || program(&lab.node, "nft list set inet caracal peers4", "");
    while !peers().contains(WIRE4) {
        assert!(start.elapsed() < PATIENCE, "{}", peers());
    }
    assert!(table(&lab.node).contains("table inet others"));

    // A change that is refused leaves the table before, and says so.
    fs::write(&refuse, "").expect("write");
    resources(&lab, "eth0", &ingress("9090"));
    daemon.wait_for("the rules before are in force");
    assert!(connects(&lab.wire, node, 8080));
    assert!(connect(&lab.wire, node, 9090).is_none());
    let problems = daemon.state()["problems"].to_string();
    assert!(
        problems.contains("host-policy") && problems.contains("not today"),
        "{problems}"
    );
    fs::remove_file(&refuse).expect("remove");
    daemon.wait_for("in force again");
    assert!(connects(&lab.wire, node, 9090));
    assert_eq!(daemon.state()["problems"].to_string(), "[]");

    // The host is as it was after a crash, and with another daemon as that says.
    daemon.kill();
    assert!(connects(&lab.wire, node, 9090));
    assert!(connect(&lab.wire, node, 8080).is_none());
    resources(&lab, "eth0", &ingress("8080"));
    let mut daemon = spawn();
    daemon.wait_for("ready");
    assert!(connects(&lab.wire, node, 8080));
    assert!(connect(&lab.wire, node, 9090).is_none());
    daemon.finish();
    assert!(connect(&lab.wire, node, 9090).is_none());
    let cleaned = lab.cleanup();
    let cleaned = String::from_utf8_lossy(&cleaned.stdout);
    assert!(cleaned.contains("\"hostPolicy\": true"), "{cleaned}");
    assert!(connects(&lab.wire, node, 9090));
    assert_eq!(table(&lab.node), "table inet others\n");
}

#[test]
fn the_endpoint_follows_addresses_and_goes_with_its_resource() {
    let test = "host_policy::the_endpoint_follows_addresses_and_goes_with_its_resource";
    let Some(lab) = Lab::new(test) else {
        return;
    };
    let node = addr(NODE4);
    listen(&lab.node, node, &[9090]);
    lab.resource(
        "hosts.yaml",
        "apiVersion: projectcalico.org/v3\nkind: HostEndpoint\nmetadata: {name: edge}\n\
         spec: {node: node1, expectedIPs: [203.0.113.77]}\n",
    );
    let mut daemon = Daemon::start(&lab);
    assert!(connects(&lab.wire, node, 9090));
    run(&lab.node, || {
        ip("addr add 203.0.113.77/32 dev eth0");
    });
    wait_until(false, &lab.wire, node, 9090);
    run(&lab.node, || {
        ip("addr del 203.0.113.77/32 dev eth0");
    });
    wait_until(true, &lab.wire, node, 9090);
    resources(&lab, "eth0", "  types: [Ingress, Egress]\n");
    wait_until(false, &lab.wire, node, 9090);
    fs::remove_file(lab.dir.join("conf.d/hosts.yaml")).expect("remove");
    wait_until(true, &lab.wire, node, 9090);
    assert_eq!(table(&lab.node), "");
    daemon.finish();

    // What a daemon left whose successor is told otherwise goes at the start.
    resources(&lab, "eth0", "  types: [Ingress, Egress]\n");
    let mut daemon = Daemon::start(&lab);
    daemon.kill();
    assert_ne!(table(&lab.node), "");
    let config = fs::read_to_string(lab.config()).expect("caracal.yaml");
    fs::write(
        lab.config(),
        format!("{config}hostEndpoints: forwarded-only\n"),
    )
    .expect("write");
    let mut daemon = Daemon::start(&lab);
    assert_eq!(table(&lab.node), "");
    assert!(connects(&lab.wire, node, 9090));
    daemon.finish();
}

/// Whether a datagram from the wire comes to a port of the node within some time.
fn heard(lab: &Lab, port: u16, from: &UdpSocket, patience: Duration) -> bool {
    let node = addr(NODE4);
    let socket = run(&lab.node, || UdpSocket::bind((node, port))).expect("bind");
    socket.set_read_timeout(Some(TRIED / 4)).expect("timeout");
    let start = Instant::now();
    while start.elapsed() < patience {
        from.send_to(b"x", (node, port)).expect("send");
        if socket.recv_from(&mut [0]).is_ok() {
            return true;
        }
    }
    false
}

#[test]
fn what_comes_to_the_host_by_way_of_a_poller_is_judged_as_well() {
    let test = "host_policy::what_comes_to_the_host_by_way_of_a_poller_is_judged_as_well";
    let Some(lab) = Lab::new(test) else {
        return;
    };
    // Ports that natOutgoing may use come to a poller; who listens there since a moment is not known to it.
    lab.masquerade();
    let mut daemon = Daemon::start(&lab);
    let wire = run(&lab.wire, || UdpSocket::bind((addr(WIRE4), 0))).expect("bind");
    program(
        &lab.node,
        "nft -f -",
        "table inet others {\n chain in { type filter hook input priority -1\n\
         iifname caracal0 udp dport 20000-20010 counter\n }\n}\n",
    );
    assert!(heard(&lab, 20000, &wire, PATIENCE));
    let counted = program(&lab.node, "nft list table inet others", "");
    assert!(counted.contains("counter packets"), "{counted}");
    assert!(!counted.contains("packets 0 "), "{counted}");
    for (at, interface) in ["eth0", "*"].into_iter().enumerate() {
        resources(&lab, interface, "  types: [Ingress, Egress]\n");
        let node = addr(NODE4);
        listen(&lab.node, node, &[9090 + at as u16]);
        wait_until(false, &lab.wire, node, 9090 + at as u16);
        assert!(!heard(&lab, 20001 + at as u16, &wire, TRIED), "{interface}");
    }
    daemon.finish();
}

#[test]
fn the_endpoint_for_all_interfaces_is_tunnels_too() {
    let test = "host_policy::the_endpoint_for_all_interfaces_is_tunnels_too";
    let options = Options {
        vxlan: true,
        ..Options::default()
    };
    let Some(mut lab) = Lab::with(test, options) else {
        return;
    };
    let pod = lab.pod(0);
    listen(&pod.netns, pod.v4(), &[9090]);
    let (node, tunnel) = (addr(NODE4), addr(TUNNEL4));
    listen(&lab.node, node, &[8080, 9090]);
    let mut daemon = Daemon::start(&lab);
    listen(&lab.node, tunnel, &[8080, 9090]);
    // The wire is node 2, with a pod there.
    run(&lab.wire, || {
        ip(&format!(
            "link add vx type vxlan id 4096 dstport 4789 local {WIRE4} dev eth0"
        ));
        ip("link set vx up");
        ip(&format!("addr add {REMOTE4}/32 dev vx"));
    });
    let mac = control::calico::vtep_mac("node1");
    run(&lab.wire, || {
        ip(&format!(
            "link set vx address {}",
            control::calico::vtep_mac("node2")
        ));
        ip(&format!("neigh replace {TUNNEL4} lladdr {mac} dev vx"));
        ip(&format!(
            "route replace 10.244.1.0/24 via {TUNNEL4} dev vx onlink src {REMOTE4}"
        ));
        Command::new("bridge")
            .args(["fdb", "append", &mac.to_string(), "dev", "vx", "dst", NODE4])
            .status()
            .expect("bridge");
    });
    assert!(connects(&lab.wire, tunnel, 9090));
    resources(&lab, "*", &ingress("8080"));
    wait_until(false, &lab.wire, node, 9090);
    assert!(connects(&lab.wire, tunnel, 8080));
    assert!(connect(&lab.wire, tunnel, 9090).is_none());
    assert!(connects(&lab.node, pod.v4(), 9090), "its own pod");
    // Local pods were judged already.
    assert!(connects(&pod.netns, node, 9090));
    // That of an uplink says nothing of what comes in tunnels.
    resources(&lab, "eth0", &ingress("9090"));
    wait_until(true, &lab.wire, node, 9090);
    assert!(connects(&lab.wire, tunnel, 8080));
    daemon.finish();
}

#[test]
fn without_nft_a_host_endpoint_is_refused() {
    let test = "host_policy::without_nft_a_host_endpoint_is_refused";
    let Some(lab) = Lab::new(test) else {
        return;
    };
    // The program is hidden from the daemon alone.
    let spawn = || {
        let script = "for nft in /usr/sbin/nft /sbin/nft /usr/local/sbin/nft /usr/bin/nft; do \
                      [ ! -e $nft ] || mount --bind /dev/null $nft || exit 9; done; exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args([
            "-m",
            "sh",
            "-c",
            script,
            "sh",
            env!("CARGO_BIN_EXE_caracal"),
        ]);
        Daemon::spawn_by(&lab, &mut command)
    };
    let mut daemon = spawn();
    daemon.wait_for("ready");
    resources(&lab, "eth0", &ingress("8080"));
    daemon.wait_for("a host endpoint of this node: no program `nft`");
    assert!(daemon.log().contains("install it"), "{}", daemon.log());
    daemon.finish();
    let mut daemon = spawn();
    daemon.wait_for("a host endpoint of this node: no program `nft`");
    assert_eq!(daemon.wait().code(), Some(3));
}
