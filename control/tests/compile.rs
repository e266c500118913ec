//! The compiler: from files and a kernel made of data to next hops, judged by hand-written expectations.

use std::collections::BTreeMap;
use std::net::IpAddr;

use control::compile::{Compiler, KernelHop, KernelView, PortRole, PortSpec};
use control::config::{HostEndpoints, Source, compute_with, load_sources};
use control::desired::Desired;
use control::trace::{Ask, trace};
use encap::eth::MacAddr;
use encap::flow_hash::HashKey;
use encap::outer::Kind;
use fastpath::port::PortKind;
use fastpath::reason::DropReason;
use fastpath::tables::{Adjacency, NextHop, Tables, Way};
use flowtable::service::Service;
use ipnet::IpNet;

#[path = "compile/legs.rs"]
mod legs;
#[path = "compile/traces.rs"]
mod traces;
#[path = "compile/whole.rs"]
mod whole;

const UPLINK: u32 = 2;
const GATEWAY: &str = "192.168.0.1";
const GATEWAY_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const HOST_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

/// A kernel made of data: routes by prefix, neighbours on the uplink.
#[derive(Default)]
struct Kernel {
    routes: BTreeMap<IpNet, KernelHop>,
    macs: BTreeMap<IpAddr, MacAddr>,
}

impl KernelView for Kernel {
    fn route(&self, addr: IpAddr) -> Option<KernelHop> {
        let holding = self.routes.iter().filter(|(net, _)| net.contains(&addr));
        holding
            .max_by_key(|(net, _)| net.prefix_len())
            .map(|(_, hop)| hop.clone())
    }

    fn exact(&self, prefix: IpNet) -> Option<KernelHop> {
        self.routes.get(&prefix).cloned()
    }

    fn mac(&self, ifindex: u32, addr: IpAddr) -> Option<MacAddr> {
        self.macs.get(&addr).copied().filter(|_| ifindex == UPLINK)
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// The usual kernel: a connected network, a default route, both neighbours known.
fn kernel() -> Kernel {
    let mut kernel = Kernel::default();
    kernel
        .routes
        .insert(net("192.168.0.0/24"), KernelHop::OnLink { ifindex: UPLINK });
    kernel.routes.insert(
        net("0.0.0.0/0"),
        KernelHop::Via {
            gateway: ip(GATEWAY),
            ifindex: UPLINK,
        },
    );
    kernel.macs.insert(ip(GATEWAY), GATEWAY_MAC);
    kernel
        .macs
        .insert(ip("192.168.0.12"), MacAddr([2, 0, 0, 0, 0, 12]));
    kernel
}

/// Node `a` at 192.168.0.11 with a pod and a block of its own, node `b` at `b_addr`, one pool.
fn desired(pool: &str, b_addr: &str) -> Desired {
    desired_with(pool, b_addr, "")
}

/// The same with more resources.
fn desired_with(pool: &str, b_addr: &str, more: &str) -> Desired {
    let text = format!(
        "
apiVersion: projectcalico.org/v3
kind: Node
metadata: {{name: a}}
spec: {{bgp: {{ipv4Address: 192.168.0.11/24}}, ipv4VXLANTunnelAddr: 10.65.0.0}}
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {{name: b}}
spec: {{bgp: {{ipv4Address: {b_addr}}}, ipv4VXLANTunnelAddr: 10.65.1.0}}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {{name: pods}}
spec: {{cidr: 10.65.0.0/16, {pool}}}
---
apiVersion: projectcalico.org/v3
kind: BlockAffinity
metadata: {{name: a-10-65-0-0-26}}
spec: {{state: confirmed, node: a, cidr: 10.65.0.0/26}}
---
apiVersion: projectcalico.org/v3
kind: BlockAffinity
metadata: {{name: b-10-65-1-0-26}}
spec: {{state: confirmed, node: b, cidr: 10.65.1.0/26}}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {{name: a-k8s-web-eth0, namespace: prod}}
spec:
  orchestrator: k8s
  node: a
  pod: web
  endpoint: eth0
  interfaceName: cali1
  mac: 02:00:00:00:00:a2
  ipNetworks: [10.65.0.2/32]
  profiles: [kns.prod]
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {{name: b-k8s-guest-eth0, namespace: prod}}
spec: {{orchestrator: k8s, node: b, pod: guest, endpoint: eth0, interfaceName: cali9, ipNetworks: [10.65.0.9/32]}}
"
    );
    let resources = load_sources(&[Source::new("all.yaml", text + more)]).unwrap();
    compute_with(&resources, "a", HostEndpoints::ForwardedOnly).unwrap()
}

fn port(name: &str, ifindex: u32, role: PortRole) -> PortSpec {
    let mac = MacAddr([0xee, 0, 0, 0, 0, ifindex as u8]);
    PortSpec {
        name: name.to_owned(),
        ifindex,
        mac,
        mtu: 1500,
        partial_checksums: false,
        role,
    }
}

const SERVICE: &str = "---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: prod}
spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: prod, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.65.0.2]}]
ports: [{port: 8080}]
";

#[test]
fn services_are_in_the_tables_and_change_with_them() {
    let desired = |more: &str| desired_with("vxlanMode: Never", "192.168.0.12/24", more);
    let kernel = Kernel::default();
    let mut compiler = compiler(desired(SERVICE), &kernel);
    let backends = |tables: &Tables| {
        let vip = u32::from_be_bytes([10, 96, 0, 1]);
        match tables.services.v4.at(vip, 6, 80) {
            Service::Port(frontend) => frontend.backends().to_vec(),
            other => panic!("{other:?}"),
        }
    };
    let [old, new] = [[10, 65, 0, 2], [10, 65, 1, 9]].map(u32::from_be_bytes);
    let first = compiler.tables(&kernel);
    assert_eq!(backends(&first), [(old, 8080)]);
    let moved = desired(&SERVICE.replace("10.65.0.2", "10.65.1.9"));
    assert!(!moved.is_same_but_policy(compiler.desired()));
    compiler.set_desired(moved, &kernel).unwrap();
    let second = compiler.tables(&kernel);
    assert_eq!(backends(&second), [(new, 8080)]);
    assert!(second.generation > first.generation);
    // Who has them still sees what there was.
    assert_eq!(backends(&first), [(old, 8080)]);
    // Services alone, of whatever source.
    let alone = desired(SERVICE).services;
    compiler.set_services(alone);
    assert_eq!(backends(&compiler.tables(&kernel)), [(old, 8080)]);
    compiler.set_desired(desired(""), &kernel).unwrap();
    assert!(compiler.tables(&kernel).services.v4.is_empty());
}

#[test]
fn natoutgoing_has_no_ports_until_it_is_given_some() {
    // A default range would, between start and the first look at the host's ports, take what the host gives its own sockets.
    let compiler = Compiler::new(HashKey([1, 2]));
    let ports = compiler.nat_ports();
    assert!(ports.tcp.is_empty() && ports.udp.is_empty() && ports.others.is_empty());
}

/// A compiler with all ports, fed with `desired` and `kernel`.
fn compiler(desired: Desired, kernel: &Kernel) -> Compiler {
    let mut compiler = Compiler::new(HashKey([1, 2]));
    let ports = compiler.ports_mut();
    ports.insert(port("caracal0-dp", 1, PortRole::Host(HOST_MAC)));
    ports.insert(port("eth0", UPLINK, PortRole::Uplink));
    ports.insert(port("cali1", 3, PortRole::Pod));
    compiler.set_desired(desired, kernel).unwrap();
    compiler
        .kernel_routes(
            kernel
                .routes
                .iter()
                .map(|(prefix, hop)| (*prefix, Some(hop))),
        )
        .unwrap();
    compiler
        .kernel_addresses(
            [net("192.168.0.11/24")],
            [(UPLINK, ip("192.168.0.12"))],
            kernel,
        )
        .unwrap();
    compiler
}

fn hop<'a>(tables: &'a Tables, dst: &str) -> &'a NextHop {
    let IpAddr::V4(addr) = ip(dst) else {
        panic!("IPv4 here")
    };
    tables.next_hop(tables.fib4.lookup(addr.into()))
}

fn sent<'a>(tables: &'a Tables, dst: &str) -> &'a Adjacency {
    match hop(tables, dst) {
        NextHop::Send(adjacency) => adjacency,
        other => panic!("{dst}: {other:?}"),
    }
}

#[test]
fn each_destination_gets_the_way_that_calico_gives_it() {
    let kernel = kernel();
    let tables = compiler(desired("vxlanMode: Always", "192.168.0.12/24"), &kernel).tables(&kernel);

    let pod = sent(&tables, "10.65.0.2");
    assert_eq!(
        (pod.way, pod.mtu, pod.rewrite.macs().dst),
        (Way::Pod, 1500, MacAddr([2, 0, 0, 0, 0, 0xa2]))
    );
    assert_eq!(
        *hop(&tables, "10.65.0.3"),
        NextHop::Drop(DropReason::Blackhole),
        "own block, no such pod"
    );

    let remote = sent(&tables, "10.65.1.7");
    assert_eq!(
        (remote.way, remote.mtu, remote.rewrite.kind()),
        (Way::Tunnel, 1450, Kind::Vxlan4)
    );
    assert_eq!(
        remote.rewrite.macs().dst,
        MacAddr([2, 0, 0, 0, 0, 12]),
        "b is on the link"
    );
    assert_eq!(
        sent(&tables, "10.65.0.9").peer,
        remote.peer,
        "borrowed from our block, and at b"
    );
    assert_eq!(tables.tunnels.peers4.get(&0xc0a8_000c), Some(&remote.peer));

    assert_eq!(
        sent(&tables, "192.168.0.11").rewrite.macs().dst,
        HOST_MAC,
        "our own address is the host's"
    );
    assert_eq!(sent(&tables, "8.8.8.8").rewrite.macs().dst, GATEWAY_MAC);
    assert_eq!(
        *hop(&tables, "192.168.0.255"),
        NextHop::Drop(DropReason::Multicast),
        "directed broadcast"
    );
    assert!(
        matches!(hop(&tables, "192.168.0.77"), NextHop::Resolve(waiting) if waiting.gateway.is_none())
    );
}

#[test]
fn the_pools_mode_decides_the_headers() {
    let kernel = kernel();
    let kind = |pool: &str, b: &str| {
        let tables = compiler(desired(pool, b), &kernel).tables(&kernel);
        let adjacency = sent(&tables, "10.65.1.7");
        (
            adjacency.rewrite.kind(),
            adjacency.mtu,
            adjacency.rewrite.macs().dst,
        )
    };
    let near = MacAddr([2, 0, 0, 0, 0, 12]);
    assert_eq!(
        kind("ipipMode: Always", "192.168.0.12/24"),
        (Kind::Ipip, 1480, near)
    );
    assert_eq!(
        kind("ipipMode: CrossSubnet", "192.168.0.12/24"),
        (Kind::Ethernet, 1500, near)
    );
    assert_eq!(
        kind("ipipMode: CrossSubnet", "172.16.0.12/24"),
        (Kind::Ipip, 1480, GATEWAY_MAC)
    );
    assert_eq!(
        kind("vxlanMode: CrossSubnet", "172.16.0.12/24"),
        (Kind::Vxlan4, 1450, GATEWAY_MAC)
    );
    assert_eq!(
        kind("vxlanMode: Never", "172.16.0.12/24"),
        (Kind::Ethernet, 1500, GATEWAY_MAC)
    );
}

#[test]
fn a_neighbours_change_touches_next_hops_and_no_route() {
    let mut kernel = kernel();
    let mut compiler = compiler(desired("vxlanMode: Always", "172.16.0.12/24"), &kernel);
    let before = compiler.tables(&kernel);
    let id = |tables: &Tables| tables.fib4.lookup(0x0a41_0107);
    kernel.macs.remove(&ip(GATEWAY));
    let lost = compiler.tables(&kernel);
    assert_eq!(id(&lost), id(&before));
    assert!(
        matches!(hop(&lost, "10.65.1.7"), NextHop::Resolve(waiting) if waiting.gateway == Some(ip(GATEWAY)))
    );
    kernel.macs.insert(ip(GATEWAY), MacAddr([2, 0, 0, 0, 0, 7]));
    let found = compiler.tables(&kernel);
    assert_eq!(
        sent(&found, "10.65.1.7").rewrite.macs().dst,
        MacAddr([2, 0, 0, 0, 0, 7])
    );
    assert_eq!(
        sent(&before, "10.65.1.7").rewrite.macs().dst,
        GATEWAY_MAC,
        "a snapshot does not change"
    );
    assert!(found.generation > before.generation);
}

#[test]
fn the_kernels_route_counts_again_when_calicos_is_gone() {
    let mut kernel = kernel();
    let block = net("10.65.1.0/26");
    kernel.routes.insert(block, KernelHop::Unreachable);
    let mut compiler = compiler(desired("vxlanMode: Always", "192.168.0.12/24"), &kernel);
    assert_eq!(
        sent(&compiler.tables(&kernel), "10.65.1.7").way,
        Way::Tunnel
    );
    let mut without = desired("vxlanMode: Always", "192.168.0.12/24");
    without.routes.retain(|route| route.dst != block);
    compiler.set_desired(without, &kernel).unwrap();
    assert_eq!(
        *hop(&compiler.tables(&kernel), "10.65.1.7"),
        NextHop::Drop(DropReason::Unreachable)
    );
    kernel.routes.remove(&block);
    compiler.kernel_routes([(block, None)]).unwrap();
    assert_eq!(
        sent(&compiler.tables(&kernel), "10.65.1.7")
            .rewrite
            .macs()
            .dst,
        GATEWAY_MAC,
        "the default route"
    );
}

#[test]
fn a_port_that_goes_takes_its_routes_along() {
    let kernel = kernel();
    let mut compiler = compiler(desired("vxlanMode: Always", "192.168.0.12/24"), &kernel);
    let (id, _) = compiler.ports_mut().remove("cali1").unwrap();
    compiler.refresh_routes(&kernel).unwrap();
    let tables = compiler.tables(&kernel);
    assert!(tables.port(id).is_none());
    assert_eq!(
        *hop(&tables, "10.65.0.2"),
        NextHop::Drop(DropReason::Blackhole)
    );
    compiler.ports_mut().remove("eth0").unwrap();
    compiler.refresh_routes(&kernel).unwrap();
    assert_eq!(
        *hop(&compiler.tables(&kernel), "8.8.8.8"),
        NextHop::Drop(DropReason::PortDown)
    );
}

#[test]
fn a_pods_port_binds_its_addresses_and_speaks_as_its_gateway() {
    let kernel = kernel();
    let compiler = &mut compiler(desired("vxlanMode: Always", "192.168.0.12/24"), &kernel);
    let tables = compiler.tables(&kernel);
    let id = compiler.ports().by_name("cali1").unwrap();
    let port = tables.port(id).unwrap();
    let PortKind::Pod(pod) = &port.kind else {
        panic!("{port:?}")
    };
    assert!(pod.may_send_from4(0x0a41_0002) && !pod.may_send_from4(0x0a41_0003));
    assert_eq!(port.icmp_source4, Some(0xa9fe_0101));
}

#[test]
fn the_uplinks_take_the_pools_and_the_next_hops_are_kept_resolved() {
    let kernel = kernel();
    let compiler = compiler(desired("vxlanMode: Always", "172.16.0.12/24"), &kernel);
    assert_eq!(compiler.taken_prefixes(), [net("10.65.0.0/16")]);
    let wanted = compiler.wanted_neighbours(&kernel);
    assert!(wanted.contains(&(UPLINK, ip(GATEWAY))), "{wanted:?}");
}

fn asked(compiler: &mut Compiler, kernel: &Kernel, from: &str, to: &str) -> String {
    asked_by(compiler, kernel, (from, to), ("tcp", 80))
}

fn ask((from, to): (&str, &str), (protocol, port): (&str, u16)) -> Ask {
    Ask {
        from: from.to_owned(),
        to: to.to_owned(),
        protocol: protocol.to_owned(),
        port,
        source_port: 40_000,
    }
}

fn asked_by(
    compiler: &mut Compiler,
    kernel: &Kernel,
    (from, to): (&str, &str),
    (protocol, port): (&str, u16),
) -> String {
    let tables = compiler.tables(kernel);
    let ask = ask((from, to), (protocol, port));
    match trace(compiler, &tables, None, None, &ask) {
        Ok(trace) => trace.to_string(),
        Err(error) => error,
    }
}

#[test]
fn a_trace_says_each_step_and_who_decided() {
    let kernel = kernel();
    let policy = "---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: only-web, namespace: prod}
spec: {selector: all(), types: [Egress], egress: [{action: Deny, destination: {nets: [10.65.1.0/24]}}, {action: Allow}]}
---
apiVersion: projectcalico.org/v3
kind: StagedNetworkPolicy
metadata: {name: closed, namespace: prod}
spec: {selector: all(), order: 1, types: [Egress], egress: [{action: Deny}]}
";
    let wanted = desired_with("vxlanMode: Always", "192.168.0.12/24", policy);
    let mut compiler = compiler(wanted, &kernel);
    let said = asked(&mut compiler, &kernel, "prod/web", "10.65.1.7");
    for part in [
        "Packet  TCP 10.65.0.2:40000 -> 10.65.1.7:80",
        "port cali1",
        "10.65.1.7 by eth0, in a tunnel",
        "egress of prod/web",
        "denied: tier default: NetworkPolicy prod/only-web, egress rule 1 (Deny), all.yaml:",
        "Verdict DROP  policy-deny",
        "deny, idle 10 s",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let said = asked(&mut compiler, &kernel, "10.65.0.2", "203.0.113.1");
    for part in [
        "203.0.113.1 by eth0, plain",
        "allowed by tier default: NetworkPolicy prod/only-web, egress rule 2 (Allow)",
        "Verdict ALLOW",
        "with StagedNetworkPolicy prod/closed enforced the verdict would be DROP",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let said = asked(&mut compiler, &kernel, "web", "192.168.0.11");
    assert!(said.contains("Verdict DROP  endpoint-to-host"), "{said}");
    let said = asked(&mut compiler, &kernel, "192.168.0.11", "web");
    assert!(
        said.contains("a host always reaches its own pods"),
        "{said}"
    );
    let said = asked(&mut compiler, &kernel, "nobody", "web");
    assert!(
        said.contains("no endpoint of this node is called `nobody`; say `namespace/pod`"),
        "{said}"
    );
    let said = asked(&mut compiler, &kernel, "prod/wbe", "web");
    assert!(said.contains("did you mean `prod/web`?"), "{said}");
}

#[test]
fn a_trace_takes_the_names_that_are_observed() {
    let kernel = kernel();
    let wanted = desired("vxlanMode: Always", "192.168.0.12/24");
    let mut compiler = compiler(wanted, &kernel);
    // The node itself, and a pod of another node.
    for (name, address) in [("host", "192.168.0.11"), ("prod/guest", "10.65.0.9")] {
        for (from, to) in [("prod/web", name), (name, "prod/web")] {
            let numbers = |end: &str| end.replace(name, address);
            let by_name = asked(&mut compiler, &kernel, from, to);
            let by_address = asked(&mut compiler, &kernel, &numbers(from), &numbers(to));
            // Each is asked of tables of its own.
            let but_generation = |said: &str| said.split(", generation").next().map(str::to_owned);
            assert_eq!(but_generation(&by_name), but_generation(&by_address));
            assert!(by_name.contains("Verdict"), "{by_name}");
        }
    }
}

#[test]
fn a_trace_says_what_host_endpoints_decide() {
    let kernel = kernel();
    let policy = "---
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: a-eth0, labels: {at: edge}}
spec: {node: a, interfaceName: eth0}
---
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: a-all, labels: {at: all}}
spec: {node: a, interfaceName: '*'}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: edge}
spec:
  selector: at == 'edge'
  applyOnForward: true
  types: [Ingress, Egress]
  ingress: [{action: Allow, source: {nets: [203.0.113.0/28]}}]
  egress: [{action: Deny, destination: {nets: [203.0.113.8/32]}}, {action: Pass}]
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: early}
spec: {selector: at == 'all', preDNAT: true, applyOnForward: true, types: [Ingress], ingress: [{action: Deny, destination: {nets: [10.65.1.9/32]}}]}
";
    let wanted = desired_with("vxlanMode: Always", "192.168.0.12/24", policy);
    let mut compiler = compiler(wanted, &kernel);
    for (from, to, parts) in [
        (
            "203.0.113.1",
            "web",
            &[
                "forwarded ingress of host endpoint a-eth0 allowed by tier default: GlobalNetworkPolicy edge, ingress rule 1 (Allow)",
                "ingress of prod/web",
                "Verdict ALLOW",
            ][..],
        ),
        (
            "203.0.113.99",
            "web",
            &[
                "forwarded ingress of host endpoint a-eth0 denied: no rule matched in tier default; GlobalNetworkPolicy edge selects",
                "Verdict DROP  policy-deny",
            ],
        ),
        (
            "web",
            "203.0.113.8",
            &[
                "ingress before DNAT of host endpoint a-all no policy decided, and none needs to",
                "egress of prod/web",
                "forwarded egress of host endpoint a-eth0 denied: tier default: GlobalNetworkPolicy edge, egress rule 1 (Deny), all.yaml:",
                "Verdict DROP  policy-deny",
            ],
        ),
        (
            "web",
            "203.0.113.9",
            &[
                "forwarded egress of host endpoint a-eth0 no policy decided, and none needs to",
                "Verdict ALLOW",
            ],
        ),
        // A tunnel hides it from the uplink's endpoint, and not from that for all interfaces.
        ("web", "10.65.1.7", &["Verdict ALLOW"]),
        (
            "web",
            "10.65.1.9",
            &[
                "ingress before DNAT of host endpoint a-all denied: tier default: GlobalNetworkPolicy early",
            ],
        ),
    ] {
        let said = asked(&mut compiler, &kernel, from, to);
        let mut rest = said.as_str();
        for part in parts {
            let at = rest.find(part).unwrap_or_else(|| panic!("{part}: {said}"));
            rest = &rest[at..];
        }
        if to.starts_with("10.65") {
            assert!(!said.contains("a-eth0"), "{said}");
        }
    }
}
