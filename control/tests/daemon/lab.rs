//! A node, a wire and pods, in namespaces that go with the test.
//!
//! ```text
//!  pod i: eth0 ==== cali<i>  node  eth0 ==== eth0  wire (gateway, "outside" 198.51.100.9)
//! ```
//!
//! The uplink may be another one ([`Uplink`]), of the same name at both ends.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use control::netlink::NetNs;
use fastpath::io::xsk::test_support::{reap_at_end, skipped_without_root};
use serde_json::Value;

pub(crate) const NODE4: &str = "192.0.2.1";
pub(crate) const NODE6: &str = "2001:db8::1";
pub(crate) const WIRE4: &str = "192.0.2.2";
pub(crate) const WIRE6: &str = "2001:db8::2";
pub(crate) const OUTSIDE4: &str = "198.51.100.9";
pub(crate) const OUTSIDE6: &str = "2001:db8:9::9";
/// The node's tunnel address, when pools are tunnelled.
pub(crate) const TUNNEL4: &str = "10.244.1.1";
/// A pod of node 2, which is the wire.
pub(crate) const REMOTE4: &str = "10.244.9.9";

/// VLAN of [`Uplink::Vlan`].
const VLAN: u32 = 100;

/// What is between node and wire. All but veths need a kernel that has them: `virtual_machine::on_a_kernel_with`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Uplink {
    /// `eth0`, a veth.
    #[default]
    Veth,
    /// `eth0.100`, on a veth `eth0`; of kind `vlan`.
    Vlan,
    /// `bond0`, of the veths `eth0` and `eth1`; of kind `bond`, in a mode of `ip link`'s.
    Bond { mode: &'static str },
}

impl Uplink {
    /// The name of the interface, at both ends.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Veth => "eth0".to_owned(),
            Self::Vlan => format!("eth0.{VLAN}"),
            Self::Bond { .. } => "bond0".to_owned(),
        }
    }

    /// The veths below, or which it is.
    fn veths(self) -> &'static [&'static str] {
        match self {
            Self::Veth | Self::Vlan => &["eth0"],
            Self::Bond { .. } => &["eth0", "eth1"],
        }
    }

    /// For `ip -batch`: makes it of its veths, which are down, and sets everything up; at each end.
    fn up(self, mtu: u32) -> String {
        match self {
            Self::Veth => "link set eth0 up\n".to_owned(),
            Self::Vlan => format!(
                "link set eth0 up\n\
                 link add link eth0 name {name} mtu {mtu} type vlan id {VLAN}\n\
                 link set {name} up\n",
                name = self.name()
            ),
            Self::Bond { mode } => format!(
                "link add {name} mtu {mtu} type bond mode {mode} miimon 100\n\
                 link set eth0 master {name}\n\
                 link set eth1 master {name}\n\
                 link set {name} up\n",
                name = self.name()
            ),
        }
    }
}

/// How the lab differs from the plain one.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// What the uplink is.
    pub(crate) uplink: Uplink,
    /// Its `mode` in caracal.yaml, if it is to have one.
    pub(crate) uplink_mode: Option<&'static str>,
    /// Queues of the uplink's veths.
    pub(crate) uplink_queues: u32,
    /// Queues of pods' veths.
    pub(crate) pod_queues: u32,
    /// Whether pools are carried in VXLAN.
    pub(crate) vxlan: bool,
    /// Lines of caracal.yaml beside the usual.
    pub(crate) settings: String,
    /// MTU of the uplink.
    pub(crate) uplink_mtu: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            uplink: Uplink::default(),
            uplink_mode: None,
            uplink_queues: 1,
            pod_queues: 1,
            vxlan: false,
            settings: String::new(),
            uplink_mtu: 1500,
        }
    }
}

/// The namespaces of one test, its configuration, and what is in them.
pub(crate) struct Lab {
    pub(crate) name: String,
    pub(crate) node: NetNs,
    pub(crate) wire: NetNs,
    pub(crate) dir: PathBuf,
    options: Options,
    namespaces: Vec<String>,
    /// Pods that a namespace of their own was made for.
    made: BTreeSet<u32>,
}

/// A pod in a namespace of its own.
pub(crate) struct Pod {
    pub(crate) index: u32,
    pub(crate) netns: NetNs,
}

impl Pod {
    pub(crate) fn v4(&self) -> IpAddr {
        v4(self.index)
    }

    pub(crate) fn v6(&self) -> IpAddr {
        v6(self.index)
    }

    pub(crate) fn both(&self) -> [IpAddr; 2] {
        [self.v4(), self.v6()]
    }
}

/// An address, which must be one.
pub(crate) fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The IPv4 address of pod `index`.
pub(crate) fn v4(index: u32) -> IpAddr {
    addr(&format!("10.244.1.{}", index + 2))
}

/// The IPv6 address of pod `index`.
pub(crate) fn v6(index: u32) -> IpAddr {
    addr(&format!("fd00:10:244:1::{:x}", index + 2))
}

/// The host's end of the veth of pod `index`.
pub(crate) fn veth(index: u32) -> String {
    format!("cali{index}")
}

/// The pod's own MAC address, as text.
pub(crate) fn pod_mac(index: u32) -> String {
    format!("02:00:00:00:01:{index:02x}")
}

impl Lab {
    /// A node without pods and its wire; none without root, and then the test is skipped, aloud.
    pub(crate) fn new(test: &str) -> Option<Self> {
        Self::with(test, Options::default())
    }

    /// As [`Lab::new`], with options.
    pub(crate) fn with(test: &str, options: Options) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if skipped_without_root(test) {
            return None;
        }
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("car-{}-d{count}", std::process::id());
        let dir = std::env::temp_dir().join(&name);
        fs::create_dir_all(dir.join("conf.d")).expect("configuration");
        reap_at_end();
        let mut namespaces = Vec::new();
        let mut make = |part: &str| {
            let name = format!("{name}-{part}");
            let netns = NetNs::create(&name).expect("create a namespace");
            namespaces.push(name);
            netns
        };
        let (node, wire) = (make("node"), make("wire"));
        let lab = Self {
            name,
            node,
            wire,
            dir,
            options,
            namespaces,
            made: BTreeSet::new(),
        };
        lab.wire_up();
        lab.write_config();
        Some(lab)
    }

    fn wire_up(&self) {
        for netns in [&self.node, &self.wire] {
            run(netns, quiet_ipv6);
        }
        // Nodes of Kubernetes forward: nothing of the pods may pass by Caracal all the same.
        run(&self.node, || {
            sysctl("ipv4/ip_forward", "1");
            sysctl("ipv6/conf/all/forwarding", "1");
        });
        let (queues, mtu) = (self.options.uplink_queues, self.options.uplink_mtu);
        let uplink = self.options.uplink;
        let (name, up) = (uplink.name(), uplink.up(mtu));
        let mut veths = String::new();
        for veth in uplink.veths() {
            let _ = writeln!(
                veths,
                "link add {veth} mtu {mtu} numrxqueues {queues} numtxqueues {queues} type veth \
                 peer name {veth} mtu {mtu} numrxqueues {queues} numtxqueues {queues} netns {}-wire",
                self.name
            );
        }
        run(&self.node, || {
            batch(&format!(
                "link set lo up\n\
                 {veths}{up}\
                 addr add {NODE4}/24 dev {name}\n\
                 addr add {NODE6}/64 dev {name} nodad\n"
            ));
        });
        run(&self.wire, || {
            batch(&format!(
                "link set lo up\n\
                 {up}\
                 addr add {WIRE4}/24 dev {name}\n\
                 addr add {WIRE6}/64 dev {name} nodad\n\
                 addr add {OUTSIDE4}/32 dev lo\n\
                 addr add {OUTSIDE6}/128 dev lo nodad\n\
                 route add 10.244.0.0/16 via {NODE4}\n\
                 route add fd00:10:244::/48 via {NODE6}\n"
            ));
        });
        run(&self.node, || {
            batch(&format!(
                "route add default via {WIRE4}\nroute add default via {WIRE6}\n"
            ));
        });
    }

    /// Makes pod `index` as Calico's CNI plugin does, with its WorkloadEndpoint.
    pub(crate) fn pod(&mut self, index: u32) -> Pod {
        let pod = self.pod_without_endpoint(index);
        self.write_endpoint(index, true);
        pod
    }

    /// Makes the namespace and the veth only.
    pub(crate) fn pod_without_endpoint(&mut self, index: u32) -> Pod {
        let name = format!("{}-p{index}", self.name);
        let netns = NetNs::create(&name).expect("create a namespace");
        self.namespaces.push(name);
        self.made.insert(index);
        run(&netns, quiet_ipv6);
        let pod = Pod { index, netns };
        self.plug(&pod, None);
        pod
    }

    /// Makes the veth of a pod whose namespace is there, with an interface index when one is given.
    pub(crate) fn plug(&self, pod: &Pod, ifindex: Option<u32>) {
        let (index, queues) = (pod.index, self.options.pod_queues);
        let (veth, mac) = (veth(index), pod_mac(index));
        let number = ifindex.map_or_else(String::new, |ifindex| format!("index {ifindex} "));
        let netns = format!("{}-p{index}", self.name);
        run(&self.node, || {
            batch(&format!(
                "link add {veth} address ee:ee:ee:ee:ee:ee {number}numrxqueues {queues} numtxqueues {queues} \
                 type veth peer name eth0 address {mac} numrxqueues {queues} numtxqueues {queues} netns {netns}\n"
            ));
            for (key, value) in [
                ("ipv4/conf/{}/route_localnet", "1"),
                ("ipv4/neigh/{}/proxy_delay", "0"),
                ("ipv4/conf/{}/proxy_arp", "1"),
                ("ipv4/conf/{}/forwarding", "1"),
                ("ipv6/conf/{}/proxy_ndp", "1"),
                ("ipv6/conf/{}/forwarding", "1"),
                ("ipv6/conf/{}/accept_ra", "0"),
            ] {
                sysctl(&key.replace("{}", &veth), value);
            }
        });
        run(&pod.netns, || {
            batch(&format!(
                "link set lo up\n\
                 link set eth0 up\n\
                 addr add {}/32 dev eth0\n\
                 addr add {}/128 dev eth0 nodad\n\
                 route add 169.254.1.1 dev eth0 scope link\n\
                 route add default via 169.254.1.1 dev eth0\n\
                 route add default via fe80::ecee:eeff:feee:eeee dev eth0\n",
                pod.v4(),
                pod.v6()
            ));
        });
        run(&self.node, || {
            batch(&format!(
                "link set {veth} up\n\
                 addr replace fe80::ecee:eeff:feee:eeee/64 dev {veth} nodad\n\
                 route replace {}/32 dev {veth} scope link\n\
                 route replace {}/128 dev {veth}\n",
                pod.v4(),
                pod.v6()
            ));
        });
    }

    /// Takes the veth of a pod away.
    pub(crate) fn unplug(&self, index: u32) {
        run(&self.node, || batch(&format!("link del {}\n", veth(index))));
    }

    /// Writes the WorkloadEndpoint of pod `index`.
    pub(crate) fn write_endpoint(&self, index: u32, with_mac: bool) {
        let mac = if with_mac {
            format!("  mac: {}\n", pod_mac(index))
        } else {
            String::new()
        };
        let text = format!(
            "apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\n\
             metadata:\n  name: node1-k8s-p{index}-eth0\n  namespace: test\n\
             spec:\n  node: node1\n  orchestrator: k8s\n  pod: p{index}\n  endpoint: eth0\n  interfaceName: {}\n\
             {mac}  ipNetworks:\n    - {}/32\n    - {}/128\n  profiles:\n    - kns.test\n",
            veth(index),
            v4(index),
            v6(index)
        );
        self.resource(&format!("pod-{index}.yaml"), &text);
    }

    /// Takes the WorkloadEndpoint of pod `index` away.
    pub(crate) fn remove_endpoint(&self, index: u32) {
        fs::remove_file(self.dir.join(format!("conf.d/pod-{index}.yaml"))).expect("remove");
    }

    /// Writes a file of resources in one step, as a user's tools do.
    pub(crate) fn resource(&self, file: &str, text: &str) {
        let path = self.dir.join("conf.d").join(file);
        let new = self.dir.join(format!("{file}.new"));
        fs::write(&new, text).expect("write");
        fs::rename(&new, path).expect("rename");
    }

    /// Pods that leave all pools get the node's address: for all pools, before the daemon starts.
    pub(crate) fn masquerade(&self) {
        let path = self.dir.join("conf.d/cluster.yaml");
        let cluster = fs::read_to_string(path).expect("resources");
        let masqueraded = cluster.replace(
            "ipipMode: Never\n",
            "ipipMode: Never\n  natOutgoing: true\n",
        );
        assert_ne!(masqueraded, cluster, "no pool to change");
        self.resource("cluster.yaml", &masqueraded);
    }

    /// Where the daemon's own file is.
    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join("caracal.yaml")
    }

    fn write_config(&self) {
        let mode = self.options.uplink_mode;
        let mode = mode.map_or_else(String::new, |mode| format!("    mode: {mode}\n"));
        let text = format!(
            "nodeName: node1\nuplinks:\n  - interface: {}\n{mode}controlSocket: {}\n{}",
            self.options.uplink.name(),
            self.dir.join("control.sock").display(),
            self.options.settings
        );
        let text = if text.contains("offload:") {
            text
        } else {
            text + crate::SETTINGS
        };
        fs::write(self.config(), text).expect("write");
        let vxlan = if self.options.vxlan {
            "Always"
        } else {
            "Never"
        };
        let mut text = String::new();
        for (name, v4, v6, tunnel) in [
            ("node1", NODE4, NODE6, TUNNEL4),
            ("node2", WIRE4, WIRE6, "10.244.9.1"),
        ] {
            let _ = write!(
                text,
                "---\napiVersion: projectcalico.org/v3\nkind: Node\nmetadata:\n  name: {name}\n\
                 spec:\n  bgp:\n    ipv4Address: {v4}/24\n    ipv6Address: {v6}/64\n"
            );
            if self.options.vxlan {
                let _ = writeln!(text, "  ipv4VXLANTunnelAddr: {tunnel}");
            }
        }
        for (name, node, cidr) in [
            ("node1-v4", "node1", "10.244.1.0/24"),
            ("node1-v6", "node1", "fd00:10:244:1::/116"),
            ("node2-v4", "node2", "10.244.9.0/24"),
        ] {
            let _ = write!(
                text,
                "---\napiVersion: projectcalico.org/v3\nkind: BlockAffinity\nmetadata:\n  name: {name}\n\
                 spec:\n  cidr: {cidr}\n  node: {node}\n  state: confirmed\n"
            );
        }
        for (name, cidr, size, vxlan) in [
            ("v4", "10.244.0.0/16", 24, vxlan),
            ("v6", "fd00:10:244::/48", 116, "Never"),
        ] {
            let _ = write!(
                text,
                "---\napiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: {name}\n\
                 spec:\n  cidr: {cidr}\n  blockSize: {size}\n  vxlanMode: {vxlan}\n  ipipMode: Never\n"
            );
        }
        // As Calico's operator sets it; Felix's own default keeps pods from their host.
        text += "---\napiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata:\n  name: default\n\
                 spec:\n  defaultEndpointToHostAction: Accept\n";
        self.resource("cluster.yaml", &text);
    }

    /// What a daemon attached or made and has not taken away: in words, or nothing.
    pub(crate) fn attached(&self) -> Vec<String> {
        let mut found = Vec::new();
        run(&self.node, || {
            for link in json("-d link show") {
                let name = link["ifname"].as_str().unwrap_or_default();
                if link.get("xdp").is_some() {
                    found.push(format!("XDP on {name}"));
                }
                if name.starts_with("caracal0") {
                    found.push(format!("link {name}"));
                }
            }
            for family in ["-4", "-6"] {
                for rule in json(&format!("{family} rule show")) {
                    if rule["priority"] == 100 {
                        found.push(format!("{family} rule 100"));
                    }
                }
            }
        });
        found.extend(self.pins().into_iter().map(|pin| format!("pin {pin}")));
        found
    }

    fn pin_dir(&self) -> PathBuf {
        let inode = self.node.inode().expect("inode");
        PathBuf::from(format!("/sys/fs/bpf/caracal/{inode}"))
    }

    /// Removes the pins of the node's namespace, and their directory.
    pub(crate) fn remove_pins(&self) {
        fs::remove_dir_all(self.pin_dir()).expect("remove pins");
    }

    /// Names of the pins of the node's namespace.
    pub(crate) fn pins(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.pin_dir()) else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    }

    /// `caracal cleanup` on the node: what it says, as JSON.
    pub(crate) fn cleanup(&self) -> std::process::Output {
        run(&self.node, || {
            Command::new(env!("CARGO_BIN_EXE_caracal"))
                .args(["cleanup", "-o", "json", "--socket"])
                .arg(self.dir.join("control.sock"))
                .output()
                .expect("caracal cleanup")
        })
    }

    /// Full name of the namespace of a part.
    pub(crate) fn part(&self, part: &str) -> String {
        format!("{}-{part}", self.name)
    }

    /// One more namespace.
    pub(crate) fn extra(&mut self, part: &str) -> NetNs {
        let name = self.part(part);
        let netns = NetNs::create(&name).expect("create a namespace");
        self.namespaces.push(name);
        run(&netns, quiet_ipv6);
        netns
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Daemons are gone: they are dropped before their lab.
        let _ = self.cleanup();
        for name in &self.namespaces {
            let _ = NetNs::delete(name);
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Runs `work` in a namespace.
pub(crate) fn run<T: Send>(netns: &NetNs, work: impl FnOnce() -> T + Send) -> T {
    netns.run(work).expect("enter the namespace")
}

/// Writes a setting below `/proc/sys/net`.
pub(crate) fn sysctl(key: &str, value: &str) {
    let path = format!("/proc/sys/net/{key}");
    fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
}

/// Links without duplicate address detection, which would hold addresses back for a second.
fn quiet_ipv6() {
    for scope in ["all", "default"] {
        sysctl(&format!("ipv4/conf/{scope}/rp_filter"), "0");
        sysctl(&format!("ipv6/conf/{scope}/accept_dad"), "0");
        sysctl(&format!("ipv6/conf/{scope}/accept_ra"), "0");
    }
}

/// Runs `ip ARGUMENTS` in the calling thread's namespace; it must succeed.
pub(crate) fn ip(arguments: &str) -> String {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .expect("iproute2");
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Feeds `ip -batch` with lines.
pub(crate) fn batch(lines: &str) {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("iproute2");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(lines.as_bytes()).expect("write to ip");
    drop(stdin);
    let output = child.wait_with_output().expect("wait for ip");
    assert!(
        output.status.success(),
        "{lines}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// What `ip -j ARGUMENTS` prints.
pub(crate) fn json(arguments: &str) -> Vec<Value> {
    let text = ip(&format!("-j {arguments}"));
    if text.trim().is_empty() {
        return Vec::new();
    }
    serde_json::from_str(&text).expect("JSON")
}
