//! `caracal flows` about real connections through a real daemon.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use control::netlink::NetNs;
use serde_json::Value;

use crate::lab::{Lab, NODE4, OUTSIDE4, addr, run};
use crate::process::{Daemon, PATIENCE};
use crate::traffic::{Echo, connect, reaches};

/// Both ends of a TCP connection.
pub(crate) struct Pair {
    pub(crate) client: TcpStream,
    pub(crate) server: TcpStream,
    /// Where the server listens.
    pub(crate) at: SocketAddr,
}

impl Pair {
    pub(crate) fn open(from: (&NetNs, IpAddr), to: (&NetNs, IpAddr)) -> Self {
        let listener = run(to.0, || TcpListener::bind((to.1, 0))).expect("listen");
        let at = listener.local_addr().expect("bound");
        let client = connect(from.0, from.1, at);
        let (server, _) = listener.accept().expect("accept");
        Self { client, server, at }
    }

    /// Says something each way.
    pub(crate) fn talk(&mut self) {
        let mut heard = [0; 4];
        self.client.write_all(b"ping").expect("send");
        self.server.read_exact(&mut heard).expect("receive");
        assert_eq!(&heard, b"ping");
        self.server.write_all(b"pong").expect("send");
        self.client.read_exact(&mut heard).expect("receive");
        assert_eq!(&heard, b"pong");
    }
}

fn json(daemon: &Daemon, words: &[&str]) -> Value {
    let output = daemon.caracal(&[&["flows", "-o", "json"], words].concat());
    assert!(output.status.success(), "{words:?}: {output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The connections that are meant.
fn meant(daemon: &Daemon, expression: &str) -> Vec<Value> {
    let value = json(daemon, &["--match", expression]);
    assert_eq!(value["schema"], "caracal.flows/v1");
    let flows = value["flows"].as_array().expect("a list").clone();
    assert_eq!(value["matched"], flows.len());
    flows
}

fn only(daemon: &Daemon, expression: &str) -> Value {
    let [flow] = <[Value; 1]>::try_from(meant(daemon, expression))
        .unwrap_or_else(|flows| panic!("{expression}: {flows:#?}"));
    flow
}

#[test]
fn connections_are_shown_filtered_counted_and_removed() {
    let test = "flows::connections_are_shown_filtered_counted_and_removed";
    let Some(mut lab) = Lab::new(test) else {
        return;
    };
    lab.masquerade();
    let (a, b) = (lab.pod(0), lab.pod(1));
    let mut daemon = Daemon::start(&lab);
    daemon.wait_for("interface=\"cali1\"");
    let mut local = Pair::open((&a.netns, a.v4()), (&b.netns, b.v4()));
    let mut out = Pair::open((&b.netns, b.v4()), (&lab.wire, addr(OUTSIDE4)));
    local.talk();
    out.talk();
    let echo = Echo::at(&b.netns, b.v6());
    reaches(&a.netns, a.v6(), echo.addr());

    let port = format!("tcp and dst port {}", local.at.port());
    let flow = only(&daemon, &port);
    let client = local.client.local_addr().expect("bound");
    assert_eq!(flow["state"], "ESTABLISHED");
    assert_eq!(
        (&flow["src"], &flow["src_port"]),
        (&client.ip().to_string().into(), &client.port().into())
    );
    assert_eq!(flow["dst"], b.v4().to_string());
    assert_eq!(
        (&flow["snat"], &flow["endpoint"]),
        (&Value::Null, &"test/p0".into())
    );
    assert_eq!(
        (&flow["original"]["port"], &flow["reply"]["port"]),
        (&"cali0".into(), &"cali1".into())
    );
    // SYN, ACK, data, ACK; SYN-ACK, ACK, data. An ACK may be on its way.
    assert!(flow["original"]["packets"].as_u64() >= Some(3), "{flow:#}");
    assert!(flow["reply"]["bytes"].as_u64() >= Some(150), "{flow:#}");
    assert!(flow["idle_seconds"].as_u64() <= Some(30), "{flow:#}");
    let expires = flow["expires_seconds"].as_u64().expect("a number");
    assert!((3600..=7440).contains(&expires), "{flow:#}");

    let translated = only(&daemon, "snat");
    assert_eq!(translated["snat"]["addr"], NODE4);
    assert_eq!(translated["dst"], OUTSIDE4);
    assert_eq!(translated["reply"]["port"], "eth0");
    let outside = out.server.peer_addr().expect("connected");
    assert_eq!(
        translated["snat"]["port"],
        outside.port(),
        "as the other end sees it"
    );
    for expression in [
        format!("host {NODE4} and port {}", outside.port()),
        "tcp and endpoint eth0".to_owned(),
        "endpoint test/p1 and not endpoint cali0".to_owned(),
        "src net 10.244.0.0/16 and not dst net 10.244.0.0/16 and not ip6".to_owned(),
    ] {
        assert_eq!(only(&daemon, &expression)["dst"], OUTSIDE4, "{expression}");
    }
    let datagrams = only(&daemon, "ip6 and udp");
    assert_eq!(
        (&datagrams["state"], &datagrams["dst"]),
        (&"ASSURED".into(), &b.v6().to_string().into())
    );
    let top = json(
        &daemon,
        &["--top", "1", "--by", "packets", "--match", "tcp"],
    );
    assert_eq!((&top["shown"], &top["matched"]), (&1.into(), &2.into()));

    let count = json(&daemon, &["--count", "--match", "tcp"]);
    assert_eq!(count["counts"]["state"]["ESTABLISHED"], 2, "{count:#}");
    assert_eq!(count["counts"]["endpoint"]["test/p0"], 1, "{count:#}");
    let status = daemon.state()["connections"].clone();
    assert!(status["made"].as_u64() >= Some(3), "{status:#}");
    assert!(status["ipv4"]["used"].as_u64() >= Some(2), "{status:#}");
    assert!(status["ipv6"]["used"].as_u64() >= Some(1), "{status:#}");

    // What is refused.
    for (words, code, says) in [
        (&["--flush"][..], 2, "--all"),
        (&["--flush", "--all", "--match", "tcp"], 2, "either"),
        (&["--match", "tcp and prot 5"], 2, "column 9"),
        (&["--match", "endpoint test/nobody"], 1, "test/nobody"),
    ] {
        let output = daemon.caracal(&[&["flows"], words].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
        assert!(said.contains(says), "{words:?}: {said}");
    }
    assert_eq!(meant(&daemon, "tcp").len(), 2, "nothing was removed");

    // The connection goes on as a new one: it is picked up in its middle.
    let before = flow["original"]["packets"].as_u64();
    for _ in 0..20 {
        local.talk();
    }
    // What the kernel carried is counted within a quarter of a second.
    let start = Instant::now();
    while only(&daemon, &port)["original"]["packets"].as_u64() <= before {
        assert!(start.elapsed() < PATIENCE, "not counted");
        std::thread::sleep(Duration::from_millis(50));
    }
    let flushed = json(&daemon, &["--flush", "--match", &port]);
    assert_eq!(flushed["schema"], "caracal.flows-flush/v1");
    assert_eq!(
        (&flushed["removed"], &flushed["busy"]),
        (&1.into(), &0.into())
    );
    local.talk();
    let anew = only(&daemon, &format!("tcp and port {}", local.at.port()));
    assert!(anew["original"]["packets"].as_u64() < Some(20), "{anew:#}");
    assert!(daemon.log().contains("removed on demand"));

    let flushed = json(&daemon, &["--flush", "--all"]);
    assert!(flushed["removed"].as_u64() >= Some(3), "{flushed:#}");
    // An acknowledgement that was late begins anew: once more, then.
    let is_empty = |_| {
        let left = meant(&daemon, "tcp");
        json(&daemon, &["--flush", "--all"]);
        left.is_empty()
    };
    assert!((0..20).any(is_empty), "{:?}", meant(&daemon, "tcp"));
    daemon.finish();
}
