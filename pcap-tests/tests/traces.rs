//! Every kind of sender and receiver: what `caracal trace` says is what the pipeline does.

use std::collections::BTreeMap;
use std::net::IpAddr;

use control::compile::{Compiler, KernelHop, KernelView, PortRole, PortSpec};
use control::config::{HostEndpoints, Source, compute_with, load_sources};
use control::trace::{Ask, trace};
use encap::eth::MacAddr;
use encap::flow_hash::HashKey;
use fastpath::batch::Fate;
use fastpath::port::PortId;
use fastpath::tables::Tables;
use ipnet::IpNet;
use pcap_tests::build::{ethernet, ip4, ip6, vxlan};
use pcap_tests::rig::Rig;

const UPLINK: u32 = 2;
const ROUTER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const HOST_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
const TUNNEL: u16 = 4789;

const RESOURCES: &str = "
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: a}
spec: {bgp: {ipv4Address: 192.168.0.11/24, ipv6Address: '2001:db8:18::11/64'}, ipv4VXLANTunnelAddr: 10.65.0.0}
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: b}
spec: {bgp: {ipv4Address: 192.168.0.12/24}, ipv4VXLANTunnelAddr: 10.65.1.0}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pods}
spec: {cidr: 10.65.0.0/16, vxlanMode: Always}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pods6}
spec: {cidr: 'fd00:65::/64'}
---
apiVersion: projectcalico.org/v3
kind: BlockAffinity
metadata: {name: a-10-65-0-0-26}
spec: {state: confirmed, node: a, cidr: 10.65.0.0/26}
---
apiVersion: projectcalico.org/v3
kind: BlockAffinity
metadata: {name: a-fd00-65---122}
spec: {state: confirmed, node: a, cidr: 'fd00:65::/122'}
---
apiVersion: projectcalico.org/v3
kind: BlockAffinity
metadata: {name: b-10-65-1-0-26}
spec: {state: confirmed, node: b, cidr: 10.65.1.0/26}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: a-k8s-web-eth0, namespace: prod}
spec:
  {orchestrator: k8s, node: a, pod: web, endpoint: eth0, interfaceName: cali1, mac: '02:00:00:00:00:a2',
   ipNetworks: [10.65.0.2/32, 'fd00:65::2/128']}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: a-k8s-db-eth0, namespace: prod}
spec:
  {orchestrator: k8s, node: a, pod: db, endpoint: eth0, interfaceName: cali2, mac: '02:00:00:00:00:a3',
   ipNetworks: [10.65.0.3/32, 'fd00:65::3/128']}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: all}
spec: {selector: all(), types: [Ingress, Egress], ingress: [{action: Allow}], egress: [{action: Allow}]}
";

const UNTRACKED_POLICY: &str = "---
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: edge, labels: {at: edge}}
spec: {node: a, interfaceName: eth0}
---
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: others, labels: {at: others}}
spec: {node: a, interfaceName: '*'}
---
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: default}
spec: {failsafeInboundHostPorts: [{protocol: TCP, port: 80, net: 203.0.113.0/24}]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: raw-edge}
spec:
  selector: at == 'edge'
  doNotTrack: true
  applyOnForward: true
  types: [Ingress]
  ingress: [{action: Allow, protocol: UDP}, {action: Deny, protocol: 47}, {action: Deny, protocol: TCP}]
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: raw-others}
spec:
  selector: at == 'others'
  doNotTrack: true
  applyOnForward: true
  types: [Ingress]
  ingress: [{action: Allow, protocol: TCP}, {action: Deny, protocol: UDP}]
";

/// What a trace says where untracked policy decides.
const UNTRACKED: &str = "not asked, and no entry is made: untracked policy decides";

/// Pods of this node, and of the other, addresses of pools that nobody has, nodes, somebody outside, and what is no sender's.
const V4: [&str; 19] = [
    "10.65.0.2",
    "10.65.0.3",
    "10.65.0.0",
    "10.65.0.5",
    "10.65.1.7",
    "10.65.1.0",
    "10.65.200.1",
    "192.168.0.11",
    "192.168.0.12",
    "192.168.0.255",
    "203.0.113.7",
    "0.0.0.0",
    "0.1.2.3",
    "127.0.0.1",
    "169.254.1.1",
    "224.0.0.1",
    "239.1.2.3",
    "240.0.0.1",
    "255.255.255.255",
];
const V6: [&str; 10] = [
    "fd00:65::2",
    "fd00:65::3",
    "fd00:65::5",
    "fd00:65::1:1",
    "2001:db8:18::11",
    "2001:db8:99::7",
    "::",
    "::1",
    "fe80::1",
    "ff02::1",
];

struct Kernel(BTreeMap<IpNet, KernelHop>);

impl KernelView for Kernel {
    fn route(&self, addr: IpAddr) -> Option<KernelHop> {
        let holding = self.0.iter().filter(|(net, _)| net.contains(&addr));
        holding
            .max_by_key(|(net, _)| net.prefix_len())
            .map(|(_, hop)| hop.clone())
    }

    fn exact(&self, prefix: IpNet) -> Option<KernelHop> {
        self.0.get(&prefix).cloned()
    }

    fn mac(&self, ifindex: u32, _: IpAddr) -> Option<MacAddr> {
        (ifindex == UPLINK).then_some(ROUTER_MAC)
    }
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

fn node(resources: &str) -> (Compiler, Tables) {
    let ifindex = UPLINK;
    let via = |gateway: &str| KernelHop::Via {
        gateway: gateway.parse().expect("an address"),
        ifindex,
    };
    let kernel = Kernel(BTreeMap::from([
        (net("192.168.0.0/24"), KernelHop::OnLink { ifindex }),
        (net("0.0.0.0/0"), via("192.168.0.1")),
        (net("::/0"), via("2001:db8:18::1")),
    ]));
    let mut compiler = Compiler::new(HashKey([1, 2]));
    for (name, ifindex, role) in [
        ("caracal0-dp", 1, PortRole::Host(HOST_MAC)),
        ("eth0", UPLINK, PortRole::Uplink),
        ("cali1", 3, PortRole::Pod),
        ("cali2", 4, PortRole::Pod),
    ] {
        compiler.ports_mut().insert(PortSpec {
            name: name.to_owned(),
            ifindex,
            mac: MacAddr([0xee, 0, 0, 0, 0, ifindex as u8]),
            mtu: 1500,
            partial_checksums: false,
            role,
        });
    }
    let resources = load_sources(&[Source::new("all.yaml", resources)]);
    let how = HostEndpoints::ForwardedOnly;
    let desired = compute_with(&resources.expect("valid"), "a", how).expect("complete");
    compiler.set_desired(desired, &kernel).expect("room");
    let routes = kernel.0.iter().map(|(prefix, hop)| (*prefix, Some(hop)));
    compiler.kernel_routes(routes).expect("room");
    let own = [net("192.168.0.11/24"), net("2001:db8:18::11/64")];
    let other = [(UPLINK, IpAddr::from([192, 168, 0, 12]))];
    compiler
        .kernel_addresses(own, other, &kernel)
        .expect("room");
    let tables = compiler.tables(&kernel);
    (compiler, tables)
}

/// A packet of a protocol; of TCP and UDP to a port.
fn packet((src, dst): (&str, &str), (protocol, port): (u8, u16)) -> Vec<u8> {
    if src.contains(':') {
        let packet = ip6(src, dst);
        match protocol {
            6 => packet.tcp(40_000, port, 2, &[]),
            17 => packet.udp(40_000, port, &[]),
            58 => packet.icmp(128, 0, 1, &[]),
            _ => packet.packet(protocol, &[0; 32]),
        }
    } else {
        let packet = ip4(src, dst);
        match protocol {
            6 => packet.tcp(40_000, port, 2, &[]),
            17 => packet.udp(40_000, port, &[]),
            1 => packet.icmp(8, 0, 1, &[]),
            _ => packet.packet(protocol, &[0; 32]),
        }
    }
}

/// Where a sender's packets come in, and the frame in which they do.
fn arrival(
    compiler: &Compiler,
    tables: &Tables,
    (src, dst): (&str, &str),
    bytes: &[u8],
) -> (PortId, Vec<u8>) {
    let port = |name| compiler.ports().by_name(name).expect("a port");
    let mac = |id| tables.port(id).expect("a port").mac.0;
    let framed = |name, from: [u8; 6], bytes: &[u8]| {
        let id = port(name);
        (id, ethernet(mac(id), from, bytes))
    };
    match src {
        "10.65.0.2" | "fd00:65::2" => framed("cali1", [2, 0, 0, 0, 0, 0xa2], bytes),
        "10.65.0.3" | "fd00:65::3" => framed("cali2", [2, 0, 0, 0, 0, 0xa3], bytes),
        "192.168.0.11" | "10.65.0.0" | "2001:db8:18::11" => {
            framed("caracal0-dp", HOST_MAC.0, bytes)
        }
        "10.65.1.7" | "10.65.1.0" if dst.starts_with("10.65.") => {
            let end = tables.tunnels.vxlan4.expect("VXLAN");
            let inner = ethernet(end.mac.0, [0x66, 0, 0, 0, 0, 1], bytes);
            let outer = ip4("192.168.0.12", "192.168.0.11");
            let outer = outer.udp_unchecked(50_000, TUNNEL, &vxlan(end.vni.get(), &inner));
            framed("eth0", ROUTER_MAC.0, &outer)
        }
        _ => framed("eth0", ROUTER_MAC.0, bytes),
    }
}

/// How often a word was said.
type Said = BTreeMap<String, usize>;

/// Compares every sender with every receiver: how often each verdict was given, and each reason.
fn compare(compiler: &Compiler, tables: &Tables) -> (Said, Said) {
    let (mut verdicts, mut reasons) = (Said::new(), Said::new());
    let of = |all: &'static [&'static str]| {
        let pairs = all.iter();
        pairs.flat_map(move |src| all.iter().map(move |dst| (*src, *dst)))
    };
    for (src, dst) in of(&V4).chain(of(&V6)) {
        let icmp = if src.contains(':') { 58 } else { 1 };
        for (protocol, port) in [(6, 80), (17, TUNNEL), (icmp, 0), (4, 0), (47, 0)] {
            let ask = Ask {
                from: src.to_owned(),
                to: dst.to_owned(),
                protocol: protocol.to_string(),
                port,
                source_port: 40_000,
            };
            let told = trace(compiler, tables, None, None, &ask).expect("a good question");
            let bytes = packet((src, dst), (protocol, port));
            let (id, frame) = arrival(compiler, tables, (src, dst), &bytes);
            let mut rig = Rig::new(tables.clone()).with_connections();
            let fate = rig.run(id, &[frame]).fates[0];
            let what = format!("protocol {protocol}, {src} -> {dst}: {fate:?}\n{told}");
            let of_pod = ["10.65.0.2", "10.65.0.3", "fd00:65::2", "fd00:65::3"].contains(&src);
            let in_pool = dst.starts_with("10.65.") || dst.starts_with("fd00:65:");
            assert_eq!(told.verdict == "UNSEEN", !of_pod && !in_pool, "{what}");
            match (told.verdict.as_str(), fate) {
                ("ALLOW", Fate::Transmit(_) | Fate::Held) | ("UNSEEN", _) => {}
                ("DROP", Fate::Drop(reason)) => {
                    assert_eq!(told.reason.as_deref(), Some(reason.name()), "{what}");
                    *reasons.entry(reason.name().to_owned()).or_default() += 1;
                }
                _ => panic!("{what}"),
            }
            let is_untracked = told.steps.iter().any(|step| step.said == UNTRACKED);
            if is_untracked {
                let connections = rig.connections();
                let entries = connections.v4.len() + connections.v6.len();
                assert_eq!((entries, told.entry), (0, None), "{what}");
                *verdicts.entry("untracked".to_owned()).or_default() += 1;
            }
            *verdicts.entry(told.verdict).or_default() += 1;
        }
    }
    (verdicts, reasons)
}

#[test]
fn a_trace_says_what_the_pipeline_does() {
    let (compiler, tables) = node(RESOURCES);
    let (verdicts, reasons) = compare(&compiler, &tables);
    assert_eq!(verdicts.len(), 3, "{verdicts:?}");
    for reason in [
        "martian-source",
        "martian-destination",
        "multicast",
        "link-local",
        "same-interface",
        "source-misplaced",
        "source-is-tunnel",
        "tunnel-from-pod",
        "tunnel-loop",
        "blackhole",
    ] {
        // Source-is-tunnel needs a spoofing pod: never here.
        let met = reasons.contains_key(reason);
        assert_eq!(met, reason != "source-is-tunnel", "{reason}: {reasons:?}");
    }
}

/// By each interface something comes in that untracked policy allows, and something that it denies; and failsafe ports.
#[test]
fn so_it_does_of_untracked_policy() {
    let (compiler, tables) = node(&format!("{RESOURCES}{UNTRACKED_POLICY}"));
    let (verdicts, reasons) = compare(&compiler, &tables);
    assert!(verdicts["untracked"] > 20, "{verdicts:?}");
    assert!(reasons["policy-deny"] > 10, "{reasons:?}");
}
