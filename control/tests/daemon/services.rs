//! Services of a daemon at work: what `caracal services` says of them, and what pods' own sockets reach by them.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use control::netlink::NetNs;
use serde_json::Value;

use crate::lab::{Lab, NODE4, OUTSIDE4, OUTSIDE6, Pod, addr, run};
use crate::process::{Daemon, PATIENCE};
use crate::traffic::{Echo, connect};

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

/// Of the service of a name: its cluster IPs, IPv4's last byte and IPv6's alike.
fn vips(number: u8) -> [IpAddr; 2] {
    [
        addr(&format!("10.96.0.{number}")),
        addr(&format!("fd00:10:96::{number}")),
    ]
}

/// A service of TCP and UDP port 80 with these endpoints' port, as the API server has it.
fn service(name: &str, number: u8, endpoints: &[IpAddr], port: u16) -> String {
    let [four, six] = vips(number);
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: test}}\n\
         spec:\n  clusterIPs: [{four}, '{six}']\n  ipFamilyPolicy: PreferDualStack\n  ports:\n\
         \x20 - {{name: t, protocol: TCP, port: 80}}\n  - {{name: u, protocol: UDP, port: 80}}\n"
    );
    for (family, v4) in [("IPv4", true), ("IPv6", false)] {
        let of_family = endpoints.iter().filter(|it| it.is_ipv4() == v4);
        let endpoints: Vec<_> = of_family
            .map(|it| format!("{{addresses: ['{it}']}}"))
            .collect();
        let _ = write!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}-{v4}, namespace: test, labels: {{kubernetes.io/service-name: {name}}}}}\n\
             addressType: {family}\nendpoints: [{}]\nports:\n\
             - {{name: t, protocol: TCP, port: {port}}}\n- {{name: u, protocol: UDP, port: {port}}}\n",
            endpoints.join(", ")
        );
    }
    text + "---\n"
}

/// A server of TCP that says to each client who it sees.
fn who_asks(netns: &NetNs, at: IpAddr) -> SocketAddr {
    let listener = run(netns, || TcpListener::bind((at, 0))).expect("listen");
    let bound = listener.local_addr().expect("bound");
    // It ends with the process.
    std::thread::spawn(move || {
        while let Ok((mut stream, seen)) = listener.accept() {
            let _ = stream.write_all(seen.ip().to_string().as_bytes());
        }
    });
    bound
}

/// Who a server behind an address sees.
fn seen_at(pod: &Pod, from: IpAddr, to: SocketAddr) -> IpAddr {
    let mut stream = connect(&pod.netns, from, to);
    assert_eq!(stream.peer_addr().expect("connected"), to);
    let mut said = String::new();
    stream.read_to_string(&mut said).expect("read");
    addr(&said)
}

/// Waits until a datagram comes back from where it was sent; what else comes the kernel refuses.
fn answers(netns: &NetNs, from: IpAddr, to: SocketAddr) {
    let socket = run(netns, || UdpSocket::bind((from, 0))).expect("bind");
    socket.connect(to).expect("connect");
    let timeout = Some(Duration::from_millis(100));
    socket.set_read_timeout(timeout).expect("timeout");
    let start = Instant::now();
    loop {
        let _ = socket.send(b"who?");
        if matches!(socket.recv(&mut [0; 8]), Ok(4)) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{from} has no answer of {to}");
    }
}

#[test]
fn pods_reach_them_by_their_own_sockets() {
    let Some(mut lab) = Lab::new("services::pods_reach_them_by_their_own_sockets") else {
        return;
    };
    lab.masquerade();
    let (client, server) = (lab.pod(0), lab.pod(1));
    let [four, six] = server.both();
    let own = who_asks(&client.netns, client.v4());
    let outside = [OUTSIDE4, OUTSIDE6].map(addr);
    let outside4 = who_asks(&lab.wire, outside[0]);
    let served4 = who_asks(&server.netns, four);
    let echoes = server.both().map(|at| Echo::at(&server.netns, at));
    let all = [
        service("web", 1, &[four, six], echoes[0].addr().port()),
        service("api", 2, &outside, outside4.port()),
        service("own", 3, &[client.v4()], own.port()),
        service("nobody", 4, &[], 7),
        service("tcp", 5, &[four], served4.port()),
    ];
    lab.resource(NAME, &all.concat());
    let mut daemon = Daemon::start(&lab);

    for (from, vip) in client.both().into_iter().zip(vips(1)) {
        answers(&client.netns, from, (vip, 80).into());
    }
    let at = |number| SocketAddr::from((vips(number)[0], 80));
    assert_eq!(seen_at(&client, client.v4(), at(5)), client.v4());
    assert_eq!(seen_at(&client, client.v4(), at(2)), addr(NODE4));
    assert_eq!(seen_at(&client, client.v4(), at(3)), addr(NODE4));
    let start = Instant::now();
    let refused = run(&client.netns, || {
        TcpStream::connect_timeout(&at(4), PATIENCE)
    });
    let refused = refused.expect_err("nobody is there").kind();
    assert_eq!(refused, ErrorKind::ConnectionRefused);
    assert!(start.elapsed() < PATIENCE);
    let drops = daemon.caracal(&["drops"]);
    let drops = String::from_utf8_lossy(&drops.stdout).into_owned();
    assert!(drops.contains("service-no-endpoints"), "{drops}");

    let output = daemon.caracal(&["flows", "--match", "dnat and udp and ip", "-o", "json"]);
    let flows: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let flow = &flows["flows"][0];
    assert_eq!(flow["dst"], vips(1)[0].to_string(), "{flows}");
    assert_eq!(flow["dnat"]["addr"], four.to_string());
    let vip = vips(1)[0].to_string();
    let output = daemon.caracal(&[
        "trace", "--from", "test/p0", "--to", &vip, "--proto", "udp", "--port", "80",
    ]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = format!("test/web: to its endpoint {four}:7, of 1");
    assert!(said.contains(&expected), "{said}{output:?}");

    // Another endpoint, and the datagrams of a socket that stays go there.
    let others = Echo::at(&lab.wire, outside[0]);
    let mut changed = all;
    changed[0] = service("web", 1, &[outside[0]], others.addr().port());
    drop(echoes);
    lab.resource(NAME, &changed.concat());
    answers(&client.netns, client.v4(), at(1));
    daemon.finish();
}
