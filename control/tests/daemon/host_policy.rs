//! Policy of host endpoints on what the host itself sends and gets, by the kernel's nftables.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use control::netlink::NetNs;

use crate::lab::{Lab, NODE4, NODE6, WIRE4, WIRE6, addr, run};
use crate::process::{Daemon, PATIENCE};

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

fn connect(netns: &NetNs, address: IpAddr, port: u16) -> Option<TcpStream> {
    let to = SocketAddr::new(address, port);
    run(netns, || TcpStream::connect_timeout(&to, TRIED)).ok()
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
        before.extend(connect(&lab.wire, node, 8080));
        before.extend(connect(&lab.node, wire, 8080));
        assert!(connect(&lab.wire, node, 22).is_some(), "failsafe");
        assert!(connect(&lab.node, wire, 179).is_some(), "failsafe");
        assert!(connect(&lab.wire, node, 9090).is_none(), "{node}");
        assert!(connect(&lab.node, wire, 9090).is_none(), "{wire}");
        assert!(connect(&lab.node, wire, 22).is_none(), "inwards only");
        // To itself a host speaks by loopback.
        assert!(connect(&lab.node, node, 9090).is_some(), "loopback");
    }
    assert_eq!(before.len(), 4);

    resources(&lab, "eth0", &ingress("9090"));
    for (node, wire) in both {
        wait_until(true, &lab.wire, node, 9090);
        wait_until(false, &lab.wire, node, 8080);
        wait_until(false, &lab.node, wire, 8080);
    }
    assert!(before.iter_mut().all(echoes), "established ones go on");
    daemon.finish();
}
