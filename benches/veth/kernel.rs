//! What the kernel itself does between the generator and the sink.

use std::fmt::Write as _;

use benches::generator::FIRST_PORT;
use benches::process::shell;
use benches::rounds::Result;
use fastpath::io::xsk::test_support::Netns;

use crate::lab::{DESTINATION, GENERATOR};
use crate::nodes::{Node, Running};
use crate::policies::{POLICIES, Rule, rule};

/// The kernel's forwarding.
pub(crate) struct Kernel {
    name: &'static str,
    growth: usize,
    /// Commands of a shell, each after the other.
    scripts: &'static [&'static str],
    /// Whether packets that are not of an answered connection go through the policies.
    has_policies: bool,
    /// Whether the generator's flows count as answered, how many there are.
    answered: Option<u32>,
}

/// Addresses, the sink's MAC address, forwarding.
const COMMON: &str = "ip addr add 10.1.0.1/24 dev n0
     ip addr add 192.168.9.1/24 dev n1
     ip neigh add 192.168.9.2 lladdr 02:00:00:00:09:02 nud permanent dev n1
     echo 1 > /proc/sys/net/ipv4/ip_forward";

/// The way to the destination by the sink as a router.
const BY_ROUTER: &str = "ip route add 10.2.0.0/16 via 192.168.9.2";

/// The way to the destination by a VXLAN device.
const BY_VXLAN: &str =
    "ip link add vx0 type vxlan id 4096 local 192.168.9.1 dstport 4789 dev n1 nolearning
     ip link set vx0 up
     bridge fdb append 02:00:00:00:0a:02 dev vx0 dst 192.168.9.2
     ip addr add 10.9.0.1/24 dev vx0
     ip neigh add 10.9.0.2 lladdr 02:00:00:00:0a:02 nud permanent dev vx0
     ip route add 10.2.0.0/16 via 10.9.0.2 dev vx0";

/// Connections tracked, those that are known let through, and invalid packets not: what Calico's chains begin with.
const TRACKED: &str = "nft add table ip bench
     nft 'add chain ip bench forward { type filter hook forward priority 0; policy accept; }'
     nft add rule ip bench forward ct state established,related accept
     nft add rule ip bench forward ct state invalid drop";

/// Policies, each with one rule that does not match and a chain of its own; then one that allows. As Calico writes them for
/// iptables: a policy marks what it allows, and its caller looks for the mark.
fn policies() -> String {
    let mut rules = String::from("table ip bench {\n chain workload {\n");
    for number in 0..POLICIES {
        let _ = writeln!(rules, "jump policy-{number}\nmeta mark 0x10000 return");
    }
    rules += "meta mark set 0x10000 return\n }\n";
    for number in 0..POLICIES {
        let Rule { net, port } = rule(number);
        let _ = writeln!(
            rules,
            "chain policy-{number} {{ ip daddr {net} udp dport {port} meta mark set 0x10000\n }}"
        );
    }
    rules += " chain forward { iifname n0 jump workload\n }\n}\n";
    format!("nft -f - <<'END'\n{rules}END\n")
}

/// Lets conntrack know of the generator's flows, and of an answer to each.
fn answered(flows: u32) -> String {
    format!(
        "for port in $(seq {FIRST_PORT} {}); do
           conntrack -I -p udp -s {GENERATOR} -d {DESTINATION} --sport $port --dport 9 \\
             --timeout 36000 -u SEEN_REPLY,ASSURED
         done",
        u32::from(FIRST_PORT) + flows - 1
    )
}

/// As Calico's natOutgoing with random ports.
const MASQUERADED: &str = "nft add table ip nat
     nft 'add chain ip nat post { type nat hook postrouting priority 100; }'
     nft add rule ip nat post ip saddr 10.1.0.0/16 ip daddr != 10.1.0.0/16 masquerade fully-random";

impl Kernel {
    /// The same of flows that are answered: conntrack lets them past the policies.
    pub(crate) const fn answered(flows: u32) -> Self {
        Self {
            name: "kernel VXLAN + 1000 policies, answered",
            answered: Some(flows),
            ..Self::VXLAN_POLICY
        }
    }

    /// Without conntrack or a rule.
    pub(crate) const PLAIN: Self = Self {
        name: "kernel plain",
        growth: 0,
        scripts: &[COMMON, BY_ROUTER],
        has_policies: false,
        answered: None,
    };
    /// Into its VXLAN device.
    pub(crate) const VXLAN: Self = Self {
        name: "kernel VXLAN",
        growth: 50,
        scripts: &[COMMON, BY_VXLAN],
        has_policies: false,
        answered: None,
    };
    /// The same, with connections tracked.
    pub(crate) const VXLAN_TRACKED: Self = Self {
        name: "kernel VXLAN + conntrack",
        growth: 50,
        scripts: &[COMMON, BY_VXLAN, TRACKED],
        has_policies: false,
        answered: None,
    };
    /// The same, with policies that each packet meets: conntrack knows no answer to it.
    pub(crate) const VXLAN_POLICY: Self = Self {
        name: "kernel VXLAN + 1000 policies",
        has_policies: true,
        ..Self::VXLAN_TRACKED
    };
    /// By the router, with the node's address.
    pub(crate) const MASQUERADE: Self = Self {
        name: "kernel masquerade",
        growth: 0,
        scripts: &[COMMON, BY_ROUTER, TRACKED, MASQUERADED],
        has_policies: false,
        answered: None,
    };
}

impl Node for Kernel {
    fn name(&self) -> &'static str {
        self.name
    }

    fn growth(&self) -> usize {
        self.growth
    }

    fn start(&self, netns: &Netns) -> Result<Running> {
        for script in self.scripts {
            shell(netns, script)?;
        }
        if self.has_policies {
            shell(netns, &policies())?;
        }
        if let Some(flows) = self.answered {
            shell(netns, &answered(flows))?;
        }
        Ok(Running::InKernel)
    }
}
