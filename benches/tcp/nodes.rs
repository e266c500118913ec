//! What stands between the two ends.

use std::path::Path as File;

use benches::process::{Process, shell};
use benches::rounds::Result;
use fastpath::io::xsk::test_support::Netns;

use crate::lab::Path;

/// A way to forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    /// The kernel, with connections tracked, as Calico's rules begin.
    Kernel,
    /// Caracal by AF_XDP.
    Caracal,
    /// Caracal, established flows in the kernel.
    Offloaded,
}

/// What the daemon is told, beside the resources.
const DAEMON: &str = "nodeName: bench\nuplinks: [{interface: n1, mode: copy}]\nmaxPods: 4\n";

/// Pods behind na and nb, and node `far` at the outside.
const RESOURCES: &str = "\
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: bench}
spec: {bgp: {ipv4Address: 192.168.9.1/24}, ipv4VXLANTunnelAddr: 10.1.0.1, vxlanTunnelMACAddr: \"02:00:00:00:0a:01\"}
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: far}
spec: {bgp: {ipv4Address: 192.168.9.2/24}, ipv4VXLANTunnelAddr: 10.2.0.1, vxlanTunnelMACAddr: \"02:00:00:00:0a:02\"}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: near}
spec: {cidr: 10.1.0.0/16, vxlanMode: Always}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: far}
spec: {cidr: 10.2.0.0/16, vxlanMode: Always}
---
apiVersion: projectcalico.org/v3
kind: BlockAffinity
metadata: {name: far-10-2-0-0-26}
spec: {state: confirmed, node: far, cidr: 10.2.0.0/26}
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

/// The kernel's routes, and its own VXLAN device for the far pods.
const KERNEL: &str = "\
echo 1 > /proc/sys/net/ipv4/ip_forward
ip route add 10.1.0.2/32 dev na
ip route add 10.1.0.3/32 dev nb
ip neigh add 10.1.0.2 lladdr 02:00:00:00:01:02 nud permanent dev na
ip neigh add 10.1.0.3 lladdr 02:00:00:00:01:03 nud permanent dev nb
ip link add vx0 type vxlan id 4096 local 192.168.9.1 dstport 4789 dev n1 nolearning
ip link set vx0 address 02:00:00:00:0a:01 mtu 1450 up
ip addr add 10.1.0.1/32 dev vx0
bridge fdb append 02:00:00:00:0a:02 dev vx0 dst 192.168.9.2
ip neigh add 10.2.0.1 lladdr 02:00:00:00:0a:02 nud permanent dev vx0
ip route add 10.2.0.0/16 via 10.2.0.1 dev vx0 onlink
nft add table ip bench
nft 'add chain ip bench forward { type filter hook forward priority 0; policy accept; }'
nft add rule ip bench forward ct state established,related accept
nft add rule ip bench forward ct state invalid drop";

impl Node {
    /// All, the peer first.
    pub(crate) const ALL: [Self; 3] = [Self::Kernel, Self::Caracal, Self::Offloaded];

    /// Its name in the table.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel, with conntrack",
            Self::Caracal => "Caracal",
            Self::Offloaded => "Caracal, offloaded",
        }
    }

    /// Has `netns` forward so.
    pub(crate) fn start(self, netns: &Netns, path: Path) -> Result<Option<Process>> {
        if self == Self::Kernel {
            shell(netns, KERNEL)?;
            return Ok(None);
        }
        let name = format!("caracal-tcp-{}-{self:?}-{path:?}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        self.write_config(&dir)?;
        Ok(Some(Process::daemon(netns, dir)?))
    }

    fn write_config(self, dir: &File) -> Result<()> {
        std::fs::create_dir_all(dir.join("conf.d"))?;
        let socket = dir.join("control.sock");
        let offload = if self == Self::Offloaded {
            "kernel"
        } else {
            "off"
        };
        let daemon = format!(
            "{DAEMON}offload: {offload}\ncontrolSocket: {}\n",
            socket.display()
        );
        std::fs::write(dir.join("caracal.yaml"), daemon)?;
        std::fs::write(dir.join("conf.d/all.yaml"), RESOURCES)?;
        Ok(())
    }
}
