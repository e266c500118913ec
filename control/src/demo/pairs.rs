//! Who talks to whom, and what must be seen of it.

use std::net::IpAddr;

use super::plan::{CLIENT, DB, End, Node, WEB};
use super::scenario::{Carriage, Family, Scenario};

/// Two ends that talk.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// Kind, for the output.
    pub name: &'static str,
    /// The client.
    pub from: End,
    /// The server.
    pub to: End,
}

/// The conversations of every mode.
pub static PAIRS: [Pair; 6] = [
    Pair {
        name: "pod to pod, one node",
        from: End::Pod(CLIENT),
        to: End::Pod(WEB),
    },
    Pair {
        name: "pod to pod, two nodes",
        from: End::Pod(CLIENT),
        to: End::Pod(DB),
    },
    Pair {
        name: "pod to host",
        from: End::Pod(CLIENT),
        to: End::Host(Node::One),
    },
    Pair {
        name: "host to pod",
        from: End::Host(Node::One),
        to: End::Pod(WEB),
    },
    Pair {
        name: "host to remote pod",
        from: End::Host(Node::One),
        to: End::Pod(DB),
    },
    Pair {
        name: "pod to outside",
        from: End::Pod(CLIENT),
        to: End::Outside,
    },
];

/// The conversations with natOutgoing: who leaves all pools is masqueraded, and nobody else.
pub static SNAT: [Pair; 6] = [
    PAIRS[5],
    Pair {
        name: "pod to remote host",
        from: End::Pod(CLIENT),
        to: End::Host(Node::Two),
    },
    PAIRS[0],
    PAIRS[1],
    PAIRS[2],
    PAIRS[4],
];

/// The conversations between a node of ours and one of the kernel's: both may begin.
pub static INTEROP: [Pair; 4] = [
    Pair {
        name: "pod to kernel's pod",
        from: End::Pod(CLIENT),
        to: End::Pod(DB),
    },
    Pair {
        name: "kernel's pod to pod",
        from: End::Pod(DB),
        to: End::Pod(CLIENT),
    },
    Pair {
        name: "host to kernel's pod",
        from: End::Host(Node::One),
        to: End::Pod(DB),
    },
    Pair {
        name: "kernel's host to pod",
        from: End::Host(Node::Two),
        to: End::Pod(CLIENT),
    },
];

/// The conversations that the outside begins.
pub static OUTSIDE: [Pair; 3] = [
    Pair {
        name: "outside to pod",
        from: End::Outside,
        to: End::Pod(WEB),
    },
    Pair {
        name: "outside to other pod",
        from: End::Outside,
        to: End::Pod(CLIENT),
    },
    Pair {
        name: "outside to host",
        from: End::Outside,
        to: End::Host(Node::One),
    },
];

impl Pair {
    /// Whether natOutgoing gives what its client sends the node's address: a pod's packets that leave all pools by the NIC.
    pub fn is_masqueraded(&self) -> bool {
        match (self.from, self.to) {
            (End::Pod(_), End::Outside) => true,
            (End::Pod(pod), End::Host(node)) => pod.node != node,
            _ => false,
        }
    }

    /// The address that the server must see, with natOutgoing or without; `None` for a client that may use several.
    pub fn source(&self, family: Family, scenario: Scenario, nat_outgoing: bool) -> Option<IpAddr> {
        match self.from {
            End::Pod(pod) if nat_outgoing && self.is_masqueraded() => {
                Some(End::Host(pod.node).address(family, scenario))
            }
            End::Pod(pod) => Some(pod.address(family)),
            End::Host(_) | End::Outside => None,
        }
    }

    /// What the wire must show of each node (1, then 2): the forms of packets with pods' addresses that are allowed, the
    /// first of which must be seen.
    pub fn expected(&self, carriage: Carriage, nat_outgoing: bool) -> [&'static [Carriage]; 2] {
        if nat_outgoing && self.is_masqueraded() {
            return [&[], &[]];
        }
        let form: &'static [Carriage] = match carriage {
            Carriage::Plain => &[Carriage::Plain],
            Carriage::Vxlan => &[Carriage::Vxlan],
            Carriage::Ipip => &[Carriage::Ipip],
        };
        let plain: &'static [Carriage] = &[Carriage::Plain];
        match (self.from, self.to) {
            (End::Pod(from), End::Pod(to)) if from.node == to.node => [&[], &[]],
            (End::Pod(_), End::Pod(_)) => [form, form],
            (End::Pod(pod), End::Outside) | (End::Outside, End::Pod(pod)) => match pod.node {
                Node::One => [plain, &[]],
                Node::Two => [&[], plain],
            },
            (End::Pod(pod), End::Host(host)) | (End::Host(host), End::Pod(pod)) => {
                // The pod may answer to the host's own address, which is in no pool, or to its tunnel address.
                let answer: &'static [Carriage] = match carriage {
                    Carriage::Plain => plain,
                    Carriage::Vxlan => &[Carriage::Plain, Carriage::Vxlan],
                    Carriage::Ipip => &[Carriage::Plain, Carriage::Ipip],
                };
                match (pod.node == host, host) {
                    (true, _) => [&[], &[]],
                    (false, Node::One) => [form, answer],
                    (false, Node::Two) => [answer, form],
                }
            }
            (End::Host(_) | End::Outside, End::Host(_) | End::Outside) => [&[], &[]],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_address_stands_for_a_pod_that_leaves_all_pools() {
        let [scenario] = Scenario::of(super::super::scenario::Mode::Vxlan) else {
            panic!("one scenario")
        };
        let seen = |nat| {
            SNAT.each_ref().map(|pair| {
                pair.source(Family::Ipv4, *scenario, nat)
                    .map(|ip| ip.to_string())
            })
        };
        let (pod, node) = (
            Some("10.244.1.2".to_owned()),
            Some("172.30.1.11".to_owned()),
        );
        let pods = [&pod, &pod, &pod, &pod, &pod, &None].map(Clone::clone);
        assert_eq!(seen(false), pods);
        assert_eq!(
            seen(true),
            [&node, &node, &pod, &pod, &pod, &None].map(Clone::clone)
        );
        assert_eq!(SNAT[0].expected(Carriage::Vxlan, true), [&[] as &[_], &[]]);
    }
}
