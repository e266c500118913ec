//! The configuration of the lab's daemons: for each node a `caracal.yaml` and a directory of `projectcalico.org/v3`
//! resources, as a user would write them.

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::error::{DemoError, Result};
use super::lab::Lab;
use super::plan::{Node, POD_NAMESPACE, PODS, POOL_V4, POOL_V6, underlay_prefix_len};
use super::scenario::{Family, Mode, Scenario};
use super::topology::ETH;

/// What differs between steps beside the scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Options {
    /// `natOutgoing` of both pools.
    pub nat_outgoing: bool,
    /// `natPortRange`, first and last.
    pub nat_ports: Option<(u16, u16)>,
    /// Entries of each table of connections; `None`: the daemon's default.
    pub entries: Option<u32>,
    /// Host endpoints of the nodes are enforced on forwarded traffic alone; else on the host's own, too, which needs nft.
    pub forwarded_only: bool,
}

/// Writes the configuration of `node` for the scenario, replacing an earlier one; returns its `caracal.yaml`. A daemon
/// that runs takes the resources from it, and the rest when it starts.
///
/// # Errors
/// When a file cannot be written.
pub fn write(lab: &Lab, node: Node, scenario: Scenario, options: &Options) -> Result<PathBuf> {
    let dir = lab.dir().join(node.name());
    let resources = directory(lab, node);
    fs::create_dir_all(&resources)
        .map_err(DemoError::io(format!("creating {}", resources.display())))?;
    let file = dir.join("caracal.yaml");
    let offload = if lab.is_offloaded() {
        "offload: kernel\n"
    } else {
        ""
    };
    let settings = daemon_config(lab.dir(), node, options) + offload;
    put(&file, &settings)?;
    for (name, text) in calico(scenario, options) {
        put(&resources.join(name), &text)?;
    }
    Ok(file)
}

/// Where the resources of `node` are.
pub fn directory(lab: &Lab, node: Node) -> PathBuf {
    lab.dir().join(node.name()).join("conf.d")
}

/// Removes the resources of `node`, those too that a step has added. No daemon may run there.
///
/// # Errors
/// When they cannot be removed.
pub fn clear(lab: &Lab, node: Node) -> Result<()> {
    let resources = directory(lab, node);
    match fs::remove_dir_all(&resources) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(DemoError::io(format!(
            "removing {}",
            resources.display()
        ))(error)),
        _ => Ok(()),
    }
}

fn put(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(DemoError::io(format!("writing {}", path.display())))
}

/// Where the daemon of `node` can be asked.
pub fn control_socket(lab_dir: &Path, node: Node) -> PathBuf {
    lab_dir.join(format!("{}.sock", node.name()))
}

fn daemon_config(lab_dir: &Path, node: Node, options: &Options) -> String {
    let name = node.name();
    let socket = control_socket(lab_dir, node);
    let connections = options.entries.map_or(String::new(), |entries| {
        format!("connections: {{ entries: {entries}, entriesV6: {entries} }}\n")
    });
    let hosts = if options.forwarded_only {
        "hostEndpoints: forwarded-only\n"
    } else {
        ""
    };
    format!(
        "nodeName: {name}\n\
         uplinks:\n  - interface: {ETH}\n\
         maxPods: 16\n\
         {connections}{hosts}\
         controlSocket: {}\n",
        socket.display()
    )
}

/// The cluster's resources, the same on both nodes: file name and text.
fn calico(scenario: Scenario, options: &Options) -> [(&'static str, String); 4] {
    [
        ("nodes.yaml", nodes(scenario)),
        ("pools.yaml", pools(scenario.mode, options.nat_outgoing)),
        ("pods.yaml", pods()),
        ("settings.yaml", settings(options)),
    ]
}

fn document(kind: &str, name: &str, namespace: Option<&str>, spec: &[String]) -> String {
    let mut text =
        format!("---\napiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata:\n  name: {name}\n");
    if let Some(namespace) = namespace {
        let _ = writeln!(text, "  namespace: {namespace}");
    }
    text.push_str("spec:\n");
    for line in spec {
        let _ = writeln!(text, "  {line}");
    }
    text
}

fn nodes(scenario: Scenario) -> String {
    let (v4, v6) = (Family::Ipv4, Family::Ipv6);
    let mut text = String::new();
    for node in Node::ALL {
        let address = |family: Family| {
            let address = node.address(family, scenario.same_subnet);
            format!("{address}/{}", underlay_prefix_len(family))
        };
        let mut spec = vec![
            "bgp:".to_owned(),
            format!("  ipv4Address: {}", address(v4)),
            format!("  ipv6Address: {}", address(v6)),
        ];
        if scenario.mode == Mode::Ipip {
            spec.push(format!("  ipv4IPIPTunnelAddr: {}", node.tunnel_address(v4)));
        }
        if matches!(scenario.mode, Mode::Vxlan | Mode::CrossSubnet) {
            spec.push(format!("ipv4VXLANTunnelAddr: {}", node.tunnel_address(v4)));
            spec.push(format!("ipv6VXLANTunnelAddr: {}", node.tunnel_address(v6)));
        }
        text.push_str(&document("Node", node.name(), None, &spec));
    }
    for node in Node::ALL {
        for (family, suffix) in [(v4, "v4"), (v6, "v6")] {
            let spec = [
                format!("cidr: {}", node.block(family)),
                format!("node: {}", node.name()),
                "state: confirmed".to_owned(),
            ];
            let name = format!("{}-{suffix}", node.name());
            text.push_str(&document("BlockAffinity", &name, None, &spec));
        }
    }
    text
}

fn pools(mode: Mode, nat_outgoing: bool) -> String {
    let mut text = String::new();
    for (name, cidr, block_size, family) in [
        ("pods-ipv4", POOL_V4, 26, Family::Ipv4),
        ("pods-ipv6", POOL_V6, 122, Family::Ipv6),
    ] {
        let (ipip, vxlan) = match (mode, family) {
            (Mode::Vxlan, _) => ("Never", "Always"),
            (Mode::CrossSubnet, _) => ("Never", "CrossSubnet"),
            (Mode::Ipip, Family::Ipv4) => ("Always", "Never"),
            (Mode::Ipip, Family::Ipv6) | (Mode::Direct, _) => ("Never", "Never"),
        };
        let spec = [
            format!("cidr: {cidr}"),
            format!("blockSize: {block_size}"),
            format!("ipipMode: {ipip}"),
            format!("vxlanMode: {vxlan}"),
            format!("natOutgoing: {nat_outgoing}"),
        ];
        text.push_str(&document("IPPool", name, None, &spec));
    }
    text
}

fn pods() -> String {
    let mut text = String::new();
    for pod in &PODS {
        let (node, name) = (pod.node.name(), pod.name);
        let spec = [
            format!("node: {node}"),
            "orchestrator: k8s".to_owned(),
            format!("pod: {name}"),
            "endpoint: eth0".to_owned(),
            format!("interfaceName: {}", pod.host_interface()),
            format!("mac: {}", pod.mac()),
            "ipNetworks:".to_owned(),
            format!("  - {}/32", pod.address(Family::Ipv4)),
            format!("  - {}/128", pod.address(Family::Ipv6)),
            format!("profiles: [kns.{POD_NAMESPACE}]"),
        ];
        // Calico joins the parts with single dashes.
        let resource = format!("{node}-k8s-{name}-eth0");
        let endpoint = document("WorkloadEndpoint", &resource, Some(POD_NAMESPACE), &spec);
        let labels = format!("  labels: {{pod: {name}}}\nspec:\n");
        text.push_str(&endpoint.replacen("spec:\n", &labels, 1));
    }
    text
}

fn settings(options: &Options) -> String {
    let mut felix = vec![
        "defaultEndpointToHostAction: Accept".to_owned(),
        "ipv6Support: true".to_owned(),
    ];
    if let Some((first, last)) = options.nat_ports {
        felix.push(format!("natPortRange: \"{first}:{last}\""));
    }
    let bgp = [
        "nodeToNodeMeshEnabled: true".to_owned(),
        "asNumber: 64512".to_owned(),
    ];
    document("FelixConfiguration", "default", None, &felix)
        + &document("BGPConfiguration", "default", None, &bgp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DaemonConfig, HostEndpoints, Source, compute, load_sources};
    use crate::desired::Way;

    const OPTIONS: Options = Options {
        nat_outgoing: true,
        nat_ports: Some((20_000, 20_015)),
        entries: Some(4096),
        forwarded_only: true,
    };

    #[test]
    fn the_daemons_read_what_we_write_without_remark() {
        let text = daemon_config(Path::new("/run/caracal-demo/demo"), Node::Two, &OPTIONS);
        let config = DaemonConfig::parse(&Source::new("/d/caracal.yaml", text)).unwrap();
        assert_eq!(config.node_name_or_host().unwrap(), "node2");
        assert_eq!(config.resources, Path::new("/d/conf.d"));
        assert_eq!(config.uplinks[0].interface.value, "eth0");
        assert_eq!(config.connections.entries_v6, 4096);
        assert_eq!(config.host_endpoints, HostEndpoints::ForwardedOnly);
        let text = daemon_config(Path::new("/run"), Node::Two, &Options::default());
        let config = DaemonConfig::parse(&Source::new("/d/caracal.yaml", text)).unwrap();
        assert_eq!(config.host_endpoints, HostEndpoints::Enforced);
    }

    #[test]
    fn the_resources_are_clean_and_say_what_the_scenario_means() {
        for scenario in Mode::ALL.iter().flat_map(|mode| Scenario::of(*mode)) {
            let sources = calico(*scenario, &OPTIONS).map(|(name, text)| Source::new(name, text));
            let resources = load_sources(&sources).unwrap();
            assert!(
                resources.base.remarks.0.is_empty(),
                "{:?}",
                resources.base.remarks
            );
            let desired = compute(&resources, "node1").unwrap();
            assert_eq!(desired.endpoints.len(), 2, "{scenario:?}");
            assert!(desired.pools.iter().all(|pool| pool.masquerade));
            assert_eq!(desired.felix.nat_port_range, OPTIONS.nat_ports);
            for family in Family::ALL {
                let block = Node::Two.block(family).parse().unwrap();
                let route = desired.routes.iter().find(|route| route.dst == block);
                let way = route.unwrap().way();
                let expected = match scenario.carriage(family) {
                    super::super::scenario::Carriage::Plain => Way::Direct,
                    super::super::scenario::Carriage::Vxlan => Way::Vxlan,
                    super::super::scenario::Carriage::Ipip => Way::Ipip,
                };
                assert_eq!(way, Some(expected), "{scenario:?} {family}");
            }
        }
    }
}
