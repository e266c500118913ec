//! Caracal itself between the generator and the sink: the real daemon, in the node's namespace.
//!
//! The generator is a pod on n0; n1 is the uplink; the sink is a router (plain) or another node (VXLAN).

use std::fs;
use std::path::Path;

use benches::process::{Process, shell};
use benches::rounds::Result;
use fastpath::io::xsk::test_support::Netns;

use crate::nodes::{Node, Running};
use crate::policies;

/// What the daemon is told, beside the resources. The rings are longer than what the generator has under way, as the
/// bare forwarder's are.
const DAEMON: &str = "nodeName: bench\nuplinks: [{interface: n1, mode: copy}]\nmaxPods: 4\nframes: {podRing: 512, uplinkRing: 512}\n";

/// A pod at 10.1.0.2 behind n0, and node `far` at the sink with the block 10.2.0.0/26.
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
spec: {cidr: 10.1.0.0/16, vxlanMode: Always}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: bench-k8s-pod-eth0, namespace: default}
spec:
  orchestrator: k8s
  node: bench
  pod: pod
  endpoint: eth0
  interfaceName: n0
  mac: 02:00:00:00:01:02
  ipNetworks: [10.1.0.2/32]
  profiles: [kns.default]
";

/// Makes the sink's network a VXLAN pool.
const FAR_POOL: &str = "---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: far}
spec: {cidr: 10.2.0.0/16, vxlanMode: Always}
---
apiVersion: projectcalico.org/v3
kind: BlockAffinity
metadata: {name: far-10-2-0-0-26}
spec: {state: confirmed, node: far, cidr: 10.2.0.0/26}
";

/// What the daemon does with the packets. It keeps track of connections in each case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Forwards them plainly.
    Plain,
    /// Puts them into VXLAN.
    Vxlan,
    /// The same under the policies.
    Policy,
    /// Gives them the node's address (natOutgoing).
    Snat,
}

/// The daemon.
pub(crate) struct Caracal {
    pub(crate) way: Way,
    /// `adaptive` where it has a core of its own, `interrupt` where it shares one.
    pub(crate) poll_mode: &'static str,
    /// Whether established flows are the kernel's (`offload: kernel`).
    pub(crate) is_offloaded: bool,
}

impl Node for Caracal {
    fn name(&self) -> &'static str {
        match (self.way, self.is_offloaded) {
            (Way::Plain, false) => "Caracal plain",
            (Way::Vxlan, false) => "Caracal VXLAN",
            (Way::Policy, false) => "Caracal VXLAN + 1000 policies",
            (Way::Snat, false) => "Caracal SNAT",
            (Way::Plain, true) => "Caracal plain, offloaded",
            (Way::Vxlan, true) => "Caracal VXLAN, offloaded",
            (Way::Policy, true) => "Caracal VXLAN + 1000 policies, offloaded",
            (Way::Snat, true) => "Caracal SNAT, offloaded",
        }
    }

    fn growth(&self) -> usize {
        match self.way {
            Way::Vxlan | Way::Policy => 50,
            Way::Plain | Way::Snat => 0,
        }
    }

    /// What nobody answers is the kernel's after 68 packets.
    fn first_packets(&self) -> u64 {
        if self.is_offloaded { 72 } else { 0 }
    }

    fn start(&self, netns: &Netns) -> Result<Running> {
        let name = format!(
            "car-{}-bench-{:?}-{}",
            std::process::id(),
            self.way,
            self.is_offloaded
        );
        let dir = std::env::temp_dir().join(name);
        write_config(&dir, self)?;
        shell(
            netns,
            "ip addr add 192.168.9.1/24 dev n1
             ip neigh add 192.168.9.2 lladdr 02:00:00:00:09:02 nud permanent dev n1
             ip route add 10.2.0.0/16 via 192.168.9.2",
        )?;
        Ok(Running::Process(Process::daemon(netns, dir)?))
    }
}

fn write_config(dir: &Path, node: &Caracal) -> Result<()> {
    fs::create_dir_all(dir.join("conf.d"))?;
    let socket = dir.join("control.sock");
    let offload = if node.is_offloaded { "kernel" } else { "off" };
    let daemon = format!(
        "{DAEMON}pollMode: {}\noffload: {offload}\ncontrolSocket: {}\n",
        node.poll_mode,
        socket.display()
    );
    fs::write(dir.join("caracal.yaml"), daemon)?;
    let resources = match node.way {
        Way::Plain => RESOURCES.to_owned(),
        Way::Vxlan => format!("{RESOURCES}{FAR_POOL}"),
        Way::Policy => format!("{RESOURCES}{FAR_POOL}{}", policies::resources()),
        Way::Snat => RESOURCES.replace(
            "vxlanMode: Always}",
            "vxlanMode: Always, natOutgoing: true}",
        ),
    };
    fs::write(dir.join("conf.d/all.yaml"), resources)?;
    Ok(())
}
