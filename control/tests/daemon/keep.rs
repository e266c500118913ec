//! Connections outlive an orderly stop of the daemon.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use control::netlink::NetNs;

use crate::lab::{Lab, NODE4, NODE6, OUTSIDE4, OUTSIDE6, Options, addr, run};
use crate::process::{Daemon, PATIENCE};
use crate::traffic::connect;

/// Whoever comes is let in by pod 2 only.
const CLOSED: &str = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata:\n  name: closed\n\
                      spec:\n  selector: all()\n  types: [Ingress]\n  ingress:\n\
                      \x20 - {action: Allow, destination: {nets: [10.244.1.4/32]}}\n";

/// How long nobody is there: long enough for each end to send to the other in vain.
pub(crate) const AWAY: Duration = Duration::from_millis(700);

/// One TCP connection over which both ends send all the time; every byte that arrives is compared.
pub(crate) struct Transfer {
    stop: Arc<AtomicBool>,
    received: [Arc<AtomicU64>; 2],
    threads: Vec<JoinHandle<()>>,
    /// Who the server sees.
    seen: SocketAddr,
}

/// A daemon that masquerades is started, a pod connects to somebody outside, and the daemon is stopped in order. The ends of the connection.
pub(crate) fn stopped_with_one(lab: &mut Lab) -> [TcpStream; 2] {
    lab.masquerade();
    let pod = lab.pod(0);
    let listener = run(&lab.wire, || TcpListener::bind((addr(OUTSIDE4), 0))).expect("listen");
    let mut daemon = Daemon::start(lab);
    let client = connect(&pod.netns, pod.v4(), listener.local_addr().expect("bound"));
    let (server, _) = listener.accept().expect("accept");
    assert_eq!(daemon.terminate().code(), Some(0), "{}", daemon.log());
    [client, server]
}

fn pattern(at: u64) -> u8 {
    (at * 31 + at / 251) as u8
}

fn send(mut stream: TcpStream, stop: &AtomicBool) {
    let mut at = 0;
    while !stop.load(Ordering::Relaxed) {
        let chunk: Vec<u8> = (at..at + 4096).map(pattern).collect();
        stream.write_all(&chunk).expect("the connection goes on");
        at += chunk.len() as u64;
        thread::sleep(Duration::from_millis(5));
    }
    stream.shutdown(Shutdown::Write).expect("shutdown");
}

fn receive(mut stream: TcpStream, received: &AtomicU64) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let len = stream.read(&mut buffer).expect("the connection goes on");
        if len == 0 {
            return;
        }
        let at = received.load(Ordering::Relaxed);
        let wrong = (at..)
            .zip(&buffer[..len])
            .find(|(at, byte)| pattern(*at) != **byte);
        assert_eq!(wrong, None, "another byte");
        received.store(at + len as u64, Ordering::Relaxed);
    }
}

impl Transfer {
    pub(crate) fn start(from: (&NetNs, IpAddr), to: (&NetNs, IpAddr)) -> Self {
        let listener = run(to.0, || TcpListener::bind((to.1, 0))).expect("listen");
        let client = connect(from.0, from.1, listener.local_addr().expect("bound"));
        let (server, seen) = listener.accept().expect("accept");
        server.set_read_timeout(Some(PATIENCE)).expect("timeout");
        let stop = Arc::new(AtomicBool::new(false));
        let received = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
        let mut threads = Vec::new();
        for (stream, count) in [client, server].into_iter().zip(&received) {
            let (stop, count) = (Arc::clone(&stop), Arc::clone(count));
            let reader = stream.try_clone().expect("clone");
            threads.push(thread::spawn(move || send(stream, &stop)));
            threads.push(thread::spawn(move || receive(reader, &count)));
        }
        Self {
            stop,
            received,
            threads,
            seen,
        }
    }

    pub(crate) fn received(&self) -> [u64; 2] {
        [0, 1].map(|end| self.received[end].load(Ordering::Relaxed))
    }

    /// Waits until both ends have received more than before.
    pub(crate) fn goes_on(&self, before: [u64; 2]) {
        let start = Instant::now();
        while self
            .received()
            .iter()
            .zip(before)
            .any(|(now, before)| *now <= before + (1 << 16))
        {
            assert!(
                start.elapsed() < PATIENCE,
                "stands at {:?}",
                self.received()
            );
            let has_ended = self.threads.iter().any(JoinHandle::is_finished);
            assert!(!has_ended, "reset at {:?}", self.received());
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn finish(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("every byte, and an end in order");
        }
    }
}

pub(crate) fn file(lab: &Lab) -> PathBuf {
    lab.dir.join("control.sock.connections")
}

fn flow(daemon: &Daemon, expression: &str) -> serde_json::Value {
    let output = daemon.caracal(&["flows", "-o", "json", "--match", expression]);
    let all: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let flows = all["flows"].as_array().cloned().unwrap_or_default();
    assert_eq!(flows.len(), 1, "{expression}: {all:#}");
    flows[0].clone()
}

#[test]
fn transfers_go_on_across_a_restart() {
    let test = "keep::transfers_go_on_across_a_restart";
    let Some(mut lab) = Lab::new(test) else {
        return;
    };
    lab.masquerade();
    lab.resource("closed.yaml", CLOSED);
    let (first, second, third) = (lab.pod(0), lab.pod(1), lab.pod(2));
    let mut daemon = Daemon::start(&lab);
    let transfers = [
        Transfer::start((&first.netns, first.v4()), (&lab.wire, addr(OUTSIDE4))),
        Transfer::start((&first.netns, first.v6()), (&lab.wire, addr(OUTSIDE6))),
        Transfer::start((&second.netns, second.v4()), (&third.netns, third.v4())),
    ];
    let seen = transfers.each_ref().map(|transfer| transfer.seen.ip());
    assert_eq!(seen, [addr(NODE4), addr(NODE6), second.v4()]);
    for round in 0..2 {
        for transfer in &transfers {
            transfer.goes_on(transfer.received());
        }
        assert_eq!(daemon.terminate().code(), Some(0), "{}", daemon.log());
        assert!(
            daemon.log().contains("for the next start: "),
            "{}",
            daemon.log()
        );
        assert!(file(&lab).exists());
        thread::sleep(AWAY);
        let before = transfers.each_ref().map(Transfer::received);
        daemon = Daemon::start(&lab);
        daemon.wait_for("took over");
        assert!(!file(&lab).exists(), "it is read once");
        for (transfer, before) in transfers.iter().zip(before) {
            transfer.goes_on(before);
        }
        let state = daemon.state();
        assert!(
            state["connections"]["taken_over"].as_u64() >= Some(3),
            "round {round}: {state:#}"
        );
        let snat = flow(&daemon, &format!("tcp and dst host {OUTSIDE4}"));
        assert_eq!(snat["snat"]["port"], transfers[0].seen.port(), "{snat:#}");
        assert_eq!(snat["state"], "ESTABLISHED", "{snat:#}");
    }
    for transfer in transfers {
        transfer.finish();
    }
    daemon.finish();
}

#[test]
fn what_has_become_another_one_is_not_taken_over() {
    let test = "keep::what_has_become_another_one_is_not_taken_over";
    let Some(mut lab) = Lab::new(test) else {
        return;
    };
    lab.masquerade();
    let pods = [0, 1, 2, 3].map(|index| lab.pod(index));
    let listener = run(&lab.wire, || TcpListener::bind((addr(OUTSIDE4), 0))).expect("listen");
    let at = listener.local_addr().expect("bound");
    let mut daemon = Daemon::start(&lab);
    let mut ends = pods.each_ref().map(|pod| {
        let client = connect(&pod.netns, pod.v4(), at);
        (client, listener.accept().expect("accept").0)
    });
    assert_eq!(daemon.terminate().code(), Some(0), "{}", daemon.log());
    daemon.wait_for("kept 4 connections for the next start: ");
    // Another veth of the same name, an endpoint that is gone, and one that has another address.
    lab.unplug(0);
    lab.plug(&pods[0], None);
    lab.remove_endpoint(1);
    let path = lab.dir.join("conf.d/pod-2.yaml");
    let endpoint = fs::read_to_string(&path).expect("an endpoint");
    let moved = endpoint.replace("10.244.1.4/32", "10.244.1.44/32");
    assert_ne!(moved, endpoint);
    lab.resource("pod-2.yaml", &moved);
    let mut daemon = Daemon::start(&lab);
    let said = daemon.wait_for("took over 1 connection ");
    assert!(said.contains("endpoint gone or another 3"), "{said}");
    let connections = daemon.state()["connections"].clone();
    let counts = (&connections["taken_over"], &connections["left_out"]);
    assert_eq!(counts, (&1.into(), &3.into()), "{connections:#}");
    let (client, server) = &mut ends[3];
    server.write_all(b"still here?").expect("write");
    let mut buffer = [0; 11];
    client
        .read_exact(&mut buffer)
        .expect("the fourth pod's goes on");
    daemon.finish();
}

#[test]
fn a_file_that_is_not_to_be_used_is_warned_of_and_gone() {
    let test = "keep::a_file_that_is_not_to_be_used_is_warned_of_and_gone";
    let Some(mut lab) = Lab::new(test) else {
        return;
    };
    lab.masquerade();
    let pod = lab.pod(0);
    let listener = run(&lab.wire, || TcpListener::bind((addr(OUTSIDE4), 0))).expect("listen");
    let at = listener.local_addr().expect("bound");
    let path = file(&lab);
    let mut daemon = Daemon::start(&lab);
    assert_eq!(daemon.terminate().code(), Some(0), "{}", daemon.log());
    assert!(!path.exists(), "nothing to keep");
    fs::write(&path, "no connections").expect("write");
    let mut daemon = Daemon::start(&lab);
    let warning = daemon.wait_for("not used");
    let expected = format!(
        "{}: not used: it is user 0's with mode 0644",
        path.display()
    );
    assert!(
        warning.contains("WARN") && warning.contains(&expected),
        "{warning}"
    );
    assert!(!path.exists());
    // One that a stop has left, a bit of which is another one.
    let _ends = (
        connect(&pod.netns, pod.v4(), at),
        listener.accept().expect("accept"),
    );
    assert_eq!(daemon.terminate().code(), Some(0), "{}", daemon.log());
    let mut bytes = fs::read(&path).expect("kept");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&path, bytes).expect("write");
    let mut daemon = Daemon::start(&lab);
    let warning = daemon.wait_for("not used: its checksum is wrong");
    assert!(warning.contains("WARN"), "{warning}");
    assert_eq!(daemon.state()["connections"]["taken_over"], 0);
    // Who is killed leaves none.
    daemon.kill();
    assert!(!path.exists());
    let mut daemon = Daemon::start(&lab);
    assert!(!daemon.log().contains("took over"), "{}", daemon.log());
    daemon.finish();
}

#[test]
fn none_are_kept_where_none_are_to_be() {
    let test = "keep::none_are_kept_where_none_are_to_be";
    let options = Options {
        settings: "connections: {keep: false}\n".to_owned(),
        ..Options::default()
    };
    let Some(mut lab) = Lab::with(test, options) else {
        return;
    };
    let _ends = stopped_with_one(&mut lab);
    assert!(!file(&lab).exists());
    assert!(
        !lab.pins().iter().any(|pin| pin.starts_with("eth0")),
        "the NIC is the kernel's"
    );
}
