//! The commands that make the lab's links, addresses and routes. Text only: `lab` runs them.

use super::plan::{
    End, GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6, LabId, Node, OUTSIDE_HOST, OUTSIDE_SUBNET, PODS, Pod,
    ROUTER_HOST, underlay, underlay_prefix_len,
};
use super::scenario::{Carriage, Family, Scenario};

/// The router's bridge: the first subnet, where both nodes may stand.
pub const SUBNET1: &str = "subnet1";
/// The router's link to the server outside.
const OUT: &str = "out";
/// Every node's, pod's and server's own interface.
pub const ETH: &str = "eth0";
/// Routing table of the router for what comes from outside.
const FROM_OUTSIDE: u8 = 100;

/// The router's link to `node`.
pub fn router_link(node: Node) -> &'static str {
    match node {
        Node::One => "node1",
        Node::Two => "node2",
    }
}

/// The parts of the namespaces' names.
pub fn namespaces() -> Vec<String> {
    let mut parts: Vec<String> = ["router", "outside", "node1", "node2"]
        .map(str::to_owned)
        .into();
    parts.extend(PODS.iter().map(Pod::netns_part));
    parts
}

fn lines<const N: usize>(from: [&str; N]) -> Vec<String> {
    from.map(str::to_owned).into()
}

fn with_len(family: Family, subnet: u8, host: u8) -> String {
    let address = underlay(family, subnet, host);
    format!("{address}/{}", underlay_prefix_len(family))
}

fn default_route(family: Family, subnet: u8) -> String {
    let router = underlay(family, subnet, ROUTER_HOST);
    format!("route replace {} via {router} dev {ETH}", any(family))
}

fn host_len(family: Family) -> u8 {
    match family {
        Family::Ipv4 => 32,
        Family::Ipv6 => 128,
    }
}

fn any(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "0.0.0.0/0",
        Family::Ipv6 => "::/0",
    }
}

/// Settings of a namespace before it has links, so that links are born with them: no duplicate address detection
/// (it would hold addresses back for a second), no router advertisements, no reverse path filter.
pub fn base_sysctls() -> Vec<(String, &'static str)> {
    let mut settings: Vec<(String, &'static str)> = Vec::new();
    for scope in ["all", "default"] {
        settings.push((format!("ipv4/conf/{scope}/rp_filter"), "0"));
        for (name, value) in [
            ("disable_ipv6", "0"),
            ("accept_ra", "0"),
            ("accept_dad", "0"),
            ("dad_transmits", "0"),
            ("addr_gen_mode", "0"),
        ] {
            settings.push((format!("ipv6/conf/{scope}/{name}"), value));
        }
    }
    // Built-in ping uses unprivileged ping sockets.
    settings.push(("ipv4/ping_group_range".to_owned(), "0 2147483647"));
    settings
}

/// Whether the kernel forwards packets in a namespace.
pub fn forwarding(on: bool) -> Vec<(String, &'static str)> {
    let value = if on { "1" } else { "0" };
    vec![
        ("ipv4/ip_forward".to_owned(), value),
        ("ipv6/conf/all/forwarding".to_owned(), value),
    ]
}

/// Links and addresses of the router, with the far ends in the other namespaces.
pub fn router(lab: &LabId) -> Vec<String> {
    let mut commands = lines([
        "link set lo up",
        "link add subnet1 type bridge forward_delay 0 mcast_snooping 0",
    ]);
    for (link, far) in [("node1", "node1"), ("node2", "node2"), (OUT, "outside")] {
        let far = lab.netns(far);
        commands.push(format!(
            "link add {link} type veth peer name {ETH} netns {far}"
        ));
        commands.push(format!("link set {link} up"));
    }
    commands.push(format!("link set node1 master {SUBNET1}"));
    commands.push(format!("link set {SUBNET1} up"));
    for family in Family::ALL {
        let address = with_len(family, 1, ROUTER_HOST);
        commands.push(format!("addr add {address} dev {SUBNET1}"));
        let address = with_len(family, OUTSIDE_SUBNET, ROUTER_HOST);
        commands.push(format!("addr add {address} dev {OUT}"));
    }
    commands
}

/// The rules by which the router sends what comes from outside to the pods' nodes, in every mode. It is a table
/// of its own so that, where pods' packets must be encapsulated between the nodes, a bare one does not get through.
pub fn router_rules() -> Vec<String> {
    // `ip rule` takes its family only from an option, which a batch cannot give.
    ["-4", "-6"]
        .map(|family| {
            format!("{family} rule add pref {FROM_OUTSIDE} iif {OUT} lookup {FROM_OUTSIDE}")
        })
        .into()
}

/// The router's side of a scenario: where node 2 is, and who knows the way to the pods.
pub fn router_scenario(scenario: Scenario) -> Vec<String> {
    let mut commands = lines(["addr flush dev node2 scope global"]);
    if scenario.same_subnet {
        commands.push(format!("link set node2 master {SUBNET1}"));
    } else {
        commands.push("link set node2 nomaster".to_owned());
        for family in Family::ALL {
            let address = with_len(family, 2, ROUTER_HOST);
            commands.push(format!("addr add {address} dev node2"));
        }
    }
    for family in Family::ALL {
        for node in Node::ALL {
            let (block, via) = (
                node.block(family),
                node.address(family, scenario.same_subnet),
            );
            let route = format!("{block} via {via}");
            commands.push(format!("route replace {route} table {FROM_OUTSIDE}"));
            // As BGP would install it.
            if scenario.carriage(family) == Carriage::Plain {
                commands.push(format!("route replace {route}"));
            } else {
                commands.push(format!("route replace unreachable {block}"));
            }
        }
    }
    commands
}

/// Gives the router's way to the server outside an MTU of its own, shorter than the server's own, or takes it away.
pub fn narrow_route(family: Family, mtu: Option<u16>) -> String {
    let server = underlay(family, OUTSIDE_SUBNET, OUTSIDE_HOST);
    let len = host_len(family);
    match mtu {
        // Locked: forwarding looks at no other.
        Some(mtu) => format!("route replace {server}/{len} dev {OUT} mtu lock {mtu}"),
        None => format!("route del {server}/{len} dev {OUT}"),
    }
}

/// Changes of node 1's routes, one after the other, that leave every packet its way and all as it was in the end:
/// routes that its connections use, and one that nobody does.
pub fn route_changes(families: &[Family], scenario: Scenario) -> Vec<Vec<String>> {
    let of = |family: Family| {
        let router = underlay(family, Node::One.subnet(scenario.same_subnet), ROUTER_HOST);
        let server = underlay(family, OUTSIDE_SUBNET, OUTSIDE_HOST);
        let node = End::Host(Node::Two).address(family, scenario);
        let len = host_len(family);
        let nobody = match family {
            Family::Ipv4 => "198.51.100.0/24",
            Family::Ipv6 => "2001:db8:51::/48",
        };
        let via = if scenario.same_subnet {
            format!("dev {ETH}")
        } else {
            format!("via {router} dev {ETH}")
        };
        [
            format!("route add {server}/{len} via {router} dev {ETH}"),
            format!("route replace {server}/{len} via {router} dev {ETH} mtu 1400"),
            format!("route add {node}/{len} {via}"),
            format!("route del {server}/{len} via {router} dev {ETH}"),
            format!("route add blackhole {nobody}"),
            format!("route replace {node}/{len} {via} mtu 1500"),
            format!("route del {node}/{len} {via}"),
            format!("route del blackhole {nobody}"),
        ]
    };
    let mut changes = vec![Vec::new(); 8];
    for family in families {
        for (change, command) in changes.iter_mut().zip(of(*family)) {
            change.push(command);
        }
    }
    changes
}

/// Address and routes of the server outside.
pub fn outside() -> Vec<String> {
    let mut commands = lines(["link set lo up", "link set eth0 up"]);
    for family in Family::ALL {
        let address = with_len(family, OUTSIDE_SUBNET, OUTSIDE_HOST);
        commands.push(format!("addr add {address} dev {ETH}"));
        commands.push(default_route(family, OUTSIDE_SUBNET));
    }
    commands
}

/// A node's address and default route, replacing those it had.
pub fn node_scenario(node: Node, scenario: Scenario) -> Vec<String> {
    let subnet = node.subnet(scenario.same_subnet);
    let mut commands = lines([
        "link set lo up",
        "addr flush dev eth0 scope global",
        "link set eth0 up",
    ]);
    for family in Family::ALL {
        let address = with_len(family, subnet, 10 + node.number());
        commands.push(format!("addr add {address} dev {ETH}"));
        commands.push(default_route(family, subnet));
    }
    for pod in node.pods() {
        let (mtu, veth) = (scenario.pod_mtu(), pod.host_interface());
        commands.push(format!("link set {veth} mtu {mtu}"));
    }
    commands
}

/// The node's side of its pods' veths, as Calico's CNI plugin makes them (cni-plugin/pkg/dataplane/linux).
pub fn node_pods(lab: &LabId, node: Node) -> Vec<String> {
    let mut commands = Vec::new();
    for pod in node.pods() {
        let veth = pod.host_interface();
        let (far, mac) = (lab.netns(&pod.netns_part()), pod.mac());
        commands.push(format!(
            "link add {veth} address {GATEWAY_MAC} type veth peer name {ETH} address {mac} netns {far}"
        ));
    }
    commands
}

/// Brings the pods' veths up and routes the pods' addresses to them, once [`pod`] has run.
pub fn node_pod_routes(node: Node) -> Vec<String> {
    let mut commands = Vec::new();
    for pod in node.pods() {
        let veth = pod.host_interface();
        commands.push(format!("link set {veth} up"));
        commands.push(format!("addr replace {GATEWAY_V6}/64 dev {veth} nodad"));
        for (family, len) in [(Family::Ipv4, 32), (Family::Ipv6, 128)] {
            let address = pod.address(family);
            let scope = if family == Family::Ipv4 {
                " scope link"
            } else {
                ""
            };
            commands.push(format!("route replace {address}/{len} dev {veth}{scope}"));
        }
    }
    commands
}

/// Settings of the host's side of a pod's veth, as the CNI plugin makes them; but for forwarding, which follows
/// the namespace's own: it is off where Caracal runs, so that nothing but Caracal can forward.
pub fn pod_veth_sysctls(pod: &Pod) -> Vec<(String, &'static str)> {
    let veth = pod.host_interface();
    [
        ("ipv4/conf", "route_localnet", "1"),
        ("ipv4/neigh", "proxy_delay", "0"),
        ("ipv4/conf", "proxy_arp", "1"),
        ("ipv6/conf", "disable_ipv6", "0"),
        ("ipv6/conf", "proxy_ndp", "1"),
        ("ipv6/conf", "accept_ra", "0"),
        ("ipv6/conf", "accept_dad", "0"),
    ]
    .map(|(family, name, value)| (format!("{family}/{veth}/{name}"), value))
    .into()
}

/// A pod's own side.
pub fn pod(pod: &Pod) -> Vec<String> {
    let (v4, v6) = (pod.address(Family::Ipv4), pod.address(Family::Ipv6));
    let mut commands = lines(["link set lo up", "link set eth0 up"]);
    commands.push(format!("addr add {v4}/32 dev {ETH}"));
    commands.push(format!("addr add {v6}/128 dev {ETH} nodad"));
    commands.push(format!("route add {GATEWAY_V4} dev {ETH} scope link"));
    commands.push(format!("route add 0.0.0.0/0 via {GATEWAY_V4} dev {ETH}"));
    commands.push(format!("route add ::/0 via {GATEWAY_V6} dev {ETH}"));
    commands
}

/// A pod's MTU in a scenario.
pub fn pod_scenario(scenario: Scenario) -> Vec<String> {
    vec![format!("link set {ETH} mtu {}", scenario.pod_mtu())]
}
