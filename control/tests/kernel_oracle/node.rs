//! The two nodes, between veths whose far ends the test holds.

use std::collections::BTreeMap;

use crate::daemon::Daemon;
use crate::lab::Lab;
use crate::plan::{
    DIRECT_POD4, DIRECT_POD6, GATEWAY_MAC, NODE, NODE_MAC, NODE4, NODE6, PEER1, PEER1_4, PEER1_6,
    PEER1_TUNNEL4, PEER1_TUNNEL6, PEER2, PEER2_4, PEER2_6, PEER2_TUNNEL4, PEER2_TUNNEL6,
    POD_GATEWAY4, POD1_4, POD1_6, POD1_MAC, POD1_MORE4, POD2_4, POD2_6, POD2_MAC, POD2_MTU,
    TUNNEL4, TUNNEL6, Tunnel, UPLINK, VNI, VXLAN_PORT, pod_interface, pods, quiet, text, underlay,
    vtep4, vtep6,
};
use crate::run::Dataplane;
use crate::script::Side;
use crate::tap::Tap;
use crate::uml::{Guest, Role};

/// The far ends of a node's links: namespace and link.
const FAR: [(Side, &str, &str); 3] = [
    (Side::Pod1, "pods", "pod1"),
    (Side::Pod2, "pods", "pod2"),
    (Side::Wire, "wire", "wire"),
];

/// Three namespaces with the links between them, and nothing that forwards yet.
pub(crate) fn wired(name: &str) -> Lab {
    let lab = Lab::new(name, &["pods", "node", "wire"]);
    for part in ["pods", "node", "wire"] {
        lab.set(part, &quiet());
    }
    for part in ["pods", "wire"] {
        // Nobody lives here: what comes in must not be answered.
        lab.set(part, &[("ipv6/conf/all/disable_ipv6".to_owned(), "1")]);
        lab.set(part, &[("ipv6/conf/default/disable_ipv6".to_owned(), "1")]);
    }
    let (pods, wire) = (lab.name_of("pods"), lab.name_of("wire"));
    let mut links = Vec::new();
    for (number, mac) in [(1, POD1_MAC), (2, POD2_MAC)] {
        let (veth, near, far) = (pod_interface(number), text(GATEWAY_MAC), text(mac));
        links.push(format!(
            "link add {veth} address {near} type veth peer name pod{number} address {far} netns {pods}"
        ));
    }
    let (near, far) = (text(NODE_MAC), text(crate::plan::ROUTER_MAC));
    links.push(format!(
        "link add {UPLINK} address {near} type veth peer name wire address {far} netns {wire}"
    ));
    links.push(format!("link set {} mtu {POD2_MTU}", pod_interface(2)));
    lab.ip("node", &links);
    for link in [pod_interface(1), pod_interface(2), UPLINK.to_owned()] {
        lab.plain("node", &link);
    }
    for (_, part, link) in FAR {
        lab.plain(part, link);
        lab.ip(part, &[format!("link set {link} up")]);
    }
    lab
}

fn taps(lab: &Lab) -> BTreeMap<Side, Tap> {
    FAR.iter()
        .map(|&(side, part, link)| (side, Tap::open(lab.netns(part), link)))
        .collect()
}

/// The kernel as the node's dataplane.
pub(crate) struct KernelNode {
    pub(crate) dataplane: Dataplane,
    _lab: Lab,
}

impl KernelNode {
    pub(crate) fn start(name: &str) -> Self {
        Self::start_with(name, "")
    }

    /// With rules of `nft`, if any.
    pub(crate) fn start_with(name: &str, rules: &str) -> Self {
        let lab = wired(&format!("{name}-k"));
        if !rules.is_empty() {
            lab.nft("node", rules);
        }
        lab.ip("node", &underlay());
        lab.ip("node", &pods());
        lab.ip("node", &pod_neighbours());
        lab.ip("node", &overlay(Tunnel::Vxlan));
        lab.bridge("node", &vxlan_peers());
        lab.set("node", &forwarding());
        let dataplane = Dataplane {
            name: "the kernel",
            taps: taps(&lab),
        };
        Self {
            dataplane,
            _lab: lab,
        }
    }
}

/// What a kernel needs to forward as Felix would have it, and no limits to what it says.
pub(crate) fn forwarding() -> Vec<(String, &'static str)> {
    let mut settings = vec![
        ("ipv4/ip_forward".to_owned(), "1"),
        ("ipv6/conf/all/forwarding".to_owned(), "1"),
        // No kind is limited. A limit of 0 would not do: when the clock ticks between the limit of errors about routes
        // (`ip_error`) and that of ICMP (`inet_peer_xrlim_allow`), it takes the source's tokens that both count with.
        ("ipv4/icmp_ratemask".to_owned(), "0"),
        ("ipv6/icmp/ratelimit".to_owned(), "0"),
        ("ipv4/conf/all/accept_source_route".to_owned(), "0"),
        ("ipv4/conf/all/send_redirects".to_owned(), "0"),
    ];
    for link in [&pod_interface(1)[..], &pod_interface(2), UPLINK] {
        settings.push((format!("ipv4/conf/{link}/send_redirects"), "0"));
        settings.push((format!("ipv4/conf/{link}/accept_source_route"), "0"));
    }
    for link in [pod_interface(1), pod_interface(2)] {
        settings.push((format!("ipv4/conf/{link}/rp_filter"), "1"));
        // ICMPv6 errors to pods come from the pods' gateway, as those of IPv4 do.
        settings.push((format!("ipv6/conf/{link}/use_oif_addrs_only"), "1"));
    }
    settings
}

/// The pods as neighbours, and their gateway's address.
pub(crate) fn pod_neighbours() -> Vec<String> {
    let mut commands = Vec::new();
    for (number, ip4, ip6, mac) in [(1, POD1_4, POD1_6, POD1_MAC), (2, POD2_4, POD2_6, POD2_MAC)] {
        let (veth, mac) = (pod_interface(number), text(mac));
        commands.push(format!("addr add {POD_GATEWAY4}/32 dev {veth}"));
        let mut addresses = vec![ip4.to_string(), ip6.to_string()];
        if number == 1 {
            addresses.extend(POD1_MORE4.map(|ip| ip.to_string()));
        }
        for ip in addresses {
            commands.push(format!(
                "neigh replace {ip} lladdr {mac} dev {veth} nud permanent"
            ));
        }
    }
    commands
}

/// Tunnel devices and the routes that Felix and BIRD would add.
pub(crate) fn overlay(tunnel: Tunnel) -> Vec<String> {
    let mut commands = vec![
        "route add blackhole 10.65.0.0/26".to_owned(),
        "route add blackhole fd65::/122".to_owned(),
        format!("route add 10.66.1.0/26 via {PEER1_4} dev {UPLINK}"),
        format!("route add fd66:0:0:1::/122 via {PEER1_6} dev {UPLINK}"),
    ];
    match tunnel {
        Tunnel::Ipip => {
            commands.extend([
                format!("addr add {TUNNEL4}/32 dev tunl0"),
                "link set tunl0 mtu 1480 up".to_owned(),
                format!("route add 10.65.1.0/26 via {PEER1_4} dev tunl0 onlink"),
                format!("route add 10.65.2.0/26 via {PEER2_4} dev tunl0 onlink"),
            ]);
        }
        Tunnel::Vxlan => {
            let (mac4, mac6) = (text(vtep4(NODE)), text(vtep6(NODE)));
            commands.extend([
                format!(
                    "link add vxlan.calico address {mac4} type vxlan id {VNI} dstport {VXLAN_PORT} local {NODE4} \
                     dev {UPLINK} nolearning noudpcsum df set"
                ),
                format!(
                    "link add vxlan-v6.calico address {mac6} type vxlan id {VNI} dstport {VXLAN_PORT} local {NODE6} \
                     dev {UPLINK} nolearning udp6zerocsumrx"
                ),
                "link set vxlan.calico mtu 1450 up".to_owned(),
                "link set vxlan-v6.calico mtu 1430 up".to_owned(),
                format!("addr add {TUNNEL4}/32 dev vxlan.calico"),
                format!("addr add {TUNNEL6}/128 dev vxlan-v6.calico nodad"),
            ]);
            for (peer, block, tunnel4, tunnel6) in [
                (PEER1, 1, PEER1_TUNNEL4, PEER1_TUNNEL6),
                (PEER2, 2, PEER2_TUNNEL4, PEER2_TUNNEL6),
            ] {
                let (mac4, mac6) = (text(vtep4(peer)), text(vtep6(peer)));
                commands.extend([
                    format!("route add 10.65.{block}.0/26 via {tunnel4} dev vxlan.calico onlink"),
                    format!("neigh replace {tunnel4} lladdr {mac4} dev vxlan.calico nud permanent"),
                    format!(
                        "route add fd65:0:0:{block}::/122 via {tunnel6} dev vxlan-v6.calico onlink"
                    ),
                    format!(
                        "neigh replace {tunnel6} lladdr {mac6} dev vxlan-v6.calico nud permanent"
                    ),
                ]);
            }
        }
    }
    commands
}

fn vxlan_peers() -> Vec<String> {
    let mut commands = Vec::new();
    for (peer, ip4, ip6) in [(PEER1, PEER1_4, PEER1_6), (PEER2, PEER2_4, PEER2_6)] {
        let (mac4, mac6) = (text(vtep4(peer)), text(vtep6(peer)));
        commands.push(format!("fdb replace {mac4} dev vxlan.calico dst {ip4}"));
        commands.push(format!("fdb replace {mac6} dev vxlan-v6.calico dst {ip6}"));
    }
    commands
}

/// The kernel of a user-mode Linux guest as the node's dataplane, with IPIP for tunnel.
pub(crate) struct UmlNode {
    pub(crate) dataplane: Dataplane,
    // Ends before its taps go.
    _guest: Guest,
    _lab: Lab,
}

impl UmlNode {
    pub(crate) fn start(name: &str) -> Self {
        let lab = Lab::new(&format!("{name}-u"), &["taps"]);
        lab.set(
            "taps",
            &[("ipv6/conf/default/disable_ipv6".to_owned(), "1")],
        );
        let links = [
            (Side::Pod1, pod_interface(1), GATEWAY_MAC, 1500),
            (Side::Pod2, pod_interface(2), GATEWAY_MAC, POD2_MTU),
            (Side::Wire, UPLINK.to_owned(), NODE_MAC, 1500),
        ];
        for (side, ..) in &links {
            let tap = side.name();
            lab.ip(
                "taps",
                &[
                    format!("tuntap add {tap} mode tap"),
                    format!("link set {tap} up"),
                ],
            );
        }
        let taps = links
            .iter()
            .map(|&(side, ..)| (side, Tap::open(lab.netns("taps"), side.name())))
            .collect();
        let commands = [underlay(), pods(), pod_neighbours(), overlay(Tunnel::Ipip)].concat();
        let role = Role {
            links: links
                .into_iter()
                .map(|(side, name, mac, mtu)| (side.name(), name, text(mac), mtu))
                .collect(),
            sysctls: [quiet(), forwarding()].concat(),
            commands: commands
                .into_iter()
                .filter(|command| is_v4(command))
                .collect(),
            echoes_at: None,
        };
        let guest = Guest::boot(&lab, "taps", &role);
        Self {
            dataplane: Dataplane {
                name: "the guest's kernel",
                taps,
            },
            _guest: guest,
            _lab: lab,
        }
    }
}

/// Whether a command is not about IPv6, which the guest has not.
pub(crate) fn is_v4(command: &str) -> bool {
    !["fd18:", "fd65:", "fd66:", "fd96:", "2001:", "fe80:"]
        .iter()
        .any(|prefix| command.contains(prefix))
}

/// Caracal as the node's dataplane: the daemon itself, over AF_XDP.
pub(crate) struct CaracalNode {
    pub(crate) dataplane: Dataplane,
    // Ends before its namespaces go.
    _daemon: Daemon,
    _lab: Lab,
}

impl CaracalNode {
    pub(crate) fn start(name: &str, tunnel: Tunnel) -> Self {
        Self::start_with(name, &resources(tunnel))
    }

    /// With other resources.
    pub(crate) fn start_with(name: &str, resources: &str) -> Self {
        let lab = wired(&format!("{name}-c"));
        lab.ip("node", &underlay());
        lab.ip("node", &pods());
        let daemon = Daemon::start(&lab, "node", resources);
        let dataplane = Dataplane {
            name: "caracal",
            taps: taps(&lab),
        };
        Self {
            dataplane,
            _daemon: daemon,
            _lab: lab,
        }
    }
}

/// The cluster in Calico's terms.
pub(crate) fn resources(tunnel: Tunnel) -> String {
    let mut text = String::new();
    let nodes = [
        (NODE, NODE4, NODE6, TUNNEL4, TUNNEL6),
        (PEER1, PEER1_4, PEER1_6, PEER1_TUNNEL4, PEER1_TUNNEL6),
        (PEER2, PEER2_4, PEER2_6, PEER2_TUNNEL4, PEER2_TUNNEL6),
    ];
    for (number, (name, v4, v6, tunnel4, tunnel6)) in nodes.iter().enumerate() {
        let addresses = format!("ipv4Address: {v4}/16, ipv6Address: '{v6}/64'");
        let spec = match tunnel {
            Tunnel::Ipip => format!("bgp: {{{addresses}, ipv4IPIPTunnelAddr: {tunnel4}}}"),
            Tunnel::Vxlan => format!(
                "bgp: {{{addresses}}}, ipv4VXLANTunnelAddr: {tunnel4}, ipv6VXLANTunnelAddr: '{tunnel6}'"
            ),
        };
        text += &document("Node", name, &spec);
        for cidr in [
            format!("10.65.{number}.0/26"),
            format!("fd65:0:0:{number:x}::/122"),
        ] {
            let family = if cidr.contains(':') { 6 } else { 4 };
            let spec = format!("cidr: '{cidr}', node: {name}, state: confirmed");
            text += &document("BlockAffinity", &format!("{name}-v{family}"), &spec);
        }
    }
    for (name, address, cidr) in [
        ("direct-v4", DIRECT_POD4.to_string(), "10.66.1.0/26"),
        ("direct-v6", DIRECT_POD6.to_string(), "fd66:0:0:1::/122"),
    ] {
        assert!(cidr[..6] == address[..6]);
        let spec = format!("cidr: '{cidr}', node: {PEER1}, state: confirmed");
        text += &document("BlockAffinity", name, &spec);
    }
    let (vxlan, ipip) = match tunnel {
        Tunnel::Vxlan => ("Always", "Never"),
        Tunnel::Ipip => ("Never", "Always"),
    };
    for (name, cidr, size, vxlan, ipip) in [
        ("pods-v4", "10.65.0.0/16", 26, vxlan, ipip),
        ("pods-v6", "fd65::/48", 122, vxlan, "Never"),
        ("direct-v4", "10.66.0.0/16", 26, "Never", "Never"),
        ("direct-v6", "fd66::/48", 122, "Never", "Never"),
    ] {
        let spec = format!(
            "cidr: '{cidr}', blockSize: {size}, vxlanMode: {vxlan}, ipipMode: {ipip}, natOutgoing: false"
        );
        text += &document("IPPool", name, &spec);
    }
    for (number, v4, v6, mac) in [(1, POD1_4, POD1_6, POD1_MAC), (2, POD2_4, POD2_6, POD2_MAC)] {
        let (veth, mac) = (pod_interface(number), crate::plan::text(mac));
        let more = POD1_MORE4.map(|ip| format!(", {ip}/32")).concat();
        let more = if number == 1 { more } else { String::new() };
        let spec = format!(
            "node: {NODE}, orchestrator: k8s, pod: pod{number}, endpoint: eth0, interfaceName: {veth}, \
             mac: '{mac}', ipNetworks: [{v4}/32, '{v6}/128'{more}], profiles: [kns.oracle]"
        );
        let name = format!("{NODE}-k8s-pod{number}-eth0\n  namespace: oracle");
        text += &document("WorkloadEndpoint", &name, &spec);
    }
    let spec = "defaultEndpointToHostAction: Accept, ipv6Support: true";
    text + &document("FelixConfiguration", "default", spec)
}

fn document(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata:\n  name: {name}\nspec: {{{spec}}}\n"
    )
}
