//! Two pods, the node between them and another node, each in a namespace of its own.
//!
//! ```text
//! a0 10.1.0.2 ---- na |      |
//!                     | node | n1 192.168.9.1 ---- s0 192.168.9.2 | far: vx0 10.2.0.2
//! b0 10.1.0.3 ---- nb |      |
//! ```
//!
//! The far node is the kernel, with its own VXLAN device, whoever the node is.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use benches::process::{Process, shell};
use benches::rounds::Result;
use fastpath::io::xsk::test_support::Netns;

use crate::nodes::Node;
use crate::traffic::{self, Ends};

/// Pod A's address.
const A: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
/// Pod B's.
const B: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 3);
/// The far node's own.
const FAR: Ipv4Addr = Ipv4Addr::new(192, 168, 9, 2);
/// That of a pod there.
const FAR_POD: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// From pod to pod on the node.
    Local,
    /// From a pod out of the uplink, as it is.
    Plain,
    /// From a pod into VXLAN.
    IntoVxlan,
    /// Out of VXLAN to a pod.
    OutOfVxlan,
}

impl Path {
    pub(crate) const ALL: [Self; 4] = [Self::Local, Self::Plain, Self::IntoVxlan, Self::OutOfVxlan];

    /// Its name in the tables.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Local => "pod to pod",
            Self::Plain => "pod to outside",
            Self::IntoVxlan => "pod into VXLAN",
            Self::OutOfVxlan => "out of VXLAN to pod",
        }
    }
}

/// The namespaces, and the daemon in one of them.
pub(crate) struct Lab {
    path: Path,
    a: Netns,
    b: Netns,
    far: Netns,
    /// Before its namespace goes.
    _daemon: Option<Process>,
    _node: Netns,
}

impl Lab {
    /// Builds it, and waits until pods are served.
    pub(crate) fn new(node: Node, path: Path) -> Result<Self> {
        let [a, b, between, far] = ["a", "b", "node", "far"].map(Netns::new);
        a.veth("a0", &between, "na", 1);
        b.veth("b0", &between, "nb", 1);
        between.veth("n1", &far, "s0", 1);
        for (pod, device, address, mac) in [(&a, "a0", A, 2), (&b, "b0", B, 3)] {
            shell(
                pod,
                &format!(
                    "ip link set {device} address 02:00:00:00:01:0{mac}
                     ip link set {device} mtu 1450
                     ip addr add {address}/32 dev {device}
                     ip route add 169.254.1.1 dev {device}
                     ip route add default via 169.254.1.1
                     ip neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee nud permanent dev {device}"
                ),
            )?;
        }
        shell(
            &between,
            "ip link set na address ee:ee:ee:ee:ee:ee
             ip link set nb address ee:ee:ee:ee:ee:ee
             ip link set n1 address 02:00:00:00:09:01
             ip addr add 192.168.9.1/24 dev n1
             ip neigh add 192.168.9.2 lladdr 02:00:00:00:09:02 nud permanent dev n1",
        )?;
        shell(
            &far,
            "ip link set s0 address 02:00:00:00:09:02
             ip addr add 192.168.9.2/24 dev s0
             ip neigh add 192.168.9.1 lladdr 02:00:00:00:09:01 nud permanent dev s0
             ip link add vx0 type vxlan id 4096 local 192.168.9.2 dstport 4789 dev s0 nolearning
             ip link set vx0 address 02:00:00:00:0a:02 mtu 1450 up
             ip addr add 10.2.0.2/32 dev vx0
             bridge fdb append 02:00:00:00:0a:01 dev vx0 dst 192.168.9.1
             ip neigh add 10.1.0.1 lladdr 02:00:00:00:0a:01 nud permanent dev vx0
             ip route add 10.1.0.1/32 dev vx0",
        )?;
        let back = match path {
            Path::Local | Path::Plain => "via 192.168.9.1",
            Path::IntoVxlan | Path::OutOfVxlan => "via 10.1.0.1 dev vx0 onlink src 10.2.0.2",
        };
        shell(&far, &format!("ip route add 10.1.0.0/16 {back}"))?;
        let daemon = node.start(&between, path)?;
        let lab = Self {
            path,
            a,
            b,
            far,
            _daemon: daemon,
            _node: between,
        };
        lab.wait(node)?;
        Ok(lab)
    }

    /// Waits until the two ends reach each other.
    fn wait(&self, node: Node) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if traffic::round_trip(&self.ends(), 1).is_ok() {
                return Ok(());
            }
        }
        let (node, path) = (node.name(), self.path.name());
        Err(format!("{node}: {path}: the ends do not reach each other").into())
    }

    fn ends(&self) -> Ends<'_> {
        let (sender, receiver, at) = match self.path {
            Path::Local => (&self.a, &self.b, B),
            Path::Plain => (&self.a, &self.far, FAR),
            Path::IntoVxlan => (&self.a, &self.far, FAR_POD),
            Path::OutOfVxlan => (&self.far, &self.a, A),
        };
        Ends {
            sender,
            receiver,
            at,
        }
    }

    /// The bytes that arrive in this time by so many connections at once.
    pub(crate) fn transfer(&self, streams: usize, time: Duration) -> Result<u64> {
        traffic::transfer(&self.ends(), streams, time)
    }

    /// The middle of many round trips.
    pub(crate) fn round_trip(&self) -> Result<Duration> {
        /// So many that slow ones at the beginning do not matter.
        const TRIPS: usize = 4000;
        traffic::round_trip(&self.ends(), TRIPS)
    }
}
