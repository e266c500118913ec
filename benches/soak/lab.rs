//! Two pods, the node between them and the outside, each in a namespace of its own.
//!
//! ```text
//! a0 10.1.0.2 ---- na |      |
//!                     | node | n1 192.168.9.1 ---- s0 192.168.9.2 | outside
//! b0 10.1.0.3 ---- nb |      |
//! ```
//!
//! Pod A's packets go to 10.2.0.0/20, by a router or by a node at 192.168.9.2, which drops them. Pod B speaks to a server at
//! 192.168.9.2, with the node's address.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use benches::cpu;
use benches::generator::{Flow, Generator, Kind, PORTS};
use benches::process::{Process, shell};
use benches::rounds::Result;
use fastpath::io::xsk::test_support::Netns;

use crate::counters::Counters;

/// The server's address.
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 168, 9, 2);
/// Pod A.
const A: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
/// The first address that pod A sends to.
const SPRAYED: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);
/// Hardware addresses of a0 and na.
const A0: [u8; 6] = [0x02, 0, 0, 0, 1, 2];
const NA: [u8; 6] = [0x02, 0, 0, 0, 1, 1];
/// VXLAN's port.
const VXLAN: u16 = 4789;

/// What the daemon is told beside resources; its rings are the default ones.
const DAEMON: &str = "nodeName: bench\nuplinks: [{interface: n1, mode: copy}]\nmaxPods: 4\n";

/// Both pods, and node `far` at the outside with the block 10.2.0.0/20.
const RESOURCES: &str = "\
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: bench}
spec: {bgp: {ipv4Address: 192.168.9.1/24}, ipv4VXLANTunnelAddr: 10.1.0.1}
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: far}
spec: {bgp: {ipv4Address: 192.168.9.2/24}, ipv4VXLANTunnelAddr: 10.2.0.1}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: near}
spec: {cidr: 10.1.0.0/16, vxlanMode: Always, natOutgoing: true}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: bench-k8s-a-eth0, namespace: default}
spec: {orchestrator: k8s, node: bench, pod: a, endpoint: eth0, interfaceName: na, mac: \"02:00:00:00:01:02\", ipNetworks: [10.1.0.2/32], profiles: [kns.default]}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: bench-k8s-b-eth0, namespace: default}
spec: {orchestrator: k8s, node: bench, pod: b, endpoint: eth0, interfaceName: nb, mac: \"02:00:00:00:01:03\", ipNetworks: [10.1.0.3/32], profiles: [kns.default]}
";

/// Makes where pod A sends to a VXLAN pool.
const FAR_POOL: &str = "---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: far}
spec: {cidr: 10.2.0.0/16, blockSize: 20, vxlanMode: Always, natOutgoing: true}
---
apiVersion: projectcalico.org/v3
kind: BlockAffinity
metadata: {name: far-10-2-0-0-20}
spec: {state: confirmed, node: far, cidr: 10.2.0.0/20}
";

/// What pod A sends, and the way it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// UDP, each packet of another connection, with the node's address.
    SnatUdp,
    /// The same, SYNs.
    SnatSyn,
    /// UDP into VXLAN.
    Vxlan,
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::SnatUdp, Self::SnatSyn, Self::Vxlan];

    /// Its name in the table.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::SnatUdp => "UDP, SNAT",
            Self::SnatSyn => "SYNs, SNAT",
            Self::Vxlan => "UDP into VXLAN",
        }
    }
}

/// The namespaces, the daemon in one of them, the generator in another.
pub(crate) struct Lab {
    /// Pod A's, until it is taken.
    pub(crate) generator: Option<Generator>,
    pub(crate) counters: Counters,
    _daemon: Process,
    /// Bound and never read: the outside is a VTEP that drops, and does not say that there is none.
    _vtep: UdpSocket,
    pub(crate) b: Netns,
    pub(crate) outside: Netns,
    _node: Netns,
    _a: Netns,
}

impl Lab {
    /// Builds it and starts the daemon with these further settings, on `core`.
    pub(crate) fn new(way: Way, settings: &str, core: usize) -> Result<Self> {
        let [a, b, node, outside] = ["a", "b", "node", "outside"].map(Netns::new);
        a.veth("a0", &node, "na", 1);
        b.veth("b0", &node, "nb", 1);
        node.veth("n1", &outside, "s0", 1);
        shell(&a, "ip link set a0 address 02:00:00:00:01:02")?;
        shell(
            &b,
            "ip link set b0 address 02:00:00:00:01:03
             ip addr add 10.1.0.3/32 dev b0
             ip route add 169.254.1.1 dev b0
             ip route add default via 169.254.1.1
             ip neigh add 169.254.1.1 lladdr 02:00:00:00:02:01 nud permanent dev b0
             # A connection every few milliseconds, for minutes.
             echo 1 > /proc/sys/net/ipv4/tcp_tw_reuse
             echo '1024 65535' > /proc/sys/net/ipv4/ip_local_port_range",
        )?;
        shell(
            &node,
            "ip link set na address 02:00:00:00:01:01
             ip link set nb address 02:00:00:00:02:01
             ip link set n1 address 02:00:00:00:09:01
             ip addr add 192.168.9.1/24 dev n1
             ip neigh add 192.168.9.2 lladdr 02:00:00:00:09:02 nud permanent dev n1
             ip route add 10.2.0.0/16 via 192.168.9.2",
        )?;
        shell(
            &outside,
            "ip link set s0 address 02:00:00:00:09:02
             ip addr add 192.168.9.2/24 dev s0
             ip neigh add 192.168.9.1 lladdr 02:00:00:00:09:01 nud permanent dev s0
             ip route add blackhole 10.2.0.0/16",
        )?;
        let vtep = outside.within(|| UdpSocket::bind(SocketAddr::from((OUTSIDE, VXLAN))))?;
        let dir = std::env::temp_dir().join(format!("caracal-soak-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("conf.d"))?;
        let socket = dir.join("control.sock");
        std::fs::write(
            dir.join("caracal.yaml"),
            format!(
                "{DAEMON}controlSocket: {}\npollers: {{cores: [{core}]}}\n{settings}",
                socket.display()
            ),
        )?;
        let far = if way == Way::Vxlan { FAR_POOL } else { "" };
        std::fs::write(dir.join("conf.d/all.yaml"), format!("{RESOURCES}{far}"))?;
        let daemon = Process::daemon(&node, dir)?;
        let counters = Counters::of(socket)?;
        for thread in daemon.threads() {
            cpu::pin(thread, core)?;
        }
        let flow = Flow {
            to: NA,
            from: A0,
            source: A,
            destination: SPRAYED,
            flows: 1,
            ports: PORTS,
            kind: if way == Way::SnatSyn {
                Kind::Syn
            } else {
                Kind::Udp
            },
        };
        let generator = Generator::new(&a, "a0", flow, 64)?;
        Ok(Self {
            generator: Some(generator),
            counters,
            _daemon: daemon,
            _vtep: vtep,
            b,
            outside,
            _node: node,
            _a: a,
        })
    }
}
