//! The wanted state of small clusters, against expectations written by hand from Calico's rules.

use std::net::IpAddr;
use std::time::Duration;

use control::config::{Source, compute, load_sources};
use control::desired::{
    AllowedUse, Desired, EncapMode, EndpointToHost, NatExclusions, PoolType, Route, RouteTypes,
    TunnelType, Way,
};
use flowtable::conn::Timeouts;

/// The state of `node1`. Documents are written without apiVersion, one `Kind name: {spec}` a line.
fn node1(lines: &str) -> Desired {
    let text: Vec<String> = lines
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(|line| {
            let (header, spec) = line.split_once(": ").unwrap();
            let (kind, name) = header.split_once(' ').unwrap();
            format!("apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n")
        })
        .collect();
    let resources = load_sources(&[Source::new("test.yaml", text.join("---\n"))])
        .unwrap_or_else(|findings| panic!("{findings}"));
    compute(&resources, "node1").unwrap_or_else(|errors| panic!("{errors:?}"))
}

/// Two nodes in one subnet and one in another, with IPv4 and IPv6 addresses and every tunnel.
const NODES: &str = r#"
    Node node1: {bgp: {ipv4Address: 192.168.56.101/24, ipv6Address: "fd56::101/64"}}
    Node node2: {bgp: {ipv4Address: 192.168.56.102/24, ipv6Address: "fd56::102/64"}}
    Node node3: {bgp: {ipv4Address: 192.168.57.103/24, ipv6Address: "fd57::103/64"}}
"#;

const BLOCKS: &str = r"
    BlockAffinity b1: {state: confirmed, node: node1, cidr: 10.244.1.0/26}
    BlockAffinity b2: {state: confirmed, node: node2, cidr: 10.244.2.0/26}
    BlockAffinity b3: {state: confirmed, node: node3, cidr: 10.244.3.0/26}
";

fn with_pool(pool: &str, more: &str) -> Desired {
    node1(&format!("{NODES}{BLOCKS}IPPool default: {pool}\n{more}"))
}

fn route<'d>(desired: &'d Desired, dst: &str) -> &'d Route {
    let dst = dst.parse().unwrap();
    let mut hits = desired.routes.iter().filter(|route| route.dst == dst);
    let hit = hits
        .next()
        .unwrap_or_else(|| panic!("no route to {dst}: {:#?}", desired.routes));
    assert!(hits.next().is_none(), "two routes to {dst}");
    hit
}

fn way(desired: &Desired, dst: &str) -> Option<Way> {
    route(desired, dst).way()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_vxlan_pool_reaches_all_remote_blocks_by_vxlan() {
    let desired = with_pool(
        "{cidr: 10.244.0.0/16, vxlanMode: Always, natOutgoing: true}",
        "",
    );
    let remote = Route {
        dst: "10.244.2.0/26".parse().unwrap(),
        types: RouteTypes::REMOTE_WORKLOAD,
        pool_type: PoolType::Vxlan,
        dst_node: Some("node2".to_owned()),
        dst_node_ip: Some(ip("192.168.56.102")),
        same_subnet: false,
        nat_outgoing: true,
        local_workload: false,
        borrowed: false,
        tunnel: TunnelType::default(),
    };
    assert_eq!(route(&desired, "10.244.2.0/26"), &remote);
    assert_eq!(way(&desired, "10.244.2.0/26"), Some(Way::Vxlan));
    assert_eq!(way(&desired, "10.244.3.0/26"), Some(Way::Vxlan));
    assert_eq!(
        route(&desired, "10.244.1.0/26").types,
        RouteTypes::LOCAL_WORKLOAD
    );
    assert_eq!(way(&desired, "10.244.1.0/26"), Some(Way::Blackhole));
    assert_eq!(
        route(&desired, "10.244.0.0/16").types,
        RouteTypes::CIDR_INFO
    );
    assert_eq!(route(&desired, "10.244.0.0/16").dst_node, None);
    assert_eq!(way(&desired, "10.244.0.0/16"), None);
    let pool = &desired.pools[0];
    assert!(pool.masquerade && !pool.disabled);
    assert_eq!(
        (pool.vxlan_mode, pool.ipip_mode),
        (EncapMode::Always, EncapMode::Never)
    );
    assert_eq!(
        pool.allowed_uses,
        [AllowedUse::Workload, AllowedUse::Tunnel]
    );
}

#[test]
fn the_whole_list_of_routes_is_what_calico_would_send() {
    let desired = with_pool("{cidr: 10.244.0.0/16, vxlanMode: Always}", "");
    let found: Vec<String> = desired
        .routes
        .iter()
        .map(|route| format!("{} {}", route.dst, route.types.0))
        .collect();
    let expected = [
        "10.244.0.0/16 0",
        "10.244.1.0/26 4",
        "10.244.2.0/26 1",
        "10.244.3.0/26 1",
        "192.168.56.101/32 8",
        "192.168.56.102/32 2",
        "192.168.57.103/32 2",
        "fd56::101/128 8",
        "fd56::102/128 2",
        "fd57::103/128 2",
    ];
    assert_eq!(found, expected);
}

#[test]
fn nodes_themselves_are_left_to_the_kernel() {
    let desired = with_pool("{cidr: 10.244.0.0/16, vxlanMode: Always}", "");
    for node in ["192.168.56.101/32", "192.168.56.102/32", "fd57::103/128"] {
        assert_eq!(way(&desired, node), None);
        assert_eq!(route(&desired, node).pool_type, PoolType::None);
    }
    assert_eq!(
        route(&desired, "192.168.56.102/32").dst_node.as_deref(),
        Some("node2")
    );
}

#[test]
fn an_ipip_pool_uses_ipip_and_a_plain_one_nothing() {
    let ipip = with_pool("{cidr: 10.244.0.0/16, ipipMode: Always}", "");
    assert_eq!(way(&ipip, "10.244.2.0/26"), Some(Way::Ipip));
    assert_eq!(way(&ipip, "10.244.3.0/26"), Some(Way::Ipip));
    assert!(ipip.vteps.is_empty());
    let direct = with_pool("{cidr: 10.244.0.0/16}", "");
    assert_eq!(route(&direct, "10.244.3.0/26").pool_type, PoolType::NoEncap);
    assert_eq!(way(&direct, "10.244.3.0/26"), Some(Way::Direct));
    assert_eq!(
        route(&direct, "10.244.3.0/26").dst_node_ip,
        Some(ip("192.168.57.103"))
    );
    assert!(
        !route(&direct, "10.244.2.0/26").same_subnet,
        "only cross-subnet pools say so"
    );
}

#[test]
fn a_cross_subnet_pool_encapsulates_to_other_subnets_only() {
    for (mode, tunnel) in [("vxlanMode", Way::Vxlan), ("ipipMode", Way::Ipip)] {
        let desired = with_pool(&format!("{{cidr: 10.244.0.0/16, {mode}: CrossSubnet}}"), "");
        assert!(route(&desired, "10.244.2.0/26").same_subnet);
        assert_eq!(way(&desired, "10.244.2.0/26"), Some(Way::Direct));
        assert!(!route(&desired, "10.244.3.0/26").same_subnet);
        assert_eq!(way(&desired, "10.244.3.0/26"), Some(tunnel));
        assert!(
            !route(&desired, "10.244.1.0/26").same_subnet,
            "our own block is not remote"
        );
    }
}

#[test]
fn a_node_address_without_a_prefix_length_is_in_no_subnet() {
    let desired = node1(
        "Node node1: {bgp: {ipv4Address: 192.168.56.101}}
         Node node2: {bgp: {ipv4Address: 192.168.56.102/24}}
         BlockAffinity b2: {state: confirmed, node: node2, cidr: 10.244.2.0/26}
         IPPool default: {cidr: 10.244.0.0/16, vxlanMode: CrossSubnet}",
    );
    assert_eq!(way(&desired, "10.244.2.0/26"), Some(Way::Vxlan));
}

#[test]
fn local_pods_have_routes_of_their_own() {
    let desired = with_pool(
        "{cidr: 10.244.0.0/16, vxlanMode: Always}",
        "WorkloadEndpoint web: {node: node1, pod: web-1, interfaceName: caliweb, mac: 0a:58:0a:f4:01:05, \
         ipNetworks: [10.244.1.5/32], profiles: [kns.default, ksa.default.default]}",
    );
    let route = route(&desired, "10.244.1.5/32");
    assert_eq!(route.types, RouteTypes::LOCAL_WORKLOAD);
    assert!(route.local_workload && !route.borrowed);
    assert_eq!(route.way(), Some(Way::LocalEndpoint));
    let endpoint = &desired.endpoints[0];
    assert_eq!(endpoint.id.to_string(), "default/web");
    assert_eq!(
        (endpoint.workload.as_str(), endpoint.interface.as_str()),
        ("web-1", "caliweb")
    );
    assert_eq!(endpoint.mac.unwrap().to_string(), "0a:58:0a:f4:01:05");
    assert_eq!(endpoint.ipv4_nets, ["10.244.1.5/32".parse().unwrap()]);
    assert_eq!(endpoint.profiles, ["kns.default", "ksa.default.default"]);
}

#[test]
fn remote_pods_in_a_block_of_their_node_need_no_route() {
    let desired = with_pool(
        "{cidr: 10.244.0.0/16, vxlanMode: Always}",
        "WorkloadEndpoint there: {node: node2, ipNetworks: [10.244.2.5/32]}",
    );
    assert!(
        !desired
            .routes
            .iter()
            .any(|route| route.dst.to_string() == "10.244.2.5/32")
    );
    assert!(desired.endpoints.is_empty());
}

#[test]
fn borrowed_addresses_go_to_the_node_that_borrowed_them() {
    let desired = with_pool(
        "{cidr: 10.244.0.0/16, vxlanMode: CrossSubnet}",
        "WorkloadEndpoint a: {node: node3, ipNetworks: [10.244.2.7/32]}
         WorkloadEndpoint b: {node: node2, ipNetworks: [10.244.1.8/32]}
         WorkloadEndpoint c: {node: node1, interfaceName: calic, ipNetworks: [10.244.3.9/32]}",
    );
    let remote = route(&desired, "10.244.2.7/32");
    assert!(remote.borrowed);
    assert_eq!(remote.types, RouteTypes::REMOTE_WORKLOAD);
    assert_eq!(remote.dst_node_ip, Some(ip("192.168.57.103")));
    assert_eq!(remote.way(), Some(Way::Vxlan));
    // Out of our own block, which is a blackhole otherwise.
    let lent = route(&desired, "10.244.1.8/32");
    assert!(lent.borrowed && lent.same_subnet);
    assert_eq!(lent.way(), Some(Way::Direct));
    let ours = route(&desired, "10.244.3.9/32");
    assert!(ours.borrowed && ours.local_workload);
    assert_eq!(ours.types, RouteTypes::LOCAL_WORKLOAD);
    assert_eq!(ours.way(), Some(Way::LocalEndpoint));
}

#[test]
fn without_blocks_remote_pods_have_routes_of_their_own() {
    let desired = node1(&format!(
        "{NODES}IPPool default: {{cidr: 10.244.0.0/16, ipipMode: Always}}
         BlockAffinity pending: {{state: pending, node: node2, cidr: 10.244.2.0/26}}
         WorkloadEndpoint there: {{node: node2, ipNetworks: [10.244.2.5/32]}}
         WorkloadEndpoint outside: {{node: node2, ipNetworks: [172.30.0.5/32]}}"
    ));
    assert_eq!(way(&desired, "10.244.2.5/32"), Some(Way::Ipip));
    assert!(!route(&desired, "10.244.2.5/32").borrowed);
    assert!(
        !desired
            .routes
            .iter()
            .any(|route| route.dst.to_string() == "10.244.2.0/26")
    );
    assert_eq!(way(&desired, "172.30.0.5/32"), None, "no pool says how");
}

#[test]
fn dual_stack_pods_have_both_and_ipv6_goes_by_ipv6() {
    let desired = with_pool(
        "{cidr: 10.244.0.0/16, vxlanMode: Always}",
        r#"IPPool six: {cidr: "fd00:10:244::/48", vxlanMode: CrossSubnet}
           BlockAffinity s1: {state: confirmed, node: node1, cidr: "fd00:10:244:1::/122"}
           BlockAffinity s2: {state: confirmed, node: node2, cidr: "fd00:10:244:2::/122"}
           BlockAffinity s3: {state: confirmed, node: node3, cidr: "fd00:10:244:3::/122"}
           WorkloadEndpoint web: {node: node1, interfaceName: caliweb, ipNetworks: [10.244.1.5, "fd00:10:244:1::5"]}"#,
    );
    assert_eq!(way(&desired, "10.244.1.5/32"), Some(Way::LocalEndpoint));
    assert_eq!(
        way(&desired, "fd00:10:244:1::5/128"),
        Some(Way::LocalEndpoint)
    );
    assert_eq!(way(&desired, "fd00:10:244:1::/122"), Some(Way::Blackhole));
    assert_eq!(way(&desired, "fd00:10:244:2::/122"), Some(Way::Direct));
    assert_eq!(way(&desired, "fd00:10:244:3::/122"), Some(Way::Vxlan));
    assert_eq!(
        route(&desired, "fd00:10:244:3::/122").dst_node_ip,
        Some(ip("fd57::103"))
    );
    let endpoint = &desired.endpoints[0];
    assert_eq!((endpoint.ipv4_nets.len(), endpoint.ipv6_nets.len()), (1, 1));
    let vtep = &desired.vteps["node3"];
    assert_eq!(vtep.parent.map(IpAddr::from), Some(ip("192.168.57.103")));
    assert_eq!(vtep.parent_v6.map(IpAddr::from), Some(ip("fd57::103")));
    assert_ne!(vtep.mac, vtep.mac_v6);
}

#[test]
fn vteps_have_calicos_mac_addresses_unless_the_node_says_otherwise() {
    let desired = node1(
        "Node node1: {bgp: {ipv4Address: 192.168.56.101/24}, ipv4VXLANTunnelAddr: 10.244.1.0}
         Node node2: {bgp: {ipv4Address: 192.168.56.102/24}, vxlanTunnelMACAddr: 66:00:00:00:00:02}
         Node node3: {}
         IPPool default: {cidr: 10.244.0.0/16, vxlanMode: Always}",
    );
    let own = &desired.vteps["node1"];
    assert_eq!(
        own.mac,
        control::calico::vtep_mac("node1"),
        "see its own test"
    );
    assert_eq!(own.addr.map(IpAddr::from), Some(ip("10.244.1.0")));
    assert_eq!(own.parent_v6, None, "no IPv6 pool, no IPv6 tunnel");
    assert_eq!(desired.vteps["node2"].mac.to_string(), "66:00:00:00:00:02");
    assert!(
        !desired.vteps.contains_key("node3"),
        "a node without an address has no VTEP"
    );
}

#[test]
fn tunnel_addresses_are_reached_as_their_nodes_pods_are() {
    let desired = node1(&format!(
        "Node node1: {{bgp: {{ipv4Address: 192.168.56.101/24, ipv4IPIPTunnelAddr: 10.244.1.1}}}}
         Node node2: {{bgp: {{ipv4Address: 192.168.56.102/24, ipv4IPIPTunnelAddr: 10.244.2.1}}}}
         Node node3: {{bgp: {{ipv4Address: 192.168.57.103/24, ipv4IPIPTunnelAddr: 10.244.2.3}}}}
         {BLOCKS}IPPool default: {{cidr: 10.244.0.0/16, ipipMode: Always}}"
    ));
    let own = route(&desired, "10.244.1.1/32");
    assert_eq!(
        own.types,
        RouteTypes::LOCAL_TUNNEL | RouteTypes::LOCAL_WORKLOAD
    );
    assert_eq!(own.way(), None, "an address of the host");
    let remote = route(&desired, "10.244.2.1/32");
    assert_eq!(
        remote.types,
        RouteTypes::REMOTE_TUNNEL | RouteTypes::REMOTE_WORKLOAD
    );
    assert!(remote.tunnel.ipip && !remote.tunnel.vxlan);
    assert_eq!(remote.way(), Some(Way::Ipip));
    let borrowed = route(&desired, "10.244.2.3/32");
    assert_eq!(borrowed.types, RouteTypes::REMOTE_TUNNEL);
    assert!(borrowed.borrowed);
    assert_eq!(borrowed.dst_node.as_deref(), Some("node3"));
    assert_eq!(borrowed.way(), Some(Way::Ipip));
}

#[test]
fn felix_settings_of_the_node_come_before_the_default_ones() {
    let desired = with_pool(
        "{cidr: 10.244.0.0/16}",
        "FelixConfiguration default: {vxlanPort: 8472, vxlanVNI: 7, vxlanMTU: 1400, ipipMTU: 1400, \
         defaultEndpointToHostAction: ACCEPT, natPortRange: \"1000:2000\", interfacePrefix: \"cali,tap\"}
         FelixConfiguration node.node1: {vxlanPort: 4790, vxlanMTU: 0, natOutgoingExclusions: IPPoolsAndHostIPs, \
         externalNodesList: [10.9.0.1]}
         FelixConfiguration node.node2: {vxlanPort: 1}",
    );
    let felix = &desired.felix;
    assert_eq!((felix.vxlan_port, felix.vxlan_vni), (4790, 7));
    assert_eq!((felix.vxlan_mtu, felix.ipip_mtu), (None, Some(1400)));
    assert_eq!(felix.endpoint_to_host, EndpointToHost::Accept);
    assert_eq!(felix.nat_exclusions, NatExclusions::IpPoolsAndHostIps);
    assert_eq!(felix.nat_port_range, Some((1000, 2000)));
    assert_eq!(felix.interface_prefixes, ["cali", "tap"]);
    assert_eq!(felix.external_nodes, ["10.9.0.1/32".parse().unwrap()]);
    assert!(felix.remove_external_routes, "not set: Calico's default");
}

#[test]
fn no_connection_is_kept_longer_than_is_remembered_of_it() {
    let desired = with_pool(
        "{cidr: 10.244.0.0/16}",
        "FelixConfiguration default: {bpfConntrackTimeouts: {tcpEstablished: 120h, udpTimeout: 1000h, tcpResetSeen: 40s, icmpTimeout: Auto}}",
    );
    let timeouts = &desired.felix.conntrack;
    assert_eq!(timeouts.tcp_established, Duration::from_hours(120));
    assert_eq!(timeouts.udp_assured, Timeouts::LONGEST);
    assert_eq!(timeouts.tcp_close, Duration::from_secs(40));
    assert_eq!(timeouts.icmp, Timeouts::DEFAULT.icmp);
}

#[test]
fn services_come_from_the_default_bgp_configuration() {
    let desired = with_pool(
        "{cidr: 10.244.0.0/16}",
        "BGPConfiguration default: {serviceClusterIPs: [{cidr: 10.96.0.0/12}], serviceExternalIPs: [{cidr: 203.0.113.0/24}]}
         BGPConfiguration node.node1: {serviceClusterIPs: [{cidr: 10.98.0.0/16}]}",
    );
    assert_eq!(
        desired.service_cidrs.cluster,
        ["10.96.0.0/12".parse().unwrap()]
    );
    assert_eq!(
        desired.service_cidrs.external,
        ["203.0.113.0/24".parse().unwrap()]
    );
    assert!(desired.service_cidrs.load_balancer.is_empty());
}

#[test]
fn where_a_resource_is_written_does_not_matter() {
    let lines = format!(
        "{NODES}{BLOCKS}IPPool default: {{cidr: 10.244.0.0/16, vxlanMode: Always}}
         WorkloadEndpoint b: {{node: node1, interfaceName: calib, ipNetworks: [10.244.1.6]}}
         WorkloadEndpoint a: {{node: node1, interfaceName: calia, ipNetworks: [10.244.1.5]}}"
    );
    let backwards: Vec<&str> = lines.lines().rev().collect();
    assert_eq!(node1(&lines), node1(&backwards.join("\n")));
}
